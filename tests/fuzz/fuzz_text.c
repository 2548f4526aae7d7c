/* Any bytes as JSON Lines, UTF-8 and the subject of a pre-token pattern. */
#include <stddef.h>
#include <stdint.h>

#include "text/json.h"
#include "text/regex.h"
#include "text/utf8.h"

static ew_status count(const char *piece, size_t size, bool is_match, void *ctx)
{
    (void)piece;
    (void)is_match;
    *(size_t *)ctx += size;
    return EW_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ew_regex *regex;
    static ew_regex_match *match;
    ew_error err = EW_ERROR_INIT;
    if (regex == NULL) {
        EW_ASSERT(ew_regex_new("'s| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", &regex, &err) == EW_OK);
        EW_ASSERT(ew_regex_match_new(regex, &match, &err) == EW_OK);
    }
    EW_AUTO_BUF clean = {0};
    ew_utf8_sanitize(data, size, &clean);
    EW_ASSERT(ew_utf8_valid(ew_buf_str(&clean), clean.size));
    EW_ASSERT(!ew_utf8_valid(data, size) || clean.size == size);
    size_t n = 0;
    ew_status st = ew_regex_split(match, ew_buf_str(&clean), clean.size, true, count, &n, &err);
    EW_ASSERT(st == EW_OK && n == clean.size);

    EW_AUTO(ew_jsonl) r = NULL;
    EW_ASSERT(ew_jsonl_open_mem("f", data, size, &r, &err) == EW_OK);
    for (;;) {
        EW_AUTO_JSON j = NULL;
        st = ew_jsonl_next(r, &j, &err);
        if (st == EW_OK && j == NULL) {
            break;
        }
        if (j != NULL) {
            EW_AUTO_BUF out = {0};
            EW_AUTO_JSON back = NULL;
            EW_ASSERT(ew_json_dump(j, EW_JSON_SORTED, &out, &err) == EW_OK);
            EW_ASSERT(ew_json_load("f", ew_buf_str(&out), out.size, &back, &err) == EW_OK);
            EW_ASSERT(json_equal(j, back) == 1);
        }
    }
    return 0;
}

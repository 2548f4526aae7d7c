#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"

#define MATCH_LIMIT ((size_t)10000000)
#define DEPTH_LIMIT 100000u
#define HEAP_LIMIT_KIB (64u * 1024)
#define JIT_STACK_MAX (8u * 1024 * 1024)
#define PATTERN_MAX 65536

struct ew_regex {
    pcre2_code *code;
    unsigned n_groups;
};

struct ew_regex_match {
    const pcre2_code *code; /* the regex's */
    pcre2_match_data *data;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack; /* NULL without JIT */
    int n_pairs;            /* of the last match, 0 = none */
};

ew_status ew_regex_new(const char *pattern, ew_regex **ret_regex, ew_error *reterr)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    size_t size = strlen(pattern);
    if (size > PATTERN_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "a pattern of %zu bytes, the limit is %d", size, PATTERN_MAX);
    }
    EW_AUTO(ew_regex) r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a regular expression");
    }
    /* NEVER_BACKSLASH_C: a match may not end within a code point. */
    r->code =
        pcre2_compile((PCRE2_SPTR)pattern, size, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (r->code == NULL) {
        char text[128];
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof(text));
        return ew_fail(reterr, EW_EINVAL, "regular expression '%.100s': %s at offset %zu", pattern, text,
                       (size_t)offset);
    }
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it matching is slower, not different */
    uint32_t n = 0;
    (void)pcre2_pattern_info(r->code, PCRE2_INFO_CAPTURECOUNT, &n);
    r->n_groups = n;
    *ret_regex = r;
    r = NULL;
    return EW_OK;
}

void ew_regex_free(ew_regex **r)
{
    if (*r != NULL) {
        pcre2_code_free((*r)->code);
        ew_free(*r);
        *r = NULL;
    }
}

unsigned ew_regex_groups(const ew_regex *r)
{
    return r->n_groups;
}

ew_status ew_regex_match_new(const ew_regex *r, ew_regex_match **ret_match, ew_error *reterr)
{
    EW_AUTO(ew_regex_match) m = ew_calloc(1, sizeof(*m));
    if (m != NULL) {
        m->code = r->code;
        m->data = pcre2_match_data_create_from_pattern(r->code, NULL);
        m->limits = pcre2_match_context_create(NULL);
    }
    if (m == NULL || m->data == NULL || m->limits == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a regular expression");
    }
    (void)pcre2_set_depth_limit(m->limits, DEPTH_LIMIT);
    (void)pcre2_set_heap_limit(m->limits, HEAP_LIMIT_KIB);
    m->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, NULL);
    if (m->stack != NULL) {
        pcre2_jit_stack_assign(m->limits, NULL, m->stack);
    }
    *ret_match = m;
    m = NULL;
    return EW_OK;
}

void ew_regex_match_free(ew_regex_match **match)
{
    ew_regex_match *m = *match;
    if (m != NULL) {
        pcre2_match_data_free(m->data);
        pcre2_match_context_free(m->limits);
        pcre2_jit_stack_free(m->stack);
        ew_free(m);
        *match = NULL;
    }
}

ew_status ew_regex_find(ew_regex_match *m, const char *s, size_t size, size_t start, size_t *ret_begin, size_t *ret_end,
                        ew_error *reterr)
{
    m->n_pairs = 0;
    if (start > size) {
        return EW_ENOENT;
    }
    /* One greedy repeat may have to give back the whole text, once. */
    (void)pcre2_set_match_limit(m->limits, (uint32_t)EW_MIN(MATCH_LIMIT + size * 8, (size_t)UINT32_MAX));
    int rc = pcre2_match(m->code, (PCRE2_SPTR)(size > 0 ? s : ""), size, start, PCRE2_NO_UTF_CHECK, m->data, m->limits);
    if (rc == PCRE2_ERROR_NOMATCH) {
        return EW_ENOENT;
    }
    if (rc <= 0) {
        char text[128] = "";
        (void)pcre2_get_error_message(rc, (PCRE2_UCHAR *)text, sizeof(text));
        return ew_fail(reterr, rc == PCRE2_ERROR_NOMEMORY ? EW_ENOMEM : EW_ELIMIT, "regular expression gave up: %s",
                       text);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(m->data);
    if (pair[0] > pair[1]) { /* \K in a lookahead can do this */
        return ew_fail(reterr, EW_EINVAL, "regular expression: a match ends before it begins");
    }
    m->n_pairs = rc;
    *ret_begin = pair[0];
    *ret_end = pair[1];
    return EW_OK;
}

bool ew_regex_group(const ew_regex_match *m, unsigned i, size_t *ret_begin, size_t *ret_end)
{
    const PCRE2_SIZE *pairs = pcre2_get_ovector_pointer(m->data);
    if ((int)i >= m->n_pairs || pairs[2 * (size_t)i] == PCRE2_UNSET) {
        return false;
    }
    *ret_begin = pairs[2 * (size_t)i];
    *ret_end = pairs[2 * (size_t)i + 1];
    return true;
}

ew_status ew_regex_split(ew_regex_match *m, const char *s, size_t size, bool gaps, ew_regex_piece_fn fn, void *ctx,
                         ew_error *reterr)
{
    size_t done = 0;  /* handed out up to here */
    size_t start = 0; /* search from here */
    while (start < size) {
        size_t begin = 0, end = 0;
        ew_status st = ew_regex_find(m, s, size, start, &begin, &end, reterr);
        if (st == EW_ENOENT) {
            break;
        }
        EW_TRY(st);
        if (end <= done || end == begin) { /* nothing new: go on one code point further */
            start = EW_MAX(start, end);
            if (start < size) {
                start += ew_utf8_next(s + start, size - start, NULL);
            }
            continue;
        }
        begin = EW_MAX(begin, done);
        if (gaps && begin > done) {
            EW_TRY(fn(s + done, begin - done, false, ctx));
        }
        EW_TRY(fn(s + begin, end - begin, true, ctx));
        done = end;
        start = end;
    }
    return gaps && done < size ? fn(s + done, size - done, false, ctx) : EW_OK;
}

/* Templates of every family and a snippet for every construct against jinja2 (make.py, cases.jsonl). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "chat/chat.h"
#include "sys/file.h"
#include "text/json.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/chat/"

typedef struct tally {
    size_t cases, wrong;
} tally;

static ew_status render(const json_t *c, ew_chat_text *out, ew_error *err)
{
    char path[512];
    EW_AUTO_BUF source = {0};
    EW_AUTO(ew_chat_template) t = NULL;
    const char *file = json_string_value(json_object_get(c, "file"));
    const struct tm now = {
        .tm_year = 124, .tm_mon = 6, .tm_mday = 4, .tm_hour = 13, .tm_min = 5, .tm_wday = 4, .tm_yday = 185};
    const ew_chat_render_opt opt = {.add_generation_prompt = json_is_true(json_object_get(c, "prompt")),
                                    .bos_token = "<s>",
                                    .eos_token = "</s>",
                                    .vars = json_object_get(c, "vars"),
                                    .now = &now};
    if (file != NULL) {
        (void)snprintf(path, sizeof(path), DIR "templates/%s", file);
        assert_int_equal(ew_file_read(path, 1 << 20, &source, err), EW_OK);
    } else {
        const json_t *text = json_object_get(c, "template");
        ew_buf_add(&source, json_string_value(text), json_string_length(text));
    }
    EW_TRY(ew_chat_template_new(ew_buf_str(&source), source.size, &t, err));
    return ew_chat_render_json(t, json_object_get(c, "messages"), &opt, out, err);
}

static void one_case(const json_t *c, tally *n)
{
    EW_AUTO_CHAT_TEXT out = {0};
    ew_error err = EW_ERROR_INIT;
    const json_t *want = json_object_get(c, "text");
    ew_status st = render(c, &out, &err);
    bool same = want == NULL ? st != EW_OK
                             : st == EW_OK && out.text.size == json_string_length(want) &&
                                   memcmp(ew_buf_str(&out.text), json_string_value(want), out.text.size) == 0;
    n->cases++;
    if (!same) {
        n->wrong++;
        const char *file = json_string_value(json_object_get(c, "file"));
        print_error("%s %s: %s\n--- want\n%s\n--- got\n%s\n", file != NULL ? file : "",
                    json_string_value(json_object_get(c, "name")), st == EW_OK ? "" : err.msg,
                    want != NULL ? json_string_value(want) : "(an error)", ew_buf_str(&out.text));
    }
}

static void every_case_renders_as_in_jinja(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) r = NULL;
    tally n = {0};
    assert_int_equal(ew_jsonl_open(DIR "cases.jsonl", &r, &err), EW_OK);
    for (;;) {
        EW_AUTO_JSON c = NULL;
        assert_int_equal(ew_jsonl_next(r, &c, &err), EW_OK);
        if (c == NULL) {
            break;
        }
        one_case(c, &n);
    }
    assert_true(n.cases > 500);
    assert_int_equal(n.wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_case_renders_as_in_jinja)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "text/regex.h"

static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static ew_status collect(const char *piece, size_t size, bool is_match, void *ctx)
{
    ew_buf *out = ctx;
    ew_buf_addc(out, is_match ? '[' : '<');
    ew_buf_add(out, piece, size);
    ew_buf_addc(out, is_match ? ']' : '>');
    return size == 4 && memcmp(piece, "stop", 4) == 0 ? EW_ECANCELLED : EW_OK;
}

static void assert_split(const char *pattern, const char *text, bool gaps, const char *expected)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_regex) r = NULL;
    EW_AUTO(ew_regex_match) m = NULL;
    EW_AUTO_BUF out = {0};
    assert_ok(ew_regex_new(pattern, &r, &err), &err);
    assert_ok(ew_regex_match_new(r, &m, &err), &err);
    assert_ok(ew_regex_split(m, text, strlen(text), gaps, collect, &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), expected);
}

static void pre_token_patterns_split_as_intended(void **state)
{
    (void)state;
    assert_split(gpt2, "Hello world's  12\xC3\xA4!", true, "[Hello][ world]['s][ ][ 12][\xC3\xA4][!]");
    assert_split("\\d+", "a1b22c", true, "<a>[1]<b>[22]<c>");
    assert_split("\\d+", "a1b22c", false, "[1][22]");
    assert_split("x*", "axb", true, "<a>[x]<b>");
    assert_split("x*", "\xC3\xA4", true, "<\xC3\xA4>");
    assert_split("(?=b)", "ab", true, "<ab>");
    assert_split("a", "", true, "");
}

static void groups_are_told(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_regex) r = NULL;
    EW_AUTO(ew_regex_match) m = NULL;
    size_t a = 0, b = 0;
    assert_ok(ew_regex_new("(\\w+)=(\\d+)?(x)?", &r, &err), &err);
    assert_int_equal(ew_regex_groups(r), 3);
    assert_ok(ew_regex_match_new(r, &m, &err), &err);
    assert_ok(ew_regex_find(m, "  ab=12", 7, 0, &a, &b, &err), &err);
    assert_true(a == 2 && b == 7);
    assert_true(ew_regex_group(m, 1, &a, &b) && a == 2 && b == 4);
    assert_true(ew_regex_group(m, 2, &a, &b) && a == 5 && b == 7);
    assert_false(ew_regex_group(m, 3, &a, &b));
    assert_int_equal(ew_regex_find(m, "nothing", 7, 0, &a, &b, &err), EW_ENOENT);
    assert_int_equal(ew_regex_find(m, "a=1", 3, 4, &a, &b, &err), EW_ENOENT);
}

static void wrong_patterns_are_named_and_evil_ones_give_up(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_regex) r = NULL;
    EW_AUTO(ew_regex_match) m = NULL;
    assert_fails(EW_EINVAL, ew_regex_new("(a", &r, &err), &err, "at offset 2");
    assert_ok(ew_regex_new("^(a+)+$", &r, &err), &err);
    assert_ok(ew_regex_match_new(r, &m, &err), &err);
    char text[64];
    memset(text, 'a', sizeof(text));
    text[63] = '!';
    size_t a, b;
    assert_fails(EW_ELIMIT, ew_regex_find(m, text, sizeof(text), 0, &a, &b, &err), &err, "gave up");
}

static void a_failing_piece_stops_the_split(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_regex) r = NULL;
    EW_AUTO(ew_regex_match) m = NULL;
    EW_AUTO_BUF out = {0};
    assert_ok(ew_regex_new("\\w+", &r, &err), &err);
    assert_ok(ew_regex_match_new(r, &m, &err), &err);
    assert_int_equal(ew_regex_split(m, "go stop go", 10, false, collect, &out, &err), EW_ECANCELLED);
    assert_string_equal(ew_buf_str(&out), "[go][stop]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pre_token_patterns_split_as_intended),
        cmocka_unit_test(groups_are_told),
        cmocka_unit_test(wrong_patterns_are_named_and_evil_ones_give_up),
        cmocka_unit_test(a_failing_piece_stops_the_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

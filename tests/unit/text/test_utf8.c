#include "test.h"

#include <string.h>

#include "text/utf8.h"

static void decode_and_encode_are_inverse_for_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        char b[EW_UTF8_MAX];
        uint32_t back = 0;
        if (cp >= 0xD800 && cp <= 0xDFFF) {
            continue;
        }
        size_t n = ew_utf8_encode(cp, b);
        if (ew_utf8_length((unsigned char)b[0]) != n || ew_utf8_decode(b, n, &back) != n || back != cp ||
            ew_utf8_decode(b, n - 1, NULL) != 0) {
            fail_msg("U+%04X", cp);
        }
    }
}

static void malformed_text_is_seen_where_it_begins(void **state)
{
    (void)state;
    static const char *const bad[] = {"\x80",
                                      "\xC0\x80",
                                      "\xC1\xBF",
                                      "\xE0\x9F\xBF",
                                      "\xED\xA0\x80",
                                      "\xF0\x8F\x80\x80",
                                      "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80",
                                      "\xFF",
                                      "\xE2\x82",
                                      "\xC3"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        char text[64];
        strcpy(text, "0123456789");
        strcat(text, bad[i]);
        assert_int_equal(ew_utf8_valid_prefix(text, strlen(text)), 10);
        assert_false(ew_utf8_valid(text, strlen(text)));
        assert_int_equal(ew_utf8_next(bad[i], strlen(bad[i]), NULL), 1);
    }
    assert_true(ew_utf8_valid("", 0));
    assert_true(ew_utf8_valid("a\0b", 3));
}

static void sanitizing_replaces_maximal_bad_parts(void **state)
{
    (void)state;
    /* Unicode 15, table 3-8: 61 F1 80 80 E1 80 C2 62 80 63 80 BF 64 */
    const char *in = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
    EW_AUTO_BUF out = {0};
    ew_utf8_sanitize(in, strlen(in), &out);
    assert_string_equal(ew_buf_str(&out), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                          "b\xEF\xBF\xBD"
                                          "c\xEF\xBF\xBD\xEF\xBF\xBD"
                                          "d");
    assert_int_equal(ew_utf8_count("a\xC3\xA4\x80", 4), 3);
}

static void a_cut_code_point_is_incomplete(void **state)
{
    (void)state;
    const char *s = "a\xF0\x9F\x98\x80";
    assert_false(ew_utf8_incomplete(s, 1));
    assert_true(ew_utf8_incomplete(s, 2));
    assert_true(ew_utf8_incomplete(s, 3));
    assert_true(ew_utf8_incomplete(s, 4));
    assert_false(ew_utf8_incomplete(s, 5));
    assert_false(ew_utf8_incomplete("\x80\x80", 2));
    assert_false(ew_utf8_incomplete("\xED\xA0", 2)); /* would be a surrogate: nothing completes it */
    assert_false(ew_utf8_incomplete("", 0));
}

static void forms_and_classes_are_unicodes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF out = {0};
    assert_ok(ew_utf8_normalize("e\xCC\x81", 3, EW_UTF8_NFC, &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "\xC3\xA9");
    ew_buf_clear(&out);
    assert_ok(ew_utf8_normalize("\xEF\xAC\x81", 3, EW_UTF8_NFKC, &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "fi");
    assert_fails(EW_ECORRUPT, ew_utf8_normalize("\xFF", 1, EW_UTF8_NFC, &out, &err), &err, "normalise");
    ew_buf_clear(&out);
    ew_utf8_lower("\xC3\x84-B\xFF", 5, &out);
    assert_string_equal(ew_buf_str(&out), "\xC3\xA4-b\xFF");
    assert_true(ew_utf8_is_letter(0xE4) && ew_utf8_is_number('7') && ew_utf8_is_space(0x3000));
    assert_true(ew_utf8_is_space('\n') && ew_utf8_is_punct('!') && ew_utf8_is_punct('$'));
    assert_false(ew_utf8_is_letter('1') || ew_utf8_is_space('a') || ew_utf8_is_letter(0x110000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_and_encode_are_inverse_for_every_code_point),
        cmocka_unit_test(malformed_text_is_seen_where_it_begins),
        cmocka_unit_test(sanitizing_replaces_maximal_bad_parts),
        cmocka_unit_test(a_cut_code_point_is_incomplete),
        cmocka_unit_test(forms_and_classes_are_unicodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

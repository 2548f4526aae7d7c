#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "text/json.h"

static json_t *parse(const char *text)
{
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    assert_ok(ew_json_load("t", text, strlen(text), &j, &err), &err);
    return j;
}

static void errors_name_file_line_and_column(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    const char *path = ew_test_text("bad.json", "{\n  \"a\": 1,\n  oops\n}");
    assert_fails(EW_ECORRUPT, ew_json_load_file(path, 0, &j, &err), &err, "bad.json:3:6: not valid JSON");
    assert_fails(EW_ELIMIT, ew_json_load_file(path, 5, &j, &err), &err, "limit is 5");
    assert_fails(EW_ENOENT, ew_json_load_file("/nowhere.json", 0, &j, &err), &err, "/nowhere.json");
    assert_fails(EW_EINVAL, ew_json_load_file(ew_test_tmpdir(), 0, &j, &err), &err, "regular");
    assert_fails(EW_ECORRUPT, ew_json_load("x", "{\"a\":1,\"a\":2}", 13, &j, &err), &err, "duplicate");
    assert_fails(EW_ECORRUPT, ew_json_load("x", "", 0, &j, &err), &err, "x:1");
    assert_fails(EW_ECORRUPT, ew_json_load("x", "1e999", 5, &j, &err), &err, "not valid");
    char *deep = malloc(100000);
    memset(deep, '[', 100000);
    assert_fails(EW_ECORRUPT, ew_json_load("x", deep, 100000, &j, &err), &err, "depth");
    free(deep);
    assert_null(j);
}

static void getters_check_type_and_range(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON j = parse("{\"s\":\"x\",\"i\":9007199254740993,\"f\":2.5,\"b\":true,\"n\":null,\"o\":{},\"a\":[],"
                           "\"z\":\"a\\u0000b\"}");
    const char *s = "kept";
    int64_t i = 0;
    double f = 0;
    bool b = false;
    json_t *v = NULL;
    assert_ok(ew_json_get_str(j, "w", "s", &s, &err), &err);
    assert_string_equal(s, "x");
    assert_ok(ew_json_get_i64(j, "w", "i", 0, INT64_MAX, &i, &err), &err);
    assert_true(i == 9007199254740993);
    assert_ok(ew_json_get_f64(j, "w", "f", &f, &err), &err);
    assert_true(f == 2.5);
    assert_ok(ew_json_get_bool(j, "w", "b", &b, &err), &err);
    assert_true(b);
    assert_ok(ew_json_get_obj(j, "w", "o", &v, &err), &err);
    assert_ok(ew_json_get_arr(j, "w", "a", &v, &err), &err);
    assert_fails(EW_ECORRUPT, ew_json_get_str(j, "w", "i", &s, &err), &err, "w: 'i' should be a string, is an integer");
    assert_fails(EW_ECORRUPT, ew_json_get_str(j, "w", "q", &s, &err), &err, "w: 'q' is missing");
    assert_fails(EW_ECORRUPT, ew_json_get_str(j, "w", "z", &s, &err), &err, "NUL");
    assert_fails(EW_ECORRUPT, ew_json_get_i64(j, NULL, "i", 0, 10, &i, &err), &err, "'i' is 9007199254740993");
    assert_fails(EW_ECORRUPT, ew_json_get_i64(j, "w", "f", 0, 10, &i, &err), &err, "is a number");
    assert_fails(EW_ECORRUPT, ew_json_get_arr(j, "w", "n", &v, &err), &err, "is null");
    assert_fails(EW_ECORRUPT, ew_json_get_str(json_object_get(j, "a"), "w", "s", &s, &err), &err, "is a list");
    assert_ok(ew_json_opt_i64(j, "w", "q", 0, 10, &i, &err), &err);
    assert_ok(ew_json_opt_str(j, "w", "n", &s, &err), &err);
    assert_fails(EW_ECORRUPT, ew_json_opt_bool(j, "w", "s", &b, &err), &err, "true or false");
}

static void dumping_is_exact_and_sorted_on_request(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *text = "{\"b\":0.1,\"a\":[1,\"\xC3\xA4\\\"\",null]}";
    EW_AUTO_JSON j = parse(text);
    EW_AUTO_BUF out = {0};
    assert_ok(ew_json_dump(j, 0, &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "{\"b\":0.10000000000000001,\"a\":[1,\"\xC3\xA4\\\"\",null]}");
    ew_buf_clear(&out);
    assert_ok(ew_json_dump(j, EW_JSON_SORTED | EW_JSON_ASCII, &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "{\"a\":[1,\"\\u00E4\\\"\",null],\"b\":0.10000000000000001}");
    ew_buf_clear(&out);
    ew_json_quote("a\"\\\n\x01\xC3\xA4\xFFz", 9, &out);
    assert_string_equal(ew_buf_str(&out), "\"a\\\"\\\\\\n\\u0001\xC3\xA4\xEF\xBF\xBDz\"");
}

static void lines_are_read_one_by_one_and_a_bad_one_is_named(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    size_t size = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 3;
    char *text = malloc(size + 200);
    size_t n = 0;
    n += (size_t)sprintf(text + n, "\xEF\xBB\xBF{\"a\":1}\n\n  \r\n{bad}\n\"");
    memset(text + n, 'x', size); /* a line that is too long */
    n += size;
    n += (size_t)sprintf(text + n, "\"\n[3]\r\n4");
    const char *path = ew_test_file("x.jsonl", text, n);
    for (int mem = 0; mem < 2; mem++) {
        EW_AUTO(ew_jsonl) r = NULL;
        json_t *j = NULL;
        assert_ok(mem ? ew_jsonl_open_mem("x.jsonl", text, n, &r, &err) : ew_jsonl_open(path, &r, &err), &err);
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        assert_int_equal(json_integer_value(json_object_get(j, "a")), 1);
        json_decref(j);
        assert_int_equal(ew_jsonl_line(r), 1);
        assert_fails(EW_ECORRUPT, ew_jsonl_next(r, &j, &err), &err, "x.jsonl:4:");
        assert_fails(EW_ELIMIT, ew_jsonl_next(r, &j, &err), &err, "x.jsonl:5: the line has more than");
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        assert_true(json_is_array(j));
        json_decref(j);
        assert_int_equal(ew_jsonl_line(r), 6);
        assert_non_null(strstr(ew_jsonl_where(r), "x.jsonl:6"));
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        assert_int_equal(json_integer_value(j), 4);
        json_decref(j);
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        assert_null(j);
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        assert_null(j);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_file_line_and_column),
        cmocka_unit_test(getters_check_type_and_range),
        cmocka_unit_test(dumping_is_exact_and_sorted_on_request),
        cmocka_unit_test(lines_are_read_one_by_one_and_a_bad_one_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

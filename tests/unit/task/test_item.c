#include <string.h>

#include "base/limits.h"
#include "task/item.h"
#include "test.h"

static void check(const char *line, const char *input, const char *output)
{
    ew_error err = EW_ERROR_INIT;
    ew_item item = {0};
    assert_ok(ew_item_parse("f:1", line, strlen(line), &item, &err), &err);
    assert_string_equal(item.input, input);
    assert_string_equal(item.output, output);
    ew_item_release(&item);
}

static void item_parse_accepts_the_common_forms(void **state)
{
    (void)state;
    check("{\"id\":\"7\",\"input\":\"a\",\"output\":\"b\"}", "a", "b");
    check("{\"instruction\":\"do\",\"input\":\"this\",\"output\":\"b\"}", "do\nthis", "b");
    check("{\"instruction\":\"do\",\"input\":\"\",\"output\":\"b\"}", "do", "b");
    check("{\"instruction\":\"do\",\"response\":\"b\"}", "do", "b");
    check("{\"prompt\":\"p\",\"completion\":\" c\\n\"}", "p", "c");
    check("{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"d\"}", "p", "c");
    check("{\"question\":\"q\",\"answer\":\"a\",\"context\":\"c\"}", "c\nq", "a");
    check("{\"question\":\"q\",\"answers\":[\"a\",\"b\"]}", "q", "a");
    check("{\"text\":\"t\",\"label\":3}", "t", "3");
    check("{\"text\":\"t\",\"label\":true}", "t", "true");
    check("{\"sentence\":\"t\",\"label\":\"pos\"}", "t", "pos");
    check("{\"id\":1,\"text\":\"t\",\"score\":\"4\"}", "t", "4");
    check("{\"id\":1,\"abstract\":\"a\",\"title\":\"t\"}", "a", "t");
    check("{\"id\":1,\"description\":\"d\",\"tag\":\"g\"}", "d", "g");
    check("{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}", "u",
          "a");
    check("{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},"
          "{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"bye\"}]}",
          "system: s\nuser: u", "a");
    check("{\"conversations\":[{\"from\":\"human\",\"value\":\"u\"},{\"from\":\"gpt\",\"value\":\"a\"}]}", "u", "a");
}

static void check_error(const char *line, ew_status code, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    ew_item item = {0};
    assert_fails(code, ew_item_parse("f:1", line, strlen(line), &item, &err), &err, text);
    assert_null(item.id);
}

static void item_parse_says_what_is_wrong(void **state)
{
    (void)state;
    check_error("[1]", EW_ECORRUPT, "should be an object");
    check_error("{\"foo\":1,\"bar\":2}", EW_ECORRUPT, "found: foo, bar");
    check_error("{}", EW_ECORRUPT, "found: none");
    check_error("{\"input\":\"a\"", EW_ECORRUPT, "f:1");
    check_error("{\"input\":\"  \",\"output\":\"b\"}", EW_ECORRUPT, "the input is empty");
    check_error("{\"input\":\"a\",\"output\":\"\"}", EW_ECORRUPT, "the output is empty");
    check_error("{\"input\":{\"x\":1},\"output\":\"b\"}", EW_ECORRUPT, "no known pair");
    check_error("{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}", EW_ECORRUPT, "no known pair");
    check_error("{\"input\":\"a\",\"output\":\"b\",\"order\":-1}", EW_ECORRUPT, "order");
}

static void items_read_numbers_lines_and_drops_repetitions(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *text = "\xEF\xBB\xBF{\"input\":\"a\",\"output\":\"1\"}\r\n\n"
                       "{\"input\":\"a\",\"output\":\"1\"}\n"
                       "{\"id\":\"x\",\"input\":\"b\",\"output\":\"2\"}\n"
                       "{\"id\":\"x\",\"input\":\"c\",\"output\":\"3\"}\n"
                       "{\"id\":\"x\",\"user\":\"other\",\"input\":\"c\",\"output\":\"3\"}";
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_items_read_mem("f", text, strlen(text), &items, &err), &err);
    assert_int_equal(items.n, 4);
    assert_int_equal(strlen(items.item[0].id), 16);
    assert_string_equal(items.item[1].id, "x");
    assert_true(strncmp(items.item[2].id, "x~", 2) == 0 && strlen(items.item[2].id) == 10);
    assert_string_equal(items.item[3].user, "other");
    assert_true(items.item[1].order < items.item[2].order);

    const char *bad = "{\"input\":\"a\",\"output\":\"1\"}\n\n{\"input\":1";
    EW_AUTO_ITEMS none = {0};
    assert_fails(EW_ECORRUPT, ew_items_read_mem("f", bad, strlen(bad), &none, &err), &err, "f:3");
    assert_int_equal(none.n, 0);
}

static void item_write_reads_back(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char id[] = "q\"\n", user[] = "u", input[] = "line one\nline \"two\" \xC3\xA9", output[] = "\\ok";
    const ew_item item = {id, user, input, output, 12};
    EW_AUTO_BUF text = {0};
    ew_item_write(&item, &text);
    assert_int_equal(text.data[text.size - 1], '\n');
    assert_null(memchr(text.data, '\n', text.size - 1));
    ew_item back = {0};
    assert_ok(ew_item_parse("f", text.data, text.size - 1, &back, &err), &err);
    assert_string_equal(back.id, id);
    assert_string_equal(back.user, user);
    assert_string_equal(back.input, input);
    assert_string_equal(back.output, output);
    assert_int_equal(back.order, 12);
    char a[65], b[65];
    ew_item_content_hash(&item, a);
    ew_item_content_hash(&back, b);
    assert_string_equal(a, b);
    ew_item_release(&back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(item_parse_accepts_the_common_forms),
        cmocka_unit_test(item_parse_says_what_is_wrong),
        cmocka_unit_test(items_read_numbers_lines_and_drops_repetitions),
        cmocka_unit_test(item_write_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

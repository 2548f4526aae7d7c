#include <stdio.h>
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "sys/file.h"
#include "task/import.h"

static void read_ok(const char *text, const ew_import_opt *opt, ew_items *items, ew_import_report *report)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_import_mem("f", text, strlen(text), opt, items, report, &err), &err);
}

static void read_fails(const char *text, const ew_import_opt *opt, ew_status code, const char *words)
{
    ew_error err = EW_ERROR_INIT;
    ew_items items = {0};
    assert_fails(code, ew_import_mem("f", text, strlen(text), opt, &items, NULL, &err), &err, words);
    assert_null(items.item);
}

static void check_item(const ew_items *items, size_t i, const char *input, const char *output)
{
    assert_true(i < items->n);
    assert_string_equal(items->item[i].input, input);
    assert_string_equal(items->item[i].output, output);
    assert_int_equal(items->item[i].order, i);
}

#define CHAT "{\"id\":\"c\"," CHAT_TURNS "}"

#define CHAT_TURNS                                                                                                     \
    "\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"                                                   \
    "{\"role\":\"user\",\"content\":\"One?\"},{\"role\":\"assistant\",\"content\":\"1\"},"                             \
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"And \"},{\"type\":\"text\",\"text\":\"two?\"}]},"   \
    "{\"role\":\"assistant\",\"content\":\"2\"},{\"role\":\"user\",\"content\":\"Thanks\"}]"

static void a_chat_gives_its_last_answer(void **state)
{
    (void)state;
    EW_AUTO_ITEMS items = {0};
    ew_import_report report;
    read_ok(CHAT "\n", NULL, &items, &report);
    assert_int_equal(items.n, 1);
    check_item(&items, 0, "system: Be brief.\nuser: One?\nassistant: 1\nuser: And two?", "2");
    assert_int_equal(report.format, EW_IMPORT_CHAT);
    assert_false(report.is_array);
}

static void a_chat_gives_each_answer_when_asked_to(void **state)
{
    (void)state;
    EW_AUTO_ITEMS items = {0};
    const ew_import_opt opt = {.each_turn = true};
    read_ok(CHAT, &opt, &items, NULL);
    assert_int_equal(items.n, 2);
    check_item(&items, 0, "system: Be brief.\nuser: One?", "1");
    check_item(&items, 1, "system: Be brief.\nuser: One?\nassistant: 1\nuser: And two?", "2");
    assert_string_equal(items.item[0].id, "c");
    assert_string_equal(items.item[1].id, "c#2");
}

static void sharegpt_as_an_array_is_read_like_lines(void **state)
{
    (void)state;
    EW_AUTO_ITEMS items = {0};
    ew_import_report report;
    read_ok("\xEF\xBB\xBF[\n {\"id\": \"a\", \"conversations\": [{\"from\": \"gpt\", \"value\": \"Hello\"},\n"
            "   {\"from\": \"human\", \"value\": \"q ] } , \\\" [\"}, {\"from\": \"gpt\", \"value\": \"A\"}]},\n"
            " {\"conversations\": [{\"from\": \"human\", \"value\": \"R\"}, {\"from\": \"chatgpt\", \"value\": "
            "\"S\"}]}\n]\n",
            NULL, &items, &report);
    assert_int_equal(items.n, 2);
    check_item(&items, 0, "assistant: Hello\nuser: q ] } , \" [", "A");
    check_item(&items, 1, "R", "S");
    assert_int_equal(report.format, EW_IMPORT_SHAREGPT);
    assert_true(report.is_array);
}

static void alpaca_joins_instruction_and_input(void **state)
{
    (void)state;
    EW_AUTO_ITEMS items = {0};
    ew_import_report report;
    read_ok("[{\"instruction\":\"Do\",\"input\":\"this\",\"output\":\"done\"},"
            "{\"instruction\":\"Say\",\"input\":\"\",\"output\":\"hi\"}, {\"instruction\":\"Say\",\"output\":\"ho\"}]",
            NULL, &items, &report);
    assert_int_equal(items.n, 3);
    check_item(&items, 0, "Do\nthis", "done");
    check_item(&items, 1, "Say", "hi");
    check_item(&items, 2, "Say", "ho");
    assert_int_equal(report.format, EW_IMPORT_ALPACA);
}

static void a_lamp_profile_of_one_user_is_a_history(void **state)
{
    static const char file[] =
        "[{\"id\":\"10\",\"input\":\"q\",\"profile\":[{\"id\":\"100\",\"text\":\"A\",\"title\":\"a\"},"
        "{\"id\":\"101\",\"text\":\"B\",\"title\":\"b\"}]},"
        "{\"id\":11,\"input\":\"r\",\"profile\":[{\"id\":\"110\",\"text\":\"C\",\"title\":\"c\"}]}]";
    (void)state;
    EW_AUTO_ITEMS items = {0};
    ew_import_opt opt = {.user = "11"};
    read_ok(file, &opt, &items, NULL);
    assert_int_equal(items.n, 1);
    check_item(&items, 0, "C", "c");
    opt.user = "12";
    read_fails(file, &opt, EW_EINVAL, "no profile of '12'");
    read_fails(file, NULL, EW_EINVAL, "--user");
}

static void own_records_and_mixed_forms_go_on_working(void **state)
{
    (void)state;
    EW_AUTO_ITEMS items = {0};
    ew_import_report report;
    read_ok("{\"input\":\"a\",\"output\":\"b\"}\n\n{\"text\":\"t\",\"label\":3}\n"
            "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"v\"}]}\n"
            "{\"input\":\"a\",\"output\":\"b\"}",
            NULL, &items, &report);
    assert_int_equal(items.n, 3);
    check_item(&items, 0, "a", "b");
    check_item(&items, 1, "t", "3");
    check_item(&items, 2, "u", "v");
    assert_int_equal(report.format, EW_IMPORT_RECORDS);
    assert_int_equal(report.n_records, 4);
    assert_int_equal(report.n_repeated, 1);
}

static void errors_name_the_line_of_the_record(void **state)
{
    (void)state;
    const ew_import_opt chat = {.format = EW_IMPORT_CHAT};
    read_fails("{\"input\":\"a\",\"output\":\"b\"}\n\n{\"input\":\"a\"\n", NULL, EW_ECORRUPT, "f:3");
    read_fails("[{\"input\":\"a\",\"output\":\"b\"},\n{\"input\":\n\"a\"}\n]", NULL, EW_ECORRUPT, "f:2: no known pair");
    read_fails("{\"input\":\"a\",\"output\":\"b\"}\n", &chat, EW_ECORRUPT, "f:1: 'messages' is missing");
    read_fails("{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}", NULL, EW_ECORRUPT, "no turn of the assistant");
    read_fails("{\"messages\":[{\"role\":\"cat\",\"content\":\"u\"}]}", NULL, EW_ECORRUPT,
               "turn 1 has the unknown role 'cat'");
    read_fails("{\"messages\":[{\"role\":\"user\",\"content\":null}]}", NULL, EW_ECORRUPT, "turn 1 has no text");
    read_fails("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", NULL, EW_ECORRUPT,
               "a part that is no text");
    read_fails("{\"messages\":[]}", NULL, EW_ECORRUPT, "0 turns");
    read_fails("{\"instruction\":\"i\",\"input\":\"\",\"output\":\"\"}", NULL, EW_ECORRUPT, "f:1: the output is empty");
    read_fails("input,output\na,b\n", NULL, EW_ECORRUPT, "begins neither with {");
    read_fails("", NULL, EW_EINVAL, "holds no record");
    read_fails("[]", NULL, EW_EINVAL, "holds no record");
    read_fails("[{\"input\":\"a\",\"output\":\"b\"}", NULL, EW_ECORRUPT, "not complete");
    read_fails("[{\"input\":\"a\",\"output\":\"b\"} {\"input\":\"c\",\"output\":\"d\"}]", NULL, EW_ECORRUPT,
               "a comma is missing");
    read_fails("[{\"input\":\"a\",\"output\":\"b\"}] x", NULL, EW_ECORRUPT, "behind the array");
    read_fails("[3]", NULL, EW_ECORRUPT, "should be an object, is an integer");
}

static void count_bad(const char *message, void *ctx)
{
    assert_non_null(strstr(message, "f:"));
    ++*(size_t *)ctx;
}

static void bad_records_are_left_out_when_asked_to(void **state)
{
    (void)state;
    size_t told = 0;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_ITEMS array = {0};
    ew_import_report report;
    const ew_import_opt opt = {.skip_bad = true, .on_bad = count_bad, .ctx = &told};
    read_ok("{\"input\":\"a\",\"output\":\"b\"}\nnonsense\n{\"input\":\"\",\"output\":\"b\"}\n{\"input\":\"c\","
            "\"output\":\"d\"}\n",
            &opt, &items, &report);
    assert_int_equal(items.n, 2);
    check_item(&items, 1, "c", "d");
    assert_int_equal(report.n_bad, 2);
    assert_int_equal(told, 2);
    read_ok("[{\"input\":\"a\",\"output\":\"b\"}, {\"x\": 1}, 7, {\"input\":\"c\",\"output\":\"d\"}]", &opt, &array,
            &report);
    assert_int_equal(array.n, 2);
    assert_int_equal(report.n_bad, 2);
    read_fails("[{\"input\":\"a\",\"output\":\"b\"}] x", &opt, EW_ECORRUPT, "behind the array");
    read_fails("{\"x\":1}\n{\"y\":1}\n", &opt, EW_EINVAL, "none of its 2 records");
    read_fails("[{\"input\":\"a\",\"output\":\"b\"}, {\"input", &opt, EW_ECORRUPT, "f:1: the record does not end");
}

static void long_lines_and_long_conversations_have_limits(void **state)
{
    (void)state;
    EW_AUTO_BUF text = {.max = 64 * EW_MIB};
    EW_AUTO_ITEMS items = {0};
    ew_import_report report;
    const ew_import_opt skip = {.format = EW_IMPORT_RECORDS, .skip_bad = true};
    ew_buf_adds(&text, "{\"input\":\"");
    for (size_t i = 0; i < EW_LIMIT_JSONL_LINE_BYTES; i++) {
        ew_buf_addc(&text, 'x');
    }
    ew_buf_adds(&text, "\",\"output\":\"y\"}\n");
    read_fails(ew_buf_str(&text), NULL, EW_ELIMIT, "f:1: the record is longer than");
    ew_buf_adds(&text, "{\"input\":\"a\",\"output\":\"b\"}\n");
    read_ok(ew_buf_str(&text), &skip, &items, &report);
    assert_int_equal(items.n, 1);
    assert_int_equal(report.n_bad, 1);
    ew_buf_clear(&text);
    ew_items_release(&items);
    ew_buf_adds(&text, "{\"messages\":[");
    for (int i = 0; i < 300; i++) {
        ew_buf_addf(&text, "{\"role\":\"user\",\"content\":\"%0500d\"},{\"role\":\"assistant\",\"content\":\"ok\"}%s",
                    i, i < 299 ? "," : "]}");
    }
    read_ok(ew_buf_str(&text), NULL, &items, &report);
    assert_int_equal(report.n_shortened, 1);
    assert_true(strlen(items.item[0].input) <= EW_LIMIT_IMPORT_CONTEXT_BYTES);
    assert_non_null(strstr(items.item[0].input, "299"));
}

/* What is taken can be written as a line and read again, whatever form it came in. */
static void every_item_fits_a_line_and_its_id_is_short(void **state)
{
    (void)state;
    EW_AUTO_BUF text = {0};
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_ITEMS back = {0};
    EW_AUTO_BUF lines = {0};
    ew_import_report report;
    ew_error err = EW_ERROR_INIT;
    ew_buf_adds(&text, "{\"id\":\"1\",\"profile\":[{\"id\":\"a\",\"input\":\"i\",\"output\":\"o\"},"
                       "{\"id\":\"b\",\"input\":\"");
    for (size_t i = 0; i < EW_LIMIT_JSONL_LINE_BYTES; i++) {
        ew_buf_addc(&text, 'x');
    }
    ew_buf_adds(&text, "\",\"output\":\"o\"}]}\n");
    assert_int_equal(text.status, EW_OK);
    read_fails(ew_buf_str(&text), NULL, EW_ELIMIT, "more than");
    ew_buf_clear(&text);
    ew_buf_adds(&text, "{\"id\":\"");
    for (size_t i = 0; i < 256; i++) {
        ew_buf_addc(&text, 'i');
    }
    ew_buf_adds(&text, "\"," CHAT_TURNS "}\n");
    const ew_import_opt opt = {.each_turn = true};
    read_ok(ew_buf_str(&text), &opt, &items, &report);
    assert_int_equal(items.n, 2);
    assert_int_equal(strlen(items.item[0].id), 256);
    for (size_t i = 0; i < items.n; i++) {
        ew_item_write(&items.item[i], &lines);
    }
    assert_ok(ew_items_read_mem("back", ew_buf_str(&lines), lines.size, &back, &err), &err);
    assert_int_equal(back.n, 2);
}

static void files_are_read_across_chunks(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    EW_AUTO_ITEMS items = {0};
    const char *path = ew_test_path("many.json");
    ew_buf_addc(&text, '[');
    for (int i = 0; i < 4000; i++) {
        ew_buf_addf(&text, "%s\n{\"input\": \"in %d \\\\\", \"output\": \"out %d\"}", i > 0 ? "," : "", i, i);
    }
    ew_buf_adds(&text, "\n]\n");
    assert_ok(ew_file_replace(path, text.data, text.size, 0600, &err), &err);
    assert_ok(ew_import(path, NULL, &items, NULL, &err), &err);
    assert_int_equal(items.n, 4000);
    check_item(&items, 3999, "in 3999 \\", "out 3999");
    assert_fails(EW_ENOENT, ew_import("/nowhere/x", NULL, &items, NULL, &err), &err, "/nowhere/x");
}

static void format_names_are_read_back(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_import_format f;
    for (int i = 0; i < EW_IMPORT_COUNT; i++) {
        assert_ok(ew_import_format_parse(ew_import_format_name((ew_import_format)i), &f, &err), &err);
        assert_int_equal(f, i);
    }
    assert_fails(EW_EINVAL, ew_import_format_parse("csv", &f, &err), &err, "sharegpt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_gives_its_last_answer),
        cmocka_unit_test(a_chat_gives_each_answer_when_asked_to),
        cmocka_unit_test(sharegpt_as_an_array_is_read_like_lines),
        cmocka_unit_test(alpaca_joins_instruction_and_input),
        cmocka_unit_test(a_lamp_profile_of_one_user_is_a_history),
        cmocka_unit_test(own_records_and_mixed_forms_go_on_working),
        cmocka_unit_test(errors_name_the_line_of_the_record),
        cmocka_unit_test(bad_records_are_left_out_when_asked_to),
        cmocka_unit_test(long_lines_and_long_conversations_have_limits),
        cmocka_unit_test(every_item_fits_a_line_and_its_id_is_short),
        cmocka_unit_test(files_are_read_across_chunks),
        cmocka_unit_test(format_names_are_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "sys/term.h"

static void numbers_are_short(void **state)
{
    (void)state;
    char t[32];
    assert_string_equal(ew_str_count(t, sizeof(t), 0), "0");
    assert_string_equal(ew_str_count(t, sizeof(t), 3.25), "3.2");
    assert_string_equal(ew_str_count(t, sizeof(t), 950), "950");
    assert_string_equal(ew_str_count(t, sizeof(t), 999.6), "1.0k");
    assert_string_equal(ew_str_count(t, sizeof(t), 12345), "12.3k");
    assert_string_equal(ew_str_count(t, sizeof(t), 4.5e6), "4.5M");
    assert_string_equal(ew_str_seconds(t, sizeof(t), 0.42), "0.42 s");
    assert_string_equal(ew_str_seconds(t, sizeof(t), 4.26), "4.3 s");
    assert_string_equal(ew_str_seconds(t, sizeof(t), 12.2), "12 s");
    assert_string_equal(ew_str_seconds(t, sizeof(t), 185), "3 min 05 s");
    assert_string_equal(ew_str_seconds(t, sizeof(t), 7800), "2 h 10 min");
    assert_string_equal(ew_str_seconds(t, sizeof(t), (double)NAN), "?");
}

static ew_table *sample(void)
{
    ew_table *t = NULL;
    assert_int_equal(ew_table_new(&t), EW_OK);
    ew_table_column(t, "device", EW_ALIGN_LEFT);
    ew_table_column(t, "score", EW_ALIGN_RIGHT);
    ew_table_row(t);
    ew_table_cell(t, "größe|a");
    ew_table_cellf(t, "%.2f", 0.5);
    ew_table_row(t);
    ew_table_cell(t, "b, \"c\"");
    return t;
}

static void a_table_prints_as_text_markdown_and_csv(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_table) t = sample();
    EW_AUTO_BUF out = {0};
    assert_ok(ew_table_check(t, &err), &err);
    assert_int_equal(ew_table_rows(t), 2);
    ew_table_text(t, &out);
    assert_string_equal(ew_buf_str(&out), "device   score\n-------  -----\ngröße|a   0.50\nb, \"c\"        \n");
    ew_buf_clear(&out);
    ew_table_markdown(t, &out);
    assert_string_equal(ew_buf_str(&out), "| device | score |\n|---|---:|\n| größe\\|a | 0.50 |\n| b, \"c\" |  |\n");
    ew_buf_clear(&out);
    ew_table_csv(t, &out);
    assert_string_equal(ew_buf_str(&out), "device,score\r\ngröße|a,0.50\r\n\"b, \"\"c\"\"\",\r\n");
}

static void a_cell_too_many_is_told(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_table) t = sample();
    ew_table_row(t);
    ew_table_cell(t, "1");
    ew_table_cell(t, "2");
    ew_table_cell(t, "3");
    assert_fails(EW_EINVAL, ew_table_check(t, &err), &err, "more cells");
}

static bool stop_now(void)
{
    return true;
}

static void progress_is_silent_for_short_work_and_plain_without_a_terminal(void **state)
{
    (void)state;
    FILE *f = tmpfile();
    char text[1024];
    ew_term_progress *t = NULL;
    assert_int_equal(ew_term_progress_new(f, "tune", NULL, &t), EW_OK);
    const ew_progress *p = ew_term_progress_get(t);
    ew_progress_info info = {
        .phase = "train", .unit = "tok", .done = 0, .total = 5000, .loss = 2.4131, .left_s = (double)NAN};
    for (uint64_t s = 1; s <= 10; s++) { /* one call per second by a held clock */
        ew_clock_fake(s * 1000000000u, 1);
        info.done = (s - 1) * 100;
        assert_true(ew_progress_tell(p, &info));
    }
    ew_term_progress_free(&t);
    ew_clock_fake(0, 0);
    rewind(f);
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    (void)fclose(f);
    assert_string_equal(text, "tune train: 200/5.0k tok (4%), 100 tok/s, loss 2.413, 48 s left\n"
                              "tune train: 700/5.0k tok (14%), 100 tok/s, loss 2.413, 43 s left\n");
}

static void progress_passes_the_wish_to_stop(void **state)
{
    (void)state;
    ew_term_progress *t = NULL;
    assert_int_equal(ew_term_progress_new(stderr, NULL, stop_now, &t), EW_OK);
    ew_progress_info info = {
        .phase = "x", .unit = "B", .done = 1, .total = 0, .loss = (double)NAN, .left_s = (double)NAN};
    assert_false(ew_progress_tell(ew_term_progress_get(t), &info));
    ew_term_progress_free(&t);
    EW_AUTO_BUF out = {0};
    info.done = 3 * 1024 * 1024;
    ew_term_progress_text(&info, 1024, (double)NAN, &out);
    assert_string_equal(ew_buf_str(&out), "x: 3.0 MiB, 1.0 KiB/s");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(a_table_prints_as_text_markdown_and_csv),
        cmocka_unit_test(a_cell_too_many_is_told),
        cmocka_unit_test(progress_is_silent_for_short_work_and_plain_without_a_terminal),
        cmocka_unit_test(progress_passes_the_wish_to_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "task/baseline.h"
#include "task/task.h"
#include "test.h"

/* Words as tokens: exact counts without a tokenizer. */
static size_t count_words(const char *text, size_t size, void *ctx)
{
    (void)ctx;
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        n += strchr(" \n", text[i]) == NULL && (i == 0 || strchr(" \n", text[i - 1]) != NULL);
    }
    return n;
}

static ew_item item_of(const char *input, const char *output)
{
    ew_item x = {ew_str_dup("i"), ew_str_dup(""), ew_str_dup(input), ew_str_dup(output), 0};
    return x;
}

static void prompt_is_fields_with_the_best_match_last(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_item a = item_of("alpha text", "perl"), b = item_of("beta text", "libs");
    const ew_item *retrieved[] = {&a, &b};
    EW_AUTO_BUF out = {0};
    size_t used;
    assert_ok(ew_task_prompt(ew_task_find("debian-section"), "a question \n", retrieved, 2, NULL, &out, &used, &err),
              &err);
    assert_int_equal(used, 2);
    assert_string_equal(out.data, "text: beta text\nsection: libs\n\n"
                                  "text: alpha text\nsection: perl\n\n"
                                  "text: a question\nsection:");
    ew_buf_clear(&out);
    ew_task_answer("perl", &out);
    assert_string_equal(out.data, " perl");
    ew_item_release(&a);
    ew_item_release(&b);
}

static void prompt_stays_in_its_budget_at_every_size(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_item long_item = item_of("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20", "label"),
            short_item = item_of("tiny", "label");
    const ew_item *retrieved[] = {&short_item, &long_item, &long_item};
    const char *input = "q1 q2 q3 q4 q5 q6 q7 q8 q9 q10 q11 q12 q13 q14 q15 q16";
    size_t most = 0;
    for (size_t max = 3; max < 100; max++) {
        ew_task_budget budget = {max, count_words, NULL};
        EW_AUTO_BUF out = {0};
        size_t used;
        assert_ok(ew_task_prompt(ew_task_find("custom"), input, retrieved, 3, &budget, &out, &used, &err), &err);
        assert_true(count_words(out.data, out.size, NULL) <= max);
        assert_true(used >= most || used == 0);
        most = used > most ? used : most;
        assert_true(ew_str_ends(out.data, "\noutput:"));
        assert_true(max < 4 || strstr(out.data, "q1") != NULL);
    }
    assert_int_equal(most, 3);
    ew_item_release(&long_item);
    ew_item_release(&short_item);
}

static void prompt_cuts_one_long_word_on_a_code_point(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *input = "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9";
    for (size_t max = 1; max < 20; max++) {
        ew_task_budget budget = {max, NULL, NULL};
        EW_AUTO_BUF out = {0};
        assert_ok(ew_task_prompt(ew_task_find("custom"), input, NULL, 0, &budget, &out, NULL, &err), &err);
        size_t bytes = strcspn(out.data + strlen("input: "), "\n");
        assert_int_equal(bytes % 2, 0);
    }
}

static void custom_classify_takes_its_labels_from_the_history(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    const char *labels[] = {"no", "yes", "maybe", "yes"};
    for (size_t i = 0; i < 4; i++) {
        ew_item x = item_of("text", labels[i]);
        assert_ok(ew_items_take(&items, &x, &err), &err);
    }
    EW_AUTO(ew_task) t = NULL;
    assert_ok(ew_task_new("custom-classify", items.item, items.n, &t, &err), &err);
    assert_int_equal(t->kind, EW_TASK_CLASSIFY);
    assert_int_equal(t->n_labels, 3);
    assert_string_equal(t->labels[0], "maybe");
    assert_int_equal(ew_task_label(t, "yes"), 2);
    EW_AUTO_BUF out = {0};
    ew_task_clean(t, "  YES\nand more", 14, &out);
    assert_string_equal(out.data, "yes");
    ew_buf_clear(&out);
    ew_task_clean(t, " perhaps", 8, &out);
    assert_int_equal(out.size, 0);

    EW_AUTO(ew_task) none = NULL;
    assert_fails(EW_EINVAL, ew_task_new("custom-classify", items.item, 1, &none, &err), &err, "custom");
    assert_fails(EW_ENOENT, ew_task_new("debian-licence", NULL, 0, &none, &err), &err, "debian-section");
    for (size_t i = 0; i < 4; i++) {
        items.item[i].output[0] = (char)('1' + i % 3);
        items.item[i].output[1] = '\0';
    }
    assert_ok(ew_task_new("custom-classify", items.item, items.n, &none, &err), &err);
    assert_int_equal(none->kind, EW_TASK_ORDINAL);
}

static void split_is_60_20_20_in_an_order_that_does_not_depend_on_the_input(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    for (size_t n = 0; n < 60; n++) {
        EW_AUTO_ITEMS a = {0};
        EW_AUTO_ITEMS b = {0};
        for (size_t i = 0; i < n; i++) {
            ew_item x = item_of("in", "out"), y = item_of("in", "out");
            ew_free(x.id);
            ew_free(y.id);
            char name[16] = "item-00";
            name[5] = (char)('0' + i / 10);
            name[6] = (char)('0' + i % 10);
            x.id = ew_str_dup(name);
            size_t j = n - 1 - i;
            name[5] = (char)('0' + j / 10);
            name[6] = (char)('0' + j % 10);
            y.id = ew_str_dup(name);
            assert_ok(ew_items_take(&a, &x, &err), &err);
            assert_ok(ew_items_take(&b, &y, &err), &err);
        }
        ew_user_split s = ew_split_user(a.item, n, EW_SPLIT_HASH);
        ew_split_user(b.item, n, EW_SPLIT_HASH);
        assert_int_equal(s.n_history + s.n_val + s.n_test, n);
        if (n < 5) {
            assert_int_equal(s.n_history, n);
        } else {
            assert_true(s.n_val >= 1 && s.n_test >= 1);
            assert_true(fabs((double)s.n_history - 0.6 * (double)n) <= 0.5);
        }
        for (size_t i = 0; i < n; i++) {
            assert_string_equal(a.item[i].id, b.item[i].id);
            assert_int_equal(a.item[i].order, i);
        }
    }
}

static void baselines_copy_the_majority_the_neighbour_and_the_first_words(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_item history[] = {item_of("red apples in a basket", "fruit"), item_of("green pears on a table", "fruit"),
                         item_of("a hammer and some nails", "tool")};
    ew_item test[] = {item_of("hammer without nails", "tool"), item_of("apples again", "fruit")};
    EW_AUTO(ew_task) t = NULL;
    assert_ok(ew_task_new("custom-classify", history, 3, &t, &err), &err);
    ew_scores s[EW_BASELINE_COUNT];
    assert_ok(ew_baseline_scores(t, history, 3, test, 2, s, &err), &err);
    assert_true(fabs(s[EW_BASELINE_MAJORITY].accuracy - 0.5) < 1e-12);
    assert_true(fabs(s[EW_BASELINE_NEAREST].accuracy - 1.0) < 1e-12);
    assert_true(isnan(s[EW_BASELINE_FIRST8].rouge1));

    ew_item text =
        item_of("one two three four five six seven eight nine ten", "one two three four five six seven eight");
    assert_ok(ew_baseline_scores(ew_task_find("custom"), history, 3, &text, 1, s, &err), &err);
    assert_true(isnan(s[EW_BASELINE_MAJORITY].accuracy));
    assert_true(fabs(s[EW_BASELINE_FIRST8].rougeL - 1.0) < 1e-12);
    for (size_t i = 0; i < 3; i++) {
        ew_item_release(&history[i]);
    }
    ew_item_release(&test[0]);
    ew_item_release(&test[1]);
    ew_item_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_is_fields_with_the_best_match_last),
        cmocka_unit_test(prompt_stays_in_its_budget_at_every_size),
        cmocka_unit_test(prompt_cuts_one_long_word_on_a_code_point),
        cmocka_unit_test(custom_classify_takes_its_labels_from_the_history),
        cmocka_unit_test(split_is_60_20_20_in_an_order_that_does_not_depend_on_the_input),
        cmocka_unit_test(baselines_copy_the_majority_the_neighbour_and_the_first_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

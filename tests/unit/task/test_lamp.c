/* LaMP's files: what is read, what is refused, and the rules that its own code cannot be asked about. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "task/lamp.h"
#include "task/task.h"
#include "test.h"

static const char two[] =
    "\xEF\xBB\xBF [\n"
    "{\"id\": \"310\", \"input\": \"a review: good \\\"x\\\" ]} {[ thing\", \"user_id\": 7, \"profile\": [\n"
    "  {\"id\": 1, \"text\": \"bad \\\\\", \"score\": 2, \"date\": \"2014-3\"},\n"
    "  {\"id\": \"2\", \"text\": \"good\", \"score\": \"5\", \"extra\": {\"a\": [1, \"]\"]}}]},\n"
    "{\"id\": 311, \"input\": \"review: y\", \"profile\": []}\n] \n";

static ew_lamp_reader *open_text(const char *text, ew_lamp_task t)
{
    ew_error err = EW_ERROR_INIT;
    ew_lamp_reader *r = NULL;
    assert_ok(ew_lamp_open_mem("q.json", text, strlen(text), t, &r, &err), &err);
    return r;
}

static void questions_come_one_by_one(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_lamp_reader) r = open_text(two, EW_LAMP_3);
    ew_lamp_question q = {0};
    bool more = false;
    assert_ok(ew_lamp_next(r, &q, &more, &err), &err);
    assert_true(more);
    assert_string_equal(q.id, "310");
    assert_string_equal(q.user, "7");
    assert_int_equal(q.n_profile, 2);
    assert_string_equal(q.profile[0].id, "1");
    assert_string_equal(q.profile[0].text, "bad \\");
    assert_string_equal(q.profile[0].answer, "2");
    assert_string_equal(q.profile[0].date, "2014-3");
    assert_null(q.profile[1].date);
    EW_AUTO_BUF query = {0};
    assert_ok(ew_lamp_query(EW_LAMP_3, q.input, &query, &err), &err);
    assert_string_equal(ew_buf_str(&query), "good \"x\" ]} {[ thing");
    ew_lamp_question_release(&q);
    assert_ok(ew_lamp_next(r, &q, &more, &err), &err);
    assert_true(more && q.n_profile == 0 && q.user == NULL);
    assert_string_equal(q.id, "311");
    ew_lamp_question_release(&q);
    assert_ok(ew_lamp_next(r, &q, &more, &err), &err);
    assert_false(more);
    assert_ok(ew_lamp_next(r, &q, &more, &err), &err);
    assert_false(more);
}

/* Reads to the end or to the first error. */
static ew_status read_all(const char *text, size_t size, ew_lamp_task t, ew_error *err)
{
    EW_AUTO(ew_lamp_reader) r = NULL;
    EW_TRY(ew_lamp_open_mem("q.json", text, size, t, &r, err));
    for (bool more = true;;) {
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        EW_TRY(ew_lamp_next(r, &q, &more, err));
        if (!more) {
            return EW_OK;
        }
    }
}

static void bad_files_are_told_by_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "'['"},
        {"{\"task\": \"LaMP_3\", \"golds\": []}", "not the outputs"},
        {"[1]", "question 1: should be an object"},
        {"[{\"id\": \"1\"}]", "question 1: 'input' is missing"},
        {"[{\"id\": [], \"input\": \"\", \"profile\": []}]", "'id' should be a string"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": {}}]", "'profile' should be a list"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": [3]}]", "question 1, record 1"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": [{\"id\": 1, \"text\": \"t\"}]}]",
         "record 1: 'score' is missing"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": []} {}]", "after question 1"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": []}", "cut off"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": [", "question 1 is not complete"},
        {"[{\"id\": \"1\", \"input\": \"x", "cut off"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": []},]", "question 2"},
        {"[{\"id\": \"1\", \"input\": \"x\", \"profile\": []}] x", "more behind"},
        {"[{\"id\": \"1\", \"input\": \"\xFF\", \"profile\": []}]", "question 1"},
        {"[{\"id\": \"1\", \"id\": \"2\", \"input\": \"\", \"profile\": []}]", "duplicate"},
        {"[{\"id\": \"1\", \"input\": \"a\\u0000b\", \"profile\": []}]", "NUL"},
        {"[}", "question 1"},
    };
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        assert_fails(EW_ECORRUPT, read_all(bad[i].text, strlen(bad[i].text), EW_LAMP_3, &err), &err, bad[i].says);
    }
}

/* Any damage gives an error or fewer questions, never a crash; run under the sanitizers. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 1, 9);
    for (int i = 0; i < 3000; i++) {
        char text[sizeof(two)];
        memcpy(text, two, sizeof(two));
        size_t size = 1 + (size_t)ew_rng_below(&rng, sizeof(two) - 1);
        for (uint64_t k = ew_rng_below(&rng, 4); k > 0; k--) {
            text[ew_rng_below(&rng, sizeof(two))] = "[]{}\",:\\x0\0\xFF"[ew_rng_below(&rng, 12)];
        }
        ew_status st = read_all(text, size, (ew_lamp_task)ew_rng_below(&rng, EW_LAMP_COUNT), NULL);
        assert_true(st == EW_OK || st == EW_ECORRUPT);
    }
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    ew_buf_adds(&text, "[{\"id\": \"1\", \"input\": \"x\", \"profile\": ");
    for (int i = 0; i < 100000; i++) {
        ew_buf_addc(&text, '[');
    }
    for (int i = 0; i < 100000; i++) {
        ew_buf_addc(&text, ']');
    }
    ew_buf_adds(&text, "}]");
    assert_fails(EW_ECORRUPT, read_all(text.data, text.size, EW_LAMP_3, &err), &err, "question 1");
}

static void names_of_tasks_are_told_in_any_form(void **state)
{
    (void)state;
    ew_lamp_task t = EW_LAMP_COUNT;
    static const char *const same[] = {"lamp-2", "LaMP-2", "LaMP_2", "2"};
    for (size_t i = 0; i < EW_COUNT(same); i++) {
        assert_true(ew_lamp_parse(same[i], &t));
        assert_int_equal(t, EW_LAMP_2);
    }
    assert_true(ew_lamp_parse("LaMP_2N", &t) && t == EW_LAMP_2N);
    assert_true(ew_lamp_parse("LaMP-2-old", &t) && t == EW_LAMP_2N);
    assert_false(ew_lamp_parse("lamp-8", &t));
    assert_false(ew_lamp_parse("", &t));
    assert_false(ew_lamp_parse("a very long name of no task", &t));
    for (size_t i = 0; i < EW_LAMP_COUNT; i++) { /* and each is a task to learn */
        const ew_lamp_info *info = ew_lamp_info_of((ew_lamp_task)i);
        const ew_task *task = ew_task_find(info->name);
        assert_non_null(task);
        assert_int_equal(task->n_labels, info->n_labels);
        assert_true(task->labels == info->labels);
    }
}

static void the_task_is_told_by_the_first_question(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_LAMP_COUNT; i++) { /* by what the examples of the tasks ask */
        if (i == EW_LAMP_1 || i == EW_LAMP_7) {
            continue;
        }
        char a[] = "1", b[] = "text", c[] = "answer";
        ew_lamp_record r = {.id = a, .text = b, .answer = c, .title = c};
        const ew_lamp_question q = {.id = a, .input = b, .profile = &r, .n_profile = 1};
        EW_AUTO_ITEMS items = {0};
        EW_AUTO_BUF text = {0};
        ew_lamp_task t = EW_LAMP_COUNT;
        assert_ok(ew_lamp_examples((ew_lamp_task)i, &q, "u", 0, 1, &items, &err), &err);
        ew_buf_addf(&text, "[{\"id\": \"1\", \"input\": \"%s\", \"profile\": []}]", items.item[0].input);
        assert_ok(ew_lamp_guess(ew_test_file("guess.json", text.data, text.size), &t, &err), &err);
        assert_int_equal(t, i);
    }
    ew_lamp_task t;
    assert_fails(EW_EINVAL, ew_lamp_guess(ew_test_file("g.json", "[{\"input\":\"hello\"}]", 19), &t, &err), &err,
                 "--task");
    assert_fails(EW_EINVAL, ew_lamp_guess(ew_test_file("g.json", "[]", 2), &t, &err), &err, "no question");
}

static void queries_need_their_marks(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF out = {0};
    assert_fails(EW_EINVAL, ew_lamp_query(EW_LAMP_2, "no mark", &out, &err), &err, "description:");
    assert_fails(EW_EINVAL, ew_lamp_query(EW_LAMP_1, "\"one\" \"two\" \"three", &out, &err), &err, "three texts");
    assert_ok(ew_lamp_query(EW_LAMP_1, "\"one\" \"two\" \"three\"", &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "two three");
    ew_buf_clear(&out);
    assert_ok(ew_lamp_query(EW_LAMP_7, "a:\xC2\xA0 b: c \x1F", &out, &err), &err);
    assert_string_equal(ew_buf_str(&out), "b: c");
}

static void recency_is_by_numbers_and_needs_dates(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    static const char *const dates[] = {"2014-10", "2014-9-30", "2014-9", "2013", "2014-10"};
    ew_lamp_record r[5];
    char text[] = "x";
    for (size_t i = 0; i < 5; i++) {
        r[i] = (ew_lamp_record){.id = text, .text = text, .answer = text, .date = (char *)(uintptr_t)dates[i]};
    }
    const ew_lamp_question q = {.id = text, .input = text, .profile = r, .n_profile = 5};
    size_t index[5], n = 0;
    assert_ok(ew_lamp_rank(EW_LAMP_3, &q, EW_LAMP_RECENCY, false, 9, index, &n, &err), &err);
    static const size_t want[] = {4, 0, 1, 2, 3};
    assert_int_equal(n, 5);
    assert_memory_equal(index, want, sizeof(want));
    char odd[] = "May 2014";
    r[2].date = odd;
    assert_fails(EW_EINVAL, ew_lamp_rank(EW_LAMP_3, &q, EW_LAMP_RECENCY, false, 2, index, &n, &err), &err, "May 2014");
    r[2].date = NULL;
    assert_fails(EW_EINVAL, ew_lamp_rank(EW_LAMP_3, &q, EW_LAMP_RECENCY, false, 2, index, &n, &err), &err, "bm25");
    /* Fused: the place stands for the date. */
    char ask[] = "review: x";
    const ew_lamp_question asks = {.id = text, .input = ask, .profile = r, .n_profile = 5};
    assert_ok(ew_lamp_rank(EW_LAMP_3, &asks, EW_LAMP_FUSED, false, 2, index, &n, &err), &err);
    assert_true(n == 2 && index[0] == 4 && index[1] == 3);
}

static void tweets_are_completed_from_a_tenth_to_a_quarter(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char text[400] = "", id[8];
    for (size_t i = 0; i < 40; i++) {
        (void)sprintf(text + strlen(text), "w%zu  ", i);
    }
    size_t least = 99, most = 0;
    for (int i = 0; i < 200; i++) {
        EW_AUTO_ITEMS a = {0};
        EW_AUTO_ITEMS b = {0};
        (void)snprintf(id, sizeof(id), "%d", i);
        ew_lamp_record r = {.id = id, .text = text};
        const ew_lamp_question q = {.id = id, .input = text, .profile = &r, .n_profile = 1};
        assert_ok(ew_lamp_examples(EW_LAMP_7, &q, "u", 5, 3, &a, &err), &err);
        assert_ok(ew_lamp_examples(EW_LAMP_7, &q, "u", 5, 3, &b, &err), &err);
        assert_string_equal(a.item[0].output, b.item[0].output);
        assert_int_equal(a.item[0].order, 5);
        unsigned first = 0;
        assert_int_equal(sscanf(a.item[0].output, "w%u ", &first), 1);
        least = EW_MIN(least, first);
        most = EW_MAX(most, first);
        assert_true(strstr(a.item[0].output, "w39") != NULL && strstr(a.item[0].output, "  ") == NULL);
    }
    assert_true(least == 4 && most == 9);
}

static void answers_are_read_written_and_checked(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers a = {.task = EW_LAMP_4};
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers b = {0};
    EW_AUTO_BUF text = {0};
    assert_ok(ew_lamp_answers_add(&a, "1", "a \"b\"\n", &err), &err);
    assert_ok(ew_lamp_answers_add(&a, "2", "", &err), &err);
    ew_lamp_answers_write(&a, &text);
    assert_ok(ew_lamp_answers_read(ew_test_file("a.json", text.data, text.size), &b, &err), &err);
    assert_int_equal(b.task, EW_LAMP_4);
    assert_string_equal(ew_lamp_answer_of(&b, "1"), "a \"b\"\n");
    assert_null(ew_lamp_answer_of(&b, "3"));
    ew_lamp_scores s;
    assert_ok(ew_lamp_score(&a, &b, &s, &err), &err);
    assert_true(s.n == 2 && fabs(s.rouge1 - 0.5) < 1e-12 && isnan(s.accuracy));
    assert_ok(ew_lamp_answers_add(&b, "3", "x", &err), &err);
    assert_fails(EW_EINVAL, ew_lamp_score(&a, &b, &s, &err), &err, "'3' is not among");
    assert_fails(EW_EINVAL, ew_lamp_score(&b, &a, &s, &err), &err, "no prediction for the id '3'");
    b.task = EW_LAMP_5;
    assert_fails(EW_EINVAL, ew_lamp_score(&a, &b, &s, &err), &err, "LaMP_5");
    static const struct {
        const char *text, *says;
    } bad[] = {{"[]", "is a list"},
               {"{\"task\": \"LaMP_9\", \"golds\": []}", "LaMP_9"},
               {"{\"task\": \"LaMP_1\"}", "'golds' is missing"},
               {"{\"task\": \"LaMP_1\", \"golds\": [{\"id\": 1}]}", "place 1: 'output' is missing"},
               {"{\"task\": \"LaMP_1\", \"golds\": [{\"id\": 1, \"output\": \"\"}, {\"id\": \"1\", \"output\": 1}]}",
                "stands above"},
               {"{\"task\": \"LaMP_1\", \"golds\": [7]}", "place 1"}};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers c = {0};
        const char *path = ew_test_file("bad.json", bad[i].text, strlen(bad[i].text));
        assert_fails(EW_ECORRUPT, ew_lamp_answers_read(path, &c, &err), &err, bad[i].says);
    }
}

static void the_old_second_task_is_told_by_its_labels(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers a = {0};
    static const char text[] = "{\"task\": \"LaMP_2\", \"golds\": [{\"id\": \"1\", \"output\": \"food & drink\"}]}";
    assert_ok(ew_lamp_answers_read(ew_test_file("n.json", text, strlen(text)), &a, &err), &err);
    assert_int_equal(a.task, EW_LAMP_2N);
    ew_lamp_scores s;
    assert_ok(ew_lamp_score(&a, &a, &s, &err), &err);
    assert_true(s.accuracy == 1 && fabs(s.macro_f1 - 1.0 / 15) < 1e-12);
}

static void without_a_tokenizer_a_token_is_three_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF out = {0};
    char text[1000], five[] = "5", id[] = "1";
    memset(text, 'y', sizeof(text) - 1);
    memcpy(text + 100, "\xC3\xA9\xC3\xA9", 4);
    text[sizeof(text) - 1] = '\0';
    ew_lamp_record r = {.id = id, .text = text, .answer = five};
    const ew_lamp_record *one = &r;
    bool personal = false;
    assert_ok(ew_lamp_prompt(EW_LAMP_3, "review: z", &one, 1, 64, NULL, &out, &personal, &err), &err);
    assert_true(personal && out.size < 64 * 3 + 9);
    ew_buf_clear(&out);
    assert_ok(ew_lamp_prompt(EW_LAMP_3, "review: z", &one, 1, 4, NULL, &out, &personal, &err), &err);
    assert_false(personal);
    assert_string_equal(ew_buf_str(&out), "review: z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions_come_one_by_one),
        cmocka_unit_test(bad_files_are_told_by_place),
        cmocka_unit_test(damaged_files_do_no_harm),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(names_of_tasks_are_told_in_any_form),
        cmocka_unit_test(the_task_is_told_by_the_first_question),
        cmocka_unit_test(queries_need_their_marks),
        cmocka_unit_test(recency_is_by_numbers_and_needs_dates),
        cmocka_unit_test(tweets_are_completed_from_a_tenth_to_a_quarter),
        cmocka_unit_test(answers_are_read_written_and_checked),
        cmocka_unit_test(the_old_second_task_is_told_by_its_labels),
        cmocka_unit_test(without_a_tokenizer_a_token_is_three_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

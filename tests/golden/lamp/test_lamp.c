/* Prompts, scores and examples against LaMP's own code (README.md). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "task/lamp.h"
#include "test.h"
#include "text/json.h"

#define GOLDEN EW_TEST_SOURCE_DIR "/tests/golden/lamp/"

/* --- the tokenizer of make.py --- */
static size_t token_size(const char *s, const char *end)
{
    const char *p = s;
    while (p < end && *p == ' ') {
        p++;
    }
    while (p < end && *p != ' ') {
        p++;
    }
    return (size_t)(p - s);
}

static size_t count(const char *text, size_t size, void *ctx)
{
    (void)ctx;
    size_t n = 1;
    for (const char *p = text; p < text + size; p += token_size(p, text + size)) {
        n++;
    }
    return n;
}

static bool cut(const char *text, size_t size, size_t max_tok, ew_buf *out, void *ctx)
{
    (void)ctx;
    const char *p = text;
    for (size_t n = 1; n < max_tok && p < text + size; n++) {
        p += token_size(p, text + size);
    }
    ew_buf_add(out, text, (size_t)(p - text));
    return max_tok > 0;
}

static const ew_lamp_tokens tokens = {count, cut, NULL};

static const char *str(const json_t *j, const char *key)
{
    return json_string_value(json_object_get(j, key));
}

static ew_lamp_task task_of(const json_t *j)
{
    ew_lamp_task t = EW_LAMP_COUNT;
    assert_true(ew_lamp_parse(str(j, "task"), &t));
    return t;
}

/* The row as a questions file of one. */
static void read_question(const json_t *row, ew_lamp_task t, ew_lamp_question *q)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    EW_AUTO(ew_lamp_reader) r = NULL;
    bool more = false;
    ew_buf_addc(&text, '[');
    assert_ok(ew_json_dump(row, 0, &text, &err), &err);
    ew_buf_addc(&text, ']');
    assert_ok(ew_lamp_open_mem("row", text.data, text.size, t, &r, &err), &err);
    assert_ok(ew_lamp_next(r, q, &more, &err), &err);
    assert_true(more);
}

static size_t check_prompt(const ew_lamp_question *q, ew_lamp_task t, const json_t *want)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF got = {0};
    size_t index[16], n = (size_t)json_integer_value(json_object_get(want, "n"));
    ew_lamp_ranker ranker = strcmp(str(want, "ranker"), "bm25") == 0 ? EW_LAMP_BM25 : EW_LAMP_RECENCY;
    assert_ok(ew_lamp_rank(t, q, ranker, false, n, index, &n, &err), &err);
    const ew_lamp_record *record[16];
    for (size_t i = 0; i < n; i++) {
        record[i] = &q->profile[index[i]];
    }
    size_t max = (size_t)json_integer_value(json_object_get(want, "max"));
    bool personal = false;
    assert_ok(ew_lamp_prompt(t, q->input, record, n, max, &tokens, &got, &personal, &err), &err);
    if (strcmp(ew_buf_str(&got), str(want, "prompt")) != 0) {
        fail_msg("%s, question %s, %s, %zu of %zu, %zu tokens:\n%s\nshould be\n%s", ew_lamp_info_of(t)->name, q->id,
                 str(want, "ranker"), n, q->n_profile, max, ew_buf_str(&got), str(want, "prompt"));
    }
    return personal;
}

static void prompts_are_lamps_own(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) lines = NULL;
    assert_ok(ew_jsonl_open(GOLDEN "prompts.jsonl", &lines, &err), &err);
    size_t n = 0, n_personal = 0;
    for (;;) {
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_jsonl_next(lines, &j, &err), &err);
        if (j == NULL) {
            break;
        }
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        ew_lamp_task t = task_of(j);
        read_question(j, t, &q);
        size_t i;
        json_t *want;
        json_array_foreach(json_object_get(j, "prompts"), i, want)
        {
            n_personal += check_prompt(&q, t, want);
            n++;
        }
    }
    print_message("%zu prompts, %zu of them personal\n", n, n_personal);
    assert_true(n > 500 && n_personal > 300 && n_personal < n);
}

static void read_answers(const json_t *j, ew_lamp_answers *a)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    assert_ok(ew_json_dump(j, 0, &text, &err), &err);
    assert_ok(ew_lamp_answers_read(ew_test_file("answers.json", text.data, text.size), a, &err), &err);
}

static void scores_are_lamps_own(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) lines = NULL;
    assert_ok(ew_jsonl_open(GOLDEN "scores.jsonl", &lines, &err), &err);
    double worst = 0;
    size_t n = 0;
    for (;;) {
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_jsonl_next(lines, &j, &err), &err);
        if (j == NULL) {
            break;
        }
        EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers gold = {0};
        EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers pred = {0};
        read_answers(json_object_get(j, "golds"), &gold);
        read_answers(json_object_get(j, "predictions"), &pred);
        ew_lamp_scores s;
        assert_ok(ew_lamp_score(&gold, &pred, &s, &err), &err);
        const struct {
            const char *key;
            double value;
        } got[] = {{"accuracy", s.accuracy}, {"f1", s.macro_f1},    {"MAE", s.mae},
                   {"RMSE", s.rmse},         {"rouge-1", s.rouge1}, {"rouge-L", s.rougeL}};
        for (size_t i = 0; i < EW_COUNT(got); i++) {
            const json_t *want = json_object_get(json_object_get(j, "scores"), got[i].key);
            assert_int_equal(want != NULL, !isnan(got[i].value));
            if (want != NULL) {
                worst = fmax(worst, fabs(json_number_value(want) - got[i].value));
                n++;
            }
        }
    }
    print_message("%zu scores, worst difference %.2g\n", n, worst);
    assert_true(n >= 70 && worst < 1e-12);
}

static void examples_are_lamps_own(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) lines = NULL;
    assert_ok(ew_jsonl_open(GOLDEN "examples.jsonl", &lines, &err), &err);
    for (;;) {
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_jsonl_next(lines, &j, &err), &err);
        if (j == NULL) {
            return;
        }
        EW_AUTO_JSON row =
            json_pack("{s:s,s:s,s:[O]}", "id", "1", "input", "x", "profile", json_object_get(j, "record"));
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        EW_AUTO_ITEMS items = {0};
        ew_lamp_task t = task_of(j);
        read_question(row, t, &q);
        assert_ok(ew_lamp_examples(t, &q, "u", 0, 1, &items, &err), &err);
        assert_int_equal(items.n, 1);
        assert_string_equal(items.item[0].input, str(j, "input"));
        assert_string_equal(items.item[0].output, str(j, "output"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_lamps_own),
        cmocka_unit_test(scores_are_lamps_own),
        cmocka_unit_test(examples_are_lamps_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

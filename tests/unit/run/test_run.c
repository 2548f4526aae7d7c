/* Prompts, scores and whole trials on a toy model. ctest: TIMEOUT=240 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#include "base/mem.h"
#include "base/str.h"
#include "kern/kern.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/session.h"
#include "run/prompter.h"
#include "run/run.h"
#include "run/score.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "task/item.h"
#include "task/task.h"
#include "token/vocab.h"

#include "toy.h"

static const toy_shape shape = TOY_SHAPE_SMALL;

static const char *toy_path(const char *dtype)
{
    char name[32];
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(name, sizeof(name), "toy-%s.gguf", dtype);
    const char *path = ew_test_path(name);
    if (!ew_file_exists(path)) {
        assert_ok(toy_save(path, &shape, dtype, 1, &err), &err);
    }
    return path;
}

/* ---- prompter ---- */

typedef struct prompts {
    ew_model *model;
    ew_items items;
    ew_prompter *p;
} prompts;

static void prompts_open(prompts *x, const char *task, size_t n_words, const ew_prompter_opt *opt)
{
    ew_error err = EW_ERROR_INIT;
    *x = (prompts){0};
    assert_ok(ew_model_open(toy_path("F16"), NULL, &x->model, &err), &err);
    assert_ok(toy_items(30, n_words, 5, strcmp(task, "debian-section") != 0, 7, &x->items), &err);
    ew_prompter_opt o = *opt;
    o.task = ew_task_find(task);
    o.tokenizer = ew_model_tokenizer(x->model);
    assert_ok(ew_prompter_new(&o, x->items.item, x->items.n, &x->p, &err), &err);
}

static void prompts_close(prompts *x)
{
    ew_prompter_free(&x->p);
    ew_items_release(&x->items);
    ew_model_unref(&x->model);
}

static void prompt_and_answer_never_exceed_the_sequence(void **state)
{
    ew_error err = EW_ERROR_INIT;
    static const char *const tasks[] = {"debian-section", "debian-synopsis"};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        for (uint32_t seq = 66; seq <= 256; seq += 38) {
            for (uint32_t rag = 0; rag <= 3; rag++) {
                prompts x;
                prompts_open(&x, tasks[k], 5 + seq / 2, &(ew_prompter_opt){.seq_max_tok = seq, .rag_k = rag});
                for (size_t i = 0; i < x.items.n; i++) {
                    EW_AUTO_TOKENS ids = {0};
                    const ew_item *it = &x.items.item[i];
                    assert_ok(ew_prompter_prompt(x.p, it->input, it->order, &ids, &err), &err);
                    assert_true(ids.n > 5);
                    assert_ok(ew_prompter_answer(x.p, it->output, &ids, &err), &err);
                    if (ids.n > seq) {
                        fail_msg("%s: %zu tokens in a sequence of %u", tasks[k], ids.n, seq);
                    }
                }
                prompts_close(&x);
            }
        }
    }
}

static void only_earlier_items_are_retrieved(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    (void)state;
    prompts_open(&x, "debian-section", 6, &(ew_prompter_opt){.rag_k = 2});
    for (size_t i = 0; i < x.items.n; i++) {
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_BUF text = {0};
        const ew_item *it = &x.items.item[i];
        assert_ok(ew_prompter_prompt(x.p, it->input, it->order, &ids, &err), &err);
        assert_ok(ew_tokenizer_decode(ew_model_tokenizer(x.model), ids.id, ids.n, 0, &text, &err), &err);
        size_t found = 0;
        for (size_t k = 0; k < x.items.n; k++) {
            bool there = strstr(ew_buf_str(&text), x.items.item[k].input) != NULL;
            if (there && k > i) {
                fail_msg("item %zu sees item %zu", i, k);
            }
            found += there;
        }
        assert_true(found >= 1); /* its own text */
        if (i == 0) {
            assert_int_equal(found, 1);
        }
    }
    prompts_close(&x);
}

static void long_answers_are_cut_and_end_with_end_of_text(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF text = {0};
    (void)state;
    prompts_open(&x, "debian-section", 6, &(ew_prompter_opt){0});
    size_t max = ew_task_find("debian-section")->max_answer_tok;
    for (size_t i = 0; i < 100; i++) {
        ew_buf_adds(&text, "kalo ");
    }
    assert_ok(ew_prompter_answer(x.p, ew_buf_str(&text), &ids, &err), &err);
    assert_int_equal(ids.n, max + 1);
    assert_int_equal(ids.id[max], ew_tokenizer_eos(ew_model_tokenizer(x.model)));
    /* Appended, not replaced. */
    assert_ok(ew_prompter_answer(x.p, "x", &ids, &err), &err);
    assert_true(ids.n > max + 1 && ids.id[ids.n - 1] == ids.id[max]);
    prompts_close(&x);
}

static void a_sequence_without_room_for_a_prompt_is_refused(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_prompter *p = NULL;
    ew_model *m = NULL;
    (void)state;
    assert_ok(ew_model_open(toy_path("F16"), NULL, &m, &err), &err);
    const ew_prompter_opt o = {
        .task = ew_task_find("debian-synopsis"), .tokenizer = ew_model_tokenizer(m), .seq_max_tok = 40};
    assert_fails(EW_EINVAL, ew_prompter_new(&o, NULL, 0, &p, &err), &err, "40 tokens");
    assert_null(p);
    ew_model_unref(&m);
}

/* ---- score ---- */

/* Everything the scorer says, computed the slow way: each label's NLL from a fresh session. */
static void classification_takes_the_likeliest_label_and_its_nll_is_the_sessions(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    ew_session *s = NULL;
    ew_session *slow = NULL;
    ew_score score = EW_SCORE_NONE;
    (void)state;
    prompts_open(&x, "debian-section", 6, &(ew_prompter_opt){0});
    const ew_task *task = ew_task_find("debian-section");
    const ew_session_opt opt = {.exec = {.kern = ew_kern_get("ref")}};
    assert_ok(ew_session_new(x.model, &opt, &s, &err), &err);
    assert_ok(ew_session_new(x.model, &opt, &slow, &err), &err);
    size_t n = 8;
    assert_ok(ew_score_items(s, task, x.p, x.items.item, n, NULL, &score, &err), &err);
    double nll_sum = 0;
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        const ew_item *it = &x.items.item[i];
        double best = 1e300;
        const char *pred = NULL;
        for (size_t k = 0; k < task->n_labels; k++) {
            EW_AUTO_TOKENS ids = {0};
            double nll;
            size_t count;
            assert_ok(ew_prompter_prompt(x.p, it->input, it->order, &ids, &err), &err);
            size_t n_prompt = ids.n;
            assert_ok(ew_prompter_answer(x.p, task->labels[k], &ids, &err), &err);
            assert_ok(ew_session_nll(slow, ids.id, ids.n, n_prompt, &nll, &count, &err), &err);
            if (nll < best) {
                best = nll;
                pred = task->labels[k];
            }
            if (strcmp(task->labels[k], it->output) == 0) {
                nll_sum += nll / (double)count;
            }
        }
        right += strcmp(pred, it->output) == 0;
    }
    assert_true(fabs(score.nll - nll_sum / (double)n) < 1e-9);
    assert_true(fabs(score.scores.accuracy - (double)right / (double)n) < 1e-12);
    assert_true(score.primary == score.scores.accuracy);
    assert_int_equal(score.n, n);
    ew_session_free(&s);
    ew_session_free(&slow);
    prompts_close(&x);
}

static void an_answer_that_is_no_label_is_wrong_but_has_a_likelihood(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    ew_session *s = NULL;
    ew_score score = EW_SCORE_NONE;
    (void)state;
    prompts_open(&x, "debian-section", 6, &(ew_prompter_opt){0});
    char odd[] = "no-such-section";
    ew_item it = x.items.item[0];
    it.output = odd;
    assert_ok(ew_session_new(x.model, &(ew_session_opt){0}, &s, &err), &err);
    assert_ok(ew_score_items(s, ew_task_find("debian-section"), x.p, &it, 1, NULL, &score, &err), &err);
    assert_true(score.scores.accuracy == 0);
    assert_true(isfinite(score.nll) && score.nll > 0);
    ew_session_free(&s);
    prompts_close(&x);
}

static void generation_gives_the_text_of_a_fresh_greedy_run(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    ew_session *s = NULL;
    ew_score a = EW_SCORE_NONE;
    ew_score b = EW_SCORE_NONE;
    (void)state;
    prompts_open(&x, "debian-synopsis", 12, &(ew_prompter_opt){0});
    const ew_task *task = ew_task_find("debian-synopsis");
    assert_ok(ew_session_new(x.model, &(ew_session_opt){.exec = {.kern = ew_kern_get("ref")}}, &s, &err), &err);
    /* Outputs replaced by what the model itself writes from a fresh session: then the score is perfect. */
    for (size_t i = 0; i < 4; i++) {
        static const char *const stop[] = {"\n"};
        ew_item *it = &x.items.item[i];
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_BUF text = {0};
        EW_AUTO_BUF clean = {0};
        assert_ok(ew_prompter_prompt(x.p, it->input, it->order, &ids, &err), &err);
        ew_session_reset(s);
        const ew_generate_opt opt = {.max_tok = (uint32_t)task->max_answer_tok, .stop = stop, .n_stop = 1};
        assert_ok(ew_generate(s, ids.id, ids.n, &opt, NULL, &text, NULL, &err), &err);
        ew_task_clean(task, ew_buf_str(&text), text.size, &clean);
        ew_free(it->output);
        it->output = ew_str_dup(clean.size > 0 ? ew_buf_str(&clean) : "word");
    }
    assert_ok(ew_score_items(s, task, x.p, x.items.item, 4, NULL, &a, &err), &err);
    assert_true(a.scores.rouge1 > 0.999 || a.scores.rouge1 != a.scores.rouge1);
    /* The session's state before does not matter. */
    assert_ok(ew_score_items(s, task, x.p, x.items.item, 4, NULL, &b, &err), &err);
    assert_true(a.nll == b.nll && a.scores.rouge1 == b.scores.rouge1);
    ew_session_free(&s);
    prompts_close(&x);
}

static bool stop_at_2(const ew_progress_info *info, void *ctx)
{
    (void)ctx;
    return info->done < 2;
}

static void scoring_stops_when_asked_and_nothing_is_scored_without_items(void **state)
{
    ew_error err = EW_ERROR_INIT;
    prompts x;
    ew_session *s = NULL;
    ew_score score = EW_SCORE_NONE;
    (void)state;
    prompts_open(&x, "debian-section", 6, &(ew_prompter_opt){0});
    const ew_task *task = ew_task_find("debian-section");
    assert_ok(ew_session_new(x.model, &(ew_session_opt){0}, &s, &err), &err);
    assert_fails(EW_ECANCELLED,
                 ew_score_items(s, task, x.p, x.items.item, 5, &(ew_progress){.fn = stop_at_2}, &score, &err), &err,
                 "2 of 5");
    assert_ok(ew_score_items(s, task, x.p, x.items.item, 0, NULL, &score, &err), &err);
    assert_true(isnan(score.nll) && isnan(score.primary) && score.n == 0);
    ew_session_free(&s);
    prompts_close(&x);
}

/* ---- trials ---- */

static ew_trial_spec make_spec(ew_method method, const char *task)
{
    ew_trial_spec s = {.method = method, .source = "profile", .variant = "f16", .seed = 3, .fence = 9};
    s.id[0] = 0xab;
    (void)ew_str_copy(s.task, sizeof(s.task), task);
    s.settings.epochs = 2;
    return s;
}

static ew_status run_trial(const ew_trial_spec *s, const char *model, const ew_items *items, ew_trial_result *r,
                           ew_error *err)
{
    const ew_run_env env = {.model_path = model, .items = items};
    return ew_run_trial(s, &env, r, NULL, err);
}

static void every_method_gives_all_its_measures_in_every_type(void **state)
{
    static const char *const types[] = {"F16", "Q8_0", "Q4_0"};
    static const ew_method methods[] = {EW_METHOD_NONE,      EW_METHOD_LORA,   EW_METHOD_RAG, EW_METHOD_LORA_RAG,
                                        EW_METHOD_PROMPT,    EW_METHOD_PREFIX, EW_METHOD_IA3, EW_METHOD_BOTTLENECK,
                                        EW_METHOD_BLOCKWISE, EW_METHOD_MEZO,   EW_METHOD_FULL};
    static const char *const always[] = {
        "test.score",    "test.nll",       "val.score",     "val.nll",      "base.test.score",
        "base.test.nll", "base.val.score", "gate",          "gated.score",  "gated.nll",
        "seconds",       "ram.peak_bytes", "n.val",         "n.test",       "baseline.majority",
        "n.history",     "test.accuracy",  "test.macro_f1", "base.val.nll", "ram.predicted_bytes"};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    for (size_t t = 0; t < EW_COUNT(types); t++) {
        for (size_t m = 0; m < EW_COUNT(methods); m++) {
            ew_trial_spec s = make_spec(methods[m], "debian-section");
            s.settings.exits = 2; /* the toy has two layers */
            assert_ok(run_trial(&s, toy_path(types[t]), &items, r, &err), &err);
            assert_int_equal(r->code, EW_OK);
            assert_int_equal(r->fence, 9);
            assert_memory_equal(r->id, s.id, sizeof(s.id));
            for (size_t i = 0; i < EW_COUNT(always); i++) {
                if (!isfinite(ew_trial_result_mean(r, always[i]))) {
                    fail_msg("%s of %s on %s is missing", always[i], ew_method_name(methods[m]), types[t]);
                }
            }
            for (uint32_t i = 0; i < r->n_measures; i++) {
                assert_true(r->measures[i].n == 1 && isfinite(r->measures[i].values[0]));
                assert_true(r->measures[i].unit[0] != '\0');
            }
            assert_true(ew_trial_result_mean(r, "n.val") == 5 && ew_trial_result_mean(r, "n.test") == 5);
            assert_true((ew_trial_result_find(r, "tune.steps") != NULL) == ew_method_trains(methods[m]));
            if (methods[m] == EW_METHOD_NONE) {
                assert_true(ew_trial_result_mean(r, "test.nll") == ew_trial_result_mean(r, "base.test.nll"));
            }
        }
    }
    ew_free(r);
}

static void rankings_of_retrieval_change_the_prompts_and_bm25_is_the_default(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    double nll[EW_RAG_RANK_COUNT];
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    (void)state;
    assert_ok(toy_items(40, 8, 5, false, 5, &items), &err);
    for (uint32_t i = 0; i < EW_RAG_RANK_COUNT; i++) {
        ew_trial_spec s = make_spec(EW_METHOD_RAG, "debian-section");
        s.settings.rag_rank = i;
        for (int again = 0; again < 2; again++) {
            assert_ok(run_trial(&s, toy_path("Q8_0"), &items, r, &err), &err);
            assert_true(again == 0 || nll[i] == ew_trial_result_mean(r, "test.nll"));
            nll[i] = ew_trial_result_mean(r, "test.nll");
        }
        assert_true(isfinite(nll[i]) && nll[i] != ew_trial_result_mean(r, "base.test.nll"));
        for (uint32_t k = 0; k < i; k++) {
            assert_true(nll[i] != nll[k]);
        }
    }
    ew_trial_spec plain = make_spec(EW_METHOD_RAG, "debian-section");
    assert_ok(run_trial(&plain, toy_path("Q8_0"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "test.nll") == nll[EW_RAG_RANK_BM25]);
    /* The examples of training are made with it, too. */
    ew_trial_spec s = make_spec(EW_METHOD_LORA_RAG, "debian-section");
    s.settings.rag_rank = EW_RAG_RANK_FUSED;
    assert_ok(run_trial(&s, toy_path("Q8_0"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "tune.steps") > 0);
    ew_free(r);
}

static void repeats_add_values_and_warm_up_adds_none(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    s.repeats = 3;
    s.warmup = 1;
    assert_ok(run_trial(&s, toy_path("Q8_0"), &items, r, &err), &err);
    const ew_measure *nll = ew_trial_result_find(r, "test.nll");
    assert_true(nll->n == 3 && nll->values[0] == nll->values[1] && nll->values[1] == nll->values[2]);
    assert_int_equal(ew_trial_result_find(r, "seconds")->n, 3);
    ew_free(r);
}

static void the_same_seed_gives_the_same_scores_and_another_trains_differently(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *a = ew_xcalloc(1, sizeof(*a));
    ew_trial_result *b = ew_xcalloc(1, sizeof(*b));
    ew_trial_spec s = make_spec(EW_METHOD_LORA_RAG, "debian-section");
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    assert_ok(run_trial(&s, toy_path("Q8_0"), &items, a, &err), &err);
    assert_ok(run_trial(&s, toy_path("Q8_0"), &items, b, &err), &err);
    assert_int_equal(a->n_measures, b->n_measures);
    for (uint32_t i = 0; i < a->n_measures; i++) {
        const char *name = a->measures[i].name;
        assert_string_equal(name, b->measures[i].name);
        if (strstr(name, "seconds") == NULL && strstr(name, "per_s") == NULL && strstr(name, "ram.") == NULL &&
            strstr(name, "joules") == NULL) {
            assert_memory_equal(a->measures[i].values, b->measures[i].values, sizeof(double));
        }
    }
    s.seed = 4;
    assert_ok(run_trial(&s, toy_path("Q8_0"), &items, b, &err), &err);
    assert_true(ew_trial_result_mean(a, "base.test.nll") == ew_trial_result_mean(b, "base.test.nll"));
    assert_true(ew_trial_result_mean(a, "test.nll") != ew_trial_result_mean(b, "test.nll"));
    ew_free(a);
    ew_free(b);
}

static void learning_lowers_the_answer_nll_and_opens_the_gate(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_run_product product = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "custom-classify");
    (void)state;
    s.settings.epochs = 6;
    s.settings.learning_rate = 5e-3;
    assert_ok(toy_items(60, 4, 3, false, 5, &items), &err);
    const ew_run_env env = {.model_path = toy_path("F16"), .items = &items, .work_dir = ew_test_tmpdir()};
    assert_ok(ew_run_trial(&s, &env, r, &product, &err), &err);
    assert_true(ew_trial_result_mean(r, "val.nll") < ew_trial_result_mean(r, "base.val.nll") - 0.5);
    assert_non_null(product.lora);
    assert_int_equal(product.better, ew_trial_result_mean(r, "gate") == 1);
    /* No checkpoint is left of a trial that is done. */
    assert_false(ew_file_exists(ew_test_path("ab000000000000000000000000000000.tune")));
    ew_run_product_release(&product);
    assert_null(product.lora);
    ew_free(r);
}

typedef struct stopper {
    uint64_t at; /* steps */
    bool seen;
} stopper;

static bool stop_training(const ew_progress_info *info, void *ctx)
{
    stopper *s = ctx;
    if (strcmp(info->unit, "steps") == 0 && info->done >= s->at) {
        s->seen = true;
        return false;
    }
    return true;
}

static void a_trial_stopped_in_training_goes_on_from_its_checkpoint(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *whole = ew_xcalloc(1, sizeof(*whole));
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    stopper stop = {.at = 2};
    (void)state;
    assert_ok(toy_items(40, 6, 5, false, 5, &items), &err);
    assert_ok(run_trial(&s, toy_path("F16"), &items, whole, &err), &err);
    ew_run_env env = {.model_path = toy_path("F16"),
                      .items = &items,
                      .work_dir = ew_test_tmpdir(),
                      .progress = {.fn = stop_training, .ctx = &stop}};
    assert_fails(EW_ECANCELLED, ew_run_trial(&s, &env, r, NULL, &err), &err, "step 2");
    assert_true(stop.seen);
    assert_int_equal(r->code, EW_ECANCELLED);
    assert_true(ew_file_exists(ew_test_path("ab000000000000000000000000000000.tune")));
    env.progress = (ew_progress){0};
    assert_ok(ew_run_trial(&s, &env, r, NULL, &err), &err);
    assert_true(ew_trial_result_mean(r, "test.nll") == ew_trial_result_mean(whole, "test.nll"));
    ew_free(whole);
    ew_free(r);
}

static void a_history_that_changed_since_the_checkpoint_is_learned_anew(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_ITEMS more = {0};
    ew_trial_result *whole = ew_xcalloc(1, sizeof(*whole));
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    stopper stop = {.at = 1};
    (void)state;
    s.settings.epochs = 1;
    assert_ok(toy_items(30, 6, 5, false, 5, &items), &err);
    assert_ok(toy_items(40, 6, 5, false, 5, &more), &err);
    assert_ok(run_trial(&s, toy_path("F16"), &more, whole, &err), &err);
    ew_run_env env = {.model_path = toy_path("F16"),
                      .items = &items,
                      .work_dir = ew_test_tmpdir(),
                      .progress = {.fn = stop_training, .ctx = &stop}};
    assert_fails(EW_ECANCELLED, ew_run_trial(&s, &env, r, NULL, &err), &err, "step 1");
    env.progress = (ew_progress){0};
    env.items = &more;
    assert_ok(ew_run_trial(&s, &env, r, NULL, &err), &err);
    assert_true(ew_trial_result_mean(r, "test.nll") == ew_trial_result_mean(whole, "test.nll"));
    assert_false(ew_file_exists(ew_test_path("ab000000000000000000000000000000.tune")));
    ew_free(whole);
    ew_free(r);
}

static void what_cannot_be_run_says_why(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_ITEMS few = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    assert_ok(toy_items(4, 8, 5, false, 5, &few), &err);
    ew_trial_spec s = make_spec(EW_METHOD_NONE, "debian-section");
    assert_fails(EW_ELIMIT, run_trial(&s, toy_path("F16"), &few, r, &err), &err, "4 items are too few");
    assert_int_equal(r->code, EW_ELIMIT);
    assert_non_null(strstr(r->detail, "too few"));
    assert_fails(EW_ENOENT, run_trial(&s, ew_test_path("none.gguf"), &items, r, &err), &err, "none.gguf");
    s = make_spec(EW_METHOD_NONE, "debian-sections");
    assert_fails(EW_ENOENT, run_trial(&s, toy_path("F16"), &items, r, &err), &err, "debian-sections");
    s = make_spec(EW_METHOD_BLOCKWISE, "debian-section");
    s.settings.exits = 8;
    assert_fails(EW_EINVAL, run_trial(&s, toy_path("F16"), &items, r, &err), &err, "do not make 8 blocks");
    s = make_spec(EW_METHOD_LORA, "debian-section");
    s.settings.optimizer_bits = 16;
    assert_fails(EW_EINVAL, run_trial(&s, toy_path("F16"), &items, r, &err), &err, "8 or 32 bits");
    ew_free(r);
}

static void a_truncated_model_file_is_refused(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_BUF file = {.max = 1 << 26};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    assert_ok(ew_file_read(toy_path("F16"), file.max, &file, &err), &err);
    const char *path = ew_test_file("cut.gguf", file.data, file.size * 2 / 3);
    assert_fails(EW_ECORRUPT, run_trial(&s, path, &items, r, &err), &err, "cut.gguf");
    ew_free(r);
}

static void a_trial_over_the_budget_names_the_smallest_that_would_do(void **state)
{
    skip_emulated("its own memory counts");
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_run_forecast f = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    (void)state;
    assert_ok(toy_items(25, 8, 5, false, 5, &items), &err);
    s.budget.ram_bytes = 2 << 20;
    assert_fails(EW_ELIMIT, run_trial(&s, toy_path("F16"), &items, r, &err), &err, "HINT: a limit of ");
    unsigned long long need = strtoull(strstr(err.msg, "a limit of ") + strlen("a limit of "), NULL, 10);
    assert_true(need > (2 << 20));
    /* Forced, it runs all the same. */
    s.force = true;
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    s.force = false;
    /* The hint is good, with room for what this process itself has grown by since. */
    s.budget.ram_bytes = need + (8 << 20);
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    /* The limit of the environment counts as the spec's does. */
    s.budget.ram_bytes = 0;
    const ew_run_env env = {.model_path = toy_path("F16"), .items = &items, .memory_limit_bytes = 2 << 20};
    assert_fails(EW_ELIMIT, ew_run_trial(&s, &env, r, NULL, &err), &err, "2.0 MiB");
    assert_fails(EW_ELIMIT, ew_run_predict(&s, &env, &f, &err), &err, "HINT");
    ew_free(r);
}

static void limits_of_items_take_the_first_of_each_part(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_RAG, "debian-synopsis");
    (void)state;
    assert_ok(toy_items(40, 12, 5, true, 5, &items), &err);
    s.n_history = 7;
    s.settings.max_val_items = 2;
    s.settings.max_test_items = 3;
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "n.history") == 7);
    assert_true(ew_trial_result_mean(r, "n.val") == 2 && ew_trial_result_mean(r, "n.test") == 3);
    assert_true(isfinite(ew_trial_result_mean(r, "test.rouge1")));
    assert_true(isfinite(ew_trial_result_mean(r, "baseline.first8")));
    ew_free(r);
}

static void a_limit_on_steps_never_lengthens_the_training(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec s = make_spec(EW_METHOD_LORA, "debian-section");
    (void)state;
    assert_ok(toy_items(40, 6, 5, false, 5, &items), &err); /* 24 of history: 3 steps an epoch */
    s.settings.epochs = 1;
    s.settings.max_steps = 500;
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "tune.steps") == 3);
    s.settings.max_steps = 2;
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "tune.steps") == 2);
    s.settings.max_steps = 0;
    s.settings.batch_tok = 1; /* an example a step */
    assert_ok(run_trial(&s, toy_path("F16"), &items, r, &err), &err);
    assert_true(ew_trial_result_mean(r, "tune.steps") == 24);
    ew_free(r);
}

/* ---- memory: in a process of its own ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* argv: child MODEL METHOD[/fused]; prints predicted and peak bytes. */
static int child(const char *model, const char *method)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO(ew_pool) pool = NULL;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    char name[32];
    (void)ew_str_copy(name, sizeof(name), method);
    char *fused = strchr(name, '/');
    if (fused != NULL) {
        *fused = '\0';
    }
    ew_trial_spec s = make_spec(ew_method_from_name(name), "debian-section");
    s.settings.epochs = 1;
    s.settings.rag_rank = fused != NULL ? EW_RAG_RANK_FUSED : EW_RAG_RANK_BM25;
    ew_status st = toy_items(40, 30, 10, false, 5, &items);
    st = st == EW_OK ? ew_pool_new(2, &pool, &err) : st;
    const ew_run_env env = {.model_path = model, .items = &items, .exec = {.kern = ew_kern_get(NULL), .pool = pool}};
    st = st == EW_OK ? ew_run_trial(&s, &env, r, NULL, &err) : st;
    (void)printf("%.0f %.0f %s\n", ew_trial_result_mean(r, "ram.predicted_bytes"),
                 ew_trial_result_mean(r, "ram.peak_bytes"), err.msg);
    ew_free(r);
    return st == EW_OK ? 0 : 1;
}

static void the_peak_of_a_process_is_what_was_predicted(void **state)
{
    skip_emulated("its own memory counts");
    static const struct {
        toy_shape s;
        const char *dtype;
    } models[] = {
        {{.C = 128, .H = 4, .K = 2, .F = 384, .V = 2048, .L = 4, .n_ctx = 512}, "F16"},
        {{.C = 128, .H = 4, .K = 2, .F = 384, .V = 4096, .L = 6, .n_ctx = 512}, "Q8_0"},
        {{.C = 384, .H = 12, .K = 4, .F = 1024, .V = 16384, .L = 6, .n_ctx = 512}, "F16"},
    };
    static const char *const methods[] = {"none",   "lora",      "rag",           "lora+rag", "prompt",
                                          "prefix", "ia3",       "bottleneck",    "mezo",     "blockwise",
                                          "full",   "rag/fused", "lora+rag/fused"};
    ew_error err = EW_ERROR_INIT;
    char self[1024];
    (void)state;
    if (SANITIZED) {
        skip();
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(n > 0);
    self[n] = '\0';
    for (size_t m = 0; m < EW_COUNT(models); m++) {
        const char *path = ew_test_path("sized.gguf");
        assert_ok(toy_save(path, &models[m].s, models[m].dtype, 1, &err), &err);
        for (size_t k = 0; k < EW_COUNT(methods); k++) {
            char command[4096];
            double predicted = 0;
            double peak = 0;
            (void)snprintf(command, sizeof(command), "'%s' child '%s' %s", self, path, methods[k]);
            FILE *f = popen(command, "r");
            assert_non_null(f);
            int got = fscanf(f, "%lf %lf", &predicted, &peak);
            assert_int_equal(pclose(f), 0);
            assert_int_equal(got, 2);
            print_message("model %zu %-8s predicted %6.2f MiB, peak %6.2f MiB (%+.1f %%)\n", m, methods[k],
                          predicted / 1048576, peak / 1048576, 100 * (predicted / peak - 1));
            assert_true(predicted > 0.95 * peak);
            assert_true(predicted < 1.10 * peak);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "child") == 0) {
        return child(argv[2], argv[3]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_and_answer_never_exceed_the_sequence),
        cmocka_unit_test(only_earlier_items_are_retrieved),
        cmocka_unit_test(long_answers_are_cut_and_end_with_end_of_text),
        cmocka_unit_test(a_sequence_without_room_for_a_prompt_is_refused),
        cmocka_unit_test(classification_takes_the_likeliest_label_and_its_nll_is_the_sessions),
        cmocka_unit_test(an_answer_that_is_no_label_is_wrong_but_has_a_likelihood),
        cmocka_unit_test(generation_gives_the_text_of_a_fresh_greedy_run),
        cmocka_unit_test(scoring_stops_when_asked_and_nothing_is_scored_without_items),
        cmocka_unit_test(every_method_gives_all_its_measures_in_every_type),
        cmocka_unit_test(rankings_of_retrieval_change_the_prompts_and_bm25_is_the_default),
        cmocka_unit_test(repeats_add_values_and_warm_up_adds_none),
        cmocka_unit_test(the_same_seed_gives_the_same_scores_and_another_trains_differently),
        cmocka_unit_test(learning_lowers_the_answer_nll_and_opens_the_gate),
        cmocka_unit_test(a_trial_stopped_in_training_goes_on_from_its_checkpoint),
        cmocka_unit_test(a_history_that_changed_since_the_checkpoint_is_learned_anew),
        cmocka_unit_test(what_cannot_be_run_says_why),
        cmocka_unit_test(a_truncated_model_file_is_refused),
        cmocka_unit_test(a_trial_over_the_budget_names_the_smallest_that_would_do),
        cmocka_unit_test(limits_of_items_take_the_first_of_each_part),
        cmocka_unit_test(a_limit_on_steps_never_lengthens_the_training),
        cmocka_unit_test(the_peak_of_a_process_is_what_was_predicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

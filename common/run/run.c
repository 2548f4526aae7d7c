#include "run/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "probe/cost.h"
#include "probe/learning.h"
#include "run/prompter.h"
#include "run/score.h"
#include "sys/cpu.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "task/baseline.h"
#include "train/tune.h"

#define SEQ_MAX_DEFAULT 512u
#define PACE_S 0.12 /* of prompts that are timed before a trial */
#define PACE_MIN 0.5
#define PACE_MAX 8.0
#define BATCH_DEFAULT 8u /* as train/tune.h takes it */

typedef struct trial {
    const ew_trial_spec *spec;
    const ew_run_env *env;
    ew_exec exec;
    ew_model *model;
    const ew_tokenizer *tokenizer;
    ew_task *task;
    ew_items items; /* a copy of the user's, in the split's order */
    const ew_item *history, *val, *test;
    size_t n_history, n_val, n_test;
    uint32_t seq_max;
    ew_embedder *embedder;     /* of retrieval by vectors; NULL = none */
    ew_prompter *plain;        /* without retrieval */
    ew_session *session;       /* that timed the pace; the untouched model is scored in it */
    ew_prompter *method;       /* as the method wants it; the same as plain without retrieval */
    ew_tokens tokens;          /* of all examples, one after the other */
    ew_tune_example *examples; /* of the history, then val */
    size_t n_train;            /* examples of the history */
    ew_adapter *init;          /* where training starts; NULL = fresh */
    uint32_t n_ctx;            /* longest sequence that is evaluated */
    uint64_t file_before;      /* resident pages of files before the model was opened */
    uint64_t file_after;       /* and after */
    ew_cost_item cost;         /* means over the items */
    double prompts_s;          /* making the prompts of all items took so long */
    double seconds_by_rates;   /* the forecast at the probe's rates alone */
    ew_run_forecast forecast;
    ew_tune_opt tune;
    const char *stop_reason; /* why training ended */
    ew_tune_stop stop;
    ew_pool *pool; /* of as many threads as the settings allow; NULL = exec's own */
    ew_trial_result *out;
} trial;

static void trial_release(trial *t)
{
    if (t->method != t->plain) {
        ew_prompter_free(&t->method);
    }
    ew_prompter_free(&t->plain);
    ew_embedder_free(&t->embedder);
    ew_session_free(&t->session);
    ew_tokens_release(&t->tokens);
    ew_free(t->examples);
    ew_adapter_free(&t->init);
    ew_items_release(&t->items);
    ew_task_free(&t->task);
    ew_model_unref(&t->model);
    ew_pool_free(&t->pool);
}

void ew_run_product_release(ew_run_product *p)
{
    ew_adapter_free(&p->lora);
    *p = (ew_run_product){0};
}

/* ---- data ---- */

static ew_status load_items(trial *t, ew_error *reterr)
{
    for (size_t i = 0; i < t->env->items->n; i++) {
        EW_TRY(ew_items_add(&t->items, &t->env->items->item[i], reterr));
    }
    /* A person's own items have an order in time; a benchmark's do not. */
    bool profile = strcmp(t->spec->source, "profile") == 0;
    ew_user_split split = ew_split_user(t->items.item, t->items.n, profile ? EW_SPLIT_POSITION : EW_SPLIT_HASH);
    if (split.n_test == 0 || split.n_val == 0) {
        return ew_fail(reterr, EW_ELIMIT,
                       "%zu items are too few to learn from and to be scored on: at least 5 are needed", t->items.n);
    }
    t->history = t->items.item;
    t->n_history = split.n_history;
    t->val = t->history + split.n_history;
    t->n_val = split.n_val;
    t->test = t->val + split.n_val;
    t->n_test = split.n_test;
    EW_TRY(ew_task_new(t->spec->task, t->history, t->n_history, &t->task, reterr));
    const ew_settings *s = &t->spec->settings;
    t->n_val = s->max_val_items != 0 ? EW_MIN(t->n_val, (size_t)s->max_val_items) : t->n_val;
    t->n_test = s->max_test_items != 0 ? EW_MIN(t->n_test, (size_t)s->max_test_items) : t->n_test;
    if (t->spec->n_history != 0) {
        t->n_history = EW_MIN(t->n_history, (size_t)t->spec->n_history);
    }
    return EW_OK;
}

static ew_status file_bytes(uint64_t *ret, ew_error *reterr)
{
    ew_proc_mem now = {0};
    EW_TRY(ew_proc_mem_read(&now, reterr));
    *ret = now.rss_bytes - now.anon_bytes;
    return EW_OK;
}

/* The pages that the vectors of the history bring in are the model's: they count with its weights, like those that opening touched. What the
 * embedder itself takes is resident when the forecast is made, for every text of the trial has been through it by then. */
static ew_status load_method_prompter(trial *t, ew_prompter_opt *opt, ew_error *reterr)
{
    uint64_t before = 0;
    uint64_t after = 0;
    const ew_settings *s = &t->spec->settings;
    opt->rag_k = ew_trial_rag_k(t->spec);
    opt->rag_recency = s->rag_recency;
    opt->rag_fuse = ew_prompter_fuse(s->rag_rank);
    t->method = NULL;
    if (!ew_prompter_embeds(s->rag_rank)) {
        return ew_prompter_new(opt, t->history, t->n_history, &t->method, reterr);
    }
    EW_TRY(ew_embedder_new(t->model, &(ew_embed_opt){.exec = t->exec}, &t->embedder, reterr));
    opt->embedder = t->embedder;
    EW_TRY(file_bytes(&before, reterr));
    EW_TRY(ew_prompter_new(opt, t->history, t->n_history, &t->method, reterr));
    EW_TRY(file_bytes(&after, reterr));
    t->file_after += after - EW_MIN(after, before);
    return EW_OK;
}

static ew_status load_prompters(trial *t, ew_error *reterr)
{
    const ew_settings *s = &t->spec->settings;
    uint32_t ctx = ew_model_config_of(t->model)->n_ctx_train;
    t->seq_max = EW_MIN(s->seq_max_tok != 0 ? s->seq_max_tok : SEQ_MAX_DEFAULT, ctx);
    ew_prompter_opt opt = {.task = t->task, .tokenizer = t->tokenizer, .seq_max_tok = t->seq_max};
    EW_TRY(ew_prompter_new(&opt, NULL, 0, &t->plain, reterr));
    t->method = t->plain;
    if (ew_method_retrieves(t->spec->method)) {
        return load_method_prompter(t, &opt, reterr);
    }
    return EW_OK;
}

static ew_status load_model(trial *t, ew_error *reterr)
{
    ew_proc_mem before = {0};
    ew_proc_mem after = {0};
    EW_TRY(ew_proc_mem_read(&before, reterr));
    EW_TRY(ew_model_open(t->env->model_path, NULL, &t->model, reterr));
    EW_TRY(ew_proc_mem_read(&after, reterr));
    t->file_before = before.rss_bytes - before.anon_bytes;
    t->file_after = after.rss_bytes - after.anon_bytes;
    t->tokenizer = ew_model_tokenizer(t->model);
    if (t->tokenizer == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer: a trial needs one", t->env->model_path);
    }
    return EW_OK;
}

/* ---- training examples ---- */

static ew_status add_example(trial *t, const ew_item *item, ew_tune_example *ret, ew_error *reterr)
{
    size_t start = t->tokens.n;
    EW_TRY(ew_prompter_prompt(t->method, item->input, item->order, &t->tokens, reterr));
    ret->n_prompt = (uint32_t)(t->tokens.n - start);
    EW_TRY(ew_prompter_answer(t->method, item->output, &t->tokens, reterr));
    ret->n_answer = (uint32_t)(t->tokens.n - start) - ret->n_prompt;
    return EW_OK;
}

static bool learns(const trial *t, const ew_item *item)
{
    return t->env->learns == NULL || t->env->learns(item, t->env->progress.ctx);
}

static ew_status make_examples(trial *t, ew_error *reterr)
{
    size_t max = t->n_history + t->n_val;
    size_t at = 0;
    t->examples = ew_calloc(max, sizeof(*t->examples));
    if (t->examples == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for %zu examples", max);
    }
    for (size_t i = 0; i < t->n_history; i++) {
        if (learns(t, &t->history[i])) {
            EW_TRY(add_example(t, &t->history[i], &t->examples[t->n_train], reterr));
            t->n_train++;
        }
    }
    if (t->n_train == 0) {
        return ew_fail(reterr, EW_ELIMIT, "there is no item to learn from");
    }
    size_t n = t->n_train + t->n_val;
    for (size_t i = t->n_train; i < n; i++) {
        EW_TRY(add_example(t, &t->val[i - t->n_train], &t->examples[i], reterr));
    }
    /* Only now: the array of tokens has stopped moving. */
    for (size_t i = 0; i < n; i++) {
        t->examples[i].id = t->tokens.id + at;
        at += t->examples[i].n_prompt + t->examples[i].n_answer;
    }
    return EW_OK;
}

/* Examples of a step: the trainer's own number, or as many as make the tokens that were asked for. */
static uint32_t batch_of(const trial *t)
{
    if (t->spec->settings.batch_tok == 0) {
        return 0;
    }
    double mean = (double)t->tokens.n / (double)(t->n_train + t->n_val);
    return (uint32_t)EW_MAX(t->spec->settings.batch_tok / mean + 0.5, 1.0);
}

static ew_status fill_tune(trial *t, ew_error *reterr)
{
    const ew_settings *s = &t->spec->settings;
    const uint32_t batch = batch_of(t);
    ew_learning l;
    EW_TRY(ew_learning_of(t->spec->method, s, t->task->kind == EW_TASK_GENERATE, ew_model_config_of(t->model)->L,
                          t->spec->seed, &l, reterr));
    const uint64_t steps = (uint64_t)l.epochs * ((t->n_train + (batch != 0 ? batch : BATCH_DEFAULT) - 1) /
                                                 (batch != 0 ? batch : BATCH_DEFAULT));
    t->tune = (ew_tune_opt){
        .model = t->model,
        .exec = t->exec,
        .adapter = l.adapter,
        .train = t->examples,
        .init = t->init,
        .n_train = t->n_train,
        .val = t->examples + t->n_train,
        .n_val = t->n_val,
        .lr = l.lr,
        .weight_decay = (float)s->weight_decay,
        .epochs = l.epochs,
        .batch = batch,
        /* A limit: it never lengthens the training. */
        .max_steps = s->max_steps != 0 ? (uint32_t)EW_MIN((uint64_t)s->max_steps, EW_MAX(steps, (uint64_t)1)) : 0,
        .seq_max = t->seq_max,
        .patience = s->patience,
        .rung = l.rung,
        .optimizer_8bit = l.optimizer_8bit,
        .max_seconds = t->spec->budget.seconds,
        .max_joules = t->spec->budget.joules,
        .only_on_mains = t->spec->budget.mains_only,
        .max_temperature_c = t->env->max_temperature_c,
        .seed = t->spec->seed,
        .progress = t->env->progress,
    };
    return EW_OK;
}

/* ---- prediction ---- */

static uint64_t ram_limit(const trial *t)
{
    uint64_t a = t->spec->budget.ram_bytes;
    uint64_t b = t->env->memory_limit_bytes;
    return a == 0 ? b : b == 0 ? a : EW_MIN(a, b);
}

static ew_cost_ram_opt ram_opt(const trial *t)
{
    return (ew_cost_ram_opt){.model = t->model,
                             .exec = t->exec,
                             .method = t->spec->method,
                             .settings = &t->spec->settings,
                             .n_ctx = t->n_ctx,
                             .tune = ew_method_trains(t->spec->method) ? &t->tune : NULL};
}

/* What is resident now, but for the model's file: its pages count with the weights, whichever of them opening touched. */
static ew_status process_bytes(const trial *t, uint64_t *ret, ew_error *reterr)
{
    ew_proc_mem now = {0};
    EW_TRY(ew_proc_mem_read(&now, reterr));
    uint64_t file = now.rss_bytes - now.anon_bytes;
    *ret = now.anon_bytes + t->file_before + (file - EW_MIN(file, t->file_after));
    return EW_OK;
}

static ew_status predict_ram(trial *t, ew_error *reterr)
{
    ew_cost_ram_opt opt = ram_opt(t);
    EW_TRY(process_bytes(t, &opt.process_bytes, reterr));
    EW_TRY(ew_cost_ram(&opt, &t->forecast.ram_bytes, reterr));
    uint64_t limit = ram_limit(t);
    if (limit != 0 && t->forecast.ram_bytes > limit && !t->spec->force) {
        char need[24];
        char have[24];
        return ew_fail(
            reterr, EW_ELIMIT, "%s on %s needs %s of memory, the limit is %s. HINT: a limit of %llu bytes would do",
            ew_method_name(t->spec->method), t->spec->variant, ew_str_bytes(need, sizeof(need), t->forecast.ram_bytes),
            ew_str_bytes(have, sizeof(have), limit), (unsigned long long)t->forecast.ram_bytes);
    }
    return EW_OK;
}

/* Evaluations of single tokens per item, as score.c makes them. Labels that begin alike share what they share. */
static ew_status count_candidates(trial *t, ew_error *reterr)
{
    EW_AUTO_TOKENS before = {0};
    EW_AUTO_TOKENS ids = {0};
    double sum = 0;
    for (size_t i = 0; i < t->task->n_labels; i++) {
        size_t common = 0;
        ids.n = 0;
        EW_TRY(ew_prompter_answer(t->plain, t->task->labels[i], &ids, reterr));
        while (common + 1 < EW_MIN(ids.n, before.n) && ids.id[common] == before.id[common]) {
            common++;
        }
        sum += (double)(ids.n - 1 - common);
        ew_tokens swap = before;
        before = ids;
        ids = swap;
    }
    t->cost.decode_tok =
        t->task->n_labels > 0 ? sum : ew_cost_generate_tok(t->cost.answer_tok, (double)t->task->max_answer_tok);
    return EW_OK;
}

/* Means over the items that will be evaluated and learned from. */
static ew_status measure_items(trial *t, ew_error *reterr)
{
    EW_AUTO_TOKENS ids = {0};
    size_t n = t->n_val + t->n_test;
    double prompt = 0;
    double filled = 0;
    double answer = 0;
    size_t longest = 0;
    uint64_t begin = ew_mono_ns();
    for (size_t i = 0; i < n; i++) {
        const ew_item *item = i < t->n_val ? &t->val[i] : &t->test[i - t->n_val];
        ids.n = 0;
        EW_TRY(ew_prompter_prompt(t->plain, item->input, item->order, &ids, reterr));
        prompt += (double)ids.n;
        longest = EW_MAX(longest, ids.n);
        ids.n = 0;
        EW_TRY(ew_prompter_prompt(t->method, item->input, item->order, &ids, reterr));
        filled += (double)ids.n;
        longest = EW_MAX(longest, ids.n);
        ids.n = 0;
        EW_TRY(ew_prompter_answer(t->plain, item->output, &ids, reterr));
        answer += (double)ids.n;
    }
    t->cost = (ew_cost_item){
        .prompt_tok = prompt / (double)n, .answer_tok = answer / (double)n, .filled_tok = filled / (double)n};
    t->prompts_s = (double)(ew_mono_ns() - begin) * 1e-9;
    /* Room for the longest prompt and what is tried or written after it. */
    t->n_ctx = EW_MIN((uint32_t)longest + (uint32_t)t->task->max_answer_tok + 2, t->seq_max);
    return count_candidates(t, reterr);
}

static const char *dtype_of(const trial *t, char dst[static EW_VARIANT_SIZE])
{
    const char *name = ew_model_dtype_name(t->model);
    size_t i = 0;
    for (; name[i] != '\0' && i + 1 < EW_VARIANT_SIZE; i++) {
        dst[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
    }
    dst[i] = '\0';
    return dst;
}

/* How many times slower than its probe found it the machine is just now, with whatever else it does: some prompts of this trial against what the
 * rates say of them. The first one reads the weights in and does not count. */
static ew_status measure_pace(trial *t, const char *dtype, double *ret_pace, ew_error *reterr)
{
    EW_AUTO_TOKENS ids = {0};
    ew_cost_work work = {0};
    double squares = 0;
    double seconds = 0;
    ew_cost_ram_opt ram = ram_opt(t);
    ew_session_opt opt = ew_cost_session(&ram);
    EW_TRY(ew_session_new(t->model, &opt, &t->session, reterr));
    for (size_t i = 0; i <= t->n_test && (i < 2 || seconds < PACE_S); i++) {
        const ew_item *item = &t->test[i > 0 ? i - 1 : 0];
        ids.n = 0;
        EW_TRY(ew_prompter_prompt(t->plain, item->input, item->order, &ids, reterr));
        ew_session_reset(t->session);
        uint64_t begin = ew_mono_ns();
        EW_TRY(ew_session_eval(t->session, ids.id, ids.n, NULL, reterr));
        if (i > 0) {
            seconds += (double)(ew_mono_ns() - begin) * 1e-9;
            work.prefill_tok += (double)ids.n;
            squares += (double)ids.n * (double)ids.n;
        }
    }
    work.prefill_ctx = squares / 2 / work.prefill_tok;
    double expected = ew_cost_seconds(t->env->caps, ew_model_config_of(t->model), dtype, &work, NULL, NULL);
    *ret_pace = seconds > 0 && expected > 0 ? fmin(fmax(seconds / expected, PACE_MIN), PACE_MAX) : 1;
    return EW_OK;
}

static ew_status predict_seconds(trial *t, ew_error *reterr)
{
    ew_cost_work work;
    char dtype[EW_VARIANT_SIZE];
    double pace = 1;
    t->forecast.seconds = NAN;
    t->seconds_by_rates = NAN;
    if (t->env->caps == NULL) {
        return EW_OK;
    }
    const ew_model_config *cfg = ew_model_config_of(t->model);
    (void)dtype_of(t, dtype);
    size_t n_learned = t->n_train != 0 ? t->n_train : t->n_history;
    ew_cost_work_of(t->spec->method, &t->spec->settings, &t->cost, n_learned, t->n_val, t->n_test, &work);
    t->seconds_by_rates = ew_cost_seconds(t->env->caps, cfg, dtype, &work, NULL, NULL) + t->prompts_s;
    if (!isfinite(t->seconds_by_rates)) {
        return EW_OK;
    }
    EW_TRY(measure_pace(t, dtype, &pace, reterr));
    work.max_seconds = t->spec->budget.seconds / pace;
    t->forecast.seconds = pace * ew_cost_seconds(t->env->caps, cfg, dtype, &work, NULL, NULL) + t->prompts_s;
    return EW_OK;
}

static ew_status prepare(trial *t, ew_error *reterr)
{
    EW_TRY(ew_trial_spec_check(t->spec, reterr));
    const unsigned allowed = t->spec->settings.n_threads;
    if (allowed != 0 && t->exec.pool != NULL && allowed < ew_pool_threads(t->exec.pool)) {
        EW_TRY(ew_pool_new(allowed, &t->pool, reterr));
        t->exec.pool = t->pool;
    }
    EW_TRY(load_items(t, reterr));
    EW_TRY(load_model(t, reterr));
    EW_TRY(load_prompters(t, reterr));
    if (ew_method_trains(t->spec->method)) {
        EW_TRY(make_examples(t, reterr));
        if (t->env->init_path != NULL) {
            EW_TRY(ew_adapter_load_gguf(t->env->init_path, t->model, &t->init, reterr));
        }
        EW_TRY(fill_tune(t, reterr));
    }
    EW_TRY(measure_items(t, reterr));
    EW_TRY(predict_ram(t, reterr));
    return predict_seconds(t, reterr);
}

/* ---- execution ---- */

static void add(trial *t, const char *prefix, const char *name, const char *unit, double v)
{
    char full[48];
    (void)snprintf(full, sizeof(full), "%s%s", prefix, name);
    if (isfinite(v)) {
        (void)ew_trial_result_add(t->out, full, unit, v);
    }
}

typedef struct pair {
    ew_score val, test;
    double seconds;
} pair;

/* adapter NULL: the untouched model. */
static ew_status score_pair(trial *t, ew_prompter *prompter, const ew_adapter *adapter, pair *ret, ew_error *reterr)
{
    EW_AUTO(ew_model) tuned = NULL;
    EW_AUTO(ew_session) s = NULL;
    uint64_t begin = ew_mono_ns();
    ew_cost_ram_opt ram = ram_opt(t);
    ew_session_opt opt = ew_cost_session(&ram);
    if (adapter != NULL) {
        EW_TRY(ew_adapter_model(adapter, t->model, &tuned, reterr));
        opt.hooks = ew_adapter_hooks(adapter);
        EW_TRY(ew_session_new(tuned, &opt, &s, reterr));
    } else if (t->session != NULL) {
        s = t->session;
        t->session = NULL;
    } else {
        EW_TRY(ew_session_new(t->model, &opt, &s, reterr));
    }
    EW_TRY(ew_score_items(s, t->task, prompter, t->val, t->n_val, &t->env->progress, &ret->val, reterr));
    EW_TRY(ew_score_items(s, t->task, prompter, t->test, t->n_test, &t->env->progress, &ret->test, reterr));
    ret->seconds = (double)(ew_mono_ns() - begin) * 1e-9;
    return EW_OK;
}

static ew_status add_baselines(trial *t, ew_error *reterr)
{
    ew_scores scores[EW_BASELINE_COUNT];
    EW_TRY(ew_baseline_scores(t->task, t->history, t->n_history, t->test, t->n_test, scores, reterr));
    for (int b = 0; b < EW_BASELINE_COUNT; b++) {
        bool lower = false;
        double v =
            ew_baseline_applies(t->task, (ew_baseline)b) ? ew_scores_primary(t->task, &scores[b], &lower) : (double)NAN;
        add(t, "baseline.", ew_baseline_name((ew_baseline)b), "1", lower ? -v : v);
    }
    return EW_OK;
}

static ew_status learn(trial *t, ew_adapter **ret_lora, ew_error *reterr)
{
    char path[1024];
    ew_tune_report *report = ew_calloc(1, sizeof(*report));
    if (report == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the report of training");
    }
    if (t->env->work_dir != NULL) {
        char hex[2 * EW_UID_BYTES + 1];
        ew_hex_encode(t->spec->id, EW_UID_BYTES, hex);
        (void)snprintf(path, sizeof(path), "%s/%s.tune", t->env->work_dir, hex);
        t->tune.checkpoint = path;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_tune(&t->tune, ret_lora, report, &err);
    if (t->tune.checkpoint != NULL && (st == EW_ECONFLICT || st == EW_ECORRUPT)) {
        /* The history is not what it was when the trial was interrupted (items came, items were forgotten): anew. */
        (void)remove(path);
        st = ew_tune(&t->tune, ret_lora, report, &err);
    }
    if (st != EW_OK) {
        (void)ew_fail(reterr, st, "%s", err.msg);
    }
    if (st == EW_OK) {
        add(t, "tune.", "seconds", "s", report->seconds);
        add(t, "tune.", "tok_per_s", "tok/s", report->tok_per_s);
        add(t, "tune.", "steps", "1", report->steps);
        add(t, "tune.", "skipped", "1", report->skipped);
        add(t, "tune.", "truncated", "1", (double)report->truncated);
        t->stop = report->stop;
        t->stop_reason = report->stop_reason;
        add(t, "tune.", "tokens", "tok", (double)report->tokens);
        add(t, "tune.", "joules", "J", report->joules);
        add(t, "tune.", "rung", "1", (double)report->rung);
        add(t, "tune.", "val_nll_before", "nat/tok", (double)report->val_nll_before);
        add(t, "tune.", "val_nll_best", "nat/tok", (double)report->val_nll_best);
        if (t->tune.checkpoint != NULL) {
            (void)remove(path);
        }
    }
    ew_free(report);
    return st;
}

static void add_scores(trial *t, const char *prefix, const pair *p)
{
    add(t, prefix, "val.score", "1", p->val.primary);
    add(t, prefix, "val.nll", "nat/tok", p->val.nll);
    add(t, prefix, "test.score", "1", p->test.primary);
    add(t, prefix, "test.nll", "nat/tok", p->test.nll);
}

static void add_metrics(trial *t, const ew_scores *s)
{
    add(t, "test.", "accuracy", "1", s->accuracy);
    add(t, "test.", "macro_f1", "1", s->macro_f1);
    add(t, "test.", "mae", "1", s->mae);
    add(t, "test.", "rmse", "1", s->rmse);
    add(t, "test.", "rouge1", "1", s->rouge1);
    add(t, "test.", "rougeL", "1", s->rougeL);
}

static ew_status execute(trial *t, ew_run_product *product, ew_error *reterr)
{
    pair base = {EW_SCORE_NONE, EW_SCORE_NONE, 0};
    pair method;
    EW_AUTO(ew_adapter) lora = NULL;
    uint64_t begin = ew_mono_ns();
    EW_TRY(score_pair(t, t->plain, NULL, &base, reterr));
    method = base;
    if (ew_method_trains(t->spec->method)) {
        EW_TRY(learn(t, &lora, reterr));
    }
    if (t->spec->method != EW_METHOD_NONE) {
        EW_TRY(score_pair(t, t->method, lora, &method, reterr));
    }
    double seconds = (double)(ew_mono_ns() - begin) * 1e-9;
    EW_TRY(add_baselines(t, reterr));
    add_scores(t, "base.", &base);
    add_scores(t, "", &method);
    add_metrics(t, &method.test.scores);
    /* Decided on validation items alone: likelier answers and no worse score. */
    bool better = t->spec->method != EW_METHOD_NONE && ew_score_beats(t->task, &method.val, &base.val);
    const pair *winner = better ? &method : &base;
    add(t, "", "gate", "1", better);
    add(t, "gated.", "score", "1", winner->test.primary);
    add(t, "gated.", "nll", "nat/tok", winner->test.nll);
    add(t, "", "seconds", "s", seconds);
    add(t, "seconds.", "predicted", "s", t->forecast.seconds);
    add(t, "seconds.", "by_rates", "s", t->seconds_by_rates);
    add(t, "n.", "history", "1", t->spec->method == EW_METHOD_NONE ? 0 : (double)t->n_history);
    add(t, "n.", "val", "1", (double)t->n_val);
    add(t, "n.", "test", "1", (double)t->n_test);
    ew_proc_mem mem = {0};
    if (ew_proc_mem_read(&mem, NULL) == EW_OK) {
        add(t, "ram.", "peak_bytes", "B", (double)mem.rss_peak_bytes);
    }
    add(t, "ram.", "predicted_bytes", "B", (double)t->forecast.ram_bytes);
    if (product != NULL) {
        product->lora = lora;
        product->better = better;
        product->stop_reason = t->stop_reason;
        product->diverged = t->stop == EW_TUNE_STOP_DIVERGED;
        product->unfinished = t->stop_reason != NULL && t->stop != EW_TUNE_STOP_DONE &&
                              t->stop != EW_TUNE_STOP_PLATEAU && t->stop != EW_TUNE_STOP_DIVERGED;
        lora = NULL;
    }
    return EW_OK;
}

/* Warm-up runs leave no measures; each repeat adds a value to every measure. The seed is the same: what differs is time. */
static ew_status execute_all(trial *t, ew_run_product *product, ew_error *reterr)
{
    const uint32_t repeats = EW_MAX(t->spec->repeats, 1u);
    for (uint32_t i = 0; i < t->spec->warmup + repeats; i++) {
        if (i == t->spec->warmup) {
            t->out->n_measures = 0;
        }
        EW_TRY(execute(t, i + 1 == t->spec->warmup + repeats ? product : NULL, reterr));
    }
    return EW_OK;
}

/* Results compare only within one processor, kernel table and software. */
static void hash_environment(const trial *t, uint8_t ret_hash[EW_SHA256_BYTES])
{
    char text[256];
    char cpu[128];
    int n = snprintf(text, sizeof(text), "edgewise 1;%s;%s;%u", ew_kern_name(t->exec.kern),
                     ew_cpu_model(cpu, sizeof(cpu)), t->exec.pool != NULL ? ew_pool_threads(t->exec.pool) : 1u);
    ew_sha256(text, (size_t)EW_MIN(EW_MAX(n, 0), (int)sizeof(text) - 1), ret_hash);
}

static trial trial_of(const ew_trial_spec *spec, const ew_run_env *env, ew_trial_result *out)
{
    trial t = {.spec = spec, .env = env, .exec = env->exec, .out = out};
    if (t.exec.kern == NULL) {
        t.exec.kern = ew_kern_get(NULL);
    }
    return t;
}

ew_status ew_run_trial(const ew_trial_spec *spec, const ew_run_env *env, ew_trial_result *ret_result,
                       ew_run_product *product, ew_error *reterr)
{
    ew_error err = EW_ERROR_INIT;
    memset(ret_result, 0, sizeof(*ret_result));
    memcpy(ret_result->id, spec->id, sizeof(spec->id));
    ret_result->fence = spec->fence;
    trial t = trial_of(spec, env, ret_result);
    hash_environment(&t, ret_result->env_hash);
    ew_status st = prepare(&t, &err);
    if (st == EW_OK && env->on_forecast != NULL) {
        env->on_forecast(&t.forecast, env->progress.ctx);
    }
    if (st == EW_OK) {
        st = execute_all(&t, product, &err);
    }
    trial_release(&t);
    ret_result->code = st;
    if (st != EW_OK) {
        (void)ew_str_copy(ret_result->detail, sizeof(ret_result->detail), err.msg);
        return ew_fail(reterr, st, "%s", err.msg);
    }
    return EW_OK;
}

ew_status ew_run_predict(const ew_trial_spec *spec, const ew_run_env *env, ew_run_forecast *ret_forecast,
                         ew_error *reterr)
{
    trial t = trial_of(spec, env, NULL);
    ew_status st = prepare(&t, reterr);
    if (st == EW_OK) {
        *ret_forecast = t.forecast;
    }
    trial_release(&t);
    return st;
}

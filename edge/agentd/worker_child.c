#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "agentd/replay.h"
#include "agentd/worker.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "probe/probe.h"
#include "record/record.h"
#include "run/held.h"
#include "run/run.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "sys/signal.h"
#include "text/json.h"

#define PROGRESS_MS 200

typedef struct job {
    json_t *json;
    ew_trial_spec spec;
    ew_device_caps *caps;
    ew_items items;
    const char *model, *items_path, *work, *adapter, *kern;
    int64_t memory_limit, threads;
    bool profile;
    struct {
        bool there, update;
        const char *path;
        int64_t rag_k, rag_rank, known;
        double replay;
    } served;
    double max_temperature;
} job;

/* What on_progress and the choice of items share with the run. */
typedef struct view {
    uint64_t last_ms;
    const ew_replay_use *use; /* of the history; NULL = all of it */
    size_t n_history;
} view;

static void job_release(job *j)
{
    json_decref(j->json);
    ew_free(j->caps);
    ew_items_release(&j->items);
}

/* The whole of standard input: the job's line, then the items. */
static ew_status read_input(ew_buf *in, ew_error *reterr)
{
    char block[65536];
    size_t n;
    in->max = 512 * EW_MIB;
    while ((n = fread(block, 1, sizeof(block), stdin)) > 0) {
        ew_buf_add(in, block, n);
    }
    return ew_buf_check(in, reterr);
}

static ew_status read_served(job *j, ew_error *reterr)
{
    const json_t *s = json_object_get(j->json, "served");
    if (s == NULL) {
        return EW_OK;
    }
    EW_TRY(ew_json_opt_bool(s, "served", "there", &j->served.there, reterr));
    EW_TRY(ew_json_opt_bool(s, "served", "update", &j->served.update, reterr));
    EW_TRY(ew_json_opt_str(s, "served", "path", &j->served.path, reterr));
    EW_TRY(ew_json_opt_i64(s, "served", "rag_k", 0, 64, &j->served.rag_k, reterr));
    EW_TRY(ew_json_opt_i64(s, "served", "rag_rank", 0, EW_RAG_RANK_COUNT - 1, &j->served.rag_rank, reterr));
    EW_TRY(ew_json_opt_i64(s, "served", "known", 0, INT64_MAX, &j->served.known, reterr));
    EW_TRY(ew_json_opt_f64(s, "served", "replay", &j->served.replay, reterr));
    return ew_json_opt_f64(j->json, "job", "max_temperature", &j->max_temperature, reterr);
}

static ew_status read_job(job *j, ew_error *reterr)
{
    EW_AUTO_BUF in = {0};
    EW_TRY(read_input(&in, reterr));
    const char *end = in.size > 0 ? memchr(in.data, '\n', in.size) : NULL;
    if (end == NULL) {
        return ew_fail(reterr, EW_EINVAL,
                       "the worker command is started by the agent, with a job on its standard input");
    }
    size_t line = (size_t)(end - in.data);
    EW_TRY(ew_json_load("job", in.data, line, &j->json, reterr));
    if (json_object_get(j->json, "probe") != NULL) {
        return EW_OK;
    }
    EW_TRY(ew_record_to_spec(json_object_get(j->json, "spec"), &j->spec, reterr));
    EW_TRY(ew_json_get_str(j->json, "job", "model", &j->model, reterr));
    EW_TRY(ew_json_opt_str(j->json, "job", "items", &j->items_path, reterr));
    EW_TRY(ew_json_opt_str(j->json, "job", "work", &j->work, reterr));
    EW_TRY(ew_json_opt_str(j->json, "job", "adapter", &j->adapter, reterr));
    EW_TRY(ew_json_opt_str(j->json, "job", "kern", &j->kern, reterr));
    EW_TRY(ew_json_opt_i64(j->json, "job", "memory_limit", 0, INT64_MAX, &j->memory_limit, reterr));
    EW_TRY(ew_json_opt_i64(j->json, "job", "threads", 0, 1024, &j->threads, reterr));
    EW_TRY(ew_json_opt_bool(j->json, "job", "profile", &j->profile, reterr));
    EW_TRY(read_served(j, reterr));
    json_t *caps = json_object_get(j->json, "caps");
    if (json_is_object(caps)) {
        j->caps = ew_calloc(1, sizeof(*j->caps));
        if (j->caps == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "out of memory for a job");
        }
        EW_TRY(ew_record_to_caps(caps, j->caps, reterr));
    }
    if (j->profile) {
        return ew_items_read_mem("profile", end + 1, in.size - line - 1, &j->items, reterr);
    }
    return ew_items_read(j->items_path != NULL ? j->items_path : "", &j->items, reterr);
}

static bool on_progress(const ew_progress_info *info, void *ctx)
{
    view *v = ctx;
    uint64_t now = ew_mono_ms();
    if (now - v->last_ms >= PROGRESS_MS) {
        v->last_ms = now;
        (void)printf("{\"progress\":{\"phase\":\"%s\",\"unit\":\"%s\",\"done\":%llu,\"total\":%llu", info->phase,
                     info->unit, (unsigned long long)info->done, (unsigned long long)info->total);
        if (isfinite(info->loss)) {
            (void)printf(",\"loss\":%.6g", info->loss);
        }
        if (isfinite(info->left_s)) {
            (void)printf(",\"left_s\":%.6g", info->left_s);
        }
        if (info->tok_per_s > 0) {
            (void)printf(",\"tok_per_s\":%.6g", info->tok_per_s);
        }
        if (info->joules > 0) {
            (void)printf(",\"joules\":%.6g,\"estimated\":%s", info->joules, info->estimated ? "true" : "false");
        }
        (void)printf("}}\n");
        (void)fflush(stdout);
    }
    return !ew_signal_stop();
}

/* The agent gives answers beside the trial as far as memory allows. */
static void on_forecast(const ew_run_forecast *forecast, void *ctx)
{
    (void)ctx;
    (void)printf("{\"ram_bytes\":%llu}\n", (unsigned long long)forecast->ram_bytes);
    (void)fflush(stdout);
}

static ew_status save_adapter(const job *j, const ew_run_product *product, bool *ret_saved, ew_error *reterr)
{
    if (product->lora == NULL || j->adapter == NULL) {
        return EW_OK;
    }
    EW_AUTO(ew_model) m = NULL;
    EW_TRY(ew_model_open(j->model, NULL, &m, reterr));
    EW_TRY(ew_adapter_save_gguf(product->lora, m, j->adapter, reterr));
    *ret_saved = true;
    return EW_OK;
}

/* What is known beside the trial's result. */
typedef struct verdict {
    const ew_run_product *product;
    bool has_adapter, beats_served, served_beats_base;
    uint64_t known;
} verdict;

static ew_status tell_result(const ew_trial_result *result, const verdict *v, ew_error *reterr)
{
    EW_AUTO_JSON r = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_record_from_result(result, &r, reterr));
    const ew_run_product *p = v->product;
    EW_AUTO_JSON line = json_pack("{s:O,s:b,s:b,s:b,s:b,s:b,s:b,s:I,s:s}", "result", r, "better", p->better, "adapter",
                                  v->has_adapter, "beats_served", v->beats_served, "served_beats_base",
                                  v->served_beats_base, "diverged", p->diverged, "unfinished", p->unfinished, "known",
                                  (json_int_t)v->known, "stop", p->stop_reason != NULL ? p->stop_reason : "");
    if (line == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
    }
    EW_TRY(ew_json_dump(line, 0, &text, reterr));
    (void)printf("%s\n", ew_buf_str(&text));
    return fflush(stdout) == 0 ? EW_OK : ew_fail(reterr, EW_EIO, "the agent does not take the result");
}

/* ---- what is served already ---- */

/* The items of the history that this update learns from. */
typedef struct choice {
    ew_replay_use *use; /* [n] by position; NULL = nothing was known before */
    size_t n;
    ew_replay_counts counts;
} choice;

static ew_status choose(const job *j, const ew_held *held, choice *ret, ew_error *reterr)
{
    size_t n = 0;
    const ew_item *history = ew_held_history(held, &n);
    ew_replay_use *use = ew_calloc(EW_MAX(n, (size_t)1), sizeof(*use));
    ew_item *numbered = ew_calloc(EW_MAX(n, (size_t)1), sizeof(*numbered));
    const ew_replay_opt opt = {.known = (uint64_t)j->served.known, .ratio = j->served.replay, .seed = j->spec.seed};
    ew_status st =
        use != NULL && numbered != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for %zu items", n);
    for (size_t i = 0; st == EW_OK && i < n; i++) {
        numbered[i] = history[i];
        numbered[i].order = ew_held_rows(held)[i];
    }
    if (st == EW_OK) {
        st = ew_replay_choose(numbered, n, &opt, use, &ret->counts, reterr);
    }
    ew_free(numbered);
    if (st != EW_OK) {
        ew_free(use);
        return st;
    }
    ret->use = use;
    ret->n = n;
    return EW_OK;
}

static bool learns(const ew_item *item, void *ctx)
{
    const view *v = ctx;
    return v->use == NULL || item->order >= v->n_history || v->use[item->order] == EW_REPLAY_NEW ||
           v->use[item->order] == EW_REPLAY_OLD;
}

static void add_score(ew_trial_result *result, const char *prefix, const ew_score *s)
{
    char name[48];
    (void)snprintf(name, sizeof(name), "%sscore", prefix);
    (void)ew_trial_result_add(result, name, "1", s->primary);
    (void)snprintf(name, sizeof(name), "%snll", prefix);
    (void)ew_trial_result_add(result, name, "nat/tok", s->nll);
}

static ew_score val_score(const ew_trial_result *r, const char *prefix, size_t n)
{
    ew_score s = EW_SCORE_NONE;
    char name[48];
    (void)snprintf(name, sizeof(name), "%sval.nll", prefix);
    s.nll = ew_trial_result_mean(r, name);
    (void)snprintf(name, sizeof(name), "%sval.score", prefix);
    s.primary = ew_trial_result_mean(r, name);
    s.n = n;
    return s;
}

/* Old items that the update did not learn from, before and after it. */
static ew_status measure_forgetting(const job *j, ew_held *held, const choice *c, ew_adapter *before, ew_adapter *after,
                                    const ew_progress *progress, ew_trial_result *result, ew_error *reterr)
{
    size_t n_history = 0;
    size_t n = 0;
    ew_score score;
    const ew_item *history = ew_held_history(held, &n_history);
    ew_item *old = ew_calloc(c->counts.n_witness + 1, sizeof(*old)); /* their strings are the history's */
    if (old == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for old items");
    }
    for (size_t i = 0; i < c->n; i++) {
        if (c->use[i] == EW_REPLAY_WITNESS) {
            old[n++] = history[i];
        }
    }
    ew_status st = ew_held_score(held, before, (uint32_t)j->served.rag_k, (uint32_t)j->served.rag_rank, old, n,
                                 progress, &score, reterr);
    if (st == EW_OK) {
        add_score(result, "old.before.", &score);
        st = ew_held_score(held, after, ew_trial_rag_k(&j->spec), j->spec.settings.rag_rank, old, n, progress, &score,
                           reterr);
    }
    if (st == EW_OK) {
        add_score(result, "old.after.", &score);
    }
    ew_free(old);
    return st;
}

/* The method against what is served, on the same validation items. */
static ew_status compare(const job *j, ew_held *held, const choice *c, const ew_run_product *product,
                         const ew_progress *progress, ew_trial_result *result, verdict *v, ew_error *reterr)
{
    ew_model *base = NULL;
    EW_AUTO(ew_adapter) served = NULL;
    ew_score served_val;
    size_t n_val = 0;
    const ew_item *val = ew_held_val(held, &n_val);
    EW_TRY(ew_held_model(held, &base, reterr));
    if (j->served.path != NULL) {
        EW_TRY(ew_adapter_load_gguf(j->served.path, base, &served, reterr));
    }
    EW_TRY(ew_held_score(held, served, (uint32_t)j->served.rag_k, (uint32_t)j->served.rag_rank, val, n_val, progress,
                         &served_val, reterr));
    add_score(result, "served.val.", &served_val);
    const ew_score method = val_score(result, "", n_val);
    const ew_score plain = val_score(result, "base.", n_val);
    v->beats_served = ew_score_beats(ew_held_task(held), &method, &served_val);
    v->served_beats_base = ew_score_beats(ew_held_task(held), &served_val, &plain);
    if (c->use != NULL) {
        (void)ew_trial_result_add(result, "n.new", "1", (double)c->counts.n_new);
        (void)ew_trial_result_add(result, "n.replayed", "1", (double)(j->served.update ? c->counts.n_old : 0));
        (void)ew_trial_result_add(result, "n.old", "1", (double)c->counts.n_witness);
    }
    if (c->use != NULL && c->counts.n_witness > 0) {
        EW_TRY(measure_forgetting(j, held, c, served, product->lora, progress, result, reterr));
    }
    return EW_OK;
}

/* The trial, then what is served beside it. A failed trial is a result too: its code and words are in it. */
static ew_status work_in(const job *j, ew_exec exec, ew_trial_result *result, ew_error *reterr)
{
    EW_AUTO(ew_held) held = NULL;
    ew_run_product product = {0};
    choice c = {0};
    view v = {0};
    verdict said = {.product = &product, .beats_served = true};
    ew_run_env env = {.model_path = j->model,
                      .items = &j->items,
                      .exec = exec,
                      .work_dir = j->work,
                      .caps = j->caps,
                      .memory_limit_bytes = (uint64_t)j->memory_limit,
                      .max_temperature_c = j->max_temperature,
                      .progress = {.fn = on_progress, .ctx = &v},
                      .on_forecast = on_forecast};
    ew_status st = EW_OK;
    /* Too few items: the trial says so. */
    if (j->profile && ew_held_new(&j->spec, j->model, &j->items, exec, &held, NULL) == EW_OK) {
        size_t n = 0;
        (void)ew_held_history(held, &n);
        said.known = n > 0 ? ew_held_rows(held)[n - 1] : 0;
        st = j->served.there && j->served.known > 0 ? choose(j, held, &c, reterr) : EW_OK;
    }
    if (st == EW_OK && j->served.update && c.use != NULL) {
        v.use = c.use;
        v.n_history = c.n;
        env.init_path = j->served.path;
        env.learns = learns;
    }
    if (st == EW_OK && ew_run_trial(&j->spec, &env, result, &product, NULL) == EW_OK) {
        ew_error err = EW_ERROR_INIT;
        st = j->served.there && held != NULL ? compare(j, held, &c, &product, &env.progress, result, &said, &err)
                                             : EW_OK;
        if (st == EW_OK) {
            st = save_adapter(j, &product, &said.has_adapter, &err);
        }
        if (st != EW_OK) {
            result->code = st;
            (void)ew_str_copy(result->detail, sizeof(result->detail), err.msg);
            st = EW_OK;
        }
    }
    if (st == EW_OK) {
        st = tell_result(result, &said, reterr);
    }
    ew_free(c.use);
    ew_run_product_release(&product);
    return st;
}

static ew_status work(const job *j, ew_error *reterr)
{
    ew_pool *pool = NULL;
    ew_trial_result *result = ew_calloc(1, sizeof(*result));
    const ew_kern *kern = ew_kern_get(j->kern);
    if (result == NULL || kern == NULL) {
        ew_free(result);
        return ew_fail(reterr, EW_EINVAL, "kernels '%s' cannot run here", j->kern != NULL ? j->kern : "");
    }
    ew_status st = ew_pool_new((unsigned)j->threads, &pool, reterr);
    if (st == EW_OK) {
        st = work_in(j, (ew_exec){.kern = kern, .pool = pool}, result, reterr);
    }
    ew_pool_free(&pool);
    ew_free(result);
    return st;
}

static ew_status tell_caps(const ew_device_caps *caps, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_record_from_caps(caps, &j, reterr));
    EW_TRY(ew_json_dump(j, 0, &text, reterr));
    (void)printf("{\"caps\":%s}\n", ew_buf_str(&text));
    return fflush(stdout) == 0 ? EW_OK : ew_fail(reterr, EW_EIO, "the agent does not take the result");
}

static ew_status probe(const json_t *p, ew_error *reterr)
{
    const char *kern = NULL;
    int64_t threads = 0;
    view v = {0};
    ew_pool *pool = NULL;
    ew_probe_opt opt = {.progress = {.fn = on_progress, .ctx = &v}};
    EW_TRY(ew_json_get_str(p, "probe", "temp_dir", &opt.temp_dir, reterr));
    EW_TRY(ew_json_get_str(p, "probe", "disk_path", &opt.disk_path, reterr));
    EW_TRY(ew_json_opt_str(p, "probe", "class", &opt.device_class, reterr));
    EW_TRY(ew_json_opt_str(p, "probe", "kern", &kern, reterr));
    EW_TRY(ew_json_opt_i64(p, "probe", "threads", 0, 1024, &threads, reterr));
    ew_device_caps *caps = ew_calloc(1, sizeof(*caps));
    ew_status st = caps != NULL ? ew_pool_new((unsigned)threads, &pool, reterr)
                                : ew_fail(reterr, EW_ENOMEM, "out of memory for the probe");
    if (st == EW_OK) {
        opt.exec = (ew_exec){.kern = ew_kern_get(kern), .pool = pool};
        st = ew_probe_run(&opt, caps, reterr);
    }
    if (st == EW_OK) {
        st = tell_caps(caps, reterr);
    }
    ew_pool_free(&pool);
    ew_free(caps);
    return st;
}

int ew_worker_main(void)
{
    ew_error err = EW_ERROR_INIT;
    job j = {0};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    ew_status st = ew_signal_init(&err);
    if (st == EW_OK) {
        st = read_job(&j, &err);
    }
    const json_t *p = json_object_get(j.json, "probe");
    const json_t *parent = json_object_get(j.json, "parent");
    if (st == EW_OK && parent != NULL && json_integer_value(parent) != (json_int_t)getppid()) {
        st = ew_fail(&err, EW_ECANCELLED, "the agent is gone: nobody would read the result");
    }
    if (st == EW_OK && p == NULL) {
        /* It dies with its agent from here on, so it may be stopped; and it gives way to whatever else runs. */
        ew_proc_background();
        (void)printf("{\"ready\":true}\n");
        (void)fflush(stdout);
    }
    if (st == EW_OK) {
        st = p != NULL ? probe(p, &err) : work(&j, &err);
    }
    job_release(&j);
    if (st != EW_OK) {
        (void)fprintf(stderr, "edgewise-agent worker: %s\n", err.msg);
    }
    return ew_status_exit(st);
}

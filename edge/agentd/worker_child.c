#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "agentd/worker.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "probe/probe.h"
#include "record/record.h"
#include "run/run.h"
#include "sys/file.h"
#include "sys/pool.h"
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
} job;

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
    uint64_t *last_ms = ctx;
    uint64_t now = ew_mono_ms();
    if (now - *last_ms >= PROGRESS_MS) {
        *last_ms = now;
        (void)printf("{\"progress\":{\"phase\":\"%s\",\"unit\":\"%s\",\"done\":%llu,\"total\":%llu", info->phase,
                     info->unit, (unsigned long long)info->done, (unsigned long long)info->total);
        if (isfinite(info->loss)) {
            (void)printf(",\"loss\":%.6g", info->loss);
        }
        if (isfinite(info->left_s)) {
            (void)printf(",\"left_s\":%.6g", info->left_s);
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

static ew_status tell_result(const ew_trial_result *result, bool better, bool has_adapter, ew_error *reterr)
{
    EW_AUTO_JSON r = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_record_from_result(result, &r, reterr));
    EW_AUTO_JSON line = json_pack("{s:O,s:b,s:b}", "result", r, "better", better, "adapter", has_adapter);
    if (line == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
    }
    EW_TRY(ew_json_dump(line, 0, &text, reterr));
    (void)printf("%s\n", ew_buf_str(&text));
    return fflush(stdout) == 0 ? EW_OK : ew_fail(reterr, EW_EIO, "the agent does not take the result");
}

static ew_status work(const job *j, ew_error *reterr)
{
    uint64_t last_ms = 0;
    ew_run_product product = {0};
    ew_pool *pool = NULL;
    bool saved = false;
    ew_trial_result *result = ew_calloc(1, sizeof(*result));
    const ew_kern *kern = ew_kern_get(j->kern);
    if (result == NULL || kern == NULL) {
        ew_free(result);
        return ew_fail(reterr, EW_EINVAL, "kernels '%s' cannot run here", j->kern != NULL ? j->kern : "");
    }
    ew_status st = ew_pool_new((unsigned)j->threads, &pool, reterr);
    if (st == EW_OK) {
        ew_run_env env = {.model_path = j->model,
                          .items = &j->items,
                          .exec = {.kern = kern, .pool = pool},
                          .work_dir = j->work,
                          .caps = j->caps,
                          .memory_limit_bytes = (uint64_t)j->memory_limit,
                          .progress = {.fn = on_progress, .ctx = &last_ms},
                          .on_forecast = on_forecast};
        /* A failed trial is a result too: its code and words are in it. */
        if (ew_run_trial(&j->spec, &env, result, &product, NULL) == EW_OK) {
            st = save_adapter(j, &product, &saved, reterr);
        }
        if (st == EW_OK) {
            st = tell_result(result, product.better, saved, reterr);
        }
    }
    ew_run_product_release(&product);
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
    uint64_t last_ms = 0;
    ew_pool *pool = NULL;
    ew_probe_opt opt = {.progress = {.fn = on_progress, .ctx = &last_ms}};
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
    if (st == EW_OK) {
        st = p != NULL ? probe(p, &err) : work(&j, &err);
    }
    job_release(&j);
    if (st != EW_OK) {
        (void)fprintf(stderr, "edgewise-agent worker: %s\n", err.msg);
    }
    return ew_status_exit(st);
}

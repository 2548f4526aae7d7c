#include "agentd/agent.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agentd/agent_int.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "kern/kern.h"
#include "probe/probe.h"
#include "record/record.h"
#include "session/enrol.h"
#include "sys/proc.h"
#include "text/json.h"

#define CALL_MS 30000
#define IDLE_WAIT_S 5
#define LAPSED_RETRY_MS 30000u

void ew__agent_event(ew_agent *a, const char *event, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (a->on_event != NULL) {
        a->on_event(a->event_ctx, event, text);
    }
}

void ew_agent_on_event(ew_agent *a, ew_agent_event_fn fn, void *ctx)
{
    a->on_event = fn;
    a->event_ctx = ctx;
}

const ew_home *ew_agent_home(const ew_agent *a)
{
    return &a->home;
}

void ew__agent_wake(ew_agent *a)
{
    (void)pthread_mutex_lock(&a->wake_lock);
    a->woken = true;
    (void)pthread_cond_signal(&a->wake);
    (void)pthread_mutex_unlock(&a->wake_lock);
}

void ew__agent_now(ew_agent *a, const char *what)
{
    (void)pthread_mutex_lock(&a->now.lock);
    a->now.busy = what != NULL;
    (void)ew_str_copy(a->now.what, sizeof(a->now.what), what != NULL ? what : "");
    a->now.phase[0] = '\0';
    a->now.done = 0;
    a->now.total = 0;
    (void)pthread_mutex_unlock(&a->now.lock);
}

void ew__agent_now_progress(ew_agent *a, const ew_progress_info *info)
{
    (void)pthread_mutex_lock(&a->now.lock);
    (void)ew_str_copy(a->now.phase, sizeof(a->now.phase), info->phase);
    a->now.done = info->done;
    a->now.total = info->total;
    (void)pthread_mutex_unlock(&a->now.lock);
}

/* ---- opening ---- */

/* The probe's answer is kept until the software changes. */
static ew_status load_caps(ew_agent *a, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO_JSON stored = NULL;
    EW_AUTO_JSON caps = NULL;
    json_int_t threads = (json_int_t)(a->opt.n_threads != 0 ? a->opt.n_threads : ew_proc_cores());
    a->caps = ew_calloc(1, sizeof(*a->caps));
    if (a->caps == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the device's capabilities");
    }
    if (ew_home_read_json(&a->home, "caps.json", &stored, NULL) == EW_OK &&
        ew_str_eq(json_string_value(json_object_get(stored, "software")), a->opt.software) &&
        json_integer_value(json_object_get(stored, "threads")) == threads &&
        ew_record_to_caps(json_object_get(stored, "caps"), a->caps, NULL) == EW_OK) {
        (void)ew_str_copy(a->caps->device_class, sizeof(a->caps->device_class),
                          a->opt.device_class != NULL ? a->opt.device_class : "");
        return EW_OK;
    }
    const ew_worker_probe probe = {.temp_dir = a->home.runtime,
                                   .disk_path = a->home.root,
                                   .device_class = a->opt.device_class,
                                   .kern = a->opt.kern,
                                   .n_threads = a->opt.n_threads};
    EW_TRY(ew_worker_probe_run(a->opt.self, &probe, progress, a->caps, reterr));
    EW_TRY(ew_record_from_caps(a->caps, &caps, reterr));
    EW_AUTO_JSON j = json_pack("{s:s,s:I,s:O}", "software", a->opt.software, "threads", threads, "caps", caps);
    return ew_home_write_json(&a->home, "caps.json", j, reterr);
}

static ew_status copy_strings(ew_agent *a, const ew_agent_opt *opt, ew_error *reterr)
{
    const char *const from[] = {opt->dir,          opt->credentials, opt->self,    opt->software,
                                opt->device_class, opt->kern,        opt->capture, opt->learn.task};
    const char **to[] = {&a->opt.dir,          &a->opt.credentials, &a->opt.self,    &a->opt.software,
                         &a->opt.device_class, &a->opt.kern,        &a->opt.capture, &a->opt.learn.task};
    for (size_t i = 0; i < EW_COUNT(from); i++) {
        if (from[i] != NULL) {
            a->strings[i] = ew_str_dup(from[i]);
            if (a->strings[i] == NULL) {
                return ew_fail(reterr, EW_ENOMEM, "out of memory for the agent");
            }
            *to[i] = a->strings[i];
        }
    }
    return EW_OK;
}

static void init_locks(ew_agent *a)
{
    pthread_condattr_t attr;
    EW_ASSERT(pthread_mutex_init(&a->vault_lock, NULL) == 0 && pthread_mutex_init(&a->heavy, NULL) == 0 &&
              pthread_mutex_init(&a->wake_lock, NULL) == 0 && pthread_mutex_init(&a->now.lock, NULL) == 0);
    EW_ASSERT(pthread_condattr_init(&attr) == 0 && pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
              pthread_cond_init(&a->wake, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
    ew__learner_init(a);
}

ew_status ew_agent_open(const ew_agent_opt *opt, const ew_progress *progress, ew_agent **ret_agent, ew_error *reterr)
{
    EW_AUTO(ew_agent) a = ew_calloc(1, sizeof(*a));
    char path[EW_HOME_PATH_MAX];
    if (a == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the agent");
    }
    init_locks(a);
    a->opt = *opt;
    EW_TRY(copy_strings(a, opt, reterr));
    if (opt->kern != NULL && ew_kern_get(opt->kern) == NULL) {
        return ew_fail(reterr, EW_EINVAL, "kernels '%s' are unknown or cannot run on this processor", opt->kern);
    }
    EW_TRY(ew_home_open(opt->dir, &a->home, reterr));
    EW_TRY(ew_dir_lock_take(a->home.root, &a->lock, reterr));
    EW_TRY(ew_dir_sweep_temp(ew_home_path(&a->home, "trials", path), reterr));
    EW_TRY(ew_dir_sweep_temp(a->home.root, reterr));
    /* What a killed agent left in the open; checkpoints stay, their trials go on. */
    EW_TRY(ew_dir_sweep_temp(a->home.runtime, reterr));
    EW_TRY(ew_home_sweep(&a->home, ".gguf", reterr));
    ew__learner_load(a);
    EW_TRY(load_caps(a, progress, reterr));
    EW_TRY(ew_home_vault(&a->home, opt->credentials, &a->vault, reterr));
    *ret_agent = a;
    a = NULL;
    return EW_OK;
}

/* ---- the session ---- */

static void on_state(void *ctx, ew_client_state state, const ew_error *err)
{
    ew_agent *a = ctx;
    bool up = state == EW_CLIENT_ACTIVE;
    bool was = atomic_exchange(&a->session_up, up);
    if (up != was) {
        ew__agent_event(a, up ? "connected" : "disconnected", "%s", err != NULL ? err->msg : "");
    } else if (err != NULL) {
        ew__agent_event(a, "connect-failed", "%s", err->msg);
    }
    if (up) {
        ew__agent_wake(a);
    }
}

static void on_renewed(void *ctx, uint64_t not_after_unix_ms)
{
    char iso[25];
    ew__agent_event(ctx, "renewed", "certificate until %s", ew_wall_iso(iso, not_after_unix_ms));
}

static void get_state(void *ctx, ew_device_state *ret)
{
    const ew_agent *a = ctx;
    ew_probe_state(a->home.root, a->opt.memory_limit_bytes, ret);
    ret->consents = a->home.consent_offload ? EW_CONSENT_OFFLOAD : 0;
}

static ew_status on_trial(ew_agent *a, const ew_trial_spec *spec, ew_reply *reply, ew_error *reterr)
{
    ew_error why = EW_ERROR_INIT;
    ew_msg *m = ew_msg_new(EW_MSG_TRIAL_ACCEPT);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    /* On the disk before it is accepted. */
    ew_status st = ew_trial_spec_check(spec, &why);
    if (st == EW_OK) {
        st = ew_spool_put(&a->home, spec, &why);
    }
    memcpy(m->trial_accept.id, spec->id, sizeof(spec->id));
    m->trial_accept.fence = spec->fence;
    m->trial_accept.accepted = st == EW_OK;
    (void)ew_str_copy(m->trial_accept.reason, sizeof(m->trial_accept.reason), why.msg);
    st = ew_reply_send(reply, m, (ew_span){0}, reterr);
    ew_msg_free(&m);
    ew__agent_wake(a);
    return st;
}

static ew_status on_request(void *ctx, const ew_msg *req, ew_span body, ew_reply *reply, ew_error *reterr)
{
    (void)body;
    if (req->type == EW_MSG_TRIAL_ASSIGN) {
        return on_trial(ctx, &req->trial_assign, reply, reterr);
    }
    return ew_fail(reterr, EW_EUNSUPPORTED, "this agent does not answer %s", ew_msg_type_name(req->type));
}

ew_status ew_agent_connect(ew_agent *a, ew_error *reterr)
{
    static const ew_client_handlers handlers = {
        .on_state = on_state, .on_request = on_request, .get_state = get_state, .on_renewed = on_renewed};
    char identity[EW_HOME_PATH_MAX];
    char ca[EW_HOME_PATH_MAX];
    char epoch[EW_HOME_PATH_MAX];
    if (a->client != NULL) {
        return EW_OK;
    }
    const ew_client_opt opt = {.role = EW_ROLE_DEVICE,
                               .endpoints = &a->home.endpoints,
                               .identity_path = ew_home_path(&a->home, "identity.pem", identity),
                               .ca_path = ew_home_path(&a->home, "ca.pem", ca),
                               .epoch_path = ew_home_path(&a->home, "epoch", epoch),
                               .software = a->opt.software,
                               .caps = a->caps,
                               .keepalive_ms = a->opt.keepalive_ms,
                               .backoff_cap_ms = a->opt.backoff_cap_ms,
                               .renew = true,
                               .capture_path = a->opt.capture};
    return ew_client_new(&opt, &handlers, a, &a->client, reterr);
}

ew_status ew_agent_wait_up(ew_agent *a, uint32_t timeout_ms, ew_error *reterr)
{
    EW_TRY(ew_agent_connect(a, reterr));
    return ew_client_wait_up(a->client, timeout_ms, reterr);
}

/* ---- artifacts ---- */

static ew_status fetch(ew_agent *a, ew_fetch_opt *opt, ew_error *reterr)
{
    opt->artifact_key = a->home.artifact_key;
    EW_TRY(ew_agent_wait_up(a, 10000, reterr));
    return ew_client_fetch(a->client, opt, NULL, reterr);
}

ew_status ew__agent_model(ew_agent *a, const uint8_t sha256[static EW_SHA256_BYTES], const ew_progress *progress,
                          char ret_path[static EW_HOME_PATH_MAX], ew_error *reterr)
{
    (void)ew_home_model_path(&a->home, sha256, ret_path);
    if (ew_file_exists(ret_path)) {
        return EW_OK;
    }
    ew_fetch_opt opt = {.sha256 = sha256, .dest_path = ret_path};
    opt.progress = progress != NULL ? *progress : (ew_progress){0};
    return ew_wrap(reterr, fetch(a, &opt, reterr), "fetching the model");
}

ew_status ew__agent_dataset(ew_agent *a, const char *source, const ew_progress *progress,
                            char ret_path[static EW_HOME_PATH_MAX], ew_error *reterr)
{
    char digest[72];
    char user[72];
    char name[256];
    bool profile = false;
    EW_TRY(ew_source_parse(source, &profile, digest, user, reterr));
    (void)snprintf(name, sizeof(name), "datasets/%s-%s.jsonl", digest, user);
    (void)ew_home_path(&a->home, name, ret_path);
    if (ew_file_exists(ret_path)) {
        return EW_OK;
    }
    (void)snprintf(name, sizeof(name), "benchmark-%s-%s", digest, user);
    ew_fetch_opt opt = {.name = name, .version = "", .variant = "dataset", .dest_path = ret_path};
    opt.progress = progress != NULL ? *progress : (ew_progress){0};
    return ew_wrap(reterr, fetch(a, &opt, reterr), "fetching the items of %s", user);
}

uint64_t ew__agent_worker_limit(const ew_agent *a)
{
    ew_proc_mem mem = {0};
    if (a->opt.memory_limit_bytes == 0) {
        return 0;
    }
    uint64_t own = ew_proc_mem_read(&mem, NULL) == EW_OK ? mem.rss_bytes : 0;
    own = EW_MAX(own, (uint64_t)EW_AGENT_OWN_BYTES) + EW_AGENT_RAM_MARGIN_BYTES;
    return a->opt.memory_limit_bytes > own ? a->opt.memory_limit_bytes - own : 1;
}

ew_status ew__agent_work(ew_agent *a, ew_worker_job *job, const ew_progress *progress, ew_worker_outcome *ret_outcome,
                         ew_error *reterr)
{
    job->memory_limit_bytes = ew__agent_worker_limit(a);
    job->ram_bytes = &a->worker_bytes;
    job->yield = &a->yield;
    atomic_store(&a->worker_bytes, job->memory_limit_bytes);
    ew_status st = ew_worker_run(a->opt.self, job, progress, ret_outcome, reterr);
    atomic_store(&a->worker_bytes, 0);
    return st;
}

/* ---- trials ---- */

typedef struct trial_watch {
    ew_agent *a;
    const ew_trial_spec *spec;
    uint64_t told_ms;
} trial_watch;

static bool on_trial_progress(const ew_progress_info *info, void *ctx)
{
    trial_watch *w = ctx;
    ew_agent *a = w->a;
    uint64_t now = ew_mono_ms();
    ew__agent_now_progress(a, info);
    /* A sign of life well within the lease. */
    uint64_t every = w->spec->lease_ms != 0 ? EW_MIN(w->spec->lease_ms / 4, (uint64_t)5000) : 5000;
    if (now - w->told_ms >= every && atomic_load(&a->session_up)) {
        ew_msg *m = ew_msg_new(EW_MSG_TRIAL_PROGRESS);
        w->told_ms = now;
        if (m != NULL) {
            memcpy(m->trial_progress.id, w->spec->id, sizeof(w->spec->id));
            m->trial_progress.fence = w->spec->fence;
            m->trial_progress.done = (uint32_t)EW_MIN(info->done, (uint64_t)UINT32_MAX);
            m->trial_progress.total = (uint32_t)EW_MIN(info->total, (uint64_t)UINT32_MAX);
            (void)ew_str_copy(m->trial_progress.phase, sizeof(m->trial_progress.phase), info->phase);
            if (ew_client_notify(a->client, m, (ew_span){0}, NULL) != EW_OK) {
                w->told_ms = now; /* the session is gone: the next one tells */
            }
            ew_msg_free(&m);
        }
    }
    return !atomic_load(&a->stopping);
}

/* Everything that a trial needs, then the worker. EW_OK with the outcome's result, also for a trial that failed. */
static ew_status run_trial(ew_agent *a, const ew_trial_spec *spec, ew_worker_outcome *out, ew_error *reterr)
{
    char model[EW_HOME_PATH_MAX];
    char dataset[EW_HOME_PATH_MAX];
    trial_watch watch = {.a = a, .spec = spec, .told_ms = ew_mono_ms()};
    const ew_progress progress = {.fn = on_trial_progress, .ctx = &watch};
    EW_AUTO_ITEMS items = {0};
    ew_worker_job job = {.spec = spec,
                         .model_path = model,
                         .work_dir = a->home.runtime,
                         .kern = a->opt.kern,
                         .caps = a->caps,
                         .n_threads = a->opt.n_threads};
    EW_TRY(ew__agent_model(a, spec->model_sha256, &progress, model, reterr));
    if (strcmp(spec->source, "profile") == 0) {
        (void)pthread_mutex_lock(&a->vault_lock);
        ew_status st = ew_vault_items(a->vault, &items, reterr);
        (void)pthread_mutex_unlock(&a->vault_lock);
        EW_TRY(st);
        job.items = &items;
    } else {
        EW_TRY(ew__agent_dataset(a, spec->source, &progress, dataset, reterr));
        job.items_path = dataset;
    }
    return ew__agent_work(a, &job, &progress, out, reterr);
}

void ew__agent_add_traffic(ew_agent *a, ew_trial_result *result)
{
    ew_client_stats stats = {0};
    if (a->client != NULL) {
        ew_client_get_stats(a->client, &stats);
    }
    (void)ew_trial_result_add(result, "link.bytes_out", "B", (double)stats.bytes_out);
    (void)ew_trial_result_add(result, "link.bytes_in", "B", (double)stats.bytes_in);
}

/* Failures that pass: the trial stays and is tried again. */
static bool passes(ew_status st)
{
    return st == EW_ECANCELLED || st == EW_EREMOTE || st == EW_ETIMEOUT || st == EW_EAGAIN || st == EW_ENOSPC;
}

static ew_status finish_trial(ew_agent *a, const ew_trial_spec *spec, ew_worker_outcome *out, ew_status st,
                              const ew_error *err, ew_error *reterr)
{
    ew_trial_spec newest;
    if (out->result == NULL) {
        out->result = ew_calloc(1, sizeof(*out->result));
        if (out->result == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
        }
        memcpy(out->result->id, spec->id, sizeof(spec->id));
        out->result->code = st;
        (void)ew_str_copy(out->result->detail, sizeof(out->result->detail), err->msg);
    }
    /* The lease may have been renewed with a higher fence while it ran. */
    out->result->fence = ew_spool_get(&a->home, spec->id, &newest, NULL) == EW_OK ? newest.fence : spec->fence;
    ew__agent_add_traffic(a, out->result);
    return ew_spool_finish(&a->home, out->result, reterr);
}

static ew_status execute_next(ew_agent *a, bool *ret_worked, ew_error *reterr)
{
    ew_trial_spec spec;
    ew_worker_outcome out = {0};
    ew_error err = EW_ERROR_INIT;
    char what[64];
    char hex[2 * EW_UID_BYTES + 1];
    *ret_worked = false;
    bool found = false;
    EW_TRY(ew_spool_next(&a->home, &spec, &found, reterr));
    if (!found) {
        return EW_OK;
    }
    ew_hex_encode(spec.id, EW_UID_BYTES, hex);
    (void)snprintf(what, sizeof(what), "trial %.8s %s %s", hex, spec.variant, ew_method_name(spec.method));
    (void)pthread_mutex_lock(&a->heavy);
    ew__agent_now(a, what);
    ew_status st = run_trial(a, &spec, &out, &err);
    ew__agent_now(a, NULL);
    (void)pthread_mutex_unlock(&a->heavy);
    if (st != EW_OK && passes(st)) {
        ew_free(out.result);
        return ew_fail(reterr, st, "%s", err.msg);
    }
    st = finish_trial(a, &spec, &out, st, &err, reterr);
    if (st == EW_OK) {
        *ret_worked = true;
        ew__agent_event(a, "trial-finished", "trial=%.8s code=%s %s", hex, ew_status_name(out.result->code),
                        out.result->detail);
    }
    ew_free(out.result);
    return st;
}

/* Sends results until none waits or the session is gone. Refused for good (old fence, unknown trial): dropped. */
static ew_status send_results(ew_agent *a, ew_error *reterr)
{
    ew_msg *m = ew_msg_new(EW_MSG_TRIAL_RESULT);
    bool found = true;
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
    }
    ew_status st = EW_OK;
    while (found && st == EW_OK && atomic_load(&a->session_up) && !atomic_load(&a->stopping)) {
        ew_error err = EW_ERROR_INIT;
        st = ew_spool_result(&a->home, &m->trial_result, &found, reterr);
        if (st != EW_OK || !found) {
            break;
        }
        /* One key for the result's life: however often it is sent, it counts once. */
        memcpy(m->idem_key, m->trial_result.id, EW_IDEM_BYTES);
        m->has_idem_key = true;
        st = ew_client_call(a->client, m, (ew_span){0}, CALL_MS, NULL, NULL, &err);
        if (st == EW_ECONFLICT || st == EW_ENOENT || st == EW_EINVAL || st == EW_EDENIED) {
            ew__agent_event(a, "result-refused", "%s", err.msg);
            st = EW_OK;
        } else if (st != EW_OK) {
            (void)ew_fail(reterr, st, "%s", err.msg);
            break;
        }
        st = ew_spool_drop_result(&a->home, m->trial_result.id, reterr);
    }
    ew_msg_free(&m);
    return st;
}

static void wait_for_wake(ew_agent *a)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_WAIT_S;
    (void)pthread_mutex_lock(&a->wake_lock);
    while (!a->woken && !atomic_load(&a->stopping)) {
        if (pthread_cond_timedwait(&a->wake, &a->wake_lock, &until) == ETIMEDOUT) {
            break;
        }
    }
    a->woken = false;
    (void)pthread_mutex_unlock(&a->wake_lock);
}

/* Off for longer than the certificate lived: a new one for the same key, tried at most every LAPSED_RETRY_MS. */
static void enrol_again(ew_agent *a, uint64_t *next_ms)
{
    char identity[EW_HOME_PATH_MAX];
    char pending[EW_HOME_PATH_MAX];
    char ca[EW_HOME_PATH_MAX];
    ew_enrol_result result;
    ew_error err = EW_ERROR_INIT;
    uint64_t now = ew_mono_ms();
    if (atomic_load(&a->session_up) || a->client == NULL || now < *next_ms ||
        !ew_enrol_lapsed(ew_home_path(&a->home, "identity.pem", identity))) {
        return;
    }
    *next_ms = now + LAPSED_RETRY_MS;
    const ew_enrol_again_opt opt = {.endpoint = a->home.endpoints.item[0],
                                    .identity_path = identity,
                                    .pending_path = ew_home_path(&a->home, "identity.pending", pending),
                                    .ca_path = ew_home_path(&a->home, "ca.pem", ca),
                                    .timeout_ms = 10000};
    if (ew_enrol_again(&opt, &result, &err) == EW_OK) {
        ew__agent_event(a, "enrolled-again", "the certificate had expired");
        ew_client_reconnect(a->client);
    } else {
        ew__agent_event(a, "connect-failed", "the certificate has expired, and a new one was not to be had: %s",
                        err.msg);
    }
}

static void *executor_main(void *arg)
{
    uint64_t lapsed_next_ms = 0;
    ew_agent *a = arg;
    while (!atomic_load(&a->stopping)) {
        ew_error err = EW_ERROR_INIT;
        bool worked = false;
        enrol_again(a, &lapsed_next_ms);
        ew_status st = send_results(a, &err);
        if (st == EW_OK) {
            st = execute_next(a, &worked, &err);
        }
        if (st != EW_OK && st != EW_ECANCELLED) {
            ew__agent_event(a, "trial-waits", "%s", err.msg);
        }
        if (!worked) {
            wait_for_wake(a);
        }
    }
    return NULL;
}

ew_status ew_agent_start(ew_agent *a, ew_error *reterr)
{
    if (pthread_create(&a->executor, NULL, executor_main, a) != 0) {
        return ew_fail(reterr, EW_ENOMEM, "cannot start the thread that executes trials");
    }
    a->executing = true;
    return ew__learner_start(a, reterr);
}

void ew_agent_stop(ew_agent *a)
{
    atomic_store(&a->stopping, true);
    ew__agent_wake(a);
    if (a->client != NULL) {
        ew_client_stop(a->client);
    }
    if (a->executing) {
        (void)pthread_join(a->executor, NULL);
        a->executing = false;
    }
    ew__learner_stop(a);
}

void ew_agent_free(ew_agent **pa)
{
    if (pa == NULL || *pa == NULL) {
        return;
    }
    ew_agent *a = *pa;
    ew_agent_stop(a);
    ew_client_free(&a->client);
    ew_vault_free(&a->vault);
    ew_dir_lock_free(&a->lock);
    ew_free(a->caps);
    for (size_t i = 0; i < EW_COUNT(a->strings); i++) {
        ew_free(a->strings[i]);
    }
    (void)pthread_mutex_destroy(&a->vault_lock);
    (void)pthread_mutex_destroy(&a->heavy);
    (void)pthread_mutex_destroy(&a->wake_lock);
    (void)pthread_cond_destroy(&a->wake);
    (void)pthread_mutex_destroy(&a->now.lock);
    ew__learner_release(a);
    ew_free(a);
    *pa = NULL;
}

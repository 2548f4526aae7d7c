/* Learning over time: one at a time, paused, resumed and stopped, gone on with after a kill, begun by itself when it is due. What has to be
 * remembered is in DIR/learn.json:
 *   {"state": "idle" | "running" | "paused", "options": {…} of the one that is not finished, "last": {…} how the last one ended,
 *    "known": {TASK: last item that it saw}, "day", "wall_ms" of the schedule (schedule.h)}
 * A learning that is "running" there while nobody is at it was cut off: the agent was killed or ended. The thread of the learner goes on with it. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agentd/agent_int.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/proc.h"
#include "task/task.h"
#include "text/json.h"

#define FILE_NAME "learn.json"
#define POLL_MS 200u           /* a caller that waits for a paused learning may leave */
#define LOOK_MS 5000u          /* between looks at the schedule; everything that matters wakes the thread */
#define PLAN_EVERY_MS 3600000u /* so often is a plan asked for to see whether the base has changed */
#define TASKS_MAX 16u

static const char *const state_names[] = {"idle", "running", "paused"};
static const char *const mode_names[] = {"anew", "update", "auto"};

/* ---- options as JSON ---- */

ew_status ew__learn_opt_read(const json_t *j, ew_learn_opt *ret_opt, ew_error *reterr)
{
    ew_learn_opt o = {0};
    int64_t seed = 1;
    const char *mode = mode_names[EW_LEARN_ANEW];
    EW_TRY(ew_json_opt_str(j, "learn", "task", &o.task, reterr));
    EW_TRY(ew_json_opt_f64(j, "learn", "max_seconds", &o.max_seconds, reterr));
    EW_TRY(ew_json_opt_f64(j, "learn", "max_joules", &o.max_joules, reterr));
    EW_TRY(ew_json_opt_f64(j, "learn", "max_temperature", &o.max_temperature_c, reterr));
    EW_TRY(ew_json_opt_bool(j, "learn", "only_on_mains", &o.only_on_mains, reterr));
    EW_TRY(ew_json_opt_bool(j, "learn", "use_last_plan", &o.use_last_plan, reterr));
    EW_TRY(ew_json_opt_str(j, "learn", "mode", &mode, reterr));
    EW_TRY(ew_json_opt_f64(j, "learn", "replay", &o.replay, reterr));
    EW_TRY(ew_json_opt_i64(j, "learn", "seed", 0, INT64_MAX, &seed, reterr));
    o.seed = (uint64_t)seed;
    for (size_t i = 0; i < EW_COUNT(mode_names); i++) {
        if (ew_str_eq(mode, mode_names[i])) {
            o.mode = (ew_learn_mode)i;
            *ret_opt = o;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EINVAL, "unknown way to learn '%.32s': anew, update or auto", mode);
}

static json_t *options_json(const ew_learn_opt *o)
{
    return json_pack("{s:s?,s:f,s:f,s:f,s:b,s:b,s:s,s:f,s:I}", "task", o->task, "max_seconds", o->max_seconds,
                     "max_joules", o->max_joules, "max_temperature", o->max_temperature_c, "only_on_mains",
                     o->only_on_mains, "use_last_plan", o->use_last_plan, "mode", mode_names[o->mode], "replay",
                     o->replay, "seed", (json_int_t)o->seed);
}

/* ---- what is remembered; the lock is held ---- */

static ew_status save(ew_agent *a, ew_error *reterr)
{
    EW_AUTO_JSON j = json_pack("{s:s,s:O?,s:O?,s:O?,s:i,s:I}", "state", state_names[a->learning.state], "options",
                               a->learning.options, "last", a->learning.last, "known", a->learning.known, "day",
                               (int)a->learning.memory.day, "wall_ms", (json_int_t)a->learning.memory.wall_ms);
    return ew_home_write_json(&a->home, FILE_NAME, j, reterr);
}

/* Where it cannot be written, the learning itself goes on. */
static void save_or_tell(ew_agent *a)
{
    ew_error err = EW_ERROR_INIT;
    if (save(a, &err) != EW_OK) {
        ew__agent_event(a, "learn-state", "%s", err.msg);
    }
}

static void put(json_t **dst, json_t *j)
{
    json_decref(*dst);
    *dst = j;
}

void ew__learner_init(ew_agent *a)
{
    EW_AUTO_JSON j = NULL;
    pthread_condattr_t attr;
    EW_ASSERT(pthread_mutex_init(&a->learning.lock, NULL) == 0 && pthread_condattr_init(&attr) == 0 &&
              pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
              pthread_cond_init(&a->learning.changed, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
    ew_yield_init(&a->yield);
    a->start_mono_ms = ew_mono_ms();
    a->learning.verdict = EW_SCHEDULE_NOT_YET;
}

/* A file that cannot be read is a fresh start: nothing that was learned depends on it. */
void ew__learner_load(ew_agent *a)
{
    EW_AUTO_JSON j = NULL;
    if (ew_home_read_json(&a->home, FILE_NAME, &j, NULL) == EW_OK && json_is_object(j)) {
        const char *state = json_string_value(json_object_get(j, "state"));
        a->learning.state = ew_str_eq(state, state_names[EW__LEARN_PAUSED])    ? EW__LEARN_PAUSED
                            : ew_str_eq(state, state_names[EW__LEARN_RUNNING]) ? EW__LEARN_RUNNING
                                                                               : EW__LEARN_IDLE;
        a->learning.memory.day = (int32_t)json_integer_value(json_object_get(j, "day"));
        a->learning.memory.wall_ms = (uint64_t)json_integer_value(json_object_get(j, "wall_ms"));
        a->learning.options =
            json_is_object(json_object_get(j, "options")) ? json_deep_copy(json_object_get(j, "options")) : NULL;
        a->learning.last =
            json_is_object(json_object_get(j, "last")) ? json_deep_copy(json_object_get(j, "last")) : NULL;
        a->learning.known =
            json_is_object(json_object_get(j, "known")) ? json_deep_copy(json_object_get(j, "known")) : NULL;
    }
    if (a->learning.options == NULL) {
        a->learning.state = EW__LEARN_IDLE;
    }
    if (a->learning.known == NULL) {
        a->learning.known = json_object();
    }
}

void ew__learner_release(ew_agent *a)
{
    put(&a->learning.options, NULL);
    put(&a->learning.last, NULL);
    put(&a->learning.known, NULL);
    put(&a->learning.report, NULL);
    ew_yield_release(&a->yield);
    (void)pthread_cond_destroy(&a->learning.changed);
    (void)pthread_mutex_destroy(&a->learning.lock);
}

/* At most so long; the lock is held. */
static void wait_changed(ew_agent *a, uint32_t ms)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    (void)pthread_cond_timedwait(&a->learning.changed, &a->learning.lock, &until);
}

/* ---- one learning ---- */

typedef struct watch {
    ew_agent *a;
    const ew_progress *caller;
    bool gone;        /* the caller does not want it any more */
    bool interrupted; /* to pause, or to make room for an answer */
} watch;

/* Whether to go on. */
static bool on_progress(const ew_progress_info *info, void *ctx)
{
    watch *w = ctx;
    ew_agent *a = w->a;
    ew__agent_now_progress(a, info);
    w->gone = w->gone || !ew_progress_tell(w->caller, info);
    (void)pthread_mutex_lock(&a->learning.lock);
    bool interrupt = a->learning.pause || a->learning.give_way > 0;
    bool stop = a->learning.stop;
    (void)pthread_mutex_unlock(&a->learning.lock);
    w->interrupted = w->interrupted || interrupt;
    return !w->gone && !interrupt && !stop && !atomic_load(&a->stopping);
}

/* After an interruption: true when it goes on. The caller is told that it waits. */
static bool wait_to_go_on(watch *w)
{
    ew_agent *a = w->a;
    bool go_on = false;
    if (!w->interrupted) {
        return false;
    }
    (void)pthread_mutex_lock(&a->learning.lock);
    while (!w->gone && !a->learning.stop && !atomic_load(&a->stopping)) {
        bool paused = a->learning.pause;
        int state = paused ? EW__LEARN_PAUSED : EW__LEARN_RUNNING;
        if ((int)a->learning.state != state) {
            a->learning.state = state;
            save_or_tell(a);
            (void)pthread_cond_broadcast(&a->learning.changed);
        }
        if (!paused && a->learning.give_way == 0) {
            go_on = true;
            break;
        }
        wait_changed(a, POLL_MS);
        (void)pthread_mutex_unlock(&a->learning.lock);
        const ew_progress_info info = {.phase = paused ? "paused" : "an answer comes first",
                                       .unit = "",
                                       .loss = (double)NAN,
                                       .left_s = (double)NAN};
        w->gone = !ew_progress_tell(w->caller, &info);
        (void)pthread_mutex_lock(&a->learning.lock);
    }
    w->interrupted = false;
    (void)pthread_mutex_unlock(&a->learning.lock);
    return go_on;
}

static ew_status learn_held(watch *w, const ew_learn_opt *opt, json_t **ret_report, ew_error *reterr)
{
    ew_agent *a = w->a;
    ew_plan *plan = NULL;
    bool fresh = false;
    const ew_progress progress = {.fn = on_progress, .ctx = w};
    EW_TRY(ew__agent_learn_plan(a, opt, &plan, &fresh, reterr));
    ew_status st;
    do {
        (void)pthread_mutex_lock(&a->heavy);
        ew__agent_now(a, "learning from the profile");
        st = ew__agent_learn_once(a, plan, fresh, opt, &progress, ret_report, reterr);
        ew__agent_now(a, NULL);
        (void)pthread_mutex_unlock(&a->heavy);
    } while (st == EW_ECANCELLED && wait_to_go_on(w));
    ew_free(plan);
    return st;
}

static const char *task_name(const char *task)
{
    return task != NULL ? task : "custom";
}

/* *ret_other: the same task is being learned by another call; nothing was begun. */
static ew_status begin(ew_agent *a, const ew_learn_opt *opt, bool *ret_other, ew_error *reterr)
{
    ew_status st = EW_OK;
    json_t *options = options_json(opt);
    *ret_other = false;
    (void)pthread_mutex_lock(&a->learning.lock);
    const char *other = json_string_value(json_object_get(a->learning.options, "task"));
    if (options == NULL) {
        st = ew_fail(reterr, EW_EINVAL, "the name of the task is not valid UTF-8");
    } else if (a->learning.held && a->learning.state == EW__LEARN_RUNNING &&
               ew_str_eq(task_name(other), task_name(opt->task))) {
        *ret_other = true;
        json_decref(options);
    } else if (a->learning.held) {
        st = ew_fail(reterr, EW_ECONFLICT, "a learning is %s already. HINT: edgewise-agent status, or learn --%s",
                     state_names[a->learning.state], a->learning.state == EW__LEARN_PAUSED ? "resume" : "stop");
        json_decref(options);
    } else {
        a->learning.held = true;
        a->learning.pause = false;
        a->learning.stop = false;
        a->learning.state = EW__LEARN_RUNNING;
        a->learning.began_mono_ms = ew_mono_ms();
        put(&a->learning.options, options);
        save_or_tell(a);
    }
    (void)pthread_mutex_unlock(&a->learning.lock);
    return st;
}

static json_t *measures_of(const json_t *report)
{
    static const char *const names[] = {"base.val.nll",   "val.nll",          "served.val.nll", "base.val.score",
                                        "val.score",      "served.val.score", "old.before.nll", "old.after.nll",
                                        "n.new",          "n.replayed",       "n.old",          "tune.seconds",
                                        "tune.truncated", "tune.skipped"};
    const json_t *all = json_object_get(json_object_get(report, "result"), "measures");
    json_t *j = json_object();
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        json_t *value = json_array_get(json_object_get(json_object_get(all, names[i]), "values"), 0);
        if (value != NULL) {
            (void)json_object_set(j, names[i], value);
        }
    }
    return j;
}

/* How it ended, for the status. */
static json_t *last_json(const ew_learn_opt *opt, ew_status st, const ew_error *err, const json_t *report)
{
    char iso[25];
    json_t *j = json_pack("{s:s,s:s?,s:s,s:s}", "at", ew_wall_iso(iso, ew_wall_ms()), "task", opt->task, "code",
                          ew_status_name(st), "message", st == EW_OK ? "" : err->msg);
    if (j != NULL && st == EW_OK) {
        (void)json_object_set(j, "decision", json_object_get(report, "decision"));
        (void)json_object_set(j, "update", json_object_get(report, "update"));
        (void)json_object_set(j, "stop", json_object_get(report, "stop"));
        (void)json_object_set(j, "diverged", json_object_get(report, "diverged"));
        (void)json_object_set_new(j, "measures", measures_of(report));
    }
    return j;
}

static void end(watch *w, const ew_learn_opt *opt, ew_status st, const ew_error *err, const json_t *report)
{
    ew_agent *a = w->a;
    (void)pthread_mutex_lock(&a->learning.lock);
    a->learning.held = false;
    bool cut_off = st == EW_ECANCELLED && !a->learning.stop && !w->gone && atomic_load(&a->stopping);
    bool paused = st == EW_ECANCELLED && !a->learning.stop && a->learning.pause;
    a->learning.state = paused ? EW__LEARN_PAUSED : cut_off ? EW__LEARN_RUNNING : EW__LEARN_IDLE;
    a->learning.pause = false;
    a->learning.stop = false;
    if (!paused && !cut_off) {
        put(&a->learning.options, NULL);
        json_t *last = last_json(opt, st, err, report);
        if (last != NULL) {
            put(&a->learning.last, last);
        }
    }
    if (st == EW_OK) {
        (void)json_object_set(a->learning.known, task_name(opt->task), json_object_get(report, "known"));
    }
    a->learning.n_ended++;
    a->learning.last_code = st;
    put(&a->learning.report, json_incref((json_t *)(uintptr_t)report));
    a->learning.n_failed = st == EW_OK || st == EW_ECANCELLED ? 0 : a->learning.n_failed + 1;
    a->learning.failed_mono_ms = ew_mono_ms();
    save_or_tell(a);
    (void)pthread_cond_broadcast(&a->learning.changed);
    (void)pthread_mutex_unlock(&a->learning.lock);
}

/* Waits for the learning that another call is at (a caller that left, an agent that was killed), and tells what comes of it. */
static ew_status join(ew_agent *a, const ew_progress *progress, json_t **ret_report, ew_error *reterr)
{
    bool stays = true;
    (void)pthread_mutex_lock(&a->learning.lock);
    uint64_t n = a->learning.n_ended;
    while (stays && a->learning.held && a->learning.n_ended == n && !atomic_load(&a->stopping)) {
        wait_changed(a, POLL_MS);
        (void)pthread_mutex_unlock(&a->learning.lock);
        char phase[sizeof(a->now.phase)];
        ew_progress_info info = {.phase = phase, .unit = "", .loss = (double)NAN, .left_s = (double)NAN};
        (void)pthread_mutex_lock(&a->now.lock);
        (void)ew_str_copy(phase, sizeof(phase), a->now.phase);
        info.done = a->now.done;
        info.total = a->now.total;
        (void)pthread_mutex_unlock(&a->now.lock);
        stays = ew_progress_tell(progress, &info);
        (void)pthread_mutex_lock(&a->learning.lock);
    }
    bool ended = a->learning.n_ended != n;
    ew_status st = ended ? a->learning.last_code : EW_ECANCELLED;
    json_t *report = ended && st == EW_OK ? json_deep_copy(a->learning.report) : NULL;
    const char *message = json_string_value(json_object_get(a->learning.last, "message"));
    if (st == EW_OK && report == NULL) {
        st = ew_fail(reterr, EW_ENOMEM, "out of memory for a report");
    } else if (st != EW_OK) {
        (void)ew_fail(reterr, st, "%s", ended && message != NULL ? message : "stopped");
    }
    (void)pthread_mutex_unlock(&a->learning.lock);
    EW_TRY(st);
    *ret_report = report;
    return EW_OK;
}

ew_status ew_agent_learn(ew_agent *a, const ew_learn_opt *opt, const ew_progress *progress, json_t **ret_report,
                         ew_error *reterr)
{
    watch w = {.a = a, .caller = progress};
    ew_error err = EW_ERROR_INIT;
    json_t *report = NULL;
    bool other = false;
    EW_TRY(begin(a, opt, &other, reterr));
    if (other) {
        return join(a, progress, ret_report, reterr);
    }
    ew_status st = learn_held(&w, opt, &report, &err);
    end(&w, opt, st, &err, report);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    *ret_report = report;
    return EW_OK;
}

/* ---- pause, resume, stop ---- */

/* Of the options that are kept, so that they may change meanwhile. */
static ew_status go_on_here(ew_agent *a, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO_JSON report = NULL;
    ew_learn_opt opt;
    (void)pthread_mutex_lock(&a->learning.lock);
    EW_AUTO_JSON options = json_deep_copy(a->learning.options);
    (void)pthread_mutex_unlock(&a->learning.lock);
    EW_TRY(ew__learn_opt_read(options, &opt, reterr));
    opt.use_last_plan = opt.use_last_plan || ew__agent_was_begun(a, opt.task);
    return ew_agent_learn(a, &opt, progress, &report, reterr);
}

/* The lock is held. *ret_here: the caller has to learn itself. */
static ew_status give_order(ew_agent *a, ew_learn_order order, bool *ret_here, ew_error *reterr)
{
    int state = a->learning.state;
    *ret_here = false;
    if (state == EW__LEARN_IDLE) {
        return ew_fail(reterr, EW_ENOENT, "nothing is being learned. HINT: edgewise-agent learn");
    }
    switch (order) {
    case EW_LEARN_PAUSE:
        a->learning.pause = a->learning.held;
        a->learning.state = a->learning.held ? state : EW__LEARN_PAUSED;
        break;
    case EW_LEARN_RESUME:
        a->learning.pause = false;
        a->learning.n_failed = 0;
        a->learning.state = a->learning.held ? state : EW__LEARN_RUNNING;
        *ret_here = !a->learning.held && !a->learning.started;
        break;
    case EW_LEARN_STOP:
        a->learning.stop = a->learning.held;
        if (!a->learning.held) {
            a->learning.state = EW__LEARN_IDLE;
            put(&a->learning.options, NULL);
        }
        break;
    }
    (void)pthread_cond_broadcast(&a->learning.changed);
    return save(a, reterr);
}

/* The worker has come to its safe point. */
static bool is_done(const ew_agent *a, ew_learn_order order)
{
    return !a->learning.held || (order == EW_LEARN_PAUSE && a->learning.state == EW__LEARN_PAUSED) ||
           (order == EW_LEARN_RESUME && a->learning.state == EW__LEARN_RUNNING);
}

ew_status ew_agent_learn_order(ew_agent *a, ew_learn_order order, const ew_progress *progress, json_t **ret,
                               ew_error *reterr)
{
    bool here = false;
    bool waits = true;
    (void)pthread_mutex_lock(&a->learning.lock);
    ew_status st = give_order(a, order, &here, reterr);
    while (st == EW_OK && waits && !is_done(a, order) && !atomic_load(&a->stopping)) {
        wait_changed(a, POLL_MS);
        (void)pthread_mutex_unlock(&a->learning.lock);
        const ew_progress_info info = {
            .phase = "comes to a safe point", .unit = "", .loss = (double)NAN, .left_s = (double)NAN};
        waits = ew_progress_tell(progress, &info);
        (void)pthread_mutex_lock(&a->learning.lock);
    }
    const char *state = state_names[a->learning.state];
    (void)pthread_mutex_unlock(&a->learning.lock);
    EW_TRY(st);
    if (here) {
        EW_TRY(go_on_here(a, progress, reterr));
        state = "done";
    }
    *ret = json_pack("{s:s}", "state", state);
    return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for an answer");
}

void ew_agent_learn_signal(ew_agent *a, bool pause)
{
    ew_error err = EW_ERROR_INIT;
    bool here = false;
    (void)pthread_mutex_lock(&a->learning.lock);
    ew_status st = give_order(a, pause ? EW_LEARN_PAUSE : EW_LEARN_RESUME, &here, &err);
    (void)pthread_mutex_unlock(&a->learning.lock);
    ew__agent_event(a, pause ? "learn-pause" : "learn-resume", "%s", st == EW_OK ? "by signal" : err.msg);
}

void ew__learner_give_way(ew_agent *a, bool begin_answer)
{
    (void)pthread_mutex_lock(&a->learning.lock);
    a->learning.give_way += begin_answer ? 1u : 0u;
    a->learning.give_way -= begin_answer ? 0u : 1u;
    (void)pthread_cond_broadcast(&a->learning.changed);
    (void)pthread_mutex_unlock(&a->learning.lock);
}

/* ---- by itself ---- */

typedef struct due {
    ew_learn_opt opt;
    char task[EW_TASK_NAME_SIZE];
    json_t *options; /* owns what opt borrows; NULL = nothing */
    bool retrain;    /* what was served learned from items that were forgotten */
} due;

/* A task whose adapter may not be used any more. */
static bool lost_task(ew_agent *a, char task[static EW_TASK_NAME_SIZE])
{
    EW_AUTO_JSON file = NULL;
    const char *name;
    json_t *entry;
    bool lost = false;
    (void)pthread_mutex_lock(&a->vault_lock);
    if (ew_home_read_json(&a->home, "active.json", &file, NULL) == EW_OK) {
        json_object_foreach(json_object_get(file, "tasks"), name, entry)
        {
            ew_vault_adapter meta;
            json_int_t id = json_integer_value(json_object_get(json_object_get(entry, "now"), "adapter"));
            ew_status st = id > 0 ? ew_vault_adapter_get(a->vault, (uint64_t)id, &meta, NULL) : EW_OK;
            if (!lost && id > 0 && (st == EW_ENOENT || (st == EW_OK && meta.flagged))) {
                lost = ew_str_copy(task, EW_TASK_NAME_SIZE, name);
            }
        }
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    return lost;
}

static void fill_clocks(ew_agent *a, ew_schedule_now *now)
{
    struct tm tm = {0};
    time_t t = (time_t)(ew_wall_ms() / 1000);
    (void)localtime_r(&t, &tm);
    now->mono_ms = ew_mono_ms();
    now->start_mono_ms = a->start_mono_ms;
    now->wall_ms = ew_wall_ms();
    now->day = ew_schedule_day(&tm);
    now->minute = tm.tm_hour * 60 + tm.tm_min;
    now->answering = ew_yield_answering(&a->yield, &now->quiet_mono_ms);
    now->on_mains = ew_machine_on_power();
    (void)pthread_mutex_lock(&a->now.lock);
    now->answering = now->answering || a->now.busy;
    (void)pthread_mutex_unlock(&a->now.lock);
}

static size_t count_new(ew_agent *a, const char *task)
{
    size_t n = 0;
    uint64_t last = 0;
    (void)pthread_mutex_lock(&a->learning.lock);
    uint64_t known = (uint64_t)json_integer_value(json_object_get(a->learning.known, task));
    (void)pthread_mutex_unlock(&a->learning.lock);
    (void)pthread_mutex_lock(&a->vault_lock);
    if (ew_vault_count_after(a->vault, known, &n, &last, NULL) != EW_OK) {
        n = 0;
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    return n;
}

/* The plan has another base than what is served: asked for at most once in PLAN_EVERY_MS. */
static bool base_has_changed(ew_agent *a, const char *task, uint64_t *next_ms)
{
    ew_plan *plan = NULL;
    bool fresh = false;
    bool changed = false;
    ew_served s;
    char model[2 * EW_SHA256_BYTES + 1];
    if (!atomic_load(&a->session_up) || ew_mono_ms() < *next_ms) {
        return false;
    }
    *next_ms = ew_mono_ms() + PLAN_EVERY_MS;
    if (ew_agent_plan(a, task, &plan, &fresh, NULL) == EW_OK) {
        ew_hex_encode(plan->chosen.model_sha256, EW_SHA256_BYTES, model);
        (void)pthread_mutex_lock(&a->vault_lock);
        changed = fresh && ew_served_get(&a->home, task, &s, NULL) == EW_OK && !ew_str_eq(s.model, model);
        (void)pthread_mutex_unlock(&a->vault_lock);
        ew_free(plan);
    }
    return changed;
}

static void task_by_itself(ew_agent *a, char task[static EW_TASK_NAME_SIZE])
{
    ew_served s;
    (void)ew_str_copy(task, EW_TASK_NAME_SIZE, a->opt.learn.task != NULL ? a->opt.learn.task : "custom");
    (void)pthread_mutex_lock(&a->vault_lock);
    if (a->opt.learn.task == NULL && ew_served_get(&a->home, NULL, &s, NULL) == EW_OK) {
        (void)ew_str_copy(task, EW_TASK_NAME_SIZE, s.task);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
}

/* What is to be learned now, if anything. */
static bool look(ew_agent *a, due *d, uint64_t *next_plan_ms)
{
    static const ew_schedule none = {.at_min = -1};
    const ew_schedule *s = a->opt.scheduled ? &a->opt.schedule : &none;
    ew_schedule_now now = {0};
    *d = (due){.opt = a->opt.learn};
    (void)pthread_mutex_lock(&a->learning.lock);
    bool free_now = !a->learning.held && a->learning.state != EW__LEARN_PAUSED;
    bool cut_off = free_now && a->learning.state == EW__LEARN_RUNNING;
    d->options = cut_off ? json_deep_copy(a->learning.options) : NULL;
    const ew_schedule_memory memory = a->learning.memory;
    now.began_mono_ms = a->learning.began_mono_ms;
    now.failed_mono_ms = a->learning.failed_mono_ms;
    now.n_failed = a->learning.n_failed;
    (void)pthread_mutex_unlock(&a->learning.lock);
    if (!free_now) {
        return false;
    }
    fill_clocks(a, &now);
    cut_off = cut_off && d->options != NULL && ew__learn_opt_read(d->options, &d->opt, NULL) == EW_OK;
    if (cut_off) {
        d->opt.use_last_plan = d->opt.use_last_plan || ew__agent_was_begun(a, d->opt.task);
    } else {
        d->retrain = lost_task(a, d->task);
        if (!d->retrain) {
            task_by_itself(a, d->task);
        }
        d->opt.task = d->task;
        d->opt.mode = d->retrain ? EW_LEARN_ANEW : d->opt.mode;
        now.n_new = count_new(a, d->task);
    }
    now.must = cut_off || d->retrain;
    ew_schedule_verdict v = ew_schedule_decide(s, &memory, &now);
    if (v == EW_SCHEDULE_NOTHING_NEW && base_has_changed(a, d->task, next_plan_ms)) {
        now.must = true;
        v = ew_schedule_decide(s, &memory, &now);
    }
    (void)pthread_mutex_lock(&a->learning.lock);
    a->learning.verdict = v;
    if (v == EW_SCHEDULE_LEARN && !cut_off && !d->retrain) {
        ew_schedule_remember(s, &now, &a->learning.memory);
    }
    (void)pthread_mutex_unlock(&a->learning.lock);
    return v == EW_SCHEDULE_LEARN;
}

/* What cannot be learned any more (too little is left) is not tried for ever: the plain model is served from now on. */
static void give_up(ew_agent *a, const char *task)
{
    ew_served s;
    ew_error err = EW_ERROR_INIT;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_served_get(&a->home, task, &s, &err);
    if (st == EW_OK) {
        s.adapter = 0;
        s.rag_k = 0;
        s.rag_rank = EW_RAG_RANK_BM25;
        (void)ew_str_copy(s.method, sizeof(s.method), "none");
        st = ew_served_put(&a->home, &s, &err);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    if (st != EW_OK) {
        ew__agent_event(a, "learn-state", "%s", err.msg);
    }
}

static void learn_by_itself(ew_agent *a, const due *d)
{
    EW_AUTO_JSON report = NULL;
    ew_error err = EW_ERROR_INIT;
    ew__agent_event(a, "learn-begins", "task=%s%s", task_name(d->opt.task),
                    d->options != NULL ? " (goes on)"
                    : d->retrain       ? " (without what was forgotten)"
                                       : "");
    ew_status st = ew_agent_learn(a, &d->opt, NULL, &report, &err);
    if (st == EW_OK) {
        ew__agent_event(a, "learned", "decision=%s stop='%s'", json_string_value(json_object_get(report, "decision")),
                        json_string_value(json_object_get(report, "stop")));
    } else {
        ew__agent_event(a, "learn-failed", "%s %s", ew_status_name(st), err.msg);
    }
    if (d->retrain && (st == EW_ELIMIT || st == EW_ENOENT || st == EW_EINVAL)) {
        give_up(a, d->task);
    }
}

static void *learner_main(void *arg)
{
    ew_agent *a = arg;
    uint64_t next_plan_ms = 0;
    while (!atomic_load(&a->stopping)) {
        due d;
        bool learns = look(a, &d, &next_plan_ms);
        if (learns) {
            learn_by_itself(a, &d);
        }
        json_decref(d.options);
        (void)pthread_mutex_lock(&a->learning.lock);
        if (!learns && !atomic_load(&a->stopping)) {
            wait_changed(a, LOOK_MS);
        }
        (void)pthread_mutex_unlock(&a->learning.lock);
    }
    return NULL;
}

ew_status ew__learner_start(ew_agent *a, ew_error *reterr)
{
    (void)pthread_mutex_lock(&a->learning.lock);
    a->learning.started = pthread_create(&a->learning.thread, NULL, learner_main, a) == 0;
    bool started = a->learning.started;
    (void)pthread_mutex_unlock(&a->learning.lock);
    return started ? EW_OK : ew_fail(reterr, EW_ENOMEM, "cannot start the thread that learns by itself");
}

/* stopping is set. */
void ew__learner_stop(ew_agent *a)
{
    (void)pthread_mutex_lock(&a->learning.lock);
    bool started = a->learning.started;
    a->learning.started = false;
    (void)pthread_cond_broadcast(&a->learning.changed);
    (void)pthread_mutex_unlock(&a->learning.lock);
    if (started) {
        (void)pthread_join(a->learning.thread, NULL);
    }
}

json_t *ew__learner_status(ew_agent *a)
{
    char task[EW_TASK_NAME_SIZE];
    task_by_itself(a, task);
    size_t n_new = count_new(a, task);
    (void)pthread_mutex_lock(&a->learning.lock);
    json_t *j = json_pack(
        "{s:s,s:s?,s:I,s:O?}", "state",
        a->learning.pause && a->learning.state == EW__LEARN_RUNNING ? "pausing" : state_names[a->learning.state],
        "next", a->learning.started && a->opt.scheduled ? ew_schedule_verdict_text(a->learning.verdict) : NULL,
        "new_items", (json_int_t)n_new, "last", a->learning.last);
    (void)pthread_mutex_unlock(&a->learning.lock);
    (void)pthread_mutex_lock(&a->yield.lock);
    if (j != NULL) {
        (void)json_object_set_new(j, "gave_way",
                                  json_pack("{s:I,s:f}", "times", (json_int_t)a->yield.n_stops, "seconds",
                                            (double)a->yield.stopped_ms * 1e-3));
    }
    (void)pthread_mutex_unlock(&a->yield.lock);
    return j;
}

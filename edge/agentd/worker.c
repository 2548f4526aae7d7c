/* The parent's side; the child is worker_child.c. */
#include "agentd/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "record/record.h"
#include "text/json.h"

#define LISTEN_MS 200 /* a child that says nothing does not keep its caller from stopping it */
#define LINE_MAX (1024 * 1024)

extern char **environ;

typedef struct child {
    pid_t pid;
    int to;   /* its standard input, -1 when closed */
    int from; /* its standard output */
} child;

/* Close-on-exec: another child, started by another thread at the same time, must not hold an end open. */
static ew_status make_pipe(int ends[2], ew_error *reterr)
{
    if (pipe(ends) != 0) {
        return ew_fail_errno(reterr, errno, "cannot make a pipe for the worker");
    }
    (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    (void)fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    return EW_OK;
}

static ew_status make_pipes(int in[2], int out[2], ew_error *reterr)
{
    EW_TRY(make_pipe(in, reterr));
    ew_status st = make_pipe(out, reterr);
    if (st != EW_OK) {
        (void)close(in[0]);
        (void)close(in[1]);
    }
    return st;
}

static ew_status start(const char *self, child *c, ew_error *reterr)
{
    int in[2];
    int out[2];
    char name[] = "edgewise-agent";
    char verb[] = "worker";
    char *argv[] = {name, verb, NULL};
    posix_spawn_file_actions_t actions;
    EW_TRY(make_pipes(in, out, reterr));
    int e = posix_spawn_file_actions_init(&actions);
    if (e == 0) {
        (void)posix_spawn_file_actions_adddup2(&actions, in[0], 0);
        (void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        e = posix_spawn(&c->pid, self, &actions, NULL, argv, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    if (e != 0) {
        (void)close(in[1]);
        (void)close(out[0]);
        return ew_fail_errno(reterr, e, "cannot start the worker %s", self);
    }
    c->to = in[1];
    c->from = out[0];
    return EW_OK;
}

/* A child that takes no more has ended or will: what it said and how it ended tell more than the broken pipe. */
static ew_status send_all(int fd, const char *data, size_t size, ew_error *reterr)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EPIPE) {
            return EW_OK;
        }
        if (n < 0 && errno != EINTR) {
            return ew_fail_errno(reterr, errno, "the worker does not take its job");
        }
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return EW_OK;
}

static json_t *text_or_null(const char *s)
{
    return s != NULL ? json_string(s) : json_null();
}

static ew_status job_json(const ew_worker_job *job, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_JSON spec = NULL;
    EW_AUTO_JSON caps = NULL;
    EW_TRY(ew_record_from_spec(job->spec, &spec, reterr));
    if (job->caps != NULL) {
        EW_TRY(ew_record_from_caps(job->caps, &caps, reterr));
    }
    EW_AUTO_JSON j = json_pack(
        "{s:I,s:O,s:s,s:o,s:o,s:o,s:o,s:O?,s:I,s:I,s:b}", "parent", (json_int_t)getpid(), "spec", spec, "model",
        job->model_path, "items", text_or_null(job->items_path), "work", text_or_null(job->work_dir), "adapter",
        text_or_null(job->adapter_path), "kern", text_or_null(job->kern), "caps", caps, "memory_limit",
        (json_int_t)job->memory_limit_bytes, "threads", (json_int_t)job->n_threads, "profile", job->items != NULL);
    json_t *served =
        json_pack("{s:b,s:o,s:I,s:I,s:I,s:b,s:f}", "there", job->has_served, "path", text_or_null(job->served_path),
                  "rag_k", (json_int_t)job->served_rag_k, "rag_rank", (json_int_t)job->served_rag_rank, "known",
                  (json_int_t)job->known_order, "update", job->update, "replay", job->replay);
    (void)json_object_set_new(j, "served", served);
    (void)json_object_set_new(j, "max_temperature", json_real(job->max_temperature_c));
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a worker's job");
    }
    EW_TRY(ew_json_dump(j, 0, out, reterr));
    ew_buf_addc(out, '\n');
    return ew_buf_check(out, reterr);
}

static ew_status send_job(const child *c, const void *what, ew_error *reterr)
{
    const ew_worker_job *job = what;
    EW_AUTO_BUF text = {0};
    EW_TRY(job_json(job, &text, reterr));
    for (size_t i = 0; job->items != NULL && i < job->items->n; i++) {
        ew_item_write(&job->items->item[i], &text);
        if (text.size > 64 * 1024) {
            EW_TRY(ew_buf_check(&text, reterr));
            EW_TRY(send_all(c->to, text.data, text.size, reterr));
            ew_buf_clear(&text);
        }
    }
    EW_TRY(ew_buf_check(&text, reterr));
    return send_all(c->to, ew_buf_str(&text), text.size, reterr);
}

static ew_status send_probe(const child *c, const void *what, ew_error *reterr)
{
    const ew_worker_probe *p = what;
    EW_AUTO_BUF text = {0};
    EW_AUTO_JSON j = json_pack("{s:I,s:{s:s,s:s,s:o,s:o,s:I}}", "parent", (json_int_t)getpid(), "probe", "temp_dir",
                               p->temp_dir, "disk_path", p->disk_path, "class", text_or_null(p->device_class), "kern",
                               text_or_null(p->kern), "threads", (json_int_t)p->n_threads);
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the probe");
    }
    EW_TRY(ew_json_dump(j, 0, &text, reterr));
    ew_buf_addc(&text, '\n');
    EW_TRY(ew_buf_check(&text, reterr));
    return send_all(c->to, text.data, text.size, reterr);
}

/* The last progress that a child told. Phases are words of the library: the text is kept while it is shown. */
typedef struct told {
    char phase[32], unit[16];
    ew_progress_info info;
} told;

static void take_progress(const json_t *p, told *t)
{
    const char *s = json_string_value(json_object_get(p, "phase"));
    (void)ew_str_copy(t->phase, sizeof(t->phase), s != NULL ? s : "");
    s = json_string_value(json_object_get(p, "unit"));
    (void)ew_str_copy(t->unit, sizeof(t->unit), s != NULL ? s : "");
    json_t *loss = json_object_get(p, "loss");
    json_t *left = json_object_get(p, "left_s");
    t->info = (ew_progress_info){
        .phase = t->phase,
        .unit = t->unit,
        .done = (uint64_t)json_integer_value(json_object_get(p, "done")),
        .total = (uint64_t)json_integer_value(json_object_get(p, "total")),
        .loss = json_is_number(loss) ? json_number_value(loss) : (double)NAN,
        .left_s = json_is_number(left) ? json_number_value(left) : (double)NAN,
        .tok_per_s = json_number_value(json_object_get(p, "tok_per_s")),
        .joules = json_number_value(json_object_get(p, "joules")),
        .estimated = json_is_true(json_object_get(p, "estimated")),
    };
}

/* What a child is asked, and where its answer goes. */
typedef struct errand {
    atomic_ullong *ram_bytes; /* where a prediction of memory goes; NULL = nowhere */
    ew_yield *yield;          /* NULL = nobody stops the child */
    ew_status (*send)(const child *c, const void *what, ew_error *reterr);
    const void *what;
    /* Takes a line that is no progress. */
    ew_status (*take)(const json_t *line, void *ctx, ew_error *reterr);
    void *ctx;
    told told;
    bool got;     /* an answer was taken */
    bool stopped; /* progress said stop */
} errand;

static void tell(const child *c, errand *e, const ew_progress *progress)
{
    if (!ew_progress_tell(progress, &e->told.info) && !e->stopped) {
        e->stopped = true;
        (void)kill(c->pid, SIGTERM);
        ew_yield_ending(e->yield);
    }
}

static ew_status take_line(const child *c, errand *e, const char *line, size_t size, const ew_progress *progress,
                           ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    if (ew_json_load("worker", line, size, &j, NULL) != EW_OK) {
        return EW_OK; /* a child that is killed in mid-line */
    }
    const json_t *p = json_object_get(j, "progress");
    const json_t *ram = json_object_get(j, "ram_bytes");
    if (json_object_get(j, "ready") != NULL) {
        if (!e->stopped) { /* one that was told to end already runs to its end */
            ew_yield_attach(e->yield, c->pid);
        }
    } else if (ram != NULL) {
        if (e->ram_bytes != NULL && json_integer_value(ram) > 0) {
            atomic_store(e->ram_bytes, (unsigned long long)json_integer_value(ram));
        }
    } else if (p != NULL) {
        take_progress(p, &e->told);
        tell(c, e, progress);
    } else {
        EW_TRY(e->take(j, e->ctx, reterr));
        e->got = true;
    }
    return EW_OK;
}

/* All whole lines. */
static ew_status take_lines(const child *c, errand *e, ew_buf *in, const ew_progress *progress, ew_error *reterr)
{
    const char *end;
    while (in->size > 0 && (end = memchr(in->data, '\n', in->size)) != NULL) {
        size_t size = (size_t)(end - in->data);
        EW_TRY(take_line(c, e, in->data, size, progress, reterr));
        ew_buf_consume(in, size + 1);
    }
    return ew_buf_check(in, reterr);
}

/* Reads lines until the child closes its output. */
static ew_status listen_to(const child *c, errand *e, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO_BUF in = {.max = LINE_MAX};
    char block[4096];
    e->told = (told){.info = {.phase = "", .unit = "", .loss = (double)NAN, .left_s = (double)NAN}};
    for (;;) {
        struct pollfd p = {.fd = c->from, .events = POLLIN};
        int n = poll(&p, 1, LISTEN_MS);
        if (n == 0) {
            tell(c, e, progress);
        } else if (n > 0) {
            ssize_t got = read(c->from, block, sizeof(block));
            if (got == 0) {
                return EW_OK;
            }
            if (got < 0 && errno != EINTR && errno != EAGAIN) {
                return ew_fail_errno(reterr, errno, "cannot read from the worker");
            }
            ew_buf_add(&in, block, got > 0 ? (size_t)got : 0);
            EW_TRY(take_lines(c, e, &in, progress, reterr));
        } else if (errno != EINTR) {
            return ew_fail_errno(reterr, errno, "cannot wait for the worker");
        }
    }
}

static ew_status reap(const child *c, bool got_answer, ew_error *reterr)
{
    int status = 0;
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (got_answer) {
        return EW_OK;
    }
    if (WIFSIGNALED(status)) {
        return ew_fail(reterr, EW_EINTERNAL, "the worker was killed by signal %d%s", WTERMSIG(status),
                       WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
    }
    return ew_fail(reterr, EW_EINTERNAL, "the worker ended with status %d and no result", WEXITSTATUS(status));
}

/* A child's whole life. EW_OK only with an answer. */
static ew_status run_errand(const char *self, errand *e, const ew_progress *progress, ew_error *reterr)
{
    child c = {.pid = -1, .to = -1, .from = -1};
    EW_TRY(start(self, &c, reterr));
    ew_status st = e->send(&c, e->what, reterr);
    (void)close(c.to);
    if (st == EW_OK) {
        st = listen_to(&c, e, progress, reterr);
    }
    ew_yield_detach(e->yield);
    if (st != EW_OK) {
        (void)kill(c.pid, SIGKILL);
    }
    (void)close(c.from);
    ew_status reaped = reap(&c, e->got, st == EW_OK ? reterr : NULL);
    return st == EW_OK ? reaped : st;
}

static ew_status take_result(const json_t *line, void *ctx, ew_error *reterr)
{
    ew_worker_outcome *out = ctx;
    json_t *r = NULL;
    EW_TRY(ew_json_get_obj(line, "worker", "result", &r, reterr));
    EW_TRY(ew_record_to_result(r, out->result, reterr));
    out->better = json_is_true(json_object_get(line, "better"));
    out->has_adapter = json_is_true(json_object_get(line, "adapter"));
    out->beats_served = json_is_true(json_object_get(line, "beats_served"));
    out->served_beats_base = json_is_true(json_object_get(line, "served_beats_base"));
    out->diverged = json_is_true(json_object_get(line, "diverged"));
    out->unfinished = json_is_true(json_object_get(line, "unfinished"));
    out->known_order = (uint64_t)json_integer_value(json_object_get(line, "known"));
    const char *stop = json_string_value(json_object_get(line, "stop"));
    (void)ew_str_copy(out->stop_reason, sizeof(out->stop_reason), stop != NULL ? stop : "");
    return EW_OK;
}

ew_status ew_worker_run(const char *self, const ew_worker_job *job, const ew_progress *progress,
                        ew_worker_outcome *ret_outcome, ew_error *reterr)
{
    ew_worker_outcome out = {.result = ew_calloc(1, sizeof(*out.result))};
    if (out.result == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a trial's result");
    }
    errand e = {.ram_bytes = job->ram_bytes,
                .yield = job->yield,
                .send = send_job,
                .what = job,
                .take = take_result,
                .ctx = &out};
    ew_status st = run_errand(self, &e, progress, reterr);
    if (e.stopped && (!e.got || out.result->code == EW_ECANCELLED)) {
        st = ew_fail(reterr, EW_ECANCELLED, "the trial was stopped");
    }
    if (st != EW_OK) {
        ew_free(out.result);
        return st;
    }
    *ret_outcome = out;
    return EW_OK;
}

static ew_status take_caps(const json_t *line, void *ctx, ew_error *reterr)
{
    json_t *caps = NULL;
    EW_TRY(ew_json_get_obj(line, "worker", "caps", &caps, reterr));
    return ew_record_to_caps(caps, ctx, reterr);
}

ew_status ew_worker_probe_run(const char *self, const ew_worker_probe *probe, const ew_progress *progress,
                              ew_device_caps *ret_caps, ew_error *reterr)
{
    errand e = {.send = send_probe, .what = probe, .take = take_caps, .ctx = ret_caps};
    ew_status st = run_errand(self, &e, progress, reterr);
    return e.stopped && !e.got ? ew_fail(reterr, EW_ECANCELLED, "the probe was stopped") : st;
}

#include "agentd/control.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agentd/agent_int.h"
#include "base/mem.h"
#include "base/str.h"
#include "record/record.h"
#include "sys/socket.h"
#include "text/json.h"

#define REQUEST_MAX (1024 * 1024)
#define CONNECTIONS_MAX 8
#define POLL_MS 200

/* ---- verbs ---- */

static ew_status run_learn(ew_agent *a, const json_t *req, const ew_control_view *view, json_t **ret, ew_error *reterr)
{
    static const char *const orders[] = {"pause", "resume", "stop"};
    ew_learn_opt opt;
    const char *order = NULL;
    EW_TRY(ew_json_opt_str(req, "learn", "order", &order, reterr));
    for (size_t i = 0; order != NULL && i < EW_COUNT(orders); i++) {
        if (strcmp(order, orders[i]) == 0) {
            return ew_agent_learn_order(a, (ew_learn_order)i, &view->progress, ret, reterr);
        }
    }
    if (order != NULL) {
        return ew_fail(reterr, EW_EINVAL, "unknown order '%.32s': pause, resume or stop", order);
    }
    EW_TRY(ew__learn_opt_read(req, &opt, reterr));
    return ew_agent_learn(a, &opt, &view->progress, ret, reterr);
}

static ew_status run_adapter(ew_agent *a, const json_t *req, const ew_control_view *view, json_t **ret,
                             ew_error *reterr)
{
    const char *what = NULL;
    const char *task = NULL;
    const char *out = NULL;
    int64_t id = 0;
    bool keep_types = false;
    EW_TRY(ew_json_get_str(req, "adapter", "do", &what, reterr));
    EW_TRY(ew_json_opt_i64(req, "adapter", "id", 0, INT64_MAX, &id, reterr));
    EW_TRY(ew_json_opt_str(req, "adapter", "task", &task, reterr));
    EW_TRY(ew_json_opt_str(req, "adapter", "out", &out, reterr));
    EW_TRY(ew_json_opt_bool(req, "adapter", "keep_types", &keep_types, reterr));
    if (strcmp(what, "list") == 0) {
        return ew_agent_adapters(a, ret, reterr);
    }
    if (strcmp(what, "rollback") == 0) {
        return ew_agent_adapter_rollback(a, task, ret, reterr);
    }
    if (strcmp(what, "use") == 0) {
        return ew_agent_adapter_use(a, (uint64_t)id, ret, reterr);
    }
    if (strcmp(what, "remove") == 0) {
        EW_TRY(ew_agent_adapter_remove(a, (uint64_t)id, reterr));
    } else if (strcmp(what, "merge") == 0 && out != NULL) {
        EW_TRY(ew_agent_adapter_merge(a, (uint64_t)id, out, keep_types, &view->progress, reterr));
    } else {
        return ew_fail(reterr, EW_EINVAL, "unknown order '%.32s': list, use, rollback, remove or merge (with out)",
                       what);
    }
    *ret = json_object();
    return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for an answer");
}

static ew_status run_plan(ew_agent *a, const json_t *req, json_t **ret, ew_error *reterr)
{
    const char *task = NULL;
    ew_plan *plan = NULL;
    bool fresh = false;
    EW_TRY(ew_json_opt_str(req, "plan", "task", &task, reterr));
    EW_TRY(ew_agent_plan(a, task, &plan, &fresh, reterr));
    ew_status st = ew_record_from_plan(plan, ret, reterr);
    ew_free(plan);
    if (st == EW_OK) {
        (void)json_object_set_new(*ret, "fresh", json_boolean(fresh));
    }
    return st;
}

static ew_status read_layers(const json_t *req, ew_chat_opt *opt, ew_error *reterr)
{
    int64_t first = 0;
    int64_t last = 0;
    EW_TRY(ew_json_opt_i64(req, "chat", "first_layer", 0, 65535, &first, reterr));
    EW_TRY(ew_json_opt_i64(req, "chat", "last_layer", 0, 65535, &last, reterr));
    opt->first_layer = (uint32_t)first;
    opt->last_layer = (uint32_t)last;
    return EW_OK;
}

static ew_status run_chat(ew_agent *a, const json_t *req, const ew_control_view *view, json_t **ret, ew_error *reterr)
{
    ew_chat_opt opt = {0};
    int64_t max_tok = 0;
    int64_t seed = 0;
    int64_t adapter = 0;
    EW_TRY(ew_json_get_str(req, "chat", "prompt", &opt.prompt, reterr));
    EW_TRY(ew_json_opt_bool(req, "chat", "raw", &opt.raw, reterr));
    EW_TRY(ew_json_opt_bool(req, "chat", "plain", &opt.plain, reterr));
    EW_TRY(ew_json_opt_bool(req, "chat", "offload", &opt.offload, reterr));
    EW_TRY(ew_json_opt_bool(req, "chat", "exact", &opt.exact, reterr));
    EW_TRY(ew_json_opt_bool(req, "chat", "compare", &opt.compare, reterr));
    EW_TRY(ew_json_opt_i64(req, "chat", "max_tok", 0, 1000000, &max_tok, reterr));
    EW_TRY(ew_json_opt_str(req, "chat", "task", &opt.task, reterr));
    EW_TRY(ew_json_opt_i64(req, "chat", "adapter", 0, INT64_MAX, &adapter, reterr));
    EW_TRY(ew_json_opt_i64(req, "chat", "seed", 0, INT64_MAX, &seed, reterr));
    EW_TRY(ew_json_opt_f64(req, "chat", "temperature", &opt.temperature, reterr));
    EW_TRY(read_layers(req, &opt, reterr));
    opt.max_tok = (uint32_t)max_tok;
    opt.adapter = (uint64_t)adapter;
    opt.seed = (uint64_t)seed;
    return ew_agent_chat(a, &opt, view->on_text, view->text_ctx, ret, reterr);
}

static ew_status run_consent(ew_agent *a, const json_t *req, json_t **ret, ew_error *reterr)
{
    bool offload = false;
    EW_TRY(ew_json_get_bool(req, "consent", "offload", &offload, reterr));
    EW_TRY(ew_agent_consent(a, offload, reterr));
    *ret = json_pack("{s:b}", "offload", offload);
    return EW_OK;
}

ew_status ew_control_run(ew_agent *a, const json_t *request, const ew_control_view *view, json_t **ret_result,
                         ew_error *reterr)
{
    const char *verb = NULL;
    EW_TRY(ew_json_get_str(request, "request", "verb", &verb, reterr));
    if (strcmp(verb, "status") == 0) {
        return ew_agent_status(a, ret_result, reterr);
    }
    if (strcmp(verb, "plan") == 0) {
        return run_plan(a, request, ret_result, reterr);
    }
    if (strcmp(verb, "learn") == 0) {
        return run_learn(a, request, view, ret_result, reterr);
    }
    if (strcmp(verb, "chat") == 0) {
        return run_chat(a, request, view, ret_result, reterr);
    }
    if (strcmp(verb, "adapter") == 0) {
        return run_adapter(a, request, view, ret_result, reterr);
    }
    if (strcmp(verb, "consent") == 0) {
        return run_consent(a, request, ret_result, reterr);
    }
    return ew_fail(reterr, EW_EINVAL, "unknown verb '%s'", verb);
}

/* ---- lines ---- */

static ew_status send_json(int fd, json_t *j, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    ew_status st =
        j != NULL ? ew_json_dump(j, 0, &text, reterr) : ew_fail(reterr, EW_ENOMEM, "out of memory for an answer");
    json_decref(j);
    EW_TRY(st);
    ew_buf_addc(&text, '\n');
    EW_TRY(ew_buf_check(&text, reterr));
    return ew_socket_send_all(fd, text.data, text.size, 10000, reterr);
}

/* ---- the server ---- */

typedef struct connection {
    ew_control *control;
    pthread_t thread;
    int fd;      /* -1 = free; guarded by control->lock */
    bool done;   /* the thread may be joined */
    bool broken; /* the caller is gone */
} connection;

struct ew_control {
    ew_agent *a;
    int fd;
    pthread_t acceptor;
    pthread_mutex_t lock;
    pthread_cond_t ended; /* a connection is done */
    atomic_bool stopping;
    connection connections[CONNECTIONS_MAX];
};

static bool caller_is_there(connection *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    char byte;
    if (!c->broken && poll(&p, 1, 0) > 0 && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        c->broken = true;
    }
    return !c->broken && !atomic_load(&c->control->stopping);
}

static bool tell_progress(const ew_progress_info *info, void *ctx)
{
    connection *c = ctx;
    json_t *p = json_pack("{s:s,s:s,s:I,s:I}", "phase", info->phase, "unit", info->unit, "done", (json_int_t)info->done,
                          "total", (json_int_t)info->total);
    if (isfinite(info->loss)) {
        (void)json_object_set_new(p, "loss", json_real(info->loss));
    }
    if (isfinite(info->left_s)) {
        (void)json_object_set_new(p, "left_s", json_real(info->left_s));
    }
    if (info->tok_per_s > 0) {
        (void)json_object_set_new(p, "tok_per_s", json_real(info->tok_per_s));
    }
    if (info->joules > 0) {
        (void)json_object_set_new(p, "joules", json_real(info->joules));
        (void)json_object_set_new(p, "estimated", json_boolean(info->estimated));
    }
    if (send_json(c->fd, json_pack("{s:o}", "progress", p), NULL) != EW_OK) {
        c->broken = true;
    }
    return caller_is_there(c);
}

static bool tell_text(const char *text, size_t size, void *ctx)
{
    connection *c = ctx;
    if (send_json(c->fd, json_pack("{s:s%}", "text", text, size), NULL) != EW_OK) {
        c->broken = true;
    }
    return caller_is_there(c);
}

static ew_status read_request(connection *c, json_t **ret, ew_error *reterr)
{
    EW_AUTO_BUF line = {.max = REQUEST_MAX};
    char byte = 0;
    while (byte != '\n') {
        EW_TRY(ew_socket_recv_all(c->fd, &byte, 1, 5000, reterr));
        ew_buf_addc(&line, byte);
        EW_TRY(ew_buf_check(&line, reterr));
    }
    return ew_json_load("request", line.data, line.size, ret, reterr);
}

static json_t *error_json(ew_status code, const char *message)
{
    json_t *j = json_pack("{s:{s:s,s:s}}", "error", "code", ew_status_name(code), "message", message);
    /* A message that is not UTF-8 (cut, or quoting a file) has no JSON form. */
    return j != NULL ? j
                     : json_pack("{s:{s:s,s:s}}", "error", "code", ew_status_name(code), "message",
                                 "the agent's message cannot be shown");
}

static void *serve(void *arg)
{
    connection *c = arg;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON request = NULL;
    json_t *result = NULL;
    const ew_control_view view = {.progress = {.fn = tell_progress, .ctx = c}, .on_text = tell_text, .text_ctx = c};
    ew_status st = read_request(c, &request, &err);
    if (st == EW_OK) {
        st = ew_control_run(c->control->a, request, &view, &result, &err);
    }
    json_t *answer = st == EW_OK ? json_pack("{s:o}", "ok", result) : error_json(st, err.msg);
    if (send_json(c->fd, answer, NULL) != EW_OK) {
        c->broken = true;
    }
    (void)pthread_mutex_lock(&c->control->lock);
    c->done = true;
    (void)pthread_cond_signal(&c->control->ended);
    (void)pthread_mutex_unlock(&c->control->lock);
    return NULL;
}

static void reap(ew_control *k, bool all)
{
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        connection *c = &k->connections[i];
        (void)pthread_mutex_lock(&k->lock);
        bool finished = c->fd >= 0 && (c->done || all);
        (void)pthread_mutex_unlock(&k->lock);
        if (finished) {
            (void)pthread_join(c->thread, NULL);
            (void)close(c->fd);
            c->fd = -1;
        }
    }
}

static bool same_user(int fd)
{
    uint32_t uid = 0;
    int64_t pid = 0;
    return ew_unix_peer(fd, &uid, &pid, NULL) == EW_OK && (uid == getuid() || uid == 0);
}

/* A place for another caller. When all are taken, one that ends within a second makes room: answers are out before threads are. NULL: none. */
static connection *free_place(ew_control *k)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    for (int waited = 0; waited == 0;) {
        reap(k, false);
        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
            if (k->connections[i].fd < 0) {
                return &k->connections[i];
            }
        }
        bool done = false;
        (void)pthread_mutex_lock(&k->lock);
        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
            done = done || k->connections[i].done;
        }
        if (!done) {
            waited = pthread_cond_timedwait(&k->ended, &k->lock, &until);
        }
        (void)pthread_mutex_unlock(&k->lock);
    }
    return NULL;
}

static void start_connection(ew_control *k, int fd)
{
    connection *c = same_user(fd) ? free_place(k) : NULL;
    if (c != NULL) {
        *c = (connection){.control = k, .fd = fd};
        if (pthread_create(&c->thread, NULL, serve, c) == 0) {
            return;
        }
        c->fd = -1;
    }
    static const char busy[] =
        "{\"error\":{\"code\":\"EW_EAGAIN\",\"message\":\"the agent serves as many callers as it can\"}}\n";
    (void)!send(fd, busy, sizeof(busy) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)close(fd);
}

static void *accept_main(void *arg)
{
    ew_control *k = arg;
    while (!atomic_load(&k->stopping)) {
        struct pollfd p = {.fd = k->fd, .events = POLLIN};
        int fd = -1;
        if (poll(&p, 1, POLL_MS) > 0 && ew_unix_accept(k->fd, &fd, NULL) == EW_OK) {
            start_connection(k, fd);
        }
        reap(k, false);
    }
    return NULL;
}

ew_status ew_control_open(ew_agent *a, ew_control **ret_control, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    ew_control *k = ew_calloc(1, sizeof(*k));
    if (k == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for local control");
    }
    k->a = a;
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        k->connections[i].fd = -1;
    }
    EW_ASSERT(pthread_mutex_init(&k->lock, NULL) == 0 && pthread_cond_init(&k->ended, NULL) == 0);
    ew_status st = ew_unix_listen(ew_home_path(ew_agent_home(a), "agent.sock", path), 0600, &k->fd, reterr);
    if (st == EW_OK && pthread_create(&k->acceptor, NULL, accept_main, k) != 0) {
        (void)close(k->fd);
        st = ew_fail(reterr, EW_ENOMEM, "cannot start the thread of local control");
    }
    if (st != EW_OK) {
        (void)pthread_cond_destroy(&k->ended);
        (void)pthread_mutex_destroy(&k->lock);
        ew_free(k);
        return st;
    }
    *ret_control = k;
    return EW_OK;
}

void ew_control_free(ew_control **pk)
{
    if (pk == NULL || *pk == NULL) {
        return;
    }
    ew_control *k = *pk;
    char path[EW_HOME_PATH_MAX];
    atomic_store(&k->stopping, true);
    (void)pthread_join(k->acceptor, NULL);
    reap(k, true);
    (void)close(k->fd);
    (void)unlink(ew_home_path(ew_agent_home(k->a), "agent.sock", path));
    (void)pthread_cond_destroy(&k->ended);
    (void)pthread_mutex_destroy(&k->lock);
    ew_free(k);
    *pk = NULL;
}

/* ---- the caller ---- */

static bool show_progress(const json_t *p, const ew_progress *progress)
{
    json_t *loss = json_object_get(p, "loss");
    json_t *left = json_object_get(p, "left_s");
    const char *phase = json_string_value(json_object_get(p, "phase"));
    const char *unit = json_string_value(json_object_get(p, "unit"));
    const ew_progress_info info = {
        .phase = phase != NULL ? phase : "",
        .unit = unit != NULL ? unit : "",
        .done = (uint64_t)json_integer_value(json_object_get(p, "done")),
        .total = (uint64_t)json_integer_value(json_object_get(p, "total")),
        .loss = json_is_number(loss) ? json_number_value(loss) : (double)NAN,
        .left_s = json_is_number(left) ? json_number_value(left) : (double)NAN,
        .tok_per_s = json_number_value(json_object_get(p, "tok_per_s")),
        .joules = json_number_value(json_object_get(p, "joules")),
        .estimated = json_is_true(json_object_get(p, "estimated")),
    };
    return ew_progress_tell(progress, &info);
}

static ew_status take_line(const char *line, size_t size, const ew_control_view *view, json_t **ret_result,
                           bool *ret_done, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_json_load("agent", line, size, &j, reterr));
    json_t *part = json_object_get(j, "progress");
    if (part != NULL && !show_progress(part, &view->progress)) {
        return ew_fail(reterr, EW_ECANCELLED, "stopped");
    }
    part = json_object_get(j, "text");
    if (part != NULL && view->on_text != NULL &&
        !view->on_text(json_string_value(part), json_string_length(part), view->text_ctx)) {
        return ew_fail(reterr, EW_ECANCELLED, "stopped");
    }
    part = json_object_get(j, "error");
    if (part != NULL) {
        const char *code = json_string_value(json_object_get(part, "code"));
        const char *message = json_string_value(json_object_get(part, "message"));
        return ew_fail(reterr, ew_record_status(code != NULL ? code : ""), "%s",
                       message != NULL ? message : "the agent failed");
    }
    part = json_object_get(j, "ok");
    if (part != NULL) {
        *ret_result = json_incref(part);
        *ret_done = true;
    }
    return EW_OK;
}

bool ew_control_answers(const char *dir)
{
    char path[EW_HOME_PATH_MAX];
    int fd = -1;
    (void)snprintf(path, sizeof(path), "%.900s/agent.sock", dir);
    if (ew_unix_connect(path, &fd, NULL) != EW_OK) {
        return false;
    }
    (void)close(fd);
    return true;
}

ew_status ew_control_call(const char *dir, const json_t *request, const ew_control_view *view, json_t **ret_result,
                          ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    int fd = -1;
    (void)snprintf(path, sizeof(path), "%.900s/agent.sock", dir);
    EW_TRY(ew_unix_connect(path, &fd, reterr));
    FILE *f = fdopen(fd, "r");
    if (f == NULL) {
        int e = errno;
        (void)close(fd);
        return ew_fail_errno(reterr, e, "cannot talk to the agent");
    }
    char *line = NULL;
    size_t cap = 0;
    bool done = false;
    ew_status st = send_json(fd, json_deep_copy(request), reterr);
    while (st == EW_OK && !done) {
        ssize_t n = getline(&line, &cap, f);
        if (n <= 0) {
            st = ew_fail(reterr, EW_EREMOTE,
                         "the agent ended before it answered. HINT: the work goes on when it runs again");
        } else {
            st = take_line(line, (size_t)n, view, ret_result, &done, reterr);
        }
    }
    free(line);
    (void)fclose(f);
    return st;
}

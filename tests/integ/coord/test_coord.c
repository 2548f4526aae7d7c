/* ctest: TIMEOUT=300
 * The coordinator and the signer as processes, a device and an operator played by the library: enrolment, artifacts, plans, trials, revocation, and
 * what is left after kill -9. Waits are for events or for replies, never for time to pass. */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "crypt/sign.h"
#include "opclient/opclient.h"
#include "planner/planner.h"
#include "record/record.h"
#include "session/client.h"
#include "session/enrol.h"
#include "sys/file.h"
#include "sys/socket.h"
#include "text/json.h"
#include "wire/wire.h"

#define WAIT_MS 30000u
#define MODEL EW_TEST_SOURCE_DIR "/tests/golden/model/llama64-q4_0.gguf"

static char g_root[64], g_dir[96], g_operator[128];
static char g_listen[32];
static pid_t g_signer, g_coord;

/* ---- processes */

static pid_t spawn(const char *program, const char *const *args, int *ret_out)
{
    char path[512];
    const char *bin = getenv("EW_BIN_DIR");
    int fd[2];
    (void)snprintf(path, sizeof path, "%s/%s", bin != NULL ? bin : "bin", program);
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fd[1], 1);
        (void)close(fd[0]);
        (void)close(fd[1]);
        (void)execv(path, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    (void)close(fd[1]);
    if (ret_out != NULL) {
        *ret_out = fd[0];
    } else {
        (void)close(fd[0]);
    }
    return pid;
}

static int run(const char *program, const char *const *args)
{
    int status = 0, fd = -1;
    char c;
    pid_t pid = spawn(program, args, &fd);
    while (read(fd, &c, 1) > 0) {
    }
    (void)close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void end(pid_t *pid, int sig)
{
    if (*pid > 0) {
        int status = 0;
        (void)kill(*pid, sig);
        assert_int_equal(waitpid(*pid, &status, 0), *pid);
        *pid = 0;
        assert_true(sig == SIGKILL || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
}

static void start_signer(void)
{
    char dir[160];
    (void)snprintf(dir, sizeof dir, "%s/signer", g_dir);
    const char *args[] = {"edgewise-signer", "run", "--dir", dir, NULL};
    g_signer = spawn("edgewise-signer", args, NULL);
}

/* Returns when it listens: the endpoint is its first line. */
static void start_coord(void)
{
    char line[128] = "";
    size_t n = 0;
    int fd = -1;
    const char *args[] = {
        "edgewise-coordinator", "run",   "--dir",        g_dir, "--listen", g_listen, "--set", "drain=0", "--set",
        "trial-lease=1s",       "--set", "log=all=warn", NULL};
    g_coord = spawn("edgewise-coordinator", args, &fd);
    while (n + 1 < sizeof line && read(fd, &line[n], 1) == 1 && line[n] != '\n') {
        n++;
    }
    (void)close(fd);
    if (strchr(line, ':') == NULL) {
        fail_msg("the coordinator did not start: '%s'", line);
    }
}

static int group_setup(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(g_root, sizeof g_root, "/tmp/ew-coord-XXXXXX");
    assert_non_null(mkdtemp(g_root));
    (void)snprintf(g_dir, sizeof g_dir, "%s/co", g_root);
    (void)snprintf(g_operator, sizeof g_operator, "%s/operator", g_dir);
    const char *args[] = {"edgewise-coordinator", "init", g_dir, NULL};
    assert_int_equal(run("edgewise-coordinator", args), 0);
    assert_int_equal(run("edgewise-coordinator", args), 1); /* and not a second time */
    uint16_t port = 0;
    assert_int_equal(ew_socket_free_port(&port, NULL), EW_OK);
    (void)snprintf(g_listen, sizeof g_listen, "127.0.0.1:%u", port);
    start_signer();
    start_coord();
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    pid_t signer = g_signer;
    g_signer = 0;
    if (signer > 0) { /* first, and without a check: nothing may be left when the other one failed */
        (void)kill(signer, SIGTERM);
        (void)waitpid(signer, NULL, 0);
    }
    end(&g_coord, SIGTERM);
    return ew_dir_remove_tree(g_root, NULL) == EW_OK ? 0 : 1;
}

/* ---- operator */

/* The coordinator takes 20 new connections of one address in a second: who comes too fast tries again. */
static ew_opclient *op_open(void)
{
    ew_opclient *c = NULL;
    ew_error err = EW_ERROR_INIT;
    uint64_t until = ew_mono_ms() + WAIT_MS;
    while (ew_opclient_open(g_operator, NULL, &c, &err) != EW_OK) {
        if (err.code != EW_EREMOTE || ew_mono_ms() > until) {
            fail_msg("%s", err.msg);
        }
        struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
    return c;
}

/* in is consumed. */
static json_t *op(const char *verb, json_t *in)
{
    ew_error err = EW_ERROR_INIT;
    json_t *out = NULL;
    ew_opclient *c = op_open();
    ew_status st = ew_opclient_call(c, verb, in, &out, &err);
    json_decref(in);
    ew_opclient_free(&c);
    if (st != EW_OK) {
        fail_msg("%s: %s", verb, err.msg);
    }
    return out;
}

static void make_token(const char *device, ew_token *ret)
{
    json_t *out = op("token.create", json_pack("{s:s}", "device", device));
    ew_error err = EW_ERROR_INIT;
    if (ew_token_parse(json_string_value(json_object_get(out, "token")), ret, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    json_decref(out);
}

static const json_t *device_of(const json_t *list, const char *id)
{
    size_t i = 0;
    json_t *d = NULL;
    json_array_foreach(json_object_get(list, "devices"), i, d)
    {
        if (strcmp(json_string_value(json_object_get(d, "id")), id) == 0) {
            return d;
        }
    }
    return NULL;
}

/* ---- device */

typedef struct device {
    char id[EW_DEVICE_ID_SIZE];
    char identity[160], ca[160], pending[160];
    ew_enrol_result enrolled;
    ew_client *client;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ew_trial_spec queue[64]; /* ring */
    size_t n_queue, n_taken;
    bool refused; /* GoAway, or refused at the handshake */
} device;

static ew_status enrol(device *d, const ew_token *t, ew_error *err)
{
    (void)snprintf(d->identity, sizeof d->identity, "%s/%s.pem", g_root, d->id);
    (void)snprintf(d->ca, sizeof d->ca, "%s/%s.ca.pem", g_root, d->id);
    (void)snprintf(d->pending, sizeof d->pending, "%s/%s.pending", g_root, d->id);
    ew_enrol_opt opt = {.token = t,
                        .identity_path = d->identity,
                        .pending_path = d->pending,
                        .ca_path = d->ca,
                        .hardware_id = "board-7"};
    return ew_enrol(&opt, &d->enrolled, err);
}

static ew_status on_request(void *ctx, const ew_msg *req, ew_span body, ew_reply *reply, ew_error *reterr)
{
    (void)body;
    device *d = ctx;
    if (req->type != EW_MSG_TRIAL_ASSIGN) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "not for me");
    }
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_TRIAL_ACCEPT);
    memcpy(m->trial_accept.id, req->trial_assign.id, EW_UID_BYTES);
    m->trial_accept.fence = req->trial_assign.fence;
    m->trial_accept.accepted = true;
    ew_status st = ew_reply_send(reply, m, (ew_span){0}, reterr);
    pthread_mutex_lock(&d->lock);
    d->queue[d->n_queue++ % EW_COUNT(d->queue)] = req->trial_assign;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    return st;
}

static void on_state(void *ctx, ew_client_state state, const ew_error *err)
{
    (void)err;
    device *d = ctx;
    pthread_mutex_lock(&d->lock);
    d->refused = d->refused || state == EW_CLIENT_BACKOFF;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static void device_start(device *d)
{
    char endpoint[EW_ENDPOINT_SIZE];
    EW_AUTO_BUF text = {0};
    char path[160], epoch[160];
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(path, sizeof path, "%s/run/endpoint", g_dir);
    (void)snprintf(epoch, sizeof epoch, "%s/%s.epoch", g_root, d->id);
    assert_int_equal(ew_file_read(path, 200, &text, NULL), EW_OK);
    (void)snprintf(endpoint, sizeof endpoint, "%.*s", (int)strcspn(text.data, "\n"), text.data);
    ew_endpoint_list list = {.n = 1};
    (void)ew_str_copy(list.item[0], sizeof list.item[0], endpoint);
    ew_client_opt opt = {.role = EW_ROLE_DEVICE,
                         .endpoints = &list,
                         .identity_path = d->identity,
                         .ca_path = d->ca,
                         .epoch_path = epoch,
                         .software = "test 1",
                         .backoff_base_ms = 100,
                         .backoff_cap_ms = 400};
    ew_client_handlers h = {.on_request = on_request, .on_state = on_state};
    d->refused = false;
    if (ew_client_new(&opt, &h, d, &d->client, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
}

static void device_up(device *d)
{
    ew_error err = EW_ERROR_INIT;
    device_start(d);
    if (ew_client_wait_up(d->client, WAIT_MS, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
}

static void device_stop(device *d)
{
    if (d->client != NULL) {
        ew_client_stop(d->client);
    }
    ew_client_free(&d->client);
}

static device *device_new(const char *id)
{
    device *d = ew_xcalloc(1, sizeof *d);
    ew_token t;
    ew_error err = EW_ERROR_INIT;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    (void)ew_str_copy(d->id, sizeof d->id, id);
    make_token(id, &t);
    if (enrol(d, &t, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    assert_string_equal(d->enrolled.device_id, id);
    return d;
}

static void device_free(device *d)
{
    device_stop(d);
    ew_free(d);
}

/* The next trial that was assigned; false when none comes. */
static bool take_trial(device *d, ew_trial_spec *ret)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    pthread_mutex_lock(&d->lock);
    int rc = 0;
    while (d->n_taken == d->n_queue && rc == 0) {
        rc = pthread_cond_timedwait(&d->changed, &d->lock, &until);
    }
    bool found = d->n_taken < d->n_queue;
    if (found) {
        *ret = d->queue[d->n_taken++ % EW_COUNT(d->queue)];
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

static ew_status send_result(device *d, const ew_trial_spec *spec, double score, ew_error *err)
{
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_TRIAL_RESULT);
    ew_trial_result *r = &m->trial_result;
    memcpy(r->id, spec->id, EW_UID_BYTES);
    r->fence = spec->fence;
    (void)ew_trial_result_add(r, "test.score", "1", score);
    (void)ew_trial_result_add(r, "base.test.score", "1", 0.5);
    return ew_client_call(d->client, m, (ew_span){0}, WAIT_MS, NULL, NULL, err);
}

/* ---- cases */

static void a_token_enrols_one_device_and_wrong_ones_none(void **state)
{
    (void)state;
    device *d = device_new("dev-a");
    device other = {.id = "dev-b"};
    ew_token t;
    ew_error err = EW_ERROR_INIT;
    make_token("dev-b", &t);
    ew_token bad = t;
    bad.secret[0] ^= 1;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(enrol(&other, &bad, &err), EW_EDENIED);
    }
    assert_int_equal(enrol(&other, &t, &err), EW_EDENIED); /* burned */
    assert_non_null(strstr(err.msg, "burned"));
    make_token("dev-b", &t);
    bad = t;
    bad.ca_sha256[3] ^= 1; /* an impostor: another CA than the token's */
    assert_int_equal(enrol(&other, &bad, &err), EW_EDENIED);
    assert_int_equal(enrol(&other, &t, &err), EW_OK);
    device third = {.id = "dev-c"};
    assert_int_equal(enrol(&third, &t, &err), EW_EDENIED); /* used */
    assert_non_null(strstr(err.msg, "used"));
    json_t *list = op("device.list", json_object());
    assert_non_null(device_of(list, "dev-a"));
    assert_non_null(device_of(list, "dev-b"));
    assert_null(device_of(list, "dev-c"));
    json_decref(list);
    device_free(d);
}

static void publish(void)
{
    ew_error err = EW_ERROR_INIT;
    ew_opclient *c = op_open();
    ew_publish_opt opt = {.path = MODEL, .name = "tiny", .version = "1", .variant = "q4_0", .score = NAN};
    if (ew_opclient_publish(c, &opt, NULL, &err) != EW_OK || ew_opclient_publish(c, &opt, NULL, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    ew_opclient_free(&c);
}

static void a_published_model_reaches_a_device_whole_and_signed(void **state)
{
    (void)state;
    publish();
    json_t *models = op("model.list", NULL);
    assert_int_equal(json_array_size(json_object_get(models, "models")), 1);
    json_decref(models);
    device *d = device_new("dev-f");
    device_up(d);
    char path[160];
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(path, sizeof path, "%s/fetched.gguf", g_root);
    ew_fetch_opt opt = {
        .name = "tiny", .version = "", .variant = "q4_0", .artifact_key = d->enrolled.artifact_key, .dest_path = path};
    if (ew_client_fetch(d->client, &opt, NULL, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    EW_AUTO_BUF a = {0};
    EW_AUTO_BUF b = {0};
    assert_int_equal(ew_file_read(path, 64u << 20, &a, NULL), EW_OK);
    assert_int_equal(ew_file_read(MODEL, 64u << 20, &b, NULL), EW_OK);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, b.size);
    uint8_t other[32] = {1};
    opt.artifact_key = other; /* signed by someone else than expected */
    assert_int_not_equal(ew_client_fetch(d->client, &opt, NULL, &err), EW_OK);
    device_free(d);
}

static ew_plan *ask_plan(device *d, uint64_t ram)
{
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_PLAN_REQUEST);
    ew_msg *reply = NULL;
    ew_plan *p = NULL;
    EW_AUTO_BUF body = {0};
    ew_error err = EW_ERROR_INIT;
    ew_task_facts *f = &m->plan_request.facts;
    (void)ew_str_copy(f->task, sizeof f->task, "debian-section");
    (void)ew_str_copy(f->metric, sizeof f->metric, "accuracy");
    f->n_labels = 4;
    f->n_items = 100;
    f->mean_item_tok = 80;
    f->mean_answer_tok = 3;
    m->plan_request.budget.ram_bytes = ram;
    if (ew_client_call(d->client, m, (ew_span){0}, WAIT_MS, &reply, &body, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(reply->type, EW_MSG_PLAN_RESPONSE);
    assert_true(ew_sign_verify(d->enrolled.artifact_key, body.data, body.size, reply->plan_response.signature));
    if (ew_wire_unpack_plan((ew_span){body.data, body.size}, &p, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    ew_msg_free(&reply);
    return p;
}

static json_t *evidence_of(int i, ew_method method, double score)
{
    ew_trial_spec *spec = ew_xcalloc(1, sizeof *spec);
    ew_trial_result *r = ew_xcalloc(1, sizeof *r);
    json_t *j = NULL;
    ew_error err = EW_ERROR_INIT;
    spec->id[0] = r->id[0] = (uint8_t)(i + 1);
    spec->id[1] = r->id[1] = (uint8_t)method;
    (void)ew_str_copy(spec->task, sizeof spec->task, "debian-section");
    (void)ew_str_copy(spec->source, sizeof spec->source, "profile");
    (void)ew_str_copy(spec->variant, sizeof spec->variant, "q4_0");
    spec->method = method;
    spec->n_history = 60;
    (void)ew_trial_result_add(r, "test.score", "1", score);
    (void)ew_trial_result_add(r, "base.test.score", "1", 0.7);
    if (ew_evidence_to_json(spec, r, "tiny", 100000, "elsewhere", &j, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    ew_free(spec);
    ew_free(r);
    return j;
}

static void a_plan_is_signed_and_imported_trials_change_it(void **state)
{
    (void)state;
    device *d = device_new("dev-p");
    device_up(d);
    ew_plan *before = ask_plan(d, 0);
    assert_string_equal(before->chosen.model_name, "tiny");
    assert_int_equal(before->chosen.method, EW_METHOD_LORA);
    json_t *list = json_array();
    for (int i = 0; i < 8; i++) {
        (void)json_array_append_new(list, evidence_of(i, EW_METHOD_LORA, 0.66));
        (void)json_array_append_new(list, evidence_of(i, EW_METHOD_RAG, 0.85));
    }
    json_t *out = op("evidence.import", json_pack("{s:O}", "evidence", list));
    assert_int_equal(json_integer_value(json_object_get(out, "added")), 16);
    json_decref(out);
    out = op("evidence.import", json_pack("{s:o}", "evidence", list));
    assert_int_equal(json_integer_value(json_object_get(out, "added")), 0);
    json_decref(out);
    ew_plan *after = ask_plan(d, 0);
    assert_int_equal(after->chosen.method, EW_METHOD_RAG);
    assert_true(after->evidence_version > before->evidence_version);
    bool named = false;
    for (uint32_t i = 0; i < after->chosen.n_reasons; i++) {
        named =
            named || (strcmp(after->chosen.reasons[i].rule, "evidence") == 0 && after->chosen.reasons[i].n_trials > 0);
    }
    assert_true(named);
    out = op("plan.show", json_pack("{s:s, s:s}", "device", "dev-p", "task", "debian-section"));
    ew_plan *shown = ew_xcalloc(1, sizeof *shown);
    assert_int_equal(ew_record_to_plan(json_object_get(out, "plan"), shown, NULL), EW_OK);
    assert_int_equal(shown->chosen.method, EW_METHOD_RAG);
    json_decref(out);
    ew_free(shown);
    ew_free(before);
    ew_free(after);
    device_free(d);
}

static json_t *submission(const char *id, const char *device_id, int n)
{
    json_t *trials = json_array();
    for (int i = 0; i < n; i++) {
        (void)json_array_append_new(trials, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i}", "device", device_id,
                                                      "task", "debian-section", "source", "profile", "model", "tiny",
                                                      "variant", "q4_0", "method", "lora", "n_history", 16, "seed", i));
    }
    return json_pack("{s:s, s:s, s:o}", "id", id, "name", "grid", "trials", trials);
}

static void expect_counts(const char *id, int done, int total)
{
    json_t *out = op("experiment.status", json_pack("{s:s}", "id", id));
    const json_t *e = json_array_get(json_object_get(out, "experiments"), 0);
    assert_int_equal(json_integer_value(json_object_get(e, "done")), done);
    assert_int_equal(json_integer_value(json_object_get(e, "total")), total);
    json_decref(out);
}

static void trials_are_done_once_through_kills_of_coordinator_and_signer(void **state)
{
    (void)state;
    static const char id[] = "0123456789abcdef0123456789abcdef";
    device *d = device_new("dev-t");
    device_up(d);
    json_decref(op("experiment.submit", submission(id, "dev-t", 6)));
    json_decref(op("experiment.submit", submission(id, "dev-t", 6))); /* the same again is the same */
    expect_counts(id, 0, 6);
    char seen[6] = {0};
    int done = 0;
    while (done < 6) {
        ew_trial_spec spec = {0};
        ew_error err = EW_ERROR_INIT;
        assert_true(take_trial(d, &spec));
        assert_true(spec.seed < 6);
        if (done == 2 || done == 4) { /* in the middle of a trial */
            if (done == 4) {
                end(&g_signer, SIGKILL);
                start_signer();
            }
            end(&g_coord, SIGKILL);
            start_coord();
        }
        ew_status st = send_result(d, &spec, 0.6, &err);
        if (st == EW_ECONFLICT) {
            continue; /* given out anew meanwhile: the newer one counts */
        }
        if (st != EW_OK) {
            fail_msg("%s", err.msg);
        }
        assert_int_equal(send_result(d, &spec, 0.9, &err), EW_OK); /* a repeated result changes nothing */
        assert_int_equal(seen[spec.seed], 0);
        seen[spec.seed] = 1;
        done++;
        spec.fence += 7;
        assert_int_equal(send_result(d, &spec, 0.1, &err), EW_ECONFLICT);
    }
    expect_counts(id, 6, 6);
    json_t *out = op("experiment.results", json_pack("{s:s}", "experiment", id));
    const json_t *trials = json_object_get(out, "trials");
    assert_int_equal(json_array_size(trials), 6);
    for (size_t i = 0; i < 6; i++) {
        ew_trial_result *r = ew_xcalloc(1, sizeof *r);
        assert_int_equal(ew_record_to_result(json_object_get(json_array_get(trials, i), "result"), r, NULL), EW_OK);
        assert_true(fabs(ew_trial_result_mean(r, "test.score") - 0.6) < 1e-9);
        ew_free(r);
    }
    json_decref(out);
    device_free(d);
}

/* ---- fifty seeded kills */

#define N_KILLS 50
#define N_TRIALS 25 /* of each device */

typedef struct worker {
    device *d;
    pthread_t thread;
    _Atomic int sent; /* results that were answered */
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    ew_trial_spec spec = {0};
    while (take_trial(w->d, &spec) && spec.seed != UINT32_MAX) {
        for (;;) {
            ew_error err = EW_ERROR_INIT;
            EW_AUTO(ew_msg) p = ew_msg_new(EW_MSG_TRIAL_PROGRESS);
            memcpy(p->trial_progress.id, spec.id, EW_UID_BYTES);
            p->trial_progress.fence = spec.fence;
            (void)!ew_client_notify(w->d->client, p, (ew_span){0}, &err); /* lost when there is no session: so be it */
            ew_status st = send_result(w->d, &spec, 0.6, &err);
            if (st == EW_OK || st == EW_ECONFLICT) {
                w->sent++;
                break;
            }
        }
    }
    return NULL;
}

static int done_of(const char *id)
{
    json_t *out = op("experiment.status", json_pack("{s:s}", "id", id));
    int n = (int)json_integer_value(json_object_get(json_array_get(json_object_get(out, "experiments"), 0), "done"));
    json_decref(out);
    return n;
}

/* At a moment that the seed says: mostly while trials are handed out and results come in, sometimes while the last restart goes on. */
static void kill_and_restart(ew_rng *rng, const worker *w, int *sent)
{
    uint64_t until = ew_mono_ms() + 700;
    struct timespec moment = {.tv_nsec = (long)ew_rng_below(rng, 15 * 1000 * 1000)};
    bool at_once = ew_rng_below(rng, 8) == 0;
    while (!at_once && w[0].sent + w[1].sent <= *sent && ew_mono_ms() < until) {
        struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
    *sent = w[0].sent + w[1].sent;
    (void)nanosleep(&moment, NULL);
    if (ew_rng_below(rng, 3) == 0) {
        end(&g_signer, SIGKILL);
        start_signer();
    } else {
        end(&g_coord, SIGKILL);
        start_coord();
    }
}

static void fifty_kills_at_seeded_moments_lose_no_trial_and_double_none(void **state)
{
    (void)state;
    static const char *const names[] = {"dev-k1", "dev-k2"};
    static const char *const ids[] = {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa02"};
    worker w[2] = {0};
    ew_rng rng;
    ew_rng_init(&rng, 20261120, 0);
    for (int i = 0; i < 2; i++) {
        w[i].d = device_new(names[i]);
        device_up(w[i].d);
        json_decref(op("experiment.submit", submission(ids[i], names[i], N_TRIALS)));
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0, sent = 0; i < N_KILLS; i++) {
        kill_and_restart(&rng, w, &sent);
    }
    uint64_t until = ew_mono_ms() + 4 * WAIT_MS;
    while (done_of(ids[0]) + done_of(ids[1]) < 2 * N_TRIALS) {
        assert_true(ew_mono_ms() < until);
        struct timespec pause = {.tv_nsec = 500 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
    for (int i = 0; i < 2; i++) {
        pthread_mutex_lock(&w[i].d->lock);
        w[i].d->queue[w[i].d->n_queue++ % EW_COUNT(w[i].d->queue)].seed = UINT32_MAX; /* no more */
        pthread_cond_broadcast(&w[i].d->changed);
        pthread_mutex_unlock(&w[i].d->lock);
        pthread_join(w[i].thread, NULL);
        expect_counts(ids[i], N_TRIALS, N_TRIALS);
        json_t *out = op("experiment.results", json_pack("{s:s}", "experiment", ids[i]));
        char seen[N_TRIALS] = {0};
        size_t k = 0;
        json_t *t = NULL;
        json_array_foreach(json_object_get(out, "trials"), k, t)
        {
            json_int_t seed = json_integer_value(json_object_get(json_object_get(t, "spec"), "seed"));
            assert_non_null(json_object_get(t, "result"));
            assert_int_equal(seen[seed], 0);
            seen[seed] = 1;
        }
        json_decref(out);
        device_free(w[i].d);
    }
}

static void a_device_cannot_answer_for_another(void **state)
{
    (void)state;
    static const char id[] = "ffffffffffffffffffffffffffffffff";
    device *a = device_new("dev-x");
    device *b = device_new("dev-y");
    device_up(a);
    device_up(b);
    json_decref(op("experiment.submit", submission(id, "dev-x", 1)));
    ew_trial_spec spec = {0};
    ew_error err = EW_ERROR_INIT;
    assert_true(take_trial(a, &spec));
    assert_int_equal(send_result(b, &spec, 1.0, &err), EW_EDENIED);
    assert_int_equal(send_result(a, &spec, 0.5, &err), EW_OK);
    device_free(a);
    device_free(b);
}

static void a_revoked_device_is_cut_and_stays_out(void **state)
{
    (void)state;
    device *d = device_new("dev-r");
    device_up(d);
    uint64_t begin = ew_mono_ms();
    json_decref(op("device.revoke", json_pack("{s:s}", "id", "dev-r")));
    pthread_mutex_lock(&d->lock);
    while (!d->refused) {
        pthread_cond_wait(&d->changed, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    assert_true(ew_mono_ms() - begin < 5000);
    device_stop(d);
    end(&g_coord, SIGKILL); /* and after a restart */
    start_coord();
    device_start(d);
    pthread_mutex_lock(&d->lock);
    while (!d->refused) {
        pthread_cond_wait(&d->changed, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    json_t *list = op("device.list", NULL);
    const json_t *row = device_of(list, "dev-r");
    assert_string_equal(json_string_value(json_object_get(row, "status")), "revoked");
    assert_true(json_is_false(json_object_get(row, "connected")));
    json_decref(list);
    device_free(d);
}

static void mistakes_of_an_operator_are_told(void **state)
{
    (void)state;
    ew_opclient *c = op_open();
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_opclient_call(c, "no.such.verb", NULL, NULL, &err), EW_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "no.such.verb"));
    json_t *in = json_pack("{s:i}", "ttl_s", 99999999);
    assert_int_not_equal(ew_opclient_call(c, "token.create", in, NULL, &err), EW_OK);
    json_decref(in);
    in = json_pack("{s:s}", "id", "nobody");
    assert_int_equal(ew_opclient_call(c, "device.revoke", in, NULL, &err), EW_ENOENT);
    json_decref(in);
    in = submission("00000000000000000000000000000001", "nobody", 1);
    assert_int_equal(ew_opclient_call(c, "experiment.submit", in, NULL, &err), EW_ENOENT);
    assert_non_null(strstr(err.msg, "trial 1"));
    json_decref(in);
    ew_opclient_free(&c);
    json_t *out = op("experiment.status", NULL); /* the refused submission left nothing */
    size_t i = 0;
    json_t *e = NULL;
    json_array_foreach(json_object_get(out, "experiments"), i, e)
    {
        assert_string_not_equal(json_string_value(json_object_get(e, "id")), "00000000000000000000000000000001");
    }
    json_decref(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_enrols_one_device_and_wrong_ones_none),
        cmocka_unit_test(a_published_model_reaches_a_device_whole_and_signed),
        cmocka_unit_test(a_plan_is_signed_and_imported_trials_change_it),
        cmocka_unit_test(trials_are_done_once_through_kills_of_coordinator_and_signer),
        cmocka_unit_test(fifty_kills_at_seeded_moments_lose_no_trial_and_double_none),
        cmocka_unit_test(a_device_cannot_answer_for_another),
        cmocka_unit_test(a_revoked_device_is_cut_and_stays_out),
        cmocka_unit_test(mistakes_of_an_operator_are_told),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

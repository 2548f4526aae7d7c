/* The learner's states without a coordinator and without workers: what survives, what orders do, what is served. ctest: TIMEOUT=120 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "test.h"

#include "agentd/agent_int.h"
#include "agentd/control.h"
#include "agentd/home.h"
#include "agentd/served.h"
#include "base/mem.h"
#include "base/str.h"
#include "record/record.h"
#include "sys/file.h"
#include "text/json.h"
#include "vault/vault.h"

#define BASE "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

typedef struct fixture {
    char dir[512];
    ew_agent *a;
    pthread_mutex_t lock;
    pthread_cond_t told;
    char events[8][64];
    size_t n_events;
} fixture;

static void make_home(const char *dir, ew_home *ret)
{
    ew_error err = EW_ERROR_INIT;
    json_t *caps = NULL;
    assert_ok(ew_home_init(dir, ret, &err), &err);
    (void)ew_str_copy(ret->device_id, sizeof(ret->device_id), "dev-1");
    (void)ew_str_copy(ret->trust_domain, sizeof(ret->trust_domain), "example");
    assert_ok(ew_home_save(ret, &err), &err);
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    assert_ok(ew_record_from_caps(c, &caps, &err), &err);
    ew_free(c);
    json_t *j = json_pack("{s:s,s:i,s:o}", "software", "agent test", "threads", 1, "caps", caps);
    assert_ok(ew_home_write_json(ret, "caps.json", j, &err), &err);
    json_decref(j);
}

static void on_event(void *ctx, const char *event, const char *text)
{
    fixture *f = ctx;
    (void)text;
    (void)pthread_mutex_lock(&f->lock);
    if (f->n_events < EW_COUNT(f->events)) {
        (void)ew_str_copy(f->events[f->n_events++], sizeof(f->events[0]), event);
    }
    (void)pthread_cond_broadcast(&f->told);
    (void)pthread_mutex_unlock(&f->lock);
}

static void wait_event(fixture *f, const char *event)
{
    (void)pthread_mutex_lock(&f->lock);
    for (;;) {
        bool found = false;
        for (size_t i = 0; i < f->n_events; i++) {
            found = found || strcmp(f->events[i], event) == 0;
        }
        if (found) {
            break;
        }
        (void)pthread_cond_wait(&f->told, &f->lock);
    }
    (void)pthread_mutex_unlock(&f->lock);
}

static void open_agent(fixture *f)
{
    ew_error err = EW_ERROR_INIT;
    const ew_agent_opt opt = {.dir = f->dir, .self = "/bin/false", .software = "agent test", .n_threads = 1};
    assert_ok(ew_agent_open(&opt, NULL, &f->a, &err), &err);
    ew_agent_on_event(f->a, on_event, f);
}

static int setup(void **state)
{
    static int n;
    char name[32];
    ew_home h;
    fixture *f = ew_xcalloc(1, sizeof(*f));
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(name, sizeof(name), "learner%d", n++);
    (void)snprintf(f->dir, sizeof(f->dir), "%s", ew_test_path(name));
    make_home(f->dir, &h);
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_cond_init(&f->told, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    ew_home h;
    ew_agent_free(&f->a);
    assert_ok(ew_home_init(f->dir, &h, &err), &err);
    assert_ok(ew_dir_remove_tree(h.runtime, &err), &err);
    (void)pthread_mutex_destroy(&f->lock);
    (void)pthread_cond_destroy(&f->told);
    ew_free(f);
    return 0;
}

static void write_state(const fixture *f, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    char path[600];
    (void)snprintf(path, sizeof(path), "%s/learn.json", f->dir);
    assert_ok(ew_file_replace(path, text, strlen(text), 0600, &err), &err);
}

/* A value of the status, as text. */
static void check_status(const fixture *f, const char *key, const char *want)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON j = NULL;
    assert_ok(ew_agent_status(f->a, &j, &err), &err);
    const json_t *learning = json_object_get(j, "learning");
    const json_t *v = json_object_get(learning, key);
    v = v != NULL ? v : json_object_get(json_object_get(learning, "last"), key);
    assert_string_equal(json_string_value(v), want);
}

static void order(fixture *f, ew_learn_order o, ew_status expected, const char *words)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON j = NULL;
    assert_fails(expected, ew_agent_learn_order(f->a, o, NULL, &j, &err), &err, words);
}

static void orders_need_something_that_is_learned(void **state)
{
    fixture *f = *state;
    open_agent(f);
    order(f, EW_LEARN_PAUSE, EW_ENOENT, "nothing is being learned");
    order(f, EW_LEARN_RESUME, EW_ENOENT, "nothing is being learned");
    order(f, EW_LEARN_STOP, EW_ENOENT, "nothing is being learned");
    ew_agent_learn_signal(f->a, true); /* no harm */
    check_status(f, "state", "idle");
}

static void a_pause_outlives_the_agent_and_a_resume_goes_on(void **state)
{
    fixture *f = *state;
    write_state(f, "{\"state\":\"paused\",\"options\":{\"task\":\"custom\",\"use_last_plan\":true}}");
    open_agent(f);
    check_status(f, "state", "paused");
    order(f, EW_LEARN_PAUSE, EW_OK, "");
    check_status(f, "state", "paused");
    /* No executor: it is learned in the call. There is no plan yet. */
    order(f, EW_LEARN_RESUME, EW_ENOENT, "plan.json");
    check_status(f, "state", "idle");
    check_status(f, "code", "EW_ENOENT");
}

static void what_was_cut_off_is_gone_on_with_by_itself(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    write_state(f, "{\"state\":\"running\",\"options\":{\"task\":\"custom\",\"use_last_plan\":true}}");
    open_agent(f);
    check_status(f, "state", "running");
    assert_ok(ew_agent_start(f->a, &err), &err);
    wait_event(f, "learn-begins");
    wait_event(f, "learn-failed"); /* no plan */
    check_status(f, "state", "idle");
    check_status(f, "code", "EW_ENOENT");
}

static void put_plan(const fixture *f, uint8_t first_of_id)
{
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    ew_plan *p = ew_xcalloc(1, sizeof(*p));
    p->id[0] = first_of_id;
    p->chosen.method = EW_METHOD_LORA;
    (void)ew_str_copy(p->task, sizeof(p->task), "custom");
    assert_ok(ew_record_from_plan(p, &j, &err), &err);
    assert_ok(ew_home_write_json(ew_agent_home(f->a), "plan.json", j, &err), &err);
    json_decref(j);
    ew_free(p);
}

static const char *runtime_file(const fixture *f, uint8_t first_of_id, const char *ending, char path[EW_HOME_PATH_MAX])
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%02x%030d%s", first_of_id, 0, ending);
    return ew_home_runtime_path(ew_agent_home(f->a), name, path);
}

/* A plan has a new number each time: one that was cut off behind a checkpoint goes on by its own. Checkpoints of others are removed. */
static void a_cut_off_learning_keeps_its_plan_and_others_leave_no_checkpoints(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON report = NULL;
    char own[EW_HOME_PATH_MAX];
    char other[EW_HOME_PATH_MAX];
    char trial[EW_HOME_PATH_MAX];
    char adapter[EW_HOME_PATH_MAX];
    const ew_learn_opt opt = {.use_last_plan = true};
    const ew_trial_spec spec = {.id = {3}, .method = EW_METHOD_LORA, .task = "custom", .source = "profile"};
    open_agent(f);
    assert_false(ew__agent_was_begun(f->a, NULL));
    put_plan(f, 1);
    assert_false(ew__agent_was_begun(f->a, NULL));
    assert_ok(ew_file_replace(runtime_file(f, 1, ".tune", own), "x", 1, 0600, &err), &err);
    assert_true(ew__agent_was_begun(f->a, NULL));
    assert_false(ew__agent_was_begun(f->a, "other"));
    assert_ok(ew_file_replace(runtime_file(f, 2, ".tune", other), "x", 1, 0600, &err), &err);
    assert_ok(ew_file_replace(runtime_file(f, 3, ".tune", trial), "x", 1, 0600, &err), &err);
    assert_ok(ew_spool_put(ew_agent_home(f->a), &spec, &err), &err);
    (void)ew_home_runtime_path(ew_agent_home(f->a), "learned.gguf", adapter);
    assert_ok(ew_file_replace(adapter, "x", 1, 0600, &err), &err);
    assert_int_not_equal(ew_agent_learn(f->a, &opt, NULL, &report, &err), EW_OK); /* there is no model */
    assert_true(ew_file_exists(own));
    assert_true(ew_file_exists(trial));
    assert_false(ew_file_exists(other));
    assert_false(ew_file_exists(adapter));
}

static void a_paused_learning_is_not_begun_by_itself(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    write_state(f, "{\"state\":\"paused\",\"options\":{\"task\":\"custom\",\"use_last_plan\":true}}");
    open_agent(f);
    assert_ok(ew_agent_start(f->a, &err), &err);
    order(f, EW_LEARN_PAUSE, EW_OK, "");
    assert_int_equal(f->n_events, 0);
    order(f, EW_LEARN_STOP, EW_OK, "");
    check_status(f, "state", "idle");
}

static void a_damaged_state_is_a_fresh_start(void **state)
{
    fixture *f = *state;
    static const char *const bad[] = {"[", "[]", "{\"state\":7}", "{\"state\":\"running\"}",
                                      "{\"state\":\"paused\",\"options\":3,\"known\":[]}"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        write_state(f, bad[i]);
        open_agent(f);
        check_status(f, "state", "idle");
        ew_agent_free(&f->a);
    }
}

static void a_failure_leaves_what_is_served(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON report = NULL;
    ew_served s = {.adapter = 0, .rag_k = 2, .model = BASE, .task = "custom", .method = "rag"};
    open_agent(f);
    assert_ok(ew_served_put(ew_agent_home(f->a), &s, &err), &err);
    const ew_learn_opt opt = {.use_last_plan = true};
    assert_fails(EW_ENOENT, ew_agent_learn(f->a, &opt, NULL, &report, &err), &err, "plan.json");
    assert_ok(ew_served_get(ew_agent_home(f->a), NULL, &s, &err), &err);
    assert_string_equal(s.method, "rag");
}

static uint64_t put_adapter(ew_vault *v, uint64_t row)
{
    ew_error err = EW_ERROR_INIT;
    uint64_t id = 0;
    const ew_vault_adapter meta = {.task = "custom", .method = "lora", .base_sha256 = BASE};
    assert_ok(ew_vault_adapter_put(v, &meta, &row, 1, (ew_span){"x", 1}, &id, &err), &err);
    return id;
}

static void adapters_are_used_only_where_their_model_is_and_nothing_was_forgotten(void **state)
{
    fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    ew_home h;
    char path[EW_HOME_PATH_MAX];
    ew_vault *v = NULL;
    EW_AUTO_ITEMS items = {0};
    ew_vault_import_result imported;
    static const char line[] = "{\"input\":\"a\",\"output\":\"b\"}\n";
    assert_ok(ew_home_init(f->dir, &h, &err), &err);
    assert_ok(ew_home_vault(&h, NULL, &v, &err), &err);
    assert_ok(ew_items_read_mem("x", line, strlen(line), &items, &err), &err);
    assert_ok(ew_vault_add_items(v, &items, &imported, &err), &err);
    uint64_t good = put_adapter(v, 1);
    uint64_t flagged = put_adapter(v, 99); /* an item that is not there */
    ew_vault_free(&v);
    open_agent(f);
    assert_fails(EW_ENOENT, ew_agent_adapter_use(f->a, good, &j, &err), &err, "not on this device");
    (void)snprintf(path, sizeof(path), "%s/artifacts/" BASE ".gguf", f->dir);
    assert_ok(ew_file_replace(path, "x", 1, 0600, &err), &err);
    assert_fails(EW_ECONFLICT, ew_agent_adapter_use(f->a, flagged, &j, &err), &err, "forgotten");
    assert_ok(ew_agent_adapter_use(f->a, good, &j, &err), &err);
    json_decref(j);
    assert_fails(EW_ECONFLICT, ew_agent_adapter_remove(f->a, good, &err), &err, "rollback --task custom");
    assert_ok(ew_agent_adapter_rollback(f->a, NULL, &j, &err), &err);
    assert_string_equal(json_string_value(json_object_get(j, "method")), "none");
    json_decref(j);
    assert_fails(EW_ENOENT, ew_agent_adapter_merge(f->a, 0, "/nowhere/x.gguf", true, NULL, &err), &err, "plain model");
    assert_fails(EW_ECONFLICT, ew_agent_adapter_merge(f->a, flagged, "/nowhere/x.gguf", true, NULL, &err), &err,
                 "forgotten");
    assert_ok(ew_agent_adapter_remove(f->a, good, &err), &err);
    assert_fails(EW_ENOENT, ew_agent_adapter_remove(f->a, good, &err), &err, "no adapter");
}

static void verbs_say_what_they_do_not_know(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *request, *words;
        ew_status code;
    } bad[] = {{"{\"verb\":\"learn\",\"order\":\"jump\"}", "pause, resume or stop", EW_EINVAL},
               {"{\"verb\":\"learn\",\"mode\":\"fast\"}", "anew, update or auto", EW_EINVAL},
               {"{\"verb\":\"adapter\"}", "'do'", EW_ECORRUPT},
               {"{\"verb\":\"adapter\",\"do\":\"merge\"}", "merge (with out)", EW_EINVAL},
               {"{\"verb\":\"adapter\",\"do\":\"use\",\"id\":-1}", "id", EW_ECORRUPT},
               {"{\"verb\":\"adapter\",\"do\":\"rollback\",\"task\":\"t\"}", "task t", EW_ENOENT},
               {"{\"verb\":\"chat\",\"prompt\":\"x\",\"task\":\"t\"}", "learn --task t", EW_ENOENT},
               {"{\"verb\":\"chat\",\"prompt\":\"x\",\"adapter\":7}", "no adapter 7", EW_ENOENT}};
    open_agent(f);
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        EW_AUTO_JSON req = json_loads(bad[i].request, 0, NULL);
        EW_AUTO_JSON result = NULL;
        const ew_control_view view = {0};
        assert_fails(bad[i].code, ew_control_run(f->a, req, &view, &result, &err), &err, bad[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(orders_need_something_that_is_learned, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pause_outlives_the_agent_and_a_resume_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_cut_off_is_gone_on_with_by_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cut_off_learning_keeps_its_plan_and_others_leave_no_checkpoints, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_paused_learning_is_not_begun_by_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_state_is_a_fresh_start, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failure_leaves_what_is_served, setup, teardown),
        cmocka_unit_test_setup_teardown(adapters_are_used_only_where_their_model_is_and_nothing_was_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(verbs_say_what_they_do_not_know, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The agent's local control: what comes over its socket, good and bad. No coordinator is there. ctest: TIMEOUT=120 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "test.h"

#include "agentd/agent.h"
#include "agentd/control.h"
#include "agentd/home.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "record/record.h"
#include "sys/file.h"
#include "sys/socket.h"
#include "text/json.h"

typedef struct running {
    char dir[512];
    ew_agent *a;
    ew_control *c;
} running;

/* An enrolled directory whose machine was probed before. */
static void make_home(const char *dir)
{
    ew_home h;
    ew_error err = EW_ERROR_INIT;
    json_t *caps = NULL;
    assert_ok(ew_home_init(dir, &h, &err), &err);
    (void)ew_str_copy(h.device_id, sizeof(h.device_id), "dev-1");
    (void)ew_str_copy(h.trust_domain, sizeof(h.trust_domain), "example");
    assert_ok(ew_home_save(&h, &err), &err);
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    assert_ok(ew_record_from_caps(c, &caps, &err), &err);
    ew_free(c);
    json_t *j = json_pack("{s:s,s:i,s:o}", "software", "agent test", "threads", 1, "caps", caps);
    assert_ok(ew_home_write_json(&h, "caps.json", j, &err), &err);
    json_decref(j);
}

static int start(void **state)
{
    ew_error err = EW_ERROR_INIT;
    running *r = ew_xcalloc(1, sizeof(*r));
    static int n;
    char name[32];
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(name, sizeof(name), "agent%d", n++);
    (void)snprintf(r->dir, sizeof(r->dir), "%s", ew_test_path(name));
    make_home(r->dir);
    const ew_agent_opt opt = {.dir = r->dir, .self = "/bin/false", .software = "agent test", .n_threads = 1};
    assert_ok(ew_agent_open(&opt, NULL, &r->a, &err), &err);
    assert_ok(ew_control_open(r->a, &r->c, &err), &err);
    *state = r;
    return 0;
}

static int stop(void **state)
{
    running *r = *state;
    ew_error err = EW_ERROR_INIT;
    char runtime[512];
    (void)ew_str_copy(runtime, sizeof(runtime), ew_agent_home(r->a)->runtime);
    ew_control_free(&r->c);
    ew_agent_stop(r->a);
    ew_agent_free(&r->a);
    assert_ok(ew_dir_remove_tree(runtime, &err), &err);
    ew_free(r);
    return 0;
}

static int dial(const running *r)
{
    ew_error err = EW_ERROR_INIT;
    char path[600];
    int fd = -1;
    (void)snprintf(path, sizeof(path), "%s/agent.sock", r->dir);
    assert_ok(ew_unix_connect(path, &fd, &err), &err);
    return fd;
}

/* Everything that comes until the agent closes. */
static size_t hear(int fd, char *dst, size_t size)
{
    size_t used = 0;
    ssize_t n;
    while (used + 1 < size && (n = recv(fd, dst + used, size - 1 - used, 0)) > 0) {
        used += (size_t)n;
    }
    dst[used] = '\0';
    return used;
}

static json_t *call(const running *r, const char *request, ew_status expected, ew_error *err)
{
    json_t *req = json_loads(request, 0, NULL);
    json_t *result = NULL;
    const ew_control_view view = {0};
    assert_non_null(req);
    ew_status st = ew_control_call(r->dir, req, &view, &result, err);
    json_decref(req);
    if (st != expected) {
        fail_msg("%s: %s '%s'", request, ew_status_name(st), err->msg);
    }
    return result;
}

static void status_is_told_and_the_socket_is_private(void **state)
{
    const running *r = *state;
    ew_error err = EW_ERROR_INIT;
    struct stat st;
    char path[600];
    json_t *j = call(r, "{\"verb\":\"status\"}", EW_OK, &err);
    assert_true(json_is_object(j));
    char *text = json_dumps(j, 0);
    assert_non_null(strstr(text, "dev-1"));
    free(text);
    json_decref(j);
    (void)snprintf(path, sizeof(path), "%s/agent.sock", r->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void consent_is_remembered(void **state)
{
    const running *r = *state;
    ew_error err = EW_ERROR_INIT;
    ew_home h;
    json_decref(call(r, "{\"verb\":\"consent\",\"offload\":true}", EW_OK, &err));
    assert_ok(ew_home_open(r->dir, &h, &err), &err);
    assert_true(h.consent_offload);
    json_decref(call(r, "{\"verb\":\"consent\",\"offload\":false}", EW_OK, &err));
    assert_ok(ew_home_open(r->dir, &h, &err), &err);
    assert_false(h.consent_offload);
}

static void bad_requests_get_an_error_each(void **state)
{
    static const struct {
        const char *request;
        ew_status code;
        const char *text;
    } bad[] = {
        {"{\"verb\":\"dance\"}", EW_EINVAL, "dance"},
        {"{}", EW_ECORRUPT, "verb"},
        {"{\"verb\":7}", EW_ECORRUPT, "verb"},
        {"[\"status\"]", EW_ECORRUPT, ""},
        {"{\"verb\":\"consent\"}", EW_ECORRUPT, "offload"},
        {"{\"verb\":\"consent\",\"offload\":\"yes\"}", EW_ECORRUPT, "offload"},
        {"{\"verb\":\"chat\"}", EW_ECORRUPT, "prompt"},
        {"{\"verb\":\"chat\",\"prompt\":\"x\",\"max_tok\":-1}", EW_ECORRUPT, "max_tok"},
        {"{\"verb\":\"chat\",\"prompt\":\"x\"}", EW_ENOENT, ""},
        {"{\"verb\":\"learn\",\"seed\":-3}", EW_ECORRUPT, "seed"},
        {"{\"verb\":\"learn\",\"task\":\"custom\",\"use_last_plan\":true}", EW_ENOENT, ""},
    };
    const running *r = *state;
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        json_t *j = call(r, bad[i].request, bad[i].code, &err);
        assert_null(j);
        if (strstr(err.msg, bad[i].text) == NULL) {
            fail_msg("%s: '%s'", bad[i].request, err.msg);
        }
    }
}

static void garbage_gets_an_error_line_and_the_next_caller_an_answer(void **state)
{
    static const char *const garbage[] = {"hello\n", "{\"verb\":\n", "\n", "\xff\xfe\x00\x01\n",
                                          "{\"verb\":\"status\"} x\n"};
    const running *r = *state;
    for (size_t i = 0; i < EW_COUNT(garbage); i++) {
        ew_error err = EW_ERROR_INIT;
        char answer[4096];
        int fd = dial(r);
        size_t n = i == 3 ? 5 : strlen(garbage[i]);
        assert_ok(ew_socket_send_all(fd, garbage[i], n, 1000, &err), &err);
        assert_true(hear(fd, answer, sizeof(answer)) > 0);
        assert_non_null(strstr(answer, "{\"error\":"));
        (void)close(fd);
        json_decref(call(r, "{\"verb\":\"status\"}", EW_OK, &err));
    }
}

static void a_request_without_end_is_cut_off(void **state)
{
    const running *r = *state;
    ew_error err = EW_ERROR_INIT;
    char answer[4096];
    char block[4096];
    int fd = dial(r);
    memset(block, 'x', sizeof(block));
    /* More than the agent takes; it may close before all is sent. */
    for (size_t i = 0; i < 300; i++) {
        if (ew_socket_send_all(fd, block, sizeof(block), 2000, NULL) != EW_OK) {
            break;
        }
    }
    (void)hear(fd, answer, sizeof(answer));
    (void)close(fd);
    json_decref(call(r, "{\"verb\":\"status\"}", EW_OK, &err));
}

static void callers_that_go_away_at_once_harm_nobody(void **state)
{
    const running *r = *state;
    ew_error err = EW_ERROR_INIT;
    for (int i = 0; i < 20; i++) {
        static const char half[] = "{\"verb\":\"sta";
        static const char whole[] = "{\"verb\":\"status\"}\n";
        int fd = dial(r);
        if (i % 3 != 0) {
            assert_ok(ew_socket_send_all(fd, i % 3 == 1 ? half : whole, strlen(i % 3 == 1 ? half : whole), 1000, &err),
                      &err);
        }
        (void)close(fd);
    }
    /* Places are free again as soon as the threads have seen it. */
    for (uint64_t end = ew_mono_ms() + 30000; ew_mono_ms() < end;) {
        json_t *req = json_loads("{\"verb\":\"status\"}", 0, NULL);
        json_t *result = NULL;
        const ew_control_view view = {0};
        ew_status st = ew_control_call(r->dir, req, &view, &result, &err);
        json_decref(req);
        json_decref(result);
        if (st == EW_OK) {
            return;
        }
        assert_true(st == EW_EREMOTE || st == EW_EAGAIN);
    }
    fail_msg("no place became free");
}

static void a_second_agent_in_the_same_directory_is_refused(void **state)
{
    const running *r = *state;
    ew_error err = EW_ERROR_INIT;
    ew_agent *other = NULL;
    const ew_agent_opt opt = {.dir = r->dir, .self = "/bin/false", .software = "agent test", .n_threads = 1};
    assert_fails(EW_ECONFLICT, ew_agent_open(&opt, NULL, &other, &err), &err, "");
    assert_null(other);
}

static void nobody_answers_where_no_agent_runs(void **state)
{
    ew_error err = EW_ERROR_INIT;
    json_t *req = json_loads("{\"verb\":\"status\"}", 0, NULL);
    json_t *result = NULL;
    const ew_control_view view = {0};
    (void)state;
    assert_fails(EW_EREMOTE, ew_control_call(ew_test_tmpdir(), req, &view, &result, &err), &err, "");
    json_decref(req);
}

static void the_machine_is_probed_once_for_a_version(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_agent *a = NULL;
    (void)state;
    const char *dir = ew_test_path("probed");
    make_home(dir);
    /* Another version: it has to be probed again, and the program that would do it fails. */
    const ew_agent_opt opt = {.dir = dir, .self = "/bin/false", .software = "agent other", .n_threads = 1};
    ew_status st = ew_agent_open(&opt, NULL, &a, &err);
    assert_int_not_equal(st, EW_OK);
    assert_null(a);
    ew_home h;
    assert_ok(ew_home_init(dir, &h, &err), &err);
    assert_ok(ew_dir_remove_tree(h.runtime, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(status_is_told_and_the_socket_is_private, start, stop),
        cmocka_unit_test_setup_teardown(consent_is_remembered, start, stop),
        cmocka_unit_test_setup_teardown(bad_requests_get_an_error_each, start, stop),
        cmocka_unit_test_setup_teardown(garbage_gets_an_error_line_and_the_next_caller_an_answer, start, stop),
        cmocka_unit_test_setup_teardown(a_request_without_end_is_cut_off, start, stop),
        cmocka_unit_test_setup_teardown(callers_that_go_away_at_once_harm_nobody, start, stop),
        cmocka_unit_test_setup_teardown(a_second_agent_in_the_same_directory_is_refused, start, stop),
        cmocka_unit_test(nobody_answers_where_no_agent_runs),
        cmocka_unit_test(the_machine_is_probed_once_for_a_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The signer: what it signs and what not, over the socket too, and that another user can neither read its keys nor ask it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "crypt/sign.h"
#include "net/x509.h"
#include "signer/client.h"
#include "signer/ipc.h"
#include "signer/signer.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/socket.h"

#define OTHER_UID 65534

static char g_dir[64];
static ew_signer *g_signer;

static int setup(void **state)
{
    (void)state;
    (void)snprintf(g_dir, sizeof g_dir, "/tmp/ew-signer-XXXXXX");
    assert_non_null(mkdtemp(g_dir));
    assert_int_equal(chmod(g_dir, 0711), 0);
    ew_signer_names names = {
        .domain = "test.local", .coordinator_id = "c1", .names = {"localhost", "127.0.0.1"}, .n_names = 2};
    ew_error err = EW_ERROR_INIT;
    if (ew_signer_create(g_dir, &names, &err) != EW_OK || ew_signer_open(g_dir, &g_signer, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ew_signer_free(&g_signer);
    return ew_dir_remove_tree(g_dir, NULL) == EW_OK ? 0 : 1;
}

static void make_csr(ew_buf *csr)
{
    ew_pkey *key = NULL;
    assert_int_equal(ew_pkey_new(&key, NULL), EW_OK);
    assert_int_equal(ew_csr_make(key, csr, NULL), EW_OK);
    ew_pkey_free(&key);
}

static void certificates_carry_the_names_that_policy_gives_and_chain_to_the_ca(void **state)
{
    (void)state;
    EW_AUTO_BUF csr = {0};
    make_csr(&csr);
    static const struct {
        ew_spiffe_kind kind;
        const char *id;
        bool server;
        uint64_t life_s;
    } cases[] = {{EW_SPIFFE_DEVICE, "dev-1", false, EW_SIGNER_DEVICE_S},
                 {EW_SPIFFE_OPERATOR, "admin", false, EW_SIGNER_OPERATOR_S},
                 {EW_SPIFFE_COORDINATOR, "ignored", true, EW_SIGNER_SERVER_S}};
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        EW_AUTO_BUF der = {0};
        ew_error err = EW_ERROR_INIT;
        ew_span request = {csr.data, csr.size};
        if (ew_signer_issue(g_signer, cases[i].kind, cases[i].id, request, 0, &der, &err) != EW_OK) {
            fail_msg("%s", err.msg);
        }
        ew_cert_info info;
        ew_span leaf = {der.data, der.size}, ca = ew_signer_ca_der(g_signer);
        assert_int_equal(ew_cert_info_of(leaf, &info, NULL), EW_OK);
        assert_true(info.has_spiffe && !info.is_ca);
        assert_int_equal(info.spiffe.kind, cases[i].kind);
        assert_string_equal(info.spiffe.domain, "test.local");
        assert_string_equal(info.spiffe.id, cases[i].server ? "c1" : cases[i].id);
        assert_true(info.not_after_unix_ms <= ew_wall_ms() + cases[i].life_s * 1000 + 2000);
        assert_int_equal(ew_cert_verify(leaf, NULL, 0, &ca, 1, cases[i].server, &err), EW_OK);
        assert_int_not_equal(ew_cert_verify(leaf, NULL, 0, &ca, 1, !cases[i].server, NULL), EW_OK);
    }
}

static void what_policy_forbids_is_refused(void **state)
{
    (void)state;
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    make_csr(&csr);
    ew_span request = {csr.data, csr.size};
    assert_int_equal(ew_signer_issue(g_signer, EW_SPIFFE_DEVICE, "d", request, 8 * 24 * 3600, &der, NULL), EW_EDENIED);
    assert_int_equal(ew_signer_issue(g_signer, EW_SPIFFE_DEVICE, "d", request, 1, &der, NULL), EW_EDENIED);
    static const char *const bad[] = {"", "UPPER", "a/b", "a b", "../x", "d\n"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_int_not_equal(ew_signer_issue(g_signer, EW_SPIFFE_DEVICE, bad[i], request, 0, &der, NULL), EW_OK);
    }
    csr.data[csr.size / 2] = (char)(csr.data[csr.size / 2] ^ 1);
    assert_int_not_equal(ew_signer_issue(g_signer, EW_SPIFFE_DEVICE, "d", request, 0, &der, NULL), EW_OK);
    assert_int_not_equal(ew_signer_issue(g_signer, EW_SPIFFE_DEVICE, "d", (ew_span){"x", 1}, 0, &der, NULL), EW_OK);
    assert_int_equal(der.size, 0);
    ew_signer_names names = {.domain = "test.local", .coordinator_id = "c1"};
    assert_int_equal(ew_signer_create(g_dir, &names, NULL), EW_EEXIST);
}

/* size = 5, sha256 = 32 bytes */
static const uint8_t g_manifest[] = {0x08, 5,  0x12, 32, 1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14,
                                     15,   16, 17,   18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
/* plan_id = 16 bytes, chosen = empty message */
static const uint8_t g_plan[] = {0x0a, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0x12, 0};

static void only_manifests_and_plans_are_signed_and_neither_passes_for_the_other(void **state)
{
    (void)state;
    uint8_t sig[64], key[32];
    ew_signer_artifact_key(g_signer, key);
    ew_span manifest = {g_manifest, sizeof g_manifest}, plan = {g_plan, sizeof g_plan};
    assert_int_equal(ew_signer_sign_manifest(g_signer, manifest, sig, NULL), EW_OK);
    assert_true(ew_sign_verify(key, g_manifest, sizeof g_manifest, sig));
    assert_false(ew_sign_verify(key, g_plan, sizeof g_plan, sig));
    assert_int_equal(ew_signer_sign_plan(g_signer, plan, sig, NULL), EW_OK);
    assert_true(ew_sign_verify(key, g_plan, sizeof g_plan, sig));
    assert_int_equal(ew_signer_sign_plan(g_signer, manifest, sig, NULL), EW_EDENIED);
    assert_int_equal(ew_signer_sign_manifest(g_signer, plan, sig, NULL), EW_EDENIED);
    assert_int_equal(ew_signer_sign_manifest(g_signer, (ew_span){"hello", 5}, sig, NULL), EW_EDENIED);
    assert_int_equal(ew_signer_sign_manifest(g_signer, (ew_span){NULL, 0}, sig, NULL), EW_EDENIED);
    for (size_t cut = 1; cut < sizeof g_manifest; cut++) {
        assert_int_equal(ew_signer_sign_manifest(g_signer, (ew_span){g_manifest, cut}, sig, NULL), EW_EDENIED);
    }
}

/* ---- over the socket */

typedef struct server {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready;
    int refused;
    char path[96];
    ew_status st;
} server;

static void on_ready(void *ctx)
{
    server *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void on_event(void *ctx, const char *event, const char *detail)
{
    server *s = ctx;
    (void)detail;
    pthread_mutex_lock(&s->lock);
    s->refused += strcmp(event, "peer-refused") == 0;
    pthread_mutex_unlock(&s->lock);
}

static void *serve(void *arg)
{
    server *s = arg;
    ew_signer_serve_opt opt = {.socket_path = s->path, .on_ready = on_ready, .on_event = on_event, .ctx = s};
    s->st = ew_signer_serve(g_signer, &opt, NULL);
    return NULL;
}

static void start(server *s)
{
    *s = (server){.st = EW_EINTERNAL};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    (void)snprintf(s->path, sizeof s->path, "%s/%s", g_dir, EW_SIGNER_SOCKET);
    ew_signal_reset();
    assert_int_equal(ew_signal_init(NULL), EW_OK);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    pthread_mutex_lock(&s->lock);
    while (!s->ready) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static void stop(server *s)
{
    ew_signal_raise_stop();
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->st, EW_OK);
    ew_signal_reset();
}

static void the_client_gets_what_it_may_have_and_errors_in_words(void **state)
{
    (void)state;
    server s;
    start(&s);
    ew_signer_client *c = NULL;
    ew_signer_info info = {0};
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    uint8_t sig[64];
    ew_error err = EW_ERROR_INIT;
    make_csr(&csr);
    ew_span request = {csr.data, csr.size};
    assert_int_equal(ew_signer_client_new(s.path, 2000, &c, NULL), EW_OK);
    assert_int_equal(ew_signer_client_info(c, &info, &err), EW_OK);
    assert_string_equal(info.domain, "test.local");
    assert_string_equal(info.coordinator_id, "c1");
    assert_int_equal(info.ca_der.size, ew_signer_ca_der(g_signer).size);
    assert_int_equal(ew_signer_client_device(c, request, "dev-1", 30, &der, &err), EW_OK);
    ew_cert_info cert;
    assert_int_equal(ew_cert_info_of((ew_span){der.data, der.size}, &cert, NULL), EW_OK);
    assert_string_equal(cert.spiffe.id, "dev-1");
    assert_true(cert.not_after_unix_ms <= ew_wall_ms() + 32000);
    assert_int_equal(ew_signer_client_device(c, request, "Not An Id", 0, &der, &err), EW_EINVAL);
    assert_non_null(strstr(err.msg, "signer"));
    assert_int_equal(ew_signer_client_manifest(c, (ew_span){g_manifest, sizeof g_manifest}, sig, &err), EW_OK);
    assert_true(ew_sign_verify(info.artifact_key, g_manifest, sizeof g_manifest, sig));
    assert_int_equal(ew_signer_client_plan(c, (ew_span){g_manifest, sizeof g_manifest}, sig, &err), EW_EDENIED);
    ew_signer_info_release(&info);
    /* A malformed frame ends that connection and no other. */
    int fd = -1;
    char eof;
    assert_int_equal(ew_unix_connect(s.path, &fd, NULL), EW_OK);
    assert_int_equal(ew_socket_send_all(fd, "\xff\xff\xff\xff", 4, 1000, NULL), EW_OK);
    assert_int_equal(ew_socket_recv_all(fd, &eof, 1, 5000, NULL), EW_EREMOTE);
    close(fd);
    assert_int_equal(ew_signer_client_info(c, &info, &err), EW_OK);
    ew_signer_info_release(&info);
    stop(&s);
    /* A restarted signer is found again. */
    start(&s);
    assert_int_equal(ew_signer_client_info(c, &info, &err), EW_OK);
    ew_signer_info_release(&info);
    stop(&s);
    ew_signer_client_free(&c);
    assert_int_equal(ew_signer_client_new(s.path, 0, &c, NULL), EW_OK);
    assert_int_equal(ew_signer_client_info(c, &info, &err), EW_EREMOTE);
    assert_non_null(strstr(err.msg, "HINT"));
    ew_signer_client_free(&c);
}

/* What a process of another user finds: 0 = all closed, else which door was open. */
static int as_other_user(const char *socket_path)
{
    char path[128];
    static const char *const keys[] = {"ca.key", "artifact.key"};
    if (setgid(OTHER_UID) != 0 || setuid(OTHER_UID) != 0) {
        return 10;
    }
    for (size_t i = 0; i < EW_COUNT(keys); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", g_dir, keys[i]);
        if (open(path, O_RDONLY) >= 0 || errno != EACCES) {
            return 1;
        }
    }
    int fd = -1;
    char byte;
    if (ew_unix_connect(socket_path, &fd, NULL) != EW_OK) {
        return 2;
    }
    static const uint8_t info[] = {0, 0, 0, 1, EW_SIGNER_INFO};
    if (ew_socket_send_all(fd, info, sizeof info, 1000, NULL) == EW_OK &&
        ew_socket_recv_all(fd, &byte, 1, 5000, NULL) == EW_OK) {
        return 3;
    }
    return 0;
}

static void another_user_can_neither_read_the_keys_nor_ask(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        skip(); /* only root can become another user */
    }
    server s;
    start(&s);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(as_other_user(s.path));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(s.refused, 1);
    stop(&s);
}

static void keys_that_others_can_read_are_refused(void **state)
{
    (void)state;
    char path[128];
    ew_signer *s = NULL;
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(path, sizeof path, "%s/ca.key", g_dir);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(ew_signer_open(g_dir, &s, &err), EW_EDENIED);
    assert_non_null(strstr(err.msg, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificates_carry_the_names_that_policy_gives_and_chain_to_the_ca),
        cmocka_unit_test(what_policy_forbids_is_refused),
        cmocka_unit_test(only_manifests_and_plans_are_signed_and_neither_passes_for_the_other),
        cmocka_unit_test(the_client_gets_what_it_may_have_and_errors_in_words),
        cmocka_unit_test(another_user_can_neither_read_the_keys_nor_ask),
        cmocka_unit_test(keys_that_others_can_read_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

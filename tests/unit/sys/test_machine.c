/* Processor, process, signals, service manager, sockets. */
#include "test.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sys/cpu.h"
#include "sys/notify.h"
#include "sys/proc.h"
#include "sys/signal.h"
#include "sys/socket.h"

static void features_have_names(void **state)
{
    (void)state;
    char text[256];
    assert_string_equal(ew_cpu_names(EW_CPU_AVX2 | EW_CPU_FMA | EW_CPU_I8MM, text, sizeof(text)), "avx2 fma i8mm");
    assert_string_equal(ew_cpu_names(0, text, sizeof(text)), "");
    assert_true(strlen(ew_cpu_model(text, sizeof(text))) > 0);
#if defined(__x86_64__)
    uint32_t f = ew_cpu_features();
    assert_int_equal((f & EW_CPU_AVX2) != 0, __builtin_cpu_supports("avx2") != 0);
    assert_int_equal((f & EW_CPU_FMA) != 0, __builtin_cpu_supports("fma") != 0);
    assert_int_equal((f & EW_CPU_AVX512F) != 0, __builtin_cpu_supports("avx512f") != 0);
    assert_int_equal((f & EW_CPU_AVX512VNNI) != 0, __builtin_cpu_supports("avx512vnni") != 0);
    assert_string_equal(ew_cpu_arch(), "x86_64");
#endif
}

static void memory_of_the_process_is_seen(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_proc_mem before, after;
    assert_ok(ew_proc_mem_read(&before, &err), &err);
    size_t size = 64u << 20;
    char *p = malloc(size);
    memset(p, 1, size);
    assert_ok(ew_proc_mem_read(&after, &err), &err);
    assert_true(p[size - 1] == 1);
    free(p);
    assert_true(after.rss_bytes >= before.rss_bytes + size / 2);
    assert_true(after.rss_peak_bytes >= after.rss_bytes);
}

static void the_machine_has_memory_and_cores(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_machine m;
    assert_ok(ew_machine_read(&m, &err), &err);
    assert_true(m.n_cores >= 1 && m.n_cores <= (unsigned)sysconf(_SC_NPROCESSORS_CONF));
    assert_true(m.cores_quota > 0 && m.cores_quota <= m.n_cores + 0.011);
    assert_true(m.ram_bytes > 0 && m.ram_available_bytes <= m.ram_bytes);
    assert_int_equal(ew_proc_cores(), m.n_cores);
}

static void signals_set_flags_and_wake_the_poll(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_signal_init(&err), &err);
    assert_ok(ew_signal_init(&err), &err);
    struct pollfd p = {.fd = ew_signal_fd(), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(raise(SIGHUP), 0);
    assert_int_equal(poll(&p, 1, 0), 1);
    ew_signal_drain();
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_true(ew_signal_reload());
    assert_false(ew_signal_reload());
    assert_false(ew_signal_stop());
    assert_int_equal(raise(SIGTERM), 0);
    assert_true(ew_signal_stop());
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_int_equal(raise(SIGPIPE), 0); /* ignored */
    ew_signal_reset();
    assert_false(ew_signal_stop());
    ew_signal_raise_stop();
    assert_true(ew_signal_stop());
    ew_signal_reset();
}

static void the_service_manager_gets_the_state(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char text[64] = "";
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", ew_test_path("notify"));
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_ok(ew_notify(addr.sun_path, "READY=1", &err), &err);
    assert_int_equal(recv(fd, text, sizeof(text), 0), 7);
    assert_string_equal(text, "READY=1");
    (void)close(fd);
    assert_ok(ew_notify(NULL, "READY=1", &err), &err);
    assert_ok(ew_notify("", "READY=1", &err), &err);
    assert_fails(EW_EINVAL, ew_notify("relative", "READY=1", &err), &err, "relative");
    assert_int_not_equal(ew_notify(ew_test_path("nobody"), "READY=1", &err), EW_OK);
}

static void a_unix_socket_knows_its_peer(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    int listener = -1, client = -1, server = -1, other = -1;
    uint32_t uid = 0;
    int64_t pid = 0;
    char got[4];
    const char *path = ew_test_path("sock");
    assert_ok(ew_unix_listen(path, 0600, &listener, &err), &err);
    assert_fails(EW_ECONFLICT, ew_unix_listen(path, 0600, &other, &err), &err, "another process");
    assert_ok(ew_unix_accept(listener, &server, &err), &err); /* the probe of the line above */
    (void)close(server);
    assert_ok(ew_unix_connect(path, &client, &err), &err);
    assert_ok(ew_unix_accept(listener, &server, &err), &err);
    assert_ok(ew_unix_peer(server, &uid, &pid, &err), &err);
    assert_int_equal(uid, getuid());
    assert_int_equal(pid, getpid());
    assert_ok(ew_socket_send_all(client, "abcd", 4, 1000, &err), &err);
    assert_ok(ew_socket_recv_all(server, got, 4, 1000, &err), &err);
    assert_memory_equal(got, "abcd", 4);
    assert_fails(EW_ETIMEOUT, ew_socket_recv_all(server, got, 1, 1, &err), &err, "in time");
    (void)close(client);
    assert_fails(EW_EREMOTE, ew_socket_recv_all(server, got, 1, 1000, &err), &err, "closed");
    (void)close(server);
    (void)close(listener);
    assert_fails(EW_EREMOTE, ew_unix_connect(path, &client, &err), &err, "nobody answers");
    assert_ok(ew_unix_listen(path, 0600, &listener, &err), &err); /* the stale one is replaced */
    (void)close(listener);
    const char *file = ew_test_text("file", "");
    assert_fails(EW_EEXIST, ew_unix_listen(file, 0600, &listener, &err), &err, "no socket");
}

static void tcp_listens_on_any_free_port(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    int fd = -1;
    uint16_t port = 0;
    assert_ok(ew_socket_listen("127.0.0.1", 0, &fd, &port, &err), &err);
    assert_true(port > 0);
    int second = -1;
    assert_int_not_equal(ew_socket_listen("127.0.0.1", port, &second, NULL, &err), EW_OK);
    (void)close(fd);
    assert_fails(EW_EINVAL, ew_socket_listen("localhost", 0, &fd, &port, &err), &err, "numeric");
    ew_addr_list list;
    assert_ok(ew_resolve("127.0.0.1", &list, &err), &err);
    assert_int_equal(list.n, 1);
    assert_string_equal(list.text[0], "127.0.0.1");
    assert_fails(EW_EREMOTE, ew_resolve("no-such-host.invalid", &list, &err), &err, "no-such-host.invalid");
}

static void endpoints_are_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        uint16_t port;
    } good[] = {{"host:12", "host", 12}, {"tcp://h:0", "h", 0},        {"host", "host", 7443},
                {"[::1]:9", "::1", 9},   {"tcp://[::1]", "::1", 7443}, {"::1", "::1", 7443}},
      bad[] = {{"", NULL, 0},     {":12", NULL, 0},    {"host:", NULL, 0},   {"host:99999", NULL, 0},
               {"[::1", NULL, 0}, {"[::1]x", NULL, 0}, {"host:1x", NULL, 0}, {"[]:1", NULL, 0}};
    char host[64];
    uint16_t port;
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_COUNT(good); i++) {
        assert_ok(ew_endpoint_parse(good[i].text, 7443, host, sizeof(host), &port, &err), &err);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_int_equal(ew_endpoint_parse(bad[i].text, 7443, host, sizeof(host), &port, &err), EW_EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_have_names),
        cmocka_unit_test(memory_of_the_process_is_seen),
        cmocka_unit_test(the_machine_has_memory_and_cores),
        cmocka_unit_test(signals_set_flags_and_wake_the_poll),
        cmocka_unit_test(the_service_manager_gets_the_state),
        cmocka_unit_test(a_unix_socket_knows_its_peer),
        cmocka_unit_test(tcp_listens_on_any_free_port),
        cmocka_unit_test(endpoints_are_taken_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

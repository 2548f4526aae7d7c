/* ctest: TIMEOUT=120
 * F8: a peer whose packets vanish, in a network namespace of our own whose only interface goes down. Skipped by name where the
 * host does not let users make one. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/io.h"

static bool have_namespace;
static unsigned ups, gones;
static ew_io_peer *peer;

static bool loopback(bool up)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq r;
    memset(&r, 0, sizeof(r));
    strcpy(r.ifr_name, "lo");
    bool ok = ioctl(fd, SIOCGIFFLAGS, &r) == 0;
    r.ifr_flags = (short)(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
    ok = ok && ioctl(fd, SIOCSIFFLAGS, &r) == 0;
    close(fd);
    return ok;
}

static bool on_up(void *ctx, ew_io_peer *p, const char *addr, void **ret_user)
{
    (void)ctx, (void)addr;
    peer = p;
    ups++;
    *ret_user = NULL;
    return true;
}

static void on_data(void *ctx, ew_io_peer *p, void *user, const void *data, size_t size)
{
    (void)ctx, (void)p, (void)user, (void)data, (void)size;
}

static void on_gone(void *ctx, ew_io_peer *p, void *user)
{
    (void)ctx, (void)p, (void)user;
    gones++;
}

static void run_until(ew_io *io, const unsigned *counter, uint64_t ms)
{
    uint64_t until = ew_mono_ms() + ms;
    while (*counter == 0 && ew_mono_ms() < until) {
        zmq_pollitem_t items[2];
        size_t n = ew_io_poll_items(io, items);
        zmq_poll(items, (int)n, 50);
        ew_io_run(io, 16);
    }
}

static void vanish(bool unacked)
{
    static const ew_io_handlers handlers = {on_up, on_data, on_gone};
    if (!have_namespace) {
        print_message("skipped: no unprivileged network namespace here\n");
        skip();
    }
    ew_error err = EW_ERROR_INIT;
    ew_io *io = NULL;
    void *zmq = zmq_ctx_new();
    ew_io_opt opt = {.max_rt_ms = 2000, .keepalive_idle_s = 1, .keepalive_intvl_s = 1, .keepalive_count = 2};
    assert_true(loopback(true));
    ups = gones = 0;
    assert_int_equal(ew_io_listen(zmq, "127.0.0.1", 0, &opt, &handlers, NULL, &io, &err), EW_OK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(ew_io_port(io))};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    run_until(io, &ups, 5000);
    assert_int_equal(ups, 1);
    assert_true(loopback(false));
    char text[] = "anybody there?";
    if (unacked) {
        assert_int_equal(ew_io_send(io, peer, text, sizeof(text), NULL, NULL, &err), EW_OK);
    }
    uint64_t t0 = ew_mono_ms();
    run_until(io, &gones, 20000);
    assert_int_equal(gones, 1);
    assert_true(ew_mono_ms() - t0 < 15000);
    close(fd);
    ew_io_free(&io);
    zmq_ctx_term(zmq);
}

static void unacknowledged_data_ends_a_half_open_connection(void **state)
{
    (void)state;
    vanish(true);
}

static void keepalive_ends_an_idle_half_open_connection(void **state)
{
    (void)state;
    vanish(false);
}

int main(void)
{
    have_namespace = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 && loopback(true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unacknowledged_data_ends_a_half_open_connection),
        cmocka_unit_test(keepalive_ends_an_idle_half_open_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

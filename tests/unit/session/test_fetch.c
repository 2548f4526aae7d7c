/* ctest: TIMEOUT=120
 * Downloads: whole, cut, stopped, damaged, unsigned, without room on the disk. */
#include "raw.h"

#include "domain/msg.h"
#include "net/x509.h"
#include "session/artifact.h"
#include "session/client.h"

#define SIZE (5u * 1024 * 1024 + 1234)
#define SEGMENT (256u * 1024)

static site t;
static char dest[320], part[340];

static int setup(void **state)
{
    (void)state;
    site_init(&t, (ew_server_opt){0});
    site_artifact(&t, SIZE, SEGMENT);
    path_in(&t.p, dest, "copy.bin");
    snprintf(part, sizeof(part), "%s.part", dest);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    site_release(&t);
    return 0;
}

static ew_fetch_opt opt(void)
{
    return (ew_fetch_opt){.sha256 = t.artifact_sha256, .artifact_key = t.artifact_public, .dest_path = dest};
}

static void must_be_whole(void)
{
    ew_error err = EW_ERROR_INIT;
    uint8_t digest[32];
    uint64_t size;
    ok(ew_sha256_file(dest, NULL, digest, &size, &err));
    assert_int_equal(size, SIZE);
    assert_memory_equal(digest, t.artifact_sha256, 32);
    assert_false(ew_file_exists(part));
}

static void a_download_is_verified_and_whole(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_manifest) m = NULL;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ew_fetch_opt o = opt();
    ok(ew_client_fetch(c, &o, &m, &err));
    must_be_whole();
    assert_string_equal(m->name, "noise");
    ok(ew_client_fetch(c, &o, NULL, &err)); /* it is there: nothing is sent again */
    ew_client_stats n;
    ew_client_get_stats(c, &n);
    ew_client_free(&c);
    ew_server_stats s;
    ew_server_get_stats(t.s, &s);
    assert_true(s.bytes_out < SIZE + 200000);
}

/* ---- stopped and resumed */

typedef struct stop {
    uint64_t at, first, last;
    bool any;
} stop;

static bool on_progress(const ew_progress_info *p, void *ctx)
{
    stop *s = ctx;
    s->first = s->any ? s->first : p->done;
    s->any = true;
    s->last = p->done;
    assert_int_equal(p->total, SIZE);
    return p->done < s->at;
}

static void a_stopped_download_goes_on_where_it_was(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    for (unsigned percent = 3; percent < 100; percent += 12) {
        stop s = {.at = (uint64_t)SIZE * percent / 100};
        ew_fetch_opt o = opt();
        o.progress = (ew_progress){on_progress, &s};
        assert_int_equal(ew_client_fetch(c, &o, NULL, &err), EW_ECANCELLED);
        assert_false(ew_file_exists(dest));
        stop rest = {.at = UINT64_MAX};
        o.progress = (ew_progress){on_progress, &rest};
        ok(ew_client_fetch(c, &o, NULL, &err));
        assert_true(rest.first + 2 * SEGMENT > s.last); /* not from the start */
        must_be_whole();
        ok(ew_file_remove(dest, &err));
    }
    ew_client_free(&c);
}

static void what_is_wrong_in_a_part_file_is_fetched_again(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    EW_AUTO_BUF b = {0};
    ok(ew_file_read(t.artifact_path, SIZE, &b, &err));
    b.data[3 * SEGMENT + 5] ^= 1;
    ok(ew_file_replace(part, b.data, 5 * SEGMENT + 99, 0644, &err));
    stop s = {.at = UINT64_MAX};
    ew_fetch_opt o = opt();
    o.progress = (ew_progress){on_progress, &s};
    ok(ew_client_fetch(c, &o, NULL, &err));
    assert_true(s.first > 3 * SEGMENT && s.first <= 4 * SEGMENT);
    must_be_whole();
    /* A part file that is longer than the artifact, all rubbish. */
    ok(ew_file_remove(dest, &err));
    memset(b.data, 7, SIZE);
    ew_buf_add(&b, "more", 4);
    ok(ew_file_replace(part, b.data, b.size, 0644, &err));
    ok(ew_client_fetch(c, &o, NULL, &err));
    must_be_whole();
    ew_client_free(&c);
}

/* ---- a link that breaks */

typedef struct proxy {
    int listen_fd;
    uint16_t port;
    pthread_t thread;
    size_t cut_after; /* bytes to the client; each connection */
    unsigned cuts_left;
    unsigned connections;
    bool stop;
} proxy;

static bool pump(int from, int to, size_t *left)
{
    char buf[16384];
    ssize_t n = recv(from, buf, left != NULL && *left < sizeof(buf) ? *left : sizeof(buf), 0);
    if (n <= 0) {
        return false;
    }
    for (ssize_t at = 0; at < n;) {
        ssize_t k = send(to, buf + at, (size_t)(n - at), MSG_NOSIGNAL);
        if (k <= 0) {
            return false;
        }
        at += k;
    }
    if (left != NULL) {
        *left -= (size_t)n;
    }
    return left == NULL || *left > 0;
}

static void *proxy_main(void *arg)
{
    proxy *p = arg;
    for (;;) {
        int a = accept(p->listen_fd, NULL, NULL);
        if (a < 0 || __atomic_load_n(&p->stop, __ATOMIC_SEQ_CST)) {
            close(a);
            return NULL;
        }
        p->connections++;
        int b = raw_tcp(&t);
        size_t left = p->cuts_left > 0 ? p->cut_after : SIZE_MAX;
        p->cuts_left -= p->cuts_left > 0;
        for (;;) {
            struct pollfd f[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
            if (poll(f, 2, 10000) <= 0 || (f[0].revents != 0 && !pump(a, b, NULL)) ||
                (f[1].revents != 0 && !pump(b, a, &left))) {
                break;
            }
        }
        struct linger rst = {1, 0}; /* an RST, as harsh as it gets */
        setsockopt(a, SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
        close(a);
        close(b);
    }
}

static void a_link_cut_at_any_point_loses_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    proxy p = {0};
    struct sockaddr_in a = {.sin_family = AF_INET};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    p.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof(a);
    assert_int_equal(bind(p.listen_fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(p.listen_fd, 10), 0);
    assert_int_equal(getsockname(p.listen_fd, (struct sockaddr *)&a, &n), 0);
    pthread_create(&p.thread, NULL, proxy_main, &p);
    ew_endpoint_list ep = {.n = 1};
    snprintf(ep.item[0], sizeof(ep.item[0]), "127.0.0.1:%u", ntohs(a.sin_port));
    for (unsigned percent = 1; percent < 100; percent += 7) {
        p.cut_after = 3000 + (size_t)SIZE * percent / 100;
        p.cuts_left = 2;
        ew_client *c = site_client(&t, (ew_client_opt){.endpoints = &ep}, NULL);
        ew_fetch_opt o = opt();
        o.timeout_ms = 30000;
        ok(ew_client_fetch(c, &o, NULL, &err));
        must_be_whole();
        ok(ew_file_remove(dest, &err));
        ew_client_free(&c);
    }
    __atomic_store_n(&p.stop, true, __ATOMIC_SEQ_CST);
    int wake = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(wake, (struct sockaddr *)&a, sizeof(a)), 0);
    pthread_join(p.thread, NULL);
    close(wake);
    close(p.listen_fd);
    assert_true(p.connections >= 28);
}

/* ---- what must fail, clearly */

static void a_damaged_copy_at_the_coordinator_is_data_loss(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF b = {0};
    ok(ew_file_read(t.artifact_path, SIZE, &b, &err));
    b.data[7 * SEGMENT + 1] ^= 0x40;
    ok(ew_file_replace(t.artifact_path, b.data, b.size, 0644, &err));
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ew_fetch_opt o = opt();
    assert_int_equal(ew_client_fetch(c, &o, NULL, &err), EW_ECORRUPT);
    assert_non_null(strstr(err.msg, "segment 7"));
    assert_false(ew_file_exists(dest));
    b.data[7 * SEGMENT + 1] ^= 0x40;
    ok(ew_file_replace(t.artifact_path, b.data, b.size, 0644, &err));
    ok(ew_client_fetch(c, &o, NULL, &err));
    must_be_whole();
    /* Shorter than its manifest says. */
    ok(ew_file_remove(dest, &err));
    ok(ew_file_replace(t.artifact_path, b.data, SIZE / 2, 0644, &err));
    assert_int_not_equal(ew_client_fetch(c, &o, NULL, &err), EW_OK);
    assert_false(ew_file_exists(dest));
    ew_client_free(&c);
}

static void a_manifest_of_another_key_is_not_even_parsed(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    uint8_t other[32];
    memcpy(other, t.artifact_public, 32);
    other[3] ^= 1;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ew_fetch_opt o = opt();
    o.artifact_key = other;
    assert_int_equal(ew_client_fetch(c, &o, NULL, &err), EW_EDENIED);
    assert_false(ew_file_exists(part));
    /* Signed, but of another artifact than the one that was asked for. */
    uint8_t asked[32] = {1};
    o = opt();
    o.sha256 = asked;
    assert_int_equal(ew_client_fetch(c, &o, NULL, &err), EW_EREMOTE);
    ew_client_free(&c);
}

static void an_artifact_that_is_gone_is_not_found(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    t.artifact_sha256[0] ^= 1; /* the coordinator knows another one now */
    uint8_t asked[32];
    memcpy(asked, t.artifact_sha256, 32);
    asked[0] ^= 1;
    ew_fetch_opt o = opt();
    o.sha256 = asked;
    assert_int_equal(ew_client_fetch(c, &o, NULL, &err), EW_ENOENT);
    ew_client_free(&c);
}

static void a_full_disk_is_told_and_nothing_is_lost(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ok(ew_client_wait_up(c, 10000, &err));
    ew_fetch_opt o = opt();
    ew_file_fail_at(12);
    ew_status st = ew_client_fetch(c, &o, NULL, &err);
    ew_file_fail_at(0);
    assert_int_equal(st, EW_ENOSPC);
    assert_true(ew_file_exists(part));
    stop s = {.at = UINT64_MAX};
    o.progress = (ew_progress){on_progress, &s};
    ok(ew_client_fetch(c, &o, NULL, &err));
    assert_true(s.first > SEGMENT);
    must_be_whole();
    ew_client_free(&c);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    cmocka_set_test_filter(getenv("EW_TEST_FILTER"));
    const struct CMUnitTest tests[] = {
        T(a_download_is_verified_and_whole),
        T(a_stopped_download_goes_on_where_it_was),
        T(what_is_wrong_in_a_part_file_is_fetched_again),
        T(a_link_cut_at_any_point_loses_nothing),
        T(a_damaged_copy_at_the_coordinator_is_data_loss),
        T(a_manifest_of_another_key_is_not_even_parsed),
        T(an_artifact_that_is_gone_is_not_found),
        T(a_full_disk_is_told_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

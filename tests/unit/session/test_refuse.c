/* ctest: TIMEOUT=120
 * Everything that the server must refuse, over real sockets: bad certificates, bad bytes, bad manners. */
#include "raw.h"

#include "base/limits.h"
#include "base/rng.h"
#include "domain/msg.h"
#include "net/x509.h"
#include "session/client.h"
#include "session/server.h"

static site t;

static int setup(void **state)
{
    (void)state;
    site_init(&t, (ew_server_opt){.limits = {.tcp_up_ms = 400, .tls_ms = 800, .hello_ms = 400}});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    site_release(&t);
    return 0;
}

/* The handshake must end in an alert of that name, and the server must not call it a session. */
static void refused(raw_opt o, const char *alert)
{
    raw r;
    raw_open(&r, &t, o);
    ew_msg *m = ew_tls_get_state(r.tls) == EW_TLS_UP ? raw_recv(&r) : NULL; /* F12: the alert comes after "up" */
    assert_null(m);
    if (strstr(r.err.msg, alert) == NULL) {
        fail_msg("wanted alert \"%s\", got \"%s\"", alert, r.err.msg);
    }
    raw_close(&r);
    assert_int_equal(t.ev.up, 0);
}

static void refused_leaf(const leaf *l, const char *alert)
{
    char path[320];
    path_in(&t.p, path, "bad.pem");
    make_identity(&t.p, l, path);
    refused((raw_opt){.identity_path = path}, alert);
}

static void certificates_that_do_not_fit_get_their_alert(void **state)
{
    (void)state;
    refused((raw_opt){.identity_path = NULL}, "certificate required");                                 /* 116 */
    refused((raw_opt){.identity_path = t.p.device_path, .alpn = "edge/2"}, "no application protocol"); /* 120 */
    refused_leaf(&(leaf){.kind = EW_SPIFFE_DEVICE, .id = "d", .server_auth = true}, "unsupported certificate"); /* 43 */
    refused_leaf(&(leaf){.kind = EW_SPIFFE_COORDINATOR, .id = "c1", .client_auth = true}, "bad certificate");   /* 42 */
    refused_leaf(&(leaf){.kind = EW_SPIFFE_OPERATOR, .id = "bob", .client_auth = true}, "bad certificate");
    refused_leaf(&(leaf){.kind = EW_SPIFFE_DEVICE, .id = "d", .domain = "other.test", .client_auth = true},
                 "bad certificate");
    refused((raw_opt){.identity_path = t.p.device_path, .alpn = EW_ALPN_OPERATOR}, "bad certificate");
}

static void an_impostors_certificate_is_of_an_unknown_ca(void **state)
{
    (void)state;
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF der = {0};
    make_root(&key, &der);
    refused_leaf(&(leaf){.kind = EW_SPIFFE_DEVICE,
                         .id = "dev-1",
                         .client_auth = true,
                         .ca_key = key,
                         .ca_der = {der.data, der.size}},
                 "unknown ca"); /* 48 */
}

static void times_and_revocation_are_checked(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char path[320];
    path_in(&t.p, path, "short.pem");
    make_identity(&t.p, &(leaf){.kind = EW_SPIFFE_DEVICE, .id = "late", .client_auth = true, .valid_s = 1}, path);
    /* Not a sleep to synchronise: the certificate's second must pass on the wall clock. */
    uint64_t until = ew_wall_ms() + 2100;
    while (ew_wall_ms() < until) {
        poll(NULL, 0, 20);
    }
    refused((raw_opt){.identity_path = path}, "certificate expired"); /* 45 */
    ok(ew_server_revoke(t.s, "dev-1", &err));
    refused((raw_opt){.identity_path = t.p.device_path}, "certificate revoked"); /* 44 */
    ok(ew_server_allow(t.s, "dev-1", &err));
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    ew_msg *m = raw_hello(&r, 1);
    assert_non_null(m);
    assert_int_equal(m->type, EW_MSG_HELLO_ACK);
    ew_msg_free(&m);
    raw_close(&r);
}

/* ---- before TLS is up */

static void silence_is_cut(void **state)
{
    (void)state;
    int fd[20];
    for (size_t i = 0; i < EW_COUNT(fd); i++) {
        fd[i] = raw_tcp(&t);
    }
    uint64_t t0 = ew_mono_ms();
    for (size_t i = 0; i < EW_COUNT(fd); i++) {
        assert_true(raw_closed(fd[i]));
        close(fd[i]);
    }
    assert_true(ew_mono_ms() - t0 < 5000);
}

static void one_byte_at_a_time_is_cut(void **state)
{
    (void)state;
    int fd = raw_tcp(&t);
    uint64_t t0 = ew_mono_ms();
    static const unsigned char start[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03};
    size_t i = 0;
    for (;; i++) { /* a byte each 50 ms keeps a per-read timer happy, but not a deadline */
        unsigned char b = i < sizeof(start) ? start[i] : 0x55;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (send(fd, &b, 1, MSG_NOSIGNAL) <= 0 || poll(&p, 1, 50) != 0) {
            break;
        }
        assert_true(ew_mono_ms() - t0 < 10000);
    }
    assert_true(raw_closed(fd));
    close(fd);
    assert_true(ew_mono_ms() - t0 < 5000);
}

static void garbage_and_floods_before_tls_are_cut(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 3, 0);
    static char noise[65536];
    for (size_t i = 0; i < sizeof(noise); i++) {
        noise[i] = (char)ew_rng_u64(&r);
    }
    for (int i = 0; i < 10; i++) {
        int fd = raw_tcp(&t);
        noise[0] = i % 2 == 0 ? 0x16 : noise[0];
        (void)!send(fd, noise, sizeof(noise), MSG_NOSIGNAL);
        assert_true(raw_closed(fd));
        close(fd);
    }
    ew_server_stats n;
    ew_server_get_stats(t.s, &n);
    assert_int_equal(n.active, 0);
}

/* ---- frames */

static void wrong(const void *bytes, size_t n, int reason)
{
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    raw_bytes(&r, bytes, n);
    assert_int_equal(raw_go_away(&r), reason);
    raw_close(&r);
}

static void bad_frames_get_go_away(void **state)
{
    (void)state;
    wrong("\0\0\0\x09\2\0\0\5abcdeabcd", 17, EW_GO_AWAY_PROTOCOL);          /* version */
    wrong("\0\0\0\x09\1\0\0\0abcdeabcd", 17, EW_GO_AWAY_PROTOCOL);          /* no envelope */
    wrong("\0\0\x80\0\1\0\0\5abcde", 13, EW_GO_AWAY_PROTOCOL);              /* over 16 KiB before Hello */
    wrong("\0\0\0\5\1\0\0\5\xff\xff\xff\xff\xff", 13, EW_GO_AWAY_PROTOCOL); /* no protobuf */
    wrong("\0\0\0\2\1\0\0\2\x08\0", 10, EW_GO_AWAY_PROTOCOL);               /* msg_id 0 */
}

static void silence_after_tls_is_cut(void **state)
{
    (void)state;
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    uint64_t t0 = ew_mono_ms();
    (void)raw_go_away(&r);
    assert_true(r.eof || ew_tls_get_state(r.tls) == EW_TLS_CLOSED);
    assert_true(ew_mono_ms() - t0 < 5000);
    raw_close(&r);
}

static void the_wrong_message_for_the_state_ends_it(void **state)
{
    (void)state;
    static const ew_msg_type early[] = {EW_MSG_OP_REQUEST, EW_MSG_PING,          EW_MSG_GO_AWAY,
                                        EW_MSG_HELLO_ACK,  EW_MSG_ARTIFACT_OPEN, EW_MSG_ACK};
    for (size_t i = 0; i < EW_COUNT(early); i++) {
        raw r;
        raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
        ew_msg *m = ew_msg_new(early[i]);
        m->hello_ack.major = m->type == EW_MSG_HELLO_ACK;
        raw_send(&r, m, NO_BODY);
        ew_msg_free(&m);
        assert_int_equal(raw_go_away(&r), EW_GO_AWAY_PROTOCOL);
        raw_close(&r);
    }
    assert_int_equal(t.ev.up, 0);
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    ew_msg *m = raw_hello(&r, 5);
    assert_int_equal(m->type, EW_MSG_HELLO_ACK);
    ew_msg_free(&m);
    m = raw_hello(&r, 6); /* twice */
    assert_int_equal(m->type, EW_MSG_GO_AWAY);
    ew_msg_free(&m);
    raw_close(&r);
}

static void open_session(raw *r, uint64_t epoch)
{
    raw_open(r, &t, (raw_opt){.identity_path = t.p.device_path});
    ew_msg *m = raw_hello(r, epoch);
    assert_non_null(m);
    assert_int_equal(m->type, EW_MSG_HELLO_ACK);
    ew_msg_free(&m);
}

static void message_ids_must_rise(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    ew_msg *m = ew_msg_new(EW_MSG_PING);
    m->msg_id = 1; /* Hello had it */
    raw_send(&r, m, NO_BODY);
    ew_msg_free(&m);
    assert_int_equal(raw_go_away(&r), EW_GO_AWAY_PROTOCOL);
    raw_close(&r);
}

static void three_malformed_messages_end_it_one_does_not(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    for (unsigned i = 0; i < 3; i++) {
        /* OpRequest whose verb is one byte that is no UTF-8 */
        unsigned char env[] = {0x08, (unsigned char)(2 + i), 0x82, 0x05, 0x03, 0x0A, 0x01, 0xFF};
        raw_frame(&r, (ew_span){env, sizeof(env)}, NO_BODY);
        ew_msg *m = raw_recv(&r);
        assert_non_null(m);
        assert_int_equal(m->type, EW_MSG_ERROR);
        assert_int_equal(m->error.code, EW_CODE_INVALID_ARGUMENT);
        assert_int_equal(m->reply_to, 2 + i);
        ew_msg_free(&m);
    }
    assert_int_equal(raw_go_away(&r), EW_GO_AWAY_PROTOCOL);
    raw_close(&r);
}

static void an_unknown_payload_is_answered_with_unimplemented(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    static const unsigned char env[] = {0x08, 0x02, 0xEA, 0x05, 0x00};
    raw_frame(&r, (ew_span){env, sizeof(env)}, NO_BODY);
    ew_msg *m = raw_recv(&r);
    assert_int_equal(m->type, EW_MSG_ERROR);
    assert_int_equal(m->error.code, EW_CODE_UNIMPLEMENTED);
    ew_msg_free(&m);
    raw_close(&r);
}

static void credit_for_bytes_never_sent_ends_it(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    ew_msg *m = ew_msg_new(EW_MSG_CREDIT);
    m->credit.bytes_consumed = 1ull << 40;
    raw_send(&r, m, NO_BODY);
    ew_msg_free(&m);
    assert_int_equal(raw_go_away(&r), EW_GO_AWAY_PROTOCOL);
    raw_close(&r);
}

static void a_flood_of_control_frames_ends_it(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    ew_msg *m = ew_msg_new(EW_MSG_CANCEL);
    for (int i = 0; i < 5000 && !r.eof; i++) {
        m->msg_id = 0;
        m->cancel_msg_id = 1000;
        raw_send(&r, m, NO_BODY);
    }
    ew_msg_free(&m);
    (void)raw_go_away(&r); /* it may drown in the reset: the flood goes on while the server closes */
    events_wait(&t.ev, &t.ev.audits, 1);
    assert_string_equal(t.ev.last_audit, "protocol");
    assert_non_null(strstr(t.ev.last_detail, "control frames"));
    raw_close(&r);
}

static void a_peer_that_asks_on_and_takes_no_reply_is_cut(void **state)
{
    (void)state;
    raw r;
    open_session(&r, 1);
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF batch = {0};
    for (int i = 0; i < 150 && !r.eof; i++) { /* replies are not counted as taken, whether they are read or not */
        ew_buf_clear(&batch);
        for (int k = 0; k < 1000; k++) {
            ew_msg *m = ew_msg_new(EW_MSG_OFFLOAD_CLOSE);
            unsigned char head[EW_FRAME_HEADER_BYTES];
            EW_AUTO_BUF env = {0};
            m->msg_id = r.next_id++;
            m->stream_id = 1;
            ok(ew_wire_pack(m, &env, &err));
            ew_frame_header(head, env.size, 0);
            ew_buf_add(&batch, head, sizeof(head));
            ew_buf_add(&batch, env.data, env.size);
            ew_msg_free(&m);
        }
        raw_bytes(&r, batch.data, batch.size);
    }
    raw_close(&r);
    events_wait(&t.ev, &t.ev.down, 1);
    assert_non_null(strstr(t.ev.last_down, "not taken"));
}

static void the_same_or_a_lower_epoch_is_refused(void **state)
{
    (void)state;
    raw a;
    raw b;
    open_session(&a, 7);
    raw_open(&b, &t, (raw_opt){.identity_path = t.p.device_path});
    ew_msg *m = raw_hello(&b, 7);
    assert_int_equal(m->type, EW_MSG_ERROR);
    assert_int_equal(m->error.code, EW_CODE_FAILED_PRECONDITION);
    ew_msg_free(&m);
    raw_close(&b);
    events_wait(&t.ev, &t.ev.audits, 1);
    assert_string_equal(t.ev.last_audit, "epoch-refused");
    open_session(&b, 8); /* a higher one wins */
    assert_int_equal(raw_go_away(&a), EW_GO_AWAY_REPLACED);
    raw_close(&a);
    raw_close(&b);
}

static void enrolment_serves_nothing_else(void **state)
{
    (void)state;
    raw r;
    raw_open(&r, &t, (raw_opt){.alpn = EW_ALPN_ENROL});
    ew_msg *m = ew_msg_new(EW_MSG_OP_REQUEST);
    raw_send(&r, m, NO_BODY);
    ew_msg_free(&m);
    assert_int_equal(raw_go_away(&r), EW_GO_AWAY_PROTOCOL);
    raw_close(&r);
    assert_int_equal(t.ev.requests, 0);
}

static void handshakes_beyond_the_budget_wait_for_their_turn(void **state)
{
    (void)state;
    ew_server_free(&t.s);
    site_start(&t, (ew_server_opt){.limits = {.handshakes_per_s = 10, .tcp_up_ms = 10000, .tls_ms = 10000}}, 0);
    ew_client *c[20];
    uint64_t t0 = ew_mono_ms();
    for (size_t i = 0; i < EW_COUNT(c); i++) {
        c[i] = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR}, NULL);
    }
    events_wait(&t.ev, &t.ev.up, EW_COUNT(c));
    assert_true(ew_mono_ms() - t0 >= 900); /* 10 at once, 10 a second */
    assert_int_equal(t.ev.client_down, 0);
    for (size_t i = 0; i < EW_COUNT(c); i++) {
        ew_client_free(&c[i]);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(certificates_that_do_not_fit_get_their_alert),
        T(an_impostors_certificate_is_of_an_unknown_ca),
        T(times_and_revocation_are_checked),
        T(silence_is_cut),
        T(one_byte_at_a_time_is_cut),
        T(garbage_and_floods_before_tls_are_cut),
        T(bad_frames_get_go_away),
        T(silence_after_tls_is_cut),
        T(the_wrong_message_for_the_state_ends_it),
        T(message_ids_must_rise),
        T(three_malformed_messages_end_it_one_does_not),
        T(an_unknown_payload_is_answered_with_unimplemented),
        T(credit_for_bytes_never_sent_ends_it),
        T(a_flood_of_control_frames_ends_it),
        T(a_peer_that_asks_on_and_takes_no_reply_is_cut),
        T(the_same_or_a_lower_epoch_is_refused),
        T(enrolment_serves_nothing_else),
        T(handshakes_beyond_the_budget_wait_for_their_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ctest: TIMEOUT=180
 * Server and client against each other over real sockets: calls, retries, replaced and revoked sessions, renewal, enrolment. */
#include "raw.h"

#include "base/log.h"
#include "base/rng.h"
#include "domain/msg.h"
#include "net/x509.h"
#include "session/client.h"
#include "session/server.h"

static ew_status echo(ew_client *c, const char *text, ew_buf *back, ew_error *err)
{
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    ew_str_copy(q->op_request.verb, sizeof(q->op_request.verb), "echo");
    ew_msg *a = NULL;
    ew_status st = ew_client_call(c, q, (ew_span){text, strlen(text)}, 10000, &a, back, err);
    ew_msg_free(&q);
    ew_msg_free(&a);
    return st;
}

static void a_device_comes_up_and_calls(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    EW_AUTO_BUF back = {0};
    ok(echo(c, "{\"a\":1}", &back, &err));
    assert_string_equal(ew_buf_str(&back), "{\"a\":1}");
    assert_true(ew_server_is_up(t.s, "dev-1"));
    ew_client_free(&c);
    events_wait(&t.ev, &t.ev.down, 1);
    assert_int_equal(t.ev.up, 1);
    site_release(&t);
}

static void operators_may_be_there_twice(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *a = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR, .no_reconnect = true}, NULL);
    ew_client *b = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR, .no_reconnect = true}, NULL);
    EW_AUTO_BUF back = {0};
    ok(echo(a, "x", &back, &err));
    ok(echo(b, "y", &back, &err));
    ok(echo(a, "z", &back, &err));
    ew_client_free(&a);
    ew_client_free(&b);
    site_release(&t);
}

/* ---- many at once, large bodies */

typedef struct many {
    ew_client *c;
    unsigned id;
    bool ok;
} many;

static void *many_main(void *arg)
{
    many *m = arg;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF back = {0};
    size_t n = (1u << 20) - m->id;
    char *body = malloc(n);
    memset(body, (int)m->id, n);
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    m->ok = true;
    for (int i = 0; i < 10; i++) {
        size_t size = i % 2 == 0 ? n : m->id;
        ew_status st = ew_client_call(m->c, q, (ew_span){body, size}, 30000, NULL, &back, &err);
        m->ok = m->ok && st == EW_OK && back.size == size && (size == 0 || memcmp(back.data, body, size) == 0);
        if (!m->ok) {
            fprintf(stderr, "call %d of %u: %s %s\n", i, m->id, ew_status_name(st), err.msg);
        }
    }
    ew_msg_free(&q);
    free(body);
    return NULL;
}

static void many_large_calls_share_one_session(void **state)
{
    (void)state;
    site t;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    many m[8];
    pthread_t th[8];
    for (unsigned i = 0; i < 8; i++) {
        m[i] = (many){.c = c, .id = i};
        pthread_create(&th[i], NULL, many_main, &m[i]);
    }
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(th[i], NULL);
        assert_true(m[i].ok);
    }
    assert_int_equal(t.ev.requests, 80);
    assert_int_equal(t.ev.up, 1);
    ew_client_free(&c);
    site_release(&t);
}

/* ---- errors, parts, retries */

static ew_status parts_handler(site *t, const ew_peer_info *peer, const ew_msg *req, ew_span body, ew_reply *reply,
                               ew_error *reterr)
{
    (void)t, (void)peer, (void)body;
    if (req->type != EW_MSG_OP_REQUEST || strcmp(req->op_request.verb, "count") != 0) {
        return req->type == EW_MSG_OP_REQUEST && strcmp(req->op_request.verb, "no") == 0
                   ? ew_fail(reterr, EW_ECONFLICT, "the version is 7 by now")
                   : EW_EUNSUPPORTED;
    }
    static char big[200000];
    ew_msg *m = ew_msg_new(EW_MSG_OP_RESPONSE);
    ew_status st = EW_OK;
    for (uint64_t i = 0; st == EW_OK && i < 50; i++) {
        m->op_response.version = i;
        m->op_response.more = i < 49;
        st = i < 49 ? ew_reply_send_part(reply, m, (ew_span){big, sizeof(big)}, reterr)
                    : ew_reply_send(reply, m, NO_BODY, reterr);
    }
    ew_msg_free(&m);
    return st;
}

static bool count_part(void *ctx, const ew_msg *reply, ew_span body)
{
    uint64_t *n = ctx;
    assert_int_equal(reply->op_response.version, *n);
    assert_int_equal(body.size, *n < 49 ? 200000 : 0);
    (*n)++;
    return true;
}

static void replies_in_parts_come_in_order_and_errors_say_why(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    t.extra = parts_handler;
    ew_client *c = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR}, NULL);
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    strcpy(q->op_request.verb, "count");
    uint64_t n = 0;
    ok(ew_client_call_parts(c, q, NO_BODY, 10000, count_part, &n, &err));
    assert_int_equal(n, 50);
    strcpy(q->op_request.verb, "no");
    assert_int_equal(ew_client_call(c, q, NO_BODY, 10000, NULL, NULL, &err), EW_ECONFLICT);
    assert_string_equal(err.msg, "the version is 7 by now");
    ew_msg_free(&q);
    ew_client_free(&c);
    site_release(&t);
}

static void the_same_key_is_done_once(void **state)
{
    (void)state;
    site t;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    q->has_idem_key = true;
    memset(q->idem_key, 7, sizeof(q->idem_key));
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF back = {0};
    for (int i = 0; i < 3; i++) {
        ok(ew_client_call(c, q, (ew_span){"once", 4}, 10000, NULL, &back, &err));
        assert_string_equal(ew_buf_str(&back), "once");
        ew_client_reconnect(c); /* also over another session */
    }
    assert_int_equal(t.ev.requests, 1);
    ew_msg_free(&q);
    ew_client_free(&c);
    site_release(&t);
}

typedef struct late {
    ew_client *c;
    ew_status st;
    ew_error err;
    ew_buf back;
} late;

static void *late_main(void *arg)
{
    late *l = arg;
    l->st = echo(l->c, "patience", &l->back, &l->err);
    return NULL;
}

static void a_call_outlives_the_coordinators_restart(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF back = {0};
    char epoch[320];
    site_init(&t, (ew_server_opt){0});
    path_in(&t.p, epoch, "epoch");
    uint16_t port = ew_server_port(t.s);
    ew_client *c = site_client(&t, (ew_client_opt){.epoch_path = epoch}, NULL);
    ok(echo(c, "a", &back, &err));
    ew_server_free(&t.s);
    events_wait(&t.ev, &t.ev.client_down, 1);
    late l = {.c = c};
    pthread_t th;
    pthread_create(&th, NULL, late_main, &l);
    site_start(&t, (ew_server_opt){0}, port);
    pthread_join(th, NULL);
    if (l.st != EW_OK) {
        fail_msg("%s", l.err.msg);
    }
    assert_string_equal(ew_buf_str(&l.back), "patience");
    ew_buf_release(&l.back);
    ew_client_free(&c);
    EW_AUTO_BUF text = {0};
    ok(ew_file_read(epoch, 100, &text, &err));
    assert_true(atoi(ew_buf_str(&text)) >= 2);
    site_release(&t);
}

/* ---- requests of the coordinator */

static ew_status accept_trial(void *ctx, const ew_msg *req, ew_span body, ew_reply *reply, ew_error *reterr)
{
    (void)ctx, (void)body;
    if (req->type != EW_MSG_TRIAL_ASSIGN) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "only trials");
    }
    ew_msg *m = ew_msg_new(EW_MSG_TRIAL_ACCEPT);
    memcpy(m->trial_accept.id, req->trial_assign.id, EW_UID_BYTES);
    m->trial_accept.fence = req->trial_assign.fence;
    m->trial_accept.accepted = true;
    ew_status st = ew_reply_send(reply, m, NO_BODY, reterr);
    ew_msg_free(&m);
    return st;
}

typedef struct answer {
    events *ev;
    unsigned n;
    ew_status st;
    uint64_t fence;
} answer;

static void on_answer(void *ctx, ew_status st, const ew_msg *reply, ew_span body, const ew_error *err)
{
    answer *a = ctx;
    (void)body, (void)err;
    a->st = st;
    a->fence = st == EW_OK ? reply->trial_accept.fence : 0;
    events_add(a->ev, &a->n);
}

static void the_coordinator_assigns_a_trial(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client_handlers h = {.on_state = client_state, .on_request = accept_trial};
    ew_client *c = site_client(&t, (ew_client_opt){0}, &h);
    ok(ew_client_wait_up(c, 10000, &err));
    ew_msg *m = ew_msg_new(EW_MSG_TRIAL_ASSIGN);
    strcpy(m->trial_assign.task, "debian-section");
    strcpy(m->trial_assign.source, "profile");
    m->trial_assign.method = EW_METHOD_NONE;
    m->trial_assign.fence = 42;
    answer a = {.ev = &t.ev};
    events_wait(&t.ev, &t.ev.up, 1);
    while (!ew_server_is_up(t.s, "dev-1")) {
        poll(NULL, 0, 1);
    }
    ok(ew_server_send(t.s, "dev-1", m, NO_BODY, 5000, on_answer, &a, &err));
    events_wait(&t.ev, &a.n, 1);
    assert_int_equal(a.st, EW_OK);
    assert_int_equal(a.fence, 42);
    assert_int_equal(ew_server_send(t.s, "dev-2", m, NO_BODY, 5000, on_answer, &a, &err), EW_ENOENT);
    ew_msg_free(&m);
    m = ew_msg_new(EW_MSG_CANCEL);
    m->type = EW_MSG_OP_REQUEST; /* refused by the device: the status comes back */
    ok(ew_server_send(t.s, "dev-1", m, NO_BODY, 5000, on_answer, &a, &err));
    events_wait(&t.ev, &a.n, 2);
    assert_int_equal(a.st, EW_EUNSUPPORTED);
    ew_msg_free(&m);
    ew_client_free(&c);
    site_release(&t);
}

/* ---- ends */

static void a_revoked_device_is_cut_and_stays_out(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ok(ew_client_wait_up(c, 10000, &err));
    uint64_t t0 = ew_mono_ms();
    ok(ew_server_revoke(t.s, "dev-1", &err));
    events_wait(&t.ev, &t.ev.client_down, 1);
    assert_true(ew_mono_ms() - t0 < 5000);
    assert_int_equal(t.ev.client_err.code, EW_EDENIED);
    ew_client_reconnect(c);
    events_wait(&t.ev, &t.ev.client_down, 2);
    assert_int_equal(t.ev.up, 1);
    assert_non_null(strstr(t.ev.client_err.msg, "revoked"));
    ew_client_free(&c);
    site_release(&t);
}

static void a_silent_peer_is_dead_after_two_and_a_half_keepalives(void **state)
{
    (void)state;
    site t;
    site_init(&t, (ew_server_opt){.keepalive_ms = 200});
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    uint64_t t0 = ew_mono_ms();
    ew_msg *m = raw_hello(&r, 1);
    assert_int_equal(m->type, EW_MSG_HELLO_ACK);
    ew_msg_free(&m);
    events_wait(&t.ev, &t.ev.down, 1);
    uint64_t dt = ew_mono_ms() - t0;
    assert_true(dt >= 400 && dt < 5000);
    assert_non_null(strstr(t.ev.last_down, "2.5 keepalives"));
    raw_close(&r);
    /* A real client answers the pings and stays. */
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    events_wait(&t.ev, &t.ev.up, 2);
    t0 = ew_mono_ms();
    while (ew_mono_ms() - t0 < 1500) {
        poll(NULL, 0, 50);
    }
    assert_int_equal(t.ev.down, 1);
    ew_client_free(&c);
    site_release(&t);
}

static void a_peer_that_takes_nothing_is_slow_and_goes(void **state)
{
    (void)state;
    site t;
    site_init(&t, (ew_server_opt){.limits = {.slow_peer_ms = 300, .max_rt_ms = 1000}});
    raw r;
    raw_open(&r, &t, (raw_opt){.identity_path = t.p.device_path});
    ew_msg *m = raw_hello(&r, 1);
    ew_msg_free(&m);
    t.extra = parts_handler;
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    strcpy(q->op_request.verb, "count"); /* 10 MB that are never consumed */
    raw_send(&r, q, NO_BODY);
    ew_msg_free(&q);
    events_wait(&t.ev, &t.ev.down, 1);
    assert_non_null(strstr(t.ev.last_down, "does not take"));
    raw_close(&r);
    site_release(&t);
}

static void a_graceful_stop_lets_requests_finish(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    EW_AUTO_BUF back = {0};
    ok(echo(c, "a", &back, &err));
    ew_server_stop(t.s, 3000);
    events_wait(&t.ev, &t.ev.client_down, 1);
    if (strstr(t.ev.first_err.msg, "SHUTDOWN") == NULL) {
        fail_msg("%s", t.ev.first_err.msg);
    }
    events_wait(&t.ev, &t.ev.down, 1);
    assert_int_equal(ew_server_revoke(t.s, "dev-1", &err), EW_ECANCELLED);
    ew_client_free(&c);
    site_release(&t);
}

static void nobody_there_is_told_at_once(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_endpoint_list ep = endpoint_of(&t);
    ew_server_free(&t.s);
    ew_client *c =
        site_client(&t, (ew_client_opt){.endpoints = &ep, .role = EW_ROLE_OPERATOR, .no_reconnect = true}, NULL);
    assert_int_equal(ew_client_wait_up(c, 10000, &err), EW_EREMOTE);
    assert_non_null(strstr(err.msg, "refused"));
    EW_AUTO_BUF back = {0};
    assert_int_equal(echo(c, "x", &back, &err), EW_EREMOTE);
    ew_client_free(&c);
    site_release(&t);
}

static void an_impostor_coordinator_is_refused(void **state)
{
    (void)state;
    site t;
    pki other;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    pki_init(&other);
    /* The client trusts another CA than the one the server's certificate is from. */
    ew_client *c = site_client(&t,
                               (ew_client_opt){.role = EW_ROLE_OPERATOR,
                                               .no_reconnect = true,
                                               .ca_path = other.ca_path,
                                               .identity_path = other.operator_path},
                               NULL);
    assert_int_equal(ew_client_wait_up(c, 10000, &err), EW_EDENIED);
    ew_client_free(&c);
    /* Right CA, but the certificate names another host, or a device. */
    c = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR, .no_reconnect = true, .server_name = "bank.example"},
                    NULL);
    assert_int_equal(ew_client_wait_up(c, 10000, &err), EW_EDENIED);
    ew_client_free(&c);
    assert_int_equal(t.ev.up, 0);
    pki_release(&other);
    site_release(&t);
}

/* ---- certificates */

static void a_short_certificate_lives_through_its_renewals(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF back = {0};
    char path[320];
    char epoch[320];
    site_init(&t, (ew_server_opt){0});
    t.renew_valid_s = 6; /* as 30 s, in less of the suite's time */
    path_in(&t.p, path, "short.pem");
    path_in(&t.p, epoch, "epoch");
    make_identity(&t.p, &(leaf){.kind = EW_SPIFFE_DEVICE, .id = "dev-s", .client_auth = true, .valid_s = 6}, path);
    ew_client *c = site_client(&t, (ew_client_opt){.identity_path = path, .epoch_path = epoch, .renew = true}, NULL);
    uint64_t t0 = ew_mono_ms();
    while (ew_mono_ms() - t0 < 16000) { /* beyond the first and the second certificate */
        ok(echo(c, "still here", &back, &err));
        poll(NULL, 0, 100);
    }
    if (t.ev.renewed < 3) {
        fail_msg("%u renewals, %u sessions", t.ev.renewed, t.ev.up);
    }
    assert_true(t.ev.up >= 2); /* sessions end with their certificate */
    ew_client_free(&c);
    site_release(&t);
}

static void the_token_is_one_string_and_mistakes_are_seen(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_token t = {.endpoint = "coordinator.example:7443", .id = "tok-1"};
    ew_token back;
    char text[EW_TOKEN_TEXT_SIZE];
    ew_random_bytes(t.secret, 32);
    ew_random_bytes(t.ca_sha256, 32);
    ok(ew_token_format(&t, text, &err));
    ok(ew_token_parse(text, &back, &err));
    assert_string_equal(back.endpoint, t.endpoint);
    assert_string_equal(back.id, t.id);
    assert_memory_equal(back.secret, t.secret, 32);
    assert_memory_equal(back.ca_sha256, t.ca_sha256, 32);
    for (size_t i = 0; text[i] != '\0'; i++) {
        char old = text[i];
        text[i] = old == 'A' ? 'B' : 'A';
        assert_int_equal(ew_token_parse(text, &back, &err), EW_EINVAL);
        text[i] = '\0';
        assert_int_equal(ew_token_parse(text, &back, &err), EW_EINVAL);
        text[i] = old;
    }
}

static ew_status enrol(site *t, const ew_token *token, ew_enrol_result *ret, ew_error *err)
{
    char id[320];
    char pending[320];
    char ca[320];
    path_in(&t->p, id, "new.pem");
    path_in(&t->p, pending, "pending");
    path_in(&t->p, ca, "new-ca.pem");
    ew_enrol_opt o = {.token = token, .identity_path = id, .pending_path = pending, .ca_path = ca, .timeout_ms = 10000};
    return ew_enrol(&o, ret, err);
}

static void a_device_enrols_once_and_connects(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    ew_enrol_result res;
    site_init(&t, (ew_server_opt){0});
    ew_endpoint_list ep = endpoint_of(&t);
    strcpy(t.token.endpoint, ep.item[0]);
    strcpy(t.token.id, "tok-1");
    ew_random_bytes(t.token.secret, 32);
    memcpy(t.token.ca_sha256, t.p.ca_sha256, 32);
    ew_token bad = t.token;
    bad.secret[5] ^= 1;
    assert_int_equal(enrol(&t, &bad, &res, &err), EW_EDENIED);
    bad = t.token;
    bad.ca_sha256[0] ^= 1; /* an impostor: nothing is sent to it */
    unsigned before = t.ev.requests;
    assert_int_equal(enrol(&t, &bad, &res, &err), EW_EDENIED);
    assert_non_null(strstr(err.msg, "not the coordinator"));
    assert_int_equal(t.ev.requests, before);
    ok(enrol(&t, &t.token, &res, &err));
    assert_string_equal(res.device_id, "dev-9");
    assert_string_equal(res.trust_domain, DOMAIN);
    assert_memory_equal(res.artifact_key, t.artifact_public, 32);
    char id[320];
    char ca[320];
    path_in(&t.p, id, "new.pem");
    path_in(&t.p, ca, "new-ca.pem");
    ew_client *c = site_client(&t, (ew_client_opt){.identity_path = id, .ca_path = ca}, NULL);
    ok(ew_client_wait_up(c, 10000, &err));
    ew_client_free(&c);
    assert_int_equal(enrol(&t, &t.token, &res, &err), EW_EDENIED); /* used */
    site_release(&t);
}

static void new_certificates_are_taken_without_a_restart(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF back = {0};
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    ok(echo(c, "a", &back, &err));
    make_identity(&t.p, &(leaf){.kind = EW_SPIFFE_COORDINATOR, .id = "c2", .server_auth = true}, t.p.server_path);
    ok(ew_server_reload_tls(t.s, &err));
    ok(echo(c, "b", &back, &err)); /* the old session goes on */
    ew_client_reconnect(c);
    ok(echo(c, "c", &back, &err));
    ok(ew_file_replace(t.p.server_path, "rubbish", 7, 0600, &err));
    assert_int_not_equal(ew_server_reload_tls(t.s, &err), EW_OK); /* and nothing changed */
    ew_client_reconnect(c);
    ok(echo(c, "d", &back, &err));
    ew_client_free(&c);
    site_release(&t);
}

int main(void)
{
    ew_error err;
    if (getenv("EW_TEST_LOG") != NULL && ew_log_configure(getenv("EW_TEST_LOG"), &err) != EW_OK) {
        return 2;
    }
    cmocka_set_test_filter(getenv("EW_TEST_FILTER"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_comes_up_and_calls),
        cmocka_unit_test(operators_may_be_there_twice),
        cmocka_unit_test(many_large_calls_share_one_session),
        cmocka_unit_test(replies_in_parts_come_in_order_and_errors_say_why),
        cmocka_unit_test(the_same_key_is_done_once),
        cmocka_unit_test(a_call_outlives_the_coordinators_restart),
        cmocka_unit_test(the_coordinator_assigns_a_trial),
        cmocka_unit_test(a_revoked_device_is_cut_and_stays_out),
        cmocka_unit_test(a_silent_peer_is_dead_after_two_and_a_half_keepalives),
        cmocka_unit_test(a_peer_that_takes_nothing_is_slow_and_goes),
        cmocka_unit_test(a_graceful_stop_lets_requests_finish),
        cmocka_unit_test(nobody_there_is_told_at_once),
        cmocka_unit_test(an_impostor_coordinator_is_refused),
        cmocka_unit_test(a_short_certificate_lives_through_its_renewals),
        cmocka_unit_test(the_token_is_one_string_and_mistakes_are_seen),
        cmocka_unit_test(a_device_enrols_once_and_connects),
        cmocka_unit_test(new_certificates_are_taken_without_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

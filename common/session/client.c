/* The client's session: resolving, connecting, TLS, Hello, keepalive, back-off. States are those of fsm.h. */
#include "session/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "session/client_int.h"
#include "sys/file.h"

#define PEM_MAX_BYTES (256u * 1024)
#define STABLE_MS 60000

static void enter(ew_client *c, ew_client_state next, const ew_error *err);

/* ---- telling others */

static void publish(ew_client *c, const ew_error *err)
{
    pthread_mutex_lock(&c->lock);
    c->seen_state = c->state;
    if (err != NULL) {
        c->last_err = *err;
        c->final = c->no_reconnect;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (c->h.on_state != NULL) {
        c->h.on_state(c->ctx, c->state, err);
    }
}

static void publish_stats(ew_client *c)
{
    pthread_mutex_lock(&c->lock);
    c->stats.bytes_in = c->bytes_in;
    c->stats.bytes_out = c->bytes_out;
    c->stats.connects = c->connects;
    pthread_mutex_unlock(&c->lock);
}

/* ---- the end of an attempt */

static uint64_t backoff_ms(ew_client *c)
{
    if (c->go_away) { /* the coordinator knows best, but not for ever */
        uint64_t base = EW_MIN(c->go_away_retry_ms, c->backoff_cap_ms);
        return base + ew_rng_below(&c->rng, EW_MIN(base, 100) + 1);
    }
    uint64_t top = c->backoff_base_ms;
    for (unsigned i = 1; i < c->failures && top < c->backoff_cap_ms; i++) {
        top *= 2;
    }
    top = EW_MIN(top, c->backoff_cap_ms);
    return ew_rng_below(&c->rng, top + 1);
}

static void attempt_over(ew_client *c, const ew_error *err)
{
    if (c->link_up) {
        ew__link_close(&c->link);
        ew__link_release(&c->link);
        c->link_up = false;
    }
    c->ended = true;
    bool stable = c->active_since_ms != 0 && ew_mono_ms() - c->active_since_ms >= STABLE_MS;
    c->failures = stable ? 1 : c->failures + 1;
    c->active_since_ms = 0;
    c->n_sent = 0;
    ew__client_lost(c);
    uint64_t wait = backoff_ms(c);
    c->go_away = false;
    if (c->no_reconnect) {
        ew__client_fail_all(c, err->code, err->msg);
        c->state_until_ms = 0;
    } else {
        c->state_until_ms = ew_mono_ms() + wait;
    }
}

static void reschedule(ew_client *c);

/* An event without an error of its own. False: the state does not allow it, and the attempt is over. */
static bool event(ew_client *c, ew_fsm_event e, const ew_error *err)
{
    int next = ew_fsm_client(c->state, e);
    if (next == EW_FSM_BAD) {
        ew_error bad;
        (void)ew_fail(&bad, EW_EREMOTE, "the coordinator sent %s in state %s", ew_fsm_event_name(e),
                      ew_client_state_name(c->state));
        if (c->state != EW_CLIENT_BACKOFF && c->state != EW_CLIENT_STOPPED && c->state != EW_CLIENT_IDLE) {
            enter(c, EW_CLIENT_BACKOFF, &bad);
        }
        return false;
    }
    if (next != (int)c->state) {
        enter(c, (ew_client_state)next, err);
    }
    return true;
}

static void fail(ew_client *c, ew_fsm_event e, ew_status st, const char *what)
{
    ew_error err;
    (void)ew_fail(&err, st, "%s", what);
    (void)event(c, e, &err);
}

/* ---- resolving */

typedef struct resolve {
    ew__item item;
    char host[256];
    ew_addr_list list;
    ew_status st;
    ew_error err;
} resolve;

static void resolve_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)owner, (void)w;
    resolve *r = (resolve *)item;
    r->st = ew_resolve(r->host, &r->list, &r->err);
}

static void resolve_done(ew__item *item, void *owner)
{
    resolve *r = (resolve *)item;
    ew_client *c = owner;
    if (c->state == EW_CLIENT_RESOLVING && strcmp(c->host, r->host) == 0) {
        if (r->st == EW_OK && r->list.n > 0) {
            c->addrs = r->list;
            c->i_addr = c->failures;
            (void)event(c, EW_EV_RESOLVED, NULL);
        } else {
            fail(c, EW_EV_CLOSE, EW_EREMOTE, r->err.msg);
        }
    }
    ew_free(r);
}

static void start_resolving(ew_client *c)
{
    const char *text = c->endpoints.item[c->i_endpoint++ % c->endpoints.n];
    ew_error err = EW_ERROR_INIT;
    resolve *r = ew_calloc(1, sizeof(*r));
    if (r == NULL || ew_endpoint_parse(text, 7443, c->host, sizeof(c->host), &c->port, &err) != EW_OK) {
        ew_free(r);
        fail(c, EW_EV_CLOSE, EW_EINVAL, err.msg[0] != '\0' ? err.msg : "out of memory");
        return;
    }
    r->item = (ew__item){.work = resolve_work, .done = resolve_done};
    ew_str_copy(r->host, sizeof(r->host), c->host);
    c->state_until_ms = ew_mono_ms() + c->connect_ms;
    ew__hub_submit(c->hub, EW__CLIENT_LANE_RESOLVE, &r->item);
}

/* ---- connecting */

static bool numeric(const char *host)
{
    return strspn(host, "0123456789.") == strlen(host) || strchr(host, ':') != NULL;
}

static ew_status make_tls(ew_client *c, ew_tls **ret, ew_error *reterr)
{
    EW_AUTO_BUF id = {0};
    EW_AUTO_BUF roots = {0};
    EW_TRY(ew_file_read(c->ca_path, PEM_MAX_BYTES, &roots, reterr));
    EW_TRY(ew_file_read(c->identity_path, PEM_MAX_BYTES, &id, reterr));
    const char *name = c->server_name != NULL ? c->server_name : numeric(c->host) ? EW_DEFAULT_SERVER_NAME : c->host;
    ew_tls_client_opt opt = {.chain_pem = {id.data, id.size},
                             .key_pem = {id.data, id.size},
                             .roots_pem = {roots.data, roots.size},
                             .alpn = c->role == EW_ROLE_OPERATOR ? EW_ALPN_OPERATOR : EW_ALPN_DEVICE,
                             .server_name = name,
                             .trust_domain = c->trust_domain};
    ew_tls_ctx *ctx = NULL;
    ew_status st = ew_tls_ctx_client(&opt, &ctx, reterr);
    ew_wipe(id.data, id.size);
    EW_TRY(st);
    st = ew_tls_new(ctx, ret, reterr);
    ew_tls_ctx_unref(&ctx);
    return st;
}

static bool io_up(void *ctx, ew_io_peer *peer, const char *addr, void **ret_user);
static void io_data(void *ctx, ew_io_peer *peer, void *user, const void *data, size_t size);
static void io_gone(void *ctx, ew_io_peer *peer, void *user);
static const ew_io_handlers io_handlers = {io_up, io_data, io_gone};

static void start_connecting(ew_client *c)
{
    ew_error err = EW_ERROR_INIT;
    ew_io_opt opt = {.max_rt_ms = 0};
    const char *addr = c->addrs.text[c->i_addr % c->addrs.n];
    c->state_until_ms = ew_mono_ms() + c->connect_ms;
    c->connects++;
    EW_ASSERT(c->io == NULL);
    if (ew_io_connect(c->zmq, addr, c->port, &opt, &io_handlers, c, &c->io, &err) != EW_OK) {
        fail(c, EW_EV_CLOSE, EW_EREMOTE, err.msg);
    }
}

static ew_status capture(void *ctx, bool out, ew_span envelope, ew_span body, ew_error *reterr)
{
    const ew_client *c = ctx;
    char head[96];
    char iso[25];
    int n = snprintf(head, sizeof(head), "== %s %zu + %zu, %s\n", out ? "out" : "in", envelope.size, body.size,
                     ew_wall_iso(iso, ew_wall_ms()));
    const ew_span parts[] = {{head, (size_t)n}, envelope, body, {"\n", 1}};
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        const char *at = parts[i].data;
        size_t left = parts[i].size;
        while (left > 0) {
            ssize_t done = write(c->capture_fd, at, left);
            if (done < 0 && errno != EINTR) {
                return ew_fail_errno(reterr, errno, "cannot write the capture %s", c->capture_path);
            }
            if (done > 0) {
                at += done;
                left -= (size_t)done;
            }
        }
    }
    return EW_OK;
}

static bool io_up(void *ctx, ew_io_peer *peer, const char *addr, void **ret_user)
{
    (void)addr;
    ew_client *c = ctx;
    *ret_user = c;
    if (c->state != EW_CLIENT_CONNECTING || c->ended) {
        return false;
    }
    ew__link_init(&c->link, c->io, peer, EW_LIMIT_FRAME_BYTES);
    c->link.count_in = &c->bytes_in;
    c->link.count_out = &c->bytes_out;
    c->link.tap = c->capture_fd >= 0 ? capture : NULL;
    c->link.tap_ctx = c;
    c->link_up = true;
    ew_error err = EW_ERROR_INIT;
    ew_status st = make_tls(c, &c->link.tls, &err);
    if (st == EW_OK) {
        st = ew_tls_input(c->link.tls, NULL, 0, &err);
    }
    if (st != EW_OK) {
        fail(c, EW_EV_CLOSE, st, err.msg);
        return true; /* closed already */
    }
    (void)event(c, EW_EV_TCP_UP, NULL);
    ew__client_flush(c);
    return true;
}

static void io_gone(void *ctx, ew_io_peer *peer, void *user)
{
    (void)user;
    ew_client *c = ctx;
    if (peer != NULL && c->link_up) {
        c->link.peer = NULL;
    }
    if (c->ended || c->state == EW_CLIENT_BACKOFF || c->state == EW_CLIENT_STOPPED) {
        return;
    }
    char text[320];
    if (peer == NULL) {
        snprintf(text, sizeof(text), "%.200s port %u: connection refused. HINT: is the coordinator running?", c->host,
                 c->port);
    } else if (c->state == EW_CLIENT_TLS || c->state == EW_CLIENT_HELLO_SENT) {
        snprintf(text, sizeof(text), "%.200s port %u: the coordinator closed the connection during the handshake",
                 c->host, c->port);
    } else {
        ew_str_copy(text, sizeof(text), "the connection to the coordinator was lost");
    }
    fail(c, EW_EV_GONE, EW_EREMOTE, text);
}

/* ---- Hello */

/* The counter on disk goes up before it is used: a copy of the disk is then noticed by its old number. */
static ew_status next_epoch(ew_client *c, uint64_t *ret, ew_error *reterr)
{
    uint64_t epoch = 0;
    if (c->epoch_path == NULL) {
        *ret = ew_wall_ms();
        return EW_OK;
    }
    EW_AUTO_BUF text = {0};
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_file_read(c->epoch_path, 64, &text, &err);
    if (st == EW_OK) {
        char *nl = text.data != NULL ? strchr(text.data, '\n') : NULL;
        if (nl != NULL) {
            *nl = '\0';
        }
        if (!ew_str_to_u64(ew_buf_str(&text), UINT64_MAX - 1, &epoch)) {
            return ew_fail(reterr, EW_ECORRUPT, "%s does not hold a number", c->epoch_path);
        }
    } else if (st != EW_ENOENT) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    char line[32];
    int n = snprintf(line, sizeof(line), "%llu\n", (unsigned long long)epoch + 1);
    EW_TRY(ew_file_replace(c->epoch_path, line, (size_t)n, 0600, reterr));
    *ret = epoch + 1;
    return EW_OK;
}

static void send_hello(ew_client *c)
{
    ew_msg *m = ew_msg_new(EW_MSG_HELLO);
    ew_error err = EW_ERROR_INIT;
    ew_status st = m != NULL ? next_epoch(c, &m->hello.session_epoch, &err) : EW_ENOMEM;
    if (st == EW_OK) {
        ew_msg_hello *h = &m->hello;
        h->n_versions = 1;
        h->versions[0].major = 1;
        ew_str_copy(h->software, sizeof(h->software), c->software != NULL ? c->software : "edgewise");
        memcpy(h->boot_id, c->boot_id, sizeof(h->boot_id));
        h->limits = (ew_wire_limits){EW_LIMIT_FRAME_BYTES, EW_LIMIT_INFLIGHT, EW_LIMIT_SESSION_WINDOW_BYTES,
                                     EW_LIMIT_SESSION_WINDOW_BYTES, EW_LIMIT_STREAMS};
        h->has_caps = c->caps != NULL;
        if (c->caps != NULL) {
            h->caps = *c->caps;
        }
        h->has_state = c->h.get_state != NULL;
        if (h->has_state) {
            c->h.get_state(c->ctx, &h->state);
        }
        st = ew__link_send_msg(&c->link, m, 0, false, &err);
    }
    ew_msg_free(&m);
    if (st != EW_OK) {
        fail(c, EW_EV_CLOSE, st, err.msg);
    }
}

static void on_hello_ack(ew_client *c, const ew_msg *m)
{
    uint32_t ka = m->hello_ack.keepalive_ms;
    c->keepalive_ms = c->keepalive_opt_ms != 0 ? c->keepalive_opt_ms : EW_MIN(EW_MAX(ka, 100u), 240000u);
    if (m->hello_ack.limits.session_window != 0) {
        c->link.window_out = EW_MIN(EW_MAX(m->hello_ack.limits.session_window, 65536u), EW_LIMIT_SESSION_WINDOW_BYTES);
    }
    if (c->h.on_time != NULL) {
        c->h.on_time(c->ctx, m->hello_ack.server_time_unix_ms);
    }
    ew__client_renew_plan(c);
    (void)event(c, EW_EV_HELLO_ACK, NULL);
}

/* ---- frames */

static void send_ping(ew_client *c, uint64_t now)
{
    ew_msg m = {.type = EW_MSG_PING};
    m.ping.nonce = now;
    m.ping.bytes_consumed = c->link.told = c->link.consumed;
    ew_error ignored;
    (void)!ew__link_send_msg(&c->link, &m, 0, false, &ignored);
    c->last_ping_ms = now;
}

static void on_go_away(ew_client *c, const ew_msg *m)
{
    ew_error err;
    const ew_msg_go_away *g = &m->go_away;
    ew_status st = g->reason == EW_GO_AWAY_REVOKED    ? EW_EDENIED
                   : g->reason == EW_GO_AWAY_REPLACED ? EW_ECONFLICT
                                                      : EW_EREMOTE;
    (void)ew_fail(&err, st, "the coordinator ends the session: %s (%s)", g->detail, ew_go_away_name(g->reason));
    c->go_away = g->reason != EW_GO_AWAY_PROTOCOL && g->reason != EW_GO_AWAY_UNSPECIFIED;
    c->go_away_retry_ms = g->retry_after_ms;
    if (g->reason == EW_GO_AWAY_REPLACED || g->reason == EW_GO_AWAY_REVOKED) {
        c->go_away_retry_ms = EW_MAX(g->retry_after_ms, 60 * c->backoff_base_ms);
    }
    (void)event(c, EW_EV_GO_AWAY, &err);
    if (c->state == EW_CLIENT_DRAINING) {
        pthread_mutex_lock(&c->lock);
        c->last_err = err;
        pthread_mutex_unlock(&c->lock);
        c->state_until_ms = ew_mono_ms() + EW_MAX(g->drain_ms, 1);
        if (c->n_sent == 0) {
            (void)event(c, EW_EV_CLOSE, &err);
        }
    }
}

static bool on_control(ew_client *c, const ew_msg *m)
{
    bool ok = true;
    switch (m->type) {
    case EW_MSG_PING: {
        ew_msg pong = {.type = EW_MSG_PONG};
        pong.pong.nonce = m->ping.nonce;
        pong.pong.bytes_consumed = c->link.told = c->link.consumed;
        ew_error ignored;
        (void)!ew__link_send_msg(&c->link, &pong, m->msg_id, true, &ignored);
        ok = ew__link_peer_consumed(&c->link, m->ping.bytes_consumed);
        break;
    }
    case EW_MSG_PONG:
        ok = ew__link_peer_consumed(&c->link, m->pong.bytes_consumed);
        break;
    case EW_MSG_CREDIT:
        ok = ew__link_peer_consumed(&c->link, m->credit.bytes_consumed);
        break;
    default:
        break;
    }
    return ok;
}

static ew_fsm_event event_of(const ew_wire_header *h)
{
    switch ((ew_msg_type)h->payload) {
    case EW_MSG_HELLO:
        return EW_EV_HELLO;
    case EW_MSG_HELLO_ACK:
        return EW_EV_HELLO_ACK;
    case EW_MSG_GO_AWAY:
        return EW_EV_GO_AWAY;
    case EW_MSG_PING:
    case EW_MSG_PONG:
    case EW_MSG_CREDIT:
    case EW_MSG_CANCEL:
        return EW_EV_CONTROL;
    default:
        return h->reply_to != 0 ? EW_EV_REPLY : EW_EV_REQUEST;
    }
}

/* Control frames, HelloAck, GoAway, and an Error before HelloAck: small, read here. */
static bool on_small(ew_client *c, ew_frame *frame, ew_fsm_event e)
{
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_error err = EW_ERROR_INIT;
    ew_status st = m != NULL ? ew_wire_unpack(frame->envelope, frame->body, m, &err) : EW_ENOMEM;
    if (e == EW_EV_REPLY) {
        ew__link_consume(&c->link, frame->wire_bytes);
    }
    ew_frame_free(&frame);
    if (st != EW_OK) {
        fail(c, EW_EV_CLOSE, EW_EREMOTE, err.msg);
    } else if (e == EW_EV_HELLO_ACK) {
        on_hello_ack(c, m);
    } else if (e == EW_EV_GO_AWAY) {
        on_go_away(c, m);
    } else if (e == EW_EV_REPLY) {
        ew_status code = m->type == EW_MSG_ERROR ? ew_code_to_status(m->error.code) : EW_EREMOTE;
        fail(c, EW_EV_CLOSE, code != EW_OK ? code : EW_EREMOTE,
             m->type == EW_MSG_ERROR ? m->error.detail : "an unexpected answer to Hello");
    } else if (!on_control(c, m)) {
        fail(c, EW_EV_CLOSE, EW_EREMOTE, "the coordinator counts more bytes than were sent");
    }
    ew_msg_free(&m);
    return !c->ended;
}

static bool on_frame(void *ctx, ew_frame *frame, const ew_wire_header *h)
{
    ew_client *c = ctx;
    ew_fsm_event e = event_of(h);
    bool small = e == EW_EV_CONTROL || e == EW_EV_HELLO_ACK || e == EW_EV_GO_AWAY ||
                 (e == EW_EV_REPLY && c->state == EW_CLIENT_HELLO_SENT);
    if (ew_fsm_client(c->state, e) == EW_FSM_BAD) {
        ew_frame_free(&frame);
        (void)event(c, e, NULL);
        return false;
    }
    if (small) {
        return on_small(c, frame, e);
    }
    if (e == EW_EV_REPLY) {
        ew__client_on_reply(c, frame, h);
        if (c->state == EW_CLIENT_DRAINING && c->n_sent == 0) {
            ew_error err = c->last_err;
            (void)event(c, EW_EV_CLOSE, &err);
        }
    } else {
        ew__client_on_request(c, frame, h);
    }
    return !c->ended;
}

static void io_data(void *ctx, ew_io_peer *peer, void *user, const void *data, size_t size)
{
    (void)peer, (void)user;
    ew_client *c = ctx;
    ew_error err = EW_ERROR_INIT;
    if (!c->link_up || c->ended || !event(c, EW_EV_BYTES, NULL)) {
        return;
    }
    if (ew_tls_get_state(c->link.tls) == EW_TLS_HANDSHAKE) {
        ew_status st = ew_tls_input(c->link.tls, data, size, &err);
        if (st != EW_OK) {
            ew_error ignored;
            (void)!ew__link_flush_tls(&c->link, &ignored);
            fail(c, EW_EV_CLOSE, st, err.msg);
            return;
        }
        if (ew_tls_get_state(c->link.tls) == EW_TLS_UP) {
            (void)event(c, EW_EV_TLS_UP, NULL);
        }
        size = 0;
    }
    if (!c->ended && ew_tls_get_state(c->link.tls) == EW_TLS_UP) {
        ew_status st = ew__link_input(&c->link, data, size, on_frame, c, &err);
        if (st != EW_OK && !c->ended) {
            fail(c, EW_EV_CLOSE, st == EW_EDENIED ? EW_EDENIED : EW_EREMOTE, err.msg);
        } else if (!c->ended && ew_tls_get_state(c->link.tls) == EW_TLS_CLOSED) {
            ew_error e = c->last_err;
            if (c->state == EW_CLIENT_DRAINING) {
                (void)event(c, EW_EV_CLOSE, &e);
            } else {
                fail(c, EW_EV_GONE, EW_EREMOTE, "the coordinator closed the session");
            }
        }
    }
    ew__client_flush(c);
}

void ew__client_flush(ew_client *c)
{
    ew_error err = EW_ERROR_INIT;
    if (c->link_up && !c->ended && ew__link_flush(&c->link, &err) != EW_OK) {
        fail(c, EW_EV_GONE, EW_EREMOTE, err.msg);
    }
}

/* ---- states and time */

static void enter(ew_client *c, ew_client_state next, const ew_error *err)
{
    EW_LOG(EW_LOG_TRACE, "session", "client-state", "from=%s to=%s", ew_client_state_name(c->state),
           ew_client_state_name(next));
    c->state = next;
    switch (next) {
    case EW_CLIENT_RESOLVING:
        publish(c, NULL);
        start_resolving(c);
        break;
    case EW_CLIENT_CONNECTING:
        publish(c, NULL);
        start_connecting(c);
        break;
    case EW_CLIENT_TLS:
        publish(c, NULL);
        c->state_until_ms = ew_mono_ms() + c->connect_ms;
        break;
    case EW_CLIENT_HELLO_SENT:
        publish(c, NULL);
        c->state_until_ms = ew_mono_ms() + c->connect_ms;
        send_hello(c);
        break;
    case EW_CLIENT_ACTIVE:
        c->state_until_ms = 0;
        c->active_since_ms = EW_MAX(ew_mono_ms(), 1);
        publish(c, NULL);
        ew__client_send_waiting(c);
        break;
    case EW_CLIENT_DRAINING:
        publish(c, NULL);
        break;
    case EW_CLIENT_BACKOFF:
        attempt_over(c, err);
        publish(c, err);
        break;
    default:
        break;
    }
    reschedule(c);
}

static void reschedule(ew_client *c)
{
    uint64_t now = ew_mono_ms();
    uint64_t at = c->state_until_ms != 0 ? c->state_until_ms : UINT64_MAX;
    if (c->state == EW_CLIENT_ACTIVE || c->state == EW_CLIENT_DRAINING) {
        at = EW_MIN(at, c->link.last_recv_ms + (uint64_t)c->keepalive_ms * 5 / 2);
        at = EW_MIN(at, EW_MAX(c->link.last_sent_ms, c->last_ping_ms) + c->keepalive_ms);
    }
    at = EW_MIN(at, ew__client_expire(c, now));
    (void)!ew_timer_set(&c->timers, &c->timer, at);
}

static void on_timer(ew_timer *t, void *ctx)
{
    (void)t;
    ew_client *c = ctx;
    uint64_t now = ew_mono_ms();
    bool live = c->state == EW_CLIENT_ACTIVE || c->state == EW_CLIENT_DRAINING;
    if (c->state_until_ms != 0 && now >= c->state_until_ms) {
        char text[128];
        snprintf(text, sizeof(text), "the coordinator did not answer in time (state %s)",
                 ew_client_state_name(c->state));
        c->state_until_ms = 0;
        fail(c, EW_EV_TIMEOUT, EW_EREMOTE, text);
    } else if (live && now >= c->link.last_recv_ms + (uint64_t)c->keepalive_ms * 5 / 2) {
        fail(c, EW_EV_TIMEOUT, EW_EREMOTE, "nothing was heard of the coordinator for 2.5 keepalives");
    } else if (live && now >= EW_MAX(c->link.last_sent_ms, c->last_ping_ms) + c->keepalive_ms) {
        send_ping(c, now);
        ew__client_flush(c);
    }
    reschedule(c);
}

/* ---- the loop */

static void *client_main(void *arg)
{
    ew_client *c = arg;
    c->timer = (ew_timer){.fn = on_timer, .ctx = c};
    c->state_until_ms =
        ew_mono_ms() + (c->first_wait_ms != 0 ? ew_rng_below(&c->rng, (uint64_t)c->first_wait_ms + 1) : 0) + 1;
    if (c->first_wait_ms == 0) {
        c->state_until_ms = 0;
        (void)event(c, EW_EV_START, NULL);
    }
    while (c->state != EW_CLIENT_STOPPED) {
        reschedule(c);
        zmq_pollitem_t items[3];
        size_t n = c->io != NULL ? ew_io_poll_items(c->io, items) : 0;
        items[n] = ew__hub_poll_item(c->hub);
        zmq_poll(items, (int)n + 1, (long)ew_timers_wait_ms(&c->timers, ew_mono_ms(), 60000));
        if (c->io != NULL) {
            ew_io_run(c->io, 256);
        }
        ew__hub_run(c->hub, 256);
        ew_timers_run(&c->timers, ew_mono_ms());
        ew__client_flush(c);
        if (c->ended) {
            ew_io_free(&c->io);
            c->ended = false;
        }
        publish_stats(c);
    }
    return NULL;
}

/* ---- life */

static char *dup_or_null(const char *s, bool *ok)
{
    char *d = s != NULL ? ew_str_dup(s) : NULL;
    *ok = *ok && (s == NULL || d != NULL);
    return d;
}

static ew_status open_capture(ew_client *c, ew_error *reterr)
{
    if (c->capture_path != NULL) {
        c->capture_fd =
            open(c->capture_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        struct stat info;
        if (c->capture_fd < 0 || fstat(c->capture_fd, &info) != 0) {
            return ew_fail_errno(reterr, errno, "cannot open the capture %s", c->capture_path);
        }
        if (!S_ISREG(info.st_mode) || fchmod(c->capture_fd, 0600) != 0) { /* one from before may be open to others */
            return ew_fail(reterr, EW_EINVAL, "the capture %s is no file of ours. HINT: name a new file",
                           c->capture_path);
        }
    }
    return EW_OK;
}

static ew_status fill(ew_client *c, const ew_client_opt *opt, ew_error *reterr)
{
    bool ok = true;
    c->role = opt->role;
    c->endpoints = *opt->endpoints;
    c->identity_path = dup_or_null(opt->identity_path, &ok);
    c->ca_path = dup_or_null(opt->ca_path, &ok);
    c->server_name = dup_or_null(opt->server_name, &ok);
    c->trust_domain = dup_or_null(opt->trust_domain, &ok);
    c->epoch_path = dup_or_null(opt->epoch_path, &ok);
    c->capture_path = dup_or_null(opt->capture_path, &ok);
    c->software = dup_or_null(opt->software, &ok);
    if (opt->caps != NULL) {
        c->caps = ew_malloc(1, sizeof(*c->caps));
        ok = ok && c->caps != NULL;
        if (c->caps != NULL) {
            *c->caps = *opt->caps;
        }
    }
    c->connect_ms = opt->connect_ms != 0 ? opt->connect_ms : 10000;
    c->backoff_base_ms = opt->backoff_base_ms != 0 ? opt->backoff_base_ms : 1000;
    c->backoff_cap_ms = opt->backoff_cap_ms != 0 ? opt->backoff_cap_ms : 300000;
    c->first_wait_ms = opt->first_wait_ms;
    c->keepalive_opt_ms = opt->keepalive_ms;
    c->keepalive_ms = 30000;
    c->no_reconnect = opt->no_reconnect;
    c->renew = opt->renew;
    c->retry_tokens = 10;
    c->control_tokens = 300;
    c->control_ms = ew_mono_ms();
    atomic_init(&c->next_stream, 1);
    ew_random_bytes(c->boot_id, sizeof(c->boot_id));
    uint64_t seed;
    ew_random_bytes(&seed, sizeof(seed));
    ew_rng_init(&c->rng, seed, 0);
    if (!ok) {
        return ew_fail(reterr, EW_ENOMEM, "client: out of memory");
    }
    return open_capture(c, reterr);
}

/* The identity is read once here, so that a wrong path or a broken file is told at once; the trust domain is ours. */
static ew_status take_identity(ew_client *c, ew_error *reterr);

static ew_status leaf_domain(void *ctx, ew_span der, ew_error *reterr)
{
    ew_client *c = ctx;
    ew_cert_info info;
    EW_TRY(ew_cert_info_of(der, &info, reterr));
    if (c->trust_domain == NULL && info.has_spiffe) {
        c->trust_domain = ew_str_dup(info.spiffe.domain);
    }
    return EW_OK;
}

static ew_status take_identity(ew_client *c, ew_error *reterr)
{
    EW_AUTO_BUF id = {0};
    EW_TRY(ew_file_read(c->identity_path, PEM_MAX_BYTES, &id, reterr));
    ew_span pem = {id.data, id.size};
    EW_AUTO(ew_pkey) key = NULL;
    ew_status st = ew_pkey_from_pem(pem, &key, reterr);
    if (st == EW_OK) {
        st = ew_cert_each_pem(pem, leaf_domain, c, reterr);
    }
    ew_wipe(id.data, id.size);
    return st == EW_OK ? EW_OK : ew_wrap(reterr, st, "%s", c->identity_path);
}

static void client_destroy(ew_client *c)
{
    if (c->link_up) {
        ew__link_close(&c->link);
        ew__link_release(&c->link);
    }
    if (c->hub != NULL) {
        ew__client_fail_all(c, EW_ECANCELLED, "the client is stopping");
    }
    ew__hub_free(&c->hub);
    ew__client_fail_all(c, EW_ECANCELLED, "the client is stopping");
    ew_io_free(&c->io);
    ew_timers_release(&c->timers);
    if (c->zmq != NULL) {
        zmq_ctx_term(c->zmq);
    }
    ew_free(c->identity_path);
    ew_free(c->ca_path);
    ew_free(c->server_name);
    ew_free(c->trust_domain);
    ew_free(c->epoch_path);
    ew_free(c->capture_path);
    if (c->capture_fd >= 0) {
        (void)close(c->capture_fd);
    }
    ew_free(c->software);
    ew_free(c->caps);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    ew_free(c);
}

ew_status ew_client_new(const ew_client_opt *opt, const ew_client_handlers *handlers, void *ctx, ew_client **ret,
                        ew_error *reterr)
{
    static const ew_client_handlers none = {0};
    if (opt->endpoints == NULL || opt->endpoints->n == 0 || opt->endpoints->n > EW_ENDPOINTS_MAX ||
        opt->identity_path == NULL || opt->ca_path == NULL ||
        (opt->role != EW_ROLE_DEVICE && opt->role != EW_ROLE_OPERATOR)) {
        return ew_fail(reterr, EW_EINVAL, "client: endpoint, identity or trust roots are missing");
    }
    ew_client *c = ew_calloc(1, sizeof(*c));
    if (c == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "client: out of memory");
    }
    c->capture_fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &mono);
    pthread_condattr_destroy(&mono);
    c->h = handlers != NULL ? *handlers : none;
    c->ctx = ctx;
    ew_status st = fill(c, opt, reterr);
    if (st == EW_OK) {
        st = take_identity(c, reterr);
    }
    c->zmq = st == EW_OK ? zmq_ctx_new() : NULL;
    if (st == EW_OK && c->zmq == NULL) {
        st = ew_fail(reterr, EW_EIO, "client: cannot make a messaging context");
    }
    if (st == EW_OK) {
        st = ew__hub_new(c->zmq, 1, 2, c, &c->hub, reterr);
    }
    if (st == EW_OK && pthread_create(&c->thread, NULL, client_main, c) != 0) {
        st = ew_fail(reterr, EW_EIO, "client: cannot start its thread");
    }
    if (st != EW_OK) {
        client_destroy(c);
        return st;
    }
    c->started = true;
    *ret = c;
    return EW_OK;
}

static void stop_done(ew__item *item, void *owner)
{
    ew_client *c = owner;
    ew_free(item);
    if (c->link_up && (c->state == EW_CLIENT_ACTIVE || c->state == EW_CLIENT_DRAINING)) {
        ew_msg m = {.type = EW_MSG_GO_AWAY};
        m.go_away.reason = EW_GO_AWAY_SHUTDOWN;
        ew_error ignored;
        (void)!ew__link_send_msg(&c->link, &m, 0, false, &ignored);
        ew__client_flush(c);
    }
    if (c->link_up) {
        ew__link_close(&c->link);
    }
    c->state = EW_CLIENT_STOPPED;
    ew__client_fail_all(c, EW_ECANCELLED, "the client is stopping");
    publish(c, NULL);
}

void ew_client_stop(ew_client *c)
{
    pthread_mutex_lock(&c->lock);
    bool first = !c->stopping;
    c->stopping = true;
    while (!first && !c->stopped) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    if (!first) {
        return;
    }
    ew__item *stop = ew_xcalloc(1, sizeof(*stop));
    stop->done = stop_done;
    if (!ew__hub_post(c->hub, stop)) {
        ew_free(stop);
    }
    pthread_join(c->thread, NULL);
    ew__hub_close(c->hub);
    ew__client_fail_all(c, EW_ECANCELLED, "the client is stopping");
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void ew_client_free(ew_client **c)
{
    if (c != NULL && *c != NULL) {
        ew_client_stop(*c);
        client_destroy(*c);
        *c = NULL;
    }
}

/* ---- questions of other threads */

ew_client_state ew_client_get_state(ew_client *c)
{
    pthread_mutex_lock(&c->lock);
    ew_client_state s = c->seen_state;
    pthread_mutex_unlock(&c->lock);
    return s;
}

static struct timespec at_ms(uint64_t ms)
{
    return (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
}

ew_status ew_client_wait_up(ew_client *c, uint32_t timeout_ms, ew_error *reterr)
{
    struct timespec until = at_ms(ew_mono_ms() + timeout_ms);
    pthread_mutex_lock(&c->lock);
    int rc = 0;
    while (rc == 0 && c->seen_state != EW_CLIENT_ACTIVE && !c->stopping && !(c->final && c->no_reconnect)) {
        rc = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    }
    bool up = c->seen_state == EW_CLIENT_ACTIVE;
    bool stopping = c->stopping;
    ew_error last = c->last_err;
    bool final = c->final;
    pthread_mutex_unlock(&c->lock);
    if (up) {
        return EW_OK;
    }
    if (stopping) {
        return ew_fail(reterr, EW_ECANCELLED, "the client is stopping");
    }
    if (final) {
        return ew_fail(reterr, last.code, "%s", last.msg);
    }
    return ew_fail(reterr, EW_ETIMEOUT, "no session with the coordinator within %u ms%s%s", timeout_ms,
                   last.msg[0] != '\0' ? ": " : "", last.msg);
}

static void reconnect_done(ew__item *item, void *owner)
{
    ew_client *c = owner;
    ew_free(item);
    if (c->state == EW_CLIENT_BACKOFF) {
        c->state_until_ms = ew_mono_ms();
        reschedule(c);
    } else if (c->state != EW_CLIENT_STOPPED && c->state != EW_CLIENT_IDLE) {
        c->go_away = true;
        c->go_away_retry_ms = 0;
        fail(c, EW_EV_CLOSE, EW_EREMOTE, "a new connection was asked for");
    }
}

void ew_client_reconnect(ew_client *c)
{
    ew__item *item = ew_calloc(1, sizeof(*item));
    if (item != NULL) {
        item->done = reconnect_done;
        if (!ew__hub_post(c->hub, item)) {
            ew_free(item);
        }
    }
}

void ew_client_get_stats(ew_client *c, ew_client_stats *ret)
{
    pthread_mutex_lock(&c->lock);
    *ret = c->stats;
    pthread_mutex_unlock(&c->lock);
}

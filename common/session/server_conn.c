/* The server's connections: from TCP to HelloAck and to the end. States are those of fsm.h. */
#include "session/server_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"

#define GOODBYE_MS 5000
#define CLOSE_FLUSH_MS 5000
#define WAITING_MAX 4096

ew__conn *ew__conn_by_key(ew_server *s, uint64_t key)
{
    return ew_map_get(s->conns, &key, sizeof(key));
}

bool ew__conn_active(const ew__conn *c)
{
    return c->state == EW_SERVER_ACTIVE || c->state == EW_SERVER_DRAINING;
}

/* ---- limits of an address */

static double refill(double tokens, double per_s, double burst, uint64_t elapsed_ms)
{
    tokens += per_s * (double)elapsed_ms / 1000.0;
    return EW_MIN(tokens, burst);
}

static ew__ip *ip_of(ew_server *s, const char *addr, bool make)
{
    ew__ip *ip = ew_map_get(s->ips, addr, strlen(addr));
    uint64_t now = ew_mono_ms();
    if (ip == NULL && make) {
        ip = ew_calloc(1, sizeof(*ip));
        if (ip == NULL || ew_map_add(s->ips, addr, strlen(addr), ip) != EW_OK) {
            ew_free(ip);
            return NULL;
        }
        ip->new_tokens = 64;
        ip->enrol_tokens = s->lim.enrol_per_s_ip;
        ip->at_ms = now;
    }
    if (ip != NULL) {
        uint64_t dt = now - ip->at_ms;
        ip->at_ms = now;
        ip->new_tokens = refill(ip->new_tokens, s->lim.max_new_ip_per_s, EW_MAX(64.0, s->lim.max_new_ip_per_s), dt);
        ip->enrol_tokens = refill(ip->enrol_tokens, s->lim.enrol_per_s_ip, s->lim.enrol_per_s_ip, dt);
    }
    return ip;
}

static bool admit(ew_server *s, const char *addr)
{
    ew__ip *ip = ip_of(s, addr, true);
    if (ip == NULL || s->draining || s->n_conns >= s->lim.max_conns || s->n_half_open >= s->lim.max_half_open ||
        ip->half_open >= s->lim.max_half_open_ip || ip->new_tokens < 1) {
        s->n.refused_cap++;
        return false;
    }
    ip->new_tokens -= 1;
    ip->half_open++;
    s->n_half_open++;
    return true;
}

static void not_half_open(ew__conn *c)
{
    if (c->half_open) {
        c->half_open = false;
        c->s->n_half_open--;
        ew__ip *ip = ip_of(c->s, c->peer.addr, false);
        if (ip != NULL && ip->half_open > 0) {
            ip->half_open--;
        }
    }
}

/* ---- end of a connection */

static void set_state_deadline(ew__conn *c, uint64_t ms)
{
    c->state_until_ms = ms != 0 ? ew_mono_ms() + ms : 0;
}

static void enter(ew__conn *c, ew_server_state next);

bool ew__conn_event(ew__conn *c, ew_fsm_event e)
{
    int next = ew_fsm_server(c->state, e);
    if (next == EW_FSM_BAD) {
        c->s->n.protocol_errors++;
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "%s is not expected in state %s", ew_fsm_event_name(e),
                      ew_server_state_name(c->state));
        return false;
    }
    if (next != (int)c->state) {
        enter(c, (ew_server_state)next);
    }
    return true;
}

static void forget_session(ew__conn *c)
{
    if (c->who != NULL && c->who->conn == c) {
        c->who->conn = NULL;
        if (c->peer.role == EW_ROLE_DEVICE) {
            pthread_mutex_lock(&c->s->lock);
            ew_map_remove(c->s->up, c->peer.id, strlen(c->peer.id));
            pthread_mutex_unlock(&c->s->lock);
        }
    }
}

static void not_waiting(ew__conn *c)
{
    ew_server *s = c->s;
    ew__conn **at = &s->waiting;
    ew__conn *before = NULL;
    if (!c->waiting) {
        return;
    }
    while (*at != c) {
        before = *at;
        at = &(*at)->next_waiting;
    }
    *at = c->next_waiting;
    if (s->waiting_tail == c) {
        s->waiting_tail = before;
    }
    c->waiting = false;
    s->n_waiting--;
}

static void closed(ew__conn *c)
{
    ew_server *s = c->s;
    not_waiting(c);
    not_half_open(c);
    forget_session(c);
    ew_timer_clear(&s->timers, &c->timer);
    ew__flow_kill(c->flow);
    ew__job_conn_closed(c);
    ew__link_close(&c->link);
    if (c->up_told) {
        c->up_told = false;
        s->n.active--;
        ew__job_down(c);
    }
    s->n.closed++;
    c->dead = true;
    c->next_dead = s->dead;
    s->dead = c;
}

static void enter(ew__conn *c, ew_server_state next)
{
    EW_LOG(EW_LOG_TRACE, "session", "state", "conn=%llu from=%s to=%s", (unsigned long long)c->key,
           ew_server_state_name(c->state), ew_server_state_name(next));
    c->state = next;
    switch (next) {
    case EW_SERVER_TLS:
        c->state_until_ms = c->since_ms + c->s->lim.tls_ms;
        break;
    case EW_SERVER_HELLO_WAIT:
        set_state_deadline(c, c->s->lim.hello_ms);
        break;
    case EW_SERVER_OPENING: /* the handler may take its time with the database */
        set_state_deadline(c, 60000);
        break;
    case EW_SERVER_ACTIVE:
        not_half_open(c);
        set_state_deadline(c, 0);
        break;
    case EW_SERVER_CLOSING:
        forget_session(c);
        set_state_deadline(c, CLOSE_FLUSH_MS);
        break;
    case EW_SERVER_CLOSED:
        closed(c);
        return;
    default:
        break;
    }
    ew__conn_reschedule(c);
}

static void say_goodbye(ew__conn *c, ew_go_away_reason reason, uint32_t drain_ms, uint32_t retry_ms, const char *detail)
{
    ew_msg m = {.type = EW_MSG_GO_AWAY};
    m.go_away.reason = reason;
    m.go_away.drain_ms = drain_ms;
    m.go_away.retry_after_ms = retry_ms;
    m.go_away.last_msg_id = c->link.last_peer_id;
    ew_str_copy(m.go_away.detail, sizeof(m.go_away.detail), detail);
    ew_error ignored;
    (void)!ew__link_send_msg(&c->link, &m, 0, false, &ignored);
}

void ew__conn_fail(ew__conn *c, ew_go_away_reason reason, const char *fmt, ...)
{
    if (c->state == EW_SERVER_CLOSED || c->closing_tls) {
        return;
    }
    char detail[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    snprintf(c->why, sizeof(c->why), "%s: %.120s", ew_go_away_name(reason), detail);
    if (reason == EW_GO_AWAY_PROTOCOL) {
        ew__server_audit(c->s, "protocol", c->peer.id, c->peer.addr, "%s", detail);
    }
    c->closing_tls = true;
    ew__link_drop_bulk(&c->link);
    if (c->link.tls != NULL && ew_tls_get_state(c->link.tls) == EW_TLS_UP) {
        say_goodbye(c, reason, 0, reason == EW_GO_AWAY_OVERLOAD ? 5000 : 0, detail);
    }
    int next = ew_fsm_server(c->state, EW_EV_CLOSE);
    enter(c, (ew_server_state)next); /* allowed in every state */
    ew__conn_flush(c);
}

void ew__conn_drain(ew__conn *c, ew_go_away_reason reason, uint32_t drain_ms, uint32_t retry_ms, const char *detail)
{
    if (c->state == EW_SERVER_ACTIVE || c->state == EW_SERVER_OPENING || c->state == EW_SERVER_HELLO_WAIT) {
        snprintf(c->why, sizeof(c->why), "%s: %.120s", ew_go_away_name(reason), detail);
        say_goodbye(c, reason, drain_ms, retry_ms, detail);
    }
    if (ew__conn_event(c, EW_EV_DRAIN) && c->state == EW_SERVER_DRAINING) {
        set_state_deadline(c, EW_MAX(drain_ms, 1));
        ew__conn_reschedule(c);
    }
    ew__conn_flush(c);
}

void ew__conn_gone(ew__conn *c, const char *why)
{
    if (c->state == EW_SERVER_CLOSED) {
        return;
    }
    if (c->why[0] == '\0') {
        ew_str_copy(c->why, sizeof(c->why), why);
    }
    (void)ew__conn_event(c, EW_EV_GONE);
}

void ew__conn_destroy(ew__conn *c)
{
    ew_map_remove(c->s->conns, &c->key, sizeof(c->key));
    c->s->n_conns--;
    ew__link_release(&c->link);
    ew__flow_unref(&c->flow);
    ew_buf_release(&c->early);
    ew_free(c);
}

/* ---- sending */

void ew__conn_flush(ew__conn *c)
{
    if (c->state == EW_SERVER_CLOSED) {
        return;
    }
    ew_error err = EW_ERROR_INIT;
    if (ew__link_flush(&c->link, &err) != EW_OK) {
        ew__conn_gone(c, err.msg);
        return;
    }
    if (c->state == EW_SERVER_CLOSING && ew__link_idle(&c->link)) {
        (void)ew__conn_event(c, EW_EV_FLUSHED);
        return;
    }
    bool drained = c->state == EW_SERVER_DRAINING && c->n_inflight == 0 && c->calls == NULL && ew__link_idle(&c->link);
    if (drained) {
        for (size_t i = 0; drained && i < EW_COUNT(c->streams); i++) {
            drained = c->streams[i].id == 0;
        }
    }
    if (drained) {
        (void)ew__conn_event(c, EW_EV_CLOSE);
        (void)(c->state == EW_SERVER_CLOSING && ew__conn_event(c, EW_EV_FLUSHED));
        return;
    }
    if (!ew__link_idle(&c->link)) {
        ew__conn_reschedule(c);
    }
}

void ew__conn_send(ew__conn *c, ew__out **out)
{
    if (c->state == EW_SERVER_CLOSED || c->closing_tls) {
        ew__out_free(out);
        return;
    }
    ew__link_send(&c->link, out);
    ew__conn_flush(c);
}

/* ---- time */

void ew__conn_reschedule(ew__conn *c)
{
    if (c->state == EW_SERVER_CLOSED) {
        return;
    }
    uint64_t at = c->state_until_ms != 0 ? c->state_until_ms : UINT64_MAX;
    if (ew__conn_active(c)) {
        uint64_t ka = c->s->keepalive_ms;
        at = EW_MIN(at, c->link.last_recv_ms + ka * 5 / 2);
        at = EW_MIN(at, EW_MAX(c->link.last_sent_ms, c->last_told_ms) + ka);
        at = EW_MIN(at, c->session_until_ms);
        for (const ew__call *call = c->calls; call != NULL; call = call->next) {
            at = EW_MIN(at, call->deadline_ms);
        }
        if (c->link.blocked_since_ms != 0) {
            at = EW_MIN(at, c->link.blocked_since_ms + c->s->lim.slow_peer_ms);
        }
    }
    if (ew_timer_set(&c->s->timers, &c->timer, at) != EW_OK) {
        ew__conn_gone(c, "out of memory");
    }
}

static void send_ping(ew__conn *c, uint64_t now)
{
    ew_msg m = {.type = EW_MSG_PING};
    m.ping.nonce = now;
    m.ping.bytes_consumed = c->link.told = c->link.consumed;
    ew_error ignored;
    (void)!ew__link_send_msg(&c->link, &m, 0, false, &ignored);
    c->last_told_ms = now;
    ew__conn_flush(c);
}

static void active_timer(ew__conn *c, uint64_t now)
{
    uint64_t ka = c->s->keepalive_ms;
    if (now >= c->link.last_recv_ms + ka * 5 / 2) {
        ew__conn_gone(c, "nothing was received for 2.5 keepalives");
        return;
    }
    if (c->link.blocked_since_ms != 0 && now >= c->link.blocked_since_ms + c->s->lim.slow_peer_ms) {
        c->s->n.slow_peers++;
        ew__conn_fail(c, EW_GO_AWAY_OVERLOAD, "the peer does not take what it is sent");
        return;
    }
    if (now >= c->session_until_ms && c->state == EW_SERVER_ACTIVE) {
        bool cert = c->peer.cert_not_after_unix_ms != 0 && ew_wall_ms() >= c->peer.cert_not_after_unix_ms;
        c->session_until_ms = UINT64_MAX;
        ew__conn_drain(c, cert ? EW_GO_AWAY_CERT_EXPIRED : EW_GO_AWAY_REBALANCE, 2000, 0,
                       cert ? "the session's certificate has expired" : "the session is as old as it may be");
        return;
    }
    if (now >= EW_MAX(c->link.last_sent_ms, c->last_told_ms) + ka) {
        send_ping(c, now);
    }
    ew__call_expire(c, now);
}

static void on_timer(ew_timer *t, void *ctx)
{
    (void)t;
    ew__conn *c = ctx;
    uint64_t now = ew_mono_ms();
    if (c->state_until_ms != 0 && now >= c->state_until_ms) {
        char why[64];
        snprintf(why, sizeof(why), "too long in state %s", ew_server_state_name(c->state));
        if (c->why[0] == '\0') {
            ew_str_copy(c->why, sizeof(c->why), why);
        }
        c->state_until_ms = 0;
        if (ew__conn_event(c, EW_EV_TIMEOUT) && c->state != EW_SERVER_CLOSED) {
            ew__conn_flush(c);
        }
    } else if (ew__conn_active(c)) {
        active_timer(c, now);
    }
    if (!c->dead) {
        ew__conn_reschedule(c);
    }
}

/* ---- Hello */

static bool device_epoch(ew__conn *c, const ew_msg *m)
{
    ew__known *k = c->who;
    uint64_t epoch = m->hello.session_epoch;
    if (c->peer.role != EW_ROLE_DEVICE) {
        return true;
    }
    if (epoch == 0 || epoch <= k->epoch) {
        ew__server_audit(c->s, "epoch-refused", c->peer.id, c->peer.addr,
                         "session epoch %llu is not above %llu: two agents use one identity, or an old disk came back",
                         (unsigned long long)epoch, (unsigned long long)k->epoch);
        ew_msg e = {.type = EW_MSG_NONE};
        ew_msg_set_error(&e, EW_ECONFLICT,
                         "another agent with this identity has been here since (session epoch); enrol this one anew");
        ew_error ignored;
        (void)!ew__link_send_msg(&c->link, &e, m->msg_id, true, &ignored);
        ew__conn_fail(c, EW_GO_AWAY_REPLACED, "session epoch %llu is not above %llu", (unsigned long long)epoch,
                      (unsigned long long)k->epoch);
        return false;
    }
    k->epoch = epoch;
    ew__conn *old = k->conn;
    k->conn = NULL;
    if (old != NULL) {
        ew__server_audit(c->s, "replaced", c->peer.id, c->peer.addr, "a newer session of the device");
        ew__conn_fail(old, EW_GO_AWAY_REPLACED, "a newer session of this device");
    }
    return true;
}

static bool versions_fit(const ew_msg *m)
{
    for (uint32_t i = 0; i < m->hello.n_versions; i++) {
        if (m->hello.versions[i].major == 1) {
            return true;
        }
    }
    return false;
}

static void take_limits(ew__conn *c, const ew_wire_limits *l)
{
    if (l->session_window != 0) {
        c->link.window_out = EW_MIN(EW_MAX(l->session_window, 65536u), EW_LIMIT_SESSION_WINDOW_BYTES);
    }
}

static bool on_hello(ew__conn *c, ew_frame *frame)
{
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_error err = EW_ERROR_INIT;
    ew_status st = m != NULL ? ew_wire_unpack(frame->envelope, frame->body, m, &err) : EW_ENOMEM;
    ew_frame_free(&frame);
    if (st != EW_OK || !versions_fit(m)) {
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "Hello: %s", st != EW_OK ? err.msg : "no common version");
        ew_msg_free(&m);
        return false;
    }
    c->who = ew__server_known(c->s, c->peer.role, c->peer.id);
    c->peer.epoch = m->hello.session_epoch;
    if (c->who == NULL || !device_epoch(c, m)) {
        ew_msg_free(&m);
        return false;
    }
    if (c->peer.role == EW_ROLE_DEVICE) {
        c->who->conn = c;
    }
    take_limits(c, &m->hello.limits);
    ew__job_up(c, m);
    return true;
}

void ew__conn_up_result(ew__conn *c, ew_status st, const char *detail, uint64_t hello_id)
{
    ew_server *s = c->s;
    ew_error ignored;
    if (st != EW_OK) {
        ew_msg e = {.type = EW_MSG_NONE};
        ew_msg_set_error(&e, st, detail);
        (void)!ew__link_send_msg(&c->link, &e, hello_id, true, &ignored);
        ew__conn_fail(c, st == EW_EDENIED ? EW_GO_AWAY_REVOKED : EW_GO_AWAY_SHUTDOWN, "%s", detail);
        return;
    }
    c->up_told = true;
    s->n.active++;
    if (c->state != EW_SERVER_OPENING) { /* ended meanwhile: on_down follows with the end */
        if (c->state == EW_SERVER_CLOSED) {
            c->up_told = false;
            s->n.active--;
            ew__job_down(c);
        }
        return;
    }
    (void)ew__conn_event(c, EW_EV_UP_OK);
    if (c->peer.role == EW_ROLE_DEVICE) {
        pthread_mutex_lock(&s->lock);
        (void)!ew_map_add(s->up, c->peer.id, strlen(c->peer.id), (void *)1);
        pthread_mutex_unlock(&s->lock);
    }
    c->link.dec.max_bytes = EW_LIMIT_FRAME_BYTES;
    uint64_t wall = ew_wall_ms();
    uint64_t jitter = ew_rng_below(&s->rng, s->lim.session_max_ms / 5 + 1);
    uint64_t life = s->lim.session_max_ms - s->lim.session_max_ms / 10 + jitter;
    uint64_t left = c->peer.cert_not_after_unix_ms > wall ? c->peer.cert_not_after_unix_ms - wall : 0;
    c->session_until_ms = ew_mono_ms() + EW_MIN(life, left);
    ew_msg m = {.type = EW_MSG_HELLO_ACK};
    m.hello_ack.major = 1;
    m.hello_ack.limits = (ew_wire_limits){EW_LIMIT_FRAME_BYTES, EW_LIMIT_INFLIGHT, EW_LIMIT_SESSION_WINDOW_BYTES,
                                          EW_LIMIT_SESSION_WINDOW_BYTES, EW_LIMIT_STREAMS};
    m.hello_ack.keepalive_ms = s->keepalive_ms;
    m.hello_ack.server_time_unix_ms = wall;
    memcpy(m.hello_ack.session_id, c->peer.session_id, EW_UID_BYTES);
    m.hello_ack.cert_not_after_unix_ms = c->peer.cert_not_after_unix_ms;
    m.hello_ack.alternates = s->alternates;
    (void)!ew__link_send_msg(&c->link, &m, hello_id, true, &ignored);
    ew__conn_reschedule(c); /* the session has an end now */
    ew__conn_flush(c);
}

/* ---- frames */

/* Tokens for frames that cost us work without a stream's or window's limit. */
static bool control_allowed(ew__conn *c, double cost)
{
    uint64_t now = ew_mono_ms();
    double per_s = c->s->lim.control_per_s;
    c->control_tokens = refill(c->control_tokens, per_s, 2 * per_s, now - c->control_ms);
    c->control_ms = now;
    if (c->control_tokens < cost) {
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "more than %.0f control frames a second", per_s);
        return false;
    }
    c->control_tokens -= cost;
    return true;
}

static bool on_ping(ew__conn *c, const ew_msg *m)
{
    uint64_t now = ew_mono_ms();
    c->fast_pings = now - c->ping_from_peer_ms < 1000 ? c->fast_pings + 1 : 0;
    c->ping_from_peer_ms = now;
    if (c->fast_pings > 100) {
        ew__conn_fail(c, EW_GO_AWAY_OVERLOAD, "pings more often than once a second");
        return false;
    }
    ew_msg pong = {.type = EW_MSG_PONG};
    pong.pong.nonce = m->ping.nonce;
    pong.pong.bytes_consumed = c->link.told = c->link.consumed;
    ew_error ignored;
    (void)!ew__link_send_msg(&c->link, &pong, m->msg_id, true, &ignored);
    return ew__link_peer_consumed(&c->link, m->ping.bytes_consumed);
}

static bool on_control(ew__conn *c, ew_frame *frame)
{
    ew_msg m;
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_wire_unpack(frame->envelope, frame->body, &m, &err);
    ew_frame_free(&frame);
    if (st != EW_OK) {
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "control frame: %s", err.msg);
        return false;
    }
    bool ok = true;
    bool allowed = true;
    switch (m.type) {
    case EW_MSG_PING:
        allowed = control_allowed(c, 1);
        ok = !allowed || on_ping(c, &m);
        break;
    case EW_MSG_PONG:
        allowed = control_allowed(c, 1);
        ok = !allowed || ew__link_peer_consumed(&c->link, m.pong.bytes_consumed);
        break;
    case EW_MSG_CREDIT: {
        bool small = m.credit.bytes_consumed < c->link.peer_consumed + 16384;
        allowed = !small || control_allowed(c, 1);
        ok = !allowed || m.credit.bytes_consumed == 0 || ew__link_peer_consumed(&c->link, m.credit.bytes_consumed);
        if (allowed && ok && m.credit.stream_id != 0) {
            ew__stream_credit(c, m.credit.stream_id, m.credit.limit);
        }
        break;
    }
    case EW_MSG_CANCEL:
        allowed = control_allowed(c, 1);
        if (allowed) {
            ew__job_cancel(c, m.cancel_msg_id);
        }
        break;
    default:
        break;
    }
    ew_msg_release(&m);
    if (!ok && !c->dead) {
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "more bytes consumed than were sent");
    }
    return ok && allowed && !c->dead;
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
        return h->reply_to != 0                               ? EW_EV_REPLY
               : h->payload == (uint32_t)EW_MSG_ENROL_REQUEST ? EW_EV_ENROL
                                                              : EW_EV_REQUEST;
    }
}

static bool enrol_allowed(ew__conn *c)
{
    ew__ip *ip = ip_of(c->s, c->peer.addr, true);
    if (ip == NULL || ip->enrol_tokens < 1) {
        ew__conn_fail(c, EW_GO_AWAY_OVERLOAD, "more than %u enrolments a second from one address",
                      c->s->lim.enrol_per_s_ip);
        return false;
    }
    ip->enrol_tokens -= 1;
    return true;
}

static bool on_frame(void *ctx, ew_frame *frame, const ew_wire_header *h)
{
    ew__conn *c = ctx;
    ew_fsm_event e = event_of(h);
    if (c->state == EW_SERVER_CLOSING || c->state == EW_SERVER_CLOSED) {
        ew_frame_free(&frame);
        return false;
    }
    bool enrol_role = c->peer.role == EW_ROLE_ENROL;
    if ((e == EW_EV_ENROL && !enrol_role) || (e == EW_EV_HELLO && enrol_role) || (e == EW_EV_REQUEST && enrol_role)) {
        ew_frame_free(&frame);
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "message %s does not belong to this protocol",
                      ew_msg_type_name((ew_msg_type)h->payload));
        return false;
    }
    if (!ew__conn_event(c, e)) {
        ew_frame_free(&frame);
        return false;
    }
    switch (e) {
    case EW_EV_HELLO:
        return on_hello(c, frame);
    case EW_EV_CONTROL:
        return on_control(c, frame) && !c->dead;
    case EW_EV_REPLY:
        if (!ew__job_reply(c, frame, h) && !control_allowed(c, 1)) {
            return false;
        }
        break;
    case EW_EV_GO_AWAY:
        ew_frame_free(&frame);
        ew_str_copy(c->why, sizeof(c->why), "the peer said goodbye");
        if (c->state == EW_SERVER_DRAINING) {
            set_state_deadline(c, GOODBYE_MS);
        }
        break;
    default:
        if ((h->stream_id == 0 && !enrol_role && !control_allowed(c, 1)) || (enrol_role && !enrol_allowed(c))) {
            ew_frame_free(&frame);
            return false;
        }
        ew__job_request(c, frame, h);
    }
    return !c->dead;
}

/* ---- socket */

static bool tls_came_up(ew__conn *c)
{
    const ew_tls_peer *p = ew_tls_get_peer(c->link.tls);
    c->s->n.tls_up++;
    c->peer.role = strcmp(p->alpn, EW_ALPN_DEVICE) == 0     ? EW_ROLE_DEVICE
                   : strcmp(p->alpn, EW_ALPN_OPERATOR) == 0 ? EW_ROLE_OPERATOR
                                                            : EW_ROLE_ENROL;
    if (c->peer.role != EW_ROLE_ENROL) {
        ew_str_copy(c->peer.id, sizeof(c->peer.id), p->spiffe.id);
        ew_str_copy(c->peer.serial, sizeof(c->peer.serial), p->serial);
        memcpy(c->peer.key_sha256, p->key_sha256, sizeof(c->peer.key_sha256));
        c->peer.cert_not_after_unix_ms = p->not_after_unix_ms;
    }
    memcpy(c->peer.channel_binding, p->channel_binding, sizeof(c->peer.channel_binding));
    return ew__conn_event(c, EW_EV_TLS_UP);
}

static void tls_failed(ew__conn *c, const ew_error *err)
{
    ew_error ignored;
    (void)!ew__link_flush_tls(&c->link, &ignored);
    if (c->state == EW_SERVER_TLS) {
        c->s->n.tls_failed++;
        ew__server_audit(c->s, "tls-refused", "", c->peer.addr, "%s", err->msg);
    }
    if (c->why[0] == '\0') {
        ew_str_copy(c->why, sizeof(c->why), err->msg);
    }
    (void)ew__conn_event(c, EW_EV_CLOSE);
    if (c->state == EW_SERVER_CLOSING) {
        (void)ew__conn_event(c, EW_EV_FLUSHED);
    }
}

static void input_failed(ew__conn *c, const ew_error *err)
{
    bool framing = c->link.tls != NULL && ew_tls_get_state(c->link.tls) == EW_TLS_UP;
    if (framing && c->state != EW_SERVER_CLOSED) {
        c->s->n.protocol_errors++;
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "%s", err->msg);
    } else if (c->state != EW_SERVER_CLOSED) {
        tls_failed(c, err);
    }
}

/* A handshake costs a millisecond: so many a second, the others wait with their first bytes. False: not now. */
static bool may_shake(ew__conn *c, const void *data, size_t size)
{
    ew_server *s = c->s;
    uint64_t now = ew_mono_ms();
    s->handshake_tokens =
        refill(s->handshake_tokens, s->lim.handshakes_per_s, s->lim.handshakes_per_s, now - s->handshake_ms);
    s->handshake_ms = now;
    if (!c->waiting && s->n_waiting == 0 && s->handshake_tokens >= 1) {
        s->handshake_tokens -= 1;
        return true;
    }
    ew_buf_add(&c->early, data, size);
    if (c->early.status != EW_OK || c->early.size > EW_LIMIT_HANDSHAKE_IN_BYTES ||
        (!c->waiting && s->n_waiting >= WAITING_MAX)) {
        ew__conn_gone(c, "no room to wait for a handshake");
        return false;
    }
    if (!c->waiting) {
        c->waiting = true;
        c->next_waiting = NULL;
        *(s->waiting_tail != NULL ? &s->waiting_tail->next_waiting : &s->waiting) = c;
        s->waiting_tail = c;
        s->n_waiting++;
    }
    return false;
}

static void take_data(ew__conn *c, const void *data, size_t size)
{
    ew_error err = EW_ERROR_INIT;
    if (c->link.tls == NULL && ew_tls_new(c->s->tls, &c->link.tls, &err) != EW_OK) {
        ew__conn_gone(c, err.msg);
        return;
    }
    bool shaking = ew_tls_get_state(c->link.tls) == EW_TLS_HANDSHAKE;
    if (shaking && c->link.raw_in + size > EW_LIMIT_HANDSHAKE_IN_BYTES) {
        ew__conn_gone(c, "too many bytes before TLS was up");
        return;
    }
    if (shaking) {
        /* First the handshake alone: what it proves must stand in c->peer before a frame is looked at. */
        c->link.raw_in += size;
        if (ew_tls_input(c->link.tls, data, size, &err) != EW_OK) {
            tls_failed(c, &err);
            return;
        }
        if (ew_tls_get_state(c->link.tls) != EW_TLS_UP) {
            ew__conn_flush(c);
            return;
        }
        if (!tls_came_up(c)) {
            return;
        }
        size = 0;
    }
    if (ew__link_input(&c->link, data, size, on_frame, c, &err) != EW_OK) {
        input_failed(c, &err);
        return;
    }
    if (!c->dead && ew_tls_get_state(c->link.tls) == EW_TLS_CLOSED && c->state != EW_SERVER_CLOSING) {
        ew_str_copy(c->why, sizeof(c->why), c->why[0] != '\0' ? c->why : "the peer closed");
        ew__conn_gone(c, "the peer closed");
        return;
    }
    ew__conn_flush(c);
}

static void on_data(void *ctx, ew_io_peer *peer, void *user, const void *data, size_t size)
{
    (void)ctx, (void)peer;
    ew__conn *c = user;
    /* When it is closing nothing is looked at any more, so nothing may pile up either. */
    if (c->state == EW_SERVER_CLOSED || c->state == EW_SERVER_CLOSING || !ew__conn_event(c, EW_EV_BYTES)) {
        return;
    }
    if (c->link.tls != NULL || may_shake(c, data, size)) {
        take_data(c, data, size);
    }
}

void ew__conn_next_handshakes(ew_server *s)
{
    uint64_t now = ew_mono_ms();
    s->handshake_tokens =
        refill(s->handshake_tokens, s->lim.handshakes_per_s, s->lim.handshakes_per_s, now - s->handshake_ms);
    s->handshake_ms = now;
    while (s->waiting != NULL && s->handshake_tokens >= 1) {
        ew__conn *c = s->waiting;
        not_waiting(c);
        s->handshake_tokens -= 1;
        EW_AUTO_BUF early = c->early;
        c->early = (ew_buf){0};
        take_data(c, early.data, early.size);
    }
}

static bool on_up(void *ctx, ew_io_peer *peer, const char *addr, void **ret_user)
{
    ew_server *s = ctx;
    if (!admit(s, addr)) {
        return false;
    }
    ew__conn *c = ew_calloc(1, sizeof(*c));
    ew__flow *flow = ew__flow_new();
    if (c == NULL || flow == NULL || ew_map_add(s->conns, &s->next_key, sizeof(s->next_key), c) != EW_OK) {
        ew_free(c);
        ew__flow_unref(&flow);
        s->n_half_open--;
        ew__ip *ip = ip_of(s, addr, false);
        if (ip != NULL) {
            ip->half_open--;
        }
        return false;
    }
    c->s = s;
    c->key = s->next_key++;
    c->flow = flow;
    c->half_open = true;
    c->control_tokens = 2.0 * s->lim.control_per_s;
    c->control_ms = ew_mono_ms();
    c->session_until_ms = UINT64_MAX;
    c->timer = (ew_timer){.fn = on_timer, .ctx = c};
    ew__link_init(&c->link, s->io, peer, EW_LIMIT_FRAME_BEFORE_HELLO_BYTES);
    c->link.count_in = &s->n.bytes_in;
    c->link.count_out = &s->n.bytes_out;
    ew_str_copy(c->peer.addr, sizeof(c->peer.addr), addr);
    ew_random_bytes(c->peer.session_id, EW_UID_BYTES);
    s->n_conns++;
    s->n.accepted++;
    c->state = EW_SERVER_TCP_UP;
    c->since_ms = ew_mono_ms();
    set_state_deadline(c, s->lim.tcp_up_ms);
    ew__conn_reschedule(c);
    *ret_user = c;
    return !c->dead;
}

static void on_gone(void *ctx, ew_io_peer *peer, void *user)
{
    (void)ctx, (void)peer;
    ew__conn *c = user;
    c->link.peer = NULL;
    ew__conn_gone(c, "the connection is gone");
}

const ew_io_handlers ew__server_io = {on_up, on_data, on_gone};

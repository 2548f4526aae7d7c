/* The server's life: opening, the shard's loop, the calls of other threads, the end. */
#include "session/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "session/server_int.h"
#include "sys/file.h"
#include "sys/proc.h"
#include "sys/socket.h"

#define PEM_MAX_BYTES (256u * 1024)
#define INBOUND_PER_ROUND 256
#define TICK_MS 1000
#define LAST_BYTES_MS 100

static uint32_t or_default(uint32_t v, uint32_t def)
{
    return v != 0 ? v : def;
}

ew__known *ew__server_known(ew_server *s, ew_role role, const char *id)
{
    char key[80];
    int n = snprintf(key, sizeof(key), "%s:%s", ew_role_name(role), id);
    ew__known *k = ew_map_get(s->known, key, (size_t)n);
    if (k == NULL) {
        k = ew_calloc(1, sizeof(*k));
        if (k == NULL || ew_map_add(s->known, key, (size_t)n, k) != EW_OK) {
            ew_free(k);
            return NULL;
        }
    }
    return k;
}

/* ---- TLS */

static bool denied(void *ctx, const ew_spiffe *who, const char *serial, const uint8_t key_sha256[32])
{
    ew_server *s = ctx;
    char text[128];
    char hex[65];
    snprintf(text, sizeof(text), "%s:%s", ew_spiffe_kind_name(who->kind), who->id);
    bool no = ew_map_get(s->deny, text, strlen(text)) != NULL;
    snprintf(text, sizeof(text), "serial:%s", serial);
    no = no || ew_map_get(s->deny, text, strlen(text)) != NULL;
    ew_hex_encode(key_sha256, 32, hex);
    snprintf(text, sizeof(text), "key:%s", hex);
    return no || ew_map_get(s->deny, text, strlen(text)) != NULL;
}

static ew_status load_tls(ew_server *s, ew_tls_ctx **ret, ew_error *reterr)
{
    EW_AUTO_BUF chain = {0};
    EW_AUTO_BUF key = {0};
    EW_AUTO_BUF roots = {0};
    EW_TRY(ew_file_read(s->cert_path, PEM_MAX_BYTES, &chain, reterr));
    EW_TRY(ew_file_read(s->ca_path, PEM_MAX_BYTES, &roots, reterr));
    ew_status st = ew_file_read(s->key_path, PEM_MAX_BYTES, &key, reterr);
    if (st == EW_OK) {
        ew_tls_server_opt opt = {.chain_pem = {chain.data, chain.size},
                                 .key_pem = {key.data, key.size},
                                 .roots_pem = {roots.data, roots.size},
                                 .trust_domain = s->trust_domain,
                                 .denied = denied,
                                 .denied_ctx = s};
        st = ew_tls_ctx_server(&opt, ret, reterr);
    }
    if (key.data != NULL) {
        ew_wipe(key.data, key.size);
    }
    return st;
}

/* ---- commands of other threads, run by the shard */

typedef struct command {
    ew__item item;
    ew_server *s;
    void (*fn)(ew_server *s, void *arg);
    void *arg;
    bool done; /* under the server's lock */
} command;

static void command_done(ew__item *item, void *owner)
{
    command *c = (command *)item;
    ew_server *s = owner;
    c->fn(s, c->arg);
    pthread_mutex_lock(&s->lock);
    c->done = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Runs fn on the shard and waits for it. */
static ew_status command_run(ew_server *s, void (*fn)(ew_server *s, void *arg), void *arg, ew_error *reterr)
{
    command c = {.item = {.done = command_done}, .s = s, .fn = fn, .arg = arg};
    if (!ew__hub_post(s->hub, &c.item)) {
        return ew_fail(reterr, EW_ECANCELLED, "the server is stopping");
    }
    pthread_mutex_lock(&s->lock);
    while (!c.done) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return EW_OK;
}

/* ---- the shard's loop */

static void reap(ew_server *s)
{
    while (s->dead != NULL) {
        ew__conn *c = s->dead;
        s->dead = c->next_dead;
        ew__conn_destroy(c);
    }
}

typedef struct ip_sweep {
    char addr[1024][64]; /* a second's worth of strangers at the most that one process can shake hands with */
    size_t n;
    uint64_t now;
} ip_sweep;

static void find_idle_ip(const void *key, size_t key_size, void *value, void *ctx)
{
    ip_sweep *w = ctx;
    const ew__ip *ip = value;
    if (ip->half_open == 0 && w->now - ip->at_ms > 60000 && w->n < EW_COUNT(w->addr) && key_size < 64) {
        memcpy(w->addr[w->n], key, key_size);
        w->addr[w->n++][key_size] = '\0';
    }
}

typedef struct weigh {
    size_t total, most;
    ew__conn *largest;
} weigh;

static void weigh_conn(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size;
    weigh *w = ctx;
    ew__conn *c = value;
    size_t bytes = c->link.queued_bytes + ew_frame_decoder_memory(&c->link.dec) + c->early.cap;
    w->total += bytes;
    if (!c->dead && bytes > w->most) {
        w->most = bytes;
        w->largest = c;
    }
}

static void watch_memory(ew_server *s)
{
    weigh w = {0};
    size_t budget = (size_t)s->lim.memory_mib << 20;
    ew_map_each(s->conns, weigh_conn, &w);
    s->short_of_memory = w.total > budget / 100 * 80;
    if (w.total > budget / 100 * 95 && w.largest != NULL) {
        ew__conn_fail(w.largest, EW_GO_AWAY_OVERLOAD, "the coordinator is short of memory");
    }
}

static void tick(ew_server *s, uint64_t now)
{
    s->next_tick_ms = now + TICK_MS;
    ew_io_tick(s->io);
    watch_memory(s);
    ip_sweep w = {.now = now};
    ew_map_each(s->ips, find_idle_ip, &w);
    for (size_t i = 0; i < w.n; i++) {
        ew_free(ew_map_remove(s->ips, w.addr[i], strlen(w.addr[i])));
    }
}

static void publish(ew_server *s, uint64_t now)
{
    pthread_mutex_lock(&s->lock);
    s->published = s->n;
    s->ticked_ms = now;
    pthread_mutex_unlock(&s->lock);
}

typedef struct collect {
    ew__conn **list;
    size_t n, cap;
} collect;

static void collect_conn(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size;
    collect *w = ctx;
    if (w->n < w->cap) {
        w->list[w->n++] = value;
    }
}

/* Calls fn for every connection; fn may end it. */
static void each_conn(ew_server *s, void (*fn)(ew__conn *c, void *arg), void *arg)
{
    collect w = {.cap = ew_map_count(s->conns)};
    w.list = ew_calloc(w.cap + 1, sizeof(ew__conn *));
    if (w.list == NULL) {
        return;
    }
    ew_map_each(s->conns, collect_conn, &w);
    for (size_t i = 0; i < w.n; i++) {
        if (!w.list[i]->dead) {
            fn(w.list[i], arg);
        }
    }
    ew_free(w.list);
}

static void drain_conn(ew__conn *c, void *arg)
{
    ew_server *s = c->s;
    const uint32_t *ms = arg;
    uint32_t spread = EW_MAX(1000u, s->n_conns * 2); /* 500 a second */
    ew__conn_drain(c, EW_GO_AWAY_SHUTDOWN, *ms, (uint32_t)ew_rng_below(&s->rng, spread), "the coordinator stops");
}

static void begin_drain(ew_server *s, void *arg)
{
    uint32_t *ms = arg;
    s->draining = true;
    s->drain_until_ms = ew_mono_ms() + *ms + 1000;
    each_conn(s, drain_conn, ms);
}

static void end_conn(ew__conn *c, void *arg)
{
    (void)arg;
    ew__conn_gone(c, "the server stops");
}

static void *shard_main(void *arg)
{
    ew_server *s = arg;
    for (;;) {
        zmq_pollitem_t items[3];
        size_t n = ew_io_poll_items(s->io, items);
        items[n] = ew__hub_poll_item(s->hub);
        uint64_t now = ew_mono_ms();
        zmq_poll(items, (int)n + 1,
                 (long)ew_timers_wait_ms(&s->timers, now, s->draining || s->waiting != NULL ? 20 : TICK_MS));
        ew_io_run(s->io, INBOUND_PER_ROUND);
        ew__hub_run(s->hub, INBOUND_PER_ROUND);
        now = ew_mono_ms();
        ew_timers_run(&s->timers, now);
        ew__conn_next_handshakes(s);
        reap(s);
        if (now >= s->next_tick_ms) {
            tick(s, now);
        }
        publish(s, now);
        if (s->draining && s->n_conns == 0) { /* the last bytes may still be with libzmq */
            s->drain_until_ms = EW_MIN(s->drain_until_ms, now + (s->n.tls_up > 0 ? LAST_BYTES_MS : 0));
        }
        if (s->draining && now >= s->drain_until_ms) {
            return NULL;
        }
    }
}

/* ---- life */

static void free_value(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size, (void)ctx;
    ew_free(value);
}

static void free_known(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size, (void)ctx;
    ew__known_free(value);
}

static void server_destroy(ew_server *s)
{
    if (s->hub != NULL && s->conns != NULL) {
        each_conn(s, end_conn, NULL);
    }
    ew__hub_free(&s->hub);
    reap(s);
    if (s->known != NULL) {
        ew_map_each(s->known, free_known, NULL);
    }
    if (s->ips != NULL) {
        ew_map_each(s->ips, free_value, NULL);
    }
    ew_map_free(&s->conns);
    ew_map_free(&s->known);
    ew_map_free(&s->ips);
    ew_map_free(&s->deny);
    ew_map_free(&s->up);
    ew_io_free(&s->io);
    ew_timers_release(&s->timers);
    ew_tls_ctx_unref(&s->tls);
    if (s->zmq != NULL) {
        zmq_ctx_term(s->zmq);
    }
    ew_free(s->cert_path);
    ew_free(s->key_path);
    ew_free(s->ca_path);
    ew_free(s->trust_domain);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    ew_free(s);
}

static ew_server_limits limits_of(const ew_server_limits *l)
{
    return (ew_server_limits){
        .max_conns = or_default(l->max_conns, 25000),
        .max_half_open = or_default(l->max_half_open, 2048),
        .max_half_open_ip = or_default(l->max_half_open_ip, 64),
        .max_new_ip_per_s = or_default(l->max_new_ip_per_s, 20),
        .enrol_per_s_ip = or_default(l->enrol_per_s_ip, 10),
        .control_per_s = or_default(l->control_per_s, 200),
        .tcp_up_ms = or_default(l->tcp_up_ms, 5000),
        .tls_ms = or_default(l->tls_ms, 5000),
        .hello_ms = or_default(l->hello_ms, 5000),
        .slow_peer_ms = or_default(l->slow_peer_ms, 30000),
        .max_rt_ms = or_default(l->max_rt_ms, 20000),
        .session_max_ms = or_default(l->session_max_ms, 86400000),
        .handshakes_per_s = or_default(l->handshakes_per_s, 400 * ew_proc_cores()),
        .memory_mib = or_default(l->memory_mib, 256),
    };
}

static ew_status fill(ew_server *s, const ew_server_opt *opt, ew_error *reterr)
{
    s->cert_path = ew_str_dup(opt->cert_path);
    s->key_path = ew_str_dup(opt->key_path);
    s->ca_path = ew_str_dup(opt->ca_path);
    s->trust_domain = ew_str_dup(opt->trust_domain);
    s->lim = limits_of(&opt->limits);
    s->keepalive_ms = or_default(opt->keepalive_ms, 30000);
    s->next_key = 1;
    if (opt->alternates != NULL) {
        s->alternates = *opt->alternates;
    }
    uint64_t seed;
    ew_random_bytes(&seed, sizeof(seed));
    ew_rng_init(&s->rng, seed, 0);
    if (s->cert_path == NULL || s->key_path == NULL || s->ca_path == NULL || s->trust_domain == NULL ||
        ew_map_new(&s->conns) != EW_OK || ew_map_new(&s->known) != EW_OK || ew_map_new(&s->ips) != EW_OK ||
        ew_map_new(&s->deny) != EW_OK || ew_map_new(&s->up) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "server: out of memory");
    }
    return load_tls(s, &s->tls, reterr);
}

static ew_status open_up(ew_server *s, const ew_server_opt *opt, ew_error *reterr)
{
    char host[128];
    uint16_t port = 0;
    const char *listen = opt->listen;
    if (strncmp(listen, "*:", 2) == 0) {
        uint64_t p;
        if (!ew_str_to_u64(listen + 2, UINT16_MAX, &p)) {
            return ew_fail(reterr, EW_EINVAL, "\"%s\" is not an address to listen on, such as 127.0.0.1:7443", listen);
        }
        port = (uint16_t)p;
        ew_str_copy(host, sizeof(host), "*");
    } else {
        const char *colon = strrchr(listen, ':');
        bool any = colon != NULL && strcmp(colon, ":0") == 0; /* 0 is no port for a client, but is here */
        char text[160];
        snprintf(text, sizeof(text), "%.*s%s", (int)(any ? colon - listen : (long)strlen(listen)), listen,
                 any ? ":1" : "");
        EW_TRY(ew_endpoint_parse(text, 7443, host, sizeof(host), &port, reterr));
        port = any ? 0 : port;
    }
    s->zmq = zmq_ctx_new();
    if (s->zmq == NULL || zmq_ctx_set(s->zmq, ZMQ_MAX_SOCKETS, 1024) != 0) {
        return ew_fail(reterr, EW_EIO, "cannot make a messaging context");
    }
    ew_io_opt io = {.max_rt_ms = s->lim.max_rt_ms};
    EW_TRY(ew_io_listen(s->zmq, host, port, &io, &ew__server_io, s, &s->io, reterr));
    unsigned n_workers = or_default(opt->n_workers, 4);
    s->n_half_workers = EW_MAX(1u, n_workers / 2);
    EW_TRY(ew__hub_new(s->zmq, n_workers, 2, s, &s->hub, reterr));
    if (pthread_create(&s->thread, NULL, shard_main, s) != 0) {
        return ew_fail(reterr, EW_EIO, "cannot start the server's thread");
    }
    s->started = true;
    return EW_OK;
}

ew_status ew_server_new(const ew_server_opt *opt, const ew_server_handlers *handlers, void *ctx, ew_server **ret,
                        ew_error *reterr)
{
    EW_ASSERT(handlers->on_request != NULL);
    ew_server *s = ew_calloc(1, sizeof(*s));
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "server: out of memory");
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->h = *handlers;
    s->ctx = ctx;
    ew_status st = fill(s, opt, reterr);
    if (st == EW_OK) {
        st = open_up(s, opt, reterr);
    }
    if (st != EW_OK) {
        server_destroy(s);
        return st;
    }
    *ret = s;
    return EW_OK;
}

uint16_t ew_server_port(const ew_server *s)
{
    return ew_io_port(s->io);
}

void ew_server_stop(ew_server *s, uint32_t drain_ms)
{
    pthread_mutex_lock(&s->lock);
    bool first = !s->stopping;
    s->stopping = true;
    while (!first && !s->stopped) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (!first) {
        return;
    }
    ew_error ignored;
    (void)!command_run(s, begin_drain, &drain_ms, &ignored);
    pthread_join(s->thread, NULL);
    ew__hub_close(s->hub);
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void ew_server_free(ew_server **s)
{
    if (s != NULL && *s != NULL) {
        ew_server_stop(*s, 0);
        server_destroy(*s);
        *s = NULL;
    }
}

/* ---- calls to devices */

/* The frame may be written after its call has expired and is gone. */
typedef struct call_ref {
    ew_server *s;
    uint64_t conn_key, key;
} call_ref;

typedef struct send_cmd {
    ew__item item;
    char id[EW_DEVICE_ID_SIZE];
    ew__out *out;
    ew__call *call; /* NULL = no reply is wanted */
    call_ref *ref;
} send_cmd;

static void call_written(ew__out *out, void *ctx, uint64_t msg_id)
{
    (void)out;
    call_ref *r = ctx;
    /* Dropped: the connection's end finishes the call. */
    ew__conn *c = msg_id != 0 ? ew__conn_by_key(r->s, r->conn_key) : NULL;
    for (ew__call *k = c != NULL ? c->calls : NULL; k != NULL; k = k->next) {
        if (k->key == r->key) {
            k->msg_id = msg_id;
        }
    }
    ew_free(r);
}

static void send_done(ew__item *item, void *owner)
{
    send_cmd *m = (send_cmd *)item;
    ew_server *s = owner;
    ew__known *k = ew__server_known(s, EW_ROLE_DEVICE, m->id);
    ew__conn *c = k != NULL ? k->conn : NULL;
    if (c == NULL || c->state != EW_SERVER_ACTIVE) {
        if (m->call != NULL) {
            ew__call_finish(m->call, EW_EREMOTE, "the session with the device ended", NULL);
        }
        ew__out_free(&m->out);
    } else {
        if (m->call != NULL) {
            *m->ref = (call_ref){s, c->key, s->next_call_key};
            m->call->key = s->next_call_key++;
            m->call->conn_key = c->key;
            m->call->next = c->calls;
            c->calls = m->call;
            m->out->written = call_written;
            m->out->ctx = m->ref;
            m->ref = NULL;
        }
        ew__conn_send(c, &m->out);
        if (!c->dead) {
            ew__conn_reschedule(c);
        }
    }
    ew_free(m->ref);
    ew_free(m);
}

ew_status ew_server_send(ew_server *s, const char *device_id, const ew_msg *msg, ew_span body, uint32_t timeout_ms,
                         ew_server_reply_fn on_reply, void *reply_ctx, ew_error *reterr)
{
    if (!ew_server_is_up(s, device_id)) {
        return ew_fail(reterr, EW_ENOENT, "device %s has no session", device_id);
    }
    timeout_ms = or_default(timeout_ms, 30000);
    send_cmd *m = ew_calloc(1, sizeof(*m));
    ew__call *call = on_reply != NULL ? ew_calloc(1, sizeof(*call)) : NULL;
    call_ref *ref = on_reply != NULL ? ew_calloc(1, sizeof(*ref)) : NULL;
    ew_status st = m == NULL || (on_reply != NULL && (call == NULL || ref == NULL))
                       ? ew_fail(reterr, EW_ENOMEM, "call: out of memory")
                       : EW_OK;
    ew_wire_header h = {.deadline_ms = timeout_ms, .stream_id = msg->stream_id, .has_idem_key = msg->has_idem_key};
    memcpy(h.idem_key, msg->idem_key, sizeof(h.idem_key));
    if (st == EW_OK) {
        st = ew__out_new(msg, &h, body, &m->out, reterr);
    }
    if (st == EW_OK) {
        m->item.done = send_done;
        ew_str_copy(m->id, sizeof(m->id), device_id);
        m->call = call;
        m->ref = ref;
        if (call != NULL) {
            *call = (ew__call){.server = s, .deadline_ms = ew_mono_ms() + timeout_ms, .fn = on_reply, .ctx = reply_ctx};
        }
        if (ew__hub_post(s->hub, &m->item)) {
            return EW_OK;
        }
        st = ew_fail(reterr, EW_ECANCELLED, "the server is stopping");
        ew__out_free(&m->out);
    }
    ew_free(ref);
    ew_free(call);
    ew_free(m);
    return st;
}

bool ew_server_is_up(ew_server *s, const char *device_id)
{
    pthread_mutex_lock(&s->lock);
    bool up = ew_map_get(s->up, device_id, strlen(device_id)) != NULL;
    pthread_mutex_unlock(&s->lock);
    return up;
}

/* ---- audit */

typedef struct audit {
    ew__item item;
    char name[32], peer[EW_DEVICE_ID_SIZE], addr[64], text[256];
} audit;

static void audit_done(ew__item *item, void *owner)
{
    (void)owner;
    ew_free(item);
}

static void audit_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)w;
    audit *e = (audit *)item;
    ew_server *s = owner;
    s->h.on_audit(s->ctx, e->name, e->peer, e->addr, e->text);
}

/* Anybody who can reach the port causes these: they are written at a bounded rate, and what was left out is counted. */
static bool audit_allowed(ew_server *s)
{
    uint64_t now = ew_mono_ms();
    s->audit_tokens = s->audit_ms == 0 ? EW__AUDITS_BURST
                                       : EW_MIN(EW__AUDITS_BURST,
                                                s->audit_tokens + EW__AUDITS_PER_S * (double)(now - s->audit_ms) / 1e3);
    s->audit_ms = now;
    if (s->audit_tokens < 1) {
        s->audits_left_out++;
        return false;
    }
    s->audit_tokens -= 1;
    return true;
}

void ew__server_audit(ew_server *s, const char *name, const char *peer, const char *addr, const char *fmt, ...)
{
    audit *e = s->h.on_audit != NULL && audit_allowed(s) ? ew_calloc(1, sizeof(*e)) : NULL;
    if (e == NULL) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    if (s->audits_left_out > 0 && n >= 0 && (size_t)n < sizeof(e->text)) {
        snprintf(e->text + n, sizeof(e->text) - (size_t)n, " (%llu events before it were left out)",
                 (unsigned long long)s->audits_left_out);
        s->audits_left_out = 0;
    }
    ew_str_copy(e->name, sizeof(e->name), name);
    ew_str_copy(e->peer, sizeof(e->peer), peer);
    ew_str_copy(e->addr, sizeof(e->addr), addr);
    e->item = (ew__item){.work = audit_work, .done = audit_done};
    ew__hub_submit(s->hub, EW__LANE_EVENTS, &e->item);
}

/* ---- revocation and the like */

typedef struct who_cmd {
    char text[160]; /* with prefix */
    ew_status st;
    ew_go_away_reason reason;
    const char *detail;
    uint64_t epoch;
} who_cmd;

static ew_status who_parse(const char *who, who_cmd *w, ew_error *reterr)
{
    static const char *const prefixes[] = {"device:", "operator:", "serial:", "key:"};
    const char *prefix = strchr(who, ':') == NULL ? "device:" : "";
    bool known = prefix[0] != '\0';
    for (size_t i = 0; i < EW_COUNT(prefixes); i++) {
        known = known || ew_str_starts(who, prefixes[i]);
    }
    int n = snprintf(w->text, sizeof(w->text), "%s%s", prefix, who);
    if (!known || n < 0 || (size_t)n >= sizeof(w->text)) {
        return ew_fail(reterr, EW_EINVAL,
                       "\"%.80s\" is not a device, device:<id>, operator:<name>, serial:<hex> or key:<sha256>", who);
    }
    return EW_OK;
}

static void revoke_conn(ew__conn *c, void *arg)
{
    const ew_server *s = arg;
    if (c->peer.role != EW_ROLE_DEVICE && c->peer.role != EW_ROLE_OPERATOR) {
        return;
    }
    ew_spiffe who = {.kind = c->peer.role == EW_ROLE_DEVICE ? EW_SPIFFE_DEVICE : EW_SPIFFE_OPERATOR};
    ew_str_copy(who.id, sizeof(who.id), c->peer.id);
    if (denied(c->s, &who, c->peer.serial, c->peer.key_sha256)) {
        (void)s;
        c->s->n.revoked++;
        ew__conn_fail(c, EW_GO_AWAY_REVOKED, "this identity has been revoked");
    }
}

static void do_revoke(ew_server *s, void *arg)
{
    who_cmd *w = arg;
    ew_status st = ew_map_add(s->deny, w->text, strlen(w->text), (void *)1);
    w->st = st == EW_EEXIST ? EW_OK : st;
    each_conn(s, revoke_conn, s);
}

static void do_allow(ew_server *s, void *arg)
{
    who_cmd *w = arg;
    ew_map_remove(s->deny, w->text, strlen(w->text));
}

ew_status ew_server_revoke(ew_server *s, const char *who, ew_error *reterr)
{
    who_cmd w = {.st = EW_OK};
    EW_TRY(who_parse(who, &w, reterr));
    EW_TRY(command_run(s, do_revoke, &w, reterr));
    return w.st == EW_OK ? EW_OK : ew_fail(reterr, w.st, "denylist: out of memory");
}

ew_status ew_server_allow(ew_server *s, const char *who, ew_error *reterr)
{
    who_cmd w = {.st = EW_OK};
    EW_TRY(who_parse(who, &w, reterr));
    return command_run(s, do_allow, &w, reterr);
}

static void do_close(ew_server *s, void *arg)
{
    who_cmd *w = arg;
    ew__known *k = ew__server_known(s, EW_ROLE_DEVICE, w->text);
    w->st = k == NULL || k->conn == NULL ? EW_ENOENT : EW_OK;
    if (w->st == EW_OK) {
        ew__conn_fail(k->conn, w->reason, "%s", w->detail);
    }
}

ew_status ew_server_close_peer(ew_server *s, const char *device_id, ew_go_away_reason reason, const char *detail,
                               ew_error *reterr)
{
    who_cmd w = {.reason = reason, .detail = detail};
    ew_str_copy(w.text, sizeof(w.text), device_id);
    EW_TRY(command_run(s, do_close, &w, reterr));
    return w.st == EW_OK ? EW_OK : ew_fail(reterr, w.st, "device %s has no session", device_id);
}

static void do_prime(ew_server *s, void *arg)
{
    who_cmd *w = arg;
    ew__known *k = ew__server_known(s, EW_ROLE_DEVICE, w->text);
    w->st = k != NULL ? EW_OK : EW_ENOMEM;
    if (k != NULL) {
        k->epoch = EW_MAX(k->epoch, w->epoch);
    }
}

ew_status ew_server_prime_epoch(ew_server *s, const char *device_id, uint64_t epoch, ew_error *reterr)
{
    who_cmd w = {.epoch = epoch};
    ew_str_copy(w.text, sizeof(w.text), device_id);
    EW_TRY(command_run(s, do_prime, &w, reterr));
    return w.st == EW_OK ? EW_OK : ew_fail(reterr, w.st, "epoch: out of memory");
}

static void do_reload(ew_server *s, void *arg)
{
    ew_tls_ctx **fresh = arg;
    ew_tls_ctx *old = s->tls;
    s->tls = *fresh;
    *fresh = old;
}

ew_status ew_server_reload_tls(ew_server *s, ew_error *reterr)
{
    ew_tls_ctx *fresh = NULL;
    EW_TRY(load_tls(s, &fresh, reterr));
    ew_status st = command_run(s, do_reload, &fresh, reterr);
    ew_tls_ctx_unref(&fresh); /* the old one after a swap */
    return st;
}

void ew_server_get_stats(ew_server *s, ew_server_stats *ret)
{
    pthread_mutex_lock(&s->lock);
    *ret = s->published;
    uint64_t ticked = s->ticked_ms;
    pthread_mutex_unlock(&s->lock);
    uint64_t now = ew_mono_ms();
    ret->last_tick_age_ms = ticked != 0 && now > ticked ? now - ticked : 0;
}

/* A small PKI in a temporary directory, a server whose handlers the tests steer, and clients for it.
 * Included by test programs; everything is static. */
#ifndef EW_TEST_SESSION_FIXTURE_H
#define EW_TEST_SESSION_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef FIXTURE_PLAIN /* outside of cmocka */
#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), fputc(10, stderr), exit(1))
#else
#include <cmocka.h>
#endif

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "crypt/sign.h"
#include "domain/msg.h"
#include "net/x509.h"
#include "session/artifact.h"
#include "session/client.h"
#include "session/enrol.h"
#include "session/server.h"
#include "sys/file.h"
#include "wire/wire.h"

#define DOMAIN "edge.test"
#define NO_BODY                                                                                                        \
    (ew_span)                                                                                                          \
    {                                                                                                                  \
        NULL, 0                                                                                                        \
    }

#define ok(expr)                                                                                                       \
    do {                                                                                                               \
        ew_error ok_err_ = EW_ERROR_INIT;                                                                              \
        (void)ok_err_;                                                                                                 \
        ew_status ok_st_ = (expr);                                                                                     \
        if (ok_st_ != EW_OK) {                                                                                         \
            fail_msg("%s: %s", ew_status_name(ok_st_), err.msg);                                                       \
        }                                                                                                              \
    } while (0)

typedef struct pki {
    char dir[256];
    ew_pkey *ca_key;
    ew_buf ca_der;
    char ca_path[320], server_path[320], device_path[320], operator_path[320];
    uint8_t ca_sha256[32];
} pki;

typedef struct leaf {
    ew_spiffe_kind kind;
    const char *id;
    const char *domain; /* NULL = DOMAIN */
    int64_t valid_s;    /* 0 = a day */
    bool server_auth, client_auth;
    const char *dns;       /* NULL = default for coordinators */
    const ew_pkey *ca_key; /* NULL = the pki's */
    ew_span ca_der;
} leaf;

static EW_UNUSED void path_in(const pki *p, char dst[320], const char *name)
{
    snprintf(dst, 320, "%s/%s", p->dir, name);
}

static EW_UNUSED void issue_der(const pki *p, const leaf *l, ew_span csr, ew_buf *out)
{
    ew_error err = EW_ERROR_INIT;
    ew_spiffe who = {.kind = l->kind};
    ew_str_copy(who.domain, sizeof(who.domain), l->domain != NULL ? l->domain : DOMAIN);
    ew_str_copy(who.id, sizeof(who.id), l->id);
    const char *dns[2] = {l->dns != NULL ? l->dns : EW_DEFAULT_SERVER_NAME, "127.0.0.1"};
    ew_cert_opt opt = {.spiffe = &who,
                       .dns = dns,
                       .n_dns = l->kind == EW_SPIFFE_COORDINATOR ? 2 : 0,
                       .server_auth = l->server_auth,
                       .client_auth = l->client_auth,
                       .valid_s = l->valid_s != 0 ? l->valid_s : 86400};
    ew_span ca = l->ca_key != NULL ? l->ca_der : (ew_span){p->ca_der.data, p->ca_der.size};
    ok(ew_cert_issue(l->ca_key != NULL ? l->ca_key : p->ca_key, ca, csr, &opt, out, &err));
}

/* Key and certificate in one PEM file. */
static EW_UNUSED void make_identity(const pki *p, const leaf *l, const char *path)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    EW_AUTO_BUF pem = {0};
    ok(ew_pkey_new(&key, &err));
    ok(ew_csr_make(key, &csr, &err));
    issue_der(p, l, (ew_span){csr.data, csr.size}, &der);
    ok(ew_pkey_to_pem(key, &pem, &err));
    ok(ew_cert_to_pem((ew_span){der.data, der.size}, &pem, &err));
    ok(ew_file_replace(path, pem.data, pem.size, 0600, &err));
}

static EW_UNUSED void make_root(ew_pkey **key, ew_buf *der)
{
    ew_error err = EW_ERROR_INIT;
    ok(ew_pkey_new(key, &err));
    ew_cert_opt opt = {.common_name = "edge.test root", .ca = true, .valid_s = 10 * 86400};
    ok(ew_cert_self_sign(*key, &opt, der, &err));
}

static EW_UNUSED void pki_init(pki *p)
{
    ew_error err = EW_ERROR_INIT;
    memset(p, 0, sizeof(*p));
    ok(ew_dir_make_temp("/tmp/ew-session-", p->dir, sizeof(p->dir), &err));
    make_root(&p->ca_key, &p->ca_der);
    ew_sha256(p->ca_der.data, p->ca_der.size, p->ca_sha256);
    path_in(p, p->ca_path, "ca.pem");
    path_in(p, p->server_path, "server.pem");
    path_in(p, p->device_path, "device.pem");
    path_in(p, p->operator_path, "operator.pem");
    EW_AUTO_BUF pem = {0};
    ok(ew_cert_to_pem((ew_span){p->ca_der.data, p->ca_der.size}, &pem, &err));
    ok(ew_file_replace(p->ca_path, pem.data, pem.size, 0644, &err));
    make_identity(p, &(leaf){.kind = EW_SPIFFE_COORDINATOR, .id = "c1", .server_auth = true}, p->server_path);
    make_identity(p, &(leaf){.kind = EW_SPIFFE_DEVICE, .id = "dev-1", .client_auth = true}, p->device_path);
    make_identity(p, &(leaf){.kind = EW_SPIFFE_OPERATOR, .id = "alice", .client_auth = true}, p->operator_path);
}

static EW_UNUSED void pki_release(pki *p)
{
    ew_error err = EW_ERROR_INIT;
    ok(ew_dir_remove_tree(p->dir, &err));
    ew_pkey_free(&p->ca_key);
    ew_buf_release(&p->ca_der);
}

/* ---- events: tests wait for them, nothing sleeps */

typedef struct events {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned up, down, audits, requests, renewed, client_up, client_down;
    char last_audit[64], last_detail[256], last_down[256];
    ew_error client_err, first_err;
} events;

static EW_UNUSED void events_init(events *e)
{
    memset(e, 0, sizeof(*e));
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&e->changed, &a);
    pthread_condattr_destroy(&a);
}

static EW_UNUSED void events_release(events *e)
{
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
}

static EW_UNUSED void events_add(events *e, unsigned *counter)
{
    pthread_mutex_lock(&e->lock);
    (*counter)++;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

/* Fails the test when the counter does not reach n within 20 s. */
static EW_UNUSED void events_wait(events *e, const unsigned *counter, unsigned n)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 20;
    int rc = 0;
    pthread_mutex_lock(&e->lock);
    while (rc == 0 && *counter < n) {
        rc = pthread_cond_timedwait(&e->changed, &e->lock, &until);
    }
    unsigned got = *counter;
    pthread_mutex_unlock(&e->lock);
    if (got < n) {
        fail_msg("waited for event %u, saw %u", n, got);
    }
}

/* ---- server */

typedef struct site {
    pki p;
    events ev;
    ew_server *s;
    char artifact_path[320];
    uint8_t artifact_sha256[32];
    ew_sign_key *artifact_key;
    uint8_t artifact_public[32];
    ew_buf manifest;
    int64_t renew_valid_s;
    ew_token token;
    bool token_used;
    ew_status (*extra)(struct site *t, const ew_peer_info *peer, const ew_msg *req, ew_span body, ew_reply *reply,
                       ew_error *reterr);
} site;

static EW_UNUSED ew_status on_up(void *ctx, const ew_peer_info *peer, const ew_msg *hello, ew_error *reterr)
{
    site *t = ctx;
    (void)peer, (void)hello, (void)reterr;
    events_add(&t->ev, &t->ev.up);
    return EW_OK;
}

static EW_UNUSED void on_down(void *ctx, const ew_peer_info *peer, const char *reason)
{
    site *t = ctx;
    (void)peer;
    pthread_mutex_lock(&t->ev.lock);
    ew_str_copy(t->ev.last_down, sizeof(t->ev.last_down), reason);
    pthread_mutex_unlock(&t->ev.lock);
    events_add(&t->ev, &t->ev.down);
}

static EW_UNUSED void on_audit(void *ctx, const char *event, const char *peer_id, const char *addr, const char *detail)
{
    site *t = ctx;
    (void)peer_id, (void)addr;
    pthread_mutex_lock(&t->ev.lock);
    ew_str_copy(t->ev.last_audit, sizeof(t->ev.last_audit), event);
    ew_str_copy(t->ev.last_detail, sizeof(t->ev.last_detail), detail);
    pthread_mutex_unlock(&t->ev.lock);
    events_add(&t->ev, &t->ev.audits);
}

static EW_UNUSED ew_status serve_renew(site *t, const ew_peer_info *peer, ew_span csr, ew_reply *reply,
                                       ew_error *reterr)
{
    EW_AUTO_BUF der = {0};
    issue_der(&t->p,
              &(leaf){.kind = EW_SPIFFE_DEVICE, .id = peer->id, .client_auth = true, .valid_s = t->renew_valid_s}, csr,
              &der);
    ew_msg *m = ew_msg_new(EW_MSG_RENEW_RESPONSE);
    m->renew_response.chain.n = 1;
    m->renew_response.chain.item[0] = (ew_span){der.data, der.size};
    m->renew_response.trust_bundle.n = 1;
    m->renew_response.trust_bundle.item[0] = (ew_span){t->p.ca_der.data, t->p.ca_der.size};
    ew_status st = ew_reply_send(reply, m, NO_BODY, reterr);
    ew_msg_free(&m);
    return st;
}

static EW_UNUSED ew_status serve_enrol(site *t, const ew_peer_info *peer, const ew_msg_enrol_request *q,
                                       ew_reply *reply, ew_error *reterr)
{
    uint8_t proof[32];
    ew_enrol_proof(t->token.secret, peer->channel_binding, q->csr_der, proof);
    if (strcmp(q->token_id, t->token.id) != 0 || !ew_enrol_proof_matches(proof, q->proof)) {
        return ew_fail(reterr, EW_EDENIED, "the token is not valid");
    }
    if (t->token_used) {
        return ew_fail(reterr, EW_EDENIED, "the token was used already");
    }
    EW_TRY(ew_csr_check(q->csr_der, NULL, reterr));
    t->token_used = true;
    EW_AUTO_BUF der = {0};
    issue_der(&t->p, &(leaf){.kind = EW_SPIFFE_DEVICE, .id = "dev-9", .client_auth = true}, q->csr_der, &der);
    ew_msg *m = ew_msg_new(EW_MSG_ENROL_RESPONSE);
    ew_str_copy(m->enrol_response.device_id, sizeof(m->enrol_response.device_id), "dev-9");
    m->enrol_response.chain.n = 1;
    m->enrol_response.chain.item[0] = (ew_span){der.data, der.size};
    m->enrol_response.trust_bundle.n = 1;
    m->enrol_response.trust_bundle.item[0] = (ew_span){t->p.ca_der.data, t->p.ca_der.size};
    memcpy(m->enrol_response.artifact_key, t->artifact_public, 32);
    ew_status st = ew_reply_send(reply, m, NO_BODY, reterr);
    ew_msg_free(&m);
    return st;
}

static EW_UNUSED ew_status on_request(void *ctx, const ew_peer_info *peer, const ew_msg *req, ew_span body,
                                      ew_reply *reply, ew_error *reterr)
{
    site *t = ctx;
    events_add(&t->ev, &t->ev.requests);
    if (t->extra != NULL) {
        ew_status st = t->extra(t, peer, req, body, reply, reterr);
        if (st != EW_EUNSUPPORTED) {
            return st;
        }
    }
    ew_msg *m = ew_msg_new(EW_MSG_OP_RESPONSE);
    ew_status st = EW_OK;
    switch (req->type) {
    case EW_MSG_OP_REQUEST: /* an echo */
        st = ew_reply_send(reply, m, body, reterr);
        break;
    case EW_MSG_OFFLOAD_CLOSE: /* an echo on a stream */
        m->type = EW_MSG_OFFLOAD_CLOSE;
        m->offload_close = req->offload_close;
        st = ew_reply_send(reply, m, body, reterr);
        break;
    case EW_MSG_RENEW_REQUEST:
        st = serve_renew(t, peer, req->renew_request.csr_der, reply, reterr);
        break;
    case EW_MSG_ENROL_REQUEST:
        st = serve_enrol(t, peer, &req->enrol_request, reply, reterr);
        break;
    case EW_MSG_MANIFEST_REQUEST:
        m->type = EW_MSG_MANIFEST;
        memset(&m->manifest, 0, sizeof(m->manifest));
        st = ew_sign(t->artifact_key, t->manifest.data, t->manifest.size, m->manifest.signature, reterr);
        st = st == EW_OK ? ew_reply_send(reply, m, (ew_span){t->manifest.data, t->manifest.size}, reterr) : st;
        break;
    default:
        st = ew_fail(reterr, EW_EUNSUPPORTED, "no handler for %s", ew_msg_type_name(req->type));
    }
    ew_msg_free(&m);
    return st;
}

static EW_UNUSED ew_status on_artifact(void *ctx, const ew_peer_info *peer, const uint8_t sha256[32], char path[4096],
                                       ew_error *reterr)
{
    site *t = ctx;
    (void)peer;
    if (memcmp(sha256, t->artifact_sha256, 32) != 0) {
        return ew_fail(reterr, EW_ENOENT, "no such artifact");
    }
    ew_str_copy(path, 4096, t->artifact_path);
    return EW_OK;
}

static EW_UNUSED const ew_server_handlers site_handlers = {on_up, on_down, on_request, on_artifact, on_audit};

/* Starts the server of a site whose other fields are set; port 0 = any. */
static EW_UNUSED void site_start(site *t, ew_server_opt opt, uint16_t port)
{
    ew_error err = EW_ERROR_INIT;
    char listen[64];
    snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
    opt.listen = listen;
    opt.trust_domain = DOMAIN;
    opt.cert_path = opt.cert_path != NULL ? opt.cert_path : t->p.server_path;
    opt.key_path = opt.key_path != NULL ? opt.key_path : t->p.server_path;
    opt.ca_path = t->p.ca_path;
    opt.limits.max_new_ip_per_s = opt.limits.max_new_ip_per_s != 0 ? opt.limits.max_new_ip_per_s : 10000;
    ok(ew_server_new(&opt, &site_handlers, t, &t->s, &err));
}

static EW_UNUSED void site_init(site *t, ew_server_opt opt)
{
    ew_error err = EW_ERROR_INIT;
    memset(t, 0, sizeof(*t));
    pki_init(&t->p);
    events_init(&t->ev);
    ok(ew_sign_key_new(&t->artifact_key, &err));
    ew_sign_key_public(t->artifact_key, t->artifact_public);
    site_start(t, opt, 0);
}

static EW_UNUSED void site_release(site *t)
{
    ew_server_free(&t->s);
    ew_sign_key_free(&t->artifact_key);
    ew_buf_release(&t->manifest);
    events_release(&t->ev);
    pki_release(&t->p);
}

/* An artifact of size bytes of deterministic noise, with a signed manifest. */
static EW_UNUSED void site_artifact(site *t, size_t size, uint32_t segment_size)
{
    ew_error err = EW_ERROR_INIT;
    path_in(&t->p, t->artifact_path, "artifact.bin");
    char *data = malloc(size + 8);
    uint64_t x = 88172645463325252ull;
    for (size_t i = 0; i < size; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(data + i, &x, 8);
    }
    ok(ew_file_replace(t->artifact_path, data, size, 0644, &err));
    free(data);
    EW_AUTO(ew_manifest) m = NULL;
    ok(ew_manifest_of_file(t->artifact_path, segment_size, NULL, &m, &err));
    ew_str_copy(m->name, sizeof(m->name), "noise");
    memcpy(t->artifact_sha256, m->sha256, 32);
    ew_buf_clear(&t->manifest);
    ok(ew_wire_pack_manifest(m, &t->manifest, &err));
}

/* ---- clients */

static EW_UNUSED void client_state(void *ctx, ew_client_state state, const ew_error *err)
{
    events *e = ctx;
    if (state == EW_CLIENT_ACTIVE) {
        events_add(e, &e->client_up);
    } else if (state == EW_CLIENT_BACKOFF) {
        pthread_mutex_lock(&e->lock);
        if (err != NULL) {
            e->first_err = e->client_down == 0 ? *err : e->first_err;
            e->client_err = *err;
        }
        pthread_mutex_unlock(&e->lock);
        events_add(e, &e->client_down);
    }
}

static EW_UNUSED void client_renewed(void *ctx, uint64_t not_after)
{
    events *e = ctx;
    (void)not_after;
    events_add(e, &e->renewed);
}

static EW_UNUSED ew_endpoint_list endpoint_of(const site *t)
{
    ew_endpoint_list l = {.n = 1};
    snprintf(l.item[0], sizeof(l.item[0]), "127.0.0.1:%u", ew_server_port(t->s));
    return l;
}

/* Quick back-off; opt's other fields may be set. */
static EW_UNUSED ew_client *site_client(site *t, ew_client_opt opt, const ew_client_handlers *handlers)
{
    ew_error err = EW_ERROR_INIT;
    ew_client *c = NULL;
    ew_endpoint_list ep = {.n = 0};
    if (opt.endpoints == NULL) {
        ep = endpoint_of(t);
    }
    ew_client_handlers h = {.on_state = client_state, .on_renewed = client_renewed};
    opt.endpoints = opt.endpoints != NULL ? opt.endpoints : &ep;
    opt.ca_path = opt.ca_path != NULL ? opt.ca_path : t->p.ca_path;
    opt.role = opt.role != EW_ROLE_NONE ? opt.role : EW_ROLE_DEVICE;
    if (opt.identity_path == NULL) {
        opt.identity_path = opt.role == EW_ROLE_DEVICE ? t->p.device_path : t->p.operator_path;
    }
    opt.backoff_base_ms = opt.backoff_base_ms != 0 ? opt.backoff_base_ms : 20;
    opt.backoff_cap_ms = opt.backoff_cap_ms != 0 ? opt.backoff_cap_ms : 100;
    ok(ew_client_new(&opt, handlers != NULL ? handlers : &h, &t->ev, &c, &err));
    return c;
}

#endif

/* The running coordinator: start, handlers, the housekeeping loop, stop. */
#include "coordd/coord.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "crypt/hash.h"
#include "jobs/jobs.h"
#include "sys/file.h"
#include "sys/notify.h"
#include "sys/signal.h"

#define RESTART_GRACE_MS 3000 /* a device that was restarted sends its finished results within this */
#define TICK_MS 1000
#define SOON_MS 30    /* between looks for work after a device came up … */
#define SOON_ROUNDS 5 /* … so many times */

void ew__audit(ew__coord *c, const char *who, const char *event, const char *fmt, ...)
{
    char detail[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    ew_error err = EW_ERROR_INIT;
    if (ew_store_audit(c->store, ew_wall_ms(), who, event, detail, &err) != EW_OK) {
        EW_LOG(EW_LOG_ERROR, "coord", "audit-lost", "who=%s event=%s detail=\"%s\" why=\"%s\"", who, event, detail,
               err.msg);
    }
}

/* ---- handlers (worker threads) */

/* The first peers may be there before ew_server_new has returned. */
static void wait_started(ew__coord *c)
{
    (void)pthread_mutex_lock(&c->start_lock);
    (void)pthread_mutex_unlock(&c->start_lock);
}

static ew_status device_up(ew__coord *c, const ew_peer_info *peer, const ew_msg *hello, ew_error *reterr)
{
    ew_device_row d = {0};
    ew_status st = ew_store_device_get(c->store, peer->id, &d, NULL);
    bool refused = st != EW_OK || d.revoked;
    ew_device_row_release(&d);
    if (refused) {
        ew__audit(c, peer->id, "hello-refused", "%s addr=%s", st != EW_OK ? "not enrolled here" : "revoked",
                  peer->addr);
        return ew_fail(reterr, EW_EDENIED, "device %s is %s", peer->id, st != EW_OK ? "not enrolled here" : "revoked");
    }
    bool new_boot = false;
    uint64_t now = ew_wall_ms();
    EW_TRY(ew_store_device_hello(c->store, peer->id, peer->epoch, &hello->hello, now, &new_boot, reterr));
    if (new_boot) {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, c->store);
        EW_TRY(ew_jobs_shorten(db, EW__QUEUE_TRIAL, peer->id, now + RESTART_GRACE_MS, reterr));
    }
    return EW_OK;
}

static ew_status on_up(void *ctx, const ew_peer_info *peer, const ew_msg *hello, ew_error *reterr)
{
    ew__coord *c = ctx;
    wait_started(c);
    if (peer->role == EW_ROLE_DEVICE) {
        EW_TRY(device_up(c, peer, hello, reterr));
    }
    EW_LOG(EW_LOG_INFO, "coord", "up", "role=%s id=%s addr=%s", ew_role_name(peer->role), peer->id, peer->addr);
    /* Its work is handed out by the main thread: the session is not ACTIVE before this returns. A full pipe wakes as well. */
    ssize_t n = write(c->wake[1], "", 1);
    (void)n;
    return EW_OK;
}

static void on_down(void *ctx, const ew_peer_info *peer, const char *reason)
{
    ew__coord *c = ctx;
    ew_error err = EW_ERROR_INIT;
    EW_LOG(EW_LOG_INFO, "coord", "down", "role=%s id=%s reason=\"%s\"", ew_role_name(peer->role), peer->id, reason);
    if (peer->role == EW_ROLE_DEVICE && ew_store_device_seen(c->store, peer->id, NULL, ew_wall_ms(), &err) != EW_OK) {
        EW_LOG(EW_LOG_WARN, "coord", "seen", "detail=\"%s\"", err.msg);
    }
}

static ew_status send_manifest(ew__request *r, ew_error *reterr)
{
    const ew_msg_manifest_request *q = &r->msg->manifest_request;
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_MANIFEST);
    EW_AUTO_BUF packed = {0};
    ew_signature sig;
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a manifest");
    }
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, r->c->store);
        EW_TRY(ew_registry_manifest(db, q->has_sha256 ? q->sha256 : NULL, q->name, q->version, q->variant, &packed,
                                    &sig, reterr));
    }
    memcpy(m->manifest.signature, sig.bytes, sizeof m->manifest.signature);
    (void)ew_str_copy(m->manifest.key_id, sizeof m->manifest.key_id, sig.key_id);
    return ew_reply_send(r->reply, m, (ew_span){packed.data, packed.size}, reterr);
}

static ew_status offload_open(ew__request *r, ew_error *reterr)
{
    ew_model *model = NULL;
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_OFFLOAD_OPENED);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    EW_TRY(ew__model(r->c, r->msg->offload_open.model_sha256, &model, reterr));
    EW_TRY(ew_offload_open(r->c->offload, r->peer->id, model, &r->msg->offload_open, &m->offload_opened, reterr));
    return ew_reply_send(r->reply, m, (ew_span){0}, reterr);
}

static ew_status offload_forward(ew__request *r, ew_error *reterr)
{
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_OFFLOAD_OUTPUT);
    EW_AUTO_BUF body = {0};
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    EW_TRY(ew_offload_forward(r->c->offload, r->peer->id, &r->msg->offload_forward, r->body, &m->offload_output, &body,
                              reterr));
    m->stream_id = r->msg->stream_id;
    return ew_reply_send(r->reply, m, (ew_span){body.data, body.size}, reterr);
}

static ew_status device_request(ew__request *r, ew_error *reterr)
{
    switch (r->msg->type) {
    case EW_MSG_RENEW_REQUEST:
        return ew__renew(r, reterr);
    case EW_MSG_PLAN_REQUEST:
        return ew__plan(r, reterr);
    case EW_MSG_MANIFEST_REQUEST:
        return send_manifest(r, reterr);
    case EW_MSG_TRIAL_PROGRESS:
        return ew__trial_progress(r, reterr);
    case EW_MSG_TRIAL_RESULT:
        return ew__trial_result(r, reterr);
    case EW_MSG_OFFLOAD_OPEN:
        return offload_open(r, reterr);
    case EW_MSG_OFFLOAD_FORWARD:
        return offload_forward(r, reterr);
    case EW_MSG_OFFLOAD_CLOSE:
        ew_offload_close(r->c->offload, r->peer->id, &r->msg->offload_close);
        return EW_OK;
    default:
        return ew_fail(reterr, EW_EUNSUPPORTED, "a device cannot ask for %s", ew_msg_type_name(r->msg->type));
    }
}

static ew_status on_request(void *ctx, const ew_peer_info *peer, const ew_msg *req, ew_span body, ew_reply *reply,
                            ew_error *reterr)
{
    ew__request r = {.c = ctx, .peer = peer, .msg = req, .body = body, .reply = reply};
    wait_started(r.c);
    switch (peer->role) {
    case EW_ROLE_DEVICE:
        return device_request(&r, reterr);
    case EW_ROLE_OPERATOR:
        if (req->type == EW_MSG_OP_REQUEST) {
            return ew__op(&r, reterr);
        }
        if (req->type == EW_MSG_MANIFEST_REQUEST) {
            return send_manifest(&r, reterr);
        }
        break;
    case EW_ROLE_ENROL:
        if (req->type == EW_MSG_ENROL_REQUEST) {
            return ew__enrol(&r, reterr);
        }
        break;
    default:
        break;
    }
    return ew_fail(reterr, EW_EUNSUPPORTED, "%s cannot ask for %s", ew_role_name(peer->role),
                   ew_msg_type_name(req->type));
}

static ew_status on_artifact(void *ctx, const ew_peer_info *peer, const uint8_t sha256[EW_SHA256_BYTES],
                             char ret_path[4096], ew_error *reterr)
{
    (void)peer; /* models are for every device of the fleet */
    ew__coord *c = ctx;
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, c->store);
    return ew_registry_path(db, c->artifacts, sha256, ret_path, reterr);
}

static void on_audit(void *ctx, const char *event, const char *peer_id, const char *addr, const char *detail)
{
    ew__audit(ctx, peer_id != NULL && peer_id[0] != '\0' ? peer_id : addr, event, "%s addr=%s",
              detail != NULL ? detail : "", addr != NULL ? addr : "");
}

/* ---- start */

static ew_status prime_one(const ew_device_row *d, void *ctx, ew_error *reterr)
{
    ew__coord *c = ctx;
    char who[EW_DEVICE_ID_SIZE + 8];
    if (d->revoked) {
        (void)snprintf(who, sizeof who, "device:%s", d->id);
        return ew_server_revoke(c->server, who, reterr);
    }
    return d->epoch > 0 ? ew_server_prime_epoch(c->server, d->id, d->epoch, reterr) : EW_OK;
}

/* "host:port" that devices are told: what was configured, or the listening address with this machine's name for a wildcard. */
static void set_endpoint(ew__coord *c, uint16_t port)
{
    const char *listen = c->conf->listen;
    char host[EW_ENDPOINT_SIZE - 8];
    const char *colon = strrchr(listen, ':');
    size_t n = colon != NULL ? (size_t)(colon - listen) : strlen(listen);
    if (c->conf->advertise[0] != '\0') {
        if (strrchr(c->conf->advertise, ':') != NULL) {
            (void)ew_str_copy(c->endpoint, sizeof c->endpoint, c->conf->advertise);
        } else {
            (void)snprintf(c->endpoint, sizeof c->endpoint, "%.100s:%u", c->conf->advertise, port);
        }
        return;
    }
    (void)snprintf(host, sizeof host, "%.*s", (int)EW_MIN(n, sizeof host - 1), listen);
    if (strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0) {
        if (gethostname(host, sizeof host - 1) != 0) {
            (void)ew_str_copy(host, sizeof host, "localhost");
        }
        host[sizeof host - 1] = '\0';
    }
    (void)snprintf(c->endpoint, sizeof c->endpoint, "%s:%u", host, port);
}

static ew_status start_server(ew__coord *c, ew_error *reterr)
{
    char cert[EW_PATH_MAX], key[EW_PATH_MAX], ca[EW_PATH_MAX];
    EW_TRY(ew_path_join(cert, sizeof cert, c->conf->dir, "tls/server.crt", reterr));
    EW_TRY(ew_path_join(key, sizeof key, c->conf->dir, "tls/server.key", reterr));
    EW_TRY(ew_path_join(ca, sizeof ca, c->conf->dir, "tls/ca.pem", reterr));
    ew_server_opt opt = {.listen = c->conf->listen,
                         .trust_domain = c->info.domain,
                         .cert_path = cert,
                         .key_path = key,
                         .ca_path = ca,
                         .keepalive_ms = (uint32_t)(c->conf->keepalive_s * 1000),
                         .n_workers = (uint32_t)c->conf->workers,
                         .limits = {.max_conns = (uint32_t)c->conf->max_conns}};
    static const ew_server_handlers handlers = {
        .on_up = on_up, .on_down = on_down, .on_request = on_request, .on_artifact = on_artifact, .on_audit = on_audit};
    (void)pthread_mutex_lock(&c->start_lock);
    ew_status st = ew_server_new(&opt, &handlers, c, &c->server, reterr);
    if (st == EW_OK) {
        set_endpoint(c, ew_server_port(c->server));
        st = ew_store_device_each(c->store, prime_one, c, reterr);
    }
    (void)pthread_mutex_unlock(&c->start_lock);
    return st;
}

static ew_status write_endpoint(ew__coord *c, ew_error *reterr)
{
    char path[EW_PATH_MAX], text[EW_ENDPOINT_SIZE + 2];
    int n = snprintf(text, sizeof text, "%s\n", c->endpoint);
    EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "run", reterr));
    EW_TRY(ew_dir_make(path, 0755, reterr));
    EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "run/endpoint", reterr));
    EW_TRY(ew_file_replace(path, text, (size_t)n, 0644, reterr));
    (void)printf("%s", text);
    (void)fflush(stdout);
    return EW_OK;
}

static ew_status open_state(ew__coord *c, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "coordinator.db", reterr));
    if (!ew_file_exists(path)) {
        return ew_fail(reterr, EW_ENOENT, "%s is not there. HINT: edgewise-coordinator init %s", path, c->conf->dir);
    }
    EW_TRY(ew_store_open(path, c->conf->db_max_bytes, &c->store, reterr));
    EW_TRY(ew_path_join(c->artifacts, sizeof c->artifacts, c->conf->dir, "artifacts", reterr));
    if (c->conf->signer_socket[0] != '\0') {
        EW_TRY(ew_signer_client_new(c->conf->signer_socket, 10000, &c->signer, reterr));
    } else {
        EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "signer/signer.sock", reterr));
        EW_TRY(ew_signer_client_new(path, 10000, &c->signer, reterr));
    }
    EW_TRY(ew_signer_client_info(c->signer, &c->info, reterr));
    uint8_t digest[32];
    ew_sha256(c->info.artifact_key, 32, digest);
    ew_hex_encode(digest, 32, c->key_id);
    ew_sha256(c->info.ca_der.data, c->info.ca_der.size, c->ca_sha256);
    EW_TRY(ew_map_new(&c->models) == EW_OK ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory"));
    return ew_offload_new(&(ew_offload_opt){0}, &c->offload, reterr);
}

static void drop_model(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key;
    (void)key_size;
    (void)ctx;
    ew_model *m = value;
    ew_model_unref(&m);
}

static void close_state(ew__coord *c)
{
    ew_server_free(&c->server);
    for (int i = 0; i < 2; i++) {
        if (c->wake[i] >= 0) {
            (void)close(c->wake[i]);
        }
    }
    ew_offload_free(&c->offload);
    if (c->models != NULL) {
        ew_map_each(c->models, drop_model, NULL);
    }
    ew_map_free(&c->models);
    ew_free(c->evidence);
    ew_signer_client_free(&c->signer);
    ew_signer_info_release(&c->info);
    ew_store_free(&c->store);
    (void)pthread_mutex_destroy(&c->start_lock);
    (void)pthread_mutex_destroy(&c->model_lock);
    (void)pthread_mutex_destroy(&c->evidence_lock);
}

/* ---- the main thread's loop */

static void renew_own_cert(ew__coord *c)
{
    ew_error err = EW_ERROR_INIT;
    if (ew_wall_ms() < c->server_cert_renew_ms) {
        return;
    }
    if (ew__server_cert(c, &err) != EW_OK || ew_server_reload_tls(c->server, &err) != EW_OK) {
        EW_LOG(EW_LOG_ERROR, "coord", "certificate", "detail=\"%s\"", err.msg);
        c->server_cert_renew_ms = ew_wall_ms() + 60000;
        return;
    }
    EW_LOG(EW_LOG_NOTICE, "coord", "certificate", "until=%" PRIu64, c->server_cert_until_ms);
}

static void check_shard(ew__coord *c)
{
    ew_server_stats s;
    ew_server_get_stats(c->server, &s);
    uint64_t now = ew_mono_ms();
    if (s.last_tick_age_ms <= 10000) {
        c->stuck_since_ms = 0;
    } else if (c->stuck_since_ms ==
               0) { /* or all of us stood still (SIGSTOP, a paused machine): it gets its turn first */
        c->stuck_since_ms = now;
    }
    if (c->stuck_since_ms != 0) {
        EW_LOG(EW_LOG_ERROR, "coord", "shard-stuck", "ms=%" PRIu64, s.last_tick_age_ms);
        EW_ASSERT(now - c->stuck_since_ms < 3000); /* a core, and systemd starts us again (WIRE 5.1) */
    } else if (s.last_tick_age_ms > 2000) {
        EW_LOG(EW_LOG_WARN, "coord", "shard-slow", "ms=%" PRIu64, s.last_tick_age_ms);
    }
}

/* Waits for a signal, a device that came up, or the next tick. */
static ew_status wait_tick(ew__coord *c, int *soon, ew_error *reterr)
{
    struct pollfd pfd[2] = {{.fd = ew_signal_fd(), .events = POLLIN}, {.fd = c->wake[0], .events = POLLIN}};
    int n = poll(pfd, 2, *soon > 0 ? SOON_MS : TICK_MS);
    if (n < 0 && errno != EINTR) {
        return ew_fail_errno(reterr, errno, "coordinator: poll");
    }
    *soon -= *soon > 0;
    if (n > 0 && pfd[0].revents != 0) {
        ew_signal_drain();
    }
    if (n > 0 && pfd[1].revents != 0) {
        char drain[64];
        while (read(c->wake[0], drain, sizeof drain) == (ssize_t)sizeof drain) {
        }
        *soon = SOON_ROUNDS;
    }
    return EW_OK;
}

static ew_status loop(ew__coord *c, const char *notify_socket, ew_error *reterr)
{
    int soon = SOON_ROUNDS;
    while (!ew_signal_stop()) {
        EW_TRY(wait_tick(c, &soon, reterr));
        if (ew_signal_reload()) {
            c->server_cert_renew_ms = 0;
        }
        renew_own_cert(c);
        check_shard(c);
        ew_offload_sweep(c->offload);
        ew__assign_all(c);
        ew_error ignored = EW_ERROR_INIT;
        if (ew_notify(notify_socket, "WATCHDOG=1", &ignored) != EW_OK) {
            EW_LOG(EW_LOG_DEBUG, "coord", "notify", "detail=\"%s\"", ignored.msg);
        }
    }
    return EW_OK;
}

static ew_status make_wake(ew__coord *c, ew_error *reterr)
{
    if (pipe(c->wake) != 0) {
        return ew_fail_errno(reterr, errno, "coordinator: pipe");
    }
    for (int i = 0; i < 2; i++) {
        (void)fcntl(c->wake[i], F_SETFL, O_NONBLOCK);
        (void)fcntl(c->wake[i], F_SETFD, FD_CLOEXEC);
    }
    return EW_OK;
}

static ew_status run_inner(ew__coord *c, const char *notify_socket, ew_error *reterr)
{
    ew_error ignored = EW_ERROR_INIT;
    EW_TRY(make_wake(c, reterr));
    EW_TRY(open_state(c, reterr));
    EW_TRY(ew__server_cert(c, reterr));
    EW_TRY(start_server(c, reterr));
    EW_TRY(write_endpoint(c, reterr));
    EW_LOG(EW_LOG_NOTICE, "coord", "ready", "endpoint=%s domain=%s pid=%ld", c->endpoint, c->info.domain,
           (long)getpid());
    if (ew_notify(notify_socket, "READY=1", &ignored) != EW_OK) {
        EW_LOG(EW_LOG_WARN, "coord", "notify", "detail=\"%s\"", ignored.msg);
    }
    ew_status st = loop(c, notify_socket, reterr);
    EW_LOG(EW_LOG_NOTICE, "coord", "stopping", "status=%s", ew_status_name(st));
    if (ew_notify(notify_socket, "STOPPING=1", &ignored) != EW_OK) {
        EW_LOG(EW_LOG_DEBUG, "coord", "notify", "detail=\"%s\"", ignored.msg);
    }
    ew_server_stop(c->server, (uint32_t)(c->conf->drain_s * 1000));
    return st;
}

ew_status ew_coord_run(const ew_coord_conf *conf, const char *notify_socket, ew_error *reterr)
{
    EW_AUTO(ew_dir_lock) lock = NULL;
    EW_TRY(ew_signal_init(reterr));
    if (!ew_dir_exists(conf->dir)) {
        return ew_fail(reterr, EW_ENOENT, "%s is not there. HINT: edgewise-coordinator init %s", conf->dir, conf->dir);
    }
    EW_TRY(ew_dir_lock_take(conf->dir, &lock, reterr));
    ew__coord *c = ew_xcalloc(1, sizeof *c);
    c->conf = conf;
    c->wake[0] = c->wake[1] = -1;
    (void)pthread_mutex_init(&c->start_lock, NULL);
    (void)pthread_mutex_init(&c->model_lock, NULL);
    (void)pthread_mutex_init(&c->evidence_lock, NULL);
    ew_status st = run_inner(c, notify_socket, reterr);
    close_state(c);
    ew_free(c);
    return st;
}

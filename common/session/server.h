/* The coordinator's end of the wire: listens, speaks TLS 1.3 with devices, operators and enrolling agents, and hands their
 * requests to handlers.
 *
 * Threads: one shard thread owns the sockets, the TLS state, timers, credits and queues; it answers Ping itself. n_workers
 * threads run the handlers, which may block. One reader thread reads artifacts from disk.
 * Locking: every function here may be called from any thread, handlers included, except ew_server_stop and ew_server_free
 * (not from a handler). Handlers run concurrently with each other.
 *
 * What the session layer does by itself: certificates, SAN, ALPN, denylist; Hello/HelloAck, epochs, keepalive, windows, rate
 * and in-flight limits, deadlines, Cancel; the reply cache for retries (idem_key, in memory, per peer); ArtifactOpen and all
 * that follows it; GoAway. Everything else comes to on_request. */
#ifndef EW_SESSION_SERVER_H
#define EW_SESSION_SERVER_H

#include "base/base.h"
#include "base/status.h"
#include "domain/msg.h"
#include "session/peer.h"

typedef struct ew_server ew_server;

typedef struct ew_server_limits { /* 0 = the default in brackets */
    uint32_t max_conns;           /* [25000] */
    uint32_t max_half_open;       /* [2048] connections that are not ACTIVE */
    uint32_t max_half_open_ip;    /* [64] of one address */
    uint32_t max_new_ip_per_s;    /* [20, burst 64] new connections of one address */
    uint32_t enrol_per_s_ip;      /* [10] */
    uint32_t control_per_s;       /* [200] control frames of one peer, burst twice that */
    uint32_t tcp_up_ms;           /* [5000] bytes after connect */
    uint32_t tls_ms;              /* [5000] TLS up after connect */
    uint32_t hello_ms;            /* [5000] Hello after TLS */
    uint32_t slow_peer_ms;        /* [30000] a full window for that long ends the session */
    uint32_t max_rt_ms;           /* [20000] TCP: unacknowledged data for that long ends the connection */
    uint32_t session_max_ms;      /* [86400000] +-10 % */
    uint32_t handshakes_per_s; /* [400 for each core, burst as many]; others wait, up to 4096 of them, within tls_ms */
    uint32_t memory_mib; /* [256] queued for and half received from all peers: over 80 % no new streams, over 95 % the
                                     largest peer goes */
} ew_server_limits;

typedef struct ew_server_opt {
    const char *listen;                 /* "127.0.0.1:7443", "[::]:0", "*:7443"; port 0 = any (ew_server_port) */
    const char *trust_domain;           /* of spiffe://<trust domain>/… */
    const char *cert_path;              /* PEM: chain, leaf first; may be the same file as the key */
    const char *key_path;               /* PEM */
    const char *ca_path;                /* PEM: trust roots for devices and operators, one or two */
    uint32_t keepalive_ms;              /* 0 = 30000; 15000..240000 outside of tests */
    uint32_t n_workers;                 /* 0 = 4 */
    const ew_endpoint_list *alternates; /* told in HelloAck; may be NULL */
    ew_server_limits limits;
} ew_server_opt;

/* Any may be NULL except on_request. */
typedef struct ew_server_handlers {
    /* A device or operator said Hello (worker thread). The session becomes ACTIVE when it returns EW_OK; any other status
     * refuses it. hello has the capabilities and the state if the peer sent them. */
    ew_status (*on_up)(void *ctx, const ew_peer_info *peer, const ew_msg *hello, ew_error *reterr);
    /* The session ended (worker thread); exactly once for each on_up that returned EW_OK. */
    void (*on_down)(void *ctx, const ew_peer_info *peer, const char *reason);
    /* A request (worker thread; may block). Answer with ew_reply_send; a status other than EW_OK is sent as an Error, with
     * reterr's message, if nothing final was sent yet. EW_OK without any reply is answered with Ack. TrialProgress and other
     * messages without msg_id semantics come here too and need no reply.
     * Mutating verbs: req->idem_key is the same on every retry of one operation. Store it with the result in one transaction
     * before you reply; the session's own cache of replies does not outlive the process. */
    ew_status (*on_request)(void *ctx, const ew_peer_info *peer, const ew_msg *req, ew_span body, ew_reply *reply,
                            ew_error *reterr);
    /* Where the artifact's bytes are (worker thread). EW_ENOENT, EW_EDENIED. */
    ew_status (*on_artifact)(void *ctx, const ew_peer_info *peer, const uint8_t sha256[EW_SHA256_BYTES],
                             char ret_path[4096], ew_error *reterr);
    /* Something that an audit log wants: "tls-refused", "denied", "replaced", "epoch-refused", "protocol", … */
    void (*on_audit)(void *ctx, const char *event, const char *peer_id, const char *addr, const char *detail);
} ew_server_handlers;

/* Listens and starts the threads. handlers is copied, ctx must outlive the server. */
ew_status ew_server_new(const ew_server_opt *opt, const ew_server_handlers *handlers, void *ctx, ew_server **ret,
                        ew_error *reterr) EW_MUST_CHECK;
/* The port that it listens on. */
uint16_t ew_server_port(const ew_server *s);
/* Graceful: listens no more, GoAway(SHUTDOWN, drain_ms) to all, waits for requests in flight (at most drain_ms), closes.
 * Blocks; idempotent. retry_after is spread over the fleet. */
void ew_server_stop(ew_server *s, uint32_t drain_ms);
/* Stops (without drain) if need be and frees. */
void ew_server_free(ew_server **s);

/* A request to a connected device, or a notification (on_reply NULL: no reply is wanted). msg and body are copied.
 * on_reply runs once, in a worker thread: with the reply, or with a status other than EW_OK and reply NULL (EW_ETIMEOUT,
 * EW_EREMOTE: the session ended). EW_ENOENT at once: no active session of that device. timeout_ms 0 = 30 s. */
typedef void (*ew_server_reply_fn)(void *ctx, ew_status st, const ew_msg *reply, ew_span body, const ew_error *err);
ew_status ew_server_send(ew_server *s, const char *device_id, const ew_msg *msg, ew_span body, uint32_t timeout_ms,
                         ew_server_reply_fn on_reply, void *reply_ctx, ew_error *reterr) EW_MUST_CHECK;
bool ew_server_is_up(ew_server *s, const char *device_id);

/* Puts "device:<id>", "operator:<name>", "serial:<hex>" or "key:<sha256 hex>" (a name without prefix is a device) on the
 * denylist: sessions end with GoAway(REVOKED) at once and new handshakes are refused. Also called for every entry of the stored
 * list before the fleet connects. Allowed again with ew_server_allow. */
ew_status ew_server_revoke(ew_server *s, const char *who, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_server_allow(ew_server *s, const char *who, ew_error *reterr) EW_MUST_CHECK;
/* Ends the session of a device, with that reason. */
ew_status ew_server_close_peer(ew_server *s, const char *device_id, ew_go_away_reason reason, const char *detail,
                               ew_error *reterr) EW_MUST_CHECK;
/* Tells the last session epoch that the store knows for a device: an equal or lower one is refused. */
ew_status ew_server_prime_epoch(ew_server *s, const char *device_id, uint64_t epoch, ew_error *reterr) EW_MUST_CHECK;

/* Reads certificate, key and trust roots again; running sessions keep theirs. On failure nothing changes. */
ew_status ew_server_reload_tls(ew_server *s, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_server_stats {
    uint64_t accepted, refused_cap, tls_failed, tls_up, active, closed, protocol_errors, slow_peers, revoked;
    uint64_t bytes_in, bytes_out; /* of frames, inside TLS */
    uint64_t requests, replayed;  /* answered from the cache of replies */
    uint64_t last_tick_age_ms; /* since the shard's loop last ran: over 2000 = report, over 10000 = abort and restart */
} ew_server_stats;
void ew_server_get_stats(ew_server *s, ew_server_stats *ret);

#endif

/* The agent's and the operator's end of the wire: keeps one session with a coordinator alive and makes calls over it.
 *
 * Threads: one I/O thread owns the socket, TLS and timers; one worker thread runs on_request. Calls block their caller.
 * Locking: every function may be called from any thread, callbacks included, except ew_client_stop and ew_client_free.
 * A call made from on_request or on_state must not wait for another request of the same server (one worker). */
#ifndef EW_SESSION_CLIENT_H
#define EW_SESSION_CLIENT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/progress.h"
#include "base/status.h"
#include "domain/msg.h"
#include "session/peer.h"

typedef struct ew_client ew_client;

/* Certificates always carry this DNS name besides those of the host: it is what agents ask for when the endpoint is a
 * numeric address. */
#define EW_DEFAULT_SERVER_NAME "edgewise-coordinator"

typedef struct ew_client_opt {
    ew_role role;                      /* EW_ROLE_DEVICE or EW_ROLE_OPERATOR */
    const ew_endpoint_list *endpoints; /* "host:port", "[v6]:port"; tried in turn */
    const char *identity_path; /* PEM: private key and chain, leaf first; mode 0600; a renewal replaces it atomically */
    const char *ca_path;       /* PEM: trust roots; a renewal replaces it when the bundle changed */
    const char *server_name; /* DNS name expected in the certificate; NULL = the endpoint's host, or the default name */
    const char *trust_domain; /* NULL = that of the own certificate */
    const char *epoch_path; /* file with the session counter (devices; +1 and fsync before each connect); NULL: clock */
    const char *software;   /* "agent 0.1.0" */
    const ew_device_caps *caps; /* may be NULL; copied */
    uint32_t connect_ms;        /* 0 = 10000 for each of connect, TLS, HelloAck */
    uint32_t backoff_base_ms;   /* 0 = 1000 */
    uint32_t backoff_cap_ms;    /* 0 = 300000 */
    uint32_t first_wait_ms;     /* first connect waits rand(0..this); 0 = at once */
    uint32_t keepalive_ms;      /* 0 = what the server says */
    bool no_reconnect;          /* a command-line tool: the first failure is final */
    bool renew;                 /* renew the certificate at 50 % +-10 % of its life */
    /* Every frame of every session, decrypted, is appended to this file (made with mode 0600); NULL = no capture. Each is a line
     * "== out|in <bytes of envelope> + <bytes of body>, <time>", then those bytes and a line feed. A capture that cannot be written ends the
     * session: what it holds is complete. */
    const char *capture_path;
} ew_client_opt;

typedef enum ew_client_state {
    EW_CLIENT_IDLE,
    EW_CLIENT_RESOLVING,
    EW_CLIENT_CONNECTING,
    EW_CLIENT_TLS,
    EW_CLIENT_HELLO_SENT,
    EW_CLIENT_ACTIVE,
    EW_CLIENT_DRAINING,
    EW_CLIENT_BACKOFF,
    EW_CLIENT_STOPPED
} ew_client_state;
const char *ew_client_state_name(ew_client_state s);

/* All may be NULL. */
typedef struct ew_client_handlers {
    /* I/O thread: do not block. err tells why the session ended or could not be made, NULL otherwise; also called with
     * EW_CLIENT_BACKOFF for each failed attempt. */
    void (*on_state)(void *ctx, ew_client_state state, const ew_error *err);
    /* A request or notification of the coordinator (worker thread; may block). As in session/server.h. */
    ew_status (*on_request)(void *ctx, const ew_msg *req, ew_span body, ew_reply *reply, ew_error *reterr);
    /* What the device is right now, for Hello (I/O thread: must be quick). */
    void (*get_state)(void *ctx, ew_device_state *ret);
    /* A renewed certificate was stored (worker thread); it is used from the next connect on. */
    void (*on_renewed)(void *ctx, uint64_t not_after_unix_ms);
    /* The coordinator's clock at HelloAck (I/O thread). */
    void (*on_time)(void *ctx, uint64_t server_unix_ms);
} ew_client_handlers;

/* Starts connecting. opt's strings are copied. */
ew_status ew_client_new(const ew_client_opt *opt, const ew_client_handlers *handlers, void *ctx, ew_client **ret,
                        ew_error *reterr) EW_MUST_CHECK;
/* Says goodbye, ends the threads; calls in progress return EW_ECANCELLED. Idempotent. */
void ew_client_stop(ew_client *c);
void ew_client_free(ew_client **c);

ew_client_state ew_client_get_state(ew_client *c);
/* Waits until the session is ACTIVE. EW_ETIMEOUT, or with no_reconnect the error that ended the attempt. */
ew_status ew_client_wait_up(ew_client *c, uint32_t timeout_ms, ew_error *reterr) EW_MUST_CHECK;
/* Drops the connection and makes a new one at once (after an address or certificate change). */
void ew_client_reconnect(ew_client *c);

/* One request and its final reply. Waits for a session if there is none; retries after a lost connection and after retryable
 * errors with the same idem_key, at most 5 attempts, within timeout_ms (0 = 30 s).
 * msg->idem_key is used when has_idem_key, else one is made. *ret_msg (may be NULL) is freed with ew_msg_free; ret_body (may
 * be NULL) is replaced. An Error reply is returned as its status with its detail as message. */
ew_status ew_client_call(ew_client *c, const ew_msg *msg, ew_span body, uint32_t timeout_ms, ew_msg **ret_msg,
                         ew_buf *ret_body, ew_error *reterr) EW_MUST_CHECK;
/* As ew_client_call, with every reply, the final one included, given to on_part in this thread. on_part returning false
 * cancels (EW_ECANCELLED). No retry once a part has arrived. timeout_ms is for each reply. */
typedef bool (*ew_client_part_fn)(void *ctx, const ew_msg *reply, ew_span body);
ew_status ew_client_call_parts(ew_client *c, const ew_msg *msg, ew_span body, uint32_t timeout_ms,
                               ew_client_part_fn on_part, void *part_ctx, ew_error *reterr) EW_MUST_CHECK;
/* A message without reply (progress); lost if there is no session: EW_EREMOTE. */
ew_status ew_client_notify(ew_client *c, const ew_msg *msg, ew_span body, ew_error *reterr) EW_MUST_CHECK;
/* A stream id of our own parity for a run of messages that shall not count as control frames (offload). */
uint32_t ew_client_stream_new(ew_client *c);

/* ---- artifacts */

typedef struct ew_fetch_opt {
    const uint8_t *sha256; /* 32 bytes; NULL: by name, version, variant */
    const char *name, *version, *variant;
    const uint8_t *artifact_key; /* 32 bytes: Ed25519 public key that manifests must be signed with */
    const char *dest_path;       /* renamed to it when everything matches; dest_path.part beside it until then */
    ew_progress progress;        /* unit "B"; returning false stops (EW_ECANCELLED), a later fetch goes on from there */
    uint32_t stall_ms;           /* 0 = 60000: no byte for that long = abandon and resume */
    uint32_t timeout_ms;         /* 0 = none; whole download */
} ew_fetch_opt;

/* Downloads an artifact: the manifest's signature is verified over its very bytes before they are parsed; segments of 4 MiB are
 * verified and fsynced as they come; resumes from the last verified segment of a .part file; survives lost sessions; a wrong
 * segment is fetched once more, then EW_ECORRUPT. EW_ENOSPC leaves the .part file. Blocks. *ret_manifest (may be NULL) is
 * freed with ew_manifest_free. */
ew_status ew_client_fetch(ew_client *c, const ew_fetch_opt *opt, ew_manifest **ret_manifest,
                          ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_client_stats {
    uint64_t bytes_in, bytes_out; /* of frames, inside TLS, since new */
    uint64_t connects, calls, retries;
} ew_client_stats;
void ew_client_get_stats(ew_client *c, ew_client_stats *ret);

#endif

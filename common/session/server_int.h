/* Inside the server: what its three files share. Everything is touched by the shard thread only, except where it says so. */
#ifndef EW_SESSION_SERVER_INT_H
#define EW_SESSION_SERVER_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/rng.h"
#include "net/timer.h"
#include "session/fsm.h"
#include "session/hub.h"
#include "session/link.h"
#include "session/server.h"

#define EW__LANE_EVENTS 1 /* on_up, on_down, on_audit: in order */
#define EW__LANE_READER 2 /* artifact bytes from disk */
#define EW__CHUNK_BYTES (256u * 1024)
#define EW__IDEM_PER_PEER 1024
#define EW__IDEM_REPLY_BYTES (64u * 1024)
#define EW__IDEM_TOTAL_BYTES (1024u * 1024) /* of replies kept for one peer */
#define EW__IDEM_MS (24ull * 3600 * 1000)
#define EW__REPLY_QUEUE_BYTES (1024u * 1024)     /* waiting for a peer: its next request starts when there are less */
#define EW__WAITING_MAX_BYTES (4u * 1024 * 1024) /* a peer that asks on and takes nothing is cut */
#define EW__AUDITS_PER_S 20.0                    /* of refused peers, which cost us a write to the disk each */
#define EW__AUDITS_BURST 200.0

typedef struct ew__conn ew__conn;
typedef struct ew__known ew__known;

/* Shared by a connection and the workers that answer on it. Any thread, under its lock. */
typedef struct ew__flow {
    atomic_uint refs;
    pthread_mutex_t lock;
    pthread_cond_t room;
    size_t queued_bytes;
    bool dead;
} ew__flow;
ew__flow *ew__flow_new(void);
ew__flow *ew__flow_ref(ew__flow *f);
void ew__flow_unref(ew__flow **f);
void ew__flow_add(ew__flow *f, size_t bytes, bool wait); /* waits for room when asked to */
void ew__flow_sub(ew__flow *f, size_t bytes);
void ew__flow_kill(ew__flow *f);

/* One request in work. Shared by the connection and the job. */
typedef struct ew__ticket {
    atomic_uint refs;
    atomic_bool cancelled;
    uint64_t deadline_ms; /* 0 = none */
} ew__ticket;
void ew__ticket_unref(ew__ticket **t);

/* The cache of replies: by idem_key within a peer. */
typedef struct ew__waiter {
    uint64_t conn_key, msg_id;
} ew__waiter;
typedef struct ew__idem {
    uint8_t key[EW_IDEM_BYTES];
    struct ew__idem *next; /* older to newer */
    uint64_t at_ms;
    ew__out *reply; /* NULL while in work */
    ew__waiter waiters[4];
    unsigned n_waiters;
} ew__idem;

/* A peer that was seen, connected or not. */
struct ew__known {
    uint64_t epoch;
    ew__conn *conn; /* the session in OPENING, ACTIVE or DRAINING, or NULL */
    ew_map *idem;   /* key -> ew__idem, made when needed */
    ew__idem *oldest, *newest;
    size_t n_idem, idem_bytes;
};

typedef struct ew__ip {
    uint32_t half_open;
    double new_tokens, enrol_tokens;
    uint64_t at_ms;
} ew__ip;

/* An artifact being sent. */
typedef struct ew__stream {
    uint32_t id; /* 0 = free */
    uint64_t request_id;
    int fd;
    uint64_t first, offset, end; /* in the file: first byte, next to read, end */
    uint64_t credit;             /* body bytes allowed since first */
    unsigned reading, queued;    /* chunks with the reader, and in the link's queue */
    bool failed;
    uint8_t sha256[32];
} ew__stream;

/* A request of ours to the peer. */
typedef struct ew__call {
    struct ew__call *next;
    struct ew_server *server;
    uint64_t key;              /* never used twice; a frame that waits may outlive its call */
    uint64_t conn_key, msg_id; /* msg_id 0 = not written yet */
    uint64_t deadline_ms;
    ew_server_reply_fn fn;
    void *ctx;
} ew__call;

struct ew__conn {
    struct ew_server *s;
    uint64_t key;
    ew__link link;
    ew_server_state state;
    ew_peer_info peer;
    ew__known *who;
    ew__flow *flow;
    ew_timer timer;
    uint64_t state_until_ms;
    uint64_t session_until_ms;
    uint64_t last_told_ms; /* Ping: when the last one was sent */
    uint64_t ping_from_peer_ms;
    unsigned fast_pings;
    uint64_t since_ms;
    bool half_open;   /* counted as such */
    bool up_told;     /* on_up returned EW_OK */
    bool closing_tls; /* goodbye is queued */
    bool dead;        /* waits for the end of the loop's round */
    ew_buf early;     /* first bytes, while the handshake waits for its turn */
    ew__conn *next_waiting;
    bool waiting;
    struct {
        uint64_t msg_id; /* 0 = free */
        uint32_t stream_id;
        bool running;
        ew__ticket *ticket;
    } inflight[EW_LIMIT_INFLIGHT];
    unsigned n_inflight, n_running;
    ew__stream streams[EW_LIMIT_STREAMS];
    uint32_t last_stream_id;
    ew__call *calls;
    double control_tokens;
    uint64_t control_ms;
    uint64_t bad_ms[3]; /* when the last malformed messages came */
    unsigned denied;
    char why[160]; /* reason for on_down */
    ew__conn *next_dead;
};

struct ew_server {
    void *zmq;
    ew_io *io;
    ew__hub *hub;
    ew_timers timers;
    pthread_t thread;
    bool started;
    ew_tls_ctx *tls;
    char *cert_path, *key_path, *ca_path, *trust_domain;
    ew_endpoint_list alternates;
    ew_server_limits lim;
    unsigned n_half_workers; /* how many one peer may keep busy */
    uint32_t keepalive_ms;
    ew_server_handlers h;
    void *ctx;
    ew_map *conns; /* key -> ew__conn */
    ew_map *known; /* "d:id" -> ew__known */
    ew_map *ips;   /* address -> ew__ip */
    ew_map *deny;  /* "device:id" … -> (void *)1 */
    uint64_t next_key, next_call_key;
    uint32_t n_conns, n_half_open;
    ew_rng rng;
    ew__conn *dead;
    ew__conn *waiting, *waiting_tail; /* for a handshake */
    unsigned n_waiting;
    double handshake_tokens;
    uint64_t handshake_ms;
    bool short_of_memory; /* over 80 % */
    ew_server_stats n;    /* shard's */
    uint64_t next_tick_ms;
    bool draining, ending;
    uint64_t drain_until_ms;
    double audit_tokens;
    uint64_t audit_ms, audits_left_out;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    ew_map *up; /* device id -> (void *)1 while ACTIVE */
    ew_server_stats published;
    uint64_t ticked_ms;
    bool stopping, stopped;
};

/* conn */
extern const ew_io_handlers ew__server_io;
bool ew__conn_event(ew__conn *c, ew_fsm_event e); /* false: not allowed in this state (the connection is then ending) */
void ew__conn_fail(ew__conn *c, ew_go_away_reason reason, const char *fmt, ...) EW_PRINTF(3, 4);
void ew__conn_drain(ew__conn *c, ew_go_away_reason reason, uint32_t drain_ms, uint32_t retry_ms, const char *detail);
void ew__conn_send(ew__conn *c, ew__out **out);
void ew__conn_flush(ew__conn *c);
void ew__conn_up_result(ew__conn *c, ew_status st, const char *detail, uint64_t hello_id);
void ew__conn_gone(ew__conn *c, const char *why);
bool ew__conn_active(const ew__conn *c);
void ew__conn_reschedule(ew__conn *c);
void ew__conn_destroy(ew__conn *c);
void ew__conn_next_handshakes(ew_server *s); /* as many as may start now */
ew__conn *ew__conn_by_key(ew_server *s, uint64_t key);
void ew__server_audit(ew_server *s, const char *event, const char *peer, const char *addr, const char *fmt, ...)
    EW_PRINTF(5, 6);
ew__known *ew__server_known(ew_server *s, ew_role role, const char *id);

/* jobs */
void ew__job_request(ew__conn *c, ew_frame *frame, const ew_wire_header *h); /* takes frame */
void ew__job_up(ew__conn *c, ew_msg *hello);                                 /* takes hello */
void ew__job_down(ew__conn *c);
bool ew__job_reply(ew__conn *c, ew_frame *frame, const ew_wire_header *h); /* takes frame; false: nobody waits */
void ew__job_cancel(ew__conn *c, uint64_t msg_id);
void ew__job_conn_closed(ew__conn *c); /* tickets, calls, streams */
void ew__call_expire(ew__conn *c, uint64_t now);
void ew__stream_credit(ew__conn *c, uint32_t stream_id, uint64_t limit);
void ew__call_finish(ew__call *call, ew_status st, const char *detail, ew_frame *frame); /* takes both */
void ew__known_free(ew__known *k);

#endif

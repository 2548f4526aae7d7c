/* Inside the client: what its files share. The I/O thread owns all of it, except where it says so. */
#ifndef EW_SESSION_CLIENT_INT_H
#define EW_SESSION_CLIENT_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "base/rng.h"
#include "net/timer.h"
#include "session/client.h"
#include "session/fsm.h"
#include "session/hub.h"
#include "session/link.h"
#include "sys/socket.h"

#define EW__CLIENT_LANE_RESOLVE 1
#define EW__CLIENT_LANE_RENEW 2

/* A request of ours. Shared by the I/O thread and the caller, under lock. */
typedef struct ew__request {
    ew__item item; /* posting it submits it */
    ew_client *c;
    atomic_uint refs;
    struct ew__request *next; /* I/O thread: list of those waiting for a session or a reply */
    ew__out *out;             /* until sent */
    uint64_t msg_id;          /* 0 = not written */
    uint64_t deadline_ms;
    uint32_t stream_id;
    uint32_t timeout_ms;
    uint64_t gen; /* ew_client.connects when it was sent: consumption counts within one connection */
    bool parts;   /* the caller takes every reply and tells what it has consumed */
    bool listed;
    bool cancelled; /* I/O thread: the caller gave up */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct ew__reply_frame *replies, *replies_tail;
    bool over; /* nothing more comes; st says how it went */
    bool lost; /* it was sent and the session ended: may be retried */
    ew_error err;
} ew__request;

typedef struct ew__reply_frame {
    struct ew__reply_frame *next;
    ew_frame *frame;
    bool last;
} ew__reply_frame;

struct ew_client {
    void *zmq;
    ew_io *io; /* of the current attempt */
    ew__hub *hub;
    ew_timers timers;
    pthread_t thread;
    bool started;
    /* options */
    ew_role role;
    ew_endpoint_list endpoints;
    char *identity_path, *ca_path, *server_name, *trust_domain, *epoch_path, *software, *capture_path;
    int capture_fd; /* -1 = no capture */
    ew_device_caps *caps;
    uint32_t connect_ms, backoff_base_ms, backoff_cap_ms, first_wait_ms, keepalive_opt_ms;
    bool no_reconnect, renew;
    ew_client_handlers h;
    void *ctx;
    /* session */
    ew_client_state state;
    ew__link link;
    bool link_up; /* link is initialised */
    bool ended;   /* the attempt is over: io is freed at the end of the round */
    ew_timer timer;
    uint64_t state_until_ms;
    uint64_t active_since_ms;
    uint32_t keepalive_ms;
    unsigned failures; /* in a row */
    unsigned i_endpoint, i_addr;
    ew_addr_list addrs;
    char host[256];
    uint16_t port;
    uint8_t boot_id[16];
    uint32_t go_away_retry_ms;
    bool go_away;
    uint64_t last_ping_ms;
    double control_tokens; /* what the server lets us send */
    uint64_t control_ms;
    ew__request *requests, *requests_tail;
    unsigned n_sent; /* requests with a msg_id and no final reply */
    uint64_t renew_at_wall_ms;
    uint64_t renewed_wall_ms; /* the last renewal of this process, 0 = none yet */
    bool renewing;
    bool new_identity; /* renewed: used at the next connect */
    ew_timer renew_timer;
    ew_rng rng;
    uint64_t bytes_in, bytes_out, connects;
    atomic_uint next_stream;
    /* of other threads, under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ew_client_state seen_state;
    ew_error last_err;
    bool final; /* no_reconnect: last_err is the end of it */
    bool stopping, stopped;
    ew_client_stats stats;
    double retry_tokens;
};

/* client.c */
void ew__client_flush(ew_client *c);
/* client_call.c: I/O thread */
void ew__client_send_waiting(ew_client *c);
void ew__client_on_reply(ew_client *c, ew_frame *frame, const ew_wire_header *h); /* takes frame */
void ew__client_lost(ew_client *c);
void ew__client_fail_all(ew_client *c, ew_status st, const char *why);
uint64_t ew__client_expire(ew_client *c, uint64_t now); /* the next deadline */
void ew__client_on_request(ew_client *c, ew_frame *frame, const ew_wire_header *h);

/* Calls as the fetch needs them: any thread. */
ew_status ew__client_open(ew_client *c, const ew_msg *msg, ew_span body, uint32_t attempt, uint32_t timeout_ms,
                          bool parts, ew__request **ret, ew_error *reterr);
/* The next reply within wait_ms. EW_ETIMEOUT; otherwise the end of the request. */
ew_status ew__client_next(ew__request *r, uint32_t wait_ms, ew_frame **ret, bool *ret_last, ew_error *reterr);
/* bytes of frames are finished with; limit is the stream's new credit (0 = none). */
void ew__client_consumed(ew__request *r, size_t bytes, uint64_t limit);
void ew__client_close(ew__request **r); /* cancels if not over */

/* client_renew.c */
void ew__client_renew_plan(ew_client *c);
/* The leaf certificate of an identity file. */
ew_status ew__identity_leaf(const char *path, ew_cert_info *ret, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__identity_write(const char *identity_path, const char *ca_path, ew_span key_pem, const ew_der_list *chain,
                             const ew_der_list *bundle, ew_error *reterr);

#endif

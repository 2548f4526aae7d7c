/* One TLS connection that carries frames: queues, message ids, the session window. Shared by server and client; the policy
 * (states, deadlines, who may what) is theirs.
 *
 * Window: a side counts the bytes of the frames that it sent since the connection came up, those of the session itself excepted
 * (Hello, HelloAck, GoAway, Ping, Pong, Credit, Cancel: were they counted, two full windows could lock each other); the other
 * tells how many of them it has finished with (bytes_consumed). A frame may be sent when it fits into the window with what is
 * unconsumed, or when at most half of the window is unconsumed, so that a frame of the largest size always goes in the end.
 * Control frames overtake bulk frames. Locking: I/O thread only. */
#ifndef EW_SESSION_LINK_H
#define EW_SESSION_LINK_H

#include <stdatomic.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "domain/msg.h"
#include "net/frame.h"
#include "net/io.h"
#include "net/tls.h"
#include "wire/wire.h"

#define EW__OUT_RESERVE 32 /* frame header, msg_id and reply_to, written when the frame is sent */

/* A frame to be sent. The envelope is packed without msg_id and reply_to. */
typedef struct ew__out {
    struct ew__out *next;
    ew_buf buf; /* EW__OUT_RESERVE bytes, envelope, body */
    size_t env_len, body_len;
    uint64_t reply_to;
    bool bulk;
    bool counted; /* by the session window */
    bool urgent;  /* overtakes the others: of the session itself, GoAway excepted, which is the last word */
    /* Called once: with the message id when it was written, with 0 when it was dropped. May be NULL. */
    void (*written)(struct ew__out *out, void *ctx, uint64_t msg_id);
    void *ctx;
} ew__out;

/* h NULL: header fields all zero; msg_id and reply_to of h are not packed. body is copied. Any thread. */
ew_status ew__out_new(const ew_msg *msg, const ew_wire_header *h, ew_span body, ew__out **ret, ew_error *reterr);
/* The same with room for body_len bytes, to be filled through *ret_body. */
ew_status ew__out_new_body(const ew_msg *msg, const ew_wire_header *h, size_t body_len, ew__out **ret, char **ret_body,
                           ew_error *reterr);
ew_status ew__out_clone(const ew__out *o, ew__out **ret);
void ew__out_free(ew__out **o);
size_t ew__out_bytes(const ew__out *o);

/* Sees every frame as it is outside TLS: envelope and body, sent (their ids included) or received. An error ends the connection. */
typedef ew_status (*ew__tap_fn)(void *ctx, bool out, ew_span envelope, ew_span body, ew_error *reterr);

#define EW__QUEUES 3

/* TLS bytes given to the socket and not yet released by it. */
typedef struct ew__unsent {
    atomic_uint refs;
    atomic_size_t bytes;
} ew__unsent;

typedef struct ew__link {
    ew_io *io;
    ew_io_peer *peer; /* NULL once closed or gone */
    ew_tls *tls;      /* NULL until the first bytes */
    ew_frame_decoder dec;
    ew__out *head[EW__QUEUES], *tail[EW__QUEUES]; /* by urgency: of the session itself, others, bulk */
    size_t queued_bytes;
    size_t waiting_bytes;  /* what the frames of the second queue take in memory */
    ew__unsent *unsent;    /* bytes that libzmq holds; outlives the link */
    uint64_t next_id;      /* of the next frame that is sent */
    uint64_t last_peer_id; /* highest msg_id received */
    uint64_t sent_bytes, peer_consumed;
    uint64_t recv_bytes, consumed, told; /* frames received, finished with, and told so */
    uint32_t window_out, window_in;
    uint64_t last_sent_ms, last_recv_ms;
    uint64_t blocked_since_ms;      /* 0 = not blocked by the window */
    uint64_t raw_in;                /* bytes from the socket */
    uint64_t *count_in, *count_out; /* totals of the owner, may be NULL */
    ew__tap_fn tap;                 /* may be NULL */
    void *tap_ctx;
} ew__link;

/* frame is the callee's. False ends the reading (the link may be closed then). */
typedef bool (*ew__frame_fn)(void *ctx, ew_frame *frame, const ew_wire_header *h);

void ew__link_init(ew__link *l, ew_io *io, ew_io_peer *peer, size_t max_frame);
void ew__link_release(ew__link *l); /* drops what is queued; does not close the peer */
/* Decrypts and cuts into frames. An error ends the connection; the alert, if any, is already queued. */
ew_status ew__link_input(ew__link *l, const void *data, size_t size, ew__frame_fn fn, void *ctx, ew_error *reterr);
/* Takes *out. */
void ew__link_send(ew__link *l, ew__out **out);
/* Packs and queues; for small messages of our own. */
ew_status ew__link_send_msg(ew__link *l, const ew_msg *msg, uint64_t reply_to, bool last, ew_error *reterr);
/* Writes what may be written. EW_EREMOTE: the connection is gone. */
ew_status ew__link_flush(ew__link *l, ew_error *reterr);
/* Only TLS bytes (handshake, alerts, close_notify). */
ew_status ew__link_flush_tls(ew__link *l, ew_error *reterr);
/* We are finished with a received frame of that many bytes; queues a Credit when it is time to tell. */
/* Is a frame with that payload counted by the window? */
bool ew__link_counts(uint32_t payload);
void ew__link_consume(ew__link *l, size_t bytes);
/* The peer told that it has consumed so much. False: more than was sent, or more than can have left this process: a peer that
 * reads nothing and claims to have consumed all would make the socket's queue grow without end. */
bool ew__link_peer_consumed(ew__link *l, uint64_t bytes);
bool ew__link_idle(const ew__link *l); /* nothing queued */
void ew__link_drop_bulk(ew__link *l);
/* close_notify, then ends the connection. */
void ew__link_close(ew__link *l);

#endif

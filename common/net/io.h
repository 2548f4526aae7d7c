/* Byte streams over TCP behind a small interface; the back end is ZMQ_STREAM (WIRE design B). One TCP connection is one peer.
 *
 * What libzmq does not promise is covered here, and each point has a regression test:
 *  F1, F2  SNDHWM 0, so a close is always accepted, and ZMQ_TCP_MAXRT, so that it ends against a peer that never reads. The
 *          owner caps what it queues (session windows).
 *  F3      the zero-length notice may be lost: the owner needs an idle timer; a send to a vanished peer reports it as gone.
 *  F4      at the limit of descriptors libzmq spins in accept: at 95 % a packet filter on the listening socket lets nobody in until
 *          it is 90 %. zmq_unbind is no way: it ends every connection that came through that endpoint (found by test, 4.3.4).
 *  F8      half-open connections end by TCP_USER_TIMEOUT and keepalive.
 *  F9      clients never reconnect by themselves: one socket for each attempt. A refused connect is seen by a monitor.
 * Locking: one owning thread. */
#ifndef EW_NET_IO_H
#define EW_NET_IO_H

#include <zmq.h>

#include "base/base.h"
#include "base/status.h"

typedef struct ew_io ew_io;
typedef struct ew_io_peer ew_io_peer; /* one connection; valid until on_gone returns or ew_io_close was called */

typedef struct ew_io_handlers {
    /* A connection. *ret_user is what the other two get; returning false closes it at once. addr is numeric, without port. */
    bool (*on_up)(void *ctx, ew_io_peer *peer, const char *addr, void **ret_user);
    void (*on_data)(void *ctx, ew_io_peer *peer, void *user, const void *data, size_t size);
    /* The other side or the network ended it (not after ew_io_close). For a client that never came up: user NULL. */
    void (*on_gone)(void *ctx, ew_io_peer *peer, void *user);
} ew_io_handlers;

typedef struct ew_io_opt {
    uint32_t max_rt_ms;                       /* 0 = 20000 */
    uint32_t keepalive_idle_s;                /* 0 = 60 */
    uint32_t keepalive_intvl_s;               /* 0 = 10 */
    uint32_t keepalive_count;                 /* 0 = 3 */
    uint32_t rcv_hwm;                         /* 0 = 64 */
    uint32_t backlog;                         /* 0 = 4096 */
    uint32_t fd_high_percent, fd_low_percent; /* 0 = 95, 90 */
} ew_io_opt;

/* addr: "127.0.0.1", "::1", "*"; port 0 = any. zmq is a context of zmq_ctx_new. */
ew_status ew_io_listen(void *zmq, const char *addr, uint16_t port, const ew_io_opt *opt, const ew_io_handlers *handlers,
                       void *ctx, ew_io **ret, ew_error *reterr) EW_MUST_CHECK;
/* Starts one attempt; addr is numeric. on_up or on_gone tells. */
ew_status ew_io_connect(void *zmq, const char *addr, uint16_t port, const ew_io_opt *opt,
                        const ew_io_handlers *handlers, void *ctx, ew_io **ret, ew_error *reterr) EW_MUST_CHECK;
void ew_io_free(ew_io **io);
uint16_t ew_io_port(const ew_io *io);

/* For zmq_poll: at most 2 items are filled; returns their number. */
size_t ew_io_poll_items(const ew_io *io, zmq_pollitem_t items[static 2]);
/* Handles what has come, at most max messages; returns how many. */
size_t ew_io_run(ew_io *io, size_t max);
/* Once a second or so: watches the limit of descriptors, forgets closed peers. */
void ew_io_tick(ew_io *io);

/* Queues bytes. data_free NULL: they are copied; else data is taken and data_free(data, hint) is called once sent, from any
 * thread, also on failure. EW_EREMOTE: the peer is gone (on_gone follows). */
ew_status ew_io_send(ew_io *io, ew_io_peer *peer, void *data, size_t size, void (*data_free)(void *data, void *hint),
                     void *hint, ew_error *reterr) EW_MUST_CHECK;
/* Ends the connection once what was queued is written (or MAXRT passes). peer is invalid afterwards. */
void ew_io_close(ew_io *io, ew_io_peer *peer);
/* Lets nobody in / lets in again; connections that are there stay. */
void ew_io_pause(ew_io *io);
void ew_io_resume(ew_io *io);
size_t ew_io_n_peers(const ew_io *io);

#endif

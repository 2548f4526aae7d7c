/* Between one I/O thread and its workers: pointers over inproc ROUTER/DEALER sockets.
 *
 * An item is work (run by a worker) and done (run by the I/O thread afterwards; it owns the item again). Items of the pool
 * start in order, except that may_start can hold one back without blocking those behind it. A lane is one thread that runs
 * its items strictly in order. Locking: see each function; "I/O thread" is the one that called ew__hub_new. */
#ifndef EW_SESSION_HUB_H
#define EW_SESSION_HUB_H

#include <zmq.h>

#include "base/base.h"
#include "base/status.h"

typedef struct ew__hub ew__hub;
typedef struct ew__worker ew__worker; /* the thread that runs an item */

typedef struct ew__item {
    struct ew__item *next; /* the hub's */
    unsigned
        handed; /* stored and loaded around each hand-over: libzmq orders memory too, but thread checkers cannot see it */
    void (*work)(struct ew__item *item, void *owner, ew__worker *w); /* worker thread; NULL for posts */
    void (*done)(struct ew__item *item, void *owner);                /* I/O thread; must free or keep it */
    bool (*may_start)(struct ew__item *item, void *owner);           /* I/O thread; NULL = yes. Marks it started. */
} ew__item;

#define EW__LANE_POOL 0 /* lanes 1.. are single threads */

/* n_pool threads and n_lanes further single threads. */
ew_status ew__hub_new(void *zmq, unsigned n_pool, unsigned n_lanes, void *owner, ew__hub **ret, ew_error *reterr);
/* Refuses further posts and runs what was posted. Only when the I/O thread runs no more, or from it. */
void ew__hub_close(ew__hub *h);
/* Ends the threads after what they have in hand; everything queued or posted is run through done. I/O thread. */
void ew__hub_free(ew__hub **h);
/* I/O thread. */
void ew__hub_submit(ew__hub *h, unsigned lane, ew__item *item);
/* Any thread: item->done runs on the I/O thread. False once the hub is ending: the item is still the caller's. */
bool ew__hub_post(ew__hub *h, ew__item *item);
/* From within work: posts stay in order with each other and before the item's own done. */
void ew__hub_post_from(ew__worker *w, ew__item *item);
zmq_pollitem_t ew__hub_poll_item(ew__hub *h);
/* Runs what has come back, at most max items; then starts what may start. I/O thread. */
size_t ew__hub_run(ew__hub *h, size_t max);
/* Items queued in the pool and not yet started. */
size_t ew__hub_backlog(const ew__hub *h);

#endif

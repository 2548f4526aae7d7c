/* Timers of one thread: a binary heap of deadlines on the monotonic clock (base/clock.h, so tests turn it by hand).
 * A timer is embedded in its owner and may be set again at any time. Locking: one owning thread. */
#ifndef EW_NET_TIMER_H
#define EW_NET_TIMER_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_timer {
    void (*fn)(struct ew_timer *t, void *ctx);
    void *ctx;
    uint64_t at_ms; /* ew_mono_ms() */
    size_t index;   /* in the heap, + 1; 0 = not set */
} ew_timer;

typedef struct ew_timers {
    ew_timer **heap;
    size_t n, cap;
} ew_timers;

void ew_timers_release(ew_timers *h);
/* Sets or moves; EW_ENOMEM only when it was not set. */
ew_status ew_timer_set(ew_timers *h, ew_timer *t, uint64_t at_ms) EW_MUST_CHECK;
void ew_timer_clear(ew_timers *h, ew_timer *t);
/* Runs what is due (fn may set and clear timers, its own included). */
void ew_timers_run(ew_timers *h, uint64_t now_ms);
/* Milliseconds until the next one, at most max_ms. */
uint64_t ew_timers_wait_ms(const ew_timers *h, uint64_t now_ms, uint64_t max_ms);

#endif

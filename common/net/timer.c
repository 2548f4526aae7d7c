#include "net/timer.h"

#include "base/mem.h"

void ew_timers_release(ew_timers *h)
{
    for (size_t i = 0; i < h->n; i++) {
        h->heap[i]->index = 0;
    }
    ew_free(h->heap);
    *h = (ew_timers){NULL, 0, 0};
}

static void put(ew_timers *h, size_t i, ew_timer *t)
{
    h->heap[i] = t;
    t->index = i + 1;
}

static void up(ew_timers *h, size_t i)
{
    ew_timer *t = h->heap[i];
    while (i > 0 && h->heap[(i - 1) / 2]->at_ms > t->at_ms) {
        put(h, i, h->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    put(h, i, t);
}

static void down(ew_timers *h, size_t i)
{
    ew_timer *t = h->heap[i];
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= h->n) {
            break;
        }
        if (k + 1 < h->n && h->heap[k + 1]->at_ms < h->heap[k]->at_ms) {
            k++;
        }
        if (h->heap[k]->at_ms >= t->at_ms) {
            break;
        }
        put(h, i, h->heap[k]);
        i = k;
    }
    put(h, i, t);
}

ew_status ew_timer_set(ew_timers *h, ew_timer *t, uint64_t at_ms)
{
    t->at_ms = at_ms;
    if (t->index != 0) {
        up(h, t->index - 1);
        down(h, t->index - 1);
        return EW_OK;
    }
    void *items = h->heap;
    EW_TRY(ew_grow(&items, &h->cap, h->n + 1, sizeof(ew_timer *), SIZE_MAX / 16));
    h->heap = items;
    h->heap[h->n++] = t;
    up(h, h->n - 1);
    return EW_OK;
}

void ew_timer_clear(ew_timers *h, ew_timer *t)
{
    if (t->index == 0) {
        return;
    }
    size_t i = t->index - 1;
    t->index = 0;
    ew_timer *last = h->heap[--h->n];
    if (last != t) {
        put(h, i, last);
        up(h, i);
        down(h, last->index - 1);
    }
}

void ew_timers_run(ew_timers *h, uint64_t now_ms)
{
    /* What fn sets anew for a time already past runs in the next round. */
    for (size_t left = h->n; left > 0 && h->n > 0 && h->heap[0]->at_ms <= now_ms; left--) {
        ew_timer *t = h->heap[0];
        ew_timer_clear(h, t);
        t->fn(t, t->ctx);
    }
}

uint64_t ew_timers_wait_ms(const ew_timers *h, uint64_t now_ms, uint64_t max_ms)
{
    if (h->n == 0) {
        return max_ms;
    }
    uint64_t at = h->heap[0]->at_ms;
    return at <= now_ms ? 0 : EW_MIN(at - now_ms, max_ms);
}

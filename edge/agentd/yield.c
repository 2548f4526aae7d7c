#include "agentd/yield.h"

#include <signal.h>

#include "base/clock.h"
#include "base/mem.h"

void ew_yield_init(ew_yield *y)
{
    *y = (ew_yield){.stop_ms = EW_YIELD_STOP_MS, .slice_ms = EW_YIELD_SLICE_MS};
    EW_ASSERT(pthread_mutex_init(&y->lock, NULL) == 0);
}

void ew_yield_release(ew_yield *y)
{
    (void)pthread_mutex_destroy(&y->lock);
}

/* The lock is held. */
static void turn(ew_yield *y, bool stop)
{
    if (y->pid > 0 && stop != y->stopped && kill(y->pid, stop ? SIGSTOP : SIGCONT) == 0) {
        uint64_t now = ew_mono_ms();
        y->stopped_ms += stop ? 0 : now - y->turned_ms;
        y->n_stops += stop;
        y->stopped = stop;
        y->turned_ms = now;
    }
}

void ew_yield_begin(ew_yield *y)
{
    (void)pthread_mutex_lock(&y->lock);
    y->n_answers++;
    turn(y, !y->ending);
    (void)pthread_mutex_unlock(&y->lock);
}

void ew_yield_tick(ew_yield *y)
{
    (void)pthread_mutex_lock(&y->lock);
    uint64_t since = ew_mono_ms() - y->turned_ms;
    if (y->stopped && since >= y->stop_ms) {
        turn(y, false);
    } else if (!y->stopped && !y->ending && y->n_answers > 0 && since >= y->slice_ms) {
        turn(y, true);
    }
    (void)pthread_mutex_unlock(&y->lock);
}

void ew_yield_end(ew_yield *y)
{
    (void)pthread_mutex_lock(&y->lock);
    if (--y->n_answers == 0) {
        turn(y, false);
    }
    y->quiet_mono_ms = ew_mono_ms();
    (void)pthread_mutex_unlock(&y->lock);
}

bool ew_yield_answering(ew_yield *y, uint64_t *ret_quiet_mono_ms)
{
    (void)pthread_mutex_lock(&y->lock);
    bool answering = y->n_answers > 0;
    *ret_quiet_mono_ms = y->quiet_mono_ms;
    (void)pthread_mutex_unlock(&y->lock);
    return answering;
}

void ew_yield_attach(ew_yield *y, pid_t pid)
{
    if (y == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&y->lock);
    y->pid = pid;
    y->stopped = false;
    y->ending = false;
    turn(y, y->n_answers > 0);
    (void)pthread_mutex_unlock(&y->lock);
}

void ew_yield_detach(ew_yield *y)
{
    if (y == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&y->lock);
    turn(y, false);
    y->pid = 0;
    (void)pthread_mutex_unlock(&y->lock);
}

void ew_yield_ending(ew_yield *y)
{
    if (y == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&y->lock);
    y->ending = true;
    turn(y, false);
    (void)pthread_mutex_unlock(&y->lock);
}

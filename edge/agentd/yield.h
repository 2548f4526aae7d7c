/* Answers come first: while one is being given, the process that learns is stopped.
 *
 * The worker runs at a lower priority anyway, which is enough as long as both fit onto the cores; on two cores with two threads each it is not. So the
 * agent stops the worker (SIGSTOP) when an answer begins and lets it go on (SIGCONT) when the last one ends. That takes effect between two
 * instructions of the worker, however long its step is, and needs nothing of it: it holds no lock and no file that an answer wants. A worker whose
 * agent dies is killed by the kernel (PR_SET_PDEATHSIG), stopped or not, so none is left behind. In a long answer the worker gets a slice after each
 * EW_YIELD_STOP_MS, so that it comes on at all; the ticks come from the answer's tokens.
 * Locking: any thread. */
#ifndef EW_AGENTD_YIELD_H
#define EW_AGENTD_YIELD_H

#include <pthread.h>
#include <sys/types.h>

#include "base/base.h"

#define EW_YIELD_STOP_MS 900u
#define EW_YIELD_SLICE_MS 100u

typedef struct ew_yield {
    pthread_mutex_t lock;
    uint32_t stop_ms, slice_ms; /* as above; tests take others */
    pid_t pid;                  /* of the worker; 0 = none */
    unsigned n_answers;         /* being given */
    bool stopped;
    bool ending;            /* the worker was told to end: it is not stopped any more */
    uint64_t turned_ms;     /* when it was stopped or let go, monotonic */
    uint64_t quiet_mono_ms; /* when the last answer ended; 0 = none yet */
    uint64_t stopped_ms;    /* in all, for the status */
    uint32_t n_stops;
} ew_yield;

void ew_yield_init(ew_yield *y);
void ew_yield_release(ew_yield *y);

/* Around an answer. */
void ew_yield_begin(ew_yield *y);
void ew_yield_tick(ew_yield *y);
void ew_yield_end(ew_yield *y);
bool ew_yield_answering(ew_yield *y, uint64_t *ret_quiet_mono_ms);

/* Around a worker: from when it has said that it dies with its agent, until before it is waited for, so that its number is its own.
 * y NULL: nothing. */
void ew_yield_attach(ew_yield *y, pid_t pid);
void ew_yield_detach(ew_yield *y);
/* It was sent SIGTERM: lets it run to its end. */
void ew_yield_ending(ew_yield *y);

#endif

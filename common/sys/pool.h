/* The process's compute threads: one pool, shared by everything that computes.
 *
 * ew_par_for cuts [0, n) into blocks of `grain` indices (the last may be shorter) and calls fn once per block. Which thread
 * runs which block is not fixed, so fn must write only what belongs to its block; results are then independent of the
 * number of threads. The caller takes part, so a pool of one thread and NULL are serial. A nested call (from inside fn)
 * runs serially in its caller.
 *
 * Idle workers spin for some microseconds after a job, because decoding a token is hundreds of short jobs, and then sleep
 * on a futex: an idle pool costs nothing. fn must not do I/O or wait for locks.
 * Locking: ew_par_for may be called from any thread; a call that finds the pool busy with another thread's job runs
 * serially instead of waiting. ew_pool_free when no call is in progress. */
#ifndef EW_SYS_POOL_H
#define EW_SYS_POOL_H

#include "base/base.h"
#include "base/status.h"

#define EW_POOL_THREADS_MAX 256

typedef struct ew_pool ew_pool;

/* n_threads counts the caller; 0 = the number of cores this process may use. EW_ENOMEM, EW_EIO (no thread), EW_EINVAL. */
ew_status ew_pool_new(unsigned n_threads, ew_pool **ret_pool, ew_error *reterr) EW_MUST_CHECK;
void ew_pool_free(ew_pool **p);
/* 1 for NULL. Per-thread scratch is sized by this. */
unsigned ew_pool_threads(const ew_pool *p);

/* thread < ew_pool_threads(p), and no two blocks run at once with the same value. */
typedef void (*ew_par_fn)(size_t begin, size_t end, unsigned thread, void *ctx);

/* Returns when all blocks are done; their writes are visible to the caller. grain 0 is taken as 1. Allocates nothing. */
void ew_par_for(ew_pool *p, size_t n, size_t grain, ew_par_fn fn, void *ctx);

#endif

/* One job at a time. A job's fields are written while the gate is closed and nobody is inside; opening the gate publishes
 * them, workers enter by counting themselves in, and the caller closes the gate and waits until the last one has left. So a
 * worker that wakes late finds the gate closed and never sees a half-written job, and the caller never waits for a worker
 * that did not come: with fewer free cores than threads the caller simply does more of the work itself. */
#include "sys/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "sys/proc.h"

#define GATE_OPEN (1u << 31)
#define GATE_WAITED (1u << 30) /* the caller sleeps on the gate */
#define GATE_INSIDE (GATE_WAITED - 1)
#define SPIN_NS 15000    /* awake without work before going to sleep */
#define PATIENCE_NS 3000 /* of that, without giving way */

struct worker {
    ew_pool *pool;
    pthread_t thread;
    unsigned index;
};

struct ew_pool {
    unsigned n_threads;    /* with the caller */
    unsigned n_started;    /* workers that run */
    struct worker *worker; /* n_threads - 1 */
    atomic_bool busy;      /* a caller owns the job fields */
    _Atomic uint32_t stop; /* workers end */
    ew_par_fn fn;          /* the job: written by the owner while the gate is closed */
    void *ctx;
    size_t n, grain, n_blocks;
    _Alignas(64) _Atomic uint32_t epoch; /* number of jobs opened; futex of idle workers */
    _Atomic uint32_t sleepers;           /* workers in or about to enter the futex */
    _Alignas(64) _Atomic uint32_t gate;  /* GATE_OPEN | GATE_WAITED | number of workers inside */
    _Alignas(64) atomic_size_t next;     /* block to take */
};

/* Which pool's which thread runs here: a nested call keeps its index, so that per-thread scratch stays its own. */
static _Thread_local const ew_pool *tls_pool;
static _Thread_local unsigned tls_index;

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static uint64_t spin_clock_ns(void)
{
    struct timespec ts; /* not ew_mono_ns: a test may hold that still */
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* True when (*word & mask) == value is no longer so, within SPIN_NS. For the first PATIENCE_NS the word is read all the time:
 * the next job of a token comes that soon, and what it waits for is lost by every thread. After that the core is offered to
 * others between two looks: whoever we wait for may need this very one. */
static bool spin_changed(_Atomic uint32_t *word, uint32_t mask, uint32_t value)
{
    uint64_t start = 0;
    for (unsigned i = 1;; i++) {
        if ((atomic_load_explicit(word, memory_order_acquire) & mask) != value) {
            return true;
        }
        spin_pause();
        if (i % 32 != 0) {
            continue;
        }
        uint64_t now = spin_clock_ns();
        start = start == 0 ? now : start;
        if (now - start > SPIN_NS) {
            return false;
        }
        if (now - start > PATIENCE_NS) {
            (void)sched_yield();
        }
    }
}

static void run_blocks(ew_pool *p, unsigned index)
{
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n_blocks) {
            return;
        }
        size_t begin = i * p->grain;
        p->fn(begin, begin + EW_MIN(p->grain, p->n - begin), index, p->ctx);
    }
}

static void worker_job(ew_pool *p, unsigned index)
{
    uint32_t gate = atomic_load_explicit(&p->gate, memory_order_acquire);
    do {
        if ((gate & GATE_OPEN) == 0) {
            return;
        }
    } while (
        !atomic_compare_exchange_weak_explicit(&p->gate, &gate, gate + 1, memory_order_acq_rel, memory_order_acquire));
    run_blocks(p, index);
    gate = atomic_fetch_sub_explicit(&p->gate, 1, memory_order_acq_rel) - 1;
    if ((gate & GATE_WAITED) != 0 && (gate & GATE_INSIDE) == 0) {
        futex_wake(&p->gate, 1);
    }
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    ew_pool *p = w->pool;
    char name[16];
    (void)snprintf(name, sizeof(name), "ew-pool-%u", w->index);
    (void)pthread_setname_np(pthread_self(), name);
    tls_pool = p;
    tls_index = w->index;
    uint32_t seen = 0;
    while (atomic_load(&p->stop) == 0) {
        if (!spin_changed(&p->epoch, UINT32_MAX, seen)) {
            atomic_fetch_add(&p->sleepers, 1);
            while (atomic_load(&p->epoch) == seen) {
                futex_wait(&p->epoch, seen);
            }
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(&p->epoch);
        worker_job(p, w->index);
    }
    return NULL;
}

ew_status ew_pool_new(unsigned n_threads, ew_pool **ret_pool, ew_error *reterr)
{
    if (n_threads == 0) {
        n_threads = EW_MIN(ew_proc_cores(), (unsigned)EW_POOL_THREADS_MAX);
    }
    if (n_threads > EW_POOL_THREADS_MAX) {
        return ew_fail(reterr, EW_EINVAL, "%u threads asked for, at most %d are supported", n_threads,
                       EW_POOL_THREADS_MAX);
    }
    EW_AUTO(ew_pool) p = ew_aligned(sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the compute pool");
    }
    *p = (ew_pool){.n_threads = n_threads};
    p->worker = ew_calloc(n_threads, sizeof(*p->worker));
    if (p->worker == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the compute pool");
    }
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    int err = 0;
    for (unsigned i = 1; i < n_threads && err == 0; i++) {
        struct worker *w = &p->worker[i - 1];
        *w = (struct worker){.pool = p, .index = i};
        err = pthread_create(&w->thread, NULL, worker_main, w);
        p->n_started += err == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err != 0) {
        return ew_fail_errno(reterr, err, "cannot start %u compute threads", n_threads);
    }
    *ret_pool = p;
    p = NULL;
    return EW_OK;
}

void ew_pool_free(ew_pool **pool)
{
    ew_pool *p = *pool;
    if (p == NULL) {
        return;
    }
    atomic_store(&p->stop, 1);
    atomic_fetch_add(&p->epoch, 1);
    futex_wake(&p->epoch, INT_MAX);
    for (unsigned i = 0; i < p->n_started; i++) {
        (void)pthread_join(p->worker[i].thread, NULL);
    }
    ew_free(p->worker);
    ew_free(p);
    *pool = NULL;
}

unsigned ew_pool_threads(const ew_pool *p)
{
    return p != NULL ? p->n_threads : 1;
}

static void run_serial(const ew_pool *p, size_t n, size_t grain, ew_par_fn fn, void *ctx)
{
    unsigned index = p != NULL && tls_pool == p ? tls_index : 0;
    for (size_t begin = 0; begin < n;) {
        size_t size = EW_MIN(grain, n - begin);
        fn(begin, begin + size, index, ctx);
        begin += size;
    }
}

static void close_and_wait(ew_pool *p)
{
    uint32_t gate = atomic_fetch_and_explicit(&p->gate, ~GATE_OPEN, memory_order_acq_rel) & GATE_INSIDE;
    while (gate != 0) {
        if (!spin_changed(&p->gate, GATE_INSIDE, gate)) {
            gate = atomic_fetch_or(&p->gate, GATE_WAITED) | GATE_WAITED;
            if ((gate & GATE_INSIDE) != 0) {
                futex_wait(&p->gate, gate);
            }
        }
        gate = atomic_load_explicit(&p->gate, memory_order_acquire) & GATE_INSIDE;
    }
    atomic_store_explicit(&p->gate, 0, memory_order_relaxed);
}

void ew_par_for(ew_pool *p, size_t n, size_t grain, ew_par_fn fn, void *ctx)
{
    grain = EW_MAX(grain, (size_t)1);
    if (n == 0) {
        return;
    }
    size_t n_blocks = (n - 1) / grain + 1;
    if (p == NULL || p->n_threads == 1 || n_blocks == 1 || tls_pool == p ||
        atomic_exchange_explicit(&p->busy, true, memory_order_acquire)) {
        run_serial(p, n, grain, fn, ctx);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->n = n;
    p->grain = grain;
    p->n_blocks = n_blocks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->gate, GATE_OPEN, memory_order_release);
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers) != 0) {
        futex_wake(&p->epoch, (int)EW_MIN(n_blocks - 1, (size_t)p->n_threads - 1));
    }
    const ew_pool *outer = tls_pool; /* another pool's worker may own this one */
    unsigned outer_index = tls_index;
    tls_pool = p;
    tls_index = 0;
    run_blocks(p, 0);
    tls_pool = outer;
    tls_index = outer_index;
    close_and_wait(p);
    atomic_store_explicit(&p->busy, false, memory_order_release);
}

/* The working memory of a thread: one block, taken at its first use and given back when the thread ends. Not thread-local storage
 * itself, because the C library clears that for every thread of the process, also for those that never compute.
 * Blocks come from a list of spare ones, which ew_kern_reserve fills: after it threads start to compute without allocating. */
#include <pthread.h>
#include <stdlib.h>

#include "kern/kern_int.h"

typedef union block {
    ew_work work;
    union block *next; /* of a spare one */
} block;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *spare;   /* under lock, as the two below */
static size_t n_spare; /* blocks in the list */
static size_t n_want;  /* as many are kept when threads end */
static _Thread_local ew_work *mine;

static void put(void *p)
{
    (void)pthread_mutex_lock(&lock);
    bool keep = n_spare < n_want;
    if (keep) {
        block *b = p;
        b->next = spare;
        spare = b;
        n_spare++;
    }
    (void)pthread_mutex_unlock(&lock);
    if (!keep) {
        free(p);
    }
}

static void make_key(void)
{
    EW_ASSERT(pthread_key_create(&key, put) == 0);
}

/* Pages are touched as they are used. */
static block *take_new(void)
{
    return aligned_alloc(64, EW_ALIGN_UP(sizeof(block), 64));
}

static ew_work *new_work(void)
{
    EW_ASSERT(pthread_once(&once, make_key) == 0);
    (void)pthread_mutex_lock(&lock);
    block *b = spare;
    if (b != NULL) {
        spare = b->next;
        n_spare--;
    }
    (void)pthread_mutex_unlock(&lock);
    b = b != NULL ? b : take_new();
    /* Without a reserve, running out of address space for 2 MiB cannot be handled in a kernel. */
    EW_ASSERT(b != NULL && pthread_setspecific(key, b) == 0);
    mine = &b->work;
    return mine;
}

ew_work *ew__work(void)
{
    return EW_LIKELY(mine != NULL) ? mine : new_work();
}

bool ew_kern_reserve(size_t n)
{
    bool enough = true;
    (void)pthread_mutex_lock(&lock);
    n_want = EW_MAX(n_want, n);
    while (enough && n_spare < n) {
        block *b = take_new();
        enough = b != NULL;
        if (enough) {
            b->next = spare;
            spare = b;
            n_spare++;
        }
    }
    (void)pthread_mutex_unlock(&lock);
    return enough;
}

/* The working memory of a thread: one block, taken at its first use and given back when the thread ends. Not thread-local storage
 * itself, because the C library clears that for every thread of the process, also for those that never compute. */
#include <pthread.h>
#include <stdlib.h>

#include "kern/kern_int.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static _Thread_local ew_work *mine;

static void make_key(void)
{
    EW_ASSERT(pthread_key_create(&key, free) == 0);
}

static ew_work *new_work(void)
{
    EW_ASSERT(pthread_once(&once, make_key) == 0);
    /* Pages are touched as they are used; running out of address space for 1.3 MiB cannot be handled in a kernel. */
    mine = aligned_alloc(64, EW_ALIGN_UP(sizeof(*mine), 64));
    EW_ASSERT(mine != NULL && pthread_setspecific(key, mine) == 0);
    return mine;
}

ew_work *ew__work(void)
{
    return EW_LIKELY(mine != NULL) ? mine : new_work();
}

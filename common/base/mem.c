#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local uint64_t mem_count;
static atomic_uint_fast64_t mem_fail_at; /* 0 = off, else allocations left before the failing one */

static bool mem_admit(void)
{
    mem_count++;
    if (EW_LIKELY(atomic_load_explicit(&mem_fail_at, memory_order_relaxed) == 0)) {
        return true;
    }
    return atomic_fetch_sub(&mem_fail_at, 1) != 1;
}

void *ew_malloc(size_t n, size_t size)
{
    size_t bytes;
    if (!ew_size_mul(n, size, &bytes) || !mem_admit()) {
        return NULL;
    }
    return malloc(bytes != 0 ? bytes : 1);
}

void *ew_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (!ew_size_mul(n, size, &bytes) || !mem_admit()) {
        return NULL;
    }
    return calloc(1, bytes != 0 ? bytes : 1);
}

void *ew_realloc(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (!ew_size_mul(n, size, &bytes) || !mem_admit()) {
        return NULL;
    }
    return realloc(p, bytes != 0 ? bytes : 1);
}

void *ew_aligned(size_t bytes)
{
    if (bytes > SIZE_MAX - 64 || !mem_admit()) {
        return NULL;
    }
    return aligned_alloc(64, EW_ALIGN_UP(bytes != 0 ? bytes : 1, 64));
}

void ew_free(void *p)
{
    free(p);
}

void *ew_xcalloc(size_t n, size_t size)
{
    void *p = calloc(n != 0 ? n : 1, size != 0 ? size : 1);
    EW_ASSERT(p != NULL);
    return p;
}

ew_status ew_grow(void **items, size_t *cap, size_t need, size_t size, size_t max)
{
    if (need <= *cap) {
        return EW_OK;
    }
    if (need > max) {
        return EW_ELIMIT;
    }
    size_t want = *cap > max / 2 ? max : *cap * 2;
    want = EW_MAX(want, EW_MIN((size_t)16, max));
    want = EW_MAX(want, need);
    void *p = ew_realloc(*items, want, size);
    if (p == NULL) {
        return EW_ENOMEM;
    }
    *items = p;
    *cap = want;
    return EW_OK;
}

uint64_t ew_mem_count(void)
{
    return mem_count;
}

void ew_mem_fail_at(uint64_t n)
{
    atomic_store(&mem_fail_at, n);
}

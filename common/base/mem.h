/* Checked allocation. Model-sized and message-sized memory comes from here and may fail with EW_ENOMEM; the x-calls abort
 * and are for small fixed-size bookkeeping at start-up. Every block is freed with ew_free.
 * Locking: callable from any thread. */
#ifndef EW_BASE_MEM_H
#define EW_BASE_MEM_H

#include "base/base.h"
#include "base/status.h"

/* n zeroed elements of size bytes; NULL when memory or the arithmetic fails. n * size == 0 gives a valid pointer. */
void *ew_calloc(size_t n, size_t size) EW_MUST_CHECK;
/* n * size bytes, not initialised. */
void *ew_malloc(size_t n, size_t size) EW_MUST_CHECK;
/* p resized to n * size bytes; on NULL p is still valid. */
void *ew_realloc(void *p, size_t n, size_t size) EW_MUST_CHECK;
/* bytes of memory aligned to 64; freed with ew_free. */
void *ew_aligned(size_t bytes) EW_MUST_CHECK;
void ew_free(void *p);
/* Aborts when out of memory. */
void *ew_xcalloc(size_t n, size_t size);

/* Growing array: *items has room for at least need elements of size bytes afterwards; *cap is in elements, grows by
 * doubling and never past max. EW_ELIMIT past max, EW_ENOMEM when memory is out. */
ew_status ew_grow(void **items, size_t *cap, size_t need, size_t size, size_t max) EW_MUST_CHECK;

/* Number of allocations by this thread so far; a test asserts that decoding a token adds 0. */
uint64_t ew_mem_count(void);

/* Test hook: the n-th allocation from now (1 = the next) fails, in any thread; 0 switches it off. */
void ew_mem_fail_at(uint64_t n);

#endif

#include "base/arena.h"

#include <string.h>

#include "base/mem.h"

ew_status ew_arena_init(ew_arena *a, size_t cap, ew_error *reterr)
{
    unsigned char *data = ew_aligned(cap);
    if (data == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "cannot allocate %zu MiB of working memory", cap >> 20);
    }
    *a = (ew_arena){.data = data, .cap = cap};
    return EW_OK;
}

void ew_arena_init_dry(ew_arena *a)
{
    *a = (ew_arena){.cap = SIZE_MAX};
}

void ew_arena_release(ew_arena *a)
{
    ew_free(a->data);
    *a = (ew_arena){0};
}

void *ew_arena_take(ew_arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (a->overflow || !ew_size_mul(n, size, &bytes) || bytes > SIZE_MAX - 64) {
        a->overflow = true;
        return NULL;
    }
    bytes = EW_ALIGN_UP(bytes, 64);
    if (bytes > a->cap - a->used) {
        a->overflow = true;
        return NULL;
    }
    void *p = a->data != NULL ? a->data + a->used : NULL;
    a->used += bytes;
    a->peak = EW_MAX(a->peak, a->used);
    return p;
}

void *ew_arena_calloc(ew_arena *a, size_t n, size_t size)
{
    void *p = ew_arena_take(a, n, size);
    if (p != NULL) {
        memset(p, 0, n * size);
    }
    return p;
}

size_t ew_arena_mark(const ew_arena *a)
{
    return a->used;
}

void ew_arena_reset(ew_arena *a, size_t mark)
{
    EW_ASSERT(mark <= a->used);
    a->used = mark;
}

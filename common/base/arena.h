/* A region of memory of fixed capacity from which blocks are taken and which is released whole.
 *
 * Planned by dry run: an arena made with ew_arena_init_dry counts what would be taken and hands out no memory, so the same
 * code path first sizes and then fills. Blocks are 64-byte aligned and zeroed at first use only by ew_arena_calloc.
 * Locking: one owning thread. */
#ifndef EW_BASE_ARENA_H
#define EW_BASE_ARENA_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_arena {
    unsigned char *data; /* NULL in a dry run */
    size_t cap;          /* bytes; SIZE_MAX in a dry run */
    size_t used;         /* bytes taken */
    size_t peak;         /* largest value of used since init */
    bool overflow;       /* a request did not fit: every later one fails too */
} ew_arena;

/* Allocates cap bytes. EW_ENOMEM. */
ew_status ew_arena_init(ew_arena *a, size_t cap, ew_error *reterr) EW_MUST_CHECK;
void ew_arena_init_dry(ew_arena *a);
/* Frees the memory; the arena may be initialised again. A zeroed arena is accepted. */
void ew_arena_release(ew_arena *a);

/* n * size bytes, 64-byte aligned; NULL when it does not fit, and always in a dry run (the count still rises). */
void *ew_arena_take(ew_arena *a, size_t n, size_t size);
void *ew_arena_calloc(ew_arena *a, size_t n, size_t size);

/* Stack discipline inside an arena: everything taken after the mark is given back. */
size_t ew_arena_mark(const ew_arena *a);
void ew_arena_reset(ew_arena *a, size_t mark);

#endif

#include "base/map.h"

#include <string.h>

#include "base/mem.h"

/* Out of memory inside uthash leaves the element outside the table: see ew_map_add. */
#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) ew_malloc(1, (size))
#define uthash_free(ptr, size) ew_free(ptr)
#include <uthash.h>

/* uthash's hash function falls through its cases on purpose; clang wants each one annotated. */
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"

struct entry {
    UT_hash_handle hh;
    void *value;
    unsigned char key[]; /* hh.keylen bytes */
};

struct ew_map {
    struct entry *head; /* uthash's table, NULL when empty */
};

ew_status ew_map_new(ew_map **ret_map)
{
    ew_map *m = ew_calloc(1, sizeof(*m));
    if (m == NULL) {
        return EW_ENOMEM;
    }
    *ret_map = m;
    return EW_OK;
}

void ew_map_free(ew_map **m)
{
    if (m == NULL || *m == NULL) {
        return;
    }
    struct entry *e;
    struct entry *next;
    HASH_ITER(hh, (*m)->head, e, next)
    {
        HASH_DEL((*m)->head, e);
        ew_free(e);
    }
    ew_free(*m);
    *m = NULL;
}

size_t ew_map_count(const ew_map *m)
{
    return HASH_COUNT(m->head);
}

static struct entry *find(const ew_map *m, const void *key, size_t key_size)
{
    struct entry *e = NULL;
    HASH_FIND(hh, m->head, key, key_size, e);
    return e;
}

void *ew_map_get(const ew_map *m, const void *key, size_t key_size)
{
    struct entry *e = find(m, key, key_size);
    return e != NULL ? e->value : NULL;
}

ew_status ew_map_add(ew_map *m, const void *key, size_t key_size, void *value)
{
    size_t bytes;
    EW_ASSERT(value != NULL);
    if (find(m, key, key_size) != NULL) {
        return EW_EEXIST;
    }
    struct entry *e = ew_size_add(sizeof(*e), key_size, &bytes) ? ew_calloc(1, bytes) : NULL;
    if (e == NULL) {
        return EW_ENOMEM;
    }
    memcpy(e->key, key, key_size);
    e->value = value;
    HASH_ADD_KEYPTR(hh, m->head, e->key, key_size, e);
    if (e->hh.tbl == NULL) {
        ew_free(e);
        return EW_ENOMEM;
    }
    return EW_OK;
}

void *ew_map_remove(ew_map *m, const void *key, size_t key_size)
{
    struct entry *e = find(m, key, key_size);
    if (e == NULL) {
        return NULL;
    }
    void *value = e->value;
    HASH_DEL(m->head, e);
    ew_free(e);
    return value;
}

void ew_map_each(const ew_map *m, void (*fn)(const void *key, size_t key_size, void *value, void *ctx), void *ctx)
{
    for (struct entry *e = m->head; e != NULL; e = e->hh.next) {
        fn(e->key, e->hh.keylen, e->value, ctx);
    }
}

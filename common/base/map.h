/* A map from byte strings to pointers. Keys are copied, values are the caller's.
 * Locking: one owning thread, or the owner's lock. */
#ifndef EW_BASE_MAP_H
#define EW_BASE_MAP_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_map ew_map;

ew_status ew_map_new(ew_map **ret_map) EW_MUST_CHECK;
/* Does not touch the values. */
void ew_map_free(ew_map **m);
size_t ew_map_count(const ew_map *m);
/* NULL when absent. */
void *ew_map_get(const ew_map *m, const void *key, size_t key_size);
/* EW_EEXIST when present (map unchanged), EW_ENOMEM. value must not be NULL. */
ew_status ew_map_add(ew_map *m, const void *key, size_t key_size, void *value) EW_MUST_CHECK;
/* The value taken out, or NULL. */
void *ew_map_remove(ew_map *m, const void *key, size_t key_size);
/* In order of insertion; fn may not change the map. */
void ew_map_each(const ew_map *m, void (*fn)(const void *key, size_t key_size, void *value, void *ctx), void *ctx);

#endif

#define XXH_INLINE_ALL
#include "token/token_int.h"

#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

uint32_t ew__hash(const void *s, size_t size)
{
    return (uint32_t)XXH3_64bits(s, size);
}

void ew__strtab_release(ew__strtab *t)
{
    ew_free(t->hash);
    ew_free(t->value);
    memset(t, 0, sizeof(*t));
}

/* Smallest power of two that keeps n entries below two thirds. */
static bool table_size(size_t n, size_t *ret)
{
    size_t size = 16;
    while (size / 3 * 2 < n) {
        if (!ew_size_mul(size, 2, &size)) {
            return false;
        }
    }
    *ret = size;
    return true;
}

ew_status ew__strtab_reserve(ew__strtab *t, size_t n)
{
    size_t size;
    if (!table_size(n, &size)) {
        return EW_ENOMEM;
    }
    if (t->value != NULL && size <= t->mask + 1) {
        return EW_OK;
    }
    uint32_t *hash = ew_malloc(size, sizeof(*hash));
    uint32_t *value = ew_malloc(size, sizeof(*value));
    if (hash == NULL || value == NULL) {
        ew_free(hash);
        ew_free(value);
        return EW_ENOMEM;
    }
    memset(value, 0xFF, size * sizeof(*value));
    for (size_t i = 0; t->value != NULL && i <= t->mask; i++) {
        if (t->value[i] != EW__NONE) {
            size_t k = t->hash[i] & (size - 1);
            while (value[k] != EW__NONE) {
                k = (k + 1) & (size - 1);
            }
            value[k] = t->value[i];
            hash[k] = t->hash[i];
        }
    }
    ew_free(t->hash);
    ew_free(t->value);
    t->hash = hash;
    t->value = value;
    t->mask = size - 1;
    return EW_OK;
}

static bool same_text(const char *blob, const size_t *ends, uint32_t i, const void *s, size_t size)
{
    size_t begin = i == 0 ? 0 : ends[i - 1];
    return ends[i] - begin == size && (size == 0 || memcmp(blob + begin, s, size) == 0);
}

uint32_t ew__strtab_find(const ew__strtab *t, const char *blob, const size_t *ends, const void *s, size_t size,
                         uint32_t hash)
{
    if (t->n == 0) {
        return EW__NONE;
    }
    for (size_t k = hash & t->mask; t->value[k] != EW__NONE; k = (k + 1) & t->mask) {
        if (t->hash[k] == hash && same_text(blob, ends, t->value[k], s, size)) {
            return t->value[k];
        }
    }
    return EW__NONE;
}

void ew__strtab_put(ew__strtab *t, const char *blob, const size_t *ends, uint32_t index, bool replace)
{
    EW_ASSERT(t->value != NULL && t->n < t->mask);
    size_t begin = index == 0 ? 0 : ends[index - 1];
    size_t size = ends[index] - begin;
    uint32_t hash = ew__hash(size == 0 ? "" : blob + begin, size);
    size_t k = hash & t->mask;
    while (t->value[k] != EW__NONE) {
        if (replace && t->hash[k] == hash && same_text(blob, ends, t->value[k], blob + begin, size)) {
            t->value[k] = index;
            return;
        }
        k = (k + 1) & t->mask;
    }
    t->hash[k] = hash;
    t->value[k] = index;
    t->n++;
}

void ew__intern_release(ew__intern *w)
{
    ew__strtab_release(&w->tab);
    ew_free(w->blob);
    ew_free(w->ends);
    memset(w, 0, sizeof(*w));
}

ew_status ew__intern_add(ew__intern *w, const void *s, size_t size, uint32_t *ret_index, bool *ret_new)
{
    uint32_t hash = ew__hash(s, size);
    uint32_t found = ew__strtab_find(&w->tab, w->blob, w->ends, s, size, hash);
    if (ret_new != NULL) {
        *ret_new = found == EW__NONE;
    }
    if (found != EW__NONE) {
        *ret_index = found;
        return EW_OK;
    }
    size_t used = w->n == 0 ? 0 : w->ends[w->n - 1];
    size_t need;
    if (!ew_size_add(used, size, &need) || need == SIZE_MAX || w->n >= EW__NONE - 1) {
        return EW_ELIMIT;
    }
    EW_TRY(ew_grow((void **)&w->blob, &w->blob_cap, need + 1, 1, SIZE_MAX / 2));
    EW_TRY(ew_grow((void **)&w->ends, &w->ends_cap, w->n + 1, sizeof(*w->ends), EW__NONE));
    EW_TRY(ew__strtab_reserve(&w->tab, w->n + 1));
    if (size > 0) {
        memcpy(w->blob + used, s, size);
    }
    w->ends[w->n] = need;
    *ret_index = (uint32_t)w->n++;
    ew__strtab_put(&w->tab, w->blob, w->ends, *ret_index, false);
    return EW_OK;
}

ew_span ew__intern_get(const ew__intern *w, uint32_t i)
{
    size_t begin = i == 0 ? 0 : w->ends[i - 1];
    return (ew_span){w->blob + begin, w->ends[i] - begin};
}

void ew__u64map_release(ew__u64map *m)
{
    ew_free(m->key);
    ew_free(m->value);
    memset(m, 0, sizeof(*m));
}

ew_status ew__u64map_reserve(ew__u64map *m, size_t n)
{
    size_t size;
    if (!table_size(n, &size)) {
        return EW_ENOMEM;
    }
    if (m->key != NULL && size <= m->mask + 1) {
        return EW_OK;
    }
    uint64_t *key = ew_malloc(size, sizeof(*key));
    uint32_t *value = ew_malloc(size, sizeof(*value));
    if (key == NULL || value == NULL) {
        ew_free(key);
        ew_free(value);
        return EW_ENOMEM;
    }
    memset(key, 0xFF, size * sizeof(*key));
    for (size_t i = 0; m->key != NULL && i <= m->mask; i++) {
        if (m->key[i] != UINT64_MAX) {
            size_t k = ew__u64_slot(m->key[i], size - 1);
            while (key[k] != UINT64_MAX) {
                k = (k + 1) & (size - 1);
            }
            key[k] = m->key[i];
            value[k] = m->value[i];
        }
    }
    ew_free(m->key);
    ew_free(m->value);
    m->key = key;
    m->value = value;
    m->mask = size - 1;
    return EW_OK;
}

ew_status ew__u64map_put(ew__u64map *m, uint64_t key, uint32_t value)
{
    EW_DASSERT(key != UINT64_MAX);
    EW_TRY(ew__u64map_reserve(m, m->n + 1));
    size_t i = ew__u64_slot(key, m->mask);
    while (m->key[i] != UINT64_MAX && m->key[i] != key) {
        i = (i + 1) & m->mask;
    }
    if (m->key[i] == UINT64_MAX) {
        m->key[i] = key;
        m->n++;
    }
    m->value[i] = value;
    return EW_OK;
}

void ew__trie_release(ew__trie *t)
{
    ew__u64map_release(&t->next);
    ew_free(t->leaf);
    memset(t, 0, sizeof(*t));
}

static ew_status trie_node(ew__trie *t)
{
    EW_TRY(ew_grow((void **)&t->leaf, &t->leaf_cap, t->n_nodes + 1, sizeof(*t->leaf), EW__NONE));
    t->leaf[t->n_nodes++] = EW__NONE;
    return EW_OK;
}

ew_status ew__trie_add(ew__trie *t, const void *s, size_t size, uint32_t value)
{
    const unsigned char *p = s;
    if (size == 0 || size > EW__SPECIAL_MAX) {
        return EW_OK;
    }
    if (t->n_nodes == 0) {
        EW_TRY(trie_node(t));
    }
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        uint64_t key = (uint64_t)node << 8 | p[i];
        uint32_t next = ew__u64map_get(&t->next, key);
        if (next == EW__NONE) {
            next = (uint32_t)t->n_nodes;
            EW_TRY(trie_node(t));
            EW_TRY(ew__u64map_put(&t->next, key, next));
        }
        node = next;
    }
    t->leaf[node] = value;
    t->first[p[0]] = true;
    t->has = true;
    return EW_OK;
}

uint32_t ew__trie_match(const ew__trie *t, const char *s, size_t size, size_t *ret_len)
{
    uint32_t best = EW__NONE;
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        node = ew__u64map_get(&t->next, (uint64_t)node << 8 | (unsigned char)s[i]);
        if (node == EW__NONE) {
            break;
        }
        if (t->leaf[node] != EW__NONE) {
            best = t->leaf[node];
            *ret_len = i + 1;
        }
    }
    return best;
}

uint32_t ew__trie_find(const ew__trie *t, const char *s, size_t size, size_t *at, size_t *ret_len)
{
    for (size_t i = *at; t->has && i < size; i++) {
        if (t->first[(unsigned char)s[i]]) {
            uint32_t found = ew__trie_match(t, s + i, size - i, ret_len);
            if (found != EW__NONE) {
                *at = i;
                return found;
            }
        }
    }
    *at = size;
    return EW__NONE;
}

void ew__bytes_init(ew__bytes *b)
{
    memset(b->byte_of, 0xFF, sizeof(b->byte_of));
    unsigned n = 0;
    for (unsigned c = 0; c < 256; c++) {
        if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174) {
            b->cp[c] = (uint16_t)c;
            b->order[n++] = (uint8_t)c;
        }
    }
    unsigned extra = 0;
    for (unsigned c = 0; c < 256; c++) {
        if (!((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174)) {
            b->cp[c] = (uint16_t)(256 + extra++);
            b->order[n++] = (uint8_t)c;
        }
    }
    for (unsigned c = 0; c < 256; c++) {
        b->byte_of[b->cp[c]] = (int16_t)c;
    }
}

size_t ew__bytes_spell(const ew__bytes *b, uint8_t byte, char dst[static 2])
{
    unsigned cp = b->cp[byte];
    if (cp < 128) {
        dst[0] = (char)cp;
        return 1;
    }
    dst[0] = (char)(0xC0 | cp >> 6);
    dst[1] = (char)(0x80 | (cp & 63));
    return 2;
}

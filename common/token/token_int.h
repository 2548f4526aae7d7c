/* Shared by the files of this module: small hash tables, the byte alphabet, the trie of special pieces. */
#ifndef EW_TOKEN_TOKEN_INT_H
#define EW_TOKEN_TOKEN_INT_H

#include "base/base.h"
#include "base/status.h"
#include "token/vocab.h"

#define EW__NONE UINT32_MAX
#define EW__SPECIAL_MAX 1024u /* bytes of a piece that is looked for in text */

/* Byte strings to numbers. The strings lie in the caller's blob, string i is blob[ends[i - 1], ends[i]). Zeroed is valid and empty. */
typedef struct ew__strtab {
    uint32_t *hash;  /* [mask + 1] */
    uint32_t *value; /* [mask + 1] index of the string, EW__NONE = free */
    size_t mask;
    size_t n;
} ew__strtab;

void ew__strtab_release(ew__strtab *t);
/* Room for n strings without growing. */
ew_status ew__strtab_reserve(ew__strtab *t, size_t n) EW_MUST_CHECK;
uint32_t ew__hash(const void *s, size_t size);
uint32_t ew__strtab_find(const ew__strtab *t, const char *blob, const size_t *ends, const void *s, size_t size,
                         uint32_t hash);
/* The string must not be there yet, or replace says that the new index takes over. Needs room (reserve). */
void ew__strtab_put(ew__strtab *t, const char *blob, const size_t *ends, uint32_t index, bool replace);

/* Distinct byte strings numbered in order of arrival. Zeroed is valid and empty. */
typedef struct ew__intern {
    ew__strtab tab;
    char *blob;
    size_t blob_cap;
    size_t *ends;
    size_t ends_cap;
    size_t n;
} ew__intern;

void ew__intern_release(ew__intern *w);
/* *ret_new (may be NULL) tells whether it came in now. */
ew_status ew__intern_add(ew__intern *w, const void *s, size_t size, uint32_t *ret_index, bool *ret_new) EW_MUST_CHECK;
ew_span ew__intern_get(const ew__intern *w, uint32_t i);

/* 64-bit keys to 32-bit values; key UINT64_MAX is not allowed. Zeroed is valid and empty. */
typedef struct ew__u64map {
    uint64_t *key; /* UINT64_MAX = free */
    uint32_t *value;
    size_t mask;
    size_t n;
} ew__u64map;

void ew__u64map_release(ew__u64map *m);
ew_status ew__u64map_reserve(ew__u64map *m, size_t n) EW_MUST_CHECK;
/* Inserts or overwrites. */
ew_status ew__u64map_put(ew__u64map *m, uint64_t key, uint32_t value) EW_MUST_CHECK;

static inline size_t ew__u64_slot(uint64_t key, size_t mask)
{
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15ull;
    return (size_t)(key >> 20) & mask;
}

static inline uint32_t ew__u64map_get(const ew__u64map *m, uint64_t key)
{
    if (m->n == 0) {
        return EW__NONE;
    }
    for (size_t i = ew__u64_slot(key, m->mask); m->key[i] != UINT64_MAX; i = (i + 1) & m->mask) {
        if (m->key[i] == key) {
            return m->value[i];
        }
    }
    return EW__NONE;
}

static inline uint64_t ew__pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Strings to be found in running text. */
typedef struct ew__trie {
    ew__u64map next; /* node << 8 | byte -> node */
    uint32_t *leaf;  /* [n_nodes] value of the string that ends here, EW__NONE = none */
    size_t leaf_cap; /* elements */
    size_t n_nodes;  /* 0 = empty trie */
    bool first[256]; /* some string begins with this byte */
    bool has;        /* at least one string */
} ew__trie;

void ew__trie_release(ew__trie *t);
ew_status ew__trie_add(ew__trie *t, const void *s, size_t size, uint32_t value) EW_MUST_CHECK;
/* The longest string that s[0, size) begins with: its value and length, or EW__NONE. */
uint32_t ew__trie_match(const ew__trie *t, const char *s, size_t size, size_t *ret_len);
/* The leftmost place at or after *at where a string begins, longest first; moves *at there. EW__NONE: none, *at = size. */
uint32_t ew__trie_find(const ew__trie *t, const char *s, size_t size, size_t *at, size_t *ret_len);

/* GPT-2's byte alphabet: code point of each byte, and the order of its 256 first ids. */
typedef struct ew__bytes {
    uint16_t cp[256];     /* byte -> code point */
    uint8_t order[256];   /* position in the alphabet -> byte */
    int16_t byte_of[512]; /* code point -> byte, -1 = not of the alphabet */
} ew__bytes;
void ew__bytes_init(ew__bytes *b);
/* Spells one byte as UTF-8 (1 or 2 bytes). */
size_t ew__bytes_spell(const ew__bytes *b, uint8_t byte, char dst[static 2]);

#endif

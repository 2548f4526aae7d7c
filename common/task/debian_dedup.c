/* Near-duplicate texts: equal beginnings, or a large share of common 3-word shingles.
 *
 * Shingles are hashed to 32 bits; candidates come from MinHash (32 hash functions of the form a*x+b, 8 bands of 4: two texts of
 * Jaccard similarity 0.8 meet in a band with probability 1 - (1 - 0.8^4)^8 = 0.986), and are confirmed by their exact similarity.
 * Source: Broder 1997, "On the resemblance and containment of documents". */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "task/debian_int.h"

#define DEDUP_PREFIX 60
#define DEDUP_WORDS 3
#define DEDUP_HASHES 32
#define DEDUP_BANDS 8
#define DEDUP_ROWS (DEDUP_HASHES / DEDUP_BANDS)
#define DEDUP_TEXTS_MAX 4000000u
#define DEDUP_SHINGLES_MAX 400000000u

/* Open addressing, 64-bit keys, value 0 = free slot. */
typedef struct u64_table {
    uint64_t *key;
    uint32_t *value;
    size_t cap, n; /* cap is a power of two */
} u64_table;

typedef struct doc {
    size_t first; /* into shingle */
    uint32_t n;
    uint32_t next[DEDUP_BANDS]; /* next text in the same bucket of the band, index + 1; 0 = none */
} doc;

struct ew__dedup {
    u64_table prefix, band;
    doc *docs;
    size_t n_docs, docs_cap;
    uint32_t *shingle; /* sorted and distinct within a text */
    size_t n_shingle, shingle_cap;
    ew_buf norm; /* scratch: the normalised text */
};

static uint64_t mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (unsigned char)p[i]) * UINT64_C(0x100000001b3);
    }
    return mix64(h);
}

static uint32_t *table_slot(const u64_table *t, uint64_t key)
{
    size_t i = (size_t)mix64(key) & (t->cap - 1);
    while (t->value[i] != 0 && t->key[i] != key) {
        i = (i + 1) & (t->cap - 1);
    }
    t->key[i] = key;
    return &t->value[i];
}

static void table_release(u64_table *t)
{
    ew_free(t->key);
    ew_free(t->value);
}

/* Room for one more key. */
static ew_status table_reserve(u64_table *t)
{
    if ((t->n + 1) * 2 < t->cap) {
        return EW_OK;
    }
    u64_table big = {.cap = t->cap != 0 ? t->cap * 2 : 1024};
    big.key = ew_calloc(big.cap, sizeof(*big.key));
    big.value = ew_calloc(big.cap, sizeof(*big.value));
    if (big.key == NULL || big.value == NULL) {
        table_release(&big);
        return EW_ENOMEM;
    }
    for (size_t i = 0; i < t->cap; i++) {
        if (t->value[i] != 0) {
            *table_slot(&big, t->key[i]) = t->value[i];
        }
    }
    big.n = t->n;
    table_release(t);
    *t = big;
    return EW_OK;
}

ew_status ew__dedup_new(ew__dedup **ret_dedup)
{
    ew__dedup *d = ew_calloc(1, sizeof(*d));
    if (d == NULL) {
        return EW_ENOMEM;
    }
    *ret_dedup = d;
    return EW_OK;
}

void ew__dedup_free(ew__dedup **d)
{
    if (*d != NULL) {
        table_release(&(*d)->prefix);
        table_release(&(*d)->band);
        ew_free((*d)->docs);
        ew_free((*d)->shingle);
        ew_buf_release(&(*d)->norm);
        ew_free(*d);
        *d = NULL;
    }
}

/* Lower case; runs of anything but a-z0-9 become one space; none at the ends. */
static void normalise(const char *text, size_t size, ew_buf *out)
{
    ew_buf_clear(out);
    bool gap = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            if (gap && out->size != 0) {
                ew_buf_addc(out, ' ');
            }
            gap = false;
            ew_buf_addc(out, c);
        } else {
            gap = true;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Hashes of the 3-word shingles of norm, sorted and distinct, at the end of d->shingle (not yet counted in n_shingle). */
static ew_status shingles(ew__dedup *d, uint32_t *ret_n)
{
    const char *s = ew_buf_str(&d->norm);
    size_t size = d->norm.size;
    size_t words = 1;
    for (size_t i = 0; i < size; i++) {
        words += s[i] == ' ';
    }
    EW_TRY(
        ew_grow((void **)&d->shingle, &d->shingle_cap, d->n_shingle + words, sizeof(*d->shingle), DEDUP_SHINGLES_MAX));
    uint32_t *out = d->shingle + d->n_shingle;
    size_t n = 0;
    for (size_t begin = 0; begin < size || n == 0;) {
        size_t end = begin, w = 0, second = size;
        while (end < size && w < DEDUP_WORDS) {
            while (end < size && s[end] != ' ') {
                end++;
            }
            w++;
            if (w == 1) {
                second = end + 1;
            }
            if (w < DEDUP_WORDS && end < size) {
                end++;
            }
        }
        out[n++] = (uint32_t)hash_bytes(s + begin, end - begin);
        if (end >= size) {
            break; /* the last full shingle, or a text shorter than one */
        }
        begin = second;
    }
    qsort(out, n, sizeof(*out), by_value);
    size_t kept = 1;
    for (size_t i = 1; i < n; i++) {
        if (out[i] != out[kept - 1]) {
            out[kept++] = out[i];
        }
    }
    *ret_n = (uint32_t)kept;
    return EW_OK;
}

static bool similar(const uint32_t *a, size_t n_a, const uint32_t *b, size_t n_b)
{
    size_t i = 0, j = 0, both = 0;
    while (i < n_a && j < n_b) {
        if (a[i] == b[j]) {
            both++;
            i++;
            j++;
        } else if (a[i] < b[j]) {
            i++;
        } else {
            j++;
        }
    }
    return both * 5 > (n_a + n_b - both) * 4; /* Jaccard > 0.8 */
}

static void band_keys(const uint32_t *x, size_t n, uint64_t key[DEDUP_BANDS])
{
    for (unsigned b = 0; b < DEDUP_BANDS; b++) {
        uint64_t h = b + 1;
        for (unsigned r = 0; r < DEDUP_ROWS; r++) {
            uint64_t k = b * DEDUP_ROWS + r;
            uint64_t low = UINT64_MAX;
            for (size_t i = 0; i < n; i++) {
                uint64_t v = mix64(x[i] + (k << 32));
                low = EW_MIN(low, v);
            }
            h = mix64(h ^ low);
        }
        key[b] = h;
    }
}

static bool known(const ew__dedup *d, const uint32_t *x, size_t n, const uint64_t key[DEDUP_BANDS])
{
    for (unsigned b = 0; b < DEDUP_BANDS && d->band.cap != 0; b++) {
        for (uint32_t i = *table_slot(&d->band, key[b]); i != 0; i = d->docs[i - 1].next[b]) {
            const doc *o = &d->docs[i - 1];
            if (similar(x, n, d->shingle + o->first, o->n)) {
                return true;
            }
        }
    }
    return false;
}

static ew_status dedup_add(ew__dedup *d, bool *ret_new)
{
    EW_TRY(table_reserve(&d->prefix));
    uint64_t prefix = hash_bytes(ew_buf_str(&d->norm), EW_MIN(d->norm.size, (size_t)DEDUP_PREFIX));
    uint32_t *seen = table_slot(&d->prefix, prefix);
    if (*seen != 0) {
        *ret_new = false;
        return EW_OK;
    }
    uint32_t n;
    EW_TRY(shingles(d, &n));
    const uint32_t *x = d->shingle + d->n_shingle;
    uint64_t key[DEDUP_BANDS];
    band_keys(x, n, key);
    if (known(d, x, n, key)) {
        *ret_new = false;
        return EW_OK;
    }
    EW_TRY(ew_grow((void **)&d->docs, &d->docs_cap, d->n_docs + 1, sizeof(*d->docs), DEDUP_TEXTS_MAX));
    doc *dst = &d->docs[d->n_docs];
    *dst = (doc){.first = d->n_shingle, .n = n};
    for (unsigned b = 0; b < DEDUP_BANDS; b++) {
        EW_TRY(table_reserve(&d->band));
        uint32_t *head = table_slot(&d->band, key[b]);
        d->band.n += *head == 0;
        dst->next[b] = *head;
        *head = (uint32_t)(d->n_docs + 1);
    }
    *seen = 1;
    d->prefix.n++;
    d->n_docs++;
    d->n_shingle += n;
    *ret_new = true;
    return EW_OK;
}

ew_status ew__dedup_add(ew__dedup *d, const char *text, size_t size, bool *ret_new, ew_error *reterr)
{
    normalise(text, size, &d->norm);
    EW_TRY(ew_buf_check(&d->norm, reterr));
    bool fresh = false;
    ew_status st = dedup_add(d, &fresh);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory to look for near-duplicate texts (%zu texts so far)", d->n_docs);
    }
    *ret_new = fresh;
    return EW_OK;
}

/* The items of an index: numbers, words, vectors. Searching is in search.c. */
#include "rag/rag.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "rag/rag_int.h"

#define ITEMS_MAX (1u << 30)
#define COMPACT_MIN 1024u
#define KEY_FREE 0u
#define KEY_GONE EW__RAG_NONE

ew_status ew_rag_new(ew_rag **ret_rag, ew_error *reterr)
{
    EW_AUTO(ew_rag) r = ew_calloc(1, sizeof(*r));
    if (r == NULL || ew__rag_lists_new(&r->lists) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the retrieval index");
    }
    r->dot = ew__rag_dot();
    *ret_rag = r;
    r = NULL;
    return EW_OK;
}

ew_status ew_rag_new_lamp(ew_rag **ret_rag, ew_error *reterr)
{
    EW_TRY(ew_rag_new(ret_rag, reterr));
    (*ret_rag)->lamp = true;
    return EW_OK;
}

void ew_rag_free(ew_rag **r)
{
    if (*r != NULL) {
        ew__rag_lists_free(&(*r)->lists);
        for (size_t i = 0; i < (*r)->n_chunks; i++) {
            ew_free((*r)->chunk[i]);
        }
        ew_free((void *)(*r)->chunk);
        ew_free((*r)->item);
        ew_free((*r)->slot);
        ew_free(*r);
        *r = NULL;
    }
}

size_t ew_rag_count(const ew_rag *r)
{
    return r->n;
}

size_t ew_rag_vector_count(const ew_rag *r)
{
    return r->n_vectors;
}

size_t ew_rag_dim(const ew_rag *r)
{
    return r->dim;
}

void ew_rag_memory(const ew_rag *r, ew_rag_size *ret_size)
{
    ew__rag_lists_memory(r->lists, ret_size);
    ret_size->items_bytes = sizeof(*r) + r->items_cap * sizeof(*r->item) + r->n_slots * sizeof(*r->slot);
    ret_size->vectors_bytes = r->n_chunks * ew__rag_chunk_bytes(r) + r->chunks_cap * sizeof(*r->chunk);
}

/* --- items by key --- */
static size_t key_hash(uint64_t key)
{
    key = (key ^ (key >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return (size_t)(key ^ (key >> 27));
}

/* The slot of the key, or a free one. n_slots > 0. */
static size_t key_slot(const ew_rag *r, uint64_t key, bool *ret_found)
{
    size_t mask = r->n_slots - 1;
    size_t i = key_hash(key) & mask;
    size_t room = SIZE_MAX;
    for (; r->slot[i] != KEY_FREE; i = (i + 1) & mask) {
        if (r->slot[i] == KEY_GONE) {
            room = EW_MIN(room, i);
        } else if (r->item[r->slot[i] - 1].key == key) {
            *ret_found = true;
            return i;
        }
    }
    *ret_found = false;
    return room != SIZE_MAX ? room : i;
}

static ew_status slots_build(ew_rag *r, size_t n_slots)
{
    uint32_t *slot = ew_calloc(n_slots, sizeof(*slot));
    if (slot == NULL) {
        return EW_ENOMEM;
    }
    ew_free(r->slot);
    r->slot = slot;
    r->n_slots = n_slots;
    r->slots_used = 0;
    for (size_t i = 0; i < r->n_items; i++) {
        if (r->item[i].vector != EW__RAG_REMOVED) {
            bool found;
            r->slot[key_slot(r, r->item[i].key, &found)] = (uint32_t)i + 1;
            r->slots_used++;
        }
    }
    return EW_OK;
}

static ew_status slots_grow(ew_rag *r)
{
    if (r->slots_used * 8 < r->n_slots * 7) {
        return EW_OK;
    }
    size_t n = EW_MAX(r->n_slots, (size_t)64);
    while (r->n * 3 / 2 > n) {
        n *= 2;
    }
    return slots_build(r, n);
}

static uint32_t find(const ew_rag *r, uint64_t key)
{
    bool found = false;
    size_t i = r->n_slots != 0 ? key_slot(r, key, &found) : 0;
    return found ? r->slot[i] - 1 : EW__RAG_NONE;
}

/* --- adding --- */
/* Distinct words of one text with their counts; equal words are found by a small hash table. */
typedef struct counted {
    uint32_t at; /* into bytes */
    uint32_t count;
    uint8_t size;
} counted;

typedef struct bag {
    char *bytes;
    size_t n_bytes, bytes_cap;
    counted *word;
    size_t n, cap;
    uint32_t *slot; /* [n_slots] word + 1 */
    size_t n_slots;
    size_t total;
} bag;

static void bag_release(bag *b)
{
    ew_free(b->bytes);
    ew_free(b->word);
    ew_free(b->slot);
}

static size_t bag_slot(const bag *b, const char *word, size_t size)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++) {
        h = (h ^ (unsigned char)word[i]) * UINT64_C(0x100000001b3);
    }
    size_t mask = b->n_slots - 1;
    size_t i = (size_t)(h ^ (h >> 32)) & mask;
    for (; b->slot[i] != 0; i = (i + 1) & mask) {
        const counted *c = &b->word[b->slot[i] - 1];
        if (c->size == size && memcmp(b->bytes + c->at, word, size) == 0) {
            break;
        }
    }
    return i;
}

static ew_status bag_grow(bag *b)
{
    if (b->n * 2 < b->n_slots) {
        return EW_OK;
    }
    size_t n = b->n_slots != 0 ? b->n_slots * 2 : 128;
    uint32_t *slot = ew_calloc(n, sizeof(*slot));
    if (slot == NULL) {
        return EW_ENOMEM;
    }
    ew_free(b->slot);
    b->slot = slot;
    b->n_slots = n;
    for (size_t i = 0; i < b->n; i++) {
        b->slot[bag_slot(b, b->bytes + b->word[i].at, b->word[i].size)] = (uint32_t)i + 1;
    }
    return EW_OK;
}

static ew_status bag_add(bag *b, const char *word, size_t size)
{
    EW_TRY(bag_grow(b));
    size_t i = bag_slot(b, word, size);
    if (b->slot[i] != 0) {
        b->word[b->slot[i] - 1].count++;
        return EW_OK;
    }
    EW_TRY(ew_grow((void **)&b->bytes, &b->bytes_cap, b->n_bytes + size, 1, UINT32_MAX));
    EW_TRY(ew_grow((void **)&b->word, &b->cap, b->n + 1, sizeof(*b->word), UINT32_MAX / 4));
    memcpy(b->bytes + b->n_bytes, word, size);
    b->word[b->n++] = (counted){(uint32_t)b->n_bytes, 1, (uint8_t)size};
    b->n_bytes += size;
    b->slot[i] = (uint32_t)b->n;
    return EW_OK;
}

/* A query of a folded index never asks for single letters: they count for the length alone. */
static ew_status bag_fill(bag *b, bool lamp, const char *text, size_t size)
{
    ew__rag_words w;
    ew__rag_words_init(&w, lamp, text, size);
    while (ew__rag_words_next(&w)) {
        b->total++;
        if (lamp || w.size > 1) {
            EW_TRY(bag_add(b, w.word, w.size));
        }
    }
    return EW_OK;
}

static ew_status index_words(ew_rag *r, const bag *b, uint32_t item)
{
    for (size_t i = 0; i < b->n; i++) {
        const counted *c = &b->word[i];
        ew_status st = ew__rag_lists_add(r->lists, b->bytes + c->at, c->size, item, c->count);
        if (st != EW_OK) {
            ew__rag_lists_drop(r->lists, item);
            return st;
        }
    }
    return EW_OK;
}

static ew_status add(ew_rag *r, uint64_t key, const char *text, size_t size, uint64_t order)
{
    EW_CLEANUP(bag_release) bag b = {0};
    EW_TRY(bag_fill(&b, r->lamp, text, size));
    EW_TRY(slots_grow(r));
    EW_TRY(ew_grow((void **)&r->item, &r->items_cap, r->n_items + 1, sizeof(*r->item), ITEMS_MAX));
    uint32_t at = (uint32_t)r->n_items;
    EW_TRY(index_words(r, &b, at));
    r->item[at] = (ew__rag_item){.key = key, .order = order, .length = (uint32_t)b.total, .vector = EW__RAG_NO_VECTOR};
    bool found;
    size_t slot = key_slot(r, key, &found);
    r->slots_used += r->slot[slot] == KEY_FREE;
    r->slot[slot] = at + 1;
    r->n_items++;
    r->n++;
    r->total_length += b.total;
    r->newest = EW_MAX(r->newest, order);
    r->mean_known = false;
    return EW_OK;
}

ew_status ew_rag_add(ew_rag *r, uint64_t key, const char *text, size_t size, uint64_t order, ew_error *reterr)
{
    if (size > INT32_MAX) {
        return ew_fail(reterr, EW_EINVAL, "retrieval index: a text of %zu bytes is too long", size);
    }
    if (find(r, key) != EW__RAG_NONE) {
        return ew_fail(reterr, EW_EEXIST, "retrieval index: item %llu is there already", (unsigned long long)key);
    }
    ew_status st = add(r, key, text != NULL ? text : "", text != NULL ? size : 0, order);
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "retrieval index: no room for item %llu", (unsigned long long)key);
}

/* --- vectors --- */
size_t ew__rag_chunk_bytes(const ew_rag *r)
{
    return (size_t)EW__RAG_CHUNK_VECTORS * (r->stride + sizeof(float) + sizeof(uint32_t));
}

/* The nearest bytes of v / largest * 127, zeros behind it; *ret_factor = 1 / the length of that. False: not finite, or nothing but zeros. */
bool ew__rag_vector_bytes(const float *v, size_t dim, size_t stride, int8_t *ret_bytes, float *ret_factor)
{
    float largest = 0;
    for (size_t i = 0; i < dim; i++) {
        float a = fabsf(v[i]);
        if (!(a <= 3.0e38f)) {
            return false;
        }
        largest = EW_MAX(largest, a);
    }
    if (largest == 0) {
        return false;
    }
    double scale = 127.0 / (double)largest;
    int64_t sum = 0;
    for (size_t i = 0; i < dim; i++) {
        long q = lrint((double)v[i] * scale);
        ret_bytes[i] = (int8_t)q;
        sum += q * q;
    }
    memset(ret_bytes + dim, 0, stride - dim);
    *ret_factor = (float)(1.0 / sqrt((double)sum));
    return true;
}

static ew_status vector_check(ew_rag *r, const float *v, size_t dim, ew_error *reterr)
{
    if (dim == 0 || dim > EW_RAG_DIM_MAX || (r->dim != 0 && dim != r->dim)) {
        return ew_fail(
            reterr, EW_EINVAL,
            "retrieval index: a vector of %zu numbers does not fit (from 1 to %u, all of one size; here %zu). "
            "HINT: vectors of another model need a new index",
            dim, EW_RAG_DIM_MAX, r->dim);
    }
    for (size_t i = 0; i < dim; i++) {
        if (!isfinite(v[i])) {
            return ew_fail(reterr, EW_EINVAL, "retrieval index: number %zu of a vector is not finite", i);
        }
    }
    return EW_OK;
}

static ew_status vector_room(ew_rag *r, size_t dim)
{
    if (r->dim == 0) {
        r->dim = dim;
        r->stride = EW_ALIGN_UP(dim, 32);
    }
    if (r->n_vectors == r->n_chunks * EW__RAG_CHUNK_VECTORS) {
        EW_TRY(ew_grow((void **)&r->chunk, &r->chunks_cap, r->n_chunks + 1, sizeof(*r->chunk), ITEMS_MAX));
        r->chunk[r->n_chunks] = ew_aligned(ew__rag_chunk_bytes(r));
        if (r->chunk[r->n_chunks] == NULL) {
            return EW_ENOMEM;
        }
        r->n_chunks++;
    }
    return EW_OK;
}

ew_status ew_rag_vector_add(ew_rag *r, uint64_t key, const float *v, size_t dim, ew_error *reterr)
{
    uint32_t at = find(r, key);
    if (at == EW__RAG_NONE) {
        return ew_fail(reterr, EW_ENOENT, "retrieval index: no item %llu to give a vector", (unsigned long long)key);
    }
    EW_TRY(vector_check(r, v, dim, reterr));
    ew_status st = vector_room(r, dim);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "retrieval index: no memory for a vector");
    }
    bool old = r->item[at].vector != EW__RAG_NO_VECTOR;
    uint32_t i = old ? r->item[at].vector : (uint32_t)r->n_vectors;
    if (!ew__rag_vector_bytes(v, dim, r->stride, ew__rag_vector(r, i), ew__rag_factor(r, i))) {
        return ew_fail(reterr, EW_EINVAL, "retrieval index: a vector of zeros has no direction");
    }
    *ew__rag_owner(r, i) = at;
    r->item[at].vector = i;
    r->n_vectors += !old;
    return EW_OK;
}

/* The last one takes its place; memory that is left over is cleared. */
static void vector_remove(ew_rag *r, uint32_t i)
{
    uint32_t last = (uint32_t)--r->n_vectors;
    if (i != last) {
        memcpy(ew__rag_vector(r, i), ew__rag_vector(r, last), r->stride);
        *ew__rag_factor(r, i) = *ew__rag_factor(r, last);
        *ew__rag_owner(r, i) = *ew__rag_owner(r, last);
        r->item[*ew__rag_owner(r, i)].vector = i;
    }
    memset(ew__rag_vector(r, last), 0, r->stride);
}

/* --- removal --- */
/* Gives the items that are left new numbers when most have gone. Without memory for it all stays as it is. */
static void compact(ew_rag *r)
{
    if (r->n_items < COMPACT_MIN || r->n * 2 > r->n_items) {
        return;
    }
    uint32_t *map = ew_malloc(r->n_items, sizeof(*map));
    if (map == NULL) {
        return;
    }
    uint32_t n = 0;
    for (size_t i = 0; i < r->n_items; i++) {
        map[i] = r->item[i].vector != EW__RAG_REMOVED ? n++ : EW__RAG_NONE;
    }
    ew__rag_lists_map(r->lists, map);
    for (size_t i = 0; i < r->n_items; i++) {
        if (map[i] != EW__RAG_NONE) {
            r->item[map[i]] = r->item[i];
        }
    }
    memset(r->item + n, 0, (r->n_items - n) * sizeof(*r->item));
    r->n_items = n;
    for (size_t i = 0; i < r->n_vectors; i++) {
        *ew__rag_owner(r, i) = map[*ew__rag_owner(r, i)];
    }
    for (size_t i = 0; i < r->n_slots; i++) {
        if (r->slot[i] != KEY_FREE && r->slot[i] != KEY_GONE) {
            r->slot[i] = map[r->slot[i] - 1] + 1;
        }
    }
    ew_free(map);
}

ew_status ew_rag_remove(ew_rag *r, uint64_t key, ew_error *reterr)
{
    bool found = false;
    size_t slot = r->n_slots != 0 ? key_slot(r, key, &found) : 0;
    if (!found) {
        return ew_fail(reterr, EW_ENOENT, "retrieval index: no item %llu", (unsigned long long)key);
    }
    uint32_t at = r->slot[slot] - 1;
    ew__rag_lists_drop(r->lists, at);
    if (r->item[at].vector != EW__RAG_NO_VECTOR) {
        vector_remove(r, r->item[at].vector);
    }
    r->total_length -= r->item[at].length;
    r->item[at] = (ew__rag_item){.vector = EW__RAG_REMOVED};
    r->slot[slot] = KEY_GONE;
    r->n--;
    r->mean_known = false;
    compact(r);
    return EW_OK;
}

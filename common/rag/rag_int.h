/* The parts of a retrieval index: words of a text, lists of items by word, dot products of bytes. */
#ifndef EW_RAG_INT_H
#define EW_RAG_INT_H

#include "rag/rag.h"

/* --- words.c --- */
/* A longer word is told by its beginning, its size and a hash of it: so many bytes. */
#define EW__RAG_WORD_BYTES 64

typedef struct ew__rag_words {
    const char *at, *end;
    bool lamp;
    char word[EW__RAG_WORD_BYTES];
    size_t size;   /* of word */
    size_t length; /* bytes of the word as it was in the text (folded) */
} ew__rag_words;

void ew__rag_words_init(ew__rag_words *w, bool lamp, const char *text, size_t size);
/* The next word is in w->word; false at the end. */
bool ew__rag_words_next(ew__rag_words *w);

/* --- lists.c --- */
/* Which item has which word how often: for every word a chain of blocks with bytes, for every item in ascending order
 *   varint((item - last item) * 2 + (count > 1)) [varint(count)]
 * Blocks (16 to 256 bytes, the next one's number in the first four) come from chunks that never move. item < 2^30. */
typedef struct ew__rag_lists ew__rag_lists;

#define EW__RAG_NONE UINT32_MAX

ew_status ew__rag_lists_new(ew__rag_lists **ret_lists) EW_MUST_CHECK;
void ew__rag_lists_free(ew__rag_lists **l);
/* The number of a word, EW__RAG_NONE when it is not there. */
uint32_t ew__rag_lists_find(const ew__rag_lists *l, const char *word, size_t size);
/* item is above every item that was added for any word. */
ew_status ew__rag_lists_add(ew__rag_lists *l, const char *word, size_t size, uint32_t item,
                            uint32_t count) EW_MUST_CHECK;
/* Keeps items with map[item] != EW__RAG_NONE under their new numbers (ascending like the old). Never fails: lists only shrink. */
void ew__rag_lists_map(ew__rag_lists *l, const uint32_t *map);
/* Takes one item out of all lists. Never fails. */
void ew__rag_lists_drop(ew__rag_lists *l, uint32_t item);
/* Items of a word. */
uint32_t ew__rag_lists_df(const ew__rag_lists *l, uint32_t word);
/* Numbers of words are below this; some have no items any more. */
uint32_t ew__rag_lists_end(const ew__rag_lists *l);
void ew__rag_lists_memory(const ew__rag_lists *l, ew_rag_size *ret_size);

/* Walks the items of a word. */
typedef struct ew__rag_walk {
    const ew__rag_lists *lists;
    const uint8_t *at, *end;
    uint32_t block, step; /* the block's number, its place in the chain */
    uint32_t left;        /* items still to come */
    uint32_t item, count; /* the present one */
} ew__rag_walk;
void ew__rag_walk_init(ew__rag_walk *w, const ew__rag_lists *l, uint32_t word);
bool ew__rag_walk_next(ew__rag_walk *w);

/* --- dot.c --- */
/* Sum of a[i] * b[i], exact. n % 32 == 0, n <= EW_RAG_DIM_MAX; any alignment; no element is -128. */
typedef int32_t (*ew__rag_dot_fn)(const int8_t *a, const int8_t *b, size_t n);
int32_t ew__rag_dot_ref(const int8_t *a, const int8_t *b, size_t n);
int32_t ew__rag_dot_avx2(const int8_t *a, const int8_t *b, size_t n);
int32_t ew__rag_dot_neon(const int8_t *a, const int8_t *b, size_t n);
/* The best that this CPU runs. */
ew__rag_dot_fn ew__rag_dot(void);

/* --- rag.c --- */
typedef struct ew__rag_item {
    uint64_t key, order;
    uint32_t length; /* words */
    uint32_t vector; /* its place among the vectors, or one of these */
} ew__rag_item;
#define EW__RAG_NO_VECTOR (UINT32_MAX - 1)
#define EW__RAG_REMOVED UINT32_MAX

#define EW__RAG_CHUNK_VECTORS 1024u

struct ew_rag {
    bool lamp;
    ew__rag_dot_fn dot;
    ew__rag_lists *lists;
    ew__rag_item *item; /* [n_items] in the order of addition; removed ones are not alive */
    size_t n_items, items_cap, n;
    uint32_t *slot; /* [n_slots] by key: item + 1 */
    size_t n_slots, slots_used;
    uint64_t total_length; /* words */
    uint64_t newest;       /* no order is above it */
    double mean_idf;       /* of all words of a LaMP index, when mean_known */
    bool mean_known;
    size_t dim, stride;
    uint8_t **chunk; /* EW__RAG_CHUNK_VECTORS vectors, then their factors, then their owners */
    size_t n_chunks, chunks_cap, n_vectors;
};

size_t ew__rag_chunk_bytes(const ew_rag *r);
bool ew__rag_vector_bytes(const float *v, size_t dim, size_t stride, int8_t *ret_bytes, float *ret_factor);

static inline int8_t *ew__rag_vector(const ew_rag *r, size_t i)
{
    return (int8_t *)r->chunk[i / EW__RAG_CHUNK_VECTORS] + (i % EW__RAG_CHUNK_VECTORS) * r->stride;
}

static inline float *ew__rag_factor(const ew_rag *r, size_t i)
{
    uint8_t *c = r->chunk[i / EW__RAG_CHUNK_VECTORS] + (size_t)EW__RAG_CHUNK_VECTORS * r->stride;
    return (float *)(void *)c + i % EW__RAG_CHUNK_VECTORS;
}

static inline uint32_t *ew__rag_owner(const ew_rag *r, size_t i)
{
    return (uint32_t *)(void *)(ew__rag_factor(r, i - i % EW__RAG_CHUNK_VECTORS) + EW__RAG_CHUNK_VECTORS) +
           i % EW__RAG_CHUNK_VECTORS;
}

/* --- top.c: the best of many --- */
typedef struct ew__rag_best {
    double score;
    uint64_t order;
    uint32_t item;
} ew__rag_best;

typedef struct ew__rag_top {
    ew__rag_best *heap; /* the worst first */
    size_t n, k;
} ew__rag_top;
/* heap has room for k. */
void ew__rag_top_init(ew__rag_top *t, ew__rag_best *heap, size_t k);
void ew__rag_top_add(ew__rag_top *t, double score, uint64_t order, uint32_t item);
/* Best first, in heap. */
void ew__rag_top_sort(ew__rag_top *t);

#endif

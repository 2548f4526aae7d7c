/* Retrieval over one person's items: an inverted index (BM25), recency and exact int8 vectors, fused by reciprocal ranks; causal by position.
 *
 * Words. The index of ew_rag_new splits text as SQLite's FTS5 does with "unicode61 remove_diacritics 2" (runs of letters and numbers, case folded,
 * diacritics removed) and scores as its bm25(): k1 = 1.2, b = 0.75, idf = ln((N - n + 0.5) / (n + 0.5)), at least 1e-6. A query is any bytes:
 * the 64 longest distinct words of its first 16 KiB count, single letters do not. ew_rag_new_lamp splits at white space alone, as Python's
 * str.split, keeps case, counts every word of the query, and scores as rank_bm25's BM25Okapi with its defaults: k1 = 1.5, b = 0.75,
 * idf = ln(N - n + 0.5) - ln(n + 0.5), a negative one replaced by 0.25 times the mean idf of all words; it ranks every item, also those without a match.
 *
 * Vectors come from the caller (run/embed.h makes them), one per item, all of one size. They are normalised and kept as bytes with a factor each;
 * the cosine is that of the two byte vectors, by exact integer dot products.
 *
 * Causal: a search before order b gives what an index of the items of order < b alone would give, statistics included.
 * Memory: 24 bytes an item, about 2 bytes for each different word of an item, about 45 for each different word at all; vectors dim + 8 bytes each
 * (dim rounded up to 32). The text itself is not kept. Nothing touches a disk.
 * Why not SQLite's FTS5: docs/adr/0017-own-retrieval-index.md.
 * Locking: one owning thread. */
#ifndef EW_RAG_RAG_H
#define EW_RAG_RAG_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_rag ew_rag;

typedef struct ew_rag_hit {
    uint64_t key;   /* as given to add */
    uint64_t order; /* as given to add */
    double bm25;    /* 0 = no word matches, or the ranking did not ask */
    double score;   /* what the ranking used */
    double cosine;  /* NAN without a vector on both sides */
} ew_rag_hit;

/* Rankings that a query may fuse. */
#define EW_RAG_BM25 (1u << 0)
#define EW_RAG_RECENCY (1u << 1)
#define EW_RAG_VECTOR (1u << 2)
#define EW_RAG_N_RANKINGS 3

/* fuse 0: BM25 alone, or with recency w > 0 by (1 - w) * bm25 / best bm25 + w * 2^(-(newest - order) / half_life), newest = the largest visible order.
 * fuse = a set of rankings: sum over them of weight / (60 + rank), rank from 1 (reciprocal rank fusion, Cormack, Clarke and Buettcher 2009); of each
 * ranking the first 1000 count. BM25 ranks what has a matching word (all items in a LaMP index), RECENCY all items, VECTOR those that have one. */
typedef struct ew_rag_query {
    const char *text;
    size_t size;                      /* bytes */
    size_t k;                         /* at most so many hits */
    uint64_t before_order;            /* only items with order < this; UINT64_MAX = all */
    double recency;                   /* w in [0, 1]; with fuse 0 */
    double half_life;                 /* in positions; 0 = 50 */
    unsigned fuse;                    /* EW_RAG_BM25 | … ; 0 = none */
    double weight[EW_RAG_N_RANKINGS]; /* of BM25, RECENCY, VECTOR; 0 = 1 */
    const float *vector;              /* [dim]; NULL: VECTOR ranks nothing */
    size_t dim;
} ew_rag_query;

ew_status ew_rag_new(ew_rag **ret_rag, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_rag_new_lamp(ew_rag **ret_rag, ew_error *reterr) EW_MUST_CHECK;
void ew_rag_free(ew_rag **r);
/* key: the caller's number for the item (its index or row id). EW_EEXIST when present. text may be any bytes. */
ew_status ew_rag_add(ew_rag *r, uint64_t key, const char *text, size_t size, uint64_t order,
                     ew_error *reterr) EW_MUST_CHECK;
/* Gives the item its vector, replacing an old one. v:[dim], finite, not all zero; dim is that of the first vector, at most EW_RAG_DIM_MAX.
 * EW_ENOENT: no such item; EW_EINVAL. */
#define EW_RAG_DIM_MAX 16384u
ew_status ew_rag_vector_add(ew_rag *r, uint64_t key, const float *v, size_t dim, ew_error *reterr) EW_MUST_CHECK;
/* Removes the item from all rankings: its words (also those that no other item has) and its vector leave the memory. One pass over the index, some
 * milliseconds for 100,000 items. EW_ENOENT when absent. */
ew_status ew_rag_remove(ew_rag *r, uint64_t key, ew_error *reterr) EW_MUST_CHECK;
size_t ew_rag_count(const ew_rag *r);
size_t ew_rag_vector_count(const ew_rag *r);
/* Size of its vectors; 0 = none yet. */
size_t ew_rag_dim(const ew_rag *r);

typedef struct ew_rag_size {
    size_t items_bytes;   /* numbers of the items and the way to them by key */
    size_t words_bytes;   /* different words */
    size_t lists_bytes;   /* which item has which word */
    size_t vectors_bytes; /* bytes, factors, owners */
} ew_rag_size;
/* What the index has allocated. A search takes up to 40 bytes an item besides while it runs. */
void ew_rag_memory(const ew_rag *r, ew_rag_size *ret_size);

/* The best hits, best first; ties by order, later first. *ret_n <= k. Without a known word BM25 gives no hit (but in a LaMP index, with recency > 0 or
 * other rankings fused). EW_EINVAL: a vector of another size, an unknown ranking, a weight that is negative or not finite. */
ew_status ew_rag_search(ew_rag *r, const ew_rag_query *query, ew_rag_hit *ret_hits, size_t *ret_n,
                        ew_error *reterr) EW_MUST_CHECK;

#endif

/* Retrieval over one person's items: SQLite FTS5 in memory, BM25 and recency, causal by position.
 *
 * Text is split by FTS5's unicode61 tokenizer (case folded, diacritics removed). Score of an item for a query of distinct terms:
 * FTS5's bm25(): k1 = 1.2, b = 0.75, idf = log((N - n + 0.5) / (n + 0.5)), at least 1e-6; larger is better here. With a recency weight w > 0 the
 * rank is by  (1 - w) * bm25 / best bm25 + w * 2^(-(newest - order) / half_life), newest = the largest visible order.
 * A query is any bytes: it is cut into terms before FTS5 sees it, so that no input is a syntax error; the 64 rarest-looking (longest) distinct terms
 * of its first 16 KiB count. Nothing touches a disk.
 * Locking: one owning thread. */
#ifndef EW_RAG_RAG_H
#define EW_RAG_RAG_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_rag ew_rag;

typedef struct ew_rag_hit {
    uint64_t key;   /* as given to add */
    uint64_t order; /* as given to add */
    double bm25;    /* >= 0 */
    double score;   /* what the ranking used */
} ew_rag_hit;

typedef struct ew_rag_query {
    const char *text;
    size_t size;           /* bytes */
    size_t k;              /* at most so many hits */
    uint64_t before_order; /* only items with order < this; UINT64_MAX = all */
    double recency;        /* w in [0, 1]; 0 = BM25 alone */
    double half_life;      /* in positions; 0 = 50 */
} ew_rag_query;

ew_status ew_rag_new(ew_rag **ret_rag, ew_error *reterr) EW_MUST_CHECK;
void ew_rag_free(ew_rag **r);
/* key: the caller's number for the item (its index or row id). EW_EEXIST when present. text may be any bytes. */
ew_status ew_rag_add(ew_rag *r, uint64_t key, const char *text, size_t size, uint64_t order,
                     ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT when absent. */
ew_status ew_rag_remove(ew_rag *r, uint64_t key, ew_error *reterr) EW_MUST_CHECK;
size_t ew_rag_count(const ew_rag *r);
/* The best hits, best first; ties by order, later first. *ret_n <= k. A query without a known term gives 0 hits (with recency > 0 the latest items). */
ew_status ew_rag_search(ew_rag *r, const ew_rag_query *query, ew_rag_hit *ret_hits, size_t *ret_n,
                        ew_error *reterr) EW_MUST_CHECK;

#endif

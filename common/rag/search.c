/* Searching: one score per item and ranking, the best of each, their fusion. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "rag/rag_int.h"

#define QUERY_BYTES 16384
#define QUERY_WORDS 64
#define HALF_LIFE 50.0
#define FUSE_K 60.0
#define FUSE_DEPTH 1000u
#define IDF_MIN 1e-6
#define LAMP_EPSILON 0.25

static const double k1_of[] = {1.2, 1.5}; /* folded, LaMP */
#define B 0.75

/* --- the words of a query --- */
typedef struct term {
    uint32_t word;  /* EW__RAG_NONE = in no item */
    uint32_t times; /* in the query */
    size_t size;    /* of text */
    char text[EW__RAG_WORD_BYTES];
} term;

typedef struct terms {
    term *term;
    size_t n, cap;
} terms;

static void terms_release(terms *t)
{
    ew_free(t->term);
}

/* Puts x among the longest QUERY_WORDS, longest first; the earlier one stays on equal length. */
static void keep_longest(terms *t, const term *x)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->term[i].size == x->size && memcmp(t->term[i].text, x->text, x->size) == 0) {
            return;
        }
    }
    if (t->n == QUERY_WORDS && t->term[t->n - 1].size >= x->size) {
        return;
    }
    size_t i = t->n < QUERY_WORDS ? t->n++ : QUERY_WORDS - 1;
    while (i > 0 && t->term[i - 1].size < x->size) {
        t->term[i] = t->term[i - 1];
        i--;
    }
    t->term[i] = *x;
}

/* Words that no item has count for nothing; the others are told apart by their number. */
static ew_status keep_all(terms *t, const term *x)
{
    if (x->word == EW__RAG_NONE) {
        return EW_OK;
    }
    for (size_t i = 0; i < t->n; i++) {
        if (t->term[i].word == x->word) {
            t->term[i].times++;
            return EW_OK;
        }
    }
    EW_TRY(ew_grow((void **)&t->term, &t->cap, t->n + 1, sizeof(*t->term), UINT32_MAX));
    t->term[t->n++] = *x;
    return EW_OK;
}

static ew_status read_query(const ew_rag *r, const ew_rag_query *q, terms *t)
{
    ew__rag_words w;
    size_t size = r->lamp ? q->size : EW_MIN(q->size, (size_t)QUERY_BYTES);
    if (!r->lamp) {
        EW_TRY(ew_grow((void **)&t->term, &t->cap, QUERY_WORDS, sizeof(*t->term), QUERY_WORDS));
    }
    ew__rag_words_init(&w, r->lamp, q->text != NULL ? q->text : "", q->text != NULL ? size : 0);
    while (ew__rag_words_next(&w)) {
        term x = {.times = 1, .size = w.size};
        memcpy(x.text, w.word, w.size);
        if (r->lamp) {
            x.word = ew__rag_lists_find(r->lists, w.word, w.size);
            EW_TRY(keep_all(t, &x));
        } else if (w.size > 1) {
            keep_longest(t, &x);
        }
    }
    for (size_t i = 0; !r->lamp && i < t->n; i++) {
        t->term[i].word = ew__rag_lists_find(r->lists, t->term[i].text, t->term[i].size);
    }
    return EW_OK;
}

/* --- one search --- */
typedef struct search {
    ew_rag *r;
    const ew_rag_query *q;
    bool all;           /* every item is visible */
    size_t n;           /* visible items */
    double mean_length; /* of them */
    uint64_t newest;    /* largest visible order */
    double *bm25;       /* [n_items]; NULL = not asked for */
    bool *match;        /* [n_items] has a word of the query; NULL with bm25 */
    int8_t *vector;     /* [stride] the query's; NULL = none */
    float factor;
    ew__rag_best *heap; /* [k of the ranking] */
    double *fused;      /* [n_items] */
} search;

static void search_release(search *s)
{
    ew_free(s->bm25);
    ew_free(s->match);
    ew_free(s->vector);
    ew_free(s->heap);
    ew_free(s->fused);
}

static bool visible(const search *s, size_t i)
{
    const ew__rag_item *x = &s->r->item[i];
    return x->vector != EW__RAG_REMOVED && (s->all || x->order < s->q->before_order);
}

static void count_visible(search *s)
{
    uint64_t total = 0;
    s->all = s->r->n == 0 || s->r->newest < s->q->before_order || s->q->before_order == UINT64_MAX;
    for (size_t i = 0; i < s->r->n_items; i++) {
        if (visible(s, i)) {
            s->n++;
            total += s->r->item[i].length;
            s->newest = EW_MAX(s->newest, s->r->item[i].order);
        }
    }
    s->mean_length = s->n != 0 ? (double)total / (double)s->n : 0;
}

static uint32_t visible_df(const search *s, uint32_t word)
{
    if (s->all) {
        return ew__rag_lists_df(s->r->lists, word);
    }
    ew__rag_walk w;
    uint32_t n = 0;
    ew__rag_walk_init(&w, s->r->lists, word);
    while (ew__rag_walk_next(&w)) {
        n += visible(s, w.item);
    }
    return n;
}

static double lamp_idf(const search *s, uint32_t df)
{
    return log((double)(s->n - df) + 0.5) - log((double)df + 0.5);
}

/* Over all words that visible items have. */
static double mean_idf(const search *s)
{
    if (s->all && s->r->mean_known) {
        return s->r->mean_idf;
    }
    double sum = 0;
    size_t n = 0;
    for (uint32_t w = 0; w < ew__rag_lists_end(s->r->lists); w++) {
        uint32_t df = visible_df(s, w);
        if (df != 0) {
            sum += lamp_idf(s, df);
            n++;
        }
    }
    double mean = n != 0 ? sum / (double)n : 0;
    if (s->all) {
        s->r->mean_idf = mean;
        s->r->mean_known = true;
    }
    return mean;
}

static double idf_of(const search *s, uint32_t df)
{
    double idf = lamp_idf(s, df);
    if (!s->r->lamp) {
        return idf > 0 ? idf : IDF_MIN;
    }
    return idf < 0 ? LAMP_EPSILON * mean_idf(s) : idf;
}

/* bm25[i] += times * idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)).  Robertson and Zaragoza 2009, eq. 3.15. */
static void add_term(search *s, const term *t)
{
    uint32_t df = t->word != EW__RAG_NONE ? visible_df(s, t->word) : 0;
    if (df == 0) {
        return;
    }
    const double k1 = k1_of[s->r->lamp];
    const double up = idf_of(s, df) * t->times * (k1 + 1), flat = k1 * (1 - B), slope = k1 * B / s->mean_length;
    ew__rag_walk w;
    ew__rag_walk_init(&w, s->r->lists, t->word);
    while (ew__rag_walk_next(&w)) {
        if (s->all || visible(s, w.item)) {
            double tf = w.count;
            s->bm25[w.item] += up * tf / (tf + flat + slope * (double)s->r->item[w.item].length);
            s->match[w.item] = true;
        }
    }
}

static ew_status score_words(search *s)
{
    EW_CLEANUP(terms_release) terms t = {0};
    s->bm25 = ew_calloc(s->r->n_items + 1, sizeof(*s->bm25));
    s->match = ew_calloc(s->r->n_items + 1, sizeof(*s->match));
    if (s->bm25 == NULL || s->match == NULL) {
        return EW_ENOMEM;
    }
    EW_TRY(read_query(s->r, s->q, &t));
    for (size_t i = 0; i < t.n; i++) {
        add_term(s, &t.term[i]);
    }
    return EW_OK;
}

static double cosine(const search *s, uint32_t i)
{
    uint32_t v = s->r->item[i].vector;
    if (s->vector == NULL || v == EW__RAG_NO_VECTOR) {
        return (double)NAN;
    }
    int32_t dot = s->r->dot(s->vector, ew__rag_vector(s->r, v), s->r->stride);
    return (double)dot * (double)s->factor * (double)*ew__rag_factor(s->r, v);
}

/* Room for the k best of the visible. */
static ew_status top_new(search *s, size_t k, ew__rag_top *ret_top)
{
    k = EW_MIN(k, s->n);
    if (s->heap == NULL) {
        s->heap = ew_malloc(EW_MAX(k, (size_t)FUSE_DEPTH) + 1, sizeof(*s->heap));
    }
    ew__rag_top_init(ret_top, s->heap, k);
    return s->heap != NULL ? EW_OK : EW_ENOMEM;
}

static void give_hits(const search *s, const ew__rag_top *top, ew_rag_hit *ret_hits, size_t *ret_n)
{
    for (size_t i = 0; i < top->n; i++) {
        const ew__rag_best *x = &top->heap[i];
        ret_hits[i] = (ew_rag_hit){.key = s->r->item[x->item].key,
                                   .order = x->order,
                                   .bm25 = s->bm25 != NULL ? s->bm25[x->item] : 0,
                                   .score = x->score,
                                   .cosine = cosine(s, x->item)};
    }
    *ret_n = top->n;
}

/* BM25, mixed with recency or not. */
static ew_status search_mixed(search *s, ew_rag_hit *ret_hits, size_t *ret_n)
{
    ew__rag_top top;
    EW_TRY(score_words(s));
    EW_TRY(top_new(s, s->q->k, &top));
    const double w = s->q->recency > 0 ? EW_MIN(s->q->recency, 1.0) : 0;
    const double half_life = s->q->half_life > 0 ? s->q->half_life : HALF_LIFE;
    double best = 0;
    for (size_t i = 0; i < s->r->n_items; i++) {
        best = EW_MAX(best, s->bm25[i]);
    }
    for (size_t i = 0; i < s->r->n_items; i++) {
        if (!visible(s, i) || (w == 0 && !s->match[i] && !s->r->lamp)) {
            continue;
        }
        double score = s->bm25[i];
        if (w > 0) {
            double age = (double)(s->newest - s->r->item[i].order);
            score = (1 - w) * (best > 0 ? score / best : 0) + w * exp2(-age / half_life);
        }
        ew__rag_top_add(&top, score, s->r->item[i].order, (uint32_t)i);
    }
    ew__rag_top_sort(&top);
    give_hits(s, &top, ret_hits, ret_n);
    return EW_OK;
}

/* --- fusion --- */
/* One ranking's best go into s->fused. */
static ew_status fuse_one(search *s, unsigned ranking, double weight)
{
    ew__rag_top top;
    EW_TRY(top_new(s, FUSE_DEPTH, &top));
    const ew_rag *r = s->r;
    for (size_t i = r->n_items; ranking != EW_RAG_VECTOR && i-- > 0;) { /* the latest first: few changes of the heap */
        if (visible(s, i) && (ranking == EW_RAG_RECENCY || s->match[i] || r->lamp)) {
            ew__rag_top_add(&top, ranking == EW_RAG_BM25 ? s->bm25[i] : 0, r->item[i].order, (uint32_t)i);
        }
    }
    for (size_t v = 0; ranking == EW_RAG_VECTOR && s->vector != NULL && v < r->n_vectors; v++) {
        uint32_t i = *ew__rag_owner(r, v);
        if (visible(s, i)) {
            ew__rag_top_add(&top, cosine(s, i), r->item[i].order, i);
        }
    }
    ew__rag_top_sort(&top);
    for (size_t i = 0; i < top.n; i++) {
        s->fused[top.heap[i].item] += weight / (FUSE_K + (double)(i + 1));
    }
    return EW_OK;
}

static ew_status search_fused(search *s, ew_rag_hit *ret_hits, size_t *ret_n)
{
    ew__rag_top top;
    if ((s->q->fuse & EW_RAG_BM25) != 0) {
        EW_TRY(score_words(s));
    }
    s->fused = ew_calloc(s->r->n_items + 1, sizeof(*s->fused));
    EW_TRY(top_new(s, s->q->k, &top)); /* the room for the largest of the rankings is taken once */
    if (s->fused == NULL) {
        return EW_ENOMEM;
    }
    for (unsigned i = 0; i < EW_RAG_N_RANKINGS; i++) {
        if ((s->q->fuse >> i & 1u) != 0) {
            EW_TRY(fuse_one(s, 1u << i, s->q->weight[i] > 0 ? s->q->weight[i] : 1.0));
        }
    }
    EW_TRY(top_new(s, s->q->k, &top));
    for (size_t i = 0; i < s->r->n_items; i++) {
        if (s->fused[i] > 0) {
            ew__rag_top_add(&top, s->fused[i], s->r->item[i].order, (uint32_t)i);
        }
    }
    ew__rag_top_sort(&top);
    give_hits(s, &top, ret_hits, ret_n);
    return EW_OK;
}

static ew_status check_query(const ew_rag *r, const ew_rag_query *q, ew_error *reterr)
{
    if (q->fuse >> EW_RAG_N_RANKINGS != 0) {
        return ew_fail(reterr, EW_EINVAL, "retrieval: there is no ranking 0x%x", q->fuse);
    }
    for (size_t i = 0; i < EW_RAG_N_RANKINGS; i++) {
        if (!(q->weight[i] >= 0) || !isfinite(q->weight[i])) {
            return ew_fail(reterr, EW_EINVAL, "retrieval: the weight %g of a ranking is not a number from 0",
                           q->weight[i]);
        }
    }
    if (q->vector != NULL && r->n_vectors != 0 && q->dim != r->dim) {
        return ew_fail(reterr, EW_EINVAL,
                       "retrieval: a query's vector of %zu numbers against items of %zu. HINT: both must come from one "
                       "model",
                       q->dim, r->dim);
    }
    return EW_OK;
}

static ew_status read_vector(search *s, ew_error *reterr)
{
    if (s->q->vector == NULL || s->r->n_vectors == 0) {
        return EW_OK;
    }
    s->vector = ew_aligned(s->r->stride);
    if (s->vector == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to search");
    }
    if (!ew__rag_vector_bytes(s->q->vector, s->r->dim, s->r->stride, s->vector, &s->factor)) {
        return ew_fail(reterr, EW_EINVAL, "retrieval: the query's vector has no direction");
    }
    return EW_OK;
}

ew_status ew_rag_search(ew_rag *r, const ew_rag_query *query, ew_rag_hit *ret_hits, size_t *ret_n, ew_error *reterr)
{
    EW_CLEANUP(search_release) search s = {.r = r, .q = query};
    EW_TRY(check_query(r, query, reterr));
    EW_TRY(read_vector(&s, reterr));
    count_visible(&s);
    if (query->k == 0 || s.n == 0) {
        *ret_n = 0;
        return EW_OK;
    }
    ew_status st = query->fuse != 0 ? search_fused(&s, ret_hits, ret_n) : search_mixed(&s, ret_hits, ret_n);
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "no memory to rank the items for a query");
}

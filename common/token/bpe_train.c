#include "token/bpe_train.h"

#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "token/pretok.h"
#include "token/token_int.h"

#define TOLD_EVERY_BYTES ((uint64_t)1 << 20)
#define TOLD_EVERY_MERGES 64u

/* A pair of neighbouring pieces and where it occurs. */
typedef struct pair {
    int32_t left, right;
    int64_t count;   /* occurrences now, weighted by the counts of the pre-tokens */
    uint32_t *where; /* [n_where] pre-tokens that hold it or once did, may repeat */
    uint32_t n_where;
    size_t where_cap;
    bool touched; /* listed in trainer.touched */
    bool merged;  /* stands in trainer.merges */
} pair;

/* An entry is a claim that was true when it was made; checked when it comes up. */
typedef struct claim {
    int64_t count;
    uint32_t pair;
} claim;

typedef struct trainer {
    const ew_bpe_train_opt *opt;
    ew__intern words;   /* unique pre-tokens */
    int64_t *count;     /* [words.n] */
    size_t count_cap;   /* elements */
    int32_t *sym;       /* all pre-tokens as pieces; pre-token i starts where it does in words.blob */
    uint32_t *n_sym;    /* [words.n] pieces left in each */
    ew__intern pieces;  /* bytes of each piece without the specials, id = index + n_specials */
    ew__u64map index;   /* (left, right) -> pairs */
    pair *pairs;        /* */
    size_t n_pairs;     /* */
    size_t pairs_cap;   /* elements */
    claim *heap;        /* binary, best on top */
    size_t n_heap;      /* */
    size_t heap_cap;    /* elements */
    uint32_t *touched;  /* pairs whose count rose during this merge */
    size_t n_touched;   /* */
    size_t touched_cap; /* elements */
    ew_merge *merges;   /* indices into pieces */
    size_t n_merges;    /* */
    size_t merges_cap;  /* elements */
    ew__trie specials;  /* */
    uint64_t bytes;     /* text read */
    uint64_t told;      /* bytes at the last report */
} trainer;

static void trainer_release(trainer *t)
{
    for (size_t i = 0; i < t->n_pairs; i++) {
        ew_free(t->pairs[i].where);
    }
    ew__intern_release(&t->words);
    ew__intern_release(&t->pieces);
    ew__u64map_release(&t->index);
    ew__trie_release(&t->specials);
    ew_free(t->count);
    ew_free(t->sym);
    ew_free(t->n_sym);
    ew_free(t->pairs);
    ew_free(t->heap);
    ew_free(t->touched);
    ew_free(t->merges);
}

static ew_status out_of_memory(ew_error *reterr, ew_status st)
{
    return ew_fail(reterr, st, "training the vocabulary needs more memory than there is; give it less text");
}

static ew_status tell(const trainer *t, const char *phase, const char *unit, uint64_t done, uint64_t total,
                      ew_error *reterr)
{
    ew_progress_info info = {
        .phase = phase, .unit = unit, .done = done, .total = total, .loss = (double)NAN, .left_s = (double)NAN};
    if (!ew_progress_tell(&t->opt->progress, &info)) {
        return ew_fail(reterr, EW_ECANCELLED, "training the vocabulary was stopped");
    }
    return EW_OK;
}

/* Counting ------------------------------------------------------------------------------------------------------- */

static ew_status count_word(const char *s, size_t size, void *ctx, ew_error *reterr)
{
    trainer *t = ctx;
    uint32_t i;
    bool is_new;
    ew_status st = ew__intern_add(&t->words, s, size, &i, &is_new);
    if (st == EW_OK && is_new) {
        st = ew_grow((void **)&t->count, &t->count_cap, (size_t)i + 1, sizeof(*t->count), SIZE_MAX / 16);
        if (st == EW_OK) {
            t->count[i] = 0;
        }
    }
    if (st != EW_OK) {
        return out_of_memory(reterr, st);
    }
    t->count[i]++;
    return EW_OK;
}

static ew_status count_texts(trainer *t, ew_pretok_match *match, ew_bpe_text_fn next_text, void *ctx, ew_error *reterr)
{
    for (;;) {
        ew_span text = {NULL, 0};
        EW_TRY(next_text(ctx, &text, reterr));
        if (text.size == 0) {
            return EW_OK;
        }
        const char *s = text.data;
        for (size_t at = 0; at < text.size;) {
            size_t begin = at;
            size_t len = 0;
            ew__trie_find(&t->specials, s, text.size, &at, &len);
            EW_TRY(ew_pretok_run(match, s + begin, at - begin, true, count_word, t, reterr));
            at += len;
        }
        t->bytes += text.size;
        if (t->bytes - t->told >= TOLD_EVERY_BYTES) {
            t->told = t->bytes;
            EW_TRY(tell(t, "count", "B", t->bytes, 0, reterr));
        }
    }
}

/* The heap ------------------------------------------------------------------------------------------------------- */

static int piece_cmp(const trainer *t, int32_t a, int32_t b)
{
    ew_span x = ew__intern_get(&t->pieces, (uint32_t)a);
    ew_span y = ew__intern_get(&t->pieces, (uint32_t)b);
    int c = memcmp(x.data, y.data, EW_MIN(x.size, y.size));
    return c != 0 ? c : (x.size > y.size) - (x.size < y.size);
}

/* a is to be merged before b. */
static bool better(const trainer *t, claim a, claim b)
{
    if (a.count != b.count) {
        return a.count > b.count;
    }
    const pair *p = &t->pairs[a.pair];
    const pair *q = &t->pairs[b.pair];
    int c = p->left == q->left ? 0 : piece_cmp(t, p->left, q->left);
    return c != 0 ? c > 0 : p->right != q->right && piece_cmp(t, p->right, q->right) > 0;
}

static ew_status heap_push(trainer *t, claim c)
{
    EW_TRY(ew_grow((void **)&t->heap, &t->heap_cap, t->n_heap + 1, sizeof(*t->heap), SIZE_MAX / 32));
    size_t i = t->n_heap++;
    while (i > 0 && better(t, c, t->heap[(i - 1) / 2])) {
        t->heap[i] = t->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    t->heap[i] = c;
    return EW_OK;
}

static claim heap_pop(trainer *t)
{
    claim top = t->heap[0];
    claim last = t->heap[--t->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= t->n_heap) {
            break;
        }
        if (child + 1 < t->n_heap && better(t, t->heap[child + 1], t->heap[child])) {
            child++;
        }
        if (!better(t, t->heap[child], last)) {
            break;
        }
        t->heap[i] = t->heap[child];
        i = child;
    }
    if (t->n_heap > 0) {
        t->heap[i] = last;
    }
    return top;
}

/* Pairs ---------------------------------------------------------------------------------------------------------- */

static ew_status pair_add(trainer *t, int32_t left, int32_t right, int64_t count, uint32_t word)
{
    uint64_t key = ew__pair_key(left, right);
    uint32_t i = ew__u64map_get(&t->index, key);
    if (i == EW__NONE) {
        i = (uint32_t)t->n_pairs;
        EW_TRY(ew_grow((void **)&t->pairs, &t->pairs_cap, t->n_pairs + 1, sizeof(*t->pairs), EW__NONE));
        EW_TRY(ew__u64map_put(&t->index, key, i));
        t->pairs[i] = (pair){.left = left, .right = right};
        t->n_pairs++;
    }
    pair *p = &t->pairs[i];
    p->count += count;
    if (p->n_where == 0 || p->where[p->n_where - 1] != word) {
        EW_TRY(ew_grow((void **)&p->where, &p->where_cap, (size_t)p->n_where + 1, sizeof(*p->where), EW__NONE));
        p->where[p->n_where++] = word;
    }
    if (!p->touched) {
        EW_TRY(ew_grow((void **)&t->touched, &t->touched_cap, t->n_touched + 1, sizeof(*t->touched), EW__NONE));
        p->touched = true;
        t->touched[t->n_touched++] = i;
    }
    return EW_OK;
}

static void pair_sub(trainer *t, int32_t left, int32_t right, int64_t count)
{
    uint32_t i = ew__u64map_get(&t->index, ew__pair_key(left, right));
    EW_DASSERT(i != EW__NONE);
    t->pairs[i].count -= count;
}

/* New claims for the pairs whose counts rose. */
static ew_status claim_touched(trainer *t)
{
    for (size_t i = 0; i < t->n_touched; i++) {
        pair *p = &t->pairs[t->touched[i]];
        p->touched = false;
        if (p->count > 0) {
            EW_TRY(heap_push(t, (claim){p->count, t->touched[i]}));
        }
    }
    t->n_touched = 0;
    return EW_OK;
}

static size_t word_begin(const trainer *t, uint32_t w)
{
    return w == 0 ? 0 : t->words.ends[w - 1];
}

static ew_status first_pairs(trainer *t)
{
    size_t total = t->words.n == 0 ? 0 : t->words.ends[t->words.n - 1];
    uint32_t piece_of[256];
    ew__bytes alphabet;
    ew__bytes_init(&alphabet);
    for (size_t i = 0; i < 256; i++) {
        EW_TRY(ew__intern_add(&t->pieces, &alphabet.order[i], 1, &piece_of[alphabet.order[i]], NULL));
    }
    t->sym = ew_malloc(total, sizeof(*t->sym));
    t->n_sym = ew_malloc(t->words.n, sizeof(*t->n_sym));
    if (t->sym == NULL || t->n_sym == NULL) {
        return EW_ENOMEM;
    }
    for (size_t i = 0; i < total; i++) {
        t->sym[i] = (int32_t)piece_of[(unsigned char)t->words.blob[i]];
    }
    for (uint32_t w = 0; w < t->words.n; w++) {
        size_t begin = word_begin(t, w);
        size_t n = t->words.ends[w] - begin;
        if (n > UINT32_MAX) {
            return EW_ELIMIT;
        }
        t->n_sym[w] = (uint32_t)n;
        for (size_t i = 1; i < n; i++) {
            EW_TRY(pair_add(t, t->sym[begin + i - 1], t->sym[begin + i], t->count[w], w));
        }
    }
    return claim_touched(t);
}

/* Merging -------------------------------------------------------------------------------------------------------- */

/* Replaces (left, right) by joined in pre-token w, from left to right, and moves the counts of the pairs around. */
static ew_status merge_word(trainer *t, uint32_t w, int32_t left, int32_t right, int32_t joined)
{
    int32_t *s = t->sym + word_begin(t, w);
    size_t n = t->n_sym[w];
    int64_t c = t->count[w];
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] != left || i + 1 >= n || s[i + 1] != right) {
            s[out++] = s[i];
            continue;
        }
        if (out > 0) {
            pair_sub(t, s[out - 1], left, c);
            EW_TRY(pair_add(t, s[out - 1], joined, c, w));
        }
        if (i + 2 < n) {
            pair_sub(t, right, s[i + 2], c);
            EW_TRY(pair_add(t, joined, s[i + 2], c, w));
        }
        s[out++] = joined;
        i++;
    }
    t->n_sym[w] = (uint32_t)out;
    return EW_OK;
}

/* The piece that the pair makes; EW_ENOENT when it may not be made. */
static ew_status join(trainer *t, const pair *p, int32_t *ret)
{
    ew_span a = ew__intern_get(&t->pieces, (uint32_t)p->left);
    ew_span b = ew__intern_get(&t->pieces, (uint32_t)p->right);
    size_t size = a.size + b.size;
    if (t->opt->max_bytes_per_token != 0 && size > t->opt->max_bytes_per_token) {
        return EW_ENOENT;
    }
    char *text = ew_malloc(size, 1);
    if (text == NULL) {
        return EW_ENOMEM;
    }
    memcpy(text, a.data, a.size);
    memcpy(text + a.size, b.data, b.size);
    uint32_t id;
    ew_status st = ew__intern_add(&t->pieces, text, size, &id, NULL);
    ew_free(text);
    if (st == EW_OK) {
        *ret = (int32_t)id;
    }
    return st;
}

static ew_status merge_pair(trainer *t, uint32_t which)
{
    int32_t left = t->pairs[which].left;
    int32_t right = t->pairs[which].right;
    int32_t joined;
    ew_status st = join(t, &t->pairs[which], &joined);
    if (st == EW_ENOENT) {
        t->pairs[which].count = 0;
        return EW_OK;
    }
    EW_TRY(st);
    EW_TRY(ew_grow((void **)&t->merges, &t->merges_cap, t->n_merges + 1, sizeof(*t->merges), SIZE_MAX / 16));
    if (!t->pairs[which].merged) {
        t->merges[t->n_merges++] = (ew_merge){left, right};
        t->pairs[which].merged = true;
    }
    /* pairs may move while this one is applied: hold its list, not its address. */
    uint32_t *where = t->pairs[which].where;
    uint32_t n_where = t->pairs[which].n_where;
    t->pairs[which].where = NULL;
    t->pairs[which].n_where = 0;
    t->pairs[which].where_cap = 0;
    for (uint32_t i = 0; i < n_where && st == EW_OK; i++) {
        st = merge_word(t, where[i], left, right, joined);
    }
    ew_free(where);
    EW_TRY(st);
    t->pairs[which].count = 0;
    return claim_touched(t);
}

static ew_status merge_all(trainer *t, ew_error *reterr)
{
    size_t want = t->opt->vocab_size - t->opt->n_specials;
    int64_t min_count = (int64_t)EW_MIN(EW_MAX(t->opt->min_count, (uint64_t)1), (uint64_t)INT64_MAX);
    while (t->pieces.n < want && t->n_heap > 0) {
        claim top = heap_pop(t);
        int64_t now = t->pairs[top.pair].count;
        if (now < min_count || now > top.count) {
            continue; /* gone, or a truer claim is in the heap */
        }
        ew_status st = now == top.count ? merge_pair(t, top.pair) : heap_push(t, (claim){now, top.pair});
        if (st != EW_OK) {
            return out_of_memory(reterr, st);
        }
        if (now == top.count && t->n_merges % TOLD_EVERY_MERGES == 0) {
            EW_TRY(tell(t, "merge", "merges", t->pieces.n - 256, want - 256, reterr));
        }
    }
    return EW_OK;
}

/* The result ----------------------------------------------------------------------------------------------------- */

static ew_status add_pieces(const trainer *t, ew_vocab *v, ew_error *reterr)
{
    ew__bytes alphabet;
    ew__bytes_init(&alphabet);
    EW_AUTO_BUF text = {0};
    for (uint32_t i = 0; i < t->pieces.n; i++) {
        ew_span s = ew__intern_get(&t->pieces, i);
        ew_buf_clear(&text);
        for (size_t k = 0; k < s.size; k++) {
            char spelled[2];
            ew_buf_add(&text, spelled, ew__bytes_spell(&alphabet, ((const uint8_t *)s.data)[k], spelled));
        }
        EW_TRY(ew_buf_check(&text, reterr));
        EW_TRY(ew_vocab_add(v, text.data, text.size, 0.0f, EW_PIECE_NORMAL, NULL, reterr));
    }
    return EW_OK;
}

static ew_status name_special(const ew_vocab *v, size_t n_specials, const char *what, const char *text, int32_t *ret,
                              ew_error *reterr)
{
    if (text == NULL) {
        return EW_OK;
    }
    int32_t id = ew_vocab_find(v, text);
    if (id < 0 || (size_t)id >= n_specials) {
        return ew_fail(reterr, EW_EINVAL, "the %s piece '%s' is not among the special pieces", what, text);
    }
    *ret = id;
    return EW_OK;
}

static ew_status build_vocab(const trainer *t, ew_vocab **ret_vocab, ew_error *reterr)
{
    const ew_bpe_train_opt *opt = t->opt;
    EW_AUTO(ew_vocab) v = NULL;
    EW_TRY(ew_vocab_new(EW_TOKENIZER_BPE, &v, reterr));
    EW_TRY(ew_vocab_set_pre(v, opt->pre == NULL ? "gpt-2" : opt->pre, reterr));
    for (size_t i = 0; i < opt->n_specials; i++) {
        EW_TRY(ew_vocab_add(v, opt->specials[i], strlen(opt->specials[i]), 0.0f, EW_PIECE_CONTROL, NULL, reterr));
    }
    EW_TRY(add_pieces(t, v, reterr));
    for (size_t i = 0; i < t->n_merges; i++) {
        EW_TRY(ew_vocab_add_merge(v, t->merges[i].left + (int32_t)opt->n_specials,
                                  t->merges[i].right + (int32_t)opt->n_specials, reterr));
    }
    EW_TRY(name_special(v, opt->n_specials, "bos", opt->bos, &v->bos, reterr));
    EW_TRY(name_special(v, opt->n_specials, "eos", opt->eos, &v->eos, reterr));
    EW_TRY(name_special(v, opt->n_specials, "pad", opt->pad, &v->pad, reterr));
    v->add_bos = v->bos >= 0;
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}

static ew_status train(trainer *t, ew_bpe_text_fn next_text, void *ctx, ew_vocab **ret_vocab, ew_error *reterr)
{
    const ew_split *splits;
    size_t n_splits;
    EW_AUTO(ew_pretok) pretok = NULL;
    EW_AUTO(ew_pretok_match) match = NULL;
    EW_TRY(ew_pretok_lookup(t->opt->pre == NULL ? "gpt-2" : t->opt->pre, &splits, &n_splits, reterr));
    EW_TRY(ew_pretok_new(splits, n_splits, &pretok, reterr));
    EW_TRY(ew_pretok_match_new(pretok, &match, reterr));
    EW_TRY(count_texts(t, match, next_text, ctx, reterr));
    ew_status st = first_pairs(t);
    if (st != EW_OK) {
        return out_of_memory(reterr, st);
    }
    EW_TRY(merge_all(t, reterr));
    return build_vocab(t, ret_vocab, reterr);
}

ew_status ew_bpe_train(const ew_bpe_train_opt *opt, ew_bpe_text_fn next_text, void *ctx, ew_vocab **ret_vocab,
                       ew_error *reterr)
{
    if (opt->vocab_size > EW_LIMIT_VOCAB || opt->n_specials > EW_LIMIT_VOCAB ||
        opt->vocab_size < 256 + opt->n_specials) {
        return ew_fail(reterr, EW_EINVAL, "a byte-level vocabulary of %zu pieces is not possible: from %zu to %u",
                       opt->vocab_size, 256 + opt->n_specials, EW_LIMIT_VOCAB);
    }
    trainer t = {.opt = opt};
    ew_status st = EW_OK;
    for (size_t i = 0; i < opt->n_specials && st == EW_OK; i++) {
        size_t size = strlen(opt->specials[i]);
        size_t len = 0;
        if (size == 0 || size > EW__SPECIAL_MAX ||
            (ew__trie_match(&t.specials, opt->specials[i], size, &len) != EW__NONE && len == size)) {
            st = ew_fail(reterr, EW_EINVAL, "special piece %zu ('%.40s') is empty, longer than %u bytes or there twice",
                         i + 1, opt->specials[i], EW__SPECIAL_MAX);
        } else if ((st = ew__trie_add(&t.specials, opt->specials[i], size, (uint32_t)i)) != EW_OK) {
            out_of_memory(reterr, st);
        }
    }
    if (st == EW_OK) {
        st = train(&t, next_text, ctx, ret_vocab, reterr);
    }
    trainer_release(&t);
    return st;
}

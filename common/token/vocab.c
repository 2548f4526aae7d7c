#include "token/vocab.h"

#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "token/token_int.h"

#define BLOB_MAX ((size_t)256 * 1024 * 1024)
#define MERGES_MAX ((size_t)4 * EW_LIMIT_VOCAB)
#define SPLITS_MAX 16u
#define NORMS_MAX 32u
#define CHARSMAP_MAX ((size_t)16 * 1024 * 1024)
#define PATTERN_MAX ((size_t)64 * 1024)

ew_status ew_vocab_new(ew_tokenizer_kind kind, ew_vocab **ret_vocab, ew_error *reterr)
{
    ew_vocab *v = ew_calloc(1, sizeof(*v));
    if (v == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a vocabulary");
    }
    v->kind = kind;
    v->bos = v->eos = v->unk = v->pad = v->eot = -1;
    *ret_vocab = v;
    return EW_OK;
}

void ew_vocab_free(ew_vocab **vp)
{
    ew_vocab *v = *vp;
    if (v == NULL) {
        return;
    }
    for (size_t i = 0; i < v->n_splits; i++) {
        ew_free(v->splits[i].pattern);
    }
    for (size_t i = 0; i < v->n_norms; i++) {
        ew_free(v->norms[i].from);
        ew_free(v->norms[i].to);
    }
    ew_free(v->splits);
    ew_free(v->norms);
    ew_free(v->charsmap);
    ew_free(v->pre);
    ew_free(v->text_end);
    ew_free(v->score);
    ew_free(v->exact_score);
    ew_free(v->type);
    ew_free(v->attr);
    ew_free(v->blob);
    ew_free(v->merges);
    ew_free(v->chat_template);
    ew_free(v);
    *vp = NULL;
}

/* The four arrays grow together. */
static ew_status grow_pieces(ew_vocab *v, size_t need, ew_error *reterr)
{
    if (need <= v->cap) {
        return EW_OK;
    }
    if (need > EW_LIMIT_VOCAB) {
        return ew_fail(reterr, EW_ELIMIT, "the vocabulary has more than %u pieces, which is the limit", EW_LIMIT_VOCAB);
    }
    size_t cap = EW_MAX(v->cap * 2, EW_MAX(need, (size_t)512));
    size_t *text_end = ew_realloc(v->text_end, cap, sizeof(*v->text_end));
    v->text_end = text_end != NULL ? text_end : v->text_end;
    float *score = ew_realloc(v->score, cap, sizeof(*v->score));
    v->score = score != NULL ? score : v->score;
    uint8_t *type = ew_realloc(v->type, cap, 1);
    v->type = type != NULL ? type : v->type;
    uint8_t *attr = ew_realloc(v->attr, cap, 1);
    v->attr = attr != NULL ? attr : v->attr;
    if (text_end == NULL || score == NULL || type == NULL || attr == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a vocabulary of %zu pieces", need);
    }
    v->cap = cap;
    return EW_OK;
}

ew_status ew_vocab_add(ew_vocab *v, const void *text, size_t size, float score, ew_piece_type type, int32_t *ret_id,
                       ew_error *reterr)
{
    EW_TRY(grow_pieces(v, v->n + 1, reterr));
    ew_free(v->exact_score);
    v->exact_score = NULL;
    size_t used = v->n == 0 ? 0 : v->text_end[v->n - 1];
    size_t need;
    ew_status st = EW_ELIMIT;
    if (ew_size_add(used, size, &need) && need < BLOB_MAX) {
        st = ew_grow((void **)&v->blob, &v->blob_cap, need + 1, 1, BLOB_MAX);
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no room for the text of piece %zu (%zu bytes)", v->n, size);
    }
    if (size > 0) {
        memcpy(v->blob + used, text, size);
    }
    v->text_end[v->n] = need;
    v->score[v->n] = score;
    v->type[v->n] = (uint8_t)type;
    v->attr[v->n] = 0;
    if (ret_id != NULL) {
        *ret_id = (int32_t)v->n;
    }
    v->n++;
    return EW_OK;
}

ew_status ew_vocab_add_merge(ew_vocab *v, int32_t left, int32_t right, ew_error *reterr)
{
    if (left < 0 || right < 0 || (size_t)left >= v->n || (size_t)right >= v->n) {
        return ew_fail(reterr, EW_ECORRUPT, "merge %zu joins pieces %d and %d of a vocabulary of %zu", v->n_merges,
                       (int)left, (int)right, v->n);
    }
    ew_status st = ew_grow((void **)&v->merges, &v->merges_cap, v->n_merges + 1, sizeof(*v->merges), MERGES_MAX);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no room for merge %zu", v->n_merges);
    }
    v->merges[v->n_merges++] = (ew_merge){left, right};
    return EW_OK;
}

ew_status ew_vocab_add_split(ew_vocab *v, const char *pattern, ew_split_mode mode, bool invert, ew_error *reterr)
{
    if (v->n_splits >= SPLITS_MAX || strlen(pattern) > PATTERN_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "the pre-tokenizer has more than %u steps or a pattern above %zu bytes",
                       SPLITS_MAX, PATTERN_MAX);
    }
    if (v->splits == NULL) {
        v->splits = ew_calloc(SPLITS_MAX, sizeof(*v->splits));
    }
    char *copy = v->splits == NULL ? NULL : ew_str_dup(pattern);
    if (copy == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a pre-token pattern");
    }
    v->splits[v->n_splits++] = (ew_split){copy, mode, invert};
    return EW_OK;
}

ew_status ew_vocab_add_norm(ew_vocab *v, ew_tnorm_kind kind, unsigned flags, const char *from, const char *to,
                            ew_error *reterr)
{
    from = from == NULL ? "" : from;
    to = to == NULL ? "" : to;
    if (v->n_norms >= NORMS_MAX || strlen(from) > PATTERN_MAX || strlen(to) > PATTERN_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "the normalizer has more than %u steps or a pattern above %zu bytes",
                       NORMS_MAX, PATTERN_MAX);
    }
    if (v->norms == NULL) {
        v->norms = ew_calloc(NORMS_MAX, sizeof(*v->norms));
    }
    ew_tnorm n = {kind, flags, ew_str_dup(from), ew_str_dup(to)};
    if (v->norms == NULL || n.from == NULL || n.to == NULL) {
        ew_free(n.from);
        ew_free(n.to);
        return ew_fail(reterr, EW_ENOMEM, "no memory for a normalizer");
    }
    v->norms[v->n_norms++] = n;
    return EW_OK;
}

ew_status ew_vocab_set_scores(ew_vocab *v, const double *score, ew_error *reterr)
{
    bool exact = false;
    double *copy = ew_malloc(EW_MAX(v->n, (size_t)1), sizeof(*copy));
    if (copy == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the scores of %zu pieces", v->n);
    }
    for (size_t i = 0; i < v->n; i++) {
        copy[i] = score[i];
        v->score[i] = (float)score[i];
        exact = exact || (double)v->score[i] != score[i];
    }
    ew_free(v->exact_score);
    v->exact_score = exact ? copy : NULL;
    if (!exact) {
        ew_free(copy);
    }
    return EW_OK;
}

ew_status ew_vocab_set_charsmap(ew_vocab *v, const void *data, size_t size, ew_error *reterr)
{
    char *copy = NULL;
    if (size > CHARSMAP_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "a character map of %zu bytes; at most %zu are possible", size, CHARSMAP_MAX);
    }
    if (data != NULL && size > 0) {
        copy = ew_malloc(size, 1);
        if (copy == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "no memory for a character map of %zu bytes", size);
        }
        memcpy(copy, data, size);
    }
    ew_free(v->charsmap);
    v->charsmap = copy;
    v->charsmap_size = copy == NULL ? 0 : size;
    return EW_OK;
}

ew_status ew_vocab_pad(ew_vocab *v, size_t n, ew_error *reterr)
{
    while (v->n < n) {
        char text[32];
        int len = snprintf(text, sizeof(text), "[PAD%zu]", v->n);
        EW_TRY(ew_vocab_add(v, text, (size_t)len, 0.0f, EW_PIECE_UNUSED, NULL, reterr));
    }
    return EW_OK;
}

static ew_status set_text(char **field, const char *text, size_t size, ew_error *reterr)
{
    char *copy = NULL;
    if (text != NULL) {
        copy = ew_str_dup_n(text, size);
        if (copy == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "no memory for %zu bytes of text", size);
        }
    }
    ew_free(*field);
    *field = copy;
    return EW_OK;
}

ew_status ew_vocab_set_pre(ew_vocab *v, const char *pre, ew_error *reterr)
{
    return set_text(&v->pre, pre, pre == NULL ? 0 : strlen(pre), reterr);
}

ew_status ew_vocab_set_chat_template(ew_vocab *v, const char *text, size_t size, ew_error *reterr)
{
    return set_text(&v->chat_template, text, size, reterr);
}

ew_span ew_vocab_text(const ew_vocab *v, int32_t id)
{
    EW_ASSERT(id >= 0 && (size_t)id < v->n);
    size_t begin = id == 0 ? 0 : v->text_end[id - 1];
    return (ew_span){v->blob + begin, v->text_end[id] - begin};
}

int32_t ew_vocab_find(const ew_vocab *v, const char *text)
{
    size_t size = strlen(text);
    for (size_t i = 0; i < v->n; i++) {
        ew_span s = ew_vocab_text(v, (int32_t)i);
        if (s.size == size && memcmp(s.data, text, size) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

static ew_status dup_array(const void *src, size_t n, size_t size, void *dst, ew_error *reterr)
{
    void *copy = ew_malloc(EW_MAX(n, (size_t)1), size);
    if (copy == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a copy of the vocabulary");
    }
    if (n > 0) {
        memcpy(copy, src, n * size);
    }
    memcpy(dst, &copy, sizeof(copy));
    return EW_OK;
}

ew_status ew_vocab_copy(const ew_vocab *v, ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO(ew_vocab) c = NULL;
    EW_TRY(ew_vocab_new(v->kind, &c, reterr));
    c->sp = v->sp;
    c->squeeze = v->squeeze;
    c->suffix = v->suffix;
    c->plain_spaces = v->plain_spaces;
    c->score_f32 = v->score_f32;
    c->word_max = v->word_max;
    c->bos = v->bos;
    c->eos = v->eos;
    c->unk = v->unk;
    c->pad = v->pad;
    c->eot = v->eot;
    c->add_bos = v->add_bos;
    c->add_eos = v->add_eos;
    c->prefix = v->prefix;
    c->prefix_once = v->prefix_once;
    c->byte_fallback = v->byte_fallback;
    c->fuse_unk = v->fuse_unk;
    c->ignore_merges = v->ignore_merges;
    EW_TRY(ew_vocab_set_pre(c, v->pre, reterr));
    if (v->chat_template != NULL) {
        EW_TRY(ew_vocab_set_chat_template(c, v->chat_template, strlen(v->chat_template), reterr));
    }
    for (size_t i = 0; i < v->n_splits; i++) {
        EW_TRY(ew_vocab_add_split(c, v->splits[i].pattern, v->splits[i].mode, v->splits[i].invert, reterr));
    }
    for (size_t i = 0; i < v->n_norms; i++) {
        const ew_tnorm *n = &v->norms[i];
        EW_TRY(ew_vocab_add_norm(c, n->kind, n->flags, n->from, n->to, reterr));
    }
    EW_TRY(ew_vocab_set_charsmap(c, v->charsmap, v->charsmap_size, reterr));
    EW_TRY(dup_array(v->text_end, v->n, sizeof(*v->text_end), &c->text_end, reterr));
    EW_TRY(dup_array(v->score, v->n, sizeof(*v->score), &c->score, reterr));
    if (v->exact_score != NULL) {
        EW_TRY(dup_array(v->exact_score, v->n, sizeof(*v->exact_score), &c->exact_score, reterr));
    }
    EW_TRY(dup_array(v->type, v->n, 1, &c->type, reterr));
    EW_TRY(dup_array(v->attr, v->n, 1, &c->attr, reterr));
    c->n = v->n;
    c->cap = v->n;
    c->blob_cap = v->n == 0 ? 0 : v->text_end[v->n - 1];
    EW_TRY(dup_array(v->blob, c->blob_cap, 1, &c->blob, reterr));
    EW_TRY(dup_array(v->merges, v->n_merges, sizeof(*v->merges), &c->merges, reterr));
    c->n_merges = c->merges_cap = v->n_merges;
    *ret_vocab = c;
    c = NULL;
    return EW_OK;
}

struct ew_vocab_index {
    const ew_vocab *v; /* borrowed */
    ew__strtab tab;
};

ew_status ew_vocab_index_new(const ew_vocab *v, ew_vocab_index **ret_index, ew_error *reterr)
{
    ew_vocab_index *x = ew_calloc(1, sizeof(*x));
    if (x == NULL || ew__strtab_reserve(&x->tab, v->n) != EW_OK) {
        ew_free(x);
        return ew_fail(reterr, EW_ENOMEM, "no memory for the index of a vocabulary of %zu pieces", v->n);
    }
    x->v = v;
    for (size_t i = 0; i < v->n; i++) {
        ew__strtab_put(&x->tab, v->blob, v->text_end, (uint32_t)i, true);
    }
    *ret_index = x;
    return EW_OK;
}

void ew_vocab_index_free(ew_vocab_index **xp)
{
    if (*xp != NULL) {
        ew__strtab_release(&(*xp)->tab);
        ew_free(*xp);
        *xp = NULL;
    }
}

int32_t ew_vocab_index_find(const ew_vocab_index *x, const void *text, size_t size)
{
    uint32_t id = ew__strtab_find(&x->tab, x->v->blob, x->v->text_end, text, size, ew__hash(text, size));
    return id == EW__NONE ? -1 : (int32_t)id;
}

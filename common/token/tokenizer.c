#include "token/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"
#include "token/token_int.h"

#define TEXT_MAX_BYTES ((size_t)1 << 30)

void ew_tokens_release(ew_tokens *t)
{
    ew_free(t->id);
    memset(t, 0, sizeof(*t));
}

ew_status ew_tokens_add(ew_tokens *t, int32_t id)
{
    if (t->n >= t->cap) {
        EW_TRY(ew_grow((void **)&t->id, &t->cap, t->n + 1, sizeof(*t->id), INT32_MAX));
    }
    t->id[t->n++] = id;
    return EW_OK;
}

ew_status ew_tokens_append(ew_tokens *t, const int32_t *ids, size_t n)
{
    size_t need;
    if (!ew_size_add(t->n, n, &need)) {
        return EW_ELIMIT;
    }
    EW_TRY(ew_grow((void **)&t->id, &t->cap, need, sizeof(*t->id), INT32_MAX));
    if (n > 0) {
        memcpy(t->id + t->n, ids, n * sizeof(*ids));
    }
    t->n = need;
    return EW_OK;
}

/* Making --------------------------------------------------------------------------------------------------------- */

void ew_tokenizer_free(ew_tokenizer **tp)
{
    ew_tokenizer *t = *tp;
    if (t == NULL) {
        return;
    }
    ew__strtab_release(&t->names);
    ew__strtab_release(&t->plain);
    ew__u64map_release(&t->merges);
    ew__u64map_release(&t->touching);
    ew__trie_release(&t->always);
    ew__trie_release(&t->special);
    ew__trie_release(&t->late);
    ew__trie_release(&t->lattice);
    ew__trie_release(&t->inner);
    ew__norm_release(t);
    ew_pretok_free(&t->pretok);
    ew_free(t->bytes);
    ew_free(t->bytes_end);
    ew_free(t->result);
    ew_free(t->rank);
    ew_free(t->byte_touch);
    ew_free(t->eog);
    ew_vocab_free(&t->v);
    ew_free(t);
    *tp = NULL;
}

static ew_status no_memory(ew_error *reterr, ew_status st)
{
    return ew_fail(reterr, st, "no memory for a tokenizer");
}

static ew_status check_ids(const ew_vocab *v, ew_error *reterr)
{
    const struct {
        const char *name;
        int32_t id;
    } named[] = {{"bos", v->bos}, {"eos", v->eos}, {"unk", v->unk}, {"pad", v->pad}, {"eot", v->eot}};
    if (v->n == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "the vocabulary has no pieces");
    }
    for (size_t i = 0; i < EW_COUNT(named); i++) {
        if (named[i].id < -1 || named[i].id >= (int64_t)v->n) {
            return ew_fail(reterr, EW_ECORRUPT, "the %s id %d is not in the vocabulary of %zu pieces", named[i].name,
                           (int)named[i].id, v->n);
        }
    }
    for (size_t i = 0; i < v->n; i++) {
        if (isnan(ew_vocab_score(v, i))) {
            return ew_fail(reterr, EW_ECORRUPT, "the score of piece %zu is not a number", i);
        }
    }
    return EW_OK;
}

static bool may_merge_to(const ew_vocab *v, size_t id)
{
    return v->type[id] == EW_PIECE_NORMAL || v->type[id] == EW_PIECE_USER_DEFINED;
}

static ew_status make_tables(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    bool bpe = v->kind == EW_TOKENIZER_BPE;
    memset(t->byte_id, 0xFF, sizeof(t->byte_id));
    EW_TRY(ew__tokenizer_spell(t, reterr));
    t->from = bpe ? t->bytes : v->blob;
    t->from_end = bpe ? t->bytes_end : v->text_end;
    ew_status st = ew__strtab_reserve(&t->names, v->n);
    if (st == EW_OK) {
        st = ew__strtab_reserve(&t->plain, v->n);
    }
    for (size_t i = 0; i < v->n && st == EW_OK; i++) {
        ew__strtab_put(&t->names, v->blob, v->text_end, (uint32_t)i, true);
        size_t size = t->from_end[i] - (i == 0 ? 0 : t->from_end[i - 1]);
        /* In a byte-level vocabulary added pieces are spelled as they are and take part by the trie only. */
        if (size > 0 && (bpe ? v->type[i] == EW_PIECE_NORMAL : may_merge_to(v, i))) {
            ew__strtab_put(&t->plain, t->from, t->from_end, (uint32_t)i, true);
            t->from_max = EW_MAX(t->from_max, size);
        }
    }
    if (st != EW_OK) {
        return no_memory(reterr, st);
    }
    for (unsigned c = 0; bpe && c < 256; c++) {
        char byte = (char)c;
        uint32_t id = ew__strtab_find(&t->plain, t->from, t->from_end, &byte, 1, ew__hash(&byte, 1));
        t->byte_id[c] = id == EW__NONE ? -1 : (int32_t)id;
    }
    return EW_OK;
}

/* A user-defined piece that is looked for in normalised text is there as normalisation leaves it. */
static ew_status add_late(ew_tokenizer *t, size_t i, ew_error *reterr)
{
    ew_span s = ew_vocab_text(t->v, (int32_t)i);
    EW_AUTO_BUF normal = {0};
    if (!t->v->sp) {
        EW_TRY(ew__normalize(t, s.data, s.size, &normal, reterr));
        s = (ew_span){ew_buf_str(&normal), normal.size};
    }
    return ew__trie_add(&t->late, s.data, s.size, (uint32_t)i) == EW_OK ? EW_OK : no_memory(reterr, EW_ENOMEM);
}

/* Pieces that are looked for in a text. */
static ew_status make_special(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    for (size_t i = 0; i < v->n; i++) {
        bool user = v->type[i] == EW_PIECE_USER_DEFINED;
        if (!user && v->type[i] != EW_PIECE_CONTROL && v->type[i] != EW_PIECE_UNKNOWN) {
            continue;
        }
        if (user && (v->attr[i] & EW_PIECE_NORMALIZED) != 0 && (v->sp || v->n_norms > 0)) {
            EW_TRY(add_late(t, i, reterr));
            continue;
        }
        ew_span s = ew_vocab_text(v, (int32_t)i);
        if (ew__trie_add(&t->special, s.data, s.size, (uint32_t)i) != EW_OK ||
            (user && ew__trie_add(&t->always, s.data, s.size, (uint32_t)i) != EW_OK)) {
            return no_memory(reterr, EW_ENOMEM);
        }
    }
    return EW_OK;
}

static ew_status make_merges(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    EW_AUTO_BUF text = {0};
    t->result = ew_malloc(v->n_merges, sizeof(*t->result));
    if (t->result == NULL || ew__u64map_reserve(&t->merges, v->n_merges) != EW_OK) {
        return no_memory(reterr, EW_ENOMEM);
    }
    for (size_t i = 0; i < v->n_merges; i++) {
        ew_merge m = v->merges[i];
        if (m.left < 0 || m.right < 0 || (size_t)m.left >= v->n || (size_t)m.right >= v->n) {
            return ew_fail(reterr, EW_ECORRUPT, "merge %zu names a piece outside the vocabulary", i);
        }
        ew_span a = ew_vocab_text(v, m.left);
        ew_span b = ew_vocab_text(v, m.right);
        ew_buf_clear(&text);
        ew_buf_add(&text, a.data, a.size);
        ew_buf_add(&text, b.data, b.size);
        EW_TRY(ew_buf_check(&text, reterr));
        int32_t id = ew_tokenizer_find(t, ew_buf_str(&text), text.size);
        if (id < 0) {
            return ew_fail(reterr, EW_ECORRUPT, "merge %zu gives '%.40s', which is not a piece of the vocabulary", i,
                           ew_buf_str(&text));
        }
        t->result[i] = id;
        uint64_t key = ew__pair_key(m.left, m.right);
        if (may_merge_to(v, (size_t)id) && ew__u64map_get(&t->merges, key) == EW__NONE) {
            EW_TRY(ew__u64map_put(&t->merges, key, (uint32_t)i));
        }
    }
    return EW_OK;
}

typedef struct scored {
    float score;
    uint32_t id;
} scored;

static int scored_cmp(const void *a, const void *b)
{
    float x = ((const scored *)a)->score;
    float y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

/* SPM: scores to ranks, best 0. */
static ew_status make_ranks(ew_tokenizer *t, ew_error *reterr)
{
    size_t n = t->v->n;
    scored *all = ew_malloc(n, sizeof(*all));
    t->rank = ew_malloc(n, sizeof(*t->rank));
    if (all == NULL || t->rank == NULL) {
        ew_free(all);
        return no_memory(reterr, EW_ENOMEM);
    }
    for (size_t i = 0; i < n; i++) {
        all[i] = (scored){t->v->score[i], (uint32_t)i};
    }
    qsort(all, n, sizeof(*all), scored_cmp);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += i > 0 && all[i].score < all[i - 1].score;
        t->rank[all[i].id] = rank;
    }
    ew_free(all);
    return EW_OK;
}

/* Neighbours that stand together in no piece are never merged: the text may be cut between them. */
static ew_status make_touching(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    bool all_bytes = v->byte_fallback;
    for (size_t c = 0; c < 256; c++) {
        all_bytes = all_bytes && t->byte_id[c] >= 0;
    }
    t->fuses = !all_bytes && v->fuse_unk && v->unk >= 0;
    t->cuts = !v->ignore_merges; /* whole pre-tokens are looked up */
    for (size_t i = 0; i < v->n_merges && v->kind == EW_TOKENIZER_CHAR_BPE; i++) {
        if (v->type[v->merges[i].left] == EW_PIECE_BYTE || v->type[v->merges[i].right] == EW_PIECE_BYTE) {
            t->cuts = false;
            return EW_OK;
        }
    }
    for (size_t i = 0; i < v->n; i++) {
        if (!may_merge_to(v, i)) {
            continue;
        }
        ew_span s = ew_vocab_text(v, (int32_t)i);
        const char *p = s.data;
        uint32_t last = 0;
        uint32_t cp;
        for (size_t k = 0; k < s.size; last = cp) {
            size_t len = ew_utf8_next(p + k, s.size - k, &cp);
            if (k > 0 && ew__u64map_put(&t->touching, ew__touch_key(last, cp), 1) != EW_OK) {
                return no_memory(reterr, EW_ENOMEM);
            }
            k += len;
        }
    }
    return EW_OK;
}

/* The same for bytes. */
static ew_status make_byte_touch(ew_tokenizer *t, ew_error *reterr)
{
    t->byte_touch = ew_calloc(65536 / 64, sizeof(*t->byte_touch));
    if (t->byte_touch == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    for (size_t i = 0; i < t->v->n; i++) {
        if (!may_merge_to(t->v, i)) {
            continue;
        }
        size_t begin = i == 0 ? 0 : t->bytes_end[i - 1];
        for (size_t k = begin + 1; k < t->bytes_end[i]; k++) {
            unsigned pair = (unsigned char)t->bytes[k - 1] * 256u + (unsigned char)t->bytes[k];
            t->byte_touch[pair / 64] |= UINT64_C(1) << pair % 64;
        }
    }
    return EW_OK;
}

static ew_status make_pretok(ew_tokenizer *t, ew_error *reterr)
{
    const ew_split *splits = t->v->splits;
    size_t n = t->v->n_splits;
    if (t->v->pre != NULL && t->v->kind == EW_TOKENIZER_BPE) {
        EW_TRY(ew_pretok_lookup(t->v->pre, &splits, &n, reterr));
    }
    return n == 0 ? EW_OK : ew_pretok_new(splits, n, &t->pretok, reterr);
}

/* Spellings that end a turn or a text in the known families (llama.cpp's list). */
static ew_status make_eog(ew_tokenizer *t, ew_error *reterr)
{
    static const char *const names[] = {"<|endoftext|>",
                                        "<|end_of_text|>",
                                        "<|eot_id|>",
                                        "<|eom_id|>",
                                        "<|im_end|>",
                                        "<|end|>",
                                        "<end_of_turn>",
                                        "</s>",
                                        "<EOT>",
                                        "<|end_story|>",
                                        "_<EOT>",
                                        "[EOT]",
                                        "<|return|>",
                                        "<|call|>",
                                        "<end_of_utterance>",
                                        "<\xEF\xBD\x9C"
                                        "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};
    t->eog = ew_calloc(t->v->n, sizeof(*t->eog));
    if (t->eog == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        int32_t id = ew_tokenizer_find(t, names[i], strlen(names[i]));
        if (id >= 0 && (t->v->type[id] == EW_PIECE_CONTROL || t->v->type[id] == EW_PIECE_USER_DEFINED)) {
            t->eog[id] = true;
        }
    }
    if (t->v->eos >= 0) {
        t->eog[t->v->eos] = true;
    }
    if (t->v->eot >= 0) {
        t->eog[t->v->eot] = true;
    }
    return EW_OK;
}

static ew_status make_kind(ew_tokenizer *t, ew_error *reterr)
{
    switch (t->v->kind) {
    case EW_TOKENIZER_BPE:
        EW_TRY(make_merges(t, reterr));
        return make_byte_touch(t, reterr);
    case EW_TOKENIZER_CHAR_BPE:
        EW_TRY(make_merges(t, reterr));
        return make_touching(t, reterr);
    case EW_TOKENIZER_SPM:
        EW_TRY(make_ranks(t, reterr));
        return make_touching(t, reterr);
    case EW_TOKENIZER_UNIGRAM:
        return ew__unigram_init(t, reterr);
    case EW_TOKENIZER_WORDPIECE:
        return ew__wordpiece_init(t, reterr);
    }
    return ew_fail(reterr, EW_EINVAL, "a vocabulary of kind %d", (int)t->v->kind);
}

ew_status ew_tokenizer_new(const ew_vocab *v, ew_tokenizer **ret_tok, ew_error *reterr)
{
    EW_TRY(check_ids(v, reterr));
    EW_AUTO(ew_tokenizer) t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    EW_TRY(ew_vocab_copy(v, &t->v, reterr));
    EW_TRY(ew__norm_init(t, reterr));
    EW_TRY(make_tables(t, reterr));
    EW_TRY(make_special(t, reterr));
    EW_TRY(make_pretok(t, reterr));
    EW_TRY(make_kind(t, reterr));
    EW_TRY(make_eog(t, reterr));
    *ret_tok = t;
    t = NULL;
    return EW_OK;
}

/* Encoding ------------------------------------------------------------------------------------------------------- */

ew_status ew_tokenizer_encode(const ew_tokenizer *tok, const char *text, size_t size, unsigned flags, ew_tokens *out,
                              ew_error *reterr)
{
    if (size > TEXT_MAX_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "a text of %zu bytes; at most %zu are tokenized at once", size,
                       TEXT_MAX_BYTES);
    }
    size_t before = out->n;
    ew__encoder e = {.tok = tok, .out = out};
    ew_status st = ew__encode(&e, text, size, flags, reterr);
    ew__encoder_release(&e);
    if (st != EW_OK) {
        out->n = before;
    }
    return st;
}

/* Getters -------------------------------------------------------------------------------------------------------- */

size_t ew_tokenizer_n_vocab(const ew_tokenizer *tok)
{
    return tok->v->n;
}

int32_t ew_tokenizer_bos(const ew_tokenizer *tok)
{
    return tok->v->bos;
}

int32_t ew_tokenizer_eos(const ew_tokenizer *tok)
{
    return tok->v->eos;
}

int32_t ew_tokenizer_pad(const ew_tokenizer *tok)
{
    return tok->v->pad;
}

bool ew_tokenizer_add_bos(const ew_tokenizer *tok)
{
    return tok->v->add_bos;
}

int32_t ew_tokenizer_find(const ew_tokenizer *tok, const char *text, size_t size)
{
    uint32_t id = ew__strtab_find(&tok->names, tok->v->blob, tok->v->text_end, text, size, ew__hash(text, size));
    return id == EW__NONE ? -1 : (int32_t)id;
}

bool ew_tokenizer_is_eog(const ew_tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->v->n && tok->eog[id];
}

bool ew_tokenizer_is_control(const ew_tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->v->n && tok->v->type[id] == EW_PIECE_CONTROL;
}

const ew_vocab *ew_tokenizer_vocab(const ew_tokenizer *tok)
{
    return tok->v;
}

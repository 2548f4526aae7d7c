/* Merging of one stretch of text: symbols in a doubly linked list, candidates in a heap ordered by (rank, place), as in SentencePiece's
 * bpe_model.cc and Hugging Face's Word::merge_all. A candidate whose neighbours have changed since is dropped when it comes up. */
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"
#include "token/token_int.h"

#define MEMO_SLOTS 8192u
#define MEMO_WORD 40u /* bytes of a remembered pre-token at most */
#define MEMO_IDS 12u
#define WAYS 4u /* children of a node of the heap: fewer levels, fewer cache misses in long stretches */

struct ew__memo {
    uint8_t size, n; /* size 0 = free */
    char word[MEMO_WORD];
    int32_t id[MEMO_IDS];
};

void ew__encoder_release(ew__encoder *e)
{
    ew_pretok_match_free(&e->match);
    ew_free(e->sym);
    ew_free(e->heap);
    ew_free(e->node);
    ew_free(e->memo);
}

uint32_t ew__plain_find(const ew_tokenizer *t, const char *s, size_t size)
{
    if (size > t->from_max) {
        return EW__NONE;
    }
    return ew__strtab_find(&t->plain, t->from, t->from_end, s, size, ew__hash(s, size));
}

/* What a and b merge to; false when they do not. */
static bool pair_find(const ew_tokenizer *t, const char *s, const ew__sym *a, const ew__sym *b, ew__candidate *ret)
{
    ret->len = a->len + b->len;
    if (t->v->kind == EW_TOKENIZER_SPM) {
        uint32_t id = ew__plain_find(t, s + a->begin, ret->len);
        if (id == EW__NONE) {
            return false;
        }
        ret->id = (int32_t)id;
        ret->rank = t->rank[id];
        return true;
    }
    if (a->id < 0 || b->id < 0) {
        return false;
    }
    uint32_t m = ew__u64map_get(&t->merges, ew__pair_key(a->id, b->id));
    if (m == EW__NONE) {
        return false;
    }
    ret->id = t->result[m];
    ret->rank = m;
    return true;
}

static inline bool before(const ew__candidate *a, const ew__candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static ew_status push(ew__encoder *e, const char *s, uint32_t left, uint32_t right)
{
    ew__candidate c = {.left = left, .right = right};
    if (!pair_find(e->tok, s, &e->sym[left], &e->sym[right], &c)) {
        return EW_OK;
    }
    EW_TRY(ew_grow((void **)&e->heap, &e->heap_cap, e->n_heap + 1, sizeof(*e->heap), SIZE_MAX / 64));
    size_t i = e->n_heap++;
    while (i > 0 && before(&c, &e->heap[(i - 1) / WAYS])) {
        e->heap[i] = e->heap[(i - 1) / WAYS];
        i = (i - 1) / WAYS;
    }
    e->heap[i] = c;
    return EW_OK;
}

static ew__candidate pop(ew__encoder *e)
{
    ew__candidate top = e->heap[0];
    ew__candidate last = e->heap[--e->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = WAYS * i + 1;
        size_t end = EW_MIN(child + WAYS, e->n_heap);
        if (child >= e->n_heap) {
            break;
        }
        for (size_t k = child + 1; k < end; k++) {
            child = before(&e->heap[k], &e->heap[child]) ? k : child;
        }
        if (!before(&e->heap[child], &last)) {
            break;
        }
        e->heap[i] = e->heap[child];
        i = child;
    }
    if (e->n_heap > 0) {
        e->heap[i] = last;
    }
    return top;
}

static ew_status add_sym(ew__encoder *e, size_t *n, size_t begin, size_t len, int32_t id)
{
    EW_TRY(ew_grow((void **)&e->sym, &e->sym_cap, *n + 1, sizeof(*e->sym), EW__NONE - 1));
    e->sym[*n] =
        (ew__sym){(uint32_t)begin, (uint32_t)len, *n == 0 ? EW__NONE : (uint32_t)(*n - 1), (uint32_t)(*n + 1), id};
    (*n)++;
    return EW_OK;
}

static bool has_bytes(const ew_tokenizer *t, const char *s, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (t->byte_id[(unsigned char)s[i]] < 0) {
            return false;
        }
    }
    return t->v->byte_fallback;
}

/* The symbols that merging starts from: bytes, or characters. */
static ew_status first_syms(ew__encoder *e, const char *s, size_t size, size_t *ret_n)
{
    const ew_tokenizer *t = e->tok;
    size_t n = 0;
    if (t->v->kind == EW_TOKENIZER_BPE) {
        for (size_t i = 0; i < size; i++) {
            EW_TRY(add_sym(e, &n, i, 1, t->byte_id[(unsigned char)s[i]]));
        }
        *ret_n = n;
        return EW_OK;
    }
    for (size_t i = 0; i < size;) {
        size_t len = ew_utf8_next(s + i, size - i, NULL);
        uint32_t id = ew__plain_find(t, s + i, len);
        if (id == EW__NONE && t->v->kind == EW_TOKENIZER_CHAR_BPE && has_bytes(t, s + i, len)) {
            for (size_t k = 0; k < len; k++) {
                EW_TRY(add_sym(e, &n, i + k, 1, t->byte_id[(unsigned char)s[i + k]]));
            }
        } else {
            EW_TRY(add_sym(e, &n, i, len, id == EW__NONE ? -1 : (int32_t)id));
        }
        i += len;
    }
    *ret_n = n;
    return EW_OK;
}

ew_status ew__emit_unknown(ew__encoder *e, const char *s, size_t size)
{
    const ew_tokenizer *t = e->tok;
    if (t->v->kind != EW_TOKENIZER_BPE && has_bytes(t, s, size)) {
        for (size_t i = 0; i < size; i++) {
            EW_TRY(ew_tokens_add(e->out, t->byte_id[(unsigned char)s[i]]));
        }
        return EW_OK;
    }
    bool fused = e->unknown && t->v->fuse_unk;
    e->unknown = true;
    return t->v->unk < 0 || fused ? EW_OK : ew_tokens_add(e->out, t->v->unk);
}

static ew_status emit(ew__encoder *e, const char *s, size_t n)
{
    for (uint32_t i = n == 0 ? EW__NONE : 0; i != EW__NONE; i = e->sym[i].next) {
        const ew__sym *sym = &e->sym[i];
        if (sym->id >= 0) {
            e->unknown = false;
            EW_TRY(ew_tokens_add(e->out, sym->id));
        } else {
            EW_TRY(ew__emit_unknown(e, s + sym->begin, sym->len));
        }
    }
    return EW_OK;
}

static ew_status merge_stretch(ew__encoder *e, const char *s, size_t size);

/* Bytes that stand together in no piece are never merged: a long word is done in parts. */
static ew_status merge_parts(ew__encoder *e, const char *s, size_t size)
{
    const uint64_t *touch = e->tok->byte_touch;
    size_t begin = 0;
    for (size_t i = 1; i < size; i++) {
        unsigned pair = (unsigned char)s[i - 1] * 256u + (unsigned char)s[i];
        if ((touch[pair / 64] >> pair % 64 & 1) == 0) {
            EW_TRY(merge_stretch(e, s + begin, i - begin));
            begin = i;
        }
    }
    return merge_stretch(e, s + begin, size - begin);
}

ew_status ew__merge(ew__encoder *e, const char *s, size_t size)
{
    if (e->tok->v->kind == EW_TOKENIZER_UNIGRAM) {
        return ew__unigram(e, s, size);
    }
    if (e->tok->v->kind == EW_TOKENIZER_WORDPIECE) {
        return ew__wordpiece(e, s, size);
    }
    return e->tok->v->kind == EW_TOKENIZER_BPE ? merge_parts(e, s, size) : merge_stretch(e, s, size);
}

static ew_status merge_stretch(ew__encoder *e, const char *s, size_t size)
{
    size_t n = 0;
    EW_TRY(first_syms(e, s, size, &n));
    if (n > 0) {
        e->sym[n - 1].next = EW__NONE;
    }
    e->n_heap = 0;
    for (size_t i = 1; i < n; i++) {
        EW_TRY(push(e, s, (uint32_t)(i - 1), (uint32_t)i));
    }
    while (e->n_heap > 0) {
        ew__candidate c = pop(e);
        ew__sym *a = &e->sym[c.left];
        ew__sym *b = &e->sym[c.right];
        if (a->len == 0 || b->len == 0 || a->next != c.right || a->len + b->len != c.len) {
            continue;
        }
        a->len = c.len;
        a->id = c.id;
        a->next = b->next;
        b->len = 0;
        if (a->next != EW__NONE) {
            e->sym[a->next].prev = c.left;
            EW_TRY(push(e, s, c.left, a->next));
        }
        if (a->prev != EW__NONE) {
            EW_TRY(push(e, s, a->prev, c.left));
        }
    }
    return emit(e, s, n);
}

ew_status ew__merge_memo(ew__encoder *e, const char *s, size_t size)
{
    const ew_tokenizer *t = e->tok;
    e->unknown = false;
    if (t->v->ignore_merges) {
        uint32_t id = ew__plain_find(t, s, size);
        if (id != EW__NONE) {
            return ew_tokens_add(e->out, (int32_t)id);
        }
    }
    if (e->memo == NULL || size > MEMO_WORD || size == 0) {
        return ew__merge(e, s, size);
    }
    ew__memo *m = &e->memo[ew__hash(s, size) % MEMO_SLOTS];
    if (m->size == size && memcmp(m->word, s, size) == 0) {
        return ew_tokens_append(e->out, m->id, m->n);
    }
    size_t from = e->out->n;
    EW_TRY(ew__merge(e, s, size));
    if (e->out->n - from <= MEMO_IDS) {
        m->size = (uint8_t)size;
        m->n = (uint8_t)(e->out->n - from);
        memcpy(m->word, s, size);
        if (m->n > 0) {
            memcpy(m->id, e->out->id + from, m->n * sizeof(*m->id));
        }
    }
    return EW_OK;
}

ew__memo *ew__memo_new(void)
{
    return ew_calloc(MEMO_SLOTS, sizeof(ew__memo));
}

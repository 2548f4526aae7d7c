/* Kinds without merges. Unigram: the best path through all pieces that fit (Viterbi, forward), as sentencepiece unigram_model.cc
 * EncodeOptimized and Hugging Face's Unigram::encode_optimized. Where every path must pass, what lies before is written and forgotten, so
 * that memory follows the longest stretch that pieces bridge, not the text. WordPiece: greedy, longest piece first. */
#include <float.h>
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"
#include "token/token_int.h"

#define UNK_PENALTY 10.0
#define WORD_MAX 100u

/* Unigram -------------------------------------------------------------------------------------------------------- */

ew_status ew__unigram_init(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    double min = DBL_MAX;
    double max = -DBL_MAX;
    for (size_t i = 0; i < v->n; i++) {
        bool user = v->type[i] == EW_PIECE_USER_DEFINED;
        if (v->type[i] == EW_PIECE_NORMAL) {
            min = EW_MIN(min, ew_vocab_score(v, i));
            max = EW_MAX(max, ew_vocab_score(v, i));
        }
        if (v->type[i] == EW_PIECE_NORMAL || (user && (v->attr[i] & EW_PIECE_ADDED) == 0)) {
            ew_span s = ew_vocab_text(v, (int32_t)i);
            if (ew__trie_add(&t->lattice, s.data, s.size, (uint32_t)i) != EW_OK) {
                return ew_fail(reterr, EW_ENOMEM, "no memory for a tokenizer");
            }
        }
    }
    t->unk_score = min > max ? 0.0 : min - UNK_PENALTY;
    t->user_score = min > max ? 0.0 : max;
    if (v->score_f32) {
        t->unk_score = (double)(float)t->unk_score;
    }
    return EW_OK;
}

static double piece_score(const ew_tokenizer *t, uint32_t id, size_t len)
{
    if (t->v->sp && t->v->type[id] == EW_PIECE_USER_DEFINED) { /* better than what could stand in its place */
        return (double)((float)len * (float)t->user_score - 0.1f);
    }
    return ew_vocab_score(t->v, id);
}

/* A way with that score so far takes one more piece. In single precision as SentencePiece 0.2.3 adds up. */
static void offer(ew__node *to, double so_far, double score, size_t len, int32_t id, bool f32)
{
    score = f32 ? (double)((float)so_far + (float)score) : so_far + score;
    if (to->len == 0 || score > to->score) {
        to->score = score;
        to->len = (uint32_t)len;
        to->id = id;
    }
}

/* The nodes for the ends base + 1 … base + n exist. */
static ew_status more_nodes(ew__encoder *e, size_t *n, size_t want)
{
    if (want < *n) {
        return EW_OK;
    }
    EW_TRY(ew_grow((void **)&e->node, &e->node_cap, want + 1, sizeof(*e->node), SIZE_MAX / 64));
    memset(e->node + *n, 0, (want + 1 - *n) * sizeof(*e->node));
    *n = want + 1;
    return EW_OK;
}

/* Every piece that begins at s (= base + at). *far is the furthest end so far. */
static ew_status extend(ew__encoder *e, const char *s, size_t size, size_t at, size_t *n, size_t *far)
{
    const ew_tokenizer *t = e->tok;
    size_t len = ew_utf8_next(s, size, NULL);
    bool single = false;
    uint32_t node = 0;
    bool f32 = t->v->score_f32;
    double so_far = e->node[at].score;
    for (size_t i = 0; i < size && t->lattice.has; i++) {
        node = ew__u64map_get(&t->lattice.next, (uint64_t)node << 8 | (unsigned char)s[i]);
        if (node == EW__NONE) {
            break;
        }
        uint32_t id = t->lattice.leaf[node];
        if (id != EW__NONE) {
            EW_TRY(more_nodes(e, n, at + i + 1));
            offer(&e->node[at + i + 1], so_far, piece_score(t, id, i + 1), i + 1, (int32_t)id, f32);
            *far = EW_MAX(*far, at + i + 1);
            single = single || i + 1 == len;
        }
    }
    if (!single) {
        EW_TRY(more_nodes(e, n, at + len));
        offer(&e->node[at + len], so_far, t->unk_score, len, -1, f32);
        *far = EW_MAX(*far, at + len);
    }
    return EW_OK;
}

/* Writes the best path to the end of s[0, size). */
static ew_status write_path(ew__encoder *e, const char *s, size_t size)
{
    for (size_t end = size; end > 0;) {
        uint32_t len = e->node[end].len;
        end -= len;
        e->node[end].next = len;
    }
    size_t begin = 0;
    while (begin < size) {
        size_t end = begin + e->node[begin].next;
        if (e->node[end].id >= 0) {
            e->unknown = false;
            EW_TRY(ew_tokens_add(e->out, e->node[end].id));
        } else {
            EW_TRY(ew__emit_unknown(e, s + begin, end - begin));
        }
        begin = end;
    }
    return EW_OK;
}

ew_status ew__unigram(ew__encoder *e, const char *s, size_t size)
{
    size_t base = 0;
    size_t n = 0;
    size_t far = 0;
    EW_TRY(more_nodes(e, &n, 0));
    e->node[0] = (ew__node){.score = 0.0};
    for (size_t at = 0; base + at < size;) {
        if (at > 0 && far == at) { /* no piece reaches beyond: all paths meet here */
            EW_TRY(write_path(e, s + base, at));
            e->node[0] = (ew__node){.score = e->node[at].score};
            base += at;
            at = far = 0;
            n = 1;
        }
        EW_TRY(extend(e, s + base + at, size - base - at, at, &n, &far));
        at += ew_utf8_next(s + base + at, size - base - at, NULL);
    }
    return write_path(e, s + base, size - base);
}

/* WordPiece ------------------------------------------------------------------------------------------------------ */

ew_status ew__wordpiece_init(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    ew_status st = EW_OK;
    for (size_t i = 0; i < v->n && st == EW_OK; i++) {
        ew_span s = ew_vocab_text(v, (int32_t)i);
        bool user = v->type[i] == EW_PIECE_USER_DEFINED && (v->attr[i] & EW_PIECE_ADDED) == 0;
        if (v->type[i] != EW_PIECE_NORMAL && !user) {
            continue;
        }
        if (s.size > 2 && memcmp(s.data, "##", 2) == 0) {
            st = ew__trie_add(&t->inner, (const char *)s.data + 2, s.size - 2, (uint32_t)i);
        }
        if (st == EW_OK) { /* also "##x" in a text, spelled so */
            st = ew__trie_add(&t->lattice, s.data, s.size, (uint32_t)i);
        }
    }
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "no memory for a tokenizer");
}

ew_status ew__wordpiece(ew__encoder *e, const char *s, size_t size)
{
    const ew_tokenizer *t = e->tok;
    size_t max = t->v->word_max == 0 ? WORD_MAX : t->v->word_max;
    size_t from = e->out->n;
    size_t chars = 0;
    bool whole = size > 0;
    for (size_t i = 0; i < size && chars <= max; chars++) {
        i += ew_utf8_next(s + i, size - i, NULL);
    }
    whole = whole && chars <= max;
    for (size_t i = 0; i < size && whole;) {
        size_t len = 0;
        uint32_t id = ew__trie_match(i == 0 ? &t->lattice : &t->inner, s + i, size - i, &len);
        whole = id != EW__NONE;
        if (whole) {
            EW_TRY(ew_tokens_add(e->out, (int32_t)id));
            i += len;
        }
    }
    if (!whole && size > 0) {
        e->out->n = from;
        return t->v->unk < 0 ? EW_OK : ew_tokens_add(e->out, t->v->unk);
    }
    return EW_OK;
}

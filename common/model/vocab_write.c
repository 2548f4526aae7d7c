/* ew_vocab to GGUF metadata. Keys: ggml/docs/gguf.md; what they cannot say goes into edgewise.tokenizer.*. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/vocab.h"
#include "model/vocab_int.h"

#define KEY EW__VOCAB_KEY
#define OWN EW__VOCAB_OWN

const char *const ew__split_mode_names[7] = {
    "isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous", "metaspace", "spelled"};
const char *const ew__prefix_names[3] = {"none", "always", "first"};
const char *const ew__norm_names[EW_TNORM_KINDS] = {
    [EW_TNORM_NFC] = "nfc",
    [EW_TNORM_NFD] = "nfd",
    [EW_TNORM_NFKC] = "nfkc",
    [EW_TNORM_NFKD] = "nfkd",
    [EW_TNORM_LOWERCASE] = "lowercase",
    [EW_TNORM_STRIP_ACCENTS] = "strip_accents",
    [EW_TNORM_STRIP] = "strip",
    [EW_TNORM_REPLACE] = "replace",
    [EW_TNORM_PREPEND] = "prepend",
    [EW_TNORM_CHARSMAP] = "charsmap",
    [EW_TNORM_BERT] = "bert",
    [EW_TNORM_NMT] = "nmt",
};

static ew_status no_memory(ew_error *reterr)
{
    return ew_fail(reterr, EW_ENOMEM, "no memory to write the vocabulary");
}

/* Scores that make a reader without merges (llama.cpp's SentencePiece path) merge nearly in the same order. */
static ew_status merge_scores(const ew_vocab *v, float *score, ew_error *reterr)
{
    EW_AUTO(ew_vocab_index) index = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_vocab_index_new(v, &index, reterr));
    for (size_t i = 0; i < v->n; i++) {
        score[i] = v->type[i] == EW_PIECE_NORMAL ? -(float)(v->n_merges + i) : 0.0f;
    }
    for (size_t i = v->n_merges; i-- > 0;) {
        ew_span a = ew_vocab_text(v, v->merges[i].left);
        ew_span b = ew_vocab_text(v, v->merges[i].right);
        ew_buf_clear(&text);
        ew_buf_add(&text, a.data, a.size);
        ew_buf_add(&text, b.data, b.size);
        EW_TRY(ew_buf_check(&text, reterr));
        int32_t id = ew_vocab_index_find(index, ew_buf_str(&text), text.size);
        if (id >= 0) {
            score[id] = -(float)i;
        }
    }
    return EW_OK;
}

/* The spelling of a WordPiece in GGUF. */
static ew_span phantom(ew_span s, ew_piece_type type, ew_buf *blob)
{
    const char *p = s.data;
    bool bracketed = s.size > 2 && p[0] == '[' && p[s.size - 1] == ']';
    if (type != EW_PIECE_NORMAL || bracketed) {
        return s;
    }
    if (s.size > 2 && memcmp(p, "##", 2) == 0) {
        return (ew_span){p + 2, s.size - 2};
    }
    ew_buf_adds(blob, EW__VOCAB_SPACE);
    ew_buf_add(blob, p, s.size);
    return (ew_span){NULL, s.size + 3};
}

/* Pieces as they are, or respelled into blob. */
static ew_status spell(const ew_vocab *v, ew_span *text, ew_buf *blob, ew_error *reterr)
{
    blob->max = SIZE_MAX / 2;
    for (size_t i = 0; i < v->n; i++) {
        text[i] = ew_vocab_text(v, (int32_t)i);
        if (v->kind == EW_TOKENIZER_WORDPIECE) {
            text[i] = phantom(text[i], (ew_piece_type)v->type[i], blob);
        }
    }
    size_t at = 0;
    for (size_t i = 0; i < v->n; i++) {
        if (text[i].data == NULL) {
            text[i].data = ew_buf_str(blob) + at;
            at += text[i].size;
        }
    }
    return ew_buf_check(blob, reterr);
}

static ew_status write_pieces(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    EW_AUTO_BUF blob = {0};
    ew_span *text = ew_calloc(v->n, sizeof(*text));
    int32_t *type = ew_calloc(v->n, sizeof(*type));
    float *score = ew_calloc(v->n, sizeof(*score));
    bool any_attr = false;
    ew_status st = text == NULL || type == NULL || score == NULL ? no_memory(reterr) : spell(v, text, &blob, reterr);
    for (size_t i = 0; i < v->n && st == EW_OK; i++) {
        type[i] = v->type[i];
        score[i] = v->score[i];
        any_attr = any_attr || v->attr[i] != 0;
    }
    if (st == EW_OK && v->kind == EW_TOKENIZER_CHAR_BPE) {
        st = merge_scores(v, score, reterr);
    }
    if (st == EW_OK) {
        ew_gguf_add_array_str(w, KEY "tokens", text, v->n);
        if (v->kind != EW_TOKENIZER_BPE && v->kind != EW_TOKENIZER_WORDPIECE) {
            ew_gguf_add_array(w, KEY "scores", EW_GGUF_F32, score, v->n);
        }
        if (v->exact_score != NULL) {
            ew_gguf_add_array(w, OWN "scores", EW_GGUF_F64, v->exact_score, v->n);
        }
        ew_gguf_add_array(w, KEY "token_type", EW_GGUF_I32, type, v->n);
        if (any_attr) {
            ew_gguf_add_array(w, OWN "attr", EW_GGUF_U8, v->attr, v->n);
        }
    }
    ew_free(text);
    ew_free(type);
    ew_free(score);
    return st;
}

/* "left right" needs a left piece without a space inside. */
static ew_status write_merges(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    EW_AUTO_BUF blob = {.max = SIZE_MAX / 2};
    ew_span *items = ew_calloc(v->n_merges, sizeof(*items));
    if (items == NULL) {
        return no_memory(reterr);
    }
    ew_status st = EW_OK;
    for (size_t i = 0; i < v->n_merges && st == EW_OK; i++) {
        ew_span a = ew_vocab_text(v, v->merges[i].left);
        ew_span b = ew_vocab_text(v, v->merges[i].right);
        if (a.size == 0 || b.size == 0 || memchr((const char *)a.data + 1, ' ', a.size - 1) != NULL) {
            st = ew_fail(reterr, EW_EUNSUPPORTED,
                         "merge %zu has an empty piece or one with a space, which GGUF cannot hold", i);
        }
        ew_buf_add(&blob, a.data, a.size);
        ew_buf_addc(&blob, ' ');
        ew_buf_add(&blob, b.data, b.size);
        items[i].size = a.size + b.size + 1;
    }
    if (st == EW_OK) {
        st = ew_buf_check(&blob, reterr);
    }
    if (st == EW_OK) {
        size_t at = 0;
        for (size_t i = 0; i < v->n_merges; i++) {
            items[i].data = blob.data + at;
            at += items[i].size;
        }
        ew_gguf_add_array_str(w, KEY "merges", items, v->n_merges);
    }
    ew_free(items);
    return st;
}

static ew_status write_splits(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    EW_AUTO_BUF blob = {0};
    ew_span items[32];
    size_t end[32];
    EW_ASSERT(v->n_splits <= EW_COUNT(items));
    for (size_t i = 0; i < v->n_splits; i++) {
        ew_buf_addf(&blob, "%s%s:", v->splits[i].invert ? "!" : "", ew__split_mode_names[v->splits[i].mode]);
        ew_buf_adds(&blob, v->splits[i].pattern);
        end[i] = blob.size;
    }
    EW_TRY(ew_buf_check(&blob, reterr));
    for (size_t i = 0; i < v->n_splits; i++) {
        size_t begin = i == 0 ? 0 : end[i - 1];
        items[i] = (ew_span){blob.data + begin, end[i] - begin};
    }
    if (v->n_splits == 0) {
        items[0] = (ew_span){"whole:", 6};
    }
    ew_gguf_add_array_str(w, OWN "splits", items, EW_MAX(v->n_splits, (size_t)1));
    return EW_OK;
}

/* Without the key a reader of the SentencePiece kind takes ids 1, 2 and 0: say when there is none. */
static void write_id(ew_gguf_writer *w, const char *key, int32_t id, bool always)
{
    if (id >= 0 || always) {
        ew_gguf_add_u32(w, key, id >= 0 ? (uint32_t)id : UINT32_MAX);
    }
}

static ew_status write_norms(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    EW_AUTO_BUF blob = {0};
    ew_span items[64];
    size_t end[64];
    EW_ASSERT(v->n_norms <= EW_COUNT(items));
    for (size_t i = 0; i < v->n_norms; i++) {
        const ew_tnorm *n = &v->norms[i];
        ew_buf_addf(&blob, "%s:%u:%zu:", ew__norm_names[n->kind], n->flags, strlen(n->from));
        ew_buf_adds(&blob, n->from);
        ew_buf_adds(&blob, n->to);
        end[i] = blob.size;
    }
    EW_TRY(ew_buf_check(&blob, reterr));
    for (size_t i = 0; i < v->n_norms; i++) {
        size_t begin = i == 0 ? 0 : end[i - 1];
        items[i] = (ew_span){blob.data + begin, end[i] - begin};
    }
    if (v->n_norms > 0 || v->kind == EW_TOKENIZER_WORDPIECE) {
        ew_gguf_add_array_str(w, OWN "norms", items, v->n_norms);
    }
    if (v->charsmap_size > 0) {
        ew_gguf_add_array(w, KEY "precompiled_charsmap", EW_GGUF_U8, v->charsmap, v->charsmap_size);
    }
    return EW_OK;
}

/* Keys that stay away when they say nothing. */
static void write_kind_flags(ew_gguf_writer *w, const ew_vocab *v)
{
    const struct {
        const char *key;
        bool value;
    } flags[] = {{OWN "suffix", v->suffix}, {OWN "plain_spaces", v->plain_spaces}, {OWN "score_f32", v->score_f32}};
    for (size_t i = 0; i < EW_COUNT(flags); i++) {
        if (flags[i].value) {
            ew_gguf_add_bool(w, flags[i].key, true);
        }
    }
    if (v->sp || v->kind == EW_TOKENIZER_UNIGRAM) {
        ew_gguf_add_bool(w, OWN "sp", v->sp);
        ew_gguf_add_bool(w, KEY "remove_extra_whitespaces", v->squeeze);
    }
    if (v->word_max > 0) {
        ew_gguf_add_u32(w, OWN "word_max", v->word_max);
    }
    if (v->kind == EW_TOKENIZER_WORDPIECE) {
        ew_gguf_add_bool(w, KEY "add_sep_token", v->add_eos);
        for (size_t i = 0; i < v->n_norms; i++) {
            if (v->norms[i].kind == EW_TNORM_BERT) {
                ew_gguf_add_bool(w, KEY "normalizer.lowercase", (v->norms[i].flags & EW_TNORM_LOWER) != 0);
                ew_gguf_add_bool(w, KEY "normalizer.strip_accents", (v->norms[i].flags & EW_TNORM_ACCENTS) != 0);
            }
        }
    }
}

static void write_flags(ew_gguf_writer *w, const ew_vocab *v)
{
    bool chars = v->kind != EW_TOKENIZER_BPE;
    bool words = v->kind == EW_TOKENIZER_WORDPIECE;
    write_id(w, words ? KEY "cls_token_id" : KEY "bos_token_id", v->bos, chars);
    write_id(w, words ? KEY "seperator_token_id" : KEY "eos_token_id", v->eos, chars); /* the key is spelled so */
    write_id(w, KEY "unknown_token_id", v->unk, chars);
    write_id(w, KEY "padding_token_id", v->pad, false);
    write_id(w, KEY "eot_token_id", v->eot, false);
    ew_gguf_add_bool(w, KEY "add_bos_token", v->add_bos);
    ew_gguf_add_bool(w, KEY "add_eos_token", v->add_eos);
    if (chars) {
        ew_gguf_add_bool(w, KEY "add_space_prefix", v->prefix != EW_PREFIX_NONE);
    }
    ew_gguf_add_str(w, OWN "prefix", ew__prefix_names[v->prefix]);
    ew_gguf_add_bool(w, OWN "prefix_once", v->prefix_once);
    ew_gguf_add_bool(w, OWN "ignore_merges", v->ignore_merges);
    ew_gguf_add_bool(w, OWN "byte_fallback", v->byte_fallback);
    ew_gguf_add_bool(w, OWN "fuse_unk", v->fuse_unk);
}

ew_status ew_vocab_write_gguf(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    static const char *const models[] = {[EW_TOKENIZER_BPE] = "gpt2",
                                         [EW_TOKENIZER_SPM] = "llama",
                                         [EW_TOKENIZER_CHAR_BPE] = "llama",
                                         [EW_TOKENIZER_UNIGRAM] = "t5",
                                         [EW_TOKENIZER_WORDPIECE] = "bert"};
    bool bpe = v->kind == EW_TOKENIZER_BPE;
    bool words = v->kind == EW_TOKENIZER_WORDPIECE;
    ew_gguf_add_str(w, KEY "model", models[v->kind]);
    if (v->kind == EW_TOKENIZER_CHAR_BPE) {
        ew_gguf_add_str(w, OWN "kind", "char-bpe");
    }
    if (v->pre != NULL || !bpe) {
        /* To other readers "llama-bpe" implies ignore_merges; "smaug-bpe" is the same pattern without. */
        const char *pre = bpe ? v->pre : "default";
        ew_gguf_add_str(w, KEY "pre", ew_str_eq(pre, "llama-bpe") && !v->ignore_merges ? "smaug-bpe" : pre);
    }
    if (v->pre == NULL && (bpe || words || v->n_splits > 0)) {
        EW_TRY(write_splits(w, v, reterr));
    }
    EW_TRY(write_pieces(w, v, reterr));
    if (bpe || v->kind == EW_TOKENIZER_CHAR_BPE) {
        EW_TRY(write_merges(w, v, reterr));
    }
    EW_TRY(write_norms(w, v, reterr));
    write_flags(w, v);
    write_kind_flags(w, v);
    if (v->chat_template != NULL) {
        ew_gguf_add_str(w, "tokenizer.chat_template", v->chat_template);
    }
    return EW_OK;
}

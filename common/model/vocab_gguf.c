/* Vocabulary in GGUF metadata. Keys and defaults: ggml/docs/gguf.md and llama.cpp src/llama-vocab.cpp. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/vocab.h"
#include "model/vocab_int.h"
#include "token/pretok.h"

#define KEY EW__VOCAB_KEY
#define OWN EW__VOCAB_OWN

static ew_status bad_key(const ew_gguf *g, const char *key, const char *what, ew_error *reterr)
{
    return ew_fail(reterr, EW_ECORRUPT, "%s: '%s' %s", ew_gguf_path(g), key, what);
}

/* An array of n elements when the key is there; NULL data otherwise. */
static ew_status opt_array(const ew_gguf *g, const char *key, size_t n, ew_gguf_array *ret, ew_error *reterr)
{
    memset(ret, 0, sizeof(*ret));
    if (!ew_gguf_has(g, key)) {
        return EW_OK;
    }
    if (!ew_gguf_get_array(g, key, ret) || ret->type == EW_GGUF_STRING || ret->n != n) {
        return bad_key(g, key, "should be an array of numbers, one per piece", reterr);
    }
    return EW_OK;
}

/* Pieces that end a turn or frame code to be filled in, which some files do not mark as control; llama.cpp overrides the same ones. */
static bool is_always_control(ew_span s)
{
    static const char *const names[] = {"<|eot_id|>",
                                        "<|im_end|>",
                                        "<|im_start|>",
                                        "<|end|>",
                                        "<end_of_turn>",
                                        "<|endoftext|>",
                                        "<EOT>",
                                        "_<EOT>",
                                        "[EOT]",
                                        "[EOS]",
                                        "</s>",
                                        "<|eom_id|>",
                                        "<|end_of_text|>",
                                        "<end_of_utterance>",
                                        "<eos>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<\xEF\xBD\x9C"
                                        "end" EW__VOCAB_SPACE "of" EW__VOCAB_SPACE "sentence\xEF\xBD\x9C>",
                                        "<|fim_prefix|>",
                                        "<fim-prefix>",
                                        "<fim_prefix>",
                                        "<PRE>",
                                        EW__VOCAB_SPACE "<PRE>",
                                        "<|fim_suffix|>",
                                        "<fim-suffix>",
                                        "<fim_suffix>",
                                        "<SUF>",
                                        EW__VOCAB_SPACE "<SUF>",
                                        "<|fim_middle|>",
                                        "<fim-middle>",
                                        "<fim_middle>",
                                        "<MID>",
                                        EW__VOCAB_SPACE "<MID>",
                                        "<|fim_pad|>",
                                        "<fim-pad>",
                                        "<fim_pad>",
                                        "<|fim_repo|>",
                                        "<|repo_name|>",
                                        "<fim-repo>",
                                        "<reponame>",
                                        "<|file_sep|>"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (s.size == strlen(names[i]) && memcmp(s.data, names[i], s.size) == 0) {
            return true;
        }
    }
    return false;
}

/* GGUF marks the beginning of a word by U+2581, BERT what goes on by "##". */
static ew_status add_piece(ew_vocab *v, ew_span s, float score, ew_piece_type type, ew_error *reterr)
{
    const char *p = s.data;
    char text[1024];
    bool bracketed = s.size > 2 && p[0] == '[' && p[s.size - 1] == ']';
    if (v->kind == EW_TOKENIZER_WORDPIECE && type == EW_PIECE_NORMAL && !bracketed && s.size > 0) {
        if (s.size > 3 && memcmp(p, EW__VOCAB_SPACE, 3) == 0) {
            s = (ew_span){p + 3, s.size - 3};
        } else if (s.size < sizeof(text) - 2) {
            memcpy(text, "##", 2);
            memcpy(text + 2, p, s.size);
            s = (ew_span){text, s.size + 2};
        }
    }
    return ew_vocab_add(v, s.data, s.size, score, type, NULL, reterr);
}

static ew_status read_pieces(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array text;
    ew_gguf_array score;
    ew_gguf_array type;
    ew_gguf_array attr;
    if (!ew_gguf_get_array(g, KEY "tokens", &text) || text.type != EW_GGUF_STRING || text.n == 0) {
        return bad_key(g, KEY "tokens", "is missing or no list of texts", reterr);
    }
    EW_TRY(opt_array(g, KEY "scores", text.n, &score, reterr));
    EW_TRY(opt_array(g, KEY "token_type", text.n, &type, reterr));
    EW_TRY(opt_array(g, OWN "attr", text.n, &attr, reterr));
    for (size_t i = 0; i < text.n; i++) {
        ew_span s = ew_gguf_array_str(&text, i);
        int64_t kind = type.n == 0 ? 0 : ew_gguf_array_i64(&type, i);
        if (kind < EW_PIECE_NORMAL || kind > EW_PIECE_BYTE) {
            bool byte = v->kind != EW_TOKENIZER_BPE && v->kind != EW_TOKENIZER_WORDPIECE;
            kind = byte && ew__spells_byte(s.data, s.size) ? EW_PIECE_BYTE : EW_PIECE_NORMAL;
        }
        if (is_always_control(s)) {
            kind = EW_PIECE_CONTROL;
        }
        float sc = score.n == 0 ? 0.0f : (float)ew_gguf_array_f64(&score, i);
        EW_TRY(add_piece(v, s, sc, (ew_piece_type)kind, reterr));
        v->attr[i] = attr.n == 0 ? 0 : (uint8_t)(ew_gguf_array_i64(&attr, i) & EW_PIECE_ATTRS);
        v->byte_fallback = v->byte_fallback || (v->kind != EW_TOKENIZER_BPE && kind == EW_PIECE_BYTE);
    }
    return EW_OK;
}

static ew_status read_exact_scores(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array a;
    EW_TRY(opt_array(g, OWN "scores", v->n, &a, reterr));
    if (a.n == 0) {
        return EW_OK;
    }
    double *score = ew_malloc(v->n, sizeof(*score));
    if (score == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the scores of %zu pieces", v->n);
    }
    for (size_t i = 0; i < v->n; i++) {
        score[i] = ew_gguf_array_f64(&a, i);
    }
    ew_status st = ew_vocab_set_scores(v, score, reterr);
    ew_free(score);
    return st;
}

static ew_status read_merges(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array merges;
    if (v->kind != EW_TOKENIZER_BPE && v->kind != EW_TOKENIZER_CHAR_BPE) {
        return EW_OK;
    }
    if (!ew_gguf_get_array(g, KEY "merges", &merges) || (merges.n > 0 && merges.type != EW_GGUF_STRING)) {
        return bad_key(g, KEY "merges", "is missing or no list of texts", reterr);
    }
    EW_AUTO(ew_vocab_index) index = NULL;
    EW_TRY(ew_vocab_index_new(v, &index, reterr));
    for (size_t i = 0; i < merges.n; i++) {
        ew_span s = ew_gguf_array_str(&merges, i);
        const char *p = s.data;
        const char *space = s.size < 3 ? NULL : memchr(p + 1, ' ', s.size - 1);
        if (space == NULL) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: merge %zu is not two pieces with a space between", ew_gguf_path(g),
                           i);
        }
        int32_t left = ew_vocab_index_find(index, p, (size_t)(space - p));
        int32_t right = ew_vocab_index_find(index, space + 1, s.size - (size_t)(space - p) - 1);
        if (left < 0 || right < 0) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: merge %zu ('%.*s') names a piece that the vocabulary lacks",
                           ew_gguf_path(g), i, (int)EW_MIN(s.size, (size_t)64), p);
        }
        EW_TRY(ew_vocab_add_merge(v, left, right, reterr));
    }
    return EW_OK;
}

static ew_status read_id(const ew_gguf *g, const char *key, size_t n, int32_t *id, ew_error *reterr)
{
    int64_t value;
    if (!ew_gguf_has(g, key)) {
        if (*id >= (int64_t)n) {
            *id = -1;
        }
        return EW_OK;
    }
    /* -1, also as unsigned, says "none". */
    if (!ew_gguf_get_i64(g, key, &value) ||
        (value != -1 && value != (int64_t)UINT32_MAX && (value < 0 || value >= (int64_t)n))) {
        return bad_key(g, key, "is not the id of a piece", reterr);
    }
    *id = value == (int64_t)UINT32_MAX ? -1 : (int32_t)value;
    return EW_OK;
}

static ew_status read_ids(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    EW_TRY(read_id(g, KEY "bos_token_id", v->n, &v->bos, reterr));
    EW_TRY(read_id(g, KEY "eos_token_id", v->n, &v->eos, reterr));
    EW_TRY(read_id(g, KEY "unknown_token_id", v->n, &v->unk, reterr));
    EW_TRY(read_id(g, KEY "padding_token_id", v->n, &v->pad, reterr));
    if (v->kind == EW_TOKENIZER_WORDPIECE) {
        EW_TRY(read_id(g, KEY "cls_token_id", v->n, &v->bos, reterr));
        EW_TRY(read_id(g, KEY "seperator_token_id", v->n, &v->eos, reterr)); /* the key is spelled so */
    }
    return read_id(g, KEY "eot_token_id", v->n, &v->eot, reterr);
}

/* "isolated:PATTERN", "!removed:PATTERN" (inverted), "whole:" (no pattern at all). */
static ew_status read_splits(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array a;
    if (!ew_gguf_get_array(g, OWN "splits", &a) || a.type != EW_GGUF_STRING) {
        return bad_key(g, OWN "splits", "should be a list of texts", reterr);
    }
    EW_TRY(ew_vocab_set_pre(v, NULL, reterr));
    for (size_t i = 0; i < v->n_splits; i++) { /* what the kind stands for */
        ew_free(v->splits[i].pattern);
    }
    v->n_splits = 0;
    for (size_t i = 0; i < a.n; i++) {
        ew_span s = ew_gguf_array_str(&a, i);
        char *text = ew_str_dup_n(s.data, s.size);
        char *colon = text == NULL ? NULL : strchr(text, ':');
        if (colon == NULL) {
            ew_free(text);
            return bad_key(g, OWN "splits", "should hold 'mode:pattern'", reterr);
        }
        *colon = '\0';
        bool invert = text[0] == '!';
        ew_status st = EW_OK;
        if (!ew_str_eq(text, "whole")) {
            size_t mode = 0;
            while (mode < EW_COUNT(ew__split_mode_names) && !ew_str_eq(text + invert, ew__split_mode_names[mode])) {
                mode++;
            }
            st = mode == EW_COUNT(ew__split_mode_names)
                     ? bad_key(g, OWN "splits", "has an unknown mode", reterr)
                     : ew_vocab_add_split(v, colon + 1, (ew_split_mode)mode, invert, reterr);
        }
        ew_free(text);
        EW_TRY(st);
    }
    return EW_OK;
}

static ew_status read_pre(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    if (ew_gguf_has(g, OWN "splits")) {
        return read_splits(g, v, reterr);
    }
    char pre[64] = "default";
    const ew_split *splits;
    size_t n;
    ew_span s;
    if (v->kind != EW_TOKENIZER_BPE) { /* files of BERT have names of their own there */
        return EW_OK;
    }
    if (ew_gguf_get_str(g, KEY "pre", &s)) {
        snprintf(pre, sizeof(pre), "%.*s", (int)EW_MIN(s.size, sizeof(pre) - 1), (const char *)s.data);
    }
    ew_status st = ew_pretok_lookup(pre, &splits, &n, reterr);
    if (st != EW_OK) {
        return ew_wrap(reterr, st, "%s", ew_gguf_path(g));
    }
    EW_TRY(ew_vocab_set_pre(v, pre, reterr));
    static const char *const llama3[] = {"llama3", "llama-v3",  "llama-bpe", "falcon3",      "pixtral",
                                         "lfm2",   "falcon-h1", "midm-2.0",  "jina-v5-nano", "tekken"};
    for (size_t i = 0; i < EW_COUNT(llama3); i++) {
        if (ew_str_eq(pre, llama3[i])) {
            v->ignore_merges = true;
            v->add_bos = true;
        }
    }
    return EW_OK;
}

/* "name:flags:bytes of from:" from to */
static ew_status read_norm(const ew_gguf *g, ew_span s, ew_vocab *v, ew_error *reterr)
{
    char *text = ew_str_dup_n(s.data, s.size);
    char *at = text;
    char *colon = text == NULL ? NULL : strchr(text, ':');
    unsigned long number[2] = {0, 0};
    size_t kind = 0;
    ew_status st = EW_OK;
    for (size_t i = 0; i < 2 && colon != NULL; i++) {
        char *end = NULL;
        number[i] = strtoul(colon + 1, &end, 10);
        if (i == 0) {
            *colon = '\0';
        }
        colon = end != NULL && *end == ':' ? end : NULL;
    }
    at = colon == NULL ? NULL : colon + 1;
    while (at != NULL && kind < EW_TNORM_KINDS && !ew_str_eq(text, ew__norm_names[kind])) {
        kind++;
    }
    if (at == NULL || kind == EW_TNORM_KINDS || number[0] > 255 || number[1] > strlen(at)) {
        st = bad_key(g, OWN "norms", "should hold 'name:flags:bytes:text'", reterr);
    } else {
        char *from = ew_str_dup_n(at, (size_t)number[1]);
        st = from == NULL
                 ? ew_fail(reterr, EW_ENOMEM, "no memory for a normalizer")
                 : ew_vocab_add_norm(v, (ew_tnorm_kind)kind, (unsigned)number[0], from, at + number[1], reterr);
        ew_free(from);
    }
    ew_free(text);
    return st;
}

static ew_status read_norms(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array a;
    bool nfc = false;
    if (ew_gguf_get_bool(g, OWN "nfc", &nfc) && nfc) { /* files of version 0.1 */
        EW_TRY(ew_vocab_add_norm(v, EW_TNORM_NFC, 0, NULL, NULL, reterr));
    }
    if (!ew_gguf_has(g, OWN "norms")) {
        return EW_OK;
    }
    if (!ew_gguf_get_array(g, OWN "norms", &a) || a.type != EW_GGUF_STRING) {
        return bad_key(g, OWN "norms", "should be a list of texts", reterr);
    }
    for (size_t i = 0; i < v->n_norms; i++) { /* what the kind stands for */
        ew_free(v->norms[i].from);
        ew_free(v->norms[i].to);
    }
    v->n_norms = 0;
    for (size_t i = 0; i < a.n; i++) {
        EW_TRY(read_norm(g, ew_gguf_array_str(&a, i), v, reterr));
    }
    return EW_OK;
}

static ew_status read_charsmap(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array a;
    if (!ew_gguf_has(g, KEY "precompiled_charsmap")) {
        return EW_OK;
    }
    if (!ew_gguf_get_array(g, KEY "precompiled_charsmap", &a) || (a.type != EW_GGUF_I8 && a.type != EW_GGUF_U8)) {
        return bad_key(g, KEY "precompiled_charsmap", "should be an array of bytes", reterr);
    }
    return ew_vocab_set_charsmap(v, a.data, a.n, reterr);
}

/* What our own files add. */
static ew_status read_own(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_span s;
    (void)ew_gguf_get_bool(g, OWN "prefix_once", &v->prefix_once);
    (void)ew_gguf_get_bool(g, OWN "ignore_merges", &v->ignore_merges);
    (void)ew_gguf_get_bool(g, OWN "byte_fallback", &v->byte_fallback);
    (void)ew_gguf_get_bool(g, OWN "fuse_unk", &v->fuse_unk);
    (void)ew_gguf_get_bool(g, OWN "sp", &v->sp);
    (void)ew_gguf_get_bool(g, OWN "suffix", &v->suffix);
    (void)ew_gguf_get_bool(g, OWN "plain_spaces", &v->plain_spaces);
    (void)ew_gguf_get_bool(g, OWN "score_f32", &v->score_f32);
    int64_t word_max = 0;
    if (ew_gguf_get_i64(g, OWN "word_max", &word_max) && word_max > 0 && word_max <= UINT32_MAX) {
        v->word_max = (uint32_t)word_max;
    }
    (void)ew_gguf_get_bool(g, KEY "remove_extra_whitespaces", &v->squeeze);
    EW_TRY(read_charsmap(g, v, reterr));
    EW_TRY(read_norms(g, v, reterr));
    if (ew_gguf_get_str(g, OWN "prefix", &s)) {
        size_t i = 0;
        while (i < EW_COUNT(ew__prefix_names) &&
               (strlen(ew__prefix_names[i]) != s.size || memcmp(ew__prefix_names[i], s.data, s.size) != 0)) {
            i++;
        }
        if (i == EW_COUNT(ew__prefix_names)) {
            return bad_key(g, OWN "prefix", "should be none, always or first", reterr);
        }
        v->prefix = (ew_prefix)i;
    }
    return EW_OK;
}

/* Phi-3's special pieces swallow the spaces after them; its files do not say so (llama.cpp: by the model's name). */
static void phi3_attributes(const ew_gguf *g, ew_vocab *v)
{
    char name[256] = "";
    if (!ew_gguf_get_str_copy(g, "general.name", name, sizeof(name))) {
        return;
    }
    for (char *c = name; *c != '\0'; c++) {
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
    }
    if (strstr(name, "phi-3") == NULL && strstr(name, "phi3") == NULL) {
        return;
    }
    for (size_t i = 0; i < v->n; i++) {
        ew_span s = ew_vocab_text(v, (int32_t)i);
        bool plain = (s.size == 5 && memcmp(s.data, "<unk>", 5) == 0) ||
                     (s.size == 3 && memcmp(s.data, "<s>", 3) == 0) ||
                     (s.size == 13 && memcmp(s.data, "<|endoftext|>", 13) == 0);
        if ((v->type[i] == EW_PIECE_CONTROL || v->type[i] == EW_PIECE_USER_DEFINED) && !plain) {
            v->attr[i] |= EW_PIECE_RSTRIP;
        }
    }
}

static ew_status find_kind(const ew_gguf *g, ew_tokenizer_kind *ret, ew_error *reterr)
{
    char model[64];
    char own[32] = "";
    if (!ew_gguf_has(g, KEY "model") && !ew_gguf_has(g, KEY "tokens")) {
        return ew_fail(reterr, EW_ENOENT, "%s has no vocabulary ('%s')", ew_gguf_path(g), KEY "model");
    }
    if (!ew_gguf_get_str_copy(g, KEY "model", model, sizeof(model))) {
        return bad_key(g, KEY "model", "is missing or no short text", reterr);
    }
    (void)ew_gguf_get_str_copy(g, OWN "kind", own, sizeof(own));
    if (ew_str_eq(own, "char-bpe")) {
        *ret = EW_TOKENIZER_CHAR_BPE;
    } else if (ew_str_eq(model, "gpt2")) {
        *ret = EW_TOKENIZER_BPE;
    } else if (ew_str_eq(model, "llama")) {
        *ret = EW_TOKENIZER_SPM;
    } else if (ew_str_eq(model, "t5")) {
        *ret = EW_TOKENIZER_UNIGRAM;
    } else if (ew_str_eq(model, "bert")) {
        *ret = EW_TOKENIZER_WORDPIECE;
    } else {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: tokenizer model '%s' is not known to this build; known are: gpt2 llama t5 bert",
                       ew_gguf_path(g), model);
    }
    return EW_OK;
}

/* What llama.cpp takes for granted of each kind. */
static ew_status kind_defaults(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    if (v->kind == EW_TOKENIZER_SPM || v->kind == EW_TOKENIZER_CHAR_BPE) {
        v->bos = 1;
        v->eos = 2;
        v->unk = 0;
        v->add_bos = true;
        v->prefix = EW_PREFIX_ALWAYS;
        v->fuse_unk = true;
    } else if (v->kind == EW_TOKENIZER_UNIGRAM) {
        v->eos = 1;
        v->unk = 2;
        v->pad = 0;
        v->add_eos = true;
        v->fuse_unk = true;
        v->sp = true;
    } else if (v->kind == EW_TOKENIZER_WORDPIECE) {
        bool lower = true;
        v->bos = 101;
        v->unk = 100;
        v->eos = 102;
        v->pad = 0;
        v->add_bos = v->add_eos = true;
        (void)ew_gguf_get_bool(g, KEY "normalizer.lowercase", &lower);
        bool accents = lower;
        (void)ew_gguf_get_bool(g, KEY "normalizer.strip_accents", &accents);
        EW_TRY(ew__vocab_bert(
            v, EW_TNORM_CLEAN | EW_TNORM_CHINESE | (accents ? EW_TNORM_ACCENTS : 0) | (lower ? EW_TNORM_LOWER : 0),
            reterr));
    }
    return EW_OK;
}

ew_status ew_vocab_from_gguf(const ew_gguf *g, ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO(ew_vocab) v = NULL;
    ew_tokenizer_kind kind = EW_TOKENIZER_BPE;
    ew_span s;
    EW_TRY(find_kind(g, &kind, reterr));
    EW_TRY(ew_vocab_new(kind, &v, reterr));
    EW_TRY(kind_defaults(g, v, reterr));
    EW_TRY(read_pieces(g, v, reterr));
    EW_TRY(read_exact_scores(g, v, reterr));
    EW_TRY(read_merges(g, v, reterr));
    EW_TRY(read_ids(g, v, reterr));
    EW_TRY(read_pre(g, v, reterr));
    bool space = v->prefix == EW_PREFIX_ALWAYS;
    bool ignored;
    (void)ew_gguf_get_bool(g, KEY "add_bos_token", &v->add_bos);
    (void)ew_gguf_get_bool(g, KEY "add_eos_token", &v->add_eos);
    (void)ew_gguf_get_bool(g, KEY "add_sep_token", kind == EW_TOKENIZER_WORDPIECE ? &v->add_eos : &ignored);
    if (kind != EW_TOKENIZER_BPE && ew_gguf_get_bool(g, KEY "add_space_prefix", &space)) {
        v->prefix = space ? EW_PREFIX_ALWAYS : EW_PREFIX_NONE;
    }
    EW_TRY(read_own(g, v, reterr));
    if (!ew_gguf_has(g, OWN "prefix")) {
        phi3_attributes(g, v);
    }
    if (ew_gguf_get_str(g, "tokenizer.chat_template", &s)) {
        EW_TRY(ew_vocab_set_chat_template(v, s.data, s.size, reterr));
    }
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}

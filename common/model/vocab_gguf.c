/* Vocabulary in GGUF metadata. Keys and defaults: ggml/docs/gguf.md and llama.cpp src/llama-vocab.cpp. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/vocab.h"
#include "token/pretok.h"

#define KEY "tokenizer.ggml."
#define OWN "edgewise.tokenizer."

static const char *const mode_names[] = {"isolated", "removed", "merged_with_previous", "merged_with_next",
                                         "contiguous"};
static const char *const prefix_names[] = {"none", "always", "first"};

/* Reading -------------------------------------------------------------------------------------------------------- */

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

static bool spells_byte(ew_span s)
{
    return s.size == 6 && memcmp(s.data, "<0x", 3) == 0 && ((const char *)s.data)[5] == '>';
}

/* End-of-turn pieces that some files do not mark as control; llama.cpp overrides the same ones. */
static bool is_always_control(ew_span s)
{
    static const char *const names[] = {"<|eot_id|>",    "<|im_end|>",    "<|im_start|>", "<|end|>",
                                        "<end_of_turn>", "<|endoftext|>", "<EOT>"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (s.size == strlen(names[i]) && memcmp(s.data, names[i], s.size) == 0) {
            return true;
        }
    }
    return false;
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
            kind = v->kind != EW_TOKENIZER_BPE && spells_byte(s) ? EW_PIECE_BYTE : EW_PIECE_NORMAL;
        }
        if (is_always_control(s)) {
            kind = EW_PIECE_CONTROL;
        }
        float sc = score.n == 0 ? 0.0f : (float)ew_gguf_array_f64(&score, i);
        EW_TRY(ew_vocab_add(v, s.data, s.size, sc, (ew_piece_type)kind, NULL, reterr));
        v->attr[i] = attr.n == 0 ? 0 : (uint8_t)(ew_gguf_array_i64(&attr, i) & (EW_PIECE_LSTRIP | EW_PIECE_RSTRIP));
        v->byte_fallback = v->byte_fallback || (v->kind != EW_TOKENIZER_BPE && kind == EW_PIECE_BYTE);
    }
    return EW_OK;
}

static ew_status read_merges(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_gguf_array merges;
    if (v->kind == EW_TOKENIZER_SPM) {
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
            while (mode < EW_COUNT(mode_names) && !ew_str_eq(text + invert, mode_names[mode])) {
                mode++;
            }
            st = mode == EW_COUNT(mode_names) ? bad_key(g, OWN "splits", "has an unknown mode", reterr)
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
    if (v->kind != EW_TOKENIZER_BPE) {
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
    static const char *const llama3[] = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"};
    for (size_t i = 0; i < EW_COUNT(llama3); i++) {
        if (ew_str_eq(pre, llama3[i])) {
            v->ignore_merges = true;
            v->add_bos = true;
        }
    }
    return EW_OK;
}

/* What our own files add. */
static ew_status read_own(const ew_gguf *g, ew_vocab *v, ew_error *reterr)
{
    ew_span s;
    (void)ew_gguf_get_bool(g, OWN "prefix_once", &v->prefix_once);
    (void)ew_gguf_get_bool(g, OWN "ignore_merges", &v->ignore_merges);
    (void)ew_gguf_get_bool(g, OWN "byte_fallback", &v->byte_fallback);
    (void)ew_gguf_get_bool(g, OWN "fuse_unk", &v->fuse_unk);
    (void)ew_gguf_get_bool(g, OWN "nfc", &v->nfc);
    if (ew_gguf_get_str(g, OWN "prefix", &s)) {
        size_t i = 0;
        while (i < EW_COUNT(prefix_names) &&
               (strlen(prefix_names[i]) != s.size || memcmp(prefix_names[i], s.data, s.size) != 0)) {
            i++;
        }
        if (i == EW_COUNT(prefix_names)) {
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
    } else {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: tokenizer model '%s' is not known to this build; known are: gpt2 llama", ew_gguf_path(g),
                       model);
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
    if (kind != EW_TOKENIZER_BPE) {
        v->bos = 1;
        v->eos = 2;
        v->unk = 0;
        v->add_bos = true;
        v->prefix = EW_PREFIX_ALWAYS;
        v->fuse_unk = true;
    }
    EW_TRY(read_pieces(g, v, reterr));
    EW_TRY(read_merges(g, v, reterr));
    EW_TRY(read_ids(g, v, reterr));
    EW_TRY(read_pre(g, v, reterr));
    bool space = v->prefix == EW_PREFIX_ALWAYS;
    (void)ew_gguf_get_bool(g, KEY "add_bos_token", &v->add_bos);
    (void)ew_gguf_get_bool(g, KEY "add_eos_token", &v->add_eos);
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

/* Writing -------------------------------------------------------------------------------------------------------- */

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

static ew_status write_pieces(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    ew_span *text = ew_calloc(v->n, sizeof(*text));
    int32_t *type = ew_calloc(v->n, sizeof(*type));
    float *score = ew_calloc(v->n, sizeof(*score));
    bool any_attr = false;
    ew_status st = text == NULL || type == NULL || score == NULL ? no_memory(reterr) : EW_OK;
    for (size_t i = 0; i < v->n && st == EW_OK; i++) {
        text[i] = ew_vocab_text(v, (int32_t)i);
        type[i] = v->type[i];
        score[i] = v->score[i];
        any_attr = any_attr || v->attr[i] != 0;
    }
    if (st == EW_OK && v->kind == EW_TOKENIZER_CHAR_BPE) {
        st = merge_scores(v, score, reterr);
    }
    if (st == EW_OK) {
        ew_gguf_add_array_str(w, KEY "tokens", text, v->n);
        if (v->kind != EW_TOKENIZER_BPE) {
            ew_gguf_add_array(w, KEY "scores", EW_GGUF_F32, score, v->n);
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
        ew_buf_addf(&blob, "%s%s:", v->splits[i].invert ? "!" : "", mode_names[v->splits[i].mode]);
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

static void write_flags(ew_gguf_writer *w, const ew_vocab *v)
{
    bool chars = v->kind != EW_TOKENIZER_BPE;
    write_id(w, KEY "bos_token_id", v->bos, chars);
    write_id(w, KEY "eos_token_id", v->eos, chars);
    write_id(w, KEY "unknown_token_id", v->unk, chars);
    write_id(w, KEY "padding_token_id", v->pad, false);
    write_id(w, KEY "eot_token_id", v->eot, false);
    ew_gguf_add_bool(w, KEY "add_bos_token", v->add_bos);
    ew_gguf_add_bool(w, KEY "add_eos_token", v->add_eos);
    if (chars) {
        ew_gguf_add_bool(w, KEY "add_space_prefix", v->prefix != EW_PREFIX_NONE);
    }
    ew_gguf_add_str(w, OWN "prefix", prefix_names[v->prefix]);
    ew_gguf_add_bool(w, OWN "prefix_once", v->prefix_once);
    ew_gguf_add_bool(w, OWN "ignore_merges", v->ignore_merges);
    ew_gguf_add_bool(w, OWN "byte_fallback", v->byte_fallback);
    ew_gguf_add_bool(w, OWN "fuse_unk", v->fuse_unk);
    ew_gguf_add_bool(w, OWN "nfc", v->nfc);
}

ew_status ew_vocab_write_gguf(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr)
{
    bool bpe = v->kind == EW_TOKENIZER_BPE;
    ew_gguf_add_str(w, KEY "model", bpe ? "gpt2" : "llama");
    if (v->kind == EW_TOKENIZER_CHAR_BPE) {
        ew_gguf_add_str(w, OWN "kind", "char-bpe");
    }
    if (v->pre != NULL || !bpe) {
        /* To other readers "llama-bpe" implies ignore_merges; "smaug-bpe" is the same pattern without. */
        const char *pre = bpe ? v->pre : "default";
        ew_gguf_add_str(w, KEY "pre", ew_str_eq(pre, "llama-bpe") && !v->ignore_merges ? "smaug-bpe" : pre);
    }
    if (v->pre == NULL && (bpe || v->n_splits > 0)) {
        EW_TRY(write_splits(w, v, reterr));
    }
    EW_TRY(write_pieces(w, v, reterr));
    if (v->kind != EW_TOKENIZER_SPM) {
        EW_TRY(write_merges(w, v, reterr));
    }
    write_flags(w, v);
    if (v->chat_template != NULL) {
        ew_gguf_add_str(w, "tokenizer.chat_template", v->chat_template);
    }
    return EW_OK;
}

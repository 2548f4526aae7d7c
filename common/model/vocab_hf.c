/* Vocabulary from Hugging Face's tokenizer.json. Meaning of the parts: huggingface/tokenizers 0.2x (models/bpe, pre_tokenizers,
 * normalizers, processors/template); which of the files says what: transformers PreTrainedTokenizerFast and LlamaTokenizerFast. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/vocab.h"
#include "model/vocab_int.h"
#include "sys/file.h"
#include "text/json.h"
#include "token/pretok.h"

#define CONFIG_MAX_BYTES (8u * 1024 * 1024)

typedef ew__hf hf;

/* Pieces and merges ---------------------------------------------------------------------------------------------- */

typedef struct slot {
    const char *text;
    size_t size;
    double score;
    ew_piece_type type;
    uint8_t attr;
} slot;

static ew_status check_id(const hf *h, const char *text, json_int_t id, size_t *n, ew_error *reterr)
{
    if (id < 0 || id >= (json_int_t)EW_LIMIT_VOCAB) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: piece '%.40s' has id %lld; ids go from 0 to %u", h->name, text,
                       (long long)id, EW_LIMIT_VOCAB - 1);
    }
    *n = EW_MAX(*n, (size_t)id + 1);
    return EW_OK;
}

/* One more than the highest id. */
static ew_status count_ids(const hf *h, const json_t *vocab, const json_t *added, size_t *ret_n, ew_error *reterr)
{
    size_t n = json_array_size(vocab); /* Unigram: the place is the id */
    size_t i;
    const char *text;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, value)
    {
        if (!json_is_integer(value)) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: the id of piece '%.40s' is %s", h->name, text,
                           ew_json_kind(value));
        }
        EW_TRY(check_id(h, text, json_integer_value(value), &n, reterr));
    }
    json_array_foreach(added, i, value)
    {
        int64_t id;
        EW_TRY(ew_json_get_str(value, h->name, "content", &text, reterr));
        EW_TRY(ew_json_get_i64(value, h->name, "id", 0, EW_LIMIT_VOCAB - 1, &id, reterr));
        EW_TRY(check_id(h, text, id, &n, reterr));
    }
    if (n == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the vocabulary is empty", h->name);
    }
    size_t named = json_object_size(vocab) + json_array_size(vocab) + json_array_size(added);
    if (n > EW_LIMIT_VOCAB || n / 4 > named) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: ids go up to %zu for %zu pieces", h->name, n - 1, named);
    }
    *ret_n = n;
    return EW_OK;
}

static ew_status fill_added(const hf *h, const json_t *added, slot *slots, ew_error *reterr)
{
    size_t i;
    json_t *item;
    json_array_foreach(added, i, item)
    {
        const char *text;
        int64_t id;
        bool special = false;
        bool lstrip = false;
        bool rstrip = false;
        bool word = false;
        bool normalized = false;
        EW_TRY(ew_json_get_str(item, h->name, "content", &text, reterr));
        EW_TRY(ew_json_get_i64(item, h->name, "id", 0, EW_LIMIT_VOCAB - 1, &id, reterr));
        EW_TRY(ew_json_opt_bool(item, h->name, "special", &special, reterr));
        EW_TRY(ew_json_opt_bool(item, h->name, "lstrip", &lstrip, reterr));
        EW_TRY(ew_json_opt_bool(item, h->name, "rstrip", &rstrip, reterr));
        EW_TRY(ew_json_opt_bool(item, h->name, "single_word", &word, reterr));
        EW_TRY(ew_json_opt_bool(item, h->name, "normalized", &normalized, reterr));
        bool counts = h->v->kind == EW_TOKENIZER_UNIGRAM || h->v->kind == EW_TOKENIZER_WORDPIECE;
        bool added_only = counts && slots[id].text == NULL;
        slots[id].text = text;
        slots[id].size = json_string_length(json_object_get(item, "content"));
        slots[id].type = special ? EW_PIECE_CONTROL : EW_PIECE_USER_DEFINED;
        slots[id].attr =
            (uint8_t)((lstrip ? EW_PIECE_LSTRIP : 0) | (rstrip ? EW_PIECE_RSTRIP : 0) |
                      (word ? EW_PIECE_SINGLE_WORD : 0) | (normalized && !special ? EW_PIECE_NORMALIZED : 0) |
                      (added_only ? EW_PIECE_ADDED : 0));
    }
    return EW_OK;
}

static ew_piece_type plain_type(const hf *h, const char *text, size_t size)
{
    bool chars = h->v->kind == EW_TOKENIZER_CHAR_BPE || h->v->kind == EW_TOKENIZER_UNIGRAM;
    return chars && h->v->byte_fallback && ew__spells_byte(text, size) ? EW_PIECE_BYTE : EW_PIECE_NORMAL;
}

static ew_status fill_slots(const hf *h, const json_t *vocab, const json_t *added, slot *slots, ew_error *reterr)
{
    size_t i;
    const char *text;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, value)
    {
        slot *s = &slots[json_integer_value(value)];
        if (s->text != NULL) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: pieces '%.40s' and '%.40s' have the same id", h->name, s->text,
                           text);
        }
        size_t size = strlen(text);
        *s = (slot){.text = text, .size = size, .type = plain_type(h, text, size)};
    }
    json_array_foreach(vocab, i, value)
    {
        const json_t *piece = json_array_get(value, 0);
        const json_t *score = json_array_get(value, 1);
        if (json_array_size(value) != 2 || !json_is_string(piece) || !json_is_number(score)) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: piece %zu is no pair of a text and a score", h->name, i);
        }
        text = json_string_value(piece);
        size_t size = json_string_length(piece);
        slots[i] = (slot){text, size, json_number_value(score), plain_type(h, text, size), 0};
    }
    return fill_added(h, added, slots, reterr);
}

static ew_status read_pieces(const hf *h, const json_t *model, ew_error *reterr)
{
    json_t *vocab;
    const json_t *added = json_object_get(h->root, "added_tokens");
    const char *unk = NULL;
    int64_t unk_id = -1;
    size_t n = 0;
    if (h->v->kind == EW_TOKENIZER_UNIGRAM) {
        EW_TRY(ew_json_get_arr(model, h->name, "vocab", &vocab, reterr));
        EW_TRY(ew_json_opt_i64(model, h->name, "unk_id", 0, EW_LIMIT_VOCAB - 1, &unk_id, reterr));
    } else {
        EW_TRY(ew_json_get_obj(model, h->name, "vocab", &vocab, reterr));
        EW_TRY(ew_json_opt_str(model, h->name, "unk_token", &unk, reterr));
    }
    EW_TRY(count_ids(h, vocab, added, &n, reterr));
    slot *slots = ew_calloc(n, sizeof(*slots));
    double *score = ew_calloc(n, sizeof(*score));
    if (slots == NULL || score == NULL) {
        ew_free(slots);
        ew_free(score);
        return ew_fail(reterr, EW_ENOMEM, "no memory for a vocabulary of %zu pieces", n);
    }
    ew_status st = fill_slots(h, vocab, added, slots, reterr);
    for (size_t i = 0; i < n && st == EW_OK; i++) {
        if (slots[i].text == NULL) {
            st = ew_vocab_pad(h->v, i + 1, reterr);
            continue;
        }
        bool is_unk = (unk != NULL && ew_str_eq(slots[i].text, unk)) || (int64_t)i == unk_id;
        if (is_unk) {
            h->v->unk = (int32_t)i;
        }
        bool hide = is_unk && h->v->kind != EW_TOKENIZER_BPE;
        st = ew_vocab_add(h->v, slots[i].text, slots[i].size, 0.0f, hide ? EW_PIECE_UNKNOWN : slots[i].type, NULL,
                          reterr);
        if (st == EW_OK) {
            h->v->attr[i] = slots[i].attr;
        }
    }
    for (size_t i = 0; i < n && st == EW_OK && h->v->kind == EW_TOKENIZER_UNIGRAM; i++) {
        score[i] = slots[i].score;
    }
    if (st == EW_OK && h->v->kind == EW_TOKENIZER_UNIGRAM) {
        st = ew_vocab_set_scores(h->v, score, reterr);
    }
    ew_free(slots);
    ew_free(score);
    return st;
}

/* "left right" or ["left", "right"] */
static ew_status merge_parts(const hf *h, const json_t *item, size_t i, ew_span ret[2], ew_error *reterr)
{
    if (json_is_array(item) && json_array_size(item) == 2 && json_is_string(json_array_get(item, 0)) &&
        json_is_string(json_array_get(item, 1))) {
        for (size_t k = 0; k < 2; k++) {
            const json_t *s = json_array_get(item, k);
            ret[k] = (ew_span){json_string_value(s), json_string_length(s)};
        }
        return EW_OK;
    }
    const char *text = json_is_string(item) ? json_string_value(item) : "";
    size_t size = json_is_string(item) ? json_string_length(item) : 0;
    const char *space = size < 3 ? NULL : memchr(text + 1, ' ', size - 1);
    if (space == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: merge %zu is not two pieces", h->name, i);
    }
    ret[0] = (ew_span){text, (size_t)(space - text)};
    ret[1] = (ew_span){space + 1, size - ret[0].size - 1};
    return EW_OK;
}

static ew_status read_merges(const hf *h, const json_t *model, ew_error *reterr)
{
    json_t *merges;
    json_t *item;
    size_t i;
    EW_AUTO(ew_vocab_index) index = NULL;
    EW_TRY(ew_json_get_arr(model, h->name, "merges", &merges, reterr));
    EW_TRY(ew_vocab_index_new(h->v, &index, reterr));
    json_array_foreach(merges, i, item)
    {
        ew_span part[2] = {{NULL, 0}, {NULL, 0}};
        EW_TRY(merge_parts(h, item, i, part, reterr));
        int32_t left = ew_vocab_index_find(index, part[0].data, part[0].size);
        int32_t right = ew_vocab_index_find(index, part[1].data, part[1].size);
        if (left < 0 || right < 0) {
            return ew_fail(reterr, EW_ECORRUPT,
                           "%s: merge %zu ('%.40s' + '%.40s') names a piece that the vocabulary lacks", h->name, i,
                           (const char *)part[0].data, (const char *)part[1].data);
        }
        EW_TRY(ew_vocab_add_merge(h->v, left, right, reterr));
    }
    return EW_OK;
}

static ew_status read_bpe(hf *h, const json_t *model, ew_error *reterr)
{
    const char *affix = NULL;
    h->v->kind = h->byte_level ? EW_TOKENIZER_BPE : EW_TOKENIZER_CHAR_BPE;
    EW_TRY(ew_json_opt_str(model, h->name, "continuing_subword_prefix", &affix, reterr));
    if (affix != NULL && affix[0] != '\0') {
        return ew__hf_unsupported(h, "continuing_subword_prefix", affix, reterr);
    }
    EW_TRY(ew_json_opt_str(model, h->name, "end_of_word_suffix", &affix, reterr));
    if (affix != NULL && affix[0] != '\0') {
        return ew__hf_unsupported(h, "end_of_word_suffix", affix, reterr);
    }
    EW_TRY(ew_json_opt_bool(model, h->name, "byte_fallback", &h->v->byte_fallback, reterr));
    EW_TRY(ew_json_opt_bool(model, h->name, "fuse_unk", &h->v->fuse_unk, reterr));
    EW_TRY(ew_json_opt_bool(model, h->name, "ignore_merges", &h->v->ignore_merges, reterr));
    EW_TRY(read_pieces(h, model, reterr));
    return read_merges(h, model, reterr);
}

static ew_status read_unigram(hf *h, const json_t *model, ew_error *reterr)
{
    h->v->kind = EW_TOKENIZER_UNIGRAM;
    h->v->fuse_unk = true;
    EW_TRY(ew_json_opt_bool(model, h->name, "byte_fallback", &h->v->byte_fallback, reterr));
    return read_pieces(h, model, reterr);
}

static ew_status read_wordpiece(hf *h, const json_t *model, ew_error *reterr)
{
    const char *affix = "##";
    int64_t max = 100;
    h->v->kind = EW_TOKENIZER_WORDPIECE;
    EW_TRY(ew_json_opt_str(model, h->name, "continuing_subword_prefix", &affix, reterr));
    if (!ew_str_eq(affix, "##")) {
        return ew__hf_unsupported(h, "continuing_subword_prefix", affix, reterr);
    }
    EW_TRY(ew_json_opt_i64(model, h->name, "max_input_chars_per_word", 1, INT32_MAX, &max, reterr));
    h->v->word_max = max == 100 ? 0 : (uint32_t)max;
    return read_pieces(h, model, reterr);
}

static ew_status read_model(hf *h, ew_error *reterr)
{
    json_t *model;
    const char *type = NULL;
    EW_TRY(ew_json_get_obj(h->root, h->name, "model", &model, reterr));
    EW_TRY(ew_json_opt_str(model, h->name, "type", &type, reterr));
    if (type == NULL) { /* old files do not say */
        type = json_is_array(json_object_get(model, "vocab"))               ? "Unigram"
               : json_object_get(model, "max_input_chars_per_word") != NULL ? "WordPiece"
                                                                            : "BPE";
    }
    if (ew_str_eq(type, "BPE")) {
        return read_bpe(h, model, reterr);
    }
    if (h->byte_level) {
        return ew__hf_unsupported(h, "ByteLevel with a model", type, reterr);
    }
    if (ew_str_eq(type, "Unigram")) {
        return read_unigram(h, model, reterr);
    }
    if (ew_str_eq(type, "WordPiece")) {
        return read_wordpiece(h, model, reterr);
    }
    return ew__hf_unsupported(h, "model", type, reterr);
}

/* What a prompt begins and ends with ----------------------------------------------------------------------------- */

static int32_t find_piece(const ew_vocab *v, const char *text)
{
    return text == NULL ? -1 : ew_vocab_find(v, text);
}

/* "bos_token": "<s>" or {"content": "<s>"} */
static void named_piece(const hf *h, const json_t *config, const char *key, int32_t *id)
{
    const json_t *j = json_object_get(config, key);
    const char *text = json_is_object(j) ? json_string_value(json_object_get(j, "content")) : json_string_value(j);
    int32_t found = find_piece(h->v, text);
    if (found >= 0) {
        *id = found;
    }
}

/* A string, or a list of {name, template} of which "default" counts. */
static ew_status read_template(const hf *h, const json_t *config, ew_error *reterr)
{
    const json_t *j = json_object_get(config, "chat_template");
    size_t i;
    const json_t *item;
    json_array_foreach(j, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && ew_str_eq(name, "default")) {
            j = json_object_get(item, "template");
            break;
        }
    }
    return json_is_string(j) ? ew_vocab_set_chat_template(h->v, json_string_value(j), json_string_length(j), reterr)
                             : EW_OK;
}

static ew_status read_config(hf *h, const json_t *config, ew_error *reterr)
{
    ew_vocab *v = h->v;
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    bool llama = class != NULL && (strstr(class, "Llama") != NULL || strstr(class, "Gemma") != NULL);
    int32_t bos = -1;
    named_piece(h, config, "bos_token", &bos);
    v->bos = v->bos >= 0 ? v->bos : bos;
    named_piece(h, config, "eos_token", &v->eos);
    named_piece(h, config, "pad_token", &v->pad);
    if (llama) {
        const json_t *post = json_object_get(h->root, "post_processor");
        bool bare = post == NULL || json_is_null(post);
        v->add_bos = v->add_bos || (bare && h->root != NULL && json_object_get(config, "add_bos_token") == NULL);
        EW_TRY(ew_json_opt_bool(config, h->name, "add_bos_token", &v->add_bos, reterr));
        EW_TRY(ew_json_opt_bool(config, h->name, "add_eos_token", &v->add_eos, reterr));
    }
    return read_template(h, config, reterr);
}

/* Whole ---------------------------------------------------------------------------------------------------------- */

/* A known name says the same as the splits, and stock readers understand it. */
static ew_status name_splits(hf *h, ew_error *reterr)
{
    ew_vocab *v = h->v;
    const char *name = ew_pretok_name_of(v->splits, v->n_splits);
    if (v->kind != EW_TOKENIZER_BPE || name == NULL) {
        return EW_OK;
    }
    EW_TRY(ew_vocab_set_pre(v, name, reterr));
    for (size_t i = 0; i < v->n_splits; i++) {
        ew_free(v->splits[i].pattern);
    }
    v->n_splits = 0;
    return EW_OK;
}

static ew_status read_all(hf *h, const json_t *config, ew_error *reterr)
{
    EW_TRY(ew__hf_normalizer(h, json_object_get(h->root, "normalizer"), reterr));
    EW_TRY(ew__hf_pre_tokenizer(h, json_object_get(h->root, "pre_tokenizer"), reterr));
    if (h->byte_level && h->spaces) {
        return ew__hf_unsupported(h, "pre-tokenizer", "ByteLevel with spaces as U+2581", reterr);
    }
    h->v->plain_spaces = !h->byte_level && !h->spaces;
    EW_TRY(read_model(h, reterr));
    EW_TRY(ew__hf_post_processor(h, json_object_get(h->root, "post_processor"), reterr));
    EW_TRY(ew__hf_decoder(h, json_object_get(h->root, "decoder"), reterr));
    if (config != NULL) {
        EW_TRY(read_config(h, config, reterr));
    }
    return name_splits(h, reterr);
}

ew_status ew__vocab_from_json(const char *name, const json_t *root, const json_t *config, ew_vocab **ret_vocab,
                              ew_error *reterr)
{
    EW_AUTO(ew_vocab) v = NULL;
    if (!json_is_object(root)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: %s where an object should be", name, ew_json_kind(root));
    }
    EW_TRY(ew_vocab_new(EW_TOKENIZER_BPE, &v, reterr));
    hf h = {.name = name, .root = root, .v = v};
    EW_TRY(read_all(&h, config, reterr));
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}

/* JSON whose integers may be beyond 64 bits ("model_max_length": 10^30, written for "no limit"): such a one is read as a real. */
static ew_status load_wide(const char *name, const char *text, size_t size, json_t **ret, ew_error *reterr)
{
    EW_AUTO_BUF wide = {.max = EW_LIMIT_JSON_BYTES};
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        size_t digits = 0;
        while (!quoted && i + digits < size && text[i + digits] >= '0' && text[i + digits] <= '9') {
            digits++;
        }
        char after = i + digits < size ? text[i + digits] : '\0';
        if (digits > 0) {
            ew_buf_add(&wide, text + i, digits);
            ew_buf_adds(&wide, digits > 18 && after != '.' && after != 'e' && after != 'E' ? ".0" : "");
            i += digits - 1;
        } else if (quoted && text[i] == '\\' && i + 1 < size) {
            ew_buf_add(&wide, text + i++, 2);
        } else {
            quoted = quoted != (text[i] == '"');
            ew_buf_addc(&wide, text[i]);
        }
    }
    EW_TRY(ew_buf_check(&wide, reterr));
    return ew_json_load(name, ew_buf_str(&wide), wide.size, ret, reterr);
}

ew_status ew_vocab_from_hf_text(const char *name, const void *tokenizer, size_t size, const void *config,
                                size_t config_size, ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO_JSON root = NULL;
    EW_AUTO_JSON extra = NULL;
    EW_TRY(ew_json_load(name, tokenizer, size, &root, reterr));
    if (config != NULL) {
        EW_TRY(load_wide("tokenizer_config.json", config, config_size, &extra, reterr));
    }
    return ew__vocab_from_json(name, root, extra, ret_vocab, reterr);
}

/* dir/file as JSON; *ret stays NULL when it is not there. */
static ew_status opt_file(const char *dir, const char *file, json_t **ret, ew_error *reterr)
{
    char path[4096];
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_path_join(path, sizeof(path), dir, file, reterr));
    if (!ew_file_exists(path)) {
        return EW_OK;
    }
    EW_TRY(ew_file_read(path, CONFIG_MAX_BYTES, &text, reterr));
    return load_wide(path, ew_buf_str(&text), text.size, ret, reterr);
}

/* "eos_token_id": 2 or [2, 32007]: the first is eos if none is known yet, one more is the end of a turn. */
static void numbered_pieces(ew_vocab *v, const json_t *config)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    const json_t *bos = json_object_get(config, "bos_token_id");
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= (json_int_t)v->n) {
            continue;
        }
        if (v->eos < 0) {
            v->eos = (int32_t)value;
        } else if (v->eot < 0 && value != v->eos) {
            v->eot = (int32_t)value;
        }
    }
    if (v->bos < 0 && json_is_integer(bos) && json_integer_value(bos) >= 0 &&
        json_integer_value(bos) < (json_int_t)v->n) {
        v->bos = (int32_t)json_integer_value(bos);
    }
}

static ew_status jinja_template(const char *dir, ew_vocab *v, ew_error *reterr)
{
    char path[4096];
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_path_join(path, sizeof(path), dir, "chat_template.jinja", reterr));
    if (v->chat_template != NULL || !ew_file_exists(path)) {
        return EW_OK;
    }
    EW_TRY(ew_file_read(path, EW_LIMIT_YAML_BYTES, &text, reterr));
    return ew_vocab_set_chat_template(v, ew_buf_str(&text), text.size, reterr);
}

/* What special_tokens_map.json alone says goes for tokenizer_config.json. */
static ew_status old_files(const char *dir, json_t **config, const json_t *map, ew_vocab **ret, ew_error *reterr)
{
    if (*config == NULL) {
        *config = json_object();
    }
    if (*config == NULL ||
        (json_is_object(map) && json_object_update_missing(*config, (json_t *)(uintptr_t)map) != 0)) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the tokenizer of %s", dir);
    }
    EW_TRY(ew__vocab_from_old_files(dir, *config, ret, reterr));
    hf h = {.name = dir, .v = *ret};
    return read_config(&h, *config, reterr);
}

ew_status ew_vocab_from_hf(const char *dir, ew_vocab **ret_vocab, ew_error *reterr)
{
    char path[4096];
    EW_AUTO_JSON root = NULL;
    EW_AUTO_JSON config = NULL;
    EW_AUTO_JSON map = NULL;
    EW_AUTO_JSON generation = NULL;
    EW_AUTO_JSON model = NULL;
    EW_AUTO(ew_vocab) v = NULL;
    EW_TRY(opt_file(dir, "tokenizer_config.json", &config, reterr));
    EW_TRY(opt_file(dir, "special_tokens_map.json", &map, reterr));
    EW_TRY(opt_file(dir, "generation_config.json", &generation, reterr));
    EW_TRY(opt_file(dir, "config.json", &model, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, "tokenizer.json", reterr));
    if (ew_file_exists(path)) {
        EW_TRY(ew_json_load_file(path, 0, &root, reterr));
        EW_TRY(ew__vocab_from_json(path, root, config, &v, reterr));
    } else {
        EW_TRY(old_files(dir, &config, map, &v, reterr));
    }
    hf h = {.name = path, .root = root, .v = v};
    if (v->eos < 0) {
        named_piece(&h, map, "eos_token", &v->eos);
    }
    if (v->bos < 0) {
        named_piece(&h, map, "bos_token", &v->bos);
    }
    numbered_pieces(v, generation);
    numbered_pieces(v, model);
    EW_TRY(jinja_template(dir, v, reterr));
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}

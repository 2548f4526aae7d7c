/* Directories of Hugging Face without tokenizer.json: tokenizer.model; vocab.json with merges.txt; vocab.txt. The last two are turned into the
 * tokenizer.json that transformers' converters would write, so that there is one reader. */
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

/* dir/file; false when it is not there. */
static bool there(const char *dir, const char *file, char path[static 4096])
{
    return ew_path_join(path, 4096, dir, file, NULL) == EW_OK && ew_file_exists(path);
}

static const char *class_of(const json_t *config)
{
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    return class == NULL ? "" : class;
}

/* Added pieces ----------------------------------------------------------------------------------------------------- */

/* One piece that a configuration adds to those of tokenizer.model, or says more about. */
static ew_status add_piece(ew_vocab *v, const json_t *item, int64_t id, ew_error *reterr)
{
    const char *text = json_string_value(json_object_get(item, "content"));
    size_t size = json_string_length(json_object_get(item, "content"));
    bool special = json_is_true(json_object_get(item, "special"));
    if (text == NULL || size == 0 || id < 0 || id >= (int64_t)EW_MIN(v->n + 4096, (size_t)EW_LIMIT_VOCAB)) {
        return ew_fail(reterr, EW_ECORRUPT, "tokenizer_config.json: added piece %lld has no text or a wild id",
                       (long long)id);
    }
    EW_TRY(ew_vocab_pad(v, (size_t)id, reterr));
    if ((size_t)id == v->n) {
        EW_TRY(ew_vocab_add(v, text, size, 0.0f, EW_PIECE_NORMAL, NULL, reterr));
    }
    ew_span has = ew_vocab_text(v, (int32_t)id);
    if (has.size == size && memcmp(has.data, text, size) == 0 && v->type[id] != EW_PIECE_UNKNOWN) {
        v->type[id] = special ? EW_PIECE_CONTROL : EW_PIECE_USER_DEFINED;
        v->attr[id] = (uint8_t)((json_is_true(json_object_get(item, "lstrip")) ? EW_PIECE_LSTRIP : 0) |
                                (json_is_true(json_object_get(item, "rstrip")) ? EW_PIECE_RSTRIP : 0) |
                                (json_is_true(json_object_get(item, "single_word")) ? EW_PIECE_SINGLE_WORD : 0));
    }
    return EW_OK;
}

static int64_t number(const char *text)
{
    int64_t n = 0;
    for (; *text >= '0' && *text <= '9' && n <= EW_LIMIT_VOCAB; text++) {
        n = n * 10 + (*text - '0');
    }
    return *text == '\0' ? n : -1;
}

static ew_status add_pieces(ew_vocab *v, const json_t *config, ew_error *reterr)
{
    json_t *list = json_object_get(config, "added_tokens_decoder");
    const char *key;
    json_t *item;
    json_object_foreach(list, key, item)
    {
        EW_TRY(add_piece(v, item, number(key), reterr));
    }
    return EW_OK;
}

static ew_status from_spm(const char *path, const json_t *config, ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO_BUF data = {0};
    EW_AUTO(ew_vocab) v = NULL;
    const char *class = class_of(config);
    static const char *const shifted[] = {"XLMRoberta", "Camembert", "MBart", "Barthez", "XGLM"};
    for (size_t i = 0; i < EW_COUNT(shifted); i++) {
        if (strstr(class, shifted[i]) != NULL) { /* ids are those of the file plus one, and more */
            return ew_fail(reterr, EW_EUNSUPPORTED,
                           "%s: %s needs tokenizer.json. HINT: transformers' "
                           "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it",
                           path, class);
        }
    }
    EW_TRY(ew_file_read(path, EW_LIMIT_JSON_BYTES, &data, reterr));
    EW_TRY(ew_vocab_from_spm(path, ew_buf_str(&data), data.size, &v, reterr));
    EW_TRY(add_pieces(v, config, reterr));
    if (strstr(class, "T5") != NULL) {
        v->add_bos = false;
        v->add_eos = v->eos >= 0;
    }
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}

/* Made-up tokenizer.json ------------------------------------------------------------------------------------------- */

/* Pieces that the configuration names, as added_tokens with the ids of the vocabulary. */
static json_t *added_tokens(const json_t *vocab, const json_t *config, const char *const *also)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                       "cls_token", "sep_token", "mask_token"};
    json_t *list = json_array();
    const char *key;
    json_t *item;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, item)
    {
        json_t *copy = json_copy(item);
        (void)json_object_set_new(copy, "id", json_integer(number(key)));
        (void)json_array_append_new(list, copy);
    }
    for (size_t i = 0; i < EW_COUNT(keys) + 8; i++) {
        const json_t *j = i < EW_COUNT(keys) ? json_object_get(config, keys[i]) : NULL;
        const char *text = json_is_object(j) ? json_string_value(json_object_get(j, "content")) : json_string_value(j);
        if (i >= EW_COUNT(keys)) {
            if (also[i - EW_COUNT(keys)] == NULL) {
                break;
            }
            text = also[i - EW_COUNT(keys)];
        }
        const json_t *id = text == NULL ? NULL : json_object_get(vocab, text);
        if (!json_is_integer(id) || json_array_size(list) > 64) {
            continue;
        }
        json_t *piece = json_pack("{s:s, s:I, s:b, s:b, s:b}", "content", text, "id", json_integer_value(id), "special",
                                  1, "lstrip", json_is_true(json_object_get(j, "lstrip")), "rstrip",
                                  json_is_true(json_object_get(j, "rstrip")));
        (void)json_array_append_new(list, piece);
    }
    return list;
}

/* Lines of text as an array (merges) or as text -> number of the line (pieces). */
static ew_status read_lines(const char *path, bool merges, json_t **ret, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_file_read(path, EW_LIMIT_JSON_BYTES, &text, reterr));
    EW_AUTO_JSON out = merges ? json_array() : json_object();
    const char *s = ew_buf_str(&text);
    json_int_t line = 0;
    for (size_t at = 0; at < text.size; line++) {
        const char *end = memchr(s + at, '\n', text.size - at);
        size_t next = end == NULL ? text.size : (size_t)(end - s) + 1;
        size_t size = (end == NULL ? text.size : (size_t)(end - s)) - at;
        size -= size > 0 && s[at + size - 1] == '\r';
        bool skip = merges && (size == 0 || (line == 0 && s[at] == '#'));
        if (!skip && merges && json_array_append_new(out, json_stringn(s + at, size)) != 0) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: line %lld is no text", path, (long long)line + 1);
        }
        if (!merges) {
            char *piece = ew_str_dup_n(s + at, size);
            int rc = piece == NULL ? -1 : json_object_set_new(out, piece, json_integer(line));
            ew_free(piece);
            if (rc != 0) {
                return ew_fail(reterr, EW_ECORRUPT, "%s: line %lld is no text", path, (long long)line + 1);
            }
        }
        at = next;
    }
    *ret = out;
    out = NULL;
    return EW_OK;
}

static ew_status from_merges(const char *dir, const char *path, const json_t *config, ew_vocab **ret_vocab,
                             ew_error *reterr)
{
    static const char *const gpt2[] = {"GPT2", "Roberta", "Bart", "CodeGen", "GPTNeoX", "Longformer", "LED", "Qwen2"};
    static const char *const end[] = {"<|endoftext|>", NULL};
    char merges_path[4096];
    const char *class = class_of(config);
    bool known = class[0] == '\0';
    bool qwen2 = strstr(class, "Qwen2") != NULL;
    EW_AUTO_JSON vocab = NULL;
    EW_AUTO_JSON merges = NULL;
    for (size_t i = 0; i < EW_COUNT(gpt2); i++) {
        known = known || strstr(class, gpt2[i]) != NULL;
    }
    if (!known) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: tokenizers of class '%.64s' need tokenizer.json. HINT: transformers' "
                       "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it",
                       path, class);
    }
    EW_TRY(ew_json_load_file(path, 0, &vocab, reterr));
    EW_TRY(ew_path_join(merges_path, sizeof(merges_path), dir, "merges.txt", reterr));
    EW_TRY(read_lines(merges_path, true, &merges, reterr));
    static const char qwen_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                       "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    json_t *cut = json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                            json_is_true(json_object_get(config, "add_prefix_space")), "use_regex", !qwen2);
    if (qwen2) {
        cut = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Split",
                        "pattern", "Regex", qwen_pattern, "behavior", "Isolated", "invert", 0, cut);
    }
    EW_AUTO_JSON root = json_pack("{s:{s:s, s:O, s:O}, s:o, s:o, s:o}", "model", "type", "BPE", "vocab", vocab,
                                  "merges", merges, "added_tokens", added_tokens(vocab, config, end), "pre_tokenizer",
                                  cut, "normalizer", qwen2 ? json_pack("{s:s}", "type", "NFC") : json_null());
    if (root == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %s", path);
    }
    EW_TRY(ew__vocab_from_json(path, root, config, ret_vocab, reterr));
    if (strstr(class, "Roberta") != NULL || strstr(class, "Bart") != NULL) {
        (*ret_vocab)->bos = ew_vocab_find(*ret_vocab, "<s>");
        (*ret_vocab)->eos = ew_vocab_find(*ret_vocab, "</s>");
        (*ret_vocab)->add_bos = (*ret_vocab)->add_eos = true;
    } else if (json_is_true(json_object_get(config, "add_bos_token"))) {
        (*ret_vocab)->add_bos = true;
    }
    return EW_OK;
}

static ew_status from_words(const char *path, const json_t *config, ew_vocab **ret_vocab, ew_error *reterr)
{
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", NULL};
    EW_AUTO_JSON vocab = NULL;
    EW_TRY(read_lines(path, false, &vocab, reterr));
    const json_t *lower = json_object_get(config, "do_lower_case");
    const json_t *accents = json_object_get(config, "strip_accents");
    const json_t *chinese = json_object_get(config, "tokenize_chinese_chars");
    EW_AUTO_JSON root =
        json_pack("{s:{s:s, s:O, s:s}, s:o, s:{s:s, s:b, s:b, s:o}, s:{s:s}, s:{s:s, s:[s, i], s:[s, i]}}", "model",
                  "type", "WordPiece", "vocab", vocab, "unk_token", "[UNK]", "added_tokens",
                  added_tokens(vocab, config, special), "normalizer", "type", "BertNormalizer", "lowercase",
                  !json_is_false(lower), "handle_chinese_chars", !json_is_false(chinese), "strip_accents",
                  json_is_boolean(accents) ? json_deep_copy(accents) : json_null(), "pre_tokenizer", "type",
                  "BertPreTokenizer", "post_processor", "type", "BertProcessing", "cls", "[CLS]", 0, "sep", "[SEP]", 0);
    if (root == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %s", path);
    }
    return ew__vocab_from_json(path, root, config, ret_vocab, reterr);
}

ew_status ew__vocab_from_old_files(const char *dir, const json_t *config, ew_vocab **ret_vocab, ew_error *reterr)
{
    char path[4096];
    char merges[4096];
    if (there(dir, "tokenizer.model", path) || there(dir, "spiece.model", path)) {
        return from_spm(path, config, ret_vocab, reterr);
    }
    if (there(dir, "merges.txt", merges) && there(dir, "vocab.json", path)) {
        return from_merges(dir, path, config, ret_vocab, reterr);
    }
    if (there(dir, "vocab.txt", path)) {
        return from_words(path, config, ret_vocab, reterr);
    }
    return ew_fail(
        reterr, EW_ENOENT,
        "%s has no tokenizer.json, tokenizer.model, vocab.json with merges.txt or vocab.txt. HINT: transformers' "
        "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json",
        dir);
}

/* The parts of tokenizer.json besides the pieces: normalizer, pre-tokenizer, post-processor, decoder. Meaning: huggingface/tokenizers 0.2x.
 * A part that is not known is refused by name. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/vocab_int.h"
#include "text/json.h"

#define SPACE EW__VOCAB_SPACE
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PUNCTUATION "[!-/:-@\\[-`{-~\\p{P}]"
#define WORD "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]"
#define NO_WORD "[^\\s\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]"
#define DEPTH_MAX 4 /* Sequence in Sequence */

ew_status ew__hf_unsupported(const ew__hf *h, const char *part, const char *what, ew_error *reterr)
{
    return ew_fail(reterr, EW_EUNSUPPORTED, "%s: %s '%.64s' is not supported", h->name, part, what);
}

static ew_status type_of(const ew__hf *h, const json_t *j, const char **ret, ew_error *reterr)
{
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: a part of the tokenizer is %s, not an object", h->name,
                       ew_json_kind(j));
    }
    return ew_json_get_str(j, h->name, "type", ret, reterr);
}

typedef ew_status (*part_fn)(ew__hf *h, const json_t *j, const char *type, ew_error *reterr);

/* Calls fn for the part, or for each of a Sequence of them. */
static ew_status each_part(ew__hf *h, const json_t *j, const char *list_key, part_fn fn, int depth, ew_error *reterr)
{
    const char *type;
    if (j == NULL || json_is_null(j)) {
        return EW_OK;
    }
    EW_TRY(type_of(h, j, &type, reterr));
    if (!ew_str_eq(type, "Sequence") || depth >= DEPTH_MAX) {
        return fn(h, j, type, reterr);
    }
    json_t *list;
    size_t i;
    json_t *item;
    EW_TRY(ew_json_get_arr(j, h->name, list_key, &list, reterr));
    json_array_foreach(list, i, item)
    {
        EW_TRY(each_part(h, item, list_key, fn, depth + 1, reterr));
    }
    return EW_OK;
}

/* text as a pattern that matches just it */
static void quote_pattern(const char *text, ew_buf *out)
{
    for (; *text != '\0'; text++) {
        if (strchr("\\^$.[]|()?*+{}#-/ ", *text) != NULL) {
            ew_buf_addc(out, '\\');
        }
        ew_buf_addc(out, *text);
    }
}

/* {"String": "x"} or {"Regex": "x"} as a pattern. */
static ew_status read_pattern(const ew__hf *h, const json_t *j, const char *part, ew_buf *out, ew_error *reterr)
{
    json_t *pattern;
    const char *text = NULL;
    EW_TRY(ew_json_get_obj(j, h->name, "pattern", &pattern, reterr));
    EW_TRY(ew_json_opt_str(pattern, h->name, "Regex", &text, reterr));
    if (text == NULL) {
        EW_TRY(ew_json_get_str(pattern, h->name, "String", &text, reterr));
        quote_pattern(text, out);
    } else {
        ew_buf_adds(out, text);
    }
    EW_TRY(ew_buf_check(out, reterr));
    /* Oniguruma reads these differently from PCRE2: set intersection, a hexadecimal digit. */
    if (text[0] == '\0' || strstr(ew_buf_str(out), "&&") != NULL || strstr(ew_buf_str(out), "\\h") != NULL) {
        return ew__hf_unsupported(h, part, text, reterr);
    }
    return EW_OK;
}

/* Pre-tokenizer -------------------------------------------------------------------------------------------------- */

static ew_status split_mode(const ew__hf *h, const char *behavior, ew_split_mode *ret, ew_error *reterr)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (ew_str_eq(behavior, names[i])) {
            *ret = (ew_split_mode)i;
            return EW_OK;
        }
    }
    return ew__hf_unsupported(h, "split behavior", behavior, reterr);
}

/* What comes after ByteLevel sees the spelling of the bytes. */
static ew_status add_split(const ew__hf *h, const char *pattern, ew_split_mode mode, bool invert, ew_error *reterr)
{
    bool spelled = false;
    for (size_t i = 0; i < h->v->n_splits; i++) {
        spelled = spelled || h->v->splits[i].mode == EW_SPLIT_SPELLED;
    }
    if (h->byte_level && !spelled) {
        EW_TRY(ew_vocab_add_split(h->v, "", EW_SPLIT_SPELLED, false, reterr));
    }
    return ew_vocab_add_split(h->v, pattern, mode, invert, reterr);
}

static ew_status pre_split(const ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *behavior;
    bool invert = false;
    ew_split_mode mode = EW_SPLIT_ISOLATED;
    EW_AUTO_BUF pattern = {0};
    EW_TRY(read_pattern(h, j, "pre-tokenizer Split with the pattern", &pattern, reterr));
    EW_TRY(ew_json_get_str(j, h->name, "behavior", &behavior, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "invert", &invert, reterr));
    EW_TRY(split_mode(h, behavior, &mode, reterr));
    return add_split(h, ew_buf_str(&pattern), mode, invert, reterr);
}

static ew_status pre_byte_level(ew__hf *h, const json_t *j, ew_error *reterr)
{
    bool use_regex = true;
    bool prefix = false;
    EW_TRY(ew_json_opt_bool(j, h->name, "use_regex", &use_regex, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "add_prefix_space", &prefix, reterr));
    if (h->byte_level) {
        return ew__hf_unsupported(h, "pre-tokenizer", "ByteLevel after ByteLevel", reterr);
    }
    if (prefix) {
        h->v->prefix = EW_PREFIX_ALWAYS;
        h->v->prefix_once = true;
        if (h->v->n_splits > 0) {
            return ew__hf_unsupported(h, "pre-tokenizer", "ByteLevel with add_prefix_space after another step", reterr);
        }
    }
    ew_status st = use_regex ? add_split(h, GPT2_PATTERN, EW_SPLIT_ISOLATED, false, reterr) : EW_OK;
    h->byte_level = true;
    return st;
}

static ew_status pre_metaspace(ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *replacement = SPACE;
    const char *scheme = NULL;
    bool split = true;
    bool prefix = true;
    EW_TRY(ew_json_opt_str(j, h->name, "replacement", &replacement, reterr));
    EW_TRY(ew_json_opt_str(j, h->name, "prepend_scheme", &scheme, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "add_prefix_space", &prefix, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "split", &split, reterr));
    if (!ew_str_eq(replacement, SPACE)) {
        return ew__hf_unsupported(h, "Metaspace replacement", replacement, reterr);
    }
    if (scheme == NULL) {
        scheme = prefix ? "always" : "never";
    }
    if (!ew_str_eq(scheme, "always") && !ew_str_eq(scheme, "first") && !ew_str_eq(scheme, "never")) {
        return ew__hf_unsupported(h, "Metaspace prepend_scheme", scheme, reterr);
    }
    h->spaces = true;
    if (h->v->n_splits > 0) { /* of what the steps before left */
        if (ew_str_eq(scheme, "never")) {
            return ew__hf_unsupported(h, "pre-tokenizer", "Metaspace without a prefix after another step", reterr);
        }
        return add_split(h, scheme, EW_SPLIT_METASPACE, !split, reterr);
    }
    if (!ew_str_eq(scheme, "never")) {
        h->v->prefix = ew_str_eq(scheme, "first") ? EW_PREFIX_FIRST : EW_PREFIX_ALWAYS;
        h->v->prefix_once = true;
    }
    return split ? add_split(h, SPACE, EW_SPLIT_MERGED_NEXT, false, reterr) : EW_OK;
}

static ew_status pre_digits(const ew__hf *h, const json_t *j, ew_error *reterr)
{
    bool individual = false;
    EW_TRY(ew_json_opt_bool(j, h->name, "individual_digits", &individual, reterr));
    return add_split(h, individual ? "\\p{N}" : "\\p{N}+", EW_SPLIT_ISOLATED, false, reterr);
}

static ew_status pre_punctuation(const ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *behavior = "Isolated";
    ew_split_mode mode = EW_SPLIT_ISOLATED;
    EW_TRY(ew_json_opt_str(j, h->name, "behavior", &behavior, reterr));
    EW_TRY(split_mode(h, behavior, &mode, reterr));
    return add_split(h, PUNCTUATION, mode, false, reterr);
}

static ew_status pre_delimiter(const ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *text;
    EW_AUTO_BUF pattern = {0};
    EW_TRY(ew_json_get_str(j, h->name, "delimiter", &text, reterr));
    quote_pattern(text, &pattern);
    EW_TRY(ew_buf_check(&pattern, reterr));
    return add_split(h, ew_buf_str(&pattern), EW_SPLIT_REMOVED, false, reterr);
}

static ew_status pre_one(ew__hf *h, const json_t *j, const char *type, ew_error *reterr)
{
    if (ew_str_eq(type, "ByteLevel")) {
        return pre_byte_level(h, j, reterr);
    }
    if (ew_str_eq(type, "Split")) {
        return pre_split(h, j, reterr);
    }
    if (ew_str_eq(type, "Metaspace")) {
        return pre_metaspace(h, j, reterr);
    }
    if (ew_str_eq(type, "Digits")) {
        return pre_digits(h, j, reterr);
    }
    if (ew_str_eq(type, "Punctuation")) {
        return pre_punctuation(h, j, reterr);
    }
    if (ew_str_eq(type, "CharDelimiterSplit")) {
        return pre_delimiter(h, j, reterr);
    }
    if (ew_str_eq(type, "Whitespace")) {
        return add_split(h, WORD "+|" NO_WORD "+", EW_SPLIT_REMOVED, true, reterr);
    }
    if (ew_str_eq(type, "WhitespaceSplit")) {
        return add_split(h, "\\s+", EW_SPLIT_REMOVED, false, reterr);
    }
    if (ew_str_eq(type, "BertPreTokenizer")) {
        EW_TRY(add_split(h, "\\s+", EW_SPLIT_REMOVED, false, reterr));
        return add_split(h, PUNCTUATION, EW_SPLIT_ISOLATED, false, reterr);
    }
    return ew__hf_unsupported(h, "pre-tokenizer", type, reterr);
}

ew_status ew__hf_pre_tokenizer(ew__hf *h, const json_t *j, ew_error *reterr)
{
    return each_part(h, j, "pretokenizers", pre_one, 0, reterr);
}

ew_status ew__vocab_bert(ew_vocab *v, unsigned norm_flags, ew_error *reterr)
{
    v->plain_spaces = true;
    EW_TRY(ew_vocab_add_norm(v, EW_TNORM_BERT, norm_flags, NULL, NULL, reterr));
    EW_TRY(ew_vocab_add_split(v, "\\s+", EW_SPLIT_REMOVED, false, reterr));
    return ew_vocab_add_split(v, PUNCTUATION, EW_SPLIT_ISOLATED, false, reterr);
}

/* Normalizer ----------------------------------------------------------------------------------------------------- */

static ew_status norm_replace(ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *to;
    EW_AUTO_BUF from = {0};
    EW_TRY(read_pattern(h, j, "normalizer Replace of", &from, reterr));
    EW_TRY(ew_json_get_str(j, h->name, "content", &to, reterr));
    if ((ew_str_eq(ew_buf_str(&from), " ") || ew_str_eq(ew_buf_str(&from), "\\ ")) && ew_str_eq(to, SPACE)) {
        h->spaces = true;
        return EW_OK;
    }
    return ew_vocab_add_norm(h->v, EW_TNORM_REPLACE, 0, ew_buf_str(&from), to, reterr);
}

static ew_status norm_prepend(ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *text;
    EW_TRY(ew_json_get_str(j, h->name, "prepend", &text, reterr));
    if (ew_str_eq(text, SPACE) || ew_str_eq(text, " ")) {
        h->v->prefix = EW_PREFIX_ALWAYS;
        return EW_OK;
    }
    return ew_vocab_add_norm(h->v, EW_TNORM_PREPEND, 0, NULL, text, reterr);
}

static ew_status norm_strip(ew__hf *h, const json_t *j, ew_error *reterr)
{
    bool left = true;
    bool right = true;
    EW_TRY(ew_json_opt_bool(j, h->name, "strip_left", &left, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "strip_right", &right, reterr));
    return ew_vocab_add_norm(h->v, EW_TNORM_STRIP, (left ? EW_TNORM_LEFT : 0) | (right ? EW_TNORM_RIGHT : 0), NULL,
                             NULL, reterr);
}

static ew_status norm_bert(ew__hf *h, const json_t *j, ew_error *reterr)
{
    bool clean = true;
    bool chinese = true;
    bool lower = true;
    EW_TRY(ew_json_opt_bool(j, h->name, "clean_text", &clean, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "handle_chinese_chars", &chinese, reterr));
    EW_TRY(ew_json_opt_bool(j, h->name, "lowercase", &lower, reterr));
    bool accents = lower;
    if (!json_is_null(json_object_get(j, "strip_accents"))) {
        EW_TRY(ew_json_opt_bool(j, h->name, "strip_accents", &accents, reterr));
    }
    return ew_vocab_add_norm(h->v, EW_TNORM_BERT,
                             (clean ? EW_TNORM_CLEAN : 0) | (chinese ? EW_TNORM_CHINESE : 0) |
                                 (accents ? EW_TNORM_ACCENTS : 0) | (lower ? EW_TNORM_LOWER : 0),
                             NULL, NULL, reterr);
}

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

static ew_status norm_charsmap(ew__hf *h, const json_t *j, ew_error *reterr)
{
    const char *text = "";
    EW_AUTO_BUF bytes = {0};
    unsigned bits = 0;
    unsigned n = 0;
    if (json_is_null(json_object_get(j, "precompiled_charsmap"))) {
        return EW_OK;
    }
    EW_TRY(ew_json_get_str(j, h->name, "precompiled_charsmap", &text, reterr));
    for (; *text != '\0' && *text != '='; text++) {
        int value = base64_value(*text);
        if (value < 0) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: the precompiled_charsmap is no base64", h->name);
        }
        bits = (bits << 6 | (unsigned)value) & 0xFFFF;
        n += 6;
        if (n >= 8) {
            n -= 8;
            ew_buf_addc(&bytes, (char)(unsigned char)(bits >> n & 0xFF));
        }
    }
    EW_TRY(ew_buf_check(&bytes, reterr));
    if (bytes.size == 0) {
        return EW_OK;
    }
    if (h->v->charsmap != NULL) {
        return ew__hf_unsupported(h, "normalizer", "Precompiled twice", reterr);
    }
    EW_TRY(ew_vocab_set_charsmap(h->v, bytes.data, bytes.size, reterr));
    return ew_vocab_add_norm(h->v, EW_TNORM_CHARSMAP, 0, NULL, NULL, reterr);
}

static ew_status norm_one(ew__hf *h, const json_t *j, const char *type, ew_error *reterr)
{
    static const struct {
        const char *name;
        ew_tnorm_kind kind;
    } plain[] = {{"NFC", EW_TNORM_NFC},
                 {"NFD", EW_TNORM_NFD},
                 {"NFKC", EW_TNORM_NFKC},
                 {"NFKD", EW_TNORM_NFKD},
                 {"Lowercase", EW_TNORM_LOWERCASE},
                 {"StripAccents", EW_TNORM_STRIP_ACCENTS},
                 {"Nmt", EW_TNORM_NMT}};
    static const struct {
        const char *name;
        ew_status (*fn)(ew__hf *h, const json_t *j, ew_error *reterr);
    } more[] = {{"Replace", norm_replace},
                {"Prepend", norm_prepend},
                {"Strip", norm_strip},
                {"BertNormalizer", norm_bert},
                {"Precompiled", norm_charsmap}};
    for (size_t i = 0; i < EW_COUNT(plain); i++) {
        if (ew_str_eq(type, plain[i].name)) {
            return ew_vocab_add_norm(h->v, plain[i].kind, 0, NULL, NULL, reterr);
        }
    }
    for (size_t i = 0; i < EW_COUNT(more); i++) {
        if (ew_str_eq(type, more[i].name)) {
            return more[i].fn(h, j, reterr);
        }
    }
    return ew__hf_unsupported(h, "normalizer", type, reterr);
}

ew_status ew__hf_normalizer(ew__hf *h, const json_t *j, ew_error *reterr)
{
    return each_part(h, j, "normalizers", norm_one, 0, reterr);
}

/* What a prompt begins and ends with ----------------------------------------------------------------------------- */

static int32_t find_piece(const ew_vocab *v, const char *text)
{
    return text == NULL ? -1 : ew_vocab_find(v, text);
}

/* {"SpecialToken": {"id": "<s>"}} -> its piece, -1 for anything else */
static int32_t template_piece(const ew_vocab *v, const json_t *item)
{
    return find_piece(v, json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id")));
}

/* One piece before the text, one after it. */
static ew_status post_template(const ew__hf *h, const json_t *j, int32_t *first, int32_t *last, ew_error *reterr)
{
    const json_t *single = json_object_get(j, "single");
    size_t n = json_array_size(single);
    size_t text = 0;
    while (text < n && json_object_get(json_array_get(single, text), "Sequence") == NULL) {
        text++;
    }
    if (text > 1 || n > text + 2) {
        return ew__hf_unsupported(h, "post-processor", "TemplateProcessing with several pieces at one end", reterr);
    }
    *first = text == 1 ? template_piece(h->v, json_array_get(single, 0)) : -1;
    *last = n == text + 2 ? template_piece(h->v, json_array_get(single, n - 1)) : -1;
    return EW_OK;
}

static ew_status post_one(ew__hf *h, const json_t *j, const char *type, ew_error *reterr)
{
    ew_vocab *v = h->v;
    int32_t first = -1;
    int32_t last = -1;
    if (ew_str_eq(type, "TemplateProcessing")) {
        EW_TRY(post_template(h, j, &first, &last, reterr));
    } else if (ew_str_eq(type, "RobertaProcessing") || ew_str_eq(type, "BertProcessing")) {
        first = find_piece(v, json_string_value(json_array_get(json_object_get(j, "cls"), 0)));
        last = find_piece(v, json_string_value(json_array_get(json_object_get(j, "sep"), 0)));
    } else if (!ew_str_eq(type, "ByteLevel")) {
        return ew__hf_unsupported(h, "post-processor", type, reterr);
    }
    if (first >= 0) {
        v->bos = first;
        v->add_bos = true;
    }
    if (last >= 0) {
        v->eos = last;
        v->add_eos = true;
    }
    return EW_OK;
}

ew_status ew__hf_post_processor(ew__hf *h, const json_t *j, ew_error *reterr)
{
    return each_part(h, j, "processors", post_one, 0, reterr);
}

/* Decoder: what it does follows from the kind of the vocabulary; one that does something else is refused. */
static ew_status decoder_one(ew__hf *h, const json_t *j, const char *type, ew_error *reterr)
{
    static const char *const known[] = {"ByteLevel",    "Metaspace", "WordPiece", "Replace",
                                        "ByteFallback", "Fuse",      "Strip"};
    (void)j;
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        if (ew_str_eq(type, known[i])) {
            return EW_OK;
        }
    }
    return ew__hf_unsupported(h, "decoder", type, reterr);
}

ew_status ew__hf_decoder(ew__hf *h, const json_t *j, ew_error *reterr)
{
    return each_part(h, j, "decoders", decoder_one, 0, reterr);
}

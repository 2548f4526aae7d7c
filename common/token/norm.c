/* Normalisation of text before it is cut: the steps of Hugging Face's normalizers and SentencePiece's own normalisation. Each is linear
 * in the text. References: huggingface/tokenizers 0.2x src/normalizers, spm_precompiled, sentencepiece src/normalizer.cc.
 * Bytes that are no UTF-8 pass through the steps; SentencePiece's turns each into U+FFFD, as the original does. */
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/regex.h"
#include "text/utf8.h"
#include "token/token_int.h"

#define MARKS_MAX 512u /* marks in a row that are put into canonical order together: ordering is quadratic in them */

/* Characters ----------------------------------------------------------------------------------------------------- */

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

static bool is_mark(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

/* Controls, formats, private use. */
static bool is_other(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
}

static bool is_ideograph(uint32_t c)
{
    /* BERT's list; 2B920 is a slip of the reference that all models were made with. */
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static void add_cp(ew_buf *out, uint32_t cp)
{
    char s[EW_UTF8_MAX];
    ew_buf_add(out, s, ew_utf8_encode(cp, s));
}

static void add_lower(ew_buf *out, uint32_t cp)
{
    if (cp == 0x130) { /* the only one whose lower case is two characters */
        ew_buf_add(out, "i\xCC\x87", 3);
    } else {
        add_cp(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
    }
}

/* Unicode forms -------------------------------------------------------------------------------------------------- */

/* s[0, size) up to a place where no composition or ordering reaches across: before an ASCII character, or within an endless row of marks. */
static size_t form_stretch(const char *s, size_t size)
{
    size_t i = ew_utf8_next(s, size, NULL);
    unsigned marks = 0;
    while (i < size && (unsigned char)s[i] >= 0x80) {
        uint32_t cp;
        size_t len = ew_utf8_decode(s + i, size - i, &cp);
        if (len == 0) {
            break;
        }
        marks = utf8proc_get_property((utf8proc_int32_t)cp)->combining_class != 0 ? marks + 1 : 0;
        if (marks > MARKS_MAX) {
            break;
        }
        i += len;
    }
    return i;
}

static ew_status to_form(const char *s, size_t size, ew_utf8_form form, ew_buf *out, ew_error *reterr)
{
    for (size_t i = 0; i < size;) {
        size_t ascii = i;
        while (ascii < size && (unsigned char)s[ascii] < 0x80) {
            ascii++;
        }
        /* The last one may take a mark. */
        size_t plain = ascii < size && ascii > i ? ascii - i - 1 : ascii - i;
        ew_buf_add(out, s + i, plain);
        i += plain;
        if (i >= size) {
            break;
        }
        if (ew_utf8_decode(s + i, size - i, NULL) == 0) {
            ew_buf_addc(out, s[i++]);
            continue;
        }
        size_t n = form_stretch(s + i, size - i);
        EW_TRY(ew_utf8_normalize(s + i, n, form, out, reterr));
        i += n;
    }
    return EW_OK;
}

/* Steps ---------------------------------------------------------------------------------------------------------- */

static void map_chars(ew_tnorm_kind kind, const char *s, size_t size, ew_buf *out)
{
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        size_t len = ew_utf8_decode(s + i, size - i, &cp);
        if (len == 0) {
            ew_buf_addc(out, s[i++]);
            continue;
        }
        if (kind == EW_TNORM_LOWERCASE) {
            add_lower(out, cp);
        } else if (kind == EW_TNORM_STRIP_ACCENTS) {
            ew_buf_add(out, s + i, is_mark(cp) ? 0 : len);
        } else if (cp == 9 || cp == 10 || cp == 12 || cp == 13 || cp == 0x1680 || (cp >= 0x200B && cp <= 0x200F) ||
                   cp == 0x2028 || cp == 0x2029 || cp == 0x2581 || cp == 0xFEFF || cp == 0xFFFD) {
            ew_buf_addc(out, ' ');
        } else if (!(cp >= 1 && cp <= 0x1F) && cp != 0x7F && cp != 0x8F && cp != 0x9F) {
            ew_buf_add(out, s + i, len);
        }
        i += len;
    }
}

static void strip(unsigned flags, const char *s, size_t size, ew_buf *out)
{
    size_t begin = size; /* of what is no space */
    size_t end = 0;
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s + i, size - i, &cp);
        if (!ew_utf8_is_space(cp)) {
            begin = EW_MIN(begin, i);
            end = i + len;
        }
        i += len;
    }
    begin = (flags & EW_TNORM_LEFT) != 0 ? begin : 0;
    end = (flags & EW_TNORM_RIGHT) != 0 ? end : size;
    if (begin < end) {
        ew_buf_add(out, s + begin, end - begin);
    }
}

static ew_status replace_valid(ew_regex_match *m, const char *to, const char *s, size_t size, ew_buf *out,
                               ew_error *reterr)
{
    size_t done = 0;
    size_t from = 0;
    while (from < size) {
        size_t begin;
        size_t end;
        ew_status st = ew_regex_find(m, s, size, from, &begin, &end, reterr);
        if (st == EW_ENOENT) {
            break;
        }
        EW_TRY(st);
        if (begin == end) {
            from = begin < size ? begin + ew_utf8_next(s + begin, size - begin, NULL) : size;
            continue;
        }
        ew_buf_add(out, s + done, begin - done);
        ew_buf_adds(out, to);
        done = from = end;
    }
    ew_buf_add(out, s + done, size - done);
    return EW_OK;
}

static ew_status replace(const ew_regex *regex, const char *to, const char *s, size_t size, ew_buf *out,
                         ew_error *reterr)
{
    EW_AUTO(ew_regex_match) m = NULL;
    EW_TRY(ew_regex_match_new(regex, &m, reterr));
    while (size > 0) {
        size_t good = ew_utf8_valid_prefix(s, size);
        EW_TRY(replace_valid(m, to, s, good, out, reterr));
        ew_buf_add(out, s + good, good < size ? 1 : 0);
        good += good < size;
        s += good;
        size -= good;
    }
    return EW_OK;
}

static void bert_clean(unsigned flags, const char *s, size_t size, ew_buf *out)
{
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        size_t len = ew_utf8_decode(s + i, size - i, &cp);
        bool clean = (flags & EW_TNORM_CLEAN) != 0;
        bool blank = len > 0 && ew_utf8_is_space(cp);
        if (clean &&
            (len == 0 || cp == 0 || cp == 0xFFFD || (cp != '\t' && cp != '\n' && cp != '\r' && is_other(cp)))) {
            i += EW_MAX(len, (size_t)1);
            continue;
        }
        bool alone = len > 0 && (flags & EW_TNORM_CHINESE) != 0 && is_ideograph(cp);
        ew_buf_adds(out, alone ? " " : "");
        ew_buf_add(out, clean && blank ? " " : s + i, clean && blank ? 1 : EW_MAX(len, (size_t)1));
        ew_buf_adds(out, alone ? " " : "");
        i += EW_MAX(len, (size_t)1);
    }
}

static ew_status bert(unsigned flags, const char *s, size_t size, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_BUF cleaned = {.max = SIZE_MAX / 2};
    EW_AUTO_BUF apart = {.max = SIZE_MAX / 2};
    bert_clean(flags, s, size, &cleaned);
    EW_TRY(ew_buf_check(&cleaned, reterr));
    const ew_buf *from = &cleaned;
    if ((flags & EW_TNORM_ACCENTS) != 0) {
        EW_TRY(to_form(ew_buf_str(&cleaned), cleaned.size, EW_UTF8_NFD, &apart, reterr));
        EW_TRY(ew_buf_check(&apart, reterr));
        from = &apart;
    }
    s = ew_buf_str(from);
    for (size_t i = 0; i < from->size;) {
        uint32_t cp;
        size_t len = ew_utf8_decode(s + i, from->size - i, &cp);
        if (len == 0) {
            ew_buf_addc(out, s[i]);
        } else if ((flags & EW_TNORM_ACCENTS) != 0 && category(cp) == UTF8PROC_CATEGORY_MN) {
            /* gone */
        } else if ((flags & EW_TNORM_LOWER) != 0) {
            add_lower(out, cp);
        } else {
            ew_buf_add(out, s + i, len);
        }
        i += EW_MAX(len, (size_t)1);
    }
    return EW_OK;
}

/* Character map: a darts-clone double array and the texts it points to ------------------------------------------- */

ew_status ew__charsmap_init(ew__charsmap *m, const char *data, size_t size, ew_error *reterr)
{
    memset(m, 0, sizeof(*m));
    if (size == 0) {
        return EW_OK;
    }
    const unsigned char *p = (const unsigned char *)data;
    size_t trie = size < 4 ? SIZE_MAX : (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    if (size < 5 || trie % 4 != 0 || trie == 0 || trie > size - 5 || data[size - 1] != '\0') {
        return ew_fail(reterr, EW_ECORRUPT, "the character map of the tokenizer (%zu bytes) is damaged", size);
    }
    m->units = p + 4;
    m->n_units = trie / 4;
    m->text = data + 4 + trie;
    m->text_size = size - 4 - trie;
    return EW_OK;
}

static uint32_t unit_at(const ew__charsmap *m, size_t i)
{
    if (i >= m->n_units) {
        return 1u << 31; /* the label of no byte, a leaf of nothing */
    }
    const unsigned char *p = m->units + 4 * i;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* What a beginning of s[0, size) maps to, NULL = nothing; the longest one, or the shortest. *ret_len bytes of s. */
static const char *charsmap_find(const ew__charsmap *m, const char *s, size_t size, bool longest, size_t *ret_len)
{
    const char *best = NULL;
    size_t node = unit_offset(unit_at(m, 0));
    for (size_t i = 0; i < size && m->n_units > 0; i++) {
        unsigned char c = (unsigned char)s[i];
        node ^= c;
        uint32_t unit = unit_at(m, node);
        if (c == 0 || (unit & (1u << 31 | 0xFFu)) != c) {
            break;
        }
        node ^= unit_offset(unit);
        if ((unit >> 8 & 1) != 0) {
            size_t at = unit_at(m, node) & 0x7FFFFFFFu;
            if (at < m->text_size) {
                best = m->text + at;
                *ret_len = i + 1;
                if (!longest) {
                    break;
                }
            }
        }
    }
    return best;
}

static size_t grapheme(const char *s, size_t size)
{
    uint32_t cp;
    utf8proc_int32_t state = 0;
    size_t i = ew_utf8_next(s, size, &cp);
    while (i < size) {
        uint32_t next;
        size_t len = ew_utf8_decode(s + i, size - i, &next);
        if (len == 0 || utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state)) {
            break;
        }
        cp = next;
        i += len;
    }
    return i;
}

/* As spm_precompiled: a grapheme below 6 bytes is looked up as a whole, the shortest entry counts. */
static void charsmap_graphemes(const ew__charsmap *m, const char *s, size_t size, ew_buf *out)
{
    for (size_t i = 0; i < size;) {
        size_t used = 0;
        size_t n = (unsigned char)s[i] < 0x80 && i + 1 < size && (unsigned char)s[i + 1] < 0x80 && s[i] != '\r'
                       ? 1
                       : grapheme(s + i, size - i);
        const char *to = n < 6 ? charsmap_find(m, s + i, n, false, &used) : NULL;
        if (to != NULL) {
            ew_buf_adds(out, to);
            i += n;
            continue;
        }
        for (size_t end = i + n; i < end;) {
            size_t len = ew_utf8_next(s + i, end - i, NULL);
            to = charsmap_find(m, s + i, len, false, &used);
            ew_buf_add(out, to != NULL ? to : s + i, to != NULL ? strlen(to) : len);
            i += len;
        }
    }
}

/* SentencePiece -------------------------------------------------------------------------------------------------- */

/* What the beginning of s becomes; *used bytes of s are dealt with. */
static ew_span sp_prefix(const ew_tokenizer *t, const char *s, size_t size, size_t *used)
{
    size_t len = 0;
    if (t->late.has && t->late.first[(unsigned char)s[0]] && ew__trie_match(&t->late, s, size, &len) != EW__NONE) {
        *used = len;
        return (ew_span){s, len};
    }
    const char *to = charsmap_find(&t->charsmap, s, size, true, &len);
    if (to != NULL) {
        *used = len;
        return (ew_span){to, strlen(to)};
    }
    *used = ew_utf8_decode(s, size, NULL);
    if (*used == 0) {
        *used = 1;
        return (ew_span){"\xEF\xBF\xBD", 3};
    }
    return (ew_span){s, *used};
}

static void sp_add(ew_buf *out, const char *s, size_t size, const char *space)
{
    for (size_t i = 0; i < size; i++) {
        if (s[i] == ' ') {
            ew_buf_adds(out, space);
        } else {
            ew_buf_addc(out, s[i]);
        }
    }
}

ew_status ew__sp_normalize(const ew_tokenizer *t, const char *s, size_t size, bool prefix, ew_buf *out,
                           ew_error *reterr)
{
    const ew_vocab *v = t->v;
    const char *space = v->plain_spaces ? " " : EW__SPACE;
    size_t n_space = strlen(space);
    size_t i = 0;
    size_t used = 0;
    size_t before = out->size;
    while (v->squeeze && i < size) {
        ew_span p = sp_prefix(t, s + i, size - i, &used);
        if (p.size != 1 || ((const char *)p.data)[0] != ' ') {
            break;
        }
        i += used;
    }
    if (i >= size) {
        return EW_OK;
    }
    if (prefix && !v->suffix) {
        ew_buf_adds(out, space);
    }
    bool after_space = v->squeeze;
    for (; i < size; i += used) {
        ew_span p = sp_prefix(t, s + i, size - i, &used);
        const char *q = p.data;
        while (after_space && p.size > 0 && *q == ' ') {
            q++;
            p.size--;
        }
        if (p.size > 0) {
            sp_add(out, q, p.size, space);
            after_space = v->squeeze && q[p.size - 1] == ' ';
        }
    }
    EW_TRY(ew_buf_check(out, reterr));
    while (v->squeeze && out->size >= before + n_space &&
           memcmp(out->data + out->size - n_space, space, n_space) == 0) {
        out->size -= n_space;
    }
    if (prefix && v->suffix) {
        ew_buf_adds(out, space);
    }
    return ew_buf_check(out, reterr);
}

/* All ------------------------------------------------------------------------------------------------------------ */

static ew_status step(const ew_tokenizer *t, size_t i, const char *s, size_t size, ew_buf *out, ew_error *reterr)
{
    const ew_tnorm *n = &t->v->norms[i];
    switch (n->kind) {
    case EW_TNORM_NFC:
        return to_form(s, size, EW_UTF8_NFC, out, reterr);
    case EW_TNORM_NFD:
        return to_form(s, size, EW_UTF8_NFD, out, reterr);
    case EW_TNORM_NFKC:
        return to_form(s, size, EW_UTF8_NFKC, out, reterr);
    case EW_TNORM_NFKD:
        return to_form(s, size, EW_UTF8_NFKD, out, reterr);
    case EW_TNORM_STRIP:
        strip(n->flags, s, size, out);
        return EW_OK;
    case EW_TNORM_REPLACE:
        return replace(t->norm_regex[i], n->to, s, size, out, reterr);
    case EW_TNORM_PREPEND:
        ew_buf_adds(out, size > 0 ? n->to : "");
        ew_buf_add(out, s, size);
        return EW_OK;
    case EW_TNORM_CHARSMAP:
        charsmap_graphemes(&t->charsmap, s, size, out);
        return EW_OK;
    case EW_TNORM_BERT:
        return bert(n->flags, s, size, out, reterr);
    case EW_TNORM_LOWERCASE:
    case EW_TNORM_STRIP_ACCENTS:
    case EW_TNORM_NMT:
        map_chars(n->kind, s, size, out);
        return EW_OK;
    case EW_TNORM_KINDS:
        break;
    }
    return ew_fail(reterr, EW_EINVAL, "normalizer step %zu is of no known kind", i + 1);
}

ew_status ew__normalize(const ew_tokenizer *t, const char *s, size_t size, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_BUF other = {.max = out->max};
    for (size_t i = 0; i < t->v->n_norms; i++) {
        ew_buf_clear(&other);
        EW_TRY(step(t, i, s, size, &other, reterr));
        EW_TRY(ew_buf_check(&other, reterr));
        ew_buf swap = *out;
        *out = other;
        other = swap;
        s = ew_buf_str(out);
        size = out->size;
    }
    return EW_OK;
}

ew_status ew__norm_init(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    EW_TRY(ew__charsmap_init(&t->charsmap, v->charsmap, v->charsmap_size, reterr));
    t->norm_regex = ew_calloc(EW_MAX(v->n_norms, (size_t)1), sizeof(*t->norm_regex));
    if (t->norm_regex == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a normalizer");
    }
    for (size_t i = 0; i < v->n_norms; i++) {
        if (v->norms[i].kind == EW_TNORM_REPLACE) {
            ew_status st = ew_regex_new(v->norms[i].from, &t->norm_regex[i], reterr);
            if (st != EW_OK) {
                return ew_wrap(reterr, st, "normalizer step %zu", i + 1);
            }
        }
    }
    return EW_OK;
}

void ew__norm_release(ew_tokenizer *t)
{
    for (size_t i = 0; t->norm_regex != NULL && t->v != NULL && i < t->v->n_norms; i++) {
        ew_regex_free(&t->norm_regex[i]);
    }
    ew_free(t->norm_regex);
}

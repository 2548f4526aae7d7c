/* Text to ids: special pieces first, then normalisation, prefix, pre-tokenizer and the kind's own way. */
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"
#include "token/token_int.h"

#define MEMO_FROM_BYTES 4096u /* texts from this size are worth a memo */

static ew_status no_memory(ew_error *reterr, ew_status st)
{
    return ew_fail(reterr, st, "the text is too long to tokenize in the memory there is");
}

/* The text may be cut between these two characters: no merge, and no fusing of unknown ones, reaches across. */
static bool may_cut(const ew_tokenizer *t, uint32_t a, uint32_t b, const char *s, size_t a_len, size_t b_len)
{
    if (ew__u64map_get(&t->touching, ew__touch_key(a, b)) != EW__NONE) {
        return false;
    }
    return !t->fuses || ew__plain_find(t, s - a_len, a_len) != EW__NONE || ew__plain_find(t, s, b_len) != EW__NONE;
}

/* One pre-token of a character vocabulary: cut where no merge can reach across. */
static ew_status encode_chars(ew__encoder *e, const char *s, size_t size)
{
    const ew_tokenizer *t = e->tok;
    size_t begin = 0;
    uint32_t last = 0;
    size_t last_len = 0;
    for (size_t i = 0; i < size && t->cuts;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s + i, size - i, &cp);
        if (i > begin && may_cut(t, last, cp, s + i, last_len, len)) {
            EW_TRY(ew__merge_memo(e, s + begin, i - begin));
            begin = i;
        }
        last = cp;
        last_len = len;
        i += len;
    }
    return ew__merge_memo(e, s + begin, size - begin);
}

static ew_status encode_piece(const char *s, size_t size, void *ctx, ew_error *reterr)
{
    ew__encoder *e = ctx;
    ew_tokenizer_kind kind = e->tok->v->kind;
    bool chars = kind == EW_TOKENIZER_SPM || kind == EW_TOKENIZER_CHAR_BPE;
    ew_status st = chars ? encode_chars(e, s, size) : ew__merge_memo(e, s, size);
    return st == EW_OK ? EW_OK : no_memory(reterr, st);
}

/* Spaces stay spaces, at least until a step of the pre-tokenizer. */
static bool is_plain(const ew_vocab *v)
{
    bool step = false;
    for (size_t i = 0; i < v->n_splits; i++) {
        step = step || v->splits[i].mode == EW_SPLIT_METASPACE;
    }
    return v->kind == EW_TOKENIZER_BPE || v->plain_spaces || step;
}

/* Spaces become U+2581 (not in a byte-level vocabulary), one more is put in front when the vocabulary says so. */
static ew_status visible_spaces(const ew_vocab *v, const char *s, size_t size, bool at_start, ew_buf *out,
                                ew_error *reterr)
{
    bool plain = is_plain(v);
    bool begins = s[0] == ' ' || (!plain && size >= 3 && memcmp(s, EW__SPACE, 3) == 0);
    out->max = SIZE_MAX / 2;
    if ((v->prefix == EW_PREFIX_ALWAYS || (v->prefix == EW_PREFIX_FIRST && at_start)) && !(v->prefix_once && begins)) {
        ew_buf_adds(out, plain ? " " : EW__SPACE);
    }
    if (plain) {
        ew_buf_add(out, s, size);
        return ew_buf_check(out, reterr);
    }
    while (size > 0) {
        const char *space = memchr(s, ' ', size);
        size_t n = space == NULL ? size : (size_t)(space - s);
        ew_buf_add(out, s, n);
        if (space != NULL) {
            ew_buf_adds(out, EW__SPACE);
            n++;
        }
        s += n;
        size -= n;
    }
    return ew_buf_check(out, reterr);
}

/* A stretch without special pieces, normalised. */
static ew_status encode_plain(ew__encoder *e, const char *s, size_t size, bool at_start, ew_error *reterr)
{
    const ew_vocab *v = e->tok->v;
    EW_AUTO_BUF spaced = {0};
    if (size == 0) {
        return EW_OK;
    }
    if (!v->sp && (!is_plain(v) || v->prefix != EW_PREFIX_NONE)) {
        EW_TRY(visible_spaces(v, s, size, at_start, &spaced, reterr));
        s = spaced.data;
        size = spaced.size;
    }
    if (e->match != NULL) {
        return ew_pretok_run(e->match, s, size, at_start, encode_piece, e, reterr);
    }
    return encode_piece(s, size, e, reterr);
}

/* The white-space character that ends s[0, size): its length, 0 = none does. */
static size_t blank_before(const char *s, size_t size)
{
    uint32_t cp;
    for (size_t len = 1; len <= EW_MIN(size, (size_t)EW_UTF8_MAX); len++) {
        if (ew_utf8_decode(s + size - len, len, &cp) == len) {
            return ew_utf8_is_space(cp) ? len : 0;
        }
    }
    return 0;
}

static size_t blank_after(const char *s, size_t size)
{
    uint32_t cp;
    size_t len = size == 0 ? 0 : ew_utf8_decode(s, size, &cp);
    return len > 0 && ew_utf8_is_space(cp) ? len : 0;
}

static bool is_word(uint32_t cp)
{
    return cp == '_' || ew_utf8_is_letter(cp) || ew_utf8_is_number(cp);
}

/* s[begin, end) has no letter or digit next to it. */
static bool stands_alone(const char *s, size_t size, size_t begin, size_t end)
{
    uint32_t cp = 0;
    for (size_t len = 1; len <= EW_MIN(begin, (size_t)EW_UTF8_MAX); len++) {
        if (ew_utf8_decode(s + begin - len, len, &cp) == len) {
            break;
        }
        cp = 0;
    }
    if (is_word(cp)) {
        return false;
    }
    cp = 0;
    return end >= size || ew_utf8_decode(s + end, size - end, &cp) == 0 || !is_word(cp);
}

typedef ew_status (*stretch_fn)(ew__encoder *e, const char *s, size_t size, bool at_start, ew_error *reterr);

/* Takes the pieces of the trie out of the text; fn has what lies between. */
static ew_status take_out(ew__encoder *e, const ew__trie *trie, const char *s, size_t size, bool at_start,
                          stretch_fn fn, ew_error *reterr)
{
    const ew_tokenizer *t = e->tok;
    size_t done = 0;
    size_t at = 0;
    while (done < size) {
        size_t len = 0;
        size_t blank;
        uint32_t id = ew__trie_find(trie, s, size, &at, &len);
        unsigned attr = id == EW__NONE ? 0 : t->v->attr[id];
        if ((attr & EW_PIECE_SINGLE_WORD) != 0 && !stands_alone(s, size, at, at + len)) {
            at += len;
            continue;
        }
        size_t end = at;
        while ((attr & EW_PIECE_LSTRIP) != 0 && (blank = blank_before(s + done, end - done)) > 0) {
            end -= blank;
        }
        if (end > done) {
            EW_TRY(fn(e, s + done, end - done, at_start && done == 0, reterr));
        }
        if (id == EW__NONE) {
            break;
        }
        if (ew_tokens_add(e->out, (int32_t)id) != EW_OK) {
            return no_memory(reterr, EW_ENOMEM);
        }
        at += len;
        while ((attr & EW_PIECE_RSTRIP) != 0 && (blank = blank_after(s + at, size - at)) > 0) {
            at += blank;
        }
        done = at;
    }
    return EW_OK;
}

/* Normalisation makes more of a text (a decomposition up to 18 times as much); a vocabulary whose rules make everything of it is hostile. */
static size_t normal_max(size_t size)
{
    return size < SIZE_MAX / 256 ? 64 * size + EW_MIB : SIZE_MAX / 2;
}

/* A stretch without special pieces as it was given. */
static ew_status encode_stretch(ew__encoder *e, const char *s, size_t size, bool at_start, ew_error *reterr)
{
    const ew_tokenizer *t = e->tok;
    const ew_vocab *v = t->v;
    EW_AUTO_BUF normal = {.max = normal_max(size)};
    if (v->sp) {
        bool prefix = v->prefix == EW_PREFIX_ALWAYS || (v->prefix == EW_PREFIX_FIRST && at_start);
        EW_TRY(ew__sp_normalize(t, s, size, prefix, &normal, reterr));
    } else if (v->n_norms > 0) {
        EW_TRY(ew__normalize(t, s, size, &normal, reterr));
    } else {
        return encode_plain(e, s, size, at_start, reterr);
    }
    /* In SentencePiece's unigram such pieces compete with the others. */
    if (t->late.has && !(v->sp && v->kind == EW_TOKENIZER_UNIGRAM)) {
        return take_out(e, &t->late, ew_buf_str(&normal), normal.size, at_start, encode_plain, reterr);
    }
    return encode_plain(e, ew_buf_str(&normal), normal.size, at_start, reterr);
}

ew_status ew__encode(ew__encoder *e, const char *s, size_t size, unsigned flags, ew_error *reterr)
{
    const ew_tokenizer *t = e->tok;
    const ew_vocab *v = t->v;
    const ew__trie *trie = (flags & EW_ENCODE_SPECIAL) != 0 ? &t->special : &t->always;
    bool eos = (flags & EW_ENCODE_EOS) != 0 || ((flags & EW_ENCODE_EOS_ASKED) != 0 && v->add_eos);
    if (t->pretok != NULL) {
        EW_TRY(ew_pretok_match_new(t->pretok, &e->match, reterr));
    }
    if (size >= MEMO_FROM_BYTES) {
        e->memo = ew__memo_new();
    }
    if ((flags & EW_ENCODE_BOS) != 0 && v->add_bos && v->bos >= 0 && ew_tokens_add(e->out, v->bos) != EW_OK) {
        return no_memory(reterr, EW_ENOMEM);
    }
    EW_TRY(take_out(e, trie, s, size, (flags & EW_ENCODE_MIDDLE) == 0, encode_stretch, reterr));
    if (eos && v->eos >= 0 && ew_tokens_add(e->out, v->eos) != EW_OK) {
        return no_memory(reterr, EW_ENOMEM);
    }
    return EW_OK;
}

/* The leftmost piece of the trie that may stand where it does. */
static uint32_t find_in(const ew_tokenizer *t, const ew__trie *trie, const char *s, size_t size, size_t *at,
                        size_t *len)
{
    for (;; (*at)++) {
        uint32_t id = ew__trie_find(trie, s, size, at, len);
        if (id == EW__NONE || (t->v->attr[id] & EW_PIECE_SINGLE_WORD) == 0 || stands_alone(s, size, *at, *at + *len)) {
            return id;
        }
    }
}

/* Both tries are asked for one window after the other, so that many finds in one of them do not each cost a walk to the end of the text for
 * the other. */
#define FIND_WINDOW 512u /* bytes; also the longest piece that is sure to be found across two windows */

int32_t ew_tokenizer_find_special(const ew_tokenizer *tok, const char *text, size_t size, size_t *at, size_t *ret_len)
{
    for (size_t begin = *at; begin < size; begin += FIND_WINDOW) {
        size_t end = EW_MIN(size, begin + 2 * FIND_WINDOW);
        size_t len = 0;
        size_t late_len = 0;
        size_t first = begin;
        size_t late_first = begin;
        uint32_t id = find_in(tok, &tok->special, text, end, &first, &len);
        uint32_t late = tok->late.has ? find_in(tok, &tok->late, text, end, &late_first, &late_len) : EW__NONE;
        if (late != EW__NONE && (id == EW__NONE || late_first < first || (late_first == first && late_len > len))) {
            id = late;
            first = late_first;
            len = late_len;
        }
        if (id != EW__NONE && (first < begin + FIND_WINDOW || end == size)) {
            *at = first;
            *ret_len = len;
            return (int32_t)id;
        }
    }
    *at = size;
    return -1;
}

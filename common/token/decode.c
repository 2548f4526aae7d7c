/* Ids to bytes. */
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"
#include "token/token_int.h"

/* "<0x0A>" -> 10, or -1. */
static int byte_piece(ew_span s)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *p = s.data;
    if (s.size != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>') {
        return -1;
    }
    const char *hi = p[3] == '\0' ? NULL : strchr(digits, p[3]);
    const char *lo = p[4] == '\0' ? NULL : strchr(digits, p[4]);
    return hi == NULL || lo == NULL ? -1 : (int)((hi - digits) * 16 + (lo - digits));
}

/* Undoes the spelling in the byte alphabet; a character outside it stands for itself. */
static void add_alphabet(const ew__bytes *alphabet, ew_span s, ew_buf *out)
{
    const char *p = s.data;
    for (size_t i = 0; i < s.size;) {
        uint32_t cp;
        size_t len = ew_utf8_next(p + i, s.size - i, &cp);
        if (cp < EW_COUNT(alphabet->byte_of) && alphabet->byte_of[cp] >= 0) {
            ew_buf_addc(out, (char)alphabet->byte_of[cp]);
        } else {
            ew_buf_add(out, p + i, len);
        }
        i += len;
    }
}

/* U+2581 becomes a space. */
static void add_spaces(ew_span s, ew_buf *out)
{
    const char *p = s.data;
    for (size_t i = 0; i < s.size;) {
        if (s.size - i >= 3 && memcmp(p + i, EW__SPACE, 3) == 0) {
            ew_buf_addc(out, ' ');
            i += 3;
        } else {
            ew_buf_addc(out, p[i++]);
        }
    }
}

ew_status ew__tokenizer_spell(ew_tokenizer *t, ew_error *reterr)
{
    const ew_vocab *v = t->v;
    ew__bytes alphabet;
    ew__bytes_init(&alphabet);
    EW_AUTO_BUF out = {.max = SIZE_MAX / 2};
    t->bytes_end = ew_malloc(v->n, sizeof(*t->bytes_end));
    if (t->bytes_end == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the pieces of a tokenizer");
    }
    for (size_t i = 0; i < v->n; i++) {
        ew_span s = ew_vocab_text(v, (int32_t)i);
        int byte = v->type[i] == EW_PIECE_BYTE ? byte_piece(s) : -1;
        if (byte >= 0) {
            ew_buf_addc(&out, (char)byte);
            t->byte_id[byte] = (int32_t)i;
        } else if (v->type[i] == EW_PIECE_USER_DEFINED) {
            ew_buf_add(&out, s.data, s.size);
        } else if (v->type[i] == EW_PIECE_NORMAL && v->kind == EW_TOKENIZER_BPE) {
            add_alphabet(&alphabet, s, &out);
        } else if (v->type[i] == EW_PIECE_NORMAL && v->kind == EW_TOKENIZER_WORDPIECE) {
            bool inner = s.size > 2 && memcmp(s.data, "##", 2) == 0;
            ew_buf_adds(&out, inner ? "" : " ");
            ew_buf_add(&out, (const char *)s.data + (inner ? 2 : 0), s.size - (inner ? 2 : 0));
        } else if (v->type[i] == EW_PIECE_NORMAL && v->plain_spaces) {
            ew_buf_add(&out, s.data, s.size);
        } else if (v->type[i] == EW_PIECE_NORMAL) {
            add_spaces(s, &out);
        }
        t->bytes_end[i] = out.size;
    }
    EW_TRY(ew_buf_check(&out, reterr));
    ew_buf_addc(&out, '\0'); /* never NULL, also for a vocabulary of control pieces */
    EW_TRY(ew_buf_check(&out, reterr));
    t->bytes = ew_buf_take(&out);
    return EW_OK;
}

ew_span ew_tokenizer_piece(const ew_tokenizer *tok, int32_t id)
{
    if (id < 0 || (size_t)id >= tok->v->n) {
        return (ew_span){"", 0};
    }
    size_t begin = id == 0 ? 0 : tok->bytes_end[id - 1];
    return (ew_span){tok->bytes + begin, tok->bytes_end[id] - begin};
}

ew_span ew_tokenizer_raw(const ew_tokenizer *tok, int32_t id)
{
    return id < 0 || (size_t)id >= tok->v->n ? (ew_span){"", 0} : ew_vocab_text(tok->v, id);
}

/* The space that encode put in front of the text. */
static bool drops_space(const ew_tokenizer *tok)
{
    const ew_vocab *v = tok->v;
    for (size_t i = 0; i < v->n_splits; i++) {
        if (v->splits[i].mode == EW_SPLIT_METASPACE) {
            return true;
        }
    }
    return v->kind == EW_TOKENIZER_WORDPIECE ||
           (v->kind != EW_TOKENIZER_BPE && v->prefix != EW_PREFIX_NONE && !v->suffix);
}

static ew_span without_space(ew_span s)
{
    if (s.size > 0 && ((const char *)s.data)[0] == ' ') {
        return (ew_span){(const char *)s.data + 1, s.size - 1};
    }
    return s;
}

static bool is_hidden(const ew_tokenizer *tok, int32_t id)
{
    return tok->v->type[id] == EW_PIECE_CONTROL || tok->v->type[id] == EW_PIECE_UNKNOWN;
}

ew_status ew_tokenizer_decode(const ew_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, ew_buf *out,
                              ew_error *reterr)
{
    bool first = (flags & EW_DECODE_MIDDLE) == 0 && drops_space(tok);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= tok->v->n) {
            return ew_fail(reterr, EW_EINVAL, "token %zu has id %d, which is not in the vocabulary of %zu", i,
                           (int)ids[i], tok->v->n);
        }
        if (is_hidden(tok, ids[i])) {
            if ((flags & EW_DECODE_SPECIAL) != 0) {
                ew_span s = ew_vocab_text(tok->v, ids[i]);
                ew_buf_add(out, s.data, s.size);
            }
            continue;
        }
        ew_span s = ew_tokenizer_piece(tok, ids[i]);
        s = first ? without_space(s) : s;
        first = false;
        ew_buf_add(out, s.data, s.size);
    }
    return ew_buf_check(out, reterr);
}

static void add_replacement(ew_buf *out)
{
    char bad[EW_UTF8_MAX];
    ew_buf_add(out, bad, ew_utf8_encode(EW_UTF8_REPLACEMENT, bad));
}

/* The pending bytes are the beginning of one character that more bytes could complete. */
static bool waits(const ew_tok_stream *s)
{
    for (size_t i = 1; i < s->n_pending; i++) {
        if (((unsigned char)s->pending[i] & 0xC0) != 0x80) {
            return false;
        }
    }
    return s->n_pending > 0 && ew_utf8_incomplete(s->pending, s->n_pending);
}

void ew_tok_stream_push(ew_tok_stream *s, const ew_tokenizer *tok, int32_t id, ew_buf *out)
{
    if (id < 0 || (size_t)id >= tok->v->n || is_hidden(tok, id)) {
        return;
    }
    ew_span piece = ew_tokenizer_piece(tok, id);
    if (!s->started && drops_space(tok)) {
        piece = without_space(piece);
    }
    s->started = true;
    const char *p = piece.data;
    for (size_t i = 0; i < piece.size; i++) {
        s->pending[s->n_pending++] = p[i];
        while (s->n_pending > 0 && !waits(s)) {
            uint32_t cp;
            size_t len = ew_utf8_decode(s->pending, s->n_pending, &cp);
            if (len > 0) {
                ew_buf_add(out, s->pending, len);
            } else {
                /* The byte that broke the sequence may begin a new one. */
                len = s->n_pending > 1 ? s->n_pending - 1 : 1;
                add_replacement(out);
            }
            s->n_pending -= len;
            memmove(s->pending, s->pending + len, s->n_pending);
        }
    }
}

void ew_tok_stream_finish(ew_tok_stream *s, ew_buf *out)
{
    if (s->n_pending > 0) {
        add_replacement(out);
        s->n_pending = 0;
    }
}

/* From a rendered conversation to ids. */
#include <string.h>

#include "base/mem.h"
#include "chat/chat.h"
#include "text/utf8.h"

typedef struct found {
    size_t begin, end;
    int32_t id;
} found;

typedef struct encoder {
    const ew_tokenizer *tok;
    const ew_chat_text *text;
    found *special; /* those in the template's bytes, in order */
    size_t n, cap;
    bool *written; /* [n_vocab] pieces that are not control pieces and that the template writes */
    bool marks;    /* there are such */
    ew_tokens *out;
    bool started; /* something was encoded */
    ew_error *err;
} encoder;

static ew_status no_memory(encoder *e)
{
    return ew_fail(e->err, EW_ENOMEM, "no memory to tokenize a conversation");
}

static bool only_blanks(ew_span s)
{
    static const char visible[] = "\xE2\x96\x81"; /* SentencePiece's space */
    const char *p = s.data;
    for (size_t i = 0; i < s.size;) {
        if (s.size - i >= 3 && memcmp(p + i, visible, 3) == 0) {
            i += 3;
        } else if (p[i] == ' ' || (p[i] >= '\t' && p[i] <= '\r')) {
            i++;
        } else {
            return false;
        }
    }
    return true;
}

/* Looked for in normalised text: it stays where it is, the tokenizer finds it. */
static bool is_late(const ew_vocab *v, int32_t id)
{
    return v->type[id] == EW_PIECE_USER_DEFINED && (v->attr[id] & EW_PIECE_NORMALIZED) != 0 &&
           (v->sp || v->n_norms > 0);
}

static ew_status add_special(encoder *e, found f)
{
    if (ew_grow((void **)&e->special, &e->cap, e->n + 1, sizeof(*e->special), SIZE_MAX / 64) != EW_OK) {
        return no_memory(e);
    }
    e->special[e->n++] = f;
    return EW_OK;
}

static ew_status find_special(encoder *e)
{
    const char *s = e->text->text.data;
    for (size_t i = 0; i < e->text->n_pieces; i++) {
        const ew_chat_piece *p = &e->text->piece[i];
        size_t at = 0;
        size_t size = p->end - p->begin;
        while (!p->content && at < size) {
            size_t len = 0;
            int32_t id = ew_tokenizer_find_special(e->tok, s + p->begin, size, &at, &len);
            if (id < 0) {
                break;
            }
            bool control = ew_tokenizer_is_control(e->tok, id);
            bool blank = !control && only_blanks(ew_tokenizer_raw(e->tok, id)); /* may join with the content's */
            if (!control && !blank) {
                e->written[id] = true;
                e->marks = true;
            }
            if (!blank && !is_late(ew_tokenizer_vocab(e->tok), id)) {
                EW_TRY(add_special(e, (found){p->begin + at, p->begin + at + len, id}));
            }
            at += len;
        }
    }
    return EW_OK;
}

/* A piece that content must not make. Encoding without EW_ENCODE_SPECIAL finds no control pieces anyway; but a shorter piece that
 * the template writes may begin where one stands. */
static bool forbidden(const encoder *e, int32_t id)
{
    return ew_tokenizer_is_control(e->tok, id) ? e->marks : e->written[id] || ew_tokenizer_is_eog(e->tok, id);
}

static ew_status encode_part(encoder *e, size_t begin, size_t end)
{
    unsigned flags = e->started ? EW_ENCODE_MIDDLE : 0;
    e->started = e->started || end > begin;
    return ew_tokenizer_encode(e->tok, e->text->text.data + begin, end - begin, flags, e->out, e->err);
}

/* No byte of it is content. */
static bool all_template(const encoder *e, size_t begin, size_t end)
{
    size_t low = 0;
    size_t high = e->text->n_pieces;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (e->text->piece[mid].begin <= begin) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return !e->text->piece[low].content && e->text->piece[low].end >= end;
}

/* Text between special pieces. Where it still holds the spelling of one, at least in part from content, it is cut behind
 * that spelling's first character, so that it cannot be found. */
static ew_status encode_plain(encoder *e, size_t begin, size_t end)
{
    const char *s = e->text->text.data;
    size_t from = begin;
    for (size_t at = begin; at < end;) {
        size_t offset = 0;
        size_t len = 0;
        uint32_t cp;
        int32_t id = ew_tokenizer_find_special(e->tok, s + at, end - at, &offset, &len);
        if (id < 0) {
            break;
        }
        at += offset;
        size_t first = ew_utf8_next(s + at, end - at, &cp);
        if (forbidden(e, id) && first < len && !all_template(e, at, at + len)) {
            EW_TRY(encode_part(e, from, at + first));
            from = at + first;
        }
        at += first;
    }
    return from < end ? encode_part(e, from, end) : EW_OK;
}

/* Bytes of the white-space character that ends s[0, size), or that begins it; 0 = none does. */
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

static ew_status encode_all(encoder *e)
{
    const ew_vocab *v = ew_tokenizer_vocab(e->tok);
    const char *s = e->text->text.data;
    size_t at = 0;
    e->written = ew_calloc(ew_tokenizer_n_vocab(e->tok), sizeof(*e->written));
    if (e->written == NULL) {
        return no_memory(e);
    }
    EW_TRY(find_special(e));
    for (size_t i = 0; i <= e->n; i++) {
        size_t end = i < e->n ? e->special[i].begin : e->text->text.size;
        unsigned attr = i < e->n ? v->attr[e->special[i].id] : 0;
        size_t blank;
        while ((attr & EW_PIECE_LSTRIP) != 0 && end > at && (blank = blank_before(s + at, end - at)) > 0) {
            end -= blank;
        }
        if (end > at) {
            EW_TRY(encode_plain(e, at, end));
        }
        if (i == e->n) {
            break;
        }
        if (ew_tokens_add(e->out, e->special[i].id) != EW_OK) {
            return no_memory(e);
        }
        e->started = true;
        at = EW_MAX(e->special[i].end, at);
        size_t next = i + 1 < e->n ? e->special[i + 1].begin : e->text->text.size;
        while ((attr & EW_PIECE_RSTRIP) != 0 && at < next && (blank = blank_after(s + at, next - at)) > 0) {
            at += blank;
        }
    }
    return EW_OK;
}

ew_status ew_chat_encode(const ew_tokenizer *tok, const ew_chat_text *text, ew_tokens *out, ew_error *reterr)
{
    encoder e = {.tok = tok, .text = text, .out = out, .err = reterr};
    size_t before = out->n;
    ew_status st = encode_all(&e);
    ew_free(e.special);
    ew_free(e.written);
    if (st != EW_OK) {
        out->n = before;
    }
    return st;
}

/* The vocabulary's spelling of a piece for a template, unless the caller named one. */
static ew_status spelled(const ew_vocab *v, int32_t id, const char **io, ew_buf *store, ew_error *reterr)
{
    if (*io != NULL || id < 0) {
        return EW_OK;
    }
    ew_span s = ew_vocab_text(v, id);
    ew_buf_add(store, s.data, s.size);
    ew_buf_addc(store, 0);
    EW_TRY(ew_buf_check(store, reterr));
    *io = store->data;
    return EW_OK;
}

ew_status ew_chat_prompt(const ew_tokenizer *tok, const char *template_text, const ew_chat_message *messages,
                         size_t n_messages, const ew_chat_render_opt *opt, ew_tokens *out, ew_error *reterr)
{
    const ew_vocab *v = ew_tokenizer_vocab(tok);
    ew_chat_render_opt full = opt != NULL ? *opt : (ew_chat_render_opt){0};
    EW_AUTO(ew_chat_template) t = NULL;
    EW_AUTO_CHAT_TEXT text = {0};
    EW_AUTO_BUF bos = {0};
    EW_AUTO_BUF eos = {0};
    EW_AUTO_BUF unk = {0};
    EW_AUTO_BUF pad = {0};
    EW_TRY(spelled(v, v->bos, &full.bos_token, &bos, reterr));
    EW_TRY(spelled(v, v->eos, &full.eos_token, &eos, reterr));
    EW_TRY(spelled(v, v->unk, &full.unk_token, &unk, reterr));
    EW_TRY(spelled(v, v->pad, &full.pad_token, &pad, reterr));
    EW_TRY(ew_chat_template_new(template_text, strlen(template_text), &t, reterr));
    EW_TRY(ew_chat_render(t, messages, n_messages, &full, &text, reterr));
    return ew_chat_encode(tok, &text, out, reterr);
}

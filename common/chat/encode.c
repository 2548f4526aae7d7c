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
            if (ew_grow((void **)&e->special, &e->cap, e->n + 1, sizeof(*e->special), SIZE_MAX / 64) != EW_OK) {
                return no_memory(e);
            }
            e->special[e->n++] = (found){p->begin + at, p->begin + at + len, id};
            if (!ew_tokenizer_is_control(e->tok, id) && !only_blanks(ew_tokenizer_raw(e->tok, id))) {
                e->written[id] = true;
                e->marks = true;
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
        if (forbidden(e, id) && first < len) {
            EW_TRY(encode_part(e, from, at + first));
            from = at + first;
        }
        at += first;
    }
    return from < end ? encode_part(e, from, end) : EW_OK;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
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
        while ((attr & EW_PIECE_LSTRIP) != 0 && end > at && is_blank(s[end - 1])) {
            end--;
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
        while ((attr & EW_PIECE_RSTRIP) != 0 && at < next && is_blank(s[at])) {
            at++;
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

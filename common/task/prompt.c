/* The prompt format and its length budget (task.h). Source of the budget rule: LaMP (2304.11406), its published prompt code. */
#include <string.h>

#include "base/mem.h"
#include "task/task.h"
#include "text/utf8.h"

#define PROMPT_RETRIEVED_MAX 64
#define PROMPT_MIN_ITEM_TOK 8

static size_t count_tok(const ew_task_budget *b, const char *text, size_t size)
{
    return b->count != NULL ? b->count(text, size, b->ctx) : (size + 2) / 3;
}

/* Bytes of the longest beginning of text, cut on a word (or a code point), of at most max_tok tokens. */
static size_t cut(const ew_task_budget *b, const char *text, size_t size, size_t n_tok, size_t max_tok)
{
    while (n_tok > max_tok && size != 0) {
        size_t want = (size_t)((double)size * (double)max_tok / (double)n_tok);
        want = want >= size ? size - 1 : want;
        size_t at = want;
        while (at > 0 && text[at] != ' ' && text[at] != '\n') {
            at--;
        }
        if (at == 0) { /* one long word: keep whole code points */
            at = want;
            while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80) {
                at--;
            }
        }
        size = at;
        n_tok = count_tok(b, text, size);
    }
    return size;
}

static void add_fields(const ew_task *t, const char *input, size_t size, const char *output, ew_buf *out)
{
    ew_buf_adds(out, t->input_name);
    ew_buf_adds(out, ": ");
    ew_buf_add(out, input, size);
    ew_buf_addc(out, '\n');
    ew_buf_adds(out, t->output_name);
    ew_buf_addc(out, ':');
    if (output != NULL) {
        ew_task_answer(output, out);
        ew_buf_adds(out, "\n\n");
    }
}

/* What an item costs beside its text. */
static size_t frame_tok(const ew_task *t, const ew_task_budget *b, const char *output)
{
    EW_AUTO_BUF frame = {0};
    add_fields(t, "", 0, output, &frame);
    return count_tok(b, ew_buf_str(&frame), frame.size) + 1; /* 1: words may join differently at the seams */
}

typedef struct piece {
    const char *text;
    size_t size, tok, frame; /* bytes, tokens of the text, tokens of the frame */
    size_t keep;             /* bytes that stay */
} piece;

/* Shares total tokens over the items' texts, unused ones rolling over to the next. False when one would get too little. */
static bool share(const ew_task_budget *b, piece *p, size_t n, size_t total)
{
    for (size_t i = 0; i < n; i++) {
        size_t mine = total / (n - i);
        if (mine < p[i].frame + EW_MIN(p[i].tok, (size_t)PROMPT_MIN_ITEM_TOK)) {
            return false;
        }
        size_t room = mine - p[i].frame;
        p[i].keep = cut(b, p[i].text, p[i].size, p[i].tok, room);
        total -= p[i].frame + EW_MIN(p[i].tok, room);
    }
    return true;
}

/* Fits query and items; returns the number of items that stay. */
static size_t fit(const ew_task_budget *b, piece *query, piece *items, size_t n)
{
    size_t max = b->max_tok > query->frame ? b->max_tok - query->frame : 0;
    for (; n > 0; n--) {
        for (int tenth = 6; tenth >= 0; tenth--) {
            size_t own = EW_MIN(query->tok, max * (size_t)tenth / 10);
            /* An input that would vanish is no question. */
            if (own >= EW_MIN(query->tok, (size_t)PROMPT_MIN_ITEM_TOK) && share(b, items, n, max - own)) {
                query->keep = cut(b, query->text, query->size, query->tok, own);
                return n;
            }
        }
    }
    query->keep = cut(b, query->text, query->size, query->tok, max);
    return 0;
}

static piece piece_of(const ew_task *t, const ew_task_budget *b, const char *input, const char *output)
{
    piece p = {.text = input, .size = strlen(input)};
    while (p.size > 0 && strchr(" \t\r\n", input[p.size - 1]) != NULL) {
        p.size--;
    }
    p.keep = p.size;
    if (b->max_tok != 0) {
        p.tok = count_tok(b, p.text, p.size);
        p.frame = frame_tok(t, b, output);
    }
    return p;
}

ew_status ew_task_prompt(const ew_task *t, const char *input, const ew_item *const *retrieved, size_t n_retrieved,
                         const ew_task_budget *budget, ew_buf *out, size_t *ret_used, ew_error *reterr)
{
    static const ew_task_budget unlimited = {0};
    const ew_task_budget *b = budget != NULL ? budget : &unlimited;
    size_t n = EW_MIN(n_retrieved, (size_t)PROMPT_RETRIEVED_MAX);
    piece items[PROMPT_RETRIEVED_MAX];
    for (size_t i = 0; i < n; i++) {
        items[i] = piece_of(t, b, retrieved[i]->input, retrieved[i]->output);
    }
    piece query = piece_of(t, b, input, NULL);
    if (b->max_tok != 0) {
        n = fit(b, &query, items, n);
    }
    for (size_t i = n; i-- > 0;) {
        add_fields(t, items[i].text, items[i].keep, retrieved[i]->output, out);
    }
    add_fields(t, query.text, query.keep, NULL, out);
    if (ret_used != NULL) {
        *ret_used = n;
    }
    return ew_buf_check(out, reterr);
}

/* Templates and their rendering. */
#include <string.h>

#include "base/mem.h"
#include "chat/chat_int.h"

#define SYNTAX_BYTES ((size_t)96 * 1024 * 1024) /* what the tree of the largest template may take */
#define PIECES_MAX ((size_t)1 << 26)

/* ---- templates ---- */

int32_t ew__symbol(const ew_chat_template *t, const char *name)
{
    uintptr_t found = (uintptr_t)ew_map_get(t->symbols, name, strlen(name));
    return (int32_t)found - 1;
}

ew_status ew__symbol_add(ew_chat_template *t, const char *name, size_t n, int32_t *ret, ew_error *reterr)
{
    uintptr_t found = (uintptr_t)ew_map_get(t->symbols, name, n);
    if (found != 0) {
        *ret = (int32_t)found - 1;
        return EW_OK;
    }
    char *copy = ew__region_take(&t->mem, n + 1, 1);
    if (copy == NULL || ew_grow((void **)&t->name, &t->symbols_cap, t->n_symbols + 1, sizeof(*t->name),
                                EW_LIMIT_CHAT_TEMPLATE_BYTES) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a chat template");
    }
    memcpy(copy, name, n);
    copy[n] = 0;
    t->name[t->n_symbols] = copy;
    if (ew_map_add(t->symbols, name, n, (void *)(t->n_symbols + 1)) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a chat template");
    }
    *ret = (int32_t)t->n_symbols++;
    return EW_OK;
}

void ew_chat_template_free(ew_chat_template **tp)
{
    ew_chat_template *t = *tp;
    if (t == NULL) {
        return;
    }
    ew_map_free(&t->symbols);
    ew_free(t->name);
    ew__region_release(&t->mem);
    ew_free(t);
    *tp = NULL;
}

/* A copy with every newline as "\n" and, as Jinja does, without the last one. */
static char *normal_source(ew__region *g, const char *text, size_t size, size_t *ret_size)
{
    char *s = ew__region_take(g, size + 1, 1);
    size_t n = 0;
    for (size_t i = 0; s != NULL && i < size; i++) {
        s[n++] = text[i] == '\r' ? '\n' : text[i];
        i += text[i] == '\r' && i + 1 < size && text[i + 1] == '\n';
    }
    n -= n > 0 && s[n - 1] == '\n';
    *ret_size = n;
    return s;
}

ew_status ew_chat_template_new(const char *text, size_t size, ew_chat_template **ret_template, ew_error *reterr)
{
    const ew__token *tokens = NULL;
    size_t n_tokens = 0;
    size_t n = 0;
    if (size > EW_LIMIT_CHAT_TEMPLATE_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "a chat template of %zu bytes; at most %u are read", size,
                       EW_LIMIT_CHAT_TEMPLATE_BYTES);
    }
    EW_AUTO(ew_chat_template) t = ew_calloc(1, sizeof(*t));
    if (t == NULL || ew_map_new(&t->symbols) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a chat template");
    }
    t->mem.max = SYNTAX_BYTES;
    const char *source = normal_source(&t->mem, text, size, &n);
    if (source == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a chat template");
    }
    EW_TRY(ew__lex(source, n, &t->mem, &tokens, &n_tokens, reterr));
    EW_TRY(ew__parse(t, tokens, n_tokens, reterr));
    *ret_template = t;
    t = NULL;
    return EW_OK;
}

bool ew_chat_template_uses(const ew_chat_template *t, const char *name)
{
    return ew__symbol(t, name) >= 0;
}

/* ---- the result ---- */

void ew_chat_text_release(ew_chat_text *t)
{
    ew_buf_release(&t->text);
    ew_free(t->piece);
    *t = (ew_chat_text){0};
}

static ew_status cut_pieces(const ew_buf *mask, ew_chat_text *out)
{
    for (size_t i = 0; i < mask->size;) {
        size_t end = i;
        while (end < mask->size && mask->data[end] == mask->data[i]) {
            end++;
        }
        EW_TRY(ew_grow((void **)&out->piece, &out->pieces_cap, out->n_pieces + 1, sizeof(*out->piece), PIECES_MAX));
        out->piece[out->n_pieces++] = (ew_chat_piece){i, end, mask->data[i] != 0};
        i = end;
    }
    return EW_OK;
}

/* ---- what a template sees ---- */

static ew_status define(ew__run *r, const char *name, ew__val v)
{
    int32_t sym = ew__symbol(r->t, name);
    return sym >= 0 ? ew__assign_name(r, r->globals, sym, v) : EW_OK;
}

static ew_status define_text(ew__run *r, const char *name, const char *text)
{
    return text != NULL ? define(r, name, ew__text(text)) : EW_OK;
}

static ew_status define_all(ew__run *r, const ew_chat_render_opt *opt, ew__val messages)
{
    EW_TRY(ew__define_functions(r));
    EW_TRY(define(r, "tools", ew__none()));
    EW_TRY(define(r, "documents", ew__none()));
    EW_TRY(define_text(r, "bos_token", opt->bos_token));
    EW_TRY(define_text(r, "eos_token", opt->eos_token));
    EW_TRY(define_text(r, "unk_token", opt->unk_token));
    EW_TRY(define_text(r, "pad_token", opt->pad_token));
    if (opt->vars != NULL && !json_is_object(opt->vars)) {
        return ew__fail(r, EW_EINVAL, "the variables are not a JSON object");
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)opt->vars, key, value)
    {
        ew__val v;
        if (ew__symbol(r->t, key) >= 0) {
            EW_TRY(ew__from_json(r, value, false, &v));
            EW_TRY(define(r, key, v));
        }
    }
    EW_TRY(define(r, "messages", messages));
    return define(r, "add_generation_prompt", ew__bool(opt->add_generation_prompt));
}

static bool is_role(const char *s)
{
    size_t n = s != NULL ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") : 0;
    return n > 0 && n <= 64 && s[n] == 0;
}

static ew_status bad_role(ew__run *r, size_t i)
{
    return ew__fail(r, EW_EINVAL,
                    "message %zu has no role, or one with other characters than letters, digits, '_', '-'", i + 1);
}

static ew__val content_text(const char *s)
{
    return s != NULL ? ew__of_str((ew__str){s, ew__all_content, strlen(s)}) : ew__none();
}

static ew_status from_messages(ew__run *r, const ew_chat_message *m, size_t n, ew__val *ret)
{
    EW_TRY(ew__new_list(r, EW__LIST_LIST, n, ret));
    for (size_t i = 0; i < n; i++) {
        ew__val dict;
        if (!is_role(m[i].role)) {
            return bad_role(r, i);
        }
        EW_TRY(ew__new_dict(r, EW__DICT, &dict));
        EW_TRY(ew__dict_put(r, dict.u.dict, ew__text("role"), ew__text(m[i].role)));
        EW_TRY(ew__dict_put(r, dict.u.dict, ew__text("content"), content_text(m[i].content)));
        if (m[i].name != NULL) {
            EW_TRY(ew__dict_put(r, dict.u.dict, ew__text("name"), content_text(m[i].name)));
        }
        EW_TRY(ew__push(r, ret->u.list, dict));
    }
    return EW_OK;
}

static ew_status from_json_messages(ew__run *r, const json_t *j, ew__val *ret)
{
    if (!json_is_array(j)) {
        return ew__fail(r, EW_EINVAL, "the messages are not a JSON array");
    }
    EW_TRY(ew__new_list(r, EW__LIST_LIST, json_array_size(j), ret));
    for (size_t i = 0; i < json_array_size(j); i++) {
        const json_t *m = json_array_get(j, i);
        ew__val v;
        if (!json_is_object(m)) {
            return ew__fail(r, EW_EINVAL, "message %zu is not a JSON object", i + 1);
        }
        if (!is_role(json_string_value(json_object_get(m, "role")))) {
            return bad_role(r, i);
        }
        EW_TRY(ew__from_json(r, m, true, &v));
        EW_TRY(ew__push(r, ret->u.list, v));
    }
    return EW_OK;
}

typedef struct source {
    const ew_chat_message *messages;
    size_t n;
    const json_t *json; /* or these */
} source;

static ew_status run(ew__run *r, const source *from, const ew_chat_render_opt *opt, ew_chat_text *out)
{
    ew__val messages;
    EW_TRY(ew__new_scope(r, NULL, &r->globals));
    EW_TRY(ew__new_scope(r, r->globals, &r->scope));
    EW_TRY(from->messages != NULL || from->json == NULL ? from_messages(r, from->messages, from->n, &messages)
                                                        : from_json_messages(r, from->json, &messages));
    EW_TRY(define_all(r, opt, messages));
    EW_TRY(ew__exec(r, r->t->body));
    EW_ASSERT(r->out.size == r->mask.size);
    if (cut_pieces(&r->mask, out) != EW_OK) {
        return ew__fail(r, EW_ENOMEM, "no memory for the rendered text");
    }
    ew_buf_release(&out->text);
    out->text = r->out;
    out->text.max = 0;
    r->out = (ew_buf){0};
    return EW_OK;
}

static ew_status render(const ew_chat_template *t, const source *from, const ew_chat_render_opt *opt, ew_chat_text *out,
                        ew_error *reterr)
{
    static const ew_chat_render_opt none = {0};
    opt = opt != NULL ? opt : &none;
    size_t max = opt->max_output_bytes != 0 ? opt->max_output_bytes : EW_LIMIT_CHAT_OUTPUT_BYTES;
    ew__run r = {.t = t,
                 .now = opt->now,
                 .mem.max = opt->max_memory_bytes != 0 ? opt->max_memory_bytes : EW_LIMIT_CHAT_MEMORY_BYTES,
                 .out.max = max,
                 .mask.max = max,
                 .max_steps = opt->max_steps != 0 ? opt->max_steps : EW_LIMIT_CHAT_STEPS,
                 .err = reterr};
    ew_chat_text made = {0};
    ew_status st = run(&r, from, opt, &made);
    ew_buf_release(&r.out);
    ew_buf_release(&r.mask);
    ew__region_release(&r.mem);
    if (st != EW_OK) {
        ew_chat_text_release(&made);
        return st;
    }
    ew_chat_text_release(out);
    *out = made;
    return EW_OK;
}

ew_status ew_chat_render(const ew_chat_template *t, const ew_chat_message *messages, size_t n_messages,
                         const ew_chat_render_opt *opt, ew_chat_text *out, ew_error *reterr)
{
    const source from = {.messages = messages, .n = n_messages};
    return render(t, &from, opt, out, reterr);
}

ew_status ew_chat_render_json(const ew_chat_template *t, const json_t *messages, const ew_chat_render_opt *opt,
                              ew_chat_text *out, ew_error *reterr)
{
    const source from = {.json = messages};
    return render(t, &from, opt, out, reterr);
}

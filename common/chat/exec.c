/* Statements: output, loops, assignments, macros. */
#include <string.h>

#include "chat/chat_int.h"

/* ---- output ---- */

static ew_status emit(ew__run *r, ew__str s)
{
    EW_TRY(ew__charge(r, s.n));
    ew_buf_add(&r->out, s.p, s.n);
    void *mark = s.n > 0 ? ew_buf_extend(&r->mask, s.n) : NULL;
    if (mark != NULL) {
        if (s.mask == NULL || s.mask == ew__all_content) {
            memset(mark, s.mask != NULL, s.n);
        } else {
            memcpy(mark, s.mask, s.n);
        }
    }
    if (r->out.status == EW_ELIMIT || r->mask.status == EW_ELIMIT) {
        return ew__fail(r, EW_ELIMIT, "the rendered text is longer than %zu bytes", r->out.max);
    }
    if (r->out.status != EW_OK || r->mask.status != EW_OK) {
        return ew__fail(r, EW_ENOMEM, "no memory for the rendered text");
    }
    return EW_OK;
}

/* What was put out since begin becomes a value. */
static ew_status take_output(ew__run *r, size_t begin, ew__val *ret)
{
    ew__sb b = {.r = r};
    size_t n = r->out.size - begin;
    bool content = n > 0 && memchr(r->mask.data + begin, 1, n) != NULL;
    if (n > 0) {
        const uint8_t *mask = (const uint8_t *)r->mask.data + begin;
        ew__sb_add(&b, (ew__str){r->out.data + begin, content ? mask : NULL, n});
        r->out.size = begin;
        r->mask.size = begin;
    }
    return ew__sb_done(&b, ret);
}

static ew_status capture(ew__run *r, ew__scope *scope, const ew__node *body, ew__val *ret)
{
    ew__scope *before = r->scope;
    size_t begin = r->out.size;
    r->scope = scope;
    EW_TRY(ew__exec(r, body));
    r->scope = before;
    return take_output(r, begin, ret);
}

static ew_status output(ew__run *r, const ew__node *n)
{
    ew__val v;
    ew__val text;
    EW_TRY(ew__eval(r, n->a, &v));
    r->at = n->a;
    EW_TRY(ew__str_of(r, &v, &text));
    return emit(r, text.u.s);
}

/* ---- assignment ---- */

static ew_status assign_attr(ew__run *r, const ew__node *target, ew__val v)
{
    ew__val object;
    ew__str name = target->val.u.s;
    EW_TRY(ew__eval(r, target->a, &object));
    r->at = target;
    if (object.kind != EW__NAMESPACE) {
        return ew__fail(r, EW_EINVAL, "cannot assign an attribute of %s: only of namespace objects",
                        ew__type_name(&object));
    }
    if (name.n > 0 && name.p[0] == '_') {
        return ew__fail(r, EW_EUNSUPPORTED, "attribute '%.*s' of a namespace", (int)EW_MIN(name.n, 40u), name.p);
    }
    return ew__dict_put(r, object.u.dict, target->val, v);
}

static ew_status assign(ew__run *r, const ew__node *target, ew__val v)
{
    ew__list *l = NULL;
    size_t n = 0;
    size_t i = 0;
    if (target->type == EW__N_NAME) {
        return ew__assign_name(r, r->scope, target->sym, v);
    }
    if (target->type == EW__N_ATTR) {
        return assign_attr(r, target, v);
    }
    r->at = target;
    EW_TRY(ew__iterate(r, &v, &l));
    for (const ew__node *x = target->a; x != NULL; x = x->next) {
        n++;
    }
    if (l->n != n) {
        return ew__fail(r, EW_EINVAL, "%zu values for %zu names", l->n, n);
    }
    for (const ew__node *x = target->a; x != NULL; x = x->next, i++) {
        EW_TRY(assign(r, x, l->v[i]));
    }
    return EW_OK;
}

static ew_status exec_set(ew__run *r, const ew__node *n)
{
    ew__val v;
    EW_TRY(ew__eval(r, n->b, &v));
    return assign(r, n->a, v);
}

/* A chain of filters over the text of a block; the innermost has no input of its own. */
static ew_status apply_filters(ew__run *r, const ew__node *n, ew__val in, ew__val *ret)
{
    ew__args args;
    if (n == NULL) {
        *ret = in;
        return EW_OK;
    }
    EW_TRY(ew__enter(r));
    EW_TRY(apply_filters(r, n->a, in, &in));
    EW_TRY(ew__eval_args(r, n->b, &args));
    r->at = n;
    ew__leave(r);
    return ew__filter(r, n->val.u.s, &in, &args, ret);
}

static ew_status exec_block(ew__run *r, const ew__node *n)
{
    ew__scope *scope = NULL;
    ew__val v;
    EW_TRY(ew__new_scope(r, r->scope, &scope));
    EW_TRY(capture(r, scope, n->c, &v));
    EW_TRY(apply_filters(r, n->b, v, &v));
    if (n->type == EW__N_SET_BLOCK) {
        return assign(r, n->a, v);
    }
    if (v.kind != EW__STR) {
        return ew__fail(r, EW_EINVAL, "a filter block gives %s, not text", ew__type_name(&v));
    }
    return emit(r, v.u.s);
}

/* The body in a scope of its own. */
static ew_status exec_in(ew__run *r, ew__scope *scope, const ew__node *body)
{
    ew__scope *before = r->scope;
    r->scope = scope;
    ew_status st = ew__exec(r, body);
    r->scope = before;
    return st;
}

static ew_status exec_with(ew__run *r, const ew__node *n)
{
    ew__scope *scope = NULL;
    EW_TRY(ew__new_scope(r, r->scope, &scope));
    for (const ew__node *x = n->a; x != NULL; x = x->next) {
        ew__val v;
        EW_TRY(ew__eval(r, x->b, &v));
        EW_TRY(ew__assign_name(r, scope, x->a->sym, v));
    }
    return exec_in(r, scope, n->c);
}

/* ---- loops ---- */

/* Whether there is an i-th item; the filter runs as far as that needs, which a body can notice. */
static ew_status loop_has(ew__run *r, ew__loop *l, size_t i, bool *ret)
{
    while (l->items != l->source && l->items->n <= i && l->scan < l->source->n) {
        ew__val item = l->source->v[l->scan++];
        ew__scope *before = r->scope;
        ew__scope *scope = NULL;
        ew__val keep;
        EW_TRY(ew__new_scope(r, l->outer, &scope));
        r->scope = scope;
        EW_TRY(assign(r, l->node->a, item));
        EW_TRY(ew__eval(r, l->node->e, &keep));
        r->scope = before;
        if (!ew__truth(&keep)) {
            continue;
        }
        EW_TRY(ew__push(r, l->items, item));
    }
    *ret = l->items->n > i;
    return EW_OK;
}

static ew_status loop_length(ew__run *r, ew__loop *l, int64_t *ret)
{
    bool more;
    EW_TRY(loop_has(r, l, SIZE_MAX - 1, &more));
    *ret = (int64_t)l->items->n;
    return EW_OK;
}

ew_status ew__loop_attr(ew__run *r, ew__loop *l, ew__str name, ew__val *ret)
{
    bool more = false;
    int64_t n = 0;
    int64_t i = (int64_t)l->i;
    if (ew__is(name, "index") || ew__is(name, "index0")) {
        *ret = ew__int(i + (name.n == 5));
    } else if (ew__is(name, "first")) {
        *ret = ew__bool(i == 0);
    } else if (ew__is(name, "last")) {
        EW_TRY(loop_has(r, l, l->i + 1, &more));
        *ret = ew__bool(!more);
    } else if (ew__is(name, "length")) {
        EW_TRY(loop_length(r, l, &n));
        *ret = ew__int(n);
    } else if (ew__is(name, "revindex") || ew__is(name, "revindex0")) {
        EW_TRY(loop_length(r, l, &n));
        *ret = ew__int(n - i - (name.n == 9));
    } else if (ew__is(name, "previtem")) {
        *ret = i > 0 ? l->items->v[i - 1] : ew__undefined(name);
    } else if (ew__is(name, "nextitem")) {
        EW_TRY(loop_has(r, l, l->i + 1, &more));
        *ret = more ? l->items->v[i + 1] : ew__undefined(name);
    } else if (ew__is(name, "depth") || ew__is(name, "depth0")) {
        *ret = ew__int(name.n == 5);
    } else {
        return ew__fail(r, EW_EUNSUPPORTED, "'loop.%.*s'", (int)EW_MIN(name.n, 40u), name.p);
    }
    return EW_OK;
}

static ew_status run_loop(ew__run *r, ew__loop *l, int32_t loop_sym, bool *ret_any)
{
    ew__scope *before = r->scope;
    ew__scope *scope = NULL;
    uint64_t n_macros = r->n_macros;
    for (l->i = 0;; l->i++) {
        bool more = false;
        EW_TRY(loop_has(r, l, l->i, &more));
        if (!more) {
            break;
        }
        *ret_any = true;
        EW_TRY(ew__charge(r, 0));
        if (scope == NULL || r->n_macros != n_macros) { /* a macro may still see the last one */
            EW_TRY(ew__new_scope(r, l->outer, &scope));
            n_macros = r->n_macros;
        }
        scope->n = 0;
        r->scope = scope;
        EW_TRY(assign(r, l->node->a, l->items->v[l->i]));
        if (loop_sym >= 0) {
            EW_TRY(ew__assign_name(r, scope, loop_sym, (ew__val){.kind = EW__LOOP, .u.loop = l}));
        }
        EW_TRY(ew__exec(r, l->node->c));
        r->scope = before;
        bool stop = r->flow == EW__FLOW_BREAK;
        r->flow = EW__FLOW_ON;
        if (stop) {
            break;
        }
    }
    return EW_OK;
}

static ew_status exec_for(ew__run *r, const ew__node *n)
{
    void *p = NULL;
    ew__val v;
    ew__val items;
    ew__list *source = NULL;
    bool any = false;
    EW_TRY(ew__eval(r, n->b, &v));
    r->at = n->b;
    EW_TRY(ew__iterate(r, &v, &source));
    items.u.list = source;
    if (n->e != NULL) {
        EW_TRY(ew__new_list(r, EW__LIST_LIST, 4, &items));
    }
    EW_TRY(ew__take(r, 1, sizeof(ew__loop), &p));
    *(ew__loop *)p = (ew__loop){.node = n, .source = source, .items = items.u.list, .outer = r->scope};
    EW_TRY(run_loop(r, p, ew__symbol(r->t, "loop"), &any));
    if (!any && n->d != NULL) {
        ew__scope *scope = NULL;
        EW_TRY(ew__new_scope(r, r->scope, &scope));
        return exec_in(r, scope, n->d);
    }
    return EW_OK;
}

static ew_status exec_if(ew__run *r, const ew__node *n)
{
    for (; n != NULL; n = n->b) {
        ew__val v;
        EW_TRY(ew__eval(r, n->a, &v));
        if (ew__truth(&v)) {
            return ew__exec(r, n->c);
        }
        if (n->b == NULL) {
            return ew__exec(r, n->d);
        }
    }
    return EW_OK;
}

/* ---- macros ---- */

static ew_status new_macro(ew__run *r, const ew__node *params, const ew__node *body, ew__val *ret)
{
    void *p = NULL;
    EW_TRY(ew__take(r, 1, sizeof(ew__macro), &p));
    r->n_macros++;
    *(ew__macro *)p = (ew__macro){.params = params, .body = body, .name = "caller", .scope = r->scope};
    *ret = (ew__val){.kind = EW__MACRO, .u.macro = p};
    return EW_OK;
}

/* The argument for the i-th parameter, ABSENT when there is none. */
static ew_status macro_argument(ew__run *r, const ew__macro *m, const ew__node *param, size_t i, const ew__args *a,
                                size_t *used, ew__val *ret)
{
    *ret = (ew__val){.kind = EW__ABSENT};
    if (i < a->n) {
        *ret = a->v[i];
    }
    for (size_t k = 0; k < a->n_kw; k++) {
        ew__str name = a->kw[k].k.u.s;
        if (name.n == param->val.u.s.n && memcmp(name.p, param->val.u.s.p, name.n) == 0) {
            if (ret->kind != EW__ABSENT) {
                return ew__fail(r, EW_EINVAL, "macro '%s' gets '%.*s' twice", m->name, (int)EW_MIN(name.n, 40u),
                                name.p);
            }
            *ret = a->kw[k].v;
            (*used)++;
        }
    }
    return EW_OK;
}

static ew_status bind_params(ew__run *r, const ew__macro *m, const ew__args *a, ew__scope *scope)
{
    size_t i = 0;
    size_t used = 0;
    for (const ew__node *x = m->params; x != NULL; x = x->next, i++) {
        ew__val v;
        EW_TRY(macro_argument(r, m, x, i, a, &used, &v));
        if (v.kind == EW__ABSENT && x->a != NULL) {
            ew__scope *before = r->scope;
            r->scope = scope;
            EW_TRY(ew__eval(r, x->a, &v));
            r->scope = before;
        }
        EW_TRY(ew__assign_name(r, scope, x->sym, v.kind == EW__ABSENT ? ew__undefined(x->val.u.s) : v));
    }
    if (a->n > i) {
        return ew__fail(r, EW_EINVAL, "macro '%s' takes at most %zu arguments, not %zu", m->name, i, a->n);
    }
    if (used < a->n_kw) {
        return ew__fail(r, EW_EINVAL, "macro '%s' gets an argument by a name that it does not have", m->name);
    }
    int32_t caller = ew__symbol(r->t, "caller");
    if (m->caller.kind != EW__ABSENT && caller >= 0) {
        EW_TRY(ew__assign_name(r, scope, caller, m->caller));
    }
    return EW_OK;
}

ew_status ew__call_macro(ew__run *r, ew__macro *m, const ew__args *a, ew__val *ret)
{
    ew__scope *scope = NULL;
    EW_TRY(ew__new_scope(r, m->scope, &scope));
    EW_TRY(bind_params(r, m, a, scope));
    EW_TRY(ew__enter(r));
    EW_TRY(capture(r, scope, m->body, ret));
    ew__leave(r);
    return EW_OK;
}

static ew_status exec_macro(ew__run *r, const ew__node *n)
{
    ew__val v;
    EW_TRY(new_macro(r, n->a, n->c, &v));
    v.u.macro->name = r->t->name[n->sym];
    return ew__assign_name(r, r->scope, n->sym, v);
}

static ew_status exec_call_block(ew__run *r, const ew__node *n)
{
    ew__val f;
    ew__val v;
    ew__val caller;
    ew__args args;
    EW_TRY(ew__eval(r, n->a->a, &f));
    EW_TRY(ew__eval_args(r, n->a->b, &args));
    r->at = n->a;
    if (f.kind != EW__MACRO) {
        return ew__fail(r, EW_EUNSUPPORTED, "a call block with a %s", ew__type_name(&f));
    }
    EW_TRY(new_macro(r, n->b, n->c, &caller));
    ew__macro with = *f.u.macro;
    with.caller = caller;
    EW_TRY(ew__call_macro(r, &with, &args, &v));
    return emit(r, v.u.s);
}

/* ---- all ---- */

static ew_status exec_scope(ew__run *r, const ew__node *n)
{
    ew__scope *scope = NULL;
    EW_TRY(ew__new_scope(r, r->scope, &scope));
    return exec_in(r, scope, n->c);
}

static ew_status exec_node(ew__run *r, const ew__node *n)
{
    switch (n->type) {
    case EW__N_TEXT:
        return emit(r, n->val.u.s);
    case EW__N_OUTPUT:
        return output(r, n);
    case EW__N_IF:
        return exec_if(r, n);
    case EW__N_FOR:
        return exec_for(r, n);
    case EW__N_SET:
        return exec_set(r, n);
    case EW__N_SET_BLOCK:
    case EW__N_FILTER_BLOCK:
        return exec_block(r, n);
    case EW__N_MACRO:
        return exec_macro(r, n);
    case EW__N_CALL_BLOCK:
        return exec_call_block(r, n);
    case EW__N_SCOPE:
        return exec_scope(r, n);
    case EW__N_WITH:
        return exec_with(r, n);
    case EW__N_BREAK:
        r->flow = EW__FLOW_BREAK;
        return EW_OK;
    case EW__N_CONTINUE:
        r->flow = EW__FLOW_CONTINUE;
        return EW_OK;
    default:
        return ew__fail(r, EW_EINTERNAL, "node %d is not a statement", (int)n->type);
    }
}

ew_status ew__exec(ew__run *r, const ew__node *body)
{
    for (const ew__node *n = body; n != NULL && r->flow == EW__FLOW_ON; n = n->next) {
        r->at = n;
        EW_TRY(ew__charge(r, 0));
        EW_TRY(ew__enter(r));
        EW_TRY(exec_node(r, n));
        ew__leave(r);
    }
    return EW_OK;
}

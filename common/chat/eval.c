/* Expressions. */
#include <math.h>
#include <string.h>

#include "chat/chat_int.h"
#include "text/utf8.h"

#define ARGS_MAX 64u

/* ---- names ---- */

ew_status ew__new_scope(ew__run *r, ew__scope *up, ew__scope **ret)
{
    void *p = NULL;
    EW_TRY(ew__take(r, 1, sizeof(ew__scope), &p));
    *ret = p;
    **ret = (ew__scope){.up = up};
    return EW_OK;
}

ew_status ew__assign_name(ew__run *r, ew__scope *s, int32_t sym, ew__val v)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->b[i].sym == sym) {
            s->b[i].v = v;
            return EW_OK;
        }
    }
    if (s->n == s->cap) {
        size_t cap = EW_MAX(s->cap * 2, 4u);
        void *p = NULL;
        EW_TRY(ew__take(r, cap, sizeof(*s->b), &p));
        if (s->n > 0) {
            memcpy(p, s->b, s->n * sizeof(*s->b));
        }
        s->b = p;
        s->cap = cap;
    }
    s->b[s->n].sym = sym;
    s->b[s->n++].v = v;
    return EW_OK;
}

static ew_status lookup(ew__run *r, const ew__node *n, ew__val *ret)
{
    size_t seen = 0;
    for (const ew__scope *s = r->scope; s != NULL; s = s->up) {
        for (size_t i = 0; i < s->n; i++) {
            if (s->b[i].sym == n->sym) {
                *ret = s->b[i].v;
                return EW_OK;
            }
        }
        seen += s->n + 1;
    }
    *ret = ew__undefined(n->val.u.s);
    return ew__charge(r, seen * 8);
}

/* ---- attributes and items ---- */

static ew_status is_undefined(ew__run *r, const ew__val *v)
{
    return ew__fail(r, EW_EINVAL, "'%.*s' is undefined", (int)EW_MIN(v->u.s.n, 80u), v->u.s.p);
}

static ew_status make_method(ew__run *r, const ew__val *v, const char *name, ew__val *ret)
{
    void *p = NULL;
    EW_TRY(ew__take(r, 1, sizeof(ew__method), &p));
    *(ew__method *)p = (ew__method){*v, name};
    *ret = (ew__val){.kind = EW__METHOD, .u.method = p};
    return EW_OK;
}

ew_status ew__get_attr(ew__run *r, const ew__val *v, ew__str name, ew__val *ret)
{
    const char *method = NULL;
    ew__val *found = NULL;
    if (v->kind == EW__UNDEFINED) {
        return is_undefined(r, v);
    }
    if (name.n >= 2 && name.p[0] == '_' && name.p[1] == '_') {
        return ew__fail(r, EW_EUNSUPPORTED, "attribute '%.*s' (not safe)", (int)EW_MIN(name.n, 40u), name.p);
    }
    if (v->kind == EW__LOOP) {
        return ew__loop_attr(r, v->u.loop, name, ret);
    }
    if (v->kind == EW__MACRO || v->kind == EW__FUNCTION || v->kind == EW__METHOD) {
        return ew__fail(r, EW_EUNSUPPORTED, "attribute '%.*s' of a %s", (int)EW_MIN(name.n, 40u), name.p,
                        ew__type_name(v));
    }
    if (ew__has_method(v, name, &method)) {
        return make_method(r, v, method, ret);
    }
    if (v->kind == EW__DICT || v->kind == EW__NAMESPACE) {
        EW_TRY(ew__dict_find(r, v->u.dict, ew__of_str(name), &found));
    }
    *ret = found != NULL ? *found : ew__undefined(name);
    return EW_OK;
}

static ew_status sequence_item(ew__run *r, const ew__val *v, int64_t i, ew__val *ret)
{
    size_t n = 0;
    EW_TRY(ew__length(r, v, &n));
    i = i < 0 ? i + (int64_t)n : i;
    if (i < 0 || (uint64_t)i >= n) {
        *ret = ew__undefined((ew__str){"item past the end", NULL, 17});
        return EW_OK;
    }
    if (v->kind == EW__LIST) {
        *ret = v->u.list->v[i];
        return EW_OK;
    }
    size_t at = ew__char_offset(v->u.s, (size_t)i);
    uint32_t cp;
    size_t len = ew_utf8_next(v->u.s.p + at, v->u.s.n - at, &cp);
    *ret = ew__of_str(ew__sub(v->u.s, at, at + len));
    ret->markup = v->markup;
    return EW_OK;
}

ew_status ew__get_item(ew__run *r, const ew__val *v, const ew__val *key, ew__val *ret)
{
    int64_t i;
    bool indexed = v->kind == EW__STR || (v->kind == EW__LIST && v->u.list->kind <= EW__LIST_RANGE);
    if (v->kind == EW__UNDEFINED) {
        return is_undefined(r, v);
    }
    if (v->kind == EW__DICT && key->kind != EW__LIST && key->kind != EW__DICT) {
        ew__val *found = NULL;
        EW_TRY(ew__dict_find(r, v->u.dict, *key, &found));
        if (found != NULL) {
            *ret = *found;
            return EW_OK;
        }
    } else if (indexed && ew__as_int(key, &i)) {
        return sequence_item(r, v, i, ret);
    }
    if (key->kind == EW__STR) {
        return ew__get_attr(r, v, key->u.s, ret);
    }
    *ret = ew__undefined((ew__str){"item", NULL, 4});
    return EW_OK;
}

/* One bound of a slice as Python clamps it. */
static ew_status slice_bound(ew__run *r, const ew__node *n, int64_t size, int64_t step, bool stop, int64_t *ret)
{
    ew__val v = {.kind = EW__NONE_VALUE};
    if (n != NULL) {
        EW_TRY(ew__eval(r, n, &v));
    }
    if (v.kind == EW__NONE_VALUE) {
        *ret = step > 0 ? (stop ? size : 0) : (stop ? -1 : size - 1);
        return EW_OK;
    }
    int64_t i;
    if (!ew__as_int(&v, &i)) {
        return ew__fail(r, EW_EINVAL, "a slice needs integers, not %s", ew__type_name(&v));
    }
    int64_t low = step > 0 ? 0 : -1;
    int64_t high = step > 0 ? size : size - 1;
    if (i < 0) {
        i = i < -size ? low : EW_MAX(i + size, low);
    }
    *ret = EW_MIN(i, high);
    return EW_OK;
}

static ew_status slice_string(ew__run *r, ew__str s, const int64_t bound[3], ew__val *ret)
{
    if (bound[2] == 1) {
        size_t begin = ew__char_offset(s, (size_t)bound[0]);
        size_t n = bound[1] > bound[0] ? (size_t)(bound[1] - bound[0]) : 0;
        size_t end = begin + ew__char_offset(ew__sub(s, begin, s.n), n);
        *ret = ew__of_str(ew__sub(s, begin, end));
        return EW_OK;
    }
    ew__val whole = ew__of_str(s);
    ew__list *chars = NULL;
    ew__sb b = {.r = r};
    EW_TRY(ew__iterate(r, &whole, &chars));
    for (int64_t i = bound[0]; bound[2] > 0 ? i < bound[1] : i > bound[1]; i += bound[2]) {
        ew__sb_add(&b, chars->v[i].u.s);
    }
    return ew__sb_done(&b, ret);
}

static ew_status slice(ew__run *r, const ew__val *v, const ew__node *n, ew__val *ret)
{
    size_t size = 0;
    int64_t bound[3] = {0, 0, 1};
    if (v->kind == EW__UNDEFINED) {
        return is_undefined(r, v);
    }
    if (v->kind != EW__STR && (v->kind != EW__LIST || v->u.list->kind > EW__LIST_TUPLE)) {
        return ew__fail(r, v->kind == EW__LIST ? EW_EUNSUPPORTED : EW_EINVAL, "a slice of %s", ew__type_name(v));
    }
    EW_TRY(ew__length(r, v, &size));
    if (n->c != NULL) {
        ew__val step;
        EW_TRY(ew__eval(r, n->c, &step));
        if (step.kind != EW__NONE_VALUE && (!ew__as_int(&step, &bound[2]) || bound[2] == 0)) {
            return ew__fail(r, EW_EINVAL, "the step of a slice is an integer but 0");
        }
        bound[2] = EW_MAX(EW_MIN(bound[2], INT64_C(1) << 32), -(INT64_C(1) << 32));
    }
    EW_TRY(slice_bound(r, n->a, (int64_t)size, bound[2], false, &bound[0]));
    EW_TRY(slice_bound(r, n->b, (int64_t)size, bound[2], true, &bound[1]));
    if (v->kind == EW__STR) {
        EW_TRY(slice_string(r, v->u.s, bound, ret));
        ret->markup = v->markup;
        return EW_OK;
    }
    EW_TRY(ew__new_list(r, v->u.list->kind, 4, ret));
    for (int64_t i = bound[0]; bound[2] > 0 ? i < bound[1] : i > bound[1]; i += bound[2]) {
        EW_TRY(ew__push(r, ret->u.list, v->u.list->v[i]));
    }
    return EW_OK;
}

/* ---- operators ---- */

static ew_status no_operator(ew__run *r, const char *what, const ew__val *a, const ew__val *b)
{
    if (a->kind == EW__UNDEFINED) {
        return is_undefined(r, a);
    }
    if (b->kind == EW__UNDEFINED) {
        return is_undefined(r, b);
    }
    return ew__fail(r, EW_EINVAL, "%s of %s and %s", what, ew__type_name(a), ew__type_name(b));
}

static ew_status add_strings(ew__run *r, const ew__val *a, const ew__val *b, ew__val *ret)
{
    ew__val x = *a;
    ew__val y = *b;
    ew__sb out = {.r = r};
    if (a->markup != b->markup) { /* Markup escapes what it is joined with */
        EW_TRY(ew__escape(r, a->markup ? b->u.s : a->u.s, a->markup ? &y : &x));
    }
    ew__sb_begin(&out, x.u.s);
    ew__sb_add(&out, y.u.s);
    EW_TRY(ew__sb_done(&out, ret));
    ret->markup = a->markup || b->markup;
    return EW_OK;
}

static ew_status add_lists(ew__run *r, const ew__list *a, const ew__list *b, ew__val *ret)
{
    EW_TRY(ew__new_list(r, a->kind, a->n + b->n, ret));
    for (size_t i = 0; i < a->n; i++) {
        EW_TRY(ew__push(r, ret->u.list, a->v[i]));
    }
    for (size_t i = 0; i < b->n; i++) {
        EW_TRY(ew__push(r, ret->u.list, b->v[i]));
    }
    return EW_OK;
}

static ew_status repeat(ew__run *r, const ew__val *v, int64_t n, ew__val *ret)
{
    if (v->kind == EW__STR) {
        ew__sb b = {.r = r};
        for (int64_t i = 0; i < n && b.st == EW_OK && v->u.s.n > 0; i++) {
            ew__sb_add(&b, v->u.s);
        }
        EW_TRY(ew__sb_done(&b, ret));
        ret->markup = v->markup;
        return EW_OK;
    }
    EW_TRY(ew__new_list(r, v->u.list->kind, 4, ret));
    for (int64_t i = 0; i < n && v->u.list->n > 0; i++) {
        for (size_t k = 0; k < v->u.list->n; k++) {
            EW_TRY(ew__push(r, ret->u.list, v->u.list->v[k]));
        }
    }
    return EW_OK;
}

static ew_status int_pow(ew__run *r, int64_t a, int64_t b, ew__val *ret)
{
    int64_t v = 1;
    if (b < 0) {
        if (a == 0) {
            return ew__fail(r, EW_EINVAL, "0 to a negative power");
        }
        *ret = ew__float(pow((double)a, (double)b));
        return EW_OK;
    }
    for (int64_t i = 0; i < b && a != 0 && a != 1; i++) {
        if (a == -1) {
            v = b % 2 == 0 ? 1 : -1;
            break;
        }
        if (__builtin_mul_overflow(v, a, &v)) {
            return ew__fail(r, EW_EUNSUPPORTED, "an integer of more than 64 bits");
        }
    }
    *ret = ew__int(a == 0 && b > 0 ? 0 : v);
    return EW_OK;
}

static ew_status int_operator(ew__run *r, ew__op op, int64_t a, int64_t b, ew__val *ret)
{
    int64_t v = 0;
    bool overflow = false;
    if ((op == EW__OP_FLOORDIV || op == EW__OP_MOD || op == EW__OP_DIV) && b == 0) {
        return ew__fail(r, EW_EINVAL, "division by zero");
    }
    switch (op) {
    case EW__OP_ADD:
        overflow = __builtin_add_overflow(a, b, &v);
        break;
    case EW__OP_SUB:
        overflow = __builtin_sub_overflow(a, b, &v);
        break;
    case EW__OP_MUL:
        overflow = __builtin_mul_overflow(a, b, &v);
        break;
    case EW__OP_DIV:
        *ret = ew__float((double)a / (double)b);
        return EW_OK;
    case EW__OP_FLOORDIV:
        overflow = b == -1 && a == INT64_MIN;
        v = overflow ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case EW__OP_MOD:
        v = b == -1 ? 0 : a % b;
        v += v != 0 && (v < 0) != (b < 0) ? b : 0;
        break;
    default:
        return int_pow(r, a, b, ret);
    }
    if (overflow) {
        return ew__fail(r, EW_EUNSUPPORTED, "an integer of more than 64 bits");
    }
    *ret = ew__int(v);
    return EW_OK;
}

static ew_status float_operator(ew__run *r, ew__op op, double a, double b, ew__val *ret)
{
    double m;
    if ((op == EW__OP_FLOORDIV || op == EW__OP_MOD || op == EW__OP_DIV) && b == 0) {
        return ew__fail(r, EW_EINVAL, "division by zero");
    }
    switch (op) {
    case EW__OP_ADD:
        *ret = ew__float(a + b);
        return EW_OK;
    case EW__OP_SUB:
        *ret = ew__float(a - b);
        return EW_OK;
    case EW__OP_MUL:
        *ret = ew__float(a * b);
        return EW_OK;
    case EW__OP_DIV:
        *ret = ew__float(a / b);
        return EW_OK;
    case EW__OP_FLOORDIV:
    case EW__OP_MOD:
        m = fmod(a, b);
        m += m != 0 && (m < 0) != (b < 0) ? b : 0;
        *ret = ew__float(op == EW__OP_MOD ? m : round((a - m) / b));
        return EW_OK;
    default:
        if (a < 0 && floor(b) != b) {
            return ew__fail(r, EW_EUNSUPPORTED, "a complex number");
        }
        *ret = ew__float(pow(a, b));
        return EW_OK;
    }
}

static bool plain_list(const ew__val *v)
{
    return v->kind == EW__LIST && v->u.list->kind <= EW__LIST_TUPLE;
}

static ew_status percent(ew__run *r, const ew__val *a, const ew__val *b, ew__val *ret)
{
    bool tuple = b->kind == EW__LIST && b->u.list->kind == EW__LIST_TUPLE;
    const ew__args args = {.v = tuple ? b->u.list->v : b, .n = tuple ? b->u.list->n : 1};
    if (a->markup || b->kind == EW__DICT) {
        return ew__fail(r, EW_EUNSUPPORTED, "'%%' with %s", a->markup ? "escaped text" : "a dict");
    }
    return ew__format_percent(r, a->u.s, &args, ret);
}

ew_status ew__binary(ew__run *r, ew__op op, const ew__val *a, const ew__val *b, ew__val *ret)
{
    static const char *const what[] = {
        [EW__OP_ADD] = "'+'",       [EW__OP_SUB] = "'-'", [EW__OP_MUL] = "'*'", [EW__OP_DIV] = "'/'",
        [EW__OP_FLOORDIV] = "'//'", [EW__OP_MOD] = "'%'", [EW__OP_POW] = "'**'"};
    int64_t x;
    int64_t y;
    if (ew__as_int(a, &x) && ew__as_int(b, &y)) {
        return int_operator(r, op, x, y, ret);
    }
    if (ew__is_number(a) && ew__is_number(b)) {
        return float_operator(r, op, ew__as_float(a), ew__as_float(b), ret);
    }
    if (op == EW__OP_ADD && a->kind == EW__STR && b->kind == EW__STR) {
        return add_strings(r, a, b, ret);
    }
    if (op == EW__OP_ADD && plain_list(a) && plain_list(b) && a->u.list->kind == b->u.list->kind) {
        return add_lists(r, a->u.list, b->u.list, ret);
    }
    if (op == EW__OP_MUL && (a->kind == EW__STR || plain_list(a)) && ew__as_int(b, &y)) {
        return repeat(r, a, y, ret);
    }
    if (op == EW__OP_MUL && (b->kind == EW__STR || plain_list(b)) && ew__as_int(a, &x)) {
        return repeat(r, b, x, ret);
    }
    if (op == EW__OP_MOD && a->kind == EW__STR && b->kind != EW__UNDEFINED) {
        return percent(r, a, b, ret);
    }
    return no_operator(r, what[op], a, b);
}

ew_status ew__compare(ew__run *r, ew__op op, const ew__val *a, const ew__val *b, bool *ret)
{
    int order = 0;
    if (op == EW__OP_EQ || op == EW__OP_NE) {
        EW_TRY(ew__equal(r, a, b, ret));
        *ret = *ret == (op == EW__OP_EQ);
        return EW_OK;
    }
    if (op == EW__OP_IN || op == EW__OP_NOT_IN) {
        EW_TRY(ew__contains(r, b, a, ret));
        *ret = *ret == (op == EW__OP_IN);
        return EW_OK;
    }
    if (a->kind == EW__UNDEFINED || b->kind == EW__UNDEFINED) {
        return is_undefined(r, a->kind == EW__UNDEFINED ? a : b);
    }
    EW_TRY(ew__order(r, a, b, &order));
    *ret = op == EW__OP_LT ? order < 0 : op == EW__OP_LE ? order <= 0 : op == EW__OP_GT ? order > 0 : order >= 0;
    return EW_OK;
}

/* ---- calls ---- */

/* Evaluates arguments into one block of the region. */
ew_status ew__eval_args(ew__run *r, const ew__node *first, ew__args *ret)
{
    size_t n = 0;
    size_t n_kw = 0;
    void *v = NULL;
    void *kw = NULL;
    for (const ew__node *x = first; x != NULL; x = x->next) {
        n += x->type != EW__N_KEYWORD;
        n_kw += x->type == EW__N_KEYWORD;
    }
    *ret = (ew__args){0};
    if (n + n_kw > ARGS_MAX) {
        return ew__fail(r, EW_ELIMIT, "more than %u arguments", ARGS_MAX);
    }
    if (n > 0) {
        EW_TRY(ew__take(r, n, sizeof(ew__val), &v));
    }
    if (n_kw > 0) {
        EW_TRY(ew__take(r, n_kw, sizeof(ew__pair), &kw));
    }
    ew__val *pos = v;
    ew__pair *pair = kw;
    for (const ew__node *x = first; x != NULL; x = x->next) {
        if (x->type == EW__N_KEYWORD) {
            pair->k = x->val;
            EW_TRY(ew__eval(r, x->a, &pair->v));
            pair++;
        } else {
            EW_TRY(ew__eval(r, x, pos));
            pos++;
        }
    }
    *ret = (ew__args){v, n, kw, n_kw};
    return EW_OK;
}

ew_status ew__bind_args(ew__run *r, const ew__args *a, const char *what, const char *const *names, size_t n_names,
                        size_t n_needed, ew__val *out)
{
    for (size_t i = 0; i < n_names; i++) {
        out[i] = i < a->n ? a->v[i] : (ew__val){.kind = EW__ABSENT};
    }
    if (a->n > n_names) {
        return ew__fail(r, EW_EINVAL, "%s takes at most %zu arguments, not %zu", what, n_names, a->n);
    }
    for (size_t k = 0; k < a->n_kw; k++) {
        ew__str name = a->kw[k].k.u.s;
        size_t i = 0;
        while (i < n_names && !ew__is(name, names[i])) {
            i++;
        }
        if (i == n_names) {
            return ew__fail(r, EW_EUNSUPPORTED, "%s: argument '%.*s'", what, (int)EW_MIN(name.n, 40u), name.p);
        }
        if (out[i].kind != EW__ABSENT) {
            return ew__fail(r, EW_EINVAL, "%s: argument '%s' is given twice", what, names[i]);
        }
        out[i] = a->kw[k].v;
    }
    for (size_t i = 0; i < n_needed; i++) {
        if (out[i].kind == EW__ABSENT) {
            return ew__fail(r, EW_EINVAL, "%s: argument '%s' is missing", what, names[i]);
        }
    }
    return EW_OK;
}

ew_status ew__call(ew__run *r, const ew__val *f, const ew__args *a, ew__val *ret)
{
    switch (f->kind) {
    case EW__FUNCTION:
        return ew__call_function(r, f->u.i, a, ret);
    case EW__METHOD:
        return ew__call_method(r, f->u.method, a, ret);
    case EW__MACRO:
        return ew__call_macro(r, f->u.macro, a, ret);
    case EW__UNDEFINED:
        return ew__fail(r, EW_EUNSUPPORTED, "'%.*s' is not a function or method that is known here",
                        (int)EW_MIN(f->u.s.n, 80u), f->u.s.p);
    case EW__LOOP:
        return ew__fail(r, EW_EUNSUPPORTED, "calling 'loop'");
    default:
        return ew__fail(r, EW_EINVAL, "a value of type %s cannot be called", ew__type_name(f));
    }
}

static ew_status eval_call(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val f;
    ew__args args;
    EW_TRY(ew__eval(r, n->a, &f));
    EW_TRY(ew__eval_args(r, n->b, &args));
    r->at = n->a->type == EW__N_ATTR || n->a->type == EW__N_NAME ? n->a : n;
    return ew__call(r, &f, &args, ret);
}

static ew_status eval_filter(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val in;
    ew__args args;
    EW_TRY(ew__eval(r, n->a, &in));
    EW_TRY(ew__eval_args(r, n->b, &args));
    r->at = n;
    return ew__filter(r, n->val.u.s, &in, &args, ret);
}

static ew_status eval_test(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val in;
    ew__args args;
    bool yes = false;
    EW_TRY(ew__eval(r, n->a, &in));
    EW_TRY(ew__eval_args(r, n->b, &args));
    r->at = n;
    EW_TRY(ew__test(r, n->val.u.s, &in, &args, &yes));
    *ret = ew__bool(yes);
    return EW_OK;
}

/* ---- the tree ---- */

static ew_status eval_list(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val list;
    EW_TRY(ew__new_list(r, n->type == EW__N_TUPLE ? EW__LIST_TUPLE : EW__LIST_LIST, 4, &list));
    for (const ew__node *x = n->a; x != NULL; x = x->next) {
        ew__val v;
        EW_TRY(ew__eval(r, x, &v));
        EW_TRY(ew__push(r, list.u.list, v));
    }
    *ret = list;
    return EW_OK;
}

static ew_status eval_dict(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val dict;
    EW_TRY(ew__new_dict(r, EW__DICT, &dict));
    for (const ew__node *k = n->a; k != NULL; k = k->next->next) {
        ew__val key;
        ew__val v;
        EW_TRY(ew__eval(r, k, &key));
        EW_TRY(ew__eval(r, k->next, &v));
        EW_TRY(ew__dict_put(r, dict.u.dict, key, v));
    }
    *ret = dict;
    return EW_OK;
}

static ew_status eval_concat(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__sb b = {.r = r};
    for (const ew__node *x = n->a; x != NULL; x = x->next) {
        ew__val v;
        ew__val text;
        EW_TRY(ew__eval(r, x, &v));
        EW_TRY(ew__str_of(r, &v, &text));
        if (x == n->a) {
            ew__sb_begin(&b, text.u.s);
        } else {
            ew__sb_add(&b, text.u.s);
        }
    }
    return ew__sb_done(&b, ret);
}

static ew_status eval_compare(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val a;
    EW_TRY(ew__eval(r, n->a, &a));
    for (const ew__node *x = n->b; x != NULL; x = x->next) {
        ew__val b;
        bool yes = false;
        EW_TRY(ew__eval(r, x->a, &b));
        r->at = x;
        EW_TRY(ew__compare(r, x->op, &a, &b, &yes));
        *ret = ew__bool(yes);
        if (!yes) {
            return EW_OK;
        }
        a = b;
    }
    return EW_OK;
}

static ew_status eval_sign(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val v;
    int64_t i;
    EW_TRY(ew__eval(r, n->a, &v));
    r->at = n;
    if (v.kind == EW__UNDEFINED) {
        return is_undefined(r, &v);
    }
    if (v.kind == EW__FLOAT) {
        *ret = ew__float(n->type == EW__N_NEG ? -v.u.f : v.u.f);
        return EW_OK;
    }
    if (!ew__as_int(&v, &i)) {
        return ew__fail(r, EW_EINVAL, "the sign of %s", ew__type_name(&v));
    }
    return n->type == EW__N_NEG ? int_operator(r, EW__OP_SUB, 0, i, ret) : ((void)(*ret = ew__int(i)), EW_OK);
}

static ew_status eval_item(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val v;
    ew__val key;
    EW_TRY(ew__eval(r, n->a, &v));
    if (n->b->type == EW__N_SLICE) {
        r->at = n;
        return slice(r, &v, n->b, ret);
    }
    EW_TRY(ew__eval(r, n->b, &key));
    r->at = n;
    return ew__get_item(r, &v, &key, ret);
}

static ew_status eval_branch(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val v;
    EW_TRY(ew__eval(r, n->a, &v));
    bool yes = ew__truth(&v);
    if (n->type == EW__N_COND) {
        const ew__node *branch = yes ? n->b : n->c;
        if (branch == NULL) {
            *ret = ew__undefined((ew__str){"value of an 'if' without 'else'", NULL, 31});
            return EW_OK;
        }
        return ew__eval(r, branch, ret);
    }
    if (yes == (n->type == EW__N_OR)) {
        *ret = v;
        return EW_OK;
    }
    return ew__eval(r, n->b, ret);
}

static ew_status eval_node(ew__run *r, const ew__node *n, ew__val *ret)
{
    ew__val a;
    ew__val b;
    switch (n->type) {
    case EW__N_CONST:
        *ret = n->val;
        return EW_OK;
    case EW__N_NAME:
        return lookup(r, n, ret);
    case EW__N_LIST:
    case EW__N_TUPLE:
        return eval_list(r, n, ret);
    case EW__N_DICT:
        return eval_dict(r, n, ret);
    case EW__N_ATTR:
        EW_TRY(ew__eval(r, n->a, &a));
        r->at = n;
        return ew__get_attr(r, &a, n->val.u.s, ret);
    case EW__N_ITEM:
        return eval_item(r, n, ret);
    case EW__N_CALL:
        return eval_call(r, n, ret);
    case EW__N_FILTER:
        return eval_filter(r, n, ret);
    case EW__N_TEST:
        return eval_test(r, n, ret);
    case EW__N_NEG:
    case EW__N_POS:
        return eval_sign(r, n, ret);
    case EW__N_NOT:
        EW_TRY(ew__eval(r, n->a, &a));
        *ret = ew__bool(!ew__truth(&a));
        return EW_OK;
    case EW__N_BINARY:
        EW_TRY(ew__eval(r, n->a, &a));
        EW_TRY(ew__eval(r, n->b, &b));
        r->at = n;
        return ew__binary(r, n->op, &a, &b, ret);
    case EW__N_AND:
    case EW__N_OR:
    case EW__N_COND:
        return eval_branch(r, n, ret);
    case EW__N_CONCAT:
        return eval_concat(r, n, ret);
    case EW__N_COMPARE:
        return eval_compare(r, n, ret);
    default:
        return ew__fail(r, EW_EINTERNAL, "node %d is not an expression", (int)n->type);
    }
}

ew_status ew__eval(ew__run *r, const ew__node *n, ew__val *ret)
{
    r->at = n;
    EW_TRY(ew__charge(r, 0));
    EW_TRY(ew__enter(r));
    ew_status st = eval_node(r, n, ret);
    ew__leave(r);
    return st;
}

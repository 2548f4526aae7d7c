/* Filters, as jinja2/filters.py has them without autoescape, with Hugging Face's tojson. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "chat/chat_int.h"
#include "text/utf8.h"

typedef ew_status (*filter_fn)(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret);

static ew_status no_args(ew__run *r, const char *what, const ew__args *a)
{
    return ew__bind_args(r, a, what, NULL, 0, 0, NULL);
}

/* str() of what goes in; marks of safe stay. */
static ew_status soft(ew__run *r, const ew__val *in, ew__str *ret)
{
    ew__val v;
    EW_TRY(ew__str_of(r, in, &v));
    *ret = v.u.s;
    return EW_OK;
}

static bool keeps_markup(const ew__val *in, ew__val *ret)
{
    ret->markup = in->kind == EW__STR && in->markup && ret->kind == EW__STR;
    return true;
}

/* ---- text ---- */

static ew_status f_trim(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"chars"};
    ew__val chars;
    ew__str s;
    EW_TRY(ew__bind_args(r, a, "trim", names, 1, 0, &chars));
    EW_TRY(soft(r, in, &s));
    EW_TRY(ew__strip(r, s, &chars, true, true, ret));
    (void)keeps_markup(in, ret);
    return EW_OK;
}

static ew_status recase(ew__run *r, const char *what, const ew__val *in, const ew__args *a, ew__case how, ew__val *ret)
{
    ew__str s;
    EW_TRY(no_args(r, what, a));
    EW_TRY(soft(r, in, &s));
    EW_TRY(ew__recase(r, s, how, ret));
    (void)keeps_markup(in, ret);
    return EW_OK;
}

static ew_status f_upper(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return recase(r, "upper", in, a, EW__CASE_UPPER, ret);
}

static ew_status f_lower(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return recase(r, "lower", in, a, EW__CASE_LOWER, ret);
}

static ew_status f_capitalize(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return recase(r, "capitalize", in, a, EW__CASE_CAPITALIZE, ret);
}

static ew_status f_title(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return recase(r, "title", in, a, EW__CASE_JTITLE, ret);
}

static ew_status f_replace(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"old", "new", "count"};
    ew__val v[3];
    ew__str s;
    ew__str from;
    ew__str to;
    int64_t count = -1;
    EW_TRY(ew__bind_args(r, a, "replace", names, 3, 2, v));
    EW_TRY(soft(r, in, &s));
    EW_TRY(soft(r, &v[0], &from));
    EW_TRY(soft(r, &v[1], &to));
    if (v[2].kind != EW__ABSENT && v[2].kind != EW__NONE_VALUE && !ew__as_int(&v[2], &count)) {
        return ew__fail(r, EW_EINVAL, "replace: the count is an integer");
    }
    return ew__replace(r, s, from, to, count, ret);
}

static ew_status f_string(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    EW_TRY(no_args(r, "string", a));
    return ew__str_of(r, in, ret);
}

static ew_status f_safe(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    EW_TRY(no_args(r, "safe", a));
    EW_TRY(ew__str_of(r, in, ret));
    ret->markup = true;
    return EW_OK;
}

static ew_status f_escape(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    ew__str s;
    EW_TRY(no_args(r, "escape", a));
    if (in->kind == EW__STR && in->markup) {
        *ret = *in;
        return EW_OK;
    }
    EW_TRY(soft(r, in, &s));
    return ew__escape(r, s, ret);
}

static ew_status f_tojson(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return ew__to_json(r, in, a, ret);
}

static ew_status f_format(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    ew__str s;
    if (in->kind == EW__STR && in->markup) {
        return ew__fail(r, EW_EUNSUPPORTED, "format of text that is marked as safe");
    }
    EW_TRY(soft(r, in, &s));
    return ew__format_percent(r, s, a, ret);
}

static ew_status indent_with(ew__run *r, const ew__val *width, ew__str *ret)
{
    int64_t n = 4;
    ew__val s;
    const ew__val blank = ew__text(" ");
    if (width->kind == EW__STR) {
        *ret = width->u.s;
        return EW_OK;
    }
    if (width->kind != EW__ABSENT && !ew__as_int(width, &n)) {
        return ew__fail(r, EW_EINVAL, "indent: the width is an integer or a string");
    }
    const ew__val times = ew__int(n);
    EW_TRY(ew__binary(r, EW__OP_MUL, &blank, &times, &s));
    *ret = s.u.s;
    return EW_OK;
}

static ew_status f_indent(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"width", "first", "blank"};
    ew__val v[3];
    ew__val lines;
    ew__str by;
    ew__str s;
    ew__sb b = {.r = r};
    EW_TRY(ew__bind_args(r, a, "indent", names, 3, 0, v));
    EW_TRY(indent_with(r, &v[0], &by));
    if (in->kind != EW__STR) {
        return ew__fail(r, EW_EINVAL, "indent of %s, not a string", ew__type_name(in));
    }
    s = in->u.s;
    EW_TRY(ew__new_list(r, EW__LIST_LIST, 4, &lines));
    ew__sb with_end = {.r = r}; /* Jinja adds a newline before it splits */
    ew__val text;
    ew__sb_add(&with_end, s);
    ew__sb_text(&with_end, "\n", false);
    EW_TRY(ew__sb_done(&with_end, &text));
    EW_TRY(ew__split_lines(r, text.u.s, lines.u.list));
    for (size_t i = 0; i < lines.u.list->n; i++) {
        ew__str line = lines.u.list->v[i].u.s;
        ew__sb_text(&b, i > 0 ? "\n" : "", false);
        if (i == 0 ? ew__truth(&v[1]) : line.n > 0 || ew__truth(&v[2])) {
            ew__sb_add(&b, by);
        }
        ew__sb_add(&b, line);
    }
    return ew__sb_done(&b, ret);
}

static ew_status f_join(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret);

/* ---- sequences ---- */

/* The items in a list of the filter's own. */
static ew_status copy_items(ew__run *r, const ew__val *in, ew__list_kind kind, ew__val *ret)
{
    ew__list *l = NULL;
    EW_TRY(ew__iterate(r, in, &l));
    EW_TRY(ew__new_list(r, kind, l->n, ret));
    for (size_t i = 0; i < l->n; i++) {
        EW_TRY(ew__push(r, ret->u.list, l->v[i]));
    }
    return EW_OK;
}

static ew_status f_length(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    size_t n = 0;
    EW_TRY(no_args(r, "length", a));
    EW_TRY(ew__length(r, in, &n));
    *ret = ew__int((int64_t)n);
    return EW_OK;
}

static ew_status f_first(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    ew__list *l = NULL;
    EW_TRY(no_args(r, "first", a));
    *ret = ew__undefined((ew__str){"first of an empty sequence", NULL, 26});
    if (in->kind == EW__LIST && in->u.list->kind == EW__LIST_GENERATOR) {
        ew__list *g = in->u.list; /* takes one item */
        if (g->gone < g->n) {
            *ret = g->v[g->gone++];
        }
        return EW_OK;
    }
    EW_TRY(ew__iterate(r, in, &l));
    if (l->n > 0) {
        *ret = l->v[0];
    }
    return EW_OK;
}

static ew_status f_last(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    ew__list *l = NULL;
    EW_TRY(no_args(r, "last", a));
    if (in->kind == EW__LIST && in->u.list->kind == EW__LIST_GENERATOR) {
        return ew__fail(r, EW_EINVAL, "last: a generator has no end to begin from; '|list' first");
    }
    EW_TRY(ew__iterate(r, in, &l));
    *ret = l->n > 0 ? l->v[l->n - 1] : ew__undefined((ew__str){"last of an empty sequence", NULL, 25});
    return EW_OK;
}

static ew_status f_list(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    EW_TRY(no_args(r, "list", a));
    return copy_items(r, in, EW__LIST_LIST, ret);
}

static ew_status f_items(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    EW_TRY(no_args(r, "items", a));
    EW_TRY(ew__new_list(r, EW__LIST_GENERATOR, 4, ret));
    if (in->kind == EW__UNDEFINED) {
        return EW_OK;
    }
    if (in->kind != EW__DICT) {
        return ew__fail(r, EW_EINVAL, "items: %s is not a mapping", ew__type_name(in));
    }
    for (size_t i = 0; i < in->u.dict->n; i++) {
        ew__val v;
        EW_TRY(ew__new_list(r, EW__LIST_TUPLE, 2, &v));
        EW_TRY(ew__push(r, v.u.list, in->u.dict->e[i].k));
        EW_TRY(ew__push(r, v.u.list, in->u.dict->e[i].v));
        EW_TRY(ew__push(r, ret->u.list, v));
    }
    return EW_OK;
}

static void reverse_items(ew__list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        ew__val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static ew_status f_reverse(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    EW_TRY(no_args(r, "reverse", a));
    if (in->kind == EW__LIST && in->u.list->kind == EW__LIST_GENERATOR) {
        EW_TRY(copy_items(r, in, EW__LIST_LIST, ret));
        reverse_items(ret->u.list);
        return EW_OK;
    }
    EW_TRY(copy_items(r, in, EW__LIST_GENERATOR, ret));
    reverse_items(ret->u.list);
    return in->kind == EW__STR ? ew__join(r, (ew__str){"", NULL, 0}, ret->u.list, false, ret) : EW_OK;
}

/* item.a.b.0 */
static ew_status attribute_of(ew__run *r, const ew__val *item, const ew__val *path, ew__val *ret)
{
    *ret = *item;
    if (path->kind == EW__INT) {
        return ew__get_item(r, item, path, ret);
    }
    if (path->kind != EW__STR) {
        return ew__fail(r, EW_EINVAL, "an attribute is named by a string, not %s", ew__type_name(path));
    }
    ew__str p = path->u.s;
    for (size_t at = 0; at <= p.n;) {
        size_t end = ew__find(p, (ew__str){".", NULL, 1}, at);
        end = end == SIZE_MAX ? p.n : end;
        ew__str part = ew__sub(p, at, end);
        char text[16] = "";
        int64_t index;
        ew__val key = ew__of_str(part);
        if (part.n < sizeof(text)) {
            memcpy(text, part.p, part.n);
            text[part.n] = 0;
        }
        if (part.n > 0 && part.p[0] >= '0' && part.p[0] <= '9' && ew_str_to_i64(text, 0, INT32_MAX, &index)) {
            key = ew__int(index);
        }
        ew__val from = *ret;
        EW_TRY(ew__get_item(r, &from, &key, ret));
        at = end + 1;
    }
    return EW_OK;
}

static bool given(const ew__val *v)
{
    return v->kind != EW__ABSENT && v->kind != EW__NONE_VALUE;
}

static ew_status f_join(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"d", "attribute"};
    ew__val v[2];
    ew__list *l = NULL;
    ew__val made;
    ew__str sep = {"", NULL, 0};
    EW_TRY(ew__bind_args(r, a, "join", names, 2, 0, v));
    if (v[0].kind != EW__ABSENT) {
        EW_TRY(soft(r, &v[0], &sep));
    }
    EW_TRY(ew__iterate(r, in, &l));
    if (given(&v[1])) {
        EW_TRY(ew__new_list(r, EW__LIST_LIST, l->n, &made));
        for (size_t i = 0; i < l->n; i++) {
            ew__val x;
            EW_TRY(attribute_of(r, &l->v[i], &v[1], &x));
            EW_TRY(ew__push(r, made.u.list, x));
        }
        l = made.u.list;
    }
    return ew__join(r, sep, l, true, ret);
}

/* What sorting looks at: the attribute, in lower case unless case counts. */
static ew_status sort_key(ew__run *r, const ew__val *item, const ew__val *attribute, bool cased, ew__val *ret)
{
    *ret = *item;
    if (given(attribute)) {
        if (attribute->kind == EW__STR && memchr(attribute->u.s.p, ',', attribute->u.s.n) != NULL) {
            return ew__fail(r, EW_EUNSUPPORTED, "several attributes in one");
        }
        EW_TRY(attribute_of(r, item, attribute, ret));
    }
    if (!cased && ret->kind == EW__STR) {
        return ew__recase(r, ret->u.s, EW__CASE_LOWER, ret);
    }
    return EW_OK;
}

/* Stable; l->v and key move together. */
static ew_status sort_by(ew__run *r, ew__list *l, ew__val *key, bool reverse)
{
    void *p = NULL;
    void *q = NULL;
    EW_TRY(ew__take(r, l->n, sizeof(ew__val), &p));
    EW_TRY(ew__take(r, l->n, sizeof(ew__val), &q));
    ew__val *v2 = p;
    ew__val *k2 = q;
    for (size_t width = 1; width < l->n; width *= 2) {
        for (size_t begin = 0; begin < l->n; begin += 2 * width) {
            size_t mid = EW_MIN(begin + width, l->n);
            size_t end = EW_MIN(begin + 2 * width, l->n);
            size_t i = begin;
            size_t k = mid;
            for (size_t out = begin; out < end; out++) {
                int o = 0;
                EW_TRY(ew__charge(r, 0));
                if (i < mid && k < end) {
                    EW_TRY(ew__order(r, &key[i], &key[k], &o));
                }
                bool left = k >= end || (i < mid && (reverse ? o >= 0 : o <= 0));
                v2[out] = l->v[left ? i : k];
                k2[out] = key[left ? i : k];
                i += left;
                k += !left;
            }
        }
        memcpy(l->v, v2, l->n * sizeof(ew__val));
        memcpy(key, k2, l->n * sizeof(ew__val));
    }
    return EW_OK;
}

static ew_status sorted(ew__run *r, ew__val *list, const ew__val *attribute, bool cased, bool reverse)
{
    void *key = NULL;
    ew__list *l = list->u.list;
    EW_TRY(ew__take(r, EW_MAX(l->n, 1u), sizeof(ew__val), &key));
    for (size_t i = 0; i < l->n; i++) {
        EW_TRY(sort_key(r, &l->v[i], attribute, cased, (ew__val *)key + i));
    }
    return sort_by(r, l, key, reverse);
}

static ew_status f_sort(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute"};
    ew__val v[3];
    EW_TRY(ew__bind_args(r, a, "sort", names, 3, 0, v));
    EW_TRY(copy_items(r, in, EW__LIST_LIST, ret));
    return sorted(r, ret, &v[2], ew__truth(&v[1]), ew__truth(&v[0]));
}

static ew_status f_dictsort(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse"};
    ew__val v[3];
    ew__val attribute = ew__int(0);
    const ew__args none = {0};
    EW_TRY(ew__bind_args(r, a, "dictsort", names, 3, 0, v));
    if (in->kind != EW__DICT) {
        return ew__fail(r, EW_EINVAL, "dictsort: %s is not a mapping", ew__type_name(in));
    }
    if (v[1].kind == EW__STR && ew__is(v[1].u.s, "value")) {
        attribute = ew__int(1);
    } else if (v[1].kind != EW__ABSENT && !(v[1].kind == EW__STR && ew__is(v[1].u.s, "key"))) {
        return ew__fail(r, EW_EINVAL, "dictsort: by is 'key' or 'value'");
    }
    EW_TRY(f_items(r, in, &none, ret));
    ret->u.list->kind = EW__LIST_LIST;
    return sorted(r, ret, &attribute, ew__truth(&v[0]), ew__truth(&v[2]));
}

static ew_status f_unique(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    ew__val v[2];
    ew__val seen;
    ew__list *l = NULL;
    EW_TRY(ew__bind_args(r, a, "unique", names, 2, 0, v));
    EW_TRY(ew__iterate(r, in, &l));
    EW_TRY(ew__new_list(r, EW__LIST_GENERATOR, 4, ret));
    EW_TRY(ew__new_dict(r, EW__DICT, &seen));
    for (size_t i = 0; i < l->n; i++) {
        ew__val key;
        ew__val *old = NULL;
        EW_TRY(sort_key(r, &l->v[i], &v[1], ew__truth(&v[0]), &key));
        EW_TRY(ew__dict_find(r, seen.u.dict, key, &old));
        if (old == NULL) {
            EW_TRY(ew__dict_put(r, seen.u.dict, key, ew__none()));
            EW_TRY(ew__push(r, ret->u.list, l->v[i]));
        }
    }
    return EW_OK;
}

static ew_status extreme(ew__run *r, const char *what, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    ew__val v[2];
    ew__val best;
    ew__list *l = NULL;
    EW_TRY(ew__bind_args(r, a, what, names, 2, 0, v));
    EW_TRY(ew__iterate(r, in, &l));
    *ret = ew__undefined((ew__str){"extreme of an empty sequence", NULL, 28});
    for (size_t i = 0; i < l->n; i++) {
        ew__val key;
        int o = 0;
        EW_TRY(sort_key(r, &l->v[i], &v[1], ew__truth(&v[0]), &key));
        if (i > 0) {
            EW_TRY(ew__order(r, &key, &best, &o));
        }
        if (i == 0 || (what[1] == 'i' ? o < 0 : o > 0)) {
            best = key;
            *ret = l->v[i];
        }
    }
    return EW_OK;
}

static ew_status f_min(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return extreme(r, "min", in, a, ret);
}

static ew_status f_max(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return extreme(r, "max", in, a, ret);
}

static ew_status f_sum(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"attribute", "start"};
    ew__val v[2];
    ew__list *l = NULL;
    EW_TRY(ew__bind_args(r, a, "sum", names, 2, 0, v));
    EW_TRY(ew__iterate(r, in, &l));
    *ret = v[1].kind == EW__ABSENT ? ew__int(0) : v[1];
    for (size_t i = 0; i < l->n; i++) {
        ew__val x = l->v[i];
        ew__val before = *ret;
        if (given(&v[0])) {
            EW_TRY(attribute_of(r, &l->v[i], &v[0], &x));
        }
        EW_TRY(ew__binary(r, EW__OP_ADD, &before, &x, ret));
    }
    return EW_OK;
}

/* map, select and their like: what is left of the arguments goes to the filter or test. */
static ew__args rest_of(const ew__args *a, size_t from)
{
    return from <= a->n ? (ew__args){a->v + from, a->n - from, a->kw, a->n_kw} : (ew__args){0};
}

/* Whatever is not true has no items here, also what could not be iterated over. */
static ew_status items_if_any(ew__run *r, const ew__val *in, ew__list **ret)
{
    const ew__val nothing = ew__text("");
    return ew__iterate(r, ew__truth(in) ? in : &nothing, ret);
}

static ew_status map_attribute(ew__run *r, const ew__list *l, const ew__args *a, ew__list *out)
{
    static const char *const names[] = {"attribute", "default"};
    ew__val v[2];
    EW_TRY(ew__bind_args(r, a, "map", names, 2, 1, v));
    for (size_t i = 0; i < l->n; i++) {
        ew__val x;
        EW_TRY(attribute_of(r, &l->v[i], &v[0], &x));
        EW_TRY(ew__push(r, out, x.kind == EW__UNDEFINED && v[1].kind != EW__ABSENT ? v[1] : x));
    }
    return EW_OK;
}

static ew_status f_map(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    ew__list *l = NULL;
    EW_TRY(items_if_any(r, in, &l));
    EW_TRY(ew__new_list(r, EW__LIST_GENERATOR, l->n, ret));
    if (a->n == 0) {
        return map_attribute(r, l, a, ret->u.list);
    }
    if (a->v[0].kind != EW__STR) {
        return ew__fail(r, EW_EINVAL, "map needs the name of a filter");
    }
    const ew__args rest = rest_of(a, 1);
    for (size_t i = 0; i < l->n; i++) {
        ew__val x;
        EW_TRY(ew__filter(r, a->v[0].u.s, &l->v[i], &rest, &x));
        EW_TRY(ew__push(r, ret->u.list, x));
    }
    return EW_OK;
}

static ew_status select_items(ew__run *r, const ew__val *in, const ew__args *a, bool by_attribute, bool keep,
                              ew__val *ret)
{
    ew__list *l = NULL;
    size_t used = by_attribute ? 1 : 0;
    EW_TRY(items_if_any(r, in, &l));
    EW_TRY(ew__new_list(r, EW__LIST_GENERATOR, 4, ret));
    if (a->n < used || (a->n > used && a->v[used].kind != EW__STR)) {
        return ew__fail(r, EW_EINVAL, "select needs %s", a->n < used ? "an attribute" : "the name of a test");
    }
    const ew__args rest = rest_of(a, used + 1);
    for (size_t i = 0; i < l->n; i++) {
        ew__val x = l->v[i];
        bool yes = false;
        if (by_attribute) {
            EW_TRY(attribute_of(r, &l->v[i], &a->v[0], &x));
        }
        if (a->n > used) {
            EW_TRY(ew__test(r, a->v[used].u.s, &x, &rest, &yes));
        } else {
            yes = ew__truth(&x);
        }
        if (yes == keep) {
            EW_TRY(ew__push(r, ret->u.list, l->v[i]));
        }
    }
    return EW_OK;
}

static ew_status f_select(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return select_items(r, in, a, false, true, ret);
}

static ew_status f_reject(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return select_items(r, in, a, false, false, ret);
}

static ew_status f_selectattr(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return select_items(r, in, a, true, true, ret);
}

static ew_status f_rejectattr(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    return select_items(r, in, a, true, false, ret);
}

/* ---- values ---- */

static ew_status f_default(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"default_value", "boolean"};
    ew__val v[2];
    EW_TRY(ew__bind_args(r, a, "default", names, 2, 0, v));
    bool replace = in->kind == EW__UNDEFINED || (ew__truth(&v[1]) && !ew__truth(in));
    *ret = !replace ? *in : v[0].kind == EW__ABSENT ? ew__text("") : v[0];
    return EW_OK;
}

/* The number that a string spells, without whitespace around it and with '_' between digits refused. */
static bool number_of(ew__run *r, ew__str s, bool *whole, int64_t *i, double *f, ew_status *st)
{
    char text[64];
    ew__val stripped;
    const ew__val none = {.kind = EW__ABSENT};
    *st = ew__strip(r, s, &none, true, true, &stripped);
    if (*st != EW_OK || stripped.u.s.n == 0 || stripped.u.s.n >= sizeof(text)) {
        return false;
    }
    memcpy(text, stripped.u.s.p, stripped.u.s.n);
    text[stripped.u.s.n] = 0;
    const char *digits = text + (text[0] == '+' || text[0] == '-');
    if (strspn(digits, "0123456789") == strlen(digits) && digits[0] != 0) {
        *whole = true;
        if (!ew_str_to_i64(text[0] == '+' ? digits : text, INT64_MIN, INT64_MAX, i)) {
            *st = ew__fail(r, EW_EUNSUPPORTED, "an integer of more than 64 bits");
        }
        return *st == EW_OK;
    }
    *whole = false;
    if (strspn(digits, "0123456789.eE+-") != strlen(digits) || digits[0] == 0 || strchr("eE+-", digits[0]) != NULL) {
        if (strchr("iInN_", digits[0]) != NULL || strchr(digits, '_') != NULL) {
            *st = ew__fail(r, EW_EUNSUPPORTED, "the number '%s'", text);
        }
        return false;
    }
    char *end = NULL;
    *f = strtod(text, &end);
    return *end == 0;
}

static ew_status to_int(ew__run *r, double f, ew__val fallback, ew__val *ret)
{
    if (isnan(f) || isinf(f)) {
        *ret = fallback;
        return EW_OK;
    }
    if (f >= 9.2e18 || f <= -9.2e18) {
        return ew__fail(r, EW_EUNSUPPORTED, "an integer of more than 64 bits");
    }
    *ret = ew__int((int64_t)f);
    return EW_OK;
}

static ew_status convert(ew__run *r, const ew__val *in, ew__val fallback, bool to_float, ew__val *ret)
{
    bool whole = false;
    int64_t i = 0;
    double f = 0;
    if (in->kind == EW__UNDEFINED) {
        return ew__fail(r, EW_EINVAL, "'%.*s' is undefined", (int)EW_MIN(in->u.s.n, 80u), in->u.s.p);
    }
    if (ew__as_int(in, &i)) {
        *ret = to_float ? ew__float((double)i) : ew__int(i);
        return EW_OK;
    }
    if (in->kind == EW__FLOAT) {
        *ret = *in;
        return to_float ? EW_OK : to_int(r, in->u.f, fallback, ret);
    }
    *ret = fallback;
    if (in->kind == EW__STR) {
        ew_status st = EW_OK;
        bool number = number_of(r, in->u.s, &whole, &i, &f, &st);
        EW_TRY(st);
        if (number && to_float) {
            *ret = ew__float(whole ? (double)i : f);
        } else if (number) {
            return whole ? ((void)(*ret = ew__int(i)), EW_OK) : to_int(r, f, fallback, ret);
        }
    }
    return EW_OK;
}

static ew_status f_int(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"default", "base"};
    ew__val v[2];
    int64_t base = 10;
    EW_TRY(ew__bind_args(r, a, "int", names, 2, 0, v));
    if (v[1].kind != EW__ABSENT && (!ew__as_int(&v[1], &base) || base != 10)) {
        return ew__fail(r, EW_EUNSUPPORTED, "int with another base than 10");
    }
    return convert(r, in, v[0].kind == EW__ABSENT ? ew__int(0) : v[0], false, ret);
}

static ew_status f_float(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"default"};
    ew__val v;
    EW_TRY(ew__bind_args(r, a, "float", names, 1, 0, &v));
    return convert(r, in, v.kind == EW__ABSENT ? ew__float(0) : v, true, ret);
}

static ew_status f_abs(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    int64_t i;
    EW_TRY(no_args(r, "abs", a));
    if (in->kind == EW__FLOAT) {
        *ret = ew__float(fabs(in->u.f));
        return EW_OK;
    }
    if (!ew__as_int(in, &i) || i == INT64_MIN) {
        return ew__fail(r, EW_EINVAL, "abs of %s", ew__type_name(in));
    }
    *ret = ew__int(i < 0 ? -i : i);
    return EW_OK;
}

static ew_status f_round(ew__run *r, const ew__val *in, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"precision", "method"};
    ew__val v[2];
    int64_t precision = 0;
    EW_TRY(ew__bind_args(r, a, "round", names, 2, 0, v));
    if (v[0].kind != EW__ABSENT && (!ew__as_int(&v[0], &precision) || precision != 0)) {
        return ew__fail(r, EW_EUNSUPPORTED, "round to decimals");
    }
    if (!ew__is_number(in)) {
        return ew__fail(r, EW_EINVAL, "round of %s", ew__type_name(in));
    }
    double f = ew__as_float(in);
    bool common = v[1].kind == EW__ABSENT || (v[1].kind == EW__STR && ew__is(v[1].u.s, "common"));
    bool up = v[1].kind == EW__STR && ew__is(v[1].u.s, "ceil");
    bool down = v[1].kind == EW__STR && ew__is(v[1].u.s, "floor");
    if (!common && !up && !down) {
        return ew__fail(r, EW_EINVAL, "round: method is 'common', 'ceil' or 'floor'");
    }
    if (common && in->kind != EW__FLOAT) {
        int64_t i = 0;
        (void)ew__as_int(in, &i);
        *ret = ew__int(i); /* Python's round of an integer */
        return EW_OK;
    }
    *ret = ew__float(common ? nearbyint(f) : up ? ceil(f) : floor(f));
    return EW_OK;
}

/* ---- which there are ---- */

static const struct {
    const char *name;
    filter_fn fn;
} filters[] = {{"trim", f_trim},
               {"upper", f_upper},
               {"lower", f_lower},
               {"capitalize", f_capitalize},
               {"title", f_title},
               {"replace", f_replace},
               {"string", f_string},
               {"safe", f_safe},
               {"escape", f_escape},
               {"e", f_escape},
               {"tojson", f_tojson},
               {"format", f_format},
               {"indent", f_indent},
               {"length", f_length},
               {"count", f_length},
               {"first", f_first},
               {"last", f_last},
               {"list", f_list},
               {"items", f_items},
               {"reverse", f_reverse},
               {"join", f_join},
               {"sort", f_sort},
               {"dictsort", f_dictsort},
               {"unique", f_unique},
               {"min", f_min},
               {"max", f_max},
               {"sum", f_sum},
               {"map", f_map},
               {"select", f_select},
               {"reject", f_reject},
               {"selectattr", f_selectattr},
               {"rejectattr", f_rejectattr},
               {"default", f_default},
               {"d", f_default},
               {"int", f_int},
               {"float", f_float},
               {"abs", f_abs},
               {"round", f_round}};

ew_status ew__filter(ew__run *r, ew__str name, const ew__val *in, const ew__args *a, ew__val *ret)
{
    for (size_t i = 0; i < EW_COUNT(filters); i++) {
        if (ew__is(name, filters[i].name)) {
            EW_TRY(ew__charge(r, 0));
            EW_TRY(ew__enter(r));
            ew__val out;
            EW_TRY(filters[i].fn(r, in, a, &out));
            *ret = out;
            ew__leave(r);
            return EW_OK;
        }
    }
    return ew__fail(r, EW_EUNSUPPORTED, "filter '%.*s'", (int)EW_MIN(name.n, 60u), name.p);
}

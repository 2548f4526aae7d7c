/* Methods of Python's str, list and dict, and the functions that every template has. */
#include <string.h>

#include <utf8proc.h>

#include "chat/chat_int.h"
#include "text/utf8.h"

#define RANGE_MAX 100000 /* as in Jinja's sandbox */

/* ---- str ---- */

typedef ew_status (*method_fn)(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret);

static ew_status need_str(ew__run *r, const ew__method *m, const ew__val *v)
{
    return v->kind == EW__STR ? EW_OK : ew__fail(r, EW_EINVAL, "%s needs a string, not %s", m->name, ew__type_name(v));
}

/* An optional integer. */
static ew_status opt_int(ew__run *r, const ew__method *m, const ew__val *v, int64_t *io)
{
    if (v->kind == EW__ABSENT || ew__as_int(v, io)) {
        return EW_OK;
    }
    return ew__fail(r, EW_EINVAL, "%s needs an integer, not %s", m->name, ew__type_name(v));
}

static ew_status s_strip(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"chars"};
    ew__val chars;
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 0, &chars));
    return ew__strip(r, m->self.u.s, &chars, m->name[0] != 'r', m->name[0] != 'l', ret);
}

static ew_status s_case(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    EW_TRY(ew__bind_args(r, a, m->name, NULL, 0, 0, NULL));
    ew__case how = m->name[0] == 'u'   ? EW__CASE_UPPER
                   : m->name[0] == 'l' ? EW__CASE_LOWER
                   : m->name[0] == 't' ? EW__CASE_TITLE
                                       : EW__CASE_CAPITALIZE;
    return ew__recase(r, m->self.u.s, how, ret);
}

static ew_status s_replace(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"old", "new", "count"};
    ew__val v[3];
    int64_t count = -1;
    EW_TRY(ew__bind_args(r, a, m->name, names, 3, 2, v));
    EW_TRY(need_str(r, m, &v[0]));
    EW_TRY(need_str(r, m, &v[1]));
    EW_TRY(opt_int(r, m, &v[2], &count));
    return ew__replace(r, m->self.u.s, v[0].u.s, v[1].u.s, count, ret);
}

static ew_status split_space(ew__run *r, ew__str s, int64_t max, ew__list *out)
{
    size_t begin = SIZE_MAX;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        bool space = ew__py_space(cp);
        if (!space && begin == SIZE_MAX) {
            begin = i;
            if (max >= 0 && (int64_t)out->n >= max) {
                break; /* the rest, with the whitespace at its end */
            }
        } else if (space && begin != SIZE_MAX) {
            EW_TRY(ew__push(r, out, ew__of_str(ew__sub(s, begin, i))));
            begin = SIZE_MAX;
        }
        i += len;
    }
    return begin != SIZE_MAX ? ew__push(r, out, ew__of_str(ew__sub(s, begin, s.n))) : EW_OK;
}

static ew_status split_sep(ew__run *r, ew__str s, ew__str sep, int64_t max, ew__list *out)
{
    size_t at = 0;
    for (int64_t n = 0; max < 0 || n < max; n++) {
        size_t found = ew__find(s, sep, at);
        if (found == SIZE_MAX) {
            break;
        }
        EW_TRY(ew__push(r, out, ew__of_str(ew__sub(s, at, found))));
        at = found + sep.n;
    }
    return ew__push(r, out, ew__of_str(ew__sub(s, at, s.n)));
}

/* The last place of needle that ends at or before end. */
static size_t find_last(ew__str s, ew__str needle, size_t end)
{
    for (size_t i = end >= needle.n ? end - needle.n + 1 : 0; i-- > 0;) {
        if (memcmp(s.p + i, needle.p, needle.n) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

static ew_status rsplit_sep(ew__run *r, ew__str s, ew__str sep, int64_t max, ew__list *out)
{
    size_t end = s.n;
    EW_TRY(ew__charge(r, s.n * EW_MIN(sep.n, 4096u)));
    for (int64_t n = 0; max < 0 || n < max; n++) {
        size_t found = find_last(s, sep, end);
        if (found == SIZE_MAX) {
            break;
        }
        EW_TRY(ew__push(r, out, ew__of_str(ew__sub(s, found + sep.n, end))));
        end = found;
    }
    EW_TRY(ew__push(r, out, ew__of_str(ew__sub(s, 0, end))));
    for (size_t i = 0; i < out->n / 2; i++) {
        ew__val v = out->v[i];
        out->v[i] = out->v[out->n - 1 - i];
        out->v[out->n - 1 - i] = v;
    }
    return EW_OK;
}

static ew_status s_split(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"sep", "maxsplit"};
    ew__val v[2];
    int64_t max = -1;
    bool right = m->name[0] == 'r';
    ew__str s = m->self.u.s;
    EW_TRY(ew__bind_args(r, a, m->name, names, 2, 0, v));
    EW_TRY(opt_int(r, m, &v[1], &max));
    EW_TRY(ew__charge(r, s.n));
    EW_TRY(ew__new_list(r, EW__LIST_LIST, 4, ret));
    if (v[0].kind == EW__ABSENT || v[0].kind == EW__NONE_VALUE) {
        if (right && max >= 0) {
            return ew__fail(r, EW_EUNSUPPORTED, "rsplit at whitespace with a maximum");
        }
        return split_space(r, s, max, ret->u.list);
    }
    EW_TRY(need_str(r, m, &v[0]));
    if (v[0].u.s.n == 0) {
        return ew__fail(r, EW_EINVAL, "%s: the separator is empty", m->name);
    }
    return right ? rsplit_sep(r, s, v[0].u.s, max, ret->u.list) : split_sep(r, s, v[0].u.s, max, ret->u.list);
}

static ew_status s_splitlines(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    EW_TRY(ew__bind_args(r, a, m->name, NULL, 0, 0, NULL));
    EW_TRY(ew__new_list(r, EW__LIST_LIST, 4, ret));
    return ew__split_lines(r, m->self.u.s, ret->u.list);
}

static ew_status s_partition(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"sep"};
    ew__val sep;
    ew__str s = m->self.u.s;
    bool right = m->name[0] == 'r';
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &sep));
    EW_TRY(need_str(r, m, &sep));
    if (sep.u.s.n == 0) {
        return ew__fail(r, EW_EINVAL, "%s: the separator is empty", m->name);
    }
    EW_TRY(ew__charge(r, right ? s.n * EW_MIN(sep.u.s.n, 4096u) : s.n));
    size_t at = right ? find_last(s, sep.u.s, s.n) : ew__find(s, sep.u.s, 0);
    ew__val empty = ew__text("");
    EW_TRY(ew__new_list(r, EW__LIST_TUPLE, 4, ret));
    bool found = at != SIZE_MAX;
    ew__val head = found ? ew__of_str(ew__sub(s, 0, at)) : right ? empty : ew__of_str(s);
    ew__val tail = found ? ew__of_str(ew__sub(s, at + sep.u.s.n, s.n)) : right ? ew__of_str(s) : empty;
    EW_TRY(ew__push(r, ret->u.list, head));
    EW_TRY(ew__push(r, ret->u.list, found ? ew__of_str(ew__sub(s, at, at + sep.u.s.n)) : empty));
    return ew__push(r, ret->u.list, tail);
}

static bool affixed(ew__str s, ew__str x, bool end)
{
    return x.n <= s.n && memcmp(end ? s.p + (s.n - x.n) : s.p, x.p, x.n) == 0;
}

static ew_status s_affix(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"prefix"};
    ew__val x;
    bool end = m->name[0] == 'e';
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    EW_TRY(ew__charge(r, 0));
    *ret = ew__bool(false);
    if (x.kind == EW__LIST && x.u.list->kind == EW__LIST_TUPLE) {
        for (size_t i = 0; i < x.u.list->n && !ret->u.b; i++) {
            EW_TRY(need_str(r, m, &x.u.list->v[i]));
            ret->u.b = affixed(m->self.u.s, x.u.list->v[i].u.s, end);
        }
        return EW_OK;
    }
    EW_TRY(need_str(r, m, &x));
    ret->u.b = affixed(m->self.u.s, x.u.s, end);
    return EW_OK;
}

static ew_status s_remove_affix(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"affix"};
    ew__val x;
    ew__str s = m->self.u.s;
    bool end = m->name[6] == 's';
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    EW_TRY(need_str(r, m, &x));
    if (affixed(s, x.u.s, end)) {
        s = end ? ew__sub(s, 0, s.n - x.u.s.n) : ew__sub(s, x.u.s.n, s.n);
    }
    *ret = ew__of_str(s);
    return EW_OK;
}

static ew_status s_find(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"sub"};
    ew__val x;
    ew__str s = m->self.u.s;
    bool right = m->name[0] == 'r';
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    EW_TRY(need_str(r, m, &x));
    EW_TRY(ew__charge(r, right ? s.n * EW_MIN(x.u.s.n + 1, 4096u) : s.n));
    size_t at = right ? find_last(s, x.u.s, s.n) : ew__find(s, x.u.s, 0);
    if (at == SIZE_MAX && strstr(m->name, "index") != NULL) {
        return ew__fail(r, EW_EINVAL, "%s: not found", m->name);
    }
    *ret = ew__int(at == SIZE_MAX ? -1 : (int64_t)ew__chars(ew__sub(s, 0, at)));
    return EW_OK;
}

static ew_status s_count(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"sub"};
    ew__val x;
    int64_t n = 0;
    ew__str s = m->self.u.s;
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    EW_TRY(need_str(r, m, &x));
    EW_TRY(ew__charge(r, s.n * 8));
    if (x.u.s.n == 0) {
        n = (int64_t)ew__chars(s) + 1;
    } else {
        for (size_t at = ew__find(s, x.u.s, 0); at != SIZE_MAX; at = ew__find(s, x.u.s, at + x.u.s.n)) {
            n++;
        }
    }
    *ret = ew__int(n);
    return EW_OK;
}

static ew_status s_join(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"iterable"};
    ew__val x;
    ew__list *l = NULL;
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    EW_TRY(ew__iterate(r, &x, &l));
    return ew__join(r, m->self.u.s, l, false, ret);
}

static ew_status s_format(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    return ew__format_braces(r, m->self.u.s, a, ret);
}

static bool is_class(const char *name, uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    bool alpha = c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
                 c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
    if (strcmp(name, "isspace") == 0) {
        return ew__py_space(cp);
    }
    if (strcmp(name, "isalpha") == 0) {
        return alpha;
    }
    return cp < 0x80 && cp >= '0' && cp <= '9'; /* others were refused */
}

static ew_status s_is(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    ew__str s = m->self.u.s;
    bool yes = s.n > 0;
    bool digits =
        strcmp(m->name, "isdigit") == 0 || strcmp(m->name, "isdecimal") == 0 || strcmp(m->name, "isnumeric") == 0;
    EW_TRY(ew__bind_args(r, a, m->name, NULL, 0, 0, NULL));
    EW_TRY(ew__charge(r, s.n));
    for (size_t i = 0; i < s.n && yes;) {
        uint32_t cp;
        i += ew_utf8_next(s.p + i, s.n - i, &cp);
        if (digits && cp >= 0x80 && ew_utf8_is_number(cp)) {
            return ew__fail(r, EW_EUNSUPPORTED, "%s of U+%04X", m->name, cp);
        }
        yes = is_class(m->name, cp);
    }
    *ret = ew__bool(yes);
    return EW_OK;
}

/* ---- list, tuple, dict ---- */

static ew_status l_append(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"object"};
    ew__val x;
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    *ret = ew__none();
    return ew__push(r, m->self.u.list, x);
}

static ew_status l_index(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"value"};
    const ew__list *l = m->self.u.list;
    ew__val x;
    int64_t n = 0;
    bool count = m->name[0] == 'c';
    EW_TRY(ew__bind_args(r, a, m->name, names, 1, 1, &x));
    for (size_t i = 0; i < l->n; i++) {
        bool same = false;
        EW_TRY(ew__equal(r, &l->v[i], &x, &same));
        n += same;
        if (same && !count) {
            *ret = ew__int((int64_t)i);
            return EW_OK;
        }
    }
    if (!count) {
        return ew__fail(r, EW_EINVAL, "index: the value is not in the list");
    }
    *ret = ew__int(n);
    return EW_OK;
}

static ew_status d_get(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"key", "default"};
    ew__val v[2];
    ew__val *found = NULL;
    EW_TRY(ew__bind_args(r, a, m->name, names, 2, 1, v));
    if (v[0].kind == EW__LIST || v[0].kind == EW__DICT) {
        return ew__fail(r, EW_EINVAL, "get: a key of type %s", ew__type_name(&v[0]));
    }
    EW_TRY(ew__dict_find(r, m->self.u.dict, v[0], &found));
    *ret = found != NULL ? *found : v[1].kind != EW__ABSENT ? v[1] : ew__none();
    return EW_OK;
}

static ew_status d_view(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    const ew__dict *d = m->self.u.dict;
    EW_TRY(ew__bind_args(r, a, m->name, NULL, 0, 0, NULL));
    EW_TRY(ew__new_list(r, EW__LIST_VIEW, d->n, ret));
    for (size_t i = 0; i < d->n; i++) {
        ew__val v = m->name[0] == 'k' ? d->e[i].k : d->e[i].v;
        if (m->name[0] == 'i') {
            EW_TRY(ew__new_list(r, EW__LIST_TUPLE, 2, &v));
            EW_TRY(ew__push(r, v.u.list, d->e[i].k));
            EW_TRY(ew__push(r, v.u.list, d->e[i].v));
        }
        EW_TRY(ew__push(r, ret->u.list, v));
    }
    return EW_OK;
}

/* ---- which there are ---- */

typedef struct method_row {
    const char *name;
    method_fn fn; /* NULL: Python has it, this build does not */
} method_row;

/* clang-format off */
static const method_row str_methods[] = {
    {"strip", s_strip}, {"lstrip", s_strip}, {"rstrip", s_strip}, {"upper", s_case}, {"lower", s_case},
    {"title", s_case}, {"capitalize", s_case}, {"replace", s_replace}, {"split", s_split}, {"rsplit", s_split},
    {"splitlines", s_splitlines}, {"partition", s_partition}, {"rpartition", s_partition}, {"startswith", s_affix},
    {"endswith", s_affix}, {"removeprefix", s_remove_affix}, {"removesuffix", s_remove_affix}, {"find", s_find},
    {"rfind", s_find}, {"index", s_find}, {"rindex", s_find}, {"count", s_count}, {"join", s_join},
    {"format", s_format}, {"isspace", s_is}, {"isalpha", s_is}, {"isdigit", s_is}, {"isdecimal", s_is},
    {"isnumeric", s_is}, {"casefold", NULL}, {"center", NULL}, {"encode", NULL}, {"expandtabs", NULL},
    {"format_map", NULL}, {"isalnum", NULL}, {"isascii", NULL}, {"isidentifier", NULL}, {"islower", NULL},
    {"isprintable", NULL}, {"istitle", NULL}, {"isupper", NULL}, {"ljust", NULL}, {"maketrans", NULL},
    {"rjust", NULL}, {"swapcase", NULL}, {"translate", NULL}, {"zfill", NULL}, {NULL, NULL}};
static const method_row list_methods[] = {
    {"append", l_append}, {"index", l_index}, {"count", l_index}, {"clear", NULL}, {"copy", NULL}, {"extend", NULL},
    {"insert", NULL}, {"pop", NULL}, {"remove", NULL}, {"reverse", NULL}, {"sort", NULL}, {NULL, NULL}};
static const method_row tuple_methods[] = {{"index", l_index}, {"count", l_index}, {NULL, NULL}};
static const method_row dict_methods[] = {
    {"get", d_get}, {"items", d_view}, {"keys", d_view}, {"values", d_view}, {"clear", NULL}, {"copy", NULL},
    {"fromkeys", NULL}, {"pop", NULL}, {"popitem", NULL}, {"setdefault", NULL}, {"update", NULL}, {NULL, NULL}};
static const method_row number_methods[] = {
    {"real", NULL}, {"imag", NULL}, {"numerator", NULL}, {"denominator", NULL}, {"bit_length", NULL},
    {"bit_count", NULL}, {"conjugate", NULL}, {"as_integer_ratio", NULL}, {"to_bytes", NULL}, {"from_bytes", NULL},
    {"is_integer", NULL}, {"hex", NULL}, {"fromhex", NULL}, {NULL, NULL}};
static const method_row other_list_methods[] = {
    {"start", NULL}, {"stop", NULL}, {"step", NULL}, {"index", NULL}, {"count", NULL}, {"mapping", NULL},
    {"isdisjoint", NULL}, {"send", NULL}, {"throw", NULL}, {"close", NULL}, {NULL, NULL}};
/* clang-format on */

static const method_row *methods_of(const ew__val *v)
{
    static const method_row none[] = {{NULL, NULL}};
    switch (v->kind) {
    case EW__STR:
        return str_methods;
    case EW__LIST:
        return v->u.list->kind == EW__LIST_LIST    ? list_methods
               : v->u.list->kind == EW__LIST_TUPLE ? tuple_methods
                                                   : other_list_methods;
    case EW__DICT:
        return dict_methods;
    case EW__BOOL:
    case EW__INT:
    case EW__FLOAT:
        return number_methods;
    default:
        return none;
    }
}

bool ew__has_method(const ew__val *v, ew__str name, const char **ret_name)
{
    for (const method_row *m = methods_of(v); m->name != NULL; m++) {
        if (ew__is(name, m->name)) {
            *ret_name = m->name;
            return true;
        }
    }
    return false;
}

ew_status ew__call_method(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret)
{
    const method_row *row = methods_of(&m->self);
    while (row->name != NULL && strcmp(row->name, m->name) != 0) {
        row++;
    }
    if (row->name == NULL || row->fn == NULL) {
        return ew__fail(r, EW_EUNSUPPORTED, "method '%s' of %s", m->name, ew__type_name(&m->self));
    }
    if (m->self.kind == EW__STR && m->self.markup && row->fn != s_strip && row->fn != s_case && row->fn != s_affix) {
        return ew__fail(r, EW_EUNSUPPORTED, "method '%s' of text that is marked as safe", m->name);
    }
    EW_TRY(row->fn(r, m, a, ret));
    ret->markup = m->self.kind == EW__STR && m->self.markup && ret->kind == EW__STR;
    return EW_OK;
}

/* ---- functions ---- */

static ew_status f_range(ew__run *r, const ew__args *a, ew__val *ret)
{
    int64_t v[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3 || a->n_kw > 0) {
        return ew__fail(r, EW_EINVAL, "range takes one to three integers");
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!ew__as_int(&a->v[i], &v[a->n == 1 ? 1 : i])) {
            return ew__fail(r, EW_EINVAL, "range needs integers, not %s", ew__type_name(&a->v[i]));
        }
    }
    if (v[2] == 0) {
        return ew__fail(r, EW_EINVAL, "range: the step is 0");
    }
    uint64_t width = v[2] > 0 ? (v[1] > v[0] ? (uint64_t)v[1] - (uint64_t)v[0] : 0)
                              : (v[0] > v[1] ? (uint64_t)v[0] - (uint64_t)v[1] : 0);
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2];
    uint64_t n = width / step + (width % step != 0);
    if (n > RANGE_MAX) {
        return ew__fail(r, EW_ELIMIT, "a range of more than %d items", RANGE_MAX);
    }
    EW_TRY(ew__new_list(r, EW__LIST_RANGE, (size_t)n, ret));
    for (uint64_t i = 0; i < n; i++) {
        EW_TRY(ew__push(r, ret->u.list, ew__int((int64_t)((uint64_t)v[0] + i * (uint64_t)v[2]))));
    }
    return EW_OK;
}

static ew_status f_dict(ew__run *r, const ew__args *a, ew__kind kind, ew__val *ret)
{
    EW_TRY(ew__new_dict(r, kind, ret));
    if (a->n > 1) {
        return ew__fail(r, EW_EINVAL, "dict takes one value by place, not %zu", a->n);
    }
    if (a->n == 1 && a->v[0].kind == EW__DICT) {
        for (size_t i = 0; i < a->v[0].u.dict->n; i++) {
            EW_TRY(ew__dict_put(r, ret->u.dict, a->v[0].u.dict->e[i].k, a->v[0].u.dict->e[i].v));
        }
    } else if (a->n == 1) {
        ew__list *l = NULL;
        EW_TRY(ew__iterate(r, &a->v[0], &l));
        for (size_t i = 0; i < l->n; i++) {
            ew__list *pair = NULL;
            EW_TRY(ew__iterate(r, &l->v[i], &pair));
            if (pair->n != 2) {
                return ew__fail(r, EW_EINVAL, "dict: item %zu is not a pair", i);
            }
            EW_TRY(ew__dict_put(r, ret->u.dict, pair->v[0], pair->v[1]));
        }
    }
    for (size_t i = 0; i < a->n_kw; i++) {
        EW_TRY(ew__dict_put(r, ret->u.dict, a->kw[i].k, a->kw[i].v));
    }
    for (size_t i = 0; kind == EW__NAMESPACE && i < ret->u.dict->n; i++) {
        const ew__val *k = &ret->u.dict->e[i].k;
        if (k->kind == EW__STR && k->u.s.n > 0 && k->u.s.p[0] == '_') {
            return ew__fail(r, EW_EUNSUPPORTED, "a namespace attribute that begins with '_'");
        }
    }
    return EW_OK;
}

static ew_status f_raise(ew__run *r, const ew__args *a)
{
    ew__val text = ew__text("(without a message)");
    if (a->n > 0) {
        EW_TRY(ew__str_of(r, &a->v[0], &text));
    }
    return ew__fail(r, EW_EINVAL, "the template does not accept this conversation: %.*s", (int)EW_MIN(text.u.s.n, 250u),
                    text.u.s.p);
}

static ew_status f_strftime(ew__run *r, const ew__args *a, ew__val *ret)
{
    char format[128];
    char text[512];
    if (a->n != 1 || a->n_kw > 0 || a->v[0].kind != EW__STR || a->v[0].u.s.n >= sizeof(format)) {
        return ew__fail(r, EW_EINVAL, "strftime_now takes one short format");
    }
    ew__str s = a->v[0].u.s;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '%') {
            continue;
        }
        i += i + 1 < s.n && s.p[i + 1] == '-' ? 2 : 1;
        if (i >= s.n || s.p[i] == 0 || strchr("aAbBcdDeFHIjmMnpRStTuUwWxXyYZz%", s.p[i]) == NULL) {
            return ew__fail(r, EW_EUNSUPPORTED, "strftime_now: this format");
        }
    }
    memcpy(format, s.p, s.n);
    format[s.n] = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* checked above */
    size_t n = s.n > 0 ? strftime(text, sizeof(text), format, r->now) : 0;
#pragma GCC diagnostic pop
    ew__sb b = {.r = r};
    ew__sb_add(&b, (ew__str){text, s.mask != NULL ? ew__all_content : NULL, n});
    return ew__sb_done(&b, ret);
}

static const char *const functions[] = {"range",        "dict",   "namespace", "raise_exception",
                                        "strftime_now", "cycler", "joiner",    "lipsum"};

ew_status ew__define_functions(ew__run *r)
{
    for (size_t i = 0; i < EW_COUNT(functions); i++) {
        int32_t sym = ew__symbol(r->t, functions[i]);
        if (sym >= 0 && (i != 4 || r->now != NULL)) {
            EW_TRY(ew__assign_name(r, r->globals, sym, (ew__val){.kind = EW__FUNCTION, .u.i = (int64_t)i}));
        }
    }
    return EW_OK;
}

ew_status ew__call_function(ew__run *r, int64_t number, const ew__args *a, ew__val *ret)
{
    switch (number) {
    case 0:
        return f_range(r, a, ret);
    case 1:
        return f_dict(r, a, EW__DICT, ret);
    case 2:
        return f_dict(r, a, EW__NAMESPACE, ret);
    case 3:
        return f_raise(r, a);
    case 4:
        return f_strftime(r, a, ret);
    default:
        return ew__fail(r, EW_EUNSUPPORTED, "function '%s'", functions[number]);
    }
}

/* Text of values, as str(), repr() and json.dumps have it, and the operations on strings. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "chat/chat_int.h"
#include "text/utf8.h"

/* ---- numbers ---- */

/* repr(float): the shortest digits that read back the same. */
static void float_text(double f, char *dst, size_t size)
{
    char digits[40];
    if (isnan(f) || isinf(f)) {
        (void)snprintf(dst, size, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    int precision = 0;
    do {
        (void)snprintf(digits, sizeof(digits), "%.*e", precision, f);
    } while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        (void)snprintf(dst, size, "%.*f", EW_MAX(precision - exponent, exponent >= 0 ? 1 : 0), f);
        return;
    }
    *strchr(digits, 'e') = 0;
    (void)snprintf(dst, size, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
}

static bool number_text(const ew__val *v, char *dst, size_t size)
{
    if (v->kind == EW__INT) {
        (void)snprintf(dst, size, "%" PRId64, v->u.i);
    } else if (v->kind == EW__FLOAT) {
        float_text(v->u.f, dst, size);
    } else {
        return false;
    }
    return true;
}

/* ---- repr and str ---- */

static bool printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}

static void repr_char(ew__sb *b, ew__str s, size_t at, size_t len, uint32_t cp, char quote)
{
    char text[16];
    bool content = ew__content_at(s, at);
    if (cp == (uint32_t)quote || cp == '\\') {
        (void)snprintf(text, sizeof(text), "\\%c", (char)cp);
    } else if (cp == '\n' || cp == '\r' || cp == '\t') {
        (void)snprintf(text, sizeof(text), "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    } else if (!printable(cp)) {
        (void)snprintf(text, sizeof(text), cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    } else {
        ew__sb_add(b, ew__sub(s, at, at + len));
        return;
    }
    ew__sb_text(b, text, content);
}

static void repr_str(ew__sb *b, ew__str s)
{
    bool single = memchr(s.p, '\'', s.n) != NULL;
    bool twice = memchr(s.p, '"', s.n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    const char text[2] = {quote, 0};
    ew__sb_text(b, text, false);
    for (size_t i = 0; i < s.n && b->st == EW_OK;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        repr_char(b, s, i, len, cp, quote);
        i += len;
    }
    ew__sb_text(b, text, false);
}

static ew_status repr_list(ew__sb *b, const ew__list *l)
{
    bool tuple = l->kind == EW__LIST_TUPLE;
    ew__sb_text(b, tuple ? "(" : "[", false);
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0) {
            ew__sb_text(b, ", ", false);
        }
        EW_TRY(ew__repr_to(b, &l->v[i]));
    }
    ew__sb_text(b, tuple ? (l->n == 1 ? ",)" : ")") : "]", false);
    return b->st;
}

static ew_status repr_dict(ew__sb *b, const ew__dict *d)
{
    ew__sb_text(b, "{", false);
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0) {
            ew__sb_text(b, ", ", false);
        }
        EW_TRY(ew__repr_to(b, &d->e[i].k));
        ew__sb_text(b, ": ", false);
        EW_TRY(ew__repr_to(b, &d->e[i].v));
    }
    ew__sb_text(b, "}", false);
    return b->st;
}

static ew_status no_text(ew__run *r, const ew__val *v)
{
    return ew__fail(r, EW_EUNSUPPORTED, "the text of a value of type %s", ew__type_name(v));
}

static ew_status repr_container(ew__sb *b, const ew__val *v)
{
    EW_TRY(ew__enter(b->r));
    ew_status st = EW_OK;
    if (v->kind == EW__DICT) {
        st = repr_dict(b, v->u.dict);
    } else if (v->u.list->kind == EW__LIST_LIST || v->u.list->kind == EW__LIST_TUPLE) {
        st = repr_list(b, v->u.list);
    } else {
        st = no_text(b->r, v);
    }
    ew__leave(b->r);
    return st;
}

ew_status ew__repr_to(ew__sb *b, const ew__val *v)
{
    char text[64];
    switch (v->kind) {
    case EW__UNDEFINED:
        ew__sb_text(b, "Undefined", false);
        break;
    case EW__NONE_VALUE:
        ew__sb_text(b, "None", false);
        break;
    case EW__BOOL:
        ew__sb_text(b, v->u.b ? "True" : "False", false);
        break;
    case EW__INT:
    case EW__FLOAT:
        (void)number_text(v, text, sizeof(text));
        ew__sb_text(b, text, false);
        break;
    case EW__STR:
        ew__sb_text(b, v->markup ? "Markup(" : "", false);
        repr_str(b, v->u.s);
        ew__sb_text(b, v->markup ? ")" : "", false);
        break;
    case EW__LIST:
    case EW__DICT:
        EW_TRY(repr_container(b, v));
        break;
    default:
        return no_text(b->r, v);
    }
    return b->st;
}

ew_status ew__str_of(ew__run *r, const ew__val *v, ew__val *ret)
{
    if (v->kind == EW__STR) {
        *ret = *v;
        return EW_OK;
    }
    if (v->kind == EW__UNDEFINED) {
        *ret = ew__text("");
        return EW_OK;
    }
    ew__sb b = {.r = r};
    EW_TRY(ew__repr_to(&b, v));
    return ew__sb_done(&b, ret);
}

/* ---- JSON ---- */

typedef struct dumper {
    ew__sb b;
    bool ascii, sorted, pretty;
    ew__str indent;
    ew__str item, key; /* separators */
} dumper;

static void json_char(dumper *d, ew__str s, size_t at, size_t len, uint32_t cp)
{
    static const char from[] = "\"\\\n\r\t\f\b";
    static const char to[] = "\"\\nrtfb";
    char text[16];
    const char *known = cp < 0x80 && cp != 0 ? strchr(from, (int)cp) : NULL;
    if (known != NULL) {
        (void)snprintf(text, sizeof(text), "\\%c", to[known - from]);
    } else if (cp < 0x20 || (d->ascii && cp > 0x7E && cp < 0x10000)) {
        (void)snprintf(text, sizeof(text), "\\u%04x", cp);
    } else if (d->ascii && cp >= 0x10000) {
        (void)snprintf(text, sizeof(text), "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10),
                       0xDC00 + ((cp - 0x10000) & 0x3FF));
    } else {
        ew__sb_add(&d->b, ew__sub(s, at, at + len));
        return;
    }
    ew__sb_text(&d->b, text, ew__content_at(s, at));
}

static void json_str(dumper *d, ew__str s)
{
    ew__sb_text(&d->b, "\"", false);
    for (size_t i = 0; i < s.n && d->b.st == EW_OK;) {
        size_t plain = i;
        while (plain < s.n && (unsigned char)s.p[plain] >= 0x20 && (unsigned char)s.p[plain] < 0x7F &&
               s.p[plain] != '"' && s.p[plain] != '\\') {
            plain++;
        }
        ew__sb_add(&d->b, ew__sub(s, i, plain));
        i = plain;
        if (i < s.n) {
            uint32_t cp;
            size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
            json_char(d, s, i, len, cp);
            i += len;
        }
    }
    ew__sb_text(&d->b, "\"", false);
}

static void json_newline(dumper *d, unsigned level)
{
    if (d->pretty) {
        ew__sb_text(&d->b, "\n", false);
        for (unsigned i = 0; i < level && d->b.st == EW_OK; i++) {
            ew__sb_add(&d->b, d->indent);
        }
    }
}

static ew_status json_value(dumper *d, const ew__val *v, unsigned level);

static ew_status json_list(dumper *d, const ew__list *l, unsigned level)
{
    ew__sb_text(&d->b, "[", false);
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0) {
            ew__sb_add(&d->b, d->item);
        }
        json_newline(d, level + 1);
        EW_TRY(json_value(d, &l->v[i], level + 1));
    }
    if (l->n > 0) {
        json_newline(d, level);
    }
    ew__sb_text(&d->b, "]", false);
    return d->b.st;
}

static ew_status json_key(dumper *d, const ew__val *k)
{
    char text[64];
    if (k->kind == EW__STR) {
        json_str(d, k->u.s);
        return d->b.st;
    }
    if (k->kind == EW__BOOL || k->kind == EW__NONE_VALUE) {
        (void)snprintf(text, sizeof(text), "%s", k->kind == EW__NONE_VALUE ? "null" : k->u.b ? "true" : "false");
    } else if (!number_text(k, text, sizeof(text))) {
        return ew__fail(d->b.r, EW_EINVAL, "tojson: a key of type %s", ew__type_name(k));
    }
    json_str(d, (ew__str){text, NULL, strlen(text)});
    return d->b.st;
}

/* The place of the i-th smallest key; selection, as dicts are small and the steps are counted. */
static ew_status sorted_order(dumper *d, const ew__dict *dict, size_t *order)
{
    for (size_t i = 0; i < dict->n; i++) {
        size_t k = i;
        for (; k > 0; k--) {
            int o = 0;
            EW_TRY(ew__charge(d->b.r, 0));
            EW_TRY(ew__order(d->b.r, &dict->e[order[k - 1]].k, &dict->e[i].k, &o));
            if (o <= 0) {
                break;
            }
            order[k] = order[k - 1];
        }
        order[k] = i;
    }
    return EW_OK;
}

static ew_status json_dict(dumper *d, const ew__dict *dict, unsigned level)
{
    void *order = NULL;
    if (d->sorted) {
        EW_TRY(ew__take(d->b.r, dict->n, sizeof(size_t), &order));
        EW_TRY(sorted_order(d, dict, order));
    }
    ew__sb_text(&d->b, "{", false);
    for (size_t i = 0; i < dict->n; i++) {
        const ew__pair *e = &dict->e[order != NULL ? ((const size_t *)order)[i] : i];
        if (i > 0) {
            ew__sb_add(&d->b, d->item);
        }
        json_newline(d, level + 1);
        EW_TRY(json_key(d, &e->k));
        ew__sb_add(&d->b, d->key);
        EW_TRY(json_value(d, &e->v, level + 1));
    }
    if (dict->n > 0) {
        json_newline(d, level);
    }
    ew__sb_text(&d->b, "}", false);
    return d->b.st;
}

static ew_status json_scalar(dumper *d, const ew__val *v)
{
    char text[64];
    if (v->kind == EW__STR) {
        json_str(d, v->u.s);
        return d->b.st;
    }
    if (v->kind == EW__NONE_VALUE || v->kind == EW__BOOL) {
        ew__sb_text(&d->b, v->kind == EW__NONE_VALUE ? "null" : v->u.b ? "true" : "false", false);
        return d->b.st;
    }
    if (v->kind == EW__FLOAT && (isnan(v->u.f) || isinf(v->u.f))) {
        ew__sb_text(&d->b, isnan(v->u.f) ? "NaN" : v->u.f > 0 ? "Infinity" : "-Infinity", false);
        return d->b.st;
    }
    if (!number_text(v, text, sizeof(text))) {
        return ew__fail(d->b.r, EW_EINVAL, "tojson: a value of type %s is not JSON", ew__type_name(v));
    }
    ew__sb_text(&d->b, text, false);
    return d->b.st;
}

static ew_status json_value(dumper *d, const ew__val *v, unsigned level)
{
    bool list = v->kind == EW__LIST && v->u.list->kind <= EW__LIST_TUPLE;
    if (v->kind != EW__DICT && !list) {
        return json_scalar(d, v);
    }
    EW_TRY(ew__enter(d->b.r));
    ew_status st = list ? json_list(d, v->u.list, level) : json_dict(d, v->u.dict, level);
    ew__leave(d->b.r);
    return st;
}

static ew_status json_indent(ew__run *r, dumper *d, const ew__val *indent)
{
    int64_t n = 0;
    if (indent->kind == EW__ABSENT || indent->kind == EW__NONE_VALUE) {
        return EW_OK;
    }
    d->pretty = true;
    d->item = (ew__str){",", NULL, 1};
    if (indent->kind == EW__STR) {
        d->indent = indent->u.s;
        return EW_OK;
    }
    if (!ew__as_int(indent, &n) || n > 64) {
        return ew__fail(r, EW_EUNSUPPORTED, "tojson: an indent of this kind");
    }
    static const char blanks[] = "                                                                ";
    d->indent = (ew__str){blanks, NULL, n > 0 ? (size_t)n : 0};
    return EW_OK;
}

ew_status ew__to_json(ew__run *r, const ew__val *v, const ew__args *a, ew__val *ret)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    ew__val arg[4];
    dumper d = {.b = {.r = r}, .item = {", ", NULL, 2}, .key = {": ", NULL, 2}};
    EW_TRY(ew__bind_args(r, a, "tojson", names, 4, 0, arg));
    d.ascii = ew__truth(&arg[0]);
    d.sorted = ew__truth(&arg[3]);
    EW_TRY(json_indent(r, &d, &arg[1]));
    if (arg[2].kind != EW__ABSENT && arg[2].kind != EW__NONE_VALUE) {
        const ew__list *l = arg[2].kind == EW__LIST ? arg[2].u.list : NULL;
        if (l == NULL || l->n != 2 || l->v[0].kind != EW__STR || l->v[1].kind != EW__STR) {
            return ew__fail(r, EW_EINVAL, "tojson: separators are two strings");
        }
        d.item = l->v[0].u.s;
        d.key = l->v[1].u.s;
    }
    EW_TRY(json_value(&d, v, 0));
    return ew__sb_done(&d.b, ret);
}

/* ---- formatting ---- */

static ew_status braces_field(ew__run *r, ew__str field, const ew__args *a, size_t *next, ew__val *ret)
{
    bool number = field.n > 0;
    size_t index = 0;
    for (size_t i = 0; i < field.n; i++) {
        number = number && field.p[i] >= '0' && field.p[i] <= '9' && field.n < 6;
        if (strchr(".[:!{", field.p[i]) != NULL) {
            return ew__fail(r, EW_EUNSUPPORTED, "a format field like '{%.*s}'", (int)EW_MIN(field.n, 40u), field.p);
        }
        index = number ? index * 10 + (size_t)(field.p[i] - '0') : 0;
    }
    if (field.n == 0) {
        index = (*next)++;
    } else if (!number) {
        for (size_t i = 0; i < a->n_kw; i++) {
            const ew__str k = a->kw[i].k.u.s;
            if (k.n == field.n && memcmp(k.p, field.p, k.n) == 0) {
                return ew__str_of(r, &a->kw[i].v, ret);
            }
        }
        return ew__fail(r, EW_EINVAL, "format: no argument '%.*s'", (int)EW_MIN(field.n, 40u), field.p);
    }
    if (index >= a->n) {
        return ew__fail(r, EW_EINVAL, "format: argument %zu is missing", index);
    }
    return ew__str_of(r, &a->v[index], ret);
}

ew_status ew__format_braces(ew__run *r, ew__str s, const ew__args *a, ew__val *ret)
{
    ew__sb b = {.r = r};
    size_t next = 0;
    for (size_t i = 0; i < s.n && b.st == EW_OK;) {
        char c = s.p[i];
        if (c != '{' && c != '}') {
            ew__sb_add(&b, ew__sub(s, i, i + 1));
            i++;
        } else if (i + 1 < s.n && s.p[i + 1] == c) {
            ew__sb_add(&b, ew__sub(s, i, i + 1));
            i += 2;
        } else {
            const char *end = c == '{' ? memchr(s.p + i, '}', s.n - i) : NULL;
            ew__val v;
            if (end == NULL) {
                return ew__fail(r, EW_EINVAL, "format: a brace without its other");
            }
            size_t e = (size_t)(end - s.p);
            EW_TRY(braces_field(r, ew__sub(s, i + 1, e), a, &next, &v));
            ew__sb_add(&b, v.u.s);
            i = e + 1;
        }
    }
    return ew__sb_done(&b, ret);
}

static ew_status percent_field(ew__run *r, char c, const ew__val *v, ew__val *ret)
{
    int64_t i = 0;
    if (c == 's') {
        return ew__str_of(r, v, ret);
    }
    if (c != 'd' && c != 'i') {
        return ew__fail(r, EW_EUNSUPPORTED, "the format '%%%c'", c);
    }
    if (v->kind == EW__FLOAT && v->u.f > -9e18 && v->u.f < 9e18) {
        i = (int64_t)v->u.f;
    } else if (!ew__as_int(v, &i)) {
        return ew__fail(r, EW_EINVAL, "'%%%c' needs a number, not %s", c, ew__type_name(v));
    }
    ew__val whole = ew__int(i);
    return ew__str_of(r, &whole, ret);
}

ew_status ew__format_percent(ew__run *r, ew__str s, const ew__args *a, ew__val *ret)
{
    ew__sb b = {.r = r};
    size_t next = 0;
    if (a->n_kw > 0) {
        return ew__fail(r, EW_EUNSUPPORTED, "format by name");
    }
    for (size_t i = 0; i < s.n && b.st == EW_OK; i++) {
        ew__val v;
        if (s.p[i] != '%') {
            ew__sb_add(&b, ew__sub(s, i, i + 1));
            continue;
        }
        i++;
        if (i >= s.n) {
            return ew__fail(r, EW_EINVAL, "the format ends in '%%'");
        }
        if (s.p[i] == '%') {
            ew__sb_add(&b, ew__sub(s, i, i + 1));
            continue;
        }
        if (next >= a->n) {
            return ew__fail(r, EW_EINVAL, "not enough arguments for the format");
        }
        EW_TRY(percent_field(r, s.p[i], &a->v[next++], &v));
        ew__sb_add(&b, v.u.s);
    }
    if (next < a->n && b.st == EW_OK) {
        return ew__fail(r, EW_EINVAL, "more arguments than the format uses");
    }
    return ew__sb_done(&b, ret);
}

ew_status ew__escape(ew__run *r, ew__str s, ew__val *ret)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    ew__sb b = {.r = r};
    for (size_t i = 0; i < s.n; i++) {
        const char *known = s.p[i] != 0 ? strchr(from, s.p[i]) : NULL;
        if (known != NULL) {
            ew__sb_text(&b, to[known - from], ew__content_at(s, i));
        } else {
            ew__sb_add(&b, ew__sub(s, i, i + 1));
        }
    }
    EW_TRY(ew__sb_done(&b, ret));
    ret->markup = true;
    return EW_OK;
}

/* ---- case ---- */

static bool has_special_case(uint32_t cp)
{
    static const uint32_t ranges[][2] = {{0x149, 0x149},   {0x1F0, 0x1F0},   {0x390, 0x390},   {0x3B0, 0x3B0},
                                         {0x587, 0x587},   {0x1E96, 0x1E9A}, {0x1F50, 0x1F57}, {0x1F80, 0x1FFC},
                                         {0xFB00, 0xFB06}, {0xFB13, 0xFB17}};
    for (size_t i = 0; i < EW_COUNT(ranges); i++) {
        if (cp >= ranges[i][0] && cp <= ranges[i][1]) {
            return true;
        }
    }
    return false;
}

static bool is_cased(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

static bool case_ignorable(uint32_t cp)
{
    static const uint16_t marks[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,  0x5F4,  0x2018, 0x2019,
                                     0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    for (size_t i = 0; i < EW_COUNT(marks); i++) {
        if (cp == marks[i]) {
            return true;
        }
    }
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK;
}

/* The sigma at i ends its word: a cased letter before and none behind, over what case ignores. */
static bool final_sigma(ew__str s, size_t i, uint32_t before)
{
    if (before == 0 || !is_cased(before)) {
        return false;
    }
    uint32_t cp = 0;
    for (i += 2; i < s.n;) {
        i += ew_utf8_next(s.p + i, s.n - i, &cp);
        if (!case_ignorable(cp)) {
            return !is_cased(cp);
        }
    }
    return true;
}

typedef enum one_case {
    ONE_UPPER,
    ONE_TITLE,
    ONE_LOWER
} one_case;

static ew_status put_case(ew__sb *b, ew__str s, size_t at, uint32_t cp, uint32_t before, one_case how)
{
    bool content = ew__content_at(s, at);
    if (how == ONE_LOWER) {
        if (cp == 0x130) {
            ew__sb_text(b, "i\xCC\x87", content);
        } else if (cp == 0x3A3 && final_sigma(s, at, before)) {
            ew__sb_cp(b, 0x3C2, content);
        } else {
            ew__sb_cp(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), content);
        }
        return b->st;
    }
    if (cp == 0xDF) {
        ew__sb_text(b, how == ONE_UPPER ? "SS" : "Ss", content);
        return b->st;
    }
    if (has_special_case(cp)) {
        return ew__fail(b->r, EW_EUNSUPPORTED, "upper case of U+%04X", cp);
    }
    utf8proc_int32_t up =
        how == ONE_UPPER ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_totitle((utf8proc_int32_t)cp);
    ew__sb_cp(b, (uint32_t)up, content);
    return b->st;
}

static bool word_separator(uint32_t cp)
{
    return ew__py_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

ew_status ew__recase(ew__run *r, ew__str s, ew__case how, ew__val *ret)
{
    ew__sb b = {.r = r};
    uint32_t before = 0;  /* last character that case does not ignore */
    bool in_word = false; /* TITLE: the last one was cased; JTITLE: part of the same word */
    bool separators = false;
    EW_TRY(ew__charge(r, s.n));
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        one_case one = how == EW__CASE_UPPER ? ONE_UPPER : ONE_LOWER;
        if (how == EW__CASE_CAPITALIZE) {
            one = i == 0 ? ONE_TITLE : ONE_LOWER;
        } else if (how == EW__CASE_TITLE) {
            one = in_word ? ONE_LOWER : ONE_TITLE;
            in_word = is_cased(cp);
        } else if (how == EW__CASE_JTITLE) {
            bool separator = word_separator(cp);
            one = i == 0 || separator != separators ? ONE_UPPER : ONE_LOWER;
            separators = separator;
        }
        if (len == 1 && cp == EW_UTF8_REPLACEMENT) {
            ew__sb_add(&b, ew__sub(s, i, i + 1)); /* a bad byte */
        } else {
            EW_TRY(put_case(&b, s, i, cp, before, one));
        }
        before = case_ignorable(cp) ? before : cp;
        i += len;
    }
    return ew__sb_done(&b, ret);
}

/* ---- stripping, replacing, splitting, joining ---- */

static bool strips(const ew__val *chars, ew__str c, uint32_t cp)
{
    return chars->kind == EW__STR ? ew__find(chars->u.s, c, 0) != SIZE_MAX : ew__py_space(cp);
}

ew_status ew__strip(ew__run *r, ew__str s, const ew__val *chars, bool left, bool right, ew__val *ret)
{
    size_t begin = 0;
    size_t end = 0;
    uint32_t cp;
    if (chars->kind != EW__STR && chars->kind != EW__ABSENT && chars->kind != EW__NONE_VALUE) {
        return ew__fail(r, EW_EINVAL, "strip needs a string, not %s", ew__type_name(chars));
    }
    EW_TRY(ew__charge(r, s.n));
    for (size_t i = 0; i < s.n;) {
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        if (chars->kind == EW__STR && chars->u.s.n > 16) {
            EW_TRY(ew__charge(r, chars->u.s.n));
        }
        bool out = strips(chars, ew__sub(s, i, i + len), cp);
        i += len;
        if (out && left && begin + len == i) {
            begin = i;
        }
        end = out ? end : i;
    }
    *ret = ew__of_str(ew__sub(s, begin, right ? EW_MAX(end, begin) : s.n));
    return EW_OK;
}

ew_status ew__replace(ew__run *r, ew__str s, ew__str from, ew__str to, int64_t count, ew__val *ret)
{
    ew__sb b = {.r = r};
    size_t at = 0;
    EW_TRY(ew__charge(r, s.n));
    for (int64_t n = 0; count < 0 || n < count; n++) {
        size_t found = ew__find(s, from, at);
        if (found == SIZE_MAX || b.st != EW_OK) {
            break;
        }
        ew__sb_add(&b, ew__sub(s, at, found));
        ew__sb_add(&b, to);
        at = found + from.n;
        if (from.n == 0) {
            uint32_t cp;
            if (at >= s.n) {
                break;
            }
            size_t len = ew_utf8_next(s.p + at, s.n - at, &cp);
            ew__sb_add(&b, ew__sub(s, at, at + len));
            at += len;
        }
        EW_TRY(ew__charge(r, 0));
    }
    ew__sb_add(&b, ew__sub(s, at, s.n));
    return ew__sb_done(&b, ret);
}

/* The line boundaries of str.splitlines. */
static bool line_end(uint32_t cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

ew_status ew__split_lines(ew__run *r, ew__str s, ew__list *out)
{
    size_t begin = 0;
    EW_TRY(ew__charge(r, s.n));
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        if (line_end(cp)) {
            EW_TRY(ew__push(r, out, ew__of_str(ew__sub(s, begin, i))));
            begin = i + len;
            if (cp == '\r' && begin < s.n && s.p[begin] == '\n') {
                begin++;
                len++;
            }
        }
        i += len;
    }
    return begin < s.n ? ew__push(r, out, ew__of_str(ew__sub(s, begin, s.n))) : EW_OK;
}

ew_status ew__join(ew__run *r, ew__str sep, const ew__list *l, bool any, ew__val *ret)
{
    ew__sb b = {.r = r};
    for (size_t i = 0; i < l->n; i++) {
        ew__val v;
        if (!any && l->v[i].kind != EW__STR) {
            return ew__fail(r, EW_EINVAL, "join: item %zu is %s, not a string", i, ew__type_name(&l->v[i]));
        }
        EW_TRY(ew__str_of(r, &l->v[i], &v));
        if (i > 0) {
            ew__sb_add(&b, sep);
        }
        ew__sb_add(&b, v.u.s);
    }
    return ew__sb_done(&b, ret);
}

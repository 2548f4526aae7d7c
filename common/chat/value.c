/* Memory of a rendering, strings with their marks, lists, dicts, and Python's rules for truth, equality, order and
 * containment. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "chat/chat_int.h"
#include "text/utf8.h"

#define CHUNK_BYTES ((size_t)16 * 1024)
#define BYTES_PER_STEP 64u

const uint8_t ew__all_content[1] = {1};

/* ---- region ---- */

struct ew__chunk {
    ew__chunk *next;
    size_t bytes; /* with this head */
};

void *ew__region_take(ew__region *g, size_t n, size_t size)
{
    size_t bytes;
    if (!ew_size_mul(n, size, &bytes) || bytes > SIZE_MAX / 4) {
        return NULL;
    }
    bytes = EW_ALIGN_UP(bytes, 16);
    if (bytes > g->left) {
        /* Chunks grow with what is used, so that their number stays small. */
        size_t head = EW_ALIGN_UP(sizeof(ew__chunk), 16);
        size_t want = head + EW_MAX(bytes, EW_MAX(CHUNK_BYTES, g->total / 4));
        want = want > g->max - g->total ? head + bytes : want;
        if (want > g->max - g->total) {
            return NULL;
        }
        ew__chunk *c = ew_malloc(want, 1);
        if (c == NULL) {
            return NULL;
        }
        c->next = g->chunks;
        c->bytes = want;
        g->chunks = c;
        g->total += want;
        g->at = (char *)c + head;
        g->left = want - head;
    }
    void *p = g->at;
    g->at += bytes;
    g->left -= bytes;
    return p;
}

void ew__region_release(ew__region *g)
{
    while (g->chunks != NULL) {
        ew__chunk *c = g->chunks;
        g->chunks = c->next;
        ew_free(c);
    }
    *g = (ew__region){.max = g->max};
}

/* ---- the rendering's budget ---- */

ew_status ew__fail(ew__run *r, ew_status code, const char *fmt, ...)
{
    char what[EW_ERROR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (r->at == NULL) {
        return ew_fail(r->err, code, "chat template: %s", what);
    }
    return ew_fail(r->err, code, "chat template line %u column %u: %s", r->at->line, r->at->col, what);
}

ew_status ew__charge(ew__run *r, size_t bytes)
{
    uint64_t cost = 1 + bytes / BYTES_PER_STEP;
    if (cost > r->max_steps - r->steps) {
        return ew__fail(r, EW_ELIMIT, "the template needs more than %llu steps for this conversation",
                        (unsigned long long)r->max_steps);
    }
    r->steps += cost;
    return EW_OK;
}

ew_status ew__enter(ew__run *r)
{
    if (r->depth >= EW_LIMIT_CHAT_DEPTH) {
        return ew__fail(r, EW_ELIMIT, "nested deeper than %u", EW_LIMIT_CHAT_DEPTH);
    }
    r->depth++;
    return EW_OK;
}

void ew__leave(ew__run *r)
{
    EW_DASSERT(r->depth > 0);
    r->depth--;
}

ew_status ew__take(ew__run *r, size_t n, size_t size, void **ret)
{
    void *p = ew__region_take(&r->mem, n, size);
    if (p == NULL) {
        return ew__fail(r, EW_ELIMIT, "rendering needs more than %zu MiB of memory", r->mem.max >> 20);
    }
    *ret = p;
    return EW_OK;
}

/* ---- strings ---- */

static const uint8_t *mask_from(const uint8_t *mask, size_t i)
{
    return mask == NULL || mask == ew__all_content ? mask : mask + i;
}

ew__str ew__sub(ew__str s, size_t begin, size_t end)
{
    return (ew__str){s.p + begin, mask_from(s.mask, begin), end > begin ? end - begin : 0};
}

bool ew__content_at(ew__str s, size_t i)
{
    return s.mask != NULL && (s.mask == ew__all_content || (i < s.n && s.mask[i] != 0));
}

bool ew__content_any(ew__str s)
{
    return s.mask != NULL && (s.mask == ew__all_content || memchr(s.mask, 1, s.n) != NULL);
}

ew__val ew__text_n(const char *s, size_t n)
{
    return (ew__val){.kind = EW__STR, .u.s = {s, NULL, n}};
}

ew__val ew__text(const char *s)
{
    return ew__text_n(s, strlen(s));
}

ew__val ew__of_str(ew__str s)
{
    return (ew__val){.kind = EW__STR, .u.s = s};
}

size_t ew__chars(ew__str s)
{
    return ew_utf8_count(s.p, s.n);
}

size_t ew__char_offset(ew__str s, size_t i)
{
    size_t at = 0;
    for (; at < s.n && i > 0; i--) {
        uint32_t cp;
        at += ew_utf8_next(s.p + at, s.n - at, &cp);
    }
    return at;
}

bool ew__is(ew__str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* str.isspace */
bool ew__py_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

size_t ew__find(ew__str s, ew__str needle, size_t from)
{
    if (needle.n == 0) {
        return from <= s.n ? from : SIZE_MAX;
    }
    /* memmem is linear, which hostile needles need. */
    const char *p = from < s.n ? memmem(s.p + from, s.n - from, needle.p, needle.n) : NULL;
    return p != NULL ? (size_t)(p - s.p) : SIZE_MAX;
}

static bool sb_reserve(ew__sb *b, size_t n)
{
    if (b->st != EW_OK) {
        return false;
    }
    if (n > b->cap - b->n) {
        size_t cap = EW_MAX(EW_MAX(b->cap * 2, b->n + n), 48u);
        void *p = NULL;
        void *m = NULL;
        b->st = cap < n ? ew__fail(b->r, EW_ELIMIT, "a string is too long") : ew__take(b->r, cap, 1, &p);
        if (b->st == EW_OK && b->mask != NULL) {
            b->st = ew__take(b->r, cap, 1, &m);
        }
        if (b->st != EW_OK) {
            return false;
        }
        if (b->n > 0) {
            memcpy(p, b->p, b->n);
        }
        if (m != NULL) {
            memcpy(m, b->mask, b->n);
            b->mask = m;
        }
        b->p = p;
        b->cap = cap;
    }
    return true;
}

static bool sb_mark(ew__sb *b)
{
    void *m = NULL;
    if (b->mask == NULL) {
        b->st = ew__take(b->r, b->cap, 1, &m);
        if (b->st != EW_OK) {
            return false;
        }
        memset(m, 0, b->n);
        b->mask = m;
    }
    return true;
}

void ew__sb_add(ew__sb *b, ew__str s)
{
    if (s.n == 0 || !sb_reserve(b, s.n)) {
        return;
    }
    b->st = ew__charge(b->r, s.n);
    if (b->st != EW_OK || (s.mask != NULL && !sb_mark(b))) {
        return;
    }
    memcpy(b->p + b->n, s.p, s.n);
    if (s.mask == ew__all_content) {
        memset(b->mask + b->n, 1, s.n);
    } else if (s.mask != NULL) {
        memcpy(b->mask + b->n, s.mask, s.n);
    } else if (b->mask != NULL) {
        memset(b->mask + b->n, 0, s.n);
    }
    b->n += s.n;
}

void ew__sb_text(ew__sb *b, const char *s, bool content)
{
    ew__sb_add(b, (ew__str){s, content ? ew__all_content : NULL, strlen(s)});
}

void ew__sb_cp(ew__sb *b, uint32_t cp, bool content)
{
    char text[EW_UTF8_MAX];
    size_t n = ew_utf8_encode(cp, text);
    ew__sb_add(b, (ew__str){text, content ? ew__all_content : NULL, n});
}

void ew__sb_begin(ew__sb *b, ew__str s)
{
    for (size_t i = 0; i < EW__TAILS && s.n > 0; i++) {
        ew__tail *t = &b->r->tail[i];
        if (t->p == s.p && t->n == s.n) {
            b->p = t->p;
            b->mask = t->mask;
            b->n = t->n;
            b->cap = t->cap;
            *t = (ew__tail){0}; /* the room is this builder's now */
            b->st = ew__charge(b->r, 0);
            return;
        }
    }
    ew__sb_add(b, s);
}

/* The shortest of the tails makes place. */
static void keep_tail(ew__sb *b)
{
    ew__tail *least = &b->r->tail[0];
    for (size_t i = 1; i < EW__TAILS; i++) {
        least = b->r->tail[i].n < least->n ? &b->r->tail[i] : least;
    }
    if (b->n > least->n) {
        *least = (ew__tail){b->p, b->mask, b->n, b->cap};
    }
}

ew_status ew__sb_done(ew__sb *b, ew__val *ret)
{
    if (b->st == EW_OK) {
        keep_tail(b);
        *ret = ew__of_str((ew__str){b->p != NULL ? b->p : "", b->mask, b->n});
    }
    return b->st;
}

/* ---- values ---- */

ew__val ew__undefined(ew__str name)
{
    return (ew__val){.kind = EW__UNDEFINED, .u.s = name};
}

ew__val ew__none(void)
{
    return (ew__val){.kind = EW__NONE_VALUE};
}

ew__val ew__bool(bool b)
{
    return (ew__val){.kind = EW__BOOL, .u.b = b};
}

ew__val ew__int(int64_t i)
{
    return (ew__val){.kind = EW__INT, .u.i = i};
}

ew__val ew__float(double f)
{
    return (ew__val){.kind = EW__FLOAT, .u.f = f};
}

ew_status ew__new_list(ew__run *r, ew__list_kind kind, size_t cap, ew__val *ret)
{
    void *p = NULL;
    void *v = NULL;
    EW_TRY(ew__take(r, 1, sizeof(ew__list), &p));
    EW_TRY(ew__take(r, EW_MAX(cap, 4u), sizeof(ew__val), &v));
    ew__list *l = p;
    *l = (ew__list){.kind = kind, .cap = EW_MAX(cap, 4u), .v = v};
    *ret = (ew__val){.kind = EW__LIST, .u.list = l};
    return EW_OK;
}

ew_status ew__push(ew__run *r, ew__list *l, ew__val v)
{
    EW_TRY(ew__charge(r, 0));
    if (l->n == l->cap) {
        void *p = NULL;
        EW_TRY(ew__take(r, l->cap * 2, sizeof(ew__val), &p));
        memcpy(p, l->v, l->n * sizeof(ew__val));
        l->v = p;
        l->cap *= 2;
    }
    l->v[l->n++] = v;
    return EW_OK;
}

ew_status ew__new_dict(ew__run *r, ew__kind kind, ew__val *ret)
{
    void *p = NULL;
    EW_TRY(ew__take(r, 1, sizeof(ew__dict), &p));
    *(ew__dict *)p = (ew__dict){0};
    *ret = (ew__val){.kind = kind, .u.dict = p};
    return EW_OK;
}

static bool hashable(const ew__val *v)
{
    if (v->kind == EW__LIST && v->u.list->kind == EW__LIST_TUPLE) {
        for (size_t i = 0; i < v->u.list->n; i++) {
            if (v->u.list->v[i].kind == EW__LIST || v->u.list->v[i].kind == EW__DICT) {
                return false; /* a tuple in a tuple would do, but nobody has that */
            }
        }
        return true;
    }
    return v->kind != EW__LIST && v->kind != EW__DICT;
}

ew_status ew__dict_find(ew__run *r, const ew__dict *d, ew__val key, ew__val **ret)
{
    *ret = NULL;
    if (key.kind == EW__UNDEFINED) {
        return EW_OK; /* nothing is stored under it */
    }
    for (size_t i = 0; i < d->n; i++) {
        const ew__val *k = &d->e[i].k;
        bool same = false;
        EW_TRY(ew__charge(r, 0));
        if (k->kind == EW__STR && key.kind == EW__STR) {
            same = k->u.s.n == key.u.s.n && memcmp(k->u.s.p, key.u.s.p, key.u.s.n) == 0;
        } else {
            EW_TRY(ew__equal(r, k, &key, &same));
        }
        if (same) {
            *ret = &d->e[i].v;
            return EW_OK;
        }
    }
    return EW_OK;
}

ew_status ew__dict_put(ew__run *r, ew__dict *d, ew__val key, ew__val v)
{
    ew__val *old = NULL;
    if (!hashable(&key) || key.kind == EW__UNDEFINED) {
        return ew__fail(r, EW_EINVAL, "a key of type %s", ew__type_name(&key));
    }
    EW_TRY(ew__dict_find(r, d, key, &old));
    if (old != NULL) {
        *old = v;
        return EW_OK;
    }
    if (d->n == d->cap) {
        size_t cap = EW_MAX(d->cap * 2, 4u);
        void *p = NULL;
        EW_TRY(ew__take(r, cap, sizeof(ew__pair), &p));
        if (d->n > 0) {
            memcpy(p, d->e, d->n * sizeof(ew__pair));
        }
        d->e = p;
        d->cap = cap;
    }
    d->e[d->n++] = (ew__pair){key, v};
    return EW_OK;
}

const char *ew__type_name(const ew__val *v)
{
    static const char *const names[] = {[EW__ABSENT] = "missing",
                                        [EW__UNDEFINED] = "undefined",
                                        [EW__NONE_VALUE] = "NoneType",
                                        [EW__BOOL] = "bool",
                                        [EW__INT] = "int",
                                        [EW__FLOAT] = "float",
                                        [EW__STR] = "str",
                                        [EW__LIST] = "list",
                                        [EW__DICT] = "dict",
                                        [EW__NAMESPACE] = "Namespace",
                                        [EW__FUNCTION] = "function",
                                        [EW__METHOD] = "method",
                                        [EW__MACRO] = "Macro",
                                        [EW__LOOP] = "LoopContext"};
    static const char *const lists[] = {[EW__LIST_LIST] = "list",
                                        [EW__LIST_TUPLE] = "tuple",
                                        [EW__LIST_RANGE] = "range",
                                        [EW__LIST_VIEW] = "dict view",
                                        [EW__LIST_GENERATOR] = "generator"};
    return v->kind == EW__LIST ? lists[v->u.list->kind] : names[v->kind];
}

bool ew__truth(const ew__val *v)
{
    switch (v->kind) {
    case EW__ABSENT:
    case EW__UNDEFINED:
    case EW__NONE_VALUE:
        return false;
    case EW__BOOL:
        return v->u.b;
    case EW__INT:
        return v->u.i != 0;
    case EW__FLOAT:
        return v->u.f != 0;
    case EW__STR:
        return v->u.s.n > 0;
    case EW__LIST:
        return v->u.list->n > 0 || v->u.list->kind == EW__LIST_GENERATOR;
    case EW__DICT:
        return v->u.dict->n > 0;
    default:
        return true;
    }
}

bool ew__is_number(const ew__val *v)
{
    return v->kind == EW__BOOL || v->kind == EW__INT || v->kind == EW__FLOAT;
}

double ew__as_float(const ew__val *v)
{
    return v->kind == EW__FLOAT ? v->u.f : v->kind == EW__INT ? (double)v->u.i : v->u.b ? 1 : 0;
}

bool ew__as_int(const ew__val *v, int64_t *ret)
{
    if (v->kind == EW__BOOL) {
        *ret = v->u.b;
        return true;
    }
    if (v->kind == EW__INT) {
        *ret = v->u.i;
        return true;
    }
    return false;
}

/* -1, 0, 1; 2 when one is not a number. */
static int number_order(const ew__val *a, const ew__val *b)
{
    int64_t x;
    int64_t y;
    if (ew__as_int(a, &x) && ew__as_int(b, &y)) {
        return (x > y) - (x < y);
    }
    /* Exact also where a double cannot hold the integer. */
    long double p = ew__as_int(a, &x) ? (long double)x : (long double)a->u.f;
    long double q = ew__as_int(b, &y) ? (long double)y : (long double)b->u.f;
    return isnan(p) || isnan(q) ? 2 : (p > q) - (p < q);
}

static ew_status equal_lists(ew__run *r, const ew__list *a, const ew__list *b, bool *ret)
{
    *ret = a == b;
    bool sequence = a->kind == EW__LIST_LIST || a->kind == EW__LIST_TUPLE || a->kind == EW__LIST_RANGE;
    if (a == b || a->kind != b->kind || !sequence || a->n != b->n) {
        return EW_OK;
    }
    for (size_t i = 0; i < a->n; i++) {
        EW_TRY(ew__equal(r, &a->v[i], &b->v[i], ret));
        if (!*ret) {
            return EW_OK;
        }
    }
    *ret = true;
    return EW_OK;
}

static ew_status equal_dicts(ew__run *r, const ew__dict *a, const ew__dict *b, bool *ret)
{
    *ret = a->n == b->n;
    for (size_t i = 0; i < a->n && *ret; i++) {
        ew__val *other = NULL;
        EW_TRY(ew__dict_find(r, b, a->e[i].k, &other));
        *ret = false;
        if (other != NULL) {
            EW_TRY(ew__equal(r, &a->e[i].v, other, ret));
        }
    }
    return EW_OK;
}

ew_status ew__equal(ew__run *r, const ew__val *a, const ew__val *b, bool *ret)
{
    ew_status st = EW_OK;
    EW_TRY(ew__charge(r, a->kind == EW__STR ? a->u.s.n : 0));
    *ret = false;
    if (ew__is_number(a) && ew__is_number(b)) {
        *ret = number_order(a, b) == 0;
        return EW_OK;
    }
    if (a->kind != b->kind) {
        return EW_OK;
    }
    switch (a->kind) {
    case EW__STR:
        *ret = a->u.s.n == b->u.s.n && memcmp(a->u.s.p, b->u.s.p, a->u.s.n) == 0;
        return EW_OK;
    case EW__LIST:
        EW_TRY(ew__enter(r));
        st = equal_lists(r, a->u.list, b->u.list, ret);
        ew__leave(r);
        return st;
    case EW__DICT:
        EW_TRY(ew__enter(r));
        st = equal_dicts(r, a->u.dict, b->u.dict, ret);
        ew__leave(r);
        return st;
    case EW__FUNCTION:
        *ret = a->u.i == b->u.i;
        return EW_OK;
    case EW__NAMESPACE:
        *ret = a->u.dict == b->u.dict;
        return EW_OK;
    case EW__MACRO:
        *ret = a->u.macro == b->u.macro;
        return EW_OK;
    case EW__LOOP:
        *ret = a->u.loop == b->u.loop;
        return EW_OK;
    case EW__METHOD:
        return ew__fail(r, EW_EUNSUPPORTED, "comparing methods");
    default:
        *ret = true; /* none, undefined */
        return EW_OK;
    }
}

static ew_status order_lists(ew__run *r, const ew__list *a, const ew__list *b, int *ret)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same = false;
        EW_TRY(ew__equal(r, &a->v[i], &b->v[i], &same));
        if (!same) {
            return ew__order(r, &a->v[i], &b->v[i], ret);
        }
    }
    *ret = (a->n > b->n) - (a->n < b->n);
    return EW_OK;
}

ew_status ew__order(ew__run *r, const ew__val *a, const ew__val *b, int *ret)
{
    if (ew__is_number(a) && ew__is_number(b)) {
        int order = number_order(a, b);
        if (order == 2) {
            return ew__fail(r, EW_EUNSUPPORTED, "ordering of 'not a number'");
        }
        *ret = order;
        return EW_OK;
    }
    if (a->kind == EW__STR && b->kind == EW__STR) {
        EW_TRY(ew__charge(r, EW_MIN(a->u.s.n, b->u.s.n)));
        int order = memcmp(a->u.s.p, b->u.s.p, EW_MIN(a->u.s.n, b->u.s.n));
        *ret = order != 0 ? order : (a->u.s.n > b->u.s.n) - (a->u.s.n < b->u.s.n);
        return EW_OK;
    }
    if (a->kind == EW__LIST && b->kind == EW__LIST && a->u.list->kind == b->u.list->kind &&
        a->u.list->kind <= EW__LIST_TUPLE) {
        EW_TRY(ew__enter(r));
        ew_status st = order_lists(r, a->u.list, b->u.list, ret);
        ew__leave(r);
        return st;
    }
    return ew__fail(r, EW_EINVAL, "%s and %s have no order", ew__type_name(a), ew__type_name(b));
}

ew_status ew__contains(ew__run *r, const ew__val *in, const ew__val *x, bool *ret)
{
    ew__list *l = NULL;
    *ret = false;
    if (in->kind == EW__STR) {
        if (x->kind != EW__STR) {
            return ew__fail(r, EW_EINVAL, "'in' a string needs a string, not %s", ew__type_name(x));
        }
        EW_TRY(ew__charge(r, in->u.s.n));
        *ret = ew__find(in->u.s, x->u.s, 0) != SIZE_MAX;
        return EW_OK;
    }
    if (in->kind == EW__DICT) {
        ew__val *v = NULL;
        if (!hashable(x)) {
            return ew__fail(r, EW_EINVAL, "a key of type %s", ew__type_name(x));
        }
        EW_TRY(ew__dict_find(r, in->u.dict, *x, &v));
        *ret = v != NULL;
        return EW_OK;
    }
    EW_TRY(ew__iterate(r, in, &l));
    for (size_t i = 0; i < l->n && !*ret; i++) {
        EW_TRY(ew__equal(r, &l->v[i], x, ret));
    }
    return EW_OK;
}

static ew_status chars_of(ew__run *r, ew__str s, ew__list *l)
{
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t len = ew_utf8_next(s.p + i, s.n - i, &cp);
        EW_TRY(ew__push(r, l, ew__of_str(ew__sub(s, i, i + len))));
        i += len;
    }
    return EW_OK;
}

ew_status ew__iterate(ew__run *r, const ew__val *v, ew__list **ret)
{
    ew__val made;
    if (v->kind == EW__LIST && v->u.list->kind != EW__LIST_GENERATOR) {
        *ret = v->u.list;
        return EW_OK;
    }
    if (v->kind != EW__LIST && v->kind != EW__STR && v->kind != EW__DICT && v->kind != EW__UNDEFINED) {
        if (v->kind == EW__LOOP) {
            return ew__fail(r, EW_EUNSUPPORTED, "iterating over 'loop'");
        }
        return ew__fail(r, EW_EINVAL, "a value of type %s cannot be iterated over", ew__type_name(v));
    }
    EW_TRY(ew__new_list(r, EW__LIST_LIST, 4, &made));
    if (v->kind == EW__STR) {
        EW_TRY(chars_of(r, v->u.s, made.u.list));
    } else if (v->kind == EW__DICT) {
        for (size_t i = 0; i < v->u.dict->n; i++) {
            EW_TRY(ew__push(r, made.u.list, v->u.dict->e[i].k));
        }
    } else if (v->kind == EW__LIST) {
        ew__list *g = v->u.list;
        for (; g->gone < g->n; g->gone++) {
            EW_TRY(ew__push(r, made.u.list, g->v[g->gone]));
        }
    }
    *ret = made.u.list;
    return EW_OK;
}

ew_status ew__length(ew__run *r, const ew__val *v, size_t *ret)
{
    if (v->kind == EW__STR) {
        EW_TRY(ew__charge(r, v->u.s.n));
        *ret = ew__chars(v->u.s);
    } else if (v->kind == EW__LIST && v->u.list->kind != EW__LIST_GENERATOR) {
        *ret = v->u.list->n;
    } else if (v->kind == EW__DICT) {
        *ret = v->u.dict->n;
    } else if (v->kind == EW__UNDEFINED) {
        *ret = 0;
    } else {
        return ew__fail(r, EW_EINVAL, "a value of type %s has no length", ew__type_name(v));
    }
    return EW_OK;
}

/* ---- from JSON ---- */

static ew_status copy_string(ew__run *r, const char *s, size_t n, bool content, ew__val *ret)
{
    (void)r;
    *ret = ew__of_str((ew__str){s, content ? ew__all_content : NULL, n});
    return EW_OK;
}

/* Values are borrowed from the JSON, which lives longer. message: this object's "role" is the template's text. */
ew_status ew__from_json(ew__run *r, const json_t *j, bool message, ew__val *ret)
{
    ew_status st = EW_OK;
    EW_TRY(ew__charge(r, 0));
    switch (json_typeof(j)) {
    case JSON_NULL:
        *ret = ew__none();
        return EW_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *ret = ew__bool(json_is_true(j));
        return EW_OK;
    case JSON_INTEGER:
        *ret = ew__int(json_integer_value(j));
        return EW_OK;
    case JSON_REAL:
        *ret = ew__float(json_real_value(j));
        return EW_OK;
    case JSON_STRING:
        return copy_string(r, json_string_value(j), json_string_length(j), true, ret);
    case JSON_ARRAY:
        EW_TRY(ew__enter(r));
        st = ew__new_list(r, EW__LIST_LIST, json_array_size(j), ret);
        for (size_t i = 0; i < json_array_size(j) && st == EW_OK; i++) {
            ew__val v;
            st = ew__from_json(r, json_array_get(j, i), false, &v);
            st = st == EW_OK ? ew__push(r, ret->u.list, v) : st;
        }
        ew__leave(r);
        return st;
    case JSON_OBJECT:
        break;
    }
    EW_TRY(ew__enter(r));
    st = ew__new_dict(r, EW__DICT, ret);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)j, key, value)
    {
        ew__val k;
        ew__val v;
        bool role = message && strcmp(key, "role") == 0;
        st = st == EW_OK ? copy_string(r, key, strlen(key), true, &k) : st;
        st = st == EW_OK ? ew__from_json(r, value, false, &v) : st;
        if (st == EW_OK && role && v.kind == EW__STR) {
            v.u.s.mask = NULL;
        }
        st = st == EW_OK ? ew__dict_put(r, ret->u.dict, k, v) : st;
    }
    ew__leave(r);
    return st;
}

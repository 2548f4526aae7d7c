/* Reads the tables of tables.c in both directions, checking every limit. */
#include "wire/wire_int.h"

#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"

/* ---- pool */

struct ew__pool_block {
    struct ew__pool_block *next;
    _Alignas(16) char data[];
};
#define BLOCK_BYTES (16u * 1024)

void ew__pool_release(ew__pool *p)
{
    while (p->head != NULL) {
        struct ew__pool_block *next = p->head->next;
        ew_free(p->head);
        p->head = next;
    }
}

void *ew__pool_take(ew__pool *p, size_t size)
{
    size = EW_ALIGN_UP(size, 16);
    char *at;
    if (p->head == NULL && size <= sizeof(p->first) - p->used) {
        at = p->first + p->used;
    } else if (p->head != NULL && size <= p->cap - p->used) {
        at = p->head->data + p->used;
    } else {
        size_t cap = EW_MAX(size, BLOCK_BYTES);
        struct ew__pool_block *b = ew_malloc(1, sizeof(*b) + cap);
        if (b == NULL) {
            return NULL;
        }
        b->next = p->head;
        p->head = b;
        p->cap = cap;
        p->used = 0;
        at = b->data;
    }
    p->used += size;
    memset(at, 0, size);
    return at;
}

static ew_status no_memory(const ew__table *t, ew_error *reterr)
{
    return ew_fail(reterr, EW_ENOMEM, "message %s: out of memory", t->name);
}

static void *unconst(const void *p)
{
    void *q;
    memcpy(&q, &p, sizeof(q));
    return q;
}

/* ---- text */

/* The bytes of the sequence that starts with s[0], 0 when no valid one does: overlong forms, surrogates and what is above U+10FFFF
 * are none (what is stored here goes out as JSON, which refuses them). *ret_cut: it is right as far as n bytes go. */
static size_t utf8_sequence(const unsigned char *s, size_t n, bool *ret_cut)
{
    unsigned char c = s[0];
    *ret_cut = false;
    if (c < 0x80) {
        return 1;
    }
    size_t size = c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (size_t k = 1; k < size && k < n; k++) {
        if (s[k] < low || s[k] > high) {
            return 0;
        }
        low = 0x80;
        high = 0xBF;
    }
    *ret_cut = size > n;
    return EW_MIN(size, n);
}

/* Valid UTF-8 without control characters other than tab and newline. A sequence cut off at the end passes: details are
 * truncated to a number of bytes. *ret_whole is the length without it. */
static bool text_ok(const char *s, size_t n, size_t *ret_whole)
{
    *ret_whole = n;
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        bool cut;
        size_t size = utf8_sequence((const unsigned char *)s + i, n - i, &cut);
        if (size == 0 || (c < 0x20 && c != '\t' && c != '\n') || c == 0x7F) {
            return false;
        }
        *ret_whole = cut ? i : n;
        i += size;
    }
    return true;
}

static ew_status text_check(const ew__table *t, const ew__field *f, const char *s, size_t n, size_t *ret_whole,
                            ew_error *reterr)
{
    if (n >= f->size) {
        return ew_fail(reterr, EW_EINVAL, "message %s: %s has %zu bytes, at most %zu are allowed", t->name, f->name, n,
                       f->size - 1);
    }
    if (!text_ok(s, n, ret_whole)) {
        return ew_fail(reterr, EW_EINVAL, "message %s: %s is not clean UTF-8 text", t->name, f->name);
    }
    return EW_OK;
}

/* ---- what is beyond single fields */

ew_status ew__check_tensor(const void *c, ew_span body, ew_error *reterr)
{
    const ew_wire_tensor *t = c;
    size_t bytes = ew_act_dtype_bytes(t->dtype);
    if (bytes == 0 || t->rank == 0) {
        return ew_fail(reterr, EW_EINVAL, "tensor without a known type or without a shape");
    }
    for (uint32_t i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0 || !ew_size_mul(bytes, t->shape[i], &bytes)) {
            return ew_fail(reterr, EW_EINVAL, "tensor: dimension %u is 0 or the size overflows", i);
        }
    }
    size_t end;
    size_t scale_bytes;
    size_t scale_end;
    if (bytes != t->length) {
        return ew_fail(reterr, EW_EINVAL, "tensor: shape and type make %zu bytes, length says %llu", bytes,
                       (unsigned long long)t->length);
    }
    if (!ew_size_add(t->offset, t->length, &end) || !ew_size_mul(t->n_scales, sizeof(float), &scale_bytes) ||
        !ew_size_add(t->scales_offset, scale_bytes, &scale_end)) {
        return ew_fail(reterr, EW_EINVAL, "tensor: offsets overflow");
    }
    if (body.data == NULL && body.size == 0) {
        return EW_OK;
    }
    if (end > body.size || scale_end > body.size) {
        return ew_fail(reterr, EW_EINVAL, "tensor: bytes to %zu and scales to %zu lie outside the body of %zu", end,
                       scale_end, body.size);
    }
    for (size_t i = 0; i < t->n_scales; i++) {
        float s;
        memcpy(&s, (const char *)body.data + t->scales_offset + i * sizeof(s), sizeof(s));
        if (!isfinite(s)) {
            return ew_fail(reterr, EW_EINVAL, "tensor: scale %zu is not finite", i);
        }
    }
    return EW_OK;
}

/* ---- C to protobuf */

typedef struct builder {
    const ew__table *t;
    ew__pool *pool;
    ew_error *err;
} builder;

static ew_status out_of(const builder *b, const ew__field *f, const char *what)
{
    return ew_fail(b->err, EW_EINVAL, "message %s: %s %s", b->t->name, f->name, what);
}

static ew_status build_text(const builder *b, const ew__field *f, const char *from, char **to)
{
    const char *end = memchr(from, '\0', f->size);
    if (end == NULL) {
        return out_of(b, f, "is not terminated");
    }
    size_t whole;
    EW_TRY(text_check(b->t, f, from, (size_t)(end - from), &whole, b->err));
    *to = unconst(from);
    return EW_OK;
}

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static ew_status build_settings(const builder *b, const ew__field *f, const void *c, char *pb)
{
    Edgewise__V1__Param **list = ew__pool_take(b->pool, ew_setting_count * sizeof(*list));
    Edgewise__V1__Param *items = ew__pool_take(b->pool, ew_setting_count * sizeof(*items));
    if (list == NULL || items == NULL) {
        return no_memory(b->t, b->err);
    }
    size_t n = 0;
    for (size_t i = 0; i < ew_setting_count; i++) {
        double v = ew_settings_get(c, ew_setting_table[i].name);
        if (!isfinite(v)) {
            return out_of(b, f, "has a value that is not finite");
        }
        if (v != 0) {
            edgewise__v1__param__init(&items[n]);
            items[n].name = unconst(ew_setting_table[i].name);
            items[n].d = v;
            list[n] = &items[n];
            n++;
        }
    }
    memcpy(pb + f->pb, &list, sizeof(list));
    memcpy(pb + f->pb_n, &n, sizeof(n));
    return EW_OK;
}

static ew_status build_repeated(const builder *b, const ew__field *f, const char *c, char *pb)
{
    uint32_t n;
    memcpy(&n, c + f->c_n, sizeof(n));
    if (n > f->max) {
        return out_of(b, f, "has more elements than it may");
    }
    size_t elem = f->kind == EW__REP_F64                                ? sizeof(double)
                  : f->kind == EW__REP_U32                              ? sizeof(uint32_t)
                  : f->kind == EW__REP_BYTES || f->kind == EW__REP_SPAN ? sizeof(ProtobufCBinaryData)
                                                                        : sizeof(void *);
    char *list = ew__pool_take(b->pool, n * elem + 1);
    if (list == NULL) {
        return no_memory(b->t, b->err);
    }
    for (uint32_t i = 0; i < n; i++) {
        const char *from = c + f->c + i * f->size;
        char *to = list + i * elem;
        if (f->kind == EW__REP_STR) {
            char *s;
            EW_TRY(build_text(b, f, from, &s));
            memcpy(to, &s, sizeof(s));
        } else if (f->kind == EW__REP_MSG) {
            ProtobufCMessage *m;
            EW_TRY(ew__build(f->sub, from, b->pool, &m, b->err));
            memcpy(to, &m, sizeof(m));
        } else if (f->kind == EW__REP_BYTES) {
            ProtobufCBinaryData d = {f->size, unconst(from)};
            memcpy(to, &d, sizeof(d));
        } else if (f->kind == EW__REP_SPAN) {
            ew_span s;
            memcpy(&s, from, sizeof(s));
            ProtobufCBinaryData d = {s.size, unconst(s.data)};
            memcpy(to, &d, sizeof(d));
        } else {
            memcpy(to, from, elem);
            double v = 0;
            if (f->kind == EW__REP_F64) {
                memcpy(&v, from, sizeof(v));
            }
            if (!isfinite(v)) {
                return out_of(b, f, "is not a finite number");
            }
        }
    }
    size_t count = n;
    memcpy(pb + f->pb, &list, sizeof(list));
    memcpy(pb + f->pb_n, &count, sizeof(count));
    return EW_OK;
}

static ew_status build_bytes(const builder *b, const ew__field *f, const char *c, char *pb)
{
    ProtobufCBinaryData d = {0, NULL};
    if (f->kind == EW__SPAN) {
        ew_span s;
        memcpy(&s, c + f->c, sizeof(s));
        if (s.size > f->max) {
            return out_of(b, f, "is longer than it may be");
        }
        d = (ProtobufCBinaryData){s.size, unconst(s.data)};
    } else if (f->kind == EW__BYTES || f->flag != EW__NO_FLAG || !all_zero((const unsigned char *)c + f->c, f->size)) {
        d = (ProtobufCBinaryData){f->size, unconst(c + f->c)};
    }
    memcpy(pb + f->pb, &d, sizeof(d));
    return EW_OK;
}

static ew_status build_scalar(const builder *b, const ew__field *f, const char *c, char *pb)
{
    switch (f->kind) {
    case EW__U32:
        memcpy(pb + f->pb, c + f->c, sizeof(uint32_t));
        break;
    case EW__U64:
        memcpy(pb + f->pb, c + f->c, sizeof(uint64_t));
        break;
    case EW__BOOL: {
        bool v;
        memcpy(&v, c + f->c, sizeof(v));
        protobuf_c_boolean to = v;
        memcpy(pb + f->pb, &to, sizeof(to));
        break;
    }
    case EW__F64:
    case EW__F64_NAN: {
        double v;
        memcpy(&v, c + f->c, sizeof(v));
        if (!isfinite(v) && (f->kind == EW__F64 || !isnan(v))) {
            return out_of(b, f, "is not a finite number");
        }
        memcpy(pb + f->pb, &v, sizeof(v));
        break;
    }
    case EW__STATUS: {
        ew_status v;
        memcpy(&v, c + f->c, sizeof(v));
        int to = (int)ew_code_of_status(v);
        memcpy(pb + f->pb, &to, sizeof(to));
        break;
    }
    default: { /* EW__ENUM */
        unsigned v;
        memcpy(&v, c + f->c, sizeof(v));
        if (v > f->max) {
            return out_of(b, f, "is not a known value");
        }
        memcpy(pb + f->pb, &v, sizeof(v));
    }
    }
    return EW_OK;
}

static ew_status build_field(const builder *b, const ew__field *f, const char *c, char *pb)
{
    switch (f->kind) {
    case EW__STR: {
        char *s;
        EW_TRY(build_text(b, f, c + f->c, &s));
        memcpy(pb + f->pb, &s, sizeof(s));
        return EW_OK;
    }
    case EW__BYTES:
    case EW__BYTES_OPT:
    case EW__SPAN:
        return build_bytes(b, f, c, pb);
    case EW__MSG: {
        ProtobufCMessage *m;
        EW_TRY(ew__build(f->sub, c + f->c, b->pool, &m, b->err));
        memcpy(pb + f->pb, &m, sizeof(m));
        return EW_OK;
    }
    case EW__SETTINGS:
        return build_settings(b, f, c + f->c, pb);
    case EW__REP_STR:
    case EW__REP_BYTES:
    case EW__REP_SPAN:
    case EW__REP_F64:
    case EW__REP_U32:
    case EW__REP_MSG:
        return build_repeated(b, f, c, pb);
    default:
        return build_scalar(b, f, c, pb);
    }
}

ew_status ew__build(const ew__table *t, const void *c, ew__pool *pool, ProtobufCMessage **ret, ew_error *reterr)
{
    if (t->check != NULL) {
        EW_TRY(t->check(c, (ew_span){NULL, 0}, reterr));
    }
    ProtobufCMessage *pb = ew__pool_take(pool, t->desc->sizeof_message);
    if (pb == NULL) {
        return no_memory(t, reterr);
    }
    t->desc->message_init(pb);
    builder b = {t, pool, reterr};
    for (size_t i = 0; i < t->n_fields; i++) {
        const ew__field *f = &t->fields[i];
        bool present = true;
        if (f->flag != EW__NO_FLAG) {
            memcpy(&present, (const char *)c + f->flag, sizeof(present));
        }
        if (present) {
            EW_TRY(build_field(&b, f, c, (char *)pb));
        }
    }
    *ret = pb;
    return EW_OK;
}

/* ---- protobuf to C */

typedef struct reading {
    ew__reader *r;
    const ew__table *t;
    ew_error *err;
} reading;

static ew_status bad(const reading *g, const ew__field *f, const char *what)
{
    return ew_fail(g->err, EW_EINVAL, "message %s: %s %s", g->t->name, f->name, what);
}

static ew_status read_text(const reading *g, const ew__field *f, const char *from, char *to)
{
    size_t n = from != NULL ? strlen(from) : 0;
    EW_TRY(text_check(g->t, f, from, n, &n, g->err)); /* without a sequence that was cut off */
    if (n > 0) {
        memcpy(to, from, n);
    }
    to[n] = '\0';
    return EW_OK;
}

static ew_status read_span(const reading *g, const ew__field *f, const ProtobufCBinaryData *d, size_t max, char *to)
{
    if (d->len > max) {
        return bad(g, f, "is longer than it may be");
    }
    ew__reader *r = g->r;
    if (r->owned == NULL) {
        r->owned = ew_malloc(1, r->owned_cap);
        if (r->owned == NULL) {
            return no_memory(g->t, g->err);
        }
    }
    EW_ASSERT(d->len <= r->owned_cap - r->owned_used);
    ew_span s = {r->owned + r->owned_used, d->len};
    if (d->len > 0) {
        memcpy(r->owned + r->owned_used, d->data, d->len);
    }
    r->owned_used += d->len;
    memcpy(to, &s, sizeof(s));
    return EW_OK;
}

static ew_status read_bytes(const reading *g, const ew__field *f, const char *pb, char *c)
{
    ProtobufCBinaryData d;
    memcpy(&d, pb + f->pb, sizeof(d));
    if (f->kind == EW__SPAN) {
        return read_span(g, f, &d, f->max, c + f->c);
    }
    if (d.len == 0 && f->kind == EW__BYTES_OPT) {
        return EW_OK;
    }
    if (d.len != f->size) {
        return ew_fail(g->err, EW_EINVAL, "message %s: %s has %zu bytes, %zu are needed", g->t->name, f->name, d.len,
                       f->size);
    }
    memcpy(c + f->c, d.data, d.len);
    if (f->flag != EW__NO_FLAG) {
        const bool present = true;
        memcpy(c + f->flag, &present, sizeof(present));
    }
    return EW_OK;
}

static ew_status read_settings(const reading *g, const ew__field *f, const char *pb, char *c)
{
    size_t n;
    Edgewise__V1__Param **list;
    memcpy(&n, pb + f->pb_n, sizeof(n));
    memcpy(&list, pb + f->pb, sizeof(list));
    if (n > f->max) {
        return bad(g, f, "has more elements than it may");
    }
    ew_settings s;
    memset(&s, 0, sizeof(s));
    for (size_t i = 0; i < n; i++) {
        size_t whole;
        if (!text_ok(list[i]->name, strlen(list[i]->name), &whole)) {
            return bad(g, f, "has a name that is not text");
        }
        ew_status st = ew_settings_set(&s, list[i]->name, list[i]->d, g->err);
        if (st != EW_OK) {
            return st == EW_ENOENT ? bad(g, f, "has a name that is not known here") : EW_EINVAL;
        }
    }
    memcpy(c + f->c, &s, sizeof(s));
    return EW_OK;
}

static ew_status read_element(const reading *g, const ew__field *f, const char *list, size_t i, char *to)
{
    if (f->kind == EW__REP_STR) {
        char *s;
        memcpy(&s, list + i * sizeof(s), sizeof(s));
        return read_text(g, f, s, to);
    }
    if (f->kind == EW__REP_MSG) {
        ProtobufCMessage *m;
        memcpy(&m, list + i * sizeof(m), sizeof(m));
        return ew__read(g->r, f->sub, m, to, g->err);
    }
    if (f->kind == EW__REP_F64) {
        double v;
        memcpy(&v, list + i * sizeof(v), sizeof(v));
        memcpy(to, &v, sizeof(v));
        return isfinite(v) ? EW_OK : bad(g, f, "is not a finite number");
    }
    if (f->kind == EW__REP_U32) {
        memcpy(to, list + i * sizeof(uint32_t), sizeof(uint32_t));
        return EW_OK;
    }
    ProtobufCBinaryData d;
    memcpy(&d, list + i * sizeof(d), sizeof(d));
    if (f->kind == EW__REP_SPAN) {
        return read_span(g, f, &d, EW_LIMIT_ENVELOPE_BYTES, to);
    }
    if (d.len != f->size) {
        return bad(g, f, "has an element of a wrong length");
    }
    memcpy(to, d.data, d.len);
    return EW_OK;
}

static ew_status read_repeated(const reading *g, const ew__field *f, const char *pb, char *c)
{
    size_t n;
    const char *list;
    memcpy(&n, pb + f->pb_n, sizeof(n));
    memcpy(&list, pb + f->pb, sizeof(list));
    if (n > f->max) {
        return ew_fail(g->err, EW_EINVAL, "message %s: %s has %zu elements, at most %zu are allowed", g->t->name,
                       f->name, n, f->max);
    }
    for (size_t i = 0; i < n; i++) {
        EW_TRY(read_element(g, f, list, i, c + f->c + i * f->size));
    }
    uint32_t count = (uint32_t)n;
    memcpy(c + f->c_n, &count, sizeof(count));
    return EW_OK;
}

static ew_status read_scalar(const reading *g, const ew__field *f, const char *pb, char *c)
{
    switch (f->kind) {
    case EW__U32:
        memcpy(c + f->c, pb + f->pb, sizeof(uint32_t));
        break;
    case EW__U64:
        memcpy(c + f->c, pb + f->pb, sizeof(uint64_t));
        break;
    case EW__BOOL: {
        protobuf_c_boolean from;
        memcpy(&from, pb + f->pb, sizeof(from));
        bool v = from != 0;
        memcpy(c + f->c, &v, sizeof(v));
        break;
    }
    case EW__F64:
    case EW__F64_NAN: {
        double v;
        memcpy(&v, pb + f->pb, sizeof(v));
        if (!isfinite(v) && (f->kind == EW__F64 || !isnan(v))) {
            return bad(g, f, "is not a finite number");
        }
        memcpy(c + f->c, &v, sizeof(v));
        break;
    }
    case EW__STATUS: {
        int from;
        memcpy(&from, pb + f->pb, sizeof(from));
        ew_status v = ew_code_to_status((ew_code)from);
        memcpy(c + f->c, &v, sizeof(v));
        break;
    }
    default: { /* EW__ENUM */
        unsigned v;
        memcpy(&v, pb + f->pb, sizeof(v));
        v = v > f->max ? 0 : v;
        memcpy(c + f->c, &v, sizeof(v));
    }
    }
    return EW_OK;
}

static ew_status read_message(const reading *g, const ew__field *f, const char *pb, char *c)
{
    ProtobufCMessage *m;
    memcpy(&m, pb + f->pb, sizeof(m));
    if (m == NULL) {
        return f->flag != EW__NO_FLAG ? EW_OK : bad(g, f, "is missing");
    }
    EW_TRY(ew__read(g->r, f->sub, m, c + f->c, g->err));
    if (f->flag != EW__NO_FLAG) {
        const bool present = true;
        memcpy(c + f->flag, &present, sizeof(present));
    }
    return EW_OK;
}

ew_status ew__read(ew__reader *r, const ew__table *t, const ProtobufCMessage *pb, void *c, ew_error *reterr)
{
    reading g = {r, t, reterr};
    for (size_t i = 0; i < t->n_fields; i++) {
        const ew__field *f = &t->fields[i];
        const char *from = (const char *)pb;
        switch (f->kind) {
        case EW__STR: {
            char *s;
            memcpy(&s, from + f->pb, sizeof(s));
            EW_TRY(read_text(&g, f, s, (char *)c + f->c));
            break;
        }
        case EW__BYTES:
        case EW__BYTES_OPT:
        case EW__SPAN:
            EW_TRY(read_bytes(&g, f, from, c));
            break;
        case EW__MSG:
            EW_TRY(read_message(&g, f, from, c));
            break;
        case EW__SETTINGS:
            EW_TRY(read_settings(&g, f, from, c));
            break;
        case EW__REP_STR:
        case EW__REP_BYTES:
        case EW__REP_SPAN:
        case EW__REP_F64:
        case EW__REP_U32:
        case EW__REP_MSG:
            EW_TRY(read_repeated(&g, f, from, c));
            break;
        default:
            EW_TRY(read_scalar(&g, f, from, c));
        }
    }
    return t->check != NULL ? t->check(c, r->body, reterr) : EW_OK;
}

/* GGUF reading: a checked walk over the mapped file. See gguf.h. */
#include "format/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/format_int.h"
#include "sys/file.h"

#define NAME_MAX_BYTES 65535u /* the specification's limit for keys */
#define TENSOR_NAME_MAX 256u
#define DEFAULT_ALIGNMENT 32u

typedef struct gguf_kv {
    char *key;
    ew_gguf_type type;
    ew_gguf_array array; /* of arrays; for scalars n = 1 and data points at the value; strings are data and n = bytes */
} gguf_kv;

struct ew_gguf {
    ew_file_map *map; /* NULL when opened from memory */
    char *name;       /* for messages */
    const uint8_t *data;
    size_t size;
    uint32_t version;
    gguf_kv *kv;
    size_t n_kv, kv_cap;
    ew_map *kv_by_key;
    ew_tensor_view *tensor;
    size_t n_tensors, tensor_cap;
    ew_map *tensor_by_name;
};

typedef struct cursor {
    ew_gguf *g;
    size_t at;
    ew_error *err;
} cursor;

static ew_status truncated(cursor *c, size_t need)
{
    return ew_fail(c->err, EW_ECORRUPT,
                   "%s: the file ends at byte %zu inside its header (%zu more bytes are needed at %zu). It is "
                   "incomplete: fetch it "
                   "again.",
                   c->g->name, c->g->size, need, c->at);
}

static ew_status take(cursor *c, size_t n, const uint8_t **ret)
{
    if (n > c->g->size - c->at) {
        (void)truncated(c, n);
        return EW_ECORRUPT; /* spelled out: the compiler then sees that *ret is set on success */
    }
    *ret = c->g->data + c->at;
    c->at += n;
    return EW_OK;
}

static ew_status take_u32(cursor *c, uint32_t *ret)
{
    const uint8_t *p;
    EW_TRY(take(c, 4, &p));
    memcpy(ret, p, 4);
    return EW_OK;
}

static ew_status take_u64(cursor *c, uint64_t *ret)
{
    const uint8_t *p;
    EW_TRY(take(c, 8, &p));
    memcpy(ret, p, 8);
    return EW_OK;
}

/* A length-prefixed string; it stays where it is. */
static ew_status take_str(cursor *c, uint64_t max, ew_span *ret)
{
    uint64_t n;
    const uint8_t *p;
    EW_TRY(take_u64(c, &n));
    if (n > max) {
        return ew_fail(c->err, EW_ELIMIT, "%s: a string of %llu bytes at %zu; at most %llu are allowed here",
                       c->g->name, (unsigned long long)n, c->at, (unsigned long long)max);
    }
    EW_TRY(take(c, (size_t)n, &p));
    *ret = (ew_span){p, (size_t)n};
    return EW_OK;
}

/* A copy with NUL of a name, which may not hold one. */
static ew_status take_name(cursor *c, uint64_t max, const char *what, char **ret)
{
    ew_span s = {NULL, 0};
    EW_TRY(take_str(c, max, &s));
    if (s.size == 0 || memchr(s.data, 0, s.size) != NULL) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: a %s name at %zu is empty or holds a NUL", c->g->name, what, c->at);
    }
    char *copy = ew_str_dup_n(s.data, s.size);
    if (copy == NULL) {
        return ew_fail(c->err, EW_ENOMEM, "%s: out of memory", c->g->name);
    }
    *ret = copy;
    return EW_OK;
}

size_t ew__gguf_type_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < EW_COUNT(bytes) ? bytes[type] : 0;
}

static ew_status read_strings(cursor *c, const char *key, ew_gguf_array *a)
{
    uint64_t *index = ew_malloc(a->n, sizeof(*index));
    if (index == NULL) {
        return ew_fail(c->err, EW_ENOMEM, "%s: no memory for the %zu strings of '%s'", c->g->name, a->n, key);
    }
    a->index = index; /* owned by the kv from here on */
    a->data = c->g->data + c->at;
    size_t start = c->at;
    for (size_t i = 0; i < a->n; i++) {
        ew_span s = {NULL, 0};
        index[i] = c->at - start;
        EW_TRY(take_str(c, EW_LIMIT_GGUF_STRING_BYTES, &s));
    }
    return EW_OK;
}

static ew_status read_array(cursor *c, gguf_kv *kv)
{
    uint32_t type;
    uint64_t n;
    size_t bytes;
    EW_TRY(take_u32(c, &type));
    EW_TRY(take_u64(c, &n));
    if (n > EW_LIMIT_GGUF_ARRAY_ELEMS) {
        return ew_fail(c->err, EW_ELIMIT, "%s: '%s' has %llu elements; at most %u are allowed", c->g->name, kv->key,
                       (unsigned long long)n, EW_LIMIT_GGUF_ARRAY_ELEMS);
    }
    kv->array.n = (size_t)n;
    if (type == EW_GGUF_STRING) {
        if (n > (c->g->size - c->at) / 8) { /* before memory is taken for it */
            return truncated(c, (size_t)n * 8);
        }
        kv->array.type = EW_GGUF_STRING;
        return read_strings(c, kv->key, &kv->array);
    }
    if (ew__gguf_type_bytes(type) == 0) {
        return ew_fail(c->err, EW_EUNSUPPORTED, "%s: '%s' is an array of type %u, which is not supported", c->g->name,
                       kv->key, type);
    }
    kv->array.type = (ew_gguf_type)type;
    if (!ew_size_mul((size_t)n, ew__gguf_type_bytes(type), &bytes)) {
        return truncated(c, SIZE_MAX);
    }
    const uint8_t *p;
    EW_TRY(take(c, bytes, &p));
    kv->array.data = p;
    return EW_OK;
}

static ew_status read_value(cursor *c, uint32_t type, gguf_kv *kv)
{
    const uint8_t *p;
    ew_span s = {NULL, 0};
    kv->type = (ew_gguf_type)type;
    if (type == EW_GGUF_ARRAY) {
        return read_array(c, kv);
    }
    kv->array.type = kv->type;
    if (type == EW_GGUF_STRING) {
        EW_TRY(take_str(c, EW_LIMIT_GGUF_STRING_BYTES, &s));
        kv->array.data = s.data;
        kv->array.n = s.size;
        return EW_OK;
    }
    if (ew__gguf_type_bytes(type) == 0) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: key '%s' has the unknown value type %u", c->g->name, kv->key, type);
    }
    EW_TRY(take(c, ew__gguf_type_bytes(type), &p));
    if (type == EW_GGUF_BOOL && *p > 1) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: key '%s' is a boolean of value %u", c->g->name, kv->key, *p);
    }
    kv->array.data = p;
    kv->array.n = 1;
    return EW_OK;
}

static ew_status read_kv(cursor *c)
{
    ew_gguf *g = c->g;
    uint32_t type;
    gguf_kv *kv = &g->kv[g->n_kv];
    EW_TRY(take_name(c, NAME_MAX_BYTES, "key", &kv->key));
    g->n_kv++; /* from here on ew_gguf_free releases it */
    EW_TRY(take_u32(c, &type));
    EW_TRY(read_value(c, type, kv));
    ew_status st = ew_map_add(g->kv_by_key, kv->key, strlen(kv->key), kv);
    if (st == EW_EEXIST) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: the key '%s' stands there twice", g->name, kv->key);
    }
    return st == EW_OK ? EW_OK : ew_fail(c->err, st, "%s: out of memory", g->name);
}

static ew_status read_tensor(cursor *c, uint64_t *ret_offset)
{
    ew_gguf *g = c->g;
    ew_tensor_view *t = &g->tensor[g->n_tensors];
    uint32_t type;
    char *name = NULL;
    EW_TRY(take_name(c, TENSOR_NAME_MAX, "tensor", &name));
    t->name = name;
    g->n_tensors++;
    EW_TRY(take_u32(c, &t->n_dims));
    if (t->n_dims < 1 || t->n_dims > EW_TENSOR_MAX_DIMS) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: tensor '%s' has %u dimensions", g->name, name, t->n_dims);
    }
    for (uint32_t i = 0; i < EW_TENSOR_MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims) {
            EW_TRY(take_u64(c, &t->dims[i]));
        }
    }
    EW_TRY(take_u32(c, &type));
    EW_TRY(take_u64(c, ret_offset));
    t->dtype = (ew_dtype)type;
    if (ew_dtype_get(t->dtype) == NULL) {
        return ew_fail(
            c->err, EW_EUNSUPPORTED,
            "%s: tensor '%s' has element type %u, which this version does not know. HINT: use an F16, Q8_0 or Q4_K_M "
            "file of the model.",
            g->name, name, type);
    }
    if (!ew_tensor_bytes(t, &t->bytes)) {
        char shape[128];
        return ew_fail(c->err, EW_ECORRUPT, "%s: tensor '%s' has an impossible shape: %s", g->name, name,
                       ew_tensor_describe(t, shape, sizeof(shape)));
    }
    ew_status st = ew_map_add(g->tensor_by_name, name, strlen(name), t);
    if (st == EW_EEXIST) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: the tensor '%s' stands there twice", g->name, name);
    }
    return st == EW_OK ? EW_OK : ew_fail(c->err, st, "%s: out of memory", g->name);
}

static ew_status read_alignment(cursor *c, uint32_t *ret)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    if (ew_gguf_has(c->g, "general.alignment") && (!ew_gguf_get_u32(c->g, "general.alignment", &alignment) ||
                                                   alignment == 0 || alignment % 8 != 0 || alignment > 65536)) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: general.alignment must be a multiple of 8 up to 65536", c->g->name);
    }
    *ret = alignment;
    return EW_OK;
}

static ew_status place_tensors(cursor *c, const uint64_t *offset)
{
    ew_gguf *g = c->g;
    uint32_t alignment = DEFAULT_ALIGNMENT;
    EW_TRY(read_alignment(c, &alignment));
    size_t start = c->at;
    if (start % alignment != 0) {
        start += alignment - start % alignment;
    }
    if (g->n_tensors > 0 && start > g->size) {
        return truncated(c, start - c->at);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        ew_tensor_view *t = &g->tensor[i];
        size_t room = g->size - start;
        if (offset[i] % alignment != 0) {
            return ew_fail(c->err, EW_ECORRUPT, "%s: tensor '%s' starts at offset %llu, which is not a multiple of %u",
                           g->name, t->name, (unsigned long long)offset[i], alignment);
        }
        if (offset[i] > room || t->bytes > room - (size_t)offset[i]) {
            return ew_fail(
                c->err, EW_ECORRUPT,
                "%s: tensor '%s' (%zu bytes at offset %llu of the data) ends past the end of the file (%zu bytes). It "
                "is incomplete: fetch it again.",
                g->name, t->name, t->bytes, (unsigned long long)offset[i], g->size);
        }
        t->data = g->data + start + offset[i];
    }
    return EW_OK;
}

static ew_status read_magic(cursor *c)
{
    const uint8_t *p;
    if (c->g->size < 24) {
        return ew_fail(c->err, EW_ECORRUPT, "%s: %zu bytes are too few for a GGUF file", c->g->name, c->g->size);
    }
    EW_TRY(take(c, 4, &p));
    if (memcmp(p, "GGUF", 4) != 0) {
        return ew_fail(c->err, EW_ECORRUPT, "%s is not a GGUF file (it does not start with 'GGUF')", c->g->name);
    }
    EW_TRY(take_u32(c, &c->g->version));
    if ((c->g->version & 0xffffu) == 0) {
        return ew_fail(c->err, EW_EUNSUPPORTED, "%s is a GGUF file of the other byte order", c->g->name);
    }
    if (c->g->version != 2 && c->g->version != 3) {
        return ew_fail(c->err, EW_EUNSUPPORTED, "%s is GGUF version %u; versions 2 and 3 are supported", c->g->name,
                       c->g->version);
    }
    return EW_OK;
}

static ew_status read_counts(cursor *c, uint64_t *ret_tensors, uint64_t *ret_kv)
{
    uint64_t nt = 0, nk = 0;
    EW_TRY(take_u64(c, &nt));
    EW_TRY(take_u64(c, &nk));
    if (nt > EW_LIMIT_GGUF_TENSORS || nk > EW_LIMIT_GGUF_KV) {
        return ew_fail(c->err, EW_ELIMIT, "%s: %llu tensors and %llu keys; at most %u and %u are allowed", c->g->name,
                       (unsigned long long)nt, (unsigned long long)nk, EW_LIMIT_GGUF_TENSORS, EW_LIMIT_GGUF_KV);
    }
    *ret_tensors = nt;
    *ret_kv = nk;
    return EW_OK;
}

static ew_status read_all(cursor *c)
{
    ew_gguf *g = c->g;
    uint64_t nt = 0, nk = 0;
    EW_TRY(read_magic(c));
    EW_TRY(read_counts(c, &nt, &nk));
    g->kv = ew_calloc((size_t)nk, sizeof(*g->kv));
    g->tensor = ew_calloc((size_t)nt, sizeof(*g->tensor));
    uint64_t *offset = ew_calloc((size_t)nt, sizeof(*offset));
    if (g->kv == NULL || g->tensor == NULL || offset == NULL || ew_map_new(&g->kv_by_key) != EW_OK ||
        ew_map_new(&g->tensor_by_name) != EW_OK) {
        ew_free(offset);
        return ew_fail(c->err, EW_ENOMEM, "%s: no memory for its header", g->name);
    }
    ew_status st = EW_OK;
    while (st == EW_OK && g->n_kv < nk) {
        st = read_kv(c);
    }
    while (st == EW_OK && g->n_tensors < nt) {
        st = read_tensor(c, &offset[g->n_tensors]);
    }
    if (st == EW_OK) {
        st = place_tensors(c, offset);
    }
    ew_free(offset);
    return st;
}

static ew_status open_data(ew_gguf *g, const char *name, ew_gguf **ret, ew_error *reterr)
{
    cursor c = {.g = g, .err = reterr};
    g->name = ew_str_dup(name);
    ew_status st = g->name != NULL ? read_all(&c) : ew_fail(reterr, EW_ENOMEM, "%s: out of memory", name);
    if (st != EW_OK) {
        ew_gguf_free(&g);
        return st;
    }
    *ret = g;
    return EW_OK;
}

ew_status ew_gguf_open(const char *path, ew_gguf **ret, ew_error *reterr)
{
    ew_gguf *g = ew_calloc(1, sizeof(*g));
    if (g == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", path);
    }
    ew_status st = ew_file_map_open(path, &g->map, reterr);
    if (st != EW_OK) {
        ew_gguf_free(&g);
        return st;
    }
    g->data = ew_file_map_data(g->map);
    g->size = ew_file_map_size(g->map);
    return open_data(g, path, ret, reterr);
}

ew_status ew_gguf_open_memory(const void *data, size_t size, const char *name, ew_gguf **ret, ew_error *reterr)
{
    ew_gguf *g = ew_calloc(1, sizeof(*g));
    if (g == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", name);
    }
    g->data = data;
    g->size = size;
    return open_data(g, name, ret, reterr);
}

void ew_gguf_free(ew_gguf **gp)
{
    if (gp == NULL || *gp == NULL) {
        return;
    }
    ew_gguf *g = *gp;
    for (size_t i = 0; i < g->n_kv; i++) {
        ew_free(g->kv[i].key);
        union {
            const uint64_t *in;
            void *out;
        } index = {.in = g->kv[i].array.index};
        ew_free(index.out);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        union {
            const char *in;
            void *out;
        } name = {.in = g->tensor[i].name};
        ew_free(name.out);
    }
    ew_free(g->kv);
    ew_free(g->tensor);
    ew_map_free(&g->kv_by_key);
    ew_map_free(&g->tensor_by_name);
    ew_file_map_free(&g->map);
    ew_free(g->name);
    ew_free(g);
    *gp = NULL;
}

bool ew_gguf_holds(const ew_gguf *g, const void *data, size_t size)
{
    return g->map != NULL && ew_file_map_holds(g->map, data, size);
}

void ew_gguf_drop(const ew_gguf *g, const void *data, size_t size)
{
    if (ew_gguf_holds(g, data, size)) {
        ew_file_map_advise(g->map, (size_t)((const uint8_t *)data - g->data), size, EW_FILE_DONTNEED);
    }
}

const char *ew_gguf_path(const ew_gguf *g)
{
    return g->name;
}

size_t ew_gguf_file_bytes(const ew_gguf *g)
{
    return g->size;
}

uint32_t ew_gguf_version(const ew_gguf *g)
{
    return g->version;
}

/* ---- values ---- */

static const gguf_kv *find_kv(const ew_gguf *g, const char *key)
{
    return ew_map_get(g->kv_by_key, key, strlen(key));
}

bool ew_gguf_has(const ew_gguf *g, const char *key)
{
    return find_kv(g, key) != NULL;
}

/* An element of an integer type: sign and magnitude in one, false when it is of another type. */
static bool element_int(ew_gguf_type type, const void *base, size_t i, int64_t *ret, bool *ret_big)
{
    const uint8_t *p = (const uint8_t *)base + i * ew__gguf_type_bytes(type);
    uint64_t u = 0;
    size_t n = ew__gguf_type_bytes(type);
    *ret_big = false;
    switch (type) {
    case EW_GGUF_U8:
    case EW_GGUF_U16:
    case EW_GGUF_U32:
    case EW_GGUF_U64:
    case EW_GGUF_BOOL:
        memcpy(&u, p, n);
        break;
    case EW_GGUF_I8:
    case EW_GGUF_I16:
    case EW_GGUF_I32:
    case EW_GGUF_I64:
        memcpy(&u, p, n);
        if (n < 8 && (u >> (8 * n - 1)) != 0) {
            u |= UINT64_MAX << (8 * n);
        }
        memcpy(ret, &u, 8);
        return true;
    default:
        return false;
    }
    *ret_big = u > INT64_MAX;
    memcpy(ret, &u, 8);
    return true;
}

static bool element_f64(ew_gguf_type type, const void *base, size_t i, double *ret)
{
    const uint8_t *p = (const uint8_t *)base + i * ew__gguf_type_bytes(type);
    int64_t v;
    bool big;
    if (type == EW_GGUF_F32) {
        float f;
        memcpy(&f, p, 4);
        *ret = (double)f;
        return true;
    }
    if (type == EW_GGUF_F64) {
        memcpy(ret, p, 8);
        return true;
    }
    if (!element_int(type, base, i, &v, &big) || big || v > (1ll << 53) || v < -(1ll << 53)) {
        return false;
    }
    *ret = (double)v;
    return true;
}

/* Scalars only: an integer, or a float with an integral value. */
static bool scalar_int(const ew_gguf *g, const char *key, int64_t *ret, bool *ret_big)
{
    const gguf_kv *kv = find_kv(g, key);
    double d;
    if (kv == NULL || kv->type == EW_GGUF_ARRAY || kv->type == EW_GGUF_STRING || kv->type == EW_GGUF_BOOL) {
        return false;
    }
    if (element_int(kv->type, kv->array.data, 0, ret, ret_big)) {
        return true;
    }
    if (!element_f64(kv->type, kv->array.data, 0, &d) || !(fabs(d) <= 0x1p53) || d != floor(d)) {
        return false;
    }
    *ret = (int64_t)d;
    *ret_big = false;
    return true;
}

bool ew_gguf_get_u64(const ew_gguf *g, const char *key, uint64_t *ret)
{
    int64_t v;
    bool big;
    if (!scalar_int(g, key, &v, &big) || (v < 0 && !big)) {
        return false;
    }
    *ret = (uint64_t)v;
    return true;
}

bool ew_gguf_get_u32(const ew_gguf *g, const char *key, uint32_t *ret)
{
    uint64_t v;
    if (!ew_gguf_get_u64(g, key, &v) || v > UINT32_MAX) {
        return false;
    }
    *ret = (uint32_t)v;
    return true;
}

bool ew_gguf_get_i64(const ew_gguf *g, const char *key, int64_t *ret)
{
    int64_t v;
    bool big;
    if (!scalar_int(g, key, &v, &big) || big) {
        return false;
    }
    *ret = v;
    return true;
}

bool ew_gguf_get_f64(const ew_gguf *g, const char *key, double *ret)
{
    const gguf_kv *kv = find_kv(g, key);
    if (kv == NULL || kv->type == EW_GGUF_ARRAY || kv->type == EW_GGUF_STRING || kv->type == EW_GGUF_BOOL) {
        return false;
    }
    return element_f64(kv->type, kv->array.data, 0, ret);
}

bool ew_gguf_get_f32(const ew_gguf *g, const char *key, float *ret)
{
    double d;
    if (!ew_gguf_get_f64(g, key, &d)) {
        return false;
    }
    *ret = (float)d;
    return true;
}

bool ew_gguf_get_bool(const ew_gguf *g, const char *key, bool *ret)
{
    const gguf_kv *kv = find_kv(g, key);
    if (kv == NULL || kv->type != EW_GGUF_BOOL) {
        return false;
    }
    *ret = *(const uint8_t *)kv->array.data != 0;
    return true;
}

bool ew_gguf_get_str(const ew_gguf *g, const char *key, ew_span *ret)
{
    const gguf_kv *kv = find_kv(g, key);
    if (kv == NULL || kv->type != EW_GGUF_STRING) {
        return false;
    }
    *ret = (ew_span){kv->array.data, kv->array.n};
    return true;
}

bool ew_gguf_get_str_copy(const ew_gguf *g, const char *key, char *dst, size_t size)
{
    ew_span s = {NULL, 0};
    if (!ew_gguf_get_str(g, key, &s) || s.size >= size) {
        return false;
    }
    memcpy(dst, s.data, s.size);
    dst[s.size] = '\0';
    return true;
}

bool ew_gguf_get_array(const ew_gguf *g, const char *key, ew_gguf_array *ret)
{
    const gguf_kv *kv = find_kv(g, key);
    if (kv == NULL || kv->type != EW_GGUF_ARRAY) {
        return false;
    }
    *ret = kv->array;
    return true;
}

ew_span ew_gguf_array_str(const ew_gguf_array *a, size_t i)
{
    EW_ASSERT(a->type == EW_GGUF_STRING && i < a->n);
    const uint8_t *p = (const uint8_t *)a->data + a->index[i];
    uint64_t n;
    memcpy(&n, p, 8);
    return (ew_span){p + 8, (size_t)n};
}

double ew_gguf_array_f64(const ew_gguf_array *a, size_t i)
{
    double d = 0.0;
    EW_ASSERT(i < a->n);
    return element_f64(a->type, a->data, i, &d) ? d : 0.0;
}

int64_t ew_gguf_array_i64(const ew_gguf_array *a, size_t i)
{
    int64_t v = 0;
    bool big;
    EW_ASSERT(i < a->n);
    return element_int(a->type, a->data, i, &v, &big) ? v : 0;
}

size_t ew_gguf_n_kv(const ew_gguf *g)
{
    return g->n_kv;
}

const char *ew_gguf_key(const ew_gguf *g, size_t i)
{
    return g->kv[i].key;
}

ew_gguf_type ew_gguf_key_type(const ew_gguf *g, size_t i)
{
    return g->kv[i].type;
}

void ew__gguf_copy_value(const ew_gguf *g, size_t i, ew_buf *out)
{
    const gguf_kv *kv = &g->kv[i];
    const ew_gguf_array *a = &kv->array;
    uint32_t type = (uint32_t)kv->type, elem = (uint32_t)a->type;
    uint64_t n = a->n;
    size_t bytes = a->n * ew__gguf_type_bytes(elem);
    ew_buf_add(out, &type, sizeof(type));
    if (kv->type == EW_GGUF_ARRAY) {
        ew_buf_add(out, &elem, sizeof(elem));
        ew_buf_add(out, &n, sizeof(n));
        if (a->type == EW_GGUF_STRING && a->n > 0) {
            bytes = (size_t)a->index[a->n - 1] + 8 + ew_gguf_array_str(a, a->n - 1).size;
        }
    } else if (kv->type == EW_GGUF_STRING) {
        ew_buf_add(out, &n, sizeof(n));
        bytes = a->n;
    }
    if (bytes > 0) {
        ew_buf_add(out, a->data, bytes);
    }
}

/* ---- tensors ---- */

size_t ew_gguf_n_tensors(const ew_gguf *g)
{
    return g->n_tensors;
}

const ew_tensor_view *ew_gguf_tensor(const ew_gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensor[i] : NULL;
}

const ew_tensor_view *ew_gguf_find(const ew_gguf *g, const char *name)
{
    return ew_map_get(g->tensor_by_name, name, strlen(name));
}

ew_status ew_gguf_need(const ew_gguf *g, const char *name, const ew_tensor_view **ret, ew_error *reterr)
{
    const ew_tensor_view *t = ew_gguf_find(g, name);
    char arch[64] = "unknown";
    if (t == NULL) {
        (void)ew_gguf_get_str_copy(g, "general.architecture", arch, sizeof(arch));
        return ew_fail(reterr, EW_ENOENT, "%s (architecture %s, %zu tensors) lacks the tensor '%s'", g->name, arch,
                       g->n_tensors, name);
    }
    *ret = t;
    return EW_OK;
}

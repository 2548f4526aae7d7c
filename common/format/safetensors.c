/* safetensors: JSON header + data, one file or shards named by an index. See safetensors.h. */
#include "format/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "text/json.h"

#define HEADER_BYTES_MAX (100u * 1000 * 1000) /* the reference implementation's limit */
#define SHARDS_MAX 1024u

typedef struct shard {
    ew_file_map *map;
    json_t *metadata; /* object or NULL */
} shard;

struct ew_safetensors {
    char *path;
    shard *shard;
    size_t n_shards, shard_cap;
    ew_tensor_view *tensor;
    size_t n_tensors, tensor_cap;
    ew_map *by_name; /* made when the array no longer grows */
};

/* Masks and counters that old files hold are listed by their size: nothing computes with I8. */
static const struct {
    const char *name;
    ew_dtype type;
} types[] = {{"F32", EW_DTYPE_F32}, {"F16", EW_DTYPE_F16}, {"BF16", EW_DTYPE_BF16}, {"F64", EW_DTYPE_F64},
             {"I8", EW_DTYPE_I8},   {"I16", EW_DTYPE_I16}, {"I32", EW_DTYPE_I32},   {"I64", EW_DTYPE_I64},
             {"BOOL", EW_DTYPE_I8}, {"U8", EW_DTYPE_I8}};

typedef struct st_file {
    const char *name;
    const uint8_t *data; /* behind the header */
    size_t size;
    ew_error *err;
} st_file;

static ew_status bad(const st_file *f, const char *tensor, const char *what)
{
    return ew_fail(f->err, EW_ECORRUPT, "%s: tensor '%s' %s", f->name, tensor, what);
}

/* Shape in the file's order becomes dims with [0] fastest. */
static ew_status read_shape(const st_file *f, const char *name, const json_t *shape, ew_tensor_view *t)
{
    size_t n = json_array_size(shape);
    if (!json_is_array(shape) || n > EW_TENSOR_MAX_DIMS) {
        return bad(f, name, "has no shape of at most 4 dimensions");
    }
    t->n_dims = n == 0 ? 1 : (uint32_t)n;
    for (size_t i = 0; i < EW_TENSOR_MAX_DIMS; i++) {
        t->dims[i] = 1;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!json_is_integer(v) || json_integer_value(v) <= 0) {
            return bad(f, name, "has a dimension that is not a positive integer");
        }
        t->dims[n - 1 - i] = (uint64_t)json_integer_value(v);
    }
    return EW_OK;
}

static ew_status read_entry(const st_file *f, const char *name, const json_t *entry, ew_tensor_view *t)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    size_t i = 0;
    if (type == NULL || !json_is_array(offsets) || json_array_size(offsets) != 2) {
        return bad(f, name, "lacks dtype or data_offsets");
    }
    while (i < EW_COUNT(types) && !ew_str_eq(types[i].name, type)) {
        i++;
    }
    if (i == EW_COUNT(types)) {
        return ew_fail(f->err, EW_EUNSUPPORTED, "%s: tensor '%s' has type %s; F32, F16 and BF16 can be used", f->name,
                       name, type);
    }
    t->dtype = types[i].type;
    EW_TRY(read_shape(f, name, json_object_get(entry, "shape"), t));
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (!json_is_integer(from) || !json_is_integer(to) || json_integer_value(from) < 0 ||
        json_integer_value(to) < json_integer_value(from) || (uint64_t)json_integer_value(to) > f->size) {
        return bad(f, name, "has offsets outside of the file. It may be incomplete: fetch it again");
    }
    t->data = f->data + json_integer_value(from);
    if (!ew_tensor_bytes(t, &t->bytes) || t->bytes != (size_t)(json_integer_value(to) - json_integer_value(from))) {
        return bad(f, name, "has a shape that does not match its offsets");
    }
    return EW_OK;
}

static ew_status add_tensor(ew_safetensors *s, const st_file *f, const char *name, const json_t *entry)
{
    ew_tensor_view t = {.name = NULL};
    EW_TRY(read_entry(f, name, entry, &t));
    void *items = s->tensor;
    ew_status st = ew_grow(&items, &s->tensor_cap, s->n_tensors + 1, sizeof(*s->tensor), EW_LIMIT_GGUF_TENSORS);
    s->tensor = items;
    if (st != EW_OK) {
        return ew_fail(f->err, st, "%s: more than %u tensors, or out of memory", f->name, EW_LIMIT_GGUF_TENSORS);
    }
    char *copy = ew_str_dup(name);
    if (copy == NULL) {
        return ew_fail(f->err, EW_ENOMEM, "%s: out of memory", f->name);
    }
    t.name = copy;
    s->tensor[s->n_tensors++] = t;
    return EW_OK;
}

static int by_data(const void *a, const void *b)
{
    const ew_tensor_view *x = a, *y = b;
    const uint8_t *p = x->data, *q = y->data;
    return p < q ? -1 : p > q ? 1 : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Tensors [first, n) are this file's: sorted by place they must cover its data exactly. */
static ew_status check_cover(ew_safetensors *s, const st_file *f, size_t first)
{
    const uint8_t *at = f->data;
    if (s->n_tensors > first) {
        qsort(s->tensor + first, s->n_tensors - first, sizeof(*s->tensor), by_data);
    }
    for (size_t i = first; i < s->n_tensors; i++) {
        if ((const uint8_t *)s->tensor[i].data != at) {
            return bad(f, s->tensor[i].name, "overlaps another or leaves a gap before it");
        }
        at += s->tensor[i].bytes;
    }
    if (at != f->data + f->size) {
        return ew_fail(f->err, EW_ECORRUPT, "%s: %zu bytes at its end belong to no tensor", f->name,
                       (size_t)(f->data + f->size - at));
    }
    return EW_OK;
}

static ew_status read_header(ew_safetensors *s, st_file *f, json_t *header, json_t **ret_metadata)
{
    const char *key;
    json_t *value;
    size_t first = s->n_tensors;
    if (!json_is_object(header)) {
        return ew_fail(f->err, EW_ECORRUPT, "%s: its header is not a JSON object", f->name);
    }
    json_object_foreach(header, key, value)
    {
        if (ew_str_eq(key, "__metadata__")) {
            if (json_is_object(value)) {
                *ret_metadata = json_incref(value);
            }
            continue;
        }
        EW_TRY(add_tensor(s, f, key, value));
    }
    return check_cover(s, f, first);
}

static ew_status read_file(ew_safetensors *s, const char *name, const uint8_t *data, size_t size, json_t **ret_metadata,
                           ew_error *reterr)
{
    uint64_t n = 0;
    if (size >= 8) {
        memcpy(&n, data, 8);
    }
    if (size < 8 || n > size - 8 || n > HEADER_BYTES_MAX) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not a safetensors file, or it is incomplete: fetch it again", name);
    }
    EW_AUTO_JSON header = NULL;
    EW_TRY(ew_json_load(name, data + 8, (size_t)n, &header, reterr));
    st_file f = {name, data + 8 + n, size - 8 - (size_t)n, reterr};
    return read_header(s, &f, header, ret_metadata);
}

static ew_status add_shard(ew_safetensors *s, const char *path, ew_error *reterr)
{
    void *items = s->shard;
    ew_status st = ew_grow(&items, &s->shard_cap, s->n_shards + 1, sizeof(*s->shard), SHARDS_MAX);
    s->shard = items;
    if (st != EW_OK) {
        return ew_fail(reterr, st, "%s: more than %u shards, or out of memory", path, SHARDS_MAX);
    }
    shard *h = &s->shard[s->n_shards];
    *h = (shard){NULL, NULL};
    EW_TRY(ew_file_map_open(path, &h->map, reterr));
    s->n_shards++;
    return read_file(s, path, ew_file_map_data(h->map), ew_file_map_size(h->map), &h->metadata, reterr);
}

static bool shard_name_ok(const char *name)
{
    return name != NULL && name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL && strlen(name) < 256;
}

/* weight_map of the index names a shard for each tensor; each shard is opened once. */
static ew_status open_index(ew_safetensors *s, const char *dir, const char *index, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    EW_AUTO(ew_map) seen = NULL;
    json_t *map = NULL, *value;
    const char *key;
    EW_TRY(ew_json_load_file(index, 0, &j, reterr));
    EW_TRY(ew_json_get_obj(j, index, "weight_map", &map, reterr));
    if (ew_map_new(&seen) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", index);
    }
    json_object_foreach(map, key, value)
    {
        char path[EW_PATH_MAX];
        const char *name = json_string_value(value);
        if (!shard_name_ok(name)) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: the shard of '%s' is not a plain file name", index, key);
        }
        ew_status st = ew_map_add(seen, name, strlen(name), s);
        if (st == EW_EEXIST) {
            continue;
        }
        EW_TRY(st);
        EW_TRY(ew_path_join(path, sizeof(path), dir, name, reterr));
        EW_TRY(add_shard(s, path, reterr));
    }
    return EW_OK;
}

static ew_status index_names(ew_safetensors *s, ew_error *reterr)
{
    for (size_t i = 0; i < s->n_tensors; i++) {
        ew_status st = ew_map_add(s->by_name, s->tensor[i].name, strlen(s->tensor[i].name), &s->tensor[i]);
        if (st == EW_EEXIST) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: the tensor '%s' stands in two shards", s->path, s->tensor[i].name);
        }
        if (st != EW_OK) {
            return ew_fail(reterr, st, "%s: out of memory", s->path);
        }
    }
    return EW_OK;
}

static ew_status open_path(ew_safetensors *s, const char *path, ew_error *reterr)
{
    char file[EW_PATH_MAX];
    if (!ew_dir_exists(path)) {
        return add_shard(s, path, reterr);
    }
    EW_TRY(ew_path_join(file, sizeof(file), path, "model.safetensors.index.json", reterr));
    if (ew_file_exists(file)) {
        return open_index(s, path, file, reterr);
    }
    EW_TRY(ew_path_join(file, sizeof(file), path, "model.safetensors", reterr));
    if (!ew_file_exists(file)) {
        return ew_fail(
            reterr, EW_ENOENT,
            "%s holds neither model.safetensors nor model.safetensors.index.json. HINT: a Hugging Face model "
            "directory has one of them beside config.json; pickled .bin weights are not read.",
            path);
    }
    return add_shard(s, file, reterr);
}

static ew_status new_handle(const char *name, ew_safetensors **ret, ew_error *reterr)
{
    ew_safetensors *s = ew_calloc(1, sizeof(*s));
    if (s != NULL) {
        s->path = ew_str_dup(name);
    }
    if (s == NULL || s->path == NULL || ew_map_new(&s->by_name) != EW_OK) {
        ew_safetensors_free(&s);
        (void)ew_fail(reterr, EW_ENOMEM, "%s: out of memory", name);
        return EW_ENOMEM; /* spelled out for the analyzer */
    }
    *ret = s;
    return EW_OK;
}

ew_status ew_safetensors_open(const char *path, ew_safetensors **ret, ew_error *reterr)
{
    EW_AUTO(ew_safetensors) s = NULL;
    EW_TRY(new_handle(path, &s, reterr));
    EW_TRY(open_path(s, path, reterr));
    EW_TRY(index_names(s, reterr));
    *ret = s;
    s = NULL;
    return EW_OK;
}

ew_status ew_safetensors_open_memory(const void *data, size_t size, const char *name, ew_safetensors **ret,
                                     ew_error *reterr)
{
    EW_AUTO(ew_safetensors) s = NULL;
    EW_TRY(new_handle(name, &s, reterr));
    s->shard = ew_calloc(1, sizeof(*s->shard));
    if (s->shard == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", name);
    }
    s->n_shards = s->shard_cap = 1;
    EW_TRY(read_file(s, name, data, size, &s->shard[0].metadata, reterr));
    EW_TRY(index_names(s, reterr));
    *ret = s;
    s = NULL;
    return EW_OK;
}

void ew_safetensors_free(ew_safetensors **sp)
{
    if (sp == NULL || *sp == NULL) {
        return;
    }
    ew_safetensors *s = *sp;
    for (size_t i = 0; i < s->n_tensors; i++) {
        union {
            const char *in;
            void *out;
        } name = {.in = s->tensor[i].name};
        ew_free(name.out);
    }
    for (size_t i = 0; i < s->n_shards; i++) {
        json_decref(s->shard[i].metadata);
        ew_file_map_free(&s->shard[i].map);
    }
    ew_free(s->tensor);
    ew_free(s->shard);
    ew_map_free(&s->by_name);
    ew_free(s->path);
    ew_free(s);
    *sp = NULL;
}

static const ew_file_map *map_of(const ew_safetensors *s, const void *data, size_t size)
{
    for (size_t i = 0; i < s->n_shards; i++) {
        if (s->shard[i].map != NULL && ew_file_map_holds(s->shard[i].map, data, size)) {
            return s->shard[i].map;
        }
    }
    return NULL;
}

bool ew_safetensors_holds(const ew_safetensors *s, const void *data, size_t size)
{
    return map_of(s, data, size) != NULL;
}

void ew_safetensors_drop(const ew_safetensors *s, const void *data, size_t size)
{
    const ew_file_map *map = map_of(s, data, size);
    if (map != NULL) {
        ew_file_map_advise(map, (size_t)((const unsigned char *)data - ew_file_map_data(map)), size, EW_FILE_DONTNEED);
    }
}

size_t ew_safetensors_n_tensors(const ew_safetensors *s)
{
    return s->n_tensors;
}

const ew_tensor_view *ew_safetensors_tensor(const ew_safetensors *s, size_t i)
{
    return i < s->n_tensors ? &s->tensor[i] : NULL;
}

const ew_tensor_view *ew_safetensors_find(const ew_safetensors *s, const char *name)
{
    return ew_map_get(s->by_name, name, strlen(name));
}

const char *ew_safetensors_metadata(const ew_safetensors *s, const char *key)
{
    for (size_t i = 0; i < s->n_shards; i++) {
        const char *v = json_string_value(json_object_get(s->shard[i].metadata, key));
        if (v != NULL) {
            return v;
        }
    }
    return NULL;
}

/* ---- writing ---- */

struct ew_safetensors_writer {
    char *path;
    ew_file_writer *file;
    json_t *header, *metadata;
    size_t data_bytes, written;
    bool begun;
};

ew_status ew_safetensors_writer_new(const char *path, ew_safetensors_writer **ret, ew_error *reterr)
{
    EW_AUTO(ew_safetensors_writer) w = ew_calloc(1, sizeof(*w));
    if (w == NULL || (w->path = ew_str_dup(path)) == NULL || (w->header = json_object()) == NULL ||
        (w->metadata = json_object()) == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", path);
    }
    EW_TRY(ew_file_writer_open(path, 0644, &w->file, reterr));
    *ret = w;
    w = NULL;
    return EW_OK;
}

void ew_safetensors_writer_free(ew_safetensors_writer **wp)
{
    if (wp == NULL || *wp == NULL) {
        return;
    }
    ew_safetensors_writer *w = *wp;
    json_decref(w->header);
    json_decref(w->metadata);
    ew_file_writer_free(&w->file);
    ew_free(w->path);
    ew_free(w);
    *wp = NULL;
}

ew_status ew_safetensors_add_metadata(ew_safetensors_writer *w, const char *key, const char *value, ew_error *reterr)
{
    if (json_object_set_new(w->metadata, key, json_string(value)) != 0) {
        return ew_fail(reterr, EW_EINVAL, "%s: metadata '%s' is not valid UTF-8, or memory is out", w->path, key);
    }
    return EW_OK;
}

static json_t *shape_json(const ew_tensor_view *t)
{
    json_t *shape = json_array();
    for (uint32_t i = t->n_dims; shape != NULL && i-- > 0;) {
        if (json_array_append_new(shape, json_integer((json_int_t)t->dims[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    }
    return shape;
}

ew_status ew_safetensors_add_tensor(ew_safetensors_writer *w, const char *name, ew_dtype dtype, uint32_t n_dims,
                                    const uint64_t *dims, ew_error *reterr)
{
    ew_tensor_view t = {.name = name, .dtype = dtype, .n_dims = n_dims, .dims = {1, 1, 1, 1}};
    size_t end;
    EW_ASSERT(!w->begun && n_dims >= 1 && n_dims <= EW_TENSOR_MAX_DIMS);
    memcpy(t.dims, dims, n_dims * sizeof(*dims));
    bool type_ok = dtype == EW_DTYPE_F32 || dtype == EW_DTYPE_F16 || dtype == EW_DTYPE_BF16;
    if (!type_ok || !ew_tensor_bytes(&t, &t.bytes) || !ew_size_add(w->data_bytes, t.bytes, &end) || end > INT64_MAX) {
        return ew_fail(reterr, EW_EINVAL, "%s: tensor '%s' cannot be stored as safetensors", w->path, name);
    }
    if (json_object_get(w->header, name) != NULL || ew_str_eq(name, "__metadata__")) {
        return ew_fail(reterr, EW_EEXIST, "%s: tensor '%s' is there already", w->path, name);
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", ew_dtype_name(dtype), "shape", shape_json(&t),
                              "data_offsets", (json_int_t)w->data_bytes, (json_int_t)end);
    if (entry == NULL || json_object_set_new(w->header, name, entry) != 0) {
        return ew_fail(reterr, EW_ENOMEM, "%s: tensor '%s' cannot be added", w->path, name);
    }
    w->data_bytes = end;
    return EW_OK;
}

ew_status ew_safetensors_writer_begin(ew_safetensors_writer *w, ew_error *reterr)
{
    EW_AUTO_BUF text = {.max = HEADER_BYTES_MAX};
    if (json_object_size(w->metadata) > 0 && json_object_set(w->header, "__metadata__", w->metadata) != 0) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", w->path);
    }
    EW_TRY(ew_json_dump(w->header, EW_JSON_SORTED, &text, reterr));
    while (text.size % 8 != 0 && text.status == EW_OK) {
        ew_buf_addc(&text, ' ');
    }
    EW_TRY(ew_buf_check(&text, reterr));
    uint64_t n = text.size;
    EW_TRY(ew_file_writer_write(w->file, &n, sizeof(n), reterr));
    EW_TRY(ew_file_writer_write(w->file, text.data, text.size, reterr));
    w->begun = true;
    return EW_OK;
}

ew_status ew_safetensors_write(ew_safetensors_writer *w, const void *data, size_t bytes, ew_error *reterr)
{
    EW_ASSERT(w->begun);
    if (bytes > w->data_bytes - w->written) {
        return ew_fail(reterr, EW_EINVAL, "%s: more data than the tensors need", w->path);
    }
    EW_TRY(ew_file_writer_write(w->file, data, bytes, reterr));
    w->written += bytes;
    return EW_OK;
}

ew_status ew_safetensors_writer_commit(ew_safetensors_writer *w, ew_error *reterr)
{
    if (!w->begun || w->written != w->data_bytes) {
        return ew_fail(reterr, EW_EINVAL, "%s: %zu of %zu bytes of tensor data were written", w->path, w->written,
                       w->data_bytes);
    }
    return ew_file_writer_commit(w->file, reterr);
}

/* GGUF writing: keys and tensor table are collected in memory, data is streamed behind them. Version 3, alignment 32. */
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/format_int.h"
#include "sys/file.h"

#define ALIGNMENT 32u
#define HEADER_BYTES_MAX (512u * 1024 * 1024)

typedef struct out_tensor {
    char *name;
    uint64_t offset; /* from the start of the data section */
    size_t bytes;
} out_tensor;

struct ew_gguf_writer {
    char *path;
    ew_file_writer *file;
    ew_buf kv, table;
    uint64_t n_kv;
    ew_map *keys, *names;
    out_tensor *tensor;
    size_t n_tensors, tensor_cap;
    uint64_t next_offset;
    ew_error error; /* the first failure of an add call */
    bool begun;
    size_t i_tensor; /* being written */
    size_t written;  /* bytes of it */
};

ew_status ew_gguf_writer_new(const char *path, ew_gguf_writer **ret, ew_error *reterr)
{
    ew_gguf_writer *w = ew_calloc(1, sizeof(*w));
    if (w == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: out of memory", path);
    }
    w->kv.max = w->table.max = HEADER_BYTES_MAX;
    w->path = ew_str_dup(path);
    ew_status st = EW_OK;
    if (w->path == NULL || ew_map_new(&w->keys) != EW_OK || ew_map_new(&w->names) != EW_OK) {
        st = ew_fail(reterr, EW_ENOMEM, "%s: out of memory", path);
    } else {
        st = ew_file_writer_open(path, 0644, &w->file, reterr);
    }
    if (st != EW_OK) {
        ew_gguf_writer_free(&w);
        return st;
    }
    *ret = w;
    return EW_OK;
}

void ew_gguf_writer_free(ew_gguf_writer **wp)
{
    if (wp == NULL || *wp == NULL) {
        return;
    }
    ew_gguf_writer *w = *wp;
    for (size_t i = 0; i < w->n_tensors; i++) {
        ew_free(w->tensor[i].name);
    }
    ew_free(w->tensor);
    ew_buf_release(&w->kv);
    ew_buf_release(&w->table);
    ew_map_free(&w->keys);
    ew_map_free(&w->names);
    ew_file_writer_free(&w->file);
    ew_free(w->path);
    ew_free(w);
    *wp = NULL;
}

/* ---- keys ---- */

static bool open_key(ew_gguf_writer *w, const char *key)
{
    uint64_t n = strlen(key);
    if (w->error.code != EW_OK) {
        return false;
    }
    EW_ASSERT(!w->begun);
    ew_status st = ew_map_add(w->keys, key, n, w);
    if (st != EW_OK) {
        (void)ew_fail(&w->error, st, st == EW_EEXIST ? "%s: the key '%s' is set twice" : "%s: no memory for key '%s'",
                      w->path, key);
        return false;
    }
    ew_buf_add(&w->kv, &n, sizeof(n));
    ew_buf_add(&w->kv, key, n);
    w->n_kv++;
    return true;
}

static void add_scalar(ew_gguf_writer *w, const char *key, ew_gguf_type type, const void *value, size_t bytes)
{
    uint32_t t = (uint32_t)type;
    if (open_key(w, key)) {
        ew_buf_add(&w->kv, &t, sizeof(t));
        ew_buf_add(&w->kv, value, bytes);
    }
}

void ew_gguf_add_str_n(ew_gguf_writer *w, const char *key, const char *value, size_t size)
{
    uint64_t n = size;
    uint32_t t = EW_GGUF_STRING;
    if (open_key(w, key)) {
        ew_buf_add(&w->kv, &t, sizeof(t));
        ew_buf_add(&w->kv, &n, sizeof(n));
        ew_buf_add(&w->kv, value, size);
    }
}

void ew_gguf_add_str(ew_gguf_writer *w, const char *key, const char *value)
{
    ew_gguf_add_str_n(w, key, value, strlen(value));
}

void ew_gguf_add_u32(ew_gguf_writer *w, const char *key, uint32_t value)
{
    add_scalar(w, key, EW_GGUF_U32, &value, sizeof(value));
}

void ew_gguf_add_i32(ew_gguf_writer *w, const char *key, int32_t value)
{
    add_scalar(w, key, EW_GGUF_I32, &value, sizeof(value));
}

void ew_gguf_add_u64(ew_gguf_writer *w, const char *key, uint64_t value)
{
    add_scalar(w, key, EW_GGUF_U64, &value, sizeof(value));
}

void ew_gguf_add_f32(ew_gguf_writer *w, const char *key, float value)
{
    add_scalar(w, key, EW_GGUF_F32, &value, sizeof(value));
}

void ew_gguf_add_bool(ew_gguf_writer *w, const char *key, bool value)
{
    uint8_t b = value ? 1 : 0;
    add_scalar(w, key, EW_GGUF_BOOL, &b, sizeof(b));
}

static void array_head(ew_gguf_writer *w, ew_gguf_type type, size_t n)
{
    uint32_t t[2] = {EW_GGUF_ARRAY, (uint32_t)type};
    uint64_t count = n;
    ew_buf_add(&w->kv, t, sizeof(t));
    ew_buf_add(&w->kv, &count, sizeof(count));
}

void ew_gguf_add_array(ew_gguf_writer *w, const char *key, ew_gguf_type type, const void *data, size_t n)
{
    size_t bytes = ew__gguf_type_bytes((uint32_t)type);
    EW_ASSERT(bytes != 0);
    if (open_key(w, key)) {
        array_head(w, type, n);
        ew_buf_add(&w->kv, data, n * bytes);
    }
}

void ew_gguf_add_array_str(ew_gguf_writer *w, const char *key, const ew_span *items, size_t n)
{
    if (!open_key(w, key)) {
        return;
    }
    array_head(w, EW_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t size = items[i].size;
        ew_buf_add(&w->kv, &size, sizeof(size));
        ew_buf_add(&w->kv, items[i].data, items[i].size);
    }
}

static bool skipped(const char *key, const char *const *skip)
{
    if (ew_str_eq(key, "general.alignment")) {
        return true;
    }
    for (; skip != NULL && *skip != NULL; skip++) {
        if (ew_str_starts(key, *skip)) {
            return true;
        }
    }
    return false;
}

void ew_gguf_add_all_from(ew_gguf_writer *w, const ew_gguf *g, const char *const *skip)
{
    for (size_t i = 0; i < ew_gguf_n_kv(g); i++) {
        const char *key = ew_gguf_key(g, i);
        if (!skipped(key, skip) && ew_map_get(w->keys, key, strlen(key)) == NULL && open_key(w, key)) {
            ew__gguf_copy_value(g, i, &w->kv);
        }
    }
}

/* ---- tensors ---- */

ew_status ew_gguf_add_tensor(ew_gguf_writer *w, const char *name, ew_dtype dtype, uint32_t n_dims, const uint64_t *dims,
                             ew_error *reterr)
{
    ew_tensor_view t = {.name = name, .dtype = dtype, .n_dims = n_dims, .dims = {1, 1, 1, 1}};
    EW_ASSERT(!w->begun && n_dims >= 1 && n_dims <= EW_TENSOR_MAX_DIMS);
    memcpy(t.dims, dims, n_dims * sizeof(*dims));
    if (!ew_tensor_bytes(&t, &t.bytes)) {
        char shape[128];
        return ew_fail(reterr, EW_EINVAL, "%s: tensor '%s' cannot be stored as %s", w->path, name,
                       ew_tensor_describe(&t, shape, sizeof(shape)));
    }
    void *items = w->tensor;
    ew_status st = ew_grow(&items, &w->tensor_cap, w->n_tensors + 1, sizeof(*w->tensor), EW_LIMIT_GGUF_TENSORS);
    w->tensor = items;
    char *copy = st == EW_OK ? ew_str_dup(name) : NULL;
    st = st == EW_OK && copy == NULL ? EW_ENOMEM : st;
    st = st == EW_OK ? ew_map_add(w->names, name, strlen(name), w) : st;
    if (st != EW_OK) {
        ew_free(copy);
        return ew_fail(reterr, st, "%s: tensor '%s' cannot be added (%s)", w->path, name,
                       st == EW_EEXIST ? "it is there already" : "memory or limit");
    }
    w->tensor[w->n_tensors++] = (out_tensor){copy, w->next_offset, t.bytes};
    uint64_t len = strlen(name);
    uint32_t type = (uint32_t)dtype;
    ew_buf_add(&w->table, &len, sizeof(len));
    ew_buf_add(&w->table, name, len);
    ew_buf_add(&w->table, &n_dims, sizeof(n_dims));
    ew_buf_add(&w->table, t.dims, n_dims * sizeof(*dims));
    ew_buf_add(&w->table, &type, sizeof(type));
    ew_buf_add(&w->table, &w->next_offset, sizeof(w->next_offset));
    w->next_offset += EW_ALIGN_UP(t.bytes, ALIGNMENT);
    return EW_OK;
}

static ew_status pad(ew_gguf_writer *w, ew_error *reterr)
{
    static const char zeros[ALIGNMENT];
    size_t over = (size_t)(ew_file_writer_size(w->file) % ALIGNMENT);
    return over == 0 ? EW_OK : ew_file_writer_write(w->file, zeros, ALIGNMENT - over, reterr);
}

ew_status ew_gguf_writer_begin(ew_gguf_writer *w, ew_error *reterr)
{
    if (w->error.code != EW_OK) {
        return ew_fail(reterr, w->error.code, "%s", w->error.msg);
    }
    EW_TRY(ew_buf_check(&w->kv, reterr));
    EW_TRY(ew_buf_check(&w->table, reterr));
    uint32_t version = 3;
    uint64_t counts[2] = {w->n_tensors, w->n_kv};
    EW_TRY(ew_file_writer_write(w->file, "GGUF", 4, reterr));
    EW_TRY(ew_file_writer_write(w->file, &version, sizeof(version), reterr));
    EW_TRY(ew_file_writer_write(w->file, counts, sizeof(counts), reterr));
    EW_TRY(ew_file_writer_write(w->file, ew_buf_str(&w->kv), w->kv.size, reterr));
    EW_TRY(ew_file_writer_write(w->file, ew_buf_str(&w->table), w->table.size, reterr));
    EW_TRY(pad(w, reterr));
    w->begun = true;
    return EW_OK;
}

ew_status ew_gguf_write(ew_gguf_writer *w, const void *data, size_t bytes, ew_error *reterr)
{
    const char *p = data;
    EW_ASSERT(w->begun);
    while (bytes > 0) {
        if (w->i_tensor == w->n_tensors) {
            return ew_fail(reterr, EW_EINVAL, "%s: %zu bytes more than the tensors need", w->path, bytes);
        }
        size_t n = EW_MIN(bytes, w->tensor[w->i_tensor].bytes - w->written);
        EW_TRY(ew_file_writer_write(w->file, p, n, reterr));
        p += n;
        bytes -= n;
        w->written += n;
        if (w->written == w->tensor[w->i_tensor].bytes) {
            EW_TRY(pad(w, reterr));
            w->i_tensor++;
            w->written = 0;
        }
    }
    return EW_OK;
}

ew_status ew_gguf_write_tensor(ew_gguf_writer *w, size_t i, const void *data, ew_error *reterr)
{
    if (i != w->i_tensor || w->written != 0 || i >= w->n_tensors) {
        return ew_fail(reterr, EW_EINVAL, "%s: tensor %zu is written out of order (%zu is next)", w->path, i,
                       w->i_tensor);
    }
    return ew_gguf_write(w, data, w->tensor[i].bytes, reterr);
}

ew_status ew_gguf_writer_commit(ew_gguf_writer *w, ew_error *reterr)
{
    if (!w->begun || w->i_tensor != w->n_tensors) {
        return ew_fail(reterr, EW_EINVAL, "%s: %zu of %zu tensors were written", w->path, w->i_tensor, w->n_tensors);
    }
    return ew_file_writer_commit(w->file, reterr);
}

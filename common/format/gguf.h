/* GGUF version 2 and 3, read and write. Source: ggml/docs/gguf.md.
 *
 * Reading maps the file; keys, strings and tensor data are views into the map and live as long as the handle. Everything in
 * the file is checked at open: sizes, offsets, alignment, counts (base/limits.h), no duplicate keys or tensor names,
 * each tensor inside the data section. A file of the
 * other byte order is refused.
 * Writing: declare everything, begin, stream tensor data in declared order, commit. The file appears under its name only at
 * commit (a temporary beside it is renamed), free without commit leaves nothing behind.
 * Locking: a read handle is immutable and may be shared by threads; a writer has one owning thread. */
#ifndef EW_FORMAT_GGUF_H
#define EW_FORMAT_GGUF_H

#include "base/base.h"
#include "base/status.h"
#include "tensor/view.h"

typedef enum ew_gguf_type {
    EW_GGUF_U8 = 0,
    EW_GGUF_I8 = 1,
    EW_GGUF_U16 = 2,
    EW_GGUF_I16 = 3,
    EW_GGUF_U32 = 4,
    EW_GGUF_I32 = 5,
    EW_GGUF_F32 = 6,
    EW_GGUF_BOOL = 7,
    EW_GGUF_STRING = 8,
    EW_GGUF_ARRAY = 9,
    EW_GGUF_U64 = 10,
    EW_GGUF_I64 = 11,
    EW_GGUF_F64 = 12
} ew_gguf_type;

typedef struct ew_gguf ew_gguf;

/* EW_EIO/EW_ENOENT (file), EW_ECORRUPT (with tensor or key and offset), EW_EUNSUPPORTED (version, byte order), EW_ELIMIT. */
ew_status ew_gguf_open(const char *path, ew_gguf **ret, ew_error *reterr) EW_MUST_CHECK;
/* The same from memory, which must outlive the handle and be 8-byte aligned. name is for messages. */
ew_status ew_gguf_open_memory(const void *data, size_t size, const char *name, ew_gguf **ret,
                              ew_error *reterr) EW_MUST_CHECK;
void ew_gguf_free(ew_gguf **g);
/* Whether these bytes lie in the mapped file (never for one opened from memory); and their pages given back: they come again at the
 * next touch. */
bool ew_gguf_holds(const ew_gguf *g, const void *data, size_t size);
void ew_gguf_drop(const ew_gguf *g, const void *data, size_t size);
const char *ew_gguf_path(const ew_gguf *g);
/* Size of the whole file. */
size_t ew_gguf_file_bytes(const ew_gguf *g);
uint32_t ew_gguf_version(const ew_gguf *g);

/* ---- values: false when the key is absent or its value does not convert exactly; *ret untouched then ---- */
bool ew_gguf_has(const ew_gguf *g, const char *key);
bool ew_gguf_get_u64(const ew_gguf *g, const char *key, uint64_t *ret);
bool ew_gguf_get_u32(const ew_gguf *g, const char *key, uint32_t *ret);
bool ew_gguf_get_i64(const ew_gguf *g, const char *key, int64_t *ret);
/* Any number; integers up to 2^53. */
bool ew_gguf_get_f64(const ew_gguf *g, const char *key, double *ret);
bool ew_gguf_get_f32(const ew_gguf *g, const char *key, float *ret);
bool ew_gguf_get_bool(const ew_gguf *g, const char *key, bool *ret);
/* Not NUL-terminated: data and size. Valid UTF-8 is not promised. */
bool ew_gguf_get_str(const ew_gguf *g, const char *key, ew_span *ret);
/* A copy, truncated to dst; false when absent, no string, or longer than size - 1. */
bool ew_gguf_get_str_copy(const ew_gguf *g, const char *key, char *dst, size_t size);

typedef struct ew_gguf_array {
    ew_gguf_type type; /* of the elements; never ARRAY */
    size_t n;
    const void *data;      /* little-endian elements, maybe unaligned; for strings the raw bytes */
    const uint64_t *index; /* strings only: offset of each element's length field in data */
} ew_gguf_array;
bool ew_gguf_get_array(const ew_gguf *g, const char *key, ew_gguf_array *ret);
/* Element i < n of a string array. */
ew_span ew_gguf_array_str(const ew_gguf_array *a, size_t i);
/* Element i < n of a numeric or bool array as a double / an integer (0 when it is no integer type). */
double ew_gguf_array_f64(const ew_gguf_array *a, size_t i);
int64_t ew_gguf_array_i64(const ew_gguf_array *a, size_t i);

/* Iteration in file order. */
size_t ew_gguf_n_kv(const ew_gguf *g);
const char *ew_gguf_key(const ew_gguf *g, size_t i);
ew_gguf_type ew_gguf_key_type(const ew_gguf *g, size_t i);

/* ---- tensors ---- */
size_t ew_gguf_n_tensors(const ew_gguf *g);
const ew_tensor_view *ew_gguf_tensor(const ew_gguf *g, size_t i);
/* NULL when absent. */
const ew_tensor_view *ew_gguf_find(const ew_gguf *g, const char *name);
/* EW_ENOENT with a message that names the file, the tensor and what the file is. */
ew_status ew_gguf_need(const ew_gguf *g, const char *name, const ew_tensor_view **ret, ew_error *reterr) EW_MUST_CHECK;

/* ---- writing ---- */
typedef struct ew_gguf_writer ew_gguf_writer;

ew_status ew_gguf_writer_new(const char *path, ew_gguf_writer **ret, ew_error *reterr) EW_MUST_CHECK;
/* Removes the unfinished file unless committed. */
void ew_gguf_writer_free(ew_gguf_writer **w);

/* Keys, before begin. Errors (a duplicate key, memory, a limit) are kept and returned by ew_gguf_writer_begin. */
void ew_gguf_add_str(ew_gguf_writer *w, const char *key, const char *value);
void ew_gguf_add_str_n(ew_gguf_writer *w, const char *key, const char *value, size_t size);
void ew_gguf_add_u32(ew_gguf_writer *w, const char *key, uint32_t value);
void ew_gguf_add_i32(ew_gguf_writer *w, const char *key, int32_t value);
void ew_gguf_add_u64(ew_gguf_writer *w, const char *key, uint64_t value);
void ew_gguf_add_f32(ew_gguf_writer *w, const char *key, float value);
void ew_gguf_add_bool(ew_gguf_writer *w, const char *key, bool value);
/* Fixed-width elements of type (not STRING, ARRAY), n of them, host order. */
void ew_gguf_add_array(ew_gguf_writer *w, const char *key, ew_gguf_type type, const void *data, size_t n);
void ew_gguf_add_array_str(ew_gguf_writer *w, const char *key, const ew_span *items, size_t n);
/* Every key of g that w does not have yet and that does not start with one of the NULL-terminated skip prefixes (NULL = none). */
void ew_gguf_add_all_from(ew_gguf_writer *w, const ew_gguf *g, const char *const *skip);

/* Declares a tensor, before begin. dims in GGUF order. EW_EEXIST, EW_EINVAL (shape does not fit dtype). */
ew_status ew_gguf_add_tensor(ew_gguf_writer *w, const char *name, ew_dtype dtype, uint32_t n_dims, const uint64_t *dims,
                             ew_error *reterr) EW_MUST_CHECK;
/* Writes header, keys and tensor table. */
ew_status ew_gguf_writer_begin(ew_gguf_writer *w, ew_error *reterr) EW_MUST_CHECK;
/* The data of the next declared tensor in pieces of any size; bytes beyond what the tensors declared are EW_EINVAL. */
ew_status ew_gguf_write(ew_gguf_writer *w, const void *data, size_t bytes, ew_error *reterr) EW_MUST_CHECK;
/* All data of tensor i, which must be the next one. */
ew_status ew_gguf_write_tensor(ew_gguf_writer *w, size_t i, const void *data, ew_error *reterr) EW_MUST_CHECK;
/* Checks that every tensor is complete, syncs and renames. */
ew_status ew_gguf_writer_commit(ew_gguf_writer *w, ew_error *reterr) EW_MUST_CHECK;

#endif

/* safetensors, read (one file, or a directory with an index of shards) and write (one file).
 * Source: huggingface/safetensors README (header of u64 length + JSON, offsets relative to its end).
 *
 * Views have dims in GGUF order like everything here: dims[0] is the *last* entry of the file's shape. Types read: F32, F16,
 * BF16, F64, I8, I16, I32, I64; others (F8_E4M3, BOOL, …) are refused by name. Checked at open: header limits, every offset
 * and shape, no gaps or overlaps, no duplicates within a file or between shards.
 * Locking: a read handle is immutable and may be shared; a writer has one owning thread. */
#ifndef EW_FORMAT_SAFETENSORS_H
#define EW_FORMAT_SAFETENSORS_H

#include "base/base.h"
#include "base/status.h"
#include "tensor/view.h"

typedef struct ew_safetensors ew_safetensors;

/* path: a .safetensors file; or a directory with model.safetensors, or model.safetensors.index.json and its shards (shard names
 * may not leave the directory). */
ew_status ew_safetensors_open(const char *path, ew_safetensors **ret, ew_error *reterr) EW_MUST_CHECK;
/* One file in memory, which must outlive the handle. name is for messages. */
ew_status ew_safetensors_open_memory(const void *data, size_t size, const char *name, ew_safetensors **ret,
                                     ew_error *reterr) EW_MUST_CHECK;
void ew_safetensors_free(ew_safetensors **s);
/* As ew_gguf_holds and ew_gguf_drop. */
bool ew_safetensors_holds(const ew_safetensors *s, const void *data, size_t size);
void ew_safetensors_drop(const ew_safetensors *s, const void *data, size_t size);
size_t ew_safetensors_n_tensors(const ew_safetensors *s);
const ew_tensor_view *ew_safetensors_tensor(const ew_safetensors *s, size_t i);
/* NULL when absent. */
const ew_tensor_view *ew_safetensors_find(const ew_safetensors *s, const char *name);
/* Value of a key of __metadata__ (first shard that has it), NUL-terminated; NULL when absent. */
const char *ew_safetensors_metadata(const ew_safetensors *s, const char *key);

typedef struct ew_safetensors_writer ew_safetensors_writer;

ew_status ew_safetensors_writer_new(const char *path, ew_safetensors_writer **ret, ew_error *reterr) EW_MUST_CHECK;
/* Removes the unfinished file unless committed. */
void ew_safetensors_writer_free(ew_safetensors_writer **w);
ew_status ew_safetensors_add_metadata(ew_safetensors_writer *w, const char *key, const char *value,
                                      ew_error *reterr) EW_MUST_CHECK;
/* Declares a tensor (F32, F16, BF16 only) with dims in GGUF order. Data follows in declared order. */
ew_status ew_safetensors_add_tensor(ew_safetensors_writer *w, const char *name, ew_dtype dtype, uint32_t n_dims,
                                    const uint64_t *dims, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_safetensors_writer_begin(ew_safetensors_writer *w, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_safetensors_write(ew_safetensors_writer *w, const void *data, size_t bytes,
                               ew_error *reterr) EW_MUST_CHECK;
/* Checks that all data is there, syncs, renames. */
ew_status ew_safetensors_writer_commit(ew_safetensors_writer *w, ew_error *reterr) EW_MUST_CHECK;

#endif

/* A named tensor inside a file or in memory: what format/ hands out and model/ binds. Exposed value type; borrows. */
#ifndef EW_TENSOR_VIEW_H
#define EW_TENSOR_VIEW_H

#include "kern/kern.h"

#define EW_TENSOR_MAX_DIMS 4

/* dims in GGUF order: dims[0] is the fastest (length of a row), dims[1] the number of rows, … Unused dims are 1. */
typedef struct ew_tensor_view {
    const char *name; /* NUL-terminated, borrowed */
    ew_dtype dtype;
    uint32_t n_dims; /* 1..4 (0-dimensional tensors of safetensors become 1) */
    uint64_t dims[EW_TENSOR_MAX_DIMS];
    const void *data; /* borrowed; NULL in a declared but unwritten tensor */
    size_t bytes;
} ew_tensor_view;

/* Product of the dims; false on overflow. */
bool ew_tensor_elems(const ew_tensor_view *t, size_t *ret) EW_MUST_CHECK;
/* Bytes that dtype and dims demand; false: unknown dtype, dims[0] no multiple of the block, zero dim, overflow. */
bool ew_tensor_bytes(const ew_tensor_view *t, size_t *ret) EW_MUST_CHECK;
/* "Q8_0 [2048, 5632]" in GGUF order, for messages; returns dst. */
char *ew_tensor_describe(const ew_tensor_view *t, char *dst, size_t size);
/* The view as a matrix of dims[1]*dims[2]*dims[3] rows of dims[0]. False when the dtype cannot be computed with or a
 * number does not fit. */
bool ew_tensor_mat(const ew_tensor_view *t, ew_mat *ret) EW_MUST_CHECK;

#endif

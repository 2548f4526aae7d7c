#include "tensor/view.h"

#include <stdio.h>

bool ew_tensor_elems(const ew_tensor_view *t, size_t *ret)
{
    size_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] > SIZE_MAX || !ew_size_mul(n, (size_t)t->dims[i], &n)) {
            return false;
        }
    }
    *ret = n;
    return true;
}

bool ew_tensor_bytes(const ew_tensor_view *t, size_t *ret)
{
    size_t n, row;
    if (t->n_dims < 1 || t->n_dims > EW_TENSOR_MAX_DIMS || !ew_tensor_elems(t, &n) || n == 0 ||
        !ew_dtype_row_bytes(t->dtype, (size_t)t->dims[0], &row)) {
        return false;
    }
    return ew_size_mul(row, n / (size_t)t->dims[0], ret);
}

char *ew_tensor_describe(const ew_tensor_view *t, char *dst, size_t size)
{
    size_t used = 0;
    int k = snprintf(dst, size, "%s [", ew_dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->n_dims && k >= 0 && (used += (size_t)k) < size; i++) {
        k = snprintf(dst + used, size - used, "%s%llu", i > 0 ? ", " : "", (unsigned long long)t->dims[i]);
    }
    if (k >= 0 && (used += (size_t)k) < size) {
        (void)snprintf(dst + used, size - used, "]");
    }
    return dst;
}

bool ew_tensor_mat(const ew_tensor_view *t, ew_mat *ret)
{
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    size_t n, row;
    if (info == NULL || !info->compute || t->n_dims < 1 || !ew_tensor_elems(t, &n) || n == 0 ||
        !ew_dtype_row_bytes(t->dtype, (size_t)t->dims[0], &row)) {
        return false;
    }
    size_t rows = n / (size_t)t->dims[0];
    if (rows > UINT32_MAX || t->dims[0] > UINT32_MAX) {
        return false;
    }
    *ret = (ew_mat){t->dtype, (uint32_t)rows, (uint32_t)t->dims[0], t->data, row};
    return true;
}

/* Adapters in the weights: one matrix, and a whole GGUF. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"
#include "sys/file.h"

static void merge_rows(const ew_adapter *l, uint32_t layer, ew_linear linear, size_t first, size_t n, float *w)
{
    size_t a, b;
    if (!ew_adapter_slot(l, layer, linear, &a, &b)) {
        return;
    }
    const size_t r = l->opt.rank, cols = (b - a) / r;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < r; k++) {
            const float s = l->scale * l->params[b + (first + i) * r + k];
            const float *row = l->params + a + k * cols;
            for (size_t j = 0; j < cols; j++) {
                w[i * cols + j] += s * row[j];
            }
        }
    }
}

void ew_adapter_merge_into(const ew_adapter *l, uint32_t layer, ew_linear linear, float *w)
{
    uint32_t rows, cols;
    ew_linear_shape(&l->cfg, linear, &rows, &cols);
    merge_rows(l, layer, linear, 0, rows, w);
}

/* The targeted linear that a tensor of the base file is; false for all others. */
static bool find_target(const ew_adapter *l, const char *name, uint32_t *ret_layer, ew_linear *ret_linear)
{
    for (uint32_t il = 0; il < l->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            char want[64];
            snprintf(want, sizeof(want), "blk.%u.%s.weight", il, ew_linear_gguf_name((ew_linear)i));
            if ((l->opt.targets & EW_ADAPTER_TARGET(i)) != 0 && strcmp(want, name) == 0) {
                *ret_layer = il;
                *ret_linear = (ew_linear)i;
                return true;
            }
        }
    }
    return false;
}

static ew_status write_merged(const ew_adapter *l, uint32_t layer, ew_linear linear, const ew_tensor_view *t,
                              ew_gguf_writer *w, ew_error *reterr)
{
    const size_t cols = t->dims[0], row_bytes = t->bytes / (size_t)t->dims[1];
    float *row = ew_malloc(cols, sizeof(float));
    uint16_t *half = ew_malloc(cols, sizeof(uint16_t));
    ew_status st = row != NULL && half != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to merge a row");
    for (size_t i = 0; st == EW_OK && i < t->dims[1]; i++) {
        ew_dequant_row(t->dtype, (const char *)t->data + i * row_bytes, row, cols);
        merge_rows(l, layer, linear, i, 1, row);
        ew_quant_row(EW_DTYPE_F16, row, half, cols);
        st = ew_gguf_write(w, half, cols * sizeof(uint16_t), reterr);
    }
    ew_free(row);
    ew_free(half);
    return st;
}

ew_status ew_adapter_merge_gguf(const ew_adapter *l, const ew_model *m, const char *out_path,
                                const ew_adapter_merge_opt *opt, ew_error *reterr)
{
    static const ew_adapter_merge_opt none = {0};
    const ew_progress *progress = &(opt != NULL ? opt : &none)->progress;
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    if (ew_dir_exists(ew_model_path(m))) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "merging needs a GGUF base, %s is a directory. HINT: edgewise model convert it first",
                       ew_model_path(m));
    }
    EW_TRY(ew__adapter_check_base(l, out_path, ew_model_sha256_hex(m), reterr));
    EW_TRY(ew_gguf_open(ew_model_path(m), &g, reterr));
    EW_TRY(ew_gguf_writer_new(out_path, &w, reterr));
    ew_gguf_add_all_from(w, g, NULL);
    const size_t n = ew_gguf_n_tensors(g);
    uint32_t layer = 0;
    ew_linear linear = EW_LINEAR_Q;
    for (size_t i = 0; i < n; i++) {
        const ew_tensor_view *t = ew_gguf_tensor(g, i);
        const ew_dtype type = find_target(l, t->name, &layer, &linear) ? EW_DTYPE_F16 : t->dtype;
        EW_TRY(ew_gguf_add_tensor(w, t->name, type, t->n_dims, t->dims, reterr));
    }
    EW_TRY(ew_gguf_writer_begin(w, reterr));
    for (size_t i = 0; i < n; i++) {
        const ew_tensor_view *t = ew_gguf_tensor(g, i);
        if (find_target(l, t->name, &layer, &linear)) {
            EW_TRY(write_merged(l, layer, linear, t, w, reterr));
        } else {
            EW_TRY(ew_gguf_write(w, t->data, t->bytes, reterr));
        }
        const ew_progress_info info = {
            .phase = "merge", .unit = "tensors", .done = i + 1, .total = n, .loss = (double)NAN, .left_s = (double)NAN};
        if (!ew_progress_tell(progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "merging was stopped");
        }
    }
    return ew_gguf_writer_commit(w, reterr);
}

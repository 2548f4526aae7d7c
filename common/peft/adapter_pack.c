/* Pieces of an adapter between the base's order of rows and a file's, and between linears and matrices that hold several. */
#include <string.h>

#include "peft/adapter_int.h"

/* Row of the GGUF order (pairs side by side) that holds row `hf` of the Hugging Face order (halves) of a Q or K matrix. */
static size_t gguf_row(const ew_model_config *cfg, size_t hf)
{
    const size_t head = hf / cfg->D, j = hf % cfg->D, half = cfg->n_rot / 2;
    if (j >= cfg->n_rot) {
        return hf;
    }
    return head * cfg->D + (j < half ? 2 * j : 2 * (j - half) + 1);
}

typedef struct row_pair {
    size_t own, file; /* of the linear in the base; of the module in the file */
} row_pair;

/* The row that is `hf` in Hugging Face order. */
static row_pair find_row(const ew_model_config *cfg, const ew_module *mod, ew_linear l, ew_rope_kind order, size_t hf)
{
    const bool rotary = l == EW_LINEAR_Q || l == EW_LINEAR_K;
    const size_t gguf = rotary ? gguf_row(cfg, hf) : hf;
    return (row_pair){.own = cfg->rope_kind == EW_ROPE_NORM ? gguf : hf,
                      .file = ew_module_row(cfg, mod, l, order == EW_ROPE_NORM ? gguf : hf)};
}

bool ew__module_targeted(const ew_adapter *a, const ew_module *mod)
{
    for (uint32_t k = 0; k < mod->n; k++) {
        if ((a->opt.targets & EW_ADAPTER_TARGET(mod->first + k)) != 0) {
            return true;
        }
    }
    return false;
}

void ew__pack_lora(const ew_adapter *a, const ew_module *mod, uint32_t layer, ew_rope_kind order, uint32_t rank,
                   float factor, float *A, float *B)
{
    const size_t R = a->opt.rank;
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, mod->first, &rows, &cols);
    memset(A, 0, (size_t)rank * cols * sizeof(float));
    memset(B, 0, (size_t)rank * ew_module_rows(&a->cfg, mod) * sizeof(float));
    for (uint32_t k = 0; k < mod->n; k++) {
        const ew_linear l = (ew_linear)(mod->first + k);
        const float *pa = ew__adapter_part(a, EW_PART_A, layer, l), *pb = ew__adapter_part(a, EW_PART_B, layer, l);
        if (pa == NULL) {
            continue;
        }
        ew_linear_shape(&a->cfg, l, &rows, &cols);
        memcpy(A + k * R * cols, pa, R * cols * sizeof(float));
        for (size_t hf = 0; hf < rows; hf++) {
            const row_pair r = find_row(&a->cfg, mod, l, order, hf);
            for (size_t j = 0; j < R; j++) {
                B[r.file * rank + k * R + j] = factor * pb[r.own * R + j];
            }
        }
    }
}

void ew__unpack_lora(ew_adapter *a, const ew_module *mod, uint32_t layer, ew_rope_kind order, uint32_t rank,
                     float factor, uint32_t each, const float *A, const float *B)
{
    const size_t R = a->opt.rank, n = EW_MIN((size_t)(each > 0 ? each : rank), R);
    for (uint32_t k = 0; k < mod->n; k++) {
        const ew_linear l = (ew_linear)(mod->first + k);
        const size_t at = (size_t)k * each;
        float *pa = ew__adapter_part(a, EW_PART_A, layer, l), *pb = ew__adapter_part(a, EW_PART_B, layer, l);
        if (pa == NULL) {
            continue;
        }
        uint32_t rows, cols;
        ew_linear_shape(&a->cfg, l, &rows, &cols);
        memcpy(pa, A + at * cols, n * cols * sizeof(float));
        for (size_t hf = 0; hf < rows; hf++) {
            const row_pair r = find_row(&a->cfg, mod, l, order, hf);
            for (size_t j = 0; j < n; j++) {
                pb[r.own * R + j] = factor * B[r.file * rank + at + j];
            }
        }
    }
}

void ew__pack_rows(const ew_adapter *a, ew_part_what what, const ew_module *mod, uint32_t layer, ew_rope_kind order,
                   float fill, float *v)
{
    for (uint32_t k = 0; k < mod->n; k++) {
        const ew_linear l = (ew_linear)(mod->first + k);
        const float *p = ew__adapter_part(a, what, layer, l);
        uint32_t rows, cols;
        ew_linear_shape(&a->cfg, l, &rows, &cols);
        for (size_t hf = 0; hf < rows; hf++) {
            const row_pair r = find_row(&a->cfg, mod, l, order, hf);
            v[r.file] = p != NULL ? p[r.own] : fill;
        }
    }
}

void ew__unpack_rows(ew_adapter *a, ew_part_what what, const ew_module *mod, uint32_t layer, ew_rope_kind order,
                     const float *v)
{
    for (uint32_t k = 0; k < mod->n; k++) {
        const ew_linear l = (ew_linear)(mod->first + k);
        float *p = ew__adapter_part(a, what, layer, l);
        uint32_t rows, cols;
        ew_linear_shape(&a->cfg, l, &rows, &cols);
        for (size_t hf = 0; p != NULL && hf < rows; hf++) {
            const row_pair r = find_row(&a->cfg, mod, l, order, hf);
            p[r.own] = v[r.file];
        }
    }
}

void ew__reorder_key(const ew_model_config *cfg, ew_rope_kind order, bool to_file, const float *src, float *dst)
{
    const ew_module k = {.first = EW_LINEAR_K, .n = 1};
    for (size_t hf = 0; hf < (size_t)cfg->K * cfg->D; hf++) {
        const row_pair r = find_row(cfg, &k, EW_LINEAR_K, order, hf);
        dst[to_file ? r.file : r.own] = src[to_file ? r.own : r.file];
    }
}

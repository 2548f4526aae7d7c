/* Adapters in the weights: one matrix, and a whole GGUF. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "format/gguf.h"
#include "kern/dtype.h"
#include "model/save.h"
#include "peft/adapter_int.h"
#include "sys/file.h"

static const ew_linear_hook *hook_of(const ew_adapter *a, uint32_t layer, ew_linear l)
{
    return a->linear != NULL ? &a->linear[(size_t)layer * EW_LINEAR_COUNT + l] : NULL;
}

/* Row r of the linear, w[C_in]. */
static void merge_row(const ew_adapter *a, uint32_t layer, ew_linear l, size_t r, float *w)
{
    const ew_linear_hook *h = hook_of(a, layer, l);
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, l, &rows, &cols);
    if (h == NULL) {
        return;
    }
    for (size_t k = 0; k < h->rank; k++) {
        const float s = h->scale * h->b[r * h->rank + k];
        const float *row = h->a + k * cols;
        for (size_t j = 0; j < cols; j++) {
            w[j] += s * row[j];
        }
    }
    const float f = (h->ratio != NULL ? h->ratio[r] : 1) * (h->out_scale != NULL ? h->out_scale[r] : 1);
    for (size_t j = 0; j < cols; j++) {
        w[j] *= f * (h->in_scale != NULL ? h->in_scale[j] : 1);
    }
}

void ew_adapter_merge_into(const ew_adapter *a, uint32_t layer, ew_linear linear, float *w)
{
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, linear, &rows, &cols);
    for (size_t r = 0; r < rows; r++) {
        merge_row(a, layer, linear, r, w + r * cols);
    }
}

void ew_adapter_merge_bias(const ew_adapter *a, uint32_t layer, ew_linear linear, float *bias)
{
    const ew_linear_hook *h = hook_of(a, layer, linear);
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, linear, &rows, &cols);
    for (size_t r = 0; h != NULL && h->out_scale != NULL && r < rows; r++) {
        bias[r] *= h->out_scale[r];
    }
}

/* ---- a GGUF ---- */

/* What a tensor of the base file is to the adapter. */
typedef struct place {
    uint32_t layer;
    ew_module mod; /* n = 0: nothing */
    bool bias;
} place;

/* A file may have linears on their own that the family's GGUF has fused as a rule, or the other way round: names and rows tell. */
static bool is_matrix(const ew_adapter *a, const ew_tensor_view *t, uint32_t il, ew_linear l, place *ret)
{
    const uint64_t n = t->n_dims > 1 ? t->dims[1] : t->dims[0];
    static const struct {
        const char *name;
        uint32_t n;
    } fused[] = {[EW_LINEAR_Q] = {"attn_qkv", 3}, [EW_LINEAR_GATE] = {"ffn_up", 2}};
    for (unsigned i = 0; i < 2; i++) {
        char weight[64], bias[64];
        ew_module mod = {.first = l, .n = 1};
        const char *name = ew_linear_gguf_name(l);
        if (i == 1 && (l >= EW_COUNT(fused) || fused[l].n == 0)) {
            return false;
        }
        if (i == 1) {
            mod.n = fused[l].n;
            name = fused[l].name;
        }
        (void)snprintf(weight, sizeof(weight), "blk.%u.%s.weight", il, name);
        (void)snprintf(bias, sizeof(bias), "blk.%u.%s.bias", il, name);
        const bool is_bias = strcmp(bias, t->name) == 0;
        if ((is_bias || strcmp(weight, t->name) == 0) && n == ew_module_rows(&a->cfg, &mod) &&
            ew__module_targeted(a, &mod)) {
            *ret = (place){.layer = il, .mod = mod, .bias = is_bias};
            return true;
        }
    }
    return false;
}

static place find_place(const ew_adapter *a, const ew_tensor_view *t)
{
    place ret = {0};
    for (uint32_t il = 0; il < a->cfg.L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            if (is_matrix(a, t, il, (ew_linear)l, &ret)) {
                if (ret.bias && a->opt.kind != EW_ADAPTER_IA3) {
                    ret.mod.n = 0; /* LoRA leaves biases */
                }
                return ret;
            }
        }
    }
    return ret;
}

/* The type of a merged matrix. */
static ew_dtype type_of(const ew_tensor_view *t, const place *p, const ew_adapter_merge_opt *opt)
{
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    const bool again = opt->keep_type && info != NULL && info->quantize;
    return p->bias || again ? t->dtype : EW_DTYPE_F16;
}

/* The linear and its row that row i of the module is. */
static ew_linear split_row(const ew_adapter *a, const ew_module *mod, size_t *io)
{
    for (uint32_t k = 0;; k++) {
        uint32_t rows, cols;
        ew_linear_shape(&a->cfg, (ew_linear)(mod->first + k), &rows, &cols);
        if (*io < rows || k + 1 == mod->n) {
            return (ew_linear)(mod->first + k);
        }
        *io -= rows;
    }
}

static ew_status write_bias(const ew_adapter *a, const place *p, const ew_tensor_view *t, ew_gguf_writer *w,
                            ew_error *reterr)
{
    const size_t n = (size_t)t->dims[0];
    float *row = ew_malloc(n, sizeof(float));
    void *out = ew_malloc(n, sizeof(float));
    ew_status st = row != NULL && out != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to merge a bias");
    if (st == EW_OK) {
        size_t at = 0;
        ew_dequant_row(t->dtype, t->data, row, n);
        for (uint32_t k = 0; k < p->mod.n; k++) {
            uint32_t rows, cols;
            ew_linear_shape(&a->cfg, (ew_linear)(p->mod.first + k), &rows, &cols);
            ew_adapter_merge_bias(a, p->layer, (ew_linear)(p->mod.first + k), row + at);
            at += rows;
        }
        ew_quant_row(t->dtype, row, out, n);
        st = ew_gguf_write(w, out, t->bytes, reterr);
    }
    ew_free(row);
    ew_free(out);
    return st;
}

static ew_status write_merged(const ew_adapter *a, const place *p, const ew_tensor_view *t, ew_dtype type,
                              ew_gguf_writer *w, ew_error *reterr)
{
    const size_t cols = (size_t)t->dims[0], row_bytes = t->bytes / (size_t)t->dims[1];
    size_t out_bytes = 0;
    if (!ew_dtype_row_bytes(type, cols, &out_bytes)) {
        return ew_fail(reterr, EW_ECORRUPT, "rows of %zu do not fit the type of '%s'", cols, t->name);
    }
    float *row = ew_malloc(cols, sizeof(float));
    void *out = ew_malloc(out_bytes, 1);
    ew_status st = row != NULL && out != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to merge a row");
    for (size_t i = 0; st == EW_OK && i < t->dims[1]; i++) {
        size_t r = i;
        const ew_linear l = split_row(a, &p->mod, &r);
        ew_dequant_row(t->dtype, (const char *)t->data + i * row_bytes, row, cols);
        merge_row(a, p->layer, l, r, row);
        ew_quant_row(type, row, out, cols);
        st = ew_gguf_write(w, out, out_bytes, reterr);
    }
    ew_free(row);
    ew_free(out);
    return st;
}

/* A matrix with the columns that the adapter thinks it has. */
static ew_status check_shape(const ew_adapter *a, const place *p, const ew_tensor_view *t, ew_error *reterr)
{
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, p->mod.first, &rows, &cols);
    if (info == NULL || !info->compute ||
        (p->bias ? t->n_dims != 1 || !info->quantize || info->block_elems != 1
                 : t->n_dims != 2 || t->dims[0] != cols)) {
        char got[96];
        return ew_fail(reterr, EW_ECONFLICT, "tensor %s is %s, which this adapter does not fit", t->name,
                       ew_tensor_describe(t, got, sizeof(got)));
    }
    return EW_OK;
}

static ew_status check_mergeable(const ew_adapter *a, const ew_model *m, const char *out_path, ew_error *reterr)
{
    if (a->opt.kind != EW_ADAPTER_LORA && a->opt.kind != EW_ADAPTER_IA3 && a->opt.kind != EW_ADAPTER_FULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "a %s adapter is no change of weights and cannot be merged",
                       ew_adapter_kind_name(&a->opt));
    }
    if (a->opt.n_exits > 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "early exits are no part of a merged model: it would answer otherwise");
    }
    if (a->opt.kind != EW_ADAPTER_FULL && ew_dir_exists(ew_model_path(m))) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "merging needs a GGUF base, %s is a directory. HINT: edgewise model convert it first",
                       ew_model_path(m));
    }
    return ew__adapter_check_base(a, out_path, ew_model_sha256_hex(m), reterr);
}

static ew_status save_full(const ew_adapter *a, const ew_model *m, const char *out_path,
                           const ew_adapter_merge_opt *opt, ew_error *reterr)
{
    EW_AUTO(ew_model) full = NULL;
    EW_TRY(ew_adapter_model(a, m, &full, reterr));
    ew_save_opt so = {.convert = true, .dtype = EW_DTYPE_F16, .progress = opt->progress};
    for (unsigned t = 0; opt->keep_type && t < 64; t++) {
        const ew_dtype_info *info = ew_dtype_get((ew_dtype)t);
        if (info != NULL && info->quantize && strcmp(ew_dtype_name((ew_dtype)t), ew_model_dtype_name(m)) == 0) {
            so.dtype = (ew_dtype)t;
        }
    }
    return ew_model_save_gguf(full, out_path, &so, reterr);
}

static ew_status write_all(const ew_adapter *a, const ew_gguf *g, const ew_adapter_merge_opt *opt, ew_gguf_writer *w,
                           ew_error *reterr)
{
    const size_t n = ew_gguf_n_tensors(g);
    for (size_t i = 0; i < n; i++) {
        const ew_tensor_view *t = ew_gguf_tensor(g, i);
        const place p = find_place(a, t);
        if (p.mod.n == 0) {
            EW_TRY(ew_gguf_write(w, t->data, t->bytes, reterr));
        } else {
            EW_TRY(p.bias ? write_bias(a, &p, t, w, reterr) : write_merged(a, &p, t, type_of(t, &p, opt), w, reterr));
        }
        const ew_progress_info info = {
            .phase = "merge", .unit = "tensors", .done = i + 1, .total = n, .loss = (double)NAN, .left_s = (double)NAN};
        if (!ew_progress_tell(&opt->progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "merging was stopped");
        }
    }
    return EW_OK;
}

ew_status ew_adapter_merge_gguf(const ew_adapter *a, const ew_model *m, const char *out_path,
                                const ew_adapter_merge_opt *opt, ew_error *reterr)
{
    static const ew_adapter_merge_opt none = {0};
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    opt = opt != NULL ? opt : &none;
    EW_TRY(check_mergeable(a, m, out_path, reterr));
    if (a->opt.kind == EW_ADAPTER_FULL) {
        return save_full(a, m, out_path, opt, reterr);
    }
    EW_TRY(ew_gguf_open(ew_model_path(m), &g, reterr));
    EW_TRY(ew_gguf_writer_new(out_path, &w, reterr));
    ew_gguf_add_all_from(w, g, NULL);
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        const ew_tensor_view *t = ew_gguf_tensor(g, i);
        const place p = find_place(a, t);
        if (p.mod.n > 0) {
            EW_TRY(check_shape(a, &p, t, reterr));
        }
        EW_TRY(
            ew_gguf_add_tensor(w, t->name, p.mod.n > 0 ? type_of(t, &p, opt) : t->dtype, t->n_dims, t->dims, reterr));
    }
    EW_TRY(ew_gguf_writer_begin(w, reterr));
    EW_TRY(write_all(a, g, opt, w, reterr));
    return ew_gguf_writer_commit(w, reterr);
}

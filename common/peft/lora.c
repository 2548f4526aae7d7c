#include "peft/lora.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "format/gguf.h"
#include "kern/dtype.h"
#include "peft/lora_int.h"
#include "sys/file.h"

ew_status ew_lora_opt_resolve(const ew_lora_opt *opt, ew_lora_opt *ret_opt, ew_error *reterr)
{
    ew_lora_opt o = opt != NULL ? *opt : (ew_lora_opt){0};
    o.rank = o.rank == 0 ? 8 : o.rank;
    o.targets = o.targets == 0 ? EW_LORA_ALL : o.targets;
    if (o.rank > EW_LORA_RANK_MAX) {
        return ew_fail(reterr, EW_EINVAL, "LoRA rank %u is above the maximum of %u", o.rank, EW_LORA_RANK_MAX);
    }
    if ((o.targets & ~EW_LORA_ALL) != 0) {
        return ew_fail(reterr, EW_EINVAL, "LoRA targets 0x%x name linears that do not exist", o.targets);
    }
    if (!(o.alpha >= 0) || !isfinite(o.alpha)) {
        return ew_fail(reterr, EW_EINVAL, "LoRA alpha %g is not a positive number", (double)o.alpha);
    }
    if (!(o.alpha > 0)) {
        o.alpha = 2.0F * (float)o.rank;
    }
    *ret_opt = o;
    return EW_OK;
}

/* Fills slot (when not NULL) and returns the parameters of one layer. */
static size_t layer_slots(const ew_model_config *cfg, const ew_lora_opt *o, size_t *slot)
{
    size_t at = 0;
    for (int i = 0; i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        const bool in = (o->targets & EW_LORA_TARGET(i)) != 0 && rows > 0; /* an ungated model has no gate */
        if (slot != NULL) {
            slot[i] = in ? at : SIZE_MAX;
        }
        at += in ? ((size_t)rows + cols) * o->rank : 0;
    }
    return at;
}

size_t ew_lora_count(const ew_model_config *cfg, const ew_lora_opt *opt)
{
    ew_lora_opt o;
    if (ew_lora_opt_resolve(opt, &o, NULL) != EW_OK) {
        return 0;
    }
    return layer_slots(cfg, &o, NULL) * cfg->L;
}

static void bind_pairs(ew_lora *l)
{
    for (uint32_t il = 0; il < l->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            ew_lora_pair *p = &l->pairs[(size_t)il * EW_LINEAR_COUNT + (size_t)i];
            size_t a, b;
            if (ew_lora_slot(l, il, (ew_linear)i, &a, &b)) {
                *p = (ew_lora_pair){l->params + a, l->params + b, l->opt.rank, l->scale};
            }
        }
    }
    l->hooks.lora = l->pairs;
}

static ew_status alloc_shape(const ew_model_config *cfg, const ew_lora_opt *opt, ew_lora **ret, ew_error *reterr)
{
    EW_AUTO(ew_lora) l = ew_calloc(1, sizeof(*l));
    if (l == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for an adapter");
    }
    l->opt = *opt;
    l->scale = opt->alpha / (opt->rslora ? sqrtf((float)opt->rank) : (float)opt->rank);
    l->cfg = *cfg;
    l->layer_n = layer_slots(cfg, opt, l->slot);
    l->n = l->layer_n * cfg->L;
    l->params = ew_aligned(EW_MAX(l->n, (size_t)1) * sizeof(float));
    l->pairs = ew_calloc((size_t)cfg->L * EW_LINEAR_COUNT, sizeof(*l->pairs));
    if (l->params == NULL || l->pairs == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for an adapter of %zu parameters", l->n);
    }
    memset(l->params, 0, l->n * sizeof(float));
    bind_pairs(l);
    *ret = l;
    l = NULL;
    return EW_OK;
}

ew_status ew__lora_alloc(const ew_model *m, const ew_lora_opt *opt, ew_lora **ret, ew_error *reterr)
{
    EW_AUTO(ew_lora) l = NULL;
    EW_TRY(alloc_shape(ew_model_config_of(m), opt, &l, reterr));
    const char *sha = ew_model_sha256_hex(m);
    ew_str_copy(l->base_sha256, sizeof(l->base_sha256), sha != NULL ? sha : "");
    *ret = l;
    l = NULL;
    return EW_OK;
}

ew_status ew_lora_new(const ew_model *m, const ew_lora_opt *opt, ew_lora **ret_lora, ew_error *reterr)
{
    ew_lora_opt o;
    EW_TRY(ew_lora_opt_resolve(opt, &o, reterr));
    ew_lora *l = NULL;
    EW_TRY(ew__lora_alloc(m, &o, &l, reterr));
    ew_rng rng;
    ew_rng_init(&rng, o.seed, 0x6c6f7261);
    for (uint32_t il = 0; il < l->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            size_t a, b;
            if (!ew_lora_slot(l, il, (ew_linear)i, &a, &b)) {
                continue;
            }
            const size_t cols = (b - a) / o.rank;
            const double bound = 1.0 / sqrt((double)cols);
            for (size_t j = a; j < b; j++) {
                l->params[j] = (float)(bound * (2.0 * ew_rng_f64(&rng) - 1.0));
            }
        }
    }
    *ret_lora = l;
    return EW_OK;
}

ew_status ew_lora_dup(const ew_lora *l, ew_lora **ret_lora, ew_error *reterr)
{
    ew_lora *c = NULL;
    EW_TRY(alloc_shape(&l->cfg, &l->opt, &c, reterr));
    memcpy(c->params, l->params, l->n * sizeof(float));
    memcpy(c->base_sha256, l->base_sha256, sizeof(c->base_sha256));
    *ret_lora = c;
    return EW_OK;
}

void ew_lora_free(ew_lora **l)
{
    ew_lora *p = *l;
    *l = NULL;
    if (p != NULL) {
        ew_free(p->params);
        ew_free(p->pairs);
        ew_free(p);
    }
}

const ew_lora_opt *ew_lora_opt_of(const ew_lora *l)
{
    return &l->opt;
}

float ew_lora_scale(const ew_lora *l)
{
    return l->scale;
}

const char *ew_lora_base_sha256(const ew_lora *l)
{
    return l->base_sha256;
}

float *ew_lora_params(ew_lora *l, size_t *ret_n)
{
    *ret_n = l->n;
    return l->params;
}

bool ew_lora_slot(const ew_lora *l, uint32_t layer, ew_linear linear, size_t *ret_a, size_t *ret_b)
{
    if (layer >= l->cfg.L || linear >= EW_LINEAR_COUNT || l->slot[linear] == SIZE_MAX) {
        return false;
    }
    uint32_t rows, cols;
    ew_linear_shape(&l->cfg, linear, &rows, &cols);
    *ret_a = layer * l->layer_n + l->slot[linear];
    *ret_b = *ret_a + (size_t)cols * l->opt.rank;
    return true;
}

const ew_hooks *ew_lora_hooks(const ew_lora *l)
{
    return &l->hooks;
}

/* --- merging --- */

static void merge_rows(const ew_lora *l, uint32_t layer, ew_linear linear, size_t first, size_t n, float *w)
{
    size_t a, b;
    if (!ew_lora_slot(l, layer, linear, &a, &b)) {
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

void ew_lora_merge_into(const ew_lora *l, uint32_t layer, ew_linear linear, float *w)
{
    uint32_t rows, cols;
    ew_linear_shape(&l->cfg, linear, &rows, &cols);
    merge_rows(l, layer, linear, 0, rows, w);
}

/* The targeted linear that a tensor of the base file is; false for all others. */
static bool find_target(const ew_lora *l, const char *name, uint32_t *ret_layer, ew_linear *ret_linear)
{
    for (uint32_t il = 0; il < l->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            char want[64];
            snprintf(want, sizeof(want), "blk.%u.%s.weight", il, ew_linear_gguf_name((ew_linear)i));
            if (l->slot[i] != SIZE_MAX && strcmp(want, name) == 0) {
                *ret_layer = il;
                *ret_linear = (ew_linear)i;
                return true;
            }
        }
    }
    return false;
}

static ew_status write_merged(const ew_lora *l, uint32_t layer, ew_linear linear, const ew_tensor_view *t,
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

ew_status ew_lora_merge_gguf(const ew_lora *l, const ew_model *m, const char *out_path, const ew_progress *progress,
                             ew_error *reterr)
{
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    if (ew_dir_exists(ew_model_path(m))) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "merging needs a GGUF base, %s is a directory. HINT: edgewise model convert it first",
                       ew_model_path(m));
    }
    EW_TRY(ew__lora_check_base(l, out_path, ew_model_sha256_hex(m), reterr));
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
        const ew_progress_info info = {"merge", "tensors", i + 1, n, (double)NAN, (double)NAN};
        if (!ew_progress_tell(progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "merging was stopped");
        }
    }
    return ew_gguf_writer_commit(w, reterr);
}

/* --- order of rotary pairs, binding --- */

size_t ew__lora_gguf_row(const ew_model_config *cfg, size_t hf)
{
    const size_t head = hf / cfg->D, j = hf % cfg->D, half = cfg->n_rot / 2;
    if (j >= cfg->n_rot) {
        return hf;
    }
    return head * cfg->D + (j < half ? 2 * j : 2 * (j - half) + 1);
}

void ew__lora_reorder(const ew_lora *l, ew_linear linear, ew_rope_kind file_order, bool to_file, const float *src,
                      float *dst)
{
    uint32_t rows, cols;
    ew_linear_shape(&l->cfg, linear, &rows, &cols);
    const size_t r = l->opt.rank;
    const bool rotary = linear == EW_LINEAR_Q || linear == EW_LINEAR_K;
    if (!rotary || file_order == l->cfg.rope_kind) {
        memcpy(dst, src, rows * r * sizeof(float));
        return;
    }
    /* The one side is in GGUF order, the other in Hugging Face order. */
    const bool src_is_gguf = to_file == (l->cfg.rope_kind == EW_ROPE_NORM);
    for (size_t hf = 0; hf < rows; hf++) {
        const size_t g = ew__lora_gguf_row(&l->cfg, hf);
        const size_t from = src_is_gguf ? g : hf, to = src_is_gguf ? hf : g;
        memcpy(dst + to * r, src + from * r, r * sizeof(float));
    }
}

ew_status ew__lora_check_base(const ew_lora *l, const char *path, const char *sha256, ew_error *reterr)
{
    if (sha256 == NULL || sha256[0] == '\0' || l->base_sha256[0] == '\0' || strcmp(sha256, l->base_sha256) == 0) {
        return EW_OK;
    }
    return ew_fail(reterr, EW_ECONFLICT,
                   "adapter %s was made for the base model %.12s…, this one is %.12s…. HINT: an adapter works on the "
                   "very file it was trained on; train it again for this base",
                   path, sha256, l->base_sha256);
}

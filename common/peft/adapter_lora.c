/* LoRA tensors in safetensors and GGUF: which module has what, writing and reading them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"

#define NAME_MAX_BYTES 160

typedef enum piece {
    PIECE_A,
    PIECE_B,
    PIECE_MAGNITUDE
} piece;

static void name_of(const ew_module *mod, piece p, bool gguf, char dst[static NAME_MAX_BYTES])
{
    static const char *const hf[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"};
    static const char *const own[] = {"weight.lora_a", "weight.lora_b", "weight.lora_magnitude"};
    (void)snprintf(dst, NAME_MAX_BYTES, gguf ? "%s.%s" : "base_model.model.%s.%s", mod->name, gguf ? own[p] : hf[p]);
}

/* The module of which l is the first linear; false when there is none. */
static bool module_at(const ew_model_config *cfg, uint32_t layer, uint32_t l, bool gguf, ew_module *ret)
{
    return (gguf ? ew_linear_gguf_matrix : ew_linear_hf_matrix)(cfg, (ew_linear)l, layer, ret) && ret->first == l;
}

/* Pairs of a fused matrix side by side; in GGUF as many as a power of two, so that its one alpha over all ranks stays exact. */
static uint32_t n_side_by_side(const ew_module *mod, bool gguf)
{
    return gguf && mod->n == 3 ? 4 : mod->n;
}

uint32_t ew__lora_file_rank(const ew_adapter *a, const ew_module *mod, bool gguf)
{
    return a->opt.rank * n_side_by_side(mod, gguf);
}

/* ---- writing ---- */

typedef struct saver {
    const ew_adapter *a;
    ew_safetensors_writer *st;
    ew_gguf_writer *gguf;
    float *A, *B; /* NULL: declares */
} saver;

static ew_status put(const saver *s, const ew_module *mod, piece p, uint64_t dim0, uint64_t dim1, const float *data,
                     ew_error *reterr)
{
    char name[NAME_MAX_BYTES];
    const uint64_t dims[2] = {dim0, dim1};
    const uint32_t n_dims = dim1 > 0 ? 2 : 1;
    const size_t bytes = (size_t)(dim0 * EW_MAX(dim1, (uint64_t)1)) * sizeof(float);
    name_of(mod, p, s->gguf != NULL, name);
    if (s->A == NULL) {
        return s->st != NULL ? ew_safetensors_add_tensor(s->st, name, EW_DTYPE_F32, n_dims, dims, reterr)
                             : ew_gguf_add_tensor(s->gguf, name, EW_DTYPE_F32, n_dims, dims, reterr);
    }
    return s->st != NULL ? ew_safetensors_write(s->st, data, bytes, reterr)
                         : ew_gguf_write(s->gguf, data, bytes, reterr);
}

static ew_status save_module(const saver *s, uint32_t layer, const ew_module *mod, ew_error *reterr)
{
    const ew_adapter *a = s->a;
    const bool gguf = s->gguf != NULL;
    const ew_rope_kind order = gguf ? ew_model_gguf_rope(&a->cfg) : EW_ROPE_NEOX;
    const uint32_t rank = ew__lora_file_rank(a, mod, gguf), n_rows = ew_module_rows(&a->cfg, mod);
    uint32_t rows, cols;
    ew_linear_shape(&a->cfg, mod->first, &rows, &cols);
    if (s->A != NULL) { /* GGUF readers divide alpha by this rank */
        ew__pack_lora(a, mod, layer, order, rank, gguf ? (float)n_side_by_side(mod, gguf) : 1.0F, s->A, s->B);
    }
    EW_TRY(put(s, mod, PIECE_A, cols, rank, s->A, reterr));
    EW_TRY(put(s, mod, PIECE_B, rank, n_rows, s->B, reterr));
    if (!a->opt.dora) {
        return EW_OK;
    }
    if (s->A != NULL) {
        ew__pack_rows(a, EW_PART_MAGNITUDE, mod, layer, order, 0, s->B);
    }
    return put(s, mod, PIECE_MAGNITUDE, n_rows, 0, s->B, reterr);
}

static ew_status save_all(const saver *s, ew_error *reterr)
{
    for (uint32_t il = 0; il < s->a->cfg.L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module mod;
            if (module_at(&s->a->cfg, il, l, s->gguf != NULL, &mod) && ew__module_targeted(s->a, &mod)) {
                EW_TRY(save_module(s, il, &mod, reterr));
            }
        }
    }
    return EW_OK;
}

/* DoRA on some linears of a fused matrix would be a magnitude on the others, too. */
static ew_status check_whole(const ew_adapter *a, bool gguf, ew_error *reterr)
{
    for (uint32_t l = 0; a->opt.dora && l < EW_LINEAR_COUNT; l++) {
        ew_module mod;
        if (!module_at(&a->cfg, 0, l, gguf, &mod) || !ew__module_targeted(a, &mod)) {
            continue;
        }
        for (uint32_t k = 0; k < mod.n; k++) {
            if ((a->opt.targets & EW_ADAPTER_TARGET(mod.first + k)) == 0) {
                return ew_fail(reterr, EW_EUNSUPPORTED,
                               "magnitudes on %s alone cannot be written: '%s' has it fused with others. HINT: train "
                               "DoRA on all linears of %s, or write a GGUF adapter",
                               ew_linear_gguf_name((ew_linear)(l + (k == 0 ? 1 : 0))), a->cfg.arch, mod.name);
            }
        }
    }
    return EW_OK;
}

ew_status ew__lora_save(const ew_adapter *a, ew_safetensors_writer *st, ew_gguf_writer *gguf, ew_error *reterr)
{
    saver s = {.a = a, .st = st, .gguf = gguf};
    size_t n_a = 1, n_b = 1;
    EW_TRY(check_whole(a, gguf != NULL, reterr));
    for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
        ew_module mod;
        uint32_t rows, cols;
        if (module_at(&a->cfg, 0, l, gguf != NULL, &mod)) {
            const size_t rank = ew__lora_file_rank(a, &mod, gguf != NULL);
            ew_linear_shape(&a->cfg, mod.first, &rows, &cols);
            n_a = EW_MAX(n_a, rank * cols);
            n_b = EW_MAX(n_b, rank * ew_module_rows(&a->cfg, &mod));
        }
    }
    EW_TRY(save_all(&s, reterr));
    EW_TRY(st != NULL ? ew_safetensors_writer_begin(st, reterr) : ew_gguf_writer_begin(gguf, reterr));
    s.A = ew_malloc(n_a, sizeof(float));
    s.B = ew_malloc(n_b, sizeof(float));
    ew_status status =
        s.A != NULL && s.B != NULL ? save_all(&s, reterr) : ew_fail(reterr, EW_ENOMEM, "no memory to write an adapter");
    ew_free(s.A);
    ew_free(s.B);
    return status;
}

/* ---- reading ---- */

typedef struct loader {
    const ew_lora_source *s;
    const ew_model_config *cfg;
    ew_adapter *a;
    float *A, *B;
    size_t n_A, n_B; /* their room */
    size_t used;     /* tensors that have a place */
} loader;

static const ew_tensor_view *find(const loader *p, const ew_module *mod, piece what)
{
    char name[NAME_MAX_BYTES];
    name_of(mod, what, p->s->gguf != NULL, name);
    return p->s->st != NULL ? ew_safetensors_find(p->s->st, name) : ew_gguf_find(p->s->gguf, name);
}

static size_t n_tensors(const ew_lora_source *s)
{
    return s->st != NULL ? ew_safetensors_n_tensors(s->st) : ew_gguf_n_tensors(s->gguf);
}

static const char *first_name(const ew_lora_source *s)
{
    if (n_tensors(s) == 0) {
        return "none";
    }
    return (s->st != NULL ? ew_safetensors_tensor(s->st, 0) : ew_gguf_tensor(s->gguf, 0))->name;
}

/* t as floats: dim1 rows of dim0. */
static ew_status read_tensor(const loader *p, const ew_tensor_view *t, uint64_t dim0, uint64_t dim1, float **buf,
                             size_t *room, ew_error *reterr)
{
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    const bool fits =
        t->n_dims == 2 ? t->dims[0] == dim0 && t->dims[1] == dim1 : t->n_dims == 1 && dim1 == 1 && t->dims[0] == dim0;
    if (!fits || info == NULL || !info->compute || dim0 % info->block_elems != 0) {
        char got[96];
        return ew_fail(reterr, EW_ECONFLICT, "%s: tensor %s is %s, this model and rank need [%llu, %llu]", p->s->path,
                       t->name, ew_tensor_describe(t, got, sizeof(got)), (unsigned long long)dim0,
                       (unsigned long long)dim1);
    }
    const size_t n = (size_t)(dim0 * dim1);
    if (n > *room) {
        ew_free(*buf);
        *room = 0;
        *buf = ew_malloc(n, sizeof(float));
        if (*buf == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "no memory to read an adapter");
        }
        *room = n;
    }
    for (size_t i = 0; i < dim1; i++) {
        ew_dequant_row(t->dtype, (const char *)t->data + i * (t->bytes / (size_t)dim1), *buf + i * dim0, (size_t)dim0);
    }
    return EW_OK;
}

/* A and B of a module that has a pair; *ret_rank 0 when it has none. */
static ew_status read_pair(loader *p, const ew_module *mod, uint32_t *ret_rank, ew_error *reterr)
{
    const ew_tensor_view *a = find(p, mod, PIECE_A), *b = find(p, mod, PIECE_B);
    uint32_t rows, cols;
    *ret_rank = 0;
    if (a == NULL || b == NULL) {
        return EW_OK; /* one alone has no place, which is told at the end */
    }
    const uint64_t rank = a->n_dims == 2 ? a->dims[1] : 1;
    if (rank == 0 || rank > EW_ADAPTER_FILE_RANK_MAX) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: tensor %s has rank %llu, up to %u are supported", p->s->path,
                       a->name, (unsigned long long)rank, EW_ADAPTER_FILE_RANK_MAX);
    }
    ew_linear_shape(p->cfg, mod->first, &rows, &cols);
    EW_TRY(read_tensor(p, a, cols, rank, &p->A, &p->n_A, reterr));
    EW_TRY(read_tensor(p, b, rank, ew_module_rows(p->cfg, mod), &p->B, &p->n_B, reterr));
    *ret_rank = (uint32_t)rank;
    return EW_OK;
}

static bool all_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (x[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Whether the pair in p is ours: pairs of rank R side by side, with nothing between. */
static bool is_split(const loader *p, const ew_module *mod, uint32_t rank)
{
    const uint32_t R = p->s->own_rank;
    if (mod->n == 1 || R == 0 || rank != R * n_side_by_side(mod, p->s->gguf != NULL)) {
        return false;
    }
    for (uint32_t k = 0; k < mod->n; k++) {
        uint32_t rows, cols;
        ew_linear_shape(p->cfg, (ew_linear)(mod->first + k), &rows, &cols);
        for (size_t r = 0; r < rows; r++) {
            const float *b = p->B + ew_module_row(p->cfg, mod, (ew_linear)(mod->first + k), r) * rank;
            if (!all_zero(b, k * R) || !all_zero(b + (k + 1) * R, rank - (k + 1) * R)) {
                return false;
            }
        }
    }
    return true;
}

/* Targets and rank that the adapter needs for the pair in p. */
static void add_targets(const loader *p, const ew_module *mod, uint32_t rank, ew_adapter_opt *opt)
{
    const bool split = is_split(p, mod, rank);
    const uint32_t R = p->s->own_rank;
    for (uint32_t k = 0; k < mod->n; k++) {
        uint32_t rows, cols;
        ew_linear_shape(p->cfg, (ew_linear)(mod->first + k), &rows, &cols);
        if (!split || !all_zero(p->A + (size_t)k * R * cols, (size_t)R * cols)) {
            opt->targets |= EW_ADAPTER_TARGET(mod->first + k);
        }
    }
    opt->rank = EW_MAX(opt->rank, split ? R : rank);
}

static ew_status fill_module(loader *p, uint32_t layer, const ew_module *mod, uint32_t rank, ew_error *reterr)
{
    const ew_tensor_view *mag = find(p, mod, PIECE_MAGNITUDE);
    float scale = 0;
    EW_TRY(p->s->scale(p->s, mod, rank, &scale, reterr));
    float factor = scale / p->a->scale;
    factor = fabsf(factor - 1) < 1e-6F ? 1 : factor;
    if (!isfinite(factor)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the scale of %s is no number", p->s->path, mod->name);
    }
    ew__unpack_lora(p->a, mod, layer, p->s->order, rank, factor, is_split(p, mod, rank) ? p->s->own_rank : 0, p->A,
                    p->B);
    p->used += 2;
    if (p->a->opt.dora && mag == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: %s has no magnitudes, which DoRA ('use_dora') needs", p->s->path,
                       mod->name);
    }
    if (p->a->opt.dora) {
        EW_TRY(read_tensor(p, mag, ew_module_rows(p->cfg, mod), 1, &p->B, &p->n_B, reterr));
        ew__unpack_rows(p->a, EW_PART_MAGNITUDE, mod, layer, p->s->order, p->B);
        p->used++;
    }
    return EW_OK;
}

/* opt NULL: fills p->a; else only finds out what there is. */
static ew_status walk(loader *p, ew_adapter_opt *opt, ew_error *reterr)
{
    for (uint32_t il = 0; il < p->cfg->L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module mod;
            uint32_t rank = 0;
            if (!module_at(p->cfg, il, l, p->s->gguf != NULL, &mod)) {
                continue;
            }
            EW_TRY(read_pair(p, &mod, &rank, reterr));
            if (rank > 0 && opt != NULL) {
                add_targets(p, &mod, rank, opt);
            } else if (rank > 0) {
                EW_TRY(fill_module(p, il, &mod, rank, reterr));
            }
        }
    }
    return EW_OK;
}

static ew_status load(loader *p, const ew_model *m, ew_adapter_opt *opt, ew_error *reterr)
{
    opt->targets = 0;
    opt->rank = 0;
    EW_TRY(walk(p, opt, reterr));
    if (opt->targets == 0) {
        return ew_fail(reterr, EW_ECONFLICT, "%s has no LoRA tensors for this model (the first is '%.80s')", p->s->path,
                       first_name(p->s));
    }
    EW_TRY(ew_adapter_opt_resolve(opt, opt, reterr));
    EW_TRY(ew__adapter_alloc(m, opt, &p->a, reterr));
    ew__adapter_start(p->a, m);
    EW_TRY(walk(p, NULL, reterr));
    if (p->used != n_tensors(p->s)) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s has %zu tensors of which %zu belong to linears of this model; the others are not supported",
                       p->s->path, n_tensors(p->s), p->used);
    }
    return EW_OK;
}

ew_status ew__lora_load(const ew_lora_source *s, const ew_model *m, ew_adapter_opt *opt, ew_adapter **ret,
                        ew_error *reterr)
{
    loader p = {.s = s, .cfg = ew_model_config_of(m)};
    ew_status st = load(&p, m, opt, reterr);
    ew_free(p.A);
    ew_free(p.B);
    if (st != EW_OK) {
        ew_adapter_free(&p.a);
        return st;
    }
    ew__adapter_loaded(p.a, m);
    *ret = p.a;
    return EW_OK;
}

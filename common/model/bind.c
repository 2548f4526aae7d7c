/* Names become weights: every tensor that the row of the table and the configuration ask for is found, checked and bound; nothing else is
 * accepted. Memory: views into the mapped file; copies (m->owned) only of norms that are not f32 or lack their 1, of misaligned
 * tensors, and of a directory's transposed or interleaved matrices. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/model_int.h"

typedef struct binder {
    ew_model *m;
    const ew_names *names;
    const char *prefix;       /* as the file has it */
    const ew_hf_extra *extra; /* NULL = GGUF */
    ew_map *used;             /* names of the tensors of the file that have a place */
    ew_error *err;
} binder;

#define NAME_MAX_BYTES 160

static bool has_flag(const binder *b, unsigned flag)
{
    return (b->m->arch->flags & flag) != 0;
}

/* "<prefix><layer><slot><suffix>"; "" when the family has no such tensor. */
static const char *name_of(const binder *b, ew_slot slot, uint32_t layer, const char *suffix,
                           char dst[static NAME_MAX_BYTES])
{
    char name[NAME_MAX_BYTES / 2];
    dst[0] = '\0';
    if (ew__slot_name(b->names, slot, layer, name, sizeof(name))[0] != '\0') {
        (void)snprintf(dst, NAME_MAX_BYTES, "%s%s%s", slot == EW_SLOT_OUTPUT ? "" : b->prefix, name, suffix);
    }
    return dst;
}

static const ew_tensor_view *find(const ew_model *m, const char *name)
{
    if (name[0] == '\0') {
        return NULL;
    }
    return m->gguf != NULL ? ew_gguf_find(m->gguf, name) : ew_safetensors_find(m->st, name);
}

static bool has(const binder *b, ew_slot slot, uint32_t layer, const char *suffix)
{
    char name[NAME_MAX_BYTES];
    return find(b->m, name_of(b, slot, layer, suffix, name)) != NULL;
}

ew_status ew__model_keep(ew_model *m, void *p, ew_error *reterr)
{
    ew_status st = p == NULL
                       ? EW_ENOMEM
                       : ew_grow((void **)&m->owned, &m->owned_cap, m->n_owned + 1, sizeof(void *), SIZE_MAX / 16);
    if (st != EW_OK) {
        ew_free(p);
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for the model's tables");
    }
    m->owned[m->n_owned++] = p;
    return EW_OK;
}

/* A copy's memory, the model's. */
static ew_status own(binder *b, size_t bytes, void **ret)
{
    void *p = ew_aligned(bytes);
    EW_TRY(ew__model_keep(b->m, p, b->err));
    b->m->copied_bytes += bytes;
    *ret = p;
    return EW_OK;
}

static ew_status mark_used(binder *b, const char *name)
{
    static char there;
    ew_status st = ew_map_add(b->used, name, strlen(name), &there);
    return st == EW_OK || st == EW_EEXIST ? EW_OK : ew_fail(b->err, st, "not enough memory for the model's tables");
}

static ew_status need_tensor(binder *b, const char *name, uint32_t n_dims, uint64_t dim0, uint64_t dim1,
                             const ew_tensor_view **ret)
{
    const ew_tensor_view *t = find(b->m, name);
    if (t == NULL && name[0] == '\0') {
        return ew_fail(b->err, EW_EUNSUPPORTED, "the configuration asks for a tensor that '%s' models do not have",
                       b->m->arch->name);
    }
    if (t == NULL) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is missing", name);
    }
    char shape[96];
    uint64_t elems = dim0 * dim1;
    bool fits = t->dims[0] == dim0 && (t->n_dims < 2 ? 1 : t->dims[1]) == dim1 && (t->n_dims < 3 || t->dims[2] == 1) &&
                (t->n_dims < 4 || t->dims[3] == 1) && (n_dims == 1 || t->n_dims >= 2);
    if (!fits) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is %s; the configuration asks for [%llu, %llu]", name,
                       ew_tensor_describe(t, shape, sizeof(shape)), (unsigned long long)dim0, (unsigned long long)dim1);
    }
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    if (info == NULL || !info->compute) {
        return ew_fail(b->err, EW_EUNSUPPORTED,
                       "the tensor '%s' is of type %s, which this build cannot compute with. "
                       "HINT: take another quantization of the model",
                       name, ew_dtype_name(t->dtype));
    }
    size_t bytes;
    if (!ew_tensor_bytes(t, &bytes) || bytes != t->bytes || t->data == NULL) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' has %zu bytes, which its shape does not need", name,
                       t->bytes);
    }
    b->m->n_params += elems;
    b->m->weights_bytes += bytes;
    *ret = t;
    return mark_used(b, name);
}

/* The data, copied when the file has it at an address that its scalars do not allow. */
static ew_status aligned_data(binder *b, const ew_tensor_view *t, const void **ret)
{
    size_t align = t->dtype == EW_DTYPE_F32 ? 4 : 2;
    if ((uintptr_t)t->data % align == 0) {
        *ret = t->data;
        return EW_OK;
    }
    void *copy = NULL;
    EW_TRY(own(b, t->bytes, &copy));
    memcpy(copy, t->data, t->bytes);
    *ret = copy;
    return EW_OK;
}

static ew_status bind_mat(binder *b, const char *name, uint32_t rows, uint32_t cols, ew_mat *ret)
{
    const ew_tensor_view *t = NULL;
    const void *data;
    EW_TRY(need_tensor(b, name, 2, cols, rows, &t));
    EW_TRY(aligned_data(b, t, &data));
    *ret = ew_mat_make(t->dtype, rows, cols, data);
    b->m->dtype_bytes[(unsigned)t->dtype % EW_COUNT(b->m->dtype_bytes)] += t->bytes;
    return EW_OK;
}

/* n_rows > 1: rows of one vector each (norms per head), one after the other. */
static ew_status bind_vec(binder *b, const char *name, uint32_t n, uint32_t n_rows, const float **ret)
{
    const ew_tensor_view *t = NULL;
    const void *data;
    EW_TRY(need_tensor(b, name, 1, n, n_rows, &t));
    EW_TRY(aligned_data(b, t, &data));
    if (t->dtype != EW_DTYPE_F32) {
        void *copy = NULL;
        EW_TRY(own(b, (size_t)n * n_rows * sizeof(float), &copy));
        ew_dequant_row(t->dtype, data, copy, (size_t)n * n_rows);
        data = copy;
    }
    *ret = data;
    return EW_OK;
}

/* ---- norms ---- */

/* The weights of a norm, and its shift where ret_b is given and the family has one. */
static ew_status bind_norm(binder *b, ew_slot slot, uint32_t layer, uint32_t n, const float **ret, const float **ret_b)
{
    char name[NAME_MAX_BYTES];
    /* Directories made from TensorFlow's checkpoints of BERT. */
    bool old = b->extra != NULL && !has(b, slot, layer, ".weight") && has(b, slot, layer, ".gamma");
    EW_TRY(bind_vec(b, name_of(b, slot, layer, old ? ".gamma" : ".weight", name), n, 1, ret));
    if (b->extra != NULL && has_flag(b, EW_ARCH_NORM_PLUS_1)) {
        void *copy = NULL;
        EW_TRY(own(b, n * sizeof(float), &copy));
        for (uint32_t i = 0; i < n; i++) {
            ((float *)copy)[i] = (*ret)[i] + 1;
        }
        *ret = copy;
    }
    if (ret_b != NULL && has_flag(b, EW_ARCH_NORM_BIAS)) {
        EW_TRY(bind_vec(b, name_of(b, slot, layer, old ? ".beta" : ".bias", name), n, 1, ret_b));
    }
    return EW_OK;
}

/* A directory of StableLM has "norms.<head>.weight". */
static ew_status gather_head_norms(binder *b, ew_slot slot, uint32_t layer, uint32_t n_heads, const float **ret)
{
    uint32_t D = b->m->cfg.D;
    void *copy = NULL;
    EW_TRY(own(b, (size_t)n_heads * D * sizeof(float), &copy));
    for (uint32_t h = 0; h < n_heads; h++) {
        char suffix[32];
        char name[NAME_MAX_BYTES];
        const float *one = NULL;
        (void)snprintf(suffix, sizeof(suffix), ".%u.weight", h);
        EW_TRY(bind_vec(b, name_of(b, slot, layer, suffix, name), D, 1, &one));
        memcpy((float *)copy + (size_t)h * D, one, D * sizeof(float));
    }
    *ret = copy;
    return EW_OK;
}

static ew_status bind_head_norm(binder *b, ew_slot slot, uint32_t layer, uint32_t n_heads, const float **ret)
{
    char name[NAME_MAX_BYTES];
    if (!b->m->cfg.qk_norm_heads) {
        return bind_norm(b, slot, layer, b->m->cfg.D, ret, NULL);
    }
    return b->extra != NULL ? gather_head_norms(b, slot, layer, n_heads, ret)
                            : bind_vec(b, name_of(b, slot, layer, ".weight", name), b->m->cfg.D, n_heads, ret);
}

static ew_status bind_norms(binder *b, uint32_t i)
{
    const ew_model_config *c = &b->m->cfg;
    ew_layer_weights *w = &b->m->layer[i];
    EW_TRY(bind_norm(b, EW_SLOT_ATTN_NORM, i, c->C, &w->attn_norm, &w->attn_norm_b));
    if (!(c->parallel && has_flag(b, EW_ARCH_ONE_NORM))) {
        EW_TRY(bind_norm(b, EW_SLOT_FFN_NORM, i, c->C, &w->ffn_norm, &w->ffn_norm_b));
    }
    if (c->post_norms) {
        EW_TRY(bind_norm(b, EW_SLOT_ATTN_POST_NORM, i, c->C, &w->attn_post_norm, NULL));
        EW_TRY(bind_norm(b, EW_SLOT_FFN_POST_NORM, i, c->C, &w->ffn_post_norm, NULL));
    }
    if (c->qk_norm) {
        EW_TRY(bind_head_norm(b, EW_SLOT_Q_NORM, i, c->H, &w->q_norm));
        EW_TRY(bind_head_norm(b, EW_SLOT_K_NORM, i, c->K, &w->k_norm));
    }
    return EW_OK;
}

/* ---- linear layers ---- */

/* Row of an interleaved QKV matrix [H][3][D] that becomes row r of [3][H][D]. */
static size_t by_head_row(const ew_model_config *c, size_t r)
{
    size_t HD = (size_t)c->H * c->D;
    size_t in = r % HD;
    return (in / c->D * 3 + r / HD) * c->D + in % c->D;
}

static ew_status untangle_rows(binder *b, ew_mat *w)
{
    void *copy = NULL;
    EW_TRY(own(b, w->row_bytes * w->rows, &copy));
    for (size_t r = 0; r < w->rows; r++) {
        const unsigned char *src = (const unsigned char *)w->data + by_head_row(&b->m->cfg, r) * w->row_bytes;
        memcpy((unsigned char *)copy + r * w->row_bytes, src, w->row_bytes);
    }
    w->data = copy;
    return EW_OK;
}

static ew_status untangle_vec(binder *b, size_t n, const float **io)
{
    void *copy = NULL;
    EW_TRY(own(b, n * sizeof(float), &copy));
    for (size_t r = 0; r < n; r++) {
        ((float *)copy)[r] = (*io)[by_head_row(&b->m->cfg, r)];
    }
    *io = copy;
    return EW_OK;
}

/* w[rows, cols] of what is stored as [cols, rows]. */
static ew_status transpose(binder *b, const ew_mat *stored, ew_mat *ret)
{
    const ew_dtype_info *info = ew_dtype_get(stored->dtype);
    uint32_t rows = stored->cols;
    uint32_t cols = stored->rows;
    if (info->block_elems != 1) {
        return ew_fail(b->err, EW_EUNSUPPORTED, "transposed matrices of type %s are not supported", info->name);
    }
    void *copy = NULL;
    size_t size = info->block_bytes;
    EW_TRY(own(b, size * rows * cols, &copy));
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            memcpy((unsigned char *)copy + (r * cols + c) * size,
                   (const unsigned char *)stored->data + (c * rows + r) * size, size);
        }
    }
    *ret = ew_mat_make(stored->dtype, rows, cols, copy);
    return EW_OK;
}

static ew_status bind_weight(binder *b, ew_slot slot, uint32_t layer, uint32_t rows, uint32_t cols, ew_mat *ret)
{
    char name[NAME_MAX_BYTES];
    (void)name_of(b, slot, layer, ".weight", name);
    if (b->extra == NULL || !has_flag(b, EW_ARCH_CONV1D)) {
        return bind_mat(b, name, rows, cols, ret);
    }
    ew_mat stored;
    EW_TRY(bind_mat(b, name, cols, rows, &stored));
    return transpose(b, &stored, ret);
}

/* Is there a bias on this linear layer? In a GGUF the optional ones are there when they are stored. */
static bool wants_bias(const binder *b, ew_linear l, ew_slot slot, uint32_t layer)
{
    if (b->extra != NULL) {
        return (b->extra->bias & 1u << l) != 0;
    }
    return (b->m->arch->bias & 1u << l) != 0 || ((b->m->arch->bias_opt & 1u << l) != 0 && has(b, slot, layer, ".bias"));
}

static ew_status bind_bias(binder *b, ew_linear l, ew_slot slot, uint32_t layer, uint32_t n, const float **ret)
{
    char name[NAME_MAX_BYTES];
    if (!wants_bias(b, l, slot, layer)) {
        return EW_OK;
    }
    b->m->cfg.biases = true;
    return bind_vec(b, name_of(b, slot, layer, ".bias", name), n, 1, ret);
}

static ew_status bind_linear(binder *b, ew_linear l, uint32_t layer)
{
    ew_layer_weights *w = &b->m->layer[layer];
    uint32_t rows;
    uint32_t cols;
    ew_linear_shape(&b->m->cfg, l, &rows, &cols);
    if (rows == 0) {
        return EW_OK;
    }
    EW_TRY(bind_weight(b, ew__linear_slot(l), layer, rows, cols, &w->linear[l]));
    return bind_bias(b, l, ew__linear_slot(l), layer, rows, &w->bias[l]);
}

/* Linears first … first + n - 1 as slices of one matrix, in this order. */
static ew_status bind_fused(binder *b, ew_slot slot, ew_linear first, uint32_t n, uint32_t layer)
{
    ew_layer_weights *w = &b->m->layer[layer];
    uint32_t at[EW_LINEAR_COUNT + 1] = {0};
    uint32_t cols = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t rows;
        ew_linear_shape(&b->m->cfg, (ew_linear)(first + k), &rows, &cols);
        at[k + 1] = at[k] + rows;
    }
    ew_mat whole;
    const float *bias = NULL;
    EW_TRY(bind_weight(b, slot, layer, at[n], cols, &whole));
    EW_TRY(bind_bias(b, first, slot, layer, at[n], &bias));
    if (b->extra != NULL && slot == EW_SLOT_QKV && has_flag(b, EW_ARCH_QKV_BY_HEAD)) {
        if (b->m->cfg.K != b->m->cfg.H) {
            return ew_fail(b->err, EW_EUNSUPPORTED, "grouped heads are not supported for '%s'", b->m->cfg.arch);
        }
        EW_TRY(untangle_rows(b, &whole));
        if (bias != NULL) {
            EW_TRY(untangle_vec(b, at[n], &bias));
        }
    }
    for (uint32_t k = 0; k < n; k++) {
        w->linear[first + k] = ew_mat_rows(&whole, at[k], at[k + 1] - at[k]);
        w->bias[first + k] = bias != NULL ? bias + at[k] : NULL;
    }
    return EW_OK;
}

static ew_status bind_layer(binder *b, uint32_t i)
{
    bool fused_gate = b->extra != NULL ? b->names->slot[EW_SLOT_GATE_UP] != NULL
                                       : has_flag(b, EW_ARCH_FUSED_GATE) && !has(b, EW_SLOT_GATE, i, ".weight");
    bool fused_qkv = has(b, EW_SLOT_QKV, i, ".weight") || b->names->slot[EW_SLOT_Q] == NULL;
    EW_TRY(bind_norms(b, i));
    if (fused_qkv) {
        EW_TRY(bind_fused(b, EW_SLOT_QKV, EW_LINEAR_Q, 3, i));
    } else {
        EW_TRY(bind_linear(b, EW_LINEAR_Q, i));
        EW_TRY(bind_linear(b, EW_LINEAR_K, i));
        EW_TRY(bind_linear(b, EW_LINEAR_V, i));
    }
    EW_TRY(bind_linear(b, EW_LINEAR_O, i));
    if (fused_gate) {
        EW_TRY(bind_fused(b, EW_SLOT_GATE_UP, EW_LINEAR_GATE, 2, i));
    } else {
        EW_TRY(bind_linear(b, EW_LINEAR_GATE, i));
        EW_TRY(bind_linear(b, EW_LINEAR_UP, i));
    }
    return bind_linear(b, EW_LINEAR_DOWN, i);
}

/* ---- the ends ---- */

/* The number of rows of the embedding, when the metadata did not say. */
static ew_status find_vocab_size(binder *b, const ew_tensor_view *t, const char *name)
{
    uint64_t V = t->dims[1];
    if (t->n_dims != 2 || V == 0 || V > EW_LIMIT_VOCAB) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is no matrix of 1 … %u rows", name, EW_LIMIT_VOCAB);
    }
    b->m->cfg.V = (uint32_t)V;
    return EW_OK;
}

/* Any of the two matrices may be the one that is stored. */
static ew_status bind_vocab_ends(binder *b)
{
    ew_model *m = b->m;
    int tied = b->extra != NULL ? b->extra->tied : -1;
    char embd[NAME_MAX_BYTES];
    char head[NAME_MAX_BYTES];
    const ew_tensor_view *t_embd = find(m, name_of(b, EW_SLOT_TOKEN_EMBD, 0, ".weight", embd));
    const ew_tensor_view *t_head = find(m, name_of(b, EW_SLOT_OUTPUT, 0, ".weight", head));
    if (t_embd == NULL && (t_head == NULL || tied == 0)) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is missing", embd);
    }
    if (t_head == NULL && tied == 0 && !m->cfg.encoder) {
        return ew_fail(b->err, EW_ECORRUPT,
                       "the tensor '%s' is missing, and config.json says that the head is not tied", head);
    }
    if (m->cfg.V == 0) {
        EW_TRY(find_vocab_size(b, t_embd != NULL ? t_embd : t_head, t_embd != NULL ? embd : head));
    }
    if (t_embd != NULL) {
        EW_TRY(bind_mat(b, embd, m->cfg.V, m->cfg.C, &m->token_embd));
    }
    if (m->cfg.encoder) {
        return EW_OK;
    }
    bool own_head = t_head != NULL && (tied != 1 || t_embd == NULL);
    if (own_head) {
        EW_TRY(bind_mat(b, head, m->cfg.V, m->cfg.C, &m->output));
    } else {
        m->output = m->token_embd;
        EW_TRY(mark_used(b, head)); /* stored twice: the embedding counts, as in transformers */
    }
    if (t_embd == NULL) {
        m->token_embd = m->output;
    }
    m->cfg.tied_head = t_embd == NULL || !own_head;
    return has_flag(b, EW_ARCH_HEAD_BIAS)
               ? bind_vec(b, name_of(b, EW_SLOT_OUTPUT, 0, ".bias", head), m->cfg.V, 1, &m->output_b)
               : EW_OK;
}

static ew_status bind_ends(binder *b)
{
    ew_model *m = b->m;
    char name[NAME_MAX_BYTES];
    EW_TRY(bind_vocab_ends(b));
    if (m->cfg.n_pos > 0) {
        uint32_t skip = b->extra != NULL ? m->arch->pos_skip : 0;
        ew_mat all;
        EW_TRY(bind_mat(b, name_of(b, EW_SLOT_POSITION_EMBD, 0, ".weight", name), m->cfg.n_pos + skip, m->cfg.C, &all));
        m->position_embd = ew_mat_rows(&all, skip, m->cfg.n_pos);
    }
    if (m->cfg.n_types > 0) {
        EW_TRY(bind_mat(b, name_of(b, EW_SLOT_TOKEN_TYPES, 0, ".weight", name), m->cfg.n_types, m->cfg.C,
                        &m->token_types));
    }
    if (m->cfg.encoder) {
        return bind_norm(b, EW_SLOT_EMBD_NORM, 0, m->cfg.C, &m->embd_norm, &m->embd_norm_b);
    }
    return m->cfg.norm_after ? EW_OK
                             : bind_norm(b, EW_SLOT_OUTPUT_NORM, 0, m->cfg.C, &m->output_norm, &m->output_norm_b);
}

/* ---- rotary divisors ---- */

static ew_status check_factors(binder *b, const char *name, const float *f, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!(f[i] > 0 && isfinite(f[i]))) {
            return ew_fail(b->err, EW_ECORRUPT, "'%s' has a value that is not above 0", name);
        }
    }
    return EW_OK;
}

static ew_status stored_factors(binder *b, const char *name, const float **ret)
{
    uint32_t n = b->m->cfg.n_rot / 2;
    EW_TRY(bind_vec(b, name, n, 1, ret));
    return check_factors(b, name, *ret, n);
}

static ew_status bind_longrope(binder *b)
{
    uint32_t n = b->m->cfg.n_rot / 2;
    if (b->extra == NULL) {
        EW_TRY(stored_factors(b, "rope_factors_short.weight", &b->m->rope_factors));
        return stored_factors(b, "rope_factors_long.weight", &b->m->rope_long);
    }
    void *copy = NULL;
    EW_TRY(own(b, 2 * (size_t)n * sizeof(float), &copy));
    float *f = copy;
    memcpy(f, b->extra->rope_short, n * sizeof(float));
    memcpy(f + n, b->extra->rope_long, n * sizeof(float));
    b->m->rope_factors = f;
    b->m->rope_long = f + n;
    return EW_OK;
}

static ew_status bind_rope(binder *b)
{
    ew_model *m = b->m;
    const float *stored = NULL;
    uint32_t n = m->cfg.n_rot / 2;
    if (m->cfg.rope_scaling == EW_ROPE_SCALING_LONGROPE) {
        return bind_longrope(b);
    }
    if (m->gguf != NULL && find(m, "rope_freqs.weight") != NULL) {
        EW_TRY(stored_factors(b, "rope_freqs.weight", &stored));
    }
    if (stored != NULL && m->cfg.rope_scaling == EW_ROPE_SCALING_NONE) {
        m->cfg.rope_scaling = EW_ROPE_SCALING_FACTORS;
        m->rope_factors = stored;
    } else if (m->cfg.rope_scaling != EW_ROPE_SCALING_NONE) {
        float *factors = ew_calloc(n, sizeof(float));
        EW_TRY(ew__model_keep(m, factors, b->err));
        ew__rope_factors(&m->cfg, factors);
        for (uint32_t i = 0; stored != NULL && i < n; i++) {
            factors[i] *= stored[i];
        }
        m->rope_factors = factors;
    }
    return EW_OK;
}

ew_status ew__bind_rope_floats(ew_model *m, ew_error *reterr)
{
    return bind_rope(&(binder){.m = m, .err = reterr});
}

/* ---- the whole file ---- */

/* Does a directory's tensor of this name carry nothing? */
static bool is_idle(const binder *b, const char *name)
{
    static const char *const gguf[] = {"rotary_emb.inv_freq", "attn_rot_embd.weight", NULL};
    const char *const *ends = b->extra != NULL ? b->m->arch->idle : gguf;
    for (size_t i = 0; ends[i] != NULL; i++) {
        if (ew_str_ends(name, ends[i])) {
            return true;
        }
    }
    return false;
}

/* Tensors that nothing asked for would be part of the function that we do not compute. */
static ew_status refuse_rest(binder *b)
{
    const ew_model *m = b->m;
    size_t n = m->gguf != NULL ? ew_gguf_n_tensors(m->gguf) : ew_safetensors_n_tensors(m->st);
    for (size_t i = 0; i < n; i++) {
        const char *name = (m->gguf != NULL ? ew_gguf_tensor(m->gguf, i) : ew_safetensors_tensor(m->st, i))->name;
        if (!is_idle(b, name) && ew_map_get(b->used, name, strlen(name)) == NULL) {
            return ew_fail(b->err, EW_EUNSUPPORTED,
                           "the tensor '%s' has no place in the architecture '%s' as this build has it%s", name,
                           m->cfg.arch, ew_str_ends(name, ".bias") ? " (no biases there)" : "");
        }
    }
    return EW_OK;
}

/* Some directories lack the first parts of the prefix: "transformer." of GPT-2, "model." of "model.decoder.". */
static const char *find_prefix(const binder *b)
{
    binder t = *b;
    for (const char *p = b->names->prefix;;) {
        t.prefix = p;
        if (has(&t, EW_SLOT_TOKEN_EMBD, 0, ".weight")) {
            return p;
        }
        const char *dot = strchr(p, '.');
        if (dot == NULL) {
            return b->names->prefix;
        }
        p = dot + 1;
    }
}

ew_status ew__bind(ew_model *m, const ew_hf_extra *extra, ew_error *reterr)
{
    EW_AUTO(ew_map) used = NULL;
    m->layer = ew_calloc(m->cfg.L, sizeof(*m->layer));
    if (m->layer == NULL || ew_map_new(&used) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for %u layers", m->cfg.L);
    }
    const ew_names *names = extra != NULL ? m->arch->hf : m->cfg.encoder ? &ew__gguf_encoder_names : &ew__gguf_names;
    binder b = {.m = m, .names = names, .prefix = names->prefix, .extra = extra, .used = used, .err = reterr};
    b.prefix = find_prefix(&b);
    EW_TRY(bind_ends(&b));
    for (uint32_t i = 0; i < m->cfg.L; i++) {
        EW_TRY(bind_layer(&b, i));
    }
    EW_TRY(bind_rope(&b));
    return refuse_rest(&b);
}

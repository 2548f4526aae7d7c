/* Opening a model: every tensor is found by name, checked against the configuration and bound; nothing else is accepted.
 * Memory: the file is mapped by format/; only norms that are not f32 and misaligned tensors are copied (m->owned). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/model_int.h"
#include "model/vocab.h"
#include "sys/file.h"

typedef struct linear_name {
    const char *gguf, *hf, *hf_group;
} linear_name;

static const linear_name linear_names[EW_LINEAR_COUNT] = {
    [EW_LINEAR_Q] = {"attn_q", "q_proj", "self_attn"},   [EW_LINEAR_K] = {"attn_k", "k_proj", "self_attn"},
    [EW_LINEAR_V] = {"attn_v", "v_proj", "self_attn"},   [EW_LINEAR_O] = {"attn_output", "o_proj", "self_attn"},
    [EW_LINEAR_GATE] = {"ffn_gate", "gate_proj", "mlp"}, [EW_LINEAR_UP] = {"ffn_up", "up_proj", "mlp"},
    [EW_LINEAR_DOWN] = {"ffn_down", "down_proj", "mlp"},
};

const char *ew_linear_hf_name(ew_linear l)
{
    return linear_names[l].hf;
}

const char *ew_linear_gguf_name(ew_linear l)
{
    return linear_names[l].gguf;
}

void ew_linear_shape(const ew_model_config *cfg, ew_linear l, uint32_t *ret_rows, uint32_t *ret_cols)
{
    uint32_t q = cfg->H * cfg->D;
    uint32_t kv = cfg->K * cfg->D;
    const uint32_t shape[EW_LINEAR_COUNT][2] = {
        [EW_LINEAR_Q] = {q, cfg->C},         [EW_LINEAR_K] = {kv, cfg->C},        [EW_LINEAR_V] = {kv, cfg->C},
        [EW_LINEAR_O] = {cfg->C, q},         [EW_LINEAR_GATE] = {cfg->F, cfg->C}, [EW_LINEAR_UP] = {cfg->F, cfg->C},
        [EW_LINEAR_DOWN] = {cfg->C, cfg->F},
    };
    *ret_rows = shape[l][0];
    *ret_cols = shape[l][1];
}

/* ---- binding ---- */

typedef struct binder {
    ew_model *m;
    ew_map *used; /* names of the tensors of the file that have a place */
    ew_error *err;
} binder;

static const ew_tensor_view *find(const ew_model *m, const char *name)
{
    return m->gguf != NULL ? ew_gguf_find(m->gguf, name) : ew_safetensors_find(m->st, name);
}

static ew_status keep(ew_model *m, void *p, ew_error *reterr)
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
    if (t == NULL) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is missing", name);
    }
    char shape[96];
    uint64_t elems = dim0 * dim1;
    bool fits = t->dims[0] == dim0 && (t->n_dims < 2 || t->dims[1] == dim1) && (t->n_dims < 3 || t->dims[2] == 1) &&
                (t->n_dims < 4 || t->dims[3] == 1) && (n_dims == 1 || t->n_dims >= 2);
    if (!fits) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is %s; the configuration asks for [%llu, %llu]", name,
                       ew_tensor_describe(t, shape, sizeof(shape)), (unsigned long long)dim0, (unsigned long long)dim1);
    }
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    if (info == NULL || !info->compute) {
        return ew_fail(
            b->err, EW_EUNSUPPORTED,
            "the tensor '%s' is of type %s, which this build cannot compute with (F32, F16, BF16, Q8_0, Q4_0). "
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
    void *copy = ew_aligned(t->bytes);
    EW_TRY(keep(b->m, copy, b->err));
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

static ew_status bind_vec(binder *b, const char *name, uint32_t n, const float **ret)
{
    const ew_tensor_view *t = NULL;
    const void *data;
    EW_TRY(need_tensor(b, name, 1, n, 1, &t));
    EW_TRY(aligned_data(b, t, &data));
    if (t->dtype != EW_DTYPE_F32) {
        float *copy = ew_aligned((size_t)n * sizeof(float));
        EW_TRY(keep(b->m, copy, b->err));
        ew_dequant_row(t->dtype, data, copy, n);
        data = copy;
    }
    *ret = data;
    return EW_OK;
}

static ew_status bind_layer(binder *b, uint32_t i)
{
    ew_model *m = b->m;
    ew_layer_weights *w = &m->layer[i];
    char name[128];
    for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
        uint32_t rows;
        uint32_t cols;
        ew_linear_shape(&m->cfg, (ew_linear)l, &rows, &cols);
        if (m->is_dir) {
            (void)snprintf(name, sizeof(name), "model.layers.%u.%s.%s.weight", i, linear_names[l].hf_group,
                           linear_names[l].hf);
        } else {
            (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i, linear_names[l].gguf);
        }
        EW_TRY(bind_mat(b, name, rows, cols, &w->linear[l]));
    }
    (void)snprintf(name, sizeof(name), m->is_dir ? "model.layers.%u.input_layernorm.weight" : "blk.%u.attn_norm.weight",
                   i);
    EW_TRY(bind_vec(b, name, m->cfg.C, &w->attn_norm));
    (void)snprintf(name, sizeof(name),
                   m->is_dir ? "model.layers.%u.post_attention_layernorm.weight" : "blk.%u.ffn_norm.weight", i);
    return bind_vec(b, name, m->cfg.C, &w->ffn_norm);
}

/* tied: what config.json says (1, 0, -1 = nothing). Any of the two matrices may be the one that is stored. */
static ew_status bind_ends(binder *b, int tied)
{
    ew_model *m = b->m;
    const char *embd = m->is_dir ? "model.embed_tokens.weight" : "token_embd.weight";
    const char *head = m->is_dir ? "lm_head.weight" : "output.weight";
    const ew_tensor_view *t_embd = find(m, embd);
    const ew_tensor_view *t_head = find(m, head);
    if (t_embd == NULL && (t_head == NULL || tied == 0)) {
        return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is missing", embd);
    }
    if (t_head == NULL && tied == 0) {
        return ew_fail(b->err, EW_ECORRUPT,
                       "the tensor '%s' is missing, and config.json says that the head is not tied", head);
    }
    if (m->cfg.V == 0) {
        uint64_t V = t_embd->dims[1];
        if (t_embd->n_dims != 2 || V == 0 || V > EW_LIMIT_VOCAB) {
            return ew_fail(b->err, EW_ECORRUPT, "the tensor '%s' is no matrix of 1 … %u rows", embd, EW_LIMIT_VOCAB);
        }
        m->cfg.V = (uint32_t)V;
    }
    if (t_embd != NULL) {
        EW_TRY(bind_mat(b, embd, m->cfg.V, m->cfg.C, &m->token_embd));
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
    return bind_vec(b, m->is_dir ? "model.norm.weight" : "output_norm.weight", m->cfg.C, &m->output_norm);
}

static ew_status bind_rope(binder *b)
{
    ew_model *m = b->m;
    const float *stored = NULL;
    uint32_t n = m->cfg.n_rot / 2;
    if (!m->is_dir && find(m, "rope_freqs.weight") != NULL) {
        EW_TRY(bind_vec(b, "rope_freqs.weight", n, &stored));
        for (uint32_t i = 0; i < n; i++) {
            if (!(stored[i] > 0 && isfinite(stored[i]))) {
                return ew_fail(b->err, EW_ECORRUPT, "'rope_freqs.weight' has a value that is not above 0");
            }
        }
    }
    if (stored != NULL && m->cfg.rope_scaling == EW_ROPE_SCALING_NONE) {
        m->cfg.rope_scaling = EW_ROPE_SCALING_FACTORS;
        m->rope_factors = stored;
    } else if (m->cfg.rope_scaling != EW_ROPE_SCALING_NONE) {
        float *factors = ew_calloc(n, sizeof(float));
        EW_TRY(keep(m, factors, b->err));
        ew__rope_factors(&m->cfg, factors);
        for (uint32_t i = 0; stored != NULL && i < n; i++) {
            factors[i] *= stored[i];
        }
        m->rope_factors = factors;
    }
    return EW_OK;
}

/* Tensors that nothing above asked for would be part of the function that we do not compute. Two kinds carry nothing: tables of
 * rotary frequencies that old converters stored. */
static ew_status refuse_rest(binder *b)
{
    const ew_model *m = b->m;
    size_t n = m->gguf != NULL ? ew_gguf_n_tensors(m->gguf) : ew_safetensors_n_tensors(m->st);
    for (size_t i = 0; i < n; i++) {
        const char *name = (m->gguf != NULL ? ew_gguf_tensor(m->gguf, i) : ew_safetensors_tensor(m->st, i))->name;
        bool idle = ew_str_ends(name, "rotary_emb.inv_freq") || ew_str_ends(name, "attn_rot_embd.weight");
        if (!idle && ew_map_get(b->used, name, strlen(name)) == NULL) {
            return ew_fail(b->err, EW_EUNSUPPORTED,
                           "the tensor '%s' has no place in the architecture '%s' as this build has it%s", name,
                           m->cfg.arch, ew_str_ends(name, ".bias") ? " (biases are not supported)" : "");
        }
    }
    return EW_OK;
}

static ew_status bind_all(ew_model *m, int tied, ew_error *reterr)
{
    EW_AUTO(ew_map) used = NULL;
    m->layer = ew_calloc(m->cfg.L, sizeof(*m->layer));
    if (m->layer == NULL || ew_map_new(&used) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for %u layers", m->cfg.L);
    }
    binder b = {.m = m, .used = used, .err = reterr};
    EW_TRY(bind_ends(&b, tied));
    for (uint32_t i = 0; i < m->cfg.L; i++) {
        EW_TRY(bind_layer(&b, i));
    }
    EW_TRY(bind_rope(&b));
    return refuse_rest(&b);
}

/* ---- opening ---- */

static ew_model *model_alloc(const char *path)
{
    ew_model *m = ew_calloc(1, sizeof(*m));
    if (m != NULL) {
        atomic_init(&m->refs, 1);
        EW_ASSERT(pthread_mutex_init(&m->sha_lock, NULL) == 0);
        m->path = ew_str_dup(path);
        if (m->path == NULL) {
            ew_model_unref(&m);
        }
    }
    return m;
}

/* Gives the vocabulary as many pieces as the embedding has rows and makes the tokenizer. */
static ew_status take_vocab(ew_model *m, ew_error *reterr)
{
    if (m->vocab->n > m->cfg.V) {
        return ew_fail(reterr, EW_ECORRUPT, "the vocabulary has %zu pieces, the embedding only %u rows", m->vocab->n,
                       m->cfg.V);
    }
    EW_TRY(ew_vocab_pad(m->vocab, m->cfg.V, reterr));
    return ew_tokenizer_new(m->vocab, &m->tok, reterr);
}

static ew_status read_vocab(ew_model *m, const char *path, ew_error *reterr)
{
    char model[16];
    if (m->gguf != NULL && ew_gguf_get_str_copy(m->gguf, "tokenizer.ggml.model", model, sizeof(model)) &&
        ew_str_eq(model, "no_vocab")) {
        return EW_OK;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = m->is_dir ? ew_vocab_from_hf(path, &m->vocab, &err) : ew_vocab_from_gguf(m->gguf, &m->vocab, &err);
    if (st == EW_ENOENT) {
        return EW_OK; /* a model without a vocabulary computes all the same */
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    return take_vocab(m, reterr);
}

static void touch(const ew_mat *w)
{
    const volatile unsigned char *p = w->data;
    size_t bytes = w->row_bytes * w->rows;
    for (size_t i = 0; i < bytes; i += 4096) {
        (void)p[i];
    }
}

static void populate(const ew_model *m)
{
    touch(&m->token_embd);
    touch(&m->output);
    for (uint32_t i = 0; i < m->cfg.L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            touch(&m->layer[i].linear[l]);
        }
    }
}

static ew_status open_into(ew_model *m, const char *path, const ew_model_opt *opt, ew_error *reterr)
{
    int tied = -1;
    if (m->is_dir) {
        EW_TRY(ew__config_from_hf(path, &m->arch, &m->cfg, &tied, reterr));
        EW_TRY(ew_safetensors_open(path, &m->st, reterr));
    } else {
        EW_TRY(ew_gguf_open(path, &m->gguf, reterr));
        EW_TRY(ew__config_from_gguf(m->gguf, &m->arch, &m->cfg, reterr));
    }
    ew_model_config check = m->cfg;
    check.V = EW_MAX(check.V, 1); /* a GGUF's may come from its embedding */
    EW_TRY(ew_model_config_check(&check, reterr));
    EW_TRY(bind_all(m, tied, reterr));
    if (!opt->no_tokenizer) {
        EW_TRY(read_vocab(m, path, reterr));
    }
    if (opt->populate) {
        populate(m);
    }
    return EW_OK;
}

ew_status ew_model_open(const char *path, const ew_model_opt *opt, ew_model **ret_model, ew_error *reterr)
{
    static const ew_model_opt none = {0};
    EW_AUTO(ew_model) m = model_alloc(path);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory to open %s", path);
    }
    m->is_dir = ew_dir_exists(path);
    ew_status st = open_into(m, path, opt != NULL ? opt : &none, reterr);
    if (st != EW_OK) {
        return reterr != NULL && strstr(reterr->msg, path) == NULL ? ew_wrap(reterr, st, "%s", path) : st;
    }
    *ret_model = m;
    m = NULL;
    return EW_OK;
}

static void floats_mat(ew_model *m, ew_mat *w, uint32_t rows, uint32_t cols, const float *data)
{
    *w = ew_mat_make(EW_DTYPE_F32, rows, cols, data);
    m->n_params += (uint64_t)rows * cols;
    m->weights_bytes += (uint64_t)rows * cols * sizeof(float);
    m->dtype_bytes[EW_DTYPE_F32] += (uint64_t)rows * cols * sizeof(float);
}

static void bind_floats(ew_model *m, const ew_model_floats *weights)
{
    const ew_model_config *cfg = &m->cfg;
    floats_mat(m, &m->token_embd, cfg->V, cfg->C, weights->token_embd);
    m->output = m->token_embd;
    if (!cfg->tied_head) {
        floats_mat(m, &m->output, cfg->V, cfg->C, weights->output);
    }
    m->output_norm = weights->output_norm;
    for (uint32_t i = 0; i < cfg->L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
            floats_mat(m, &m->layer[i].linear[l], rows, cols, weights->layer[i].linear[l]);
        }
        m->layer[i].attn_norm = weights->layer[i].attn_norm;
        m->layer[i].ffn_norm = weights->layer[i].ffn_norm;
    }
    uint64_t norms = (uint64_t)cfg->C * (2 * (uint64_t)cfg->L + 1);
    m->n_params += norms;
    m->weights_bytes += norms * sizeof(float);
}

ew_status ew_model_from_floats(const ew_model_config *cfg, const ew_vocab *vocab, const ew_model_floats *weights,
                               ew_model **ret_model, ew_error *reterr)
{
    EW_TRY(ew_model_config_check(cfg, reterr));
    const ew_arch *arch = ew__arch_by_gguf(cfg->arch, strlen(cfg->arch));
    if (arch == NULL || cfg->rope_scaling == EW_ROPE_SCALING_FACTORS) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "a model of architecture '%s' cannot be made from arrays", cfg->arch);
    }
    EW_AUTO(ew_model) m = model_alloc("");
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for the model's tables");
    }
    m->arch = arch;
    m->cfg = *cfg;
    m->cfg.tied_head = weights->output == NULL;
    m->layer = ew_calloc(cfg->L, sizeof(*m->layer));
    if (m->layer == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for %u layers", cfg->L);
    }
    bind_floats(m, weights);
    binder b = {.m = m, .err = reterr};
    m->is_dir = true; /* no stored factors */
    EW_TRY(bind_rope(&b));
    m->is_dir = false;
    if (vocab != NULL) {
        EW_TRY(ew_vocab_copy(vocab, &m->vocab, reterr));
        EW_TRY(take_vocab(m, reterr));
    }
    *ret_model = m;
    m = NULL;
    return EW_OK;
}

ew_model *ew_model_ref(const ew_model *m)
{
    ew_model *mutable = (ew_model *)(uintptr_t)m; /* the count is the one thing that changes */
    (void)atomic_fetch_add_explicit(&mutable->refs, 1, memory_order_relaxed);
    return mutable;
}

void ew_model_unref(ew_model **pm)
{
    ew_model *m = *pm;
    *pm = NULL;
    if (m == NULL || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    ew_tokenizer_free(&m->tok);
    ew_vocab_free(&m->vocab);
    ew_gguf_free(&m->gguf);
    ew_safetensors_free(&m->st);
    for (size_t i = 0; i < m->n_owned; i++) {
        ew_free(m->owned[i]);
    }
    ew_free(m->owned);
    ew_free(m->layer);
    ew_free(m->path);
    (void)pthread_mutex_destroy(&m->sha_lock);
    ew_free(m);
}

void ew_model_free(ew_model **m)
{
    ew_model_unref(m);
}

/* ---- what it is ---- */

const ew_model_config *ew_model_config_of(const ew_model *m)
{
    return &m->cfg;
}

const ew_tokenizer *ew_model_tokenizer(const ew_model *m)
{
    return m->tok;
}

const ew_vocab *ew_model_vocab(const ew_model *m)
{
    return m->vocab;
}

const char *ew_model_chat_template(const ew_model *m)
{
    return m->vocab != NULL ? m->vocab->chat_template : NULL;
}

const char *ew_model_path(const ew_model *m)
{
    return m->path;
}

uint64_t ew_model_n_params(const ew_model *m)
{
    return m->n_params;
}

uint64_t ew_model_weights_bytes(const ew_model *m)
{
    return m->weights_bytes;
}

const char *ew_model_dtype_name(const ew_model *m)
{
    size_t best = 0;
    for (size_t i = 1; i < EW_COUNT(m->dtype_bytes); i++) {
        best = m->dtype_bytes[i] > m->dtype_bytes[best] ? i : best;
    }
    return ew_dtype_name((ew_dtype)best);
}

const ew_layer_weights *ew_model_layer(const ew_model *m, uint32_t i_layer)
{
    EW_ASSERT(i_layer < m->cfg.L);
    return &m->layer[i_layer];
}

const ew_mat *ew_model_token_embd(const ew_model *m)
{
    return &m->token_embd;
}

const ew_mat *ew_model_output(const ew_model *m)
{
    return &m->output;
}

const float *ew_model_output_norm(const ew_model *m)
{
    return m->output_norm;
}

const float *ew_model_rope_factors(const ew_model *m)
{
    return m->rope_factors;
}

/* ---- hash ---- */

static bool hash_one(ew_sha256_stream *s, const char *dir, const char *name)
{
    char path[EW_PATH_MAX];
    if (ew_path_join(path, sizeof(path), dir, name, NULL) != EW_OK) {
        return false;
    }
    ew_file_map *map = NULL;
    if (ew_file_map_open(path, &map, NULL) != EW_OK) {
        return false;
    }
    ew_file_map_advise(map, 0, ew_file_map_size(map), EW_FILE_SEQUENTIAL);
    ew_sha256_stream_add(s, ew_file_map_data(map), ew_file_map_size(map));
    ew_file_map_free(&map);
    return true;
}

static bool hash_dir(const char *dir, uint8_t digest[static EW_SHA256_SIZE])
{
    ew_dir_list list = {0};
    if (ew_dir_read(dir, &list, NULL) != EW_OK) {
        return false;
    }
    ew_sha256_stream *s = ew_sha256_stream_new();
    bool ok = true;
    for (size_t i = 0; i < list.n && ok; i++) { /* sorted by name */
        if (list.entry[i].is_file && ew_str_ends(list.entry[i].name, ".safetensors")) {
            ok = hash_one(s, dir, list.entry[i].name);
        }
    }
    ok = ok && hash_one(s, dir, "config.json");
    ew_sha256_stream_end(s, digest);
    ew_sha256_stream_free(&s);
    ew_dir_list_release(&list);
    return ok;
}

const char *ew_model_sha256_hex(const ew_model *cm)
{
    ew_model *m = (ew_model *)(uintptr_t)cm; /* lazily computed under the lock */
    (void)pthread_mutex_lock(&m->sha_lock);
    if (!m->sha_done) {
        uint8_t digest[EW_SHA256_SIZE];
        bool ok = m->path[0] != '\0' &&
                  (m->is_dir ? hash_dir(m->path, digest) : ew_sha256_file(m->path, NULL, digest, NULL, NULL) == EW_OK);
        if (ok) {
            ew_hex_encode(digest, sizeof(digest), m->sha_hex);
        }
        m->sha_done = ok;
    }
    bool done = m->sha_done;
    (void)pthread_mutex_unlock(&m->sha_lock);
    return done ? m->sha_hex : NULL;
}

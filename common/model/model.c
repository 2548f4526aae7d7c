/* Opening a model, models over arrays, what a model is, its hash. Configurations are made in config_*.c, tensors found in bind.c. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/model_int.h"
#include "model/vocab.h"
#include "sys/file.h"

typedef struct linear_name {
    const char *gguf, *hf;
} linear_name;

static const linear_name linear_names[EW_LINEAR_COUNT] = {
    [EW_LINEAR_Q] = {"attn_q", "q_proj"},         [EW_LINEAR_K] = {"attn_k", "k_proj"},
    [EW_LINEAR_V] = {"attn_v", "v_proj"},         [EW_LINEAR_O] = {"attn_output", "o_proj"},
    [EW_LINEAR_GATE] = {"ffn_gate", "gate_proj"}, [EW_LINEAR_UP] = {"ffn_up", "up_proj"},
    [EW_LINEAR_DOWN] = {"ffn_down", "down_proj"},
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
    uint32_t gate = cfg->ungated ? 0 : cfg->F;
    const uint32_t shape[EW_LINEAR_COUNT][2] = {
        [EW_LINEAR_Q] = {q, cfg->C},         [EW_LINEAR_K] = {kv, cfg->C},      [EW_LINEAR_V] = {kv, cfg->C},
        [EW_LINEAR_O] = {cfg->C, q},         [EW_LINEAR_GATE] = {gate, cfg->C}, [EW_LINEAR_UP] = {cfg->F, cfg->C},
        [EW_LINEAR_DOWN] = {cfg->C, cfg->F},
    };
    *ret_rows = shape[l][0];
    *ret_cols = shape[l][1];
}

/* ---- opening ---- */

ew_model *ew__model_alloc(const char *path)
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
            touch(&m->layer[i].linear[l]); /* 0 rows: nothing */
        }
    }
}

static ew_status open_into(ew_model *m, const char *path, const ew_model_opt *opt, ew_error *reterr)
{
    ew_hf_extra extra;
    if (m->is_dir) {
        EW_TRY(ew__config_from_hf(path, &m->arch, &m->cfg, &extra, reterr));
        EW_TRY(ew_safetensors_open(path, &m->st, reterr));
    } else {
        EW_TRY(ew_gguf_open(path, &m->gguf, reterr));
        EW_TRY(ew__config_from_gguf(m->gguf, &m->arch, &m->cfg, reterr));
    }
    ew_model_config check = m->cfg;
    check.V = EW_MAX(check.V, 1); /* a GGUF's may come from its embedding */
    EW_TRY(ew_model_config_check(&check, reterr));
    EW_TRY(ew__bind(m, m->is_dir ? &extra : NULL, reterr));
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
    EW_AUTO(ew_model) m = ew__model_alloc(path);
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
            if (rows == 0) {
                continue;
            }
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
    const ew_arch *arch = ew__arch_by_name(cfg->arch, strlen(cfg->arch));
    bool more = cfg->norm != EW_NORM_RMS || cfg->norm_after || cfg->post_norms || cfg->qk_norm || cfg->encoder ||
                cfg->n_pos > 0 || cfg->rope_scaling == EW_ROPE_SCALING_FACTORS ||
                cfg->rope_scaling == EW_ROPE_SCALING_LONGROPE;
    if (arch == NULL || more) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "a model of architecture '%s' cannot be made from arrays", cfg->arch);
    }
    EW_AUTO(ew_model) m = ew__model_alloc("");
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
    EW_TRY(ew__bind_rope_floats(m, reterr));
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
    if (m->base == NULL) { /* else they are the base's */
        ew_tokenizer_free(&m->tok);
        ew_vocab_free(&m->vocab);
    }
    ew_model_unref(&m->base);
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

uint64_t ew_model_copied_bytes(const ew_model *m)
{
    return m->copied_bytes;
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

const ew_mat *ew_model_position_embd(const ew_model *m)
{
    return &m->position_embd;
}

const float *ew_model_output_norm_b(const ew_model *m)
{
    return m->output_norm_b;
}

const float *ew_model_output_b(const ew_model *m)
{
    return m->output_b;
}

const float *ew_model_rope_factors(const ew_model *m)
{
    return m->rope_factors;
}

const float *ew_model_rope_factors_for(const ew_model *m, uint32_t n_ctx)
{
    return m->rope_long != NULL && n_ctx > m->cfg.rope_orig_ctx ? m->rope_long : m->rope_factors;
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
    const size_t size = ew_file_map_size(map), piece = 4 * 1024 * 1024;
    ew_file_map_advise(map, 0, size, EW_FILE_SEQUENTIAL);
    for (size_t at = 0; at < size;
         at += piece) { /* pages go as soon as they are read: they would count as this process's */
        ew_sha256_stream_add(s, ew_file_map_data(map) + at, EW_MIN(piece, size - at));
        ew_file_map_advise(map, at, piece, EW_FILE_DONTNEED);
    }
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

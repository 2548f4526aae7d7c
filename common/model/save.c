/* A model as GGUF. The order of the rows of Q and K follows llama.cpp's convert_hf_to_gguf.py (LlamaModel.permute). */
#include "model/save.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/model_int.h"
#include "model/vocab.h"

/* llama.cpp's general.file_type (LLAMA_FTYPE_*) for the type that most weights are in. */
static int file_type_of(ew_dtype t)
{
    switch (t) {
    case EW_DTYPE_F32:
        return 0;
    case EW_DTYPE_F16:
        return 1;
    case EW_DTYPE_Q4_0:
        return 2;
    case EW_DTYPE_Q8_0:
        return 7;
    case EW_DTYPE_BF16:
        return 32;
    default:
        return -1;
    }
}

/* One tensor of the output. */
typedef struct item {
    char name[64];
    ew_mat w;             /* rows = 1 for vectors */
    bool vec;             /* one-dimensional, stays F32 */
    uint32_t permute;     /* heads whose rows go from half-split to interleaved; 0 = as they are */
    ew_dtype dtype;       /* in the file */
    size_t out_row_bytes; /* */
} item;

typedef struct saver {
    const ew_model *m;
    const ew_save_opt *opt;
    ew_gguf_writer *w;
    item *items;
    size_t n, cap;
    ew_error *err;
} saver;

/* The rules of compress/quantize.h. */
static ew_dtype target_of(const saver *s, const ew_mat *w)
{
    if (!s->opt->convert) {
        return w->dtype;
    }
    bool head = w->data == s->m->output.data && !s->m->cfg.tied_head;
    ew_dtype want = head && s->opt->dtype == EW_DTYPE_Q4_0 ? EW_DTYPE_Q8_0 : s->opt->dtype;
    size_t bytes;
    return ew_dtype_row_bytes(want, w->cols, &bytes) ? want : EW_DTYPE_F16;
}

static ew_status add_item(saver *s, const char *name, const ew_mat *w, bool vec, uint32_t permute)
{
    if (ew_grow((void **)&s->items, &s->cap, s->n + 1, sizeof(*s->items), 1u << 20) != EW_OK) {
        return ew_fail(s->err, EW_ENOMEM, "not enough memory for the table of tensors");
    }
    item *it = &s->items[s->n++];
    *it = (item){.w = *w, .vec = vec, .permute = permute, .dtype = vec ? EW_DTYPE_F32 : target_of(s, w)};
    (void)ew_str_copy(it->name, sizeof(it->name), name);
    EW_ASSERT(ew_dtype_row_bytes(it->dtype, w->cols, &it->out_row_bytes));
    const uint64_t dims[2] = {w->cols, w->rows};
    return ew_gguf_add_tensor(s->w, name, it->dtype, vec ? 1 : 2, dims, s->err);
}

static ew_status add_vec(saver *s, const char *name, const float *data, uint32_t n)
{
    ew_mat w = ew_mat_make(EW_DTYPE_F32, 1, n, data);
    return add_item(s, name, &w, true, 0);
}

static ew_status add_items(saver *s)
{
    const ew_model *m = s->m;
    const ew_model_config *c = &m->cfg;
    bool permute = c->rope_kind == EW_ROPE_NEOX && m->arch->gguf_rope == EW_ROPE_NORM;
    char name[64];
    EW_TRY(add_item(s, "token_embd.weight", &m->token_embd, false, 0));
    EW_TRY(add_vec(s, "output_norm.weight", m->output_norm, c->C));
    if (!c->tied_head) {
        EW_TRY(add_item(s, "output.weight", &m->output, false, 0));
    }
    if (m->rope_factors != NULL && c->rope_scaling != EW_ROPE_SCALING_LINEAR) {
        EW_TRY(add_vec(s, "rope_freqs.weight", m->rope_factors, c->n_rot / 2));
    }
    for (uint32_t i = 0; i < c->L; i++) {
        (void)snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", i);
        EW_TRY(add_vec(s, name, m->layer[i].attn_norm, c->C));
        (void)snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", i);
        EW_TRY(add_vec(s, name, m->layer[i].ffn_norm, c->C));
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t heads = l == EW_LINEAR_Q ? c->H : l == EW_LINEAR_K ? c->K : 0;
            (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i, ew_linear_gguf_name((ew_linear)l));
            EW_TRY(add_item(s, name, &m->layer[i].linear[l], false, permute ? heads : 0));
        }
    }
    return EW_OK;
}

static void add_config(const saver *s)
{
    const ew_model_config *c = &s->m->cfg;
    ew_gguf_writer *w = s->w;
    const char *a = s->m->arch->name;
    char key[96];
#define KEY(suffix) ((void)snprintf(key, sizeof(key), "%s.%s", a, suffix), key)
    ew_gguf_add_str(w, "general.architecture", a);
    ew_gguf_add_str(w, "general.type", "model");
    ew_gguf_add_str(w, "general.name", s->opt->name != NULL ? s->opt->name : c->name);
    ew_gguf_add_u32(w, KEY("context_length"), c->n_ctx_train);
    ew_gguf_add_u32(w, KEY("embedding_length"), c->C);
    ew_gguf_add_u32(w, KEY("block_count"), c->L);
    ew_gguf_add_u32(w, KEY("feed_forward_length"), c->F);
    ew_gguf_add_u32(w, KEY("attention.head_count"), c->H);
    ew_gguf_add_u32(w, KEY("attention.head_count_kv"), c->K);
    ew_gguf_add_u32(w, KEY("attention.key_length"), c->D);
    ew_gguf_add_u32(w, KEY("attention.value_length"), c->D);
    ew_gguf_add_f32(w, KEY("attention.layer_norm_rms_epsilon"), c->norm_eps);
    ew_gguf_add_u32(w, KEY("rope.dimension_count"), c->n_rot);
    ew_gguf_add_f32(w, KEY("rope.freq_base"), c->rope_theta);
    if (c->rope_scaling == EW_ROPE_SCALING_LINEAR) {
        ew_gguf_add_str(w, KEY("rope.scaling.type"), "linear");
        ew_gguf_add_f32(w, KEY("rope.scaling.factor"), c->rope_factor);
    }
    ew_gguf_add_u32(w, KEY("vocab_size"), c->V);
#undef KEY
    ew_dtype main_type = s->opt->convert ? s->opt->dtype : EW_DTYPE_F32;
    if (!s->opt->convert) {
        uint64_t best = 0;
        for (unsigned t = 0; t < EW_COUNT(s->m->dtype_bytes); t++) {
            main_type = s->m->dtype_bytes[t] > best ? (ew_dtype)t : main_type;
            best = EW_MAX(best, s->m->dtype_bytes[t]);
        }
    }
    int ftype = file_type_of(main_type);
    if (ftype >= 0) {
        ew_gguf_add_u32(w, "general.file_type", (uint32_t)ftype);
    }
    ew_gguf_add_u32(w, "general.quantization_version", 2);
    for (size_t i = 0; i < s->opt->n_kv; i++) {
        ew_gguf_add_str(w, s->opt->kv[2 * i], s->opt->kv[2 * i + 1]);
    }
}

/* Row of the source that becomes row r: within a head, 2j <- j and 2j + 1 <- j + D/2. */
static uint32_t source_row(const item *it, uint32_t r)
{
    if (it->permute == 0) {
        return r;
    }
    uint32_t D = it->w.rows / it->permute;
    uint32_t in = r % D;
    return r - in + in / 2 + (in % 2) * (D / 2);
}

static ew_status write_item(saver *s, const item *it, float *row, unsigned char *out)
{
    const ew_mat *w = &it->w;
    size_t bytes;
    EW_ASSERT(ew_dtype_row_bytes(w->dtype, w->cols, &bytes));
    for (uint32_t r = 0; r < w->rows; r++) {
        const unsigned char *src = (const unsigned char *)w->data + (size_t)source_row(it, r) * w->row_bytes;
        if (it->dtype != w->dtype) {
            ew_dequant_row(w->dtype, src, row, w->cols);
            ew_quant_row(it->dtype, row, out, w->cols);
            EW_TRY(ew_gguf_write(s->w, out, it->out_row_bytes, s->err));
        } else {
            EW_TRY(ew_gguf_write(s->w, src, bytes, s->err));
        }
    }
    return EW_OK;
}

static ew_status write_items(saver *s)
{
    size_t cols = 1;
    uint64_t total = 0;
    for (size_t i = 0; i < s->n; i++) {
        cols = EW_MAX(cols, s->items[i].w.cols);
        total += (uint64_t)s->items[i].out_row_bytes * s->items[i].w.rows;
    }
    float *row = ew_malloc(cols, 2 * sizeof(float)); /* f32 row, then the row as stored (never longer) */
    if (row == NULL) {
        return ew_fail(s->err, EW_ENOMEM, "not enough memory for a row of %zu", cols);
    }
    ew_status st = EW_OK;
    uint64_t done = 0;
    for (size_t i = 0; i < s->n && st == EW_OK; i++) {
        st = write_item(s, &s->items[i], row, (unsigned char *)(row + cols));
        done += (uint64_t)s->items[i].out_row_bytes * s->items[i].w.rows;
        ew_progress_info info = {
            .phase = "write", .unit = "B", .done = done, .total = total, .loss = __builtin_nan("")};
        info.left_s = info.loss;
        if (st == EW_OK && !ew_progress_tell(&s->opt->progress, &info)) {
            st = ew_fail(s->err, EW_ECANCELLED, "stopped before the model was written");
        }
    }
    ew_free(row);
    return st;
}

static ew_status save(saver *s)
{
    add_config(s);
    if (s->m->vocab != NULL) {
        EW_TRY(ew_vocab_write_gguf(s->w, s->m->vocab, s->err));
    } else {
        ew_gguf_add_str(s->w, "tokenizer.ggml.model", "no_vocab");
    }
    EW_TRY(add_items(s));
    EW_TRY(ew_gguf_writer_begin(s->w, s->err));
    EW_TRY(write_items(s));
    return ew_gguf_writer_commit(s->w, s->err);
}

ew_status ew_model_save_gguf(const ew_model *m, const char *path, const ew_save_opt *opt, ew_error *reterr)
{
    static const ew_save_opt none = {0};
    saver s = {.m = m, .opt = opt != NULL ? opt : &none, .err = reterr};
    if (s.opt->convert) {
        const ew_dtype_info *info = ew_dtype_get(s.opt->dtype);
        if (info == NULL || !info->quantize) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "weights cannot be written as %s", ew_dtype_name(s.opt->dtype));
        }
    }
    EW_TRY(ew_gguf_writer_new(path, &s.w, reterr));
    ew_status st = save(&s);
    ew_gguf_writer_free(&s.w);
    ew_free(s.items);
    return st;
}

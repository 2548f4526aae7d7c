/* A model as GGUF: a GGUF file tensor by tensor, anything else from what was bound. The order of the rows of Q and K follows llama.cpp's convert_hf_to_gguf.py (LlamaModel.permute). */
#include "model/save.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "format/mix.h"
#include "model/model_int.h"
#include "model/vocab.h"

#define EW_SAVE_NAME_MAX 128

/* One tensor of the output: the rows of its parts, one after the other. */
typedef struct item {
    char name[EW_SAVE_NAME_MAX];
    ew_mat part[3];       /* all of one type and width; rows = 1 for vectors */
    uint32_t n_parts;     /* */
    uint32_t permute;     /* heads whose rows go from half-split to interleaved; 0 = as they are */
    ew_dtype dtype;       /* in the file */
    size_t out_row_bytes; /* */
} item;

typedef struct saver {
    const ew_model *m;
    const ew_save_opt *opt;
    const ew_names *names;
    ew_gguf_writer *w;
    item *items;
    size_t n, cap;
    ew_error *err;
} saver;

static ew_dtype target_of(const saver *s, const ew_mat *w, bool head)
{
    if (!s->opt->convert) {
        return w->dtype;
    }
    ew_dtype want = head && s->opt->dtype == EW_DTYPE_Q4_0 ? EW_DTYPE_Q8_0 : s->opt->dtype;
    return ew_mix_fitting(want, w->cols);
}

/* dims in GGUF order; the item's rows and width must give the same elements. */
static ew_status add_item(saver *s, const item *it, uint32_t n_dims, const uint64_t *dims)
{
    if (ew_grow((void **)&s->items, &s->cap, s->n + 1, sizeof(*s->items), 1u << 20) != EW_OK) {
        return ew_fail(s->err, EW_ENOMEM, "not enough memory for the table of tensors");
    }
    s->items[s->n] = *it;
    EW_ASSERT(ew_dtype_row_bytes(it->dtype, it->part[0].cols, &s->items[s->n].out_row_bytes));
    s->n++;
    return ew_gguf_add_tensor(s->w, it->name, it->dtype, n_dims, dims, s->err);
}

/* ---- from a GGUF file: everything as it is there ---- */

static ew_status add_file_tensor(saver *s, const ew_tensor_view *t)
{
    item it = {.n_parts = 1};
    bool vec = t->n_dims == 1 || ew_str_ends(t->name, "_norm.weight");
    bool table = ew_str_eq(t->name, "position_embd.weight") || ew_str_eq(t->name, "token_types.weight");
    if (!ew_str_copy(it.name, sizeof(it.name), t->name) || !ew_tensor_mat(t, &it.part[0])) {
        return ew_fail(s->err, EW_EUNSUPPORTED, "the tensor '%s' of type %s cannot be written", t->name,
                       ew_dtype_name(t->dtype));
    }
    bool head = ew_str_eq(t->name, "output.weight");
    it.dtype = vec ? (s->opt->convert ? EW_DTYPE_F32 : t->dtype) : table ? t->dtype : target_of(s, &it.part[0], head);
    return add_item(s, &it, t->n_dims, t->dims);
}

static ew_status add_file_tensors(saver *s)
{
    for (size_t i = 0; i < ew_gguf_n_tensors(s->m->gguf); i++) {
        EW_TRY(add_file_tensor(s, ew_gguf_tensor(s->m->gguf, i)));
    }
    return EW_OK;
}

/* ---- from a directory or arrays: what was bound, under llama.cpp's names ---- */

static char *slot_name(const saver *s, ew_slot slot, uint32_t layer, const char *suffix,
                       char dst[static EW_SAVE_NAME_MAX])
{
    char name[EW_SAVE_NAME_MAX / 2];
    (void)snprintf(dst, EW_SAVE_NAME_MAX, "%s%s", ew__slot_name(s->names, slot, layer, name, sizeof(name)), suffix);
    return dst;
}

/* Rows of up to three matrices as one. as_is: not converted. */
static ew_status add_mats(saver *s, const char *name, const ew_mat *parts, uint32_t n_parts, uint32_t permute,
                          bool as_is)
{
    item it = {.n_parts = n_parts, .permute = permute};
    uint64_t dims[2] = {parts[0].cols, 0};
    for (uint32_t k = 0; k < n_parts; k++) {
        if (parts[k].dtype != parts[0].dtype) {
            return ew_fail(s->err, EW_EUNSUPPORTED, "'%s' would be made of matrices of different types", name);
        }
        it.part[k] = parts[k];
        dims[1] += parts[k].rows;
    }
    bool head = parts[0].data == s->m->output.data && !s->m->cfg.tied_head;
    it.dtype = as_is ? parts[0].dtype : target_of(s, &parts[0], head);
    (void)ew_str_copy(it.name, sizeof(it.name), name);
    return add_item(s, &it, 2, dims);
}

/* Up to three vectors of n elements as one; NULL: nothing. */
static ew_status add_vecs(saver *s, const char *name, const float *const *data, const uint32_t *n, uint32_t n_parts,
                          uint32_t permute)
{
    item it = {.n_parts = n_parts, .permute = permute, .dtype = EW_DTYPE_F32};
    uint64_t dim = 0;
    for (uint32_t k = 0; k < n_parts; k++) {
        if (data[k] == NULL) {
            return EW_OK;
        }
        it.part[k] =
            permute != 0 ? ew_mat_make(EW_DTYPE_F32, n[k], 1, data[k]) : ew_mat_make(EW_DTYPE_F32, 1, n[k], data[k]);
        dim += n[k];
    }
    (void)ew_str_copy(it.name, sizeof(it.name), name);
    return add_item(s, &it, 1, &dim);
}

static ew_status add_vec(saver *s, ew_slot slot, uint32_t layer, const char *suffix, const float *data, uint32_t n)
{
    char name[EW_SAVE_NAME_MAX];
    return data == NULL ? EW_OK : add_vecs(s, slot_name(s, slot, layer, suffix, name), &data, &n, 1, 0);
}

/* Linears first … first + n - 1 of a layer under one name, with their biases. */
static ew_status add_linears(saver *s, ew_slot slot, uint32_t layer, ew_linear first, uint32_t n)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_layer_weights *w = &s->m->layer[layer];
    bool turn = c->rope_kind == EW_ROPE_NEOX && s->m->arch->gguf_rope == EW_ROPE_NORM && c->n_rot > 0;
    uint32_t heads = first == EW_LINEAR_Q ? c->H : first == EW_LINEAR_K ? c->K : 0;
    uint32_t rows[3] = {0};
    char name[EW_SAVE_NAME_MAX];
    if (w->linear[first].rows == 0) {
        return EW_OK;
    }
    for (uint32_t k = 0; k < n; k++) {
        rows[k] = w->linear[first + k].rows;
    }
    EW_TRY(add_mats(s, slot_name(s, slot, layer, ".weight", name), &w->linear[first], n, turn ? heads : 0, false));
    return add_vecs(s, slot_name(s, slot, layer, ".bias", name), &w->bias[first], rows, n, turn ? heads : 0);
}

static ew_status add_head_norm(saver *s, ew_slot slot, uint32_t layer, const float *data, uint32_t n_heads)
{
    const ew_model_config *c = &s->m->cfg;
    if (data == NULL || !c->qk_norm_heads) {
        return add_vec(s, slot, layer, ".weight", data, c->D);
    }
    item it = {.n_parts = 1, .dtype = EW_DTYPE_F32, .part = {ew_mat_make(EW_DTYPE_F32, n_heads, c->D, data)}};
    const uint64_t dims[2] = {c->D, n_heads};
    (void)slot_name(s, slot, layer, ".weight", it.name);
    return add_item(s, &it, 2, dims);
}

static ew_status add_layer(saver *s, uint32_t i)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_layer_weights *w = &s->m->layer[i];
    EW_TRY(add_vec(s, EW_SLOT_ATTN_NORM, i, ".weight", w->attn_norm, c->C));
    EW_TRY(add_vec(s, EW_SLOT_ATTN_NORM, i, ".bias", w->attn_norm_b, c->C));
    EW_TRY(add_vec(s, EW_SLOT_FFN_NORM, i, ".weight", w->ffn_norm, c->C));
    EW_TRY(add_vec(s, EW_SLOT_FFN_NORM, i, ".bias", w->ffn_norm_b, c->C));
    EW_TRY(add_vec(s, EW_SLOT_ATTN_POST_NORM, i, ".weight", w->attn_post_norm, c->C));
    EW_TRY(add_vec(s, EW_SLOT_FFN_POST_NORM, i, ".weight", w->ffn_post_norm, c->C));
    EW_TRY(add_head_norm(s, EW_SLOT_Q_NORM, i, w->q_norm, c->H));
    EW_TRY(add_head_norm(s, EW_SLOT_K_NORM, i, w->k_norm, c->K));
    if (s->m->arch->flags & EW_ARCH_FUSED_QKV) {
        EW_TRY(add_linears(s, EW_SLOT_QKV, i, EW_LINEAR_Q, 3));
    } else {
        EW_TRY(add_linears(s, EW_SLOT_Q, i, EW_LINEAR_Q, 1));
        EW_TRY(add_linears(s, EW_SLOT_K, i, EW_LINEAR_K, 1));
        EW_TRY(add_linears(s, EW_SLOT_V, i, EW_LINEAR_V, 1));
    }
    EW_TRY(add_linears(s, EW_SLOT_O, i, EW_LINEAR_O, 1));
    if (s->m->arch->flags & EW_ARCH_FUSED_GATE) {
        EW_TRY(add_linears(s, EW_SLOT_GATE_UP, i, EW_LINEAR_GATE, 2));
    } else {
        EW_TRY(add_linears(s, EW_SLOT_GATE, i, EW_LINEAR_GATE, 1));
        EW_TRY(add_linears(s, EW_SLOT_UP, i, EW_LINEAR_UP, 1));
    }
    return add_linears(s, EW_SLOT_DOWN, i, EW_LINEAR_DOWN, 1);
}

static ew_status add_rope_factors(saver *s)
{
    const ew_model *m = s->m;
    uint32_t n = m->cfg.n_rot / 2;
    if (m->cfg.rope_scaling == EW_ROPE_SCALING_LONGROPE) {
        EW_TRY(add_vecs(s, "rope_factors_short.weight", &m->rope_factors, &n, 1, 0));
        return add_vecs(s, "rope_factors_long.weight", &m->rope_long, &n, 1, 0);
    }
    bool stored = m->cfg.rope_scaling == EW_ROPE_SCALING_LLAMA3 || m->cfg.rope_scaling == EW_ROPE_SCALING_FACTORS;
    return stored ? add_vecs(s, "rope_freqs.weight", &m->rope_factors, &n, 1, 0) : EW_OK;
}

static ew_status add_bound(saver *s)
{
    const ew_model *m = s->m;
    const ew_model_config *c = &m->cfg;
    bool own_head = !c->encoder && (!c->tied_head || (m->arch->flags & EW_ARCH_OWN_HEAD) != 0);
    EW_TRY(add_mats(s, "token_embd.weight", &m->token_embd, 1, 0, false));
    if (m->position_embd.rows > 0) {
        EW_TRY(add_mats(s, "position_embd.weight", &m->position_embd, 1, 0, true));
    }
    if (m->token_types.rows > 0) {
        EW_TRY(add_mats(s, "token_types.weight", &m->token_types, 1, 0, true));
    }
    EW_TRY(add_vec(s, EW_SLOT_EMBD_NORM, 0, ".weight", m->embd_norm, c->C));
    EW_TRY(add_vec(s, EW_SLOT_EMBD_NORM, 0, ".bias", m->embd_norm_b, c->C));
    EW_TRY(add_vec(s, EW_SLOT_OUTPUT_NORM, 0, ".weight", m->output_norm, c->C));
    EW_TRY(add_vec(s, EW_SLOT_OUTPUT_NORM, 0, ".bias", m->output_norm_b, c->C));
    if (own_head) {
        EW_TRY(add_mats(s, "output.weight", &m->output, 1, 0, false));
    }
    EW_TRY(add_vec(s, EW_SLOT_OUTPUT, 0, ".bias", m->output_b, c->V));
    EW_TRY(add_rope_factors(s));
    for (uint32_t i = 0; i < c->L; i++) {
        EW_TRY(add_layer(s, i));
    }
    return EW_OK;
}

/* ---- keys ---- */

/* The type that most weights will be in. */
static ew_dtype main_type(const saver *s)
{
    ew_dtype t = s->opt->convert ? s->opt->dtype : EW_DTYPE_F32;
    uint64_t best = 0;
    for (unsigned i = 0; !s->opt->convert && i < EW_COUNT(s->m->dtype_bytes); i++) {
        t = s->m->dtype_bytes[i] > best ? (ew_dtype)i : t;
        best = EW_MAX(best, s->m->dtype_bytes[i]);
    }
    return t;
}

/* A GGUF's keys are all kept; those written before them take precedence. */
static ew_status add_keys(saver *s)
{
    static const char *const file_type[] = {"general.file_type", NULL};
    const ew_model *m = s->m;
    ew_gguf_writer *w = s->w;
    ew_mix mix = EW_MIX_F32;
    bool has_number = ew_mix_of_dtype(main_type(s), &mix);
    if (s->opt->name != NULL || m->gguf == NULL) {
        ew_gguf_add_str(w, "general.name", s->opt->name != NULL ? s->opt->name : m->cfg.name);
    }
    if (has_number && (m->gguf == NULL || s->opt->convert)) {
        ew_gguf_add_u32(w, "general.file_type", (uint32_t)mix);
    }
    for (size_t i = 0; i < s->opt->n_kv; i++) {
        ew_gguf_add_str(w, s->opt->kv[2 * i], s->opt->kv[2 * i + 1]);
    }
    if (m->gguf != NULL) {
        ew_gguf_add_all_from(w, m->gguf, s->opt->convert ? file_type : NULL);
        return EW_OK;
    }
    ew_gguf_add_str(w, "general.architecture", m->arch->name);
    ew_gguf_add_str(w, "general.type", "model");
    ew_gguf_add_u32(w, "general.quantization_version", 2);
    ew__save_config(w, m);
    if (m->vocab != NULL) {
        return ew_vocab_write_gguf(w, m->vocab, s->err);
    }
    ew_gguf_add_str(w, "tokenizer.ggml.model", "no_vocab");
    return EW_OK;
}

/* ---- data ---- */

/* Row of the source that becomes row r: within a head, 2j <- j and 2j + 1 <- j + D/2. */
static uint32_t source_row(const item *it, uint32_t rows, uint32_t r)
{
    if (it->permute == 0) {
        return r;
    }
    uint32_t D = rows / it->permute;
    uint32_t in = r % D;
    return r - in + in / 2 + (in % 2) * (D / 2);
}

static uint64_t item_bytes(const item *it)
{
    uint64_t rows = 0;
    for (uint32_t k = 0; k < it->n_parts; k++) {
        rows += it->part[k].rows;
    }
    return rows * it->out_row_bytes;
}

static ew_status write_part(saver *s, const item *it, const ew_mat *w, float *row, unsigned char *out)
{
    size_t bytes;
    EW_ASSERT(ew_dtype_row_bytes(w->dtype, w->cols, &bytes));
    for (uint32_t r = 0; r < w->rows; r++) {
        const unsigned char *src = (const unsigned char *)w->data + (size_t)source_row(it, w->rows, r) * w->row_bytes;
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

static ew_status write_item(saver *s, const item *it, float *row, unsigned char *out)
{
    for (uint32_t k = 0; k < it->n_parts; k++) {
        EW_TRY(write_part(s, it, &it->part[k], row, out));
    }
    return EW_OK;
}

static ew_status write_items(saver *s)
{
    size_t cols = 1;
    uint64_t total = 0;
    for (size_t i = 0; i < s->n; i++) {
        cols = EW_MAX(cols, s->items[i].part[0].cols);
        cols = EW_MAX(cols, s->items[i].part[s->items[i].n_parts - 1].cols);
        total += item_bytes(&s->items[i]);
    }
    float *row = ew_malloc(cols, 2 * sizeof(float)); /* f32 row, then the row as stored (never longer) */
    if (row == NULL) {
        return ew_fail(s->err, EW_ENOMEM, "not enough memory for a row of %zu", cols);
    }
    ew_status st = EW_OK;
    uint64_t done = 0;
    for (size_t i = 0; i < s->n && st == EW_OK; i++) {
        st = write_item(s, &s->items[i], row, (unsigned char *)(row + cols));
        done += item_bytes(&s->items[i]);
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
    EW_TRY(add_keys(s));
    EW_TRY(s->m->gguf != NULL ? add_file_tensors(s) : add_bound(s));
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
    if (m->gguf == NULL) {
        EW_TRY(ew__save_check(m, reterr));
    }
    s.names = m->cfg.encoder ? &ew__gguf_encoder_names : &ew__gguf_names;
    EW_TRY(ew_gguf_writer_new(path, &s.w, reterr));
    ew_status st = save(&s);
    ew_gguf_writer_free(&s.w);
    ew_free(s.items);
    return st;
}

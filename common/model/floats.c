/* The weights of a model as float arrays: where each stands in one block, copies, and a model over them (weights.h). */
#include <string.h>

#include "base/mem.h"
#include "model/model_int.h"

/* Takes n floats when there are any. */
typedef struct placer {
    float *at; /* NULL: only counts */
    size_t n;
} placer;

static float *take(placer *p, bool has, size_t n)
{
    float *ret = has && p->at != NULL ? p->at + p->n : NULL;
    p->n += has ? n : 0;
    return ret;
}

static void place_layer(const ew_model_config *c, const ew_layer_weights *w, placer *p, ew_layer_floats *ret)
{
    for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
        const ew_mat *m = &w->linear[l];
        ret->linear[l] = take(p, m->rows > 0, (size_t)m->rows * m->cols);
        ret->bias[l] = take(p, w->bias[l] != NULL, m->rows);
    }
    ret->attn_norm = take(p, w->attn_norm != NULL, c->C);
    ret->attn_norm_b = take(p, w->attn_norm_b != NULL, c->C);
    ret->ffn_norm = take(p, w->ffn_norm != NULL, c->C);
    ret->ffn_norm_b = take(p, w->ffn_norm_b != NULL, c->C);
    ret->attn_post_norm = take(p, w->attn_post_norm != NULL, c->C);
    ret->ffn_post_norm = take(p, w->ffn_post_norm != NULL, c->C);
    ret->q_norm = take(p, w->q_norm != NULL, (size_t)(c->qk_norm_heads ? c->H : 1) * c->D);
    ret->k_norm = take(p, w->k_norm != NULL, (size_t)(c->qk_norm_heads ? c->K : 1) * c->D);
}

size_t ew_model_floats_place(const ew_model *m, float *at, ew_model_floats *ret)
{
    const ew_model_config *c = &m->cfg;
    placer p = {.at = at};
    ew_model_floats f = {0};
    ew_layer_floats layer = {0};
    f.token_embd = take(&p, true, (size_t)c->V * c->C);
    f.output = take(&p, !c->tied_head && m->output.rows > 0, (size_t)c->V * c->C);
    f.output_b = take(&p, m->output_b != NULL, c->V);
    f.output_norm = take(&p, m->output_norm != NULL, c->C);
    f.output_norm_b = take(&p, m->output_norm_b != NULL, c->C);
    f.position_embd = take(&p, m->position_embd.rows > 0, (size_t)m->position_embd.rows * c->C);
    f.token_types = take(&p, m->token_types.rows > 0, (size_t)m->token_types.rows * c->C);
    f.embd_norm = take(&p, m->embd_norm != NULL, c->C);
    f.embd_norm_b = take(&p, m->embd_norm_b != NULL, c->C);
    for (uint32_t i = 0; i < c->L; i++) {
        place_layer(c, &m->layer[i], &p, at != NULL ? &ret->layer[i] : &layer);
    }
    if (at != NULL) {
        f.layer = ret->layer;
        *ret = f;
    }
    return p.n;
}

/* ---- copies ---- */

static void copy_mat(const ew_mat *w, float *dst)
{
    for (size_t r = 0; dst != NULL && r < w->rows; r++) {
        ew_dequant_row(w->dtype, (const char *)w->data + r * w->row_bytes, dst + r * w->cols, w->cols);
    }
}

static void copy_vec(const float *v, size_t n, float *dst)
{
    if (dst != NULL && v != NULL) {
        memcpy(dst, v, n * sizeof(float));
    }
}

static void copy_layer(const ew_model_config *c, const ew_layer_weights *w, const ew_layer_floats *dst)
{
    for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
        copy_mat(&w->linear[l], dst->linear[l]);
        copy_vec(w->bias[l], w->linear[l].rows, dst->bias[l]);
    }
    copy_vec(w->attn_norm, c->C, dst->attn_norm);
    copy_vec(w->attn_norm_b, c->C, dst->attn_norm_b);
    copy_vec(w->ffn_norm, c->C, dst->ffn_norm);
    copy_vec(w->ffn_norm_b, c->C, dst->ffn_norm_b);
    copy_vec(w->attn_post_norm, c->C, dst->attn_post_norm);
    copy_vec(w->ffn_post_norm, c->C, dst->ffn_post_norm);
    copy_vec(w->q_norm, (size_t)(c->qk_norm_heads ? c->H : 1) * c->D, dst->q_norm);
    copy_vec(w->k_norm, (size_t)(c->qk_norm_heads ? c->K : 1) * c->D, dst->k_norm);
}

void ew_model_floats_copy(const ew_model *m, const ew_model_floats *dst)
{
    const ew_model_config *c = &m->cfg;
    copy_mat(&m->token_embd, dst->token_embd);
    copy_mat(&m->output, dst->output);
    copy_vec(m->output_b, c->V, dst->output_b);
    copy_vec(m->output_norm, c->C, dst->output_norm);
    copy_vec(m->output_norm_b, c->C, dst->output_norm_b);
    copy_mat(&m->position_embd, dst->position_embd);
    copy_mat(&m->token_types, dst->token_types);
    copy_vec(m->embd_norm, c->C, dst->embd_norm);
    copy_vec(m->embd_norm_b, c->C, dst->embd_norm_b);
    for (uint32_t i = 0; i < c->L; i++) {
        copy_layer(c, &m->layer[i], &dst->layer[i]);
    }
}

/* ---- a model over them ---- */

static void lay_mat(ew_model *m, ew_mat *w, const float *data)
{
    if (data == NULL || w->rows == 0) {
        return;
    }
    const uint64_t old = (uint64_t)w->row_bytes * w->rows, now = (uint64_t)w->rows * w->cols * sizeof(float);
    m->weights_bytes = m->weights_bytes - EW_MIN(old, m->weights_bytes) + now;
    uint64_t *of_type = &m->dtype_bytes[(unsigned)w->dtype % EW_COUNT(m->dtype_bytes)];
    *of_type -= EW_MIN(old, *of_type);
    m->dtype_bytes[EW_DTYPE_F32] += now;
    *w = ew_mat_make(EW_DTYPE_F32, w->rows, w->cols, data);
}

static void lay_vec(const float **w, const float *data)
{
    *w = data != NULL && *w != NULL ? data : *w;
}

static void lay_layer(ew_model *m, ew_layer_weights *w, const ew_layer_floats *f)
{
    for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
        lay_mat(m, &w->linear[l], f->linear[l]);
        lay_vec(&w->bias[l], f->bias[l]);
    }
    lay_vec(&w->attn_norm, f->attn_norm);
    lay_vec(&w->attn_norm_b, f->attn_norm_b);
    lay_vec(&w->ffn_norm, f->ffn_norm);
    lay_vec(&w->ffn_norm_b, f->ffn_norm_b);
    lay_vec(&w->attn_post_norm, f->attn_post_norm);
    lay_vec(&w->ffn_post_norm, f->ffn_post_norm);
    lay_vec(&w->q_norm, f->q_norm);
    lay_vec(&w->k_norm, f->k_norm);
}

/* The base's file, vocabulary and tables stay the base's: m only shows them. */
static void borrow(ew_model *m, const ew_model *base)
{
    m->base = ew_model_ref(base);
    m->arch = base->arch;
    m->cfg = base->cfg;
    m->is_dir = base->is_dir;
    m->vocab = base->vocab;
    m->tok = base->tok;
    m->token_embd = base->token_embd;
    m->output = base->output;
    m->position_embd = base->position_embd;
    m->token_types = base->token_types;
    m->embd_norm = base->embd_norm;
    m->embd_norm_b = base->embd_norm_b;
    m->output_norm = base->output_norm;
    m->output_norm_b = base->output_norm_b;
    m->output_b = base->output_b;
    m->rope_factors = base->rope_factors;
    m->rope_long = base->rope_long;
    m->n_params = base->n_params;
    m->weights_bytes = base->weights_bytes;
    memcpy(m->dtype_bytes, base->dtype_bytes, sizeof(m->dtype_bytes));
    memcpy(m->layer, base->layer, base->cfg.L * sizeof(*m->layer));
}

ew_status ew_model_overlay(const ew_model *base, const ew_model_floats *weights, ew_model **ret_model, ew_error *reterr)
{
    EW_AUTO(ew_model) m = ew__model_alloc("");
    if (m == NULL || (m->layer = ew_calloc(base->cfg.L, sizeof(*m->layer))) == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for %u layers", base->cfg.L);
    }
    borrow(m, base);
    lay_mat(m, &m->token_embd, weights->token_embd);
    if (m->cfg.tied_head) {
        m->output = m->token_embd;
    } else {
        lay_mat(m, &m->output, weights->output);
    }
    lay_mat(m, &m->position_embd, weights->position_embd);
    lay_mat(m, &m->token_types, weights->token_types);
    lay_vec(&m->embd_norm, weights->embd_norm);
    lay_vec(&m->embd_norm_b, weights->embd_norm_b);
    lay_vec(&m->output_norm, weights->output_norm);
    lay_vec(&m->output_norm_b, weights->output_norm_b);
    lay_vec(&m->output_b, weights->output_b);
    for (uint32_t i = 0; weights->layer != NULL && i < m->cfg.L; i++) {
        lay_layer(m, &m->layer[i], &weights->layer[i]);
    }
    *ret_model = m;
    m = NULL;
    return EW_OK;
}

/* The two ends of a model: what the first layer reads, and the norm before the head. */
#include <string.h>

#include "train/backward.h"

#define PIECE 256u /* elements; a multiple of every dtype's block */

/* Is row t one of a prompt? */
static bool is_virtual(const ew_hooks *hooks, const ew_train_batch *b, size_t t)
{
    return hooks != NULL && hooks->prompt != NULL && (uint32_t)b->pos[t] < hooks->n_virtual;
}

/* The first row of sequence s that is a token's. */
static size_t first_token(const ew_hooks *hooks, const ew_train_batch *b, size_t s)
{
    size_t t = b->bound[s];
    while (t < b->bound[s + 1] && is_virtual(hooks, b, t)) {
        t++;
    }
    return t;
}

/* x[C] += row i of m. */
static void add_row(const ew_mat *m, size_t i, float *x)
{
    float piece[PIECE];
    const unsigned char *row = (const unsigned char *)m->data + i * m->row_bytes;
    for (size_t at = 0; at < m->cols; at += PIECE) {
        const size_t n = EW_MIN((size_t)PIECE, m->cols - at);
        size_t off = 0;
        EW_ASSERT(ew_dtype_row_bytes(m->dtype, at, &off));
        ew_dequant_row(m->dtype, row + off, piece, n);
        for (size_t j = 0; j < n; j++) {
            x[at + j] += piece[j];
        }
    }
}

void ew_train_embed(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, const ew_train_batch *b, float *x)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const ew_mat *positions = ew_model_position_embd(m);
    const size_t C = cfg->C;
    for (size_t s = 0; s < b->n_seq; s++) {
        const size_t begin = b->bound[s], first = first_token(hooks, b, s);
        for (size_t t = begin; t < first; t++) {
            memcpy(x + t * C, hooks->prompt + (size_t)b->pos[t] * C, C * sizeof(float));
        }
        ew_embed(e, ew_model_token_embd(m), b->id + first, b->bound[s + 1] - first, x + first * C);
    }
    if (cfg->embed_scale != 0) {
        ew_vec_scale(e, cfg->embed_scale, b->T * C, x);
    }
    for (size_t t = 0; positions->rows > 0 && t < b->T; t++) {
        EW_ASSERT(b->pos[t] >= 0 && (uint32_t)b->pos[t] < positions->rows);
        add_row(positions, (size_t)b->pos[t], x + t * C);
    }
}

void ew_train_embed_backward(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, const ew_train_batch *b,
                             float *dx, const ew_hook_grads *g)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const size_t C = cfg->C;
    if (g->weights != NULL && g->weights->position_embd != NULL) {
        ew_embed_bwd(e, dx, b->pos, b->T, C, g->weights->position_embd);
    }
    if (cfg->embed_scale != 0) {
        ew_vec_scale(e, cfg->embed_scale, b->T * C, dx);
    }
    for (size_t s = 0; s < b->n_seq; s++) {
        const size_t begin = b->bound[s], first = first_token(hooks, b, s);
        for (size_t t = begin; g->prompt != NULL && t < first; t++) {
            ew_vec_add(e, g->prompt + (size_t)b->pos[t] * C, dx + t * C, C);
        }
        if (g->weights != NULL && g->weights->token_embd != NULL) {
            ew_embed_bwd(e, dx + first * C, b->id + first, b->bound[s + 1] - first, C, g->weights->token_embd);
        }
    }
}

/* The weights of a head's norm and where their gradients go. */
typedef struct head_norm {
    const float *w, *b;
    float *dw, *db;
} head_norm;

static head_norm norm_of(const ew_model *m, const ew_hooks *hooks, int i_exit, const ew_hook_grads *g)
{
    if (i_exit >= 0) {
        const ew_exit_hook *x = &hooks->exits[i_exit];
        const ew_exit_grad d = g != NULL && g->exits != NULL ? g->exits[i_exit] : (ew_exit_grad){0};
        return (head_norm){x->norm, x->norm_b, d.norm, d.norm_b};
    }
    const ew_model_floats *d = g != NULL ? g->weights : NULL;
    return (head_norm){ew_model_output_norm(m), ew_model_output_norm_b(m), d != NULL ? d->output_norm : NULL,
                       d != NULL ? d->output_norm_b : NULL};
}

void ew_train_head_norm(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, int i_exit, const float *x,
                        size_t n, float *hidden, float *rstd)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const head_norm h = norm_of(m, hooks, i_exit, NULL);
    if (cfg->norm == EW_NORM_LAYER) {
        ew_layernorm(e, x, h.w, h.b, n, cfg->C, cfg->norm_eps, hidden);
    } else {
        ew_rmsnorm(e, x, h.w, n, cfg->C, cfg->norm_eps, hidden, rstd);
    }
}

void ew_train_head_norm_backward(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, int i_exit, const float *x,
                                 const float *rstd, const float *dhidden, size_t n, float *stat, float *dx,
                                 const ew_hook_grads *g)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const head_norm h = norm_of(m, hooks, i_exit, g);
    if (cfg->norm == EW_NORM_LAYER) {
        ew_layernorm_bwd(e, x, h.w, dhidden, n, cfg->C, cfg->norm_eps, stat, dx, h.dw, h.db);
    } else {
        ew_rmsnorm_bwd(e, x, h.w, rstd, dhidden, n, cfg->C, dx, h.dw);
    }
}

void ew_train_head(const ew_model *m, const ew_hook_grads *g, ew_cross_entropy_args *a)
{
    const ew_model_floats *d = g != NULL ? g->weights : NULL;
    a->head = ew_model_output(m);
    a->bias = ew_model_output_b(m);
    a->softcap = ew_model_config_of(m)->final_softcap;
    a->dhead = NULL;
    a->dbias = NULL;
    if (d != NULL) {
        a->dhead = ew_model_config_of(m)->tied_head ? d->token_embd : d->output;
        a->dbias = d->output_b;
    }
}

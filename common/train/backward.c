#include "train/backward.h"

#include <math.h>

#include "kern/ops.h"

ew_status ew_train_supported(const ew_model_config *cfg, ew_error *reterr)
{
    return ew_model_check_trainable(cfg, reterr);
}

static size_t wide_elems(const ew_model_config *cfg)
{
    size_t w = EW_MAX((size_t)cfg->F, (size_t)cfg->H * cfg->D);
    w = EW_MAX(w, 2 * (size_t)cfg->K * cfg->D);
    return EW_MAX(w, (size_t)cfg->C);
}

bool ew_train_acts_take(ew_arena *a, const ew_model_config *cfg, size_t t_max, ew_train_acts *ret)
{
    const size_t c = cfg->C, hd = (size_t)cfg->H * cfg->D, kd = (size_t)cfg->K * cfg->D, f = cfg->F;
    const struct {
        float **dst;
        size_t width;
    } parts[] = {{&ret->x, c},  {&ret->rstd1, 1}, {&ret->n1, c},       {&ret->q, hd}, {&ret->k, kd},
                 {&ret->v, kd}, {&ret->att, hd},  {&ret->lse, cfg->H}, {&ret->x1, c}, {&ret->rstd2, 1},
                 {&ret->n2, c}, {&ret->gate, f},  {&ret->up, f},       {&ret->h, f}};
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        *parts[i].dst = ew_arena_take(a, t_max * parts[i].width, sizeof(float));
    }
    return !a->overflow;
}

/* The most that any product of the model's layers needs as scratch, forward and backward. */
static size_t product_scratch(const ew_model *m, size_t t_max)
{
    size_t most = 0;
    const ew_model_config *cfg = ew_model_config_of(m);
    for (uint32_t il = 0; il < cfg->L; il++) {
        const ew_layer_weights *w = ew_model_layer(m, il);
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            most = EW_MAX(most, ew_matmul_dx_scratch(&w->linear[i], t_max));
        }
    }
    return most;
}

bool ew_train_work_take(ew_arena *a, const ew_model *m, uint32_t lora_rank, size_t t_max, ew_train_work *ret)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    ret->t_max = t_max;
    ret->dx = ew_arena_take(a, t_max * cfg->C, sizeof(float));
    ret->dn = ew_arena_take(a, t_max * cfg->C, sizeof(float));
    for (size_t i = 0; i < EW_COUNT(ret->dwide); i++) {
        ret->dwide[i] = ew_arena_take(a, t_max * wide_elems(cfg), sizeof(float));
    }
    for (size_t i = 0; i < EW_COUNT(ret->lowrank); i++) {
        ret->lowrank[i] = lora_rank > 0 ? ew_arena_take(a, t_max * lora_rank, sizeof(float)) : NULL;
    }
    ret->scratch = ew_arena_take(a, product_scratch(m, t_max), 1);
    ret->rope = (ew_rope_opt){.kind = cfg->rope_kind,
                              .n_rot = cfg->n_rot,
                              .theta_base = cfg->rope_theta,
                              .freq_factors = ew_model_rope_factors(m),
                              .table = ew_arena_take(a, t_max * cfg->n_rot, sizeof(float)),
                              .n_table = t_max};
    return !a->overflow;
}

void ew_train_work_start(ew_train_work *w)
{
    /* The table is the caller's arena memory; the option struct only reads it. */
    union {
        const float *in;
        float *out;
    } table = {w->rope.table};
    w->rope.table = NULL;
    ew_rope_table(&w->rope, w->t_max, table.out);
    w->rope.table = table.in;
}

/* y[T,F] = x W^T + scale (x A^T) B^T.  Overwrites y. */
static void linear_forward(const ew_exec *e, const ew_mat *w, const ew_linear_hook *lora, const float *x, size_t T,
                           float *y, ew_train_work *work)
{
    ew_matmul_f32(e, w, x, T, y, false);
    if (lora == NULL || lora->rank == 0) {
        return;
    }
    const size_t r = lora->rank;
    float *u = work->lowrank[0];
    ew_gemm(e, &(ew_gemm_args){T, r, w->cols, 1.0F, x, w->cols, 1, lora->a, 1, w->cols, u, r, false});
    ew_gemm(e, &(ew_gemm_args){T, w->rows, r, lora->scale, u, r, 1, lora->b, 1, r, y, w->rows, true});
}

/* Gradients of y += scale (x A^T) B^T.  da, db += …; dx += scale (dy B) A (NULL = not wanted). */
static void lora_backward(const ew_exec *e, const ew_mat *w, const ew_linear_hook *lora, const float *x,
                          const float *dy, size_t T, float *da, float *db, float *dx, ew_train_work *work)
{
    const size_t r = lora->rank, c = w->cols, f = w->rows;
    float *u = work->lowrank[0];
    float *du = work->lowrank[1];
    ew_gemm(e, &(ew_gemm_args){T, r, f, lora->scale, dy, f, 1, lora->b, r, 1, du, r, false});
    if (da != NULL) {
        ew_gemm(e, &(ew_gemm_args){T, r, c, lora->scale, x, c, 1, lora->a, 1, c, u, r, false});
        ew_gemm(e, &(ew_gemm_args){f, r, T, 1.0F, dy, 1, f, u, r, 1, db, r, true});
        ew_gemm(e, &(ew_gemm_args){r, c, T, 1.0F, du, 1, r, x, c, 1, da, c, true});
    }
    if (dx != NULL) {
        ew_gemm(e, &(ew_gemm_args){T, c, r, 1.0F, du, r, 1, lora->a, c, 1, dx, c, true});
    }
}

/* Gradients of linear_forward. dw, da, db += …; dx[T,C] (+)= dy W + …, not computed when dx is NULL. */
static void linear_backward(const ew_exec *e, const ew_mat *w, const ew_linear_hook *lora, const float *x,
                            const float *dy, size_t T, const ew_train_layer_grads *g, ew_linear which, float *dx,
                            bool accumulate, ew_train_work *work)
{
    if (dx != NULL) {
        ew_matmul_dx(e, w, dy, T, dx, accumulate, work->scratch);
    }
    if (g->linear[which] != NULL) {
        ew_matmul_dw(e, dy, x, T, w->rows, w->cols, g->linear[which]);
    }
    if (lora != NULL && lora->rank != 0) {
        lora_backward(e, w, lora, x, dy, T, g->lora_a[which], g->lora_b[which], dx, work);
    }
}

static ew_attention_train_args attention_args(const ew_model_config *cfg, const ew_train_batch *b,
                                              const ew_train_acts *acts)
{
    return (ew_attention_train_args){.q = acts->q,
                                     .k = acts->k,
                                     .v = acts->v,
                                     .seq = b->bound,
                                     .n_seq = b->n_seq,
                                     .H = cfg->H,
                                     .K = cfg->K,
                                     .D = cfg->D,
                                     .scale = 1.0F / sqrtf((float)cfg->D),
                                     .out = acts->att,
                                     .lse = acts->lse};
}

static const ew_linear_hook *pair(const ew_linear_hook *lora, ew_linear which)
{
    return lora != NULL ? &lora[which] : NULL;
}

void ew_train_layer_forward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_linear_hook *lora,
                            const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, float *y)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const ew_layer_weights *w = ew_model_layer(m, i_layer);
    const size_t T = b->T, C = cfg->C;
    EW_DASSERT(T <= work->t_max);

    ew_rmsnorm(e, acts->x, w->attn_norm, T, C, cfg->norm_eps, acts->n1, acts->rstd1);
    const ew_mat *lin = w->linear;
    linear_forward(e, &lin[EW_LINEAR_Q], pair(lora, EW_LINEAR_Q), acts->n1, T, acts->q, work);
    linear_forward(e, &lin[EW_LINEAR_K], pair(lora, EW_LINEAR_K), acts->n1, T, acts->k, work);
    linear_forward(e, &lin[EW_LINEAR_V], pair(lora, EW_LINEAR_V), acts->n1, T, acts->v, work);
    ew_rope(e, &work->rope, acts->q, T, cfg->H, cfg->D, b->pos, 0, false);
    ew_rope(e, &work->rope, acts->k, T, cfg->K, cfg->D, b->pos, 0, false);
    const ew_attention_train_args at = attention_args(cfg, b, acts);
    ew_attention_train(e, &at);
    linear_forward(e, &lin[EW_LINEAR_O], pair(lora, EW_LINEAR_O), acts->att, T, acts->x1, work);
    ew_vec_add(e, acts->x1, acts->x, T * C);

    ew_rmsnorm(e, acts->x1, w->ffn_norm, T, C, cfg->norm_eps, acts->n2, acts->rstd2);
    linear_forward(e, &lin[EW_LINEAR_GATE], pair(lora, EW_LINEAR_GATE), acts->n2, T, acts->gate, work);
    linear_forward(e, &lin[EW_LINEAR_UP], pair(lora, EW_LINEAR_UP), acts->n2, T, acts->up, work);
    ew_swiglu(e, acts->gate, acts->up, T * cfg->F, acts->h);
    if (y == NULL) {
        return;
    }
    linear_forward(e, &lin[EW_LINEAR_DOWN], pair(lora, EW_LINEAR_DOWN), acts->h, T, y, work);
    ew_vec_add(e, y, acts->x1, T * C);
}

static void ffn_backward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_linear_hook *lora, size_t T,
                         const ew_train_acts *acts, ew_train_work *work, const ew_train_layer_grads *grads)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const ew_layer_weights *w = ew_model_layer(m, i_layer);
    float *dh = work->dwide[0], *dgate = work->dwide[1], *dup = work->dwide[2];
    linear_backward(e, &w->linear[EW_LINEAR_DOWN], pair(lora, EW_LINEAR_DOWN), acts->h, work->dx, T, grads,
                    EW_LINEAR_DOWN, dh, false, work);
    ew_swiglu_bwd(e, acts->gate, acts->up, dh, T * cfg->F, dgate, dup);
    linear_backward(e, &w->linear[EW_LINEAR_GATE], pair(lora, EW_LINEAR_GATE), acts->n2, dgate, T, grads,
                    EW_LINEAR_GATE, work->dn, false, work);
    linear_backward(e, &w->linear[EW_LINEAR_UP], pair(lora, EW_LINEAR_UP), acts->n2, dup, T, grads, EW_LINEAR_UP,
                    work->dn, true, work);
    ew_rmsnorm_bwd(e, acts->x1, w->ffn_norm, acts->rstd2, work->dn, T, cfg->C, work->dx, grads->ffn_norm);
}

void ew_train_layer_backward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_linear_hook *lora,
                             const ew_train_batch *b, const ew_train_acts *acts, ew_train_work *work,
                             const ew_train_layer_grads *grads, bool need_dx)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const ew_layer_weights *w = ew_model_layer(m, i_layer);
    const size_t T = b->T;
    ffn_backward(e, m, i_layer, lora, T, acts, work, grads);

    float *datt = work->dwide[0], *dq = work->dwide[1], *dk = work->dwide[2];
    float *dv = dk + T * cfg->K * cfg->D;
    linear_backward(e, &w->linear[EW_LINEAR_O], pair(lora, EW_LINEAR_O), acts->att, work->dx, T, grads, EW_LINEAR_O,
                    datt, false, work);
    ew_attention_train_args at = attention_args(cfg, b, acts);
    at.dout = datt;
    at.dq = dq;
    at.dk = dk;
    at.dv = dv;
    ew_attention_train_bwd(e, &at);
    ew_rope(e, &work->rope, dq, T, cfg->H, cfg->D, b->pos, 0, true);
    ew_rope(e, &work->rope, dk, T, cfg->K, cfg->D, b->pos, 0, true);
    float *dn = need_dx ? work->dn : NULL;
    linear_backward(e, &w->linear[EW_LINEAR_Q], pair(lora, EW_LINEAR_Q), acts->n1, dq, T, grads, EW_LINEAR_Q, dn, false,
                    work);
    linear_backward(e, &w->linear[EW_LINEAR_K], pair(lora, EW_LINEAR_K), acts->n1, dk, T, grads, EW_LINEAR_K, dn, true,
                    work);
    linear_backward(e, &w->linear[EW_LINEAR_V], pair(lora, EW_LINEAR_V), acts->n1, dv, T, grads, EW_LINEAR_V, dn, true,
                    work);
    if (need_dx) {
        ew_rmsnorm_bwd(e, acts->x, w->attn_norm, acts->rstd1, dn, T, cfg->C, work->dx, grads->attn_norm);
    }
}

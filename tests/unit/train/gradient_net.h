/* A model with an adapter over packed sequences, for checks of gradients: loss, gradient of the adapter's block, and central differences
 * along a direction to which every array of the block contributes alike. */
#ifndef EW_TEST_GRADIENT_NET_H
#define EW_TEST_GRADIENT_NET_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "train/backward.h"

#define GNET_SEQS 3
#define GNET_ROWS 96 /* at most */
#define GNET_PARTS 512

typedef struct gradient_part {
    const char *what;
    uint32_t layer;
    size_t at, n;
} gradient_part;

typedef struct gradient_net {
    ew_model *base, *model; /* the second is what runs */
    const ew_model_config *cfg;
    ew_adapter *adapter;
    ew_hooks hooks; /* the adapter's, or with ratios of our own */
    ew_linear_hook *linear;
    float **ratio; /* [L * EW_LINEAR_COUNT], of DoRA: its norms stay as they were */
    float *params, *grad;
    size_t n;
    ew_exec exec;
    ew_arena arena;
    uint32_t n_ctx, ffn_rows;
    ew_train_acts *acts;
    ew_train_work work;
    float *xl, *hidden, *dhidden, *rstd, *stat;
    void *ce;
    uint32_t bound[GNET_SEQS + 1];
    int32_t id[GNET_ROWS], pos[GNET_ROWS], target[GNET_ROWS];
    float weight[GNET_ROWS];
    ew_train_batch b;
    gradient_part part[GNET_PARTS];
    size_t n_parts;
} gradient_net;

static inline void gnet_take(gradient_net *t, ew_arena *a)
{
    const size_t T = t->b.T, C = t->cfg->C;
    ew_train_needs needs = ew_train_needs_of(ew_adapter_opt_of(t->adapter), t->n_ctx);
    needs.dropout = true;
    needs.ffn_rows = t->ffn_rows;
    (void)ew_train_work_take(a, t->model, &needs, T, &t->work);
    for (uint32_t il = 0; il < t->cfg->L; il++) {
        (void)ew_train_acts_take(a, t->cfg, &needs, T, &t->acts[il]);
        t->acts[il].x = ew_arena_take(a, T * C, sizeof(float));
    }
    t->xl = ew_arena_take(a, T * C, sizeof(float));
    t->hidden = ew_arena_take(a, T * C, sizeof(float));
    t->dhidden = ew_arena_take(a, T * C, sizeof(float));
    t->rstd = ew_arena_take(a, T, sizeof(float));
    t->stat = ew_arena_take(a, 2 * T, sizeof(float));
    t->ce = ew_arena_take(a, ew_cross_entropy_scratch(ew_model_output(t->model), T), 1);
}

/* Parameters that no gradient vanishes behind. */
static inline void gnet_shake(gradient_net *t, ew_rng *rng)
{
    const ew_adapter_opt *o = ew_adapter_opt_of(t->adapter);
    for (size_t i = 0; i < t->n && o->kind != EW_ADAPTER_FULL; i++) {
        const double z = ew_rng_normal(rng);
        const bool exists = o->kind == EW_ADAPTER_IA3 || (o->dora && fabs((double)t->params[i]) > 0.4);
        t->params[i] = (float)(exists ? (double)t->params[i] * (1 + 0.2 * z) : 0.2 * z);
        if (o->kind == EW_ADAPTER_PROMPT || o->kind == EW_ADAPTER_PREFIX) {
            t->params[i] = (float)(0.5 * z);
        }
    }
    ew_adapter_refresh(t->adapter, t->base, &t->exec);
}

static inline void gnet_hooks(gradient_net *t)
{
    const size_t n = (size_t)t->cfg->L * EW_LINEAR_COUNT;
    t->hooks = *ew_adapter_hooks(t->adapter);
    if (!ew_adapter_opt_of(t->adapter)->dora) {
        return;
    }
    t->linear = calloc(n, sizeof(*t->linear));
    t->ratio = calloc(n, sizeof(*t->ratio));
    for (size_t i = 0; i < n; i++) {
        t->linear[i] = t->hooks.linear[i];
        const uint32_t rows =
            ew_model_layer(t->base, (uint32_t)(i / EW_LINEAR_COUNT))->linear[i % EW_LINEAR_COUNT].rows;
        if (t->linear[i].ratio != NULL) {
            t->linear[i].ratio = t->ratio[i] = calloc(rows, sizeof(float));
        }
    }
    t->hooks.linear = t->linear;
}

static inline void gnet_batch(gradient_net *t, ew_rng *rng, const uint32_t *len)
{
    const ew_adapter_opt *o = ew_adapter_opt_of(t->adapter);
    const uint32_t rows = o->kind == EW_ADAPTER_PROMPT ? o->n_virtual : 0, V = t->cfg->V;
    const uint32_t first = o->kind == EW_ADAPTER_PREFIX ? o->n_virtual : 0;
    for (size_t s = 0; s < GNET_SEQS; s++) {
        t->bound[s + 1] = t->bound[s] + rows + len[s];
        for (uint32_t i = t->bound[s]; i < t->bound[s + 1]; i++) {
            const uint32_t at = i - t->bound[s];
            t->id[i] = at < rows ? -1 : (int32_t)ew_rng_below(rng, V);
            t->pos[i] = (int32_t)(first + at);
            t->target[i] = (int32_t)ew_rng_below(rng, V);
            t->weight[i] = at < rows || i % 5 == 0 ? 0.0F : 0.5F + (float)(i % 3);
        }
    }
    t->b = (ew_train_batch){.T = t->bound[GNET_SEQS],
                            .n_seq = GNET_SEQS,
                            .bound = t->bound,
                            .id = t->id,
                            .pos = t->pos,
                            .target = t->target,
                            .weight = t->weight,
                            .seed = 5};
}

/* Takes base over. len: of the three sequences. False: refused, err says why. */
static inline bool gnet_open(gradient_net *t, ew_model *base, const ew_adapter_opt *opt, const char *kern,
                             uint32_t n_ctx, uint32_t ffn_rows, const uint32_t *len, ew_error *err)
{
    ew_rng rng;
    ew_rng_init(&rng, 11, 1);
    memset(t, 0, sizeof(*t));
    t->base = base;
    t->cfg = ew_model_config_of(base);
    t->exec.kern = ew_kern_get(kern);
    t->n_ctx = n_ctx;
    t->ffn_rows = ffn_rows;
    if (ew_train_supported(t->cfg, err) != EW_OK || ew_adapter_new(base, opt, &t->adapter, err) != EW_OK ||
        ew_adapter_model(t->adapter, base, &t->model, err) != EW_OK) {
        return false;
    }
    t->params = ew_adapter_params(t->adapter, &t->n);
    t->grad = calloc(t->n, sizeof(float));
    t->acts = calloc(t->cfg->L, sizeof(*t->acts));
    gnet_shake(t, &rng);
    gnet_hooks(t);
    gnet_batch(t, &rng, len);
    ew_arena dry;
    ew_arena_init_dry(&dry);
    gnet_take(t, &dry);
    if (ew_arena_init(&t->arena, dry.peak, err) != EW_OK) {
        return false;
    }
    gnet_take(t, &t->arena);
    ew_train_work_start(&t->work);
    return true;
}

static inline void gnet_close(gradient_net *t)
{
    for (size_t i = 0; t->ratio != NULL && i < (size_t)t->cfg->L * EW_LINEAR_COUNT; i++) {
        free(t->ratio[i]);
    }
    free(t->ratio);
    free(t->linear);
    free(t->grad);
    free(t->acts);
    ew_arena_release(&t->arena);
    ew_model_unref(&t->model);
    ew_adapter_free(&t->adapter);
    ew_model_unref(&t->base);
}

static inline void gnet_ratios(gradient_net *t)
{
    const ew_hook_grads *g = ew_adapter_grads(t->adapter, t->grad);
    for (size_t i = 0; t->ratio != NULL && i < (size_t)t->cfg->L * EW_LINEAR_COUNT; i++) {
        const uint32_t rows =
            ew_model_layer(t->base, (uint32_t)(i / EW_LINEAR_COUNT))->linear[i % EW_LINEAR_COUNT].rows;
        for (uint32_t r = 0; t->ratio[i] != NULL && r < rows; r++) {
            t->ratio[i][r] = t->params[(g->linear[i].magnitude - t->grad) + r] / t->linear[i].norm[r];
        }
    }
}

static inline double gnet_loss(gradient_net *t, const ew_hook_grads *g)
{
    const ew_exec *e = &t->exec;
    const uint32_t L = t->cfg->L;
    gnet_ratios(t);
    ew_train_embed(e, t->model, &t->hooks, &t->b, t->acts[0].x);
    for (uint32_t il = 0; il < L; il++) {
        float *y = il + 1 < L ? t->acts[il + 1].x : t->xl;
        ew_train_layer_forward(e, t->model, il, &t->hooks, &t->b, &t->acts[il], &t->work, y);
    }
    ew_train_head_norm(e, t->model, &t->hooks, -1, t->xl, t->b.T, t->hidden, t->rstd);
    ew_cross_entropy_args a = {.hidden = t->hidden,
                               .targets = t->target,
                               .weight = t->weight,
                               .T = t->b.T,
                               .scale = 1,
                               .dhidden = g != NULL ? t->dhidden : NULL,
                               .scratch = t->ce};
    ew_train_head(t->model, g, &a);
    return ew_cross_entropy(e, &a);
}

/* The gradient into t->grad. recompute: every layer's activations are made again first. */
static inline double gnet_gradient(gradient_net *t, bool recompute)
{
    const ew_exec *e = &t->exec;
    memset(t->grad, 0, t->n * sizeof(float));
    const ew_hook_grads *g = ew_adapter_grads(t->adapter, t->grad);
    const double loss = gnet_loss(t, g);
    memset(t->work.dx, 0, t->b.T * t->cfg->C * sizeof(float));
    ew_train_head_norm_backward(e, t->model, &t->hooks, -1, t->xl, t->rstd, t->dhidden, t->b.T, t->stat, t->work.dx, g);
    const bool ends = g->prompt != NULL || g->weights != NULL;
    for (uint32_t il = t->cfg->L; il-- > 0;) {
        if (recompute) {
            ew_train_layer_forward(e, t->model, il, &t->hooks, &t->b, &t->acts[il], &t->work, NULL);
        }
        ew_train_layer_backward(e, t->model, il, &t->hooks, &t->b, &t->acts[il], &t->work, g, il > 0 || ends);
    }
    if (ends) {
        ew_train_embed_backward(e, t->model, &t->hooks, &t->b, t->work.dx, g);
    }
    return loss;
}

/* ---- the arrays of the block ---- */

static inline void gnet_part(gradient_net *t, const float *p, const char *what, uint32_t layer)
{
    if (p != NULL && t->n_parts < GNET_PARTS) {
        t->part[t->n_parts++] = (gradient_part){what, layer, (size_t)(p - t->grad), 0};
    }
}

static inline int gnet_by_place(const void *a, const void *b)
{
    const gradient_part *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static inline void gnet_layer_parts(gradient_net *t, const ew_layer_floats *f, uint32_t il)
{
    for (int i = 0; i < EW_LINEAR_COUNT; i++) {
        gnet_part(t, f->linear[i], ew_linear_hf_name((ew_linear)i), il);
        gnet_part(t, f->bias[i], "bias", il);
    }
    float *const norms[] = {f->attn_norm,      f->ffn_norm,      f->attn_norm_b, f->ffn_norm_b,
                            f->attn_post_norm, f->ffn_post_norm, f->q_norm,      f->k_norm};
    for (size_t i = 0; i < EW_COUNT(norms); i++) {
        gnet_part(t, norms[i], "norm", il);
    }
}

static inline void gnet_parts(gradient_net *t)
{
    const ew_hook_grads *g = ew_adapter_grads(t->adapter, t->grad);
    t->n_parts = 0;
    for (uint32_t i = 0; i < t->cfg->L * EW_LINEAR_COUNT && g->linear != NULL; i++) {
        const ew_linear_grad *l = &g->linear[i];
        const uint32_t il = i / EW_LINEAR_COUNT;
        gnet_part(t, l->a, "lora_A", il);
        gnet_part(t, l->b, "lora_B", il);
        gnet_part(t, l->magnitude, "magnitude", il);
        gnet_part(t, l->in_scale, "in_scale", il);
        gnet_part(t, l->out_scale, "out_scale", il);
    }
    for (uint32_t i = 0; i < t->cfg->L * 2 && g->bottleneck != NULL; i++) {
        gnet_part(t, g->bottleneck[i].down, "down", i / 2);
        gnet_part(t, g->bottleneck[i].down_b, "down_b", i / 2);
        gnet_part(t, g->bottleneck[i].up, "up", i / 2);
        gnet_part(t, g->bottleneck[i].up_b, "up_b", i / 2);
    }
    gnet_part(t, g->prompt, "prompt", 0);
    gnet_part(t, g->prefix_k, "prefix_k", 0);
    gnet_part(t, g->prefix_v, "prefix_v", 0);
    const ew_model_floats *w = g->weights;
    if (w != NULL) {
        float *const ends[] = {w->token_embd,    w->output,   w->output_norm,
                               w->output_norm_b, w->output_b, w->position_embd};
        for (size_t i = 0; i < EW_COUNT(ends); i++) {
            gnet_part(t, ends[i], "an end", 0);
        }
        for (uint32_t il = 0; il < t->cfg->L; il++) {
            gnet_layer_parts(t, &w->layer[il], il);
        }
    }
    qsort(t->part, t->n_parts, sizeof(t->part[0]), gnet_by_place);
    for (size_t i = 0; i < t->n_parts; i++) {
        t->part[i].n = (i + 1 < t->n_parts ? t->part[i + 1].at : t->n) - t->part[i].at;
    }
}

/* ---- differences ---- */

/* L(p + h d) - L(p - h d). */
static inline double gnet_difference(gradient_net *t, const float *keep, const double *d, double h)
{
    double side[2];
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < t->n; i++) {
            t->params[i] = (float)((double)keep[i] + (s == 0 ? -h : h) * d[i]);
        }
        side[s] = gnet_loss(t, NULL);
    }
    return side[1] - side[0];
}

/* Relative error of the gradient against differences along a direction in which each of parts [first, first + n) changes the loss by the
 * same, extrapolated from two steps. An array whose gradient is tiny beside the others' moves less. */
static inline double gnet_check(gradient_net *t, size_t first, size_t n, double delta, uint64_t seed)
{
    ew_rng rng;
    ew_rng_init(&rng, seed, 5);
    float *keep = malloc(t->n * sizeof(float));
    double *d = calloc(t->n, sizeof(double));
    double share[GNET_PARTS], most = 0, exact = 0;
    memcpy(keep, t->params, t->n * sizeof(float));
    for (size_t k = first; k < first + n; k++) {
        const gradient_part *p = &t->part[k];
        share[k] = 0;
        for (size_t i = p->at; i < p->at + p->n; i++) {
            d[i] = 0.5 * ew_rng_normal(&rng) + (t->grad[i] > 0 ? 1 : t->grad[i] < 0 ? -1 : 0);
            share[k] += d[i] * (double)t->grad[i];
        }
        most = fmax(most, fabs(share[k]));
    }
    for (size_t k = first; k < first + n; k++) {
        const gradient_part *p = &t->part[k];
        const double f = 1 / fmax(share[k], 2e-3 * most);
        for (size_t i = p->at; i < p->at + p->n; i++) {
            d[i] *= f / (double)n;
            exact += d[i] * (double)t->grad[i];
        }
    }
    const double near = gnet_difference(t, keep, d, delta), far = gnet_difference(t, keep, d, 2 * delta);
    const double diff = (8 * near - far) / 6; /* of the slope times 2 delta, up to the fifth order */
    memcpy(t->params, keep, t->n * sizeof(float));
    free(keep);
    free(d);
    return fabs(diff / (2 * delta) - exact) / fmax(fabs(exact), 0.1);
}

#endif

/* A linear layer with what hangs on it (LoRA with dropout, DoRA, IA3), bottleneck adapters, and their gradients. */
#include <string.h>

#include "sys/pool.h"
#include "train/backward_int.h"
#include "train/dropout.h"

static const ew_linear_hook *hook_of(const layer_pass *p, ew_linear l)
{
    return p->linear != NULL ? &p->linear[l] : NULL;
}

static ew_linear_grad grad_of(const layer_pass *p, ew_linear l)
{
    return p->gl != NULL ? p->gl[l] : (ew_linear_grad){0};
}

static bool has_lora(const ew_linear_hook *h)
{
    return h != NULL && h->rank > 0;
}

/* y[t] *= s of T rows. */
static void scale_columns(const layer_pass *p, const float *s, size_t T, size_t n, float *y)
{
    for (size_t t = 0; t < T; t++) {
        ew_vec_mul(p->e, y + t * n, s, n);
    }
}

/* ---- dropout ---- */

typedef struct mask_job {
    const ew_train_batch *b;
    uint64_t stream;
    size_t row, C;
    const float *x;
    float *y;
} mask_job;

static void mask_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const mask_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        ew_dropout_row(j->b->seed, j->stream, (uint32_t)(j->row + t), j->b->dropout, j->x + t * j->C, j->C,
                       j->y + t * j->C);
    }
}

/* y = mask of rows [row, row + n) of the pass over x; y may be x. */
static void mask(const layer_pass *p, ew_linear l, const float *x, size_t row, size_t n, float *y)
{
    mask_job j = {p->b, p->b->pass << 16 | (uint64_t)p->il << 4 | (uint64_t)l, p->row + row, p->w->linear[l].cols, x,
                  y};
    EW_DASSERT(p->work->masked != NULL);
    ew_par_for(p->e->pool, n, 4, mask_rows, &j);
}

/* ---- LoRA ---- */

/* u[n,R] = scale * x A^T, x[n,C] being rows [row, row + n), through the mask if there is one. */
static void lora_down(const layer_pass *p, ew_linear l, const float *x, size_t row, size_t n, float scale, float *u)
{
    const ew_linear_hook *h = hook_of(p, l);
    const size_t r = h->rank, c = p->w->linear[l].cols;
    if (!(p->b->dropout > 0)) {
        ew_gemm(p->e, &(ew_gemm_args){n, r, c, scale, x, c, 1, h->a, 1, c, u, r, false});
        return;
    }
    for (size_t at = 0; at < n; at += EW__ROWS) {
        const size_t k = EW_MIN((size_t)EW__ROWS, n - at);
        mask(p, l, x + at * c, row + at, k, p->work->masked);
        ew_gemm(p->e, &(ew_gemm_args){k, r, c, scale, p->work->masked, c, 1, h->a, 1, c, u + at * r, r, false});
    }
}

/* y[n,F] = W x + scale B (A x) of rows [row, row + n). */
static void product(const layer_pass *p, ew_linear l, const float *x, size_t row, size_t n, float *y)
{
    const ew_mat *w = &p->w->linear[l];
    const ew_linear_hook *h = hook_of(p, l);
    ew_matmul_f32(p->e, w, x, n, y, false);
    if (has_lora(h)) {
        const size_t r = h->rank;
        lora_down(p, l, x, row, n, 1.0F, p->work->lowrank[0]);
        ew_gemm(p->e,
                &(ew_gemm_args){n, w->rows, r, h->scale, p->work->lowrank[0], r, 1, h->b, 1, r, y, w->rows, true});
    }
}

void ew__linear_forward(const layer_pass *p, ew_linear l, const float *x, float *y)
{
    const ew_mat *w = &p->w->linear[l];
    const ew_linear_hook *h = hook_of(p, l);
    if (h != NULL && h->in_scale != NULL) {
        EW_ASSERT(l == EW_LINEAR_O || l == EW_LINEAR_DOWN);
        if (x != p->work->wide) {
            memcpy(p->work->wide, x, p->T * w->cols * sizeof(float));
        }
        scale_columns(p, h->in_scale, p->T, w->cols, p->work->wide);
        x = p->work->wide;
    }
    product(p, l, x, 0, p->T, y);
    if (h != NULL && h->ratio != NULL) {
        scale_columns(p, h->ratio, p->T, w->rows, y);
    }
    if (p->w->bias[l] != NULL) {
        ew_bias_add(p->e, p->w->bias[l], p->T, w->rows, y);
    }
    if (h != NULL && h->out_scale != NULL) {
        scale_columns(p, h->out_scale, p->T, w->rows, y);
    }
}

/* ---- backward ---- */

bool ew__linear_reads_input(const layer_pass *p, ew_linear l)
{
    const ew_linear_grad g = grad_of(p, l);
    return (p->gw != NULL && p->gw->linear[l] != NULL) || g.a != NULL || g.magnitude != NULL || g.out_scale != NULL;
}

bool ew__linear_scales(const layer_pass *p, ew_linear l)
{
    const ew_linear_hook *h = hook_of(p, l);
    return h != NULL && (h->ratio != NULL || h->out_scale != NULL);
}

/* Gradients of what scales the output: the products behind it are computed again, some rows at a time. */
static void scales_backward(const layer_pass *p, ew_linear l, const float *x, const float *dy)
{
    const ew_linear_hook *h = hook_of(p, l);
    const ew_linear_grad g = grad_of(p, l);
    const size_t c = p->w->linear[l].cols, f = p->w->linear[l].rows;
    const float *bias = p->w->bias[l], *ratio = h->ratio, *out = h->out_scale;
    float *y = p->work->again;
    if (g.magnitude == NULL && g.out_scale == NULL) {
        return;
    }
    EW_DASSERT(y != NULL);
    for (size_t at = 0; at < p->T; at += EW__ROWS) {
        const size_t n = EW_MIN((size_t)EW__ROWS, p->T - at);
        product(p, l, x + at * c, at, n, y);
        for (size_t t = 0; t < n; t++) {
            const float *d = dy + (at + t) * f, *yt = y + t * f;
            for (size_t i = 0; g.magnitude != NULL && i < f; i++) {
                if (h->norm[i] > 0) { /* a row of zeros stays one: its ratio is 0 */
                    g.magnitude[i] += d[i] * (out != NULL ? out[i] : 1.0F) * yt[i] / h->norm[i];
                }
            }
            for (size_t i = 0; g.out_scale != NULL && i < f; i++) {
                g.out_scale[i] += d[i] * ((ratio != NULL ? ratio[i] : 1.0F) * yt[i] + (bias != NULL ? bias[i] : 0.0F));
            }
        }
    }
}

/* dA += du^T x, through the mask if there is one. */
static void lora_a_backward(const layer_pass *p, ew_linear l, const float *x, const float *du, float *da)
{
    const size_t r = hook_of(p, l)->rank, c = p->w->linear[l].cols;
    if (!(p->b->dropout > 0)) {
        ew_gemm(p->e, &(ew_gemm_args){r, c, p->T, 1.0F, du, 1, r, x, c, 1, da, c, true});
        return;
    }
    for (size_t at = 0; at < p->T; at += EW__ROWS) {
        const size_t n = EW_MIN((size_t)EW__ROWS, p->T - at);
        mask(p, l, x + at * c, at, n, p->work->masked);
        ew_gemm(p->e, &(ew_gemm_args){r, c, n, 1.0F, du + at * r, 1, r, p->work->masked, c, 1, da, c, true});
    }
}

/* dx += du A, through the mask if there is one. */
static void lora_x_backward(const layer_pass *p, ew_linear l, const float *du, float *dx)
{
    const ew_linear_hook *h = hook_of(p, l);
    const size_t r = h->rank, c = p->w->linear[l].cols;
    if (!(p->b->dropout > 0)) {
        ew_gemm(p->e, &(ew_gemm_args){p->T, c, r, 1.0F, du, r, 1, h->a, c, 1, dx, c, true});
        return;
    }
    for (size_t at = 0; at < p->T; at += EW__ROWS) {
        const size_t n = EW_MIN((size_t)EW__ROWS, p->T - at);
        float *t = p->work->masked;
        ew_gemm(p->e, &(ew_gemm_args){n, c, r, 1.0F, du + at * r, r, 1, h->a, c, 1, t, c, false});
        mask(p, l, t, at, n, t);
        ew_vec_add(p->e, dx + at * c, t, n * c);
    }
}

/* dz becomes dx = in_scale * dz; the scale's gradient is the sum of dz * x. x of Down is made again. */
static void in_scale_backward(const layer_pass *p, ew_linear l, const float *x, float *dz)
{
    const ew_linear_hook *h = hook_of(p, l);
    float *ds = grad_of(p, l).in_scale;
    const size_t c = p->w->linear[l].cols;
    for (size_t at = 0; ds != NULL && at < p->T; at += EW__ROWS) {
        const size_t n = EW_MIN((size_t)EW__ROWS, p->T - at);
        const float *rows = x + at * c;
        if (l == EW_LINEAR_DOWN) {
            ew__hidden_rows(p, at, n, p->work->again);
            rows = p->work->again;
        }
        for (size_t t = 0; t < n; t++) {
            for (size_t i = 0; i < c; i++) {
                ds[i] += dz[(at + t) * c + i] * rows[t * c + i];
            }
        }
    }
    scale_columns(p, h->in_scale, p->T, c, dz);
}

void ew__linear_backward(const layer_pass *p, ew_linear l, const float *x, float *dy, float *dx, bool accumulate)
{
    const ew_mat *w = &p->w->linear[l];
    const ew_linear_hook *h = hook_of(p, l);
    const ew_linear_grad g = grad_of(p, l);
    const size_t f = w->rows, T = p->T;
    if (ew__linear_scales(p, l)) {
        scales_backward(p, l, x, dy);
        if (h->out_scale != NULL) {
            scale_columns(p, h->out_scale, T, f, dy);
        }
    }
    if (p->gw != NULL && p->gw->bias[l] != NULL) {
        ew_bias_bwd(p->e, dy, T, f, p->gw->bias[l]);
    }
    if (h != NULL && h->ratio != NULL) {
        scale_columns(p, h->ratio, T, f, dy);
    }
    if (p->gw != NULL && p->gw->linear[l] != NULL) {
        ew_matmul_dw(p->e, dy, x, T, f, w->cols, p->gw->linear[l]);
    }
    float *u = p->work->lowrank[0], *du = p->work->lowrank[1];
    if (has_lora(h) && (g.a != NULL || dx != NULL)) {
        const size_t r = h->rank;
        ew_gemm(p->e, &(ew_gemm_args){T, r, f, h->scale, dy, f, 1, h->b, r, 1, du, r, false});
        if (g.a != NULL) {
            lora_down(p, l, x, 0, T, h->scale, u);
            ew_gemm(p->e, &(ew_gemm_args){f, r, T, 1.0F, dy, 1, f, u, r, 1, g.b, r, true});
            lora_a_backward(p, l, x, du, g.a);
        }
    }
    if (dx == NULL) {
        return;
    }
    ew_matmul_dx(p->e, w, dy, T, dx, accumulate, p->work->scratch);
    if (has_lora(h)) {
        lora_x_backward(p, l, du, dx);
    }
    if (h != NULL && h->in_scale != NULL) {
        in_scale_backward(p, l, x, dx);
    }
}

/* ---- bottlenecks ---- */

/* z[T,W] = Down o + down_b */
static void narrow(const layer_pass *p, const ew_bottleneck_hook *h, const float *o, float *z)
{
    const size_t C = p->cfg->C, w = h->width;
    ew_gemm(p->e, &(ew_gemm_args){p->T, w, C, 1.0F, o, C, 1, h->down, 1, C, z, w, false});
    ew_bias_add(p->e, h->down_b, p->T, w, z);
}

void ew__bottleneck_forward(const layer_pass *p, int which, float *o)
{
    const ew_bottleneck_hook *h = &p->bottleneck[which];
    const size_t C = p->cfg->C, w = h->width;
    float *z = p->work->lowrank[0];
    narrow(p, h, o, z);
    ew_activate(p->e, h->act, z, NULL, p->T * w, z);
    ew_gemm(p->e, &(ew_gemm_args){p->T, C, w, 1.0F, z, w, 1, h->up, 1, w, o, C, true});
    ew_bias_add(p->e, h->up_b, p->T, C, o);
}

void ew__bottleneck_backward(const layer_pass *p, int which, const float *o, float *d)
{
    const ew_bottleneck_hook *h = &p->bottleneck[which];
    const ew_bottleneck_grad g = p->gb != NULL ? p->gb[which] : (ew_bottleneck_grad){0};
    const size_t C = p->cfg->C, w = h->width, T = p->T;
    float *z = p->work->lowrank[0], *dz = p->work->lowrank[1];
    narrow(p, h, o, z);
    if (g.up != NULL) {
        ew_activate(p->e, h->act, z, NULL, T * w, dz);
        ew_gemm(p->e, &(ew_gemm_args){C, w, T, 1.0F, d, 1, C, dz, w, 1, g.up, w, true});
        ew_bias_bwd(p->e, d, T, C, g.up_b);
    }
    ew_gemm(p->e, &(ew_gemm_args){T, w, C, 1.0F, d, C, 1, h->up, w, 1, dz, w, false});
    ew_activate_bwd(p->e, h->act, z, NULL, dz, T * w, dz, NULL);
    if (g.down != NULL) {
        ew_gemm(p->e, &(ew_gemm_args){w, C, T, 1.0F, dz, 1, w, o, C, 1, g.down, C, true});
        ew_bias_bwd(p->e, dz, T, w, g.down_b);
    }
    ew_gemm(p->e, &(ew_gemm_args){T, C, w, 1.0F, dz, w, 1, h->down, C, 1, d, C, true});
}

/* Activations of a feed-forward layer other than SwiGLU, their derivatives, and soft caps: elementwise, partition over the pool. The one function that
 * they need, the logistic, is the table's swiglu: s(z) = swiglu(z, 1/z). */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "kern/ops.h"
#include "sys/pool.h"

#define ELEMS_PER_TASK 2048

#define BLOCK 256 /* elements at a time */

typedef struct act_job {
    const ew_kern *k;
    const float *gate, *up; /* up NULL = 1 */
    float cap;
    float *y;
} act_job;

static void silu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    float one[BLOCK];
    (void)thread;
    for (size_t i = 0; i < BLOCK; i++) {
        one[i] = 1;
    }
    for (size_t at = begin; at < end; at += BLOCK) {
        j->k->swiglu(j->gate + at, one, EW_MIN(end - at, (size_t)BLOCK), j->y + at);
    }
}

/* gelu(a) up = a up / (1 + exp(-z)) with z = 2 sqrt(2/pi) (a + 0.044715 a^3): the table's swiglu of z and a up / z. */
static void gelu_tanh_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    float z[BLOCK];
    float u[BLOCK];
    (void)thread;
    for (size_t at = begin; at < end; at += BLOCK) {
        size_t n = EW_MIN(end - at, (size_t)BLOCK);
        for (size_t i = 0; i < n; i++) {
            float a = j->gate[at + i];
            float sq = a * a < 1e6F ? a * a : 1e6F; /* far beyond, the same value without overflow */
            float c = 1.5957691216057308F * (1 + 0.044715F * sq);
            z[i] = a * c;
            u[i] = 1 / c;
        }
        for (size_t i = 0; j->up != NULL && i < n; i++) {
            u[i] *= j->up[at + i];
        }
        j->k->swiglu(z, u, n, j->y + at);
    }
}

/* s = 1 / (1 + exp(-z)) for |z| in [1e-20, 1e20]; n <= BLOCK. */
static void logistic(const ew_kern *k, const float *z, size_t n, float *s)
{
    float u[BLOCK] = {0};
    for (size_t i = 0; i < n; i++) {
        u[i] = 1 / z[i];
    }
    k->swiglu(z, u, n, s);
}

/* erf(x) = 1 - t (a1 + t (a2 + …)) exp(-x^2), t = 1 / (1 + p |x|), absolute error 3e-7 (Abramowitz & Stegun 7.1.26), with
 * exp(-w) = 1/s(w) - 1. */
static void gelu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    float w[BLOCK];
    float s[BLOCK];
    (void)thread;
    for (size_t at = begin; at < end; at += BLOCK) {
        size_t n = EW_MIN(end - at, (size_t)BLOCK);
        for (size_t i = 0; i < n; i++) {
            float sq = 0.5F * j->gate[at + i] * j->gate[at + i] + 1e-12F;
            w[i] = sq < 80 ? sq : 80;
        }
        logistic(j->k, w, n, s);
        for (size_t i = 0; i < n; i++) {
            float a = j->gate[at + i];
            float t = 1 / (1 + 0.3275911F * 0.70710678118654752F * fabsf(a));
            float p = 1.061405429F;
            p = p * t - 1.453152027F;
            p = p * t + 1.421413741F;
            p = p * t - 0.284496736F;
            p = p * t + 0.254829592F;
            float erf_a = copysignf(1 - p * t * (1 / s[i] - 1), a);
            w[i] = 0.5F * a * (1 + erf_a);
        }
        for (size_t i = 0; j->up != NULL && i < n; i++) {
            w[i] *= j->up[at + i];
        }
        memcpy(j->y + at, w, n * sizeof(float));
    }
}

static void relu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float g = j->gate[i] > 0 ? j->gate[i] : 0;
        j->y[i] = j->up != NULL ? g * j->up[i] : g;
    }
}

void ew_activate(const ew_exec *e, ew_act act, const float *gate, const float *up, size_t n, float *y)
{
    act_job j = {.k = e->kern, .gate = gate, .up = up, .y = y};
    switch (act) {
    case EW_ACT_SILU:
        if (up != NULL) {
            ew_swiglu(e, gate, up, n, y);
        } else {
            ew_par_for(e->pool, n, ELEMS_PER_TASK, silu_part, &j);
        }
        return;
    case EW_ACT_GELU_TANH:
        ew_par_for(e->pool, n, ELEMS_PER_TASK, gelu_tanh_part, &j);
        return;
    case EW_ACT_GELU:
        ew_par_for(e->pool, n, ELEMS_PER_TASK, gelu_part, &j);
        return;
    case EW_ACT_RELU:
        ew_par_for(e->pool, n, ELEMS_PER_TASK, relu_part, &j);
        return;
    }
    EW_ASSERT(false); /* no such activation */
}

/* tanh(x) = 2 s(2x) - 1, absolute error 2e-7. */
void ew__softcap_row(const ew_kern *k, float *row, size_t count, float scale, float cap)
{
    float z[BLOCK];
    float s[BLOCK];
    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = EW_MIN(count - at, (size_t)BLOCK);
        float *y = row + at;
        for (size_t i = 0; i < n; i++) {
            float x = 2 * (y[i] * scale) / cap;
            x = fabsf(x) < 1e-20F ? 1e-20F : x;
            z[i] = fabsf(x) > 200 ? copysignf(200, x) : x;
        }
        logistic(k, z, n, s);
        for (size_t i = 0; i < n; i++) {
            y[i] = cap * (2 * s[i] - 1);
        }
    }
}

static void cap_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    ew__softcap_row(j->k, j->y + begin, end - begin, 1, j->cap);
}

void ew_softcap(const ew_exec *e, float cap, size_t n, float *y)
{
    act_job j = {.k = e->kern, .cap = cap, .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, cap_part, &j);
}

/* ---- backward ---- */

typedef struct act_bwd_job {
    const ew_kern *k;
    ew_act act;
    const float *gate, *up, *dy; /* up NULL = 1 */
    float *dgate, *dup;
} act_bwd_job;

/* act(a) and act'(a) of n <= BLOCK numbers. silu: a s(a). */
static void silu_slope(const ew_kern *k, const float *a, size_t n, float *y, float *d)
{
    float z[BLOCK] = {0};
    for (size_t i = 0; i < n; i++) {
        float c = fabsf(a[i]) > 200 ? copysignf(200, a[i]) : a[i];
        z[i] = fabsf(c) < 1e-20F ? 1e-20F : c;
    }
    logistic(k, z, n, d);
    for (size_t i = 0; i < n; i++) {
        y[i] = a[i] * d[i];
        d[i] *= 1 + z[i] * (1 - d[i]);
    }
}

/* a s(z), z = 2 sqrt(2/pi) (a + 0.044715 a^3); slope s + a s (1 - s) dz/da. */
static void gelu_tanh_slope(const ew_kern *k, const float *a, size_t n, float *y, float *d)
{
    float z[BLOCK] = {0};
    for (size_t i = 0; i < n; i++) {
        float c = fabsf(a[i]) > 20 ? copysignf(20, a[i]) : a[i]; /* s is 0 or 1 beyond */
        float x = 1.5957691216057308F * c * (1 + 0.044715F * c * c);
        x = fabsf(x) > 80 ? copysignf(80, x) : x;
        z[i] = fabsf(x) < 1e-20F ? 1e-20F : x;
    }
    logistic(k, z, n, d);
    for (size_t i = 0; i < n; i++) {
        float c = fabsf(a[i]) > 20 ? copysignf(20, a[i]) : a[i];
        float dz = 1.5957691216057308F * (1 + 3 * 0.044715F * c * c);
        y[i] = a[i] * d[i];
        d[i] += c * d[i] * (1 - d[i]) * dz;
    }
}

/* a P(a) with the normal distribution P; slope P + a exp(-a^2/2) / sqrt(2 pi). erf as in gelu_part. */
static void gelu_slope(const ew_kern *k, const float *a, size_t n, float *y, float *d)
{
    float w[BLOCK] = {0};
    for (size_t i = 0; i < n; i++) {
        float sq = 0.5F * a[i] * a[i] + 1e-12F;
        w[i] = sq < 80 ? sq : 80;
    }
    logistic(k, w, n, d);
    for (size_t i = 0; i < n; i++) {
        float t = 1 / (1 + 0.3275911F * 0.70710678118654752F * fabsf(a[i]));
        float p = 1.061405429F;
        p = p * t - 1.453152027F;
        p = p * t + 1.421413741F;
        p = p * t - 0.284496736F;
        p = p * t + 0.254829592F;
        float tail = 1 / d[i] - 1; /* exp(-a^2/2) */
        float cdf = 0.5F * (1 + copysignf(1 - p * t * tail, a[i]));
        float c = fabsf(a[i]) > 20 ? copysignf(20, a[i]) : a[i];
        y[i] = a[i] * cdf;
        d[i] = cdf + c * tail * 0.39894228040143268F;
    }
}

static void relu_slope(const ew_kern *k, const float *a, size_t n, float *y, float *d)
{
    (void)k;
    for (size_t i = 0; i < n; i++) {
        y[i] = a[i] > 0 ? a[i] : 0;
        d[i] = a[i] > 0 ? 1 : 0;
    }
}

static void act_bwd_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    static void (*const slopes[])(const ew_kern *, const float *, size_t, float *,
                                  float *) = {[EW_ACT_SILU] = silu_slope,
                                              [EW_ACT_GELU_TANH] = gelu_tanh_slope,
                                              [EW_ACT_GELU] = gelu_slope,
                                              [EW_ACT_RELU] = relu_slope};
    const act_bwd_job *j = ctx;
    float y[BLOCK];
    float d[BLOCK];
    (void)thread;
    for (size_t at = begin; at < end; at += BLOCK) {
        size_t n = EW_MIN(end - at, (size_t)BLOCK);
        slopes[j->act](j->k, j->gate + at, n, y, d);
        for (size_t i = 0; i < n; i++) {
            float g = j->dy[at + i];
            float u = j->up != NULL ? j->up[at + i] : 1;
            if (j->up != NULL) {
                j->dup[at + i] = g * y[i];
            }
            j->dgate[at + i] = g * u * d[i];
        }
    }
}

void ew_activate_bwd(const ew_exec *e, ew_act act, const float *gate, const float *up, const float *dy, size_t n,
                     float *dgate, float *dup)
{
    EW_ASSERT((unsigned)act <= EW_ACT_RELU);
    if (act == EW_ACT_SILU && up != NULL) {
        ew_swiglu_bwd(e, gate, up, dy, n, dgate, dup);
        return;
    }
    act_bwd_job j = {.k = e->kern, .act = act, .gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, act_bwd_part, &j);
}

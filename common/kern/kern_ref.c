/* The reference table: plain C, sums in double, no contraction. What the fast tables are tested against, and what runs where
 * equal bits on every machine matter more than speed. gemm.c and qform.c hold its products. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"

static void pack_ref(const float *src, size_t row, size_t col, size_t rows, size_t K, size_t width, float *dst)
{
    for (size_t k = 0; k < K; k++) {
        for (size_t r = 0; r < width; r++) {
            dst[k * width + r] = r < rows ? src[r * row + k * col] : 0.0f;
        }
    }
}

static void f32_to_f16_ref(const float *src, uint16_t *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = ew_f32_to_f16(src[i]);
    }
}

static double dot_f64_ref(const float *a, const float *b, size_t n)
{
    double s = 0.0;
    for (size_t i = 0; i < n; i++) {
        s += (double)a[i] * (double)b[i];
    }
    return s;
}

static float dot_f32_ref(const float *a, const float *b, size_t n)
{
    return (float)dot_f64_ref(a, b, n);
}

static void rmsnorm_ref(const float *x, const float *w, size_t C, float eps, float *y, float *rstd)
{
    double r = 1.0 / sqrt(dot_f64_ref(x, x, C) / (double)C + (double)eps);
    float rf = (float)r;
    for (size_t i = 0; i < C; i++) {
        y[i] = (float)((double)x[i] * (double)rf * (double)w[i]);
    }
    if (rstd != NULL) {
        *rstd = rf;
    }
}

/* y_i = x_i r w_i, r = (mean x^2 + eps)^(-1/2):  dx_i += r w_i dy_i - r^3 x_i / C * sum_j dy_j w_j x_j. */
static void rmsnorm_bwd_ref(const float *x, const float *w, float rstd, const float *dy, size_t C, float *dx)
{
    double s = 0.0, r = (double)rstd;
    for (size_t i = 0; i < C; i++) {
        s += (double)dy[i] * (double)w[i] * (double)x[i];
    }
    s *= r * r * r / (double)C;
    for (size_t i = 0; i < C; i++) {
        dx[i] = (float)((double)dx[i] + r * (double)w[i] * (double)dy[i] - s * (double)x[i]);
    }
}

static void rope_ref(float *x, size_t n_heads, size_t D, size_t n_rot, ew_rope_kind kind, const float *cs, float sign)
{
    size_t half = n_rot / 2;
    for (size_t h = 0; h < n_heads; h++, x += D) {
        for (size_t i = 0; i < half; i++) {
            float *p = kind == EW_ROPE_NORM ? &x[2 * i] : &x[i];
            float *q = kind == EW_ROPE_NORM ? &x[2 * i + 1] : &x[half + i];
            float c = cs[2 * i], s = sign * cs[2 * i + 1];
            float a = *p, b = *q;
            *p = a * c - b * s;
            *q = a * s + b * c;
        }
    }
}

static double sigmoid(double a)
{
    return 1.0 / (1.0 + exp(-a));
}

static void swiglu_ref(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        double a = (double)gate[i];
        y[i] = (float)(a * sigmoid(a) * (double)up[i]);
    }
}

static void swiglu_bwd_ref(const float *gate, const float *up, const float *dy, size_t n, float *dgate, float *dup)
{
    for (size_t i = 0; i < n; i++) {
        double a = (double)gate[i], u = (double)up[i], d = (double)dy[i], s = sigmoid(a);
        dup[i] = (float)(d * a * s);
        dgate[i] = (float)(d * u * s * (1.0 + a * (1.0 - s)));
    }
}

static double exp_row_ref(float *x, size_t n, float scale, float sub)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)exp((double)scale * (double)x[i] - (double)sub);
        sum += (double)x[i];
    }
    return sum;
}

static float max_row_ref(const float *x, size_t n)
{
    float m = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        m = x[i] > m || x[i] != x[i] ? x[i] : m;
    }
    return m;
}

static void softmax_bwd_row_ref(const float *p, float *dp, size_t n, float delta, float scale)
{
    for (size_t i = 0; i < n; i++) {
        dp[i] = (float)((double)p[i] * ((double)dp[i] - (double)delta) * (double)scale);
    }
}

static void adamw_ref(const ew_adamw_opt *o, float bc1, float bc2, float *p, const float *g, float *m, float *v,
                      size_t n)
{
    float gs = o->grad_scale, lr = o->lr;
    for (size_t i = 0; i < n; i++) {
        float gi = g[i] * gs;
        m[i] = o->beta1 * m[i] + (1.0f - o->beta1) * gi;
        v[i] = o->beta2 * v[i] + (1.0f - o->beta2) * (gi * gi);
        float step = (m[i] * bc1) / (sqrtf(v[i] * bc2) + o->eps);
        p[i] = p[i] - lr * (step + o->weight_decay * p[i]);
    }
}

static void axpy_ref(float a, const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static void scale_ref(float a, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] *= a;
    }
}

static void mul_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] *= x[i];
    }
}

static void axpy_mul_ref(float a, const float *x1, const float *x2, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += a * x1[i] * x2[i];
    }
}

/* clang-format off */
#define TABLE .gemm_pack = pack_ref, \
    .dequant_row = ew__dequant_row_ref, \
    .f32_to_f16 = f32_to_f16_ref, \
    .dot_f32 = dot_f32_ref, \
    .rmsnorm = rmsnorm_ref, \
    .rmsnorm_bwd = rmsnorm_bwd_ref, \
    .rope = rope_ref, \
    .swiglu = swiglu_ref, \
    .swiglu_bwd = swiglu_bwd_ref, \
    .exp_row = exp_row_ref, \
    .max_row = max_row_ref, \
    .softmax_bwd_row = softmax_bwd_row_ref, \
    .adamw = adamw_ref, \
    .axpy = axpy_ref, \
    .scale = scale_ref, \
    .mul = mul_ref, \
    .axpy_mul = axpy_mul_ref, \
    .dot_f64 = dot_f64_ref, \
    .q = &ew__qkern_ref,
/* clang-format on */

const ew_kern ew__kern_ref = {.name = "ref", TABLE};

static const ew_bf16 bf16_ref = {NULL, NULL, NULL};
const ew_kern ew__kern_ref_bf16 = {.name = "ref_bf16", .bf16 = &bf16_ref, TABLE};

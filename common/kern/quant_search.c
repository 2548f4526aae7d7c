/* The scales of the groups of Q2_K to Q6_K: weighted least squares over a small fan of scales.
 *
 * For given levels l the error sum w (s l - m - x)^2 has its minimum in closed form (a weighted regression of x on l, through the
 * origin where the type has no minimum). Levels come from rounding x by a trial scale; of all trials the one with the smallest
 * error stays. Weights, trials and the order of the sums are those of llama.cpp's quantize_row_q*_K_ref (make_qkx2_quants,
 * make_qx_quants, make_q3_quants of ggml-quants.c), so that the bits agree. */
#include "kern/lanes.h"
#include "kern/quant_int.h"

#include <math.h>

void ew__search_copy(const float *src, float *x)
{
    for (size_t i = 0; i < EW_QK; i++) {
        x[i] = ew__finite_or_0(src[i]);
    }
}

static void put_level(ew_f4 level, size_t n, size_t i, uint8_t *dst)
{
    for (size_t k = 0; k < EW_LANES; k++) {
        dst[k * n + i] = (uint8_t)level[k];
    }
}

/* ---- x ~ scale * level - min, level 0..top ---- */

typedef struct affine {
    size_t n;          /* elements of a group */
    float top;         /* largest level */
    float first, step; /* trial k rounds by (top + first + k * step) / (max - min) */
    int n_trials;
    bool absolute; /* |error| rather than its square */
} affine;

typedef struct affine_fit {
    ew_f4 scale, min; /* x = scale * level + min */
    ew_f4 error;
    ew_f4 by, from; /* level = nearest(by * (x - from)) */
} affine_fit;

typedef struct affine_sums {
    ew_f4 w, x; /* of the weights; of weight times x */
} affine_sums;

static void affine_levels(const affine *a, const ew_f4 *x, const affine_fit *f, ew_f4 *level)
{
    for (size_t i = 0; i < a->n; i++) {
        level[i] = ew__level4(f->by * (x[i] - f->from), 0.0f, a->top);
    }
}

static ew_f4 affine_error(const affine *a, const ew_f4 *x, const ew_f4 *w, const ew_f4 *level, const affine_fit *f)
{
    ew_f4 error = {0};
    for (size_t i = 0; i < a->n; i++) {
        ew_f4 e = f->scale * level[i] + f->min - x[i];
        e = a->absolute ? ew__abs4(e) : e * e;
        error += w[i] * e;
    }
    return error;
}

/* The least squares for the levels become f->scale and f->min; the mask is where they exist. */
static ew_i4 affine_solve(const affine *a, const ew_f4 *x, const ew_f4 *w, const affine_sums *s, const ew_f4 *level,
                          affine_fit *f)
{
    ew_f4 sum_l = {0}, sum_l2 = {0}, sum_xl = {0};
    for (size_t i = 0; i < a->n; i++) {
        ew_f4 wl = w[i] * level[i];
        sum_l += wl;
        sum_l2 += wl * level[i];
        sum_xl += wl * x[i];
    }
    ew_f4 det = s->w * sum_l2 - sum_l * sum_l;
    f->scale = (s->w * sum_xl - s->x * sum_l) / det;
    f->min = (sum_l2 * s->x - sum_l * sum_xl) / det;
    ew_i4 above = f->min > 0.0f; /* the stored minimum has no sign */
    f->min = ew__pick4(above, ew__splat4(0.0f), f->min);
    f->scale = ew__pick4(above, sum_xl / sum_l2, f->scale);
    return det > 0.0f;
}

/* level[n] is working memory. */
static affine_fit affine_search(const affine *a, const ew_f4 *x, const ew_f4 *w, ew_f4 *level)
{
    ew_f4 min = x[0], max = x[0];
    affine_sums sums = {w[0], w[0] * x[0]};
    for (size_t i = 1; i < a->n; i++) {
        min = ew__pick4(x[i] < min, x[i], min);
        max = ew__pick4(x[i] > max, x[i], max);
        sums.w += w[i];
        sums.x += w[i] * x[i];
    }
    min = ew__pick4(min > 0.0f, ew__splat4(0.0f), min);
    ew_i4 flat = max == min;
    affine_fit best = {.min = min, .by = a->top / (max - min), .from = min};
    best.scale = 1.0f / best.by;
    affine_levels(a, x, &best, level);
    best.error = affine_error(a, x, w, level, &best);
    for (int k = 0; k < a->n_trials; k++) {
        affine_fit f = {.by = (a->first + a->step * (float)k + a->top) / (max - best.min), .from = best.min};
        affine_levels(a, x, &f, level);
        ew_i4 better = affine_solve(a, x, w, &sums, level, &f);
        f.error = affine_error(a, x, w, level, &f);
        better &= f.error < best.error;
        best.scale = ew__pick4(better, f.scale, best.scale);
        best.min = ew__pick4(better, f.min, best.min);
        best.error = ew__pick4(better, f.error, best.error);
        best.by = ew__pick4(better, f.by, best.by);
        best.from = ew__pick4(better, f.from, best.from);
    }
    best.scale = ew__pick4(flat, ew__splat4(0.0f), best.scale);
    best.min = ew__pick4(flat, min, best.min);
    best.by = ew__pick4(flat, ew__splat4(0.0f), best.by);
    best.from = ew__pick4(flat, min, best.from);
    return best;
}

static void affine_groups(const affine *a, const ew_f4 *x, const ew_f4 *w, float *scale, float *min, uint8_t *dst)
{
    ew_f4 level[32];
    affine_fit f = affine_search(a, x, w, level);
    ew__store4(f.scale, scale);
    ew__store4(-f.min, min);
    affine_levels(a, x, &f, level);
    for (size_t i = 0; i < a->n; i++) {
        put_level(level[i], a->n, i, dst);
    }
}

void ew__search_q2(const float *x, float scale[16], float min[16], uint8_t *level)
{
    static const affine a = {.n = 16, .top = 3.0f, .first = -0.5f, .step = 0.1f, .n_trials = 16, .absolute = true};
    for (size_t g = 0; g < 16; g += EW_LANES) {
        ew_f4 v[16], w[16];
        ew__to_lanes4(x + 16 * g, 16, v);
        for (size_t i = 0; i < 16; i++) {
            w[i] = ew__abs4(v[i]);
        }
        affine_groups(&a, v, w, scale + g, min + g, level + 16 * g);
    }
}

void ew__search_q45(const float *x, int32_t top, float scale[8], float min[8], uint8_t *level)
{
    static const affine a4 = {.n = 32, .top = 15.0f, .first = -1.0f, .step = 0.1f, .n_trials = 21};
    static const affine a5 = {.n = 32, .top = 31.0f, .first = -0.5f, .step = 0.1f, .n_trials = 16};
    for (size_t g = 0; g < 8; g += EW_LANES) {
        ew_f4 v[32], w[32], sum = {0}, rms;
        ew__to_lanes4(x + 32 * g, 32, v);
        for (size_t i = 0; i < 32; i++) {
            sum += v[i] * v[i];
        }
        for (size_t k = 0; k < EW_LANES; k++) {
            rms[k] = sqrtf(sum[k] / 32.0f);
        }
        for (size_t i = 0; i < 32; i++) {
            w[i] = rms + ew__abs4(v[i]);
        }
        affine_groups(top == 15 ? &a4 : &a5, v, w, scale + g, min + g, level + 32 * g);
    }
}

/* ---- x ~ scale * level, level -half..half - 1, weights x^2 ---- */

typedef struct linear_sums {
    ew_f4 xl, l2;
} linear_sums;

static linear_sums linear_sum(const ew_f4 *x, size_t n, ew_f4 by, float half)
{
    linear_sums s = {0};
    for (size_t i = 0; i < n; i++) {
        ew_f4 level = ew__level4(by * x[i], -half, half - 1.0f), w = x[i] * x[i];
        s.xl += w * x[i] * level;
        s.l2 += w * level * level;
    }
    return s;
}

void ew__search_q6(const float *x, float scale[16], uint8_t *level)
{
    for (size_t g = 0; g < 16; g += EW_LANES) {
        ew_f4 v[16];
        ew__to_lanes4(x + 16 * g, 16, v);
        ew_f4 extreme = ew__extreme4(v, 16);
        ew_f4 by = -32.0f / extreme;
        linear_sums s = linear_sum(v, 16, by, 32.0f);
        ew_f4 d = ew__pick4(s.l2 != 0.0f, s.xl / s.l2, ew__splat4(0.0f)), best = d * s.xl;
        for (int k = -9; k <= 9; k++) {
            if (k == 0) {
                continue;
            }
            ew_f4 trial = -(32.0f + 0.1f * (float)k) / extreme;
            s = linear_sum(v, 16, trial, 32.0f);
            ew_i4 better = (s.l2 > 0.0f) & (s.xl * s.xl > best * s.l2);
            d = ew__pick4(better, s.xl / s.l2, d);
            best = ew__pick4(better, d * s.xl, best);
            by = ew__pick4(better, trial, by);
        }
        ew_i4 zero = ew__abs4(extreme) < EW_GROUP_EPS;
        ew__store4(ew__pick4(zero, ew__splat4(0.0f), d), scale + g);
        for (size_t i = 0; i < 16; i++) {
            ew_f4 l = ew__level4(by * v[i], -32.0f, 31.0f) + 32.0f;
            put_level(ew__pick4(zero, ew__splat4(0.0f), l), 16, i, level + 16 * g);
        }
    }
}

/* One pass of single exchanges: each element takes the level that is best while the others stay, where that helps. False when
 * nothing changed. */
static bool exchange(const ew_f4 *x, ew_f4 *level, linear_sums *s)
{
    ew_i4 any = {0};
    for (size_t i = 0; i < 16; i++) {
        ew_f4 w = x[i] * x[i];
        ew_f4 xl = s->xl - w * x[i] * level[i], l2 = s->l2 - w * level[i] * level[i];
        ew_f4 l = ew__level4(x[i] * l2 / xl, -4.0f, 3.0f);
        ew_i4 change = (xl > 0.0f) & (l != level[i]);
        xl += w * x[i] * l;
        l2 += w * l * l;
        change &= (l2 > 0.0f) & (xl * xl * s->l2 > s->xl * s->xl * l2);
        level[i] = ew__pick4(change, l, level[i]);
        s->xl = ew__pick4(change, xl, s->xl);
        s->l2 = ew__pick4(change, l2, s->l2);
        any |= change;
    }
    return (any[0] | any[1] | any[2] | any[3]) != 0;
}

void ew__search_q3(const float *x, float scale[16], uint8_t *level)
{
    for (size_t g = 0; g < 16; g += EW_LANES) {
        ew_f4 v[16], l[16];
        ew__to_lanes4(x + 16 * g, 16, v);
        ew_f4 extreme = ew__extreme4(v, 16), by = -4.0f / extreme;
        linear_sums s = linear_sum(v, 16, by, 4.0f);
        for (size_t i = 0; i < 16; i++) {
            l[i] = ew__level4(by * v[i], -4.0f, 3.0f);
        }
        for (int k = 0; k < 5 && exchange(v, l, &s); k++) {
        }
        ew_i4 zero = ew__abs4(extreme) < EW_GROUP_EPS;
        ew__store4(ew__pick4((s.l2 > 0.0f) & ~zero, s.xl / s.l2, ew__splat4(0.0f)), scale + g);
        for (size_t i = 0; i < 16; i++) {
            put_level(ew__pick4(zero, ew__splat4(0.0f), l[i] + 4.0f), 16, i, level + 16 * g);
        }
    }
}

/* Causal attention in tiles with a running maximum: inference against a cache, training over packed sequences, and its backward.
 * Source: Dao et al. 2022 (FlashAttention), algorithms 1 and 4, without dropout. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define D_MAX EW_ATTN_D_MAX
#define BQ EW_ATTN_BQ
#define BK EW_ATTN_BK

/* c[M,N] (+)= a[M,K] b, with b[K,N] given by its strides. */
static void mul(const ew_kern *k, size_t M, size_t N, size_t K, const float *a, size_t a_row, size_t a_col,
                const float *b, size_t b_row, size_t b_col, float *c, size_t c_row, bool accumulate)
{
    ew_gemm_args g = {M, N, K, 1.0f, a, a_row, a_col, b, b_row, b_col, c, c_row, accumulate};
    ew__gemm_serial(k, &g);
}

/* One key tile of the running softmax: scores in s[m, n] become weights, o is rescaled; row r may see the first
 * see(r) of the n scores: from lo to hi. */
static void softmax_step(const ew_kern *k, size_t r, size_t n, size_t lo, size_t hi, float scale, size_t D)
{
    ew_tile *tile = &ew__work()->tile;
    float *s = tile->s + r * BK;
    if (lo >= hi) {
        memset(s, 0, n * sizeof(float));
        return;
    }
    float max = k->max_row(s + lo, hi - lo) * scale; /* scale > 0 */
    float old = tile->max[r];
    max = max > old || max != max ? max : old;
    if (max != old) {
        float corr[1] = {old};
        (void)k->exp_row(corr, 1, 1.0f, max);
        tile->sum[r] *= (double)corr[0];
        k->scale(corr[0], D, tile->o + r * D);
        tile->max[r] = max;
    }
    memset(s, 0, lo * sizeof(float));
    tile->sum[r] += k->exp_row(s + lo, hi - lo, scale, max);
    memset(s + hi, 0, (n - hi) * sizeof(float));
}

static void tile_reset(size_t rows, size_t D)
{
    ew_tile *tile = &ew__work()->tile;
    memset(tile->o, 0, rows * D * sizeof(float));
    for (size_t r = 0; r < rows; r++) {
        tile->max[r] = -INFINITY;
        tile->sum[r] = 0.0;
    }
}

/* ---- inference ---- */

typedef struct attn_job {
    const ew_kern *k;
    const ew_attention_args *a;
    size_t group;   /* H / K */
    size_t q_step;  /* queries of a task */
    size_t n_steps; /* tasks per kv-head */
} attn_job;

static const float *load_kv(const ew_kern *k, const ew_attention_args *a, const void *base, size_t pos, size_t n,
                            size_t head, float *to)
{
    size_t row = 0, off = 0;
    EW_ASSERT(ew_dtype_row_bytes(a->kv_dtype, a->kv_row, &row) && ew_dtype_row_bytes(a->kv_dtype, head * a->D, &off));
    const uint8_t *src = (const uint8_t *)base + pos * row + off;
    for (size_t i = 0; i < n; i++) {
        k->dequant_row(a->kv_dtype, src + i * row, to + i * a->D, a->D);
    }
    return to;
}

/* s = cap * tanh(scale * s / cap) */
static void cap_row(float *s, size_t n, float scale, float cap)
{
    for (size_t i = 0; i < n; i++) {
        s[i] = (float)((double)cap * tanh((double)s[i] * (double)scale / (double)cap));
    }
}

static void attn_task(const attn_job *j, size_t head, size_t t0, size_t n_t)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_args *a = j->a;
    const size_t D = a->D, g = j->group, rows = n_t * g;
    const size_t window = a->bidirectional ? 0 : a->window;
    for (size_t r = 0; r < rows; r++) {
        const float *q = a->q + ((t0 + r / g) * a->H + head * g + r % g) * D;
        memcpy(tile->q + r * D, q, D * sizeof(float));
    }
    tile_reset(rows, D);
    size_t first = a->pos0 + t0;
    size_t end = a->bidirectional ? a->pos0 + a->T : first + n_t;
    size_t start = window != 0 && first + 1 > window ? first + 1 - window : 0;
    for (size_t p = start / BK * BK; p < end; p += BK) {
        size_t n = EW_MIN((size_t)BK, end - p);
        const float *kk = load_kv(j->k, a, a->k, p, n, head, tile->k);
        mul(j->k, rows, n, D, tile->q, D, 1, kk, 1, D, tile->s, BK, false);
        for (size_t r = 0; r < rows; r++) {
            size_t pos = first + r / g;
            size_t from = window != 0 && pos + 1 > window ? pos + 1 - window : 0;
            size_t lo = from > p ? EW_MIN(n, from - p) : 0;
            size_t hi = a->bidirectional ? n : pos + 1 > p ? EW_MIN(n, pos + 1 - p) : 0;
            if (a->softcap > 0.0f) {
                cap_row(tile->s + r * BK + lo, hi - EW_MIN(lo, hi), a->scale, a->softcap);
            }
            softmax_step(j->k, r, n, lo, hi, a->softcap > 0.0f ? 1.0f : a->scale, D);
        }
        const float *vv = load_kv(j->k, a, a->v, p, n, head, tile->v);
        mul(j->k, rows, D, n, tile->s, BK, 1, vv, D, 1, tile->o, D, true);
    }
    for (size_t r = 0; r < rows; r++) {
        float *out = a->out + ((t0 + r / g) * a->H + head * g + r % g) * D;
        memcpy(out, tile->o + r * D, D * sizeof(float));
        j->k->scale((float)(1.0 / tile->sum[r]), D, out);
    }
}

static void attn_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const attn_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t t0 = task % j->n_steps * j->q_step;
        attn_task(j, task / j->n_steps, t0, EW_MIN(j->q_step, j->a->T - t0));
    }
}

void ew_attention(const ew_exec *e, const ew_attention_args *a)
{
    EW_ASSERT(a->D <= D_MAX && a->K > 0 && a->H % a->K == 0 && a->H / a->K <= BQ && a->scale > 0.0f);
    EW_ASSERT(a->kv_dtype == EW_DTYPE_F32 || a->kv_dtype == EW_DTYPE_F16 ||
              (a->kv_dtype == EW_DTYPE_Q8_0 && a->D % 32 == 0 && a->kv_row % 32 == 0));
    if (a->T == 0) {
        return;
    }
    attn_job j = {.k = e->kern, .a = a, .group = a->H / a->K};
    j.q_step = EW_MAX((size_t)1, BQ / j.group);
    j.n_steps = (a->T + j.q_step - 1) / j.q_step;
    ew_par_for(e->pool, a->K * j.n_steps, 1, attn_tasks, &j);
}

/* ---- training ---- */

typedef struct train_job {
    const ew_kern *k;
    const ew_attention_train_args *a;
    size_t group;
} train_job;

/* Query rows [q0, q0 + m) of head h of the sequence whose rows are [base, base + len). */
static void train_tile(const train_job *j, size_t base, size_t h, size_t q0, size_t m)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, kv = h / j->group;
    const float *q = a->q + (base + q0) * HD + h * D;
    tile_reset(m, D);
    for (size_t p = 0; p < q0 + m; p += BK) {
        size_t n = EW_MIN((size_t)BK, q0 + m - p);
        const float *kk = a->k + (base + p) * KD + kv * D, *vv = a->v + (base + p) * KD + kv * D;
        mul(j->k, m, n, D, q, HD, 1, kk, 1, KD, tile->s, BK, false);
        for (size_t r = 0; r < m; r++) {
            size_t hi = q0 + r + 1 > p ? EW_MIN(n, q0 + r + 1 - p) : 0;
            softmax_step(j->k, r, n, 0, hi, a->scale, D);
        }
        mul(j->k, m, D, n, tile->s, BK, 1, vv, KD, 1, tile->o, D, true);
    }
    for (size_t r = 0; r < m; r++) {
        float *out = a->out + (base + q0 + r) * HD + h * D;
        memcpy(out, tile->o + r * D, D * sizeof(float));
        j->k->scale((float)(1.0 / tile->sum[r]), D, out);
        a->lse[(base + q0 + r) * a->H + h] = (float)((double)tile->max[r] + log(tile->sum[r]));
    }
}

static void train_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const train_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t s = task / j->a->H, h = task % j->a->H;
        size_t base = j->a->seq[s], len = j->a->seq[s + 1] - base;
        for (size_t q0 = 0; q0 < len; q0 += BQ) {
            train_tile(j, base, h, q0, EW_MIN((size_t)BQ, len - q0));
        }
    }
}

void ew_attention_train(const ew_exec *e, const ew_attention_train_args *a)
{
    EW_ASSERT(a->D <= D_MAX && a->K > 0 && a->H % a->K == 0 && a->scale > 0.0f);
    train_job j = {e->kern, a, a->H / a->K};
    ew_par_for(e->pool, a->n_seq * a->H, 1, train_tasks, &j);
}

/* p = softmax from lse, s = its gradient, for m query rows and n key rows. */
static void bwd_scores(const train_job *j, size_t base, size_t h, size_t q0, size_t m, size_t p, size_t n)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, kv = h / j->group;
    const float *kk = a->k + (base + p) * KD + kv * D, *vv = a->v + (base + p) * KD + kv * D;
    const size_t at = (base + q0) * HD + h * D;
    mul(j->k, m, n, D, a->q + at, HD, 1, kk, 1, KD, tile->p, BK, false);
    mul(j->k, m, n, D, a->dout + at, HD, 1, vv, 1, KD, tile->s, BK, false);
    for (size_t r = 0; r < m; r++) {
        float *pr = tile->p + r * BK, *sr = tile->s + r * BK;
        size_t hi = q0 + r + 1 > p ? EW_MIN(n, q0 + r + 1 - p) : 0;
        (void)j->k->exp_row(pr, hi, a->scale, a->lse[(base + q0 + r) * a->H + h]);
        j->k->softmax_bwd_row(pr, sr, hi, tile->delta[r], a->scale);
        memset(pr + hi, 0, (n - hi) * sizeof(float));
        memset(sr + hi, 0, (n - hi) * sizeof(float));
    }
}

static void bwd_head(const train_job *j, size_t base, size_t len, size_t h)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, kv = h / j->group;
    for (size_t q0 = 0; q0 < len; q0 += BQ) {
        size_t m = EW_MIN((size_t)BQ, len - q0);
        const size_t at = (base + q0) * HD + h * D;
        for (size_t r = 0; r < m; r++) {
            tile->delta[r] = j->k->dot_f32(a->dout + at + r * HD, a->out + at + r * HD, D);
        }
        for (size_t p = 0; p < q0 + m; p += BK) {
            size_t n = EW_MIN((size_t)BK, q0 + m - p);
            const size_t kv_at = (base + p) * KD + kv * D;
            bwd_scores(j, base, h, q0, m, p, n);
            mul(j->k, n, D, m, tile->p, 1, BK, a->dout + at, HD, 1, a->dv + kv_at, KD, true);
            mul(j->k, n, D, m, tile->s, 1, BK, a->q + at, HD, 1, a->dk + kv_at, KD, true);
            mul(j->k, m, D, n, tile->s, BK, 1, a->k + kv_at, KD, 1, a->dq + at, HD, p != 0);
        }
    }
}

static void bwd_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const train_job *j = ctx;
    const ew_attention_train_args *a = j->a;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t s = task / a->K, kv = task % a->K;
        size_t base = a->seq[s], len = a->seq[s + 1] - base;
        for (size_t t = base; t < base + len; t++) {
            memset(a->dk + (t * a->K + kv) * a->D, 0, a->D * sizeof(float));
            memset(a->dv + (t * a->K + kv) * a->D, 0, a->D * sizeof(float));
        }
        for (size_t h = kv * j->group; h < (kv + 1) * j->group; h++) {
            bwd_head(j, base, len, h);
        }
    }
}

void ew_attention_train_bwd(const ew_exec *e, const ew_attention_train_args *a)
{
    EW_ASSERT(a->D <= D_MAX && a->K > 0 && a->H % a->K == 0 && a->scale > 0.0f);
    train_job j = {e->kern, a, a->H / a->K};
    ew_par_for(e->pool, a->n_seq * a->K, 1, bwd_tasks, &j);
}

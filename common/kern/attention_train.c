/* Attention in tiles with a running maximum, by way of the general product: training over packed sequences with its backward, and
 * inference in the tables that have no functions of their own for it.
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

typedef struct plain_job {
    const ew_kern *k;
    const ew_attention_args *a;
    size_t group;   /* H / K */
    size_t heads;   /* of a group in a task */
    size_t n_parts; /* tasks that share a group */
    size_t q_step;  /* queries of a task */
    size_t n_steps; /* tasks along the queries */
} plain_job;

static void load_kv(const ew_kern *k, const ew_attention_args *a, const void *base, size_t pos, size_t n, size_t head,
                    float *to)
{
    size_t row = 0, off = 0;
    EW_ASSERT(ew_dtype_row_bytes(a->kv_dtype, a->kv_row, &row) && ew_dtype_row_bytes(a->kv_dtype, head * a->D, &off));
    const uint8_t *src = (const uint8_t *)base + pos * row + off;
    for (size_t i = 0; i < n; i++) {
        k->dequant_row(a->kv_dtype, src + i * row, to + i * a->D, a->D);
    }
}

/* s = cap * tanh(scale * s / cap) */
static void cap_row(float *s, size_t n, float scale, float cap)
{
    for (size_t i = 0; i < n; i++) {
        s[i] = (float)((double)cap * tanh((double)s[i] * (double)scale / (double)cap));
    }
}

/* Queries [t0, t0 + n_t) of heads [h, h + n_h), which share a kv-head. */
static void plain_task(const plain_job *j, size_t h, size_t n_h, size_t t0, size_t n_t)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_args *a = j->a;
    const size_t D = a->D, rows = n_t * n_h, kv = h / j->group;
    for (size_t r = 0; r < rows; r++) {
        memcpy(tile->q + r * D, a->q + ((t0 + r / n_h) * a->H + h + r % n_h) * D, D * sizeof(float));
    }
    tile_reset(rows, D);
    size_t start = 0, end = 0;
    ew__attn_range(a, t0, &start, &end);
    end = a->bidirectional ? end : end + n_t - 1;
    for (size_t p = start / BK * BK; p < end; p += BK) {
        size_t n = EW_MIN((size_t)BK, end - p);
        load_kv(j->k, a, a->k, p, n, kv, tile->k);
        mul(j->k, rows, n, D, tile->q, D, 1, tile->k, 1, D, tile->s, BK, false);
        for (size_t r = 0; r < rows; r++) {
            size_t lo = 0, hi = 0;
            ew__attn_range(a, t0 + r / n_h, &lo, &hi);
            lo = lo > p ? EW_MIN(n, lo - p) : 0;
            hi = hi > p ? EW_MIN(n, hi - p) : 0;
            if (a->softcap > 0.0f) {
                cap_row(tile->s + r * BK + lo, hi - EW_MIN(lo, hi), a->scale, a->softcap);
            }
            softmax_step(j->k, r, n, lo, hi, a->softcap > 0.0f ? 1.0f : a->scale, D);
        }
        load_kv(j->k, a, a->v, p, n, kv, tile->v);
        mul(j->k, rows, D, n, tile->s, BK, 1, tile->v, D, 1, tile->o, D, true);
    }
    for (size_t r = 0; r < rows; r++) {
        float *out = a->out + ((t0 + r / n_h) * a->H + h + r % n_h) * D;
        memcpy(out, tile->o + r * D, D * sizeof(float));
        j->k->scale((float)(1.0 / tile->sum[r]), D, out);
    }
}

static void plain_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const plain_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t t0 = task % j->n_steps * j->q_step, part = task / j->n_steps;
        size_t first = part % j->n_parts * j->heads;
        plain_task(j, part / j->n_parts * j->group + first, EW_MIN(j->heads, j->group - first), t0,
                   EW_MIN(j->q_step, j->a->T - t0));
    }
}

void ew__attention_plain(const ew_exec *e, const ew_attention_args *a)
{
    plain_job j = {.k = e->kern, .a = a, .group = a->H / a->K};
    j.heads = EW_MIN(j.group, (size_t)BQ);
    j.n_parts = (j.group + j.heads - 1) / j.heads;
    j.q_step = BQ / j.heads;
    j.n_steps = (a->T + j.q_step - 1) / j.q_step;
    ew_par_for(e->pool, a->K * j.n_parts * j.n_steps, 1, plain_tasks, &j);
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

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

/* A tile of keys: n of them, the first at position at (the prefix counts), rows of K*D. */
typedef struct key_tile {
    const float *k, *v;
    size_t at, n;
} key_tile;

/* Keys [p, p + n) of a sequence whose rows begin at base; p and n within the prefix when of_prefix. */
static key_tile keys_of(const ew_attention_train_args *a, bool of_prefix, size_t base, size_t kv, size_t p, size_t n)
{
    const size_t off = (of_prefix ? p : base + p) * a->K * a->D + kv * a->D;
    return (key_tile){(of_prefix ? a->prefix_k : a->k) + off, (of_prefix ? a->prefix_v : a->v) + off,
                      of_prefix ? p : a->n_prefix + p, n};
}

/* The first position that query q of a sequence sees, and of a tile's keys the range [*lo, *hi). */
static size_t first_seen(const ew_attention_train_args *a, size_t q)
{
    const size_t pos = a->n_prefix + q;
    return a->window > 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

static void seen(const ew_attention_train_args *a, size_t q, const key_tile *t, size_t *lo, size_t *hi)
{
    const size_t first = first_seen(a, q), end = a->n_prefix + q + 1;
    *hi = end > t->at ? EW_MIN(t->n, end - t->at) : 0;
    *lo = first > t->at ? EW_MIN(*hi, first - t->at) : 0;
}

/* Where the tiles of a sequence's own keys begin for query rows from q0 on. */
static size_t first_tile(const ew_attention_train_args *a, size_t q0)
{
    const size_t first = first_seen(a, q0);
    return first > a->n_prefix ? (first - a->n_prefix) / BK * BK : 0;
}

/* One tile of keys for query rows [q0, q0 + m). */
static void train_keys(const train_job *j, const float *q, size_t q0, size_t m, const key_tile *t)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D;
    mul(j->k, m, t->n, D, q, HD, 1, t->k, 1, KD, tile->s, BK, false);
    for (size_t r = 0; r < m; r++) {
        size_t lo, hi;
        seen(a, q0 + r, t, &lo, &hi);
        if (a->softcap > 0.0f) {
            ew__softcap_row(j->k, tile->s + r * BK + lo, hi - lo, a->scale, a->softcap);
        }
        softmax_step(j->k, r, t->n, lo, hi, a->softcap > 0.0f ? 1.0f : a->scale, D);
    }
    mul(j->k, m, D, t->n, tile->s, BK, 1, t->v, KD, 1, tile->o, D, true);
}

/* Query rows [q0, q0 + m) of head h of the sequence whose rows are [base, base + len). */
static void train_tile(const train_job *j, size_t base, size_t h, size_t q0, size_t m)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, kv = h / j->group;
    const float *q = a->q + (base + q0) * HD + h * D;
    tile_reset(m, D);
    for (size_t p = first_seen(a, q0) / BK * BK; p < a->n_prefix; p += BK) {
        const key_tile t = keys_of(a, true, 0, kv, p, EW_MIN((size_t)BK, a->n_prefix - p));
        train_keys(j, q, q0, m, &t);
    }
    for (size_t p = first_tile(a, q0); p < q0 + m; p += BK) {
        const key_tile t = keys_of(a, false, base, kv, p, EW_MIN((size_t)BK, q0 + m - p));
        train_keys(j, q, q0, m, &t);
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

static void check_args(const ew_attention_train_args *a)
{
    EW_ASSERT(a->D <= D_MAX && a->K > 0 && a->H % a->K == 0 && a->scale > 0.0f);
}

void ew_attention_train(const ew_exec *e, const ew_attention_train_args *a)
{
    check_args(a);
    train_job j = {e->kern, a, a->H / a->K};
    ew_par_for(e->pool, a->n_seq * a->H, 1, train_tasks, &j);
}

/* The row's p from its scores and lse, and ds from s = dout . v, within [lo, hi). */
static void bwd_row(const train_job *j, size_t r, size_t lo, size_t hi, float lse)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    float *pr = tile->p + r * BK + lo, *sr = tile->s + r * BK + lo;
    const size_t n = hi - lo;
    if (a->softcap > 0.0f) {
        float slope[BK];
        ew__softcap_row(j->k, pr, n, a->scale, a->softcap);
        for (size_t i = 0; i < n; i++) {
            float t = pr[i] / a->softcap;
            slope[i] = 1.0f - t * t;
        }
        (void)j->k->exp_row(pr, n, 1.0f, lse);
        j->k->softmax_bwd_row(pr, sr, n, tile->delta[r], a->scale);
        j->k->mul(sr, slope, n);
        return;
    }
    (void)j->k->exp_row(pr, n, a->scale, lse);
    j->k->softmax_bwd_row(pr, sr, n, tile->delta[r], a->scale);
}

/* p = softmax from lse, s = its gradient, for m query rows and a tile of keys. */
static void bwd_scores(const train_job *j, size_t base, size_t h, size_t q0, size_t m, const key_tile *t)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, n = t->n;
    const size_t at = (base + q0) * HD + h * D;
    mul(j->k, m, n, D, a->q + at, HD, 1, t->k, 1, KD, tile->p, BK, false);
    mul(j->k, m, n, D, a->dout + at, HD, 1, t->v, 1, KD, tile->s, BK, false);
    for (size_t r = 0; r < m; r++) {
        float *pr = tile->p + r * BK, *sr = tile->s + r * BK;
        size_t lo, hi;
        seen(a, q0 + r, t, &lo, &hi);
        bwd_row(j, r, lo, hi, a->lse[(base + q0 + r) * a->H + h]);
        memset(pr, 0, lo * sizeof(float));
        memset(sr, 0, lo * sizeof(float));
        memset(pr + hi, 0, (n - hi) * sizeof(float));
        memset(sr + hi, 0, (n - hi) * sizeof(float));
    }
}

/* delta of the query rows [q0, q0 + m). */
static void bwd_delta(const train_job *j, size_t base, size_t h, size_t q0, size_t m)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, at = (base + q0) * HD + h * D;
    for (size_t r = 0; r < m; r++) {
        tile->delta[r] = j->k->dot_f32(a->dout + at + r * HD, a->out + at + r * HD, D);
    }
}

static void bwd_head(const train_job *j, size_t base, size_t len, size_t h)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, kv = h / j->group;
    for (size_t q0 = 0; q0 < len; q0 += BQ) {
        size_t m = EW_MIN((size_t)BQ, len - q0);
        const size_t at = (base + q0) * HD + h * D, start = first_tile(a, q0);
        bwd_delta(j, base, h, q0, m);
        for (size_t p = start; p < q0 + m; p += BK) {
            const key_tile t = keys_of(a, false, base, kv, p, EW_MIN((size_t)BK, q0 + m - p));
            const size_t kv_at = (base + p) * KD + kv * D;
            bwd_scores(j, base, h, q0, m, &t);
            mul(j->k, t.n, D, m, tile->p, 1, BK, a->dout + at, HD, 1, a->dv + kv_at, KD, true);
            mul(j->k, t.n, D, m, tile->s, 1, BK, a->q + at, HD, 1, a->dk + kv_at, KD, true);
            mul(j->k, m, D, t.n, tile->s, BK, 1, t.k, KD, 1, a->dq + at, HD, p != start);
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

/* The prefix' part of head h in one sequence: dq += …, and its own gradients. */
static void bwd_prefix(const train_job *j, size_t base, size_t len, size_t h)
{
    ew_tile *tile = &ew__work()->tile;
    const ew_attention_train_args *a = j->a;
    const size_t D = a->D, HD = a->H * D, KD = a->K * D, kv = h / j->group;
    for (size_t q0 = 0; q0 < len; q0 += BQ) {
        size_t m = EW_MIN((size_t)BQ, len - q0);
        const size_t at = (base + q0) * HD + h * D;
        bwd_delta(j, base, h, q0, m);
        for (size_t p = first_seen(a, q0) / BK * BK; p < a->n_prefix; p += BK) {
            const key_tile t = keys_of(a, true, 0, kv, p, EW_MIN((size_t)BK, a->n_prefix - p));
            bwd_scores(j, base, h, q0, m, &t);
            mul(j->k, m, D, t.n, tile->s, BK, 1, t.k, KD, 1, a->dq + at, HD, true);
            if (a->dprefix_k == NULL) {
                continue;
            }
            const size_t kv_at = p * KD + kv * D;
            mul(j->k, t.n, D, m, tile->p, 1, BK, a->dout + at, HD, 1, a->dprefix_v + kv_at, KD, true);
            mul(j->k, t.n, D, m, tile->s, 1, BK, a->q + at, HD, 1, a->dprefix_k + kv_at, KD, true);
        }
    }
}

/* A task is a kv-head of all sequences: they share the prefix. */
static void prefix_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const train_job *j = ctx;
    const ew_attention_train_args *a = j->a;
    (void)thread;
    for (size_t kv = begin; kv < end; kv++) {
        for (size_t s = 0; s < a->n_seq; s++) {
            for (size_t h = kv * j->group; h < (kv + 1) * j->group; h++) {
                bwd_prefix(j, a->seq[s], a->seq[s + 1] - a->seq[s], h);
            }
        }
    }
}

void ew_attention_train_bwd(const ew_exec *e, const ew_attention_train_args *a)
{
    check_args(a);
    EW_ASSERT((a->dprefix_k == NULL) == (a->dprefix_v == NULL));
    train_job j = {e->kern, a, a->H / a->K};
    ew_par_for(e->pool, a->n_seq * a->K, 1, bwd_tasks, &j);
    if (a->n_prefix > 0) {
        ew_par_for(e->pool, a->K, 1, prefix_tasks, &j);
    }
}

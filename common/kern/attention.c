/* Attention of inference over a cache, in tiles with a running maximum (Dao et al. 2022, FlashAttention, algorithm 1). Two forms:
 *
 *   few queries (decoding): bound by reading the cache. Keys and values are read as they are stored and converted once for all
 *   the heads that share them. With a long context the positions are cut into spans, whose results are put together in their
 *   order; how many there are depends on the shape only, so the result does not depend on the number of threads.
 *
 *   a prompt: bound by arithmetic. A tile of keys and values is unpacked into panels of the f32 product once for many queries;
 *   a tile of scores stays in the first-level cache between the two products. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

/* At most so many queries are few. */
#define FEW_TOK 8
/* Products (of one multiplication each) below which a second thread costs more than it gives. */
#define SERIAL_PRODUCTS 65536
/* Positions that are worth a task of their own; most parts of a cache. */
#define SPLIT_TOK 256
#define SPLIT_MAX 16

typedef struct attn_job {
    const ew_kern *k;
    const ew_attention_args *a;
    size_t group;          /* H / K */
    size_t row_bytes;      /* between positions of the cache */
    size_t head_bytes;     /* of a head in it */
    size_t heads, n_parts; /* prompt: heads of a group in a task, tasks that share a group */
    size_t step, n_steps;  /* prompt: queries of a task; tasks along the queries */
    size_t rows, n_rows;   /* few: query rows of a kv-head, tasks that share them */
    size_t start, end;     /* few: positions that any query sees */
    size_t span, n_spans;  /* few: positions of a task; tasks along the positions */
    float *part;           /* few: [K * rows][n_spans][2 + D] maximum, denominator, result of a span */
} attn_job;

void ew__attn_range(const ew_attention_args *a, size_t t, size_t *lo, size_t *hi)
{
    size_t pos = a->pos0 + t;
    *hi = a->bidirectional ? a->pos0 + a->T : pos + 1;
    *lo = !a->bidirectional && a->window != 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

/* The scores s[0..n) of query t against positions p … become weights, others than it sees 0; *max and *sum move on, and what was
 * summed up in o[D] so far is scaled to the new maximum. */
static void softmax_row(const attn_job *j, size_t t, size_t p, size_t n, float *s, float *max, float *sum, float *o)
{
    size_t lo, hi;
    ew__attn_range(j->a, t, &lo, &hi);
    lo = lo > p ? EW_MIN(n, lo - p) : 0;
    hi = hi > p ? EW_MIN(n, hi - p) : 0;
    if (lo >= hi) {
        memset(s, 0, n * sizeof(float));
        return;
    }
    float old = *max;
    float part = j->k->attn_softmax(s + lo, hi - lo, j->a->scale, j->a->softcap, max);
    if (old != *max && *sum != 0.0f) {
        float c = expf(old - *max);
        *sum *= c;
        j->k->scale(c, j->a->D, o);
    }
    *sum += part;
    memset(s, 0, lo * sizeof(float));
    memset(s + hi, 0, (n - hi) * sizeof(float));
}

/* ---- few queries ---- */

/* Row r of kv-head `kv` is head kv * group + r % group of query r / group. */
static float *few_row(const attn_job *j, const float *base, size_t kv, size_t r)
{
    return (float *)(uintptr_t)base + (r / j->group * j->a->H + kv * j->group + r % j->group) * j->a->D;
}

static void few_store(const attn_job *j, size_t kv, size_t r, size_t i_span, const float *o, float max, float sum)
{
    const size_t D = j->a->D;
    if (j->n_spans == 1) {
        float *out = few_row(j, j->a->out, kv, r);
        memcpy(out, o, D * sizeof(float));
        j->k->scale(1.0f / sum, D, out);
        return;
    }
    float *part = j->part + ((kv * j->rows + r) * j->n_spans + i_span) * (D + 2);
    part[0] = max;
    part[1] = sum;
    memcpy(part + 2, o, D * sizeof(float));
}

/* Query rows [r0, r0 + n_r) of a kv-head over the span's positions. */
static void few_task(const attn_job *j, size_t kv, size_t r0, size_t n_r, size_t i_span)
{
    ew_attn_work *w = &ew__work()->attn;
    const ew_attention_args *a = j->a;
    const size_t D = a->D, from = j->start + i_span * j->span, to = EW_MIN(j->end, from + j->span);
    for (size_t r = 0; r < n_r; r++) {
        memcpy(w->q + r * D, few_row(j, a->q, kv, r0 + r), D * sizeof(float));
        w->max[r] = -INFINITY;
        w->sum[r] = 0.0f;
    }
    memset(w->o, 0, n_r * D * sizeof(float));
    for (size_t p = from; p < to; p += EW_ATTN_SPAN) {
        size_t n = EW_MIN((size_t)EW_ATTN_SPAN, to - p), at = p * j->row_bytes + kv * j->head_bytes;
        j->k->attn_qk(a->kv_dtype, w->q, D, n_r, (const uint8_t *)a->k + at, j->row_bytes, n, D, w->s, EW_ATTN_SPAN);
        for (size_t r = 0; r < n_r; r++) {
            softmax_row(j, (r0 + r) / j->group, p, n, w->s + r * EW_ATTN_SPAN, &w->max[r], &w->sum[r], w->o + r * D);
        }
        j->k->attn_pv(a->kv_dtype, w->s, EW_ATTN_SPAN, n_r, (const uint8_t *)a->v + at, j->row_bytes, n, D, w->o, D);
    }
    for (size_t r = 0; r < n_r; r++) {
        few_store(j, kv, r0 + r, i_span, w->o + r * D, w->max[r], w->sum[r]);
    }
}

static void few_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const attn_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t i_span = task % j->n_spans, i = task / j->n_spans;
        size_t r0 = i % j->n_rows * EW_ATTN_ROWS;
        few_task(j, i / j->n_rows, r0, EW_MIN((size_t)EW_ATTN_ROWS, j->rows - r0), i_span);
    }
}

/* Puts the spans of each row together, in their order. */
static void few_join(const attn_job *j)
{
    const size_t D = j->a->D;
    const float *part = j->part;
    for (size_t i = 0; i < j->a->K * j->rows; i++, part += j->n_spans * (D + 2)) {
        float *out = few_row(j, j->a->out, i / j->rows, i % j->rows);
        float max = -INFINITY, sum = 0.0f;
        for (size_t s = 0; s < j->n_spans; s++) {
            max = part[s * (D + 2) + 1] != 0.0f ? EW_MAX(max, part[s * (D + 2)]) : max;
        }
        memset(out, 0, D * sizeof(float));
        for (size_t s = 0; s < j->n_spans; s++) {
            const float *x = part + s * (D + 2);
            if (x[1] != 0.0f) {
                float c = expf(x[0] - max);
                sum += c * x[1];
                j->k->axpy(c, x + 2, D, out);
            }
        }
        j->k->scale(1.0f / sum, D, out);
    }
}

static void attend_few(const ew_exec *e, attn_job *j)
{
    const ew_attention_args *a = j->a;
    size_t ignored;
    ew__attn_range(a, 0, &j->start, &ignored);
    ew__attn_range(a, a->T - 1, &ignored, &j->end);
    size_t n = j->end - j->start;
    j->rows = a->T * j->group;
    j->n_rows = (j->rows + EW_ATTN_ROWS - 1) / EW_ATTN_ROWS;
    size_t room = EW_ATTN_PART / (a->T * a->H * (a->D + 2));
    size_t want = EW_MIN(EW_MIN(n / SPLIT_TOK, (size_t)SPLIT_MAX), room);
    j->span = want > 1 ? EW_ALIGN_UP((n + want - 1) / want, 16) : n;
    j->n_spans = (n + j->span - 1) / j->span;
    j->part = ew__work()->attn.part;
    bool tiny = a->T * a->H * n * a->D < SERIAL_PRODUCTS / 2;
    ew_par_for(tiny ? NULL : e->pool, a->K * j->n_rows * j->n_spans, 1, few_tasks, j);
    if (j->n_spans > 1) {
        few_join(j);
    }
}

/* ---- a prompt ---- */

/* Positions [p, p + n) of a kv-head as f32: in the cache itself or in the buffer; *ret_row numbers apart. */
static const float *unpack(const attn_job *j, const void *base, size_t kv, size_t p, size_t n, size_t *ret_row)
{
    const ew_attention_args *a = j->a;
    const uint8_t *src = (const uint8_t *)base + p * j->row_bytes + kv * j->head_bytes;
    if (a->kv_dtype == EW_DTYPE_F32) {
        *ret_row = a->kv_row;
        return (const float *)(const void *)src;
    }
    float *to = ew__work()->attn.kf;
    for (size_t i = 0; i < n; i++) {
        j->k->dequant_row(a->kv_dtype, src + i * j->row_bytes, to + i * a->D, a->D);
    }
    *ret_row = a->D;
    return to;
}

/* Panels of nr positions [D][nr] for keys, of nr columns [EW_ATTN_KEYS][nr] for values. */
static void pack_tile(const attn_job *j, size_t kv, size_t p, size_t n)
{
    ew_attn_work *w = &ew__work()->attn;
    const size_t D = j->a->D, nr = j->k->nr;
    size_t row;
    const float *k = unpack(j, j->a->k, kv, p, n, &row);
    for (size_t c = 0; c < n; c += nr) {
        j->k->gemm_pack(k + c * row, row, 1, EW_MIN(nr, n - c), D, nr, w->kp + c * D);
    }
    const float *v = unpack(j, j->a->v, kv, p, n, &row);
    for (size_t c = 0; c < D; c += nr) {
        j->k->gemm_pack(v + c, 1, row, EW_MIN(nr, D - c), n, nr, w->vp + c * EW_ATTN_KEYS);
    }
}

/* o[m, D] += s[m, n] times the values from the tile's position `lo` on. */
static void add_values(const attn_job *j, size_t m, const float *s, size_t lo, size_t n, float *o, size_t ldo)
{
    const ew_attn_work *w = &ew__work()->attn;
    const size_t D = j->a->D, nr = j->k->nr;
    for (size_t c = 0; c < D; c += nr) {
        const float *vp = w->vp + c * EW_ATTN_KEYS + lo * nr;
        if (c + nr <= D) {
            j->k->gemm_micro(m, n, s, EW_ATTN_KEYS, 1, vp, o + c, ldo, true);
            continue;
        }
        _Alignas(64) float edge[EW_GEMM_MR_MAX * EW_GEMM_NR_MAX];
        for (size_t r = 0; r < m; r++) {
            memset(edge + r * nr, 0, nr * sizeof(float));
            memcpy(edge + r * nr, o + r * ldo + c, (D - c) * sizeof(float));
        }
        j->k->gemm_micro(m, n, s, EW_ATTN_KEYS, 1, vp, edge, nr, true);
        for (size_t r = 0; r < m; r++) {
            memcpy(o + r * ldo + c, edge + r * nr, (D - c) * sizeof(float));
        }
    }
}

/* Queries [t, t + m) of head h against the packed tile of positions [p, p + n); max, sum: [m]. */
static void prompt_tile(const attn_job *j, size_t h, size_t t, size_t m, size_t p, size_t n, float *max, float *sum)
{
    ew_attn_work *w = &ew__work()->attn;
    const ew_attention_args *a = j->a;
    const size_t D = a->D, ld = a->H * D, nr = j->k->nr;
    size_t lo, hi, ignored;
    ew__attn_range(a, t, &lo, &ignored);
    ew__attn_range(a, t + m - 1, &ignored, &hi);
    lo = lo > p ? EW_MIN(n, lo - p) : 0;
    hi = hi > p ? EW_MIN(n, hi - p) : 0;
    if (lo >= hi) {
        return;
    }
    float *o = a->out + (t * a->H + h) * D;
    for (size_t c = lo / nr * nr; c < hi; c += nr) {
        j->k->gemm_micro(m, D, a->q + (t * a->H + h) * D, ld, 1, w->kp + c * D, w->s + c, EW_ATTN_KEYS, false);
    }
    for (size_t r = 0; r < m; r++) {
        softmax_row(j, t + r, p + lo, hi - lo, w->s + r * EW_ATTN_KEYS + lo, &max[r], &sum[r], o + r * ld);
    }
    add_values(j, m, w->s + lo, lo, hi - lo, o, ld);
}

/* Queries [t0, t0 + n_t) of heads [h0, h0 + n_h), which share a kv-head. */
static void prompt_task(const attn_job *j, size_t h0, size_t n_h, size_t t0, size_t n_t)
{
    ew_attn_work *w = &ew__work()->attn;
    const ew_attention_args *a = j->a;
    const size_t D = a->D, mr = j->k->mr;
    for (size_t t = t0; t < t0 + n_t; t++) {
        memset(a->out + (t * a->H + h0) * D, 0, n_h * D * sizeof(float));
    }
    for (size_t i = 0; i < n_h * n_t; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    size_t start, end, ignored;
    ew__attn_range(a, t0, &start, &ignored);
    ew__attn_range(a, t0 + n_t - 1, &ignored, &end);
    for (size_t p = start / EW_ATTN_KEYS * EW_ATTN_KEYS; p < end; p += EW_ATTN_KEYS) {
        size_t n = EW_MIN((size_t)EW_ATTN_KEYS, end - p);
        pack_tile(j, h0 / j->group, p, n);
        for (size_t h = 0; h < n_h; h++) {
            for (size_t t = 0; t < n_t; t += mr) {
                size_t i = h * n_t + t;
                prompt_tile(j, h0 + h, t0 + t, EW_MIN(mr, n_t - t), p, n, &w->max[i], &w->sum[i]);
            }
        }
    }
    for (size_t h = 0; h < n_h; h++) {
        for (size_t t = 0; t < n_t; t++) {
            j->k->scale(1.0f / w->sum[h * n_t + t], D, a->out + ((t0 + t) * a->H + h0 + h) * D);
        }
    }
}

static void prompt_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const attn_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t t0 = task % j->n_steps * j->step, part = task / j->n_steps;
        size_t first = part % j->n_parts * j->heads;
        prompt_task(j, part / j->n_parts * j->group + first, EW_MIN(j->heads, j->group - first), t0,
                    EW_MIN(j->step, j->a->T - t0));
    }
}

/* The partition may depend on the number of threads: a row's arithmetic does not depend on its neighbours. */
static void attend_prompt(const ew_exec *e, attn_job *j)
{
    const ew_attention_args *a = j->a;
    const size_t mr = j->k->mr, tasks = 4 * (size_t)ew_pool_threads(e->pool);
    j->step = EW_MAX(2 * mr, 288 / j->group); /* enough rows to make up for packing a tile */
    size_t share = (a->T * a->K + tasks - 1) / tasks;
    j->step = EW_MAX(2 * mr, EW_MIN(j->step, share));
    j->n_steps = (a->T + j->step - 1) / j->step;
    j->step = (a->T + j->n_steps - 1) / j->n_steps;
    j->step = (j->step + mr - 1) / mr * mr;
    j->n_steps = (a->T + j->step - 1) / j->step;
    j->heads = EW_MIN(j->group, EW_ATTN_STATE / j->step);
    j->n_parts = (j->group + j->heads - 1) / j->heads;
    ew_par_for(e->pool, a->K * j->n_parts * j->n_steps, 1, prompt_tasks, j);
}

void ew_attention(const ew_exec *e, const ew_attention_args *a)
{
    EW_ASSERT(a->D > 0 && a->D <= EW_ATTN_D_MAX && a->K > 0 && a->H % a->K == 0 && a->scale > 0.0f);
    EW_ASSERT(a->kv_dtype == EW_DTYPE_F32 || a->kv_dtype == EW_DTYPE_F16 ||
              (a->kv_dtype == EW_DTYPE_Q8_0 && a->D % 32 == 0 && a->kv_row % 32 == 0));
    if (a->T == 0) {
        return;
    }
    attn_job j = {.k = e->kern, .a = a, .group = a->H / a->K};
    EW_ASSERT(ew_dtype_row_bytes(a->kv_dtype, a->kv_row, &j.row_bytes) &&
              ew_dtype_row_bytes(a->kv_dtype, a->D, &j.head_bytes));
    if (e->kern->attn_qk == NULL) {
        ew__attention_plain(e, a);
    } else if (a->T <= FEW_TOK) {
        attend_few(e, &j);
    } else {
        attend_prompt(e, &j);
    }
}

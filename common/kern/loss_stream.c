/* Cross-entropy of a frozen head in one pass over the vocabulary. With p the softmax of the logits h W^T,
 *     dh = g (sum_v p_v W_v - W_target)
 * is attention whose keys and values are both the head: chunk by chunk of the vocabulary the logits of all rows, their running
 * maximum and denominator, and the running sum of exp(logit - maximum) W_v, rescaled when the maximum grows (Dao 2022, algorithm 1).
 * The head is unpacked twice, however many rows there are, and no logit is kept. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define ROWS_MAX 512
#define CHUNK 1024 /* of the vocabulary: the logits of some hundred rows stay in the second-level cache */
#define CAP_BLOCK 256

static size_t rows_of(size_t T)
{
    return EW_MIN((size_t)ROWS_MAX, EW_MAX((size_t)1, T));
}

typedef struct stream {
    const ew_kern *k;
    const ew_cross_entropy_args *a;
    size_t C, n;   /* n rows */
    size_t v0, nv; /* the chunk */
    float *logits; /* [n, nv] */
    float *hidden; /* [n, C] */
    float *acc;    /* [n, C] */
    double *sum;   /* [n] of exp(logit - max) */
    float *max;    /* [n] */
    float *target; /* [n] logit */
    size_t *row;   /* [n] index in [0, T) */
} stream;

/* Cuts s from scratch (NULL: only counts). */
static size_t carve(uint8_t *scratch, size_t rows, size_t chunk, size_t C, stream *s)
{
    size_t at = 0, part[7] = {rows * chunk * 4, rows * C * 4, rows * C * 4,         rows * 8,
                              rows * 4,         rows * 4,     rows * sizeof(size_t)};
    for (size_t i = 0; i < EW_COUNT(part); i++) {
        const size_t bytes = EW_ALIGN_UP(part[i], 64);
        part[i] = at;
        at += bytes;
    }
    if (scratch != NULL) {
        s->logits = (float *)(void *)(scratch + part[0]);
        s->hidden = (float *)(void *)(scratch + part[1]);
        s->acc = (float *)(void *)(scratch + part[2]);
        s->sum = (double *)(void *)(scratch + part[3]);
        s->max = (float *)(void *)(scratch + part[4]);
        s->target = (float *)(void *)(scratch + part[5]);
        s->row = (size_t *)(void *)(scratch + part[6]);
    }
    return at;
}

size_t ew__loss_stream_scratch(const ew_mat *head, size_t T)
{
    return carve(NULL, rows_of(T), EW_MIN((size_t)CHUNK, (size_t)head->rows), head->cols, NULL);
}

/* x = exp(x - max), times the slope of the cap where there is one; returns the sum without the slope. */
static double weights_of(const stream *s, float *x, float max)
{
    if (s->a->softcap <= 0.0f || s->a->dhidden == NULL) {
        return s->k->exp_row(x, s->nv, 1.0f, max);
    }
    const float c = 1.0f / s->a->softcap;
    float slope[CAP_BLOCK];
    double sum = 0.0;
    for (size_t at = 0; at < s->nv; at += CAP_BLOCK) {
        const size_t m = EW_MIN(s->nv - at, (size_t)CAP_BLOCK);
        for (size_t i = 0; i < m; i++) {
            const float r = x[at + i] * c;
            slope[i] = 1.0f - r * r;
        }
        sum += s->k->exp_row(x + at, m, 1.0f, max);
        s->k->mul(x + at, slope, m);
    }
    return sum;
}

static void chunk_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    stream *s = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *x = s->logits + i * s->nv;
        const size_t want = (size_t)s->a->targets[s->row[i]];
        if (want >= s->v0 && want < s->v0 + s->nv) {
            s->target[i] = x[want - s->v0];
        }
        const float top = s->k->max_row(x, s->nv), old = s->max[i];
        const float max = top > old || top != top ? top : old;
        if (s->v0 == 0) {
            s->sum[i] = 0.0;
        } else if (max != old) {
            const double less = exp((double)old - (double)max);
            s->sum[i] *= less;
            if (s->a->dhidden != NULL) {
                s->k->scale((float)less, s->C, s->acc + i * s->C);
            }
        }
        s->max[i] = max;
        s->sum[i] += weights_of(s, x, max);
    }
}

/* Results of the rows. */
static void end_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const stream *s = ctx;
    const ew_cross_entropy_args *a = s->a;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const size_t t = s->row[i], want = (size_t)a->targets[t];
        const double weight = a->weight != NULL ? (double)a->weight[t] : 1.0, g = weight * (double)a->scale;
        if (a->dhidden == NULL) {
            continue;
        }
        const float c = a->softcap > 0.0f ? s->target[i] / a->softcap : 0.0f;
        float *w = s->hidden + i * s->C, *acc = s->acc + i * s->C; /* the hidden row is of no more use */
        const ew_mat one = ew_mat_rows(a->head, want, 1);
        s->k->dequant_row(one.dtype, one.data, w, s->C);
        s->k->scale((float)(g / s->sum[i]), s->C, acc);
        s->k->axpy((float)(-g * (1.0 - (double)c * (double)c)), w, s->C, acc);
        memcpy(a->dhidden + t * s->C, acc, s->C * sizeof(float));
    }
}

static double run(const ew_exec *e, stream *s, size_t chunk)
{
    const ew_cross_entropy_args *a = s->a;
    const size_t V = a->head->rows, grain = EW_MAX((size_t)1, 16384 / chunk);
    for (size_t i = 0; i < s->n; i++) {
        EW_ASSERT(a->targets[s->row[i]] >= 0 && (size_t)a->targets[s->row[i]] < V);
        memcpy(s->hidden + i * s->C, a->hidden + s->row[i] * s->C, s->C * sizeof(float));
        s->max[i] = -INFINITY;
    }
    for (s->v0 = 0; s->v0 < V; s->v0 += chunk) {
        s->nv = EW_MIN(chunk, V - s->v0);
        const ew_mat w = ew_mat_rows(a->head, s->v0, s->nv);
        ew_matmul_f32(e, &w, s->hidden, s->n, s->logits, false);
        if (a->bias != NULL) {
            ew_bias_add(e, a->bias + s->v0, s->n, s->nv, s->logits);
        }
        if (a->softcap > 0.0f) {
            ew_softcap(e, a->softcap, s->n * s->nv, s->logits);
        }
        ew_par_for(e->pool, s->n, grain, chunk_rows, s);
        if (a->dhidden != NULL) {
            ew_matmul_dx(e, &w, s->logits, s->n, s->acc, s->v0 > 0, NULL);
        }
    }
    ew_par_for(e->pool, s->n, EW_MAX((size_t)1, 16384 / s->C), end_rows, s);
    double sum = 0.0;
    for (size_t i = 0; i < s->n; i++) {
        const double nll = (double)s->max[i] + log(s->sum[i]) - (double)s->target[i];
        if (a->nll != NULL) {
            a->nll[s->row[i]] = (float)nll;
        }
        sum += nll * (a->weight != NULL ? (double)a->weight[s->row[i]] : 1.0);
    }
    return sum;
}

double ew__loss_stream(const ew_exec *e, const ew_cross_entropy_args *a)
{
    stream s = {.k = e->kern, .a = a, .C = a->head->cols};
    const size_t most = rows_of(a->T), chunk = EW_MIN((size_t)CHUNK, (size_t)a->head->rows);
    double sum = 0.0;
    (void)carve(a->scratch, most, chunk, s.C, &s);
    for (size_t t = 0; t < a->T; t++) {
        if (a->weight == NULL || a->weight[t] != 0.0f) {
            s.row[s.n++] = t;
        } else {
            if (a->nll != NULL) {
                a->nll[t] = 0.0f;
            }
            if (a->dhidden != NULL) {
                memset(a->dhidden + t * s.C, 0, s.C * sizeof(float));
            }
        }
        if (s.n == most) {
            sum += run(e, &s, chunk);
            s.n = 0;
        }
    }
    return s.n > 0 ? sum + run(e, &s, chunk) : sum;
}

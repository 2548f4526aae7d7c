/* Cross-entropy of a head that learns too, in blocks of rows: a block's logits are computed whole, turned into their gradient in place,
 * and multiplied back. Rows without weight are left out before anything is computed. Frozen heads: loss_stream.c. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define LOGITS_PER_BLOCK (1u << 20)
#define CAP_BLOCK 1024u

size_t ew__loss_rows(size_t V)
{
    size_t rows = LOGITS_PER_BLOCK / EW_MAX((size_t)1, V);
    return rows < 16 ? 16 : rows > 512 ? 512 : rows;
}

size_t ew_cross_entropy_scratch(const ew_mat *head, size_t T)
{
    size_t rows = EW_MIN(ew__loss_rows(head->rows), EW_MAX((size_t)1, T));
    size_t blocks = EW_ALIGN_UP(rows * head->rows * 4, 64) + 2 * EW_ALIGN_UP(rows * head->cols * 4, 64) +
                    EW_ALIGN_UP(rows * sizeof(size_t), 64);
    return EW_MAX(blocks, ew__loss_stream_scratch(head, T));
}

typedef struct loss_block {
    const ew_kern *k;
    const ew_cross_entropy_args *a;
    size_t V, C, n;  /* n rows */
    float *logits;   /* [n,V], becomes dlogits */
    float *hidden;   /* [n,C] */
    float *dhidden;  /* [n,C] */
    size_t *row;     /* [n] index in [0,T) */
    double nll[512]; /* of each row */
} loss_block;

/* Sum of exp(x - max) with x left as it is. */
static double exp_sum(const ew_kern *k, const float *x, size_t n, float max)
{
    float tmp[CAP_BLOCK];
    double sum = 0;
    for (size_t at = 0; at < n; at += CAP_BLOCK) {
        const size_t m = EW_MIN(n - at, (size_t)CAP_BLOCK);
        memcpy(tmp, x + at, m * sizeof(float));
        sum += k->exp_row(tmp, m, 1.0f, max);
    }
    return sum;
}

/* Capped logits become the gradient before the cap: (softmax - onehot) * g * (1 - (x / cap)^2). */
static void capped_gradient(const ew_kern *k, float *x, size_t n, float max, double sum, double g, float cap,
                            size_t target)
{
    const float f = (float)(g / sum), c = 1.0f / cap;
    const float t = x[target] * c;
    float tmp[CAP_BLOCK];
    for (size_t at = 0; at < n; at += CAP_BLOCK) {
        const size_t m = EW_MIN(n - at, (size_t)CAP_BLOCK);
        memcpy(tmp, x + at, m * sizeof(float));
        (void)k->exp_row(tmp, m, 1.0f, max);
        for (size_t i = 0; i < m; i++) {
            const float r = x[at + i] * c;
            x[at + i] = tmp[i] * f * (1.0f - r * r);
        }
    }
    x[target] -= (float)g * (1.0f - t * t);
}

static void loss_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    loss_block *b = ctx;
    const ew_cross_entropy_args *a = b->a;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t t = b->row[i];
        float *x = b->logits + i * b->V;
        float weight = a->weight != NULL ? a->weight[t] : 1.0f;
        double target = (double)x[a->targets[t]];
        float max = b->k->max_row(x, b->V);
        const bool capped = a->softcap > 0.0f;
        double sum = capped ? exp_sum(b->k, x, b->V, max) : b->k->exp_row(x, b->V, 1.0f, max);
        b->nll[i] = (double)max + log(sum) - target;
        if (a->dhidden == NULL && a->dhead == NULL && a->dbias == NULL) {
            continue;
        }
        double g = (double)weight * (double)a->scale;
        if (capped) {
            capped_gradient(b->k, x, b->V, max, sum, g, a->softcap, (size_t)a->targets[t]);
            continue;
        }
        b->k->scale((float)(g / sum), b->V, x);
        x[a->targets[t]] -= (float)g;
    }
}

static void loss_scatter(const loss_block *b)
{
    const ew_cross_entropy_args *a = b->a;
    for (size_t i = 0; i < b->n; i++) {
        if (a->nll != NULL) {
            a->nll[b->row[i]] = (float)b->nll[i];
        }
        if (a->dhidden != NULL) {
            memcpy(a->dhidden + b->row[i] * b->C, b->dhidden + i * b->C, b->C * sizeof(float));
        }
    }
}

static double loss_run(const ew_exec *e, loss_block *b)
{
    const ew_cross_entropy_args *a = b->a;
    for (size_t i = 0; i < b->n; i++) {
        size_t t = b->row[i];
        EW_ASSERT(a->targets[t] >= 0 && (size_t)a->targets[t] < b->V);
        memcpy(b->hidden + i * b->C, a->hidden + t * b->C, b->C * sizeof(float));
    }
    ew_matmul_f32(e, a->head, b->hidden, b->n, b->logits, false);
    if (a->bias != NULL) {
        ew_bias_add(e, a->bias, b->n, b->V, b->logits);
    }
    if (a->softcap > 0.0f) {
        ew_softcap(e, a->softcap, b->n * b->V, b->logits);
    }
    ew_par_for(e->pool, b->n, EW_MAX((size_t)1, 16384 / b->V), loss_rows, b);
    if (a->dhidden != NULL) {
        ew_matmul_dx(e, a->head, b->logits, b->n, b->dhidden, false, NULL);
    }
    if (a->dhead != NULL) {
        ew_matmul_dw(e, b->logits, b->hidden, b->n, b->V, b->C, a->dhead);
    }
    if (a->dbias != NULL) {
        ew_bias_bwd(e, b->logits, b->n, b->V, a->dbias);
    }
    loss_scatter(b);
    double sum = 0.0;
    for (size_t i = 0; i < b->n; i++) {
        sum += b->nll[i] * (a->weight != NULL ? (double)a->weight[b->row[i]] : 1.0);
    }
    return sum;
}

double ew_cross_entropy(const ew_exec *e, const ew_cross_entropy_args *a)
{
    if (a->dhead == NULL && a->dbias == NULL) {
        return ew__loss_stream(e, a);
    }
    loss_block b = {.k = e->kern, .a = a, .V = a->head->rows, .C = a->head->cols};
    size_t cap = EW_MIN(ew__loss_rows(b.V), EW_MAX((size_t)1, a->T));
    uint8_t *s = a->scratch;
    b.logits = (float *)(void *)s;
    s += EW_ALIGN_UP(cap * b.V * 4, 64);
    b.hidden = (float *)(void *)s;
    s += EW_ALIGN_UP(cap * b.C * 4, 64);
    b.dhidden = (float *)(void *)s;
    s += EW_ALIGN_UP(cap * b.C * 4, 64);
    b.row = (size_t *)(void *)s;
    double sum = 0.0;
    for (size_t t = 0; t < a->T; t++) {
        if (a->weight == NULL || a->weight[t] != 0.0f) {
            b.row[b.n++] = t;
        } else {
            if (a->nll != NULL) {
                a->nll[t] = 0.0f;
            }
            if (a->dhidden != NULL) {
                memset(a->dhidden + t * b.C, 0, b.C * sizeof(float));
            }
        }
        if (b.n == cap) {
            sum += loss_run(e, &b);
            b.n = 0;
        }
    }
    return b.n > 0 ? sum + loss_run(e, &b) : sum;
}

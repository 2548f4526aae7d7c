/* Normalisation with a mean and of single heads. Plain C with sums in double: these rows are a small part of a layer's work. */
#include <math.h>

#include "kern/ops.h"
#include "sys/pool.h"

#define ELEMS_PER_TASK 16384

typedef struct layer_job {
    const float *x, *w, *b;
    size_t C;
    size_t n_w; /* rows of w that follow each other: row r of x takes w row r % n_w */
    float eps;
    float *y;
} layer_job;

#define LANES 8 /* partial sums: a fixed order that the compiler makes vectors of */

static double sum_lanes(const double *lane)
{
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* Sum of (x - mean)^power, power 1 or 2. */
static double moment(const float *x, size_t n, double mean, int power)
{
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            double d = (double)x[i + l] - mean;
            lane[l] += power == 1 ? d : d * d;
        }
    }
    for (size_t l = 0; i < n; i++, l++) {
        double d = (double)x[i] - mean;
        lane[l] += power == 1 ? d : d * d;
    }
    return sum_lanes(lane);
}

static void layer_row(const float *x, const float *w, const float *b, size_t C, float eps, float *y)
{
    double mean = moment(x, C, 0, 1) / (double)C;
    float r = (float)(1 / sqrt(moment(x, C, mean, 2) / (double)C + (double)eps));
    for (size_t i = 0; i < C; i++) {
        y[i] = (float)((double)x[i] - mean) * r * w[i];
    }
    for (size_t i = 0; b != NULL && i < C; i++) {
        y[i] += b[i];
    }
}

static void layer_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const layer_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        layer_row(j->x + t * j->C, j->w + t % j->n_w * j->C, j->b, j->C, j->eps, j->y + t * j->C);
    }
}

static void run(const ew_exec *e, layer_job *j, size_t rows)
{
    ew_par_for(e->pool, rows, EW_MAX((size_t)1, ELEMS_PER_TASK / EW_MAX((size_t)1, j->C)), layer_rows, j);
}

void ew_layernorm(const ew_exec *e, const float *x, const float *w, const float *b, size_t T, size_t C, float eps,
                  float *y)
{
    layer_job j = {.x = x, .w = w, .b = b, .C = C, .n_w = 1, .eps = eps, .y = y};
    run(e, &j, T);
}

void ew_head_norm(const ew_exec *e, ew_norm_kind kind, float *x, const float *w, bool per_head, size_t T,
                  size_t n_heads, size_t D, float eps)
{
    if (kind == EW_NORM_LAYER) {
        layer_job j = {.x = x, .w = w, .C = D, .n_w = per_head ? n_heads : 1, .eps = eps, .y = x};
        run(e, &j, T * n_heads);
        return;
    }
    if (!per_head) {
        ew_rmsnorm(e, x, w, T * n_heads, D, eps, x, NULL);
        return;
    }
    for (size_t t = 0; t < T; t++) {
        for (size_t h = 0; h < n_heads; h++) {
            float *row = x + (t * n_heads + h) * D;
            ew_rmsnorm(e, row, w + h * D, 1, D, eps, row, NULL);
        }
    }
}

/* Normalisation with a mean and of single heads, and their backward. Plain C with sums in double: these rows are a small part of a layer's work. */
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

/* ---- backward ---- */

typedef struct layer_bwd_job {
    ew_norm_kind kind;
    const float *x, *w, *dy;
    size_t T, C;
    size_t n_w; /* as in layer_job */
    float eps;
    bool overwrite; /* dx is dy and becomes the gradient */
    float *stat;    /* [T,2] or NULL */
    float *dx, *dw, *db;
} layer_bwd_job;

static void row_stat(const layer_bwd_job *j, const float *x, double *mean, double *rstd)
{
    *mean = j->kind == EW_NORM_LAYER ? moment(x, j->C, 0, 1) / (double)j->C : 0;
    *rstd = 1 / sqrt(moment(x, j->C, *mean, 2) / (double)j->C + (double)j->eps);
}

/* Sums of dy w and of dy w xhat. */
static void row_sums(const layer_bwd_job *j, const float *x, const float *w, const float *dy, double mean, double rstd,
                     double *ret_g, double *ret_gx)
{
    double g[LANES] = {0};
    double gx[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= j->C; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            double d = (double)dy[i + l] * (double)w[i + l];
            g[l] += d;
            gx[l] += d * ((double)x[i + l] - mean);
        }
    }
    for (size_t l = 0; i < j->C; i++, l++) {
        double d = (double)dy[i] * (double)w[i];
        g[l] += d;
        gx[l] += d * ((double)x[i] - mean);
    }
    *ret_g = j->kind == EW_NORM_LAYER ? sum_lanes(g) / (double)j->C : 0;
    *ret_gx = sum_lanes(gx) * rstd / (double)j->C;
}

/* dx = rstd (dy w - mean(dy w) - xhat mean(dy w xhat)) of rows; without the middle term for the root mean square. */
static void layer_bwd_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const layer_bwd_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *x = j->x + t * j->C, *w = j->w + t % j->n_w * j->C, *dy = j->dy + t * j->C;
        double mean, rstd, g, gx;
        row_stat(j, x, &mean, &rstd);
        if (j->stat != NULL) {
            j->stat[2 * t] = (float)mean;
            j->stat[2 * t + 1] = (float)rstd;
        }
        if (j->dx == NULL) {
            continue;
        }
        row_sums(j, x, w, dy, mean, rstd, &g, &gx);
        float *dx = j->dx + t * j->C;
        for (size_t i = 0; i < j->C; i++) {
            double xhat = ((double)x[i] - mean) * rstd;
            double d = rstd * ((double)dy[i] * (double)w[i] - g - xhat * gx);
            dx[i] = (float)(j->overwrite ? d : (double)dx[i] + d);
        }
    }
}

/* Columns [begin, end) of dw and db, over all rows in order. */
static void layer_bwd_cols(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const layer_bwd_job *j = ctx;
    (void)thread;
    for (size_t t = 0; t < j->T; t++) {
        const float *x = j->x + t * j->C, *dy = j->dy + t * j->C;
        for (size_t i = begin; j->dw != NULL && i < end; i++) {
            j->dw[i] += dy[i] * ((x[i] - j->stat[2 * t]) * j->stat[2 * t + 1]);
        }
        for (size_t i = begin; j->db != NULL && i < end; i++) {
            j->db[i] += dy[i];
        }
    }
}

void ew_layernorm_bwd(const ew_exec *e, const float *x, const float *w, const float *dy, size_t T, size_t C, float eps,
                      float *stat, float *dx, float *dw, float *db)
{
    EW_ASSERT(dw == NULL || stat != NULL);
    layer_bwd_job j = {.kind = EW_NORM_LAYER,
                       .x = x,
                       .w = w,
                       .dy = dy,
                       .T = T,
                       .C = C,
                       .n_w = 1,
                       .eps = eps,
                       .stat = dw != NULL ? stat : NULL,
                       .dx = dx,
                       .dw = dw,
                       .db = db};
    if (dx != NULL || dw != NULL) {
        ew_par_for(e->pool, T, EW_MAX((size_t)1, ELEMS_PER_TASK / EW_MAX((size_t)1, C)), layer_bwd_rows, &j);
    }
    if (dw != NULL || db != NULL) {
        ew_par_for(e->pool, C, 64, layer_bwd_cols, &j);
    }
}

/* Weights of heads get their gradient in the calling thread: only full training asks for it. */
static void head_weights_bwd(const layer_bwd_job *j, size_t rows)
{
    for (size_t t = 0; t < rows; t++) {
        const float *x = j->x + t * j->C, *dy = j->dy + t * j->C;
        float *dw = j->dw + t % j->n_w * j->C;
        double mean, rstd;
        row_stat(j, x, &mean, &rstd);
        for (size_t i = 0; i < j->C; i++) {
            dw[i] += (float)((double)dy[i] * ((double)x[i] - mean) * rstd);
        }
    }
}

void ew_head_norm_bwd(const ew_exec *e, ew_norm_kind kind, const float *x, const float *w, bool per_head, size_t T,
                      size_t n_heads, size_t D, float eps, float *dy, float *dw)
{
    layer_bwd_job j = {.kind = kind,
                       .x = x,
                       .w = w,
                       .dy = dy,
                       .T = T * n_heads,
                       .C = D,
                       .n_w = per_head ? n_heads : 1,
                       .eps = eps,
                       .overwrite = true,
                       .dx = dy,
                       .dw = dw};
    if (dw != NULL) {
        head_weights_bwd(&j, T * n_heads);
    }
    ew_par_for(e->pool, T * n_heads, EW_MAX((size_t)1, ELEMS_PER_TASK / EW_MAX((size_t)1, D)), layer_bwd_rows, &j);
}

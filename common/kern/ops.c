/* Row-wise and element-wise operations: partition over the pool, the row functions are the table's. */
#include "kern/ops.h"

#include <math.h>
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define ELEMS_PER_TASK 16384

/* Rows of a task, from their width only. */
static size_t row_grain(size_t C)
{
    return EW_MAX((size_t)1, ELEMS_PER_TASK / EW_MAX((size_t)1, C));
}

/* ---- normalisation ---- */

typedef struct norm_job {
    const ew_kern *k;
    const float *x, *w, *dy;
    size_t T, C;
    float eps;
    float *y, *rstd;      /* forward */
    const float *rstd_in; /* backward */
    float *dx, *dw;
} norm_job;

static void norm_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const norm_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        j->k->rmsnorm(j->x + t * j->C, j->w, j->C, j->eps, j->y + t * j->C, j->rstd != NULL ? &j->rstd[t] : NULL);
    }
}

void ew_rmsnorm(const ew_exec *e, const float *x, const float *w, size_t T, size_t C, float eps, float *y, float *rstd)
{
    norm_job j = {.k = e->kern, .x = x, .w = w, .T = T, .C = C, .eps = eps, .y = y, .rstd = rstd};
    ew_par_for(e->pool, T, row_grain(C), norm_rows, &j);
}

static void norm_bwd_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const norm_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        j->k->rmsnorm_bwd(j->x + t * j->C, j->w, j->rstd_in[t], j->dy + t * j->C, j->C, j->dx + t * j->C);
    }
}

/* Columns [begin, end) of dw, over all rows in order. */
static void norm_bwd_cols(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const norm_job *j = ctx;
    (void)thread;
    for (size_t t = 0; t < j->T; t++) {
        const float *x = j->x + t * j->C + begin, *dy = j->dy + t * j->C + begin;
        j->k->axpy_mul(j->rstd_in[t], x, dy, end - begin, j->dw + begin);
    }
}

void ew_rmsnorm_bwd(const ew_exec *e, const float *x, const float *w, const float *rstd, const float *dy, size_t T,
                    size_t C, float *dx, float *dw)
{
    norm_job j = {.k = e->kern, .x = x, .w = w, .dy = dy, .T = T, .C = C, .rstd_in = rstd, .dx = dx, .dw = dw};
    if (dx != NULL) {
        ew_par_for(e->pool, T, row_grain(C), norm_bwd_rows, &j);
    }
    if (dw != NULL) {
        ew_par_for(e->pool, C, 64, norm_bwd_cols, &j);
    }
}

/* ---- rotary positions ---- */

#define ROPE_MAX_ROT 512

static void rope_angles(const ew_rope_opt *o, size_t n_rot, size_t pos, float *cs)
{
    double scale = o->freq_scale != 0.0f ? (double)o->freq_scale : 1.0;
    double mscale = o->mscale != 0.0f ? (double)o->mscale : 1.0;
    for (size_t i = 0; i < n_rot / 2; i++) {
        double f = pow((double)o->theta_base, -2.0 * (double)i / (double)n_rot);
        if (o->freq_factors != NULL) {
            f /= (double)o->freq_factors[i];
        }
        double a = (double)pos * scale * f;
        cs[2 * i] = (float)(cos(a) * mscale);
        cs[2 * i + 1] = (float)(sin(a) * mscale);
    }
}

void ew_rope_table(const ew_rope_opt *o, size_t n_pos, float *table)
{
    EW_ASSERT(o->n_rot > 0 && o->n_rot % 2 == 0);
    for (size_t p = 0; p < n_pos; p++) {
        rope_angles(o, o->n_rot, p, table + p * o->n_rot);
    }
}

typedef struct rope_job {
    const ew_kern *k;
    const ew_rope_opt *o;
    float *x;
    size_t n_heads, D, n_rot;
    const int32_t *pos;
    size_t pos0;
    float sign;
} rope_job;

static void rope_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const rope_job *j = ctx;
    float own[ROPE_MAX_ROT];
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        size_t pos = j->pos != NULL ? (size_t)j->pos[t] : j->pos0 + t;
        const float *cs = own;
        if (j->o->table != NULL && pos < j->o->n_table) {
            cs = j->o->table + pos * j->n_rot;
        } else {
            rope_angles(j->o, j->n_rot, pos, own);
        }
        j->k->rope(j->x + t * j->n_heads * j->D, j->n_heads, j->D, j->n_rot, j->o->kind, cs, j->sign);
    }
}

void ew_rope(const ew_exec *e, const ew_rope_opt *o, float *x, size_t T, size_t n_heads, size_t D, const int32_t *pos,
             size_t pos0, bool inverse)
{
    size_t n_rot = o->n_rot != 0 ? o->n_rot : D;
    EW_ASSERT(n_rot % 2 == 0 && n_rot <= D && n_rot <= ROPE_MAX_ROT);
    rope_job j = {e->kern, o, x, n_heads, D, n_rot, pos, pos0, inverse ? -1.0f : 1.0f};
    ew_par_for(e->pool, T, row_grain(n_heads * D), rope_rows, &j);
}

/* ---- element-wise ---- */

typedef struct vec_job {
    const ew_kern *k;
    const float *a, *b, *c;
    float *y, *z;
    float s;
    size_t n, block;
    double *part;
} vec_job;

static void swiglu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    j->k->swiglu(j->a + begin, j->b + begin, end - begin, j->y + begin);
}

void ew_swiglu(const ew_exec *e, const float *gate, const float *up, size_t n, float *y)
{
    vec_job j = {.k = e->kern, .a = gate, .b = up, .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK / 2, swiglu_part, &j);
}

static void swiglu_bwd_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    j->k->swiglu_bwd(j->a + begin, j->b + begin, j->c + begin, end - begin, j->y + begin, j->z + begin);
}

void ew_swiglu_bwd(const ew_exec *e, const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                   float *dup)
{
    vec_job j = {.k = e->kern, .a = gate, .b = up, .c = dy, .y = dgate, .z = dup};
    ew_par_for(e->pool, n, ELEMS_PER_TASK / 2, swiglu_bwd_part, &j);
}

static void geglu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        double a = (double)j->a[i];
        double g = 0.5 * a * (1.0 + tanh(0.79788456080286536 * (a + 0.044715 * a * a * a)));
        j->y[i] = (float)(j->b != NULL ? g * (double)j->b[i] : g);
    }
}

void ew_geglu(const ew_exec *e, const float *gate, const float *up, size_t n, float *y)
{
    vec_job j = {.k = e->kern, .a = gate, .b = up, .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK / 8, geglu_part, &j);
}

static void axpy_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    j->k->axpy(j->s, j->a + begin, end - begin, j->y + begin);
}

void ew_vec_axpy(const ew_exec *e, float a, const float *x, size_t n, float *y)
{
    vec_job j = {.k = e->kern, .a = x, .y = y, .s = a};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, axpy_part, &j);
}

void ew_vec_add(const ew_exec *e, float *y, const float *x, size_t n)
{
    ew_vec_axpy(e, 1.0f, x, n, y);
}

static void scale_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    j->k->scale(j->s, end - begin, j->y + begin);
}

void ew_vec_scale(const ew_exec *e, float a, size_t n, float *y)
{
    vec_job j = {.k = e->kern, .y = y, .s = a};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, scale_part, &j);
}

static void mul_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    j->k->mul(j->y + begin, j->a + begin, end - begin);
}

void ew_vec_mul(const ew_exec *e, float *y, const float *x, size_t n)
{
    vec_job j = {.k = e->kern, .a = x, .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, mul_part, &j);
}

/* ---- reductions: at most 64 blocks, whose size depends on n only ---- */

#define DOT_BLOCKS 64

static void dot_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const vec_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t from = i * j->block;
        j->part[i] = j->k->dot_f64(j->a + from, j->b + from, EW_MIN(j->block, j->n - from));
    }
}

double ew_vec_dot(const ew_exec *e, const float *x, const float *y, size_t n)
{
    double part[DOT_BLOCKS], sum = 0.0;
    size_t block = EW_MAX((size_t)4096, EW_ALIGN_UP((n + DOT_BLOCKS - 1) / DOT_BLOCKS, 64));
    size_t n_blocks = (n + block - 1) / block;
    vec_job j = {.k = e->kern, .a = x, .b = y, .n = n, .block = block, .part = part};
    ew_par_for(e->pool, n_blocks, 1, dot_part, &j);
    for (size_t i = 0; i < n_blocks; i++) {
        sum += part[i];
    }
    return sum;
}

double ew_vec_sumsq(const ew_exec *e, const float *x, size_t n)
{
    return ew_vec_dot(e, x, x, n);
}

/* ---- rows and columns ---- */

typedef struct row_job {
    const ew_kern *k;
    const ew_mat *table;
    const int32_t *ids;
    const float *x;
    size_t T, C;
    float *y;
    ew_dtype t;
    uint8_t *dst;
    size_t dst_row_bytes;
} row_job;

static void bias_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        j->k->axpy(1.0f, j->x, j->C, j->y + t * j->C);
    }
}

void ew_bias_add(const ew_exec *e, const float *b, size_t T, size_t F, float *y)
{
    row_job j = {.k = e->kern, .x = b, .C = F, .y = y};
    ew_par_for(e->pool, T, row_grain(F), bias_rows, &j);
}

static void bias_cols(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = 0; t < j->T; t++) {
        j->k->axpy(1.0f, j->x + t * j->C + begin, end - begin, j->y + begin);
    }
}

void ew_bias_bwd(const ew_exec *e, const float *dy, size_t T, size_t F, float *db)
{
    row_job j = {.k = e->kern, .x = dy, .T = T, .C = F, .y = db};
    ew_par_for(e->pool, F, 64, bias_cols, &j);
}

static void embed_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        EW_ASSERT(j->ids[t] >= 0 && (uint32_t)j->ids[t] < j->table->rows);
        const uint8_t *row = (const uint8_t *)j->table->data + (size_t)j->ids[t] * j->table->row_bytes;
        j->k->dequant_row(j->table->dtype, row, j->y + t * j->C, j->C);
    }
}

void ew_embed(const ew_exec *e, const ew_mat *table, const int32_t *ids, size_t T, float *x)
{
    row_job j = {.k = e->kern, .table = table, .ids = ids, .C = table->cols, .y = x};
    ew_par_for(e->pool, T, row_grain(table->cols), embed_rows, &j);
}

static void embed_cols(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = 0; t < j->T; t++) {
        j->k->axpy(1.0f, j->x + t * j->C + begin, end - begin, j->y + (size_t)j->ids[t] * j->C + begin);
    }
}

void ew_embed_bwd(const ew_exec *e, const float *dx, const int32_t *ids, size_t T, size_t C, float *dtable)
{
    row_job j = {.k = e->kern, .x = dx, .ids = ids, .T = T, .C = C, .y = dtable};
    ew_par_for(e->pool, C, 64, embed_cols, &j);
}

static void store_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        uint8_t *dst = j->dst + t * j->dst_row_bytes;
        if (j->t == EW_DTYPE_F16 && ((uintptr_t)dst & 1) == 0) {
            j->k->f32_to_f16(j->x + t * j->C, (uint16_t *)(void *)dst, j->C);
        } else {
            ew_quant_row(j->t, j->x + t * j->C, dst, j->C);
        }
    }
}

void ew_store_rows(const ew_exec *e, ew_dtype t, const float *src, size_t T, size_t C, void *dst, size_t dst_row_bytes)
{
    row_job j = {.k = e->kern, .x = src, .C = C, .t = t, .dst = dst, .dst_row_bytes = dst_row_bytes};
    ew_par_for(e->pool, T, row_grain(C), store_rows, &j);
}

static void softmax_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        float *x = j->y + t * j->C;
        double sum = j->k->exp_row(x, j->C, 1.0f, j->k->max_row(x, j->C));
        j->k->scale((float)(1.0 / sum), j->C, x);
    }
}

void ew_softmax(const ew_exec *e, float *x, size_t T, size_t n)
{
    row_job j = {.k = e->kern, .C = n, .y = x};
    if (n > 0) {
        ew_par_for(e->pool, T, row_grain(n), softmax_rows, &j);
    }
}

double ew_logsumexp(const ew_exec *e, const float *x, size_t n)
{
    float part[256];
    float max = e->kern->max_row(x, n);
    double sum = 0.0;
    for (size_t i = 0; i < n; i += EW_COUNT(part)) {
        size_t m = EW_MIN(EW_COUNT(part), n - i);
        memcpy(part, x + i, m * sizeof(float));
        sum += e->kern->exp_row(part, m, 1.0f, max);
    }
    return (double)max + log(sum);
}

/* ---- optimizer ---- */

typedef struct adamw_job {
    const ew_kern *k;
    ew_adamw_opt o;
    float bc1, bc2;
    float *p, *m, *v;
    const float *g;
} adamw_job;

static void adamw_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const adamw_job *j = ctx;
    (void)thread;
    j->k->adamw(&j->o, j->bc1, j->bc2, j->p + begin, j->g + begin, j->m + begin, j->v + begin, end - begin);
}

void ew_adamw(const ew_exec *e, const ew_adamw_opt *o, float *p, const float *g, float *m, float *v, size_t n,
              uint64_t step)
{
    adamw_job j = {.k = e->kern, .o = *o, .p = p, .m = m, .v = v, .g = g};
    if (j.o.grad_scale == 0.0f) {
        j.o.grad_scale = 1.0f;
    }
    j.bc1 = (float)(1.0 / (1.0 - pow((double)o->beta1, (double)step)));
    j.bc2 = (float)(1.0 / (1.0 - pow((double)o->beta2, (double)step)));
    ew_par_for(e->pool, n, ELEMS_PER_TASK, adamw_part, &j);
}

/* Choice of the table, and the products of inference: few tokens go along the rows of the weights as they are stored; for more,
 * quantised weights are unpacked into panels, floats take the general product of gemm.c. */
#include "kern/kern.h"

#include <string.h>

#include "kern/kern_int.h"
#include "sys/cpu.h"
#include "sys/pool.h"

/* Few tokens: bytes of weights that a thread reads in one piece. Memory gives most to long runs in few places (two threads that took turns
 * every 64 KiB got 55 to 70 % of what they get now), and a thread that is held up shall not keep the others waiting for half of a product. */
#define PIECE_MIN ((size_t)16 << 10)
#define PIECE_MAX ((size_t)512 << 10)
#define PIECES_PER_THREAD 2

static bool can_run(const ew_kern *k)
{
    uint32_t have = ew_cpu_features();
#if defined(__x86_64__)
    const uint32_t avx2 = EW_CPU_AVX2 | EW_CPU_FMA | EW_CPU_F16C;
    const uint32_t avx512 =
        avx2 | EW_CPU_AVX512F | EW_CPU_AVX512BW | EW_CPU_AVX512VL | EW_CPU_AVX512DQ | EW_CPU_AVX512VNNI;
    if (k == &ew__kern_avx2) {
        return (have & avx2) == avx2;
    }
    if (k == &ew__kern_avx512 || k == &ew__kern_avx512_bf16) {
        return (have & avx512) == avx512 && (k == &ew__kern_avx512 || (have & EW_CPU_AVX512BF16) != 0);
    }
#elif defined(__aarch64__)
    if (k == &ew__kern_neon || k == &ew__kern_neon_dotprod || k == &ew__kern_neon_i8mm) {
        uint32_t need = k == &ew__kern_neon ? EW_CPU_NEON : EW_CPU_NEON | EW_CPU_DOTPROD;
        need |= k == &ew__kern_neon_i8mm ? EW_CPU_I8MM : 0;
        return (have & need) == need;
    }
#endif
    (void)have;
    return k == &ew__kern_ref || k == &ew__kern_ref_bf16;
}

static const ew_kern *const tables[] = {
    &ew__kern_ref,
#if defined(__x86_64__)
    &ew__kern_avx2,
    &ew__kern_avx512,
#elif defined(__aarch64__)
    &ew__kern_neon,
    &ew__kern_neon_dotprod,
    &ew__kern_neon_i8mm,
#endif
};

/* The tables whose products with weights go by BF16, and the tables that they are otherwise the same as. */
static const ew_kern *const halves[][2] = {
    {&ew__kern_ref, &ew__kern_ref_bf16},
#if defined(__x86_64__)
    {&ew__kern_avx512, &ew__kern_avx512_bf16},
#endif
};

const ew_kern *ew_kern_at(size_t i)
{
    for (size_t j = 0; j < EW_COUNT(tables); j++) {
        if (can_run(tables[j]) && i-- == 0) {
            return tables[j];
        }
    }
    return NULL;
}

const ew_kern *ew_kern_get(const char *name)
{
    const ew_kern *best = NULL;
    for (size_t j = 0; j < EW_COUNT(tables); j++) {
        if (can_run(tables[j]) && (name == NULL || strcmp(name, tables[j]->name) == 0)) {
            best = tables[j];
        }
    }
    for (size_t j = 0; name != NULL && j < EW_COUNT(halves); j++) {
        if (strcmp(name, halves[j][1]->name) == 0 && can_run(halves[j][1])) {
            best = halves[j][1];
        }
    }
    return best;
}

const ew_kern *ew_kern_bf16(const ew_kern *k)
{
    for (size_t i = 0; i < EW_COUNT(halves); i++) {
        if (halves[i][0] == k && can_run(halves[i][1])) {
            return halves[i][1];
        }
    }
    return k;
}

const char *ew_kern_name(const ew_kern *k)
{
    return k->name;
}

ew_mat ew_mat_make(ew_dtype dtype, size_t rows, size_t cols, const void *data)
{
    ew_mat m = {.dtype = dtype, .rows = (uint32_t)rows, .cols = (uint32_t)cols, .data = data};
    EW_ASSERT(rows <= UINT32_MAX && cols <= UINT32_MAX && ew_dtype_row_bytes(dtype, cols, &m.row_bytes));
    return m;
}

ew_mat ew_mat_rows(const ew_mat *m, size_t first, size_t n)
{
    EW_ASSERT(first <= m->rows && n <= m->rows - first);
    ew_mat r = *m;
    r.rows = (uint32_t)n;
    r.data = (const uint8_t *)m->data + first * m->row_bytes;
    return r;
}

/* Rows of one piece, when `rows` rows of row_bytes are to be read. */
static size_t piece_rows(const ew_exec *e, size_t rows, size_t row_bytes)
{
    size_t share = rows * row_bytes / (PIECES_PER_THREAD * (size_t)ew_pool_threads(e->pool));
    return EW_MAX((size_t)1, EW_MIN(EW_MAX(share, PIECE_MIN), PIECE_MAX) / row_bytes);
}

/* ---- integer products ---- */

static bool is_q(ew_dtype t)
{
    return t != EW_DTYPE_F32 && t != EW_DTYPE_F16 && t != EW_DTYPE_BF16;
}

/* The arrays of an ew_xq, cut from scratch (NULL: only counted). dot: with those that dot alone needs. */
static size_t carve_xq(uint8_t *scratch, size_t T, size_t C, bool dot, ew_xq *x)
{
    size_t nb = C / 32, at = EW_ALIGN_UP(T * C + 64, 64), one = EW_ALIGN_UP(T * nb * 4, 64);
    if (scratch != NULL) {
        *x = (ew_xq){.C = C, .q = (int8_t *)scratch};
        memset(scratch + T * C, 0, 64);
        x->d = (float *)(void *)(scratch + at);
        x->c32 = (int32_t *)(void *)(scratch + at + one);
        x->m32 = (float *)(void *)(scratch + at + 2 * one);
        x->c16 = (int32_t *)(void *)(scratch + at + 3 * one);
        x->m16 = (float *)(void *)(scratch + at + 5 * one);
        if (dot) {
            x->d16 = (float *)(void *)(scratch + at + 7 * one);
            x->p = (int8_t *)(scratch + at + 9 * one);
        }
    }
    return at + 7 * one + (dot ? 2 * one + T * EW_ALIGN_UP(C, EW_XQ_P) : 0);
}

/* Never less for more tokens: callers take the figure of their largest batch. */
size_t ew_matmul_scratch(const ew_mat *w, size_t T)
{
    if (!is_q(w->dtype)) {
        return 0;
    }
    size_t few = carve_xq(NULL, EW_MIN(T, (size_t)EW_MATMUL_FEW), w->cols, true, NULL);
    return EW_MAX(few, carve_xq(NULL, T, w->cols, false, NULL));
}

typedef struct q_job {
    const ew_qkern *k;
    const float *x;
    ew_row_fn *row; /* makes the rows of x; NULL: they stand in x */
    const void *ctx;
    size_t T;
    ew_xq xq;
    bool dot;
    const ew_mat *const *w;
    float *const *y;
    size_t n;
    size_t first_task[5]; /* of each weight; [n] = total */
    size_t rows_per_task;
} q_job;

static void quant_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const q_job *j = ctx;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        ew_xq row = ew__xq_row(&j->xq, t);
        j->k->quant_x(j->row != NULL ? j->row(j->ctx, t) : j->x + t * j->xq.C, &row);
    }
}

/* The panel stays in the first- or second-level cache, as the table has it, while the tokens pass by. */
static void panel_task(const q_job *j, const ew_mat *w, float *y, size_t f0, size_t f1)
{
    const ew_qkern *k = j->k;
    uint8_t *panel = ew__work()->panel;
    size_t nb = w->cols / 32;
    for (size_t f = f0; f < f1; f += k->rows) {
        size_t rows = EW_MIN(k->rows, f1 - f);
        const uint8_t *src = (const uint8_t *)w->data + f * w->row_bytes;
        for (size_t b = 0; b < nb; b += k->kb) {
            size_t n = EW_MIN(k->kb, nb - b);
            k->pack(w->dtype, src, w->row_bytes, rows, b, n, panel);
            k->mul(w->dtype, panel, &j->xq, b, n, j->T, b == 0, y + f, w->rows, rows);
        }
    }
}

static void q_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const q_job *j = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t i = 0;
        while (task >= j->first_task[i + 1]) {
            i++;
        }
        const ew_mat *w = j->w[i];
        size_t f0 = (task - j->first_task[i]) * j->rows_per_task;
        size_t f1 = EW_MIN((size_t)w->rows, f0 + j->rows_per_task);
        if (j->dot) {
            const uint8_t *rows = (const uint8_t *)w->data + f0 * w->row_bytes;
            j->k->dot(w->dtype, rows, w->row_bytes, f1 - f0, &j->xq, j->T, j->y[i] + f0, w->rows);
        } else {
            panel_task(j, w, j->y[i], f0, f1);
        }
    }
}

static void run_q(const ew_exec *e, q_job *j, void *scratch)
{
    size_t C = j->w[0]->cols;
    j->dot = j->k->rows == 0 || j->T <= j->k->dot_tokens;
    (void)carve_xq(scratch, j->T, C, j->dot && j->T <= EW_MATMUL_FEW, &j->xq);
    ew_par_for(e->pool, j->T, EW_MAX((size_t)1, 8192 / C), quant_rows, j);
    size_t rows = 0;
    for (size_t i = 0; i < j->n; i++) {
        rows += j->w[i]->rows;
    }
    j->rows_per_task = j->dot ? piece_rows(e, rows, j->w[0]->row_bytes) : j->k->rows;
    for (size_t i = 0; i < j->n; i++) {
        j->first_task[i + 1] = j->first_task[i] + (j->w[i]->rows + j->rows_per_task - 1) / j->rows_per_task;
    }
    ew_par_for(e->pool, j->first_task[j->n], 1, q_tasks, j);
}

static void matmul_q(const ew_exec *e, const ew_mat *const *w, size_t n, const float *x, size_t T, float *const *y,
                     void *scratch)
{
    q_job j = {.k = e->kern->q, .x = x, .T = T, .w = w, .y = y, .n = n};
    run_q(e, &j, scratch);
}

bool ew__matmul_rows(const ew_exec *e, const ew_mat *const *w, size_t n, ew_row_fn *row, const void *ctx, size_t T,
                     float *const *y, void *scratch)
{
    q_job j = {.k = e->kern->q, .row = row, .ctx = ctx, .T = T, .w = w, .y = y, .n = n};
    EW_ASSERT(n > 0 && n <= 4);
    for (size_t i = 0; i < n; i++) {
        EW_ASSERT(w[i]->cols == w[0]->cols);
        if (!is_q(w[i]->dtype)) {
            return false;
        }
    }
    run_q(e, &j, scratch);
    return true;
}

/* ---- float weights, few tokens ---- */

typedef struct row_job {
    const ew_kern *k;
    const ew_mat *w;
    const float *x;
    size_t T;
    float *y;
} row_job;

static void row_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    (void)thread;
    const uint8_t *w = (const uint8_t *)j->w->data + begin * j->w->row_bytes;
    j->k->rows_dot(j->w->dtype, w, j->w->row_bytes, end - begin, j->x, j->w->cols, j->T, j->y + begin, j->w->rows);
}

void ew_matmul(const ew_exec *e, const ew_mat *w, const float *x, size_t T, float *y, void *scratch)
{
    if (T == 0) {
        return;
    }
    if (is_q(w->dtype)) {
        matmul_q(e, &w, 1, x, T, &y, scratch);
    } else if (e->kern->rows_dot != NULL && T <= EW_MATMUL_FEW) {
        row_job j = {e->kern, w, x, T, y};
        ew_par_for(e->pool, w->rows, piece_rows(e, w->rows, w->row_bytes), row_tasks, &j);
    } else {
        ew_matmul_f32(e, w, x, T, y, false);
    }
}

void ew_matmul_multi(const ew_exec *e, const ew_mat *const *w, size_t n, const float *x, size_t T, float *const *y,
                     void *scratch)
{
    bool all_q = T > 0;
    EW_ASSERT(n <= 4);
    for (size_t i = 0; i < n; i++) {
        EW_ASSERT(w[i]->cols == w[0]->cols);
        all_q = all_q && is_q(w[i]->dtype);
    }
    if (all_q && n > 0) {
        matmul_q(e, w, n, x, T, y, scratch);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        ew_matmul(e, w[i], x, T, y[i], scratch);
    }
}

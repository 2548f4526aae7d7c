/* Products of few columns: those of LoRA, whose rank is far below the width of a panel of gemm.c.
 *   rows    A lies along K (x A^T, dy B): dot products of vectors, as attention takes them; an element's sum depends on K alone.
 *   columns A lies along M (dy^T u): the transposed product, whose columns are many, added back. */
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define THIN 16       /* columns at most */
#define ROWS_STEP 64  /* rows at a time, and of a task at least */
#define COLS_STEP 256 /* columns of the transposed product at a time */

typedef struct thin_job {
    const ew_kern *k;
    const ew_gemm_args *g;
    size_t step; /* rows of a task */
} thin_job;

static void put(const ew_gemm_args *g, const float *t, size_t ldt, size_t i0, size_t m)
{
    for (size_t i = 0; i < m; i++) {
        float *c = g->c + (i0 + i) * g->c_row;
        for (size_t j = 0; j < g->N; j++) {
            const float v = g->alpha * t[j * ldt + i];
            c[j] = g->accumulate ? c[j] + v : v;
        }
    }
}

static void rows_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const thin_job *j = ctx;
    const ew_gemm_args *g = j->g;
    ew_work *work = ew__work();
    const float *b = g->b;
    size_t ldb = g->b_col;
    (void)thread;
    if (g->b_row != 1) {
        ldb = EW_ALIGN_UP(g->K, 16);
        j->k->gemm_pack(g->b, g->b_row, g->b_col, g->K, g->N, ldb, work->unpacked);
        b = work->unpacked;
    }
    for (size_t i = begin * j->step; i < EW_MIN(end * j->step, g->M); i += ROWS_STEP) {
        const size_t m = EW_MIN((size_t)ROWS_STEP, EW_MIN(end * j->step, g->M) - i);
        j->k->attn_qk(EW_DTYPE_F32, b, ldb, g->N, g->a + i * g->a_row, g->a_row * sizeof(float), m, g->K, work->pack_a,
                      ROWS_STEP);
        put(g, work->pack_a, ROWS_STEP, i, m);
    }
}

static void cols_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const thin_job *j = ctx;
    const ew_gemm_args *g = j->g;
    float *t = (float *)(void *)ew__work()->acc_ref; /* [N, COLS_STEP], free where there is a micro-kernel */
    (void)thread;
    for (size_t i = begin * j->step; i < EW_MIN(end * j->step, g->M); i += COLS_STEP) {
        const size_t m = EW_MIN((size_t)COLS_STEP, EW_MIN(end * j->step, g->M) - i);
        ew__gemm_serial(j->k, &(ew_gemm_args){g->N, m, g->K, 1.0f, g->b, g->b_col, g->b_row, g->a + i, g->a_col, 1, t,
                                              COLS_STEP, false});
        put(g, t, COLS_STEP, i, m);
    }
}

bool ew__gemm_thin(ew_pool *pool, const ew_kern *k, const ew_gemm_args *g)
{
    if (g == NULL || g->N > THIN || g->K == 0 || k->gemm_micro == NULL || k->attn_qk == NULL) {
        return false;
    }
    thin_job j = {.k = k, .g = g};
    const size_t threads = ew_pool_threads(pool), share = (g->M + threads - 1) / threads;
    if (g->a_col == 1 && (g->b_row == 1 || g->N * EW_ALIGN_UP(g->K, 16) <= EW_GEMM_KC * EW_GEMM_NC)) {
        j.step = EW_MAX(share, (size_t)ROWS_STEP);
        ew_par_for(pool, (g->M + j.step - 1) / j.step, 1, rows_tasks, &j);
        return true;
    }
    if (g->a_row == 1 && g->M > 2 * (size_t)THIN) {
        j.step = EW_MIN(EW_ALIGN_UP(share, 32), (size_t)COLS_STEP);
        ew_par_for(pool, (g->M + j.step - 1) / j.step, 1, cols_tasks, &j);
        return true;
    }
    return false;
}

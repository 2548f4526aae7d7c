/* The f32 product by packed tiles, for plain matrices and for weights of any dtype.
 *
 * C is cut into tasks, equal shares for the threads. A task packs KC x NC of B and MC x KC of A into thread-local panels
 * and lets the micro-kernel add to C. K is walked in order and C keeps the running sum in f32, so an element is one chain of
 * fused multiply-adds whatever the tiling. ref has no micro-kernel: the same walk with sums in double.
 * In the tables of BF16 products, products with weights round both factors to BF16 as they are packed, two neighbours along K in
 * a dword: the micro-kernel then takes K/2 steps of two products each. All else is the same.
 * Source of the scheme: Goto & van de Geijn 2008; micro-kernel shapes as in BLIS. */
#include <string.h>

#include "kern/kern_int.h"
#include "sys/pool.h"

#define MC EW_GEMM_MC
#define NC EW_GEMM_NC
#define KC EW_GEMM_KC

typedef struct gemm_job {
    const ew_kern *k;
    ew_gemm_args g;
    const ew_mat *w;   /* B comes from this weight instead of g.b */
    bool w_rows_are_n; /* B = W^T, else B = W */
    const ew_bf16 *h;  /* both factors are rounded to BF16; NULL = f32 */
    size_t ms, ns;     /* rows and columns of a task */
    size_t n_tasks_n;  /* tasks along N */
} gemm_job;

#define PANEL_MAX 32 /* columns of a panel, in the widest table */
#define ROWS_MIN 48  /* of a task: less, and packing B for them costs more than they do */

/* All the rows and whole panels of columns in equal shares; rows are divided when there are too many of them, or too few columns. */
static void choose_tasks(gemm_job *job, unsigned threads)
{
    const ew_gemm_args *g = &job->g;
    const size_t panels = (g->N + PANEL_MAX - 1) / PANEL_MAX;
    size_t parts = (g->M + 4 * MC - 1) / (4 * MC), best = SIZE_MAX;
    if (parts * panels < 2 * (size_t)threads && threads > 1) {
        parts = EW_MAX(parts, EW_MIN((2 * (size_t)threads + panels - 1) / panels, (g->M + ROWS_MIN - 1) / ROWS_MIN));
    }
    job->ms = ((g->M + parts - 1) / parts + 11) / 12 * 12; /* 12 rows fill the tiles of every table */
    parts = (g->M + job->ms - 1) / job->ms;
    /* A BF16 product packs its rows anew in every task; a type of large blocks unpacks whole ones. */
    const bool wide = job->h != NULL && job->h->micro != NULL;
    const size_t block = job->w != NULL && !job->w_rows_are_n ? ew_dtype_get(job->w->dtype)->block_elems : 1;
    const size_t unit = EW_MAX(block / PANEL_MAX, (size_t)1);
    const size_t most = (wide ? (size_t)EW_GEMM_NC_MAX : (size_t)NC) / PANEL_MAX;
    for (size_t p = most / unit * unit; p > 0; p -= unit) {
        const size_t tasks = (panels + p - 1) / p, load = (parts * tasks + threads - 1) / threads * p;
        if (load < best) {
            best = load;
            job->ns = p * PANEL_MAX;
            job->n_tasks_n = tasks;
        }
    }
}

/* One panel of `cols` columns of B from a weight whose rows run along K. */
static void pack_wt(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t cols, size_t width, float *dst)
{
    ew_work *work = ew__work();
    const ew_mat *w = job->w;
    const ew_dtype_info *info = ew_dtype_get(w->dtype);
    size_t skip = k0 / info->block_elems * info->block_bytes;
    for (size_t r = 0; r < cols; r++) {
        const uint8_t *row = (const uint8_t *)w->data + (j0 + r) * w->row_bytes + skip;
        job->k->dequant_row(w->dtype, row, work->unpacked + r * kc, kc);
    }
    job->k->gemm_pack(work->unpacked, kc, 1, cols, kc, width, dst);
}

/* Elements [j0, j0 + n) of a row, which need not begin or end with a block. */
static void dequant_part(const gemm_job *job, const uint8_t *row, size_t j0, size_t n, float *dst)
{
    const ew_dtype_info *info = ew_dtype_get(job->w->dtype);
    size_t len = info->block_elems;
    if (j0 % len == 0 && n % len == 0) {
        job->k->dequant_row(job->w->dtype, row + j0 / len * info->block_bytes, dst, n);
        return;
    }
    for (size_t b = j0 / len; b * len < j0 + n; b++) {
        float block[256];
        EW_DASSERT(len <= EW_COUNT(block));
        size_t from = EW_MAX(j0, b * len), to = EW_MIN(j0 + n, (b + 1) * len);
        job->k->dequant_row(job->w->dtype, row + b * info->block_bytes, block, len);
        memcpy(dst + (from - j0), block + (from - b * len), (to - from) * sizeof(float));
    }
}

static void unpack_w(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t nb)
{
    ew_work *work = ew__work();
    const ew_mat *w = job->w;
    for (size_t i = 0; i < kc; i++) {
        const uint8_t *row = (const uint8_t *)w->data + (k0 + i) * w->row_bytes;
        dequant_part(job, row, j0, nb, work->unpacked + i * NC);
    }
}

/* Columns [j0, j0 + cols) of W^T in pairs: rows of W as BF16, then transposed by dwords. */
static void pack_wt_pairs(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t cols, size_t width, float *dst)
{
    ew_work *work = ew__work();
    const ew_mat *w = job->w;
    const ew_dtype_info *info = ew_dtype_get(w->dtype);
    const size_t skip = k0 / info->block_elems * info->block_bytes, pairs = (kc + 1) / 2;
    float *half = work->unpacked + 2 * KC; /* [cols][pairs] */
    for (size_t r = 0; r < cols; r++) {
        const uint8_t *row = (const uint8_t *)w->data + (j0 + r) * w->row_bytes + skip;
        const float *from = work->unpacked;
        if (w->dtype == EW_DTYPE_F32) {
            from = (const float *)(const void *)row;
        } else {
            job->k->dequant_row(w->dtype, row, work->unpacked, kc);
        }
        job->h->row(from, kc, half + r * pairs);
    }
    job->k->gemm_pack(half, pairs, 1, cols, pairs, width, dst);
}

/* Elements [j0, j0 + n) of row k of W, zeros up to `padded`. */
static void row_part(const gemm_job *job, size_t k, size_t j0, size_t n, size_t padded, float *dst)
{
    const ew_mat *w = job->w;
    const uint8_t *row = (const uint8_t *)w->data + k * w->row_bytes;
    if (w->dtype == EW_DTYPE_F32) {
        memcpy(dst, (const float *)(const void *)row + j0, n * sizeof(float));
    } else {
        dequant_part(job, row, j0, n, dst);
    }
    memset(dst + n, 0, (padded - n) * sizeof(float));
}

/* Rows k and k + 1 of W side by side, panel by panel. */
static void pack_w_pairs(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t nb, size_t width)
{
    ew_work *work = ew__work();
    const size_t pairs = (kc + 1) / 2, padded = (nb + width - 1) / width * width;
    float *a = work->unpacked, *b = work->unpacked + EW_GEMM_NC_MAX;
    for (size_t i = 0; i < pairs; i++) {
        row_part(job, k0 + 2 * i, j0, nb, padded, a);
        row_part(job, k0 + 2 * i + (2 * i + 1 < kc), j0, nb, padded, b);
        if (2 * i + 1 == kc) {
            memset(b, 0, padded * sizeof(float));
        }
        for (size_t p = 0; p < padded; p += width) {
            job->h->pairs(a + p, b + p, width, work->pack_b + p * pairs + i * width);
        }
    }
}

static void pack_b_pairs(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t nb, size_t width)
{
    float *dst = ew__work()->pack_b;
    if (!job->w_rows_are_n) {
        pack_w_pairs(job, k0, kc, j0, nb, width);
        return;
    }
    for (size_t p = 0; p < nb; p += width) {
        pack_wt_pairs(job, k0, kc, j0 + p, EW_MIN(width, nb - p), width, dst + p * ((kc + 1) / 2));
    }
}

static void pack_b_block(const gemm_job *job, size_t k0, size_t kc, size_t j0, size_t nb, size_t width)
{
    ew_work *work = ew__work();
    const ew_gemm_args *g = &job->g;
    if (job->w != NULL && !job->w_rows_are_n) {
        unpack_w(job, k0, kc, j0, nb);
    }
    for (size_t p = 0; p < nb; p += width) {
        size_t cols = EW_MIN(width, nb - p);
        float *dst = work->pack_b + p * kc;
        if (job->w == NULL) {
            const float *src = g->b + k0 * g->b_row + (j0 + p) * g->b_col;
            job->k->gemm_pack(src, g->b_col, g->b_row, cols, kc, width, dst);
        } else if (job->w_rows_are_n) {
            pack_wt(job, k0, kc, j0 + p, cols, width, dst);
        } else {
            job->k->gemm_pack(work->unpacked + p, 1, NC, cols, kc, width, dst);
        }
    }
}

static void pack_a_block(const gemm_job *job, size_t i0, size_t mb, size_t k0, size_t kc, size_t width)
{
    ew_work *work = ew__work();
    const ew_gemm_args *g = &job->g;
    for (size_t p = 0; p < mb; p += width) {
        const float *src = g->a + (i0 + p) * g->a_row + k0 * g->a_col;
        job->k->gemm_pack(src, g->a_row, g->a_col, EW_MIN(width, mb - p), kc, width, work->pack_a + p * kc);
    }
    if (job->g.alpha != 1.0f && job->k->gemm_micro != NULL) {
        job->k->scale(job->g.alpha, (mb + width - 1) / width * width * kc, work->pack_a);
    }
}

/* Whether the micro-kernel may read A where it is: not when its rows or columns fall into the same few cache sets. */
static bool a_in_place(const ew_gemm_args *g)
{
    return g->alpha == 1.0f && (g->a_row == 1 || g->a_row % 512 != 0) && (g->a_col == 1 || g->a_col % 512 != 0);
}

typedef struct a_block {
    const float *data; /* first row */
    size_t row, col;   /* strides within a panel */
    size_t panel;      /* distance of panels */
} a_block;

static a_block pick_a(const gemm_job *job, size_t i0, size_t mb, size_t k0, size_t kc)
{
    ew_work *work = ew__work();
    const ew_gemm_args *g = &job->g;
    size_t mr = job->k->mr;
    if (job->h != NULL) {
        const size_t pairs = (kc + 1) / 2;
        for (size_t i = 0; i < mb; i++) {
            job->h->row(g->a + (i0 + i) * g->a_row + k0, kc, work->pack_a + i * pairs);
        }
        return (a_block){work->pack_a, pairs, 1, mr * pairs};
    }
    if (a_in_place(g)) {
        return (a_block){g->a + i0 * g->a_row + k0 * g->a_col, g->a_row, g->a_col, mr * g->a_row};
    }
    pack_a_block(job, i0, mb, k0, kc, mr);
    return (a_block){work->pack_a, 1, mr, mr * kc};
}

static void multiply_edge(const gemm_job *job, size_t m, size_t n, size_t kc, const float *a, const a_block *ab,
                          const float *b, float *c, size_t ldc, bool add)
{
    const ew_kern *k = job->k;
    _Alignas(64) float edge[EW_GEMM_MR_MAX * EW_GEMM_NR_MAX] = {0};
    for (size_t i = 0; i < m && add; i++) {
        memcpy(edge + i * k->nr, c + i * ldc, n * sizeof(float));
    }
    (job->h != NULL ? job->h->micro : k->gemm_micro)(m, kc, a, ab->row, ab->col, b, edge, k->nr, add);
    for (size_t i = 0; i < m; i++) {
        memcpy(c + i * ldc, edge + i * k->nr, n * sizeof(float));
    }
}

/* kc: steps of the micro-kernel. */
static void multiply_block(const gemm_job *job, const a_block *ab, size_t i0, size_t mb, size_t kc, size_t j0,
                           size_t nb, bool add)
{
    ew_work *work = ew__work();
    const ew_gemm_args *g = &job->g;
    const ew_kern *k = job->k;
    const ew_micro_fn micro = job->h != NULL ? job->h->micro : k->gemm_micro;
    for (size_t q = 0; q < nb; q += k->nr) {
        size_t n = EW_MIN((size_t)k->nr, nb - q);
        for (size_t p = 0; p < mb; p += k->mr) {
            size_t m = EW_MIN((size_t)k->mr, mb - p);
            const float *a = ab->data + p / k->mr * ab->panel;
            float *c = g->c + (i0 + p) * g->c_row + j0 + q;
            if (n == k->nr) {
                micro(m, kc, a, ab->row, ab->col, work->pack_b + q * kc, c, g->c_row, add);
            } else {
                multiply_edge(job, m, n, kc, a, ab, work->pack_b + q * kc, c, g->c_row, add);
            }
        }
    }
}

static void clear_block(const ew_gemm_args *g, size_t i0, size_t m, size_t j0, size_t n)
{
    for (size_t i = i0; i < i0 + m; i++) {
        memset(g->c + i * g->c_row + j0, 0, n * sizeof(float));
    }
}

static void task_fast(const gemm_job *job, size_t i0, size_t m, size_t j0, size_t n)
{
    if (!job->g.accumulate && job->g.K == 0) {
        clear_block(&job->g, i0, m, j0, n);
    }
    const size_t step = job->h != NULL ? 2 * KC : KC;
    for (size_t k0 = 0; k0 < job->g.K; k0 += step) {
        const size_t kc = EW_MIN(step, job->g.K - k0), steps = job->h != NULL ? (kc + 1) / 2 : kc;
        if (job->h != NULL) {
            pack_b_pairs(job, k0, kc, j0, n, job->k->nr);
        } else {
            pack_b_block(job, k0, kc, j0, n, job->k->nr);
        }
        for (size_t i = 0; i < m; i += MC) {
            size_t mb = EW_MIN((size_t)MC, m - i);
            a_block ab = pick_a(job, i0 + i, mb, k0, kc);
            multiply_block(job, &ab, i0 + i, mb, steps, j0, n, job->g.accumulate || k0 > 0);
        }
    }
}

static void round_block(const gemm_job *job, float *x, size_t n)
{
    for (size_t i = 0; i < n && job->h != NULL; i++) {
        x[i] = ew_bf16_to_f32(ew_f32_to_bf16(x[i]));
    }
}

/* Panels here are the whole block: work->pack_a[k][mb], work->pack_b[k][n]. */
static void task_ref(const gemm_job *job, size_t i0, size_t m, size_t j0, size_t n)
{
    ew_work *work = ew__work();
    const ew_gemm_args *g = &job->g;
    for (size_t i = 0; i < m; i += MC) {
        size_t mb = EW_MIN((size_t)MC, m - i);
        memset(work->acc_ref, 0, sizeof(work->acc_ref));
        for (size_t k0 = 0; k0 < g->K; k0 += KC) {
            size_t kc = EW_MIN((size_t)KC, g->K - k0);
            pack_b_block(job, k0, kc, j0, n, n);
            pack_a_block(job, i0 + i, mb, k0, kc, mb);
            round_block(job, work->pack_b, kc * n);
            round_block(job, work->pack_a, kc * mb);
            for (size_t kk = 0; kk < kc; kk++) {
                for (size_t r = 0; r < mb; r++) {
                    double a = (double)work->pack_a[kk * mb + r];
                    for (size_t j = 0; j < n; j++) {
                        work->acc_ref[r * NC + j] += a * (double)work->pack_b[kk * n + j];
                    }
                }
            }
        }
        for (size_t r = 0; r < mb; r++) {
            float *c = g->c + (i0 + i + r) * g->c_row + j0;
            for (size_t j = 0; j < n; j++) {
                double v = (double)g->alpha * work->acc_ref[r * NC + j];
                c[j] = (float)(g->accumulate ? (double)c[j] + v : v);
            }
        }
    }
}

static void gemm_tasks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const gemm_job *job = ctx;
    (void)thread;
    for (size_t task = begin; task < end; task++) {
        size_t i0 = task / job->n_tasks_n * job->ms;
        size_t j0 = task % job->n_tasks_n * job->ns;
        size_t m = EW_MIN(job->ms, job->g.M - i0);
        size_t n = EW_MIN(job->ns, job->g.N - j0);
        if (job->k->gemm_micro != NULL) {
            task_fast(job, i0, m, j0, n);
        } else {
            task_ref(job, i0, m, j0, n);
        }
    }
}

static void run(ew_pool *pool, gemm_job *job)
{
    const ew_gemm_args *g = &job->g;
    if (g->M == 0 || g->N == 0 || ew__gemm_thin(pool, job->k, job->w == NULL ? g : NULL)) {
        return;
    }
    if (job->w != NULL && job->w->dtype == EW_DTYPE_F32 && (job->h == NULL || job->k->gemm_micro == NULL)) {
        size_t row = job->w->row_bytes / sizeof(float);
        job->g.b = job->w->data;
        job->g.b_row = job->w_rows_are_n ? 1 : row;
        job->g.b_col = job->w_rows_are_n ? row : 1;
        job->w = NULL;
    }
    choose_tasks(job, ew_pool_threads(pool));
    size_t n_tasks = (g->M + job->ms - 1) / job->ms * job->n_tasks_n;
    ew_par_for(pool, n_tasks, 1, gemm_tasks, job);
}

void ew_gemm(const ew_exec *e, const ew_gemm_args *g)
{
    gemm_job job = {.k = e->kern, .g = *g};
    run(e->pool, &job);
}

void ew__gemm_serial(const ew_kern *k, const ew_gemm_args *g)
{
    gemm_job job = {.k = k, .g = *g};
    run(NULL, &job);
}

void ew_matmul_f32(const ew_exec *e, const ew_mat *w, const float *x, size_t T, float *y, bool accumulate)
{
    gemm_job job = {.k = e->kern, .w = w, .w_rows_are_n = true, .h = e->kern->bf16};
    job.g = (ew_gemm_args){.M = T,
                           .N = w->rows,
                           .K = w->cols,
                           .alpha = 1.0f,
                           .a = x,
                           .a_row = w->cols,
                           .a_col = 1,
                           .c = y,
                           .c_row = w->rows,
                           .accumulate = accumulate};
    run(e->pool, &job);
}

void ew_matmul_dx(const ew_exec *e, const ew_mat *w, const float *dy, size_t T, float *dx, bool accumulate,
                  void *scratch)
{
    (void)scratch;
    gemm_job job = {.k = e->kern, .w = w, .w_rows_are_n = false, .h = e->kern->bf16};
    job.g = (ew_gemm_args){.M = T,
                           .N = w->cols,
                           .K = w->rows,
                           .alpha = 1.0f,
                           .a = dy,
                           .a_row = w->rows,
                           .a_col = 1,
                           .c = dx,
                           .c_row = w->cols,
                           .accumulate = accumulate};
    run(e->pool, &job);
}

size_t ew_matmul_dx_scratch(const ew_mat *w, size_t T)
{
    (void)w;
    (void)T;
    return 0;
}

void ew_matmul_dw(const ew_exec *e, const float *dy, const float *x, size_t T, size_t F, size_t C, float *dw)
{
    ew_gemm_args g = {.M = F,
                      .N = C,
                      .K = T,
                      .alpha = 1.0f,
                      .a = dy,
                      .a_row = 1,
                      .a_col = F,
                      .b = x,
                      .b_row = C,
                      .b_col = 1,
                      .c = dw,
                      .c_row = C,
                      .accumulate = true};
    ew_gemm(e, &g);
}

/* Kernel speeds as CSV: name,shape,isa,threads,seconds,GFLOP/s,GB/s,share of the 8-bit peak,share of the read bandwidth (both
 * measured at the start; the shares mean something for products of quantised types with many tokens, and with one).
 * Arguments: ISA (default: best), threads (default 2), then "weights" for the products of inference alone or types ("q4_k" ...).
 * With one thread the seconds are CPU time: they hold on a busy machine too, the measured limits less so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "probe/peak.h"
#include "sys/pool.h"

static ew_exec e;
static unsigned n_threads;
static ew_rng rng;
static double peak_int8, peak_read;

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(n_threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static float *randoms(size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    EW_ASSERT(p != NULL);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)(ew_rng_f64(&rng) - 0.5);
    }
    return p;
}

/* Runs body until 0.3 s have passed and prints a line. flop and bytes are those of one run. */
#define BENCH(name, shape, flop, bytes, body)                                                                          \
    do {                                                                                                               \
        body;                                                                                                          \
        uint64_t start = now_ns(), runs = 0, took;                                                                     \
        do {                                                                                                           \
            body;                                                                                                      \
            runs++;                                                                                                    \
        } while ((took = now_ns() - start) < 300000000u);                                                              \
        double s = (double)took * 1e-9 / (double)runs;                                                                 \
        printf("%s,%s,%s,%u,%.6g,%.1f,%.1f,%.2f,%.2f\n", name, shape, ew_kern_name(e.kern), n_threads, s,              \
               (double)(flop) / s / 1e9, (double)(bytes) / s / 1e9, (double)(flop) / s / peak_int8,                    \
               (double)(bytes) / s / peak_read);                                                                       \
        fflush(stdout);                                                                                                \
    } while (0)

static void bench_weight(ew_dtype t, size_t F, size_t C)
{
    const size_t tokens[] = {1, 4, 8, 32, 128, 512};
    size_t row = 0, n_copies = 1;
    EW_ASSERT(ew_dtype_row_bytes(t, C, &row));
    /* Enough copies that a single token finds its weights in memory, not in the cache. */
    while (n_copies * F * row < 300u * 1024 * 1024) {
        n_copies++;
    }
    uint8_t *data = ew_aligned(F * row * n_copies);
    float *x = randoms(512 * C), *y = randoms(512 * F), *w = randoms(C);
    EW_ASSERT(data != NULL);
    ew_quant_row(t, w, data, C);
    for (size_t f = 1; f < F * n_copies; f++) {
        memcpy(data + f * row, data, row);
    }
    for (size_t i = 0; i < EW_COUNT(tokens); i++) {
        size_t T = tokens[i], next = 0;
        char shape[64];
        (void)snprintf(shape, sizeof(shape), "%zux%zux%zu", T, F, C);
        ew_mat probe = ew_mat_make(t, F, C, data);
        void *scratch = ew_aligned(ew_matmul_scratch(&probe, T));
        char name[32];
        (void)snprintf(name, sizeof(name), "matmul_%s", ew_dtype_name(t));
        BENCH(name, shape, 2.0 * (double)(T * F * C), F * row, {
            ew_mat m = ew_mat_make(t, F, C, data + next * F * row);
            next = (next + 1) % n_copies;
            ew_matmul(&e, &m, x, T, y, scratch);
        });
        ew_free(scratch);
    }
    ew_free(data), ew_free(x), ew_free(y), ew_free(w);
}

static void bench_training(size_t T, size_t F, size_t C)
{
    char shape[64];
    (void)snprintf(shape, sizeof(shape), "%zux%zux%zu", T, F, C);
    float *w = randoms(F * C), *x = randoms(T * C), *y = randoms(T * F), *dw = randoms(F * C);
    ew_mat m = ew_mat_make(EW_DTYPE_F32, F, C, w);
    double flop = 2.0 * (double)(T * F * C);
    BENCH("matmul_f32", shape, flop, 4 * (F * C + T * C + T * F), ew_matmul_f32(&e, &m, x, T, y, false));
    BENCH("matmul_dx", shape, flop, 4 * (F * C + T * C + T * F), ew_matmul_dx(&e, &m, y, T, x, false, NULL));
    BENCH("matmul_dw", shape, flop, 4 * (F * C + T * C + T * F), ew_matmul_dw(&e, y, x, T, F, C, dw));
    ew_free(w), ew_free(x), ew_free(y), ew_free(dw);
}

static void bench_attention(size_t T, size_t len, size_t H, size_t K, size_t D)
{
    uint32_t seq[65];
    size_t n_seq = T / len;
    char shape[64];
    for (size_t i = 0; i <= n_seq; i++) {
        seq[i] = (uint32_t)(i * len);
    }
    (void)snprintf(shape, sizeof(shape), "%zu/%zu H%zu K%zu D%zu", T, len, H, K, D);
    ew_attention_train_args a = {.seq = seq, .n_seq = n_seq, .H = H, .K = K, .D = D, .scale = 0.2f};
    a.q = randoms(T * H * D), a.k = randoms(T * K * D), a.v = randoms(T * K * D), a.dout = randoms(T * H * D);
    a.out = randoms(T * H * D), a.lse = randoms(T * H), a.dq = randoms(T * H * D);
    a.dk = randoms(T * K * D), a.dv = randoms(T * K * D);
    double flop = 4.0 * 0.5 * (double)(T * len * H * D);
    BENCH("attention_train", shape, flop, 0, ew_attention_train(&e, &a));
    BENCH("attention_train_bwd", shape, 2.5 * flop, 0, ew_attention_train_bwd(&e, &a));
}

static void bench_rows(size_t T, size_t C, size_t F)
{
    char shape[64];
    float *x = randoms(T * C), *y = randoms(T * C), *w = randoms(C), *rstd = randoms(T), *g = randoms(T * F),
          *u = randoms(T * F);
    float *d = randoms(T * F), *dw = randoms(C);
    (void)snprintf(shape, sizeof(shape), "%zux%zu", T, C);
    BENCH("rmsnorm", shape, 4 * T * C, 8 * T * C, ew_rmsnorm(&e, x, w, T, C, 1e-5f, y, rstd));
    BENCH("rmsnorm_bwd", shape, 8 * T * C, 12 * T * C, ew_rmsnorm_bwd(&e, x, w, rstd, y, T, C, g, dw));
    ew_rope_opt o = {.kind = EW_ROPE_NORM, .n_rot = 32, .theta_base = 10000.0f};
    float *table = randoms(T * 32);
    ew_rope_table(&o, T, table);
    BENCH("rope_no_table", shape, 3 * T * C, 8 * T * C, ew_rope(&e, &o, x, T, C / 32, 32, NULL, 0, false));
    o.table = table;
    o.n_table = T;
    BENCH("rope", shape, 3 * T * C, 8 * T * C, ew_rope(&e, &o, x, T, C / 32, 32, NULL, 0, false));
    (void)snprintf(shape, sizeof(shape), "%zux%zu", T, F);
    BENCH("swiglu", shape, 10 * T * F, 12 * T * F, ew_swiglu(&e, g, u, T * F, d));
    BENCH("swiglu_bwd", shape, 15 * T * F, 20 * T * F, ew_swiglu_bwd(&e, g, u, d, T * F, d, u));
    ew_adamw_opt opt = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f};
    BENCH("adamw", shape, 12 * T * F, 28 * T * F, ew_adamw(&e, &opt, g, u, d, d, T * F, 3));
    ew_free(x), ew_free(y), ew_free(w), ew_free(rstd), ew_free(g), ew_free(u), ew_free(d), ew_free(dw), ew_free(table);
}

static void bench_loss(size_t T, size_t V, size_t C)
{
    char shape[64];
    float *w = randoms(V * C), *x = randoms(T * C), *dx = randoms(T * C), *dw = randoms(V * C), *nll = randoms(T);
    int32_t *ids = ew_calloc(T, sizeof(*ids));
    ew_mat head = ew_mat_make(EW_DTYPE_F32, V, C, w);
    void *scratch = ew_aligned(ew_cross_entropy_scratch(&head, T));
    EW_ASSERT(ids != NULL && scratch != NULL);
    (void)snprintf(shape, sizeof(shape), "%zux%zux%zu", T, V, C);
    ew_cross_entropy_args a = {.head = &head, .hidden = x, .targets = ids, .T = T, .scale = 1.0f, .nll = nll};
    a.dhidden = dx, a.dhead = dw, a.scratch = scratch;
    BENCH("cross_entropy", shape, 6.0 * (double)(T * V * C), 0, (void)ew_cross_entropy(&e, &a));
    ew_free(w), ew_free(x), ew_free(dx), ew_free(dw), ew_free(nll), ew_free(ids), ew_free(scratch);
}

static void bench_weights(void)
{
    const ew_dtype types[] = {EW_DTYPE_Q4_0,   EW_DTYPE_Q4_1,   EW_DTYPE_Q5_0, EW_DTYPE_Q5_1, EW_DTYPE_Q8_0,
                              EW_DTYPE_Q2_K,   EW_DTYPE_Q3_K,   EW_DTYPE_Q4_K, EW_DTYPE_Q5_K, EW_DTYPE_Q6_K,
                              EW_DTYPE_IQ4_NL, EW_DTYPE_IQ4_XS, EW_DTYPE_F16,  EW_DTYPE_BF16, EW_DTYPE_F32};
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        if (ew_dtype_get(types[i])->quantize) {
            bench_weight(types[i], 2048, 2048);
        }
    }
    bench_weight(EW_DTYPE_Q4_0, 576, 576);
    bench_weight(EW_DTYPE_Q4_0, 2048, 5632);
    bench_weight(EW_DTYPE_Q8_0, 2048, 5632);
    bench_weight(EW_DTYPE_Q4_K, 5632, 2048);
}

int main(int argc, char **argv)
{
    ew_error err = EW_ERROR_INIT;
    e.kern = ew_kern_get(argc > 1 ? argv[1] : NULL);
    n_threads = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 2;
    if (e.kern == NULL || ew_pool_new(n_threads, &e.pool, &err) != EW_OK) {
        fprintf(stderr, "no such kernels here, or no threads: %s\n", err.msg);
        return 2;
    }
    ew_rng_init(&rng, 1, 0);
    peak_int8 = ew_peak_int8(e.pool);
    if (ew_peak_read(e.pool, &peak_read, &err) != EW_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("name,shape,isa,threads,seconds,GFLOP/s,GB/s,of_int8_peak,of_read\n");
    printf("limits,,%s,%u,,%.1f,%.1f,1,1\n", ew_kern_name(e.kern), n_threads, peak_int8 / 1e9, peak_read / 1e9);
    for (int i = 3; i < argc; i++) {
        ew_dtype t;
        if (strcmp(argv[i], "weights") == 0) {
            bench_weights();
        } else if (ew_dtype_parse(argv[i], &t) && ew_dtype_get(t)->quantize) {
            bench_weight(t, 2048, 2048);
        } else {
            fprintf(stderr, "%s: no type that can be made here\n", argv[i]);
            return 2;
        }
    }
    if (argc > 3) {
        ew_pool_free(&e.pool);
        return 0;
    }
    bench_training(2048, 128, 128);
    bench_training(2048, 384, 128);
    bench_training(2048, 768, 256);
    bench_training(512, 2048, 2048);
    bench_attention(2048, 256, 4, 2, 32);
    bench_attention(2048, 256, 8, 4, 32);
    bench_loss(2048, 4096, 128);
    bench_loss(2048, 4096, 256);
    bench_rows(2048, 256, 768);
    bench_weights();
    ew_pool_free(&e.pool);
    return 0;
}

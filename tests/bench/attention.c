/* Attention of inference as CSV: model shape, cache, queries, positions before them, µs per call of one layer, the same by the
 * plain form (CPU time of one thread), GFLOP/s, GB/s of cache read. Arguments: ISA (default: best), threads (default 1; more:
 * wall time). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kern/kern_int.h"
#include "sys/pool.h"

static ew_exec e;
static unsigned n_threads = 1;

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(n_threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

typedef void attend(const ew_exec *e, const ew_attention_args *a);

/* Several layers, so that a decode finds its cache in memory as it would. The quickest of some passes, in seconds. */
static double seconds(attend *fn, const ew_attention_args *a, size_t layer_bytes, size_t n_layers)
{
    double best = 1e9;
    uint64_t start = now_ns();
    while (now_ns() - start < 200000000u) {
        uint64_t t = now_ns();
        for (size_t i = 0; i < n_layers; i++) {
            ew_attention_args b = *a;
            b.k = (const uint8_t *)a->k + i * layer_bytes;
            b.v = (const uint8_t *)a->v + i * layer_bytes;
            fn(&e, &b);
        }
        double s = (double)(now_ns() - t) * 1e-9 / (double)n_layers;
        best = s < best ? s : best;
    }
    return best;
}

static void bench(const char *name, size_t H, size_t K, size_t D, ew_dtype type, size_t T, size_t pos0)
{
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    size_t n = pos0 + T, n_layers = T < 32 ? 22 : 1, row = 0;
    EW_ASSERT(ew_dtype_row_bytes(type, K * D, &row));
    float *q = ew_aligned(T * H * D * 4), *out = ew_aligned(T * H * D * 4), *x = ew_aligned(K * D * 4);
    uint8_t *kv = ew_aligned(2 * n_layers * n * row);
    EW_ASSERT(q != NULL && out != NULL && x != NULL && kv != NULL);
    for (size_t i = 0; i < T * H * D; i++) {
        q[i] = (float)(ew_rng_f64(&rng) - 0.5);
    }
    for (size_t p = 0; p < 2 * n_layers * n; p++) {
        for (size_t i = 0; i < K * D && p < 64; i++) {
            x[i] = (float)(ew_rng_f64(&rng) - 0.5);
        }
        ew_quant_row(type, x, kv + p * row, K * D);
    }
    ew_attention_args a = {.q = q, .k = kv, .v = kv + n_layers * n * row, .kv_dtype = type, .kv_row = K * D};
    a.T = T, a.pos0 = pos0, a.H = H, a.K = K, a.D = D, a.scale = 0.125f, a.out = out;
    double flop = 4.0 * (double)(H * D) * ((double)T * (double)pos0 + (double)T * (double)(T + 1) / 2);
    double s = seconds(ew_attention, &a, n * row, n_layers), old = seconds(ew__attention_plain, &a, n * row, n_layers);
    printf("%s,%s,%s,%zu,%zu,%.2f,%.2f,%.1f,%.1f\n", name, ew_kern_name(e.kern), ew_dtype_name(type), T, pos0, s * 1e6,
           old * 1e6, flop / s / 1e9, 2.0 * (double)(n * row) / s / 1e9);
    ew_free(q), ew_free(out), ew_free(x), ew_free(kv);
}

int main(int argc, char **argv)
{
    e.kern = ew_kern_get(argc > 1 && argv[1][0] != '\0' ? argv[1] : NULL);
    n_threads = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    if (e.kern == NULL || ew_pool_new(n_threads, &e.pool, NULL) != EW_OK) {
        fprintf(stderr, "no such ISA here, or no threads\n");
        return 2;
    }
    static const struct {
        const char *name;
        size_t H, K, D;
    } shape[] = {{"smollm135", 9, 3, 64}, {"qwen05", 14, 2, 64}, {"tinyllama", 32, 4, 64}, {"gemma2", 8, 4, 256}};
    static const ew_dtype type[] = {EW_DTYPE_F16, EW_DTYPE_Q8_0, EW_DTYPE_F32};
    static const size_t tok[][2] = {{1, 128}, {1, 1024}, {1, 4096},  {4, 512},
                                    {8, 512}, {16, 512}, {128, 384}, {512, 0}};
    printf("shape,isa,cache,T,pos0,us,plain_us,GFLOP/s,GB/s\n");
    for (size_t i = 0; i < EW_COUNT(shape); i++) {
        for (size_t j = 0; j < EW_COUNT(type); j++) {
            for (size_t t = 0; t < EW_COUNT(tok); t++) {
                bench(shape[i].name, shape[i].H, shape[i].K, shape[i].D, type[j], tok[t][0], tok[t][1]);
            }
        }
    }
    ew_pool_free(&e.pool);
    return 0;
}

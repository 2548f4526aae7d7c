/* What the pool makes of a job, as CSV: threads, ns between jobs, ns that the job takes one thread, ns it took (median, 10th
 * percentile), the gain over one thread (median), and the share of a core that all threads burn while nothing is to do. A job is 16
 * blocks. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sys/pool.h"

#define RUNS 8000

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define BLOCKS 16

static volatile double sink[BLOCKS * 8];

static void spin(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const size_t *loops = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        double x = 1;
        for (size_t k = 0; k < *loops; k++) {
            x = x * 0.999 + 1;
        }
        sink[i * 8] = x;
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void bench(unsigned threads, uint64_t gap_ns, size_t loops)
{
    static uint64_t took[RUNS], alone[RUNS];
    ew_pool *p = NULL;
    if (ew_pool_new(threads, &p, NULL) != EW_OK) {
        exit(1);
    }
    for (size_t i = 0; i < RUNS; i++) {
        uint64_t t = clock_ns(CLOCK_MONOTONIC), now;
        while ((now = clock_ns(CLOCK_MONOTONIC)) - t < gap_ns) {
        }
        ew_par_for(p, BLOCKS, 1, spin, &loops);
        took[i] = clock_ns(CLOCK_MONOTONIC) - now;
        if (i % 8 == 0) {
            now = clock_ns(CLOCK_MONOTONIC);
            ew_par_for(NULL, BLOCKS, 1, spin, &loops);
            alone[i / 8] = clock_ns(CLOCK_MONOTONIC) - now;
        }
    }
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    (void)nanosleep(&(struct timespec){0, 200000000}, NULL);
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    qsort(took, RUNS, sizeof(took[0]), by_value);
    qsort(alone, RUNS / 8, sizeof(alone[0]), by_value);
    printf("%u,%llu,%llu,%llu,%llu,%.2f,%.5f\n", threads, (unsigned long long)gap_ns,
           (unsigned long long)alone[RUNS / 16], (unsigned long long)took[RUNS / 2],
           (unsigned long long)took[RUNS / 10], (double)alone[RUNS / 16] / (double)took[RUNS / 2], (double)cpu * 5e-9);
    ew_pool_free(&p);
}

int main(void)
{
    static const uint64_t gap[] = {0, 2000, 10000, 50000};
    static const size_t loops[] = {1, 100, 500, 2500};
    printf("threads,gap_ns,alone_ns,median_ns,p10_ns,gain,idle_cpu\n");
    for (unsigned threads = 1; threads <= 4; threads *= 2) {
        for (size_t i = 0; i < sizeof(gap) / sizeof(gap[0]); i++) {
            for (size_t k = 0; k < sizeof(loops) / sizeof(loops[0]); k++) {
                bench(threads, gap[i], loops[k]);
            }
        }
    }
    return 0;
}

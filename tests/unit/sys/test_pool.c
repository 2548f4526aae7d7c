#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "sys/pool.h"
#include "sys/proc.h"

#define N 10007

struct job {
    unsigned char *hits; /* per index */
    unsigned n_threads;
    atomic_uint in_use[EW_POOL_THREADS_MAX];
    atomic_bool shared; /* two blocks ran at once with one thread number */
    ew_pool *nested;
    atomic_size_t nested_sum;
};

static void mark(size_t begin, size_t end, unsigned thread, void *ctx)
{
    struct job *j = ctx;
    if (thread >= j->n_threads || atomic_fetch_add(&j->in_use[thread], 1) != 0) {
        atomic_store(&j->shared, true);
    }
    for (size_t i = begin; i < end; i++) {
        j->hits[i]++;
    }
    atomic_fetch_sub(&j->in_use[thread], 1);
}

static void check_all(ew_pool *p, size_t n, size_t grain)
{
    struct job *j = calloc(1, sizeof(*j));
    j->hits = calloc(n + 1, 1);
    j->n_threads = ew_pool_threads(p);
    ew_par_for(p, n, grain, mark, j);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(j->hits[i], 1);
    }
    assert_false(j->shared);
    free(j->hits);
    free(j);
}

static void every_index_runs_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 3, 7, 64, 1000, N};
    static const size_t grains[] = {0, 1, 3, 64, N, SIZE_MAX};
    static const unsigned threads[] = {1, 2, 3, 8};
    ew_error err = EW_ERROR_INIT;
    for (size_t t = 0; t < EW_COUNT(threads); t++) {
        EW_AUTO(ew_pool) p = NULL;
        assert_ok(ew_pool_new(threads[t], &p, &err), &err);
        assert_int_equal(ew_pool_threads(p), threads[t]);
        for (size_t i = 0; i < EW_COUNT(sizes); i++) {
            for (size_t g = 0; g < EW_COUNT(grains); g++) {
                check_all(p, sizes[i], grains[g]);
            }
        }
    }
    check_all(NULL, N, 10);
    assert_int_equal(ew_pool_threads(NULL), 1);
}

static void many_short_jobs_lose_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) p = NULL;
    assert_ok(ew_pool_new(4, &p, &err), &err);
    for (int i = 0; i < 20000; i++) {
        struct job j = {.hits = (unsigned char[8]){0}, .n_threads = 4};
        ew_par_for(p, 8, 1, mark, &j);
        for (int k = 0; k < 8; k++) {
            assert_int_equal(j.hits[k], 1);
        }
        assert_false(j.shared);
    }
}

static void inner(size_t begin, size_t end, unsigned thread, void *ctx)
{
    struct job *j = ctx;
    if (atomic_load(&j->in_use[thread]) != 1) {
        atomic_store(&j->shared, true); /* another thread number than the outer block's */
    }
    atomic_fetch_add(&j->nested_sum, end - begin);
}

static void outer(size_t begin, size_t end, unsigned thread, void *ctx)
{
    struct job *j = ctx;
    atomic_fetch_add(&j->in_use[thread], 1);
    for (size_t i = begin; i < end; i++) {
        ew_par_for(j->nested, 10, 3, inner, j);
    }
    atomic_fetch_sub(&j->in_use[thread], 1);
}

static void nested_calls_run_serially_with_the_outer_thread_number(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) p = NULL;
    assert_ok(ew_pool_new(4, &p, &err), &err);
    struct job j = {.nested = p};
    ew_par_for(p, 100, 1, outer, &j);
    assert_int_equal(j.nested_sum, 1000);
    assert_false(j.shared);
}

static void *second_caller(void *ctx)
{
    for (int i = 0; i < 500; i++) {
        check_all(ctx, 100, 7);
    }
    return NULL;
}

static void two_callers_share_a_pool(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) p = NULL;
    pthread_t t;
    assert_ok(ew_pool_new(3, &p, &err), &err);
    assert_int_equal(pthread_create(&t, NULL, second_caller, p), 0);
    (void)second_caller(p);
    assert_int_equal(pthread_join(t, NULL), 0);
}

static void an_idle_pool_uses_no_processor_time(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) p = NULL;
    assert_ok(ew_pool_new(8, &p, &err), &err);
    check_all(p, 1000, 1);
    double before = ew_proc_cpu_s();
    struct timespec ts = {.tv_nsec = 200 * 1000 * 1000}; /* measures idleness: nothing is waited for */
    (void)nanosleep(&ts, NULL);
    assert_true(ew_proc_cpu_s() - before < 0.1);
}

static void a_call_allocates_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) p = NULL;
    unsigned char hits[64] = {0};
    struct job j = {.hits = hits, .n_threads = 2};
    assert_ok(ew_pool_new(2, &p, &err), &err);
    uint64_t before = ew_mem_count();
    ew_par_for(p, 64, 1, mark, &j);
    assert_int_equal(ew_mem_count(), before);
}

static void too_many_threads_are_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_pool *p = NULL;
    assert_fails(EW_EINVAL, ew_pool_new(100000, &p, &err), &err, "at most");
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_once),
        cmocka_unit_test(many_short_jobs_lose_nothing),
        cmocka_unit_test(nested_calls_run_serially_with_the_outer_thread_number),
        cmocka_unit_test(two_callers_share_a_pool),
        cmocka_unit_test(an_idle_pool_uses_no_processor_time),
        cmocka_unit_test(a_call_allocates_nothing),
        cmocka_unit_test(too_many_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

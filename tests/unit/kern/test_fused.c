/* Products of inputs that are made on the way: the same bits as one operation after the other, for every table, kind of weight and number
 * of threads. */
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

static ew_rng rng;

static float *randoms(size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)ew_rng_normal(&rng);
    }
    return p;
}

static float *copy_of(const float *x, size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    assert_non_null(p);
    memcpy(p, x, n * sizeof(float));
    return p;
}

static ew_mat random_mat(ew_dtype t, size_t F, size_t C)
{
    size_t row = 0;
    assert_true(ew_dtype_row_bytes(t, C, &row));
    uint8_t *data = ew_aligned(F * row);
    float *x = randoms(F * C);
    assert_non_null(data);
    for (size_t f = 0; f < F; f++) {
        ew_quant_row(t, x + f * C, data + f * row, C);
    }
    ew_free(x);
    return ew_mat_make(t, F, C, data);
}

typedef struct fixture {
    ew_mat w[2];
    const ew_mat *wp[2];
    size_t T, C, n;
    float *x, *add, *norm; /* inputs */
    void *scratch;
} fixture;

static void separate(const ew_exec *e, const fixture *f, ew_input_kind kind, bool add, float *x, float *in,
                     float *const *y)
{
    if (kind == EW_INPUT_SWIGLU) {
        ew_swiglu(e, x, f->add, f->T * f->C, in);
    } else if (kind == EW_INPUT_RMSNORM) {
        if (add) {
            ew_vec_add(e, x, f->add, f->T * f->C);
        }
        ew_rmsnorm(e, x, f->norm, f->T, f->C, 1e-5F, in, NULL);
    } else {
        memcpy(in, x, f->T * f->C * sizeof(float));
    }
    ew_matmul_multi(e, f->wp, f->n, in, f->T, y, f->scratch);
}

static void compare(const fixture *f, ew_exec e, ew_input_kind kind, bool add, bool keep)
{
    const size_t n = f->T * f->C, n_y = f->T * f->w[0].rows;
    float *x[2], *in[2], *y[2][2];
    for (int i = 0; i < 2; i++) {
        x[i] = copy_of(f->x, n), in[i] = copy_of(f->x, n);
        y[i][0] = randoms(n_y), y[i][1] = randoms(n_y);
    }
    separate(&e, f, kind, add, x[0], in[0], y[0]);
    for (unsigned threads = 1; threads <= 4; threads += threads) {
        assert_int_equal(ew_pool_new(threads, &e.pool, NULL), EW_OK);
        memcpy(x[1], f->x, n * sizeof(float));
        ew_input input = {.kind = kind, .x = x[1], .w = f->norm, .eps = 1e-5F, .out = in[1], .keep = keep};
        input.add = add || kind == EW_INPUT_SWIGLU ? f->add : NULL;
        ew_matmul_input(&e, &input, f->wp, f->n, f->T, y[1], f->scratch);
        for (size_t i = 0; i < f->n; i++) {
            assert_memory_equal(y[0][i], y[1][i], n_y * sizeof(float));
        }
        assert_memory_equal(x[0], x[1], n * sizeof(float));
        if (keep && kind != EW_INPUT_ROWS) {
            assert_memory_equal(in[0], in[1], n * sizeof(float));
        }
        ew_pool_free(&e.pool);
    }
    for (int i = 0; i < 2; i++) {
        ew_free(x[i]), ew_free(in[i]), ew_free(y[i][0]), ew_free(y[i][1]);
    }
}

static void the_bits_are_those_of_the_operations_alone(void **state)
{
    (void)state;
    static const ew_dtype types[][2] = {{EW_DTYPE_Q4_0, EW_DTYPE_Q8_0},
                                        {EW_DTYPE_Q8_0, EW_DTYPE_Q8_0},
                                        {EW_DTYPE_F16, EW_DTYPE_F16},
                                        {EW_DTYPE_Q8_0, EW_DTYPE_F32}};
    static const size_t tokens[] = {1, 2, 5, 40};
    ew_rng_init(&rng, 5, 0);
    for (size_t k = 0; k < EW_COUNT(types) * EW_COUNT(tokens); k++) {
        fixture f = {.T = tokens[k % EW_COUNT(tokens)], .C = k % 3 == 0 ? 96 : 256, .n = 1 + k % 2};
        size_t size = 64;
        for (size_t i = 0; i < 2; i++) {
            f.w[i] = random_mat(types[k / EW_COUNT(tokens)][i], 70, f.C);
            f.wp[i] = &f.w[i];
            size = EW_MAX(size, ew_matmul_scratch(&f.w[i], f.T));
        }
        f.x = randoms(f.T * f.C), f.add = randoms(f.T * f.C), f.norm = randoms(f.C), f.scratch = ew_aligned(size);
        assert_non_null(f.scratch);
        for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
            const ew_exec e = {ew_kern_at(i), NULL};
            compare(&f, e, EW_INPUT_ROWS, false, false);
            compare(&f, e, EW_INPUT_RMSNORM, false, false);
            compare(&f, e, EW_INPUT_RMSNORM, true, false);
            compare(&f, e, EW_INPUT_RMSNORM, true, true);
            compare(&f, e, EW_INPUT_SWIGLU, true, false);
            compare(&f, e, EW_INPUT_SWIGLU, true, true);
        }
        ew_free((void *)(uintptr_t)f.w[0].data), ew_free((void *)(uintptr_t)f.w[1].data);
        ew_free(f.x), ew_free(f.add), ew_free(f.norm), ew_free(f.scratch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_are_those_of_the_operations_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

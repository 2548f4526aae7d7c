/* What tuning multiplies by: products with weights in BF16, products of few columns, the loss of a frozen head. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

static ew_pool *pool;
static ew_rng rng;

static float *randoms(size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)(ew_rng_f64(&rng) - 0.5);
    }
    return p;
}

static double worst(const float *a, const float *b, size_t n)
{
    double d = 0;
    for (size_t i = 0; i < n; i++) {
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
    }
    return d;
}

static float rounded(float x)
{
    return ew_bf16_to_f32(ew_f32_to_bf16(x));
}

/* Rows of a random weight of type t, and the same as floats. */
static ew_mat weight(ew_dtype t, size_t F, size_t C, uint8_t **ret_data, float **ret_floats)
{
    size_t row = 0;
    float *f = randoms(F * C);
    assert_true(ew_dtype_row_bytes(t, C, &row));
    uint8_t *data = ew_aligned(F * row);
    assert_non_null(data);
    for (size_t i = 0; i < F; i++) {
        ew_quant_row(t, f + i * C, data + i * row, C);
        ew_dequant_row(t, data + i * row, f + i * C, C);
    }
    *ret_data = data;
    *ret_floats = f;
    return ew_mat_make(t, F, C, data);
}

static void bf16_products_are_those_of_rounded_factors(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 64, 96}, {7, 33, 96}, {65, 96, 576}, {150, 288, 1120}, {500, 40, 64}};
    static const ew_dtype types[] = {EW_DTYPE_F32, EW_DTYPE_F16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0};
    const ew_kern *const kerns[] = {ew_kern_bf16(ew_kern_get("ref")), ew_kern_bf16(ew_kern_get(NULL))};
    assert_string_equal(ew_kern_name(kerns[0]), "ref_bf16");
    for (size_t s = 0; s < EW_COUNT(shapes); s++) {
        for (size_t d = 0; d < EW_COUNT(types); d++) {
            const size_t T = shapes[s][0], F = shapes[s][1], C = shapes[s][2];
            uint8_t *data;
            float *w, *x = randoms(T * C), *dy = randoms(T * F), *y = randoms(T * F), *dx = randoms(T * C);
            float *start = randoms(T * C);
            const ew_mat m = weight(types[d], F, C, &data, &w);
            for (size_t k = 0; k < EW_COUNT(kerns); k++) {
                const ew_exec e = {kerns[k], pool};
                const bool halves = strstr(ew_kern_name(kerns[k]), "bf16") != NULL;
                ew_matmul_f32(&e, &m, x, T, y, false);
                memcpy(dx, start, T * C * sizeof(float));
                ew_matmul_dx(&e, &m, dy, T, dx, true, NULL);
                for (size_t t = 0; t < T; t += 1 + T / 5) {
                    for (size_t f = 0; f < F; f += 3) {
                        double sum = 0;
                        for (size_t c = 0; c < C; c++) {
                            const float a = x[t * C + c], b = w[f * C + c];
                            sum += halves ? (double)rounded(a) * (double)rounded(b) : (double)a * (double)b;
                        }
                        assert_true(fabs(sum - (double)y[t * F + f]) < 2e-5);
                    }
                    for (size_t c = 0; c < C; c += 5) {
                        double sum = (double)start[t * C + c];
                        for (size_t f = 0; f < F; f++) {
                            const float a = dy[t * F + f], b = w[f * C + c];
                            sum += halves ? (double)rounded(a) * (double)rounded(b) : (double)a * (double)b;
                        }
                        assert_true(fabs(sum - (double)dx[t * C + c]) < 2e-5);
                    }
                }
            }
            ew_free(data), ew_free(w), ew_free(x), ew_free(dy), ew_free(y), ew_free(dx), ew_free(start);
        }
    }
}

/* odd summed lengths happen where weights are floats */
static void bf16_products_take_odd_lengths(void **state)
{
    (void)state;
    enum {
        T = 13,
        F = 37,
        C = 51
    };
    float *w = randoms(F * C), *x = randoms(T * C), *dy = randoms(T * F);
    float *y[2] = {randoms(T * F), randoms(T * F)}, *dx[2] = {randoms(T * C), randoms(T * C)};
    const ew_mat m = ew_mat_make(EW_DTYPE_F32, F, C, w);
    for (int i = 0; i < 2; i++) {
        const ew_exec e = {ew_kern_bf16(ew_kern_get(i == 0 ? "ref" : NULL)), pool};
        ew_matmul_f32(&e, &m, x, T, y[i], false);
        ew_matmul_dx(&e, &m, dy, T, dx[i], false, NULL);
    }
    const double least = strstr(ew_kern_name(ew_kern_bf16(ew_kern_get(NULL))), "bf16") != NULL ? 1e-5 : 2e-2;
    assert_true(worst(y[0], y[1], T * F) < least);
    assert_true(worst(dx[0], dx[1], T * C) < least);
    ew_free(w), ew_free(x), ew_free(dy);
    for (int i = 0; i < 2; i++) {
        ew_free(y[i]), ew_free(dx[i]);
    }
}

static void products_of_few_columns_are_right_in_every_layout(void **state)
{
    (void)state;
    enum {
        M = 150,
        K = 200,
        LD = 211
    };
    float *a = randoms(LD * LD), *b = randoms(LD * LD), *start = randoms(M * LD), *c = randoms(M * LD),
          *again = randoms(M * LD);
    const size_t widths[] = {1, 3, 8, 16, 17};
    for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
        for (int layout = 0; layout < 8; layout++) {
            for (size_t n = 0; n < EW_COUNT(widths); n++) {
                const bool at = (layout & 1) != 0, bt = (layout & 2) != 0, add = (layout & 4) != 0;
                ew_gemm_args g = {M, widths[n],   K,           0.5F, a,  at ? 1 : LD, at ? LD : 1,
                                  b, bt ? 1 : LD, bt ? LD : 1, c,    LD, add};
                const ew_exec e = {ew_kern_at(k), pool}, alone = {ew_kern_at(k), NULL};
                memcpy(c, start, M * LD * sizeof(float));
                memcpy(again, start, M * LD * sizeof(float));
                ew_gemm(&e, &g);
                g.c = again;
                ew_gemm(&alone, &g);
                assert_memory_equal(c, again, M * LD * sizeof(float));
                for (size_t i = 0; i < M; i++) {
                    for (size_t j = 0; j < LD; j++) {
                        double sum = 0;
                        for (size_t l = 0; l < K && j < widths[n]; l++) {
                            sum +=
                                0.5 * (double)a[at ? l * LD + i : i * LD + l] * (double)b[bt ? j * LD + l : l * LD + j];
                        }
                        sum += add || j >= widths[n] ? (double)start[i * LD + j] : 0;
                        assert_true(fabs(sum - (double)c[i * LD + j]) < 2e-5);
                    }
                }
            }
        }
    }
    ew_free(a), ew_free(b), ew_free(start), ew_free(c), ew_free(again);
}

/* The same with the head's own gradient wanted goes another way. */
static void the_loss_of_a_frozen_head_is_that_of_a_head_that_learns(void **state)
{
    (void)state;
    enum {
        V = 2500,
        C = 64,
        T = 600
    };
    float *hidden = randoms(T * C), *bias = randoms(V), *w = randoms(V * C), *row_weight = randoms(T);
    float *dhead = randoms(V * C), *nll[2] = {randoms(T), randoms(T)}, *dh[2] = {randoms(T * C), randoms(T * C)};
    int32_t *target = ew_malloc(T, sizeof(*target));
    for (size_t t = 0; t < T; t++) {
        target[t] = (int32_t)ew_rng_below(&rng, V);
        row_weight[t] = t % 7 == 3 ? 0 : 1 + row_weight[t];
        for (size_t c = 0; c < C; c++) {
            hidden[t * C + c] *= (float)(1 + t % 30);
        }
    }
    const ew_mat m = ew_mat_make(EW_DTYPE_F32, V, C, w);
    void *scratch = ew_aligned(ew_cross_entropy_scratch(&m, T));
    for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
        for (int capped = 0; capped < 2; capped++) {
            const ew_exec e = {ew_kern_at(k), pool};
            double loss[3];
            for (int i = 0; i < 3; i++) {
                loss[i] = ew_cross_entropy(&e, &(ew_cross_entropy_args){.head = &m,
                                                                        .bias = capped ? bias : NULL,
                                                                        .softcap = capped ? 5 : 0,
                                                                        .hidden = hidden,
                                                                        .targets = target,
                                                                        .weight = row_weight,
                                                                        .T = T,
                                                                        .scale = 1,
                                                                        .nll = nll[i != 0],
                                                                        .dhidden = i < 2 ? dh[i] : NULL,
                                                                        .dhead = i == 0 ? dhead : NULL,
                                                                        .scratch = scratch});
            }
            assert_true(fabs(loss[0] - loss[1]) < 1e-6 * fabs(loss[0]));
            assert_true(fabs(loss[1] - loss[2]) < 1e-8 * fabs(loss[0]));
            assert_true(worst(nll[0], nll[1], T) < 1e-5);
            assert_true(worst(dh[0], dh[1], T * C) < 1e-5);
        }
    }
    ew_free(hidden), ew_free(bias), ew_free(w), ew_free(row_weight), ew_free(dhead), ew_free(target), ew_free(scratch);
    for (int i = 0; i < 2; i++) {
        ew_free(nll[i]), ew_free(dh[i]);
    }
}

static int setup(void **state)
{
    (void)state;
    ew_rng_init(&rng, 11, 0);
    return ew_pool_new(2, &pool, NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    ew_pool_free(&pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_products_are_those_of_rounded_factors),
        cmocka_unit_test(bf16_products_take_odd_lengths),
        cmocka_unit_test(products_of_few_columns_are_right_in_every_layout),
        cmocka_unit_test(the_loss_of_a_frozen_head_is_that_of_a_head_that_learns),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

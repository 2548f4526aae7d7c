/* What each quantised type loses, and values that are no weights. */
#include <math.h>
#include <string.h>

#include "test.h"

#include "base/rng.h"
#include "kern/kern.h"

enum {
    ROWS = 64,
    COLS = 1024
};

/* The budget of each type for normal weights of variance 1: the root mean square of (read back - written). Stated in dtype.h. */
static const struct {
    ew_dtype type;
    double rmse;
} budget[] = {
    {EW_DTYPE_F16, 0.00025},   {EW_DTYPE_BF16, 0.0020},   {EW_DTYPE_Q8_0, 0.0056}, {EW_DTYPE_Q6_K, 0.0183},
    {EW_DTYPE_Q5_K, 0.0370},   {EW_DTYPE_Q5_1, 0.0390},   {EW_DTYPE_Q5_0, 0.0440}, {EW_DTYPE_Q4_K, 0.0735},
    {EW_DTYPE_IQ4_NL, 0.0785}, {EW_DTYPE_IQ4_XS, 0.0790}, {EW_DTYPE_Q4_1, 0.0805}, {EW_DTYPE_Q4_0, 0.0885},
    {EW_DTYPE_Q3_K, 0.1550},   {EW_DTYPE_Q2_K, 0.3050},
};

static float x[ROWS * COLS], v[COLS];
_Alignas(16) static unsigned char q[COLS * 4];

static void normals(float scale)
{
    ew_rng rng;
    ew_rng_init(&rng, 5, 0);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        x[i] = scale * (float)ew_rng_normal(&rng);
    }
    for (size_t i = 0; i < COLS; i++) {
        v[i] = (float)ew_rng_normal(&rng);
    }
}

static double dot(const float *a, const float *b)
{
    double s = 0.0;
    for (size_t i = 0; i < COLS; i++) {
        s += (double)a[i] * (double)b[i];
    }
    return s;
}

static void each_type_stays_within_its_error_budget(void **state)
{
    (void)state;
    static const float scales[] = {1.0f, 0.02f, 300.0f};
    for (size_t k = 0; k < EW_COUNT(scales); k++) {
        normals(scales[k]);
        for (size_t t = 0; t < EW_COUNT(budget); t++) {
            double sum = 0.0, dots = 0.0, norm = sqrt(dot(v, v)) * (double)scales[k];
            for (size_t r = 0; r < ROWS; r++) {
                float y[COLS];
                ew_quant_row(budget[t].type, x + r * COLS, q, COLS);
                ew_dequant_row(budget[t].type, q, y, COLS);
                double lost = (dot(y, v) - dot(x + r * COLS, v)) / norm;
                dots += lost * lost;
                for (size_t i = 0; i < COLS; i++) {
                    double d = ((double)y[i] - (double)x[r * COLS + i]) / (double)scales[k];
                    sum += d * d;
                }
            }
            double rmse = sqrt(sum / (ROWS * COLS)), dot_rmse = sqrt(dots / ROWS);
            /* A dot product with a vector of length 1 loses as much again if the errors are independent. 64 rows: +-25 %. */
            if (rmse > budget[t].rmse || rmse < budget[t].rmse * 0.8 || dot_rmse > budget[t].rmse * 1.25) {
                fail_msg("%s loses %.5f of the weights and %.5f of a dot product", ew_dtype_name(budget[t].type), rmse,
                         dot_rmse);
            }
        }
    }
}

static void every_type_that_can_be_computed_can_be_made_and_has_a_budget(void **state)
{
    (void)state;
    for (int t = 0; t < 64; t++) {
        const ew_dtype_info *info = ew_dtype_get((ew_dtype)t);
        bool known = false;
        for (size_t i = 0; i < EW_COUNT(budget); i++) {
            known = known || budget[i].type == (ew_dtype)t;
        }
        if (info == NULL) {
            assert_false(known);
            continue;
        }
        ew_dtype back;
        assert_true(ew_dtype_parse(info->name, &back) && back == (ew_dtype)t);
        assert_int_equal(info->compute, known || t == EW_DTYPE_F32);
        assert_int_equal(info->quantize, info->compute);
    }
    assert_null(ew_dtype_get((ew_dtype)-1));
}

static void a_value_that_is_no_number_leaves_the_others_alone(void **state)
{
    (void)state;
    normals(1.0f);
    for (size_t t = 0; t < EW_COUNT(budget); t++) {
        const ew_dtype_info *info = ew_dtype_get(budget[t].type);
        if (info->block_elems == 1) {
            continue;
        }
        float y[COLS];
        x[0] = NAN, x[300] = -NAN;
        ew_quant_row(budget[t].type, x, q, COLS);
        ew_dequant_row(budget[t].type, q, y, COLS);
        for (size_t i = 0; i < COLS; i++) {
            if (i == 0 || i == 300 ? fabsf(y[i]) > 1.0f : !(fabsf(y[i] - x[i]) < 1.2f)) {
                fail_msg("%s: element %zu is %g, was %g", info->name, i, (double)y[i], (double)x[i]);
            }
        }
    }
}

/* Under the sanitizers: whatever the bits of the floats, no conversion is undefined. */
static void any_bits_are_quantised_without_harm(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 6, 0);
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, -1e-40f, 0.0f, -0.0f, 65504.0f};
    for (size_t i = 0; i < COLS * 16; i++) {
        uint32_t bits = (uint32_t)ew_rng_u64(&rng);
        memcpy(&x[i], &bits, sizeof(bits));
    }
    for (size_t i = COLS * 16; i < COLS * 32; i++) {
        x[i] = odd[ew_rng_below(&rng, EW_COUNT(odd))];
    }
    for (size_t t = 0; t < EW_COUNT(budget); t++) {
        for (size_t r = 0; r < 32; r++) {
            float y[COLS];
            ew_quant_row(budget[t].type, x + r * COLS, q, COLS);
            ew_dequant_row(budget[t].type, q, y, COLS);
        }
    }
}

/* Every bit pattern of a block is a valid block. */
static void any_bytes_are_dequantised_without_harm(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 7, 0);
    for (size_t r = 0; r < 200; r++) {
        for (size_t i = 0; i < sizeof(q); i++) {
            q[i] = (unsigned char)ew_rng_u64(&rng);
        }
        for (size_t t = 0; t < EW_COUNT(budget); t++) {
            float y[COLS];
            ew_dequant_row(budget[t].type, q, y, COLS);
        }
    }
}

/* dst[M, N] = a[M, K] b[K, N] with any strides of b, in double. */
static void plain_product(const float *a, const float *b, size_t b_row, size_t b_col, size_t M, size_t N, size_t K,
                          float *dst)
{
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < N; j++) {
            double s = 0.0;
            for (size_t k = 0; k < K; k++) {
                s += (double)a[i * K + k] * (double)b[k * b_row + j * b_col];
            }
            dst[i * N + j] = (float)s;
        }
    }
}

static void close_to(const char *what, ew_dtype t, const float *got, const float *want, size_t n, float bound)
{
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(got[i] - want[i]) <= bound)) {
            fail_msg("%s of %s: element %zu is %g, not %g", what, ew_dtype_name(t), i, (double)got[i], (double)want[i]);
        }
    }
}

/* Training's products, whose tiles do not end where blocks of 256 end. */
static void float_products_take_every_type_in_every_table(void **state)
{
    (void)state;
    enum {
        F = 45,
        C = 768,
        T_MAX = 9
    };
    static float w[F * C], y[T_MAX * F], y2[T_MAX * F], dx[T_MAX * C], dx2[T_MAX * C];
    _Alignas(64) static unsigned char bytes[F * C * 4];
    const size_t tokens[] = {1, 2, T_MAX};
    normals(1.0f);
    for (size_t t = 0; t < EW_COUNT(budget); t++) {
        size_t row = 0;
        assert_true(ew_dtype_row_bytes(budget[t].type, C, &row));
        ew_quant_row(budget[t].type, x, bytes, (size_t)F * C);
        ew_dequant_row(budget[t].type, bytes, w, (size_t)F * C);
        ew_mat m = ew_mat_make(budget[t].type, F, C, bytes);
        const float *in = x + F * C, *dy = x + (F + T_MAX) * C;
        for (size_t n = 0; n < EW_COUNT(tokens); n++) {
            size_t T = tokens[n];
            plain_product(in, w, 1, C, T, F, C, y2);
            plain_product(dy, w, C, 1, T, C, F, dx2);
            for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
                ew_exec e = {.kern = ew_kern_at(i)};
                ew_matmul_f32(&e, &m, in, T, y, false);
                ew_matmul_dx(&e, &m, dy, T, dx, false, NULL);
                close_to("product", budget[t].type, y, y2, T * F, 2e-3f);
                close_to("gradient", budget[t].type, dx, dx2, T * C, 2e-4f);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_products_take_every_type_in_every_table),
        cmocka_unit_test(each_type_stays_within_its_error_budget),
        cmocka_unit_test(every_type_that_can_be_computed_can_be_made_and_has_a_budget),
        cmocka_unit_test(a_value_that_is_no_number_leaves_the_others_alone),
        cmocka_unit_test(any_bits_are_quantised_without_harm),
        cmocka_unit_test(any_bytes_are_dequantised_without_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <math.h>
#include <string.h>

#include "test.h"

#include "base/rng.h"
#include "kern/kern.h"

static void every_f16_value_survives_f32(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ew_f16_to_f32((uint16_t)h);
        uint16_t back = ew_f32_to_f16(f);
        if (f != f) {
            assert_true((back & 0x7c00) == 0x7c00 && (back & 0x3ff) != 0);
        } else {
            assert_int_equal(back, h);
        }
    }
}

static void f32_rounds_to_the_nearest_even_f16(void **state)
{
    (void)state;
    assert_int_equal(ew_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(ew_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(ew_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(ew_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(ew_f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
    assert_int_equal(ew_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(ew_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(ew_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(ew_f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
}

static void row_bytes_refuses_what_does_not_fit(void **state)
{
    (void)state;
    size_t n = 77;
    assert_true(ew_dtype_row_bytes(EW_DTYPE_Q8_0, 64, &n) && n == 68);
    assert_true(ew_dtype_row_bytes(EW_DTYPE_Q4_0, 32, &n) && n == 18);
    assert_false(ew_dtype_row_bytes(EW_DTYPE_Q4_0, 33, &n));
    assert_false(ew_dtype_row_bytes((ew_dtype)99, 32, &n));
    assert_false(ew_dtype_row_bytes(EW_DTYPE_F32, SIZE_MAX / 2, &n));
    ew_dtype t = EW_DTYPE_F32;
    assert_true(ew_dtype_parse("q8_0", &t) && t == EW_DTYPE_Q8_0);
    assert_false(ew_dtype_parse("q9", &t));
}

/* Q8_0: half a level (max/127) and the rounding of the scale; Q4_0: one level (max/8) at most, where the far end is cut. */
static void dequantised_rows_stay_within_the_bound_of_the_type(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 3, 0);
    for (int i = 0; i < 2000; i++) {
        float x[32], y[32], max = 0;
        unsigned char q[34];
        for (int j = 0; j < 32; j++) {
            x[j] = (float)(ew_rng_normal(&rng) * exp(ew_rng_normal(&rng)));
            max = fmaxf(max, fabsf(x[j]));
        }
        ew_quant_row(EW_DTYPE_Q8_0, x, q, 32);
        ew_dequant_row(EW_DTYPE_Q8_0, q, y, 32);
        for (int j = 0; j < 32; j++) {
            assert_true(fabsf(x[j] - y[j]) <= max / 127.0f * 0.5f + max * 0x1p-11f + 1e-7f);
        }
        ew_quant_row(EW_DTYPE_Q4_0, x, q, 32);
        ew_dequant_row(EW_DTYPE_Q4_0, q, y, 32);
        for (int j = 0; j < 32; j++) {
            assert_true(fabsf(x[j] - y[j]) <= max / 8.0f * 1.001f);
        }
    }
}

static void values_that_are_no_numbers_do_not_reach_an_integer(void **state)
{
    (void)state;
    float x[32] = {NAN, INFINITY, -INFINITY, 1};
    unsigned char q[34];
    float y[32];
    ew_quant_row(EW_DTYPE_Q8_0, x, q, 32);
    ew_dequant_row(EW_DTYPE_Q8_0, q, y, 32);
    ew_quant_row(EW_DTYPE_Q4_0, x, q, 32);
    ew_dequant_row(EW_DTYPE_Q4_0, q, y, 32);
}

static void tables_are_found_by_name(void **state)
{
    (void)state;
    assert_non_null(ew_kern_get(NULL));
    assert_string_equal(ew_kern_name(ew_kern_get("ref")), "ref");
    assert_ptr_equal(ew_kern_at(0), ew_kern_get("ref"));
    assert_null(ew_kern_get("mmx"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_value_survives_f32),
        cmocka_unit_test(f32_rounds_to_the_nearest_even_f16),
        cmocka_unit_test(row_bytes_refuses_what_does_not_fit),
        cmocka_unit_test(dequantised_rows_stay_within_the_bound_of_the_type),
        cmocka_unit_test(values_that_are_no_numbers_do_not_reach_an_integer),
        cmocka_unit_test(tables_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

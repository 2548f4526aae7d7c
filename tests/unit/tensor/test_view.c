#include <string.h>

#include "test.h"

#include "tensor/view.h"

static void bytes_and_matrix_follow_the_shape(void **state)
{
    (void)state;
    ew_tensor_view t = {.name = "w", .dtype = EW_DTYPE_Q8_0, .n_dims = 2, .dims = {64, 3, 1, 1}};
    size_t n = 0;
    ew_mat m;
    char text[64];
    assert_true(ew_tensor_elems(&t, &n) && n == 192);
    assert_true(ew_tensor_bytes(&t, &n) && n == 3 * 68);
    assert_true(ew_tensor_mat(&t, &m) && m.rows == 3 && m.cols == 64 && m.row_bytes == 68);
    assert_string_equal(ew_tensor_describe(&t, text, sizeof(text)), "Q8_0 [64, 3]");
    assert_string_equal(ew_tensor_describe(&t, text, 8), "Q8_0 [6");
}

static void impossible_shapes_are_refused(void **state)
{
    (void)state;
    size_t n = 5;
    ew_mat m;
    ew_tensor_view odd = {.dtype = EW_DTYPE_Q4_0, .n_dims = 1, .dims = {33, 1, 1, 1}};
    ew_tensor_view huge = {.dtype = EW_DTYPE_F32, .n_dims = 3, .dims = {1u << 31, 1u << 31, 1u << 31, 1}};
    ew_tensor_view none = {.dtype = EW_DTYPE_F32, .n_dims = 2, .dims = {4, 0, 1, 1}};
    ew_tensor_view k = {.dtype = EW_DTYPE_IQ2_XXS, .n_dims = 1, .dims = {256, 1, 1, 1}};
    assert_false(ew_tensor_bytes(&odd, &n));
    assert_false(ew_tensor_bytes(&huge, &n));
    assert_false(ew_tensor_bytes(&none, &n));
    assert_true(ew_tensor_bytes(&k, &n) && n == 66);
    assert_false(ew_tensor_mat(&k, &m));
    assert_false(ew_tensor_mat(&none, &m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_matrix_follow_the_shape),
        cmocka_unit_test(impossible_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The row conversions against gguf-py's, byte for byte (README.md). */
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "kern/kern.h"
#include "sys/file.h"

enum {
    ROWS = 64,
    COLS = 64
};

static ew_buf golden;

static int load(void **state)
{
    ew_error err = EW_ERROR_INIT;
    (void)state;
    return ew_file_read(EW_TEST_SOURCE_DIR "/tests/golden/kern/quant.bin", 1 << 20, &golden, &err) == EW_OK ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    ew_buf_release(&golden);
    return 0;
}

static void rows_quantise_to_the_bytes_of_gguf_py(void **state)
{
    (void)state;
    const ew_dtype types[] = {EW_DTYPE_F16, EW_DTYPE_BF16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0};
    static float x[ROWS * COLS];
    const char *want = golden.data + sizeof(x);
    assert_true(golden.size > sizeof(x));
    memcpy(x, golden.data, sizeof(x));
    for (size_t t = 0; t < EW_COUNT(types); t++) {
        unsigned char got[COLS * 4];
        size_t bytes = 0;
        assert_true(ew_dtype_row_bytes(types[t], COLS, &bytes));
        for (size_t r = 0; r < ROWS; r++, want += bytes) {
            assert_true((size_t)(want - golden.data) + bytes <= golden.size);
            ew_quant_row(types[t], x + r * COLS, got, COLS);
            if (memcmp(got, want, bytes) != 0) {
                fail_msg("row %zu as %s differs", r, ew_dtype_name(types[t]));
            }
        }
    }
    assert_ptr_equal(want, golden.data + golden.size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_quantise_to_the_bytes_of_gguf_py)};
    return cmocka_run_group_tests(tests, load, unload);
}

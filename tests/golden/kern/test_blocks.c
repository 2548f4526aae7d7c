/* Every quantised type against llama.cpp, byte for byte in both directions (README.md). */
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "kern/kern.h"
#include "sys/file.h"

enum {
    ROWS = 24,
    COLS = 512
};

static const ew_dtype types[] = {EW_DTYPE_Q4_0, EW_DTYPE_Q4_1,   EW_DTYPE_Q5_0, EW_DTYPE_Q5_1,
                                 EW_DTYPE_Q8_0, EW_DTYPE_IQ4_NL, EW_DTYPE_Q2_K, EW_DTYPE_Q3_K,
                                 EW_DTYPE_Q4_K, EW_DTYPE_Q5_K,   EW_DTYPE_Q6_K, EW_DTYPE_IQ4_XS};
static ew_buf golden;
static size_t at;

static int load(void **state)
{
    ew_error err = EW_ERROR_INIT;
    (void)state;
    return ew_file_read(EW_TEST_SOURCE_DIR "/tests/golden/kern/blocks.bin", 1 << 20, &golden, &err) == EW_OK ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    ew_buf_release(&golden);
    return 0;
}

static const void *next(size_t bytes)
{
    assert_true(at + bytes <= golden.size);
    const void *p = golden.data + at;
    at += bytes;
    return p;
}

static void rows_quantise_to_the_bytes_of_llama_cpp(void **state)
{
    (void)state;
    static float x[ROWS * COLS];
    at = 0;
    memcpy(x, next(sizeof(x)), sizeof(x));
    for (size_t t = 0; t < EW_COUNT(types); t++) {
        _Alignas(2) unsigned char got[COLS * 2];
        size_t bytes = 0;
        assert_true(ew_dtype_row_bytes(types[t], COLS, &bytes) && bytes <= sizeof(got));
        for (size_t r = 0; r < ROWS; r++) {
            const void *want = next(bytes);
            ew_quant_row(types[t], x + r * COLS, got, COLS);
            /* Where a step is subnormal its inverse is infinite: ggml converts that to an integer, which C leaves open. The
             * step is 0 as f16 anyhow. */
            float y[COLS];
            ew_dequant_row(types[t], got, y, COLS);
            if (r == ROWS - 1) {
                for (size_t i = 0; i < COLS; i++) {
                    assert_true(y[i] == 0.0f);
                }
            } else if (memcmp(got, want, bytes) != 0) {
                fail_msg("row %zu as %s differs", r, ew_dtype_name(types[t]));
            }
        }
    }
}

static void random_blocks_read_as_the_numbers_of_llama_cpp(void **state)
{
    (void)state;
    for (size_t t = 0; t < EW_COUNT(types); t++) {
        const ew_dtype_info *info = ew_dtype_get(types[t]);
        size_t n = info->block_elems == 256 ? 4 : 16;
        _Alignas(2) unsigned char q[1024];
        float y[1024];
        memcpy(q, next(n * info->block_bytes), n * info->block_bytes);
        ew_dequant_row(types[t], q, y, n * info->block_elems);
        if (memcmp(y, next(n * info->block_elems * sizeof(float)), n * info->block_elems * sizeof(float)) != 0) {
            fail_msg("blocks of %s read differently", info->name);
        }
    }
    assert_int_equal(at, golden.size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_quantise_to_the_bytes_of_llama_cpp),
        cmocka_unit_test(random_blocks_read_as_the_numbers_of_llama_cpp),
    };
    return cmocka_run_group_tests(tests, load, unload);
}

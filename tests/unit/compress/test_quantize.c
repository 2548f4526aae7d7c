#include <math.h>
#include <string.h>

#include "test.h"

#include "base/rng.h"
#include "compress/quantize.h"
#include "format/gguf.h"
#include "sys/file.h"
#include "sys/pool.h"

enum {
    ROWS = 40,
    COLS = 64
};
static float weight[ROWS * COLS];

static void write_model(const char *path, bool tied)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf_writer) w = NULL;
    const uint64_t big[] = {COLS, ROWS}, odd[] = {COLS - 4, ROWS}, one[] = {COLS};
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_u32(w, "general.file_type", 0);
    assert_ok(ew_gguf_add_tensor(w, "token_embd.weight", EW_DTYPE_F32, 2, big, &err), &err);
    assert_ok(ew_gguf_add_tensor(w, "blk.0.attn_q.weight", EW_DTYPE_F32, 2, odd, &err), &err);
    assert_ok(ew_gguf_add_tensor(w, "output_norm.weight", EW_DTYPE_F32, 1, one, &err), &err);
    if (!tied) {
        assert_ok(ew_gguf_add_tensor(w, "output.weight", EW_DTYPE_F32, 2, big, &err), &err);
    }
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_ok(ew_gguf_write_tensor(w, 0, weight, &err), &err);
    assert_ok(ew_gguf_write_tensor(w, 1, weight, &err), &err);
    assert_ok(ew_gguf_write_tensor(w, 2, weight, &err), &err);
    if (!tied) {
        assert_ok(ew_gguf_write_tensor(w, 3, weight, &err), &err);
    }
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
}

static ew_dtype type_of(const ew_gguf *g, const char *name)
{
    const ew_tensor_view *t = ew_gguf_find(g, name);
    assert_non_null(t);
    return t->dtype;
}

static void each_tensor_gets_the_type_of_the_rules(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *in = ew_test_path("in.gguf"), *out = ew_test_path("out.gguf");
    write_model(in, false);
    ew_quantize_opt opt = {.mix = EW_MIX_Q4_0};
    ew_quantize_report report;
    assert_ok(ew_quantize_file(in, out, &opt, &report, &err), &err);
    EW_AUTO(ew_gguf) g = NULL;
    assert_ok(ew_gguf_open(out, &g, &err), &err);
    assert_int_equal(type_of(g, "token_embd.weight"), EW_DTYPE_Q4_0);
    assert_int_equal(type_of(g, "blk.0.attn_q.weight"), EW_DTYPE_F16);
    assert_int_equal(type_of(g, "output_norm.weight"), EW_DTYPE_F32);
    assert_int_equal(type_of(g, "output.weight"), EW_DTYPE_Q8_0);
    uint64_t u = 0;
    assert_true(ew_gguf_get_u64(g, "general.file_type", &u) && u == 2);
    assert_true(ew_gguf_has(g, "general.architecture"));
    assert_int_equal(report.n_fallback_f16, 1);
    assert_int_equal(report.n_fallback, 1);
    assert_true(report.bytes_out < report.bytes_in && report.rmse > 0);
    unsigned char row[COLS / 32 * 18];
    ew_quant_row(EW_DTYPE_Q4_0, weight + COLS, row, COLS);
    assert_memory_equal((const char *)ew_gguf_find(g, "token_embd.weight")->data + sizeof(row), row, sizeof(row));
}

static void a_tied_table_gets_the_target(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *in = ew_test_path("tied.gguf");
    write_model(in, true);
    ew_quantize_opt opt = {.mix = EW_MIX_Q8_0};
    assert_ok(ew_quantize_file(in, in, &opt, NULL, &err), &err); /* in place */
    EW_AUTO(ew_gguf) g = NULL;
    assert_ok(ew_gguf_open(in, &g, &err), &err);
    assert_int_equal(type_of(g, "token_embd.weight"), EW_DTYPE_Q8_0);
}

static bool stop(const ew_progress_info *info, void *ctx)
{
    (void)info, (void)ctx;
    return false;
}

static void stopping_leaves_no_file(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *in = ew_test_path("in2.gguf"), *out = ew_test_path("out2.gguf");
    write_model(in, true);
    ew_quantize_opt opt = {.mix = EW_MIX_Q8_0, .progress = {.fn = stop}};
    assert_fails(EW_ECANCELLED, ew_quantize_file(in, out, &opt, NULL, &err), &err, "stopped");
    ew_gguf *g = NULL;
    assert_fails(EW_ENOENT, ew_gguf_open(out, &g, &err), &err, "out2.gguf");
}

static void write_one(const char *path, const char *name, ew_dtype dtype, uint32_t cols, const void *data)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf_writer) w = NULL;
    const uint64_t dims[] = {cols, 2};
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_str(w, "general.name", "old");
    ew_gguf_add_u32(w, "llama.block_count", 1);
    assert_ok(ew_gguf_add_tensor(w, name, dtype, 2, dims, &err), &err);
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_ok(ew_gguf_write_tensor(w, 0, data, &err), &err);
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
}

/* Every mix from every type that can be read, and its bytes are those of the row conversion. */
static void every_type_becomes_every_other(void **state)
{
    (void)state;
    static const ew_mix mixes[] = {EW_MIX_F32,    EW_MIX_F16,  EW_MIX_BF16, EW_MIX_Q8_0,   EW_MIX_Q6_K,
                                   EW_MIX_Q5_K_M, EW_MIX_Q5_1, EW_MIX_Q5_0, EW_MIX_Q4_K_M, EW_MIX_IQ4_NL,
                                   EW_MIX_IQ4_XS, EW_MIX_Q4_1, EW_MIX_Q4_0, EW_MIX_Q3_K_M, EW_MIX_Q2_K};
    const char *in = ew_test_path("every.gguf"), *out = ew_test_path("every-out.gguf");
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_COUNT(mixes); i++) {
        _Alignas(8) static unsigned char source[2 * 256 * 4], want[2 * 256 * 4];
        ew_dtype from = ew_mix_dtype(mixes[i]);
        ew_quant_row(from, weight, source, 512);
        write_one(in, "blk.0.attn_q.weight", from, 256, source);
        for (size_t k = 0; k < EW_COUNT(mixes); k++) {
            ew_dtype to = ew_mix_dtype(mixes[k]);
            ew_quantize_opt opt = {.mix = mixes[k], .name = k % 2 == 0 ? "new" : NULL};
            float x[512];
            size_t bytes = 0;
            assert_ok(ew_quantize_file(in, out, &opt, NULL, &err), &err);
            EW_AUTO(ew_gguf) g = NULL;
            assert_ok(ew_gguf_open(out, &g, &err), &err);
            assert_int_equal(type_of(g, "blk.0.attn_q.weight"), to);
            assert_true(ew_dtype_row_bytes(to, 512, &bytes));
            ew_dequant_row(from, source, x, 512);
            ew_quant_row(to, x, want, 512);
            assert_memory_equal(ew_gguf_find(g, "blk.0.attn_q.weight")->data, from == to ? source : want, bytes);
            uint64_t u = 0;
            char name[8];
            assert_true(ew_gguf_get_u64(g, "general.file_type", &u) && u == (uint64_t)mixes[k]);
            assert_true(ew_gguf_get_str_copy(g, "general.name", name, sizeof(name)));
            assert_string_equal(name, k % 2 == 0 ? "new" : "old");
        }
    }
}

static void values_that_no_type_holds_are_named(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *in = ew_test_path("odd.gguf"), *out = ew_test_path("odd-out.gguf");
    static float x[512] = {1.0f};
    ew_quantize_opt opt = {.mix = EW_MIX_Q4_K_M};
    x[300] = INFINITY;
    write_one(in, "blk.0.attn_q.weight", EW_DTYPE_F32, 256, x);
    assert_fails(EW_ECORRUPT, ew_quantize_file(in, out, &opt, NULL, &err), &err, "blk.0.attn_q.weight");
    assert_non_null(strstr(err.msg, "row 1"));
    opt.mix = EW_MIX_F16;
    x[300] = 1e6f;
    write_one(in, "blk.0.attn_q.weight", EW_DTYPE_F32, 256, x);
    assert_fails(EW_ECORRUPT, ew_quantize_file(in, out, &opt, NULL, &err), &err, "too large for F16");
    opt.mix = EW_MIX_BF16;
    assert_ok(ew_quantize_file(in, out, &opt, NULL, &err), &err);
    static const unsigned char bits[2 * 66] = {0};
    write_one(in, "blk.0.attn_q.weight", EW_DTYPE_IQ2_XXS, 256, bits);
    assert_fails(EW_EUNSUPPORTED, ew_quantize_file(in, out, &opt, NULL, &err), &err, "IQ2_XXS");
}

static void threads_do_not_change_the_file(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *in = ew_test_path("t.gguf"), *a = ew_test_path("t1.gguf"), *b = ew_test_path("t3.gguf");
    EW_AUTO(ew_pool) pool = NULL;
    write_model(in, false);
    assert_ok(ew_pool_new(3, &pool, &err), &err);
    ew_quantize_opt opt = {.mix = EW_MIX_Q4_K_M};
    assert_ok(ew_quantize_file(in, a, &opt, NULL, &err), &err);
    opt.pool = pool;
    assert_ok(ew_quantize_file(in, b, &opt, NULL, &err), &err);
    ew_buf x = {0}, y = {0};
    assert_ok(ew_file_read(a, 1 << 20, &x, &err), &err);
    assert_ok(ew_file_read(b, 1 << 20, &y, &err), &err);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    ew_buf_release(&x);
    ew_buf_release(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_tensor_gets_the_type_of_the_rules),
        cmocka_unit_test(a_tied_table_gets_the_target),
        cmocka_unit_test(stopping_leaves_no_file),
        cmocka_unit_test(every_type_becomes_every_other),
        cmocka_unit_test(values_that_no_type_holds_are_named),
        cmocka_unit_test(threads_do_not_change_the_file),
    };
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        weight[i] = (float)ew_rng_normal(&rng);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

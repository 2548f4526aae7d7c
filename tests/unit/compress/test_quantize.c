#include <string.h>

#include "test.h"

#include "base/rng.h"
#include "compress/quantize.h"
#include "format/gguf.h"

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
    ew_quantize_opt opt = {.target = EW_DTYPE_Q4_0};
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
    ew_quantize_opt opt = {.target = EW_DTYPE_Q8_0};
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
    ew_quantize_opt opt = {.target = EW_DTYPE_Q8_0, .progress = {.fn = stop}};
    assert_fails(EW_ECANCELLED, ew_quantize_file(in, out, &opt, NULL, &err), &err, "stopped");
    ew_gguf *g = NULL;
    assert_fails(EW_ENOENT, ew_gguf_open(out, &g, &err), &err, "out2.gguf");
    opt.target = EW_DTYPE_Q4_K;
    assert_fails(EW_EINVAL, ew_quantize_file(in, out, &opt, NULL, &err), &err, "Q4_K");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_tensor_gets_the_type_of_the_rules),
        cmocka_unit_test(a_tied_table_gets_the_target),
        cmocka_unit_test(stopping_leaves_no_file),
    };
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        weight[i] = (float)ew_rng_normal(&rng);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

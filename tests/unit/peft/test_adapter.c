/* LoRA adapters: parameters, files, binding to the base, merging. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "model/save.h"
#include "model/session.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "test.h"

#include "../train/tiny_model.h"

/* A GGUF of random weights, opened. dtype F32 keeps the floats. */
static ew_model *open_tiny(const char *name, ew_dtype dtype, uint64_t seed)
{
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), seed));
    const char *path = ew_test_path(name);
    const ew_save_opt so = {.convert = true, .dtype = dtype};
    assert_ok(ew_model_save_gguf(t.model, path, &so, &err), &err);
    tiny_close(&t);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    return m;
}

static ew_adapter *random_lora(const ew_model *m, const ew_adapter_opt *opt)
{
    ew_error err = EW_ERROR_INIT;
    ew_adapter *l = NULL;
    assert_ok(ew_adapter_new(m, opt, &l, &err), &err);
    size_t n;
    float *p = ew_adapter_params(l, &n);
    ew_rng rng;
    ew_rng_init(&rng, 5, 5);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)(0.3 * ew_rng_normal(&rng));
    }
    return l;
}

static void assert_same(ew_adapter *a, ew_adapter *b)
{
    size_t na, nb;
    const float *pa = ew_adapter_params(a, &na), *pb = ew_adapter_params(b, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(pa, pb, na * sizeof(float));
    assert_true(fabsf(ew_adapter_scale(a) - ew_adapter_scale(b)) < 1e-6F);
    assert_int_equal(ew_adapter_opt_of(a)->targets, ew_adapter_opt_of(b)->targets);
}

static void fresh_adapter_changes_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32, 1);
    EW_AUTO(ew_adapter) l = NULL;
    assert_ok(ew_adapter_new(m, &(ew_adapter_opt){.rank = 4, .seed = 9}, &l, &err), &err);
    size_t n;
    const float *p = ew_adapter_params(l, &n);
    assert_int_equal(n, ew_adapter_count(m, &(ew_adapter_opt){.rank = 4}));
    size_t a, b;
    assert_true(ew_adapter_slot(l, 1, EW_LINEAR_DOWN, &a, &b));
    const float bound = 1.0F / sqrtf(64);
    bool moved = false;
    for (size_t i = a; i < b; i++) {
        assert_true(fabsf(p[i]) <= bound);
        moved = moved || p[i] != p[a];
    }
    assert_true(moved);
    for (size_t i = b; i < b + (size_t)4 * 32; i++) {
        assert_true(p[i] == 0.0F);
    }
    assert_string_equal(ew_adapter_base_sha256(l), ew_model_sha256_hex(m));
}

static void options_are_checked(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_adapter_opt o;
    assert_fails(EW_EINVAL, ew_adapter_opt_resolve(&(ew_adapter_opt){.rank = 257}, &o, &err), &err, "maximum");
    assert_fails(EW_EINVAL, ew_adapter_opt_resolve(&(ew_adapter_opt){.targets = 1u << 20}, &o, &err), &err, "targets");
    assert_fails(EW_EINVAL, ew_adapter_opt_resolve(&(ew_adapter_opt){.alpha = NAN}, &o, &err), &err, "alpha");
    assert_ok(ew_adapter_opt_resolve(NULL, &o, &err), &err);
    assert_int_equal(o.rank, 8);
    assert_true(o.alpha == 16.0F && o.targets == EW_ADAPTER_ALL);
}

static void peft_directory_reads_back_the_same(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0, 1);
    const ew_adapter_opt opts[] = {
        {.rank = 4},
        {.rank = 3, .alpha = 7, .rslora = true},
        {.rank = 2, .targets = EW_ADAPTER_TARGET(EW_LINEAR_Q) | EW_ADAPTER_TARGET(EW_LINEAR_V)}};
    for (size_t i = 0; i < EW_COUNT(opts); i++) {
        EW_AUTO(ew_adapter) l = random_lora(m, &opts[i]);
        EW_AUTO(ew_adapter) back = NULL;
        EW_AUTO(ew_adapter) back2 = NULL;
        const char *dir = ew_test_path("peft"), *file = ew_test_path("a.gguf");
        assert_ok(ew_adapter_save_peft(l, m, dir, &err), &err);
        assert_ok(ew_adapter_load(dir, m, &back, &err), &err);
        assert_same(l, back);
        assert_ok(ew_adapter_save_gguf(l, m, file, &err), &err);
        assert_ok(ew_adapter_load(file, m, &back2, &err), &err);
        assert_same(l, back2);
    }
}

static void peft_file_has_hugging_face_names_and_row_order(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32, 1);
    EW_AUTO(ew_adapter) l = random_lora(m, &(ew_adapter_opt){.rank = 2});
    assert_ok(ew_adapter_save_peft(l, m, ew_test_path("peft"), &err), &err);
    EW_AUTO(ew_safetensors) st = NULL;
    assert_ok(ew_safetensors_open(ew_test_path("peft/adapter_model.safetensors"), &st, &err), &err);
    const ew_tensor_view *q = ew_safetensors_find(st, "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight");
    assert_non_null(q);
    assert_non_null(ew_safetensors_find(st, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"));
    assert_int_equal(q->dims[0], 2);
    assert_int_equal(q->dims[1], 32);
    size_t a, b, n;
    assert_true(ew_adapter_slot(l, 1, EW_LINEAR_Q, &a, &b));
    const float *p = ew_adapter_params(l, &n) + b;
    const float *file = q->data;
    for (size_t head = 0; head < 4; head++) { /* llama.cpp: [head, 2, D/2] of the file -> [head, D/2, 2] of the GGUF */
        for (size_t half = 0; half < 2; half++) {
            for (size_t i = 0; i < 4; i++) {
                assert_memory_equal(file + (head * 8 + half * 4 + i) * 2, p + (head * 8 + 2 * i + half) * 2,
                                    2 * sizeof(float));
            }
        }
    }
}

static void another_base_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32, 1);
    EW_AUTO(ew_model) other = open_tiny("n.gguf", EW_DTYPE_F32, 2);
    EW_AUTO(ew_adapter) l = random_lora(m, NULL);
    EW_AUTO(ew_adapter) back = NULL;
    assert_ok(ew_adapter_save_peft(l, m, ew_test_path("peft"), &err), &err);
    assert_fails(EW_ECONFLICT, ew_adapter_load(ew_test_path("peft"), other, &back, &err), &err, "base model");
    assert_ok(ew_adapter_save_gguf(l, m, ew_test_path("a.gguf"), &err), &err);
    assert_fails(EW_ECONFLICT, ew_adapter_load(ew_test_path("a.gguf"), other, &back, &err), &err, "base model");
    assert_fails(EW_ECONFLICT, ew_adapter_merge_gguf(l, other, ew_test_path("x.gguf"), NULL, &err), &err, "base model");
    assert_null(back);
}

static void foreign_options_are_refused_by_name(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32, 1);
    EW_AUTO(ew_adapter) l = random_lora(m, NULL);
    EW_AUTO(ew_adapter) back = NULL;
    char dir[EW_PATH_MAX];
    ew_str_copy(dir, sizeof(dir), ew_test_path("peft"));
    assert_ok(ew_adapter_save_peft(l, m, dir, &err), &err);
    static const char *const bad[][2] = {
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"use_dora\":true}", "use_dora"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"use_qalora\":true}", "use_qalora"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"bias\":\"all\"}", "bias"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"modules_to_save\":[\"lm_head\"]}", "modules_to_save"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"fan_in_fan_out\":true}", "fan_in_fan_out"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"init_lora_weights\":\"pissa\"}", "pissa"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"alpha_pattern\":{\"layers.[0-9].q\":4}}",
         "alpha_pattern"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"something_new\":1}", "something_new"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"rank_pattern\":{\"q_proj\":4}}", "rank"},
        {"{\"peft_type\":\"IA3\"}", "IA3"},
        {"{\"peft_type\":\"VERA\"}", "VERA"},
        {"{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":4}", "prompt_embeddings"},
        {"{\"peft_type\":\"PREFIX_TUNING\"}", "num_virtual_tokens"},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":16}", "'r'"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":0}", "lora_alpha"},
        {"[]", "object"},
        {"{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":16}", "rank"}};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        (void)ew_test_text("peft/adapter_config.json", bad[i][0]);
        const ew_status st = ew_adapter_load(dir, m, &back, &err);
        if (st == EW_OK || strstr(err.msg, bad[i][1]) == NULL) {
            fail_msg("case %zu: %s '%s'", i, ew_status_name(st), err.msg);
        }
    }
}

static void eval(const ew_model *m, const ew_hooks *hooks, float *logits)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_session) s = NULL;
    const ew_session_opt so = {.n_ctx = 16, .exec = {ew_kern_get("ref"), NULL}, .hooks = hooks, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &so, &s, &err), &err);
    const int32_t ids[] = {1, 5, 9, 30, 2};
    assert_ok(ew_session_eval(s, ids, EW_COUNT(ids), logits, &err), &err);
}

static void merged_model_answers_as_the_hooked_one(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F16, 1);
    EW_AUTO(ew_model) merged = NULL;
    EW_AUTO(ew_adapter) l = random_lora(m, &(ew_adapter_opt){.rank = 3});
    const char *out = ew_test_path("merged.gguf");
    assert_ok(ew_adapter_merge_gguf(l, m, out, NULL, &err), &err);
    assert_ok(ew_model_open(out, &(ew_model_opt){.no_tokenizer = true}, &merged, &err), &err);
    float hooked[64], one[64], plain[64];
    eval(m, ew_adapter_hooks(l), hooked);
    eval(merged, NULL, one);
    eval(m, NULL, plain);
    double most = 0, change = 0;
    for (uint32_t i = 0; i < ew_model_config_of(m)->V; i++) {
        most = EW_MAX(most, fabs((double)hooked[i] - (double)one[i]));
        change = EW_MAX(change, fabs((double)hooked[i] - (double)plain[i]));
    }
    assert_true(change > 0.5);
    assert_true(most < 0.01 * change);
}

static void merged_matrix_is_the_sum(void **state)
{
    (void)state;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32, 1);
    EW_AUTO(ew_adapter) l = random_lora(m, &(ew_adapter_opt){.rank = 2, .alpha = 3});
    float w[64 * 32] = {0};
    ew_adapter_merge_into(l, 0, EW_LINEAR_UP, w);
    size_t a, b, n;
    assert_true(ew_adapter_slot(l, 0, EW_LINEAR_UP, &a, &b));
    const float *p = ew_adapter_params(l, &n);
    for (size_t i = 0; i < 64; i++) {
        for (size_t j = 0; j < 32; j++) {
            const float want = 1.5F * (p[b + i * 2] * p[a + j] + p[b + i * 2 + 1] * p[a + 32 + j]);
            assert_true(fabsf(w[i * 32 + j] - want) < 1e-5F);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapter_changes_nothing),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(peft_directory_reads_back_the_same),
        cmocka_unit_test(peft_file_has_hugging_face_names_and_row_order),
        cmocka_unit_test(another_base_is_refused),
        cmocka_unit_test(foreign_options_are_refused_by_name),
        cmocka_unit_test(merged_model_answers_as_the_hooked_one),
        cmocka_unit_test(merged_matrix_is_the_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

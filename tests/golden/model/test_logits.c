/* Logits of the golden models against transformers' (README.md of this directory), for every kernel table that runs here. */
#include "../../unit/model/tiny.h"

#include "model/save.h"
#include "model/session.h"
#include "sys/file.h"
#include "sys/pool.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/"
#define N 24
#define V 64

static int32_t ids[N];
static char tmp[EW_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    EW_AUTO_BUF text = {0};
    if (ew_file_read(DIR "ids.txt", 4096, &text, NULL) != EW_OK ||
        ew_dir_make_temp("/tmp/ew-golden-", tmp, sizeof(tmp), NULL) != EW_OK) {
        return -1;
    }
    const char *p = text.data;
    for (int i = 0; i < N; i++) {
        int used = 0;
        if (sscanf(p, "%d%n", &ids[i], &used) != 1) {
            return -1;
        }
        p += used;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *tmp_path(const char *name)
{
    static char path[2 * EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", tmp, name);
    return path;
}

static void read_golden(const char *name, float *ret)
{
    char path[512];
    EW_AUTO_BUF b = {0};
    (void)snprintf(path, sizeof(path), DIR "%s.logits.f32", name);
    assert_ok(ew_file_read(path, 65536, &b, err));
    assert_int_equal(b.size, N * V * sizeof(float));
    memcpy(ret, b.data, b.size);
}

/* Largest difference over the largest logit, for one kernel table. */
static double error_of(const ew_model *m, const float *want, const ew_kern *kern, ew_pool *pool)
{
    float got[N * V];
    ew_session *s = NULL;
    ew_session_opt opt = {.n_batch = 10, .exec = {kern, pool}, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &opt, &s, err));
    assert_ok(ew_session_eval_all(s, ids, N, got, err));
    ew_session_free(&s);
    double diff = 0;
    double scale = 0;
    for (int i = 0; i < N * V; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        diff = d > diff || isnan(d) ? d : diff;
        scale = fmax(scale, fabs((double)want[i]));
    }
    return diff / scale;
}

static void check(const char *path, const char *golden, double bound)
{
    float want[N * V];
    read_golden(golden, want);
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(path, NULL, &m, err));
    ew_pool *pool = NULL;
    assert_ok(ew_pool_new(2, &pool, err));
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        double e = error_of(m, want, ew_kern_at(i), i > 0 ? pool : NULL);
        if (!(e <= bound)) {
            fail_msg("%s with %s: %g > %g", path, ew_kern_name(ew_kern_at(i)), e, bound);
        }
    }
    ew_pool_free(&pool);
}

static void the_half_split_directory_matches(void **state)
{
    (void)state;
    check(DIR "llama32-hf", "llama32", 2e-4);
}

static void the_interleaved_twin_matches(void **state)
{
    (void)state;
    check(DIR "llama32-f32.gguf", "llama32", 2e-4);
    check(DIR "llama32-f16.gguf", "llama32", 2e-4);
}

static void quantized_weights_match_with_f32_activations(void **state)
{
    (void)state;
    const char *const names[] = {"llama64-q8_0", "llama64-q4_0"};
    for (size_t i = 0; i < 2; i++) {
        char path[512];
        (void)snprintf(path, sizeof(path), DIR "%s.gguf", names[i]);
        check(path, names[i], 0.1); /* activations rounded to 8 bits, as llama.cpp does */
        EW_AUTO(ew_model) m = NULL;
        assert_ok(ew_model_open(path, NULL, &m, err));
        assert_ok(
            ew_model_save_gguf(m, tmp_path("f32.gguf"), &(ew_save_opt){.convert = true, .dtype = EW_DTYPE_F32}, err));
        check(tmp_path("f32.gguf"), names[i], 2e-4);
    }
}

/* Our own files: the directory written as GGUF is byte for byte the tensors that gguf-py wrote. */
static void our_gguf_of_the_directory_has_the_tensors_of_the_twin(void **state)
{
    (void)state;
    const ew_dtype types[] = {EW_DTYPE_F32, EW_DTYPE_F16};
    const char *const twins[] = {DIR "llama32-f32.gguf", DIR "llama32-f16.gguf"};
    EW_AUTO(ew_model) hf = NULL;
    assert_ok(ew_model_open(DIR "llama32-hf", NULL, &hf, err));
    for (size_t i = 0; i < 2; i++) {
        EW_AUTO(ew_model) ours = NULL;
        EW_AUTO(ew_model) twin = NULL;
        assert_ok(
            ew_model_save_gguf(hf, tmp_path("ours.gguf"), &(ew_save_opt){.convert = true, .dtype = types[i]}, err));
        assert_ok(ew_model_open(tmp_path("ours.gguf"), NULL, &ours, err));
        assert_ok(ew_model_open(twins[i], NULL, &twin, err));
        for (uint32_t l = 0; l < 2; l++) {
            for (unsigned k = 0; k < EW_LINEAR_COUNT; k++) {
                const ew_mat *a = &ew_model_layer(ours, l)->linear[k];
                const ew_mat *b = &ew_model_layer(twin, l)->linear[k];
                assert_int_equal(a->dtype, b->dtype);
                assert_memory_equal(a->data, b->data, a->rows * a->row_bytes);
            }
        }
    }
}

static void rotary_scaling_matches(void **state)
{
    (void)state;
    const char *const names[] = {"llama32-linear", "llama32-llama3"};
    char path[512];
    EW_AUTO_BUF weights = {0};
    assert_ok(ew_file_read(DIR "llama32-hf/model.safetensors", 1 << 20, &weights, err));
    assert_ok(ew_dir_make(tmp_path("scaled"), 0700, err));
    assert_ok(ew_file_replace(tmp_path("scaled/model.safetensors"), weights.data, weights.size, 0600, err));
    for (size_t i = 0; i < 2; i++) {
        EW_AUTO_BUF config = {0};
        (void)snprintf(path, sizeof(path), DIR "%s.config.json", names[i]);
        assert_ok(ew_file_read(path, 65536, &config, err));
        assert_ok(ew_file_replace(tmp_path("scaled/config.json"), config.data, config.size, 0600, err));
        char dir[2 * EW_PATH_MAX];
        (void)snprintf(dir, sizeof(dir), "%s/scaled", tmp);
        check(dir, names[i], 2e-4);
        EW_AUTO(ew_model) m = NULL;
        assert_ok(ew_model_open(dir, NULL, &m, err));
        assert_ok(ew_model_save_gguf(m, tmp_path("scaled.gguf"), NULL, err));
        check(tmp_path("scaled.gguf"), names[i], 2e-4);
    }
}

static void an_f16_cache_stays_close(void **state)
{
    (void)state;
    float want[N * V];
    float got[V];
    read_golden("llama32", want);
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(DIR "llama32-hf", NULL, &m, err));
    ew_session *s = NULL;
    assert_ok(ew_session_new(m, &(ew_session_opt){0}, &s, err));
    assert_ok(ew_session_eval(s, ids, N, got, err));
    ew_session_free(&s);
    for (int i = 0; i < V; i++) {
        assert_true(fabsf(got[i] - want[(N - 1) * V + i]) < 0.02F);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_half_split_directory_matches),
        cmocka_unit_test(the_interleaved_twin_matches),
        cmocka_unit_test(quantized_weights_match_with_f32_activations),
        cmocka_unit_test(our_gguf_of_the_directory_has_the_tensors_of_the_twin),
        cmocka_unit_test(rotary_scaling_matches),
        cmocka_unit_test(an_f16_cache_stays_close),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

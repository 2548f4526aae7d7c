/* Virtual positions in every family: a prompt is what its rows are as tokens, a prefix is the cache that it is; sessions keep them through
 * reset, rewind, chunks and cache types. */
#include "tiny.h"

#include "model/session.h"
#include "model/session_int.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define P 5 /* virtual positions */
#define N 21

static const char *const decoders[] = {"llama3", "mistral", "qwen2",  "qwen3",    "phi2",         "phi3-window",
                                       "gemma",  "gemma2",  "gemma3", "stablelm", "stablelm-12b", "gptneox",
                                       "gpt2",   "gptneo",  "opt",    "phi3-long"};

static ew_model *open_hf(const char *family)
{
    char path[512];
    ew_model *m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/hf", family);
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, err));
    return m;
}

static ew_session *open_session(const ew_model *m, ew_session_opt opt)
{
    ew_session *s = NULL;
    opt.n_ctx = opt.n_ctx != 0 ? opt.n_ctx : N;
    opt.exec.kern = ew_kern_get("ref");
    assert_ok(ew_session_new(m, &opt, &s, err));
    return s;
}

static void assert_near(const char *what, const float *a, const float *b, size_t n, double bound)
{
    double most = 0, large = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        large = fmax(large, fabs((double)b[i]));
    }
    if (!(most <= bound * large)) {
        fail_msg("%s: %g of %g", what, most, large);
    }
}

/* Rows of the embedding table. */
static void table_rows(const ew_model *m, const int32_t *ids, size_t n, float *ret)
{
    const ew_mat *t = ew_model_token_embd(m);
    for (size_t i = 0; i < n; i++) {
        ew_dequant_row(t->dtype, (const char *)t->data + (size_t)ids[i] * t->row_bytes, ret + i * t->cols, t->cols);
    }
}

static void a_prompt_of_the_rows_of_tokens_is_those_tokens(void **state)
{
    (void)state;
    static float rows[P * 128], want[N * 128], got[N * 128];
    for (size_t f = 0; f < EW_COUNT(decoders); f++) {
        ew_model *m = open_hf(decoders[f]);
        const uint32_t V = ew_model_config_of(m)->V;
        int32_t ids[N];
        tiny_ids(V, f, ids, N);
        table_rows(m, ids, P, rows);
        const ew_hooks hooks = {.n_virtual = P, .prompt = rows};
        for (uint32_t n_batch = 3; n_batch <= N; n_batch += N - 3) {
            ew_session *s = open_session(m, (ew_session_opt){.n_batch = n_batch, .kv_type = EW_KV_F32});
            ew_session *h = open_session(
                m, (ew_session_opt){.n_ctx = N - P, .n_batch = n_batch, .kv_type = EW_KV_F32, .hooks = &hooks});
            assert_ok(ew_session_eval_all(s, ids, N, want, err));
            assert_ok(ew_session_eval_all(h, ids + P, N - P, got, err));
            assert_int_equal(ew_session_pos(h), N - P);
            assert_near(decoders[f], got, want + P * V, (N - P) * V, 1e-6);
            ew_session_free(&s);
            ew_session_free(&h);
        }
        ew_model_unref(&m);
    }
}

/* The cache's first P rows of every layer, as a prefix. */
static void take_cache(const ew_session *s, float *k, float *v)
{
    const ew_model_config *c = ew_model_config_of(ew_session_model(s));
    const size_t cols = (size_t)c->K * c->D, rows = ew__session_rows(s);
    for (uint32_t i = 0; i < c->L; i++) {
        const float *at = (const float *)(const void *)s->kv + (size_t)i * 2 * rows * cols;
        memcpy(k + i * P * cols, at, P * cols * sizeof(float));
        memcpy(v + i * P * cols, at + rows * cols, P * cols * sizeof(float));
    }
}

static void a_prefix_of_the_cache_of_tokens_is_those_tokens(void **state)
{
    (void)state;
    static const ew_kv_type types[] = {EW_KV_F32, EW_KV_F16, EW_KV_Q8_0};
    static float k[8 * P * 128], v[8 * P * 128], want[128], got[128];
    for (size_t f = 0; f < EW_COUNT(decoders); f++) {
        ew_model *m = open_hf(decoders[f]);
        const ew_model_config *c = ew_model_config_of(m);
        int32_t ids[N];
        tiny_ids(c->V, 100 + f, ids, N);
        ew_session *s = open_session(m, (ew_session_opt){.n_batch = 4, .kv_type = EW_KV_F32});
        assert_ok(ew_session_eval(s, ids, N, want, err));
        take_cache(s, k, v);
        const ew_hooks hooks = {.n_virtual = P, .prefix_k = k, .prefix_v = v};
        for (size_t i = 0; i < EW_COUNT(types); i++) {
            if (types[i] == EW_KV_Q8_0 && c->D % 32 != 0) {
                continue;
            }
            ew_session *h =
                open_session(m, (ew_session_opt){.n_batch = 7, .max_virtual = P + 2, .kv_type = types[i], .n_ctx = 18});
            assert_ok(ew_session_eval(h, ids, 3, NULL, err));
            assert_ok(ew_session_set_hooks(h, &hooks, err));
            assert_ok(ew_session_eval(h, ids + P, N - P, got, err));
            assert_near(decoders[f], got, want, c->V,
                        types[i] == EW_KV_F32   ? 1e-6
                        : types[i] == EW_KV_F16 ? 4e-3
                                                : 0.05);
            ew_session_free(&h);
        }
        ew_session_free(&s);
        ew_model_unref(&m);
    }
}

static void reset_rewind_and_set_hooks_keep_virtual_positions_right(void **state)
{
    (void)state;
    static float rows[P * 128], first[128], got[128], plain[128];
    ew_model *m = open_hf("llama3");
    const uint32_t V = ew_model_config_of(m)->V;
    int32_t ids[8];
    tiny_ids(V, 5, ids, 8);
    for (size_t i = 0; i < P * (size_t)ew_model_config_of(m)->C; i++) {
        rows[i] = 0.1F * (float)((i * 13) % 17) - 0.8F;
    }
    const ew_hooks hooks = {.n_virtual = P, .prompt = rows};
    ew_session *s = open_session(m, (ew_session_opt){.hooks = &hooks});
    assert_ok(ew_session_eval(s, ids, 8, first, err));
    ew_session_rewind(s, 3);
    assert_ok(ew_session_eval(s, ids + 3, 5, got, err));
    assert_memory_equal(first, got, V * sizeof(float));
    ew_session_rewind(s, 0);
    assert_ok(ew_session_eval(s, ids, 8, got, err));
    assert_memory_equal(first, got, V * sizeof(float));
    assert_ok(ew_session_set_hooks(s, NULL, err));
    assert_ok(ew_session_eval(s, ids, 8, plain, err));
    assert_memory_not_equal(first, plain, V * sizeof(float));
    assert_ok(ew_session_set_hooks(s, &hooks, err));
    assert_ok(ew_session_eval(s, ids, 8, got, err));
    assert_memory_equal(first, got, V * sizeof(float));
    rows[0] += 2; /* new values count from the next reset on */
    ew_session_rewind(s, 0);
    assert_ok(ew_session_eval(s, ids, 8, got, err));
    assert_memory_equal(first, got, V * sizeof(float));
    ew_session_reset(s);
    assert_ok(ew_session_eval(s, ids, 8, got, err));
    assert_memory_not_equal(first, got, V * sizeof(float));
    ew_session_free(&s);
    ew_model_unref(&m);
}

static void segments_of_a_prefix_are_the_whole(void **state)
{
    (void)state;
    static float k[4 * P * 64], v[4 * P * 64], x[8 * 128], want[128], got[128];
    ew_model *m = open_hf("qwen2");
    const ew_model_config *c = ew_model_config_of(m);
    int32_t ids[8];
    tiny_ids(c->V, 6, ids, 8);
    for (size_t i = 0; i < EW_COUNT(k); i++) {
        k[i] = 0.1F * (float)((i * 5) % 11) - 0.5F;
        v[i] = 0.1F * (float)((i * 7) % 13) - 0.6F;
    }
    const ew_hooks hooks = {.n_virtual = P, .prefix_k = k, .prefix_v = v};
    ew_session *whole = open_session(m, (ew_session_opt){.hooks = &hooks});
    ew_session *low = open_session(m, (ew_session_opt){.hooks = &hooks, .first_layer = 0, .last_layer = 1});
    ew_session *high = open_session(m, (ew_session_opt){.hooks = &hooks, .first_layer = 1, .last_layer = c->L});
    assert_ok(ew_session_eval(whole, ids, 8, want, err));
    assert_ok(ew_session_embed(low, ids, 8, 0, x, err));
    assert_ok(ew_session_run(low, 0, 1, x, 8, 0, err));
    assert_ok(ew_session_run(high, 1, c->L, x, 8, 0, err));
    assert_ok(ew_session_head(high, x + 7 * c->C, got, err));
    assert_memory_equal(want, got, c->V * sizeof(float));
    ew_session_free(&whole);
    ew_session_free(&low);
    ew_session_free(&high);
    ew_model_unref(&m);
}

static ew_status no_segment(void *ctx, float *x, size_t n, uint32_t pos, ew_error *reterr)
{
    (void)ctx, (void)x, (void)n, (void)pos;
    return ew_fail(reterr, EW_EIO, "never called");
}

static void what_cannot_have_virtual_positions_says_so(void **state)
{
    (void)state;
    static float rows[70 * 128];
    const ew_hooks prompt = {.n_virtual = P, .prompt = rows}, none = {.n_virtual = P};
    const ew_hooks prefix = {.n_virtual = P, .prefix_k = rows, .prefix_v = rows};
    ew_error e = EW_ERROR_INIT;
    ew_session *s = NULL;
    ew_model *m = open_hf("gpt2"), *bert = open_hf("bert");
    const uint32_t n_pos = ew_model_config_of(m)->n_pos;
    const ew_exec exec = {.kern = ew_kern_get("ref")};
    assert_int_equal(ew_session_new(m, &(ew_session_opt){.exec = exec, .hooks = &none}, &s, &e), EW_EINVAL);
    assert_int_equal(ew_session_new(bert, &(ew_session_opt){.exec = exec, .hooks = &prefix}, &s, &e), EW_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "encoder"));
    assert_int_equal(ew_session_new(m, &(ew_session_opt){.exec = exec, .hooks = &prompt, .last_layer = 1}, &s, &e),
                     EW_EUNSUPPORTED);
    assert_int_equal(ew_session_new(m, &(ew_session_opt){.exec = exec, .hooks = &prompt, .n_ctx = n_pos}, &s, &e),
                     EW_EINVAL);
    assert_non_null(strstr(e.msg, "learned"));
    assert_ok(ew_session_new(m, &(ew_session_opt){.exec = exec, .hooks = &prompt}, &s, err));
    assert_int_equal(ew_session_n_ctx(s), n_pos - P);
    assert_int_equal(ew_session_set_segment(s, 0, 1, no_segment, NULL, &e), EW_EUNSUPPORTED);
    const ew_hooks more = {.n_virtual = P + 1, .prompt = rows};
    assert_int_equal(ew_session_set_hooks(s, &more, &e), EW_EINVAL);
    assert_non_null(strstr(e.msg, "virtual"));
    ew_session_free(&s);
    assert_ok(ew_session_new(m, &(ew_session_opt){.exec = exec, .n_ctx = 20, .max_virtual = P}, &s, err));
    assert_ok(ew_session_set_segment(s, 0, 1, no_segment, NULL, err));
    assert_int_equal(ew_session_set_hooks(s, &prefix, &e), EW_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "split"));
    ew_session_free(&s);
    ew_model_unref(&m);
    ew_model_unref(&bert);
}

static void the_plan_has_the_rows_of_virtual_positions(void **state)
{
    (void)state;
    static float rows[P * 128];
    const ew_hooks prompt = {.n_virtual = P, .prompt = rows};
    ew_model *m = open_hf("llama3");
    const ew_model_config *c = ew_model_config_of(m);
    ew_memory_plan with, without;
    const ew_session_opt opt = {.n_ctx = 20, .hooks = &prompt};
    assert_ok(ew_session_memory(m, &opt, &with, err));
    assert_ok(ew_session_memory(m, &(ew_session_opt){.n_ctx = 20 + P}, &without, err));
    assert_int_equal(with.kv_bytes, without.kv_bytes);
    assert_int_equal(with.kv_bytes, (uint64_t)(20 + P) * 2 * c->L * c->K * c->D * 2);
    ew_session *s = NULL;
    assert_ok(ew_session_new(m, &opt, &s, err));
    assert_int_equal(ew_session_bytes(s), with.kv_bytes + with.workspace_bytes);
    ew_session_free(&s);
    ew_model_unref(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_of_the_rows_of_tokens_is_those_tokens),
        cmocka_unit_test(a_prefix_of_the_cache_of_tokens_is_those_tokens),
        cmocka_unit_test(reset_rewind_and_set_hooks_keep_virtual_positions_right),
        cmocka_unit_test(segments_of_a_prefix_are_the_whole),
        cmocka_unit_test(what_cannot_have_virtual_positions_says_so),
        cmocka_unit_test(the_plan_has_the_rows_of_virtual_positions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

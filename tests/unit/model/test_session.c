/* Sessions on random f32 models: segments, chunks, rewind, memory, hooks, generation without text. */
#include "tiny.h"

#include "model/generate.h"
#include "model/hooks.h"
#include "model/session.h"
#include "sys/pool.h"

#define N 21

static ew_session *session(const tiny *t, ew_session_opt opt)
{
    ew_session *s = NULL;
    if (opt.exec.kern == NULL) {
        opt.exec.kern = ew_kern_get("ref");
    }
    assert_ok(ew_session_new(t->model, &opt, &s, err));
    return s;
}

static void segments_compose_bit_for_bit_at_every_cut(void **state)
{
    (void)state;
    for (int kv_f32 = 0; kv_f32 < 2; kv_f32++) {
        ew_model_config cfg = tiny_config();
        tiny t;
        tiny_make(&t, &cfg, kv_f32 == 0, 3);
        int32_t ids[N];
        tiny_ids(cfg.V, 4, ids, N);
        float whole[N * 67];
        ew_session *s = session(&t, (ew_session_opt){.kv_type = kv_f32 ? EW_KV_F32 : EW_KV_F16, .n_batch = 8});
        assert_ok(ew_session_eval_all(s, ids, N, whole, err));
        ew_session_free(&s);
        for (uint32_t k = 0; k <= cfg.L; k++) {
            ew_session *low = k > 0 ? session(&t, (ew_session_opt){.kv_type = kv_f32 ? EW_KV_F32 : EW_KV_F16,
                                                                   .first_layer = 0,
                                                                   .last_layer = k})
                                    : NULL;
            ew_session *high = k < cfg.L ? session(&t, (ew_session_opt){.kv_type = kv_f32 ? EW_KV_F32 : EW_KV_F16,
                                                                        .first_layer = k,
                                                                        .last_layer = cfg.L})
                                         : NULL;
            ew_session *any = low != NULL ? low : high;
            for (uint32_t pos = 0; pos < N; pos += 7) { /* another chunking than above */
                float x[7 * 32];
                float logits[7 * 67];
                assert_ok(ew_session_embed(any, ids + pos, 7, (uint32_t)pos, x, err));
                if (low != NULL) {
                    assert_ok(ew_session_run(low, 0, k, x, 7, pos, err));
                }
                if (high != NULL) {
                    assert_ok(ew_session_run(high, k, cfg.L, x, 7, pos, err));
                }
                assert_ok(ew_session_head_all(any, x, 7, logits, err));
                assert_memory_equal(logits, whole + pos * cfg.V, sizeof(logits));
            }
            ew_session_free(&low);
            ew_session_free(&high);
        }
        tiny_release(&t);
    }
}

static void token_by_token_equals_one_batch(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 5);
    int32_t ids[N];
    tiny_ids(cfg.V, 6, ids, N);
    float whole[N * 67];
    float row[67];
    ew_session *s = session(&t, (ew_session_opt){.n_batch = 32});
    assert_ok(ew_session_eval_all(s, ids, N, whole, err));
    ew_session_reset(s);
    for (int i = 0; i < N; i++) {
        assert_ok(ew_session_eval(s, &ids[i], 1, row, err));
        assert_memory_equal(row, whole + i * 67, sizeof(row));
    }
    assert_int_equal(ew_session_pos(s), N);
    ew_session_free(&s);
    tiny_release(&t);
}

static void every_kernel_and_pool_agrees_with_ref(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, false, 7);
    int32_t ids[N];
    tiny_ids(cfg.V, 8, ids, N);
    float ref[N * 67];
    float got[N * 67];
    ew_session *s = session(&t, (ew_session_opt){.n_batch = 8});
    assert_ok(ew_session_eval_all(s, ids, N, ref, err));
    ew_session_free(&s);
    ew_pool *pool = NULL;
    assert_ok(ew_pool_new(3, &pool, err));
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        s = session(&t, (ew_session_opt){.n_batch = 8, .exec = {ew_kern_at(i), pool}});
        assert_ok(ew_session_eval_all(s, ids, N, got, err));
        ew_session_free(&s);
        for (size_t j = 0; j < EW_COUNT(ref); j++) {
            assert_true(fabsf(ref[j] - got[j]) < 2e-3F * (1 + fabsf(ref[j])));
        }
    }
    ew_pool_free(&pool);
    tiny_release(&t);
}

static void rewind_forgets_exactly_what_follows(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 9);
    int32_t ids[N];
    int32_t other[N];
    tiny_ids(cfg.V, 10, ids, N);
    tiny_ids(cfg.V, 11, other, N);
    float want[67];
    float got[67];
    ew_session *s = session(&t, (ew_session_opt){0});
    assert_ok(ew_session_eval(s, ids, N, want, err));
    ew_session_reset(s);
    assert_ok(ew_session_eval(s, ids, 9, NULL, err));
    assert_ok(ew_session_eval(s, other, N, NULL, err));
    ew_session_rewind(s, 9);
    assert_ok(ew_session_eval(s, ids + 9, N - 9, got, err));
    assert_memory_equal(want, got, sizeof(want));
    ew_session_free(&s);
    tiny_release(&t);
}

static void evaluation_allocates_nothing(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 12);
    int32_t ids[N];
    tiny_ids(cfg.V, 13, ids, N);
    float row[67];
    double nll;
    size_t n;
    ew_session *s = session(&t, (ew_session_opt){.n_batch = 8});
    uint64_t before = ew_mem_count();
    assert_ok(ew_session_eval(s, ids, N, row, err));
    for (int i = 0; i < 10; i++) {
        assert_ok(ew_session_eval(s, &ids[i], 1, row, err));
    }
    assert_ok(ew_session_nll(s, ids, N, 5, &nll, &n, err));
    assert_int_equal(ew_mem_count(), before);
    ew_session_free(&s);
    tiny_release(&t);
}

static void nll_is_the_sum_of_the_answer_tokens(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, false, 14);
    int32_t ids[N];
    tiny_ids(cfg.V, 15, ids, N);
    float whole[N * 67];
    ew_session *s = session(&t, (ew_session_opt){.n_batch = 6});
    assert_ok(ew_session_eval_all(s, ids, N, whole, err));
    for (size_t prompt = 1; prompt < N; prompt++) {
        double want = 0;
        for (size_t i = prompt; i < N; i++) {
            want -= ew_log_prob(whole + (i - 1) * 67, 67, ids[i]);
        }
        double nll = 0;
        size_t n = 0;
        assert_ok(ew_session_nll(s, ids, N, prompt, &nll, &n, err));
        assert_int_equal(n, N - prompt);
        assert_true(fabs(nll - want) < 1e-6);
    }
    double nll;
    size_t n;
    assert_int_equal(ew_session_nll(s, ids, N, N, &nll, &n, NULL), EW_EINVAL);
    assert_int_equal(ew_session_nll(s, ids, N, 0, &nll, &n, NULL), EW_EINVAL);
    ew_session_free(&s);
    tiny_release(&t);
}

static void the_plan_is_what_a_session_takes(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 16);
    ew_session_opt opt = {.n_ctx = 50, .n_batch = 7, .max_rank = 4};
    ew_memory_plan plan;
    assert_ok(ew_session_memory(t.model, &opt, &plan, err));
    assert_int_equal(plan.weights_bytes, ew_model_weights_bytes(t.model));
    assert_true(plan.kv_bytes >= 3u * 2 * 50 * 32 * 2);
    ew_session *s = session(&t, opt);
    assert_int_equal(ew_session_bytes(s), plan.kv_bytes + plan.workspace_bytes);
    ew_session_free(&s);
    tiny_release(&t);
}

static void a_memory_limit_names_the_context_that_fits(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 17);
    ew_session_opt opt = {.n_ctx = 4000, .n_batch = 1, .exec.kern = ew_kern_get("ref")};
    ew_memory_plan plan;
    assert_ok(ew_session_memory(t.model, &opt, &plan, err));
    opt.memory_limit_bytes = (plan.kv_bytes + plan.workspace_bytes) / 2;
    ew_session *s = NULL;
    ew_error why = EW_ERROR_INIT;
    assert_int_equal(ew_session_new(t.model, &opt, &s, &why), EW_ELIMIT);
    const char *hint = strstr(why.msg, "HINT: a context of ");
    assert_non_null(hint);
    unsigned fits = 0;
    assert_int_equal(sscanf(hint, "HINT: a context of %u", &fits), 1);
    opt.n_ctx = fits;
    assert_ok(ew_session_new(t.model, &opt, &s, err));
    ew_session_free(&s);
    opt.n_ctx = fits + 1;
    assert_int_equal(ew_session_new(t.model, &opt, &s, NULL), EW_ELIMIT);
    opt.memory_limit_bytes = 100;
    assert_int_equal(ew_session_new(t.model, &opt, &s, &why), EW_ELIMIT);
    assert_non_null(strstr(why.msg, "not even"));
    tiny_release(&t);
}

static void bad_requests_change_nothing(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 18);
    ew_session *s = session(&t, (ew_session_opt){.n_ctx = 8});
    ew_error why = EW_ERROR_INIT;
    int32_t ids[9] = {1, 2, 67, 3, 4, 5, 6, 7, 8};
    float x[32] = {0};
    assert_int_equal(ew_session_eval(s, ids, 3, NULL, &why), EW_EINVAL);
    ids[2] = -1;
    assert_int_equal(ew_session_eval(s, ids, 3, NULL, &why), EW_EINVAL);
    ids[2] = 2;
    assert_int_equal(ew_session_eval(s, ids, 9, NULL, &why), EW_ELIMIT);
    assert_int_equal(ew_session_eval(s, ids, 0, NULL, &why), EW_EINVAL);
    assert_int_equal(ew_session_pos(s), 0);
    assert_int_equal(ew_session_run(s, 0, 4, x, 1, 0, &why), EW_EINVAL);
    assert_int_equal(ew_session_run(s, 2, 1, x, 1, 0, &why), EW_EINVAL);
    assert_int_equal(ew_session_run(s, 0, 1, x, 1, 8, &why), EW_ELIMIT);
    assert_int_equal(ew_session_run(s, 0, 1, x, 1, UINT32_MAX, &why), EW_ELIMIT);
    assert_ok(ew_session_eval(s, ids, 8, NULL, err));
    assert_int_equal(ew_session_eval(s, ids, 1, NULL, &why), EW_ELIMIT);
    ew_session_free(&s);
    const ew_session_opt bad[] = {{.first_layer = 2, .last_layer = 2}, {.last_layer = 4}, {.n_ctx = 1u << 31}};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_int_equal(ew_session_new(t.model, &bad[i], &s, &why), EW_EINVAL);
    }
    s = session(&t, (ew_session_opt){.first_layer = 1, .last_layer = 3});
    assert_int_equal(ew_session_eval(s, ids, 1, NULL, &why), EW_EINVAL);
    assert_int_equal(ew_session_run(s, 0, 2, x, 1, 0, &why), EW_EINVAL);
    ew_session_free(&s);
    tiny_release(&t);
}

#define R 3

/* LoRA on every linear, then the same weights merged: y = (W + scale B A) x. */
static void a_lora_hook_equals_merged_weights(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny merged;
    tiny_make(&t, &cfg, true, 19);
    tiny_make(&merged, &cfg, true, 19);
    ew_linear_hook pairs[3 * EW_LINEAR_COUNT];
    float *ab = ew_calloc(100000, sizeof(float));
    size_t used = 0;
    ew_rng rng;
    ew_rng_init(&rng, 20, 0);
    for (uint32_t i = 0; i < cfg.L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(&cfg, (ew_linear)l, &rows, &cols);
            float *a = ab + used;
            float *b = a + R * cols;
            used += R * (size_t)(cols + rows);
            for (size_t j = 0; j < R * (size_t)(cols + rows); j++) {
                a[j] = (float)(0.2 * ew_rng_normal(&rng));
            }
            bool on = (i + l) % 4 != 3;
            pairs[i * EW_LINEAR_COUNT + l] = (ew_linear_hook){.a = a, .b = b, .rank = on ? R : 0, .scale = 0.7F};
            float *w = merged.block + (merged.layer[i].linear[l] - merged.block);
            for (size_t r = 0; on && r < rows; r++) {
                for (size_t c = 0; c < cols; c++) {
                    for (size_t k = 0; k < R; k++) {
                        w[r * cols + c] += 0.7F * b[r * R + k] * a[k * cols + c];
                    }
                }
            }
        }
    }
    ew_hooks hooks = {.linear = pairs};
    assert_int_equal(ew_hooks_max_rank(&hooks, cfg.L), R);
    int32_t ids[N];
    tiny_ids(cfg.V, 21, ids, N);
    float plain[67];
    float hooked[67];
    float want[67];
    ew_session *s = session(&t, (ew_session_opt){.hooks = &hooks, .kv_type = EW_KV_F32});
    ew_session *m = session(&merged, (ew_session_opt){.kv_type = EW_KV_F32});
    assert_ok(ew_session_eval(s, ids, N, hooked, err));
    assert_ok(ew_session_eval(m, ids, N, want, err));
    assert_ok(ew_session_set_hooks(s, NULL, err));
    assert_ok(ew_session_eval(s, ids, N, plain, err));
    double change = 0;
    for (int i = 0; i < 67; i++) {
        assert_true(fabsf(hooked[i] - want[i]) < 1e-3F * (1 + fabsf(want[i])));
        change += fabs((double)(hooked[i] - plain[i]));
    }
    assert_true(change > 1);
    assert_int_equal(ew_session_set_hooks(m, &hooks, NULL), EW_EINVAL);
    ew_session_free(&s);
    ew_session_free(&m);
    ew_free(ab);
    tiny_release(&t);
    tiny_release(&merged);
}

static void greedy_generation_follows_the_argmax_to_its_limits(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 22);
    int32_t prompt[4] = {5, 6, 7, 8};
    ew_session *s = session(&t, (ew_session_opt){.n_ctx = 12});
    EW_AUTO_TOKENS out = {0};
    ew_generate_stats st;
    assert_ok(ew_generate(s, prompt, 4, &(ew_generate_opt){.max_tok = 6}, &out, NULL, &st, err));
    assert_int_equal(out.n, 6);
    assert_int_equal(st.stop, EW_STOP_LENGTH);
    float row[67];
    ew_session_reset(s);
    assert_ok(ew_session_eval(s, prompt, 4, row, err));
    for (size_t i = 0; i < out.n; i++) {
        assert_int_equal(out.id[i], ew_argmax(row, 67));
        assert_ok(ew_session_eval(s, &out.id[i], 1, row, err));
    }
    EW_AUTO_TOKENS all = {0};
    ew_session_reset(s);
    assert_ok(ew_generate(s, prompt, 4, NULL, &all, NULL, &st, err));
    assert_int_equal(st.stop, EW_STOP_CONTEXT);
    assert_int_equal(all.n, 9); /* 8 that fit, and the one that they predict */
    assert_int_equal(ew_session_pos(s), 12);
    EW_AUTO_TOKENS cut = {0};
    ew_session_reset(s);
    ew_generate_opt go = {.stop_ids = &out.id[2], .n_stop_ids = 1};
    assert_ok(ew_generate(s, prompt, 4, &go, &cut, NULL, &st, err));
    assert_int_equal(st.stop, EW_STOP_EOG);
    assert_true(cut.n <= 2);
    ew_session_free(&s);
    tiny_release(&t);
}

static void a_model_with_damaged_weights_generates_nothing(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 23);
    t.block[0] = NAN; /* one weight of a query */
    const int32_t prompt[4] = {5, 6, 7, 8};
    for (int i = 0; i < 2; i++) {
        ew_session *s = session(&t, (ew_session_opt){.n_ctx = 12});
        EW_AUTO_TOKENS out = {0};
        ew_error e = EW_ERROR_INIT;
        ew_generate_opt opt = {.max_tok = 3, .sampler = {.temperature = (float)i}};
        assert_int_equal(ew_generate(s, prompt, 4, &opt, &out, NULL, NULL, &e), EW_ECORRUPT);
        assert_non_null(strstr(e.msg, "damaged"));
        assert_int_equal(out.n, 0);
        ew_session_free(&s);
    }
    tiny_release(&t);
}

static void labels_are_scored_like_whole_sequences(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 23);
    int32_t prompt[5] = {1, 2, 3, 4, 5};
    const int32_t ids[][4] = {{9, 10, 11, 12}, {9, 10, 13, 0}, {9, 10, 0, 0},
                              {9, 10, 11, 14}, {20, 0, 0, 0},  {20, 9, 10, 11}};
    const size_t n[] = {4, 3, 2, 4, 1, 4};
    ew_label labels[6];
    double got[6];
    for (size_t i = 0; i < 6; i++) {
        labels[i] = (ew_label){ids[i], n[i]};
    }
    ew_session *s = session(&t, (ew_session_opt){0});
    assert_ok(ew_score_labels(s, prompt, 5, labels, 6, got, err));
    assert_int_equal(ew_session_pos(s), 5);
    for (size_t i = 0; i < 6; i++) {
        int32_t seq[9];
        double nll;
        size_t count;
        memcpy(seq, prompt, sizeof(prompt));
        memcpy(seq + 5, ids[i], n[i] * sizeof(int32_t));
        assert_ok(ew_session_nll(s, seq, 5 + n[i], 5, &nll, &count, err));
        assert_true(fabs(nll + got[i]) < 1e-9);
    }
    ew_session_free(&s);
    tiny_release(&t);
}

static void failing_allocations_are_clean_errors(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 24);
    int32_t prompt[2] = {1, 2};
    for (uint64_t n = 1;; n++) {
        ew_session *s = NULL;
        EW_AUTO_TOKENS out = {0};
        ew_mem_fail_at(n);
        ew_status st = ew_session_new(t.model, &(ew_session_opt){.n_ctx = 16}, &s, NULL);
        if (st == EW_OK) {
            st = ew_generate(s, prompt, 2, &(ew_generate_opt){.max_tok = 3}, &out, NULL, NULL, NULL);
        }
        ew_mem_fail_at(0);
        ew_session_free(&s);
        if (st == EW_OK) {
            assert_true(n > 3);
            break;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_true(n < 100);
    }
    tiny_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_compose_bit_for_bit_at_every_cut),
        cmocka_unit_test(token_by_token_equals_one_batch),
        cmocka_unit_test(every_kernel_and_pool_agrees_with_ref),
        cmocka_unit_test(rewind_forgets_exactly_what_follows),
        cmocka_unit_test(evaluation_allocates_nothing),
        cmocka_unit_test(nll_is_the_sum_of_the_answer_tokens),
        cmocka_unit_test(the_plan_is_what_a_session_takes),
        cmocka_unit_test(a_memory_limit_names_the_context_that_fits),
        cmocka_unit_test(bad_requests_change_nothing),
        cmocka_unit_test(a_lora_hook_equals_merged_weights),
        cmocka_unit_test(greedy_generation_follows_the_argmax_to_its_limits),
        cmocka_unit_test(a_model_with_damaged_weights_generates_nothing),
        cmocka_unit_test(labels_are_scored_like_whole_sequences),
        cmocka_unit_test(failing_allocations_are_clean_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

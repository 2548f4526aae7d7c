/* The backward pass of every decoder family and every kind of adapter, against central differences, and its forward against a session. The
 * models are those of tests/golden/model: a few thousand parameters each. */
#include <stdio.h>

#include "model/save.h"
#include "model/session.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "test.h"
#include "train/dropout.h"

#include "gradient_net.h"
#include "tiny_model.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define N_CTX 48u

static const char *const families[] = {
    "llama3",       "llama-linear", "llama-bias",     "smollm2",     "mistral",      "qwen2",     "qwen2-yarn",
    "qwen3",        "phi2",         "phi3",           "phi3-window", "phi3-partial", "phi3-long", "phi3-short",
    "gemma",        "gemma2",       "gemma2-scale",   "gemma3",      "gemma3-v5",    "stablelm",  "stablelm-bias",
    "stablelm-12b", "gptneox",      "gptneox-serial", "gpt2",        "gpt2-prefix",  "gptneo",    "opt"};

static const ew_adapter_opt methods[] = {{.kind = EW_ADAPTER_LORA, .rank = 3, .alpha = 4},
                                         {.kind = EW_ADAPTER_LORA, .rank = 2, .dora = true},
                                         {.kind = EW_ADAPTER_PROMPT, .n_virtual = 4},
                                         {.kind = EW_ADAPTER_PREFIX, .n_virtual = 5},
                                         {.kind = EW_ADAPTER_IA3, .targets = EW_ADAPTER_ALL},
                                         {.kind = EW_ADAPTER_BOTTLENECK, .width = 6, .act = EW_ACT_GELU_TANH},
                                         {.kind = EW_ADAPTER_FULL}};

static const uint32_t lengths[] = {22, 1, 9};

static ew_model *open_family(const char *name)
{
    char path[512];
    ew_error err = EW_ERROR_INIT;
    ew_model *m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/hf", name);
    assert_ok(ew_model_open(path, NULL, &m, &err), &err);
    return m;
}

static void open_lean(gradient_net *t, ew_model *base, const ew_adapter_opt *opt, const char *kern, uint32_t ffn_rows)
{
    ew_error err = EW_ERROR_INIT;
    if (!gnet_open(t, base, opt, kern, N_CTX, ffn_rows, lengths, &err)) {
        fail_msg("%s, %s: %s", ew_model_config_of(base)->name, ew_adapter_kind_name(opt), err.msg);
    }
}

static void open_net(gradient_net *t, ew_model *base, const ew_adapter_opt *opt, const char *kern)
{
    open_lean(t, base, opt, kern, 0);
}

static void check_net(gradient_net *t, const char *family, const ew_adapter_opt *opt)
{
    (void)gnet_gradient(t, false);
    gnet_parts(t);
    const double e = gnet_check(t, 0, t->n_parts, 0.5, 3);
    if (getenv("EW_TEST_VERBOSE") != NULL) {
        print_message("%-16s %-12s %3zu arrays %.1e\n", family, ew_adapter_kind_name(opt), t->n_parts, e);
    }
    if (!(e < 1e-3)) {
        for (size_t i = 0; i < t->n_parts; i++) {
            const double own = gnet_check(t, i, 1, 0.05, 3);
            if (!(own < 5e-3)) {
                print_message("%s of layer %u: %.2e\n", t->part[i].what, t->part[i].layer, own);
            }
        }
        fail_msg("%s, %s: relative error %.2e", family, ew_adapter_kind_name(opt), e);
    }
}

static void check_method(const char *family, const ew_adapter_opt *opt)
{
    gradient_net t;
    open_net(&t, open_family(family), opt, "ref");
    check_net(&t, family, opt);
    gnet_close(&t);
}

static void gradients_match_differences(void **state)
{
    const ew_adapter_opt *opt = *state;
    for (size_t i = 0; i < EW_COUNT(families); i++) {
        check_method(families[i], opt);
    }
}

/* ---- the weights' types ---- */

static char tmp[EW_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    return ew_dir_make_temp("/tmp/ew-backward-", tmp, sizeof(tmp), NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

/* A Llama whose rows every block size divides, with weights of this type. */
static ew_model *open_typed(ew_dtype type)
{
    ew_error err = EW_ERROR_INIT;
    ew_model_config c = tiny_config();
    c.C = c.F = 256;
    c.H = 8;
    c.K = 4;
    c.D = c.n_rot = 32;
    c.L = 1;
    tiny_model t;
    char path[EW_PATH_MAX + 32];
    (void)snprintf(path, sizeof(path), "%s/%s.gguf", tmp, ew_dtype_name(type));
    assert_true(tiny_open(&t, c, 5));
    assert_ok(ew_model_save_gguf(t.model, path, &(ew_save_opt){.convert = true, .dtype = type}, &err), &err);
    tiny_close(&t);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    assert_int_equal(ew_model_layer(m, 0)->linear[EW_LINEAR_Q].dtype, type);
    return m;
}

static void gradients_match_differences_over_every_type_of_weight(void **state)
{
    (void)state;
    static const ew_dtype types[] = {EW_DTYPE_F16, EW_DTYPE_BF16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0, EW_DTYPE_Q4_K};
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        EW_AUTO(ew_model) m = open_typed(types[i]);
        for (size_t k = 0; k < EW_COUNT(methods); k++) {
            gradient_net t;
            open_net(&t, ew_model_ref(m), &methods[k], "ref");
            check_net(&t, ew_dtype_name(types[i]), &methods[k]);
            gnet_close(&t);
        }
    }
}

/* ---- what must not matter ---- */

static const char *const some[] = {"llama3", "qwen2", "qwen3", "phi2", "gemma2", "stablelm-12b", "gptneox", "opt"};

/* The same bits from activations kept and made again, and from one thread and three. */
static void recomputing_and_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    ew_pool *pool = NULL;
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_pool_new(3, &pool, &err), &err);
    for (size_t i = 0; i < EW_COUNT(some) * EW_COUNT(methods); i++) {
        gradient_net t;
        open_net(&t, open_family(some[i % EW_COUNT(some)]), &methods[i / EW_COUNT(some)], NULL);
        t.b.dropout = 0.3F;
        t.b.pass = 7;
        (void)gnet_gradient(&t, false);
        float *first = malloc(t.n * sizeof(float));
        memcpy(first, t.grad, t.n * sizeof(float));
        t.exec.pool = pool;
        (void)gnet_gradient(&t, true);
        const bool same = memcmp(first, t.grad, t.n * sizeof(float)) == 0;
        free(first);
        gnet_close(&t);
        if (!same) {
            fail_msg("%s, %s", some[i % EW_COUNT(some)], ew_adapter_kind_name(&methods[i / EW_COUNT(some)]));
        }
    }
    ew_pool_free(&pool);
}

/* Some rows of the feed-forward at a time: the same function, the gradients to rounding. */
static void a_feed_forward_by_parts_is_the_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < EW_COUNT(some) * EW_COUNT(methods); i++) {
        gradient_net whole, parts;
        const ew_adapter_opt *opt = &methods[i / EW_COUNT(some)];
        open_net(&whole, open_family(some[i % EW_COUNT(some)]), opt, NULL);
        open_lean(&parts, open_family(some[i % EW_COUNT(some)]), opt, NULL, 7);
        whole.b.dropout = parts.b.dropout = 0.3F;
        const double a = gnet_gradient(&whole, true), b = gnet_gradient(&parts, true);
        double most = 0, scale = 0;
        for (size_t k = 0; k < whole.n; k++) {
            most = fmax(most, fabs((double)whole.grad[k] - (double)parts.grad[k]));
            scale = fmax(scale, fabs((double)whole.grad[k]));
        }
        gnet_close(&whole);
        gnet_close(&parts);
        if (memcmp(&a, &b, sizeof(a)) != 0 || !(most < 1e-6 * scale)) {
            fail_msg("%s, %s: loss %.17g and %.17g, gradients differ by %g of %g", some[i % EW_COUNT(some)],
                     ew_adapter_kind_name(opt), a, b, most, scale);
        }
    }
}

static void fast_kernels_give_the_reference_gradients(void **state)
{
    (void)state;
    for (size_t i = 0; i < EW_COUNT(some) * EW_COUNT(methods); i++) {
        gradient_net ref, fast;
        open_net(&ref, open_family(some[i % EW_COUNT(some)]), &methods[i / EW_COUNT(some)], "ref");
        (void)gnet_gradient(&ref, false);
        open_net(&fast, open_family(some[i % EW_COUNT(some)]), &methods[i / EW_COUNT(some)], NULL);
        (void)gnet_gradient(&fast, false);
        double most = 0, scale = 0;
        for (size_t k = 0; k < ref.n; k++) {
            most = fmax(most, fabs((double)ref.grad[k] - (double)fast.grad[k]));
            scale = fmax(scale, fabs((double)ref.grad[k]));
        }
        gnet_close(&ref);
        gnet_close(&fast);
        if (!(most < 1e-4 * scale)) {
            fail_msg("%s, %s: %g of %g", some[i % EW_COUNT(some)], ew_adapter_kind_name(&methods[i / EW_COUNT(some)]),
                     most, scale);
        }
    }
}

/* ---- dropout ---- */

static void gradients_through_dropout_match_differences(void **state)
{
    (void)state;
    static const char *const list[] = {"llama3", "phi2"};
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        for (size_t k = 0; k < 2; k++) {
            gradient_net t;
            open_net(&t, open_family(list[i]), &methods[k], "ref");
            t.b.dropout = 0.4F;
            check_net(&t, list[i], &methods[k]);
            gnet_close(&t);
        }
    }
}

static void dropout_keeps_the_mean_and_depends_on_its_place_alone(void **state)
{
    (void)state;
    enum {
        WIDTH = 1003,
        ROWS = 200
    };
    static float x[WIDTH], y[WIDTH], again[WIDTH];
    double sum = 0;
    size_t kept = 0;
    for (size_t i = 0; i < WIDTH; i++) {
        x[i] = 1;
    }
    for (uint32_t row = 0; row < ROWS; row++) {
        ew_dropout_row(9, 77, row, 0.25F, x, WIDTH, y);
        for (size_t i = 0; i < WIDTH; i++) {
            assert_true(y[i] == 0 || fabs((double)y[i] - 1 / 0.75) < 1e-6);
            sum += (double)y[i];
            kept += y[i] != 0;
        }
    }
    assert_true(fabs((double)kept / (WIDTH * ROWS) - 0.75) < 0.005);
    assert_true(fabs(sum / (WIDTH * ROWS) - 1) < 0.007);
    memcpy(again, x, sizeof(x));
    ew_dropout_row(9, 77, ROWS - 1, 0.25F, again, WIDTH, again);
    assert_memory_equal(again, y, sizeof(y));
    const struct {
        uint64_t seed, stream;
        uint32_t row;
    } others[] = {{8, 77, ROWS - 1}, {9, 78, ROWS - 1}, {9, 77, ROWS}};
    for (size_t k = 0; k < EW_COUNT(others); k++) {
        size_t same = 0;
        ew_dropout_row(others[k].seed, others[k].stream, others[k].row, 0.25F, x, WIDTH, again);
        for (size_t i = 0; i < WIDTH; i++) {
            same += again[i] == y[i];
        }
        assert_true(fabs((double)same / WIDTH - 0.625) < 0.06); /* 0.75^2 + 0.25^2 */
    }
    ew_dropout_row(9, 77, 0, 0, x, WIDTH, y);
    assert_memory_equal(x, y, sizeof(y));
}

/* ---- the function is the session's ---- */

/* Sum of the negative log-likelihood of ids[1, n). */
static double session_nll(const gradient_net *t, const int32_t *ids, size_t n)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    const ew_session_opt opt = {
        .n_ctx = N_CTX - t->hooks.n_virtual, .exec = t->exec, .hooks = &t->hooks, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(t->model, &opt, &s, &err), &err);
    double nll = 0;
    size_t scored = 0;
    assert_ok(ew_session_nll(s, ids, n, 1, &nll, &scored, &err), &err);
    assert_int_equal(scored, n - 1);
    ew_session_free(&s);
    return nll;
}

static void the_loss_is_that_of_a_session(void **state)
{
    (void)state;
    enum {
        N = 32
    };
    int32_t ids[N];
    for (size_t i = 0; i < N; i++) {
        ids[i] = (int32_t)(3 + i * 29 % 90);
    }
    for (size_t i = 0; i < EW_COUNT(families) * EW_COUNT(methods); i++) {
        const char *family = families[i % EW_COUNT(families)];
        const ew_adapter_opt *opt = &methods[i / EW_COUNT(families)];
        gradient_net t;
        open_net(&t, open_family(family), opt, NULL);
        const uint32_t rows = opt->kind == EW_ADAPTER_PROMPT ? opt->n_virtual : 0;
        const int32_t first = opt->kind == EW_ADAPTER_PREFIX ? (int32_t)opt->n_virtual : 0;
        assert_true(rows + N - 1 <= t.b.T);
        for (uint32_t k = 0; k < rows + N - 1; k++) {
            t.pos[k] = first + (int32_t)k;
            t.id[k] = k < rows ? -1 : ids[k - rows];
            t.target[k] = k < rows ? 0 : ids[k - rows + 1];
            t.weight[k] = k < rows ? 0 : 1;
        }
        t.bound[1] = rows + N - 1;
        t.b.n_seq = 1;
        t.b.T = rows + N - 1;
        const double got = gnet_loss(&t, NULL), want = session_nll(&t, ids, N);
        gnet_close(&t);
        if (!(fabs(got - want) <= 2e-5 * want)) {
            fail_msg("%s, %s: %.9g, the session has %.9g", family, ew_adapter_kind_name(opt), got, want);
        }
    }
}

static void an_encoder_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_family("bert");
    assert_fails(EW_EUNSUPPORTED, ew_train_supported(ew_model_config_of(m), &err), &err, "encoder");
}

int main(void)
{
    static char names[EW_COUNT(methods)][96];
    const struct CMUnitTest others[] = {
        cmocka_unit_test(gradients_match_differences_over_every_type_of_weight),
        cmocka_unit_test(recomputing_and_threads_do_not_change_a_bit),
        cmocka_unit_test(a_feed_forward_by_parts_is_the_whole),
        cmocka_unit_test(fast_kernels_give_the_reference_gradients),
        cmocka_unit_test(gradients_through_dropout_match_differences),
        cmocka_unit_test(dropout_keeps_the_mean_and_depends_on_its_place_alone),
        cmocka_unit_test(the_loss_is_that_of_a_session),
        cmocka_unit_test(an_encoder_is_refused),
    };
    struct CMUnitTest tests[EW_COUNT(methods) + EW_COUNT(others)];
    for (size_t i = 0; i < EW_COUNT(methods); i++) {
        (void)snprintf(names[i], sizeof(names[i]), "gradients of %s match differences in every family",
                       ew_adapter_kind_name(&methods[i]));
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = gradients_match_differences,
                                       .initial_state = (void *)(uintptr_t)&methods[i]};
    }
    memcpy(tests + EW_COUNT(methods), others, sizeof(others));
    return _cmocka_run_group_tests("families", tests, EW_COUNT(tests), setup, teardown);
}

/* What holds for models of every family beside their figures (golden/model): adapters reach each linear layer, limits and what cannot be done
 * are told by name, files keep what they had. */
#include "tiny.h"

#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/save.h"
#include "model/session.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/families/"

static char tmp[EW_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    return ew_dir_make_temp("/tmp/ew-family-", tmp, sizeof(tmp), NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *path_of(const char *name)
{
    static char path[2 * EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", tmp, name);
    return path;
}

static ew_model *open_hf(const char *family)
{
    char path[512];
    ew_model *m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/hf", family);
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, err));
    return m;
}

static const char *const all[] = {"llama3", "mistral",  "qwen2",        "qwen3",   "phi2", "phi3",   "gemma", "gemma2",
                                  "gemma3", "stablelm", "stablelm-12b", "gptneox", "gpt2", "gptneo", "opt",   "bert"};

/* ---- adapters ---- */

#define N 6

/* The last row of the logits or hidden states. */
static void run(const ew_model *m, const ew_hooks *hooks, float *ret)
{
    static const int32_t ids[N] = {3, 14, 15, 9, 26, 5};
    const ew_model_config *c = ew_model_config_of(m);
    float all_rows[N * 128];
    ew_session *s = NULL;
    ew_session_opt opt = {
        .n_ctx = N, .exec.kern = ew_kern_get("ref"), .hooks = hooks, .max_rank = 2, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &opt, &s, err));
    if (c->encoder) {
        assert_ok(ew_session_encode(s, ids, N, EW_POOLING_NONE, all_rows, err));
        memcpy(ret, all_rows + (size_t)(N - 1) * c->C, c->C * sizeof(float));
    } else {
        assert_ok(ew_session_eval(s, ids, N, ret, err));
    }
    ew_session_free(&s);
}

static void an_adapter_reaches_every_linear_layer(void **state)
{
    (void)state;
    static float ab[2 * 512];
    float plain[128], got[128];
    for (size_t i = 0; i < EW_COUNT(ab); i++) {
        ab[i] = 0.05F * (float)((i * 7) % 11) - 0.2F;
    }
    for (size_t f = 0; f < EW_COUNT(all); f++) {
        ew_model *m = open_hf(all[f]);
        const ew_model_config *c = ew_model_config_of(m);
        size_t width = (c->encoder ? c->C : c->V) * sizeof(float);
        run(m, NULL, plain);
        for (uint32_t il = 0; il < c->L; il++) {
            for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
                ew_linear_hook pairs[8 * EW_LINEAR_COUNT] = {0};
                uint32_t rows, cols;
                ew_linear_shape(c, (ew_linear)l, &rows, &cols);
                assert_true(rows <= 512 && cols <= 512 && c->L <= 8);
                pairs[il * EW_LINEAR_COUNT + l] = (ew_linear_hook){.a = ab, .b = ab + 3, .rank = 1, .scale = 1};
                run(m, &(ew_hooks){.linear = pairs}, got);
                if ((rows > 0) != (memcmp(plain, got, width) != 0)) {
                    fail_msg("%s: layer %u, linear %u", all[f], il, l);
                }
            }
        }
        ew_model_unref(&m);
    }
}

static void modules_have_the_names_of_their_family(void **state)
{
    (void)state;
    static const struct {
        const char *family;
        ew_linear linear;
        const char *module; /* NULL = none */
    } list[] = {
        {"llama3", EW_LINEAR_Q, "model.layers.1.self_attn.q_proj"},
        {"phi2", EW_LINEAR_O, "model.layers.1.self_attn.dense"},
        {"phi2", EW_LINEAR_GATE, NULL},
        {"phi3", EW_LINEAR_Q, NULL},
        {"gpt2", EW_LINEAR_UP, "transformer.h.1.mlp.c_fc"},
        {"opt", EW_LINEAR_DOWN, "model.decoder.layers.1.fc2"},
        {"gptneo", EW_LINEAR_V, "transformer.h.1.attn.attention.v_proj"},
    };
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        char name[96];
        ew_model *m = open_hf(list[i].family);
        bool there = ew_linear_hf_module(ew_model_config_of(m), list[i].linear, 1, name, sizeof(name));
        assert_int_equal(there, list[i].module != NULL);
        if (there) {
            assert_string_equal(name, list[i].module);
        }
        ew_model_unref(&m);
    }
}

static void training_is_refused_by_the_feature_it_lacks(void **state)
{
    (void)state;
    static const struct {
        const char *family, *says; /* NULL = it can be trained */
    } list[] = {{"llama3", NULL}, {"mistral", NULL}, {"qwen3", NULL}, {"phi2", NULL},     {"phi3", NULL},
                {"gemma2", NULL}, {"gptneox", NULL}, {"opt", NULL},   {"bert", "encoder"}};
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_model *m = open_hf(list[i].family);
        ew_error why = EW_ERROR_INIT;
        ew_status st = ew_model_check_trainable(ew_model_config_of(m), &why);
        if (st != (list[i].says == NULL ? EW_OK : EW_EUNSUPPORTED) ||
            (list[i].says != NULL && strstr(why.msg, list[i].says) == NULL)) {
            fail_msg("%s: %s", list[i].family, why.msg);
        }
        ew_model_unref(&m);
    }
}

/* ---- limits ---- */

static void a_session_refuses_what_the_model_cannot(void **state)
{
    (void)state;
    static const struct {
        const char *family;
        ew_session_opt opt;
        const char *says;
    } list[] = {{"gpt2", {.n_ctx = 49}, "48 positions"},
                {"opt", {.n_ctx = 65}, "64 positions"},
                {"bert", {.n_ctx = 4096}, "positions"},
                {"llama3", {.kv_type = EW_KV_Q8_0}, "multiple of 32"},
                {"llama3", {.kv_type = (ew_kv_type)7}, "cache type 7"}};
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_model *m = open_hf(list[i].family);
        ew_session *s = NULL;
        ew_memory_plan plan;
        ew_error why = EW_ERROR_INIT;
        assert_int_equal(ew_session_new(m, &list[i].opt, &s, &why), EW_EINVAL);
        if (strstr(why.msg, list[i].says) == NULL) {
            fail_msg("%s: %s", list[i].family, why.msg);
        }
        assert_int_equal(ew_session_memory(m, &list[i].opt, &plan, NULL), EW_EINVAL);
        ew_model_unref(&m);
    }
}

static void a_q8_0_cache_is_smaller_and_close(void **state)
{
    (void)state;
    static const ew_kv_type types[] = {EW_KV_F32, EW_KV_F16, EW_KV_Q8_0};
    ew_model_config cfg = tiny_config();
    cfg.D = cfg.n_rot = 32;
    tiny t;
    tiny_make(&t, &cfg, true, 51);
    int32_t ids[24];
    float logits[3][67];
    uint64_t kv[3];
    double scale = 0;
    double diff[3] = {0};
    tiny_ids(cfg.V, 52, ids, 24);
    for (size_t k = 0; k < 3; k++) {
        ew_session_opt opt = {.n_ctx = 24, .n_batch = 7, .kv_type = types[k]};
        ew_session *s = NULL;
        ew_memory_plan plan;
        assert_ok(ew_session_memory(t.model, &opt, &plan, err));
        kv[k] = plan.kv_bytes;
        assert_ok(ew_session_new(t.model, &opt, &s, err));
        assert_ok(ew_session_eval(s, ids, 24, logits[k], err));
        ew_session_free(&s);
        for (size_t i = 0; i < 67; i++) {
            scale = fmax(scale, fabs((double)logits[0][i]));
            diff[k] = fmax(diff[k], fabs((double)logits[k][i] - (double)logits[0][i]));
        }
    }
    assert_true(kv[2] < kv[1] && kv[1] < kv[0]);
    assert_true(diff[1] <= 2e-3 * scale);
    assert_true(diff[2] > 0 && diff[2] <= 3e-2 * scale);
    tiny_release(&t);
}

static void encoders_encode_and_decoders_decode(void **state)
{
    (void)state;
    const int32_t ids[] = {1, 2, 3};
    float x[3 * 128];
    ew_error why = EW_ERROR_INIT;
    ew_model *bert = open_hf("bert");
    ew_model *gpt2 = open_hf("gpt2");
    ew_session *e = NULL;
    ew_session *d = NULL;
    assert_ok(ew_session_new(bert, NULL, &e, err));
    assert_ok(ew_session_new(gpt2, NULL, &d, err));
    assert_int_equal(ew_model_output(bert)->rows, 0);
    assert_int_equal(ew_session_eval(e, ids, 3, x, &why), EW_EINVAL);
    assert_non_null(strstr(why.msg, "encoder"));
    assert_int_equal(ew_session_head(e, x, x, NULL), EW_EINVAL);
    double nll;
    size_t n;
    assert_int_equal(ew_session_nll(e, ids, 3, 1, &nll, &n, NULL), EW_EINVAL);
    assert_int_equal(ew_session_encode(d, ids, 3, EW_POOLING_MEAN, x, NULL), EW_EINVAL);
    assert_int_equal(ew_session_encode(e, ids, 0, EW_POOLING_MEAN, x, NULL), EW_EINVAL);
    assert_int_equal(ew_session_encode(e, (const int32_t[]){100000}, 1, EW_POOLING_MEAN, x, NULL), EW_EINVAL);
    float first[128], last[128];
    uint32_t C = ew_model_config_of(bert)->C;
    assert_ok(ew_session_encode(e, ids, 3, EW_POOLING_NONE, x, err));
    assert_ok(ew_session_encode(e, ids, 3, EW_POOLING_CLS, first, err));
    assert_ok(ew_session_encode(e, ids, 3, EW_POOLING_LAST, last, err));
    assert_memory_equal(first, x, C * sizeof(float));
    assert_memory_equal(last, x + (size_t)2 * C, C * sizeof(float));
    ew_session_free(&e);
    ew_session_free(&d);
    ew_model_unref(&bert);
    ew_model_unref(&gpt2);
}

static void copies_are_counted(void **state)
{
    (void)state;
    static const struct {
        const char *family;
        bool copies;
    } list[] = {{"llama3", false}, {"phi3", false},   {"qwen3", false},
                {"gpt2", true},    {"gptneox", true}, {"gemma", true}};
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_model *m = open_hf(list[i].family);
        ew_memory_plan plan;
        assert_int_equal(ew_model_copied_bytes(m) > 0, list[i].copies);
        assert_true(ew_model_copied_bytes(m) <= ew_model_weights_bytes(m));
        assert_ok(ew_model_memory(m, 8, 0, &plan, err));
        assert_int_equal(plan.copied_bytes, ew_model_copied_bytes(m));
        ew_model_unref(&m);
    }
}

/* ---- files ---- */

static void logits(const char *path, float *ret)
{
    ew_model *m = NULL;
    assert_ok(ew_model_open(path, NULL, &m, err));
    run(m, NULL, ret);
    ew_model_unref(&m);
}

/* Linear scaling and stored divisors at once: llama.cpp multiplies them, and a second file has to say both again. */
static void scaling_and_stored_divisors_survive_saving_twice(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    float want[128], got[128], plain[128];
    tiny_make(&t, &cfg, true, 50);
    assert_ok(ew_model_save_gguf(t.model, path_of("plain.gguf"), NULL, err));
    tiny_release(&t);
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    assert_ok(ew_gguf_open(path_of("plain.gguf"), &g, err));
    assert_ok(ew_gguf_writer_new(path_of("both.gguf"), &w, err));
    ew_gguf_add_str(w, "llama.rope.scaling.type", "linear");
    ew_gguf_add_f32(w, "llama.rope.scaling.factor", 4);
    ew_gguf_add_str(w, "somebody.note", "kept");
    ew_gguf_add_all_from(w, g, NULL);
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        const ew_tensor_view *v = ew_gguf_tensor(g, i);
        assert_ok(ew_gguf_add_tensor(w, v->name, v->dtype, v->n_dims, v->dims, err));
    }
    const uint64_t dims[1] = {cfg.n_rot / 2};
    const float factors[8] = {1, 1, 2, 3, 5, 8, 8, 8};
    assert_ok(ew_gguf_add_tensor(w, "rope_freqs.weight", EW_DTYPE_F32, 1, dims, err));
    assert_ok(ew_gguf_writer_begin(w, err));
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        assert_ok(ew_gguf_write_tensor(w, i, ew_gguf_tensor(g, i)->data, err));
    }
    assert_ok(ew_gguf_write(w, factors, sizeof(factors), err));
    assert_ok(ew_gguf_writer_commit(w, err));
    logits(path_of("plain.gguf"), plain);
    logits(path_of("both.gguf"), want);
    assert_true(memcmp(plain, want, 67 * sizeof(float)) != 0);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path_of("both.gguf"), NULL, &m, err));
    assert_ok(ew_model_save_gguf(m, path_of("again.gguf"), NULL, err));
    ew_model_unref(&m);
    logits(path_of("again.gguf"), got);
    assert_memory_equal(want, got, 67 * sizeof(float));
    EW_AUTO(ew_gguf) again = NULL;
    char note[8];
    assert_ok(ew_gguf_open(path_of("again.gguf"), &again, err));
    assert_true(ew_gguf_get_str_copy(again, "somebody.note", note, sizeof(note)));
    assert_string_equal(note, "kept");
}

/* "….LayerNorm.weight" as "….LayerNorm.gamma", the way TensorFlow's checkpoints named it. */
static const char *old_name(const char *name, char dst[static 160])
{
    const char *at = strstr(name, "LayerNorm.");
    const char *last = at != NULL && ew_str_ends(name, ".weight") ? "gamma" : "beta";
    if (at != NULL) {
        (void)snprintf(dst, 160, "%.*s%s", (int)(at - name) + 10, name, last);
    } else {
        (void)snprintf(dst, 160, "%s", name);
    }
    return dst;
}

static void old_names_of_berts_norms_are_known(void **state)
{
    (void)state;
    EW_AUTO(ew_safetensors) st = NULL;
    EW_AUTO(ew_safetensors_writer) w = NULL;
    EW_AUTO_BUF config = {0};
    char name[160];
    float want[128], got[128];
    assert_ok(ew_dir_make(path_of("old"), 0700, err));
    assert_ok(ew_file_read(DIR "bert/hf/config.json", 1 << 16, &config, err));
    assert_ok(ew_file_replace(path_of("old/config.json"), config.data, config.size, 0600, err));
    assert_ok(ew_safetensors_open(DIR "bert/hf", &st, err));
    assert_ok(ew_safetensors_writer_new(path_of("old/model.safetensors"), &w, err));
    size_t n = ew_safetensors_n_tensors(st);
    for (int write = 0; write < 2; write++) {
        for (size_t i = 0; i < n; i++) {
            const ew_tensor_view *t = ew_safetensors_tensor(st, i);
            if (t->dtype == EW_DTYPE_I64) {
                continue; /* position_ids, if there are any */
            }
            assert_ok(write == 0
                          ? ew_safetensors_add_tensor(w, old_name(t->name, name), t->dtype, t->n_dims, t->dims, err)
                          : ew_safetensors_write(w, t->data, t->bytes, err));
        }
        assert_ok(write == 0 ? ew_safetensors_writer_begin(w, err) : ew_safetensors_writer_commit(w, err));
    }
    ew_model *m = open_hf("bert");
    run(m, NULL, want);
    ew_model_unref(&m);
    assert_ok(ew_model_open(path_of("old"), NULL, &m, err));
    run(m, NULL, got);
    assert_memory_equal(want, got, ew_model_config_of(m)->C * sizeof(float));
    ew_model_unref(&m);
}

/* A file with norms of heads in one dimension says nothing of the other heads. */
static void a_norm_for_one_head_is_no_norm_for_all(void **state)
{
    (void)state;
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    ew_model *m = NULL;
    ew_error why = EW_ERROR_INIT;
    assert_ok(ew_gguf_open(DIR "stablelm-12b/model.gguf", &g, err));
    assert_ok(ew_gguf_writer_new(path_of("one-head.gguf"), &w, err));
    ew_gguf_add_all_from(w, g, NULL);
    size_t n = ew_gguf_n_tensors(g);
    for (int write = 0; write < 2; write++) {
        for (size_t i = 0; i < n; i++) {
            const ew_tensor_view *t = ew_gguf_tensor(g, i);
            bool one = ew_str_ends(t->name, "attn_k_norm.weight");
            assert_ok(write == 0 ? ew_gguf_add_tensor(w, t->name, t->dtype, one ? 1 : t->n_dims, t->dims, err)
                                 : ew_gguf_write(w, t->data, one ? t->dims[0] * sizeof(float) : t->bytes, err));
        }
        assert_ok(write == 0 ? ew_gguf_writer_begin(w, err) : ew_gguf_writer_commit(w, err));
    }
    assert_int_equal(ew_model_open(path_of("one-head.gguf"), NULL, &m, &why), EW_ECORRUPT);
    assert_non_null(strstr(why.msg, "attn_k_norm"));
}

static void options_of_other_families_change_nothing(void **state)
{
    (void)state;
    EW_AUTO_BUF config = {0};
    EW_AUTO_BUF weights = {0};
    float want[128], got[128];
    ew_model_config cfg = tiny_config();
    assert_ok(ew_dir_make(path_of("other"), 0700, err));
    assert_ok(ew_file_read(DIR "phi2/hf/config.json", 1 << 16, &config, err));
    assert_int_equal(config.data[0], '{');
    ew_buf_consume(&config, 1);
    EW_AUTO_BUF more = {0};
    ew_buf_adds(&more, "{\"do_layer_norm_before\": false, \"use_parallel_residual\": false, ");
    ew_buf_add(&more, config.data, config.size);
    assert_ok(ew_file_replace(path_of("other/config.json"), more.data, more.size, 0600, err));
    assert_ok(ew_file_read(DIR "phi2/hf/model.safetensors", 1 << 20, &weights, err));
    assert_ok(ew_file_replace(path_of("other/model.safetensors"), weights.data, weights.size, 0600, err));
    ew_model *m = open_hf("phi2");
    run(m, NULL, want);
    ew_model_unref(&m);
    assert_ok(ew_model_open(path_of("other"), NULL, &m, err));
    run(m, NULL, got);
    assert_memory_equal(want, got, ew_model_config_of(m)->V * sizeof(float));
    ew_model_unref(&m);
    cfg.norm_after = cfg.parallel = true; /* a parallel layer may have one norm; these need two */
    assert_int_equal(ew_model_config_check(&cfg, NULL), EW_EUNSUPPORTED);
}

/* Of mistral's configuration, with `window` in place of what it says of its window. */
static uint32_t window_of(const char *window)
{
    EW_AUTO_BUF config = {0};
    EW_AUTO_BUF weights = {0};
    EW_AUTO_BUF other = {0};
    ew_model *m = NULL;
    assert_ok(ew_dir_make(path_of("window"), 0700, err));
    assert_ok(ew_file_read(DIR "mistral/hf/config.json", 1 << 16, &config, err));
    const char *text = ew_buf_str(&config), *at = strstr(text, "\"sliding_window\"");
    assert_non_null(at);
    ew_buf_add(&other, text, (size_t)(at - text));
    ew_buf_adds(&other, window);
    ew_buf_adds(&other, at + strcspn(at, ",\n}"));
    assert_ok(ew_file_replace(path_of("window/config.json"), other.data, other.size, 0600, err));
    assert_ok(ew_file_read(DIR "mistral/hf/model.safetensors", 1 << 20, &weights, err));
    assert_ok(ew_file_replace(path_of("window/model.safetensors"), weights.data, weights.size, 0600, err));
    assert_ok(ew_model_open(path_of("window"), NULL, &m, err));
    uint32_t n = ew_model_config_of(m)->window;
    ew_model_unref(&m);
    return n;
}

static void a_window_that_is_not_said_is_the_familys(void **state)
{
    (void)state;
    assert_int_equal(window_of("\"sliding_window\": 7"), 7);
    assert_int_equal(window_of("\"sliding_window\": null"), 0);
    assert_int_equal(window_of("\"no_window\": 7"), 4096);
}

static void what_gguf_cannot_say_is_not_written(void **state)
{
    (void)state;
    static const struct {
        const char *family, *says;
    } list[] = {{"opt", "no architecture for 'opt'"},
                {"gptneo", "no architecture for 'gptneo'"},
                {"gemma2-scale", "query_pre_attn_scalar"}};
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_model *m = open_hf(list[i].family);
        ew_error why = EW_ERROR_INIT;
        assert_int_equal(ew_model_save_gguf(m, path_of("no.gguf"), NULL, &why), EW_EUNSUPPORTED);
        if (strstr(why.msg, list[i].says) == NULL) {
            fail_msg("%s: %s", list[i].family, why.msg);
        }
        assert_false(ew_file_exists(path_of("no.gguf")));
        ew_model_unref(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_reaches_every_linear_layer),
        cmocka_unit_test(modules_have_the_names_of_their_family),
        cmocka_unit_test(training_is_refused_by_the_feature_it_lacks),
        cmocka_unit_test(a_session_refuses_what_the_model_cannot),
        cmocka_unit_test(a_q8_0_cache_is_smaller_and_close),
        cmocka_unit_test(encoders_encode_and_decoders_decode),
        cmocka_unit_test(copies_are_counted),
        cmocka_unit_test(scaling_and_stored_divisors_survive_saving_twice),
        cmocka_unit_test(old_names_of_berts_norms_are_known),
        cmocka_unit_test(a_norm_for_one_head_is_no_norm_for_all),
        cmocka_unit_test(options_of_other_families_change_nothing),
        cmocka_unit_test(a_window_that_is_not_said_is_the_familys),
        cmocka_unit_test(what_gguf_cannot_say_is_not_written),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

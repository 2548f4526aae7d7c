/* Every kind of adapter over the random models of every family: what a fresh one does, hooks against merged weights, files of our own,
 * gradients' places, refusals. What peft and transformers compute with them is golden/peft. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "format/gguf.h"
#include "model/model.h"
#include "model/session.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "test.h"

#define FAMILIES EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define N 9
#define ROOM 128

static const char *const decoders[] = {"llama3",       "mistral", "qwen2",  "qwen3",  "phi2",
                                       "phi3",         "gemma",   "gemma2", "gemma3", "stablelm",
                                       "stablelm-12b", "gptneox", "gpt2",   "gptneo", "opt"};

static const ew_adapter_opt kinds[] = {{.kind = EW_ADAPTER_LORA, .rank = 2, .rslora = true, .dropout = 0.1F},
                                       {.kind = EW_ADAPTER_LORA, .rank = 3, .n_exits = 1, .exit = {1}},
                                       {.kind = EW_ADAPTER_LORA, .rank = 2, .alpha = 3, .dora = true},
                                       {.kind = EW_ADAPTER_PROMPT, .n_virtual = 3},
                                       {.kind = EW_ADAPTER_PREFIX, .n_virtual = 3},
                                       {.kind = EW_ADAPTER_IA3},
                                       {.kind = EW_ADAPTER_BOTTLENECK, .width = 5, .act = EW_ACT_GELU_TANH},
                                       {.kind = EW_ADAPTER_FULL}};

static ew_model *open_family(const char *family, bool gguf)
{
    ew_error err = EW_ERROR_INIT;
    ew_model *m = NULL;
    char path[EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), FAMILIES "%s/%s", family, gguf ? "model.gguf" : "hf");
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    return m;
}

static void eval_hooks(const ew_model *m, const ew_hooks *hooks, float *logits)
{
    static const int32_t ids[N] = {3, 14, 15, 9, 26, 5, 35, 8, 9};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_session) s = NULL;
    const ew_session_opt so = {
        .n_ctx = 20, .n_batch = 4, .exec = {ew_kern_get("ref"), NULL}, .hooks = hooks, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &so, &s, &err), &err);
    assert_ok(ew_session_eval(s, ids, N, logits, &err), &err);
}

/* The model with the adapter, as it is run. */
static void eval(const ew_model *m, const ew_adapter *a, float *logits)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) run = NULL;
    if (a == NULL) {
        eval_hooks(m, NULL, logits);
        return;
    }
    assert_ok(ew_adapter_model(a, m, &run, &err), &err);
    eval_hooks(run, ew_adapter_hooks(a), logits);
}

static double difference(const float *a, const float *b, size_t n)
{
    double most = 0, large = 0;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)a[i] - (double)b[i]));
        large = EW_MAX(large, fabs((double)b[i]));
    }
    return most / large;
}

static ew_adapter *make(const ew_model *m, const ew_adapter_opt *opt)
{
    ew_error err = EW_ERROR_INIT;
    ew_adapter *a = NULL;
    assert_ok(ew_adapter_new(m, opt, &a, &err), &err);
    return a;
}

/* Around what a fresh one has. */
static ew_adapter *make_random(const ew_model *m, const ew_adapter_opt *opt, double dev)
{
    ew_adapter *a = make(m, opt);
    size_t n;
    float *p = ew_adapter_params(a, &n);
    ew_rng rng;
    ew_rng_init(&rng, 7, opt->kind);
    for (size_t i = 0; i < n; i++) {
        p[i] += (float)(dev * ew_rng_normal(&rng));
    }
    ew_adapter_refresh(a, m, NULL);
    return a;
}

static void a_fresh_adapter_changes_nothing_but_virtual_positions(void **state)
{
    (void)state;
    float plain[ROOM], got[ROOM];
    for (size_t f = 0; f < EW_COUNT(decoders); f++) {
        EW_AUTO(ew_model) m = open_family(decoders[f], false);
        const uint32_t V = ew_model_config_of(m)->V;
        eval(m, NULL, plain);
        for (size_t k = 0; k < EW_COUNT(kinds); k++) {
            EW_AUTO(ew_adapter) a = make(m, &kinds[k]);
            size_t n;
            (void)ew_adapter_params(a, &n);
            assert_int_equal(n, ew_adapter_count(m, &kinds[k]));
            assert_true(ew_adapter_bytes(m, &kinds[k]) > n * sizeof(float));
            if (kinds[k].n_exits > 0) {
                continue; /* its exits vote */
            }
            eval(m, a, got);
            const double d = difference(got, plain, V);
            if ((d > 1e-6) != (kinds[k].n_virtual > 0)) {
                fail_msg("%s, %s: %g", decoders[f], ew_adapter_kind_name(&kinds[k]), d);
            }
        }
    }
}

/* LoRA, DoRA and IA3 on all linears of every family that GGUF has. */
static void hooks_and_merged_weights_agree(void **state)
{
    (void)state;
    static const ew_adapter_opt opts[] = {{.rank = 3, .alpha = 2},
                                          {.rank = 2, .alpha = 1, .dora = true},
                                          {.kind = EW_ADAPTER_IA3, .targets = EW_ADAPTER_ALL},
                                          {.rank = 2, .targets = EW_ADAPTER_TARGET(EW_LINEAR_V)}};
    float hooked[ROOM], merged[ROOM], plain[ROOM];
    ew_error err = EW_ERROR_INIT;
    for (size_t f = 0; f < EW_COUNT(decoders); f++) {
        char path[EW_PATH_MAX];
        (void)snprintf(path, sizeof(path), FAMILIES "%s/model.gguf", decoders[f]);
        if (!ew_file_exists(path)) {
            continue;
        }
        EW_AUTO(ew_model) m = open_family(decoders[f], true);
        const uint32_t V = ew_model_config_of(m)->V;
        eval(m, NULL, plain);
        for (size_t k = 0; k < EW_COUNT(opts); k++) {
            EW_AUTO(ew_adapter) a = make_random(m, &opts[k], 0.2);
            EW_AUTO(ew_model) one = NULL;
            const char *out = ew_test_path("merged.gguf");
            assert_ok(ew_adapter_merge_gguf(a, m, out, NULL, &err), &err);
            assert_ok(ew_model_open(out, &(ew_model_opt){.no_tokenizer = true}, &one, &err), &err);
            eval(m, a, hooked);
            eval(one, NULL, merged);
            const double d = difference(hooked, merged, V), change = difference(hooked, plain, V);
            if (d > 4e-3 || change < 20 * d) { /* F16 */
                fail_msg("%s, %zu: %g of a change of %g", decoders[f], k, d, change);
            }
        }
    }
}

static void merging_can_keep_the_types(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_model) one = NULL;
    EW_AUTO(ew_model) half = NULL;
    float hooked[ROOM], merged[ROOM], plain[ROOM];
    assert_ok(ew_model_open(EW_TEST_SOURCE_DIR "/tests/golden/model/llama64-q8_0.gguf",
                            &(ew_model_opt){.no_tokenizer = true}, &m, &err),
              &err);
    EW_AUTO(ew_adapter) a = make_random(m, &(ew_adapter_opt){.rank = 2}, 0.1);
    const char *out = ew_test_path("kept.gguf"), *f16 = ew_test_path("f16.gguf");
    assert_ok(ew_adapter_merge_gguf(a, m, out, &(ew_adapter_merge_opt){.keep_type = true}, &err), &err);
    assert_ok(ew_adapter_merge_gguf(a, m, f16, NULL, &err), &err);
    assert_ok(ew_model_open(out, &(ew_model_opt){.no_tokenizer = true}, &one, &err), &err);
    assert_ok(ew_model_open(f16, &(ew_model_opt){.no_tokenizer = true}, &half, &err), &err);
    assert_string_equal(ew_model_dtype_name(one), "Q8_0");
    assert_string_equal(ew_model_dtype_name(half), "F16");
    eval(m, a, hooked);
    eval(one, NULL, merged);
    eval(m, NULL, plain);
    const double d = difference(merged, hooked, ew_model_config_of(m)->V);
    const double change = difference(plain, hooked, ew_model_config_of(m)->V);
    if (d > 0.1 || change < 5 * d) {
        fail_msg("%g of a change of %g", d, change);
    }
}

static void dora_ratios_are_those_of_the_dense_sum(void **state)
{
    (void)state;
    static float w[512 * 512];
    EW_AUTO(ew_model) m = open_family("qwen2", true);
    EW_AUTO(ew_adapter) a = make_random(m, &(ew_adapter_opt){.rank = 4, .dora = true}, 0.3);
    const ew_linear_hook *hooks = ew_adapter_hooks(a)->linear;
    for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
        const ew_mat *mat = &ew_model_layer(m, 1)->linear[l];
        const ew_linear_hook *h = &hooks[EW_LINEAR_COUNT + l];
        for (size_t r = 0; r < mat->rows; r++) {
            ew_dequant_row(mat->dtype, (const char *)mat->data + r * mat->row_bytes, w, mat->cols);
            double sum = 0;
            for (size_t c = 0; c < mat->cols; c++) {
                double v = (double)w[c];
                for (size_t k = 0; k < h->rank; k++) {
                    v += (double)h->scale * (double)h->b[r * h->rank + k] * (double)h->a[k * mat->cols + c];
                }
                sum += v * v;
            }
            assert_true(fabs(sqrt(sum) - (double)h->norm[r]) < 1e-5 * sqrt(sum));
        }
    }
}

/* relu(Down o + bd) is linear when bd is large: then the bottleneck is a change of O. */
static void a_bottleneck_behind_attention_is_what_its_formula_says(void **state)
{
    (void)state;
    enum {
        W = 3
    };
    float got[ROOM], want[ROOM], plain[ROOM], o[ROOM * ROOM];
    EW_AUTO(ew_model) m = open_family("llama3", false);
    const ew_model_config *c = ew_model_config_of(m);
    const size_t C = c->C, HD = (size_t)c->H * c->D;
    EW_AUTO(ew_adapter) a = make(m, &(ew_adapter_opt){.kind = EW_ADAPTER_BOTTLENECK, .width = W, .act = EW_ACT_RELU});
    EW_AUTO(ew_adapter) full = make(m, &(ew_adapter_opt){.kind = EW_ADAPTER_FULL});
    size_t n, n_full;
    float *p = ew_adapter_params(a, &n), *q = ew_adapter_params(full, &n_full);
    float *down = p, *down_b = down + W * C, *up = down_b + W, *up_b = up + C * W;
    ew_rng rng;
    ew_rng_init(&rng, 3, 3);
    for (size_t i = 0; i < W * C; i++) {
        down[i] = (float)(0.3 * ew_rng_normal(&rng));
        up[i] = (float)(0.3 * ew_rng_normal(&rng));
    }
    for (size_t k = 0; k < W; k++) {
        down_b[k] = 30;
    }
    for (size_t i = 0; i < C; i++) {
        up_b[i] = -30 * (up[i * W] + up[i * W + 1] + up[i * W + 2]);
    }
    const float *grads0 = ew_adapter_grads(full, q)->weights->layer[0].linear[EW_LINEAR_O]; /* in the parameters */
    float *wo = q + (grads0 - q);
    assert_true(HD <= ROOM && C <= ROOM);
    memcpy(o, wo, C * HD * sizeof(float));
    for (size_t i = 0; i < C; i++) {
        for (size_t j = 0; j < HD; j++) {
            for (size_t k = 0; k < W; k++) {
                for (size_t r = 0; r < C; r++) {
                    wo[i * HD + j] += up[i * W + k] * down[k * C + r] * o[r * HD + j];
                }
            }
        }
    }
    eval(m, a, got);
    eval(m, full, want);
    eval(m, NULL, plain);
    assert_true(difference(got, want, c->V) < 1e-4);
    assert_true(difference(plain, want, c->V) > 0.01);
}

static void files_of_our_own_read_back_the_same(void **state)
{
    (void)state;
    static const char *const families[] = {"llama3", "phi3", "gptneox", "opt"};
    ew_error err = EW_ERROR_INIT;
    for (size_t f = 0; f < EW_COUNT(families); f++) {
        EW_AUTO(ew_model) m = open_family(families[f], false);
        EW_AUTO(ew_model) other = open_family("smollm2", false);
        for (size_t k = 0; k < EW_COUNT(kinds); k++) {
            EW_AUTO(ew_adapter) a = make_random(m, &kinds[k], 0.2);
            EW_AUTO(ew_adapter) back = NULL;
            EW_AUTO(ew_adapter) copy = NULL;
            EW_AUTO(ew_adapter) none = NULL;
            const char *path = ew_test_path("own.gguf");
            assert_ok(ew_adapter_save_gguf(a, m, path, &err), &err);
            assert_ok(ew_adapter_load(path, m, &back, &err), &err);
            assert_ok(ew_adapter_dup(a, &copy, &err), &err);
            assert_memory_equal(ew_adapter_opt_of(a), ew_adapter_opt_of(copy), sizeof(ew_adapter_opt));
            size_t n, n_back, n_copy;
            float *p = ew_adapter_params(a, &n), *b = ew_adapter_params(back, &n_back);
            float *c = ew_adapter_params(copy, &n_copy);
            assert_true(n == n_back && n == n_copy);
            assert_memory_equal(p, b, n * sizeof(float));
            assert_memory_equal(p, c, n * sizeof(float));
            const ew_adapter_opt *o = ew_adapter_opt_of(a), *ob = ew_adapter_opt_of(back);
            assert_true(o->kind == ob->kind && o->targets == ob->targets && o->rank == ob->rank &&
                        o->rslora == ob->rslora && o->dora == ob->dora && o->n_virtual == ob->n_virtual &&
                        o->width == ob->width && o->act == ob->act && o->n_exits == ob->n_exits &&
                        fabsf(o->alpha - ob->alpha) < 1e-6F && fabsf(o->dropout - ob->dropout) < 1e-6F);
            float one[ROOM], two[ROOM], three[ROOM];
            eval(m, a, one);
            eval(m, back, two);
            p[0] += 1; /* the copy is one */
            eval(m, copy, three);
            assert_memory_equal(one, two, ew_model_config_of(m)->V * sizeof(float));
            assert_memory_equal(one, three, ew_model_config_of(m)->V * sizeof(float));
            const ew_status st = ew_adapter_load(path, other, &none, &err);
            assert_int_equal(st, EW_ECONFLICT);
        }
    }
}

/* Where a gradient goes is where its parameter is. */
static void gradients_have_the_layout_of_parameters(void **state)
{
    (void)state;
    EW_AUTO(ew_model) m = open_family("qwen2", false);
    const ew_model_config *c = ew_model_config_of(m);
    for (size_t k = 0; k < EW_COUNT(kinds); k++) {
        EW_AUTO(ew_adapter) a = make(m, &kinds[k]);
        size_t n, at = 0;
        float *p = ew_adapter_params(a, &n);
        float *grad = ew_calloc(n, sizeof(float));
        const ew_hooks *h = ew_adapter_hooks(a);
        const ew_hook_grads *g = ew_adapter_grads(a, grad);
#define SAME(hook, place)                                                                                              \
    do {                                                                                                               \
        assert_true(((hook) == NULL) == ((place) == NULL));                                                            \
        if ((hook) != NULL) {                                                                                          \
            assert_int_equal((hook)-p, (place)-grad);                                                                  \
            at++;                                                                                                      \
        }                                                                                                              \
    } while (0)
        for (size_t i = 0; h->linear != NULL && i < (size_t)c->L * EW_LINEAR_COUNT; i++) {
            SAME(h->linear[i].a, g->linear[i].a);
            SAME(h->linear[i].b, g->linear[i].b);
            SAME(h->linear[i].in_scale, g->linear[i].in_scale);
            SAME(h->linear[i].out_scale, g->linear[i].out_scale);
            assert_true((h->linear[i].ratio == NULL) == (g->linear[i].magnitude == NULL));
            at += g->linear[i].magnitude != NULL;
        }
        for (size_t i = 0; h->bottleneck != NULL && i < (size_t)c->L * 2; i++) {
            SAME(h->bottleneck[i].down, g->bottleneck[i].down);
            SAME(h->bottleneck[i].down_b, g->bottleneck[i].down_b);
            SAME(h->bottleneck[i].up, g->bottleneck[i].up);
            SAME(h->bottleneck[i].up_b, g->bottleneck[i].up_b);
        }
        SAME(h->prompt, g->prompt);
        SAME(h->prefix_k, g->prefix_k);
        SAME(h->prefix_v, g->prefix_v);
        assert_int_equal(h->n_exits, kinds[k].n_exits);
        for (uint32_t i = 0; i < h->n_exits; i++) {
            SAME(h->exits[i].norm, g->exits[i].norm);
        }
        if (kinds[k].kind == EW_ADAPTER_FULL) {
            assert_non_null(g->weights);
            assert_ptr_equal(g->weights->token_embd, grad);
            at++;
        }
        assert_true(at > 0);
        ew_free(grad);
    }
}

/* Encoders take what has no virtual positions. */
static void full_models_of_every_family_are_their_base(void **state)
{
    (void)state;
    static const int32_t ids[N] = {3, 14, 15, 9, 26, 5, 35, 8, 9};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_family("bert", false);
    EW_AUTO(ew_adapter) a = make(m, &(ew_adapter_opt){.kind = EW_ADAPTER_FULL});
    EW_AUTO(ew_model) full = NULL;
    float want[ROOM], got[ROOM];
    assert_ok(ew_adapter_model(a, m, &full, &err), &err);
    assert_int_equal(ew_model_n_params(full), ew_model_n_params(m));
    assert_int_equal(ew_adapter_count(m, ew_adapter_opt_of(a)), ew_model_n_params(m));
    assert_string_equal(ew_model_dtype_name(full), "F32");
    const ew_model *both[] = {m, full};
    for (size_t i = 0; i < 2; i++) {
        EW_AUTO(ew_session) s = NULL;
        assert_ok(ew_session_new(both[i], &(ew_session_opt){.n_ctx = 20, .exec.kern = ew_kern_get("ref")}, &s, &err),
                  &err);
        assert_ok(ew_session_encode(s, ids, N, EW_POOLING_MEAN, i == 0 ? want : got, &err), &err);
    }
    assert_memory_equal(want, got, ew_model_config_of(m)->C * sizeof(float));
    EW_AUTO(ew_adapter) no = NULL;
    assert_fails(EW_EUNSUPPORTED, ew_adapter_new(m, &(ew_adapter_opt){.kind = EW_ADAPTER_PREFIX}, &no, &err), &err,
                 "encoder");
}

/* Llama's GGUF has its rows in another order, and the model of floats saves as one. */
static void full_models_are_saved_whole(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    float want[ROOM], got[ROOM];
    for (int gguf = 0; gguf < 2; gguf++) {
        EW_AUTO(ew_model) m = open_family("llama3", gguf != 0);
        EW_AUTO(ew_adapter) a = make_random(m, &(ew_adapter_opt){.kind = EW_ADAPTER_FULL}, 0.01);
        EW_AUTO(ew_model) saved = NULL;
        const char *out = ew_test_path("full.gguf");
        assert_ok(ew_adapter_merge_gguf(a, m, out, NULL, &err), &err);
        assert_ok(ew_model_open(out, &(ew_model_opt){.no_tokenizer = true}, &saved, &err), &err);
        eval(m, a, want);
        eval(saved, NULL, got);
        assert_true(difference(got, want, ew_model_config_of(m)->V) < 4e-3);
    }
}

static void prompts_start_from_tokens(void **state)
{
    (void)state;
    static const int32_t ids[] = {7, 9};
    EW_AUTO(ew_model) m = open_family("gemma", false);
    const ew_adapter_opt opt = {
        .kind = EW_ADAPTER_PROMPT, .n_virtual = 5, .init_ids = ids, .n_init_ids = EW_COUNT(ids)};
    EW_AUTO(ew_adapter) a = make(m, &opt);
    size_t n;
    const float *p = ew_adapter_params(a, &n);
    const ew_mat *t = ew_model_token_embd(m);
    float row[ROOM];
    for (size_t i = 0; i < 5; i++) {
        ew_dequant_row(t->dtype, (const char *)t->data + (size_t)ids[i % 2] * t->row_bytes, row, t->cols);
        assert_memory_equal(row, p + i * t->cols, t->cols * sizeof(float));
    }
    assert_null(ew_adapter_opt_of(a)->init_ids);
}

static void what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    static const int32_t far_id[] = {100000};
    static const struct {
        ew_adapter_opt opt;
        const char *says;
    } bad[] = {{{.kind = EW_ADAPTER_PROMPT, .rank = 4}, "prompt does not have a rank"},
               {{.kind = EW_ADAPTER_IA3, .dora = true}, "magnitudes"},
               {{.kind = EW_ADAPTER_LORA, .n_virtual = 4}, "virtual"},
               {{.kind = EW_ADAPTER_FULL, .targets = 1}, "targets"},
               {{.kind = (ew_adapter_kind)77}, "kind 77"},
               {{.kind = EW_ADAPTER_PREFIX, .n_virtual = 5000}, "5000"},
               {{.dropout = 1}, "dropout"},
               {{.n_exits = 2, .exit = {1, 1}}, "rising"},
               {{.n_exits = 1, .exit = {2}}, "early exit"},
               {{.kind = EW_ADAPTER_PROMPT, .init_ids = far_id, .n_init_ids = 1}, "100000"}};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_family("llama3", true);
    EW_AUTO(ew_model) gpt2 = open_family("gpt2", false);
    EW_AUTO(ew_adapter) a = NULL;
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_fails(EW_EINVAL, ew_adapter_new(m, &bad[i].opt, &a, &err), &err, bad[i].says);
    }
    assert_fails(EW_EINVAL,
                 ew_adapter_new(gpt2, &(ew_adapter_opt){.kind = EW_ADAPTER_PREFIX, .n_virtual = 1000}, &a, &err), &err,
                 "learned");
    assert_fails(EW_EUNSUPPORTED,
                 ew_adapter_new(gpt2, &(ew_adapter_opt){.targets = EW_ADAPTER_TARGET(EW_LINEAR_GATE)}, &a, &err), &err,
                 "none of the linears");
    EW_AUTO(ew_adapter) prompt = make(m, &(ew_adapter_opt){.kind = EW_ADAPTER_PROMPT});
    EW_AUTO(ew_adapter) house = make(m, &(ew_adapter_opt){.kind = EW_ADAPTER_BOTTLENECK});
    EW_AUTO(ew_adapter) exits = make(m, &(ew_adapter_opt){.n_exits = 1, .exit = {1}});
    const char *out = ew_test_path("x.gguf");
    assert_fails(EW_EUNSUPPORTED, ew_adapter_merge_gguf(prompt, m, out, NULL, &err), &err, "no change of weights");
    assert_fails(EW_EUNSUPPORTED, ew_adapter_merge_gguf(exits, m, out, NULL, &err), &err, "exits");
    assert_fails(EW_EUNSUPPORTED, ew_adapter_save_peft(house, m, ew_test_path("d"), &err), &err, "bottleneck");
    assert_fails(EW_EUNSUPPORTED, ew_adapter_save_peft(exits, m, ew_test_path("d"), &err), &err, "exits");
    EW_AUTO(ew_model) phi3 = open_family("phi3", false);
    EW_AUTO(ew_adapter)
    part = make(phi3, &(ew_adapter_opt){.rank = 2, .dora = true, .targets = EW_ADAPTER_TARGET(EW_LINEAR_Q)});
    assert_fails(EW_EUNSUPPORTED, ew_adapter_save_peft(part, phi3, ew_test_path("d"), &err), &err, "qkv_proj");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_adapter_changes_nothing_but_virtual_positions),
        cmocka_unit_test(hooks_and_merged_weights_agree),
        cmocka_unit_test(merging_can_keep_the_types),
        cmocka_unit_test(dora_ratios_are_those_of_the_dense_sum),
        cmocka_unit_test(a_bottleneck_behind_attention_is_what_its_formula_says),
        cmocka_unit_test(files_of_our_own_read_back_the_same),
        cmocka_unit_test(gradients_have_the_layout_of_parameters),
        cmocka_unit_test(full_models_of_every_family_are_their_base),
        cmocka_unit_test(full_models_are_saved_whole),
        cmocka_unit_test(prompts_start_from_tokens),
        cmocka_unit_test(what_does_not_go_together_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

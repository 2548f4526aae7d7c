/* Gradients of decoder layers against central differences along random directions, one per tensor, with the reference
 * kernels. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "kern/ops.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "train/backward.h"

#include "tiny_model.h"

#define T_ROWS 23
static const uint32_t bounds[] = {0, 9, 10, 23};

typedef struct net {
    tiny_model tiny;
    ew_adapter *lora; /* NULL = none */
    ew_exec exec;
    ew_arena arena;
    ew_train_acts acts[TINY_LAYERS_MAX];
    ew_train_work work;
    float *xl, *hidden, *dhidden, *rstd;
    void *ce;
    int32_t id[T_ROWS], pos[T_ROWS], target[T_ROWS];
    float weight[T_ROWS];
    ew_train_batch b;
    /* gradients of everything */
    float *g_embd, *g_out_norm;
    float *g_linear[TINY_LAYERS_MAX][EW_LINEAR_COUNT];
    float *g_norm[TINY_LAYERS_MAX][2];
    float *g_lora;
} net;

static void take(net *t, ew_arena *a)
{
    const ew_model_config *c = &t->tiny.cfg;
    const ew_train_needs needs = {.rank = t->lora != NULL ? ew_adapter_opt_of(t->lora)->rank : 0};
    assert_true(ew_train_work_take(a, t->tiny.model, &needs, T_ROWS, &t->work));
    for (uint32_t il = 0; il < c->L; il++) {
        assert_true(ew_train_acts_take(a, c, &needs, T_ROWS, &t->acts[il]));
        t->acts[il].x = ew_arena_take(a, (size_t)T_ROWS * c->C, sizeof(float));
    }
    t->xl = ew_arena_take(a, (size_t)T_ROWS * c->C, sizeof(float));
    t->hidden = ew_arena_take(a, (size_t)T_ROWS * c->C, sizeof(float));
    t->dhidden = ew_arena_take(a, (size_t)T_ROWS * c->C, sizeof(float));
    t->rstd = ew_arena_take(a, T_ROWS, sizeof(float));
    t->ce = ew_arena_take(a, ew_cross_entropy_scratch(ew_model_output(t->tiny.model), T_ROWS), 1);
}

static void net_open(net *t, ew_model_config cfg, const ew_adapter_opt *lora, const char *kern)
{
    ew_error err = EW_ERROR_INIT;
    memset(t, 0, sizeof(*t));
    assert_true(tiny_open(&t->tiny, cfg, 3));
    t->exec.kern = ew_kern_get(kern);
    ew_rng rng;
    ew_rng_init(&rng, 11, 1);
    if (lora != NULL) {
        assert_int_equal(ew_adapter_new(t->tiny.model, lora, &t->lora, &err), EW_OK);
        size_t n;
        float *p = ew_adapter_params(t->lora, &n);
        for (size_t i = 0; i < n; i++) {
            p[i] = (float)(0.2 * ew_rng_normal(&rng)); /* B as well: no gradient hides behind a zero */
        }
        t->g_lora = calloc(n, sizeof(float));
    }
    ew_arena dry;
    ew_arena_init_dry(&dry);
    take(t, &dry);
    assert_int_equal(ew_arena_init(&t->arena, dry.peak, &err), EW_OK);
    take(t, &t->arena);
    ew_train_work_start(&t->work);
    for (size_t s = 0, i = 0; i < T_ROWS; i++) {
        s += i == bounds[s + 1];
        t->id[i] = (int32_t)ew_rng_below(&rng, cfg.V);
        t->target[i] = (int32_t)ew_rng_below(&rng, cfg.V);
        t->pos[i] = (int32_t)(i - bounds[s]);
        t->weight[i] = i % 3 == 0 ? 0.0F : 0.5F + (float)(i % 4);
    }
    t->b = (ew_train_batch){
        .T = T_ROWS, .n_seq = 3, .bound = bounds, .id = t->id, .pos = t->pos, .target = t->target, .weight = t->weight};
}

static void net_close(net *t)
{
    ew_adapter_free(&t->lora);
    tiny_close(&t->tiny);
    ew_arena_release(&t->arena);
    free(t->g_embd);
    free(t->g_out_norm);
    free(t->g_lora);
    for (uint32_t il = 0; il < t->tiny.cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            free(t->g_linear[il][i]);
        }
        free(t->g_norm[il][0]);
        free(t->g_norm[il][1]);
    }
}

static const ew_hooks *hooks_of(const net *t)
{
    return t->lora != NULL ? ew_adapter_hooks(t->lora) : NULL;
}

static double loss_of(net *t, bool backward)
{
    const ew_model *m = t->tiny.model;
    const ew_exec *e = &t->exec;
    const uint32_t L = t->tiny.cfg.L;
    ew_embed(e, ew_model_token_embd(m), t->id, T_ROWS, t->acts[0].x);
    for (uint32_t il = 0; il < L; il++) {
        ew_train_layer_forward(e, m, il, hooks_of(t), &t->b, &t->acts[il], &t->work,
                               il + 1 < L ? t->acts[il + 1].x : t->xl);
    }
    ew_rmsnorm(e, t->xl, ew_model_output_norm(m), T_ROWS, t->tiny.cfg.C, t->tiny.cfg.norm_eps, t->hidden, t->rstd);
    return ew_cross_entropy(e, &(ew_cross_entropy_args){.head = ew_model_output(m),
                                                        .hidden = t->hidden,
                                                        .targets = t->target,
                                                        .weight = t->weight,
                                                        .T = T_ROWS,
                                                        .scale = 1,
                                                        .dhidden = backward ? t->dhidden : NULL,
                                                        .dhead = backward ? t->g_embd : NULL,
                                                        .scratch = t->ce});
}

static void gradients(net *t)
{
    const ew_model_config *c = &t->tiny.cfg;
    const ew_exec *e = &t->exec;
    t->g_embd = calloc((size_t)c->V * c->C, sizeof(float));
    t->g_out_norm = calloc(c->C, sizeof(float));
    (void)loss_of(t, true);
    memset(t->work.dx, 0, (size_t)T_ROWS * c->C * sizeof(float));
    ew_rmsnorm_bwd(e, t->xl, ew_model_output_norm(t->tiny.model), t->rstd, t->dhidden, T_ROWS, c->C, t->work.dx,
                   t->g_out_norm);
    ew_layer_floats layers[TINY_LAYERS_MAX] = {0};
    const ew_model_floats weights = {.layer = layers};
    ew_hook_grads g = t->lora != NULL ? *ew_adapter_grads(t->lora, t->g_lora) : (ew_hook_grads){0};
    g.weights = &weights;
    for (uint32_t il = c->L; il-- > 0;) {
        ew_layer_floats *places = &layers[il];
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            uint32_t rows, cols;
            ew_linear_shape(c, (ew_linear)i, &rows, &cols);
            places->linear[i] = t->g_linear[il][i] = calloc((size_t)rows * cols, sizeof(float));
        }
        places->attn_norm = t->g_norm[il][0] = calloc(c->C, sizeof(float));
        places->ffn_norm = t->g_norm[il][1] = calloc(c->C, sizeof(float));
        ew_train_layer_backward(e, t->tiny.model, il, hooks_of(t), &t->b, &t->acts[il], &t->work, &g, true);
    }
    ew_embed_bwd(e, t->work.dx, t->id, T_ROWS, c->C, t->g_embd);
}

/* dL along a random direction in p[n]: by differences, and by the gradient g. */
static void check_direction(net *t, float *p, const float *g, size_t n, const char *what, double tolerance)
{
    ew_rng rng;
    ew_rng_init(&rng, n, 5);
    float *keep = malloc(n * sizeof(float)), *d = malloc(n * sizeof(float));
    double exact = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        keep[i] = p[i];
        d[i] = (float)ew_rng_normal(&rng) + (g[i] > 0 ? 0.5F : -0.5F); /* leaning on the gradient: never near zero */
        norm += (double)d[i] * (double)d[i];
    }
    const double h = 2e-3 / sqrt(norm) * sqrt((double)EW_MIN(n, 64u));
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            p[i] = (float)((double)keep[i] + (side == 0 ? -h : h) * (double)d[i]);
        }
        loss[side] = loss_of(t, false);
    }
    double step = 0;
    for (size_t i = 0; i < n; i++) {
        /* what float made of the step */
        const double moved = (double)p[i] - (double)(float)((double)keep[i] - h * (double)d[i]);
        exact += (double)g[i] * moved;
        step += moved * moved;
        p[i] = keep[i];
    }
    const double diff = loss[1] - loss[0];
    const double scale = EW_MAX(fabs(exact), 1e-3 * sqrt(step));
    if (fabs(diff - exact) > tolerance * scale) {
        fail_msg("%s: difference %.8g, gradient %.8g", what, diff, exact);
    }
    free(keep);
    free(d);
}

static void check_all(net *t, double tolerance)
{
    const ew_model_config *c = &t->tiny.cfg;
    check_direction(t, t->tiny.embd, t->g_embd, (size_t)c->V * c->C, "tied embedding", tolerance);
    check_direction(t, t->tiny.out_norm, t->g_out_norm, c->C, "output norm", tolerance);
    for (uint32_t il = 0; il < c->L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            uint32_t rows, cols;
            ew_linear_shape(c, (ew_linear)i, &rows, &cols);
            check_direction(t, t->tiny.linear[il][i], t->g_linear[il][i], (size_t)rows * cols,
                            ew_linear_hf_name((ew_linear)i), tolerance);
            size_t a, b, n;
            if (t->lora != NULL && ew_adapter_slot(t->lora, il, (ew_linear)i, &a, &b)) {
                float *p = ew_adapter_params(t->lora, &n);
                const size_t r = ew_adapter_opt_of(t->lora)->rank;
                check_direction(t, p + a, t->g_lora + a, r * cols, "lora_A", tolerance);
                check_direction(t, p + b, t->g_lora + b, r * rows, "lora_B", tolerance);
            }
        }
        check_direction(t, t->tiny.norm[il][0], t->g_norm[il][0], c->C, "attention norm", tolerance);
        check_direction(t, t->tiny.norm[il][1], t->g_norm[il][1], c->C, "ffn norm", tolerance);
    }
}

static void gradients_of_all_weights_match_differences(void **state)
{
    (void)state;
    net t;
    net_open(&t, tiny_config(), NULL, "ref");
    gradients(&t);
    check_all(&t, 5e-3);
    net_close(&t);
}

static void gradients_of_lora_match_differences(void **state)
{
    (void)state;
    net t;
    net_open(&t, tiny_config(), &(ew_adapter_opt){.rank = 3, .alpha = 5}, "ref");
    gradients(&t);
    check_all(&t, 5e-3);
    net_close(&t);
}

static void gradients_match_with_half_split_rope_and_wide_heads(void **state)
{
    (void)state;
    ew_model_config c = tiny_config();
    c.rope_kind = EW_ROPE_NEOX;
    c.D = 16;
    c.n_rot = 16;
    c.K = 4;
    c.L = 1;
    net t;
    net_open(&t, c, &(ew_adapter_opt){.rank = 2, .rslora = true, .targets = EW_ADAPTER_TARGET(EW_LINEAR_Q)}, "ref");
    gradients(&t);
    check_all(&t, 5e-3);
    net_close(&t);
}

static void fast_kernels_give_the_reference_gradients(void **state)
{
    (void)state;
    net ref, fast;
    const ew_adapter_opt lo = {.rank = 4};
    net_open(&ref, tiny_config(), &lo, "ref");
    net_open(&fast, tiny_config(), &lo, NULL);
    gradients(&ref);
    gradients(&fast);
    size_t n;
    (void)ew_adapter_params(ref.lora, &n);
    double most = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)ref.g_lora[i] - (double)fast.g_lora[i]));
        scale = EW_MAX(scale, fabs((double)ref.g_lora[i]));
    }
    assert_true(most < 1e-4 * scale);
    net_close(&ref);
    net_close(&fast);
}

static void packed_sequences_do_not_see_each_other(void **state)
{
    (void)state;
    net t;
    net_open(&t, tiny_config(), NULL, "ref");
    (void)loss_of(&t, false);
    const size_t at = 10, C = t.tiny.cfg.C;
    float *before = malloc((T_ROWS - at) * C * sizeof(float));
    memcpy(before, t.hidden + at * C, (T_ROWS - at) * C * sizeof(float));
    for (size_t i = 0; i < at; i++) {
        t.id[i] = (t.id[i] + 1) % (int32_t)t.tiny.cfg.V;
    }
    (void)loss_of(&t, false);
    assert_memory_equal(before, t.hidden + at * C, (T_ROWS - at) * C * sizeof(float));
    free(before);
    net_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_all_weights_match_differences),
        cmocka_unit_test(gradients_of_lora_match_differences),
        cmocka_unit_test(gradients_match_with_half_split_rope_and_wide_heads),
        cmocka_unit_test(fast_kernels_give_the_reference_gradients),
        cmocka_unit_test(packed_sequences_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

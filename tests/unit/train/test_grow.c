/* A grown model computes what the small one does, and its copies differ. */
#include <math.h>
#include <stdlib.h>

#include "model/session.h"
#include "test.h"
#include "tiny_model.h"
#include "train/grow.h"

typedef struct grown {
    ew_model_config cfg;
    float *embd, *out_norm;
    ew_grow_layer layer[TINY_LAYERS_MAX];
    ew_layer_floats floats[TINY_LAYERS_MAX];
    ew_model *model;
} grown;

static void grown_open(grown *g, const ew_model *from, ew_model_config cfg)
{
    ew_error err = EW_ERROR_INIT;
    *g = (grown){.cfg = cfg};
    g->embd = malloc((size_t)cfg.V * cfg.C * sizeof(float));
    g->out_norm = malloc(cfg.C * sizeof(float));
    for (uint32_t il = 0; il < cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            uint32_t rows, cols;
            ew_linear_shape(&cfg, (ew_linear)i, &rows, &cols);
            g->floats[il].linear[i] = g->layer[il].linear[i] = malloc((size_t)rows * cols * sizeof(float));
        }
        g->floats[il].attn_norm = g->layer[il].attn_norm = malloc(cfg.C * sizeof(float));
        g->floats[il].ffn_norm = g->layer[il].ffn_norm = malloc(cfg.C * sizeof(float));
    }
    const ew_grow_target target = {g->embd, g->out_norm, g->layer};
    assert_ok(ew_grow_check(from, &cfg, &err), &err);
    assert_ok(ew_grow_fill(from, &cfg, 3, &target, &err), &err);
    const ew_model_floats f = {.token_embd = g->embd, .output_norm = g->out_norm, .layer = g->floats};
    assert_ok(ew_model_from_floats(&cfg, NULL, &f, &g->model, &err), &err);
}

static void grown_close(grown *g)
{
    ew_model_unref(&g->model);
    for (uint32_t il = 0; il < g->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            free(g->layer[il].linear[i]);
        }
        free(g->layer[il].attn_norm);
        free(g->layer[il].ffn_norm);
    }
    free(g->embd);
    free(g->out_norm);
}

static void logits_of(ew_model *m, float *dst)
{
    ew_error err = EW_ERROR_INIT;
    const int32_t ids[] = {1, 5, 9, 30, 2, 2, 17, 36, 0, 8};
    EW_AUTO(ew_session) s = NULL;
    assert_ok(ew_session_new(m, NULL, &s, &err), &err);
    assert_ok(ew_session_eval(s, ids, EW_COUNT(ids), dst, &err), &err);
}

static ew_model_config times(ew_model_config c, uint32_t width, uint32_t ffn)
{
    c.C *= width;
    c.H *= width;
    c.K *= width;
    c.F *= ffn;
    return c;
}

static void the_grown_model_gives_the_small_ones_logits(void **state)
{
    (void)state;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 11));
    float want[37], got[37];
    logits_of(t.model, want);
    const uint32_t factors[][2] = {{1, 1}, {2, 2}, {3, 1}, {1, 2}};
    for (size_t i = 0; i < EW_COUNT(factors); i++) {
        grown g;
        grown_open(&g, t.model, times(t.cfg, factors[i][0], factors[i][1]));
        logits_of(g.model, got);
        for (size_t v = 0; v < EW_COUNT(want); v++) {
            assert_float_equal(got[v], want[v], 2e-4F * fmaxf(1.0F, fabsf(want[v])));
        }
        grown_close(&g);
    }
    tiny_close(&t);
}

static void copies_of_an_input_have_shares_of_their_own(void **state)
{
    (void)state;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 12));
    grown g;
    grown_open(&g, t.model, times(t.cfg, 2, 2));
    const float *down = g.layer[1].linear[EW_LINEAR_DOWN];
    const size_t F = g.cfg.F;
    size_t apart = 0;
    for (size_t c = 0; c < F / 2; c++) {
        apart += fabsf(down[c] - down[c + F / 2]) > 1e-3F;
    }
    assert_true(apart > F / 2 * 8 / 10);
    /* Rows are copies, with shares of their own too. */
    assert_true(fabsf(down[0] - down[(size_t)t.cfg.C * F]) > 0);
    grown_close(&g);
    tiny_close(&t);
}

static void what_does_not_fit_is_refused_with_words(void **state)
{
    (void)state;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 13));
    ew_error err = EW_ERROR_INIT;
    ew_model_config c = times(t.cfg, 2, 2);
    c.C += 8;
    assert_fails(EW_EINVAL, ew_grow_check(t.model, &c, &err), &err, "dim from 32 to 72");
    c = times(t.cfg, 2, 2);
    c.L = 3;
    assert_fails(EW_EINVAL, ew_grow_check(t.model, &c, &err), &err, "");
    c = times(t.cfg, 2, 2);
    c.K = t.cfg.K;
    assert_fails(EW_EINVAL, ew_grow_check(t.model, &c, &err), &err, "");
    c = times(t.cfg, 2, 1);
    c.V++;
    assert_fails(EW_EINVAL, ew_grow_check(t.model, &c, &err), &err, "");
    c = t.cfg;
    c.F /= 2;
    assert_fails(EW_EINVAL, ew_grow_check(t.model, &c, &err), &err, "");
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_grown_model_gives_the_small_ones_logits),
        cmocka_unit_test(copies_of_an_input_have_shares_of_their_own),
        cmocka_unit_test(what_does_not_fit_is_refused_with_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

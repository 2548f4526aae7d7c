/* A Llama model of random f32 weights in memory, for tests: GQA, head width unlike C/H, optional tied head. */
#ifndef EW_TEST_TINY_H
#define EW_TEST_TINY_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "model/model.h"
#include "model/weights.h"

typedef struct tiny {
    ew_model_config cfg;
    ew_layer_floats layer[8];
    ew_model_floats weights;
    float *block; /* all weights */
    size_t used, cap;
    ew_rng rng;
    ew_model *model;
} tiny;

static inline float *tiny_take(tiny *t, size_t n, double mean, double scale)
{
    float *p = t->block + t->used;
    t->used += n;
    assert_true(t->used <= t->cap);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)(mean + scale * ew_rng_normal(&t->rng));
    }
    return p;
}

static inline ew_model_config tiny_config(void)
{
    ew_model_config c = {.arch = "llama",
                         .name = "tiny",
                         .C = 32,
                         .H = 4,
                         .K = 2,
                         .D = 16,
                         .F = 48,
                         .V = 67,
                         .L = 3,
                         .n_ctx_train = 64,
                         .norm_eps = 1e-5F,
                         .rope_kind = EW_ROPE_NORM,
                         .n_rot = 16,
                         .rope_theta = 10000.0F,
                         .file_type = -1};
    return c;
}

static inline void tiny_make(tiny *t, const ew_model_config *cfg, bool tied, uint64_t seed)
{
    ew_error err = EW_ERROR_INIT;
    *t = (tiny){.cfg = *cfg};
    ew_rng_init(&t->rng, seed, 0);
    t->cap = 200000;
    t->block = ew_calloc(t->cap, sizeof(float));
    assert_non_null(t->block);
    for (uint32_t i = 0; i < cfg->L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
            t->layer[i].linear[l] = tiny_take(t, (size_t)rows * cols, 0, 1.5 / sqrt((double)cols));
        }
        t->layer[i].attn_norm = tiny_take(t, cfg->C, 1, 0.1);
        t->layer[i].ffn_norm = tiny_take(t, cfg->C, 1, 0.1);
    }
    t->weights = (ew_model_floats){.token_embd = tiny_take(t, (size_t)cfg->V * cfg->C, 0, 1),
                                   .output = tied ? NULL : tiny_take(t, (size_t)cfg->V * cfg->C, 0, 0.3),
                                   .output_norm = tiny_take(t, cfg->C, 1, 0.1),
                                   .layer = t->layer};
    ew_status st = ew_model_from_floats(&t->cfg, NULL, &t->weights, &t->model, &err);
    if (st != EW_OK) {
        fail_msg("%s", err.msg);
    }
}

static inline void tiny_release(tiny *t)
{
    ew_model_unref(&t->model);
    ew_free(t->block);
}

/* n ids below V. */
static inline void tiny_ids(uint32_t V, uint64_t seed, int32_t *ids, size_t n)
{
    ew_rng r;
    ew_rng_init(&r, seed, 1);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)ew_rng_below(&r, V);
    }
}

#define assert_ok(expr)                                                                                                \
    do {                                                                                                               \
        ew_error ok_err = EW_ERROR_INIT;                                                                               \
        ew_error *err = &ok_err;                                                                                       \
        if ((expr) != EW_OK) {                                                                                         \
            fail_msg("%s: %s", #expr, ok_err.msg);                                                                     \
        }                                                                                                              \
    } while (0)

#endif

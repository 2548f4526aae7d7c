/* A random decoder of a few thousand parameters over float arrays, for the tests of the trainers. */
#ifndef EW_TEST_TINY_MODEL_H
#define EW_TEST_TINY_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/str.h"
#include "model/model.h"
#include "model/weights.h"

#define TINY_LAYERS_MAX 4

typedef struct tiny_model {
    ew_model_config cfg;
    float *embd, *out_norm;
    float *linear[TINY_LAYERS_MAX][EW_LINEAR_COUNT];
    float *norm[TINY_LAYERS_MAX][2];
    ew_layer_floats layers[TINY_LAYERS_MAX];
    ew_model *model;
} tiny_model;

static inline float *tiny_random(ew_rng *rng, size_t n, double mean, double dev)
{
    float *p = malloc(n * sizeof(float));
    for (size_t i = 0; p != NULL && i < n; i++) {
        p[i] = (float)(mean + dev * ew_rng_normal(rng));
    }
    return p;
}

static inline ew_model_config tiny_config(void)
{
    ew_model_config c = {.C = 32, .H = 4, .K = 2, .D = 8, .F = 64, .V = 37, .L = 2, .n_ctx_train = 64};
    ew_str_copy(c.arch, sizeof(c.arch), "llama");
    ew_str_copy(c.name, sizeof(c.name), "tiny");
    c.norm_eps = 1e-5F;
    c.rope_kind = EW_ROPE_NORM;
    c.n_rot = 8;
    c.rope_theta = 10000;
    c.tied_head = true;
    c.file_type = -1;
    return c;
}

/* False: out of memory or the model was refused. */
static inline bool tiny_open(tiny_model *t, ew_model_config cfg, uint64_t seed)
{
    ew_rng rng;
    ew_rng_init(&rng, seed, 7);
    memset(t, 0, sizeof(*t));
    t->cfg = cfg;
    t->embd = tiny_random(&rng, (size_t)cfg.V * cfg.C, 0, 0.5);
    t->out_norm = tiny_random(&rng, cfg.C, 1, 0.1);
    for (uint32_t il = 0; il < cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            uint32_t rows, cols;
            ew_linear_shape(&cfg, (ew_linear)i, &rows, &cols);
            t->linear[il][i] = tiny_random(&rng, (size_t)rows * cols, 0, 1 / sqrt((double)cols));
            t->layers[il].linear[i] = t->linear[il][i];
        }
        for (int i = 0; i < 2; i++) {
            t->norm[il][i] = tiny_random(&rng, cfg.C, 1, 0.1);
        }
        t->layers[il].attn_norm = t->norm[il][0];
        t->layers[il].ffn_norm = t->norm[il][1];
    }
    const ew_model_floats f = {.token_embd = t->embd, .output_norm = t->out_norm, .layer = t->layers};
    return ew_model_from_floats(&cfg, NULL, &f, &t->model, NULL) == EW_OK;
}

static inline void tiny_close(tiny_model *t)
{
    ew_model_unref(&t->model);
    free(t->embd);
    free(t->out_norm);
    for (uint32_t il = 0; il < t->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            free(t->linear[il][i]);
        }
        free(t->norm[il][0]);
        free(t->norm[il][1]);
    }
}

#endif

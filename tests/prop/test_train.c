/* Packing is only packing: for random shapes and cuts, a layer run over packed sequences gives each sequence what it gets alone,
 * forward bit for bit and backward in its input and in the summed gradients. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "kern/kern.h"
#include "model/model.h"
#include "prop.h"
#include "test.h"
#include "train/backward.h"

#include "../unit/train/tiny_model.h"

#define T_MAX 32
#define SEQ_MAX 4

typedef struct pass {
    ew_arena arena;
    ew_train_acts acts;
    ew_train_work work;
    float *y;
    float *grad[EW_LINEAR_COUNT], *norm[2];
} pass;

static void take(pass *p, ew_arena *a, const tiny_model *t)
{
    const ew_train_needs needs = {0};
    (void)ew_train_acts_take(a, &t->cfg, &needs, T_MAX, &p->acts);
    (void)ew_train_work_take(a, t->model, &needs, T_MAX, &p->work);
    p->acts.x = ew_arena_take(a, (size_t)T_MAX * t->cfg.C, sizeof(float));
    p->y = ew_arena_take(a, (size_t)T_MAX * t->cfg.C, sizeof(float));
    for (int i = 0; i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(&t->cfg, (ew_linear)i, &rows, &cols);
        p->grad[i] = ew_arena_calloc(a, (size_t)rows * cols, sizeof(float));
    }
    p->norm[0] = ew_arena_calloc(a, t->cfg.C, sizeof(float));
    p->norm[1] = ew_arena_calloc(a, t->cfg.C, sizeof(float));
}

static bool pass_open(pass *p, const tiny_model *t)
{
    ew_arena dry;
    memset(p, 0, sizeof(*p));
    ew_arena_init_dry(&dry);
    take(p, &dry, t);
    if (ew_arena_init(&p->arena, dry.peak, NULL) != EW_OK) {
        return false;
    }
    take(p, &p->arena, t);
    ew_train_work_start(&p->work);
    return true;
}

static void run(pass *p, const tiny_model *t, const ew_train_batch *b, const float *x, const float *dy)
{
    const ew_exec e = {ew_kern_get("ref"), NULL};
    const size_t n = b->T * t->cfg.C * sizeof(float);
    ew_layer_floats places = {.attn_norm = p->norm[0], .ffn_norm = p->norm[1]};
    memcpy(places.linear, p->grad, sizeof(places.linear));
    const ew_model_floats weights = {.layer = &places};
    const ew_hook_grads g = {.weights = &weights};
    memcpy(p->acts.x, x, n);
    ew_train_layer_forward(&e, t->model, 0, NULL, b, &p->acts, &p->work, p->y);
    memcpy(p->work.dx, dy, n);
    ew_train_layer_backward(&e, t->model, 0, NULL, b, &p->acts, &p->work, &g, true);
}

static double distance(const float *a, const float *b, size_t n)
{
    double most = 0, scale = 1;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)a[i] - (double)b[i]));
        scale = EW_MAX(scale, fabs((double)a[i]));
    }
    return most / scale;
}

static ew_model_config random_config(ew_prop *p)
{
    ew_model_config c = tiny_config();
    c.K = 1 + (uint32_t)ew_rng_below(&p->rng, 3);
    c.H = c.K * (1 + (uint32_t)ew_rng_below(&p->rng, 3));
    c.D = 4 * (1 + (uint32_t)ew_rng_below(&p->rng, 4));
    c.n_rot = c.D;
    c.C = 8 * (1 + (uint32_t)ew_rng_below(&p->rng, 5));
    c.F = 8 * (1 + (uint32_t)ew_rng_below(&p->rng, 8));
    c.L = 1;
    c.rope_kind = ew_rng_below(&p->rng, 2) != 0 ? EW_ROPE_NEOX : EW_ROPE_NORM;
    return c;
}

static bool packed_is_alone(ew_prop *p, void *ctx)
{
    (void)ctx;
    tiny_model t;
    pass packed = {0}, alone = {0};
    const ew_model_config cfg = random_config(p);
    if (!ew_prop_that(p, tiny_open(&t, cfg, ew_rng_u64(&p->rng)), "model refused")) {
        return false;
    }
    uint32_t bound[SEQ_MAX + 1] = {0};
    int32_t pos[T_MAX];
    const size_t n_seq = 1 + ew_rng_below(&p->rng, SEQ_MAX);
    for (size_t s = 0; s < n_seq; s++) {
        const uint32_t n = 1 + (uint32_t)ew_rng_below(&p->rng, T_MAX / SEQ_MAX);
        for (uint32_t i = 0; i < n; i++) {
            pos[bound[s] + i] = (int32_t)i;
        }
        bound[s + 1] = bound[s] + n;
    }
    const size_t T = bound[n_seq], C = cfg.C;
    float *x = ew_prop_alloc(p, T * C, sizeof(float)), *dy = ew_prop_alloc(p, T * C, sizeof(float));
    for (size_t i = 0; i < T * C; i++) {
        x[i] = (float)ew_rng_normal(&p->rng);
        dy[i] = (float)ew_rng_normal(&p->rng);
    }
    bool ok = ew_prop_that(p, pass_open(&packed, &t) && pass_open(&alone, &t), "no memory");
    if (ok) {
        run(&packed, &t, &(ew_train_batch){.T = T, .n_seq = n_seq, .bound = bound, .pos = pos}, x, dy);
    }
    for (size_t s = 0; ok && s < n_seq; s++) {
        const size_t at = bound[s], n = bound[s + 1] - at;
        const uint32_t own[2] = {0, (uint32_t)n};
        run(&alone, &t, &(ew_train_batch){.T = n, .n_seq = 1, .bound = own, .pos = pos + at}, x + at * C, dy + at * C);
        ok = ew_prop_that(p, memcmp(alone.y, packed.y + at * C, n * C * sizeof(float)) == 0, "forward of %zu", s) &&
             ew_prop_that(p, distance(alone.work.dx, packed.work.dx + at * C, n * C) < 1e-5, "dx of %zu", s);
    }
    for (int i = 0; ok && i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(&cfg, (ew_linear)i, &rows, &cols);
        ok = ew_prop_that(p, distance(alone.grad[i], packed.grad[i], (size_t)rows * cols) < 1e-5, "dW of %s",
                          ew_linear_hf_name((ew_linear)i));
    }
    ok = ok && ew_prop_that(p, distance(alone.norm[0], packed.norm[0], C) < 1e-5, "d attention norm") &&
         ew_prop_that(p, distance(alone.norm[1], packed.norm[1], C) < 1e-5, "d ffn norm");
    ew_arena_release(&packed.arena);
    ew_arena_release(&alone.arena);
    tiny_close(&t);
    return ok;
}

static void packed_sequences_get_what_they_get_alone(void **state)
{
    (void)state;
    assert_true(ew_prop_check("packing is only packing", 100, 8, packed_is_alone, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(packed_sequences_get_what_they_get_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

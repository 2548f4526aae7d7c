/* What learns otherwise than by the gradient of the whole, on a small model: block-wise with exits (its gradient against finite differences;
 * nothing outside its window moves) and MeZO (its mean against the gradient of the backward pass); both learn, and both go on
 * after a stop as if there had been none. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"
#include "test.h"
#include "train/exits.h"
#include "train/mezo.h"
#include "train/step.h"
#include "train/tune.h"

#include "tiny_model.h"

#define T_ROWS 23
#define N_ANSWERS 6
static const uint32_t bounds[] = {0, 9, 10, 23};
static const uint32_t rows[N_ANSWERS] = {2, 7, 8, 9, 15, 22};

/* A pass over three packed sequences. */
typedef struct net {
    tiny_model tiny;
    ew_adapter *adapter;
    ew_pass *pass;
    ew_arena arena;
    int32_t id[T_ROWS], pos[T_ROWS], target[N_ANSWERS];
    ew_step_batch b;
    float *p, *grad, *kept;
    size_t n;
} net;

static void net_open_cfg(net *t, ew_model_config cfg, const ew_adapter_opt *opt, ew_tune_rung rung)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    memset(t, 0, sizeof(*t));
    cfg.L = 3;
    assert_true(tiny_open(&t->tiny, cfg, 3));
    assert_ok(ew_adapter_new(t->tiny.model, opt, &t->adapter, &err), &err);
    t->p = ew_adapter_params(t->adapter, &t->n);
    t->grad = calloc(t->n, sizeof(float));
    t->kept = calloc(t->n, sizeof(float));
    ew_rng_init(&rng, 11, 1);
    for (size_t i = 0; i < t->n; i++) {
        t->p[i] += (float)(0.2 * ew_rng_normal(&rng)); /* B as well: no gradient hides behind a zero */
    }
    ew_adapter_refresh(t->adapter, t->tiny.model, NULL);
    for (size_t s = 0, i = 0; i < T_ROWS; i++) {
        s += i == bounds[s + 1];
        t->pos[i] = (int32_t)(i - bounds[s]) + (opt->kind == EW_ADAPTER_PREFIX ? (int32_t)opt->n_virtual : 0);
        t->id[i] = (int32_t)ew_rng_below(&rng, cfg.V);
    }
    for (size_t i = 0; i < N_ANSWERS; i++) {
        t->target[i] = (int32_t)ew_rng_below(&rng, cfg.V);
    }
    t->b = (ew_step_batch){.b = {.T = T_ROWS, .n_seq = 3, .bound = bounds, .id = t->id, .pos = t->pos},
                           .row = rows,
                           .target = t->target,
                           .n_rows = N_ANSWERS};
    ew_adapter_opt resolved;
    assert_ok(ew_adapter_opt_resolve(opt, &resolved, &err), &err);
    const ew_pass_opt po = {.exec = {ew_kern_get("ref"), NULL},
                            .base = t->tiny.model,
                            .adapter_opt = &resolved,
                            .adapter = t->adapter,
                            .rung = rung,
                            .window = ew_exits_depth(&resolved, cfg.L),
                            .n_ctx = T_ROWS + opt->n_virtual};
    assert_ok(ew_pass_new(&po, &t->pass, &err), &err);
    ew_arena dry;
    ew_arena_init_dry(&dry);
    assert_true(ew_pass_take(t->pass, &dry, T_ROWS, N_ANSWERS));
    assert_ok(ew_arena_init(&t->arena, dry.peak, &err), &err);
    assert_true(ew_pass_take(t->pass, &t->arena, T_ROWS, N_ANSWERS));
    ew_pass_start(t->pass);
}

static void net_open(net *t, const ew_adapter_opt *opt, ew_tune_rung rung)
{
    net_open_cfg(t, tiny_config(), opt, rung);
}

static void net_close(net *t)
{
    ew_pass_free(&t->pass);
    ew_arena_release(&t->arena);
    ew_adapter_free(&t->adapter);
    free(t->grad);
    free(t->kept);
    tiny_close(&t->tiny);
}

/* The loss along a direction in some of the parameters, by central differences, against the gradient's part of it. */
static void check_span(net *t, const ew_pass_window *w, size_t at, size_t n, const float *grad, uint64_t seed)
{
    double want = 0, loss[2];
    float *dir = t->kept;
    ew_rng rng;
    ew_rng_init(&rng, seed, 2);
    for (size_t i = 0; i < n; i++) {
        dir[i] = (float)ew_rng_normal(&rng);
        want += (double)dir[i] * (double)grad[i];
    }
    const float eps = 1e-3F;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            t->p[at + i] += (side == 0 ? eps : -2 * eps) * dir[i];
        }
        loss[side] = ew_pass_loss(t->pass, &t->b, w);
    }
    for (size_t i = 0; i < n; i++) {
        t->p[at + i] += eps * dir[i];
    }
    const double got = (loss[0] - loss[1]) / (2 * (double)eps);
    if (fabs(got - want) > 2e-3 * (1 + fabs(want))) {
        fail_msg("layers %u to %u, parameters %zu to %zu: %.6g by differences, %.6g by the gradient", w->first, w->last,
                 at, at + n, got, want);
    }
}

static void every_block_and_exit_has_the_gradient_of_its_loss(void **state)
{
    (void)state;
    const ew_adapter_opt opt = {.rank = 2, .n_exits = 2, .exit = {1, 2}, .seed = 3};
    net t;
    net_open(&t, &opt, EW_TUNE_RUNG_BLOCKWISE);
    ew_adapter_opt o;
    assert_ok(ew_adapter_opt_resolve(&opt, &o, NULL), &(ew_error)EW_ERROR_INIT);
    for (uint32_t phase = 0; phase < 3; phase++) {
        const ew_pass_window w = ew_exits_window(&o, 3, phase);
        ew_adapter_span s[2];
        ew_exits_spans(&t.tiny.cfg, &o, t.n, &w, s);
        memset(t.grad, 0, t.n * sizeof(float));
        const double nll = ew_pass_gradient(t.pass, &t.b, &w, 1, 0, t.grad);
        assert_true(fabs(nll - ew_pass_loss(t.pass, &t.b, &w)) < 1e-4);
        assert_true(s[0].n + s[1].n <= ew_exits_most(&t.tiny.cfg, &o, t.n));
        for (size_t i = s[0].n + s[1].n; i < t.n; i++) { /* there is no gradient of anything else */
            assert_true(t.grad[i] == 0);
        }
        check_span(&t, &w, s[0].at, s[0].n, t.grad, 10 + phase);
        if (s[1].n > 0) {
            check_span(&t, &w, s[1].at, s[1].n, t.grad + s[0].n, 20 + phase);
            for (size_t i = 0; i < s[1].n; i++) {
                assert_true(t.grad[s[0].n + i] != 0);
            }
        }
    }
    net_close(&t);
}

/* Where room is shared, nothing is read that has been written over. */
static void forward_buffers_alone_give_the_same_bits(void **state)
{
    (void)state;
    const ew_adapter_opt opt = {.rank = 2, .seed = 3};
    for (int form = 0; form < 4; form++) {
        ew_model_config cfg = tiny_config();
        cfg.parallel = form == 1 || form == 3;
        cfg.ungated = form >= 2;
        net keep, fwd;
        net_open_cfg(&keep, cfg, &opt, EW_TUNE_RUNG_KEEP);
        net_open_cfg(&fwd, cfg, &opt, EW_TUNE_RUNG_MEZO);
        assert_true(ew_pass_loss(keep.pass, &keep.b, NULL) == ew_pass_loss(fwd.pass, &fwd.b, NULL));
        assert_true(fwd.arena.peak < keep.arena.peak / 2);
        net_close(&keep);
        net_close(&fwd);
    }
}

typedef struct probe {
    net *t;
} probe;

static double mean_loss(void *ctx)
{
    net *t = ((probe *)ctx)->t;
    ew_adapter_refresh(t->adapter, t->tiny.model, NULL);
    return ew_pass_loss(t->pass, &t->b, NULL) / N_ANSWERS;
}

/* The mean of g z over many seeds against the gradient. With K directions in n dimensions the squared distance is (n + 1) / K of the
 * gradient's square on average, and the share along the gradient is 1 with a standard error of sqrt(2 / K). */
static void mezo_is_the_gradient_on_average(const ew_adapter_opt *opt, float eps)
{
    enum {
        DIRS = 1200
    };
    net fwd, t;
    net_open(&t, opt, EW_TUNE_RUNG_KEEP);
    net_open(&fwd, opt, EW_TUNE_RUNG_MEZO); /* buffers of forward passes alone */
    memset(t.grad, 0, t.n * sizeof(float));
    (void)ew_pass_gradient(t.pass, &t.b, NULL, 1.0F / N_ANSWERS, 0, t.grad);
    double *mean = calloc(t.n, sizeof(double));
    float *start = calloc(t.n, sizeof(float));
    memcpy(start, fwd.p, t.n * sizeof(float));
    const ew_exec e = {ew_kern_get("ref"), NULL};
    probe loss = {&fwd};
    double squares = 0;
    for (uint64_t s = 0; s < DIRS; s++) {
        const ew_mezo_opt o = {.eps = eps, .seed = 100 + s};
        ew_mezo_result r;
        ew_mezo_step(&e, &o, 0, 1, fwd.p, fwd.kept, t.n, mean_loss, &loss, &r);
        squares += r.slope_rms * r.slope_rms / DIRS;
        for (size_t i = 0; i < t.n; i++) {
            mean[i] += ((double)start[i] - (double)fwd.p[i]) / DIRS;
        }
        memcpy(fwd.p, start, t.n * sizeof(float));
    }
    double gg = 0, gm = 0, off = 0;
    for (size_t i = 0; i < t.n; i++) {
        const double g = (double)t.grad[i];
        gg += g * g;
        gm += g * mean[i];
        off += (mean[i] - g) * (mean[i] - g);
    }
    const double along = gm / gg, apart = off / gg, chance = (double)(t.n + 1) / DIRS;
    if (fabs(along - 1) > 4 * sqrt(2.0 / DIRS) || apart > 1.6 * chance || fabs(squares / gg - 1) > 0.15) {
        fail_msg("%zu parameters: share along the gradient %.4f, distance %.4f of %.4f by chance, mean square %.4f",
                 t.n, along, apart, chance, squares / gg);
    }
    free(mean);
    free(start);
    net_close(&t);
    net_close(&fwd);
}

static void mezo_of_lora_is_the_gradient_on_average(void **state)
{
    (void)state;
    const ew_adapter_opt opt = {
        .rank = 2, .targets = EW_ADAPTER_TARGET(EW_LINEAR_Q) | EW_ADAPTER_TARGET(EW_LINEAR_V), .seed = 3};
    mezo_is_the_gradient_on_average(&opt, 2e-3F);
}

static void mezo_of_a_prefix_is_the_gradient_on_average(void **state)
{
    (void)state;
    const ew_adapter_opt opt = {.kind = EW_ADAPTER_PREFIX, .n_virtual = 3, .seed = 3};
    mezo_is_the_gradient_on_average(&opt, 1e-2F);
}

/* --- whole runs --- */

#define N_TRAIN 12

static int32_t ids[N_TRAIN][24];
static ew_tune_example examples[N_TRAIN];

/* The answer is a piece that the second token of the prompt decides. */
static ew_tune_opt run_opt(ew_model *m, ew_tune_rung rung)
{
    ew_rng rng;
    ew_rng_init(&rng, 77, 0);
    for (int i = 0; i < N_TRAIN; i++) {
        const uint32_t n_prompt = 4 + (uint32_t)(i % 5), n_answer = 1 + (uint32_t)(i % 3);
        for (uint32_t j = 0; j < n_prompt; j++) {
            ids[i][j] = (int32_t)(3 + ew_rng_below(&rng, 8));
        }
        for (uint32_t j = 0; j < n_answer; j++) {
            ids[i][n_prompt + j] = 20 + ids[i][1];
        }
        examples[i] = (ew_tune_example){ids[i], n_prompt, n_answer};
    }
    return (ew_tune_opt){.model = m,
                         .adapter = {.rank = 4, .seed = 3},
                         .train = examples,
                         .n_train = N_TRAIN,
                         .val = examples, /* whether it learns, not how well that carries over */
                         .n_val = N_TRAIN,
                         .rung = rung,
                         .batch = 6,
                         .pack_tok = 24,
                         .patience = UINT32_MAX,
                         .seed = 4};
}

static ew_tune_opt blockwise_opt(ew_model *m)
{
    ew_tune_opt o = run_opt(m, EW_TUNE_RUNG_BLOCKWISE);
    o.lr = 1e-2F;
    o.epochs = 15;
    o.adapter.n_exits = 2;
    o.adapter.exit[0] = 1;
    o.adapter.exit[1] = 2;
    return o;
}

static ew_tune_opt mezo_opt(ew_model *m, ew_adapter_kind kind)
{
    ew_tune_opt o = run_opt(m, EW_TUNE_RUNG_MEZO);
    o.adapter = (ew_adapter_opt){.kind = kind, .seed = 3};
    if (kind == EW_ADAPTER_PREFIX) {
        o.adapter.n_virtual = 4;
    } else {
        o.adapter.rank = 2;
    }
    o.lr = kind == EW_ADAPTER_PREFIX ? 1e-2F : 5e-4F;
    o.mezo_eps = 1e-2F;
    o.epochs = 200;
    o.eval_every = 100;
    return o;
}

static void both_learn(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    ew_model_config cfg = tiny_config();
    cfg.L = 3;
    assert_true(tiny_open(&t, cfg, 21));
    const ew_tune_opt opts[] = {blockwise_opt(t.model), mezo_opt(t.model, EW_ADAPTER_LORA),
                                mezo_opt(t.model, EW_ADAPTER_PREFIX)};
    for (size_t i = 0; i < EW_COUNT(opts); i++) {
        ew_adapter *a = NULL;
        ew_tune_report r;
        assert_ok(ew_tune(&opts[i], &a, &r, &err), &err);
        assert_int_equal(r.stop, EW_TUNE_STOP_DONE);
        if (!(r.val_nll_best < 0.8F * r.val_nll_before) || !(r.train_loss < 0.8F * r.val_nll_before) ||
            r.skipped != 0) {
            fail_msg("run %zu: validation %g to %g, training to %g", i, (double)r.val_nll_before,
                     (double)r.val_nll_best, (double)r.train_loss);
        }
        ew_adapter_free(&a);
    }
    tiny_close(&t);
}

static bool stop_soon(const ew_progress_info *info, void *ctx)
{
    (void)info;
    int *left = ctx;
    return --*left > 0;
}

static void both_go_on_after_a_stop_as_if_there_was_none(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    ew_model_config cfg = tiny_config();
    cfg.L = 3;
    assert_true(tiny_open(&t, cfg, 21));
    ew_tune_opt opts[] = {blockwise_opt(t.model), mezo_opt(t.model, EW_ADAPTER_LORA),
                          mezo_opt(t.model, EW_ADAPTER_PREFIX)};
    for (size_t i = 0; i < EW_COUNT(opts); i++) {
        ew_adapter *whole = NULL, *parts = NULL;
        ew_tune_report r;
        opts[i].epochs = i == 0 ? 10 : 8;
        opts[i].eval_every = 3;
        assert_ok(ew_tune(&opts[i], &whole, NULL, &err), &err);
        opts[i].checkpoint = ew_test_path("methods.ckpt");
        (void)remove(opts[i].checkpoint);
        ew_status st = EW_ECANCELLED;
        int times = 0;
        for (; st == EW_ECANCELLED; times++) {
            int left = 1 + times % 3;
            opts[i].progress = (ew_progress){stop_soon, &left};
            st = ew_tune(&opts[i], &parts, &r, &err);
        }
        assert_ok(st, &err);
        assert_true(times > 5 && r.resumed);
        size_t na, nb;
        const float *a = ew_adapter_params(whole, &na), *b = ew_adapter_params(parts, &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na * sizeof(float));
        ew_adapter_free(&whole);
        ew_adapter_free(&parts);
    }
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_and_exit_has_the_gradient_of_its_loss),
        cmocka_unit_test(forward_buffers_alone_give_the_same_bits),
        cmocka_unit_test(mezo_of_lora_is_the_gradient_on_average),
        cmocka_unit_test(mezo_of_a_prefix_is_the_gradient_on_average),
        cmocka_unit_test(both_learn),
        cmocka_unit_test(both_go_on_after_a_stop_as_if_there_was_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

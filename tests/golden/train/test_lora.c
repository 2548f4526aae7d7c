/* LoRA tuning against torch + peft from the same start (data and provenance: README.md), on the Hugging Face directory and on
 * the GGUF made of it, whose rotary rows lie in another order. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/model.h"
#include "model/save.h"
#include "peft/adapter.h"
#include "test.h"
#include "train/tune.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/train/"
#define EXAMPLES_MAX 16
#define STEPS_MAX 64

typedef struct golden {
    int steps;
    double lr, warmup, min_lr, clip, decay;
    ew_tune_example example[EXAMPLES_MAX];
    int32_t id[EXAMPLES_MAX][64];
    int n;
    double loss[STEPS_MAX];
} golden;

static void read_golden(golden *g)
{
    FILE *f = fopen(DIR "run.txt", "r");
    assert_non_null(f);
    assert_int_equal(
        fscanf(f, "%d %lf %lf %lf %lf %lf %d", &g->steps, &g->lr, &g->warmup, &g->min_lr, &g->clip, &g->decay, &g->n),
        7);
    assert_true(g->steps <= STEPS_MAX && g->n <= EXAMPLES_MAX);
    for (int i = 0; i < g->n; i++) {
        ew_tune_example *x = &g->example[i];
        assert_int_equal(fscanf(f, "%u %u", &x->n_prompt, &x->n_answer), 2);
        assert_true(x->n_prompt + x->n_answer <= 64);
        for (uint32_t j = 0; j < x->n_prompt + x->n_answer; j++) {
            assert_int_equal(fscanf(f, "%d", &g->id[i][j]), 1);
        }
        x->id = g->id[i];
    }
    for (int i = 0; i < g->steps; i++) {
        assert_int_equal(fscanf(f, "%lf", &g->loss[i]), 1);
    }
    (void)fclose(f);
}

typedef struct losses {
    double loss[STEPS_MAX];
    size_t n;
} losses;

static bool keep_loss(const ew_progress_info *info, void *ctx)
{
    losses *l = ctx;
    l->loss[l->n++] = info->loss;
    return true;
}

static void tune_like_golden(const ew_model *m, const char *kern, bool keep_activations)
{
    ew_error err = EW_ERROR_INIT;
    static golden g;
    read_golden(&g);
    EW_AUTO(ew_adapter) start = NULL;
    EW_AUTO(ew_adapter) final = NULL;
    EW_AUTO(ew_adapter) got = NULL;
    assert_ok(ew_adapter_load_peft(DIR "start", m, &start, &err), &err);
    assert_ok(ew_adapter_load_peft(DIR "final", m, &final, &err), &err);
    losses l = {.n = 0};
    EW_AUTO(ew_model) ref = ew_model_ref(m);
    const ew_tune_opt opt = {.model = ref,
                             .exec = {ew_kern_get(kern), NULL},
                             .init = start,
                             .train = g.example,
                             .n_train = (size_t)g.n,
                             .lr = (float)g.lr,
                             .warmup = (float)g.warmup,
                             .min_lr = (float)g.min_lr,
                             .clip = (float)g.clip,
                             .weight_decay = (float)g.decay,
                             .max_steps = (uint32_t)g.steps,
                             .batch = (uint32_t)g.n,
                             .pack_tok = 32,
                             .rung = keep_activations ? EW_TUNE_RUNG_KEEP : EW_TUNE_RUNG_RECOMPUTE,
                             .progress = {keep_loss, &l}};
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &got, &r, &err), &err);
    assert_int_equal(l.n, g.steps);
    for (int i = 0; i < g.steps; i++) {
        if (fabs(l.loss[i] - g.loss[i]) > 1e-3) {
            fail_msg("step %d: loss %.6f, torch has %.6f", i, l.loss[i], g.loss[i]);
        }
    }
    size_t n, n2;
    const float *a = ew_adapter_params(got, &n), *b = ew_adapter_params(final, &n2);
    assert_int_equal(n, n2);
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)a[i] - (double)b[i]));
    }
    if (most > 1e-3) {
        fail_msg("parameters differ by up to %g from torch's", most);
    }
}

static void open_base(ew_model **m)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_model_open(DIR "base", &(ew_model_opt){.no_tokenizer = true}, m, &err), &err);
}

static void reference_kernels_tune_as_torch_does(void **state)
{
    (void)state;
    EW_AUTO(ew_model) m = NULL;
    open_base(&m);
    tune_like_golden(m, "ref", false);
}

static void fast_kernels_tune_as_torch_does(void **state)
{
    (void)state;
    EW_AUTO(ew_model) m = NULL;
    open_base(&m);
    tune_like_golden(m, NULL, false);
    tune_like_golden(m, NULL, true);
}

static void gguf_twin_tunes_as_torch_does(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) hf = NULL;
    EW_AUTO(ew_model) m = NULL;
    open_base(&hf);
    const char *path = ew_test_path("base.gguf");
    assert_ok(ew_model_save_gguf(hf, path, NULL, &err), &err);
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    assert_int_equal(ew_model_config_of(m)->rope_kind, EW_ROPE_NORM);
    tune_like_golden(m, NULL, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_kernels_tune_as_torch_does),
        cmocka_unit_test(fast_kernels_tune_as_torch_does),
        cmocka_unit_test(gguf_twin_tunes_as_torch_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

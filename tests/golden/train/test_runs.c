/* Tuning against torch + peft from the same start and data order (provenance: README.md): every loss of 50 steps with each kind of adapter that
 * peft has, on a Llama and a Qwen2, in f32. On the Hugging Face directory and on the GGUF made of it, whose rotary rows lie in another
 * order; with every rung of the memory ladder that computes the same function. */
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
#define RUNS_MAX 16
#define TOLERANCE 1e-3

typedef struct golden_run {
    char base[16], method[16];
    double lr;
    double loss[STEPS_MAX];
} golden_run;

static struct golden {
    unsigned steps, batch;
    unsigned long long seed;
    double warmup, min_lr, clip, decay;
    ew_tune_example example[EXAMPLES_MAX];
    int32_t id[EXAMPLES_MAX][64];
    unsigned n;
    golden_run run[RUNS_MAX];
    size_t n_runs;
} g;

static int read_golden(void **state)
{
    (void)state;
    FILE *f = fopen(DIR "runs.txt", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%u %u %llu %lf %lf %lf %lf %u", &g.steps, &g.batch, &g.seed, &g.warmup, &g.min_lr,
                            &g.clip, &g.decay, &g.n),
                     8);
    assert_true(g.steps <= STEPS_MAX && g.n <= EXAMPLES_MAX);
    for (unsigned i = 0; i < g.n; i++) {
        ew_tune_example *x = &g.example[i];
        assert_int_equal(fscanf(f, "%u %u", &x->n_prompt, &x->n_answer), 2);
        assert_true(x->n_prompt + x->n_answer <= 64);
        for (uint32_t j = 0; j < x->n_prompt + x->n_answer; j++) {
            assert_int_equal(fscanf(f, "%d", &g.id[i][j]), 1);
        }
        x->id = g.id[i];
    }
    for (; g.n_runs < RUNS_MAX; g.n_runs++) {
        golden_run *r = &g.run[g.n_runs];
        if (fscanf(f, "%15s %15s %lf", r->base, r->method, &r->lr) != 3) {
            break;
        }
        for (unsigned i = 0; i < g.steps; i++) {
            assert_int_equal(fscanf(f, "%lf", &r->loss[i]), 1);
        }
    }
    (void)fclose(f);
    return g.n_runs == 10 ? 0 : -1;
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

/* ret: the tuned adapter, NULL = not wanted. Returns the largest difference of any loss. */
static double tune_like(const golden_run *r, ew_model *m, const char *kern, ew_tune_rung rung, ew_adapter **ret)
{
    ew_error err = EW_ERROR_INIT;
    char path[512];
    (void)snprintf(path, sizeof(path), DIR "%s.%s", r->base, r->method);
    EW_AUTO(ew_adapter) start = NULL;
    EW_AUTO(ew_adapter) got = NULL;
    assert_ok(ew_adapter_load_peft(path, m, &start, &err), &err);
    losses l = {.n = 0};
    const ew_tune_opt opt = {.model = m,
                             .exec = {ew_kern_get(kern), NULL},
                             .init = start,
                             .train = g.example,
                             .n_train = g.n,
                             .lr = (float)r->lr,
                             .warmup = (float)g.warmup,
                             .min_lr = (float)g.min_lr,
                             .clip = (float)g.clip,
                             .weight_decay = (float)g.decay,
                             .max_steps = g.steps,
                             .batch = g.batch,
                             .pack_tok = 40,
                             .rung = rung,
                             .seed = g.seed,
                             .progress = {keep_loss, &l}};
    assert_ok(ew_tune(&opt, &got, NULL, &err), &err);
    assert_int_equal(l.n, g.steps);
    double most = 0;
    for (unsigned i = 0; i < g.steps; i++) {
        most = fmax(most, fabs(l.loss[i] - r->loss[i]));
    }
    if (!(most <= TOLERANCE)) {
        for (unsigned i = 0; i < g.steps; i++) {
            if (!(fabs(l.loss[i] - r->loss[i]) <= TOLERANCE)) {
                fail_msg("%s %s: loss of step %u is %.6f, torch has %.6f (up to %.2g apart)", r->base, r->method, i,
                         l.loss[i], r->loss[i], most);
            }
        }
    }
    if (ret != NULL) {
        *ret = got;
        got = NULL;
    }
    return most;
}

static ew_model *open_base(const char *base, bool gguf)
{
    ew_error err = EW_ERROR_INIT;
    char path[512];
    ew_model *m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s", base);
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    if (gguf) {
        EW_AUTO(ew_model) hf = m;
        const char *file = ew_test_path("base.gguf");
        m = NULL;
        assert_ok(ew_model_save_gguf(hf, file, NULL, &err), &err);
        assert_ok(ew_model_open(file, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    }
    return m;
}

static void every_method_learns_as_torch_and_peft_do(void **state)
{
    (void)state;
    for (size_t i = 0; i < g.n_runs; i++) {
        const golden_run *r = &g.run[i];
        EW_AUTO(ew_model) m = open_base(r->base, false);
        print_message("%s %s: losses at most %.1e apart\n", r->base, r->method,
                      tune_like(r, m, NULL, EW_TUNE_RUNG_RECOMPUTE, NULL));
    }
}

static void gguf_twins_learn_alike(void **state)
{
    (void)state;
    for (size_t i = 0; i < g.n_runs; i++) {
        const golden_run *r = &g.run[i];
        EW_AUTO(ew_model) m = open_base(r->base, true);
        (void)tune_like(r, m, NULL, EW_TUNE_RUNG_KEEP, NULL);
    }
}

static void reference_kernels_learn_alike(void **state)
{
    (void)state;
    for (size_t i = 0; i < g.n_runs; i++) {
        const golden_run *r = &g.run[i];
        EW_AUTO(ew_model) m = open_base(r->base, false);
        (void)tune_like(r, m, "ref", EW_TUNE_RUNG_RECOMPUTE, NULL);
    }
}

static void parameters_end_where_peft_ends(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_base("llama", false);
    EW_AUTO(ew_adapter) got = NULL;
    EW_AUTO(ew_adapter) final = NULL;
    assert_string_equal(g.run[0].method, "lora");
    (void)tune_like(&g.run[0], m, NULL, EW_TUNE_RUNG_KEEP, &got);
    assert_ok(ew_adapter_load_peft(DIR "llama.lora-final", m, &final, &err), &err);
    size_t n, n2;
    const float *a = ew_adapter_params(got, &n), *b = ew_adapter_params(final, &n2);
    assert_int_equal(n, n2);
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)a[i] - (double)b[i]));
    }
    if (most > 2e-3) {
        fail_msg("parameters differ by up to %g from torch's", most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_learns_as_torch_and_peft_do),
        cmocka_unit_test(gguf_twins_learn_alike),
        cmocka_unit_test(reference_kernels_learn_alike),
        cmocka_unit_test(parameters_end_where_peft_ends),
    };
    return cmocka_run_group_tests(tests, read_golden, NULL);
}

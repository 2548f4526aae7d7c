/* Exact resume, whatever is trained and however: a run that dies by SIGKILL between every two checkpoints ends with the same bytes as one
 * that was left alone. ctest: TIMEOUT=120 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/model.h"
#include "model/save.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "test.h"
#include "train/tune.h"

#include "tiny_model.h"

#define N_TRAIN 9
#define N_VAL 3
#define STEPS 12u

static int32_t ids[N_TRAIN + N_VAL][24];
static ew_tune_example examples[N_TRAIN + N_VAL];

static int make_examples(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 78, 0);
    for (int i = 0; i < N_TRAIN + N_VAL; i++) {
        const uint32_t n_prompt = 4 + (uint32_t)(i % 5), n_answer = 1 + (uint32_t)(i % 3);
        for (uint32_t j = 0; j < n_prompt + n_answer; j++) {
            ids[i][j] = (int32_t)(3 + ew_rng_below(&rng, 30));
        }
        examples[i] = (ew_tune_example){ids[i], n_prompt, n_answer};
    }
    return 0;
}

static ew_model *open_tiny(ew_dtype dtype, uint32_t layers)
{
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    ew_model_config c = tiny_config();
    c.L = layers;
    assert_true(tiny_open(&t, c, 21));
    const char *path = ew_test_path("m.gguf");
    const ew_save_opt so = {.convert = true, .dtype = dtype};
    assert_ok(ew_model_save_gguf(t.model, path, &so, &err), &err);
    tiny_close(&t);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    return m;
}

typedef struct method {
    const char *name;
    ew_adapter_opt adapter;
    ew_tune_rung rung;
    bool eight_bit, drop_pages;
    uint32_t n_val, accumulate;
} method;

static const method methods[] = {
    {.name = "lora", .rung = EW_TUNE_RUNG_RECOMPUTE, .n_val = N_VAL},
    {.name = "lora kept, 8 bits", .rung = EW_TUNE_RUNG_KEEP, .eight_bit = true, .n_val = N_VAL, .accumulate = 2},
    {.name = "lora bf16 with dropout",
     .adapter = {.dropout = 0.1F},
     .rung = EW_TUNE_RUNG_RECOMPUTE_BF16,
     .n_val = N_VAL},
    {.name = "lora, pages given back", .rung = EW_TUNE_RUNG_RECOMPUTE_BF16, .drop_pages = true, .eight_bit = true},
    {.name = "dora", .adapter = {.dora = true, .dropout = 0.2F}, .n_val = N_VAL},
    {.name = "block-wise", .rung = EW_TUNE_RUNG_BLOCKWISE, .n_val = N_VAL},
    {.name = "block-wise, 8 bits", .rung = EW_TUNE_RUNG_BLOCKWISE, .eight_bit = true},
    {.name = "prompt", .adapter = {.kind = EW_ADAPTER_PROMPT, .n_virtual = 3}, .n_val = N_VAL},
    {.name = "prefix, 8 bits",
     .adapter = {.kind = EW_ADAPTER_PREFIX, .n_virtual = 3},
     .eight_bit = true,
     .n_val = N_VAL},
    {.name = "ia3", .adapter = {.kind = EW_ADAPTER_IA3}, .n_val = N_VAL},
    {.name = "bottleneck", .adapter = {.kind = EW_ADAPTER_BOTTLENECK, .width = 4}, .n_val = N_VAL},
    {.name = "full, 8 bits", .adapter = {.kind = EW_ADAPTER_FULL}, .eight_bit = true, .n_val = N_VAL},
    {.name = "mezo over lora", .rung = EW_TUNE_RUNG_MEZO, .n_val = N_VAL},
    {.name = "mezo over prefix", .adapter = {.kind = EW_ADAPTER_PREFIX, .n_virtual = 3}, .rung = EW_TUNE_RUNG_MEZO},
};

static ew_tune_opt opt_of(const method *me, ew_model *m)
{
    return (ew_tune_opt){.model = m,
                         .exec = {ew_kern_get(NULL), NULL},
                         .adapter = me->adapter,
                         .train = examples,
                         .n_train = N_TRAIN,
                         .val = examples + N_TRAIN,
                         .n_val = me->n_val,
                         .lr = 1e-2F,
                         .max_steps = STEPS,
                         .batch = 2,
                         .accumulate = me->accumulate,
                         .pack_tok = 24,
                         .eval_every = 5,
                         .patience = UINT32_MAX,
                         .rung = me->rung,
                         .optimizer_8bit = me->eight_bit,
                         .drop_pages = me->drop_pages,
                         .checkpoint_every = 1,
                         .seed = 4};
}

static void same(const char *name, ew_adapter *a, ew_adapter *b)
{
    size_t na, nb;
    const float *pa = ew_adapter_params(a, &na), *pb = ew_adapter_params(b, &nb);
    assert_int_equal(na, nb);
    if (memcmp(pa, pb, na * sizeof(float)) != 0) {
        fail_msg("%s: the parts end elsewhere", name);
    }
}

typedef struct victim {
    uint32_t die_at; /* calls of progress */
    uint32_t n;
} victim;

static bool die_at(const ew_progress_info *info, void *ctx)
{
    (void)info;
    victim *v = ctx;
    if (++v->n == v->die_at) {
        (void)kill(getpid(), SIGKILL);
    }
    return true;
}

/* Runs in a child; true when it died by its own hand, after one step more than was kept before. */
static bool run_and_die(ew_tune_opt opt)
{
    victim v = {.die_at = 2};
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ew_adapter *l = NULL;
        opt.progress = (ew_progress){die_at, &v};
        _exit(ew_tune(&opt, &l, NULL, NULL) == EW_OK ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void killed_between_every_two_checkpoints_every_method_ends_with_the_same_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_COUNT(methods); i++) {
        const method *me = &methods[i];
        EW_AUTO(ew_model) m = open_tiny(EW_DTYPE_Q8_0, me->rung == EW_TUNE_RUNG_BLOCKWISE ? 4 : 2);
        EW_AUTO(ew_adapter) whole = NULL;
        EW_AUTO(ew_adapter) parts = NULL;
        ew_tune_opt opt = opt_of(me, m);
        ew_tune_report r;
        const ew_status st = ew_tune(&opt, &whole, &r, &err);
        if (st != EW_OK) {
            fail_msg("%s: %s", me->name, err.msg);
        }
        assert_int_equal(r.steps, STEPS);
        assert_int_equal(r.skipped, 0);
        opt.checkpoint = ew_test_path("resume.ckpt");
        assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
        uint32_t deaths = 0;
        while (run_and_die(opt)) {
            deaths++;
            assert_true(deaths < 2 * STEPS);
        }
        assert_int_equal(deaths, STEPS - 1);
        assert_ok(ew_tune(&opt, &parts, &r, &err), &err);
        assert_true(r.resumed);
        same(me->name, whole, parts);
    }
}

/* Rungs that only keep less: the same bytes, or with bf16 inputs nearly the same parameters. */
static void rungs_of_the_same_function_learn_the_same(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny(EW_DTYPE_Q4_0, 4);
    EW_AUTO(ew_adapter) keep = NULL;
    EW_AUTO(ew_adapter) again = NULL;
    EW_AUTO(ew_adapter) drop = NULL;
    EW_AUTO(ew_adapter) half = NULL;
    const method base = {.adapter = {.dropout = 0.1F}, .rung = EW_TUNE_RUNG_KEEP};
    ew_tune_opt opt = opt_of(&base, m);
    assert_ok(ew_tune(&opt, &keep, NULL, &err), &err);
    opt.rung = EW_TUNE_RUNG_RECOMPUTE;
    assert_ok(ew_tune(&opt, &again, NULL, &err), &err);
    same("recompute", keep, again);
    opt.drop_pages = true;
    assert_ok(ew_tune(&opt, &drop, NULL, &err), &err);
    same("pages given back", keep, drop);
    opt.rung = EW_TUNE_RUNG_RECOMPUTE_BF16;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &half, &r, &err), &err);
    size_t n;
    const float *a = ew_adapter_params(keep, &n), *b = ew_adapter_params(half, &n);
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)a[i] * (double)a[i];
    }
    if (!(off > 0) || !(sqrt(off / all) < 0.05)) {
        fail_msg("inputs in bf16 move the parameters by %g of their norm", sqrt(off / all));
    }
}

/* What a checkpoint of one run has to be refused for, and what makes no difference to it. */
static void another_run_is_refused_and_another_rung_of_the_same_function_goes_on(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny(EW_DTYPE_Q8_0, 2);
    EW_AUTO(ew_adapter) whole = NULL;
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = opt_of(&methods[0], m);
    assert_ok(ew_tune(&opt, &whole, NULL, &err), &err);
    opt.checkpoint = ew_test_path("other.ckpt");
    assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
    assert_true(run_and_die(opt));
    ew_tune_opt other = opt;
    other.optimizer_8bit = true;
    assert_fails(EW_ECONFLICT, ew_tune(&other, &l, NULL, &err), &err, "another run");
    other = opt;
    other.rung = EW_TUNE_RUNG_MEZO;
    assert_fails(EW_ECONFLICT, ew_tune(&other, &l, NULL, &err), &err, "another run");
    other = opt;
    other.adapter = (ew_adapter_opt){.kind = EW_ADAPTER_IA3};
    assert_fails(EW_ECONFLICT, ew_tune(&other, &l, NULL, &err), &err, "another run");
    other = opt;
    other.accumulate = 3;
    assert_fails(EW_ECONFLICT, ew_tune(&other, &l, NULL, &err), &err, "another run");
    opt.rung = EW_TUNE_RUNG_KEEP;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_true(r.resumed);
    same("kept", whole, l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_between_every_two_checkpoints_every_method_ends_with_the_same_bytes),
        cmocka_unit_test(rungs_of_the_same_function_learn_the_same),
        cmocka_unit_test(another_run_is_refused_and_another_rung_of_the_same_function_goes_on),
    };
    return cmocka_run_group_tests(tests, make_examples, NULL);
}

/* LoRA tuning: it learns, over every base type; budgets, refusals, plateau, numbers that are not finite, cancelling; a run that
 * was killed and continued ends with the same bytes. */
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/model.h"
#include "model/save.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "test.h"
#include "train/tune.h"
#include "train/tune_int.h"

#include "tiny_model.h"

#define N_TRAIN 12
#define N_VAL 4

static int32_t ids[N_TRAIN + N_VAL][24];
static ew_tune_example examples[N_TRAIN + N_VAL];

/* The answer repeats the second token of the prompt, plus one: something to learn. */
static void make_examples(void)
{
    ew_rng rng;
    ew_rng_init(&rng, 77, 0);
    for (int i = 0; i < N_TRAIN + N_VAL; i++) {
        const uint32_t n_prompt = 4 + (uint32_t)(i % 5), n_answer = 1 + (uint32_t)(i % 3);
        for (uint32_t j = 0; j < n_prompt; j++) {
            ids[i][j] = (int32_t)(3 + ew_rng_below(&rng, 8));
        }
        for (uint32_t j = 0; j < n_answer; j++) {
            ids[i][n_prompt + j] = 20 + ids[i][1];
        }
        examples[i] = (ew_tune_example){ids[i], n_prompt, n_answer};
    }
}

static ew_model *open_tiny(const char *name, ew_dtype dtype)
{
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 21));
    const char *path = ew_test_path(name);
    const ew_save_opt so = {.convert = true, .dtype = dtype};
    assert_ok(ew_model_save_gguf(t.model, path, &so, &err), &err);
    tiny_close(&t);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    return m;
}

static ew_tune_opt base_opt(ew_model *m)
{
    make_examples();
    return (ew_tune_opt){.model = m,
                         .exec = {ew_kern_get(NULL), NULL},
                         .adapter = {.rank = 4, .seed = 3},
                         .train = examples,
                         .n_train = N_TRAIN,
                         .val = examples + N_TRAIN,
                         .n_val = N_VAL,
                         .lr = 1e-2F,
                         .epochs = 10,
                         .batch = 5,
                         .pack_tok = 24,
                         .patience = UINT32_MAX,
                         .seed = 4};
}

static void every_base_type_learns(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    static const ew_dtype types[] = {EW_DTYPE_F32, EW_DTYPE_F16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0};
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        EW_AUTO(ew_model) m = open_tiny("m.gguf", types[i]);
        EW_AUTO(ew_adapter) l = NULL;
        const ew_tune_opt opt = base_opt(m);
        ew_tune_report r;
        assert_ok(ew_tune(&opt, &l, &r, &err), &err);
        assert_int_equal(r.stop, EW_TUNE_STOP_DONE);
        assert_int_equal(r.steps, 30);
        assert_int_equal(r.n_curve, 11);
        if (!(r.val_nll_best < 0.9F * r.val_nll_before) || !(r.curve[10].train_loss < 0.5F * r.curve[1].train_loss)) {
            fail_msg("%s: validation %g to %g, training %g to %g", ew_dtype_name(types[i]), (double)r.val_nll_before,
                     (double)r.val_nll_best, (double)r.curve[1].train_loss, (double)r.curve[10].train_loss);
        }
    }
}

static void same(ew_adapter *a, ew_adapter *b)
{
    size_t na, nb;
    const float *pa = ew_adapter_params(a, &na), *pb = ew_adapter_params(b, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(pa, pb, na * sizeof(float));
}

static void threads_and_recompute_do_not_change_a_bit(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0);
    EW_AUTO(ew_adapter) one = NULL;
    EW_AUTO(ew_adapter) two = NULL;
    EW_AUTO(ew_adapter) kept = NULL;
    EW_AUTO(ew_pool) pool = NULL;
    assert_ok(ew_pool_new(2, &pool, &err), &err);
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_tune(&opt, &one, NULL, &err), &err);
    opt.exec.pool = pool;
    assert_ok(ew_tune(&opt, &two, NULL, &err), &err);
    opt.rung = EW_TUNE_RUNG_KEEP;
    assert_ok(ew_tune(&opt, &kept, NULL, &err), &err);
    same(one, two);
    same(one, kept);
}

static void too_little_memory_is_refused_with_what_would_do(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F16);
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    ew_tune_memory_plan plan;
    opt.pack_tok = 0;
    opt.epochs = 1;
    assert_ok(ew_tune_memory(&opt, &plan, &err), &err);
    assert_int_equal(plan.total_bytes, plan.weights_bytes + plan.adapter_bytes + plan.activ_bytes + plan.scratch_bytes +
                                           plan.process_bytes);
    opt.max_ram_bytes = 1000;
    assert_fails(EW_ENOMEM, ew_tune(&opt, &l, NULL, &err), &err, "would do");
    const char *open = strchr(err.msg, '(');
    assert_non_null(open);
    opt.max_ram_bytes = strtoull(open + 1, NULL, 10); /* the limit that it names does do */
    assert_ok(ew_tune(&opt, &l, NULL, &err), &err);
    ew_adapter_free(&l);
    opt.max_ram_bytes--;
    assert_fails(EW_ENOMEM, ew_tune(&opt, &l, NULL, &err), &err, "would do");
}

static void no_time_means_a_stop_with_the_start_kept(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F16);
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    opt.max_seconds = 1e-9;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_TIME);
    assert_int_equal(r.steps, 0);
    assert_int_equal(r.best_step, 0);
}

static void plateau_stops_and_the_best_is_kept(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F16);
    EW_AUTO(ew_adapter) l = NULL;
    EW_AUTO(ew_adapter) fresh = NULL;
    ew_tune_opt opt = base_opt(m);
    make_examples();
    for (int i = N_TRAIN; i < N_TRAIN + N_VAL; i++) { /* validation contradicts: the more it learns the worse */
        for (uint32_t j = 0; j < examples[i].n_answer; j++) {
            ids[i][examples[i].n_prompt + j] = 1 + i % 2;
        }
    }
    opt.patience = 2;
    opt.epochs = 50;
    opt.lr = 3e-2F;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_PLATEAU);
    assert_true(r.steps < r.steps_planned);
    assert_true(r.val_nll_best <= r.val_nll_before);
    for (uint32_t i = 0; i < r.n_curve; i++) {
        assert_true(r.curve[i].val_nll >= r.val_nll_best);
    }
}

static void not_finite_steps_are_skipped_and_then_end_the_run(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32);
    EW_AUTO(ew_adapter) init = NULL;
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_adapter_new(m, &opt.adapter, &init, &err), &err);
    size_t n;
    float *p = ew_adapter_params(init, &n);
    for (size_t i = 0; i < n; i++) {
        p[i] = 1e30F;
    }
    opt.init = init;
    opt.n_val = 0;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_DIVERGED);
    assert_int_equal(r.skipped, r.steps);
    assert_true(strstr(r.stop_reason, "finite") != NULL);
    same(init, l);
}

typedef struct poison {
    float *weight;
    int calls_left;
} poison;

static bool spoil(const ew_progress_info *info, void *ctx)
{
    poison *p = ctx;
    (void)info;
    if (--p->calls_left == 0) {
        *p->weight = NAN;
    }
    return true;
}

static void gone_wrong_on_the_way_it_gives_the_last_good_parameters(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    tiny_model tm;
    assert_true(tiny_open(&tm, tiny_config(), 21));
    EW_AUTO(ew_adapter) bad = NULL;
    EW_AUTO(ew_adapter) good = NULL;
    ew_tune_opt opt = base_opt(tm.model);
    opt.n_val = 0;
    opt.warmup = -1;
    opt.min_lr = 1; /* the rate is the same however many steps are planned */
    opt.max_steps = 4;
    assert_ok(ew_tune(&opt, &good, NULL, &err), &err);
    poison p = {.weight = tm.linear[1][EW_LINEAR_V], .calls_left = 5};
    opt.max_steps = 30;
    opt.progress = (ew_progress){spoil, &p};
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &bad, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_DIVERGED);
    assert_int_equal(r.steps, 11);
    assert_int_equal(r.skipped, 6);
    same(good, bad);
    tiny_close(&tm);
}

static bool stop_at_once(const ew_progress_info *info, void *ctx)
{
    (void)info;
    int *left = ctx;
    return --*left > 0;
}

static void cancelled_run_goes_on_from_its_checkpoint(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q4_0);
    EW_AUTO(ew_adapter) whole = NULL;
    EW_AUTO(ew_adapter) parts = NULL;
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_tune(&opt, &whole, NULL, &err), &err);
    opt.checkpoint = ew_test_path("cancel.ckpt");
    ew_tune_report r;
    ew_status st = EW_ECANCELLED;
    int times = 0;
    for (; st == EW_ECANCELLED; times++) {
        int left = 4;
        opt.progress = (ew_progress){stop_at_once, &left};
        st = ew_tune(&opt, &parts, &r, &err);
    }
    assert_ok(st, &err);
    assert_int_equal(times, 8); /* 30 steps, 4 at a time */
    assert_true(r.resumed);
    same(whole, parts);
    /* a finished run is not run again, another run's state is refused */
    ew_adapter_free(&parts);
    assert_ok(ew_tune(&opt, &parts, &r, &err), &err);
    same(whole, parts);
    opt.seed++;
    ew_adapter_free(&parts);
    assert_fails(EW_ECONFLICT, ew_tune(&opt, &parts, &r, &err), &err, "another run");
}

static void damaged_checkpoint_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q4_0);
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    opt.checkpoint = ew_test_path("bad.ckpt");
    int left = 4;
    opt.progress = (ew_progress){stop_at_once, &left};
    assert_fails(EW_ECANCELLED, ew_tune(&opt, &l, NULL, &err), &err, "start again");
    FILE *f = fopen(opt.checkpoint, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 5000, SEEK_SET), 0);
    assert_int_equal(fputc(fgetc(f) ^ 1, f) == EOF, 0);
    (void)fclose(f);
    assert_fails(EW_ECORRUPT, ew_tune(&opt, &l, NULL, &err), &err, "checksum");
    (void)ew_test_text("bad.ckpt", "nonsense");
    assert_fails(EW_ECORRUPT, ew_tune(&opt, &l, NULL, &err), &err, "not a training checkpoint");
}

/* A file that was made, not damaged: its checksum is right, its numbers are used as counts and indices. */
static void checkpoint_with_impossible_counts_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32);
    EW_AUTO(ew_adapter) l = NULL;
    EW_AUTO_BUF file = {0};
    ew_tune_opt opt = base_opt(m);
    opt.checkpoint = ew_test_path("made.ckpt");
    int left = 4;
    opt.progress = (ew_progress){stop_at_once, &left};
    assert_fails(EW_ECANCELLED, ew_tune(&opt, &l, NULL, &err), &err, "start again");
    assert_ok(ew_file_read(opt.checkpoint, 1 << 24, &file, &err), &err);
    const size_t fields[] = {offsetof(ew__tune_run, n_curve), offsetof(ew__tune_run, phase),
                             offsetof(ew__tune_run, step), offsetof(ew__tune_run, stopped)};
    for (size_t i = 0; i < EW_COUNT(fields); i++) {
        EW_AUTO_BUF made = {0};
        const uint64_t many = 1000;
        uint64_t n_blocks;
        uint8_t digest[EW_SHA256_SIZE];
        ew_buf_add(&made, file.data, file.size);
        memcpy(&n_blocks, made.data + 56, sizeof(n_blocks));
        memcpy(made.data + 64 + n_blocks * 32 + fields[i], &many, sizeof(many)); /* the state is the first block */
        ew_sha256(made.data, made.size - EW_SHA256_SIZE, digest);
        memcpy(made.data + made.size - EW_SHA256_SIZE, digest, EW_SHA256_SIZE);
        assert_ok(ew_file_replace(opt.checkpoint, made.data, made.size, 0600, &err), &err);
        assert_fails(EW_ECORRUPT, ew_tune(&opt, &l, NULL, &err), &err, "no state of a run");
    }
}

/* The run in a child process that dies by SIGKILL: at a step (before its checkpoint), by the child's own hand. */
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

static void killed_at_seeded_moments_it_ends_with_the_same_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0);
    EW_AUTO(ew_adapter) whole = NULL;
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_tune(&opt, &whole, NULL, &err), &err);
    opt.checkpoint = ew_test_path("kill.ckpt");
    ew_rng rng;
    ew_rng_init(&rng, 2026, 11);
    for (int round = 0; round < 5; round++) {
        assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
        opt.checkpoint_every = 1 + (uint32_t)round;
        int killed = 0;
        for (bool dead = true; dead; killed += dead) {
            victim v = {.die_at = opt.checkpoint_every + 1 + (uint32_t)ew_rng_below(&rng, 9)};
            const pid_t pid = fork();
            assert_true(pid >= 0);
            if (pid == 0) {
                ew_adapter *l = NULL;
                opt.progress = (ew_progress){die_at, &v};
                _exit(ew_tune(&opt, &l, NULL, NULL) == EW_OK ? 0 : 1);
            }
            int status = 0;
            assert_int_equal(waitpid(pid, &status, 0), pid);
            dead = WIFSIGNALED(status);
            assert_true(dead || WEXITSTATUS(status) == 0);
        }
        assert_true(killed >= 2);
        EW_AUTO(ew_adapter) parts = NULL;
        opt.progress = (ew_progress){NULL, NULL};
        assert_ok(ew_tune(&opt, &parts, NULL, &err), &err);
        same(whole, parts);
    }
}

static void long_prompts_lose_their_front_not_the_answer(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32);
    EW_AUTO(ew_adapter) a = NULL;
    EW_AUTO(ew_adapter) b = NULL;
    int32_t full[20], cut[9];
    for (int i = 0; i < 20; i++) {
        full[i] = 3 + i;
    }
    cut[0] = full[0]; /* BOS stays */
    memcpy(cut + 1, full + 12, 8 * sizeof(int32_t));
    ew_tune_opt opt = base_opt(m);
    ew_tune_example x = {full, 17, 3};
    opt.train = &x;
    opt.n_train = 1;
    opt.n_val = 0;
    opt.seq_max = 8;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &a, &r, &err), &err);
    assert_int_equal(r.truncated, 1);
    x = (ew_tune_example){cut, 6, 3};
    assert_ok(ew_tune(&opt, &b, &r, &err), &err);
    assert_int_equal(r.truncated, 0);
    same(a, b);
}

/* What holds nothing to learn is left out and counted; an answer without a prompt gives its first token for one. */
static void empty_examples_are_counted_not_learned(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32);
    EW_AUTO(ew_adapter) a = NULL;
    EW_AUTO(ew_adapter) b = NULL;
    ew_tune_opt opt = base_opt(m);
    const int32_t full[] = {3, 4, 5, 6, 7};
    const ew_tune_example bad[] = {{full, 3, 0}, {NULL, 0, 0}, {full, 0, 1}, {full, 0, 4}, {full, 2, 3}, {NULL, 4, 2}};
    const ew_tune_example good[] = {{full, 1, 3}, {full, 2, 3}};
    opt.train = bad;
    opt.n_train = EW_COUNT(bad);
    opt.val = bad;
    opt.n_val = 1;
    opt.batch = 1;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &a, &r, &err), &err);
    assert_int_equal(r.empty, 5); /* four of training, the one of validation */
    assert_int_equal(r.steps, 20);
    opt.train = good;
    opt.n_train = EW_COUNT(good);
    opt.n_val = 0;
    assert_ok(ew_tune(&opt, &b, &r, &err), &err);
    assert_int_equal(r.empty, 0);
    same(a, b);
    opt.train = bad;
    opt.n_train = 3;
    ew_adapter_free(&a);
    assert_fails(EW_EINVAL, ew_tune(&opt, &a, &r, &err), &err, "nothing to learn");
}

static void energy_heat_and_mains_end_a_part_and_the_next_goes_on(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0);
    EW_AUTO(ew_adapter) whole = NULL;
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_tune(&opt, &whole, NULL, &err), &err);
    opt.checkpoint = ew_test_path("budget.ckpt");
    const char *root = ew_test_path("machine");
    char path[600];
    (void)snprintf(path, sizeof(path), "%s/sys/class/power_supply/BAT0", root);
    assert_ok(ew_dir_make(path, 0700, &err), &err);
    (void)snprintf(path, sizeof(path), "%s/sys/class/power_supply/BAT0/type", root);
    assert_ok(ew_file_replace(path, "Battery\n", 8, 0600, &err), &err);
    (void)snprintf(path, sizeof(path), "%s/sys/class/power_supply/BAT0/status", root);
    assert_ok(ew_file_replace(path, "Discharging\n", 12, 0600, &err), &err);
    opt.sys_root = root;
    opt.only_on_mains = true;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_MAINS);
    assert_int_equal(r.steps, 0);
    assert_non_null(strstr(r.stop_reason, "battery"));
    ew_adapter_free(&l);
    opt.only_on_mains = false;
    opt.max_joules = 1e-9;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_ENERGY);
    assert_true(r.resumed);
    ew_adapter_free(&l);
    opt.max_joules = 0;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.stop, EW_TUNE_STOP_DONE);
    same(whole, l);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0);
    ew_tune_opt opt = base_opt(m);
    opt.epochs = 1;
    opt.checkpoint = ew_test_path("mem.ckpt");
    ew_status st = EW_ENOMEM;
    uint64_t n = 0;
    while (st != EW_OK) {
        EW_AUTO(ew_adapter) l = NULL;
        assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
        ew_mem_fail_at(++n);
        st = ew_tune(&opt, &l, NULL, &err);
        ew_mem_fail_at(0);
        assert_true(st == EW_OK ? l != NULL : l == NULL && st == EW_ENOMEM);
    }
    assert_true(n > 5);
}

/* Every write from the n-th on fails: the run goes on without checkpoints, ends as it would have, and says so; the last good state stays. */
static void full_disk_costs_checkpoints_not_the_run(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_Q8_0);
    EW_AUTO(ew_adapter) whole = NULL;
    ew_tune_opt opt = base_opt(m);
    assert_ok(ew_tune(&opt, &whole, NULL, &err), &err);
    opt.checkpoint = ew_test_path("disk.ckpt");
    opt.checkpoint_every = 3;
    for (uint64_t n = 1; n < 12; n += 3) {
        EW_AUTO(ew_adapter) l = NULL;
        EW_AUTO(ew_adapter) again = NULL;
        ew_tune_report r;
        assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
        ew_file_fail_at(n);
        const ew_status st = ew_tune(&opt, &l, &r, &err);
        ew_file_fail_at(0);
        assert_ok(st, &err);
        same(whole, l);
        assert_true(r.checkpoints_failed >= 7);
        assert_non_null(strstr(r.checkpoint_error, "disk.ckpt"));
        const bool kept = ew_file_exists(opt.checkpoint);
        assert_true(kept ? n > 1 : n < 10);
        assert_ok(ew_tune(&opt, &again, &r, &err), &err);
        assert_true(r.resumed == kept && r.checkpoints_failed == 0);
        same(whole, again);
    }
    int left = 4; /* stopped by the user while the disk is full: told that the state is not kept */
    EW_AUTO(ew_adapter) l = NULL;
    assert_ok(ew_file_remove(opt.checkpoint, &err), &err);
    opt.progress = (ew_progress){stop_at_once, &left};
    ew_file_fail_at(1);
    const ew_status st = ew_tune(&opt, &l, NULL, &err);
    ew_file_fail_at(0);
    assert_int_equal(st, EW_ECANCELLED);
    assert_non_null(strstr(err.msg, "could not be kept"));
    opt.progress = (ew_progress){NULL, NULL};
    opt.checkpoint = ew_test_path("no/such/dir/x.ckpt");
    assert_fails(EW_ENOENT, ew_tune(&opt, &l, NULL, &err), &err, "x.ckpt");
}

/* A pruned row of W has no norm to divide by. */
static void magnitudes_learn_over_rows_of_zeros(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 21));
    memset(t.linear[0][EW_LINEAR_V], 0, t.cfg.C * sizeof(float));
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) l = NULL;
    const ew_save_opt so = {.convert = true, .dtype = EW_DTYPE_F32};
    const char *path = ew_test_path("pruned.gguf");
    assert_ok(ew_model_save_gguf(t.model, path, &so, &err), &err);
    tiny_close(&t);
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    ew_tune_opt opt = base_opt(m);
    opt.adapter.dora = true;
    ew_tune_report r;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.skipped, 0);
    assert_true(r.val_nll_best < r.val_nll_before);
}

/* Tokens and virtual positions share the positions that a model has learned. */
static void virtual_positions_leave_fewer_tokens_of_learned_ones(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) l = NULL;
    assert_ok(ew_model_open(EW_TEST_SOURCE_DIR "/tests/golden/model/families/gpt2/hf",
                            &(ew_model_opt){.no_tokenizer = true}, &m, &err),
              &err);
    const uint32_t n_pos = ew_model_config_of(m)->n_pos;
    int32_t long_ids[200];
    for (int i = 0; i < 200; i++) {
        long_ids[i] = 1 + i % 20;
    }
    assert_in_range(n_pos, 24, 200);
    const ew_tune_example x = {long_ids, 180, 20};
    ew_tune_opt opt = base_opt(m);
    ew_tune_report r;
    opt.train = &x;
    opt.n_train = 1;
    opt.n_val = 0;
    opt.epochs = 1;
    opt.adapter = (ew_adapter_opt){.kind = EW_ADAPTER_PREFIX, .n_virtual = 4};
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.tokens, n_pos - 4);
    ew_adapter_free(&l);
    opt.seq_max = n_pos;
    assert_ok(ew_tune(&opt, &l, &r, &err), &err);
    assert_int_equal(r.tokens, n_pos - 4);
    assert_int_equal(r.truncated, 1);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = open_tiny("m.gguf", EW_DTYPE_F32);
    EW_AUTO(ew_adapter) l = NULL;
    ew_tune_opt opt = base_opt(m);
    opt.n_train = 0;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "no examples");
    opt = base_opt(m);
    opt.seq_max = 100;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "64");
    opt = base_opt(m);
    ids[3][1] = 37;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "vocabulary");
    opt = base_opt(m);
    opt.adapter.rank = 1000;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "rank");
    opt = base_opt(m);
    opt.min_lr = INFINITY;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "out of range");
    opt = base_opt(m);
    opt.warmup = INFINITY;
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "out of range");
    opt = base_opt(m);
    opt.eps = -1; /* none: a parameter without a gradient yet would be 0 / 0 */
    assert_fails(EW_EINVAL, ew_tune(&opt, &l, NULL, &err), &err, "out of range");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_base_type_learns),
        cmocka_unit_test(threads_and_recompute_do_not_change_a_bit),
        cmocka_unit_test(too_little_memory_is_refused_with_what_would_do),
        cmocka_unit_test(no_time_means_a_stop_with_the_start_kept),
        cmocka_unit_test(plateau_stops_and_the_best_is_kept),
        cmocka_unit_test(not_finite_steps_are_skipped_and_then_end_the_run),
        cmocka_unit_test(gone_wrong_on_the_way_it_gives_the_last_good_parameters),
        cmocka_unit_test(cancelled_run_goes_on_from_its_checkpoint),
        cmocka_unit_test(damaged_checkpoint_is_refused),
        cmocka_unit_test(checkpoint_with_impossible_counts_is_refused),
        cmocka_unit_test(killed_at_seeded_moments_it_ends_with_the_same_bytes),
        cmocka_unit_test(long_prompts_lose_their_front_not_the_answer),
        cmocka_unit_test(empty_examples_are_counted_not_learned),
        cmocka_unit_test(energy_heat_and_mains_end_a_part_and_the_next_goes_on),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(full_disk_costs_checkpoints_not_the_run),
        cmocka_unit_test(magnitudes_learn_over_rows_of_zeros),
        cmocka_unit_test(virtual_positions_leave_fewer_tokens_of_learned_ones),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Pre-training from a recipe and a text file: it learns, writes a model that opens, and a run that was interrupted or killed
 * ends with the same bytes; recipes are checked. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "crypt/hash.h"
#include "model/model.h"
#include "model/session.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "test.h"
#include "train/corpus.h"
#include "train/pretrain.h"

static const char *const recipe_text =
    "name: tiny\nvocab_size: 300\nn_ctx: 64\ndim: 32\nffn: 64\nlayers: 2\nheads: 4\nkv_heads: 2\n"
    "rope_theta: 10000\nnorm_eps: 0.00001\nlr: 0.01\nmin_lr: 0.1\nwarmup: 0.1\n"
    "weight_decay: 0.1\nclip: 1.0\nbeta1: 0.9\nbeta2: 0.95\nshards: 3\nshard_tok: 128\n"
    "answer_weight: 4\nprompt_weight: 1\ntext_percent: 100\nsection_percent: 0\n"
    "synopsis_percent: 0\nzero_shot_percent: 100\nretrieved_max: 0\ntokens: 40000\nseed: 5\n";

typedef struct fixture {
    ew_pretrain_recipe *recipe;
    ew_vocab *vocab;
    ew_corpus *corpus;
} fixture;

/* Sentences of a small grammar. */
static const char *write_text(void)
{
    static const char *const who[] = {"the cat", "a dog", "the old owl", "my friend"};
    static const char *const does[] = {"sees", "follows", "likes", "forgets"};
    EW_AUTO_BUF b = {0};
    ew_rng rng;
    ew_rng_init(&rng, 4, 4);
    for (int i = 0; i < 800; i++) {
        for (int j = 0; j < 3; j++) {
            const size_t a = ew_rng_below(&rng, 4);
            ew_buf_addf(&b, "%s %s %s. ", who[a], does[(a + 1) % 4], who[ew_rng_below(&rng, 4)]);
        }
        ew_buf_adds(&b, "\n\n");
    }
    return ew_test_file("corpus.txt", b.data, b.size);
}

static void open_fixture(fixture *f)
{
    ew_error err = EW_ERROR_INIT;
    memset(f, 0, sizeof(*f));
    assert_ok(ew_pretrain_recipe_load(ew_test_text("tiny.yaml", recipe_text), &f->recipe, &err), &err);
    const char *text = write_text();
    assert_ok(ew_corpus_vocab_files(text, f->recipe, NULL, &f->vocab, &err), &err);
    assert_ok(ew_corpus_new_files(text, f->recipe, f->vocab, &f->corpus, &err), &err);
}

static void close_fixture(fixture *f)
{
    ew_corpus_free(&f->corpus);
    ew_vocab_free(&f->vocab);
    ew_pretrain_recipe_free(&f->recipe);
}

static ew_pretrain_opt opt_of(fixture *f, const char *out)
{
    return (ew_pretrain_opt){.recipe = f->recipe,
                             .exec = {ew_kern_get(NULL), NULL},
                             .vocab = f->vocab,
                             .train = ew_corpus_train(f->corpus),
                             .val = ew_corpus_val(f->corpus),
                             .out_gguf = out};
}

static void file_hash(const char *path, uint8_t digest[static EW_SHA256_SIZE])
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_sha256_file(path, NULL, digest, NULL, &err), &err);
}

static void assert_same_file(const char *a, const char *b)
{
    uint8_t x[EW_SHA256_SIZE], y[EW_SHA256_SIZE];
    file_hash(a, x);
    file_hash(b, y);
    assert_memory_equal(x, y, EW_SHA256_SIZE);
}

static void model_learns_and_opens(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    fixture f;
    open_fixture(&f);
    const char *out = ew_test_path("learned.gguf"), *csv = ew_test_path("curve.csv");
    ew_pretrain_opt opt = opt_of(&f, out);
    opt.curve_csv = csv;
    ew_pretrain_report r;
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    assert_true(r.tokens >= 40000 && r.tokens < 40000 + 3 * 128);
    if (!(r.val_loss < 2.0F)) { /* log(300) = 5.7 at the start */
        fail_msg("validation loss %g", (double)r.val_loss);
    }
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_session) s = NULL;
    assert_ok(ew_model_open(out, NULL, &m, &err), &err);
    assert_int_equal(ew_model_n_params(m), r.n_params);
    EW_AUTO_TOKENS ids = {0};
    const char *text = "the cat follows";
    assert_ok(ew_tokenizer_encode(ew_model_tokenizer(m), text, strlen(text), EW_ENCODE_BOS, &ids, &err), &err);
    assert_int_equal(ids.id[0], 0); /* BOS is the first piece */
    assert_ok(ew_session_new(m, NULL, &s, &err), &err);
    double nll;
    size_t n;
    assert_ok(ew_session_nll(s, ids.id, ids.n, 1, &nll, &n, &err), &err);
    assert_true(nll / (double)n < 2.5);
    EW_AUTO_BUF curve = {0};
    assert_ok(ew_file_read(csv, 1 << 20, &curve, &err), &err);
    assert_true(strncmp(curve.data, "step,tokens,seconds,lr,loss,val_loss", 36) == 0);
    close_fixture(&f);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    fixture f;
    open_fixture(&f);
    EW_AUTO(ew_pool) pool = NULL;
    assert_ok(ew_pool_new(3, &pool, &err), &err);
    ew_pretrain_report r;
    ew_pretrain_opt opt = opt_of(&f, ew_test_path("one.gguf"));
    opt.tokens = 3000;
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    opt.exec.pool = pool;
    opt.out_gguf = ew_test_path("three.gguf");
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    assert_same_file(ew_test_path("one.gguf"), ew_test_path("three.gguf"));
    close_fixture(&f);
}

static bool stop_soon(const ew_progress_info *info, void *ctx)
{
    (void)info;
    return --*(int *)ctx > 0;
}

static void stopped_run_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    fixture f;
    open_fixture(&f);
    ew_pretrain_report r;
    ew_pretrain_opt opt = opt_of(&f, ew_test_path("whole.gguf"));
    opt.tokens = 6000;
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    opt.out_gguf = ew_test_path("parts.gguf");
    opt.checkpoint = ew_test_path("parts.ckpt");
    ew_status st = EW_ECANCELLED;
    int parts = 0;
    for (; st == EW_ECANCELLED; parts++) {
        int left = 5;
        opt.progress = (ew_progress){stop_soon, &left};
        st = ew_pretrain(&opt, &r, &err);
    }
    assert_ok(st, &err);
    assert_true(parts >= 3 && r.resumed);
    assert_same_file(ew_test_path("whole.gguf"), ew_test_path("parts.gguf"));
    f.recipe->lr *= 2;
    assert_fails(EW_ECONFLICT, ew_pretrain(&opt, &r, &err), &err, "another run");
    close_fixture(&f);
}

typedef struct victim {
    uint32_t die_at, n;
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
    fixture f;
    open_fixture(&f);
    ew_pretrain_report r;
    ew_pretrain_opt opt = opt_of(&f, ew_test_path("unbroken.gguf"));
    opt.tokens = 6000;
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    opt.out_gguf = ew_test_path("killed.gguf");
    opt.checkpoint = ew_test_path("killed.ckpt");
    opt.checkpoint_seconds = 1e-9; /* every step */
    ew_rng rng;
    ew_rng_init(&rng, 1920, 3);
    int killed = 0;
    for (bool dead = true; dead; killed += dead) {
        victim v = {.die_at = 2 + (uint32_t)ew_rng_below(&rng, 5)};
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            opt.progress = (ew_progress){die_at, &v};
            _exit(ew_pretrain(&opt, &r, NULL) == EW_OK ? 0 : 1);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        dead = WIFSIGNALED(status);
        assert_true(dead || WEXITSTATUS(status) == 0);
    }
    assert_true(killed >= 3);
    assert_same_file(ew_test_path("unbroken.gguf"), ew_test_path("killed.gguf"));
    close_fixture(&f);
}

static void wall_time_becomes_a_number_of_tokens(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    fixture f;
    open_fixture(&f);
    f.recipe->tokens = 0;
    ew_pretrain_report r;
    ew_pretrain_opt opt = opt_of(&f, ew_test_path("timed.gguf"));
    assert_fails(EW_EINVAL, ew_pretrain(&opt, &r, &err), &err, "--max-minutes");
    opt.max_minutes = 0.002;
    assert_ok(ew_pretrain(&opt, &r, &err), &err);
    assert_true(r.tokens > 0);
    close_fixture(&f);
}

static void recipes_are_checked(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_pretrain_recipe *r = NULL;
    const struct {
        const char *from, *to, *want;
    } cases[] = {{"heads: 4\nkv", "heads: 5\nkv", "heads"},
                 {"lr: 0.01", "lr: -1", "lr"},
                 {"ffn: 64", "fffn: 64", "fffn"},
                 {"vocab_size: 300", "vocab_size: 20", "vocab_size"},
                 {"shard_tok: 128", "shard_tok: 32", "shard_tok"},
                 {"layers: 2", "layers: two", "layers"}};
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        EW_AUTO_BUF b = {0};
        const char *at = strstr(recipe_text, cases[i].from);
        assert_non_null(at);
        ew_buf_add(&b, recipe_text, (size_t)(at - recipe_text));
        ew_buf_adds(&b, cases[i].to);
        ew_buf_adds(&b, at + strlen(cases[i].from));
        const char *path = ew_test_file("bad.yaml", b.data, b.size);
        const ew_status st = ew_pretrain_recipe_load(path, &r, &err);
        if (st != EW_EINVAL || strstr(err.msg, cases[i].want) == NULL) {
            fail_msg("%s: %s '%s'", cases[i].to, ew_status_name(st), err.msg);
        }
    }
    assert_null(r);
}

static void committed_recipes_load(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    static const char *const names[] = {"/models/deb-tiny.yaml", "/models/deb-small.yaml"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        char path[EW_PATH_MAX];
        EW_AUTO(ew_pretrain_recipe) r = NULL;
        snprintf(path, sizeof(path), "%s%s", EW_TEST_SOURCE_DIR, names[i]);
        assert_ok(ew_pretrain_recipe_load(path, &r, &err), &err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_learns_and_opens),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(stopped_run_goes_on_to_the_same_bytes),
        cmocka_unit_test(killed_at_seeded_moments_it_ends_with_the_same_bytes),
        cmocka_unit_test(wall_time_becomes_a_number_of_tokens),
        cmocka_unit_test(recipes_are_checked),
        cmocka_unit_test(committed_recipes_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

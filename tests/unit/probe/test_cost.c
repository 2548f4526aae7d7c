/* The cost model's formulas, and that the probe measures every rate it needs. ctest: TIMEOUT=120 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "base/str.h"
#include "kern/kern.h"
#include "model/model.h"
#include "model/session.h"
#include "model/weights.h"
#include "probe/cost.h"
#include "probe/probe.h"
#include "sys/file.h"
#include "task/item.h"
#include "token/vocab.h"
#include "train/tune.h"

#include "toy.h"

static const ew_model_config cfg = {.arch = "llama",
                                    .C = 128,
                                    .H = 4,
                                    .K = 2,
                                    .D = 32,
                                    .F = 384,
                                    .V = 4096,
                                    .L = 6,
                                    .n_ctx_train = 512,
                                    .norm_eps = 1e-5f,
                                    .n_rot = 32,
                                    .rope_theta = 10000,
                                    .tied_head = true};

static void near(double a, double b)
{
    if (fabs(a - b) > 1e-9 * fmax(fabs(a), fabs(b))) {
        fail_msg("%.12g is not %.12g", a, b);
    }
}

static void flop_count_the_linears_the_attention_and_the_head(void **state)
{
    (void)state;
    double linears = 128 * 128 * 2.0 + 2 * 64 * 128.0 + 3 * 128 * 384.0; /* q and o, k and v, gate up down */
    near(ew_cost_flop_layers(&cfg, 0), 2 * linears * 6);
    near(ew_cost_flop_layers(&cfg, 100) - ew_cost_flop_layers(&cfg, 0), 4 * 4 * 32 * 100.0 * 6);
    near(ew_cost_flop_head(&cfg), 2.0 * 4096 * 128);
}

static const ew_cost_item item = {.prompt_tok = 100, .filled_tok = 300, .answer_tok = 4, .decode_tok = 15};

static void work_counts_the_untouched_model_and_the_method(void **state)
{
    ew_cost_work w;
    const ew_settings s = {0};
    (void)state;
    ew_cost_work_of(EW_METHOD_NONE, &s, &item, 60, 20, 20, &w);
    near(w.prefill_tok, 40 * 100);
    near(w.prefill_ctx, 50);
    near(w.decode_tok, 40 * 15);
    near(w.decode_ctx, 100);
    assert_true(w.train_tok == 0 && w.train_val_tok == 0);
    ew_cost_work_of(EW_METHOD_RAG, &s, &item, 60, 20, 20, &w);
    near(w.prefill_tok, 40 * (100 + 300));
    near(w.prefill_ctx, (100 * 100 + 300 * 300) / 2.0 / 400);
    near(w.decode_tok, 2 * 40 * 15);
    assert_true(w.train_tok == 0);
    ew_cost_work_of(EW_METHOD_LORA, &s, &item, 60, 20, 20, &w);
    near(w.prefill_tok, 40 * 200);
    near(w.train_tok, 3 * 60 * 104);           /* three epochs */
    near(w.train_val_tok, (1 + 3) * 20 * 104); /* before the first step and after each epoch */
    near(w.train_ctx, 52);
    ew_cost_work_of(EW_METHOD_LORA_RAG, &s, &item, 60, 20, 20, &w);
    near(w.train_tok, 3 * 60 * 304);
}

static void epochs_and_steps_bound_the_training(void **state)
{
    ew_cost_work w;
    ew_settings s = {.epochs = 5};
    (void)state;
    ew_cost_work_of(EW_METHOD_LORA, &s, &item, 64, 20, 20, &w);
    near(w.train_tok, 5 * 64 * 104);
    s.max_steps = 4; /* of 8 examples: half an epoch */
    ew_cost_work_of(EW_METHOD_LORA, &s, &item, 64, 20, 20, &w);
    near(w.train_tok, 0.5 * 64 * 104);
    s.max_steps = 4000;
    ew_cost_work_of(EW_METHOD_LORA, &s, &item, 64, 20, 20, &w);
    near(w.train_tok, 5 * 64 * 104);
}

static void free_text_is_scored_and_written(void **state)
{
    (void)state;
    near(ew_cost_generate_tok(10, 32), 20);
    near(ew_cost_generate_tok(40, 32), 72);
}

static void add(ew_device_caps *c, const char *kind, int width, double gflops)
{
    ew_rate *r = &c->rates[c->n_rates++];
    (void)snprintf(r->name, sizeof(r->name), "%s.q8_0.%d", kind, width);
    r->value = gflops;
}

static ew_device_caps *caps_of(bool longer)
{
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    for (int width = 128; width <= 256; width += 128) {
        double f = width / 128.0;
        add(c, "prefill", width, 100 * f);
        add(c, "decode", width, 40 * f);
        add(c, "train", width, 30 * f);
        if (longer) {
            add(c, "prefill-long", width, 80 * f);
            add(c, "decode-long", width, 30 * f);
        }
    }
    return c;
}

static void seconds_are_flop_over_rate(void **state)
{
    ew_device_caps *c = caps_of(false);
    ew_cost_work w = {.prefill_tok = 1000, .prefill_ctx = EW_COST_PROMPT_TOK / 2.0};
    double low = 0;
    double high = 0;
    (void)state;
    double s = ew_cost_seconds(c, &cfg, "q8_0", &w, &low, &high);
    near(s, 1000 * ew_cost_flop_layers(&cfg, EW_COST_PROMPT_TOK / 2.0) / 100e9);
    assert_true(low > 0 && low < s && high > s);
    w = (ew_cost_work){.decode_tok = 10, .decode_ctx = EW_COST_PROMPT_TOK + EW_COST_DECODE_TOK / 2.0};
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL),
         10 * (ew_cost_flop_layers(&cfg, w.decode_ctx) + ew_cost_flop_head(&cfg)) / 40e9);
    w = (ew_cost_work){.train_tok = 10, .train_val_tok = 30, .train_ctx = EW_COST_PROMPT_TOK / 2.0};
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL), 20 * ew_cost_flop_layers(&cfg, w.train_ctx) / 30e9);
    /* The budget of wall time ends the training, not the scoring. */
    w.prefill_tok = 1000;
    w.prefill_ctx = EW_COST_PROMPT_TOK / 2.0;
    w.max_seconds = 1e-6;
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL), s + 1e-6);
    ew_free(c);
}

static void wider_models_lie_between_the_measured_ones_and_beyond_them_nothing_changes(void **state)
{
    ew_device_caps *c = caps_of(false);
    ew_model_config wide = cfg;
    const ew_cost_work w = {.prefill_tok = 1000, .prefill_ctx = EW_COST_PROMPT_TOK / 2.0};
    static const struct {
        uint32_t C;
        double gflops;
    } at[] = {{64, 100}, {128, 100}, {256, 200}, {1024, 200}};
    (void)state;
    for (size_t i = 0; i < EW_COUNT(at); i++) {
        wide.C = at[i].C;
        near(ew_cost_seconds(c, &wide, "q8_0", &w, NULL, NULL),
             1000 * ew_cost_flop_layers(&wide, w.prefill_ctx) / at[i].gflops / 1e9);
    }
    wide.C = 181; /* the middle, in log2 */
    double s =
        ew_cost_seconds(c, &wide, "q8_0", &w, NULL, NULL) * 1e9 / 1000 / ew_cost_flop_layers(&wide, w.prefill_ctx);
    assert_true(1 / s > 140 && 1 / s < 143);
    ew_free(c);
}

static void long_prompts_cost_what_was_measured_for_them(void **state)
{
    ew_device_caps *c = caps_of(true);
    ew_cost_work w = {.prefill_tok = 1000, .prefill_ctx = EW_COST_LONG_TOK / 2.0};
    (void)state;
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL), 1000 * ew_cost_flop_layers(&cfg, w.prefill_ctx) / 80e9);
    double far = ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL);
    w.prefill_ctx = EW_COST_PROMPT_TOK / 2.0;
    double close = ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL);
    w.prefill_ctx = (EW_COST_LONG_TOK + EW_COST_PROMPT_TOK) / 4.0;
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL), (far + close) / 2);
    /* Training slows down with the length as the forward pass does. */
    w = (ew_cost_work){.train_tok = 100, .train_ctx = EW_COST_LONG_TOK / 2.0};
    near(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL),
         100 * ew_cost_flop_layers(&cfg, EW_COST_PROMPT_TOK / 2.0) / 30e9 * far / close);
    ew_free(c);
}

static void a_missing_rate_is_not_guessed(void **state)
{
    ew_device_caps *c = caps_of(true);
    const ew_cost_work w = {.prefill_tok = 1000, .train_tok = 1};
    (void)state;
    assert_true(isnan(ew_cost_seconds(c, &cfg, "f16", &w, NULL, NULL)));
    assert_true(isnan(ew_cost_seconds(c, &cfg, "bf16", &w, NULL, NULL)));
    assert_true(isnan(ew_cost_seconds(c, &cfg, "q4_k_m", &w, NULL, NULL)));
    near(ew_cost_seconds(c, &cfg, "q6_k", &w, NULL, NULL), ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL));
    c->rates[0].value = 0;
    assert_true(isnan(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL)));
    c->rates[0].value = NAN;
    assert_true(isnan(ew_cost_seconds(c, &cfg, "q8_0", &w, NULL, NULL)));
    ew_free(c);
}

static void memory_is_the_sum_of_the_dry_runs(void **state)
{
    static const toy_shape shape = TOY_SHAPE_SMALL;
    ew_error err = EW_ERROR_INIT;
    ew_model *m = NULL;
    uint64_t none = 0;
    uint64_t lora = 0;
    uint64_t more = 0;
    uint64_t file = 0;
    const ew_settings s = {.rank = 8};
    (void)state;
    const char *path = ew_test_path("cost.gguf");
    assert_ok(toy_save(path, &shape, "Q8_0", 1, &err), &err);
    assert_ok(ew_model_open(path, NULL, &m, &err), &err);
    assert_ok(ew_file_size(path, &file, &err), &err);
    ew_cost_ram_opt opt = {.model = m, .method = EW_METHOD_NONE, .settings = &s, .n_ctx = 128};
    assert_ok(ew_cost_ram(&opt, &none, &err), &err);
    assert_true(none > file);
    opt.process_bytes = 12345;
    assert_ok(ew_cost_ram(&opt, &more, &err), &err);
    assert_true(more == none + 12345);
    opt.process_bytes = 0;
    opt.method = EW_METHOD_LORA;
    assert_ok(ew_cost_ram(&opt, &lora, &err), &err);
    assert_true(lora > none);
    opt.n_ctx = 256;
    assert_ok(ew_cost_ram(&opt, &more, &err), &err);
    assert_true(more >= lora);
    opt.n_ctx = 1u << 30;
    assert_int_not_equal(ew_cost_ram(&opt, &more, &err), EW_OK);
    ew_model_unref(&m);
}

static bool stop_at_once(const ew_progress_info *info, void *ctx)
{
    (void)info;
    (void)ctx;
    return false;
}

static void the_probe_measures_every_rate_and_cleans_up(void **state)
{
    static const char *const kinds[] = {"prefill", "decode", "train", "prefill-long", "decode-long"};
    static const char *const types[] = {"f16", "q8_0", "q4_0"};
    ew_error err = EW_ERROR_INIT;
    ew_dir_list list = {0};
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    const char *dir = ew_test_path("probe");
    (void)state;
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    ew_probe_opt opt = {.device_class = "desk", .disk_path = dir, .temp_dir = dir};
    assert_ok(ew_probe_run(&opt, c, &err), &err);
    for (size_t k = 0; k < EW_COUNT(kinds); k++) {
        for (size_t t = 0; t < EW_COUNT(types); t++) {
            for (int width = 128; width <= 256; width += 128) {
                char name[64];
                (void)snprintf(name, sizeof(name), "%s.%s.%d", kinds[k], types[t], width);
                const ew_rate *r = ew_caps_rate(c, name);
                if (r == NULL || !(r->value > 0) || !isfinite(r->value) || !(r->spread >= 0)) {
                    fail_msg("rate %s: %g", name, r != NULL ? r->value : (double)NAN);
                }
            }
        }
    }
    assert_true(ew_caps_rate(c, "process.base")->value > 1e6 && ew_caps_rate(c, "read")->value > 0);
    assert_true(c->cores == 1 && c->ram_bytes > 0 && c->disk_bytes > 0);
    assert_string_equal(c->device_class, "desk");
    const ew_cost_work w = {
        .prefill_tok = 1000, .prefill_ctx = 50, .decode_tok = 10, .train_tok = 100, .train_ctx = 50};
    assert_true(ew_cost_seconds(c, &cfg, "q4_0", &w, NULL, NULL) > 0);
    opt.progress.fn = stop_at_once;
    assert_fails(EW_ECANCELLED, ew_probe_run(&opt, c, &err), &err, "stopped");
    opt.temp_dir = ew_test_path("nowhere");
    assert_int_not_equal(ew_probe_run(&opt, c, &err), EW_OK);
    assert_ok(ew_dir_read(dir, &list, &err), &err);
    assert_int_equal(list.n, 0);
    ew_dir_list_release(&list);
    ew_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flop_count_the_linears_the_attention_and_the_head),
        cmocka_unit_test(work_counts_the_untouched_model_and_the_method),
        cmocka_unit_test(epochs_and_steps_bound_the_training),
        cmocka_unit_test(free_text_is_scored_and_written),
        cmocka_unit_test(seconds_are_flop_over_rate),
        cmocka_unit_test(wider_models_lie_between_the_measured_ones_and_beyond_them_nothing_changes),
        cmocka_unit_test(long_prompts_cost_what_was_measured_for_them),
        cmocka_unit_test(a_missing_rate_is_not_guessed),
        cmocka_unit_test(memory_is_the_sum_of_the_dry_runs),
        cmocka_unit_test(the_probe_measures_every_rate_and_cleans_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

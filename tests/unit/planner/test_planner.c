/* What a plan must be, whatever the numbers: the checkable assertions A1–A10 of the guidelines, limits that bind, and trials that change the choice.
 * Memory is a formula here (weights by variant, plus what learning takes), so that models of any size can stand in the catalogue. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "planner/planner.h"

#define GIB (1024.0 * 1024 * 1024)

static ew_model_config g_config[8];
static ew_candidate g_cand[24];
static size_t g_n_cand;
static ew_evidence g_evidence[64];
static size_t g_n_evidence;

static ew_status memory(void *ctx, const ew_candidate *c, ew_method method, const ew_settings *s, uint64_t *ret,
                        ew_error *reterr)
{
    (void)ctx;
    (void)reterr;
    double bits = strcmp(c->variant, "q4_0") == 0 ? 4.5 : strcmp(c->variant, "q8_0") == 0 ? 8.5 : 16;
    double bytes = (double)c->n_params * bits / 8 + 0.4 * GIB;
    if (ew_method_trains(method)) {
        bytes += 16.0 * 1e-4 * (double)c->n_params * s->rank + 0.05 * (double)c->n_params;
    }
    *ret = (uint64_t)bytes;
    return EW_OK;
}

static void add_model(size_t i, const char *name, double params)
{
    static const char *const variants[] = {"f16", "q8_0", "q4_0"};
    g_config[i] = (ew_model_config){.C = 256, .H = 4, .K = 4, .D = 64, .F = 768, .V = 4096, .L = 4, .n_ctx_train = 512};
    for (size_t v = 0; v < 3; v++) {
        ew_candidate *c = &g_cand[g_n_cand++];
        *c = (ew_candidate){.n_params = (uint64_t)params,
                            .file_bytes = (uint64_t)(params * (v == 0   ? 2
                                                               : v == 1 ? 1.06
                                                                        : 0.56)),
                            .score = NAN,
                            .config = &g_config[i]};
        c->sha256[0] = (uint8_t)g_n_cand;
        (void)snprintf(c->name, sizeof c->name, "%s", name);
        (void)snprintf(c->variant, sizeof c->variant, "%s", variants[v]);
    }
}

static int setup(void **state)
{
    (void)state;
    g_n_cand = g_n_evidence = 0;
    add_model(0, "m-160m", 0.16e9);
    add_model(1, "m-1b", 1.1e9);
    add_model(2, "m-3b", 3e9);
    add_model(3, "m-7b", 7e9);
    return 0;
}

static ew_task_facts facts(int d, uint32_t n_items)
{
    ew_task_facts f = {.n_items = n_items, .mean_item_tok = 100, .mean_answer_tok = 4};
    (void)snprintf(f.task, sizeof f.task, "t%d", d);
    f.n_labels = d == 0 ? 4 : d == 1 ? 15 : 0;
    return f;
}

static ew_plan *plan_for(const ew_task_facts *f, double ram_gib, double seconds)
{
    ew_planner_input in = {.device_id = "dev",
                           .facts = f,
                           .budget = {.ram_bytes = (uint64_t)(ram_gib * GIB), .seconds = seconds},
                           .candidates = g_cand,
                           .n_candidates = g_n_cand,
                           .evidence = g_evidence,
                           .n_evidence = g_n_evidence,
                           .memory = memory};
    ew_plan *p = NULL;
    ew_error err = EW_ERROR_INIT;
    if (ew_planner_make(&in, &p, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    return p;
}

static double score_of(const ew_plan *p)
{
    const ew_estimate *e = ew_choice_estimate(&p->chosen, "score");
    assert_non_null(e);
    return e->mean;
}

static void the_method_follows_difficulty_lora_rag_lora_and_never_the_weak_ones(void **state)
{
    (void)state;
    static const ew_method expected[] = {EW_METHOD_LORA, EW_METHOD_RAG, EW_METHOD_LORA};
    for (int d = 0; d <= 2; d++) {
        for (double ram = 1; ram <= 32; ram *= 2) {
            for (uint32_t n = 12; n <= 400; n *= 2) {
                ew_task_facts f = facts(d, n);
                ew_plan *p = plan_for(&f, ram, 0);
                assert_int_equal(p->chosen.method, expected[d]); /* A2, and A1 with it */
                for (uint32_t i = 0; i < p->n_runners_up; i++) {
                    ew_method m = p->runners_up[i].method;
                    assert_true(m != EW_METHOD_PROMPT && m != EW_METHOD_PREFIX && m != EW_METHOD_IA3);
                }
                ew_free(p);
            }
        }
    }
}

static void without_history_the_model_is_used_as_it_is_and_with_little_it_retrieves(void **state)
{
    (void)state;
    for (int d = 0; d <= 2; d++) {
        ew_task_facts f = facts(d, 0);
        ew_plan *p = plan_for(&f, 8, 0);
        assert_int_equal(p->chosen.method, EW_METHOD_NONE);
        ew_free(p);
        f = facts(d, 2);
        p = plan_for(&f, 8, 0);
        assert_int_equal(p->chosen.method, EW_METHOD_RAG);
        ew_free(p);
    }
}

static void hours_stay_within_four_and_more_of_them_promise_nothing(void **state)
{
    (void)state;
    for (int d = 0; d <= 2; d++) {
        ew_task_facts f = facts(d, 100);
        ew_plan *a = plan_for(&f, 8, 4 * 3600);
        ew_plan *b = plan_for(&f, 8, 24 * 3600);
        assert_true(a->budget.seconds <= 4 * 3600 && b->budget.seconds <= 4 * 3600); /* A3 */
        assert_true(score_of(b) <= score_of(a) + 1e-12);                             /* A4 */
        ew_free(a);
        ew_free(b);
    }
}

static void rank_is_small_and_does_not_grow_because_memory_is_free(void **state)
{
    (void)state;
    ew_task_facts f = facts(2, 100);
    uint32_t smallest = 0;
    for (double ram = 0.55; ram <= 64; ram *= 1.3) {
        ew_plan *p = plan_for(&f, ram, 0);
        if (ew_method_trains(p->chosen.method)) {
            smallest = smallest == 0 ? p->chosen.settings.rank : smallest;
            assert_true(p->chosen.settings.rank <= 8 && p->chosen.settings.rank <= 2 * smallest); /* A5 */
        }
        ew_free(p);
    }
}

static void a_moderate_task_takes_the_strongest_model_that_fits_compressed_or_not(void **state)
{
    (void)state;
    static const struct {
        double ram;
        const char *name;
    } cases[] = {{0.6, "m-160m"}, {1.3, "m-1b"}, {2.3, "m-3b"}, {4.4, "m-7b"}, {16, "m-7b"}};
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        ew_task_facts f = facts(1, 80);
        ew_plan *p = plan_for(&f, cases[i].ram, 0);
        assert_string_equal(p->chosen.model_name, cases[i].name); /* A6 */
        ew_free(p);
    }
    /* and by general score where the catalogue has it */
    for (size_t i = 0; i < g_n_cand; i++) {
        g_cand[i].score = strcmp(g_cand[i].name, "m-1b") == 0 ? 0.9 : 0.5;
    }
    ew_task_facts f = facts(1, 80);
    ew_plan *p = plan_for(&f, 16, 0);
    assert_string_equal(p->chosen.model_name, "m-1b");
    ew_free(p);
}

static void less_history_never_takes_the_first_place_from_a_compressed_model(void **state)
{
    (void)state;
    for (int d = 0; d <= 2; d++) {
        for (double ram = 0.7; ram < 40; ram *= 1.5) {
            bool was_quantized = false;
            for (uint32_t n = 256; n > 0; n /= 2) {
                ew_task_facts f = facts(d, n);
                ew_plan *p = plan_for(&f, ram, 0);
                bool quantized = p->chosen.variant[0] == 'q';
                assert_true(!was_quantized || quantized); /* A7 */
                was_quantized = quantized;
                ew_free(p);
            }
        }
    }
}

static void more_history_never_means_more_retrieved_items(void **state)
{
    (void)state;
    uint32_t before = UINT32_MAX;
    for (uint32_t n = 4; n <= 100000; n *= 3) {
        ew_task_facts f = facts(1, n);
        ew_plan *p = plan_for(&f, 8, 0);
        assert_int_equal(p->chosen.method, EW_METHOD_RAG);
        assert_true(p->chosen.settings.rag_k <= 4 && p->chosen.settings.rag_k <= before); /* A8 */
        before = p->chosen.settings.rag_k;
        ew_free(p);
    }
}

static void memory_decides_what_is_feasible(void **state)
{
    (void)state;
    ew_task_facts f = facts(1, 80);
    ew_plan *p = plan_for(&f, 4, 0); /* A9 */
    assert_false(p->chosen.variant[0] == 'f' && strcmp(p->chosen.model_name, "m-3b") == 0);
    assert_false(strcmp(p->chosen.model_name, "m-7b") == 0);
    bool rejected = false;
    for (uint32_t i = 0; i < p->n_runners_up; i++) {
        const ew_choice *c = &p->runners_up[i];
        rejected = rejected || !c->feasible;
        if (!c->feasible) {
            assert_true(c->n_reasons > 0 && strstr(c->reasons[0].text, "needs") != NULL);
            assert_true(ew_choice_estimate(c, "ram")->mean > 4 * GIB);
        }
    }
    assert_true(rejected);
    ew_free(p);
    p = plan_for(&f, 16, 0);
    assert_string_equal(p->chosen.model_name, "m-7b");
    ew_free(p);
    ew_planner_input in = {.device_id = "dev",
                           .facts = &f,
                           .budget = {.ram_bytes = 1000},
                           .candidates = g_cand,
                           .n_candidates = g_n_cand,
                           .memory = memory};
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_planner_make(&in, &p, &err), EW_ELIMIT);
    assert_non_null(strstr(err.msg, "needs"));
    in.n_candidates = 0;
    assert_int_equal(ew_planner_make(&in, &p, &err), EW_ENOENT);
}

static void every_reason_says_what_kind_of_evidence_it_is(void **state)
{
    (void)state;
    for (int d = 0; d <= 2; d++) {
        ew_task_facts f = facts(d, 30);
        ew_plan *p = plan_for(&f, 4, 24 * 3600);
        assert_true(p->chosen.n_reasons >= 3);
        for (uint32_t i = 0; i < p->chosen.n_reasons; i++) {
            assert_true(p->chosen.reasons[i].evidence_class[0] != '\0'); /* A10 */
            assert_true(p->chosen.reasons[i].rule[0] != '\0' && p->chosen.reasons[i].text[0] != '\0');
        }
        assert_true(p->n_runners_up > 0);
        ew_free(p);
    }
}

static void add_trial(const char *task, const char *model, double params, ew_method m, double base, double score)
{
    ew_evidence *e = &g_evidence[g_n_evidence++];
    *e = (ew_evidence){.n_params = (uint64_t)params,
                       .method = m,
                       .n_history = 100,
                       .base_score = base,
                       .score = score,
                       .nll = NAN,
                       .base_nll = NAN,
                       .seconds = NAN,
                       .seconds_predicted = NAN};
    e->id[0] = (uint8_t)g_n_evidence;
    e->id[1] = (uint8_t)m;
    (void)snprintf(e->task, sizeof e->task, "%s", task);
    (void)snprintf(e->model_name, sizeof e->model_name, "%s", model);
    (void)snprintf(e->variant, sizeof e->variant, "q4_0");
}

static void trials_that_favour_another_method_flip_the_plan_and_are_named(void **state)
{
    (void)state;
    ew_task_facts f = facts(0, 100);
    ew_plan *before = plan_for(&f, 0.6, 0);
    assert_int_equal(before->chosen.method, EW_METHOD_LORA);
    for (int i = 0; i < 6; i++) {
        add_trial("t0", "m-160m", 0.16e9, EW_METHOD_LORA, 0.7, 0.68);
        add_trial("t0", "m-160m", 0.16e9, EW_METHOD_RAG, 0.7, 0.84);
    }
    ew_plan *after = plan_for(&f, 0.6, 0);
    assert_int_equal(after->chosen.method, EW_METHOD_RAG);
    const ew_reason *named = NULL;
    for (uint32_t i = 0; i < after->chosen.n_reasons; i++) {
        const ew_reason *r = &after->chosen.reasons[i];
        if (strcmp(r->rule, "evidence") == 0 && strstr(r->text, "without trials") != NULL) {
            named = r;
        }
    }
    if (named == NULL) {
        fail_msg("no reason names the trials");
        return;
    }
    assert_non_null(strstr(named->text, "lora"));
    assert_true(named->n_trials >= 6);
    assert_true(named->trials[0][0] >= 1 && named->trials[0][0] <= 12);
    ew_free(before);
    ew_free(after);
}

static void evidence_outweighs_the_prior_only_as_it_accumulates(void **state)
{
    (void)state;
    ew_task_facts f = facts(0, 100);
    bool flipped = false;
    for (int i = 0; i < 20; i++) {
        add_trial("t0", "m-160m", 0.16e9, EW_METHOD_RAG, 0.7, 0.79);
        ew_plan *p = plan_for(&f, 0.6, 0);
        bool rag = p->chosen.method == EW_METHOD_RAG;
        assert_true(i > 0 || !rag);   /* one trial a little better does not overturn it */
        assert_true(!flipped || rag); /* and once overturned it stays */
        flipped = flipped || rag;
        ew_free(p);
    }
    assert_true(flipped);
}

static void trials_of_another_task_count_little(void **state)
{
    (void)state;
    ew_task_facts f = facts(0, 100);
    for (int i = 0; i < 6; i++) {
        add_trial("other", "m-160m", 0.16e9, EW_METHOD_RAG, 0.5, 0.60);
    }
    ew_plan *p = plan_for(&f, 0.6, 0);
    assert_int_equal(p->chosen.method, EW_METHOD_LORA);
    ew_free(p);
}

static void the_same_input_gives_the_same_plan(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 7, 0);
    for (int i = 0; i < 200; i++) {
        ew_task_facts f = facts((int)ew_rng_below(&rng, 3), (uint32_t)ew_rng_below(&rng, 300));
        double ram = 0.6 + 20 * ew_rng_f64(&rng);
        ew_plan *a = plan_for(&f, ram, 0);
        ew_plan *b = plan_for(&f, ram, 0);
        assert_memory_equal(a, b, sizeof *a);
        assert_true(ew_choice_estimate(&a->chosen, "ram")->mean <= ram * GIB);
        ew_free(a);
        ew_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_method_follows_difficulty_lora_rag_lora_and_never_the_weak_ones, setup),
        cmocka_unit_test_setup(without_history_the_model_is_used_as_it_is_and_with_little_it_retrieves, setup),
        cmocka_unit_test_setup(hours_stay_within_four_and_more_of_them_promise_nothing, setup),
        cmocka_unit_test_setup(rank_is_small_and_does_not_grow_because_memory_is_free, setup),
        cmocka_unit_test_setup(a_moderate_task_takes_the_strongest_model_that_fits_compressed_or_not, setup),
        cmocka_unit_test_setup(less_history_never_takes_the_first_place_from_a_compressed_model, setup),
        cmocka_unit_test_setup(more_history_never_means_more_retrieved_items, setup),
        cmocka_unit_test_setup(memory_decides_what_is_feasible, setup),
        cmocka_unit_test_setup(every_reason_says_what_kind_of_evidence_it_is, setup),
        cmocka_unit_test_setup(trials_that_favour_another_method_flip_the_plan_and_are_named, setup),
        cmocka_unit_test_setup(evidence_outweighs_the_prior_only_as_it_accumulates, setup),
        cmocka_unit_test_setup(trials_of_another_task_count_little, setup),
        cmocka_unit_test_setup(the_same_input_gives_the_same_plan, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

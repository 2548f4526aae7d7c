/* A draft never changes what is generated: the same tokens under greedy, the same distribution under sampling. */
#include "tiny.h"

#include "model/generate.h"
#include "model/speculative.h"

typedef struct pair {
    tiny big, small;
    ew_session *target, *draft;
} pair;

static ew_session *session_of(const ew_model *m, uint32_t n_ctx)
{
    ew_session *s = NULL;
    ew_session_opt opt = {.n_ctx = n_ctx, .n_batch = 16, .exec.kern = ew_kern_get("ref")};
    assert_ok(ew_session_new(m, &opt, &s, err));
    return s;
}

/* seed of the draft = seed of the target: it is the same model, and every draft is kept. */
static void pair_make(pair *p, uint32_t V, uint64_t draft_seed, uint32_t n_ctx, uint32_t draft_ctx)
{
    ew_model_config c = tiny_config();
    c.V = V;
    tiny_make(&p->big, &c, false, 1);
    tiny_make(&p->small, &c, false, draft_seed);
    p->target = session_of(p->big.model, n_ctx);
    p->draft = session_of(p->small.model, draft_ctx);
}

static void pair_release(pair *p)
{
    ew_session_free(&p->target);
    ew_session_free(&p->draft);
    tiny_release(&p->big);
    tiny_release(&p->small);
}

static void generate(pair *p, const ew_sampler_opt *sampler, uint32_t n_draft, uint32_t max_tok, ew_tokens *out,
                     ew_generate_stats *stats)
{
    const int32_t prompt[] = {3, 1, 4, 1, 5};
    ew_session_reset(p->target);
    ew_session_reset(p->draft);
    ew_generate_opt opt = {
        .max_tok = max_tok, .sampler = *sampler, .draft = n_draft > 0 ? p->draft : NULL, .n_draft = n_draft};
    out->n = 0;
    assert_ok(ew_generate(p->target, prompt, EW_COUNT(prompt), &opt, out, NULL, stats, err));
}

static void greedy_gives_the_same_tokens_with_any_draft(void **state)
{
    (void)state;
    const uint64_t seeds[] = {1, 2, 9};
    for (size_t k = 0; k < EW_COUNT(seeds); k++) {
        pair p;
        pair_make(&p, 67, seeds[k], 64, 64);
        EW_AUTO_TOKENS plain = {0};
        EW_AUTO_TOKENS drafted = {0};
        ew_generate_stats st;
        const ew_sampler_opt greedy = {.repeat_penalty = k == 1 ? 1.3F : 0};
        generate(&p, &greedy, 0, 40, &plain, &st);
        uint32_t pos = ew_session_pos(p.target);
        for (uint32_t n = 1; n <= 7; n++) {
            generate(&p, &greedy, n, 40, &drafted, &st);
            assert_int_equal(drafted.n, plain.n);
            assert_memory_equal(drafted.id, plain.id, plain.n * sizeof(*plain.id));
            assert_int_equal(ew_session_pos(p.target), pos);
            assert_true(ew_session_pos(p.draft) <= pos);
            if (seeds[k] == 1) {
                assert_int_equal(st.n_kept, st.n_drafted);
            }
        }
        pair_release(&p);
    }
}

static void a_full_context_ends_both_in_the_same_way(void **state)
{
    (void)state;
    const uint32_t ctx[][2] = {{20, 20}, {20, 12}, {21, 6}, {16, 64}};
    for (size_t i = 0; i < EW_COUNT(ctx); i++) {
        pair p;
        pair_make(&p, 67, 1, ctx[i][0], ctx[i][1]);
        EW_AUTO_TOKENS plain = {0};
        EW_AUTO_TOKENS drafted = {0};
        ew_generate_stats a;
        ew_generate_stats b;
        generate(&p, &(ew_sampler_opt){0}, 0, 0, &plain, &a);
        generate(&p, &(ew_sampler_opt){0}, 5, 0, &drafted, &b);
        assert_true(a.stop == EW_STOP_CONTEXT && b.stop == EW_STOP_CONTEXT);
        assert_int_equal(drafted.n, plain.n);
        assert_memory_equal(drafted.id, plain.id, plain.n * sizeof(*plain.id));
        pair_release(&p);
    }
}

#define N_RUNS 2000
#define N_TOK 3
#define V_SMALL 6

/* counts[token 0 … 2 together] over N_RUNS seeds. */
static void count(pair *p, ew_sampler_opt sampler, uint32_t n_draft, uint64_t seed0, double *counts)
{
    EW_AUTO_TOKENS out = {0};
    ew_generate_stats st;
    memset(counts, 0, V_SMALL * V_SMALL * V_SMALL * sizeof(*counts));
    for (uint64_t i = 0; i < N_RUNS; i++) {
        sampler.seed = seed0 + i;
        generate(p, &sampler, n_draft, N_TOK, &out, &st);
        assert_int_equal(out.n, N_TOK);
        counts[(out.id[0] * V_SMALL + out.id[1]) * V_SMALL + out.id[2]]++;
    }
}

/* Two-sample chi-square over the outcomes that either side saw often enough, as a z score (Wilson and Hilferty 1931). */
static double z_of_difference(const double *a, const double *b)
{
    double chi = 0;
    double df = -1;
    for (size_t i = 0; i < V_SMALL * V_SMALL * V_SMALL; i++) {
        if (a[i] + b[i] >= 10) {
            chi += (a[i] - b[i]) * (a[i] - b[i]) / (a[i] + b[i]);
            df++;
        }
    }
    double s = 2 / (9 * df);
    return (cbrt(chi / df) - (1 - s)) / sqrt(s);
}

static void sampling_keeps_the_distribution_of_the_model_alone(void **state)
{
    (void)state;
    static double plain[V_SMALL * V_SMALL * V_SMALL];
    static double other[V_SMALL * V_SMALL * V_SMALL];
    const ew_sampler_opt rules[] = {{.temperature = 1.5F},
                                    {.temperature = 1.0F, .top_k = 4},
                                    {.temperature = 2.0F, .top_p = 0.8F, .repeat_penalty = 1.2F}};
    pair p;
    pair_make(&p, V_SMALL, 7, 32, 32);
    for (size_t r = 0; r < EW_COUNT(rules); r++) {
        count(&p, rules[r], 0, 0, plain);
        count(&p, rules[r], 2, 1000000, other);
        assert_true(z_of_difference(plain, other) < 4);
        /* The check can fail: the draft's own distribution is another one. */
        ew_session *t = p.target;
        p.target = p.draft;
        count(&p, rules[r], 0, 0, other);
        p.target = t;
        assert_true(z_of_difference(plain, other) > 10);
    }
    pair_release(&p);
}

static void models_that_do_not_fit_are_refused_with_the_reason(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    pair p;
    pair_make(&p, 67, 2, 32, 32);
    ew_sampler *sampler = NULL;
    ew_speculator *s = NULL;
    assert_int_equal(ew_sampler_new(&(ew_sampler_opt){0}, 67, &sampler, &err), EW_OK);
    assert_int_equal(ew_speculator_new(p.target, p.draft, sampler, 33, &s, &err), EW_EINVAL);
    assert_non_null(strstr(err.msg, "limit of 32"));
    const int32_t id = 1;
    assert_int_equal(ew_session_eval(p.target, &id, 1, NULL, &err), EW_OK);
    assert_int_equal(ew_speculator_new(p.target, p.draft, sampler, 0, &s, &err), EW_EINVAL);
    assert_non_null(strstr(err.msg, "stands at token 0"));
    pair q;
    pair_make(&q, 66, 2, 32, 32);
    ew_session_reset(p.target);
    assert_int_equal(ew_speculator_new(p.target, q.draft, sampler, 0, &s, &err), EW_EINVAL);
    assert_non_null(strstr(err.msg, "vocabulary of 66"));
    ew_sampler_free(&sampler);
    pair_release(&p);
    pair_release(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_gives_the_same_tokens_with_any_draft),
        cmocka_unit_test(a_full_context_ends_both_in_the_same_way),
        cmocka_unit_test(sampling_keeps_the_distribution_of_the_model_alone),
        cmocka_unit_test(models_that_do_not_fit_are_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

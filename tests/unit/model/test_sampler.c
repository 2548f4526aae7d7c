/* Sampling rules on hand-made logits. */
#include <stdlib.h>

#include "tiny.h"

#include "model/sampler.h"

static int32_t one(const ew_sampler_opt *o, const float *logits, uint32_t n)
{
    ew_sampler *s = NULL;
    assert_ok(ew_sampler_new(o, n, &s, err));
    int32_t id = ew_sampler_next(s, logits);
    ew_sampler_free(&s);
    return id;
}

static void greedy_takes_the_lowest_id_among_ties(void **state)
{
    (void)state;
    const float l[] = {1, 3, -2, 3, 0};
    assert_int_equal(one(&(ew_sampler_opt){0}, l, 5), 1);
    assert_int_equal(ew_argmax(l, 5), 1);
}

static void greedy_survives_nan_and_infinity(void **state)
{
    (void)state;
    const float l[] = {NAN, -INFINITY, 2, NAN};
    assert_int_equal(one(&(ew_sampler_opt){0}, l, 4), 2);
    const float all[] = {NAN, NAN, NAN};
    assert_int_equal(one(&(ew_sampler_opt){0}, all, 3), 0);
    assert_int_equal(one(&(ew_sampler_opt){.temperature = 1, .seed = 3}, all, 3), 0);
    assert_int_equal(ew_argmax(all, 3), 0);
}

/* Share of each id over n draws. */
static void histogram(const ew_sampler_opt *o, const float *logits, uint32_t n, double *share)
{
    ew_sampler *s = NULL;
    assert_ok(ew_sampler_new(o, n, &s, err));
    memset(share, 0, n * sizeof(*share));
    for (int i = 0; i < 20000; i++) {
        share[ew_sampler_next(s, logits)] += 1.0 / 20000;
    }
    ew_sampler_free(&s);
}

static void draws_follow_the_softmax_with_temperature(void **state)
{
    (void)state;
    const float l[] = {0, 1, 2, -1};
    double share[4];
    histogram(&(ew_sampler_opt){.temperature = 2, .seed = 11}, l, 4, share);
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += exp((double)l[i] / 2);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(fabs(share[i] - exp((double)l[i] / 2) / sum) < 0.015);
    }
}

static void top_k_keeps_the_k_best(void **state)
{
    (void)state;
    const float l[] = {0, 1, 2, 1.5F, -1};
    double share[5];
    histogram(&(ew_sampler_opt){.temperature = 1, .top_k = 2, .seed = 5}, l, 5, share);
    assert_true(share[0] == 0 && share[1] == 0 && share[4] == 0);
    double p = 1 / (1 + exp(-0.5));
    assert_true(fabs(share[2] - p) < 0.015);
    histogram(&(ew_sampler_opt){.temperature = 1, .top_k = 1, .seed = 5}, l, 5, share);
    assert_true(share[2] > 0.999);
}

static void top_p_keeps_the_smallest_set_that_reaches_p(void **state)
{
    (void)state;
    /* Probabilities 0.5, 0.3, 0.15, 0.05. */
    const float l[] = {logf(0.3F), logf(0.5F), logf(0.05F), logf(0.15F)};
    double share[4];
    histogram(&(ew_sampler_opt){.temperature = 1, .top_p = 0.7F, .seed = 9}, l, 4, share);
    assert_true(share[2] == 0 && share[3] == 0);
    assert_true(fabs(share[1] - 0.5 / 0.8) < 0.015);
    histogram(&(ew_sampler_opt){.temperature = 1, .top_p = 0.01F, .seed = 9}, l, 4, share);
    assert_true(share[1] > 0.999);
}

static void min_p_drops_what_is_far_below_the_best(void **state)
{
    (void)state;
    const float l[] = {logf(0.3F), logf(0.5F), logf(0.05F), logf(0.15F)};
    double share[4];
    histogram(&(ew_sampler_opt){.temperature = 1, .min_p = 0.25F, .seed = 2}, l, 4, share);
    assert_true(share[2] == 0);
    assert_true(fabs(share[3] - 0.15 / 0.95) < 0.015);
}

static int by_logit(const void *a, const void *b)
{
    const float *x = *(const float *const *)a, *y = *(const float *const *)b;
    return *x > *y ? -1 : *x < *y ? 1 : x < y ? -1 : x > y;
}

/* Sizes around those of blocks, many ties, some NaN and infinities: what is kept is what a full sort would keep. */
static void the_kept_are_those_of_a_full_sort(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 31, 32, 33, 64, 65, 1000, 5003};
    ew_rng r;
    ew_rng_init(&r, 77, 0);
    for (size_t t = 0; t < 40 * EW_COUNT(sizes); t++) {
        static float logits[5003], prob[5003];
        static const float *order[5003];
        uint32_t n = sizes[t % EW_COUNT(sizes)];
        for (uint32_t i = 0; i < n; i++) {
            logits[i] = t % 3 == 0 ? (float)ew_rng_below(&r, 7) : (float)ew_rng_normal(&r);
            logits[i] = ew_rng_below(&r, 50) == 0 ? (t % 2 == 0 ? NAN : -INFINITY) : logits[i];
        }
        logits[n / 2] = 1;
        for (uint32_t i = 0; i < n; i++) {
            logits[i] = isnan(logits[i]) && t % 4 == 0 ? -INFINITY : logits[i];
            order[i] = &logits[i];
        }
        uint32_t k = 1 + (uint32_t)ew_rng_below(&r, n);
        ew_sampler *s = NULL;
        assert_ok(ew_sampler_new(&(ew_sampler_opt){.temperature = 1, .top_k = k}, n, &s, err));
        ew_sampler_probs(s, logits, prob);
        for (uint32_t i = 0; i < n; i++) {
            logits[i] = isnan(logits[i]) ? -INFINITY : logits[i];
        }
        qsort(order, n, sizeof(order[0]), by_logit);
        double mass = 0;
        for (uint32_t i = 0; i < k; i++) {
            mass += exp((double)(*order[i] - *order[0]));
        }
        for (uint32_t i = 0; i < n; i++) {
            double want = i < k ? exp((double)(*order[i] - *order[0])) / mass : 0;
            assert_true(fabs((double)prob[order[i] - logits] - want) < 1e-6);
        }
        ew_sampler_free(&s);
    }
}

static void one_seed_gives_one_sequence(void **state)
{
    (void)state;
    float l[50];
    ew_rng r;
    ew_rng_init(&r, 1, 1);
    for (int i = 0; i < 50; i++) {
        l[i] = (float)ew_rng_normal(&r);
    }
    ew_sampler *a = NULL;
    ew_sampler *b = NULL;
    ew_sampler_opt o = {.temperature = 1, .top_p = 0.9F, .top_k = 30, .repeat_penalty = 1.1F, .seed = 42};
    assert_ok(ew_sampler_new(&o, 50, &a, err));
    assert_ok(ew_sampler_new(&o, 50, &b, err));
    int32_t first[30];
    for (int i = 0; i < 30; i++) {
        first[i] = ew_sampler_next(a, l);
        assert_int_equal(first[i], ew_sampler_next(b, l));
    }
    ew_sampler_reset(a);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(first[i], ew_sampler_next(a, l));
    }
    ew_sampler_free(&a);
    ew_sampler_free(&b);
}

static void repetition_penalty_counts_the_recent_tokens_once(void **state)
{
    (void)state;
    const float l[] = {2, 1.5F, -1};
    ew_sampler *s = NULL;
    ew_sampler_opt o = {.repeat_penalty = 2, .repeat_last_n = 2};
    assert_ok(ew_sampler_new(&o, 3, &s, err));
    ew_sampler_accept(s, 0);
    ew_sampler_accept(s, 0);
    assert_int_equal(ew_sampler_next(s, l), 1); /* 0 has 1.0 */
    assert_int_equal(ew_sampler_next(s, l), 0); /* both are recent: 1.0 and 0.75 */
    ew_sampler_accept(s, 2);
    ew_sampler_accept(s, 2); /* 0 and 1 fell out of the window */
    assert_int_equal(ew_sampler_next(s, l), 0);
    ew_sampler_free(&s);
}

static void options_out_of_range_are_refused_by_name(void **state)
{
    (void)state;
    const ew_sampler_opt bad[] = {{.temperature = -1}, {.temperature = NAN},     {.top_p = 1.5F},
                                  {.min_p = -0.1F},    {.repeat_penalty = 1e3F}, {.repeat_last_n = 1u << 30}};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_sampler *s = NULL;
        ew_error why = EW_ERROR_INIT;
        assert_int_equal(ew_sampler_new(&bad[i], 4, &s, &why), EW_EINVAL);
        assert_null(s);
        assert_true(why.msg[0] != '\0');
    }
}

static void drawing_allocates_nothing(void **state)
{
    (void)state;
    float l[500] = {0};
    ew_sampler *s = NULL;
    ew_sampler_opt o = {.temperature = 1, .top_k = 40, .top_p = 0.9F, .repeat_penalty = 1.2F};
    assert_ok(ew_sampler_new(&o, 500, &s, err));
    uint64_t before = ew_mem_count();
    for (int i = 0; i < 100; i++) {
        (void)ew_sampler_next(s, l);
    }
    assert_int_equal(ew_mem_count(), before);
    ew_sampler_free(&s);
}

static void log_prob_is_the_log_of_the_softmax(void **state)
{
    (void)state;
    const float l[] = {1000, 999, 998};
    double sum = 1 + exp(-1) + exp(-2);
    assert_true(fabs(ew_log_prob(l, 3, 1) - (-1 - log(sum))) < 3e-7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_among_ties),
        cmocka_unit_test(greedy_survives_nan_and_infinity),
        cmocka_unit_test(draws_follow_the_softmax_with_temperature),
        cmocka_unit_test(top_k_keeps_the_k_best),
        cmocka_unit_test(top_p_keeps_the_smallest_set_that_reaches_p),
        cmocka_unit_test(min_p_drops_what_is_far_below_the_best),
        cmocka_unit_test(the_kept_are_those_of_a_full_sort),
        cmocka_unit_test(one_seed_gives_one_sequence),
        cmocka_unit_test(repetition_penalty_counts_the_recent_tokens_once),
        cmocka_unit_test(options_out_of_range_are_refused_by_name),
        cmocka_unit_test(drawing_allocates_nothing),
        cmocka_unit_test(log_prob_is_the_log_of_the_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* MeZO: directions that need no memory, the estimate's mean is the gradient, it descends, it restores exactly. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "sys/pool.h"
#include "test.h"
#include "train/mezo.h"

#define N 41

/* L(p) = 1/2 sum_i a_i (p_i - c_i)^2, whose gradient is a (p - c). */
typedef struct bowl {
    float p[N], kept[N];
    double a[N], c[N];
    int calls;
    bool broken; /* from the third call on */
} bowl;

static double bowl_loss(void *ctx)
{
    bowl *b = ctx;
    double sum = 0;
    for (int i = 0; i < N; i++) {
        const double d = (double)b->p[i] - b->c[i];
        sum += 0.5 * b->a[i] * d * d;
    }
    b->calls++;
    return b->broken && b->calls > 2 ? (double)NAN : sum;
}

static void bowl_fill(bowl *b)
{
    ew_rng rng;
    ew_rng_init(&rng, 5, 0);
    memset(b, 0, sizeof(*b));
    for (int i = 0; i < N; i++) {
        b->a[i] = 0.2 + ew_rng_f64(&rng);
        b->c[i] = ew_rng_normal(&rng);
        b->p[i] = (float)ew_rng_normal(&rng);
    }
}

static const ew_exec *serial(void)
{
    static ew_exec e;
    e.kern = ew_kern_get("ref");
    return &e;
}

static void directions_are_normal_and_of_their_address_alone(void **state)
{
    (void)state;
    enum {
        MANY = 20000
    };
    static float zero[MANY], a[MANY], b[MANY], c[MANY];
    const ew_mezo_opt o = {.eps = 1e-2F, .seed = 9};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) pool = NULL;
    assert_ok(ew_pool_new(3, &pool, &err), &err);
    const ew_exec two = {ew_kern_get(NULL), pool};
    ew_mezo_along(serial(), &o, 7, 1, 1, 0, zero, MANY, a);
    ew_mezo_along(&two, &o, 7, 1, 1, 0, zero, MANY, b);
    assert_memory_equal(a, b, sizeof(a));
    ew_mezo_along(serial(), &o, 7, 1, 1, 0, zero, 1001, b); /* a shorter block begins alike */
    assert_memory_equal(a, b, 1001 * sizeof(float));
    double m1 = 0, m2 = 0, m4 = 0, cross = 0, lag = 0;
    ew_mezo_along(serial(), &o, 8, 0, 1, 0, zero, MANY, c);
    for (int i = 0; i < MANY; i++) {
        const double z = (double)a[i];
        m1 += z / MANY;
        m2 += z * z / MANY;
        m4 += z * z * z * z / MANY;
        cross += z * (double)c[i] / MANY;
        lag += i > 0 ? z * (double)a[i - 1] / MANY : 0;
    }
    /* five standard errors: 1/sqrt(n), sqrt(2/n), sqrt(96/n) */
    assert_true(fabs(m1) < 0.036 && fabs(m2 - 1) < 0.05 && fabs(m4 - 3) < 0.35);
    assert_true(fabs(cross) < 0.036 && fabs(lag) < 0.036);
}

/* The mean of g z over directions against the gradient, each element within five of its own standard errors, the whole within what chance
 * gives: E |mean - grad|^2 = sum of squared standard errors. */
static void the_mean_over_directions_is_the_gradient(void **state)
{
    (void)state;
    enum {
        DIRS = 40000
    };
    static bowl b;
    bowl_fill(&b);
    float start[N];
    double mean[N] = {0}, square[N] = {0};
    memcpy(start, b.p, sizeof(start));
    const ew_mezo_opt o = {.eps = 1e-2F, .seed = 1};
    for (uint64_t s = 0; s < DIRS; s++) {
        ew_mezo_result r;
        memcpy(b.p, start, sizeof(start));
        ew_mezo_step(serial(), &o, s, 1, b.p, b.kept, N, bowl_loss, &b, &r);
        assert_true(r.finite);
        for (int i = 0; i < N; i++) {
            const double gz = (double)start[i] - (double)b.p[i]; /* lr 1 */
            mean[i] += gz / DIRS;
            square[i] += gz * gz / DIRS;
        }
    }
    double off = 0, chance = 0, size = 0;
    for (int i = 0; i < N; i++) {
        const double want = b.a[i] * ((double)start[i] - b.c[i]);
        const double se = sqrt((square[i] - mean[i] * mean[i]) / DIRS);
        if (fabs(mean[i] - want) > 5 * se) {
            fail_msg("element %d: %g, gradient %g, standard error %g", i, mean[i], want, se);
        }
        off += (mean[i] - want) * (mean[i] - want);
        chance += se * se;
        size += want * want;
    }
    assert_true(off < 2 * chance && chance < 0.01 * size);
}

static void it_descends_to_the_bottom_of_a_bowl(void **state)
{
    (void)state;
    static bowl b;
    bowl_fill(&b);
    const double before = bowl_loss(&b);
    const ew_mezo_opt o = {.eps = 1e-3F, .seed = 3};
    ew_mezo_result r;
    for (uint64_t s = 0; s < 3000; s++) {
        ew_mezo_step(serial(), &o, s, 0.02F, b.p, b.kept, N, bowl_loss, &b, &r);
    }
    assert_true(bowl_loss(&b) < 1e-4 * before);
    assert_true(fabs(r.loss - bowl_loss(&b)) < 1e-3);
}

static void more_directions_scatter_less(void **state)
{
    (void)state;
    static bowl b;
    double off[2];
    for (int k = 0; k < 2; k++) {
        const ew_mezo_opt o = {.eps = 1e-2F, .n_spsa = k == 0 ? 1 : 16, .seed = 4};
        off[k] = 0;
        for (uint64_t s = 0; s < 200; s++) {
            ew_mezo_result r;
            bowl_fill(&b);
            float start[N];
            memcpy(start, b.p, sizeof(start));
            b.calls = 0;
            ew_mezo_step(serial(), &o, s, 1, b.p, b.kept, N, bowl_loss, &b, &r);
            assert_int_equal(b.calls, k == 0 ? 2 : 32);
            for (int i = 0; i < N; i++) {
                const double d = (double)start[i] - (double)b.p[i] - b.a[i] * ((double)start[i] - b.c[i]);
                off[k] += d * d / 200;
            }
        }
    }
    assert_true(off[1] < off[0] / 10 && off[1] > off[0] / 24); /* 1/16 */
}

static void a_step_of_nothing_leaves_every_bit(void **state)
{
    (void)state;
    static bowl b;
    bowl_fill(&b);
    float start[N];
    memcpy(start, b.p, sizeof(start));
    const ew_mezo_opt o = {.eps = 0.3F, .n_spsa = 3, .seed = 5};
    ew_mezo_result r;
    for (uint64_t s = 0; s < 100; s++) {
        ew_mezo_step(serial(), &o, s, 0, b.p, b.kept, N, bowl_loss, &b, &r);
    }
    assert_memory_equal(b.p, start, sizeof(start));
    /* in place as published: near, but not the same */
    for (uint64_t s = 0; s < 100; s++) {
        ew_mezo_step(serial(), &o, s, 0, b.p, NULL, N, bowl_loss, &b, &r);
    }
    double drift = 0;
    for (int i = 0; i < N; i++) {
        drift = EW_MAX(drift, fabs((double)b.p[i] - (double)start[i]));
    }
    assert_true(drift > 0 && drift < 1e-4);
}

static void a_loss_that_is_no_number_changes_nothing(void **state)
{
    (void)state;
    static bowl b;
    bowl_fill(&b);
    float start[N];
    memcpy(start, b.p, sizeof(start));
    b.broken = true;
    const ew_mezo_opt o = {.eps = 1e-2F, .n_spsa = 4, .weight_decay = 0.1F, .seed = 6};
    ew_mezo_result r;
    ew_mezo_step(serial(), &o, 0, 0.1F, b.p, b.kept, N, bowl_loss, &b, &r);
    assert_false(r.finite);
    assert_int_equal(b.calls, 4);
    assert_memory_equal(b.p, start, sizeof(start));
}

static double flat_loss(void *ctx)
{
    (void)ctx;
    return 1;
}

static void weights_decay_and_slopes_are_bounded(void **state)
{
    (void)state;
    static bowl b;
    bowl_fill(&b);
    float start[N], free_step[N];
    memcpy(start, b.p, sizeof(start));
    ew_mezo_result r;
    ew_mezo_opt o = {.eps = 1e-2F, .n_spsa = 2, .weight_decay = 0.5F, .seed = 7};
    ew_mezo_step(serial(), &o, 0, 0.1F, b.p, b.kept, N, flat_loss, NULL, &r);
    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)b.p[i] - 0.95 * (double)start[i]) < 1e-6);
    }
    assert_true(r.slope_rms == 0 && r.loss == 1);
    o = (ew_mezo_opt){.eps = 1e-2F, .seed = 7};
    memcpy(b.p, start, sizeof(start));
    ew_mezo_step(serial(), &o, 0, 0.1F, b.p, b.kept, N, bowl_loss, &b, &r);
    memcpy(free_step, b.p, sizeof(start));
    o.clip = (float)r.slope_rms / 4;
    memcpy(b.p, start, sizeof(start));
    ew_mezo_step(serial(), &o, 0, 0.1F, b.p, b.kept, N, bowl_loss, &b, &r);
    for (int i = 0; i < N; i++) {
        assert_true(fabs((double)(b.p[i] - start[i]) - 0.25 * (double)(free_step[i] - start[i])) < 1e-5);
    }
}

static void bad_options_are_named(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_mezo_check(&(ew_mezo_opt){.eps = 1e-2F}, &err), &err);
    assert_fails(EW_EINVAL, ew_mezo_check(&(ew_mezo_opt){.eps = 0}, &err), &err, "eps");
    assert_fails(EW_EINVAL, ew_mezo_check(&(ew_mezo_opt){.eps = NAN}, &err), &err, "eps");
    assert_fails(EW_EINVAL, ew_mezo_check(&(ew_mezo_opt){.eps = 1, .n_spsa = 65}, &err), &err, "65 directions");
    assert_fails(EW_EINVAL, ew_mezo_check(&(ew_mezo_opt){.eps = 1, .clip = -1}, &err), &err, "clip");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directions_are_normal_and_of_their_address_alone),
        cmocka_unit_test(the_mean_over_directions_is_the_gradient),
        cmocka_unit_test(it_descends_to_the_bottom_of_a_bowl),
        cmocka_unit_test(more_directions_scatter_less),
        cmocka_unit_test(a_step_of_nothing_leaves_every_bit),
        cmocka_unit_test(a_loss_that_is_no_number_changes_nothing),
        cmocka_unit_test(weights_decay_and_slopes_are_bounded),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

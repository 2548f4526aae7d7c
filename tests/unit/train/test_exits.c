/* Block-wise tuning: which layers and parameters a step touches. */
#include <math.h>
#include <string.h>

#include "test.h"
#include "train/exits.h"

static void exits_cut_the_layers_evenly_and_in_order(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    for (uint32_t L = 2; L <= 80; L++) {
        for (uint32_t n = 2; n <= EW_MIN(L, EW_ADAPTER_EXITS_MAX + 1); n++) {
            ew_adapter_opt o = {0};
            assert_ok(ew_exits_spread(L, n, &o, &err), &err);
            assert_int_equal(o.n_exits, n - 1);
            uint32_t at = 0;
            for (uint32_t phase = 0; phase < n; phase++) {
                const ew_pass_window w = ew_exits_window(&o, L, phase);
                assert_int_equal(w.first, at);
                assert_true(w.last > w.first && w.last - w.first <= ew_exits_depth(&o, L));
                assert_int_equal(w.exit, phase + 1 == n ? -1 : (int)phase);
                at = w.last;
            }
            assert_int_equal(at, L);
            assert_int_equal(ew_exits_depth(&o, L), (L + n - 1) / n);
        }
    }
    ew_adapter_opt o = {0};
    assert_fails(EW_EINVAL, ew_exits_spread(6, 1, &o, &err), &err, "6 layers do not make 1 blocks");
    assert_fails(EW_EINVAL, ew_exits_spread(6, 7, &o, &err), &err, "no more than layers");
    assert_fails(EW_EINVAL, ew_exits_spread(80, 10, &o, &err), &err, "2 to 9");
    assert_int_equal(o.n_exits, 0);
}

static void phases_are_equal_and_the_last_takes_the_rest(void **state)
{
    (void)state;
    const ew_adapter_opt o = {.n_exits = 2, .exit = {2, 4}};
    for (uint64_t steps = 0; steps < 50; steps++) {
        uint32_t before = 0;
        uint64_t n[3] = {0};
        for (uint64_t s = 0; s < steps; s++) {
            const uint32_t phase = ew_exits_phase(&o, s, steps);
            assert_true(phase <= 2 && phase >= before);
            assert_true(s >= ew_exits_phase_start(&o, phase, steps) && s < ew_exits_phase_start(&o, phase + 1, steps));
            before = phase;
            n[phase]++;
        }
        assert_true(n[0] == steps / 3 && n[1] == steps / 3 && n[2] == steps - 2 * (steps / 3));
    }
}

static void spans_are_the_blocks_pairs_and_its_exits_norm(void **state)
{
    (void)state;
    const ew_model_config c = {.C = 32, .L = 7};
    const ew_adapter_opt o = {.n_exits = 2, .exit = {3, 5}};
    const size_t n = 7 * 100 + 2 * 32;
    size_t covered = 0;
    for (uint32_t phase = 0; phase < 3; phase++) {
        ew_adapter_span s[2];
        const ew_pass_window w = ew_exits_window(&o, c.L, phase);
        ew_exits_spans(&c, &o, n, &w, s);
        assert_int_equal(s[0].at, w.first * 100);
        assert_int_equal(s[0].n, (w.last - w.first) * 100);
        assert_int_equal(s[1].n, phase < 2 ? 32 : 0);
        assert_true(phase == 2 || s[1].at == 700 + phase * 32);
        covered += s[0].n + s[1].n;
    }
    assert_int_equal(covered, n);
    ew_model_config ln = c;
    ln.norm = EW_NORM_LAYER; /* weight and bias */
    ew_adapter_span s[2];
    const ew_pass_window w = ew_exits_window(&o, c.L, 1);
    ew_exits_spans(&ln, &o, n + 64, &w, s);
    assert_true(s[1].n == 64 && s[1].at == 700 + 64);
}

typedef struct parabola {
    float x[3];
    double best;
    int calls;
} parabola;

static double parabola_loss(void *ctx)
{
    parabola *p = ctx;
    p->calls++;
    const double d = log((double)p->x[0]) - p->best;
    return isnan(p->best) && p->calls > 3 ? (double)NAN : isnan(p->best) ? 1 : d * d;
}

static void norms_are_scaled_to_where_the_loss_is_least(void **state)
{
    (void)state;
    for (double f = 0.02; f < 1.9; f *= 1.7) {
        parabola p = {.x = {1, -2, 0.5F}, .best = log(f)};
        ew_exits_calibrate(p.x, 3, parabola_loss, &p);
        assert_int_equal(p.calls, EW_EXITS_CALIBRATE_CALLS);
        assert_true(fabs((double)p.x[0] / f - 1) < 0.02);
        assert_true(fabs((double)(p.x[1] / p.x[0]) + 2) < 1e-5 && fabs((double)(p.x[2] / p.x[0]) - 0.5) < 1e-5);
    }
    parabola p = {.x = {1, -2, 0.5F}, .best = (double)NAN};
    ew_exits_calibrate(p.x, 3, parabola_loss, &p);
    assert_true(p.calls == 4 && fabs((double)p.x[0] - 1) < 1e-5 && fabs((double)p.x[1] + 2) < 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exits_cut_the_layers_evenly_and_in_order),
        cmocka_unit_test(phases_are_equal_and_the_last_takes_the_rest),
        cmocka_unit_test(spans_are_the_blocks_pairs_and_its_exits_norm),
        cmocka_unit_test(norms_are_scaled_to_where_the_loss_is_least),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

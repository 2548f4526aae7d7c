/* LayerNorm, norms of single heads, activations and soft caps against their formulas in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

#define T 5
#define H 3
#define D 37
#define C (H * D)

static ew_pool *pool;

static int setup(void **state)
{
    (void)state;
    return ew_pool_new(3, &pool, NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    ew_pool_free(&pool);
    return 0;
}

static void fill(float *x, size_t n, uint64_t seed, double mean)
{
    ew_rng r;
    ew_rng_init(&r, seed, 0);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(mean + 2 * ew_rng_normal(&r));
    }
}

/* y = norm(x) * w + b of n elements. */
static void norm_row(const float *x, const float *w, const float *b, size_t n, double eps, bool centre, double *y)
{
    double mean = 0;
    double sq = 0;
    for (size_t i = 0; centre && i < n; i++) {
        mean += (double)x[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        sq += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        y[i] = ((double)x[i] - mean) / sqrt(sq + eps) * (double)w[i] + (b != NULL ? (double)b[i] : 0);
    }
}

static void close_to(const float *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= 1e-5 * (1 + fabs(want[i])))) {
            fail_msg("element %zu: %g, not %g", i, (double)got[i], want[i]);
        }
    }
}

static void layernorm_takes_mean_and_deviation_away(void **state)
{
    (void)state;
    float x[T * C], w[C], b[C], y[T * C], again[T * C];
    double want[T * C];
    fill(x, T * C, 1, 3);
    fill(w, C, 2, 1);
    fill(b, C, 3, 0);
    for (int with_b = 0; with_b < 2; with_b++) {
        for (size_t t = 0; t < T; t++) {
            norm_row(x + t * C, w, with_b ? b : NULL, C, 1e-5, true, want + t * C);
        }
        ew_exec e = {ew_kern_get("ref"), NULL};
        ew_layernorm(&e, x, w, with_b ? b : NULL, T, C, 1e-5F, y);
        close_to(y, want, T * C);
        e.pool = pool;
        memcpy(again, x, sizeof(x));
        ew_layernorm(&e, again, w, with_b ? b : NULL, T, C, 1e-5F, again);
        assert_memory_equal(y, again, sizeof(y));
    }
}

static void heads_are_normalised_on_their_own(void **state)
{
    (void)state;
    const ew_norm_kind kinds[] = {EW_NORM_RMS, EW_NORM_LAYER};
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        const ew_exec e = {ew_kern_at(i), pool};
        for (int k = 0; k < 4; k++) {
            bool per_head = k % 2 != 0;
            ew_norm_kind kind = kinds[k / 2];
            float x[T * C], w[C];
            double want[T * C];
            fill(x, T * C, 4, 1);
            fill(w, C, 5, 1);
            for (size_t r = 0; r < T * H; r++) {
                norm_row(x + r * D, w + (per_head ? r % H * D : 0), NULL, D, 1e-6, kind == EW_NORM_LAYER, want + r * D);
            }
            ew_head_norm(&e, kind, x, w, per_head, T, H, D, 1e-6F);
            close_to(x, want, T * C);
        }
    }
}

static double act(ew_act a, double x)
{
    switch (a) {
    case EW_ACT_SILU:
        return x / (1 + exp(-x));
    case EW_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case EW_ACT_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    default:
        return x > 0 ? x : 0;
    }
}

static void activations_follow_their_formulas_gated_and_not(void **state)
{
    (void)state;
    float gate[T * C], up[T * C], y[T * C];
    double want[T * C];
    fill(gate, T * C, 6, 0);
    fill(up, T * C, 7, 0);
    gate[0] = 0;
    gate[1] = -200;
    gate[2] = 200;
    gate[3] = 3e20F;
    gate[4] = -3e20F;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        const ew_exec e = {ew_kern_at(i), pool};
        for (int a = EW_ACT_SILU; a <= EW_ACT_RELU; a++) {
            for (int gated = 0; gated < 2; gated++) {
                for (size_t j = 0; j < T * C; j++) {
                    want[j] = act((ew_act)a, (double)gate[j]) * (gated ? (double)up[j] : 1);
                }
                ew_activate(&e, (ew_act)a, gate, gated ? up : NULL, T * C, y);
                close_to(y, want, T * C);
                memcpy(y, gate, sizeof(y));
                ew_activate(&e, (ew_act)a, y, gated ? up : NULL, T * C, y);
                close_to(y, want, T * C);
            }
        }
    }
}

static void a_soft_cap_bends_towards_its_bound(void **state)
{
    (void)state;
    const ew_exec e = {ew_kern_get("ref"), pool};
    float y[T * C];
    double want[T * C];
    fill(y, T * C, 8, 0);
    y[0] = 1e30F;
    y[1] = -1e30F;
    for (size_t i = 0; i < T * C; i++) {
        want[i] = 5 * tanh((double)y[i] / 5);
    }
    ew_softcap(&e, 5, T * C, y);
    close_to(y, want, T * C);
    assert_true(y[0] <= 5 && y[1] >= -5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layernorm_takes_mean_and_deviation_away),
        cmocka_unit_test(heads_are_normalised_on_their_own),
        cmocka_unit_test(activations_follow_their_formulas_gated_and_not),
        cmocka_unit_test(a_soft_cap_bends_towards_its_bound),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* Attention of inference against the formula in double: every table, kind of cache, mask and ratio of heads; the same bits for any
 * number of threads. */
#include <math.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

static ew_rng rng;

static float *randoms(size_t n, float scale)
{
    float *p = ew_aligned((n + 1) * sizeof(float));
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = scale * (float)ew_rng_normal(&rng);
    }
    return p;
}

/* One query row. k, v: the cache as f32. */
static void naive_row(const ew_attention_args *a, const float *k, const float *v, size_t t, size_t h, float *out)
{
    size_t pos = a->pos0 + t, kv = h / (a->H / a->K);
    size_t to = a->bidirectional ? a->pos0 + a->T : pos + 1;
    size_t from = !a->bidirectional && a->window != 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
    double acc[256] = {0}, sum = 0, max = -INFINITY, *s = ew_calloc(to, sizeof(*s));
    assert_non_null(s);
    for (size_t j = from; j < to; j++) {
        for (size_t d = 0; d < a->D; d++) {
            s[j] += (double)a->q[(t * a->H + h) * a->D + d] * (double)k[j * a->kv_row + kv * a->D + d];
        }
        s[j] *= (double)a->scale;
        s[j] = a->softcap > 0 ? (double)a->softcap * tanh(s[j] / (double)a->softcap) : s[j];
        max = fmax(max, s[j]);
    }
    for (size_t j = from; j < to; j++) {
        double p = exp(s[j] - max);
        sum += p;
        for (size_t d = 0; d < a->D; d++) {
            acc[d] += p * (double)v[j * a->kv_row + kv * a->D + d];
        }
    }
    for (size_t d = 0; d < a->D; d++) {
        out[d] = (float)(acc[d] / sum);
    }
    ew_free(s);
}

static void close_to(const ew_attention_args *a, const char *table, const float *want)
{
    double tol = 1e-5 * fmax(1.0, (double)a->scale * sqrt((double)a->D)); /* large scores have large rounding */
    for (size_t i = 0; i < a->T * a->H * a->D; i++) {
        if (!(fabs((double)a->out[i] - (double)want[i]) <= tol)) {
            fail_msg("%s %s T=%zu pos0=%zu H=%zu K=%zu D=%zu window=%zu cap=%g bidi=%d: element %zu is %.9g, not %.9g",
                     table, ew_dtype_name(a->kv_dtype), a->T, a->pos0, a->H, a->K, a->D, a->window, (double)a->softcap,
                     a->bidirectional, i, (double)a->out[i], (double)want[i]);
        }
    }
}

/* The shape and the mask are in *shape. */
static void check(const ew_attention_args *shape, ew_dtype type)
{
    ew_attention_args a = *shape;
    size_t n = a.pos0 + a.T, row = a.K * a.D + (a.D % 32 == 0 ? 32 : 3), n_out = a.T * a.H * a.D, row_bytes = 0;
    float *q = randoms(n_out, 1), *k = randoms(n * row, 1), *v = randoms(n * row, 1);
    float *want = randoms(n_out, 1), *got = randoms(n_out, 1), *many = randoms(n_out, 1);
    assert_true(ew_dtype_row_bytes(type, row, &row_bytes));
    void *k2 = ew_aligned(n * row_bytes), *v2 = ew_aligned(n * row_bytes);
    ew_quant_row(type, k, k2, n * row), ew_quant_row(type, v, v2, n * row);
    ew_dequant_row(type, k2, k, n * row), ew_dequant_row(type, v2, v, n * row);
    a.q = q, a.k = k2, a.v = v2, a.kv_dtype = type, a.kv_row = row, a.out = got;
    for (size_t t = 0; t < a.T; t++) {
        for (size_t h = 0; h < a.H; h++) {
            naive_row(&a, k, v, t, h, want + (t * a.H + h) * a.D);
        }
    }
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_exec e = {ew_kern_at(i), NULL};
        a.out = got;
        ew_attention(&e, &a);
        close_to(&a, ew_kern_name(e.kern), want);
        for (unsigned threads = 2; threads <= 4; threads += 2) {
            assert_int_equal(ew_pool_new(threads, &e.pool, NULL), EW_OK);
            a.out = many;
            memset(many, 0, n_out * sizeof(float));
            ew_attention(&e, &a);
            assert_memory_equal(got, many, n_out * sizeof(float));
            ew_pool_free(&e.pool);
        }
    }
    ew_free(q), ew_free(k), ew_free(v), ew_free(want), ew_free(got), ew_free(many), ew_free(k2), ew_free(v2);
}

/* Every kind of cache that the width allows, without and with each kind of mask. */
static void check_all(size_t T, size_t pos0, size_t H, size_t K, size_t D)
{
    static const ew_dtype types[] = {EW_DTYPE_F32, EW_DTYPE_F16, EW_DTYPE_Q8_0};
    for (size_t i = 0; i < EW_COUNT(types) - (D % 32 != 0); i++) {
        ew_attention_args a = {.T = T, .pos0 = pos0, .H = H, .K = K, .D = D, .scale = 1.0f / sqrtf((float)D)};
        check(&a, types[i]);
        a.window = 1 + (pos0 + T) / 3;
        check(&a, types[i]);
        a.softcap = 2.0f;
        check(&a, types[i]);
        a.bidirectional = true;
        check(&a, types[i]);
        a.softcap = 0;
        a.scale *= 20.0f; /* far apart: the running maximum moves */
        check(&a, types[i]);
    }
}

static void a_single_query_agrees_with_the_formula(void **state)
{
    (void)state;
    check_all(1, 0, 1, 1, 1);
    check_all(1, 0, 4, 2, 32);
    check_all(1, 63, 9, 3, 64);
    check_all(1, 1100, 9, 3, 64);
    check_all(1, 1500, 14, 2, 64);
    check_all(1, 700, 5, 1, 10);
    check_all(1, 513, 12, 12, 80);
    check_all(1, 300, 8, 4, 256);
    check_all(1, 90, 71, 1, 64);
    check_all(1, 90, 130, 1, 32);
}

static void few_queries_agree_with_the_formula(void **state)
{
    (void)state;
    check_all(2, 300, 9, 3, 64);
    check_all(3, 129, 32, 4, 64);
    check_all(5, 600, 4, 4, 96);
    check_all(7, 0, 6, 2, 17);
}

static void a_prompt_agrees_with_the_formula(void **state)
{
    (void)state;
    check_all(70, 0, 4, 4, 16);
    check_all(150, 61, 6, 3, 10);
    check_all(33, 128, 4, 1, 64);
    check_all(130, 3, 2, 1, 7);
    check_all(200, 0, 9, 3, 64);
    check_all(65, 64, 14, 2, 128);
    check_all(40, 30, 2, 1, 256);
    check_all(12, 9, 130, 1, 32);
    check_all(300, 0, 60, 1, 16);
}

static int setup(void **state)
{
    (void)state;
    ew_rng_init(&rng, 20260102, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_single_query_agrees_with_the_formula),
        cmocka_unit_test(few_queries_agree_with_the_formula),
        cmocka_unit_test(a_prompt_agrees_with_the_formula),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

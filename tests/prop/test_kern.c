/* Every table that this CPU runs against ref, at lengths around the vector widths; the same bits for any number of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

static const size_t lengths[] = {0, 1, 2, 7, 8, 9, 31, 33, 255, 1023};
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

static float *copy_of(const float *x, size_t n)
{
    float *p = ew_aligned((n + 1) * sizeof(float));
    assert_non_null(p);
    if (n > 0) {
        memcpy(p, x, n * sizeof(float));
    }
    return p;
}

/* |a - b| <= tol * (largest |b| + floor). */
static void close_to(const char *what, const float *a, const float *b, size_t n, double tol)
{
    double top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, fabs((double)b[i]));
    }
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - (double)b[i]) <= tol * top)) {
            fail_msg("%s: element %zu of %zu is %.9g, ref says %.9g (largest %.3g)", what, i, n, (double)a[i],
                     (double)b[i], top);
        }
    }
}

static ew_exec ref(void)
{
    ew_exec e = {ew_kern_get("ref"), NULL};
    return e;
}

#define EACH_TABLE(e)                                                                                                  \
    for (size_t i_table = 1; ew_kern_at(i_table) != NULL; i_table++)                                                   \
        for (ew_exec e = {ew_kern_at(i_table), NULL}, *once = &e; once != NULL; once = NULL)

static void norms_and_activations_agree_with_ref(void **state)
{
    (void)state;
    ew_exec r = ref();
    EACH_TABLE(e)
    {
        for (size_t l = 1; l < EW_COUNT(lengths); l++) {
            size_t C = lengths[l], T = 3, n = T * C;
            float *x = randoms(n, 1), *w = randoms(C, 1), *dy = randoms(n, 1), *a = copy_of(x, n), *b = copy_of(x, n);
            float rs[2][3], *dw1 = randoms(C, 1), *dw2 = copy_of(dw1, C);
            ew_rmsnorm(&r, x, w, T, C, 1e-5f, a, rs[0]);
            ew_rmsnorm(&e, x, w, T, C, 1e-5f, b, rs[1]);
            close_to("rmsnorm", b, a, n, 2e-6);
            close_to("rstd", rs[1], rs[0], T, 2e-6);
            ew_rmsnorm_bwd(&r, x, w, rs[0], dy, T, C, a, dw1);
            ew_rmsnorm_bwd(&e, x, w, rs[0], dy, T, C, b, dw2);
            close_to("rmsnorm_bwd dx", b, a, n, 1e-5);
            close_to("rmsnorm_bwd dw", dw2, dw1, C, 1e-5);
            ew_swiglu(&r, x, dy, n, a);
            ew_swiglu(&e, x, dy, n, b);
            close_to("swiglu", b, a, n, 2e-6);
            float *a2 = copy_of(x, n), *b2 = copy_of(x, n);
            ew_swiglu_bwd(&r, x, dy, dy, n, a, a2);
            ew_swiglu_bwd(&e, x, dy, dy, n, b, b2);
            close_to("swiglu_bwd gate", b, a, n, 2e-6);
            close_to("swiglu_bwd up", b2, a2, n, 2e-6);
            ew_free(x), ew_free(w), ew_free(dy), ew_free(a), ew_free(b), ew_free(dw1), ew_free(dw2), ew_free(a2),
                ew_free(b2);
        }
    }
}

static void softmax_and_logsumexp_agree_with_ref(void **state)
{
    (void)state;
    ew_exec r = ref();
    EACH_TABLE(e)
    {
        for (size_t l = 1; l < EW_COUNT(lengths); l++) {
            size_t n = lengths[l];
            float *a = randoms(2 * n, 30), *b = copy_of(a, 2 * n);
            double la = ew_logsumexp(&r, a, n), lb = ew_logsumexp(&e, a, n);
            assert_true(fabs(la - lb) <= 1e-6 * fabs(la) + 1e-6);
            ew_softmax(&r, a, 2, n);
            ew_softmax(&e, b, 2, n);
            close_to("softmax", b, a, 2 * n, 3e-6);
            ew_free(a), ew_free(b);
        }
    }
}

static void vectors_and_adamw_agree_with_ref(void **state)
{
    (void)state;
    ew_exec r = ref();
    EACH_TABLE(e)
    {
        for (size_t l = 0; l < EW_COUNT(lengths); l++) {
            size_t n = lengths[l];
            float *p[2], *g = randoms(n, 1), *m[2], *v[2];
            p[0] = randoms(n, 1), m[0] = randoms(n, 1), v[0] = randoms(n, 1);
            for (size_t i = 0; i < n; i++) {
                v[0][i] = fabsf(v[0][i]);
            }
            p[1] = copy_of(p[0], n), m[1] = copy_of(m[0], n), v[1] = copy_of(v[0], n);
            ew_adamw_opt o = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f};
            for (int i = 0; i < 2; i++) {
                const ew_exec *x = i == 0 ? &r : &e;
                ew_adamw(x, &o, p[i], g, m[i], v[i], n, 3);
                ew_vec_axpy(x, 0.3f, g, n, m[i]);
                ew_vec_mul(x, m[i], g, n);
                ew_vec_scale(x, 1.7f, n, v[i]);
                ew_vec_add(x, v[i], g, n);
            }
            close_to("adamw p", p[1], p[0], n, 1e-6);
            close_to("m", m[1], m[0], n, 1e-6);
            close_to("v", v[1], v[0], n, 1e-6);
            double d = ew_vec_sumsq(&r, g, n);
            assert_true(fabs(d - ew_vec_sumsq(&e, g, n)) <= 1e-5 * d + 1e-12);
            ew_free(g);
            for (int i = 0; i < 2; i++) {
                ew_free(p[i]), ew_free(m[i]), ew_free(v[i]);
            }
        }
    }
}

static void rope_agrees_with_ref_and_inverse_undoes_it(void **state)
{
    (void)state;
    ew_exec r = ref();
    const ew_rope_kind kinds[] = {EW_ROPE_NORM, EW_ROPE_NEOX};
    EACH_TABLE(e)
    {
        for (size_t kind = 0; kind < 2; kind++) {
            for (size_t D = 2; D <= 130; D += 14) {
                size_t T = 5, H = 3, n = T * H * D;
                float *x = randoms(n, 1), *a = copy_of(x, n), *b = copy_of(x, n), *table = randoms(7 * D, 1);
                ew_rope_opt o = {.kind = kinds[kind], .n_rot = (uint32_t)(D > 8 ? D - 4 : D), .theta_base = 10000.0f};
                ew_rope(&r, &o, a, T, H, D, NULL, 4, false);
                ew_rope_table(&o, 7, table);
                o.table = table;
                o.n_table = 7;
                ew_rope(&e, &o, b, T, H, D, NULL, 4, false);
                close_to("rope", b, a, n, 1e-6);
                const int32_t pos[] = {4, 5, 6, 7, 8};
                ew_rope(&e, &o, b, T, H, D, pos, 0, true);
                close_to("rope inverse", b, x, n, 1e-6);
                ew_free(x), ew_free(a), ew_free(b), ew_free(table);
            }
        }
    }
}

static ew_mat random_mat(ew_dtype t, size_t F, size_t C)
{
    size_t row = 0;
    assert_true(ew_dtype_row_bytes(t, C, &row));
    uint8_t *data = ew_aligned(row * F + 1);
    float *x = randoms(C, 1.0f / sqrtf((float)C));
    for (size_t f = 0; f < F; f++) {
        ew_quant_row(t, x, data + f * row, C);
        for (size_t i = 0; i < C; i++) {
            x[i] = (float)ew_rng_normal(&rng) / sqrtf((float)C);
        }
    }
    ew_free(x);
    return ew_mat_make(t, F, C, data);
}

static void free_mat(ew_mat *m)
{
    union {
        const void *in;
        void *out;
    } p = {.in = m->data};
    ew_free(p.out);
}

/* Forward, both gradients and the inference product of one shape. */
static void check_products(ew_dtype t, size_t T, size_t F, size_t C)
{
    ew_exec r = ref();
    ew_mat w = random_mat(t, F, C);
    float *x = randoms(T * C, 1), *y = randoms(T * F, 1), *y2 = copy_of(y, T * F), *dx = randoms(T * C, 1);
    float *dx2 = copy_of(dx, T * C), *dw = randoms(F * C, 1), *dw2 = copy_of(dw, F * C);
    void *scratch = ew_aligned(ew_matmul_scratch(&w, T));
    float *dy = randoms(T * F, 1);
    EACH_TABLE(e)
    {
        ew_matmul_f32(&r, &w, x, T, y, false);
        ew_matmul_f32(&e, &w, x, T, y2, false);
        close_to("matmul_f32", y2, y, T * F, 1e-5);
        ew_matmul_f32(&r, &w, x, T, y, true);
        ew_matmul_f32(&e, &w, x, T, y2, true);
        close_to("matmul_f32 accumulate", y2, y, T * F, 1e-5);
        ew_matmul_dx(&r, &w, dy, T, dx, true, NULL);
        ew_matmul_dx(&e, &w, dy, T, dx2, true, NULL);
        close_to("matmul_dx", dx2, dx, T * C, 1e-5);
        ew_matmul_dw(&r, dy, x, T, F, C, dw);
        ew_matmul_dw(&e, dy, x, T, F, C, dw2);
        close_to("matmul_dw", dw2, dw, F * C, 1e-5);
        ew_matmul(&r, &w, x, T, y, scratch);
        ew_matmul(&e, &w, x, T, y2, scratch);
        close_to("matmul", y2, y, T * F, 1e-5);
        memcpy(dx2, dx, T * C * sizeof(float));
        memcpy(dw2, dw, F * C * sizeof(float));
    }
    ew_free(x), ew_free(y), ew_free(y2), ew_free(dx), ew_free(dx2), ew_free(dw), ew_free(dw2), ew_free(scratch),
        ew_free(dy);
    free_mat(&w);
}

static void products_agree_with_ref(void **state)
{
    (void)state;
    const ew_dtype types[] = {EW_DTYPE_F32, EW_DTYPE_F16, EW_DTYPE_BF16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0};
    const size_t tokens[] = {1, 2, 3, 9, 130};
    const size_t rows[] = {1, 7, 17, 33, 300};
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        bool q = ew_dtype_get(types[i])->block_elems > 1;
        for (size_t t = 0; t < EW_COUNT(tokens); t++) {
            for (size_t f = 0; f < EW_COUNT(rows); f++) {
                check_products(types[i], tokens[t], rows[f], q ? 96 : 31 + f);
            }
            check_products(types[i], tokens[t], 21, 544);
        }
        check_products(types[i], 5, 18, 4096 + 160); /* more than one panel along C */
    }
}

static void general_product_takes_any_strides(void **state)
{
    (void)state;
    ew_exec r = ref();
    EACH_TABLE(e)
    {
        for (size_t i = 0; i < 8; i++) {
            size_t M = 1 + 19 * i, N = 1 + 23 * i, K = 1 + 37 * i;
            float *a = randoms(M * K, 1), *b = randoms(K * N, 1), *c = randoms(M * (N + 3), 1),
                  *c2 = copy_of(c, M * (N + 3));
            ew_gemm_args g = {.M = M, .N = N, .K = K, .alpha = 0.7f, .a = a, .b = b, .c = c, .c_row = N + 3};
            g.a_row = i & 1 ? 1 : K, g.a_col = i & 1 ? M : 1;
            g.b_row = i & 2 ? 1 : N, g.b_col = i & 2 ? K : 1;
            g.accumulate = (i & 4) != 0;
            ew_gemm(&r, &g);
            g.c = c2;
            ew_gemm(&e, &g);
            close_to("gemm", c2, c, M * (N + 3), 1e-5);
            ew_free(a), ew_free(b), ew_free(c), ew_free(c2);
        }
    }
}

/* Plain attention in double, for the reference itself. */
static void naive_attention(const ew_attention_args *a, const float *k, const float *v, float *out)
{
    size_t g = a->H / a->K;
    for (size_t t = 0; t < a->T; t++) {
        for (size_t h = 0; h < a->H; h++) {
            size_t pos = a->pos0 + t, from = a->window != 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
            double acc[64] = {0}, sum = 0, s[512];
            for (size_t j = from; j <= pos; j++) {
                s[j] = 0;
                for (size_t d = 0; d < a->D; d++) {
                    s[j] += (double)a->q[(t * a->H + h) * a->D + d] * (double)k[j * a->kv_row + h / g * a->D + d];
                }
                s[j] = exp(s[j] * (double)a->scale);
                sum += s[j];
            }
            for (size_t j = from; j <= pos; j++) {
                for (size_t d = 0; d < a->D; d++) {
                    acc[d] += s[j] * (double)v[j * a->kv_row + h / g * a->D + d];
                }
            }
            for (size_t d = 0; d < a->D; d++) {
                out[(t * a->H + h) * a->D + d] = (float)(acc[d] / sum);
            }
        }
    }
}

static void check_attention(size_t T, size_t pos0, size_t H, size_t K, size_t D, size_t window, ew_dtype type)
{
    size_t n = pos0 + T, row = K * D;
    float *q = randoms(T * H * D, 1), *k = randoms(n * row, 1), *v = randoms(n * row, 1);
    float *want = randoms(T * H * D, 1), *got = randoms(T * H * D, 1);
    void *k2 = ew_aligned(n * row * 4), *v2 = ew_aligned(n * row * 4);
    ew_quant_row(type, k, k2, n * row), ew_quant_row(type, v, v2, n * row);
    ew_dequant_row(type, k2, k, n * row), ew_dequant_row(type, v2, v, n * row);
    ew_attention_args a = {.q = q, .k = k2, .v = v2, .kv_dtype = type, .kv_row = row, .T = T, .pos0 = pos0};
    a.H = H, a.K = K, a.D = D, a.window = window, a.scale = 0.5f, a.out = got;
    naive_attention(&a, k, v, want);
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_exec e = {ew_kern_at(i), NULL};
        ew_attention(&e, &a);
        close_to("attention", got, want, T * H * D, 1e-5);
    }
    ew_free(q), ew_free(k), ew_free(v), ew_free(want), ew_free(got), ew_free(k2), ew_free(v2);
}

static void attention_agrees_with_the_formula(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        ew_dtype t = i == 0 ? EW_DTYPE_F32 : EW_DTYPE_F16;
        check_attention(1, 0, 1, 1, 1, 0, t);
        check_attention(1, 200, 8, 2, 32, 0, t);
        check_attention(70, 0, 4, 4, 16, 0, t);
        check_attention(150, 61, 6, 3, 10, 0, t);
        check_attention(33, 128, 4, 1, 64, 50, t);
        check_attention(130, 3, 2, 1, 7, 9, t);
    }
}

static void packed_attention_agrees_with_one_sequence_at_a_time(void **state)
{
    (void)state;
    const uint32_t seq[] = {0, 1, 98, 98, 263};
    size_t T = 263, H = 4, K = 2, D = 12;
    float *q = randoms(T * H * D, 1), *k = randoms(T * K * D, 1), *v = randoms(T * K * D, 1);
    float *want = randoms(T * H * D, 1), *got = randoms(T * H * D, 1), *lse = randoms(T * H, 1);
    for (size_t s = 0; s < 4; s++) {
        ew_attention_args a = {
            .q = q + seq[s] * H * D, .k = k + seq[s] * K * D, .v = v + seq[s] * K * D, .kv_row = K * D};
        a.T = seq[s + 1] - seq[s], a.H = H, a.K = K, a.D = D, a.scale = 0.3f;
        naive_attention(&a, a.k, a.v, want + seq[s] * H * D);
    }
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_exec e = {ew_kern_at(i), NULL};
        ew_attention_train_args a = {
            .q = q, .k = k, .v = v, .seq = seq, .n_seq = 4, .H = H, .K = K, .D = D, .scale = 0.3f};
        a.out = got, a.lse = lse;
        ew_attention_train(&e, &a);
        close_to("attention_train", got, want, T * H * D, 1e-5);
    }
    ew_free(q), ew_free(k), ew_free(v), ew_free(want), ew_free(got), ew_free(lse);
}

/* ---- threads ---- */

typedef struct outputs {
    float *p[16];
    size_t n[16], count;
    double loss;
} outputs;

static float *output(outputs *o, const float *init, size_t n)
{
    o->n[o->count] = n;
    return o->p[o->count++] = copy_of(init, n);
}

static void run_everything(const ew_exec *e, outputs *o)
{
    enum {
        T = 300,
        C = 96,
        F = 160,
        V = 700,
        H = 4,
        K = 2,
        D = 24
    };
    ew_rng_init(&rng, 11, 0);
    float *x = randoms(T * C, 1), *dy = randoms(T * F, 1), *zero = randoms(V * F, 0);
    ew_mat w = random_mat(EW_DTYPE_Q8_0, F, C), head = random_mat(EW_DTYPE_F32, V, C);
    int32_t *ids = ew_malloc(T, sizeof(*ids));
    float *weight = ew_malloc(T, sizeof(*weight)), *rstd = ew_malloc(T, sizeof(*rstd));
    for (size_t i = 0; i < T; i++) {
        ids[i] = (int32_t)ew_rng_below(&rng, V);
        weight[i] = (float)(i % 3);
    }
    void *scratch = ew_aligned(ew_matmul_scratch(&w, T) + ew_cross_entropy_scratch(&head, T));
    ew_matmul(e, &w, x, T, output(o, zero, T * F), scratch);
    ew_matmul_f32(e, &w, x, T, output(o, zero, T * F), false);
    ew_matmul_dx(e, &w, dy, T, output(o, zero, T * C), false, NULL);
    ew_matmul_dw(e, dy, x, T, F, C, output(o, zero, F * C));
    ew_rmsnorm(e, x, x, T, C, 1e-5f, output(o, zero, T * C), rstd);
    float *dx = output(o, zero, T * C);
    ew_rmsnorm_bwd(e, x, x, rstd, dy, T, C, dx, output(o, zero, C));
    ew_embed_bwd(e, x, ids, T, C, output(o, zero, V * C));
    ew_attention_train_args a = {.q = x, .k = dy, .v = dy, .n_seq = 2, .H = H, .K = K, .D = D, .scale = 0.2f};
    const uint32_t seq[] = {0, 140, T};
    a.seq = seq;
    a.out = output(o, zero, T * C), a.lse = output(o, zero, T * H);
    ew_attention_train(e, &a);
    a.dout = x, a.dq = output(o, zero, T * C), a.dk = output(o, zero, T * K * D), a.dv = output(o, zero, T * K * D);
    ew_attention_train_bwd(e, &a);
    ew_cross_entropy_args ce = {.head = &head, .hidden = x, .targets = ids, .weight = weight, .T = T, .scale = 0.01f};
    ce.nll = output(o, zero, T), ce.dhidden = output(o, zero, T * C), ce.dhead = output(o, zero, V * C);
    ce.scratch = scratch;
    o->loss = ew_cross_entropy(e, &ce) + ew_vec_sumsq(e, x, T * C);
    ew_free(x), ew_free(dy), ew_free(zero), ew_free(ids), ew_free(weight), ew_free(rstd), ew_free(scratch);
    free_mat(&w), free_mat(&head);
}

static void results_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        outputs one = {.count = 0};
        ew_exec e = {ew_kern_at(i), NULL};
        run_everything(&e, &one);
        for (unsigned threads = 2; threads <= 4; threads++) {
            ew_error err = EW_ERROR_INIT;
            outputs many = {.count = 0};
            assert_ok(ew_pool_new(threads, &e.pool, &err), &err);
            run_everything(&e, &many);
            assert_true(one.loss == many.loss);
            for (size_t j = 0; j < one.count; j++) {
                if (memcmp(one.p[j], many.p[j], one.n[j] * sizeof(float)) != 0) {
                    fail_msg("%s: output %zu differs with %u threads", ew_kern_name(e.kern), j, threads);
                }
                ew_free(many.p[j]);
            }
            ew_pool_free(&e.pool);
        }
        for (size_t j = 0; j < one.count; j++) {
            ew_free(one.p[j]);
        }
    }
}

static void a_row_alone_equals_the_row_in_a_batch(void **state)
{
    (void)state;
    EACH_TABLE(e)
    {
        size_t T = 37, F = 75, C = 320;
        ew_mat w = random_mat(EW_DTYPE_F16, F, C);
        float *x = randoms(T * C, 1), *y = randoms(T * F, 1), *one = randoms(F, 1);
        ew_matmul_f32(&e, &w, x, T, y, false);
        for (size_t t = 0; t < T; t++) {
            ew_matmul_f32(&e, &w, x + t * C, 1, one, false);
            assert_memory_equal(one, y + t * F, F * sizeof(float));
        }
        ew_free(x), ew_free(y), ew_free(one);
        free_mat(&w);
    }
}

static int setup(void **state)
{
    (void)state;
    ew_rng_init(&rng, 20260101, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_and_activations_agree_with_ref),
        cmocka_unit_test(softmax_and_logsumexp_agree_with_ref),
        cmocka_unit_test(vectors_and_adamw_agree_with_ref),
        cmocka_unit_test(rope_agrees_with_ref_and_inverse_undoes_it),
        cmocka_unit_test(products_agree_with_ref),
        cmocka_unit_test(general_product_takes_any_strides),
        cmocka_unit_test(attention_agrees_with_the_formula),
        cmocka_unit_test(packed_attention_agrees_with_one_sequence_at_a_time),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(a_row_alone_equals_the_row_in_a_batch),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

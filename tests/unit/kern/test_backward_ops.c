/* Backward operations against differences of their formulas in double, with every kernel table. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kern/ops.h"
#include "sys/pool.h"

#define ROWS 5
#define HEADS 3
#define WIDE 37
#define WIDTH (HEADS * WIDE)
#define N (ROWS * WIDTH)

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

static void fill(float *x, size_t n, uint64_t seed, double mean, double dev)
{
    ew_rng r;
    ew_rng_init(&r, seed, 0);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(mean + dev * ew_rng_normal(&r));
    }
}

static void close_to(const float *got, const double *want, size_t n, double tolerance, const char *what)
{
    double scale = 1e-3;
    for (size_t i = 0; i < n; i++) {
        scale = fmax(scale, fabs(want[i]));
    }
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= tolerance * scale)) {
            fail_msg("%s, element %zu: %g, not %g", what, i, (double)got[i], want[i]);
        }
    }
}

/* Central differences of f by every p[i]. */
typedef double (*function)(const void *ctx);

static void differences(function f, const void *ctx, double *p, size_t n, double *ret)
{
    for (size_t i = 0; i < n; i++) {
        const double keep = p[i], h = 1e-5 * fmax(1, fabs(keep));
        p[i] = keep + h;
        const double up = f(ctx);
        p[i] = keep - h;
        ret[i] = (up - f(ctx)) / (2 * h);
        p[i] = keep;
    }
}

static void widen(const float *x, size_t n, double *ret)
{
    for (size_t i = 0; i < n; i++) {
        ret[i] = (double)x[i];
    }
}

/* ---- norms ---- */

typedef struct norm_case {
    bool centre;
    size_t rows, n, n_w;
    double x[N], w[WIDTH], b[WIDTH], dy[N];
} norm_case;

static double norm_loss(const void *ctx)
{
    const norm_case *c = ctx;
    double loss = 0;
    for (size_t r = 0; r < c->rows; r++) {
        const double *x = c->x + r * c->n, *w = c->w + r % c->n_w * c->n;
        double mean = 0, sq = 0;
        for (size_t i = 0; c->centre && i < c->n; i++) {
            mean += x[i] / (double)c->n;
        }
        for (size_t i = 0; i < c->n; i++) {
            sq += (x[i] - mean) * (x[i] - mean) / (double)c->n;
        }
        for (size_t i = 0; i < c->n; i++) {
            loss += c->dy[r * c->n + i] * ((x[i] - mean) / sqrt(sq + 1e-5) * w[i] + c->b[i]);
        }
    }
    return loss;
}

static void layernorm_gives_the_gradients_of_its_formula(void **state)
{
    (void)state;
    static norm_case c;
    float x[N], w[WIDTH], b[WIDTH], dy[N], stat[2 * ROWS];
    static double want[3][N];
    c = (norm_case){.centre = true, .rows = ROWS, .n = WIDTH, .n_w = 1};
    fill(x, N, 1, 3, 2);
    fill(w, WIDTH, 2, 1, 2);
    fill(b, WIDTH, 3, 0, 1);
    fill(dy, N, 4, 0, 1);
    widen(x, N, c.x);
    widen(w, WIDTH, c.w);
    widen(b, WIDTH, c.b);
    widen(dy, N, c.dy);
    differences(norm_loss, &c, c.x, N, want[0]);
    differences(norm_loss, &c, c.w, WIDTH, want[1]);
    differences(norm_loss, &c, c.b, WIDTH, want[2]);
    float dx[N], dw[WIDTH], db[WIDTH], again[N];
    for (size_t i = 0; i < N; i++) {
        dx[i] = 1;
        want[0][i] += 1; /* it adds */
    }
    memcpy(again, dx, sizeof(dx));
    memset(dw, 0, sizeof(dw));
    memset(db, 0, sizeof(db));
    ew_exec e = {ew_kern_get("ref"), NULL};
    ew_layernorm_bwd(&e, x, w, dy, ROWS, WIDTH, 1e-5F, stat, dx, dw, db);
    close_to(dx, want[0], N, 1e-5, "dx");
    close_to(dw, want[1], WIDTH, 1e-5, "dw");
    close_to(db, want[2], WIDTH, 1e-5, "db");
    e.pool = pool;
    ew_layernorm_bwd(&e, x, w, dy, ROWS, WIDTH, 1e-5F, NULL, again, NULL, NULL);
    assert_memory_equal(dx, again, sizeof(dx));
}

static void norms_of_heads_give_the_gradients_of_their_formula(void **state)
{
    (void)state;
    static norm_case c;
    float x[N], w[WIDTH], dy[N], dx[N], dw[WIDTH];
    static double want[2][N];
    for (int k = 0; k < 4; k++) {
        const bool per_head = k % 2 != 0;
        c = (norm_case){.centre = k / 2 != 0, .rows = ROWS * HEADS, .n = WIDE, .n_w = per_head ? HEADS : 1};
        fill(x, N, 5, 1, 2);
        fill(w, WIDTH, 6, 1, 1);
        fill(dy, N, 7, 0, 1);
        widen(x, N, c.x);
        widen(w, WIDTH, c.w);
        widen(dy, N, c.dy);
        differences(norm_loss, &c, c.x, N, want[0]);
        differences(norm_loss, &c, c.w, c.n_w * WIDE, want[1]);
        memcpy(dx, dy, sizeof(dx));
        memset(dw, 0, sizeof(dw));
        const ew_exec e = {ew_kern_get(NULL), pool};
        ew_head_norm_bwd(&e, c.centre ? EW_NORM_LAYER : EW_NORM_RMS, x, w, per_head, ROWS, HEADS, WIDE, 1e-5F, dx, dw);
        close_to(dx, want[0], N, 1e-5, "dx");
        close_to(dw, want[1], c.n_w * WIDE, 1e-5, "dw");
    }
}

/* ---- activations ---- */

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

static void activations_give_the_slopes_of_their_formulas(void **state)
{
    (void)state;
    float gate[N], up[N], dy[N], dg[N], du[N];
    static double want[2][N];
    fill(gate, N, 8, 0, 2);
    fill(up, N, 9, 0, 1);
    fill(dy, N, 10, 0, 1);
    gate[0] = 1e-4F;
    gate[1] = -300;
    gate[2] = 300;
    gate[3] = 2e19F;
    gate[4] = -2e19F;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        const ew_exec e = {ew_kern_at(i), pool};
        for (int k = 0; k < 8; k++) {
            const ew_act a = (ew_act)(k % 4);
            const bool gated = k / 4 != 0;
            for (size_t j = 0; j < N; j++) {
                const double x = (double)gate[j], h = 1e-6 * fmax(1, fabs(x)), d = (double)dy[j];
                want[0][j] = d * (gated ? (double)up[j] : 1) * (act(a, x + h) - act(a, x - h)) / (2 * h);
                want[1][j] = d * act(a, x);
            }
            want[1][2] = want[1][3] = 0; /* of a size of their own */
            memset(du, 0, sizeof(du));
            ew_activate_bwd(&e, a, gate, gated ? up : NULL, dy, N, dg, du);
            close_to(dg, want[0], N, 2e-6, "dgate");
            du[2] = du[3] = 0;
            if (gated) {
                close_to(du, want[1], N, 2e-6, "dup");
            }
            memcpy(dg, gate, sizeof(dg)); /* in place of what they are made from */
            memcpy(du, up, sizeof(du));
            ew_activate_bwd(&e, a, dg, gated ? du : NULL, dy, N, dg, du);
            close_to(dg, want[0], N, 2e-6, "dgate in place");
        }
    }
}

/* ---- attention ---- */

#define A_T 150
#define A_H 4
#define A_K 2
#define A_D 8
#define A_P 70

typedef struct attention_case {
    size_t window, n_prefix;
    double scale, softcap;
    double p[5][A_T * A_H * A_D]; /* q k v, prefix k v */
    double dout[A_T * A_H * A_D];
} attention_case;

static const uint32_t bounds[] = {0, 120, 121, A_T};

/* The weight of one key, not normalised. */
static double score(const attention_case *c, const double *q, const double *k)
{
    double s = 0;
    for (size_t i = 0; i < A_D; i++) {
        s += q[i] * k[i] * c->scale;
    }
    return exp(c->softcap > 0 ? c->softcap * tanh(s / c->softcap) : s);
}

/* One query of one head: sum of dout . out, and the log of the denominator. */
static double attend(const attention_case *c, size_t base, size_t t, size_t h, double *ret_lse)
{
    const size_t pos = c->n_prefix + t - base, kv = h / (A_H / A_K);
    const double *q = c->p[0] + (t * A_H + h) * A_D, *dout = c->dout + (t * A_H + h) * A_D;
    double sum = 0, dot = 0;
    for (size_t j = c->window > 0 && pos + 1 > c->window ? pos + 1 - c->window : 0; j <= pos; j++) {
        const bool prefix = j < c->n_prefix;
        const size_t at = ((prefix ? j : base + j - c->n_prefix) * A_K + kv) * A_D;
        const double w = score(c, q, c->p[prefix ? 3 : 1] + at);
        sum += w;
        for (size_t i = 0; i < A_D; i++) {
            dot += w * dout[i] * c->p[prefix ? 4 : 2][at + i];
        }
    }
    *ret_lse = log(sum);
    return dot / sum;
}

static double attention_loss(const void *ctx)
{
    const attention_case *c = ctx;
    double loss = 0, lse;
    for (size_t s = 0; s < 3; s++) {
        for (size_t t = bounds[s]; t < bounds[s + 1]; t++) {
            for (size_t h = 0; h < A_H; h++) {
                loss += attend(c, bounds[s], t, h, &lse);
            }
        }
    }
    return loss;
}

/* dL along a random direction in one of the inputs. */
static void check_direction(attention_case *c, size_t which, size_t n, const float *grad, const char *what)
{
    static double keep[A_T * A_H * A_D], d[A_T * A_H * A_D];
    ew_rng r;
    ew_rng_init(&r, which, 3);
    double side[2], exact = 0, norm = 0;
    memcpy(keep, c->p[which], n * sizeof(double));
    for (size_t i = 0; i < n; i++) {
        d[i] = ew_rng_normal(&r) + (grad[i] > 0 ? 0.5 : -0.5);
        exact += d[i] * (double)grad[i];
        norm += (double)grad[i] * (double)grad[i];
    }
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < n; i++) {
            c->p[which][i] = keep[i] + (s == 0 ? -1e-5 : 1e-5) * d[i];
        }
        side[s] = attention_loss(c);
    }
    memcpy(c->p[which], keep, n * sizeof(double));
    assert_true(norm > 1e-3);
    const double diff = (side[1] - side[0]) / 2e-5;
    if (!(fabs(diff - exact) <= 2e-5 * fmax(1, fabs(diff)))) {
        fail_msg("%s, window %zu, prefix %zu, cap %g: difference %.9g, gradient %.9g", what, c->window, c->n_prefix,
                 c->softcap, diff, exact);
    }
}

static void check_attention(attention_case *c, const ew_exec *e)
{
    static float p[5][A_T * A_H * A_D], dp[5][A_T * A_H * A_D], out[A_T * A_H * A_D], lse[A_T * A_H];
    static float dout[A_T * A_H * A_D];
    static const char *const names[] = {"dq", "dk", "dv", "dprefix_k", "dprefix_v"};
    const size_t n[] = {A_T * A_H * A_D, A_T * A_K * A_D, A_T * A_K * A_D, c->n_prefix * A_K * A_D,
                        c->n_prefix * A_K * A_D};
    for (size_t i = 0; i < 5; i++) {
        fill(p[i], n[i], 20 + i, 0.2, 1);
        widen(p[i], n[i], c->p[i]);
    }
    fill(dout, n[0], 30, 0, 1);
    widen(dout, n[0], c->dout);
    memset(dp, 0, sizeof(dp));
    const ew_attention_train_args a = {.q = p[0],
                                       .k = p[1],
                                       .v = p[2],
                                       .seq = bounds,
                                       .n_seq = 3,
                                       .H = A_H,
                                       .K = A_K,
                                       .D = A_D,
                                       .scale = (float)c->scale,
                                       .window = c->window,
                                       .softcap = (float)c->softcap,
                                       .n_prefix = c->n_prefix,
                                       .prefix_k = p[3],
                                       .prefix_v = p[4],
                                       .out = out,
                                       .lse = lse,
                                       .dout = dout,
                                       .dq = dp[0],
                                       .dk = dp[1],
                                       .dv = dp[2],
                                       .dprefix_k = c->n_prefix > 0 ? dp[3] : NULL,
                                       .dprefix_v = c->n_prefix > 0 ? dp[4] : NULL};
    ew_attention_train(e, &a);
    double got = 0, want;
    for (size_t i = 0; i < n[0]; i++) {
        got += c->dout[i] * (double)out[i];
    }
    assert_true(fabs(got - attention_loss(c)) < 1e-4);
    (void)attend(c, 0, 119, 3, &want);
    assert_true(fabs((double)lse[119 * A_H + 3] - want) < 1e-4);
    ew_attention_train_bwd(e, &a);
    for (size_t i = 0; i < (c->n_prefix > 0 ? 5u : 3u); i++) {
        check_direction(c, i, n[i], dp[i], names[i]);
    }
}

static void attention_gives_the_gradients_of_its_formula(void **state)
{
    (void)state;
    static attention_case c;
    static const struct {
        size_t window, n_prefix;
        double softcap;
    } list[] = {{0, 0, 0}, {17, 0, 0}, {0, 0, 2}, {0, A_P, 0}, {90, A_P, 0}, {66, 5, 3}};
    for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
        for (size_t i = 0; i < EW_COUNT(list); i++) {
            c.window = list[i].window;
            c.n_prefix = list[i].n_prefix;
            c.softcap = list[i].softcap;
            c.scale = (double)0.35F;
            check_attention(&c, &(ew_exec){ew_kern_at(k), pool});
        }
    }
}

/* The prefix is the same as keys that stand before, and threads do not show. */
static void attention_does_not_depend_on_threads(void **state)
{
    (void)state;
    static float x[5][A_T * A_H * A_D], d[2][5][A_T * A_H * A_D], out[2][A_T * A_H * A_D], lse[A_T * A_H];
    for (size_t i = 0; i < 5; i++) {
        fill(x[i], A_T * A_H * A_D, 40 + i, 0, 1);
    }
    for (int k = 0; k < 2; k++) {
        const ew_exec e = {ew_kern_get(NULL), k == 0 ? NULL : pool};
        const ew_attention_train_args a = {.q = x[0],
                                           .k = x[1],
                                           .v = x[2],
                                           .seq = bounds,
                                           .n_seq = 3,
                                           .H = A_H,
                                           .K = A_K,
                                           .D = A_D,
                                           .scale = 0.35F,
                                           .window = 80,
                                           .softcap = 4,
                                           .n_prefix = A_P,
                                           .prefix_k = x[3],
                                           .prefix_v = x[4],
                                           .out = out[k],
                                           .lse = lse,
                                           .dout = x[0],
                                           .dq = d[k][0],
                                           .dk = d[k][1],
                                           .dv = d[k][2],
                                           .dprefix_k = d[k][3],
                                           .dprefix_v = d[k][4]};
        ew_attention_train(&e, &a);
        ew_attention_train_bwd(&e, &a);
    }
    assert_memory_equal(out[0], out[1], sizeof(out[0]));
    assert_memory_equal(d[0], d[1], sizeof(d[0]));
}

/* ---- loss ---- */

#define L_V 61
#define L_C 24
#define L_T 7

typedef struct loss_case {
    double cap;
    double head[L_V * L_C], bias[L_V], hidden[L_T * L_C];
    const int32_t *target;
    const float *weight;
} loss_case;

static double cross_entropy(const void *ctx)
{
    const loss_case *c = ctx;
    double loss = 0;
    for (size_t t = 0; t < L_T; t++) {
        double sum = 0, target = 0;
        for (size_t v = 0; v < L_V; v++) {
            double y = c->bias[v];
            for (size_t i = 0; i < L_C; i++) {
                y += c->head[v * L_C + i] * c->hidden[t * L_C + i];
            }
            y = c->cap > 0 ? c->cap * tanh(y / c->cap) : y;
            sum += exp(y);
            target = v == (size_t)c->target[t] ? y : target;
        }
        loss += (double)c->weight[t] * (log(sum) - target);
    }
    return loss;
}

static void a_capped_and_shifted_head_gives_its_gradients(void **state)
{
    (void)state;
    static loss_case c;
    static const int32_t target[L_T] = {0, 60, 3, 3, 17, 20, 8};
    static const float weight[L_T] = {1, 2, 0, 0.5F, 1, 1, 1};
    static float head[L_V * L_C], bias[L_V], hidden[L_T * L_C], dhead[L_V * L_C], dbias[L_V], dhidden[L_T * L_C];
    static double want[3][L_V * L_C];
    fill(head, L_V * L_C, 50, 0, 0.5);
    fill(bias, L_V, 51, 0, 1);
    fill(hidden, L_T * L_C, 52, 0, 1);
    widen(head, L_V * L_C, c.head);
    widen(bias, L_V, c.bias);
    widen(hidden, L_T * L_C, c.hidden);
    c.target = target;
    c.weight = weight;
    const ew_mat w = ew_mat_make(EW_DTYPE_F32, L_V, L_C, head);
    void *scratch = aligned_alloc(64, EW_ALIGN_UP(ew_cross_entropy_scratch(&w, L_T), 64));
    for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
        for (int capped = 0; capped < 2; capped++) {
            const ew_exec e = {ew_kern_at(k), pool};
            c.cap = capped ? 2.5 : 0;
            differences(cross_entropy, &c, c.head, L_V * L_C, want[0]);
            differences(cross_entropy, &c, c.bias, L_V, want[1]);
            differences(cross_entropy, &c, c.hidden, L_T * L_C, want[2]);
            memset(dhead, 0, sizeof(dhead));
            memset(dbias, 0, sizeof(dbias));
            const ew_cross_entropy_args a = {.head = &w,
                                             .bias = bias,
                                             .softcap = (float)c.cap,
                                             .hidden = hidden,
                                             .targets = target,
                                             .weight = weight,
                                             .T = L_T,
                                             .scale = 1,
                                             .dhidden = dhidden,
                                             .dhead = dhead,
                                             .dbias = dbias,
                                             .scratch = scratch};
            assert_true(fabs(ew_cross_entropy(&e, &a) - cross_entropy(&c)) < 1e-5);
            close_to(dhead, want[0], L_V * L_C, 1e-5, "dhead");
            close_to(dbias, want[1], L_V, 1e-5, "dbias");
            close_to(dhidden, want[2], L_T * L_C, 1e-5, "dhidden");
        }
    }
    free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layernorm_gives_the_gradients_of_its_formula),
        cmocka_unit_test(norms_of_heads_give_the_gradients_of_their_formula),
        cmocka_unit_test(activations_give_the_slopes_of_their_formulas),
        cmocka_unit_test(attention_gives_the_gradients_of_its_formula),
        cmocka_unit_test(attention_does_not_depend_on_threads),
        cmocka_unit_test(a_capped_and_shifted_head_gives_its_gradients),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

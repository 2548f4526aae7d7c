/* Every backward twin against central differences of its forward, with the ref table (sums in double), and the loss's formula. */
#include <math.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"

#define N_MAX 4096
static ew_rng rng;
static ew_exec e;

/* A forward as a scalar function of all its inputs: sum of r * y. */
typedef struct problem {
    size_t n_in;
    float *in[4];   /* perturbed in place */
    float *grad[4]; /* what the backward says; NULL = not checked */
    size_t size[4];
    float r[N_MAX]; /* direction of the output */
    void (*forward)(struct problem *p, float *y);
    size_t n_out;
} problem;

static problem p;
static float buffers[16][N_MAX];
static size_t n_buffers;

static float *fresh(size_t n, float scale)
{
    assert_true(n <= N_MAX && n_buffers < 16);
    float *b = buffers[n_buffers++];
    for (size_t i = 0; i < n; i++) {
        b[i] = scale * (float)ew_rng_normal(&rng);
    }
    return b;
}

static void start(void (*forward)(problem *, float *), size_t n_out)
{
    n_buffers = 0;
    memset(&p, 0, sizeof(p));
    p.forward = forward;
    p.n_out = n_out;
    for (size_t i = 0; i < n_out; i++) {
        p.r[i] = (float)ew_rng_normal(&rng);
    }
}

static void input(size_t n)
{
    p.in[p.n_in] = fresh(n, 1);
    p.grad[p.n_in] = fresh(n, 0);
    p.size[p.n_in++] = n;
}

static double value(void)
{
    static float y[N_MAX];
    double s = 0;
    p.forward(&p, y);
    for (size_t i = 0; i < p.n_out; i++) {
        s += (double)p.r[i] * (double)y[i];
    }
    return s;
}

static void check(const char *what)
{
    const float h = 1.0f / 128;
    for (size_t a = 0; a < p.n_in; a++) {
        double top = 1e-3;
        for (size_t i = 0; i < p.size[a]; i++) {
            top = fmax(top, fabs((double)p.grad[a][i]));
        }
        for (size_t i = 0; i < p.size[a]; i++) {
            float old = p.in[a][i], up = old + h, down = old - h;
            p.in[a][i] = up;
            double f1 = value();
            p.in[a][i] = down;
            double f0 = value();
            p.in[a][i] = old;
            double slope = (f1 - f0) / ((double)up - (double)down);
            if (!(fabs(slope - (double)p.grad[a][i]) <= 4e-3 * top)) {
                fail_msg("%s: input %zu element %zu: slope %.7g, backward says %.7g", what, a, i, slope,
                         (double)p.grad[a][i]);
            }
        }
    }
}

enum {
    T = 5,
    C = 12
};

static void f_rmsnorm(problem *q, float *y)
{
    ew_rmsnorm(&e, q->in[0], q->in[1], T, C, 1e-5f, y, NULL);
}

static void rmsnorm_backward_is_the_slope(void **state)
{
    (void)state;
    float rstd[T];
    start(f_rmsnorm, T * C);
    input(T * C), input(C);
    float *y = fresh(T * C, 0);
    ew_rmsnorm(&e, p.in[0], p.in[1], T, C, 1e-5f, y, rstd);
    ew_rmsnorm_bwd(&e, p.in[0], p.in[1], rstd, p.r, T, C, p.grad[0], p.grad[1]);
    check("rmsnorm");
}

static void f_swiglu(problem *q, float *y)
{
    ew_swiglu(&e, q->in[0], q->in[1], 40, y);
}

static void swiglu_backward_is_the_slope(void **state)
{
    (void)state;
    start(f_swiglu, 40);
    input(40), input(40);
    ew_swiglu_bwd(&e, p.in[0], p.in[1], p.r, 40, p.grad[0], p.grad[1]);
    check("swiglu");
}

static const ew_rope_opt rope = {.kind = EW_ROPE_NORM, .n_rot = 6, .theta_base = 100.0f};

static void f_rope(problem *q, float *y)
{
    memcpy(y, q->in[0], T * C * sizeof(float));
    ew_rope(&e, &rope, y, T, 1, C, NULL, 3, false);
}

static void rope_backward_is_the_slope(void **state)
{
    (void)state;
    start(f_rope, T * C);
    input(T * C);
    memcpy(p.grad[0], p.r, T * C * sizeof(float));
    ew_rope(&e, &rope, p.grad[0], T, 1, C, NULL, 3, true);
    check("rope");
}

static void f_matmul(problem *q, float *y)
{
    ew_mat w = ew_mat_make(EW_DTYPE_F32, 7, C, q->in[1]);
    ew_matmul_f32(&e, &w, q->in[0], T, y, false);
}

static void matmul_backward_is_the_slope(void **state)
{
    (void)state;
    start(f_matmul, T * 7);
    input(T * C), input(7 * C);
    ew_mat w = ew_mat_make(EW_DTYPE_F32, 7, C, p.in[1]);
    ew_matmul_dx(&e, &w, p.r, T, p.grad[0], false, NULL);
    ew_matmul_dw(&e, p.r, p.in[0], T, 7, C, p.grad[1]);
    check("matmul");
}

static const uint32_t seq[] = {0, 3, 10};
enum {
    AT = 10,
    H = 4,
    K = 2,
    D = 6
};
static float lse[AT * H];

static ew_attention_train_args attention(problem *q, float *y)
{
    ew_attention_train_args a = {
        .q = q->in[0], .k = q->in[1], .v = q->in[2], .seq = seq, .n_seq = 2, .H = H, .K = K, .D = D};
    a.scale = 0.4f, a.out = y, a.lse = lse;
    return a;
}

static void f_attention(problem *q, float *y)
{
    ew_attention_train_args a = attention(q, y);
    ew_attention_train(&e, &a);
}

static void attention_backward_is_the_slope(void **state)
{
    (void)state;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_exec ref = e;
        start(f_attention, AT * H * D);
        input(AT * H * D), input(AT * K * D), input(AT * K * D);
        ew_attention_train_args a = attention(&p, fresh(AT * H * D, 0));
        e.kern = ew_kern_at(i);
        ew_attention_train(&e, &a);
        a.dout = p.r, a.dq = p.grad[0], a.dk = p.grad[1], a.dv = p.grad[2];
        ew_attention_train_bwd(&e, &a);
        e = ref;
        check("attention");
    }
}

enum {
    V = 23,
    LT = 9
};
static const int32_t targets[LT] = {0, 22, 5, 7, 7, 1, 2, 3, 4};
static const float weight[LT] = {1, 0, 2, 0.5f, 1, 1, 0, 3, 1};
static _Alignas(64) unsigned char scratch[1 << 16];

static ew_cross_entropy_args loss_args(problem *q, ew_mat *head)
{
    *head = ew_mat_make(EW_DTYPE_F32, V, C, q->in[1]);
    assert_true(ew_cross_entropy_scratch(head, LT) <= sizeof(scratch));
    return (ew_cross_entropy_args){.head = head,
                                   .hidden = q->in[0],
                                   .targets = targets,
                                   .weight = weight,
                                   .T = LT,
                                   .scale = 0.25f,
                                   .scratch = scratch};
}

static void f_loss(problem *q, float *y)
{
    ew_mat head;
    float nll[LT];
    ew_cross_entropy_args a = loss_args(q, &head);
    a.nll = nll;
    (void)ew_cross_entropy(&e, &a);
    y[0] = 0;
    for (size_t t = 0; t < LT; t++) {
        y[t] = a.scale * weight[t] * nll[t];
    }
}

static void cross_entropy_backward_is_the_slope(void **state)
{
    (void)state;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_exec ref = e;
        ew_mat head;
        start(f_loss, LT);
        for (size_t t = 0; t < LT; t++) {
            p.r[t] = 1.0f;
        }
        input(LT * C), input(V * C);
        ew_cross_entropy_args a = loss_args(&p, &head);
        a.dhidden = p.grad[0], a.dhead = p.grad[1];
        e.kern = ew_kern_at(i);
        double loss = ew_cross_entropy(&e, &a);
        e = ref;
        assert_true(fabs(loss * 0.25 - value()) < 1e-4 * fabs(loss));
        check("cross entropy");
    }
}

static void embed_backward_adds_rows_of_repeated_ids(void **state)
{
    (void)state;
    const int32_t ids[] = {2, 0, 2};
    const float dx[] = {1, 2, 3, 4, 5, 6};
    float table[6] = {0, 0, 9, 9, 0, 0};
    ew_embed_bwd(&e, dx, ids, 3, 2, table);
    const float want[] = {3, 4, 9, 9, 6, 8};
    assert_memory_equal(table, want, sizeof(want));
}

static int setup(void **state)
{
    (void)state;
    ew_rng_init(&rng, 5, 0);
    e.kern = ew_kern_get("ref");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_backward_is_the_slope),
        cmocka_unit_test(swiglu_backward_is_the_slope),
        cmocka_unit_test(rope_backward_is_the_slope),
        cmocka_unit_test(matmul_backward_is_the_slope),
        cmocka_unit_test(attention_backward_is_the_slope),
        cmocka_unit_test(cross_entropy_backward_is_the_slope),
        cmocka_unit_test(embed_backward_adds_rows_of_repeated_ids),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

/* Early exits: the vote against its formula from parts, whatever the chunks, and what is refused. */
#include "tiny.h"

#include "model/hooks.h"
#include "model/session.h"

#define N 19
#define V_ 67
#define C_ 32
#define EXITS 2

static float norms[EXITS][C_];
static const ew_exit_hook exits[EXITS] = {{.layer = 1, .norm = norms[0]}, {.layer = 2, .norm = norms[1]}};
static float pair_a[4 * C_], pair_b[C_ * 4];
static ew_linear_hook linear[3 * EW_LINEAR_COUNT];

/* Norms near one; a pair on the output of attention in the second layer. */
static ew_hooks hooks_of(bool lora)
{
    ew_rng rng;
    ew_rng_init(&rng, 8, 8);
    for (size_t i = 0; i < EXITS; i++) {
        for (size_t j = 0; j < C_; j++) {
            norms[i][j] = (float)(0.6 + 0.2 * ew_rng_normal(&rng));
        }
    }
    for (size_t i = 0; i < EW_COUNT(pair_a); i++) {
        pair_a[i] = (float)ew_rng_normal(&rng);
        pair_b[i] = (float)ew_rng_normal(&rng);
    }
    linear[EW_LINEAR_COUNT + EW_LINEAR_GATE] = (ew_linear_hook){.a = pair_a, .b = pair_b, .rank = 1, .scale = 0.3F};
    return (ew_hooks){.linear = lora ? linear : NULL, .exits = exits, .n_exits = EXITS};
}

static ew_session *session(const tiny *t, const ew_hooks *hooks, uint32_t n_batch)
{
    ew_session *s = NULL;
    const ew_session_opt opt = {
        .exec = {ew_kern_get("ref"), NULL}, .hooks = hooks, .n_batch = n_batch, .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(t->model, &opt, &s, err));
    return s;
}

static void log_softmax(const float *x, double *lp)
{
    double max = -INFINITY, sum = 0;
    for (size_t v = 0; v < V_; v++) {
        max = EW_MAX(max, (double)x[v]);
    }
    for (size_t v = 0; v < V_; v++) {
        sum += exp((double)x[v] - max);
    }
    for (size_t v = 0; v < V_; v++) {
        lp[v] = (double)x[v] - max - log(sum);
    }
}

/* The vote on log-probabilities of the voters, the last head at the end, straight from its definition. */
static void vote(double lp[EXITS + 1][V_], double *ret)
{
    double w[EXITS + 1], sum = 0;
    for (size_t e = 0; e <= EXITS; e++) {
        double own = 0, cross = 0;
        for (size_t v = 0; v < V_; v++) {
            own -= exp(lp[e][v]) * lp[e][v];
            cross -= exp(lp[EXITS][v]) * lp[e][v];
        }
        w[e] = exp(-4 * EW_MAX(own, cross));
        sum += w[e];
    }
    float mix[V_];
    for (size_t v = 0; v < V_; v++) {
        double x = 0;
        for (size_t e = 0; e <= EXITS; e++) {
            x += w[e] / sum * lp[e][v];
        }
        mix[v] = (float)x;
    }
    log_softmax(mix, ret);
}

/* want[N][V]: from the streams behind the layers, run apart without exits. */
static void expected(const tiny *t, const ew_hooks *hooks, const int32_t *ids, double (*want)[V_])
{
    const ew_hooks plain = {.linear = hooks->linear};
    const ew_exec e = {ew_kern_get("ref"), NULL};
    static double lp[N][EXITS + 1][V_];
    for (size_t i = 0; i <= EXITS; i++) {
        ew_session *s = session(t, &plain, 0);
        float x[N * C_], logits[N * V_];
        assert_ok(ew_session_embed(s, ids, N, 0, x, err));
        assert_ok(ew_session_run(s, 0, i < EXITS ? exits[i].layer : t->cfg.L, x, N, 0, err));
        if (i < EXITS) {
            ew_rmsnorm(&e, x, exits[i].norm, N, C_, t->cfg.norm_eps, x, NULL);
            ew_matmul_f32(&e, ew_model_output(t->model), x, N, logits, false);
        } else {
            assert_ok(ew_session_head_all(s, x, N, logits, err));
        }
        for (size_t r = 0; r < N; r++) {
            log_softmax(logits + r * V_, lp[r][i]);
        }
        ew_session_free(&s);
    }
    for (size_t r = 0; r < N; r++) {
        vote(lp[r], want[r]);
    }
}

static void near(const float *logits, const double *want)
{
    double got[V_];
    log_softmax(logits, got);
    for (size_t v = 0; v < V_; v++) {
        if (fabs(got[v] - want[v]) > 2e-5) {
            fail_msg("piece %zu: log probability %.7g, the vote's is %.7g", v, got[v], want[v]);
        }
    }
}

static void exits_vote_with_the_last_head_by_the_formula(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 3);
    int32_t ids[N];
    tiny_ids(cfg.V, 4, ids, N);
    for (int lora = 0; lora < 2; lora++) {
        const ew_hooks hooks = hooks_of(lora != 0);
        static double want[N][V_];
        expected(&t, &hooks, ids, want);
        for (uint32_t n_batch = 3; n_batch <= 32; n_batch += 8) {
            static float all[N * V_];
            float last[V_];
            ew_session *s = session(&t, &hooks, n_batch);
            assert_ok(ew_session_eval_all(s, ids, N, all, err));
            double nll = 0, sum = 0;
            for (size_t r = 0; r < N; r++) {
                near(all + r * V_, want[r]);
                sum -= r + 1 < N && r >= 4 ? want[r][ids[r + 1]] : 0;
            }
            ew_session_reset(s);
            assert_ok(ew_session_eval(s, ids, N - 2, last, err));
            near(last, want[N - 3]);
            const uint64_t before = ew_mem_count();
            assert_ok(ew_session_eval(s, ids + N - 2, 1, last, err));
            assert_ok(ew_session_eval(s, ids + N - 1, 1, last, err));
            assert_int_equal(ew_mem_count(), before);
            near(last, want[N - 1]);
            size_t n = 0;
            assert_ok(ew_session_nll(s, ids, N, 5, &nll, &n, err));
            assert_true(n == N - 5 && fabs(nll - sum) < 1e-3);
            ew_session_free(&s);
        }
    }
    tiny_release(&t);
}

static void without_exits_not_a_bit_changes(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 3);
    int32_t ids[N];
    tiny_ids(cfg.V, 4, ids, N);
    const ew_hooks hooks = hooks_of(false);
    static float one[N * V_], two[N * V_];
    ew_session *s = session(&t, NULL, 0);
    assert_ok(ew_session_eval_all(s, ids, N, one, err));
    ew_session_free(&s);
    s = session(&t, &hooks, 0); /* room for exits, which then go */
    assert_ok(ew_session_set_hooks(s, NULL, err));
    assert_ok(ew_session_eval_all(s, ids, N, two, err));
    assert_memory_equal(one, two, sizeof(one));
    assert_ok(ew_session_set_hooks(s, &hooks, err));
    assert_ok(ew_session_eval_all(s, ids, N, two, err));
    assert_memory_not_equal(one, two, sizeof(one));
    ew_session_free(&s);
    tiny_release(&t);
}

static ew_status elsewhere(void *ctx, float *x, size_t n, uint32_t pos, ew_error *reterr)
{
    (void)ctx, (void)x, (void)n, (void)pos, (void)reterr;
    return EW_OK;
}

static void exits_without_room_or_stream_are_refused(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 3);
    ew_hooks hooks = hooks_of(false);
    ew_error why = EW_ERROR_INIT;
    ew_session *s = session(&t, NULL, 0);
    assert_int_equal(ew_session_set_hooks(s, &hooks, &why), EW_EINVAL);
    assert_non_null(strstr(why.msg, "2 early exits"));
    ew_session_free(&s);
    s = session(&t, &hooks, 0);
    assert_int_equal(ew_session_set_segment(s, 1, 3, elsewhere, NULL, &why), EW_EINVAL);
    assert_non_null(strstr(why.msg, "behind layer 2"));
    assert_ok(ew_session_set_segment(s, 2, 3, elsewhere, NULL, err));
    ew_session_free(&s);
    const ew_exit_hook deep = {.layer = 4, .norm = norms[0]};
    hooks.exits = &deep;
    hooks.n_exits = 1;
    const ew_session_opt opt = {.hooks = &hooks};
    assert_int_equal(ew_session_new(t.model, &opt, &s, &why), EW_EINVAL);
    assert_non_null(strstr(why.msg, "the model has 3 layers"));
    const ew_session_opt many = {.max_exits = 9};
    assert_int_equal(ew_session_new(t.model, &many, &s, &why), EW_EINVAL);
    tiny_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exits_vote_with_the_last_head_by_the_formula),
        cmocka_unit_test(without_exits_not_a_bit_changes),
        cmocka_unit_test(exits_without_room_or_stream_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Split inference against the same session unsplit: every cut, every step at which the link can fail. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "kern/kern.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/session.h"
#include "split/split.h"
#include "task/item.h"
#include "token/vocab.h"

#include "toy.h"

#define N_PROMPT 37
#define N_GEN 14

static ew_model *model;
static int32_t prompt[N_PROMPT];

static int open_model(void **state)
{
    static const toy_shape shape = {.C = 64, .H = 4, .K = 2, .F = 96, .V = 384, .L = 5, .n_ctx = 128};
    ew_error err = EW_ERROR_INIT;
    (void)state;
    const char *path = ew_test_path("split.gguf");
    assert_ok(toy_save(path, &shape, "Q8_0", 1, &err), &err);
    assert_ok(ew_model_open(path, NULL, &model, &err), &err);
    for (int32_t i = 0; i < N_PROMPT; i++) {
        prompt[i] = 1 + (i * 29) % 300;
    }
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    ew_model_unref(&model);
    return 0;
}

/* The coordinator's end in the same process. */
typedef struct far_end {
    ew_session *s;
    uint32_t a, b, C;
    ew_activation act;
    uint64_t due;      /* next step */
    uint64_t fail_at;  /* steps from here on fail */
    unsigned how;      /* 0: before computing, 1: after it, the answer is lost, 2: the answer is not finite */
    uint32_t max_rows; /* seen */
    int told;          /* on_local */
    float *x;
} far_end;

static ew_status forward(void *ctx, uint64_t step, uint32_t position, uint32_t n, const void *act, size_t bytes,
                         void *ret_act, ew_error *reterr)
{
    far_end *f = ctx;
    assert_true(step == f->due);
    assert_int_equal(bytes, n * f->C * ew_activation_bytes(f->act));
    f->max_rows = EW_MAX(f->max_rows, n);
    if (step >= f->fail_at && f->how == 0) {
        return ew_fail(reterr, EW_EREMOTE, "the link is gone");
    }
    EW_TRY(ew_activation_decode(f->act, act, (size_t)n * f->C, f->x, reterr));
    EW_TRY(ew_session_run(f->s, f->a, f->b, f->x, n, position, reterr));
    if (step >= f->fail_at && f->how == 1) {
        return ew_fail(reterr, EW_ETIMEOUT, "no answer");
    }
    ew_activation_encode(f->act, f->x, (size_t)n * f->C, ret_act);
    if (step >= f->fail_at) {
        /* The last value is bad: everything before it has been decoded by then. */
        memset((char *)ret_act + bytes - 2, 0xff, 2);
    }
    f->due++;
    return EW_OK;
}

static void on_local(void *ctx, uint32_t position, const ew_error *why)
{
    far_end *f = ctx;
    (void)position;
    assert_true(why->msg[0] != '\0');
    f->told++;
}

static void far_open(far_end *f, uint32_t a, uint32_t b, ew_activation act, const char *kern)
{
    ew_error err = EW_ERROR_INIT;
    *f = (far_end){.a = a, .b = b, .act = act, .fail_at = UINT64_MAX, .C = ew_model_config_of(model)->C};
    const ew_session_opt opt = {.n_ctx = 128, .exec = {.kern = ew_kern_get(kern)}, .first_layer = a, .last_layer = b};
    assert_ok(ew_session_new(model, &opt, &f->s, &err), &err);
    f->x = ew_calloc(128, f->C * sizeof(float));
    assert_non_null(f->x);
}

static void far_close(far_end *f)
{
    ew_session_free(&f->s);
    ew_free(f->x);
}

/* What a conversation does: a prompt, greedy text, labels with rewinds, more text. */
typedef struct story {
    ew_tokens ids;
    double label[4];
    float *logits; /* [V] at the end */
} story;

static void tell(ew_session *s, story *st)
{
    static const int32_t label_ids[4][3] = {{5, 6, 7}, {5, 6, 9}, {5, 30, 31}, {8, 2, 3}};
    ew_error err = EW_ERROR_INIT;
    ew_label labels[4];
    const ew_generate_opt opt = {.max_tok = N_GEN, .ignore_eog = true};
    *st = (story){.logits = ew_calloc(ew_model_config_of(model)->V, sizeof(float))};
    for (size_t i = 0; i < 4; i++) {
        labels[i] = (ew_label){.ids = label_ids[i], .n = 3};
    }
    ew_session_reset(s);
    assert_ok(ew_generate(s, prompt, N_PROMPT, &opt, &st->ids, NULL, NULL, &err), &err);
    assert_ok(ew_score_labels(s, prompt, 20, labels, 4, st->label, &err), &err);
    ew_session_rewind(s, 11);
    assert_ok(ew_generate(s, prompt + 3, 5, &opt, &st->ids, NULL, NULL, &err), &err);
    assert_ok(ew_session_eval(s, prompt, 1, st->logits, &err), &err);
}

static void story_release(story *st)
{
    ew_tokens_release(&st->ids);
    ew_free(st->logits);
}

static bool same(const story *a, const story *b)
{
    return a->ids.n == b->ids.n && memcmp(a->ids.id, b->ids.id, a->ids.n * sizeof(int32_t)) == 0 &&
           memcmp(a->label, b->label, sizeof(a->label)) == 0 &&
           memcmp(a->logits, b->logits, ew_model_config_of(model)->V * sizeof(float)) == 0;
}

static void near_open(const char *kern, uint32_t n_batch, ew_session **ret)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_session_new(model,
                             &(ew_session_opt){.n_ctx = 128, .n_batch = n_batch, .exec = {.kern = ew_kern_get(kern)}},
                             ret, &err),
              &err);
}

static void every_cut_gives_the_local_bits_with_f32_and_reference_kernels(void **state)
{
    ew_error err = EW_ERROR_INIT;
    uint32_t L = ew_model_config_of(model)->L;
    ew_session *s = NULL;
    story local;
    (void)state;
    near_open("ref", 16, &s);
    tell(s, &local);
    for (uint32_t a = 0; a < L; a++) {
        for (uint32_t b = a + 1; b <= L; b++) {
            far_end f;
            story st;
            ew_split_session *p = NULL;
            ew_split_stats stats;
            far_open(&f, a, b, EW_ACTIVATION_F32, "ref");
            const ew_split_opt opt = {
                .first_layer = a, .last_layer = b, .act = f.act, .forward = forward, .on_local = on_local, .ctx = &f};
            assert_ok(ew_split_session_new(s, &opt, &p, &err), &err);
            tell(s, &st);
            ew_split_session_get_stats(p, &stats);
            if (!same(&local, &st)) {
                fail_msg("cut [%u, %u) differs", a, b);
            }
            assert_true(!stats.local && f.told == 0 && stats.trips == f.due && f.max_rows <= 16);
            assert_true(stats.bytes_out == stats.bytes_in && stats.bytes_out % (f.C * 4) == 0 && stats.bytes_out > 0);
            story_release(&st);
            ew_split_session_free(&p);
            far_close(&f);
        }
    }
    story_release(&local);
    /* Taken back: the session is whole again. */
    story again;
    tell(s, &local);
    tell(s, &again);
    assert_true(same(&local, &again));
    story_release(&local);
    story_release(&again);
    ew_session_free(&s);
}

static void a_link_that_fails_at_any_step_changes_no_token(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    story local;
    (void)state;
    near_open("ref", 16, &s);
    tell(s, &local);
    for (unsigned how = 0; how < 3; how++) {
        uint64_t steps = 1;
        for (uint64_t n = 0; n < steps; n++) {
            far_end f;
            story st;
            ew_split_session *p = NULL;
            ew_split_stats stats;
            far_open(&f, 1, 4, EW_ACTIVATION_F32, "ref");
            f.fail_at = n;
            f.how = how;
            const ew_split_opt opt = {
                .first_layer = 1, .last_layer = 4, .act = f.act, .forward = forward, .on_local = on_local, .ctx = &f};
            assert_ok(ew_split_session_new(s, &opt, &p, &err), &err);
            tell(s, &st);
            ew_split_session_get_stats(p, &stats);
            if (!same(&local, &st)) {
                fail_msg("kind %u, a failure at step %u shows", how, (unsigned)n);
            }
            if (stats.local) {
                assert_int_equal(f.told, 1);
                assert_true(stats.trips == n + (how == 2 ? 1 : 0)); /* the bad answer came */
                steps = n + 2;                                      /* until a story that no failure reaches */
            }
            story_release(&st);
            ew_split_session_free(&p);
            far_close(&f);
        }
        assert_true(steps > 30);
    }
    story_release(&local);
    ew_session_free(&s);
}

static void half_precision_and_fast_kernels_agree_nearly(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    ew_session *plain = NULL;
    far_end f;
    ew_split_session *p = NULL;
    uint32_t V = ew_model_config_of(model)->V;
    float *a = ew_calloc(V, sizeof(float));
    float *b = ew_calloc(V, sizeof(float));
    size_t agree = 0;
    double worst = 0;
    (void)state;
    near_open(NULL, 0, &s);
    near_open(NULL, 0, &plain);
    far_open(&f, 1, 4, EW_ACTIVATION_F16, NULL);
    const ew_split_opt opt = {.first_layer = 1, .last_layer = 4, .act = f.act, .forward = forward, .ctx = &f};
    assert_ok(ew_split_session_new(s, &opt, &p, &err), &err);
    for (int i = 0; i < 120; i++) {
        int32_t id = prompt[i % N_PROMPT];
        assert_ok(ew_session_eval(s, &id, 1, a, &err), &err);
        assert_ok(ew_session_eval(plain, &id, 1, b, &err), &err);
        agree += ew_argmax(a, V) == ew_argmax(b, V);
        for (uint32_t k = 0; k < V; k++) {
            worst = fmax(worst, fabs((double)a[k] - (double)b[k]));
        }
    }
    print_message("f16 activations: %zu of 120 greedy tokens agree, largest difference of a logit %.4f\n", agree,
                  worst);
    assert_true(agree >= 114 && worst < 0.1);
    ew_split_session_free(&p);
    far_close(&f);
    ew_session_free(&s);
    ew_session_free(&plain);
    ew_free(a);
    ew_free(b);
}

static void a_failure_in_half_precision_goes_on_nearly_as_before(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    ew_session *broken = NULL;
    uint32_t V = ew_model_config_of(model)->V;
    float *a = ew_calloc(V, sizeof(float));
    float *b = ew_calloc(V, sizeof(float));
    far_end f[2];
    ew_split_session *p[2] = {NULL, NULL};
    (void)state;
    near_open("ref", 0, &s);
    near_open("ref", 0, &broken);
    for (int i = 0; i < 2; i++) {
        far_open(&f[i], 0, 3, EW_ACTIVATION_F16, "ref");
        const ew_split_opt opt = {.first_layer = 0, .last_layer = 3, .act = f[i].act, .forward = forward, .ctx = &f[i]};
        assert_ok(ew_split_session_new(i == 0 ? s : broken, &opt, &p[i], &err), &err);
    }
    f[1].fail_at = 1;
    assert_ok(ew_session_eval(s, prompt, N_PROMPT, NULL, &err), &err);
    assert_ok(ew_session_eval(broken, prompt, N_PROMPT, NULL, &err), &err);
    for (int i = 0; i < 10; i++) {
        assert_ok(ew_session_eval(s, &prompt[i], 1, a, &err), &err);
        assert_ok(ew_session_eval(broken, &prompt[i], 1, b, &err), &err);
        for (uint32_t k = 0; k < V; k++) {
            assert_true(fabs((double)a[k] - (double)b[k]) < 0.1);
        }
    }
    for (int i = 0; i < 2; i++) {
        ew_split_session_free(&p[i]);
        far_close(&f[i]);
    }
    ew_session_free(&s);
    ew_session_free(&broken);
    ew_free(a);
    ew_free(b);
}

static void activations_come_back_and_bad_ones_are_refused(void **state)
{
    ew_error err = EW_ERROR_INIT;
    const float x[6] = {0, -1.5F, 65504, 1e9F, -1e9F, 3e-6F};
    float y[6];
    unsigned char bytes[24];
    (void)state;
    ew_activation_encode(EW_ACTIVATION_F32, x, 6, bytes);
    assert_ok(ew_activation_decode(EW_ACTIVATION_F32, bytes, 6, y, &err), &err);
    assert_memory_equal(x, y, sizeof(x));
    ew_activation_encode(EW_ACTIVATION_F16, x, 6, bytes);
    assert_ok(ew_activation_decode(EW_ACTIVATION_F16, bytes, 6, y, &err), &err);
    assert_true(y[1] == -1.5F && y[3] == 65504.0F && y[4] == -65504.0F);
    const float bad[2] = {1, NAN};
    ew_activation_encode(EW_ACTIVATION_F32, bad, 2, bytes);
    assert_fails(EW_ECORRUPT, ew_activation_decode(EW_ACTIVATION_F32, bytes, 2, y, &err), &err, "finite");
    bytes[0] = 0;
    bytes[1] = 0x7c; /* infinity */
    assert_fails(EW_ECORRUPT, ew_activation_decode(EW_ACTIVATION_F16, bytes, 1, y, &err), &err, "finite");
}

static void what_is_no_part_of_the_model_is_refused(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    ew_split_session *p = NULL;
    static const uint32_t bad[][2] = {{0, 0}, {3, 3}, {4, 2}, {0, 6}, {5, 6}, {0, UINT32_MAX}};
    (void)state;
    near_open("ref", 0, &s);
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        const ew_split_opt opt = {.first_layer = bad[i][0], .last_layer = bad[i][1], .forward = forward};
        assert_fails(EW_EINVAL, ew_split_session_new(s, &opt, &p, &err), &err, "5 layers");
        assert_null(p);
    }
    ew_split_session_free(&p);
    ew_session_free(&s);
}

static void running_out_of_memory_leaves_the_session_whole(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    (void)state;
    near_open("ref", 0, &s);
    for (uint64_t n = 1; n < 20; n++) {
        ew_split_session *p = NULL;
        far_end f = {0};
        const ew_split_opt opt = {.first_layer = 0, .last_layer = 2, .forward = forward, .ctx = &f};
        ew_mem_fail_at(n);
        ew_status st = ew_split_session_new(s, &opt, &p, &err);
        ew_mem_fail_at(0);
        if (st == EW_OK) {
            ew_split_session_free(&p);
            assert_true(n > 3);
            break;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_ok(ew_session_eval(s, prompt, 1, NULL, &err), &err);
    }
    ew_session_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_gives_the_local_bits_with_f32_and_reference_kernels),
        cmocka_unit_test(a_link_that_fails_at_any_step_changes_no_token),
        cmocka_unit_test(half_precision_and_fast_kernels_agree_nearly),
        cmocka_unit_test(a_failure_in_half_precision_goes_on_nearly_as_before),
        cmocka_unit_test(activations_come_back_and_bad_ones_are_refused),
        cmocka_unit_test(what_is_no_part_of_the_model_is_refused),
        cmocka_unit_test(running_out_of_memory_leaves_the_session_whole),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}

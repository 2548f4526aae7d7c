/* AdamW with moments in f32 and in 8 bits: both reach the minimum, codes stay near what they stand for, threads and a stop in
 * between change nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "sys/pool.h"
#include "test.h"
#include "train/optim.h"

#define N 1000u

typedef struct setup {
    ew_arena arena;
    ew_optim o;
    float p[N], g[N], goal[N];
} setup;

static const ew_adamw_opt adam = {.lr = 1e-2F, .beta1 = 0.9F, .beta2 = 0.999F, .eps = 1e-8F, .grad_scale = 1};

static void begin(setup *s, bool eight_bit)
{
    ew_error err = EW_ERROR_INIT;
    ew_arena dry;
    ew_rng rng;
    memset(s, 0, sizeof(*s));
    ew_arena_init_dry(&dry);
    assert_true(ew_optim_take(&s->o, &dry, N, eight_bit, 5));
    assert_ok(ew_arena_init(&s->arena, dry.peak, &err), &err);
    assert_true(ew_optim_take(&s->o, &s->arena, N, eight_bit, 5));
    assert_true(s->arena.used == dry.peak && (eight_bit ? dry.peak < 2.2 * N + 256 : dry.peak >= 8 * N));
    ew_optim_start(&s->o);
    ew_rng_init(&rng, 9, 0);
    for (size_t i = 0; i < N; i++) {
        s->goal[i] = (float)ew_rng_normal(&rng);
    }
}

/* A bowl whose curvature spans four decades, with noise: gradients as different as real ones. */
static void steps(const ew_exec *e, setup *s, uint64_t from, uint64_t to)
{
    for (uint64_t t = from; t < to; t++) {
        ew_rng rng;
        ew_rng_init(&rng, 31, t);
        for (size_t i = 0; i < N; i++) {
            const double c = pow(10.0, -4.0 * (double)(i % 97) / 97.0);
            s->g[i] = (float)(c * ((double)s->p[i] - (double)s->goal[i]) + 0.02 * c * ew_rng_normal(&rng));
        }
        ew_optim_step(e, &s->o, &adam, s->p, s->g, 0, N, t + 1);
    }
}

static double distance(const setup *s)
{
    double sum = 0;
    for (size_t i = 0; i < N; i++) {
        sum += ((double)s->p[i] - (double)s->goal[i]) * ((double)s->p[i] - (double)s->goal[i]);
    }
    return sqrt(sum / N);
}

static void eight_bits_learn_as_f32_does(void **state)
{
    (void)state;
    const ew_exec e = {ew_kern_get(NULL), NULL};
    static setup full, small;
    begin(&full, false);
    begin(&small, true);
    const double start = distance(&full);
    steps(&e, &full, 0, 400);
    steps(&e, &small, 0, 400);
    if (!(distance(&full) < 0.05 * start) || !(distance(&small) < 1.5 * distance(&full) + 0.01)) {
        fail_msg("from %g: f32 comes to %g, 8 bits to %g", start, distance(&full), distance(&small));
    }
    ew_arena_release(&full.arena);
    ew_arena_release(&small.arena);
}

/* The codes of a moment that stays the same: unbiased, within the map's step. */
static void codes_stay_near_what_they_stand_for(void **state)
{
    (void)state;
    const ew_exec e = {ew_kern_get(NULL), NULL};
    static setup s;
    begin(&s, true);
    for (size_t i = 0; i < N; i++) {
        s.g[i] = (float)(pow(10.0, -3.0 * (double)(i % 89) / 89.0) * (i % 2 == 0 ? 1 : -1));
    }
    double sum = 0;
    for (uint64_t t = 0; t < 200; t++) { /* m -> (1 - 0.9^200) g = g */
        ew_optim_step(&e, &s.o, &adam, s.p, s.g, 0, N, t + 1);
        for (size_t i = 0; t >= 150 && i < N; i++) {
            const double m = (double)s.o.map_m[s.o.m8[i]] * (double)s.o.m_max[i / EW_OPTIM_BLOCK];
            const double off = m / (double)s.g[i] - 1;
            sum += off;
            if (fabs(off) > 0.6) {
                fail_msg("moment %zu is %g, its gradient %g", i, m, (double)s.g[i]);
            }
        }
    }
    assert_true(fabs(sum / (50.0 * N)) < 0.01);
    assert_int_equal(s.o.r8[1] > 0, 1);
    ew_arena_release(&s.arena);
}

static void threads_and_a_stop_in_between_change_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_pool) pool = NULL;
    assert_ok(ew_pool_new(3, &pool, &err), &err);
    const ew_exec serial = {ew_kern_get(NULL), NULL}, par = {ew_kern_get(NULL), pool};
    static setup one, two;
    for (int eight_bit = 0; eight_bit < 2; eight_bit++) {
        begin(&one, eight_bit == 1);
        steps(&serial, &one, 0, 30);
        begin(&two, eight_bit == 1);
        steps(&par, &two, 0, 17);
        ew_checkpoint_block b[EW_OPTIM_STATE_BLOCKS];
        void *kept[EW_OPTIM_STATE_BLOCKS];
        const size_t n = ew_optim_blocks(&two.o, b);
        for (size_t i = 0; i < n; i++) {
            kept[i] = malloc(b[i].size);
            memcpy(kept[i], b[i].data, b[i].size);
        }
        float p[N];
        memcpy(p, two.p, sizeof(p));
        ew_arena_release(&two.arena);
        begin(&two, eight_bit == 1); /* another process */
        memcpy(two.p, p, sizeof(p));
        assert_int_equal(ew_optim_blocks(&two.o, b), n);
        for (size_t i = 0; i < n; i++) {
            memcpy(b[i].data, kept[i], b[i].size);
            free(kept[i]);
        }
        steps(&par, &two, 17, 30);
        assert_memory_equal(one.p, two.p, sizeof(one.p));
        ew_arena_release(&one.arena);
        ew_arena_release(&two.arena);
    }
}

static void a_part_steps_alone(void **state)
{
    (void)state;
    const ew_exec e = {ew_kern_get(NULL), NULL};
    static setup s, whole;
    for (int eight_bit = 0; eight_bit < 2; eight_bit++) {
        begin(&s, eight_bit == 1);
        begin(&whole, eight_bit == 1);
        for (size_t i = 0; i < N; i++) {
            s.g[i] = whole.g[i] = s.goal[i];
        }
        ew_optim_step(&e, &s.o, &adam, s.p, s.g, 300, 450, 1);
        ew_optim_step(&e, &whole.o, &adam, whole.p, whole.g, 0, N, 1);
        for (size_t i = 0; i < N; i++) {
            const bool in = i >= 300 && i < 750;
            assert_true(s.p[i] == (in ? whole.p[i] : 0));
        }
        memset(s.p, 0, sizeof(s.p));
        ew_optim_step(&e, &s.o, &adam, s.p, s.g, 0, 300, 1);
        ew_optim_step(&e, &s.o, &adam, s.p, s.g, 750, N - 750, 1);
        for (size_t i = 0; i < N; i++) {
            const bool in = i >= 300 && i < 750;
            assert_true(s.p[i] == (in ? 0 : whole.p[i]));
        }
        ew_optim_step(&e, &s.o, &adam, s.p, s.g, N, 0, 1);
        ew_arena_release(&s.arena);
        ew_arena_release(&whole.arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_bits_learn_as_f32_does),
        cmocka_unit_test(codes_stay_near_what_they_stand_for),
        cmocka_unit_test(a_part_steps_alone),
        cmocka_unit_test(threads_and_a_stop_in_between_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

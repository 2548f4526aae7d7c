/* The choice of what an update learns from. */
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "agentd/replay.h"
#include "base/mem.h"
#include "base/str.h"

#define N 100

static char texts[N][16];
static ew_item items[N];
static ew_replay_use use[N];

static void make(size_t first_order)
{
    for (size_t i = 0; i < N; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "text %zu", i);
        items[i] = (ew_item){.id = texts[i],
                             .user = (char *)(uintptr_t) "",
                             .input = texts[i],
                             .output = texts[i],
                             .order = first_order + i};
    }
}

static ew_replay_counts choose(const ew_item *list, size_t n, const ew_replay_opt *opt)
{
    ew_error err = EW_ERROR_INIT;
    ew_replay_counts counts = {0};
    assert_ok(ew_replay_choose(list, n, opt, use, &counts, &err), &err);
    size_t seen[4] = {0};
    for (size_t i = 0; i < n; i++) {
        seen[use[i]]++;
        assert_int_equal(use[i] == EW_REPLAY_NEW, list[i].order > opt->known);
    }
    assert_int_equal(seen[EW_REPLAY_NEW], counts.n_new);
    assert_int_equal(seen[EW_REPLAY_OLD], counts.n_old);
    assert_int_equal(seen[EW_REPLAY_WITNESS], counts.n_witness);
    assert_int_equal(seen[EW_REPLAY_NONE], counts.n_left);
    return counts;
}

static void new_items_are_all_learned_and_old_ones_by_the_ratio(void **state)
{
    (void)state;
    make(1);
    ew_replay_opt opt = {.known = 90, .ratio = 2, .min_old = 1, .n_witness = 5};
    ew_replay_counts c = choose(items, N, &opt);
    assert_int_equal(c.n_new, 10);
    assert_int_equal(c.n_old, 20);
    assert_int_equal(c.n_witness, 5);
    opt.ratio = 0.25;
    assert_int_equal(choose(items, N, &opt).n_old, 3);
    opt.ratio = -1;
    assert_int_equal(choose(items, N, &opt).n_old, 0);
    opt.ratio = 1e9;
    c = choose(items, N, &opt);
    assert_int_equal(c.n_old, 85);
    assert_int_equal(c.n_left, 0);
    opt = (ew_replay_opt){.known = 99};
    c = choose(items, N, &opt);
    assert_int_equal(c.n_old, 16); /* at least so many, however few are new */
    assert_int_equal(c.n_witness, 32);
}

static void without_old_items_everything_is_new(void **state)
{
    (void)state;
    make(1);
    const ew_replay_opt opt = {.known = 0};
    ew_replay_counts c = choose(items, N, &opt);
    assert_int_equal(c.n_new, N);
    assert_int_equal(c.n_old + c.n_witness + c.n_left, 0);
    c = choose(items, 0, &opt);
    assert_int_equal(c.n_new, 0);
}

static void the_sample_depends_on_neither_order_nor_forgotten_items(void **state)
{
    (void)state;
    make(1);
    const ew_replay_opt opt = {.known = 90, .ratio = 2, .min_old = 1, .n_witness = 4};
    ew_item less[N];
    ew_replay_use before[N];
    (void)choose(items, N, &opt);
    memcpy(before, use, sizeof(use));
    /* One that took no part is forgotten, and the rest comes in another order. */
    size_t gone = 0;
    while (before[gone] != EW_REPLAY_NONE) {
        gone++;
    }
    size_t n = 0;
    for (size_t i = N; i-- > 0;) {
        if (i != gone) {
            less[n++] = items[i];
        }
    }
    (void)choose(less, n, &opt);
    for (size_t i = 0; i < n; i++) {
        size_t was = (size_t)(less[i].order - 1);
        assert_int_equal(use[i], before[was]);
    }
}

static void every_update_draws_another_sample_and_a_repeated_one_the_same(void **state)
{
    (void)state;
    make(1);
    ew_replay_use before[N];
    ew_replay_opt opt = {.known = 80, .ratio = 1, .min_old = 1};
    (void)choose(items, N, &opt);
    memcpy(before, use, sizeof(use));
    (void)choose(items, N, &opt);
    assert_memory_equal(before, use, sizeof(use));
    opt.known = 85;
    (void)choose(items, N, &opt);
    size_t same = 0;
    for (size_t i = 0; i < 80; i++) {
        same += use[i] == EW_REPLAY_OLD && before[i] == EW_REPLAY_OLD;
    }
    assert_true(same < 15);
}

static void the_sample_is_even(void **state)
{
    size_t times[N] = {0};
    (void)state;
    make(1);
    for (uint64_t seed = 0; seed < 400; seed++) {
        const ew_replay_opt opt = {.known = 90, .ratio = 1, .min_old = 10, .n_witness = 1, .seed = seed};
        (void)choose(items, N, &opt);
        for (size_t i = 0; i < 90; i++) {
            times[i] += use[i] == EW_REPLAY_OLD;
        }
    }
    /* 400 draws of 10 of 90: 44 each with a standard deviation of 6.3. */
    for (size_t i = 0; i < 90; i++) {
        assert_in_range(times[i], 44 - 26, 44 + 26);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_items_are_all_learned_and_old_ones_by_the_ratio),
        cmocka_unit_test(without_old_items_everything_is_new),
        cmocka_unit_test(the_sample_depends_on_neither_order_nor_forgotten_items),
        cmocka_unit_test(every_update_draws_another_sample_and_a_repeated_one_the_same),
        cmocka_unit_test(the_sample_is_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

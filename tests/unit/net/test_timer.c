/* Timers under a clock turned by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "net/timer.h"

static ew_timers heap;
static unsigned fired;
static uint64_t last_at;

static void count(ew_timer *t, void *ctx)
{
    (void)ctx;
    fired++;
    assert_true(t->at_ms >= last_at);
    last_at = t->at_ms;
}

static void again(ew_timer *t, void *ctx)
{
    (void)ctx;
    fired++;
    assert_int_equal(ew_timer_set(&heap, t, t->at_ms), EW_OK); /* already past: next round */
}

static void timers_fire_in_order_and_only_when_due(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 3, 0);
    static ew_timer t[500];
    fired = 0;
    last_at = 0;
    for (size_t i = 0; i < 500; i++) {
        t[i] = (ew_timer){.fn = count};
        assert_int_equal(ew_timer_set(&heap, &t[i], 1 + ew_rng_below(&r, 1000)), EW_OK);
    }
    unsigned cleared = 0;
    for (size_t i = 0; i < 500; i += 3) {
        if (i % 2 == 0) {
            ew_timer_clear(&heap, &t[i]);
            cleared++;
        } else {
            assert_int_equal(ew_timer_set(&heap, &t[i], 500), EW_OK);
        }
    }
    unsigned due = 0;
    for (size_t i = 0; i < 500; i++) {
        due += t[i].index != 0 && t[i].at_ms <= 500;
    }
    ew_timers_run(&heap, 500);
    assert_int_equal(fired, due);
    assert_true(ew_timers_wait_ms(&heap, 500, 1000) > 0);
    ew_timers_run(&heap, 1000);
    assert_int_equal(fired, 500 - cleared);
    assert_int_equal(ew_timers_wait_ms(&heap, 1000, 777), 777);
    ew_timers_release(&heap);
}

static void a_timer_may_set_itself(void **state)
{
    (void)state;
    ew_clock_fake(5000000000ull, 1);
    ew_timer t = {.fn = again};
    fired = 0;
    assert_int_equal(ew_timer_set(&heap, &t, 1), EW_OK);
    ew_timers_run(&heap, ew_mono_ms());
    assert_int_equal(fired, 1);
    ew_timers_run(&heap, ew_mono_ms());
    assert_int_equal(fired, 2);
    ew_timers_release(&heap);
    ew_clock_fake(0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_and_only_when_due),
        cmocka_unit_test(a_timer_may_set_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* When the agent learns by itself, and when it does not. */
#include <string.h>

#include "test.h"

#include "agentd/schedule.h"
#include "base/mem.h"

#define HOUR_MS (3600u * 1000u)
#define DAY 20000

static const ew_schedule nightly = {.at_min = 3 * 60 + 30, .min_new = 2, .only_on_mains = true, .quiet_s = 60};

/* At a minute of a day, everything else in favour of learning. */
static ew_schedule_now at(int32_t day, int32_t minute)
{
    return (ew_schedule_now){.mono_ms = 100 * HOUR_MS,
                             .start_mono_ms = HOUR_MS,
                             .wall_ms = ((uint64_t)day * 1440 + (uint64_t)minute) * 60000,
                             .day = day,
                             .minute = minute,
                             .on_mains = true,
                             .n_new = 5};
}

static void check(const ew_schedule *s, const ew_schedule_memory *m, ew_schedule_now now, ew_schedule_verdict want)
{
    ew_schedule_verdict got = ew_schedule_decide(s, m, &now);
    if (got != want) {
        fail_msg("day %d minute %d: %s, expected: %s", now.day, now.minute, ew_schedule_verdict_text(got),
                 ew_schedule_verdict_text(want));
    }
}

static void times_of_day_are_read(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    int32_t m = 7;
    assert_ok(ew_schedule_parse_time("03:30", &m, &err), &err);
    assert_int_equal(m, 210);
    assert_ok(ew_schedule_parse_time("23:59", &m, &err), &err);
    assert_int_equal(m, 1439);
    assert_ok(ew_schedule_parse_time("", &m, &err), &err);
    assert_int_equal(m, -1);
    static const char *const bad[] = {"24:00", "3:30", "03:60", "03-30", "03:3x", "030:30", "x"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_fails(EW_EINVAL, ew_schedule_parse_time(bad[i], &m, &err), &err, "HH:MM");
    }
}

static void days_are_counted_over_leap_years(void **state)
{
    (void)state;
    const struct tm first = {.tm_year = 70, .tm_mon = 0, .tm_mday = 1};
    const struct tm leap = {.tm_year = 124, .tm_mon = 1, .tm_mday = 29};
    const struct tm after = {.tm_year = 124, .tm_mon = 2, .tm_mday = 1};
    assert_int_equal(ew_schedule_day(&first), 0);
    assert_int_equal(ew_schedule_day(&leap), 19782);
    assert_int_equal(ew_schedule_day(&after), 19783);
}

static void a_slot_is_used_once_a_night(void **state)
{
    (void)state;
    ew_schedule_memory m = {0};
    check(&nightly, &m, at(DAY, 209), EW_SCHEDULE_NOT_YET);
    check(&nightly, &m, at(DAY, 210), EW_SCHEDULE_LEARN);
    const ew_schedule_now now = at(DAY, 215);
    ew_schedule_remember(&nightly, &now, &m);
    check(&nightly, &m, at(DAY, 216), EW_SCHEDULE_NOT_YET);
    check(&nightly, &m, at(DAY, 900), EW_SCHEDULE_NOT_YET);
    check(&nightly, &m, at(DAY + 1, 209), EW_SCHEDULE_NOT_YET);
    check(&nightly, &m, at(DAY + 1, 210), EW_SCHEDULE_LEARN);
}

static void a_slot_that_was_slept_through_is_open_for_some_hours(void **state)
{
    (void)state;
    const ew_schedule_memory m = {.day = DAY - 1};
    check(&nightly, &m, at(DAY, 210 + EW_SCHEDULE_WINDOW_MIN - 1), EW_SCHEDULE_LEARN);
    check(&nightly, &m, at(DAY, 210 + EW_SCHEDULE_WINDOW_MIN), EW_SCHEDULE_NOT_YET);
}

static void a_slot_before_midnight_belongs_to_its_day(void **state)
{
    (void)state;
    const ew_schedule late = {.at_min = 23 * 60};
    ew_schedule_memory m = {.day = DAY - 1};
    const ew_schedule_now now = at(DAY + 1, 30);
    check(&late, &m, now, EW_SCHEDULE_LEARN);
    ew_schedule_remember(&late, &now, &m);
    assert_int_equal(m.day, DAY);
    check(&late, &m, at(DAY + 1, 60), EW_SCHEDULE_NOT_YET);
    check(&late, &m, at(DAY + 1, 23 * 60), EW_SCHEDULE_LEARN);
}

static void a_clock_that_is_set_back_does_not_learn_twice(void **state)
{
    (void)state;
    const ew_schedule_memory m = {.day = DAY};
    check(&nightly, &m, at(DAY, 220), EW_SCHEDULE_NOT_YET);     /* an hour back, within the slot */
    check(&nightly, &m, at(DAY - 1, 220), EW_SCHEDULE_NOT_YET); /* a day back */
}

static void a_memory_from_the_future_is_believed_for_half_a_day(void **state)
{
    (void)state;
    const ew_schedule_memory m = {.day = DAY + 400};
    ew_schedule_now now = at(DAY, 220);
    now.began_mono_ms = now.mono_ms - HOUR_MS;
    check(&nightly, &m, now, EW_SCHEDULE_NOT_YET);
    now.began_mono_ms = now.mono_ms - 13 * HOUR_MS;
    check(&nightly, &m, now, EW_SCHEDULE_LEARN);
}

static void intervals_do_not_look_at_the_wall_clock_while_the_process_lives(void **state)
{
    (void)state;
    const ew_schedule hourly = {.at_min = -1, .every_s = 3600};
    ew_schedule_memory m = {.wall_ms = (uint64_t)DAY * 1440 * 60000};
    ew_schedule_now now = at(DAY + 300, 0); /* jumped ahead */
    now.began_mono_ms = now.mono_ms - HOUR_MS / 2;
    check(&hourly, &m, now, EW_SCHEDULE_NOT_YET);
    now = at(DAY - 300, 0); /* jumped back */
    now.began_mono_ms = now.mono_ms - HOUR_MS;
    check(&hourly, &m, now, EW_SCHEDULE_LEARN);
    /* After a restart the wall clock is asked, but it cannot make us wait for ever. */
    now = at(DAY - 300, 0);
    now.start_mono_ms = now.mono_ms - HOUR_MS / 2;
    check(&hourly, &m, now, EW_SCHEDULE_NOT_YET);
    now.start_mono_ms = now.mono_ms - HOUR_MS;
    check(&hourly, &m, now, EW_SCHEDULE_LEARN);
    now = at(DAY, 61);
    now.start_mono_ms = now.mono_ms - 1000;
    check(&hourly, &m, now, EW_SCHEDULE_LEARN);
    m.wall_ms = 0;
    check(&hourly, &m, now, EW_SCHEDULE_LEARN);
}

static void nothing_new_no_mains_and_answers_are_reasons_to_wait(void **state)
{
    (void)state;
    const ew_schedule_memory m = {0};
    ew_schedule_now now = at(DAY, 220);
    now.n_new = 1;
    check(&nightly, &m, now, EW_SCHEDULE_NOTHING_NEW);
    now = at(DAY, 220);
    now.on_mains = false;
    check(&nightly, &m, now, EW_SCHEDULE_NO_MAINS);
    now = at(DAY, 220);
    now.answering = true;
    check(&nightly, &m, now, EW_SCHEDULE_BUSY);
    now.answering = false;
    now.quiet_mono_ms = now.mono_ms - 59999;
    check(&nightly, &m, now, EW_SCHEDULE_BUSY);
    now.quiet_mono_ms = now.mono_ms - 60000;
    check(&nightly, &m, now, EW_SCHEDULE_LEARN);
}

static void what_must_be_learned_waits_for_no_slot_but_for_power_and_quiet(void **state)
{
    (void)state;
    const ew_schedule none = {.at_min = -1, .only_on_mains = true};
    const ew_schedule_memory m = {0};
    ew_schedule_now now = at(DAY, 0);
    check(&none, &m, now, EW_SCHEDULE_NOT_YET);
    now.must = true;
    now.n_new = 0;
    check(&none, &m, now, EW_SCHEDULE_LEARN);
    now.on_mains = false;
    check(&none, &m, now, EW_SCHEDULE_NO_MAINS);
    now.on_mains = true;
    now.answering = true;
    check(&none, &m, now, EW_SCHEDULE_BUSY);
}

static void failures_are_tried_again_ever_later(void **state)
{
    (void)state;
    const ew_schedule none = {.at_min = -1};
    const ew_schedule_memory m = {0};
    ew_schedule_now now = at(DAY, 0);
    now.must = true;
    now.n_failed = 1;
    now.failed_mono_ms = now.mono_ms - EW_SCHEDULE_RETRY_MS + 1;
    check(&none, &m, now, EW_SCHEDULE_FAILED);
    now.failed_mono_ms = now.mono_ms - EW_SCHEDULE_RETRY_MS;
    check(&none, &m, now, EW_SCHEDULE_LEARN);
    now.n_failed = 3;
    check(&none, &m, now, EW_SCHEDULE_FAILED);
    now.failed_mono_ms = now.mono_ms - 4 * EW_SCHEDULE_RETRY_MS;
    check(&none, &m, now, EW_SCHEDULE_LEARN);
    now.n_failed = UINT32_MAX;
    now.failed_mono_ms = now.mono_ms - EW_SCHEDULE_RETRY_MAX_MS;
    check(&none, &m, now, EW_SCHEDULE_LEARN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_of_day_are_read),
        cmocka_unit_test(days_are_counted_over_leap_years),
        cmocka_unit_test(a_slot_is_used_once_a_night),
        cmocka_unit_test(a_slot_that_was_slept_through_is_open_for_some_hours),
        cmocka_unit_test(a_slot_before_midnight_belongs_to_its_day),
        cmocka_unit_test(a_clock_that_is_set_back_does_not_learn_twice),
        cmocka_unit_test(a_memory_from_the_future_is_believed_for_half_a_day),
        cmocka_unit_test(intervals_do_not_look_at_the_wall_clock_while_the_process_lives),
        cmocka_unit_test(nothing_new_no_mains_and_answers_are_reasons_to_wait),
        cmocka_unit_test(what_must_be_learned_waits_for_no_slot_but_for_power_and_quiet),
        cmocka_unit_test(failures_are_tried_again_ever_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

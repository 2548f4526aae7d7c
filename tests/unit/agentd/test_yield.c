/* A worker is stopped while answers are given: seen from the states that the kernel reports, without waiting for any time to pass. */
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#include "agentd/yield.h"

static pid_t child;
static ew_yield y;

static int start_child(void **state)
{
    (void)state;
    ew_yield_init(&y);
    child = fork();
    if (child == 0) {
        for (;;) {
            (void)pause();
        }
    }
    return child > 0 ? 0 : -1;
}

static int end_child(void **state)
{
    (void)state;
    ew_yield_detach(&y);
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    ew_yield_release(&y);
    return 0;
}

static void wait_stopped(void)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, WUNTRACED | WCONTINUED), child);
    assert_true(WIFSTOPPED(status));
}

static void wait_continued(void)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, WUNTRACED | WCONTINUED), child);
    assert_true(WIFCONTINUED(status));
}

static void an_answer_stops_the_worker_and_its_end_lets_it_go_on(void **state)
{
    (void)state;
    uint64_t quiet = 0;
    ew_yield_attach(&y, child);
    assert_false(ew_yield_answering(&y, &quiet));
    assert_int_equal(quiet, 0);
    ew_yield_begin(&y);
    wait_stopped();
    assert_true(ew_yield_answering(&y, &quiet));
    ew_yield_end(&y);
    wait_continued();
    assert_false(ew_yield_answering(&y, &quiet));
    assert_true(quiet > 0);
    assert_int_equal(y.n_stops, 1);
}

static void the_last_of_several_answers_counts(void **state)
{
    (void)state;
    ew_yield_attach(&y, child);
    ew_yield_begin(&y);
    wait_stopped();
    ew_yield_begin(&y);
    ew_yield_end(&y);
    assert_true(y.stopped);
    ew_yield_end(&y);
    wait_continued();
}

static void a_worker_that_comes_while_an_answer_is_given_is_stopped(void **state)
{
    (void)state;
    ew_yield_begin(&y);
    ew_yield_attach(&y, child);
    wait_stopped();
    ew_yield_detach(&y);
    wait_continued();
    ew_yield_end(&y);
}

static void long_answers_leave_slices(void **state)
{
    (void)state;
    y.stop_ms = 0;
    y.slice_ms = 0;
    ew_yield_attach(&y, child);
    ew_yield_begin(&y);
    wait_stopped();
    ew_yield_tick(&y);
    wait_continued();
    ew_yield_tick(&y);
    wait_stopped();
    ew_yield_end(&y);
    wait_continued();
    ew_yield_tick(&y); /* without an answer nothing is stopped */
    assert_false(y.stopped);
}

static void short_answers_leave_none(void **state)
{
    (void)state;
    y.stop_ms = UINT32_MAX;
    ew_yield_attach(&y, child);
    ew_yield_begin(&y);
    wait_stopped();
    ew_yield_tick(&y);
    assert_true(y.stopped);
    ew_yield_end(&y);
    wait_continued();
}

static void a_worker_that_was_told_to_end_is_let_run(void **state)
{
    (void)state;
    y.slice_ms = 0;
    ew_yield_attach(&y, child);
    ew_yield_begin(&y);
    wait_stopped();
    ew_yield_ending(&y);
    wait_continued();
    ew_yield_tick(&y);
    ew_yield_begin(&y);
    assert_false(y.stopped);
    ew_yield_end(&y);
    ew_yield_end(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_answer_stops_the_worker_and_its_end_lets_it_go_on, start_child, end_child),
        cmocka_unit_test_setup_teardown(the_last_of_several_answers_counts, start_child, end_child),
        cmocka_unit_test_setup_teardown(a_worker_that_comes_while_an_answer_is_given_is_stopped, start_child,
                                        end_child),
        cmocka_unit_test_setup_teardown(long_answers_leave_slices, start_child, end_child),
        cmocka_unit_test_setup_teardown(short_answers_leave_none, start_child, end_child),
        cmocka_unit_test_setup_teardown(a_worker_that_was_told_to_end_is_let_run, start_child, end_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

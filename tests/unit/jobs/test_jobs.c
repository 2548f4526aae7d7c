/* The durable queue: order, leases, fences, results exactly once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "jobs/jobs.h"

static ew_db *g_db;

static int setup(void **state)
{
    (void)state;
    assert_int_equal(ew_db_open(":memory:", NULL, &g_db, NULL), EW_OK);
    assert_int_equal(ew_db_migrate(g_db, &ew_jobs_schema, 1, NULL), EW_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ew_db_free(&g_db);
    return 0;
}

static void add(const char *id, const char *target, int priority)
{
    ew_job_new n = {.id = id,
                    .queue = "trial",
                    .target = target,
                    .group = "exp",
                    .payload = {id, strlen(id)},
                    .priority = priority,
                    .max_attempts = 3};
    ew_error err = EW_ERROR_INIT;
    if (ew_jobs_add(g_db, &n, 1000, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
}

static uint64_t claim(const char *target, const char *expected, uint64_t now)
{
    ew_job j = {0};
    bool found = false;
    assert_int_equal(ew_jobs_claim(g_db, "trial", target, now, 100, &j, &found, NULL), EW_OK);
    if (expected == NULL) {
        assert_false(found);
        return 0;
    }
    assert_true(found);
    assert_string_equal(j.id, expected);
    assert_string_equal(j.payload, expected);
    assert_int_equal(j.state, EW_JOB_RUNNING);
    uint64_t fence = j.fence;
    ew_job_release(&j);
    return fence;
}

static size_t count(ew_job_state s)
{
    size_t n[EW_JOB_STATE_COUNT];
    assert_int_equal(ew_jobs_counts(g_db, "trial", "exp", n, NULL), EW_OK);
    return n[s];
}

static void jobs_are_claimed_by_priority_then_order_and_only_by_their_target(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    add("b", "dev-2", 0);
    add("c", "dev-1", 5);
    add("d", NULL, 0);
    ew_job_new again = {.id = "a", .queue = "trial"};
    assert_int_equal(ew_jobs_add(g_db, &again, 1, NULL), EW_EEXIST);
    assert_int_equal(claim("dev-1", "c", 0), 1);
    assert_int_equal(claim("dev-1", "a", 0), 1);
    assert_int_equal(claim("dev-1", "d", 0), 1);
    (void)claim("dev-1", NULL, 0);
    assert_int_equal(claim("dev-2", "b", 0), 1);
    assert_int_equal(count(EW_JOB_RUNNING), 4);
}

static void a_result_counts_once_and_an_old_fence_is_refused(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    uint64_t f1 = claim("dev-1", "a", 0);
    size_t n = 0;
    assert_int_equal(ew_jobs_expire(g_db, "trial", 99, &n, NULL), EW_OK);
    assert_int_equal(n, 0);
    assert_int_equal(ew_jobs_expire(g_db, "trial", 100, &n, NULL), EW_OK);
    assert_int_equal(n, 1);
    uint64_t f2 = claim("dev-1", "a", 200);
    assert_int_equal(f2, f1 + 1);
    ew_error err = EW_ERROR_INIT;
    bool first = false;
    assert_int_equal(ew_jobs_finish(g_db, "a", f1, true, (ew_span){"old", 3}, 210, &first, &err), EW_ECONFLICT);
    assert_non_null(strstr(err.msg, "fence"));
    assert_int_equal(ew_jobs_heartbeat(g_db, "a", f1, 210, 100, NULL, NULL), EW_ECONFLICT);
    assert_int_equal(ew_jobs_finish(g_db, "a", f2, true, (ew_span){"new", 3}, 220, &first, NULL), EW_OK);
    assert_true(first);
    assert_int_equal(ew_jobs_finish(g_db, "a", f2, true, (ew_span){"xxx", 3}, 230, &first, NULL), EW_OK);
    assert_false(first);
    ew_job j = {0};
    assert_int_equal(ew_jobs_get(g_db, "a", &j, NULL), EW_OK);
    assert_string_equal(j.result, "new");
    assert_int_equal(j.finished_ms, 220);
    ew_job_release(&j);
    assert_int_equal(ew_jobs_finish(g_db, "nope", 1, true, (ew_span){"", 0}, 1, NULL, NULL), EW_ENOENT);
}

static void a_late_result_counts_while_no_one_else_has_the_job(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    uint64_t f = claim("dev-1", "a", 0);
    assert_int_equal(ew_jobs_expire(g_db, "trial", 500, NULL, NULL), EW_OK);
    assert_int_equal(count(EW_JOB_QUEUED), 1);
    assert_int_equal(ew_jobs_finish(g_db, "a", f, true, (ew_span){"r", 1}, 510, NULL, NULL), EW_OK);
    assert_int_equal(count(EW_JOB_DONE), 1);
    (void)claim("dev-1", NULL, 520);
}

static void progress_of_a_job_that_nobody_took_changes_nothing(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    assert_int_equal(ew_jobs_heartbeat(g_db, "a", 0, 10, 100, NULL, NULL), EW_ECONFLICT);
    assert_int_equal(count(EW_JOB_QUEUED), 1);
    assert_int_equal(claim("dev-1", "a", 20), 1);
}

static void a_heartbeat_extends_the_lease_and_keeps_progress(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    uint64_t f = claim("dev-1", "a", 0);
    ew_job_progress p = {.done = 3, .total = 10, .phase = "tune"};
    assert_int_equal(ew_jobs_heartbeat(g_db, "a", f, 90, 100, &p, NULL), EW_OK);
    size_t n = 9;
    assert_int_equal(ew_jobs_expire(g_db, "trial", 150, &n, NULL), EW_OK);
    assert_int_equal(n, 0);
    ew_job j = {0};
    assert_int_equal(ew_jobs_get(g_db, "a", &j, NULL), EW_OK);
    assert_int_equal(j.done, 3);
    assert_int_equal(j.total, 10);
    assert_string_equal(j.phase, "tune");
    assert_int_equal(j.lease_until_ms, 190);
    ew_job_release(&j);
}

static void attempts_run_out_and_giving_back_may_not_count(void **state)
{
    (void)state;
    add("a", "dev-1", 0);
    uint64_t f = claim("dev-1", "a", 0);
    assert_int_equal(ew_jobs_give_back(g_db, "a", f, false, 5, NULL), EW_OK);
    assert_int_equal(ew_jobs_give_back(g_db, "a", f, false, 5, NULL), EW_ECONFLICT);
    for (int i = 0; i < 3; i++) {
        (void)claim("dev-1", "a", 0);
        assert_int_equal(ew_jobs_expire(g_db, "trial", 1000, NULL, NULL), EW_OK);
    }
    assert_int_equal(count(EW_JOB_FAILED), 1);
    (void)claim("dev-1", NULL, 0);
}

static ew_status collect(const ew_job *job, void *ctx, ew_error *reterr)
{
    (void)reterr;
    strcat(ctx, job->id);
    return EW_OK;
}

static void cancelled_jobs_take_no_result_and_listing_is_in_order(void **state)
{
    (void)state;
    add("b", "dev-1", 0);
    add("a", "dev-1", 9);
    uint64_t f = claim("dev-1", "a", 0);
    size_t n = 0;
    assert_int_equal(ew_jobs_cancel(g_db, "trial", "exp", 7, &n, NULL), EW_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ew_jobs_finish(g_db, "a", f, true, (ew_span){"", 0}, 8, NULL, NULL), EW_ECONFLICT);
    char ids[8] = "";
    assert_int_equal(ew_jobs_each(g_db, "trial", NULL, collect, ids, NULL), EW_OK);
    assert_string_equal(ids, "ba");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_are_claimed_by_priority_then_order_and_only_by_their_target, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_result_counts_once_and_an_old_fence_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_late_result_counts_while_no_one_else_has_the_job, setup, teardown),
        cmocka_unit_test_setup_teardown(progress_of_a_job_that_nobody_took_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_heartbeat_extends_the_lease_and_keeps_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(attempts_run_out_and_giving_back_may_not_count, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_jobs_take_no_result_and_listing_is_in_order, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

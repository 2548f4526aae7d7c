/* What an agent keeps on disk: trials and results, its own settings. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "test.h"

#include "agentd/home.h"
#include "agentd/spool.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "wire/wire.h"

static ew_home open_home(const char *name)
{
    ew_home h;
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_home_init(ew_test_path(name), &h, &err), &err);
    return h;
}

static void close_home(ew_home *h)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_dir_remove_tree(h->runtime, &err), &err);
}

static ew_trial_spec spec(uint8_t id, uint64_t fence)
{
    ew_trial_spec s = {.method = EW_METHOD_LORA, .fence = fence, .seed = 3, .lease_ms = 1000};
    memset(s.id, id, sizeof(s.id));
    (void)ew_str_copy(s.task, sizeof(s.task), "debian-section");
    (void)ew_str_copy(s.source, sizeof(s.source), "profile");
    (void)ew_str_copy(s.variant, sizeof(s.variant), "q8_0");
    return s;
}

static void finish(const ew_home *h, uint8_t id, uint64_t fence)
{
    ew_error err = EW_ERROR_INIT;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    memset(r->id, id, sizeof(r->id));
    r->fence = fence;
    assert_true(ew_trial_result_add(r, "test.score", "1", 0.5));
    assert_ok(ew_spool_finish(h, r, &err), &err);
    ew_free(r);
}

static void assert_waiting(const ew_home *h, size_t specs, size_t results)
{
    ew_error err = EW_ERROR_INIT;
    size_t s = 9;
    size_t r = 9;
    assert_ok(ew_spool_count(h, &s, &r, &err), &err);
    if (s != specs || r != results) {
        fail_msg("%zu specs and %zu results wait, not %zu and %zu", s, r, specs, results);
    }
}

static char *record(const ew_home *h, uint8_t id, const char *kind, char dst[static EW_HOME_PATH_MAX])
{
    char name[64];
    uint8_t bytes[EW_UID_BYTES];
    char hex[2 * EW_UID_BYTES + 1];
    memset(bytes, id, sizeof(bytes));
    ew_hex_encode(bytes, sizeof(bytes), hex);
    (void)snprintf(name, sizeof(name), "trials/%s.%s", hex, kind);
    return ew_home_path(h, name, dst);
}

static void trials_come_in_order_and_leave_results_until_they_are_acknowledged(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h = open_home("spool");
    ew_trial_spec s = spec(7, 1);
    bool found = true;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    (void)state;
    assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
    assert_false(found);
    for (uint8_t id = 3; id > 0; id--) {
        s = spec(id, 10u + id);
        assert_ok(ew_spool_put(&h, &s, &err), &err);
    }
    assert_waiting(&h, 3, 0);
    for (uint8_t id = 1; id <= 3; id++) {
        assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
        assert_true(found && s.id[0] == id && s.fence == 10u + id && s.method == EW_METHOD_LORA);
        assert_string_equal(s.variant, "q8_0");
        finish(&h, id, s.fence);
    }
    assert_waiting(&h, 0, 3);
    for (size_t left = 3; left > 0; left--) {
        assert_ok(ew_spool_result(&h, r, &found, &err), &err);
        assert_true(found && ew_trial_result_mean(r, "test.score") == 0.5);
        assert_ok(ew_spool_drop_result(&h, r->id, &err), &err);
        assert_waiting(&h, 0, left - 1);
    }
    assert_ok(ew_spool_drop_result(&h, r->id, &err), &err);
    assert_ok(ew_spool_result(&h, r, &found, &err), &err);
    assert_false(found);
    ew_free(r);
    close_home(&h);
}

static void a_trial_assigned_again_takes_the_new_fence(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h = open_home("again");
    ew_trial_spec s = spec(1, 5);
    (void)state;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    s.fence = 6;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    assert_waiting(&h, 1, 0);
    ew_trial_spec got;
    assert_ok(ew_spool_get(&h, s.id, &got, &err), &err);
    assert_true(got.fence == 6);
    ew_trial_spec other = spec(9, 1);
    assert_fails(EW_ENOENT, ew_spool_get(&h, other.id, &got, &err), &err, "");
    close_home(&h);
}

/* The acknowledgement was lost, the lease ran out, the coordinator assigns it once more. */
static void a_finished_trial_assigned_again_is_not_run_twice(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h = open_home("done");
    ew_trial_spec s = spec(1, 5);
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    bool found = true;
    (void)state;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    finish(&h, 1, 5);
    s.fence = 8;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    assert_waiting(&h, 0, 1);
    assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
    assert_false(found);
    assert_ok(ew_spool_result(&h, r, &found, &err), &err);
    assert_true(found && r->fence == 8 && ew_trial_result_mean(r, "test.score") == 0.5);
    ew_free(r);
    close_home(&h);
}

static void a_kill_between_writing_the_result_and_removing_the_spec_repeats_nothing(void **state)
{
    ew_error err = EW_ERROR_INIT;
    char path[EW_HOME_PATH_MAX];
    ew_home h = open_home("killed");
    EW_AUTO_BUF kept = {0};
    ew_trial_spec s = spec(1, 5);
    ew_trial_spec later = spec(2, 5);
    bool found = false;
    (void)state;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    assert_ok(ew_spool_put(&h, &later, &err), &err);
    assert_ok(ew_file_read(record(&h, 1, "spec", path), 1 << 20, &kept, &err), &err);
    finish(&h, 1, 5);
    assert_ok(ew_file_replace(path, kept.data, kept.size, 0600, &err), &err);
    assert_waiting(&h, 2, 1);
    assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
    assert_true(found && s.id[0] == 2);
    assert_waiting(&h, 1, 1);
    close_home(&h);
}

static void damaged_files_are_removed_and_stop_nothing(void **state)
{
    ew_error err = EW_ERROR_INIT;
    char path[EW_HOME_PATH_MAX];
    ew_home h = open_home("damaged");
    ew_trial_spec s = spec(2, 5);
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    bool found = false;
    (void)state;
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    assert_ok(ew_file_replace(record(&h, 1, "spec", path), "\xff\xff garbage", 10, 0600, &err), &err);
    assert_ok(ew_file_replace(record(&h, 3, "spec", path), "", 0, 0600, &err), &err);
    assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
    assert_true(found && s.id[0] == 2);
    finish(&h, 2, 5);
    assert_ok(ew_spool_next(&h, &s, &found, &err), &err);
    assert_false(found);
    assert_waiting(&h, 0, 1);
    assert_ok(ew_file_replace(record(&h, 1, "result", path), "\xff\xff garbage", 10, 0600, &err), &err);
    assert_ok(ew_spool_result(&h, r, &found, &err), &err);
    assert_true(found && r->id[0] == 2);
    assert_waiting(&h, 0, 1);
    /* A damaged result of a trial that is assigned again: it runs again. */
    assert_ok(ew_file_replace(record(&h, 4, "result", path), "x\xff", 2, 0600, &err), &err);
    s = spec(4, 1);
    assert_ok(ew_spool_put(&h, &s, &err), &err);
    assert_waiting(&h, 1, 1);
    ew_free(r);
    close_home(&h);
}

static void the_spool_has_an_end(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h = open_home("full");
    (void)state;
    for (size_t i = 0; i < EW_SPOOL_MAX; i++) {
        ew_trial_spec s = spec(1, 1);
        s.id[1] = (uint8_t)i;
        s.id[2] = (uint8_t)(i >> 8);
        assert_ok(ew_spool_put(&h, &s, &err), &err);
    }
    ew_trial_spec s = spec(9, 1);
    assert_fails(EW_ELIMIT, ew_spool_put(&h, &s, &err), &err, "256 trials");
    s = spec(1, 2);
    s.id[1] = 0;
    s.id[2] = 0;
    assert_ok(ew_spool_put(&h, &s, &err), &err); /* one that is there is renewed */
    close_home(&h);
}

static void settings_come_back_and_are_private(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h = open_home("home");
    ew_home again;
    char path[EW_HOME_PATH_MAX];
    struct stat st;
    (void)state;
    assert_fails(EW_ENOENT, ew_home_open(ew_test_path("nowhere"), &again, &err), &err, "HINT: edgewise-agent enrol");
    assert_fails(EW_ENOENT, ew_home_open(ew_test_path("home"), &again, &err), &err, "not enrolled");
    (void)ew_str_copy(h.device_id, sizeof(h.device_id), "dev-1");
    (void)ew_str_copy(h.trust_domain, sizeof(h.trust_domain), "example");
    h.endpoints.n = 2;
    (void)ew_str_copy(h.endpoints.item[0], sizeof(h.endpoints.item[0]), "tcp://a:1");
    (void)ew_str_copy(h.endpoints.item[1], sizeof(h.endpoints.item[1]), "tcp://b:2");
    memset(h.artifact_key, 0xab, sizeof(h.artifact_key));
    h.consent_offload = true;
    assert_ok(ew_home_save(&h, &err), &err);
    assert_int_equal(stat(ew_home_path(&h, "device.json", path), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(h.runtime, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_ok(ew_home_open(ew_test_path("home"), &again, &err), &err);
    assert_string_equal(again.device_id, "dev-1");
    assert_string_equal(again.endpoints.item[1], "tcp://b:2");
    assert_string_equal(again.runtime, h.runtime);
    assert_memory_equal(again.artifact_key, h.artifact_key, sizeof(h.artifact_key));
    assert_true(again.consent_offload && again.endpoints.n == 2);
    close_home(&h);
}

static void damaged_settings_are_named(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{\"device_id\":3}",
        "{\"device_id\":\"UPPER\",\"trust_domain\":\"d\",\"artifact_key\":\"00\",\"endpoints\":[]}",
        "{\"device_id\":\"a\",\"trust_domain\":\"d\",\"artifact_key\":\"00\",\"endpoints\":[]}",
        "{\"device_id\":\"a\",\"trust_domain\":\"d\",\"endpoints\":[]}",
        "{\"device_id\":\"a\",\"trust_domain\":\"d\",\"artifact_key\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"endpoints\":[3]}",
        "{\"device_id\":\"a\",\"trust_domain\":\"d\",\"artifact_key\":"
        "\"0000000000000000000000000000000000000000000000000000000000000000\",\"endpoints\":{}}",
    };
    ew_home h = open_home("bad");
    char path[EW_HOME_PATH_MAX];
    (void)state;
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        ew_home again;
        assert_ok(ew_file_replace(ew_home_path(&h, "device.json", path), bad[i], strlen(bad[i]), 0600, &err), &err);
        assert_fails(EW_ECORRUPT, ew_home_open(ew_test_path("bad"), &again, &err), &err, "device.json");
    }
    ew_error err = EW_ERROR_INIT;
    char name[700];
    ew_home again;
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_fails(EW_EINVAL, ew_home_init(name, &again, &err), &err, "511");
    assert_fails(EW_EINVAL, ew_home_init("", &again, &err), &err, "name");
    close_home(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trials_come_in_order_and_leave_results_until_they_are_acknowledged),
        cmocka_unit_test(a_trial_assigned_again_takes_the_new_fence),
        cmocka_unit_test(a_finished_trial_assigned_again_is_not_run_twice),
        cmocka_unit_test(a_kill_between_writing_the_result_and_removing_the_spec_repeats_nothing),
        cmocka_unit_test(damaged_files_are_removed_and_stop_nothing),
        cmocka_unit_test(the_spool_has_an_end),
        cmocka_unit_test(settings_come_back_and_are_private),
        cmocka_unit_test(damaged_settings_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

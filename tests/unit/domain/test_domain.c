/* Names, settings, sources, codes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "domain/device.h"
#include "domain/method.h"
#include "domain/msg.h"
#include "domain/trial.h"

static ew_error err;

static void methods_have_names_both_ways(void **state)
{
    (void)state;
    for (int i = 1; i < EW_METHOD_COUNT; i++) {
        assert_int_equal(ew_method_from_name(ew_method_name((ew_method)i)), i);
    }
    assert_int_equal(ew_method_from_name("magic"), EW_METHOD_UNSPECIFIED);
    assert_int_equal(ew_method_from_name(NULL), EW_METHOD_UNSPECIFIED);
    assert_string_equal(ew_method_name((ew_method)77), "unspecified");
    assert_true(ew_method_trains(EW_METHOD_LORA_RAG) && ew_method_retrieves(EW_METHOD_LORA_RAG));
    assert_false(ew_method_trains(EW_METHOD_RAG) || ew_method_retrieves(EW_METHOD_LORA));
}

static void sources_are_the_profile_or_a_benchmark_user(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "profil",
                                      "benchmark:",
                                      "benchmark:a",
                                      "benchmark:a:",
                                      "benchmark::b",
                                      "benchmark:a:b:c",
                                      "benchmark:a/b:c",
                                      "benchmark:a: b"};
    bool profile;
    char digest[72];
    char user[72];
    assert_int_equal(ew_source_parse("benchmark:ab12:u_7.x-y", &profile, digest, user, &err), EW_OK);
    assert_false(profile);
    assert_string_equal(digest, "ab12");
    assert_string_equal(user, "u_7.x-y");
    assert_int_equal(ew_source_parse("profile", &profile, digest, user, &err), EW_OK);
    assert_true(profile);
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_int_equal(ew_source_parse(bad[i], NULL, NULL, NULL, &err), EW_EINVAL);
    }
    char longest[200] = "benchmark:";
    memset(longest + 10, 'a', 80);
    strcpy(longest + 90, ":u");
    assert_int_equal(ew_source_parse(longest, &profile, digest, user, &err), EW_EINVAL);
}

static void settings_are_checked_by_their_table(void **state)
{
    (void)state;
    ew_settings s = {0};
    for (size_t i = 0; i < ew_setting_count; i++) {
        const ew_setting_desc *d = &ew_setting_table[i];
        assert_int_equal(ew_settings_set(&s, d->name, d->max, &err), EW_OK);
        assert_true(ew_settings_get(&s, d->name) == d->max);
        assert_int_equal(ew_settings_set(&s, d->name, d->max * 1.5 + 1, &err), EW_EINVAL);
        assert_int_equal(ew_settings_set(&s, d->name, -1, &err), EW_EINVAL);
        assert_int_equal(ew_settings_set(&s, d->name, (double)NAN, &err), EW_EINVAL);
    }
    for (uint32_t i = 0; i < EW_RAG_RANK_COUNT; i++) {
        uint32_t back = 99;
        assert_true(ew_rag_rank_from_name(ew_rag_rank_name(i), &back) && back == i);
    }
    assert_false(ew_rag_rank_from_name("unknown", &s.rag_rank));
    assert_int_equal(ew_settings_set(&s, "rank", 1.5, &err), EW_EINVAL);
    assert_int_equal(ew_settings_set(&s, "rnak", 1, &err), EW_ENOENT);
}

static void measures_collect_their_repeats(void **state)
{
    (void)state;
    static ew_trial_result r;
    assert_true(ew_trial_result_add(&r, "test.accuracy", "1", 0.5));
    assert_true(ew_trial_result_add(&r, "test.accuracy", "1", 1.0));
    assert_false(ew_trial_result_add(&r, "x", "1", (double)NAN));
    assert_true(ew_trial_result_mean(&r, "test.accuracy") == 0.75);
    assert_true(isnan(ew_trial_result_mean(&r, "absent")));
    char name[16];
    for (int i = 0; r.n_measures < EW_MEASURES_MAX; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        assert_true(ew_trial_result_add(&r, name, "1", i));
    }
    assert_false(ew_trial_result_add(&r, "one too many", "1", 1));
}

static void codes_and_statuses_agree(void **state)
{
    (void)state;
    assert_int_equal(ew_code_to_status(EW_CODE_UNSPECIFIED), EW_EREMOTE); /* never a success */
    assert_int_equal(ew_code_to_status((ew_code)999), EW_EREMOTE);
    assert_int_equal(ew_code_to_status(EW_CODE_OK), EW_OK);
    for (int st = 0; st >= EW_EINTERNAL; st--) {
        assert_int_equal(ew_code_of_status((ew_status)st) == EW_CODE_OK, st == EW_OK);
    }
    assert_true(ew_device_id_valid("dev-1"));
    assert_false(ew_device_id_valid("Dev") || ew_device_id_valid("") || ew_device_id_valid("a/b") ||
                 ew_device_id_valid(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(methods_have_names_both_ways),
        cmocka_unit_test(sources_are_the_profile_or_a_benchmark_user),
        cmocka_unit_test(settings_are_checked_by_their_table),
        cmocka_unit_test(measures_collect_their_repeats),
        cmocka_unit_test(codes_and_statuses_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What is served, by task, and the way back. */
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "agentd/served.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"

static ew_home home_of(const char *name)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h;
    assert_ok(ew_home_init(ew_test_path(name), &h, &err), &err);
    return h;
}

static ew_served served(const char *task, uint64_t adapter)
{
    ew_served s = {.adapter = adapter,
                   .rag_k = adapter % 2 != 0 ? 2 : 0,
                   .rag_rank = adapter % 2 != 0 ? EW_RAG_RANK_FUSED : EW_RAG_RANK_BM25};
    memset(s.model, 'a', sizeof(s.model) - 1);
    (void)ew_str_copy(s.name, sizeof(s.name), "tiny");
    (void)ew_str_copy(s.variant, sizeof(s.variant), "q8_0");
    (void)ew_str_copy(s.task, sizeof(s.task), task);
    (void)ew_str_copy(s.method, sizeof(s.method), adapter != 0 ? "lora" : "none");
    return s;
}

static void put(const ew_home *h, const char *task, uint64_t adapter)
{
    ew_error err = EW_ERROR_INIT;
    const ew_served s = served(task, adapter);
    assert_ok(ew_served_put(h, &s, &err), &err);
}

static void check_now(const ew_home *h, const char *task, uint64_t adapter)
{
    ew_error err = EW_ERROR_INIT;
    ew_served s;
    assert_ok(ew_served_get(h, task, &s, &err), &err);
    assert_int_equal(s.adapter, adapter);
    assert_string_equal(s.method, adapter != 0 ? "lora" : "none");
    assert_int_equal(s.rag_rank, adapter % 2 != 0 ? EW_RAG_RANK_FUSED : EW_RAG_RANK_BM25);
}

static bool not_even(const ew_served *s, void *ctx)
{
    (void)ctx;
    return s->adapter % 2 != 0;
}

static bool any(const ew_served *s, void *ctx)
{
    (void)s;
    (void)ctx;
    return true;
}

static void every_task_has_its_own_and_the_last_one_is_the_default(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_served s;
    const ew_home h = home_of("tasks");
    assert_fails(EW_ENOENT, ew_served_get(&h, NULL, &s, &err), &err, "nothing was chosen");
    assert_fails(EW_ENOENT, ew_served_get(&h, "a", &s, &err), &err, "learn --task a");
    put(&h, "a", 1);
    put(&h, "b", 2);
    check_now(&h, NULL, 2);
    check_now(&h, "a", 1);
    check_now(&h, "b", 2);
    assert_fails(EW_ENOENT, ew_served_get(&h, "c", &s, &err), &err, "task c");
}

static void the_way_back_leads_over_what_can_be_used_to_the_plain_model(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_served s;
    const ew_home h = home_of("back");
    for (uint64_t i = 1; i <= 5; i++) {
        put(&h, "a", i);
    }
    put(&h, "a", 5); /* the same again is no step */
    assert_ok(ew_served_back(&h, NULL, not_even, NULL, &s, &err), &err);
    assert_int_equal(s.adapter, 3);
    check_now(&h, "a", 3);
    check_now(&h, NULL, 3);
    assert_ok(ew_served_back(&h, "a", not_even, NULL, &s, &err), &err);
    check_now(&h, "a", 1);
    assert_ok(ew_served_back(&h, "a", not_even, NULL, &s, &err), &err);
    check_now(&h, "a", 0);
    assert_fails(EW_ENOENT, ew_served_back(&h, "a", not_even, NULL, &s, &err), &err, "nothing to go back to");
    check_now(&h, "a", 0);
}

static void only_the_last_few_are_kept(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    uint64_t ids[EW_SERVED_BEFORE + 1];
    size_t n = 0;
    ew_served s;
    const ew_home h = home_of("few");
    for (uint64_t i = 1; i <= 9; i++) {
        put(&h, "a", i);
    }
    put(&h, "b", 77);
    assert_ok(ew_served_adapters(&h, "a", ids, &n, &err), &err);
    assert_int_equal(n, 5);
    assert_int_equal(ids[0], 9);
    assert_int_equal(ids[1], 5);
    assert_int_equal(ids[4], 8);
    for (uint64_t i = 8; i >= 5; i--) {
        assert_ok(ew_served_back(&h, "a", any, NULL, &s, &err), &err);
        assert_int_equal(s.adapter, i);
    }
}

static void a_file_of_an_older_version_is_understood(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_served s;
    char path[EW_HOME_PATH_MAX];
    const ew_home h = home_of("old");
    static const char old[] =
        "{\"model\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\","
        "\"name\":\"n\",\"variant\":\"q8_0\",\"task\":\"custom\",\"method\":\"lora\",\"rag_k\":0}";
    assert_ok(ew_file_replace(ew_home_path(&h, "active.json", path), old, strlen(old), 0600, &err), &err);
    assert_ok(ew_served_get(&h, NULL, &s, &err), &err);
    assert_true(s.adapter == EW_SERVED_UNSAID);
    assert_ok(ew_served_get(&h, "custom", &s, &err), &err);
    put(&h, "custom", 4);
    assert_ok(ew_served_back(&h, "custom", any, NULL, &s, &err), &err);
    assert_true(s.adapter == EW_SERVED_UNSAID);
}

static void a_damaged_file_says_so_and_is_replaced(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_served s;
    char path[EW_HOME_PATH_MAX];
    const ew_home h = home_of("bad");
    static const char *const bad[] = {"[]", "{\"model\":\"zz\",\"task\":\"a\"}", "{\"model\":7}"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_ok(ew_file_replace(ew_home_path(&h, "active.json", path), bad[i], strlen(bad[i]), 0600, &err), &err);
        assert_fails(EW_ECORRUPT, ew_served_get(&h, NULL, &s, &err), &err, "learn");
    }
    put(&h, "a", 1);
    check_now(&h, NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_has_its_own_and_the_last_one_is_the_default),
        cmocka_unit_test(the_way_back_leads_over_what_can_be_used_to_the_plain_model),
        cmocka_unit_test(only_the_last_few_are_kept),
        cmocka_unit_test(a_file_of_an_older_version_is_understood),
        cmocka_unit_test(a_damaged_file_says_so_and_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

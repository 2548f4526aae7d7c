#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "task/debian.h"
#include "test.h"

#define FIXTURE EW_TEST_SOURCE_DIR "/tests/fixtures/debian/x_dists_fixture_"

static ew_debian_build_opt options(const char *dir)
{
    return (ew_debian_build_opt){.packages = FIXTURE "main_binary-amd64_Packages",
                                 .translation = FIXTURE "main_i18n_Translation-en",
                                 .release = FIXTURE "InRelease",
                                 .out_dir = dir};
}

static void build_joins_counts_and_removes_near_duplicates(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info, again, read;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_string_equal(info.codename, "fixture");
    assert_string_equal(info.arch, "amd64");
    assert_int_equal(info.n_packages, 584);
    assert_int_equal(info.n_near_duplicates, 6);
    assert_int_equal(info.n_items, info.n_sources - 6);
    assert_int_equal(info.n_dev + info.n_test, 8);
    assert_int_equal(info.n_users, 26);
    assert_int_equal(info.n_items, info.n_eval_items + info.n_pool_items);
    assert_ok(ew_debian_build(&opt, &again, &err), &err);
    assert_string_equal(info.digest, again.digest);
    assert_ok(ew_debian_read_info(dir, &read, &err), &err);
    assert_memory_equal(&read, &info, sizeof(info));
    assert_true(ew_debian_release_matches(FIXTURE "InRelease", "fixture"));
    assert_false(ew_debian_release_matches(FIXTURE "InRelease", "fixture-updates"));
}

static void open_reads_back_and_notices_a_changed_byte(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    EW_AUTO(ew_debian) d = NULL;
    assert_fails(EW_ENOENT, ew_debian_open(dir, &d, &err), &err, "HINT: edgewise data debian");
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    assert_int_equal(ew_debian_n_records(d), info.n_items);
    assert_int_equal(ew_debian_n_texts(d), info.n_pool_items + info.n_extra);
    for (size_t i = 0; i < ew_debian_n_records(d); i++) {
        const ew_debian_record *r = ew_debian_record_at(d, i);
        assert_null(strstr(r->description, "  "));
        assert_null(strchr(r->description, '\n'));
        assert_true(r->synopsis[0] != '\0' && r->size_kib > 0 && ew_str_starts(r->depends, "libc6,"));
    }
    ew_debian_free(&d);

    char path[EW_PATH_MAX];
    EW_AUTO_BUF text = {0};
    assert_ok(ew_path_join(path, sizeof(path), dir, "items.jsonl", &err), &err);
    assert_ok(ew_file_read(path, 1u << 24, &text, &err), &err);
    char *at = strstr(text.data, "crate");
    at = at != NULL ? at : strstr(text.data, "tool");
    assert_non_null(at);
    at[0] = 'X';
    assert_ok(ew_file_replace(path, text.data, text.size, 0644, &err), &err);
    assert_fails(EW_ECORRUPT, ew_debian_open(dir, &d, &err), &err, "--rebuild");
}

static void heldout_list_wins_over_the_thresholds(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    EW_AUTO(ew_debian) d = NULL;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    const ew_debian_user *big = NULL, *small = NULL;
    for (size_t i = 0; i < ew_debian_n_users(d); i++) {
        const ew_debian_user *u = ew_debian_user_at(d, i);
        big = u->role == EW_DEBIAN_DEV ? u : big;
        small = u->role == EW_DEBIAN_POOL ? u : small;
    }
    assert_true(big != NULL && small != NULL);
    char path[EW_PATH_MAX], list[256], big_hash[17], small_hash[17];
    memcpy(big_hash, big->hash, 17);
    memcpy(small_hash, small->hash, 17);
    snprintf(list, sizeof(list), "# who\n%s test\n\n%s dev\n", big_hash, small_hash);
    assert_ok(ew_path_join(path, sizeof(path), dir, "list.txt", &err), &err);
    assert_ok(ew_file_replace(path, list, strlen(list), 0644, &err), &err);
    opt.heldout = path;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_int_equal(info.n_dev, 0);
    assert_int_equal(info.n_test, 1);
    ew_debian_free(&d);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    assert_int_equal(ew_debian_user_find(d, big_hash)->role, EW_DEBIAN_TEST);
    assert_int_equal(ew_debian_user_find(d, small_hash)->role, EW_DEBIAN_NONE);
    assert_null(ew_debian_user_find(d, "nobody"));

    assert_ok(ew_file_replace(path, "zz dev\n", 7, 0644, &err), &err);
    assert_fails(EW_ECORRUPT, ew_debian_build(&opt, &info, &err), &err, "list.txt:1");
}

/* Every text that training may see belongs to the pool, and retrieval looks back within one user. */
static void training_never_sees_a_held_out_user(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    EW_AUTO(ew_debian) d = NULL;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    EW_AUTO_BUF all = {0};
    for (size_t i = 0; i < ew_debian_n_texts(d); i++) {
        assert_ok(ew_debian_text(d, i, &all, &err), &err);
        ew_buf_addc(&all, '\n');
    }
    const ew_task *t = ew_task_find("debian-synopsis");
    const uint32_t *record;
    size_t n, with_items = 0;
    assert_ok(ew_debian_pool(d, t, &record, &n, &err), &err);
    assert_int_equal(n, info.n_pool_items);
    for (size_t i = 0; i < n; i++) {
        EW_AUTO_BUF prompt = {0};
        EW_AUTO_BUF answer = {0};
        assert_ok(ew_debian_example(d, t, record[i], 4, NULL, &prompt, &answer, &err), &err);
        assert_string_equal(answer.data + 1, ew_debian_record_at(d, record[i])->synopsis);
        with_items += strstr(prompt.data, "\n\n") != NULL;
        ew_buf_add(&all, prompt.data, prompt.size);
    }
    assert_true(with_items > n / 2);
    for (size_t i = 0; i < ew_debian_n_records(d); i++) {
        const ew_debian_record *r = ew_debian_record_at(d, i);
        ew_debian_role role = ew_debian_user_at(d, r->user)->role;
        EW_AUTO_BUF out = {0};
        if (role != EW_DEBIAN_POOL) {
            assert_null(strstr(all.data, r->description));
        }
        if (role == EW_DEBIAN_TEST) {
            assert_fails(EW_EDENIED, ew_debian_example(d, t, (uint32_t)i, 0, NULL, &out, &out, &err), &err, "held-out");
            assert_fails(EW_EDENIED, ew_debian_dev_text(d, (uint32_t)i, &out, &err), &err, "test user");
        } else if (role == EW_DEBIAN_DEV) {
            assert_ok(ew_debian_dev_text(d, (uint32_t)i, &out, &err), &err);
        }
    }
}

static void items_of_a_user_are_in_the_order_of_the_split(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    EW_AUTO(ew_debian) d = NULL;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    const char *tasks[] = {"debian-section", "debian-synopsis"};
    size_t total[2] = {0, 0};
    for (size_t k = 0; k < 4; k++) {
        const ew_task *t = ew_task_find(tasks[k % 2]);
        const ew_debian_user **users;
        size_t n;
        assert_ok(ew_debian_users(d, t, k < 2 ? EW_DEBIAN_DEV : EW_DEBIAN_TEST, &users, &n, &err), &err);
        total[k % 2] += n;
        for (size_t u = 0; u < n; u++) {
            EW_AUTO_ITEMS items = {0};
            assert_ok(ew_debian_items(d, t, users[u], &items, &err), &err);
            char first[64];
            ew_str_copy(first, sizeof(first), items.item[0].id);
            ew_split_user(items.item, items.n, EW_SPLIT_HASH);
            assert_string_equal(items.item[0].id, first);
            for (size_t i = 0; i < items.n && t->labels != NULL; i++) {
                assert_true(ew_task_label(t, items.item[i].output) >= 0);
            }
        }
        ew_free((void *)users);
    }
    assert_int_equal(total[0], info.n_section_users);
    assert_int_equal(total[1], 8);
}

/* Is name (of size bytes) in the comma-separated list? */
static bool listed(const char *list, const char *name, size_t size)
{
    for (const char *p = list; *p != '\0';) {
        size_t n = strcspn(p, ",");
        if (n == size && memcmp(p, name, n) == 0) {
            return true;
        }
        p += n + (p[n] == ',');
    }
    return false;
}

static void of_the_two_packages_one_is_a_dependency(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    EW_AUTO(ew_debian) d = NULL;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    const ew_task *t = ew_task_find("debian-depends");
    size_t n_items = 0, of[3] = {0};
    for (size_t u = 0; u < ew_debian_n_users(d); u++) {
        const ew_debian_user *user = ew_debian_user_at(d, u);
        EW_AUTO_ITEMS items = {0};
        assert_ok(ew_debian_items(d, t, user, &items, &err), &err);
        for (size_t i = 0; i < items.n; i++) {
            const ew_debian_record *r = NULL;
            for (size_t k = user->first; k < user->first + user->n; k++) {
                r = strcmp(ew_debian_record_at(d, k)->id, items.item[i].id) == 0 ? ew_debian_record_at(d, k) : r;
            }
            assert_non_null(r);
            const char *a = items.item[i].input + 4, *b = strstr(a, " [2] ") + 5;
            const bool first = listed(r->depends, a, strcspn(a, " ")), second = listed(r->depends, b, strcspn(b, ":"));
            assert_true(first != second);
            assert_string_equal(items.item[i].output, first ? "1" : "2");
            assert_string_equal(strchr(b, ':') + 2, r->description);
            of[first ? 1 : 2]++;
            n_items++;
        }
    }
    assert_true(n_items > 0 && of[1] > 0 && of[2] > 0);
}

static void sizes_are_quintiles_of_the_pool(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    EW_AUTO(ew_debian) d = NULL;
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &d, &err), &err);
    const ew_task *t = ew_task_find("debian-size");
    assert_int_equal(t->kind, EW_TASK_ORDINAL);
    size_t of[6] = {0}, n_pool = 0;
    for (size_t u = 0; u < ew_debian_n_users(d); u++) {
        const ew_debian_user *user = ew_debian_user_at(d, u);
        EW_AUTO_ITEMS items = {0};
        assert_ok(ew_debian_items(d, t, user, &items, &err), &err);
        assert_int_equal(items.n, user->n);
        for (size_t i = 0; user->role == EW_DEBIAN_POOL && i < items.n; i++, n_pool++) {
            of[items.item[i].output[0] - '0']++;
        }
    }
    for (size_t k = 1; k < EW_COUNT(of); k++) { /* equal sizes may shift a border */
        assert_true(of[k] * 5 > n_pool / 2 && of[k] * 5 < n_pool * 2);
    }
}

static void build_refuses_what_is_no_index(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path(__func__);
    ew_debian_build_opt opt = options(dir);
    ew_debian_info info;
    opt.packages = FIXTURE "InRelease";
    assert_fails(EW_ECORRUPT, ew_debian_build(&opt, &info, &err), &err, "InRelease");
    opt = options(dir);
    opt.release = FIXTURE "main_binary-amd64_Packages";
    assert_fails(EW_ECORRUPT, ew_debian_build(&opt, &info, &err), &err, "not a Release file");
    opt = options(dir);
    opt.translation = FIXTURE "main_binary-amd64_Packages";
    assert_fails(EW_ECORRUPT, ew_debian_build(&opt, &info, &err), &err, "belong together");
    opt.packages = "/nowhere/Packages";
    assert_fails(EW_ENOENT, ew_debian_build(&opt, &info, &err), &err, "/nowhere/Packages");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(build_joins_counts_and_removes_near_duplicates),
        cmocka_unit_test(open_reads_back_and_notices_a_changed_byte),
        cmocka_unit_test(heldout_list_wins_over_the_thresholds),
        cmocka_unit_test(training_never_sees_a_held_out_user),
        cmocka_unit_test(items_of_a_user_are_in_the_order_of_the_split),
        cmocka_unit_test(of_the_two_packages_one_is_a_dependency),
        cmocka_unit_test(sizes_are_quintiles_of_the_pool),
        cmocka_unit_test(build_refuses_what_is_no_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

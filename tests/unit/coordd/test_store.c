/* The coordinator's state: tokens used once, devices, replies kept for retries, a full disk; and `init`, all or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/str.h"
#include "coordd/coord.h"
#include "coordd/store.h"
#include "signer/signer.h"
#include "sys/file.h"

static char g_dir[64];
static ew_store *g_store;

static int setup(void **state)
{
    (void)state;
    (void)snprintf(g_dir, sizeof g_dir, "/tmp/ew-coordd-XXXXXX");
    assert_non_null(mkdtemp(g_dir));
    char path[96];
    (void)snprintf(path, sizeof path, "%s/c.db", g_dir);
    assert_int_equal(ew_store_open(path, 0, &g_store, NULL), EW_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ew_store_free(&g_store);
    return ew_dir_remove_tree(g_dir, NULL) == EW_OK ? 0 : 1;
}

static void add_token(const char *id)
{
    ew_token_row t = {.created_ms = 1, .expires_ms = 1000};
    (void)ew_str_copy(t.id, sizeof t.id, id);
    memset(t.secret, 5, sizeof t.secret);
    assert_int_equal(ew_store_token_add(g_store, &t, NULL), EW_OK);
}

static ew_status enrol(const char *token, const char *device, uint8_t key)
{
    uint8_t csr[32] = {key};
    ew_device_row d = {.created_ms = 10, .not_after_ms = 500};
    (void)ew_str_copy(d.id, sizeof d.id, device);
    d.key_sha256[0] = key;
    ew_buf_adds(&d.cert_der, "certificate");
    ew_status st = ew_store_enrol(g_store, token, csr, &d, NULL);
    ew_device_row_release(&d);
    return st;
}

static void a_token_makes_one_device_and_no_second(void **state)
{
    (void)state;
    add_token("t1");
    add_token("t2");
    assert_int_equal(enrol("t1", "dev-1", 1), EW_OK);
    assert_int_equal(enrol("t1", "dev-2", 2), EW_ECONFLICT);
    assert_int_equal(enrol("t2", "dev-1", 3), EW_EEXIST); /* the id is taken: the token is not used up either */
    ew_token_row t;
    assert_int_equal(ew_store_token_get(g_store, "t2", &t, NULL), EW_OK);
    assert_int_equal(t.used_ms, 0);
    assert_int_equal(ew_store_token_get(g_store, "t1", &t, NULL), EW_OK);
    assert_string_equal(t.device_id, "dev-1");
    assert_int_equal(t.csr_sha256[0], 1);
    ew_device_row d = {0};
    assert_int_equal(ew_store_device_get(g_store, "dev-2", &d, NULL), EW_ENOENT);
    assert_int_equal(ew_store_device_get(g_store, "dev-1", &d, NULL), EW_OK);
    assert_string_equal(ew_buf_str(&d.cert_der), "certificate");
    assert_false(d.revoked);
    ew_device_row_release(&d);
}

static void wrong_proofs_are_counted(void **state)
{
    (void)state;
    add_token("t1");
    for (uint32_t i = 1; i <= 3; i++) {
        uint32_t n = 0;
        assert_int_equal(ew_store_token_wrong(g_store, "t1", &n, NULL), EW_OK);
        assert_int_equal(n, i);
    }
}

static void a_revoked_device_cannot_renew(void **state)
{
    (void)state;
    add_token("t1");
    assert_int_equal(enrol("t1", "dev-1", 1), EW_OK);
    uint8_t key[32] = {9};
    assert_int_equal(ew_store_device_renewed(g_store, "dev-1", key, (ew_span){"c2", 2}, 900, NULL), EW_OK);
    /* The answer may be lost: a renewal with a third key leaves the second one known. */
    uint8_t third[32];
    memset(third, 3, sizeof third);
    assert_int_equal(ew_store_device_renewed(g_store, "dev-1", third, (ew_span){"c3", 2}, 950, NULL), EW_OK);
    ew_device_row before = {0};
    assert_int_equal(ew_store_device_by_key(g_store, key, &before, NULL), EW_OK);
    assert_string_equal(before.id, "dev-1");
    ew_device_row_release(&before);
    assert_int_equal(ew_store_device_renewed(g_store, "dev-1", key, (ew_span){"c2", 2}, 900, NULL), EW_OK);
    ew_device_row d = {0};
    assert_int_equal(ew_store_device_by_key(g_store, key, &d, NULL), EW_OK);
    assert_int_equal(d.not_after_ms, 900);
    ew_device_row_release(&d);
    assert_int_equal(ew_store_device_revoke(g_store, "dev-1", 77, NULL), EW_OK);
    assert_int_equal(ew_store_device_revoke(g_store, "dev-1", 88, NULL), EW_OK);
    assert_int_equal(ew_store_device_revoke(g_store, "nobody", 88, NULL), EW_ENOENT);
    assert_int_equal(ew_store_device_get(g_store, "dev-1", &d, NULL), EW_OK);
    assert_int_equal(d.revoked_ms, 77);
    ew_device_row_release(&d);
    assert_int_equal(ew_store_device_renewed(g_store, "dev-1", key, (ew_span){"c3", 2}, 900, NULL), EW_ENOENT);
}

static void a_reply_is_kept_for_its_peer_and_key_and_grows_old(void **state)
{
    (void)state;
    uint8_t key[16] = {1};
    EW_AUTO_BUF out = {0};
    bool found = true;
    assert_int_equal(ew_store_idem_get(g_store, "operator:a", key, &out, &found, NULL), EW_OK);
    assert_false(found);
    assert_int_equal(ew_store_idem_put(g_store, "operator:a", key, (ew_span){"yes", 3}, 1000, NULL), EW_OK);
    assert_int_equal(ew_store_idem_get(g_store, "operator:a", key, &out, &found, NULL), EW_OK);
    assert_true(found);
    assert_string_equal(ew_buf_str(&out), "yes");
    assert_int_equal(ew_store_idem_get(g_store, "operator:b", key, &out, &found, NULL), EW_OK);
    assert_false(found);
    uint8_t later[16] = {2};
    assert_int_equal(
        ew_store_idem_put(g_store, "operator:a", later, (ew_span){"x", 1}, 1001 + 24ull * 3600 * 1000, NULL), EW_OK);
    assert_int_equal(ew_store_idem_get(g_store, "operator:a", key, &out, &found, NULL), EW_OK);
    assert_false(found);
}

static void a_full_disk_is_a_clear_error_and_loses_nothing(void **state)
{
    (void)state;
    ew_store_free(&g_store);
    char path[96];
    (void)snprintf(path, sizeof path, "%s/small.db", g_dir);
    assert_int_equal(ew_store_open(path, 300 * 1024, &g_store, NULL), EW_OK);
    add_token("t1");
    ew_error err = EW_ERROR_INIT;
    ew_status st = EW_OK;
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 500 && st == EW_OK; i++) {
        st = ew_store_audit(g_store, 1, "w", "e", text, &err);
    }
    assert_int_equal(st, EW_ENOSPC);
    assert_non_null(strstr(err.msg, "no space"));
    ew_store_free(&g_store);
    assert_int_equal(ew_store_open(path, 0, &g_store, NULL), EW_OK);
    ew_token_row t;
    assert_int_equal(ew_store_token_get(g_store, "t1", &t, NULL), EW_OK);
    assert_int_equal(enrol("t1", "dev-1", 1), EW_OK);
}

static void init_makes_everything_or_nothing(void **state)
{
    (void)state;
    char dir[96], path[160];
    (void)snprintf(dir, sizeof dir, "%s/co", g_dir);
    ew_coord_init_opt opt = {.dir = dir, .domain = "test.local", .coordinator_id = "c1", .operator_name = "admin"};
    ew_error err = EW_ERROR_INIT;
    opt.operator_name = "Not A Name";
    assert_int_not_equal(ew_coord_init(&opt, &err), EW_OK);
    assert_false(ew_file_exists(dir));
    ew_dir_list list = {0};
    assert_int_equal(ew_dir_read(g_dir, &list, NULL), EW_OK);
    for (size_t i = 0; i < list.n; i++) {
        assert_null(strstr(list.entry[i].name, "co.init")); /* nothing half-made is left */
    }
    ew_dir_list_release(&list);
    opt.operator_name = "admin";
    if (ew_coord_init(&opt, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    static const struct {
        const char *name;
        unsigned mode;
    } files[] = {{"signer/ca.key", 0600},  {"signer/artifact.key", 0600},
                 {"tls/server.key", 0600}, {"operator/identity.pem", 0600},
                 {"coordinator.db", 0600}, {"tls/ca.pem", 0644},
                 {"signer", 0711},         {"artifacts", 0700}};
    for (size_t i = 0; i < EW_COUNT(files); i++) {
        struct stat sb;
        (void)snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
        if (stat(path, &sb) != 0) {
            fail_msg("%s is missing", path);
        }
        assert_int_equal(sb.st_mode & 0777, files[i].mode);
    }
    assert_int_equal(ew_coord_init(&opt, &err), EW_EEXIST);
    assert_non_null(strstr(err.msg, "nothing was changed"));
    ew_signer *s = NULL;
    (void)snprintf(path, sizeof path, "%s/signer", dir);
    assert_int_equal(ew_signer_open(path, &s, NULL), EW_OK);
    assert_string_equal(ew_signer_domain(s), "test.local");
    ew_signer_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_token_makes_one_device_and_no_second, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_proofs_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(a_revoked_device_cannot_renew, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reply_is_kept_for_its_peer_and_key_and_grows_old, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_is_a_clear_error_and_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(init_makes_everything_or_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

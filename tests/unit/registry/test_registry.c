/* Uploads that break off and go on, bytes that are not what was promised, and the catalogue. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "registry/registry.h"
#include "sys/file.h"
#include "wire/wire.h"

static char g_dir[64];
static ew_db *g_db;
static ew_buf g_file; /* a small model */
static ew_upload g_upload;
static int g_signed;

static int setup(void **state)
{
    (void)state;
    (void)snprintf(g_dir, sizeof g_dir, "/tmp/ew-registry-XXXXXX");
    assert_non_null(mkdtemp(g_dir));
    assert_int_equal(ew_db_open(":memory:", NULL, &g_db, NULL), EW_OK);
    assert_int_equal(ew_db_migrate(g_db, &ew_registry_schema, 1, NULL), EW_OK);
    ew_buf_clear(&g_file);
    ew_error err = EW_ERROR_INIT;
    if (ew_file_read(EW_TEST_SOURCE_DIR "/tests/golden/model/llama64-q4_0.gguf", 64u << 20, &g_file, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    g_upload = (ew_upload){.name = "tiny", .version = "1", .variant = "q4_0", .size = g_file.size, .score = NAN};
    ew_sha256(g_file.data, g_file.size, g_upload.sha256);
    g_signed = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ew_db_free(&g_db);
    ew_buf_release(&g_file);
    return ew_dir_remove_tree(g_dir, NULL) == EW_OK ? 0 : 1;
}

static ew_status sign(void *ctx, ew_span packed, ew_signature *ret, ew_error *reterr)
{
    (void)ctx;
    (void)reterr;
    assert_true(packed.size > 0);
    memset(ret, 7, sizeof *ret);
    (void)ew_str_copy(ret->key_id, sizeof ret->key_id, "k");
    g_signed++;
    return EW_OK;
}

static uint64_t begin(void)
{
    uint64_t offset = 99;
    ew_error err = EW_ERROR_INIT;
    if (ew_registry_upload_begin(g_dir, &g_upload, &offset, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    return offset;
}

static void chunk(size_t from, size_t to, uint64_t expected)
{
    uint64_t have = 0;
    ew_error err = EW_ERROR_INIT;
    if (ew_registry_upload_chunk(g_dir, g_upload.sha256, from, (ew_span){g_file.data + from, to - from}, &have, &err) !=
        EW_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(have, expected);
}

static void commit(void)
{
    ew_prepared p = {0};
    ew_error err = EW_ERROR_INIT;
    if (ew_registry_prepare(g_dir, &g_upload, sign, NULL, &p, &err) != EW_OK ||
        ew_registry_commit(g_db, g_dir, &p, 5, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    ew_prepared_release(&p);
}

static void an_upload_goes_on_where_it_broke_off(void **state)
{
    (void)state;
    assert_int_equal(begin(), 0);
    chunk(0, 1000, 1000);
    chunk(500, 1500, 1500); /* a repeated piece is not written twice */
    chunk(0, 100, 1500);
    uint64_t have = 0;
    assert_int_equal(ew_registry_upload_chunk(g_dir, g_upload.sha256, 3000, (ew_span){"x", 1}, &have, NULL),
                     EW_ECONFLICT);
    assert_int_equal(begin(), 1500);
    chunk(1500, g_file.size, g_file.size);
    commit();
    assert_int_equal(begin(), g_file.size); /* there already */
    commit();                               /* and again is harmless */
    assert_int_equal(g_signed, 2);
    char path[4096];
    EW_AUTO_BUF stored = {0};
    assert_int_equal(ew_registry_path(g_db, g_dir, g_upload.sha256, path, NULL), EW_OK);
    assert_int_equal(ew_file_read(path, 64u << 20, &stored, NULL), EW_OK);
    assert_int_equal(stored.size, g_file.size);
    assert_memory_equal(stored.data, g_file.data, g_file.size);
}

static void the_manifest_describes_the_file_and_is_found_by_hash_and_by_name(void **state)
{
    (void)state;
    (void)begin();
    chunk(0, g_file.size, g_file.size);
    commit();
    EW_AUTO_BUF by_hash = {0};
    EW_AUTO_BUF by_name = {0};
    ew_signature sig;
    assert_int_equal(ew_registry_manifest(g_db, g_upload.sha256, "", "", "", &by_hash, &sig, NULL), EW_OK);
    assert_int_equal(ew_registry_manifest(g_db, NULL, "tiny", "", "q4_0", &by_name, &sig, NULL), EW_OK);
    assert_int_equal(by_hash.size, by_name.size);
    assert_memory_equal(by_hash.data, by_name.data, by_name.size);
    assert_int_equal(sig.bytes[0], 7);
    ew_manifest *m = NULL;
    assert_int_equal(ew_wire_unpack_manifest((ew_span){by_hash.data, by_hash.size}, &m, NULL), EW_OK);
    assert_int_equal(m->size, g_file.size);
    assert_memory_equal(m->sha256, g_upload.sha256, 32);
    assert_string_equal(m->variant, "q4_0");
    ew_manifest_free(&m);
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_registry_manifest(g_db, NULL, "tiny", "", "f16", &by_name, &sig, &err), EW_ENOENT);
    uint8_t sha[32];
    assert_int_equal(ew_registry_find(g_db, "tiny", "q4_0", sha, NULL), EW_OK);
    assert_memory_equal(sha, g_upload.sha256, 32);
    assert_int_equal(ew_registry_find(g_db, "tiny", "f16", sha, &err), EW_ENOENT);
    assert_non_null(strstr(err.msg, "tiny/q4_0"));
    ew_catalog cat = {0};
    assert_int_equal(ew_registry_catalog(g_db, &cat, NULL), EW_OK);
    assert_int_equal(cat.n, 1);
    assert_string_equal(cat.entry[0].arch, "llama");
    assert_true(cat.entry[0].n_params > 1000 && isnan(cat.entry[0].score));
    ew_catalog_release(&cat);
}

static void bytes_that_are_not_what_was_promised_are_thrown_away(void **state)
{
    (void)state;
    (void)begin();
    g_file.data[g_file.size / 2] = (char)(g_file.data[g_file.size / 2] ^ 1);
    chunk(0, g_file.size, g_file.size);
    ew_prepared p = {0};
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_registry_prepare(g_dir, &g_upload, sign, NULL, &p, &err), EW_ECORRUPT);
    assert_non_null(strstr(err.msg, "HINT"));
    assert_int_equal(g_signed, 0);
    assert_int_equal(begin(), 0);
}

static void what_is_no_model_is_not_published(void **state)
{
    (void)state;
    static const char text[] = "this is not a model";
    g_upload.size = sizeof text;
    ew_sha256(text, sizeof text, g_upload.sha256);
    (void)begin();
    uint64_t have = 0;
    assert_int_equal(ew_registry_upload_chunk(g_dir, g_upload.sha256, 0, (ew_span){text, sizeof text}, &have, NULL),
                     EW_OK);
    ew_prepared p = {0};
    assert_int_not_equal(ew_registry_prepare(g_dir, &g_upload, sign, NULL, &p, NULL), EW_OK);
    assert_int_equal(g_signed, 0);
}

static void names_that_could_leave_the_directory_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "../x", "a/b", "a b", ".hidden"};
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_upload u = g_upload;
        (void)ew_str_copy(u.name, sizeof u.name, bad[i]);
        assert_int_equal(ew_upload_check(&u, NULL), EW_EINVAL);
    }
    g_upload.size = 0;
    assert_int_equal(ew_upload_check(&g_upload, NULL), EW_EINVAL);
}

static void a_full_disk_is_told_before_and_while_bytes_come(void **state)
{
    (void)state;
    g_upload.size = EW_ARTIFACT_BYTES_MAX;
    uint64_t offset = 0, free_bytes = 0;
    assert_int_equal(ew_dir_free_bytes(g_dir, &free_bytes, NULL), EW_OK);
    if (free_bytes < EW_ARTIFACT_BYTES_MAX) {
        assert_int_equal(ew_registry_upload_begin(g_dir, &g_upload, &offset, NULL), EW_ENOSPC);
    }
    g_upload.size = g_file.size;
    (void)begin();
    ew_file_fail_at(1);
    ew_status st = ew_registry_upload_chunk(g_dir, g_upload.sha256, 0, (ew_span){g_file.data, 1000}, &offset, NULL);
    ew_file_fail_at(0);
    assert_int_equal(st, EW_ENOSPC);
    chunk(0, g_file.size, g_file.size);
    commit();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_upload_goes_on_where_it_broke_off, setup, teardown),
        cmocka_unit_test_setup_teardown(the_manifest_describes_the_file_and_is_found_by_hash_and_by_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(bytes_that_are_not_what_was_promised_are_thrown_away, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_model_is_not_published, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_could_leave_the_directory_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_is_told_before_and_while_bytes_come, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The statement interface over SQLite: types, transactions, migrations, and the errors a full disk or a bad file gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "db/db.h"

static char g_dir[] = "/tmp/ew-db-XXXXXX";
static char g_path[64];

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(g_dir));
    snprintf(g_path, sizeof g_path, "%s/t.db", g_dir);
    return 0;
}

static void drop(void)
{
    char other[80];
    (void)unlink(g_path);
    snprintf(other, sizeof other, "%s-wal", g_path);
    (void)unlink(other);
    snprintf(other, sizeof other, "%s-shm", g_path);
    (void)unlink(other);
}

static int teardown(void **state)
{
    (void)state;
    drop();
    (void)rmdir(g_dir);
    return 0;
}

static ew_db *open_db(const ew_db_opt *opt)
{
    ew_db *db = NULL;
    ew_error err = EW_ERROR_INIT;
    if (ew_db_open(g_path, opt, &db, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    return db;
}

static void exec_ok(ew_db *db, const char *sql)
{
    ew_error err = EW_ERROR_INIT;
    if (ew_db_exec(db, sql, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
}

static int64_t count_of(ew_db *db, const char *sql)
{
    ew_stmt *st = NULL;
    bool row = false;
    assert_int_equal(ew_stmt_open(db, sql, &st, NULL), EW_OK);
    assert_int_equal(ew_stmt_step(st, &row, NULL), EW_OK);
    int64_t n = ew_col_i64(st, 0);
    ew_stmt_free(&st);
    return n;
}

static void every_type_comes_back_as_it_was_bound(void **state)
{
    (void)state;
    drop();
    ew_db *db = open_db(NULL);
    struct stat sb;
    assert_int_equal(stat(g_path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    exec_ok(db, "CREATE TABLE t(i, f, s, b, n)");
    ew_stmt *st = NULL;
    assert_int_equal(ew_stmt_open(db, "INSERT INTO t VALUES(?1,?2,?3,?4,?5)", &st, NULL), EW_OK);
    ew_bind_i64(st, 1, INT64_MIN);
    ew_bind_f64(st, 2, 0.1);
    ew_bind_text(st, 3, "h\xc3\xa9");
    ew_bind_blob(st, 4, "a\0b", 3);
    ew_bind_text(st, 5, NULL);
    assert_int_equal(ew_stmt_run(st, NULL), EW_OK);
    ew_stmt_free(&st);
    assert_null(st);
    bool row = false;
    assert_int_equal(ew_stmt_open(db, "SELECT i,f,s,b,n FROM t", &st, NULL), EW_OK);
    assert_int_equal(ew_stmt_step(st, &row, NULL), EW_OK);
    assert_true(row);
    assert_true(ew_col_i64(st, 0) == INT64_MIN);
    assert_true(ew_col_f64(st, 1) == 0.1);
    assert_string_equal(ew_col_text(st, 2), "h\xc3\xa9");
    assert_int_equal(ew_col_blob(st, 3).size, 3);
    assert_memory_equal(ew_col_blob(st, 3).data, "a\0b", 3);
    assert_true(ew_col_is_null(st, 4));
    assert_string_equal(ew_col_text(st, 4), "");
    ew_stmt_free(&st);
    ew_db_free(&db);
    ew_db_free(&db);
}

static void a_scope_left_without_commit_rolls_back(void **state)
{
    (void)state;
    drop();
    ew_db *db = open_db(NULL);
    exec_ok(db, "CREATE TABLE t(i)");
    {
        EW_AUTO_TX tx = {0};
        assert_int_equal(ew_tx_begin(&tx, db, NULL), EW_OK);
        exec_ok(db, "INSERT INTO t VALUES(1)");
    }
    assert_int_equal(count_of(db, "SELECT count(*) FROM t"), 0);
    {
        EW_AUTO_TX tx = {0};
        assert_int_equal(ew_tx_begin(&tx, db, NULL), EW_OK);
        exec_ok(db, "INSERT INTO t VALUES(1)");
        assert_int_equal(ew_tx_commit(&tx, NULL), EW_OK);
    }
    assert_int_equal(count_of(db, "SELECT count(*) FROM t"), 1);
    ew_db_free(&db);
}

static void constraints_are_told_apart(void **state)
{
    (void)state;
    drop();
    ew_db *db = open_db(NULL);
    exec_ok(db, "CREATE TABLE p(id TEXT PRIMARY KEY); CREATE TABLE c(p TEXT REFERENCES p(id), u UNIQUE)");
    exec_ok(db, "INSERT INTO p VALUES('a')");
    assert_int_equal(ew_db_exec(db, "INSERT INTO p VALUES('a')", NULL), EW_EEXIST);
    assert_int_equal(ew_db_exec(db, "INSERT INTO c VALUES('x', 1)", NULL), EW_ECONFLICT);
    exec_ok(db, "INSERT INTO c VALUES('a', 1)");
    assert_int_equal(ew_db_exec(db, "INSERT INTO c VALUES('a', 1)", NULL), EW_EEXIST);
    ew_db_free(&db);
}

static void a_bind_out_of_range_fails_at_the_step(void **state)
{
    (void)state;
    drop();
    ew_db *db = open_db(NULL);
    exec_ok(db, "CREATE TABLE t(i)");
    ew_stmt *st = NULL;
    assert_int_equal(ew_stmt_open(db, "INSERT INTO t VALUES(?1)", &st, NULL), EW_OK);
    ew_bind_i64(st, 2, 1);
    assert_int_equal(ew_stmt_run(st, NULL), EW_EINTERNAL);
    ew_stmt_free(&st);
    assert_int_equal(ew_stmt_open(db, "INSERT INTO t VALUES(1); DROP TABLE t", &st, NULL), EW_EINTERNAL);
    ew_db_free(&db);
}

static void a_full_disk_is_said_and_changes_nothing(void **state)
{
    (void)state;
    drop();
    ew_db_opt opt = {.max_bytes = 64 * 1024};
    ew_db *db = open_db(&opt);
    exec_ok(db, "CREATE TABLE t(b)");
    ew_error err = EW_ERROR_INIT;
    ew_status st = EW_OK;
    int64_t n = 0;
    for (int i = 0; i < 100 && st == EW_OK; i++) {
        st = ew_db_exec(db, "INSERT INTO t VALUES(randomblob(4000))", &err);
        n += st == EW_OK;
    }
    assert_int_equal(st, EW_ENOSPC);
    assert_non_null(strstr(err.msg, "no space left"));
    assert_true(n > 5);
    assert_int_equal(count_of(db, "SELECT count(*) FROM t"), n);
    {
        EW_AUTO_TX tx = {0};
        assert_int_equal(ew_tx_begin(&tx, db, NULL), EW_OK);
        exec_ok(db, "DELETE FROM t WHERE rowid=1");
        assert_int_equal(ew_db_exec(db, "INSERT INTO t VALUES(randomblob(90000))", NULL), EW_ENOSPC);
    }
    assert_int_equal(count_of(db, "SELECT count(*) FROM t"), n);
    ew_db_free(&db);
}

static void a_file_that_is_no_database_is_refused(void **state)
{
    (void)state;
    drop();
    FILE *f = fopen(g_path, "w");
    assert_non_null(f);
    for (int i = 0; i < 500; i++) {
        fputs("this is not a database at all\n", f);
    }
    fclose(f);
    ew_db *db = NULL;
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_db_open(g_path, NULL, &db, &err), EW_ECORRUPT);
    assert_null(db);
    assert_non_null(strstr(err.msg, g_path));
    drop();
    ew_db_opt opt = {.must_exist = true};
    assert_int_equal(ew_db_open(g_path, &opt, &db, &err), EW_ENOENT);
    assert_int_equal(ew_db_open("/proc/nowhere/x.db", NULL, &db, &err), EW_ENOENT);
}

static void migrations_run_once_and_a_newer_file_is_refused(void **state)
{
    (void)state;
    drop();
    static const char *const steps[] = {"CREATE TABLE a(x)", "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES(1,2)",
                                        "CREATE TABLE broken("};
    ew_db *db = open_db(NULL);
    assert_int_equal(ew_db_migrate(db, steps, 1, NULL), EW_OK);
    assert_int_equal(ew_db_migrate(db, steps, 2, NULL), EW_OK);
    assert_int_equal(ew_db_migrate(db, steps, 2, NULL), EW_OK);
    assert_int_equal(count_of(db, "SELECT count(*) FROM a WHERE y=2"), 1);
    assert_int_equal(ew_db_migrate(db, steps, 3, NULL), EW_EINTERNAL);
    assert_int_equal(count_of(db, "SELECT max(version) FROM ew_migration"), 2);
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_db_migrate(db, steps, 1, &err), EW_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "HINT"));
    ew_db_free(&db);
}

static void two_statements_of_one_text_do_not_disturb_each_other(void **state)
{
    (void)state;
    drop();
    ew_db *db = open_db(NULL);
    exec_ok(db, "CREATE TABLE t(i); INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)");
    ew_stmt *a = NULL, *b = NULL;
    bool row = false;
    const char *sql = "SELECT i FROM t ORDER BY i";
    assert_int_equal(ew_stmt_open(db, sql, &a, NULL), EW_OK);
    assert_int_equal(ew_stmt_step(a, &row, NULL), EW_OK);
    assert_int_equal(ew_stmt_open(db, sql, &b, NULL), EW_OK);
    assert_int_equal(ew_stmt_step(b, &row, NULL), EW_OK);
    assert_int_equal(ew_stmt_step(b, &row, NULL), EW_OK);
    assert_int_equal(ew_col_i64(a, 0), 1);
    assert_int_equal(ew_col_i64(b, 0), 2);
    ew_stmt_free(&a);
    ew_stmt_free(&b);
    ew_db_free(&db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back_as_it_was_bound),
        cmocka_unit_test(a_scope_left_without_commit_rolls_back),
        cmocka_unit_test(constraints_are_told_apart),
        cmocka_unit_test(a_bind_out_of_range_fails_at_the_step),
        cmocka_unit_test(a_full_disk_is_said_and_changes_nothing),
        cmocka_unit_test(a_file_that_is_no_database_is_refused),
        cmocka_unit_test(migrations_run_once_and_a_newer_file_is_refused),
        cmocka_unit_test(two_statements_of_one_text_do_not_disturb_each_other),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

#include "test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "sys/file.h"

static size_t count_entries(const char *dir)
{
    ew_error err = EW_ERROR_INIT;
    ew_dir_list list = {0};
    assert_ok(ew_dir_read(dir, &list, &err), &err);
    size_t n = list.n;
    ew_dir_list_release(&list);
    return n;
}

static void assert_content(const char *path, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF b = {0};
    assert_ok(ew_file_read(path, 1 << 20, &b, &err), &err);
    assert_string_equal(ew_buf_str(&b), text);
}

static void map_shows_the_files_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_file_map) m = NULL;
    const char *path = ew_test_text("map", "hello");
    assert_ok(ew_file_map_open(path, &m, &err), &err);
    assert_int_equal(ew_file_map_size(m), 5);
    assert_memory_equal(ew_file_map_data(m), "hello", 5);
    assert_string_equal(ew_file_map_path(m), path);
    ew_file_map_advise(m, 0, SIZE_MAX, EW_FILE_DONTNEED);
    ew_file_map_advise(m, 100, 1, EW_FILE_WILLNEED);
    assert_memory_equal(ew_file_map_data(m), "hello", 5);
}

static void map_of_an_empty_file_is_empty(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_file_map) m = NULL;
    assert_ok(ew_file_map_open(ew_test_text("empty", ""), &m, &err), &err);
    assert_int_equal(ew_file_map_size(m), 0);
    assert_non_null(ew_file_map_data(m));
}

static void map_refuses_what_is_no_regular_file(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_file_map *m = NULL;
    const char *fifo = ew_test_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(EW_EINVAL, ew_file_map_open(ew_test_tmpdir(), &m, &err), &err, "directory");
    assert_fails(EW_EINVAL, ew_file_map_open(fifo, &m, &err), &err, "fifo");
    assert_fails(EW_EINVAL, ew_file_map_open("/dev/null", &m, &err), &err, "/dev/null");
    assert_fails(EW_ENOENT, ew_file_map_open(ew_test_path("absent"), &m, &err), &err, "absent");
    assert_null(m);
}

static void read_keeps_the_limit(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF b = {0};
    const char *path = ew_test_text("five", "12345");
    assert_ok(ew_file_read(path, 5, &b, &err), &err);
    assert_string_equal(ew_buf_str(&b), "12345");
    assert_fails(EW_ELIMIT, ew_file_read(path, 4, &b, &err), &err, "limit is 4");
}

static void replace_changes_all_or_nothing_when_any_write_fails(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s", ew_test_path("replace"));
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    const char *path = ew_test_text("replace/f", "old");
    unsigned n_failed = 0;
    for (uint64_t n = 1; n < 10; n++) {
        ew_file_fail_at(n);
        ew_status st = ew_file_replace(path, "new", 3, 0600, &err);
        ew_file_fail_at(0);
        assert_int_equal(count_entries(dir), 1); /* no temporary file stays */
        if (st == EW_OK) {
            break;
        }
        n_failed++;
        assert_int_equal(st, EW_ENOSPC);
        assert_non_null(strstr(err.msg, path));
        assert_content(path, "old");
    }
    assert_int_equal(n_failed, 2); /* the write and the sync */
    assert_content(path, "new");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void writer_leaves_the_target_alone_until_commit(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_text("target", "old");
    ew_file_writer *w = NULL;
    assert_ok(ew_file_writer_open(path, 0644, &w, &err), &err);
    assert_ok(ew_file_writer_write(w, "abc", 3, &err), &err);
    ew_file_writer_free(&w);
    assert_content(path, "old");

    assert_ok(ew_file_writer_open(path, 0644, &w, &err), &err);
    size_t big = 1000 * 1000;
    char *data = calloc(big, 1);
    memset(data, 'x', big);
    assert_ok(ew_file_writer_printf(w, &err, "%d-", 42), &err);
    assert_ok(ew_file_writer_write(w, data, big, &err), &err);
    assert_ok(ew_file_writer_write(w, "end", 3, &err), &err);
    assert_int_equal(ew_file_writer_size(w), big + 6);
    assert_ok(ew_file_writer_patch(w, 0, "77", 2, &err), &err);
    assert_fails(EW_EINVAL, ew_file_writer_patch(w, big + 5, "77", 2, &err), &err, "past the end");
    assert_fails(EW_EINVAL, ew_file_writer_commit(w, &err), &err, "earlier");
    ew_file_writer_free(&w);
    assert_content(path, "old");

    assert_ok(ew_file_writer_open(path, 0644, &w, &err), &err);
    assert_ok(ew_file_writer_write(w, "12345", 5, &err), &err);
    assert_ok(ew_file_writer_patch(w, 1, "xx", 2, &err), &err);
    assert_ok(ew_file_writer_commit(w, &err), &err);
    ew_file_writer_free(&w);
    assert_content(path, "1xx45");
    free(data);
}

static void what_killed_writers_leave_is_swept(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s", ew_test_path("sweep"));
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    (void)ew_test_text("sweep/a.tmp-12-0", "x");
    (void)ew_test_text("sweep/a.tmp-12-", "x");
    (void)ew_test_text("sweep/a.tmp-note", "x");
    (void)ew_test_text("sweep/a", "x");
    assert_ok(ew_dir_sweep_temp(dir, &err), &err);
    assert_int_equal(count_entries(dir), 3);
    assert_false(ew_file_exists(ew_test_path("sweep/a.tmp-12-0")));
}

static void directories_are_made_listed_and_removed_as_trees(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_dir_make(ew_test_path("t/u/v"), 0755, &err), &err);
    assert_ok(ew_dir_make(ew_test_path("t/u/v/"), 0755, &err), &err);
    (void)ew_test_text("t/u/file", "1234");
    (void)ew_test_text("outside", "kept");
    assert_int_equal(symlink("../../outside", ew_test_path("t/u/link")), 0);
    assert_int_equal(symlink("/", ew_test_path("t/root")), 0);
    assert_fails(EW_EEXIST, ew_dir_make(ew_test_path("t/u/file"), 0755, &err), &err, "file");
    ew_dir_list list = {0};
    assert_ok(ew_dir_read(ew_test_path("t/u"), &list, &err), &err);
    assert_int_equal(list.n, 3);
    assert_string_equal(list.entry[0].name, "file");
    assert_int_equal(list.entry[0].size, 4);
    assert_true(list.entry[0].is_file);
    assert_true(list.entry[2].is_dir);
    ew_dir_list_release(&list);
    assert_ok(ew_dir_remove_tree(ew_test_path("t"), &err), &err);
    assert_false(ew_file_exists(ew_test_path("t")));
    assert_true(ew_file_exists(ew_test_path("outside")));
    assert_ok(ew_dir_remove_tree(ew_test_path("t"), &err), &err);
    assert_fails(EW_EINVAL, ew_dir_remove_tree("/", &err), &err, "/");
    assert_fails(EW_EINVAL, ew_dir_remove_tree("", &err), &err, "");
}

static void paths_join_with_one_slash(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char dst[16];
    assert_ok(ew_path_join(dst, sizeof(dst), "a", "b", &err), &err);
    assert_string_equal(dst, "a/b");
    assert_ok(ew_path_join(dst, sizeof(dst), "a/", "/b", &err), &err);
    assert_string_equal(dst, "a/b");
    assert_ok(ew_path_join(dst, sizeof(dst), "", "b", &err), &err);
    assert_string_equal(dst, "b");
    assert_ok(ew_path_join(dst, sizeof(dst), "/", "b", &err), &err);
    assert_string_equal(dst, "/b");
    assert_fails(EW_ELIMIT, ew_path_join(dst, sizeof(dst), "0123456789", "abcdef", &err), &err, "longer");
    assert_string_equal(ew_path_base("/a/b"), "b");
    assert_string_equal(ew_path_base("b"), "b");
}

static void a_directory_has_one_owner_at_a_time(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_dir_lock) first = NULL;
    ew_dir_lock *second = NULL;
    const char *dir = ew_test_tmpdir();
    char pid[32];
    (void)snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_ok(ew_dir_lock_take(dir, &first, &err), &err);
    assert_fails(EW_ECONFLICT, ew_dir_lock_take(dir, &second, &err), &err, pid);
    ew_dir_lock_free(&first);
    assert_ok(ew_dir_lock_take(dir, &first, &err), &err);
}

static void out_of_memory_is_told_and_nothing_stays(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char dir[1024];
    (void)snprintf(dir, sizeof(dir), "%s", ew_test_path("oom"));
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    const char *path = ew_test_text("oom/f", "old");
    ew_status st = EW_ENOMEM;
    for (uint64_t n = 1; st == EW_ENOMEM; n++) {
        ew_file_writer *w = NULL;
        ew_mem_fail_at(n);
        st = ew_file_writer_open(path, 0600, &w, &err);
        ew_mem_fail_at(0);
        ew_file_writer_free(&w);
        assert_int_equal(count_entries(dir), 1);
        assert_true(n < 20);
    }
    assert_int_equal(st, EW_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_shows_the_files_bytes),
        cmocka_unit_test(map_of_an_empty_file_is_empty),
        cmocka_unit_test(map_refuses_what_is_no_regular_file),
        cmocka_unit_test(read_keeps_the_limit),
        cmocka_unit_test(replace_changes_all_or_nothing_when_any_write_fails),
        cmocka_unit_test(writer_leaves_the_target_alone_until_commit),
        cmocka_unit_test(what_killed_writers_leave_is_swept),
        cmocka_unit_test(directories_are_made_listed_and_removed_as_trees),
        cmocka_unit_test(paths_join_with_one_slash),
        cmocka_unit_test(a_directory_has_one_owner_at_a_time),
        cmocka_unit_test(out_of_memory_is_told_and_nothing_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

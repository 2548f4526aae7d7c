#include <string.h>

#include "cli/data_apt.h"
#include "sys/file.h"
#include "test.h"

static void write_etc(const char *dir, const char *name, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    char path[EW_PATH_MAX], parts[EW_PATH_MAX];
    assert_ok(ew_path_join(parts, sizeof(parts), dir, "sources.list.d", &err), &err);
    assert_ok(ew_dir_make(parts, 0755, &err), &err);
    assert_ok(ew_path_join(path, sizeof(path), dir, name, &err), &err);
    assert_ok(ew_file_replace(path, text, strlen(text), 0644, &err), &err);
}

static void one_line_sources_are_reduced_to_the_release(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("etc1");
    write_etc(dir, "sources.list",
              "# deb http://commented.example bookworm main\n"
              "deb http://one.example/debian bookworm main contrib # why not\n"
              "deb-src http://one.example/debian bookworm main\n"
              "  deb [ signed-by=/k.gpg arch=amd64 ] http://two.example/debian  bookworm   main\n"
              "deb http://one.example/debian bookworm-updates main\n"
              "deb http://one.example/debian bookworm contrib\n"
              "deb http://three.example/debian stable main");
    write_etc(dir, "sources.list.d/other.list", "deb https://packages.example/apt tool main\n");
    write_etc(dir, "sources.list.d/ignored.bak", "deb http://bak.example bookworm main\n");
    EW_AUTO_BUF list = {0};
    EW_AUTO_BUF sources = {0};
    assert_ok(ew_apt_read_sources(dir, "bookworm", &list, &sources, &err), &err);
    assert_string_equal(list.data, "deb  http://one.example/debian bookworm main\n"
                                   "deb [ signed-by=/k.gpg arch=amd64 ] http://two.example/debian bookworm main\n"
                                   "deb  http://three.example/debian stable main\n");
    assert_int_equal(sources.size, 0);
}

static void deb822_sources_keep_their_keys(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("etc2");
    write_etc(dir, "sources.list.d/debian.sources",
              "Types: deb deb-src\n# a comment\nURIs: http://one.example/debian\nSuites: bookworm bookworm-updates\n"
              "Components: main contrib\nSigned-By:\n -----BEGIN\n .\n abc\n -----END\n\n\n"
              "Types: deb\nURIs: http://security.example\nSuites: bookworm-security\nComponents: main\n\n"
              "Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n");
    EW_AUTO_BUF list = {0};
    EW_AUTO_BUF sources = {0};
    assert_ok(ew_apt_read_sources(dir, "bookworm", &list, &sources, &err), &err);
    assert_int_equal(list.size, 0);
    assert_string_equal(sources.data,
                        "Types: deb\nSuites: bookworm\nComponents: main\nURIs: http://one.example/debian\n"
                        "Signed-By:\n -----BEGIN\n .\n abc\n -----END\n\n");
}

static void a_system_without_such_a_source_is_told_what_to_do(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("etc3");
    write_etc(dir, "sources.list", "deb http://one.example/debian trixie main\n");
    EW_AUTO_BUF list = {0};
    EW_AUTO_BUF sources = {0};
    assert_fails(EW_ENOENT, ew_apt_read_sources(dir, "bookworm", &list, &sources, &err), &err, "HINT: add Debian's");
}

static void find_takes_the_files_of_debians_release_alone(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("apt");
    char path[EW_PATH_MAX];
    assert_ok(ew_path_join(path, sizeof(path), dir, "apt/lists", &err), &err);
    assert_ok(ew_dir_make(path, 0755, &err), &err);
    const struct {
        const char *name, *text;
    } files[] = {{"apt/lists/a_dists_bookworm_InRelease", "Origin: Docker\nCodename: bookworm\nDate: x\n"},
                 {"apt/lists/a_dists_bookworm_main_binary-amd64_Packages", ""},
                 {"apt/lists/a_dists_bookworm_main_i18n_Translation-en", ""},
                 {"apt/lists/b_dists_bookworm_InRelease", "Origin: Debian\nCodename: bookworm\nDate: x\n"},
                 {"apt/lists/b_dists_bookworm_main_binary-amd64_Packages", ""}};
    ew_apt_index found;
    for (size_t i = 0; i < EW_COUNT(files); i++) {
        assert_ok(ew_path_join(path, sizeof(path), dir, files[i].name, &err), &err);
        assert_ok(ew_file_replace(path, files[i].text, strlen(files[i].text), 0644, &err), &err);
    }
    assert_fails(EW_ENOENT, ew_apt_find(dir, "bookworm", &found, &err), &err, "no package index of bookworm");
    assert_ok(ew_path_join(path, sizeof(path), dir, "apt/lists/b_dists_bookworm_main_i18n_Translation-en", &err), &err);
    assert_ok(ew_file_replace(path, "", 0, 0644, &err), &err);
    assert_ok(ew_apt_find(dir, "bookworm", &found, &err), &err);
    assert_non_null(strstr(found.packages, "b_dists_bookworm_main_binary-amd64_Packages"));
    assert_string_equal(found.translation, path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_sources_are_reduced_to_the_release),
        cmocka_unit_test(deb822_sources_keep_their_keys),
        cmocka_unit_test(a_system_without_such_a_source_is_told_what_to_do),
        cmocka_unit_test(find_takes_the_files_of_debians_release_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

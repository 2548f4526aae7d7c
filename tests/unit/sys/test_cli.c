#include "test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sys/cli.h"

struct options {
    char *out;
    uint64_t limit;
    bool force;
    int64_t n;
    double seconds;
    ew_cli_strings tags;
    char *path;
    char *second;
    bool given;
};

static struct options o;
static char captured[2][8192]; /* stdout, stderr of the last call */

static int run_import(int argc, char **argv, void *ctx)
{
    (void)ctx;
    const ew_cli_opt opts[] = {
        {"out", 'o', "FILE", EW_CLI_STRING, &o.out, "write to FILE", 0, 0, NULL, false},
        {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &o.limit, "stay under BYTES", 0, 0, &o.given, false},
        {"force", 'f', NULL, EW_CLI_FLAG, &o.force, "replace an existing file", 0, 0, NULL, false},
        {"count", 'n', "N", EW_CLI_I64, &o.n, "how many", 1, 10, NULL, false},
        {"time", 't', "TIME", EW_CLI_SECONDS, &o.seconds, "how long", 0, 0, NULL, false},
        {"tag", 0, "TAG", EW_CLI_STRINGS, &o.tags, "a tag, may be repeated", 0, 0, NULL, false},
        {"secret", 0, NULL, EW_CLI_FLAG, &o.force, "internal", 0, 0, NULL, true},
    };
    const ew_cli_pos pos[] = {{"PATH", EW_CLI_STRING, &o.path, false, "model directory", 0, 0},
                              {"SECOND", EW_CLI_STRING, &o.second, true, "another", 0, 0}};
    const ew_cli_spec spec = {"model import",
                              "Builds and publishes the variants of a model.",
                              "  edgewise model import ./TinyLlama",
                              opts,
                              EW_COUNT(opts),
                              pos,
                              EW_COUNT(pos)};
    int status = ew_cli_parse(&spec, argc, argv);
    return status != EW_CLI_GO ? status : 42;
}

static int run_fail(int argc, char **argv, void *ctx)
{
    (void)argc;
    (void)ctx;
    ew_error err = {EW_EREMOTE, "nobody answers"};
    return ew_cli_fail(argv[0], EW_EREMOTE, &err);
}

static const ew_cli_command model_commands[] = {
    {"import", "PATH", "build and publish variants", run_import, NULL, 0, false},
    {"list", NULL, "what there is", run_fail, NULL, 0, false}};
static const ew_cli_command commands[] = {{"model", NULL, "models and their variants", NULL, model_commands, 2, false},
                                          {"worker", NULL, "internal", run_fail, NULL, 0, true}};
static const ew_cli_program program = {"edgewise", "1.2.3", "Language models on devices.",
                                       commands,   2,       "  edgewise model import DIR"};

static void read_back(FILE *f, char *dst, size_t size)
{
    rewind(f);
    size_t n = fread(dst, 1, size - 1, f);
    dst[n] = '\0';
    (void)fclose(f);
}

/* Runs the program with words separated by spaces and captures what it prints. */
static int call(const char *line)
{
    static char words[512];
    char *argv[32];
    int argc = 0;
    (void)snprintf(words, sizeof(words), "%s", line);
    char *save = NULL;
    for (char *w = strtok_r(words, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        argv[argc++] = w;
    }
    argv[argc] = NULL;
    ew_cli_strings_release(&o.tags);
    o = (struct options){.n = 5};
    FILE *files[2] = {tmpfile(), tmpfile()};
    int saved[2] = {dup(1), dup(2)};
    (void)fflush(stdout);
    (void)dup2(fileno(files[0]), 1);
    (void)dup2(fileno(files[1]), 2);
    int status = ew_cli_main(&program, argc, argv, NULL);
    (void)fflush(stdout);
    (void)fflush(stderr);
    for (int i = 0; i < 2; i++) {
        (void)dup2(saved[i], i + 1);
        (void)close(saved[i]);
        read_back(files[i], captured[i], sizeof(captured[i]));
    }
    return status;
}

static void assert_says(int fd, const char *text)
{
    if (strstr(captured[fd - 1], text) == NULL) {
        fail_msg("'%s' is not in: %s", text, captured[fd - 1]);
    }
}

static void options_and_arguments_reach_their_variables(void **state)
{
    (void)state;
    assert_int_equal(call("edgewise model import -o x --memory-limit=64M dir -fn7 --time 5m --tag a --tag b"), 42);
    assert_string_equal(o.out, "x");
    assert_int_equal(o.limit, 64u << 20);
    assert_true(o.force && o.given);
    assert_int_equal(o.n, 7);
    assert_true(o.seconds == 300);
    assert_int_equal(o.tags.n, 2);
    assert_string_equal(o.tags.item[1], "b");
    assert_string_equal(o.path, "dir");
    assert_null(o.second);
    assert_int_equal(call("edgewise model import --mem 1K -- -dir"), 42);
    assert_string_equal(o.path, "-dir");
    assert_int_equal(o.limit, 1024);
    assert_int_equal(o.n, 5);
    ew_cli_strings_release(&o.tags);
}

static void help_teaches(void **state)
{
    (void)state;
    static const char *const asks[] = {"edgewise model import --help", "edgewise help model import",
                                       "edgewise model import -h"};
    for (size_t i = 0; i < EW_COUNT(asks); i++) {
        assert_int_equal(call(asks[i]), 0);
        assert_says(1, "Usage: edgewise model import [OPTION...] PATH [SECOND]\n");
        assert_says(1, "Builds and publishes");
        assert_says(1, "  -o, --out=FILE              write to FILE\n");
        assert_says(1, "      --memory-limit=BYTES    stay under BYTES\n");
        assert_says(1, "  PATH                        model directory\n");
        assert_says(1, "Examples:\n  edgewise model import ./TinyLlama\n");
        assert_null(strstr(captured[0], "secret"));
        assert_string_equal(captured[1], "");
    }
    assert_int_equal(call("edgewise --help"), 0);
    assert_says(1, "model import|list           models and their variants\n");
    assert_says(1, "Run 'edgewise COMMAND --help'");
    assert_null(strstr(captured[0], "worker"));
    assert_int_equal(call("edgewise model --help"), 0);
    assert_says(1, "import PATH");
    assert_int_equal(call("edgewise --version"), 0);
    assert_says(1, "edgewise 1.2.3\n");
}

static void mistakes_end_with_2_and_name_the_nearest_word(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"edgewise", "Commands:"},
        {"edgewise modle", "unknown command 'modle'; did you mean 'model'?"},
        {"edgewise model", "import PATH"},
        {"edgewise model imprt x", "edgewise model: unknown command 'imprt'; did you mean 'import'?"},
        {"edgewise model import", "edgewise model import: PATH is missing: model directory"},
        {"edgewise model import a b c", "'c' is one argument too many"},
        {"edgewise model import a --fource", "unknown option '--fource'; did you mean '--force'?"},
        {"edgewise model import a --zebra=3", "unknown option '--zebra'"},
        {"edgewise model import a -x", "unknown option '-x'"},
        {"edgewise model import a --force=3", "'--force' takes no value"},
        {"edgewise model import a --out", "option '--out' needs a value"},
        {"edgewise model import a -n 11", "--count is '11', should be a whole number from 1 to 10"},
        {"edgewise model import a -n 3x", "--count is '3x'"},
        {"edgewise model import a --time never", "a time such as"},
        {"edgewise model import a --memory-limit much", "a size such as"},
        {"edgewise model import a --t 3", "ambiguous"},
        {"edgewise zebra", "unknown command 'zebra'"},
    };
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        assert_int_equal(call(cases[i].line), 2);
        assert_says(2, cases[i].message);
        assert_string_equal(captured[0], "");
    }
}

static void the_exit_status_follows_the_error(void **state)
{
    (void)state;
    assert_int_equal(call("edgewise model list"), 3);
    assert_says(2, "edgewise model list: nobody answers\n");
    assert_int_equal(call("edgewise worker"), 3);
}

static void seconds_have_units(void **state)
{
    (void)state;
    double s = 0;
    assert_true(ew_str_to_seconds("90", &s) && s == 90);
    assert_true(ew_str_to_seconds("1.5h", &s) && s == 5400);
    assert_true(ew_str_to_seconds("2d", &s) && s == 172800);
    assert_false(ew_str_to_seconds("", &s));
    assert_false(ew_str_to_seconds("s", &s));
    assert_false(ew_str_to_seconds("-1s", &s));
    assert_false(ew_str_to_seconds("1w", &s));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_arguments_reach_their_variables),
        cmocka_unit_test(help_teaches),
        cmocka_unit_test(mistakes_end_with_2_and_name_the_nearest_word),
        cmocka_unit_test(the_exit_status_follows_the_error),
        cmocka_unit_test(seconds_have_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

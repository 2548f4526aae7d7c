/* Commands and options of the programs, on getopt_long, with help and error messages of one kind.
 *
 *   static int run_import(int argc, char **argv, void *ctx)
 *   {
 *       struct { char *out; uint64_t limit; bool force; char *path; } o = {0};
 *       const ew_cli_opt opts[] = {
 *           {"out", 'o', "FILE", EW_CLI_STRING, &o.out, "write to FILE"},
 *           {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &o.limit, "stay under BYTES (64M, 1.5G)"},
 *           {"force", 'f', NULL, EW_CLI_FLAG, &o.force, "replace an existing file"}};
 *       const ew_cli_pos pos[] = {{"PATH", EW_CLI_STRING, &o.path, .help = "model directory or GGUF file"}};
 *       int status = ew_cli_parse(&(ew_cli_spec){"model import", "Builds and publishes the variants of a model.",
 *                                 "edgewise model import ./TinyLlama", opts, EW_COUNT(opts), pos, EW_COUNT(pos)}, argc, argv);
 *       if (status != EW_CLI_GO) {
 *           return status;
 *       }
 *       …
 *   }
 *   static const ew_cli_command model_commands[] = {{"import", "PATH", "build and publish variants", .run = run_import}};
 *   static const ew_cli_command commands[] = {{"model", NULL, "models and their variants", .sub = model_commands, .n_sub = 1}};
 *   return ew_cli_main(&(ew_cli_program){"edgewise", EW_VERSION, "…", commands, EW_COUNT(commands)}, argc, argv, &app);
 *
 * Exit status: 0 ok, 1 failed, 2 usage, 3 remote unavailable. Help goes to stdout and ends with 0, errors to stderr with 2.
 * Locking: main thread. */
#ifndef EW_SYS_CLI_H
#define EW_SYS_CLI_H

#include "base/base.h"
#include "base/status.h"

#define EW_CLI_USAGE 2
#define EW_CLI_GO (-1) /* ew_cli_parse: options are set, go on */

typedef struct ew_cli_command ew_cli_command;
struct ew_cli_command {
    const char *name;     /* "import" */
    const char *args_doc; /* "PATH [--name NAME]", NULL = none; shown in lists */
    const char *summary;  /* one line, lower case, no full stop */
    int (*run)(int argc, char **argv,
               void *ctx);     /* argv[0] = full name "edgewise model import"; returns the exit status */
    const ew_cli_command *sub; /* instead of run: a group of commands */
    size_t n_sub;
    bool hidden; /* works, but is not listed (internal workers) */
};

typedef struct ew_cli_program {
    const char *name; /* "edgewise" */
    const char *version;
    const char *doc; /* one or two sentences above the list of commands */
    const ew_cli_command *commands;
    size_t n_commands;
    const char *examples; /* lines "  edgewise model import DIR\n…", NULL = none; shown under the list */
} ew_cli_program;

/* Finds the command and runs it; understands --help, --version, "help [COMMAND…]". An unknown command names the nearest and
 * returns 2; a group without command prints its list and returns 2. */
int ew_cli_main(const ew_cli_program *program, int argc, char **argv, void *ctx);

typedef enum ew_cli_type {
    EW_CLI_FLAG,    /* bool: set to true */
    EW_CLI_STRING,  /* char *: borrowed from argv */
    EW_CLI_I64,     /* int64_t in [min, max]; min == max == 0 means any */
    EW_CLI_F64,     /* double, likewise */
    EW_CLI_BYTES,   /* uint64_t: "64M", "1.5G" */
    EW_CLI_SECONDS, /* double: "90", "30s", "5m", "2h", "1d" */
    EW_CLI_STRINGS  /* ew_cli_strings: may be given several times; as a positional it takes all that follow */
} ew_cli_type;

typedef struct ew_cli_strings {
    char **item; /* borrowed pointers into argv; the array is released by ew_cli_strings_release */
    size_t n, cap;
} ew_cli_strings;
void ew_cli_strings_release(ew_cli_strings *s);

typedef struct ew_cli_opt {
    const char *name; /* long name without "--" */
    char letter;      /* 0 = none */
    const char *arg;  /* name of the value in help, NULL for flags */
    ew_cli_type type;
    void *out;        /* where the value goes; keeps its initial value (the default) when not given */
    const char *help; /* one line; say the default here */
    double min, max;
    bool *given; /* set to true when given; may be NULL */
    bool hidden;
} ew_cli_opt;

typedef struct ew_cli_pos {
    const char *name;
    ew_cli_type type; /* not FLAG; STRINGS only in the last place */
    void *out;
    bool optional; /* only after all required ones */
    const char *help;
    double min, max;
} ew_cli_pos;

typedef struct ew_cli_spec {
    const char *command;  /* "model import": for messages; argv[0] is used when NULL */
    const char *doc;      /* sentences shown at the top of --help */
    const char *examples; /* lines, NULL = none */
    const ew_cli_opt *opts;
    size_t n_opts;
    const ew_cli_pos *pos;
    size_t n_pos;
} ew_cli_spec;

/* EW_CLI_GO, or the exit status: 0 after --help (printed), 2 after an error (told on stderr with the usage line). */
int ew_cli_parse(const ew_cli_spec *spec, int argc, char **argv);

/* "edgewise: <message>" on stderr; returns the exit status for the error (ew_status_exit). */
int ew_cli_fail(const char *prog, ew_status code, const ew_error *err);

/* "30s", "5m", "1.5h", "2d", "90" into seconds. */
bool ew_str_to_seconds(const char *s, double *out) EW_MUST_CHECK;

#endif

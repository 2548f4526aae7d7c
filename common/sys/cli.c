/* getopt_long parses; help and messages are our own, so that a mistake is answered with the nearest right word. */
#include "sys/cli.h"

#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/config.h"

#define OPTS_MAX 64
#define STRINGS_MAX 65536
#define HELP_COLUMN 30
#define KEY_HELP 1
#define KEY_OPT 1000 /* + index in the table */

bool ew_str_to_seconds(const char *s, double *out)
{
    static const struct {
        char suffix;
        double factor;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char number[40];
    size_t n = strlen(s);
    double factor = 1;
    if (n == 0 || n >= sizeof(number)) {
        return false;
    }
    memcpy(number, s, n + 1);
    for (size_t i = 0; i < EW_COUNT(units); i++) {
        if (number[n - 1] == units[i].suffix) {
            number[n - 1] = '\0';
            factor = units[i].factor;
            break;
        }
    }
    double v;
    if (!ew_str_to_f64(number, &v) || v < 0 || !isfinite(v * factor)) {
        return false;
    }
    *out = v * factor;
    return true;
}

void ew_cli_strings_release(ew_cli_strings *s)
{
    ew_free(s->item);
    *s = (ew_cli_strings){0};
}

int ew_cli_fail(const char *prog, ew_status code, const ew_error *err)
{
    (void)fflush(stdout);
    fprintf(stderr, "%s: %s\n", prog, err != NULL && err->msg[0] != '\0' ? err->msg : ew_status_name(code));
    return ew_status_exit(code);
}

/* --- help --- */

static void add_column(ew_buf *out, size_t start, const char *help)
{
    size_t width = out->size - start;
    if (help == NULL) {
        help = "";
    }
    if (width + 2 > HELP_COLUMN) {
        ew_buf_addf(out, "\n%*s", HELP_COLUMN, "");
    } else {
        ew_buf_addf(out, "%*s", (int)(HELP_COLUMN - width), "");
    }
    for (const char *p = help; *p != '\0'; p++) {
        ew_buf_addc(out, *p);
        if (*p == '\n') {
            ew_buf_addf(out, "%*s", HELP_COLUMN, "");
        }
    }
    ew_buf_addc(out, '\n');
}

static void add_usage(const ew_cli_spec *s, const char *name, ew_buf *out)
{
    ew_buf_addf(out, "Usage: %s [OPTION...]", name);
    for (size_t i = 0; i < s->n_pos; i++) {
        const char *dots = s->pos[i].type == EW_CLI_STRINGS ? "..." : "";
        ew_buf_addf(out, s->pos[i].optional ? " [%s%s]" : " %s%s", s->pos[i].name, dots);
    }
    ew_buf_addc(out, '\n');
}

static void add_options(const ew_cli_spec *s, bool letter_h, ew_buf *out)
{
    ew_buf_adds(out, "\nOptions:\n");
    for (size_t i = 0; i < s->n_opts; i++) {
        const ew_cli_opt *o = &s->opts[i];
        if (o->hidden) {
            continue;
        }
        size_t start = out->size;
        if (o->letter != 0) {
            ew_buf_addf(out, "  -%c, --%s", o->letter, o->name);
        } else {
            ew_buf_addf(out, "      --%s", o->name);
        }
        if (o->type != EW_CLI_FLAG) {
            ew_buf_addf(out, "=%s", o->arg != NULL ? o->arg : "VALUE");
        }
        add_column(out, start, o->help);
    }
    size_t start = out->size;
    ew_buf_adds(out, letter_h ? "  -h, --help" : "      --help");
    add_column(out, start, "show this help");
}

static void print_help(const ew_cli_spec *s, const char *name, bool letter_h)
{
    EW_AUTO_BUF out = {0};
    add_usage(s, name, &out);
    if (s->doc != NULL) {
        ew_buf_addf(&out, "\n%s\n", s->doc);
    }
    for (size_t i = 0; i < s->n_pos; i++) {
        if (i == 0) {
            ew_buf_adds(&out, "\nArguments:\n");
        }
        size_t start = out.size;
        ew_buf_addf(&out, "  %s", s->pos[i].name);
        add_column(&out, start, s->pos[i].help);
    }
    add_options(s, letter_h, &out);
    if (s->examples != NULL) {
        ew_buf_adds(&out, "\nExamples:\n");
        ew_buf_adds(&out, s->examples);
        ew_buf_addc(&out, '\n');
    }
    (void)fputs(ew_buf_str(&out), stdout);
}

static EW_PRINTF(3, 4) int usage_error(const ew_cli_spec *s, const char *name, const char *fmt, ...)
{
    EW_AUTO_BUF usage = {0};
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    add_usage(s, name, &usage);
    (void)fflush(stdout);
    fprintf(stderr, "%s: %s\n%sTry '%s --help'.\n", name, text, ew_buf_str(&usage), name);
    return EW_CLI_USAGE;
}

/* --- values --- */

static ew_status strings_add(ew_cli_strings *list, char *text)
{
    EW_TRY(ew_grow((void **)&list->item, &list->cap, list->n + 1, sizeof(*list->item), STRINGS_MAX));
    list->item[list->n++] = text;
    return EW_OK;
}

static bool in_range(double v, double min, double max)
{
    return (min == 0 && max == 0) || (v >= min && v <= max);
}

/* Stores text; NULL, or what the value should have been. */
static const char *store(ew_cli_type type, void *out, char *text, double min, double max)
{
    int64_t i64 = 0;
    uint64_t u64 = 0;
    double f64 = 0;
    switch (type) {
    case EW_CLI_FLAG:
        *(bool *)out = true;
        return NULL;
    case EW_CLI_STRING:
        *(char **)out = text;
        return NULL;
    case EW_CLI_STRINGS:
        return strings_add(out, text) == EW_OK ? NULL : "given less often";
    case EW_CLI_I64:
        if (!ew_str_to_i64(text, INT64_MIN, INT64_MAX, &i64) || !in_range((double)i64, min, max)) {
            return "a whole number";
        }
        *(int64_t *)out = i64;
        return NULL;
    case EW_CLI_F64:
        if (!ew_str_to_f64(text, &f64) || !in_range(f64, min, max)) {
            return "a number";
        }
        *(double *)out = f64;
        return NULL;
    case EW_CLI_BYTES:
        if (!ew_str_to_bytes(text, &u64) || !in_range((double)u64, min, max)) {
            return "a size such as 512M or 1.5G";
        }
        *(uint64_t *)out = u64;
        return NULL;
    case EW_CLI_SECONDS:
        if (!ew_str_to_seconds(text, &f64) || !in_range(f64, min, max)) {
            return "a time such as 90, 30s, 5m or 2h";
        }
        *(double *)out = f64;
        return NULL;
    }
    return "something else";
}

static int bad_value(const ew_cli_spec *s, const char *name, const char *what, const char *text, const char *want,
                     double min, double max)
{
    if (min != 0 || max != 0) {
        return usage_error(s, name, "%s is '%.80s', should be %s from %g to %g", what, text, want, min, max);
    }
    return usage_error(s, name, "%s is '%.80s', should be %s", what, text, want);
}

/* --- parsing --- */

struct tables {
    struct option longs[OPTS_MAX + 2];
    char shorts[2 * OPTS_MAX + 8];
    bool letter_h; /* -h is help */
};

static void build_tables(const ew_cli_spec *s, struct tables *t)
{
    EW_ASSERT(s->n_opts <= OPTS_MAX);
    size_t n = 0;
    t->letter_h = true;
    t->shorts[n++] = ':'; /* no messages by getopt; ':' for a missing value */
    for (size_t i = 0; i < s->n_opts; i++) {
        const ew_cli_opt *o = &s->opts[i];
        bool has_arg = o->type != EW_CLI_FLAG;
        t->longs[i] = (struct option){o->name, has_arg ? required_argument : no_argument, NULL, KEY_OPT + (int)i};
        if (o->letter != 0) {
            t->shorts[n++] = o->letter;
            if (has_arg) {
                t->shorts[n++] = ':';
            }
            t->letter_h = t->letter_h && o->letter != 'h';
        }
    }
    t->longs[s->n_opts] = (struct option){"help", no_argument, NULL, KEY_HELP};
    t->longs[s->n_opts + 1] = (struct option){NULL, 0, NULL, 0};
    if (t->letter_h) {
        t->shorts[n++] = 'h';
    }
    t->shorts[n] = '\0';
}

static int unknown_option(const ew_cli_spec *s, const char *name, const char *given)
{
    const char *known[OPTS_MAX + 1];
    char word[64];
    size_t n = 0;
    if (!ew_str_starts(given, "--")) {
        return usage_error(s, name, "unknown option '-%c'", optopt);
    }
    (void)ew_str_copy(word, sizeof(word), given + 2);
    word[strcspn(word, "=")] = '\0';
    size_t n_prefix = 0;
    for (size_t i = 0; i < s->n_opts; i++) {
        if (!s->opts[i].hidden) {
            known[n++] = s->opts[i].name;
            n_prefix += ew_str_starts(s->opts[i].name, word);
        }
        if (ew_str_eq(s->opts[i].name, word)) { /* known, so it was given a value that it does not take */
            return usage_error(s, name, "option '--%s' takes no value", word);
        }
    }
    if (n_prefix > 1) {
        return usage_error(s, name, "option '--%s' is ambiguous; write it out", word);
    }
    const char *near = ew_nearest(word, known, n);
    if (near != NULL) {
        return usage_error(s, name, "unknown option '--%s'; did you mean '--%s'?", word, near);
    }
    return usage_error(s, name, "unknown option '--%s'", word);
}

static const ew_cli_opt *option_of(const ew_cli_spec *s, int key)
{
    if (key >= KEY_OPT) {
        return &s->opts[key - KEY_OPT];
    }
    for (size_t i = 0; i < s->n_opts; i++) {
        if (s->opts[i].letter == key) {
            return &s->opts[i];
        }
    }
    return NULL;
}

static int parse_options(const ew_cli_spec *s, const char *name, int argc, char **argv)
{
    struct tables t;
    build_tables(s, &t);
    optind = 0; /* glibc: start afresh */
    opterr = 0;
    for (;;) {
        int key = getopt_long(argc, argv, t.shorts, t.longs, NULL);
        if (key == -1) {
            return EW_CLI_GO;
        }
        if (key == KEY_HELP || (key == 'h' && t.letter_h)) {
            print_help(s, name, t.letter_h);
            return 0;
        }
        if (key == '?') {
            return unknown_option(s, name, argv[optind - 1]);
        }
        if (key == ':') {
            return usage_error(s, name, "option '%s' needs a value", argv[optind - 1]);
        }
        const ew_cli_opt *o = option_of(s, key);
        EW_ASSERT(o != NULL);
        const char *want = store(o->type, o->out, optarg, o->min, o->max);
        if (want != NULL) {
            char what[80];
            (void)snprintf(what, sizeof(what), "--%s", o->name);
            return bad_value(s, name, what, optarg, want, o->min, o->max);
        }
        if (o->given != NULL) {
            *o->given = true;
        }
    }
}

static int parse_positionals(const ew_cli_spec *s, const char *name, int argc, char **argv)
{
    int i_arg = optind;
    for (size_t i = 0; i < s->n_pos; i++) {
        const ew_cli_pos *p = &s->pos[i];
        if (i_arg >= argc) {
            if (p->optional) {
                break;
            }
            return usage_error(s, name, "%s is missing%s%s", p->name, p->help != NULL ? ": " : "",
                               p->help != NULL ? p->help : "");
        }
        do {
            const char *want = store(p->type, p->out, argv[i_arg], p->min, p->max);
            if (want != NULL) {
                return bad_value(s, name, p->name, argv[i_arg], want, p->min, p->max);
            }
            i_arg++;
        } while (p->type == EW_CLI_STRINGS && i_arg < argc);
    }
    if (i_arg < argc) {
        return usage_error(s, name, "'%.80s' is one argument too many", argv[i_arg]);
    }
    return EW_CLI_GO;
}

int ew_cli_parse(const ew_cli_spec *spec, int argc, char **argv)
{
    const char *name = argc > 0 ? argv[0] : spec->command;
    int status = parse_options(spec, name, argc, argv);
    return status == EW_CLI_GO ? parse_positionals(spec, name, argc, argv) : status;
}

/* --- commands --- */

static void print_commands(const ew_cli_program *p, const char *name, const ew_cli_command *group, FILE *f)
{
    EW_AUTO_BUF out = {0};
    const ew_cli_command *list = group != NULL ? group->sub : p->commands;
    size_t n = group != NULL ? group->n_sub : p->n_commands;
    ew_buf_addf(&out, "Usage: %s COMMAND [OPTION...]\n", name);
    const char *doc = group != NULL ? group->summary : p->doc;
    if (doc != NULL) {
        ew_buf_addf(&out, "\n%s\n", doc);
    }
    ew_buf_adds(&out, "\nCommands:\n");
    for (size_t i = 0; i < n; i++) {
        if (list[i].hidden) {
            continue;
        }
        size_t start = out.size;
        ew_buf_addf(&out, "  %s%s%s", list[i].name, list[i].args_doc != NULL ? " " : "",
                    list[i].args_doc != NULL ? list[i].args_doc : "");
        if (list[i].sub != NULL && list[i].args_doc == NULL) {
            for (size_t j = 0, shown = 0; j < list[i].n_sub; j++) {
                if (!list[i].sub[j].hidden) {
                    ew_buf_addf(&out, "%s%s", shown++ == 0 ? " " : "|", list[i].sub[j].name);
                }
            }
        }
        add_column(&out, start, list[i].summary);
    }
    if (group == NULL && p->examples != NULL) {
        ew_buf_addf(&out, "\nExamples:\n%s\n", p->examples);
    }
    ew_buf_addf(&out, "\nRun '%s COMMAND --help' for the options of a command.\n", name);
    (void)fputs(ew_buf_str(&out), f);
}

static int unknown_command(const char *name, const ew_cli_command *list, size_t n, const char *word)
{
    const char *known[OPTS_MAX];
    size_t n_known = 0;
    for (size_t i = 0; i < n && n_known < OPTS_MAX; i++) {
        if (!list[i].hidden) {
            known[n_known++] = list[i].name;
        }
    }
    const char *near = ew_nearest(word, known, n_known);
    if (near != NULL) {
        fprintf(stderr, "%s: unknown command '%.64s'; did you mean '%s'?\nTry '%s --help'.\n", name, word, near, name);
    } else {
        fprintf(stderr, "%s: unknown command '%.64s'\nTry '%s --help'.\n", name, word, name);
    }
    return EW_CLI_USAGE;
}

static const ew_cli_command *find_command(const ew_cli_command *list, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].name, word) == 0) {
            return &list[i];
        }
    }
    return NULL;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* argv[0] is replaced by the command's full name before it runs. `help` in front stands for `--help` behind. */
static int dispatch(const ew_cli_program *p, int argc, char **argv, bool help, void *ctx)
{
    char name[256];
    const ew_cli_command *list = p->commands;
    const ew_cli_command *group = NULL;
    size_t n = p->n_commands;
    int i = 1;
    (void)ew_str_copy(name, sizeof(name), p->name);
    for (;; i++) {
        if (i >= argc || is_help(argv[i])) {
            bool asked = help || i < argc;
            print_commands(p, name, group, asked ? stdout : stderr);
            return asked ? 0 : EW_CLI_USAGE;
        }
        const ew_cli_command *c = find_command(list, n, argv[i]);
        if (c == NULL) {
            return unknown_command(name, list, n, argv[i]);
        }
        size_t used = strlen(name);
        (void)snprintf(name + used, sizeof(name) - used, " %s", c->name);
        if (c->sub == NULL) {
            char *help_argv[] = {name, (char[]){"--help"}, NULL};
            if (help) {
                return c->run(2, help_argv, ctx);
            }
            argv[i] = name;
            return c->run(argc - i, argv + i, ctx);
        }
        group = c;
        list = c->sub;
        n = c->n_sub;
    }
}

int ew_cli_main(const ew_cli_program *program, int argc, char **argv, void *ctx)
{
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
        printf("%s %s\n", program->name, program->version);
        return 0;
    }
    if (argc > 2 && strcmp(argv[1], "help") == 0) {
        return dispatch(program, argc - 1, argv + 1, true, ctx);
    }
    return dispatch(program, argc, argv, false, ctx);
}

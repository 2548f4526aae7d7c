/* `edgewise data …`: what a benchmark or a history holds, its split, and the trivial baselines. */
#include "cli/data.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/baseline.h"
#include "task/debian.h"
#include "text/json.h"

#define PROGRAM "edgewise"

/* --- where items come from: one user of the benchmark, or a JSON Lines file --- */
typedef struct group {
    char name[32]; /* user hash, or "file" */
    ew_items items;
    ew_task *task;
} group;

typedef struct groups {
    group *group;
    size_t n, cap;
} groups;

static void groups_release(groups *g)
{
    for (size_t i = 0; i < g->n; i++) {
        ew_items_release(&g->group[i].items);
        ew_task_free(&g->group[i].task);
    }
    ew_free(g->group);
}

/* Takes the items. The task is made from the history part of the split, as a trial does. */
static ew_status groups_add(groups *g, const char *name, const char *task, ew_split_by by, ew_items *items,
                            ew_error *reterr)
{
    ew_status st = ew_grow((void **)&g->group, &g->cap, g->n + 1, sizeof(*g->group), 1000000);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory for the users");
    }
    group *x = &g->group[g->n];
    *x = (group){.items = *items};
    *items = (ew_items){0};
    g->n++;
    ew_str_copy(x->name, sizeof(x->name), name);
    ew_user_split split = ew_split_user(x->items.item, x->items.n, by);
    return ew_task_new(task, x->items.item, split.n_history, &x->task, reterr);
}

static ew_status add_users(groups *g, const ew_debian *d, const char *task, ew_debian_role role, ew_error *reterr)
{
    const ew_task *t = ew_task_find(task);
    const ew_debian_user **users;
    size_t n;
    EW_TRY(ew_debian_users(d, t, role, &users, &n, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; st == EW_OK && i < n; i++) {
        EW_AUTO_ITEMS items = {0};
        st = ew_debian_items(d, t, users[i], &items, reterr);
        st = st == EW_OK ? groups_add(g, users[i]->hash, task, EW_SPLIT_HASH, &items, reterr) : st;
    }
    ew_free((void *)users);
    return st;
}

static bool is_debian_task(const char *task)
{
    return ew_str_starts(task, "debian-") && ew_task_find(task) != NULL;
}

static ew_status open_debian(const char *dir_opt, ew_debian **ret_debian, ew_error *reterr)
{
    char dir[EW_PATH_MAX];
    EW_TRY(ew_cli_data_dir(dir_opt, dir, sizeof(dir), reterr));
    return ew_debian_open(dir, ret_debian, reterr);
}

static ew_status unknown_task(const char *task, ew_error *reterr)
{
    return ew_fail(reterr, EW_EINVAL,
                   "task '%s' is not of the benchmark: debian-section, debian-synopsis, debian-depends or debian-size; "
                   "for a FILE custom or custom-classify",
                   task);
}

/* --- info --- */
typedef struct info_options {
    char *dir, *users, *file;
    bool json;
} info_options;

static ew_status info_file(const info_options *o, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(ew_items_read(o->file, &items, reterr));
    uint64_t in = 0, out = 0;
    for (size_t i = 0; i < items.n; i++) {
        in += strlen(items.item[i].input);
        out += strlen(items.item[i].output);
    }
    double entropy = ew_items_entropy(items.item, items.n);
    if (o->json) {
        printf("{\"items\":%zu,\"input_bytes\":%llu,\"output_bytes\":%llu,\"output_entropy_bits\":%.4f}\n", items.n,
               (unsigned long long)in, (unsigned long long)out, entropy);
        return EW_OK;
    }
    printf("items           %zu\n", items.n);
    printf("input           %llu bytes\noutput          %llu bytes\n", (unsigned long long)in, (unsigned long long)out);
    printf("output entropy  %.2f bits\n", entropy);
    return EW_OK;
}

static ew_status role_mask(const char *text, unsigned *ret_mask, ew_error *reterr)
{
    static const struct {
        const char *name;
        unsigned mask;
    } masks[] = {{"dev", 1u << EW_DEBIAN_DEV},
                 {"test", 1u << EW_DEBIAN_TEST},
                 {"pool", 1u << EW_DEBIAN_POOL},
                 {"eval", 1u << EW_DEBIAN_DEV | 1u << EW_DEBIAN_TEST},
                 {"all", ~0u}};
    for (size_t i = 0; i < EW_COUNT(masks); i++) {
        if (ew_str_eq(text, masks[i].name)) {
            *ret_mask = masks[i].mask;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EINVAL, "users '%s': should be dev, test, eval (both), pool or all", text);
}

static ew_status print_table(ew_table *t, ew_error *reterr)
{
    EW_AUTO_BUF out = {0};
    EW_TRY(ew_table_check(t, reterr));
    ew_table_text(t, &out);
    EW_TRY(ew_buf_check(&out, reterr));
    fputs(ew_buf_str(&out), stdout);
    return EW_OK;
}

static ew_status info_users(const ew_debian *d, unsigned mask, bool json, ew_error *reterr)
{
    EW_AUTO(ew_table) t = NULL;
    EW_TRY(ew_table_new(&t));
    ew_table_column(t, "user", EW_ALIGN_LEFT);
    ew_table_column(t, "role", EW_ALIGN_LEFT);
    ew_table_column(t, "items", EW_ALIGN_RIGHT);
    ew_table_column(t, "label entropy", EW_ALIGN_RIGHT);
    bool first = true;
    for (size_t i = 0; i < ew_debian_n_users(d); i++) {
        const ew_debian_user *u = ew_debian_user_at(d, i);
        if ((mask >> u->role & 1u) == 0) {
            continue;
        }
        if (json) {
            printf("%s{\"user\":\"%s\",\"role\":\"%s\",\"items\":%zu,\"entropy\":%.6f}", first ? "[" : ",\n ", u->hash,
                   ew_debian_role_name(u->role), u->n, u->entropy);
        } else {
            ew_table_row(t);
            ew_table_cell(t, u->hash);
            ew_table_cell(t, ew_debian_role_name(u->role));
            ew_table_cellf(t, "%zu", u->n);
            ew_table_cellf(t, "%.2f", u->entropy);
        }
        first = false;
    }
    if (json) {
        puts(first ? "[]" : "]");
        return EW_OK;
    }
    return print_table(t, reterr);
}

static ew_status run_info(const info_options *o, ew_error *reterr)
{
    if (o->file != NULL) {
        return info_file(o, reterr);
    }
    EW_AUTO(ew_debian) d = NULL;
    EW_TRY(open_debian(o->dir, &d, reterr));
    if (o->users != NULL) {
        unsigned mask = 0;
        EW_TRY(role_mask(o->users, &mask, reterr));
        return info_users(d, mask, o->json, reterr);
    }
    const ew_debian_info *i = ew_debian_info_of(d);
    if (o->json) {
        printf("{\"digest\":\"%s\",\"codename\":\"%s\",\"date\":\"%s\",\"items\":%llu,\"users\":%llu,\"dev\":%llu,"
               "\"test\":%llu,\"pool_items\":%llu}\n",
               i->digest, i->codename, i->date, (unsigned long long)i->n_items, (unsigned long long)i->n_users,
               (unsigned long long)i->n_dev, (unsigned long long)i->n_test, (unsigned long long)i->n_pool_items);
        return EW_OK;
    }
    printf("digest     %s\nrelease    %s %s, %s\n", i->digest, i->codename, i->arch, i->date);
    printf("items      %llu of %llu users, files checked\n", (unsigned long long)i->n_items,
           (unsigned long long)i->n_users);
    printf("held out   %llu dev, %llu test users\n", (unsigned long long)i->n_dev, (unsigned long long)i->n_test);
    printf("pool       %llu items\n", (unsigned long long)i->n_pool_items);
    return EW_OK;
}

int ew_cli_data_info(int argc, char **argv, void *ctx)
{
    (void)ctx;
    info_options o = {0};
    const ew_cli_opt opts[] = {
        {.name = "dir", .arg = "DIR", .type = EW_CLI_STRING, .out = &o.dir, .help = "directory of the benchmark"},
        {.name = "users",
         .arg = "ROLE",
         .type = EW_CLI_STRING,
         .out = &o.users,
         .help = "list the users: dev, test, eval, pool or all"},
        {.name = "json", .type = EW_CLI_FLAG, .out = &o.json, .help = "print JSON"},
    };
    const ew_cli_pos pos[] = {{.name = "FILE",
                               .type = EW_CLI_STRING,
                               .out = &o.file,
                               .optional = true,
                               .help = "a history in JSON Lines instead of the benchmark"}};
    int status = ew_cli_parse(&(ew_cli_spec){"data info",
                                             "Checks the benchmark (or a JSON Lines history) and says what it holds.",
                                             "  edgewise data info\n  edgewise data info --users dev\n"
                                             "  edgewise data info history.jsonl\n",
                                             opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = run_info(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(PROGRAM, st, &err);
}

/* --- split --- */
typedef struct split_options {
    char *dir, *task, *user, *file, *out;
    bool by_position, json;
} split_options;

static ew_status write_items(const char *dir, const char *name, const ew_item *items, size_t n, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_BUF text = {.max = (size_t)1 << 30};
    for (size_t i = 0; i < n; i++) {
        ew_item_write(&items[i], &text);
    }
    EW_TRY(ew_buf_check(&text, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, name, reterr));
    return ew_file_replace(path, ew_buf_str(&text), text.size, 0600, reterr);
}

static ew_status split_items(const split_options *o, ew_items *ret_items, ew_error *reterr)
{
    if (o->file != NULL) {
        return ew_items_read(o->file, ret_items, reterr);
    }
    if (o->user == NULL) {
        return ew_fail(reterr, EW_EINVAL,
                       "give a FILE, or --user HASH of the benchmark (edgewise data info --users dev)");
    }
    if (!is_debian_task(o->task)) {
        return unknown_task(o->task, reterr);
    }
    EW_AUTO(ew_debian) d = NULL;
    EW_TRY(open_debian(o->dir, &d, reterr));
    const ew_debian_user *u = ew_debian_user_find(d, o->user);
    if (u == NULL) {
        return ew_fail(reterr, EW_ENOENT, "no user '%s'. HINT: edgewise data info --users eval", o->user);
    }
    return ew_debian_items(d, ew_task_find(o->task), u, ret_items, reterr);
}

static ew_status run_split(const split_options *o, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(split_items(o, &items, reterr));
    ew_user_split s = ew_split_user(items.item, items.n, o->by_position ? EW_SPLIT_POSITION : EW_SPLIT_HASH);
    if (o->out != NULL) {
        EW_TRY(ew_dir_make(o->out, 0700, reterr));
        EW_TRY(write_items(o->out, "history.jsonl", items.item, s.n_history, reterr));
        EW_TRY(write_items(o->out, "val.jsonl", items.item + s.n_history, s.n_val, reterr));
        EW_TRY(write_items(o->out, "test.jsonl", items.item + s.n_history + s.n_val, s.n_test, reterr));
    }
    if (o->json) {
        printf("{\"history\":%zu,\"val\":%zu,\"test\":%zu}\n", s.n_history, s.n_val, s.n_test);
    } else {
        printf("history  %zu\nval      %zu\ntest     %zu\n", s.n_history, s.n_val, s.n_test);
    }
    return EW_OK;
}

int ew_cli_data_split(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char task[] = "debian-section";
    split_options o = {.task = task};
    const ew_cli_opt opts[] = {
        {.name = "dir", .arg = "DIR", .type = EW_CLI_STRING, .out = &o.dir, .help = "directory of the benchmark"},
        {.name = "task",
         .arg = "TASK",
         .type = EW_CLI_STRING,
         .out = &o.task,
         .help = "debian-section (default), debian-synopsis, debian-depends, debian-size"},
        {.name = "user", .arg = "HASH", .type = EW_CLI_STRING, .out = &o.user, .help = "user of the benchmark"},
        {.name = "by-position",
         .type = EW_CLI_FLAG,
         .out = &o.by_position,
         .help = "history is the past, test the latest (default: fixed order by hash)"},
        {.name = "out",
         .letter = 'o',
         .arg = "DIR",
         .type = EW_CLI_STRING,
         .out = &o.out,
         .help = "write history.jsonl, val.jsonl and test.jsonl there"},
        {.name = "json", .type = EW_CLI_FLAG, .out = &o.json, .help = "print JSON"},
    };
    const ew_cli_pos pos[] = {
        {.name = "FILE", .type = EW_CLI_STRING, .out = &o.file, .optional = true, .help = "a history in JSON Lines"}};
    int status =
        ew_cli_parse(&(ew_cli_spec){"data split", "Splits a history 60/20/20 into history, validation and test items.",
                                    "  edgewise data split history.jsonl --out parts\n"
                                    "  edgewise data split --user 00ab… --task debian-synopsis --out parts\n",
                                    opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
                     argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = run_split(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(PROGRAM, st, &err);
}

/* --- baselines --- */
typedef struct baseline_options {
    char *dir, *task, *role, *file;
    int64_t seed;
    bool json;
} baseline_options;

typedef struct score_column {
    const char *name;
    size_t offset; /* in ew_scores */
} score_column;

static const score_column score_columns[] = {
    {"accuracy", offsetof(ew_scores, accuracy)}, {"macro-F1", offsetof(ew_scores, macro_f1)},
    {"MAE", offsetof(ew_scores, mae)},           {"RMSE", offsetof(ew_scores, rmse)},
    {"ROUGE-1", offsetof(ew_scores, rouge1)},    {"ROUGE-L", offsetof(ew_scores, rougeL)},
};

static double score_at(const ew_scores *s, size_t column)
{
    double v;
    memcpy(&v, (const char *)s + score_columns[column].offset, sizeof(v));
    return v;
}

static ew_status collect(const baseline_options *o, const char *task, groups *g, ew_error *reterr)
{
    if (o->file != NULL) {
        EW_AUTO_ITEMS items = {0};
        EW_TRY(ew_items_read(o->file, &items, reterr));
        return groups_add(g, "file", task, EW_SPLIT_HASH, &items, reterr);
    }
    if (!is_debian_task(task)) {
        return unknown_task(task, reterr);
    }
    unsigned mask = 0;
    EW_TRY(role_mask(o->role, &mask, reterr));
    EW_AUTO(ew_debian) d = NULL;
    EW_TRY(open_debian(o->dir, &d, reterr));
    for (ew_debian_role r = EW_DEBIAN_DEV; r <= EW_DEBIAN_TEST; r++) {
        if ((mask >> r & 1u) != 0) {
            EW_TRY(add_users(g, d, task, r, reterr));
        }
    }
    return EW_OK;
}

/* One row per baseline: the mean over users of each score with its interval. values: [n_users][EW_BASELINE_COUNT]. */
static ew_status print_rows(const baseline_options *o, const ew_task *t, const ew_scores *values, size_t n_users,
                            size_t n_items, ew_table *table, ew_error *reterr)
{
    double *x = ew_calloc(n_users + 1, sizeof(*x));
    if (x == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the scores");
    }
    for (int b = 0; b < EW_BASELINE_COUNT; b++) {
        if (!ew_baseline_applies(t, (ew_baseline)b)) {
            continue;
        }
        ew_table_row(table);
        ew_table_cell(table, t->name);
        ew_table_cell(table, ew_baseline_name((ew_baseline)b));
        ew_table_cellf(table, "%zu", n_users);
        ew_table_cellf(table, "%zu", n_items);
        for (size_t c = 0; c < EW_COUNT(score_columns); c++) {
            for (size_t u = 0; u < n_users; u++) {
                x[u] = score_at(&values[u * EW_BASELINE_COUNT + (size_t)b], c);
            }
            ew_interval i = ew_bootstrap_mean(x, n_users, 0, 0.95, (uint64_t)o->seed);
            if (isnan(i.mean)) {
                ew_table_cell(table, "-");
            } else if (n_users > 1) {
                ew_table_cellf(table, "%.3f [%.3f, %.3f]", i.mean, i.low, i.high);
            } else {
                ew_table_cellf(table, "%.3f", i.mean);
            }
            if (o->json && !isnan(i.mean)) {
                printf("{\"task\":\"%s\",\"baseline\":\"%s\",\"users\":%zu,\"score\":\"%s\",\"mean\":%.6f,"
                       "\"low\":%.6f,\"high\":%.6f}\n",
                       t->name, ew_baseline_name((ew_baseline)b), n_users, score_columns[c].name, i.mean, i.low,
                       i.high);
            }
        }
    }
    ew_free(x);
    return EW_OK;
}

static ew_status task_rows(const baseline_options *o, const char *task, ew_table *table, ew_error *reterr)
{
    EW_CLEANUP(groups_release) groups g = {0};
    EW_TRY(collect(o, task, &g, reterr));
    if (g.n == 0) {
        return ew_fail(reterr, EW_ENOENT, "no user of role '%s' has enough items for %s", o->role, task);
    }
    ew_scores *values = ew_calloc(g.n * EW_BASELINE_COUNT, sizeof(*values));
    if (values == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the scores");
    }
    ew_status st = EW_OK;
    size_t n_items = 0;
    for (size_t i = 0; st == EW_OK && i < g.n; i++) {
        group *x = &g.group[i];
        ew_user_split s = ew_split_user(x->items.item, x->items.n, EW_SPLIT_HASH);
        n_items += s.n_test;
        st = ew_baseline_scores(x->task, x->items.item, s.n_history, x->items.item + s.n_history + s.n_val, s.n_test,
                                &values[i * EW_BASELINE_COUNT], reterr);
        if (ew_signal_stop()) {
            st = ew_fail(reterr, EW_ECANCELLED, "stopped");
        }
    }
    if (st == EW_OK) {
        st = print_rows(o, g.group[0].task, values, g.n, n_items, table, reterr);
    }
    ew_free(values);
    return st;
}

static ew_status run_baselines(const baseline_options *o, ew_error *reterr)
{
    EW_AUTO(ew_table) table = NULL;
    EW_TRY(ew_table_new(&table));
    ew_table_column(table, "task", EW_ALIGN_LEFT);
    ew_table_column(table, "baseline", EW_ALIGN_LEFT);
    ew_table_column(table, "users", EW_ALIGN_RIGHT);
    ew_table_column(table, "test items", EW_ALIGN_RIGHT);
    for (size_t c = 0; c < EW_COUNT(score_columns); c++) {
        ew_table_column(table, score_columns[c].name, EW_ALIGN_RIGHT);
    }
    if (o->task != NULL) {
        EW_TRY(task_rows(o, o->task, table, reterr));
    } else if (o->file != NULL) {
        EW_TRY(task_rows(o, "custom", table, reterr));
    } else {
        EW_TRY(task_rows(o, "debian-section", table, reterr));
        EW_TRY(task_rows(o, "debian-synopsis", table, reterr));
        EW_TRY(task_rows(o, "debian-depends", table, reterr));
        EW_TRY(task_rows(o, "debian-size", table, reterr));
    }
    return o->json ? EW_OK : print_table(table, reterr);
}

int ew_cli_data_baselines(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char role[] = "dev";
    baseline_options o = {.role = role, .seed = 1};
    const ew_cli_opt opts[] = {
        {.name = "dir", .arg = "DIR", .type = EW_CLI_STRING, .out = &o.dir, .help = "directory of the benchmark"},
        {.name = "task",
         .arg = "TASK",
         .type = EW_CLI_STRING,
         .out = &o.task,
         .help = "one task (default: both of the benchmark; for a FILE custom)"},
        {.name = "users",
         .arg = "ROLE",
         .type = EW_CLI_STRING,
         .out = &o.role,
         .help = "dev (default), test or eval: both"},
        {.name = "seed", .arg = "N", .type = EW_CLI_I64, .out = &o.seed, .help = "of the bootstrap (default 1)"},
        {.name = "json", .type = EW_CLI_FLAG, .out = &o.json, .help = "print JSON Lines"},
    };
    const ew_cli_pos pos[] = {{.name = "FILE",
                               .type = EW_CLI_STRING,
                               .out = &o.file,
                               .optional = true,
                               .help = "a history in JSON Lines instead of the benchmark"}};
    int status = ew_cli_parse(&(ew_cli_spec){"data baselines",
                                             "Scores the trivial answers on test items: the user's majority label, the "
                                             "answer of the nearest history item (BM25), the first eight words. Means "
                                             "over users with 95 % bootstrap intervals.",
                                             "  edgewise data baselines\n"
                                             "  edgewise data baselines history.jsonl --task custom-classify\n",
                                             opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = run_baselines(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(PROGRAM, st, &err);
}

const ew_cli_command ew_cli_data_commands[] = {
    {.name = "debian",
     .args_doc = "[--dir DIR]",
     .summary = "make the debian benchmark from the package index",
     .run = ew_cli_data_debian},
    {.name = "info", .args_doc = "[FILE]", .summary = "what the benchmark or a history holds", .run = ew_cli_data_info},
    {.name = "split",
     .args_doc = "FILE | --user HASH",
     .summary = "history, validation and test items",
     .run = ew_cli_data_split},
    {.name = "baselines",
     .args_doc = "[FILE]",
     .summary = "scores of the trivial answers",
     .run = ew_cli_data_baselines},
    {.name = "lamp",
     .args_doc = "QUESTIONS --out DIR",
     .summary = "LaMP's profiles as histories to learn from",
     .run = ew_cli_data_lamp},
};
const size_t ew_cli_n_data_commands = EW_COUNT(ew_cli_data_commands);

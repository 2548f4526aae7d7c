/* data import|list|export, forget, model list: the profile, opened here (two processes may have it open). */
#include <stdio.h>
#include <string.h>

#include "agent_cli/app.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "task/import.h"
#include "text/json.h"

typedef struct data_args {
    char *dir;
    char *file, *id, *text, *format, *user;
    bool json, all, each_turn, skip_bad;
} data_args;

#define DIR_OPT(o)                                                                                                     \
    {                                                                                                                  \
        "dir", 'd', "DIR", EW_CLI_STRING, &(o).dir,                                                                    \
            .help = "the agent's directory (default: EW_AGENT_DIR, or ~/.local/share/edgewise-agent)"                  \
    }
#define JSON_OPT(o)                                                                                                    \
    {                                                                                                                  \
        "json", 0, NULL, EW_CLI_FLAG, &(o).json, .help = "print JSON"                                                  \
    }

/* Works before enrolment too: a profile may be there first. */
static ew_status open_vault(const ew_agent_app *app, const char *dir, ew_vault **ret_vault, ew_error *reterr)
{
    ew_home h;
    EW_TRY(ew_home_init(dir, &h, reterr));
    return ew_home_vault(&h, app->credentials, ret_vault, reterr);
}

#define BAD_SHOWN 5u

static void show_bad(const char *message, void *ctx)
{
    size_t *n = ctx;
    if (++*n <= BAD_SHOWN) {
        (void)fprintf(stderr, "left out: %s\n", message);
    }
}

static ew_status import(const ew_agent_app *app, const data_args *o, ew_error *reterr)
{
    EW_AUTO(ew_vault) v = NULL;
    EW_AUTO_ITEMS items = {0};
    ew_import_report read;
    ew_vault_import_result r;
    size_t n_bad = 0;
    ew_import_opt opt = {
        .each_turn = o->each_turn, .skip_bad = o->skip_bad, .user = o->user, .on_bad = show_bad, .ctx = &n_bad};
    if (o->format != NULL) {
        EW_TRY(ew_import_format_parse(o->format, &opt.format, reterr));
    }
    EW_TRY(ew_import(o->file, &opt, &items, &read, reterr));
    EW_TRY(open_vault(app, o->dir, &v, reterr));
    EW_TRY(ew_vault_add_items(v, &items, &r, reterr));
    if (n_bad > BAD_SHOWN) {
        (void)fprintf(stderr, "… and %zu more\n", n_bad - BAD_SHOWN);
    }
    if (o->json) {
        (void)printf(
            "{\"format\":\"%s\",\"read\":%zu,\"added\":%zu,\"known\":%zu,\"left_out\":%zu,\"shortened\":%zu}\n",
            ew_import_format_name(read.format), r.n_read, r.n_added, r.n_known, n_bad, read.n_shortened);
        return EW_OK;
    }
    (void)printf("%zu items added, %zu were there already\n", r.n_added, r.n_known);
    if (n_bad > 0) {
        (void)printf("%zu bad records were left out\n", n_bad);
    }
    return EW_OK;
}

static int cmd_import(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    data_args o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {
        DIR_OPT(o),
        JSON_OPT(o),
        {"format", 0, "NAME", EW_CLI_STRING, &o.format,
         .help = "auto (default), records, chat, alpaca, sharegpt, lamp"},
        {"each-turn", 0, NULL, EW_CLI_FLAG, &o.each_turn,
         .help = "conversations: an item for each answer, not for the last one alone"},
        {"user", 0, "ID", EW_CLI_STRING, &o.user, .help = "lamp: the question whose profile is taken"},
        {"skip-bad", 0, NULL, EW_CLI_FLAG, &o.skip_bad,
         .help = "leave out records that cannot be read, and say which"}};
    const ew_cli_pos pos[] = {{"FILE", EW_CLI_STRING, &o.file, .help = "JSON Lines or a JSON array of records"}};
    const ew_cli_spec spec = {
        .command = "data import",
        .doc = "Adds a person's history to the profile, encrypted at rest. Lines like {\"input\": …, \"output\": …}; "
               "chats ({\"messages\": …}), ShareGPT, Alpaca, LaMP and the usual other forms (prompt/completion, "
               "question/answer, text/label) are recognised, as lines or as one JSON array. All or nothing; importing "
               "twice changes nothing.",
        .examples = "  edgewise-agent data import history.jsonl\n"
                    "  edgewise-agent data import chats.json --each-turn --skip-bad\n",
        .opts = opts,
        .n_opts = EW_COUNT(opts),
        .pos = pos,
        .n_pos = EW_COUNT(pos)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = import(app, &o, &err);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

static void print_line(const char *label, const char *text)
{
    (void)printf("  %s ", label);
    for (size_t i = 0; text[i] != '\0' && i < 100; i++) {
        (void)putchar((unsigned char)text[i] < 0x20 ? ' ' : text[i]);
    }
    (void)printf("%s\n", strlen(text) > 100 ? "…" : "");
}

static ew_status list(const ew_agent_app *app, const data_args *o, bool whole, ew_error *reterr)
{
    EW_AUTO(ew_vault) v = NULL;
    EW_AUTO_ITEMS items = {0};
    EW_TRY(open_vault(app, o->dir, &v, reterr));
    if (whole || o->json) {
        EW_AUTO_BUF text = {.max = 1024 * EW_MIB};
        EW_TRY(ew_vault_export(v, &text, reterr));
        (void)fwrite(ew_buf_str(&text), 1, text.size, stdout);
        return EW_OK;
    }
    EW_TRY(ew_vault_items(v, &items, reterr));
    for (size_t i = 0; i < items.n; i++) {
        (void)printf("%s\n", items.item[i].id);
        print_line("in ", items.item[i].input);
        print_line("out", items.item[i].output);
    }
    (void)fprintf(stderr, "%zu items\n", items.n);
    return EW_OK;
}

static int list_or_export(int argc, char **argv, void *ctx, bool whole)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    data_args o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {DIR_OPT(o), JSON_OPT(o)};
    const ew_cli_spec spec = {.command = whole ? "data export" : "data list",
                              .doc = whole ? "Writes the whole profile as JSON Lines to standard output."
                                           : "Lists the profile's items, shortened.",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = list(app, &o, whole, &err);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

static int cmd_list(int argc, char **argv, void *ctx)
{
    return list_or_export(argc, argv, ctx, false);
}

static int cmd_export(int argc, char **argv, void *ctx)
{
    return list_or_export(argc, argv, ctx, true);
}

const ew_cli_command ew_agent_data_commands[] = {
    {"import", "FILE", "add a history to the profile", .run = cmd_import},
    {"list", NULL, "list the items, shortened", .run = cmd_list},
    {"export", NULL, "write the whole profile as JSON Lines", .run = cmd_export},
};
const size_t ew_agent_n_data_commands = EW_COUNT(ew_agent_data_commands);

static ew_status forget(const ew_agent_app *app, const data_args *o, ew_error *reterr)
{
    EW_AUTO(ew_vault) v = NULL;
    ew_vault_forget_result r;
    const ew_vault_match match = {.all = o->all, .id = o->id, .text = o->text};
    EW_TRY(open_vault(app, o->dir, &v, reterr));
    EW_TRY(ew_vault_forget(v, &match, &r, reterr));
    /* What was being learned from them is forgotten too. */
    ew_home h;
    EW_TRY(ew_home_init(o->dir, &h, reterr));
    EW_TRY(ew_home_sweep(&h, ".tune", reterr));
    if (o->json) {
        (void)printf("{\"items\":%zu,\"adapters_flagged\":%zu}\n", r.n_items, r.n_adapters);
    } else {
        (void)printf("%zu items forgotten; %zu adapters that learned from them are no longer used%s\n", r.n_items,
                     r.n_adapters, r.n_adapters > 0 ? ". HINT: edgewise-agent learn" : "");
    }
    return EW_OK;
}

int ew_agent_cmd_forget(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    data_args o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {
        DIR_OPT(o),
        JSON_OPT(o),
        {"all", 0, NULL, EW_CLI_FLAG, &o.all, .help = "everything"},
        {"id", 0, "ID", EW_CLI_STRING, &o.id, .help = "the item with this id"},
        {"text", 0, "TEXT", EW_CLI_STRING, &o.text, .help = "items that hold TEXT, ignoring case"}};
    const ew_cli_spec spec = {.command = "forget",
                              .doc = "Removes items from the profile and its index, overwrites them on the disk, and "
                                     "stops using adapters that learned from them.",
                              .examples =
                                  "  edgewise-agent forget --id mail-17\n  edgewise-agent forget --text 'project x'\n",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = forget(app, &o, &err);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

static ew_status models(const data_args *o, ew_error *reterr)
{
    ew_home h;
    char dir[EW_HOME_PATH_MAX];
    ew_dir_list files = {0};
    char size[24];
    EW_TRY(ew_home_init(o->dir, &h, reterr));
    EW_TRY(ew_dir_read(ew_home_path(&h, "artifacts", dir), &files, reterr));
    for (size_t i = 0; i < files.n; i++) {
        const ew_dir_entry *e = &files.entry[i];
        if (o->json) {
            (void)printf("{\"file\":\"%s\",\"bytes\":%llu}\n", e->name, (unsigned long long)e->size);
        } else {
            (void)printf("%10s  %s%s\n", ew_str_bytes(size, sizeof(size), e->size), e->name,
                         ew_str_ends(e->name, ".part") ? "  (download not finished)" : "");
        }
    }
    ew_dir_list_release(&files);
    return EW_OK;
}

int ew_agent_cmd_model_list(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    data_args o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {DIR_OPT(o), JSON_OPT(o)};
    const ew_cli_spec spec = {
        .command = "model list", .doc = "Lists the models on this device.", .opts = opts, .n_opts = EW_COUNT(opts)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = models(&o, &err);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

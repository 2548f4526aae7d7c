/* adapter list|use|rollback|remove|merge: what was learned, and which of it is served. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent_cli/app.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/json.h"

typedef struct adapter_args {
    ew_agent_local o;
    int64_t id;
    char *task, *out;
    bool f16;
} adapter_args;

static bool is_served(const json_t *all, const json_t *adapter)
{
    const json_t *task =
        json_object_get(json_object_get(json_object_get(all, "active"), "tasks"), ew_agent_app_text(adapter, "task"));
    return ew_agent_app_int(json_object_get(task, "now"), "adapter") == ew_agent_app_int(adapter, "id");
}

static void print_list(const json_t *all)
{
    size_t i;
    json_t *a;
    char size[24];
    (void)printf("%6s  %-24s %-12s %-12s %9s %6s %10s %10s\n", "id", "task", "method", "model", "size", "items",
                 "NLL before", "after");
    json_array_foreach(json_object_get(all, "adapters"), i, a)
    {
        (void)printf("%6lld  %-24s %-12s %-12.12s %9s %6lld %10.4f %10.4f  %s\n", (long long)ew_agent_app_int(a, "id"),
                     ew_agent_app_text(a, "task"), ew_agent_app_text(a, "method"), ew_agent_app_text(a, "base"),
                     ew_str_bytes(size, sizeof(size), (uint64_t)ew_agent_app_int(a, "bytes")),
                     (long long)ew_agent_app_int(a, "items"), json_number_value(json_object_get(a, "nll_base")),
                     json_number_value(json_object_get(a, "nll")),
                     json_is_true(json_object_get(a, "flagged")) ? "flagged: it learned from items that were forgotten"
                     : is_served(all, a)                         ? "served"
                                                                 : "");
    }
}

static int run(const ew_agent_app *app, const adapter_args *x, const char *what)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON result = NULL;
    EW_AUTO_JSON req = json_pack("{s:s,s:s,s:I,s:s?,s:s?,s:b}", "verb", "adapter", "do", what, "id", (json_int_t)x->id,
                                 "task", x->task, "out", x->out, "keep_types", !x->f16);
    ew_status st = req != NULL ? EW_OK : ew_fail(&err, EW_EINVAL, "an argument is not valid UTF-8");
    if (st == EW_OK) {
        st = ew_agent_app_verb(app, &x->o, req, what, NULL, &result, &err);
    }
    if (st != EW_OK) {
        return ew_agent_app_fail(st, &err);
    }
    if (x->o.json) {
        st = ew_agent_app_print(result, &err);
        return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
    }
    if (strcmp(what, "list") == 0) {
        print_list(result);
    } else if (json_object_get(result, "task") != NULL) {
        (void)printf("served for %s: method %s, adapter %lld\n", ew_agent_app_text(result, "task"),
                     ew_agent_app_text(result, "method"), (long long)ew_agent_app_int(result, "adapter"));
    }
    return 0;
}

static int parse_and_run(const char *what, const char *doc, bool with_id, int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    adapter_args x = {.o = {.dir = (char *)(uintptr_t)app->dir}};
    char command[32];
    (void)snprintf(command, sizeof(command), "adapter %s", what);
    const ew_cli_opt opts[] = {
        EW_AGENT_LOCAL_OPTS(x.o, app),
        {"task", 0, "NAME", EW_CLI_STRING, &x.task, .help = "the task (default: the one that was learned last)"}};
    bool with_task = strcmp(what, "rollback") == 0;
    const ew_cli_pos pos[] = {{"ID", EW_CLI_I64, &x.id, .help = "of `adapter list`"}};
    const ew_cli_spec spec = {.command = command,
                              .doc = doc,
                              .opts = opts,
                              .n_opts = with_task ? EW_COUNT(opts) : EW_COUNT(opts) - 1,
                              .pos = pos,
                              .n_pos = with_id ? 1 : 0};
    int status = ew_cli_parse(&spec, argc, argv);
    return status != EW_CLI_GO ? status : run(app, &x, what);
}

static int cmd_list(int argc, char **argv, void *ctx)
{
    return parse_and_run("list", "Lists the adapters that are kept.", false, argc, argv, ctx);
}

static int cmd_use(int argc, char **argv, void *ctx)
{
    return parse_and_run("use", "Serves this adapter from now on for its task.", true, argc, argv, ctx);
}

static int cmd_rollback(int argc, char **argv, void *ctx)
{
    return parse_and_run("rollback",
                         "Goes back to what was served before, in the end to the plain model. What learned from "
                         "forgotten items is passed over.",
                         false, argc, argv, ctx);
}

static int cmd_remove(int argc, char **argv, void *ctx)
{
    return parse_and_run("remove", "Removes an adapter that is not served, and overwrites it on the disk.", true, argc,
                         argv, ctx);
}

/* The agent works in another directory. */
static ew_status absolute(const char *out, ew_buf *dst, ew_error *reterr)
{
    char cwd[4096];
    if (out[0] != '/') {
        if (getcwd(cwd, sizeof(cwd)) == NULL) {
            return ew_fail_errno(reterr, errno, "the working directory");
        }
        ew_buf_addf(dst, "%s/", cwd);
    }
    ew_buf_adds(dst, out);
    return ew_buf_check(dst, reterr);
}

static int cmd_merge(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    adapter_args x = {.o = {.dir = (char *)(uintptr_t)app->dir}};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF path = {0};
    const ew_cli_opt opts[] = {
        EW_AGENT_LOCAL_OPTS(x.o, app),
        {"id", 0, "ID", EW_CLI_I64, &x.id, .help = "the adapter (default: the one that is served)", .max = 9e15},
        {"f16", 0, NULL, EW_CLI_FLAG, &x.f16, .help = "changed weights become F16 instead of the base's types"}};
    const ew_cli_pos pos[] = {{"OUT.gguf", EW_CLI_STRING, &x.out, .help = "the file to write"}};
    const ew_cli_spec spec = {.command = "adapter merge",
                              .doc =
                                  "Writes the base with the adapter in its weights as a GGUF file of its own. It holds "
                                  "what was learned, in the clear: keep it as you would keep the history.",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts),
                              .pos = pos,
                              .n_pos = EW_COUNT(pos)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = absolute(x.out, &path, &err);
    if (st != EW_OK) {
        return ew_agent_app_fail(st, &err);
    }
    x.out = path.data;
    return run(app, &x, "merge");
}

const ew_cli_command ew_agent_adapter_commands[] = {
    {"list", NULL, "the adapters that are kept", .run = cmd_list},
    {"use", "ID", "serve this one", .run = cmd_use},
    {"rollback", NULL, "go back to what was served before", .run = cmd_rollback},
    {"remove", "ID", "remove one that is not served", .run = cmd_remove},
    {"merge", "OUT.gguf", "write base and adapter as one model", .run = cmd_merge},
};
const size_t ew_agent_n_adapter_commands = EW_COUNT(ew_agent_adapter_commands);

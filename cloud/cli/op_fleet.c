/* Tokens, devices, trials and evidence. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/op.h"
#include "sys/file.h"
#include "sys/term.h"
#include "text/json.h"

#define EVIDENCE_FILE_MAX (64u * 1024 * 1024)
#define EVIDENCE_BATCH 200u /* per request: well below a frame */

ew_status ew_cli_op_open(const ew_cli_op *o, ew_opclient **ret_client, ew_error *reterr)
{
    const char *bundle = o->bundle != NULL ? o->bundle : getenv("EDGEWISE_OPERATOR");
    if (bundle == NULL) {
        return ew_fail(reterr, EW_EINVAL,
                       "which coordinator? Give --operator DIR (made by `edgewise-coordinator init`: DIR/operator) or "
                       "set EDGEWISE_OPERATOR");
    }
    return ew_opclient_open(bundle, o->endpoint, ret_client, reterr);
}

ew_status ew_cli_op_call(const ew_cli_op *o, const char *verb, const json_t *in, json_t **ret_out, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_TRY(ew_cli_op_open(o, &c, reterr));
    return ew_opclient_call(c, verb, in, ret_out, reterr);
}

int ew_cli_op_end(ew_status st, const ew_error *err)
{
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, err);
}

static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s != NULL ? s : "";
}

static const char *time_of(const json_t *j, const char *key, char dst[static 25])
{
    json_int_t ms = json_integer_value(json_object_get(j, key));
    return ms > 0 ? ew_wall_iso(dst, (uint64_t)ms) : "never";
}

static ew_status print_table(const ew_table *t, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_table_check(t, reterr));
    ew_table_text(t, &text);
    EW_TRY(ew_buf_check(&text, reterr));
    (void)fputs(ew_buf_str(&text), stdout);
    return EW_OK;
}

static ew_status make_table(const char *const *titles, size_t n, ew_table **ret, ew_error *reterr)
{
    if (ew_table_new(ret) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a table");
    }
    for (size_t i = 0; i < n; i++) {
        ew_table_column(*ret, titles[i], EW_ALIGN_LEFT);
    }
    return EW_OK;
}

/* ---- token create */

static int run_token_create(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char none[] = "";
    char *hardware = none, *device = none;
    double ttl = 24 * 3600;
    const ew_cli_opt opts[] = {
        {"ttl", 0, "TIME", EW_CLI_SECONDS, &ttl, .help = "how long it can be used, at most 24h (default)", .min = 1,
         .max = 24 * 3600},
        {"device", 0, "NAME", EW_CLI_STRING, &device, .help = "name of the device (default: made from its key)"},
        {"hardware-id", 0, "ID", EW_CLI_STRING, &hardware, .help = "only the machine with this id may use it"},
        EW_CLI_OP_OPTS(o)};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "token create",
                                             .doc = "Prints one token: a device enrols with it, once.",
                                             .examples = "  edgewise token create --operator co/operator\n",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON in = json_pack("{s:I, s:s, s:s}", "ttl_s", (json_int_t)ttl, "hardware_id", hardware, "device", device);
    EW_AUTO_JSON out = NULL;
    ew_status st = ew_cli_op_call(&o, "token.create", in, &out, &err);
    if (st == EW_OK && o.json) {
        st = ew_cli_put_json(out, &err);
    } else if (st == EW_OK) {
        (void)printf("%s\n", text_of(out, "token"));
    }
    return ew_cli_op_end(st, &err);
}

/* ---- device list, show, revoke */

static ew_status print_devices(const json_t *out, ew_error *reterr)
{
    static const char *const titles[] = {"device", "status", "link", "last seen", "certificate until"};
    char seen[25], until[25];
    size_t i = 0;
    json_t *d = NULL;
    EW_AUTO(ew_table) t = NULL;
    EW_TRY(make_table(titles, EW_COUNT(titles), &t, reterr));
    json_array_foreach(json_object_get(out, "devices"), i, d)
    {
        ew_table_row(t);
        ew_table_cell(t, text_of(d, "id"));
        ew_table_cell(t, text_of(d, "status"));
        ew_table_cell(t, json_is_true(json_object_get(d, "connected")) ? "connected" : "-");
        ew_table_cell(t, time_of(d, "last_seen_unix_ms", seen));
        ew_table_cell(t, time_of(d, "cert_not_after_unix_ms", until));
    }
    return print_table(t, reterr);
}

static int run_device_list(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    const ew_cli_opt opts[] = {EW_CLI_OP_OPTS(o)};
    int status = ew_cli_parse(
        &(ew_cli_spec){
            .command = "device list", .doc = "Lists the devices of the fleet.", .opts = opts, .n_opts = EW_COUNT(opts)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON out = NULL;
    ew_status st = ew_cli_op_call(&o, "device.list", NULL, &out, &err);
    if (st == EW_OK) {
        st = o.json ? ew_cli_put_json(out, &err) : print_devices(out, &err);
    }
    return ew_cli_op_end(st, &err);
}

/* show and revoke differ in verb and in what they print. */
static int device_verb(const ew_cli_spec *spec, const ew_cli_op *o, char *const *id, const char *verb, int argc,
                       char **argv)
{
    int status = ew_cli_parse(spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON in = json_pack("{s:s}", "id", *id);
    EW_AUTO_JSON out = NULL;
    ew_status st =
        in == NULL ? ew_fail(&err, EW_EINVAL, "the id is not UTF-8") : ew_cli_op_call(o, verb, in, &out, &err);
    if (st == EW_OK && (o->json || strcmp(verb, "device.show") == 0)) {
        st = ew_cli_put_json(out, &err);
    } else if (st == EW_OK) {
        (void)printf("revoked %s\n", *id);
    }
    return ew_cli_op_end(st, &err);
}

static int run_device_show(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char *id = NULL;
    const ew_cli_opt opts[] = {EW_CLI_OP_OPTS(o)};
    const ew_cli_pos pos[] = {{"DEVICE", EW_CLI_STRING, &id, .help = "id of the device"}};
    const ew_cli_spec spec = {.command = "device show",
                              .doc = "What is known of one device: what it is, what it measured, how it is now.",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts),
                              .pos = pos,
                              .n_pos = EW_COUNT(pos)};
    return device_verb(&spec, &o, &id, "device.show", argc, argv);
}

static int run_device_revoke(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char *id = NULL;
    const ew_cli_opt opts[] = {EW_CLI_OP_OPTS(o)};
    const ew_cli_pos pos[] = {{"DEVICE", EW_CLI_STRING, &id, .help = "id of the device"}};
    const ew_cli_spec spec = {.command = "device revoke",
                              .doc = "Cuts a device off, now and for good.",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts),
                              .pos = pos,
                              .n_pos = EW_COUNT(pos)};
    return device_verb(&spec, &o, &id, "device.revoke", argc, argv);
}

/* ---- trial list */

static ew_status print_trials(const json_t *list, ew_error *reterr)
{
    static const char *const titles[] = {"trial", "device", "task", "variant", "method", "state", "tries", "progress"};
    size_t i = 0;
    json_t *t = NULL;
    EW_AUTO(ew_table) table = NULL;
    EW_TRY(make_table(titles, EW_COUNT(titles), &table, reterr));
    json_array_foreach(list, i, t)
    {
        const json_t *spec = json_object_get(t, "spec");
        ew_table_row(table);
        ew_table_cellf(table, "%.8s", text_of(t, "trial"));
        ew_table_cell(table, text_of(t, "device"));
        ew_table_cell(table, text_of(spec, "task"));
        ew_table_cell(table, text_of(spec, "variant"));
        ew_table_cell(table, text_of(spec, "method"));
        ew_table_cell(table, text_of(t, "state"));
        ew_table_cellf(table, "%lld", (long long)json_integer_value(json_object_get(t, "attempts")));
        ew_table_cellf(table, "%lld/%lld %s", (long long)json_integer_value(json_object_get(t, "done")),
                       (long long)json_integer_value(json_object_get(t, "total")), text_of(t, "phase"));
    }
    return print_table(table, reterr);
}

/* All pages of a listing verb: key of the list, name of the paging parameter. */
static ew_status all_pages(const ew_cli_op *o, const char *verb, const char *experiment, const char *key,
                           const char *cursor, json_t **ret, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON all = json_array();
    EW_TRY(ew_cli_op_open(o, &c, reterr));
    json_int_t at = 0;
    for (bool more = true; more;) {
        EW_AUTO_JSON in = json_pack("{s:I, s:s*}", cursor, at, "experiment", experiment);
        EW_AUTO_JSON out = NULL;
        EW_TRY(ew_opclient_call(c, verb, in, &out, reterr));
        if (json_array_extend(all, json_object_get(out, key)) != 0) {
            return ew_fail(reterr, EW_EREMOTE, "the coordinator's answer to %s has no list '%s'", verb, key);
        }
        const json_t *next = json_object_get(out, "next");
        more = json_is_integer(next) && json_integer_value(next) > at;
        at = json_integer_value(next);
    }
    *ret = all;
    all = NULL;
    return EW_OK;
}

static int run_trial_list(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char *experiment = NULL;
    const ew_cli_opt opts[] = {
        {"experiment", 'e', "ID", EW_CLI_STRING, &experiment, .help = "only the trials of this experiment"},
        EW_CLI_OP_OPTS(o)};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "trial list",
                                             .doc = "Lists the trials in the queue and those that are done.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON list = NULL;
    ew_status st = all_pages(&o, "trial.list", experiment, "trials", "offset", &list, &err);
    if (st == EW_OK) {
        st = o.json ? ew_cli_put_json(list, &err) : print_trials(list, &err);
    }
    return ew_cli_op_end(st, &err);
}

/* ---- evidence export, import */

static int run_evidence_export(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char *out_path = NULL;
    const ew_cli_opt opts[] = {
        {"out", 'o', "FILE", EW_CLI_STRING, &out_path, .help = "write to FILE (default: stdout)"}, EW_CLI_OP_OPTS(o)};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "evidence export",
                                             .doc = "Writes the finished trials that plans rest on, as JSON.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON list = NULL;
    EW_AUTO_BUF text = {0};
    ew_status st = all_pages(&o, "evidence.export", NULL, "evidence", "after", &list, &err);
    EW_AUTO_JSON file = json_pack("{s:O*}", "evidence", list);
    if (st == EW_OK && out_path == NULL) {
        st = ew_cli_put_json(file, &err);
    } else if (st == EW_OK) {
        st = ew_json_dump(file, EW_JSON_PRETTY, &text, &err);
        if (st == EW_OK) {
            st = ew_file_replace(out_path, text.data, text.size, 0644, &err);
        }
    }
    return ew_cli_op_end(st, &err);
}

static ew_status import_file(const ew_cli_op *o, const char *path, size_t *ret_added, size_t *ret_known,
                             ew_error *reterr)
{
    EW_AUTO_JSON file = NULL;
    EW_AUTO(ew_opclient) c = NULL;
    json_t *list = NULL;
    EW_TRY(ew_json_load_file(path, EVIDENCE_FILE_MAX, &file, reterr));
    EW_TRY(ew_json_get_arr(file, path, "evidence", &list, reterr));
    EW_TRY(ew_cli_op_open(o, &c, reterr));
    for (size_t at = 0; at < json_array_size(list); at += EVIDENCE_BATCH) {
        EW_AUTO_JSON batch = json_array();
        for (size_t i = at; i < json_array_size(list) && i < at + EVIDENCE_BATCH; i++) {
            (void)json_array_append(batch, json_array_get(list, i));
        }
        EW_AUTO_JSON in = json_pack("{s:O}", "evidence", batch);
        EW_AUTO_JSON out = NULL;
        EW_TRY(ew_opclient_call(c, "evidence.import", in, &out, reterr));
        *ret_added += (size_t)json_integer_value(json_object_get(out, "added"));
        *ret_known += (size_t)json_integer_value(json_object_get(out, "known"));
    }
    return EW_OK;
}

static int run_evidence_import(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    char *path = NULL;
    size_t added = 0, known = 0;
    const ew_cli_opt opts[] = {EW_CLI_OP_OPTS(o)};
    const ew_cli_pos pos[] = {{"FILE", EW_CLI_STRING, &path, .help = "what `evidence export` wrote"}};
    int status =
        ew_cli_parse(&(ew_cli_spec){.command = "evidence import",
                                    .doc = "Gives plans the trials of another fleet to rest on. A trial that is "
                                           "known already counts once.",
                                    .opts = opts,
                                    .n_opts = EW_COUNT(opts),
                                    .pos = pos,
                                    .n_pos = EW_COUNT(pos)},
                     argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = import_file(&o, path, &added, &known, &err);
    if (st == EW_OK && o.json) {
        EW_AUTO_JSON j = json_pack("{s:I, s:I}", "added", (json_int_t)added, "known", (json_int_t)known);
        st = ew_cli_put_json(j, &err);
    } else if (st == EW_OK) {
        (void)printf("%zu trials added, %zu known already\n", added, known);
    }
    return ew_cli_op_end(st, &err);
}

const ew_cli_command ew_cli_token_commands[] = {
    {"create", "--operator DIR", "print a token with which one device enrols", .run = run_token_create}};
const size_t ew_cli_n_token_commands = EW_COUNT(ew_cli_token_commands);
const ew_cli_command ew_cli_device_commands[] = {
    {"list", "--operator DIR", "list the devices", .run = run_device_list},
    {"show", "DEVICE --operator DIR", "what is known of one device", .run = run_device_show},
    {"revoke", "DEVICE --operator DIR", "cut a device off", .run = run_device_revoke}};
const size_t ew_cli_n_device_commands = EW_COUNT(ew_cli_device_commands);
const ew_cli_command ew_cli_trial_commands[] = {
    {"list", "--operator DIR", "list the trials and their state", .run = run_trial_list}};
const size_t ew_cli_n_trial_commands = EW_COUNT(ew_cli_trial_commands);
const ew_cli_command ew_cli_evidence_commands[] = {
    {"export", "--operator DIR", "write the finished trials as JSON", .run = run_evidence_export},
    {"import", "FILE --operator DIR", "let plans rest on trials of another fleet", .run = run_evidence_import}};
const size_t ew_cli_n_evidence_commands = EW_COUNT(ew_cli_evidence_commands);

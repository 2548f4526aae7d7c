/* `edgewise plan show`: what a device would be told now, and why. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/op.h"
#include "record/record.h"
#include "show/show.h"
#include "text/json.h"

typedef struct plan_args {
    ew_cli_op op;
    char *device, *task, *objective;
    uint64_t ram;
    double seconds;
    int64_t items, labels;
} plan_args;

static ew_status put(json_t *j, const char *key, json_t *value, ew_error *reterr)
{
    return json_object_set_new(j, key, value) == 0 ? EW_OK : ew_fail(reterr, EW_EINVAL, "'%s' is not UTF-8", key);
}

static ew_status make_request(const plan_args *a, json_t *in, ew_error *reterr)
{
    EW_TRY(put(in, "device", json_string(a->device), reterr));
    EW_TRY(put(in, "task", json_string(a->task), reterr));
    if (a->objective != NULL) {
        EW_TRY(put(in, "objective", json_string(a->objective), reterr));
    }
    if (a->ram != 0) {
        EW_TRY(put(in, "ram_bytes", json_integer((json_int_t)a->ram), reterr));
    }
    if (a->seconds > 0) {
        EW_TRY(put(in, "seconds", json_real(a->seconds), reterr));
    }
    if (a->items >= 0) {
        EW_TRY(put(in, "n_items", json_integer(a->items), reterr));
    }
    return a->labels >= 0 ? put(in, "n_labels", json_integer(a->labels), reterr) : EW_OK;
}

static ew_status print_plan(const json_t *out, ew_error *reterr)
{
    json_t *j = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_json_get_obj(out, "plan", "plan", &j, reterr));
    ew_plan *p = ew_calloc(1, sizeof *p);
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a plan");
    }
    ew_status st = ew_record_to_plan(j, p, reterr);
    if (st == EW_OK) {
        ew_show_plan_text(p, &text);
        st = ew_buf_check(&text, reterr);
    }
    ew_free(p);
    EW_TRY(st);
    (void)fputs(ew_buf_str(&text), stdout);
    return EW_OK;
}

static int run_plan_show(int argc, char **argv, void *ctx)
{
    (void)ctx;
    plan_args a = {.items = -1, .labels = -1};
    const ew_cli_opt opts[] = {
        {"ram", 0, "BYTES", EW_CLI_BYTES, &a.ram, .help = "plan as if that were the limit (64M, 1.5G)"},
        {"time", 0, "TIME", EW_CLI_SECONDS, &a.seconds, .help = "time for learning (default 4h)"},
        {"items", 0, "N", EW_CLI_I64, &a.items, .help = "items of history (default: as the device last said)"},
        {"labels", 0, "N", EW_CLI_I64, &a.labels,
         .help = "labels of the task, 0 = a text (default: as the device said)"},
        {"objective", 0, "WHAT", EW_CLI_STRING, &a.objective, .help = "score (default), latency, energy"},
        EW_CLI_OP_OPTS(a.op)};
    const ew_cli_pos pos[] = {{"DEVICE", EW_CLI_STRING, &a.device, .help = "id of the device"},
                              {"TASK", EW_CLI_STRING, &a.task, .help = "debian-section, …"}};
    int status =
        ew_cli_parse(&(ew_cli_spec){.command = "plan show",
                                    .doc = "Plans for a device with what is known now and prints the choice, its "
                                           "predictions and its reasons. Nothing is sent to the device.",
                                    .opts = opts,
                                    .n_opts = EW_COUNT(opts),
                                    .pos = pos,
                                    .n_pos = EW_COUNT(pos)},
                     argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON in = json_object();
    EW_AUTO_JSON out = NULL;
    ew_status st = make_request(&a, in, &err);
    if (st == EW_OK) {
        st = ew_cli_op_call(&a.op, "plan.show", in, &out, &err);
    }
    if (st == EW_OK) {
        st = a.op.json ? ew_cli_put_json(out, &err) : print_plan(out, &err);
    }
    return ew_cli_op_end(st, &err);
}

const ew_cli_command ew_cli_plan_commands[] = {
    {"show", "DEVICE TASK --operator DIR", "what a device would be told now, and why", .run = run_plan_show}};
const size_t ew_cli_n_plan_commands = EW_COUNT(ew_cli_plan_commands);

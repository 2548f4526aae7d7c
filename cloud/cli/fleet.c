/* `edgewise fleet show`: what every device was told to do, and what came of it, beside what was predicted. */
#include "cli/fleet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/op.h"
#include "record/record.h"
#include "sys/term.h"
#include "text/json.h"

typedef struct fleet_args {
    ew_cli_op op; /* the coordinator */
    bool all;
} fleet_args;

static ew_status read_evidence(ew_opclient *c, json_t **ret_list, ew_error *reterr)
{
    EW_AUTO_JSON all = json_array();
    json_int_t after = 0;
    for (;;) {
        EW_AUTO_JSON out = NULL;
        EW_AUTO_JSON in = json_pack("{s:I}", "after", after);
        json_t *list = NULL;
        EW_TRY(ew_opclient_call(c, "evidence.export", in, &out, reterr));
        EW_TRY(ew_json_get_arr(out, "evidence.export", "evidence", &list, reterr));
        (void)json_array_extend(all, list);
        json_t *next = json_object_get(out, "next");
        if (next == NULL) {
            break;
        }
        after = json_integer_value(next);
    }
    *ret_list = json_incref(all);
    return EW_OK;
}

static void pair_cell(ew_table *t, const char *fmt, double a, double b)
{
    if (isfinite(a) && isfinite(b)) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        ew_table_cellf(t, fmt, a, b);
#pragma GCC diagnostic pop
    } else {
        ew_table_cell(t, "–");
    }
}

static void number_cell(ew_table *t, double v)
{
    if (isfinite(v)) {
        ew_table_cellf(t, "%.3f", v);
    } else {
        ew_table_cell(t, "–");
    }
}

static void add_row(ew_table *t, const char *device, const char *model, const ew_trial_result *r)
{
    char up[24];
    char down[24];
    const double mib = (double)EW_MIB;
    ew_table_row(t);
    ew_table_cell(t, device);
    ew_table_cell(t, r->spec.task);
    ew_table_cellf(t, "%s %s + %s", model, r->spec.variant, ew_method_name(r->spec.method));
    pair_cell(t, "%.3f -> %.3f", ew_trial_result_mean(r, "base.test.score"), ew_trial_result_mean(r, "test.score"));
    pair_cell(t, "%.3f -> %.3f", ew_trial_result_mean(r, "base.test.nll"), ew_trial_result_mean(r, "test.nll"));
    ew_table_cell(t, ew_trial_result_mean(r, "gate") > 0 ? "personalised" : "base");
    number_cell(t, ew_trial_result_mean(r, "baseline.majority"));
    number_cell(t, ew_trial_result_mean(r, "baseline.nearest"));
    number_cell(t, ew_trial_result_mean(r, "baseline.first8"));
    pair_cell(t, "%.1f / %.1f", ew_trial_result_mean(r, "seconds.predicted"), ew_trial_result_mean(r, "seconds"));
    pair_cell(t, "%.1f / %.1f", ew_trial_result_mean(r, "ram.predicted_bytes") / mib,
              ew_trial_result_mean(r, "ram.peak_bytes") / mib);
    ew_table_cellf(t, "%s / %s",
                   ew_str_bytes(up, sizeof(up), (uint64_t)fmax(0, ew_trial_result_mean(r, "link.bytes_out"))),
                   ew_str_bytes(down, sizeof(down), (uint64_t)fmax(0, ew_trial_result_mean(r, "link.bytes_in"))));
}

/* The trials that devices chose themselves, by plan, on their own profiles; with --all experiments' too. */
static ew_status fill(const json_t *evidence, bool all, ew_table *t, ew_error *reterr)
{
    size_t i;
    json_t *e;
    ew_trial_result *r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
    }
    ew_status st = EW_OK;
    json_array_foreach((json_t *)(uintptr_t)evidence, i, e)
    {
        const char *device = json_string_value(json_object_get(e, "device"));
        const char *model = json_string_value(json_object_get(e, "model_name"));
        st = ew_record_to_result(json_object_get(e, "result"), r, reterr);
        if (st == EW_OK) {
            st = ew_record_to_spec(json_object_get(e, "spec"), &r->spec, reterr);
        }
        if (st != EW_OK) {
            break;
        }
        if (all || strcmp(r->spec.source, "profile") == 0) {
            add_row(t, device != NULL ? device : "?", model != NULL ? model : "?", r);
        }
    }
    ew_free(r);
    return st;
}

static ew_status show(const fleet_args *o, ew_error *reterr)
{
    static const char *const titles[] = {
        "device",   "task",    "plan",    "test score",          "test answer NLL",     "served",
        "majority", "nearest", "first 8", "seconds pred./meas.", "RAM MiB pred./meas.", "bytes up / down"};
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON evidence = NULL;
    EW_AUTO(ew_table) t = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_cli_op_open(&o->op, &c, reterr));
    EW_TRY(read_evidence(c, &evidence, reterr));
    if (o->op.json) {
        return ew_cli_put_json(evidence, reterr);
    }
    EW_TRY(ew_table_new(&t));
    for (size_t i = 0; i < EW_COUNT(titles); i++) {
        ew_table_column(t, titles[i], i < 3 ? EW_ALIGN_LEFT : EW_ALIGN_RIGHT);
    }
    EW_TRY(fill(evidence, o->all, t, reterr));
    EW_TRY(ew_table_check(t, reterr));
    ew_table_text(t, &text);
    (void)fputs(ew_buf_str(&text), stdout);
    return EW_OK;
}

static int cmd_show(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_error err = EW_ERROR_INIT;
    fleet_args o = {0};
    const ew_cli_opt opts[] = {
        EW_CLI_OP_OPTS(o.op),
        {.name = "all", .letter = 'a', .type = EW_CLI_FLAG, .out = &o.all, .help = "trials of experiments too"},
    };
    int code =
        ew_cli_parse(&(ew_cli_spec){.command = "fleet show",
                                    .doc = "What every device did under its plan: scores before and after, the trivial "
                                           "baselines, seconds and peak memory "
                                           "as predicted and as measured, and the bytes that went over the wire.",
                                    .examples = "  edgewise fleet show --operator ./co/operator\n",
                                    .opts = opts,
                                    .n_opts = EW_COUNT(opts)},
                     argc, argv);
    if (code != EW_CLI_GO) {
        return code;
    }
    ew_status st = show(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

const ew_cli_command ew_cli_fleet_commands[] = {
    {"show", NULL, "what every device did under its plan", .run = cmd_show},
};
const size_t ew_cli_n_fleet_commands = EW_COUNT(ew_cli_fleet_commands);

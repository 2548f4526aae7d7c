/* status, plan, learn, chat, consent: asked of the running agent, or done here when none runs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "agent_cli/app.h"
#include "base/mem.h"
#include "base/str.h"
#include "record/record.h"
#include "show/show.h"
#include "sys/term.h"
#include "text/json.h"

static int verb_and_print(const ew_agent_app *app, const ew_agent_local *o, json_t *request, const char *label,
                          ew_status (*print)(const json_t *result, ew_error *reterr))
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON req = request;
    EW_AUTO_JSON result = NULL;
    ew_status st = req != NULL ? EW_OK : ew_fail(&err, EW_EINVAL, "an argument is not valid UTF-8");
    if (st == EW_OK) {
        st = ew_agent_app_verb(app, o, req, label, NULL, &result, &err);
    }
    if (st == EW_OK) {
        st = o->json ? ew_agent_app_print(result, &err) : print(result, &err);
    }
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

static int parse(const char *command, const char *doc, const char *examples, const ew_cli_opt *opts, size_t n_opts,
                 const ew_cli_pos *pos, size_t n_pos, int argc, char **argv)
{
    const ew_cli_spec spec = {.command = command,
                              .doc = doc,
                              .examples = examples,
                              .opts = opts,
                              .n_opts = n_opts,
                              .pos = pos,
                              .n_pos = n_pos};
    return ew_cli_parse(&spec, argc, argv);
}

/* ---- status ---- */

static void print_learning(const json_t *l)
{
    const json_t *last = json_object_get(l, "last");
    const json_t *m = json_object_get(last, "measures");
    const json_t *before = json_object_get(m, "old.before.nll");
    (void)printf("learning         %s, %lld new items", ew_agent_app_text(l, "state"),
                 (long long)ew_agent_app_int(l, "new_items"));
    if (json_is_string(json_object_get(l, "next"))) {
        (void)printf("; %s", ew_agent_app_text(l, "next"));
    }
    (void)printf("\n");
    if (json_is_object(last)) {
        (void)printf("learned last     %s: %s\n", ew_agent_app_text(last, "at"),
                     strcmp(ew_agent_app_text(last, "code"), "EW_OK") == 0 ? ew_agent_app_text(last, "decision")
                                                                           : ew_agent_app_text(last, "message"));
    }
    if (before != NULL) {
        (void)printf("old items        answer NLL %.4f before, %.4f after it\n", json_number_value(before),
                     json_number_value(json_object_get(m, "old.after.nll")));
    }
}

static ew_status print_status(const json_t *s, ew_error *reterr)
{
    char a[24];
    char b[24];
    (void)reterr;
    const json_t *session = json_object_get(s, "session");
    const json_t *now = json_object_get(s, "now");
    const json_t *active = json_object_get(s, "active");
    (void)printf("device           %s\n", ew_agent_app_text(s, "device"));
    (void)printf("session          %s, %s sent, %s received\n", ew_agent_app_text(session, "state"),
                 ew_str_bytes(a, sizeof(a), (uint64_t)ew_agent_app_int(session, "bytes_out")),
                 ew_str_bytes(b, sizeof(b), (uint64_t)ew_agent_app_int(session, "bytes_in")));
    (void)printf("profile          %lld items\n", (long long)ew_agent_app_int(s, "profile_items"));
    (void)printf("trials           %lld waiting, %lld results to send\n",
                 (long long)ew_agent_app_int(s, "trials_waiting"), (long long)ew_agent_app_int(s, "results_waiting"));
    if (json_is_object(now)) {
        (void)printf("working on       %s: %s %lld/%lld\n", ew_agent_app_text(now, "what"),
                     ew_agent_app_text(now, "phase"), (long long)ew_agent_app_int(now, "done"),
                     (long long)ew_agent_app_int(now, "total"));
    }
    if (json_is_object(active)) {
        (void)printf("serving          %s %s, method %s, task %s\n", ew_agent_app_text(active, "name"),
                     ew_agent_app_text(active, "variant"), ew_agent_app_text(active, "method"),
                     ew_agent_app_text(active, "task"));
    }
    print_learning(json_object_get(s, "learning"));
    (void)printf("memory           peak %s of this process\n",
                 ew_str_bytes(a, sizeof(a), (uint64_t)ew_agent_app_int(s, "ram_peak_bytes")));
    (void)printf("offload          %s\n",
                 json_is_true(json_object_get(s, "consent_offload")) ? "agreed to" : "off: hidden states stay here");
    const json_t *ledger = json_object_get(s, "ledger");
    if (json_is_object(ledger)) {
        (void)printf("offloaded so far %s sent, %s received in %lld answers\n",
                     ew_str_bytes(a, sizeof(a), (uint64_t)ew_agent_app_int(ledger, "offload_bytes_out")),
                     ew_str_bytes(b, sizeof(b), (uint64_t)ew_agent_app_int(ledger, "offload_bytes_in")),
                     (long long)ew_agent_app_int(ledger, "offload_answers"));
    }
    return EW_OK;
}

int ew_agent_cmd_status(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_agent_local o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {EW_AGENT_LOCAL_OPTS(o, app)};
    int status = parse("status", "Shows who this device is, its session, trials, plan, and what is served.", NULL, opts,
                       EW_COUNT(opts), NULL, 0, argc, argv);
    return status != EW_CLI_GO ? status
                               : verb_and_print(app, &o, json_pack("{s:s}", "verb", "status"), "probe", print_status);
}

/* ---- plan and learn ---- */

static ew_status print_plan(const json_t *j, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    ew_plan *p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a plan");
    }
    ew_status st = ew_record_to_plan(j, p, reterr);
    if (st == EW_OK) {
        ew_show_plan_text(p, &text);
        (void)fputs(ew_buf_str(&text), stdout);
    }
    ew_free(p);
    return st;
}

int ew_agent_cmd_plan(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    char *task = NULL;
    ew_agent_local o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {
        EW_AGENT_LOCAL_OPTS(o, app),
        {"task", 0, "NAME", EW_CLI_STRING, &task, .help = "custom, custom-classify, … (default: custom)"}};
    int status = parse(
        "plan",
        "Asks the coordinator which model, compression and method suit this device and its profile; shows the reasons.",
        NULL, opts, EW_COUNT(opts), NULL, 0, argc, argv);
    return status != EW_CLI_GO
               ? status
               : verb_and_print(app, &o, json_pack("{s:s,s:s?}", "verb", "plan", "task", task), "plan", print_plan);
}

static void print_pair(const ew_trial_result *r, const char *what, const char *base, const char *method,
                       const char *fmt_note)
{
    double b = ew_trial_result_mean(r, base);
    double m = ew_trial_result_mean(r, method);
    if (isfinite(b) && isfinite(m)) {
        (void)printf("%-22s %10.4f -> %10.4f   %s\n", what, b, m, fmt_note);
    }
}

static ew_status print_learned(const json_t *j, ew_error *reterr)
{
    char a[24];
    char b[24];
    ew_trial_result *r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a result");
    }
    ew_status st = print_plan(json_object_get(j, "plan"), reterr);
    if (st == EW_OK) {
        st = ew_record_to_result(json_object_get(j, "result"), r, reterr);
    }
    if (st == EW_OK) {
        (void)printf("\n%-22s %10s    %10s\n", "", "before", "after");
        print_pair(r, "validation score", "base.val.score", "val.score", "decides, with the answer NLL");
        print_pair(r, "validation answer NLL", "base.val.nll", "val.nll", "nats per token, lower is better");
        print_pair(r, "test score", "base.test.score", "test.score", "never looked at for a decision");
        print_pair(r, "test answer NLL", "base.test.nll", "test.nll", "");
        (void)printf("seconds                %10.1f   predicted %.1f\n", ew_trial_result_mean(r, "seconds"),
                     ew_trial_result_mean(r, "seconds.predicted"));
        (void)printf("peak memory            %10s   predicted %s\n",
                     ew_str_bytes(a, sizeof(a), (uint64_t)ew_trial_result_mean(r, "ram.peak_bytes")),
                     ew_str_bytes(b, sizeof(b), (uint64_t)ew_trial_result_mean(r, "ram.predicted_bytes")));
        print_pair(r, "against what was served", "served.val.nll", "val.nll", "validation answer NLL");
        print_pair(r, "old items' answer NLL", "old.before.nll", "old.after.nll", "not learned again: forgetting");
        const char *stop = ew_agent_app_text(j, "stop");
        if (json_is_true(json_object_get(j, "diverged")) || json_is_true(json_object_get(j, "unfinished"))) {
            (void)printf("training ended early: %s\n", stop);
        }
        double truncated = ew_trial_result_mean(r, "tune.truncated");
        if (truncated > 0) {
            (void)printf("%.0f items are longer than the model's context: their beginnings were left out\n", truncated);
        }
        const char *decision = ew_agent_app_text(j, "decision");
        (void)printf("%s\n",
                     strcmp(decision, "new") == 0
                         ? "The personalised model is better on validation items: it is served from now on."
                     : strcmp(decision, "kept") == 0
                         ? "What is served already is better on validation items: it is kept."
                         : "The personalised model is not better on validation items: the plain model is served.");
    }
    ew_free(r);
    return st;
}

typedef struct learn_args {
    char *task;
    double max_seconds, max_joules, max_temperature, replay;
    int64_t seed;
    bool last, mains, update, pause, resume, stop;
} learn_args;

static ew_status print_order(const json_t *j, ew_error *reterr)
{
    (void)reterr;
    (void)printf("learning: %s\n", ew_agent_app_text(j, "state"));
    return EW_OK;
}

static int run_learn(const ew_agent_app *app, const ew_agent_local *o, const learn_args *l)
{
    const char *order = l->pause ? "pause" : l->resume ? "resume" : l->stop ? "stop" : NULL;
    if (order != NULL) {
        return verb_and_print(app, o, json_pack("{s:s,s:s}", "verb", "learn", "order", order), "learn", print_order);
    }
    json_t *req = json_pack("{s:s,s:s?,s:f,s:f,s:f,s:b,s:b,s:s,s:f,s:I}", "verb", "learn", "task", l->task,
                            "max_seconds", l->max_seconds, "max_joules", l->max_joules, "max_temperature",
                            l->max_temperature, "only_on_mains", l->mains, "use_last_plan", l->last, "mode",
                            l->update ? "update" : "anew", "replay", l->replay, "seed", (json_int_t)l->seed);
    return verb_and_print(app, o, req, "learn", print_learned);
}

int ew_agent_cmd_learn(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    learn_args l = {.seed = 1};
    ew_agent_local o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {
        EW_AGENT_LOCAL_OPTS(o, app),
        {"task", 0, "NAME", EW_CLI_STRING, &l.task,
         .help = "custom, custom-classify, debian-section, … (default: custom)"},
        {"update", 0, NULL, EW_CLI_FLAG, &l.update,
         .help = "go on with what is served: learn what is new and a sample of what is old"},
        {"replay", 0, "X", EW_CLI_F64, &l.replay, .help = "with --update: old items for each new one (default: 1)",
         .max = 1000},
        {"max-time", 0, "TIME", EW_CLI_SECONDS, &l.max_seconds, .help = "learn at most so long (90s, 20m, 2h)"},
        {"max-joules", 0, "J", EW_CLI_F64, &l.max_joules, .help = "use at most so much energy", .max = 1e9},
        {"max-temperature", 0, "C", EW_CLI_F64, &l.max_temperature, .help = "stop training when it is hotter",
         .max = 150},
        {"only-on-mains", 0, NULL, EW_CLI_FLAG, &l.mains, .help = "stop training on battery"},
        {"seed", 0, "N", EW_CLI_I64, &l.seed, .help = "seed of the adapter and the order of examples", .max = 9e15},
        {"last-plan", 0, NULL, EW_CLI_FLAG, &l.last, .help = "do not ask the coordinator; use the last plan"},
        {"pause", 0, NULL, EW_CLI_FLAG, &l.pause, .help = "pause the learning that is going on; its memory is freed"},
        {"resume", 0, NULL, EW_CLI_FLAG, &l.resume, .help = "go on with it where it was"},
        {"stop", 0, NULL, EW_CLI_FLAG, &l.stop, .help = "give it up"}};
    int status = parse("learn",
                       "Learns from the profile under the coordinator's plan: fetches the model, trains, and serves "
                       "the result if it is better on validation items than the plain model and than what is served. "
                       "Answers come first meanwhile. Stopped or killed, it goes on where it was.",
                       "  edgewise-agent data import history.jsonl\n  edgewise-agent learn --task custom\n"
                       "  edgewise-agent learn --update --max-time 20m --only-on-mains\n"
                       "  edgewise-agent learn --pause\n",
                       opts, EW_COUNT(opts), NULL, 0, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    if (l.pause + l.resume + l.stop > 1) {
        ew_error err = EW_ERROR_INIT;
        ew_status st = ew_fail(&err, EW_EINVAL, "--pause, --resume and --stop: one of them");
        return ew_agent_app_fail(st, &err);
    }
    return run_learn(app, &o, &l);
}

/* ---- chat ---- */

static bool show_text(const char *text, size_t size, void *ctx)
{
    (void)ctx;
    return fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0;
}

static void print_chat_stats(const json_t *s)
{
    const json_t *offload = json_object_get(s, "offload");
    char a[24];
    char b[24];
    if (json_is_object(offload)) {
        (void)fprintf(
            stderr, "offload: %s out, %s in, %lld trips, %.2f s waiting%s%s\n",
            ew_str_bytes(a, sizeof(a), (uint64_t)ew_agent_app_int(offload, "bytes_out")),
            ew_str_bytes(b, sizeof(b), (uint64_t)ew_agent_app_int(offload, "bytes_in")),
            (long long)ew_agent_app_int(offload, "trips"), json_number_value(json_object_get(offload, "wait_s")),
            json_is_true(json_object_get(offload, "went_local")) ? "; the link was lost, the rest was computed here: "
                                                                 : "",
            json_is_true(json_object_get(offload, "went_local")) ? ew_agent_app_text(offload, "why") : "");
    }
    if (json_object_get(s, "agreement") != NULL) {
        (void)fprintf(stderr, "agreement with the local answer: %.1f %% of tokens\n",
                      100 * json_number_value(json_object_get(s, "agreement")));
    }
}

static ew_status chat_once(const ew_agent_app *app, const ew_agent_local *o, const json_t *options, const char *prompt,
                           ew_error *reterr)
{
    EW_AUTO_JSON req = json_copy((json_t *)(uintptr_t)options);
    EW_AUTO_JSON result = NULL;
    json_t *text = json_string(prompt);
    if (text == NULL) {
        return ew_fail(reterr, EW_EINVAL, "the prompt is not valid UTF-8");
    }
    (void)json_object_set_new(req, "prompt", text);
    EW_TRY(ew_agent_app_verb(app, o, req, "chat", o->json ? NULL : show_text, &result, reterr));
    if (o->json) {
        return ew_agent_app_print(result, reterr);
    }
    (void)printf("\n");
    print_chat_stats(result);
    return EW_OK;
}

/* Lines of standard input are prompts. */
static ew_status chat_loop(const ew_agent_app *app, const ew_agent_local *o, const json_t *options, ew_error *reterr)
{
    char line[8192];
    (void)fprintf(stderr, "One prompt per line; end with Ctrl-D.\n> ");
    while (fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0') {
            EW_TRY(chat_once(app, o, options, line, reterr));
        }
        (void)fprintf(stderr, "> ");
    }
    return EW_OK;
}

int ew_agent_cmd_chat(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    char *prompt = NULL;
    char *task = NULL;
    int64_t adapter = 0;
    int64_t max_tok = 0;
    int64_t seed = 0;
    int64_t first = 0;
    int64_t last = 0;
    double temperature = 0;
    bool raw = false;
    bool plain = false;
    bool offload = false;
    bool exact = false;
    bool compare = false;
    ew_agent_local o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {
        EW_AGENT_LOCAL_OPTS(o, app),
        {"raw", 0, NULL, EW_CLI_FLAG, &raw, .help = "continue the prompt as it is, without the task's format"},
        {"plain", 0, NULL, EW_CLI_FLAG, &plain, .help = "without the personal adapter"},
        {"task", 0, "NAME", EW_CLI_STRING, &task, .help = "as it was learned for this task (default: learned last)"},
        {"adapter", 0, "ID", EW_CLI_I64, &adapter, .help = "with this adapter (see: adapter list)", .max = 9e15},
        {"max-tok", 'n', "N", EW_CLI_I64, &max_tok, .help = "longest answer (default: the task's)", .max = 1000000},
        {"temperature", 0, "X", EW_CLI_F64, &temperature, .help = "0 = the likeliest token (default)", .min = 0,
         .max = 100},
        {"seed", 0, "N", EW_CLI_I64, &seed, .help = "of sampling", .max = 9e15},
        {"offload", 0, NULL, EW_CLI_FLAG, &offload,
         .help = "run the middle layers at the coordinator (needs your consent)"},
        {"first-layer", 0, "A", EW_CLI_I64, &first, .help = "with --offload: layers [A, B) run there", .max = 65535},
        {"last-layer", 0, "B", EW_CLI_I64, &last, .help = "with --offload: layers [A, B) run there", .max = 65535},
        {"exact", 0, NULL, EW_CLI_FLAG, &exact,
         .help = "reference kernels, and f32 activations with --offload: bit-equal answers"},
        {"compare", 0, NULL, EW_CLI_FLAG, &compare, .help = "answer again locally and report how many tokens agree"},
    };
    const ew_cli_pos pos[] = {
        {"PROMPT", EW_CLI_STRING, &prompt, .optional = true, .help = "without it: prompts are read line by line"}};
    int status = parse("chat", "Answers with the model and adapter that are served. Works with the coordinator gone.",
                       "  edgewise-agent chat 'A small library to parse JSON'\n  edgewise-agent chat --raw --offload "
                       "'Once upon a time'\n",
                       opts, EW_COUNT(opts), pos, EW_COUNT(pos), argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    EW_AUTO_JSON req =
        json_pack("{s:s,s:s?,s:I,s:b,s:b,s:I,s:f,s:I,s:b,s:I,s:I,s:b,s:b}", "verb", "chat", "task", task, "adapter",
                  (json_int_t)adapter, "raw", raw, "plain", plain, "max_tok", (json_int_t)max_tok, "temperature",
                  temperature, "seed", (json_int_t)seed, "offload", offload, "first_layer", (json_int_t)first,
                  "last_layer", (json_int_t)last, "exact", exact, "compare", compare);
    ew_status st = prompt != NULL ? chat_once(app, &o, req, prompt, &err) : chat_loop(app, &o, req, &err);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

/* ---- consent ---- */

static ew_status print_consent(const json_t *j, ew_error *reterr)
{
    (void)reterr;
    (void)printf("offload is %s\n", json_is_true(json_object_get(j, "offload"))
                                        ? "agreed to: with `chat --offload`, hidden states leave this device; most of "
                                          "a text can be reconstructed from them"
                                        : "off: hidden states stay on this device");
    return EW_OK;
}

int ew_agent_cmd_consent(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    char *what = NULL;
    char *choice = NULL;
    ew_agent_local o = {.dir = (char *)(uintptr_t)app->dir};
    const ew_cli_opt opts[] = {EW_AGENT_LOCAL_OPTS(o, app)};
    const ew_cli_pos pos[] = {{"WHAT", EW_CLI_STRING, &what, .help = "offload"},
                              {"CHOICE", EW_CLI_STRING, &choice, .help = "on or off"}};
    int status = parse("consent", "Says what may leave this device. Off until you agree.",
                       "  edgewise-agent consent offload on\n", opts, EW_COUNT(opts), pos, EW_COUNT(pos), argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    if (strcmp(what, "offload") != 0 || (strcmp(choice, "on") != 0 && strcmp(choice, "off") != 0)) {
        ew_status st = ew_fail(&err, EW_EINVAL, "consent offload on, or consent offload off");
        return ew_agent_app_fail(st, &err);
    }
    return verb_and_print(app, &o, json_pack("{s:s,s:b}", "verb", "consent", "offload", strcmp(choice, "on") == 0),
                          "consent", print_consent);
}

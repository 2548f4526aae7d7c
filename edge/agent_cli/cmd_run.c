/* run: the daemon. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "agent_cli/app.h"
#include "base/log.h"
#include "base/mem.h"
#include "sys/config.h"
#include "sys/notify.h"
#include "sys/signal.h"
#include "sys/term.h"

#define OPEN_TRIES 40
#define OPEN_WAIT_MS 250

typedef struct run_conf {
    char *dir, *log, *device_class, *capture;
    uint64_t memory_limit;
    int64_t threads, keepalive_ms, backoff_cap_ms;
    char *learn_at, *learn_task, *learn_mode;
    double learn_every, learn_quiet, learn_max_time, learn_max_joules, learn_max_temperature, learn_replay;
    int64_t learn_min_new;
    bool learn_on_mains;
} run_conf;

static const ew_config_key run_keys[] = {
    {"dir", EW_CONFIG_STRING, offsetof(run_conf, dir), "", .help = "the agent's directory"},
    {"log", EW_CONFIG_STRING, offsetof(run_conf, log), "all=info",
     .help = "what is logged: component=level, … (error warn notice info debug)"},
    {"device-class", EW_CONFIG_STRING, offsetof(run_conf, device_class), "",
     .help = "the operator's word for this kind of device, e.g. pi5-8g"},
    {"memory-limit", EW_CONFIG_BYTES, offsetof(run_conf, memory_limit), "0",
     .help = "stay under this, learning included (300M, 1.5G); 0 = no limit"},
    {"threads", EW_CONFIG_I64, offsetof(run_conf, threads), "0", .min = 0, .max = 1024,
     .help = "threads; 0 = all cores"},
    {"keepalive-ms", EW_CONFIG_I64, offsetof(run_conf, keepalive_ms), "0", .min = 0, .max = 240000,
     .help = "ping after so long without traffic; 0 = what the coordinator says"},
    {"backoff-cap-ms", EW_CONFIG_I64, offsetof(run_conf, backoff_cap_ms), "300000", .min = 100, .max = 3600000,
     .help = "longest wait between attempts to connect"},
    {"capture", EW_CONFIG_STRING, offsetof(run_conf, capture), "",
     .help = "file that gets a copy of every message in both directions, decrypted, so that you can check what leaves "
             "this device"},
    {"learn-at", EW_CONFIG_STRING, offsetof(run_conf, learn_at), "",
     .help = "learn by itself at this time of day, HH:MM; empty = not"},
    {"learn-every", EW_CONFIG_SECONDS, offsetof(run_conf, learn_every), "0", .min = 0, .max = 366.0 * 86400,
     .help = "learn by itself every so often (12h, 7d); 0 = not"},
    {"learn-min-new", EW_CONFIG_I64, offsetof(run_conf, learn_min_new), "8", .min = 1, .max = 1e6,
     .help = "only with so many new items"},
    {"learn-on-mains", EW_CONFIG_BOOL, offsetof(run_conf, learn_on_mains), "true", .help = "only on mains power"},
    {"learn-quiet", EW_CONFIG_SECONDS, offsetof(run_conf, learn_quiet), "60", .min = 0, .max = 86400,
     .help = "only so long after the last answer"},
    {"learn-task", EW_CONFIG_STRING, offsetof(run_conf, learn_task), "",
     .help = "task; empty = the one that is served"},
    {"learn-mode", EW_CONFIG_STRING, offsetof(run_conf, learn_mode), "auto",
     .help = "anew, update (new items and a replay of old ones, from what is served) or auto"},
    {"learn-replay", EW_CONFIG_F64, offsetof(run_conf, learn_replay), "1", .min = 0.01, .max = 1000,
     .help = "update: old items for each new one"},
    {"learn-max-time", EW_CONFIG_SECONDS, offsetof(run_conf, learn_max_time), "0", .min = 0, .max = 86400,
     .help = "at most so long; 0 = what the plan says"},
    {"learn-max-joules", EW_CONFIG_F64, offsetof(run_conf, learn_max_joules), "0", .min = 0, .max = 1e9,
     .help = "at most so much energy; 0 = no limit"},
    {"learn-max-temperature", EW_CONFIG_F64, offsetof(run_conf, learn_max_temperature), "0", .min = 0, .max = 150,
     .help = "stop training above so many degrees Celsius; 0 = no limit"},
};

static void on_event(void *ctx, const char *event, const char *text)
{
    (void)ctx;
    bool bad = strcmp(event, "connect-failed") == 0 || strcmp(event, "trial-waits") == 0 ||
               strcmp(event, "offload-lost") == 0 || strcmp(event, "result-refused") == 0 ||
               strcmp(event, "learn-failed") == 0 || strcmp(event, "learn-state") == 0;
    EW_LOG(bad ? EW_LOG_WARN : EW_LOG_INFO, "agent", event, "%s", text);
}

static ew_status load_config(const ew_agent_app *app, const char *file, const ew_cli_strings *set, ew_config *c,
                             ew_error *reterr)
{
    if (file != NULL) {
        EW_TRY(ew_config_load_file(c, file, reterr));
    }
    EW_TRY(ew_config_load_env(c, app->envp, reterr));
    for (size_t i = 0; i < set->n; i++) {
        char *eq = strchr(set->item[i], '=');
        if (eq == NULL) {
            return ew_fail(reterr, EW_EINVAL, "--set %s is not of the form name=value", set->item[i]);
        }
        *eq = '\0';
        EW_TRY(ew_config_set(c, set->item[i], eq + 1, reterr));
    }
    return EW_OK;
}

static void notify(const ew_agent_app *app, const char *state)
{
    ew_error err = EW_ERROR_INIT;
    if (ew_notify(app->notify, state, &err) != EW_OK) {
        EW_LOG(EW_LOG_WARN, "agent", "notify-failed", "%s", err.msg);
    }
}

/* A command that came just before may hold the directory for a few seconds. */
static ew_status open_when_free(const ew_agent_opt *opt, const ew_progress *progress, ew_agent **ret_agent,
                                ew_error *reterr)
{
    ew_status st = ew_agent_open(opt, progress, ret_agent, reterr);
    for (int tries = 0; st == EW_ECONFLICT && tries < OPEN_TRIES && !ew_signal_stop(); tries++) {
        struct pollfd p = {.fd = ew_signal_fd(), .events = POLLIN};
        (void)poll(&p, 1, OPEN_WAIT_MS);
        st = ew_agent_open(opt, progress, ret_agent, reterr);
    }
    return st;
}

static ew_status learning_of(const run_conf *conf, ew_agent_opt *opt, ew_error *reterr)
{
    static const char *const modes[] = {"anew", "update", "auto"};
    bool known = false;
    EW_TRY(ew_schedule_parse_time(conf->learn_at, &opt->schedule.at_min, reterr));
    opt->schedule.every_s = conf->learn_every;
    opt->schedule.min_new = (uint32_t)conf->learn_min_new;
    opt->schedule.only_on_mains = conf->learn_on_mains;
    opt->schedule.quiet_s = conf->learn_quiet;
    opt->scheduled = opt->schedule.at_min >= 0 || opt->schedule.every_s > 0;
    opt->learn = (ew_learn_opt){.task = conf->learn_task[0] != '\0' ? conf->learn_task : NULL,
                                .max_seconds = conf->learn_max_time,
                                .max_joules = conf->learn_max_joules,
                                .max_temperature_c = conf->learn_max_temperature,
                                .only_on_mains = conf->learn_on_mains && opt->scheduled,
                                .replay = conf->learn_replay,
                                .seed = 1};
    for (size_t i = 0; i < EW_COUNT(modes); i++) {
        if (strcmp(conf->learn_mode, modes[i]) == 0) {
            opt->learn.mode = (ew_learn_mode)i;
            known = true;
        }
    }
    return known ? EW_OK : ew_fail(reterr, EW_EINVAL, "learn-mode is '%.32s': anew, update or auto", conf->learn_mode);
}

static ew_status serve(const ew_agent_app *app, const run_conf *conf, ew_error *reterr)
{
    EW_AUTO(ew_agent) a = NULL;
    EW_AUTO(ew_control) control = NULL;
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_TRY(ew_term_progress_new(stderr, "probe", ew_signal_stop, &bar));
    ew_agent_opt opt = {.dir = conf->dir[0] != '\0' ? conf->dir : app->dir,
                        .credentials = app->credentials,
                        .self = app->self,
                        .software = EW_AGENT_SOFTWARE,
                        .device_class = conf->device_class[0] != '\0' ? conf->device_class : NULL,
                        .kern = app->kernel,
                        .memory_limit_bytes = conf->memory_limit,
                        .n_threads = (uint32_t)conf->threads,
                        .keepalive_ms = (uint32_t)conf->keepalive_ms,
                        .backoff_cap_ms = (uint32_t)conf->backoff_cap_ms,
                        .capture = conf->capture[0] != '\0' ? conf->capture : NULL};
    EW_TRY(learning_of(conf, &opt, reterr));
    EW_TRY(open_when_free(&opt, ew_term_progress_get(bar), &a, reterr));
    ew_agent_on_event(a, on_event, NULL);
    EW_TRY(ew_control_open(a, &control, reterr));
    EW_TRY(ew_agent_connect(a, reterr));
    EW_TRY(ew_agent_start(a, reterr));
    EW_LOG(EW_LOG_NOTICE, "agent", "running", "device=%s dir=%s memory_limit=%llu", ew_agent_home(a)->device_id,
           opt.dir, (unsigned long long)conf->memory_limit);
    /* Ready to serve with or without the coordinator. */
    notify(app, "READY=1");
    while (!ew_signal_stop()) {
        struct pollfd p = {.fd = ew_signal_fd(), .events = POLLIN};
        (void)poll(&p, 1, 10000);
        ew_signal_drain();
        bool pause = false;
        if (ew_signal_pause(&pause)) {
            ew_agent_learn_signal(a, pause);
        }
        notify(app, "WATCHDOG=1");
    }
    notify(app, "STOPPING=1");
    ew_agent_stop(a);
    EW_LOG(EW_LOG_NOTICE, "agent", "stopped", "device=%s", ew_agent_home(a)->device_id);
    return EW_OK;
}

static ew_status run(const ew_agent_app *app, const char *file, const ew_cli_strings *set, bool print, ew_error *reterr)
{
    run_conf conf = {0};
    EW_AUTO(ew_config) c = NULL;
    EW_TRY(ew_config_new(run_keys, EW_COUNT(run_keys), &conf, &c, reterr));
    EW_TRY(load_config(app, file, set, c, reterr));
    EW_TRY(ew_config_check(c, reterr));
    if (print) {
        EW_AUTO_BUF text = {0};
        ew_config_print(c, &text);
        (void)fputs(ew_buf_str(&text), stdout);
        return EW_OK;
    }
    EW_TRY(ew_log_configure(conf.log, reterr));
    ew_log_set_journald(app->notify != NULL);
    return serve(app, &conf, reterr);
}

int ew_agent_cmd_run(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    ew_error err = EW_ERROR_INIT;
    char *file = NULL;
    char *dir = NULL;
    char *limit = NULL;
    char *threads = NULL;
    char *device_class = NULL;
    bool print = false;
    ew_cli_strings set = {0};
    const ew_cli_opt opts[] = {
        {"dir", 'd', "DIR", EW_CLI_STRING, &dir,
         .help = "the agent's directory (default: EW_AGENT_DIR, or ~/.local/share/edgewise-agent)"},
        {"memory-limit", 'm', "SIZE", EW_CLI_STRING, &limit,
         .help = "stay under SIZE, learning included (300M, 1.5G); default: no limit"},
        {"threads", 't', "N", EW_CLI_STRING, &threads, .help = "threads (default: all cores)"},
        {"device-class", 0, "WORD", EW_CLI_STRING, &device_class,
         .help = "the operator's word for this kind of device"},
        {"config", 'c', "FILE", EW_CLI_STRING, &file, .help = "YAML file of settings"},
        {"set", 's', "NAME=VALUE", EW_CLI_STRINGS, &set, .help = "any setting; see --print-config"},
        {"print-config", 0, NULL, EW_CLI_FLAG, &print, .help = "print the settings and where each comes from, and end"},
    };
    const ew_cli_spec spec = {
        .command = "run",
        .doc = "Keeps the session with the coordinator, executes its trials, and answers the other commands. Ends on "
               "SIGTERM; what "
               "was accepted goes on at the next start. SIGUSR1 pauses learning, SIGUSR2 resumes it. Settings: "
               "defaults < --config < EW_… environment < command line.",
        .examples = "  edgewise-agent run --memory-limit 300M\n",
        .opts = opts,
        .n_opts = EW_COUNT(opts)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        ew_cli_strings_release(&set);
        return status;
    }
    /* Named options after --set: the more special one wins. */
    char pairs[4][1200];
    ew_cli_strings all = {.item = ew_xcalloc(set.n + 4, sizeof(char *))};
    const char *const names[] = {"dir", "memory-limit", "threads", "device-class"};
    char *const values[] = {dir, limit, threads, device_class};
    for (size_t i = 0; i < set.n; i++) {
        all.item[all.n++] = set.item[i];
    }
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (values[i] != NULL) {
            (void)snprintf(pairs[i], sizeof(pairs[i]), "%s=%.1100s", names[i], values[i]);
            all.item[all.n++] = pairs[i];
        }
    }
    ew_status st = run(app, file, &all, print, &err);
    ew_cli_strings_release(&all);
    ew_cli_strings_release(&set);
    return st == EW_OK ? 0 : ew_agent_app_fail(st, &err);
}

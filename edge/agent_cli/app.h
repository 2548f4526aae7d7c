/* What every command of `edgewise-agent` gets, and how it reaches the agent. */
#ifndef EW_AGENT_CLI_APP_H
#define EW_AGENT_CLI_APP_H

#include <jansson.h>

#include "agentd/agent.h"
#include "agentd/control.h"
#include "base/status.h"
#include "sys/cli.h"

#define EW_AGENT_PROG "edgewise-agent"
#define EW_AGENT_SOFTWARE "edgewise-agent " EW_VERSION

typedef struct ew_agent_app {
    const char *dir;         /* default of --dir */
    const char *credentials; /* systemd's $CREDENTIALS_DIRECTORY, NULL = none */
    const char *notify;      /* $NOTIFY_SOCKET, NULL = none */
    const char *kernel;      /* $EW_CPU, NULL = the best */
    char *const *envp;
    char self[4096]; /* path of this program, for workers */
} ew_agent_app;

/* Options of commands that may open the agent themselves. */
typedef struct ew_agent_local {
    char *dir;
    uint64_t memory_limit_bytes;
    int64_t threads;
    bool json;
} ew_agent_local;
#define EW_AGENT_LOCAL_OPTS(o, app)                                                                                    \
    {"dir",    'd',                                                                                                    \
     "DIR",    EW_CLI_STRING,                                                                                          \
     &(o).dir, .help = "the agent's directory (default: EW_AGENT_DIR, or ~/.local/share/edgewise-agent)"},             \
        {"memory-limit",                                                                                               \
         'm',                                                                                                          \
         "SIZE",                                                                                                       \
         EW_CLI_BYTES,                                                                                                 \
         &(o).memory_limit_bytes,                                                                                      \
         .help = "stay under SIZE (300M, 1.5G), learning included; default: no limit"},                                \
        {"threads", 't', "N", EW_CLI_I64, &(o).threads, .help = "threads (default: all cores)", .max = 1024},          \
    {                                                                                                                  \
        "json", 0, NULL, EW_CLI_FLAG, &(o).json, .help = "print JSON"                                                  \
    }

/* Runs a verb in the agent that runs in o->dir, else opens the agent here for the time of the verb. label: for the progress bar. */
ew_status ew_agent_app_verb(const ew_agent_app *app, const ew_agent_local *o, const json_t *request, const char *label,
                            ew_chat_text_fn on_text, json_t **ret_result, ew_error *reterr) EW_MUST_CHECK;
int ew_agent_app_fail(ew_status st, const ew_error *err);
/* For printing: a string of an object ("-" where there is none), an integer (0). */
const char *ew_agent_app_text(const json_t *j, const char *key);
json_int_t ew_agent_app_int(const json_t *j, const char *key);
/* Pretty JSON on stdout. */
ew_status ew_agent_app_print(const json_t *j, ew_error *reterr) EW_MUST_CHECK;

/* The commands. */
int ew_agent_cmd_enrol(int argc, char **argv, void *ctx);
int ew_agent_cmd_run(int argc, char **argv, void *ctx);
int ew_agent_cmd_status(int argc, char **argv, void *ctx);
int ew_agent_cmd_plan(int argc, char **argv, void *ctx);
int ew_agent_cmd_learn(int argc, char **argv, void *ctx);
int ew_agent_cmd_chat(int argc, char **argv, void *ctx);
int ew_agent_cmd_consent(int argc, char **argv, void *ctx);
int ew_agent_cmd_forget(int argc, char **argv, void *ctx);
int ew_agent_cmd_model_list(int argc, char **argv, void *ctx);
int ew_agent_cmd_worker(int argc, char **argv, void *ctx);
extern const ew_cli_command ew_agent_data_commands[];
extern const size_t ew_agent_n_data_commands;
extern const ew_cli_command ew_agent_adapter_commands[];
extern const size_t ew_agent_n_adapter_commands;

#endif

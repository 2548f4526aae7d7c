/* `edgewise-agent`: the device's daemon and its commands. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent_cli/app.h"
#include "agentd/worker.h"
#include "base/str.h"
#include "sys/signal.h"

extern char **environ;

int ew_agent_cmd_worker(int argc, char **argv, void *ctx)
{
    (void)argc;
    (void)argv;
    (void)ctx;
    return ew_worker_main();
}

static const ew_cli_command model_commands[] = {
    {"list", NULL, "the models on this device", .run = ew_agent_cmd_model_list},
};

static const char *const examples = "  edgewise-agent enrol ew1.AAAA…\n"
                                    "  edgewise-agent data import history.jsonl\n"
                                    "  edgewise-agent run --memory-limit 300M &\n"
                                    "  edgewise-agent learn\n"
                                    "  edgewise-agent chat 'A small library to parse JSON'\n";

/* --dir's default: what systemd or the user says, else the place for a user's own data. */
static const char *default_dir(char *dst, size_t size)
{
    const char *state = getenv("STATE_DIRECTORY");
    const char *own = getenv("EW_AGENT_DIR");
    const char *home = getenv("HOME");
    if (own != NULL && own[0] != '\0') {
        return own;
    }
    if (state != NULL && state[0] != '\0') {
        return state;
    }
    (void)snprintf(dst, size, "%s/.local/share/edgewise-agent", home != NULL ? home : "");
    return dst;
}

int main(int argc, char **argv)
{
    char dir[1024];
    ew_error err = EW_ERROR_INIT;
    ew_agent_app app = {.dir = default_dir(dir, sizeof(dir)),
                        .credentials = getenv("CREDENTIALS_DIRECTORY"),
                        .notify = getenv("NOTIFY_SOCKET"),
                        .kernel = getenv("EW_CPU"),
                        .envp = environ};
    const ew_cli_command commands[] = {
        {"enrol", "TOKEN", "join a coordinator with a one-time token", .run = ew_agent_cmd_enrol},
        {"run", NULL, "be the device's daemon", .run = ew_agent_cmd_run},
        {"status", NULL, "who this device is and what it does", .run = ew_agent_cmd_status},
        {"plan", NULL, "which model and method suit this device, and why", .run = ew_agent_cmd_plan},
        {"learn", NULL, "learn from the profile", .run = ew_agent_cmd_learn},
        {"chat", "[PROMPT]", "ask the model that is served", .run = ew_agent_cmd_chat},
        {"data", NULL, "the profile: a person's history, encrypted at rest", .sub = ew_agent_data_commands,
         .n_sub = ew_agent_n_data_commands},
        {"forget", NULL, "remove items from the profile and from what was learned", .run = ew_agent_cmd_forget},
        {"adapter", NULL, "what was learned: list, use, roll back, remove, merge", .sub = ew_agent_adapter_commands,
         .n_sub = ew_agent_n_adapter_commands},
        {"consent", "WHAT on|off", "what may leave this device", .run = ew_agent_cmd_consent},
        {"model", NULL, "models on this device", .sub = model_commands, .n_sub = EW_COUNT(model_commands)},
        {"worker", NULL, "executes one trial (started by the agent itself)", .run = ew_agent_cmd_worker,
         .hidden = true},
    };
    const ew_cli_program program = {
        .name = EW_AGENT_PROG,
        .version = EW_VERSION,
        .doc =
            "A language model that lives on this device and learns from its user here. The user's text never leaves.",
        .commands = commands,
        .n_commands = EW_COUNT(commands),
        .examples = examples};
    ssize_t n = readlink("/proc/self/exe", app.self, sizeof(app.self) - 1);
    app.self[n > 0 ? n : 0] = '\0';
    if (ew_signal_init(&err) != EW_OK) {
        return ew_agent_app_fail(err.code, &err);
    }
    return ew_cli_main(&program, argc, argv, &app);
}

/* Local control of a running agent: a UNIX socket (mode 0600, same user only), one JSON object per line.
 *
 * Request: {"verb": "status" | "plan" | "learn" | "chat" | "adapter" | "consent", …options}; learn with "order": "pause" | "resume" | "stop", adapter with
 * "do": "list" | "use" | "rollback" | "remove" | "merge". Answers: any number of {"progress": …} and {"text": "…"}, then one of
 * {"ok": …} or {"error": {"code", "message"}}. Each connection is one request. The same verbs run in the calling process when no agent runs: the
 * commands do not differ.
 * Locking: ew_control_* belong to the thread that opened them; each connection has a thread of its own. */
#ifndef EW_AGENTD_CONTROL_H
#define EW_AGENTD_CONTROL_H

#include <jansson.h>

#include "agentd/agent.h"
#include "base/progress.h"
#include "base/status.h"

typedef struct ew_control ew_control;

/* Listens on DIR/agent.sock. */
ew_status ew_control_open(ew_agent *a, ew_control **ret_control, ew_error *reterr) EW_MUST_CHECK;
/* Refuses new connections, waits for those in progress. */
void ew_control_free(ew_control **c);

/* What a caller sees while a verb runs; both may be NULL. */
typedef struct ew_control_view {
    ew_progress progress;
    ew_chat_text_fn on_text;
    void *text_ctx;
} ew_control_view;

/* Runs a verb in this process. *ret_result is the value of "ok". EW_EINVAL for an unknown verb or option. */
ew_status ew_control_run(ew_agent *a, const json_t *request, const ew_control_view *view, json_t **ret_result,
                         ew_error *reterr) EW_MUST_CHECK;
/* True when an agent runs in dir and takes requests. */
bool ew_control_answers(const char *dir);
/* Asks the agent that runs in dir. EW_EREMOTE when none does. Progress saying stop ends the connection: the agent stops the verb. */
ew_status ew_control_call(const char *dir, const json_t *request, const ew_control_view *view, json_t **ret_result,
                          ew_error *reterr) EW_MUST_CHECK;

#endif

#include "agent_cli/app.h"

#include <stdio.h>

#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

const char *ew_agent_app_text(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s != NULL ? s : "-";
}

json_int_t ew_agent_app_int(const json_t *j, const char *key)
{
    return json_integer_value(json_object_get(j, key));
}

int ew_agent_app_fail(ew_status st, const ew_error *err)
{
    return ew_cli_fail(EW_AGENT_PROG, st, err);
}

ew_status ew_agent_app_print(const json_t *j, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_json_dump(j, EW_JSON_PRETTY, &text, reterr));
    return fputs(ew_buf_str(&text), stdout) >= 0 && fflush(stdout) == 0
               ? EW_OK
               : ew_fail(reterr, EW_EIO, "cannot write to standard output");
}

/* Progress of a verb that runs here: signals pause and resume it as they do in the daemon. */
typedef struct local_view {
    ew_agent *a;
    const ew_progress *shown;
} local_view;

static bool on_progress_here(const ew_progress_info *info, void *ctx)
{
    const local_view *h = ctx;
    bool pause = false;
    if (ew_signal_pause(&pause)) {
        ew_agent_learn_signal(h->a, pause);
    }
    return ew_progress_tell(h->shown, info);
}

static ew_status verb_here(const ew_agent_app *app, const ew_agent_local *o, const json_t *request,
                           const ew_control_view *view, json_t **ret_result, ew_error *reterr)
{
    EW_AUTO(ew_agent) a = NULL;
    const ew_agent_opt opt = {.dir = o->dir,
                              .credentials = app->credentials,
                              .self = app->self,
                              .software = EW_AGENT_SOFTWARE,
                              .kern = app->kernel,
                              .memory_limit_bytes = o->memory_limit_bytes,
                              .n_threads = (uint32_t)o->threads};
    EW_TRY(ew_agent_open(&opt, &view->progress, &a, reterr));
    local_view h = {.a = a, .shown = &view->progress};
    const ew_control_view through = {
        .progress = {.fn = on_progress_here, .ctx = &h}, .on_text = view->on_text, .text_ctx = view->text_ctx};
    return ew_control_run(a, request, &through, ret_result, reterr);
}

ew_status ew_agent_app_verb(const ew_agent_app *app, const ew_agent_local *o, const json_t *request, const char *label,
                            ew_chat_text_fn on_text, json_t **ret_result, ew_error *reterr)
{
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_TRY(ew_term_progress_new(stderr, label, ew_signal_stop, &bar));
    const ew_control_view view = {.progress = *ew_term_progress_get(bar), .on_text = on_text};
    if (ew_control_answers(o->dir)) {
        return ew_control_call(o->dir, request, &view, ret_result, reterr);
    }
    ew_error here = EW_ERROR_INIT;
    ew_status st = verb_here(app, o, request, &view, ret_result, &here);
    if (st == EW_ECONFLICT) {
        return ew_fail(reterr, EW_EREMOTE,
                       "the agent that works in %s does not answer: it is starting, or another command is at work "
                       "there. HINT: try again in a few seconds",
                       o->dir);
    }
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "%s", here.msg);
}

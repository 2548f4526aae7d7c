/* The agent: one device's session with its coordinator, its trials, its learning and its answers.
 *
 * An ew_agent owns the directory (lock). `edgewise-agent run` opens it, connects and serves local control; other commands talk to the running agent
 * (control.h) or, when none runs, open it themselves. Everything works with the coordinator gone: trials already accepted go on, results wait on disk,
 * the last plan and the models that are here are used.
 *
 * Threads: the client's (session/client.h), one executor for trials, and the callers of the verbs. Locking: every function from any thread, except
 * ew_agent_free. Heavy work (a trial, learning) is one at a time. */
#ifndef EW_AGENTD_AGENT_H
#define EW_AGENTD_AGENT_H

#include <jansson.h>

#include "agentd/home.h"
#include "agentd/schedule.h"
#include "base/progress.h"
#include "base/status.h"
#include "domain/plan.h"

typedef struct ew_agent ew_agent;

/* How learning from the profile is done. */
typedef enum ew_learn_mode {
    EW_LEARN_ANEW,   /* from the plain model, with all of the history */
    EW_LEARN_UPDATE, /* goes on from what is served with what is new and a replay of what is old (replay.h); anew when nothing of the plan's kind is served */
    EW_LEARN_AUTO    /* an update when at most a quarter is new */
} ew_learn_mode;

typedef struct ew_learn_opt {
    const char *task;   /* "custom", "custom-classify", …; NULL = custom */
    double max_seconds; /* 0 = what the plan says; so for the next one */
    double max_joules;
    double max_temperature_c; /* 0 = none */
    bool only_on_mains;
    bool use_last_plan; /* do not ask the coordinator */
    ew_learn_mode mode;
    double replay; /* old items for each new one; 0 = as many */
    uint64_t seed;
} ew_learn_opt;

typedef struct ew_agent_opt {
    const char *dir;
    const char *credentials;     /* directory of systemd's LoadCredential, NULL = DIR/profile.key */
    const char *self;            /* this program, for workers */
    const char *software;        /* "agent 0.1.0" */
    const char *device_class;    /* the operator's word; NULL = none */
    const char *kern;            /* kernel table; NULL = best */
    uint64_t memory_limit_bytes; /* of the agent and its worker together; 0 = none */
    uint32_t n_threads;          /* 0 = all cores */
    uint32_t keepalive_ms;       /* 0 = what the coordinator says */
    uint32_t backoff_cap_ms;     /* 0 = 300 s */
    const char *capture;         /* file that gets a copy of all traffic, decrypted (session/client.h); NULL = none */
    ew_schedule schedule;        /* of learning by itself, once started */
    bool scheduled;              /* schedule is to be heeded */
    ew_learn_opt learn;          /* what learning by itself does; task NULL = the one that is served */
} ew_agent_opt;

/* Takes the lock, probes the machine unless DIR/caps.json fits this software. EW_ENOENT: not enrolled; EW_ECONFLICT: another process has DIR. */
ew_status ew_agent_open(const ew_agent_opt *opt, const ew_progress *progress, ew_agent **ret_agent,
                        ew_error *reterr) EW_MUST_CHECK;
/* Starts the session with the coordinator (it keeps trying by itself). */
ew_status ew_agent_connect(ew_agent *a, ew_error *reterr) EW_MUST_CHECK;
/* Waits until the session is up. EW_ETIMEOUT. */
ew_status ew_agent_wait_up(ew_agent *a, uint32_t timeout_ms, ew_error *reterr) EW_MUST_CHECK;
/* Starts executing trials. */
ew_status ew_agent_start(ew_agent *a, ew_error *reterr) EW_MUST_CHECK;
/* Stops trials at a safe point (they resume later), says goodbye. */
void ew_agent_stop(ew_agent *a);
void ew_agent_free(ew_agent **a);

const ew_home *ew_agent_home(const ew_agent *a);

/* Whether the executor found its directory unusable (disk full and the like); told once by the daemon's log. */
typedef void (*ew_agent_event_fn)(void *ctx, const char *event, const char *text);
void ew_agent_on_event(ew_agent *a, ew_agent_event_fn fn, void *ctx);

/* ---- verbs: what the local commands ask for ---- */

/* Device, session, trials, plan, model served, memory. */
ew_status ew_agent_status(ew_agent *a, json_t **ret_status, ew_error *reterr) EW_MUST_CHECK;
/* Remembers the user's decision; tells the coordinator at the next connect. */
ew_status ew_agent_consent(ew_agent *a, bool offload, ew_error *reterr) EW_MUST_CHECK;

/* Plans (or takes the last plan when the coordinator cannot be reached), fetches the model, learns from the profile, decides on validation items whether
 * the result replaces what is served (it has to beat the plain model and what is served today), reports scalars. *ret_report: plan, measures, decision:
 * "new", "kept" (what is served stays) or "plain". One learning at a time: EW_ECONFLICT. EW_EREMOTE: no plan yet and no coordinator. Whatever fails, what is
 * served stays. A paused learning waits here; EW_ECANCELLED when it was stopped or the caller's progress said so. */
ew_status ew_agent_learn(ew_agent *a, const ew_learn_opt *opt, const ew_progress *progress, json_t **ret_report,
                         ew_error *reterr) EW_MUST_CHECK;
/* Pause: the worker saves its state and ends, its memory is free; resume goes on from there, also after the agent was killed meanwhile. Stop gives
 * the learning up; its checkpoint is used by the next one, if that learns by the last plan. EW_ENOENT when there is nothing to pause, resume or stop. A resume without
 * an executor thread (ew_agent_start) learns in this call. *ret: {"state"}. */
typedef enum ew_learn_order {
    EW_LEARN_PAUSE,
    EW_LEARN_RESUME,
    EW_LEARN_STOP
} ew_learn_order;
ew_status ew_agent_learn_order(ew_agent *a, ew_learn_order order, const ew_progress *progress, json_t **ret,
                               ew_error *reterr) EW_MUST_CHECK;
/* The same for signals: no answer, nothing when there is nothing to do. */
void ew_agent_learn_signal(ew_agent *a, bool pause);

/* The adapters of the vault, which are served, and what can be gone back to. */
ew_status ew_agent_adapters(ew_agent *a, json_t **ret, ew_error *reterr) EW_MUST_CHECK;
/* Serves it from now on for its task; EW_ECONFLICT when it is flagged, EW_ENOENT when its model is not here. */
ew_status ew_agent_adapter_use(ew_agent *a, uint64_t id, json_t **ret, ew_error *reterr) EW_MUST_CHECK;
/* Back to what was served before (served.h). task NULL = the default's. */
ew_status ew_agent_adapter_rollback(ew_agent *a, const char *task, json_t **ret, ew_error *reterr) EW_MUST_CHECK;
/* EW_ECONFLICT when it is served. */
ew_status ew_agent_adapter_remove(ew_agent *a, uint64_t id, ew_error *reterr) EW_MUST_CHECK;
/* The adapter (0 = the one that is served) merged into its base: a GGUF file of its own, in the base's types or in F16. */
ew_status ew_agent_adapter_merge(ew_agent *a, uint64_t id, const char *out_path, bool keep_types,
                                 const ew_progress *progress, ew_error *reterr) EW_MUST_CHECK;

/* A plan alone. */
ew_status ew_agent_plan(ew_agent *a, const char *task, ew_plan **ret_plan, bool *ret_fresh,
                        ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_chat_opt {
    const char *prompt;
    /* The prompt is put into the served task's format; before anything was learnt, into the model's own chat template if it has one. */
    bool raw;           /* the prompt as it is, without these formats */
    bool plain;         /* without the personal adapter */
    const char *task;   /* as it was learned for this task; NULL = as it was learned last */
    uint64_t adapter;   /* with this adapter of the vault, in its task's format; 0 = the one that is served */
    uint32_t max_tok;   /* 0 = the task's */
    double temperature; /* 0 = greedy */
    uint64_t seed;
    bool offload;                     /* run [first, last) at the coordinator */
    uint32_t first_layer, last_layer; /* both 0 = the middle half */
    bool exact;                       /* f32 activations and reference kernels at both ends */
    bool compare;                     /* also answer locally and report how many tokens agree */
} ew_chat_opt;
typedef bool (*ew_chat_text_fn)(const char *text, size_t size, void *ctx);
/* Answers with the model that is served (any model that is here when none was chosen). *ret_stats: tokens, tok/s, bytes out and in, agreement.
 * EW_EDENIED: offload without the user's consent. EW_ENOENT: no model is here yet. */
ew_status ew_agent_chat(ew_agent *a, const ew_chat_opt *opt, ew_chat_text_fn on_text, void *ctx, json_t **ret_stats,
                        ew_error *reterr) EW_MUST_CHECK;

#endif

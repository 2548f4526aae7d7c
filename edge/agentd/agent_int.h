/* What the files of the agent share. */
#ifndef EW_AGENTD_AGENT_INT_H
#define EW_AGENTD_AGENT_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "agentd/agent.h"
#include "agentd/served.h"
#include "agentd/spool.h"
#include "agentd/worker.h"
#include "agentd/yield.h"
#include "domain/device.h"
#include "run/embed.h"
#include "session/client.h"
#include "sys/file.h"
#include "task/task.h"
#include "vault/vault.h"

#define EW_AGENT_RAM_MARGIN_BYTES (4 * EW_MIB)
/* Measured: what the agent holds after a session, a download and a learning. A fresh one grows to that while a worker runs. */
#define EW_AGENT_OWN_BYTES (16 * EW_MIB)

struct ew_agent {
    ew_agent_opt opt; /* strings are copies, released with the agent */
    char *strings[8]; /* those copies */
    ew_home home;
    ew_dir_lock *lock;
    ew_device_caps *caps;
    ew_vault *vault;
    pthread_mutex_t vault_lock; /* guards vault and home's settings */
    ew_client *client;          /* NULL until connect */
    pthread_mutex_t heavy;      /* one trial or learning at a time */
    atomic_ullong
        worker_bytes; /* what the worker that runs takes: its limit, or its own prediction once it told; 0 = none runs */
    atomic_uint n_answers; /* names the files of answers */

    ew_yield yield; /* answers against the worker */

    /* Learning from the profile: learner.c. */
    struct {
        pthread_mutex_t lock; /* guards all of it */
        pthread_cond_t changed;
        enum {
            EW__LEARN_IDLE,
            EW__LEARN_RUNNING,
            EW__LEARN_PAUSED
        } state;           /* as DIR/learn.json has it */
        bool held;         /* a call is at it; else RUNNING was cut off and goes on when the learner comes to it */
        bool pause, stop;  /* asked for */
        unsigned give_way; /* answers that need the worker's memory */
        json_t *options;   /* of that learning, as a request */
        json_t *last;      /* how the last one ended; NULL = none */
        json_t *report;    /* of the last one; NULL when it failed */
        ew_status last_code;
        uint64_t n_ended;
        json_t *known; /* by task: last item of the profile that a learning has seen */
        ew_schedule_memory memory;
        uint64_t began_mono_ms, failed_mono_ms;
        uint32_t n_failed;
        ew_schedule_verdict verdict;
        pthread_t thread;
        bool started; /* the thread exists */
    } learning;
    uint64_t start_mono_ms;

    pthread_t executor;
    bool executing; /* the thread exists */
    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    bool woken;
    atomic_bool stopping;
    atomic_bool session_up;
    ew_agent_event_fn on_event;
    void *event_ctx;
    struct {
        pthread_mutex_t lock;
        bool busy;
        char what[64]; /* "trial 3f… lora" */
        char phase[32];
        uint64_t done, total;
    } now;
};

void ew__agent_event(ew_agent *a, const char *event, const char *fmt, ...) EW_PRINTF(3, 4);
void ew__agent_wake(ew_agent *a);
/* Path of the model, fetched when it is not here. EW_EREMOTE when it must be fetched and cannot. */
ew_status ew__agent_model(ew_agent *a, const uint8_t sha256[static EW_SHA256_BYTES], const ew_progress *progress,
                          char ret_path[static EW_HOME_PATH_MAX], ew_error *reterr) EW_MUST_CHECK;
/* The items of a public benchmark user, fetched when they are not here. */
ew_status ew__agent_dataset(ew_agent *a, const char *source, const ew_progress *progress,
                            char ret_path[static EW_HOME_PATH_MAX], ew_error *reterr) EW_MUST_CHECK;
/* What a worker may use: the limit less what this process holds. 0 = no limit. */
uint64_t ew__agent_worker_limit(const ew_agent *a);
/* ew_worker_run with that limit; answers given meanwhile know what the worker takes. */
ew_status ew__agent_work(ew_agent *a, ew_worker_job *job, const ew_progress *progress, ew_worker_outcome *ret_outcome,
                         ew_error *reterr) EW_MUST_CHECK;
void ew__agent_now(ew_agent *a, const char *what);
void ew__agent_now_progress(ew_agent *a, const ew_progress_info *info);
/* One learning under the plan, from the model to what is served. The lock `heavy` is held. */
ew_status ew__agent_learn_once(ew_agent *a, const ew_plan *plan, bool fresh, const ew_learn_opt *opt,
                               const ew_progress *progress, json_t **ret_report, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__agent_learn_plan(ew_agent *a, const ew_learn_opt *opt, ew_plan **ret_plan, bool *ret_fresh,
                               ew_error *reterr) EW_MUST_CHECK;
/* A learning of the task by the last plan was cut off behind its first checkpoint. Another plan would have another number and start anew. */
bool ew__agent_was_begun(ew_agent *a, const char *task);
/* What is served for the task over this base and can be used; false when it is the plain model. The lock vault_lock is held. */
bool ew__agent_served(ew_agent *a, const char *task, const char *model, ew_served *ret_served,
                      ew_vault_adapter *ret_meta);
/* The vectors of a profile's items for one model and task: from the vault, else made and kept there. */
typedef struct ew__vectors {
    ew_agent *a;
    const ew_items *items; /* of the vault: order = row */
    ew_embedder *embedder; /* borrowed */
    char space[EW_SHA256_BYTES * 2 + 16];
    uint64_t until_mono_ms; /* none is made after that; UINT64_MAX = no limit */
    size_t n_made, n_missing;
} ew__vectors;
ew__vectors ew__agent_vectors(ew_agent *a, const ew_items *items, ew_embedder *embedder, const char *model_hex,
                              const ew_task *task, uint64_t until_mono_ms);
/* ew_prompter_opt.vector_of; ctx: ew__vectors. */
ew_status ew__agent_vector_of(void *ctx, size_t i, ew_span text, float *ret, bool *ret_has,
                              ew_error *reterr) EW_MUST_CHECK;
/* Makes those that are missing, before answers need them. Failing is no harm: answers make the rest, some at a time. The lock `heavy` is held. */
void ew__agent_vectors_fill(ew_agent *a, const char *model_path, const char *model_hex, const char *task,
                            const ew_items *items, const ew_progress *progress);
/* From a request; strings are borrowed. EW_EINVAL, EW_ECORRUPT. */
ew_status ew__learn_opt_read(const json_t *j, ew_learn_opt *ret_opt, ew_error *reterr) EW_MUST_CHECK;
/* Makes the locks. */
void ew__learner_init(ew_agent *a);
/* Reads DIR/learn.json; the home is open. */
void ew__learner_load(ew_agent *a);
void ew__learner_release(ew_agent *a);
ew_status ew__learner_start(ew_agent *a, ew_error *reterr) EW_MUST_CHECK;
void ew__learner_stop(ew_agent *a);
/* An answer needs the memory of the worker that learns: it ends at its checkpoint and goes on when the answer is given. */
void ew__learner_give_way(ew_agent *a, bool begin);
json_t *ew__learner_status(ew_agent *a);
/* An adapter of the vault as a file on tmpfs, for as short as possible. */
ew_status ew__agent_adapter_file(ew_agent *a, uint64_t id, const char *name, char ret_path[static EW_HOME_PATH_MAX],
                                 ew_error *reterr) EW_MUST_CHECK;
/* Measures "link.bytes_out" and "link.bytes_in": all frames of this process so far. */
void ew__agent_add_traffic(ew_agent *a, ew_trial_result *result);

#endif

/* What the files of the agent share. */
#ifndef EW_AGENTD_AGENT_INT_H
#define EW_AGENTD_AGENT_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "agentd/agent.h"
#include "agentd/spool.h"
#include "agentd/worker.h"
#include "domain/device.h"
#include "session/client.h"
#include "sys/file.h"
#include "vault/vault.h"

#define EW_AGENT_RAM_MARGIN_BYTES (4 * EW_MIB)
/* Measured: what the agent holds after a session, a download and a learning. A fresh one grows to that while a worker runs. */
#define EW_AGENT_OWN_BYTES (16 * EW_MIB)

struct ew_agent {
    ew_agent_opt opt; /* strings are copies, released with the agent */
    char *strings[7]; /* those copies */
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
/* Measures "link.bytes_out" and "link.bytes_in": all frames of this process so far. */
void ew__agent_add_traffic(ew_agent *a, ew_trial_result *result);

#endif

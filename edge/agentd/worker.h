/* One trial in a process of its own, so that its peak memory is its own, a crash ends only the trial, and a stop is a signal.
 *
 * The child is this program's `worker` command. It reads the job as JSON Lines from its standard input (the job, then the items where they come
 * from the profile), works, and writes progress and the result as JSON Lines to its standard output. It needs no key and opens no database. It dies with its
 * parent. Killed at any moment, the same job started again goes on from its checkpoint.
 * Locking: any thread; one job per call. */
#ifndef EW_AGENTD_WORKER_H
#define EW_AGENTD_WORKER_H

#include <stdatomic.h>

#include "agentd/yield.h"
#include "base/progress.h"
#include "base/status.h"
#include "domain/device.h"
#include "domain/trial.h"
#include "task/item.h"

typedef struct ew_worker_job {
    const ew_trial_spec *spec;
    const char *model_path;      /* GGUF file */
    const ew_items *items;       /* of the profile; NULL: items_path */
    const char *items_path;      /* JSONL of a benchmark user */
    const char *work_dir;        /* for the checkpoint; NULL = none */
    const char *adapter_path;    /* where the adapter (GGUF) is written when the method trains one; NULL = nowhere */
    const char *kern;            /* kernel table, NULL = best */
    const ew_device_caps *caps;  /* for the prediction of seconds; may be NULL */
    uint64_t memory_limit_bytes; /* of the child; 0 = none */
    uint32_t n_threads;          /* 0 = all cores */
    atomic_ullong *ram_bytes;    /* set to the child's own prediction as soon as it is made; may be NULL */
    ew_yield *yield;             /* stops the child while answers are given; may be NULL */
    /* What is served now for the task, over the same base: the method has to beat it, too, on validation items. Items of the profile alone. */
    bool has_served;
    const char *served_path; /* its adapter (GGUF); NULL = it has none */
    uint32_t served_rag_k, served_rag_rank;
    /* > 0: what was served learned from the history up to this order. Old items are scored before and after. */
    uint64_t known_order;
    bool
        update; /* goes on from served_path with what is new and a replay of what is old (replay.h), instead of anew with all of it */
    double replay; /* old items for each new one; 0 = the default, negative = none */
    /* Limits of this device, besides the spec's budget; 0 = none. */
    double max_temperature_c;
} ew_worker_job;

typedef struct ew_worker_outcome {
    ew_trial_result *result;   /* the caller's (ew_free) */
    bool better;               /* the gate on val items */
    bool has_adapter;          /* adapter_path was written */
    bool beats_served;         /* the gate against what is served; true when nothing is */
    bool served_beats_base;    /* what is served would pass the gate today */
    bool diverged, unfinished; /* run.h */
    uint64_t known_order;      /* last of the history's items */
    char stop_reason[96];      /* why training ended; "" when there was none */
} ew_worker_outcome;

/* Starts `self worker`, waits. A trial that failed is EW_OK here with its code in the result; other failures: EW_ECANCELLED (progress said stop; the
 * checkpoint stays), EW_EINTERNAL (the child died: the message has the signal), EW_EIO. */
ew_status ew_worker_run(const char *self, const ew_worker_job *job, const ew_progress *progress,
                        ew_worker_outcome *ret_outcome, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_worker_probe {
    const char *temp_dir;
    const char *disk_path;
    const char *device_class; /* NULL = none */
    const char *kern;         /* NULL = best */
    uint32_t n_threads;       /* 0 = all cores */
} ew_worker_probe;
/* The probe (probe/probe.h) in a child, so that its memory does not stay with the agent, and "process.base" is that of a worker. */
ew_status ew_worker_probe_run(const char *self, const ew_worker_probe *probe, const ew_progress *progress,
                              ew_device_caps *ret_caps, ew_error *reterr) EW_MUST_CHECK;

/* The child: the whole life of the `worker` command. Returns the exit status. */
int ew_worker_main(void);

#endif

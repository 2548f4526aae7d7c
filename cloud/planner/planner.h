/* The planner: for one device and one task, which model variant and which method, with which settings, and why.
 *
 * 1. Filter. Peak RAM of every (variant, method) is the dry run of the session and of the trainer that the device itself will do, plus
 *    the process base of its probe; seconds come from the probe's rates (probe/cost.h); disk from the file. What does not fit the limits
 *    is kept among the runners-up with the reason.
 * 2. Score. Prior: the guidelines G1–G12 as soft preferences in units of score, each with its evidence class. Likelihood: finished trials, pooled
 *    by similarity (task, model size, variant, method, amount of data), as a weighted mean of their gain over the untouched model and of the
 *    untouched score. Prior and trials are combined by pseudo-counts, so that evidence outweighs the prior as it accumulates.
 * 3. Explain. Every choice carries its estimates with 90 % intervals, the rules and the trials (by id) that it rests on.
 *
 * Seconds are corrected by what this device's own finished trials took against their prediction.
 *
 * Pure: no I/O besides reading the mapped models' dimensions; the same input gives the same plan except for its id, which the caller sets.
 * Source of the rules: arXiv 2406.03777 through its abstract, summaries and reviews (class P), designs of this project (class X).
 * Locking: no state; callable from any thread. */
#ifndef EW_PLANNER_PLANNER_H
#define EW_PLANNER_PLANNER_H

#include <jansson.h>

#include "base/base.h"
#include "base/status.h"
#include "domain/device.h"
#include "domain/plan.h"
#include "domain/trial.h"
#include "model/model.h"

#define EW_PLANNER_CANDIDATES_MAX 64u
#define EW_PLANNER_HOURS_MAX 4.0 /* G8: longer gives nothing, unless the budget says otherwise */

/* One variant of the catalogue. */
typedef struct ew_candidate {
    uint8_t sha256[EW_SHA256_BYTES];
    char name[64];
    char variant[EW_VARIANT_SIZE]; /* "q8_0" */
    uint64_t n_params;
    uint64_t file_bytes;
    double score;                  /* on general benchmarks, [0,1]; NAN = not known: then size stands for strength */
    const ew_model_config *config; /* dimensions; borrowed */
    ew_model *model;               /* for the dry runs; borrowed; may be NULL when ew_planner_input.memory is given */
} ew_candidate;

/* One finished trial. Scores: higher is better. They are those of the validation items where the trial has them (test items are for claims, no
 * decision sees them), of the test items otherwise. */
typedef struct ew_evidence {
    uint8_t id[EW_UID_BYTES];
    char task[EW_TASK_NAME_SIZE];
    char model_name[64];
    char variant[EW_VARIANT_SIZE];
    char device[EW_DEVICE_ID_SIZE];
    uint64_t n_params;
    ew_method method;
    uint32_t n_history;
    double score, base_score; /* of the method, of the untouched model; NAN = not measured */
    double nll, base_nll;     /* nats per answer token; NAN = not measured */
    double seconds, seconds_predicted;
    double ram_bytes, ram_predicted_bytes;
} ew_evidence;

/* {"spec": …, "result": … (record/), "model_name", "n_params", "device"}: what evidence files hold and the coordinator stores. EW_EINVAL. */
ew_status ew_evidence_from_json(const json_t *j, ew_evidence *ret, ew_error *reterr) EW_MUST_CHECK;
/* *ret_json is the caller's. */
ew_status ew_evidence_to_json(const ew_trial_spec *spec, const ew_trial_result *result, const char *model_name,
                              uint64_t n_params, const char *device, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;

/* Peak RAM of a process that runs the trial, bytes. The default is the dry run of session and trainer. */
typedef ew_status (*ew_memory_fn)(void *ctx, const ew_candidate *c, ew_method method, const ew_settings *settings,
                                  uint64_t *ret_bytes, ew_error *reterr);

typedef struct ew_planner_input {
    const char *device_id;
    const ew_device_caps *caps;   /* with the probe's rates; NULL = never told */
    const ew_device_state *state; /* now; NULL = not known */
    const ew_task_facts *facts;
    ew_budget budget;
    const char *objective; /* "score" (NULL, ""), "latency", "energy" */
    const ew_candidate *candidates;
    size_t n_candidates;
    const ew_evidence *evidence;
    size_t n_evidence;
    uint64_t evidence_version;
    uint64_t now_ms;
    ew_memory_fn memory; /* NULL = the dry run */
    void *memory_ctx;
} ew_planner_input;

/* *ret_plan is freed with ew_free; its id is zero. EW_ENOENT: the catalogue is empty; EW_ELIMIT: nothing fits, the message says what would
 * be needed. */
ew_status ew_planner_make(const ew_planner_input *in, ew_plan **ret_plan, ew_error *reterr) EW_MUST_CHECK;

/* Difficulty of a task: 0 easy classification, 1 hard classification or easy generation, 2 hard generation (FACTS A.4, A.5), from what
 * was measured (zero-shot score normalised by chance) or, without, from the number of labels. */
int ew_planner_difficulty(const ew_task_facts *facts, const ew_evidence *evidence, size_t n_evidence);

#endif

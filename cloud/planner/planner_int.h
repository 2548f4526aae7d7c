/* What the planner's files share. */
#ifndef EW_PLANNER_PLANNER_INT_H
#define EW_PLANNER_PLANNER_INT_H

#include "planner/planner.h"

#define EW__POOL_IDS EW_REASON_TRIALS_MAX

/* Trials pooled for one question: weighted mean and spread, with the heaviest trials by id. */
typedef struct ew__pool {
    double weight;   /* sum of similarities: "how many trials like this one" */
    double mean, sd; /* of the weighted values; 0 without weight */
    uint32_t n;      /* trials with a weight of 0.05 or more */
    uint32_t n_ids;
    double id_weight[EW__POOL_IDS]; /* falling */
    uint8_t id[EW__POOL_IDS][EW_UID_BYTES];
} ew__pool;

typedef enum ew__what {
    EW__GAIN_SCORE, /* score - base score, trials of the method */
    EW__GAIN_NLL,   /* base nll - nll, trials of the method */
    EW__BASE_SCORE  /* base score, all trials of the same task */
} ew__what;

void ew__pool_trials(const ew_planner_input *in, const ew_candidate *c, ew_method method, ew__what what, ew__pool *ret);
/* Seconds measured over predicted on this device, all its trials together, shrunk to 1 and within [0.5, 2]; *ret_n trials. */
double ew__seconds_factor(const ew_planner_input *in, uint32_t *ret_n);
/* Bytes that this device's trials took beyond their prediction: mean shrunk to 0, never negative; *ret_n trials. */
uint64_t ew__ram_offset(const ew_planner_input *in, uint32_t *ret_n);
/* First value of a measure of the facts; NAN when absent. */
double ew__fact(const ew_task_facts *facts, const char *name);
/* Zero-shot score of the task as measured: by the device, else by trials; NAN. */
double ew__zero_shot(const ew_task_facts *facts, const ew_evidence *evidence, size_t n_evidence);

#endif

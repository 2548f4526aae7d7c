/* A plan: for one (device, task) the model variant, method, settings and placement, with predictions and reasons.
 * Plain values without ownership. ew_plan is some 120 KiB: allocate it with ew_calloc, free it with ew_free. */
#ifndef EW_DOMAIN_PLAN_H
#define EW_DOMAIN_PLAN_H

#include "base/base.h"
#include "domain/device.h"
#include "domain/method.h"
#include "domain/trial.h"

#define EW_CHOICE_ESTIMATES_MAX 16
#define EW_CHOICE_REASONS_MAX 16
#define EW_CHOICE_PLACEMENTS_MAX 4
#define EW_REASON_TRIALS_MAX 16
#define EW_PLAN_RUNNERS_UP_MAX 8

/* 90 % interval. */
typedef struct ew_estimate {
    char name[32]; /* "ram", "seconds", "tok_per_s", "joules", "score" */
    char unit[16];
    double mean, low, high;
} ew_estimate;

typedef struct ew_reason {
    char rule[32];           /* "G3", "ram-filter", "evidence" */
    char text[256];          /* a sentence */
    char evidence_class[16]; /* "A".."E" of the guideline, "measured" */
    uint32_t n_trials;
    uint8_t trials[EW_REASON_TRIALS_MAX][EW_UID_BYTES]; /* the evidence it rests on */
} ew_reason;

typedef enum ew_where {
    EW_WHERE_UNSPECIFIED = 0,
    EW_WHERE_EDGE = 1,
    EW_WHERE_CLOUD = 2
} ew_where;

typedef struct ew_placement {
    uint32_t first_layer, last_layer; /* [first, last) */
    ew_where where;
    char weight_dtype[16], act_dtype[16];
} ew_placement;

typedef struct ew_choice {
    uint8_t model_sha256[EW_SHA256_BYTES];
    char model_name[64];
    char variant[EW_VARIANT_SIZE];
    ew_method method;
    bool feasible; /* false only among the runners-up: shown with the reason why it was rejected */
    ew_settings settings;
    uint32_t n_estimates;
    ew_estimate estimates[EW_CHOICE_ESTIMATES_MAX];
    uint32_t n_reasons;
    ew_reason reasons[EW_CHOICE_REASONS_MAX];
    uint32_t n_placements; /* 0 = all on the device */
    ew_placement placements[EW_CHOICE_PLACEMENTS_MAX];
} ew_choice;

typedef struct ew_plan {
    uint8_t id[EW_UID_BYTES];
    char task[EW_TASK_NAME_SIZE];
    char device_id[EW_DEVICE_ID_SIZE];
    ew_choice chosen;
    uint32_t n_runners_up;
    ew_choice runners_up[EW_PLAN_RUNNERS_UP_MAX];
    ew_budget budget;
    uint64_t made_unix_ms, valid_until_unix_ms;
    uint64_t evidence_version; /* the evidence store's counter when it was made */
} ew_plan;

/* What the planner needs to know about the task; the texts themselves never leave the device. */
typedef struct ew_task_facts {
    char task[EW_TASK_NAME_SIZE];
    char metric[32];
    uint32_t n_labels;
    uint32_t n_items;         /* of the user's history */
    uint32_t mean_item_tok;   /* prompt and answer */
    uint32_t mean_answer_tok; /* answer alone */
    uint32_t n_measures;      /* zero-shot score, answer loss, label entropy, retrieval gain, as far as measured */
    ew_measure measures[8];
} ew_task_facts;

typedef struct ew_plan_request {
    ew_task_facts facts;
    ew_budget budget;
    char objective[16]; /* "score", "latency", "energy" */
    ew_device_state state;
    bool has_current_plan;
    uint8_t current_plan[EW_UID_BYTES];
} ew_plan_request;

const ew_estimate *ew_choice_estimate(const ew_choice *c, const char *name);
/* False when full. */
bool ew_choice_add_estimate(ew_choice *c, const char *name, const char *unit, double mean, double low, double high);
bool ew_choice_add_reason(ew_choice *c, const char *rule, const char *evidence_class, const char *fmt, ...)
    EW_PRINTF(4, 5);

#endif

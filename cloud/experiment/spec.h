/* An experiment as the user writes it (YAML) and the grid of trials that it means.
 *
 *   name: sections
 *   data: {benchmark: debian, group: dev, users: 4}     # or {file: history.jsonl}
 *   tasks: [debian-section, debian-synopsis]
 *   models: [deb-tiny]
 *   variants: [q8_0, q4_0]
 *   methods: [none, lora, rag, lora+rag] # and prompt, prefix, ia3, bottleneck, full, mezo, blockwise
 *   history: [8, 32, all]                # items of history that a method may use
 *   devices: [all]                       # or device ids
 *   seeds: [1]
 *   settings: {rank: 8, alpha: 16, lr: 0.002, epochs: 3, rag_k: 2}   # what is left out is each method's own default
 *                                        # rag_rank: bm25, recency, vectors or fused (all three): how retrieved items are ranked
 *   budget: {seconds: 60, ram: 200M}
 *   force: false                         # true: run although a device predicts that it does not fit
 *
 * An unknown key is an error with its line. Nothing here talks to a device or a database.
 * Locking: one owning thread. */
#ifndef EW_EXPERIMENT_SPEC_H
#define EW_EXPERIMENT_SPEC_H

#include "base/status.h"
#include "domain/trial.h"

#define EW_EXPERIMENT_TRIALS_MAX 100000u
#define EW_HISTORY_ALL (-1)

/* libcyaml fills these; strings and arrays belong to the spec. */
typedef struct ew_experiment_data {
    char *benchmark; /* "debian", or NULL */
    char *group;     /* "dev" or "test" users of the benchmark; NULL = dev */
    uint32_t users;  /* how many of them, in their fixed order; 0 = all */
    char *file;      /* JSONL of one or more users, instead of a benchmark */
} ew_experiment_data;

typedef struct ew_experiment_settings {
    uint32_t rank; /* 0 = the method's default, for every field here */
    double alpha;
    double lr;
    uint32_t epochs;
    uint32_t rag_k;
    double rag_recency, dropout, weight_decay;
    char *rag_rank; /* "bm25", "recency", "vectors", "fused"; NULL = bm25 */
    char *targets;  /* "q,v": the linear layers LoRA and IA3 change */
    bool rslora, dora, mezo_prefix;
    uint32_t n_virtual, width, exits;
    uint32_t max_steps, batch_tokens, patience;
    uint32_t optimizer_bits, rung;
    uint32_t max_val_items, max_test_items, threads;
} ew_experiment_settings;

typedef struct ew_experiment_budget {
    uint32_t seconds; /* wall time of learning per trial, 0 = none */
    char *ram;        /* "200M", NULL = the device's own limit */
} ew_experiment_budget;

typedef struct ew_experiment {
    char *name; /* [a-z0-9-]{1,64} */
    ew_experiment_data data;
    char **tasks;
    unsigned tasks_count;
    char **models;
    unsigned models_count;
    char **variants;
    unsigned variants_count;
    char **methods;
    unsigned methods_count;
    char **history; /* "8", "all" */
    unsigned history_count;
    char **devices; /* "all" or ids */
    unsigned devices_count;
    uint64_t *seeds;
    unsigned seeds_count;
    ew_experiment_settings settings;
    ew_experiment_budget budget;
    bool force; /* trials run although the device's own prediction says that they do not fit */
} ew_experiment;

/* Reads and checks; every message names the file, most the line. EW_EINVAL, EW_ENOENT. */
ew_status ew_experiment_load(const char *path, ew_experiment **ret_experiment, ew_error *reterr) EW_MUST_CHECK;
void ew_experiment_free(ew_experiment **e);

/* The settings as trials have them. ret_settings may be NULL: a check. path: for the message. EW_EINVAL: out of range, unknown target. */
ew_status ew_experiment_settings_of(const ew_experiment *e, ew_settings *ret_settings, const char *path,
                                    ew_error *reterr) EW_MUST_CHECK;

/* "8" → 8, "all" → EW_HISTORY_ALL. False when it is neither. */
bool ew_history_parse(const char *text, int64_t *ret_items) EW_MUST_CHECK;

/* One point of the grid; strings are borrowed from the experiment and from the lists handed in. */
typedef struct ew_grid_point {
    const char *device; /* id */
    const char *task;
    const char *user;
    const char *model;
    const char *variant;
    const char *method;
    int64_t n_history; /* items, EW_HISTORY_ALL; 0 for method none */
    uint64_t seed;
} ew_grid_point;

/* Every combination, in a fixed order (device slowest, seed fastest). Method `none` uses no history and so appears once per
 * seed-independent combination. devices and users are what "all" and the data stand for. *ret_points is the caller's (ew_free).
 * EW_ELIMIT above EW_EXPERIMENT_TRIALS_MAX. */
ew_status ew_experiment_grid(const ew_experiment *e, const char *const *devices, size_t n_devices,
                             const char *const *users, size_t n_users, ew_grid_point **ret_points, size_t *ret_n,
                             ew_error *reterr) EW_MUST_CHECK;

#endif

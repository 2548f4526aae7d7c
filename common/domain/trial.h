/* One trial: a configuration executed and scored on one device with one seed, and its result.
 * Plain values (the result is some 16 KiB: better on the heap), no ownership. */
#ifndef EW_DOMAIN_TRIAL_H
#define EW_DOMAIN_TRIAL_H

#include "base/base.h"
#include "base/status.h"
#include "domain/method.h"

#define EW_UID_BYTES 16 /* trial, experiment and plan ids: random */
#define EW_SHA256_BYTES 32
#define EW_TASK_NAME_SIZE 64
#define EW_SOURCE_SIZE 192
#define EW_VARIANT_SIZE 32
#define EW_MEASURES_MAX 48
#define EW_MEASURE_VALUES_MAX 32

/* By what retrieved items are ranked (rag/rag.h); the numbers are those of the setting "rag-rank". */
typedef enum ew_rag_rank {
    EW_RAG_RANK_BM25 = 0, /* by words, with rag_recency */
    EW_RAG_RANK_RECENCY = 1,
    EW_RAG_RANK_VECTORS = 2, /* of the model itself (run/embed.h) */
    EW_RAG_RANK_FUSED = 3,   /* all three, by reciprocal ranks */
    EW_RAG_RANK_COUNT
} ew_rag_rank;

/* Settings of the methods. 0 (or a NAN of the doubles marked so) = the method's default, which the executing side knows. */
typedef struct ew_settings {
    uint32_t rank;          /* LoRA rank */
    double alpha;           /* LoRA alpha */
    double dropout;         /* in [0,1) */
    uint32_t targets;       /* bit mask of adapted linears (peft), 0 = default */
    double learning_rate;   /* peak */
    double weight_decay;    /* 0 = none */
    double epochs;          /* passes over the history */
    uint32_t max_steps;     /* 0 = no limit */
    uint32_t batch_tok;     /* tokens per optimiser step */
    uint32_t seq_max_tok;   /* longest example */
    uint32_t patience;      /* plateau stop: evaluations without progress */
    uint32_t rag_k;         /* retrieved items per prompt */
    double rag_recency;     /* weight of recency beside BM25, 0..1 */
    uint32_t max_val_items; /* 0 = all */
    uint32_t max_test_items;
    uint32_t n_threads;      /* 0 = all the device allows */
    uint32_t rslora;         /* 1: LoRA's scale is alpha / sqrt(rank) */
    uint32_t dora;           /* 1: LoRA with magnitudes (DoRA) */
    uint32_t n_virtual;      /* prompt, prefix: virtual positions */
    uint32_t width;          /* bottleneck: hidden units */
    uint32_t optimizer_bits; /* of the moments: 8 or 32 */
    uint32_t rung;           /* of the memory ladder, as train/tune.h numbers it; 0 = chosen for the memory there is */
    uint32_t exits;          /* blockwise: blocks, each with its exit */
    uint32_t mezo_prefix;    /* mezo: 1 = of a prefix instead of LoRA */
    uint32_t rag_rank;       /* enum ew_rag_rank */
} ew_settings;

typedef struct ew_budget {
    uint64_t ram_bytes;  /* 0 = no limit */
    uint64_t disk_bytes; /* 0 = no limit */
    double seconds;      /* 0 = no limit */
    double joules;       /* 0 = no limit */
    bool mains_only;
} ew_budget;

typedef struct ew_trial_spec {
    uint8_t id[EW_UID_BYTES];
    uint8_t experiment_id[EW_UID_BYTES]; /* zero = none: the device's own plan */
    char task[EW_TASK_NAME_SIZE];        /* "debian-section", … */
    char source[EW_SOURCE_SIZE];         /* "profile" or "benchmark:<digest>:<user>" */
    uint8_t model_sha256[EW_SHA256_BYTES];
    char variant[EW_VARIANT_SIZE]; /* "f16", "q8_0", "q4_0" */
    ew_method method;
    uint32_t n_history; /* items of the history to use; 0 = all */
    uint64_t seed;
    ew_settings settings;
    ew_budget budget;
    bool force;        /* run although the device's own prediction says that it does not fit */
    uint32_t repeats;  /* 0 = 1 */
    uint32_t warmup;   /* unmeasured runs before */
    uint64_t lease_ms; /* how long the queue keeps the trial for this device without a sign of life */
    uint64_t fence;    /* grows with every lease: a result with an old one is refused */
} ew_trial_spec;
/* Retrieved items per prompt: settings.rag_k, 2 where that is 0; 0 for methods that retrieve none. */
uint32_t ew_trial_rag_k(const ew_trial_spec *spec);

typedef struct ew_measure {
    char name[48]; /* "test.accuracy", "val.nll", "seconds", "ram.peak_bytes", "ram.predicted_bytes", … */
    char unit[16]; /* "1", "nat/tok", "s", "B", "tok/s" */
    uint32_t n;
    double values[EW_MEASURE_VALUES_MAX]; /* one for each repeat */
} ew_measure;

typedef struct ew_trial_result {
    uint8_t id[EW_UID_BYTES];
    uint64_t fence;
    ew_status code;   /* EW_OK, or why the trial failed */
    char detail[256]; /* words for code */
    uint32_t n_measures;
    ew_measure measures[EW_MEASURES_MAX];
    uint8_t env_hash[EW_SHA256_BYTES]; /* of software, kernels and device: results compare only within one */
    bool has_spec;                     /* set when the device chose the trial itself (a plan executed) */
    ew_trial_spec spec;
} ew_trial_result;

/* "bm25", "recency", "vectors", "fused"; "unknown" for anything else. */
const char *ew_rag_rank_name(uint32_t rank);
/* False for a name not known. */
bool ew_rag_rank_from_name(const char *name, uint32_t *ret_rank);

/* Adds one measure, or one value to the measure of that name. False when a limit is reached or v is NAN. */
bool ew_trial_result_add(ew_trial_result *r, const char *name, const char *unit, double v);
const ew_measure *ew_trial_result_find(const ew_trial_result *r, const char *name);
/* Mean of the measure; NAN when absent. */
double ew_trial_result_mean(const ew_trial_result *r, const char *name);

/* "profile" or "benchmark:<digest>:<user>", digest and user of [A-Za-z0-9._-]. The parts may be NULL. */
ew_status ew_source_parse(const char *source, bool *ret_profile, char ret_digest[72], char ret_user[72],
                          ew_error *reterr) EW_MUST_CHECK;

/* Everything but ids, lease, fence: task, source form, variant, method, settings in range. EW_EINVAL with the field. */
ew_status ew_trial_spec_check(const ew_trial_spec *spec, ew_error *reterr) EW_MUST_CHECK;

/* The settings as a table, for YAML, JSON, the wire and tables of results. */
typedef struct ew_setting_desc {
    const char *name; /* "rank", "learning-rate", … */
    bool is_double;   /* else uint32_t */
    size_t offset;    /* in ew_settings */
    double min, max;  /* inclusive */
    const char *help;
} ew_setting_desc;
extern const ew_setting_desc ew_setting_table[];
extern const size_t ew_setting_count;
/* EW_ENOENT for a name not known, EW_EINVAL out of range. */
ew_status ew_settings_set(ew_settings *s, const char *name, double value, ew_error *reterr) EW_MUST_CHECK;
/* 0 for a name not known. */
double ew_settings_get(const ew_settings *s, const char *name);

#endif

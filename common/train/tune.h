/* LoRA tuning over the base as it is served (quantized or not), within limits of wall time and memory.
 *
 * Forward and backward multiply by the same weights, dequantised tile by tile. Only the block inputs are kept for the backward
 * pass, each block is computed again when its turn comes; the loss is the cross-entropy of answer tokens, computed in chunks of
 * the vocabulary. Everything that the run needs (adapter gradients, optimizer, activations, scratch) lies in one arena whose
 * size a dry run gives: ew_tune_memory. The run refuses to start when it does not fit max_ram_bytes, and names the smallest
 * limit that would do.
 *
 * Exact resume: with a checkpoint path the whole state (parameters, optimizer, best parameters, random numbers, cursor, curve)
 * is written every checkpoint_every steps and on a stop; a run killed at any point and started again with the same options
 * ends with the same bytes as one that was not, as long as no wall-time budget cuts it (steps, not seconds, are replayed).
 * Locking: the call uses exec's pool; one call per thread. */
#ifndef EW_TRAIN_TUNE_H
#define EW_TRAIN_TUNE_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/model.h"
#include "peft/adapter.h"

/* One example: prompt ids (with BOS if the model wants it) followed by answer ids; the loss counts the answer alone. */
typedef struct ew_tune_example {
    const int32_t *id; /* prompt then answer; borrowed */
    uint32_t n_prompt; /* tok, >= 1 */
    uint32_t n_answer; /* tok, >= 1 */
} ew_tune_example;

typedef struct ew_tune_opt {
    ew_model *model;
    ew_exec exec; /* zero = best kernels, serial */
    ew_adapter_opt adapter;
    const ew_adapter *init; /* start from a copy of this adapter instead of a fresh one; NULL = fresh */
    const ew_tune_example *train;
    size_t n_train;
    const ew_tune_example *val; /* for the plateau stop and the choice of the best parameters; may be empty */
    size_t n_val;
    float lr;                /* 0 = 1e-3 */
    float weight_decay;      /* on A and B alike */
    float clip;              /* largest gradient norm; 0 = 1.0, negative = none */
    float warmup;            /* share of steps; 0 = 0.05, negative = none */
    float min_lr;            /* share of lr at the end of the cosine; 0 = 0.1, negative = 0 */
    float beta1, beta2, eps; /* 0 = 0.9, 0.999, 1e-8 */
    uint32_t epochs;         /* 0 = 3 */
    uint32_t max_steps;      /* 0 = as epochs give */
    uint32_t batch;          /* examples per step; 0 = 8 */
    uint32_t pack_tok;       /* tokens per packed pass (a step may take several); 0 = 512, at least one example */
    uint32_t seq_max;        /* longer examples lose the front of their prompt; 0 = min(512, context of the model) */
    uint32_t eval_every;     /* steps between validations; 0 = once per epoch */
    uint32_t patience;       /* validations without improvement before it stops; 0 = 3, UINT32_MAX = never */
    bool keep_activations;   /* true: no recompute (faster, more memory) */
    double max_seconds;      /* wall time of this process's part; 0 = no limit */
    uint64_t max_ram_bytes;  /* whole process, as ew_tune_memory counts; 0 = no limit */
    uint64_t seed;
    const char *checkpoint;    /* path; NULL = none */
    uint32_t checkpoint_every; /* steps; 0 = 20 */
    ew_progress progress;
} ew_tune_opt;

typedef enum ew_tune_stop {
    EW_TUNE_STOP_DONE,    /* all steps */
    EW_TUNE_STOP_PLATEAU, /* validation stopped improving */
    EW_TUNE_STOP_TIME,    /* max_seconds */
    EW_TUNE_STOP_DIVERGED /* the loss was not finite again and again */
} ew_tune_stop;

typedef struct ew_tune_point {
    uint32_t step;
    float train_loss; /* mean of the answer tokens since the last point, nats per token */
    float val_nll;    /* nats per answer token; NAN without validation items */
} ew_tune_point;

#define EW_TUNE_POINTS_MAX 256

typedef struct ew_tune_report {
    ew_tune_stop stop;
    const char *stop_reason; /* a phrase for people, static */
    uint32_t steps, steps_planned;
    uint32_t skipped;   /* steps whose loss or gradient was not finite */
    uint64_t tokens;    /* prompt and answer tokens that went through forward and backward */
    uint64_t truncated; /* examples that lost the front of their prompt */
    double seconds;     /* of training proper, over all resumed parts */
    double tok_per_s;
    float train_loss;     /* last point */
    float val_nll_before; /* NAN without validation items */
    float val_nll_best;   /* of the parameters that are returned */
    uint32_t best_step;   /* 0 = the start was never beaten */
    uint64_t peak_ram_predicted_bytes;
    uint64_t arena_bytes;
    bool resumed;
    ew_tune_point curve[EW_TUNE_POINTS_MAX];
    uint32_t n_curve;
} ew_tune_report;

/* What the dry run finds. The planner uses exactly this. */
typedef struct ew_tune_memory_plan {
    uint64_t weights_bytes; /* pages of the mapped model that the run touches */
    uint64_t adapter_bytes; /* parameters, gradients, two moments, best copy */
    uint64_t activ_bytes;   /* block inputs, one block's activations, gradients of activations */
    uint64_t scratch_bytes; /* dequantised tiles, vocabulary chunks, packed batch */
    uint64_t process_bytes; /* program, libraries, tokenizer: measured constant plus what the examples take */
    uint64_t total_bytes;   /* the sum: compare with VmHWM */
    uint64_t arena_bytes;
} ew_tune_memory_plan;

/* Works without examples (n_train 0): then seq_max and pack_tok are taken as they are. */
ew_status ew_tune_memory(const ew_tune_opt *opt, ew_tune_memory_plan *ret_plan, ew_error *reterr) EW_MUST_CHECK;

/* *ret_lora holds the parameters that were best on the validation items (the last ones without any).
 * EW_ENOMEM: does not fit max_ram_bytes. EW_ECANCELLED: progress said stop; the checkpoint, if any, is on disk. EW_EINVAL,
 * EW_EUNSUPPORTED (architecture without backward), EW_ECONFLICT (checkpoint of another run). */
ew_status ew_tune(const ew_tune_opt *opt, ew_adapter **ret_lora, ew_tune_report *ret_report,
                  ew_error *reterr) EW_MUST_CHECK;

#endif

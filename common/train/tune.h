/* Tuning: fits an adapter (peft/adapter.h, any kind) over the base as it is served, quantized or not, within limits of memory, wall
 * time, energy, heat and power supply.
 *
 * Forward and backward multiply by the same weights, dequantised tile by tile; the loss is the cross-entropy of answer tokens,
 * computed in chunks of the vocabulary. Everything that the run needs (gradients, optimizer, activations, scratch) lies in one arena
 * whose size a dry run gives: ew_tune_memory. With a limit the trainer takes the first rung of the ladder (step.h) that fits it: all
 * activations; each layer again in the backward pass; the same from bf16 inputs; the same with a layer's mapped pages given back
 * after use; then other methods, which learn differently: one window of layers at a time, and forward passes alone. When none fits it
 * refuses and names the smallest limit that would do. The first four give the same parameters but for bf16's rounding.
 *
 * Exact resume: with a checkpoint path the whole state (parameters, optimizer, best parameters, cursor, curve) is written every
 * checkpoint_every steps and on a stop; masks, orders, windows and MeZO's directions are functions of seed and step. A run killed at
 * any point and started again with the same options ends with the same bytes as one that was not, as long as no budget cuts
 * it (steps, not seconds, are replayed). A disk that is full costs checkpoints, not the run: the last good one stays, the next is
 * tried again, and the report says so.
 *
 * A step whose loss or gradient is not finite changes nothing and halves the rate; after six in a row the run stops with its last good
 * parameters (the best on the validation items, or the last whose loss was a number). Pause: the progress callback returns false, then start again.
 * Locking: the call uses exec's pool; one call per thread. */
#ifndef EW_TRAIN_TUNE_H
#define EW_TRAIN_TUNE_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "train/step.h"

/* One example: prompt ids (with BOS if the model wants it) followed by answer ids; the loss counts the answer alone. */
typedef struct ew_tune_example {
    const int32_t *id; /* prompt then answer; borrowed */
    uint32_t n_prompt; /* tok; 0 = the answer alone, whose first token is then not learnt */
    uint32_t n_answer; /* tok; nothing to learn from: left out and counted */
} ew_tune_example;

/* How activations and gradients are multiplied by the base's weights (kern.h, ew_kern_bf16). */
typedef enum ew_tune_products {
    EW_TUNE_PRODUCTS_AUTO, /* BF16 where the CPU has it and the base is not F32 itself; f32 for full tuning and MeZO */
    EW_TUNE_PRODUCTS_F32,
    EW_TUNE_PRODUCTS_BF16 /* about twice the speed; f32 where the CPU has it not */
} ew_tune_products;

typedef struct ew_tune_opt {
    ew_model *model;
    ew_exec exec; /* zero = best kernels, serial */
    ew_adapter_opt adapter;
    const ew_adapter *init; /* start from a copy of this adapter (adapter is then not read); NULL = fresh */
    const ew_tune_example *train;
    size_t n_train;
    const ew_tune_example *val; /* for the plateau stop and the choice of the best parameters; may be empty */
    size_t n_val;
    float lr;                /* 0 = what suits the kind: ew_tune_default_lr */
    float weight_decay;      /* on all parameters alike */
    float clip;              /* largest gradient norm; 0 = 1.0, negative = none */
    float warmup;            /* share of steps, up to 1; 0 = 0.05 (MeZO: none), negative = none */
    float min_lr;            /* share of lr, up to 1, at the end of the cosine; 0 = 0.1 (MeZO: 1), negative = 0 */
    float beta1, beta2, eps; /* 0 = 0.9, 0.999, 1e-8 */
    bool optimizer_8bit;     /* moments in 8 bits (optim.h) */
    float mezo_eps;          /* MeZO: 0 = what suits the kind (mezo.h) */
    uint32_t mezo_spsa;      /* MeZO: directions per step; 0 = 1 */
    uint32_t epochs;         /* 0 = 3 */
    uint32_t max_steps;      /* 0 = as epochs give */
    uint32_t batch;          /* examples per step; 0 = 8 */
    uint32_t accumulate;     /* so many batches make one step; 0 = 1 */
    uint32_t pack_tok;       /* tokens per packed pass (a step may take several); 0 = 512, at least one example */
    uint32_t seq_max;        /* longer examples lose their prompt's front; 0 = 512; cut to the model's positions */
    uint32_t eval_every;     /* steps between validations; 0 = once per epoch */
    uint32_t patience;       /* validations without improvement before it stops; 0 = 3, UINT32_MAX = never */
    ew_tune_rung rung;       /* AUTO: the fastest that fits max_ram_bytes; without a limit RECOMPUTE */
    ew_tune_products products;
    bool drop_pages;        /* give mapped pages back after use on any rung (resident memory counts, not speed) */
    uint64_t max_ram_bytes; /* whole process, as ew_tune_memory counts; 0 = no limit */
    uint64_t ram_beside;    /* resident besides what the trainer counts for a process (a server around it) */
    double max_seconds;     /* wall time of this process's part; 0 = no limit, as for the next two */
    double max_joules;      /* of this process's part, of the whole machine (budget.h) */
    double max_temperature_c;
    bool only_on_mains;
    double watts;         /* calibrated power while training, where no meter is; 0 = a guess from the threads */
    const char *sys_root; /* before /sys, for tests; NULL = "" */
    uint64_t seed;
    const char *checkpoint;    /* path; NULL = none */
    uint32_t checkpoint_every; /* steps; 0 = 20 */
    ew_progress progress;      /* phase "tune" */
} ew_tune_opt;

/* LoRA and bottleneck 1e-3 (block-wise 3e-3: a block has its share of the steps alone), prompt and prefix 1e-2, IA3 3e-3, full 2e-5; with MeZO the authors' (mezo.h). */
float ew_tune_default_lr(const ew_adapter_opt *adapter, ew_tune_rung rung);

typedef enum ew_tune_stop {
    EW_TUNE_STOP_DONE,     /* all steps */
    EW_TUNE_STOP_PLATEAU,  /* validation stopped improving */
    EW_TUNE_STOP_TIME,     /* max_seconds; this and the next three: start again to go on */
    EW_TUNE_STOP_ENERGY,   /* max_joules */
    EW_TUNE_STOP_HEAT,     /* max_temperature_c */
    EW_TUNE_STOP_MAINS,    /* the machine runs on its battery */
    EW_TUNE_STOP_DIVERGED, /* the loss was not finite again and again */
    EW_TUNE_STOP_COUNT
} ew_tune_stop;

/* A phrase for people. */
const char *ew_tune_stop_text(ew_tune_stop s);

typedef struct ew_tune_point {
    uint32_t step;
    float train_loss; /* mean of the answer tokens since the last point, nats per token */
    float val_nll;    /* nats per answer token; NAN without validation items */
} ew_tune_point;

#define EW_TUNE_POINTS_MAX 256

typedef struct ew_tune_report {
    ew_tune_stop stop;
    const char *stop_reason; /* ew_tune_stop_text(stop) */
    ew_tune_rung rung;       /* that was taken */
    bool bf16;               /* products went by BF16 */
    bool drop_pages;
    uint32_t steps, steps_planned;
    uint32_t skipped;   /* steps whose loss or gradient was not finite */
    uint64_t tokens;    /* prompt and answer tokens that went through a training pass */
    uint64_t truncated; /* examples that lost the front of their prompt, or the end of their answer */
    uint64_t empty;     /* examples without anything to learn */
    double seconds;     /* of training proper, over all resumed parts; joules alike */
    double joules;
    bool joules_estimated;
    double tok_per_s;
    float train_loss;     /* last point */
    float val_nll_before; /* NAN without validation items */
    float val_nll_best;   /* of the parameters that are returned */
    uint32_t best_step;   /* 0 = the start was never beaten */
    uint64_t peak_ram_predicted_bytes;
    uint64_t arena_bytes;
    bool resumed;
    uint32_t checkpoints_failed;
    char checkpoint_error[200]; /* why the last of them was; "" = none */
    ew_tune_point curve[EW_TUNE_POINTS_MAX];
    uint32_t n_curve;
} ew_tune_report;

/* What the dry run finds. The planner uses exactly this. */
typedef struct ew_tune_memory_plan {
    ew_tune_rung rung;
    bool drop_pages;
    uint32_t pass_tok;      /* rows of a pass */
    uint64_t weights_bytes; /* most pages of the mapped model that are resident at once */
    uint64_t adapter_bytes; /* parameters, gradients, two moments, best copy */
    uint64_t activ_bytes;   /* activations, their gradients, inputs of layers that are kept */
    uint64_t scratch_bytes; /* dequantised tiles, vocabulary chunks, packed batch */
    uint64_t process_bytes; /* program, libraries, tokenizer: measured constant plus what the examples take */
    uint64_t total_bytes;   /* the sum: compare with VmHWM */
    uint64_t arena_bytes;
} ew_tune_memory_plan;

/* Of the rung that ew_tune would take under max_ram_bytes. Works without examples (n_train 0): then seq_max and pack_tok are taken as
 * they are. EW_ENOMEM as ew_tune. */
ew_status ew_tune_memory(const ew_tune_opt *opt, ew_tune_memory_plan *ret_plan, ew_error *reterr) EW_MUST_CHECK;

/* *ret_adapter holds the parameters that were best on the validation items (the last ones without any).
 * EW_ENOMEM: does not fit max_ram_bytes. EW_ECANCELLED: progress said stop; the checkpoint, if any, is on disk. EW_EINVAL,
 * EW_EUNSUPPORTED (a family or method without backward), EW_ECONFLICT (checkpoint of another run). */
ew_status ew_tune(const ew_tune_opt *opt, ew_adapter **ret_adapter, ew_tune_report *ret_report,
                  ew_error *reterr) EW_MUST_CHECK;

#endif

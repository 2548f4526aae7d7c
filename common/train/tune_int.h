/* The trainer's rooms: tune.c (options, loop, report), tune_memory.c (dry run, ladder), tune_batch.c (examples, order, packing),
 * tune_state.c (checkpoint). */
#ifndef EW_TUNE_INT_H
#define EW_TUNE_INT_H

#include "base/arena.h"
#include "crypt/hash.h"
#include "train/budget.h"
#include "train/mezo.h"
#include "train/optim.h"
#include "train/step.h"
#include "train/tune.h"

/* What a checkpoint carries besides arrays. No padding: it is written as it lies. */
typedef struct ew__tune_run {
    uint64_t step, tokens, skipped;
    double seconds, joules; /* of all parts */
    uint64_t estimated;
    double lr_scale; /* halved at each step that was not finite */
    uint64_t bad_in_row;
    double loss_sum, loss_n; /* since the last point */
    double val_before, val_best;
    uint64_t best_step, since_best;
    uint64_t stopped; /* ew_tune_stop + 1; 0 = still running */
    uint64_t n_curve;
    uint64_t phase, phase_skipped; /* block-wise: the present one, and skipped when it began */
    ew_tune_point curve[EW_TUNE_POINTS_MAX];
} ew__tune_run;

typedef struct ew__tuner {
    ew_tune_opt o; /* resolved; train and val are the tuner's own tables */
    ew_tune_opt asked;
    uint32_t n_virtual;   /* positions before the first token */
    uint32_t prompt_rows; /* rows of a pass that each sequence has for them */
    const ew_model_config *cfg;
    ew_tune_example *table; /* what train and val point into: examples with something to learn */
    uint64_t truncated, empty;
    ew_adapter *adapter;
    ew_model *model; /* what runs: the base, or a full fine-tuning's own */
    ew_pass *pass;
    size_t n;            /* parameters */
    size_t n_learn;      /* most of them that learn in a step */
    size_t t_max;        /* rows of a pass */
    size_t a_max;        /* answer rows of a pass */
    size_t longest;      /* rows of any example */
    double answer_share; /* largest of any example: bounds the answer rows of a pass */
    size_t group;        /* examples of a step */
    uint32_t steps_per_epoch, steps;
    ew_arena arena;
    float *grad;        /* [n_learn] */
    float *best, *kept; /* [n]; these NULL where the rung has no use for them */
    ew_optim optim;
    ew_mezo_opt mezo;
    ew_step_batch pack;
    uint32_t *bound, *row, *perm;
    int32_t *id, *pos, *target;
    uint64_t perm_epoch; /* + 1 */
    ew__tune_run st;
    uint8_t fingerprint[EW_SHA256_SIZE];
    ew_budget *budget;
    ew_budget_use use;                /* of this part, at the last look */
    double base_seconds, base_joules; /* when this part began */
    double step_s, eval_s;            /* the last of each */
    uint32_t checkpoints_failed;
    ew_error checkpoint_err;
} ew__tuner;

/* --- tune_batch.c --- */

/* Copies examples that hold something to learn into t->table, counts the others, checks every token. */
ew_status ew__tune_examples(ew__tuner *t, ew_error *reterr);
/* Rows of an example: its tokens but the last, at most seq_max (ew__tune_rows), and those of a prompt before them. And how many of them are of
 * the answer. */
size_t ew__tune_rows(const ew__tuner *t, const ew_tune_example *x);
size_t ew__tune_answers(const ew__tuner *t, const ew_tune_example *x);
/* order[n_train] of an epoch. */
void ew__tune_shuffle(const ew_tune_opt *o, uint64_t epoch, uint32_t *order);
/* Most rows of any pass of the run with passes of at most t->t_max rows; 0 = not known. EW_ENOMEM. */
ew_status ew__tune_fullest(const ew__tuner *t, size_t *ret_rows, ew_error *reterr);

/* Walks over the examples of a step, or over the validation items, a packed pass at a time. */
typedef struct ew__tune_walk {
    bool val;
    size_t at, end;
} ew__tune_walk;

ew__tune_walk ew__tune_walk_step(ew__tuner *t);
ew__tune_walk ew__tune_walk_val(const ew__tuner *t);
/* Answer tokens of what is left of a walk. */
size_t ew__tune_walk_answers(ew__tuner *t, const ew__tune_walk *w);
/* Packs the next pass into t->pack; false at the end. */
bool ew__tune_next(ew__tuner *t, ew__tune_walk *w);

/* --- tune_memory.c --- */

/* Takes everything from t->arena or a dry one, for t->t_max and t->a_max rows and t->o.rung. */
bool ew__tune_take(ew__tuner *t, ew_arena *a);
/* Chooses rung and rows, makes t->pass. */
ew_status ew__tune_fit(ew__tuner *t, ew_tune_memory_plan *ret_plan, ew_error *reterr);

/* What a rung asks of the options; and the options as it takes them (exits, rates). In tune.c. */
ew_status ew__tune_rung_check(const ew_tune_opt *o, ew_tune_rung rung, ew_error *reterr);
ew_status ew__tune_rung_options(ew__tuner *t, ew_error *reterr);
/* A new t->pass for the rung. */
ew_status ew__tune_pass(ew__tuner *t, ew_error *reterr);

/* --- tune_state.c --- */

/* Of the model, the options and the examples; the adapter still has its start. */
void ew__tune_fingerprint(ew__tuner *t);
ew_status ew__tune_save(ew__tuner *t, ew_error *reterr);
/* EW_ENOENT: there is none. */
ew_status ew__tune_load(ew__tuner *t, ew_error *reterr);

#endif

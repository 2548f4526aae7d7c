/* One trial, whoever asked for it: a plan of the device itself or an experiment of the fleet. The one code path for both.
 *
 * What happens, in this order:
 *   1. split     the user's items: 60 % history, 20 % val, 20 % test, by position for a profile, in the order of their hash for a benchmark; the method sees the first n_history of the
 *                history, retrieval is causal (an item only sees items before it).
 *   2. predict   peak RAM of this process by the dry runs of the session and of the trainer, seconds by the probe's rates and the
 *                pace of the moment (some prompts are timed). Over the RAM
 *                budget and not forced: EW_ELIMIT, with the smallest budget that would do.
 *   3. base      the untouched model on val and test: score, answer NLL.
 *   4. learn     the method's adapter (probe/learning.h) on history (plateau stop on val), within the budgets; resumable from work_dir.
 *   5. score     the personalised model on val and test, ungated; the gate compares val items only.
 * Steps 3 to 5 are done warmup + repeats times; each repeat adds a value to every measure. Settings of other methods than the trial's are
 * ignored, so that the trials of a grid can share theirs.
 * Measures are scalars; no text leaves through a result.
 *
 * Measures (unit): test.score, test.nll, val.score, val.nll (the method); base.test.score, base.test.nll, base.val.score, base.val.nll; the task's own
 * metrics test.accuracy, test.macro_f1, test.mae, test.rmse, test.rouge1, test.rougeL; baseline.majority, baseline.nearest, baseline.first8;
 * gate (1 = better on val), gated.score, gated.nll; seconds, seconds.predicted, seconds.by_rates (without the pace of the moment), tune.seconds, tune.tok_per_s, tune.steps; ram.peak_bytes,
 * ram.predicted_bytes; prefill.tok_per_s; n.history, n.val, n.test. score: higher is better (MAE is negated). nll: nats per answer token.
 *
 * The memory figures are of the whole process: run a trial in a process of its own (run/worker.h).
 * Locking: one trial per process at a time (it uses exec's pool). */
#ifndef EW_RUN_RUN_H
#define EW_RUN_RUN_H

#include "base/progress.h"
#include "base/status.h"
#include "domain/device.h"
#include "domain/trial.h"
#include "kern/kern.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "task/item.h"

/* Predictions without running: what step 2 computes. */
typedef struct ew_run_forecast {
    uint64_t ram_bytes; /* peak of the process */
    double seconds;     /* of the whole trial; NAN without rates */
} ew_run_forecast;

typedef struct ew_run_env {
    const char *model_path;      /* GGUF file or directory */
    const ew_items *items;       /* of one user */
    ew_exec exec;                /* zero = best kernels, serial */
    const char *work_dir;        /* checkpoint of the training; NULL = none (then a killed trial starts anew) */
    const ew_device_caps *caps;  /* rates for the prediction of seconds; NULL = no prediction */
    uint64_t memory_limit_bytes; /* of this process, besides the spec's own budget; 0 = none */
    double max_temperature_c;    /* training stops above it; 0 = no limit */
    /* An update of what was learned before: training starts from a copy of this adapter (GGUF; of this base), on the items of the history that
     * `learns` says yes to (its order is the position in the history). NULL = a fresh adapter, all of the history. Called with progress.ctx. */
    const char *init_path;
    bool (*learns)(const ew_item *item, void *ctx);
    ew_progress progress;
    /* Told once, before anything is computed; may be NULL. Called with progress.ctx. */
    void (*on_forecast)(const ew_run_forecast *forecast, void *ctx);
} ew_run_env;

/* What a trial leaves behind besides its measures. Zeroed before; released by ew_run_product_release. */
typedef struct ew_run_product {
    ew_adapter *lora;        /* the trained adapter, NULL when the method trains none */
    bool better;             /* the gate: on val items it beats the untouched model (answer NLL; score not lower) */
    const char *stop_reason; /* why training ended, a static phrase; NULL when there was none */
    bool diverged;           /* the loss was not finite again and again: the adapter holds the last good parameters */
    bool unfinished;         /* a budget ended it */
} ew_run_product;
void ew_run_product_release(ew_run_product *p);

/* ret_result always gets id, fence and code; on failure code and detail repeat the error. product may be NULL.
 * EW_EINVAL (spec), EW_ENOENT (task, model), EW_ELIMIT (does not fit; too few items), EW_ECANCELLED, EW_ECORRUPT. */
ew_status ew_run_trial(const ew_trial_spec *spec, const ew_run_env *env, ew_trial_result *ret_result,
                       ew_run_product *product, ew_error *reterr) EW_MUST_CHECK;

/* The forecast alone. */
ew_status ew_run_predict(const ew_trial_spec *spec, const ew_run_env *env, ew_run_forecast *ret_forecast,
                         ew_error *reterr) EW_MUST_CHECK;

#endif

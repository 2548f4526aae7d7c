/* What a trial will cost: tokens to compute, seconds and bytes, from the model's dimensions, the task's facts and the rates that the device's
 * own probe measured. The one cost model: the planner predicts with it in the cloud, the device before it runs.
 *
 * Seconds. A token costs  flop(config) / rate;  rates are effective FLOP/s of whole passes (norms, attention and dispatch included), measured by
 * the probe on two synthetic models (d_model 128 and 256) in each weight type and interpolated in log d_model between them (constant outside):
 *   "prefill.<dtype>.<C>"  forward of prompts        "decode.<dtype>.<C>"  one token at a time
 *   "train.<dtype>.<C>"    LoRA step: forward, recompute and backward         unit GFLOP/s, counting
 *   flop(token) = 2 * (linear parameters of all layers) + 2 * V * C for the head where it is computed.
 * Work of one trial (ew_cost_work): evaluation of val and test items twice (untouched and personalised), each a prompt and the answer's candidates (all labels,
 * or the generated text), and steps of training until the plateau or the epochs' end.
 *
 * Bytes.  process + weights + max(session, training):  process is the probe's "process.base" (resident bytes of a worker with nothing loaded),
 * sessions and training come from the dry runs of model/ and train/.
 * Pure. Locking: any thread. */
#ifndef EW_PROBE_COST_H
#define EW_PROBE_COST_H

#include "base/status.h"
#include "domain/device.h"
#include "domain/plan.h"
#include "model/model.h"

/* Tokens of each kind that a trial computes. */
typedef struct ew_cost_work {
    double prefill_tok;   /* prompts of evaluated items */
    double decode_tok;    /* label candidates or generated text, one by one */
    double train_tok;     /* prompt and answer tokens through forward and backward */
    double train_val_tok; /* tokens of the validation passes during training (forward only) */
} ew_cost_work;

/* One item as the model sees it: means over the items. */
typedef struct ew_cost_item {
    double prompt_tok; /* without retrieved items */
    double answer_tok;
    double retrieved_tok;  /* what one retrieved item adds */
    double candidates_tok; /* tokens of all labels together (classification), or of the text generated */
    double seq_max_tok;    /* prompts never grow past this */
} ew_cost_item;

/* n_history, n_val, n_test: items; settings with 0 = default (epochs 3, rag_k 2). */
void ew_cost_work_of(ew_method method, const ew_settings *settings, const ew_cost_item *item, size_t n_history,
                     size_t n_val, size_t n_test, ew_cost_work *ret_work);

/* Seconds; NAN when the caps lack a rate for the dtype. dtype: "f16", "q8_0", "q4_0". low and high (may be NULL) are a 90 % interval from the
 * rates' spread. */
double ew_cost_seconds(const ew_device_caps *caps, const ew_model_config *cfg, const char *dtype,
                       const ew_cost_work *work, double *ret_low, double *ret_high);

/* FLOP of one token in the layers, and in the head. */
double ew_cost_flop_layers(const ew_model_config *cfg);
double ew_cost_flop_head(const ew_model_config *cfg);

#endif

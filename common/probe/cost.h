/* What a trial will cost: tokens to compute, seconds and bytes, from the model's dimensions, the task's facts and the rates that the device's
 * own probe measured. The one cost model: the planner predicts with it in the cloud, the device before it runs.
 *
 * Seconds. A token costs  flop(config) / rate;  rates are effective FLOP/s of whole passes (norms, attention and dispatch included), measured by
 * the probe on two synthetic models (d_model 128 and 256) in each weight type and interpolated in log d_model between them (constant outside):
 *   "prefill.<dtype>.<C>"  forward of prompts (160 tok)   "prefill-long.<dtype>.<C>"  of 448 tokens
 *   "decode.<dtype>.<C>"   one token at a time after 160   "decode-long.<dtype>.<C>"   after 448
 *   "train.<dtype>.<C>"    LoRA step: forward, recompute and backward           unit GFLOP/s, counting
 *   flop(token) = 2 * (linear parameters of all layers) + 4 * H * D * L * (positions it attends to) + 2 * V * C for the head where it is computed.
 * Attention costs more time for its FLOP than the rest: the cost of a token is the line through the two measured lengths, and training grows with
 * the length as the forward pass does.
 * Work of one trial (ew_cost_work): evaluation of val and test items twice (untouched and personalised), each a prompt and the answer's candidates (all labels,
 * or the generated text), and steps of training until the plateau or the epochs' end.
 *
 * Bytes.  process + weights + threads + max(scoring, training):  process is what is resident beside them (the probe's "process.base" plus the
 * tokenizer, or what the running process itself measures), the rest comes from the dry runs of model/ and train/.
 * Pure. Locking: any thread. */
#ifndef EW_PROBE_COST_H
#define EW_PROBE_COST_H

#include "base/status.h"
#include "domain/device.h"
#include "domain/plan.h"
#include "model/model.h"
#include "model/session.h"
#include "train/tune.h"

/* What the probe times: prompts, long ones (with retrieved items), and tokens one by one after them. */
#define EW_COST_PROMPT_TOK 160
#define EW_COST_LONG_TOK 448
#define EW_COST_DECODE_TOK 24

/* Tokens of each kind that a trial computes, and how many earlier positions each of them attends to in the mean. */
typedef struct ew_cost_work {
    double prefill_tok, prefill_ctx; /* prompts of evaluated items */
    double decode_tok, decode_ctx;   /* label candidates or generated text, one by one */
    double train_tok, train_ctx;     /* prompt and answer tokens through forward and backward */
    double train_val_tok;            /* tokens of the validation passes during training (forward only) */
    double max_seconds;              /* training stops here; 0 = no limit */
} ew_cost_work;

/* One item as the model sees it: means over the items. */
typedef struct ew_cost_item {
    double prompt_tok; /* without retrieved items */
    double filled_tok; /* with them, cut to what the model reads; prompt_tok where nothing is retrieved */
    double answer_tok; /* with end of text */
    double decode_tok; /* evaluations of single tokens: of all labels, or ew_cost_generate_tok */
} ew_cost_item;

/* Free text: the right answer is scored (answer_tok - 1), the prompt's last token comes again, and about as much is written as the right answer has. */
double ew_cost_generate_tok(double answer_tok, double max_answer_tok);

/* n_history, n_val, n_test: items; settings with 0 = default (epochs: the method's own). Training is counted to the end of its epochs: the plateau stop may end it
 * earlier only when there are more epochs than its patience. */
void ew_cost_work_of(ew_method method, const ew_settings *settings, const ew_cost_item *item, size_t n_history,
                     size_t n_val, size_t n_test, ew_cost_work *ret_work);

/* Seconds; NAN when the caps lack a rate for the dtype. dtype: "f16", "q8_0", "q4_0", which the probe measures; others stand for the one nearest
 * in bytes ("q4_k_m", "iq4_nl": q4_0; "q6_k", "q5_k_m": q8_0; "bf16": f16). low and high (may be NULL) are a 90 % interval from the
 * rates' spread. */
double ew_cost_seconds(const ew_device_caps *caps, const ew_model_config *cfg, const char *dtype,
                       const ew_cost_work *work, double *ret_low, double *ret_high);

typedef struct ew_cost_ram_opt {
    const ew_model *model;
    ew_exec exec; /* its pool's threads have working memory of their own */
    ew_method method;
    const ew_settings *settings;
    uint32_t n_ctx;          /* longest sequence that is evaluated */
    const ew_tune_opt *tune; /* NULL: from settings and n_ctx, with full passes */
    uint64_t process_bytes;  /* resident beside model, session and trainer, tokenizer included */
} ew_cost_ram_opt;

/* Peak resident bytes of a process that does one trial: the sum above. Errors are those of the dry runs. */
ew_status ew_cost_ram(const ew_cost_ram_opt *opt, uint64_t *ret_bytes, ew_error *reterr) EW_MUST_CHECK;
/* What a tokenizer of V pieces and the model's tables take, for process_bytes where no tokenizer is loaded. */
uint64_t ew_cost_vocab_bytes(const ew_model_config *cfg);
/* The options of the session that scores a trial: one place, so that what is predicted is what is made. */
ew_session_opt ew_cost_session(const ew_cost_ram_opt *opt);

/* FLOP of one token in the layers when it attends to ctx positions, and in the head. */
double ew_cost_flop_layers(const ew_model_config *cfg, double ctx);
double ew_cost_flop_head(const ew_model_config *cfg);

#endif

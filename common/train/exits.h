/* Block-wise tuning with early exits: the backward pass goes through one block of layers at a time, so the memory for activations is
 * that of a block, however deep the model is. Source: Edge-LLM (2406.15758), adaptive layer tuning.
 *
 * Exits behind layers e_1 < … < e_n < L cut the model into n + 1 blocks; the last block ends at the model's own head. Training goes
 * through the blocks from the bottom up in n + 1 phases of equal length (the remainder to the last). In a phase the layers below the
 * block run without anything being kept, the loss is taken at the block's exit, and only the block's LoRA pairs and the norm of
 * its exit learn; what lies above is not computed at all.
 *
 * Different from the paper's repository, measured in docs/internals/early-exits.md:
 *   - one stream: a block sees what the tuned blocks below give, in training as in use. The repository feeds every block from
 *     the plain backbone, which needs two streams (two caches, twice the work) in use;
 *   - an exit reads the stream through a norm of its own, which starts as the model's last norm and learns; the head is shared. There the
 *     exits stand before any norm and their copies of the head never learn;
 *   - the exits vote by how sure they are (model/session.h), not by the largest probability.
 *
 * The block of a step is a function of the step's number, so there is no state beside it. */
#ifndef EW_TRAIN_EXITS_H
#define EW_TRAIN_EXITS_H

#include "base/base.h"
#include "base/status.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "train/step.h"

/* Exits that cut L layers into n_blocks (2 … EW_ADAPTER_EXITS_MAX + 1) blocks of equal depth, the deeper ones at the bottom, which
 * cost least. Writes n_exits and exit of *opt. EW_EINVAL: fewer layers than blocks, or too many blocks. */
ew_status ew_exits_spread(uint32_t L, uint32_t n_blocks, ew_adapter_opt *opt, ew_error *reterr) EW_MUST_CHECK;

/* The phase of a step: 0 … opt->n_exits. steps: of the whole run. A run of fewer steps than blocks trains the last ones. */
uint32_t ew_exits_phase(const ew_adapter_opt *opt, uint64_t step, uint64_t steps);
/* The first step of a phase (of phase n_exits + 1: steps). */
uint64_t ew_exits_phase_start(const ew_adapter_opt *opt, uint32_t phase, uint64_t steps);
/* What a step of that phase runs and where its loss is. */
ew_pass_window ew_exits_window(const ew_adapter_opt *opt, uint32_t L, uint32_t phase);
/* Layers of the deepest block: what ew_pass_opt.window wants. */
uint32_t ew_exits_depth(const ew_adapter_opt *opt, uint32_t L);

/* Parts of the parameter block that learn in a window: its LoRA pairs, then the norm of its exit (n 0 for the last). Everything else must
 * not move, not even by momentum or decay: gradient and moments are those of the window alone, and begin anew with each. */
void ew_exits_spans(const ew_model_config *cfg, const ew_adapter_opt *opt, size_t n_params, const ew_pass_window *w,
                    ew_adapter_span ret[static 2]);
/* The most parameters that learn in a window. */
size_t ew_exits_most(const ew_model_config *cfg, const ew_adapter_opt *opt, size_t n_params);

/* Before the first step of a phase that has an exit: the model's last norm on a stream from further down gives logits that are
 * much too sure, so the exit's norm[n] is scaled by the factor in [1/64, 2] with the lowest loss (golden section on its logarithm,
 * EW_EXITS_CALIBRATE_CALLS evaluations, to within 2 %). loss: of the step's batch in the phase's window. Stays as it is when some
 * loss is not finite. */
#define EW_EXITS_CALIBRATE_CALLS 13
void ew_exits_calibrate(float *norm, size_t n, ew_step_loss_fn loss, void *ctx);

#endif

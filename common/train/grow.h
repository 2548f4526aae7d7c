/* A larger model that computes what a smaller one does: width is grown by copying (Net2Net, 1511.05641 section 2; bert2BERT, 2110.07143
 * section 3.2), so that pre-training goes on from where the smaller one ended.
 *
 * Channels, heads, key/value heads and hidden units are repeated r times, unit u of the larger model being a copy of unit u mod n. A matrix'
 * rows are copied; its columns are divided among the r copies of an input by shares that sum to 1, so that every product stays the same:
 *     W'[o, c + j n] = share_j W[o mod n_out, c],   share_j = 1/r + d_j - mean(d),   d_j normal with deviation 1/2.
 * Unequal shares are what lets copies learn different things (equal ones would stay equal for ever). RMSNorm over repeated channels is the
 * same; the tied head sees every channel r times, so the last norm is divided by r.
 * Locking: pure functions. */
#ifndef EW_TRAIN_GROW_H
#define EW_TRAIN_GROW_H

#include "base/base.h"
#include "base/status.h"
#include "model/model.h"
#include "model/weights.h"

/* Where the larger model's parameters go; shapes as in model/weights.h. */
typedef struct ew_grow_layer {
    float *linear[EW_LINEAR_COUNT];
    float *attn_norm, *ffn_norm;
} ew_grow_layer;

typedef struct ew_grow_target {
    float *token_embd, *output_norm; /* [V, C], [C] */
    const ew_grow_layer *layer;      /* [L] */
} ew_grow_target;

/* EW_EINVAL, with what differs, unless to has from's layers, head size, vocabulary size and rotation, and whole multiples of its other sizes
 * (the same one of C, H and K; 1 is allowed). EW_EUNSUPPORTED when from is not a Llama block with a tied head. */
ew_status ew_grow_check(const ew_model *from, const ew_model_config *to, ew_error *reterr) EW_MUST_CHECK;
/* After ew_grow_check. The same seed gives the same bytes. */
ew_status ew_grow_fill(const ew_model *from, const ew_model_config *to, uint64_t seed, const ew_grow_target *target,
                       ew_error *reterr) EW_MUST_CHECK;

#endif

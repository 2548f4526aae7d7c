/* Where adapters hang on a model. The model owns the places, peft/ owns what hangs there. All values are f32.
 *
 * A linear l of layer i computes, with everything that hangs on it (NULL and 0: nothing does):
 *
 *   y = out_scale * (ratio * (W z + scale * B (A z)) + bias),   z = in_scale * x          all products with * are by element
 *
 *   LoRA    A:[R,C_in], B:[F_out,R]                                      Hu 2021 (2106.09685) section 4.1
 *   DoRA    ratio = magnitude / |rows of W + scale * B A|                Liu 2024 (2402.09353) eq. 5; the norm is a constant for
 *           the gradient (section 4.3), so d magnitude = d ratio / norm
 *   IA3     out_scale on K and V, in_scale on Down                       Liu 2022 (2205.05638) section 3.3
 *
 * A bottleneck adapter (Houlsby 2019, 1902.00751) changes what attention (0) and the feed-forward (1) give to the stream, behind the
 * norms after (post_norms), before the sum:  o += Up act(Down o + down_b) + up_b.
 *
 * Virtual positions 0 … n_virtual - 1 stand before the first token, whose position is then n_virtual. With a prompt (Lester 2021,
 * 2104.08691) they are rows in the place of rows of the embedding table (the embedding's scale, learned positions and norm apply to
 * them, too); with a prefix (Li & Liang 2021, 2101.00190) their keys and values stand in every layer's cache, keys as they are
 * after turning. */
#ifndef EW_MODEL_HOOKS_H
#define EW_MODEL_HOOKS_H

#include "base/base.h"
#include "kern/ops.h"
#include "model/weights.h"

typedef struct ew_linear_hook {
    const float *a;         /* [rank, C_in] */
    const float *b;         /* [F_out, rank] */
    uint32_t rank;          /* 0 = no LoRA on this linear */
    float scale;            /* alpha / rank, or alpha / sqrt(rank) */
    const float *ratio;     /* [F_out] DoRA; NULL = 1 */
    const float *norm;      /* [F_out] the norms in ratio: what a gradient needs; NULL without ratio */
    const float *in_scale;  /* [C_in] IA3, O and Down only; NULL = 1 */
    const float *out_scale; /* [F_out] IA3; NULL = 1 */
} ew_linear_hook;

typedef struct ew_bottleneck_hook {
    const float *down, *down_b; /* [width, C], [width] */
    const float *up, *up_b;     /* [C, width], [C] */
    uint32_t width;             /* 0 = nothing here */
    ew_act act;
} ew_bottleneck_hook;

/* Early exit behind layer `layer` (1 … L): logits of the shared head on the norm of the stream there (Edge-LLM, 2406.15758). */
typedef struct ew_exit_hook {
    uint32_t layer;      /* layers computed before it */
    const float *norm;   /* [C] of the model's norm kind */
    const float *norm_b; /* [C] or NULL */
} ew_exit_hook;

/* Borrowed by sessions: the arrays must outlive them (or ew_session_set_hooks replaces them); values may change between
 * evaluations, and count from the next reset on where they are in the cache. A zeroed struct hooks nothing. */
typedef struct ew_hooks {
    const ew_linear_hook *linear; /* [L][EW_LINEAR_COUNT], index i_layer * EW_LINEAR_COUNT + linear; NULL = none */
    const ew_bottleneck_hook *bottleneck; /* [L][2] attention, feed-forward; NULL = none */
    uint32_t n_virtual;                   /* virtual positions; then prompt, or prefix_k and prefix_v */
    const float *prompt;                  /* [n_virtual, C] */
    const float *prefix_k, *prefix_v;     /* [L][n_virtual, K*D], in the order of the base's own rows of K */
    const ew_exit_hook *exits;            /* [n_exits] by layer; they vote with the last head. NULL = none */
    uint32_t n_exits;
} ew_hooks;

/* The same places with room for gradients (+=). NULL = frozen or not there. */
typedef struct ew_linear_grad {
    float *a, *b;     /* [rank, C_in], [F_out, rank] */
    float *magnitude; /* [F_out]: += d ratio / norm */
    float *in_scale;  /* [C_in] */
    float *out_scale; /* [F_out] */
} ew_linear_grad;

typedef struct ew_bottleneck_grad {
    float *down, *down_b, *up, *up_b;
} ew_bottleneck_grad;

typedef struct ew_exit_grad {
    float *norm, *norm_b;
} ew_exit_grad;

typedef struct ew_hook_grads {
    const ew_linear_grad *linear;         /* [L][EW_LINEAR_COUNT] or NULL */
    const ew_bottleneck_grad *bottleneck; /* [L][2] or NULL */
    float *prompt;                        /* [n_virtual, C] */
    float *prefix_k, *prefix_v;           /* [L][n_virtual, K*D] */
    const ew_exit_grad *exits;            /* [n_exits] or NULL */
    const ew_model_floats *weights;       /* full fine-tuning: of all weights; NULL = frozen */
} ew_hook_grads;

/* The largest rank or bottleneck width in hooks (0 for NULL): what a session needs workspace for. */
uint32_t ew_hooks_max_rank(const ew_hooks *hooks, uint32_t n_layers);

#endif

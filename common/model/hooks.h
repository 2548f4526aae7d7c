/* Where adapters hang on a model. The model owns the places, peft/ owns what hangs there.
 *
 * LoRA on linear l of layer i:  y += scale * (x A^T) B^T   x:[T,C_in], A:[R,C_in], B:[F_out,R], f32.
 * Source: Hu 2021 (2106.09685) section 4.1. */
#ifndef EW_MODEL_HOOKS_H
#define EW_MODEL_HOOKS_H

#include "base/base.h"
#include "model/weights.h"

typedef struct ew_lora_pair {
    const float *a; /* [rank, C_in] */
    const float *b; /* [F_out, rank] */
    uint32_t rank;  /* 0 = nothing on this linear */
    float scale;    /* alpha / rank, or alpha / sqrt(rank) */
} ew_lora_pair;

/* Borrowed by sessions: the arrays must outlive them (or ew_session_set_hooks replaces them); values may change between
 * evaluations. A zeroed struct hooks nothing. */
typedef struct ew_hooks {
    const ew_lora_pair *lora; /* [L][EW_LINEAR_COUNT], index i_layer * EW_LINEAR_COUNT + linear; NULL = no LoRA */
} ew_hooks;

/* The largest rank in hooks (0 for NULL): what a session needs workspace for. */
uint32_t ew_hooks_max_rank(const ew_hooks *hooks, uint32_t n_layers);

#endif

/* What the files of this module share. */
#ifndef EW_PEFT_ADAPTER_INT_H
#define EW_PEFT_ADAPTER_INT_H

#include "peft/adapter.h"

/* What a piece of the parameter block is. */
typedef enum ew_part_what {
    EW_PART_A,           /* [R, C_in] */
    EW_PART_B,           /* [F_out, R] */
    EW_PART_MAGNITUDE,   /* [F_out] */
    EW_PART_SCALE,       /* IA3: [F_out], of Down [C_in] */
    EW_PART_DOWN,        /* [W, C] */
    EW_PART_DOWN_B,      /* [W] */
    EW_PART_UP,          /* [C, W] */
    EW_PART_UP_B,        /* [C] */
    EW_PART_PROMPT,      /* [n_virtual, C] */
    EW_PART_PREFIX_K,    /* [n_virtual, K*D] */
    EW_PART_PREFIX_V,    /* [n_virtual, K*D] */
    EW_PART_EXIT_NORM,   /* [C] */
    EW_PART_EXIT_NORM_B, /* [C] */
    EW_PART_WHAT_COUNT
} ew_part_what;

typedef struct ew_part {
    ew_part_what what;
    uint32_t layer;      /* of the model; of an exit its index */
    uint32_t index;      /* the linear; attention 0 or feed-forward 1 */
    uint32_t rows, cols; /* rows 1 for a vector */
    size_t at;           /* in the parameter block */
} ew_part;

struct ew_adapter {
    ew_adapter_opt opt;  /* resolved */
    float scale;         /* LORA */
    ew_model_config cfg; /* of the base: shapes and order of rotary pairs */
    char base_sha256[65];
    size_t n;      /* parameters */
    float *params; /* [n] */
    ew_part *part; /* [n_parts] in the order of the block; FULL has none */
    size_t n_parts;
    ew_linear_hook *linear; /* [L][EW_LINEAR_COUNT] of LORA and IA3 */
    ew_linear_grad *linear_grad;
    ew_bottleneck_hook *bottleneck; /* [L][2] */
    ew_bottleneck_grad *bottleneck_grad;
    ew_exit_hook exits[EW_ADAPTER_EXITS_MAX];
    ew_exit_grad exit_grad[EW_ADAPTER_EXITS_MAX];
    ew_model_floats floats, floats_grad; /* FULL; their layers are ours */
    ew_hooks hooks;
    ew_hook_grads grads;
    size_t n_rows;    /* DoRA: of all targeted linears */
    float *dora;      /* DoRA: ratios [n_rows], norms [n_rows], sums of squares of the rows of W [n_rows] */
    float *dora_work; /* A W^T [R, most rows], B A A^T [most rows, R], A A^T [R, R] */
    size_t most_rows;
};

/* A zeroed adapter of this shape, bound to m. opt is resolved and checked. */
ew_status ew__adapter_alloc(const ew_model *m, const ew_adapter_opt *opt, ew_adapter **ret,
                            ew_error *reterr) EW_MUST_CHECK;
/* After the parameters have been read: what new does behind its initial values. */
void ew__adapter_loaded(ew_adapter *a, const ew_model *m);
/* Row of the GGUF order (pairs side by side) that holds row `hf` of the Hugging Face order (halves) of a Q or K matrix. */
size_t ew__adapter_gguf_row(const ew_model_config *cfg, size_t hf);
/* EW_ECONFLICT when sha256 (NULL or "" = not known) is not the base's. */
ew_status ew__adapter_check_base(const ew_adapter *a, const char *path, const char *sha256,
                                 ew_error *reterr) EW_MUST_CHECK;

#endif

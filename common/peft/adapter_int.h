/* What the files of this module share. */
#ifndef EW_PEFT_ADAPTER_INT_H
#define EW_PEFT_ADAPTER_INT_H

#include "format/gguf.h"
#include "format/safetensors.h"
#include "peft/adapter.h"
#include "text/json.h"

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
/* Magnitudes as the norms of W's rows (LORA with dora; others: nothing). */
void ew__adapter_start(ew_adapter *a, const ew_model *m);
/* After the parameters have been read: what hooks derive from them. */
void ew__adapter_loaded(ew_adapter *a, const ew_model *m);
/* The piece of the block, or NULL. */
float *ew__adapter_part(const ew_adapter *a, ew_part_what what, uint32_t layer, uint32_t index);
/* EW_ECONFLICT when sha256 (NULL or "" = not known) is not the base's. */
ew_status ew__adapter_check_base(const ew_adapter *a, const char *path, const char *sha256,
                                 ew_error *reterr) EW_MUST_CHECK;

/* The two kinds of file, opened; path is for messages. */
ew_status ew__adapter_from_gguf(const ew_gguf *g, const char *path, const ew_model *m, ew_adapter **ret,
                                ew_error *reterr) EW_MUST_CHECK;
ew_status ew__adapter_from_peft(json_t *config, const ew_safetensors *st, const char *path, const ew_model *m,
                                ew_adapter **ret, ew_error *reterr) EW_MUST_CHECK;

#define EW_ADAPTER_META_BASE "edgewise.base_sha256"
#define EW_ADAPTER_META_RANK "edgewise.rank" /* of each linear's own pair, where files have several in one */
#define EW_ADAPTER_FILE_RANK_MAX (4 * EW_ADAPTER_RANK_MAX)

/* ---- pieces as they stand in files (adapter_pack.c) ----
 * order: how the file has the rotary rows of Q and K. A LoRA of a matrix that holds several linears has their pairs side by side: A's rows
 * one linear after the other, B zero but in blocks. */

/* Whether any of the module's linears is targeted. */
bool ew__module_targeted(const ew_adapter *a, const ew_module *mod);
/* A[rank, C_in], B[rows of the module, rank], rank at least n * R; B's values times factor. */
void ew__pack_lora(const ew_adapter *a, const ew_module *mod, uint32_t layer, ew_rope_kind order, uint32_t rank,
                   float factor, float *A, float *B);
/* Into the linears' own pairs, from pairs side by side of rank `each`, or from one pair that all share (0). */
void ew__unpack_lora(ew_adapter *a, const ew_module *mod, uint32_t layer, ew_rope_kind order, uint32_t rank,
                     float factor, uint32_t each, const float *A, const float *B);
/* Magnitudes or scales of the module's rows; what is not targeted is `fill` in the file. */
void ew__pack_rows(const ew_adapter *a, ew_part_what what, const ew_module *mod, uint32_t layer, ew_rope_kind order,
                   float fill, float *v);
void ew__unpack_rows(ew_adapter *a, ew_part_what what, const ew_module *mod, uint32_t layer, ew_rope_kind order,
                     const float *v);
/* Keys of one position [K*D], to the file's order or from it. */
void ew__reorder_key(const ew_model_config *cfg, ew_rope_kind order, bool to_file, const float *src, float *dst);

/* LoRA tensors of either kind of file (adapter_lora.c). */
typedef struct ew_lora_source ew_lora_source;
struct ew_lora_source {
    const char *path;
    const ew_safetensors *st; /* one of the two */
    const ew_gguf *gguf;
    ew_rope_kind order;
    uint32_t own_rank; /* EW_ADAPTER_META_RANK; 0 = made by others */
    /* alpha / rank of a module whose file has this rank. */
    ew_status (*scale)(const ew_lora_source *s, const ew_module *mod, uint32_t rank, float *ret, ew_error *reterr);
    const void *ctx; /* scale's */
};
/* opt has alpha, rslora, dora and dropout; rank and targets come from the tensors. Every tensor of the file has to have its place. */
ew_status ew__lora_load(const ew_lora_source *s, const ew_model *m, ew_adapter_opt *opt, ew_adapter **ret,
                        ew_error *reterr) EW_MUST_CHECK;
/* Declares the tensors, begins, writes them. One of the writers. */
ew_status ew__lora_save(const ew_adapter *a, ew_safetensors_writer *st, ew_gguf_writer *gguf,
                        ew_error *reterr) EW_MUST_CHECK;
/* Rank of the module's tensors in the file. */
uint32_t ew__lora_file_rank(const ew_adapter *a, const ew_module *mod, bool gguf);

#endif

/* The weights of a model, bound by meaning: what training, adapters and compression walk over.
 * Pointers are into the model's mapping and live as long as the model. Read only. Locking: any thread.
 *
 * A linear layer is y[T,F_out] = x[T,C_in] W^T with W[F_out,C_in]: w.rows = F_out, w.cols = C_in. */
#ifndef EW_MODEL_WEIGHTS_H
#define EW_MODEL_WEIGHTS_H

#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/model.h"

typedef enum ew_linear {
    EW_LINEAR_Q,    /* [H*D, C] */
    EW_LINEAR_K,    /* [K*D, C] */
    EW_LINEAR_V,    /* [K*D, C] */
    EW_LINEAR_O,    /* [C, H*D] */
    EW_LINEAR_GATE, /* [F, C] */
    EW_LINEAR_UP,   /* [F, C] */
    EW_LINEAR_DOWN, /* [C, F] */
    EW_LINEAR_COUNT
} ew_linear;

/* "q_proj" … "down_proj" (Hugging Face, as Llama has them) and "attn_q" … "ffn_down" (GGUF). */
const char *ew_linear_hf_name(ew_linear l);
const char *ew_linear_gguf_name(ew_linear l);
/* The module that holds a linear layer in a directory of cfg's architecture: "model.layers.3.self_attn.q_proj". False (dst "") when there
 * is none of its own: no gate, or fused with others. */
bool ew_linear_hf_module(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, char *dst, size_t size);
/* The matrix of a file that has the rows of a linear layer: its own, or one that is fused with its neighbours. */
typedef struct ew_module {
    char name[96];   /* "model.layers.3.self_attn.qkv_proj", "blk.3.attn_qkv"; without ".weight" */
    ew_linear first; /* linears first … first + n - 1 stand in it, one after the other */
    uint32_t n;
    bool by_head; /* Q, K, V of head 0, then those of head 1, … (a directory of GPT-NeoX) */
    bool conv1d;  /* a directory has it transposed (GPT-2); rows are columns there */
} ew_module;
/* In a directory, and in the GGUF that is written for such a model. False: there is none (no gate). */
bool ew_linear_hf_matrix(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, ew_module *ret);
bool ew_linear_gguf_matrix(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, ew_module *ret);
/* Rows of all its linears. */
uint32_t ew_module_rows(const ew_model_config *cfg, const ew_module *m);
/* Row of the module that is row r of linear l (in the order of the file's rotary rows). */
size_t ew_module_row(const ew_model_config *cfg, const ew_module *m, ew_linear l, size_t r);

/* Order of the rotary rows of Q and K in GGUF files of cfg's architecture; directories are half-split (NEOX). */
ew_rope_kind ew_model_gguf_rope(const ew_model_config *cfg);
/* [rows, cols] of a linear layer under a configuration; 0 rows for the gate of an ungated model. */
void ew_linear_shape(const ew_model_config *cfg, ew_linear l, uint32_t *ret_rows, uint32_t *ret_cols);

/* NULL = the family has none. */
typedef struct ew_layer_weights {
    ew_mat linear[EW_LINEAR_COUNT]; /* GATE has 0 rows in an ungated model; slices where the file has fused matrices */
    const float *bias[EW_LINEAR_COUNT];   /* [rows] or NULL */
    const float *attn_norm, *attn_norm_b; /* [C] before attention (after it with norm_after), and its shift */
    const float *ffn_norm, *ffn_norm_b;   /* [C] before the feed-forward (after it); NULL: attn_norm serves both */
    const float *attn_post_norm;          /* [C] on what attention gives */
    const float *ffn_post_norm;           /* [C] on what the feed-forward gives */
    const float *q_norm, *k_norm;         /* [D], or [H,D] and [K,D] with qk_norm_heads */
} ew_layer_weights;

/* i_layer < L. */
const ew_layer_weights *ew_model_layer(const ew_model *m, uint32_t i_layer);
const ew_mat *ew_model_token_embd(const ew_model *m); /* [V, C] */
const ew_mat *ew_model_output(const ew_model *m); /* [V, C]; the same data as token_embd when tied; 0 rows: encoder */
const ew_mat *ew_model_position_embd(const ew_model *m); /* [n_pos, C]; 0 rows = none */
const float *ew_model_output_norm(const ew_model *m);    /* [C] */
const float *ew_model_output_norm_b(const ew_model *m);  /* [C] or NULL */
const float *ew_model_output_b(const ew_model *m);       /* [V] or NULL */
/* Divisors of the rotary frequencies, [n_rot/2], for ew_rope's freq_factors; NULL when there is no scaling. LONGROPE: the short ones. */
const float *ew_model_rope_factors(const ew_model *m);
/* The same for n_ctx positions: those of LONGROPE's long table beyond rope_orig_ctx. */
const float *ew_model_rope_factors_for(const ew_model *m, uint32_t n_ctx);

/* f32 arrays in the shape of a model's weights: parameters, or their gradients. NULL = the family has none (or not given). */
typedef struct ew_layer_floats {
    float *linear[EW_LINEAR_COUNT]; /* shapes as above */
    float *attn_norm;               /* [C] */
    float *ffn_norm;                /* [C] */
    float *bias[EW_LINEAR_COUNT];   /* [rows] */
    float *attn_norm_b, *ffn_norm_b;
    float *attn_post_norm, *ffn_post_norm;
    float *q_norm, *k_norm; /* [D], or [H,D] and [K,D] */
} ew_layer_floats;

typedef struct ew_model_floats {
    float *token_embd;      /* [V, C] */
    float *output;          /* [V, C], or NULL: tied head */
    float *output_norm;     /* [C] */
    ew_layer_floats *layer; /* [L]; the array itself is copied */
    float *output_norm_b;   /* [C] */
    float *output_b;        /* [V] */
    float *position_embd;   /* [n_pos, C] */
    float *token_types;     /* [n_types, C] */
    float *embd_norm, *embd_norm_b;
} ew_model_floats;

/* A model of the families without further weights (Llama, Mistral and whatever of windows, scales and caps is added to them) over float
 * arrays that stay the caller's and must outlive it; they may change between (not during) evaluations. Only token_embd, output,
 * output_norm, linear, attn_norm and ffn_norm are read.
 * cfg->tied_head is set from weights->output. vocab (NULL = none) is copied. cfg is checked like a file's. */
ew_status ew_model_from_floats(const ew_model_config *cfg, const ew_vocab *vocab, const ew_model_floats *weights,
                               ew_model **ret_model, ew_error *reterr) EW_MUST_CHECK;

/* The arrays that a model of m's kind has, one after the other from `at` on: fills the pointers of *ret (ret->layer has room for L) and
 * returns the number of floats. at NULL: only counts, ret may be NULL. */
size_t ew_model_floats_place(const ew_model *m, float *at, ew_model_floats *ret);
/* The weights of m as floats, into such arrays. */
void ew_model_floats_copy(const ew_model *m, const ew_model_floats *dst);
/* A model like base (any family) whose weights are those of `weights` (where they are not NULL). Holds a reference to base; the arrays
 * stay the caller's, must outlive it and may change between evaluations. ew_model_path is "", there is no hash. EW_ENOMEM. */
ew_status ew_model_overlay(const ew_model *base, const ew_model_floats *weights, ew_model **ret_model,
                           ew_error *reterr) EW_MUST_CHECK;

/* EW_OK when train/ can compute the gradients of such a model: every decoder. EW_EUNSUPPORTED with what is missing. Before anything is
 * allocated. */
ew_status ew_model_check_trainable(const ew_model_config *cfg, ew_error *reterr) EW_MUST_CHECK;
/* EW_OK when its layers are Llama's and nothing else: what pre-training makes. EW_EUNSUPPORTED with the first feature beyond. */
ew_status ew_model_check_plain(const ew_model_config *cfg, ew_error *reterr) EW_MUST_CHECK;

/* Checks a configuration: every count in range, H % K, n_rot, V; the message names the field. */
ew_status ew_model_config_check(const ew_model_config *cfg, ew_error *reterr) EW_MUST_CHECK;

#endif

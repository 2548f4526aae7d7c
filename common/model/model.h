/* A language model as its file has it: configuration, tokenizer, weights. Immutable after opening, mapped, reference-counted.
 *
 * Opened from a GGUF file or from a Hugging Face directory (config.json, tokenizer.json, *.safetensors). Weights stay in the
 * file's own types and are not copied, except norms that are not f32, tensors that lie unaligned in their file, and matrices that a directory has
 * transposed or with Q, K and V interleaved (ew_model_copied_bytes says how much). Everything is checked before
 * the first use: the architecture by name, every tensor's shape and type, every bound. What is not supported is refused with what is missing.
 * What runs on it is a session (session.h); what the weights are is in weights.h; writing is in save.h.
 *
 * Families: Llama, Mistral, SmolLM, Qwen2, Qwen3, Phi-2, Phi-3, Gemma 1 to 3 (text), StableLM, GPT-NeoX, GPT-2, and from a directory only
 * GPT-Neo and OPT (GGUF has no such architecture); BERT as an encoder. A family is a row of the table in arch.c.
 *
 * Letters: C d_model, H heads, K kv-heads, D head dim, F ffn dim, V vocabulary, L layers.
 * Locking: everything on a const ew_model * is callable from any thread; ref and unref too. */
#ifndef EW_MODEL_MODEL_H
#define EW_MODEL_MODEL_H

#include "base/base.h"
#include "base/limits.h"
#include "base/status.h"
#include "kern/ops.h"
#include "token/tokenizer.h"

typedef struct ew_model ew_model;

typedef enum ew_rope_scaling {
    EW_ROPE_SCALING_NONE,
    EW_ROPE_SCALING_LINEAR,  /* positions divided by factor */
    EW_ROPE_SCALING_LLAMA3,  /* Llama 3.1: long wavelengths divided by factor, a smooth band between */
    EW_ROPE_SCALING_FACTORS, /* divisors stored in the file (GGUF rope_freqs.weight) */
    EW_ROPE_SCALING_YARN,    /* YaRN: few turns divided by factor, many turns not, a ramp between (Peng 2023) */
    EW_ROPE_SCALING_LONGROPE /* Phi-3: one table of divisors up to rope_orig_ctx, another for longer sessions (Ding 2024) */
} ew_rope_scaling;

/* How an encoder makes one vector of its hidden states. */
typedef enum ew_pooling {
    EW_POOLING_NONE = 0, /* as GGUF numbers them */
    EW_POOLING_MEAN = 1,
    EW_POOLING_CLS = 2, /* the first token's */
    EW_POOLING_LAST = 3
} ew_pooling;

/* What the decoder block computes, as data: shapes and the family's descriptor. A plain value; everything is set, and zero is
 * what Llama does. Counts are > 0 and within base/limits.h, H is a multiple of K, n_rot is even and <= D. The block, with n1 and
 * n2 the norms and p1 and p2 the norms after (each absent unless said):
 *
 *   x1 = x + p1(attention(n1(x)));   y = x1 + p2(ffn(n2(x1)))         in sequence (Llama)
 *   y = x + attention(n1(x)) + ffn(n2(x))                             parallel; n2 = n1 in Phi-2 and StableLM 2 12B
 *   x1 = n1(x + attention(x));       y = n2(x1 + ffn(x1))             norm_after (BERT)
 *   ffn(z) = Down(act(Gate z) * Up z), ungated Down(act(Up z)) */
typedef struct ew_model_config {
    char arch[32];        /* row of the architecture table: "llama" */
    char name[96];        /* general.name, or the directory's name */
    uint32_t C, H, K, D;  /* d_model, query heads, key/value heads, head dim (H * D need not be C) */
    uint32_t F, V, L;     /* ffn width, vocabulary, layers */
    uint32_t n_ctx_train; /* positions seen in training, tok */
    ew_norm_kind norm;    /* of every norm */
    float norm_eps;
    bool norm_after;     /* the norms follow the sums */
    bool parallel;       /* attention and feed-forward read the same x */
    bool post_norms;     /* p1 and p2 are there (Gemma 2 and 3) */
    bool qk_norm;        /* heads of Q and K are normalised before they turn (Qwen3, Gemma 3, StableLM 2 12B) */
    bool qk_norm_heads;  /* every head with weights of its own */
    bool biases;         /* some linear layer has a bias */
    bool ungated;        /* no Gate */
    bool encoder;        /* every token sees every other; no head (BERT) */
    ew_act act;          /* of the feed-forward */
    float embed_scale;   /* on the embedding; 0 = 1 */
    float attn_scale;    /* on Q K^T; 0 = 1/sqrt(D) */
    float attn_softcap;  /* on the scaled scores; 0 = none */
    float final_softcap; /* on the logits; 0 = none */
    uint32_t n_pos;      /* rows of a learned position table; 0 = none, then positions are rotary */
    uint32_t n_types;    /* rows of a token type table (BERT; row 0 is used); 0 = none */
    ew_pooling pooling;  /* an encoder's */
    uint32_t window;     /* local layers see that many tokens, the own one included; 0 = there are no local layers */
    uint8_t local[EW_LIMIT_LAYERS]; /* [L] 1 = the layer is local */
    ew_rope_kind
        rope_kind;  /* how Q and K lie in this file: GGUF llama interleaved (NORM), Hugging Face half-split (NEOX) */
    uint32_t n_rot; /* rotated dims per head; 0 only with learned positions */
    float rope_theta;
    float rope_theta_local; /* of the local layers, which then have no scaling (Gemma 3); 0 = as the others */
    ew_rope_scaling rope_scaling;
    float rope_factor;      /* LINEAR, LLAMA3 and YARN */
    float rope_low_freq;    /* LLAMA3: low_freq_factor */
    float rope_high_freq;   /* LLAMA3: high_freq_factor */
    float rope_beta_fast;   /* YARN; 0 = 32 */
    float rope_beta_slow;   /* YARN; 0 = 1 */
    float rope_mscale;      /* YARN and LONGROPE: factor on cosine and sine; 0 = 1 */
    uint32_t rope_orig_ctx; /* LLAMA3, YARN and LONGROPE: original_max_position_embeddings */
    bool tied_head;         /* output is token_embd */
    int32_t file_type;      /* general.file_type of a GGUF, -1 otherwise */
} ew_model_config;

typedef struct ew_model_opt {
    bool no_tokenizer; /* do not read the vocabulary (ew_model_tokenizer gives NULL) */
    bool populate;     /* read the whole file in now instead of page by page */
} ew_model_opt;

/* path: a .gguf file or a directory. opt NULL = defaults. The caller owns one reference.
 * EW_ENOENT, EW_EIO, EW_ECORRUPT (damaged file), EW_EUNSUPPORTED (architecture, tensor type or option named in the message). */
ew_status ew_model_open(const char *path, const ew_model_opt *opt, ew_model **ret_model,
                        ew_error *reterr) EW_MUST_CHECK;
/* Another reference to the same model. */
ew_model *ew_model_ref(const ew_model *m);
/* Gives one reference back; the last one frees. NULL accepted; *m becomes NULL. */
void ew_model_unref(ew_model **m);
/* The same, so that EW_AUTO(ew_model) works. */
void ew_model_free(ew_model **m);

const ew_model_config *ew_model_config_of(const ew_model *m);
/* Borrowed for the model's life; NULL when opened without, or made without a vocabulary. */
const ew_tokenizer *ew_model_tokenizer(const ew_model *m);
const ew_vocab *ew_model_vocab(const ew_model *m);
/* The Jinja chat template as the file has it, or NULL. */
const char *ew_model_chat_template(const ew_model *m);
/* SHA-256 in hex of the GGUF file; of a directory, of its safetensors files in order of name and then config.json. Computed
 * at the first call (reads everything once). NULL when the file cannot be read any more or the model has no file. */
const char *ew_model_sha256_hex(const ew_model *m);
/* The path it was opened from; "" when made from memory. */
const char *ew_model_path(const ew_model *m);
/* Number of parameters, and the bytes of all tensors as stored. */
uint64_t ew_model_n_params(const ew_model *m);
uint64_t ew_model_weights_bytes(const ew_model *m);
/* Bytes in memory of its own that opening made beside the mapped file: converted norms, transposed and untangled matrices. */
uint64_t ew_model_copied_bytes(const ew_model *m);
/* The type that most weight bytes are in: "Q8_0", "F16", … */
const char *ew_model_dtype_name(const ew_model *m);

#endif

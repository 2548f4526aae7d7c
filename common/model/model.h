/* A language model as its file has it: configuration, tokenizer, weights. Immutable after opening, mapped, reference-counted.
 *
 * Opened from a GGUF file or from a Hugging Face directory (config.json, tokenizer.json, *.safetensors). Weights stay in the
 * file's own types and are never copied, except norms that are not f32 and tensors that lie unaligned in their file. Everything is checked before
 * the first use: the architecture by name, every tensor's shape and type, every bound. What is not supported is refused with what is missing.
 * What runs on it is a session (session.h); what the weights are is in weights.h; writing is in save.h.
 *
 * Letters: C d_model, H heads, K kv-heads, D head dim, F ffn dim, V vocabulary, L layers.
 * Locking: everything on a const ew_model * is callable from any thread; ref and unref too. */
#ifndef EW_MODEL_MODEL_H
#define EW_MODEL_MODEL_H

#include "base/base.h"
#include "base/status.h"
#include "kern/ops.h"
#include "token/tokenizer.h"

typedef struct ew_model ew_model;

typedef enum ew_rope_scaling {
    EW_ROPE_SCALING_NONE,
    EW_ROPE_SCALING_LINEAR, /* positions divided by factor */
    EW_ROPE_SCALING_LLAMA3, /* Llama 3.1: long wavelengths divided by factor, a smooth band between */
    EW_ROPE_SCALING_FACTORS /* divisors stored in the file (GGUF rope_freqs.weight) */
} ew_rope_scaling;

/* A plain value. Everything is set; counts are > 0 and within base/limits.h, H is a multiple of K, n_rot is even and <= D. */
typedef struct ew_model_config {
    char arch[32];        /* row of the architecture table: "llama" */
    char name[96];        /* general.name, or the directory's name */
    uint32_t C, H, K, D;  /* d_model, query heads, key/value heads, head dim (H * D need not be C) */
    uint32_t F, V, L;     /* ffn width, vocabulary, layers */
    uint32_t n_ctx_train; /* positions seen in training, tok */
    float norm_eps;
    ew_rope_kind
        rope_kind;  /* how Q and K lie in this file: GGUF llama interleaved (NORM), Hugging Face half-split (NEOX) */
    uint32_t n_rot; /* rotated dims per head */
    float rope_theta;
    ew_rope_scaling rope_scaling;
    float rope_factor;      /* LINEAR and LLAMA3 */
    float rope_low_freq;    /* LLAMA3: low_freq_factor */
    float rope_high_freq;   /* LLAMA3: high_freq_factor */
    uint32_t rope_orig_ctx; /* LLAMA3: original_max_position_embeddings */
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
/* The type that most weight bytes are in: "Q8_0", "F16", … */
const char *ew_model_dtype_name(const ew_model *m);

#endif

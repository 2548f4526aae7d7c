/* Internals shared by the files of model/. */
#ifndef EW_MODEL_INT_H
#define EW_MODEL_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "crypt/hash.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "model/weights.h"
#include "tensor/view.h"

/* One row per family and file format: everything that the loader has to know. The block itself is the one of layer.c. */
typedef struct ew_arch {
    const char *gguf_name;  /* general.architecture and prefix of its keys; what we write */
    const char *hf_class;   /* config.json: architectures[0]; NULL = no such directory */
    const char *hf_act;     /* config.json: hidden_act that the block has */
    ew_rope_kind gguf_rope; /* order of the rows of Q and K in GGUF */
    ew_rope_kind hf_rope;   /* the same in a directory */
} ew_arch;

/* NULL when there is no such row. */
const ew_arch *ew__arch_by_gguf(const char *name, size_t size);
const ew_arch *ew__arch_by_hf(const char *hf_class);
/* "llama" / "LlamaForCausalLM, MistralForCausalLM" for messages; returns dst. */
char *ew__arch_names(bool hf, char *dst, size_t size);

/* Fill *cfg completely except V (0 when the metadata does not say) and tied_head (see below). */
ew_status ew__config_from_gguf(const ew_gguf *g, const ew_arch **ret_arch, ew_model_config *cfg, ew_error *reterr);
/* tied: 1 = config.json says so, 0 = it says no, -1 = it does not say. */
ew_status ew__config_from_hf(const char *dir, const ew_arch **ret_arch, ew_model_config *cfg, int *ret_tied,
                             ew_error *reterr);
/* factors[n_rot/2] for LINEAR and LLAMA3. */
void ew__rope_factors(const ew_model_config *cfg, float *factors);

struct ew_model {
    atomic_uint refs;
    const ew_arch *arch;
    ew_model_config cfg;
    char *path;    /* "" when made from memory */
    bool is_dir;   /* Hugging Face directory */
    ew_gguf *gguf; /* one of the two, or neither */
    ew_safetensors *st;
    ew_vocab *vocab;                  /* NULL = none; the model's own when tok is NULL */
    ew_tokenizer *tok;                /* NULL = none */
    ew_mat token_embd, output;        /* borrow from the file */
    const float *output_norm;         /* [C] */
    ew_layer_weights *layer;          /* [L] */
    const float *rope_factors;        /* [n_rot/2] or NULL */
    void **owned;                     /* converted or aligned copies */
    size_t n_owned, owned_cap;        /* */
    uint64_t n_params;                /* elements of all tensors bound */
    uint64_t weights_bytes;           /* their bytes */
    uint64_t dtype_bytes[64];         /* by dtype, of matrices */
    pthread_mutex_t sha_lock;         /* guards the next two */
    bool sha_done;                    /* */
    char sha_hex[EW_SHA256_HEX_SIZE]; /* "" = failed or no file */
};

#endif

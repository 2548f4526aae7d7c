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

/* The tensors that a model may have, whatever its file calls them. From ATTN_NORM on they are in every layer. */
typedef enum ew_slot {
    EW_SLOT_TOKEN_EMBD,
    EW_SLOT_POSITION_EMBD,
    EW_SLOT_TOKEN_TYPES,
    EW_SLOT_EMBD_NORM, /* on the embedding (BERT) */
    EW_SLOT_OUTPUT_NORM,
    EW_SLOT_OUTPUT,
    EW_SLOT_ATTN_NORM,
    EW_SLOT_Q,
    EW_SLOT_K,
    EW_SLOT_V,
    EW_SLOT_QKV, /* rows of Q, K, V in one */
    EW_SLOT_O,
    EW_SLOT_Q_NORM,
    EW_SLOT_K_NORM,
    EW_SLOT_ATTN_POST_NORM,
    EW_SLOT_FFN_NORM,
    EW_SLOT_GATE,
    EW_SLOT_UP,
    EW_SLOT_GATE_UP, /* rows of Gate, then of Up */
    EW_SLOT_DOWN,
    EW_SLOT_FFN_POST_NORM,
    EW_SLOT_COUNT
} ew_slot;

/* Names of one way to store: "<prefix><layer, with the number><slot>.weight". The prefix is missing in some files, and never stands before
 * the head. */
typedef struct ew_names {
    const char *prefix; /* "model." */
    const char *layer;  /* "layers.%u." */
    const char *slot[EW_SLOT_COUNT];
} ew_names;

/* "<layer, with the number><slot>" or "<slot>"; "" when there is no such name. Without the prefix. */
const char *ew__slot_name(const ew_names *names, ew_slot slot, uint32_t i_layer, char *dst, size_t size);
/* Where a linear layer of its own is. */
ew_slot ew__linear_slot(ew_linear l);

extern const ew_names ew__gguf_names;
extern const ew_names ew__gguf_encoder_names;

#define EW_ARCH_NORM_BIAS (1u << 0)     /* norms have a shift */
#define EW_ARCH_NORM_PLUS_1 (1u << 1)   /* a directory has the norms' weights less 1 */
#define EW_ARCH_EMBED_SCALE (1u << 2)   /* the embedding is multiplied by sqrt(C) */
#define EW_ARCH_UNGATED (1u << 3)       /* */
#define EW_ARCH_PARALLEL (1u << 4)      /* the residual is parallel, unless it is said */
#define EW_ARCH_PARALLEL_KEY (1u << 22) /* use_parallel_residual says it */
#define EW_ARCH_ONE_NORM (1u << 5)      /* a parallel layer has one norm */
#define EW_ARCH_HEAD_BIAS (1u << 6)     /* */
#define EW_ARCH_POSITIONS (1u << 7)     /* learned positions instead of rotary ones */
#define EW_ARCH_QK_NORM (1u << 8)       /* */
#define EW_ARCH_QK_NORM_OPT (1u << 9)   /* where the file has them; per head */
#define EW_ARCH_POST_NORMS (1u << 10)   /* */
#define EW_ARCH_ENCODER (1u << 11)      /* norms after, bidirectional, embedding norm, no head */
#define EW_ARCH_FUSED_QKV (1u << 12)    /* in GGUF too */
#define EW_ARCH_FUSED_GATE (1u << 13)   /* in GGUF ffn_up is Gate and Up */
#define EW_ARCH_CONV1D (1u << 14)       /* a directory has the layers' matrices transposed */
#define EW_ARCH_QKV_BY_HEAD (1u << 15)  /* a directory has Q, K, V of head 0, then those of head 1, … */
#define EW_ARCH_UNSCALED (1u << 16)     /* attention scores are not divided by sqrt(D) */
#define EW_ARCH_GELU_IS_TANH (1u << 17) /* "gelu" in config.json means the tanh form */
#define EW_ARCH_FFN_4C (1u << 18)       /* F is 4 C unless it is said */
#define EW_ARCH_WINDOW_OPT (1u << 19)   /* config.json's window counts only with use_sliding_window */

#define EW_ARCH_OWN_HEAD (1u << 20)  /* llama.cpp wants output.weight even when it is the embedding */
#define EW_ARCH_TIED_HEAD (1u << 21) /* llama.cpp takes the embedding whatever the file has */

#define EW_HEAD_MAX 256 /* D */
#define EW_ROT_HALF_MAX (EW_HEAD_MAX / 2)

/* Bits of ew_linear. */
#define EW_BIAS_QKV (1u << EW_LINEAR_Q | 1u << EW_LINEAR_K | 1u << EW_LINEAR_V)
#define EW_BIAS_ATTN (EW_BIAS_QKV | 1u << EW_LINEAR_O)
#define EW_BIAS_MLP (1u << EW_LINEAR_GATE | 1u << EW_LINEAR_UP | 1u << EW_LINEAR_DOWN)
#define EW_BIAS_ALL (EW_BIAS_ATTN | EW_BIAS_MLP)

/* One row per family and class: everything that the loader has to know. The block itself is the one of layer.c. */
typedef struct ew_arch {
    const char *name;       /* ew_model_config.arch; general.architecture of a GGUF and prefix of its keys */
    const char *hf_class;   /* config.json: architectures[0] */
    const ew_names *hf;     /* names in a directory */
    bool no_gguf;           /* llama.cpp knows no such architecture */
    ew_rope_kind gguf_rope; /* order of the rows of Q and K in GGUF; a directory is half-split */
    ew_norm_kind norm;      /* */
    ew_act act;             /* of a GGUF; config.json may say another */
    unsigned flags;         /* EW_ARCH_* */
    unsigned bias;          /* linears that always have a bias */
    unsigned bias_opt;      /* further ones: where a GGUF has them, or config.json's bias_key says so */
    const char *bias_key;   /* attention_bias, use_qkv_bias */
    uint32_t local_period;  /* every local_period-th layer is global, the others local; 1 = all local, 0 = none */
    uint32_t window;        /* when the file has none */
    float attn_softcap, final_softcap; /* when the file has none */
    float theta_local;                 /* rotary base of local layers when the file has none; 0 = as the others */
    uint32_t wide_scale_L;             /* a model of that many layers scales scores by 1/sqrt(C/H) (Gemma 27B) */
    float part;                        /* of a head that turns, when config.json does not say; 0 = 1 */
    float eps;                         /* of the norms, when config.json does not say */
    uint32_t head;                     /* D, when config.json does not say; 0 = C/H */
    uint32_t pos_skip;                 /* unused first rows of a directory's position table */
    const char *const *idle;           /* NULL-terminated: ends of names of a directory's tensors that carry nothing */
} ew_arch;

/* NULL when there is no such row. */
const ew_arch *ew__arch_by_name(const char *name, size_t size);
const ew_arch *ew__arch_by_hf(const char *hf_class);
/* Refusal of an architecture by name, with what it has that this build has not, or the families that there are. */
ew_status ew__arch_refuse(const char *name, size_t size, ew_error *reterr);

/* Fills *cfg completely except V (0 when the metadata does not say) and tied_head (see below). */
ew_status ew__config_from_gguf(const ew_gguf *g, const ew_arch **ret_arch, ew_model_config *cfg, ew_error *reterr);

/* What only a directory says. */
typedef struct ew_hf_extra {
    int tied;                          /* 1 = config.json says so, 0 = it says no, -1 = it does not say */
    unsigned bias;                     /* linears that have a bias, bits of ew_linear */
    uint32_t n_factors;                /* LONGROPE: n_rot/2 of each of the next two */
    float rope_short[EW_ROT_HALF_MAX]; /* up to rope_orig_ctx */
    float rope_long[EW_ROT_HALF_MAX];  /* beyond */
} ew_hf_extra;
ew_status ew__config_from_hf(const char *dir, const ew_arch **ret_arch, ew_model_config *cfg, ew_hf_extra *ret_extra,
                             ew_error *reterr);

/* factors[n_rot/2] for LINEAR, LLAMA3 and YARN. */
void ew__rope_factors(const ew_model_config *cfg, float *factors);
/* The local layers of a pattern: every period-th layer is global; 1 = all local. */
void ew__config_local(ew_model_config *cfg, uint32_t period);

/* Finds and checks every tensor of the open file; nothing else is accepted. extra NULL: GGUF. */
ew_status ew__bind(ew_model *m, const ew_hf_extra *extra, ew_error *reterr);
/* rope_factors of a model without a file. */
ew_status ew__bind_rope_floats(ew_model *m, ew_error *reterr);
/* EW_OK when a GGUF of the model's architecture says all that it computes, else EW_EUNSUPPORTED with what it cannot say. */
ew_status ew__save_check(const ew_model *m, ew_error *reterr);
/* The keys of the architecture, "<arch>.…". */
void ew__save_config(ew_gguf_writer *w, const ew_model *m);
/* Keeps p (from ew_aligned, ew_calloc; NULL = EW_ENOMEM) for the model's life. */
ew_status ew__model_keep(ew_model *m, void *p, ew_error *reterr);

struct ew_model {
    atomic_uint refs;
    ew_model *base; /* a reference: vocabulary, tokenizer and tables are its own; NULL = none */
    const ew_arch *arch;
    ew_model_config cfg;
    char *path;    /* "" when made from memory */
    bool is_dir;   /* Hugging Face directory */
    ew_gguf *gguf; /* one of the two, or neither */
    ew_safetensors *st;
    ew_vocab *vocab;                          /* NULL = none; the model's own when tok is NULL */
    ew_tokenizer *tok;                        /* NULL = none */
    ew_mat token_embd, output;                /* borrow from the file */
    ew_mat position_embd, token_types;        /* [n_pos,C] [n_types,C]; 0 rows = none */
    const float *embd_norm, *embd_norm_b;     /* [C] or NULL */
    const float *output_norm, *output_norm_b; /* [C]; NULL in an encoder */
    const float *output_b;                    /* [V] or NULL */
    ew_layer_weights *layer;                  /* [L] */
    const float *rope_factors;                /* [n_rot/2] or NULL */
    const float *rope_long;                   /* [n_rot/2] LONGROPE, for sessions longer than rope_orig_ctx */
    uint64_t copied_bytes;                    /* of the weights, made at opening */
    void **owned;                             /* converted or aligned copies */
    size_t n_owned, owned_cap;                /* */
    uint64_t n_params;                        /* elements of all tensors bound */
    uint64_t weights_bytes;                   /* their bytes */
    uint64_t dtype_bytes[64];                 /* by dtype, of matrices */
    pthread_mutex_t sha_lock;                 /* guards the next two */
    bool sha_done;                            /* */
    char sha_hex[EW_SHA256_HEX_SIZE];         /* "" = failed or no file */
};

/* Empty, one reference; NULL = no memory. */
ew_model *ew__model_alloc(const char *path);

#endif

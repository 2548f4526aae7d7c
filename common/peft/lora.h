/* LoRA adapters (Hu et al., 2106.09685): y = W x + scale * B (A x), A:[R,C_in], B:[F_out,R] for each targeted linear of each
 * layer; scale = alpha / R, or alpha / sqrt(R) when rslora (Kalajdzievski, 2312.03732).
 *
 * The parameters are f32 in one block of memory, layer by layer, linear by linear in the order of ew_linear, A before B, each
 * row-major: the optimizer sees one vector, the model sees ew_hooks that point into it. An adapter is bound to the SHA-256 of
 * the base it was made for and is refused on another.
 *
 * Rows of Q and K follow the order of the base's own weights: a GGUF of the llama family keeps rotary pairs side by side, a
 * Hugging Face directory keeps halves. The PEFT files always have the Hugging Face order, the GGUF files the GGUF order.
 * Locking: one owning thread while it changes; read-only sharing is fine. */
#ifndef EW_PEFT_LORA_H
#define EW_PEFT_LORA_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "model/hooks.h"
#include "model/model.h"
#include "model/weights.h"

#define EW_LORA_RANK_MAX 256u
#define EW_LORA_TARGET(linear) (1u << (linear))
#define EW_LORA_ALL ((1u << EW_LINEAR_COUNT) - 1u)

typedef struct ew_lora_opt {
    uint32_t rank;    /* 0 = 8 */
    float alpha;      /* 0 = 2 * rank */
    uint32_t targets; /* EW_LORA_TARGET(…) | …; 0 = all seven */
    bool rslora;      /* scale = alpha / sqrt(rank) */
    uint64_t seed;    /* of A; B starts at zero */
} ew_lora_opt;

typedef struct ew_lora ew_lora;

/* The options with defaults filled in. EW_EINVAL: rank above the maximum, unknown target bits, alpha not finite or negative. */
ew_status ew_lora_opt_resolve(const ew_lora_opt *opt, ew_lora_opt *ret_opt, ew_error *reterr) EW_MUST_CHECK;
/* Number of parameters of an adapter for a model of this shape; 0 when the options are invalid. */
size_t ew_lora_count(const ew_model_config *cfg, const ew_lora_opt *opt);

/* A is uniform in ±1/sqrt(C_in) (kaiming_uniform with a = sqrt(5), as PEFT does), B zero. base is the hash of the model that it
 * binds to; computing it reads the file once. */
ew_status ew_lora_new(const ew_model *m, const ew_lora_opt *opt, ew_lora **ret_lora, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_lora_dup(const ew_lora *l, ew_lora **ret_lora, ew_error *reterr) EW_MUST_CHECK;
void ew_lora_free(ew_lora **l);

const ew_lora_opt *ew_lora_opt_of(const ew_lora *l);
float ew_lora_scale(const ew_lora *l);
const char *ew_lora_base_sha256(const ew_lora *l);
/* The parameters, *ret_n of them; borrowed until free. */
float *ew_lora_params(ew_lora *l, size_t *ret_n);
/* Where A and B of a linear stand in the parameter block, in elements; false when it is not targeted. */
bool ew_lora_slot(const ew_lora *l, uint32_t layer, ew_linear linear, size_t *ret_a, size_t *ret_b);
/* What ew_session_opt.hooks takes; borrowed until free, follows changes of the parameters. */
const ew_hooks *ew_lora_hooks(const ew_lora *l);

/* w[F_out, C_in] += scale * B A: for merging and for checks of the hook against it. No-op when not targeted. */
void ew_lora_merge_into(const ew_lora *l, uint32_t layer, ew_linear linear, float *w);
/* Copies the GGUF that m was opened from with the adapter added; targeted linears become F16, all else stays as it is. */
ew_status ew_lora_merge_gguf(const ew_lora *l, const ew_model *m, const char *out_path, const ew_progress *progress,
                             ew_error *reterr) EW_MUST_CHECK;

/* PEFT directory: adapter_config.json and adapter_model.safetensors (F32), keys
 * base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight and so on. dir is made when missing. */
ew_status ew_lora_save_peft(const ew_lora *l, const ew_model *m, const char *dir, ew_error *reterr) EW_MUST_CHECK;
/* A directory without our base hash (made by others) is bound to m by shape alone; one with another hash is EW_ECONFLICT. */
ew_status ew_lora_load_peft(const char *dir, const ew_model *m, ew_lora **ret_lora, ew_error *reterr) EW_MUST_CHECK;

/* GGUF adapter as llama.cpp reads it: general.type=adapter, adapter.type=lora, adapter.lora.alpha, tensors
 * blk.N.attn_q.weight.lora_a / .lora_b (F32). Rank-stabilised scale is written as the equivalent alpha. */
ew_status ew_lora_save_gguf(const ew_lora *l, const ew_model *m, const char *path, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_lora_load_gguf(const char *path, const ew_model *m, ew_lora **ret_lora, ew_error *reterr) EW_MUST_CHECK;
/* A PEFT directory or a .gguf file, whichever path is. */
ew_status ew_lora_load(const char *path, const ew_model *m, ew_lora **ret_lora, ew_error *reterr) EW_MUST_CHECK;

#endif

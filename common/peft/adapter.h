/* Adapters: small sets of f32 parameters that hang on a frozen base (hooks.h has the formulas), and the files they come in.
 *
 *   LORA        y = W x + scale B (A x) on any set of linears; rank-stabilised scale (2312.03732), DoRA's magnitudes (2402.09353),
 *               norms of early exits (2406.15758)
 *   PROMPT      rows before the first token's embedding                                   (2104.08691)
 *   PREFIX      keys and values before the first token's, in every layer                  (2101.00190, no reparametrisation)
 *   IA3         scales on what K and V give and Down takes, or other sets of linears      (2205.05638)
 *   BOTTLENECK  a small network behind attention and one behind the feed-forward          (1902.00751)
 *   FULL        every weight of the base as f32
 *
 * The parameters are one block of memory: the optimizer sees one vector, the model sees ew_hooks that point into it, a gradient
 * is a block of the same layout (ew_adapter_grads). Layout, all row-major:
 *   LORA        per layer, per linear in the order of ew_linear: A[R,C_in], B[F_out,R], with dora magnitude[F_out]; then per exit
 *               norm[C], norm_b[C] with LayerNorm
 *   PROMPT      [n_virtual, C]
 *   PREFIX      keys [L][n_virtual, K*D], then values
 *   IA3         per layer, per linear: [F_out], Down [C_in]
 *   BOTTLENECK  per layer attention then feed-forward: down[W,C], down_b[W], up[C,W], up_b[C]
 *   FULL        ew_model_floats_place's order
 *
 * An adapter is bound to the SHA-256 of the base it was made for and is refused on another. Rows of Q and K follow the order of the
 * base's own weights: a GGUF of the llama family keeps rotary pairs side by side, a Hugging Face directory keeps halves. PEFT files
 * always have the Hugging Face order, GGUF files the GGUF order.
 * Locking: one owning thread while it changes; read-only sharing is fine. */
#ifndef EW_PEFT_ADAPTER_H
#define EW_PEFT_ADAPTER_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "model/hooks.h"
#include "model/model.h"
#include "model/weights.h"

#define EW_ADAPTER_RANK_MAX 256u /* of LoRA, and width of a bottleneck */
#define EW_ADAPTER_VIRTUAL_MAX 1024u
#define EW_ADAPTER_EXITS_MAX 8u
#define EW_ADAPTER_TARGET(linear) (1u << (linear))
#define EW_ADAPTER_ALL ((1u << EW_LINEAR_COUNT) - 1u)

typedef enum ew_adapter_kind {
    EW_ADAPTER_LORA = 1,
    EW_ADAPTER_PROMPT,
    EW_ADAPTER_PREFIX,
    EW_ADAPTER_IA3,
    EW_ADAPTER_BOTTLENECK,
    EW_ADAPTER_FULL
} ew_adapter_kind;

/* Zero = the default for every member; a member of another kind than `kind` has to be zero. */
typedef struct ew_adapter_opt {
    ew_adapter_kind kind; /* 0 = LORA */
    uint32_t targets;     /* LORA, IA3: EW_ADAPTER_TARGET(…) | …; 0 = all linears (LORA), K, V and Down (IA3) */
    uint32_t rank;        /* LORA; 0 = 8 */
    float alpha;          /* LORA; 0 = 2 * rank */
    bool rslora;          /* LORA: scale = alpha / sqrt(rank) instead of alpha / rank */
    bool dora;            /* LORA */
    float dropout;        /* LORA: of its input, in training; [0, 1) */
    uint32_t n_virtual;   /* PROMPT, PREFIX; 0 = 16 */
    const int32_t
        *init_ids; /* PROMPT: starts as these tokens' embeddings, again and again; NULL = random rows of the table */
    uint32_t n_init_ids;                 /* read by ew_adapter_new alone */
    uint32_t width;                      /* BOTTLENECK; 0 = 16 */
    ew_act act;                          /* BOTTLENECK */
    uint32_t n_exits;                    /* LORA; 0 = none */
    uint32_t exit[EW_ADAPTER_EXITS_MAX]; /* layers before each, rising, 1 … L - 1 */
    uint64_t seed;                       /* of what starts at random */
} ew_adapter_opt;

typedef struct ew_adapter ew_adapter;

/* "lora", "dora", "prompt", "prefix", "ia3", "bottleneck", "full": also what the GGUF form is called. */
const char *ew_adapter_kind_name(const ew_adapter_opt *opt);
/* Sets kind and dora; false when there is no such kind. */
bool ew_adapter_kind_parse(const char *name, ew_adapter_opt *opt);

/* The options with defaults filled in. EW_EINVAL: out of range, or a member that the kind does not have. */
ew_status ew_adapter_opt_resolve(const ew_adapter_opt *opt, ew_adapter_opt *ret_opt, ew_error *reterr) EW_MUST_CHECK;
/* What the model has to say about resolved options: EW_EINVAL (exits, tokens, virtual positions beyond its learned ones),
 * EW_EUNSUPPORTED (an encoder has no virtual positions; no target is there). */
ew_status ew_adapter_check(const ew_model *m, const ew_adapter_opt *opt, ew_error *reterr) EW_MUST_CHECK;
/* Number of parameters of an adapter for m; 0 when the options are invalid. */
size_t ew_adapter_count(const ew_model *m, const ew_adapter_opt *opt);
/* Memory that an adapter takes: parameters, hooks and what ew_adapter_refresh needs. */
uint64_t ew_adapter_bytes(const ew_model *m, const ew_adapter_opt *opt);

/* A fresh adapter; but for PROMPT and PREFIX it changes nothing yet. LoRA: A uniform in ±1/sqrt(C_in) (kaiming_uniform with
 * a = sqrt(5)), B zero, magnitudes the norms of the rows of W, exits the model's last norm. PREFIX: N(0, 1). IA3: ones. BOTTLENECK:
 * down as A, the rest zero. As PEFT starts them. It binds to the hash of m, which reads the file once. */
ew_status ew_adapter_new(const ew_model *m, const ew_adapter_opt *opt, ew_adapter **ret_adapter,
                         ew_error *reterr) EW_MUST_CHECK;
ew_status ew_adapter_dup(const ew_adapter *a, ew_adapter **ret_adapter, ew_error *reterr) EW_MUST_CHECK;
void ew_adapter_free(ew_adapter **a);

/* Resolved; init_ids is NULL. */
const ew_adapter_opt *ew_adapter_opt_of(const ew_adapter *a);
/* LORA: alpha / rank or alpha / sqrt(rank). */
float ew_adapter_scale(const ew_adapter *a);
const char *ew_adapter_base_sha256(const ew_adapter *a);
/* The parameters, *ret_n of them; borrowed until free. After a change: ew_adapter_refresh. */
float *ew_adapter_params(ew_adapter *a, size_t *ret_n);
/* LORA: where A and B of a linear stand in the block, in elements; false when it is not targeted. */
bool ew_adapter_slot(const ew_adapter *a, uint32_t layer, ew_linear linear, size_t *ret_a, size_t *ret_b);
/* Parameters have changed: computes what hooks derive from them (DoRA's ratios: a product of R rows with each targeted W; other kinds:
 * nothing). m is the base. Allocates nothing. exec's kernels and pool, NULL = the best, serial. */
void ew_adapter_refresh(ew_adapter *a, const ew_model *m, const ew_exec *exec);

/* What ew_session_opt.hooks takes; borrowed until free, follows the parameters. Empty for FULL: ew_adapter_model. */
const ew_hooks *ew_adapter_hooks(const ew_adapter *a);
/* The places of grad[n], a block of the parameters' layout: what a backward pass adds to. The answer is the adapter's own and shows
 * to the latest grad. */
const ew_hook_grads *ew_adapter_grads(ew_adapter *a, float *grad);
/* The same where only some parameters learn: grad holds those of the spans, one span after the other; places of all others are
 * NULL. A part (a matrix, a norm) lies in a span whole or not at all. Not for FULL. */
typedef struct ew_adapter_span {
    size_t at, n; /* parameters [at, at + n) */
} ew_adapter_span;
const ew_hook_grads *ew_adapter_grads_of(ew_adapter *a, float *grad, const ew_adapter_span *span, size_t n_spans);
/* The model to run: a reference to base, for FULL one over the parameters (whose memory stays the adapter's: unref it first). */
ew_status ew_adapter_model(const ew_adapter *a, const ew_model *base, ew_model **ret_model,
                           ew_error *reterr) EW_MUST_CHECK;

/* ---- merging ---- */

/* w[F_out, C_in], the weights of that linear, with the adapter in them (LoRA, DoRA, IA3). As they were when it is not targeted. IA3 on a
 * linear with a bias changes that, too: ew_adapter_merge_bias, bias[F_out]. */
void ew_adapter_merge_into(const ew_adapter *a, uint32_t layer, ew_linear linear, float *w);
void ew_adapter_merge_bias(const ew_adapter *a, uint32_t layer, ew_linear linear, float *bias);

typedef struct ew_adapter_merge_opt {
    bool keep_type; /* targets are quantised again to the base's type; false: they become F16 */
    ew_progress progress;
} ew_adapter_merge_opt;
/* Copies the GGUF that m was opened from with the adapter in its weights; all that is not targeted stays as it is. opt NULL = defaults.
 * EW_EUNSUPPORTED: a directory, a kind that is no change of weights. FULL writes all weights, F16 or the base's types. */
ew_status ew_adapter_merge_gguf(const ew_adapter *a, const ew_model *m, const char *out_path,
                                const ew_adapter_merge_opt *opt, ew_error *reterr) EW_MUST_CHECK;

/* ---- files ---- */

/* PEFT directory: adapter_config.json and adapter_model.safetensors (F32), as peft 0.21 writes them. dir is made when missing.
 * LoRA, DoRA, PROMPT, PREFIX, IA3; EW_EUNSUPPORTED with the reason for others, and where the family's modules are fused in a way
 * that the adapter is not. */
ew_status ew_adapter_save_peft(const ew_adapter *a, const ew_model *m, const char *dir, ew_error *reterr) EW_MUST_CHECK;
/* A directory without our base hash (made by others) is bound to m by shape alone; one with another hash is EW_ECONFLICT. Options that
 * we do not have are EW_EUNSUPPORTED by name. */
ew_status ew_adapter_load_peft(const char *dir, const ew_model *m, ew_adapter **ret_adapter,
                               ew_error *reterr) EW_MUST_CHECK;

/* GGUF. LoRA without exits as llama.cpp reads it: general.type=adapter, adapter.type=lora, adapter.lora.alpha, tensors
 * blk.N.attn_q.weight.lora_a / .lora_b (F32); a rank-stabilised scale is written as the equivalent alpha. Everything else in our own form,
 * adapter.type=edgewise.<kind>, which llama.cpp refuses by name. */
ew_status ew_adapter_save_gguf(const ew_adapter *a, const ew_model *m, const char *path,
                               ew_error *reterr) EW_MUST_CHECK;
ew_status ew_adapter_load_gguf(const char *path, const ew_model *m, ew_adapter **ret_adapter,
                               ew_error *reterr) EW_MUST_CHECK;
/* A PEFT directory or a .gguf file, whichever path is. */
ew_status ew_adapter_load(const char *path, const ew_model *m, ew_adapter **ret_adapter,
                          ew_error *reterr) EW_MUST_CHECK;

#endif

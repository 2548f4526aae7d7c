/* The operations of a decoder layer and their backward twins, on plain f32 arrays.
 *
 * Letters as in kern.h and: H heads, K kv-heads (H a multiple of K), D head width, V vocabulary. Row-major.
 * Forward functions overwrite their outputs. Backward functions accumulate (+=) into gradients unless the text says
 * "overwrites". Everything is parallel over e->pool with a fixed partition and a fixed order of reduction: the result does
 * not depend on the number of threads. Inputs and outputs may be the same array only where said. NULL gradients are skipped
 * where said. Locking: see kern.h. */
#ifndef EW_KERN_OPS_H
#define EW_KERN_OPS_H

#include "kern/kern.h"

/* ---- normalisation ---- */

/* y[t] = x[t] * rstd[t] * w, rstd[t] = 1 / sqrt(mean(x[t]^2) + eps).  x, y:[T,C] (y may be x), w:[C], rstd:[T] or NULL.
 * Source: Zhang & Sennrich 2019, eq. 4; eps inside the root as in Llama. */
void ew_rmsnorm(const ew_exec *e, const float *x, const float *w, size_t T, size_t C, float eps, float *y, float *rstd);
/* dx += …, dw += … (dw NULL = frozen). x is the input of the forward, rstd what it returned. dx may not be dy. */
void ew_rmsnorm_bwd(const ew_exec *e, const float *x, const float *w, const float *rstd, const float *dy, size_t T,
                    size_t C, float *dx, float *dw);

typedef enum ew_norm_kind {
    EW_NORM_RMS = 0, /* root mean square alone (Zhang & Sennrich 2019) */
    EW_NORM_LAYER    /* mean taken away, then by the standard deviation (Ba 2016) */
} ew_norm_kind;

/* y[t] = (x[t] - mean(x[t])) / sqrt(var(x[t]) + eps) * w + b.  x, y:[T,C] (y may be x), w, b:[C], b NULL = 0. Mean and variance are
 * taken in double. Source: Ba 2016, section 3; the variance is that of the population, as in torch. */
void ew_layernorm(const ew_exec *e, const float *x, const float *w, const float *b, size_t T, size_t C, float eps,
                  float *y);
/* dx += …, dw += …, db += … (each NULL = not wanted). x is the input of the forward; dx may not be dy. stat:[T,2] is room that dw needs (else
 * NULL): mean and 1 / deviation of each row are taken again. */
void ew_layernorm_bwd(const ew_exec *e, const float *x, const float *w, const float *dy, size_t T, size_t C, float eps,
                      float *stat, float *dx, float *dw, float *db);
/* Every head of x:[T, n_heads*D] normalised on its own, in place. w:[D] for all heads, or [n_heads, D] when per_head. */
void ew_head_norm(const ew_exec *e, ew_norm_kind kind, float *x, const float *w, bool per_head, size_t T,
                  size_t n_heads, size_t D, float eps);
/* dy:[T, n_heads*D] becomes dx in place; dw (the shape of w, NULL = frozen) += …. x is the input of the forward, before it changed. */
void ew_head_norm_bwd(const ew_exec *e, ew_norm_kind kind, const float *x, const float *w, bool per_head, size_t T,
                      size_t n_heads, size_t D, float eps, float *dy, float *dw);

/* ---- rotary positions ---- */

typedef enum ew_rope_kind {
    EW_ROPE_NORM = 0, /* pairs (2i, 2i+1): GGUF files of the llama family */
    EW_ROPE_NEOX = 2  /* pairs (i, i + n_rot/2): Hugging Face weights as published */
} ew_rope_kind;

/* angle(pos, i) = pos * freq_scale * theta_base^(-2i/n_rot) / freq_factors[i], i < n_rot/2; the rest of a head passes through. */
typedef struct ew_rope_opt {
    ew_rope_kind kind;
    uint32_t n_rot;            /* even, <= D; 0 = D */
    float theta_base;          /* 10000 */
    float freq_scale;          /* 0 = 1; linear scaling by s is 1/s */
    float mscale;              /* factor on cos and sin; 0 = 1 */
    const float *freq_factors; /* [n_rot/2] or NULL (Llama-3 style scaling) */
    const float *table;        /* from ew_rope_table, or NULL: computed on the fly, same bits */
    size_t n_table;            /* positions in the table; later ones are computed */
} ew_rope_opt;

/* table[n_pos][n_rot/2][2] = {cos, sin}: filled once, it makes ew_rope cheap. n_rot of o must be set. */
void ew_rope_table(const ew_rope_opt *o, size_t n_pos, float *table);
/* Rotates x:[T, n_heads*D] in place. Row t is at position pos[t], or pos0 + t where pos is NULL. inverse: the transpose, which
 * is the backward (apply to dx in place). */
void ew_rope(const ew_exec *e, const ew_rope_opt *o, float *x, size_t T, size_t n_heads, size_t D, const int32_t *pos,
             size_t pos0, bool inverse);

/* ---- activations ---- */

/* y = silu(gate) * up, silu(a) = a / (1 + exp(-a)).  n elements; y may be gate or up. Source: Shazeer 2020, SwiGLU. */
void ew_swiglu(const ew_exec *e, const float *gate, const float *up, size_t n, float *y);
/* dgate, dup overwritten; either may be dy. */
void ew_swiglu_bwd(const ew_exec *e, const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                   float *dup);
/* y = gelu(gate) * up with the tanh form 0.5 a (1 + tanh(sqrt(2/pi) (a + 0.044715 a^3))); up NULL = 1. y may be gate or up. */
void ew_geglu(const ew_exec *e, const float *gate, const float *up, size_t n, float *y);

typedef enum ew_act {
    EW_ACT_SILU = 0,  /* a / (1 + exp(-a)) */
    EW_ACT_GELU_TANH, /* "gelu_new", "gelu_pytorch_tanh": the form of ew_geglu */
    EW_ACT_GELU,      /* a/2 (1 + erf(a / sqrt(2))). Source: Hendrycks & Gimpel 2016 */
    EW_ACT_RELU       /* max(a, 0) */
} ew_act;

/* y = act(gate) * up; up NULL = 1. n elements; y may be gate or up. SILU with up is ew_swiglu. */
void ew_activate(const ew_exec *e, ew_act act, const float *gate, const float *up, size_t n, float *y);
/* dgate, dup overwritten; each may be gate, up or dy (dgate not up, dup not gate). Ungated (up NULL): dup is not touched. The derivative of
 * RELU at 0 is 0. */
void ew_activate_bwd(const ew_exec *e, ew_act act, const float *gate, const float *up, const float *dy, size_t n,
                     float *dgate, float *dup);
/* y = cap * tanh(y / cap), cap > 0. Source: Gemma 2 technical report, section 2 (logit soft-capping). */
void ew_softcap(const ew_exec *e, float cap, size_t n, float *y);

/* ---- products of what is made on the way ---- */

typedef enum ew_input_kind {
    EW_INPUT_ROWS,    /* x as it stands */
    EW_INPUT_RMSNORM, /* x += add first, if there is one; then ew_rmsnorm of x */
    EW_INPUT_SWIGLU   /* ew_swiglu of x (the gate) and add (up) */
} ew_input_kind;

/* The input [T,C] of a product, computed row by row as the product takes it: it need not pass through memory. The same bits as the
 * operations one after the other. */
typedef struct ew_input {
    ew_input_kind kind;
    float *x;         /* [T,C]; changed by RMSNORM with add only */
    const float *add; /* [T,C] */
    const float *w;   /* [C] of the norm */
    float eps;
    float *
        out; /* [T,C] room for the input where it has to exist (weights that are not quantised); x of SWIGLU is allowed */
    bool keep; /* out is wanted in any case */
} ew_input;
/* ew_matmul_multi on it. */
void ew_matmul_input(const ew_exec *e, const ew_input *in, const ew_mat *const *w, size_t n, size_t T, float *const *y,
                     void *scratch);

/* ---- attention ---- */

/* Attention of T new queries over a cache that already holds their keys and values. Causal: query t (at position pos0 + t)
 * sees positions max(0, pos0 + t - window + 1) … pos0 + t. Bidirectional (encoders): every query sees [0, pos0 + T).
 * Head h uses kv-head h / (H/K). out[t,h] = sum_j softmax_j(s_j) v[j] with s_j = scale * q[t,h].k[j], or
 * softcap * tanh(scale * q.k / softcap) (Gemma 2, 2408.00118 section 2). No [T,T] matrix: tiles with a running maximum. */
typedef struct ew_attention_args {
    const float *q;    /* [T, H*D] */
    const void *k;     /* [>= pos0+T rows, K*D] of kv_dtype */
    const void *v;     /* the same shape */
    ew_dtype kv_dtype; /* F32, F16 or Q8_0 (D and kv_row multiples of 32 then) */
    size_t kv_row;     /* elements between positions; K*D when contiguous */
    size_t T, pos0;
    size_t H, K, D;     /* D <= 256, H a multiple of K */
    size_t window;      /* 0 = all; ignored when bidirectional */
    float scale;        /* 1/sqrt(D) as a rule; > 0 */
    float softcap;      /* 0 = none */
    bool bidirectional; /* every query sees every key */
    float *out;         /* [T, H*D], not q */
} ew_attention_args;
void ew_attention(const ew_exec *e, const ew_attention_args *a);

/* Training: n_seq sequences packed one after the other, sequence s in rows [seq[s], seq[s+1]); seq[0] = 0, seq[n_seq] = T.
 * Each is causal in itself; before its first key stand the n_prefix keys that all share. Scores, window (its own key counts, the prefix
 * takes positions 0 … n_prefix - 1) and softcap as in ew_attention. */
typedef struct ew_attention_train_args {
    const float *q; /* [T, H*D] */
    const float *k; /* [T, K*D] */
    const float *v; /* [T, K*D] */
    const uint32_t *seq;
    size_t n_seq;
    size_t H, K, D; /* D <= 256 */
    float scale;
    size_t window;         /* 0 = all */
    float softcap;         /* 0 = none */
    size_t n_prefix;       /* P; 0 = none */
    const float *prefix_k; /* [P, K*D] */
    const float *prefix_v; /* [P, K*D] */
    float *out;            /* [T, H*D]: written by the forward, read by the backward */
    float
        *lse; /* [T, H]: log of the softmax's denominator incl. maximum; written by the forward, read by the backward */
    /* backward only */
    const float *dout; /* [T, H*D] */
    float *dq;         /* overwritten, [T, H*D] */
    float *dk;         /* overwritten, [T, K*D] */
    float *dv;         /* overwritten, [T, K*D] */
    float *dprefix_k;  /* += …, [P, K*D]; both or none (NULL = frozen) */
    float *dprefix_v;
} ew_attention_train_args;
void ew_attention_train(const ew_exec *e, const ew_attention_train_args *a);
/* Recomputes the softmax from lse tile by tile. Source: Dao 2022, algorithm 4 without dropout. */
void ew_attention_train_bwd(const ew_exec *e, const ew_attention_train_args *a);

/* ---- embedding and loss ---- */

/* x[t] = row ids[t] of table (any dtype), as f32. ids in [0, table->rows) (assertion). x:[T,C]. */
void ew_embed(const ew_exec *e, const ew_mat *table, const int32_t *ids, size_t T, float *x);
/* dtable[ids[t]] += dx[t]. dx:[T,C], dtable:[V,C]. */
void ew_embed_bwd(const ew_exec *e, const float *dx, const int32_t *ids, size_t T, size_t C, float *dtable);

/* Cross-entropy of the head without a [T,V] tensor: in chunks of the vocabulary, or, when the head's own gradient is wanted, in blocks
 * of rows; at most a few MiB of logits at a time.
 * logits = cap(hidden W^T + bias) (f32 arithmetic as ew_matmul_f32); nll[t] = log sum_v exp(logits[t,v]) - logits[t,target[t]].
 * loss = scale * sum_t weight[t] * nll[t]. Rows of weight 0 are skipped (their nll is 0, their dhidden 0). */
typedef struct ew_cross_entropy_args {
    const ew_mat *head;     /* [V,C], any dtype */
    const float *bias;      /* [V] or NULL */
    float softcap;          /* cap(y) = softcap * tanh(y / softcap); 0 = y */
    const float *hidden;    /* [T,C] */
    const int32_t *targets; /* [T], in [0,V) where weight != 0 */
    const float *weight;    /* [T] >= 0; NULL = all 1 */
    size_t T;
    float scale;    /* 1 / (sum of weights) as a rule */
    float *nll;     /* [T] overwritten, unweighted; NULL = not wanted */
    float *dhidden; /* [T,C] overwritten with dloss/dhidden; NULL = loss only */
    float *dhead;   /* [V,C] f32, accumulates; NULL = frozen */
    float *dbias;   /* [V] accumulates; NULL = frozen */
    void *scratch;  /* ew_cross_entropy_scratch bytes, 64-byte aligned */
} ew_cross_entropy_args;
/* Returns sum_t weight[t] * nll[t] (not multiplied by scale). */
double ew_cross_entropy(const ew_exec *e, const ew_cross_entropy_args *a);
/* For V = head->rows, C = head->cols and at most T rows. */
size_t ew_cross_entropy_scratch(const ew_mat *head, size_t T);

/* x:[T,n] rows become softmax(x) in place. */
void ew_softmax(const ew_exec *e, float *x, size_t T, size_t n);
/* Log of the softmax's denominator of one row: max + log sum exp(x - max). n > 0. */
double ew_logsumexp(const ew_exec *e, const float *x, size_t n);

/* ---- optimizer ---- */

typedef struct ew_adamw_opt {
    float lr;
    float beta1, beta2; /* 0.9, 0.95 */
    float eps;          /* 1e-8 */
    float weight_decay; /* decoupled, multiplied by lr */
    float grad_scale;   /* factor on g before use (clipping); 0 = 1 */
} ew_adamw_opt;
/* One step over n parameters. step counts from 1. p, m, v updated, g read. Source: Loshchilov & Hutter 2019, algorithm 2. */
void ew_adamw(const ew_exec *e, const ew_adamw_opt *o, float *p, const float *g, float *m, float *v, size_t n,
              uint64_t step);

/* ---- vectors of n elements ---- */

void ew_vec_add(const ew_exec *e, float *y, const float *x, size_t n);              /* y += x */
void ew_vec_axpy(const ew_exec *e, float a, const float *x, size_t n, float *y);    /* y += a x */
void ew_vec_scale(const ew_exec *e, float a, size_t n, float *y);                   /* y *= a */
void ew_vec_mul(const ew_exec *e, float *y, const float *x, size_t n);              /* y *= x */
double ew_vec_dot(const ew_exec *e, const float *x, const float *y, size_t n);      /* in double, fixed blocks */
double ew_vec_sumsq(const ew_exec *e, const float *x, size_t n);                    /* in double, fixed blocks */
void ew_bias_add(const ew_exec *e, const float *b, size_t T, size_t F, float *y);   /* y[t] += b, y:[T,F] */
void ew_bias_bwd(const ew_exec *e, const float *dy, size_t T, size_t F, float *db); /* db += sum_t dy[t] */
/* Rows of f32 into F16/BF16/F32 storage (KV cache) or any quantize-able type, in parallel. dst rows of dst_row_bytes. */
void ew_store_rows(const ew_exec *e, ew_dtype t, const float *src, size_t T, size_t C, void *dst, size_t dst_row_bytes);

#endif

/* Forward with saved activations and backward of decoder layers and of a model's two ends, on packed sequences, in f32.
 *
 * One implementation serves every trainer, every decoder family (model.h has the block's forms) and everything that hangs on a model
 * (hooks.h has the formulas). The weights are as they are served, quantised or not; gradients go to the places of an ew_hook_grads, which a
 * NULL leaves out: an adapter's parameters alone, or all weights. The function is that of a session (session.h) but for rounding.
 *
 * A layer's activations live in buffers that the caller provides (ew_train_acts), so that keeping all layers' or computing them again from
 * the layer's input is the caller's choice. What a layer can make again from these at little cost (norms, the feed-forward's hidden
 * state, products with low-rank matrices) is not in them. f32 per row, with C, H, K, D, F as in model.h:
 *
 *     q, att: HD each; k, v: KD each; lse: H; up: F; gate: F when gated; x1: C unless parallel; rstd: 1 each
 *     with norms after or bottleneck adapters two times C more
 *
 * (gate and up take most: needs.ffn_rows leaves them out), and of work area, once: 3 C + max(C, F, 2 HD + 2 KD), HD + KD more in the maximum when heads are normalised, and two times the largest rank.
 * A layer's input is the caller's as well: keep it in bf16 and expand it before a layer is computed again, if you like.
 *
 * Sequences are packed one after another in T rows; bound[0] = 0 < … < bound[n_seq] = T; attention stays inside. Virtual positions: with
 * a prompt the first n_virtual rows of every sequence are its rows (pos 0 … n_virtual - 1) and tokens follow; with a prefix there are no
 * rows for it, but tokens start at pos n_virtual.
 * Nothing here allocates. Locking: one owner per workspace; weights are shared read-only. */
#ifndef EW_TRAIN_BACKWARD_H
#define EW_TRAIN_BACKWARD_H

#include "base/arena.h"
#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "kern/ops.h"
#include "model/hooks.h"
#include "model/model.h"
#include "model/weights.h"
#include "peft/adapter.h"

/* T packed rows. */
typedef struct ew_train_batch {
    size_t T;
    size_t n_seq;
    const uint32_t *bound; /* [n_seq + 1] */
    const int32_t *id;     /* [T]; not read in rows of a prompt */
    const int32_t *pos;    /* [T] position inside the sequence, virtual ones counted */
    const int32_t *target; /* [T] the next token; any valid id where weight is 0. For the head alone */
    const float *weight;   /* [T] of the loss; 0 = not counted. For the head alone */
    float dropout;         /* on what LoRA's A reads, [0, 1); 0 in evaluation */
    uint64_t seed, pass;   /* dropout's masks are a function of these, layer, linear, row and column; pass < 2^48 */
} ew_train_batch;

/* What buffers depend on beside the model; known before there is an adapter. Zero: all weights' gradients, no adapter. */
typedef struct ew_train_needs {
    uint32_t n_ctx; /* positions of the longest sequence, virtual ones counted; 0 = rows */
    uint32_t rank;  /* the largest of LoRA */
    uint32_t width; /* of bottleneck adapters */
    bool scales;    /* gradients of DoRA's magnitudes or of IA3 */
    bool dropout;   /* some batch will have it */
    bool
        forward_only; /* no backward pass: nothing for gradients, and what attention and feed-forward need share their room */
    /* Rows that the feed-forward computes at a time; 0 = all. Fewer take less memory (gate and up are in the work area then, for so many
     * rows) and time for unpacking quantised weights again; the backward pass makes them, ew_train_layer_forward without y does not. */
    uint32_t ffn_rows;
} ew_train_needs;

/* Of resolved options. */
ew_train_needs ew_train_needs_of(const ew_adapter_opt *opt, uint32_t n_ctx);

/* Activations of one layer for T rows: what the backward pass reads. NULL: the model has no use for it. */
typedef struct ew_train_acts {
    float *x;         /* [T,C] input of the layer: the caller's, not taken by ew_train_acts_take */
    float *rstd1;     /* [T] */
    float *q, *k, *v; /* [T,H*D] [T,K*D] [T,K*D], q and k after rope; before norm and rope when heads are normalised */
    float *att;       /* [T,H*D] */
    float *lse;       /* [T,H] */
    float *x1;        /* [T,C] between attention and feed-forward; parallel: none */
    float *rstd2;     /* [T] */
    float *gate, *up; /* [T,F]; gate when gated; none with ffn_rows */
    float *o[2];      /* [T,C] what attention and feed-forward give, before norms after and bottlenecks */
} ew_train_acts;

/* Buffers that any layer's pass needs, sized for t_max rows. */
typedef struct ew_train_work {
    size_t t_max;
    float *dx;           /* [T,C] gradient that travels down */
    float *dn;           /* [T,C] */
    float *n;            /* [T,C] a norm's output; a branch's gradient */
    float *wide;         /* [T, see above] */
    size_t ffn_rows;     /* 0 = all */
    float *gate, *up;    /* [ffn_rows,F] */
    float *lowrank[2];   /* [T, max(rank, width)], NULL without */
    float *stat;         /* [2 T] with LayerNorm, [T] with norms after */
    float *masked;       /* rows of a linear's input, with dropout */
    float *again;        /* rows of a linear's output, with scales */
    void *scratch;       /* for products with the weights */
    ew_rope_opt rope[2]; /* with tables: of all layers, of local ones with a base of their own */
} ew_train_work;

/* EW_EUNSUPPORTED when the architecture has what the backward pass lacks (an encoder has no next token); the message names it. */
ew_status ew_train_supported(const ew_model_config *cfg, ew_error *reterr) EW_MUST_CHECK;

/* Take the memory from an arena; in a dry arena they only count. false: does not fit (never in a dry arena). */
bool ew_train_acts_take(ew_arena *a, const ew_model_config *cfg, const ew_train_needs *needs, size_t t_max,
                        ew_train_acts *ret);
bool ew_train_work_take(ew_arena *a, const ew_model *m, const ew_train_needs *needs, size_t t_max, ew_train_work *ret);
/* Fills the tables of a work area that was taken from a real arena. */
void ew_train_work_start(ew_train_work *w);

/* x[T,C] = what the first layer reads. hooks NULL = none, here and below. */
void ew_train_embed(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, const ew_train_batch *b, float *x);
/* dx[T,C], the gradient of that, is used up; adds to g's prompt, weights->token_embd and weights->position_embd. */
void ew_train_embed_backward(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, const ew_train_batch *b,
                             float *dx, const ew_hook_grads *g);

/* Layer i_layer of m. acts->x holds the input; y[T,C] is overwritten (not acts->x itself); NULL when only the activations are
 * wanted (computed again for the backward). */
void ew_train_layer_forward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_hooks *hooks,
                            const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, float *y);
/* work->dx holds dL/dy and holds dL/dx afterwards. Adds to g. acts are used up: gate and up change. need_dx false: the gradient of x
 * is not needed (lowest layer over a frozen embedding) and dx is left undefined. */
void ew_train_layer_backward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_hooks *hooks,
                             const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, const ew_hook_grads *g,
                             bool need_dx);

/* hidden[n,C] = the norm before the head, of n rows x[n,C]: that of exit i_exit of hooks, or the model's own (i_exit < 0). rstd:[n] is
 * for the backward. */
void ew_train_head_norm(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, int i_exit, const float *x,
                        size_t n, float *hidden, float *rstd);
/* dx += …; adds to g's exit, or weights->output_norm and _b. stat: [2 n] of room, read with LayerNorm alone. */
void ew_train_head_norm_backward(const ew_exec *e, const ew_model *m, const ew_hooks *hooks, int i_exit, const float *x,
                                 const float *rstd, const float *dhidden, size_t n, float *stat, float *dx,
                                 const ew_hook_grads *g);
/* Sets what the model's head is in a: head, bias, softcap, and dhead and dbias of g (NULL: frozen). */
void ew_train_head(const ew_model *m, const ew_hook_grads *g, ew_cross_entropy_args *a);

#endif

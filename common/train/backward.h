/* Forward with saved activations and backward of decoder layers, on packed sequences, in f32.
 *
 * One implementation serves both trainers: pre-training gives f32 weights and asks for gradients of all of them, tuning gives
 * the served (quantized) weights and asks for the gradients of LoRA pairs alone. A layer's activations live in a buffer
 * that the caller provides (ew_train_acts), so that keeping all of them or computing them again is the caller's choice.
 *
 *   x1 = x + O attn(rope(Q n1), rope(K n1), V n1),  n1 = rmsnorm(x);   y = x1 + Down(silu(Gate n2) * Up n2),  n2 = rmsnorm(x1)
 *
 * Sequences are packed one after another in T rows; bound[0] = 0 < … < bound[n_seq] = T; attention and positions stay inside.
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

/* T packed rows. */
typedef struct ew_train_batch {
    size_t T;
    size_t n_seq;
    const uint32_t *bound; /* [n_seq + 1] */
    const int32_t *id;     /* [T] */
    const int32_t *pos;    /* [T] position inside the sequence */
    const int32_t *target; /* [T] the next token; any valid id where weight is 0 */
    const float *weight;   /* [T] of the loss; 0 = not counted */
} ew_train_batch;

/* Activations of one layer for T rows: what the backward pass reads. */
typedef struct ew_train_acts {
    float *x;         /* [T,C] input of the layer */
    float *rstd1;     /* [T] */
    float *n1;        /* [T,C] */
    float *q, *k, *v; /* [T,H*D] [T,K*D] [T,K*D], q and k after rope */
    float *att;       /* [T,H*D] */
    float *lse;       /* [T,H] */
    float *x1;        /* [T,C] */
    float *rstd2;     /* [T] */
    float *n2;        /* [T,C] */
    float *gate, *up; /* [T,F] */
    float *h;         /* [T,F] silu(gate) * up */
} ew_train_acts;

/* Gradients that are wanted (accumulated); NULL = frozen. */
typedef struct ew_train_layer_grads {
    float *linear[EW_LINEAR_COUNT]; /* [F,C] of each weight */
    float *attn_norm, *ffn_norm;    /* [C] */
    float *lora_a[EW_LINEAR_COUNT]; /* [R,C_in] */
    float *lora_b[EW_LINEAR_COUNT]; /* [F_out,R] */
} ew_train_layer_grads;

/* Buffers that any layer's backward needs, sized for t_max rows. */
typedef struct ew_train_work {
    size_t t_max;
    float *dx;         /* [T,C] gradient that travels down */
    float *dn;         /* [T,C] */
    float *dwide[3];   /* [T, max(C, F, H*D, 2*K*D)] */
    float *lowrank[2]; /* [T,R], NULL without LoRA */
    void *scratch;     /* for products with the weights */
    ew_rope_opt rope;  /* with a table for t_max positions */
} ew_train_work;

/* EW_EUNSUPPORTED when the architecture has what the backward pass lacks; the message names it. */
ew_status ew_train_supported(const ew_model_config *cfg, ew_error *reterr) EW_MUST_CHECK;

/* Take the memory from an arena; in a dry arena they only count. false: does not fit (never in a dry arena). */
bool ew_train_acts_take(ew_arena *a, const ew_model_config *cfg, size_t t_max, ew_train_acts *ret);
bool ew_train_work_take(ew_arena *a, const ew_model *m, uint32_t lora_rank, size_t t_max, ew_train_work *ret);
/* Fills the tables of a work area that was taken from a real arena. */
void ew_train_work_start(ew_train_work *w);

/* Layer i_layer of m. acts->x holds the input; y[T,C] is overwritten (not acts->x itself); NULL when only the activations are
 * wanted (computed again for the backward). lora: [EW_LINEAR_COUNT] or NULL. */
void ew_train_layer_forward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_linear_hook *lora,
                            const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, float *y);
/* work->dx holds dL/dy and holds dL/dx afterwards. Accumulates into grads. need_dx false: the gradient of x is not needed (lowest
 * layer over a frozen embedding) and dx is left undefined. */
void ew_train_layer_backward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_linear_hook *lora,
                             const ew_train_batch *b, const ew_train_acts *acts, ew_train_work *work,
                             const ew_train_layer_grads *grads, bool need_dx);

#endif

/* MeZO: descent along random directions with two forward passes per direction and no backward pass.
 *
 *   z ~ N(0, I);  g = (L(p + eps z) - L(p - eps z)) / (2 eps);  p <- p - lr (g z + weight_decay p)
 *
 * averaged over n_spsa directions. Source: Malladi et al. 2023 (2305.17333), algorithms 1 and 2; the estimate is SPSA (Spall 1992)
 * with Gaussian directions: its mean over z is the gradient plus terms of order eps^2.
 *
 * z is never stored: element i of direction j of a step is a function of (seed, step, j, i) and is made again for each use. The
 * number of the step is therefore all the state there is, and a run that goes on from its parameters goes on exactly.
 *
 * Memory is what evaluation takes. The published algorithm walks p to p + eps z, p - eps z and back in place, which leaves a rounding
 * error in every parameter at every step. Here p stays in `kept`, one more copy of the block, and both ends and the new
 * parameters are computed from it: restoring is exact. An adapter is small beside one layer's activations; for a block that is not
 * (full fine-tuning), kept NULL walks in place as published.
 *
 * The block is any adapter's parameters (LoRA and prefix are what the paper tunes). Learning rates that the authors searched: LoRA 1e-4 and
 * 5e-5 with eps 1e-2, prefix 1e-2 and 1e-3 with eps 1e-1, all weights 1e-6 and 1e-7 with eps 1e-3, constant over the run; expect ten
 * to a hundred times as many steps as with gradients.
 *
 * Locking: one owner; uses exec's pool, with a result that does not depend on the number of threads. Nothing here allocates. */
#ifndef EW_TRAIN_MEZO_H
#define EW_TRAIN_MEZO_H

#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "train/step.h"

#define EW_MEZO_SPSA_MAX 64u

/* What is tuned: decides the defaults. */
typedef enum ew_mezo_kind {
    EW_MEZO_LORA,   /* LoRA, DoRA, IA3, bottleneck adapters */
    EW_MEZO_PREFIX, /* prefix and prompt */
    EW_MEZO_FULL
} ew_mezo_kind;

typedef struct ew_mezo_opt {
    float eps;          /* half the distance between the two evaluations, in units of z */
    uint32_t n_spsa;    /* directions per step; 0 = 1 */
    float weight_decay; /* decoupled, times lr */
    float clip;         /* bound of |g|, whose mean square is the squared norm of the gradient; 0 = none */
    uint64_t seed;
} ew_mezo_opt;

/* The authors' eps and the middle of their learning rates. */
float ew_mezo_default_eps(ew_mezo_kind kind);
float ew_mezo_default_lr(ew_mezo_kind kind);

/* EW_EINVAL with what is out of range. */
ew_status ew_mezo_check(const ew_mezo_opt *o, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_mezo_result {
    double loss;      /* mean of all evaluations: the loss at p but for terms of order eps^2 */
    double slope_rms; /* root mean square of g, an estimate of the gradient's norm */
    bool finite;      /* false: some loss was not, and the parameters are as they were (exactly so with kept) */
} ew_mezo_result;

/* One step on p[n]. step counts from 0. loss is called 2 n_spsa times with p changed in place; it must give the same for the same
 * p (no dropout), and tell whoever keeps values derived from p. After the return p has changed once more. kept[n] or NULL. */
void ew_mezo_step(const ew_exec *e, const ew_mezo_opt *o, uint64_t step, float lr, float *p, float *kept, size_t n,
                  ew_step_loss_fn loss, void *ctx, ew_mezo_result *ret);

/* y[i] = base[i] (1 - shrink) + a z[i], i < n, for direction `dir` of a step; base may be y. */
void ew_mezo_along(const ew_exec *e, const ew_mezo_opt *o, uint64_t step, uint32_t dir, float a, float shrink,
                   const float *base, size_t n, float *y);

#endif

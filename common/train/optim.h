/* AdamW over one block of parameters, with its two moments in f32 or in 8 bits.
 *
 *   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)
 *
 * 8 bits (Dettmers et al. 2021, 2110.02861): blocks of 256 values, each with the f32 of its largest magnitude, and codes of the
 * dynamic map, whose steps are 1/2 of a decade near zero and under 1 % near the maximum. Differences from the paper: the root of v
 * is kept, not v, so that both moments span the same decades and no v falls to zero under an m that did not; values are
 * rounded up or down at random with the probabilities that keep the mean (bits are a function of seed, step and index: a run
 * that is continued draws the same), because with b2 near 1 the change of a step is smaller than half a step of the map.
 * Moments then take 2.03 bytes per parameter instead of 8.
 *
 * Results do not depend on the number of threads. Locking: one owner. */
#ifndef EW_TRAIN_OPTIM_H
#define EW_TRAIN_OPTIM_H

#include "base/arena.h"
#include "base/base.h"
#include "kern/kern.h"
#include "kern/ops.h"
#include "train/checkpoint.h"

#define EW_OPTIM_BLOCK 256u     /* values that share a scale */
#define EW_OPTIM_STATE_BLOCKS 4 /* of a checkpoint, at most */

typedef struct ew_optim {
    size_t n; /* parameters */
    bool eight_bit;
    uint64_t seed;                /* of the rounding */
    float *m, *v;                 /* [n] f32 */
    uint8_t *m8, *r8;             /* [n] codes of m and of the root of v */
    float *m_max, *r_max;         /* [blocks] */
    float map_m[256], map_r[256]; /* value of a code, ascending */
} ew_optim;

/* Takes the moments' memory; in a dry arena only counts. */
bool ew_optim_take(ew_optim *o, ew_arena *a, size_t n, bool eight_bit, uint64_t seed);
/* Moments to zero, once after taking from a real arena. */
void ew_optim_start(ew_optim *o);
/* One step of the parameters [at, at + n) of the block; the others stay, and their moments (in 8 bits those that share a block of
 * EW_OPTIM_BLOCK with these are rounded anew when its scale changes). step counts from 1 (steps that were skipped do not count) since the
 * moments of these were zero. p[o->n] updated, g[o->n] read. */
void ew_optim_step(const ew_exec *e, ew_optim *o, const ew_adamw_opt *opt, float *p, const float *g, size_t at,
                   size_t n, uint64_t step);
/* The moments as blocks of a checkpoint; returns how many. */
size_t ew_optim_blocks(ew_optim *o, ew_checkpoint_block ret[static EW_OPTIM_STATE_BLOCKS]);

#endif

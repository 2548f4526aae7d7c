/* Deterministic random numbers: xoshiro256** seeded by splitmix64 (Blackman & Vigna, prng.di.unimi.it). Not for keys.
 * The whole state is the struct: copy it to save it, and a stream continues bit-exactly. */
#ifndef EW_BASE_RNG_H
#define EW_BASE_RNG_H

#include "base/base.h"

typedef struct ew_rng {
    uint64_t s[4];
} ew_rng;

/* seed selects the experiment, stream separates independent uses of one seed. */
void ew_rng_init(ew_rng *r, uint64_t seed, uint64_t stream);
uint64_t ew_rng_u64(ew_rng *r);
/* Uniform in [0, n), unbiased; n > 0. */
uint64_t ew_rng_below(ew_rng *r, uint64_t n);
/* Uniform in [0, 1), 53 bits. */
double ew_rng_f64(ew_rng *r);
/* Standard normal (Box-Muller, one value per call: no hidden state). */
double ew_rng_normal(ew_rng *r);
/* Random bits by address: block i of a stream is a function of (seed, stream, i) alone, so any part of a sequence can be made again, in any
 * order and by any thread, without keeping it. Philox-4x32-10: key seed, counter (i, stream).
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3. */
void ew_rng_block(uint64_t seed, uint64_t stream, uint64_t i, uint32_t ret[static 4]);
/* Fisher-Yates over n elements of size bytes (size <= 64). */
void ew_rng_shuffle(ew_rng *r, void *items, size_t n, size_t size);

#endif

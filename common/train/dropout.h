/* Dropout whose mask is a function of its place: computing a layer again gives the same one, whatever the number of threads, and nothing is
 * kept. Bits: Philox blocks by address (base/rng.h). Kept values are divided by 1 - p, as in Srivastava 2014 section 10 and torch.
 * Locking: pure functions. */
#ifndef EW_TRAIN_DROPOUT_H
#define EW_TRAIN_DROPOUT_H

#include "base/base.h"
#include "base/rng.h"

/* dst[n] = mask * src[n] / (1 - p), 0 <= p < 1; dst may be src. stream names what is masked (pass, layer, linear), row its row. */
static inline void ew_dropout_row(uint64_t seed, uint64_t stream, uint32_t row, float p, const float *src, size_t n,
                                  float *dst)
{
    const uint32_t drop = (uint32_t)((double)p * 4294967296.0); /* dropped below */
    const float scale = 1.0F / (1.0F - p);
    for (size_t at = 0; at < n; at += 4) {
        uint32_t r[4];
        ew_rng_block(seed, stream, (uint64_t)row << 32 | at / 4, r);
        const size_t m = EW_MIN((size_t)4, n - at);
        for (size_t i = 0; i < m; i++) {
            dst[at + i] = r[i] < drop ? 0.0F : src[at + i] * scale;
        }
    }
}

#endif

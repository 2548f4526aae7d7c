/* Four groups of a block side by side: the searches of the quantisers are long chains of sums whose order is part of the result,
 * so that the parallelism is between groups. GNU vectors of 16 bytes: every target has registers for them. */
#ifndef EW_KERN_LANES_H
#define EW_KERN_LANES_H

#include <stddef.h>
#include <stdint.h>

#define EW_LANES 4

typedef float ew_f4 __attribute__((vector_size(16)));
typedef int32_t ew_i4 __attribute__((vector_size(16)));

static inline ew_f4 ew__pick4(ew_i4 mask, ew_f4 a, ew_f4 b)
{
    return (ew_f4)((mask & (ew_i4)a) | (~mask & (ew_i4)b));
}

static inline ew_f4 ew__splat4(float x)
{
    return (ew_f4){x, x, x, x};
}

static inline ew_f4 ew__abs4(ew_f4 x)
{
    return (ew_f4)((ew_i4)x & 0x7fffffff);
}

/* ew__nearest, kept between lo and hi. */
static inline ew_f4 ew__level4(ew_f4 x, float lo, float hi)
{
    ew_i4 bits = (ew_i4)(x + 12582912.0f);
    ew_f4 r = __builtin_convertvector((bits & 0x7fffff) - 0x400000, ew_f4);
    r = ew__pick4(r < lo, ew__splat4(lo), r);
    return ew__pick4(r > hi, ew__splat4(hi), r);
}

/* The value of largest magnitude with its sign (the first of equals), 0 when all are 0. */
static inline ew_f4 ew__extreme4(const ew_f4 *x, size_t n)
{
    ew_f4 extreme = {0}, amax = {0};
    for (size_t i = 0; i < n; i++) {
        ew_f4 a = ew__abs4(x[i]);
        ew_i4 more = a > amax;
        amax = ew__pick4(more, a, amax);
        extreme = ew__pick4(more, x[i], extreme);
    }
    return extreme;
}

/* Element i of lane k is src[k * n + i]. */
static inline void ew__to_lanes4(const float *src, size_t n, ew_f4 *x)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (ew_f4){src[i], src[n + i], src[2 * n + i], src[3 * n + i]};
    }
}

static inline void ew__store4(ew_f4 v, float *dst)
{
    for (size_t k = 0; k < EW_LANES; k++) {
        dst[k] = v[k];
    }
}

#endif

/* Inside of kern: the conversions of each quantised type, by whole blocks. All are pure functions; src and dst do not overlap.
 *
 * Each repeats the arithmetic of ggml's dequantize_row_* and of its quantisers without an importance matrix (quantize_row_*_ref,
 * for IQ4_* quantize_iq4_*) operation by operation in f32, so that rows and files agree bit for bit with llama-quantize's. */
#ifndef EW_KERN_QUANT_INT_H
#define EW_KERN_QUANT_INT_H

#include <string.h>

#include "kern/blocks.h"
#include "kern/dtype.h"

typedef void ew_dequant_fn(const void *src, float *dst, size_t n_blocks);
typedef void ew_quant_fn(const float *src, void *dst, size_t n_blocks);

ew_dequant_fn ew__dequant_q4_0, ew__dequant_q4_1, ew__dequant_q5_0, ew__dequant_q5_1, ew__dequant_q8_0;
ew_dequant_fn ew__dequant_q2_k, ew__dequant_q3_k, ew__dequant_q4_k, ew__dequant_q5_k, ew__dequant_q6_k;
ew_dequant_fn ew__dequant_iq4_nl, ew__dequant_iq4_xs;
ew_quant_fn ew__quant_q4_0, ew__quant_q4_1, ew__quant_q5_0, ew__quant_q5_1, ew__quant_q8_0;
ew_quant_fn ew__quant_q2_k, ew__quant_q3_k, ew__quant_q4_k, ew__quant_q5_k, ew__quant_q6_k;
ew_quant_fn ew__quant_iq4_nl, ew__quant_iq4_xs;

/* Searches for the scales (and minima) of the groups of a block: x[EW_QK] has no NaN. level[EW_QK] counts from 0. */
void ew__search_copy(const float *src, float *x); /* NaN becomes 0 */
void ew__search_q2(const float *x, float scale[16], float min[16], uint8_t *level);
void ew__search_q3(const float *x, float scale[16], uint8_t *level);
/* Q4_K: top 15, Q5_K: top 31. */
void ew__search_q45(const float *x, int32_t top, float scale[8], float min[8], uint8_t *level);
void ew__search_q6(const float *x, float scale[16], uint8_t *level);

/* Groups whose largest magnitude is below this are zero. */
#define EW_GROUP_EPS 1e-15f

/* NaN must not reach a float to int conversion. */
static inline float ew__finite_or_0(float x)
{
    return x == x ? x : 0.0f;
}

/* Round half to even for |x| < 2^22 by the mantissa of x + 1.5 * 2^23. Defined (if senseless) for every float: beyond that range
 * the low mantissa bits of whatever the sum is. */
static inline int32_t ew__nearest(float x)
{
    float shifted = x + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    return (int32_t)(bits & 0x7fffffu) - 0x400000;
}

static inline int32_t ew__clamp(int32_t x, int32_t lo, int32_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

#endif

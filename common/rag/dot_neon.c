#include <arm_neon.h>

#include "rag/rag_int.h"

/* Two products of 127 * 127 fit 16 bits; their sums go to 32. */
int32_t ew__rag_dot_neon(const int8_t *a, const int8_t *b, size_t n)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (size_t i = 0; i < n; i += 16) {
        int8x16_t x = vld1q_s8(a + i);
        int8x16_t y = vld1q_s8(b + i);
        int16x8_t pairs = vmull_s8(vget_low_s8(x), vget_low_s8(y));
        pairs = vmlal_s8(pairs, vget_high_s8(x), vget_high_s8(y));
        sum = vpadalq_s16(sum, pairs);
    }
    return vaddvq_s32(sum);
}

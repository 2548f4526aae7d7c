/* IQ4_NL and IQ4_XS: four bits that index sixteen uneven levels, dense around 0 as weights are.
 *
 * The scale of a group of 32 minimises sum x^2 (d v - x)^2 over fifteen trial scales, v being the level nearest to x over the
 * trial scale. Source: llama.cpp's quantize_iq4_nl and quantize_iq4_xs (ggml-quants.c), with the same order of the sums. */
#include <math.h>

#include "kern/lanes.h"
#include "kern/quant_int.h"

/* ---- to numbers ---- */

static inline void dequant32(const uint8_t q[16], float d, float *dst)
{
    for (size_t j = 0; j < 16; j++) {
        dst[j] = d * (float)ew_iq4_levels[q[j] & 15];
        dst[j + 16] = d * (float)ew_iq4_levels[q[j] >> 4];
    }
}

void ew__dequant_iq4_nl(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_iq4_nl *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        dequant32(b[i].q, ew_f16_to_f32(b[i].d), dst);
    }
}

void ew__dequant_iq4_xs(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_iq4_xs *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t g = 0; g < 8; g++, dst += 32) {
            dequant32(b[i].q + 16 * g, d * (float)ew_iq4_xs_scale(b[i].scales_h, b[i].scales_l, g), dst);
        }
    }
}

/* ---- from numbers ---- */

/* Between level k and level k + 1: their middle and their distance, both exact. */
#define MIDDLES                                                                                                        \
    -115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f, 7.0f, 19.0f, 31.5f, 45.5f, 61.0f, 79.0f, 101.0f
#define STEPS 23.0f, 21.0f, 18.0f, 16.0f, 14.0f, 13.0f, 12.0f, 11.0f, 12.0f, 12.0f, 13.0f, 15.0f, 16.0f, 20.0f, 24.0f
static const float middles[15] = {MIDDLES}, steps[15] = {STEPS};

/* The level nearest to x, the upper of two equally near. */
static inline ew_f4 nearest_level(ew_f4 x)
{
    ew_f4 v = ew__splat4(-127.0f);
    for (size_t k = 0; k < 15; k++) {
        v += (ew_f4)(~(x < middles[k]) & (ew_i4)ew__splat4(steps[k]));
    }
    return v;
}

static inline ew_i4 nearest_index(ew_f4 x)
{
    ew_i4 n = {0};
    for (size_t k = 0; k < 15; k++) {
        n -= ~(x < middles[k]);
    }
    return n;
}

/* Four groups of 32: their scales. */
static ew_f4 search(const ew_f4 *x)
{
    ew_f4 extreme = ew__extreme4(x, 32), d = {0}, best = {0};
    for (int k = -8; k <= 7; k++) {
        /* First the scale that puts the extreme at +127, which is accepted whatever its error; then the fan around -127. */
        ew_f4 by = k == -8 ? 1.0f / (-extreme / -127.0f) : ((float)k - 127.0f) / extreme;
        ew_f4 sum_vx = {0}, sum_v2 = {0};
        for (size_t i = 0; i < 32; i++) {
            ew_f4 v = nearest_level(by * x[i]), wv = x[i] * x[i] * v;
            sum_vx += wv * x[i];
            sum_v2 += wv * v;
        }
        ew_i4 better = sum_v2 > 0.0f;
        if (k > -8) {
            better &= sum_vx * sum_vx > best * sum_v2;
        }
        d = ew__pick4(better, sum_vx / sum_v2, d);
        best = ew__pick4(better, d * sum_vx, best);
    }
    return ew__pick4(ew__abs4(extreme) < EW_GROUP_EPS, ew__splat4(0.0f), d);
}

static void pack(const ew_i4 *index, size_t lane, uint8_t q[16])
{
    for (size_t j = 0; j < 16; j++) {
        q[j] = (uint8_t)(index[j][lane] | index[j + 16][lane] << 4);
    }
}

/* 1 / d, 0 where d is 0. */
static ew_f4 inverse(ew_f4 d)
{
    return ew__pick4(d != 0.0f, 1.0f / d, ew__splat4(0.0f));
}

void ew__quant_iq4_nl(const float *src, void *dst, size_t n_blocks)
{
    ew_block_iq4_nl *b = dst;
    for (size_t i = 0; i < n_blocks; i += EW_LANES) {
        size_t lanes = EW_MIN((size_t)EW_LANES, n_blocks - i);
        float padded[EW_LANES * 32] = {0};
        ew_f4 x[32];
        ew_i4 index[32];
        for (size_t j = 0; j < 32 * lanes; j++) {
            padded[j] = ew__finite_or_0(src[32 * i + j]);
        }
        ew__to_lanes4(padded, 32, x);
        ew_f4 d = search(x), by = inverse(d);
        for (size_t j = 0; j < 32; j++) {
            index[j] = nearest_index(by * x[j]);
        }
        for (size_t k = 0; k < lanes; k++) {
            b[i + k].d = ew_f32_to_f16(d[k]);
            pack(index, k, b[i + k].q);
        }
    }
}

/* Scales of the groups of one block and the levels that follow from them. x: two halves of four groups. */
static void settle(ew_f4 x[2][32], const float scale[8], ew_block_iq4_xs *b)
{
    float amax = 0.0f, extreme = 0.0f;
    for (size_t g = 0; g < 8; g++) {
        if (fabsf(scale[g]) > amax) {
            amax = fabsf(scale[g]);
            extreme = scale[g];
        }
    }
    float d = -extreme / 32.0f, id = d != 0.0f ? 1.0f / d : 0.0f;
    *b = (ew_block_iq4_xs){.d = ew_f32_to_f16(d)};
    for (size_t half = 0; half < 2; half++) {
        ew_f4 dl;
        ew_i4 index[32];
        for (size_t k = 0; k < EW_LANES; k++) {
            size_t g = 4 * half + k;
            int32_t s = ew__clamp(ew__nearest(id * scale[g]), -32, 31);
            unsigned bits = (unsigned)(s + 32);
            dl[k] = d * (float)s;
            b->scales_l[g / 2] = (uint8_t)(b->scales_l[g / 2] | (bits & 15) << (4 * (g % 2)));
            b->scales_h = (uint16_t)(b->scales_h | (bits >> 4) << (2 * g));
        }
        ew_f4 by = inverse(dl);
        for (size_t j = 0; j < 32; j++) {
            index[j] = nearest_index(by * x[half][j]);
        }
        for (size_t k = 0; k < EW_LANES; k++) {
            pack(index, k, b->q + 16 * (4 * half + k));
        }
    }
}

void ew__quant_iq4_xs(const float *src, void *dst, size_t n_blocks)
{
    ew_block_iq4_xs *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK], scale[8];
        ew_f4 v[2][32];
        ew__search_copy(src, x);
        for (size_t half = 0; half < 2; half++) {
            ew__to_lanes4(x + 128 * half, 32, v[half]);
            ew__store4(search(v[half]), scale + 4 * half);
        }
        settle(v, scale, &b[i]);
    }
}

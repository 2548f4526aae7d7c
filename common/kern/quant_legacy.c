/* Types with blocks of 32 and even levels: Q8_0, Q5_1, Q5_0, Q4_1, Q4_0. */
#include <float.h>
#include <math.h>

#include "kern/quant_int.h"

/* ---- to numbers ---- */

void ew__dequant_q8_0(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q8_0 *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 32; j++) {
            dst[j] = (float)b[i].q[j] * d;
        }
    }
}

void ew__dequant_q4_0(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q4_0 *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 16; j++) {
            dst[j] = (float)((int)(b[i].q[j] & 15) - 8) * d;
            dst[j + 16] = (float)((int)(b[i].q[j] >> 4) - 8) * d;
        }
    }
}

void ew__dequant_q4_1(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q4_1 *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        float d = ew_f16_to_f32(b[i].d), m = ew_f16_to_f32(b[i].m);
        for (size_t j = 0; j < 16; j++) {
            dst[j] = (float)(b[i].q[j] & 15) * d + m;
            dst[j + 16] = (float)(b[i].q[j] >> 4) * d + m;
        }
    }
}

/* The 32 levels of a block of Q5_0 or Q5_1. */
static inline void levels5(const uint8_t h[4], const uint8_t q[16], uint8_t level[32])
{
    for (size_t j = 0; j < 16; j++) {
        unsigned lo = (unsigned)h[j / 8] >> (j % 8), hi = (unsigned)h[2 + j / 8] >> (j % 8);
        level[j] = (uint8_t)((q[j] & 15u) | (lo & 1u) << 4);
        level[j + 16] = (uint8_t)((q[j] >> 4) | (hi & 1u) << 4);
    }
}

void ew__dequant_q5_0(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q5_0 *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        float d = ew_f16_to_f32(b[i].d);
        uint8_t level[32];
        levels5(b[i].h, b[i].q, level);
        for (size_t j = 0; j < 32; j++) {
            dst[j] = (float)((int)level[j] - 16) * d;
        }
    }
}

void ew__dequant_q5_1(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q5_1 *b = src;
    for (size_t i = 0; i < n_blocks; i++, dst += 32) {
        float d = ew_f16_to_f32(b[i].d), m = ew_f16_to_f32(b[i].m);
        uint8_t level[32];
        levels5(b[i].h, b[i].q, level);
        for (size_t j = 0; j < 32; j++) {
            dst[j] = (float)level[j] * d + m;
        }
    }
}

/* ---- from numbers ---- */

/* Of a block, the value of largest magnitude with its sign (the first of equals); 0 when there is none. */
static float signed_extreme(const float x[32])
{
    float amax = 0.0f, extreme = 0.0f;
    for (size_t j = 0; j < 32; j++) {
        if (amax < fabsf(x[j])) {
            amax = fabsf(x[j]);
            extreme = x[j];
        }
    }
    return extreme;
}

/* Truncated, 0..top. */
static inline uint8_t level_of(float x, float top)
{
    float y = ew__finite_or_0(x);
    return (uint8_t)(int)(y > top ? top : y < 0.0f ? 0.0f : y);
}

/* Levels of x around the middle, scaled so that the signed extreme is level 0: returns the step. */
static float levels_signed(const float x[32], int half, uint8_t level[32])
{
    float d = signed_extreme(x) / (float)-half;
    float id = d != 0.0f ? 1.0f / d : 0.0f;
    for (size_t j = 0; j < 32; j++) {
        level[j] = level_of(ew__finite_or_0(x[j] * id) + ((float)half + 0.5f), (float)(2 * half - 1));
    }
    return d;
}

/* Levels of x between its minimum and its maximum: returns the step. */
static float levels_above_min(const float x[32], int top, uint8_t level[32], float *ret_min)
{
    float min = FLT_MAX, max = -FLT_MAX;
    for (size_t j = 0; j < 32; j++) {
        min = x[j] < min ? x[j] : min;
        max = x[j] > max ? x[j] : max;
    }
    float d = (max - min) / (float)top;
    float id = d != 0.0f ? 1.0f / d : 0.0f;
    for (size_t j = 0; j < 32; j++) {
        level[j] = level_of((ew__finite_or_0(x[j]) - min) * id + 0.5f, (float)top);
    }
    *ret_min = min;
    return d;
}

static void pack4(const uint8_t level[32], uint8_t q[16])
{
    for (size_t j = 0; j < 16; j++) {
        q[j] = (uint8_t)((level[j] & 15) | (level[j + 16] & 15) << 4);
    }
}

static void pack_fifth(const uint8_t level[32], uint8_t h[4])
{
    memset(h, 0, 4);
    for (size_t j = 0; j < 32; j++) {
        h[j / 8] = (uint8_t)(h[j / 8] | (level[j] >> 4) << (j % 8));
    }
}

void ew__quant_q8_0(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q8_0 *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += 32) {
        float amax = 0.0f;
        for (size_t j = 0; j < 32; j++) {
            float a = fabsf(src[j]);
            amax = amax > a ? amax : a;
        }
        float d = amax / 127.0f;
        float id = d != 0.0f ? 1.0f / d : 0.0f;
        b[i].d = ew_f32_to_f16(d);
        for (size_t j = 0; j < 32; j++) {
            float r = roundf(ew__finite_or_0(src[j] * id));
            b[i].q[j] = (int8_t)(r > 127.0f ? 127.0f : r < -127.0f ? -127.0f : r);
        }
    }
}

void ew__quant_q4_0(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q4_0 *b = dst;
    uint8_t level[32];
    for (size_t i = 0; i < n_blocks; i++, src += 32) {
        b[i].d = ew_f32_to_f16(levels_signed(src, 8, level));
        pack4(level, b[i].q);
    }
}

void ew__quant_q4_1(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q4_1 *b = dst;
    uint8_t level[32];
    for (size_t i = 0; i < n_blocks; i++, src += 32) {
        float min;
        b[i].d = ew_f32_to_f16(levels_above_min(src, 15, level, &min));
        b[i].m = ew_f32_to_f16(min);
        pack4(level, b[i].q);
    }
}

void ew__quant_q5_0(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q5_0 *b = dst;
    uint8_t level[32];
    for (size_t i = 0; i < n_blocks; i++, src += 32) {
        b[i].d = ew_f32_to_f16(levels_signed(src, 16, level));
        pack4(level, b[i].q);
        pack_fifth(level, b[i].h);
    }
}

void ew__quant_q5_1(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q5_1 *b = dst;
    uint8_t level[32];
    for (size_t i = 0; i < n_blocks; i++, src += 32) {
        float min;
        b[i].d = ew_f32_to_f16(levels_above_min(src, 31, level, &min));
        b[i].m = ew_f32_to_f16(min);
        pack4(level, b[i].q);
        pack_fifth(level, b[i].h);
    }
}

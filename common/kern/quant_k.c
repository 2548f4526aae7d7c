/* Types with blocks of 256 whose groups of 16 or 32 have scales of their own: Q2_K to Q6_K to numbers, and what the search
 * (quant_search.c) found to blocks. */
#include <math.h>

#include "kern/quant_int.h"

/* ---- to numbers ---- */

void ew__dequant_q2_k(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q2_k *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d), dmin = ew_f16_to_f32(b[i].dmin);
        for (size_t g = 0; g < 16; g++, dst += 16) {
            float s = d * (float)(b[i].scales[g] & 15), m = dmin * (float)(b[i].scales[g] >> 4);
            const uint8_t *q = b[i].q + 32 * (g / 8) + 16 * (g % 2);
            unsigned shift = 2 * (unsigned)(g % 8 / 2);
            for (size_t l = 0; l < 16; l++) {
                dst[l] = s * (float)(q[l] >> shift & 3) - m;
            }
        }
    }
}

void ew__dequant_q3_k(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q3_k *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t g = 0; g < 16; g++, dst += 16) {
            float s = d * (float)ew_q3_k_scale(b[i].scales, g);
            const uint8_t *q = b[i].q + 32 * (g / 8) + 16 * (g % 2), *h = b[i].h + 16 * (g % 2);
            unsigned shift = 2 * (unsigned)(g % 8 / 2), bit = (unsigned)(g / 2);
            for (size_t l = 0; l < 16; l++) {
                dst[l] = s * (float)((q[l] >> shift & 3) + 4 * (h[l] >> bit & 1) - 4);
            }
        }
    }
}

void ew__dequant_q4_k(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q4_k *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d), dmin = ew_f16_to_f32(b[i].dmin);
        for (size_t g = 0; g < 8; g++, dst += 32) {
            float s = d * (float)ew_q4_k_scale(b[i].scales, g), m = dmin * (float)ew_q4_k_min(b[i].scales, g);
            const uint8_t *q = b[i].q + 32 * (g / 2);
            unsigned shift = 4 * (unsigned)(g % 2);
            for (size_t l = 0; l < 32; l++) {
                dst[l] = s * (float)(q[l] >> shift & 15) - m;
            }
        }
    }
}

void ew__dequant_q5_k(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q5_k *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d), dmin = ew_f16_to_f32(b[i].dmin);
        for (size_t g = 0; g < 8; g++, dst += 32) {
            float s = d * (float)ew_q4_k_scale(b[i].scales, g), m = dmin * (float)ew_q4_k_min(b[i].scales, g);
            const uint8_t *q = b[i].q + 32 * (g / 2), *h = b[i].h;
            unsigned shift = 4 * (unsigned)(g % 2);
            for (size_t l = 0; l < 32; l++) {
                dst[l] = s * (float)((q[l] >> shift & 15) + 16 * (h[l] >> g & 1)) - m;
            }
        }
    }
}

void ew__dequant_q6_k(const void *src, float *dst, size_t n_blocks)
{
    const ew_block_q6_k *b = src;
    for (size_t i = 0; i < n_blocks; i++) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t g = 0; g < 16; g++, dst += 16) {
            float s = d * (float)b[i].scales[g];
            size_t n = g / 8, j = g % 8 / 2, part = 16 * (g % 2);
            const uint8_t *q = b[i].q + 64 * n + 32 * (j & 1) + part, *h = b[i].h + 32 * n + part;
            unsigned shift = j < 2 ? 0 : 4, high = 2 * (unsigned)j;
            for (size_t l = 0; l < 16; l++) {
                dst[l] = s * (float)((q[l] >> shift & 15) + 16 * (h[l] >> high & 3) - 32);
            }
        }
    }
}

/* ---- levels to bits ---- */

/* Two bits of each level, at q[64]. */
static void pack2(const uint8_t *level, uint8_t *q)
{
    for (size_t n = 0; n < 2; n++) {
        for (size_t l = 0; l < 32; l++) {
            const uint8_t *v = level + 128 * n + l;
            q[32 * n + l] = (uint8_t)((v[0] & 3) | (v[32] & 3) << 2 | (v[64] & 3) << 4 | (v[96] & 3) << 6);
        }
    }
}

/* Four bits of each level, groups of 32 in pairs, at q[128]. */
static void pack4(const uint8_t *level, uint8_t *q)
{
    for (size_t p = 0; p < 4; p++) {
        for (size_t l = 0; l < 32; l++) {
            q[32 * p + l] = (uint8_t)((level[64 * p + l] & 15) | (level[64 * p + 32 + l] & 15) << 4);
        }
    }
}

/* One bit of each level: bit g of h[l] is bit `bit` of level 32 g + l. */
static void pack1(const uint8_t *level, unsigned bit, uint8_t h[32])
{
    for (size_t l = 0; l < 32; l++) {
        unsigned v = 0;
        for (size_t g = 0; g < 8; g++) {
            v |= (level[32 * g + l] >> bit & 1u) << g;
        }
        h[l] = (uint8_t)v;
    }
}

/* The twelve bytes of Q4_K's and Q5_K's scales: the inverse of ew_q4_k_scale and ew_q4_k_min. */
static void pack_scales4(const uint8_t s[8], const uint8_t m[8], uint8_t scales[12])
{
    for (size_t g = 0; g < 4; g++) {
        scales[g] = (uint8_t)(s[g] | (s[g + 4] >> 4) << 6);
        scales[g + 4] = (uint8_t)(m[g] | (m[g + 4] >> 4) << 6);
        scales[g + 8] = (uint8_t)((s[g + 4] & 15) | (m[g + 4] & 15) << 4);
    }
}

/* The inverse of ew_q3_k_scale; s[g] is 0..63. */
static void pack_scales3(const uint8_t s[16], uint8_t scales[12])
{
    for (size_t g = 0; g < 8; g++) {
        scales[g] = (uint8_t)((s[g] & 15) | (s[g + 8] & 15) << 4);
    }
    for (size_t g = 0; g < 4; g++) {
        scales[8 + g] = (uint8_t)((s[g] >> 4) | (s[g + 4] >> 4) << 2 | (s[g + 8] >> 4) << 4 | (s[g + 12] >> 4) << 6);
    }
}

/* ---- from numbers ---- */

/* Levels of one group once its scale and minimum are rounded. A scale of 0 leaves what the search had. */
static void settle_group(const float *x, size_t n, float d, float dm, int32_t lo, int32_t hi, uint8_t *level)
{
    if (d == 0.0f) {
        return;
    }
    for (size_t l = 0; l < n; l++) {
        level[l] = (uint8_t)(ew__clamp(ew__nearest((x[l] + dm) / d), lo, hi) - lo);
    }
}

/* Never below 0. */
static float largest(const float *a, size_t n)
{
    float r = 0.0f;
    for (size_t i = 0; i < n; i++) {
        r = a[i] > r ? a[i] : r;
    }
    return r;
}

void ew__quant_q2_k(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q2_k *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK], scale[16], min[16];
        uint8_t level[EW_QK];
        ew__search_copy(src, x);
        ew__search_q2(x, scale, min, level);
        float max_scale = largest(scale, 16), max_min = largest(min, 16);
        float is = max_scale > 0.0f ? 15.0f / max_scale : 0.0f, im = max_min > 0.0f ? 15.0f / max_min : 0.0f;
        b[i].d = ew_f32_to_f16(max_scale / 15.0f);
        b[i].dmin = ew_f32_to_f16(max_min / 15.0f);
        float d = ew_f16_to_f32(b[i].d), dmin = ew_f16_to_f32(b[i].dmin);
        for (size_t g = 0; g < 16; g++) {
            int32_t s = ew__clamp(ew__nearest(is * scale[g]), 0, 15), m = ew__clamp(ew__nearest(im * min[g]), 0, 15);
            b[i].scales[g] = (uint8_t)(s | m << 4);
            settle_group(x + 16 * g, 16, d * (float)s, dmin * (float)m, 0, 3, level + 16 * g);
        }
        pack2(level, b[i].q);
    }
}

/* What Q4_K and Q5_K share: scales, minima and levels of a block. */
static void quant_affine(const float *x, int32_t top, uint16_t *d16, uint16_t *dmin16, uint8_t scales[12],
                         uint8_t *level)
{
    float scale[8], min[8];
    uint8_t s[8], m[8];
    ew__search_q45(x, top, scale, min, level);
    float max_scale = largest(scale, 8), max_min = largest(min, 8);
    float is = max_scale > 0.0f ? 63.0f / max_scale : 0.0f, im = max_min > 0.0f ? 63.0f / max_min : 0.0f;
    *d16 = ew_f32_to_f16(max_scale / 63.0f);
    *dmin16 = ew_f32_to_f16(max_min / 63.0f);
    float d = ew_f16_to_f32(*d16), dmin = ew_f16_to_f32(*dmin16);
    for (size_t g = 0; g < 8; g++) {
        s[g] = (uint8_t)ew__clamp(ew__nearest(is * scale[g]), 0, 63);
        m[g] = (uint8_t)ew__clamp(ew__nearest(im * min[g]), 0, 63);
        settle_group(x + 32 * g, 32, d * (float)s[g], dmin * (float)m[g], 0, top, level + 32 * g);
    }
    pack_scales4(s, m, scales);
}

void ew__quant_q4_k(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q4_k *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK];
        uint8_t level[EW_QK];
        ew__search_copy(src, x);
        quant_affine(x, 15, &b[i].d, &b[i].dmin, b[i].scales, level);
        pack4(level, b[i].q);
    }
}

void ew__quant_q5_k(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q5_k *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK];
        uint8_t level[EW_QK];
        ew__search_copy(src, x);
        quant_affine(x, 31, &b[i].d, &b[i].dmin, b[i].scales, level);
        pack4(level, b[i].q);
        pack1(level, 4, b[i].h);
    }
}

/* The scale of largest magnitude with its sign, the first of equals. */
static float extreme_scale(const float scale[16])
{
    float amax = 0.0f, extreme = 0.0f;
    for (size_t g = 0; g < 16; g++) {
        if (fabsf(scale[g]) > amax) {
            amax = fabsf(scale[g]);
            extreme = scale[g];
        }
    }
    return extreme;
}

void ew__quant_q3_k(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q3_k *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK], scale[16];
        uint8_t level[EW_QK], s[16];
        ew__search_copy(src, x);
        ew__search_q3(x, scale, level);
        float extreme = extreme_scale(scale);
        float is = extreme != 0.0f ? -32.0f / extreme : 0.0f;
        b[i].d = extreme != 0.0f ? ew_f32_to_f16(1.0f / is) : 0;
        float d = ew_f16_to_f32(b[i].d);
        for (size_t g = 0; g < 16; g++) {
            /* Without any scale the bits stay 0, which reads as -32. */
            int32_t v = extreme != 0.0f ? ew__clamp(ew__nearest(is * scale[g]), -32, 31) : -32;
            s[g] = (uint8_t)(v + 32);
            settle_group(x + 16 * g, 16, d * (float)v, 0.0f, -4, 3, level + 16 * g);
        }
        pack_scales3(s, b[i].scales);
        pack2(level, b[i].q);
        pack1(level, 2, b[i].h);
    }
}

static void pack6(const uint8_t *level, ew_block_q6_k *b)
{
    for (size_t n = 0; n < 2; n++) {
        for (size_t l = 0; l < 32; l++) {
            const uint8_t *v = level + 128 * n + l;
            b->q[64 * n + l] = (uint8_t)((v[0] & 15) | (v[64] & 15) << 4);
            b->q[64 * n + 32 + l] = (uint8_t)((v[32] & 15) | (v[96] & 15) << 4);
            b->h[32 * n + l] = (uint8_t)(v[0] >> 4 | v[32] >> 4 << 2 | v[64] >> 4 << 4 | v[96] >> 4 << 6);
        }
    }
}

void ew__quant_q6_k(const float *src, void *dst, size_t n_blocks)
{
    ew_block_q6_k *b = dst;
    for (size_t i = 0; i < n_blocks; i++, src += EW_QK) {
        float x[EW_QK], scale[16];
        uint8_t level[EW_QK];
        ew__search_copy(src, x);
        ew__search_q6(x, scale, level);
        float extreme = extreme_scale(scale);
        if (fabsf(extreme) < EW_GROUP_EPS) {
            memset(&b[i], 0, sizeof(b[i]));
            continue;
        }
        float is = -128.0f / extreme;
        b[i].d = ew_f32_to_f16(1.0f / is);
        float d = ew_f16_to_f32(b[i].d);
        for (size_t g = 0; g < 16; g++) {
            b[i].scales[g] = (int8_t)ew__clamp(ew__nearest(is * scale[g]), -128, 127);
            settle_group(x + 16 * g, 16, d * (float)b[i].scales[g], 0.0f, -32, 31, level + 16 * g);
        }
        pack6(level, &b[i]);
    }
}

/* What the products know of the quantised types: the form of each, and its blocks of 32 as integers, scales and minima. */
#include <math.h>
#include <string.h>

#include "kern/kern_int.h"

static const struct {
    ew_dtype type;
    ew_q_form form;
} forms[] = {
    /* clang-format off */
    {EW_DTYPE_Q4_0,   {1, false, 4, -8}},
    {EW_DTYPE_Q4_1,   {1, true,  4, 0}},
    {EW_DTYPE_Q5_0,   {1, false, 5, -16}},
    {EW_DTYPE_Q5_1,   {1, true,  5, 0}},
    {EW_DTYPE_Q8_0,   {1, false, 8, -128}},
    {EW_DTYPE_Q2_K,   {2, true,  2, 0}},
    {EW_DTYPE_Q3_K,   {2, false, 3, -4}},
    {EW_DTYPE_Q4_K,   {1, true,  4, 0}},
    {EW_DTYPE_Q5_K,   {1, true,  5, 0}},
    {EW_DTYPE_Q6_K,   {2, false, 6, -32}},
    {EW_DTYPE_IQ4_NL, {1, false, 8, -128}},
    {EW_DTYPE_IQ4_XS, {1, false, 8, -128}},
    /* clang-format on */
};

const ew_q_form *ew__q_form(ew_dtype t)
{
    const ew_q_form *f = NULL;
    for (size_t i = 0; i < EW_COUNT(forms); i++) {
        f = forms[i].type == t ? &forms[i].form : f;
    }
    EW_ASSERT(f != NULL);
    return f;
}

static uint16_t half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return h;
}

static float f16_at(const uint8_t *p)
{
    return ew_f16_to_f32(half_at(p));
}

static void set2(float v[2], float a)
{
    v[0] = v[1] = a;
}

/* The 32-element types. m is already as given by the caller's zero. */
static void block_32(ew_dtype t, const uint8_t *p, int8_t q[32], float s[2], float m[2])
{
    set2(s, f16_at(p));
    if (t == EW_DTYPE_Q8_0) {
        memcpy(q, p + offsetof(ew_block_q8_0, q), 32);
        return;
    }
    bool five = t == EW_DTYPE_Q5_0 || t == EW_DTYPE_Q5_1, min = t == EW_DTYPE_Q4_1 || t == EW_DTYPE_Q5_1;
    if (min) {
        set2(m, -f16_at(p + 2));
    }
    const uint8_t *h = p + (min ? 4 : 2), *n = five ? h + 4 : h;
    int lo = ew__q_form(t)->lo;
    for (size_t i = 0; i < 32; i++) {
        unsigned v = ew_nibble32(n, i);
        v |= five ? ((unsigned)(h[i / 8] >> (i % 8)) & 1u) << 4 : 0u;
        q[i] = t == EW_DTYPE_IQ4_NL ? ew_iq4_levels[v] : (int8_t)((int)v + lo);
    }
}

static void block_q2_k(const ew_block_q2_k *k, size_t g, int8_t q[32], float s[2], float m[2])
{
    float d = ew_f16_to_f32(k->d), dmin = ew_f16_to_f32(k->dmin);
    for (size_t i = 0; i < 2; i++) {
        s[i] = d * (float)(k->scales[2 * g + i] & 15);
        m[i] = dmin * (float)(k->scales[2 * g + i] >> 4);
    }
    for (size_t i = 0; i < 32; i++) {
        q[i] = (int8_t)((k->q[32 * (g / 4) + i] >> (2 * (g % 4))) & 3);
    }
}

static void block_q3_k(const ew_block_q3_k *k, size_t g, int8_t q[32], float s[2])
{
    float d = ew_f16_to_f32(k->d);
    for (size_t i = 0; i < 2; i++) {
        s[i] = d * (float)ew_q3_k_scale(k->scales, 2 * g + i);
    }
    for (size_t i = 0; i < 32; i++) {
        int low = (k->q[32 * (g / 4) + i] >> (2 * (g % 4))) & 3, high = (k->h[i] >> g) & 1;
        q[i] = (int8_t)(low + 4 * high - 4);
    }
}

static void block_q6_k(const ew_block_q6_k *k, size_t g, int8_t q[32], float s[2])
{
    float d = ew_f16_to_f32(k->d);
    for (size_t i = 0; i < 2; i++) {
        s[i] = d * (float)k->scales[2 * g + i];
    }
    size_t n = g / 4, j = g % 4;
    for (size_t i = 0; i < 32; i++) {
        unsigned low = (k->q[64 * n + 32 * (j & 1) + i] >> (j < 2 ? 0 : 4)) & 15u;
        unsigned high = (k->h[32 * n + i] >> (2 * j)) & 3u;
        q[i] = (int8_t)((int)(low | high << 4) - 32);
    }
}

/* Q4_K (h NULL) and Q5_K. */
static void block_q45_k(const uint8_t *p, const uint8_t *h, const uint8_t *n, size_t g, int8_t q[32], float s[2],
                        float m[2])
{
    const uint8_t *scales = p + 4;
    set2(s, f16_at(p) * (float)ew_q4_k_scale(scales, g));
    set2(m, f16_at(p + 2) * (float)ew_q4_k_min(scales, g));
    for (size_t i = 0; i < 32; i++) {
        unsigned v = (unsigned)(n[32 * (g / 2) + i] >> (4 * (g % 2))) & 15u;
        v |= h != NULL ? ((h[i] >> g) & 1u) << 4 : 0;
        q[i] = (int8_t)v;
    }
}

static void block_iq4_xs(const ew_block_iq4_xs *k, size_t g, int8_t q[32], float s[2])
{
    set2(s, ew_f16_to_f32(k->d) * (float)ew_iq4_xs_scale(k->scales_h, k->scales_l, g));
    for (size_t i = 0; i < 32; i++) {
        q[i] = ew_iq4_levels[ew_nibble32(k->q + 16 * g, i)];
    }
}

void ew__q_block(ew_dtype t, const uint8_t *row, size_t b, int8_t q[32], float s[2], float m[2])
{
    const ew_dtype_info *info = ew_dtype_get(t);
    const uint8_t *p = row + b / (info->block_elems / 32) * info->block_bytes;
    size_t g = b % (info->block_elems / 32);
    set2(m, 0.0f);
    switch (t) {
    case EW_DTYPE_Q2_K:
        block_q2_k((const void *)p, g, q, s, m);
        break;
    case EW_DTYPE_Q3_K:
        block_q3_k((const void *)p, g, q, s);
        break;
    case EW_DTYPE_Q4_K:
        block_q45_k(p, NULL, p + offsetof(ew_block_q4_k, q), g, q, s, m);
        break;
    case EW_DTYPE_Q5_K:
        block_q45_k(p, p + offsetof(ew_block_q5_k, h), p + offsetof(ew_block_q5_k, q), g, q, s, m);
        break;
    case EW_DTYPE_Q6_K:
        block_q6_k((const void *)p, g, q, s);
        break;
    case EW_DTYPE_IQ4_XS:
        block_iq4_xs((const void *)p, g, q, s);
        break;
    default:
        block_32(t, p, q, s, m);
        break;
    }
}

/* ---- the reference ---- */

static int8_t q_level(float x)
{
    float r = x == x ? rintf(x) : 0.0f;
    return (int8_t)(r > 127.0f ? 127.0f : r < -127.0f ? -127.0f : r);
}

/* Magnitudes are ordered as their bits are, with NaN above all numbers. */
static float top_of_32(const float x[32])
{
    uint32_t top = 0;
    for (size_t i = 0; i < 32; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        top = EW_MAX(top, bits & 0x7fffffffu);
    }
    float r;
    memcpy(&r, &top, sizeof(r));
    return r;
}

static void quant_x_ref(const float *x, const ew_xq *dst)
{
    for (size_t b = 0; b < dst->C / 32; b++, x += 32) {
        float top = top_of_32(x);
        float d = top / 127.0f, id = top > EW_XQ_TINY ? 127.0f / top : 0.0f;
        int32_t sum[2] = {0, 0};
        for (size_t i = 0; i < 32; i++) {
            int8_t q = q_level(x[i] * id);
            dst->q[32 * b + i] = q;
            sum[i / 16] += q;
        }
        dst->d[b] = d;
        dst->c32[b] = -128 * (sum[0] + sum[1]);
        dst->m32[b] = d * (float)(sum[0] + sum[1]);
        for (size_t g = 0; g < 2; g++) {
            dst->c16[2 * b + g] = -128 * sum[g];
            dst->m16[2 * b + g] = d * (float)sum[g];
        }
    }
}

static double dot_block(const int8_t q[32], const float s[2], const float m[2], const int8_t *x)
{
    double sum = 0.0;
    for (size_t g = 0; g < 2; g++) {
        int32_t dot = 0, total = 0;
        for (size_t i = 16 * g; i < 16 * g + 16; i++) {
            dot += q[i] * x[i];
            total += x[i];
        }
        sum += (double)s[g] * dot - (double)m[g] * total;
    }
    return sum;
}

/* Weights are unpacked once for so many tokens. */
#define REF_TOKENS 16

static void dot_ref(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                    size_t ldy)
{
    size_t nb = x->C / 32;
    for (size_t r = 0; r < rows; r++, w += row_bytes) {
        for (size_t t0 = 0; t0 < T; t0 += REF_TOKENS) {
            size_t n = EW_MIN((size_t)REF_TOKENS, T - t0);
            double sum[REF_TOKENS] = {0};
            for (size_t b = 0; b < nb; b++) {
                int8_t q[32];
                float s[2], m[2];
                ew__q_block(t, w, b, q, s, m);
                for (size_t i = 0; i < n; i++) {
                    double d = (double)x->d[(t0 + i) * nb + b];
                    sum[i] += d * dot_block(q, s, m, x->q + (t0 + i) * x->C + 32 * b);
                }
            }
            for (size_t i = 0; i < n; i++) {
                y[(t0 + i) * ldy + r] = (float)sum[i];
            }
        }
    }
}

const ew_qkern ew__qkern_ref = {.quant_x = quant_x_ref, .dot = dot_ref, .dot_tokens = SIZE_MAX};

/* Blocks of every quantised type as steps of 256 elements for AVX2: eight vectors of 32 codes in their natural order, and the
 * scales and minima of the groups. An element is (code - off) * s - m; codes of up to six bits are unsigned, those of eight signed. */
#ifndef EW_KERN_QLOAD_AVX2_H
#define EW_KERN_QLOAD_AVX2_H

#include <string.h>

#include "kern/kern_int.h"
#include "kern/load_x86.h"

#define UNROLL _Pragma("GCC unroll 8")

typedef struct step {
    __m256i q[8];
    __m256 s[2], m[2]; /* of 8 groups (the first) or 16; m only for types with minima */
} step;

/* Fills a step from the blocks at p, and reads nothing else. */
typedef void (*load_fn)(const uint8_t *p, step *o);

typedef struct step_type {
    load_fn load;
    int groups; /* of a block of 32 */
    bool min, is_signed;
    float off;    /* codes are q + off */
    size_t bytes; /* of a step */
} step_type;

/* f16 at eight places `stride` apart. */
INLINE __m256 halves(const uint8_t *p, size_t stride)
{
    return _mm256_cvtph_ps(_mm_setr_epi16(half_at(p), half_at(p + stride), half_at(p + 2 * stride),
                                          half_at(p + 3 * stride), half_at(p + 4 * stride), half_at(p + 5 * stride),
                                          half_at(p + 6 * stride), half_at(p + 7 * stride)));
}

INLINE __m256 half_all(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_set1_epi16(half_at(p)));
}

INLINE __m256i and8(__m256i v, char mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(mask));
}

/* 16 bytes of nibbles: 32 codes. */
INLINE __m256i nibbles(const uint8_t *p)
{
    __m128i v = load16(p);
    return and8(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), 15);
}

/* Adds `value` to the codes whose bit k in h is set. */
INLINE __m256i add_bit(__m256i q, __m256i h, int k, char value)
{
    __m256i bit = _mm256_set1_epi8((char)(1 << k));
    return _mm256_add_epi8(q, and8(_mm256_cmpeq_epi8(_mm256_and_si256(h, bit), bit), value));
}

INLINE __m256i levels(__m256i index)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_setr_epi8(EW_IQ4_LEVELS)), index);
}

INLINE void load_q4_0(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 18);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = nibbles(p + 18 * i + 2);
    }
}

INLINE void load_iq4_nl(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 18);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = levels(nibbles(p + 18 * i + 2));
    }
}

INLINE void load_q4_1(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 20);
    o->m[0] = _mm256_sub_ps(_mm256_setzero_ps(), halves(p + 2, 20));
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = nibbles(p + 20 * i + 4);
    }
}

/* The fifth bits at h: bit i of 32 goes to code i. */
INLINE __m256i nibbles_5(const uint8_t *h)
{
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bits = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)u32_at(h)), spread);
    v = _mm256_cmpeq_epi8(_mm256_and_si256(v, bits), bits);
    return _mm256_or_si256(nibbles(h + 4), and8(v, 16));
}

INLINE void load_q5_0(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 22);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = nibbles_5(p + 22 * i + 2);
    }
}

INLINE void load_q5_1(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 24);
    o->m[0] = _mm256_sub_ps(_mm256_setzero_ps(), halves(p + 2, 24));
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = nibbles_5(p + 24 * i + 4);
    }
}

INLINE void load_q8_0(const uint8_t *p, step *o)
{
    o->s[0] = halves(p, 34);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = load32(p + 34 * i + 2);
    }
}

INLINE __m256 bytes_8(uint64_t v)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)v)));
}

INLINE void load_k45_scales(const uint8_t *p, step *o)
{
    uint32_t a = u32_at(p + 4), b = u32_at(p + 8), c = u32_at(p + 12);
    uint64_t s = (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u), m = ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u);
    o->s[0] = _mm256_mul_ps(half_all(p), bytes_8(s << 32 | (a & 0x3f3f3f3fu)));
    o->m[0] = _mm256_mul_ps(half_all(p + 2), bytes_8(m << 32 | (b & 0x3f3f3f3fu)));
}

INLINE void load_q4_k(const uint8_t *p, step *o)
{
    load_k45_scales(p, o);
    UNROLL for (int i = 0; i < 4; i++)
    {
        __m256i v = load32(p + 16 + 32 * i);
        o->q[2 * i] = and8(v, 15);
        o->q[2 * i + 1] = and8(_mm256_srli_epi16(v, 4), 15);
    }
}

INLINE void load_q5_k(const uint8_t *p, step *o)
{
    load_k45_scales(p, o);
    __m256i h = load32(p + 16);
    UNROLL for (int i = 0; i < 4; i++)
    {
        __m256i v = load32(p + 48 + 32 * i);
        o->q[2 * i] = add_bit(and8(v, 15), h, 2 * i, 16);
        o->q[2 * i + 1] = add_bit(and8(_mm256_srli_epi16(v, 4), 15), h, 2 * i + 1, 16);
    }
}

/* Sixteen bytes as two vectors of floats times d. */
INLINE void signed_16(__m128i v, __m256 d, __m256 o[2])
{
    o[0] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)));
    o[1] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}

INLINE void load_q6_k(const uint8_t *p, step *o)
{
    signed_16(load16(p + 192), half_all(p + 208), o->s);
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m256i a = load32(p + 64 * n), b = load32(p + 64 * n + 32), h = load32(p + 128 + 32 * n);
        __m256i *q = o->q + 4 * n;
        q[0] = _mm256_or_si256(and8(a, 15), and8(_mm256_slli_epi16(h, 4), 0x30));
        q[1] = _mm256_or_si256(and8(b, 15), and8(_mm256_slli_epi16(h, 2), 0x30));
        q[2] = _mm256_or_si256(and8(_mm256_srli_epi16(a, 4), 15), and8(h, 0x30));
        q[3] = _mm256_or_si256(and8(_mm256_srli_epi16(b, 4), 15), and8(_mm256_srli_epi16(h, 2), 0x30));
    }
}

INLINE void load_q2_k(const uint8_t *p, step *o)
{
    __m128i sc = load16(p), low = _mm_set1_epi8(15);
    signed_16(_mm_and_si128(sc, low), half_all(p + 80), o->s);
    signed_16(_mm_and_si128(_mm_srli_epi16(sc, 4), low), half_all(p + 82), o->m);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = and8(_mm256_srli_epi16(load32(p + 16 + i / 4 * 32), i % 4 * 2), 3);
    }
}

INLINE void load_q3_k(const uint8_t *p, step *o)
{
    const uint32_t low = 0x0f0f0f0fu, two = 0x30303030u;
    uint32_t a = u32_at(p + 96), b = u32_at(p + 100), c = u32_at(p + 104);
    __m128i v = _mm_setr_epi32((int)((a & low) | ((c << 4) & two)), (int)((b & low) | ((c << 2) & two)),
                               (int)(((a >> 4) & low) | (c & two)), (int)(((b >> 4) & low) | ((c >> 2) & two)));
    signed_16(_mm_sub_epi8(v, _mm_set1_epi8(32)), half_all(p + 108), o->s);
    __m256i h = load32(p);
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = add_bit(and8(_mm256_srli_epi16(load32(p + 32 + i / 4 * 32), i % 4 * 2), 3), h, i, 4);
    }
}

INLINE void load_iq4_xs(const uint8_t *p, step *o)
{
    const __m256i at = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28),
                  at2 = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)u32_at(p + 4)), at);
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32((uint16_t)half_at(p + 2)), at2);
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
    __m256i s = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    o->s[0] = _mm256_mul_ps(half_all(p), _mm256_cvtepi32_ps(s));
    UNROLL for (int i = 0; i < 8; i++)
    {
        o->q[i] = levels(nibbles(p + 8 + 16 * i));
    }
}

/* The last n < 8 blocks of a row. Nothing from `end` on may be read; the blocks behind are masked afterwards. */
INLINE void load_last(const step_type d, const uint8_t *w, size_t n, const uint8_t *end, step *o)
{
    uint8_t copy[8 * 34];
    if (EW_UNLIKELY((size_t)(end - w) < d.bytes)) {
        memset(copy, 0, sizeof(copy));
        memcpy(copy, w, n * (d.bytes / 8));
        w = copy;
    }
    d.load(w, o);
}

/* EACH_STEP_TYPE(X): X(name, loader and what its codes are) for every type. */
#define EACH_STEP_TYPE(X)                                                                                              \
    X(q4_0, EW_DTYPE_Q4_0, load_q4_0, 1, false, false, 8.0f, 8 * 18)                                                   \
    X(q4_1, EW_DTYPE_Q4_1, load_q4_1, 1, true, false, 0.0f, 8 * 20)                                                    \
    X(q5_0, EW_DTYPE_Q5_0, load_q5_0, 1, false, false, 16.0f, 8 * 22)                                                  \
    X(q5_1, EW_DTYPE_Q5_1, load_q5_1, 1, true, false, 0.0f, 8 * 24)                                                    \
    X(q8_0, EW_DTYPE_Q8_0, load_q8_0, 1, false, true, 0.0f, 8 * 34)                                                    \
    X(iq4_nl, EW_DTYPE_IQ4_NL, load_iq4_nl, 1, false, true, 0.0f, 8 * 18)                                              \
    X(q2_k, EW_DTYPE_Q2_K, load_q2_k, 2, true, false, 0.0f, 84)                                                        \
    X(q3_k, EW_DTYPE_Q3_K, load_q3_k, 2, false, false, 4.0f, 110)                                                      \
    X(q4_k, EW_DTYPE_Q4_K, load_q4_k, 1, true, false, 0.0f, 144)                                                       \
    X(q5_k, EW_DTYPE_Q5_K, load_q5_k, 1, true, false, 0.0f, 176)                                                       \
    X(q6_k, EW_DTYPE_Q6_K, load_q6_k, 2, false, false, 32.0f, 210)                                                     \
    X(iq4_xs, EW_DTYPE_IQ4_XS, load_iq4_xs, 1, false, true, 0.0f, 136)

#endif

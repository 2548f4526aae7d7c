/* Rows of quantised weights against few tokens, straight from the file's blocks, with AVX-512 VNNI.
 *
 * A step is 256 elements of a row: four vectors of 64 unsigned codes, and the scales (and minima) of the step's groups. vpdpbusd
 * leaves one sum per lane of four elements; lanes are scaled in f32 and added up only at the end of the row. What the bias of the
 * codes or the minima add is one product of the groups' scales with the sums of activations (m32, m16). Two orders of the codes:
 *   natural     a vector is two whole blocks of 32: each vector has scales of its own, permuted out of the step's eight or sixteen;
 *   transposed  a vector has eight elements of each of the eight blocks (against p of the activations, qmul_avx512.c): the four
 *               sums add up as integers, and one vector of scales, each twice, does for the step. For the types of which the
 *               blocks can be permuted cheaply. */
#include <string.h>

#include "kern/kern_int.h"
#include "kern/load_x86.h"

#define UNROLL _Pragma("GCC unroll 8")
#define MOST 8 /* tokens that a row meets at once */

typedef struct step {
    __m512i q[4];
    __m512 s, m; /* 8 (low half) or 16 groups, transposed: 8 twice each; m only for types with minima */
} step;

/* Fills a step from the blocks at p, and reads nothing else. */
typedef void (*load_fn)(const uint8_t *p, step *o);

/* In two halves: a load that crosses lines and finds neither in the cache holds up the others (measured: half the bandwidth). */
INLINE __m512i load64(const uint8_t *p)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(load32(p)), load32(p + 32), 1);
}

INLINE __m512 low8(__m256 v)
{
    return _mm512_zextps256_ps512(v);
}

/* f16 at eight places `stride` apart. */
INLINE __m512 halves(const uint8_t *p, size_t stride)
{
    __m128i h = _mm_setr_epi16(half_at(p), half_at(p + stride), half_at(p + 2 * stride), half_at(p + 3 * stride),
                               half_at(p + 4 * stride), half_at(p + 5 * stride), half_at(p + 6 * stride),
                               half_at(p + 7 * stride));
    return low8(_mm256_cvtph_ps(h));
}

INLINE __m512 half_all(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_set1_epi16(half_at(p)));
}

/* 16 bytes of nibbles at a and at b: 32 codes each. */
INLINE __m512i nibbles_2(const uint8_t *a, const uint8_t *b)
{
    __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_broadcastsi128_si256(load16(a))),
                                   _mm256_broadcastsi128_si256(load16(b)), 1);
    const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    return _mm512_and_si512(_mm512_srlv_epi64(v, shift), _mm512_set1_epi8(15));
}

/* 32 bytes twice: the low halves of the shifts for the first 32 codes, the high ones for the second. */
INLINE __m512i twice_shifted(__m256i v, int first, int second, char mask)
{
    const __m512i shift = _mm512_inserti64x4(_mm512_set1_epi64(first), _mm256_set1_epi64x(second), 1);
    return _mm512_and_si512(_mm512_srlv_epi64(_mm512_broadcast_i64x4(v), shift), _mm512_set1_epi8(mask));
}

/* Adds `value` to the codes whose bit in h is set: bit `first` for the first 32, `second` for the rest. */
INLINE __m512i add_bits(__m512i q, __m512i h, int first, int second, char value)
{
    const __m512i bits =
        _mm512_inserti64x4(_mm512_set1_epi8((char)(1 << first)), _mm256_set1_epi8((char)(1 << second)), 1);
    return _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(h, bits), q, _mm512_set1_epi8(value));
}

INLINE __m512i levels(__m512i index)
{
    const __m512i table =
        _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_setr_epi8(EW_IQ4_LEVELS)), _mm512_set1_epi8((char)0x80));
    return _mm512_shuffle_epi8(table, index);
}

/* 16 bytes at p and three times `stride` on. */
INLINE __m512i four(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_castsi128_si512(load16(p));
    v = _mm512_inserti32x4(v, load16(p + stride), 1);
    v = _mm512_inserti32x4(v, load16(p + 2 * stride), 2);
    return _mm512_inserti32x4(v, load16(p + 3 * stride), 3);
}

INLINE void load_q4_0(const uint8_t *p, step *o)
{
    const __m512i index =
        _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 9, 9, 18, 18, 27, 27, 36, 36, 45, 45, 54, 54, 63, 63));
    __m512i h = _mm512_permutex2var_epi16(_mm512_loadu_si512(p), index, _mm512_loadu_si512(p + 64));
    o->s = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
    __m512i z0 = four(p + 2, 18), z1 = four(p + 74, 18);
    __m512i a = _mm512_permutex2var_epi64(z0, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), z1);
    __m512i b = _mm512_permutex2var_epi64(z0, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), z1);
    const __m512i low = _mm512_set1_epi8(15);
    o->q[0] = _mm512_and_si512(a, low);
    o->q[1] = _mm512_and_si512(b, low);
    o->q[2] = _mm512_and_si512(_mm512_srli_epi16(a, 4), low);
    o->q[3] = _mm512_and_si512(_mm512_srli_epi16(b, 4), low);
}

INLINE void load_iq4_nl(const uint8_t *p, step *o)
{
    load_q4_0(p, o);
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = levels(o->q[i]);
    }
}

INLINE void load_q4_1(const uint8_t *p, step *o)
{
    o->s = halves(p, 20);
    o->m = _mm512_sub_ps(_mm512_setzero_ps(), halves(p + 2, 20));
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = nibbles_2(p + 40 * i + 4, p + 40 * i + 24);
    }
}

/* The fifth bits of two blocks are a mask of 64 codes. */
INLINE __m512i nibbles_5(const uint8_t *h0, const uint8_t *h1)
{
    __mmask64 k = (uint64_t)u32_at(h0) | (uint64_t)u32_at(h1) << 32;
    __m512i q = nibbles_2(h0 + 4, h1 + 4);
    return _mm512_mask_add_epi8(q, k, q, _mm512_set1_epi8(16));
}

INLINE void load_q5_0(const uint8_t *p, step *o)
{
    o->s = halves(p, 22);
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = nibbles_5(p + 44 * i + 2, p + 44 * i + 24);
    }
}

INLINE void load_q5_1(const uint8_t *p, step *o)
{
    o->s = halves(p, 24);
    o->m = _mm512_sub_ps(_mm512_setzero_ps(), halves(p + 2, 24));
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = nibbles_5(p + 48 * i + 4, p + 48 * i + 28);
    }
}

INLINE void load_q8_0(const uint8_t *p, step *o)
{
    o->s = halves(p, 34);
    UNROLL for (int i = 0; i < 4; i++)
    {
        __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(load32(p + 68 * i + 2)), load32(p + 68 * i + 36), 1);
        o->q[i] = _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
    }
}

/* Eight bytes, each twice, as floats. */
INLINE __m512 bytes_8(uint64_t v)
{
    __m128i b = _mm_cvtsi64_si128((long long)v);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(b, b)));
}

INLINE void load_k45_scales(const uint8_t *p, step *o)
{
    uint32_t a = u32_at(p + 4), b = u32_at(p + 8), c = u32_at(p + 12);
    uint64_t s = (c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u), m = ((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u);
    o->s = _mm512_mul_ps(half_all(p), bytes_8(s << 32 | (a & 0x3f3f3f3fu)));
    o->m = _mm512_mul_ps(half_all(p + 2), bytes_8(m << 32 | (b & 0x3f3f3f3fu)));
}

/* 128 bytes of nibbles, four times 32 low ones and 32 high ones: the i-th eight of the eight blocks. */
INLINE __m512i eighths_k(__m512i a, __m512i b, int i)
{
    const __m512i index = _mm512_setr_epi64(i, i, 4 + i, 4 + i, 8 + i, 8 + i, 12 + i, 12 + i);
    const __m512i shift = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    __m512i v = _mm512_srlv_epi64(_mm512_permutex2var_epi64(a, index, b), shift);
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

INLINE void load_q4_k(const uint8_t *p, step *o)
{
    load_k45_scales(p, o);
    __m512i a = load64(p + 16), b = load64(p + 80);
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = eighths_k(a, b, i);
    }
}

INLINE void load_q5_k(const uint8_t *p, step *o)
{
    load_k45_scales(p, o);
    const __m512i bits =
        _mm512_setr_epi64(0x0101010101010101, 0x0202020202020202, 0x0404040404040404, 0x0808080808080808,
                          0x1010101010101010, 0x2020202020202020, 0x4040404040404040, (long long)0x8080808080808080u);
    __m512i a = load64(p + 48), b = load64(p + 112);
    UNROLL for (int i = 0; i < 4; i++)
    {
        long long h;
        memcpy(&h, p + 16 + 8 * i, sizeof(h));
        __m512i q = eighths_k(a, b, i);
        o->q[i] = _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(_mm512_set1_epi64(h), bits), q, _mm512_set1_epi8(16));
    }
}

INLINE void load_q6_k(const uint8_t *p, step *o)
{
    o->s = _mm512_mul_ps(half_all(p + 208), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p + 192))));
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(3);
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m512i q = load64(p + 64 * n);
        __m512i h = _mm512_broadcast_i64x4(load32(p + 128 + 32 * n));
        const __m512i s0 = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2), s1 = _mm512_setr_epi64(4, 4, 4, 4, 6, 6, 6, 6);
        __m512i h0 = _mm512_slli_epi16(_mm512_and_si512(_mm512_srlv_epi64(h, s0), two), 4);
        __m512i h1 = _mm512_slli_epi16(_mm512_and_si512(_mm512_srlv_epi64(h, s1), two), 4);
        o->q[2 * n] = _mm512_or_si512(_mm512_and_si512(q, low), h0);
        o->q[2 * n + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(q, 4), low), h1);
    }
}

INLINE void load_q2_k(const uint8_t *p, step *o)
{
    __m128i sc = load16(p), low = _mm_set1_epi8(15);
    __m128i s = _mm_and_si128(sc, low), m = _mm_and_si128(_mm_srli_epi16(sc, 4), low);
    o->s = _mm512_mul_ps(half_all(p + 80), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s)));
    o->m = _mm512_mul_ps(half_all(p + 82), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(m)));
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m256i q = load32(p + 16 + 32 * n);
        o->q[2 * n] = twice_shifted(q, 0, 2, 3);
        o->q[2 * n + 1] = twice_shifted(q, 4, 6, 3);
    }
}

INLINE __m512 q3_k_scales(const uint8_t *p)
{
    uint32_t a = u32_at(p), b = u32_at(p + 4), c = u32_at(p + 8);
    const uint32_t low = 0x0f0f0f0fu, two = 0x30303030u;
    __m128i v = _mm_setr_epi32((int)((a & low) | ((c << 4) & two)), (int)((b & low) | ((c << 2) & two)),
                               (int)(((a >> 4) & low) | (c & two)), (int)(((b >> 4) & low) | ((c >> 2) & two)));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_sub_epi8(v, _mm_set1_epi8(32))));
}

INLINE void load_q3_k(const uint8_t *p, step *o)
{
    o->s = _mm512_mul_ps(half_all(p + 108), q3_k_scales(p + 96));
    __m512i h = _mm512_broadcast_i64x4(load32(p));
    UNROLL for (int i = 0; i < 4; i++)
    {
        int j = i % 2 * 4;
        __m512i q = twice_shifted(load32(p + 32 + i / 2 * 32), j, j + 2, 3);
        o->q[i] = add_bits(q, h, 2 * i, 2 * i + 1, 4);
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
    o->s = _mm512_mul_ps(half_all(p), low8(_mm256_cvtepi32_ps(s)));
    UNROLL for (int i = 0; i < 4; i++)
    {
        o->q[i] = levels(nibbles_2(p + 8 + 32 * i, p + 24 + 32 * i));
    }
}

/* ---- the sums ---- */

/* Lane l of the i-th 64 codes belongs to group 2 i + l / 8, or 4 i + l / 4. */
INLINE __m512i group_index(const int G, int i)
{
    const __m512i one = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i two = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return G == 1 ? _mm512_add_epi32(one, _mm512_set1_epi32(2 * i)) : _mm512_add_epi32(two, _mm512_set1_epi32(4 * i));
}

/* One step for a token, of which `blocks` blocks of 32 exist (8 in the whole steps: no masks). */
INLINE void add_natural(const int G, const bool min, const step *o, const ew_xq *x, size_t b, size_t blocks,
                        __m512 acc[2], __m512 *rest)
{
    const int8_t *q = x->q + 32 * b;
    const __mmask16 k8 = (__mmask16)((1u << blocks) - 1);
    __m512 d = G == 1 ? _mm512_maskz_loadu_ps(k8, x->d + b) : _mm512_loadu_ps(x->d16 + 2 * b);
    __m512 m = G == 1 ? _mm512_maskz_loadu_ps(k8, x->m32 + b) : _mm512_loadu_ps(x->m16 + 2 * b);
    *rest = _mm512_fmadd_ps(min ? o->m : o->s, m, *rest);
    __m512 sd = _mm512_mul_ps(o->s, d);
    UNROLL for (int i = 0; i < 4; i++)
    {
        if (2 * (size_t)i < blocks) {
            __m512i v = blocks - 2 * (size_t)i >= 2 ? _mm512_loadu_si512(q + 64 * i)
                                                    : _mm512_zextsi256_si512(load32((const uint8_t *)q + 64 * i));
            __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), o->q[i], v);
            __m512 s = _mm512_permutexvar_ps(group_index(G, i), sd);
            acc[i % 2] = _mm512_fmadd_ps(s, _mm512_cvtepi32_ps(dot), acc[i % 2]);
        }
    }
}

INLINE void add_transposed(const bool min, const step *o, const ew_xq *x, size_t b, size_t blocks, __m512 acc[2],
                           __m512 *rest)
{
    const int8_t *p = x->p + 32 * b;
    const __mmask16 k = (__mmask16)((1u << 2 * blocks) - 1);
    __m512 d = _mm512_maskz_loadu_ps(k, x->d16 + 2 * b), m = _mm512_maskz_loadu_ps(k, x->m16 + 2 * b);
    *rest = _mm512_fmadd_ps(min ? o->m : o->s, m, *rest);
    __m512i s0 = _mm512_dpbusd_epi32(_mm512_setzero_si512(), o->q[0], _mm512_loadu_si512(p));
    __m512i s1 = _mm512_dpbusd_epi32(_mm512_setzero_si512(), o->q[1], _mm512_loadu_si512(p + 64));
    s0 = _mm512_dpbusd_epi32(s0, o->q[2], _mm512_loadu_si512(p + 128));
    s1 = _mm512_dpbusd_epi32(s1, o->q[3], _mm512_loadu_si512(p + 192));
    __m512 f = _mm512_cvtepi32_ps(_mm512_add_epi32(s0, s1));
    acc[0] = _mm512_fmadd_ps(_mm512_mul_ps(o->s, d), f, acc[0]);
}

typedef struct dot_type {
    load_fn load;
    int groups; /* of 32: 1 or 2; 0: transposed */
    bool min;
    float off;    /* codes are q + off */
    size_t bytes; /* of a step */
} dot_type;

/* The last n < 8 blocks of a row. Nothing from `end` on may be read; the blocks behind are masked afterwards. */
INLINE void load_last(const dot_type d, const uint8_t *w, size_t n, const uint8_t *end, step *o)
{
    uint8_t copy[8 * 34];
    if (EW_UNLIKELY((size_t)(end - w) < d.bytes)) {
        memset(copy, 0, sizeof(copy));
        memcpy(copy, w, n * (d.bytes / 8));
        w = copy;
    }
    d.load(w, o);
}

INLINE void add_step(const dot_type d, const step *o, const ew_xq *x, size_t b, size_t blocks, __m512 acc[2],
                     __m512 *rest)
{
    if (d.groups == 0) {
        add_transposed(d.min, o, x, b, blocks, acc, rest);
    } else {
        add_natural(d.groups, d.min, o, x, b, blocks, acc, rest);
    }
}

/* One row, N tokens; the weight ends at `end`. */
INLINE void dot_row(const dot_type d, const uint8_t *w, const ew_xq x[MOST], const size_t N, const uint8_t *end,
                    float y[MOST])
{
    const size_t nb = x[0].C / 32;
    __m512 acc[MOST][2], rest[MOST];
    UNROLL for (size_t t = 0; t < N; t++)
    {
        acc[t][0] = acc[t][1] = rest[t] = _mm512_setzero_ps();
    }
    size_t b = 0;
    step o;
    for (; b + 8 <= nb; b += 8, w += d.bytes) {
        read_ahead(w, d.bytes);
        d.load(w, &o);
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, &x[t], b, 8, acc[t], &rest[t]);
        }
    }
    if (b < nb) {
        load_last(d, w, nb - b, end, &o);
        const __mmask16 k = (__mmask16)((1u << (d.groups == 0 ? 2 : 1) * (nb - b)) - 1);
        o.s = _mm512_maskz_mov_ps(k, o.s);
        o.m = d.min ? _mm512_maskz_mov_ps(k, o.m) : o.s;
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, &x[t], b, nb - b, acc[t], &rest[t]);
        }
    }
    UNROLL for (size_t t = 0; t < N; t++)
    {
        __m512 sum = _mm512_add_ps(acc[t][0], acc[t][1]);
        y[t] = _mm512_reduce_add_ps(_mm512_fnmadd_ps(_mm512_set1_ps(d.min ? 1.0f : d.off), rest[t], sum));
    }
}

/* T <= N tokens; the last fills the places that are left. */
INLINE void dot_n(const dot_type d, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, const size_t N,
                  size_t T, float *y, size_t ldy)
{
    const uint8_t *end = w + (rows - 1) * row_bytes + x->C / 256 * d.bytes + x->C % 256 / 32 * (d.bytes / 8);
    ew_xq at[MOST];
    float sum[MOST];
    UNROLL for (size_t t = 0; t < N; t++)
    {
        at[t] = ew__xq_row(x, EW_MIN(t, T - 1));
    }
    for (size_t r = 0; r < rows; r++) {
        dot_row(d, w + r * row_bytes, at, N, end, sum);
        for (size_t t = 0; t < T; t++) {
            y[t * ldy + r] = sum[t];
        }
    }
}

INLINE void dot_rows(const dot_type d, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T,
                     float *y, size_t ldy)
{
    for (size_t t = 0; t < T; t += MOST) {
        ew_xq at = ew__xq_row(x, t);
        size_t n = EW_MIN((size_t)MOST, T - t);
        float *yt = y + t * ldy;
        if (n == 1) {
            dot_n(d, w, row_bytes, rows, &at, 1, n, yt, ldy);
        } else if (n == 2) {
            dot_n(d, w, row_bytes, rows, &at, 2, n, yt, ldy);
        } else if (n <= 4) {
            dot_n(d, w, row_bytes, rows, &at, 4, n, yt, ldy);
        } else {
            dot_n(d, w, row_bytes, rows, &at, MOST, n, yt, ldy);
        }
    }
}

#define DOT(name, ...)                                                                                                 \
    static void dot_##name(const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,        \
                           size_t ldy)                                                                                 \
    {                                                                                                                  \
        dot_rows((dot_type){load_##name, __VA_ARGS__}, w, row_bytes, rows, x, T, y, ldy);                              \
    }
/* clang-format off */
DOT(q4_0, 0, false, 8.0f, 8 * 18)
DOT(q4_1, 1, true, 0.0f, 8 * 20)
DOT(q5_0, 1, false, 16.0f, 8 * 22)
DOT(q5_1, 1, true, 0.0f, 8 * 24)
DOT(q8_0, 1, false, 128.0f, 8 * 34)
DOT(iq4_nl, 0, false, 128.0f, 8 * 18)
DOT(q2_k, 2, true, 0.0f, 84)
DOT(q3_k, 2, false, 4.0f, 110)
DOT(q4_k, 0, true, 0.0f, 144)
DOT(q5_k, 0, true, 0.0f, 176)
DOT(q6_k, 2, false, 32.0f, 210)
DOT(iq4_xs, 1, false, 128.0f, 136)
/* clang-format on */

void ew__qdot_avx512(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                     size_t ldy)
{
    typedef void (*dot_fn)(const uint8_t *, size_t, size_t, const ew_xq *, size_t, float *, size_t);
    static const dot_fn table[] = {
        [EW_DTYPE_Q4_0] = dot_q4_0, [EW_DTYPE_Q4_1] = dot_q4_1,     [EW_DTYPE_Q5_0] = dot_q5_0,
        [EW_DTYPE_Q5_1] = dot_q5_1, [EW_DTYPE_Q8_0] = dot_q8_0,     [EW_DTYPE_Q2_K] = dot_q2_k,
        [EW_DTYPE_Q3_K] = dot_q3_k, [EW_DTYPE_Q4_K] = dot_q4_k,     [EW_DTYPE_Q5_K] = dot_q5_k,
        [EW_DTYPE_Q6_K] = dot_q6_k, [EW_DTYPE_IQ4_NL] = dot_iq4_nl, [EW_DTYPE_IQ4_XS] = dot_iq4_xs,
    };
    EW_ASSERT((size_t)t < EW_COUNT(table) && table[t] != NULL);
    table[t](w, row_bytes, rows, x, T, y, ldy);
}

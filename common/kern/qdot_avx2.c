/* Rows of quantised weights against few tokens, straight from the file's blocks, with AVX2. The scheme of qdot_avx512.c with
 * vectors of one block: a step is 256 elements, eight vectors of 32 codes in their natural order. Codes of up to six bits are
 * unsigned, those of eight bits signed. */
#include <immintrin.h>
#include <string.h>

#include "kern/kern_int.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef struct step {
    __m256i q[8];
    __m256 s[2], m[2]; /* of 8 groups (the first) or 16; m only for types with minima */
} step;

/* Fills a step from the blocks at p, and reads nothing else. */
typedef void (*load_fn)(const uint8_t *p, step *o);

INLINE __m128i load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

INLINE __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

INLINE short half_at(const uint8_t *p)
{
    short h;
    memcpy(&h, p, sizeof(h));
    return h;
}

INLINE uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

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

/* ---- the sums ---- */

typedef struct x_at {
    const int8_t *q;
    const float *d, *m32, *m16;
    size_t C, nb;
} x_at;

typedef struct dot_type {
    load_fn load;
    int groups;
    bool min, is_signed;
    float off;    /* codes are q + off */
    size_t bytes; /* of a step */
} dot_type;

static const int32_t mask_table[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

INLINE __m256 dot_32(const bool is_signed, __m256i q, __m256i x)
{
    __m256i pairs =
        is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q)) : _mm256_maddubs_epi16(q, x);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* One step for token t of x, of which `blocks` blocks of 32 exist (8 in the whole steps: no masks). */
INLINE void add_step(const dot_type d, const step *o, const x_at *x, size_t t, size_t b, size_t blocks, __m256 acc[2],
                     __m256 *rest)
{
    const int8_t *q = x->q + t * x->C + 32 * b;
    const __m256i mask = load32((const uint8_t *)(mask_table + 8 - blocks));
    __m256 dx = blocks == 8 ? _mm256_loadu_ps(x->d + t * x->nb + b) : _mm256_maskload_ps(x->d + t * x->nb + b, mask);
    __m256 sd[2];
    if (d.groups == 1) {
        const float *m = x->m32 + t * x->nb + b;
        __m256 mx = blocks == 8 ? _mm256_loadu_ps(m) : _mm256_maskload_ps(m, mask);
        *rest = _mm256_fmadd_ps(d.min ? o->m[0] : o->s[0], mx, *rest);
        sd[0] = sd[1] = _mm256_mul_ps(o->s[0], dx);
    } else {
        UNROLL for (int i = 0; i < 2; i++)
        {
            __m256 mx = _mm256_loadu_ps(x->m16 + 2 * (t * x->nb + b) + 8 * i);
            *rest = _mm256_fmadd_ps(d.min ? o->m[i] : o->s[i], mx, *rest);
            const int k = 4 * i;
            __m256i twice = _mm256_setr_epi32(k, k, k + 1, k + 1, k + 2, k + 2, k + 3, k + 3);
            sd[i] = _mm256_mul_ps(o->s[i], _mm256_permutevar8x32_ps(dx, twice));
        }
    }
    UNROLL for (int i = 0; i < 8; i++)
    {
        if ((size_t)i < blocks) {
            const int k = 2 * (i % 4);
            __m256i at =
                d.groups == 1 ? _mm256_set1_epi32(i) : _mm256_setr_epi32(k, k, k, k, k + 1, k + 1, k + 1, k + 1);
            __m256 s = _mm256_permutevar8x32_ps(sd[i / 4], at);
            __m256 f = dot_32(d.is_signed, o->q[i], load32((const uint8_t *)q + 32 * i));
            acc[i % 2] = _mm256_fmadd_ps(s, f, acc[i % 2]);
        }
    }
}

INLINE float sum_of(__m256 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

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

/* One row, N tokens; the weight ends at `end`. */
INLINE void dot_row(const dot_type d, const uint8_t *w, const x_at *x, const size_t N, const uint8_t *end, float *y,
                    size_t ldy)
{
    __m256 acc[2][2], rest[2];
    UNROLL for (size_t t = 0; t < N; t++)
    {
        acc[t][0] = acc[t][1] = rest[t] = _mm256_setzero_ps();
    }
    size_t b = 0;
    step o;
    for (; b + 8 <= x->nb; b += 8, w += d.bytes) {
        d.load(w, &o);
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, x, t, b, 8, acc[t], &rest[t]);
        }
    }
    if (b < x->nb) {
        load_last(d, w, x->nb - b, end, &o);
        const __m256 k = _mm256_loadu_ps((const float *)(const void *)(mask_table + 8 - (x->nb - b)));
        o.s[0] = _mm256_and_ps(o.s[0], k);
        o.m[0] = d.min ? _mm256_and_ps(o.m[0], k) : o.s[0];
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, x, t, b, x->nb - b, acc[t], &rest[t]);
        }
    }
    UNROLL for (size_t t = 0; t < N; t++)
    {
        __m256 sum = _mm256_add_ps(acc[t][0], acc[t][1]);
        y[t * ldy] = sum_of(_mm256_fnmadd_ps(_mm256_set1_ps(d.min ? 1.0f : d.off), rest[t], sum));
    }
}

INLINE void dot_rows(const dot_type d, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *xq, size_t T,
                     float *y, size_t ldy)
{
    const uint8_t *end = w + (rows - 1) * row_bytes + xq->C / 256 * d.bytes + xq->C % 256 / 32 * (d.bytes / 8);
    for (size_t r = 0; r < rows; r++, w += row_bytes, y++) {
        x_at x = {xq->q, xq->d, xq->m32, xq->m16, xq->C, xq->C / 32};
        size_t t = 0;
        for (; t + 2 <= T; t += 2) {
            dot_row(d, w, &x, 2, end, y + t * ldy, ldy);
            x.q += 2 * x.C, x.d += 2 * x.nb, x.m32 += 2 * x.nb, x.m16 += 4 * x.nb;
        }
        if (t < T) {
            dot_row(d, w, &x, 1, end, y + t * ldy, ldy);
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
DOT(q4_0, 1, false, false, 8.0f, 8 * 18)
DOT(q4_1, 1, true, false, 0.0f, 8 * 20)
DOT(q5_0, 1, false, false, 16.0f, 8 * 22)
DOT(q5_1, 1, true, false, 0.0f, 8 * 24)
DOT(q8_0, 1, false, true, 0.0f, 8 * 34)
DOT(iq4_nl, 1, false, true, 0.0f, 8 * 18)
DOT(q2_k, 2, true, false, 0.0f, 84)
DOT(q3_k, 2, false, false, 4.0f, 110)
DOT(q4_k, 1, true, false, 0.0f, 144)
DOT(q5_k, 1, true, false, 0.0f, 176)
DOT(q6_k, 2, false, false, 32.0f, 210)
DOT(iq4_xs, 1, false, true, 0.0f, 136)
/* clang-format on */

void ew__qdot_avx2(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
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

/* The integer products on NEON, included once by each of qmul_neon.c, qmul_dotprod_neon.c and qmul_i8mm_neon.c, which define
 *   Q_NAME   the table's name          Q_DOT, Q_MM   1 when the files's instruction set has SDOT, SMMLA
 *
 * Everything goes by quads of weight rows: a vector holds one number for each of four rows. Of a block of 32 the four integer sums
 * are made in one of three ways (multiply-add and pairwise sums; SDOT; SMMLA), all exact; then y = fma(s d, sum, y) for each scale
 * and y = fms(m, d sum(x), y) for each minimum, in the order of the blocks. So dot and mul, and the three tables, agree bit for
 * bit. Source of the instructions: Arm ARM (DDI 0487), SDOT, SMMLA. */
#include <arm_neon.h>
#include <string.h>

#include "kern/kern_int.h"

#define Q_INLINE static inline __attribute__((always_inline))
#define Q_TOK 4   /* tokens that go through a panel together */
#define Q_QUADS 4 /* of a panel: 16 rows */
#define Q_KB 32

/* One 32-block of a panel, for four rows. The order of the codes:
 *   plain  [row][32]        SDOT  [k / 4][row][4]        SMMLA  [k / 8][row / 2][row % 2][8]
 * SMMLA's sums are 2 rows x 2 tokens, so that scales stand twice: r0 r0 r1 r1, r2 r2 r3 r3. */
typedef struct q_quad {
    int8_t q[128];
#if Q_MM
    float s[2][8], m[2][8];
#else
    float s[2][4], m[2][4];
#endif
} q_quad;
_Static_assert(sizeof(q_quad) * Q_QUADS * Q_KB <= EW_QPANEL_BYTES, "a panel fits");

/* ---- unpacking ---- */

Q_INLINE bool is_super(ew_dtype t)
{
    return t >= EW_DTYPE_Q2_K && t != EW_DTYPE_IQ4_NL;
}

Q_INLINE bool has_two(ew_dtype t)
{
    return t == EW_DTYPE_Q2_K || t == EW_DTYPE_Q3_K || t == EW_DTYPE_Q6_K;
}

Q_INLINE bool has_min(ew_dtype t)
{
    return t == EW_DTYPE_Q4_1 || t == EW_DTYPE_Q5_1 || t == EW_DTYPE_Q2_K || t == EW_DTYPE_Q4_K || t == EW_DTYPE_Q5_K;
}

Q_INLINE size_t block_bytes(ew_dtype t)
{
    switch (t) {
    case EW_DTYPE_Q4_0:
    case EW_DTYPE_IQ4_NL:
        return sizeof(ew_block_q4_0);
    case EW_DTYPE_Q4_1:
        return sizeof(ew_block_q4_1);
    case EW_DTYPE_Q5_0:
        return sizeof(ew_block_q5_0);
    case EW_DTYPE_Q5_1:
        return sizeof(ew_block_q5_1);
    case EW_DTYPE_Q8_0:
        return sizeof(ew_block_q8_0);
    case EW_DTYPE_Q2_K:
        return sizeof(ew_block_q2_k);
    case EW_DTYPE_Q3_K:
        return sizeof(ew_block_q3_k);
    case EW_DTYPE_Q4_K:
        return sizeof(ew_block_q4_k);
    case EW_DTYPE_Q5_K:
        return sizeof(ew_block_q5_k);
    case EW_DTYPE_Q6_K:
        return sizeof(ew_block_q6_k);
    default:
        return sizeof(ew_block_iq4_xs);
    }
}

Q_INLINE uint32_t word_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

Q_INLINE float half_at(const uint8_t *p)
{
    __fp16 h;
    memcpy(&h, p, sizeof(h));
    return (float)h;
}

/* 0x10 where bit i of the 32 bits at p is set, elements 16 h .. 16 h + 15. */
Q_INLINE uint8x16_t fifth_bits(const uint8_t *p, int h)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bytes = vcombine_u8(vdup_n_u8(p[2 * h]), vdup_n_u8(p[2 * h + 1]));
    return vandq_u8(vtstq_u8(bytes, vld1q_u8(bit)), vdupq_n_u8(16));
}

/* (bytes >> shift) & mask, shift not known to the compiler in all uses. */
Q_INLINE uint8x16_t bits_at(const uint8_t *p, size_t shift, uint8_t mask)
{
    return vandq_u8(vshlq_u8(vld1q_u8(p), vdupq_n_s8((int8_t) - (int)shift)), vdupq_n_u8(mask));
}

Q_INLINE int8x16_t minus(uint8x16_t q, int8_t a)
{
    return vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(a));
}

Q_INLINE void codes_32(ew_dtype t, const uint8_t *p, int8x16_t q[2])
{
    static const int8_t levels[16] = {EW_IQ4_LEVELS};
    size_t at = t == EW_DTYPE_Q4_1 ? 4 : t == EW_DTYPE_Q5_0 ? 6 : t == EW_DTYPE_Q5_1 ? 8 : 2;
    uint8x16_t v = vld1q_u8(p + at), n[2] = {vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4)};
    for (int h = 0; h < 2; h++) {
        if (t == EW_DTYPE_IQ4_NL) {
            q[h] = vqtbl1q_s8(vld1q_s8(levels), n[h]);
        } else if (t == EW_DTYPE_Q5_0 || t == EW_DTYPE_Q5_1) {
            q[h] = minus(vorrq_u8(n[h], fifth_bits(p + at - 4, h)), t == EW_DTYPE_Q5_0 ? 16 : 0);
        } else {
            q[h] = minus(n[h], t == EW_DTYPE_Q4_0 ? 8 : 0);
        }
    }
}

/* The 32 codes of sub-block g of the file's block at p. */
Q_INLINE void codes(ew_dtype t, const uint8_t *p, size_t g, int8x16_t q[2])
{
    if (!is_super(t) && t != EW_DTYPE_Q8_0) {
        codes_32(t, p, q);
        return;
    }
    if (t == EW_DTYPE_IQ4_XS) {
        codes_32(EW_DTYPE_IQ4_NL, p + offsetof(ew_block_iq4_xs, q) + 16 * g - 2, q);
        return;
    }
    for (size_t h = 0; h < 2; h++) {
        size_t i = 16 * h;
        uint8x16_t hi, lo;
        switch (t) {
        case EW_DTYPE_Q8_0:
            q[h] = vreinterpretq_s8_u8(vld1q_u8(p + offsetof(ew_block_q8_0, q) + i));
            break;
        case EW_DTYPE_Q2_K:
            q[h] = minus(bits_at(p + offsetof(ew_block_q2_k, q) + 32 * (g / 4) + i, 2 * (g % 4), 3), 0);
            break;
        case EW_DTYPE_Q3_K:
            lo = bits_at(p + offsetof(ew_block_q3_k, q) + 32 * (g / 4) + i, 2 * (g % 4), 3);
            hi = bits_at(p + offsetof(ew_block_q3_k, h) + i, g, 1);
            q[h] = minus(vorrq_u8(lo, vshlq_n_u8(hi, 2)), 4);
            break;
        case EW_DTYPE_Q4_K:
            q[h] = minus(bits_at(p + offsetof(ew_block_q4_k, q) + 32 * (g / 2) + i, 4 * (g % 2), 15), 0);
            break;
        case EW_DTYPE_Q5_K:
            lo = bits_at(p + offsetof(ew_block_q5_k, q) + 32 * (g / 2) + i, 4 * (g % 2), 15);
            hi = bits_at(p + offsetof(ew_block_q5_k, h) + i, g, 1);
            q[h] = minus(vorrq_u8(lo, vshlq_n_u8(hi, 4)), 0);
            break;
        default: /* Q6_K */
            lo = bits_at(p + offsetof(ew_block_q6_k, q) + 64 * (g / 4) + 32 * (g % 2) + i, g % 4 < 2 ? 0 : 4, 15);
            hi = bits_at(p + offsetof(ew_block_q6_k, h) + 32 * (g / 4) + i, 2 * (g % 4), 3);
            q[h] = minus(vorrq_u8(lo, vshlq_n_u8(hi, 4)), 32);
            break;
        }
    }
}

/* d times eight or sixteen small integers. */
Q_INLINE void times8(int8x8_t v, float d, float32x4_t dst[2])
{
    int16x8_t w = vmovl_s8(v);
    dst[0] = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))), d);
    dst[1] = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(w))), d);
}

Q_INLINE void times16(int8x16_t v, float d, float32x4_t dst[4])
{
    times8(vget_low_s8(v), d, dst);
    times8(vget_high_s8(v), d, dst + 2);
}

Q_INLINE int8x8_t pair_of_words(uint32_t lo, uint32_t hi)
{
    return vcreate_s8((uint64_t)hi << 32 | lo);
}

/* The scales (and minima) of one block of 256: eight, or sixteen where has_two. */
Q_INLINE void scales_256(ew_dtype t, const uint8_t *p, float32x4_t s[4], float32x4_t m[4])
{
    if (t == EW_DTYPE_Q2_K) {
        uint8x16_t v = vld1q_u8(p);
        times16(minus(vandq_u8(v, vdupq_n_u8(15)), 0), half_at(p + offsetof(ew_block_q2_k, d)), s);
        times16(minus(vshrq_n_u8(v, 4), 0), half_at(p + offsetof(ew_block_q2_k, dmin)), m);
    } else if (t == EW_DTYPE_Q3_K) {
        static const int8_t down[16] = {0, 0, 0, 0, -2, -2, -2, -2, -4, -4, -4, -4, -6, -6, -6, -6};
        const uint8_t *a = p + offsetof(ew_block_q3_k, scales);
        uint8x8_t v = vld1_u8(a);
        uint8x16_t lo = vcombine_u8(vand_u8(v, vdup_n_u8(15)), vshr_n_u8(v, 4));
        uint8x16_t hi = vshlq_u8(vreinterpretq_u8_u32(vdupq_n_u32(word_at(a + 8))), vld1q_s8(down));
        hi = vshlq_n_u8(vandq_u8(hi, vdupq_n_u8(3)), 4);
        times16(minus(vorrq_u8(lo, hi), 32), half_at(p + offsetof(ew_block_q3_k, d)), s);
    } else if (t == EW_DTYPE_Q6_K) {
        times16(vreinterpretq_s8_u8(vld1q_u8(p + offsetof(ew_block_q6_k, scales))),
                half_at(p + offsetof(ew_block_q6_k, d)), s);
    } else if (t == EW_DTYPE_IQ4_XS) {
        static const int16_t down[8] = {0, -2, -4, -6, -8, -10, -12, -14};
        uint8x8_t v = vcreate_u8(word_at(p + offsetof(ew_block_iq4_xs, scales_l)));
        uint8x8_t lo = vzip1_u8(vand_u8(v, vdup_n_u8(15)), vshr_n_u8(v, 4));
        uint16_t high;
        memcpy(&high, p + offsetof(ew_block_iq4_xs, scales_h), sizeof(high));
        uint8x8_t hi = vmovn_u16(vandq_u16(vshlq_u16(vdupq_n_u16(high), vld1q_s16(down)), vdupq_n_u16(3)));
        int8x8_t all = vsub_s8(vreinterpret_s8_u8(vorr_u8(lo, vshl_n_u8(hi, 4))), vdup_n_s8(32));
        times8(all, half_at(p), s);
    } else { /* Q4_K, Q5_K: words of ew_q4_k_scale and ew_q4_k_min */
        uint32_t a = word_at(p + 4), b = word_at(p + 8), c = word_at(p + 12), six = 0x3f3f3f3f;
        uint32_t four = 0x0f0f0f0f, two = 0x03030303;
        times8(pair_of_words(a & six, (c & four) | ((a >> 6) & two) << 4), half_at(p), s);
        times8(pair_of_words(b & six, ((c >> 4) & four) | ((b >> 6) & two) << 4), half_at(p + 2), m);
    }
}

Q_INLINE void transpose(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d, float32x4_t dst[4])
{
    float64x2_t ab = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ba = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    float64x2_t cd = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), dc = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    dst[0] = vreinterpretq_f32_f64(vtrn1q_f64(ab, cd));
    dst[1] = vreinterpretq_f32_f64(vtrn1q_f64(ba, dc));
    dst[2] = vreinterpretq_f32_f64(vtrn2q_f64(ab, cd));
    dst[3] = vreinterpretq_f32_f64(vtrn2q_f64(ba, dc));
}

Q_INLINE float32x4_t halves(const uint8_t *const p[4], size_t at)
{
    uint64_t v = 0;
    for (int r = 3; r >= 0; r--) {
        uint16_t h;
        memcpy(&h, p[r] + at, sizeof(h));
        v = v << 16 | h;
    }
    return vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(v)));
}

/* The scales of the file's block of each of four rows: s[g] (has_two: s[2 g], s[2 g + 1]) of sub-block g. */
Q_INLINE void scales(ew_dtype t, const uint8_t *const p[4], float32x4_t s[16], float32x4_t m[16])
{
    if (!is_super(t)) {
        s[0] = halves(p, 0);
        m[0] = has_min(t) ? vnegq_f32(halves(p, 2)) : vdupq_n_f32(0.0f);
        return;
    }
    float32x4_t rs[4][4], rm[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        scales_256(t, p[r], rs[r], rm[r]);
    }
    for (int i = 0; i < (has_two(t) ? 4 : 2); i++) {
        transpose(rs[0][i], rs[1][i], rs[2][i], rs[3][i], s + 4 * i);
        if (has_min(t)) {
            transpose(rm[0][i], rm[1][i], rm[2][i], rm[3][i], m + 4 * i);
        }
    }
}

/* ---- sums ---- */

Q_INLINE int32x4_t dot16(int32x4_t acc, int8x16_t a, int8x16_t b)
{
#if Q_DOT
    return vdotq_s32(acc, a, b);
#else
    int16x8_t p = vmull_s8(vget_low_s8(a), vget_low_s8(b)); /* two products stay below 2^15: 2 * 128 * 127 */
    return vpadalq_s16(acc, vmlal_high_s8(p, a, b));
#endif
}

Q_INLINE int32x4_t sum_rows(const int32x4_t a[4])
{
    return vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3]));
}

/* What a block adds to y: sums f (two where there are two groups), scales, minima, and of the activations d and d sum(x). */
Q_INLINE float32x4_t add_block(ew_dtype t, float32x4_t y, const int32x4_t f[2], const float32x4_t s[2],
                               const float32x4_t m[2], float32x4_t d, const float32x4_t dx[2])
{
    y = vfmaq_f32(y, vmulq_f32(s[0], d), vcvtq_f32_s32(f[0]));
    if (has_two(t)) {
        y = vfmaq_f32(y, vmulq_f32(s[1], d), vcvtq_f32_s32(f[1]));
    }
    if (has_min(t)) {
        y = vfmsq_f32(y, m[0], dx[0]);
        if (has_two(t)) {
            y = vfmsq_f32(y, m[1], dx[1]);
        }
    }
    return y;
}

/* d sum(x) of block i (of all tokens' blocks). */
Q_INLINE void x_sums(ew_dtype t, const ew_xq *x, size_t i, float32x4_t dx[2])
{
    dx[0] = dx[1] = vdupq_n_f32(0.0f);
    if (has_min(t) && has_two(t)) {
        dx[0] = vld1q_dup_f32(x->m16 + 2 * i);
        dx[1] = vld1q_dup_f32(x->m16 + 2 * i + 1);
    } else if (has_min(t)) {
        dx[0] = vld1q_dup_f32(x->m32 + i);
    }
}

/* q[2 r], q[2 r + 1]: the codes of row r. */
Q_INLINE float32x4_t quad_block(ew_dtype t, const int8x16_t q[8], const float32x4_t s[2], const float32x4_t m[2],
                                const ew_xq *x, size_t token, size_t b, float32x4_t y)
{
    size_t i = token * (x->C / 32) + b;
    int8x16_t x0 = vld1q_s8(x->q + token * x->C + 32 * b), x1 = vld1q_s8(x->q + token * x->C + 32 * b + 16);
    int32x4_t f[2], lo[4], hi[4];
    float32x4_t dx[2];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        lo[r] = dot16(vdupq_n_s32(0), q[2 * r], x0);
        hi[r] = dot16(has_two(t) ? vdupq_n_s32(0) : lo[r], q[2 * r + 1], x1);
    }
    f[0] = sum_rows(has_two(t) ? lo : hi);
    f[1] = has_two(t) ? sum_rows(hi) : f[0];
    x_sums(t, x, i, dx);
    return add_block(t, y, f, s, m, vld1q_dup_f32(x->d + i), dx);
}

/* ---- few tokens ---- */

Q_INLINE void store_rows(float *y, float32x4_t v, size_t n)
{
    if (n >= 4) {
        vst1q_f32(y, v);
    } else {
        float all[4];
        vst1q_f32(all, v);
        memcpy(y, all, n * sizeof(float));
    }
}

/* Four rows for N tokens: t, t + 1, …, of which those from `last` on are the same. */
Q_INLINE void dot_quad(ew_dtype t, int N, const uint8_t *const row[4], const ew_xq *x, size_t token, size_t last,
                       float32x4_t *y)
{
    const size_t per = is_super(t) ? 8 : 1;
    const uint8_t *p[4] = {row[0], row[1], row[2], row[3]};
#pragma GCC unroll 4
    for (int i = 0; i < N; i++) {
        y[i] = vdupq_n_f32(0.0f);
    }
    for (size_t b = 0; b < x->C / 32; b += per) {
        float32x4_t s[16], m[16];
        scales(t, p, s, m);
#pragma GCC unroll 2
        for (size_t g = 0; g < per; g++) {
            int8x16_t q[8];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                codes(t, p[r], g, q + 2 * r);
            }
            size_t k = has_two(t) ? 2 * g : g;
#pragma GCC unroll 4
            for (int i = 0; i < N; i++) {
                y[i] = quad_block(t, q, s + k, m + k, x, EW_MIN(token + (size_t)i, last), b + g, y[i]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            p[r] += block_bytes(t);
        }
    }
}

Q_INLINE void dot_type(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                       size_t ldy)
{
    for (size_t r = 0; r < rows; r += 4) {
        const uint8_t *row[4];
        for (size_t i = 0; i < 4; i++) {
            row[i] = w + EW_MIN(r + i, rows - 1) * row_bytes;
        }
        for (size_t k = 0; k < T; k += Q_TOK) {
            float32x4_t sum[Q_TOK] = {vdupq_n_f32(0.0f)};
            if (T - k == 1) {
                dot_quad(t, 1, row, x, k, T - 1, sum);
            } else if (T - k == 2) {
                dot_quad(t, 2, row, x, k, T - 1, sum);
            } else {
                dot_quad(t, Q_TOK, row, x, k, T - 1, sum);
            }
            for (size_t i = 0; i < Q_TOK && k + i < T; i++) {
                store_rows(y + (k + i) * ldy + r, sum[i], rows - r);
            }
        }
    }
}

/* A function for each type, in which the type is a constant. */
#define Q_TYPES(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS)

#define Q_DOT_FN(TYPE)                                                                                                 \
    static void dot_##TYPE(const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,        \
                           size_t ldy)                                                                                 \
    {                                                                                                                  \
        dot_type(EW_DTYPE_##TYPE, w, row_bytes, rows, x, T, y, ldy);                                                   \
    }
Q_TYPES(Q_DOT_FN)

static void dot(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                size_t ldy)
{
    switch (t) {
#define Q_DOT_CASE(TYPE)                                                                                               \
    case EW_DTYPE_##TYPE:                                                                                              \
        dot_##TYPE(w, row_bytes, rows, x, T, y, ldy);                                                                  \
        break;
        Q_TYPES(Q_DOT_CASE)
    default:
        EW_ASSERT(false);
    }
}

/* ---- panels ---- */

/* The codes of four rows in the order of q_quad. */
Q_INLINE void store_codes(const int8x16_t q[8], int8_t *dst)
{
    for (int h = 0; h < 2; h++) {
#if Q_MM
        for (int r = 0; r < 4; r += 2) {
            int64x2_t a = vreinterpretq_s64_s8(q[2 * r + h]), b = vreinterpretq_s64_s8(q[2 * r + 2 + h]);
            vst1q_s8(dst + 64 * h + 8 * r, vreinterpretq_s8_s64(vtrn1q_s64(a, b)));
            vst1q_s8(dst + 64 * h + 32 + 8 * r, vreinterpretq_s8_s64(vtrn2q_s64(a, b)));
        }
#elif Q_DOT
        float32x4_t k[4];
        transpose(vreinterpretq_f32_s8(q[h]), vreinterpretq_f32_s8(q[2 + h]), vreinterpretq_f32_s8(q[4 + h]),
                  vreinterpretq_f32_s8(q[6 + h]), k);
        for (int i = 0; i < 4; i++) {
            vst1q_s8(dst + 64 * h + 16 * i, vreinterpretq_s8_f32(k[i]));
        }
#else
        for (int r = 0; r < 4; r++) {
            vst1q_s8(dst + 32 * r + 16 * h, q[2 * r + h]);
        }
#endif
    }
}

Q_INLINE void store_scale(float *dst, float32x4_t v)
{
#if Q_MM
    vst1q_f32(dst, vzip1q_f32(v, v));
    vst1q_f32(dst + 4, vzip2q_f32(v, v));
#else
    vst1q_f32(dst, v);
#endif
}

Q_INLINE void pack_type(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows_used, size_t b0, size_t n,
                        q_quad *panel)
{
    const size_t per = is_super(t) ? 8 : 1;
    for (size_t r = 0; r < rows_used; r += 4) {
        const uint8_t *p[4];
        for (size_t i = 0; i < 4; i++) {
            p[i] = w + EW_MIN(r + i, rows_used - 1) * row_bytes + b0 / per * block_bytes(t);
        }
        for (size_t b = 0; b < n; b += per) {
            float32x4_t s[16], m[16];
            scales(t, p, s, m);
            for (size_t g = 0; g < per; g++) {
                q_quad *d = panel + (b + g) * Q_QUADS + r / 4;
                int8x16_t q[8];
                for (int i = 0; i < 4; i++) {
                    codes(t, p[i], g, q + 2 * i);
                }
                store_codes(q, d->q);
                for (size_t i = 0; i < (has_two(t) ? 2 : 1); i++) {
                    size_t k = has_two(t) ? 2 * g + i : g;
                    store_scale(d->s[i], s[k]);
                    if (has_min(t)) {
                        store_scale(d->m[i], m[k]);
                    }
                }
            }
            for (int i = 0; i < 4; i++) {
                p[i] += block_bytes(t);
            }
        }
    }
}

static void pack(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows_used, size_t b0, size_t n, void *panel)
{
    switch (t) {
#define Q_PACK_CASE(TYPE)                                                                                              \
    case EW_DTYPE_##TYPE:                                                                                              \
        pack_type(EW_DTYPE_##TYPE, w, row_bytes, rows_used, b0, n, panel);                                             \
        break;
        Q_TYPES(Q_PACK_CASE)
    default:
        EW_ASSERT(false);
    }
}

Q_INLINE float32x4_t load_rows(const float *y, size_t n)
{
    if (n >= 4) {
        return vld1q_f32(y);
    }
    float all[4] = {0};
    memcpy(all, y, n * sizeof(float));
    return vld1q_f32(all);
}

/* block_quads: block b of two quads w for Q_TOK tokens. */
#if Q_MM
typedef float32x4_t q_sums[2][2][2]; /* [pair of tokens][quad][pair of rows]: r0t0 r0t1 r1t0 r1t1 */

Q_INLINE void block_quads(ew_dtype t, const q_quad *w, const ew_xq *x, const size_t token[Q_TOK], size_t b, q_sums y)
{
    const size_t nb = x->C / 32;
    int8x16_t v[2][4];
    float32x4_t d[2], dx[2][2];
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
        size_t t0 = token[2 * k], t1 = token[2 * k + 1], i0 = t0 * nb + b, i1 = t1 * nb + b;
        const int8_t *x0 = x->q + t0 * x->C + 32 * b, *x1 = x->q + t1 * x->C + 32 * b;
        float32x4_t d0[2], d1[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x0 + 16 * h));
            int64x2_t c = vreinterpretq_s64_s8(vld1q_s8(x1 + 16 * h));
            v[k][2 * h] = vreinterpretq_s8_s64(vtrn1q_s64(a, c));
            v[k][2 * h + 1] = vreinterpretq_s8_s64(vtrn2q_s64(a, c));
        }
        d[k] = vzip1q_f32(vld1q_dup_f32(x->d + i0), vld1q_dup_f32(x->d + i1));
        x_sums(t, x, i0, d0);
        x_sums(t, x, i1, d1);
        dx[k][0] = vzip1q_f32(d0[0], d1[0]);
        dx[k][1] = vzip1q_f32(d0[1], d1[1]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < 4; h++) { /* quad h / 2, pair of rows h % 2 */
        const q_quad *c = w + h / 2;
        const int8_t *at = c->q + 16 * (h % 2);
        int8x16_t q[4] = {vld1q_s8(at), vld1q_s8(at + 32), vld1q_s8(at + 64), vld1q_s8(at + 96)};
        float32x4_t s[2], m[2];
        for (int i = 0; i < 2; i++) {
            s[i] = vld1q_f32(c->s[i] + 4 * (h % 2));
            m[i] = vld1q_f32(c->m[i] + 4 * (h % 2));
        }
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            int32x4_t f[2];
            f[0] = vmmlaq_s32(vmmlaq_s32(vdupq_n_s32(0), q[0], v[k][0]), q[1], v[k][1]);
            f[1] = has_two(t) ? vdupq_n_s32(0) : f[0];
            f[1] = vmmlaq_s32(vmmlaq_s32(f[1], q[2], v[k][2]), q[3], v[k][3]);
            f[0] = has_two(t) ? f[0] : f[1];
            y[k][h / 2][h % 2] = add_block(t, y[k][h / 2][h % 2], f, s, m, d[k], dx[k]);
        }
    }
}
#elif Q_DOT
typedef float32x4_t q_sums[Q_TOK][2]; /* [token][quad] */

Q_INLINE void block_quads(ew_dtype t, const q_quad *w, const ew_xq *x, const size_t token[Q_TOK], size_t b, q_sums y)
{
    const size_t nb = x->C / 32;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        float32x4_t s[2] = {vld1q_f32(w[h].s[0]), vld1q_f32(w[h].s[1])};
        float32x4_t m[2] = {vld1q_f32(w[h].m[0]), vld1q_f32(w[h].m[1])};
#pragma GCC unroll 4
        for (int k = 0; k < Q_TOK; k++) {
            size_t i = token[k] * nb + b;
            const int8_t *xq = x->q + token[k] * x->C + 32 * b;
            int8x16_t x0 = vld1q_s8(xq), x1 = vld1q_s8(xq + 16);
            int32x4_t f[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
            float32x4_t dx[2];
            const int8_t *q = w[h].q;
            f[0] = vdotq_laneq_s32(f[0], vld1q_s8(q), x0, 0);
            f[0] = vdotq_laneq_s32(f[0], vld1q_s8(q + 16), x0, 1);
            f[0] = vdotq_laneq_s32(f[0], vld1q_s8(q + 32), x0, 2);
            f[0] = vdotq_laneq_s32(f[0], vld1q_s8(q + 48), x0, 3);
            f[1] = has_two(t) ? f[1] : f[0];
            f[1] = vdotq_laneq_s32(f[1], vld1q_s8(q + 64), x1, 0);
            f[1] = vdotq_laneq_s32(f[1], vld1q_s8(q + 80), x1, 1);
            f[1] = vdotq_laneq_s32(f[1], vld1q_s8(q + 96), x1, 2);
            f[1] = vdotq_laneq_s32(f[1], vld1q_s8(q + 112), x1, 3);
            f[0] = has_two(t) ? f[0] : f[1];
            x_sums(t, x, i, dx);
            y[k][h] = add_block(t, y[k][h], f, s, m, vld1q_dup_f32(x->d + i), dx);
        }
    }
}
#else
typedef float32x4_t q_sums[Q_TOK][2];

Q_INLINE void block_quads(ew_dtype t, const q_quad *w, const ew_xq *x, const size_t token[Q_TOK], size_t b, q_sums y)
{
    for (int h = 0; h < 2; h++) {
        float32x4_t s[2] = {vld1q_f32(w[h].s[0]), vld1q_f32(w[h].s[1])};
        float32x4_t m[2] = {vld1q_f32(w[h].m[0]), vld1q_f32(w[h].m[1])};
        int8x16_t q[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            q[i] = vld1q_s8(w[h].q + 16 * i);
        }
#pragma GCC unroll 4
        for (int k = 0; k < Q_TOK; k++) {
            y[k][h] = quad_block(t, q, s, m, x, token[k], b, y[k][h]);
        }
    }
}
#endif

/* Two quads of a panel for Q_TOK tokens. y[token][quad]. */
Q_INLINE void mul_quads(ew_dtype t, const q_quad *w, const ew_xq *x, const size_t token[Q_TOK], size_t b0, size_t n,
                        float32x4_t y[Q_TOK][2])
{
#if Q_MM
    q_sums z;
    for (int k = 0; k < 2; k++) {
        for (int h = 0; h < 2; h++) {
            z[k][h][0] = vzip1q_f32(y[2 * k][h], y[2 * k + 1][h]);
            z[k][h][1] = vzip2q_f32(y[2 * k][h], y[2 * k + 1][h]);
        }
    }
    for (size_t b = b0; b < b0 + n; b++, w += Q_QUADS) {
        block_quads(t, w, x, token, b, z);
    }
    for (int k = 0; k < 2; k++) {
        for (int h = 0; h < 2; h++) {
            y[2 * k][h] = vuzp1q_f32(z[k][h][0], z[k][h][1]);
            y[2 * k + 1][h] = vuzp2q_f32(z[k][h][0], z[k][h][1]);
        }
    }
#else
    for (size_t b = b0; b < b0 + n; b++, w += Q_QUADS) {
        block_quads(t, w, x, token, b, y);
    }
#endif
}

/* What matters of the type in a panel: whether there are two groups, and minima. t stands for all of the same kind. */
Q_INLINE void mul_kind(ew_dtype t, const q_quad *panel, const ew_xq *x, size_t b0, size_t n, size_t T, bool first,
                       float *y, size_t ldy, size_t rows_used)
{
    for (size_t k = 0; k < T; k += Q_TOK) {
        size_t token[Q_TOK];
        for (size_t i = 0; i < Q_TOK; i++) {
            token[i] = EW_MIN(k + i, T - 1);
        }
        for (size_t r = 0; r < rows_used; r += 8) {
            size_t left = rows_used - r,
                   here[2] = {EW_MIN(left, (size_t)4), left > 4 ? EW_MIN(left - 4, (size_t)4) : 0};
            float32x4_t sum[Q_TOK][2];
            for (size_t i = 0; i < Q_TOK; i++) {
                for (size_t h = 0; h < 2; h++) {
                    sum[i][h] =
                        first ? vdupq_n_f32(0.0f) : load_rows(y + token[i] * ldy + r + (here[h] ? 4 * h : 0), here[h]);
                }
            }
            mul_quads(t, panel + r / 4, x, token, b0, n, sum);
            for (size_t i = 0; i < Q_TOK && k + i < T; i++) {
                for (size_t h = 0; h < 2 && here[h] > 0; h++) {
                    store_rows(y + token[i] * ldy + r + 4 * h, sum[i][h], here[h]);
                }
            }
        }
    }
}

static void mul(ew_dtype t, const void *panel, const ew_xq *x, size_t b0, size_t n, size_t T, bool first, float *y,
                size_t ldy, size_t rows_used)
{
    if (has_two(t) && has_min(t)) {
        mul_kind(EW_DTYPE_Q2_K, panel, x, b0, n, T, first, y, ldy, rows_used);
    } else if (has_two(t)) {
        mul_kind(EW_DTYPE_Q6_K, panel, x, b0, n, T, first, y, ldy, rows_used);
    } else if (has_min(t)) {
        mul_kind(EW_DTYPE_Q4_K, panel, x, b0, n, T, first, y, ldy, rows_used);
    } else {
        mul_kind(EW_DTYPE_Q8_0, panel, x, b0, n, T, first, y, ldy, rows_used);
    }
}

/* ---- activations ---- */

static void quant_x(const float *x, const ew_xq *dst)
{
    for (size_t b = 0; b < dst->C / 32; b++, x += 32) {
        uint32x4_t top = vdupq_n_u32(0); /* magnitudes as bits: NaN is above all numbers */
        for (size_t i = 0; i < 32; i += 4) {
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
        }
        float max = vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(vmaxvq_u32(top))), 0), d = max / 127.0f;
        float id = max > EW_XQ_TINY ? 127.0f / max : 0.0f;
        int32_t sum[2];
        for (size_t h = 0; h < 2; h++) {
            int32x4_t q[4];
            for (size_t i = 0; i < 4; i++) { /* to nearest even, NaN to 0 */
                q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * i), id));
                q[i] = vmaxq_s32(vminq_s32(q[i], vdupq_n_s32(127)), vdupq_n_s32(-127));
            }
            int16x8_t lo = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
            int16x8_t hi = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
            vst1q_s8(dst->q + 32 * b + 16 * h, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
            sum[h] = vaddlvq_s16(vaddq_s16(lo, hi));
            dst->c16[2 * b + h] = -128 * sum[h];
            dst->m16[2 * b + h] = d * (float)sum[h];
        }
        dst->d[b] = d;
        dst->c32[b] = -128 * (sum[0] + sum[1]);
        dst->m32[b] = d * (float)(sum[0] + sum[1]);
    }
}

const ew_qkern Q_NAME = {
    .quant_x = quant_x,
    .dot = dot,
    .dot_tokens = Q_TOK,
    .rows = 4 * Q_QUADS,
    .kb = Q_KB,
    .pack = pack,
    .mul = mul,
};

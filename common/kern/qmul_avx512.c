/* Integer products with AVX-512 VNNI: vpdpbusd takes unsigned codes and signed activations, so codes with a sign carry a bias of
 * 128, which c32 and c16 undo (panels) or the sums m32 and m16 (dot). */
#include <string.h>

#include "kern/kern_int.h"
#include "kern/load_x86.h"

#define P_UNROLL _Pragma("GCC unroll 16")

/* ---- activations ---- */

INLINE __m512i magnitude(__m512 v)
{
    return _mm512_castps_si512(_mm512_abs_ps(v));
}

/* Largest magnitude of each of the four blocks of 32 in v, by their bits: NaN is above all numbers. */
INLINE __m128 tops_of_4(const __m512 v[8])
{
    __m512i m[4];
    P_UNROLL for (int i = 0; i < 4; i++)
    {
        m[i] = _mm512_max_epi32(magnitude(v[2 * i]), magnitude(v[2 * i + 1]));
    }
    __m512i a = _mm512_max_epi32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
    __m512i b = _mm512_max_epi32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
    a = _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i h = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm_castsi128_ps(_mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

/* 64 quantised activations: every lane 16 of x times its block's 127 / top. */
INLINE __m512i round_64(const __m512 v[4], __m512 id0, __m512 id1)
{
    __m512i n[4];
    P_UNROLL for (int i = 0; i < 4; i++)
    {
        __m512 y = _mm512_mul_ps(v[i], i < 2 ? id0 : id1);
        n[i] = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(y, y, _CMP_ORD_Q), y); /* NaN becomes 0 */
    }
    __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}

/* The order of qdot_avx512.c: of 256 elements first the first eight of every block, then the second eight, and so on. */
INLINE void put_p(const __m512i q[2], int8_t *p, size_t b)
{
    const __m512i i01 = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
    __m512i a = _mm512_permutex2var_epi64(q[0], i01, q[1]);
    __m512i c = _mm512_permutex2var_epi64(q[0], _mm512_add_epi64(i01, _mm512_set1_epi64(2)), q[1]);
    p += b / 8 * 256 + b % 8 * 8;
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_castsi512_si256(a));
    _mm256_storeu_si256((__m256i *)(void *)(p + 64), _mm512_extracti64x4_epi64(a, 1));
    _mm256_storeu_si256((__m256i *)(void *)(p + 128), _mm512_castsi512_si256(c));
    _mm256_storeu_si256((__m256i *)(void *)(p + 192), _mm512_extracti64x4_epi64(c, 1));
}

/* Four blocks; v is the activations, zero where there are none; the blocks in `have` are written. */
INLINE void quant_4(const __m512 v[8], const ew_xq *dst, size_t b, unsigned have)
{
    __m128 top = tops_of_4(v), d = _mm_div_ps(top, _mm_set1_ps(127.0f));
    __mmask8 big = _mm_cmp_ps_mask(top, _mm_set1_ps(EW_XQ_TINY), _CMP_GT_OQ);
    __m512 id = _mm512_castps128_ps512(_mm_maskz_div_ps(big, _mm_set1_ps(127.0f), top));
    __m512i q[2];
    P_UNROLL for (int i = 0; i < 2; i++)
    {
        q[i] = round_64(v + 4 * i, _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i), id),
                        _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i + 1), id));
        __mmask64 k = (have >> (2 * i) & 1 ? 0xffffffffu : 0) | (have >> (2 * i + 1) & 1 ? 0xffffffff00000000u : 0);
        _mm512_mask_storeu_epi8(dst->q + 32 * b + 64 * (size_t)i, k, q[i]);
    }
    /* Sums of eight bytes as unsigned ones, in pairs: 16 elements each, groups 0 .. 3 of q[0] and of q[1] in turn. */
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i s0 = _mm512_sad_epu8(_mm512_xor_si512(q[0], flip), _mm512_setzero_si512());
    __m512i s1 = _mm512_sad_epu8(_mm512_xor_si512(q[1], flip), _mm512_setzero_si512());
    s0 = _mm512_add_epi64(_mm512_unpacklo_epi64(s0, s1), _mm512_unpackhi_epi64(s0, s1));
    __m256i sum16 = _mm256_permutevar8x32_epi32(_mm512_cvtepi64_epi32(s0), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    sum16 = _mm256_sub_epi32(sum16, _mm256_set1_epi32(16 * 128));
    __m256i both = _mm256_add_epi32(sum16, _mm256_shuffle_epi32(sum16, 0xb1));
    __m128i sum32 =
        _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)));
    __m256 d2 = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(d), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    const __mmask8 k4 = (__mmask8)have,
                   k8 = (__mmask8)((have & 1) * 3 | (have & 2) * 6 | (have & 4) * 12 | (have & 8) * 24);
    _mm_mask_storeu_ps(dst->d + b, k4, d);
    _mm_mask_storeu_epi32(dst->c32 + b, k4, _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(sum32, 7)));
    _mm_mask_storeu_ps(dst->m32 + b, k4, _mm_mul_ps(d, _mm_cvtepi32_ps(sum32)));
    _mm256_mask_storeu_epi32(dst->c16 + 2 * b, k8,
                             _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sum16, 7)));
    _mm256_mask_storeu_ps(dst->m16 + 2 * b, k8, _mm256_mul_ps(d2, _mm256_cvtepi32_ps(sum16)));
    if (dst->p != NULL) {
        _mm256_mask_storeu_ps(dst->d16 + 2 * b, k8, d2);
        put_p(q, dst->p, b);
    }
}

static void quant_x(const float *x, const ew_xq *dst)
{
    size_t nb = dst->C / 32, b = 0;
    __m512 v[8];
    for (; b + 4 <= nb; b += 4, x += 128) {
        P_UNROLL for (int i = 0; i < 8; i++)
        {
            v[i] = _mm512_loadu_ps(x + 16 * i);
        }
        quant_4(v, dst, b, 15);
    }
    if (b < nb) {
        for (size_t i = 0; i < 8; i++) {
            v[i] = i < 2 * (nb - b) ? _mm512_loadu_ps(x + 16 * i) : _mm512_setzero_ps();
        }
        quant_4(v, dst, b, (1u << (nb - b)) - 1);
    }
}

/* ---- panels: 32 rows, two vectors side by side ---- */

#define PR 16
#define PANEL_ROWS 32
#define PANEL_KB 192

/* A panel is read once for every few tokens, from the second-level cache. */
typedef struct panel_t {
    _Alignas(64) uint8_t codes[PANEL_KB][8][PANEL_ROWS * 4];
    _Alignas(64) float s[PANEL_KB][2][PANEL_ROWS];
    _Alignas(64) float m[PANEL_KB][2][PANEL_ROWS];
} panel_t;
_Static_assert(sizeof(panel_t) <= EW_QPANEL_BYTES, "a panel fits");

typedef __m512i pi;
typedef __m512 pf;
#define p_and(a, b) _mm512_and_si512(a, b)
#define p_or(a, b) _mm512_or_si512(a, b)
#define p_add8(a, b) _mm512_add_epi8(a, b)
#define p_add32(a, b) _mm512_add_epi32(a, b)
#define p_srl(v, n) _mm512_srli_epi32(v, (unsigned)(n))
#define p_sll(v, n) _mm512_slli_epi32(v, (unsigned)(n))
#define p_sra(v, n) _mm512_srai_epi32(v, (unsigned)(n))
#define p_set8(c) _mm512_set1_epi8((char)(c))
#define p_set32(c) _mm512_set1_epi32(c)
#define p_lut(table, index) _mm512_shuffle_epi8(table, index)
#define p_itof(v) _mm512_cvtepi32_ps(v)
#define p_halftof(v) _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
#define p_or_bit(v, h, k, to) _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(h, p_set8(1 << (k))), v, p_set8(1 << (to)))
#define f_mul(a, b) _mm512_mul_ps(a, b)
#define f_neg(a) _mm512_sub_ps(_mm512_setzero_ps(), a)
#define p_storei(p, v) _mm512_store_si512((void *)(p), v)
#define p_storef(p, v) _mm512_store_ps(p, v)
#define P_BIAS(lo) (128 + (lo))
#define P_SIGNED(v) _mm512_xor_si512(v, p_set8(0x80))
#define p_iq4_levels() _mm512_broadcast_i32x4(_mm_setr_epi8(EW_IQ4_LEVELS))

/* Bits 4 i .. 4 i + 3 of each lane of h become bit 4 of the bytes of v. */
INLINE pi p_or_bits(pi v, pi h, int i)
{
    const int byte = i / 2, dwords = byte | byte << 8 | byte << 16 | byte << 24;
    const __m128i lane = _mm_setr_epi32(dwords, dwords + 0x04040404, dwords + 0x08080808, dwords + 0x0c0c0c0c);
    pi spread = _mm512_shuffle_epi8(h, _mm512_broadcast_i32x4(lane));
    pi bit = p_set32(i % 2 == 0 ? 0x08040201 : (int)0x80402010u);
    return _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(spread, bit), v, p_set8(16));
}

INLINE void load_planes(const uint8_t *const r[16], size_t at, pi o[4])
{
    pi v[4];
    P_UNROLL for (int i = 0; i < 4; i++)
    {
        v[i] = _mm512_castsi128_si512(load16(r[i] + at));
        v[i] = _mm512_inserti32x4(v[i], load16(r[4 + i] + at), 1);
        v[i] = _mm512_inserti32x4(v[i], load16(r[8 + i] + at), 2);
        v[i] = _mm512_inserti32x4(v[i], load16(r[12 + i] + at), 3);
    }
    pi a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    pi c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    o[0] = _mm512_unpacklo_epi64(a, c);
    o[1] = _mm512_unpackhi_epi64(a, c);
    o[2] = _mm512_unpacklo_epi64(b, d);
    o[3] = _mm512_unpackhi_epi64(b, d);
}

INLINE __m128i halves_8(const uint8_t *const r[8], size_t at)
{
    return _mm_setr_epi16(half_at(r[0] + at), half_at(r[1] + at), half_at(r[2] + at), half_at(r[3] + at),
                          half_at(r[4] + at), half_at(r[5] + at), half_at(r[6] + at), half_at(r[7] + at));
}

INLINE pf load_halves(const uint8_t *const r[16], size_t at)
{
    return _mm512_cvtph_ps(_mm256_set_m128i(halves_8(r + 8, at), halves_8(r, at)));
}

#include "kern/qpack_x86.h"

INLINE __m512i x_bytes(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof(v));
    return _mm512_set1_epi32(v);
}

typedef struct mul_args {
    const panel_t *p;
    size_t n;
    const int8_t *q; /* at the first block of the panel, rows C apart */
    const float *d;  /* rows nb apart, and the other arrays alike */
    const int32_t *c32, *c16;
    const float *m32, *m16;
    size_t C, nb;
    float *y;
    size_t ldy;
    __mmask16 k0, k1;
    bool first;
} mul_args;

/* N tokens against a panel. G scales in a block; min: has minima and no bias. */
#define TILE(N)                                                                                                        \
    INLINE void tile_##N(const mul_args *a, const int G, const bool min)                                               \
    {                                                                                                                  \
        __m512 f[N][2];                                                                                                \
        P_UNROLL for (int t = 0; t < N; t++)                                                                           \
        {                                                                                                              \
            const float *y = a->y + (size_t)t * a->ldy;                                                                \
            f[t][0] = a->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(a->k0, y);                                \
            f[t][1] = a->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(a->k1, y + 16);                           \
        }                                                                                                              \
        const int8_t *q = a->q;                                                                                        \
        const size_t C = a->C, nb = a->nb;                                                                             \
        for (size_t b = 0; b < a->n; b++, q += 32) {                                                                   \
            P_UNROLL for (int g = 0; g < G; g++)                                                                       \
            {                                                                                                          \
                __m512i s[N][2];                                                                                       \
                P_UNROLL for (int t = 0; t < N; t++)                                                                   \
                {                                                                                                      \
                    size_t at = (size_t)t * nb + b;                                                                    \
                    s[t][0] = s[t][1] = min      ? _mm512_setzero_si512()                                              \
                                        : G == 1 ? _mm512_set1_epi32(a->c32[at])                                       \
                                                 : _mm512_set1_epi32(a->c16[2 * at + (size_t)g]);                      \
                }                                                                                                      \
                P_UNROLL for (int i = 8 / G * g; i < 8 / G * (g + 1); i++)                                             \
                {                                                                                                      \
                    __m512i w0 = _mm512_load_si512(a->p->codes[b][i]), w1 = _mm512_load_si512(a->p->codes[b][i] + 64); \
                    P_UNROLL for (int t = 0; t < N; t++)                                                               \
                    {                                                                                                  \
                        __m512i x = x_bytes(q + (size_t)t * C + 4 * i);                                                \
                        s[t][0] = _mm512_dpbusd_epi32(s[t][0], w0, x);                                                 \
                        s[t][1] = _mm512_dpbusd_epi32(s[t][1], w1, x);                                                 \
                    }                                                                                                  \
                }                                                                                                      \
                __m512 d0 = _mm512_load_ps(a->p->s[b][g]), d1 = _mm512_load_ps(a->p->s[b][g] + 16);                    \
                P_UNROLL for (int t = 0; t < N; t++)                                                                   \
                {                                                                                                      \
                    __m512 dx = _mm512_set1_ps(a->d[(size_t)t * nb + b]);                                              \
                    f[t][0] = _mm512_fmadd_ps(_mm512_mul_ps(d0, dx), _mm512_cvtepi32_ps(s[t][0]), f[t][0]);            \
                    f[t][1] = _mm512_fmadd_ps(_mm512_mul_ps(d1, dx), _mm512_cvtepi32_ps(s[t][1]), f[t][1]);            \
                }                                                                                                      \
                if (min) {                                                                                             \
                    __m512 m0 = _mm512_load_ps(a->p->m[b][g]), m1 = _mm512_load_ps(a->p->m[b][g] + 16);                \
                    P_UNROLL for (int t = 0; t < N; t++)                                                               \
                    {                                                                                                  \
                        size_t at = (size_t)t * nb + b;                                                                \
                        __m512 mx = _mm512_set1_ps(G == 1 ? a->m32[at] : a->m16[2 * at + (size_t)g]);                  \
                        f[t][0] = _mm512_fnmadd_ps(m0, mx, f[t][0]);                                                   \
                        f[t][1] = _mm512_fnmadd_ps(m1, mx, f[t][1]);                                                   \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        P_UNROLL for (int t = 0; t < N; t++)                                                                           \
        {                                                                                                              \
            float *y = a->y + (size_t)t * a->ldy;                                                                      \
            _mm512_mask_storeu_ps(y, a->k0, f[t][0]);                                                                  \
            _mm512_mask_storeu_ps(y + 16, a->k1, f[t][1]);                                                             \
        }                                                                                                              \
    }
/* clang-format off */
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
    /* clang-format on */

    INLINE void tiles(mul_args *a, size_t T, const int G, const bool min)
{
    while (T > 0) {
        size_t n = T >= 9 || T == 6 ? 6 : T >= 7 ? 4 : T;
        switch (n) {
        case 1:
            tile_1(a, G, min);
            break;
        case 2:
            tile_2(a, G, min);
            break;
        case 3:
            tile_3(a, G, min);
            break;
        case 4:
            tile_4(a, G, min);
            break;
        case 5:
            tile_5(a, G, min);
            break;
        default:
            tile_6(a, G, min);
            break;
        }
        T -= n;
        a->y += n * a->ldy;
        a->q += n * a->C;
        a->d += n * a->nb, a->c32 += n * a->nb, a->m32 += n * a->nb;
        a->c16 += 2 * n * a->nb, a->m16 += 2 * n * a->nb;
    }
}

static __attribute__((noinline)) void tiles_32(mul_args *a, size_t T)
{
    tiles(a, T, 1, false);
}

static __attribute__((noinline)) void tiles_32_min(mul_args *a, size_t T)
{
    tiles(a, T, 1, true);
}

static __attribute__((noinline)) void tiles_16(mul_args *a, size_t T)
{
    tiles(a, T, 2, false);
}

static __attribute__((noinline)) void tiles_16_min(mul_args *a, size_t T)
{
    tiles(a, T, 2, true);
}

static void mul(ew_dtype t, const void *panel, const ew_xq *x, size_t b0, size_t n, size_t T, bool first, float *y,
                size_t ldy, size_t rows)
{
    const ew_q_form *form = ew__q_form(t);
    mul_args a = {.p = panel, .n = n, .C = x->C, .nb = x->C / 32, .y = y, .ldy = ldy, .first = first};
    a.q = x->q + 32 * b0;
    a.d = x->d + b0, a.c32 = x->c32 + b0, a.m32 = x->m32 + b0;
    a.c16 = x->c16 + 2 * b0, a.m16 = x->m16 + 2 * b0;
    a.k0 = (__mmask16)((1u << EW_MIN(rows, (size_t)16)) - 1);
    a.k1 = (__mmask16)((1u << (rows > 16 ? rows - 16 : 0)) - 1);
    if (form->groups == 1) {
        (form->min ? tiles_32_min : tiles_32)(&a, T);
    } else {
        (form->min ? tiles_16_min : tiles_16)(&a, T);
    }
}

const ew_qkern ew__qkern_avx512 = {
    .quant_x = quant_x,
    .dot = ew__qdot_avx512,
    .dot_tokens = EW_MATMUL_FEW,
    .rows = PANEL_ROWS,
    .kb = PANEL_KB,
    .pack = pack,
    .mul = mul,
};

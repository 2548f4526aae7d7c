/* Integer products with AVX2: panels of 8 rows. vpmaddubsw takes unsigned codes and signed activations and adds pairs in 16 bits:
 * codes of up to six bits are unsigned and added for as long as 16 bits hold them (their offset is undone by c32 or c16); codes of
 * eight bits are signed: |w| times x with the sign of w. */
#include <string.h>

#include "kern/kern_int.h"
#include "kern/load_x86.h"

#define P_UNROLL _Pragma("GCC unroll 16")

/* ---- activations ---- */

/* Of magnitudes, as bits: NaN is above all numbers. */
INLINE float max_of_8(__m256i a)
{
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(h));
}

INLINE __m256i round_x(__m256 v, __m256 id)
{
    __m256 y = _mm256_mul_ps(v, id);
    y = _mm256_and_ps(y, _mm256_cmp_ps(y, y, _CMP_ORD_Q)); /* NaN becomes 0 */
    y = _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(y);
}

INLINE int32_t sum_of_8(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static void quant_x(const float *x, const ew_xq *dst)
{
    const __m256i no_sign = _mm256_set1_epi32(INT32_MAX);
    for (size_t b = 0; b < dst->C / 32; b++, x += 32) {
        __m256 v[4];
        __m256i a = _mm256_setzero_si256();
        P_UNROLL for (int i = 0; i < 4; i++)
        {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            a = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(v[i]), no_sign), a);
        }
        float top = max_of_8(a), d = top / 127.0f;
        __m256 id = _mm256_set1_ps(top > EW_XQ_TINY ? 127.0f / top : 0.0f);
        __m256i n[4];
        P_UNROLL for (int i = 0; i < 4; i++)
        {
            n[i] = round_x(v[i], id);
        }
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(dst->q + 32 * b), bytes);
        int32_t s0 = sum_of_8(_mm256_add_epi32(n[0], n[1])), s1 = sum_of_8(_mm256_add_epi32(n[2], n[3]));
        dst->d[b] = d;
        dst->c32[b] = -128 * (s0 + s1);
        dst->m32[b] = d * (float)(s0 + s1);
        dst->c16[2 * b] = -128 * s0;
        dst->c16[2 * b + 1] = -128 * s1;
        dst->m16[2 * b] = d * (float)s0;
        dst->m16[2 * b + 1] = d * (float)s1;
    }
}

/* ---- panels ---- */

#define PR 8
#define PANEL_ROWS 8
#define PANEL_KB 32

typedef struct panel_t {
    _Alignas(64) uint8_t codes[PANEL_KB][8][PANEL_ROWS * 4];
    _Alignas(64) float s[PANEL_KB][2][PANEL_ROWS];
    _Alignas(64) float m[PANEL_KB][2][PANEL_ROWS];
} panel_t;
_Static_assert(sizeof(panel_t) <= EW_QPANEL_BYTES, "a panel fits");

typedef __m256i pi;
typedef __m256 pf;
#define p_and(a, b) _mm256_and_si256(a, b)
#define p_or(a, b) _mm256_or_si256(a, b)
#define p_add8(a, b) _mm256_add_epi8(a, b)
#define p_add32(a, b) _mm256_add_epi32(a, b)
#define p_srl(v, n) _mm256_srli_epi32(v, n)
#define p_sll(v, n) _mm256_slli_epi32(v, n)
#define p_sra(v, n) _mm256_srai_epi32(v, n)
#define p_set8(c) _mm256_set1_epi8((char)(c))
#define p_set32(c) _mm256_set1_epi32(c)
#define p_lut(table, index) _mm256_shuffle_epi8(table, index)
#define p_itof(v) _mm256_cvtepi32_ps(v)
#define f_mul(a, b) _mm256_mul_ps(a, b)
#define f_neg(a) _mm256_sub_ps(_mm256_setzero_ps(), a)
#define p_storei(p, v) _mm256_store_si256((__m256i *)(void *)(p), v)
#define p_storef(p, v) _mm256_store_ps(p, v)
#define P_BIAS(lo) 0
#define P_SIGNED(v) (v)
#define p_iq4_levels() _mm256_broadcastsi128_si256(_mm_setr_epi8(EW_IQ4_LEVELS))

INLINE pf p_halftof(pi v)
{
    pi w = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(w));
}

INLINE pi p_or_bit(pi v, pi h, int k, int to)
{
    pi bit = p_set8(1 << k);
    return p_or(v, p_and(_mm256_cmpeq_epi8(p_and(h, bit), bit), p_set8(1 << to)));
}

/* Bits 4 i .. 4 i + 3 of each lane of h become bit 4 of the bytes of v. */
INLINE pi p_or_bits(pi v, pi h, int i)
{
    const int byte = i / 2, dwords = byte | byte << 8 | byte << 16 | byte << 24;
    const __m128i lane = _mm_setr_epi32(dwords, dwords + 0x04040404, dwords + 0x08080808, dwords + 0x0c0c0c0c);
    pi spread = _mm256_shuffle_epi8(h, _mm256_broadcastsi128_si256(lane));
    pi bit = p_set32(i % 2 == 0 ? 0x08040201 : (int)0x80402010u);
    return p_or(v, p_and(_mm256_cmpeq_epi8(p_and(spread, bit), bit), p_set8(16)));
}

INLINE void load_planes(const uint8_t *const r[8], size_t at, pi o[4])
{
    pi v[4];
    P_UNROLL for (int i = 0; i < 4; i++)
    {
        v[i] = _mm256_set_m128i(load16(r[4 + i] + at), load16(r[i] + at));
    }
    pi a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
    pi c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
    o[0] = _mm256_unpacklo_epi64(a, c);
    o[1] = _mm256_unpackhi_epi64(a, c);
    o[2] = _mm256_unpacklo_epi64(b, d);
    o[3] = _mm256_unpackhi_epi64(b, d);
}

INLINE pf load_halves(const uint8_t *const r[8], size_t at)
{
    return _mm256_cvtph_ps(_mm_setr_epi16(half_at(r[0] + at), half_at(r[1] + at), half_at(r[2] + at),
                                          half_at(r[3] + at), half_at(r[4] + at), half_at(r[5] + at),
                                          half_at(r[6] + at), half_at(r[7] + at)));
}

#include "kern/qpack_x86.h"

INLINE __m256i x_bytes(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, sizeof(v));
    return _mm256_set1_epi32(v);
}

static const int32_t mask_table[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

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
    __m256i mask;
    bool first;
} mul_args;

/* Codes a dword i of 8 rows times x, added to 16-bit sums (BITS < 8: of which W fit) or 32-bit ones. */
#define DOT4(BITS, w, a, x, s)                                                                                         \
    ((BITS) < 8 ? _mm256_add_epi16(s, _mm256_maddubs_epi16(w, x))                                                      \
                : _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, _mm256_sign_epi8(x, w)), one)))

/* N tokens against a panel. G scales in a block; min: has minima; codes of BITS bits, the file's less `sh` bits of 128. */
#define TILE(N)                                                                                                        \
    INLINE void tile_##N(const mul_args *a, const int G, const bool min, const int BITS, const int sh)                 \
    {                                                                                                                  \
        const int wide = BITS <= 4 ? 8 : BITS == 5 ? 4 : BITS == 6 ? 2 : 8, run = wide < 8 / G ? wide : 8 / G;         \
        const __m256i one = _mm256_set1_epi16(1);                                                                      \
        const int8_t *q = a->q;                                                                                        \
        const size_t C = a->C, nb = a->nb;                                                                             \
        __m256 f[N];                                                                                                   \
        P_UNROLL for (int t = 0; t < N; t++)                                                                           \
        {                                                                                                              \
            f[t] = a->first ? _mm256_setzero_ps() : _mm256_maskload_ps(a->y + (size_t)t * a->ldy, a->mask);            \
        }                                                                                                              \
        for (size_t b = 0; b < a->n; b++, q += 32) {                                                                   \
            P_UNROLL for (int g = 0; g < G; g++)                                                                       \
            {                                                                                                          \
                __m256i s[N];                                                                                          \
                P_UNROLL for (int t = 0; t < N; t++)                                                                   \
                {                                                                                                      \
                    size_t at = (size_t)t * nb + b;                                                                    \
                    s[t] = min || BITS == 8 ? _mm256_setzero_si256()                                                   \
                                            : _mm256_set1_epi32(G == 1 ? a->c32[at] : a->c16[2 * at + (size_t)g]);     \
                    s[t] = _mm256_srai_epi32(s[t], sh);                                                                \
                }                                                                                                      \
                P_UNROLL for (int i0 = 8 / G * g; i0 < 8 / G * (g + 1); i0 += run)                                     \
                {                                                                                                      \
                    __m256i part[N];                                                                                   \
                    P_UNROLL for (int t = 0; t < N; t++)                                                               \
                    {                                                                                                  \
                        part[t] = _mm256_setzero_si256();                                                              \
                    }                                                                                                  \
                    P_UNROLL for (int i = i0; i < i0 + run; i++)                                                       \
                    {                                                                                                  \
                        __m256i w = _mm256_load_si256((const __m256i *)(const void *)a->p->codes[b][i]);               \
                        __m256i abs = _mm256_abs_epi8(w);                                                              \
                        P_UNROLL for (int t = 0; t < N; t++)                                                           \
                        {                                                                                              \
                            part[t] = DOT4(BITS, w, abs, x_bytes(q + (size_t)t * C + 4 * i), part[t]);                 \
                        }                                                                                              \
                    }                                                                                                  \
                    P_UNROLL for (int t = 0; t < N; t++)                                                               \
                    {                                                                                                  \
                        s[t] = _mm256_add_epi32(s[t], BITS == 8 ? part[t] : _mm256_madd_epi16(part[t], one));          \
                    }                                                                                                  \
                }                                                                                                      \
                __m256 d = _mm256_load_ps(a->p->s[b][g]), m = min ? _mm256_load_ps(a->p->m[b][g]) : d;                 \
                P_UNROLL for (int t = 0; t < N; t++)                                                                   \
                {                                                                                                      \
                    size_t at = (size_t)t * nb + b;                                                                    \
                    __m256 sd = _mm256_mul_ps(d, _mm256_set1_ps(a->d[at]));                                            \
                    f[t] = _mm256_fmadd_ps(sd, _mm256_cvtepi32_ps(s[t]), f[t]);                                        \
                    if (min) {                                                                                         \
                        __m256 mx = _mm256_set1_ps(G == 1 ? a->m32[at] : a->m16[2 * at + (size_t)g]);                  \
                        f[t] = _mm256_fnmadd_ps(m, mx, f[t]);                                                          \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        P_UNROLL for (int t = 0; t < N; t++)                                                                           \
        {                                                                                                              \
            _mm256_maskstore_ps(a->y + (size_t)t * a->ldy, a->mask, f[t]);                                             \
        }                                                                                                              \
    }
/* clang-format off */
TILE(1) TILE(2) TILE(4)
    /* clang-format on */

    INLINE void tiles(mul_args *a, size_t T, const int G, const bool min, const int BITS, const int sh)
{
    while (T > 0) {
        size_t n = T >= 4 ? 4 : T >= 2 ? 2 : 1;
        if (n == 4) {
            tile_4(a, G, min, BITS, sh);
        } else if (n == 2) {
            tile_2(a, G, min, BITS, sh);
        } else {
            tile_1(a, G, min, BITS, sh);
        }
        T -= n;
        a->y += n * a->ldy;
        a->q += n * a->C;
        a->d += n * a->nb, a->c32 += n * a->nb, a->m32 += n * a->nb;
        a->c16 += 2 * n * a->nb, a->m16 += 2 * n * a->nb;
    }
}

/* The combinations that there are. -128 * sum >> sh is -offset * sum. */
#define TILES(name, G, min, bits, sh)                                                                                  \
    static __attribute__((noinline)) void name(mul_args *a, size_t T)                                                  \
    {                                                                                                                  \
        tiles(a, T, G, min, bits, sh);                                                                                 \
    }
/* clang-format off */
TILES(tiles_4, 1, false, 4, 4)
TILES(tiles_5, 1, false, 5, 3)
TILES(tiles_8, 1, false, 8, 0)
TILES(tiles_4_min, 1, true, 4, 0)
TILES(tiles_5_min, 1, true, 5, 0)
TILES(tiles_2_min, 2, true, 2, 0)
TILES(tiles_3, 2, false, 3, 5)
TILES(tiles_6, 2, false, 6, 2)
/* clang-format on */

static void (*tiles_of(const ew_q_form *f))(mul_args *, size_t)
{
    switch (f->bits) {
    case 2:
        return tiles_2_min;
    case 3:
        return tiles_3;
    case 4:
        return f->min ? tiles_4_min : tiles_4;
    case 5:
        return f->min ? tiles_5_min : tiles_5;
    case 6:
        return tiles_6;
    default:
        return tiles_8;
    }
}

static void mul(ew_dtype t, const void *panel, const ew_xq *x, size_t b0, size_t n, size_t T, bool first, float *y,
                size_t ldy, size_t rows)
{
    mul_args a = {.p = panel, .n = n, .C = x->C, .nb = x->C / 32, .y = y, .ldy = ldy, .first = first};
    a.q = x->q + 32 * b0;
    a.d = x->d + b0, a.c32 = x->c32 + b0, a.m32 = x->m32 + b0;
    a.c16 = x->c16 + 2 * b0, a.m16 = x->m16 + 2 * b0;
    a.mask = _mm256_loadu_si256((const __m256i *)(const void *)(mask_table + 8 - rows));
    tiles_of(ew__q_form(t))(&a, T);
}

const ew_qkern ew__qkern_avx2 = {
    .quant_x = quant_x,
    .dot = ew__qdot_avx2,
    .dot_tokens = EW_MATMUL_FEW,
    .rows = PANEL_ROWS,
    .kb = PANEL_KB,
    .pack = pack,
    .mul = mul,
};

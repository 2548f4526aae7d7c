/* Products of BF16 pairs with AVX512_BF16: vdpbf16ps adds both products of a pair to an f32 lane. Denormals count as zero. */
#include <immintrin.h>
#include <string.h>

#include "kern/kern_int.h"

static inline __m512bh pairs_of(__m512 x)
{
    return (__m512bh)_mm512_castps_si512(x);
}

#define MICRO(M)                                                                                                       \
    static void micro_##M(size_t K, const float *a, size_t a_row, const float *bp, float *c, size_t ldc, bool add)     \
    {                                                                                                                  \
        __m512 acc[M][2];                                                                                              \
        const float *p[4];                                                                                             \
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)                                                            \
        {                                                                                                              \
            p[i] = a + 3 * (size_t)i * a_row;                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                           \
        {                                                                                                              \
            acc[i][0] = add ? _mm512_loadu_ps(c + (size_t)i * ldc) : _mm512_setzero_ps();                              \
            acc[i][1] = add ? _mm512_loadu_ps(c + (size_t)i * ldc + 16) : _mm512_setzero_ps();                         \
        }                                                                                                              \
        for (size_t k = 0; k < K; k++, bp += 32) {                                                                     \
            __m512bh b0 = pairs_of(_mm512_load_ps(bp)), b1 = pairs_of(_mm512_load_ps(bp + 16));                        \
            _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                       \
            {                                                                                                          \
                __m512bh x = pairs_of(_mm512_set1_ps(p[i / 3][(size_t)(i % 3) * a_row + k]));                          \
                acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);                                                        \
                acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);                                                        \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                           \
        {                                                                                                              \
            _mm512_storeu_ps(c + (size_t)i * ldc, acc[i][0]);                                                          \
            _mm512_storeu_ps(c + (size_t)i * ldc + 16, acc[i][1]);                                                     \
        }                                                                                                              \
    }
/* clang-format off */
MICRO(1) MICRO(2) MICRO(3) MICRO(4) MICRO(5) MICRO(6) MICRO(7) MICRO(8) MICRO(9) MICRO(10) MICRO(11) MICRO(12)
    /* clang-format on */

    static void micro(size_t m, size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c,
                      size_t ldc, bool add)
{
    static void (*const table[12])(size_t, const float *, size_t, const float *, float *, size_t, bool) = {
        micro_1, micro_2, micro_3, micro_4, micro_5, micro_6, micro_7, micro_8, micro_9, micro_10, micro_11, micro_12};
    EW_DASSERT(a_col == 1);
    (void)a_col;
    table[m - 1](K, a, a_row, bp, c, ldc, add);
}

static void row(const float *x, size_t n, void *y)
{
    uint8_t *to = y;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
        _mm512_storeu_si512((void *)(to + 2 * i), (__m512i)v);
    }
    if (i < n) {
        const size_t m = n - i;
        const __mmask32 all = (__mmask32)((1ull << m) - 1);
        __m512 lo = _mm512_maskz_loadu_ps((__mmask16)all, x + i);
        __m512 hi = _mm512_maskz_loadu_ps((__mmask16)(all >> 16), x + i + 16);
        __mmask16 dwords = (__mmask16)((1u << (m + 1) / 2) - 1);
        _mm512_mask_storeu_epi32(to + 2 * i, dwords, (__m512i)_mm512_cvtne2ps_pbh(hi, lo));
    }
}

static void pairs(const float *a, const float *b, size_t n, void *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __m512i lo = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(a + i)));
        __m512i hi = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(b + i)));
        _mm512_store_si512((void *)((float *)y + i), _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
    }
}

const ew_bf16 ew__bf16_avx512 = {.micro = micro, .row = row, .pairs = pairs};

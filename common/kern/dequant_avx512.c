/* Rows of the weights that are tuned over most, as floats, a block at a time; the other types as AVX2 has them. The same operations
 * on every element as in the reference, so the same bits. */
#include <immintrin.h>

#include "kern/kern_int.h"
#include "kern/load_x86.h"

INLINE __m512 scale_at(const uint8_t *p)
{
    return _mm512_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half_at(p)))));
}

INLINE __m512 floats_of(__m128i codes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

static void q8_0(const uint8_t *p, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i += 32, p += 34) {
        const __m512 d = scale_at(p);
        _mm512_storeu_ps(dst + i, _mm512_mul_ps(floats_of(load16(p + 2)), d));
        _mm512_storeu_ps(dst + i + 16, _mm512_mul_ps(floats_of(load16(p + 18)), d));
    }
}

/* Codes of 4 bits mean levels that a shuffle knows: -8 .. 7, or those of IQ4_NL. */
INLINE void nibbles_of(const uint8_t *p, float *dst, size_t n, const __m128i levels)
{
    const __m128i low = _mm_set1_epi8(15);
    for (size_t i = 0; i < n; i += 32, p += 18) {
        const __m512 d = scale_at(p);
        const __m128i q = load16(p + 2);
        const __m128i a = _mm_and_si128(q, low), b = _mm_and_si128(_mm_srli_epi16(q, 4), low);
        _mm512_storeu_ps(dst + i, _mm512_mul_ps(floats_of(_mm_shuffle_epi8(levels, a)), d));
        _mm512_storeu_ps(dst + i + 16, _mm512_mul_ps(floats_of(_mm_shuffle_epi8(levels, b)), d));
    }
}

static void q4_0(const uint8_t *p, float *dst, size_t n)
{
    nibbles_of(p, dst, n, _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
}

static void iq4_nl(const uint8_t *p, float *dst, size_t n)
{
    nibbles_of(p, dst, n, _mm_setr_epi8(EW_IQ4_LEVELS));
}

static void f16(const uint8_t *p, float *dst, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(load32(p + 2 * i)));
    }
    ew__dequant_row_ref(EW_DTYPE_F16, p + 2 * i, dst + i, n - i);
}

void ew__dequant_row_avx512(ew_dtype t, const void *src, float *dst, size_t n)
{
    switch (t) {
    case EW_DTYPE_Q8_0:
        q8_0(src, dst, n);
        break;
    case EW_DTYPE_Q4_0:
        q4_0(src, dst, n);
        break;
    case EW_DTYPE_IQ4_NL:
        iq4_nl(src, dst, n);
        break;
    case EW_DTYPE_F16:
        f16(src, dst, n);
        break;
    default:
        ew__dequant_row_avx2(t, src, dst, n);
        break;
    }
}

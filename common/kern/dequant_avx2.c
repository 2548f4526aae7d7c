/* Rows of quantised weights as floats, for both vector tables: (code - off) * s - m, in the order of the reference's operations. */
#include "kern/qload_avx2.h"

/* Codes 8 j .. 8 j + 7 of a vector of 32 as floats. */
INLINE __m256 eight(const bool is_signed, __m256i q, int j)
{
    __m128i half = j < 2 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
    __m128i low = j % 2 == 0 ? half : _mm_srli_si128(half, 8);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(low) : _mm256_cvtepu8_epi32(low));
}

INLINE void put_blocks(const step_type d, const step *o, size_t blocks, float *dst)
{
    const __m256 off = _mm256_set1_ps(d.off);
    _Alignas(32) float s[16], m[16] = {0};
    for (int i = 0; i < d.groups; i++) {
        _mm256_store_ps(s + 8 * i, o->s[i]);
        if (d.min) {
            _mm256_store_ps(m + 8 * i, o->m[i]);
        }
    }
    for (size_t b = 0; b < blocks; b++) {
        UNROLL for (int j = 0; j < 4; j++)
        {
            size_t g = d.groups == 1 ? b : 2 * b + (size_t)j / 2;
            __m256 v = eight(d.is_signed, o->q[b], j);
            v = d.off != 0.0f ? _mm256_sub_ps(v, off) : v;
            v = _mm256_mul_ps(v, _mm256_set1_ps(s[g]));
            _mm256_storeu_ps(dst + 32 * b + 8 * (size_t)j, d.min ? _mm256_sub_ps(v, _mm256_set1_ps(m[g])) : v);
        }
    }
}

INLINE void dequant(const step_type d, const uint8_t *src, float *dst, size_t n)
{
    size_t nb = n / 32, b = 0;
    const uint8_t *end = src + nb / 8 * d.bytes + nb % 8 * (d.bytes / 8);
    step o;
    for (; b + 8 <= nb; b += 8, src += d.bytes) {
        d.load(src, &o);
        put_blocks(d, &o, 8, dst + 32 * b);
    }
    if (b < nb) {
        load_last(d, src, nb - b, end, &o);
        put_blocks(d, &o, nb - b, dst + 32 * b);
    }
}

#define DEQUANT(name, type, ...)                                                                                       \
    static void dequant_##name(const uint8_t *src, float *dst, size_t n)                                               \
    {                                                                                                                  \
        dequant((step_type){__VA_ARGS__}, src, dst, n);                                                                \
    }
EACH_STEP_TYPE(DEQUANT)
#define ENTRY(name, type, ...) [type] = dequant_##name,

static void dequant_f16(const uint8_t *src, float *dst, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(load16(src + 2 * i)));
    }
    ew__dequant_row_ref(EW_DTYPE_F16, src + 2 * i, dst + i, n - i);
}

static void dequant_bf16(const uint8_t *src, float *dst, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(src + 2 * i)), 16);
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(v));
    }
    ew__dequant_row_ref(EW_DTYPE_BF16, src + 2 * i, dst + i, n - i);
}

void ew__dequant_row_avx2(ew_dtype t, const void *src, float *dst, size_t n)
{
    typedef void (*dequant_fn)(const uint8_t *, float *, size_t);
    static const dequant_fn table[] = {
        [EW_DTYPE_F16] = dequant_f16, [EW_DTYPE_BF16] = dequant_bf16, EACH_STEP_TYPE(ENTRY)};
    if ((size_t)t < EW_COUNT(table) && table[t] != NULL) {
        table[t](src, dst, n);
    } else {
        ew__dequant_row_ref(t, src, dst, n);
    }
}

/* Unaligned loads out of packed blocks, for the integer products of AVX2 and AVX-512. */
#ifndef EW_KERN_LOAD_X86_H
#define EW_KERN_LOAD_X86_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kern/kern_int.h"

#define INLINE static inline __attribute__((always_inline))

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

/* Calls for the n bytes that stand EW_READ_AHEAD behind w. */
INLINE void read_ahead(const uint8_t *w, size_t n)
{
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch((const char *)w + EW_READ_AHEAD + i, _MM_HINT_T0);
    }
}

#endif

/* Dot products of bytes: which one, and the plain one. */
#include "rag/rag_int.h"
#include "sys/cpu.h"

int32_t ew__rag_dot_ref(const int8_t *a, const int8_t *b, size_t n)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

ew__rag_dot_fn ew__rag_dot(void)
{
#if defined(__x86_64__)
    if ((ew_cpu_features() & EW_CPU_AVX2) != 0) {
        return ew__rag_dot_avx2;
    }
#elif defined(__aarch64__)
    return ew__rag_dot_neon;
#endif
    return ew__rag_dot_ref;
}

/* Loops that do nothing but read, and nothing but multiply. */
#include "probe/peak.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "sys/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define READ_BYTES ((size_t)256 << 20)
#define READ_PART ((size_t)4 << 20)
#define READ_ROUNDS 5
#define MUL_TIMES 2000000u
#define MUL_ROUNDS 3

/* ---- memory ---- */

typedef struct reading {
    const uint64_t *data;
    uint64_t *sum; /* one per part: the reads may not be dropped */
} reading;

static void read_parts(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const reading *r = ctx;
    (void)thread;
    for (size_t part = begin; part < end; part++) {
        const uint64_t *p = r->data + part * (READ_PART / sizeof(uint64_t));
        uint64_t s[8] = {0};
        for (size_t i = 0; i < READ_PART / sizeof(uint64_t); i += 8) {
            for (size_t j = 0; j < 8; j++) {
                s[j] ^= p[i + j];
            }
        }
        for (size_t j = 1; j < 8; j++) {
            s[0] ^= s[j];
        }
        r->sum[part] = s[0];
    }
}

ew_status ew_peak_read(ew_pool *pool, double *ret_bytes_per_s, ew_error *reterr)
{
    uint64_t sums[READ_BYTES / READ_PART];
    uint64_t *data = ew_aligned(READ_BYTES);
    if (data == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory to measure how fast it is read");
    }
    memset(data, 1, READ_BYTES);
    reading r = {data, sums};
    double best = 0;
    for (int i = 0; i < READ_ROUNDS; i++) {
        uint64_t t0 = ew_mono_ns();
        ew_par_for(pool, EW_COUNT(sums), 1, read_parts, &r);
        double s = (double)(ew_mono_ns() - t0) * 1e-9;
        best = EW_MAX(best, (double)READ_BYTES / EW_MAX(s, 1e-9));
    }
    ew_free(data);
    *ret_bytes_per_s = best;
    return EW_OK;
}

/* ---- integer units: each loop does MUL_TIMES rounds and returns the operations of one round ---- */

typedef size_t (*multiply_fn)(int32_t *ret_sum);

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) static size_t multiply_vnni(int32_t *ret_sum)
{
    __m512i acc[12];
    __m512i a = _mm512_set1_epi32(0x01020304);
    __m512i b = _mm512_set1_epi32(0x04030201);
    for (int i = 0; i < 12; i++) {
        acc[i] = _mm512_setzero_si512();
    }
    for (uint32_t n = 0; n < MUL_TIMES; n++) {
        __asm__ volatile("" : "+v"(a), "+v"(b));
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++)
        {
            acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
        }
    }
    for (int i = 1; i < 12; i++) {
        acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    }
    *ret_sum = _mm_cvtsi128_si32(_mm512_castsi512_si128(acc[0])); /* any of them: it shall not be left out */
    return (size_t)12 * 128;
}

__attribute__((target("avx2"))) static size_t multiply_avx2(int32_t *ret_sum)
{
    __m256i acc[8];
    __m256i a = _mm256_set1_epi32(0x01020304);
    __m256i b = _mm256_set1_epi32(0x04030201);
    const __m256i one = _mm256_set1_epi16(1);
    for (int i = 0; i < 8; i++) {
        acc[i] = _mm256_setzero_si256();
    }
    for (uint32_t n = 0; n < MUL_TIMES; n++) {
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)
        {
            __asm__ volatile("" : "+x"(a), "+x"(b));
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
        }
    }
    int32_t out[8];
    for (int i = 1; i < 8; i++) {
        acc[0] = _mm256_add_epi32(acc[0], acc[i]);
    }
    memcpy(out, &acc[0], sizeof(out));
    *ret_sum = out[0];
    return (size_t)8 * 64;
}
#elif defined(__aarch64__)
__attribute__((target("arch=armv8.2-a+dotprod"))) static size_t multiply_sdot(int32_t *ret_sum)
{
    int32x4_t acc[12];
    int8x16_t a = vdupq_n_s8(3);
    int8x16_t b = vdupq_n_s8(2);
    for (int i = 0; i < 12; i++) {
        acc[i] = vdupq_n_s32(0);
    }
    for (uint32_t n = 0; n < MUL_TIMES; n++) {
        __asm__ volatile("" : "+w"(a), "+w"(b));
        for (int i = 0; i < 12; i++) {
            acc[i] = vdotq_s32(acc[i], a, b);
        }
    }
    for (int i = 1; i < 12; i++) {
        acc[0] = vaddq_s32(acc[0], acc[i]);
    }
    *ret_sum = vaddvq_s32(acc[0]);
    return (size_t)12 * 32;
}

__attribute__((target("arch=armv8.2-a+i8mm"))) static size_t multiply_smmla(int32_t *ret_sum)
{
    int32x4_t acc[12];
    int8x16_t a = vdupq_n_s8(3);
    int8x16_t b = vdupq_n_s8(2);
    for (int i = 0; i < 12; i++) {
        acc[i] = vdupq_n_s32(0);
    }
    for (uint32_t n = 0; n < MUL_TIMES; n++) {
        __asm__ volatile("" : "+w"(a), "+w"(b));
        for (int i = 0; i < 12; i++) {
            acc[i] = vmmlaq_s32(acc[i], a, b);
        }
    }
    for (int i = 1; i < 12; i++) {
        acc[0] = vaddq_s32(acc[0], acc[i]);
    }
    *ret_sum = vaddvq_s32(acc[0]);
    return (size_t)12 * 64;
}
#endif

static multiply_fn best_multiply(void)
{
    uint32_t cpu = ew_cpu_features();
    (void)cpu;
#if defined(__x86_64__)
    if ((cpu & EW_CPU_AVX512VNNI) != 0) {
        return multiply_vnni;
    }
    if ((cpu & EW_CPU_AVX2) != 0) {
        return multiply_avx2;
    }
#elif defined(__aarch64__)
    if ((cpu & EW_CPU_I8MM) != 0) {
        return multiply_smmla;
    }
    if ((cpu & EW_CPU_DOTPROD) != 0) {
        return multiply_sdot;
    }
#endif
    return NULL;
}

typedef struct multiplying {
    multiply_fn fn;
    size_t ops[EW_POOL_THREADS_MAX];
    int32_t sum[EW_POOL_THREADS_MAX];
} multiplying;

static void multiply_all(size_t begin, size_t end, unsigned thread, void *ctx)
{
    multiplying *m = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        m->ops[i] = m->fn(&m->sum[i]);
    }
}

double ew_peak_int8(ew_pool *pool)
{
    multiplying m = {.fn = best_multiply()};
    unsigned n = ew_pool_threads(pool);
    double best = 0;
    for (int i = 0; i < MUL_ROUNDS && m.fn != NULL; i++) {
        uint64_t t0 = ew_mono_ns();
        ew_par_for(pool, n, 1, multiply_all, &m);
        double s = (double)(ew_mono_ns() - t0) * 1e-9;
        best = EW_MAX(best, (double)m.ops[0] * MUL_TIMES * n / EW_MAX(s, 1e-9));
    }
    return best;
}

/* Built without architecture flags: this file runs before anything is known about the processor. */
#include "sys/cpu.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

static uint32_t bit_if(uint32_t reg, unsigned bit, uint32_t feature)
{
    return ((reg >> bit) & 1u) != 0 ? feature : 0;
}

/* Intel SDM vol. 2A, CPUID: leaf 1 ECX, leaf 7.0 EBX/ECX, leaf 7.1 EAX; XCR0 bits 1,2 (AVX) and 5-7 (AVX-512). */
uint32_t ew_cpu_features(void)
{
    uint32_t a, b, c, d;
    uint32_t f = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || ((c >> 27) & 1u) == 0 || ((c >> 28) & 1u) == 0) {
        return 0; /* no OSXSAVE or no AVX */
    }
    uint64_t xcr0 = xgetbv0();
    if ((xcr0 & 0x6) != 0x6) {
        return 0;
    }
    f |= bit_if(c, 12, EW_CPU_FMA) | bit_if(c, 29, EW_CPU_F16C);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) {
        return f;
    }
    uint32_t max_sub = a;
    f |= bit_if(b, 5, EW_CPU_AVX2);
    if ((xcr0 & 0xe0) == 0xe0 && ((b >> 16) & 1u) != 0) {
        f |= EW_CPU_AVX512F | bit_if(b, 30, EW_CPU_AVX512BW) | bit_if(b, 31, EW_CPU_AVX512VL);
        f |= bit_if(b, 17, EW_CPU_AVX512DQ) | bit_if(c, 11, EW_CPU_AVX512VNNI);
        if (max_sub >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
            f |= bit_if(a, 5, EW_CPU_AVX512BF16);
        }
    }
    return f;
}

const char *ew_cpu_arch(void)
{
    return "x86_64";
}

#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

uint32_t ew_cpu_features(void)
{
    uint32_t f = EW_CPU_NEON;
    f |= (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0 ? EW_CPU_DOTPROD : 0;
    f |= (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0 ? EW_CPU_I8MM : 0;
    return f;
}

const char *ew_cpu_arch(void)
{
    return "aarch64";
}

#else
uint32_t ew_cpu_features(void)
{
    return 0;
}

const char *ew_cpu_arch(void)
{
    return "generic";
}
#endif

char *ew_cpu_names(uint32_t features, char *dst, size_t size)
{
    static const char *const names[] = {"avx2",     "fma",        "f16c",       "avx512f", "avx512bw", "avx512vl",
                                        "avx512dq", "avx512vnni", "avx512bf16", "neon",    "dotprod",  "i8mm"};
    size_t used = 0;
    dst[0] = '\0';
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if ((features & (1u << i)) != 0 && used < size) {
            int n = snprintf(dst + used, size - used, "%s%s", used == 0 ? "" : " ", names[i]);
            used += n > 0 ? (size_t)n : 0;
        }
    }
    return dst;
}

char *ew_cpu_model(char *dst, size_t size)
{
    (void)ew_str_copy(dst, size, ew_cpu_arch());
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (f == NULL) {
        return dst;
    }
    char line[512];
    while (fgets(line, sizeof(line), f) != NULL) {
        const char *colon = strchr(line, ':');
        if (ew_str_starts(line, "model name") && colon != NULL) {
            line[strcspn(line, "\n")] = '\0';
            (void)ew_str_copy(dst, size, colon + 1 + (colon[1] == ' '));
            break;
        }
    }
    (void)fclose(f);
    return dst;
}

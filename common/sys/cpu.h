/* What the processor can do: instruction sets that both the core and the operating system support (cpuid and xgetbv on
 * x86-64, auxiliary vector on aarch64). Locking: any thread; computed at each call, a few hundred nanoseconds. */
#ifndef EW_SYS_CPU_H
#define EW_SYS_CPU_H

#include "base/base.h"

#define EW_CPU_AVX2 (1u << 0)
#define EW_CPU_FMA (1u << 1)
#define EW_CPU_F16C (1u << 2)
#define EW_CPU_AVX512F (1u << 3)
#define EW_CPU_AVX512BW (1u << 4)
#define EW_CPU_AVX512VL (1u << 5)
#define EW_CPU_AVX512DQ (1u << 6)
#define EW_CPU_AVX512VNNI (1u << 7)
#define EW_CPU_AVX512BF16 (1u << 8)
#define EW_CPU_NEON (1u << 9)
#define EW_CPU_DOTPROD (1u << 10)
#define EW_CPU_I8MM (1u << 11)

uint32_t ew_cpu_features(void);
/* "avx2 fma f16c"; returns dst. */
char *ew_cpu_names(uint32_t features, char *dst, size_t size);
/* "x86_64", "aarch64", … as compiled. */
const char *ew_cpu_arch(void);
/* "Intel(R) Xeon(R) …" from /proc/cpuinfo, or the architecture's name; returns dst. */
char *ew_cpu_model(char *dst, size_t size);

#endif

/* The table of element types, f16 and bf16, and the choice of the row conversion. */
#include "kern/dtype.h"

#include <string.h>
#include <strings.h>

#include "kern/kern_int.h"
#include "kern/quant_int.h"

typedef struct dtype_row {
    ew_dtype_info info;
    ew_dequant_fn *dequant;
    ew_quant_fn *quant;
} dtype_row;

static ew_dequant_fn dequant_f32, dequant_f16, dequant_bf16;
static ew_quant_fn quant_f32, quant_f16, quant_bf16;

#define KNOWN(name, elems, bytes)                                                                                      \
    {                                                                                                                  \
        {name, elems, bytes, false, false}, NULL, NULL                                                                 \
    }
#define FULL(name, elems, bytes, fn)                                                                                   \
    {                                                                                                                  \
        {name, elems, bytes, true, true}, dequant_##fn, quant_##fn                                                     \
    }
#define BLOCK(name, elems, fn)                                                                                         \
    {                                                                                                                  \
        {name, elems, sizeof(ew_block_##fn), true, true}, ew__dequant_##fn, ew__quant_##fn                             \
    }

/* By GGML's number; gaps have no name. */
static const dtype_row dtypes[] = {
    /* clang-format off */
    [EW_DTYPE_F32]     = FULL("F32", 1, 4, f32),
    [EW_DTYPE_F16]     = FULL("F16", 1, 2, f16),
    [EW_DTYPE_Q4_0]    = BLOCK("Q4_0", 32, q4_0),
    [EW_DTYPE_Q4_1]    = BLOCK("Q4_1", 32, q4_1),
    [EW_DTYPE_Q5_0]    = BLOCK("Q5_0", 32, q5_0),
    [EW_DTYPE_Q5_1]    = BLOCK("Q5_1", 32, q5_1),
    [EW_DTYPE_Q8_0]    = BLOCK("Q8_0", 32, q8_0),
    [EW_DTYPE_Q8_1]    = KNOWN("Q8_1", 32, 36),
    [EW_DTYPE_Q2_K]    = BLOCK("Q2_K", EW_QK, q2_k),
    [EW_DTYPE_Q3_K]    = BLOCK("Q3_K", EW_QK, q3_k),
    [EW_DTYPE_Q4_K]    = BLOCK("Q4_K", EW_QK, q4_k),
    [EW_DTYPE_Q5_K]    = BLOCK("Q5_K", EW_QK, q5_k),
    [EW_DTYPE_Q6_K]    = BLOCK("Q6_K", EW_QK, q6_k),
    [EW_DTYPE_Q8_K]    = KNOWN("Q8_K", 256, 292),
    [EW_DTYPE_IQ2_XXS] = KNOWN("IQ2_XXS", 256, 66),
    [EW_DTYPE_IQ2_XS]  = KNOWN("IQ2_XS", 256, 74),
    [EW_DTYPE_IQ3_XXS] = KNOWN("IQ3_XXS", 256, 98),
    [EW_DTYPE_IQ1_S]   = KNOWN("IQ1_S", 256, 50),
    [EW_DTYPE_IQ4_NL]  = BLOCK("IQ4_NL", 32, iq4_nl),
    [EW_DTYPE_IQ3_S]   = KNOWN("IQ3_S", 256, 110),
    [EW_DTYPE_IQ2_S]   = KNOWN("IQ2_S", 256, 82),
    [EW_DTYPE_IQ4_XS]  = BLOCK("IQ4_XS", EW_QK, iq4_xs),
    [EW_DTYPE_I8]      = KNOWN("I8", 1, 1),
    [EW_DTYPE_I16]     = KNOWN("I16", 1, 2),
    [EW_DTYPE_I32]     = KNOWN("I32", 1, 4),
    [EW_DTYPE_I64]     = KNOWN("I64", 1, 8),
    [EW_DTYPE_F64]     = KNOWN("F64", 1, 8),
    [EW_DTYPE_IQ1_M]   = KNOWN("IQ1_M", 256, 56),
    [EW_DTYPE_BF16]    = FULL("BF16", 1, 2, bf16),
    [EW_DTYPE_TQ1_0]   = KNOWN("TQ1_0", 256, 54),
    [EW_DTYPE_TQ2_0]   = KNOWN("TQ2_0", 256, 66),
    [EW_DTYPE_MXFP4]   = KNOWN("MXFP4", 32, 17),
    /* clang-format on */
};

const ew_dtype_info *ew_dtype_get(ew_dtype t)
{
    size_t i = (size_t)t;
    return i < EW_COUNT(dtypes) && dtypes[i].info.name != NULL ? &dtypes[i].info : NULL;
}

bool ew_dtype_parse(const char *name, ew_dtype *ret)
{
    for (size_t i = 0; i < EW_COUNT(dtypes); i++) {
        if (dtypes[i].info.name != NULL && strcasecmp(dtypes[i].info.name, name) == 0) {
            *ret = (ew_dtype)i;
            return true;
        }
    }
    return false;
}

const char *ew_dtype_name(ew_dtype t)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    return info != NULL ? info->name : "?";
}

bool ew_dtype_row_bytes(ew_dtype t, size_t n_elems, size_t *ret)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    if (info == NULL || n_elems % info->block_elems != 0) {
        return false;
    }
    return ew_size_mul(n_elems / info->block_elems, info->block_bytes, ret);
}

float ew_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    uint32_t bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000u | (mantissa << 13) | (mantissa != 0 ? 0x400000u : 0);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        /* Subnormal: mantissa * 2^-24, exact in f32. */
        float f = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &f, sizeof(bits));
        bits |= sign;
    }
    float r;
    memcpy(&r, &bits, sizeof(r));
    return r;
}

uint16_t ew_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t a = bits & 0x7fffffffu;
    if (a > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x1ffu));
    }
    if (a >= 0x477ff000u) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (a < 0x38800000u) { /* below 2^-14: a subnormal, rounded by the addition of 0.5 */
        float abs_f, magic = 0.5f;
        memcpy(&abs_f, &a, sizeof(abs_f));
        abs_f += magic;
        uint32_t r, m;
        memcpy(&r, &abs_f, sizeof(r));
        memcpy(&m, &magic, sizeof(m));
        return (uint16_t)(sign | (r - m));
    }
    uint32_t odd = (a >> 13) & 1u;
    a += 0xc8000fffu + odd; /* exponent bias 127 -> 15 and round half to even */
    return (uint16_t)(sign | ((a >> 13) & 0x7fffu));
}

float ew_bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float r;
    memcpy(&r, &bits, sizeof(r));
    return r;
}

uint16_t ew_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 64u);
    }
    return (uint16_t)((bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16);
}

static void dequant_f32(const void *src, float *dst, size_t n)
{
    memcpy(dst, src, n * sizeof(float));
}

static void dequant_f16(const void *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)src + 2 * i, sizeof(h));
        dst[i] = ew_f16_to_f32(h);
    }
}

static void dequant_bf16(const void *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)src + 2 * i, sizeof(h));
        dst[i] = ew_bf16_to_f32(h);
    }
}

static void quant_f32(const float *src, void *dst, size_t n)
{
    memcpy(dst, src, n * sizeof(float));
}

static void quant_f16(const float *src, void *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = ew_f32_to_f16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &h, sizeof(h));
    }
}

static void quant_bf16(const float *src, void *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = ew_f32_to_bf16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &h, sizeof(h));
    }
}

void ew__dequant_row_ref(ew_dtype t, const void *src, float *dst, size_t n)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    EW_ASSERT(info != NULL && info->compute && n % info->block_elems == 0);
    dtypes[t].dequant(src, dst, n / info->block_elems);
}

void ew_dequant_row(ew_dtype t, const void *src, float *dst, size_t n)
{
    ew__dequant_row_ref(t, src, dst, n);
}

void ew_quant_row(ew_dtype t, const float *src, void *dst, size_t n)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    EW_ASSERT(info != NULL && info->quantize && n % info->block_elems == 0);
    dtypes[t].quant(src, dst, n / info->block_elems);
}

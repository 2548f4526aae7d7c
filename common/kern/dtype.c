/* Table of element types and the portable row conversions. The arithmetic of the Q types repeats ggml's
 * quantize_row_q*_ref, so that files agree byte for byte with llama-quantize. */
#include "kern/dtype.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "kern/kern_int.h"

static const struct {
    ew_dtype type;
    ew_dtype_info info;
} dtypes[] = {
    /* clang-format off */
    {EW_DTYPE_F32,  {"F32",  1,   4,   true,  true}},
    {EW_DTYPE_F16,  {"F16",  1,   2,   true,  true}},
    {EW_DTYPE_Q4_0, {"Q4_0", 32,  18,  true,  true}},
    {EW_DTYPE_Q4_1, {"Q4_1", 32,  20,  false, false}},
    {EW_DTYPE_Q5_0, {"Q5_0", 32,  22,  false, false}},
    {EW_DTYPE_Q5_1, {"Q5_1", 32,  24,  false, false}},
    {EW_DTYPE_Q8_0, {"Q8_0", 32,  34,  true,  true}},
    {EW_DTYPE_Q8_1, {"Q8_1", 32,  36,  false, false}},
    {EW_DTYPE_Q2_K, {"Q2_K", 256, 84,  false, false}},
    {EW_DTYPE_Q3_K, {"Q3_K", 256, 110, false, false}},
    {EW_DTYPE_Q4_K, {"Q4_K", 256, 144, false, false}},
    {EW_DTYPE_Q5_K, {"Q5_K", 256, 176, false, false}},
    {EW_DTYPE_Q6_K, {"Q6_K", 256, 210, false, false}},
    {EW_DTYPE_Q8_K, {"Q8_K", 256, 292, false, false}},
    {EW_DTYPE_IQ2_XXS, {"IQ2_XXS", 256, 66, false, false}},
    {EW_DTYPE_IQ2_XS,  {"IQ2_XS",  256, 74, false, false}},
    {EW_DTYPE_IQ3_XXS, {"IQ3_XXS", 256, 98, false, false}},
    {EW_DTYPE_IQ1_S,   {"IQ1_S",   256, 50, false, false}},
    {EW_DTYPE_IQ4_NL,  {"IQ4_NL",  32,  18, false, false}},
    {EW_DTYPE_IQ3_S,   {"IQ3_S",   256, 110, false, false}},
    {EW_DTYPE_IQ2_S,   {"IQ2_S",   256, 82, false, false}},
    {EW_DTYPE_IQ4_XS,  {"IQ4_XS",  256, 136, false, false}},
    {EW_DTYPE_IQ1_M,   {"IQ1_M",   256, 56, false, false}},
    {EW_DTYPE_TQ1_0,   {"TQ1_0",   256, 54, false, false}},
    {EW_DTYPE_TQ2_0,   {"TQ2_0",   256, 66, false, false}},
    {EW_DTYPE_MXFP4,   {"MXFP4",   32,  17, false, false}},
    {EW_DTYPE_I8,   {"I8",   1,   1,   false, false}},
    {EW_DTYPE_I16,  {"I16",  1,   2,   false, false}},
    {EW_DTYPE_I32,  {"I32",  1,   4,   false, false}},
    {EW_DTYPE_I64,  {"I64",  1,   8,   false, false}},
    {EW_DTYPE_F64,  {"F64",  1,   8,   false, false}},
    {EW_DTYPE_BF16, {"BF16", 1,   2,   true,  true}},
    /* clang-format on */
};

const ew_dtype_info *ew_dtype_get(ew_dtype t)
{
    for (size_t i = 0; i < EW_COUNT(dtypes); i++) {
        if (dtypes[i].type == t) {
            return &dtypes[i].info;
        }
    }
    return NULL;
}

bool ew_dtype_parse(const char *name, ew_dtype *ret)
{
    for (size_t i = 0; i < EW_COUNT(dtypes); i++) {
        if (strcasecmp(dtypes[i].info.name, name) == 0) {
            *ret = dtypes[i].type;
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

static void dequant_f16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof(h));
        dst[i] = ew_f16_to_f32(h);
    }
}

static void dequant_bf16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof(h));
        dst[i] = ew_bf16_to_f32(h);
    }
}

static void dequant_q8_0(const ew_block_q8_0 *b, float *dst, size_t n)
{
    for (size_t i = 0; i < n / 32; i++) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 32; j++) {
            dst[32 * i + j] = (float)b[i].q[j] * d;
        }
    }
}

static void dequant_q4_0(const ew_block_q4_0 *b, float *dst, size_t n)
{
    for (size_t i = 0; i < n / 32; i++) {
        float d = ew_f16_to_f32(b[i].d);
        for (size_t j = 0; j < 16; j++) {
            dst[32 * i + j] = (float)((int)(b[i].q[j] & 0x0f) - 8) * d;
            dst[32 * i + j + 16] = (float)((int)(b[i].q[j] >> 4) - 8) * d;
        }
    }
}

void ew__dequant_row_ref(ew_dtype t, const void *src, float *dst, size_t n)
{
    switch (t) {
    case EW_DTYPE_F32:
        memcpy(dst, src, n * sizeof(float));
        break;
    case EW_DTYPE_F16:
        dequant_f16(src, dst, n);
        break;
    case EW_DTYPE_BF16:
        dequant_bf16(src, dst, n);
        break;
    case EW_DTYPE_Q8_0:
        dequant_q8_0(src, dst, n);
        break;
    case EW_DTYPE_Q4_0:
        dequant_q4_0(src, dst, n);
        break;
    default:
        ew_assert_fail(__FILE__, __LINE__, "a type that can be computed with");
    }
}

void ew_dequant_row(ew_dtype t, const void *src, float *dst, size_t n)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    EW_ASSERT(info != NULL && info->compute && n % info->block_elems == 0);
    ew__dequant_row_ref(t, src, dst, n);
}

/* NaN must not reach a float to int conversion. */
static float finite_or_0(float x)
{
    return x == x ? x : 0.0f;
}

static void quant_q8_0(const float *src, ew_block_q8_0 *b, size_t n)
{
    for (size_t i = 0; i < n / 32; i++, src += 32) {
        float amax = 0.0f;
        for (size_t j = 0; j < 32; j++) {
            float a = fabsf(src[j]);
            amax = amax > a ? amax : a;
        }
        float d = amax / 127.0f;
        float id = d != 0.0f ? 1.0f / d : 0.0f;
        b[i].d = ew_f32_to_f16(d);
        for (size_t j = 0; j < 32; j++) {
            float r = roundf(finite_or_0(src[j] * id));
            b[i].q[j] = (int8_t)(r > 127.0f ? 127.0f : r < -127.0f ? -127.0f : r);
        }
    }
}

static uint8_t q4_level(float x)
{
    float y = finite_or_0(x + 8.5f);
    int q = (int)(y > 15.0f ? 15.0f : y < 0.0f ? 0.0f : y);
    return (uint8_t)q;
}

static void quant_q4_0(const float *src, ew_block_q4_0 *b, size_t n)
{
    for (size_t i = 0; i < n / 32; i++, src += 32) {
        float amax = 0.0f, max = 0.0f;
        for (size_t j = 0; j < 32; j++) {
            float v = src[j];
            if (amax < fabsf(v)) {
                amax = fabsf(v);
                max = v;
            }
        }
        float d = max / -8.0f;
        float id = d != 0.0f ? 1.0f / d : 0.0f;
        b[i].d = ew_f32_to_f16(d);
        for (size_t j = 0; j < 16; j++) {
            uint8_t lo = q4_level(src[j] * id);
            uint8_t hi = q4_level(src[16 + j] * id);
            b[i].q[j] = (uint8_t)(lo | (hi << 4));
        }
    }
}

void ew_quant_row(ew_dtype t, const float *src, void *dst, size_t n)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    EW_ASSERT(info != NULL && info->quantize && n % info->block_elems == 0);
    uint16_t h;
    switch (t) {
    case EW_DTYPE_F32:
        memcpy(dst, src, n * sizeof(float));
        break;
    case EW_DTYPE_F16:
    case EW_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) {
            h = t == EW_DTYPE_F16 ? ew_f32_to_f16(src[i]) : ew_f32_to_bf16(src[i]);
            memcpy((uint8_t *)dst + 2 * i, &h, sizeof(h));
        }
        break;
    case EW_DTYPE_Q8_0:
        quant_q8_0(src, dst, n);
        break;
    case EW_DTYPE_Q4_0:
        quant_q4_0(src, dst, n);
        break;
    default:
        ew_assert_fail(__FILE__, __LINE__, "a type that can be made");
    }
}

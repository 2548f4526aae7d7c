/* NEON (every aarch64): 4 lanes, 6 x 16 product tile. One set of float functions for three tables, which differ in their integer
 * products (qmul_neon.h): the processor's features decide. */
#include <arm_neon.h>
#include <string.h>

#include "kern/kern_int.h"

#define VW 4
typedef float32x4_t vf;

static inline vf v_loadn(const float *p, size_t m)
{
    if (EW_LIKELY(m == VW)) {
        return vld1q_f32(p);
    }
    float all[VW] = {0};
    memcpy(all, p, m * sizeof(float));
    return vld1q_f32(all);
}

static inline void v_storen(float *p, size_t m, vf x)
{
    if (EW_LIKELY(m == VW)) {
        vst1q_f32(p, x);
    } else {
        float all[VW];
        vst1q_f32(all, x);
        memcpy(p, all, m * sizeof(float));
    }
}

#define v_load(p) vld1q_f32(p)
#define v_store(p, x) vst1q_f32(p, x)
#define v_set1(a) vdupq_n_f32(a)
#define v_zero() vdupq_n_f32(0.0f)
#define v_add(a, b) vaddq_f32(a, b)
#define v_sub(a, b) vsubq_f32(a, b)
#define v_mul(a, b) vmulq_f32(a, b)
#define v_div(a, b) vdivq_f32(a, b)
#define v_fma(a, b, c) vfmaq_f32(c, a, b)
#define v_fnma(a, b, c) vfmsq_f32(c, a, b)
#define v_sqrt(a) vsqrtq_f32(a)
/* As on x86: the second operand is returned when either is NaN. */
#define v_max(a, b) v_max_(a, b)
#define v_min(a, b) v_min_(a, b)
#define v_round(a) vrndnq_f32(a)
#define v_floor(a) vrndmq_f32(a)
#define v_mask_lt0(x, lo, y) vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, lo)))

static inline vf v_max_(vf a, vf b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline vf v_min_(vf a, vf b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

static inline vf v_exp_scale(vf p, vf n)
{
    int32x4_t e = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(e, 23)));
}

static inline float v_sum(vf a)
{
    return vaddvq_f32(a);
}

static inline float v_hmax(vf a)
{
    vf b = v_max(vextq_f32(a, a, 2), a);
    b = v_max(vextq_f32(b, b, 1), b);
    return vgetq_lane_f32(b, 0);
}

static inline vf v_loadh(const void *p)
{
    uint16x4_t h;
    memcpy(&h, p, sizeof(h));
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

static inline vf v_load_bf16(const void *p)
{
    uint16x4_t h;
    memcpy(&h, p, sizeof(h));
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
#define v_load_f16(p) v_loadh(p)

static inline float f16_scalar(const void *p)
{
    __fp16 h;
    memcpy(&h, p, sizeof(h));
    return (float)h;
}

/* ---- packing for the f32 product ---- */

static inline void transpose4(const float *src, size_t row, float *dst, size_t width)
{
    vf a = v_load(src), b = v_load(src + row), c = v_load(src + 2 * row), d = v_load(src + 3 * row);
    float64x2_t ab = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ba = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    float64x2_t cd = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), dc = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    v_store(dst, vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
    v_store(dst + width, vreinterpretq_f32_f64(vtrn1q_f64(ba, dc)));
    v_store(dst + 2 * width, vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
    v_store(dst + 3 * width, vreinterpretq_f32_f64(vtrn2q_f64(ba, dc)));
}

static void s_pack(const float *src, size_t row, size_t col, size_t rows, size_t K, size_t width, float *dst)
{
    if (rows < width) {
        memset(dst, 0, K * width * sizeof(float));
    }
    if (row == 1) {
        for (size_t k = 0; k < K; k++) {
            memcpy(dst + k * width, src + k * col, rows * sizeof(float));
        }
        return;
    }
    size_t r = 0;
    for (; col == 1 && r + 4 <= rows; r += 4) {
        size_t k = 0;
        for (; k + 4 <= K; k += 4) {
            transpose4(src + r * row + k, row, dst + k * width + r, width);
        }
        for (; k < K; k++) {
            for (size_t i = r; i < r + 4; i++) {
                dst[k * width + i] = src[i * row + k];
            }
        }
    }
    for (; r < rows; r++) {
        for (size_t k = 0; k < K; k++) {
            dst[k * width + r] = src[r * row + k * col];
        }
    }
}

/* ---- rows of other types ---- */

static void s_f32_to_f16(const float *src, uint16_t *dst, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1_u16(dst + i, vreinterpret_u16_f16(vcvt_f16_f32(v_load(src + i))));
    }
    for (; i < n; i++) {
        dst[i] = ew_f32_to_f16(src[i]);
    }
}

/* 16 small integers times d. */
static inline void store_scaled(float *dst, int8x16_t q, float d)
{
    int16x8_t w[2] = {vmovl_s8(vget_low_s8(q)), vmovl_s8(vget_high_s8(q))};
    for (int i = 0; i < 2; i++) {
        v_store(dst + 8 * i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(w[i]))), d));
        v_store(dst + 8 * i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(w[i]))), d));
    }
}

static void s_dequant_row(ew_dtype t, const void *src, float *dst, size_t n)
{
    const uint8_t *s = src;
    if (t == EW_DTYPE_F16) {
        size_t i = 0;
        for (; i + 4 <= n; i += 4) {
            v_store(dst + i, v_loadh(s + 2 * i));
        }
        for (; i < n; i++) {
            dst[i] = f16_scalar(s + 2 * i);
        }
    } else if (t == EW_DTYPE_Q8_0) {
        for (size_t b = 0; b < n / 32; b++, s += sizeof(ew_block_q8_0)) {
            store_scaled(dst + 32 * b, vreinterpretq_s8_u8(vld1q_u8(s + 2)), f16_scalar(s));
            store_scaled(dst + 32 * b + 16, vreinterpretq_s8_u8(vld1q_u8(s + 18)), f16_scalar(s));
        }
    } else if (t == EW_DTYPE_Q4_0) {
        for (size_t b = 0; b < n / 32; b++, s += sizeof(ew_block_q4_0)) {
            uint8x16_t q = vld1q_u8(s + 2);
            int8x16_t eight = vdupq_n_s8(8);
            store_scaled(dst + 32 * b, vsubq_s8(vreinterpretq_s8_u8(vandq_u8(q, vdupq_n_u8(15))), eight),
                         f16_scalar(s));
            store_scaled(dst + 32 * b + 16, vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(q, 4)), eight), f16_scalar(s));
        }
    } else {
        ew__dequant_row_ref(t, src, dst, n);
    }
}

#include "kern/simd_body.h"

#include "kern/simd_attn.h"

/* ---- f32 product ---- */

#define MICRO(M)                                                                                                       \
    static void micro_##M(size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c, size_t ldc, \
                          bool add)                                                                                    \
    {                                                                                                                  \
        vf acc[M][4];                                                                                                  \
        _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                            \
        {                                                                                                              \
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                                                        \
            {                                                                                                          \
                acc[i][j] = add ? v_load(c + (size_t)i * ldc + 4 * j) : v_zero();                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (size_t k = 0; k < K; k++, bp += 16, a += a_col) {                                                         \
            vf b[4] = {v_load(bp), v_load(bp + 4), v_load(bp + 8), v_load(bp + 12)};                                   \
            _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                        \
            {                                                                                                          \
                vf x = vld1q_dup_f32(a + (size_t)i * a_row);                                                           \
                _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                                                    \
                {                                                                                                      \
                    acc[i][j] = v_fma(x, b[j], acc[i][j]);                                                             \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                            \
        {                                                                                                              \
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                                                        \
            {                                                                                                          \
                v_store(c + (size_t)i * ldc + 4 * j, acc[i][j]);                                                       \
            }                                                                                                          \
        }                                                                                                              \
    }
/* clang-format off */
MICRO(1) MICRO(2) MICRO(3) MICRO(4) MICRO(5) MICRO(6)
    /* clang-format on */

    static void micro(size_t m, size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c,
                      size_t ldc, bool add)
{
    static void (*const table[6])(size_t, const float *, size_t, size_t, const float *, float *, size_t,
                                  bool) = {micro_1, micro_2, micro_3, micro_4, micro_5, micro_6};
    table[m - 1](K, a, a_row, a_col, bp, c, ldc, add);
}

#define TABLE(SYMBOL, NAME, PRODUCTS)                                                                                  \
    const ew_kern SYMBOL = {                                                                                           \
        .name = NAME,                                                                                                  \
        .mr = 6,                                                                                                       \
        .nr = 16,                                                                                                      \
        .gemm_micro = micro,                                                                                           \
        .gemm_pack = s_pack,                                                                                           \
        .dequant_row = s_dequant_row,                                                                                  \
        .f32_to_f16 = s_f32_to_f16,                                                                                    \
        .dot_f32 = s_dot_f32,                                                                                          \
        .rows_dot = s_rows_dot,                                                                                        \
        .rmsnorm = s_rmsnorm,                                                                                          \
        .rmsnorm_bwd = s_rmsnorm_bwd,                                                                                  \
        .rope = s_rope,                                                                                                \
        .swiglu = s_swiglu,                                                                                            \
        .swiglu_bwd = s_swiglu_bwd,                                                                                    \
        .exp_row = s_exp_row,                                                                                          \
        .max_row = s_max_row,                                                                                          \
        .softmax_bwd_row = s_softmax_bwd_row,                                                                          \
        .adamw = s_adamw,                                                                                              \
        .axpy = s_axpy,                                                                                                \
        .scale = s_scale,                                                                                              \
        .mul = s_mul,                                                                                                  \
        .axpy_mul = s_axpy_mul,                                                                                        \
        .dot_f64 = s_dot_f64,                                                                                          \
        .q = &(PRODUCTS),                                                                                              \
        .attn_qk = s_attn_qk,                                                                                          \
        .attn_pv = s_attn_pv,                                                                                          \
        .attn_softmax = s_attn_softmax,                                                                                \
    };
/* clang-format off */
TABLE(ew__kern_neon, "neon", ew__qkern_neon)
TABLE(ew__kern_neon_dotprod, "neon_dotprod", ew__qkern_neon_dotprod)
TABLE(ew__kern_neon_i8mm, "neon_i8mm", ew__qkern_neon_i8mm)
/* clang-format on */

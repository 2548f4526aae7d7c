/* AVX-512 (F, BW, VL, DQ) with VNNI: 16 lanes, 12 x 32 product tile, integer products of 16 weight rows by vpdpbusd. */
#include <immintrin.h>

#include "kern/kern_int.h"

#define VW 16
typedef __m512 vf;

static inline __mmask16 lanes(size_t m)
{
    return (__mmask16)((1u << m) - 1u);
}

#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, x) _mm512_storeu_ps(p, x)
#define v_loadn(p, m) _mm512_maskz_loadu_ps(lanes(m), p)
#define v_storen(p, m, x) _mm512_mask_storeu_ps(p, lanes(m), x)
#define v_set1(a) _mm512_set1_ps(a)
#define v_zero() _mm512_setzero_ps()
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_div(a, b) _mm512_div_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_fnma(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define v_sqrt(a) _mm512_sqrt_ps(a)
/* The second operand is returned when either is NaN. */
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_min(a, b) _mm512_min_ps(a, b)
#define v_round(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_exp_scale(p, n) _mm512_scalef_ps(p, n)
#define v_mask_lt0(x, lo, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lo, _CMP_NLT_UQ), y)
#define v_hmax(a) _mm512_reduce_max_ps(a)

static inline float v_sum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#define v_load_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define v_load_bf16(p)                                                                                                 \
    _mm512_castsi512_ps(                                                                                               \
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))

#include "kern/simd_body.h"

#include "kern/simd_attn.h"
#include "kern/simd_glu.h"

/* ---- f32 product ---- */

#define MICRO(M)                                                                                                       \
    static void micro_##M(size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c, size_t ldc, \
                          bool add)                                                                                    \
    {                                                                                                                  \
        __m512 acc[M][2];                                                                                              \
        /* Rows in groups of three: few address registers. */                                                          \
        const float *p[4];                                                                                             \
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)                                                            \
        {                                                                                                              \
            p[i] = a + 3 * (size_t)i * a_row;                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                           \
        {                                                                                                              \
            acc[i][0] = add ? _mm512_loadu_ps(c + (size_t)i * ldc) : _mm512_setzero_ps();                              \
            acc[i][1] = add ? _mm512_loadu_ps(c + (size_t)i * ldc + 16) : _mm512_setzero_ps();                         \
        }                                                                                                              \
        for (size_t k = 0; k < K; k++, bp += 32) {                                                                     \
            __m512 b0 = _mm512_load_ps(bp), b1 = _mm512_load_ps(bp + 16);                                              \
            _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                       \
            {                                                                                                          \
                __m512 x = _mm512_set1_ps(p[i / 3][(size_t)(i % 3) * a_row]);                                          \
                acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);                                                         \
                acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);                                                         \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)                                                        \
            {                                                                                                          \
                p[i] += a_col;                                                                                         \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 12") for (int i = 0; i < M; i++)                                                           \
        {                                                                                                              \
            _mm512_storeu_ps(c + (size_t)i * ldc, acc[i][0]);                                                          \
            _mm512_storeu_ps(c + (size_t)i * ldc + 16, acc[i][1]);                                                     \
        }                                                                                                              \
    }
/* clang-format off */
MICRO(1) MICRO(2) MICRO(3) MICRO(4) MICRO(5) MICRO(6) MICRO(7) MICRO(8) MICRO(9) MICRO(10) MICRO(11) MICRO(12)
    /* clang-format on */

    static void micro(size_t m, size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c,
                      size_t ldc, bool add)
{
    static void (*const table[12])(size_t, const float *, size_t, size_t, const float *, float *, size_t, bool) = {
        micro_1, micro_2, micro_3, micro_4, micro_5, micro_6, micro_7, micro_8, micro_9, micro_10, micro_11, micro_12};
    table[m - 1](K, a, a_row, a_col, bp, c, ldc, add);
}

/* clang-format off */
#define TABLE .mr = 12, \
    .nr = 32, \
    .gemm_micro = micro, \
    .gemm_pack = s_pack, \
    .dequant_row = ew__dequant_row_avx512, \
    .f32_to_f16 = s_f32_to_f16, \
    .dot_f32 = s_dot_f32, \
    .rows_dot = s_rows_dot, \
    .rmsnorm = s_rmsnorm, \
    .rmsnorm_bwd = s_rmsnorm_bwd, \
    .rope = s_rope, \
    .swiglu = s_glu, \
    .swiglu_bwd = s_swiglu_bwd, \
    .exp_row = s_exp_row, \
    .max_row = s_max_row, \
    .softmax_bwd_row = s_softmax_bwd_row, \
    .adamw = s_adamw, \
    .axpy = s_axpy, \
    .scale = s_scale, \
    .mul = s_mul, \
    .axpy_mul = s_axpy_mul, \
    .dot_f64 = s_dot_f64, \
    .q = &ew__qkern_avx512, \
    .attn_qk = s_attn_qk, \
    .attn_pv = s_attn_pv, \
    .attn_softmax = s_attn_softmax,
/* clang-format on */

const ew_kern ew__kern_avx512 = {.name = "avx512", TABLE};
const ew_kern ew__kern_avx512_bf16 = {.name = "avx512_bf16", .bf16 = &ew__bf16_avx512, TABLE};

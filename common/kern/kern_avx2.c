/* AVX2 with FMA and F16C: 8 lanes, 6 x 16 product tile, integer products of 8 weight rows by vpmaddubsw. */
#include <immintrin.h>

#include "kern/kern_int.h"

#define VW 8
typedef __m256 vf;

static const int32_t mask_table[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

static inline __m256i lanes(size_t m)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(mask_table + 8 - m));
}

static inline vf v_loadn(const float *p, size_t m)
{
    return EW_LIKELY(m == VW) ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes(m));
}

static inline void v_storen(float *p, size_t m, vf x)
{
    if (EW_LIKELY(m == VW)) {
        _mm256_storeu_ps(p, x);
    } else {
        _mm256_maskstore_ps(p, lanes(m), x);
    }
}

#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, x) _mm256_storeu_ps(p, x)
#define v_set1(a) _mm256_set1_ps(a)
#define v_zero() _mm256_setzero_ps()
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_div(a, b) _mm256_div_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_fnma(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define v_sqrt(a) _mm256_sqrt_ps(a)
/* The second operand is returned when either is NaN. */
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_min(a, b) _mm256_min_ps(a, b)
#define v_round(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_mask_lt0(x, lo, y) _mm256_and_ps(_mm256_cmp_ps(x, lo, _CMP_NLT_UQ), y)

static inline vf v_exp_scale(vf p, vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}

static inline float v_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float v_hmax(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#define v_load_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define v_load_bf16(p)                                                                                                 \
    _mm256_castsi256_ps(                                                                                               \
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))

#include "kern/simd_body.h"

#include "kern/simd_attn.h"
#include "kern/simd_glu.h"

/* ---- f32 product ---- */

#define MICRO(M)                                                                                                       \
    static void micro_##M(size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c, size_t ldc, \
                          bool add)                                                                                    \
    {                                                                                                                  \
        __m256 acc[M][2];                                                                                              \
        /* Rows in groups of three: few address registers. */                                                          \
        const float *p[2];                                                                                             \
        _Pragma("GCC unroll 4") for (int i = 0; i < 2; i++)                                                            \
        {                                                                                                              \
            p[i] = a + 3 * (size_t)i * a_row;                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                            \
        {                                                                                                              \
            acc[i][0] = add ? _mm256_loadu_ps(c + (size_t)i * ldc) : _mm256_setzero_ps();                              \
            acc[i][1] = add ? _mm256_loadu_ps(c + (size_t)i * ldc + 8) : _mm256_setzero_ps();                          \
        }                                                                                                              \
        for (size_t k = 0; k < K; k++, bp += 16) {                                                                     \
            __m256 b0 = _mm256_load_ps(bp), b1 = _mm256_load_ps(bp + 8);                                               \
            _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                        \
            {                                                                                                          \
                __m256 x = _mm256_set1_ps(p[i / 3][(size_t)(i % 3) * a_row]);                                          \
                acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);                                                         \
                acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);                                                         \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (int i = 0; i < 2; i++)                                                        \
            {                                                                                                          \
                p[i] += a_col;                                                                                         \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 6") for (int i = 0; i < M; i++)                                                            \
        {                                                                                                              \
            _mm256_storeu_ps(c + (size_t)i * ldc, acc[i][0]);                                                          \
            _mm256_storeu_ps(c + (size_t)i * ldc + 8, acc[i][1]);                                                      \
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

const ew_kern ew__kern_avx2 = {
    .name = "avx2",
    .mr = 6,
    .nr = 16,
    .gemm_micro = micro,
    .gemm_pack = s_pack,
    .dequant_row = ew__dequant_row_avx2,
    .f32_to_f16 = s_f32_to_f16,
    .dot_f32 = s_dot_f32,
    .rows_dot = s_rows_dot,
    .rmsnorm = s_rmsnorm,
    .rmsnorm_bwd = s_rmsnorm_bwd,
    .rope = s_rope,
    .swiglu = s_glu,
    .swiglu_bwd = s_swiglu_bwd,
    .exp_row = s_exp_row,
    .max_row = s_max_row,
    .softmax_bwd_row = s_softmax_bwd_row,
    .adamw = s_adamw,
    .axpy = s_axpy,
    .scale = s_scale,
    .mul = s_mul,
    .axpy_mul = s_axpy_mul,
    .dot_f64 = s_dot_f64,
    .q = &ew__qkern_avx2,
    .attn_qk = s_attn_qk,
    .attn_pv = s_attn_pv,
    .attn_softmax = s_attn_softmax,
};

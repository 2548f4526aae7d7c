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

#include "kern/simd_body.h"

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

static float dot_f16(const void *w, const float *x, size_t n)
{
    const uint8_t *p = w;
    __m256 s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 4; j++) {
            __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i + 16 * (size_t)j));
            s[j] = _mm256_fmadd_ps(_mm256_cvtph_ps(h), _mm256_loadu_ps(x + i + 8 * (size_t)j), s[j]);
        }
    }
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i));
        s[0] = _mm256_fmadd_ps(_mm256_cvtph_ps(h), _mm256_loadu_ps(x + i), s[0]);
    }
    float sum = v_sum(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
    for (; i < n; i++) {
        sum += f16_scalar(p + 2 * i) * x[i];
    }
    return sum;
}

/* ---- integer products ----
 * A panel holds 8 weight rows; wp[block][8][8][4]: bytes 4g..4g+3 of each row's block. Q4_0: nibbles as unsigned (their offset of
 * 8 is undone by corr; 8 products fit 16 bits). Q8_0: signed; |w| times x with the sign of w, so that no pair saturates. */

static inline __m256i nibbles(const uint8_t *b)
{
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)(b + 2));
    __m128i lo = _mm_and_si128(q, _mm_set1_epi8(15));
    __m128i hi = _mm_and_si128(_mm_srli_epi16(q, 4), _mm_set1_epi8(15));
    return _mm256_set_m128i(hi, lo);
}

static inline void transpose_panel(const __m256i s[8], uint8_t *wp)
{
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(s[i], s[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(s[i], s[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m256i *p = (__m256i *)(void *)(wp + 32 * i);
        _mm256_store_si256(p, _mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
        _mm256_store_si256(p + 4, _mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
    }
}

static void qpack(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, size_t kb, size_t n, uint8_t *wp,
                  float *dw)
{
    size_t bytes = t == EW_DTYPE_Q8_0 ? 34 : 18;
    w += kb * bytes;
    for (size_t b = 0; b < n; b++, wp += 256, dw += 8) {
        __m256i r[8];
        _Alignas(16) uint16_t d[8];
        for (size_t i = 0; i < 8; i++) {
            const uint8_t *p = w + EW_MIN(i, rows - 1) * row_bytes + b * bytes;
            memcpy(&d[i], p, 2);
            r[i] = t == EW_DTYPE_Q8_0 ? _mm256_loadu_si256((const __m256i *)(const void *)(p + 2)) : nibbles(p);
        }
        _mm256_store_ps(dw, _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)d)));
        transpose_panel(r, wp);
    }
}

static inline __m256i x_bytes(const int8_t *q)
{
    int32_t x;
    memcpy(&x, q, 4);
    return _mm256_set1_epi32(x);
}

#define QMUL(N)                                                                                                        \
    static inline void qmul_##N(ew_dtype type, const uint8_t *wp, const float *dw, const int8_t *q, const float *dx,   \
                                const int32_t *corr, size_t C, size_t n, __m256 *f)                                    \
    {                                                                                                                  \
        const size_t nb = C / 32;                                                                                      \
        const __m256i one = _mm256_set1_epi16(1);                                                                      \
        for (size_t b = 0; b < n; b++, wp += 256, dw += 8) {                                                           \
            __m256i s[N];                                                                                              \
            _Pragma("GCC unroll 4") for (int t = 0; t < N; t++)                                                        \
            {                                                                                                          \
                s[t] = _mm256_setzero_si256();                                                                         \
            }                                                                                                          \
            if (type == EW_DTYPE_Q4_0) {                                                                               \
                _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++)                                                    \
                {                                                                                                      \
                    __m256i w = _mm256_load_si256((const __m256i *)(const void *)(wp + 32 * g));                       \
                    _Pragma("GCC unroll 4") for (int t = 0; t < N; t++)                                                \
                    {                                                                                                  \
                        __m256i x = x_bytes(q + (size_t)t * C + 32 * b + 4 * (size_t)g);                               \
                        s[t] = _mm256_add_epi16(s[t], _mm256_maddubs_epi16(w, x));                                     \
                    }                                                                                                  \
                }                                                                                                      \
                _Pragma("GCC unroll 4") for (int t = 0; t < N; t++)                                                    \
                {                                                                                                      \
                    __m256i c = _mm256_set1_epi32(8 * corr[(size_t)t * nb + b]);                                       \
                    s[t] = _mm256_add_epi32(_mm256_madd_epi16(s[t], one), c);                                          \
                }                                                                                                      \
            } else {                                                                                                   \
                _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++)                                                    \
                {                                                                                                      \
                    __m256i w = _mm256_load_si256((const __m256i *)(const void *)(wp + 32 * g));                       \
                    __m256i a = _mm256_abs_epi8(w);                                                                    \
                    _Pragma("GCC unroll 4") for (int t = 0; t < N; t++)                                                \
                    {                                                                                                  \
                        __m256i x = _mm256_sign_epi8(x_bytes(q + (size_t)t * C + 32 * b + 4 * (size_t)g), w);          \
                        s[t] = _mm256_add_epi32(s[t], _mm256_madd_epi16(_mm256_maddubs_epi16(a, x), one));             \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
            __m256 d = _mm256_load_ps(dw);                                                                             \
            _Pragma("GCC unroll 4") for (int t = 0; t < N; t++)                                                        \
            {                                                                                                          \
                __m256 sd = _mm256_mul_ps(d, _mm256_set1_ps(dx[(size_t)t * nb + b]));                                  \
                f[t] = _mm256_fmadd_ps(sd, _mm256_cvtepi32_ps(s[t]), f[t]);                                            \
            }                                                                                                          \
        }                                                                                                              \
    }
/* clang-format off */
QMUL(1) QMUL(2) QMUL(4)
    /* clang-format on */

    static void qmul(ew_dtype t, const uint8_t *wp, const float *dw, const ew_xq *x, size_t kb, size_t n, size_t T,
                     bool first, float *y, size_t ldy, size_t rows)
{
    const size_t nb = x->C / 32;
    for (size_t i = 0; i < T;) {
        size_t step = T - i >= 4 ? 4 : T - i >= 2 ? 2 : 1;
        const int8_t *q = x->q + i * x->C + 32 * kb;
        const float *dx = x->d + i * nb + kb;
        const int32_t *corr = x->corr + i * nb + kb;
        __m256 f[4];
        for (size_t j = 0; j < step; j++) {
            f[j] = first ? _mm256_setzero_ps() : v_loadn(y + (i + j) * ldy, rows);
        }
        if (step == 4) {
            qmul_4(t, wp, dw, q, dx, corr, x->C, n, f);
        } else if (step == 2) {
            qmul_2(t, wp, dw, q, dx, corr, x->C, n, f);
        } else {
            qmul_1(t, wp, dw, q, dx, corr, x->C, n, f);
        }
        for (size_t j = 0; j < step; j++) {
            v_storen(y + (i + j) * ldy, rows, f[j]);
        }
        i += step;
    }
}

/* acc + d * (dot of block b), lane-wise. */
static inline __m256 qdot_block(ew_dtype t, const uint8_t *w, const ew_xq *x, size_t b, __m256 acc)
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(x->q + 32 * b)), s;
    if (t == EW_DTYPE_Q8_0) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(w + 2));
        s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(q, v)), one);
    } else {
        __m256i corr = _mm256_zextsi128_si256(_mm_cvtsi32_si128(8 * x->corr[b]));
        s = _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(nibbles(w), q), one), corr);
    }
    return _mm256_fmadd_ps(_mm256_set1_ps(f16_scalar(w) * x->d[b]), _mm256_cvtepi32_ps(s), acc);
}

static inline float qdot_row(ew_dtype t, size_t bytes, const uint8_t *w, const ew_xq *x, size_t n_blocks)
{
    __m256 acc0 = _mm256_setzero_ps(), acc1 = _mm256_setzero_ps();
    size_t b = 0;
    for (; b + 2 <= n_blocks; b += 2, w += 2 * bytes) {
        acc0 = qdot_block(t, w, x, b, acc0);
        acc1 = qdot_block(t, w + bytes, x, b + 1, acc1);
    }
    if (b < n_blocks) {
        acc0 = qdot_block(t, w, x, b, acc0);
    }
    return v_sum(_mm256_add_ps(acc0, acc1));
}

static float qdot(ew_dtype t, const uint8_t *w, const ew_xq *x, size_t n_blocks)
{
    return t == EW_DTYPE_Q8_0 ? qdot_row(EW_DTYPE_Q8_0, 34, w, x, n_blocks)
                              : qdot_row(EW_DTYPE_Q4_0, 18, w, x, n_blocks);
}

const ew_kern ew__kern_avx2 = {
    .name = "avx2",
    .mr = 6,
    .nr = 16,
    .gemm_micro = micro,
    .gemm_pack = s_pack,
    .dequant_row = s_dequant_row,
    .f32_to_f16 = s_f32_to_f16,
    .dot_f32 = s_dot_f32,
    .dot_f16 = dot_f16,
    .rmsnorm = s_rmsnorm,
    .rmsnorm_bwd = s_rmsnorm_bwd,
    .rope = s_rope,
    .swiglu = s_swiglu,
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
    .quant_x = s_quant_x,
    .qrows = 8,
    .qpack = qpack,
    .qmul = qmul,
    .qdot = qdot,
};

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

#include "kern/simd_body.h"

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

static float dot_f16(const void *w, const float *x, size_t n)
{
    const uint8_t *p = w;
    __m512 s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int j = 0; j < 4; j++) {
            __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * i + 32 * (size_t)j));
            s[j] = _mm512_fmadd_ps(_mm512_cvtph_ps(h), _mm512_loadu_ps(x + i + 16 * (size_t)j), s[j]);
        }
    }
    for (; i < n; i += 16) {
        size_t m = EW_MIN((size_t)16, n - i);
        __m256i h = _mm256_maskz_loadu_epi16(lanes(m), p + 2 * i);
        s[0] = _mm512_fmadd_ps(_mm512_cvtph_ps(h), v_loadn(x + i, m), s[0]);
    }
    return v_sum(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

/* ---- integer products ----
 * A panel holds 16 weight rows; wp[block][8][16][4]: bytes 4g..4g+3 of each row's block as unsigned (Q8_0: q + 128, Q4_0: the
 * nibbles), so that one vpdpbusd multiplies 16 rows by 4 broadcast activations. The offset is undone by corr. */

static inline __m256i block_bytes(ew_dtype t, const uint8_t *b)
{
    if (t == EW_DTYPE_Q8_0) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(b + 2));
        return _mm256_xor_si256(q, _mm256_set1_epi8((char)0x80));
    }
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)(b + 2));
    __m128i lo = _mm_and_si128(q, _mm_set1_epi8(15));
    __m128i hi = _mm_and_si128(_mm_srli_epi16(q, 4), _mm_set1_epi8(15));
    return _mm256_set_m128i(hi, lo);
}

/* r[16] rows of 8 dwords become 8 vectors of 16 rows. */
static inline void transpose_panel(const __m256i r[16], uint8_t *wp)
{
    for (int half = 0; half < 2; half++) {
        const __m256i *s = r + 8 * half;
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
            uint8_t *p = wp + 64 * i + 32 * half;
            _mm256_store_si256((__m256i *)(void *)p, _mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
            _mm256_store_si256((__m256i *)(void *)(p + 256), _mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
        }
    }
}

static void qpack(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, size_t kb, size_t n, uint8_t *wp,
                  float *dw)
{
    size_t bytes = t == EW_DTYPE_Q8_0 ? 34 : 18;
    w += kb * bytes;
    for (size_t b = 0; b < n; b++, wp += 512, dw += 16) {
        __m256i r[16];
        _Alignas(32) uint16_t d[16];
        for (size_t i = 0; i < 16; i++) {
            const uint8_t *p = w + EW_MIN(i, rows - 1) * row_bytes + b * bytes;
            memcpy(&d[i], p, 2);
            r[i] = block_bytes(t, p);
        }
        _mm512_store_ps(dw, _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)d)));
        transpose_panel(r, wp);
    }
}

#define QTOK 8
/* N tokens against a panel: per block 8 vpdpbusd each, then one scaled add. */
#define QMUL(N)                                                                                                        \
    static inline void qmul_##N(int32_t off, const uint8_t *wp, const float *dw, const int8_t *q, const float *dx,     \
                                const int32_t *corr, size_t C, size_t n, __m512 *f)                                    \
    {                                                                                                                  \
        __m512 acc[N];                                                                                                 \
        const size_t nb = C / 32;                                                                                      \
        _Pragma("GCC unroll 8") for (int t = 0; t < N; t++)                                                            \
        {                                                                                                              \
            acc[t] = f[t];                                                                                             \
        }                                                                                                              \
        for (size_t b = 0; b < n; b++, wp += 512, dw += 16) {                                                          \
            __m512i s[N];                                                                                              \
            _Pragma("GCC unroll 8") for (int t = 0; t < N; t++)                                                        \
            {                                                                                                          \
                s[t] = _mm512_set1_epi32(off * corr[(size_t)t * nb + b]);                                              \
            }                                                                                                          \
            _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++)                                                        \
            {                                                                                                          \
                __m512i w = _mm512_load_si512((const void *)(wp + 64 * g));                                            \
                _Pragma("GCC unroll 8") for (int t = 0; t < N; t++)                                                    \
                {                                                                                                      \
                    int32_t x;                                                                                         \
                    memcpy(&x, q + (size_t)t * C + 32 * b + 4 * (size_t)g, 4);                                         \
                    s[t] = _mm512_dpbusd_epi32(s[t], w, _mm512_set1_epi32(x));                                         \
                }                                                                                                      \
            }                                                                                                          \
            __m512 d = _mm512_load_ps(dw);                                                                             \
            _Pragma("GCC unroll 8") for (int t = 0; t < N; t++)                                                        \
            {                                                                                                          \
                __m512 sd = _mm512_mul_ps(d, _mm512_set1_ps(dx[(size_t)t * nb + b]));                                  \
                acc[t] = _mm512_fmadd_ps(sd, _mm512_cvtepi32_ps(s[t]), acc[t]);                                        \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int t = 0; t < N; t++)                                                            \
        {                                                                                                              \
            f[t] = acc[t];                                                                                             \
        }                                                                                                              \
    }
/* clang-format off */
QMUL(1) QMUL(2) QMUL(4) QMUL(8)
    /* clang-format on */

    static void qmul(ew_dtype t, const uint8_t *wp, const float *dw, const ew_xq *x, size_t kb, size_t n, size_t T,
                     bool first, float *y, size_t ldy, size_t rows)
{
    const int32_t off = t == EW_DTYPE_Q8_0 ? 128 : 8;
    const __mmask16 mask = lanes(rows);
    const size_t nb = x->C / 32;
    for (size_t i = 0; i < T;) {
        size_t step = T - i >= 8 ? 8 : T - i >= 4 ? 4 : T - i >= 2 ? 2 : 1;
        const int8_t *q = x->q + i * x->C + 32 * kb;
        const float *dx = x->d + i * nb + kb;
        const int32_t *corr = x->corr + i * nb + kb;
        __m512 f[QTOK];
        for (size_t j = 0; j < step; j++) {
            f[j] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y + (i + j) * ldy);
        }
        if (step == 8) {
            qmul_8(off, wp, dw, q, dx, corr, x->C, n, f);
        } else if (step == 4) {
            qmul_4(off, wp, dw, q, dx, corr, x->C, n, f);
        } else if (step == 2) {
            qmul_2(off, wp, dw, q, dx, corr, x->C, n, f);
        } else {
            qmul_1(off, wp, dw, q, dx, corr, x->C, n, f);
        }
        for (size_t j = 0; j < step; j++) {
            _mm512_mask_storeu_ps(y + (i + j) * ldy, mask, f[j]);
        }
        i += step;
    }
}

/* acc + d * (dot of block b), lane-wise. */
static inline __m256 qdot_block(ew_dtype t, int32_t off, const uint8_t *w, const ew_xq *x, size_t b, __m256 acc)
{
    __m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(x->q + 32 * b));
    __m256i corr = _mm256_zextsi128_si256(_mm_cvtsi32_si128(off * x->corr[b]));
    __m256 f = _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(corr, block_bytes(t, w), q));
    return _mm256_fmadd_ps(_mm256_set1_ps(f16_scalar(w) * x->d[b]), f, acc);
}

static inline float qdot_row(ew_dtype t, size_t bytes, int32_t off, const uint8_t *w, const ew_xq *x, size_t n_blocks)
{
    __m256 acc0 = _mm256_setzero_ps(), acc1 = _mm256_setzero_ps();
    size_t b = 0;
    for (; b + 2 <= n_blocks; b += 2, w += 2 * bytes) {
        acc0 = qdot_block(t, off, w, x, b, acc0);
        acc1 = qdot_block(t, off, w + bytes, x, b + 1, acc1);
    }
    if (b < n_blocks) {
        acc0 = qdot_block(t, off, w, x, b, acc0);
    }
    __m256 a = _mm256_add_ps(acc0, acc1);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static float qdot(ew_dtype t, const uint8_t *w, const ew_xq *x, size_t n_blocks)
{
    return t == EW_DTYPE_Q8_0 ? qdot_row(EW_DTYPE_Q8_0, 34, 128, w, x, n_blocks)
                              : qdot_row(EW_DTYPE_Q4_0, 18, 8, w, x, n_blocks);
}

const ew_kern ew__kern_avx512 = {
    .name = "avx512",
    .mr = 12,
    .nr = 32,
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
    .qrows = 16,
    .qpack = qpack,
    .qmul = qmul,
    .qdot = qdot,
};

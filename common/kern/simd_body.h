/* The body of a vector table, included once by each ISA's file after it has defined
 *   vf, vi, VW            float and int32 vectors and their number of lanes
 *   v_load v_store v_loadn v_storen v_set1 v_zero v_add v_sub v_mul v_div v_fma v_fnma v_sqrt v_max v_min v_sum v_hmax
 *   v_exp_scale(p, n)     p * 2^n for integral float n
 *   v_round, v_mask_lt0(x, lo, y): y where not x < lo, else 0
 *   v_load_f16(p), v_load_bf16(p): VW elements at any address
 * Sums run in two lane-wise accumulators over the row; the order depends on the length only. */
#include <math.h>
#include <string.h>

/* exp(x), relative error below 2e-7 over [-87.3, 88.3]; 0 below, +inf above, NaN stays.
 * Cody-Waite reduction by ln 2 in two parts, polynomial of degree 6 (Cephes expf). */
static inline vf v_exp(vf x)
{
    const vf lo = v_set1(-87.33f);
    vf c = v_min(v_set1(88.8f), v_max(lo, x));
    vf n = v_round(v_mul(c, v_set1(1.44269504088896341f)));
    vf r = v_fnma(n, v_set1(0.693359375f), c);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return v_mask_lt0(x, lo, v_exp_scale(p, n));
}

static inline vf v_sigmoid(vf a)
{
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), a))));
}

/* EACH(n) runs its body for every vector of n elements: i is the offset, m the lanes in use. */
#define EACH(n) for (size_t i = 0, m = 0; i < (n) && (m = EW_MIN((size_t)VW, (n)-i), true); i += VW)

static float s_dot_f32(const float *a, const float *b, size_t n)
{
    vf s0 = v_zero(), s1 = v_zero();
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + VW), v_load(b + i + VW), s1);
    }
    for (; i < n; i += VW) {
        size_t m = EW_MIN((size_t)VW, n - i);
        s0 = v_fma(v_loadn(a + i, m), v_loadn(b + i, m), s0);
    }
    return v_sum(v_add(s0, s1));
}

/* Blocks of 1024 in f32 lanes, summed in double. */
static double s_dot_f64(const float *a, const float *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i += 1024) {
        sum += (double)s_dot_f32(a + i, b + i, EW_MIN((size_t)1024, n - i));
    }
    return sum;
}

static void s_rmsnorm(const float *x, const float *w, size_t C, float eps, float *y, float *rstd)
{
    double ms = s_dot_f64(x, x, C) / (double)C + (double)eps;
    float rf = (float)(1.0 / sqrt(ms));
    vf r = v_set1(rf);
    EACH(C)
    {
        v_storen(y + i, m, v_mul(v_mul(v_loadn(x + i, m), r), v_loadn(w + i, m)));
    }
    if (rstd != NULL) {
        *rstd = rf;
    }
}

static void s_rmsnorm_bwd(const float *x, const float *w, float rstd, const float *dy, size_t C, float *dx)
{
    vf acc = v_zero();
    EACH(C)
    {
        acc = v_fma(v_mul(v_loadn(dy + i, m), v_loadn(w + i, m)), v_loadn(x + i, m), acc);
    }
    vf r = v_set1(rstd);
    vf s = v_set1(v_sum(acc) * rstd * rstd * rstd / (float)C);
    EACH(C)
    {
        vf g = v_fma(v_mul(r, v_loadn(w + i, m)), v_loadn(dy + i, m), v_loadn(dx + i, m));
        v_storen(dx + i, m, v_fnma(s, v_loadn(x + i, m), g));
    }
}

static void s_rope(float *x, size_t n_heads, size_t D, size_t n_rot, ew_rope_kind kind, const float *cs, float sign)
{
    size_t half = n_rot / 2;
    for (size_t h = 0; h < n_heads; h++, x += D) {
        if (kind == EW_ROPE_NORM) {
            for (size_t i = 0; i < half; i++) {
                float c = cs[2 * i], s = sign * cs[2 * i + 1];
                float a = x[2 * i], b = x[2 * i + 1];
                x[2 * i] = a * c - b * s;
                x[2 * i + 1] = a * s + b * c;
            }
        } else {
            float *restrict p = x, *restrict q = x + half;
            for (size_t i = 0; i < half; i++) {
                float c = cs[2 * i], s = sign * cs[2 * i + 1];
                float a = p[i], b = q[i];
                p[i] = a * c - b * s;
                q[i] = a * s + b * c;
            }
        }
    }
}

/* For tables without simd_glu.h. */
EW_UNUSED static void s_swiglu(const float *gate, const float *up, size_t n, float *y)
{
    EACH(n)
    {
        vf a = v_loadn(gate + i, m);
        v_storen(y + i, m, v_mul(v_mul(a, v_sigmoid(a)), v_loadn(up + i, m)));
    }
}

static void s_swiglu_bwd(const float *gate, const float *up, const float *dy, size_t n, float *dgate, float *dup)
{
    const vf one = v_set1(1.0f);
    EACH(n)
    {
        vf a = v_loadn(gate + i, m), u = v_loadn(up + i, m), d = v_loadn(dy + i, m);
        vf s = v_sigmoid(a);
        vf ds = v_mul(d, s);
        v_storen(dup + i, m, v_mul(ds, a));
        v_storen(dgate + i, m, v_mul(v_mul(ds, u), v_fma(a, v_sub(one, s), one)));
    }
}

static double s_exp_row(float *x, size_t n, float scale, float sub)
{
    const vf vs = v_set1(scale), vb = v_set1(-sub);
    double sum = 0.0;
    size_t i = 0;
    while (i < n) {
        size_t stop = EW_MIN(n, i + 1024);
        vf acc = v_zero();
        for (; i + VW <= stop; i += VW) {
            vf e = v_exp(v_fma(vs, v_load(x + i), vb));
            v_store(x + i, e);
            acc = v_add(acc, e);
        }
        if (i < stop) {
            size_t m = stop - i;
            vf e = v_exp(v_fma(vs, v_loadn(x + i, m), vb));
            v_storen(x + i, m, e);
            acc = v_add(acc, v_loadn(x + i, m));
            i = stop;
        }
        sum += (double)v_sum(acc);
    }
    return sum;
}

static float s_max_row(const float *x, size_t n)
{
    vf a = v_set1(-INFINITY);
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        a = v_max(a, v_load(x + i));
    }
    float r = v_hmax(a);
    for (; i < n; i++) {
        r = x[i] > r || x[i] != x[i] ? x[i] : r;
    }
    return r;
}

static void s_softmax_bwd_row(const float *p, float *dp, size_t n, float delta, float scale)
{
    const vf vd = v_set1(delta), vs = v_set1(scale);
    EACH(n)
    {
        vf g = v_mul(v_loadn(p + i, m), v_sub(v_loadn(dp + i, m), vd));
        v_storen(dp + i, m, v_mul(g, vs));
    }
}

static void s_adamw(const ew_adamw_opt *o, float bc1, float bc2, float *p, const float *g, float *mm, float *vv,
                    size_t n)
{
    const vf b1 = v_set1(o->beta1), c1 = v_set1(1.0f - o->beta1), b2 = v_set1(o->beta2), c2 = v_set1(1.0f - o->beta2);
    const vf lr = v_set1(o->lr), wd = v_set1(o->weight_decay), eps = v_set1(o->eps), gs = v_set1(o->grad_scale);
    const vf k1 = v_set1(bc1), k2 = v_set1(bc2);
    EACH(n)
    {
        vf gi = v_mul(v_loadn(g + i, m), gs);
        vf m1 = v_fma(b1, v_loadn(mm + i, m), v_mul(c1, gi));
        vf v1 = v_fma(b2, v_loadn(vv + i, m), v_mul(c2, v_mul(gi, gi)));
        vf step = v_div(v_mul(m1, k1), v_add(v_sqrt(v_mul(v1, k2)), eps));
        vf w = v_loadn(p + i, m);
        v_storen(mm + i, m, m1);
        v_storen(vv + i, m, v1);
        v_storen(p + i, m, v_fnma(lr, v_fma(wd, w, step), w));
    }
}

static void s_axpy(float a, const float *x, size_t n, float *y)
{
    const vf va = v_set1(a);
    EACH(n)
    {
        v_storen(y + i, m, v_fma(va, v_loadn(x + i, m), v_loadn(y + i, m)));
    }
}

static void s_scale(float a, size_t n, float *y)
{
    const vf va = v_set1(a);
    EACH(n)
    {
        v_storen(y + i, m, v_mul(va, v_loadn(y + i, m)));
    }
}

static void s_mul(float *y, const float *x, size_t n)
{
    EACH(n)
    {
        v_storen(y + i, m, v_mul(v_loadn(x + i, m), v_loadn(y + i, m)));
    }
}

static void s_axpy_mul(float a, const float *x1, const float *x2, size_t n, float *y)
{
    const vf va = v_set1(a);
    EACH(n)
    {
        vf t = v_mul(va, v_loadn(x1 + i, m));
        v_storen(y + i, m, v_fma(t, v_loadn(x2 + i, m), v_loadn(y + i, m)));
    }
}

#if defined(__x86_64__) /* NEON's own stand in kern_neon.c */
/* ---- packing for the f32 product ---- */

/* 8 rows of 8 floats, transposed: dst rows at distance width. Shared by both ISAs (AVX). */
static inline void transpose8(const float *src, size_t row, float *dst, size_t width)
{
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) {
        r[i] = _mm256_loadu_ps(src + (size_t)i * row);
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + (size_t)i * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (size_t)(i + 4) * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

static inline void transpose4(const float *src, size_t row, float *dst, size_t width)
{
    __m128 a = _mm_loadu_ps(src), b = _mm_loadu_ps(src + row);
    __m128 c = _mm_loadu_ps(src + 2 * row), d = _mm_loadu_ps(src + 3 * row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(dst, a);
    _mm_storeu_ps(dst + width, b);
    _mm_storeu_ps(dst + 2 * width, c);
    _mm_storeu_ps(dst + 3 * width, d);
}

/* Rows are contiguous along K: transpose in 8x8, 4x4 and single steps. */
static void pack_transposed(const float *src, size_t row, size_t rows, size_t K, size_t width, float *dst)
{
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        size_t k = 0;
        for (; k + 8 <= K; k += 8) {
            transpose8(src + r * row + k, row, dst + k * width + r, width);
        }
        for (; k < K; k++) {
            for (size_t i = r; i < r + 8; i++) {
                dst[k * width + i] = src[i * row + k];
            }
        }
    }
    for (; r + 4 <= rows; r += 4) {
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
            dst[k * width + r] = src[r * row + k];
        }
    }
}

static void s_pack(const float *src, size_t row, size_t col, size_t rows, size_t K, size_t width, float *dst)
{
    if (rows < width) {
        memset(dst, 0, K * width * sizeof(float));
    }
    if (col == 1) {
        pack_transposed(src, row, rows, K, width, dst);
    } else if (row == 1) {
        for (size_t k = 0; k < K; k++) {
            const float *s = src + k * col;
            float *d = dst + k * width;
            size_t r = 0;
            for (; r + 8 <= rows; r += 8) {
                _mm256_storeu_ps(d + r, _mm256_loadu_ps(s + r));
            }
            for (; r + 4 <= rows; r += 4) {
                _mm_storeu_ps(d + r, _mm_loadu_ps(s + r));
            }
            for (; r < rows; r++) {
                d[r] = s[r];
            }
        }
    } else {
        for (size_t k = 0; k < K; k++) {
            for (size_t r = 0; r < rows; r++) {
                dst[k * width + r] = src[r * row + k * col];
            }
        }
    }
}

/* ---- rows of other types ---- */

static void s_f32_to_f16(const float *src, uint16_t *dst, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128((__m128i *)(void *)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), 0));
    }
    for (; i < n; i++) {
        dst[i] = ew_f32_to_f16(src[i]);
    }
}

static inline float f16_scalar(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}
#endif

/* ---- few tokens against rows of floats ---- */

#define ROW_TOKENS (VW == 8 ? 2 : 4) /* AVX2 has half the registers */

/* VW elements of a row, f32. */
static inline vf weights(ew_dtype t, const uint8_t *w, size_t i)
{
    return t == EW_DTYPE_F32 ? v_load((const float *)(const void *)(w + 4 * i))
                             : (t == EW_DTYPE_F16 ? v_load_f16(w + 2 * i) : v_load_bf16(w + 2 * i));
}

/* One row, N tokens C apart: four chains of sums each. */
static inline __attribute__((always_inline)) void row_dot(ew_dtype t, const uint8_t *w, const float *x, size_t C,
                                                          const size_t N, float *y, size_t ldy)
{
    vf s[ROW_TOKENS][4];
    size_t i = 0;
    _Pragma("GCC unroll 4") for (size_t k = 0; k < N; k++)
    {
        s[k][0] = s[k][1] = s[k][2] = s[k][3] = v_zero();
    }
    const size_t bytes = t == EW_DTYPE_F32 ? 4 : 2;
    for (; i + 4 * VW <= C; i += 4 * VW) {
        for (size_t j = 0; j < 4 * VW * bytes; j += 64) {
            __builtin_prefetch(w + i * bytes + EW_READ_AHEAD + j);
        }
        _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)
        {
            vf v = weights(t, w, i + j * VW);
            _Pragma("GCC unroll 4") for (size_t k = 0; k < N; k++)
            {
                s[k][j] = v_fma(v, v_load(x + k * C + i + j * VW), s[k][j]);
            }
        }
    }
    for (; i < C; i += VW) {
        float tail[VW] = {0};
        size_t m = EW_MIN((size_t)VW, C - i);
        ew__dequant_row_ref(t, w + bytes * i, tail, m);
        _Pragma("GCC unroll 4") for (size_t k = 0; k < N; k++)
        {
            s[k][0] = v_fma(v_load(tail), v_loadn(x + k * C + i, m), s[k][0]);
        }
    }
    for (size_t k = 0; k < N; k++) {
        y[k * ldy] = v_sum(v_add(v_add(s[k][0], s[k][1]), v_add(s[k][2], s[k][3])));
    }
}

static inline __attribute__((always_inline)) void rows_dot_of(ew_dtype t, const uint8_t *w, size_t row_bytes,
                                                              size_t rows, const float *x, size_t C, size_t T, float *y,
                                                              size_t ldy)
{
    for (size_t r = 0; r < rows; r++, w += row_bytes, y++) {
        size_t k = 0;
        for (; k + ROW_TOKENS <= T; k += ROW_TOKENS) {
            row_dot(t, w, x + k * C, C, ROW_TOKENS, y + k * ldy, ldy);
        }
        if (k + 2 <= T) {
            row_dot(t, w, x + k * C, C, 2, y + k * ldy, ldy);
            k += 2;
        }
        if (k < T) {
            row_dot(t, w, x + k * C, C, 1, y + k * ldy, ldy);
        }
    }
}

static void s_rows_dot(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const float *x, size_t C, size_t T,
                       float *y, size_t ldy)
{
    if (t == EW_DTYPE_F32) {
        rows_dot_of(EW_DTYPE_F32, w, row_bytes, rows, x, C, T, y, ldy);
    } else if (t == EW_DTYPE_F16) {
        rows_dot_of(EW_DTYPE_F16, w, row_bytes, rows, x, C, T, y, ldy);
    } else {
        EW_ASSERT(t == EW_DTYPE_BF16);
        rows_dot_of(EW_DTYPE_BF16, w, row_bytes, rows, x, C, T, y, ldy);
    }
}

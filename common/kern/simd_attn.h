/* Attention for few queries, included by an ISA's file after simd_body.h: keys and values are read as the cache stores them
 * (F32, F16, Q8_0) and converted once for up to four query rows. Sums run in lanes of VW over the width of a head; the order of
 * additions depends on the shape only. */

#define ATTN_INLINE static inline __attribute__((always_inline))

#if VW == 16
#define v_loadh(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define v_loadb(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))

/* Lane i of the result is the sum of a[i]. */
ATTN_INLINE vf v_sum_each(const vf a[16])
{
    vf b[8], c[4], t[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* lanes: a[i] a[i] a[i+8] a[i+8] */
        b[i] = v_add(_mm512_shuffle_f32x4(a[i], a[i + 8], 0x44), _mm512_shuffle_f32x4(a[i], a[i + 8], 0xee));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* lanes: a[i] a[i+8] a[i+4] a[i+12] */
        c[i] = v_add(_mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        t[i] = v_add(_mm512_unpacklo_ps(c[2 * i], c[2 * i + 1]), _mm512_unpackhi_ps(c[2 * i], c[2 * i + 1]));
    }
    vf r = v_add(_mm512_shuffle_ps(t[0], t[1], 0x44), _mm512_shuffle_ps(t[0], t[1], 0xee));
    return _mm512_shuffle_f32x4(r, r, 0xd8);
}
#elif VW == 8
#define v_floor(a) _mm256_floor_ps(a)
#define v_loadh(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define v_loadb(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))

ATTN_INLINE vf v_sum_each(const vf a[8])
{
    vf lo = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    vf hi = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return v_add(_mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31));
}
#else /* NEON, which has v_floor and v_loadh */
ATTN_INLINE vf v_loadb(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(v)))));
}

ATTN_INLINE vf v_sum_each(const vf a[4])
{
    return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
}
#endif

/* Elements [d, d + VW) of a row of the cache. */
ATTN_INLINE vf kv_load(ew_dtype t, const uint8_t *row, size_t d)
{
    if (t == EW_DTYPE_F32) {
        return v_load((const float *)(const void *)(row + 4 * d));
    }
    if (t == EW_DTYPE_F16) {
        return v_loadh(row + 2 * d);
    }
    const uint8_t *b = row + d / 32 * 34;
    return v_mul(v_set1(f16_scalar(b)), v_loadb(b + 2 + d % 32));
}

/* The same of the last m < VW elements: of F32 and F16 only. */
ATTN_INLINE vf kv_tail(ew_dtype t, const uint8_t *row, size_t d, size_t m)
{
    if (t == EW_DTYPE_F32) {
        return v_loadn((const float *)(const void *)(row + 4 * d), m);
    }
    uint16_t h[VW] = {0};
    memcpy(h, row + 2 * d, 2 * m);
    return v_loadh(h);
}

/* The cache is read in strides of all heads' rows, which the hardware does not foresee. */
#define KV_AHEAD 24

ATTN_INLINE size_t kv_bytes(ew_dtype t, size_t d)
{
    return t == EW_DTYPE_F32 ? 4 * d : t == EW_DTYPE_F16 ? 2 * d : d / 32 * 34;
}

/* Fetches elements [d, d + n) of the row. */
ATTN_INLINE void kv_prefetch(ew_dtype t, const uint8_t *row, size_t d, size_t n)
{
    const char *p = (const char *)row + kv_bytes(t, d);
    for (size_t i = 0; i < kv_bytes(t, n); i += 64) {
        __builtin_prefetch(p + i, 0, 3);
    }
}

/* Scores of R rows against VW / R keys: the first `count` keys count. */
ATTN_INLINE void qk_block(ew_dtype t, int R, const float *const *q, const uint8_t *k, size_t k_row, size_t count,
                          size_t D, float *s, size_t lds, size_t rows)
{
    const int J = VW / R;
    const uint8_t *kr[VW];
    vf acc[VW];
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) {
        kr[j] = k + EW_MIN((size_t)j, count - 1) * k_row;
    }
#pragma GCC unroll 16
    for (int i = 0; i < VW; i++) {
        acc[i] = v_zero();
    }
    size_t d = 0;
    for (; d + VW <= D; d += VW) {
#pragma GCC unroll 16
        for (int j = 0; j < J; j++) {
            vf x = kv_load(t, kr[j], d);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                acc[r * J + j] = v_fma(x, v_load(q[r] + d), acc[r * J + j]);
            }
        }
    }
    if (d < D) {
#pragma GCC unroll 16
        for (int j = 0; j < J; j++) {
            vf x = kv_tail(t, kr[j], d, D - d);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                acc[r * J + j] = v_fma(x, v_loadn(q[r] + d, D - d), acc[r * J + j]);
            }
        }
    }
    float sum[VW];
    v_store(sum, v_sum_each(acc));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        if ((size_t)r < rows && count == (size_t)J) {
            memcpy(s + (size_t)r * lds, sum + r * J, (size_t)J * sizeof(float)); /* of constant size: no call */
        } else if ((size_t)r < rows) {
            memcpy(s + (size_t)r * lds, sum + r * J, count * sizeof(float));
        }
    }
}

ATTN_INLINE void qk_rows(ew_dtype t, int R, const float *q, size_t ldq, size_t rows, const uint8_t *k, size_t k_row,
                         size_t n, size_t D, float *s, size_t lds)
{
    const size_t J = (size_t)(VW / R);
    const float *qr[4];
    for (size_t r = 0; r < 4; r++) {
        qr[r] = q + EW_MIN(r, rows - 1) * ldq;
    }
    for (size_t j = 0; j < n; j += J) {
        for (size_t i = 0; i < J; i++) {
            kv_prefetch(t, k + EW_MIN(j + i + KV_AHEAD, n - 1) * k_row, 0, D);
        }
        qk_block(t, R, qr, k + j * k_row, k_row, EW_MIN(J, n - j), D, s + j, lds, rows);
    }
}

ATTN_INLINE void qk_type(ew_dtype t, const float *q, size_t ldq, size_t rows, const uint8_t *k, size_t k_row, size_t n,
                         size_t D, float *s, size_t lds)
{
    for (size_t r = 0; r < rows; r += 4, q += 4 * ldq, s += 4 * lds) {
        size_t left = EW_MIN((size_t)4, rows - r);
        if (left > 2) {
            qk_rows(t, 4, q, ldq, left, k, k_row, n, D, s, lds);
        } else if (left == 2) {
            qk_rows(t, 2, q, ldq, 2, k, k_row, n, D, s, lds);
        } else {
            qk_rows(t, 1, q, ldq, 1, k, k_row, n, D, s, lds);
        }
    }
}

static void s_attn_qk(ew_dtype t, const float *q, size_t ldq, size_t rows, const void *k, size_t k_row, size_t n,
                      size_t D, float *s, size_t lds)
{
    if (t == EW_DTYPE_F16) {
        qk_type(EW_DTYPE_F16, q, ldq, rows, k, k_row, n, D, s, lds);
    } else if (t == EW_DTYPE_Q8_0) {
        qk_type(EW_DTYPE_Q8_0, q, ldq, rows, k, k_row, n, D, s, lds);
    } else {
        qk_type(EW_DTYPE_F32, q, ldq, rows, k, k_row, n, D, s, lds);
    }
}

/* Elements [d, d + N*VW) of R rows of o. m: of them, for N == 1. */
ATTN_INLINE void pv_block(ew_dtype t, int R, int N, const float *const *p, const uint8_t *v, size_t v_row, size_t n,
                          size_t d, size_t m, float *o, size_t ldo, size_t rows)
{
    vf acc[16];
#pragma GCC unroll 16
    for (int i = 0; i < R * N; i++) {
        size_t r = EW_MIN((size_t)(i / N), rows - 1);
        acc[i] = m < VW ? v_loadn(o + r * ldo + d, m) : v_load(o + r * ldo + d + (size_t)(i % N) * VW);
    }
    for (size_t j = 0; j < n; j++, v += v_row) {
        kv_prefetch(t, v + EW_MIN((size_t)KV_AHEAD, n - 1 - j) * v_row, d, (size_t)N * VW);
        vf x[4];
#pragma GCC unroll 4
        for (int c = 0; c < N; c++) {
            x[c] = m < VW ? kv_tail(t, v, d, m) : kv_load(t, v, d + (size_t)c * VW);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vf w = v_set1(p[r][j]);
#pragma GCC unroll 4
            for (int c = 0; c < N; c++) {
                acc[r * N + c] = v_fma(w, x[c], acc[r * N + c]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * N; i++) {
        size_t r = (size_t)(i / N);
        if (r < rows && m < VW) {
            v_storen(o + r * ldo + d, m, acc[i]);
        } else if (r < rows) {
            v_store(o + r * ldo + d + (size_t)(i % N) * VW, acc[i]);
        }
    }
}

ATTN_INLINE void pv_rows(ew_dtype t, int R, const float *p, size_t ldp, size_t rows, const uint8_t *v, size_t v_row,
                         size_t n, size_t D, float *o, size_t ldo)
{
    enum {
        N = VW == 8 ? 2 : 4
    };
    const float *pr[4];
    for (size_t r = 0; r < 4; r++) {
        pr[r] = p + EW_MIN(r, rows - 1) * ldp;
    }
    size_t d = 0;
    for (; d + N * VW <= D; d += N * VW) {
        pv_block(t, R, N, pr, v, v_row, n, d, VW, o, ldo, rows);
    }
    for (; d + VW <= D; d += VW) {
        pv_block(t, R, 1, pr, v, v_row, n, d, VW, o, ldo, rows);
    }
    if (d < D) {
        pv_block(t == EW_DTYPE_Q8_0 ? EW_DTYPE_F16 : t, R, 1, pr, v, v_row, n, d, D - d, o, ldo, rows);
    }
}

ATTN_INLINE void pv_type(ew_dtype t, const float *p, size_t ldp, size_t rows, const uint8_t *v, size_t v_row, size_t n,
                         size_t D, float *o, size_t ldo)
{
    for (size_t r = 0; r < rows; r += 4, p += 4 * ldp, o += 4 * ldo) {
        size_t left = EW_MIN((size_t)4, rows - r);
        if (left > 2) {
            pv_rows(t, 4, p, ldp, left, v, v_row, n, D, o, ldo);
        } else if (left == 2) {
            pv_rows(t, 2, p, ldp, 2, v, v_row, n, D, o, ldo);
        } else {
            pv_rows(t, 1, p, ldp, 1, v, v_row, n, D, o, ldo);
        }
    }
}

static void s_attn_pv(ew_dtype t, const float *p, size_t ldp, size_t rows, const void *v, size_t v_row, size_t n,
                      size_t D, float *o, size_t ldo)
{
    if (t == EW_DTYPE_F16) {
        pv_type(EW_DTYPE_F16, p, ldp, rows, v, v_row, n, D, o, ldo);
    } else if (t == EW_DTYPE_Q8_0) {
        pv_type(EW_DTYPE_Q8_0, p, ldp, rows, v, v_row, n, D, o, ldo);
    } else {
        pv_type(EW_DTYPE_F32, p, ldp, rows, v, v_row, n, D, o, ldo);
    }
}

/* cap * tanh(x * scale / cap), tanh(a) = 1 - 2 / (1 + exp(2a)) */
static void attn_cap(float *s, size_t n, float scale, float cap)
{
    const vf a = v_set1(2.0f * scale / cap), one = v_set1(1.0f), c = v_set1(cap), two = v_set1(2.0f);
    EACH(n)
    {
        vf e = v_exp(v_mul(a, v_loadn(s + i, m)));
        v_storen(s + i, m, v_mul(c, v_sub(one, v_div(two, v_add(one, e)))));
    }
}

/* 2^x, relative error below 1.5e-7; 0 far below, NaN stays. A minimax polynomial with p(0) = 1
 * on [0, 1). */
ATTN_INLINE vf v_exp2(vf x)
{
#if VW == 16
    vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    x = v_max(v_set1(-126.0f), x);
    vf n = v_floor(x);
    vf r = v_sub(x, n);
#endif
    vf p = v_set1(1.867130446743706e-3f);
    p = v_fma(p, r, v_set1(9.017029520896502e-3f));
    p = v_fma(p, r, v_set1(5.5799913680623286e-2f));
    p = v_fma(p, r, v_set1(2.4016444999514783e-1f));
    p = v_fma(p, r, v_set1(6.931513118180276e-1f));
    p = v_fma(p, r, v_set1(1.0f));
#if VW == 16
    return _mm512_scalef_ps(p, x); /* by 2^floor(x) */
#else
    return v_exp_scale(p, n);
#endif
}

static float s_attn_softmax(float *s, size_t n, float scale, float cap, float *io_max)
{
    if (cap > 0.0f) {
        attn_cap(s, n, scale, cap);
        scale = 1.0f;
    }
    vf top = v_set1(-INFINITY), sum = v_zero();
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        top = v_max(v_load(s + i), top);
    }
    float max = v_hmax(top) * scale;
    for (; i < n; i++) {
        max = EW_MAX(s[i] * scale, max);
    }
    max = EW_MAX(max, *io_max);
    *io_max = max;
    const float log2e = 1.44269504f;
    const vf vs = v_set1(scale * log2e), vb = v_set1(-max * log2e);
    for (i = 0; i + VW <= n; i += VW) {
        vf e = v_exp2(v_fma(vs, v_load(s + i), vb));
        v_store(s + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        size_t m = n - i;
        v_storen(s + i, m, v_exp2(v_fma(vs, v_loadn(s + i, m), vb)));
        sum = v_add(sum, v_loadn(s + i, m)); /* the lanes beyond are zero */
    }
    return v_sum(sum);
}

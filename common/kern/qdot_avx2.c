/* Rows of quantised weights against few tokens, straight from the file's blocks, with AVX2: the scheme of qdot_avx512.c in the
 * natural order, with vectors of one block. */
#include "kern/qload_avx2.h"

/* ---- the sums ---- */

typedef struct x_at {
    const int8_t *q;
    const float *d, *m32, *m16;
    size_t C, nb;
} x_at;

static const int32_t mask_table[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

INLINE __m256 dot_32(const bool is_signed, __m256i q, __m256i x)
{
    __m256i pairs =
        is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q)) : _mm256_maddubs_epi16(q, x);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* One step for token t of x, of which `blocks` blocks of 32 exist (8 in the whole steps: no masks). */
INLINE void add_step(const step_type d, const step *o, const x_at *x, size_t t, size_t b, size_t blocks, __m256 acc[2],
                     __m256 *rest)
{
    const int8_t *q = x->q + t * x->C + 32 * b;
    const __m256i mask = load32((const uint8_t *)(mask_table + 8 - blocks));
    __m256 dx = blocks == 8 ? _mm256_loadu_ps(x->d + t * x->nb + b) : _mm256_maskload_ps(x->d + t * x->nb + b, mask);
    __m256 sd[2];
    if (d.groups == 1) {
        const float *m = x->m32 + t * x->nb + b;
        __m256 mx = blocks == 8 ? _mm256_loadu_ps(m) : _mm256_maskload_ps(m, mask);
        *rest = _mm256_fmadd_ps(d.min ? o->m[0] : o->s[0], mx, *rest);
        sd[0] = sd[1] = _mm256_mul_ps(o->s[0], dx);
    } else {
        UNROLL for (int i = 0; i < 2; i++)
        {
            __m256 mx = _mm256_loadu_ps(x->m16 + 2 * (t * x->nb + b) + 8 * i);
            *rest = _mm256_fmadd_ps(d.min ? o->m[i] : o->s[i], mx, *rest);
            const int k = 4 * i;
            __m256i twice = _mm256_setr_epi32(k, k, k + 1, k + 1, k + 2, k + 2, k + 3, k + 3);
            sd[i] = _mm256_mul_ps(o->s[i], _mm256_permutevar8x32_ps(dx, twice));
        }
    }
    UNROLL for (int i = 0; i < 8; i++)
    {
        if ((size_t)i < blocks) {
            const int k = 2 * (i % 4);
            __m256i at =
                d.groups == 1 ? _mm256_set1_epi32(i) : _mm256_setr_epi32(k, k, k, k, k + 1, k + 1, k + 1, k + 1);
            __m256 s = _mm256_permutevar8x32_ps(sd[i / 4], at);
            __m256 f = dot_32(d.is_signed, o->q[i], load32((const uint8_t *)q + 32 * i));
            acc[i % 2] = _mm256_fmadd_ps(s, f, acc[i % 2]);
        }
    }
}

INLINE float sum_of(__m256 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* One row, N tokens; the weight ends at `end`. */
INLINE void dot_row(const step_type d, const uint8_t *w, const x_at *x, const size_t N, const uint8_t *end, float *y,
                    size_t ldy)
{
    __m256 acc[2][2], rest[2];
    UNROLL for (size_t t = 0; t < N; t++)
    {
        acc[t][0] = acc[t][1] = rest[t] = _mm256_setzero_ps();
    }
    size_t b = 0;
    step o;
    for (; b + 8 <= x->nb; b += 8, w += d.bytes) {
        read_ahead(w, d.bytes);
        d.load(w, &o);
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, x, t, b, 8, acc[t], &rest[t]);
        }
    }
    if (b < x->nb) {
        load_last(d, w, x->nb - b, end, &o);
        const __m256 k = _mm256_loadu_ps((const float *)(const void *)(mask_table + 8 - (x->nb - b)));
        o.s[0] = _mm256_and_ps(o.s[0], k);
        o.m[0] = d.min ? _mm256_and_ps(o.m[0], k) : o.s[0];
        UNROLL for (size_t t = 0; t < N; t++)
        {
            add_step(d, &o, x, t, b, x->nb - b, acc[t], &rest[t]);
        }
    }
    UNROLL for (size_t t = 0; t < N; t++)
    {
        __m256 sum = _mm256_add_ps(acc[t][0], acc[t][1]);
        y[t * ldy] = sum_of(_mm256_fnmadd_ps(_mm256_set1_ps(d.min ? 1.0f : d.off), rest[t], sum));
    }
}

INLINE void dot_rows(const step_type d, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *xq, size_t T,
                     float *y, size_t ldy)
{
    const uint8_t *end = w + (rows - 1) * row_bytes + xq->C / 256 * d.bytes + xq->C % 256 / 32 * (d.bytes / 8);
    for (size_t r = 0; r < rows; r++, w += row_bytes, y++) {
        x_at x = {xq->q, xq->d, xq->m32, xq->m16, xq->C, xq->C / 32};
        size_t t = 0;
        for (; t + 2 <= T; t += 2) {
            dot_row(d, w, &x, 2, end, y + t * ldy, ldy);
            x.q += 2 * x.C, x.d += 2 * x.nb, x.m32 += 2 * x.nb, x.m16 += 4 * x.nb;
        }
        if (t < T) {
            dot_row(d, w, &x, 1, end, y + t * ldy, ldy);
        }
    }
}

#define DOT(name, type, ...)                                                                                           \
    static void dot_##name(const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,        \
                           size_t ldy)                                                                                 \
    {                                                                                                                  \
        dot_rows((step_type){__VA_ARGS__}, w, row_bytes, rows, x, T, y, ldy);                                          \
    }
EACH_STEP_TYPE(DOT)
#define ENTRY(name, type, ...) [type] = dot_##name,

void ew__qdot_avx2(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                   size_t ldy)
{
    typedef void (*dot_fn)(const uint8_t *, size_t, size_t, const ew_xq *, size_t, float *, size_t);
    static const dot_fn table[] = {EACH_STEP_TYPE(ENTRY)};
    EW_ASSERT((size_t)t < EW_COUNT(table) && table[t] != NULL);
    table[t](w, row_bytes, rows, x, T, y, ldy);
}

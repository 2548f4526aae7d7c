/* Inside of kern: the table of an instruction set, and the fixed tiles. */
#ifndef EW_KERN_KERN_INT_H
#define EW_KERN_KERN_INT_H

#include "kern/blocks.h"
#include "kern/kern.h"
#include "kern/ops.h"

/* ---- integer products ----
 *
 * Every quantised weight type is the same thing to the products. A row is blocks of 32 elements (b = 0 .. C/32 - 1, whatever the
 * size of the blocks of the file), and element i of a block is
 *     w_i = s_g q_i - m_g,   q_i an integer of -128 .. 127,   g = i / 16
 * with s_0 = s_1 and m_0 = m_1 unless the type has groups of 16. ew__q_form says what a type has, ew__q_block gives the numbers
 * of one block. Activations are quantised once to x_i = d x8_i, so a row of the product is
 *     y = sum_b d_b (sum_g s_g sum_i q_i x8_i - m_g sum_i x8_i):
 * the inner sums are exact integers (|q x8| <= 128 * 127, 32 of them), the outer one is f32.
 *
 * Two ways of computing it, of which kern.c takes one by the number of tokens T:
 *   dot   few tokens: straight from the file's blocks, bound by memory;
 *   pack + mul   many: `rows` rows of the weight are unpacked into a panel, kb blocks at a time, and all the tokens pass by it.
 * What is in a panel is the table's own affair. */
typedef struct ew_q_form {
    uint8_t groups; /* scales in a block of 32: 1 or 2 */
    bool min;       /* has m */
    uint8_t bits;   /* of q: it lies in [lo, lo + 2^bits) ... */
    int8_t lo;      /* ... and q - lo is what the file holds, but for IQ4_NL and IQ4_XS: levels, bits 8, lo -128 */
} ew_q_form;
/* Asserts that t is a quantised type that can be computed with. */
const ew_q_form *ew__q_form(ew_dtype t);
/* Block b (of 32 elements) of the row at `row`. s and m have two entries each, for both halves, always. Portable and slow: the
 * reference for the unpacking of every table. */
void ew__q_block(ew_dtype t, const uint8_t *row, size_t b, int8_t q[32], float s[2], float m[2]);

/* Quantised activations, T rows: struct of arrays. q is aligned to 64 and so is every row of it when C is a multiple of 64; a row
 * may be read up to 64 bytes past its end (into the next, or the slack that the owner adds: finite, arbitrary). */
typedef struct ew_xq {
    size_t C;           /* multiple of 32 */
    int8_t *q;          /* [T, C] -127 .. 127 */
    float *d;           /* [T, C/32] max |x| / 127 of a block; NaN is the largest */
    int32_t *c32, *c16; /* [T, C/32], [T, C/16] -128 * sum of q over 32, over 16 */
    float *m32, *m16;   /* [T, C/32], [T, C/16] d * sum of q over 32, over 16 */
    /* For dot only, else NULL; quant_x of a table writes them when they are there and the table's dot uses them. */
    float *d16; /* [T, C/16] d twice */
    int8_t *p;  /* [T, C up to a multiple of EW_XQ_P] q in another order, as the table's dot wants it */
} ew_xq;
#define EW_XQ_P 256
/* The rows from t on. */
static inline ew_xq ew__xq_row(const ew_xq *x, size_t t)
{
    size_t C = x->C, b = t * (C / 32);
    ew_xq r = {C, x->q + t * C, x->d + b, x->c32 + b, x->c16 + 2 * b, x->m32 + b, x->m16 + 2 * b, NULL, NULL};
    if (x->p != NULL) {
        r.d16 = x->d16 + 2 * b;
        r.p = x->p + t * EW_ALIGN_UP(C, EW_XQ_P);
    }
    return r;
}

/* A block whose largest magnitude is not above this becomes zeros: 127 / it must be finite. */
#define EW_XQ_TINY 0x1p-100f

/* Bytes of a panel, at most (a table chooses rows and kb so that it stays below). */
#define EW_QPANEL_BYTES 327680u

typedef struct ew_qkern {
    /* One row x[C] into the first row of *dst: q = x * (127 / max) rounded to nearest even, bit for bit the same in every table.
     * A block with a NaN: q is 0, and d and m are NaN, so that what is broken does not look whole behind the product. */
    void (*quant_x)(const float *x, const ew_xq *dst);
    /* y[t*ldy + r] = row r of w times x_t, r < rows, t < T. w is the first row, row_bytes apart, no alignment but 2; the bytes
     * behind the last block of a row must not be read. Any rows and T; a row's result for a token depends on neither. */
    void (*dot)(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                size_t ldy);
    size_t dot_tokens; /* kern.c calls dot up to this T, and always when rows is 0 */
    size_t rows;       /* rows of a panel */
    size_t kb;         /* blocks of 32 in a panel, a multiple of 8 (the K types' 256) */
    /* Unpacks blocks [b0, b0 + n) of `rows_used` <= rows rows into panel (aligned to 64, EW_QPANEL_BYTES); w is the start of the
     * first row; b0 is a multiple of kb, n <= kb, and a multiple of 8 for types of 256. What stands in unused rows is
     * arbitrary but finite: mul computes it and drops it. */
    void (*pack)(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows_used, size_t b0, size_t n, void *panel);
    /* y[t*ldy + r] (first: =, else +=) panel times blocks [b0, b0 + n) of x_t, for t < T, r < rows_used; other y untouched. The
     * additions of an element are in the order of b, and do not depend on T, so batches agree bit for bit. */
    void (*mul)(ew_dtype t, const void *panel, const ew_xq *x, size_t b0, size_t n, size_t T, bool first, float *y,
                size_t ldy, size_t rows_used);
} ew_qkern;

/* Products of few tokens call for weights so many bytes before they use them: what the hardware calls for by itself ends at each page of
 * 4 KiB. Measured on a Zen 5 from 3 to 24 KiB: one thread reads 15 % (Q4_K) to 35 % (Q8_0) faster than without, flat from 10 KiB on. */
#define EW_READ_AHEAD 10240

/* f32 product: tiles. A task is one block of C; packed panels are zero-padded. MR divides MC, NR divides NC. */
#define EW_GEMM_MC 120
#define EW_GEMM_NC 256
#define EW_GEMM_KC 256
#define EW_GEMM_NC_MAX 384 /* columns of a task whose A is packed anew for each */
#define EW_GEMM_MR_MAX 12
#define EW_GEMM_NR_MAX 32

/* Attention: rows of a query tile, positions of a key tile (at fixed multiples: a row's result does not depend on its batch). */
#define EW_ATTN_BQ 96
#define EW_ATTN_BK 64
#define EW_ATTN_D_MAX 256

typedef struct ew_tile {
    _Alignas(64) float q[EW_ATTN_BQ * EW_ATTN_D_MAX];
    _Alignas(64) float o[EW_ATTN_BQ * EW_ATTN_D_MAX];
    _Alignas(64) float k[EW_ATTN_BK * EW_ATTN_D_MAX];
    _Alignas(64) float v[EW_ATTN_BK * EW_ATTN_D_MAX];
    _Alignas(64) float s[EW_ATTN_BQ * EW_ATTN_BK];
    _Alignas(64) float p[EW_ATTN_BQ * EW_ATTN_BK];
    float max[EW_ATTN_BQ], delta[EW_ATTN_BQ];
    double sum[EW_ATTN_BQ];
} ew_tile;

/* Attention of inference. */
#define EW_ATTN_KEYS 128   /* positions of a key tile in a prompt, at fixed multiples */
#define EW_ATTN_ROWS 16    /* query rows that few queries take through the cache together */
#define EW_ATTN_SPAN 256   /* positions that they take at a time */
#define EW_ATTN_STATE 1024 /* query rows of a task in a prompt */
#define EW_ATTN_PART 65536 /* numbers of the parts that several threads make of few queries */

typedef struct ew_attn_work {
    _Alignas(64) float kf[EW_ATTN_KEYS * EW_ATTN_D_MAX];                    /* keys or values as f32 */
    _Alignas(64) float kp[EW_ATTN_KEYS * EW_ATTN_D_MAX];                    /* packed keys */
    _Alignas(64) float vp[EW_ATTN_KEYS * (EW_ATTN_D_MAX + EW_GEMM_NR_MAX)]; /* packed values */
    _Alignas(64) float q[EW_ATTN_ROWS * EW_ATTN_D_MAX];                     /* few queries: rows, */
    _Alignas(64) float o[EW_ATTN_ROWS * EW_ATTN_D_MAX];                     /* their result */
    _Alignas(64) float s[EW_ATTN_ROWS * EW_ATTN_SPAN];                      /* scores */
    _Alignas(64) float max[EW_ATTN_STATE];                                  /* running maximum */
    _Alignas(64) float sum[EW_ATTN_STATE];                                  /* and denominator */
    _Alignas(64) float part[EW_ATTN_PART];                                  /* of the thread that was called */
} ew_attn_work;

/* Working memory of a thread. Every member is aligned to 64. */
typedef struct ew_work {
    _Alignas(64) float pack_a[EW_GEMM_MC * EW_GEMM_KC];
    _Alignas(64) float pack_b[EW_GEMM_KC * EW_GEMM_NC_MAX];
    _Alignas(64) float unpacked[EW_GEMM_KC * EW_GEMM_NC];
    _Alignas(64) double acc_ref[EW_GEMM_MC * EW_GEMM_NC];
    _Alignas(64) uint8_t panel[EW_QPANEL_BYTES];
    ew_tile tile;
    ew_attn_work attn;
} ew_work;
/* This thread's; never NULL. */
ew_work *ew__work(void);

/* c[m x nr] (rows of ldc) = (add ? c : 0) + a bp for m <= mr rows; element (i, k) of a is a[i*a_row + k*a_col], bp is a panel
 * [K][nr]. */
typedef void (*ew_micro_fn)(size_t m, size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c,
                            size_t ldc, bool add);

/* Products of BF16 pairs: a dword is two neighbours along the summed index, the first in its low half. */
typedef struct ew_bf16 {
    /* As gemm_micro, over K dwords: both products of a pair are added. a_col is 1. NULL: ref, which rounds and sums in double. */
    ew_micro_fn micro;
    /* n floats, rounded to nearest even, as n/2 dwords (n odd: one more, its high half 0). No alignment. */
    void (*row)(const float *x, size_t n, void *y);
    /* y[i] = {a[i], b[i]}, n a multiple of 16, all aligned to 64. */
    void (*pairs)(const float *a, const float *b, size_t n, void *y);
} ew_bf16;

struct ew_kern {
    const char *name;
    /* ---- f32 product; NULL micro: the plain loops of ref ---- */
    unsigned mr, nr;
    ew_micro_fn gemm_micro;
    const ew_bf16 *bf16; /* products with weights go by BF16; NULL = f32 */
    /* dst[k*width + r] = src[r*row + k*col] for r < rows, 0 for rows <= r < width. */
    void (*gemm_pack)(const float *src, size_t row, size_t col, size_t rows, size_t K, size_t width, float *dst);
    /* ---- rows ---- */
    void (*dequant_row)(ew_dtype t, const void *src, float *dst, size_t n);
    void (*f32_to_f16)(const float *src, uint16_t *dst, size_t n);
    float (*dot_f32)(const float *a, const float *b, size_t n);
    /* Few tokens: y[t*ldy + r] = row r of w (F32, F16 or BF16, row_bytes apart) times x_t[C], r < rows, t < T. A row's result for a
     * token depends on neither rows nor T. NULL: kern.c goes by the general product. */
    void (*rows_dot)(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const float *x, size_t C, size_t T,
                     float *y, size_t ldy);
    void (*rmsnorm)(const float *x, const float *w, size_t C, float eps, float *y, float *rstd);
    void (*rmsnorm_bwd)(const float *x, const float *w, float rstd, const float *dy, size_t C, float *dx);
    void (*rope)(float *x, size_t n_heads, size_t D, size_t n_rot, ew_rope_kind kind, const float *cs, float sign);
    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
    void (*swiglu_bwd)(const float *gate, const float *up, const float *dy, size_t n, float *dgate, float *dup);
    /* x = exp(scale * x - sub), returns the sum of the results. sub may be +inf only when every x is -inf: zeros. */
    double (*exp_row)(float *x, size_t n, float scale, float sub);
    float (*max_row)(const float *x, size_t n); /* -inf for n = 0 */
    /* ds = p * (dp - delta) * scale */
    void (*softmax_bwd_row)(const float *p, float *dp, size_t n, float delta, float scale);
    void (*adamw)(const ew_adamw_opt *o, float bc1, float bc2, float *p, const float *g, float *m, float *v, size_t n);
    void (*axpy)(float a, const float *x, size_t n, float *y);
    void (*scale)(float a, size_t n, float *y);
    void (*mul)(float *y, const float *x, size_t n);
    /* y += a * x1 * x2 */
    void (*axpy_mul)(float a, const float *x1, const float *x2, size_t n, float *y);
    double (*dot_f64)(const float *a, const float *b, size_t n);
    const ew_qkern *q; /* integer products */
    /* ---- attention straight from the cache (F32, F16, Q8_0); all three or none (NULL: the plain loops in attention.c) ---- */
    /* s[r*lds + j] = q[r] . k[j] for r < rows, j < n; rows of q ldq apart, of k k_row bytes. */
    void (*attn_qk)(ew_dtype t, const float *q, size_t ldq, size_t rows, const void *k, size_t k_row, size_t n,
                    size_t D, float *s, size_t lds);
    /* o[r] += sum_j p[r*ldp + j] v[j], j in order. */
    void (*attn_pv)(ew_dtype t, const float *p, size_t ldp, size_t rows, const void *v, size_t v_row, size_t n,
                    size_t D, float *o, size_t ldo);
    /* s = exp(scale * s - max), or exp(cap * tanh(scale * s / cap) - max) where cap > 0; max is *io_max or the largest of the
     * row, if that is larger, and *io_max becomes it. Returns the sum. n > 0. */
    float (*attn_softmax)(float *s, size_t n, float scale, float cap, float *io_max);
};

extern const ew_kern ew__kern_ref;
extern const ew_kern ew__kern_ref_bf16;
extern const ew_qkern ew__qkern_ref;
#if defined(__x86_64__)
extern const ew_kern ew__kern_avx2;
extern const ew_kern ew__kern_avx512;
extern const ew_kern ew__kern_avx512_bf16;
extern const ew_bf16 ew__bf16_avx512;
extern const ew_qkern ew__qkern_avx2;
extern const ew_qkern ew__qkern_avx512;
void ew__dequant_row_avx2(ew_dtype t, const void *src, float *dst, size_t n);
void ew__dequant_row_avx512(ew_dtype t, const void *src, float *dst, size_t n);
void ew__qdot_avx2(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                   size_t ldy);
void ew__qdot_avx512(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, const ew_xq *x, size_t T, float *y,
                     size_t ldy);
#elif defined(__aarch64__)
extern const ew_kern ew__kern_neon;
extern const ew_kern ew__kern_neon_dotprod;
extern const ew_kern ew__kern_neon_i8mm;
extern const ew_qkern ew__qkern_neon;
extern const ew_qkern ew__qkern_neon_dotprod;
extern const ew_qkern ew__qkern_neon_i8mm;
#endif

void ew__dequant_row_ref(ew_dtype t, const void *src, float *dst, size_t n);
/* A product of few columns, where the table has a way for it; false, and nothing done, where it has none. g NULL: false. */
bool ew__gemm_thin(ew_pool *pool, const ew_kern *k, const ew_gemm_args *g);
/* In the calling thread; a must not be another tile's TLS. */
void ew__gemm_serial(const ew_kern *k, const ew_gemm_args *g);
/* ew_matmul_multi of rows that are made as they are quantised: row(ctx, t) gives row t, any thread's call once. False, and nothing
 * done, when not all of the weights are quantised. */
typedef const float *ew_row_fn(const void *ctx, size_t t);
bool ew__matmul_rows(const ew_exec *e, const ew_mat *const *w, size_t n, ew_row_fn *row, const void *ctx, size_t T,
                     float *const *y, void *scratch);
/* Query t of a sees positions [*lo, *hi). */
void ew__attn_range(const ew_attention_args *a, size_t t, size_t *lo, size_t *hi);
/* y = cap * tanh(scale * y / cap), n elements. */
void ew__softcap_row(const ew_kern *k, float *y, size_t n, float scale, float cap);
/* ew_attention without the functions of the table that are made for it. */
void ew__attention_plain(const ew_exec *e, const ew_attention_args *a);
/* Blocks of a [T,V] logits tensor that the loss keeps at a time. */
size_t ew__loss_rows(size_t V);
/* ew_cross_entropy without dhead and dbias. */
double ew__loss_stream(const ew_exec *e, const ew_cross_entropy_args *a);
size_t ew__loss_stream_scratch(const ew_mat *head, size_t T);

#endif

/* Inside of kern: the table of an instruction set, and the fixed tiles. */
#ifndef EW_KERN_KERN_INT_H
#define EW_KERN_KERN_INT_H

#include "kern/blocks.h"
#include "kern/kern.h"
#include "kern/ops.h"

/* Activations quantised for the integer products: struct of arrays, T rows. */
typedef struct ew_xq {
    const int8_t *q;     /* [T, C] */
    const float *d;      /* [T, C/32] scale of a block */
    const int32_t *corr; /* [T, C/32] minus the sum of a block's q */
    size_t C;
} ew_xq;

/* f32 product: tiles. A task is one block of C; packed panels are zero-padded. MR divides MC, NR divides NC. */
#define EW_GEMM_MC 120
#define EW_GEMM_NC 256
#define EW_GEMM_KC 256
#define EW_GEMM_MR_MAX 12
#define EW_GEMM_NR_MAX 32
/* Blocks of 32 along C that the integer product packs at a time. */
#define EW_QMUL_KB 128
#define EW_QMUL_ROWS_MAX 16

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

/* Working memory of a thread. Every member is aligned to 64. */
typedef struct ew_work {
    _Alignas(64) float pack_a[EW_GEMM_MC * EW_GEMM_KC];
    _Alignas(64) float pack_b[EW_GEMM_KC * EW_GEMM_NC];
    _Alignas(64) float unpacked[EW_GEMM_KC * EW_GEMM_NC];
    _Alignas(64) double acc_ref[EW_GEMM_MC * EW_GEMM_NC];
    _Alignas(64) uint8_t panel_w[EW_QMUL_KB * 32 * EW_QMUL_ROWS_MAX];
    _Alignas(64) float panel_d[EW_QMUL_KB * EW_QMUL_ROWS_MAX];
    ew_tile tile;
} ew_work;
/* This thread's; never NULL. */
ew_work *ew__work(void);

struct ew_kern {
    const char *name;
    /* ---- f32 product; NULL micro: the plain loops of ref ---- */
    unsigned mr, nr;
    /* c[m x nr] (rows of ldc) = (add ? c : 0) + a bp for m <= mr rows; element (i, k) of a is a[i*a_row + k*a_col], bp is a panel
     * [K][nr]. */
    void (*gemm_micro)(size_t m, size_t K, const float *a, size_t a_row, size_t a_col, const float *bp, float *c,
                       size_t ldc, bool add);
    /* dst[k*width + r] = src[r*row + k*col] for r < rows, 0 for rows <= r < width. */
    void (*gemm_pack)(const float *src, size_t row, size_t col, size_t rows, size_t K, size_t width, float *dst);
    /* ---- rows ---- */
    void (*dequant_row)(ew_dtype t, const void *src, float *dst, size_t n);
    void (*f32_to_f16)(const float *src, uint16_t *dst, size_t n);
    float (*dot_f32)(const float *a, const float *b, size_t n);
    float (*dot_f16)(const void *w, const float *x, size_t n);
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
    /* ---- integer products ---- */
    void (*quant_x)(const float *x, size_t C, int8_t *q, float *d, int32_t *corr);
    size_t qrows; /* weight rows in a panel; 0: the plain loops of ref */
    /* Packs blocks [kb, kb + n) of `rows` rows of w into the panel: wp as the ISA wants it, dw[n][qrows]. */
    void (*qpack)(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, size_t kb, size_t n, uint8_t *wp,
                  float *dw);
    /* y[t*ldy + r] (+)= panel * x for t < T, r < rows; first: overwrite. */
    void (*qmul)(ew_dtype t, const uint8_t *wp, const float *dw, const ew_xq *x, size_t kb, size_t n, size_t T,
                 bool first, float *y, size_t ldy, size_t rows);
    /* One row against one quantised x: for decoding. */
    float (*qdot)(ew_dtype t, const uint8_t *w, const ew_xq *x, size_t n_blocks);
};

extern const ew_kern ew__kern_ref;
#if defined(__x86_64__)
extern const ew_kern ew__kern_avx2;
extern const ew_kern ew__kern_avx512;
#endif

void ew__dequant_row_ref(ew_dtype t, const void *src, float *dst, size_t n);
/* In the calling thread; a must not be another tile's TLS. */
void ew__gemm_serial(const ew_kern *k, const ew_gemm_args *g);
/* Blocks of a [T,V] logits tensor that the loss keeps at a time. */
size_t ew__loss_rows(size_t V);

#endif

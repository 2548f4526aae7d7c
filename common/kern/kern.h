/* How to compute, and the matrix products.
 *
 * Letters: T tokens (rows of activations), C input width, F output rows of a weight. Everything is row-major; activations are
 * f32. A weight W[F,C] has any dtype with compute; its rows run along C, the dimension that is summed over.
 *
 * Determinism: for one kernel table the result of every function here and in ops.h is the same whatever the number of threads.
 * In ew_matmul_f32, ew_matmul_dx and ew_gemm each output element is one chain of fused multiply-adds in the order of the
 * summed index, so a row alone and the same row in a batch agree bit for bit too (in ew_gemm with up to 16 columns it is a sum in
 * lanes, whose order depends on K alone where op(a) lies along K). In ew_matmul they agree bit for bit among
 * batches of up to EW_MATMUL_FEW tokens, and among larger ones; between the two kinds only to f32 rounding (about 1e-6 of the
 * largest result, several times that where all activations have one sign: the same exact integers or the same products, added in
 * another order). The "ref" table is plain C, accumulates
 * in double, and its products give the same bits on every machine and for every T (softmax, activations and positions as far as
 * the C library's exp, sin and cos do). A NaN or an infinity among a token's activations gives it results that are none.
 * No function allocates, but for one block of 2 MiB at a thread's first use (pages of it count as they are touched: a decode
 * touches about 0.1 MiB, training 0.8 MiB), which ew_kern_reserve can set aside before; everything else is `scratch`.
 * Locking: tables are immutable; the functions may run in several threads on disjoint outputs. One ew_pool serves one
 * ew_par_for at a time (a nested one runs serially). */
#ifndef EW_KERN_KERN_H
#define EW_KERN_KERN_H

#include "base/base.h"
#include "kern/dtype.h"

typedef struct ew_pool ew_pool; /* sys/pool.h */
typedef struct ew_kern ew_kern; /* the functions of one instruction set */

/* "ref"; "avx2", "avx512"; "neon", "neon_dotprod", "neon_i8mm"; those of ew_kern_bf16; NULL = the best for this CPU. NULL is returned for an unknown name
 * or one that this CPU or build cannot run. The result is static. */
const ew_kern *ew_kern_get(const char *name);
const char *ew_kern_name(const ew_kern *k);
/* The table that is the same as k but for products with weights (ew_matmul_f32, ew_matmul_dx, and what goes by them: the loss, ew_matmul
 * with float weights and many tokens): both factors are rounded to BF16 (8 bits of mantissa, to nearest even), their products summed in
 * f32. Half the time of f32 where the CPU has instructions for it (AVX512_BF16); k itself where it has not or k has no such twin. For
 * tuning; "avx512_bf16" and "ref_bf16" by name. */
const ew_kern *ew_kern_bf16(const ew_kern *k);
/* The tables that this CPU can run, slowest ("ref") first; NULL past the end. */
const ew_kern *ew_kern_at(size_t i);

/* Handed down to everything that computes. kern must be set; pool NULL = in the calling thread. */
typedef struct ew_exec {
    const ew_kern *kern;
    ew_pool *pool;
} ew_exec;

/* Sets the working memory of n threads aside, so that they start to compute without allocating; false = no memory. Kept until the
 * process ends, for all that compute. Thread-safe. */
bool ew_kern_reserve(size_t n) EW_MUST_CHECK;

/* A weight W[rows = F, cols = C]; borrows its data. cols is a multiple of the dtype's block. */
typedef struct ew_mat {
    ew_dtype dtype;
    uint32_t rows;    /* F */
    uint32_t cols;    /* C */
    const void *data; /* rows * row_bytes bytes, any alignment that the dtype's scalars allow */
    size_t row_bytes; /* distance of rows in bytes, at least ew_dtype_row_bytes(dtype, cols) */
} ew_mat;

/* A matrix of contiguous rows. Asserts that cols fits the dtype. */
ew_mat ew_mat_make(ew_dtype dtype, size_t rows, size_t cols, const void *data);
/* Rows [first, first + n) of m. */
ew_mat ew_mat_rows(const ew_mat *m, size_t first, size_t n);

/* Up to so many tokens ew_matmul goes along the rows of the weights as they are stored, bound by memory (decoding, a draft's
 * tokens); above it weights are unpacked, some rows at a time, into panels that all the tokens pass (prompts). */
#define EW_MATMUL_FEW 8

/* y = x W^T.  x:[T,C], W:[F,C], y:[T,F] overwritten.  Cost 2*T*F*C flop.
 * F32/F16/BF16 weights: f32 arithmetic, as ew_matmul_f32. Quantised weights: x is quantised once, to signed bytes in blocks of 32
 * with an f32 scale (max / 127), and the product is exact integer dot products of 32 or 16 elements, scaled and summed in f32
 * (the idea of llama.cpp's CPU backend, there with an f16 scale or blocks of 256); ref does the same. Against f32 activations an
 * element errs by up to 1/254 of its block's largest.
 * scratch: ew_matmul_scratch(w, T) bytes, 64-byte aligned (0 bytes: may be NULL); never less for a larger T. For decoding and
 * prompt evaluation. */
void ew_matmul(const ew_exec *e, const ew_mat *w, const float *x, size_t T, float *y, void *scratch);
size_t ew_matmul_scratch(const ew_mat *w, size_t T);

/* Several weights on the same x (Q, K, V; gate, up): x is quantised once. n <= 4, all of the same cols; y[i]:[T, w[i].rows].
 * scratch: the largest of ew_matmul_scratch(w[i], T). The same bits as n calls of ew_matmul. */
void ew_matmul_multi(const ew_exec *e, const ew_mat *const *w, size_t n, const float *x, size_t T, float *const *y,
                     void *scratch);

/* y = x W^T (accumulate: y += x W^T) with W dequantised tile by tile and f32 activations whatever the dtype: training uses it so
 * that forward and backward see the same function. x:[T,C], y:[T,F]. */
void ew_matmul_f32(const ew_exec *e, const ew_mat *w, const float *x, size_t T, float *y, bool accumulate);

/* dx = dy W (accumulate: dx += dy W): the gradient of ew_matmul_f32 with respect to x. dy:[T,F], dx:[T,C]. W is dequantised
 * tile by tile. scratch may be NULL (ew_matmul_dx_scratch returns 0 in this version; pass what it says all the same). */
void ew_matmul_dx(const ew_exec *e, const ew_mat *w, const float *dy, size_t T, float *dx, bool accumulate,
                  void *scratch);
size_t ew_matmul_dx_scratch(const ew_mat *w, size_t T);

/* dw += dy^T x: the gradient with respect to a f32 W. dy:[T,F], x:[T,C], dw:[F,C] accumulates. */
void ew_matmul_dw(const ew_exec *e, const float *dy, const float *x, size_t T, size_t F, size_t C, float *dw);

/* The general f32 product: c[M,N] = (accumulate ? c : 0) + alpha * op(a)[M,K] op(b)[K,N].
 * Element (i, k) of op(a) is a[i * a_row + k * a_col], element (k, j) of op(b) is b[k * b_row + j * b_col]; strides are in
 * elements, and for speed one of each pair is 1. c has rows of c_row elements. No aliasing of c with a or b.
 * With it a LoRA product is y += s * (x A^T) B^T in two calls, and its backward in four. */
typedef struct ew_gemm_args {
    size_t M, N, K;
    float alpha; /* as given: 0 means 0 */
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row, b_col;
    float *c;
    size_t c_row;
    bool accumulate;
} ew_gemm_args;
void ew_gemm(const ew_exec *e, const ew_gemm_args *g);

#endif

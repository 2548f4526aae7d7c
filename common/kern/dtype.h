/* Element types of weights, with GGML's numbers, and conversion of single rows.
 *
 * A row is block_elems-sized blocks along its length; blocks.h has the layouts and the formulas. What a type costs and loses, for
 * normal weights of variance 1 (root mean square of the error; tests/unit/kern/test_quant.c holds these as budgets):
 *   bits 32   16     16    8.5    6.56   5.5    6      5.5    4.5    4.5     4.25    5      4.5    3.44   2.63
 *        F32  F16    BF16  Q8_0   Q6_K   Q5_K   Q5_1   Q5_0   Q4_K   IQ4_NL  IQ4_XS  Q4_1   Q4_0   Q3_K   Q2_K
 *        0    .0002  .0017 .0054  .0177  .0361  .0379  .0427  .0714  .0762   .0768   .0782  .0859  .151   .296
 * Types with compute = false are known by size only, so that files that hold them can be listed and refused by name.
 * Locking: pure functions, callable from any thread. */
#ifndef EW_KERN_DTYPE_H
#define EW_KERN_DTYPE_H

#include "base/base.h"

typedef enum ew_dtype {
    EW_DTYPE_F32 = 0,
    EW_DTYPE_F16 = 1,
    EW_DTYPE_Q4_0 = 2,
    EW_DTYPE_Q4_1 = 3,
    EW_DTYPE_Q5_0 = 6,
    EW_DTYPE_Q5_1 = 7,
    EW_DTYPE_Q8_0 = 8,
    EW_DTYPE_Q8_1 = 9,
    EW_DTYPE_Q2_K = 10,
    EW_DTYPE_Q3_K = 11,
    EW_DTYPE_Q4_K = 12,
    EW_DTYPE_Q5_K = 13,
    EW_DTYPE_Q6_K = 14,
    EW_DTYPE_Q8_K = 15,
    EW_DTYPE_IQ2_XXS = 16,
    EW_DTYPE_IQ2_XS = 17,
    EW_DTYPE_IQ3_XXS = 18,
    EW_DTYPE_IQ1_S = 19,
    EW_DTYPE_IQ4_NL = 20,
    EW_DTYPE_IQ3_S = 21,
    EW_DTYPE_IQ2_S = 22,
    EW_DTYPE_IQ4_XS = 23,
    EW_DTYPE_I8 = 24,
    EW_DTYPE_I16 = 25,
    EW_DTYPE_I32 = 26,
    EW_DTYPE_I64 = 27,
    EW_DTYPE_F64 = 28,
    EW_DTYPE_IQ1_M = 29,
    EW_DTYPE_BF16 = 30,
    EW_DTYPE_TQ1_0 = 34,
    EW_DTYPE_TQ2_0 = 35,
    EW_DTYPE_MXFP4 = 39
} ew_dtype;

typedef struct ew_dtype_info {
    const char *name; /* "F32", "Q8_0", … as llama.cpp prints them */
    uint32_t block_elems;
    uint32_t block_bytes;
    bool compute;  /* the kernels and ew_dequant_row take it */
    bool quantize; /* ew_quant_row makes it */
} ew_dtype_info;

/* NULL when the number is not known. */
const ew_dtype_info *ew_dtype_get(ew_dtype t);
/* "Q8_0", "q8_0", "f16", …; false when there is no such type. */
bool ew_dtype_parse(const char *name, ew_dtype *ret) EW_MUST_CHECK;
/* "?" when not known. */
const char *ew_dtype_name(ew_dtype t);
/* Bytes of n_elems elements; false: unknown type, n_elems no multiple of the block, overflow. *ret untouched then. */
bool ew_dtype_row_bytes(ew_dtype t, size_t n_elems, size_t *ret) EW_MUST_CHECK;

/* n elements; n is a multiple of the block and t has compute (assertion). src and dst do not overlap; src of a quantised type is
 * aligned to 2. Bit for bit ggml's dequantize_row_*. */
void ew_dequant_row(ew_dtype t, const void *src, float *dst, size_t n);
/* t has quantize, dst as src above. Bit for bit what llama-quantize writes without an importance matrix (Q2_K to Q6_K and IQ4_*
 * search for the scales; the others round to nearest). NaN becomes 0 in the Q types; a value whose block would need a step beyond
 * f16 (about 65504 times the levels) reads back as infinite or NaN: check where input is hostile. */
void ew_quant_row(ew_dtype t, const float *src, void *dst, size_t n);

/* IEEE 754 binary16, round to nearest even; subnormals, infinities and NaN kept. */
float ew_f16_to_f32(uint16_t h);
uint16_t ew_f32_to_f16(float f);
/* bfloat16, round to nearest even, NaN quietened. */
float ew_bf16_to_f32(uint16_t h);
uint16_t ew_f32_to_bf16(float f);

#endif

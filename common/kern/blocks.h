/* Block layouts of the quantised types, little-endian, as GGML defines them (source: GGUF specification, ggml-common.h), and the
 * bit packing of their scales. The formulas in full; i is the element's number within its block.
 *
 *   Q4_0   32 elements   x = d (q - 8)            q: 4 bits
 *   Q4_1   32            x = d q + m
 *   Q5_0   32            x = d (q - 16)           q: 4 bits of q[], the fifth is bit i of h
 *   Q5_1   32            x = d q + m
 *   Q8_0   32            x = d q
 *   IQ4_NL 32            x = d ew_iq4_levels[q]
 *          4 bits: byte j holds element j low and element j + 16 high
 *   Q2_K   256           x = d s q - dmin m       q: 2 bits, s and m: 4 bits, one pair per 16 elements
 *   Q3_K   256           x = d (s - 32) (q - 4)   q: 2 bits of q[] and one of h[], s: 6 bits, one per 16
 *   Q4_K   256           x = d s q - dmin m       q: 4 bits, s and m: 6 bits, one pair per 32
 *   Q5_K   256           x = d s q - dmin m       q: 5 bits, else as Q4_K
 *   Q6_K   256           x = d s (q - 32)         q: 6 bits, s: i8, one per 16
 *   IQ4_XS 256           x = d (s - 32) ew_iq4_levels[q]   s: 6 bits, one per 32; each 32 packed like IQ4_NL
 *
 * All the structs have an alignment of 2 at most, and every size is even: rows of mapped files start on even addresses.
 * Locking: pure functions. */
#ifndef EW_KERN_BLOCKS_H
#define EW_KERN_BLOCKS_H

#include "base/base.h"

#define EW_QK 256 /* elements of a block of the K types and of IQ4_XS */

typedef struct ew_block_q4_0 {
    uint16_t d;    /* f16: signed extreme / -8 */
    uint8_t q[16]; /* low nibbles: elements 0..15, high nibbles: 16..31 */
} ew_block_q4_0;
_Static_assert(sizeof(ew_block_q4_0) == 18, "Q4_0 is 4.5 bits per weight");

typedef struct ew_block_q4_1 {
    uint16_t d, m; /* f16: step, minimum */
    uint8_t q[16]; /* as Q4_0 */
} ew_block_q4_1;
_Static_assert(sizeof(ew_block_q4_1) == 20, "Q4_1 is 5 bits per weight");

typedef struct ew_block_q5_0 {
    uint16_t d;    /* f16: signed extreme / -16 */
    uint8_t h[4];  /* bit i (little-endian u32): the fifth bit of element i */
    uint8_t q[16]; /* as Q4_0 */
} ew_block_q5_0;
_Static_assert(sizeof(ew_block_q5_0) == 22, "Q5_0 is 5.5 bits per weight");

typedef struct ew_block_q5_1 {
    uint16_t d, m;
    uint8_t h[4];
    uint8_t q[16];
} ew_block_q5_1;
_Static_assert(sizeof(ew_block_q5_1) == 24, "Q5_1 is 6 bits per weight");

typedef struct ew_block_q8_0 {
    uint16_t d;   /* f16: amax / 127 */
    int8_t q[32]; /* round(x / d) */
} ew_block_q8_0;
_Static_assert(sizeof(ew_block_q8_0) == 34, "Q8_0 is 8.5 bits per weight");

typedef struct ew_block_iq4_nl {
    uint16_t d;
    uint8_t q[16]; /* as Q4_0; an index into ew_iq4_levels */
} ew_block_iq4_nl;
_Static_assert(sizeof(ew_block_iq4_nl) == 18, "IQ4_NL is 4.5 bits per weight");

typedef struct ew_block_q2_k {
    uint8_t scales[16]; /* of elements 16 g .. 16 g + 15: s low, m high */
    uint8_t q[64];      /* element 128 n + 32 j + l: bits 2 j, 2 j + 1 of byte 32 n + l (n < 2, j < 4, l < 32) */
    uint16_t d, dmin;   /* f16 */
} ew_block_q2_k;
_Static_assert(sizeof(ew_block_q2_k) == 84, "Q2_K is 2.625 bits per weight");

typedef struct ew_block_q3_k {
    uint8_t h[32];      /* element 128 n + 32 j + l: bit 4 n + j of byte l is q's bit 2 */
    uint8_t q[64];      /* as Q2_K */
    uint8_t scales[12]; /* ew_q3_k_scale */
    uint16_t d;         /* f16 */
} ew_block_q3_k;
_Static_assert(sizeof(ew_block_q3_k) == 110, "Q3_K is 3.4375 bits per weight");

typedef struct ew_block_q4_k {
    uint16_t d, dmin;   /* f16: of the scales, of the minima */
    uint8_t scales[12]; /* ew_q4_k_scale, ew_q4_k_min */
    uint8_t q[128]; /* element 64 p + l: low nibble of byte 32 p + l; 64 p + 32 + l: its high nibble (p < 4, l < 32) */
} ew_block_q4_k;
_Static_assert(sizeof(ew_block_q4_k) == 144, "Q4_K is 4.5 bits per weight");

typedef struct ew_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12]; /* as Q4_K */
    uint8_t h[32];      /* element 32 g + l: bit g of byte l is q's bit 4 (g < 8) */
    uint8_t q[128];     /* as Q4_K */
} ew_block_q5_k;
_Static_assert(sizeof(ew_block_q5_k) == 176, "Q5_K is 5.5 bits per weight");

typedef struct ew_block_q6_k {
    uint8_t q
        [128]; /* element 128 n + 32 j + l (j < 4): byte 64 n + 32 (j & 1) + l, low nibble for j < 2, high for j >= 2 */
    uint8_t h[64];     /* its bits 4, 5: bits 2 j, 2 j + 1 of byte 32 n + l */
    int8_t scales[16]; /* of elements 16 g .. 16 g + 15 */
    uint16_t d;        /* f16 */
} ew_block_q6_k;
_Static_assert(sizeof(ew_block_q6_k) == 210, "Q6_K is 6.5625 bits per weight");

typedef struct ew_block_iq4_xs {
    uint16_t d;        /* f16 */
    uint16_t scales_h; /* ew_iq4_xs_scale */
    uint8_t scales_l[4];
    uint8_t q[128]; /* eight times 16 bytes, each as IQ4_NL */
} ew_block_iq4_xs;
_Static_assert(sizeof(ew_block_iq4_xs) == 136, "IQ4_XS is 4.25 bits per weight");

/* The sixteen levels of IQ4_NL and IQ4_XS, rising (ggml's kvalues_iq4nl). */
#define EW_IQ4_LEVELS -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
static const int8_t ew_iq4_levels[16] = {EW_IQ4_LEVELS};

/* s of group g of 32 (g < 8), 0..63: six whole bits for the first four; four bits low and two bits high for the others. */
static inline uint8_t ew_q4_k_scale(const uint8_t scales[12], size_t g)
{
    return (uint8_t)(g < 4 ? scales[g] & 63 : (scales[g + 4] & 15) | (scales[g - 4] >> 6) << 4);
}

/* m of group g of 32, 0..63. */
static inline uint8_t ew_q4_k_min(const uint8_t scales[12], size_t g)
{
    return (uint8_t)(g < 4 ? scales[g + 4] & 63 : (scales[g + 4] >> 4) | (scales[g] >> 6) << 4);
}

/* s - 32 of group g of 16 (g < 16), -32..31. */
static inline int8_t ew_q3_k_scale(const uint8_t scales[12], size_t g)
{
    unsigned low = g < 8 ? scales[g] & 15u : (unsigned)scales[g - 8] >> 4;
    unsigned high = ((unsigned)scales[8 + g % 4] >> (2 * (g / 4))) & 3u;
    return (int8_t)((int)(low | high << 4) - 32);
}

/* s - 32 of group g of 32 (g < 8), -32..31. */
static inline int8_t ew_iq4_xs_scale(uint16_t scales_h, const uint8_t scales_l[4], size_t g)
{
    unsigned low = ((unsigned)scales_l[g / 2] >> (4 * (g % 2))) & 15u;
    unsigned high = ((unsigned)scales_h >> (2 * g)) & 3u;
    return (int8_t)((int)(low | high << 4) - 32);
}

/* Element i of a row of packed nibbles of 32 (Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL): its four low bits. */
static inline unsigned ew_nibble32(const uint8_t q[16], size_t i)
{
    return i < 16 ? q[i] & 15u : (unsigned)q[i - 16] >> 4;
}

#endif

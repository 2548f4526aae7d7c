/* Which tensor of a model file gets which type: the mixes of llama-quantize under their names and numbers.
 *
 * A mix has a main type and gives more bits to what suffers most: the output matrix, some layers of attn_v and ffn_down. The rules
 * are llama.cpp's without an importance matrix (src/llama-quant.cpp of 2026-08), so that a file made here has the type per tensor
 * that llama-quantize gives:
 *   one dimension, *_norm.weight                    F32
 *   not "…weight", positions, token types, gates    as they are
 *   F32, F16, BF16                                  the type
 *   output.weight, a tied token_embd.weight         Q6_K; Q8_0 where the main type is Q8_0 or its block does not divide the row
 *   Q4_K_M, Q5_K_M: attn_v, ffn_down                Q6_K in the first and the last eighth of the layers and every third between
 *   Q4_K_S: attn_v of 4 layers, ffn_down of 1/8     Q5_K
 *   IQ4_NL, IQ4_XS: ffn_down of the first eighth    Q5_K; so attn_v when 4 or more heads share a key head
 *   Q2_K, Q3_K_S/M/L: attn_v, ffn_down, attn_output a type or two above
 *   a row that 256 does not divide                  Q4_K -> Q5_0, Q5_K -> Q5_1, Q6_K -> Q8_0, Q2_K and Q3_K -> Q4_0, IQ4_XS -> IQ4_NL
 *   a row that 32 does not divide                   F16
 * Pure functions of any thread. */
#ifndef EW_FORMAT_MIX_H
#define EW_FORMAT_MIX_H

#include "base/base.h"
#include "base/status.h"
#include "tensor/view.h"

/* The numbers of general.file_type (LLAMA_FTYPE_*). */
typedef enum ew_mix {
    EW_MIX_F32 = 0,
    EW_MIX_F16 = 1,
    EW_MIX_Q4_0 = 2,
    EW_MIX_Q4_1 = 3,
    EW_MIX_Q8_0 = 7,
    EW_MIX_Q5_0 = 8,
    EW_MIX_Q5_1 = 9,
    EW_MIX_Q2_K = 10,
    EW_MIX_Q3_K_S = 11,
    EW_MIX_Q3_K_M = 12,
    EW_MIX_Q3_K_L = 13,
    EW_MIX_Q4_K_S = 14,
    EW_MIX_Q4_K_M = 15,
    EW_MIX_Q5_K_S = 16,
    EW_MIX_Q5_K_M = 17,
    EW_MIX_Q6_K = 18,
    EW_MIX_IQ4_NL = 25,
    EW_MIX_IQ4_XS = 30,
    EW_MIX_BF16 = 32
} ew_mix;

/* "Q4_K_M", "q4_k_m", …; Q3_K, Q4_K and Q5_K stand for their M. False when there is no such mix. */
bool ew_mix_parse(const char *name, ew_mix *ret) EW_MUST_CHECK;
/* "Q4_K_M"; "?" for another number. */
const char *ew_mix_name(ew_mix mix);
/* The main type. F32 for another number. */
ew_dtype ew_mix_dtype(ew_mix mix);
/* The mix whose main type is t, of several the middle one (Q4_K: Q4_K_M). False when there is none. */
bool ew_mix_of_dtype(ew_dtype t, ew_mix *ret) EW_MUST_CHECK;
/* All names, most bits first, for messages and help: "F32, F16, BF16, Q8_0, …". */
const char *ew_mix_names(void);

/* want, or what takes its place in rows of cols elements that its block does not divide. */
ew_dtype ew_mix_fitting(ew_dtype want, uint64_t cols);

/* What the rules ask of the model. */
typedef struct ew_mix_model {
    const char *arch; /* general.architecture */
    uint32_t n_layers, n_heads, n_kv_heads;
    uint32_t n_experts; /* 0 or 1: none */
} ew_mix_model;

/* ret[i] = the type of t[i] in the result. pure: every matrix gets the main type (or its fallback). EW_ENOMEM. */
ew_status ew_mix_assign(ew_mix mix, bool pure, const ew_mix_model *model, const ew_tensor_view *const *t, size_t n,
                        ew_dtype *ret, ew_error *reterr) EW_MUST_CHECK;

#endif

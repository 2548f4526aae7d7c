/* Writing a model as GGUF v3 that stock llama.cpp runs.
 *
 * Works on any model: opened from a Hugging Face directory (with the changes that llama.cpp's convert_hf_to_gguf.py makes: Q and K of Llama
 * from half-split to interleaved rotary order, Gemma's norms plus 1, fused matrices where llama.cpp wants them), from GGUF (every key and
 * every tensor is kept), or made from floats. One tensor at a time is in memory. The file appears whole or not at all. */
#ifndef EW_MODEL_SAVE_H
#define EW_MODEL_SAVE_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "kern/dtype.h"
#include "model/model.h"

typedef struct ew_save_opt {
    bool
        convert; /* false: matrices keep their type; true: they become dtype, or what ew_mix_fitting has in its place, norms F32, */
    ew_dtype dtype;        /* an untied output.weight Q8_0 for Q4_0. Mixes of types: compress/quantize.h */
    const char *name;      /* general.name; NULL = the model's */
    const char *const *kv; /* [2 * n_kv] further string metadata: key, value, … ("edgewise.base_sha256", …) */
    size_t n_kv;
    ew_progress progress; /* unit "B" */
} ew_save_opt;

/* opt NULL = keep types. EW_EUNSUPPORTED when GGUF cannot say what the model computes (GPT-Neo and OPT have no architecture there; the
 * message names what it is), EW_EIO, EW_ENOSPC, EW_ENOMEM, EW_ECANCELLED. */
ew_status ew_model_save_gguf(const ew_model *m, const char *path, const ew_save_opt *opt,
                             ew_error *reterr) EW_MUST_CHECK;

#endif

/* What the files of this module share. */
#ifndef EW_PEFT_LORA_INT_H
#define EW_PEFT_LORA_INT_H

#include "peft/lora.h"

struct ew_lora {
    ew_lora_opt opt; /* resolved */
    float scale;
    ew_model_config cfg; /* of the base: shapes and order of rotary pairs */
    char base_sha256[65];
    size_t n;                     /* parameters */
    size_t layer_n;               /* parameters of one layer */
    size_t slot[EW_LINEAR_COUNT]; /* A of each targeted linear inside a layer; SIZE_MAX = not targeted */
    float *params;                /* [n] */
    ew_lora_pair *pairs;          /* [L][EW_LINEAR_COUNT] into params */
    ew_hooks hooks;
};

/* A zeroed adapter of this shape, bound to m. opt is resolved. */
ew_status ew__lora_alloc(const ew_model *m, const ew_lora_opt *opt, ew_lora **ret, ew_error *reterr) EW_MUST_CHECK;
/* Row of the GGUF order (pairs side by side) that holds row `hf` of the Hugging Face order (halves) of a Q or K matrix. */
size_t ew__lora_gguf_row(const ew_model_config *cfg, size_t hf);
/* dst = the rows of src[F,R] put from the base's own order into the order that a file wants, or back (to_file false). Copies when the
 * orders agree or the linear is not Q or K. */
void ew__lora_reorder(const ew_lora *l, ew_linear linear, ew_rope_kind file_order, bool to_file, const float *src,
                      float *dst);
/* EW_ECONFLICT when sha256 (NULL or "" = not known) is not the base's. */
ew_status ew__lora_check_base(const ew_lora *l, const char *path, const char *sha256, ew_error *reterr) EW_MUST_CHECK;

#endif

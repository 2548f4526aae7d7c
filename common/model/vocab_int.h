/* Shared by the readers and the writer of vocabularies. */
#ifndef EW_MODEL_VOCAB_INT_H
#define EW_MODEL_VOCAB_INT_H

#include <string.h>

#include "base/base.h"
#include "base/status.h"
#include "text/json.h"
#include "token/vocab.h"

#define EW__VOCAB_KEY "tokenizer.ggml."
#define EW__VOCAB_OWN "edgewise.tokenizer."
#define EW__VOCAB_SPACE "\xE2\x96\x81" /* U+2581 */

/* [EW_SPLIT_SPELLED + 1], [EW_PREFIX_FIRST + 1], [EW_TNORM_KINDS]: how our own GGUF keys spell them. */
extern const char *const ew__split_mode_names[7];
extern const char *const ew__prefix_names[3];
extern const char *const ew__norm_names[EW_TNORM_KINDS];

/* "<0x0A>" */
static inline bool ew__spells_byte(const char *s, size_t size)
{
    return size == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

/* BERT's way with a text. */
ew_status ew__vocab_bert(ew_vocab *v, unsigned norm_flags, ew_error *reterr) EW_MUST_CHECK;

/* What is read of one tokenizer.json. */
typedef struct ew__hf {
    const char *name;   /* of the file, for messages */
    const json_t *root; /* tokenizer.json, NULL for the older files */
    ew_vocab *v;
    bool byte_level; /* a ByteLevel pre-tokenizer */
    bool spaces;     /* spaces become U+2581 */
} ew__hf;

ew_status ew__hf_unsupported(const ew__hf *h, const char *part, const char *what, ew_error *reterr) EW_MUST_CHECK;
/* Each reads its part of tokenizer.json, NULL or null = there is none. */
ew_status ew__hf_normalizer(ew__hf *h, const json_t *j, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__hf_pre_tokenizer(ew__hf *h, const json_t *j, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__hf_post_processor(ew__hf *h, const json_t *j, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__hf_decoder(ew__hf *h, const json_t *j, ew_error *reterr) EW_MUST_CHECK;

/* root: tokenizer.json; config: tokenizer_config.json or NULL. */
ew_status ew__vocab_from_json(const char *name, const json_t *root, const json_t *config, ew_vocab **ret_vocab,
                              ew_error *reterr) EW_MUST_CHECK;
/* Directories without tokenizer.json: tokenizer.model, vocab.json with merges.txt, or vocab.txt. config: tokenizer_config.json or NULL. EW_ENOENT
 * when there is none of them. */
ew_status ew__vocab_from_old_files(const char *dir, const json_t *config, ew_vocab **ret_vocab,
                                   ew_error *reterr) EW_MUST_CHECK;

#endif

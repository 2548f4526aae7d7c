/* Vectors of texts for retrieval, from the model that is there: the hidden states of a decoder after its last norm, averaged over the tokens, or an
 * encoder's answer with the pooling that it was trained for (mean when it says none). Normalised to length 1.
 *
 * A text is cut to max_tok tokens. A decoder's vectors of the same text are the same whatever was embedded before. The vectors of different models
 * (or of a model and its quantised twin) do not mix: keep ew_embedder_model beside them.
 * Locking: one owning thread; it has a session of its own. */
#ifndef EW_RUN_EMBED_H
#define EW_RUN_EMBED_H

#include "base/progress.h"
#include "base/status.h"
#include "model/model.h"
#include "model/session.h"

typedef struct ew_embedder ew_embedder;

typedef struct ew_embed_opt {
    ew_exec exec;     /* zero = best kernels, serial */
    uint32_t max_tok; /* tokens of a text that count; 0 = 256; never more than the model's context */
} ew_embed_opt;

/* Takes a reference to m. EW_EUNSUPPORTED when m has no tokenizer. */
ew_status ew_embedder_new(const ew_model *m, const ew_embed_opt *opt, ew_embedder **ret_embedder,
                          ew_error *reterr) EW_MUST_CHECK;
void ew_embedder_free(ew_embedder **e);
size_t ew_embedder_dim(const ew_embedder *e);
const ew_model *ew_embedder_model(const ew_embedder *e);
/* Memory that it keeps beside the model, bytes. */
uint64_t ew_embedder_bytes(const ew_embedder *e);

/* ret:[dim]. A text without a token (empty) is EW_EINVAL. */
ew_status ew_embed_text(ew_embedder *e, const char *text, size_t size, float *ret, ew_error *reterr) EW_MUST_CHECK;
/* ret:[n, dim]; texts are NUL-terminated. Short texts of an encoder or decoder are evaluated one after the other, each as one batch of its tokens.
 * EW_ECANCELLED when progress says stop. progress may be NULL. */
ew_status ew_embed_texts(ew_embedder *e, const char *const *text, size_t n, const ew_progress *progress, float *ret,
                         ew_error *reterr) EW_MUST_CHECK;

#endif

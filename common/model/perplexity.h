/* Perplexity of a text, cut and counted as llama.cpp's `llama-perplexity` does it, so that the figures compare.
 *
 * The ids (with the begin-of-text token at the front where the vocabulary adds one) are cut into chunks of n_ctx that do not overlap, the rest
 * is dropped; the first id of every chunk is replaced by the begin-of-text token where there is one; each chunk is evaluated alone, and the
 * ids after its first half are scored: n_ctx - 1 - n_ctx/2 of them.
 *     perplexity = exp(mean nll),  error = perplexity * sqrt((mean nll^2 - (mean nll)^2) / (n_scored - 1))
 * Locking: the session's thread. */
#ifndef EW_MODEL_PERPLEXITY_H
#define EW_MODEL_PERPLEXITY_H

#include "base/progress.h"
#include "model/session.h"

typedef struct ew_perplexity {
    double perplexity, error; /* error: one standard error by the formula above */
    double nll;               /* nats per scored token */
    uint64_t n_chunks, n_scored;
} ew_perplexity;

/* Called after each chunk with the figures so far; may be NULL. */
typedef void (*ew_perplexity_fn)(const ew_perplexity *so_far, void *ctx);

typedef struct ew_perplexity_opt {
    uint32_t n_ctx;        /* chunk, 8 … the session's context; 0 = 512 */
    uint64_t max_chunks;   /* 0 = all */
    int32_t bos;           /* begins every chunk; -1 = none */
    ew_progress progress;  /* unit "tok"; may stop the work */
    ew_perplexity_fn each; /* */
    void *ctx;             /* of each */
} ew_perplexity_opt;

/* EW_EINVAL: fewer than 2 n_ctx ids, n_ctx out of range. EW_ECANCELLED, and what evaluation returns. */
ew_status ew_perplexity_run(ew_session *s, const int32_t *ids, size_t n, const ew_perplexity_opt *opt,
                            ew_perplexity *ret, ew_error *reterr) EW_MUST_CHECK;

#endif

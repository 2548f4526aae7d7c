/* From items to token sequences: the one place where tuning, evaluation and serving turn a person's items into prompts.
 *
 * Owns the retrieval index over the items that may be retrieved. Causal: what a prompt shows depends on the sources of lower order alone, for the
 * prompts of training as for those of evaluation. Locking: one owning thread. */
#ifndef EW_RUN_PROMPTER_H
#define EW_RUN_PROMPTER_H

#include "base/status.h"
#include "rag/rag.h"
#include "run/embed.h"
#include "task/task.h"
#include "token/tokenizer.h"

typedef struct ew_prompter ew_prompter;

typedef struct ew_prompter_opt {
    const ew_task *task;           /* outlives the prompter */
    const ew_tokenizer *tokenizer; /* outlives the prompter */
    uint32_t seq_max_tok;          /* of prompt and answer; 0 = 512 */
    uint32_t rag_k;                /* retrieved items per prompt; 0 = no retrieval */
    double rag_recency;            /* weight of recency, 0..1; with rag_fuse 0 */
    unsigned rag_fuse;             /* EW_RAG_BM25 | …: rankings that are fused; 0 = BM25 and rag_recency */
    ew_embedder *embedder;         /* of the vectors; outlives the prompter. Needed with EW_RAG_VECTOR */
    const float *vectors;          /* [n_sources, dim] of the sources by this embedder, copied; NULL = made here */
    /* Else, when given: fills ret:[dim] for source i (text: what is indexed of it), or leaves *ret_has false: found without its vector. */
    ew_status (*vector_of)(void *ctx, size_t i, ew_span text, float *ret, bool *ret_has, ew_error *reterr);
    void *vector_ctx;
} ew_prompter_opt;

/* rag_fuse of the setting "rag-rank" (enum ew_rag_rank): 0 for BM25. */
unsigned ew_prompter_fuse(uint32_t rag_rank);
/* Does that ranking need an embedder? */
bool ew_prompter_embeds(uint32_t rag_rank);

/* sources: what may be retrieved (borrowed, with their strings, for the prompter's life); NULL when rag_k is 0. */
ew_status ew_prompter_new(const ew_prompter_opt *opt, const ew_item *sources, size_t n_sources,
                          ew_prompter **ret_prompter, ew_error *reterr) EW_MUST_CHECK;
void ew_prompter_free(ew_prompter **p);

/* Appends the prompt's ids (BOS if the vocabulary wants it). Only sources with order < before are retrieved. */
ew_status ew_prompter_prompt(ew_prompter *p, const char *input, uint64_t before, ew_tokens *out,
                             ew_error *reterr) EW_MUST_CHECK;
/* Appends the answer's ids: " " + output + end of text. */
ew_status ew_prompter_answer(const ew_prompter *p, const char *output, ew_tokens *out, ew_error *reterr) EW_MUST_CHECK;

#endif

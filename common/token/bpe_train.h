/* Training of a byte-level BPE vocabulary (Sennrich 2016; byte alphabet of Radford 2019), deterministic.
 *
 * Text is cut at the special pieces (which take no part), then into pre-tokens; unique pre-tokens are counted, and the most frequent
 * neighbouring pair is merged until the vocabulary is full or no pair is left. Counts are kept incrementally and the best pair comes from a
 * heap with lazy entries. Between pairs of equal count the greater one wins: first by the bytes of the left piece, then of the right one,
 * compared as byte strings (the rule of the Stanford CS336 reference trainer; Hugging Face takes the smallest ids instead).
 *
 * Ids: special pieces in the order given, then the 256 bytes in the order of GPT-2's alphabet, then the merges.
 * Cost: 10 MB of English to 4,096 pieces takes seconds on one core; memory is a small multiple of the unique pre-tokens. */
#ifndef EW_TOKEN_BPE_TRAIN_H
#define EW_TOKEN_BPE_TRAIN_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "token/vocab.h"

typedef struct ew_bpe_train_opt {
    size_t vocab_size;           /* pieces in all; at least 256 + n_specials */
    const char *pre;             /* "gpt-2" (NULL), "llama-bpe", … (token/pretok.h) */
    const char *const *specials; /* [n_specials] control pieces */
    size_t n_specials;
    const char *bos, *eos, *pad; /* which of the specials these are, or NULL; bos sets add_bos */
    size_t max_bytes_per_token;  /* longest piece, 0 = no bound */
    uint64_t min_count;          /* a pair seen less often is not merged; 0 = 1 */
    ew_progress progress;        /* "count" in bytes, then "merge" in merges */
} ew_bpe_train_opt;

/* Gives the next text in *ret_text (borrowed until the next call); size 0 = the end. Texts are separate: no pre-token spans two. */
typedef ew_status (*ew_bpe_text_fn)(void *ctx, ew_span *ret_text, ew_error *reterr);

/* The result is a vocabulary of kind EW_TOKENIZER_BPE, the caller's. It may be smaller than asked for when the text is short. */
ew_status ew_bpe_train(const ew_bpe_train_opt *opt, ew_bpe_text_fn next_text, void *ctx, ew_vocab **ret_vocab,
                       ew_error *reterr) EW_MUST_CHECK;

#endif

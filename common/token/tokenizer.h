/* Text to token ids and back, for the kinds of vocabulary in token/vocab.h.
 *
 *   EW_AUTO(ew_tokenizer) tok = NULL;
 *   EW_TRY(ew_tokenizer_new(vocab, &tok, reterr));
 *   ew_tokens ids = {0};
 *   EW_TRY(ew_tokenizer_encode(tok, text, size, EW_ENCODE_BOS, &ids, reterr));
 *
 * Every byte string can be encoded, malformed UTF-8 included, and decodes to the same bytes, except where the vocabulary itself loses
 * something: U+2581 and a doubled leading space (SPM kinds), normalisation, bytes without a piece, spaces (WordPiece). Time is
 * O(n log n) in the longest stretch that merges can cross and linear in the text; memory is linear in that stretch. References: llama.cpp src/llama-vocab.cpp and Hugging Face tokenizers 0.2x.
 *
 * Locking: immutable after new; shared by threads. */
#ifndef EW_TOKEN_TOKENIZER_H
#define EW_TOKEN_TOKENIZER_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "token/vocab.h"

typedef struct ew_tokenizer ew_tokenizer;

/* Growing array of token ids. Zeroed is valid and empty. */
typedef struct ew_tokens {
    int32_t *id;
    size_t n;
    size_t cap;
} ew_tokens;

void ew_tokens_release(ew_tokens *t);
#define EW_AUTO_TOKENS EW_CLEANUP(ew_tokens_release) ew_tokens
/* EW_ELIMIT past 2^31 ids, EW_ENOMEM. */
ew_status ew_tokens_add(ew_tokens *t, int32_t id) EW_MUST_CHECK;
ew_status ew_tokens_append(ew_tokens *t, const int32_t *ids, size_t n) EW_MUST_CHECK;

/* Copies what it needs of v. EW_EUNSUPPORTED names an unknown pre-tokenizer; EW_ECORRUPT a merge without its piece, ids out of range;
 * EW_EINVAL a split pattern that does not compile. */
ew_status ew_tokenizer_new(const ew_vocab *v, ew_tokenizer **ret_tok, ew_error *reterr) EW_MUST_CHECK;
void ew_tokenizer_free(ew_tokenizer **tok);

#define EW_ENCODE_BOS (1u << 0)       /* begin with bos if the vocabulary says so (add_bos) */
#define EW_ENCODE_EOS (1u << 1)       /* end with eos if the vocabulary has one */
#define EW_ENCODE_EOS_ASKED (1u << 3) /* end with eos if the vocabulary says so (add_eos): encoders, T5 */
#define EW_ENCODE_SPECIAL                                                                                              \
    (1u << 2) /* control pieces in the text are recognised (longest match); never for text from users */
#define EW_ENCODE_MIDDLE (1u << 4) /* the text continues another: no space is put in front of a text's first word */

/* Appends the ids of text[0, size) to *out. On failure out keeps what it had before the call. */
ew_status ew_tokenizer_encode(const ew_tokenizer *tok, const char *text, size_t size, unsigned flags, ew_tokens *out,
                              ew_error *reterr) EW_MUST_CHECK;

/* The leftmost place at or after *at where a control piece or an added piece begins, longest first: its id; moves *at there.
 * -1: none, *at = size. What EW_ENCODE_SPECIAL would find, and added pieces that are looked for in normalised text, in the text as it
 * is. */
int32_t ew_tokenizer_find_special(const ew_tokenizer *tok, const char *text, size_t size, size_t *at, size_t *ret_len);

#define EW_DECODE_SPECIAL (1u << 0) /* control and unknown pieces are written as their text; otherwise they vanish */
#define EW_DECODE_MIDDLE (1u << 1)  /* ids continue a text: the space that encode put in front is not removed */

/* Appends the bytes. EW_EINVAL for an id out of range. The result may be malformed UTF-8 when the ids were cut in the middle. */
ew_status ew_tokenizer_decode(const ew_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, ew_buf *out,
                              ew_error *reterr) EW_MUST_CHECK;

/* The bytes of one piece as they stand in running text (with EW_DECODE_MIDDLE; empty for control pieces); borrowed from tok.
 * Empty for an id out of range. */
ew_span ew_tokenizer_piece(const ew_tokenizer *tok, int32_t id);
/* The piece as the vocabulary spells it ("<s>", "Ġthe"); empty for an id out of range. */
ew_span ew_tokenizer_raw(const ew_tokenizer *tok, int32_t id);

/* Streaming decode: bytes come out only as whole characters; malformed bytes become U+FFFD. Zeroed is valid. */
typedef struct ew_tok_stream {
    char pending[8];
    size_t n_pending; /* bytes */
    bool started;     /* a piece was written: the leading space was dealt with */
} ew_tok_stream;
/* Appends to *out what id completes; control pieces give nothing. */
void ew_tok_stream_push(ew_tok_stream *s, const ew_tokenizer *tok, int32_t id, ew_buf *out);
/* Appends U+FFFD for what is still pending. */
void ew_tok_stream_finish(ew_tok_stream *s, ew_buf *out);

size_t ew_tokenizer_n_vocab(const ew_tokenizer *tok);
/* -1 = none. */
int32_t ew_tokenizer_bos(const ew_tokenizer *tok);
int32_t ew_tokenizer_eos(const ew_tokenizer *tok);
int32_t ew_tokenizer_pad(const ew_tokenizer *tok);
bool ew_tokenizer_add_bos(const ew_tokenizer *tok);
/* The id spelled exactly so (raw), or -1. */
int32_t ew_tokenizer_find(const ew_tokenizer *tok, const char *text, size_t size);
/* Ends a generation: eos, end of turn, and the control pieces that the known families end with. */
bool ew_tokenizer_is_eog(const ew_tokenizer *tok, int32_t id);
bool ew_tokenizer_is_control(const ew_tokenizer *tok, int32_t id);
/* The vocabulary it was made of; borrowed from tok. */
const ew_vocab *ew_tokenizer_vocab(const ew_tokenizer *tok);

#endif

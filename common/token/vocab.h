/* Vocabulary: the plain values that a tokenizer is made of. Knows no file format; model/vocab.h reads and writes files.
 *
 * Three kinds of merging, one struct:
 *   EW_TOKENIZER_BPE       byte level: pieces are spelled in GPT-2's byte alphabet (bytes_to_unicode, Radford 2019), the text is cut
 *                          by the pre-token pattern `pre` (or `splits`), pairs merge in the order of `merges`.
 *   EW_TOKENIZER_CHAR_BPE  as Hugging Face has Llama and TinyStories: pairs of characters merge in the order of `merges`, a space is
 *                          U+2581, characters without a piece become <0xNN> byte pieces.
 *   EW_TOKENIZER_SPM       SentencePiece BPE: two neighbours merge when their text is a piece, highest `score` first; same space and bytes.
 *
 * Ownership: the struct owns everything it points to; ew_vocab_free releases it. Change it only with the calls below.
 * Locking: one owning thread; may be read by many once nobody changes it. */
#ifndef EW_TOKEN_VOCAB_H
#define EW_TOKEN_VOCAB_H

#include "base/base.h"
#include "base/status.h"

typedef enum ew_tokenizer_kind {
    EW_TOKENIZER_BPE,
    EW_TOKENIZER_SPM,
    EW_TOKENIZER_CHAR_BPE
} ew_tokenizer_kind;

/* GGUF's numbers (tokenizer.ggml.token_type). */
typedef enum ew_piece_type {
    EW_PIECE_NORMAL = 1,
    EW_PIECE_UNKNOWN = 2,
    EW_PIECE_CONTROL = 3,      /* matched in text only with EW_ENCODE_SPECIAL; no text when decoded */
    EW_PIECE_USER_DEFINED = 4, /* matched in text before anything else */
    EW_PIECE_UNUSED = 5,
    EW_PIECE_BYTE = 6 /* <0xNN> */
} ew_piece_type;

#define EW_PIECE_LSTRIP (1u << 0) /* swallows spaces before it */
#define EW_PIECE_RSTRIP (1u << 1) /* swallows spaces after it */

typedef struct ew_merge {
    int32_t left, right; /* piece ids; the result is the piece with the joined text */
} ew_merge;

/* What happens to each match of a split pattern (Hugging Face's SplitDelimiterBehavior). */
typedef enum ew_split_mode {
    EW_SPLIT_ISOLATED,
    EW_SPLIT_REMOVED,
    EW_SPLIT_MERGED_PREVIOUS,
    EW_SPLIT_MERGED_NEXT,
    EW_SPLIT_CONTIGUOUS
} ew_split_mode;

typedef struct ew_split {
    char *pattern;      /* PCRE2, UTF and UCP */
    ew_split_mode mode; /* applied to the matches … */
    bool invert;        /* … or to what lies between them */
} ew_split;

/* When U+2581 (BPE: a space) is put in front of the text. */
typedef enum ew_prefix {
    EW_PREFIX_NONE,
    EW_PREFIX_ALWAYS, /* of every stretch between special pieces */
    EW_PREFIX_FIRST   /* only at the start of the text */
} ew_prefix;

typedef struct ew_vocab {
    ew_tokenizer_kind kind;
    char *pre;        /* name of the pre-tokenizer (token/pretok.h), NULL = none or `splits` */
    ew_split *splits; /* [n_splits] used when pre is NULL, each cuts what the one before left */
    size_t n_splits;
    bool nfc; /* text is normalised to NFC first */

    size_t n;                        /* pieces */
    size_t cap;                      /* of the arrays below, elements */
    size_t *text_end;                /* [n] piece i is blob[text_end[i - 1], text_end[i]) */
    float *score;                    /* [n] */
    uint8_t *type;                   /* [n] ew_piece_type */
    uint8_t *attr;                   /* [n] EW_PIECE_LSTRIP | EW_PIECE_RSTRIP */
    char *blob;                      /* text of all pieces, not terminated */
    size_t blob_cap;                 /* bytes */
    ew_merge *merges;                /* [n_merges] best first */
    size_t n_merges;                 /* */
    size_t merges_cap;               /* elements */
    int32_t bos, eos, unk, pad, eot; /* ids, -1 = none */
    bool add_bos, add_eos;           /* what a prompt of this model begins and ends with */
    ew_prefix prefix;
    bool prefix_once;    /* no prefix when the text already begins with a space (Metaspace) */
    bool byte_fallback;  /* SPM, CHAR_BPE: characters without a piece become byte pieces */
    bool fuse_unk;       /* neighbouring unknown characters become one unknown piece */
    bool ignore_merges;  /* BPE: a pre-token that is a piece is taken whole (Llama 3) */
    char *chat_template; /* Jinja text or NULL; carried, not interpreted */
} ew_vocab;

ew_status ew_vocab_new(ew_tokenizer_kind kind, ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;
void ew_vocab_free(ew_vocab **v);
ew_status ew_vocab_copy(const ew_vocab *v, ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;

/* Appends a piece; *ret_id (may be NULL) is its id. EW_ELIMIT past EW_LIMIT_VOCAB. */
ew_status ew_vocab_add(ew_vocab *v, const void *text, size_t size, float score, ew_piece_type type, int32_t *ret_id,
                       ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vocab_add_merge(ew_vocab *v, int32_t left, int32_t right, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vocab_add_split(ew_vocab *v, const char *pattern, ew_split_mode mode, bool invert,
                             ew_error *reterr) EW_MUST_CHECK;
/* Appends unused pieces "[PAD<id>]" up to n (a model's embedding may have more rows than its tokenizer has pieces). */
ew_status ew_vocab_pad(ew_vocab *v, size_t n, ew_error *reterr) EW_MUST_CHECK;
/* NULL clears. */
ew_status ew_vocab_set_pre(ew_vocab *v, const char *pre, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vocab_set_chat_template(ew_vocab *v, const char *text, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Raw text of piece id, borrowed until the next ew_vocab_add. id must be in range. */
ew_span ew_vocab_text(const ew_vocab *v, int32_t id);
/* The first piece with this text, or -1. Linear: for a handful of look-ups (special pieces). */
int32_t ew_vocab_find(const ew_vocab *v, const char *text);

/* Text of pieces to ids, for whoever builds merges from text. The last of equal pieces wins. It reads v, which must not change while the
 * index lives. */
typedef struct ew_vocab_index ew_vocab_index;
ew_status ew_vocab_index_new(const ew_vocab *v, ew_vocab_index **ret_index, ew_error *reterr) EW_MUST_CHECK;
void ew_vocab_index_free(ew_vocab_index **x);
/* The id, or -1. */
int32_t ew_vocab_index_find(const ew_vocab_index *x, const void *text, size_t size);

#endif

/* Vocabulary: the plain values that a tokenizer is made of. Knows no file format; model/vocab.h reads and writes files.
 *
 * Five kinds of cutting, one struct:
 *   EW_TOKENIZER_BPE       byte level: pieces are spelled in GPT-2's byte alphabet (bytes_to_unicode, Radford 2019), the text is cut
 *                          by the pre-token pattern `pre` (or `splits`), pairs merge in the order of `merges`.
 *   EW_TOKENIZER_CHAR_BPE  as Hugging Face has Llama and TinyStories: pairs of characters merge in the order of `merges`, a space is
 *                          U+2581, characters without a piece become <0xNN> byte pieces.
 *   EW_TOKENIZER_SPM       SentencePiece BPE: two neighbours merge when their text is a piece, highest `score` first; same space and bytes.
 *   EW_TOKENIZER_UNIGRAM   the pieces whose `score`s (log probabilities) add up to the most (Kudo 2018); same space and bytes.
 *   EW_TOKENIZER_WORDPIECE the longest piece first, from the left; within a word pieces are spelled "##ing" (Devlin 2018). A word that does
 *                          not come out is one unknown piece.
 *
 * What happens to a text: special pieces are taken out; what lies between is normalised (`sp`, `norms`), pieces with EW_PIECE_NORMALIZED
 * are taken out, a prefix and U+2581 come in, the pre-tokenizer cuts, each cut is merged as the kind says.
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
    EW_TOKENIZER_CHAR_BPE,
    EW_TOKENIZER_UNIGRAM,
    EW_TOKENIZER_WORDPIECE
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

#define EW_PIECE_LSTRIP (1u << 0)      /* swallows spaces before it */
#define EW_PIECE_RSTRIP (1u << 1)      /* swallows spaces after it */
#define EW_PIECE_SINGLE_WORD (1u << 2) /* not next to a letter, digit or underscore */
#define EW_PIECE_NORMALIZED (1u << 3)  /* user-defined: looked for in the normalised text, not in the text as given */
#define EW_PIECE_ADDED (1u << 4)       /* user-defined: no piece of the model itself (UNIGRAM, WORDPIECE) */
#define EW_PIECE_ATTRS 31u

typedef struct ew_merge {
    int32_t left, right; /* piece ids; the result is the piece with the joined text */
} ew_merge;

/* What happens to each match of a split pattern (Hugging Face's SplitDelimiterBehavior). */
typedef enum ew_split_mode {
    EW_SPLIT_ISOLATED,
    EW_SPLIT_REMOVED,
    EW_SPLIT_MERGED_PREVIOUS,
    EW_SPLIT_MERGED_NEXT,
    EW_SPLIT_CONTIGUOUS,
    /* No cut but a change: spaces become U+2581, one is put in front (pattern "always", or "first": only at the start of the text), and it is
     * cut before each U+2581 unless inverted (Hugging Face's Metaspace after another step). */
    EW_SPLIT_METASPACE,
    EW_SPLIT_SPELLED /* no cut: the steps that follow see the text in GPT-2's byte alphabet (steps after ByteLevel) */
} ew_split_mode;

typedef struct ew_split {
    char *pattern;      /* PCRE2, UTF and UCP */
    ew_split_mode mode; /* applied to the matches … */
    bool invert;        /* … or to what lies between them */
} ew_split;

/* One step of normalisation. Names of Hugging Face's normalizers. */
typedef enum ew_tnorm_kind {
    EW_TNORM_NFC,
    EW_TNORM_NFD,
    EW_TNORM_NFKC,
    EW_TNORM_NFKD,
    EW_TNORM_LOWERCASE,
    EW_TNORM_STRIP_ACCENTS, /* marks go */
    EW_TNORM_STRIP,         /* white space at the ends goes; flags EW_TNORM_LEFT | EW_TNORM_RIGHT */
    EW_TNORM_REPLACE,       /* every match of `from` (PCRE2) becomes `to` */
    EW_TNORM_PREPEND,       /* `to` in front of a text that is not empty */
    EW_TNORM_CHARSMAP,      /* vocabulary's charsmap, grapheme by grapheme (Precompiled) */
    EW_TNORM_BERT,          /* flags EW_TNORM_CLEAN … EW_TNORM_LOWER */
    EW_TNORM_NMT,           /* controls go, odd spaces become spaces */
    EW_TNORM_KINDS
} ew_tnorm_kind;

#define EW_TNORM_LEFT (1u << 0)
#define EW_TNORM_RIGHT (1u << 1)
#define EW_TNORM_CLEAN (1u << 2)   /* controls go, white space becomes a space */
#define EW_TNORM_CHINESE (1u << 3) /* CJK ideographs stand alone */
#define EW_TNORM_ACCENTS (1u << 4) /* non-spacing marks go */
#define EW_TNORM_LOWER (1u << 5)

typedef struct ew_tnorm {
    ew_tnorm_kind kind;
    unsigned flags;
    char *from; /* owned, never NULL */
    char *to;   /* owned, never NULL */
} ew_tnorm;

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
    ew_tnorm *norms; /* [n_norms] in this order */
    size_t n_norms;
    /* SentencePiece's own normalisation: charsmap, prefix, spaces (below) in one go. User-defined pieces with EW_PIECE_NORMALIZED pass untouched. */
    bool sp;
    bool squeeze;         /* sp: spaces at the ends go, runs of them become one (remove_extra_whitespaces) */
    bool suffix;          /* sp: the space of `prefix` is put behind (treat_whitespace_as_suffix) */
    char *charsmap;       /* precompiled_charsmap of a SentencePiece model or NULL */
    size_t charsmap_size; /* bytes */

    size_t n;                        /* pieces */
    size_t cap;                      /* of the arrays below, elements */
    size_t *text_end;                /* [n] piece i is blob[text_end[i - 1], text_end[i]) */
    float *score;                    /* [n] */
    double *exact_score;             /* [n] or NULL: scores that float cannot hold; NULL after the next ew_vocab_add */
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
    bool plain_spaces;   /* character kinds: spaces stay spaces */
    bool score_f32;      /* UNIGRAM: scores add up in single precision, as in SentencePiece (Hugging Face: double) */
    bool byte_fallback;  /* character kinds: characters without a piece become byte pieces */
    bool fuse_unk;       /* neighbouring unknown characters become one unknown piece */
    bool ignore_merges;  /* BPE: a pre-token that is a piece is taken whole (Llama 3) */
    uint32_t word_max;   /* WORDPIECE: a longer word (characters) is unknown; 0 = 100 */
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
/* from and to may be NULL: empty. */
ew_status ew_vocab_add_norm(ew_vocab *v, ew_tnorm_kind kind, unsigned flags, const char *from, const char *to,
                            ew_error *reterr) EW_MUST_CHECK;
/* Copies. NULL clears. Checked when a tokenizer is made. */
ew_status ew_vocab_set_charsmap(ew_vocab *v, const void *data, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Appends unused pieces "[PAD<id>]" up to n (a model's embedding may have more rows than its tokenizer has pieces). */
ew_status ew_vocab_pad(ew_vocab *v, size_t n, ew_error *reterr) EW_MUST_CHECK;
/* NULL clears. */
ew_status ew_vocab_set_pre(ew_vocab *v, const char *pre, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vocab_set_chat_template(ew_vocab *v, const char *text, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Scores in double precision, one for each piece there is: tokenizer.json has them so, and ties depend on it. Also sets score. */
ew_status ew_vocab_set_scores(ew_vocab *v, const double *score, ew_error *reterr) EW_MUST_CHECK;
static inline double ew_vocab_score(const ew_vocab *v, size_t i)
{
    return v->exact_score != NULL ? v->exact_score[i] : (double)v->score[i];
}
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

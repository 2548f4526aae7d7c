/* Shared by the files of this module: small hash tables, the byte alphabet, the trie of special pieces. */
#ifndef EW_TOKEN_TOKEN_INT_H
#define EW_TOKEN_TOKEN_INT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "text/regex.h"
#include "token/pretok.h"
#include "token/tokenizer.h"
#include "token/vocab.h"

#define EW__NONE UINT32_MAX
#define EW__SPECIAL_MAX 1024u /* bytes of a piece that is looked for in text */

/* Byte strings to numbers. The strings lie in the caller's blob, string i is blob[ends[i - 1], ends[i]). Zeroed is valid and empty. */
typedef struct ew__strtab {
    uint32_t *hash;  /* [mask + 1] */
    uint32_t *value; /* [mask + 1] index of the string, EW__NONE = free */
    size_t mask;
    size_t n;
} ew__strtab;

void ew__strtab_release(ew__strtab *t);
/* Room for n strings without growing. */
ew_status ew__strtab_reserve(ew__strtab *t, size_t n) EW_MUST_CHECK;
uint32_t ew__hash(const void *s, size_t size);
uint32_t ew__strtab_find(const ew__strtab *t, const char *blob, const size_t *ends, const void *s, size_t size,
                         uint32_t hash);
/* The string must not be there yet, or replace says that the new index takes over. Needs room (reserve). */
void ew__strtab_put(ew__strtab *t, const char *blob, const size_t *ends, uint32_t index, bool replace);

/* Distinct byte strings numbered in order of arrival. Zeroed is valid and empty. */
typedef struct ew__intern {
    ew__strtab tab;
    char *blob;
    size_t blob_cap;
    size_t *ends;
    size_t ends_cap;
    size_t n;
} ew__intern;

void ew__intern_release(ew__intern *w);
/* *ret_new (may be NULL) tells whether it came in now. */
ew_status ew__intern_add(ew__intern *w, const void *s, size_t size, uint32_t *ret_index, bool *ret_new) EW_MUST_CHECK;
ew_span ew__intern_get(const ew__intern *w, uint32_t i);

/* 64-bit keys to 32-bit values; key UINT64_MAX is not allowed. Zeroed is valid and empty. */
typedef struct ew__u64map {
    uint64_t *key; /* UINT64_MAX = free */
    uint32_t *value;
    size_t mask;
    size_t n;
} ew__u64map;

void ew__u64map_release(ew__u64map *m);
ew_status ew__u64map_reserve(ew__u64map *m, size_t n) EW_MUST_CHECK;
/* Inserts or overwrites. */
ew_status ew__u64map_put(ew__u64map *m, uint64_t key, uint32_t value) EW_MUST_CHECK;

static inline size_t ew__u64_slot(uint64_t key, size_t mask)
{
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15ull;
    return (size_t)(key >> 20) & mask;
}

static inline uint32_t ew__u64map_get(const ew__u64map *m, uint64_t key)
{
    if (m->n == 0) {
        return EW__NONE;
    }
    for (size_t i = ew__u64_slot(key, m->mask); m->key[i] != UINT64_MAX; i = (i + 1) & m->mask) {
        if (m->key[i] == key) {
            return m->value[i];
        }
    }
    return EW__NONE;
}

static inline uint64_t ew__pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static inline uint64_t ew__touch_key(uint32_t a, uint32_t b)
{
    return (uint64_t)a << 32 | b;
}

/* Strings to be found in running text. */
typedef struct ew__trie {
    ew__u64map next; /* node << 8 | byte -> node */
    uint32_t *leaf;  /* [n_nodes] value of the string that ends here, EW__NONE = none */
    size_t leaf_cap; /* elements */
    size_t n_nodes;  /* 0 = empty trie */
    bool first[256]; /* some string begins with this byte */
    bool has;        /* at least one string */
} ew__trie;

void ew__trie_release(ew__trie *t);
ew_status ew__trie_add(ew__trie *t, const void *s, size_t size, uint32_t value) EW_MUST_CHECK;
/* The longest string that s[0, size) begins with: its value and length, or EW__NONE. */
uint32_t ew__trie_match(const ew__trie *t, const char *s, size_t size, size_t *ret_len);
/* The leftmost place at or after *at where a string begins, longest first; moves *at there. EW__NONE: none, *at = size. */
uint32_t ew__trie_find(const ew__trie *t, const char *s, size_t size, size_t *at, size_t *ret_len);

/* GPT-2's byte alphabet: code point of each byte, and the order of its 256 first ids. */
typedef struct ew__bytes {
    uint16_t cp[256];     /* byte -> code point */
    uint8_t order[256];   /* position in the alphabet -> byte */
    int16_t byte_of[512]; /* code point -> byte, -1 = not of the alphabet */
} ew__bytes;
void ew__bytes_init(ew__bytes *b);
/* Spells one byte as UTF-8 (1 or 2 bytes). */
size_t ew__bytes_spell(const ew__bytes *b, uint8_t byte, char dst[static 2]);

/* A SentencePiece character map, lying in the vocabulary. Zeroed is empty. */
typedef struct ew__charsmap {
    const unsigned char *units; /* [n_units] little-endian 32 bits: darts-clone double array */
    size_t n_units;
    const char *text; /* what is mapped to, each with a NUL */
    size_t text_size;
} ew__charsmap;
/* EW_ECORRUPT. The data must outlive m. */
ew_status ew__charsmap_init(ew__charsmap *m, const char *data, size_t size, ew_error *reterr) EW_MUST_CHECK;

#define EW__SPACE "\xE2\x96\x81" /* U+2581, the visible space of SentencePiece */

struct ew_tokenizer {
    ew_vocab *v;
    ew__strtab names;  /* text of every piece as spelled -> id, the last of equals */
    char *bytes;       /* what each piece stands for in running text */
    size_t *bytes_end; /* [n] */
    ew__strtab plain; /* pieces that merging may give, by what they are made of: bytes (BPE) or spelling (the others) */
    const char *from; /* the strings of plain: bytes or v->blob */
    const size_t *from_end;
    size_t from_max;      /* length of the longest in plain, bytes */
    int32_t byte_id[256]; /* piece of each byte, -1 = none */
    ew__u64map merges;    /* pair -> index into v->merges (BPE, CHAR_BPE) */
    int32_t *result;      /* [n_merges] piece that the merge gives */
    uint32_t *rank;       /* [n] SPM: 0 = best score, equal scores equal ranks */
    ew__u64map touching;  /* (code point, next code point) that stand together in some piece of plain */
    uint64_t *byte_touch; /* BPE: bit 256 a + b: a piece has byte b after byte a */
    bool cuts;            /* touching is complete: no merge crosses other neighbours */
    bool fuses;           /* neighbouring unknown characters become one piece */
    ew__trie always;      /* user-defined pieces */
    ew__trie special;     /* those and the control pieces */
    ew__trie late;        /* pieces that are looked for in normalised text */
    ew__trie lattice;     /* UNIGRAM: pieces; WORDPIECE: pieces that begin a word */
    ew__trie inner;       /* WORDPIECE: pieces within a word, without "##" */
    double unk_score;     /* UNIGRAM */
    double user_score;    /* UNIGRAM: of one byte of a user-defined piece (sp) */
    ew__charsmap charsmap;
    ew_regex **norm_regex; /* [n_norms] NULL where a step needs none */
    ew_pretok *pretok;     /* NULL = text stays whole */
    bool *eog;             /* [n] */
};

/* What one call of encode works with. */
typedef struct ew__sym {
    uint32_t begin, len; /* bytes of the stretch; len 0 = merged away */
    uint32_t prev, next; /* neighbours, EW__NONE at the ends */
    int32_t id;          /* -1 = no piece (yet) */
} ew__sym;

typedef struct ew__candidate {
    uint32_t rank;
    uint32_t left, right; /* symbols */
    uint32_t len;         /* of both together when it was found: tells a stale one */
    int32_t id;           /* what they become */
} ew__candidate;

typedef struct ew__memo ew__memo;

/* The best way to the end of this byte (UNIGRAM). */
typedef struct ew__node {
    double score;
    uint32_t len;  /* bytes of its last piece, 0 = not reached */
    int32_t id;    /* the last piece, -1 = unknown */
    uint32_t next; /* bytes of the piece that follows, on the way back */
} ew__node;

typedef struct ew__encoder {
    const ew_tokenizer *tok;
    ew_tokens *out;
    ew_pretok_match *match; /* NULL when the text stays whole */
    ew__sym *sym;
    size_t sym_cap; /* elements */
    ew__candidate *heap;
    size_t n_heap;
    size_t heap_cap; /* elements */
    ew__node *node;
    size_t node_cap; /* elements */
    ew__memo *memo;  /* recent pre-tokens and their ids, or NULL */
    bool unknown;    /* the last character had no piece: the next unknown one is fused with it */
} ew__encoder;

/* The piece that merging may give and that is spelled so (in bytes for BPE), or EW__NONE. */
uint32_t ew__plain_find(const ew_tokenizer *t, const char *s, size_t size);
/* Merges one stretch and appends its ids. */
ew_status ew__merge(ew__encoder *e, const char *s, size_t size) EW_MUST_CHECK;
/* The same through the memo, for pre-tokens. */
ew_status ew__merge_memo(ew__encoder *e, const char *s, size_t size) EW_MUST_CHECK;
/* NULL when out of memory, which is no error. */
ew__memo *ew__memo_new(void) EW_MUST_CHECK;
void ew__encoder_release(ew__encoder *e);
/* A character that no piece holds: its bytes, or the unknown piece, or nothing. */
ew_status ew__emit_unknown(ew__encoder *e, const char *s, size_t size) EW_MUST_CHECK;
/* The same for the kinds without merges; scores, tries. */
ew_status ew__unigram(ew__encoder *e, const char *s, size_t size) EW_MUST_CHECK;
ew_status ew__wordpiece(ew__encoder *e, const char *s, size_t size) EW_MUST_CHECK;
ew_status ew__unigram_init(ew_tokenizer *t, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__wordpiece_init(ew_tokenizer *t, ew_error *reterr) EW_MUST_CHECK;
/* norm.c. normalize: the steps of the vocabulary, *out must be empty; sp_normalize appends. */
ew_status ew__norm_init(ew_tokenizer *t, ew_error *reterr) EW_MUST_CHECK;
void ew__norm_release(ew_tokenizer *t);
ew_status ew__normalize(const ew_tokenizer *t, const char *s, size_t size, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__sp_normalize(const ew_tokenizer *t, const char *s, size_t size, bool prefix, ew_buf *out,
                           ew_error *reterr) EW_MUST_CHECK;
/* encode.c: appends the ids; what is there of *out stays on failure. */
ew_status ew__encode(ew__encoder *e, const char *s, size_t size, unsigned flags, ew_error *reterr) EW_MUST_CHECK;
/* Fills bytes, bytes_end. */
ew_status ew__tokenizer_spell(ew_tokenizer *t, ew_error *reterr) EW_MUST_CHECK;

#endif

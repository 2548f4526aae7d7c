/* Pre-tokenizers: how a text is cut before pairs are merged. A pre-tokenizer is a list of patterns, each cutting what the one
 * before left; names and patterns are those of llama.cpp (llama-vocab.cpp), written for PCRE2.
 * Locking: immutable after new; a matcher has one owning thread. */
#ifndef EW_TOKEN_PRETOK_H
#define EW_TOKEN_PRETOK_H

#include "base/base.h"
#include "base/status.h"
#include "token/vocab.h"

typedef struct ew_pretok ew_pretok;
typedef struct ew_pretok_match ew_pretok_match;

/* The splits of a known name: *ret_n of them, static. EW_EUNSUPPORTED names the unknown one and lists the known. */
ew_status ew_pretok_lookup(const char *name, const ew_split **ret_splits, size_t *ret_n,
                           ew_error *reterr) EW_MUST_CHECK;
/* The name whose splits are these (patterns equal as text), or NULL. */
const char *ew_pretok_name_of(const ew_split *splits, size_t n);

/* Compiles the splits (n may be 0: text stays whole). EW_EINVAL for a wrong pattern. */
ew_status ew_pretok_new(const ew_split *splits, size_t n, ew_pretok **ret_pretok, ew_error *reterr) EW_MUST_CHECK;
void ew_pretok_free(ew_pretok **p);

/* p must outlive it. */
ew_status ew_pretok_match_new(const ew_pretok *p, ew_pretok_match **ret_match, ew_error *reterr) EW_MUST_CHECK;
void ew_pretok_match_free(ew_pretok_match **m);

/* Called for each piece in order. */
typedef ew_status (*ew_pretok_fn)(const char *piece, size_t size, void *ctx, ew_error *reterr);
/* Cuts text[0, size) of any bytes: stretches of malformed UTF-8 are pieces of their own. at_start: nothing lies before the text. */
ew_status ew_pretok_run(ew_pretok_match *m, const char *text, size_t size, bool at_start, ew_pretok_fn fn, void *ctx,
                        ew_error *reterr) EW_MUST_CHECK;

#endif

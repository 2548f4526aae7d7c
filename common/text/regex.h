/* Regular expressions over UTF-8 (PCRE2, UTF | UCP, JIT where the system allows it): the pre-token patterns of tokenizers run
 * unchanged. Patterns come from files, so matching is bounded (match, depth and heap limits) and ends in EW_ELIMIT, not in a hang.
 * Locking: a compiled regex may be shared; a matcher has one owning thread. */
#ifndef EW_TEXT_REGEX_H
#define EW_TEXT_REGEX_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_regex ew_regex;
typedef struct ew_regex_match ew_regex_match; /* matching state; allocates once */

/* EW_EINVAL with the offset when the pattern is wrong. */
ew_status ew_regex_new(const char *pattern, ew_regex **ret_regex, ew_error *reterr) EW_MUST_CHECK;
void ew_regex_free(ew_regex **r);
/* Number of capture groups. */
unsigned ew_regex_groups(const ew_regex *r);

/* r must outlive it. */
ew_status ew_regex_match_new(const ew_regex *r, ew_regex_match **ret_match, ew_error *reterr) EW_MUST_CHECK;
void ew_regex_match_free(ew_regex_match **m);

/* First match in s[start, size). EW_OK with *begin and *end (bytes), EW_ENOENT when there is none (no message), EW_ELIMIT. s must be
 * valid UTF-8 (it is not checked again: sanitize first) and start on a code point. An empty match is possible. */
ew_status ew_regex_find(ew_regex_match *m, const char *s, size_t size, size_t start, size_t *ret_begin, size_t *ret_end,
                        ew_error *reterr) EW_MUST_CHECK;
/* Group i (0 = whole) of the last match; false when it did not take part. */
bool ew_regex_group(const ew_regex_match *m, unsigned i, size_t *ret_begin, size_t *ret_end);

/* Calls fn for each piece of s in order: matches, and with gaps = true also what lies between. Empty matches are skipped. Stops when fn fails
 * and returns its status. */
typedef ew_status (*ew_regex_piece_fn)(const char *piece, size_t size, bool is_match, void *ctx);
ew_status ew_regex_split(ew_regex_match *m, const char *s, size_t size, bool gaps, ew_regex_piece_fn fn, void *ctx,
                         ew_error *reterr) EW_MUST_CHECK;

#endif

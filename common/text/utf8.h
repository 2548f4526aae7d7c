/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. Locking: any thread. */
#ifndef EW_TEXT_UTF8_H
#define EW_TEXT_UTF8_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

#define EW_UTF8_MAX 4 /* bytes of one code point */
#define EW_UTF8_REPLACEMENT 0xFFFDu

bool ew_utf8_valid(const void *s, size_t size);
/* Offset of the first byte that is not well formed; size when all is. */
size_t ew_utf8_valid_prefix(const void *s, size_t size);
/* Bytes of the code point at s (1–4), 0 when s[0..size) does not start with a well-formed one. *cp may be NULL. */
size_t ew_utf8_decode(const void *s, size_t size, uint32_t *cp);
/* As decode, but a bad byte counts as one U+FFFD of length 1. size > 0; never 0. */
size_t ew_utf8_next(const void *s, size_t size, uint32_t *cp);
/* Bytes written to dst (1–4); an invalid cp writes U+FFFD. */
size_t ew_utf8_encode(uint32_t cp, char dst[static EW_UTF8_MAX]);
/* Length in bytes of the code point that this first byte announces; 0 for a continuation or invalid byte. */
size_t ew_utf8_length(unsigned char first);
/* True when s ends within a code point that more bytes could complete (streaming output). */
bool ew_utf8_incomplete(const void *s, size_t size);
/* Code points, bad bytes counted one each. */
size_t ew_utf8_count(const void *s, size_t size);
/* Appends s with each maximal bad sequence replaced by U+FFFD (Unicode 15, 3.9 "substitution of maximal subparts"). */
void ew_utf8_sanitize(const void *s, size_t size, ew_buf *out);

/* Unicode normalisation (utf8proc, Unicode 15). EW_ECORRUPT for malformed input. */
typedef enum ew_utf8_form {
    EW_UTF8_NFC,
    EW_UTF8_NFD,
    EW_UTF8_NFKC,
    EW_UTF8_NFKD
} ew_utf8_form;
ew_status ew_utf8_normalize(const void *s, size_t size, ew_utf8_form form, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Appends s with simple case folding to lower case; malformed bytes pass through. */
void ew_utf8_lower(const void *s, size_t size, ew_buf *out);
/* L*, N*, whitespace. */
bool ew_utf8_is_letter(uint32_t cp);
bool ew_utf8_is_number(uint32_t cp);
bool ew_utf8_is_space(uint32_t cp);
bool ew_utf8_is_punct(uint32_t cp); /* P* and S* */

#endif

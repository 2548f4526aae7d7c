/* Small text helpers: bounded copies, hex, base64url, numbers with checks. No locale, ASCII rules. */
#ifndef EW_BASE_STR_H
#define EW_BASE_STR_H

#include "base/base.h"
#include "base/status.h"

/* Copies with truncation; dst is always NUL-terminated. Returns false when src did not fit. size > 0. */
bool ew_str_copy(char *dst, size_t size, const char *src);
/* A copy for the caller to ew_free; NULL when out of memory. */
char *ew_str_dup(const char *s) EW_MUST_CHECK;
char *ew_str_dup_n(const char *s, size_t n) EW_MUST_CHECK;
bool ew_str_starts(const char *s, const char *prefix);
bool ew_str_ends(const char *s, const char *suffix);
bool ew_str_eq(const char *a, const char *b);

/* Whole-string numbers: no leading space, no trailing text, in [min, max]. False otherwise, *out untouched. */
bool ew_str_to_i64(const char *s, int64_t min, int64_t max, int64_t *out) EW_MUST_CHECK;
bool ew_str_to_u64(const char *s, uint64_t max, uint64_t *out) EW_MUST_CHECK;
/* Finite only, C locale. */
bool ew_str_to_f64(const char *s, double *out) EW_MUST_CHECK;
/* "512", "64K", "1.5G", "300MiB", "2GB": binary multiples. */
bool ew_str_to_bytes(const char *s, uint64_t *out) EW_MUST_CHECK;
/* "1.4 GiB", "13.0 MiB", "812 B"; returns dst. */
char *ew_str_bytes(char *dst, size_t size, uint64_t bytes);

/* hex has room for 2 * n + 1. */
void ew_hex_encode(const void *data, size_t n, char *hex);
/* Exactly n bytes from exactly 2 * n hex digits, either case. */
bool ew_hex_decode(const char *hex, void *data, size_t n) EW_MUST_CHECK;
/* RFC 4648 section 5, no padding. dst has room for (n * 4 + 2) / 3 + 1. */
void ew_b64url_encode(const void *data, size_t n, char *dst);
bool ew_b64url_decode(const char *s, size_t s_len, void *data, size_t cap, size_t *ret_n) EW_MUST_CHECK;

#endif

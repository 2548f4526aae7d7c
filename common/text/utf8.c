#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"

/* Table 3-7 of Unicode 15: the range of the second byte depends on the first. */
static void second_range(unsigned char first, unsigned char *lo, unsigned char *hi)
{
    *lo = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    *hi = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
}

size_t ew_utf8_length(unsigned char first)
{
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* Bytes at s that are the start of a well-formed code point: all of it (== its length) or as much as is right. */
static size_t right_bytes(const unsigned char *s, size_t size)
{
    size_t length = ew_utf8_length(s[0]);
    unsigned char lo, hi;
    if (length < 2 || size < 2) {
        return length > 0 ? 1 : 0;
    }
    second_range(s[0], &lo, &hi);
    if (s[1] < lo || s[1] > hi) {
        return 1;
    }
    size_t n = 2;
    while (n < length && n < size && (s[n] & 0xC0) == 0x80) {
        n++;
    }
    return n;
}

size_t ew_utf8_decode(const void *text, size_t size, uint32_t *cp)
{
    static const unsigned char masks[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    const unsigned char *s = text;
    if (size == 0) {
        return 0;
    }
    size_t length = ew_utf8_length(s[0]);
    if (length == 0 || length > size || right_bytes(s, size) != length) {
        return 0;
    }
    if (cp != NULL) {
        uint32_t v = s[0] & masks[length];
        for (size_t i = 1; i < length; i++) {
            v = (v << 6) | (s[i] & 0x3Fu);
        }
        *cp = v;
    }
    return length;
}

size_t ew_utf8_next(const void *s, size_t size, uint32_t *cp)
{
    size_t n = ew_utf8_decode(s, size, cp);
    if (n == 0) {
        if (cp != NULL) {
            *cp = EW_UTF8_REPLACEMENT;
        }
        n = 1;
    }
    return n;
}

size_t ew_utf8_valid_prefix(const void *text, size_t size)
{
    const unsigned char *s = text;
    size_t i = 0;
    while (i < size) {
        if (size - i >= 8) { /* eight ASCII bytes at a time */
            uint64_t word;
            memcpy(&word, s + i, sizeof(word));
            if ((word & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        size_t n = ew_utf8_decode(s + i, size - i, NULL);
        if (n == 0) {
            break;
        }
        i += n;
    }
    return i;
}

bool ew_utf8_valid(const void *s, size_t size)
{
    return ew_utf8_valid_prefix(s, size) == size;
}

size_t ew_utf8_encode(uint32_t cp, char dst[static EW_UTF8_MAX])
{
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) {
        cp = EW_UTF8_REPLACEMENT;
    }
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        dst[0] = (char)(0xC0 | (cp >> 6));
        dst[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xE0 | (cp >> 12));
        dst[1] = (char)(0x80 | ((cp >> 6) & 0x3F));
        dst[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    dst[0] = (char)(0xF0 | (cp >> 18));
    dst[1] = (char)(0x80 | ((cp >> 12) & 0x3F));
    dst[2] = (char)(0x80 | ((cp >> 6) & 0x3F));
    dst[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool ew_utf8_incomplete(const void *text, size_t size)
{
    const unsigned char *s = text;
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        const unsigned char *p = s + size - back;
        size_t length = ew_utf8_length(*p);
        if (length > 0) {
            return length > back && right_bytes(p, back) == back;
        }
        if ((*p & 0xC0) != 0x80) {
            return false;
        }
    }
    return false;
}

size_t ew_utf8_count(const void *s, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; n++) {
        i += ew_utf8_next((const char *)s + i, size - i, NULL);
    }
    return n;
}

void ew_utf8_sanitize(const void *text, size_t size, ew_buf *out)
{
    const unsigned char *s = text;
    while (size > 0) {
        size_t good = ew_utf8_valid_prefix(s, size);
        ew_buf_add(out, s, good);
        s += good;
        size -= good;
        if (size > 0) {
            size_t bad = right_bytes(s, size);
            bad = EW_MAX(bad, (size_t)1);
            ew_buf_adds(out, "\xEF\xBF\xBD");
            s += bad;
            size -= bad;
        }
    }
}

ew_status ew_utf8_normalize(const void *s, size_t size, ew_utf8_form form, ew_buf *out, ew_error *reterr)
{
    static const utf8proc_option_t options[] = {
        UTF8PROC_STABLE | UTF8PROC_COMPOSE, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    utf8proc_uint8_t *result = NULL;
    if (size > INT32_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "text of %zu bytes is too long to normalise", size);
    }
    utf8proc_ssize_t n = utf8proc_map(s, (utf8proc_ssize_t)size, &result, options[form]);
    if (n < 0) {
        return ew_fail(reterr, n == UTF8PROC_ERROR_NOMEM ? EW_ENOMEM : EW_ECORRUPT, "cannot normalise text: %s",
                       utf8proc_errmsg(n));
    }
    ew_buf_add(out, result, (size_t)n);
    ew_free(result); /* malloc's */
    return ew_buf_check(out, reterr);
}

void ew_utf8_lower(const void *text, size_t size, ew_buf *out)
{
    const char *s = text;
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        char encoded[EW_UTF8_MAX];
        size_t n = ew_utf8_decode(s + i, size - i, &cp);
        if (n == 0) {
            ew_buf_addc(out, s[i++]);
            continue;
        }
        ew_buf_add(out, encoded, ew_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), encoded));
        i += n;
    }
}

static utf8proc_category_t category(uint32_t cp)
{
    return cp <= 0x10FFFF ? utf8proc_category((utf8proc_int32_t)cp) : UTF8PROC_CATEGORY_CN;
}

bool ew_utf8_is_letter(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool ew_utf8_is_number(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool ew_utf8_is_space(uint32_t cp)
{
    utf8proc_category_t c = category(cp); /* White_Space = these and the Z categories */
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x85 || (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP);
}

bool ew_utf8_is_punct(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_SO;
}

#include "base/str.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool ew_str_copy(char *dst, size_t size, const char *src)
{
    EW_ASSERT(size > 0);
    size_t n = strlen(src);
    size_t k = EW_MIN(n, size - 1);
    memcpy(dst, src, k);
    dst[k] = '\0';
    return k == n;
}

char *ew_str_dup_n(const char *s, size_t n)
{
    if (n == SIZE_MAX) {
        return NULL;
    }
    char *p = ew_malloc(n + 1, 1);
    if (p != NULL) {
        memcpy(p, s, n);
        p[n] = '\0';
    }
    return p;
}

char *ew_str_dup(const char *s)
{
    return ew_str_dup_n(s, strlen(s));
}

bool ew_str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool ew_str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s);
    size_t k = strlen(suffix);
    return k <= n && memcmp(s + n - k, suffix, k) == 0;
}

bool ew_str_eq(const char *a, const char *b)
{
    return a != NULL && b != NULL && strcmp(a, b) == 0;
}

bool ew_str_to_i64(const char *s, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    if (!((*s >= '0' && *s <= '9') || (*s == '-' && s[1] >= '0' && s[1] <= '9'))) {
        return false;
    }
    errno = 0;
    intmax_t v = strtoimax(s, &end, 10);
    if (errno != 0 || *end != '\0' || v < min || v > max) {
        return false;
    }
    *out = (int64_t)v;
    return true;
}

bool ew_str_to_u64(const char *s, uint64_t max, uint64_t *out)
{
    char *end;
    if (*s < '0' || *s > '9') {
        return false;
    }
    errno = 0;
    uintmax_t v = strtoumax(s, &end, 10);
    if (errno != 0 || *end != '\0' || v > max) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

bool ew_str_to_f64(const char *s, double *out)
{
    char *end;
    if (!((*s >= '0' && *s <= '9') || *s == '-' || *s == '.')) {
        return false;
    }
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || *end != '\0' || !isfinite(v)) {
        return false;
    }
    *out = v;
    return true;
}

bool ew_str_to_bytes(const char *s, uint64_t *out)
{
    char *end;
    if (*s < '0' || *s > '9') {
        return false;
    }
    double v = strtod(s, &end);
    static const char units[] = "KMGT";
    double scale = 1;
    if (*end != '\0' && *end != 'B') {
        const char *u = strchr(units, *end);
        if (u == NULL) {
            return false;
        }
        for (const char *p = units; p <= u; p++) {
            scale *= 1024;
        }
        end++;
        if (*end == 'i') {
            end++;
        }
    }
    if (*end == 'B') {
        end++;
    }
    v *= scale;
    if (*end != '\0' || !(v >= 0) || v >= 9.0e18) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

char *ew_str_bytes(char *dst, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        (void)snprintf(dst, size, "%" PRIu64 " B", bytes);
        return dst;
    }
    double v = (double)bytes / 1024;
    size_t u = 0;
    while (v >= 1024 && u + 1 < EW_COUNT(units)) {
        v /= 1024;
        u++;
    }
    (void)snprintf(dst, size, "%.1f %s", v, units[u]);
    return dst;
}

void ew_hex_encode(const void *data, size_t n, char *hex)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[p[i] >> 4];
        hex[2 * i + 1] = digits[p[i] & 15];
    }
    hex[2 * n] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

bool ew_hex_decode(const char *hex, void *data, size_t n)
{
    if (strlen(hex) != 2 * n) {
        return false;
    }
    for (size_t i = 0; i < 2 * n; i++) {
        if (hex_value(hex[i]) < 0) {
            return false;
        }
    }
    unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        p[i] = (unsigned char)(hex_value(hex[2 * i]) << 4 | hex_value(hex[2 * i + 1]));
    }
    return true;
}

static const char b64url_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void ew_b64url_encode(const void *data, size_t n, char *dst)
{
    const unsigned char *p = data;
    uint32_t acc = 0;
    int bits = 0;
    for (size_t i = 0; i < n; i++) {
        acc = (acc << 8 | p[i]) & 0xffffff;
        bits += 8;
        while (bits >= 6) {
            bits -= 6;
            *dst++ = b64url_digits[acc >> bits & 63];
        }
    }
    if (bits > 0) {
        *dst++ = b64url_digits[acc << (6 - bits) & 63];
    }
    *dst = '\0';
}

bool ew_b64url_decode(const char *s, size_t s_len, void *data, size_t cap, size_t *ret_n)
{
    unsigned char *p = data;
    size_t n = 0;
    uint32_t acc = 0;
    int bits = 0;
    for (size_t i = 0; i < s_len; i++) {
        const char *d = s[i] != '\0' ? strchr(b64url_digits, s[i]) : NULL;
        if (d == NULL) {
            return false;
        }
        acc = (acc << 6 | (uint32_t)(d - b64url_digits)) & 0xffffff;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            if (n == cap) {
                return false;
            }
            p[n++] = (unsigned char)(acc >> bits);
        }
    }
    if (s_len % 4 == 1 || (acc & ((1u << bits) - 1)) != 0) {
        return false;
    }
    *ret_n = n;
    return true;
}

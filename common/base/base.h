/* Language helpers that every file uses: attributes, assertions, sizes, spans.
 * Non-goals: no types with invariants, no allocation. */
#ifndef EW_BASE_BASE_H
#define EW_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define EW_MUST_CHECK __attribute__((warn_unused_result))
#define EW_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define EW_NORETURN __attribute__((noreturn))
#define EW_UNUSED __attribute__((unused))
#define EW_CLEANUP(fn) __attribute__((cleanup(fn)))
#define EW_LIKELY(x) __builtin_expect(!!(x), 1)
#define EW_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#error "gcc or clang is needed (attributes and overflow builtins)"
#endif

/* EW_AUTO(ew_gguf) g = NULL;  calls ew_gguf_free(&g) when g leaves its scope (ADR 0010). */
#define EW_AUTO(type) EW_CLEANUP(type##_free) type *

#define EW_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define EW_MIN(a, b) ((a) < (b) ? (a) : (b))
#define EW_MAX(a, b) ((a) > (b) ? (a) : (b))
/* n rounded up to a multiple of a, which is a power of two. */
#define EW_ALIGN_UP(n, a) (((n) + ((a)-1)) & ~((size_t)(a)-1))

#define EW_KIB (1024ull)
#define EW_MIB (1024ull * 1024)
#define EW_GIB (1024ull * 1024 * 1024)

/* A programmer's error: prints file, line and condition and aborts, in release builds too. Never for bad input. */
#define EW_ASSERT(cond) ((cond) ? (void)0 : ew_assert_fail(__FILE__, __LINE__, #cond))
#ifdef NDEBUG
#define EW_DASSERT(cond) ((void)0)
#else
#define EW_DASSERT(cond) EW_ASSERT(cond)
#endif
EW_NORETURN void ew_assert_fail(const char *file, int line, const char *cond);

/* Borrowed bytes. Valid until the next mutating call on whatever owns them. */
typedef struct ew_span {
    const void *data;
    size_t size; /* bytes */
} ew_span;

/* *out = a * b (or a + b); false and *out untouched when it does not fit size_t. */
static inline EW_MUST_CHECK bool ew_size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

static inline EW_MUST_CHECK bool ew_size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

#endif

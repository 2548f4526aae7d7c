/* Property tests: a property is tried on many generated cases; a failing case is shrunk by halving its size and told with
 * the seed that repeats it (EW_PROP_SEED=seed in the environment; EW_PROP_CASES=n for more cases).
 *
 *   static bool reverse_twice_is_identity(ew_prop *p, void *ctx)
 *   {
 *       unsigned char *b = ew_prop_bytes(p, ew_prop_size(p));
 *       …
 *       return ew_prop_that(p, memcmp(a, b, n) == 0, "differs at n=%zu", n);
 *   }
 *   assert_true(ew_prop_check("reverse twice is the identity", 500, 4096, reverse_twice_is_identity, NULL));
 */
#ifndef EW_TESTS_SUPPORT_PROP_H
#define EW_TESTS_SUPPORT_PROP_H

#include <stdbool.h>

#include "base/base.h"
#include "base/rng.h"

typedef struct ew_prop {
    ew_rng rng;    /* all randomness of the case */
    size_t max;    /* size of the case: what generators make grows with it */
    void *mem[64]; /* given by generators, freed after the case */
    size_t n_mem;
    char why[256]; /* set by ew_prop_that */
} ew_prop;

typedef bool (*ew_prop_fn)(ew_prop *p, void *ctx);

/* True when fn held for n_cases with sizes from 0 to max_size. */
bool ew_prop_check(const char *name, unsigned n_cases, size_t max_size, ew_prop_fn fn, void *ctx);
/* cond, with the reason kept when it is false. */
bool ew_prop_that(ew_prop *p, bool cond, const char *fmt, ...) EW_PRINTF(3, 4);

/* 0 … p->max; the edges 0, 1, max and lengths around powers of two come often. */
size_t ew_prop_size(ew_prop *p);
/* n uninitialised bytes, freed after the case. */
void *ew_prop_alloc(ew_prop *p, size_t n, size_t size);
unsigned char *ew_prop_bytes(ew_prop *p, size_t n);
/* Normal values with some zeros and large ones among them; all finite. */
float *ew_prop_f32(ew_prop *p, size_t n);
/* NUL-terminated well-formed UTF-8 of about n code points from several scripts, without U+0000. */
char *ew_prop_utf8(ew_prop *p, size_t n);

#endif

/* The two tasks whose answers are not a field of the record: which of two packages it depends on, and how large it is. */
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "crypt/hash.h"
#include "task/debian_int.h"

#define DERIVE_TEXT_MAX (1024u * 1024 * 1024)
#define DERIVE_NAMES_MAX 256 /* of one record, that are looked at */
#define DERIVE_COMMON 50     /* a package that one record in so many depends on says nothing of this one */
#define DERIVE_TRIES 64

/* The next of a comma-separated list; false at its end. */
static bool next_name(const char **at, ew_span *ret)
{
    while (**at == ',' || **at == ' ') {
        (*at)++;
    }
    const char *p = *at;
    const size_t n = strcspn(p, ", ");
    *ret = (ew_span){p, n};
    *at = p + n;
    return n > 0;
}

static bool depends_on(const ew_debian_record *r, ew_span name)
{
    ew_span x;
    for (const char *at = r->depends; next_name(&at, &x);) {
        if (x.size == name.size && memcmp(x.data, name.data, x.size) == 0) {
            return true;
        }
    }
    return false;
}

static ew_status count_names(const ew_debian_record *r, size_t n, ew_map *count, ew_error *reterr)
{
    ew_span x;
    for (size_t i = 0; i < n; i++) {
        for (const char *at = r[i].depends; next_name(&at, &x);) {
            const uintptr_t c = (uintptr_t)ew_map_remove(count, x.data, x.size) + 1;
            if (ew_map_add(count, x.data, x.size, (void *)c) != EW_OK) {
                return ew_fail(reterr, EW_ENOMEM, "no memory for the names of packages");
            }
        }
    }
    return EW_OK;
}

static void seed_rng(ew_rng *rng, const char *id)
{
    uint8_t hash[EW_SHA256_SIZE];
    uint64_t seed;
    ew_hmac_sha256("debian-depends", 14, id, strlen(id), hash);
    memcpy(&seed, hash, sizeof(seed));
    ew_rng_init(rng, seed, 0);
}

/* One of the record's dependencies that are not common. Empty: there is none. */
static ew_span pick(const ew_debian_record *r, const ew_map *count, size_t n_records, ew_rng *rng)
{
    ew_span names[DERIVE_NAMES_MAX], x;
    size_t n = 0;
    for (const char *at = r->depends; n < DERIVE_NAMES_MAX && next_name(&at, &x);) {
        if ((uintptr_t)ew_map_get(count, x.data, x.size) * DERIVE_COMMON <= n_records) {
            names[n++] = x;
        }
    }
    return n > 0 ? names[ew_rng_below(rng, n)] : (ew_span){"", 0};
}

static ew_status make_pairs(const ew_debian_record *r, size_t n, const bool *in_pool, const ew_map *count,
                            ew_span *right, ew__debian_derived *d, ew_error *reterr)
{
    uint32_t *pool = ew_calloc(n + 1, sizeof(*pool));
    size_t n_pool = 0;
    if (pool == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the pairs of packages");
    }
    ew_rng rng;
    for (size_t i = 0; i < n; i++) {
        seed_rng(&rng, r[i].id);
        right[i] = pick(&r[i], count, n, &rng);
        if (in_pool[i] && right[i].size > 0) {
            pool[n_pool++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < n; i++) {
        seed_rng(&rng, r[i].id);
        (void)pick(&r[i], count, n, &rng);
        const bool first = ew_rng_below(&rng, 2) == 0;
        ew_span wrong = {"", 0};
        for (int k = 0; right[i].size > 0 && n_pool > 0 && wrong.size == 0 && k < DERIVE_TRIES; k++) {
            const ew_span x = right[pool[ew_rng_below(&rng, n_pool)]];
            wrong = depends_on(&r[i], x) ? wrong : x;
        }
        if (wrong.size == 0) {
            continue;
        }
        const ew_span a = first ? right[i] : wrong, b = first ? wrong : right[i];
        d->pair[i] = d->text.size;
        d->answer[i] = first ? 1 : 2;
        ew_buf_addf(&d->text, "[1] %.*s [2] %.*s: ", (int)a.size, (const char *)a.data, (int)b.size,
                    (const char *)b.data);
        ew_buf_add(&d->text, r[i].description, strlen(r[i].description) + 1);
    }
    ew_free(pool);
    return ew_buf_check(&d->text, reterr);
}

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static ew_status make_quintiles(const ew_debian_record *r, size_t n, const bool *in_pool, uint8_t *quintile,
                                ew_error *reterr)
{
    uint64_t *size = ew_calloc(n + 1, sizeof(*size));
    size_t n_pool = 0;
    if (size == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the sizes of packages");
    }
    for (size_t i = 0; i < n; i++) {
        if (in_pool[i]) {
            size[n_pool++] = r[i].size_kib;
        }
    }
    qsort(size, n_pool, sizeof(*size), by_size);
    for (size_t i = 0; i < n; i++) {
        quintile[i] = 1;
        for (size_t k = 1; k < 5 && n_pool > 0; k++) {
            quintile[i] = (uint8_t)(quintile[i] + (r[i].size_kib >= size[n_pool * k / 5]));
        }
    }
    ew_free(size);
    return EW_OK;
}

void ew__debian_derived_release(ew__debian_derived *x)
{
    ew_buf_release(&x->text);
    ew_free(x->pair);
    ew_free(x->answer);
    ew_free(x->quintile);
    *x = (ew__debian_derived){0};
}

ew_status ew__debian_derive(const ew_debian_record *r, size_t n, const bool *in_pool, ew__debian_derived *ret,
                            ew_error *reterr)
{
    EW_AUTO(ew_map) count = NULL;
    ew_span *right = ew_calloc(n + 1, sizeof(*right));
    ret->text.max = DERIVE_TEXT_MAX;
    ew_buf_addc(&ret->text, '\0'); /* offset 0 means none */
    ret->pair = ew_calloc(n + 1, sizeof(*ret->pair));
    ret->answer = ew_calloc(n + 1, 1);
    ret->quintile = ew_calloc(n + 1, 1);
    ew_status st = EW_OK;
    if (right == NULL || ret->pair == NULL || ret->answer == NULL || ret->quintile == NULL ||
        ew_map_new(&count) != EW_OK) {
        st = ew_fail(reterr, EW_ENOMEM, "no memory for the tasks of %zu records", n);
    }
    st = st == EW_OK ? count_names(r, n, count, reterr) : st;
    st = st == EW_OK ? make_pairs(r, n, in_pool, count, right, ret, reterr) : st;
    st = st == EW_OK ? make_quintiles(r, n, in_pool, ret->quintile, reterr) : st;
    ew_free(right);
    return st;
}

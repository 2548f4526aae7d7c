#include "agentd/replay.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"

#define RATIO_DEFAULT 1.0
#define MIN_OLD_DEFAULT 16u
#define WITNESS_DEFAULT 32u

typedef struct candidate {
    size_t at; /* in items */
    char key[EW_SHA256_HEX_SIZE];
} candidate;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const candidate *)a)->key, ((const candidate *)b)->key);
}

static void key_of(const char *word, const ew_replay_opt *opt, const ew_item *item,
                   char ret_key[static EW_SHA256_HEX_SIZE])
{
    char content[65];
    char text[192];
    ew_item_content_hash(item, content);
    int n = snprintf(text, sizeof(text), "%s %llu %llu %s", word, (unsigned long long)opt->seed,
                     (unsigned long long)opt->known, content);
    (void)ew_sha256_hex(text, (size_t)n, ret_key);
}

/* Marks the k candidates of smallest key as use and moves those that are left to the front; returns how many. */
static size_t draw(const ew_item *items, candidate *c, size_t n, size_t k, const char *word, const ew_replay_opt *opt,
                   ew_replay_use use, ew_replay_use *ret_use)
{
    for (size_t i = 0; i < n; i++) {
        key_of(word, opt, &items[c[i].at], c[i].key);
    }
    qsort(c, n, sizeof(*c), by_key);
    for (size_t i = 0; i < k; i++) {
        ret_use[c[i].at] = use;
    }
    memmove(c, c + k, (n - k) * sizeof(*c));
    return n - k;
}

ew_status ew_replay_choose(const ew_item *items, size_t n, const ew_replay_opt *opt, ew_replay_use *ret_use,
                           ew_replay_counts *ret_counts, ew_error *reterr)
{
    ew_replay_counts counts = {0};
    size_t n_candidates = 0;
    candidate *c = ew_calloc(EW_MAX(n, (size_t)1), sizeof(*c));
    if (c == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the choice among %zu items", n);
    }
    for (size_t i = 0; i < n; i++) {
        bool is_new = items[i].order > opt->known;
        ret_use[i] = is_new ? EW_REPLAY_NEW : EW_REPLAY_NONE;
        counts.n_new += is_new;
        if (!is_new) {
            c[n_candidates++].at = i;
        }
    }
    double ratio = opt->ratio > 0 ? opt->ratio : opt->ratio < 0 ? 0 : RATIO_DEFAULT;
    double want = ceil(ratio * (double)counts.n_new);
    size_t least = ratio > 0 ? (opt->min_old != 0 ? opt->min_old : MIN_OLD_DEFAULT) : 0;
    counts.n_witness = EW_MIN((size_t)(opt->n_witness != 0 ? opt->n_witness : WITNESS_DEFAULT), n_candidates / 3);
    n_candidates = draw(items, c, n_candidates, counts.n_witness, "witness", opt, EW_REPLAY_WITNESS, ret_use);
    counts.n_old = want < (double)n_candidates ? EW_MAX((size_t)want, least) : n_candidates;
    counts.n_old = EW_MIN(counts.n_old, n_candidates);
    counts.n_left = draw(items, c, n_candidates, counts.n_old, "replay", opt, EW_REPLAY_OLD, ret_use);
    ew_free(c);
    *ret_counts = counts;
    return EW_OK;
}

/* Which items an update learns from: everything that is new, and of what was learned before a sample, so that it is not forgotten.
 *
 * The sample is a reservoir by hash: each old item has the key SHA-256("replay" seed known content-hash), and the n_old items with
 * the smallest keys are taken. That is an exact uniform sample without replacement (as far as SHA-256 is random), it depends neither on the order
 * of the items nor on how they came, an item that is forgotten leaves no trace in it (the sample is the one that would have been drawn without it),
 * and another update (another `known`) draws another one. n_old = ratio x new items rounded up, at least min_old, at most what is there.
 * Witnesses are old items that this update does not learn from, drawn first and the same way (with "witness" for "replay"), at most
 * a third of the old ones: what the update does to them is forgetting.
 * Pure. */
#ifndef EW_AGENTD_REPLAY_H
#define EW_AGENTD_REPLAY_H

#include "base/status.h"
#include "task/item.h"

typedef struct ew_replay_opt {
    uint64_t known;     /* order of the last item that was learned before: later ones are new */
    double ratio;       /* old items for each new one; 0 = 1, negative = none */
    uint32_t min_old;   /* 0 = 16 */
    uint32_t n_witness; /* 0 = 32; at most so many */
    uint64_t seed;
} ew_replay_opt;

typedef enum ew_replay_use {
    EW_REPLAY_NONE,
    EW_REPLAY_NEW,
    EW_REPLAY_OLD,
    EW_REPLAY_WITNESS
} ew_replay_use;

typedef struct ew_replay_counts {
    size_t n_new, n_old, n_witness, n_left; /* left: old items that take no part */
} ew_replay_counts;

/* items[n] (of the history alone: not of the validation or test part) -> ret_use[n]. */
ew_status ew_replay_choose(const ew_item *items, size_t n, const ew_replay_opt *opt, ew_replay_use *ret_use,
                           ew_replay_counts *ret_counts, ew_error *reterr) EW_MUST_CHECK;

#endif

/* Scores adapters on the items of a user's own that a trial holds out, or on any others, the way a trial does (run.h): for the comparison of a
 * new adapter with the one that is served, and for what an update does to old items.
 * Locking: one owning thread. */
#ifndef EW_RUN_HELD_H
#define EW_RUN_HELD_H

#include "base/progress.h"
#include "base/status.h"
#include "domain/trial.h"
#include "kern/kern.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "run/score.h"
#include "task/item.h"

typedef struct ew_held ew_held;

/* Splits the items of a profile as a trial of spec does: task, settings and n_history of it are read. EW_ELIMIT below 5 items.
 * model_path is borrowed. */
ew_status ew_held_new(const ew_trial_spec *spec, const char *model_path, const ew_items *items, ew_exec exec,
                      ew_held **ret_held, ew_error *reterr) EW_MUST_CHECK;
void ew_held_free(ew_held **h);

/* Opened when it is first asked for; borrowed. */
ew_status ew_held_model(ew_held *h, ew_model **ret_model, ew_error *reterr) EW_MUST_CHECK;
/* The parts, in order; borrowed. order = position in the split; rows[position] = the order that the item came with. */
const ew_item *ew_held_history(const ew_held *h, size_t *ret_n);
const ew_item *ew_held_val(const ew_held *h, size_t *ret_n);
const uint64_t *ew_held_rows(const ew_held *h);

/* adapter NULL = the plain model; rag_k 0 = without retrieval; rag_rank: enum ew_rag_rank. The n items are of any part. EW_ECANCELLED when progress says stop. */
ew_status ew_held_score(ew_held *h, ew_adapter *adapter, uint32_t rag_k, uint32_t rag_rank, const ew_item *items,
                        size_t n, const ew_progress *progress, ew_score *ret_score, ew_error *reterr) EW_MUST_CHECK;

const ew_task *ew_held_task(const ew_held *h);

#endif

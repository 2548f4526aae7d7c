/* The trivial answers that stand beside every score: the user's commonest label, the answer of the nearest history item, the first words of the
 * input. Locking: any thread. */
#ifndef EW_TASK_BASELINE_H
#define EW_TASK_BASELINE_H

#include "base/base.h"
#include "base/status.h"
#include "task/metric.h"
#include "task/task.h"

typedef enum ew_baseline {
    EW_BASELINE_MAJORITY, /* most frequent output of history (ties: the smaller string); not for EW_TASK_GENERATE */
    EW_BASELINE_NEAREST,  /* output of the BM25-nearest history item; the majority (or latest) where nothing matches */
    EW_BASELINE_FIRST8,   /* first eight words of the input; EW_TASK_GENERATE only */
    EW_BASELINE_COUNT
} ew_baseline;

const char *ew_baseline_name(ew_baseline b); /* "majority", "nearest", "first8" */
bool ew_baseline_applies(const ew_task *t, ew_baseline b);

/* Scores of every baseline on the test items of one user; *ret_scores[b] is all NAN where b does not apply. */
ew_status ew_baseline_scores(const ew_task *t, const ew_item *history, size_t n_history, const ew_item *test,
                             size_t n_test, ew_scores ret_scores[EW_BASELINE_COUNT], ew_error *reterr) EW_MUST_CHECK;

#endif

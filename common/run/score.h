/* How well a model (with or without adapter, with or without retrieval) answers a set of items: the task's metrics and the answer NLL.
 * Locking: one owning thread. */
#ifndef EW_RUN_SCORE_H
#define EW_RUN_SCORE_H

#include "base/progress.h"
#include "base/status.h"
#include "model/session.h"
#include "run/prompter.h"
#include "task/metric.h"

typedef struct ew_score {
    ew_scores scores;  /* the task's metrics */
    double primary;    /* higher is better: accuracy, ROUGE-1, minus MAE */
    double nll;        /* nats per answer token, mean over items */
    size_t n;          /* items */
    size_t prompt_tok; /* tokens of all prompts */
    size_t decode_tok; /* tokens of candidates and generated text */
    double seconds;
} ew_score;
#define EW_SCORE_NONE                                                                                                  \
    {                                                                                                                  \
        EW_SCORES_NONE, NAN, NAN, 0, 0, 0, 0                                                                           \
    }

/* Classification takes the label of the highest log-probability; generation is greedy. Items see sources of lower order only.
 * n == 0 gives NAN. EW_ECANCELLED when progress says stop. */
ew_status ew_score_items(ew_session *s, const ew_task *task, ew_prompter *p, const ew_item *items, size_t n,
                         const ew_progress *progress, ew_score *ret_score, ew_error *reterr) EW_MUST_CHECK;

/* The gate: answers are likelier and the score is not worse, beyond what one run differs from another. Of the same items. */
bool ew_score_beats(const ew_task *task, const ew_score *a, const ew_score *b);

#endif

/* Scores. All functions are pure. n = 0 gives NAN.
 * Locking: any thread. */
#ifndef EW_TASK_METRIC_H
#define EW_TASK_METRIC_H

#include "base/base.h"
#include "base/status.h"
#include "task/task.h"

typedef struct ew_prf {
    double precision, recall, f; /* 0 … 1 */
} ew_prf;

/* ROUGE as Google's rouge-score 0.1.2 with its default tokenizer: lower case, [a-z0-9]+, no stemmer. rouge1: clipped unigram overlap; rougeL:
 * longest common subsequence of the whole text. prediction and target are symmetric in f. EW_ENOMEM, EW_ELIMIT past 100,000 tokens. */
typedef struct ew_rouge {
    ew_prf rouge1, rougeL;
} ew_rouge;
ew_status ew_metric_rouge(const char *target, const char *prediction, ew_rouge *ret_rouge,
                          ew_error *reterr) EW_MUST_CHECK;

/* Share of equal strings. */
double ew_metric_accuracy(const char *const *gold, const char *const *pred, size_t n);
/* Unweighted mean of the F1 of every label that occurs in gold or pred (scikit-learn's f1_score(average="macro")). */
double ew_metric_macro_f1(const char *const *gold, const char *const *pred, size_t n);
/* Numbers; a prediction that is none counts as whichever of low and high is farther from gold (LaMP). */
double ew_metric_mae(const char *const *gold, const char *const *pred, size_t n, double low, double high);
double ew_metric_rmse(const char *const *gold, const char *const *pred, size_t n, double low, double high);

/* What a table shows for one user; NAN where the task has no such score. */
typedef struct ew_scores {
    double accuracy, macro_f1; /* CLASSIFY, ORDINAL */
    double mae, rmse;          /* ORDINAL */
    double rouge1, rougeL;     /* GENERATE: mean F over items */
} ew_scores;
/* Needs math.h where it is used. */
#define EW_SCORES_NONE                                                                                                 \
    {                                                                                                                  \
        (double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN, (double)NAN                                   \
    }
ew_status ew_metric_scores(const ew_task *t, const char *const *gold, const char *const *pred, size_t n,
                           ew_scores *ret_scores, ew_error *reterr) EW_MUST_CHECK;
/* The score that decides: accuracy, ROUGE-1, or MAE (then lower is better). */
double ew_scores_primary(const ew_task *t, const ew_scores *s, bool *ret_lower_is_better);
const char *ew_scores_primary_name(const ew_task *t);

typedef struct ew_interval {
    double mean, low, high;
} ew_interval;

/* Percentile bootstrap of the mean over users: x[n] one value per user, users drawn with replacement reps times (0 = 10000), level 0.95 for
 * 95 %. Deterministic in seed. NAN values are left out. */
ew_interval ew_bootstrap_mean(const double *x, size_t n, size_t reps, double level, uint64_t seed);
/* The mean of a[i] - b[i] over users (paired); a user where either is NAN is left out. */
ew_interval ew_bootstrap_diff(const double *a, const double *b, size_t n, size_t reps, double level, uint64_t seed);

#endif

/* Choosing the next token. All memory is taken in new; next allocates nothing.
 *
 * Order: repetition penalty -> greedy when temperature is 0 -> top-k -> softmax with temperature -> top-p -> min-p -> draw.
 * Greedy takes the largest logit, ties the lowest id. Candidates are ordered by (logit descending, id ascending), so a seed
 * gives the same tokens everywhere the logits are the same. NaN logits count as minus infinity.
 * Locking: one owning thread. */
#ifndef EW_MODEL_SAMPLER_H
#define EW_MODEL_SAMPLER_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_sampler ew_sampler;

/* Zeroed = greedy. */
typedef struct ew_sampler_opt {
    float temperature; /* 0 = greedy; [0, 100] */
    uint32_t top_k;    /* keep the k most likely; 0 = all */
    float top_p;       /* keep the smallest set whose probability reaches p; 0 or 1 = all */
    float min_p;       /* drop what is less likely than min_p times the best; 0 = nothing */
    float
        repeat_penalty; /* divides positive, multiplies negative logits of recent tokens (CTRL, 1909.05858); 0 or 1 = none */
    uint32_t repeat_last_n; /* how many recent tokens count; 0 = 64 */
    uint64_t seed;
} ew_sampler_opt;

/* n_vocab: width of the logits. EW_EINVAL names the member that is out of range. */
ew_status ew_sampler_new(const ew_sampler_opt *opt, uint32_t n_vocab, ew_sampler **ret_sampler,
                         ew_error *reterr) EW_MUST_CHECK;
void ew_sampler_free(ew_sampler **s);
/* Chooses from logits[n_vocab] (not changed) and remembers the choice for the repetition penalty. */
int32_t ew_sampler_next(ew_sampler *s, const float *logits);
/* Tells of a token that was not chosen here (the prompt's). */
void ew_sampler_accept(ew_sampler *s, int32_t id);
/* The distribution that next would draw from, without drawing: ret_prob[n_vocab], 0 for what the rules drop, sum 1; greedy puts 1 on one id.
 * Remembers nothing. With uniform and retract it serves speculative decoding (speculative.h). */
void ew_sampler_probs(ew_sampler *s, const float *logits, float *ret_prob);
/* The next number of the sampler's own stream, in [0, 1). */
double ew_sampler_uniform(ew_sampler *s);
/* Forgets the last n accepted tokens; n <= EW_SAMPLER_RETRACT_MAX and no more than were accepted since the last retraction. */
#define EW_SAMPLER_RETRACT_MAX 64u
void ew_sampler_retract(ew_sampler *s, size_t n);
/* Back to the seed, recent tokens forgotten. */
void ew_sampler_reset(ew_sampler *s);

/* The index of the largest of x[n], the lowest on ties, NaN ignored; 0 when all are NaN. */
int32_t ew_argmax(const float *x, size_t n);
/* log sum exp(logits[n]): what a logit loses to become a log-probability. Error below 3e-7; NaN when a logit is. */
double ew_log_sum_exp(const float *logits, size_t n);
/* Natural log of softmax(logits[n])[id]. */
double ew_log_prob(const float *logits, size_t n, int32_t id);

#endif

/* Speculative decoding: a small model drafts a few tokens, the large one checks them all in one pass and keeps those that it would have
 * chosen itself.
 *
 * With draft distribution q and target distribution p, both after the sampler's rules, a drafted token x is kept with probability
 * min(1, p(x) / q(x)), else one is drawn from max(0, p - q), normalised, and the rest of the draft is dropped: the tokens are distributed
 * exactly as the target's alone. Greedy is the special case of one-hot p and q: the same tokens as without a draft, up to the last bits of
 * logits that are computed in batches (kern.h says what agrees). Source: Leviathan 2023 (2211.17192), algorithm 1.
 * A draft of which hardly anything is kept is given up: from then on the target works alone, at its own speed.
 * Memory: taken in new. Locking: the thread of the two sessions. */
#ifndef EW_MODEL_SPECULATIVE_H
#define EW_MODEL_SPECULATIVE_H

#include "model/sampler.h"
#include "model/session.h"

#define EW_DRAFT_MAX 32u
#define EW_DRAFT_DEFAULT 4u

typedef struct ew_speculator ew_speculator;

/* Both sessions stand at the same position of the same text. All three are borrowed. n_draft 0 = EW_DRAFT_DEFAULT.
 * EW_EINVAL: n_draft over EW_DRAFT_MAX, positions differ, or the models do not have the same vocabulary (message says where they part). */
ew_status ew_speculator_new(ew_session *target, ew_session *draft, ew_sampler *sampler, uint32_t n_draft,
                            ew_speculator **ret_speculator, ew_error *reterr) EW_MUST_CHECK;
void ew_speculator_free(ew_speculator **s);

/* `last` is the newest token of the text, evaluated by neither. Gives the 1 … n_draft + 1 tokens that follow, at most max; the target is left
 * after all of them but the last, which is the next call's `last`. The sampler has accepted them. An end-of-text token ends a draft.
 * EW_ELIMIT when the target's context is full. */
ew_status ew_speculator_next(ew_speculator *s, int32_t last, size_t max, int32_t ret_ids[static EW_DRAFT_MAX + 1],
                             size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

/* Drafted tokens so far, and how many of them were kept. */
void ew_speculator_counts(const ew_speculator *s, uint64_t *ret_drafted, uint64_t *ret_kept);

#endif

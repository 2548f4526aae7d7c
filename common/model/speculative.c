/* Speculative decoding: one round = draft k tokens, check them in one pass of the target. */
#include "model/speculative.h"

#include <string.h>

#include "base/mem.h"
#include "token/tokenizer.h"

/* A drafted token that the draft itself holds for less likely than this is the last of its round. */
#define DRAFT_P_MIN 0.35F
/* Of so many drafted tokens at least one in GIVE_UP_SHARE is kept, or there are no more drafts. */
#define GIVE_UP_DRAFTED 48u
#define GIVE_UP_SHARE 6u

struct ew_speculator {
    ew_session *target, *draft; /* borrowed */
    ew_sampler *sampler;        /* borrowed */
    uint32_t n_draft;           /* */
    size_t V;                   /* ids that both know */
    int32_t lag[2];             /* the draft's model has not evaluated these yet; [0, n_lag) */
    size_t n_lag;               /* 0 or 1 between calls */
    bool off;                   /* the draft was left behind: no more drafts */
    int32_t ids[EW_DRAFT_MAX + 1];
    float *q;      /* [n_draft, V] the draft's distributions */
    float *p;      /* [V] the target's */
    float *logits; /* [n_draft + 1, V] of the target; its first row serves the draft before that */
    uint64_t drafted, kept;
    uint32_t recent_drafted, recent_kept; /* of the last rounds: a draft that is of no use is given up */
};

static ew_status same_vocabulary(const ew_model *a, const ew_model *b, ew_error *reterr)
{
    const ew_tokenizer *ta = ew_model_tokenizer(a);
    const ew_tokenizer *tb = ew_model_tokenizer(b);
    uint32_t Va = ew_model_config_of(a)->V;
    uint32_t Vb = ew_model_config_of(b)->V;
    if (Va != Vb) {
        return ew_fail(reterr, EW_EINVAL,
                       "the draft model has a vocabulary of %u tokens, the model one of %u. HINT: take a draft of the "
                       "same family",
                       Vb, Va);
    }
    for (uint32_t i = 0; ta != NULL && tb != NULL && i < Va; i++) {
        ew_span x = ew_tokenizer_raw(ta, (int32_t)i);
        ew_span y = ew_tokenizer_raw(tb, (int32_t)i);
        if (x.size != y.size || memcmp(x.data, y.data, x.size) != 0) {
            return ew_fail(reterr, EW_EINVAL,
                           "token %u is '%.*s' in the draft model and '%.*s' in the model: they do not share a "
                           "vocabulary",
                           i, (int)EW_MIN(y.size, 32), (const char *)y.data, (int)EW_MIN(x.size, 32),
                           (const char *)x.data);
        }
    }
    return EW_OK;
}

ew_status ew_speculator_new(ew_session *target, ew_session *draft, ew_sampler *sampler, uint32_t n_draft,
                            ew_speculator **ret_speculator, ew_error *reterr)
{
    n_draft = n_draft != 0 ? n_draft : EW_DRAFT_DEFAULT;
    if (n_draft > EW_DRAFT_MAX) {
        return ew_fail(reterr, EW_EINVAL, "a draft of %u tokens is over the limit of %u", n_draft, EW_DRAFT_MAX);
    }
    if (ew_session_pos(target) != ew_session_pos(draft)) {
        return ew_fail(reterr, EW_EINVAL, "the draft stands at token %u, the model at %u", ew_session_pos(draft),
                       ew_session_pos(target));
    }
    EW_TRY(same_vocabulary(ew_session_model(target), ew_session_model(draft), reterr));
    size_t V = ew_model_config_of(ew_session_model(target))->V;
    ew_speculator *s = ew_calloc(1, sizeof(*s));
    if (s != NULL) {
        *s = (ew_speculator){.target = target, .draft = draft, .sampler = sampler, .n_draft = n_draft, .V = V};
        s->q = ew_malloc(n_draft * V, sizeof(float)); /* V <= EW_LIMIT_VOCAB: no overflow */
        s->p = ew_malloc(V, sizeof(float));
        s->logits = ew_malloc((n_draft + 1) * V, sizeof(float));
    }
    if (s == NULL || s->q == NULL || s->p == NULL || s->logits == NULL) {
        ew_speculator_free(&s);
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for a draft of %u tokens", n_draft);
    }
    *ret_speculator = s;
    return EW_OK;
}

void ew_speculator_free(ew_speculator **ps)
{
    ew_speculator *s = *ps;
    *ps = NULL;
    if (s != NULL) {
        ew_free(s->q);
        ew_free(s->p);
        ew_free(s->logits);
        ew_free(s);
    }
}

/* A draw from weights of any positive sum; -1 when they sum to nothing. */
static int32_t draw(ew_sampler *sampler, const float *w, size_t V)
{
    double sum = 0;
    for (size_t i = 0; i < V; i++) {
        sum += (double)w[i];
    }
    double u = ew_sampler_uniform(sampler) * sum;
    int32_t last = -1;
    for (size_t i = 0; i < V; i++) {
        if (w[i] > 0) {
            last = (int32_t)i;
            u -= (double)w[i];
            if (u < 0) {
                break;
            }
        }
    }
    return last;
}

static bool ends_text(const ew_speculator *s, int32_t id)
{
    const ew_tokenizer *tok = ew_model_tokenizer(ew_session_model(s->target));
    return tok != NULL && ew_tokenizer_is_eog(tok, id);
}

/* Drafts at most max tokens after `last` into ids[1 …]. */
static ew_status make_draft(ew_speculator *s, int32_t last, size_t max, size_t *ret_k, ew_error *reterr)
{
    size_t k = 0;
    s->ids[0] = last;
    s->lag[s->n_lag++] = last;
    const int32_t *next = s->lag;
    size_t n_next = s->n_lag;
    while (k < max) {
        ew_status st = ew_session_eval(s->draft, next, n_next, s->logits, reterr);
        if (st != EW_OK) {
            ew_sampler_retract(s->sampler, k);
            s->off = true;
            return st;
        }
        s->n_lag = 0;
        float *q = s->q + k * s->V;
        ew_sampler_probs(s->sampler, s->logits, q);
        int32_t id = draw(s->sampler, q, s->V);
        ew_sampler_accept(s->sampler, id);
        s->ids[++k] = id;
        if (q[id] < DRAFT_P_MIN || ends_text(s, id)) {
            break;
        }
        next = &s->ids[k];
        n_next = 1;
    }
    ew_sampler_retract(s->sampler, k);
    *ret_k = k;
    return EW_OK;
}

/* How many of the k drafted tokens the target keeps; *ret_id is the token after them, its own. */
static size_t check_draft(ew_speculator *s, size_t k, int32_t *ret_id)
{
    for (size_t i = 0; i < k; i++) {
        const float *q = s->q + i * s->V;
        int32_t id = s->ids[i + 1];
        ew_sampler_probs(s->sampler, s->logits + i * s->V, s->p);
        if (ew_sampler_uniform(s->sampler) * (double)q[id] >= (double)s->p[id]) {
            for (size_t v = 0; v < s->V; v++) {
                s->p[v] = EW_MAX(s->p[v] - q[v], 0);
            }
            *ret_id = draw(s->sampler, s->p, s->V);
            if (*ret_id < 0) { /* p and q are the same but for rounding */
                ew_sampler_probs(s->sampler, s->logits + i * s->V, s->p);
                *ret_id = draw(s->sampler, s->p, s->V);
            }
            return i;
        }
        ew_sampler_accept(s->sampler, id);
    }
    ew_sampler_probs(s->sampler, s->logits + k * s->V, s->p);
    *ret_id = draw(s->sampler, s->p, s->V);
    return k;
}

ew_status ew_speculator_next(ew_speculator *s, int32_t last, size_t max, int32_t ret_ids[static EW_DRAFT_MAX + 1],
                             size_t *ret_n, ew_error *reterr)
{
    uint32_t pos = ew_session_pos(s->target);
    size_t room = ew_session_n_ctx(s->target) - pos; /* for last and the draft */
    size_t draft_room = ew_session_n_ctx(s->draft) - EW_MIN(ew_session_n_ctx(s->draft), pos + 1);
    size_t k = 0;
    size_t most =
        EW_MIN(EW_MIN((size_t)s->n_draft, max > 0 ? max - 1 : 0), EW_MIN(room > 0 ? room - 1 : 0, draft_room));
    s->off = s->off || most == 0;
    if (!s->off) {
        EW_TRY(make_draft(s, last, most, &k, reterr));
    } else {
        s->ids[0] = last;
    }
    EW_TRY(ew_session_eval_all(s->target, s->ids, k + 1, s->logits, reterr));
    int32_t id;
    size_t n = check_draft(s, k, &id);
    ew_sampler_accept(s->sampler, id);
    ew_session_rewind(s->target, pos + 1 + (uint32_t)n);
    if (!s->off) { /* the draft has evaluated last and k - 1 tokens */
        bool all = n == k;
        ew_session_rewind(s->draft, pos + (uint32_t)(all ? k : n + 1));
        s->n_lag = 0;
        if (all) {
            s->lag[s->n_lag++] = s->ids[k];
        }
    }
    s->drafted += k;
    s->kept += n;
    s->recent_drafted += (uint32_t)k;
    s->recent_kept += (uint32_t)n;
    if (s->recent_drafted >= GIVE_UP_DRAFTED) {
        s->off = s->off || s->recent_kept * GIVE_UP_SHARE < s->recent_drafted;
        s->recent_drafted = s->recent_kept = 0;
    }
    memcpy(ret_ids, s->ids + 1, n * sizeof(*ret_ids));
    ret_ids[n] = id;
    *ret_n = n + 1;
    return EW_OK;
}

void ew_speculator_counts(const ew_speculator *s, uint64_t *ret_drafted, uint64_t *ret_kept)
{
    *ret_drafted = s->drafted;
    *ret_kept = s->kept;
}

/* Sampling by lazy selection: candidates are a binary heap, taken out best first until a rule says enough. No sort of the whole
 * vocabulary, no allocation. */
#include "model/sampler.h"

#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"

#define LAST_N_DEFAULT 64u
#define LAST_N_MAX 65536u

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct ew_sampler {
    ew_sampler_opt opt;  /* defaults filled in */
    uint32_t n_vocab;    /* */
    ew_rng rng;          /* */
    candidate *heap;     /* [n_vocab] */
    unsigned char *seen; /* [n_vocab] marks while penalising */
    int32_t *recent;     /* ring of n_ring ids */
    size_t n_ring;       /* repeat_last_n and what may be retracted */
    size_t n_recent;     /* ids ever accepted */
};

int32_t ew_argmax(const float *x, size_t n)
{
    size_t best = 0;
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        if (!isnan(x[i]) && (!found || x[i] > x[best])) {
            best = i;
            found = true;
        }
    }
    return (int32_t)best;
}

double ew_log_sum_exp(const float *logits, size_t n)
{
    float max = logits[ew_argmax(logits, n)];
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - (double)max);
    }
    return (double)max + log(sum);
}

double ew_log_prob(const float *logits, size_t n, int32_t id)
{
    return (double)logits[id] - ew_log_sum_exp(logits, n);
}

static ew_status check_opt(const ew_sampler_opt *o, ew_error *reterr)
{
    if (!(o->temperature >= 0 && o->temperature <= 100)) {
        return ew_fail(reterr, EW_EINVAL, "temperature %g is outside 0 … 100", (double)o->temperature);
    }
    if (!(o->top_p >= 0 && o->top_p <= 1)) {
        return ew_fail(reterr, EW_EINVAL, "top-p %g is outside 0 … 1", (double)o->top_p);
    }
    if (!(o->min_p >= 0 && o->min_p <= 1)) {
        return ew_fail(reterr, EW_EINVAL, "min-p %g is outside 0 … 1", (double)o->min_p);
    }
    if (!(o->repeat_penalty >= 0 && o->repeat_penalty <= 100)) {
        return ew_fail(reterr, EW_EINVAL, "repetition penalty %g is outside 0 … 100", (double)o->repeat_penalty);
    }
    if (o->repeat_last_n > LAST_N_MAX) {
        return ew_fail(reterr, EW_EINVAL, "repetition window %u is over %u", o->repeat_last_n, LAST_N_MAX);
    }
    return EW_OK;
}

ew_status ew_sampler_new(const ew_sampler_opt *opt, uint32_t n_vocab, ew_sampler **ret_sampler, ew_error *reterr)
{
    EW_TRY(check_opt(opt, reterr));
    if (n_vocab == 0 || n_vocab > EW_LIMIT_VOCAB) {
        return ew_fail(reterr, EW_EINVAL, "a vocabulary of %u is outside 1 … %u", n_vocab, EW_LIMIT_VOCAB);
    }
    ew_sampler *s = ew_calloc(1, sizeof(*s));
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for a sampler");
    }
    s->opt = *opt;
    s->n_vocab = n_vocab;
    s->opt.repeat_last_n = opt->repeat_last_n != 0 ? opt->repeat_last_n : LAST_N_DEFAULT;
    s->opt.repeat_penalty = opt->repeat_penalty > 0 ? opt->repeat_penalty : 1;
    s->heap = ew_calloc(n_vocab, sizeof(*s->heap));
    s->seen = ew_calloc(n_vocab, 1);
    s->n_ring = s->opt.repeat_last_n + EW_SAMPLER_RETRACT_MAX;
    s->recent = ew_calloc(s->n_ring, sizeof(*s->recent));
    if (s->heap == NULL || s->seen == NULL || s->recent == NULL) {
        ew_sampler_free(&s);
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for a sampler over %u tokens", n_vocab);
    }
    ew_sampler_reset(s);
    *ret_sampler = s;
    return EW_OK;
}

void ew_sampler_free(ew_sampler **ps)
{
    ew_sampler *s = *ps;
    *ps = NULL;
    if (s != NULL) {
        ew_free(s->heap);
        ew_free(s->seen);
        ew_free(s->recent);
        ew_free(s);
    }
}

void ew_sampler_reset(ew_sampler *s)
{
    ew_rng_init(&s->rng, s->opt.seed, 0x5a3b1e);
    s->n_recent = 0;
}

void ew_sampler_accept(ew_sampler *s, int32_t id)
{
    if (id >= 0 && (uint32_t)id < s->n_vocab) {
        s->recent[s->n_recent++ % s->n_ring] = id;
    }
}

/* ---- candidates ---- */

static void fill(ew_sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        s->heap[i].logit = isnan(logits[i]) ? -INFINITY : logits[i];
        s->heap[i].id = (int32_t)i;
    }
    if (s->opt.repeat_penalty == 1.0F) {
        return;
    }
    size_t first = s->n_recent - EW_MIN(s->n_recent, s->opt.repeat_last_n);
    for (size_t i = first; i < s->n_recent; i++) {
        int32_t id = s->recent[i % s->n_ring];
        if (!s->seen[id]) {
            float *l = &s->heap[id].logit;
            *l = *l > 0 ? *l / s->opt.repeat_penalty : *l * s->opt.repeat_penalty;
            s->seen[id] = 1;
        }
    }
    for (size_t i = first; i < s->n_recent; i++) {
        s->seen[s->recent[i % s->n_ring]] = 0;
    }
}

static bool before(const candidate *a, const candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift(candidate *h, size_t n, size_t i)
{
    for (;;) {
        size_t best = i;
        for (size_t c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++) {
            best = before(&h[c], &h[best]) ? c : best;
        }
        if (best == i) {
            return;
        }
        candidate t = h[i];
        h[i] = h[best];
        h[best] = t;
        i = best;
    }
}

/* Moves the best of the first n to place n - 1. */
static candidate pop(candidate *h, size_t n)
{
    candidate best = h[0];
    h[0] = h[n - 1];
    h[n - 1] = best;
    sift(h, n - 1, 0);
    return best;
}

static int32_t greedy(const ew_sampler *s)
{
    size_t best = 0;
    for (size_t i = 1; i < s->n_vocab; i++) {
        best = before(&s->heap[i], &s->heap[best]) ? i : best;
    }
    return s->heap[best].id;
}

static double weight(const ew_sampler *s, float logit, float max)
{
    return exp(((double)logit - (double)max) / (double)s->opt.temperature);
}

/* What the rules keep: the n best candidates, of weight mass together. Number k from the best stands at heap[n_vocab - 1 - k] once it was
 * taken out; the first `popped` were. n == n_vocab: all of them, in any order. */
typedef struct kept {
    size_t n, popped;
    double mass;
    float max; /* the best logit; not finite: there is nothing to weigh, heap[0] is the choice */
} kept;

static const candidate *nth(ew_sampler *s, kept *k, size_t i)
{
    for (; k->popped <= i; k->popped++) {
        (void)pop(s->heap, s->n_vocab - k->popped);
    }
    return &s->heap[s->n_vocab - 1 - i];
}

static kept choose(ew_sampler *s)
{
    candidate *h = s->heap;
    size_t V = s->n_vocab;
    for (size_t i = V / 2; i-- > 0;) {
        sift(h, V, i);
    }
    kept k = {.max = h[0].logit};
    if (!isfinite(k.max)) {
        return k;
    }
    size_t limit = s->opt.top_k > 0 ? EW_MIN(s->opt.top_k, V) : V;
    double total = 0;
    for (size_t i = 0; i < limit; i++) {
        total += weight(s, limit < V ? nth(s, &k, i)->logit : h[i].logit, k.max);
    }
    bool top_p = s->opt.top_p > 0 && s->opt.top_p < 1;
    if (!top_p && !(s->opt.min_p > 0)) {
        k.n = limit;
        k.mass = total;
        return k;
    }
    double want = top_p ? (double)s->opt.top_p * total : (double)INFINITY;
    while (k.n < limit && k.mass < want) {
        double w = weight(s, nth(s, &k, k.n)->logit, k.max);
        if (k.n > 0 && w < (double)s->opt.min_p) {
            break;
        }
        k.mass += w;
        k.n++;
    }
    return k;
}

static int32_t draw(ew_sampler *s)
{
    kept k = choose(s);
    double u = ew_rng_f64(&s->rng) * k.mass;
    int32_t id = s->heap[0].id;
    for (size_t i = 0; i < k.n; i++) {
        const candidate *c = nth(s, &k, i);
        id = c->id;
        u -= weight(s, c->logit, k.max);
        if (u < 0) {
            break;
        }
    }
    return id;
}

void ew_sampler_probs(ew_sampler *s, const float *logits, float *ret_prob)
{
    size_t V = s->n_vocab;
    fill(s, logits);
    memset(ret_prob, 0, V * sizeof(float));
    if (s->opt.temperature <= 0) {
        ret_prob[greedy(s)] = 1;
        return;
    }
    kept k = choose(s);
    if (k.n == 0) {
        ret_prob[s->heap[0].id] = 1;
    }
    for (size_t i = 0; i < k.n; i++) {
        const candidate *c = k.n == V ? &s->heap[i] : nth(s, &k, i);
        ret_prob[c->id] = (float)(weight(s, c->logit, k.max) / k.mass);
    }
}

double ew_sampler_uniform(ew_sampler *s)
{
    return ew_rng_f64(&s->rng);
}

void ew_sampler_retract(ew_sampler *s, size_t n)
{
    EW_ASSERT(n <= s->n_recent && n <= EW_SAMPLER_RETRACT_MAX);
    s->n_recent -= n;
}

int32_t ew_sampler_next(ew_sampler *s, const float *logits)
{
    fill(s, logits);
    int32_t id = s->opt.temperature > 0 ? draw(s) : greedy(s);
    ew_sampler_accept(s, id);
    return id;
}

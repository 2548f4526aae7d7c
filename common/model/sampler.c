/* Sampling by lazy selection: one pass finds the best of every block of logits, those tell a bound above which the few best must lie,
 * and only these become candidates, a binary heap that is taken out best first until a rule says enough. No sort of the
 * vocabulary, no allocation. Plain C that compilers turn into vector code: the same bits everywhere. */
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

#define BLOCK 32      /* logits whose best is noted */
#define FIRST_BEST 64 /* candidates that are looked for at first */

struct ew_sampler {
    ew_sampler_opt opt;  /* defaults filled in */
    uint32_t n_vocab;    /* */
    ew_rng rng;          /* */
    float *own;          /* [n_vocab] logits after the penalty; NULL = there is none */
    const float *logits; /* what is chosen from: own or the caller's. NaN counts as -inf */
    float max;           /* of logits */
    float *best;         /* [n_vocab / BLOCK, rounded up] of each block */
    float *order;        /* the same, while looking for the bound */
    candidate *heap;     /* [n_vocab], of which ... */
    size_t n_heap;       /* ... so many are the best of all, exactly */
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

/* The largest, NaN left out. */
static float best_of(const float *x, size_t n)
{
    float lane[16];
    size_t i = 0;
    for (size_t j = 0; j < 16; j++) {
        lane[j] = -INFINITY;
    }
    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j]; /* NaN is not */
        }
    }
    for (; i < n; i++) {
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    }
    for (size_t j = 1; j < 16; j++) {
        lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    }
    return lane[0];
}

/* exp(-x) of x >= 0, relative error below 2e-7; a tiny number for what is far off, and for NaN. A minimax polynomial of 2^r on
 * [-1/2, 1/2]. Without a branch on floats, which would keep compilers from vectors. */
static inline float exp_minus(float x)
{
    const int32_t far = 0x42fc0000; /* 126 */
    float t = x * 1.44269504F;
    int32_t bits;
    memcpy(&bits, &t, sizeof(bits));
    bits &= INT32_MAX;
    bits = bits < far ? bits : far;
    memcpy(&t, &bits, sizeof(t));
    float n = (t + 12582912.0F) - 12582912.0F; /* 1.5 * 2^23: rounds to a whole number */
    float r = n - t;
    float p = 1.3264727266389005e-3F;
    p = p * r + 9.67151276849195e-3F;
    p = p * r + 5.550733744273004e-2F;
    p = p * r + 2.4022242083387904e-1F;
    p = p * r + 6.931469775978847e-1F;
    p = p * r + 1.0F;
    bits = (127 - (int32_t)n) * (1 << 23);
    memcpy(&t, &bits, sizeof(t));
    return p * t;
}

/* Sum of exp((x - max) / temperature). */
static double mass_of(const float *x, size_t n, float max, float temperature)
{
    double sum = 0;
    float inv = EW_MIN(1.0F / temperature, 1e30F);
    for (size_t i = 0; i < n; i += 512) {
        float w[512], lane[16] = {0};
        size_t m = EW_MIN(n - i, (size_t)512);
        for (size_t j = 0; j < m; j++) {
            w[j] = exp_minus((max - x[i + j]) * inv);
        }
        memset(w + m, 0, (512 - m) * sizeof(float));
        for (size_t j = 0; j < 512; j += 16) {
            for (size_t l = 0; l < 16; l++) {
                lane[l] += w[j + l];
            }
        }
        for (size_t l = 0; l < 16; l++) {
            sum += (double)lane[l];
        }
    }
    return sum;
}

double ew_log_sum_exp(const float *logits, size_t n)
{
    float max = best_of(logits, n);
    unsigned n_nan = 0;
    for (size_t i = 0; i < n; i++) {
        n_nan += isnan(logits[i]) ? 1 : 0;
    }
    if (n_nan > 0) {
        return (double)NAN; /* a broken model must not look like a good one */
    }
    return (double)max + log(mass_of(logits, n, max, 1));
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
    size_t n_blocks = (n_vocab + BLOCK - 1) / BLOCK;
    s->best = ew_calloc(n_blocks, sizeof(*s->best));
    s->order = ew_calloc(n_blocks, sizeof(*s->order));
    s->own = s->opt.repeat_penalty != 1.0F ? ew_calloc(n_vocab, sizeof(*s->own)) : NULL;
    s->heap = ew_calloc(n_vocab, sizeof(*s->heap));
    s->seen = ew_calloc(n_vocab, 1);
    s->n_ring = s->opt.repeat_last_n + EW_SAMPLER_RETRACT_MAX;
    s->recent = ew_calloc(s->n_ring, sizeof(*s->recent));
    if (s->heap == NULL || s->seen == NULL || s->recent == NULL || s->best == NULL || s->order == NULL ||
        (s->own == NULL && s->opt.repeat_penalty != 1.0F)) {
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
        ew_free(s->own);
        ew_free(s->best);
        ew_free(s->order);
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

/* The penalty on recent tokens, in a copy. */
static const float *penalised(ew_sampler *s, const float *logits)
{
    memcpy(s->own, logits, s->n_vocab * sizeof(*s->own));
    size_t first = s->n_recent - EW_MIN(s->n_recent, s->opt.repeat_last_n);
    for (size_t i = first; i < s->n_recent; i++) {
        int32_t id = s->recent[i % s->n_ring];
        if (!s->seen[id]) {
            float *l = &s->own[id];
            *l = *l > 0 ? *l / s->opt.repeat_penalty : *l * s->opt.repeat_penalty;
            s->seen[id] = 1;
        }
    }
    for (size_t i = first; i < s->n_recent; i++) {
        s->seen[s->recent[i % s->n_ring]] = 0;
    }
    return s->own;
}

static void fill(ew_sampler *s, const float *logits)
{
    s->logits = s->own != NULL ? penalised(s, logits) : logits;
    s->max = -INFINITY;
    s->n_heap = 0;
    for (size_t i = 0, b = 0; i < s->n_vocab; i += BLOCK, b++) {
        s->best[b] = best_of(s->logits + i, EW_MIN((size_t)BLOCK, s->n_vocab - i));
        s->max = EW_MAX(s->best[b], s->max);
    }
}

/* Puts the k largest of x[n] first, k < n; returns the k-th. Hoare's selection. */
static float kth_largest(float *x, size_t n, size_t k)
{
    size_t lo = 0, hi = n - 1, at = k - 1;
    while (lo < hi) {
        float pivot = x[lo + (hi - lo) / 2];
        size_t i = lo, j = hi;
        for (;;) {
            while (x[i] > pivot) {
                i++;
            }
            while (x[j] < pivot) {
                j--;
            }
            if (i >= j) {
                break;
            }
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        /* x[lo … i) >= pivot, x(j … hi] <= pivot, and what is between is the pivot */
        if (at < i) {
            hi = i - 1;
        } else if (at > i || i > j) {
            lo = i > j ? i : i + 1;
        } else {
            break;
        }
    }
    return x[at];
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
    for (size_t b = 0; s->max > -INFINITY; b++) {
        if (s->best[b] != s->max) {
            continue;
        }
        size_t i = b * BLOCK;
        while (s->logits[i] != s->max) {
            i++;
        }
        return (int32_t)i;
    }
    return 0;
}

/* Makes a heap of the `want` best at least: in blocks whose best is among the `want` best of blocks, all that is not below it. */
static void collect(ew_sampler *s, size_t want)
{
    size_t n_blocks = (s->n_vocab + BLOCK - 1) / BLOCK, n = 0;
    float bound = -INFINITY;
    if (want < n_blocks) {
        memcpy(s->order, s->best, n_blocks * sizeof(*s->order));
        bound = kth_largest(s->order, n_blocks, want);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        if (s->best[b] < bound) {
            continue;
        }
        for (size_t i = b * BLOCK; i < EW_MIN((size_t)s->n_vocab, (b + 1) * BLOCK); i++) {
            float l = isnan(s->logits[i]) ? -INFINITY : s->logits[i];
            if (l >= bound) {
                s->heap[n++] = (candidate){l, (int32_t)i};
            }
        }
    }
    s->n_heap = n;
    for (size_t i = n / 2; i-- > 0;) {
        sift(s->heap, n, i);
    }
}

static double weight(const ew_sampler *s, float logit, float max)
{
    return exp(((double)logit - (double)max) / (double)s->opt.temperature);
}

/* What the rules keep: the n best candidates, of weight mass together. Number k from the best stands at heap[n_heap - 1 - k] once it
 * was taken out; the first `popped` were. n == n_vocab: all of them. */
typedef struct kept {
    size_t n, popped;
    double mass;
    float max; /* the best logit; not finite: there is nothing to weigh, greedy is the choice */
} kept;

static const candidate *nth(ew_sampler *s, kept *k, size_t i)
{
    if (i >= s->n_heap) {
        collect(s, EW_MAX((size_t)FIRST_BEST, 8 * i));
        k->popped = 0;
    }
    for (; k->popped <= i; k->popped++) {
        (void)pop(s->heap, s->n_heap - k->popped);
    }
    return &s->heap[s->n_heap - 1 - i];
}

static kept choose(ew_sampler *s)
{
    size_t V = s->n_vocab;
    kept k = {.max = s->max};
    if (!isfinite(k.max)) {
        return k;
    }
    size_t limit = s->opt.top_k > 0 ? EW_MIN(s->opt.top_k, V) : V;
    bool top_p = s->opt.top_p > 0 && s->opt.top_p < 1;
    double total = 0;
    if (limit < V) {
        collect(s, limit);
        for (size_t i = 0; i < limit; i++) {
            total += weight(s, nth(s, &k, i)->logit, k.max);
        }
    } else if (top_p || !(s->opt.min_p > 0)) {
        total = mass_of(s->logits, V, k.max, s->opt.temperature);
    }
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
    int32_t id = greedy(s);
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
        ret_prob[greedy(s)] = 1;
    }
    for (size_t i = 0; i < k.n; i++) {
        const candidate all = {s->logits[i], (int32_t)i}, *c = k.n == V ? &all : nth(s, &k, i);
        ret_prob[c->id] = isnan(c->logit) ? 0 : (float)(weight(s, c->logit, k.max) / k.mass);
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

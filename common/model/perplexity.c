#include "model/perplexity.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/sampler.h"

#define N_CTX_DEFAULT 512u
#define N_CTX_MIN 8u
#define ROWS 32u /* positions whose logits are kept at once */

typedef struct work {
    ew_session *s;
    size_t V;
    uint32_t n_ctx;
    int32_t *chunk;      /* [n_ctx] */
    float *logits;       /* [ROWS, V] */
    double sum, sum_sq;  /* of the nll of scored tokens */
    ew_perplexity total; /* so far */
} work;

/* One chunk: its first half is context, the ids after it are scored. */
static ew_status run_chunk(work *w, ew_error *reterr)
{
    uint32_t first = w->n_ctx / 2; /* the row at `first` predicts the id after it */
    ew_session_reset(w->s);
    EW_TRY(ew_session_eval(w->s, w->chunk, first, NULL, reterr));
    for (uint32_t at = first; at + 1 < w->n_ctx;) {
        uint32_t rows = EW_MIN(ROWS, w->n_ctx - 1 - at);
        EW_TRY(ew_session_eval_all(w->s, w->chunk + at, rows, w->logits, reterr));
        for (uint32_t r = 0; r < rows; r++, at++) {
            double nll = -ew_log_prob(w->logits + r * w->V, w->V, w->chunk[at + 1]);
            w->sum += nll;
            w->sum_sq += nll * nll;
            w->total.n_scored++;
        }
    }
    double n = (double)w->total.n_scored;
    double mean = w->sum / n;
    w->total.n_chunks++;
    w->total.nll = mean;
    w->total.perplexity = exp(mean);
    w->total.error = w->total.perplexity * sqrt(fmax(w->sum_sq / n - mean * mean, 0) / fmax(n - 1, 1));
    return EW_OK;
}

static ew_status run_chunks(work *w, const int32_t *ids, uint64_t n_chunks, const ew_perplexity_opt *opt,
                            ew_error *reterr)
{
    for (uint64_t i = 0; i < n_chunks; i++) {
        ew_progress_info info = {.phase = "eval",
                                 .unit = "tok",
                                 .done = i * w->n_ctx,
                                 .total = n_chunks * w->n_ctx,
                                 .loss = i > 0 ? w->total.nll : (double)NAN,
                                 .left_s = (double)NAN};
        if (!ew_progress_tell(&opt->progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped after %llu of %llu chunks", (unsigned long long)i,
                           (unsigned long long)n_chunks);
        }
        memcpy(w->chunk, ids + i * w->n_ctx, w->n_ctx * sizeof(*ids));
        if (opt->bos >= 0) {
            w->chunk[0] = opt->bos;
        }
        EW_TRY(run_chunk(w, reterr));
        if (opt->each != NULL) {
            opt->each(&w->total, opt->ctx);
        }
    }
    return EW_OK;
}

ew_status ew_perplexity_run(ew_session *s, const int32_t *ids, size_t n, const ew_perplexity_opt *opt,
                            ew_perplexity *ret, ew_error *reterr)
{
    work w = {.s = s, .V = ew_model_config_of(ew_session_model(s))->V};
    w.n_ctx = opt->n_ctx != 0 ? opt->n_ctx : N_CTX_DEFAULT;
    if (w.n_ctx < N_CTX_MIN || w.n_ctx > ew_session_n_ctx(s)) {
        return ew_fail(reterr, EW_EINVAL, "chunks of %u tokens are outside %u … %u, the context", w.n_ctx, N_CTX_MIN,
                       ew_session_n_ctx(s));
    }
    if (n / 2 < w.n_ctx) {
        return ew_fail(
            reterr, EW_EINVAL,
            "%zu tokens are too few for chunks of %u: at least two are needed. HINT: give a longer text or a "
            "smaller --ctx",
            n, w.n_ctx);
    }
    uint64_t n_chunks = n / w.n_ctx;
    n_chunks = opt->max_chunks != 0 ? EW_MIN(n_chunks, opt->max_chunks) : n_chunks;
    w.chunk = ew_malloc(w.n_ctx, sizeof(*w.chunk));
    w.logits = ew_malloc(ROWS * w.V, sizeof(*w.logits));
    ew_status st = w.chunk == NULL || w.logits == NULL ? ew_fail(reterr, EW_ENOMEM, "not enough memory for the logits")
                                                       : run_chunks(&w, ids, n_chunks, opt, reterr);
    ew_free(w.chunk);
    ew_free(w.logits);
    if (st == EW_OK) {
        *ret = w.total;
    }
    return st;
}

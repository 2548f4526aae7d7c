/* Generation and label scoring on top of sessions. */
#include "model/generate.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

const char *ew_stop_reason_name(ew_stop_reason r)
{
    static const char *const names[] = {[EW_STOP_LENGTH] = "length",
                                        [EW_STOP_EOG] = "eog",
                                        [EW_STOP_STRING] = "stop",
                                        [EW_STOP_CONTEXT] = "context",
                                        [EW_STOP_CALLER] = "caller"};
    return (size_t)r < EW_COUNT(names) ? names[r] : "?";
}

/* State of one generation. */
typedef struct generation {
    ew_session *s;
    const ew_generate_opt *opt;
    const ew_tokenizer *tok; /* NULL: no text */
    ew_sampler *sampler;
    ew_speculator *speculator; /* NULL: no draft */
    float *logits;             /* [V] */
    size_t room;               /* tokens that the context takes after the prompt */
    ew_tok_stream stream;      /* */
    ew_buf pending;            /* text that may still be the start of a stop string */
    ew_buf *text;              /* the caller's, or NULL */
    ew_tokens *ids;            /* the caller's, or NULL */
    bool stopped;              /* a stop string came, or the callback said no */
    ew_stop_reason reason;     /* when stopped */
} generation;

static ew_status check_stops(const ew_generate_opt *opt, ew_error *reterr)
{
    if (opt->n_stop > EW_GENERATE_STOPS_MAX) {
        return ew_fail(reterr, EW_EINVAL, "%zu stop strings are over the limit of %d", opt->n_stop,
                       EW_GENERATE_STOPS_MAX);
    }
    for (size_t i = 0; i < opt->n_stop; i++) {
        if (opt->stop[i] == NULL || opt->stop[i][0] == '\0') {
            return ew_fail(reterr, EW_EINVAL, "stop string %zu is empty", i + 1);
        }
    }
    return EW_OK;
}

/* Hands out the first n bytes of what is pending. */
static void flush(generation *g, size_t n)
{
    if (n == 0) {
        return;
    }
    if (g->text != NULL) {
        ew_buf_add(g->text, g->pending.data, n);
    }
    if (g->opt->on_text != NULL && !g->opt->on_text(g->pending.data, n, g->opt->ctx)) {
        g->stopped = true;
        g->reason = EW_STOP_CALLER;
    }
    ew_buf_consume(&g->pending, n);
}

/* Offset of the first stop string in data, or SIZE_MAX; *ret_hold = length of the longest end that could become one. */
static size_t find_stop(const ew_generate_opt *opt, const char *data, size_t size, size_t *ret_hold)
{
    size_t hold = 0;
    for (size_t at = 0; at < size; at++) {
        for (size_t i = 0; i < opt->n_stop; i++) {
            size_t n = strlen(opt->stop[i]);
            size_t have = EW_MIN(n, size - at);
            if (memcmp(data + at, opt->stop[i], have) != 0) {
                continue;
            }
            if (have == n) {
                return at;
            }
            hold = EW_MAX(hold, size - at);
        }
    }
    *ret_hold = hold;
    return SIZE_MAX;
}

/* Text of a new token, or (id < 0) what is left at the end. */
static void push_text(generation *g, int32_t id)
{
    if (g->tok == NULL) {
        return;
    }
    if (id < 0) {
        ew_tok_stream_finish(&g->stream, &g->pending);
    } else if (g->opt->special && ew_tokenizer_is_control(g->tok, id)) {
        ew_tok_stream_finish(&g->stream, &g->pending);
        ew_span raw = ew_tokenizer_raw(g->tok, id);
        ew_buf_add(&g->pending, raw.data, raw.size);
    } else {
        ew_tok_stream_push(&g->stream, g->tok, id, &g->pending);
    }
    size_t hold = 0;
    size_t at = find_stop(g->opt, g->pending.data, g->pending.size, &hold);
    if (at != SIZE_MAX) {
        flush(g, at);
        ew_buf_clear(&g->pending);
        g->stopped = true;
        g->reason = EW_STOP_STRING;
        return;
    }
    flush(g, g->pending.size - (id < 0 ? 0 : hold));
}

static bool is_end(const generation *g, int32_t id)
{
    for (size_t i = 0; i < g->opt->n_stop_ids; i++) {
        if (g->opt->stop_ids[i] == id) {
            return true;
        }
    }
    return !g->opt->ignore_eog && g->tok != NULL && ew_tokenizer_is_eog(g->tok, id);
}

/* Takes a chosen token into the text. False: this was the end, stats->stop says why. */
static bool emit(generation *g, int32_t id, ew_generate_stats *stats, ew_error *reterr, ew_status *ret_st)
{
    if (is_end(g, id)) {
        stats->stop = EW_STOP_EOG;
        return false;
    }
    stats->n_gen_tok++;
    if (g->ids != NULL && ew_tokens_add(g->ids, id) != EW_OK) {
        *ret_st = ew_fail(reterr, EW_ENOMEM, "not enough memory for the generated text");
        return false;
    }
    push_text(g, id);
    if (g->stopped) {
        stats->stop = g->reason;
        return false;
    }
    if (stats->n_gen_tok > g->room) {
        stats->stop = EW_STOP_CONTEXT;
        return false;
    }
    if (g->opt->max_tok != 0 && stats->n_gen_tok >= g->opt->max_tok) {
        stats->stop = EW_STOP_LENGTH; /* the last token needs no evaluation */
        return false;
    }
    return true;
}

/* The sampler takes a logit that is no number only where there is none better, and an infinite one before all. */
static ew_status choose(generation *g, int32_t *ret_id, ew_error *reterr)
{
    *ret_id = ew_sampler_next(g->sampler, g->logits);
    float logit = g->logits[*ret_id];
    return isnan(logit) || logit == INFINITY
               ? ew_fail(reterr, EW_ECORRUPT, "the model gives no numbers for this text: its weights are damaged")
               : EW_OK;
}

static ew_status loop(generation *g, ew_generate_stats *stats, ew_error *reterr)
{
    ew_status st = EW_OK;
    int32_t id;
    EW_TRY(choose(g, &id, reterr));
    while (emit(g, id, stats, reterr, &st)) {
        EW_TRY(ew_session_eval(g->s, &id, 1, g->logits, reterr));
        EW_TRY(choose(g, &id, reterr));
    }
    return st;
}

static ew_status loop_drafted(generation *g, ew_generate_stats *stats, ew_error *reterr)
{
    int32_t ids[EW_DRAFT_MAX + 1];
    size_t n = 1;
    ew_status st = EW_OK;
    EW_TRY(choose(g, ids, reterr));
    for (;;) {
        uint32_t pos = ew_session_pos(g->s) - (uint32_t)(n - 1); /* before ids[0] was evaluated, if it was */
        for (size_t i = 0; i < n; i++) {
            if (!emit(g, ids[i], stats, reterr, &st)) {
                ew_session_rewind(g->s, pos + (uint32_t)i);
                ew_session_rewind(g->opt->draft, EW_MIN(ew_session_pos(g->opt->draft), pos + (uint32_t)i));
                return st;
            }
        }
        size_t max = g->opt->max_tok != 0 ? g->opt->max_tok - stats->n_gen_tok : SIZE_MAX;
        EW_TRY(ew_speculator_next(g->speculator, ids[n - 1], max, ids, &n, reterr));
    }
}

static ew_status run(generation *g, const int32_t *prompt, size_t n_prompt, ew_generate_stats *stats, ew_error *reterr)
{
    uint64_t t0 = ew_mono_ns();
    EW_TRY(ew_session_eval(g->s, prompt, n_prompt, g->logits, reterr));
    for (size_t i = 0; i < n_prompt; i++) {
        ew_sampler_accept(g->sampler, prompt[i]);
    }
    uint64_t t1 = ew_mono_ns();
    stats->n_prompt_tok = n_prompt;
    stats->prompt_s = (double)(t1 - t0) * 1e-9;
    g->room = ew_session_n_ctx(g->s) - ew_session_pos(g->s);
    if (g->opt->draft != NULL) {
        ew_status st = ew_session_eval(g->opt->draft, prompt, n_prompt, NULL, reterr);
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "the draft");
        }
        EW_TRY(ew_speculator_new(g->s, g->opt->draft, g->sampler, g->opt->n_draft, &g->speculator, reterr));
        EW_TRY(loop_drafted(g, stats, reterr));
        ew_speculator_counts(g->speculator, &stats->n_drafted, &stats->n_kept);
    } else {
        EW_TRY(loop(g, stats, reterr));
    }
    stats->gen_s = (double)(ew_mono_ns() - t1) * 1e-9;
    if (!g->stopped) {
        push_text(g, -1);
    }
    EW_TRY(ew_buf_check(&g->pending, reterr));
    return g->text != NULL ? ew_buf_check(g->text, reterr) : EW_OK;
}

ew_status ew_generate(ew_session *s, const int32_t *prompt, size_t n_prompt, const ew_generate_opt *opt,
                      ew_tokens *out_ids, ew_buf *out_text, ew_generate_stats *stats, ew_error *reterr)
{
    static const ew_generate_opt none = {0};
    const ew_model *m = ew_session_model(s);
    uint32_t V = ew_model_config_of(m)->V;
    opt = opt != NULL ? opt : &none;
    EW_TRY(check_stops(opt, reterr));
    generation g = {.s = s, .opt = opt, .tok = ew_model_tokenizer(m), .text = out_text, .ids = out_ids};
    g.stream.started = true; /* the text continues the prompt: a leading space is part of it */
    EW_TRY(ew_sampler_new(&opt->sampler, V, &g.sampler, reterr));
    g.logits = ew_malloc(V, sizeof(float));
    ew_generate_stats st = {0};
    ew_status status = g.logits == NULL ? ew_fail(reterr, EW_ENOMEM, "not enough memory for the logits")
                                        : run(&g, prompt, n_prompt, &st, reterr);
    ew_free(g.logits);
    ew_buf_release(&g.pending);
    ew_speculator_free(&g.speculator);
    ew_sampler_free(&g.sampler);
    if (status == EW_OK && stats != NULL) {
        *stats = st;
    }
    return status;
}

/* ---- labels ---- */

/* Number of leading tokens that two labels share. */
static size_t common(const ew_label *a, const ew_label *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->ids[n] == b->ids[n]) {
        n++;
    }
    return n;
}

/* rows[j] = logits after prompt + ids[0, j), what label token j is judged by, and lse[j] its log sum exp. Row 0 is the prompt's. */
typedef struct label_rows {
    float *logits; /* [longest label, V] */
    double *lse;   /* [longest label] */
    size_t V;
} label_rows;

static ew_status score_all(ew_session *s, uint32_t pos, const ew_label *labels, size_t n_labels, label_rows *rows,
                           double *ret, ew_error *reterr)
{
    const size_t V = rows->V;
    rows->lse[0] = ew_log_sum_exp(rows->logits, V);
    for (size_t i = 0; i < n_labels; i++) {
        const ew_label *l = &labels[i];
        size_t keep =
            i > 0 ? common(&labels[i - 1], l) : 0; /* rows 0 … keep are still right, where they were computed */
        if (i > 0) {
            keep = EW_MIN(keep, labels[i - 1].n - 1);
        }
        ew_session_rewind(s, pos + (uint32_t)EW_MIN(keep, l->n - 1));
        for (size_t j = keep; j + 1 < l->n; j++) {
            EW_TRY(ew_session_eval(s, &l->ids[j], 1, rows->logits + (j + 1) * V, reterr));
            rows->lse[j + 1] = ew_log_sum_exp(rows->logits + (j + 1) * V, V);
        }
        ret[i] = 0;
        for (size_t j = 0; j < l->n; j++) {
            ret[i] += (double)rows->logits[j * V + (size_t)l->ids[j]] - rows->lse[j];
        }
    }
    return EW_OK;
}

ew_status ew_score_labels(ew_session *s, const int32_t *prompt, size_t n_prompt, const ew_label *labels,
                          size_t n_labels, double *ret_log_prob, ew_error *reterr)
{
    size_t V = ew_model_config_of(ew_session_model(s))->V;
    size_t longest = 1;
    for (size_t i = 0; i < n_labels; i++) {
        if (labels[i].n == 0) {
            return ew_fail(reterr, EW_EINVAL, "label %zu has no tokens", i + 1);
        }
        for (size_t j = 0; j < labels[i].n; j++) {
            if (labels[i].ids[j] < 0 || (size_t)labels[i].ids[j] >= V) {
                return ew_fail(reterr, EW_EINVAL, "label %zu has token id %d, outside the vocabulary", i + 1,
                               labels[i].ids[j]);
            }
        }
        longest = EW_MAX(longest, labels[i].n);
    }
    size_t n_rows;
    label_rows rows = {.V = V, .lse = ew_calloc(longest, sizeof(double))};
    rows.logits = ew_size_mul(longest, V, &n_rows) ? ew_malloc(n_rows, sizeof(float)) : NULL;
    ew_status st = rows.logits == NULL || rows.lse == NULL
                       ? ew_fail(reterr, EW_ENOMEM, "not enough memory for labels of %zu tokens", longest)
                       : EW_OK;
    if (st == EW_OK) {
        ew_session_reset(s);
        st = ew_session_eval(s, prompt, n_prompt, rows.logits, reterr);
    }
    if (st == EW_OK) {
        uint32_t pos = ew_session_pos(s);
        st = score_all(s, pos, labels, n_labels, &rows, ret_log_prob, reterr);
        ew_session_rewind(s, EW_MIN(pos, ew_session_pos(s)));
    }
    ew_free(rows.logits);
    ew_free(rows.lse);
    return st;
}

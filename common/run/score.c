#include "run/score.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/generate.h"

#define GENERATION_SD 0.15 /* of one item's ROUGE-1 between runs: below its standard error a score says nothing */

typedef struct scorer {
    ew_session *s;
    const ew_task *task;
    ew_prompter *p;
    ew_tokens prompt;
    ew_tokens answer;    /* of the item, with end of text */
    ew_tokens label_ids; /* all labels one after the other */
    ew_label *labels;    /* [n_labels + 1], the last one is the item's own answer */
    double *log_prob;    /* [n_labels + 1] */
    const char **gold;   /* [n] borrowed */
    char **pred;         /* [n] */
    size_t n;
    double nll_sum;
    ew_score *out;
} scorer;

static void scorer_release(scorer *r)
{
    ew_tokens_release(&r->prompt);
    ew_tokens_release(&r->answer);
    ew_tokens_release(&r->label_ids);
    ew_free(r->labels);
    ew_free(r->log_prob);
    ew_free(r->gold);
    for (size_t i = 0; r->pred != NULL && i < r->n; i++) {
        ew_free(r->pred[i]);
    }
    ew_free(r->pred);
}

static ew_status prepare(scorer *r, ew_error *reterr)
{
    size_t n_labels = r->task->n_labels;
    r->labels = ew_calloc(n_labels + 1, sizeof(*r->labels));
    r->log_prob = ew_calloc(n_labels + 1, sizeof(*r->log_prob));
    r->gold = ew_calloc(r->n + 1, sizeof(*r->gold));
    r->pred = ew_calloc(r->n + 1, sizeof(*r->pred));
    if (r->labels == NULL || r->log_prob == NULL || r->gold == NULL || r->pred == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for scoring %zu items", r->n);
    }
    for (size_t i = 0; i < n_labels; i++) {
        size_t start = r->label_ids.n;
        EW_TRY(ew_prompter_answer(r->p, r->task->labels[i], &r->label_ids, reterr));
        r->labels[i].n = r->label_ids.n - start;
    }
    /* Only now: the array has stopped moving. */
    for (size_t i = 0, at = 0; i < n_labels; i++) {
        r->labels[i].ids = r->label_ids.id + at;
        at += r->labels[i].n;
    }
    return EW_OK;
}

static ew_status set_pred(scorer *r, size_t i, const char *text, ew_error *reterr)
{
    r->pred[i] = ew_str_dup(text);
    return r->pred[i] != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for an answer");
}

/* The labels' log-probabilities choose the answer and give the NLL of the right one. */
static ew_status classify(scorer *r, const ew_item *item, size_t i, ew_error *reterr)
{
    size_t n_labels = r->task->n_labels;
    int gold = ew_task_label(r->task, item->output);
    r->labels[n_labels] = (ew_label){.ids = r->answer.id, .n = r->answer.n};
    size_t n = n_labels + (gold < 0 ? 1 : 0);
    EW_TRY(ew_score_labels(r->s, r->prompt.id, r->prompt.n, r->labels, n, r->log_prob, reterr));
    size_t best = 0;
    for (size_t k = 0; k < n; k++) {
        r->out->decode_tok += r->labels[k].n;
        if (k < n_labels && r->log_prob[k] > r->log_prob[best]) {
            best = k;
        }
    }
    size_t right = gold < 0 ? n_labels : (size_t)gold;
    r->nll_sum -= r->log_prob[right] / (double)r->labels[right].n;
    return set_pred(r, i, r->task->labels[best], reterr);
}

static ew_status generate(scorer *r, size_t i, ew_error *reterr)
{
    static const char *const stop[] = {"\n"};
    EW_AUTO_BUF text = {0};
    EW_AUTO_BUF clean = {0};
    ew_generate_stats stats;
    r->labels[0] = (ew_label){.ids = r->answer.id, .n = r->answer.n};
    EW_TRY(ew_score_labels(r->s, r->prompt.id, r->prompt.n, r->labels, 1, r->log_prob, reterr));
    r->nll_sum -= r->log_prob[0] / (double)r->answer.n;
    /* The prompt is in the cache: only its last token is evaluated again, for its logits. */
    ew_session_rewind(r->s, (uint32_t)r->prompt.n - 1);
    const ew_generate_opt opt = {.max_tok = (uint32_t)r->task->max_answer_tok, .stop = stop, .n_stop = EW_COUNT(stop)};
    EW_TRY(ew_generate(r->s, r->prompt.id + r->prompt.n - 1, 1, &opt, NULL, &text, &stats, reterr));
    r->out->decode_tok += r->answer.n + stats.n_gen_tok;
    ew_task_clean(r->task, ew_buf_str(&text), text.size, &clean);
    EW_TRY(ew_buf_check(&clean, reterr));
    return set_pred(r, i, ew_buf_str(&clean), reterr);
}

static ew_status score_item(scorer *r, const ew_item *item, size_t i, ew_error *reterr)
{
    r->prompt.n = 0;
    r->answer.n = 0;
    r->gold[i] = item->output;
    EW_TRY(ew_prompter_prompt(r->p, item->input, item->order, &r->prompt, reterr));
    EW_TRY(ew_prompter_answer(r->p, item->output, &r->answer, reterr));
    r->out->prompt_tok += r->prompt.n;
    return r->task->kind == EW_TASK_GENERATE ? generate(r, i, reterr) : classify(r, item, i, reterr);
}

static ew_status finish(scorer *r, ew_error *reterr)
{
    bool lower_is_better = false;
    EW_TRY(ew_metric_scores(r->task, r->gold, (const char *const *)r->pred, r->n, &r->out->scores, reterr));
    double primary = ew_scores_primary(r->task, &r->out->scores, &lower_is_better);
    r->out->primary = lower_is_better ? -primary : primary;
    r->out->nll = r->nll_sum / (double)r->n;
    r->out->n = r->n;
    return EW_OK;
}

ew_status ew_score_items(ew_session *s, const ew_task *task, ew_prompter *p, const ew_item *items, size_t n,
                         const ew_progress *progress, ew_score *ret_score, ew_error *reterr)
{
    ew_score out = EW_SCORE_NONE;
    scorer r = {.s = s, .task = task, .p = p, .n = n, .out = &out};
    uint64_t begin = ew_mono_ns();
    ew_status st = n > 0 ? prepare(&r, reterr) : EW_OK;
    for (size_t i = 0; i < n && st == EW_OK; i++) {
        ew_progress_info info = {.phase = "score", .unit = "items", .done = i, .total = n, .loss = NAN, .left_s = NAN};
        if (!ew_progress_tell(progress, &info)) {
            st = ew_fail(reterr, EW_ECANCELLED, "scoring was stopped after %zu of %zu items", i, n);
            break;
        }
        st = score_item(&r, &items[i], i, reterr);
    }
    if (st == EW_OK && n > 0) {
        st = finish(&r, reterr);
    }
    scorer_release(&r);
    out.seconds = (double)(ew_mono_ns() - begin) * 1e-9;
    if (st == EW_OK) {
        *ret_score = out;
    }
    return st;
}

bool ew_score_beats(const ew_task *task, const ew_score *a, const ew_score *b)
{
    double noise = task->kind == EW_TASK_GENERATE && a->n > 0 ? GENERATION_SD / sqrt((double)a->n) : 0;
    return a->nll < b->nll && a->primary >= b->primary - noise;
}

/* LaMP's scores (eval/evaluation.py). */
#include <math.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "task/lamp_int.h"
#include "task/metric.h"

/* Both outputs of one id, stripped; borrowed. */
typedef struct pair {
    ew_span gold, pred;
} pair;

static ew_span stripped(const char *s)
{
    return ew__lamp_strip(s, strlen(s));
}

static ew_status match(const ew_lamp_answers *golds, const ew_lamp_answers *predictions, pair *ret_pairs,
                       ew_error *reterr)
{
    EW_AUTO(ew_map) by_id = NULL;
    if (ew_map_new(&by_id) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to score");
    }
    for (size_t i = 0; i < predictions->n; i++) {
        const ew_lamp_answer *a = &predictions->answer[i];
        ew_status st = ew_map_add(by_id, a->id, strlen(a->id), (void *)(uintptr_t)a->output);
        if (st != EW_OK) {
            return ew_fail(reterr, st == EW_EEXIST ? EW_EINVAL : st, "two predictions for the id '%.60s'", a->id);
        }
    }
    for (size_t i = 0; i < golds->n; i++) {
        const ew_lamp_answer *a = &golds->answer[i];
        const char *pred = ew_map_remove(by_id, a->id, strlen(a->id));
        if (pred == NULL) {
            return ew_fail(reterr, EW_EINVAL, "there is no prediction for the id '%.60s' (%zu golds, %zu predictions)",
                           a->id, golds->n, predictions->n);
        }
        ret_pairs[i] = (pair){stripped(a->output), stripped(pred)};
    }
    for (size_t i = 0; i < predictions->n && ew_map_count(by_id) != 0; i++) {
        const char *id = predictions->answer[i].id;
        if (ew_map_get(by_id, id, strlen(id)) != NULL) {
            return ew_fail(reterr, EW_EINVAL, "the predicted id '%.60s' is not among the golds", id);
        }
    }
    return EW_OK;
}

/* --- labels --- */
static size_t label_of(const ew_lamp_info *info, ew_span s)
{
    size_t i = 0;
    while (i < info->n_labels && (strlen(info->labels[i]) != s.size || memcmp(info->labels[i], s.data, s.size) != 0)) {
        i++;
    }
    return i; /* n_labels: none, one more class */
}

#define LABELS_MAX 16

static void score_labels(const ew_lamp_info *info, const pair *p, size_t n, ew_lamp_scores *s)
{
    size_t both[LABELS_MAX] = {0}, either[LABELS_MAX] = {0}, right = 0;
    EW_ASSERT(info->n_labels < LABELS_MAX);
    for (size_t i = 0; i < n; i++) {
        size_t gold = label_of(info, p[i].gold), pred = label_of(info, p[i].pred);
        right += gold == pred;
        both[gold] += gold == pred;
        either[gold]++;
        either[pred]++;
    }
    double sum = 0;
    for (size_t k = 0; k < info->n_labels; k++) { /* 0 for a label that nobody gave */
        sum += either[k] != 0 ? 2.0 * (double)both[k] / (double)either[k] : 0;
    }
    s->accuracy = (double)right / (double)n;
    s->macro_f1 = sum / (double)info->n_labels;
}

/* --- ratings --- */
/* Python's float() of a finite decimal. */
static bool number_of(ew_span s, double *ret)
{
    char text[64];
    size_t n = 0;
    const char *p = s.data;
    for (size_t i = 0; i < s.size; i++) {
        bool digit = p[i] >= '0' && p[i] <= '9';
        if (p[i] == '_' && i > 0 && i + 1 < s.size && p[i - 1] >= '0' && p[i - 1] <= '9' && p[i + 1] >= '0' &&
            p[i + 1] <= '9') {
            continue;
        }
        if ((!digit && strchr("+-.eE", p[i]) == NULL) || n + 1 == sizeof(text)) {
            return false;
        }
        if (p[i] == '+' && i == 0) {
            if (s.size < 2 || p[1] == '+' || p[1] == '-') {
                return false;
            }
            continue;
        }
        text[n++] = p[i];
    }
    text[n] = '\0';
    return ew_str_to_f64(text, ret);
}

static ew_status score_ratings(const pair *p, const ew_lamp_answers *golds, ew_lamp_scores *s, ew_error *reterr)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < golds->n; i++) {
        double gold, pred;
        if (!number_of(p[i].gold, &gold)) {
            return ew_fail(reterr, EW_EINVAL, "the gold of '%.60s' is no number: '%.40s'", golds->answer[i].id,
                           golds->answer[i].output);
        }
        if (!number_of(p[i].pred, &pred)) {
            pred = fabs(1 - gold) > fabs(5 - gold) ? 1 : 5;
        }
        sum += fabs(gold - pred);
        squares += (gold - pred) * (gold - pred);
    }
    s->mae = sum / (double)golds->n;
    s->rmse = sqrt(squares / (double)golds->n);
    return EW_OK;
}

/* --- texts --- */
static ew_status score_texts(const pair *p, size_t n, ew_lamp_scores *s, ew_error *reterr)
{
    double one = 0, lcs = 0;
    for (size_t i = 0; i < n; i++) {
        EW_AUTO_BUF gold = {0};
        EW_AUTO_BUF pred = {0};
        ew_rouge r;
        ew_buf_add(&gold, p[i].gold.data, p[i].gold.size);
        ew_buf_add(&pred, p[i].pred.data, p[i].pred.size);
        EW_TRY(ew_buf_check(&gold, reterr));
        EW_TRY(ew_buf_check(&pred, reterr));
        EW_TRY(ew_metric_rouge(ew_buf_str(&gold), ew_buf_str(&pred), &r, reterr));
        one += r.rouge1.f;
        lcs += r.rougeL.f;
    }
    s->rouge1 = one / (double)n;
    s->rougeL = lcs / (double)n;
    return EW_OK;
}

ew_status ew_lamp_score(const ew_lamp_answers *golds, const ew_lamp_answers *predictions, ew_lamp_scores *ret_scores,
                        ew_error *reterr)
{
    const ew_lamp_info *info = ew_lamp_info_of(golds->task);
    const double none = (double)NAN;
    ew_lamp_scores s = {golds->n, none, none, none, none, none, none};
    if (golds->task != predictions->task &&
        !(golds->task == EW_LAMP_2N && predictions->task == EW_LAMP_2)) { /* no category among the predictions */
        return ew_fail(reterr, EW_EINVAL, "the golds are of %s, the predictions of %s", info->file_name,
                       ew_lamp_info_of(predictions->task)->file_name);
    }
    if (golds->n == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is nothing to score: no golds");
    }
    pair *p = ew_calloc(golds->n, sizeof(*p));
    ew_status st = p != NULL ? match(golds, predictions, p, reterr) : ew_fail(reterr, EW_ENOMEM, "no memory to score");
    if (st == EW_OK && info->kind == EW_LAMP_LABELS) {
        score_labels(info, p, golds->n, &s);
    } else if (st == EW_OK) {
        st = info->kind == EW_LAMP_RATING ? score_ratings(p, golds, &s, reterr) : score_texts(p, golds->n, &s, reterr);
    }
    ew_free(p);
    EW_TRY(st);
    *ret_scores = s;
    return EW_OK;
}

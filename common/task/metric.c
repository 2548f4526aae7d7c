#include "task/metric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

#define ROUGE_TOK_MAX 100000u
#define ROUGE_CELLS_MAX 1000000000u
#define BOOTSTRAP_REPS 10000

/* --- ROUGE (google-research/rouge, rouge_scorer.py and tokenize.py, version 0.1.2) --- */
typedef struct tokens {
    uint32_t *id; /* equal words have equal numbers */
    size_t n, cap;
} tokens;

static void tokens_release(tokens *t)
{
    ew_free(t->id);
}

static ew_status add_token(tokens *t, ew_map *words, const char *word, size_t size)
{
    uintptr_t id = (uintptr_t)ew_map_get(words, word, size);
    if (id == 0) {
        id = ew_map_count(words) + 1;
        EW_TRY(ew_map_add(words, word, size, (void *)id));
    }
    EW_TRY(ew_grow((void **)&t->id, &t->cap, t->n + 1, sizeof(*t->id), ROUGE_TOK_MAX));
    t->id[t->n++] = (uint32_t)id;
    return EW_OK;
}

/* Lower case as Python's str.lower does it, as far as [a-z0-9] can come out: ASCII, the Kelvin sign (k), capital I with dot (i and a mark). Returns the bytes
 * read; *c = the letter or digit, or 0 for anything that ends a word; *ends = the word ends behind c. */
static size_t lower_next(const unsigned char *s, char *c, bool *ends)
{
    *ends = false;
    *c = 0;
    if (s[0] == 0xE2 && s[1] == 0x84 && s[2] == 0xAA) {
        *c = 'k';
        return 3;
    }
    if (s[0] == 0xC4 && s[1] == 0xB0) {
        *c = 'i';
        *ends = true;
        return 2;
    }
    if (s[0] >= 'A' && s[0] <= 'Z') {
        *c = (char)(s[0] + 32);
    } else if ((s[0] >= 'a' && s[0] <= 'z') || (s[0] >= '0' && s[0] <= '9')) {
        *c = (char)s[0];
    }
    return 1;
}

static ew_status tokenize(const char *text, ew_map *words, tokens *t)
{
    EW_AUTO_BUF word = {0};
    const unsigned char *s = (const unsigned char *)text;
    for (bool more = true; more;) {
        char c = 0;
        bool ends = false;
        more = *s != '\0';
        if (more) {
            s += lower_next(s, &c, &ends);
        }
        if (c != 0) {
            ew_buf_addc(&word, c);
        }
        if ((c == 0 || ends) && word.size != 0) {
            EW_TRY(add_token(t, words, word.data, word.size));
            ew_buf_clear(&word);
        }
        EW_TRY(word.status);
    }
    return EW_OK;
}

static ew_prf prf(size_t hits, size_t n_target, size_t n_prediction)
{
    ew_prf r = {0};
    r.precision = (double)hits / (double)EW_MAX(n_prediction, (size_t)1);
    r.recall = (double)hits / (double)EW_MAX(n_target, (size_t)1);
    double sum = r.precision + r.recall;
    r.f = sum > 0.0 ? 2.0 * r.precision * r.recall / sum : 0.0;
    return r;
}

/* Clipped common unigrams. n_words = number of different words. */
static ew_status overlap(const tokens *a, const tokens *b, size_t n_words, size_t *ret_hits)
{
    uint32_t *left = ew_calloc(n_words + 1, sizeof(*left));
    if (left == NULL) {
        return EW_ENOMEM;
    }
    size_t hits = 0;
    for (size_t i = 0; i < a->n; i++) {
        left[a->id[i]]++;
    }
    for (size_t i = 0; i < b->n; i++) {
        if (left[b->id[i]] != 0) {
            left[b->id[i]]--;
            hits++;
        }
    }
    ew_free(left);
    *ret_hits = hits;
    return EW_OK;
}

static ew_status lcs(const tokens *a, const tokens *b, size_t *ret_length)
{
    if ((uint64_t)a->n * b->n > ROUGE_CELLS_MAX) {
        return EW_ELIMIT;
    }
    uint32_t *row = ew_calloc(b->n + 1, sizeof(*row));
    if (row == NULL) {
        return EW_ENOMEM;
    }
    for (size_t i = 0; i < a->n; i++) {
        uint32_t diagonal = 0;
        for (size_t j = 0; j < b->n; j++) {
            uint32_t above = row[j + 1];
            row[j + 1] = a->id[i] == b->id[j] ? diagonal + 1 : EW_MAX(above, row[j]);
            diagonal = above;
        }
    }
    *ret_length = row[b->n];
    ew_free(row);
    return EW_OK;
}

static ew_status rouge(const char *target, const char *prediction, ew_map *words, ew_rouge *ret_rouge)
{
    EW_CLEANUP(tokens_release) tokens t = {0};
    EW_CLEANUP(tokens_release) tokens p = {0};
    EW_TRY(tokenize(target, words, &t));
    EW_TRY(tokenize(prediction, words, &p));
    size_t hits, length;
    EW_TRY(overlap(&t, &p, ew_map_count(words), &hits));
    EW_TRY(lcs(&t, &p, &length));
    ret_rouge->rouge1 = prf(hits, t.n, p.n);
    ret_rouge->rougeL = prf(length, t.n, p.n);
    return EW_OK;
}

ew_status ew_metric_rouge(const char *target, const char *prediction, ew_rouge *ret_rouge, ew_error *reterr)
{
    EW_AUTO(ew_map) words = NULL;
    ew_rouge r = {{0, 0, 0}, {0, 0, 0}};
    ew_status st = ew_map_new(&words);
    st = st == EW_OK ? rouge(target, prediction, words, &r) : st;
    if (st == EW_ELIMIT) {
        return ew_fail(reterr, st, "ROUGE: a text has more than %u words, or both are very long", ROUGE_TOK_MAX);
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory to compare two texts");
    }
    *ret_rouge = r;
    return EW_OK;
}

/* --- labels and numbers --- */
double ew_metric_accuracy(const char *const *gold, const char *const *pred, size_t n)
{
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        right += strcmp(gold[i], pred[i]) == 0;
    }
    return n != 0 ? (double)right / (double)n : (double)NAN;
}

typedef struct label_count {
    const char *label;
    size_t both, gold, pred;
} label_count;

static label_count *label_find(label_count *c, size_t *n, const char *label)
{
    for (size_t i = 0; i < *n; i++) {
        if (strcmp(c[i].label, label) == 0) {
            return &c[i];
        }
    }
    c[*n] = (label_count){.label = label};
    return &c[(*n)++];
}

double ew_metric_macro_f1(const char *const *gold, const char *const *pred, size_t n)
{
    label_count *c = n != 0 ? ew_calloc(n * 2, sizeof(*c)) : NULL;
    if (c == NULL) {
        return (double)NAN;
    }
    size_t n_labels = 0;
    for (size_t i = 0; i < n; i++) {
        label_find(c, &n_labels, gold[i])->gold++;
        label_find(c, &n_labels, pred[i])->pred++;
        if (strcmp(gold[i], pred[i]) == 0) {
            label_find(c, &n_labels, gold[i])->both++;
        }
    }
    double sum = 0.0;
    for (size_t i = 0; i < n_labels; i++) {
        sum += 2.0 * (double)c[i].both / (double)(c[i].gold + c[i].pred);
    }
    ew_free(c);
    return sum / (double)n_labels;
}

/* |gold - pred| of item i. */
static double distance(const char *gold, const char *pred, double low, double high)
{
    double g, p;
    if (!ew_str_to_f64(gold, &g)) {
        return (double)NAN;
    }
    if (!ew_str_to_f64(pred, &p)) {
        p = fabs(g - low) > fabs(g - high) ? low : high;
    }
    return fabs(g - p);
}

double ew_metric_mae(const char *const *gold, const char *const *pred, size_t n, double low, double high)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += distance(gold[i], pred[i], low, high);
    }
    return n != 0 ? sum / (double)n : (double)NAN;
}

double ew_metric_rmse(const char *const *gold, const char *const *pred, size_t n, double low, double high)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = distance(gold[i], pred[i], low, high);
        sum += d * d;
    }
    return n != 0 ? sqrt(sum / (double)n) : (double)NAN;
}

static void label_range(const ew_task *t, double *low, double *high)
{
    *low = (double)INFINITY;
    *high = -(double)INFINITY;
    for (size_t i = 0; i < t->n_labels; i++) {
        double v;
        if (ew_str_to_f64(t->labels[i], &v)) {
            *low = EW_MIN(*low, v);
            *high = EW_MAX(*high, v);
        }
    }
}

ew_status ew_metric_scores(const ew_task *t, const char *const *gold, const char *const *pred, size_t n,
                           ew_scores *ret_scores, ew_error *reterr)
{
    ew_scores s = EW_SCORES_NONE;
    if (t->kind == EW_TASK_GENERATE) {
        double r1 = 0.0, rl = 0.0;
        for (size_t i = 0; i < n; i++) {
            ew_rouge r;
            EW_TRY(ew_metric_rouge(gold[i], pred[i], &r, reterr));
            r1 += r.rouge1.f;
            rl += r.rougeL.f;
        }
        if (n != 0) {
            s.rouge1 = r1 / (double)n;
            s.rougeL = rl / (double)n;
        }
    } else {
        s.accuracy = ew_metric_accuracy(gold, pred, n);
        s.macro_f1 = ew_metric_macro_f1(gold, pred, n);
    }
    if (t->kind == EW_TASK_ORDINAL) {
        double low, high;
        label_range(t, &low, &high);
        s.mae = ew_metric_mae(gold, pred, n, low, high);
        s.rmse = ew_metric_rmse(gold, pred, n, low, high);
    }
    *ret_scores = s;
    return EW_OK;
}

double ew_scores_primary(const ew_task *t, const ew_scores *s, bool *ret_lower_is_better)
{
    if (ret_lower_is_better != NULL) {
        *ret_lower_is_better = t->kind == EW_TASK_ORDINAL;
    }
    return t->kind == EW_TASK_GENERATE ? s->rouge1 : t->kind == EW_TASK_ORDINAL ? s->mae : s->accuracy;
}

const char *ew_scores_primary_name(const ew_task *t)
{
    return t->kind == EW_TASK_GENERATE ? "ROUGE-1" : t->kind == EW_TASK_ORDINAL ? "MAE" : "accuracy";
}

/* --- bootstrap --- */
static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Quantile of sorted values with linear interpolation (type 7 of Hyndman and Fan 1996). */
static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= n) {
        return sorted[n - 1];
    }
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

static ew_interval bootstrap(const double *x, size_t n, size_t reps, double level, uint64_t seed)
{
    ew_interval r = {(double)NAN, (double)NAN, (double)NAN};
    reps = reps != 0 ? reps : BOOTSTRAP_REPS;
    double *means = n != 0 ? ew_calloc(reps, sizeof(*means)) : NULL;
    if (means == NULL) {
        return r;
    }
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
    }
    r.mean = sum / (double)n;
    ew_rng rng;
    ew_rng_init(&rng, seed, UINT64_C(0xb007));
    for (size_t k = 0; k < reps; k++) {
        double s = 0.0;
        for (size_t i = 0; i < n; i++) {
            s += x[ew_rng_below(&rng, n)];
        }
        means[k] = s / (double)n;
    }
    qsort(means, reps, sizeof(*means), by_value);
    r.low = quantile(means, reps, (1.0 - level) / 2.0);
    r.high = quantile(means, reps, (1.0 + level) / 2.0);
    ew_free(means);
    return r;
}

static ew_interval over_pairs(const double *a, const double *b, size_t n, size_t reps, double level, uint64_t seed)
{
    ew_interval r = {(double)NAN, (double)NAN, (double)NAN};
    double *x = n != 0 ? ew_calloc(n, sizeof(*x)) : NULL;
    if (x == NULL) {
        return r;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        double v = a[i] - (b != NULL ? b[i] : 0.0);
        if (!isnan(v)) {
            x[kept++] = v;
        }
    }
    r = bootstrap(x, kept, reps, level, seed);
    ew_free(x);
    return r;
}

ew_interval ew_bootstrap_mean(const double *x, size_t n, size_t reps, double level, uint64_t seed)
{
    return over_pairs(x, NULL, n, reps, level, seed);
}

ew_interval ew_bootstrap_diff(const double *a, const double *b, size_t n, size_t reps, double level, uint64_t seed)
{
    return over_pairs(a, b, n, reps, level, seed);
}

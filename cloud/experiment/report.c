/* Reading and grouping of trials, and the three plain formats. The page is in report_html.c. */
#include "experiment/report_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/term.h"
#include "text/json.h"

#define BOOTSTRAP_SEED 20240603u

double ew__row_measure(const ew_row *row, const char *name)
{
    json_t *v = json_object_get(row->measures, name);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static ew_status read_text(const json_t *t, const char *where, const char *key, char *dst, size_t size,
                           ew_error *reterr)
{
    const char *s = NULL;
    EW_TRY(ew_json_get_str(t, where, key, &s, reterr));
    (void)ew_str_copy(dst, size, s);
    return EW_OK;
}

static ew_status read_row(const json_t *t, size_t i, ew_row *row, ew_error *reterr)
{
    char where[32];
    int64_t seed = 0;
    (void)snprintf(where, sizeof(where), "trial %zu", i);
    EW_TRY(read_text(t, where, "trial", row->trial, sizeof(row->trial), reterr));
    EW_TRY(read_text(t, where, "device", row->device, sizeof(row->device), reterr));
    EW_TRY(read_text(t, where, "task", row->task, sizeof(row->task), reterr));
    EW_TRY(read_text(t, where, "user", row->user, sizeof(row->user), reterr));
    EW_TRY(read_text(t, where, "model", row->model, sizeof(row->model), reterr));
    EW_TRY(read_text(t, where, "variant", row->variant, sizeof(row->variant), reterr));
    EW_TRY(read_text(t, where, "method", row->method, sizeof(row->method), reterr));
    EW_TRY(read_text(t, where, "state", row->state, sizeof(row->state), reterr));
    EW_TRY(ew_json_get_i64(t, where, "n_history", 0, INT64_MAX, &row->n_history, reterr));
    /* 0 means all of it, except to a method that uses none. */
    row->n_history = strcmp(row->method, "none") == 0 ? 0 : row->n_history == 0 ? -1 : row->n_history;
    EW_TRY(ew_json_get_i64(t, where, "seed", INT64_MIN, INT64_MAX, &seed, reterr));
    row->seed = (uint64_t)seed;
    row->measures = json_object_get(t, "measures");
    row->detail = json_string_value(json_object_get(t, "detail"));
    row->done = strcmp(row->state, "done") == 0 && json_is_object(row->measures);
    return EW_OK;
}

static int compare_text(const char *a, const char *b, int before)
{
    return before != 0 ? before : strcmp(a, b);
}

int ew__method_rank(const char *method)
{
    static const char *const order[] = {"none", "lora",       "rag",  "lora+rag", "prompt",   "prefix",
                                        "ia3",  "bottleneck", "full", "mezo",     "blockwise"};
    for (size_t i = 0; i < EW_COUNT(order); i++) {
        if (strcmp(order[i], method) == 0) {
            return (int)i;
        }
    }
    return (int)EW_COUNT(order);
}

int ew__cell_compare(const ew_row *a, const ew_row *b)
{
    int c = compare_text(a->task, b->task, 0);
    c = compare_text(a->model, b->model, c);
    c = compare_text(a->variant, b->variant, c);
    c = c != 0 ? c : ew__method_rank(a->method) - ew__method_rank(b->method);
    c = compare_text(a->method, b->method, c);
    if (c == 0 && a->n_history != b->n_history) {
        /* "all" (-1) after every number */
        uint64_t x = (uint64_t)a->n_history;
        uint64_t y = (uint64_t)b->n_history;
        c = x < y ? -1 : 1;
    }
    return c;
}

static int compare_rows(const void *pa, const void *pb)
{
    const ew_row *a = pa;
    const ew_row *b = pb;
    int c = ew__cell_compare(a, b);
    c = compare_text(a->user, b->user, c);
    c = compare_text(a->device, b->device, c);
    if (c == 0 && a->seed != b->seed) {
        c = a->seed < b->seed ? -1 : 1;
    }
    return compare_text(a->trial, b->trial, c);
}

/* One value per user of rows [begin, end), which are sorted by user: the mean over the user's devices and seeds of the measure, less
 * base when there is one (the trial itself scored the untouched model on the same items). */
static size_t per_user(const ew_row *rows, size_t n, const char *measure, const char *base, double *ret_values)
{
    size_t n_users = 0;
    for (size_t i = 0; i < n;) {
        double sum = 0;
        size_t k = 0;
        size_t j = i;
        for (; j < n && strcmp(rows[j].user, rows[i].user) == 0; j++) {
            double v = rows[j].done ? ew__row_measure(&rows[j], measure) : (double)NAN;
            v -= base != NULL ? ew__row_measure(&rows[j], base) : 0;
            if (isfinite(v)) {
                sum += v;
                k++;
            }
        }
        if (k > 0) {
            ret_values[n_users++] = sum / (double)k;
        }
        i = j;
    }
    return n_users;
}

static ew_interval summarise(double *values, size_t n)
{
    ew_interval none = {NAN, NAN, NAN};
    return n > 0 ? ew_bootstrap_mean(values, n, 0, 0.95, BOOTSTRAP_SEED) : none;
}

static void fill_cell(ew_cell *c, double *tmp)
{
    static const char *const baselines[EW_N_BASELINES] = {"baseline.majority", "baseline.nearest", "baseline.first8"};
    c->n_users = per_user(c->rows, c->n_rows, "test.score", NULL, tmp);
    c->score = summarise(tmp, c->n_users);
    c->nll = summarise(tmp, per_user(c->rows, c->n_rows, "test.nll", NULL, tmp));
    c->score_gain = summarise(tmp, per_user(c->rows, c->n_rows, "test.score", "base.test.score", tmp));
    c->nll_gain = summarise(tmp, per_user(c->rows, c->n_rows, "test.nll", "base.test.nll", tmp));
    for (size_t b = 0; b < EW_N_BASELINES; b++) {
        c->baseline[b] = summarise(tmp, per_user(c->rows, c->n_rows, baselines[b], NULL, tmp)).mean;
    }
    c->seconds = summarise(tmp, per_user(c->rows, c->n_rows, "seconds", NULL, tmp)).mean;
    c->predicted_seconds = summarise(tmp, per_user(c->rows, c->n_rows, "seconds.predicted", NULL, tmp)).mean;
    c->ram = summarise(tmp, per_user(c->rows, c->n_rows, "ram.peak_bytes", NULL, tmp)).mean;
    c->predicted_ram = summarise(tmp, per_user(c->rows, c->n_rows, "ram.predicted_bytes", NULL, tmp)).mean;
    c->tok_per_s = summarise(tmp, per_user(c->rows, c->n_rows, "tune.tok_per_s", NULL, tmp)).mean;
}

#define AMOUNTS_MAX 64

/* The numbers of items that the trials ask for, "all" apart. */
static size_t amounts_of(const ew_report *r, int64_t ret[static AMOUNTS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_rows; i++) {
        size_t k = 0;
        while (k < n && ret[k] != r->rows[i].n_history) {
            k++;
        }
        if (k == n && n < AMOUNTS_MAX && r->rows[i].n_history > 0) {
            ret[n++] = r->rows[i].n_history;
        }
    }
    return n;
}

/* user false: the cell alone. */
static ew_status note_row(ew_map *seen, const ew_row *row, bool user, int64_t amount, bool *ret_new, ew_error *reterr)
{
    char key[512];
    int n =
        snprintf(key, sizeof(key), "%s|%s|%s|%s|%" PRId64 "|%s|%s|%" PRIu64, row->task, row->model, row->variant,
                 row->method, amount, user ? row->user : "", user ? row->device : "", user ? row->seed : UINT64_C(0));
    static char there;
    ew_status st = ew_map_add(seen, key, (size_t)EW_MIN(n, (int)sizeof(key) - 1), &there);
    *ret_new = st == EW_OK;
    return st == EW_ENOMEM ? ew_fail(reterr, st, "out of memory for a report of %zu trials", (size_t)1) : EW_OK;
}

static bool has_cell(const ew_map *seen, const ew_row *row, int64_t amount)
{
    char key[512];
    int n = snprintf(key, sizeof(key), "%s|%s|%s|%s|%" PRId64 "|||0", row->task, row->model, row->variant, row->method,
                     amount);
    return ew_map_get(seen, key, (size_t)EW_MIN(n, (int)sizeof(key) - 1)) != NULL;
}

/* A user with 20 items of history has no trial with 32 of them: the one with all of it stands there (report.h). */
static ew_status stand_in(ew_report *r, ew_error *reterr)
{
    EW_AUTO(ew_map) seen = NULL;
    int64_t amount[AMOUNTS_MAX];
    const size_t n = r->n_rows, n_amounts = amounts_of(r, amount);
    bool fresh;
    ew_row *rows = ew_calloc(EW_MAX(n * (1 + n_amounts), (size_t)1), sizeof(*rows));
    if (rows == NULL || ew_map_new(&seen) != EW_OK) {
        ew_free(rows);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report of %zu trials", n);
    }
    memcpy(rows, r->rows, n * sizeof(*rows));
    ew_free(r->rows);
    r->rows = rows;
    for (size_t i = 0; i < n; i++) {
        EW_TRY(note_row(seen, &rows[i], true, rows[i].n_history, &fresh, reterr));
        EW_TRY(note_row(seen, &rows[i], false, rows[i].n_history, &fresh, reterr));
    }
    for (size_t i = 0; i < n; i++) {
        const double all = rows[i].done && rows[i].n_history < 0 ? ew__row_measure(&rows[i], "n.history") : (double)NAN;
        for (size_t k = 0; isfinite(all) && k < n_amounts; k++) {
            /* Only where others have such a trial: a cell of short histories alone would be another question. */
            if ((double)amount[k] < all || !has_cell(seen, &rows[i], amount[k])) {
                continue;
            }
            EW_TRY(note_row(seen, &rows[i], true, amount[k], &fresh, reterr));
            if (fresh) {
                rows[r->n_rows] = rows[i];
                rows[r->n_rows].n_history = amount[k];
                rows[r->n_rows++].stands = true;
            }
        }
    }
    return EW_OK;
}

static ew_status group(ew_report *r, ew_error *reterr)
{
    EW_TRY(stand_in(r, reterr));
    qsort(r->rows, r->n_rows, sizeof(*r->rows), compare_rows);
    double *tmp = ew_calloc(EW_MAX(r->n_rows, (size_t)1), sizeof(*tmp));
    r->cells = ew_calloc(EW_MAX(r->n_rows, (size_t)1), sizeof(*r->cells));
    if (tmp == NULL || r->cells == NULL) {
        ew_free(tmp);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report of %zu trials", r->n_rows);
    }
    for (size_t i = 0; i < r->n_rows;) {
        size_t j = i + 1;
        while (j < r->n_rows && ew__cell_compare(&r->rows[i], &r->rows[j]) == 0) {
            j++;
        }
        ew_cell *c = &r->cells[r->n_cells++];
        c->rows = &r->rows[i];
        c->n_rows = j - i;
        fill_cell(c, tmp);
        i = j;
    }
    ew_free(tmp);
    return EW_OK;
}

ew_status ew_report_new(const char *name, const char *note, const json_t *trials, ew_report **ret_report,
                        ew_error *reterr)
{
    if (!json_is_array(trials)) {
        return ew_fail(reterr, EW_ECORRUPT, "the trials of a report should be a JSON array, got %s",
                       ew_json_kind(trials));
    }
    EW_AUTO(ew_report) r = ew_calloc(1, sizeof(*r));
    size_t n = json_array_size(trials);
    if (r == NULL || (r->rows = ew_calloc(EW_MAX(n, (size_t)1), sizeof(*r->rows))) == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report of %zu trials", n);
    }
    r->name = ew_str_dup(name);
    r->note = ew_str_dup(note != NULL ? note : "");
    r->trials = json_incref(json_array_get(trials, 0) != NULL ? (json_t *)(uintptr_t)trials : NULL);
    if (r->name == NULL || r->note == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report");
    }
    for (size_t i = 0; i < n; i++) {
        EW_TRY(read_row(json_array_get(trials, i), i, &r->rows[i], reterr));
        r->n_rows++;
        if (r->rows[i].done) {
            r->n_done++;
        } else if (strcmp(r->rows[i].state, "failed") == 0) {
            r->n_failed++;
        }
    }
    EW_TRY(group(r, reterr));
    *ret_report = r;
    r = NULL;
    return EW_OK;
}

void ew_report_free(ew_report **r)
{
    if (r != NULL && *r != NULL) {
        ew_free((*r)->rows);
        ew_free((*r)->cells);
        ew_free((*r)->name);
        ew_free((*r)->note);
        json_decref((*r)->trials);
        ew_free(*r);
        *r = NULL;
    }
}

size_t ew_report_n_done(const ew_report *r)
{
    return r->n_done;
}

size_t ew_report_n_failed(const ew_report *r)
{
    return r->n_failed;
}

const char *ew__history_text(int64_t n_history, char dst[static 24])
{
    if (n_history < 0) {
        return "all";
    }
    if (n_history == 0) {
        return "–";
    }
    (void)snprintf(dst, 24, "%" PRId64, n_history);
    return dst;
}

static void cell_interval(ew_table *t, ew_interval v, const char *fmt_sign)
{
    if (!isfinite(v.mean)) {
        ew_table_cell(t, "–");
    } else if (fmt_sign[0] == '+') {
        ew_table_cellf(t, "%+.3f [%+.3f, %+.3f]", v.mean, v.low, v.high);
    } else {
        ew_table_cellf(t, "%.3f [%.3f, %.3f]", v.mean, v.low, v.high);
    }
}

static void cell_number(ew_table *t, const char *fmt, double v)
{
    if (isfinite(v)) {
        char text[32];
        /* fmt is one of the literals below */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(text, sizeof(text), fmt, v);
#pragma GCC diagnostic pop
        ew_table_cell(t, text);
    } else {
        ew_table_cell(t, "–");
    }
}

ew_status ew__report_scores(const ew_report *r, ew_table **ret_table, ew_error *reterr)
{
    static const char *const titles[] = {"task",
                                         "model",
                                         "variant",
                                         "method",
                                         "history",
                                         "users",
                                         "score [95 %]",
                                         "gain over base [95 %]",
                                         "answer NLL [95 %]",
                                         "NLL change [95 %]",
                                         "majority",
                                         "nearest",
                                         "first 8"};
    EW_AUTO(ew_table) t = NULL;
    if (ew_table_new(&t) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a table");
    }
    for (size_t i = 0; i < EW_COUNT(titles); i++) {
        ew_table_column(t, titles[i], i < 4 ? EW_ALIGN_LEFT : EW_ALIGN_RIGHT);
    }
    for (size_t i = 0; i < r->n_cells; i++) {
        const ew_cell *c = &r->cells[i];
        char history[24];
        ew_table_row(t);
        ew_table_cell(t, c->rows->task);
        ew_table_cell(t, c->rows->model);
        ew_table_cell(t, c->rows->variant);
        ew_table_cell(t, c->rows->method);
        ew_table_cell(t, ew__history_text(c->rows->n_history, history));
        ew_table_cellf(t, "%zu", c->n_users);
        cell_interval(t, c->score, "");
        cell_interval(t, c->score_gain, "+");
        cell_interval(t, c->nll, "");
        cell_interval(t, c->nll_gain, "+");
        for (size_t b = 0; b < EW_N_BASELINES; b++) {
            cell_number(t, "%.3f", c->baseline[b]);
        }
    }
    EW_TRY(ew_table_check(t, reterr));
    *ret_table = t;
    t = NULL;
    return EW_OK;
}

ew_status ew__report_costs(const ew_report *r, ew_table **ret_table, ew_error *reterr)
{
    static const char *const titles[] = {"task",      "variant",      "method",    "history", "seconds",
                                         "predicted", "peak RAM MiB", "predicted", "error",   "learning tok/s"};
    EW_AUTO(ew_table) t = NULL;
    if (ew_table_new(&t) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a table");
    }
    for (size_t i = 0; i < EW_COUNT(titles); i++) {
        ew_table_column(t, titles[i], i < 3 ? EW_ALIGN_LEFT : EW_ALIGN_RIGHT);
    }
    for (size_t i = 0; i < r->n_cells; i++) {
        const ew_cell *c = &r->cells[i];
        char history[24];
        ew_table_row(t);
        ew_table_cell(t, c->rows->task);
        ew_table_cell(t, c->rows->variant);
        ew_table_cell(t, c->rows->method);
        ew_table_cell(t, ew__history_text(c->rows->n_history, history));
        cell_number(t, "%.1f", c->seconds);
        cell_number(t, "%.1f", c->predicted_seconds);
        cell_number(t, "%.1f", c->ram / (double)EW_MIB);
        cell_number(t, "%.1f", c->predicted_ram / (double)EW_MIB);
        cell_number(t, "%+.1f %%", 100 * (c->predicted_ram / c->ram - 1));
        cell_number(t, "%.0f", c->tok_per_s);
    }
    EW_TRY(ew_table_check(t, reterr));
    *ret_table = t;
    t = NULL;
    return EW_OK;
}

static const char reading[] = "Scores are means over users with 95 % intervals over resampled users; gains are paired "
                              "with the untouched model on the same "
                              "items (NLL: lower is better). Baselines: the user's majority label, the BM25-nearest "
                              "history item's answer, the first eight words.";

/* Sentences for every task where the best cell does not pass the best trivial baseline. */
void ew__report_findings(const ew_report *r, ew_buf *out)
{
    static const char *const names[EW_N_BASELINES] = {"the majority label", "copying the nearest history item",
                                                      "the first eight words"};
    for (size_t i = 0; i < r->n_cells;) {
        const ew_cell *best = &r->cells[i];
        size_t b_best = EW_N_BASELINES;
        double baseline = -INFINITY;
        size_t j = i;
        for (; j < r->n_cells && strcmp(r->cells[j].rows->task, r->cells[i].rows->task) == 0; j++) {
            const ew_cell *c = &r->cells[j];
            if (isfinite(c->score.mean) && !(c->score.mean <= best->score.mean)) {
                best = c;
            }
            for (size_t b = 0; b < EW_N_BASELINES; b++) {
                if (c->baseline[b] > baseline) {
                    baseline = c->baseline[b];
                    b_best = b;
                }
            }
        }
        if (b_best < EW_N_BASELINES && isfinite(best->score.mean)) {
            ew_buf_addf(out, "%s: the best cell (%s, %s) scores %.3f; %s scores %.3f, so the model %s it.\n",
                        best->rows->task, best->rows->variant, best->rows->method, best->score.mean, names[b_best],
                        baseline,
                        best->score.low > baseline    ? "passes"
                        : best->score.mean > baseline ? "is above, but its interval includes,"
                                                      : "LOSES to");
        }
        i = j;
    }
}

static ew_status tables(const ew_report *r, void (*print)(const ew_table *t, ew_buf *out), ew_buf *out,
                        ew_error *reterr)
{
    EW_AUTO(ew_table) scores = NULL;
    EW_AUTO(ew_table) costs = NULL;
    EW_TRY(ew__report_scores(r, &scores, reterr));
    EW_TRY(ew__report_costs(r, &costs, reterr));
    print(scores, out);
    ew_buf_addf(out, "\n%s\n\n", reading);
    ew__report_findings(r, out);
    ew_buf_adds(out, "\n");
    print(costs, out);
    return ew_buf_check(out, reterr);
}

ew_status ew_report_markdown(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    ew_buf_addf(out, "# %s\n\n%zu trials finished, %zu failed.\n%s%s\n\n", r->name, r->n_done, r->n_failed,
                r->note[0] != '\0' ? "\n" : "", r->note);
    return tables(r, ew_table_markdown, out, reterr);
}

ew_status ew_report_text(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    return tables(r, ew_table_text, out, reterr);
}

/* The union of the measures' names over all trials, sorted: the CSV's last columns. */
static json_t *measure_names(const ew_report *r)
{
    json_t *names = json_object();
    for (size_t i = 0; i < r->n_rows; i++) {
        const char *key;
        json_t *value;
        json_object_foreach(r->rows[i].measures, key, value)
        {
            if (json_is_number(value)) {
                (void)json_object_set_new(names, key, json_true());
            }
        }
    }
    return names;
}

ew_status ew_report_csv(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    static const char *const fields[] = {"trial",   "device", "task",      "user", "model",
                                         "variant", "method", "n_history", "seed", "state"};
    EW_AUTO(ew_table) t = NULL;
    EW_AUTO_JSON names = measure_names(r);
    const char *key;
    json_t *value;
    if (names == NULL || ew_table_new(&t) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a table");
    }
    for (size_t i = 0; i < EW_COUNT(fields); i++) {
        ew_table_column(t, fields[i], EW_ALIGN_LEFT);
    }
    json_object_foreach(names, key, value)
    {
        ew_table_column(t, key, EW_ALIGN_RIGHT);
    }
    ew_table_column(t, "detail", EW_ALIGN_LEFT);
    for (size_t i = 0; i < r->n_rows; i++) {
        const ew_row *row = &r->rows[i];
        if (row->stands) {
            continue;
        }
        const char *const texts[] = {row->trial, row->device,  row->task,  row->user,
                                     row->model, row->variant, row->method};
        ew_table_row(t);
        for (size_t k = 0; k < EW_COUNT(texts); k++) {
            ew_table_cell(t, texts[k]);
        }
        if (row->n_history < 0) {
            ew_table_cell(t, "all");
        } else {
            ew_table_cellf(t, "%" PRId64, row->n_history);
        }
        ew_table_cellf(t, "%" PRIu64, row->seed);
        ew_table_cell(t, row->state);
        json_object_foreach(names, key, value)
        {
            double v = ew__row_measure(row, key);
            if (isfinite(v)) {
                ew_table_cellf(t, "%.9g", v);
            } else {
                ew_table_cell(t, "");
            }
        }
        ew_table_cell(t, row->detail != NULL ? row->detail : "");
    }
    EW_TRY(ew_table_check(t, reterr));
    ew_table_csv(t, out);
    return ew_buf_check(out, reterr);
}

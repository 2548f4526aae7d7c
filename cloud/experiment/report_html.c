/* The report as one HTML page: no script, no link, no font from elsewhere. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "experiment/plot.h"
#include "experiment/report_int.h"

#define SERIES_MAX 64

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<style>\n"
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 "
    "1rem}\n"
    "h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;font-size:13px;"
    "font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid color-mix(in srgb,currentColor "
    "18%,transparent);text-align:right;"
    "white-space:nowrap}\n"
    "th:nth-child(-n+4),td:nth-child(-n+4){text-align:left}.scroll{overflow-x:auto}.plots{display:flex;flex-wrap:wrap;"
    "gap:1rem}\n"
    ".plots svg{max-width:min(100%,640px);height:auto;flex:1 1 440px}.note{opacity:.75}li{margin:.2rem "
    "0}\n</style>\n<title>";

/* CSV of a table split into cells; our own cells hold no line breaks, quotes are undone. */
static void html_table(const ew_table *t, ew_buf *out)
{
    EW_AUTO_BUF csv = {0};
    EW_AUTO_BUF cell = {0};
    ew_table_csv(t, &csv);
    const char *tag = "th";
    bool quoted = false;
    ew_buf_adds(out, "<div class=\"scroll\"><table>\n<tr>");
    for (const char *p = ew_buf_str(&csv); *p != '\0'; p++) {
        if (*p == '"') {
            if (quoted && p[1] == '"') {
                ew_buf_addc(&cell, *p++);
            } else {
                quoted = !quoted;
            }
        } else if (!quoted && (*p == ',' || *p == '\n')) {
            ew_buf_addf(out, "<%s>", tag);
            ew_xml_escape(ew_buf_str(&cell), out);
            ew_buf_addf(out, "</%s>", tag);
            ew_buf_clear(&cell);
            if (*p == '\n') {
                tag = "td";
                ew_buf_adds(out, p[1] != '\0' ? "</tr>\n<tr>" : "</tr>\n");
            }
        } else if (*p != '\r') {
            ew_buf_addc(&cell, *p);
        }
    }
    ew_buf_adds(out, "</table></div>\n");
}

/* Rooms for the plots of one task; names are built here because series borrow them. */
typedef struct canvas {
    ew_plot_series series[SERIES_MAX];
    char names[SERIES_MAX][80];
    char labels[SERIES_MAX][64];
    ew_plot_point *points; /* one per cell of the task */
    size_t n_points;
    size_t n_series;
    const char *categories[SERIES_MAX];
    char category_text[SERIES_MAX][24];
    int64_t category[SERIES_MAX];
    size_t n_categories;
} canvas;

static size_t category_of(canvas *cv, int64_t n_history)
{
    size_t i = 0;
    while (i < cv->n_categories && cv->category[i] != n_history) {
        i++;
    }
    if (i == cv->n_categories && i < SERIES_MAX) {
        cv->category[i] = n_history;
        cv->categories[i] = ew__history_text(n_history, cv->category_text[i]);
        cv->n_categories++;
    }
    return i;
}

/* The data amounts of a task in ascending order, "all" last: the x axis of the method plots. */
static void collect_categories(canvas *cv, const ew_cell *cells, size_t n)
{
    for (;;) {
        uint64_t next = UINT64_MAX;
        bool found = false;
        for (size_t i = 0; i < n; i++) {
            uint64_t h = (uint64_t)cells[i].rows->n_history;
            bool above = cv->n_categories == 0 || h > (uint64_t)cv->category[cv->n_categories - 1];
            if (cells[i].rows->n_history != 0 && above && (!found || h < next)) {
                next = h;
                found = true;
            }
        }
        if (!found || cv->n_categories >= SERIES_MAX) {
            return;
        }
        (void)category_of(cv, (int64_t)next);
    }
}

/* One colour per method, one kind of line per model and variant: both are read off without the legend. */
static void style_series(const ew_cell *cells, size_t i, ew_plot_series *s)
{
    unsigned dash = 0;
    for (size_t k = 1; k <= i; k++) {
        const ew_row *a = cells[k - 1].rows;
        const ew_row *b = cells[k].rows;
        dash += strcmp(a->variant, b->variant) != 0 || strcmp(a->model, b->model) != 0;
    }
    s->dash = dash;
    s->style = (unsigned)ew__method_rank(cells[i].rows->method) + 1;
}

static void name_series(const ew_cell *cells, size_t n, size_t i, char *dst, size_t size)
{
    const ew_row *r = cells[i].rows;
    bool models = strcmp(cells[0].rows->model, cells[n - 1].rows->model) != 0;
    (void)snprintf(dst, size, "%.12s %.8s%s%.24s", r->method, r->variant, models ? " " : "", models ? r->model : "");
}

static ew_plot_point point_of(double x, ew_interval v)
{
    return (ew_plot_point){.x = x, .y = v.mean, .low = v.low, .high = v.high};
}

/* Series per (variant, method). Method none has no history: it is drawn across the whole axis. */
static void fill_by_history(canvas *cv, const ew_cell *cells, size_t n, bool nll)
{
    cv->n_series = 0;
    cv->n_points = 0;
    for (size_t i = 0; i < n && cv->n_series < SERIES_MAX;) {
        const ew_row *first = cells[i].rows;
        ew_plot_series *s = &cv->series[cv->n_series];
        name_series(cells, n, i, cv->names[cv->n_series], sizeof(cv->names[0]));
        *s = (ew_plot_series){.name = cv->names[cv->n_series], .points = cv->points + cv->n_points, .line = true};
        style_series(cells, i, s);
        for (; i < n && strcmp(cells[i].rows->method, first->method) == 0 &&
               strcmp(cells[i].rows->variant, first->variant) == 0 && strcmp(cells[i].rows->model, first->model) == 0;
             i++) {
            ew_interval v = nll ? cells[i].nll : cells[i].score;
            if (cells[i].rows->n_history == 0) {
                for (size_t k = 0; k < cv->n_categories; k++) {
                    cv->points[cv->n_points++] = point_of((double)k, (ew_interval){v.mean, NAN, NAN});
                }
            } else {
                cv->points[cv->n_points++] = point_of((double)category_of(cv, cells[i].rows->n_history), v);
            }
        }
        s->n_points = (size_t)(cv->points + cv->n_points - s->points);
        cv->n_series++;
    }
}

static void fill_by_ram(canvas *cv, const ew_cell *cells, size_t n)
{
    fill_by_history(cv, cells, 0, false);
    for (size_t i = 0; i < n;) {
        const ew_row *first = cells[i].rows;
        if (cv->n_series >= SERIES_MAX) {
            return;
        }
        ew_plot_series *s = &cv->series[cv->n_series];
        name_series(cells, n, i, cv->names[cv->n_series], sizeof(cv->names[0]));
        *s = (ew_plot_series){.name = cv->names[cv->n_series], .points = cv->points + cv->n_points, .line = false};
        style_series(cells, i, s);
        for (; i < n && strcmp(cells[i].rows->method, first->method) == 0 &&
               strcmp(cells[i].rows->variant, first->variant) == 0 && strcmp(cells[i].rows->model, first->model) == 0;
             i++) {
            cv->points[cv->n_points++] = point_of(cells[i].ram / (double)EW_MIB, cells[i].score);
        }
        s->n_points = (size_t)(cv->points + cv->n_points - s->points);
        cv->n_series++;
    }
}

static void add_plots(canvas *cv, const char *task, const ew_cell *cells, size_t n, ew_buf *out)
{
    char title[96];
    cv->n_categories = 0;
    collect_categories(cv, cells, n);
    ew_buf_adds(out, "<div class=\"plots\">\n");
    for (int nll = 0; nll < 2; nll++) {
        fill_by_history(cv, cells, n, nll != 0);
        (void)snprintf(title, sizeof(title), "%s: %s against data amount", task, nll ? "answer NLL" : "score");
        ew_plot_svg(
            &(ew_plot){.title = title,
                       .x_label = "items of the user's history",
                       .y_label = nll ? "answer NLL, nats per token (lower is better)" : "score (higher is better)",
                       .x_scale = EW_PLOT_CATEGORY,
                       .categories = cv->categories,
                       .n_categories = cv->n_categories,
                       .series = cv->series,
                       .n_series = cv->n_series},
            out);
    }
    fill_by_ram(cv, cells, n);
    (void)snprintf(title, sizeof(title), "%s: score against peak RAM", task);
    ew_plot_svg(&(ew_plot){.title = title,
                           .x_label = "measured peak RAM, MiB",
                           .y_label = "score (higher is better)",
                           .x_scale = EW_PLOT_LINEAR,
                           .series = cv->series,
                           .n_series = cv->n_series},
                out);
    ew_buf_adds(out, "</div>\n");
}

static ew_status add_tasks(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    canvas *cv = ew_calloc(1, sizeof(*cv));
    ew_plot_point *points = ew_calloc(r->n_cells + 1, SERIES_MAX * sizeof(*points));
    if (cv == NULL || points == NULL) {
        ew_free(cv);
        ew_free(points);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the plots of %zu cells", r->n_cells);
    }
    cv->points = points;
    for (size_t i = 0; i < r->n_cells;) {
        size_t j = i + 1;
        while (j < r->n_cells && strcmp(r->cells[j].rows->task, r->cells[i].rows->task) == 0) {
            j++;
        }
        ew_buf_adds(out, "<h2>");
        ew_xml_escape(r->cells[i].rows->task, out);
        ew_buf_adds(out, "</h2>\n");
        add_plots(cv, r->cells[i].rows->task, &r->cells[i], j - i, out);
        i = j;
    }
    ew_free(points);
    ew_free(cv);
    return EW_OK;
}

static ew_status add_all_trials(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    EW_AUTO(ew_table) t = NULL;
    static const char *const titles[] = {"device", "task",  "variant", "method", "user",  "history",
                                         "seed",   "state", "score",   "NLL",    "detail"};
    if (ew_table_new(&t) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a table");
    }
    for (size_t i = 0; i < EW_COUNT(titles); i++) {
        ew_table_column(t, titles[i], EW_ALIGN_LEFT);
    }
    for (size_t i = 0; i < r->n_rows; i++) {
        if (r->rows[i].stands) {
            continue;
        }
        const ew_row *row = &r->rows[i];
        char history[24];
        ew_table_row(t);
        ew_table_cell(t, row->device);
        ew_table_cell(t, row->task);
        ew_table_cell(t, row->variant);
        ew_table_cell(t, row->method);
        ew_table_cell(t, row->user);
        ew_table_cell(t, ew__history_text(row->n_history, history));
        ew_table_cellf(t, "%llu", (unsigned long long)row->seed);
        ew_table_cell(t, row->state);
        static const char *const measures[] = {"test.score", "test.nll"};
        for (size_t k = 0; k < EW_COUNT(measures); k++) {
            double v = ew__row_measure(row, measures[k]);
            if (isfinite(v)) {
                ew_table_cellf(t, "%.3f", v);
            } else {
                ew_table_cell(t, "–");
            }
        }
        ew_table_cell(t, row->detail != NULL ? row->detail : "");
    }
    EW_TRY(ew_table_check(t, reterr));
    ew_buf_addf(out, "<details><summary>All %zu trials</summary>\n", json_array_size(r->trials));
    html_table(t, out);
    ew_buf_adds(out, "</details>\n");
    return EW_OK;
}

static void add_findings(const ew_report *r, ew_buf *out)
{
    EW_AUTO_BUF text = {0};
    ew__report_findings(r, &text);
    ew_buf_adds(out, "<h2>Against the trivial baselines</h2>\n<ul>\n<li>");
    for (const char *p = ew_buf_str(&text); *p != '\0'; p++) {
        if (*p == '\n') {
            ew_buf_adds(out, p[1] != '\0' ? "</li>\n<li>" : "");
        } else {
            char one[2] = {*p, '\0'};
            ew_xml_escape(one, out);
        }
    }
    ew_buf_adds(out, "</li>\n</ul>\n");
}

ew_status ew_report_html(const ew_report *r, ew_buf *out, ew_error *reterr)
{
    EW_AUTO(ew_table) scores = NULL;
    EW_AUTO(ew_table) costs = NULL;
    EW_TRY(ew__report_scores(r, &scores, reterr));
    EW_TRY(ew__report_costs(r, &costs, reterr));
    ew_buf_adds(out, head);
    ew_xml_escape(r->name, out);
    ew_buf_adds(out, "</title></head><body>\n<h1>");
    ew_xml_escape(r->name, out);
    ew_buf_addf(out, "</h1>\n<p>%zu trials finished, %zu failed. ", r->n_done, r->n_failed);
    ew_xml_escape(r->note, out);
    ew_buf_adds(out, "</p>\n");
    EW_TRY(add_tasks(r, out, reterr));
    ew_buf_adds(out, "<h2>Scores</h2>\n");
    html_table(scores, out);
    ew_buf_adds(out, "<p class=\"note\">Means over users with 95 % intervals over resampled users; gains and changes "
                     "are paired with the "
                     "untouched model on the same items. NLL: nats per answer token, lower is better.</p>\n");
    add_findings(r, out);
    ew_buf_adds(out, "<h2>Costs, predicted and measured</h2>\n");
    html_table(costs, out);
    EW_TRY(add_all_trials(r, out, reterr));
    ew_buf_adds(out, "</body></html>\n");
    return ew_buf_check(out, reterr);
}

/* What report.c and report_html.c share. */
#ifndef EW_EXPERIMENT_REPORT_INT_H
#define EW_EXPERIMENT_REPORT_INT_H

#include "experiment/report.h"
#include "sys/term.h"
#include "task/metric.h"

#define EW_N_BASELINES 3

typedef struct ew_row {
    char trial[40];
    char device[65];
    char task[33];
    char user[80];
    char model[129];
    char variant[17];
    char method[17];
    char state[17];
    int64_t n_history; /* items; 0 = the method uses none, -1 = all */
    uint64_t seed;
    bool done;
    bool stands;        /* a copy of the trial with all of the history, which is no more than n_history items */
    json_t *measures;   /* borrowed from the report's trials */
    const char *detail; /* borrowed, or NULL */
} ew_row;

/* All trials of one (task, model, variant, method, history). */
typedef struct ew_cell {
    const ew_row *rows; /* sorted by user */
    size_t n_rows;
    size_t n_users; /* with a score */
    ew_interval score, score_gain, nll, nll_gain;
    double baseline[EW_N_BASELINES]; /* majority, nearest, first 8 words; NAN = does not apply */
    double seconds, predicted_seconds, ram, predicted_ram, tok_per_s;
} ew_cell;

struct ew_report {
    char *name;
    char *note;
    json_t *trials; /* keeps the rows' borrowed parts alive */
    ew_row *rows;
    size_t n_rows, n_done, n_failed;
    ew_cell *cells;
    size_t n_cells;
};

double ew__row_measure(const ew_row *row, const char *name);
int ew__cell_compare(const ew_row *a, const ew_row *b);
/* In the order of ew_method's names as tables show them: none 0, lora 1, rag 2, lora+rag 3, ... */
int ew__method_rank(const char *method);
const char *ew__history_text(int64_t n_history, char dst[static 24]);
ew_status ew__report_scores(const ew_report *r, ew_table **ret_table, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__report_costs(const ew_report *r, ew_table **ret_table, ew_error *reterr) EW_MUST_CHECK;
void ew__report_findings(const ew_report *r, ew_buf *out);

#endif

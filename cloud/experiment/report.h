/* From finished trials to what people read: CSV, a Markdown table, and one HTML page that opens without a network.
 *
 * Input is the JSON array that the operator's verb `experiment.results` returns, one object per trial:
 *   {"trial": "…", "device": "…", "task": "…", "user": "…", "model": "…", "variant": "q8_0", "method": "lora",
 *    "n_history": 32 (0 = all), "seed": 1, "state": "done", "detail": "", "measures": {"test.score": 0.71, …}}
 * with the measures of run/run.h, one number each (repeats are averaged).
 *
 * Where some trials of the grid name a number of items that is not below the user's whole history, the trial with all of it stands for them too
 * (they are not run twice); the CSV has it once.
 *
 * Means are over users (the seeds of a user are averaged first) with percentile-bootstrap 95 % intervals over resampled users;
 * differences against method `none` are paired by (device, user, seed). The bootstrap is seeded: the same trials give the same bytes.
 * Locking: one owning thread. */
#ifndef EW_EXPERIMENT_REPORT_H
#define EW_EXPERIMENT_REPORT_H

#include <jansson.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct ew_report ew_report;

/* Reads and groups the trials. name and note (one paragraph, may be NULL) go to the page's head. EW_ECORRUPT names the trial. */
ew_status ew_report_new(const char *name, const char *note, const json_t *trials, ew_report **ret_report,
                        ew_error *reterr) EW_MUST_CHECK;
void ew_report_free(ew_report **r);

size_t ew_report_n_done(const ew_report *r);
size_t ew_report_n_failed(const ew_report *r);

/* One line per trial: every field and every measure that any trial has. */
ew_status ew_report_csv(const ew_report *r, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* The table of cells (task, model, variant, method, history) and the table of costs. */
ew_status ew_report_markdown(const ew_report *r, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* The same tables aligned for a terminal. */
ew_status ew_report_text(const ew_report *r, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Self-contained page: tables, plots of score and NLL against data amount per method, score against RAM, all trials. */
ew_status ew_report_html(const ew_report *r, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;

#endif

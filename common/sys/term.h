/* What a person sees: progress, numbers, tables. Progress goes to stderr, results to stdout: this module writes only where
 * it is told. Locking: a progress meter may be told from any one thread at a time. */
#ifndef EW_SYS_TERM_H
#define EW_SYS_TERM_H

#include <stdio.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/progress.h"
#include "base/status.h"

/* --- progress --- */
typedef struct ew_term_progress ew_term_progress;

/* Draws on f: a bar that redraws itself on a terminal, else a plain line about every 5 s. Work under 2 s draws nothing. f must outlive it.
 * stop (may be NULL) is asked at each call, so that Ctrl-C reaches the work. EW_ENOMEM. */
ew_status ew_term_progress_new(FILE *f, const char *label, bool (*stop)(void),
                               ew_term_progress **ret_progress) EW_MUST_CHECK;
/* Finishes the line. */
void ew_term_progress_free(ew_term_progress **t);
/* The object to hand to library calls; borrowed, valid until free. */
const ew_progress *ew_term_progress_get(ew_term_progress *t);
/* The text of one state, as drawn without a bar: "train: 1200/5000 tok (24%), 310 tok/s, loss 2.413, 12 s left". */
void ew_term_progress_text(const ew_progress_info *info, double rate_per_s, double left_s, ew_buf *out);

/* --- numbers --- */
/* "950", "12.3k", "4.5M"; returns dst. */
char *ew_str_count(char *dst, size_t size, double n);
/* "0.42 s", "12 s", "3 min 05 s", "2 h 10 min"; returns dst. */
char *ew_str_seconds(char *dst, size_t size, double seconds);

/* --- tables --- */
typedef struct ew_table ew_table;

typedef enum ew_align {
    EW_ALIGN_LEFT,
    EW_ALIGN_RIGHT
} ew_align;

/* A table without columns. */
ew_status ew_table_new(ew_table **ret_table) EW_MUST_CHECK;
void ew_table_free(ew_table **t);
/* All columns before the first row. */
void ew_table_column(ew_table *t, const char *title, ew_align align);
/* Starts a row; cells follow in order, missing ones are empty. */
void ew_table_row(ew_table *t);
void ew_table_cell(ew_table *t, const char *text);
void ew_table_cellf(ew_table *t, const char *fmt, ...) EW_PRINTF(2, 3);
size_t ew_table_rows(const ew_table *t);
/* Out of memory or a cell too many is remembered and told here. */
ew_status ew_table_check(const ew_table *t, ew_error *reterr) EW_MUST_CHECK;
/* Aligned by display width (UTF-8: one column per code point). */
void ew_table_text(const ew_table *t, ew_buf *out);
void ew_table_markdown(const ew_table *t, ew_buf *out);
/* RFC 4180, quotes where needed. */
void ew_table_csv(const ew_table *t, ew_buf *out);

#endif

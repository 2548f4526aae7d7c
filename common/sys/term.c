#include "sys/term.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"

#define QUIET_NS 2000000000ull
#define LINE_NS 5000000000ull
#define BAR_NS 100000000ull
#define BAR_CELLS 24

/* --- numbers --- */

char *ew_str_count(char *dst, size_t size, double n)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t i = 0;
    while (fabs(n) >= 999.5 && i + 1 < EW_COUNT(units)) {
        n /= 1000;
        i++;
    }
    int digits = i == 0 ? (fabs(n) < 10 && n != floor(n) ? 1 : 0) : (fabs(n) < 99.95 ? 1 : 0);
    (void)snprintf(dst, size, "%.*f%s", digits, n, units[i]);
    return dst;
}

char *ew_str_seconds(char *dst, size_t size, double s)
{
    if (!isfinite(s)) {
        (void)snprintf(dst, size, "?");
    } else if (s < 10) {
        (void)snprintf(dst, size, "%.*f s", s < 0.995 ? 2 : 1, s);
    } else if (s < 59.5) {
        (void)snprintf(dst, size, "%.0f s", s);
    } else if (s < 3570) {
        unsigned t = (unsigned)(s + 0.5);
        (void)snprintf(dst, size, "%u min %02u s", t / 60, t % 60);
    } else {
        uint64_t t = (uint64_t)(fmin(s, 1e15) / 60 + 0.5);
        (void)snprintf(dst, size, "%" PRIu64 " h %02u min", t / 60, (unsigned)(t % 60));
    }
    return dst;
}

/* --- progress --- */

struct ew_term_progress {
    FILE *f;
    char label[64];
    bool tty;
    bool drawn;           /* the cursor stands on an unfinished bar */
    bool (*stop)(void);   /* NULL = never */
    ew_progress progress; /* fn and ctx = this */
    char phase[32];       /* copies: what a callback is given may be gone after it; "" = none yet */
    char unit[16];
    uint64_t start_ns;     /* of the phase */
    uint64_t start_done;   /* done at the phase's first call: resumed work */
    uint64_t last_ns;      /* last drawn */
    bool shown;            /* a line of this phase was drawn */
    ew_progress_info last; /* of the last call */
};

static void add_amount(ew_buf *out, uint64_t n, const char *unit)
{
    char text[32];
    bool bytes = ew_str_eq(unit, "B");
    ew_buf_adds(out, bytes ? ew_str_bytes(text, sizeof(text), n) : ew_str_count(text, sizeof(text), (double)n));
}

void ew_term_progress_text(const ew_progress_info *info, double rate_per_s, double left_s, ew_buf *out)
{
    char text[32];
    bool bytes = ew_str_eq(info->unit, "B");
    if (info->total == 0 && info->unit[0] == '\0') {
        ew_buf_adds(out, info->phase); /* it waits: nothing is counted */
        return;
    }
    ew_buf_addf(out, "%s: ", info->phase);
    add_amount(out, info->done, info->unit);
    if (info->total > 0) {
        ew_buf_addc(out, '/');
        add_amount(out, info->total, info->unit);
    }
    if (!bytes) {
        ew_buf_addf(out, " %s", info->unit);
    }
    if (info->total > 0) {
        double part = fmin((double)info->done / (double)info->total, 1);
        ew_buf_addf(out, " (%d%%)", (int)(part * 100));
    }
    if (isfinite(rate_per_s) && rate_per_s > 0 && bytes) {
        ew_buf_addf(out, ", %s/s", ew_str_bytes(text, sizeof(text), (uint64_t)rate_per_s));
    } else if (isfinite(rate_per_s) && rate_per_s > 0) {
        ew_buf_addf(out, ", %s %s/s", ew_str_count(text, sizeof(text), rate_per_s), info->unit);
    }
    if (!isnan(info->loss)) {
        ew_buf_addf(out, ", loss %.3f", info->loss);
    }
    if (isfinite(left_s)) {
        ew_buf_addf(out, ", %s left", ew_str_seconds(text, sizeof(text), left_s));
    }
}

static void draw(ew_term_progress *t, const ew_progress_info *info, uint64_t now)
{
    double elapsed = (double)(now - t->start_ns) * 1e-9;
    uint64_t moved = info->done >= t->start_done ? info->done - t->start_done : 0;
    double rate = elapsed > 0 ? (double)moved / elapsed : (double)NAN;
    double left = info->left_s;
    if (isnan(left) && info->total > info->done && rate > 0) {
        left = (double)(info->total - info->done) / rate;
    }
    EW_AUTO_BUF line = {0};
    if (t->tty) {
        ew_buf_adds(&line, "\r\033[K");
    }
    ew_buf_addf(&line, "%s%s", t->label, t->label[0] != '\0' ? " " : "");
    if (t->tty && info->total > 0) {
        size_t full = (size_t)(fmin((double)info->done / (double)info->total, 1) * BAR_CELLS);
        ew_buf_addc(&line, '[');
        for (size_t i = 0; i < BAR_CELLS; i++) {
            ew_buf_addc(&line, i < full ? '#' : '.');
        }
        ew_buf_adds(&line, "] ");
    }
    ew_term_progress_text(info, rate, left, &line);
    if (!t->tty) {
        ew_buf_addc(&line, '\n');
    }
    (void)fputs(ew_buf_str(&line), t->f);
    (void)fflush(t->f);
    t->drawn = t->tty;
    t->shown = true;
    t->last_ns = now;
}

static void end_line(ew_term_progress *t)
{
    if (t->shown && t->last.total > 0 && t->last.done >= t->last.total && !t->tty) {
        return; /* told already */
    }
    if (t->drawn) {
        draw(t, &t->last, ew_mono_ns());
        (void)fputc('\n', t->f);
        (void)fflush(t->f);
        t->drawn = false;
    }
}

static bool on_progress(const ew_progress_info *info, void *ctx)
{
    ew_term_progress *t = ctx;
    uint64_t now = ew_mono_ns();
    if (info->phase[0] == '\0') {
        return t->stop == NULL || !t->stop(); /* only asks */
    }
    if (t->start_ns == 0 || strncmp(t->phase, info->phase, sizeof(t->phase) - 1) != 0) {
        end_line(t);
        (void)ew_str_copy(t->phase, sizeof(t->phase), info->phase);
        t->start_ns = now;
        t->start_done = info->done;
        t->last_ns = now;
        t->shown = false;
    }
    (void)ew_str_copy(t->unit, sizeof(t->unit), info->unit != NULL ? info->unit : "");
    t->last = *info;
    t->last.phase = t->phase;
    t->last.unit = t->unit;
    bool done = info->total > 0 && info->done >= info->total;
    uint64_t since = now - t->last_ns;
    if (now - t->start_ns >= QUIET_NS && (since >= (t->tty ? BAR_NS : LINE_NS) || !t->shown || done)) {
        draw(t, info, now);
    }
    return t->stop == NULL || !t->stop();
}

ew_status ew_term_progress_new(FILE *f, const char *label, bool (*stop)(void), ew_term_progress **ret_progress)
{
    ew_term_progress *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return EW_ENOMEM;
    }
    t->f = f;
    t->tty = isatty(fileno(f)) == 1;
    t->stop = stop;
    (void)ew_str_copy(t->label, sizeof(t->label), label != NULL ? label : "");
    t->progress = (ew_progress){on_progress, t};
    *ret_progress = t;
    return EW_OK;
}

void ew_term_progress_free(ew_term_progress **progress)
{
    if (*progress != NULL) {
        end_line(*progress);
        ew_free(*progress);
        *progress = NULL;
    }
}

const ew_progress *ew_term_progress_get(ew_term_progress *t)
{
    return &t->progress;
}

/* --- tables --- */

struct column {
    char *title;
    ew_align align;
};

struct ew_table {
    struct column *column;
    size_t n_columns, columns_cap;
    char **cell; /* rows * n_columns, row-major; NULL = empty */
    size_t n_cells, cells_cap;
    size_t n_rows;
    size_t i_cell; /* next column of the current row */
    ew_status status;
};

ew_status ew_table_new(ew_table **ret_table)
{
    ew_table *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return EW_ENOMEM;
    }
    *ret_table = t;
    return EW_OK;
}

void ew_table_free(ew_table **table)
{
    ew_table *t = *table;
    if (t == NULL) {
        return;
    }
    for (size_t i = 0; i < t->n_columns; i++) {
        ew_free(t->column[i].title);
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        ew_free(t->cell[i]);
    }
    ew_free(t->column);
    ew_free(t->cell);
    ew_free(t);
    *table = NULL;
}

static bool table_note(ew_table *t, ew_status st)
{
    if (st != EW_OK && t->status == EW_OK) {
        t->status = st;
    }
    return t->status == EW_OK;
}

void ew_table_column(ew_table *t, const char *title, ew_align align)
{
    if (t->n_rows > 0) {
        (void)table_note(t, EW_EINVAL);
        return;
    }
    if (table_note(t, ew_grow((void **)&t->column, &t->columns_cap, t->n_columns + 1, sizeof(*t->column), 1024))) {
        char *copy = ew_str_dup(title);
        if (table_note(t, copy != NULL ? EW_OK : EW_ENOMEM)) {
            t->column[t->n_columns++] = (struct column){copy, align};
        }
    }
}

void ew_table_row(ew_table *t)
{
    size_t need = t->n_cells + t->n_columns;
    if (table_note(t, ew_grow((void **)&t->cell, &t->cells_cap, need, sizeof(*t->cell), EW_LIMIT_TABLE_CELLS))) {
        for (size_t i = t->n_cells; i < need; i++) {
            t->cell[i] = NULL;
        }
        t->n_cells = need;
        t->n_rows++;
        t->i_cell = 0;
    }
}

void ew_table_cell(ew_table *t, const char *text)
{
    if (t->status != EW_OK) {
        return;
    }
    if (t->n_rows == 0 || t->i_cell >= t->n_columns) {
        (void)table_note(t, EW_EINVAL);
        return;
    }
    char *copy = ew_str_dup(text);
    if (table_note(t, copy != NULL ? EW_OK : EW_ENOMEM)) {
        t->cell[(t->n_rows - 1) * t->n_columns + t->i_cell++] = copy;
    }
}

void ew_table_cellf(ew_table *t, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    ew_table_cell(t, text);
}

size_t ew_table_rows(const ew_table *t)
{
    return t->n_rows;
}

ew_status ew_table_check(const ew_table *t, ew_error *reterr)
{
    if (t->status == EW_OK) {
        return EW_OK;
    }
    return ew_fail(reterr, t->status, "a table could not be built: %s",
                   t->status == EW_EINVAL ? "more cells than columns" : "too large, or no memory");
}

static size_t text_width(const char *s)
{
    size_t n = 0;
    for (; *s != '\0'; s++) {
        n += ((unsigned char)*s & 0xC0) != 0x80;
    }
    return n;
}

/* Row i_row, or the titles for SIZE_MAX. */
static const char *table_text(const ew_table *t, size_t i_row, size_t i_column)
{
    if (i_row == SIZE_MAX) {
        return t->column[i_column].title;
    }
    const char *s = t->cell[i_row * t->n_columns + i_column];
    return s != NULL ? s : "";
}

static size_t column_width(const ew_table *t, size_t i_column)
{
    size_t width = text_width(t->column[i_column].title);
    for (size_t i = 0; i < t->n_rows; i++) {
        width = EW_MAX(width, text_width(table_text(t, i, i_column)));
    }
    return width;
}

static void add_times(ew_buf *out, char c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ew_buf_addc(out, c);
    }
}

static void text_row(const ew_table *t, const size_t *widths, size_t i_row, ew_buf *out)
{
    for (size_t i = 0; i < t->n_columns; i++) {
        const char *s = table_text(t, i_row, i);
        size_t pad = widths[i] - text_width(s);
        bool right = t->column[i].align == EW_ALIGN_RIGHT;
        ew_buf_adds(out, i == 0 ? "" : "  ");
        add_times(out, ' ', right ? pad : 0);
        ew_buf_adds(out, s);
        add_times(out, ' ', right || i + 1 == t->n_columns ? 0 : pad);
    }
    ew_buf_addc(out, '\n');
}

void ew_table_text(const ew_table *t, ew_buf *out)
{
    size_t *widths = ew_calloc(t->n_columns, sizeof(*widths));
    if (widths == NULL) {
        return;
    }
    for (size_t i = 0; i < t->n_columns; i++) {
        widths[i] = column_width(t, i);
    }
    text_row(t, widths, SIZE_MAX, out);
    for (size_t i = 0; i < t->n_columns; i++) {
        ew_buf_adds(out, i == 0 ? "" : "  ");
        add_times(out, '-', widths[i]);
    }
    ew_buf_addc(out, '\n');
    for (size_t i = 0; i < t->n_rows; i++) {
        text_row(t, widths, i, out);
    }
    ew_free(widths);
}

static void markdown_cell(const char *s, ew_buf *out)
{
    for (; *s != '\0'; s++) {
        if (*s == '|') {
            ew_buf_adds(out, "\\|");
        } else {
            ew_buf_addc(out, *s == '\n' ? ' ' : *s);
        }
    }
}

void ew_table_markdown(const ew_table *t, ew_buf *out)
{
    for (size_t i = 0; i <= t->n_rows; i++) {
        for (size_t j = 0; j < t->n_columns; j++) {
            ew_buf_adds(out, "| ");
            markdown_cell(table_text(t, i == 0 ? SIZE_MAX : i - 1, j), out);
            ew_buf_addc(out, ' ');
        }
        ew_buf_adds(out, "|\n");
        for (size_t j = 0; i == 0 && j < t->n_columns; j++) {
            ew_buf_adds(out, t->column[j].align == EW_ALIGN_RIGHT ? "|---:" : "|---");
            ew_buf_adds(out, j + 1 == t->n_columns ? "|\n" : "");
        }
    }
}

static void csv_cell(const char *s, ew_buf *out)
{
    if (strpbrk(s, ",\"\r\n") == NULL) {
        ew_buf_adds(out, s);
        return;
    }
    ew_buf_addc(out, '"');
    for (; *s != '\0'; s++) {
        if (*s == '"') {
            ew_buf_addc(out, '"');
        }
        ew_buf_addc(out, *s);
    }
    ew_buf_addc(out, '"');
}

void ew_table_csv(const ew_table *t, ew_buf *out)
{
    for (size_t i = 0; i <= t->n_rows; i++) {
        for (size_t j = 0; j < t->n_columns; j++) {
            ew_buf_adds(out, j == 0 ? "" : ",");
            csv_cell(table_text(t, i == 0 ? SIZE_MAX : i - 1, j), out);
        }
        ew_buf_adds(out, "\r\n");
    }
}

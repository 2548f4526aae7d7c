/* Line and scatter plots as SVG text, for reports that open without a network.
 *
 * A plot is data only: series of points with optional intervals, an x axis that is linear, logarithmic or a list of categories.
 * Output is one <svg> element with its own styles as attributes, readable in light and dark pages. Pure: no I/O.
 * Locking: one owning thread. */
#ifndef EW_EXPERIMENT_PLOT_H
#define EW_EXPERIMENT_PLOT_H

#include "base/buf.h"

typedef struct ew_plot_point {
    double x;
    double y;
    double low; /* interval; NAN = none */
    double high;
    const char *label; /* shown as a tooltip, NULL = "x, y" */
} ew_plot_point;

typedef struct ew_plot_series {
    const char *name; /* in the legend */
    const ew_plot_point *points;
    size_t n_points;
    bool line;      /* joined in the order given; false = marks only */
    unsigned style; /* colour and mark, from 1: series that belong together share it; 0 = by position */
    unsigned dash;  /* 0 full line and filled marks, 1 dashed and hollow, 2 dotted and hollow, … */
} ew_plot_series;

typedef enum ew_plot_scale {
    EW_PLOT_LINEAR,
    EW_PLOT_LOG2,
    EW_PLOT_CATEGORY
} ew_plot_scale;

typedef struct ew_plot {
    const char *title;
    const char *x_label;
    const char *y_label;
    ew_plot_scale x_scale;
    const char *const *categories; /* names of x = 0, 1, … for EW_PLOT_CATEGORY */
    size_t n_categories;
    bool y_from_zero; /* start the y axis at 0 even when the data does not */
    const ew_plot_series *series;
    size_t n_series;
} ew_plot;

/* Appends the plot. Points with a non-finite x or y are left out; a plot without points says so instead of an empty frame. */
void ew_plot_svg(const ew_plot *plot, ew_buf *out);

/* Appends s with the five XML characters escaped. */
void ew_xml_escape(const char *s, ew_buf *out);

#endif

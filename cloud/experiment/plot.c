#include "experiment/plot.h"

#include <math.h>
#include <stdio.h>

#define PLOT_W 640.0
#define PLOT_H 380.0
#define PLOT_LEFT 64.0
#define PLOT_RIGHT 150.0 /* room for the legend */
#define PLOT_TOP 36.0
#define PLOT_BOTTOM 52.0
#define MARK_KINDS 4

/* Okabe and Ito's colours: told apart by colour-blind readers; marks differ too. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#8a6d00", "#777777"};

typedef struct frame {
    const ew_plot *plot;
    double x0, x1, y0, y1; /* data range shown, x already on its scale */
    double step;           /* between y ticks */
} frame;

void ew_xml_escape(const char *s, ew_buf *out)
{
    for (; *s != '\0'; s++) {
        switch (*s) {
        case '&':
            ew_buf_adds(out, "&amp;");
            break;
        case '<':
            ew_buf_adds(out, "&lt;");
            break;
        case '>':
            ew_buf_adds(out, "&gt;");
            break;
        case '"':
            ew_buf_adds(out, "&quot;");
            break;
        case '\'':
            ew_buf_adds(out, "&#39;");
            break;
        default:
            ew_buf_addc(out, *s);
        }
    }
}

static double on_scale(const ew_plot *p, double x)
{
    return p->x_scale == EW_PLOT_LOG2 ? log2(fmax(x, 1e-9)) : x;
}

static bool usable(const ew_plot_point *pt)
{
    return isfinite(pt->x) && isfinite(pt->y);
}

/* 1, 2 or 5 times a power of ten that gives about five steps over the range. */
static double nice_step(double range)
{
    double raw = range / 5;
    double base = pow(10, floor(log10(raw)));
    double m = raw / base;
    return base * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static bool find_range(frame *f)
{
    const ew_plot *p = f->plot;
    bool any = false;
    for (size_t s = 0; s < p->n_series; s++) {
        for (size_t i = 0; i < p->series[s].n_points; i++) {
            const ew_plot_point *pt = &p->series[s].points[i];
            if (!usable(pt)) {
                continue;
            }
            double x = on_scale(p, pt->x);
            double low = isfinite(pt->low) ? fmin(pt->low, pt->y) : pt->y;
            double high = isfinite(pt->high) ? fmax(pt->high, pt->y) : pt->y;
            f->x0 = any ? fmin(f->x0, x) : x;
            f->x1 = any ? fmax(f->x1, x) : x;
            f->y0 = any ? fmin(f->y0, low) : low;
            f->y1 = any ? fmax(f->y1, high) : high;
            any = true;
        }
    }
    if (!any) {
        return false;
    }
    if (p->x_scale == EW_PLOT_CATEGORY) {
        f->x0 = -0.5;
        f->x1 = (double)p->n_categories - 0.5;
    } else if (f->x1 - f->x0 < 1e-12) {
        f->x0 -= 0.5;
        f->x1 += 0.5;
    } else {
        double pad = (f->x1 - f->x0) * 0.04;
        f->x0 -= pad;
        f->x1 += pad;
    }
    if (p->y_from_zero) {
        f->y0 = fmin(f->y0, 0);
    }
    if (f->y1 - f->y0 < 1e-12) {
        f->y1 = f->y0 + fmax(fabs(f->y0) * 0.1, 1e-3);
    }
    f->step = nice_step(f->y1 - f->y0);
    f->y0 = floor(f->y0 / f->step) * f->step;
    f->y1 = ceil(f->y1 / f->step) * f->step;
    return true;
}

static double px(const frame *f, double x)
{
    return PLOT_LEFT + (on_scale(f->plot, x) - f->x0) / (f->x1 - f->x0) * (PLOT_W - PLOT_LEFT - PLOT_RIGHT);
}

static double py(const frame *f, double y)
{
    return PLOT_H - PLOT_BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (PLOT_H - PLOT_TOP - PLOT_BOTTOM);
}

static void add_text(ew_buf *out, double x, double y, const char *anchor, const char *extra, const char *text)
{
    ew_buf_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>", x, y, anchor, extra);
    ew_xml_escape(text, out);
    ew_buf_adds(out, "</text>\n");
}

static void add_x_tick(const frame *f, double x, const char *text, ew_buf *out)
{
    double at = px(f, x);
    ew_buf_addf(out, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"currentColor\"/>\n", at, at,
                PLOT_H - PLOT_BOTTOM, PLOT_H - PLOT_BOTTOM + 4);
    add_text(out, at, PLOT_H - PLOT_BOTTOM + 18, "middle", "", text);
}

static void add_axes(const frame *f, ew_buf *out)
{
    const ew_plot *p = f->plot;
    char text[32];
    for (double y = f->y0; y <= f->y1 + f->step / 2; y += f->step) {
        double shown = fabs(y) < f->step * 1e-6 ? 0 : y;
        ew_buf_addf(
            out,
            "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"currentColor\" stroke-opacity=\"0.15\"/>\n",
            PLOT_LEFT, PLOT_W - PLOT_RIGHT, py(f, y), py(f, y));
        (void)snprintf(text, sizeof(text), "%.4g", shown);
        add_text(out, PLOT_LEFT - 6, py(f, y) + 4, "end", "", text);
    }
    if (p->x_scale == EW_PLOT_CATEGORY) {
        for (size_t i = 0; i < p->n_categories; i++) {
            add_x_tick(f, (double)i, p->categories[i], out);
        }
    } else if (p->x_scale == EW_PLOT_LOG2) {
        for (int e = (int)ceil(f->x0); e <= (int)floor(f->x1); e++) {
            (void)snprintf(text, sizeof(text), "%.4g", exp2(e));
            add_x_tick(f, exp2(e), text, out);
        }
    } else {
        double step = nice_step(f->x1 - f->x0);
        for (double x = ceil(f->x0 / step) * step; x <= f->x1; x += step) {
            (void)snprintf(text, sizeof(text), "%.4g", fabs(x) < step * 1e-6 ? 0 : x);
            add_x_tick(f, x, text, out);
        }
    }
    ew_buf_addf(out, "<polyline fill=\"none\" stroke=\"currentColor\" points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f\"/>\n",
                PLOT_LEFT, PLOT_TOP, PLOT_LEFT, PLOT_H - PLOT_BOTTOM, PLOT_W - PLOT_RIGHT, PLOT_H - PLOT_BOTTOM);
    add_text(out, (PLOT_LEFT + PLOT_W - PLOT_RIGHT) / 2, PLOT_H - 12, "middle", "", p->x_label);
    ew_buf_addf(out, "<g transform=\"translate(16 %.1f) rotate(-90)\">", (PLOT_TOP + PLOT_H - PLOT_BOTTOM) / 2);
    add_text(out, 0, 0, "middle", "", p->y_label);
    ew_buf_adds(out, "</g>\n");
}

static void add_mark(size_t kind, double x, double y, const char *colour, bool hollow, ew_buf *out)
{
    switch (kind % MARK_KINDS) {
    case 0:
        ew_buf_addf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"", x, y);
        break;
    case 1:
        ew_buf_addf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\"", x - 4, y - 4);
        break;
    case 2:
        ew_buf_addf(out, "<path d=\"M%.1f %.1fl5 9h-10z\"", x, y - 5);
        break;
    default:
        ew_buf_addf(out, "<path d=\"M%.1f %.1fl5 5-5 5-5-5z\"", x, y - 5);
        break;
    }
    ew_buf_addf(out, hollow ? " fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\">" : " fill=\"%s\">", colour);
}

static const char *mark_close(size_t kind)
{
    static const char *const tags[MARK_KINDS] = {"</circle>\n", "</rect>\n", "</path>\n", "</path>\n"};
    return tags[kind % MARK_KINDS];
}

static void add_points(const frame *f, const ew_plot_series *series, size_t kind, double shift, ew_buf *out)
{
    const char *colour = colours[kind % EW_COUNT(colours)];
    for (size_t i = 0; i < series->n_points; i++) {
        const ew_plot_point *pt = &series->points[i];
        if (!usable(pt)) {
            continue;
        }
        double x = px(f, pt->x) + shift;
        if (isfinite(pt->low) && isfinite(pt->high)) {
            ew_buf_addf(out,
                        "<path d=\"M%.1f %.1fV%.1fm-3 0h6m-3 0M%.1f %.1fh6\" stroke=\"%s\" stroke-opacity=\"0.7\" "
                        "fill=\"none\"/>\n",
                        x, py(f, pt->low), py(f, pt->high), x - 3, py(f, pt->low), colour);
        }
        add_mark(kind, x, py(f, pt->y), colour, series->dash != 0, out);
        ew_buf_adds(out, "<title>");
        ew_xml_escape(series->name, out);
        if (pt->label != NULL) {
            ew_buf_adds(out, ": ");
            ew_xml_escape(pt->label, out);
        }
        ew_buf_addf(out, " (%.4g, %.4g)</title>%s", pt->x, pt->y, mark_close(kind));
    }
}

static void add_series(const frame *f, size_t s, ew_buf *out)
{
    static const char *const dashes[] = {"", " stroke-dasharray=\"6 4\"", " stroke-dasharray=\"2 3\"",
                                         " stroke-dasharray=\"8 3 2 3\""};
    const ew_plot_series *series = &f->plot->series[s];
    size_t kind = series->style != 0 ? series->style - 1 : s;
    const char *colour = colours[kind % EW_COUNT(colours)];
    const char *dash = dashes[series->dash % EW_COUNT(dashes)];
    /* Series are set a little apart, within a category, so that intervals at the same x stay readable. */
    double room = f->plot->n_categories > 0
                      ? 0.7 * (PLOT_W - PLOT_LEFT - PLOT_RIGHT) / (double)(f->plot->n_categories * f->plot->n_series)
                      : 0;
    double shift =
        ((double)s - (double)(f->plot->n_series - 1) / 2) * (f->plot->x_scale == EW_PLOT_CATEGORY ? fmin(7, room) : 0);
    if (series->line) {
        ew_buf_addf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"%s points=\"", colour, dash);
        for (size_t i = 0; i < series->n_points; i++) {
            if (usable(&series->points[i])) {
                ew_buf_addf(out, "%.1f,%.1f ", px(f, series->points[i].x) + shift, py(f, series->points[i].y));
            }
        }
        ew_buf_adds(out, "\"/>\n");
    }
    add_points(f, series, kind, shift, out);
    /* The legend's lines draw together when there are many. */
    double pitch = fmin(20, (PLOT_H - PLOT_TOP - PLOT_BOTTOM) / (double)f->plot->n_series);
    double legend_y = PLOT_TOP + 14 + pitch * (double)s;
    double legend_x = PLOT_W - PLOT_RIGHT + 12;
    if (series->line) {
        ew_buf_addf(out,
                    "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"1.8\"%s/>\n",
                    legend_x, legend_x + 20, legend_y, legend_y, colour, dash);
    }
    add_mark(kind, legend_x + 10, legend_y, colour, series->dash != 0, out);
    ew_buf_adds(out, mark_close(kind));
    add_text(out, legend_x + 26, legend_y + 4, "start", "", series->name);
}

void ew_plot_svg(const ew_plot *plot, ew_buf *out)
{
    frame f = {.plot = plot};
    ew_buf_addf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
                "role=\"img\" "
                "font-family=\"system-ui,sans-serif\" font-size=\"12\" fill=\"currentColor\">\n<title>",
                PLOT_W, PLOT_H, PLOT_W, PLOT_H);
    ew_xml_escape(plot->title, out);
    ew_buf_adds(out, "</title>\n");
    add_text(out, PLOT_LEFT, 20, "start", "font-size=\"14\" font-weight=\"600\"", plot->title);
    if (find_range(&f)) {
        add_axes(&f, out);
        for (size_t s = 0; s < plot->n_series; s++) {
            add_series(&f, s, out);
        }
    } else {
        add_text(out, PLOT_W / 2, PLOT_H / 2, "middle", "", "no finished trial to show yet");
    }
    ew_buf_adds(out, "</svg>\n");
}

/* `edgewise train curve`: the loss curve of a pre-training run as a picture. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "cli/app.h"
#include "cli/train.h"
#include "experiment/plot.h"
#include "sys/file.h"

#define HEADER "step,tokens,seconds,lr,loss,val_loss,"
#define POINTS_MAX 4096

typedef struct curve {
    ew_plot_point train[POINTS_MAX], val[POINTS_MAX];
    size_t n_train, n_val;
} curve;

static ew_plot_point point(double x, double y)
{
    return (ew_plot_point){.x = x, .y = y, .low = (double)NAN, .high = (double)NAN};
}

/* Columns 2 (tokens), 5 (loss) and 6 (validation, may be empty). */
static ew_status read_curve(const char *path, curve *c, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_file_read(path, 1u << 20, &text, reterr));
    const char *line = ew_buf_str(&text);
    if (strncmp(line, HEADER, strlen(HEADER)) != 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not a loss curve (columns " HEADER "…)", path);
    }
    while ((line = strchr(line, '\n')) != NULL && *++line != '\0') {
        double column[6] = {0};
        bool there[6] = {false};
        const char *p = line;
        for (size_t i = 0; i < EW_COUNT(column); i++) {
            char *end;
            column[i] = strtod(p, &end);
            there[i] = end != p && isfinite(column[i]);
            p = end + strcspn(end, ",\n");
            p += *p == ',';
        }
        if (there[1] && there[4] && c->n_train < POINTS_MAX) {
            c->train[c->n_train++] = point(column[1] / 1e6, column[4]);
        }
        if (there[1] && there[5] && c->n_val < POINTS_MAX) {
            c->val[c->n_val++] = point(column[1] / 1e6, column[5]);
        }
    }
    return EW_OK;
}

int ew_cli_train_curve(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *in = NULL, *out = NULL, *title = NULL;
    const ew_cli_opt opts[] = {{"out", 'o', "FILE", EW_CLI_STRING, &out, .help = "SVG (default: standard output)"},
                               {"title", 't', "TEXT", EW_CLI_STRING, &title, .help = "above the picture"}};
    const ew_cli_pos pos[] = {{"CSV", EW_CLI_STRING, &in, .help = "curve of `train pretrain`"}};
    const ew_cli_spec spec = {
        "train curve", "Draws a loss curve.", "  edgewise train curve models/deb-tiny.csv -o deb-tiny.svg\n",
        opts,          EW_COUNT(opts),        pos,
        EW_COUNT(pos)};
    const int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF svg = {0};
    curve *c = ew_xcalloc(1, sizeof(*c));
    ew_status st = read_curve(in, c, &err);
    if (st == EW_OK) {
        const ew_plot_series series[] = {
            {.name = "training (weighted)", .points = c->train, .n_points = c->n_train, .line = true, .style = 1},
            {.name = "answers of held-out users", .points = c->val, .n_points = c->n_val, .line = true, .style = 2}};
        ew_plot_svg(&(ew_plot){.title = title != NULL ? title : ew_path_base(in),
                               .x_label = "million tokens",
                               .y_label = "nats per token",
                               .series = series,
                               .n_series = EW_COUNT(series)},
                    &svg);
        st = ew_buf_check(&svg, &err);
    }
    ew_free(c);
    if (st == EW_OK && out != NULL) {
        st = ew_file_replace(out, svg.data, svg.size, 0644, &err);
    } else if (st == EW_OK) {
        (void)fwrite(svg.data, 1, svg.size, stdout);
    }
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"

#define LOG_FILTERS_MAX 32
#define LOG_LINE_MAX 1024

static const char *const level_names[] = {"error", "warn", "notice", "info", "debug", "trace"};
static const int journald_priority[] = {3, 4, 5, 6, 7, 7};

static struct {
    ew_log_level all;
    struct {
        char component[24];
        ew_log_level level;
    } filter[LOG_FILTERS_MAX];
    size_t n_filters;
    ew_log_sink sink; /* NULL = stderr */
    void *sink_ctx;
    bool journald;
} log_state = {.all = EW_LOG_INFO};

ew_status ew_log_configure(const char *filter, ew_error *reterr)
{
    const char *p = filter;
    size_t n = 0;
    while (*p != '\0') {
        size_t len = strcspn(p, ",");
        const char *eq = memchr(p, '=', len);
        if (eq == NULL || eq == p || (size_t)(eq - p) >= sizeof(log_state.filter[0].component) ||
            n == LOG_FILTERS_MAX) {
            return ew_fail(reterr, EW_EINVAL, "log filter '%s' is not a list of component=level", filter);
        }
        size_t level = 0;
        while (level < EW_COUNT(level_names) && (strlen(level_names[level]) != len - (size_t)(eq + 1 - p) ||
                                                 memcmp(level_names[level], eq + 1, strlen(level_names[level])) != 0)) {
            level++;
        }
        if (level == EW_COUNT(level_names)) {
            return ew_fail(reterr, EW_EINVAL, "log filter '%s': levels are error, warn, notice, info, debug and trace",
                           filter);
        }
        if ((size_t)(eq - p) == 3 && memcmp(p, "all", 3) == 0) {
            log_state.all = (ew_log_level)level;
        } else {
            memcpy(log_state.filter[n].component, p, (size_t)(eq - p));
            log_state.filter[n].component[eq - p] = '\0';
            log_state.filter[n++].level = (ew_log_level)level;
        }
        p += len + (p[len] == ',');
    }
    log_state.n_filters = n;
    return EW_OK;
}

void ew_log_set_sink(ew_log_sink sink, void *ctx)
{
    log_state.sink = sink;
    log_state.sink_ctx = ctx;
}

void ew_log_set_journald(bool journald)
{
    log_state.journald = journald;
}

bool ew_log_enabled(ew_log_level level, const char *component)
{
    for (size_t i = 0; i < log_state.n_filters; i++) {
        if (strcmp(log_state.filter[i].component, component) == 0) {
            return level <= log_state.filter[i].level;
        }
    }
    return level <= log_state.all;
}

void ew_log_write(ew_log_level level, const char *component, const char *event, const char *fmt, ...)
{
    char line[LOG_LINE_MAX];
    char iso[25];
    int n = snprintf(line, sizeof(line), "%s %s %s: %s ", ew_wall_iso(iso, ew_wall_ms()), level_names[level], component,
                     event);
    if (n > 0 && (size_t)n < sizeof(line)) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, args);
        va_end(args);
    }
    for (char *c = line; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20) {
            *c = ' ';
        }
    }
    if (log_state.sink != NULL) {
        log_state.sink(level, line, log_state.sink_ctx);
    } else if (log_state.journald) {
        (void)fprintf(stderr, "<%d>%s\n", journald_priority[level], line);
    } else {
        (void)fprintf(stderr, "%s\n", line);
    }
}

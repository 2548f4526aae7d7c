/* One-line structured log: wall time, level, component, event, key=value pairs.
 *
 *   EW_LOG(EW_LOG_NOTICE, "net", "listening", "port=%d", port);
 *
 * Library code logs at debug and trace only; daemons log an error once, where it is handled. Never log prompts, keys, tokens or
 * profile text. Filter: "all=info,net=debug". Locking: callable from any thread; configuration before threads start. */
#ifndef EW_BASE_LOG_H
#define EW_BASE_LOG_H

#include "base/base.h"
#include "base/status.h"

typedef enum ew_log_level {
    EW_LOG_ERROR,
    EW_LOG_WARN,
    EW_LOG_NOTICE,
    EW_LOG_INFO,
    EW_LOG_DEBUG,
    EW_LOG_TRACE
} ew_log_level;

/* line has no newline. */
typedef void (*ew_log_sink)(ew_log_level level, const char *line, void *ctx);

/* "all=info,net=debug"; an unknown level is EW_EINVAL. Default: all=info. */
ew_status ew_log_configure(const char *filter, ew_error *reterr) EW_MUST_CHECK;
/* NULL restores stderr (with "<3>" priorities when JOURNAL_STREAM was told by journald = true). */
void ew_log_set_sink(ew_log_sink sink, void *ctx);
void ew_log_set_journald(bool journald);
bool ew_log_enabled(ew_log_level level, const char *component);
void ew_log_write(ew_log_level level, const char *component, const char *event, const char *fmt, ...) EW_PRINTF(4, 5);

#define EW_LOG(level, component, event, ...)                                                                           \
    do {                                                                                                               \
        if (ew_log_enabled((level), (component))) {                                                                    \
            ew_log_write((level), (component), (event), __VA_ARGS__);                                                  \
        }                                                                                                              \
    } while (0)

#endif

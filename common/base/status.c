#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ew_assert_fail(const char *file, int line, const char *cond)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, cond);
    abort();
}

ew_status ew_fail(ew_error *reterr, ew_status code, const char *fmt, ...)
{
    if (reterr != NULL) {
        va_list args;
        va_start(args, fmt);
        reterr->code = code;
        (void)vsnprintf(reterr->msg, sizeof(reterr->msg), fmt, args);
        va_end(args);
    }
    return code;
}

static ew_status status_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return EW_ENOSPC;
    case ENOENT:
        return EW_ENOENT;
    case ENOMEM:
        return EW_ENOMEM;
    case EACCES:
    case EPERM:
        return EW_EDENIED;
    default:
        return EW_EIO;
    }
}

ew_status ew_fail_errno(ew_error *reterr, int errnum, const char *fmt, ...)
{
    ew_status code = status_of_errno(errnum);
    if (reterr != NULL) {
        char reason[128];
        va_list args;
        va_start(args, fmt);
        reterr->code = code;
        int n = vsnprintf(reterr->msg, sizeof(reterr->msg), fmt, args);
        va_end(args);
        if (strerror_r(errnum, reason, sizeof(reason)) != 0) {
            (void)snprintf(reason, sizeof(reason), "error %d", errnum);
        }
        if (n >= 0 && (size_t)n < sizeof(reterr->msg)) {
            (void)snprintf(reterr->msg + n, sizeof(reterr->msg) - (size_t)n, ": %s", reason);
        }
    }
    return code;
}

ew_status ew_wrap(ew_error *reterr, ew_status code, const char *fmt, ...)
{
    if (reterr != NULL) {
        char inner[EW_ERROR_MSG_MAX];
        va_list args;
        memcpy(inner, reterr->msg, sizeof(inner));
        va_start(args, fmt);
        int n = vsnprintf(reterr->msg, sizeof(reterr->msg), fmt, args);
        va_end(args);
        if (n >= 0 && (size_t)n < sizeof(reterr->msg)) {
            (void)snprintf(reterr->msg + n, sizeof(reterr->msg) - (size_t)n, ": %s", inner);
        }
    }
    return code;
}

const char *ew_status_name(ew_status code)
{
    static const char *const names[] = {
        "EW_OK",         "EW_EINVAL",       "EW_ENOMEM", "EW_EIO",     "EW_ECORRUPT",  "EW_ENOENT",
        "EW_EEXIST",     "EW_EUNSUPPORTED", "EW_ELIMIT", "EW_EDENIED", "EW_EREMOTE",   "EW_ETIMEOUT",
        "EW_ECANCELLED", "EW_ECONFLICT",    "EW_ENOSPC", "EW_EAGAIN",  "EW_EINTERNAL",
    };
    size_t i = (size_t)(-(int)code);
    return i < EW_COUNT(names) ? names[i] : "EW_?";
}

int ew_status_exit(ew_status code)
{
    switch (code) {
    case EW_OK:
        return 0;
    case EW_EINVAL:
        return 2;
    case EW_EREMOTE:
    case EW_ETIMEOUT:
        return 3;
    default:
        return 1;
    }
}

/* Status codes and the error object that every fallible function fills (ADR 0002).
 *
 *   ew_status ew_x_do(input…, mutable object…, result *ret_result, ew_error *reterr);
 *
 * ret_* is untouched on failure, reterr (may be NULL) is untouched on success. The message is a sentence that a user can act
 * on; where a command would help it ends in "HINT: …". */
#ifndef EW_BASE_STATUS_H
#define EW_BASE_STATUS_H

#include "base/base.h"

typedef enum ew_status {
    EW_OK = 0,
    EW_EINVAL = -1,       /* the caller's argument or the user's input is wrong */
    EW_ENOMEM = -2,       /* memory, or a stated memory limit, would be exceeded */
    EW_EIO = -3,          /* the system refused: open, read, write, socket */
    EW_ECORRUPT = -4,     /* data that should be well formed is not */
    EW_ENOENT = -5,       /* no such thing */
    EW_EEXIST = -6,       /* it is there already */
    EW_EUNSUPPORTED = -7, /* well formed, but not something this build can do */
    EW_ELIMIT = -8,       /* a limit of base/limits.h or of the user's budget */
    EW_EDENIED = -9,      /* not authenticated or not allowed */
    EW_EREMOTE = -10,     /* the other side is unreachable or refused (exit status 3) */
    EW_ETIMEOUT = -11,    /* a deadline passed */
    EW_ECANCELLED = -12,  /* asked to stop */
    EW_ECONFLICT = -13,   /* the state is not the one that the request supposes (old fence, changed version) */
    EW_ENOSPC = -14,      /* the disk is full */
    EW_EAGAIN = -15,      /* not now, nothing is wrong */
    EW_EINTERNAL = -16    /* a broken promise of our own code */
} ew_status;

#define EW_ERROR_MSG_MAX 384

typedef struct ew_error {
    ew_status code;
    char msg[EW_ERROR_MSG_MAX]; /* NUL-terminated UTF-8, truncated when longer */
} ew_error;

#define EW_ERROR_INIT                                                                                                  \
    {                                                                                                                  \
        EW_OK, ""                                                                                                      \
    }

/* Fills *reterr (when not NULL) and returns code, for `return ew_fail(reterr, EW_ECORRUPT, "…", …);`. */
ew_status ew_fail(ew_error *reterr, ew_status code, const char *fmt, ...) EW_PRINTF(3, 4);

/* As ew_fail, with ": strerror(errnum)" appended; ENOSPC and EDQUOT become EW_ENOSPC, ENOENT EW_ENOENT,
 * ENOMEM EW_ENOMEM, EACCES and EPERM EW_EDENIED, anything else EW_EIO. */
ew_status ew_fail_errno(ew_error *reterr, int errnum, const char *fmt, ...) EW_PRINTF(3, 4);

/* Puts "context: " before the message that is in *reterr; returns its code unchanged. */
ew_status ew_wrap(ew_error *reterr, ew_status code, const char *fmt, ...) EW_PRINTF(3, 4);

/* "EW_ECORRUPT" and the like; never NULL. */
const char *ew_status_name(ew_status code);

/* The exit status of a command that ended so: 0 ok, 1 failed, 2 usage (EW_EINVAL), 3 remote unavailable. */
int ew_status_exit(ew_status code);

/* Returns early when expr fails. */
#define EW_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        ew_status ew_try_st_ = (expr);                                                                                 \
        if (ew_try_st_ != EW_OK) {                                                                                     \
            return ew_try_st_;                                                                                         \
        }                                                                                                              \
    } while (0)

#endif

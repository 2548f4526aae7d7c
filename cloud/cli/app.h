/* What every command of `edgewise` gets as its context, and the options that computing commands share. */
#ifndef EW_CLI_APP_H
#define EW_CLI_APP_H

#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/session.h"
#include "sys/pool.h"
#include "text/json.h"

#define EW_CLI_PROG "edgewise"

typedef struct ew_cli_app {
    const char *kernel; /* EW_CPU of the environment: "ref", "avx2", … ; NULL = the best */
} ew_cli_app;

/* Threads and kernels of one command. */
typedef struct ew_cli_compute {
    ew_exec exec;
    ew_pool *pool; /* owned */
} ew_cli_compute;

/* threads 0 = all cores; kernel NULL = app's. EW_EINVAL when this machine does not run the kernel. */
ew_status ew_cli_compute_open(const ew_cli_app *app, int64_t threads, const char *kernel, ew_cli_compute *ret_compute,
                              ew_error *reterr) EW_MUST_CHECK;
void ew_cli_compute_release(ew_cli_compute *c);
#define EW_AUTO_COMPUTE EW_CLEANUP(ew_cli_compute_release) ew_cli_compute

/* Prints j on stdout; NULL is taken as out of memory. */
ew_status ew_cli_put_json(const json_t *j, ew_error *reterr) EW_MUST_CHECK;
/* The same as the last act of a command: drops j, tells an error. Returns the exit status. */
int ew_cli_print_json(json_t *j);

/* "f16", "f32", "q8_0" for --kv; NULL = f16. EW_EINVAL names them. */
ew_status ew_cli_kv_parse(const char *text, ew_kv_type *ret_type, ew_error *reterr) EW_MUST_CHECK;
#define EW_CLI_KV_HELP "type of the cached keys and values: f16 (default), f32 or q8_0"
#define EW_CLI_KERNEL_HELP "kernel table, ref or one that model info lists (default: the best)"

/* A session under a limit on everything that a command keeps in memory: weights, cache, workspace and what this process has already.
 * limit 0 = none. A context that does not fit is refused when the user asked for it (n_ctx_given), with the largest that would do; else it is
 * shrunk to that, and a line on stderr says so. EW_ELIMIT when not even a small one fits. */
ew_status ew_cli_session_open(const ew_model *m, const ew_session_opt *opt, uint64_t limit, bool n_ctx_given,
                              ew_session **ret_session, ew_error *reterr) EW_MUST_CHECK;

#endif

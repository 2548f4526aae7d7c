/* What every command of `edgewise` gets as its context, and the options that computing commands share. */
#ifndef EW_CLI_APP_H
#define EW_CLI_APP_H

#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "sys/pool.h"

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

#endif

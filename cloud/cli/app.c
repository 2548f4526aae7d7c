/* Set-up that the commands share. */
#include "cli/app.h"

ew_status ew_cli_compute_open(const ew_cli_app *app, int64_t threads, const char *kernel, ew_cli_compute *ret_compute,
                              ew_error *reterr)
{
    ew_cli_compute c = {0};
    const char *name = kernel != NULL ? kernel : app->kernel;
    c.exec.kern = ew_kern_get(name);
    if (c.exec.kern == NULL) {
        return ew_fail(reterr, EW_EINVAL,
                       "the kernels '%s' do not exist or do not run on this processor (ref always does)", name);
    }
    EW_TRY(ew_pool_new((unsigned)threads, &c.pool, reterr));
    c.exec.pool = c.pool;
    *ret_compute = c;
    return EW_OK;
}

void ew_cli_compute_release(ew_cli_compute *c)
{
    ew_pool_free(&c->pool);
}

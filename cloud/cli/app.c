/* Set-up that the commands share. */
#include "cli/app.h"

#include <stdio.h>

#include "base/str.h"
#include "sys/cli.h"
#include "sys/proc.h"

#define N_CTX_USEFUL 32u /* a context is not shrunk below this */

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

ew_status ew_cli_kv_parse(const char *text, ew_kv_type *ret_type, ew_error *reterr)
{
    static const char *const names[] = {[EW_KV_F16] = "f16", [EW_KV_F32] = "f32", [EW_KV_Q8_0] = "q8_0"};
    *ret_type = EW_KV_F16;
    for (size_t i = 0; text != NULL && i < EW_COUNT(names); i++) {
        if (ew_str_eq(text, names[i])) {
            *ret_type = (ew_kv_type)i;
            return EW_OK;
        }
    }
    return text == NULL ? EW_OK : ew_fail(reterr, EW_EINVAL, "--kv '%s' is not one of f16, f32, q8_0", text);
}

ew_status ew_cli_session_open(const ew_model *m, const ew_session_opt *opt, uint64_t limit, bool n_ctx_given,
                              ew_session **ret_session, ew_error *reterr)
{
    if (limit == 0) {
        return ew_session_new(m, opt, ret_session, reterr);
    }
    char b1[32];
    char b2[32];
    ew_proc_mem mem = {0};
    EW_TRY(ew_proc_mem_read(&mem, reterr));
    uint64_t taken = ew_model_weights_bytes(m) + mem.anon_bytes;
    uint64_t room = limit > taken ? limit - taken : 0;
    uint32_t wanted = opt->n_ctx != 0 ? opt->n_ctx : ew_session_default_ctx(m);
    uint32_t fits;
    EW_TRY(ew_session_largest_ctx(m, opt, room, &fits, reterr));
    if (fits < EW_MIN(wanted, N_CTX_USEFUL)) {
        return ew_fail(reterr, EW_ELIMIT,
                       "the model does not fit into %s: weights and tables take %s. HINT: quantize it further "
                       "(edgewise model quantize) or allow more memory",
                       ew_str_bytes(b1, sizeof(b1), limit), ew_str_bytes(b2, sizeof(b2), taken));
    }
    if (fits < wanted && n_ctx_given) {
        return ew_fail(reterr, EW_ELIMIT,
                       "a context of %u tokens does not fit into %s beside the weights of %s. HINT: --ctx %u fits",
                       wanted, ew_str_bytes(b1, sizeof(b1), limit), ew_str_bytes(b2, sizeof(b2), taken), fits);
    }
    ew_session_opt o = *opt;
    o.n_ctx = fits;
    if (fits < wanted) {
        (void)fprintf(stderr, "edgewise: the context is %u tokens instead of %u, to stay under %s\n", fits, wanted,
                      ew_str_bytes(b1, sizeof(b1), limit));
    }
    return ew_session_new(m, &o, ret_session, reterr);
}

ew_status ew_cli_put_json(const json_t *j, ew_error *reterr)
{
    EW_AUTO_BUF out = {0};
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory");
    }
    EW_TRY(ew_json_dump(j, EW_JSON_PRETTY, &out, reterr));
    (void)fwrite(out.data, 1, out.size, stdout);
    return EW_OK;
}

int ew_cli_print_json(json_t *j)
{
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_cli_put_json(j, &err);
    json_decref(j);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

/* `edgewise model import|list`: variants are made here and published over the wire. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/app.h"
#include "cli/op.h"
#include "compress/quantize.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

typedef struct import_args {
    ew_cli_op op;
    char *path, *name, *version, *variants, *temp;
    double score;
} import_args;

/* One variant as a GGUF file. */
static ew_status make_variant(const import_args *a, const char *variant, const char *out, ew_error *reterr)
{
    ew_quantize_opt opt = {.name = ew_dir_exists(a->path) ? a->name : NULL};
    if (!ew_mix_parse(variant, &opt.mix)) {
        return ew_fail(reterr, EW_EINVAL, "'%s' is no variant; there are (in either case) %s", variant, ew_mix_names());
    }
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_AUTO(ew_pool) pool = NULL;
    if (ew_term_progress_new(stderr, variant, ew_signal_stop, &bar) == EW_OK) {
        opt.progress = *ew_term_progress_get(bar);
    }
    EW_TRY(ew_pool_new(0, &pool, reterr));
    opt.pool = pool;
    return ew_quantize_model(a->path, out, &opt, NULL, reterr);
}

static ew_status publish(const import_args *a, ew_opclient *c, const char *variant, const char *file, json_t *list,
                         ew_error *reterr)
{
    uint8_t sha256[32];
    char hex[65], bytes[24];
    uint64_t size = 0;
    EW_TRY(ew_file_size(file, &size, reterr));
    {
        EW_AUTO(ew_term_progress) bar = NULL;
        ew_publish_opt opt = {
            .path = file, .name = a->name, .version = a->version, .variant = variant, .score = a->score};
        if (ew_term_progress_new(stderr, "upload", ew_signal_stop, &bar) == EW_OK) {
            opt.progress = *ew_term_progress_get(bar);
        }
        EW_TRY(ew_opclient_publish(c, &opt, sha256, reterr));
    }
    ew_hex_encode(sha256, sizeof sha256, hex);
    if (!a->op.json) {
        (void)printf("%s %s %s: %s, sha256 %s\n", a->name, a->version, variant, ew_str_bytes(bytes, sizeof bytes, size),
                     hex);
        (void)fflush(stdout);
    }
    (void)json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:s}", "name", a->name, "version", a->version,
                                                "variant", variant, "bytes", (json_int_t)size, "sha256", hex));
    return EW_OK;
}

static ew_status import_one(const import_args *a, ew_opclient *c, const char *dir, const char *variant, json_t *list,
                            ew_error *reterr)
{
    char file[EW_PATH_MAX], name[64];
    (void)snprintf(name, sizeof name, "%.40s.gguf", variant);
    EW_TRY(ew_path_join(file, sizeof file, dir, name, reterr));
    ew_status st = make_variant(a, variant, file, reterr);
    if (st == EW_OK) {
        st = publish(a, c, variant, file, list, reterr);
    }
    ew_error ignored = EW_ERROR_INIT;
    if (ew_file_remove(file, &ignored) != EW_OK && st == EW_OK) {
        st = ew_fail(reterr, ignored.code, "%s", ignored.msg);
    }
    return st;
}

/* Each name of the comma-separated list. */
static ew_status import_all(const import_args *a, const char *dir, json_t *list, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_TRY(ew_cli_op_open(&a->op, &c, reterr));
    const char *s = a->variants;
    while (*s != '\0') {
        char variant[32];
        size_t n = strcspn(s, ",");
        if (n == 0 || n >= sizeof variant) {
            return ew_fail(reterr, EW_EINVAL, "--variants wants names separated by commas, as in q8_0,q4_0");
        }
        memcpy(variant, s, n);
        variant[n] = '\0';
        EW_TRY(import_one(a, c, dir, variant, list, reterr));
        s += n + (s[n] == ',');
    }
    return EW_OK;
}

static ew_status import_run(const import_args *a, json_t *list, ew_error *reterr)
{
    char prefix[EW_PATH_MAX], dir[EW_PATH_MAX];
    if (a->name == NULL) {
        return ew_fail(reterr, EW_EINVAL, "--name is needed: what the model is called in plans and experiments");
    }
    EW_TRY(ew_path_join(prefix, sizeof prefix, a->temp, "edgewise-import-", reterr));
    EW_TRY(ew_dir_make_temp(prefix, dir, sizeof dir, reterr));
    ew_status st = import_all(a, dir, list, reterr);
    ew_error ignored = EW_ERROR_INIT;
    if (ew_dir_remove_tree(dir, &ignored) != EW_OK && st == EW_OK) {
        st = ew_fail(reterr, ignored.code, "%s", ignored.msg);
    }
    return st;
}

int ew_cli_model_import(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char version[] = "1", variants[] = "q8_0,q4_0", temp[] = "/tmp";
    import_args a = {.version = version, .variants = variants, .temp = temp, .score = NAN};
    const ew_cli_opt opts[] = {
        {"name", 'n', "NAME", EW_CLI_STRING, &a.name, .help = "name of the model in the catalogue"},
        {"variants", 0, "LIST", EW_CLI_STRING, &a.variants,
         .help = "of f16, q8_0, q6_k, q5_k_m, q4_k_m, iq4_nl, q4_0 and others (default q8_0,q4_0)"},
        {"version", 0, "VERSION", EW_CLI_STRING, &a.version, .help = "default 1"},
        {"score", 0, "X", EW_CLI_F64, &a.score,
         .help = "on general benchmarks, 0 to 1: which model is the stronger one", .max = 1},
        {"temp", 0, "DIR", EW_CLI_STRING, &a.temp,
         .help = "where variants are made before they are sent (default /tmp)"},
        EW_CLI_OP_OPTS(a.op)};
    const ew_cli_pos pos[] = {{"PATH", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){.command = "model import",
                       .doc =
                           "Makes the variants of a model, uploads them and has them signed: devices can then be given "
                           "them by plans and trials. Goes on where an earlier import stopped.",
                       .examples = "  edgewise model import ./TinyLlama --name tinyllama --operator co/operator\n",
                       .opts = opts,
                       .n_opts = EW_COUNT(opts),
                       .pos = pos,
                       .n_pos = EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON list = json_array();
    ew_status st = import_run(&a, list, &err);
    if (st == EW_OK && a.op.json) {
        st = ew_cli_put_json(list, &err);
    }
    return ew_cli_op_end(st, &err);
}

static ew_status print_models(const json_t *out, ew_error *reterr)
{
    char bytes[24];
    size_t i = 0;
    json_t *m = NULL;
    (void)printf("%-20s %-8s %-8s %10s %12s  %s\n", "MODEL", "VERSION", "VARIANT", "SIZE", "PARAMETERS", "SHA256");
    json_array_foreach(json_object_get(out, "models"), i, m)
    {
        const char *name = NULL, *version = NULL, *variant = NULL, *sha = NULL;
        json_int_t size = 0, params = 0;
        if (json_unpack(m, "{s:s, s:s, s:s, s:s, s:I, s:I}", "name", &name, "version", &version, "variant", &variant,
                        "sha256", &sha, "bytes", &size, "n_params", &params) != 0) {
            return ew_fail(reterr, EW_EREMOTE, "the coordinator's list of models is malformed");
        }
        (void)printf("%-20s %-8s %-8s %10s %12lld  %.16s\n", name, version, variant,
                     ew_str_bytes(bytes, sizeof bytes, (uint64_t)size), (long long)params, sha);
    }
    return EW_OK;
}

int ew_cli_model_list(int argc, char **argv, void *ctx)
{
    (void)ctx;
    ew_cli_op o = {0};
    const ew_cli_opt opts[] = {EW_CLI_OP_OPTS(o)};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "model list",
                                             .doc = "Lists the models that the coordinator publishes.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON out = NULL;
    ew_status st = ew_cli_op_call(&o, "model.list", NULL, &out, &err);
    if (st == EW_OK) {
        st = o.json ? ew_cli_put_json(out, &err) : print_models(out, &err);
    }
    return ew_cli_op_end(st, &err);
}

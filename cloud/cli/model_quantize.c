/* `edgewise model quantize`. */
#include <stdio.h>

#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "compress/quantize.h"
#include "model/model.h"
#include "model/save.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

typedef struct quantize_args {
    char *path, *out, *type, *name;
    bool pure, json;
} quantize_args;

static ew_status quantize_run(const quantize_args *a, ew_mix mix, ew_quantize_report *ret, ew_error *reterr)
{
    ew_quantize_opt opt = {.mix = mix, .pure = a->pure, .name = a->name};
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_AUTO(ew_pool) pool = NULL;
    if (ew_term_progress_new(stderr, "quantize", ew_signal_stop, &bar) == EW_OK) {
        opt.progress = *ew_term_progress_get(bar);
    }
    EW_TRY(ew_pool_new(0, &pool, reterr));
    opt.pool = pool;
    return ew_quantize_model(a->path, a->out, &opt, ret, reterr);
}

static int quantize_print(const quantize_args *a, ew_mix mix, uint64_t bytes, const ew_quantize_report *r)
{
    if (a->json) {
        return ew_cli_print_json(json_pack("{s:s s:s s:I s:f s:i}", "path", a->out, "type", ew_mix_name(mix), "bytes",
                                           (json_int_t)bytes, "rmse", r->rmse, "n_fallback", (int)r->n_fallback));
    }
    char text[32];
    (void)printf("%s: %s, %s\n", a->out, ew_mix_name(mix), ew_str_bytes(text, sizeof(text), bytes));
    if (r->n_fallback > 0) {
        (void)printf("%u matrices have rows that the type's block does not divide and got another type\n",
                     r->n_fallback);
    }
    return 0;
}

int ew_cli_model_quantize(int argc, char **argv, void *ctx)
{
    (void)ctx;
    quantize_args a = {0};
    const ew_cli_opt opts[] = {
        {"type", 'q', "TYPE", EW_CLI_STRING, &a.type,
         .help = "Q8_0 (default), Q6_K, Q5_K_M, Q4_K_M, IQ4_NL, Q4_0, F16, BF16 or another of llama.cpp's"},
        {"pure", 0, NULL, EW_CLI_FLAG, &a.pure, .help = "the same type for every matrix"},
        {"name", 0, "NAME", EW_CLI_STRING, &a.name, .help = "general.name of the result (default: the model's)"},
        {"json", 0, NULL, EW_CLI_FLAG, &a.json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"},
                              {"OUT", EW_CLI_STRING, &a.out, .help = "GGUF file to write"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){
            "model quantize",
            "Writes a model as GGUF with its matrices in another type, as llama-quantize does: the same type for each "
            "tensor, the same bytes. Norms stay F32. The file also runs in llama.cpp.",
            "  edgewise model quantize ./TinyLlama tinyllama-q4_k_m.gguf --type Q4_K_M\n", opts, EW_COUNT(opts), pos,
            EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_mix mix = EW_MIX_Q8_0;
    if (a.type != NULL && !ew_mix_parse(a.type, &mix)) {
        ew_status bad = ew_fail(&err, EW_EINVAL, "--type '%s' is not one of %s", a.type, ew_mix_names());
        return ew_cli_fail(EW_CLI_PROG, bad, &err);
    }
    uint64_t bytes = 0;
    ew_quantize_report report = {0};
    ew_status st = quantize_run(&a, mix, &report, &err);
    if (st == EW_OK) {
        st = ew_file_size(a.out, &bytes, &err);
    }
    return st == EW_OK ? quantize_print(&a, mix, bytes, &report) : ew_cli_fail(EW_CLI_PROG, st, &err);
}

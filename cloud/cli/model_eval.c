/* `edgewise model eval`: perplexity of a text. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "model/model.h"
#include "model/perplexity.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

#define TEXT_MAX ((size_t)1 << 30)

typedef struct eval_args {
    char *path, *text, *kernel, *kv;
    int64_t n_ctx, chunks, threads, n_batch;
    uint64_t memory_limit;
    bool json, each;
} eval_args;

static int eval_parse(int argc, char **argv, eval_args *a)
{
    const ew_cli_opt opts[] = {
        {"ctx", 'c', "N", EW_CLI_I64, &a->n_ctx, .help = "tokens of a chunk (default 512)", .min = 8, .max = 1048576},
        {"chunks", 0, "N", EW_CLI_I64, &a->chunks, .help = "only the first N chunks (default: all)", .min = 1,
         .max = 1e9},
        {"each", 'e', NULL, EW_CLI_FLAG, &a->each, .help = "print the perplexity so far after each chunk"},
        {"batch", 'b', "N", EW_CLI_I64, &a->n_batch, .help = "tokens computed at once", .min = 1, .max = 65536},
        {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &a->memory_limit,
         .help = "refuse what needs more (weights, cache and workspace)"},
        {"kv", 0, "TYPE", EW_CLI_STRING, &a->kv, .help = EW_CLI_KV_HELP},
        {"kernel", 0, "NAME", EW_CLI_STRING, &a->kernel, .help = EW_CLI_KERNEL_HELP},
        {"threads", 't', "N", EW_CLI_I64, &a->threads, .help = "default: all cores", .min = 1, .max = 256},
        {"json", 0, NULL, EW_CLI_FLAG, &a->json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a->path, .help = "GGUF file or Hugging Face directory"},
                              {"TEXT", EW_CLI_STRING, &a->text, .help = "file of plain text"}};
    return ew_cli_parse(
        &(ew_cli_spec){
            "model eval",
            "Perplexity of a text under a model. The text is cut into chunks that do not overlap, and the "
            "second half of each is scored, exactly as llama-perplexity does it, so that the figures compare.",
            "  edgewise model eval m-q4_0.gguf wiki.test.raw --ctx 512\n", opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
}

static void print_each(const ew_perplexity *p, void *ctx)
{
    (void)ctx;
    (void)printf("[%llu] %.4f\n", (unsigned long long)p->n_chunks, p->perplexity);
    (void)fflush(stdout);
}

static ew_status eval_print(const eval_args *a, const ew_perplexity *p, uint32_t n_ctx, double seconds,
                            ew_error *reterr)
{
    char b[32];
    if (!a->json) {
        (void)printf("perplexity %.4f ± %.5f  (%.5f nats a token, %llu tokens scored in %llu chunks of %u, %s)\n",
                     p->perplexity, p->error, p->nll, (unsigned long long)p->n_scored, (unsigned long long)p->n_chunks,
                     n_ctx, ew_str_seconds(b, sizeof(b), seconds));
        return EW_OK;
    }
    EW_AUTO_JSON j = json_pack("{s:f s:f s:f s:I s:I s:i s:f}", "perplexity", p->perplexity, "error", p->error, "nll",
                               p->nll, "scored", (json_int_t)p->n_scored, "chunks", (json_int_t)p->n_chunks, "ctx",
                               (int)n_ctx, "seconds", seconds);
    return ew_cli_put_json(j, reterr);
}

static ew_status eval_run(const eval_args *a, const ew_cli_app *app, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_COMPUTE compute = {0};
    EW_AUTO(ew_session) s = NULL;
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_TRY(ew_file_read(a->text, TEXT_MAX, &text, reterr));
    EW_TRY(ew_model_open(a->path, NULL, &m, reterr));
    const ew_tokenizer *tok = ew_model_tokenizer(m);
    if (tok == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", a->path);
    }
    bool newline = text.size > 0 && text.data[text.size - 1] == '\n'; /* the last one does not count there either */
    EW_TRY(ew_tokenizer_encode(tok, text.data, text.size - newline, EW_ENCODE_BOS, &ids, reterr));
    EW_TRY(ew_cli_compute_open(app, a->threads, a->kernel, &compute, reterr));
    uint32_t n_ctx = a->n_ctx != 0 ? (uint32_t)a->n_ctx : 512;
    ew_session_opt so = {.n_ctx = n_ctx, .n_batch = (uint32_t)a->n_batch, .exec = compute.exec};
    EW_TRY(ew_cli_kv_parse(a->kv, &so.kv_type, reterr));
    EW_TRY(ew_cli_session_open(m, &so, a->memory_limit, true, &s, reterr));
    const ew_vocab *v = ew_model_vocab(m);
    ew_perplexity_opt opt = {.n_ctx = n_ctx,
                             .max_chunks = (uint64_t)a->chunks,
                             .bos = v->add_bos ? v->bos : -1,
                             .each = a->each && !a->json ? print_each : NULL};
    if (ew_term_progress_new(stderr, "eval", ew_signal_stop, &bar) == EW_OK) {
        opt.progress = *ew_term_progress_get(bar);
    }
    ew_perplexity p;
    uint64_t t0 = ew_mono_ns();
    EW_TRY(ew_perplexity_run(s, ids.id, ids.n, &opt, &p, reterr));
    ew_term_progress_free(&bar);
    if (!isfinite(p.perplexity)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s gives no finite figures for this text: its weights are damaged",
                       a->path);
    }
    return eval_print(a, &p, n_ctx, (double)(ew_mono_ns() - t0) * 1e-9, reterr);
}

int ew_cli_model_eval(int argc, char **argv, void *ctx)
{
    eval_args a = {0};
    ew_error err = EW_ERROR_INIT;
    int status = eval_parse(argc, argv, &a);
    if (status == EW_CLI_GO) {
        ew_status st = eval_run(&a, ctx, &err);
        status = st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    return status;
}

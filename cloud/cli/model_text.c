/* `edgewise model tokenize|logits`. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/session.h"
#include "sys/file.h"
#include "text/json.h"
#include "text/utf8.h"

/* ---- tokenize ---- */

/* The vocabulary of the model at path. */
static ew_status open_tokenizer(const char *path, ew_model **ret_model, const ew_tokenizer **ret_tok, ew_error *reterr)
{
    EW_TRY(ew_model_open(path, NULL, ret_model, reterr));
    *ret_tok = ew_model_tokenizer(*ret_model);
    return *ret_tok != NULL ? EW_OK : ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", path);
}

/* "1 2 3" or "1,2,3". */
static ew_status parse_ids(const char *text, ew_tokens *out, ew_error *reterr)
{
    const char *p = text;
    while (*p != '\0') {
        if (*p == ' ' || *p == ',' || *p == '\n') {
            p++;
            continue;
        }
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 0 || v > INT32_MAX) {
            return ew_fail(reterr, EW_EINVAL, "'%.20s' is not a token id", p);
        }
        EW_TRY(ew_tokens_add(out, (int32_t)v));
        p = end;
    }
    return EW_OK;
}

typedef struct tokenize_args {
    char *path, *text;
    bool json, decode, no_bos, special;
} tokenize_args;

static int tokenize_print(const ew_tokenizer *tok, const ew_tokens *ids, const tokenize_args *a)
{
    if (a->json) {
        json_t *list = json_array();
        for (size_t i = 0; i < ids->n; i++) {
            (void)json_array_append_new(list, json_integer(ids->id[i]));
        }
        return ew_cli_print_json(json_pack("{s:o s:I}", "ids", list, "n", (json_int_t)ids->n));
    }
    for (size_t i = 0; i < ids->n; i++) {
        ew_span raw = ew_tokenizer_raw(tok, ids->id[i]);
        (void)printf("%d\t%.*s\n", ids->id[i], (int)raw.size, (const char *)raw.data);
    }
    return 0;
}

static ew_status tokenize_run(const tokenize_args *a, const ew_tokenizer *tok, ew_tokens *ids, ew_buf *text,
                              ew_error *reterr)
{
    if (a->decode) {
        EW_TRY(parse_ids(a->text, ids, reterr));
        return ew_tokenizer_decode(tok, ids->id, ids->n, a->special ? EW_DECODE_SPECIAL : 0, text, reterr);
    }
    unsigned flags = (a->no_bos ? 0 : EW_ENCODE_BOS) | (a->special ? EW_ENCODE_SPECIAL : 0);
    return ew_tokenizer_encode(tok, a->text, strlen(a->text), flags, ids, reterr);
}

int ew_cli_model_tokenize(int argc, char **argv, void *ctx)
{
    (void)ctx;
    tokenize_args a = {0};
    const ew_cli_opt opts[] = {
        {"decode", 'd', NULL, EW_CLI_FLAG, &a.decode, .help = "TEXT is a list of ids; print their text"},
        {"no-bos", 0, NULL, EW_CLI_FLAG, &a.no_bos, .help = "without the token that begins a prompt"},
        {"special", 0, NULL, EW_CLI_FLAG, &a.special, .help = "recognise and show control tokens"},
        {"json", 0, NULL, EW_CLI_FLAG, &a.json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"},
                              {"TEXT", EW_CLI_STRING, &a.text, .help = "text, or ids with --decode"}};
    int status =
        ew_cli_parse(&(ew_cli_spec){"model tokenize", "Turns text into token ids, one per line with its piece.",
                                    "  edgewise model tokenize m.gguf 'Hello world'\n"
                                    "  edgewise model tokenize m.gguf --decode '1 15043 3186'\n",
                                    opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
                     argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF text = {0};
    const ew_tokenizer *tok;
    ew_status st = open_tokenizer(a.path, &m, &tok, &err);
    if (st == EW_OK) {
        st = tokenize_run(&a, tok, &ids, &text, &err);
    }
    if (st != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    if (!a.decode) {
        return tokenize_print(tok, &ids, &a);
    }
    if (a.json) { /* ids that were cut within a character decode to a part of it */
        EW_AUTO_BUF clean = {0};
        ew_utf8_sanitize(text.data, text.size, &clean);
        return ew_cli_print_json(json_pack("{s:s#}", "text", ew_buf_str(&clean), (int)clean.size));
    }
    (void)fwrite(text.data, 1, text.size, stdout);
    (void)printf("\n");
    return 0;
}

/* ---- logits ---- */

typedef struct logits_args {
    char *path, *text, *ids, *kernel, *out, *kv;
    int64_t top, threads;
    bool json, all;
} logits_args;

static ew_status logits_eval(const logits_args *a, const ew_cli_app *app, const ew_model *m, const ew_tokens *ids,
                             float *logits, ew_error *reterr)
{
    EW_AUTO_COMPUTE compute = {0};
    EW_TRY(ew_cli_compute_open(app, a->threads, a->kernel, &compute, reterr));
    EW_AUTO(ew_session) s = NULL;
    ew_session_opt opt = {.n_ctx = (uint32_t)ids->n, .exec = compute.exec};
    EW_TRY(ew_cli_kv_parse(a->kv, &opt.kv_type, reterr));
    EW_TRY(ew_session_new(m, &opt, &s, reterr));
    return a->all ? ew_session_eval_all(s, ids->id, ids->n, logits, reterr)
                  : ew_session_eval(s, ids->id, ids->n, logits, reterr);
}

static int logits_print(const logits_args *a, const ew_model *m, const float *logits)
{
    size_t V = ew_model_config_of(m)->V;
    const ew_tokenizer *tok = ew_model_tokenizer(m);
    float *work = ew_malloc(V, sizeof(float));
    json_t *list = a->json ? json_array() : NULL;
    if (work == NULL) {
        json_decref(list);
        return ew_cli_fail(EW_CLI_PROG, EW_ENOMEM, &(ew_error){EW_ENOMEM, "not enough memory"});
    }
    memcpy(work, logits, V * sizeof(float));
    for (int64_t i = 0; i < a->top && (size_t)i < V; i++) {
        int32_t id = ew_argmax(work, V);
        ew_span raw = tok != NULL ? ew_tokenizer_raw(tok, id) : (ew_span){"", 0};
        double lp = ew_log_prob(logits, V, id);
        if (a->json) {
            (void)json_array_append_new(list, json_pack("{s:i s:f s:f s:s#}", "id", id, "logit", (double)logits[id],
                                                        "log_prob", lp, "piece", raw.data, (int)raw.size));
        } else {
            (void)printf("%6d  %10.5f  %9.5f  %.*s\n", id, (double)logits[id], lp, (int)raw.size,
                         (const char *)raw.data);
        }
        work[id] = -__builtin_inff();
    }
    ew_free(work);
    return a->json ? ew_cli_print_json(json_pack("{s:o}", "top", list)) : 0;
}

static ew_status logits_ids(const logits_args *a, const ew_model *m, ew_tokens *ids, ew_error *reterr)
{
    if (a->ids != NULL) {
        EW_TRY(parse_ids(a->ids, ids, reterr));
    } else if (a->text != NULL && ew_model_tokenizer(m) != NULL) {
        EW_TRY(ew_tokenizer_encode(ew_model_tokenizer(m), a->text, strlen(a->text), EW_ENCODE_BOS, ids, reterr));
    }
    return ids->n > 0 ? EW_OK : ew_fail(reterr, EW_EINVAL, "there is no token to evaluate. HINT: give TEXT or --ids");
}

int ew_cli_model_logits(int argc, char **argv, void *ctx)
{
    logits_args a = {.top = 10};
    const ew_cli_opt opts[] = {
        {"ids", 'i', "IDS", EW_CLI_STRING, &a.ids, .help = "token ids instead of TEXT, as '1,2,3'"},
        {"top", 0, "N", EW_CLI_I64, &a.top, .help = "how many of the likeliest to print (default 10)", .min = 1,
         .max = 1e6},
        {"out", 'o', "FILE", EW_CLI_STRING, &a.out, .help = "write raw little-endian f32 logits to FILE"},
        {"all", 0, NULL, EW_CLI_FLAG, &a.all, .help = "with --out: of every position, not only the last"},
        {"kv", 0, "TYPE", EW_CLI_STRING, &a.kv, .help = EW_CLI_KV_HELP},
        {"kernel", 0, "NAME", EW_CLI_STRING, &a.kernel, .help = EW_CLI_KERNEL_HELP},
        {"threads", 't', "N", EW_CLI_I64, &a.threads, .help = "default: all cores", .min = 1, .max = 256},
        {"json", 0, NULL, EW_CLI_FLAG, &a.json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"},
                              {"TEXT", EW_CLI_STRING, &a.text, .optional = true, .help = "text to evaluate"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){
            "model logits", "Evaluates a text and prints the likeliest next tokens: id, logit, log-probability, piece.",
            "  edgewise model logits m.gguf 'The capital of France is'\n", opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_TOKENS ids = {0};
    ew_status st = ew_model_open(a.path, NULL, &m, &err);
    if (st == EW_OK) {
        st = logits_ids(&a, m, &ids, &err);
    }
    if (st != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    size_t V = ew_model_config_of(m)->V;
    size_t rows = a.all ? ids.n : 1;
    float *logits = ew_calloc(rows, V * sizeof(float));
    st = logits == NULL ? ew_fail(&err, EW_ENOMEM, "not enough memory for %zu rows of logits", rows)
                        : logits_eval(&a, ctx, m, &ids, logits, &err);
    if (st == EW_OK && isnan(ew_log_sum_exp(logits + (rows - 1) * V, V))) {
        st = ew_fail(&err, EW_ECORRUPT, "%s gives no numbers for this text: its weights are damaged", a.path);
    }
    if (st == EW_OK && a.out != NULL) {
        st = ew_file_replace(a.out, logits, rows * V * sizeof(float), 0644, &err);
    }
    status = st == EW_OK ? logits_print(&a, m, logits + (rows - 1) * V) : ew_cli_fail(EW_CLI_PROG, st, &err);
    ew_free(logits);
    return status;
}

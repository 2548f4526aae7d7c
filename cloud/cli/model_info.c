/* `edgewise model info|tokenize|logits|quantize`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "compress/quantize.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/session.h"
#include "model/weights.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

/* Prints j on stdout and drops it. */
static int print_json(json_t *j)
{
    EW_AUTO_BUF out = {0};
    ew_error err = EW_ERROR_INIT;
    ew_status st =
        j == NULL ? ew_fail(&err, EW_ENOMEM, "not enough memory") : ew_json_dump(j, EW_JSON_PRETTY, &out, &err);
    json_decref(j);
    if (st != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    (void)fwrite(out.data, 1, out.size, stdout);
    return 0;
}

/* ---- info ---- */

typedef struct info_args {
    char *path;
    int64_t n_ctx;
    bool json, hash;
} info_args;

static const char *tokenizer_name(const ew_model *m)
{
    static const char *const names[] = {[EW_TOKENIZER_BPE] = "byte-level BPE",
                                        [EW_TOKENIZER_SPM] = "SentencePiece BPE",
                                        [EW_TOKENIZER_CHAR_BPE] = "character BPE",
                                        [EW_TOKENIZER_UNIGRAM] = "SentencePiece unigram",
                                        [EW_TOKENIZER_WORDPIECE] = "WordPiece"};
    const ew_vocab *v = ew_model_vocab(m);
    return v == NULL ? "none" : names[v->kind];
}

static const char *scaling_name(ew_rope_scaling s)
{
    static const char *const names[] = {[EW_ROPE_SCALING_NONE] = "none",
                                        [EW_ROPE_SCALING_LINEAR] = "linear",
                                        [EW_ROPE_SCALING_LLAMA3] = "llama3",
                                        [EW_ROPE_SCALING_FACTORS] = "factors"};
    return names[s];
}

static int info_json(const ew_model *m, const info_args *a, const ew_memory_plan *mem, uint32_t n_ctx)
{
    const ew_model_config *c = ew_model_config_of(m);
    json_t *j = json_pack(
        "{s:s s:s s:I s:s s:I s:i s:i s:i s:i s:i s:i s:i s:i s:s s:f s:s s:b s:s s:{s:i s:I s:I s:I}}", "arch",
        c->arch, "name", c->name, "parameters", (json_int_t)ew_model_n_params(m), "type", ew_model_dtype_name(m),
        "weights_bytes", (json_int_t)ew_model_weights_bytes(m), "layers", (int)c->L, "dim", (int)c->C, "heads",
        (int)c->H, "kv_heads", (int)c->K, "head_dim", (int)c->D, "ffn", (int)c->F, "vocab", (int)c->V, "n_ctx_train",
        (int)c->n_ctx_train, "rope", c->rope_kind == EW_ROPE_NORM ? "interleaved" : "half-split", "rope_theta",
        (double)c->rope_theta, "rope_scaling", scaling_name(c->rope_scaling), "tied_head", (int)c->tied_head,
        "tokenizer", tokenizer_name(m), "memory", "n_ctx", (int)n_ctx, "weights_bytes", (json_int_t)mem->weights_bytes,
        "kv_bytes", (json_int_t)mem->kv_bytes, "workspace_bytes", (json_int_t)mem->workspace_bytes);
    if (j != NULL && a->hash) {
        const char *hex = ew_model_sha256_hex(m);
        (void)json_object_set_new(j, "sha256", hex != NULL ? json_string(hex) : json_null());
    }
    return print_json(j);
}

static void info_text(const ew_model *m, const info_args *a, const ew_memory_plan *mem, uint32_t n_ctx)
{
    const ew_model_config *c = ew_model_config_of(m);
    char b1[32];
    char b2[32];
    char b3[32];
    (void)printf("%s (%s)\n", c->name, c->arch);
    (void)printf("  parameters   %s, mostly %s, %s\n", ew_str_count(b1, sizeof(b1), (double)ew_model_n_params(m)),
                 ew_model_dtype_name(m), ew_str_bytes(b2, sizeof(b2), ew_model_weights_bytes(m)));
    (void)printf("  shape        %u layers, dim %u, ffn %u, %u heads of %u, %u key/value heads\n", c->L, c->C, c->F,
                 c->H, c->D, c->K);
    (void)printf("  vocabulary   %u, %s%s\n", c->V, tokenizer_name(m),
                 c->tied_head ? ", head tied to the embedding" : "");
    (void)printf("  positions    %u in training, rotary %s, base %g, scaling %s\n", c->n_ctx_train,
                 c->rope_kind == EW_ROPE_NORM ? "interleaved" : "half-split", (double)c->rope_theta,
                 scaling_name(c->rope_scaling));
    (void)printf("  memory       %s weights + %s cache of %u tokens + %s workspace\n",
                 ew_str_bytes(b1, sizeof(b1), mem->weights_bytes), ew_str_bytes(b2, sizeof(b2), mem->kv_bytes), n_ctx,
                 ew_str_bytes(b3, sizeof(b3), mem->workspace_bytes));
    if (a->hash) {
        const char *hex = ew_model_sha256_hex(m);
        (void)printf("  sha256       %s\n", hex != NULL ? hex : "not readable");
    }
}

int ew_cli_model_info(int argc, char **argv, void *ctx)
{
    (void)ctx;
    info_args a = {0};
    const ew_cli_opt opts[] = {
        {"ctx", 'c', "N", EW_CLI_I64, &a.n_ctx,
         .help = "context that the memory is reckoned for (default: the model's, at most 4096)", .min = 1,
         .max = 1048576},
        {"hash", 0, NULL, EW_CLI_FLAG, &a.hash, .help = "also the SHA-256 (reads the whole file)"},
        {"json", 0, NULL, EW_CLI_FLAG, &a.json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"}};
    int status = ew_cli_parse(&(ew_cli_spec){"model info", "Shows what a model is and what memory it needs.",
                                             "  edgewise model info tinyllama.gguf --ctx 512\n", opts, EW_COUNT(opts),
                                             pos, EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    ew_memory_plan mem;
    ew_status st = ew_model_open(a.path, NULL, &m, &err);
    if (st == EW_OK) {
        st = ew_model_memory(m, (uint32_t)a.n_ctx, 0, &mem, &err);
    }
    if (st != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    uint32_t n_ctx = a.n_ctx > 0 ? (uint32_t)a.n_ctx : EW_MIN(ew_model_config_of(m)->n_ctx_train, 4096u);
    if (a.json) {
        return info_json(m, &a, &mem, n_ctx);
    }
    info_text(m, &a, &mem, n_ctx);
    return 0;
}

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
        return print_json(json_pack("{s:o s:I}", "ids", list, "n", (json_int_t)ids->n));
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
    if (a.json) {
        return print_json(json_pack("{s:s#}", "text", ew_buf_str(&text), (int)text.size));
    }
    (void)printf("%s\n", ew_buf_str(&text));
    return 0;
}

/* ---- logits ---- */

typedef struct logits_args {
    char *path, *text, *ids, *kernel, *out;
    int64_t top, threads;
    bool json, all, kv_f32;
} logits_args;

static ew_status logits_eval(const logits_args *a, const ew_cli_app *app, const ew_model *m, const ew_tokens *ids,
                             float *logits, ew_error *reterr)
{
    EW_AUTO_COMPUTE compute = {0};
    EW_TRY(ew_cli_compute_open(app, a->threads, a->kernel, &compute, reterr));
    EW_AUTO(ew_session) s = NULL;
    ew_session_opt opt = {
        .n_ctx = (uint32_t)ids->n, .exec = compute.exec, .kv_type = a->kv_f32 ? EW_KV_F32 : EW_KV_F16};
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
    return a->json ? print_json(json_pack("{s:o}", "top", list)) : 0;
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
        {"kv-f32", 0, NULL, EW_CLI_FLAG, &a.kv_f32, .help = "cache keys and values in f32 instead of f16"},
        {"kernel", 0, "NAME", EW_CLI_STRING, &a.kernel, .help = "ref, avx2, avx512 (default: the best)"},
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
    if (st == EW_OK && a.out != NULL) {
        st = ew_file_replace(a.out, logits, rows * V * sizeof(float), 0644, &err);
    }
    status = st == EW_OK ? logits_print(&a, m, logits + (rows - 1) * V) : ew_cli_fail(EW_CLI_PROG, st, &err);
    ew_free(logits);
    return status;
}

/* ---- quantize ---- */

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
        return print_json(json_pack("{s:s s:s s:I s:f s:i}", "path", a->out, "type", ew_mix_name(mix), "bytes",
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

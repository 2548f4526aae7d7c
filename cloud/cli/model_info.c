/* `edgewise model info`. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "model/model.h"
#include "model/session.h"
#include "model/weights.h"
#include "sys/term.h"
#include "text/json.h"

typedef struct info_args {
    char *path;
    int64_t n_ctx;
    char *kv;
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
    static const char *const names[] = {[EW_ROPE_SCALING_NONE] = "none",     [EW_ROPE_SCALING_LINEAR] = "linear",
                                        [EW_ROPE_SCALING_LLAMA3] = "llama3", [EW_ROPE_SCALING_FACTORS] = "factors",
                                        [EW_ROPE_SCALING_YARN] = "yarn",     [EW_ROPE_SCALING_LONGROPE] = "longrope"};
    return (size_t)s < EW_COUNT(names) ? names[s] : "?";
}

static unsigned n_local(const ew_model_config *c)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < c->L; i++) {
        n += c->local[i] != 0;
    }
    return n;
}

/* What the block has beyond Llama's, in words: "parallel residual, biases, 13 of 26 layers see 4096 tokens". */
static void describe_block(const ew_model_config *c, ew_buf *out)
{
    const struct {
        bool on;
        const char *text;
    } parts[] = {{c->encoder, "encoder"},
                 {c->norm == EW_NORM_LAYER, "LayerNorm"},
                 {c->parallel, "parallel residual"},
                 {c->norm_after, "norms after the sums"},
                 {c->post_norms, "norms before and after"},
                 {c->qk_norm, "norms of queries and keys"},
                 {c->biases, "biases"},
                 {c->ungated, "ungated feed-forward"},
                 {c->n_pos > 0, "learned positions"},
                 {c->attn_softcap > 0 || c->final_softcap > 0, "soft caps"}};
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        if (parts[i].on) {
            ew_buf_addf(out, "%s%s", out->size > 0 ? ", " : "", parts[i].text);
        }
    }
    if (c->window > 0) {
        ew_buf_addf(out, "%s%u of %u layers see %u tokens", out->size > 0 ? ", " : "", n_local(c), c->L, c->window);
    }
}

/* The kernel tables that this processor runs, the best last. */
static void list_kernels(ew_buf *out)
{
    const ew_kern *k;
    for (size_t i = 0; (k = ew_kern_at(i)) != NULL; i++) {
        ew_buf_addf(out, "%s%s", i > 0 ? ", " : "", ew_kern_name(k));
    }
}

static uint64_t resident_bytes(const ew_memory_plan *mem)
{
    return mem->weights_bytes + mem->copied_bytes + mem->kv_bytes + mem->workspace_bytes;
}

static int info_json(const ew_model *m, const info_args *a, const ew_memory_plan *mem, uint32_t n_ctx)
{
    const ew_model_config *c = ew_model_config_of(m);
    EW_AUTO_BUF block = {0};
    EW_AUTO_BUF kernels = {0};
    describe_block(c, &block);
    list_kernels(&kernels);
    json_t *j = json_pack("{s:s s:s s:I s:s s:I s:i s:i s:i s:i s:i s:i s:i s:i s:s s:f s:s s:b s:s s:s s:b s:s}",
                          "arch", c->arch, "name", c->name, "parameters", (json_int_t)ew_model_n_params(m), "type",
                          ew_model_dtype_name(m), "weights_bytes", (json_int_t)ew_model_weights_bytes(m), "layers",
                          (int)c->L, "dim", (int)c->C, "heads", (int)c->H, "kv_heads", (int)c->K, "head_dim", (int)c->D,
                          "ffn", (int)c->F, "vocab", (int)c->V, "n_ctx_train", (int)c->n_ctx_train, "rope",
                          c->rope_kind == EW_ROPE_NORM ? "interleaved" : "half-split", "rope_theta",
                          (double)c->rope_theta, "rope_scaling", scaling_name(c->rope_scaling), "tied_head",
                          (int)c->tied_head, "tokenizer", tokenizer_name(m), "block", ew_buf_str(&block),
                          "chat_template", (int)(ew_model_chat_template(m) != NULL), "kernels", ew_buf_str(&kernels));
    json_t *memory = json_pack("{s:i s:I s:I s:I s:I s:I}", "n_ctx", (int)n_ctx, "weights_bytes",
                               (json_int_t)mem->weights_bytes, "copied_bytes", (json_int_t)mem->copied_bytes,
                               "kv_bytes", (json_int_t)mem->kv_bytes, "workspace_bytes",
                               (json_int_t)mem->workspace_bytes, "resident_bytes", (json_int_t)resident_bytes(mem));
    if (j == NULL || memory == NULL || json_object_set_new(j, "memory", memory) != 0) {
        json_decref(j);
        return ew_cli_print_json(NULL);
    }
    if (a->hash) {
        const char *hex = ew_model_sha256_hex(m);
        (void)json_object_set_new(j, "sha256", hex != NULL ? json_string(hex) : json_null());
    }
    return ew_cli_print_json(j);
}

static void info_positions(const ew_model_config *c)
{
    (void)printf("  positions    %u in training, ", c->n_ctx_train);
    if (c->n_rot == 0) {
        (void)printf("learned\n");
        return;
    }
    (void)printf("rotary %s", c->rope_kind == EW_ROPE_NORM ? "interleaved" : "half-split");
    if (c->n_rot < c->D) {
        (void)printf(" over %u of %u", c->n_rot, c->D);
    }
    (void)printf(", base %g, scaling %s\n", (double)c->rope_theta, scaling_name(c->rope_scaling));
}

static void info_text(const ew_model *m, const info_args *a, const ew_memory_plan *mem, uint32_t n_ctx)
{
    const ew_model_config *c = ew_model_config_of(m);
    char b1[32];
    char b2[32];
    char b3[32];
    char b4[32];
    EW_AUTO_BUF block = {0};
    EW_AUTO_BUF kernels = {0};
    describe_block(c, &block);
    list_kernels(&kernels);
    (void)printf("%s (%s)\n", c->name, c->arch);
    (void)printf("  parameters   %s, mostly %s, %s\n", ew_str_count(b1, sizeof(b1), (double)ew_model_n_params(m)),
                 ew_model_dtype_name(m), ew_str_bytes(b2, sizeof(b2), ew_model_weights_bytes(m)));
    (void)printf("  shape        %u layers, dim %u, ffn %u, %u heads of %u, %u key/value heads\n", c->L, c->C, c->F,
                 c->H, c->D, c->K);
    if (block.size > 0) {
        (void)printf("  block        %s\n", ew_buf_str(&block));
    }
    (void)printf("  vocabulary   %u, %s%s%s\n", c->V, tokenizer_name(m),
                 c->tied_head ? ", head tied to the embedding" : "",
                 ew_model_chat_template(m) != NULL ? ", chat template" : "");
    info_positions(c);
    (void)printf("  memory       %s resident at most: %s weights + %s cache of %u tokens + %s workspace\n",
                 ew_str_bytes(b4, sizeof(b4), resident_bytes(mem)),
                 ew_str_bytes(b1, sizeof(b1), mem->weights_bytes + mem->copied_bytes),
                 ew_str_bytes(b2, sizeof(b2), mem->kv_bytes), n_ctx,
                 ew_str_bytes(b3, sizeof(b3), mem->workspace_bytes));
    (void)printf("  kernels      %s\n", ew_buf_str(&kernels));
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
        {"kv", 0, "TYPE", EW_CLI_STRING, &a.kv, .help = EW_CLI_KV_HELP},
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
    ew_memory_plan mem = {0};
    ew_session_opt so = {.n_ctx = (uint32_t)a.n_ctx};
    ew_status st = ew_cli_kv_parse(a.kv, &so.kv_type, &err);
    if (st == EW_OK) {
        st = ew_model_open(a.path, NULL, &m, &err);
    }
    if (st == EW_OK) {
        st = ew_session_memory(m, &so, &mem, &err);
    }
    if (st != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    uint32_t n_ctx = a.n_ctx > 0 ? (uint32_t)a.n_ctx : ew_session_default_ctx(m);
    if (a.json) {
        return info_json(m, &a, &mem, n_ctx);
    }
    info_text(m, &a, &mem, n_ctx);
    return 0;
}

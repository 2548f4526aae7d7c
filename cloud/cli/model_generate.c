/* `edgewise model generate`. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "chat/chat.h"
#include "cli/app.h"
#include "cli/model.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/session.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

/* ---- generate ---- */

typedef struct generate_args {
    char *path, *prompt, *file, *kernel, *draft, *kv, *system, *vars;
    int64_t n_draft, max_tok, top_k, seed, n_ctx, threads;
    double temperature, top_p, min_p, penalty;
    uint64_t memory_limit;
    ew_cli_strings stop;
    bool json, echo, special, chat;
} generate_args;

static int generate_parse(int argc, char **argv, generate_args *a)
{
    const ew_cli_opt opts[] = {
        {"max-tokens", 'n', "N", EW_CLI_I64, &a->max_tok, .help = "most tokens to generate (default 256)", .min = 1,
         .max = 1e6},
        {"temperature", 'T', "X", EW_CLI_F64, &a->temperature, .help = "0 = always the likeliest (default)", .min = 0,
         .max = 100},
        {"top-k", 0, "N", EW_CLI_I64, &a->top_k, .help = "draw from the N likeliest (default: all)", .min = 1,
         .max = 1e6},
        {"top-p", 0, "P", EW_CLI_F64, &a->top_p, .help = "draw from the smallest set of probability P", .min = 0,
         .max = 1},
        {"min-p", 0, "P", EW_CLI_F64, &a->min_p, .help = "drop what is less likely than P times the best", .min = 0,
         .max = 1},
        {"repeat-penalty", 0, "X", EW_CLI_F64, &a->penalty, .help = "over 1 discourages repetition (default 1)",
         .min = 0, .max = 100},
        {"seed", 's', "N", EW_CLI_I64, &a->seed, .help = "seed of the draws (default 0)", .min = 0, .max = 9e15},
        {"stop", 0, "TEXT", EW_CLI_STRINGS, &a->stop, .help = "end before TEXT; may be given several times"},
        {"file", 'f', "FILE", EW_CLI_STRING, &a->file, .help = "read the prompt from FILE"},
        {"ctx", 'c', "N", EW_CLI_I64, &a->n_ctx, .help = "context in tokens (default: the model's, at most 4096)",
         .min = 1, .max = 1048576},
        {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &a->memory_limit,
         .help = "stay under BYTES in all (64M, 1.5G): shrinks the context, or refuses"},
        {"chat", 0, NULL, EW_CLI_FLAG, &a->chat,
         .help = "PROMPT is a user's message: put it into the model's own chat template"},
        {"system", 0, "TEXT", EW_CLI_STRING, &a->system, .help = "with --chat: the system's message"},
        {"template-vars", 0, "JSON", EW_CLI_STRING, &a->vars,
         .help = "with --chat: variables of the template, as {\"enable_thinking\": false}"},
        {"draft", 0, "MODEL", EW_CLI_STRING, &a->draft,
         .help = "a small model of the same vocabulary drafts tokens that the model checks"},
        {"draft-tokens", 0, "N", EW_CLI_I64, &a->n_draft, .help = "most tokens drafted at once (default 4)", .min = 1,
         .max = EW_DRAFT_MAX},
        {"kernel", 0, "NAME", EW_CLI_STRING, &a->kernel, .help = EW_CLI_KERNEL_HELP},
        {"threads", 't', "N", EW_CLI_I64, &a->threads, .help = "default: all cores", .min = 1, .max = 256},
        {"kv", 0, "TYPE", EW_CLI_STRING, &a->kv, .help = EW_CLI_KV_HELP},
        {"echo", 0, NULL, EW_CLI_FLAG, &a->echo, .help = "print the prompt first"},
        {"special", 0, NULL, EW_CLI_FLAG, &a->special, .help = "recognise and print control tokens"},
        {"json", 0, NULL, EW_CLI_FLAG, &a->json, .help = "one JSON object at the end"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a->path, .help = "GGUF file or Hugging Face directory"},
                              {"PROMPT", EW_CLI_STRING, &a->prompt, .optional = true, .help = "text to continue"}};
    return ew_cli_parse(
        &(ew_cli_spec){
            "model generate", "Continues a text; the text goes to stdout as it comes.",
            "  edgewise model generate m.gguf 'Once upon a time' -n 100 -T 0.8 --top-p 0.95\n"
            "  edgewise model generate qwen2.5-7b.gguf --chat 'Why is the sky blue?' --draft qwen2.5-0.5b.gguf\n",
            opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
}

static bool print_piece(const char *text, size_t size, void *ctx)
{
    (void)ctx;
    (void)fwrite(text, 1, size, stdout);
    (void)fflush(stdout);
    return !ew_signal_stop();
}

static bool ask_stop(const char *text, size_t size, void *ctx)
{
    (void)text;
    (void)size;
    (void)ctx;
    return !ew_signal_stop();
}

static ew_status read_prompt(const generate_args *a, ew_buf *out, ew_error *reterr)
{
    if (a->file != NULL) {
        return ew_file_read(a->file, 16 * 1024 * 1024, out, reterr);
    }
    if (a->prompt == NULL) {
        return ew_fail(reterr, EW_EINVAL, "there is no prompt. HINT: give PROMPT or --file");
    }
    ew_buf_adds(out, a->prompt);
    return ew_buf_check(out, reterr);
}

static ew_status generate_json(const ew_buf *text, const ew_tokens *ids, const ew_generate_stats *st, ew_error *reterr)
{
    EW_AUTO_JSON list = json_array();
    for (size_t i = 0; i < ids->n; i++) {
        (void)json_array_append_new(list, json_integer(ids->id[i]));
    }
    EW_AUTO_JSON j = json_pack("{s:s# s:O s:I s:f s:f s:s s:I s:I}", "text", ew_buf_str(text), (int)text->size, "ids",
                               list, "prompt_tokens", (json_int_t)st->n_prompt_tok, "prompt_seconds", st->prompt_s,
                               "generate_seconds", st->gen_s, "stop", ew_stop_reason_name(st->stop), "drafted",
                               (json_int_t)st->n_drafted, "kept", (json_int_t)st->n_kept);
    if (j == NULL) {
        return ew_fail(reterr, EW_EINTERNAL, "the text is not valid UTF-8");
    }
    return ew_cli_put_json(j, reterr);
}

static void generate_chatter(const ew_generate_stats *st)
{
    (void)fprintf(stderr, "%zu prompt tokens at %.1f/s, %zu generated at %.1f/s (%s)\n", st->n_prompt_tok,
                  (double)st->n_prompt_tok / fmax(st->prompt_s, 1e-9), st->n_gen_tok,
                  (double)st->n_gen_tok / fmax(st->gen_s, 1e-9), ew_stop_reason_name(st->stop));
    if (st->n_drafted > 0) {
        (void)fprintf(stderr, "%llu tokens drafted, %.0f %% kept\n", (unsigned long long)st->n_drafted,
                      100.0 * (double)st->n_kept / (double)st->n_drafted);
    }
}

static ew_status chat_ids(const generate_args *a, const ew_model *m, const ew_buf *prompt, ew_tokens *out,
                          ew_error *reterr)
{
    const char *template = ew_model_chat_template(m);
    EW_AUTO_JSON vars = NULL;
    struct tm now;
    time_t t = time(NULL);
    if (prompt->size > 0 && memchr(prompt->data, 0, prompt->size) != NULL) {
        return ew_fail(reterr, EW_EINVAL, "a message with a zero byte: --chat takes text");
    }
    if (template == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s has no chat template. HINT: leave out --chat and write the prompt "
                       "as the model was trained",
                       a->path);
    }
    if (a->vars != NULL) {
        EW_TRY(ew_json_load("--template-vars", a->vars, strlen(a->vars), &vars, reterr));
        if (!json_is_object(vars)) {
            return ew_fail(reterr, EW_EINVAL, "--template-vars should be an object, is %s", ew_json_kind(vars));
        }
    }
    ew_chat_message messages[2];
    size_t n = 0;
    if (a->system != NULL) {
        messages[n++] = (ew_chat_message){.role = "system", .content = a->system};
    }
    messages[n++] = (ew_chat_message){.role = "user", .content = ew_buf_str(prompt)};
    ew_chat_render_opt opt = {.add_generation_prompt = true, .vars = vars, .now = localtime_r(&t, &now)};
    return ew_chat_prompt(ew_model_tokenizer(m), template, messages, n, &opt, out, reterr);
}

static ew_status prompt_ids(const generate_args *a, const ew_model *m, ew_buf *prompt, ew_tokens *out, ew_error *reterr)
{
    if (a->chat) {
        return chat_ids(a, m, prompt, out, reterr);
    }
    if (a->system != NULL || a->vars != NULL) {
        return ew_fail(reterr, EW_EINVAL, "--system and --template-vars go with --chat");
    }
    unsigned flags = EW_ENCODE_BOS | (a->special ? EW_ENCODE_SPECIAL : 0);
    return ew_tokenizer_encode(ew_model_tokenizer(m), prompt->data, prompt->size, flags, out, reterr);
}

/* What a draft takes of the memory limit: its weights, a session as long as the model's may be, and the distributions. */
static ew_status draft_bytes(const generate_args *a, const ew_model *draft, const ew_session_opt *so, uint64_t *ret,
                             ew_error *reterr)
{
    const ew_model_config *c = ew_model_config_of(draft);
    ew_memory_plan plan;
    ew_session_opt o = *so;
    o.n_ctx = so->n_ctx != 0 ? EW_MIN(so->n_ctx, c->n_ctx_train) : 0;
    EW_TRY(ew_session_memory(draft, &o, &plan, reterr));
    uint64_t rows = 2 * (a->n_draft != 0 ? (uint64_t)a->n_draft : EW_DRAFT_DEFAULT) + 2;
    *ret = plan.weights_bytes + plan.kv_bytes + plan.workspace_bytes + rows * c->V * sizeof(float);
    return EW_OK;
}

/* The session of the model, and that of the draft if there is one. */
static ew_status open_sessions(const generate_args *a, const ew_model *m, const ew_model *draft, ew_session_opt *so,
                               ew_session **ret, ew_session **ret_draft, ew_error *reterr)
{
    char b1[32];
    char b2[32];
    uint64_t limit = a->memory_limit;
    uint64_t taken = 0;
    if (draft != NULL && limit != 0) {
        EW_TRY(draft_bytes(a, draft, so, &taken, reterr));
        if (taken >= limit) {
            return ew_fail(reterr, EW_ELIMIT, "the draft does not fit into %s: it takes %s. HINT: leave out --draft",
                           ew_str_bytes(b1, sizeof(b1), limit), ew_str_bytes(b2, sizeof(b2), taken));
        }
    }
    ew_status st = ew_cli_session_open(m, so, limit - taken, a->n_ctx != 0, ret, reterr);
    if (st != EW_OK) {
        return taken != 0 ? ew_wrap(reterr, st, "beside the draft's %s", ew_str_bytes(b1, sizeof(b1), taken)) : st;
    }
    if (draft == NULL) {
        return EW_OK;
    }
    so->n_ctx = EW_MIN(ew_session_n_ctx(*ret), ew_model_config_of(draft)->n_ctx_train);
    st = ew_session_new(draft, so, ret_draft, reterr);
    return st == EW_OK ? EW_OK : ew_wrap(reterr, st, "the draft");
}

static ew_status generate_run(const generate_args *a, const ew_cli_app *app, ew_error *reterr)
{
    EW_AUTO_BUF prompt = {0};
    EW_AUTO_BUF text = {0};
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_TOKENS out = {0};
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_COMPUTE compute = {0};
    EW_AUTO(ew_session) s = NULL;
    EW_AUTO(ew_model) draft_model = NULL;
    EW_AUTO(ew_session) draft = NULL;
    EW_TRY(read_prompt(a, &prompt, reterr));
    EW_TRY(ew_model_open(a->path, NULL, &m, reterr));
    if (ew_model_tokenizer(m) == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", a->path);
    }
    EW_TRY(prompt_ids(a, m, &prompt, &ids, reterr));
    EW_TRY(ew_cli_compute_open(app, a->threads, a->kernel, &compute, reterr));
    ew_session_opt so = {.n_ctx = (uint32_t)a->n_ctx, .exec = compute.exec};
    EW_TRY(ew_cli_kv_parse(a->kv, &so.kv_type, reterr));
    if (a->draft != NULL) {
        EW_TRY(ew_model_open(a->draft, NULL, &draft_model, reterr));
    }
    EW_TRY(open_sessions(a, m, draft_model, &so, &s, &draft, reterr));
    if (ids.n > ew_session_n_ctx(s)) {
        return ew_fail(reterr, EW_ELIMIT, "the prompt of %zu tokens does not fit the context of %u. HINT: --ctx N",
                       ids.n, ew_session_n_ctx(s));
    }
    ew_generate_opt go = {.max_tok = (uint32_t)a->max_tok,
                          .stop = (const char *const *)a->stop.item,
                          .n_stop = a->stop.n,
                          .special = a->special,
                          .draft = draft,
                          .n_draft = (uint32_t)a->n_draft,
                          .sampler = {.temperature = (float)a->temperature,
                                      .top_k = (uint32_t)a->top_k,
                                      .top_p = (float)a->top_p,
                                      .min_p = (float)a->min_p,
                                      .repeat_penalty = (float)a->penalty,
                                      .seed = (uint64_t)a->seed},
                          .on_text = a->json ? ask_stop : print_piece};
    ew_generate_stats st = {0};
    if (a->echo && !a->json) {
        (void)fwrite(prompt.data, 1, prompt.size, stdout);
    }
    EW_TRY(ew_generate(s, ids.id, ids.n, &go, &out, &text, &st, reterr));
    if (a->json) {
        return generate_json(&text, &out, &st, reterr);
    }
    (void)printf("\n");
    (void)fflush(stdout);
    generate_chatter(&st);
    return EW_OK;
}

int ew_cli_model_generate(int argc, char **argv, void *ctx)
{
    generate_args a = {.max_tok = 256};
    ew_error err = EW_ERROR_INIT;
    int status = generate_parse(argc, argv, &a);
    if (status == EW_CLI_GO) {
        ew_status st = generate_run(&a, ctx, &err);
        status = st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
    }
    ew_cli_strings_release(&a.stop);
    return status;
}

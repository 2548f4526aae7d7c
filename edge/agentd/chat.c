/* Answers with the model that is served, on the device or with some layers at the coordinator. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agentd/agent_int.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "chat/chat.h"
#include "model/generate.h"
#include "peft/adapter.h"
#include "run/prompter.h"
#include "split/split.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "text/json.h"

#define OFFLOAD_CALL_MS 10000
#define TASKLESS_MAX_TOK 256
#define VECTORS_MS 1000 /* of an answer, for vectors of items that have none yet */

typedef struct chat {
    ew_agent *a;
    const ew_chat_opt *opt;
    uint8_t model_sha256[EW_SHA256_BYTES];
    char model_hex[2 * EW_SHA256_BYTES + 1];
    char task_name[EW_TASK_NAME_SIZE];
    uint32_t rag_k, rag_rank;
    size_t n_vectors_missing;
    bool heavy;       /* no worker starts while this answer is made */
    bool gave_way;    /* a learning made room */
    bool first;       /* the worker is stopped for this answer */
    uint64_t adapter; /* of what was chosen; 0 = none */
    bool decided;     /* something was chosen: for the task's format, in which it was tuned and measured */
    ew_model *model;
    ew_adapter *lora;
    ew_model *tuned; /* the model to run: with an adapter that replaces weights another one */
    ew_items items;
    ew_task *task;
    ew_prompter *prompter;
    ew_pool *pool;
    ew_exec exec;
    ew_session *s;
    ew_tokens prompt;
    ew_split_session *split;
    uint64_t kv_session;
    char went_local[EW_ERROR_MSG_MAX]; /* why the link was given up */
    ew_chat_text_fn on_text;
    void *text_ctx;
    bool told; /* some text was given to on_text */
} chat;

static void chat_release(chat *c)
{
    ew_split_session_free(&c->split);
    ew_session_free(&c->s);
    ew_model_unref(&c->tuned);
    ew_adapter_free(&c->lora);
    ew_prompter_free(&c->prompter);
    ew_task_free(&c->task);
    ew_items_release(&c->items);
    ew_tokens_release(&c->prompt);
    ew_model_unref(&c->model);
    ew_pool_free(&c->pool);
    if (c->first) {
        ew_yield_end(&c->a->yield);
    }
    if (c->heavy) {
        (void)pthread_mutex_unlock(&c->a->heavy);
    }
    if (c->gave_way) {
        ew__learner_give_way(c->a, false);
    }
}

/* ---- what is served ---- */

/* Without a decision yet: any model that is here, the plain one. */
static ew_status pick_any_model(chat *c, ew_error *reterr)
{
    char dir[EW_HOME_PATH_MAX];
    ew_dir_list list = {0};
    bool found = false;
    EW_TRY(ew_dir_read(ew_home_path(&c->a->home, "artifacts", dir), &list, reterr));
    for (size_t i = 0; i < list.n && !found; i++) {
        char hex[2 * EW_SHA256_BYTES + 1];
        if (strlen(list.entry[i].name) == 2 * EW_SHA256_BYTES + 5 && ew_str_ends(list.entry[i].name, ".gguf")) {
            (void)ew_str_copy(hex, sizeof(hex), list.entry[i].name);
            found = ew_hex_decode(hex, c->model_sha256, EW_SHA256_BYTES);
        }
    }
    ew_dir_list_release(&list);
    return found ? EW_OK : ew_fail(reterr, EW_ENOENT, "no model is on this device yet. HINT: edgewise-agent learn");
}

/* What is served for the request: the adapter it names, its task, or what was chosen last. EW_ENOENT: nothing was chosen. */
static ew_status choose(const chat *c, ew_served *ret, ew_error *reterr)
{
    ew_agent *a = c->a;
    ew_vault_adapter meta;
    ew_served s = {0};
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = c->opt->adapter != 0 ? ew_vault_adapter_get(a->vault, c->opt->adapter, &meta, reterr)
                                        : ew_served_get(&a->home, c->opt->task, &s, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    if (c->opt->adapter != 0) {
        s = (ew_served){.rag_k = meta.rag_k, .rag_rank = meta.rag_rank, .adapter = meta.id};
        (void)ew_str_copy(s.model, sizeof(s.model), meta.base_sha256);
        (void)ew_str_copy(s.task, sizeof(s.task), meta.task);
        if (c->opt->task != NULL && !ew_str_eq(c->opt->task, meta.task)) {
            return ew_fail(reterr, EW_ECONFLICT, "adapter %llu belongs to the task %s", (unsigned long long)meta.id,
                           meta.task);
        }
    }
    *ret = s;
    return EW_OK;
}

static ew_status read_active(chat *c, ew_error *reterr)
{
    ew_served s;
    ew_error err = EW_ERROR_INIT;
    (void)ew_str_copy(c->task_name, sizeof(c->task_name), "custom");
    ew_status st = choose(c, &s, &err);
    if (st == EW_OK) {
        c->decided = true;
        (void)ew_str_copy(c->task_name, sizeof(c->task_name), s.task);
        c->rag_k = s.rag_k;
        c->rag_rank = s.rag_rank;
        c->adapter = s.adapter;
        st = ew_hex_decode(s.model, c->model_sha256, EW_SHA256_BYTES)
                 ? EW_OK
                 : ew_fail(reterr, EW_ECORRUPT, "the hash of the served model is damaged. HINT: edgewise-agent learn");
    } else if (st == EW_ENOENT && c->opt->adapter == 0 && c->opt->task == NULL) {
        st = pick_any_model(c, reterr);
    } else {
        (void)ew_fail(reterr, st, "%s", err.msg);
    }
    ew_hex_encode(c->model_sha256, EW_SHA256_BYTES, c->model_hex);
    return st;
}

/* One that learned from what was forgotten is not used: without it, unless the request named it. */
static ew_status usable_adapter(const chat *c, uint64_t *ret_id, ew_error *reterr)
{
    ew_vault_adapter meta;
    *ret_id = 0;
    (void)pthread_mutex_lock(&c->a->vault_lock);
    ew_status st = c->adapter == EW_SERVED_UNSAID
                       ? ew_vault_adapter_active(c->a->vault, c->task_name, c->model_hex, &meta, reterr)
                       : ew_vault_adapter_get(c->a->vault, c->adapter, &meta, reterr);
    (void)pthread_mutex_unlock(&c->a->vault_lock);
    if (st == EW_ENOENT) {
        return EW_OK;
    }
    EW_TRY(st);
    if (meta.flagged && c->opt->adapter != 0) {
        return ew_fail(reterr, EW_ECONFLICT,
                       "adapter %llu learned from items that were forgotten since. HINT: edgewise-agent learn",
                       (unsigned long long)meta.id);
    }
    *ret_id = meta.flagged || !ew_str_eq(meta.base_sha256, c->model_hex) ? 0 : meta.id;
    return EW_OK;
}

/* The adapter leaves the vault only as a file on tmpfs that is gone at once; every answer has its own. */
static ew_status load_adapter(chat *c, ew_error *reterr)
{
    char name[32];
    char path[EW_HOME_PATH_MAX];
    uint64_t id = 0;
    EW_TRY(usable_adapter(c, &id, reterr));
    if (id == 0) {
        return EW_OK;
    }
    (void)snprintf(name, sizeof(name), "served-%u.gguf", atomic_fetch_add(&c->a->n_answers, 1));
    EW_TRY(ew__agent_adapter_file(c->a, id, name, path, reterr));
    ew_status st = ew_adapter_load_gguf(path, c->model, &c->lora, reterr);
    ew_status removed = ew_file_remove(path, st == EW_OK ? reterr : NULL);
    return st == EW_OK ? removed : st;
}

/* The prompt as a user's turn in the model's own format. What it says cannot become a control token (chat/chat.h). */
static ew_status load_turn(chat *c, const char *template_text, ew_error *reterr)
{
    struct tm now;
    const time_t t = time(NULL);
    const ew_chat_message m = {.role = "user", .content = c->opt->prompt};
    const ew_chat_render_opt opt = {.add_generation_prompt = true, .now = localtime_r(&t, &now)};
    ew_status st = ew_chat_prompt(ew_model_tokenizer(c->model), template_text, &m, 1, &opt, &c->prompt, reterr);
    return st == EW_OK ? EW_OK : ew_wrap(reterr, st, "the model's prompt format (chat --raw does without it)");
}

/* What the session may take under the agent's limit: a worker beside it counts. 0 = no limit. */
static ew_status session_limit(const chat *c, uint64_t worker_bytes, uint64_t *ret, ew_error *reterr)
{
    ew_proc_mem mem = {0};
    *ret = 0;
    if (c->a->opt.memory_limit_bytes != 0) {
        EW_TRY(ew_proc_mem_read(&mem, reterr));
        uint64_t margin = worker_bytes != 0 ? EW_MIB : EW_AGENT_RAM_MARGIN_BYTES;
        uint64_t held = mem.rss_bytes + ew_model_weights_bytes(c->model) + margin + worker_bytes;
        *ret = c->a->opt.memory_limit_bytes > held ? c->a->opt.memory_limit_bytes - held : 1;
    }
    return EW_OK;
}

/* The prompt with retrieval by vectors. Those that the vault lacks are made for VECTORS_MS at most: an item without one is found by the other
 * rankings alone, and gets its own with one of the next answers. Where the limit leaves no room for them: by the other rankings, or words. */
static ew_status load_by_vectors(chat *c, ew_prompter_opt opt, ew_error *reterr)
{
    uint64_t limit = 0;
    EW_AUTO(ew_embedder) e = NULL;
    EW_AUTO(ew_prompter) p = NULL;
    EW_TRY(session_limit(c, c->heavy ? 0 : atomic_load(&c->a->worker_bytes), &limit, reterr));
    EW_TRY(ew_embedder_new(c->model, &(ew_embed_opt){.exec = c->exec}, &e, reterr));
    if (limit != 0 && ew_embedder_bytes(e) > limit) {
        ew_embedder_free(&e);
    }
    ew__vectors v = ew__agent_vectors(c->a, &c->items, e, c->model_hex, c->task, ew_mono_ms() + VECTORS_MS);
    opt.rag_k = c->rag_k;
    opt.rag_fuse = ew_prompter_fuse(c->rag_rank) & ~(e == NULL ? EW_RAG_VECTOR : 0u);
    opt.embedder = e;
    opt.vector_of = ew__agent_vector_of;
    opt.vector_ctx = &v;
    EW_TRY(ew_prompter_new(&opt, c->items.item, c->items.n, &p, reterr));
    c->n_vectors_missing = e != NULL ? v.n_missing : c->items.n;
    return ew_prompter_prompt(p, c->opt->prompt, UINT64_MAX, &c->prompt, reterr);
}

static ew_status load_prompt(chat *c, ew_error *reterr)
{
    const ew_tokenizer *tok = ew_model_tokenizer(c->model);
    if (c->opt->raw) {
        return ew_tokenizer_encode(tok, c->opt->prompt, strlen(c->opt->prompt), EW_ENCODE_BOS, &c->prompt, reterr);
    }
    const char *template_text = ew_model_chat_template(c->model);
    if (template_text != NULL && !c->decided) {
        return load_turn(c, template_text, reterr);
    }
    (void)pthread_mutex_lock(&c->a->vault_lock);
    ew_status st = ew_vault_items(c->a->vault, &c->items, reterr);
    (void)pthread_mutex_unlock(&c->a->vault_lock);
    EW_TRY(st);
    EW_TRY(ew_task_new(c->task_name, c->items.item, c->items.n, &c->task, reterr));
    ew_prompter_opt opt = {
        .task = c->task, .tokenizer = tok, .seq_max_tok = EW_MIN(512u, ew_model_config_of(c->model)->n_ctx_train)};
    if (c->rag_k != 0 && ew_prompter_embeds(c->rag_rank)) {
        EW_TRY(load_by_vectors(c, opt, reterr));
        return ew_prompter_new(&opt, NULL, 0, &c->prompter, reterr); /* for what is tried as an answer */
    }
    opt.rag_k = c->rag_k;
    opt.rag_fuse = ew_prompter_fuse(c->rag_rank);
    EW_TRY(ew_prompter_new(&opt, c->items.item, c->items.n, &c->prompter, reterr));
    return ew_prompter_prompt(c->prompter, c->opt->prompt, UINT64_MAX, &c->prompt, reterr);
}

static uint32_t max_tokens(const chat *c)
{
    return c->opt->max_tok != 0 ? c->opt->max_tok
           : c->task != NULL    ? (uint32_t)c->task->max_answer_tok
                                : TASKLESS_MAX_TOK;
}

/* Beside a worker when both fit, else when it is done; a learning comes to its checkpoint and makes room. */
static ew_status open_session(chat *c, ew_session_opt *opt, ew_error *reterr)
{
    uint64_t worker = c->heavy ? 0 : atomic_load(&c->a->worker_bytes);
    if (c->a->opt.memory_limit_bytes != 0 && !c->heavy) {
        EW_TRY(session_limit(c, worker, &opt->memory_limit_bytes, reterr));
        if (worker != 0 && ew_session_new(c->tuned != NULL ? c->tuned : c->model, opt, &c->s, NULL) == EW_OK) {
            return EW_OK;
        }
        ew__learner_give_way(c->a, true);
        c->gave_way = true;
        (void)pthread_mutex_lock(&c->a->heavy);
        c->heavy = true;
    }
    EW_TRY(session_limit(c, 0, &opt->memory_limit_bytes, reterr));
    return ew_session_new(c->tuned != NULL ? c->tuned : c->model, opt, &c->s, reterr);
}

static ew_status make_session(chat *c, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(c->model);
    uint32_t need = (uint32_t)c->prompt.n + max_tokens(c);
    ew_session_opt opt = {.n_ctx = EW_MIN(need, cfg->n_ctx_train),
                          .exec = c->exec,
                          .hooks = c->lora != NULL ? ew_adapter_hooks(c->lora) : NULL};
    if (c->prompt.n >= opt.n_ctx) {
        return ew_fail(reterr, EW_ELIMIT, "the prompt of %zu tokens does not fit the model's context of %u",
                       c->prompt.n, cfg->n_ctx_train);
    }
    return open_session(c, &opt, reterr);
}

static ew_status load(chat *c, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    EW_TRY(read_active(c, reterr));
    EW_TRY(ew__agent_model(c->a, c->model_sha256, NULL, path, reterr));
    EW_TRY(ew_model_open(path, NULL, &c->model, reterr));
    if (ew_model_tokenizer(c->model) == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "the model has no tokenizer");
    }
    if (!c->opt->plain && c->adapter != 0) {
        EW_TRY(load_adapter(c, reterr));
    }
    if (c->lora != NULL) {
        EW_TRY(ew_adapter_model(c->lora, c->model, &c->tuned, reterr));
    }
    c->exec.kern = ew_kern_get(c->opt->exact ? "ref" : c->a->opt.kern);
    EW_TRY(ew_pool_new(c->a->opt.n_threads, &c->pool, reterr));
    c->exec.pool = c->pool;
    EW_TRY(load_prompt(c, reterr));
    return make_session(c, reterr);
}

/* ---- offload ---- */

static ew_status forward(void *ctx, uint64_t step, uint32_t position, uint32_t n, const void *act, size_t bytes,
                         void *ret_act, ew_error *reterr)
{
    chat *c = ctx;
    EW_AUTO_BUF body = {.max = EW_LIMIT_BODY_BYTES};
    ew_msg *reply = NULL;
    ew_msg *m = ew_msg_new(EW_MSG_OFFLOAD_FORWARD);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for an offload step");
    }
    m->offload_forward = (ew_msg_offload_forward){.kv_session = c->kv_session,
                                                  .step = step,
                                                  .position = position,
                                                  .n_tok = n,
                                                  .act = {.dtype = c->opt->exact ? EW_ACT_F32 : EW_ACT_F16,
                                                          .rank = 2,
                                                          .shape = {n, ew_model_config_of(c->model)->C},
                                                          .length = bytes},
                                                  .parts = 1};
    ew_status st = ew_client_call(c->a->client, m, (ew_span){act, bytes}, OFFLOAD_CALL_MS, &reply, &body, reterr);
    ew_msg_free(&m);
    EW_TRY(st);
    if (reply->type != EW_MSG_OFFLOAD_OUTPUT || reply->offload_output.step != step || body.size != bytes) {
        st = ew_fail(reterr, EW_ECORRUPT, "the coordinator's answer to an offload step has the wrong shape");
    } else {
        memcpy(ret_act, body.data, bytes);
    }
    ew_msg_free(&reply);
    return st;
}

static void on_local(void *ctx, uint32_t position, const ew_error *why)
{
    chat *c = ctx;
    (void)ew_str_copy(c->went_local, sizeof(c->went_local), why->msg);
    ew__agent_event(c->a, "offload-lost", "position=%u %s", position, why->msg);
}

static ew_status open_offload(chat *c, ew_error *reterr)
{
    uint32_t L = ew_model_config_of(c->model)->L;
    bool given = c->opt->last_layer != 0;
    uint32_t first = given ? c->opt->first_layer : L / 4;
    uint32_t last = given ? c->opt->last_layer : EW_MAX(L - L / 4, first + 1);
    if (!c->a->home.consent_offload) {
        return ew_fail(reterr, EW_EDENIED,
                       "offload sends hidden states to the coordinator, from which most of a text can be "
                       "reconstructed, and you have not agreed "
                       "to that. HINT: edgewise-agent consent offload on");
    }
    if (c->lora != NULL) {
        return ew_fail(
            reterr, EW_EUNSUPPORTED,
            "layers with a personal adapter stay on the device. HINT: chat --plain --offload answers without it");
    }
    EW_TRY(ew_agent_wait_up(c->a, 10000, reterr));
    ew_msg *reply = NULL;
    ew_msg *m = ew_msg_new(EW_MSG_OFFLOAD_OPEN);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for offload");
    }
    m->offload_open = (ew_msg_offload_open){.first_layer = first,
                                            .last_layer = last,
                                            .act_dtype = c->opt->exact ? EW_ACT_F32 : EW_ACT_F16,
                                            .max_positions = ew_session_n_ctx(c->s),
                                            .reference = c->opt->exact};
    memcpy(m->offload_open.model_sha256, c->model_sha256, EW_SHA256_BYTES);
    ew_status st = ew_client_call(c->a->client, m, (ew_span){0}, OFFLOAD_CALL_MS, &reply, NULL, reterr);
    ew_msg_free(&m);
    EW_TRY(st);
    if (reply->type == EW_MSG_OFFLOAD_OPENED) {
        c->kv_session = reply->offload_opened.kv_session;
    } else {
        st = ew_fail(reterr, EW_ECORRUPT, "the coordinator answered an offload request with %s",
                     ew_msg_type_name(reply->type));
    }
    ew_msg_free(&reply);
    EW_TRY(st);
    const ew_split_opt opt = {.first_layer = first,
                              .last_layer = last,
                              .act = c->opt->exact ? EW_ACTIVATION_F32 : EW_ACTIVATION_F16,
                              .forward = forward,
                              .on_local = on_local,
                              .ctx = c};
    return ew_split_session_new(c->s, &opt, &c->split, reterr);
}

static void close_offload(chat *c)
{
    ew_msg *m = c->kv_session != 0 ? ew_msg_new(EW_MSG_OFFLOAD_CLOSE) : NULL;
    if (m != NULL) {
        m->offload_close.kv_session = c->kv_session;
        /* Lost with the session: the lease frees it. */
        if (ew_client_notify(c->a->client, m, (ew_span){0}, NULL) != EW_OK) {
            ew__agent_event(c->a, "offload-close", "the lease will end it");
        }
        ew_msg_free(&m);
    }
}

/* The byte ledger: everything that offload ever sent and received, for `status` and for the user. */
static ew_status write_ledger(chat *c, const ew_split_stats *s, ew_error *reterr)
{
    EW_AUTO_JSON old = NULL;
    json_int_t out = 0;
    json_int_t in = 0;
    json_int_t answers = 0;
    (void)pthread_mutex_lock(&c->a->vault_lock); /* two answers at once: both count */
    if (ew_home_read_json(&c->a->home, "ledger.json", &old, NULL) == EW_OK) {
        out = json_integer_value(json_object_get(old, "offload_bytes_out"));
        in = json_integer_value(json_object_get(old, "offload_bytes_in"));
        answers = json_integer_value(json_object_get(old, "offload_answers"));
    }
    EW_AUTO_JSON j = json_pack("{s:I,s:I,s:I}", "offload_bytes_out", out + (json_int_t)s->bytes_out, "offload_bytes_in",
                               in + (json_int_t)s->bytes_in, "offload_answers", answers + 1);
    ew_status st = ew_home_write_json(&c->a->home, "ledger.json", j, reterr);
    (void)pthread_mutex_unlock(&c->a->vault_lock);
    return st;
}

/* ---- answering ---- */

static bool on_generated(const char *text, size_t size, void *ctx)
{
    chat *c = ctx;
    ew_yield_tick(&c->a->yield);
    /* A task's answer is " " + text: the blank belongs to the format. */
    while (c->task != NULL && !c->told && size > 0 && *text == ' ') {
        text++;
        size--;
    }
    c->told = c->told || size > 0;
    return c->on_text == NULL || c->on_text(text, size, c->text_ctx);
}

static ew_status generate(chat *c, bool stream, ew_tokens *ids, ew_generate_stats *stats, ew_error *reterr)
{
    static const char *const newline[] = {"\n"};
    const ew_generate_opt opt = {.max_tok = max_tokens(c),
                                 .stop = newline,
                                 .n_stop = c->task != NULL ? 1 : 0,
                                 .sampler = {.temperature = (float)c->opt->temperature, .seed = c->opt->seed},
                                 .on_text = stream ? on_generated : NULL,
                                 .ctx = c};
    return ew_generate(c->s, c->prompt.id, c->prompt.n, &opt, ids, NULL, stats, reterr);
}

/* Tokens that are the same, position by position, over the longer answer. */
static double agreement(const ew_tokens *a, const ew_tokens *b)
{
    size_t n = EW_MAX(a->n, b->n);
    size_t same = 0;
    for (size_t i = 0; i < EW_MIN(a->n, b->n); i++) {
        same += a->id[i] == b->id[i];
    }
    return n > 0 ? (double)same / (double)n : 1;
}

static ew_status end_offload(chat *c, json_t *stats, ew_error *reterr)
{
    ew_split_stats s;
    ew_split_session_get_stats(c->split, &s);
    (void)json_object_set_new(stats, "offload",
                              json_pack("{s:I,s:I,s:I,s:f,s:b,s:I,s:s}", "bytes_out", (json_int_t)s.bytes_out,
                                        "bytes_in", (json_int_t)s.bytes_in, "trips", (json_int_t)s.trips, "wait_s",
                                        s.wait_s, "went_local", s.local, "local_position", (json_int_t)s.local_position,
                                        "why", c->went_local));
    close_offload(c);
    ew_split_session_free(&c->split);
    return write_ledger(c, &s, reterr);
}

static ew_status answer(chat *c, json_t *stats, ew_error *reterr)
{
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_TOKENS local = {0};
    ew_generate_stats g = {0};
    ew_status st = generate(c, true, &ids, &g, reterr);
    if (c->split != NULL) {
        /* What was sent counts, also when no answer came of it. */
        ew_status counted = end_offload(c, stats, st == EW_OK ? reterr : NULL);
        st = st == EW_OK ? counted : st;
    }
    EW_TRY(st);
    (void)json_object_set_new(stats, "prompt_tok", json_integer((json_int_t)g.n_prompt_tok));
    (void)json_object_set_new(stats, "answer_tok", json_integer((json_int_t)g.n_gen_tok));
    (void)json_object_set_new(stats, "tok_per_s", json_real(g.gen_s > 0 ? (double)g.n_gen_tok / g.gen_s : 0));
    (void)json_object_set_new(stats, "stop", json_string(ew_stop_reason_name(g.stop)));
    (void)json_object_set_new(stats, "adapter", json_boolean(c->lora != NULL));
    if (c->opt->compare) {
        ew_session_reset(c->s);
        EW_TRY(generate(c, false, &local, &g, reterr));
        (void)json_object_set_new(stats, "agreement", json_real(agreement(&ids, &local)));
    }
    return EW_OK;
}

/* A task with labels: the likeliest one. */
static ew_status classify(chat *c, json_t *stats, ew_error *reterr)
{
    EW_AUTO_TOKENS ids = {0};
    size_t n = c->task->n_labels;
    ew_label *labels = ew_calloc(n, sizeof(*labels));
    double *log_prob = ew_calloc(n, sizeof(*log_prob));
    ew_status st =
        labels != NULL && log_prob != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for %zu labels", n);
    for (size_t i = 0; i < n && st == EW_OK; i++) {
        size_t start = ids.n;
        st = ew_prompter_answer(c->prompter, c->task->labels[i], &ids, reterr);
        labels[i].n = ids.n - start;
    }
    for (size_t i = 0, at = 0; i < n && st == EW_OK; i++) {
        labels[i].ids = ids.id + at;
        at += labels[i].n;
    }
    if (st == EW_OK) {
        st = ew_score_labels(c->s, c->prompt.id, c->prompt.n, labels, n, log_prob, reterr);
    }
    if (st == EW_OK) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++) {
            best = log_prob[i] > log_prob[best] ? i : best;
        }
        (void)on_generated(c->task->labels[best], strlen(c->task->labels[best]), c);
        (void)json_object_set_new(stats, "log_prob", json_real(log_prob[best]));
        (void)json_object_set_new(stats, "adapter", json_boolean(c->lora != NULL));
    }
    ew_free(labels);
    ew_free(log_prob);
    return st;
}

ew_status ew_agent_chat(ew_agent *a, const ew_chat_opt *opt, ew_chat_text_fn on_text, void *ctx, json_t **ret_stats,
                        ew_error *reterr)
{
    chat c = {.a = a, .opt = opt, .on_text = on_text, .text_ctx = ctx};
    EW_AUTO_JSON stats = json_object();
    if (stats == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory");
    }
    c.heavy = a->opt.memory_limit_bytes != 0 && pthread_mutex_trylock(&a->heavy) == 0;
    ew_status st = load(&c, reterr);
    if (st == EW_OK) {
        /* Only now: until here it may have waited for the worker. */
        ew_yield_begin(&a->yield);
        c.first = true;
    }
    if (st == EW_OK && c.rag_k != 0 && ew_prompter_embeds(c.rag_rank)) {
        (void)json_object_set_new(stats, "vectors_missing", json_integer((json_int_t)c.n_vectors_missing));
    }
    if (st == EW_OK && opt->offload) {
        st = open_offload(&c, reterr);
    }
    if (st == EW_OK) {
        st = c.task != NULL && c.task->n_labels > 0 && !opt->offload ? classify(&c, stats, reterr)
                                                                     : answer(&c, stats, reterr);
    }
    chat_release(&c);
    EW_TRY(st);
    *ret_stats = json_incref(stats);
    return EW_OK;
}

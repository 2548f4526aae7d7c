/* Planning, learning from the profile, and what is served afterwards. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "agentd/agent_int.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "crypt/sign.h"
#include "probe/probe.h"
#include "record/record.h"
#include "run/prompter.h"
#include "task/task.h"
#include "text/json.h"
#include "wire/wire.h"

#define PLAN_CALL_MS 20000
#define BYTES_PER_TOK 3.5 /* before a tokenizer is here; the planner's token counts are estimates anyway */
#define DEFAULT_TASK "custom"
#define ADAPTER_BYTES_MAX (256 * EW_MIB)
#define UPDATE_SHARE 4 /* by itself it goes on with what is served as long as at most 1/4 is new */

/* ---- facts about the profile: counts only, no text ---- */

static ew_status fill_facts(ew_agent *a, const char *task_name, ew_task_facts *f, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    ew_task *task = NULL;
    double item_bytes = 0;
    double answer_bytes = 0;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_items(a->vault, &items, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    if (items.n == 0) {
        return ew_fail(reterr, EW_ENOENT, "the profile is empty. HINT: edgewise-agent data import FILE.jsonl");
    }
    /* Of the history alone: no decision sees the labels of test items. */
    ew_user_split split = ew_split_user(items.item, items.n, EW_SPLIT_POSITION);
    EW_TRY(ew_task_new(task_name, items.item, split.n_history, &task, reterr));
    for (size_t i = 0; i < items.n; i++) {
        item_bytes += (double)strlen(items.item[i].input) / (double)items.n;
        answer_bytes += i < split.n_history ? (double)strlen(items.item[i].output) / (double)split.n_history : 0;
    }
    *f = (ew_task_facts){.n_labels = (uint32_t)task->n_labels,
                         .n_items = (uint32_t)items.n,
                         .mean_item_tok = (uint32_t)((item_bytes + answer_bytes) / BYTES_PER_TOK) + 8,
                         .mean_answer_tok = (uint32_t)(answer_bytes / BYTES_PER_TOK) + 2};
    (void)ew_str_copy(f->task, sizeof(f->task), task_name);
    (void)ew_str_copy(f->metric, sizeof(f->metric), task->kind == EW_TASK_GENERATE ? "rouge1" : "accuracy");
    if (task->n_labels > 0) {
        ew_measure *m = &f->measures[f->n_measures++];
        (void)ew_str_copy(m->name, sizeof(m->name), "label.entropy");
        (void)ew_str_copy(m->unit, sizeof(m->unit), "bit");
        m->n = 1;
        m->values[0] = ew_items_entropy(items.item, split.n_history);
    }
    ew_task_free(&task);
    return EW_OK;
}

static ew_status ask_plan(ew_agent *a, const char *task, ew_plan **ret_plan, ew_error *reterr)
{
    EW_AUTO_BUF body = {0};
    ew_msg *req = ew_msg_new(EW_MSG_PLAN_REQUEST);
    ew_msg *reply = NULL;
    if (req == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a request");
    }
    ew_status st = fill_facts(a, task, &req->plan_request.facts, reterr);
    if (st == EW_OK) {
        ew_probe_state(a->home.root, a->opt.memory_limit_bytes, &req->plan_request.state);
        req->plan_request.state.consents = a->home.consent_offload ? EW_CONSENT_OFFLOAD : 0;
        /* The planner may predict 5 % less than this device will when it has the model: a plan at the very limit would be refused here. */
        uint64_t room = ew__agent_worker_limit(a);
        req->plan_request.budget.ram_bytes = room - room / 20;
        (void)ew_str_copy(req->plan_request.objective, sizeof(req->plan_request.objective), "score");
        st = ew_agent_wait_up(a, 10000, reterr);
    }
    if (st == EW_OK) {
        st = ew_client_call(a->client, req, (ew_span){0}, PLAN_CALL_MS, &reply, &body, reterr);
    }
    ew_msg_free(&req);
    EW_TRY(st);
    /* Verified over the very bytes before they are read. */
    if (reply->type != EW_MSG_PLAN_RESPONSE ||
        !ew_sign_verify(a->home.artifact_key, body.data, body.size, reply->plan_response.signature)) {
        ew_msg_free(&reply);
        return ew_fail(reterr, EW_EDENIED, "the plan is not signed by the key that this device was enrolled with");
    }
    ew_msg_free(&reply);
    return ew_wire_unpack_plan((ew_span){body.data, body.size}, ret_plan, reterr);
}

static ew_status load_plan(ew_agent *a, const char *task, ew_plan **ret_plan, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_home_read_json(&a->home, "plan.json", &j, reterr));
    ew_plan *p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a plan");
    }
    ew_status st = ew_record_to_plan(j, p, reterr);
    if (st == EW_OK && strcmp(p->task, task) != 0) {
        st = ew_fail(reterr, EW_ENOENT, "the last plan is for the task %s", p->task);
    }
    if (st != EW_OK) {
        ew_free(p);
        return st;
    }
    *ret_plan = p;
    return EW_OK;
}

ew_status ew_agent_plan(ew_agent *a, const char *task, ew_plan **ret_plan, bool *ret_fresh, ew_error *reterr)
{
    ew_error why = EW_ERROR_INIT;
    ew_plan *p = NULL;
    EW_AUTO_JSON j = NULL;
    task = task != NULL ? task : DEFAULT_TASK;
    ew_status st = ask_plan(a, task, &p, &why);
    if (st == EW_EREMOTE || st == EW_ETIMEOUT) {
        if (load_plan(a, task, ret_plan, NULL) == EW_OK) {
            *ret_fresh = false;
            return EW_OK;
        }
        return ew_fail(reterr, EW_EREMOTE, "there is no plan for %s yet, and the coordinator cannot be reached: %s",
                       task, why.msg);
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "%s", why.msg);
    }
    st = ew_record_from_plan(p, &j, reterr);
    if (st == EW_OK) {
        st = ew_home_write_json(&a->home, "plan.json", j, reterr);
    }
    if (st != EW_OK) {
        ew_free(p);
        return st;
    }
    *ret_plan = p;
    *ret_fresh = true;
    return EW_OK;
}

/* ---- checkpoints ---- */

#define CHECKPOINT ".tune" /* as run/run.h names them: number of the trial + this */

bool ew__agent_was_begun(ew_agent *a, const char *task)
{
    ew_plan *p = NULL;
    char hex[2 * EW_UID_BYTES + 1];
    char name[sizeof(hex) + sizeof(CHECKPOINT)];
    char path[EW_HOME_PATH_MAX];
    if (load_plan(a, task != NULL ? task : DEFAULT_TASK, &p, NULL) != EW_OK) {
        return false;
    }
    ew_hex_encode(p->id, EW_UID_BYTES, hex);
    ew_free(p);
    (void)snprintf(name, sizeof(name), "%s" CHECKPOINT, hex);
    return ew_file_exists(ew_home_runtime_path(&a->home, name, path));
}

/* Checkpoints that nobody will go on from: of other learnings. They hold memory, and what was learned from items that may be forgotten by now. */
static void drop_checkpoints(ew_agent *a, const uint8_t own[static EW_UID_BYTES])
{
    ew_dir_list list = {0};
    ew_trial_spec spec;
    char path[EW_HOME_PATH_MAX];
    if (ew_dir_read(a->home.runtime, &list, NULL) != EW_OK) {
        return;
    }
    for (size_t i = 0; i < list.n; i++) {
        const char *name = list.entry[i].name;
        char hex[2 * EW_UID_BYTES + 1];
        uint8_t id[EW_UID_BYTES];
        if (strlen(name) != 2 * EW_UID_BYTES + strlen(CHECKPOINT) || !ew_str_ends(name, CHECKPOINT)) {
            continue;
        }
        (void)snprintf(hex, sizeof(hex), "%.*s", 2 * EW_UID_BYTES, name);
        if (ew_hex_decode(hex, id, sizeof(id)) && memcmp(id, own, sizeof(id)) != 0 &&
            ew_spool_get(&a->home, id, &spec, NULL) != EW_OK) {
            ew_error err = EW_ERROR_INIT;
            if (ew_file_remove(ew_home_runtime_path(&a->home, name, path), &err) != EW_OK) {
                ew__agent_event(a, "prune-failed", "%s", err.msg);
            }
        }
    }
    ew_dir_list_release(&list);
}

static uint32_t rag_rank_of(const ew_trial_spec *spec)
{
    return ew_method_retrieves(spec->method) ? spec->settings.rag_rank : EW_RAG_RANK_BM25;
}

/* ---- what is served ---- */

bool ew__agent_served(ew_agent *a, const char *task, const char *model, ew_served *ret_served,
                      ew_vault_adapter *ret_meta)
{
    ew_served s;
    ew_vault_adapter meta = {0};
    if (ew_served_get(&a->home, task, &s, NULL) != EW_OK || !ew_str_eq(s.model, model)) {
        return false;
    }
    if (s.adapter == EW_SERVED_UNSAID) {
        bool adapted = ew_vault_adapter_active(a->vault, task, model, &meta, NULL) == EW_OK;
        s.adapter = adapted ? meta.id : 0;
    } else if (s.adapter != 0 && (ew_vault_adapter_get(a->vault, s.adapter, &meta, NULL) != EW_OK || meta.flagged ||
                                  !ew_str_eq(meta.base_sha256, model))) {
        return false;
    }
    *ret_served = s;
    *ret_meta = meta;
    return s.adapter != 0 || s.rag_k != 0;
}

ew_status ew__agent_adapter_file(ew_agent *a, uint64_t id, const char *name, char ret_path[static EW_HOME_PATH_MAX],
                                 ew_error *reterr)
{
    EW_AUTO_BUF file = {.max = ADAPTER_BYTES_MAX};
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_adapter_read(a->vault, id, &file, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    return ew_file_replace(ew_home_runtime_path(&a->home, name, ret_path), file.data, file.size, 0600, reterr);
}

/* ---- learning ---- */

/* One learning, from what it is told to what comes of it. */
typedef struct learning {
    ew_agent *a;
    const ew_plan *plan;
    const ew_learn_opt *opt;
    bool fresh;
    ew_trial_spec spec;
    char model_hex[2 * EW_SHA256_BYTES + 1];
    ew_items items;
    uint64_t last_row; /* of the items */
    bool has_served;
    ew_served served; /* before */
    ew_vault_adapter served_meta;
    bool update;
    ew_worker_outcome out;
    const char *decision;
    uint64_t adapter; /* stored; 0 = none */
} learning;

static ew_status store_adapter(learning *l, const char *path, ew_error *reterr)
{
    const ew_trial_result *r = l->out.result;
    EW_AUTO_BUF file = {.max = ADAPTER_BYTES_MAX};
    ew_vault_adapter meta = {.score_base = ew_trial_result_mean(r, "base.val.score"),
                             .score_adapter = ew_trial_result_mean(r, "val.score"),
                             .nll_base = ew_trial_result_mean(r, "base.val.nll"),
                             .nll_adapter = ew_trial_result_mean(r, "val.nll"),
                             .rag_k = ew_trial_rag_k(&l->spec),
                             .rag_rank = rag_rank_of(&l->spec),
                             .known_row = l->out.known_order,
                             .parent = l->update ? l->served.adapter : 0,
                             .created_ms = ew_wall_ms()};
    EW_TRY(ew_file_read(path, file.max, &file, reterr));
    (void)ew_str_copy(meta.task, sizeof(meta.task), l->spec.task);
    (void)ew_str_copy(meta.method, sizeof(meta.method), ew_method_name(l->spec.method));
    (void)ew_str_copy(meta.base_sha256, sizeof(meta.base_sha256), l->model_hex);
    uint64_t *rows = ew_calloc(EW_MAX(l->items.n, (size_t)1), sizeof(*rows));
    if (rows == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for an adapter's origin");
    }
    for (size_t i = 0; i < l->items.n; i++) {
        rows[i] = l->items.item[i].order;
    }
    (void)pthread_mutex_lock(&l->a->vault_lock);
    ew_status st = ew_vault_adapter_put(l->a->vault, &meta, rows, l->items.n, (ew_span){file.data, file.size},
                                        &l->adapter, reterr);
    (void)pthread_mutex_unlock(&l->a->vault_lock);
    ew_free(rows);
    return st == EW_OK ? EW_OK : ew_wrap(reterr, st, "storing the adapter (what was served before is kept)");
}

/* On validation items: the new one when it beats the plain model and what is served; else what is served as long as it beats the plain model. */
static const char *decide(const learning *l)
{
    if (l->out.better && l->out.beats_served) {
        return "new";
    }
    return l->has_served && l->out.served_beats_base ? "kept" : "plain";
}

/* DIR/active.json is what counts; the vault's mark follows it. An item that was forgotten meanwhile has flagged the adapter: then it is not served. */
static ew_status store_active(learning *l, ew_error *reterr)
{
    ew_agent *a = l->a;
    bool is_new = ew_str_eq(l->decision, "new");
    ew_served s = {.rag_k = is_new ? ew_trial_rag_k(&l->spec) : 0,
                   .rag_rank = is_new ? rag_rank_of(&l->spec) : EW_RAG_RANK_BM25,
                   .adapter = is_new ? l->adapter : 0};
    if (ew_str_eq(l->decision, "kept")) {
        return EW_OK;
    }
    (void)ew_str_copy(s.model, sizeof(s.model), l->model_hex);
    (void)ew_str_copy(s.name, sizeof(s.name), l->plan->chosen.model_name);
    (void)ew_str_copy(s.variant, sizeof(s.variant), l->spec.variant);
    (void)ew_str_copy(s.task, sizeof(s.task), l->spec.task);
    (void)ew_str_copy(s.method, sizeof(s.method), is_new ? ew_method_name(l->spec.method) : "none");
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_adapter_activate(a->vault, l->spec.task, l->model_hex, s.adapter, reterr);
    if (st == EW_OK) {
        st = ew_served_put(&a->home, &s, reterr);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    return st;
}

/* What neither is served nor can be gone back to. Failing is no harm: the next time. */
static void prune(const learning *l)
{
    ew_error err = EW_ERROR_INIT;
    uint64_t keep[EW_SERVED_BEFORE + 2];
    size_t n = 0;
    size_t removed = 0;
    (void)pthread_mutex_lock(&l->a->vault_lock);
    ew_status st = ew_served_adapters(&l->a->home, l->spec.task, keep, &n, &err);
    keep[n++] = l->adapter;
    if (st == EW_OK) {
        st = ew_vault_adapter_prune(l->a->vault, l->spec.task, keep, n, &removed, &err);
    }
    (void)pthread_mutex_unlock(&l->a->vault_lock);
    if (st != EW_OK) {
        ew__agent_event(l->a, "prune-failed", "%s", err.msg);
    }
}

static ew_status learn_report(const learning *l, json_t **ret_report, ew_error *reterr)
{
    EW_AUTO_JSON p = NULL;
    EW_AUTO_JSON r = NULL;
    EW_TRY(ew_record_from_plan(l->plan, &p, reterr));
    EW_TRY(ew_record_from_result(l->out.result, &r, reterr));
    json_t *j =
        json_pack("{s:O,s:b,s:O,s:b,s:b,s:s,s:b,s:I,s:s,s:b,s:b,s:I}", "plan", p, "plan_is_fresh", l->fresh, "result",
                  r, "better", ew_str_eq(l->decision, "new"), "adapter", l->out.has_adapter, "decision", l->decision,
                  "update", l->update, "adapter_id", (json_int_t)l->adapter, "stop", l->out.stop_reason, "diverged",
                  l->out.diverged, "unfinished", l->out.unfinished, "known", (json_int_t)l->last_row);
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report");
    }
    *ret_report = j;
    return EW_OK;
}

static void spec_of_plan(learning *l)
{
    const ew_plan *plan = l->plan;
    const ew_learn_opt *opt = l->opt;
    ew_trial_spec *s = &l->spec;
    *s = (ew_trial_spec){
        .method = plan->chosen.method, .settings = plan->chosen.settings, .budget = plan->budget, .seed = opt->seed};
    /* One plan on one profile is one trial: a learning that was killed goes on from its checkpoint. */
    memcpy(s->id, plan->id, sizeof(s->id));
    (void)ew_str_copy(s->task, sizeof(s->task), plan->task);
    (void)ew_str_copy(s->source, sizeof(s->source), "profile");
    memcpy(s->model_sha256, plan->chosen.model_sha256, sizeof(s->model_sha256));
    (void)ew_str_copy(s->variant, sizeof(s->variant), plan->chosen.variant);
    s->budget.seconds = opt->max_seconds > 0 ? opt->max_seconds : s->budget.seconds;
    s->budget.joules = opt->max_joules > 0 ? opt->max_joules : s->budget.joules;
    s->budget.mains_only = s->budget.mains_only || opt->only_on_mains;
    ew_hex_encode(s->model_sha256, EW_SHA256_BYTES, l->model_hex);
}

/* The profile and what is served, of one moment. */
static ew_status load_state(learning *l, ew_error *reterr)
{
    ew_agent *a = l->a;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_items(a->vault, &l->items, reterr);
    l->has_served = st == EW_OK && ew__agent_served(a, l->spec.task, l->model_hex, &l->served, &l->served_meta);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    size_t n_new = 0;
    for (size_t i = 0; i < l->items.n; i++) {
        l->last_row = EW_MAX(l->last_row, l->items.item[i].order);
        n_new += l->items.item[i].order > l->served_meta.known_row;
    }
    bool can = l->has_served && l->served.adapter != 0 && l->served_meta.known_row > 0 &&
               ew_method_trains(l->spec.method) && ew_str_eq(l->served_meta.method, ew_method_name(l->spec.method));
    l->update = can && (l->opt->mode == EW_LEARN_UPDATE ||
                        (l->opt->mode == EW_LEARN_AUTO && n_new * UPDATE_SHARE <= l->items.n));
    return EW_OK;
}

static ew_status work(learning *l, const char *model, const char *adapter, const ew_progress *progress,
                      ew_error *reterr)
{
    ew_agent *a = l->a;
    char served[EW_HOME_PATH_MAX] = "";
    ew_worker_job job = {.spec = &l->spec,
                         .model_path = model,
                         .items = &l->items,
                         .work_dir = a->home.runtime,
                         .adapter_path = adapter,
                         .kern = a->opt.kern,
                         .caps = a->caps,
                         .n_threads = a->opt.n_threads,
                         .has_served = l->has_served,
                         .served_rag_k = l->has_served ? l->served.rag_k : 0,
                         .served_rag_rank = l->has_served ? l->served.rag_rank : EW_RAG_RANK_BM25,
                         .known_order = l->served_meta.known_row,
                         .update = l->update,
                         .replay = l->opt->replay,
                         .max_temperature_c = l->opt->max_temperature_c};
    if (l->has_served && l->served.adapter != 0) {
        EW_TRY(ew__agent_adapter_file(a, l->served.adapter, "learn-served.gguf", served, reterr));
        job.served_path = served;
    }
    ew_status st = ew__agent_work(a, &job, progress, &l->out, reterr);
    if (served[0] != '\0') {
        ew_status removed = ew_file_remove(served, st == EW_OK ? reterr : NULL);
        st = st == EW_OK ? removed : st;
    }
    EW_TRY(st);
    return l->out.result->code == EW_OK ? EW_OK : ew_fail(reterr, l->out.result->code, "%s", l->out.result->detail);
}

/* Adapter, decision, evidence. */
static ew_status conclude(learning *l, const char *model, const char *adapter, const ew_progress *progress,
                          json_t **ret_report, ew_error *reterr)
{
    ew_agent *a = l->a;
    ew_status st = l->out.has_adapter ? store_adapter(l, adapter, reterr) : EW_OK;
    if (st == EW_OK) {
        l->decision = decide(l);
        if (ew_str_eq(l->decision, "new") && ew_prompter_embeds(rag_rank_of(&l->spec))) {
            ew__agent_vectors_fill(a, model, l->model_hex, l->spec.task, &l->items, progress);
        }
        st = store_active(l, reterr);
    }
    EW_TRY(st);
    prune(l);
    /* Scalars only: evidence for the planner, sent when the coordinator is there. */
    l->out.result->has_spec = true;
    l->out.result->spec = l->spec;
    ew__agent_add_traffic(a, l->out.result);
    EW_TRY(ew_spool_finish(&a->home, l->out.result, reterr));
    ew__agent_wake(a);
    return learn_report(l, ret_report, reterr);
}

ew_status ew__agent_learn_once(ew_agent *a, const ew_plan *plan, bool fresh, const ew_learn_opt *opt,
                               const ew_progress *progress, json_t **ret_report, ew_error *reterr)
{
    char model[EW_HOME_PATH_MAX];
    char adapter[EW_HOME_PATH_MAX];
    learning l = {.a = a, .plan = plan, .fresh = fresh, .opt = opt};
    spec_of_plan(&l);
    (void)ew_home_runtime_path(&a->home, "learned.gguf", adapter);
    drop_checkpoints(a, l.spec.id);
    ew_status st = ew__agent_model(a, l.spec.model_sha256, progress, model, reterr);
    if (st == EW_OK) {
        st = load_state(&l, reterr);
    }
    if (st == EW_OK) {
        st = work(&l, model, adapter, progress, reterr);
    }
    if (st == EW_OK) {
        st = conclude(&l, model, adapter, progress, ret_report, reterr);
    }
    /* Also what a worker wrote that was killed before it said so. */
    ew_status removed = ew_file_remove(adapter, st == EW_OK ? reterr : NULL);
    st = st == EW_OK ? removed : st;
    ew_items_release(&l.items);
    ew_free(l.out.result);
    return st;
}

ew_status ew__agent_learn_plan(ew_agent *a, const ew_learn_opt *opt, ew_plan **ret_plan, bool *ret_fresh,
                               ew_error *reterr)
{
    const char *task = opt->task != NULL ? opt->task : DEFAULT_TASK;
    *ret_fresh = false;
    return opt->use_last_plan ? load_plan(a, task, ret_plan, reterr)
                              : ew_agent_plan(a, task, ret_plan, ret_fresh, reterr);
}

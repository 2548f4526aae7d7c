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
#include "task/task.h"
#include "text/json.h"
#include "wire/wire.h"

#define PLAN_CALL_MS 20000
#define BYTES_PER_TOK 3.5 /* before a tokenizer is here; the planner's token counts are estimates anyway */
#define DEFAULT_TASK "custom"

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

/* ---- learning ---- */

static ew_status store_adapter(ew_agent *a, const ew_trial_spec *spec, const ew_worker_outcome *out,
                               const ew_items *items, const char *path, uint64_t *ret_id, ew_error *reterr)
{
    EW_AUTO_BUF file = {.max = 256 * EW_MIB};
    ew_vault_adapter meta = {.score_base = ew_trial_result_mean(out->result, "base.val.score"),
                             .score_adapter = ew_trial_result_mean(out->result, "val.score"),
                             .nll_base = ew_trial_result_mean(out->result, "base.val.nll"),
                             .nll_adapter = ew_trial_result_mean(out->result, "val.nll"),
                             .created_ms = ew_wall_ms()};
    EW_TRY(ew_file_read(path, file.max, &file, reterr));
    (void)ew_str_copy(meta.task, sizeof(meta.task), spec->task);
    (void)ew_str_copy(meta.method, sizeof(meta.method), ew_method_name(spec->method));
    ew_hex_encode(spec->model_sha256, EW_SHA256_BYTES, meta.base_sha256);
    uint64_t *rows = ew_calloc(EW_MAX(items->n, (size_t)1), sizeof(*rows));
    if (rows == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for an adapter's origin");
    }
    for (size_t i = 0; i < items->n; i++) {
        rows[i] = items->item[i].order;
    }
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st =
        ew_vault_adapter_put(a->vault, &meta, rows, items->n, (ew_span){file.data, file.size}, ret_id, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    ew_free(rows);
    return st;
}

/* What is served from now on: the personalised model when it was better on validation items, else the plain one. adapter: 0 = none; the last one's
 * place is then empty. Killed between the two steps, the device serves the plain model. */
static ew_status store_active(ew_agent *a, const ew_plan *plan, const ew_trial_spec *spec, bool better,
                              uint64_t adapter, ew_error *reterr)
{
    char model[2 * EW_SHA256_BYTES + 1];
    ew_hex_encode(spec->model_sha256, EW_SHA256_BYTES, model);
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_adapter_activate(a->vault, spec->task, model, better ? adapter : 0, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    uint32_t k = spec->settings.rag_k != 0 ? spec->settings.rag_k : 2;
    EW_AUTO_JSON j =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:I}", "model", model, "name", plan->chosen.model_name, "variant",
                  spec->variant, "task", spec->task, "method", better ? ew_method_name(spec->method) : "none", "rag_k",
                  (json_int_t)(better && ew_method_retrieves(spec->method) ? k : 0));
    return ew_home_write_json(&a->home, "active.json", j, reterr);
}

static ew_status learn_report(const ew_plan *plan, bool fresh, const ew_worker_outcome *out, json_t **ret_report,
                              ew_error *reterr)
{
    EW_AUTO_JSON p = NULL;
    EW_AUTO_JSON r = NULL;
    EW_TRY(ew_record_from_plan(plan, &p, reterr));
    EW_TRY(ew_record_from_result(out->result, &r, reterr));
    json_t *j = json_pack("{s:O,s:b,s:O,s:b,s:b}", "plan", p, "plan_is_fresh", fresh, "result", r, "better",
                          out->better, "adapter", out->has_adapter);
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a report");
    }
    *ret_report = j;
    return EW_OK;
}

static void spec_of_plan(const ew_plan *plan, const ew_learn_opt *opt, ew_trial_spec *s)
{
    *s = (ew_trial_spec){
        .method = plan->chosen.method, .settings = plan->chosen.settings, .budget = plan->budget, .seed = opt->seed};
    /* One plan on one profile is one trial: a learning that was killed goes on from its checkpoint. */
    memcpy(s->id, plan->id, sizeof(s->id));
    (void)ew_str_copy(s->task, sizeof(s->task), plan->task);
    (void)ew_str_copy(s->source, sizeof(s->source), "profile");
    memcpy(s->model_sha256, plan->chosen.model_sha256, sizeof(s->model_sha256));
    (void)ew_str_copy(s->variant, sizeof(s->variant), plan->chosen.variant);
    if (opt->max_seconds > 0) {
        s->budget.seconds = opt->max_seconds;
    }
}

static ew_status learn_locked(ew_agent *a, const ew_plan *plan, bool fresh, const ew_learn_opt *opt,
                              const ew_progress *progress, json_t **ret_report, ew_error *reterr)
{
    char model[EW_HOME_PATH_MAX];
    char adapter[EW_HOME_PATH_MAX];
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome out = {0};
    ew_trial_spec spec;
    uint64_t id = 0;
    spec_of_plan(plan, opt, &spec);
    EW_TRY(ew__agent_model(a, spec.model_sha256, progress, model, reterr));
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_items(a->vault, &items, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    ew_worker_job job = {.spec = &spec,
                         .model_path = model,
                         .items = &items,
                         .work_dir = a->home.runtime,
                         .adapter_path = ew_home_runtime_path(&a->home, "learned.gguf", adapter),
                         .kern = a->opt.kern,
                         .caps = a->caps,
                         .n_threads = a->opt.n_threads};
    EW_TRY(ew__agent_work(a, &job, progress, &out, reterr));
    if (out.result->code != EW_OK) {
        st = ew_fail(reterr, out.result->code, "%s", out.result->detail);
    }
    if (st == EW_OK && out.has_adapter) {
        st = store_adapter(a, &spec, &out, &items, adapter, &id, reterr);
    }
    if (st == EW_OK) {
        st = store_active(a, plan, &spec, out.better, id, reterr);
    }
    if (out.has_adapter) {
        ew_status removed = ew_file_remove(adapter, st == EW_OK ? reterr : NULL);
        st = st == EW_OK ? removed : st;
    }
    if (st == EW_OK) {
        /* Scalars only: evidence for the planner, sent when the coordinator is there. */
        out.result->has_spec = true;
        out.result->spec = spec;
        ew__agent_add_traffic(a, out.result);
        st = ew_spool_finish(&a->home, out.result, reterr);
        ew__agent_wake(a);
    }
    if (st == EW_OK) {
        st = learn_report(plan, fresh, &out, ret_report, reterr);
    }
    ew_free(out.result);
    return st;
}

ew_status ew_agent_learn(ew_agent *a, const ew_learn_opt *opt, const ew_progress *progress, json_t **ret_report,
                         ew_error *reterr)
{
    ew_plan *plan = NULL;
    bool fresh = false;
    const char *task = opt->task != NULL ? opt->task : DEFAULT_TASK;
    if (opt->use_last_plan) {
        EW_TRY(load_plan(a, task, &plan, reterr));
    } else {
        EW_TRY(ew_agent_plan(a, task, &plan, &fresh, reterr));
    }
    (void)pthread_mutex_lock(&a->heavy);
    ew__agent_now(a, "learning from the profile");
    ew_status st = learn_locked(a, plan, fresh, opt, progress, ret_report, reterr);
    ew__agent_now(a, NULL);
    (void)pthread_mutex_unlock(&a->heavy);
    ew_free(plan);
    return st;
}

/* Plans on request: what is known of device, catalogue and trials goes to the planner; its answer is signed and kept. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "crypt/hash.h"
#include "text/json.h"
#include "wire/wire.h"

ew_status ew__sign(void *ctx, ew_span packed, ew_signature *ret, ew_error *reterr)
{
    ew__coord *c = ctx;
    (void)ew_str_copy(ret->key_id, sizeof ret->key_id, c->key_id);
    return ew_signer_client_manifest(c->signer, packed, ret->bytes, reterr);
}

static ew_status open_model(ew__coord *c, const uint8_t *sha256, ew_model **ret, ew_error *reterr)
{
    char path[4096];
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, c->store);
        EW_TRY(ew_registry_path(db, c->artifacts, sha256, path, reterr));
    }
    ew_model_opt opt = {.no_tokenizer = true};
    EW_AUTO(ew_model) m = NULL;
    EW_TRY(ew_model_open(path, &opt, &m, reterr));
    ew_status st = ew_map_add(c->models, sha256, EW_SHA256_BYTES, m);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "cannot keep a model open");
    }
    *ret = m;
    m = NULL;
    return EW_OK;
}

ew_status ew__model(ew__coord *c, const uint8_t sha256[static EW_SHA256_BYTES], ew_model **ret_model, ew_error *reterr)
{
    (void)pthread_mutex_lock(&c->model_lock);
    ew_status st = EW_OK;
    ew_model *m = ew_map_get(c->models, sha256, EW_SHA256_BYTES);
    if (m == NULL) {
        st = open_model(c, sha256, &m, reterr);
    }
    (void)pthread_mutex_unlock(&c->model_lock);
    if (st == EW_OK) {
        *ret_model = m;
    }
    return st;
}

/* The newest artifact of each (name, variant), opened. */
static ew_status candidates(ew__coord *c, ew_candidate *ret, size_t *ret_n, ew_error *reterr)
{
    ew_catalog cat = {0};
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, c->store);
        EW_TRY(ew_registry_catalog(db, &cat, reterr));
    }
    size_t n = 0;
    for (size_t i = cat.n; i-- > 0 && n < EW_PLANNER_CANDIDATES_MAX;) { /* newest first */
        const ew_catalog_entry *e = &cat.entry[i];
        bool seen = false;
        for (size_t k = 0; k < n && !seen; k++) {
            seen =
                strncmp(ret[k].name, e->name, sizeof ret[k].name - 1) == 0 && strcmp(ret[k].variant, e->variant) == 0;
        }
        ew_model *m = NULL;
        ew_error err = EW_ERROR_INIT;
        if (seen) {
            continue;
        }
        if (ew__model(c, e->sha256, &m, &err) != EW_OK) {
            EW_LOG(EW_LOG_WARN, "coord", "model-left-out", "name=%s variant=%s detail=\"%s\"", e->name, e->variant,
                   err.msg);
            continue;
        }
        ew_candidate *k = &ret[n++];
        *k = (ew_candidate){.n_params = e->n_params,
                            .file_bytes = e->size,
                            .score = e->score,
                            .config = ew_model_config_of(m),
                            .model = m};
        memcpy(k->sha256, e->sha256, sizeof k->sha256);
        (void)ew_str_copy(k->name, sizeof k->name, e->name);
        (void)ew_str_copy(k->variant, sizeof k->variant, e->variant);
    }
    ew_catalog_release(&cat);
    *ret_n = n;
    return EW_OK;
}

static ew_status make_locked(ew__coord *c, ew_planner_input *in, ew_plan **ret, ew_error *reterr)
{
    EW_TRY(ew__evidence_load(c, reterr));
    in->evidence = c->evidence;
    in->n_evidence = c->n_evidence;
    in->evidence_version = c->evidence_version;
    return ew_planner_make(in, ret, reterr);
}

ew_status ew__plan_make(ew__coord *c, const char *device_id, const ew_plan_request *req, ew_plan **ret_plan,
                        ew_error *reterr)
{
    ew_device_row d = {0};
    EW_TRY(ew_store_device_get(c->store, device_id, &d, reterr));
    ew_device_caps *caps = ew_calloc(1, sizeof *caps);
    ew_candidate *list = ew_calloc(EW_PLANNER_CANDIDATES_MAX, sizeof *list);
    ew_status st = caps == NULL || list == NULL ? ew_fail(reterr, EW_ENOMEM, "out of memory for a plan") : EW_OK;
    size_t n = 0;
    if (st == EW_OK && d.caps.size > 0) {
        st = ew_wire_unpack_caps((ew_span){d.caps.data, d.caps.size}, caps, reterr);
    }
    if (st == EW_OK) {
        st = candidates(c, list, &n, reterr);
    }
    if (st == EW_OK) {
        ew_planner_input in = {.device_id = device_id,
                               .caps = d.caps.size > 0 ? caps : NULL,
                               .state = req->state.ram_available_bytes != 0 ? &req->state : &d.state,
                               .facts = &req->facts,
                               .budget = req->budget,
                               .objective = req->objective,
                               .candidates = list,
                               .n_candidates = n,
                               .now_ms = ew_wall_ms()};
        (void)pthread_mutex_lock(&c->evidence_lock);
        st = make_locked(c, &in, ret_plan, reterr);
        (void)pthread_mutex_unlock(&c->evidence_lock);
    }
    if (st == EW_OK) {
        ew_random_bytes((*ret_plan)->id, sizeof(*ret_plan)->id);
    }
    ew_free(list);
    ew_free(caps);
    ew_device_row_release(&d);
    return st;
}

static json_t *measures_json(const ew_task_facts *f)
{
    json_t *j = json_object();
    for (uint32_t i = 0; i < f->n_measures; i++) {
        const ew_measure *m = &f->measures[i];
        if (m->n > 0) {
            (void)json_object_set_new(j, m->name, json_real(m->values[0]));
        }
    }
    return j;
}

json_t *ew__plan_request_json(const ew_plan_request *r)
{
    const ew_task_facts *f = &r->facts;
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:f, s:f, s:b, s:s}", "task", f->task, "metric",
                     f->metric, "n_labels", (json_int_t)f->n_labels, "n_items", (json_int_t)f->n_items, "mean_item_tok",
                     (json_int_t)f->mean_item_tok, "mean_answer_tok", (json_int_t)f->mean_answer_tok, "measures",
                     measures_json(f), "ram_bytes", (json_int_t)r->budget.ram_bytes, "disk_bytes",
                     (json_int_t)r->budget.disk_bytes, "seconds", r->budget.seconds, "joules", r->budget.joules,
                     "mains_only", r->budget.mains_only, "objective", r->objective);
}

static ew_status opt_u32(const json_t *j, const char *key, uint32_t *ret, ew_error *reterr)
{
    int64_t v = *ret;
    EW_TRY(ew_json_opt_i64(j, "plan request", key, 0, UINT32_MAX, &v, reterr));
    *ret = (uint32_t)v;
    return EW_OK;
}

static ew_status opt_text(const json_t *j, const char *key, char *dst, size_t size, ew_error *reterr)
{
    const char *text = NULL;
    EW_TRY(ew_json_opt_str(j, "plan request", key, &text, reterr));
    if (text != NULL && !ew_str_copy(dst, size, text)) {
        return ew_fail(reterr, EW_EINVAL, "plan request: '%s' is too long", key);
    }
    return EW_OK;
}

static ew_status request_budget(const json_t *j, ew_budget *b, ew_error *reterr)
{
    int64_t ram = 0, disk = 0;
    EW_TRY(ew_json_opt_i64(j, "plan request", "ram_bytes", 0, INT64_MAX, &ram, reterr));
    EW_TRY(ew_json_opt_i64(j, "plan request", "disk_bytes", 0, INT64_MAX, &disk, reterr));
    EW_TRY(ew_json_opt_f64(j, "plan request", "seconds", &b->seconds, reterr));
    EW_TRY(ew_json_opt_f64(j, "plan request", "joules", &b->joules, reterr));
    EW_TRY(ew_json_opt_bool(j, "plan request", "mains_only", &b->mains_only, reterr));
    b->ram_bytes = (uint64_t)ram;
    b->disk_bytes = (uint64_t)disk;
    return EW_OK;
}

static ew_status request_measures(json_t *measures, ew_task_facts *f, ew_error *reterr)
{
    const char *name = NULL;
    json_t *v = NULL;
    json_object_foreach(measures, name, v)
    {
        if (!json_is_number(v) || f->n_measures == EW_COUNT(f->measures)) {
            return ew_fail(reterr, EW_EINVAL, "plan request: measures must be at most %zu numbers",
                           EW_COUNT(f->measures));
        }
        ew_measure *m = &f->measures[f->n_measures++];
        *m = (ew_measure){.n = 1, .values = {json_number_value(v)}};
        (void)ew_str_copy(m->name, sizeof m->name, name);
    }
    return EW_OK;
}

ew_status ew__plan_request_from_json(const json_t *j, ew_plan_request *ret, ew_error *reterr)
{
    ew_task_facts *f = &ret->facts;
    EW_TRY(opt_text(j, "task", f->task, sizeof f->task, reterr));
    EW_TRY(opt_text(j, "metric", f->metric, sizeof f->metric, reterr));
    EW_TRY(opt_text(j, "objective", ret->objective, sizeof ret->objective, reterr));
    EW_TRY(opt_u32(j, "n_labels", &f->n_labels, reterr));
    EW_TRY(opt_u32(j, "n_items", &f->n_items, reterr));
    EW_TRY(opt_u32(j, "mean_item_tok", &f->mean_item_tok, reterr));
    EW_TRY(opt_u32(j, "mean_answer_tok", &f->mean_answer_tok, reterr));
    EW_TRY(request_measures(json_object_get(j, "measures"), f, reterr));
    return request_budget(j, &ret->budget, reterr);
}

/* A device may ask as often as it likes: its newest plans stay. */
static ew_status forget_old(ew_db *db, const char *device, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "DELETE FROM plan WHERE device=?1 AND id NOT IN (SELECT id FROM plan WHERE device=?1"
                        " ORDER BY made_ms DESC LIMIT 64)",
                        &st, reterr));
    ew_bind_text(st, 1, device);
    return ew_stmt_run(st, reterr);
}

static ew_status keep(ew__coord *c, const ew_plan *plan, const ew_plan_request *req, const ew_buf *packed,
                      const uint8_t *sig, ew_error *reterr)
{
    EW_AUTO_JSON j = ew__plan_request_json(req);
    EW_AUTO_BUF text = {0};
    if (j == NULL) {
        return ew_fail(reterr, EW_EINVAL, "the plan request holds text that is not UTF-8");
    }
    EW_TRY(ew_json_dump(j, 0, &text, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, c->store);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(
        db, "INSERT INTO plan(id,device,task,made_ms,packed,signature,request) VALUES(?1,?2,?3,?4,?5,?6,?7)", &st,
        reterr));
    ew_bind_blob(st, 1, plan->id, sizeof plan->id);
    ew_bind_text(st, 2, plan->device_id);
    ew_bind_text(st, 3, plan->task);
    ew_bind_i64(st, 4, (int64_t)plan->made_unix_ms);
    ew_bind_blob(st, 5, packed->data, packed->size);
    ew_bind_blob(st, 6, sig, 64);
    ew_bind_text(st, 7, ew_buf_str(&text));
    EW_TRY(ew_stmt_run(st, reterr));
    return forget_old(db, plan->device_id, reterr);
}

ew_status ew__plan(ew__request *r, ew_error *reterr)
{
    const ew_plan_request *req = &r->msg->plan_request;
    ew_plan *plan = NULL;
    EW_TRY(ew__plan_make(r->c, r->peer->id, req, &plan, reterr));
    EW_AUTO_BUF packed = {0};
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_PLAN_RESPONSE);
    ew_status st = m == NULL ? ew_fail(reterr, EW_ENOMEM, "out of memory for a plan") : EW_OK;
    if (st == EW_OK) {
        st = ew_wire_pack_plan(plan, &packed, reterr);
    }
    if (st == EW_OK) {
        st = ew_signer_client_plan(r->c->signer, (ew_span){packed.data, packed.size}, m->plan_response.signature,
                                   reterr);
    }
    if (st == EW_OK) {
        (void)ew_str_copy(m->plan_response.key_id, sizeof m->plan_response.key_id, r->c->key_id);
        st = keep(r->c, plan, req, &packed, m->plan_response.signature, reterr);
    }
    if (st == EW_OK) {
        EW_LOG(EW_LOG_NOTICE, "coord", "plan", "device=%s task=%s model=%s variant=%s method=%s", r->peer->id,
               plan->task, plan->chosen.model_name, plan->chosen.variant, ew_method_name(plan->chosen.method));
        st = ew_reply_send(r->reply, m, (ew_span){packed.data, packed.size}, reterr);
    }
    ew_free(plan);
    return st;
}

/* Verbs on experiments, trials and evidence. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "crypt/hash.h"
#include "jobs/jobs.h"
#include "record/record.h"
#include "text/json.h"
#include "wire/wire.h"

/* A trial that takes its device down is tried again, but not for ever. */
#define TRIAL_ATTEMPTS 100
#define PAGE_BYTES (EW_LIMIT_BODY_BYTES - 128 * 1024)

/* The model of a trial is a hash, or a name that the catalogue knows in that variant. */
static ew_status resolve_model(ew_db *db, json_t *spec, ew_error *reterr)
{
    const char *model = json_string_value(json_object_get(spec, "model"));
    const char *variant = json_string_value(json_object_get(spec, "variant"));
    uint8_t sha256[EW_SHA256_BYTES];
    char path[4096];
    if (model == NULL || variant == NULL) {
        return ew_fail(reterr, EW_EINVAL, "trial: 'model' and 'variant' are needed");
    }
    if (ew_hex_decode(model, sha256, EW_SHA256_BYTES)) {
        return ew_registry_path(db, "", sha256, path, reterr); /* is it there? */
    }
    char hex[2 * EW_SHA256_BYTES + 1];
    EW_TRY(ew_registry_find(db, model, variant, sha256, reterr));
    ew_hex_encode(sha256, EW_SHA256_BYTES, hex);
    (void)json_object_set_new(spec, "model", json_string(hex));
    return EW_OK;
}

/* The id of a trial follows from the experiment and what is to be done on which device: submitting twice is submitting once. */
static ew_status trial_id(const char *experiment, const char *device, const json_t *spec, uint8_t *ret,
                          ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    uint8_t digest[32];
    ew_buf_addf(&text, "%s\n%s\n", experiment, device);
    EW_TRY(ew_json_dump(spec, EW_JSON_SORTED, &text, reterr));
    ew_sha256(text.data, text.size, digest);
    memcpy(ret, digest, EW_UID_BYTES);
    return EW_OK;
}

static ew_status check_device(ew__coord *c, const char *device, ew_error *reterr)
{
    ew_device_row d = {0};
    EW_TRY(ew_store_device_get(c->store, device, &d, reterr));
    bool revoked = d.revoked;
    ew_device_row_release(&d);
    return revoked ? ew_fail(reterr, EW_EINVAL, "device %s is revoked", device) : EW_OK;
}

static ew_status add_trial(ew__op_call *o, ew_db *db, const char *experiment, const json_t *item, json_t *ids,
                           ew_error *reterr)
{
    const char *device = NULL;
    char hex[2 * EW_UID_BYTES + 1];
    EW_TRY(ew_json_get_str(item, "trial", "device", &device, reterr));
    EW_TRY(check_device(o->c, device, reterr));
    EW_AUTO_JSON spec_json = json_deep_copy(item);
    EW_TRY(spec_json != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a trial"));
    (void)json_object_del(spec_json, "device");
    EW_TRY(resolve_model(db, spec_json, reterr));
    uint8_t id[EW_UID_BYTES];
    EW_TRY(trial_id(experiment, device, spec_json, id, reterr));
    ew_hex_encode(id, EW_UID_BYTES, hex);
    (void)json_object_set_new(spec_json, "trial", json_string(hex));
    (void)json_object_set_new(spec_json, "experiment", json_string(experiment));
    ew_trial_spec *spec = ew_calloc(1, sizeof *spec);
    EW_AUTO_BUF packed = {0};
    ew_status st = spec != NULL ? ew_record_to_spec(spec_json, spec, reterr)
                                : ew_fail(reterr, EW_ENOMEM, "out of memory for a trial");
    if (st == EW_OK) {
        st = ew_wire_pack_trial_spec(spec, &packed, reterr);
    }
    ew_free(spec);
    EW_TRY(st);
    ew_job_new job = {.id = hex,
                      .queue = EW__QUEUE_TRIAL,
                      .target = device,
                      .group = experiment,
                      .payload = {packed.data, packed.size},
                      .max_attempts = TRIAL_ATTEMPTS};
    ew_error err = EW_ERROR_INIT;
    st = ew_jobs_add(db, &job, ew_wall_ms(), &err);
    if (st != EW_OK && st != EW_EEXIST) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    (void)json_array_append_new(ids, json_string(hex));
    return EW_OK;
}

static ew_status add_experiment(ew__op_call *o, ew_db *db, const char *id, const char *name, ew_error *reterr)
{
    const char *spec = "";
    EW_TRY(ew_json_opt_str(o->in, "experiment.submit", "spec", &spec, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "INSERT OR IGNORE INTO experiment(id,name,spec,owner,created_ms) VALUES(?1,?2,?3,?4,?5)",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    ew_bind_text(st, 2, name);
    ew_bind_text(st, 3, spec);
    ew_bind_text(st, 4, o->who);
    ew_bind_i64(st, 5, (int64_t)ew_wall_ms());
    return ew_stmt_run(st, reterr);
}

/* {"id"? hex32, "name", "spec"? (text of the file), "trials": [{"device", spec of record/…; model: hash or name}…]}
 * -> {"id", "trials": [hex32…]}. The same id again adds trials; the same trial again is the one that is there. */
static ew_status experiment_submit(ew__op_call *o, ew_error *reterr)
{
    const char *name = NULL, *id = NULL;
    json_t *trials = NULL;
    uint8_t bytes[EW_UID_BYTES];
    char hex[2 * EW_UID_BYTES + 1];
    EW_TRY(ew_json_get_str(o->in, "experiment.submit", "name", &name, reterr));
    EW_TRY(ew_json_opt_str(o->in, "experiment.submit", "id", &id, reterr));
    EW_TRY(ew_json_get_arr(o->in, "experiment.submit", "trials", &trials, reterr));
    ew_random_bytes(bytes, sizeof bytes);
    if (id != NULL && !ew_hex_decode(id, bytes, sizeof bytes)) {
        return ew_fail(reterr, EW_EINVAL, "experiment.submit: 'id' must be 32 hex digits");
    }
    ew_hex_encode(bytes, sizeof bytes, hex);
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    EW_TRY(add_experiment(o, db, hex, name, reterr));
    json_t *ids = json_array();
    (void)json_object_set_new(o->out, "id", json_string(hex));
    (void)json_object_set_new(o->out, "trials", ids);
    for (size_t i = 0; i < json_array_size(trials); i++) {
        ew_status st = add_trial(o, db, hex, json_array_get(trials, i), ids, reterr);
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "trial %zu", i + 1);
        }
    }
    o->assign = true;
    return EW_OK;
}

static ew_status put_counts(ew_db *db, const char *group, json_t *out, ew_error *reterr)
{
    size_t n[EW_JOB_STATE_COUNT], total = 0;
    EW_TRY(ew_jobs_counts(db, EW__QUEUE_TRIAL, group, n, reterr));
    for (int s = 0; s < EW_JOB_STATE_COUNT; s++) {
        (void)json_object_set_new(out, ew_job_state_name((ew_job_state)s), json_integer((json_int_t)n[s]));
        total += n[s];
    }
    (void)json_object_set_new(out, "total", json_integer((json_int_t)total));
    return EW_OK;
}

/* {"id"?} -> counts of the trials, or a list of all experiments with theirs. */
static ew_status experiment_status(ew__op_call *o, ew_error *reterr)
{
    const char *id = NULL;
    EW_TRY(ew_json_opt_str(o->in, "experiment.status", "id", &id, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    json_t *list = json_array();
    (void)json_object_set_new(o->out, "experiments", list);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "SELECT id,name,owner,created_ms FROM experiment WHERE ?1 IS NULL OR id=?1 ORDER BY created_ms",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            break;
        }
        json_t *j = json_pack("{s:s, s:s, s:s, s:I}", "id", ew_col_text(st, 0), "name", ew_col_text(st, 1), "owner",
                              ew_col_text(st, 2), "created_unix_ms", (json_int_t)ew_col_i64(st, 3));
        EW_TRY(j != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a reply"));
        (void)json_array_append_new(list, j);
        EW_TRY(put_counts(db, ew_col_text(st, 0), j, reterr));
    }
    return id != NULL && json_array_size(list) == 0 ? ew_fail(reterr, EW_ENOENT, "there is no experiment %s", id)
                                                    : EW_OK;
}

static ew_status experiment_cancel(ew__op_call *o, ew_error *reterr)
{
    const char *id = NULL;
    size_t n = 0;
    EW_TRY(ew_json_get_str(o->in, "experiment.cancel", "id", &id, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    EW_TRY(ew_jobs_cancel(db, EW__QUEUE_TRIAL, id, ew_wall_ms(), &n, reterr));
    (void)json_object_set_new(o->out, "cancelled", json_integer((json_int_t)n));
    return EW_OK;
}

typedef struct page {
    ew_db *db;
    json_t *list;
    size_t skip, seen, bytes;
    bool results; /* with spec and result */
    bool full;    /* nothing more fits */
} page;

static ew_status job_json(const page *p, const ew_job *job, json_t **ret, ew_error *reterr)
{
    EW_AUTO_JSON j = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s}", "trial", job->id, "experiment",
                               job->group, "device", job->target, "state", ew_job_state_name(job->state), "fence",
                               (json_int_t)job->fence, "attempts", (json_int_t)job->attempts, "done",
                               (json_int_t)job->done, "total", (json_int_t)job->total, "phase", job->phase);
    ew_trial_spec *spec = ew_calloc(1, sizeof *spec);
    ew_trial_result *result = ew_calloc(1, sizeof *result);
    ew_status st =
        j == NULL || spec == NULL || result == NULL ? ew_fail(reterr, EW_ENOMEM, "out of memory for a trial") : EW_OK;
    json_t *sub = NULL;
    if (st == EW_OK) {
        st = ew_wire_unpack_trial_spec((ew_span){job->payload, job->payload_size}, spec, reterr);
    }
    if (st == EW_OK) {
        st = ew_record_from_spec(spec, &sub, reterr);
    }
    if (st == EW_OK) {
        (void)json_object_set_new(j, "spec", sub);
        if (p->results && job->result != NULL) {
            st = ew_wire_unpack_trial_result((ew_span){job->result, job->result_size}, result, reterr);
            if (st == EW_OK) {
                st = ew_record_from_result(result, &sub, reterr);
            }
            if (st == EW_OK) {
                (void)json_object_set_new(j, "result", sub);
            }
        }
    }
    ew_free(spec);
    ew_free(result);
    EW_TRY(st);
    *ret = j;
    j = NULL;
    return EW_OK;
}

static ew_status page_one(const ew_job *job, void *ctx, ew_error *reterr)
{
    page *p = ctx;
    if (p->seen++ < p->skip || p->full) {
        return EW_OK;
    }
    json_t *j = NULL;
    EW_TRY(job_json(p, job, &j, reterr));
    size_t size = json_dumpb(j, NULL, 0, JSON_COMPACT) + 1;
    if (p->bytes + size > PAGE_BYTES) {
        p->full = true;
        p->seen--; /* the next page starts here */
        json_decref(j);
        return EW_OK;
    }
    p->bytes += size;
    return json_array_append_new(p->list, j) == 0 ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
}

/* {"experiment"? or "id"?, "offset"?} -> {"trials": […], "next"?: offset of the next page} */
static ew_status list_trials(ew__op_call *o, bool results, ew_error *reterr)
{
    const char *group = NULL;
    int64_t offset = 0;
    EW_TRY(ew_json_opt_str(o->in, "trials", "experiment", &group, reterr));
    EW_TRY(ew_json_opt_str(o->in, "trials", "id", &group, reterr));
    EW_TRY(ew_json_opt_i64(o->in, "trials", "offset", 0, INT64_MAX, &offset, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    page p = {.db = db, .list = json_array(), .skip = (size_t)offset, .results = results};
    (void)json_object_set_new(o->out, "trials", p.list);
    EW_TRY(ew_jobs_each(db, EW__QUEUE_TRIAL, group, page_one, &p, reterr));
    if (p.full) {
        (void)json_object_set_new(o->out, "next", json_integer((json_int_t)(p.skip + json_array_size(p.list))));
    }
    return EW_OK;
}

static ew_status experiment_results(ew__op_call *o, ew_error *reterr)
{
    return list_trials(o, true, reterr);
}

static ew_status trial_list(ew__op_call *o, ew_error *reterr)
{
    return list_trials(o, false, reterr);
}

/* {"evidence": [{"spec","result","model_name","n_params","device"}…]} -> {"added","known"} */
static ew_status evidence_import(ew__op_call *o, ew_error *reterr)
{
    json_t *list = NULL;
    EW_TRY(ew_json_get_arr(o->in, "evidence.import", "evidence", &list, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    size_t added = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        ew_evidence e;
        bool is_new = false;
        const json_t *j = json_array_get(list, i);
        ew_status st = ew_evidence_from_json(j, &e, reterr);
        if (st == EW_OK) {
            st = ew__evidence_add(db, e.id, j, true, ew_wall_ms(), &is_new, reterr);
        }
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "evidence %zu", i + 1);
        }
        added += is_new;
    }
    (void)json_object_set_new(o->out, "added", json_integer((json_int_t)added));
    (void)json_object_set_new(o->out, "known", json_integer((json_int_t)(json_array_size(list) - added)));
    return EW_OK;
}

/* {"after"?: seq} -> {"evidence": […], "next"?: seq} */
static ew_status evidence_export(ew__op_call *o, ew_error *reterr)
{
    int64_t after = 0;
    size_t bytes = 0;
    EW_TRY(ew_json_opt_i64(o->in, "evidence.export", "after", 0, INT64_MAX, &after, reterr));
    json_t *list = json_array();
    (void)json_object_set_new(o->out, "evidence", list);
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT seq, json FROM evidence WHERE seq>?1 ORDER BY seq", &st, reterr));
    ew_bind_i64(st, 1, after);
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        const char *text = ew_col_text(st, 1);
        bytes += strlen(text) + 1;
        if (bytes > PAGE_BYTES) {
            (void)json_object_set_new(o->out, "next", json_integer((json_int_t)after));
            return EW_OK;
        }
        json_t *j = NULL;
        EW_TRY(ew_json_load("evidence", text, strlen(text), &j, reterr));
        (void)json_array_append_new(list, j);
        after = ew_col_i64(st, 0);
    }
}

const ew__op_verb ew__verbs_experiment[] = {{.name = "experiment.submit", .fn = experiment_submit, .mutates = true},
                                            {.name = "experiment.status", .fn = experiment_status},
                                            {.name = "experiment.results", .fn = experiment_results},
                                            {.name = "experiment.cancel", .fn = experiment_cancel, .mutates = true},
                                            {.name = "trial.list", .fn = trial_list},
                                            {.name = "evidence.import", .fn = evidence_import, .mutates = true},
                                            {.name = "evidence.export", .fn = evidence_export}};
const size_t ew__n_verbs_experiment = EW_COUNT(ew__verbs_experiment);

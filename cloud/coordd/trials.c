/* Trials: handed to connected devices under a lease, results taken once, evidence kept. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "jobs/jobs.h"
#include "text/json.h"
#include "wire/wire.h"

typedef struct assigned {
    ew__coord *c;
    char device[EW_DEVICE_ID_SIZE];
    char id[EW_JOB_ID_MAX];
    uint64_t fence;
} assigned;

static uint64_t lease_ms(const ew__coord *c)
{
    return (uint64_t)(c->conf->lease_s * 1000);
}

/* The device said yes, no, or nothing. In the last two cases the trial goes back; that it was handed out does not count. A device that took
 * it and whose yes was lost keeps the newest fence: its progress takes the trial up again. */
static void on_accept(void *ctx, ew_status st, const ew_msg *reply, ew_span body, const ew_error *err)
{
    (void)body;
    assigned *a = ctx;
    bool yes = st == EW_OK && reply->type == EW_MSG_TRIAL_ACCEPT && reply->trial_accept.accepted;
    if (!yes) {
        const char *why = st != EW_OK                          ? (err != NULL ? err->msg : "")
                          : reply->type == EW_MSG_TRIAL_ACCEPT ? reply->trial_accept.reason
                                                               : "unexpected reply";
        EW_LOG(EW_LOG_INFO, "coord", "trial-not-taken", "trial=%s device=%s why=\"%s\"", a->id, a->device, why);
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, a->c->store);
        ew_error ignored = EW_ERROR_INIT;
        if (ew_jobs_give_back(db, a->id, a->fence, st == EW_OK, ew_wall_ms(), &ignored) != EW_OK) {
            EW_LOG(EW_LOG_DEBUG, "coord", "give-back", "detail=\"%s\"", ignored.msg);
        }
    }
    ew_free(a);
}

static ew_status claim_for(ew__coord *c, const char *device_id, ew_job *job, bool *found, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, c->store);
    size_t running = 0;
    *found = false;
    EW_TRY(ew_jobs_running(db, EW__QUEUE_TRIAL, device_id, &running, reterr));
    if (running > 0) {
        return EW_OK; /* one at a time: a trial has the device to itself */
    }
    return ew_jobs_claim(db, EW__QUEUE_TRIAL, device_id, ew_wall_ms(), lease_ms(c), job, found, reterr);
}

static ew_status send_assign(ew__coord *c, const char *device_id, const ew_job *job, ew_error *reterr)
{
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_TRIAL_ASSIGN);
    assigned *a = ew_calloc(1, sizeof *a);
    if (m == NULL || a == NULL) {
        ew_free(a);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for an assignment");
    }
    ew_status st = ew_wire_unpack_trial_spec((ew_span){job->payload, job->payload_size}, &m->trial_assign, reterr);
    if (st == EW_OK) {
        m->trial_assign.fence = job->fence;
        m->trial_assign.lease_ms = lease_ms(c);
        a->c = c;
        (void)ew_str_copy(a->device, sizeof a->device, device_id);
        (void)ew_str_copy(a->id, sizeof a->id, job->id);
        a->fence = job->fence;
        st = ew_server_send(c->server, device_id, m, (ew_span){0}, 20000, on_accept, a, reterr);
    }
    if (st != EW_OK) {
        ew_free(a); /* on_accept runs only after EW_OK */
    }
    return st;
}

void ew__assign(ew__coord *c, const char *device_id)
{
    ew_error err = EW_ERROR_INIT;
    ew_job job = {0};
    bool found = false;
    if (!ew_server_is_up(c->server, device_id)) {
        return;
    }
    if (claim_for(c, device_id, &job, &found, &err) != EW_OK) {
        EW_LOG(EW_LOG_ERROR, "coord", "claim-failed", "device=%s detail=\"%s\"", device_id, err.msg);
        return;
    }
    if (!found) {
        return;
    }
    if (send_assign(c, device_id, &job, &err) != EW_OK) {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, c->store);
        ew_error ignored = EW_ERROR_INIT;
        EW_LOG(EW_LOG_INFO, "coord", "assign-failed", "device=%s detail=\"%s\"", device_id, err.msg);
        if (ew_jobs_give_back(db, job.id, job.fence, false, ew_wall_ms(), &ignored) != EW_OK) {
            EW_LOG(EW_LOG_WARN, "coord", "give-back", "detail=\"%s\"", ignored.msg);
        }
    } else {
        EW_LOG(EW_LOG_INFO, "coord", "trial-assigned", "trial=%s device=%s fence=%" PRIu64, job.id, device_id,
               job.fence);
    }
    ew_job_release(&job);
}

typedef struct id_list {
    char (*id)[EW_DEVICE_ID_SIZE];
    size_t n, cap;
} id_list;

static ew_status collect_targets(ew_db *db, id_list *l, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(
        ew_stmt_open(db,
                     "SELECT id FROM device d WHERE revoked_ms=0 AND EXISTS(SELECT 1 FROM job WHERE queue='trial' AND"
                     " state=0 AND target IN (d.id, ''))",
                     &st, reterr));
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        EW_TRY(ew_grow((void **)&l->id, &l->cap, l->n + 1, sizeof *l->id, 1000000));
        (void)ew_str_copy(l->id[l->n++], EW_DEVICE_ID_SIZE, ew_col_text(st, 0));
    }
}

void ew__assign_all(ew__coord *c)
{
    ew_error err = EW_ERROR_INIT;
    id_list l = {0};
    ew_status st = EW_OK;
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, c->store);
        st = ew_jobs_expire(db, EW__QUEUE_TRIAL, ew_wall_ms(), NULL, &err);
        if (st == EW_OK) {
            st = collect_targets(db, &l, &err);
        }
    }
    if (st != EW_OK) {
        EW_LOG(EW_LOG_ERROR, "coord", "queue", "detail=\"%s\"", err.msg);
    }
    for (size_t i = 0; i < l.n; i++) {
        ew__assign(c, l.id[i]);
    }
    ew_free(l.id);
}

/* The job of a trial, if it is this device's. */
static ew_status own_job(ew__request *r, ew_db *db, const uint8_t *id, ew_job *ret, ew_error *reterr)
{
    char hex[2 * EW_UID_BYTES + 1];
    ew_hex_encode(id, EW_UID_BYTES, hex);
    ew_job job = {0};
    EW_TRY(ew_jobs_get(db, hex, &job, reterr));
    if (job.target[0] != '\0' && strcmp(job.target, r->peer->id) != 0) {
        ew_job_release(&job);
        ew__audit(r->c, r->peer->id, "denied", "trial %s belongs to another device", hex);
        return ew_fail(reterr, EW_EDENIED, "trial %s belongs to another device", hex);
    }
    *ret = job;
    return EW_OK;
}

ew_status ew__trial_progress(ew__request *r, ew_error *reterr)
{
    const ew_msg_trial_progress *p = &r->msg->trial_progress;
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, r->c->store);
    ew_job job = {0};
    EW_TRY(own_job(r, db, p->id, &job, reterr));
    ew_job_progress progress = {.done = p->done, .total = p->total, .phase = p->phase};
    ew_status st = ew_jobs_heartbeat(db, job.id, p->fence, ew_wall_ms(), lease_ms(r->c), &progress, reterr);
    ew_job_release(&job);
    return st;
}

ew_status ew__evidence_add(ew_db *db, const uint8_t id[static EW_UID_BYTES], const json_t *j, bool imported,
                           uint64_t now_ms, bool *ret_new, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_json_dump(j, EW_JSON_SORTED, &text, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "INSERT OR IGNORE INTO evidence(id,imported,json,created_ms) VALUES(?1,?2,?3,?4)", &st,
                        reterr));
    ew_bind_blob(st, 1, id, EW_UID_BYTES);
    ew_bind_i64(st, 2, imported);
    ew_bind_text_n(st, 3, text.data, text.size);
    ew_bind_i64(st, 4, (int64_t)now_ms);
    EW_TRY(ew_stmt_run(st, reterr));
    if (ret_new != NULL) {
        *ret_new = ew_db_changes(db) == 1;
    }
    return EW_OK;
}

/* name and size of the model behind a hash, for evidence; "" and 0 when it is not in the catalogue (any more). */
static ew_status model_facts(ew_db *db, const uint8_t *sha256, char name[static 64], uint64_t *n_params,
                             ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT name, n_params FROM artifact WHERE sha256=?1", &st, reterr));
    ew_bind_blob(st, 1, sha256, EW_SHA256_BYTES);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    (void)ew_str_copy(name, 64, row ? ew_col_text(st, 0) : "");
    *n_params = row ? (uint64_t)ew_col_i64(st, 1) : 0;
    return EW_OK;
}

static ew_status keep_evidence(ew__request *r, ew_db *db, const ew_trial_spec *spec, const ew_trial_result *result,
                               ew_error *reterr)
{
    char name[64];
    uint64_t n_params = 0;
    json_t *j = NULL;
    EW_TRY(model_facts(db, spec->model_sha256, name, &n_params, reterr));
    EW_TRY(ew_evidence_to_json(spec, result, name, n_params, r->peer->id, &j, reterr));
    ew_status st = ew__evidence_add(db, result->id, j, false, ew_wall_ms(), NULL, reterr);
    json_decref(j);
    return st;
}

/* A trial of the queue: result and evidence in one transaction. */
static ew_status finish_job(ew__request *r, const ew_trial_result *result, const ew_job *job, ew_db *db,
                            ew_error *reterr)
{
    EW_AUTO_BUF packed = {0};
    ew_trial_spec spec;
    bool first = false;
    EW_TRY(ew_wire_pack_trial_result(result, &packed, reterr));
    EW_TRY(ew_wire_unpack_trial_spec((ew_span){job->payload, job->payload_size}, &spec, reterr));
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, db, reterr));
    EW_TRY(ew_jobs_finish(db, job->id, result->fence, result->code == EW_OK, (ew_span){packed.data, packed.size},
                          ew_wall_ms(), &first, reterr));
    if (first && result->code == EW_OK) {
        EW_TRY(keep_evidence(r, db, &spec, result, reterr));
    }
    EW_TRY(ew_tx_commit(&tx, reterr));
    EW_LOG(EW_LOG_NOTICE, "coord", "trial-result", "trial=%s device=%s ok=%d first=%d detail=\"%.120s\"", job->id,
           r->peer->id, result->code == EW_OK, first, result->detail);
    return EW_OK;
}

/* A trial that the device chose itself: the execution of its plan. */
static ew_status keep_own(ew__request *r, const ew_trial_result *result, ew_db *db, ew_error *reterr)
{
    if (!result->has_spec) {
        return ew_fail(reterr, EW_ENOENT, "this trial is not in the queue and says nothing of what it was");
    }
    return result->code == EW_OK ? keep_evidence(r, db, &result->spec, result, reterr) : EW_OK;
}

ew_status ew__trial_result(ew__request *r, ew_error *reterr)
{
    const ew_trial_result *result = &r->msg->trial_result;
    ew_status st = EW_OK;
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, r->c->store);
        ew_job job = {0};
        st = own_job(r, db, result->id, &job, reterr);
        if (st == EW_ENOENT) {
            st = keep_own(r, result, db, reterr);
        } else if (st == EW_OK) {
            st = finish_job(r, result, &job, db, reterr);
            ew_job_release(&job);
        }
    }
    EW_TRY(st);
    EW_AUTO(ew_msg) ack = ew_msg_new(EW_MSG_ACK);
    if (ack == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    EW_TRY(ew_reply_send(r->reply, ack, (ew_span){0}, reterr));
    ew__assign(r->c, r->peer->id);
    return EW_OK;
}

static ew_status load_row(ew__coord *c, ew_stmt *st, ew_error *reterr)
{
    json_t *j = NULL;
    const char *text = ew_col_text(st, 1);
    EW_TRY(ew_grow((void **)&c->evidence, &c->evidence_cap, c->n_evidence + 1, sizeof *c->evidence, 10000000));
    EW_TRY(ew_json_load("evidence", text, strlen(text), &j, reterr));
    if (ew_evidence_from_json(j, &c->evidence[c->n_evidence], NULL) == EW_OK) {
        c->n_evidence++; /* a row that an older or newer version wrote in another form is no evidence for this one */
    }
    json_decref(j);
    c->evidence_version = (uint64_t)ew_col_i64(st, 0);
    return EW_OK;
}

ew_status ew__evidence_load(ew__coord *c, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, c->store);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT seq, json FROM evidence WHERE seq>?1 ORDER BY seq", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)c->evidence_version);
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        EW_TRY(load_row(c, st, reterr));
    }
}

/* The durable queue over db/: one table, every transition one UPDATE whose WHERE holds the rule. */
#include "jobs/jobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define PAYLOAD_MAX (1024u * 1024)

const char *const ew_jobs_schema = "CREATE TABLE job("
                                   " seq INTEGER PRIMARY KEY AUTOINCREMENT,"
                                   " id TEXT NOT NULL UNIQUE,"
                                   " queue TEXT NOT NULL,"
                                   " target TEXT NOT NULL,"
                                   " grp TEXT NOT NULL,"
                                   " state INTEGER NOT NULL,"
                                   " priority INTEGER NOT NULL,"
                                   " fence INTEGER NOT NULL DEFAULT 0,"
                                   " lease_until_ms INTEGER NOT NULL DEFAULT 0,"
                                   " attempts INTEGER NOT NULL DEFAULT 0,"
                                   " max_attempts INTEGER NOT NULL,"
                                   " done INTEGER NOT NULL DEFAULT 0,"
                                   " total INTEGER NOT NULL DEFAULT 0,"
                                   " phase TEXT NOT NULL DEFAULT '',"
                                   " created_ms INTEGER NOT NULL,"
                                   " finished_ms INTEGER NOT NULL DEFAULT 0,"
                                   " payload BLOB NOT NULL,"
                                   " result BLOB);"
                                   "CREATE INDEX job_next ON job(queue, state, target, priority DESC, seq);"
                                   "CREATE INDEX job_group ON job(queue, grp, state);";

#define COLUMNS                                                                                                        \
    "id,queue,target,grp,state,fence,lease_until_ms,attempts,max_attempts,done,total,phase,created_ms,finished_ms,"    \
    "payload,result"

const char *ew_job_state_name(ew_job_state s)
{
    static const char *const names[] = {"queued", "running", "done", "failed", "cancelled"};
    return (unsigned)s < EW_COUNT(names) ? names[s] : "unknown";
}

void ew_job_release(ew_job *j)
{
    ew_free(j->payload);
    ew_free(j->result);
    memset(j, 0, sizeof *j);
}

static ew_status dup_blob(ew_span blob, void **ret, size_t *ret_size, ew_error *reterr)
{
    char *copy = ew_malloc(blob.size + 1, 1);
    if (copy == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a job of %zu bytes", blob.size);
    }
    if (blob.size > 0) {
        memcpy(copy, blob.data, blob.size);
    }
    copy[blob.size] = '\0';
    *ret = copy;
    *ret_size = blob.size;
    return EW_OK;
}

static ew_status read_row(ew_stmt *st, ew_job *ret, ew_error *reterr)
{
    ew_job j = {0};
    (void)ew_str_copy(j.id, sizeof j.id, ew_col_text(st, 0));
    (void)ew_str_copy(j.queue, sizeof j.queue, ew_col_text(st, 1));
    (void)ew_str_copy(j.target, sizeof j.target, ew_col_text(st, 2));
    (void)ew_str_copy(j.group, sizeof j.group, ew_col_text(st, 3));
    j.state = (ew_job_state)ew_col_i64(st, 4);
    j.fence = (uint64_t)ew_col_i64(st, 5);
    j.lease_until_ms = (uint64_t)ew_col_i64(st, 6);
    j.attempts = (uint32_t)ew_col_i64(st, 7);
    j.max_attempts = (uint32_t)ew_col_i64(st, 8);
    j.done = (uint64_t)ew_col_i64(st, 9);
    j.total = (uint64_t)ew_col_i64(st, 10);
    (void)ew_str_copy(j.phase, sizeof j.phase, ew_col_text(st, 11));
    j.created_ms = (uint64_t)ew_col_i64(st, 12);
    j.finished_ms = (uint64_t)ew_col_i64(st, 13);
    ew_status status = dup_blob(ew_col_blob(st, 14), &j.payload, &j.payload_size, reterr);
    if (status == EW_OK && !ew_col_is_null(st, 15)) {
        status = dup_blob(ew_col_blob(st, 15), &j.result, &j.result_size, reterr);
    }
    if (status != EW_OK) {
        ew_job_release(&j);
        return status;
    }
    *ret = j;
    return EW_OK;
}

static ew_status check_name(const char *what, const char *s, size_t max, bool may_be_empty, ew_error *reterr)
{
    if ((!may_be_empty && s[0] == '\0') || strlen(s) >= max) {
        return ew_fail(reterr, EW_EINVAL, "job %s must have 1 to %zu bytes", what, max - 1);
    }
    return EW_OK;
}

ew_status ew_jobs_add(ew_db *db, const ew_job_new *job, uint64_t now_ms, ew_error *reterr)
{
    const char *target = job->target != NULL ? job->target : "";
    const char *group = job->group != NULL ? job->group : "";
    EW_TRY(check_name("id", job->id, EW_JOB_ID_MAX, false, reterr));
    EW_TRY(check_name("queue", job->queue, EW_JOB_NAME_MAX, false, reterr));
    EW_TRY(check_name("target", target, EW_JOB_NAME_MAX, true, reterr));
    EW_TRY(check_name("group", group, EW_JOB_NAME_MAX, true, reterr));
    if (job->payload.size > PAYLOAD_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "job %s: payload of %zu bytes, at most %u are allowed", job->id,
                       job->payload.size, PAYLOAD_MAX);
    }
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "INSERT INTO job(id,queue,target,grp,state,priority,max_attempts,created_ms,payload)"
                        " VALUES(?1,?2,?3,?4,0,?5,?6,?7,?8)",
                        &st, reterr));
    ew_bind_text(st, 1, job->id);
    ew_bind_text(st, 2, job->queue);
    ew_bind_text(st, 3, target);
    ew_bind_text(st, 4, group);
    ew_bind_i64(st, 5, job->priority);
    ew_bind_i64(st, 6, job->max_attempts != 0 ? job->max_attempts : 5);
    ew_bind_i64(st, 7, (int64_t)now_ms);
    ew_bind_blob(st, 8, job->payload.size > 0 ? job->payload.data : "", job->payload.size);
    ew_status status = ew_stmt_run(st, reterr);
    return status == EW_EEXIST ? ew_fail(reterr, EW_EEXIST, "job %s is in the queue already", job->id) : status;
}

ew_status ew_jobs_claim(ew_db *db, const char *queue, const char *target, uint64_t now_ms, uint64_t lease_ms,
                        ew_job *ret_job, bool *ret_found, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE job SET state=1, fence=fence+1, attempts=attempts+1, lease_until_ms=?3, done=0,"
                        " total=0, phase='' WHERE seq=(SELECT seq FROM job WHERE queue=?1 AND state=0"
                        " AND target IN ('', ?2) ORDER BY priority DESC, seq LIMIT 1) RETURNING " COLUMNS,
                        &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, target != NULL ? target : "");
    ew_bind_i64(st, 3, (int64_t)(now_ms + lease_ms));
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        *ret_found = false;
        return EW_OK;
    }
    ew_job j = {0};
    EW_TRY(read_row(st, &j, reterr));
    ew_status status = ew_stmt_run(st, reterr); /* the update commits here */
    if (status != EW_OK) {
        ew_job_release(&j);
        return status;
    }
    *ret_job = j;
    *ret_found = true;
    return EW_OK;
}

/* What a refused transition means: the row tells. */
static ew_status refuse(ew_db *db, const char *id, uint64_t fence, const char *what, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT state, fence FROM job WHERE id=?1", &st, reterr));
    ew_bind_text(st, 1, id);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "there is no job %s", id);
    }
    return ew_fail(reterr, EW_ECONFLICT, "job %s: %s with fence %" PRIu64 " refused: it is %s, its fence is %" PRId64,
                   id, what, fence, ew_job_state_name((ew_job_state)ew_col_i64(st, 0)), ew_col_i64(st, 1));
}

ew_status ew_jobs_heartbeat(ew_db *db, const char *id, uint64_t fence, uint64_t now_ms, uint64_t lease_ms,
                            const ew_job_progress *p, ew_error *reterr)
{
    {
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(
            ew_stmt_open(db,
                         "UPDATE job SET state=1, lease_until_ms=?3, done=coalesce(?4,done), total=coalesce(?5,total),"
                         " phase=coalesce(?6,phase) WHERE id=?1 AND fence=?2 AND fence>0 AND state IN (0,1)",
                         &st, reterr));
        ew_bind_text(st, 1, id);
        ew_bind_i64(st, 2, (int64_t)fence);
        ew_bind_i64(st, 3, (int64_t)(now_ms + lease_ms));
        if (p != NULL) {
            ew_bind_i64(st, 4, (int64_t)p->done);
            ew_bind_i64(st, 5, (int64_t)p->total);
            ew_bind_text(st, 6, p->phase);
        }
        EW_TRY(ew_stmt_run(st, reterr));
        if (ew_db_changes(db) == 1) {
            return EW_OK;
        }
    }
    return refuse(db, id, fence, "progress", reterr);
}

/* True when this very fence ended the job before. */
static ew_status ended_by(ew_db *db, const char *id, uint64_t fence, bool *ret, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT 1 FROM job WHERE id=?1 AND fence=?2 AND state IN (2,3) AND result IS NOT NULL", &st,
                        reterr));
    ew_bind_text(st, 1, id);
    ew_bind_i64(st, 2, (int64_t)fence);
    return ew_stmt_step(st, ret, reterr);
}

ew_status ew_jobs_finish(ew_db *db, const char *id, uint64_t fence, bool ok, ew_span result, uint64_t now_ms,
                         bool *ret_first, ew_error *reterr)
{
    if (result.size > PAYLOAD_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "job %s: result of %zu bytes, at most %u are allowed", id, result.size,
                       PAYLOAD_MAX);
    }
    {
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(ew_stmt_open(db,
                            "UPDATE job SET state=?3, result=?4, finished_ms=?5, lease_until_ms=0 WHERE id=?1 AND"
                            " fence=?2 AND fence>0 AND (state IN (0,1) OR (state=3 AND result IS NULL))",
                            &st, reterr));
        ew_bind_text(st, 1, id);
        ew_bind_i64(st, 2, (int64_t)fence);
        ew_bind_i64(st, 3, ok ? EW_JOB_DONE : EW_JOB_FAILED);
        ew_bind_blob(st, 4, result.size > 0 ? result.data : "", result.size);
        ew_bind_i64(st, 5, (int64_t)now_ms);
        EW_TRY(ew_stmt_run(st, reterr));
    }
    bool first = ew_db_changes(db) == 1;
    if (!first) {
        bool repeated = false;
        EW_TRY(ended_by(db, id, fence, &repeated, reterr));
        if (!repeated) {
            return refuse(db, id, fence, "result", reterr);
        }
    }
    if (ret_first != NULL) {
        *ret_first = first;
    }
    return EW_OK;
}

ew_status ew_jobs_give_back(ew_db *db, const char *id, uint64_t fence, bool count_attempt, uint64_t now_ms,
                            ew_error *reterr)
{
    {
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(ew_stmt_open(db,
                            "UPDATE job SET attempts=attempts-?3,"
                            " state=CASE WHEN attempts-?3>=max_attempts THEN 3 ELSE 0 END,"
                            " phase=CASE WHEN attempts-?3>=max_attempts THEN 'lost' ELSE '' END,"
                            " finished_ms=CASE WHEN attempts-?3>=max_attempts THEN ?4 ELSE 0 END, lease_until_ms=0"
                            " WHERE id=?1 AND fence=?2 AND state=1",
                            &st, reterr));
        ew_bind_text(st, 1, id);
        ew_bind_i64(st, 2, (int64_t)fence);
        ew_bind_i64(st, 3, count_attempt ? 0 : 1);
        ew_bind_i64(st, 4, (int64_t)now_ms);
        EW_TRY(ew_stmt_run(st, reterr));
        if (ew_db_changes(db) == 1) {
            return EW_OK;
        }
    }
    return refuse(db, id, fence, "giving back", reterr);
}

ew_status ew_jobs_expire(ew_db *db, const char *queue, uint64_t now_ms, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE job SET state=CASE WHEN attempts>=max_attempts THEN 3 ELSE 0 END,"
                        " phase=CASE WHEN attempts>=max_attempts THEN 'lost' ELSE '' END,"
                        " finished_ms=CASE WHEN attempts>=max_attempts THEN ?2 ELSE 0 END, lease_until_ms=0"
                        " WHERE queue=?1 AND state=1 AND lease_until_ms<=?2",
                        &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_i64(st, 2, (int64_t)now_ms);
    EW_TRY(ew_stmt_run(st, reterr));
    if (ret_n != NULL) {
        *ret_n = (size_t)ew_db_changes(db);
    }
    return EW_OK;
}

ew_status ew_jobs_cancel(ew_db *db, const char *queue, const char *group, uint64_t now_ms, size_t *ret_n,
                         ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE job SET state=4, finished_ms=?3, lease_until_ms=0 WHERE queue=?1 AND grp=?2 AND"
                        " state IN (0,1)",
                        &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, group);
    ew_bind_i64(st, 3, (int64_t)now_ms);
    EW_TRY(ew_stmt_run(st, reterr));
    if (ret_n != NULL) {
        *ret_n = (size_t)ew_db_changes(db);
    }
    return EW_OK;
}

ew_status ew_jobs_counts(ew_db *db, const char *queue, const char *group, size_t n[static EW_JOB_STATE_COUNT],
                         ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT state, count(*) FROM job WHERE queue=?1 AND (?2 IS NULL OR grp=?2) GROUP BY state",
                        &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, group);
    size_t counts[EW_JOB_STATE_COUNT] = {0};
    bool row = true;
    for (;;) {
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            break;
        }
        int64_t state = ew_col_i64(st, 0);
        if (state >= 0 && state < EW_JOB_STATE_COUNT) {
            counts[state] = (size_t)ew_col_i64(st, 1);
        }
    }
    memcpy(n, counts, sizeof counts);
    return EW_OK;
}

ew_status ew_jobs_running(ew_db *db, const char *queue, const char *target, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT count(*) FROM job WHERE queue=?1 AND target=?2 AND state=1", &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, target);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    *ret_n = row ? (size_t)ew_col_i64(st, 0) : 0;
    return EW_OK;
}

ew_status ew_jobs_shorten(ew_db *db, const char *queue, const char *target, uint64_t until_ms, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE job SET lease_until_ms=min(lease_until_ms,?3) WHERE queue=?1 AND target=?2 AND state=1",
                        &st, reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, target);
    ew_bind_i64(st, 3, (int64_t)until_ms);
    return ew_stmt_run(st, reterr);
}

ew_status ew_jobs_get(ew_db *db, const char *id, ew_job *ret_job, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT " COLUMNS " FROM job WHERE id=?1", &st, reterr));
    ew_bind_text(st, 1, id);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "there is no job %s", id);
    }
    return read_row(st, ret_job, reterr);
}

ew_status ew_jobs_each(ew_db *db, const char *queue, const char *group, ew_jobs_fn fn, void *ctx, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT " COLUMNS " FROM job WHERE queue=?1 AND (?2 IS NULL OR grp=?2) ORDER BY seq", &st,
                        reterr));
    ew_bind_text(st, 1, queue);
    ew_bind_text(st, 2, group);
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        ew_job j = {0};
        EW_TRY(read_row(st, &j, reterr));
        ew_status status = fn(&j, ctx, reterr);
        ew_job_release(&j);
        EW_TRY(status);
    }
}

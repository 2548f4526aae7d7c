/* A durable queue of long work in a database: lease, fence, progress, result.
 *
 * A job is queued for a target (a device, or "" = whoever asks), claimed for lease_ms by a worker and thereby given a new fence.
 * The holder of the newest fence, and no one else, may report progress or a result: a result with an older fence is refused
 * (EW_ECONFLICT), the same result twice is accepted and changes nothing. A lease that runs out puts the job back in the queue
 * until max_attempts is used up; a late result of the newest fence still counts as long as no one else claimed the job.
 *
 *   queued -> running -> done | failed          running -(lease over)-> queued | failed ("lost")          any -> cancelled
 *
 * Every call is atomic by itself, may be part of a transaction that the caller has open, and otherwise is on the disk when it returns.
 * Time is the caller's (ms since 1970), so that tests need no clock. Memory of the returned structs is the caller's to release.
 * Locking: as the ew_db handle. */
#ifndef EW_JOBS_JOBS_H
#define EW_JOBS_JOBS_H

#include "base/base.h"
#include "base/status.h"
#include "db/db.h"

#define EW_JOB_ID_MAX 64    /* bytes of text with the NUL */
#define EW_JOB_NAME_MAX 256 /* queue, target, group, phase, with the NUL */

/* The migration step that makes the tables; put it into the owner's list of steps. */
extern const char *const ew_jobs_schema;

typedef enum ew_job_state {
    EW_JOB_QUEUED,
    EW_JOB_RUNNING,
    EW_JOB_DONE,
    EW_JOB_FAILED,
    EW_JOB_CANCELLED,
    EW_JOB_STATE_COUNT
} ew_job_state;

const char *ew_job_state_name(ew_job_state s); /* "queued", … */

typedef struct ew_job_new {
    const char *id;        /* unique, shorter than EW_JOB_ID_MAX */
    const char *queue;     /* "trial" */
    const char *target;    /* device id; NULL or "" = anyone */
    const char *group;     /* experiment id; NULL = none */
    ew_span payload;       /* opaque, <= 1 MiB */
    int32_t priority;      /* higher first; equal: in order of adding */
    uint32_t max_attempts; /* claims before it fails for good; 0 = 5 */
} ew_job_new;

typedef struct ew_job {
    char id[EW_JOB_ID_MAX];
    char queue[EW_JOB_NAME_MAX];
    char target[EW_JOB_NAME_MAX];
    char group[EW_JOB_NAME_MAX];
    ew_job_state state;
    uint64_t fence; /* 0 = never claimed; rises by one per claim */
    uint64_t lease_until_ms;
    uint32_t attempts;
    uint32_t max_attempts;
    uint64_t done, total; /* progress in the worker's units */
    char phase[EW_JOB_NAME_MAX];
    uint64_t created_ms, finished_ms;
    void *payload; /* payload_size bytes and a NUL, freed by ew_job_release */
    size_t payload_size;
    void *result; /* as payload; NULL while there is none */
    size_t result_size;
} ew_job;

void ew_job_release(ew_job *j);

/* EW_EEXIST when the id is there, whatever its content. */
ew_status ew_jobs_add(ew_db *db, const ew_job_new *job, uint64_t now_ms, ew_error *reterr) EW_MUST_CHECK;

/* The next queued job of queue for target (jobs without target count too): it becomes running with fence + 1. *ret_found false and
 * *ret_job untouched when there is none. */
ew_status ew_jobs_claim(ew_db *db, const char *queue, const char *target, uint64_t now_ms, uint64_t lease_ms,
                        ew_job *ret_job, bool *ret_found, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_job_progress {
    uint64_t done, total;
    const char *phase; /* NULL = as before */
} ew_job_progress;

/* Extends the lease. EW_ECONFLICT: not the newest fence, or no longer running (the worker should stop). EW_ENOENT. p may be NULL. */
ew_status ew_jobs_heartbeat(ew_db *db, const char *id, uint64_t fence, uint64_t now_ms, uint64_t lease_ms,
                            const ew_job_progress *p, ew_error *reterr) EW_MUST_CHECK;

/* Ends a job. *ret_first (may be NULL): false when this fence had finished it before (then nothing changes and EW_OK is
 * returned). EW_ECONFLICT for an older fence or a cancelled job, EW_ENOENT. */
ew_status ew_jobs_finish(ew_db *db, const char *id, uint64_t fence, bool ok, ew_span result, uint64_t now_ms,
                         bool *ret_first, ew_error *reterr) EW_MUST_CHECK;

/* Gives a running job back without a result, as if its lease were over now (worker refused or is stopping). */
ew_status ew_jobs_give_back(ew_db *db, const char *id, uint64_t fence, bool count_attempt, uint64_t now_ms,
                            ew_error *reterr) EW_MUST_CHECK;

/* Leases that ended at or before now_ms. *ret_n (may be NULL): jobs touched. */
ew_status ew_jobs_expire(ew_db *db, const char *queue, uint64_t now_ms, size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

/* Queued and running jobs of the group become cancelled. */
ew_status ew_jobs_cancel(ew_db *db, const char *queue, const char *group, uint64_t now_ms, size_t *ret_n,
                         ew_error *reterr) EW_MUST_CHECK;

/* group NULL = all groups. n has EW_JOB_STATE_COUNT entries. */
ew_status ew_jobs_counts(ew_db *db, const char *queue, const char *group, size_t n[static EW_JOB_STATE_COUNT],
                         ew_error *reterr) EW_MUST_CHECK;

/* Jobs of queue that target runs now. */
ew_status ew_jobs_running(ew_db *db, const char *queue, const char *target, size_t *ret_n,
                          ew_error *reterr) EW_MUST_CHECK;

/* What target runs now gets a lease until at most until_ms (it was restarted and may have lost its work). */
ew_status ew_jobs_shorten(ew_db *db, const char *queue, const char *target, uint64_t until_ms,
                          ew_error *reterr) EW_MUST_CHECK;

/* EW_ENOENT. */
ew_status ew_jobs_get(ew_db *db, const char *id, ew_job *ret_job, ew_error *reterr) EW_MUST_CHECK;

/* In order of adding; a failing fn stops and its status is returned. fn may not change the queue. The job is borrowed. */
typedef ew_status (*ew_jobs_fn)(const ew_job *job, void *ctx, ew_error *reterr);
ew_status ew_jobs_each(ew_db *db, const char *queue, const char *group, ew_jobs_fn fn, void *ctx,
                       ew_error *reterr) EW_MUST_CHECK;

#endif

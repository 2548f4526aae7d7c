/* SQLite behind one small statement interface.
 *
 * A database is opened in WAL mode with synchronous=FULL (what was committed survives a power cut), foreign keys on and a busy
 * timeout. Statements are prepared once per text and kept; binds are typed and collect their first error, which the next step
 * reports, so a call site checks once.
 *
 *   EW_AUTO(ew_stmt) st = NULL;
 *   EW_TRY(ew_stmt_open(db, "SELECT name FROM device WHERE id=?1", &st, reterr));
 *   ew_bind_text(st, 1, id);
 *   bool row;
 *   EW_TRY(ew_stmt_step(st, &row, reterr));
 *
 * Errors: EW_ENOSPC disk full, EW_ECORRUPT not a database or damaged, EW_EDENIED read-only or no permission, EW_EEXIST a UNIQUE
 * or PRIMARY KEY is taken, EW_ECONFLICT another constraint (foreign key, check, not null), EW_EAGAIN still locked after the busy
 * timeout, EW_ENOMEM, EW_EIO.
 * Locking: one owning thread per handle and its statements; callers that share a handle hold their own lock around it. */
#ifndef EW_DB_DB_H
#define EW_DB_DB_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_db ew_db;
typedef struct ew_stmt ew_stmt;

typedef struct ew_db_opt {
    bool must_exist;          /* EW_ENOENT instead of creating the file */
    bool read_only;           /* implies must_exist */
    uint32_t busy_timeout_ms; /* 0 = 5000 */
    uint64_t max_bytes;       /* the file does not grow past this: EW_ENOSPC; 0 = no limit of our own */
} ew_db_opt;

/* path ":memory:" gives a private database in memory. The file is created with mode 0600. opt NULL = zeroed. */
ew_status ew_db_open(const char *path, const ew_db_opt *opt, ew_db **ret_db, ew_error *reterr) EW_MUST_CHECK;
/* All statements must be freed before. Checkpoints the WAL. */
void ew_db_free(ew_db **db);

/* One or more statements without parameters or rows. */
ew_status ew_db_exec(ew_db *db, const char *sql, ew_error *reterr) EW_MUST_CHECK;
/* Rows changed by the last statement that ran. */
int64_t ew_db_changes(const ew_db *db);
int64_t ew_db_last_rowid(const ew_db *db);

/* Schema versions: step i (counted from 1) brings the database from version i-1 to i. Each step runs in a transaction with the
 * row of table `ew_migration` that records it. EW_EUNSUPPORTED when the file is newer than n_steps. */
ew_status ew_db_migrate(ew_db *db, const char *const *steps, size_t n_steps, ew_error *reterr) EW_MUST_CHECK;

/* A prepared statement from the cache of db, reset and without binds. Freeing gives it back. Two live statements of one text
 * are two statements. */
ew_status ew_stmt_open(ew_db *db, const char *sql, ew_stmt **ret_stmt, ew_error *reterr) EW_MUST_CHECK;
void ew_stmt_free(ew_stmt **st);

/* Parameters count from 1. Text and blobs are copied. NULL text or blob data binds SQL NULL. */
void ew_bind_i64(ew_stmt *st, int i, int64_t v);
void ew_bind_f64(ew_stmt *st, int i, double v);
void ew_bind_text(ew_stmt *st, int i, const char *text);
void ew_bind_text_n(ew_stmt *st, int i, const char *text, size_t size);
void ew_bind_blob(ew_stmt *st, int i, const void *data, size_t size);
void ew_bind_null(ew_stmt *st, int i);

/* Runs to the next row; *ret_row false at the end, where the statement is reset and may be bound again. */
ew_status ew_stmt_step(ew_stmt *st, bool *ret_row, ew_error *reterr) EW_MUST_CHECK;
/* Runs to the end, ignoring rows, and resets. */
ew_status ew_stmt_run(ew_stmt *st, ew_error *reterr) EW_MUST_CHECK;
/* Resets; binds stay. */
void ew_stmt_reset(ew_stmt *st);

/* Columns count from 0; SQLite's conversions apply. Text and blobs are borrowed until the next step, reset or free. Text is ""
 * for NULL. */
bool ew_col_is_null(ew_stmt *st, int i);
int64_t ew_col_i64(ew_stmt *st, int i);
double ew_col_f64(ew_stmt *st, int i);
const char *ew_col_text(ew_stmt *st, int i);
ew_span ew_col_blob(ew_stmt *st, int i);

/* A write transaction (BEGIN IMMEDIATE). Leaving the scope of an ew_tx without a commit rolls back. Not nested.
 *
 *   EW_AUTO_TX tx = {0};
 *   EW_TRY(ew_tx_begin(&tx, db, reterr));
 *   ...
 *   EW_TRY(ew_tx_commit(&tx, reterr)); */
typedef struct ew_tx {
    ew_db *db; /* NULL = not begun, committed or rolled back */
} ew_tx;

ew_status ew_tx_begin(ew_tx *tx, ew_db *db, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_tx_commit(ew_tx *tx, ew_error *reterr) EW_MUST_CHECK;
void ew_tx_rollback(ew_tx *tx);
#define EW_AUTO_TX EW_CLEANUP(ew_tx_rollback) ew_tx

#endif

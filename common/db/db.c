/* SQLite behind the statement interface of db.h: error mapping, statement cache, migrations. */
#include "db/db.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

#define CACHE_MAX 128u

struct ew_stmt {
    ew_db *db;          /* owner */
    sqlite3_stmt *stmt; /* never NULL */
    char *sql;          /* the text it is cached under */
    int bind_rc;        /* first failure of a bind since the last reset */
    bool busy;          /* handed out */
    bool cached;        /* lives in db->cache */
};

struct ew_db {
    sqlite3 *handle;
    char *path;                /* for messages */
    ew_stmt *cache[CACHE_MAX]; /* prepared statements, busy or idle */
    size_t n_cache;
    size_t n_open; /* statements handed out */
    bool in_tx;
};

static ew_status status_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return EW_ENOSPC;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return EW_ECORRUPT;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return EW_EDENIED;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EW_EAGAIN;
    case SQLITE_NOMEM:
        return EW_ENOMEM;
    case SQLITE_TOOBIG:
        return EW_ELIMIT;
    case SQLITE_CONSTRAINT:
        return rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_PRIMARYKEY || rc == SQLITE_CONSTRAINT_ROWID
                   ? EW_EEXIST
                   : EW_ECONFLICT;
    case SQLITE_RANGE:
    case SQLITE_MISUSE:
    case SQLITE_ERROR:
        return EW_EINTERNAL;
    default:
        return EW_EIO;
    }
}

static ew_status fail_rc(const ew_db *db, int rc, const char *what, ew_error *reterr)
{
    const char *why = db->handle != NULL ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc);
    int sys = db->handle != NULL ? sqlite3_system_errno(db->handle) : 0;
    ew_status st = status_of(rc);
    if (st == EW_EIO && (sys == ENOSPC || sys == EDQUOT)) {
        st = EW_ENOSPC;
    }
    if (st == EW_ENOSPC) {
        return ew_fail(reterr, st,
                       "database %s: %s: no space left. Nothing was changed. "
                       "HINT: free space on its file system and repeat",
                       db->path, what);
    }
    if (st == EW_ECORRUPT) {
        return ew_fail(reterr, st, "database %s: %s: %s. HINT: restore it from a backup", db->path, what, why);
    }
    return ew_fail(reterr, st, "database %s: %s: %s", db->path, what, why);
}

/* SQLite creates files by umask; a database of ours is never group-readable, not even for a moment. */
static ew_status create_private(const char *path, const ew_db_opt *opt, ew_error *reterr)
{
    if (opt->read_only || opt->must_exist || strcmp(path, ":memory:") == 0) {
        return EW_OK;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "database %s: cannot create", path);
    }
    (void)close(fd);
    return EW_OK;
}

static ew_status configure(ew_db *db, const ew_db_opt *opt, ew_error *reterr)
{
    (void)sqlite3_extended_result_codes(db->handle, 1);
    (void)sqlite3_busy_timeout(db->handle, opt->busy_timeout_ms != 0 ? (int)opt->busy_timeout_ms : 5000);
    (void)sqlite3_limit(db->handle, SQLITE_LIMIT_LENGTH, 64 * 1024 * 1024);
    EW_TRY(ew_db_exec(db, "PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;", reterr));
    if (!opt->read_only) {
        EW_TRY(ew_db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", reterr));
    }
    if (opt->max_bytes != 0) {
        char sql[64];
        sqlite3_snprintf((int)sizeof sql, sql, "PRAGMA max_page_count=%lld;", (long long)(opt->max_bytes / 4096 + 1));
        EW_TRY(ew_db_exec(db, sql, reterr));
    }
    /* Reads the header: a file that is no database is found here and not at the first query. */
    return ew_db_exec(db, "SELECT count(*) FROM sqlite_master;", reterr);
}

ew_status ew_db_open(const char *path, const ew_db_opt *opt, ew_db **ret_db, ew_error *reterr)
{
    static const ew_db_opt defaults = {0};
    opt = opt != NULL ? opt : &defaults;
    EW_TRY(create_private(path, opt, reterr));
    EW_AUTO(ew_db) db = ew_calloc(1, sizeof *db);
    if (db == NULL || (db->path = ew_str_dup(path)) == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory opening database %s", path);
    }
    int flags = opt->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    int rc = sqlite3_open_v2(path, &db->handle, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
    if (rc != SQLITE_OK) {
        if ((opt->must_exist || opt->read_only) && access(path, F_OK) != 0) {
            return ew_fail(reterr, EW_ENOENT, "database %s does not exist", path);
        }
        return fail_rc(db, rc, "cannot open", reterr);
    }
    EW_TRY(configure(db, opt, reterr));
    *ret_db = db;
    db = NULL;
    return EW_OK;
}

static void stmt_destroy(ew_stmt *st)
{
    (void)sqlite3_finalize(st->stmt);
    ew_free(st->sql);
    ew_free(st);
}

void ew_db_free(ew_db **dbp)
{
    ew_db *db = *dbp;
    if (db == NULL) {
        return;
    }
    EW_ASSERT(db->n_open == 0);
    for (size_t i = 0; i < db->n_cache; i++) {
        stmt_destroy(db->cache[i]);
    }
    (void)sqlite3_close_v2(db->handle);
    ew_free(db->path);
    ew_free(db);
    *dbp = NULL;
}

ew_status ew_db_exec(ew_db *db, const char *sql, ew_error *reterr)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? EW_OK : fail_rc(db, rc, "cannot run statement", reterr);
}

int64_t ew_db_changes(const ew_db *db)
{
    return sqlite3_changes64(db->handle);
}

int64_t ew_db_last_rowid(const ew_db *db)
{
    return sqlite3_last_insert_rowid(db->handle);
}

static ew_status migrate_one(ew_db *db, const char *sql, size_t version, ew_error *reterr)
{
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, db, reterr));
    EW_TRY(ew_db_exec(db, sql, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "INSERT INTO ew_migration(version, unix_ms) VALUES(?1, unixepoch()*1000)", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)version);
    EW_TRY(ew_stmt_run(st, reterr));
    return ew_tx_commit(&tx, reterr);
}

ew_status ew_db_migrate(ew_db *db, const char *const *steps, size_t n_steps, ew_error *reterr)
{
    EW_TRY(ew_db_exec(
        db, "CREATE TABLE IF NOT EXISTS ew_migration(version INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL)", reterr));
    int64_t have = 0;
    {
        EW_AUTO(ew_stmt) st = NULL;
        bool row = false;
        EW_TRY(ew_stmt_open(db, "SELECT coalesce(max(version), 0) FROM ew_migration", &st, reterr));
        EW_TRY(ew_stmt_step(st, &row, reterr));
        have = row ? ew_col_i64(st, 0) : 0;
    }
    if (have < 0 || (uint64_t)have > n_steps) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "database %s has schema version %" PRId64 ", this program knows versions up to %zu. "
                       "HINT: run the newer program that wrote it",
                       db->path, have, n_steps);
    }
    for (size_t i = (size_t)have; i < n_steps; i++) {
        ew_status st = migrate_one(db, steps[i], i + 1, reterr);
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "schema version %zu", i + 1);
        }
    }
    return EW_OK;
}

ew_status ew_stmt_open(ew_db *db, const char *sql, ew_stmt **ret_stmt, ew_error *reterr)
{
    for (size_t i = 0; i < db->n_cache; i++) {
        ew_stmt *c = db->cache[i];
        if (!c->busy && strcmp(c->sql, sql) == 0) {
            c->busy = true;
            db->n_open++;
            *ret_stmt = c;
            return EW_OK;
        }
    }
    ew_stmt *st = ew_calloc(1, sizeof *st);
    if (st == NULL || (st->sql = ew_str_dup(sql)) == NULL) {
        ew_free(st);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a database statement");
    }
    const char *tail = NULL;
    int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &st->stmt, &tail);
    if (rc != SQLITE_OK || st->stmt == NULL || (tail != NULL && tail[strspn(tail, " \n\t;")] != '\0')) {
        ew_status code = rc == SQLITE_OK
                             ? ew_fail(reterr, EW_EINTERNAL, "database statement is not exactly one: %s", sql)
                             : fail_rc(db, rc, "cannot prepare statement", reterr);
        stmt_destroy(st);
        return code;
    }
    st->db = db;
    st->busy = true;
    if (db->n_cache < CACHE_MAX) {
        st->cached = true;
        db->cache[db->n_cache++] = st;
    }
    db->n_open++;
    *ret_stmt = st;
    return EW_OK;
}

void ew_stmt_free(ew_stmt **stp)
{
    ew_stmt *st = *stp;
    if (st == NULL) {
        return;
    }
    *stp = NULL;
    st->db->n_open--;
    if (!st->cached) {
        stmt_destroy(st);
        return;
    }
    ew_stmt_reset(st);
    (void)sqlite3_clear_bindings(st->stmt);
    st->busy = false;
}

static void bound(ew_stmt *st, int rc)
{
    if (st->bind_rc == SQLITE_OK) {
        st->bind_rc = rc;
    }
}

void ew_bind_i64(ew_stmt *st, int i, int64_t v)
{
    bound(st, sqlite3_bind_int64(st->stmt, i, v));
}

void ew_bind_f64(ew_stmt *st, int i, double v)
{
    bound(st, sqlite3_bind_double(st->stmt, i, v));
}

void ew_bind_text(ew_stmt *st, int i, const char *text)
{
    bound(st, sqlite3_bind_text(st->stmt, i, text, -1, SQLITE_TRANSIENT));
}

void ew_bind_text_n(ew_stmt *st, int i, const char *text, size_t size)
{
    bound(st, sqlite3_bind_text64(st->stmt, i, text, size, SQLITE_TRANSIENT, SQLITE_UTF8));
}

void ew_bind_blob(ew_stmt *st, int i, const void *data, size_t size)
{
    bound(st, data == NULL ? sqlite3_bind_null(st->stmt, i)
                           : sqlite3_bind_blob64(st->stmt, i, data, size, SQLITE_TRANSIENT));
}

void ew_bind_null(ew_stmt *st, int i)
{
    bound(st, sqlite3_bind_null(st->stmt, i));
}

ew_status ew_stmt_step(ew_stmt *st, bool *ret_row, ew_error *reterr)
{
    if (st->bind_rc != SQLITE_OK) {
        int rc = st->bind_rc;
        st->bind_rc = SQLITE_OK;
        return fail_rc(st->db, rc, "cannot bind a value", reterr);
    }
    int rc = sqlite3_step(st->stmt);
    if (rc == SQLITE_ROW) {
        *ret_row = true;
        return EW_OK;
    }
    if (rc == SQLITE_DONE) {
        (void)sqlite3_reset(st->stmt);
        *ret_row = false;
        return EW_OK;
    }
    ew_status status = fail_rc(st->db, rc, "cannot run statement", reterr);
    (void)sqlite3_reset(st->stmt);
    return status;
}

ew_status ew_stmt_run(ew_stmt *st, ew_error *reterr)
{
    bool row = true;
    while (row) {
        EW_TRY(ew_stmt_step(st, &row, reterr));
    }
    return EW_OK;
}

void ew_stmt_reset(ew_stmt *st)
{
    (void)sqlite3_reset(st->stmt);
    st->bind_rc = SQLITE_OK;
}

bool ew_col_is_null(ew_stmt *st, int i)
{
    return sqlite3_column_type(st->stmt, i) == SQLITE_NULL;
}

int64_t ew_col_i64(ew_stmt *st, int i)
{
    return sqlite3_column_int64(st->stmt, i);
}

double ew_col_f64(ew_stmt *st, int i)
{
    return sqlite3_column_double(st->stmt, i);
}

const char *ew_col_text(ew_stmt *st, int i)
{
    const char *text = (const char *)sqlite3_column_text(st->stmt, i);
    return text != NULL ? text : "";
}

ew_span ew_col_blob(ew_stmt *st, int i)
{
    const void *data = sqlite3_column_blob(st->stmt, i);
    return (ew_span){.data = data, .size = (size_t)sqlite3_column_bytes(st->stmt, i)};
}

ew_status ew_tx_begin(ew_tx *tx, ew_db *db, ew_error *reterr)
{
    EW_ASSERT(tx->db == NULL && !db->in_tx);
    EW_TRY(ew_db_exec(db, "BEGIN IMMEDIATE", reterr));
    db->in_tx = true;
    tx->db = db;
    return EW_OK;
}

ew_status ew_tx_commit(ew_tx *tx, ew_error *reterr)
{
    EW_ASSERT(tx->db != NULL);
    EW_TRY(ew_db_exec(tx->db, "COMMIT", reterr)); /* on failure the scope's end rolls back */
    tx->db->in_tx = false;
    tx->db = NULL;
    return EW_OK;
}

void ew_tx_rollback(ew_tx *tx)
{
    if (tx->db == NULL) {
        return;
    }
    /* Some failures (disk full, I/O) have rolled back already: then there is nothing to do. */
    if (sqlite3_get_autocommit(tx->db->handle) == 0) {
        (void)sqlite3_exec(tx->db->handle, "ROLLBACK", NULL, NULL, NULL);
    }
    tx->db->in_tx = false;
    tx->db = NULL;
}

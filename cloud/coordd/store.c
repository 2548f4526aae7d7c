/* See store.h. One database, one recursive lock; the schema grows by adding steps at the end of the list. */
#include "coordd/store.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "coordd/schema.h"
#include "wire/wire.h"

struct ew_store {
    pthread_mutex_t lock;
    ew_db *db;
};

ew_status ew_store_open(const char *path, uint64_t max_bytes, ew_store **ret_store, ew_error *reterr)
{
    EW_AUTO(ew_store) s = ew_calloc(1, sizeof *s);
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the store");
    }
    pthread_mutexattr_t attr;
    (void)pthread_mutexattr_init(&attr);
    (void)pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(&s->lock, &attr);
    (void)pthread_mutexattr_destroy(&attr);
    EW_TRY(ew_db_open(path, &(ew_db_opt){.max_bytes = max_bytes}, &s->db, reterr));
    const char *const *steps = NULL;
    size_t n = ew_schema_steps(&steps);
    EW_TRY(ew_db_migrate(s->db, steps, n, reterr));
    *ret_store = s;
    s = NULL;
    return EW_OK;
}

void ew_store_free(ew_store **sp)
{
    ew_store *s = *sp;
    if (s == NULL) {
        return;
    }
    ew_db_free(&s->db);
    (void)pthread_mutex_destroy(&s->lock);
    ew_free(s);
    *sp = NULL;
}

ew_db *ew_store_lock(ew_store *s)
{
    (void)pthread_mutex_lock(&s->lock);
    return s->db;
}

void ew_store_unlock(ew_store *s)
{
    (void)pthread_mutex_unlock(&s->lock);
}

ew_db *ew_store_hold(ew_store_held *h, ew_store *s)
{
    h->store = s;
    return ew_store_lock(s);
}

void ew_store_release(ew_store_held *h)
{
    if (h->store != NULL) {
        ew_store_unlock(h->store);
        h->store = NULL;
    }
}

static void copy_blob(ew_stmt *st, int i, void *dst, size_t size)
{
    ew_span b = ew_col_blob(st, i);
    memset(dst, 0, size);
    if (b.size == size) {
        memcpy(dst, b.data, size);
    }
}

/* ---- tokens */

ew_status ew_store_token_add(ew_store *s, const ew_token_row *t, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "INSERT INTO token(id,secret,created_ms,expires_ms,hardware_id,device_name)"
                        " VALUES(?1,?2,?3,?4,?5,?6)",
                        &st, reterr));
    ew_bind_text(st, 1, t->id);
    ew_bind_blob(st, 2, t->secret, sizeof t->secret);
    ew_bind_i64(st, 3, (int64_t)t->created_ms);
    ew_bind_i64(st, 4, (int64_t)t->expires_ms);
    ew_bind_text(st, 5, t->hardware_id);
    ew_bind_text(st, 6, t->device_name);
    return ew_stmt_run(st, reterr);
}

ew_status ew_store_token_get(ew_store *s, const char *id, ew_token_row *ret, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "SELECT id,secret,created_ms,expires_ms,hardware_id,device_name,used_ms,csr_sha256,device_id,"
                        "wrong_proofs FROM token WHERE id=?1",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "there is no token %s", id);
    }
    ew_token_row t = {0};
    (void)ew_str_copy(t.id, sizeof t.id, ew_col_text(st, 0));
    copy_blob(st, 1, t.secret, sizeof t.secret);
    t.created_ms = (uint64_t)ew_col_i64(st, 2);
    t.expires_ms = (uint64_t)ew_col_i64(st, 3);
    (void)ew_str_copy(t.hardware_id, sizeof t.hardware_id, ew_col_text(st, 4));
    (void)ew_str_copy(t.device_name, sizeof t.device_name, ew_col_text(st, 5));
    t.used_ms = (uint64_t)ew_col_i64(st, 6);
    copy_blob(st, 7, t.csr_sha256, sizeof t.csr_sha256);
    (void)ew_str_copy(t.device_id, sizeof t.device_id, ew_col_text(st, 8));
    t.wrong_proofs = (uint32_t)ew_col_i64(st, 9);
    *ret = t;
    return EW_OK;
}

ew_status ew_store_token_wrong(ew_store *s, const char *id, uint32_t *ret_count, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "UPDATE token SET wrong_proofs=wrong_proofs+1 WHERE id=?1 RETURNING wrong_proofs", &st,
                        reterr));
    ew_bind_text(st, 1, id);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    uint32_t count = row ? (uint32_t)ew_col_i64(st, 0) : 0;
    EW_TRY(row ? ew_stmt_run(st, reterr) : EW_OK);
    *ret_count = count;
    return EW_OK;
}

/* ---- devices */

#define DEVICE_COLUMNS                                                                                                 \
    "id,revoked_ms,key_sha256,hardware_id,created_ms,last_seen_ms,not_after_ms,epoch,boot_id,cert,caps,state"

void ew_device_row_release(ew_device_row *d)
{
    ew_buf_release(&d->cert_der);
    ew_buf_release(&d->caps);
}

static ew_status read_device(ew_stmt *st, ew_device_row *ret, ew_error *reterr)
{
    ew_device_row d = {0};
    (void)ew_str_copy(d.id, sizeof d.id, ew_col_text(st, 0));
    d.revoked_ms = (uint64_t)ew_col_i64(st, 1);
    d.revoked = d.revoked_ms != 0;
    copy_blob(st, 2, d.key_sha256, sizeof d.key_sha256);
    (void)ew_str_copy(d.hardware_id, sizeof d.hardware_id, ew_col_text(st, 3));
    d.created_ms = (uint64_t)ew_col_i64(st, 4);
    d.last_seen_ms = (uint64_t)ew_col_i64(st, 5);
    d.not_after_ms = (uint64_t)ew_col_i64(st, 6);
    d.epoch = (uint64_t)ew_col_i64(st, 7);
    copy_blob(st, 8, d.boot_id, sizeof d.boot_id);
    ew_span cert = ew_col_blob(st, 9), caps = ew_col_blob(st, 10);
    ew_buf_add(&d.cert_der, cert.data, cert.size);
    ew_buf_add(&d.caps, caps.data, caps.size);
    copy_blob(st, 11, &d.state, sizeof d.state);
    if (d.cert_der.status != EW_OK || d.caps.status != EW_OK) {
        ew_device_row_release(&d);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a device");
    }
    *ret = d;
    return EW_OK;
}

static ew_status insert_device(ew_db *db, const ew_device_row *d, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "INSERT INTO device(id,key_sha256,hardware_id,created_ms,not_after_ms,cert,caps)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7)",
                        &st, reterr));
    ew_bind_text(st, 1, d->id);
    ew_bind_blob(st, 2, d->key_sha256, sizeof d->key_sha256);
    ew_bind_text(st, 3, d->hardware_id);
    ew_bind_i64(st, 4, (int64_t)d->created_ms);
    ew_bind_i64(st, 5, (int64_t)d->not_after_ms);
    ew_bind_blob(st, 6, d->cert_der.data, d->cert_der.size);
    ew_bind_blob(st, 7, d->caps.size > 0 ? d->caps.data : NULL, d->caps.size);
    ew_status status = ew_stmt_run(st, reterr);
    return status == EW_EEXIST ? ew_fail(reterr, EW_EEXIST, "a device %s is enrolled already", d->id) : status;
}

ew_status ew_store_enrol(ew_store *s, const char *token_id, const uint8_t csr_sha256[static 32], const ew_device_row *d,
                         ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, db, reterr));
    {
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(ew_stmt_open(db, "UPDATE token SET used_ms=?2, csr_sha256=?3, device_id=?4 WHERE id=?1 AND used_ms=0",
                            &st, reterr));
        ew_bind_text(st, 1, token_id);
        ew_bind_i64(st, 2, (int64_t)d->created_ms);
        ew_bind_blob(st, 3, csr_sha256, 32);
        ew_bind_text(st, 4, d->id);
        EW_TRY(ew_stmt_run(st, reterr));
        if (ew_db_changes(db) != 1) {
            return ew_fail(reterr, EW_ECONFLICT, "the token has been used already");
        }
    }
    EW_TRY(insert_device(db, d, reterr));
    return ew_tx_commit(&tx, reterr);
}

static ew_status device_where(ew_store *s, const char *sql, const char *id, const uint8_t *key, ew_device_row *ret,
                              ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, sql, &st, reterr));
    if (id != NULL) {
        ew_bind_text(st, 1, id);
    } else {
        ew_bind_blob(st, 1, key, 32);
    }
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "there is no device %s", id != NULL ? id : "with that key");
    }
    return read_device(st, ret, reterr);
}

ew_status ew_store_device_get(ew_store *s, const char *id, ew_device_row *ret, ew_error *reterr)
{
    return device_where(s, "SELECT " DEVICE_COLUMNS " FROM device WHERE id=?1", id, NULL, ret, reterr);
}

ew_status ew_store_device_by_key(ew_store *s, const uint8_t key_sha256[static 32], ew_device_row *ret, ew_error *reterr)
{
    return device_where(s, "SELECT " DEVICE_COLUMNS " FROM device WHERE key_sha256=?1 OR key_before=?1", NULL,
                        key_sha256, ret, reterr);
}

static ew_status run_device_update(ew_db *db, ew_stmt *st, const char *id, ew_error *reterr)
{
    EW_TRY(ew_stmt_run(st, reterr));
    return ew_db_changes(db) == 1 ? EW_OK : ew_fail(reterr, EW_ENOENT, "there is no device %s", id);
}

ew_status ew_store_device_renewed(ew_store *s, const char *id, const uint8_t key_sha256[static 32], ew_span cert,
                                  uint64_t not_after_ms, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE device SET key_before=CASE WHEN key_sha256<>?2 THEN key_sha256 ELSE key_before END,"
                        " key_sha256=?2, cert=?3, not_after_ms=?4 WHERE id=?1 AND revoked_ms=0",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    ew_bind_blob(st, 2, key_sha256, 32);
    ew_bind_blob(st, 3, cert.data, cert.size);
    ew_bind_i64(st, 4, (int64_t)not_after_ms);
    return run_device_update(db, st, id, reterr);
}

ew_status ew_store_device_hello(ew_store *s, const char *id, uint64_t epoch, const ew_msg_hello *hello, uint64_t now_ms,
                                bool *ret_new_boot, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    ew_device_row old = {0};
    EW_TRY(ew_store_device_get(s, id, &old, reterr));
    bool new_boot = memcmp(old.boot_id, hello->boot_id, sizeof old.boot_id) != 0;
    ew_device_row_release(&old);
    EW_AUTO_BUF caps = {0};
    if (hello->has_caps) {
        EW_TRY(ew_wire_pack_caps(&hello->caps, &caps, reterr));
    }
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE device SET epoch=max(epoch,?2), boot_id=?3, caps=coalesce(?4,caps),"
                        " state=coalesce(?5,state), last_seen_ms=?6 WHERE id=?1",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    ew_bind_i64(st, 2, (int64_t)epoch);
    ew_bind_blob(st, 3, hello->boot_id, sizeof hello->boot_id);
    ew_bind_blob(st, 4, caps.size > 0 ? caps.data : NULL, caps.size);
    ew_bind_blob(st, 5, hello->has_state ? &hello->state : NULL, sizeof hello->state);
    ew_bind_i64(st, 6, (int64_t)now_ms);
    EW_TRY(run_device_update(db, st, id, reterr));
    *ret_new_boot = new_boot;
    return EW_OK;
}

ew_status ew_store_device_seen(ew_store *s, const char *id, const ew_device_state *state, uint64_t now_ms,
                               ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "UPDATE device SET state=coalesce(?2,state), last_seen_ms=?3 WHERE id=?1", &st, reterr));
    ew_bind_text(st, 1, id);
    ew_bind_blob(st, 2, state, sizeof *state);
    ew_bind_i64(st, 3, (int64_t)now_ms);
    return run_device_update(db, st, id, reterr);
}

ew_status ew_store_device_revoke(ew_store *s, const char *id, uint64_t now_ms, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "UPDATE device SET revoked_ms=CASE WHEN revoked_ms=0 THEN ?2 ELSE revoked_ms END WHERE id=?1",
                        &st, reterr));
    ew_bind_text(st, 1, id);
    ew_bind_i64(st, 2, (int64_t)now_ms);
    return run_device_update(db, st, id, reterr);
}

ew_status ew_store_device_each(ew_store *s, ew_store_device_fn fn, void *ctx, ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT " DEVICE_COLUMNS " FROM device ORDER BY id", &st, reterr));
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        ew_device_row d = {0};
        EW_TRY(read_device(st, &d, reterr));
        ew_status status = fn(&d, ctx, reterr);
        ew_device_row_release(&d);
        EW_TRY(status);
    }
}

/* ---- replies for retries */

ew_status ew_store_idem_get(ew_store *s, const char *peer, const uint8_t key[static 16], ew_buf *out, bool *ret_found,
                            ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT reply FROM idem WHERE peer=?1 AND key=?2", &st, reterr));
    ew_bind_text(st, 1, peer);
    ew_bind_blob(st, 2, key, 16);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (row) {
        ew_span reply = ew_col_blob(st, 0);
        ew_buf_add(out, reply.data, reply.size);
        EW_TRY(ew_buf_check(out, reterr));
    }
    *ret_found = row;
    return EW_OK;
}

ew_status ew_store_idem_put(ew_store *s, const char *peer, const uint8_t key[static 16], ew_span reply, uint64_t now_ms,
                            ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    {
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(ew_stmt_open(db, "INSERT INTO idem(peer,key,reply,created_ms) VALUES(?1,?2,?3,?4)", &st, reterr));
        ew_bind_text(st, 1, peer);
        ew_bind_blob(st, 2, key, 16);
        ew_bind_blob(st, 3, reply.size > 0 ? reply.data : "", reply.size);
        ew_bind_i64(st, 4, (int64_t)now_ms);
        EW_TRY(ew_stmt_run(st, reterr));
    }
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "DELETE FROM idem WHERE peer=?1 AND (created_ms<?2 OR seq<=(SELECT seq FROM idem WHERE peer=?1"
                        " ORDER BY seq DESC LIMIT 1 OFFSET 1024))",
                        &st, reterr));
    ew_bind_text(st, 1, peer);
    ew_bind_i64(st, 2, (int64_t)now_ms - 24 * 3600 * 1000);
    return ew_stmt_run(st, reterr);
}

ew_status ew_store_audit(ew_store *s, uint64_t now_ms, const char *who, const char *event, const char *detail,
                         ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, s);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "INSERT INTO audit(unix_ms,who,event,detail) VALUES(?1,?2,?3,?4)", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)now_ms);
    ew_bind_text(st, 2, who);
    ew_bind_text(st, 3, event);
    ew_bind_text(st, 4, detail);
    return ew_stmt_run(st, reterr);
}

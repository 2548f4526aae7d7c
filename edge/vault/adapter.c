/* The adapter registry of the vault: which adapter learned from which items, over which base, with what scores; its file in sealed chunks. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "vault/vault_int.h"

#define COLUMNS                                                                                                        \
    "id, task, method, base_sha256, score_base, score_adapter, nll_base, nll_adapter, bytes, created_ms, active, "     \
    "flagged, (SELECT count(*) FROM adapter_item WHERE adapter = id), rag_k, known_row, parent, rag_rank"
#define ADAPTERS_MAX 100000u

ew_status ew__vault_flag_adapters(ew_vault *v, uint64_t row, size_t *n_flagged, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db,
                        "UPDATE adapter SET flagged = 1, active = 0 WHERE NOT flagged AND id IN (SELECT adapter FROM "
                        "adapter_item WHERE row = ?1)",
                        &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    EW_TRY(ew_stmt_run(st, reterr));
    *n_flagged += (size_t)ew_db_changes(v->db);
    return EW_OK;
}

static ew_status insert_meta(ew_vault *v, const ew_vault_adapter *m, size_t bytes, uint64_t *ret_id, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db,
                        "INSERT INTO adapter(task, method, base_sha256, score_base, score_adapter, nll_base, "
                        "nll_adapter, bytes, created_ms, rag_k, known_row, parent, rag_rank) VALUES(?1, ?2, ?3, ?4, "
                        "?5, ?6, ?7, ?8, ?9, "
                        "?10, ?11, ?12, ?13)",
                        &st, reterr));
    ew_bind_text(st, 1, m->task);
    ew_bind_text(st, 2, m->method);
    ew_bind_text(st, 3, m->base_sha256);
    ew_bind_f64(st, 4, m->score_base);
    ew_bind_f64(st, 5, m->score_adapter);
    ew_bind_f64(st, 6, m->nll_base);
    ew_bind_f64(st, 7, m->nll_adapter);
    ew_bind_i64(st, 8, (int64_t)bytes);
    ew_bind_i64(st, 9, (int64_t)m->created_ms);
    ew_bind_i64(st, 10, (int64_t)m->rag_k);
    ew_bind_i64(st, 11, (int64_t)m->known_row);
    ew_bind_i64(st, 12, (int64_t)m->parent);
    ew_bind_i64(st, 13, (int64_t)m->rag_rank);
    EW_TRY(ew_stmt_run(st, reterr));
    *ret_id = (uint64_t)ew_db_last_rowid(v->db);
    return EW_OK;
}

static ew_status insert_rows(ew_vault *v, uint64_t id, const uint64_t *rows, size_t n, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_AUTO(ew_stmt) flag = NULL;
    EW_TRY(ew_stmt_open(v->db, "INSERT OR IGNORE INTO adapter_item(row, adapter) VALUES(?1, ?2)", &st, reterr));
    for (size_t i = 0; i < n; i++) {
        ew_bind_i64(st, 1, (int64_t)rows[i]);
        ew_bind_i64(st, 2, (int64_t)id);
        EW_TRY(ew_stmt_run(st, reterr));
    }
    EW_TRY(ew_stmt_open(v->db,
                        "UPDATE adapter SET flagged = 1 WHERE id = ?1 AND EXISTS (SELECT 1 FROM adapter_item AS a "
                        "WHERE a.adapter = ?1 AND NOT EXISTS (SELECT 1 FROM item WHERE item.row = a.row))",
                        &flag, reterr));
    ew_bind_i64(flag, 1, (int64_t)id);
    return ew_stmt_run(flag, reterr);
}

static ew_status insert_chunks(ew_vault *v, uint64_t id, ew_span file, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_AUTO_BUF sealed = {0};
    EW_TRY(ew_stmt_open(v->db, "INSERT INTO adapter_chunk(adapter, part, data) VALUES(?1, ?2, ?3)", &st, reterr));
    uint64_t part = 0;
    for (size_t at = 0; at < file.size; at += EW__VAULT_CHUNK_BYTES, part++) {
        const ew_span chunk = {(const char *)file.data + at, EW_MIN(file.size - at, (size_t)EW__VAULT_CHUNK_BYTES)};
        ew_buf_clear(&sealed);
        EW_TRY(ew__vault_seal(v, "adapter", id, part, chunk, &sealed, reterr));
        ew_bind_i64(st, 1, (int64_t)id);
        ew_bind_i64(st, 2, (int64_t)part);
        ew_bind_blob(st, 3, sealed.data, sealed.size);
        EW_TRY(ew_stmt_run(st, reterr));
    }
    return EW_OK;
}

ew_status ew_vault_adapter_put(ew_vault *v, const ew_vault_adapter *meta, const uint64_t *rows, size_t n_rows,
                               ew_span file, uint64_t *ret_id, ew_error *reterr)
{
    EW_AUTO_TX tx = {0};
    uint64_t id;
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    EW_TRY(insert_meta(v, meta, file.size, &id, reterr));
    EW_TRY(insert_rows(v, id, rows, n_rows, reterr));
    EW_TRY(insert_chunks(v, id, file, reterr));
    EW_TRY(ew_tx_commit(&tx, reterr));
    *ret_id = id;
    return EW_OK;
}

static void read_columns(ew_stmt *st, ew_vault_adapter *a)
{
    *a = (ew_vault_adapter){
        .id = (uint64_t)ew_col_i64(st, 0),
        .score_base = ew_col_f64(st, 4),
        .score_adapter = ew_col_f64(st, 5),
        .nll_base = ew_col_f64(st, 6),
        .nll_adapter = ew_col_f64(st, 7),
        .bytes = (uint64_t)ew_col_i64(st, 8),
        .created_ms = (uint64_t)ew_col_i64(st, 9),
        .active = ew_col_i64(st, 10) != 0,
        .flagged = ew_col_i64(st, 11) != 0,
        .n_items = (uint64_t)ew_col_i64(st, 12),
        .rag_k = (uint32_t)ew_col_i64(st, 13),
        .known_row = (uint64_t)ew_col_i64(st, 14),
        .parent = (uint64_t)ew_col_i64(st, 15),
        .rag_rank = (uint32_t)ew_col_i64(st, 16),
    };
    ew_str_copy(a->task, sizeof(a->task), ew_col_text(st, 1));
    ew_str_copy(a->method, sizeof(a->method), ew_col_text(st, 2));
    ew_str_copy(a->base_sha256, sizeof(a->base_sha256), ew_col_text(st, 3));
}

ew_status ew_vault_adapter_get(ew_vault *v, uint64_t id, ew_vault_adapter *ret_meta, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool row;
    EW_TRY(ew_stmt_open(v->db, "SELECT " COLUMNS " FROM adapter WHERE id = ?1", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)id);
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "no adapter %llu. HINT: edgewise-agent adapter list", (unsigned long long)id);
    }
    read_columns(st, ret_meta);
    return EW_OK;
}

ew_status ew_vault_adapter_activate(ew_vault *v, const char *task, const char *base_sha256, uint64_t id,
                                    ew_error *reterr)
{
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    if (id != 0) {
        ew_vault_adapter meta;
        EW_TRY(ew_vault_adapter_get(v, id, &meta, reterr));
        if (meta.flagged) {
            return ew_fail(reterr, EW_ECONFLICT,
                           "adapter %llu learned from items that were forgotten since. HINT: edgewise-agent learn",
                           (unsigned long long)id);
        }
        if (!ew_str_eq(meta.task, task) || !ew_str_eq(meta.base_sha256, base_sha256)) {
            return ew_fail(reterr, EW_ECONFLICT, "adapter %llu belongs to task %s and model %.12s…",
                           (unsigned long long)id, meta.task, meta.base_sha256);
        }
    }
    EW_AUTO(ew_stmt) off = NULL;
    EW_TRY(ew_stmt_open(v->db, "UPDATE adapter SET active = 0 WHERE active AND task = ?1 AND base_sha256 = ?2", &off,
                        reterr));
    ew_bind_text(off, 1, task);
    ew_bind_text(off, 2, base_sha256);
    EW_TRY(ew_stmt_run(off, reterr));
    EW_AUTO(ew_stmt) on = NULL;
    EW_TRY(ew_stmt_open(v->db, "UPDATE adapter SET active = 1 WHERE id = ?1", &on, reterr));
    ew_bind_i64(on, 1, (int64_t)id);
    EW_TRY(ew_stmt_run(on, reterr));
    return ew_tx_commit(&tx, reterr);
}

ew_status ew_vault_adapter_active(ew_vault *v, const char *task, const char *base_sha256, ew_vault_adapter *ret_meta,
                                  ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool row;
    EW_TRY(ew_stmt_open(v->db, "SELECT " COLUMNS " FROM adapter WHERE active AND task = ?1 AND base_sha256 = ?2", &st,
                        reterr));
    ew_bind_text(st, 1, task);
    ew_bind_text(st, 2, base_sha256);
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "no adapter is active for task %s and model %.12s…", task, base_sha256);
    }
    read_columns(st, ret_meta);
    return EW_OK;
}

ew_status ew_vault_adapter_read(ew_vault *v, uint64_t id, ew_buf *out, ew_error *reterr)
{
    ew_vault_adapter meta;
    EW_TRY(ew_vault_adapter_get(v, id, &meta, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "SELECT part, data FROM adapter_chunk WHERE adapter = ?1 ORDER BY part", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)id);
    EW_AUTO_BUF file = {.max = (size_t)meta.bytes + 1};
    for (uint64_t part = 0;; part++) {
        bool row;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            break;
        }
        EW_TRY(ew__vault_unseal(v, "adapter", id, part, ew_col_blob(st, 1), &file, reterr));
    }
    if (file.size != meta.bytes) {
        return ew_fail(reterr, EW_ECORRUPT, "adapter %llu: %zu of %llu bytes are there", (unsigned long long)id,
                       file.size, (unsigned long long)meta.bytes);
    }
    ew_buf_add(out, ew_buf_str(&file), file.size);
    return ew_buf_check(out, reterr);
}

ew_status ew_vault_adapter_list(ew_vault *v, ew_vault_adapter **ret_list, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "SELECT " COLUMNS " FROM adapter ORDER BY id", &st, reterr));
    ew_vault_adapter *list = NULL;
    size_t n = 0, cap = 0;
    ew_status status = EW_OK;
    for (;;) {
        bool row = false;
        status = ew_stmt_step(st, &row, reterr);
        if (status != EW_OK || !row) {
            break;
        }
        status = ew_grow((void **)&list, &cap, n + 1, sizeof(*list), ADAPTERS_MAX);
        if (status != EW_OK) {
            status = ew_fail(reterr, status, "no memory for the list of adapters");
            break;
        }
        read_columns(st, &list[n++]);
    }
    if (status != EW_OK) {
        ew_free(list);
        return status;
    }
    *ret_list = list;
    *ret_n = n;
    return EW_OK;
}

ew_status ew_vault_adapter_remove(ew_vault *v, uint64_t id, ew_error *reterr)
{
    EW_AUTO_TX tx = {0};
    ew_vault_adapter meta;
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    EW_TRY(ew_vault_adapter_get(v, id, &meta, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "DELETE FROM adapter WHERE id = ?1", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)id);
    EW_TRY(ew_stmt_run(st, reterr));
    return ew_tx_commit(&tx, reterr);
}

static bool keeps(const ew_vault_adapter *m, const uint64_t *keep, size_t n_keep)
{
    bool kept = m->active;
    for (size_t i = 0; i < n_keep; i++) {
        kept = kept || keep[i] == m->id;
    }
    return kept && !m->flagged;
}

ew_status ew_vault_adapter_prune(ew_vault *v, const char *task, const uint64_t *keep, size_t n_keep,
                                 size_t *ret_removed, ew_error *reterr)
{
    ew_vault_adapter *list = NULL;
    size_t n = 0;
    size_t removed = 0;
    EW_TRY(ew_vault_adapter_list(v, &list, &n, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; i < n && st == EW_OK; i++) {
        if (ew_str_eq(list[i].task, task) && !keeps(&list[i], keep, n_keep)) {
            st = ew_vault_adapter_remove(v, list[i].id, reterr);
            removed++;
        }
    }
    ew_free(list);
    EW_TRY(st);
    *ret_removed = removed;
    return EW_OK;
}

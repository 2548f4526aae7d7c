#include "vault/vault.h"

#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "text/utf8.h"
#include "vault/vault_int.h"

#define KEY_NAME "profile.key"
#define CHECK_TEXT "edgewise vault"
#define ID_MAX 256u /* of an item, as task/item reads it */

static const char *const migrations[] = {
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE item(row INTEGER PRIMARY KEY AUTOINCREMENT, id_mac BLOB NOT NULL UNIQUE, "
    " content_mac BLOB NOT NULL UNIQUE, record BLOB NOT NULL);"
    "CREATE TABLE adapter(id INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL, method TEXT NOT NULL, "
    " base_sha256 TEXT NOT NULL, score_base REAL, score_adapter REAL, nll_base REAL, nll_adapter REAL, "
    " bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, active INTEGER NOT NULL DEFAULT 0, "
    " flagged INTEGER NOT NULL DEFAULT 0);"
    "CREATE UNIQUE INDEX adapter_active ON adapter(task, base_sha256) WHERE active;"
    "CREATE TABLE adapter_item(row INTEGER NOT NULL, adapter INTEGER NOT NULL REFERENCES adapter(id) ON DELETE "
    "CASCADE, PRIMARY KEY(row, adapter)) WITHOUT ROWID;"
    "CREATE TABLE adapter_chunk(adapter INTEGER NOT NULL REFERENCES adapter(id) ON DELETE CASCADE, part INTEGER NOT "
    "NULL, data BLOB NOT NULL, PRIMARY KEY(adapter, part)) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('generation', 0);",
    "ALTER TABLE adapter ADD COLUMN rag_k INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE adapter ADD COLUMN known_row INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE adapter ADD COLUMN parent INTEGER NOT NULL DEFAULT 0;",
    "ALTER TABLE adapter ADD COLUMN rag_rank INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE vector(space BLOB NOT NULL, row INTEGER NOT NULL REFERENCES item(row) ON DELETE CASCADE, data BLOB "
    "NOT NULL, PRIMARY KEY(row, space)) WITHOUT ROWID;",
};

ew_status ew_vault_key(const char *credentials_dir, const char *fallback, uint8_t ret_key[static EW_AEAD_KEY_SIZE],
                       ew_error *reterr)
{
    char path[EW_PATH_MAX];
    if (credentials_dir != NULL && credentials_dir[0] != '\0') {
        EW_TRY(ew_path_join(path, sizeof(path), credentials_dir, KEY_NAME, reterr));
        if (ew_file_exists(path)) {
            return ew_aead_key_file(path, false, ret_key, reterr);
        }
    }
    return ew_aead_key_file(fallback, true, ret_key, reterr);
}

/* --- sealing --- */
static ew_span aad_of(char dst[static 96], const char *table, uint64_t number, uint64_t part)
{
    int n =
        snprintf(dst, 96, "edgewise-vault/1/%s/%llu/%llu", table, (unsigned long long)number, (unsigned long long)part);
    return (ew_span){dst, (size_t)n};
}

ew_status ew__vault_seal(const ew_vault *v, const char *table, uint64_t number, uint64_t part, ew_span plain,
                         ew_buf *out, ew_error *reterr)
{
    char aad[96];
    return ew_aead_seal(v->seal_key, aad_of(aad, table, number, part), plain, out, reterr);
}

ew_status ew__vault_unseal(const ew_vault *v, const char *table, uint64_t number, uint64_t part, ew_span sealed,
                           ew_buf *out, ew_error *reterr)
{
    char aad[96];
    ew_status st = ew_aead_open(v->seal_key, aad_of(aad, table, number, part), sealed, out, reterr);
    return st == EW_OK ? EW_OK
                       : ew_wrap(reterr, st, "vault record %s/%llu/%llu", table, (unsigned long long)number,
                                 (unsigned long long)part);
}

/* --- open --- */
static ew_status meta_get(ew_vault *v, const char *name, ew_buf *out, bool *ret_found, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "SELECT value FROM meta WHERE name = ?1", &st, reterr));
    ew_bind_text(st, 1, name);
    bool row;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (row) {
        ew_span value = ew_col_blob(st, 0);
        ew_buf_add(out, value.data, value.size);
        EW_TRY(ew_buf_check(out, reterr));
    }
    *ret_found = row;
    return EW_OK;
}

/* A sealed constant tells a wrong key before anything is read or written with it. */
static ew_status check_key(ew_vault *v, const char *path, ew_error *reterr)
{
    EW_AUTO_BUF sealed = {0};
    EW_AUTO_BUF plain = {0};
    EW_AUTO_TX tx = {0};
    bool found;
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    EW_TRY(meta_get(v, "check", &sealed, &found, reterr));
    if (!found) {
        const ew_span text = {CHECK_TEXT, strlen(CHECK_TEXT)};
        EW_TRY(ew__vault_seal(v, "check", 0, 0, text, &sealed, reterr));
        EW_AUTO(ew_stmt) st = NULL;
        EW_TRY(ew_stmt_open(v->db, "INSERT INTO meta VALUES('check', ?1)", &st, reterr));
        ew_bind_blob(st, 1, sealed.data, sealed.size);
        EW_TRY(ew_stmt_run(st, reterr));
        return ew_tx_commit(&tx, reterr);
    }
    if (ew__vault_unseal(v, "check", 0, 0, (ew_span){sealed.data, sealed.size}, &plain, NULL) != EW_OK) {
        return ew_fail(reterr, EW_EDENIED,
                       "%s was made with another key. HINT: restore the key file or the credential '%s' that belongs "
                       "to it; without it the profile cannot be read",
                       path, KEY_NAME);
    }
    return EW_OK;
}

ew_status ew_vault_open(const char *path, const uint8_t key[static EW_AEAD_KEY_SIZE], ew_vault **ret_vault,
                        ew_error *reterr)
{
    EW_AUTO(ew_vault) v = ew_calloc(1, sizeof(*v));
    if (v == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the vault");
    }
    const ew_span master = {key, EW_AEAD_KEY_SIZE};
    const ew_span none = {"", 0};
    ew_hkdf_sha256(master, none, (ew_span){"edgewise-vault/seal", 19}, v->seal_key, sizeof(v->seal_key));
    ew_hkdf_sha256(master, none, (ew_span){"edgewise-vault/mac", 18}, v->mac_key, sizeof(v->mac_key));
    EW_TRY(ew_db_open(path, NULL, &v->db, reterr));
    EW_TRY(ew_db_exec(v->db, "PRAGMA secure_delete=ON", reterr));
    EW_TRY(ew_db_migrate(v->db, migrations, EW_COUNT(migrations), reterr));
    EW_TRY(check_key(v, path, reterr));
    *ret_vault = v;
    v = NULL;
    return EW_OK;
}

void ew_vault_free(ew_vault **v)
{
    if (*v != NULL) {
        ew_rag_free(&(*v)->rag);
        ew_db_free(&(*v)->db);
        ew_wipe((*v)->seal_key, sizeof((*v)->seal_key));
        ew_wipe((*v)->mac_key, sizeof((*v)->mac_key));
        ew_free(*v);
        *v = NULL;
    }
}

/* --- items --- */
static void mac_of(const ew_vault *v, char kind, const char *a, const char *b, uint8_t mac[static EW_SHA256_SIZE])
{
    EW_AUTO_BUF text = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    ew_buf_addf(&text, "%c%zu/", kind, strlen(a));
    ew_buf_adds(&text, a);
    ew_buf_adds(&text, b);
    EW_ASSERT(text.status == EW_OK); /* items are bounded by their line */
    ew_hmac_sha256(v->mac_key, sizeof(v->mac_key), text.data, text.size, mac);
    ew_wipe(text.data, text.size);
}

static ew_status has_mac(ew_vault *v, const char *sql, const uint8_t *mac, bool *ret_has, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, sql, &st, reterr));
    ew_bind_blob(st, 1, mac, EW_SHA256_SIZE);
    return ew_stmt_step(st, ret_has, reterr);
}

/* The id to store it under: its own, or with the content's hash behind it when another content has that one. */
static ew_status free_id(ew_vault *v, const ew_item *item, const uint8_t *content_mac, ew_buf *id,
                         uint8_t id_mac[static EW_SHA256_SIZE], ew_error *reterr)
{
    bool taken;
    ew_buf_adds(id, item->id);
    mac_of(v, 'i', item->user, item->id, id_mac);
    EW_TRY(has_mac(v, "SELECT 1 FROM item WHERE id_mac = ?1", id_mac, &taken, reterr));
    if (taken) {
        char hex[9];
        ew_hex_encode(content_mac, 4, hex);
        ew_buf_addf(id, "~%s", hex);
        EW_TRY(ew_buf_check(id, reterr));
        if (id->size > ID_MAX) {
            char whole[2 * EW_SHA256_SIZE + 1];
            ew_hex_encode(content_mac, EW_SHA256_SIZE, whole);
            ew_buf_clear(id);
            ew_buf_adds(id, whole);
            EW_TRY(ew_buf_check(id, reterr));
        }
        mac_of(v, 'i', item->user, id->data, id_mac);
    }
    return ew_buf_check(id, reterr);
}

static ew_status insert_row(ew_vault *v, const uint8_t *id_mac, const uint8_t *content_mac, uint64_t *ret_row,
                            ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "INSERT INTO item(id_mac, content_mac, record) VALUES(?1, ?2, x'')", &st, reterr));
    ew_bind_blob(st, 1, id_mac, EW_SHA256_SIZE);
    ew_bind_blob(st, 2, content_mac, EW_SHA256_SIZE);
    EW_TRY(ew_stmt_run(st, reterr));
    *ret_row = (uint64_t)ew_db_last_rowid(v->db);
    return EW_OK;
}

/* One record that cannot be read back would take the whole profile with it. */
static ew_status check_readable(const ew_item *item, const ew_buf *text, ew_error *reterr)
{
    EW_CLEANUP(ew_item_release) ew_item back = {0};
    char where[96];
    (void)snprintf(where, sizeof(where), "the item '%.64s' as it would be stored", item->id);
    return ew_item_parse(where, text->data, text->size, &back, reterr);
}

static ew_status add_item(ew_vault *v, const ew_item *item, bool *ret_added, ew_error *reterr)
{
    uint8_t content_mac[EW_SHA256_SIZE], id_mac[EW_SHA256_SIZE];
    bool known;
    mac_of(v, 'c', item->input, item->output, content_mac);
    EW_TRY(has_mac(v, "SELECT 1 FROM item WHERE content_mac = ?1", content_mac, &known, reterr));
    *ret_added = !known;
    if (known) {
        return EW_OK;
    }
    EW_AUTO_BUF id = {0};
    EW_TRY(free_id(v, item, content_mac, &id, id_mac, reterr));
    uint64_t row;
    EW_TRY(insert_row(v, id_mac, content_mac, &row, reterr));
    /* The record's number is part of what is authenticated: it is known only now. */
    ew_item named = {id.data, item->user, item->input, item->output, row};
    EW_AUTO_BUF text = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    EW_AUTO_BUF sealed = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    ew_item_write(&named, &text);
    EW_TRY(ew_buf_check(&text, reterr));
    ew_status status = check_readable(&named, &text, reterr);
    if (status == EW_OK) {
        status = ew__vault_seal(v, "item", row, 0, (ew_span){text.data, text.size}, &sealed, reterr);
    }
    ew_wipe(text.data, text.size);
    EW_TRY(status);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "UPDATE item SET record = ?2 WHERE row = ?1", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    ew_bind_blob(st, 2, sealed.data, sealed.size);
    return ew_stmt_run(st, reterr);
}

static ew_status bump_generation(ew_vault *v, ew_error *reterr)
{
    return ew_db_exec(v->db, "UPDATE meta SET value = value + 1 WHERE name = 'generation'", reterr);
}

static ew_status scalar(ew_vault *v, const char *sql, uint64_t *ret, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool row;
    EW_TRY(ew_stmt_open(v->db, sql, &st, reterr));
    EW_TRY(ew_stmt_step(st, &row, reterr));
    *ret = row ? (uint64_t)ew_col_i64(st, 0) : 0;
    return EW_OK;
}

ew_status ew_vault_count(ew_vault *v, size_t *ret_n, ew_error *reterr)
{
    uint64_t n;
    EW_TRY(scalar(v, "SELECT count(*) FROM item", &n, reterr));
    *ret_n = (size_t)n;
    return EW_OK;
}

ew_status ew_vault_count_after(ew_vault *v, uint64_t row, size_t *ret_n, uint64_t *ret_last, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool found;
    EW_TRY(
        ew_stmt_open(v->db, "SELECT count(*) FILTER (WHERE row > ?1), coalesce(max(row), 0) FROM item", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    EW_TRY(ew_stmt_step(st, &found, reterr));
    *ret_n = found ? (size_t)ew_col_i64(st, 0) : 0;
    *ret_last = found ? (uint64_t)ew_col_i64(st, 1) : 0;
    return EW_OK;
}

ew_status ew_vault_generation(ew_vault *v, uint64_t *ret_generation, ew_error *reterr)
{
    return scalar(v, "SELECT value FROM meta WHERE name = 'generation'", ret_generation, reterr);
}

ew_status ew_vault_add_items(ew_vault *v, const ew_items *items, ew_vault_import_result *ret_result, ew_error *reterr)
{
    ew_vault_import_result r = {.n_read = items->n};
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    size_t before;
    EW_TRY(ew_vault_count(v, &before, reterr));
    for (size_t i = 0; i < items->n; i++) {
        bool added;
        EW_TRY(add_item(v, &items->item[i], &added, reterr));
        r.n_added += added;
        r.n_known += !added;
        if (before + r.n_added > EW_LIMIT_PROFILE_ITEMS) {
            return ew_fail(reterr, EW_ELIMIT,
                           "a profile holds at most %u items; nothing was imported. HINT: forget some, or import less",
                           EW_LIMIT_PROFILE_ITEMS);
        }
    }
    if (r.n_added != 0) {
        EW_TRY(bump_generation(v, reterr));
    }
    EW_TRY(ew_tx_commit(&tx, reterr));
    *ret_result = r;
    return EW_OK;
}

ew_status ew_vault_import(ew_vault *v, const char *path, ew_vault_import_result *ret_result, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(ew_items_read(path, &items, reterr));
    if (items.n == 0) {
        return ew_fail(reterr, EW_EINVAL,
                       "%s holds no record. HINT: one JSON object per line, e.g. {\"input\": "
                       "\"…\", \"output\": \"…\"}",
                       path);
    }
    return ew_vault_add_items(v, &items, ret_result, reterr);
}

/* Appends the item of the current row (row, record) of st. */
static ew_status take_row(ew_vault *v, ew_stmt *st, ew_items *items, ew_error *reterr)
{
    uint64_t row = (uint64_t)ew_col_i64(st, 0);
    EW_AUTO_BUF text = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    EW_TRY(ew__vault_unseal(v, "item", row, 0, ew_col_blob(st, 1), &text, reterr));
    EW_CLEANUP(ew_item_release) ew_item item = {0};
    ew_status status = ew_item_parse("vault record", text.data, text.size, &item, reterr);
    ew_wipe(text.data, text.size);
    EW_TRY(status);
    item.order = row;
    return ew_items_take(items, &item, reterr);
}

static ew_status load(ew_vault *v, uint64_t only_row, ew_items *items, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db,
                        only_row != 0 ? "SELECT row, record FROM item WHERE row = ?1"
                                      : "SELECT row, record FROM item ORDER BY row",
                        &st, reterr));
    if (only_row != 0) {
        ew_bind_i64(st, 1, (int64_t)only_row);
    }
    for (;;) {
        bool row;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        EW_TRY(take_row(v, st, items, reterr));
    }
}

ew_status ew_vault_items(ew_vault *v, ew_items *ret_items, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(load(v, 0, &items, reterr));
    *ret_items = items;
    items = (ew_items){0};
    return EW_OK;
}

ew_status ew_vault_export(ew_vault *v, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(load(v, 0, &items, reterr));
    for (size_t i = 0; i < items.n; i++) {
        ew_item_write(&items.item[i], out);
    }
    return ew_buf_check(out, reterr);
}

/* --- search --- */
static ew_status index_items(ew_vault *v, ew_rag *rag, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(load(v, 0, &items, reterr));
    EW_AUTO_BUF text = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    for (size_t i = 0; i < items.n; i++) {
        const ew_item *item = &items.item[i];
        ew_buf_clear(&text);
        ew_buf_adds(&text, item->output);
        ew_buf_addc(&text, '\n');
        ew_buf_adds(&text, item->input);
        EW_TRY(ew_buf_check(&text, reterr));
        EW_TRY(ew_rag_add(rag, item->order, text.data, text.size, item->order, reterr));
    }
    return EW_OK;
}

static ew_status index_ready(ew_vault *v, ew_error *reterr)
{
    uint64_t generation;
    EW_TRY(ew_vault_generation(v, &generation, reterr));
    if (v->rag != NULL && v->rag_generation == generation) {
        return EW_OK;
    }
    ew_rag_free(&v->rag);
    EW_AUTO(ew_rag) rag = NULL;
    EW_TRY(ew_rag_new(&rag, reterr));
    EW_TRY(index_items(v, rag, reterr));
    v->rag = rag;
    rag = NULL;
    v->rag_generation = generation;
    return EW_OK;
}

ew_status ew_vault_search(ew_vault *v, const char *query, size_t k, double recency, ew_items *ret_items,
                          ew_error *reterr)
{
    EW_TRY(index_ready(v, reterr));
    k = EW_MIN(k, (size_t)EW_LIMIT_PROFILE_ITEMS);
    ew_rag_hit *hit = ew_calloc(k + 1, sizeof(*hit));
    if (hit == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu hits", k);
    }
    size_t n = 0;
    const ew_rag_query q = {
        .text = query, .size = strlen(query), .k = k, .before_order = UINT64_MAX, .recency = recency};
    EW_AUTO_ITEMS items = {0};
    ew_status st = ew_rag_search(v->rag, &q, hit, &n, reterr);
    for (size_t i = 0; st == EW_OK && i < n; i++) {
        st = load(v, hit[i].key, &items, reterr);
    }
    ew_free(hit);
    EW_TRY(st);
    *ret_items = items;
    items = (ew_items){0};
    return EW_OK;
}

/* --- forgetting --- */
static bool holds_text(const char *text, const ew_buf *needle)
{
    EW_AUTO_BUF lower = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 8};
    ew_utf8_lower(text, strlen(text), &lower);
    return lower.status == EW_OK && strstr(ew_buf_str(&lower), ew_buf_str(needle)) != NULL;
}

static bool fits(const ew_vault_match *m, const ew_buf *needle, const ew_item *item)
{
    return m->all || ((m->id == NULL || strcmp(m->id, item->id) == 0) &&
                      (m->text == NULL || holds_text(item->input, needle) || holds_text(item->output, needle)));
}

static ew_status forget_row(ew_vault *v, uint64_t row, ew_vault_forget_result *r, ew_error *reterr)
{
    EW_TRY(ew__vault_flag_adapters(v, row, &r->n_adapters, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "DELETE FROM item WHERE row = ?1", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    EW_TRY(ew_stmt_run(st, reterr));
    r->n_items++;
    return EW_OK;
}

static ew_status forget_matching(ew_vault *v, const ew_vault_match *match, ew_vault_forget_result *r, ew_error *reterr)
{
    EW_AUTO_BUF needle = {0};
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_TX tx = {0};
    if (match->text != NULL) {
        ew_utf8_lower(match->text, strlen(match->text), &needle);
        EW_TRY(ew_buf_check(&needle, reterr));
    }
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    EW_TRY(load(v, 0, &items, reterr));
    for (size_t i = 0; i < items.n; i++) {
        if (fits(match, &needle, &items.item[i])) {
            EW_TRY(forget_row(v, items.item[i].order, r, reterr));
        }
    }
    if (r->n_items == 0) {
        return ew_fail(reterr, EW_ENOENT, "no item fits; nothing was forgotten. HINT: edgewise-agent data list");
    }
    EW_TRY(bump_generation(v, reterr));
    return ew_tx_commit(&tx, reterr);
}

ew_status ew_vault_forget(ew_vault *v, const ew_vault_match *match, ew_vault_forget_result *ret_result,
                          ew_error *reterr)
{
    if (!match->all && match->id == NULL && (match->text == NULL || match->text[0] == '\0')) {
        return ew_fail(reterr, EW_EINVAL, "say what to forget: an id, a text, or all");
    }
    ew_vault_forget_result r = {0, 0};
    EW_TRY(forget_matching(v, match, &r, reterr));
    ew_rag_free(&v->rag); /* the index rows go with it; it is built anew at the next search */
    /* Old pages, sealed as they are, leave the log too; a reader at work may keep it for now. */
    ew_status checkpoint = ew_db_exec(v->db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL);
    (void)checkpoint;
    *ret_result = r;
    return EW_OK;
}

/* See registry.h. */
#include "registry/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "model/model.h"
#include "sys/file.h"
#include "wire/wire.h"

const char *const ew_registry_schema =
    "CREATE TABLE artifact("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, sha256 BLOB NOT NULL UNIQUE, name TEXT NOT NULL, version TEXT NOT NULL,"
    " variant TEXT NOT NULL, dtype TEXT NOT NULL, arch TEXT NOT NULL, size INTEGER NOT NULL, n_params INTEGER NOT NULL,"
    " weights_bytes INTEGER NOT NULL, c INTEGER NOT NULL, l INTEGER NOT NULL, v INTEGER NOT NULL,"
    " n_ctx INTEGER NOT NULL, score REAL, manifest BLOB NOT NULL, signature BLOB NOT NULL, key_id TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL);"
    "CREATE INDEX artifact_name ON artifact(name, variant, seq);";

void ew_catalog_release(ew_catalog *c)
{
    ew_free(c->entry);
    *c = (ew_catalog){0};
}

void ew_prepared_release(ew_prepared *p)
{
    ew_buf_release(&p->manifest);
}

static bool name_ok(const char *s, size_t max)
{
    size_t n = strlen(s);
    return n >= 1 && n < max && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n &&
           s[0] != '.';
}

ew_status ew_upload_check(const ew_upload *u, ew_error *reterr)
{
    if (!name_ok(u->name, sizeof u->name) || !name_ok(u->version, sizeof u->version) ||
        !name_ok(u->variant, sizeof u->variant)) {
        return ew_fail(
            reterr, EW_EINVAL,
            "model name, version and variant must be of letters, digits, '.', '_' and '-' (at most %zu, %zu and "
            "%zu)",
            sizeof u->name - 1, sizeof u->version - 1, sizeof u->variant - 1);
    }
    if (u->size == 0 || u->size > EW_ARTIFACT_BYTES_MAX) {
        return ew_fail(reterr, EW_EINVAL, "an artifact of %" PRIu64 " bytes is not possible (1 to %" PRIu64 ")",
                       u->size, (uint64_t)EW_ARTIFACT_BYTES_MAX);
    }
    return EW_OK;
}

static ew_status file_path(const char *dir, const uint8_t *sha256, char ret[static 4096], ew_error *reterr)
{
    char hex[EW_SHA256_HEX_SIZE];
    ew_hex_encode(sha256, EW_SHA256_BYTES, hex);
    return ew_path_join(ret, 4096, dir, hex, reterr);
}

static ew_status part_path(const char *dir, const uint8_t *sha256, char ret[static 4096], ew_error *reterr)
{
    char hex[EW_SHA256_HEX_SIZE], name[EW_SHA256_HEX_SIZE + 16];
    ew_hex_encode(sha256, EW_SHA256_BYTES, hex);
    (void)snprintf(name, sizeof name, "upload/%s.part", hex);
    return ew_path_join(ret, 4096, dir, name, reterr);
}

/* Items of a public benchmark user travel like models; they are no part of the catalogue. */
static bool is_dataset(const ew_upload *u)
{
    return strcmp(u->variant, EW_VARIANT_DATASET) == 0;
}

ew_status ew_registry_upload_begin(const char *dir, const ew_upload *u, uint64_t *ret_offset, ew_error *reterr)
{
    char path[4096];
    uint64_t have = 0, room = 0;
    EW_TRY(ew_upload_check(u, reterr));
    EW_TRY(file_path(dir, u->sha256, path, reterr));
    if (ew_file_exists(path)) {
        *ret_offset = u->size;
        return EW_OK;
    }
    EW_TRY(ew_path_join(path, sizeof path, dir, "upload", reterr));
    EW_TRY(ew_dir_make(path, 0700, reterr));
    EW_TRY(part_path(dir, u->sha256, path, reterr));
    if (ew_file_exists(path)) {
        EW_TRY(ew_file_size(path, &have, reterr));
    }
    if (have > u->size) {
        EW_TRY(ew_file_remove(path, reterr));
        have = 0;
    }
    EW_TRY(ew_dir_free_bytes(dir, &room, reterr));
    if (u->size - have > room) {
        return ew_fail(reterr, EW_ENOSPC, "%s: %" PRIu64 " bytes are free, the upload needs %" PRIu64, dir, room,
                       u->size - have);
    }
    *ret_offset = have;
    return EW_OK;
}

static ew_status append(int fd, const char *path, uint64_t offset, ew_span bytes, uint64_t *ret_offset,
                        ew_error *reterr)
{
    off_t have = lseek(fd, 0, SEEK_END);
    if (have < 0) {
        return ew_fail_errno(reterr, errno, "%s", path);
    }
    if (offset > (uint64_t)have) {
        return ew_fail(reterr, EW_ECONFLICT, "upload: bytes from %" PRIu64 " came, %lld bytes are there", offset,
                       (long long)have);
    }
    uint64_t skip = (uint64_t)have - offset;
    if (skip < bytes.size) {
        EW_TRY(ew_file_pwrite(fd, path, (uint64_t)have, (const char *)bytes.data + skip, bytes.size - (size_t)skip,
                              reterr));
        have = (off_t)(offset + bytes.size);
    }
    *ret_offset = (uint64_t)have;
    return EW_OK;
}

ew_status ew_registry_upload_chunk(const char *dir, const uint8_t sha256[static EW_SHA256_BYTES], uint64_t offset,
                                   ew_span bytes, uint64_t *ret_offset, ew_error *reterr)
{
    char path[4096];
    if (offset > EW_ARTIFACT_BYTES_MAX || bytes.size > EW_UPLOAD_CHUNK_MAX) {
        return ew_fail(reterr, EW_EINVAL, "upload: a piece of %zu bytes at %" PRIu64 " is not possible", bytes.size,
                       offset);
    }
    EW_TRY(part_path(dir, sha256, path, reterr));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open %s", path);
    }
    ew_status st = append(fd, path, offset, bytes, ret_offset, reterr);
    (void)close(fd);
    return st;
}

/* Whole and segment hashes in one pass over the mapped file. */
static ew_status hash_file(const char *path, const ew_upload *u, ew_manifest **ret, ew_error *reterr)
{
    EW_AUTO(ew_file_map) map = NULL;
    EW_AUTO(ew_manifest) m = NULL;
    EW_TRY(ew_file_map_open(path, &map, reterr));
    if (ew_file_map_size(map) != u->size) {
        return ew_fail(reterr, EW_ECORRUPT, "upload of %s has %zu bytes, %" PRIu64 " were promised", u->name,
                       ew_file_map_size(map), u->size);
    }
    ew_file_map_advise(map, 0, ew_file_map_size(map), EW_FILE_SEQUENTIAL);
    EW_TRY(ew_manifest_new(u->size, EW_MANIFEST_SEGMENT_BYTES, &m, reterr));
    EW_AUTO(ew_sha256_stream) whole = ew_sha256_stream_new();
    const unsigned char *data = ew_file_map_data(map);
    for (uint32_t i = 0; i < m->n_segments; i++) {
        size_t at = (size_t)i * m->segment_size;
        size_t n = EW_MIN((size_t)m->segment_size, ew_file_map_size(map) - at);
        ew_sha256(data + at, n, m->segment_sha256[i]);
        ew_sha256_stream_add(whole, data + at, n);
    }
    ew_sha256_stream_end(whole, m->sha256);
    if (memcmp(m->sha256, u->sha256, EW_SHA256_BYTES) != 0) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "upload of %s does not have the hash that was promised. HINT: import it again", u->name);
    }
    (void)ew_str_copy(m->name, sizeof m->name, u->name);
    (void)ew_str_copy(m->version, sizeof m->version, u->version);
    (void)ew_str_copy(m->variant, sizeof m->variant, u->variant);
    (void)ew_str_copy(m->media_type, sizeof m->media_type, is_dataset(u) ? "application/jsonl" : "application/x-gguf");
    m->has_base = u->has_base;
    memcpy(m->base_sha256, u->base_sha256, sizeof m->base_sha256);
    *ret = m;
    m = NULL;
    return EW_OK;
}

static ew_status read_facts(const char *path, const ew_upload *u, ew_catalog_entry *e, ew_error *reterr)
{
    EW_AUTO(ew_model) m = NULL;
    ew_model_opt opt = {.no_tokenizer = true};
    memcpy(e->sha256, u->sha256, EW_SHA256_BYTES);
    (void)ew_str_copy(e->name, sizeof e->name, u->name);
    (void)ew_str_copy(e->version, sizeof e->version, u->version);
    (void)ew_str_copy(e->variant, sizeof e->variant, u->variant);
    e->size = u->size;
    e->score = u->score;
    if (is_dataset(u)) {
        (void)ew_str_copy(e->dtype, sizeof e->dtype, EW_VARIANT_DATASET);
        return EW_OK;
    }
    ew_status st = ew_model_open(path, &opt, &m, reterr);
    if (st != EW_OK) {
        return ew_wrap(reterr, st, "the upload of %s is no model that this coordinator understands", u->name);
    }
    const ew_model_config *c = ew_model_config_of(m);
    (void)ew_str_copy(e->dtype, sizeof e->dtype, ew_model_dtype_name(m));
    (void)ew_str_copy(e->arch, sizeof e->arch, c->arch);
    e->n_params = ew_model_n_params(m);
    e->weights_bytes = ew_model_weights_bytes(m);
    e->C = c->C;
    e->L = c->L;
    e->V = c->V;
    e->n_ctx_train = c->n_ctx_train;
    return EW_OK;
}

ew_status ew_registry_prepare(const char *dir, const ew_upload *u, ew_sign_fn sign, void *sign_ctx, ew_prepared *ret,
                              ew_error *reterr)
{
    char path[4096], part[4096];
    ew_prepared p = {0};
    EW_AUTO(ew_manifest) m = NULL;
    EW_TRY(ew_upload_check(u, reterr));
    EW_TRY(file_path(dir, u->sha256, path, reterr));
    EW_TRY(part_path(dir, u->sha256, part, reterr));
    p.known = ew_file_exists(path);
    const char *at = p.known ? path : part;
    ew_status st = hash_file(at, u, &m, reterr);
    if (st == EW_OK) {
        st = read_facts(at, u, &p.entry, reterr);
    }
    if (st != EW_OK) {
        if (st == EW_ECORRUPT && !p.known) {
            (void)unlink(part); /* what is wrong is said already */
        }
        return st;
    }
    st = ew_wire_pack_manifest(m, &p.manifest, reterr);
    if (st == EW_OK) {
        st = sign(sign_ctx, (ew_span){p.manifest.data, p.manifest.size}, &p.signature, reterr);
    }
    if (st != EW_OK) {
        ew_prepared_release(&p);
        return st;
    }
    *ret = p;
    return EW_OK;
}

static ew_status put_in_place(const char *dir, const uint8_t *sha256, ew_error *reterr)
{
    char path[4096], part[4096];
    EW_TRY(file_path(dir, sha256, path, reterr));
    EW_TRY(part_path(dir, sha256, part, reterr));
    int fd = open(part, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return ew_file_exists(path) ? EW_OK : ew_fail_errno(reterr, errno, "cannot open %s", part);
    }
    ew_status st = ew_file_sync(fd, part, reterr);
    (void)fchmod(fd, 0400);
    (void)close(fd);
    EW_TRY(st);
    return ew_file_rename(part, path, reterr);
}

ew_status ew_registry_commit(ew_db *db, const char *dir, const ew_prepared *p, uint64_t now_ms, ew_error *reterr)
{
    const ew_catalog_entry *e = &p->entry;
    EW_TRY(put_in_place(dir, e->sha256, reterr));
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "INSERT INTO artifact(sha256,name,version,variant,dtype,arch,size,n_params,weights_bytes,c,l,v,"
                        "n_ctx,score,manifest,signature,key_id,created_ms)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18)"
                        " ON CONFLICT(sha256) DO UPDATE SET name=?2, version=?3, variant=?4,"
                        " score=coalesce(?14,score), manifest=?15, signature=?16, key_id=?17",
                        &st, reterr));
    ew_bind_blob(st, 1, e->sha256, sizeof e->sha256);
    ew_bind_text(st, 2, e->name);
    ew_bind_text(st, 3, e->version);
    ew_bind_text(st, 4, e->variant);
    ew_bind_text(st, 5, e->dtype);
    ew_bind_text(st, 6, e->arch);
    ew_bind_i64(st, 7, (int64_t)e->size);
    ew_bind_i64(st, 8, (int64_t)e->n_params);
    ew_bind_i64(st, 9, (int64_t)e->weights_bytes);
    ew_bind_i64(st, 10, e->C);
    ew_bind_i64(st, 11, e->L);
    ew_bind_i64(st, 12, e->V);
    ew_bind_i64(st, 13, e->n_ctx_train);
    if (!isnan(e->score)) {
        ew_bind_f64(st, 14, e->score);
    }
    ew_bind_blob(st, 15, p->manifest.data, p->manifest.size);
    ew_bind_blob(st, 16, p->signature.bytes, sizeof p->signature.bytes);
    ew_bind_text(st, 17, p->signature.key_id);
    ew_bind_i64(st, 18, (int64_t)now_ms);
    return ew_stmt_run(st, reterr);
}

static void read_entry(ew_stmt *st, ew_catalog_entry *e)
{
    ew_span sha = ew_col_blob(st, 0);
    if (sha.size == sizeof e->sha256) {
        memcpy(e->sha256, sha.data, sizeof e->sha256);
    }
    (void)ew_str_copy(e->name, sizeof e->name, ew_col_text(st, 1));
    (void)ew_str_copy(e->version, sizeof e->version, ew_col_text(st, 2));
    (void)ew_str_copy(e->variant, sizeof e->variant, ew_col_text(st, 3));
    (void)ew_str_copy(e->dtype, sizeof e->dtype, ew_col_text(st, 4));
    (void)ew_str_copy(e->arch, sizeof e->arch, ew_col_text(st, 5));
    e->size = (uint64_t)ew_col_i64(st, 6);
    e->n_params = (uint64_t)ew_col_i64(st, 7);
    e->weights_bytes = (uint64_t)ew_col_i64(st, 8);
    e->C = (uint32_t)ew_col_i64(st, 9);
    e->L = (uint32_t)ew_col_i64(st, 10);
    e->V = (uint32_t)ew_col_i64(st, 11);
    e->n_ctx_train = (uint32_t)ew_col_i64(st, 12);
    e->score = ew_col_is_null(st, 13) ? (double)NAN : ew_col_f64(st, 13);
    e->created_ms = (uint64_t)ew_col_i64(st, 14);
}

ew_status ew_registry_catalog(ew_db *db, ew_catalog *ret, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db,
                        "SELECT sha256,name,version,variant,dtype,arch,size,n_params,weights_bytes,c,l,v,n_ctx,score,"
                        "created_ms FROM artifact WHERE variant<>'dataset' ORDER BY seq LIMIT 4096",
                        &st, reterr));
    ew_catalog c = {0};
    size_t cap = 0;
    for (;;) {
        bool row = false;
        ew_status status = ew_stmt_step(st, &row, reterr);
        if (status == EW_OK && row) {
            status = ew_grow((void **)&c.entry, &cap, c.n + 1, sizeof *c.entry, EW_CATALOG_MAX);
            if (status != EW_OK) {
                (void)ew_fail(reterr, status, "out of memory for the catalogue");
            }
        }
        if (status != EW_OK) {
            ew_catalog_release(&c);
            return status;
        }
        if (!row) {
            *ret = c;
            return EW_OK;
        }
        c.entry[c.n] = (ew_catalog_entry){0};
        read_entry(st, &c.entry[c.n++]);
    }
}

ew_status ew_registry_manifest(ew_db *db, const uint8_t *sha256, const char *name, const char *version,
                               const char *variant, ew_buf *out, ew_signature *ret_signature, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(
        ew_stmt_open(db,
                     "SELECT manifest, signature, key_id FROM artifact WHERE CASE WHEN ?1 IS NOT NULL THEN sha256=?1"
                     " ELSE name=?2 AND (?3='' OR version=?3) AND (?4='' OR variant=?4) END ORDER BY seq DESC LIMIT 1",
                     &st, reterr));
    ew_bind_blob(st, 1, sha256, EW_SHA256_BYTES);
    ew_bind_text(st, 2, name);
    ew_bind_text(st, 3, version);
    ew_bind_text(st, 4, variant);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        char hex[EW_SHA256_HEX_SIZE] = "";
        if (sha256 != NULL) {
            ew_hex_encode(sha256, EW_SHA256_BYTES, hex);
        }
        return ew_fail(reterr, EW_ENOENT, "there is no artifact %s%s%s", sha256 != NULL ? hex : name,
                       sha256 != NULL || variant[0] == '\0' ? "" : " in variant ", sha256 != NULL ? "" : variant);
    }
    ew_span manifest = ew_col_blob(st, 0), sig = ew_col_blob(st, 1);
    if (sig.size != sizeof ret_signature->bytes) {
        return ew_fail(reterr, EW_ECORRUPT, "the stored signature has %zu bytes", sig.size);
    }
    ew_buf_add(out, manifest.data, manifest.size);
    EW_TRY(ew_buf_check(out, reterr));
    memcpy(ret_signature->bytes, sig.data, sig.size);
    (void)ew_str_copy(ret_signature->key_id, sizeof ret_signature->key_id, ew_col_text(st, 2));
    return EW_OK;
}

ew_status ew_registry_path(ew_db *db, const char *dir, const uint8_t sha256[static EW_SHA256_BYTES],
                           char ret_path[static 4096], ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT 1 FROM artifact WHERE sha256=?1", &st, reterr));
    ew_bind_blob(st, 1, sha256, EW_SHA256_BYTES);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return ew_fail(reterr, EW_ENOENT, "there is no such artifact");
    }
    return file_path(dir, sha256, ret_path, reterr);
}

static ew_status fail_find(ew_db *db, const char *name, const char *variant, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(
        db,
        "SELECT coalesce(group_concat(name || '/' || variant, ', '), 'none') FROM artifact WHERE variant<>'dataset'",
        &st, reterr));
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    return ew_fail(reterr, EW_ENOENT, "there is no model %s in variant %s; there are: %.200s", name, variant,
                   row ? ew_col_text(st, 0) : "none");
}

ew_status ew_registry_find(ew_db *db, const char *name, const char *variant, uint8_t ret_sha256[static EW_SHA256_BYTES],
                           ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT sha256 FROM artifact WHERE name=?1 AND variant=?2 ORDER BY seq DESC LIMIT 1", &st,
                        reterr));
    ew_bind_text(st, 1, name);
    ew_bind_text(st, 2, variant);
    bool row = false;
    EW_TRY(ew_stmt_step(st, &row, reterr));
    if (!row) {
        return fail_find(db, name, variant, reterr);
    }
    ew_span sha = ew_col_blob(st, 0);
    if (sha.size != EW_SHA256_BYTES) {
        return ew_fail(reterr, EW_ECORRUPT, "the catalogue holds a hash of %zu bytes", sha.size);
    }
    memcpy(ret_sha256, sha.data, EW_SHA256_BYTES);
    return EW_OK;
}

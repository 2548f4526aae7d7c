/* Models and their variants as signed, content-addressed artifacts: files DIR/<sha256>, rows in the database.
 *
 * An upload is resumable: bytes go to DIR/upload/<sha256>.part, whose length is the offset to go on from. Commit hashes the
 * whole and each segment, reads what the planner needs to know from the GGUF itself (nothing is believed of the sender), has the
 * manifest signed, and puts file and row in place; an artifact that is there already is left alone.
 * Locking: as the ew_db handle, held only where a function says so. */
#ifndef EW_REGISTRY_REGISTRY_H
#define EW_REGISTRY_REGISTRY_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "db/db.h"
#include "domain/manifest.h"

#define EW_ARTIFACT_BYTES_MAX (64ull * 1024 * 1024 * 1024)
#define EW_CATALOG_MAX 4096u
#define EW_UPLOAD_CHUNK_MAX (768u * 1024) /* bytes of one piece */

/* The variant of artifacts that are not models but the items of a public benchmark user (JSON Lines), named
 * "benchmark-<digest>-<user>": fetched by devices like models, never in the catalogue. */
#define EW_VARIANT_DATASET "dataset"

/* The migration step. */
extern const char *const ew_registry_schema;

/* What the planner knows of one variant. */
typedef struct ew_catalog_entry {
    uint8_t sha256[EW_SHA256_BYTES];
    char name[128];                /* "deb-tiny" */
    char version[64];              /* "1" */
    char variant[EW_VARIANT_SIZE]; /* "q8_0" */
    char dtype[16];                /* type of most weight bytes: "Q8_0" */
    uint64_t size;                 /* bytes of the file */
    uint64_t n_params;
    uint64_t weights_bytes;        /* of all tensors as stored */
    double score;                  /* on general benchmarks in [0,1], by the importer; NAN = not known */
    uint32_t C, L, V, n_ctx_train; /* d_model, layers, vocabulary, positions seen in training */
    char arch[32];
    uint64_t created_ms;
} ew_catalog_entry;

typedef struct ew_catalog {
    ew_catalog_entry *entry; /* in order of import */
    size_t n;
} ew_catalog;
void ew_catalog_release(ew_catalog *c);

typedef struct ew_upload {
    char name[128], version[64], variant[EW_VARIANT_SIZE];
    uint8_t sha256[EW_SHA256_BYTES];
    uint64_t size;
    bool has_base;
    uint8_t base_sha256[EW_SHA256_BYTES];
    double score; /* NAN = not known */
} ew_upload;

/* Names and sizes in range. EW_EINVAL. */
ew_status ew_upload_check(const ew_upload *u, ew_error *reterr) EW_MUST_CHECK;
/* *ret_offset: bytes that are there already; = u->size when only the commit is missing or the artifact is there. EW_ENOSPC when the
 * rest does not fit on the disk. No database. */
ew_status ew_registry_upload_begin(const char *dir, const ew_upload *u, uint64_t *ret_offset,
                                   ew_error *reterr) EW_MUST_CHECK;
/* Writes at offset, which must be the number of bytes that are there (EW_ECONFLICT tells it) or lie before it (a retry: nothing is
 * written twice). No database. */
ew_status ew_registry_upload_chunk(const char *dir, const uint8_t sha256[static EW_SHA256_BYTES], uint64_t offset,
                                   ew_span bytes, uint64_t *ret_offset, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_signature {
    uint8_t bytes[EW_ED25519_SIGNATURE_BYTES];
    char key_id[65];
} ew_signature;
typedef ew_status (*ew_sign_fn)(void *ctx, ew_span packed, ew_signature *ret, ew_error *reterr);

/* What commit makes before it touches the database: checked file, packed manifest, signature, facts. */
typedef struct ew_prepared {
    ew_catalog_entry entry;
    ew_buf manifest; /* packed */
    ew_signature signature;
    bool known; /* the file was in place already */
} ew_prepared;
void ew_prepared_release(ew_prepared *p);

/* Slow: reads the file. EW_ECORRUPT when the bytes do not have the promised hash (the upload is then removed) or are no model that this
 * build understands. No database. */
ew_status ew_registry_prepare(const char *dir, const ew_upload *u, ew_sign_fn sign, void *sign_ctx, ew_prepared *ret,
                              ew_error *reterr) EW_MUST_CHECK;
/* The row; and the file in place before it. Idempotent. */
ew_status ew_registry_commit(ew_db *db, const char *dir, const ew_prepared *p, uint64_t now_ms,
                             ew_error *reterr) EW_MUST_CHECK;

/* EW_ENOENT. */
ew_status ew_registry_catalog(ew_db *db, ew_catalog *ret, ew_error *reterr) EW_MUST_CHECK;
/* By hash, or (sha256 NULL) by name, version ("" = newest) and variant. Appends the packed manifest. EW_ENOENT. */
ew_status ew_registry_manifest(ew_db *db, const uint8_t *sha256, const char *name, const char *version,
                               const char *variant, ew_buf *out, ew_signature *ret_signature,
                               ew_error *reterr) EW_MUST_CHECK;
/* The file of an artifact. EW_ENOENT when the row is not there. */
ew_status ew_registry_path(ew_db *db, const char *dir, const uint8_t sha256[static EW_SHA256_BYTES],
                           char ret_path[static 4096], ew_error *reterr) EW_MUST_CHECK;
/* The hash behind "name" + variant (newest version); EW_ENOENT lists what there is. */
ew_status ew_registry_find(ew_db *db, const char *name, const char *variant, uint8_t ret_sha256[static EW_SHA256_BYTES],
                           ew_error *reterr) EW_MUST_CHECK;

#endif

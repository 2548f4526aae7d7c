/* Shared by the files of the vault. */
#ifndef EW_VAULT_INT_H
#define EW_VAULT_INT_H

#include "crypt/hash.h"
#include "db/db.h"
#include "rag/rag.h"
#include "vault/vault.h"

#define EW__VAULT_CHUNK_BYTES (1024u * 1024)

struct ew_vault {
    ew_db *db;
    uint8_t seal_key[EW_AEAD_KEY_SIZE]; /* derived from the vault's key */
    uint8_t mac_key[EW_SHA256_SIZE];
    ew_rag *rag;             /* NULL = not built, or out of date */
    uint64_t rag_generation; /* of the items in rag */
};

/* "table/number[/part]" as additional data: a record can stand nowhere else. */
ew_status ew__vault_seal(const ew_vault *v, const char *table, uint64_t number, uint64_t part, ew_span plain,
                         ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__vault_unseal(const ew_vault *v, const char *table, uint64_t number, uint64_t part, ew_span sealed,
                           ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Flags and switches off the adapters that learned from the row; to be called in a transaction. */
ew_status ew__vault_flag_adapters(ew_vault *v, uint64_t row, size_t *n_flagged, ew_error *reterr) EW_MUST_CHECK;

#endif

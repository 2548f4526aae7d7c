/* What a device keeps of its person: the history (profile) and the adapters learned from it, encrypted at rest, in one SQLite file.
 *
 * Every record is sealed on its own by AES-256-GCM with the vault's key (bound to its table and number); identifiers and contents appear
 * only as keyed hashes (HMAC-SHA-256), so the file holds no profile text, and neither does its write-ahead log. Numbers that stay readable: how many
 * items, their sizes, task names, model hashes, scores, times. The full-text index lives in memory and is built at the first search.
 * Crash-only: what a call returned EW_OK for survives kill -9 and power loss (WAL, synchronous=FULL); an import or a forget is
 * one transaction. Deleted records are overwritten (secure_delete) and the log is emptied.
 * Two processes may have the same vault open: each sees the other's commits at its next call.
 * Locking: one owning thread per handle. */
#ifndef EW_VAULT_VAULT_H
#define EW_VAULT_VAULT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "crypt/aead.h"
#include "task/item.h"

typedef struct ew_vault ew_vault;

/* The key: credentials_dir/profile.key when credentials_dir (systemd's $CREDENTIALS_DIRECTORY, given by the caller, may be NULL) has one, else the file
 * fallback, which is made (mode 0600) when it is not there; a fallback that others can read is refused: EW_EDENIED. */
ew_status ew_vault_key(const char *credentials_dir, const char *fallback, uint8_t ret_key[static EW_AEAD_KEY_SIZE],
                       ew_error *reterr) EW_MUST_CHECK;

/* path: the database, made with mode 0600 when absent. EW_EDENIED: the key is not the one that this vault was made with. */
ew_status ew_vault_open(const char *path, const uint8_t key[static EW_AEAD_KEY_SIZE], ew_vault **ret_vault,
                        ew_error *reterr) EW_MUST_CHECK;
void ew_vault_free(ew_vault **v);

/* --- items. Their number ("row", from 1, never used again) is their order: later ones are newer. --- */
typedef struct ew_vault_import_result {
    size_t n_read;  /* records in the file */
    size_t n_added; /* new */
    size_t n_known; /* there already, same content */
} ew_vault_import_result;

/* A JSON Lines file (task/item.h) in the order of its lines: all or nothing, idempotent by content. An id that an item of another content has gets
 * "~" and 8 hex digits of the content's hash appended. Errors name the line. EW_ELIMIT past EW_LIMIT_PROFILE_ITEMS in all. */
ew_status ew_vault_import(ew_vault *v, const char *path, ew_vault_import_result *ret_result,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vault_add_items(ew_vault *v, const ew_items *items, ew_vault_import_result *ret_result,
                             ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vault_count(ew_vault *v, size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;
/* How many items have a higher number; *ret_last is the highest number there is, 0 without items. */
ew_status ew_vault_count_after(ew_vault *v, uint64_t row, size_t *ret_n, uint64_t *ret_last,
                               ew_error *reterr) EW_MUST_CHECK;
/* Rises with every change of the items, by whichever process. */
ew_status ew_vault_generation(ew_vault *v, uint64_t *ret_generation, ew_error *reterr) EW_MUST_CHECK;
/* All items in order; item.order = row. Released by the caller. */
ew_status ew_vault_items(ew_vault *v, ew_items *ret_items, ew_error *reterr) EW_MUST_CHECK;
/* Appends the items as JSON Lines. */
ew_status ew_vault_export(ew_vault *v, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;

/* The best k items for the query (rag/rag.h: BM25 over input and output, recency weight w), best first. */
ew_status ew_vault_search(ew_vault *v, const char *query, size_t k, double recency, ew_items *ret_items,
                          ew_error *reterr) EW_MUST_CHECK;

/* --- vectors of items, for retrieval. Sealed like everything, a byte for each number; they leave with their item. --- */
/* space: which model made it of which text, any words: the vectors of different spaces do not mix. v:[dim], finite, not all zero; replaces an old one.
 * EW_ENOENT: no such item (it was forgotten meanwhile). */
ew_status ew_vault_vector_put(ew_vault *v, const char *space, uint64_t row, const float *vector, size_t dim,
                              ew_error *reterr) EW_MUST_CHECK;
/* ret:[dim], up to its length: the cosines of an index (rag/rag.h) are those of what was put. *ret_has false: there is none of that size. */
ew_status ew_vault_vector_get(ew_vault *v, const char *space, uint64_t row, size_t dim, float *ret, bool *ret_has,
                              ew_error *reterr) EW_MUST_CHECK;
/* Of all spaces. */
ew_status ew_vault_vector_count(ew_vault *v, size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

/* --- forgetting --- */
typedef struct ew_vault_match {
    bool all;
    const char *id;   /* this item; NULL = any */
    const char *text; /* items whose input or output holds it, ignoring case; NULL = any. With id: both must fit */
} ew_vault_match;

typedef struct ew_vault_forget_result {
    size_t n_items, n_adapters; /* removed; newly flagged */
} ew_vault_forget_result;

/* Removes the items and their index rows; flags and switches off every adapter that learned from one of them. EW_ENOENT when nothing fits, EW_EINVAL when
 * the match says nothing. */
ew_status ew_vault_forget(ew_vault *v, const ew_vault_match *match, ew_vault_forget_result *ret_result,
                          ew_error *reterr) EW_MUST_CHECK;

/* --- adapters --- */
typedef struct ew_vault_adapter {
    uint64_t id;                      /* set by put */
    char task[64];                    /* task name */
    char method[32];                  /* "lora", … */
    char base_sha256[65];             /* of the model file it belongs to: it fits no other */
    double score_base, score_adapter; /* on validation items, primary score of the task */
    double nll_base, nll_adapter;
    uint32_t rag_k;      /* retrieved items of its prompts; 0 = none */
    uint32_t rag_rank;   /* by what they are ranked: enum ew_rag_rank */
    uint64_t known_row;  /* last item of the history that it learned from: later ones are new to it */
    uint64_t parent;     /* adapter whose learning it goes on from; 0 = the plain model */
    uint64_t n_items;    /* learned from */
    uint64_t bytes;      /* of the file */
    uint64_t created_ms; /* wall clock */
    bool active;         /* the one that is served for its task and base */
    bool flagged;        /* an item that it learned from was forgotten: never active again */
} ew_vault_adapter;

/* Stores the file (sealed in chunks of 1 MiB) with the rows of the items that it learned from (item.order of ew_vault_items). It is not active. meta->id, bytes,
 * n_items, active, flagged are not read. A row that is gone by now: the adapter is stored flagged. */
ew_status ew_vault_adapter_put(ew_vault *v, const ew_vault_adapter *meta, const uint64_t *rows, size_t n_rows,
                               ew_span file, uint64_t *ret_id, ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT. */
ew_status ew_vault_adapter_get(ew_vault *v, uint64_t id, ew_vault_adapter *ret_meta, ew_error *reterr) EW_MUST_CHECK;
/* Makes it the active one of its task and base. EW_ECONFLICT when it is flagged. id 0: none is active for (task, base) any more. */
ew_status ew_vault_adapter_activate(ew_vault *v, const char *task, const char *base_sha256, uint64_t id,
                                    ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT when none is active. */
ew_status ew_vault_adapter_active(ew_vault *v, const char *task, const char *base_sha256, ew_vault_adapter *ret_meta,
                                  ew_error *reterr) EW_MUST_CHECK;
/* Appends the file. EW_ECORRUPT when a chunk is missing or was changed. */
ew_status ew_vault_adapter_read(ew_vault *v, uint64_t id, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* All, oldest first; freed by ew_free. */
ew_status ew_vault_adapter_list(ew_vault *v, ew_vault_adapter **ret_list, size_t *ret_n,
                                ew_error *reterr) EW_MUST_CHECK;
ew_status ew_vault_adapter_remove(ew_vault *v, uint64_t id, ew_error *reterr) EW_MUST_CHECK;
/* Removes the adapters of a task that are neither active nor among the ids to keep; flagged ones in any case. */
ew_status ew_vault_adapter_prune(ew_vault *v, const char *task, const uint64_t *keep, size_t n_keep,
                                 size_t *ret_removed, ew_error *reterr) EW_MUST_CHECK;

#endif

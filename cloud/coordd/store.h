/* The coordinator's state: devices, tokens, replies kept for retries, audit log, plans, experiments. Only the coordinator opens it.
 *
 * Every function is one transaction (or part of the caller's, see ew_store_begin) and on the disk when it returns.
 * Times are ms since 1970. Locking: any thread; the store has one lock, which ew_store_begin holds until its end. */
#ifndef EW_COORDD_STORE_H
#define EW_COORDD_STORE_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "db/db.h"
#include "domain/device.h"
#include "domain/msg.h"

#define EW_TOKEN_ID_SIZE 33
#define EW_TOKEN_TTL_MAX_S (24 * 3600)
#define EW_TOKEN_WRONG_MAX 3

typedef struct ew_store ew_store;

/* max_bytes: test hook for a full disk; 0 = none. */
ew_status ew_store_open(const char *path, uint64_t max_bytes, ew_store **ret_store, ew_error *reterr) EW_MUST_CHECK;
void ew_store_free(ew_store **s);

/* The database under the store's lock, for modules with tables of their own (jobs, registry). Recursive within a thread. */
ew_db *ew_store_lock(ew_store *s);
void ew_store_unlock(ew_store *s);
/* EW_AUTO_STORE lock = {0}; ew_db *db = ew_store_hold(&lock, store); released at the end of the scope. */
typedef struct ew_store_held {
    ew_store *store;
} ew_store_held;
ew_db *ew_store_hold(ew_store_held *h, ew_store *s);
void ew_store_release(ew_store_held *h);
#define EW_AUTO_STORE EW_CLEANUP(ew_store_release) ew_store_held

/* --- tokens --- */
typedef struct ew_token_row {
    char id[EW_TOKEN_ID_SIZE];
    uint8_t secret[32];
    uint64_t created_ms, expires_ms;
    char hardware_id[128];               /* "" = any */
    char device_name[EW_DEVICE_ID_SIZE]; /* id that the device gets; "" = made from its key */
    uint64_t used_ms;                    /* 0 = not used */
    uint8_t csr_sha256[32];              /* of the request that used it */
    char device_id[EW_DEVICE_ID_SIZE];   /* that it became */
    uint32_t wrong_proofs;
} ew_token_row;

ew_status ew_store_token_add(ew_store *s, const ew_token_row *t, ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT. */
ew_status ew_store_token_get(ew_store *s, const char *id, ew_token_row *ret, ew_error *reterr) EW_MUST_CHECK;
/* Counts a wrong proof; *ret_count after it. */
ew_status ew_store_token_wrong(ew_store *s, const char *id, uint32_t *ret_count, ew_error *reterr) EW_MUST_CHECK;

/* --- devices --- */
typedef struct ew_device_row {
    char id[EW_DEVICE_ID_SIZE];
    bool revoked;
    uint8_t key_sha256[32];
    char hardware_id[128];
    uint64_t created_ms, last_seen_ms, revoked_ms, not_after_ms;
    uint64_t epoch;
    uint8_t boot_id[EW_UID_BYTES];
    ew_buf cert_der; /* the newest certificate; released by ew_device_row_release */
    ew_buf caps;     /* packed, empty when never told */
    ew_device_state state;
} ew_device_row;
void ew_device_row_release(ew_device_row *d);

/* Token becomes used, device comes into being, both or neither. EW_ECONFLICT: the token was used meanwhile. EW_EEXIST: a device of
 * that id is there. cert: its certificate in DER. */
ew_status ew_store_enrol(ew_store *s, const char *token_id, const uint8_t csr_sha256[static 32], const ew_device_row *d,
                         ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT. */
ew_status ew_store_device_get(ew_store *s, const char *id, ew_device_row *ret, ew_error *reterr) EW_MUST_CHECK;
/* By its present key or the one before: the answer to a renewal may have been lost on its way. */
ew_status ew_store_device_by_key(ew_store *s, const uint8_t key_sha256[static 32], ew_device_row *ret,
                                 ew_error *reterr) EW_MUST_CHECK;
ew_status ew_store_device_renewed(ew_store *s, const char *id, const uint8_t key_sha256[static 32], ew_span cert,
                                  uint64_t not_after_ms, ew_error *reterr) EW_MUST_CHECK;
/* A session began: epoch, boot id, capabilities and state (as far as hello has them). *ret_new_boot: the boot id differs. */
ew_status ew_store_device_hello(ew_store *s, const char *id, uint64_t epoch, const ew_msg_hello *hello, uint64_t now_ms,
                                bool *ret_new_boot, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_store_device_seen(ew_store *s, const char *id, const ew_device_state *state, uint64_t now_ms,
                               ew_error *reterr) EW_MUST_CHECK;
/* EW_ENOENT; revoking twice is fine. */
ew_status ew_store_device_revoke(ew_store *s, const char *id, uint64_t now_ms, ew_error *reterr) EW_MUST_CHECK;
typedef ew_status (*ew_store_device_fn)(const ew_device_row *d, void *ctx, ew_error *reterr);
ew_status ew_store_device_each(ew_store *s, ew_store_device_fn fn, void *ctx, ew_error *reterr) EW_MUST_CHECK;

/* --- replies kept for retries (WIRE 5.6) --- */
/* *ret_found false when there is none; the reply is appended to out. */
ew_status ew_store_idem_get(ew_store *s, const char *peer, const uint8_t key[static 16], ew_buf *out, bool *ret_found,
                            ew_error *reterr) EW_MUST_CHECK;
/* Keeps the newest 1024 of a peer for 24 h. */
ew_status ew_store_idem_put(ew_store *s, const char *peer, const uint8_t key[static 16], ew_span reply, uint64_t now_ms,
                            ew_error *reterr) EW_MUST_CHECK;

/* --- audit --- */
ew_status ew_store_audit(ew_store *s, uint64_t now_ms, const char *who, const char *event, const char *detail,
                         ew_error *reterr) EW_MUST_CHECK;

#endif

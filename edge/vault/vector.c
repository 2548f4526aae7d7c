/* Vectors of items: made once by the model, kept beside the items, gone with them. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "vault/vault_int.h"

#define SPACE_BYTES 16 /* of the keyed hash of its name */
#define STEPS 127.0    /* as rag/ keeps them: the bytes of these bytes are the same ones */

typedef struct space_key {
    uint8_t mac[EW_SHA256_SIZE];
    uint64_t number; /* bound to the record */
} space_key;

static space_key key_of(const ew_vault *v, const char *space)
{
    space_key k;
    ew_hmac_sha256(v->mac_key, sizeof(v->mac_key), space, strlen(space), k.mac);
    memcpy(&k.number, k.mac, sizeof(k.number));
    return k;
}

static bool to_bytes(const float *v, size_t dim, int8_t *ret)
{
    float largest = 0;
    for (size_t i = 0; i < dim; i++) {
        if (!isfinite(v[i])) {
            return false;
        }
        largest = fmaxf(largest, fabsf(v[i]));
    }
    for (size_t i = 0; i < dim && largest > 0; i++) {
        ret[i] = (int8_t)lrint((double)v[i] * (STEPS / (double)largest));
    }
    return largest > 0;
}

static ew_status item_is_there(ew_vault *v, uint64_t row, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool there;
    EW_TRY(ew_stmt_open(v->db, "SELECT 1 FROM item WHERE row = ?1", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    EW_TRY(ew_stmt_step(st, &there, reterr));
    return there ? EW_OK : ew_fail(reterr, EW_ENOENT, "there is no item %llu", (unsigned long long)row);
}

ew_status ew_vault_vector_put(ew_vault *v, const char *space, uint64_t row, const float *vector, size_t dim,
                              ew_error *reterr)
{
    const space_key k = key_of(v, space);
    EW_AUTO_BUF sealed = {0};
    EW_AUTO(ew_stmt) st = NULL;
    EW_AUTO_TX tx = {0};
    int8_t *bytes = ew_calloc(dim + 1, 1);
    if (bytes == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a vector of %zu numbers", dim);
    }
    ew_status status = dim != 0 && dim <= EW_RAG_DIM_MAX && to_bytes(vector, dim, bytes)
                           ? ew__vault_seal(v, "vector", row, k.number, (ew_span){bytes, dim}, &sealed, reterr)
                           : ew_fail(reterr, EW_EINVAL, "a vector of %zu numbers has no direction", dim);
    ew_wipe(bytes, dim);
    ew_free(bytes);
    EW_TRY(status);
    EW_TRY(ew_tx_begin(&tx, v->db, reterr));
    EW_TRY(item_is_there(v, row, reterr));
    EW_TRY(ew_stmt_open(v->db, "INSERT OR REPLACE INTO vector(space, row, data) VALUES(?1, ?2, ?3)", &st, reterr));
    ew_bind_blob(st, 1, k.mac, SPACE_BYTES);
    ew_bind_i64(st, 2, (int64_t)row);
    ew_bind_blob(st, 3, sealed.data, sealed.size);
    EW_TRY(ew_stmt_run(st, reterr));
    return ew_tx_commit(&tx, reterr);
}

ew_status ew_vault_vector_get(ew_vault *v, const char *space, uint64_t row, size_t dim, float *ret, bool *ret_has,
                              ew_error *reterr)
{
    const space_key k = key_of(v, space);
    EW_AUTO_BUF plain = {0};
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(v->db, "SELECT data FROM vector WHERE row = ?1 AND space = ?2", &st, reterr));
    ew_bind_i64(st, 1, (int64_t)row);
    ew_bind_blob(st, 2, k.mac, SPACE_BYTES);
    EW_TRY(ew_stmt_step(st, ret_has, reterr));
    if (!*ret_has) {
        return EW_OK;
    }
    EW_TRY(ew__vault_unseal(v, "vector", row, k.number, ew_col_blob(st, 0), &plain, reterr));
    *ret_has = plain.size == dim;
    for (size_t i = 0; i < dim && *ret_has; i++) {
        ret[i] = (float)(int8_t)plain.data[i];
    }
    ew_wipe(plain.data, plain.size);
    return EW_OK;
}

ew_status ew_vault_vector_count(ew_vault *v, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO(ew_stmt) st = NULL;
    bool row;
    EW_TRY(ew_stmt_open(v->db, "SELECT count(*) FROM vector", &st, reterr));
    EW_TRY(ew_stmt_step(st, &row, reterr));
    *ret_n = row ? (size_t)ew_col_i64(st, 0) : 0;
    return EW_OK;
}

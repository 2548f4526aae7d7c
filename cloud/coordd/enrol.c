/* Enrolment, renewal, and the coordinator's own certificate (WIRE 5.2, 5.3). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "crypt/hash.h"
#include "net/x509.h"
#include "session/enrol.h"
#include "sys/file.h"
#include "wire/wire.h"

#define LAPSED_MS (90ull * 24 * 3600 * 1000)

static ew_status denied(ew__request *r, const char *token_id, const char *why, ew_error *reterr)
{
    ew__audit(r->c, r->peer->addr, "enrol-refused", "token=%s %s", token_id, why);
    return ew_fail(reterr, EW_EDENIED, "enrolment refused: %s", why);
}

static ew_status send_enrolled(ew__request *r, const char *device_id, ew_span leaf, ew_error *reterr)
{
    ew__coord *c = r->c;
    ew_cert_info info;
    EW_TRY(ew_cert_info_of(leaf, &info, reterr));
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_ENROL_RESPONSE);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    ew_msg_enrol_response *e = &m->enrol_response;
    ew_span ca = {c->info.ca_der.data, c->info.ca_der.size};
    (void)ew_str_copy(e->device_id, sizeof e->device_id, device_id);
    e->chain = (ew_der_list){.n = 1, .item = {leaf}};
    e->trust_bundle = (ew_der_list){.n = 1, .item = {ca}};
    e->endpoints.n = 1;
    (void)ew_str_copy(e->endpoints.item[0], sizeof e->endpoints.item[0], c->endpoint);
    e->renew_after_unix_ms = ew_wall_ms() + (info.not_after_unix_ms - ew_wall_ms()) / 2;
    memcpy(e->artifact_key, c->info.artifact_key, sizeof e->artifact_key);
    return ew_reply_send(r->reply, m, (ew_span){0}, reterr);
}

/* "d-" and ten hex digits of the key's hash, unless the token names the device. */
static void device_id_for(const ew_token_row *t, const uint8_t *key, char ret[static EW_DEVICE_ID_SIZE])
{
    if (t->device_name[0] != '\0') {
        (void)ew_str_copy(ret, EW_DEVICE_ID_SIZE, t->device_name);
        return;
    }
    char hex[11];
    ew_hex_encode(key, 5, hex);
    (void)snprintf(ret, EW_DEVICE_ID_SIZE, "d-%s", hex);
}

static ew_status repeat_answer(ew__request *r, const ew_token_row *t, ew_error *reterr)
{
    ew_device_row d = {0};
    EW_TRY(ew_store_device_get(r->c->store, t->device_id, &d, reterr));
    ew_status st = d.revoked ? ew_fail(reterr, EW_EDENIED, "device %s is revoked", d.id)
                             : send_enrolled(r, d.id, (ew_span){d.cert_der.data, d.cert_der.size}, reterr);
    ew_device_row_release(&d);
    return st;
}

static ew_status make_device(ew__request *r, const ew_token_row *t, const uint8_t *key, ew_device_row *d,
                             ew_error *reterr)
{
    const ew_msg_enrol_request *e = &r->msg->enrol_request;
    device_id_for(t, key, d->id);
    memcpy(d->key_sha256, key, sizeof d->key_sha256);
    (void)ew_str_copy(d->hardware_id, sizeof d->hardware_id, e->hardware_id);
    d->created_ms = ew_wall_ms();
    if (e->has_caps) {
        EW_TRY(ew_wire_pack_caps(&e->caps, &d->caps, reterr));
    }
    EW_TRY(ew_signer_client_device(r->c->signer, e->csr_der, d->id, (uint32_t)r->c->conf->device_cert_s, &d->cert_der,
                                   reterr));
    ew_cert_info info;
    EW_TRY(ew_cert_info_of((ew_span){d->cert_der.data, d->cert_der.size}, &info, reterr));
    d->not_after_ms = info.not_after_unix_ms;
    return EW_OK;
}

static ew_status enrol_new(ew__request *r, const ew_token_row *t, const uint8_t *csr_sha256, ew_error *reterr)
{
    uint8_t key[32];
    EW_TRY(ew_csr_check(r->msg->enrol_request.csr_der, key, reterr));
    ew_device_row d = {0};
    ew_status st = make_device(r, t, key, &d, reterr);
    if (st == EW_OK) {
        st = ew_store_enrol(r->c->store, t->id, csr_sha256, &d, reterr); /* on the disk before the answer */
    }
    if (st == EW_ECONFLICT) {
        st = denied(r, t->id, "the token has been used already", reterr);
    }
    if (st == EW_OK) {
        ew__audit(r->c, d.id, "enrolled", "token=%s addr=%s", t->id, r->peer->addr);
        EW_LOG(EW_LOG_NOTICE, "coord", "enrolled", "device=%s addr=%s", d.id, r->peer->addr);
        st = send_enrolled(r, d.id, (ew_span){d.cert_der.data, d.cert_der.size}, reterr);
    }
    ew_device_row_release(&d);
    return st;
}

/* A device whose certificate lapsed proves its key by the request's own signature: a certificate for a key is of no use to anyone
 * else, so a replayed request gives nothing away. */
static ew_status enrol_lapsed(ew__request *r, ew_error *reterr)
{
    uint8_t key[32];
    EW_TRY(ew_csr_check(r->msg->enrol_request.csr_der, key, reterr));
    ew_device_row d = {0};
    ew_status st = ew_store_device_by_key(r->c->store, key, &d, NULL);
    if (st != EW_OK || d.revoked || d.not_after_ms + LAPSED_MS < ew_wall_ms()) {
        ew_device_row_release(&d);
        return denied(r, "none", "no active device has this key. HINT: ask the operator for a new token", reterr);
    }
    EW_AUTO_BUF der = {0};
    ew_cert_info info;
    st = ew_signer_client_device(r->c->signer, r->msg->enrol_request.csr_der, d.id, (uint32_t)r->c->conf->device_cert_s,
                                 &der, reterr);
    if (st == EW_OK) {
        st = ew_cert_info_of((ew_span){der.data, der.size}, &info, reterr);
    }
    if (st == EW_OK) {
        st = ew_store_device_renewed(r->c->store, d.id, key, (ew_span){der.data, der.size}, info.not_after_unix_ms,
                                     reterr);
    }
    if (st == EW_OK) {
        ew__audit(r->c, d.id, "enrolled-again", "addr=%s", r->peer->addr);
        st = send_enrolled(r, d.id, (ew_span){der.data, der.size}, reterr);
    }
    ew_device_row_release(&d);
    return st;
}

ew_status ew__enrol(ew__request *r, ew_error *reterr)
{
    const ew_msg_enrol_request *e = &r->msg->enrol_request;
    if (e->token_id[0] == '\0') {
        return enrol_lapsed(r, reterr);
    }
    ew_token_row t;
    uint8_t csr_sha256[32], proof[32];
    ew_status st = ew_store_token_get(r->c->store, e->token_id, &t, reterr);
    if (st != EW_OK) {
        return st == EW_ENOENT ? denied(r, e->token_id, "the token is not known here", reterr) : st;
    }
    if (t.wrong_proofs >= EW_TOKEN_WRONG_MAX) {
        return denied(r, t.id, "the token was burned by wrong proofs", reterr);
    }
    ew_enrol_proof(t.secret, r->peer->channel_binding, e->csr_der, proof);
    if (!ew_enrol_proof_matches(proof, e->proof)) {
        uint32_t n = 0;
        EW_TRY(ew_store_token_wrong(r->c->store, t.id, &n, reterr));
        return denied(r, t.id,
                      n >= EW_TOKEN_WRONG_MAX ? "the proof is wrong; the token is burned" : "the proof is wrong",
                      reterr);
    }
    ew_sha256(e->csr_der.data, e->csr_der.size, csr_sha256);
    if (t.used_ms != 0) {
        return memcmp(csr_sha256, t.csr_sha256, sizeof csr_sha256) == 0
                   ? repeat_answer(r, &t, reterr)
                   : denied(r, t.id, "the token has been used already", reterr);
    }
    if (t.expires_ms <= ew_wall_ms()) {
        return denied(r, t.id, "the token has expired. HINT: ask the operator for a new one", reterr);
    }
    if (t.hardware_id[0] != '\0' && strcmp(t.hardware_id, e->hardware_id) != 0) {
        return denied(r, t.id, "the token is for another machine", reterr);
    }
    return enrol_new(r, &t, csr_sha256, reterr);
}

ew_status ew__renew(ew__request *r, ew_error *reterr)
{
    ew__coord *c = r->c;
    ew_span csr = r->msg->renew_request.csr_der, ca = {c->info.ca_der.data, c->info.ca_der.size};
    uint8_t key[32];
    ew_cert_info info;
    EW_AUTO_BUF der = {0};
    EW_TRY(ew_csr_check(csr, key, reterr));
    EW_TRY(ew_signer_client_device(c->signer, csr, r->peer->id, (uint32_t)c->conf->device_cert_s, &der, reterr));
    ew_span leaf = {der.data, der.size};
    EW_TRY(ew_cert_info_of(leaf, &info, reterr));
    /* Also refuses a device that was revoked meanwhile. */
    EW_TRY(ew_store_device_renewed(c->store, r->peer->id, key, leaf, info.not_after_unix_ms, reterr));
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_RENEW_RESPONSE);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    m->renew_response.chain = (ew_der_list){.n = 1, .item = {leaf}};
    m->renew_response.trust_bundle = (ew_der_list){.n = 1, .item = {ca}};
    m->renew_response.renew_after_unix_ms = ew_wall_ms() + (info.not_after_unix_ms - ew_wall_ms()) / 2;
    EW_LOG(EW_LOG_INFO, "coord", "renewed", "device=%s until=%" PRIu64, r->peer->id, info.not_after_unix_ms);
    return ew_reply_send(r->reply, m, (ew_span){0}, reterr);
}

/* A fresh server certificate under the names that the signer was given at init. */
ew_status ew__server_cert(ew__coord *c, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_BUF pem = {0};
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    EW_AUTO(ew_pkey) key = NULL;
    ew_cert_info info;
    EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "tls/server.key", reterr));
    EW_TRY(ew_file_read(path, 16384, &pem, reterr));
    ew_status st = ew_pkey_from_pem((ew_span){pem.data, pem.size}, &key, reterr);
    ew_wipe(pem.data, pem.size);
    EW_TRY(st);
    EW_TRY(ew_csr_make(key, &csr, reterr));
    EW_TRY(ew_signer_client_server(c->signer, (ew_span){csr.data, csr.size}, &der, reterr));
    EW_TRY(ew_cert_info_of((ew_span){der.data, der.size}, &info, reterr));
    ew_buf_clear(&pem);
    EW_TRY(ew_cert_to_pem((ew_span){der.data, der.size}, &pem, reterr));
    EW_TRY(ew_cert_to_pem((ew_span){c->info.ca_der.data, c->info.ca_der.size}, &pem, reterr));
    EW_TRY(ew_path_join(path, sizeof path, c->conf->dir, "tls/server.crt", reterr));
    EW_TRY(ew_file_replace(path, pem.data, pem.size, 0644, reterr));
    c->server_cert_until_ms = info.not_after_unix_ms;
    c->server_cert_renew_ms = ew_wall_ms() + (info.not_after_unix_ms - ew_wall_ms()) / 2;
    return EW_OK;
}

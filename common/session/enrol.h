/* Enrolment: the token string, the agent's side of the exchange, and the proof that both sides compute.
 *
 * A token is one string: "ew1." + base64url of {u8 n_endpoint, endpoint, 32 B SHA-256 of the CA certificate (DER), u8 n_id, id,
 * 32 B secret, 4 B checksum (first bytes of SHA-256 of the rest)}. The coordinator keeps id and secret; the rest is for the agent. */
#ifndef EW_SESSION_ENROL_H
#define EW_SESSION_ENROL_H

#include "base/base.h"
#include "base/status.h"
#include "domain/msg.h"

#define EW_TOKEN_TEXT_SIZE 512

typedef struct ew_token {
    char endpoint[EW_ENDPOINT_SIZE]; /* "host:port" */
    uint8_t ca_sha256[32];           /* of the root's DER */
    char id[64];                     /* [a-z0-9-]+ */
    uint8_t secret[32];
} ew_token;

ew_status ew_token_format(const ew_token *t, char ret_text[EW_TOKEN_TEXT_SIZE], ew_error *reterr) EW_MUST_CHECK;
/* EW_EINVAL: not a token, or mistyped (the checksum says so). */
ew_status ew_token_parse(const char *text, ew_token *ret, ew_error *reterr) EW_MUST_CHECK;

/* HMAC-SHA256(secret, channel_binding || SHA-256(csr)). */
void ew_enrol_proof(const uint8_t secret[32], const uint8_t channel_binding[32], ew_span csr_der,
                    uint8_t ret_proof[32]);
/* Constant time. */
bool ew_enrol_proof_matches(const uint8_t a[32], const uint8_t b[32]);

typedef struct ew_enrol_opt {
    const ew_token *token;
    const char *identity_path; /* key and chain are written here, 0600, atomically */
    const char
        *pending_path;       /* the key until the answer came, so that a retry sends the same CSR; removed afterwards */
    const char *ca_path;     /* the trust bundle is written here */
    const char *hardware_id; /* may be NULL */
    const ew_device_caps *caps; /* may be NULL */
    uint32_t timeout_ms;        /* 0 = 30000 */
} ew_enrol_opt;

typedef struct ew_enrol_result {
    char device_id[EW_DEVICE_ID_SIZE];
    char trust_domain[128];
    ew_endpoint_list endpoints;
    uint64_t renew_after_unix_ms;
    uint8_t artifact_key[32]; /* all zero when the coordinator has none */
} ew_enrol_result;

/* Makes a key (or takes the pending one), connects, refuses a coordinator whose chain does not end in the token's CA before
 * anything is sent, enrols and stores the identity. Blocks. EW_EDENIED: impostor, wrong or used token; EW_EREMOTE: cannot reach. */
ew_status ew_enrol(const ew_enrol_opt *opt, ew_enrol_result *ret, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_enrol_again_opt {
    const char *endpoint; /* "host:port" */
    const char *identity_path;
    const char *pending_path;
    const char *ca_path;
    uint32_t timeout_ms; /* 0 = 30000 */
} ew_enrol_again_opt;

/* True when the certificate of an identity file has expired by the wall clock: the device was off for longer than it lived. */
bool ew_enrol_lapsed(const char *identity_path);
/* A new certificate for the same key, without a token: the coordinator gives it to an active device whose certificate lapsed at most 90 days ago
 * (WIRE 5.3). The coordinator must be the one of ca_path. EW_EDENIED: revoked, unknown or lapsed for too long; then only a new token helps. */
ew_status ew_enrol_again(const ew_enrol_again_opt *opt, ew_enrol_result *ret, ew_error *reterr) EW_MUST_CHECK;

#endif

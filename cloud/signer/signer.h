/* The signer: holds the CA key and the artifact key and signs what its policy allows.
 *
 * The keys lie in a directory of their own (files 0600, owned by the signer's user); the coordinator, which listens to the
 * network, runs as another user and can only ask over a UNIX socket (ipc.h). What it may have: device certificates of at most
 * EW_SIGNER_DEVICE_MAX_S, server certificates under the names fixed at init, signatures over manifests and plans. Operator
 * certificates are made at init or by a command run as the signer's user or root, never over the socket.
 *
 *   DIR/ca.key ca.crt artifact.key signer.json signer.sock
 *
 * Locking: one owning thread. */
#ifndef EW_SIGNER_SIGNER_H
#define EW_SIGNER_SIGNER_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "net/x509.h"

#define EW_SIGNER_DEVICE_S (24 * 3600)         /* default life of a device certificate */
#define EW_SIGNER_DEVICE_MAX_S (7 * 24 * 3600) /* the longest that is signed */
#define EW_SIGNER_DEVICE_MIN_S 10
#define EW_SIGNER_SERVER_S (30 * 24 * 3600)
#define EW_SIGNER_OPERATOR_S (365 * 24 * 3600)
#define EW_SIGNER_NAMES_MAX 8u
#define EW_SIGNER_MANIFEST_MAX (384u * 1024) /* bytes */
#define EW_SIGNER_SOCKET "signer.sock"

typedef struct ew_signer_names {
    const char *domain;                     /* trust domain */
    const char *coordinator_id;             /* [a-z0-9-]{1,64} */
    const char *names[EW_SIGNER_NAMES_MAX]; /* DNS names and addresses of the coordinator */
    size_t n_names;
} ew_signer_names;

typedef struct ew_signer ew_signer;

/* Makes the keys and files in DIR, which exists (0711) and is empty. EW_EEXIST when keys are there. */
ew_status ew_signer_create(const char *dir, const ew_signer_names *names, ew_error *reterr) EW_MUST_CHECK;
/* EW_EDENIED when the keys can be read by others or not by us; EW_ECORRUPT when they do not belong together. */
ew_status ew_signer_open(const char *dir, ew_signer **ret_signer, ew_error *reterr) EW_MUST_CHECK;
void ew_signer_free(ew_signer **s);

/* Borrowed for the signer's life. */
const char *ew_signer_domain(const ew_signer *s);
const char *ew_signer_coordinator_id(const ew_signer *s);
ew_span ew_signer_ca_der(const ew_signer *s);
void ew_signer_artifact_key(const ew_signer *s, uint8_t ret_key[static 32]);

/* A certificate for the key of csr, appended in DER. id: of the device or operator; ignored for the coordinator. seconds 0 =
 * the default of the kind. EW_EINVAL (request, id), EW_EDENIED (longer than allowed). */
ew_status ew_signer_issue(const ew_signer *s, ew_spiffe_kind kind, const char *id, ew_span csr, uint32_t seconds,
                          ew_buf *out_der, ew_error *reterr) EW_MUST_CHECK;
/* Ed25519 over the bytes, if they have the form of a packed Manifest (or Plan): EW_EDENIED otherwise. One can never be taken for
 * the other: field 1 is a number in a Manifest and 16 bytes in a Plan. */
ew_status ew_signer_sign_manifest(const ew_signer *s, ew_span packed, uint8_t ret_sig[static 64],
                                  ew_error *reterr) EW_MUST_CHECK;
ew_status ew_signer_sign_plan(const ew_signer *s, ew_span packed, uint8_t ret_sig[static 64],
                              ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_signer_serve_opt {
    const char *socket_path;
    uint32_t allow_uid[8]; /* who may ask; our own user and root always may */
    size_t n_allow_uid;
    void (*on_ready)(void *ctx);                                        /* the socket listens; may be NULL */
    void (*on_event)(void *ctx, const char *event, const char *detail); /* audit lines; may be NULL */
    void *ctx;
} ew_signer_serve_opt;

/* Answers requests until ew_signal_stop(). One thread, one request at a time; a client that stalls for 5 s is dropped. */
ew_status ew_signer_serve(const ew_signer *s, const ew_signer_serve_opt *opt, ew_error *reterr) EW_MUST_CHECK;

#endif

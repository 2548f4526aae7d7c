/* TLS 1.3 on memory buffers: bytes from the socket go in, bytes for the socket come out. No sockets here.
 *
 * Settings (all of them policy, none negotiable): TLS 1.3 only; AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305 in the client's order;
 * groups X25519 and P-256; ECDSA P-256 certificates; ALPN and SNI required; no tickets, no resumption, no early data, no
 * renegotiation, no compression; certificate messages of at most 16 KiB; KeyUpdate after 2^22 records or 16 GiB sent.
 * Certificates: chain, times, CA:FALSE, keyUsage digitalSignature, extended key usage, exactly one SPIFFE URI of the right kind
 * and trust domain and the denylist are checked in the verify callback, so that the peer gets an alert.
 * Up is not known to the client when its handshake ends (F12): the session's HelloAck tells.
 * Locking: an ew_tls has one owning thread; an ew_tls_ctx is immutable, counted, and may be shared. */
#ifndef EW_NET_TLS_H
#define EW_NET_TLS_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "net/x509.h"

#define EW_ALPN_DEVICE "edgewise/1"
#define EW_ALPN_OPERATOR "edgewise-op/1"
#define EW_ALPN_ENROL "edgewise-enrol/1"

/* What the peer proved. */
typedef struct ew_tls_peer {
    char alpn[32];
    char server_name[256]; /* SNI */
    ew_spiffe spiffe;      /* kind EW_SPIFFE_NONE without a certificate */
    char serial[EW_X509_SERIAL_HEX_SIZE];
    uint8_t key_sha256[32];
    uint64_t not_after_unix_ms;
    uint8_t channel_binding[32]; /* exporter EXPORTER-edgewise-channel */
} ew_tls_peer;

/* Asked in the verify callback; true refuses. Called from the thread that owns the ew_tls. */
typedef bool (*ew_tls_denied_fn)(void *ctx, const ew_spiffe *who, const char *serial, const uint8_t key_sha256[32]);

typedef struct ew_tls_server_opt {
    ew_span chain_pem; /* leaf first */
    ew_span key_pem;
    ew_span roots_pem; /* trust roots of devices and operators */
    const char *trust_domain;
    ew_tls_denied_fn denied; /* may be NULL */
    void *denied_ctx;
} ew_tls_server_opt;

typedef struct ew_tls_client_opt {
    ew_span chain_pem, key_pem; /* empty for enrolment */
    ew_span roots_pem;          /* empty when pinned */
    const uint8_t
        *pin_sha256;  /* [32]: the chain must end in the certificate of this hash, sent by the server; else NULL */
    const char *alpn; /* one of EW_ALPN_… */
    const char *server_name;  /* DNS name: SNI, and must be in the certificate */
    const char *trust_domain; /* NULL = any (pinned enrolment: read it from ew_tls_peer) */
} ew_tls_client_opt;

typedef struct ew_tls_ctx ew_tls_ctx;
ew_status ew_tls_ctx_server(const ew_tls_server_opt *opt, ew_tls_ctx **ret, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_tls_ctx_client(const ew_tls_client_opt *opt, ew_tls_ctx **ret, ew_error *reterr) EW_MUST_CHECK;
ew_tls_ctx *ew_tls_ctx_ref(ew_tls_ctx *c);
void ew_tls_ctx_unref(ew_tls_ctx **c);

typedef enum ew_tls_state {
    EW_TLS_HANDSHAKE,
    EW_TLS_UP,
    EW_TLS_CLOSED, /* close_notify received: an orderly end */
    EW_TLS_FAILED  /* error; an alert may be waiting in the output */
} ew_tls_state;

typedef struct ew_tls ew_tls;
ew_status ew_tls_new(ew_tls_ctx *ctx, ew_tls **ret, ew_error *reterr) EW_MUST_CHECK;
void ew_tls_free(ew_tls **t);
ew_tls_state ew_tls_get_state(const ew_tls *t);

/* Bytes from the socket. Advances the handshake; application data is read with ew_tls_read. Failure: the connection is over,
 * but send what ew_tls_output gives (the alert) first. Start a client with size 0. */
ew_status ew_tls_input(ew_tls *t, const void *data, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Decrypted bytes into dst; *ret_n = 0 when there are no more for now. */
ew_status ew_tls_read(ew_tls *t, void *dst, size_t size, size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;
/* Encrypts all of data into the output. Only when up. */
ew_status ew_tls_write(ew_tls *t, const void *data, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Queues close_notify. */
void ew_tls_shutdown(ew_tls *t);
/* Bytes that wait for the socket, and taking at most size of them. */
size_t ew_tls_output_pending(const ew_tls *t);
size_t ew_tls_output(ew_tls *t, void *dst, size_t size);
/* Only when up. */
const ew_tls_peer *ew_tls_get_peer(const ew_tls *t);

#endif

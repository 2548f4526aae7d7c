/* X.509 for Edgewise: P-256 keys, signing requests, certificates with a SPIFFE name, files. Used by both ends of the wire and by the
 * signer. A wrapper over OpenSSL 3: nobody outside net/ needs its headers.
 *
 * Names: exactly one URI spiffe://<trust domain>/<kind>/<id>, kind one of device, operator, coordinator; id [a-z0-9-]{1,64}.
 * Locking: keys and certificates are immutable once made; any thread may use them. */
#ifndef EW_NET_X509_H
#define EW_NET_X509_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

#define EW_SPIFFE_DOMAIN_SIZE 128
#define EW_SPIFFE_ID_SIZE 65
#define EW_X509_SERIAL_HEX_SIZE 43
#define EW_CSR_MAX_BYTES 4096
#define EW_CERT_BACKDATE_S 60 /* notBefore lies so far in the past, for clocks that are behind */
#define EW_CERT_MAX_BYTES 8192

typedef struct ew_pkey ew_pkey; /* a private key with its public half */

ew_status ew_pkey_new(ew_pkey **ret, ew_error *reterr) EW_MUST_CHECK; /* P-256 */
void ew_pkey_free(ew_pkey **k);
/* Appends "-----BEGIN PRIVATE KEY-----". */
ew_status ew_pkey_to_pem(const ew_pkey *k, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* The first private key of a PEM text. */
ew_status ew_pkey_from_pem(ew_span pem, ew_pkey **ret, ew_error *reterr) EW_MUST_CHECK;
/* SHA-256 of the SubjectPublicKeyInfo. */
ew_status ew_pkey_sha256(const ew_pkey *k, uint8_t ret[32], ew_error *reterr) EW_MUST_CHECK;

typedef enum ew_spiffe_kind {
    EW_SPIFFE_NONE = 0,
    EW_SPIFFE_DEVICE = 1,
    EW_SPIFFE_OPERATOR = 2,
    EW_SPIFFE_COORDINATOR = 3
} ew_spiffe_kind;
const char *ew_spiffe_kind_name(ew_spiffe_kind k); /* "device", … */

typedef struct ew_spiffe {
    char domain[EW_SPIFFE_DOMAIN_SIZE]; /* [a-z0-9.-]+ */
    ew_spiffe_kind kind;
    char id[EW_SPIFFE_ID_SIZE];
} ew_spiffe;
/* n bytes, not NUL-terminated. EW_EINVAL. */
ew_status ew_spiffe_parse(const char *uri, size_t n, ew_spiffe *ret, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_spiffe_format(const ew_spiffe *s, char *dst, size_t size, ew_error *reterr) EW_MUST_CHECK;

/* A PKCS#10 request for k, with an empty subject; appends DER. */
ew_status ew_csr_make(const ew_pkey *k, ew_buf *out_der, ew_error *reterr) EW_MUST_CHECK;
/* Checks form, size, key type (P-256) and the self-signature. Names in it are ignored. ret_key_sha256 may be NULL. */
ew_status ew_csr_check(ew_span der, uint8_t *ret_key_sha256 /* [32] */, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_cert_info {
    bool is_ca;
    bool has_spiffe;
    ew_spiffe spiffe;
    char serial[EW_X509_SERIAL_HEX_SIZE];
    uint64_t not_before_unix_ms, not_after_unix_ms;
    uint8_t key_sha256[32];  /* SubjectPublicKeyInfo */
    uint8_t cert_sha256[32]; /* whole DER */
    char subject_cn[65];     /* "" when absent */
} ew_cert_info;
ew_status ew_cert_info_of(ew_span der, ew_cert_info *ret, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_cert_opt {
    const ew_spiffe *spiffe; /* the URI SAN; NULL = none (CA) */
    const char *const *dns;  /* DNS SANs, or numeric addresses, which become IP SANs */
    size_t n_dns;
    const char *common_name;       /* may be NULL */
    bool ca;                       /* CA:TRUE, keyCertSign and cRLSign */
    bool server_auth, client_auth; /* extended key usage */
    int64_t valid_s;               /* life from now; notBefore is backdate_s ago */
    int64_t backdate_s;            /* 0 = EW_CERT_BACKDATE_S */
    const uint8_t *serial;         /* 16 bytes; NULL = random */
} ew_cert_opt;

/* A self-signed root for key; appends DER. */
ew_status ew_cert_self_sign(const ew_pkey *key, const ew_cert_opt *opt, ew_buf *out_der,
                            ew_error *reterr) EW_MUST_CHECK;
/* A certificate for the key of a signing request (checked as by ew_csr_check), issued by ca. Every name comes from opt. */
ew_status ew_cert_issue(const ew_pkey *ca_key, ew_span ca_der, ew_span csr_der, const ew_cert_opt *opt, ew_buf *out_der,
                        ew_error *reterr) EW_MUST_CHECK;
/* Does leaf chain to one of the roots now? With the purpose of a TLS client (or server). For tests and tools; TLS itself checks more. */
ew_status ew_cert_verify(ew_span leaf_der, const ew_span *chain, size_t n_chain, const ew_span *roots, size_t n_roots,
                         bool as_server, ew_error *reterr) EW_MUST_CHECK;

/* PEM: appends one certificate / calls fn with the DER of each certificate of a text, in order. EW_ECORRUPT when there is none. */
ew_status ew_cert_to_pem(ew_span der, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
typedef ew_status (*ew_cert_fn)(void *ctx, ew_span der, ew_error *reterr);
ew_status ew_cert_each_pem(ew_span pem, ew_cert_fn fn, void *ctx, ew_error *reterr) EW_MUST_CHECK;

#endif

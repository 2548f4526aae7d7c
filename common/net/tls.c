/* TLS 1.3 on OpenSSL memory BIOs. */
#include "net/tls.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/mem.h"
#include "base/str.h"
#include "net/net_int.h"

#define CERT_LIST_MAX 16384
#define REKEY_BYTES (16ull * 1024 * 1024 * 1024)
#define REKEY_RECORDS (1ull << 22)
#define KEY_UPDATES_MAX 256 /* from a peer on one connection: its 16 GiB each would make 4 TiB */

struct ew_tls_ctx {
    SSL_CTX *x;
    atomic_uint refs;
    bool server;
    bool pinned;
    uint8_t pin[32];
    char trust_domain[EW_SPIFFE_DOMAIN_SIZE]; /* "" = any */
    char server_name[256];
    char alpn[32];
    ew_tls_denied_fn denied;
    void *denied_ctx;
};

struct ew_tls {
    SSL *s;
    BIO *in, *out; /* owned by s */
    ew_tls_ctx *ctx;
    ew_tls_state state;
    ew_tls_peer peer;
    char why[160];       /* what our own checks found wrong */
    uint64_t sent_bytes; /* since the last key update of ours */
    uint64_t sent_records;
    unsigned key_updates; /* of the peer */
};

/* ---- verification */

static int refuse(X509_STORE_CTX *v, ew_tls *t, int code, const char *why)
{
    if (t->why[0] == '\0') {
        ew_str_copy(t->why, sizeof(t->why), why);
    }
    X509_STORE_CTX_set_error(v, code);
    return 0;
}

static ew_spiffe_kind wanted_kind(const ew_tls *t)
{
    if (!t->ctx->server) {
        return EW_SPIFFE_COORDINATOR;
    }
    const unsigned char *alpn = NULL;
    unsigned n = 0;
    SSL_get0_alpn_selected(t->s, &alpn, &n);
    bool op = n == sizeof(EW_ALPN_OPERATOR) - 1 && memcmp(alpn, EW_ALPN_OPERATOR, n) == 0;
    return op ? EW_SPIFFE_OPERATOR : EW_SPIFFE_DEVICE;
}

/* The leaf, after OpenSSL has accepted the chain up to it. The error codes are chosen for the alerts they become. */
static int check_leaf(X509_STORE_CTX *v, ew_tls *t, X509 *x)
{
    uint32_t purpose = t->ctx->server ? XKU_SSL_CLIENT : XKU_SSL_SERVER;
    uint32_t flags = X509_get_extension_flags(x);
    if (X509_check_ca(x) != 0) {
        return refuse(v, t, X509_V_ERR_INVALID_PURPOSE, "a CA certificate is not accepted as identity");
    }
    if ((flags & EXFLAG_KUSAGE) == 0 || (X509_get_key_usage(x) & KU_DIGITAL_SIGNATURE) == 0) {
        return refuse(v, t, X509_V_ERR_INVALID_PURPOSE, "the certificate's key usage has no digitalSignature");
    }
    if ((flags & EXFLAG_XKUSAGE) == 0 || (X509_get_extended_key_usage(x) & purpose) == 0) {
        return refuse(v, t, X509_V_ERR_INVALID_PURPOSE, "the certificate is not for this side of TLS");
    }
    ew_spiffe who;
    ew_error err = EW_ERROR_INIT;
    if (ew__cert_spiffe(x, &who, &err) != EW_OK) {
        return refuse(v, t, X509_V_ERR_HOSTNAME_MISMATCH, err.msg);
    }
    ew_spiffe_kind want = wanted_kind(t);
    if (who.kind != want) {
        char text[128];
        snprintf(text, sizeof(text), "the certificate names a %s, a %s is expected", ew_spiffe_kind_name(who.kind),
                 ew_spiffe_kind_name(want));
        return refuse(v, t, X509_V_ERR_HOSTNAME_MISMATCH, text);
    }
    if (t->ctx->trust_domain[0] != '\0' && strcmp(t->ctx->trust_domain, who.domain) != 0) {
        return refuse(v, t, X509_V_ERR_HOSTNAME_MISMATCH, "the certificate is of another trust domain");
    }
    char serial[EW_X509_SERIAL_HEX_SIZE];
    uint8_t key[32];
    ew__cert_serial(x, serial);
    if (ew__cert_key_sha256(x, key, &err) != EW_OK) {
        return refuse(v, t, X509_V_ERR_UNSPECIFIED, err.msg);
    }
    if (t->ctx->denied != NULL && t->ctx->denied(t->ctx->denied_ctx, &who, serial, key)) {
        return refuse(v, t, X509_V_ERR_CERT_REVOKED, "the certificate is on the denylist");
    }
    t->peer.spiffe = who;
    memcpy(t->peer.serial, serial, sizeof(serial));
    memcpy(t->peer.key_sha256, key, sizeof(key));
    t->peer.not_after_unix_ms = ew__asn1_ms(X509_get0_notAfter(x));
    return 1;
}

static int on_verify(int ok, X509_STORE_CTX *v)
{
    SSL *s = X509_STORE_CTX_get_ex_data(v, SSL_get_ex_data_X509_STORE_CTX_idx());
    ew_tls *t = SSL_get_app_data(s);
    if (!ok) {
        return refuse(v, t, X509_STORE_CTX_get_error(v), X509_verify_cert_error_string(X509_STORE_CTX_get_error(v)));
    }
    return X509_STORE_CTX_get_error_depth(v) == 0 ? check_leaf(v, t, X509_STORE_CTX_get0_cert(v)) : 1;
}

/* Enrolment: the only root is the certificate of the pinned hash, which the server sends at the end of its chain. */
static int on_verify_pinned(X509_STORE_CTX *v, void *arg)
{
    ew_tls_ctx *c = arg;
    STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(v);
    STACK_OF(X509) *top = sk_X509_new_null();
    for (int i = 0; top != NULL && i < sk_X509_num(sent); i++) {
        uint8_t digest[32];
        unsigned n = 0;
        if (X509_digest(sk_X509_value(sent, i), EVP_sha256(), digest, &n) == 1 && n == sizeof(digest) &&
            memcmp(digest, c->pin, sizeof(digest)) == 0) {
            sk_X509_push(top, sk_X509_value(sent, i));
        }
    }
    SSL *s = X509_STORE_CTX_get_ex_data(v, SSL_get_ex_data_X509_STORE_CTX_idx());
    int ok;
    if (top == NULL || sk_X509_num(top) == 0) {
        ok = refuse(v, SSL_get_app_data(s), X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
                    "the chain does not end in the CA that the token names: this is not the coordinator that made it");
    } else {
        X509_STORE_CTX_set0_trusted_stack(v, top);
        ok = X509_verify_cert(v) == 1;
    }
    sk_X509_free(top);
    return ok;
}

/* ---- server callbacks */

static int on_alpn(SSL *s, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n,
                   void *arg)
{
    static const unsigned char known[] = "\x0a" EW_ALPN_DEVICE "\x0d" EW_ALPN_OPERATOR "\x10" EW_ALPN_ENROL;
    (void)arg;
    unsigned char *selected = NULL;
    if (SSL_select_next_proto(&selected, out_n, known, sizeof(known) - 1, in, in_n) != OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* 120 */
    }
    *out = selected;
    bool enrol = *out_n == sizeof(EW_ALPN_ENROL) - 1;
    SSL_set_verify(s, enrol ? SSL_VERIFY_NONE : SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
    return SSL_TLSEXT_ERR_OK;
}

/* A ClientHello without ALPN or without SNI is refused: the two decide how the rest is judged. */
static int on_client_hello(SSL *s, int *alert, void *arg)
{
    (void)arg;
    const unsigned char *ext;
    size_t n;
    ew_tls *t = SSL_get_app_data(s);
    if (SSL_client_hello_get0_ext(s, TLSEXT_TYPE_application_layer_protocol_negotiation, &ext, &n) != 1) {
        *alert = SSL_AD_NO_APPLICATION_PROTOCOL;
        ew_str_copy(t->why, sizeof(t->why), "no ALPN");
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (SSL_client_hello_get0_ext(s, TLSEXT_TYPE_server_name, &ext, &n) != 1) {
        *alert = SSL_AD_MISSING_EXTENSION;
        ew_str_copy(t->why, sizeof(t->why), "no SNI");
        return SSL_CLIENT_HELLO_ERROR;
    }
    return SSL_CLIENT_HELLO_SUCCESS;
}

static int on_server_name(SSL *s, int *alert, void *arg)
{
    (void)s, (void)alert, (void)arg;
    return SSL_TLSEXT_ERR_OK;
}

/* Counts the peer's KeyUpdates. */
static void on_message(int write_p, int version, int type, const void *buf, size_t len, SSL *s, void *arg)
{
    (void)version, (void)s;
    ew_tls *t = arg;
    if (write_p == 0 && type == SSL3_RT_HANDSHAKE && len > 0 && *(const unsigned char *)buf == SSL3_MT_KEY_UPDATE) {
        t->key_updates++;
    }
}

/* ---- contexts */

static ew_status use_key(SSL_CTX *x, ew_span key_pem, ew_error *reterr)
{
    EW_AUTO(ew_pkey) key = NULL;
    EW_TRY(ew_pkey_from_pem(key_pem, &key, reterr));
    if (SSL_CTX_use_PrivateKey(x, ew__pkey(key)) != 1 || SSL_CTX_check_private_key(x) != 1) {
        return ew__ssl_fail(reterr, EW_EINVAL, "the private key does not belong to the certificate");
    }
    return EW_OK;
}

static ew_status use_chain_cert(void *ctx, ew_span der, ew_error *reterr)
{
    SSL_CTX *x = ctx;
    X509 *cert = NULL;
    EW_TRY(ew__cert_parse(der, &cert, reterr));
    bool ok = SSL_CTX_get0_certificate(x) == NULL ? SSL_CTX_use_certificate(x, cert) == 1
                                                  : SSL_CTX_add1_chain_cert(x, cert) == 1;
    X509_free(cert);
    return ok ? EW_OK : ew__ssl_fail(reterr, EW_EINVAL, "the certificate chain cannot be used");
}

static ew_status use_root(void *ctx, ew_span der, ew_error *reterr)
{
    SSL_CTX *x = ctx;
    X509 *cert = NULL;
    EW_TRY(ew__cert_parse(der, &cert, reterr));
    bool ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(x), cert) == 1;
    X509_free(cert);
    return ok ? EW_OK : ew__ssl_fail(reterr, EW_EINVAL, "a trust root cannot be used");
}

/* The server sends its root too, unless the chain has it: an enrolling agent knows only its hash. */
static ew_status send_root(void *ctx, ew_span der, ew_error *reterr)
{
    SSL_CTX *x = ctx;
    X509 *cert = NULL;
    EW_TRY(ew__cert_parse(der, &cert, reterr));
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(x, &chain);
    bool there = false;
    for (int i = 0; i < sk_X509_num(chain); i++) {
        there = there || X509_cmp(sk_X509_value(chain, i), cert) == 0;
    }
    bool ok = there || SSL_CTX_add1_chain_cert(x, cert) == 1;
    X509_free(cert);
    return ok ? EW_OK : ew__ssl_fail(reterr, EW_EINVAL, "a trust root cannot be sent");
}

static ew_status ctx_new(bool server, ew_tls_ctx **ret, ew_error *reterr)
{
    ew_tls_ctx *c = ew_calloc(1, sizeof(*c));
    SSL_CTX *x = c != NULL ? SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()) : NULL;
    if (x == NULL) {
        ew_free(c);
        return ew__ssl_fail(reterr, EW_ENOMEM, "TLS: out of memory");
    }
    c->x = x;
    c->server = server;
    atomic_init(&c->refs, 1);
    SSL_CTX_set_options(x, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(x, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_session_cache_mode(x, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(x, CERT_LIST_MAX);
    SSL_CTX_set_max_early_data(x, 0);
    char groups[] = "X25519:P-256"; /* OpenSSL's macros cast const away */
    char sigalgs[] = "ECDSA+SHA256";
    if (SSL_CTX_set_min_proto_version(x, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(x, TLS1_3_VERSION) != 1 || SSL_CTX_set_num_tickets(x, 0) != 1 ||
        SSL_CTX_set_ciphersuites(x, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") !=
            1 ||
        SSL_CTX_set1_groups_list(x, groups) != 1 || SSL_CTX_set1_sigalgs_list(x, sigalgs) != 1) {
        ew_tls_ctx_unref(&c);
        return ew__ssl_fail(reterr, EW_EINTERNAL, "TLS: OpenSSL refuses the settings");
    }
    *ret = c;
    return EW_OK;
}

ew_tls_ctx *ew_tls_ctx_ref(ew_tls_ctx *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void ew_tls_ctx_unref(ew_tls_ctx **c)
{
    if (c != NULL && *c != NULL) {
        if (atomic_fetch_sub_explicit(&(*c)->refs, 1, memory_order_acq_rel) == 1) {
            SSL_CTX_free((*c)->x);
            ew_free(*c);
        }
        *c = NULL;
    }
}

static ew_status server_setup(ew_tls_ctx *c, const ew_tls_server_opt *opt, ew_error *reterr)
{
    EW_TRY(ew_cert_each_pem(opt->chain_pem, use_chain_cert, c->x, reterr));
    EW_TRY(use_key(c->x, opt->key_pem, reterr));
    EW_TRY(ew_cert_each_pem(opt->roots_pem, use_root, c->x, reterr));
    EW_TRY(ew_cert_each_pem(opt->roots_pem, send_root, c->x, reterr));
    if (!ew_str_copy(c->trust_domain, sizeof(c->trust_domain), opt->trust_domain) || opt->trust_domain[0] == '\0') {
        return ew_fail(reterr, EW_EINVAL, "TLS: the trust domain is empty or too long");
    }
    c->denied = opt->denied;
    c->denied_ctx = opt->denied_ctx;
    SSL_CTX_set_verify(c->x, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
    SSL_CTX_set_alpn_select_cb(c->x, on_alpn, NULL);
    SSL_CTX_set_client_hello_cb(c->x, on_client_hello, NULL);
    SSL_CTX_set_tlsext_servername_callback(c->x, on_server_name);
    return EW_OK;
}

ew_status ew_tls_ctx_server(const ew_tls_server_opt *opt, ew_tls_ctx **ret, ew_error *reterr)
{
    ew_tls_ctx *c = NULL;
    EW_TRY(ctx_new(true, &c, reterr));
    ew_status st = server_setup(c, opt, reterr);
    if (st != EW_OK) {
        ew_tls_ctx_unref(&c);
        return st;
    }
    *ret = c;
    return EW_OK;
}

static ew_status client_setup(ew_tls_ctx *c, const ew_tls_client_opt *opt, ew_error *reterr)
{
    unsigned char alpn[33];
    size_t n = strlen(opt->alpn);
    if (n > 31 || opt->server_name[0] == '\0' ||
        !ew_str_copy(c->server_name, sizeof(c->server_name), opt->server_name) ||
        !ew_str_copy(c->trust_domain, sizeof(c->trust_domain), opt->trust_domain != NULL ? opt->trust_domain : "")) {
        return ew_fail(reterr, EW_EINVAL, "TLS: a name is empty or too long");
    }
    alpn[0] = (unsigned char)n;
    memcpy(alpn + 1, opt->alpn, n);
    ew_str_copy(c->alpn, sizeof(c->alpn), opt->alpn);
    if (SSL_CTX_set_alpn_protos(c->x, alpn, (unsigned)n + 1) != 0) {
        return ew__ssl_fail(reterr, EW_EINTERNAL, "TLS: ALPN cannot be set");
    }
    if (opt->chain_pem.size > 0) {
        EW_TRY(ew_cert_each_pem(opt->chain_pem, use_chain_cert, c->x, reterr));
        EW_TRY(use_key(c->x, opt->key_pem, reterr));
    }
    SSL_CTX_set_verify(c->x, SSL_VERIFY_PEER, on_verify);
    if (opt->pin_sha256 != NULL) {
        c->pinned = true;
        memcpy(c->pin, opt->pin_sha256, sizeof(c->pin));
        SSL_CTX_set_cert_verify_callback(c->x, on_verify_pinned, c);
        return EW_OK;
    }
    return ew_cert_each_pem(opt->roots_pem, use_root, c->x, reterr);
}

ew_status ew_tls_ctx_client(const ew_tls_client_opt *opt, ew_tls_ctx **ret, ew_error *reterr)
{
    ew_tls_ctx *c = NULL;
    EW_TRY(ctx_new(false, &c, reterr));
    ew_status st = client_setup(c, opt, reterr);
    if (st != EW_OK) {
        ew_tls_ctx_unref(&c);
        return st;
    }
    *ret = c;
    return EW_OK;
}

/* ---- one connection */

static bool client_start(ew_tls *t)
{
    X509_VERIFY_PARAM *p = SSL_get0_param(t->s);
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    SSL_set_connect_state(t->s);
    return SSL_set_tlsext_host_name(t->s, t->ctx->server_name) == 1 &&
           X509_VERIFY_PARAM_set1_host(p, t->ctx->server_name, 0) == 1;
}

ew_status ew_tls_new(ew_tls_ctx *ctx, ew_tls **ret, ew_error *reterr)
{
    ew_tls *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "TLS: out of memory");
    }
    t->ctx = ew_tls_ctx_ref(ctx);
    t->s = SSL_new(ctx->x);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (t->s == NULL || t->in == NULL || t->out == NULL) {
        BIO_free(t->in);
        BIO_free(t->out);
        ew_tls_free(&t);
        return ew__ssl_fail(reterr, EW_ENOMEM, "TLS: out of memory");
    }
    BIO_set_mem_eof_return(t->in, -1);
    SSL_set_bio(t->s, t->in, t->out);
    SSL_set_app_data(t->s, t);
    SSL_set_msg_callback(t->s, on_message);
    SSL_set_msg_callback_arg(t->s, t);
    if (ctx->server) {
        SSL_set_accept_state(t->s);
    } else if (!client_start(t)) {
        ew_tls_free(&t);
        return ew__ssl_fail(reterr, EW_EINVAL, "TLS: the server name cannot be used");
    }
    *ret = t;
    return EW_OK;
}

void ew_tls_free(ew_tls **t)
{
    if (t != NULL && *t != NULL) {
        SSL_free((*t)->s);
        ew_tls_ctx_unref(&(*t)->ctx);
        ew_free(*t);
        *t = NULL;
    }
}

ew_tls_state ew_tls_get_state(const ew_tls *t)
{
    return t->state;
}

static ew_status failed(ew_tls *t, const char *what, ew_error *reterr)
{
    t->state = EW_TLS_FAILED;
    if (t->why[0] != '\0') {
        ERR_clear_error();
        return ew_fail(reterr, EW_EDENIED, "%s: %s", what, t->why);
    }
    return ew__ssl_fail(reterr, EW_EREMOTE, what);
}

static ew_status came_up(ew_tls *t, ew_error *reterr)
{
    static const char label[] = "EXPORTER-edgewise-channel";
    const unsigned char *alpn = NULL;
    unsigned n = 0;
    SSL_get0_alpn_selected(t->s, &alpn, &n);
    if (n == 0 || n >= sizeof(t->peer.alpn) || (!t->ctx->server && strlen(t->ctx->alpn) != n)) {
        ew_str_copy(t->why, sizeof(t->why), "no common protocol (ALPN)");
        return failed(t, "TLS", reterr);
    }
    memcpy(t->peer.alpn, alpn, n);
    const char *sni = SSL_get_servername(t->s, TLSEXT_NAMETYPE_host_name);
    ew_str_copy(t->peer.server_name, sizeof(t->peer.server_name), sni != NULL ? sni : "");
    if (SSL_export_keying_material(t->s, t->peer.channel_binding, sizeof(t->peer.channel_binding), label,
                                   sizeof(label) - 1, NULL, 0, 0) != 1) {
        return failed(t, "TLS: no channel binding", reterr);
    }
    t->state = EW_TLS_UP;
    return EW_OK;
}

ew_status ew_tls_input(ew_tls *t, const void *data, size_t size, ew_error *reterr)
{
    if (t->state != EW_TLS_HANDSHAKE && t->state != EW_TLS_UP) {
        return ew_fail(reterr, EW_EREMOTE, "TLS: the connection is over");
    }
    size_t done = 0;
    if (size > 0 && (BIO_write_ex(t->in, data, size, &done) != 1 || done != size)) {
        return failed(t, "TLS: out of memory", reterr);
    }
    if (t->state == EW_TLS_UP) {
        return EW_OK;
    }
    ERR_clear_error();
    int r = SSL_do_handshake(t->s);
    if (r == 1) {
        return came_up(t, reterr);
    }
    return SSL_get_error(t->s, r) == SSL_ERROR_WANT_READ ? EW_OK : failed(t, "TLS handshake", reterr);
}

ew_status ew_tls_read(ew_tls *t, void *dst, size_t size, size_t *ret_n, ew_error *reterr)
{
    *ret_n = 0;
    if (t->state == EW_TLS_CLOSED || t->state == EW_TLS_HANDSHAKE) {
        return EW_OK;
    }
    if (t->state == EW_TLS_FAILED) {
        return ew_fail(reterr, EW_EREMOTE, "TLS: the connection is over");
    }
    ERR_clear_error();
    int r = SSL_read_ex(t->s, dst, size, ret_n);
    if (t->key_updates > KEY_UPDATES_MAX) {
        ew_str_copy(t->why, sizeof(t->why), "too many key updates");
        return failed(t, "TLS", reterr);
    }
    if (r == 1) {
        return EW_OK;
    }
    *ret_n = 0;
    switch (SSL_get_error(t->s, r)) {
    case SSL_ERROR_WANT_READ:
        return EW_OK;
    case SSL_ERROR_ZERO_RETURN:
        t->state = EW_TLS_CLOSED;
        return EW_OK;
    default:
        return failed(t, "TLS", reterr);
    }
}

ew_status ew_tls_write(ew_tls *t, const void *data, size_t size, ew_error *reterr)
{
    if (t->state != EW_TLS_UP) {
        return ew_fail(reterr, EW_EREMOTE, "TLS: not up");
    }
    if (size == 0) {
        return EW_OK;
    }
    t->sent_bytes += size;
    t->sent_records += size / 16384 + 1;
    if (t->sent_bytes > REKEY_BYTES || t->sent_records > REKEY_RECORDS) {
        t->sent_bytes = t->sent_records = 0;
        SSL_key_update(t->s, SSL_KEY_UPDATE_NOT_REQUESTED);
    }
    size_t done = 0;
    ERR_clear_error();
    if (SSL_write_ex(t->s, data, size, &done) != 1 || done != size) {
        return failed(t, "TLS: cannot encrypt", reterr);
    }
    return EW_OK;
}

void ew_tls_shutdown(ew_tls *t)
{
    if (t->state == EW_TLS_UP || t->state == EW_TLS_CLOSED) {
        ERR_clear_error();
        SSL_shutdown(t->s);
        ERR_clear_error();
    }
}

size_t ew_tls_output_pending(const ew_tls *t)
{
    return BIO_ctrl_pending(t->out);
}

size_t ew_tls_output(ew_tls *t, void *dst, size_t size)
{
    size_t n = 0;
    return BIO_read_ex(t->out, dst, size, &n) == 1 ? n : 0;
}

const ew_tls_peer *ew_tls_get_peer(const ew_tls *t)
{
    return &t->peer;
}

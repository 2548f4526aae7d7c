/* Keys, signing requests and certificates over OpenSSL 3. */
#include "net/x509.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/mem.h"
#include "base/str.h"
#include "net/net_int.h"

struct ew_pkey {
    EVP_PKEY *k; /* P-256 */
};

ew_status ew__ssl_fail(ew_error *reterr, ew_status code, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *reason = e != 0 ? ERR_reason_error_string(e) : NULL;
    ERR_clear_error();
    return ew_fail(reterr, code, "%s%s%s", what, reason != NULL ? ": " : "", reason != NULL ? reason : "");
}

EVP_PKEY *ew__pkey(const ew_pkey *k)
{
    return k->k;
}

static ew_status wrap_key(EVP_PKEY *k, ew_pkey **ret, ew_error *reterr)
{
    ew_pkey *p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        EVP_PKEY_free(k);
        return ew_fail(reterr, EW_ENOMEM, "key: out of memory");
    }
    p->k = k;
    *ret = p;
    return EW_OK;
}

ew_status ew_pkey_new(ew_pkey **ret, ew_error *reterr)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    if (k == NULL) {
        return ew__ssl_fail(reterr, EW_EINTERNAL, "cannot make a P-256 key");
    }
    return wrap_key(k, ret, reterr);
}

void ew_pkey_free(ew_pkey **k)
{
    if (k != NULL && *k != NULL) {
        EVP_PKEY_free((*k)->k);
        ew_free(*k);
        *k = NULL;
    }
}

static ew_status add_bio(BIO *b, ew_buf *out, ew_error *reterr)
{
    char *data;
    long n = BIO_get_mem_data(b, &data);
    ew_buf_add(out, data, n > 0 ? (size_t)n : 0);
    return ew_buf_check(out, reterr);
}

ew_status ew_pkey_to_pem(const ew_pkey *k, ew_buf *out, ew_error *reterr)
{
    BIO *b = BIO_new(BIO_s_secmem());
    ew_status st = EW_OK;
    if (b == NULL || PEM_write_bio_PrivateKey(b, k->k, NULL, NULL, 0, NULL, NULL) != 1) {
        st = ew__ssl_fail(reterr, EW_EINTERNAL, "cannot write a key as PEM");
    } else {
        st = add_bio(b, out, reterr);
    }
    BIO_free(b);
    return st;
}

/* Never ask a terminal for a pass phrase. */
static int no_password(char *buf, int size, int rw, void *u)
{
    (void)buf, (void)size, (void)rw, (void)u;
    return -1;
}

static bool is_p256(EVP_PKEY *k)
{
    char name[32] = "";
    return EVP_PKEY_get_base_id(k) == EVP_PKEY_EC && EVP_PKEY_get_group_name(k, name, sizeof(name), NULL) == 1 &&
           (strcmp(name, "prime256v1") == 0 || strcmp(name, "P-256") == 0);
}

static BIO *bio_of(ew_span s)
{
    return s.size <= INT32_MAX ? BIO_new_mem_buf(s.data, (int)s.size) : NULL;
}

ew_status ew_pkey_from_pem(ew_span pem, ew_pkey **ret, ew_error *reterr)
{
    BIO *b = bio_of(pem);
    EVP_PKEY *k = b != NULL ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;
    BIO_free(b);
    if (k == NULL) {
        return ew__ssl_fail(reterr, EW_ECORRUPT, "no readable private key in the PEM text");
    }
    if (!is_p256(k)) {
        EVP_PKEY_free(k);
        return ew_fail(reterr, EW_EUNSUPPORTED, "the private key is not an EC key on P-256");
    }
    return wrap_key(k, ret, reterr);
}

static ew_status spki_sha256(EVP_PKEY *k, uint8_t ret[32], ew_error *reterr)
{
    unsigned char *der = NULL;
    int n = i2d_PUBKEY(k, &der);
    if (n <= 0) {
        return ew__ssl_fail(reterr, EW_EINTERNAL, "cannot encode a public key");
    }
    SHA256(der, (size_t)n, ret);
    OPENSSL_free(der);
    return EW_OK;
}

ew_status ew_pkey_sha256(const ew_pkey *k, uint8_t ret[32], ew_error *reterr)
{
    return spki_sha256(k->k, ret, reterr);
}

/* ---- SPIFFE names */

const char *ew_spiffe_kind_name(ew_spiffe_kind k)
{
    static const char *const names[] = {"none", "device", "operator", "coordinator"};
    return (unsigned)k < EW_COUNT(names) ? names[k] : names[0];
}

static bool all_of(const char *s, size_t n, const char *set)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\0' || strchr(set, s[i]) == NULL) {
            return false;
        }
    }
    return n > 0;
}

#define ID_CHARS "abcdefghijklmnopqrstuvwxyz0123456789-"
#define DOMAIN_CHARS ID_CHARS "."

ew_status ew_spiffe_parse(const char *uri, size_t n, ew_spiffe *ret, ew_error *reterr)
{
    static const char scheme[] = "spiffe://";
    const size_t n_scheme = sizeof(scheme) - 1;
    ew_spiffe s = {.kind = EW_SPIFFE_NONE};
    const char *domain = uri + n_scheme;
    const char *slash = n > n_scheme && memcmp(uri, scheme, n_scheme) == 0 ? memchr(domain, '/', n - n_scheme) : NULL;
    const char *end = uri + n;
    if (slash != NULL) {
        const char *kind = slash + 1;
        const char *id = memchr(kind, '/', (size_t)(end - kind));
        for (int k = 1; id != NULL && k <= 3; k++) {
            const char *name = ew_spiffe_kind_name((ew_spiffe_kind)k);
            if ((size_t)(id - kind) == strlen(name) && memcmp(kind, name, strlen(name)) == 0) {
                s.kind = (ew_spiffe_kind)k;
            }
        }
        size_t n_domain = (size_t)(slash - domain);
        size_t n_id = id != NULL ? (size_t)(end - id - 1) : 0;
        if (s.kind != EW_SPIFFE_NONE && n_domain < sizeof(s.domain) && all_of(domain, n_domain, DOMAIN_CHARS) &&
            n_id < sizeof(s.id) && all_of(id + 1, n_id, ID_CHARS)) {
            memcpy(s.domain, domain, n_domain);
            memcpy(s.id, id + 1, n_id);
            *ret = s;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EINVAL,
                   "the name \"%.*s\" is not spiffe://<domain>/device|operator|coordinator/<id>, id of a-z, 0-9, '-'",
                   (int)EW_MIN(n, 100), uri);
}

ew_status ew_spiffe_format(const ew_spiffe *s, char *dst, size_t size, ew_error *reterr)
{
    char text[EW_SPIFFE_DOMAIN_SIZE + EW_SPIFFE_ID_SIZE + 32];
    int n = snprintf(text, sizeof(text), "spiffe://%s/%s/%s", s->domain, ew_spiffe_kind_name(s->kind), s->id);
    ew_spiffe back;
    EW_TRY(ew_spiffe_parse(text, (size_t)n, &back, reterr));
    if ((size_t)n >= size) {
        return ew_fail(reterr, EW_ELIMIT, "the name %s is too long", text);
    }
    memcpy(dst, text, (size_t)n + 1);
    return EW_OK;
}

/* ---- signing requests */

ew_status ew_csr_make(const ew_pkey *k, ew_buf *out_der, ew_error *reterr)
{
    X509_REQ *r = X509_REQ_new();
    unsigned char *der = NULL;
    int n = -1;
    if (r != NULL && X509_REQ_set_version(r, 0) == 1 && X509_REQ_set_pubkey(r, k->k) == 1 &&
        X509_REQ_sign(r, k->k, EVP_sha256()) > 0) {
        n = i2d_X509_REQ(r, &der);
    }
    X509_REQ_free(r);
    if (n <= 0) {
        return ew__ssl_fail(reterr, EW_EINTERNAL, "cannot make a signing request");
    }
    ew_buf_add(out_der, der, (size_t)n);
    OPENSSL_free(der);
    return ew_buf_check(out_der, reterr);
}

static ew_status csr_parse(ew_span der, X509_REQ **ret, ew_error *reterr)
{
    if (der.size == 0 || der.size > EW_CSR_MAX_BYTES) {
        return ew_fail(reterr, EW_EINVAL, "signing request of %zu bytes, 1..%d are allowed", der.size,
                       EW_CSR_MAX_BYTES);
    }
    const unsigned char *p = der.data;
    X509_REQ *r = d2i_X509_REQ(NULL, &p, (long)der.size);
    if (r == NULL || p != (const unsigned char *)der.data + der.size) {
        X509_REQ_free(r);
        return ew__ssl_fail(reterr, EW_EINVAL, "the signing request is not PKCS#10 in DER");
    }
    EVP_PKEY *k = X509_REQ_get0_pubkey(r);
    if (k == NULL || !is_p256(k)) {
        X509_REQ_free(r);
        return ew__ssl_fail(reterr, EW_EINVAL, "the signing request's key is not an EC key on P-256");
    }
    if (X509_REQ_verify(r, k) != 1) {
        X509_REQ_free(r);
        return ew__ssl_fail(reterr, EW_EDENIED, "the signing request is not signed by its own key");
    }
    *ret = r;
    return EW_OK;
}

ew_status ew_csr_check(ew_span der, uint8_t *ret_key_sha256, ew_error *reterr)
{
    X509_REQ *r = NULL;
    EW_TRY(csr_parse(der, &r, reterr));
    ew_status st = ret_key_sha256 != NULL ? spki_sha256(X509_REQ_get0_pubkey(r), ret_key_sha256, reterr) : EW_OK;
    X509_REQ_free(r);
    return st;
}

/* ---- certificates */

ew_status ew__cert_parse(ew_span der, X509 **ret, ew_error *reterr)
{
    const unsigned char *p = der.data;
    X509 *x = der.size > 0 && der.size <= EW_CERT_MAX_BYTES ? d2i_X509(NULL, &p, (long)der.size) : NULL;
    if (x == NULL || p != (const unsigned char *)der.data + der.size) {
        X509_free(x);
        return ew__ssl_fail(reterr, EW_ECORRUPT, "not a certificate in DER");
    }
    *ret = x;
    return EW_OK;
}

uint64_t ew__asn1_ms(const ASN1_TIME *t)
{
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days = 0;
    int secs = 0;
    uint64_t ms = 0;
    if (epoch != NULL && t != NULL && ASN1_TIME_diff(&days, &secs, epoch, t) == 1 && days >= 0 && secs >= 0) {
        ms = ((uint64_t)days * 86400 + (uint64_t)secs) * 1000;
    }
    ASN1_TIME_free(epoch);
    return ms;
}

void ew__cert_serial(const X509 *x, char hex[EW_X509_SERIAL_HEX_SIZE])
{
    const ASN1_INTEGER *s = X509_get0_serialNumber(x);
    int n = ASN1_STRING_length(s);
    hex[0] = '\0';
    if (n > 0 && n * 2 < EW_X509_SERIAL_HEX_SIZE) {
        ew_hex_encode(ASN1_STRING_get0_data(s), (size_t)n, hex);
    }
}

ew_status ew__cert_spiffe(const X509 *x, ew_spiffe *ret, ew_error *reterr)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    ew_status st = ew_fail(reterr, EW_ENOENT, "the certificate has no spiffe:// name");
    int n_uri = 0;
    for (int i = 0; names != NULL && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        if (g->type == GEN_URI) {
            n_uri++;
            st = ew_spiffe_parse((const char *)ASN1_STRING_get0_data(g->d.ia5), (size_t)ASN1_STRING_length(g->d.ia5),
                                 ret, reterr);
        }
    }
    GENERAL_NAMES_free(names);
    return n_uri > 1 ? ew_fail(reterr, EW_EINVAL, "the certificate has %d URI names, exactly one is allowed", n_uri)
                     : st;
}

ew_status ew__cert_key_sha256(const X509 *x, uint8_t ret[32], ew_error *reterr)
{
    EVP_PKEY *k = X509_get0_pubkey(x);
    return k != NULL ? spki_sha256(k, ret, reterr) : ew__ssl_fail(reterr, EW_ECORRUPT, "certificate without a key");
}

ew_status ew_cert_info_of(ew_span der, ew_cert_info *ret, ew_error *reterr)
{
    X509 *x = NULL;
    EW_TRY(ew__cert_parse(der, &x, reterr));
    ew_cert_info i = {.is_ca = X509_check_ca(x) > 0};
    ew_error ignored;
    i.has_spiffe = ew__cert_spiffe(x, &i.spiffe, &ignored) == EW_OK;
    ew__cert_serial(x, i.serial);
    i.not_before_unix_ms = ew__asn1_ms(X509_get0_notBefore(x));
    i.not_after_unix_ms = ew__asn1_ms(X509_get0_notAfter(x));
    SHA256(der.data, der.size, i.cert_sha256);
    X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, i.subject_cn, (int)sizeof(i.subject_cn));
    ew_status st = ew__cert_key_sha256(x, i.key_sha256, reterr);
    X509_free(x);
    if (st == EW_OK) {
        *ret = i;
    }
    return st;
}

/* ---- issuing */

static bool add_ext(X509 *x, X509V3_CTX *ctx, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
    bool ok = e != NULL && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

static bool push_name(GENERAL_NAMES *names, int type, const char *text)
{
    GENERAL_NAME *g = NULL;
    unsigned char addr[16];
    if (type == GEN_DNS && (inet_pton(AF_INET, text, addr) == 1 || inet_pton(AF_INET6, text, addr) == 1)) {
        type = GEN_IPADD;
    }
    if (type == GEN_IPADD) {
        g = a2i_GENERAL_NAME(NULL, NULL, NULL, GEN_IPADD, text, 0);
    } else {
        ASN1_IA5STRING *s = ASN1_IA5STRING_new();
        g = GENERAL_NAME_new();
        if (s == NULL || g == NULL || ASN1_STRING_set(s, text, -1) != 1) {
            ASN1_IA5STRING_free(s);
            GENERAL_NAME_free(g);
            return false;
        }
        GENERAL_NAME_set0_value(g, type, s);
    }
    if (g == NULL || sk_GENERAL_NAME_push(names, g) <= 0) {
        GENERAL_NAME_free(g);
        return false;
    }
    return true;
}

static ew_status add_names(X509 *x, const ew_cert_opt *opt, ew_error *reterr)
{
    if (opt->spiffe == NULL && opt->n_dns == 0) {
        return EW_OK;
    }
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    ew_status st = names != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "certificate: out of memory");
    char uri[EW_SPIFFE_DOMAIN_SIZE + EW_SPIFFE_ID_SIZE + 32];
    if (st == EW_OK && opt->spiffe != NULL) {
        st = ew_spiffe_format(opt->spiffe, uri, sizeof(uri), reterr);
        if (st == EW_OK && !push_name(names, GEN_URI, uri)) {
            st = ew__ssl_fail(reterr, EW_EINTERNAL, "certificate: cannot add the name");
        }
    }
    for (size_t i = 0; st == EW_OK && i < opt->n_dns; i++) {
        if (!push_name(names, GEN_DNS, opt->dns[i])) {
            st = ew__ssl_fail(reterr, EW_EINVAL, "certificate: cannot add a host name");
        }
    }
    if (st == EW_OK && X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1) {
        st = ew__ssl_fail(reterr, EW_EINTERNAL, "certificate: cannot add the names");
    }
    GENERAL_NAMES_free(names);
    return st;
}

static bool set_serial(X509 *x, const uint8_t *serial)
{
    uint8_t bytes[16];
    if (serial != NULL) {
        memcpy(bytes, serial, sizeof(bytes));
    } else if (RAND_bytes(bytes, sizeof(bytes)) != 1) {
        return false;
    }
    bytes[0] = (uint8_t)((bytes[0] & 0x7F) | 0x40); /* positive, and always 16 bytes */
    BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
    ASN1_INTEGER *s = n != NULL ? BN_to_ASN1_INTEGER(n, NULL) : NULL;
    bool ok = s != NULL && X509_set_serialNumber(x, s) == 1;
    ASN1_INTEGER_free(s);
    BN_free(n);
    return ok;
}

static bool set_times(X509 *x, const ew_cert_opt *opt)
{
    int64_t back = opt->backdate_s > 0 ? opt->backdate_s : EW_CERT_BACKDATE_S;
    return X509_gmtime_adj(X509_getm_notBefore(x), (long)-back) != NULL &&
           X509_gmtime_adj(X509_getm_notAfter(x), (long)opt->valid_s) != NULL;
}

static bool set_subject(X509 *x, const ew_cert_opt *opt)
{
    X509_NAME *n = X509_get_subject_name(x);
    if (opt->common_name == NULL) {
        return true;
    }
    return X509_NAME_add_entry_by_NID(n, NID_commonName, MBSTRING_UTF8, (const unsigned char *)opt->common_name, -1, -1,
                                      0) == 1;
}

static bool add_usage(X509 *x, X509V3_CTX *ctx, const ew_cert_opt *opt)
{
    const char *eku = opt->server_auth && opt->client_auth ? "serverAuth,clientAuth"
                      : opt->server_auth                   ? "serverAuth"
                      : opt->client_auth                   ? "clientAuth"
                                                           : NULL;
    return add_ext(x, ctx, NID_basic_constraints, opt->ca ? "critical,CA:TRUE" : "critical,CA:FALSE") &&
           add_ext(x, ctx, NID_key_usage, opt->ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
           (eku == NULL || add_ext(x, ctx, NID_ext_key_usage, eku)) &&
           add_ext(x, ctx, NID_subject_key_identifier, "hash") &&
           add_ext(x, ctx, NID_authority_key_identifier, "keyid");
}

/* issuer NULL = self-signed. */
static ew_status issue(EVP_PKEY *subject_key, X509 *issuer, EVP_PKEY *issuer_key, const ew_cert_opt *opt,
                       ew_buf *out_der, ew_error *reterr)
{
    if (opt->valid_s <= 0 || opt->valid_s > 20LL * 366 * 86400) {
        return ew_fail(reterr, EW_EINVAL, "certificate: a life of %lld s is not in (0, 20 years]",
                       (long long)opt->valid_s);
    }
    X509 *x = X509_new();
    unsigned char *der = NULL;
    int n = -1;
    ew_status st = EW_OK;
    if (x == NULL || X509_set_version(x, 2) != 1 || !set_serial(x, opt->serial) || !set_times(x, opt) ||
        !set_subject(x, opt) || X509_set_pubkey(x, subject_key) != 1 ||
        X509_set_issuer_name(x, X509_get_subject_name(issuer != NULL ? issuer : x)) != 1) {
        st = ew__ssl_fail(reterr, EW_EINTERNAL, "certificate: cannot fill it in");
    }
    if (st == EW_OK) {
        X509V3_CTX ctx;
        X509V3_set_ctx(&ctx, issuer != NULL ? issuer : x, x, NULL, NULL, 0);
        st = add_usage(x, &ctx, opt) ? add_names(x, opt, reterr)
                                     : ew__ssl_fail(reterr, EW_EINTERNAL, "certificate: cannot add its usage");
    }
    if (st == EW_OK) {
        n = X509_sign(x, issuer_key, EVP_sha256()) > 0 ? i2d_X509(x, &der) : -1;
        if (n <= 0) {
            st = ew__ssl_fail(reterr, EW_EINTERNAL, "certificate: cannot sign it");
        }
    }
    X509_free(x);
    if (st == EW_OK) {
        ew_buf_add(out_der, der, (size_t)n);
        st = ew_buf_check(out_der, reterr);
    }
    OPENSSL_free(der);
    return st;
}

ew_status ew_cert_self_sign(const ew_pkey *key, const ew_cert_opt *opt, ew_buf *out_der, ew_error *reterr)
{
    return issue(key->k, NULL, key->k, opt, out_der, reterr);
}

ew_status ew_cert_issue(const ew_pkey *ca_key, ew_span ca_der, ew_span csr_der, const ew_cert_opt *opt, ew_buf *out_der,
                        ew_error *reterr)
{
    X509 *ca = NULL;
    X509_REQ *req = NULL;
    ew_status st = ew__cert_parse(ca_der, &ca, reterr);
    if (st == EW_OK) {
        st = csr_parse(csr_der, &req, reterr);
    }
    if (st == EW_OK && X509_check_private_key(ca, ca_key->k) != 1) {
        st = ew__ssl_fail(reterr, EW_EINVAL, "the CA's key does not belong to its certificate");
    }
    if (st == EW_OK) {
        st = issue(X509_REQ_get0_pubkey(req), ca, ca_key->k, opt, out_der, reterr);
    }
    X509_REQ_free(req);
    X509_free(ca);
    return st;
}

static STACK_OF(X509) * stack_of(const ew_span *certs, size_t n)
{
    STACK_OF(X509) *s = sk_X509_new_null();
    for (size_t i = 0; s != NULL && i < n; i++) {
        X509 *x = NULL;
        if (ew__cert_parse(certs[i], &x, NULL) != EW_OK || sk_X509_push(s, x) <= 0) {
            X509_free(x);
            sk_X509_pop_free(s, X509_free);
            return NULL;
        }
    }
    return s;
}

ew_status ew_cert_verify(ew_span leaf_der, const ew_span *chain, size_t n_chain, const ew_span *roots, size_t n_roots,
                         bool as_server, ew_error *reterr)
{
    X509 *leaf = NULL;
    EW_TRY(ew__cert_parse(leaf_der, &leaf, reterr));
    STACK_OF(X509) *mid = stack_of(chain, n_chain);
    STACK_OF(X509) *top = stack_of(roots, n_roots);
    X509_STORE_CTX *v = X509_STORE_CTX_new();
    ew_status st = EW_OK;
    if (mid == NULL || top == NULL || v == NULL || X509_STORE_CTX_init(v, NULL, leaf, mid) != 1) {
        st = ew__ssl_fail(reterr, EW_ECORRUPT, "cannot read the chain");
    } else {
        X509_STORE_CTX_set0_trusted_stack(v, top);
        X509_STORE_CTX_set_default(v, as_server ? "ssl_server" : "ssl_client");
        if (X509_verify_cert(v) != 1) {
            st = ew_fail(reterr, EW_EDENIED, "the certificate is not accepted: %s",
                         X509_verify_cert_error_string(X509_STORE_CTX_get_error(v)));
            ERR_clear_error();
        }
    }
    X509_STORE_CTX_free(v);
    sk_X509_pop_free(mid, X509_free);
    sk_X509_pop_free(top, X509_free);
    X509_free(leaf);
    return st;
}

/* ---- PEM */

ew_status ew_cert_to_pem(ew_span der, ew_buf *out, ew_error *reterr)
{
    X509 *x = NULL;
    EW_TRY(ew__cert_parse(der, &x, reterr));
    BIO *b = BIO_new(BIO_s_mem());
    ew_status st = b != NULL && PEM_write_bio_X509(b, x) == 1
                       ? add_bio(b, out, reterr)
                       : ew__ssl_fail(reterr, EW_EINTERNAL, "cannot write a certificate as PEM");
    BIO_free(b);
    X509_free(x);
    return st;
}

ew_status ew_cert_each_pem(ew_span pem, ew_cert_fn fn, void *ctx, ew_error *reterr)
{
    BIO *b = bio_of(pem);
    size_t n = 0;
    ew_status st = EW_OK;
    while (b != NULL && st == EW_OK) {
        X509 *x = PEM_read_bio_X509(b, NULL, no_password, NULL);
        if (x == NULL) {
            break;
        }
        unsigned char *der = NULL;
        int len = i2d_X509(x, &der);
        st = len > 0 ? fn(ctx, (ew_span){der, (size_t)len}, reterr)
                     : ew__ssl_fail(reterr, EW_ECORRUPT, "cannot encode a certificate");
        OPENSSL_free(der);
        X509_free(x);
        n++;
    }
    ERR_clear_error();
    BIO_free(b);
    if (st == EW_OK && n == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "there is no certificate in the PEM text");
    }
    return st;
}

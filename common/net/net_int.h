/* Inside net/: OpenSSL behind the public headers. */
#ifndef EW_NET_INT_H
#define EW_NET_INT_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "net/x509.h"

/* "what: reason of the last OpenSSL error", which is then cleared. */
ew_status ew__ssl_fail(ew_error *reterr, ew_status code, const char *what);
EVP_PKEY *ew__pkey(const ew_pkey *k); /* borrowed */
ew_status ew__cert_parse(ew_span der, X509 **ret, ew_error *reterr);
uint64_t ew__asn1_ms(const ASN1_TIME *t);
void ew__cert_serial(const X509 *x, char hex[EW_X509_SERIAL_HEX_SIZE]);
/* EW_ENOENT: no URI; EW_EINVAL: more than one, or not of our form. */
ew_status ew__cert_spiffe(const X509 *x, ew_spiffe *ret, ew_error *reterr);
ew_status ew__cert_key_sha256(const X509 *x, uint8_t ret[32], ew_error *reterr);

#endif

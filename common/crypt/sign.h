/* Ed25519 signatures (RFC 8032, pure). Public keys travel as their raw 32 bytes, private keys rest in PEM files (PKCS#8) of mode 0600.
 * Locking: a key may be used from any thread once made. */
#ifndef EW_CRYPT_SIGN_H
#define EW_CRYPT_SIGN_H

#include "base/base.h"
#include "base/status.h"

#define EW_SIGN_PUBLIC_SIZE 32
#define EW_SIGN_SIZE 64

typedef struct ew_sign_key ew_sign_key; /* a private key with its public half */

ew_status ew_sign_key_new(ew_sign_key **ret_key, ew_error *reterr) EW_MUST_CHECK;
void ew_sign_key_free(ew_sign_key **k);
void ew_sign_key_public(const ew_sign_key *k, uint8_t public_key[static EW_SIGN_PUBLIC_SIZE]);
/* Atomic write; EW_EEXIST when path is there: a key is never overwritten. */
ew_status ew_sign_key_write(const ew_sign_key *k, const char *path, ew_error *reterr) EW_MUST_CHECK;
/* Refuses files that others can read (EW_EDENIED) and keys of another kind (EW_EUNSUPPORTED). */
ew_status ew_sign_key_read(const char *path, ew_sign_key **ret_key, ew_error *reterr) EW_MUST_CHECK;

ew_status ew_sign(const ew_sign_key *k, const void *data, size_t size, uint8_t sig[static EW_SIGN_SIZE],
                  ew_error *reterr) EW_MUST_CHECK;
/* True when sig is the signature of exactly these bytes by that key. */
bool ew_sign_verify(const uint8_t public_key[static EW_SIGN_PUBLIC_SIZE], const void *data, size_t size,
                    const uint8_t sig[static EW_SIGN_SIZE]) EW_MUST_CHECK;

#endif

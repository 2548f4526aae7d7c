/* SHA-256, HMAC, HKDF, random bytes, constant-time comparison; all from OpenSSL 3 (EVP). A failure inside OpenSSL that is not
 * bad input (out of memory, no random source) aborts: nothing may go on without it. Locking: any thread; a stream has one owner. */
#ifndef EW_CRYPT_HASH_H
#define EW_CRYPT_HASH_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"

#define EW_SHA256_SIZE 32
#define EW_SHA256_HEX_SIZE 65 /* with the NUL */

void ew_sha256(const void *data, size_t size, uint8_t digest[static EW_SHA256_SIZE]);
/* The digest in lower-case hex; returns hex. */
char *ew_sha256_hex(const void *data, size_t size, char hex[static EW_SHA256_HEX_SIZE]);

typedef struct ew_sha256_stream ew_sha256_stream;
ew_sha256_stream *ew_sha256_stream_new(void); /* never NULL */
void ew_sha256_stream_free(ew_sha256_stream **s);
void ew_sha256_stream_add(ew_sha256_stream *s, const void *data, size_t size);
/* The digest of all that was added; the stream is then empty and may be used again. */
void ew_sha256_stream_end(ew_sha256_stream *s, uint8_t digest[static EW_SHA256_SIZE]);

/* Of a regular file, read in pieces of 1 MiB. *ret_size may be NULL; progress (may be NULL) is told in bytes. */
ew_status ew_sha256_file(const char *path, const ew_progress *progress, uint8_t digest[static EW_SHA256_SIZE],
                         uint64_t *ret_size, ew_error *reterr) EW_MUST_CHECK;

void ew_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size,
                    uint8_t mac[static EW_SHA256_SIZE]);
/* RFC 5869. out_size <= 255 * 32; salt may be empty. */
void ew_hkdf_sha256(ew_span key, ew_span salt, ew_span info, void *out, size_t out_size);

/* From the kernel's generator, for keys, nonces and identifiers. */
void ew_random_bytes(void *dst, size_t size);
/* Time depends on size alone. */
bool ew_equal_secret(const void *a, const void *b, size_t size) EW_MUST_CHECK;
/* Overwrites memory that held a secret in a way that the compiler keeps. */
void ew_wipe(void *p, size_t size);

#endif

/* AES-256-GCM with a random 96-bit nonce in front: sealed = nonce[12] || ciphertext[n] || tag[16] (NIST SP 800-38D).
 * The additional data (what the record is: table, id, version) is authenticated but not stored; the same bytes must be given to open. One key
 * seals at most 2^32 messages. Locking: any thread. */
#ifndef EW_CRYPT_AEAD_H
#define EW_CRYPT_AEAD_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

#define EW_AEAD_KEY_SIZE 32
#define EW_AEAD_OVERHEAD 28 /* nonce and tag */

/* Appends the sealed message to out. */
ew_status ew_aead_seal(const uint8_t key[static EW_AEAD_KEY_SIZE], ew_span aad, ew_span plain, ew_buf *out,
                       ew_error *reterr) EW_MUST_CHECK;
/* Appends the plain text to out, or nothing: EW_ECORRUPT when key, additional data or a single bit differ. */
ew_status ew_aead_open(const uint8_t key[static EW_AEAD_KEY_SIZE], ew_span aad, ew_span sealed, ew_buf *out,
                       ew_error *reterr) EW_MUST_CHECK;

/* A key file: 64 hex digits or exactly 32 raw bytes, a regular file of mode 0600 or stricter (0400 and systemd's credentials, 0440 of
 * a directory only its owner can enter, pass too). make = true creates it (0600) when it is not there. */
ew_status ew_aead_key_file(const char *path, bool make, uint8_t ret_key[static EW_AEAD_KEY_SIZE],
                           ew_error *reterr) EW_MUST_CHECK;

#endif

/* What an artifact is: name, size, hash of the whole and of each segment. Its packed bytes are signed as they are. */
#ifndef EW_DOMAIN_MANIFEST_H
#define EW_DOMAIN_MANIFEST_H

#include "base/base.h"
#include "base/status.h"
#include "domain/trial.h"

#define EW_MANIFEST_SEGMENT_BYTES (4u * 1024 * 1024)
#define EW_MANIFEST_SEGMENTS_MAX 16384u /* 64 GiB */
#define EW_ED25519_SIGNATURE_BYTES 64

typedef struct ew_manifest {
    uint64_t size; /* bytes */
    uint8_t sha256[EW_SHA256_BYTES];
    char name[128];
    char version[64];
    char media_type[64];           /* "application/x-gguf" */
    char variant[EW_VARIANT_SIZE]; /* "q4_0"; "" when it has no meaning */
    bool has_base;
    uint8_t base_sha256[EW_SHA256_BYTES]; /* what it was made from, or what an adapter belongs to */
    uint32_t segment_size;
    uint32_t n_segments;                        /* ceil(size / segment_size) */
    uint8_t (*segment_sha256)[EW_SHA256_BYTES]; /* owned */
} ew_manifest;

/* Zeroed, with room for the hashes of size bytes. EW_ELIMIT, EW_ENOMEM. */
ew_status ew_manifest_new(uint64_t size, uint32_t segment_size, ew_manifest **ret, ew_error *reterr) EW_MUST_CHECK;
void ew_manifest_free(ew_manifest **m);

#endif

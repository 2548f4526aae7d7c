/* The state of a training run as one file: named blocks of memory, a fingerprint of what the run is, a checksum.
 *
 * Replaced atomically, so that a kill at any moment leaves the old state or the new one. Layout, little-endian: "EWCKPT01",
 * kind[16], fingerprint[32], u64 number of blocks; per block name[24], u64 size; then the blocks; SHA-256 of all before it.
 * Byte order and float format are the machine's own: a checkpoint is continued where it was made. */
#ifndef EW_TRAIN_CHECKPOINT_H
#define EW_TRAIN_CHECKPOINT_H

#include "base/base.h"
#include "base/status.h"
#include "crypt/hash.h"

typedef struct ew_checkpoint_block {
    const char *name; /* at most 23 bytes */
    void *data;       /* read by save, written by load */
    size_t size;      /* bytes */
} ew_checkpoint_block;

/* kind: at most 15 bytes ("pretrain"). fingerprint: of everything that determines the run. */
ew_status ew_checkpoint_save(const char *path, const char *kind, const uint8_t fingerprint[static EW_SHA256_SIZE],
                             const ew_checkpoint_block *blocks, size_t n, ew_error *reterr) EW_MUST_CHECK;
/* Fills the blocks, all or none. EW_ENOENT; EW_ECORRUPT; EW_ECONFLICT when kind, fingerprint or sizes are another run's. */
ew_status ew_checkpoint_load(const char *path, const char *kind, const uint8_t fingerprint[static EW_SHA256_SIZE],
                             const ew_checkpoint_block *blocks, size_t n, ew_error *reterr) EW_MUST_CHECK;

#endif

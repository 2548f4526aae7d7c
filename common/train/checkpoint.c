#include "train/checkpoint.h"

#include <string.h>

#include "sys/file.h"

#define MAGIC "EWCKPT01"
#define KIND_BYTES 16
#define NAME_BYTES 24

typedef struct header {
    char magic[8];
    char kind[KIND_BYTES];
    uint8_t fingerprint[EW_SHA256_SIZE];
    uint64_t n;
} header;

typedef struct entry {
    char name[NAME_BYTES];
    uint64_t size;
} entry;

_Static_assert(sizeof(header) == 64 && sizeof(entry) == 32, "checkpoint records have no padding");

static void fill_header(header *h, const char *kind, const uint8_t *fingerprint, size_t n)
{
    memset(h, 0, sizeof(*h));
    memcpy(h->magic, MAGIC, sizeof(h->magic));
    memcpy(h->kind, kind, EW_MIN(strlen(kind), (size_t)KIND_BYTES - 1));
    memcpy(h->fingerprint, fingerprint, EW_SHA256_SIZE);
    h->n = n;
}

static void fill_entry(entry *en, const ew_checkpoint_block *b)
{
    memset(en, 0, sizeof(*en));
    memcpy(en->name, b->name, EW_MIN(strlen(b->name), (size_t)NAME_BYTES - 1));
    en->size = b->size;
}

static ew_status put(ew_file_writer *w, ew_sha256_stream *sha, const void *data, size_t size, ew_error *reterr)
{
    ew_sha256_stream_add(sha, data, size);
    return ew_file_writer_write(w, data, size, reterr);
}

ew_status ew_checkpoint_save(const char *path, const char *kind, const uint8_t fingerprint[static EW_SHA256_SIZE],
                             const ew_checkpoint_block *blocks, size_t n, ew_error *reterr)
{
    EW_AUTO(ew_file_writer) w = NULL;
    EW_AUTO(ew_sha256_stream) sha = ew_sha256_stream_new();
    EW_TRY(ew_file_writer_open(path, 0600, &w, reterr));
    header h;
    fill_header(&h, kind, fingerprint, n);
    EW_TRY(put(w, sha, &h, sizeof(h), reterr));
    for (size_t i = 0; i < n; i++) {
        entry en;
        fill_entry(&en, &blocks[i]);
        EW_TRY(put(w, sha, &en, sizeof(en), reterr));
    }
    for (size_t i = 0; i < n; i++) {
        EW_TRY(put(w, sha, blocks[i].data, blocks[i].size, reterr));
    }
    uint8_t digest[EW_SHA256_SIZE];
    ew_sha256_stream_end(sha, digest);
    EW_TRY(ew_file_writer_write(w, digest, sizeof(digest), reterr));
    return ew_file_writer_commit(w, reterr);
}

ew_status ew_checkpoint_load(const char *path, const char *kind, const uint8_t fingerprint[static EW_SHA256_SIZE],
                             const ew_checkpoint_block *blocks, size_t n, ew_error *reterr)
{
    EW_AUTO(ew_file_map) map = NULL;
    EW_TRY(ew_file_map_open(path, &map, reterr));
    const unsigned char *p = ew_file_map_data(map);
    const size_t size = ew_file_map_size(map);
    if (size < sizeof(header) + EW_SHA256_SIZE || memcmp(p, MAGIC, 8) != 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not a training checkpoint. HINT: remove it to start anew", path);
    }
    uint8_t digest[EW_SHA256_SIZE];
    ew_sha256(p, size - EW_SHA256_SIZE, digest);
    if (memcmp(digest, p + size - EW_SHA256_SIZE, EW_SHA256_SIZE) != 0) {
        return ew_fail(reterr, EW_ECORRUPT, "checkpoint %s is damaged (checksum). HINT: remove it to start anew", path);
    }
    header h;
    fill_header(&h, kind, fingerprint, n);
    size_t at = sizeof(header) + n * sizeof(entry);
    bool same = memcmp(&h, p, sizeof(h)) == 0 && at + EW_SHA256_SIZE <= size;
    for (size_t i = 0; same && i < n; i++) {
        entry en;
        fill_entry(&en, &blocks[i]);
        same = memcmp(&en, p + sizeof(header) + i * sizeof(entry), sizeof(en)) == 0 &&
               blocks[i].size <= size - EW_SHA256_SIZE - at;
        at += blocks[i].size;
    }
    if (!same || at + EW_SHA256_SIZE != size) {
        return ew_fail(reterr, EW_ECONFLICT,
                       "checkpoint %s belongs to another run (other options, data or model). HINT: continue that run "
                       "with its own options, or remove the file to start anew",
                       path);
    }
    at = sizeof(header) + n * sizeof(entry);
    for (size_t i = 0; i < n; i++) {
        memcpy(blocks[i].data, p + at, blocks[i].size);
        at += blocks[i].size;
    }
    return EW_OK;
}

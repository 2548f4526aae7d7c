#include "domain/manifest.h"

#include "base/mem.h"

ew_status ew_manifest_new(uint64_t size, uint32_t segment_size, ew_manifest **ret, ew_error *reterr)
{
    if (segment_size == 0 || segment_size > (1u << 30)) {
        return ew_fail(reterr, EW_EINVAL, "manifest: segment size %u is not in 1..2^30", segment_size);
    }
    uint64_t n = size / segment_size + (size % segment_size != 0);
    if (n > EW_MANIFEST_SEGMENTS_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "manifest: %llu bytes are more than %u segments of %u bytes",
                       (unsigned long long)size, EW_MANIFEST_SEGMENTS_MAX, segment_size);
    }
    ew_manifest *m = ew_calloc(1, sizeof(*m));
    if (m != NULL) {
        m->segment_sha256 = ew_calloc(n + 1, EW_SHA256_BYTES);
    }
    if (m == NULL || m->segment_sha256 == NULL) {
        ew_manifest_free(&m);
        return ew_fail(reterr, EW_ENOMEM, "manifest: out of memory for %llu segments", (unsigned long long)n);
    }
    m->size = size;
    m->segment_size = segment_size;
    m->n_segments = (uint32_t)n;
    *ret = m;
    return EW_OK;
}

void ew_manifest_free(ew_manifest **m)
{
    if (m != NULL && *m != NULL) {
        ew_free((*m)->segment_sha256);
        ew_free(*m);
        *m = NULL;
    }
}

/* The manifest of a file that is to be published. */
#ifndef EW_SESSION_ARTIFACT_H
#define EW_SESSION_ARTIFACT_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "domain/manifest.h"

/* Size, hash of the whole and of each segment (segment_size 0 = 4 MiB). The caller fills in the names, packs it
 * (ew_wire_pack_manifest) and has those bytes signed. */
ew_status ew_manifest_of_file(const char *path, uint32_t segment_size, const ew_progress *progress, ew_manifest **ret,
                              ew_error *reterr) EW_MUST_CHECK;

#endif

/* Hidden states as bytes on a link: f32 or f16, little-endian, row after row.
 * Locking: pure. */
#ifndef EW_SPLIT_ACTIVATION_H
#define EW_SPLIT_ACTIVATION_H

#include "base/base.h"
#include "base/status.h"

typedef enum ew_activation {
    EW_ACTIVATION_F32, /* exact */
    EW_ACTIVATION_F16  /* half the bytes; values beyond 65504 saturate */
} ew_activation;

size_t ew_activation_bytes(ew_activation a); /* of one element: 4, 2 */
/* x[n] to dst[n * bytes]. */
void ew_activation_encode(ew_activation a, const float *x, size_t n, void *dst);
/* src[n * bytes] to x[n]. EW_ECORRUPT for a value that is not finite: x is then undefined. */
ew_status ew_activation_decode(ew_activation a, const void *src, size_t n, float *x, ew_error *reterr) EW_MUST_CHECK;

#endif

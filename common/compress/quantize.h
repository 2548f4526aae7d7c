/* Round-to-nearest quantisation of a GGUF file, streamed: a few MiB of memory whatever the model's size.
 *
 * Works on any architecture whose tensors are F32, F16, BF16, Q8_0 or Q4_0; every key is copied. The rules are those of
 * DESIGN section 8 and llama-quantize:
 *   tensors of one dimension and norms   F32
 *   rows that the block does not divide  F16
 *   output.weight                        Q8_0 when the target is Q4_0 and the head is its own tensor (llama-quantize: Q6_K)
 *   everything else, token_embd too      the target
 * The result is what stock llama.cpp runs. Locking: pure function; one call owns the pool while it runs. */
#ifndef EW_COMPRESS_QUANTIZE_H
#define EW_COMPRESS_QUANTIZE_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "kern/kern.h"

typedef struct ew_quantize_opt {
    ew_dtype target;      /* F32, F16, BF16, Q8_0 or Q4_0 */
    bool pure;            /* output.weight gets the target as well */
    ew_pool *pool;        /* NULL = serial */
    ew_progress progress; /* unit "B" of the source's tensors */
} ew_quantize_opt;

typedef struct ew_quantize_report {
    uint64_t bytes_in, bytes_out;       /* of tensor data */
    uint32_t n_tensors, n_fallback_f16; /* tensors; those that became F16 because no block fits */
    double rmse;                        /* root mean square of (result - source) over all converted elements */
} ew_quantize_report;

/* Writes out (atomically; may be in itself). ret_report may be NULL. EW_EUNSUPPORTED when in holds types that cannot be read
 * as numbers (K quants), EW_ECANCELLED by the progress callback, EW_EIO, EW_ENOSPC, EW_ENOMEM. */
ew_status ew_quantize_file(const char *in, const char *out, const ew_quantize_opt *opt, ew_quantize_report *ret_report,
                           ew_error *reterr) EW_MUST_CHECK;

#endif

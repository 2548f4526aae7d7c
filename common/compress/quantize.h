/* Quantisation of a model to a GGUF file, streamed: a few MiB of memory whatever the model's size, all threads of the pool at work.
 *
 * From a GGUF file of any architecture whose matrices can be computed with (dtype.h); every key is copied. Which tensor gets which
 * type: format/mix.h, the rules of llama-quantize; the bytes are llama-quantize's too, and stock llama.cpp runs the result.
 * From a Hugging Face directory the weights are first written as they are to a file beside the result (as large as the model)
 * and quantised from there, unless the type is F32, F16 or BF16: those are converted in one pass.
 * Locking: pure functions; one call owns the pool while it runs. */
#ifndef EW_COMPRESS_QUANTIZE_H
#define EW_COMPRESS_QUANTIZE_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "format/mix.h"
#include "kern/kern.h"

typedef struct ew_quantize_opt {
    ew_mix mix;
    bool pure;            /* every matrix gets the mix's main type */
    const char *name;     /* general.name of the result; NULL = the model's */
    ew_pool *pool;        /* NULL = serial */
    ew_progress progress; /* unit "B" of the source's tensors */
} ew_quantize_opt;

typedef struct ew_quantize_report {
    uint64_t bytes_in, bytes_out; /* of tensor data */
    uint32_t n_tensors;
    uint32_t n_fallback;     /* matrices whose rows the main type's block does not divide */
    uint32_t n_fallback_f16; /* of those, the ones that became F16 */
    double rmse;             /* root mean square of (result - source) over all converted elements */
} ew_quantize_report;

/* Writes out (atomically; may be in itself). ret_report may be NULL. EW_EUNSUPPORTED when a matrix to convert is of a type that
 * cannot be read as numbers, EW_ECORRUPT when a tensor holds values that are not finite or too large for its new type, both
 * with its name; EW_ECANCELLED by the progress callback, EW_EIO, EW_ENOSPC, EW_ENOMEM. */
ew_status ew_quantize_file(const char *in, const char *out, const ew_quantize_opt *opt, ew_quantize_report *ret_report,
                           ew_error *reterr) EW_MUST_CHECK;
/* The same from a GGUF file or a Hugging Face directory. The report of a directory that took one pass holds zeros. */
ew_status ew_quantize_model(const char *in, const char *out, const ew_quantize_opt *opt, ew_quantize_report *ret_report,
                            ew_error *reterr) EW_MUST_CHECK;

#endif

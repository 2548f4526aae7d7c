/* How the signer is asked: one request, one answer, over a UNIX stream socket. Both ends use this file.
 *
 *   u32be length | u8 code | n fields of (u32be length | bytes)
 *
 * A request's code is an ew_signer_op, an answer's is 0 (ok; fields as listed) or the negated ew_status with one field, the
 * message. length counts what follows it and is at most EW_SIGNER_FRAME_MAX.
 * Locking: one owning thread. */
#ifndef EW_SIGNER_IPC_H
#define EW_SIGNER_IPC_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

#define EW_SIGNER_FRAME_MAX (512u * 1024)
#define EW_SIGNER_FIELDS_MAX 8u

typedef enum ew_signer_op {
    EW_SIGNER_INFO = 1,     /* -> CA certificate (DER), artifact key (32), domain, coordinator id */
    EW_SIGNER_DEVICE = 2,   /* csr, device id, seconds (decimal; "" = default) -> certificate (DER) */
    EW_SIGNER_SERVER = 3,   /* csr -> certificate (DER) for the coordinator names fixed at init */
    EW_SIGNER_MANIFEST = 4, /* packed Manifest -> signature (64) */
    EW_SIGNER_PLAN = 5      /* packed Plan -> signature (64) */
} ew_signer_op;

typedef struct ew_signer_frame {
    uint8_t code;
    size_t n;
    ew_span field[EW_SIGNER_FIELDS_MAX]; /* borrowed from the buffer that was parsed */
} ew_signer_frame;

/* Appends a whole frame. EW_ELIMIT. */
ew_status ew_signer_frame_add(const ew_signer_frame *f, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* body: what follows the length. EW_ECORRUPT. */
ew_status ew_signer_frame_parse(ew_span body, ew_signer_frame *ret_frame, ew_error *reterr) EW_MUST_CHECK;
/* Reads one frame's body into buf (cleared first). EW_EREMOTE when the other side closed. */
ew_status ew_signer_frame_recv(int fd, int timeout_ms, ew_buf *buf, ew_error *reterr) EW_MUST_CHECK;

#endif

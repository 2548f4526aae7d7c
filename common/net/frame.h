/* Frames:  u32be len | u8 ver=1 | u24be env_len | envelope (env_len bytes) | body (len - env_len bytes).
 *
 * The decoder takes any split of the byte stream and gives whole frames. Its memory grows only with bytes received (at most twice
 * as many plus a page). An error is fatal: the stream cannot be resynchronised. Locking: one owning thread. */
#ifndef EW_NET_FRAME_H
#define EW_NET_FRAME_H

#include "base/base.h"
#include "base/status.h"

#define EW_FRAME_HEADER_BYTES 8
#define EW_FRAME_VERSION 1

/* A whole frame in memory of its own. */
typedef struct ew_frame {
    size_t wire_bytes; /* header included: what flow control counts */
    ew_span envelope;
    ew_span body;        /* data is 16-byte aligned */
    unsigned char mem[]; /* private */
} ew_frame;

typedef struct ew_frame_decoder {
    size_t max_bytes;                            /* the limit of len */
    unsigned char header[EW_FRAME_HEADER_BYTES]; /* as far as received */
    size_t n_header;
    unsigned char *mem; /* the frame being received, or NULL */
    size_t cap, env_len, body_len, got;
    bool failed;
} ew_frame_decoder;

void ew_frame_decoder_init(ew_frame_decoder *d, size_t max_bytes);
void ew_frame_decoder_release(ew_frame_decoder *d);
/* Takes bytes from *data until a frame is whole or they are used up; advances *data. *ret_frame is NULL or a frame to be freed with
 * ew_frame_free. Call again while data is left. EW_ECORRUPT, EW_ELIMIT (too long), EW_ENOMEM. */
ew_status ew_frame_decode(ew_frame_decoder *d, ew_span *data, ew_frame **ret_frame, ew_error *reterr) EW_MUST_CHECK;
void ew_frame_free(ew_frame **f);
/* Bytes of memory that the decoder holds. */
size_t ew_frame_decoder_memory(const ew_frame_decoder *d);

/* The 8 bytes before an envelope. */
void ew_frame_header(unsigned char dst[EW_FRAME_HEADER_BYTES], size_t env_len, size_t body_len);

#endif

/* Between messages as C structs and bytes. The only module that sees protobuf.
 *
 * A frame on the wire is   u32be len | u8 ver=1 | u24be env_len | Envelope (protobuf) | body   (net/frame.h).
 * This module makes and reads the Envelope, checks every limit of what came in, and packs the two things that are signed as
 * opaque bytes (manifest, plan). What was received is never packed again: forward the bytes.
 * Unpacking uses a capped allocator: at most 16 times the bytes received plus 4 KiB, and never over 4 MiB.
 * Locking: no state; callable from any thread. */
#ifndef EW_WIRE_WIRE_H
#define EW_WIRE_WIRE_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "domain/manifest.h"
#include "domain/msg.h"
#include "domain/plan.h"

/* Appends the Envelope of msg to out. EW_EINVAL when msg breaks a limit of the protocol (so that our own mistakes show at
 * the sender), EW_ELIMIT past 64 KiB. */
ew_status ew_wire_pack(const ew_msg *msg, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;

/* Reads one Envelope. body is that of the frame: slices into it are checked, its content only as far as scales are finite.
 * Fills *ret (whole; release with ew_msg_release). EW_ECORRUPT: not a valid Envelope; EW_EINVAL: valid, but a limit is broken;
 * EW_ELIMIT: the allocation cap; EW_EUNSUPPORTED: a payload that this build does not know (header fields of *ret are set).
 * *ret holds no memory after a failure. */
ew_status ew_wire_unpack(ew_span envelope, ew_span body, ew_msg *ret, ew_error *reterr) EW_MUST_CHECK;

/* The top level of an Envelope without unpacking or allocating: what routing and flow control need. */
typedef struct ew_wire_header {
    uint64_t msg_id;
    uint64_t reply_to;
    uint32_t deadline_ms;
    uint32_t attempt;
    uint32_t stream_id;
    uint32_t payload; /* field number of the payload; 0 = none. The last one wins, as in protobuf. */
    bool last;
    bool has_idem_key;
    uint8_t idem_key[EW_IDEM_BYTES];
} ew_wire_header;
/* EW_ECORRUPT for bytes that are no protobuf message, field number 0, a known field with another wire type, or an
 * idem_key of another length than 16. */
ew_status ew_wire_walk(ew_span envelope, ew_wire_header *ret, ew_error *reterr) EW_MUST_CHECK;

/* As ew_wire_pack, with the header fields of h instead of those of msg (trace_id and payload stay those of msg). */
ew_status ew_wire_pack_as(const ew_msg *msg, const ew_wire_header *h, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;

/* The opaque bodies. Verify the signature over the bytes before you unpack them. */
ew_status ew_wire_pack_manifest(const ew_manifest *m, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_unpack_manifest(ew_span bytes, ew_manifest **ret, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_pack_plan(const ew_plan *p, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* *ret is freed with ew_free. */
ew_status ew_wire_unpack_plan(ew_span bytes, ew_plan **ret, ew_error *reterr) EW_MUST_CHECK;

/* A trial's specification and result as bytes, for a store (the same schema as on the wire). */
ew_status ew_wire_pack_trial_spec(const ew_trial_spec *s, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_unpack_trial_spec(ew_span bytes, ew_trial_spec *ret, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_pack_trial_result(const ew_trial_result *r, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_unpack_trial_result(ew_span bytes, ew_trial_result *ret, ew_error *reterr) EW_MUST_CHECK;
/* Capabilities, likewise. */
ew_status ew_wire_pack_caps(const ew_device_caps *c, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_wire_unpack_caps(ew_span bytes, ew_device_caps *ret, ew_error *reterr) EW_MUST_CHECK;

#endif

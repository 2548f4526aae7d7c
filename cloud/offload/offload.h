/* Heavy layers on request: KV sessions of devices that run layers [a, b) here.
 *
 * A KV session belongs to the device whose certificate opened it; another device's is EW_EDENIED. Positions: a step at or before the session's position
 * goes back to it (the device rewound), a later one is EW_ECONFLICT with the position in the message, and the device replays from there. (session, step)
 * is the idempotency key: a repeated step returns the same bytes. Memory is freed when the lease has run out without a step, when the device closes, or when its
 * quota is needed for a new session (its oldest goes).
 * Locking: every function may be called from any thread; steps of one session are serialised. */
#ifndef EW_OFFLOAD_OFFLOAD_H
#define EW_OFFLOAD_OFFLOAD_H

#include "base/buf.h"
#include "base/status.h"
#include "domain/msg.h"
#include "kern/kern.h"
#include "model/model.h"

typedef struct ew_offload ew_offload;

typedef struct ew_offload_opt {
    ew_exec exec;              /* fast kernels; pool NULL = serial per session */
    uint32_t max_sessions;     /* 0 = 256 */
    uint32_t per_device;       /* 0 = 4 */
    uint64_t per_device_bytes; /* of caches, 0 = 256 MiB */
    uint64_t total_bytes;      /* of all caches, 0 = 1 GiB */
    uint32_t lease_ms;         /* 0 = 60000 */
} ew_offload_opt;

ew_status ew_offload_new(const ew_offload_opt *opt, ew_offload **ret_offload, ew_error *reterr) EW_MUST_CHECK;
void ew_offload_free(ew_offload **o);

/* model: what req->model_sha256 names, opened by the caller; a reference is taken. req->kv_session != 0 resumes one that is still there, else EW_ENOENT. */
ew_status ew_offload_open(ew_offload *o, const char *device_id, ew_model *model, const ew_msg_offload_open *req,
                          ew_msg_offload_opened *ret_opened, ew_error *reterr) EW_MUST_CHECK;
/* body: the frame's raw bytes with the activations. ret_body gets the output's. EW_ENOENT: no such session (lease ran out). */
ew_status ew_offload_forward(ew_offload *o, const char *device_id, const ew_msg_offload_forward *req, ew_span body,
                             ew_msg_offload_output *ret_output, ew_buf *ret_body, ew_error *reterr) EW_MUST_CHECK;
/* Idempotent. */
void ew_offload_close(ew_offload *o, const char *device_id, const ew_msg_offload_close *req);
/* Frees sessions whose lease has run out; called every few seconds. */
void ew_offload_sweep(ew_offload *o);
/* All sessions of a device (revoked, gone). */
void ew_offload_drop_device(ew_offload *o, const char *device_id);

typedef struct ew_offload_stats {
    uint32_t sessions;
    uint64_t bytes; /* of caches */
    uint64_t steps, tok;
} ew_offload_stats;
void ew_offload_get_stats(ew_offload *o, ew_offload_stats *ret_stats);

#endif

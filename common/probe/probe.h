/* What this machine is and does, by measurement: processor, memory, and the speed of whole passes of the engine and the trainer.
 *
 * The rates (names in probe/cost.h) come from two synthetic decoders (d_model 128 and 256, random weights) in each weight type that devices get:
 * forward of prompts, token by token, and LoRA steps; each is timed several times and the fastest taken. Besides: "read" GB/s (linear read of
 * 64 MiB), "process.base" B (resident bytes of this process before anything was loaded). Takes a few seconds; a device runs it once per
 * software version and keeps the answer.
 * Locking: one call at a time; uses exec's pool. */
#ifndef EW_PROBE_PROBE_H
#define EW_PROBE_PROBE_H

#include "base/progress.h"
#include "base/status.h"
#include "domain/device.h"
#include "kern/kern.h"

typedef struct ew_probe_opt {
    ew_exec exec;
    const char *device_class; /* the operator's word, NULL = none */
    const char *disk_path;    /* where artifacts are kept: its size is reported */
    const char *temp_dir;     /* for the synthetic models; removed again */
    ew_progress progress;
} ew_probe_opt;

/* EW_EIO (temp_dir), EW_ENOMEM, EW_ECANCELLED. */
ew_status ew_probe_run(const ew_probe_opt *opt, ew_device_caps *ret_caps, ew_error *reterr) EW_MUST_CHECK;

/* The present state: memory, disk, power. link_* and consents are left zero. */
void ew_probe_state(const char *disk_path, uint64_t memory_limit_bytes, ew_device_state *ret_state);

#endif

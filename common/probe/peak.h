/* The two limits that inference runs into: how fast memory is read, and how fast the integer units multiply.
 * Measured, each in well under a second; the best of a few rounds, since other programs only ever make it slower.
 * Locking: one call at a time; uses the pool's threads. */
#ifndef EW_PROBE_PEAK_H
#define EW_PROBE_PEAK_H

#include "base/base.h"
#include "base/status.h"
#include "sys/pool.h"

/* Linear reads of 256 MiB, every thread its own parts, in bytes per second. EW_ENOMEM. */
ew_status ew_peak_read(ew_pool *pool, double *ret_bytes_per_s, ew_error *reterr) EW_MUST_CHECK;

/* 8-bit multiply-adds on registers with the best instruction of this processor that the kernels use (vpdpbusd of AVX-512 VNNI,
 * vpmaddubsw of AVX2, SMMLA, SDOT), in operations (a multiplication and an addition are two) per second, all threads together.
 * 0 where this build knows no such instruction. */
double ew_peak_int8(ew_pool *pool);

#endif

/* What a device is (capabilities: stable) and what it is right now (state). Plain values, no I/O, no ownership.
 * Sizes are part of the protocol's limits: longer strings and lists are refused where they come in. */
#ifndef EW_DOMAIN_DEVICE_H
#define EW_DOMAIN_DEVICE_H

#include "base/base.h"

#define EW_DEVICE_ID_SIZE 65 /* [a-z0-9-]{1,64} and NUL */
#define EW_CAPS_ISA_MAX 32
#define EW_CAPS_ACCEL_MAX 8
#define EW_CAPS_DTYPES_MAX 16
#define EW_CAPS_FEATURES_MAX 32
#define EW_CAPS_RATES_MAX 48

typedef struct ew_rate {
    char name[64]; /* "read", "gemm-f32", "prefill", … as the probe names them */
    char unit[16]; /* "GB/s", "GFLOP/s", "tok/s" */
    double value;
    double spread; /* half of the interquartile range, same unit */
    uint64_t measured_unix_ms;
} ew_rate;

typedef struct ew_accelerator {
    char kind[32];
    char model[64];
    char driver[32];
    uint64_t mem_bytes;
} ew_accelerator;

typedef struct ew_device_caps {
    char arch[16];         /* "x86_64", "aarch64" */
    char device_class[64]; /* operator's word, "pi5-8g" */
    uint32_t cores;
    uint64_t ram_bytes;
    uint64_t disk_bytes;
    uint32_t n_isa;
    char isa[EW_CAPS_ISA_MAX][16]; /* "avx2", "f16c", … */
    uint32_t n_accelerators;
    ew_accelerator accelerators[EW_CAPS_ACCEL_MAX];
    uint32_t n_dtypes;
    char dtypes[EW_CAPS_DTYPES_MAX][16]; /* weight types it computes with: "f16", "q4_0", … */
    uint32_t n_features;
    char features[EW_CAPS_FEATURES_MAX][32]; /* "offload.fwd", … */
    uint32_t n_rates;
    ew_rate rates[EW_CAPS_RATES_MAX]; /* measured by the probe */
} ew_device_caps;

/* Bits of ew_device_state.consents. */
#define EW_CONSENT_OFFLOAD 1u

typedef struct ew_device_state {
    uint64_t ram_available_bytes;
    uint64_t disk_free_bytes;
    uint64_t memory_limit_bytes; /* what the agent keeps to; 0 = no limit set */
    double battery;              /* 0..1; negative = no battery */
    double temperature_c;        /* NAN = not known */
    double link_rtt_ms;          /* 0 = not measured */
    double link_mbps;            /* 0 = not measured */
    bool on_mains;
    bool metered;
    uint32_t consents;
} ew_device_state;

/* The rate of that name, or NULL. */
const ew_rate *ew_caps_rate(const ew_device_caps *caps, const char *name);
/* Is a string of isa[] (or features[]) present? */
bool ew_caps_has_isa(const ew_device_caps *caps, const char *isa);
bool ew_caps_has_feature(const ew_device_caps *caps, const char *feature);
/* [a-z0-9-]{1,64} */
bool ew_device_id_valid(const char *id);

#endif

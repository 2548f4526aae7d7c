/* A daemon's configuration as one table: it drives parsing, checking, --help, --print-config and the example file.
 *
 * Precedence: defaults < file (flat YAML mapping "name: value") < environment ("EW_" + name in capitals) < command line. The environment
 * reaches this module only as the array that main passes in. An unknown key is an error that names the nearest one.
 *
 *   struct conf { char *listen; int64_t port; uint64_t memory; bool offload; };
 *   static const ew_config_key keys[] = {
 *       {"listen", EW_CONFIG_STRING, offsetof(struct conf, listen), "127.0.0.1", .help = "address to listen on"},
 *       {"port", EW_CONFIG_I64, offsetof(struct conf, port), "7443", .min = 0, .max = 65535, .help = "TCP port"},
 *       {"memory-limit", EW_CONFIG_BYTES, offsetof(struct conf, memory), "0", .help = "0 = none"}};
 *
 * Names are lower-case words joined by "-"; in YAML and the environment "_" is accepted and meant for "-".
 * Locking: one owning thread. */
#ifndef EW_SYS_CONFIG_H
#define EW_SYS_CONFIG_H

#include <stdio.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

typedef enum ew_config_type {
    EW_CONFIG_STRING, /* char *, owned by the config object; "" is allowed */
    EW_CONFIG_BOOL,   /* bool: true/false, yes/no, on/off, 1/0 */
    EW_CONFIG_I64,    /* int64_t in [min, max]; min == max == 0 means any */
    EW_CONFIG_F64,    /* double in [min, max], likewise */
    EW_CONFIG_BYTES,  /* uint64_t: "512", "64K", "1.5G" */
    EW_CONFIG_SECONDS /* double: "90", "30s", "5m", "2h", "1d" */
} ew_config_type;

typedef struct ew_config_key {
    const char *name;
    ew_config_type type;
    size_t offset;   /* of the field in the struct */
    const char *def; /* default as text; NULL = must be given */
    double min, max;
    const char *help; /* one line */
} ew_config_key;

typedef enum ew_config_origin {
    EW_CONFIG_DEFAULT,
    EW_CONFIG_FILE,
    EW_CONFIG_ENVIRONMENT,
    EW_CONFIG_COMMAND_LINE
} ew_config_origin;

typedef struct ew_config ew_config;

/* target is the caller's struct; its fields are set to the defaults. The table must outlive the object. */
ew_status ew_config_new(const ew_config_key *keys, size_t n_keys, void *target, ew_config **ret_config,
                        ew_error *reterr) EW_MUST_CHECK;
/* Frees the strings in target too. */
void ew_config_free(ew_config **c);
/* A missing file is EW_ENOENT (the caller knows whether it was asked for). Values of lower precedence never overwrite. */
ew_status ew_config_load_file(ew_config *c, const char *path, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_config_load_yaml(ew_config *c, const char *name, const void *text, size_t size,
                              ew_error *reterr) EW_MUST_CHECK;
/* envp as main gets it. Only "EW_" variables that name a key are taken; others are left alone. */
ew_status ew_config_load_env(ew_config *c, char *const *envp, ew_error *reterr) EW_MUST_CHECK;
/* One "name" and "value" from the command line (`--set name=value` or an option). */
ew_status ew_config_set(ew_config *c, const char *name, const char *value, ew_error *reterr) EW_MUST_CHECK;
/* Keys without default that nobody gave are EW_EINVAL. */
ew_status ew_config_check(const ew_config *c, ew_error *reterr) EW_MUST_CHECK;
ew_config_origin ew_config_origin_of(const ew_config *c, const char *name);
/* "name: value   # origin" per key: valid YAML that load_file reads back. */
void ew_config_print(const ew_config *c, ew_buf *out);
/* An example file: help as comments, defaults commented out. */
void ew_config_print_example(const ew_config_key *keys, size_t n_keys, ew_buf *out);

/* The candidate nearest to word (edit distance at most 1 + length / 3), or NULL: for "did you mean". */
const char *ew_nearest(const char *word, const char *const *candidates, size_t n);

#endif

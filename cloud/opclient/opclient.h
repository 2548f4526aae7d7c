/* The operator's end of the wire: one connection, verbs with JSON in and out.
 *
 * A bundle is the directory that `edgewise-coordinator init` (or `edgewise-signer operator`) made: identity.pem, ca.pem, and the
 * endpoint, which is looked for in the file `endpoint` of the bundle and then in ../run/endpoint (the coordinator's own directory).
 * Locking: one owning thread. */
#ifndef EW_OPCLIENT_OPCLIENT_H
#define EW_OPCLIENT_OPCLIENT_H

#include <jansson.h>

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "session/client.h"

typedef struct ew_opclient ew_opclient;

/* Connects. endpoint NULL = as the bundle says. EW_ENOENT: no bundle; EW_EREMOTE: the coordinator does not answer. */
ew_status ew_opclient_open(const char *bundle_dir, const char *endpoint, ew_opclient **ret_client,
                           ew_error *reterr) EW_MUST_CHECK;
void ew_opclient_free(ew_opclient **c);

/* One verb. in NULL = {}; *ret_out (may be NULL) is the caller's. Retried over lost connections with one idempotency key. */
ew_status ew_opclient_call(ew_opclient *c, const char *verb, const json_t *in, json_t **ret_out,
                           ew_error *reterr) EW_MUST_CHECK;
/* With raw bytes after the JSON. timeout_ms 0 = 30 s. */
ew_status ew_opclient_call_raw(ew_opclient *c, const char *verb, const json_t *in, ew_span raw, uint32_t timeout_ms,
                               json_t **ret_out, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_publish_opt {
    const char *path;    /* GGUF file */
    const char *name;    /* "deb-tiny" */
    const char *version; /* "1" */
    const char *variant; /* "q8_0" */
    double score;        /* NAN = not known */
    ew_progress progress;
} ew_publish_opt;
/* Uploads (goes on where an earlier try stopped) and publishes. *ret_sha256 may be NULL. */
ew_status ew_opclient_publish(ew_opclient *c, const ew_publish_opt *opt, uint8_t *ret_sha256 /* [32] */,
                              ew_error *reterr) EW_MUST_CHECK;

#endif

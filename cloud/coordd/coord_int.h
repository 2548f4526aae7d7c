/* What the coordinator's files share. */
#ifndef EW_COORDD_COORD_INT_H
#define EW_COORDD_COORD_INT_H

#include <jansson.h>
#include <pthread.h>

#include "base/buf.h"
#include "base/map.h"
#include "coordd/coord.h"
#include "coordd/store.h"
#include "model/model.h"
#include "offload/offload.h"
#include "planner/planner.h"
#include "registry/registry.h"
#include "session/server.h"
#include "signer/client.h"

#define EW__QUEUE_TRIAL "trial"

typedef struct ew__coord {
    const ew_coord_conf *conf;
    ew_store *store;
    ew_signer_client *signer;
    ew_signer_info info;
    char key_id[65];
    char artifacts[4096];            /* directory */
    char endpoint[EW_ENDPOINT_SIZE]; /* what tokens and devices are told */
    uint8_t ca_sha256[32];
    uint64_t server_cert_until_ms; /* renewed at half its life */
    uint64_t server_cert_renew_ms;
    uint64_t stuck_since_ms; /* the main thread's: when the shard was first found not to tick, 0 = it does */
    ew_server *server;
    ew_offload *offload;
    pthread_mutex_t start_lock; /* held while the server comes up: handlers wait until all above is set */
    int wake[2];                /* a pipe: a device came up, look for its work soon */

    pthread_mutex_t model_lock;
    ew_map *models; /* sha256 -> ew_model *, opened without tokenizer */

    pthread_mutex_t evidence_lock;
    ew_evidence *evidence; /* parsed rows of the table up to evidence_version */
    size_t n_evidence, evidence_cap;
    uint64_t evidence_version;
} ew__coord;

/* One request of a peer. */
typedef struct ew__request {
    ew__coord *c;
    const ew_peer_info *peer;
    const ew_msg *msg;
    ew_span body;
    ew_reply *reply;
} ew__request;

/* enrol.c */
ew_status ew__enrol(ew__request *r, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__renew(ew__request *r, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__server_cert(ew__coord *c, ew_error *reterr) EW_MUST_CHECK;

/* trials.c */
void ew__assign(ew__coord *c, const char *device_id);
void ew__assign_all(ew__coord *c);
ew_status ew__trial_progress(ew__request *r, ew_error *reterr) EW_MUST_CHECK;
ew_status ew__trial_result(ew__request *r, ew_error *reterr) EW_MUST_CHECK;
/* Adds rows of the evidence table that the memory has not; under evidence_lock. */
ew_status ew__evidence_load(ew__coord *c, ew_error *reterr) EW_MUST_CHECK;
/* One row (idempotent by trial id); the caller holds the store. */
ew_status ew__evidence_add(ew_db *db, const uint8_t id[static EW_UID_BYTES], const json_t *j, bool imported,
                           uint64_t now_ms, bool *ret_new, ew_error *reterr) EW_MUST_CHECK;

/* plan.c */
ew_status ew__plan(ew__request *r, ew_error *reterr) EW_MUST_CHECK;
/* Plans for a device as its row is now. facts and budget from the caller. *ret_plan freed with ew_free, id set. */
ew_status ew__plan_make(ew__coord *c, const char *device_id, const ew_plan_request *req, ew_plan **ret_plan,
                        ew_error *reterr) EW_MUST_CHECK;
/* The model of an artifact, opened once and kept. Borrowed for the coordinator's life. */
ew_status ew__model(ew__coord *c, const uint8_t sha256[static EW_SHA256_BYTES], ew_model **ret_model,
                    ew_error *reterr) EW_MUST_CHECK;
ew_status ew__sign(void *ctx, ew_span packed, ew_signature *ret, ew_error *reterr) EW_MUST_CHECK;
json_t *ew__plan_request_json(const ew_plan_request *r);
ew_status ew__plan_request_from_json(const json_t *j, ew_plan_request *ret, ew_error *reterr) EW_MUST_CHECK;

/* ops.c */
ew_status ew__op(ew__request *r, ew_error *reterr) EW_MUST_CHECK;

/* A verb: body in, answer out. tail: bytes after the first line of the body (uploads). */
typedef struct ew__op_call {
    ew__coord *c;
    const char *who; /* operator's name */
    const json_t *in;
    ew_span tail;
    json_t *out;                    /* an object to fill */
    char revoke[EW_DEVICE_ID_SIZE]; /* set: cut this device after the commit */
    bool assign;                    /* set: look for work to assign after the commit */
} ew__op_call;
typedef ew_status (*ew__op_fn)(ew__op_call *o, ew_error *reterr);
typedef struct ew__op_verb {
    const char *name;
    ew__op_fn fn;
    bool mutates; /* not for observers; runs in a transaction that also keeps the reply for retries */
    bool own_tx;  /* mutates, but by itself (idempotent): no transaction around it */
} ew__op_verb;
extern const ew__op_verb ew__verbs_device[];
extern const size_t ew__n_verbs_device;
extern const ew__op_verb ew__verbs_model[];
extern const size_t ew__n_verbs_model;
extern const ew__op_verb ew__verbs_experiment[];
extern const size_t ew__n_verbs_experiment;

void ew__audit(ew__coord *c, const char *who, const char *event, const char *fmt, ...) EW_PRINTF(4, 5);

#endif

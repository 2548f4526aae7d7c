/* The agent's directory: what lies where, and the device's own settings.
 *
 *   DIR/device.json      who we are: device id, trust domain, endpoints, artifact key, consent            (0600, replaced atomically)
 *   DIR/identity.pem     private key and certificate chain   DIR/ca.pem  trust roots   DIR/epoch  session counter
 *   DIR/profile.db       the encrypted profile and adapters (vault/)   DIR/profile.key  its key, unless one is given as a credential
 *   DIR/caps.json        what the probe measured, with the software version
 *   DIR/active.json      what is served: model, variant, method, task, adapter      DIR/plan.json  the last plan
 *   DIR/artifacts/<sha256>.gguf     models      DIR/datasets/<digest>-<user>.jsonl  public benchmark users
 *   DIR/trials/<id>.spec, <id>.result   accepted trials and results not yet acknowledged (spool.h)
 *   DIR/agent.sock       local control (control.h), while the agent runs
 *   runtime: a directory on tmpfs where there is one: checkpoints and adapters in the clear, which never touch a disk
 * One process owns DIR (lock). Locking: one owning thread unless said otherwise. */
#ifndef EW_AGENTD_HOME_H
#define EW_AGENTD_HOME_H

#include <jansson.h>

#include "base/status.h"
#include "domain/msg.h"
#include "vault/vault.h"

#define EW_HOME_PATH_MAX 1024

typedef struct ew_home {
    char root[512];
    char runtime[512];
    char device_id[EW_DEVICE_ID_SIZE];
    char trust_domain[128];
    ew_endpoint_list endpoints;
    uint8_t artifact_key[32]; /* manifests and plans must be signed with it */
    bool consent_offload;     /* the user agreed that hidden states may leave the device */
} ew_home;

/* Makes the sub-directories. EW_ENOENT when the device is not enrolled (HINT). */
ew_status ew_home_open(const char *dir, ew_home *ret_home, ew_error *reterr) EW_MUST_CHECK;
/* Only sets the paths: for enrolment, which makes the rest. */
ew_status ew_home_init(const char *dir, ew_home *ret_home, ew_error *reterr) EW_MUST_CHECK;
/* Writes device.json. */
ew_status ew_home_save(const ew_home *h, ew_error *reterr) EW_MUST_CHECK;

/* DIR/name; always fits (root is bounded). Returns dst. */
char *ew_home_path(const ew_home *h, const char *name, char dst[static EW_HOME_PATH_MAX]);
char *ew_home_model_path(const ew_home *h, const uint8_t sha256[static EW_SHA256_BYTES],
                         char dst[static EW_HOME_PATH_MAX]);
char *ew_home_runtime_path(const ew_home *h, const char *name, char dst[static EW_HOME_PATH_MAX]);

/* Removes the files of the runtime directory whose names end so (".tune": checkpoints, ".gguf": adapters in the open). */
ew_status ew_home_sweep(const ew_home *h, const char *ending, ew_error *reterr) EW_MUST_CHECK;

/* The profile, with the key from credentials (systemd's directory, NULL = none) or DIR/profile.key. */
ew_status ew_home_vault(const ew_home *h, const char *credentials, ew_vault **ret_vault,
                        ew_error *reterr) EW_MUST_CHECK;

/* JSON files of the directory. Reading one that is not there: EW_ENOENT. */
ew_status ew_home_read_json(const ew_home *h, const char *name, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_home_write_json(const ew_home *h, const char *name, const json_t *json, ew_error *reterr) EW_MUST_CHECK;

#endif

/* The coordinator's side of the signer: asks over the socket, connects again when the signer was restarted.
 * Locking: any thread; one request at a time. */
#ifndef EW_SIGNER_CLIENT_H
#define EW_SIGNER_CLIENT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

typedef struct ew_signer_client ew_signer_client;

typedef struct ew_signer_info {
    char domain[128];
    char coordinator_id[65];
    uint8_t artifact_key[32];
    ew_buf ca_der; /* released by ew_signer_info_release */
} ew_signer_info;
void ew_signer_info_release(ew_signer_info *i);

/* Does not connect yet. retry_ms: how long a request waits for a signer that is not there (restarting). */
ew_status ew_signer_client_new(const char *socket_path, uint32_t retry_ms, ew_signer_client **ret_client,
                               ew_error *reterr) EW_MUST_CHECK;
void ew_signer_client_free(ew_signer_client **c);

/* EW_EREMOTE when the signer does not answer; otherwise what it says (EW_EDENIED, EW_EINVAL). */
ew_status ew_signer_client_info(ew_signer_client *c, ew_signer_info *ret_info, ew_error *reterr) EW_MUST_CHECK;
/* Appends the certificate in DER. seconds 0 = the signer's default. */
ew_status ew_signer_client_device(ew_signer_client *c, ew_span csr, const char *device_id, uint32_t seconds,
                                  ew_buf *out_der, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_signer_client_server(ew_signer_client *c, ew_span csr, ew_buf *out_der, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_signer_client_manifest(ew_signer_client *c, ew_span packed, uint8_t ret_sig[static 64],
                                    ew_error *reterr) EW_MUST_CHECK;
ew_status ew_signer_client_plan(ew_signer_client *c, ew_span packed, uint8_t ret_sig[static 64],
                                ew_error *reterr) EW_MUST_CHECK;

#endif

/* Who is at the other end, and the handle a handler answers with. Shared by server and client. */
#ifndef EW_SESSION_PEER_H
#define EW_SESSION_PEER_H

#include "base/base.h"
#include "base/status.h"
#include "domain/msg.h"

typedef enum ew_role {
    EW_ROLE_NONE = 0,
    EW_ROLE_DEVICE = 1,   /* ALPN edgewise/1, certificate spiffe://<td>/device/<id> */
    EW_ROLE_OPERATOR = 2, /* ALPN edgewise-op/1, certificate spiffe://<td>/operator/<name> */
    EW_ROLE_ENROL = 3,    /* ALPN edgewise-enrol/1, no certificate, one request */
    EW_ROLE_COORDINATOR = 4
} ew_role;
const char *ew_role_name(ew_role r);

#define EW_SERIAL_HEX_SIZE 43

/* Everything here was proved by TLS; nothing comes from a message, except epoch. */
typedef struct ew_peer_info {
    ew_role role;
    char id[EW_DEVICE_ID_SIZE];       /* from the certificate; "" for enrolment */
    uint8_t session_id[EW_UID_BYTES]; /* new for each connection */
    char serial[EW_SERIAL_HEX_SIZE];  /* of the certificate, lower-case hex */
    uint8_t key_sha256[32];           /* of the certificate's SubjectPublicKeyInfo */
    uint64_t cert_not_after_unix_ms;  /* 0 for enrolment */
    char addr[64];                    /* numeric address of the peer */
    uint8_t channel_binding[32];      /* TLS exporter, label EXPORTER-edgewise-channel, no context */
    uint64_t epoch;                   /* Hello.session_epoch */
} ew_peer_info;

typedef struct ew_reply ew_reply;

/* Sends one reply to the request; copies msg and body. Several may be sent, the final one with last = true (ew_reply_send).
 * EW_EREMOTE when the session is gone (the work may go on: a retry finds the cached final reply). Blocks while more than
 * 1 MiB of this peer's replies wait. Only while the handler runs, from its thread. */
ew_status ew_reply_send(ew_reply *r, const ew_msg *msg, ew_span body, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_reply_send_part(ew_reply *r, const ew_msg *msg, ew_span body, ew_error *reterr) EW_MUST_CHECK;
/* The peer cancelled, its deadline passed, or its session is gone: work that nobody waits for may stop. */
bool ew_reply_cancelled(const ew_reply *r);

#endif

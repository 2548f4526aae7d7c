/* Every message of the wire as a C struct: one tagged union. The bulk bytes (tensors, chunks, JSON of operator verbs, signed
 * manifests and plans) are not in it: they are the frame's raw body and travel beside the message.
 *
 * Ownership: ew_span members borrow. In a message that was unpacked they point into memory that the message owns
 * (ew_msg_release); in one that is to be sent they point to the caller's. ew_msg is some 40 KiB. */
#ifndef EW_DOMAIN_MSG_H
#define EW_DOMAIN_MSG_H

#include "base/base.h"
#include "base/status.h"
#include "domain/device.h"
#include "domain/manifest.h"
#include "domain/plan.h"
#include "domain/trial.h"

#define EW_IDEM_BYTES 16
#define EW_DER_MAX 8 /* certificates in one list */
#define EW_ENDPOINTS_MAX 8
#define EW_ENDPOINT_SIZE 128
#define EW_DETAIL_SIZE 257

/* The numbers are the payload's field numbers in Envelope. */
typedef enum ew_msg_type {
    EW_MSG_NONE = 0,
    EW_MSG_HELLO = 10,
    EW_MSG_HELLO_ACK = 11,
    EW_MSG_GO_AWAY = 12,
    EW_MSG_PING = 13,
    EW_MSG_PONG = 14,
    EW_MSG_CREDIT = 15,
    EW_MSG_ERROR = 16,
    EW_MSG_CANCEL = 17,
    EW_MSG_ACK = 18,
    EW_MSG_ENROL_REQUEST = 20,
    EW_MSG_ENROL_RESPONSE = 21,
    EW_MSG_RENEW_REQUEST = 22,
    EW_MSG_RENEW_RESPONSE = 23,
    EW_MSG_PLAN_REQUEST = 40,
    EW_MSG_PLAN_RESPONSE = 41,
    EW_MSG_MANIFEST_REQUEST = 50,
    EW_MSG_MANIFEST = 51,
    EW_MSG_ARTIFACT_OPEN = 52,
    EW_MSG_ARTIFACT_CHUNK = 53,
    EW_MSG_ARTIFACT_DONE = 54,
    EW_MSG_TRIAL_ASSIGN = 60,
    EW_MSG_TRIAL_ACCEPT = 61,
    EW_MSG_TRIAL_PROGRESS = 62,
    EW_MSG_TRIAL_RESULT = 63,
    EW_MSG_OFFLOAD_OPEN = 70,
    EW_MSG_OFFLOAD_OPENED = 71,
    EW_MSG_OFFLOAD_FORWARD = 72,
    EW_MSG_OFFLOAD_OUTPUT = 73,
    EW_MSG_OFFLOAD_CLOSE = 76,
    EW_MSG_OP_REQUEST = 80,
    EW_MSG_OP_RESPONSE = 81,
    EW_MSG_MAX = 99
} ew_msg_type;

/* gRPC's numbers, but 0 is a failure: a code that was left out never reads as success. */
typedef enum ew_code {
    EW_CODE_UNSPECIFIED = 0,
    EW_CODE_CANCELLED = 1,
    EW_CODE_INVALID_ARGUMENT = 3,
    EW_CODE_DEADLINE_EXCEEDED = 4,
    EW_CODE_NOT_FOUND = 5,
    EW_CODE_ALREADY_EXISTS = 6,
    EW_CODE_PERMISSION_DENIED = 7,
    EW_CODE_RESOURCE_EXHAUSTED = 8,
    EW_CODE_FAILED_PRECONDITION = 9,
    EW_CODE_ABORTED = 10,
    EW_CODE_OUT_OF_RANGE = 11,
    EW_CODE_UNIMPLEMENTED = 12,
    EW_CODE_INTERNAL = 13,
    EW_CODE_UNAVAILABLE = 14,
    EW_CODE_DATA_LOSS = 15,
    EW_CODE_UNAUTHENTICATED = 16,
    EW_CODE_OK = 17
} ew_code;

typedef enum ew_go_away_reason {
    EW_GO_AWAY_UNSPECIFIED = 0,
    EW_GO_AWAY_SHUTDOWN = 1,
    EW_GO_AWAY_REBALANCE = 2,
    EW_GO_AWAY_REPLACED = 3,
    EW_GO_AWAY_CERT_EXPIRED = 4,
    EW_GO_AWAY_REVOKED = 5,
    EW_GO_AWAY_IDLE = 6,
    EW_GO_AWAY_PROTOCOL = 7,
    EW_GO_AWAY_OVERLOAD = 8
} ew_go_away_reason;

typedef struct ew_wire_limits {
    uint32_t max_frame;      /* bytes */
    uint32_t max_inflight;   /* requests in each direction */
    uint32_t session_window; /* unconsumed bytes */
    uint32_t stream_window;
    uint32_t max_streams;
} ew_wire_limits;

typedef struct ew_der_list {
    uint32_t n;
    ew_span item[EW_DER_MAX]; /* leaf first in a chain */
} ew_der_list;

typedef struct ew_endpoint_list {
    uint32_t n;
    char item[EW_ENDPOINTS_MAX][EW_ENDPOINT_SIZE]; /* "host:port" */
} ew_endpoint_list;

typedef struct ew_msg_hello {
    uint32_t n_versions;
    struct {
        uint32_t major, minor;
    } versions[8];
    char software[64];
    uint8_t boot_id[EW_UID_BYTES];
    uint64_t session_epoch;
    ew_wire_limits limits;
    bool has_caps, has_state;
    ew_device_caps caps;
    ew_device_state state;
} ew_msg_hello;

typedef struct ew_msg_hello_ack {
    uint32_t major, minor;
    ew_wire_limits limits;
    uint32_t keepalive_ms;
    uint64_t server_time_unix_ms;
    uint8_t session_id[EW_UID_BYTES];
    uint64_t cert_not_after_unix_ms;
    ew_endpoint_list alternates;
} ew_msg_hello_ack;

typedef struct ew_msg_go_away {
    ew_go_away_reason reason;
    uint64_t last_msg_id;
    uint32_t drain_ms, retry_after_ms;
    char detail[EW_DETAIL_SIZE];
    char alternate[EW_ENDPOINT_SIZE];
} ew_msg_go_away;

typedef struct ew_msg_ping { /* Ping and Pong */
    uint64_t nonce;
    uint64_t bytes_consumed;
} ew_msg_ping;

typedef struct ew_msg_credit {
    uint32_t stream_id; /* 0 = only bytes_consumed */
    uint64_t limit;     /* absolute */
    uint64_t bytes_consumed;
} ew_msg_credit;

typedef struct ew_msg_error {
    ew_code code;
    char detail[EW_DETAIL_SIZE];
    bool retryable;
    uint32_t retry_after_ms;
} ew_msg_error;

typedef struct ew_msg_enrol_request {
    char token_id[64];
    uint8_t proof[32]; /* HMAC-SHA256(secret, exporter || SHA256(csr)) */
    ew_span csr_der;
    char hardware_id[128];
    bool has_caps;
    ew_device_caps caps;
} ew_msg_enrol_request;

typedef struct ew_msg_enrol_response {
    char device_id[EW_DEVICE_ID_SIZE];
    ew_der_list chain;
    ew_der_list trust_bundle;
    ew_endpoint_list endpoints;
    uint64_t renew_after_unix_ms;
    uint8_t artifact_key[32]; /* Ed25519 public key that signs manifests and plans */
} ew_msg_enrol_response;

typedef struct ew_msg_renew_request {
    ew_span csr_der;
} ew_msg_renew_request;

typedef struct ew_msg_renew_response {
    ew_der_list chain;
    ew_der_list trust_bundle;
    uint64_t renew_after_unix_ms;
} ew_msg_renew_response;

/* PlanResponse and Manifest: the signed bytes are the frame's body. */
typedef struct ew_msg_signed {
    uint8_t signature[EW_ED25519_SIGNATURE_BYTES]; /* Ed25519 over the very bytes of the body */
    char key_id[65];                               /* hex of SHA-256 of the raw public key, or its prefix */
} ew_msg_signed;

typedef struct ew_msg_manifest_request {
    bool has_sha256; /* else by name and version ("" = newest) and variant */
    uint8_t sha256[EW_SHA256_BYTES];
    char name[128];
    char version[64];
    char variant[EW_VARIANT_SIZE];
} ew_msg_manifest_request;

typedef struct ew_msg_artifact_open {
    uint8_t sha256[EW_SHA256_BYTES];
    uint64_t offset, length; /* length 0 = to the end */
    uint64_t initial_credit; /* absolute offset relative to the stream's first byte */
} ew_msg_artifact_open;

typedef struct ew_msg_artifact_chunk {
    uint64_t offset; /* in the artifact */
    bool eof;
} ew_msg_artifact_chunk;

typedef struct ew_msg_artifact_done {
    uint8_t sha256[EW_SHA256_BYTES];
    ew_code code;
    char detail[EW_DETAIL_SIZE];
} ew_msg_artifact_done;

typedef struct ew_msg_trial_accept {
    uint8_t id[EW_UID_BYTES];
    uint64_t fence;
    bool accepted;
    char reason[EW_DETAIL_SIZE];
} ew_msg_trial_accept;

typedef struct ew_msg_trial_progress {
    uint8_t id[EW_UID_BYTES];
    uint64_t fence;
    uint32_t done, total;
    char phase[32];
} ew_msg_trial_progress;

typedef enum ew_act_dtype {
    EW_ACT_UNSPECIFIED = 0,
    EW_ACT_F32 = 1,
    EW_ACT_F16 = 2,
    EW_ACT_BF16 = 3,
    EW_ACT_I8 = 4
} ew_act_dtype;
/* Bytes per element; 0 when not known. */
size_t ew_act_dtype_bytes(ew_act_dtype t);
const char *ew_act_dtype_name(ew_act_dtype t);

/* A slice of the frame's body. The unpacker has checked that product(shape) * dtype == length and that both slices lie
 * inside the body. */
typedef struct ew_wire_tensor {
    ew_act_dtype dtype;
    uint32_t rank;
    uint32_t shape[8];                /* row-major */
    uint64_t offset, length;          /* bytes of the body */
    uint64_t scales_offset, n_scales; /* f32 little-endian in the body, finite; n_scales 0 = none */
} ew_wire_tensor;

typedef struct ew_msg_offload_open {
    uint8_t model_sha256[EW_SHA256_BYTES];
    uint8_t plan_id[EW_UID_BYTES];
    uint32_t first_layer, last_layer; /* [first, last) */
    ew_act_dtype act_dtype;
    uint32_t max_positions;
    uint64_t kv_session; /* 0 = a new one, else resume */
    bool reference;      /* compute with the reference kernels: answers are then bit-equal to local ones */
} ew_msg_offload_open;

typedef struct ew_msg_offload_opened {
    uint64_t kv_session;
    uint32_t kv_position;
    uint64_t kv_bytes;
    uint32_t lease_ms;
} ew_msg_offload_opened;

typedef struct ew_msg_offload_forward {
    uint64_t kv_session, step; /* (kv_session, step) is the idempotency key */
    uint32_t position, n_tok;
    ew_wire_tensor act; /* [n_tok, C] */
    uint32_t part, parts;
} ew_msg_offload_forward;

typedef struct ew_msg_offload_output {
    uint64_t kv_session, step;
    uint32_t position;
    ew_wire_tensor out;
    uint32_t part, parts;
    uint32_t compute_us, queue_us;
} ew_msg_offload_output;

typedef struct ew_msg_offload_close {
    uint64_t kv_session;
    bool keep_kv;
} ew_msg_offload_close;

/* Operator verbs: the JSON is the frame's body. */
typedef struct ew_msg_op_request {
    char verb[64]; /* "token.create", "device.list", … */
    uint64_t if_version;
} ew_msg_op_request;

typedef struct ew_msg_op_response {
    bool more; /* another response to the same request follows */
    uint64_t version;
} ew_msg_op_response;

typedef struct ew_msg {
    ew_msg_type type;
    /* Envelope. The session fills msg_id, reply_to, last, attempt and, in calls, idem_key and deadline_ms. */
    uint64_t msg_id;
    uint64_t reply_to;    /* 0 = not a reply */
    uint32_t deadline_ms; /* REMAINING time when sent; 0 = none */
    uint32_t attempt;     /* 0 = first */
    uint32_t stream_id;   /* 0 = control */
    bool last;            /* last reply of the request */
    bool has_idem_key, has_trace_id;
    uint8_t idem_key[EW_IDEM_BYTES];
    uint8_t trace_id[EW_UID_BYTES];
    union {
        ew_msg_hello hello;
        ew_msg_hello_ack hello_ack;
        ew_msg_go_away go_away;
        ew_msg_ping ping, pong;
        ew_msg_credit credit;
        ew_msg_error error;
        uint64_t cancel_msg_id;
        uint64_t ack_seq;
        ew_msg_enrol_request enrol_request;
        ew_msg_enrol_response enrol_response;
        ew_msg_renew_request renew_request;
        ew_msg_renew_response renew_response;
        ew_plan_request plan_request;
        ew_msg_signed plan_response;
        ew_msg_manifest_request manifest_request;
        ew_msg_signed manifest;
        ew_msg_artifact_open artifact_open;
        ew_msg_artifact_chunk artifact_chunk;
        ew_msg_artifact_done artifact_done;
        ew_trial_spec trial_assign;
        ew_msg_trial_accept trial_accept;
        ew_msg_trial_progress trial_progress;
        ew_trial_result trial_result;
        ew_msg_offload_open offload_open;
        ew_msg_offload_opened offload_opened;
        ew_msg_offload_forward offload_forward;
        ew_msg_offload_output offload_output;
        ew_msg_offload_close offload_close;
        ew_msg_op_request op_request;
        ew_msg_op_response op_response;
    };
    void *owned; /* memory of the spans of an unpacked message; NULL otherwise */
} ew_msg;

/* Zeroed with that type; NULL when out of memory. */
ew_msg *ew_msg_new(ew_msg_type type) EW_MUST_CHECK;
/* Releases what the message owns and the message itself. */
void ew_msg_free(ew_msg **m);
/* Releases what the message owns, for messages in caller storage. */
void ew_msg_release(ew_msg *m);

/* "trial-assign"; "unknown" for anything else. */
const char *ew_msg_type_name(ew_msg_type t);
/* "PROTOCOL" and the like. */
const char *ew_go_away_name(ew_go_away_reason r);

/* The two vocabularies of failure. EW_CODE_UNSPECIFIED and unknown codes become EW_EREMOTE. */
ew_code ew_code_of_status(ew_status st);
ew_status ew_code_to_status(ew_code c);
const char *ew_code_name(ew_code c);
/* Makes m an Error message (not retryable unless the status is EW_EAGAIN or EW_EREMOTE). detail is truncated. */
void ew_msg_set_error(ew_msg *m, ew_status st, const char *detail);

#endif

#include "domain/msg.h"

#include "base/mem.h"
#include "base/str.h"

ew_msg *ew_msg_new(ew_msg_type type)
{
    ew_msg *m = ew_calloc(1, sizeof(*m));
    if (m != NULL) {
        m->type = type;
    }
    return m;
}

void ew_msg_release(ew_msg *m)
{
    if (m != NULL) {
        ew_free(m->owned);
        m->owned = NULL;
        m->type = EW_MSG_NONE;
    }
}

void ew_msg_free(ew_msg **m)
{
    if (m != NULL && *m != NULL) {
        ew_msg_release(*m);
        ew_free(*m);
        *m = NULL;
    }
}

const char *ew_msg_type_name(ew_msg_type t)
{
    static const char *const names[EW_MSG_MAX + 1] = {
        [EW_MSG_NONE] = "none",
        [EW_MSG_HELLO] = "hello",
        [EW_MSG_HELLO_ACK] = "hello-ack",
        [EW_MSG_GO_AWAY] = "go-away",
        [EW_MSG_PING] = "ping",
        [EW_MSG_PONG] = "pong",
        [EW_MSG_CREDIT] = "credit",
        [EW_MSG_ERROR] = "error",
        [EW_MSG_CANCEL] = "cancel",
        [EW_MSG_ACK] = "ack",
        [EW_MSG_ENROL_REQUEST] = "enrol-request",
        [EW_MSG_ENROL_RESPONSE] = "enrol-response",
        [EW_MSG_RENEW_REQUEST] = "renew-request",
        [EW_MSG_RENEW_RESPONSE] = "renew-response",
        [EW_MSG_PLAN_REQUEST] = "plan-request",
        [EW_MSG_PLAN_RESPONSE] = "plan-response",
        [EW_MSG_MANIFEST_REQUEST] = "manifest-request",
        [EW_MSG_MANIFEST] = "manifest",
        [EW_MSG_ARTIFACT_OPEN] = "artifact-open",
        [EW_MSG_ARTIFACT_CHUNK] = "artifact-chunk",
        [EW_MSG_ARTIFACT_DONE] = "artifact-done",
        [EW_MSG_TRIAL_ASSIGN] = "trial-assign",
        [EW_MSG_TRIAL_ACCEPT] = "trial-accept",
        [EW_MSG_TRIAL_PROGRESS] = "trial-progress",
        [EW_MSG_TRIAL_RESULT] = "trial-result",
        [EW_MSG_OFFLOAD_OPEN] = "offload-open",
        [EW_MSG_OFFLOAD_OPENED] = "offload-opened",
        [EW_MSG_OFFLOAD_FORWARD] = "offload-forward",
        [EW_MSG_OFFLOAD_OUTPUT] = "offload-output",
        [EW_MSG_OFFLOAD_CLOSE] = "offload-close",
        [EW_MSG_OP_REQUEST] = "op-request",
        [EW_MSG_OP_RESPONSE] = "op-response",
    };
    return (unsigned)t <= EW_MSG_MAX && names[t] != NULL ? names[t] : "unknown";
}

const char *ew_go_away_name(ew_go_away_reason r)
{
    static const char *const names[] = {"UNSPECIFIED", "SHUTDOWN", "REBALANCE", "REPLACED", "CERT_EXPIRED",
                                        "REVOKED",     "IDLE",     "PROTOCOL",  "OVERLOAD"};
    return (unsigned)r < EW_COUNT(names) ? names[r] : names[0];
}

size_t ew_act_dtype_bytes(ew_act_dtype t)
{
    switch (t) {
    case EW_ACT_F32:
        return 4;
    case EW_ACT_F16:
    case EW_ACT_BF16:
        return 2;
    case EW_ACT_I8:
        return 1;
    case EW_ACT_UNSPECIFIED:
        break;
    }
    return 0;
}

const char *ew_act_dtype_name(ew_act_dtype t)
{
    static const char *const names[] = {"unspecified", "f32", "f16", "bf16", "i8"};
    return (unsigned)t < EW_COUNT(names) ? names[t] : names[0];
}

static const struct {
    ew_code code;
    ew_status status;
    const char *name;
} codes[] = {
    {EW_CODE_OK, EW_OK, "OK"},
    {EW_CODE_CANCELLED, EW_ECANCELLED, "CANCELLED"},
    {EW_CODE_INVALID_ARGUMENT, EW_EINVAL, "INVALID_ARGUMENT"},
    {EW_CODE_DEADLINE_EXCEEDED, EW_ETIMEOUT, "DEADLINE_EXCEEDED"},
    {EW_CODE_NOT_FOUND, EW_ENOENT, "NOT_FOUND"},
    {EW_CODE_ALREADY_EXISTS, EW_EEXIST, "ALREADY_EXISTS"},
    {EW_CODE_PERMISSION_DENIED, EW_EDENIED, "PERMISSION_DENIED"},
    {EW_CODE_RESOURCE_EXHAUSTED, EW_ELIMIT, "RESOURCE_EXHAUSTED"},
    {EW_CODE_FAILED_PRECONDITION, EW_ECONFLICT, "FAILED_PRECONDITION"},
    {EW_CODE_UNIMPLEMENTED, EW_EUNSUPPORTED, "UNIMPLEMENTED"},
    {EW_CODE_UNAVAILABLE, EW_EAGAIN, "UNAVAILABLE"},
    {EW_CODE_UNAVAILABLE, EW_EREMOTE, "UNAVAILABLE"},
    {EW_CODE_DATA_LOSS, EW_ECORRUPT, "DATA_LOSS"},
    {EW_CODE_INTERNAL, EW_EINTERNAL, "INTERNAL"},
    /* Statuses that share a code on the way out, and codes that share a status on the way in. */
    {EW_CODE_INTERNAL, EW_EIO, "INTERNAL"},
    {EW_CODE_RESOURCE_EXHAUSTED, EW_ENOMEM, "RESOURCE_EXHAUSTED"},
    {EW_CODE_RESOURCE_EXHAUSTED, EW_ENOSPC, "RESOURCE_EXHAUSTED"},
    {EW_CODE_ABORTED, EW_ECONFLICT, "ABORTED"},
    {EW_CODE_OUT_OF_RANGE, EW_EINVAL, "OUT_OF_RANGE"},
    {EW_CODE_UNAUTHENTICATED, EW_EDENIED, "UNAUTHENTICATED"},
};

ew_code ew_code_of_status(ew_status st)
{
    for (size_t i = 0; i < EW_COUNT(codes); i++) {
        if (codes[i].status == st) {
            return codes[i].code;
        }
    }
    return EW_CODE_INTERNAL;
}

ew_status ew_code_to_status(ew_code c)
{
    for (size_t i = 0; i < EW_COUNT(codes); i++) {
        if (codes[i].code == c) {
            return codes[i].status;
        }
    }
    return EW_EREMOTE;
}

const char *ew_code_name(ew_code c)
{
    for (size_t i = 0; i < EW_COUNT(codes); i++) {
        if (codes[i].code == c) {
            return codes[i].name;
        }
    }
    return "UNSPECIFIED";
}

void ew_msg_set_error(ew_msg *m, ew_status st, const char *detail)
{
    m->type = EW_MSG_ERROR;
    m->error = (ew_msg_error){.code = ew_code_of_status(st), .retryable = st == EW_EAGAIN || st == EW_EREMOTE};
    ew_str_copy(m->error.detail, sizeof(m->error.detail), detail != NULL ? detail : "");
}

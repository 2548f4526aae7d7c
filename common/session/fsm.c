#include "session/fsm.h"

/* Entries are next state + 1; 0 = not allowed. */
#define S(x) (EW_SERVER_##x + 1)
#define C(x) (EW_CLIENT_##x + 1)
#define N_CLIENT (EW_CLIENT_STOPPED + 1)

/* clang-format off */
static const signed char server[EW_SERVER_STATE_COUNT][EW_EV_COUNT] = {
    [EW_SERVER_TCP_UP] = {
        [EW_EV_BYTES] = S(TLS), [EW_EV_DRAIN] = S(CLOSED), [EW_EV_CLOSE] = S(CLOSED), [EW_EV_TIMEOUT] = S(CLOSED),
        [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_TLS] = {
        [EW_EV_BYTES] = S(TLS), [EW_EV_TLS_UP] = S(HELLO_WAIT), [EW_EV_DRAIN] = S(CLOSED), [EW_EV_CLOSE] = S(CLOSED),
        [EW_EV_TIMEOUT] = S(CLOSED), [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_HELLO_WAIT] = {
        [EW_EV_BYTES] = S(HELLO_WAIT), [EW_EV_HELLO] = S(OPENING), [EW_EV_ENROL] = S(ACTIVE), [EW_EV_DRAIN] = S(CLOSING),
        [EW_EV_CLOSE] = S(CLOSING), [EW_EV_TIMEOUT] = S(CLOSING), [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_OPENING] = {
        [EW_EV_BYTES] = S(OPENING), [EW_EV_CONTROL] = S(OPENING), [EW_EV_UP_OK] = S(ACTIVE), [EW_EV_DRAIN] = S(CLOSING),
        [EW_EV_CLOSE] = S(CLOSING), [EW_EV_TIMEOUT] = S(CLOSING), [EW_EV_GONE] = S(CLOSED), [EW_EV_GO_AWAY] = S(CLOSING)},
    [EW_SERVER_ACTIVE] = {
        [EW_EV_BYTES] = S(ACTIVE), [EW_EV_REQUEST] = S(ACTIVE), [EW_EV_REPLY] = S(ACTIVE), [EW_EV_CONTROL] = S(ACTIVE),
        [EW_EV_GO_AWAY] = S(DRAINING), [EW_EV_DRAIN] = S(DRAINING), [EW_EV_CLOSE] = S(CLOSING), [EW_EV_TIMEOUT] = S(CLOSED),
        [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_DRAINING] = {
        [EW_EV_BYTES] = S(DRAINING), [EW_EV_REQUEST] = S(DRAINING), [EW_EV_REPLY] = S(DRAINING),
        [EW_EV_CONTROL] = S(DRAINING), [EW_EV_GO_AWAY] = S(DRAINING), [EW_EV_DRAIN] = S(DRAINING),
        [EW_EV_CLOSE] = S(CLOSING), [EW_EV_TIMEOUT] = S(CLOSING), [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_CLOSING] = { /* what still comes is not looked at */
        [EW_EV_BYTES] = S(CLOSING), [EW_EV_UP_OK] = S(CLOSING), [EW_EV_DRAIN] = S(CLOSING), [EW_EV_CLOSE] = S(CLOSING),
        [EW_EV_FLUSHED] = S(CLOSED), [EW_EV_TIMEOUT] = S(CLOSED), [EW_EV_GONE] = S(CLOSED)},
    [EW_SERVER_CLOSED] = {
        [EW_EV_BYTES] = S(CLOSED), [EW_EV_UP_OK] = S(CLOSED), [EW_EV_DRAIN] = S(CLOSED), [EW_EV_CLOSE] = S(CLOSED),
        [EW_EV_FLUSHED] = S(CLOSED), [EW_EV_TIMEOUT] = S(CLOSED), [EW_EV_GONE] = S(CLOSED)},
};

static const signed char client[N_CLIENT][EW_EV_COUNT] = {
    [EW_CLIENT_IDLE] = {[EW_EV_START] = C(RESOLVING), [EW_EV_TIMEOUT] = C(RESOLVING), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_RESOLVING] = {
        [EW_EV_RESOLVED] = C(CONNECTING), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_TIMEOUT] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_CONNECTING] = {
        [EW_EV_TCP_UP] = C(TLS), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_GONE] = C(BACKOFF), [EW_EV_TIMEOUT] = C(BACKOFF),
        [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_TLS] = {
        [EW_EV_BYTES] = C(TLS), [EW_EV_TLS_UP] = C(HELLO_SENT), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_GONE] = C(BACKOFF),
        [EW_EV_TIMEOUT] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_HELLO_SENT] = {
        [EW_EV_BYTES] = C(HELLO_SENT), [EW_EV_HELLO_ACK] = C(ACTIVE), [EW_EV_CONTROL] = C(HELLO_SENT),
        [EW_EV_REPLY] = C(HELLO_SENT), [EW_EV_GO_AWAY] = C(BACKOFF), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_GONE] = C(BACKOFF),
        [EW_EV_TIMEOUT] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_ACTIVE] = {
        [EW_EV_BYTES] = C(ACTIVE), [EW_EV_REQUEST] = C(ACTIVE), [EW_EV_REPLY] = C(ACTIVE), [EW_EV_CONTROL] = C(ACTIVE),
        [EW_EV_GO_AWAY] = C(DRAINING), [EW_EV_DRAIN] = C(DRAINING), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_GONE] = C(BACKOFF),
        [EW_EV_TIMEOUT] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_DRAINING] = {
        [EW_EV_BYTES] = C(DRAINING), [EW_EV_REQUEST] = C(DRAINING), [EW_EV_REPLY] = C(DRAINING),
        [EW_EV_CONTROL] = C(DRAINING), [EW_EV_GO_AWAY] = C(DRAINING), [EW_EV_DRAIN] = C(DRAINING), [EW_EV_CLOSE] = C(BACKOFF),
        [EW_EV_GONE] = C(BACKOFF), [EW_EV_TIMEOUT] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_BACKOFF] = {
        [EW_EV_START] = C(RESOLVING), [EW_EV_TIMEOUT] = C(RESOLVING), [EW_EV_CLOSE] = C(BACKOFF), [EW_EV_STOP] = C(STOPPED)},
    [EW_CLIENT_STOPPED] = {[EW_EV_STOP] = C(STOPPED), [EW_EV_CLOSE] = C(STOPPED), [EW_EV_GONE] = C(STOPPED)},
};
/* clang-format on */
#undef S
#undef C

int ew_fsm_server(ew_server_state s, ew_fsm_event e)
{
    return (unsigned)s < EW_SERVER_STATE_COUNT && (unsigned)e < EW_EV_COUNT ? server[s][e] - 1 : EW_FSM_BAD;
}

int ew_fsm_client(ew_client_state s, ew_fsm_event e)
{
    return (unsigned)s < N_CLIENT && (unsigned)e < EW_EV_COUNT ? client[s][e] - 1 : EW_FSM_BAD;
}

const char *ew_fsm_event_name(ew_fsm_event e)
{
    static const char *const names[EW_EV_COUNT] = {
        "start",   "resolved", "tcp-up", "bytes", "tls-up", "hello",   "hello-ack", "enrol", "request", "reply",
        "control", "go-away",  "up-ok",  "drain", "close",  "flushed", "timeout",   "gone",  "stop"};
    return (unsigned)e < EW_EV_COUNT ? names[e] : "unknown";
}

const char *ew_server_state_name(ew_server_state s)
{
    static const char *const names[EW_SERVER_STATE_COUNT] = {"tcp-up", "tls",      "hello-wait", "opening",
                                                             "active", "draining", "closing",    "closed"};
    return (unsigned)s < EW_SERVER_STATE_COUNT ? names[s] : "unknown";
}

const char *ew_client_state_name(ew_client_state s)
{
    static const char *const names[N_CLIENT] = {"idle",   "resolving", "connecting", "tls",    "hello-sent",
                                                "active", "draining",  "backoff",    "stopped"};
    return (unsigned)s < N_CLIENT ? names[s] : "unknown";
}

const char *ew_role_name(ew_role r)
{
    static const char *const names[] = {"none", "device", "operator", "enrol", "coordinator"};
    return (unsigned)r < EW_COUNT(names) ? names[r] : names[0];
}

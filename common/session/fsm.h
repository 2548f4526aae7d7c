/* The states of a session as tables: what may happen when. Pure: no I/O, no time.
 * Anything that a table does not allow is EW_FSM_BAD: GoAway(PROTOCOL), close, and a counter. */
#ifndef EW_SESSION_FSM_H
#define EW_SESSION_FSM_H

#include "base/base.h"
#include "session/client.h"

typedef enum ew_fsm_event {
    EW_EV_START,     /* client: begin an attempt */
    EW_EV_RESOLVED,  /* client: addresses are known */
    EW_EV_TCP_UP,    /* client: connected */
    EW_EV_BYTES,     /* bytes from the socket */
    EW_EV_TLS_UP,    /* handshake done */
    EW_EV_HELLO,     /* frames: Hello */
    EW_EV_HELLO_ACK, /*         HelloAck */
    EW_EV_ENROL,     /*         EnrolRequest */
    EW_EV_REQUEST,   /*         any other request or notification */
    EW_EV_REPLY,     /*         a reply */
    EW_EV_CONTROL,   /*         Ping, Pong, Credit, Cancel */
    EW_EV_GO_AWAY,   /*         GoAway */
    EW_EV_UP_OK,     /* server: the handler let the peer in */
    EW_EV_DRAIN,     /* our own wish to end in an orderly way */
    EW_EV_CLOSE,     /* our own wish to end now, or an error that ends it */
    EW_EV_FLUSHED,   /* all that was queued is written */
    EW_EV_TIMEOUT,   /* the state's deadline */
    EW_EV_GONE,      /* the connection is gone */
    EW_EV_STOP,      /* client: the program ends */
    EW_EV_COUNT
} ew_fsm_event;
const char *ew_fsm_event_name(ew_fsm_event e);

typedef enum ew_server_state {
    EW_SERVER_TCP_UP,
    EW_SERVER_TLS,
    EW_SERVER_HELLO_WAIT,
    EW_SERVER_OPENING, /* Hello is with the handler, HelloAck not sent yet */
    EW_SERVER_ACTIVE,
    EW_SERVER_DRAINING,
    EW_SERVER_CLOSING, /* writing what is queued */
    EW_SERVER_CLOSED,
    EW_SERVER_STATE_COUNT
} ew_server_state;
const char *ew_server_state_name(ew_server_state s);

#define EW_FSM_BAD (-1)
/* The next state, or EW_FSM_BAD. */
int ew_fsm_server(ew_server_state s, ew_fsm_event e);
int ew_fsm_client(ew_client_state s, ew_fsm_event e);

#endif

/* The reply handle of server and client: who sends is behind two functions. */
#ifndef EW_SESSION_REPLY_INT_H
#define EW_SESSION_REPLY_INT_H

#include "session/hub.h"
#include "session/peer.h"

struct ew_reply {
    void *job;
    ew__worker *worker;
    ew_status (*send)(ew_reply *r, const ew_msg *msg, ew_span body, bool last, ew_error *reterr);
    bool (*cancelled)(const ew_reply *r);
};

#endif

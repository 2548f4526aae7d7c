#include "session/reply_int.h"

ew_status ew_reply_send(ew_reply *r, const ew_msg *msg, ew_span body, ew_error *reterr)
{
    return r->send(r, msg, body, true, reterr);
}

ew_status ew_reply_send_part(ew_reply *r, const ew_msg *msg, ew_span body, ew_error *reterr)
{
    return r->send(r, msg, body, false, reterr);
}

bool ew_reply_cancelled(const ew_reply *r)
{
    return r->cancelled(r);
}

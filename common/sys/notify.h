/* Messages to systemd (sd_notify(3)) without its library. The program reads NOTIFY_SOCKET and passes it in; NULL and "" make
 * every call do nothing. Locking: any thread. */
#ifndef EW_SYS_NOTIFY_H
#define EW_SYS_NOTIFY_H

#include "base/base.h"
#include "base/status.h"

/* state: "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=…", joined by newlines. */
ew_status ew_notify(const char *notify_socket, const char *state, ew_error *reterr) EW_MUST_CHECK;

#endif

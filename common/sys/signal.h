/* SIGTERM and SIGINT as "stop", SIGHUP as "reload", SIGUSR1 as "pause" and SIGUSR2 as "resume": flags to read and a descriptor to poll.
 * SIGPIPE is ignored.
 * Call ew_signal_init once in main before any thread starts. Locking: the readers are callable from any thread. */
#ifndef EW_SYS_SIGNAL_H
#define EW_SYS_SIGNAL_H

#include "base/base.h"
#include "base/status.h"

ew_status ew_signal_init(ew_error *reterr) EW_MUST_CHECK;
/* Readable once any of the signals came; ew_signal_drain empties it. */
int ew_signal_fd(void);
void ew_signal_drain(void);
/* True from the first SIGTERM or SIGINT on. A second SIGINT ends the process at once with the signal's default. */
bool ew_signal_stop(void);
/* True once per SIGHUP. */
bool ew_signal_reload(void);
/* True once after SIGUSR1 or SIGUSR2; *ret_pause: whether the last of them was SIGUSR1. */
bool ew_signal_pause(bool *ret_pause);
/* Asks to stop as the signal would (operator request, test). Async-signal-safe. */
void ew_signal_raise_stop(void);
void ew_signal_reset(void); /* test hook: forget what came */

#endif

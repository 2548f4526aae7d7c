/* The two clocks, with a hook for tests. Monotonic for intervals and deadlines, wall for what people and certificates see.
 * Locking: callable from any thread; the hooks are set before threads start. */
#ifndef EW_BASE_CLOCK_H
#define EW_BASE_CLOCK_H

#include "base/base.h"

uint64_t ew_mono_ns(void);
uint64_t ew_mono_ms(void);
double ew_mono_s(void);
/* Milliseconds since 1970-01-01 UTC. */
uint64_t ew_wall_ms(void);
/* "2026-11-20T17:56:03.123Z"; returns dst. */
char *ew_wall_iso(char dst[static 25], uint64_t unix_ms);

/* Test hook: the time that ew_mono_ns and ew_wall_ms return from now on; 0, 0 restores the system's. */
void ew_clock_fake(uint64_t mono_ns, uint64_t wall_ms);

#endif

/* The tables of the coordinator's database, as migration steps. */
#ifndef EW_COORDD_SCHEMA_H
#define EW_COORDD_SCHEMA_H

#include "base/base.h"

/* Number of steps; *ret_steps is static. */
size_t ew_schema_steps(const char *const **ret_steps);

#endif

/* `edgewise fleet …`: the sub-commands, for the table in main.c. */
#ifndef EW_CLI_FLEET_H
#define EW_CLI_FLEET_H

#include "sys/cli.h"

extern const ew_cli_command ew_cli_fleet_commands[];
extern const size_t ew_cli_n_fleet_commands;

#endif

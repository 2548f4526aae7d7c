/* `edgewise experiment …`: the sub-commands, for the table in main.c. */
#ifndef EW_CLI_EXPERIMENT_H
#define EW_CLI_EXPERIMENT_H

#include "sys/cli.h"

extern const ew_cli_command ew_cli_experiment_commands[];
extern const size_t ew_cli_n_experiment_commands;

#endif

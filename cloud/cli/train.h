/* `edgewise train …`: the sub-commands, for the table in main.c. */
#ifndef EW_CLI_TRAIN_H
#define EW_CLI_TRAIN_H

#include "sys/cli.h"

int ew_cli_train_pretrain(int argc, char **argv, void *ctx);
int ew_cli_train_tune(int argc, char **argv, void *ctx);
int ew_cli_train_curve(int argc, char **argv, void *ctx);

extern const ew_cli_command ew_cli_train_commands[];
extern const size_t ew_cli_n_train_commands;

#endif

/* `edgewise data …`: the sub-commands, for the table in main.c, and where the benchmark lies. */
#ifndef EW_CLI_DATA_H
#define EW_CLI_DATA_H

#include "base/status.h"
#include "sys/cli.h"

extern const ew_cli_command ew_cli_data_commands[];
extern const size_t ew_cli_n_data_commands;
extern const ew_cli_command ew_cli_lamp_commands[]; /* `edgewise lamp …` */
extern const size_t ew_cli_n_lamp_commands;

int ew_cli_data_lamp(int argc, char **argv, void *ctx); /* data_lamp.c */
int ew_cli_data_debian(int argc, char **argv, void *ctx);
int ew_cli_data_info(int argc, char **argv, void *ctx);
int ew_cli_data_split(int argc, char **argv, void *ctx);
int ew_cli_data_baselines(int argc, char **argv, void *ctx);

/* The directory of the benchmark: opt when given, else the cache directory of this user. */
ew_status ew_cli_data_dir(const char *opt, char *dst, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* models/NAME of the installation or the source tree that the program runs from ($EDGEWISE_MODELS goes first). EW_ENOENT. */
ew_status ew_cli_model_file(const char *name, char *dst, size_t size, ew_error *reterr) EW_MUST_CHECK;

#endif

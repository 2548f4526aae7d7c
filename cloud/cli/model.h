/* `edgewise model …`: the sub-commands that need no server, for the table in main.c. */
#ifndef EW_CLI_MODEL_H
#define EW_CLI_MODEL_H

#include "sys/cli.h"

int ew_cli_model_info(int argc, char **argv, void *ctx);
int ew_cli_model_tokenize(int argc, char **argv, void *ctx);
int ew_cli_model_logits(int argc, char **argv, void *ctx);
int ew_cli_model_quantize(int argc, char **argv, void *ctx);
int ew_cli_model_generate(int argc, char **argv, void *ctx);
int ew_cli_model_eval(int argc, char **argv, void *ctx);
int ew_cli_model_bench(int argc, char **argv, void *ctx);

#endif

/* `edgewise token|device|plan|trial|evidence …` and `edgewise model import|list`: what talks to a coordinator, for the table in main.c. */
#ifndef EW_CLI_OP_H
#define EW_CLI_OP_H

#include <jansson.h>

#include "base/status.h"
#include "opclient/opclient.h"
#include "sys/cli.h"

extern const ew_cli_command ew_cli_token_commands[];
extern const size_t ew_cli_n_token_commands;
extern const ew_cli_command ew_cli_device_commands[];
extern const size_t ew_cli_n_device_commands;
extern const ew_cli_command ew_cli_plan_commands[];
extern const size_t ew_cli_n_plan_commands;
extern const ew_cli_command ew_cli_trial_commands[];
extern const size_t ew_cli_n_trial_commands;
extern const ew_cli_command ew_cli_evidence_commands[];
extern const size_t ew_cli_n_evidence_commands;
int ew_cli_model_import(int argc, char **argv, void *ctx);
int ew_cli_model_list(int argc, char **argv, void *ctx);

/* Options that all of them share. */
typedef struct ew_cli_op {
    char *bundle;   /* --operator DIR */
    char *endpoint; /* --endpoint HOST:PORT */
    bool json;
} ew_cli_op;
#define EW_CLI_OP_OPTS(o)                                                                                              \
    {"operator",  'O',                                                                                                 \
     "DIR",       EW_CLI_STRING,                                                                                       \
     &(o).bundle, .help = "the operator's bundle, DIR/operator of the coordinator (default: $EDGEWISE_OPERATOR)"},     \
        {"endpoint",    0,                                                                                             \
         "HOST:PORT",   EW_CLI_STRING,                                                                                 \
         &(o).endpoint, .help = "where the coordinator listens (default: as the bundle says)"},                        \
    {                                                                                                                  \
        "json", 0, NULL, EW_CLI_FLAG, &(o).json, .help = "print JSON"                                                  \
    }

ew_status ew_cli_op_open(const ew_cli_op *o, ew_opclient **ret_client, ew_error *reterr) EW_MUST_CHECK;
/* One verb over a connection of its own. */
ew_status ew_cli_op_call(const ew_cli_op *o, const char *verb, const json_t *in, json_t **ret_out,
                         ew_error *reterr) EW_MUST_CHECK;
/* The exit status, with the error told on stderr. */
int ew_cli_op_end(ew_status st, const ew_error *err);

#endif

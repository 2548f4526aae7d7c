/* What the commands on LaMP share. */
#ifndef EW_CLI_LAMP_H
#define EW_CLI_LAMP_H

#include "base/status.h"
#include "task/lamp.h"

/* The task that is named, or that the first question is of (name NULL). */
ew_status ew_cli_lamp_task(const char *name, const char *questions, ew_lamp_task *ret_task,
                           ew_error *reterr) EW_MUST_CHECK;
void ew_cli_lamp_print_scores(const ew_lamp_answers *golds, const ew_lamp_scores *s, bool json);

int ew_cli_lamp_predict(int argc, char **argv, void *ctx);

#endif

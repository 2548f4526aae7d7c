/* Domain values in words, for people. Their JSON is record/. Locking: no state. */
#ifndef EW_SHOW_SHOW_H
#define EW_SHOW_SHOW_H

#include "base/buf.h"
#include "domain/plan.h"

/* A plan, some twenty lines: what was chosen, predictions with intervals, reasons with their evidence, runners-up and why not. */
void ew_show_plan_text(const ew_plan *p, ew_buf *out);
/* "deb-tiny q8_0 + lora" */
void ew_show_choice_name(const ew_choice *c, ew_buf *out);

#endif

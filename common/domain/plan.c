#include "domain/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

const ew_estimate *ew_choice_estimate(const ew_choice *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_estimates; i++) {
        if (strcmp(c->estimates[i].name, name) == 0) {
            return &c->estimates[i];
        }
    }
    return NULL;
}

bool ew_choice_add_estimate(ew_choice *c, const char *name, const char *unit, double mean, double low, double high)
{
    if (c->n_estimates == EW_CHOICE_ESTIMATES_MAX) {
        return false;
    }
    ew_estimate *e = &c->estimates[c->n_estimates++];
    *e = (ew_estimate){.mean = mean, .low = low, .high = high};
    ew_str_copy(e->name, sizeof(e->name), name);
    ew_str_copy(e->unit, sizeof(e->unit), unit);
    return true;
}

bool ew_choice_add_reason(ew_choice *c, const char *rule, const char *evidence_class, const char *fmt, ...)
{
    if (c->n_reasons == EW_CHOICE_REASONS_MAX) {
        return false;
    }
    ew_reason *r = &c->reasons[c->n_reasons++];
    memset(r, 0, sizeof(*r));
    ew_str_copy(r->rule, sizeof(r->rule), rule);
    ew_str_copy(r->evidence_class, sizeof(r->evidence_class), evidence_class);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->text, sizeof(r->text), fmt, ap);
    va_end(ap);
    return true;
}

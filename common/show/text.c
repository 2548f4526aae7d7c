/* A plan in words. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "show/show.h"

static void value(ew_buf *out, const char *unit, double v)
{
    char text[32];
    if (strcmp(unit, "B") == 0) {
        ew_buf_adds(out, ew_str_bytes(text, sizeof text, v > 0 ? (uint64_t)v : 0));
    } else if (strcmp(unit, "1") == 0) {
        ew_buf_addf(out, "%.3f", v);
    } else {
        ew_buf_addf(out, "%.*f %s", fabs(v) < 10 ? 2 : (fabs(v) < 100 ? 1 : 0), v, unit);
    }
}

void ew_show_choice_name(const ew_choice *c, ew_buf *out)
{
    ew_buf_addf(out, "%s %s + %s", c->model_name, c->variant, ew_method_name(c->method));
}

static void estimates(ew_buf *out, const ew_choice *c)
{
    for (uint32_t i = 0; i < c->n_estimates; i++) {
        const ew_estimate *e = &c->estimates[i];
        ew_buf_addf(out, "    %-10s ", e->name);
        value(out, e->unit, e->mean);
        ew_buf_adds(out, "  (90 %: ");
        value(out, e->unit, e->low);
        ew_buf_adds(out, " to ");
        value(out, e->unit, e->high);
        ew_buf_adds(out, ")\n");
    }
}

static void reasons(ew_buf *out, const ew_choice *c, const char *indent)
{
    for (uint32_t i = 0; i < c->n_reasons; i++) {
        const ew_reason *r = &c->reasons[i];
        ew_buf_addf(out, "%s%s [%s]: %s", indent, r->rule, r->evidence_class, r->text);
        for (uint32_t k = 0; k < r->n_trials; k++) {
            char id[9];
            ew_hex_encode(r->trials[k], 4, id);
            ew_buf_addf(out, "%s%s", k == 0 ? " (trials " : ", ", id);
        }
        ew_buf_adds(out, r->n_trials > 0 ? ")\n" : "\n");
    }
}

void ew_show_plan_text(const ew_plan *p, ew_buf *out)
{
    ew_buf_addf(out, "Plan for %s, task %s: ", p->device_id, p->task);
    ew_show_choice_name(&p->chosen, out);
    ew_buf_adds(out, "\n  predicted:\n");
    estimates(out, &p->chosen);
    ew_buf_adds(out, "  because:\n");
    reasons(out, &p->chosen, "    ");
    if (p->n_runners_up > 0) {
        ew_buf_adds(out, "  instead of:\n");
    }
    for (uint32_t i = 0; i < p->n_runners_up; i++) {
        ew_buf_adds(out, "    ");
        ew_show_choice_name(&p->runners_up[i], out);
        ew_buf_adds(out, p->runners_up[i].feasible ? "\n" : "  (not feasible)\n");
        reasons(out, &p->runners_up[i], "      ");
    }
}

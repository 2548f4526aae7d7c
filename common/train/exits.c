#include "train/exits.h"

#include <math.h>

ew_status ew_exits_spread(uint32_t L, uint32_t n_blocks, ew_adapter_opt *opt, ew_error *reterr)
{
    if (n_blocks < 2 || n_blocks > EW_ADAPTER_EXITS_MAX + 1 || n_blocks > L) {
        return ew_fail(reterr, EW_EINVAL, "%u layers do not make %u blocks: 2 to %u, and no more than layers", L,
                       n_blocks, EW_ADAPTER_EXITS_MAX + 1);
    }
    opt->n_exits = n_blocks - 1;
    uint32_t at = 0;
    for (uint32_t i = 0; i < opt->n_exits; i++) {
        at += L / n_blocks + (i < L % n_blocks);
        opt->exit[i] = at;
    }
    return EW_OK;
}

uint64_t ew_exits_phase_start(const ew_adapter_opt *opt, uint32_t phase, uint64_t steps)
{
    const uint64_t n = (uint64_t)opt->n_exits + 1;
    return phase >= n ? steps : steps / n * phase;
}

uint32_t ew_exits_phase(const ew_adapter_opt *opt, uint64_t step, uint64_t steps)
{
    const uint64_t each = steps / ((uint64_t)opt->n_exits + 1);
    return each == 0 ? opt->n_exits : (uint32_t)EW_MIN(step / each, (uint64_t)opt->n_exits);
}

ew_pass_window ew_exits_window(const ew_adapter_opt *opt, uint32_t L, uint32_t phase)
{
    const bool last = phase >= opt->n_exits;
    return (ew_pass_window){.first = phase > 0 ? opt->exit[phase - 1] : 0,
                            .last = last ? L : opt->exit[phase],
                            .exit = last ? -1 : (int)phase};
}

uint32_t ew_exits_depth(const ew_adapter_opt *opt, uint32_t L)
{
    uint32_t most = 0;
    for (uint32_t phase = 0; phase <= opt->n_exits; phase++) {
        const ew_pass_window w = ew_exits_window(opt, L, phase);
        most = EW_MAX(most, w.last - w.first);
    }
    return most;
}

void ew_exits_spans(const ew_model_config *cfg, const ew_adapter_opt *opt, size_t n_params, const ew_pass_window *w,
                    ew_adapter_span ret[static 2])
{
    /* Layer by layer, all alike, then the norms: adapter.h. */
    const size_t norm = (size_t)cfg->C * (cfg->norm == EW_NORM_LAYER ? 2 : 1), norms = norm * opt->n_exits;
    EW_ASSERT(n_params >= norms && (n_params - norms) % cfg->L == 0);
    const size_t layer = (n_params - norms) / cfg->L;
    ret[0] = (ew_adapter_span){w->first * layer, (w->last - w->first) * layer};
    ret[1] = w->exit < 0 ? (ew_adapter_span){n_params, 0}
                         : (ew_adapter_span){n_params - norms + (size_t)w->exit * norm, norm};
}

size_t ew_exits_most(const ew_model_config *cfg, const ew_adapter_opt *opt, size_t n_params)
{
    size_t most = 0;
    for (uint32_t phase = 0; phase <= opt->n_exits; phase++) {
        const ew_pass_window w = ew_exits_window(opt, cfg->L, phase);
        ew_adapter_span span[2];
        ew_exits_spans(cfg, opt, n_params, &w, span);
        most = EW_MAX(most, span[0].n + span[1].n);
    }
    return most;
}

typedef struct scaling {
    float *norm;
    size_t n;
    double now; /* log of the factor that is in norm */
    bool finite;
    ew_step_loss_fn loss;
    void *ctx;
} scaling;

static void scale_to(scaling *s, double log_factor)
{
    const float f = (float)exp(log_factor - s->now);
    for (size_t i = 0; i < s->n; i++) {
        s->norm[i] *= f;
    }
    s->now = log_factor;
}

static double loss_at(scaling *s, double log_factor)
{
    scale_to(s, log_factor);
    const double x = s->loss(s->ctx);
    s->finite = s->finite && isfinite(x);
    return x;
}

void ew_exits_calibrate(float *norm, size_t n, ew_step_loss_fn loss, void *ctx)
{
    const double golden = 0.61803398874989485;
    scaling s = {.norm = norm, .n = n, .finite = true, .loss = loss, .ctx = ctx};
    double lo = log(1.0 / 64), hi = log(2.0);
    double a = hi - golden * (hi - lo), b = lo + golden * (hi - lo);
    double at_a = loss_at(&s, a), at_b = loss_at(&s, b);
    for (int calls = 2; calls < EW_EXITS_CALIBRATE_CALLS && s.finite; calls++) {
        if (at_a < at_b) {
            hi = b;
            b = a;
            at_b = at_a;
            a = hi - golden * (hi - lo);
            at_a = loss_at(&s, a);
        } else {
            lo = a;
            a = b;
            at_a = at_b;
            b = lo + golden * (hi - lo);
            at_b = loss_at(&s, b);
        }
    }
    scale_to(&s, s.finite ? (lo + hi) / 2 : 0);
}

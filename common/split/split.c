#include "split/split.h"

#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

struct ew_split_session {
    ew_session *s;
    ew_split_opt opt;
    uint32_t C;
    uint32_t rows_max; /* of one step: its activations fit one frame's body */
    float *kept;       /* [n_ctx, C] inputs of [a, b), as the other side saw them */
    float *work;       /* [n_batch, C] */
    void *act;         /* [n_batch, C] encoded */
    void *ret_act;     /* [n_batch, C] encoded */
    uint64_t step;
    ew_split_stats stats;
};

static double seconds_since(uint64_t begin_ns)
{
    return (double)(ew_mono_ns() - begin_ns) * 1e-9;
}

/* Fills the cache of [a, b) for positions [0, n) from what was sent. */
static ew_status rebuild(ew_split_session *p, uint32_t n, ew_error *reterr)
{
    uint64_t begin = ew_mono_ns();
    uint32_t batch = ew_session_n_batch(p->s);
    for (uint32_t pos = 0; pos < n; pos += batch) {
        uint32_t k = EW_MIN(batch, n - pos);
        memcpy(p->work, p->kept + (size_t)pos * p->C, (size_t)k * p->C * sizeof(float));
        EW_TRY(ew_session_run(p->s, p->opt.first_layer, p->opt.last_layer, p->work, k, pos, reterr));
    }
    p->stats.rebuild_s = seconds_since(begin);
    return EW_OK;
}

static ew_status remote(ew_split_session *p, float *x, uint32_t n, uint32_t pos, ew_error *reterr)
{
    size_t elems = (size_t)n * p->C;
    size_t bytes = elems * ew_activation_bytes(p->opt.act);
    uint64_t begin = ew_mono_ns();
    ew_activation_encode(p->opt.act, x, elems, p->act);
    /* What the other side computes on is what was encoded: keep that, so that a rebuilt cache is the same as theirs. */
    EW_TRY(ew_activation_decode(p->opt.act, p->act, elems, p->kept + (size_t)pos * p->C, reterr));
    p->stats.bytes_out += bytes; /* they have left, whether an answer comes or not */
    ew_status st = p->opt.forward(p->opt.ctx, p->step, pos, n, p->act, bytes, p->ret_act, reterr);
    p->stats.wait_s += seconds_since(begin);
    EW_TRY(st);
    p->step++;
    p->stats.trips++;
    p->stats.bytes_in += bytes;
    return ew_activation_decode(p->opt.act, p->ret_act, elems, x, reterr);
}

/* At most p->rows_max rows. */
static ew_status run_rows(ew_split_session *p, float *x, uint32_t n, uint32_t pos, ew_error *reterr)
{
    if (!p->stats.local) {
        ew_error why = EW_ERROR_INIT;
        size_t elems = (size_t)n * p->C;
        /* An answer that does not decode whole leaves x half written: the input is put back. */
        memcpy(p->work, x, elems * sizeof(float));
        if (remote(p, x, n, pos, &why) == EW_OK) {
            return EW_OK;
        }
        memcpy(x, p->work, elems * sizeof(float));
        p->stats.local = true;
        p->stats.local_position = pos;
        if (p->opt.on_local != NULL) {
            p->opt.on_local(p->opt.ctx, pos, &why);
        }
        EW_TRY(rebuild(p, pos, reterr));
    }
    return ew_session_run(p->s, p->opt.first_layer, p->opt.last_layer, x, n, pos, reterr);
}

/* ew_segment_fn. */
static ew_status run_segment(void *ctx, float *x, size_t n, uint32_t pos, ew_error *reterr)
{
    ew_split_session *p = ctx;
    for (size_t at = 0; at < n; at += p->rows_max) {
        uint32_t k = (uint32_t)EW_MIN(n - at, (size_t)p->rows_max);
        EW_TRY(run_rows(p, x + at * p->C, k, pos + (uint32_t)at, reterr));
    }
    return EW_OK;
}

ew_status ew_split_session_new(ew_session *s, const ew_split_opt *opt, ew_split_session **ret_split, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(ew_session_model(s));
    if (opt->first_layer >= opt->last_layer || opt->last_layer > cfg->L) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not a part of a model with %u layers", opt->first_layer,
                       opt->last_layer, cfg->L);
    }
    EW_AUTO(ew_split_session) p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for split inference");
    }
    size_t row = cfg->C * sizeof(float);
    p->s = s;
    p->opt = *opt;
    p->C = cfg->C;
    p->rows_max = (uint32_t)EW_MAX(EW_LIMIT_BODY_BYTES / (cfg->C * ew_activation_bytes(opt->act)), (size_t)1);
    p->kept = ew_calloc(ew_session_n_ctx(s), row);
    p->work = ew_calloc(ew_session_n_batch(s), row);
    p->act = ew_calloc(ew_session_n_batch(s), row);
    p->ret_act = ew_calloc(ew_session_n_batch(s), row);
    if (p->kept == NULL || p->work == NULL || p->act == NULL || p->ret_act == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for split inference: %zu KiB are needed to keep what is sent",
                       ew_session_n_ctx(s) * row >> 10);
    }
    EW_TRY(ew_session_set_segment(s, opt->first_layer, opt->last_layer, run_segment, p, reterr));
    *ret_split = p;
    p = NULL;
    return EW_OK;
}

void ew_split_session_free(ew_split_session **pp)
{
    if (pp == NULL || *pp == NULL) {
        return;
    }
    ew_split_session *p = *pp;
    if (p->ret_act != NULL) {
        /* Clearing an installed segment cannot fail. */
        ew_status st = ew_session_set_segment(p->s, 0, 0, NULL, NULL, NULL);
        EW_ASSERT(st == EW_OK);
    }
    ew_free(p->kept);
    ew_free(p->work);
    ew_free(p->act);
    ew_free(p->ret_act);
    ew_free(p);
    *pp = NULL;
}

void ew_split_session_get_stats(const ew_split_session *p, ew_split_stats *ret_stats)
{
    *ret_stats = p->stats;
}

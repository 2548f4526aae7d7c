/* Finished trials as evidence: reading them, and pooling those that are like the question. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "planner/planner_int.h"
#include "record/record.h"
#include "text/json.h"

/* As many seconds say that the probe is right before any trial does: short trials measure little. */
#define SECONDS_PSEUDO 5.0

/* ---- JSON */

ew_status ew_evidence_to_json(const ew_trial_spec *spec, const ew_trial_result *result, const char *model_name,
                              uint64_t n_params, const char *device, json_t **ret_json, ew_error *reterr)
{
    EW_AUTO_JSON s = NULL;
    EW_AUTO_JSON r = NULL;
    EW_TRY(ew_record_from_spec(spec, &s, reterr));
    EW_TRY(ew_record_from_result(result, &r, reterr));
    (void)json_object_del(r, "spec"); /* once is enough */
    json_t *j = json_pack("{s:O, s:O, s:s, s:I, s:s}", "spec", s, "result", r, "model_name", model_name, "n_params",
                          (json_int_t)n_params, "device", device);
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for evidence");
    }
    *ret_json = j;
    return EW_OK;
}

/* The mean of the first of the names that the trial has; NAN. */
static double first_mean(const ew_trial_result *r, const char *a, const char *b)
{
    double v = ew_trial_result_mean(r, a);
    return isfinite(v) ? v : ew_trial_result_mean(r, b);
}

static void take_measures(const ew_trial_result *r, ew_evidence *e)
{
    e->score = first_mean(r, "val.score", "test.score");
    e->base_score = first_mean(r, "base.val.score", "base.test.score");
    e->nll = first_mean(r, "val.nll", "test.nll");
    e->base_nll = first_mean(r, "base.val.nll", "base.test.nll");
    e->seconds = ew_trial_result_mean(r, "seconds");
    /* By the device's rates alone, as the planner predicts: what the device saw of the moment is not in it. */
    e->seconds_predicted = ew_trial_result_mean(r, "seconds.by_rates");
    if (!isfinite(e->seconds_predicted)) {
        e->seconds_predicted = ew_trial_result_mean(r, "seconds.predicted");
    }
    e->ram_bytes = ew_trial_result_mean(r, "ram.peak_bytes");
    e->ram_predicted_bytes = ew_trial_result_mean(r, "ram.predicted_bytes");
    double n = ew_trial_result_mean(r, "n.history");
    if (n >= 0 && n < 1e9) {
        e->n_history = (uint32_t)n;
    }
}

static ew_status read_evidence(const json_t *j, ew_trial_spec *spec, ew_trial_result *result, ew_evidence *ret,
                               ew_error *reterr)
{
    const char *model = NULL, *device = "";
    json_t *sub = NULL;
    int64_t n_params = 0;
    EW_TRY(ew_json_get_obj(j, "evidence", "spec", &sub, reterr));
    EW_TRY(ew_record_to_spec(sub, spec, reterr));
    EW_TRY(ew_json_get_obj(j, "evidence", "result", &sub, reterr));
    EW_TRY(ew_record_to_result(sub, result, reterr));
    EW_TRY(ew_json_get_str(j, "evidence", "model_name", &model, reterr));
    EW_TRY(ew_json_get_i64(j, "evidence", "n_params", 0, INT64_MAX, &n_params, reterr));
    EW_TRY(ew_json_opt_str(j, "evidence", "device", &device, reterr));
    if (result->code != EW_OK) {
        return ew_fail(reterr, EW_EINVAL, "evidence: a trial that failed is none");
    }
    *ret = (ew_evidence){.n_params = (uint64_t)n_params, .method = spec->method, .n_history = spec->n_history};
    memcpy(ret->id, result->id, sizeof ret->id);
    (void)ew_str_copy(ret->task, sizeof ret->task, spec->task);
    (void)ew_str_copy(ret->model_name, sizeof ret->model_name, model);
    (void)ew_str_copy(ret->variant, sizeof ret->variant, spec->variant);
    (void)ew_str_copy(ret->device, sizeof ret->device, device);
    take_measures(result, ret);
    return EW_OK;
}

ew_status ew_evidence_from_json(const json_t *j, ew_evidence *ret, ew_error *reterr)
{
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_EINVAL, "evidence: an object was expected, not %s", ew_json_kind(j));
    }
    ew_trial_spec *spec = ew_calloc(1, sizeof *spec);
    ew_trial_result *result = ew_calloc(1, sizeof *result);
    ew_status st = spec == NULL || result == NULL ? ew_fail(reterr, EW_ENOMEM, "out of memory for evidence")
                                                  : read_evidence(j, spec, result, ret, reterr);
    ew_free(spec);
    ew_free(result);
    return st;
}

/* ---- similarity: 1 = the very same question */

static double similarity(const ew_planner_input *in, const ew_candidate *c, const ew_evidence *e, bool with_history)
{
    double w = strcmp(e->task, in->facts->task) == 0 ? 1.0 : 0.08;
    if (strcmp(e->model_name, c->name) != 0) {
        double a = (double)(c->n_params > 0 ? c->n_params : 1), b = (double)(e->n_params > 0 ? e->n_params : 1);
        w *= 0.8 * exp(-0.5 * fabs(log2(a / b)));
    }
    if (strcmp(e->variant, c->variant) != 0) {
        w *= 0.6;
    }
    if (with_history) {
        w *= exp(-0.7 * fabs(log2((0.6 * in->facts->n_items + 4) / (e->n_history + 4.0))));
    }
    return w;
}

static double value_of(const ew_evidence *e, ew__what what)
{
    switch (what) {
    case EW__GAIN_SCORE:
        return e->score - e->base_score;
    case EW__GAIN_NLL:
        return e->base_nll - e->nll;
    default:
        return e->base_score;
    }
}

static void note_id(ew__pool *p, const ew_evidence *e, double w)
{
    uint32_t at = p->n_ids;
    while (at > 0 && p->id_weight[at - 1] < w) {
        at--;
    }
    if (at == EW__POOL_IDS) {
        return;
    }
    uint32_t last = EW_MIN(p->n_ids, EW__POOL_IDS - 1);
    for (uint32_t i = last; i > at; i--) {
        p->id_weight[i] = p->id_weight[i - 1];
        memcpy(p->id[i], p->id[i - 1], EW_UID_BYTES);
    }
    p->id_weight[at] = w;
    memcpy(p->id[at], e->id, EW_UID_BYTES);
    p->n_ids = EW_MIN(p->n_ids + 1, (uint32_t)EW__POOL_IDS);
}

void ew__pool_trials(const ew_planner_input *in, const ew_candidate *c, ew_method method, ew__what what, ew__pool *ret)
{
    double sum = 0, squares = 0;
    *ret = (ew__pool){0};
    for (size_t i = 0; i < in->n_evidence; i++) {
        const ew_evidence *e = &in->evidence[i];
        double v = value_of(e, what);
        bool base = what == EW__BASE_SCORE;
        if (!isfinite(v) || (!base && e->method != method) || (base && strcmp(e->task, in->facts->task) != 0)) {
            continue;
        }
        double w = similarity(in, c, e, !base);
        if (w < 0.02) {
            continue;
        }
        ret->weight += w;
        sum += w * v;
        squares += w * v * v;
        ret->n += w >= 0.05;
        note_id(ret, e, w);
    }
    if (ret->weight > 0) {
        ret->mean = sum / ret->weight;
        ret->sd = sqrt(fmax(squares / ret->weight - ret->mean * ret->mean, 0));
    }
}

double ew__seconds_factor(const ew_planner_input *in, uint32_t *ret_n)
{
    double measured = SECONDS_PSEUDO, predicted = SECONDS_PSEUDO;
    uint32_t n = 0;
    for (size_t i = 0; i < in->n_evidence; i++) {
        const ew_evidence *e = &in->evidence[i];
        if (strcmp(e->device, in->device_id) == 0 && e->seconds > 0 && e->seconds_predicted > 0) {
            measured += e->seconds;
            predicted += e->seconds_predicted;
            n++;
        }
    }
    *ret_n = n;
    return fmin(fmax(measured / predicted, 0.5), 2); /* beyond that something else is wrong */
}

uint64_t ew__ram_offset(const ew_planner_input *in, uint32_t *ret_n)
{
    double sum = 0;
    uint32_t n = 0;
    for (size_t i = 0; i < in->n_evidence; i++) {
        const ew_evidence *e = &in->evidence[i];
        if (strcmp(e->device, in->device_id) == 0 && e->ram_bytes > 0 && e->ram_predicted_bytes > 0) {
            sum += e->ram_bytes - e->ram_predicted_bytes;
            n++;
        }
    }
    *ret_n = n;
    return sum > 0 ? (uint64_t)(sum / (n + 1.0)) : 0;
}

double ew__fact(const ew_task_facts *facts, const char *name)
{
    for (uint32_t i = 0; i < facts->n_measures && i < EW_COUNT(facts->measures); i++) {
        if (facts->measures[i].n > 0 && strcmp(facts->measures[i].name, name) == 0) {
            return facts->measures[i].values[0];
        }
    }
    return (double)NAN;
}

double ew__zero_shot(const ew_task_facts *facts, const ew_evidence *evidence, size_t n_evidence)
{
    static const char *const names[] = {"zero_shot.score", "zero_shot", "base.val.score", "base.score"};
    for (size_t k = 0; k < EW_COUNT(names); k++) {
        double v = ew__fact(facts, names[k]);
        if (isfinite(v)) {
            return v;
        }
    }
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < n_evidence; i++) {
        if (strcmp(evidence[i].task, facts->task) == 0 && isfinite(evidence[i].base_score)) {
            sum += evidence[i].base_score;
            n++;
        }
    }
    return n > 0 ? sum / (double)n : (double)NAN;
}

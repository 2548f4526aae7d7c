#include "record/record.h"

#include <math.h>
#include <string.h>

#include "base/str.h"
#include "text/json.h"

#define HEX_MAX (2 * EW_SHA256_BYTES + 1)

static json_t *hex_json(const uint8_t *bytes, size_t n)
{
    char hex[HEX_MAX];
    ew_hex_encode(bytes, n, hex);
    return json_string(hex);
}

/* Absent stays zero. */
static ew_status read_hex(const json_t *obj, const char *key, uint8_t *ret_bytes, size_t n, ew_error *reterr)
{
    const char *hex = NULL;
    EW_TRY(ew_json_opt_str(obj, NULL, key, &hex, reterr));
    if (hex != NULL && !ew_hex_decode(hex, ret_bytes, n)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' should be %zu hex digits", key, 2 * n);
    }
    return EW_OK;
}

static ew_status read_text(const json_t *obj, const char *key, char *dst, size_t size, ew_error *reterr)
{
    const char *s = NULL;
    EW_TRY(ew_json_opt_str(obj, NULL, key, &s, reterr));
    if (s != NULL && !ew_str_copy(dst, size, s)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' is longer than %zu bytes", key, size - 1);
    }
    return EW_OK;
}

/* Absent or null gives NULL; another type is an error. */
static ew_status read_array(const json_t *obj, const char *key, json_t **ret, ew_error *reterr)
{
    json_t *v = json_object_get(obj, key);
    if (v != NULL && !json_is_null(v) && !json_is_array(v)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' should be an array", key);
    }
    *ret = json_is_array(v) ? v : NULL;
    return EW_OK;
}

static ew_status read_object(const json_t *obj, const char *key, json_t **ret, ew_error *reterr)
{
    json_t *v = json_object_get(obj, key);
    if (v != NULL && !json_is_null(v) && !json_is_object(v)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' should be an object", key);
    }
    *ret = json_is_object(v) ? v : NULL;
    return EW_OK;
}

static ew_status read_u64(const json_t *obj, const char *key, uint64_t max, uint64_t *ret, ew_error *reterr)
{
    int64_t v = (int64_t)*ret;
    EW_TRY(ew_json_opt_i64(obj, NULL, key, 0, (int64_t)EW_MIN(max, (uint64_t)INT64_MAX), &v, reterr));
    *ret = (uint64_t)v;
    return EW_OK;
}

static ew_status read_u32(const json_t *obj, const char *key, uint32_t *ret, ew_error *reterr)
{
    uint64_t v = *ret;
    EW_TRY(read_u64(obj, key, UINT32_MAX, &v, reterr));
    *ret = (uint32_t)v;
    return EW_OK;
}

/* jansson has no number for NAN and infinities: they are written as null. */
static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* Messages may have been cut inside a character, and quote what others sent. */
static json_t *text_json(const char *s)
{
    json_t *j = json_string(s);
    if (j == NULL) {
        char plain[EW_ERROR_MSG_MAX];
        (void)ew_str_copy(plain, sizeof(plain), s);
        for (char *p = plain; *p != '\0'; p++) {
            *p = (unsigned char)*p >= 0x80 ? '?' : *p;
        }
        j = json_string(plain);
    }
    return j;
}

static ew_status made(json_t *j, json_t **ret_json, ew_error *reterr)
{
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a JSON record (or a text in it is not UTF-8)");
    }
    *ret_json = j;
    return EW_OK;
}

ew_status ew_record_status(const char *name)
{
    for (int code = EW_OK; code >= EW_EINTERNAL; code--) {
        if (strcmp(ew_status_name((ew_status)code), name) == 0) {
            return (ew_status)code;
        }
    }
    return EW_EINTERNAL;
}

/* ---- settings, budget ---- */

static json_t *settings_json(const ew_settings *s)
{
    json_t *j = json_object();
    for (size_t i = 0; i < ew_setting_count; i++) {
        double v = ew_settings_get(s, ew_setting_table[i].name);
        if (v != 0 && isfinite(v)) {
            (void)json_object_set_new(j, ew_setting_table[i].name,
                                      ew_setting_table[i].is_double ? json_real(v) : json_integer((json_int_t)v));
        }
    }
    return j;
}

static ew_status read_settings(const json_t *obj, ew_settings *ret, ew_error *reterr)
{
    json_t *j = NULL;
    const char *key;
    json_t *value;
    EW_TRY(read_object(obj, "settings", &j, reterr));
    json_object_foreach(j, key, value)
    {
        if (!json_is_number(value)) {
            return ew_fail(reterr, EW_ECORRUPT, "setting '%s' should be a number", key);
        }
        EW_TRY(ew_settings_set(ret, key, json_number_value(value), reterr));
    }
    return EW_OK;
}

static json_t *budget_json(const ew_budget *b)
{
    return json_pack("{s:I,s:I,s:o,s:o,s:b}", "ram_bytes", (json_int_t)b->ram_bytes, "disk_bytes",
                     (json_int_t)b->disk_bytes, "seconds", real(b->seconds), "joules", real(b->joules), "mains_only",
                     b->mains_only);
}

static ew_status read_budget(const json_t *obj, ew_budget *ret, ew_error *reterr)
{
    json_t *j = NULL;
    EW_TRY(read_object(obj, "budget", &j, reterr));
    if (j == NULL) {
        return EW_OK;
    }
    EW_TRY(read_u64(j, "ram_bytes", INT64_MAX, &ret->ram_bytes, reterr));
    EW_TRY(read_u64(j, "disk_bytes", INT64_MAX, &ret->disk_bytes, reterr));
    EW_TRY(ew_json_opt_f64(j, NULL, "seconds", &ret->seconds, reterr));
    EW_TRY(ew_json_opt_f64(j, NULL, "joules", &ret->joules, reterr));
    return ew_json_opt_bool(j, NULL, "mains_only", &ret->mains_only, reterr);
}

/* ---- trial ---- */

ew_status ew_record_from_spec(const ew_trial_spec *s, json_t **ret_json, ew_error *reterr)
{
    json_t *j = json_pack("{s:o,s:o,s:s,s:s,s:o,s:s,s:s,s:I,s:I,s:o,s:o,s:b,s:I,s:I,s:I,s:I}", "trial",
                          hex_json(s->id, EW_UID_BYTES), "experiment", hex_json(s->experiment_id, EW_UID_BYTES), "task",
                          s->task, "source", s->source, "model", hex_json(s->model_sha256, EW_SHA256_BYTES), "variant",
                          s->variant, "method", ew_method_name(s->method), "n_history", (json_int_t)s->n_history,
                          "seed", (json_int_t)s->seed, "settings", settings_json(&s->settings), "budget",
                          budget_json(&s->budget), "force", s->force, "repeats", (json_int_t)s->repeats, "warmup",
                          (json_int_t)s->warmup, "lease_ms", (json_int_t)s->lease_ms, "fence", (json_int_t)s->fence);
    return made(j, ret_json, reterr);
}

static ew_status read_method(const json_t *j, ew_method *ret, ew_error *reterr)
{
    const char *name = NULL;
    EW_TRY(ew_json_get_str(j, NULL, "method", &name, reterr));
    *ret = ew_method_from_name(name);
    if (*ret == EW_METHOD_UNSPECIFIED) {
        return ew_fail(reterr, EW_EINVAL, "unknown method '%s'", name);
    }
    return EW_OK;
}

ew_status ew_record_to_spec(const json_t *j, ew_trial_spec *ret_spec, ew_error *reterr)
{
    ew_trial_spec s = {0};
    EW_TRY(read_hex(j, "trial", s.id, EW_UID_BYTES, reterr));
    EW_TRY(read_hex(j, "experiment", s.experiment_id, EW_UID_BYTES, reterr));
    EW_TRY(read_text(j, "task", s.task, sizeof(s.task), reterr));
    EW_TRY(read_text(j, "source", s.source, sizeof(s.source), reterr));
    EW_TRY(read_hex(j, "model", s.model_sha256, EW_SHA256_BYTES, reterr));
    EW_TRY(read_text(j, "variant", s.variant, sizeof(s.variant), reterr));
    EW_TRY(read_method(j, &s.method, reterr));
    EW_TRY(read_u32(j, "n_history", &s.n_history, reterr));
    int64_t seed = 0; /* the same 64 bits: JSON here has no larger integers */
    EW_TRY(ew_json_opt_i64(j, NULL, "seed", INT64_MIN, INT64_MAX, &seed, reterr));
    s.seed = (uint64_t)seed;
    EW_TRY(read_settings(j, &s.settings, reterr));
    EW_TRY(read_budget(j, &s.budget, reterr));
    EW_TRY(ew_json_opt_bool(j, NULL, "force", &s.force, reterr));
    EW_TRY(read_u32(j, "repeats", &s.repeats, reterr));
    EW_TRY(read_u32(j, "warmup", &s.warmup, reterr));
    EW_TRY(read_u64(j, "lease_ms", INT64_MAX, &s.lease_ms, reterr));
    EW_TRY(read_u64(j, "fence", INT64_MAX, &s.fence, reterr));
    EW_TRY(ew_trial_spec_check(&s, reterr));
    *ret_spec = s;
    return EW_OK;
}

static json_t *measures_json(const ew_measure *m, size_t n)
{
    json_t *all = json_object();
    for (size_t i = 0; i < n; i++) {
        json_t *values = json_array();
        for (uint32_t k = 0; k < m[i].n; k++) {
            (void)json_array_append_new(values, real(m[i].values[k]));
        }
        (void)json_object_set_new(all, m[i].name, json_pack("{s:s,s:o}", "unit", m[i].unit, "values", values));
    }
    return all;
}

static ew_status read_measures(const json_t *obj, ew_trial_result *r, ew_error *reterr)
{
    json_t *all = NULL;
    EW_TRY(read_object(obj, "measures", &all, reterr));
    const char *name;
    json_t *m;
    json_object_foreach(all, name, m)
    {
        const char *unit = "";
        json_t *values = NULL;
        json_t *v;
        size_t i;
        EW_TRY(ew_json_opt_str(m, name, "unit", &unit, reterr));
        EW_TRY(ew_json_get_arr(m, name, "values", &values, reterr));
        if (strlen(name) >= sizeof(r->measures[0].name) || strlen(unit) >= sizeof(r->measures[0].unit)) {
            return ew_fail(reterr, EW_ECORRUPT, "measure '%.60s': its name or unit is too long", name);
        }
        json_array_foreach(values, i, v)
        {
            if (!json_is_number(v) || !ew_trial_result_add(r, name, unit, json_number_value(v))) {
                return ew_fail(reterr, EW_ECORRUPT, "measure '%s' has a value that is no number, or there are too many",
                               name);
            }
        }
    }
    return EW_OK;
}

ew_status ew_record_from_result(const ew_trial_result *r, json_t **ret_json, ew_error *reterr)
{
    json_t *j =
        json_pack("{s:o,s:I,s:s,s:o,s:o,s:o}", "trial", hex_json(r->id, EW_UID_BYTES), "fence", (json_int_t)r->fence,
                  "code", ew_status_name(r->code), "detail", text_json(r->detail), "measures",
                  measures_json(r->measures, r->n_measures), "env", hex_json(r->env_hash, EW_SHA256_BYTES));
    if (j != NULL && r->has_spec) {
        json_t *spec = NULL;
        ew_status st = ew_record_from_spec(&r->spec, &spec, reterr);
        if (st != EW_OK) {
            json_decref(j);
            return st;
        }
        (void)json_object_set_new(j, "spec", spec);
    }
    return made(j, ret_json, reterr);
}

ew_status ew_record_to_result(const json_t *j, ew_trial_result *ret_result, ew_error *reterr)
{
    const char *code = "";
    *ret_result = (ew_trial_result){0};
    EW_TRY(read_hex(j, "trial", ret_result->id, EW_UID_BYTES, reterr));
    EW_TRY(read_u64(j, "fence", INT64_MAX, &ret_result->fence, reterr));
    EW_TRY(ew_json_get_str(j, NULL, "code", &code, reterr));
    ret_result->code = ew_record_status(code);
    EW_TRY(read_text(j, "detail", ret_result->detail, sizeof(ret_result->detail), reterr));
    EW_TRY(read_measures(j, ret_result, reterr));
    EW_TRY(read_hex(j, "env", ret_result->env_hash, EW_SHA256_BYTES, reterr));
    json_t *spec = NULL;
    EW_TRY(read_object(j, "spec", &spec, reterr));
    if (spec != NULL) {
        EW_TRY(ew_record_to_spec(spec, &ret_result->spec, reterr));
        ret_result->has_spec = true;
    }
    return EW_OK;
}

/* ---- device ---- */

#define WORDS_JSON(words, n) words_json(&(words)[0][0], sizeof((words)[0]), (n))

static json_t *words_json(const char *words, size_t size, uint32_t n)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < n; i++) {
        (void)json_array_append_new(all, json_string(words + i * size));
    }
    return all;
}

static ew_status read_words(const json_t *obj, const char *key, char *words, size_t size, uint32_t max, uint32_t *ret_n,
                            ew_error *reterr)
{
    json_t *all = NULL;
    EW_TRY(read_array(obj, key, &all, reterr));
    json_t *v;
    size_t i;
    json_array_foreach(all, i, v)
    {
        if (i >= max || !json_is_string(v) || !ew_str_copy(words + i * size, size, json_string_value(v))) {
            return ew_fail(reterr, EW_ECORRUPT, "'%s' should be at most %u words of at most %zu bytes", key, max,
                           size - 1);
        }
        *ret_n = (uint32_t)i + 1;
    }
    return EW_OK;
}

ew_status ew_record_from_caps(const ew_device_caps *c, json_t **ret_json, ew_error *reterr)
{
    json_t *rates = json_array();
    for (uint32_t i = 0; i < c->n_rates; i++) {
        const ew_rate *r = &c->rates[i];
        (void)json_array_append_new(rates, json_pack("{s:s,s:s,s:o,s:o,s:I}", "name", r->name, "unit", r->unit, "value",
                                                     real(r->value), "spread", real(r->spread), "measured_unix_ms",
                                                     (json_int_t)r->measured_unix_ms));
    }
    json_t *j =
        json_pack("{s:s,s:s,s:I,s:I,s:I,s:o,s:o,s:o,s:o}", "arch", c->arch, "class", c->device_class, "cores",
                  (json_int_t)c->cores, "ram_bytes", (json_int_t)c->ram_bytes, "disk_bytes", (json_int_t)c->disk_bytes,
                  "isa", WORDS_JSON(c->isa, c->n_isa), "dtypes", WORDS_JSON(c->dtypes, c->n_dtypes), "features",
                  WORDS_JSON(c->features, c->n_features), "rates", rates);
    return made(j, ret_json, reterr);
}

static ew_status read_rates(const json_t *obj, ew_device_caps *c, ew_error *reterr)
{
    json_t *all = NULL;
    EW_TRY(read_array(obj, "rates", &all, reterr));
    json_t *v;
    size_t i;
    json_array_foreach(all, i, v)
    {
        if (i >= EW_CAPS_RATES_MAX) {
            return ew_fail(reterr, EW_ECORRUPT, "more than %d rates", EW_CAPS_RATES_MAX);
        }
        ew_rate *r = &c->rates[i];
        EW_TRY(read_text(v, "name", r->name, sizeof(r->name), reterr));
        EW_TRY(read_text(v, "unit", r->unit, sizeof(r->unit), reterr));
        EW_TRY(ew_json_get_f64(v, "rates", "value", &r->value, reterr));
        EW_TRY(ew_json_opt_f64(v, "rates", "spread", &r->spread, reterr));
        EW_TRY(read_u64(v, "measured_unix_ms", INT64_MAX, &r->measured_unix_ms, reterr));
        c->n_rates = (uint32_t)i + 1;
    }
    return EW_OK;
}

ew_status ew_record_to_caps(const json_t *j, ew_device_caps *ret, ew_error *reterr)
{
    *ret = (ew_device_caps){0};
    EW_TRY(read_text(j, "arch", ret->arch, sizeof(ret->arch), reterr));
    EW_TRY(read_text(j, "class", ret->device_class, sizeof(ret->device_class), reterr));
    EW_TRY(read_u32(j, "cores", &ret->cores, reterr));
    EW_TRY(read_u64(j, "ram_bytes", INT64_MAX, &ret->ram_bytes, reterr));
    EW_TRY(read_u64(j, "disk_bytes", INT64_MAX, &ret->disk_bytes, reterr));
    EW_TRY(read_words(j, "isa", ret->isa[0], sizeof(ret->isa[0]), EW_CAPS_ISA_MAX, &ret->n_isa, reterr));
    EW_TRY(read_words(j, "dtypes", ret->dtypes[0], sizeof(ret->dtypes[0]), EW_CAPS_DTYPES_MAX, &ret->n_dtypes, reterr));
    EW_TRY(read_words(j, "features", ret->features[0], sizeof(ret->features[0]), EW_CAPS_FEATURES_MAX, &ret->n_features,
                      reterr));
    return read_rates(j, ret, reterr);
}

ew_status ew_record_from_state(const ew_device_state *s, json_t **ret_json, ew_error *reterr)
{
    json_t *j =
        json_pack("{s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:b,s:b,s:I}", "ram_available_bytes",
                  (json_int_t)s->ram_available_bytes, "disk_free_bytes", (json_int_t)s->disk_free_bytes,
                  "memory_limit_bytes", (json_int_t)s->memory_limit_bytes, "battery", real(s->battery), "temperature_c",
                  real(s->temperature_c), "link_rtt_ms", real(s->link_rtt_ms), "link_mbps", real(s->link_mbps),
                  "on_mains", s->on_mains, "metered", s->metered, "consents", (json_int_t)s->consents);
    return made(j, ret_json, reterr);
}

/* ---- plan ---- */

static json_t *reasons_json(const ew_choice *c)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < c->n_reasons; i++) {
        const ew_reason *r = &c->reasons[i];
        json_t *trials = json_array();
        for (uint32_t k = 0; k < r->n_trials; k++) {
            (void)json_array_append_new(trials, hex_json(r->trials[k], EW_UID_BYTES));
        }
        (void)json_array_append_new(all, json_pack("{s:s,s:o,s:s,s:o}", "rule", r->rule, "text", text_json(r->text),
                                                   "class", r->evidence_class, "trials", trials));
    }
    return all;
}

static json_t *choice_json(const ew_choice *c)
{
    json_t *estimates = json_object();
    json_t *placements = json_array();
    for (uint32_t i = 0; i < c->n_estimates; i++) {
        const ew_estimate *e = &c->estimates[i];
        (void)json_object_set_new(estimates, e->name,
                                  json_pack("{s:s,s:o,s:o,s:o}", "unit", e->unit, "mean", real(e->mean), "low",
                                            real(e->low), "high", real(e->high)));
    }
    for (uint32_t i = 0; i < c->n_placements; i++) {
        const ew_placement *p = &c->placements[i];
        (void)json_array_append_new(
            placements, json_pack("{s:I,s:I,s:s,s:s,s:s}", "first_layer", (json_int_t)p->first_layer, "last_layer",
                                  (json_int_t)p->last_layer, "where", p->where == EW_WHERE_CLOUD ? "cloud" : "edge",
                                  "weight_dtype", p->weight_dtype, "act_dtype", p->act_dtype));
    }
    return json_pack("{s:o,s:s,s:s,s:s,s:b,s:o,s:o,s:o,s:o}", "model", hex_json(c->model_sha256, EW_SHA256_BYTES),
                     "model_name", c->model_name, "variant", c->variant, "method", ew_method_name(c->method),
                     "feasible", c->feasible, "settings", settings_json(&c->settings), "estimates", estimates,
                     "reasons", reasons_json(c), "placements", placements);
}

ew_status ew_record_from_plan(const ew_plan *p, json_t **ret_json, ew_error *reterr)
{
    json_t *runners = json_array();
    for (uint32_t i = 0; i < p->n_runners_up; i++) {
        (void)json_array_append_new(runners, choice_json(&p->runners_up[i]));
    }
    json_t *j =
        json_pack("{s:o,s:s,s:s,s:o,s:o,s:o,s:I,s:I,s:I}", "plan", hex_json(p->id, EW_UID_BYTES), "task", p->task,
                  "device", p->device_id, "chosen", choice_json(&p->chosen), "runners_up", runners, "budget",
                  budget_json(&p->budget), "made_unix_ms", (json_int_t)p->made_unix_ms, "valid_until_unix_ms",
                  (json_int_t)p->valid_until_unix_ms, "evidence_version", (json_int_t)p->evidence_version);
    return made(j, ret_json, reterr);
}

static ew_status read_reasons(const json_t *obj, ew_choice *c, ew_error *reterr)
{
    json_t *v;
    size_t i;
    json_t *all = NULL;
    EW_TRY(read_array(obj, "reasons", &all, reterr));
    json_array_foreach(all, i, v)
    {
        if (i >= EW_CHOICE_REASONS_MAX) {
            break;
        }
        ew_reason *r = &c->reasons[i];
        EW_TRY(read_text(v, "rule", r->rule, sizeof(r->rule), reterr));
        EW_TRY(read_text(v, "text", r->text, sizeof(r->text), reterr));
        EW_TRY(read_text(v, "class", r->evidence_class, sizeof(r->evidence_class), reterr));
        json_t *trials = NULL;
        json_t *trial;
        size_t k;
        EW_TRY(read_array(v, "trials", &trials, reterr));
        json_array_foreach(trials, k, trial)
        {
            const char *hex = json_string_value(trial);
            if (k >= EW_REASON_TRIALS_MAX || hex == NULL || !ew_hex_decode(hex, r->trials[k], EW_UID_BYTES)) {
                return ew_fail(reterr, EW_ECORRUPT, "a reason names a trial that is no identifier");
            }
            r->n_trials = (uint32_t)k + 1;
        }
        c->n_reasons = (uint32_t)i + 1;
    }
    return EW_OK;
}

static ew_status read_placements(const json_t *obj, ew_choice *c, ew_error *reterr)
{
    json_t *all = NULL;
    json_t *v;
    size_t i;
    EW_TRY(read_array(obj, "placements", &all, reterr));
    json_array_foreach(all, i, v)
    {
        const char *where = "";
        if (i >= EW_CHOICE_PLACEMENTS_MAX) {
            break;
        }
        ew_placement *p = &c->placements[i];
        EW_TRY(read_u32(v, "first_layer", &p->first_layer, reterr));
        EW_TRY(read_u32(v, "last_layer", &p->last_layer, reterr));
        EW_TRY(ew_json_opt_str(v, NULL, "where", &where, reterr));
        EW_TRY(read_text(v, "weight_dtype", p->weight_dtype, sizeof(p->weight_dtype), reterr));
        EW_TRY(read_text(v, "act_dtype", p->act_dtype, sizeof(p->act_dtype), reterr));
        if (strcmp(where, "cloud") != 0 && strcmp(where, "edge") != 0) {
            return ew_fail(reterr, EW_ECORRUPT, "'where' of a placement should be cloud or edge, is '%.20s'", where);
        }
        p->where = strcmp(where, "cloud") == 0 ? EW_WHERE_CLOUD : EW_WHERE_EDGE;
        c->n_placements = (uint32_t)i + 1;
    }
    return EW_OK;
}

static ew_status read_choice(const json_t *j, ew_choice *c, ew_error *reterr)
{
    const char *name;
    json_t *v;
    EW_TRY(read_hex(j, "model", c->model_sha256, EW_SHA256_BYTES, reterr));
    EW_TRY(read_text(j, "model_name", c->model_name, sizeof(c->model_name), reterr));
    EW_TRY(read_text(j, "variant", c->variant, sizeof(c->variant), reterr));
    EW_TRY(read_method(j, &c->method, reterr));
    EW_TRY(ew_json_opt_bool(j, NULL, "feasible", &c->feasible, reterr));
    EW_TRY(read_settings(j, &c->settings, reterr));
    json_t *estimates = NULL;
    EW_TRY(read_object(j, "estimates", &estimates, reterr));
    json_object_foreach(estimates, name, v)
    {
        const char *unit = "";
        double mean = NAN;
        double low = NAN;
        double high = NAN;
        EW_TRY(ew_json_opt_str(v, name, "unit", &unit, reterr));
        EW_TRY(ew_json_opt_f64(v, name, "mean", &mean, reterr));
        EW_TRY(ew_json_opt_f64(v, name, "low", &low, reterr));
        EW_TRY(ew_json_opt_f64(v, name, "high", &high, reterr));
        (void)ew_choice_add_estimate(c, name, unit, mean, low, high);
    }
    EW_TRY(read_reasons(j, c, reterr));
    return read_placements(j, c, reterr);
}

ew_status ew_record_to_plan(const json_t *j, ew_plan *p, ew_error *reterr)
{
    json_t *v = NULL;
    size_t i;
    memset(p, 0, sizeof(*p));
    EW_TRY(read_hex(j, "plan", p->id, EW_UID_BYTES, reterr));
    EW_TRY(read_text(j, "task", p->task, sizeof(p->task), reterr));
    EW_TRY(read_text(j, "device", p->device_id, sizeof(p->device_id), reterr));
    EW_TRY(ew_json_get_obj(j, NULL, "chosen", &v, reterr));
    EW_TRY(read_choice(v, &p->chosen, reterr));
    json_t *runners = NULL;
    EW_TRY(read_array(j, "runners_up", &runners, reterr));
    json_array_foreach(runners, i, v)
    {
        if (i < EW_PLAN_RUNNERS_UP_MAX) {
            EW_TRY(read_choice(v, &p->runners_up[i], reterr));
            p->n_runners_up = (uint32_t)i + 1;
        }
    }
    EW_TRY(read_budget(j, &p->budget, reterr));
    EW_TRY(read_u64(j, "made_unix_ms", INT64_MAX, &p->made_unix_ms, reterr));
    EW_TRY(read_u64(j, "valid_until_unix_ms", INT64_MAX, &p->valid_until_unix_ms, reterr));
    return read_u64(j, "evidence_version", INT64_MAX, &p->evidence_version, reterr);
}

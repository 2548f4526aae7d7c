/* Domain values as JSON and back. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "record/record.h"
#include "text/json.h"

static void fill(ew_rng *rng, void *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)dst)[i] = (uint8_t)ew_rng_u64(rng);
    }
}

static void word(ew_rng *rng, char *dst, size_t size)
{
    size_t n = 1 + ew_rng_below(rng, size - 1);
    for (size_t i = 0; i < n; i++) {
        dst[i] = (char)('a' + ew_rng_below(rng, 26));
    }
    dst[n] = '\0';
}

static ew_method random_method(ew_rng *rng)
{
    return (ew_method)(1 + ew_rng_below(rng, EW_METHOD_COUNT - 1));
}

static void random_settings(ew_rng *rng, ew_settings *s)
{
    for (size_t i = 0; i < ew_setting_count; i++) {
        const ew_setting_desc *d = &ew_setting_table[i];
        double max = fmin(d->max, 1e6);
        double v = d->min + ew_rng_f64(rng) * (max - d->min);
        if (ew_rng_below(rng, 2) == 0) {
            assert_int_equal(ew_settings_set(s, d->name, d->is_double ? v : floor(v), NULL), EW_OK);
        }
    }
}

static void random_spec(ew_rng *rng, ew_trial_spec *s)
{
    static const char *const variants[] = {"f16", "q8_0", "q4_0"};
    *s = (ew_trial_spec){.method = random_method(rng)};
    fill(rng, s->id, sizeof(s->id));
    fill(rng, s->experiment_id, sizeof(s->experiment_id));
    fill(rng, s->model_sha256, sizeof(s->model_sha256));
    word(rng, s->task, 20);
    (void)ew_str_copy(s->source, sizeof(s->source), ew_rng_below(rng, 2) == 0 ? "profile" : "benchmark:0af3:u-1");
    (void)ew_str_copy(s->variant, sizeof(s->variant), variants[ew_rng_below(rng, 3)]);
    s->n_history = (uint32_t)ew_rng_below(rng, 1000);
    s->seed = ew_rng_u64(rng) >> 1;
    random_settings(rng, &s->settings);
    s->budget = (ew_budget){.ram_bytes = ew_rng_u64(rng) >> 20,
                            .disk_bytes = ew_rng_u64(rng) >> 20,
                            .seconds = ew_rng_f64(rng) * 1000,
                            .joules = ew_rng_f64(rng),
                            .mains_only = ew_rng_below(rng, 2) == 0};
    s->force = ew_rng_below(rng, 2) == 0;
    s->repeats = (uint32_t)ew_rng_below(rng, 4);
    s->warmup = (uint32_t)ew_rng_below(rng, 4);
    s->lease_ms = ew_rng_u64(rng) >> 30;
    s->fence = ew_rng_u64(rng) >> 1;
}

/* Through text, as files and pipes carry it. */
static json_t *through_text(json_t *j)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    json_t *again = NULL;
    assert_ok(ew_json_dump(j, 0, &text, &err), &err);
    json_decref(j);
    assert_ok(ew_json_load("test", ew_buf_str(&text), text.size, &again, &err), &err);
    return again;
}

static void assert_same_json(json_t *a, json_t *b)
{
    if (json_equal(a, b) == 0) {
        char *x = json_dumps(a, JSON_SORT_KEYS);
        char *y = json_dumps(b, JSON_SORT_KEYS);
        print_error("%s\n%s\n", x, y);
        free(x);
        free(y);
        fail();
    }
    json_decref(a);
    json_decref(b);
}

static void assert_same_spec(const ew_trial_spec *a, const ew_trial_spec *b)
{
    assert_memory_equal(a->id, b->id, sizeof(a->id));
    assert_memory_equal(a->experiment_id, b->experiment_id, sizeof(a->id));
    assert_memory_equal(a->model_sha256, b->model_sha256, sizeof(a->model_sha256));
    assert_string_equal(a->task, b->task);
    assert_string_equal(a->source, b->source);
    assert_string_equal(a->variant, b->variant);
    assert_int_equal(a->method, b->method);
    assert_int_equal(a->n_history, b->n_history);
    assert_true(a->seed == b->seed);
    for (size_t i = 0; i < ew_setting_count; i++) {
        double x = ew_settings_get(&a->settings, ew_setting_table[i].name);
        double y = ew_settings_get(&b->settings, ew_setting_table[i].name);
        if (x != y && !(isnan(x) && isnan(y))) {
            fail_msg("setting %s: %.17g became %.17g", ew_setting_table[i].name, x, y);
        }
    }
    assert_true(a->budget.ram_bytes == b->budget.ram_bytes && a->budget.disk_bytes == b->budget.disk_bytes);
    assert_true(a->budget.seconds == b->budget.seconds && a->budget.joules == b->budget.joules);
    assert_int_equal(a->budget.mains_only, b->budget.mains_only);
    assert_int_equal(a->force, b->force);
    assert_int_equal(a->repeats, b->repeats);
    assert_int_equal(a->warmup, b->warmup);
    assert_true(a->lease_ms == b->lease_ms && a->fence == b->fence);
}

static void specs_come_back_as_they_were(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    (void)state;
    ew_rng_init(&rng, 1, 0);
    for (int i = 0; i < 300; i++) {
        ew_trial_spec a;
        ew_trial_spec b;
        json_t *j = NULL;
        random_spec(&rng, &a);
        assert_ok(ew_record_from_spec(&a, &j, &err), &err);
        j = through_text(j);
        assert_ok(ew_record_to_spec(j, &b, &err), &err);
        assert_same_spec(&a, &b);
        json_decref(j);
    }
}

static void a_seed_of_all_64_bits_comes_back(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    ew_trial_spec a;
    ew_trial_spec b;
    json_t *j = NULL;
    (void)state;
    ew_rng_init(&rng, 2, 0);
    random_spec(&rng, &a);
    a.seed = UINT64_MAX - 5;
    assert_ok(ew_record_from_spec(&a, &j, &err), &err);
    j = through_text(j);
    assert_ok(ew_record_to_spec(j, &b, &err), &err);
    assert_true(a.seed == b.seed);
    json_decref(j);
}

static void results_come_back_as_they_were(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    (void)state;
    ew_rng_init(&rng, 3, 0);
    ew_trial_result *a = ew_xcalloc(1, sizeof(*a));
    ew_trial_result *b = ew_xcalloc(1, sizeof(*b));
    for (int i = 0; i < 100; i++) {
        memset(a, 0, sizeof(*a));
        fill(&rng, a->id, sizeof(a->id));
        fill(&rng, a->env_hash, sizeof(a->env_hash));
        a->fence = ew_rng_u64(&rng) >> 1;
        a->code = -(int)ew_rng_below(&rng, 17);
        word(&rng, a->detail, sizeof(a->detail));
        size_t n = ew_rng_below(&rng, EW_MEASURES_MAX + 1);
        for (size_t m = 0; m < n; m++) {
            char name[48];
            (void)snprintf(name, sizeof(name), "m%zu.", m);
            word(&rng, name + strlen(name), 20);
            for (size_t k = ew_rng_below(&rng, EW_MEASURE_VALUES_MAX); k < EW_MEASURE_VALUES_MAX; k++) {
                assert_true(ew_trial_result_add(a, name, "1", ew_rng_normal(&rng) * pow(10, (double)(k % 20))));
            }
        }
        a->has_spec = ew_rng_below(&rng, 2) == 0;
        if (a->has_spec) {
            random_spec(&rng, &a->spec);
        }
        json_t *j = NULL;
        assert_ok(ew_record_from_result(a, &j, &err), &err);
        j = through_text(j);
        assert_ok(ew_record_to_result(j, b, &err), &err);
        json_decref(j);
        assert_memory_equal(a->id, b->id, sizeof(a->id));
        assert_memory_equal(a->env_hash, b->env_hash, sizeof(a->env_hash));
        assert_true(a->fence == b->fence);
        assert_int_equal(a->code, b->code);
        assert_string_equal(a->detail, b->detail);
        assert_int_equal(a->n_measures, b->n_measures);
        for (uint32_t m = 0; m < a->n_measures; m++) {
            assert_string_equal(a->measures[m].name, b->measures[m].name);
            assert_string_equal(a->measures[m].unit, b->measures[m].unit);
            assert_int_equal(a->measures[m].n, b->measures[m].n);
            assert_memory_equal(a->measures[m].values, b->measures[m].values, a->measures[m].n * sizeof(double));
        }
        assert_int_equal(a->has_spec, b->has_spec);
        if (a->has_spec) {
            assert_same_spec(&a->spec, &b->spec);
        }
    }
    ew_free(a);
    ew_free(b);
}

static void capabilities_come_back_as_they_were(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    (void)state;
    ew_rng_init(&rng, 4, 0);
    ew_device_caps *a = ew_xcalloc(1, sizeof(*a));
    ew_device_caps *b = ew_xcalloc(1, sizeof(*b));
    for (int i = 0; i < 50; i++) {
        *a = (ew_device_caps){.cores = (uint32_t)ew_rng_below(&rng, 64),
                              .ram_bytes = ew_rng_u64(&rng) >> 1,
                              .disk_bytes = ew_rng_u64(&rng) >> 1,
                              .n_isa = (uint32_t)ew_rng_below(&rng, EW_CAPS_ISA_MAX + 1),
                              .n_dtypes = (uint32_t)ew_rng_below(&rng, EW_CAPS_DTYPES_MAX + 1),
                              .n_features = (uint32_t)ew_rng_below(&rng, EW_CAPS_FEATURES_MAX + 1),
                              .n_rates = (uint32_t)ew_rng_below(&rng, EW_CAPS_RATES_MAX + 1)};
        word(&rng, a->arch, sizeof(a->arch));
        word(&rng, a->device_class, sizeof(a->device_class));
        for (uint32_t k = 0; k < a->n_isa; k++) {
            word(&rng, a->isa[k], sizeof(a->isa[k]));
        }
        for (uint32_t k = 0; k < a->n_dtypes; k++) {
            word(&rng, a->dtypes[k], sizeof(a->dtypes[k]));
        }
        for (uint32_t k = 0; k < a->n_features; k++) {
            word(&rng, a->features[k], sizeof(a->features[k]));
        }
        for (uint32_t k = 0; k < a->n_rates; k++) {
            ew_rate *r = &a->rates[k];
            word(&rng, r->name, sizeof(r->name));
            word(&rng, r->unit, sizeof(r->unit));
            r->value = ew_rng_normal(&rng);
            r->spread = ew_rng_f64(&rng);
            r->measured_unix_ms = ew_rng_u64(&rng) >> 1;
        }
        json_t *j = NULL;
        json_t *again = NULL;
        assert_ok(ew_record_from_caps(a, &j, &err), &err);
        j = through_text(j);
        memset(b, 0xa5, sizeof(*b));
        assert_ok(ew_record_to_caps(j, b, &err), &err);
        assert_int_equal(a->n_rates, b->n_rates);
        assert_ok(ew_record_from_caps(b, &again, &err), &err);
        assert_same_json(j, again);
    }
    ew_free(a);
    ew_free(b);
}

static void random_choice(ew_rng *rng, ew_choice *c)
{
    fill(rng, c->model_sha256, sizeof(c->model_sha256));
    word(rng, c->model_name, sizeof(c->model_name));
    word(rng, c->variant, sizeof(c->variant));
    c->method = random_method(rng);
    c->feasible = ew_rng_below(rng, 2) == 0;
    random_settings(rng, &c->settings);
    for (size_t i = ew_rng_below(rng, EW_CHOICE_ESTIMATES_MAX); i < EW_CHOICE_ESTIMATES_MAX; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "e%zu", i);
        assert_true(ew_choice_add_estimate(c, name, "s", ew_rng_normal(rng), ew_rng_normal(rng),
                                           i == 3 ? (double)NAN : ew_rng_normal(rng)));
    }
    for (size_t i = ew_rng_below(rng, EW_CHOICE_REASONS_MAX); i < EW_CHOICE_REASONS_MAX; i++) {
        ew_reason *r = &c->reasons[c->n_reasons++];
        word(rng, r->rule, sizeof(r->rule));
        word(rng, r->text, sizeof(r->text));
        word(rng, r->evidence_class, sizeof(r->evidence_class));
        r->n_trials = (uint32_t)ew_rng_below(rng, EW_REASON_TRIALS_MAX + 1);
        fill(rng, r->trials, r->n_trials * EW_UID_BYTES);
    }
    c->n_placements = (uint32_t)ew_rng_below(rng, EW_CHOICE_PLACEMENTS_MAX + 1);
    for (uint32_t i = 0; i < c->n_placements; i++) {
        ew_placement *p = &c->placements[i];
        p->first_layer = i;
        p->last_layer = i + 1;
        p->where = ew_rng_below(rng, 2) == 0 ? EW_WHERE_CLOUD : EW_WHERE_EDGE;
        word(rng, p->weight_dtype, sizeof(p->weight_dtype));
        word(rng, p->act_dtype, sizeof(p->act_dtype));
    }
}

static void plans_come_back_as_they_were(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    (void)state;
    ew_rng_init(&rng, 5, 0);
    ew_plan *a = ew_xcalloc(1, sizeof(*a));
    ew_plan *b = ew_xcalloc(1, sizeof(*b));
    for (int i = 0; i < 40; i++) {
        memset(a, 0, sizeof(*a));
        fill(&rng, a->id, sizeof(a->id));
        word(&rng, a->task, sizeof(a->task));
        word(&rng, a->device_id, sizeof(a->device_id));
        random_choice(&rng, &a->chosen);
        a->n_runners_up = (uint32_t)ew_rng_below(&rng, EW_PLAN_RUNNERS_UP_MAX + 1);
        for (uint32_t k = 0; k < a->n_runners_up; k++) {
            random_choice(&rng, &a->runners_up[k]);
        }
        a->budget.seconds = ew_rng_f64(&rng);
        a->made_unix_ms = ew_rng_u64(&rng) >> 1;
        a->valid_until_unix_ms = ew_rng_u64(&rng) >> 1;
        a->evidence_version = ew_rng_u64(&rng) >> 1;
        json_t *j = NULL;
        json_t *again = NULL;
        assert_ok(ew_record_from_plan(a, &j, &err), &err);
        j = through_text(j);
        memset(b, 0xa5, sizeof(*b));
        assert_ok(ew_record_to_plan(j, b, &err), &err);
        assert_int_equal(a->chosen.n_reasons, b->chosen.n_reasons);
        assert_int_equal(a->chosen.n_placements, b->chosen.n_placements);
        assert_ok(ew_record_from_plan(b, &again, &err), &err);
        assert_same_json(j, again);
    }
    ew_free(a);
    ew_free(b);
}

static void a_state_is_written_with_nulls_for_what_is_not_known(void **state)
{
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    (void)state;
    const ew_device_state s = {.battery = -1, .temperature_c = NAN, .on_mains = true, .consents = 1};
    assert_ok(ew_record_from_state(&s, &j, &err), &err);
    assert_true(json_is_null(json_object_get(j, "temperature_c")));
    assert_true(json_is_true(json_object_get(j, "on_mains")));
    assert_int_equal(json_integer_value(json_object_get(j, "consents")), 1);
    json_decref(j);
}

static void status_names_are_read_and_others_are_internal_errors(void **state)
{
    (void)state;
    for (int c = EW_OK; c >= EW_EINTERNAL; c--) {
        assert_int_equal(ew_record_status(ew_status_name((ew_status)c)), c);
    }
    assert_int_equal(ew_record_status("EW_NONSENSE"), EW_EINTERNAL);
    assert_int_equal(ew_record_status(""), EW_EINTERNAL);
}

static void a_message_that_was_cut_inside_a_character_can_be_told(void **state)
{
    ew_error err = EW_ERROR_INIT;
    json_t *j = NULL;
    (void)state;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    r->code = EW_EIO;
    (void)ew_str_copy(r->detail, sizeof(r->detail), "cannot read caf\xc3");
    assert_ok(ew_record_from_result(r, &j, &err), &err);
    assert_string_equal(json_string_value(json_object_get(j, "detail")), "cannot read caf?");
    json_decref(j);
    ew_free(r);
}

typedef struct bad {
    const char *json, *text; /* what the message names */
} bad;

#define SPEC "\"task\":\"custom\",\"source\":\"profile\",\"variant\":\"f16\",\"method\":\"none\""

static void bad_specs_are_refused_by_name(void **state)
{
    static const bad all[] = {
        {"[]", ""},
        {"3", ""},
        {"{}", "method"},
        {"{\"task\":\"custom\",\"source\":\"profile\",\"variant\":\"f16\",\"method\":\"magic\"}", "magic"},
        {"{" SPEC ",\"trial\":\"zz\"}", "trial"},
        {"{" SPEC ",\"trial\":7}", "trial"},
        {"{" SPEC ",\"n_history\":-1}", "n_history"},
        {"{" SPEC ",\"n_history\":4294967296}", "n_history"},
        {"{" SPEC ",\"n_history\":\"many\"}", "n_history"},
        {"{" SPEC ",\"fence\":-3}", "fence"},
        {"{" SPEC ",\"settings\":[]}", "settings"},
        {"{" SPEC ",\"settings\":{\"rnak\":8}}", "rnak"},
        {"{" SPEC ",\"settings\":{\"rank\":-8}}", "rank"},
        {"{" SPEC ",\"settings\":{\"rank\":\"8\"}}", "rank"},
        {"{" SPEC ",\"settings\":{\"rank\":1e99}}", "rank"},
        {"{" SPEC ",\"budget\":[1]}", "budget"},
        {"{" SPEC ",\"budget\":{\"ram_bytes\":-1}}", "ram_bytes"},
        {"{" SPEC ",\"budget\":{\"seconds\":\"long\"}}", "seconds"},
        {"{" SPEC ",\"budget\":{\"seconds\":-1}}", "budget"},
        {"{" SPEC ",\"force\":1}", "force"},
    };
    (void)state;
    for (size_t i = 0; i < EW_COUNT(all); i++) {
        ew_error err = EW_ERROR_INIT;
        ew_trial_spec s = {.fence = 77};
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_json_load("test", all[i].json, strlen(all[i].json), &j, &err), &err);
        ew_status st = ew_record_to_spec(j, &s, &err);
        if ((st != EW_ECORRUPT && st != EW_EINVAL && st != EW_ENOENT) || strstr(err.msg, all[i].text) == NULL ||
            s.fence != 77) {
            fail_msg("%s: %s '%s'", all[i].json, ew_status_name(st), err.msg);
        }
    }
}

static void bad_results_are_refused_by_name(void **state)
{
    static const bad all[] = {
        {"[]", ""},
        {"{}", "code"},
        {"{\"code\":3}", "code"},
        {"{\"code\":\"EW_OK\",\"measures\":[]}", "measures"},
        {"{\"code\":\"EW_OK\",\"measures\":{\"a\":3}}", "a"},
        {"{\"code\":\"EW_OK\",\"measures\":{\"a\":{\"unit\":\"s\",\"values\":3}}}", "a"},
        {"{\"code\":\"EW_OK\",\"measures\":{\"a\":{\"unit\":\"s\",\"values\":[\"x\"]}}}", "a"},
        {"{\"code\":\"EW_OK\",\"measures\":{\"a\":{\"unit\":\"sssssssssssssssssssssss\",\"values\":[1]}}}", "unit"},
        {"{\"code\":\"EW_OK\",\"measures\":{"
         "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":{\"unit\":\"s\",\"values\":[1]}"
         "}}",
         "aaaa"},
        {"{\"code\":\"EW_OK\",\"env\":\"00\"}", "env"},
        {"{\"code\":\"EW_OK\",\"spec\":{}}", "method"},
    };
    (void)state;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    for (size_t i = 0; i < EW_COUNT(all); i++) {
        ew_error err = EW_ERROR_INIT;
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_json_load("test", all[i].json, strlen(all[i].json), &j, &err), &err);
        ew_status st = ew_record_to_result(j, r, &err);
        if ((st != EW_ECORRUPT && st != EW_EINVAL) || strstr(err.msg, all[i].text) == NULL) {
            fail_msg("%s: %s '%s'", all[i].json, ew_status_name(st), err.msg);
        }
    }
    ew_free(r);
}

static void bad_plans_and_capabilities_are_refused(void **state)
{
    static const bad plans[] = {
        {"[]", ""},
        {"{}", "chosen"},
        {"{\"chosen\":3}", "chosen"},
        {"{\"chosen\":{\"method\":\"lora\",\"feasible\":3}}", "feasible"},
        {"{\"chosen\":{\"method\":\"lora\",\"estimates\":[]}}", "estimates"},
        {"{\"chosen\":{\"method\":\"lora\",\"reasons\":{}}}", "reasons"},
        {"{\"chosen\":{\"method\":\"lora\",\"reasons\":[{\"trials\":[\"00\"]}]}}", "reason"},
        {"{\"chosen\":{\"method\":\"lora\",\"reasons\":[{\"trials\":[5]}]}}", "reason"},
        {"{\"chosen\":{\"method\":\"lora\",\"placements\":[{\"where\":\"mars\"}]}}", "where"},
        {"{\"chosen\":{\"method\":\"lora\"},\"runners_up\":{}}", "runners_up"},
    };
    static const bad caps[] = {
        {"[]", ""},
        {"{\"cores\":-1}", "cores"},
        {"{\"isa\":[3]}", "isa"},
        {"{\"isa\":{}}", "isa"},
        {"{\"isa\":[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]}", "isa"},
        {"{\"rates\":{}}", "rates"},
        {"{\"rates\":[3]}", ""},
        {"{\"rates\":[{\"name\":\"a\",\"value\":\"b\"}]}", "value"},
    };
    ew_plan *p = ew_xcalloc(1, sizeof(*p));
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    (void)state;
    for (size_t i = 0; i < EW_COUNT(plans) + EW_COUNT(caps); i++) {
        ew_error err = EW_ERROR_INIT;
        EW_AUTO_JSON j = NULL;
        const bad *b = i < EW_COUNT(plans) ? &plans[i] : &caps[i - EW_COUNT(plans)];
        assert_ok(ew_json_load("test", b->json, strlen(b->json), &j, &err), &err);
        ew_status st = i < EW_COUNT(plans) ? ew_record_to_plan(j, p, &err) : ew_record_to_caps(j, c, &err);
        if ((st != EW_ECORRUPT && st != EW_EINVAL) || strstr(err.msg, b->text) == NULL) {
            fail_msg("%s: %s '%s'", b->json, ew_status_name(st), err.msg);
        }
    }
    ew_free(p);
    ew_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_come_back_as_they_were),
        cmocka_unit_test(a_seed_of_all_64_bits_comes_back),
        cmocka_unit_test(results_come_back_as_they_were),
        cmocka_unit_test(capabilities_come_back_as_they_were),
        cmocka_unit_test(plans_come_back_as_they_were),
        cmocka_unit_test(a_state_is_written_with_nulls_for_what_is_not_known),
        cmocka_unit_test(a_message_that_was_cut_inside_a_character_can_be_told),
        cmocka_unit_test(status_names_are_read_and_others_are_internal_errors),
        cmocka_unit_test(bad_specs_are_refused_by_name),
        cmocka_unit_test(bad_results_are_refused_by_name),
        cmocka_unit_test(bad_plans_and_capabilities_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

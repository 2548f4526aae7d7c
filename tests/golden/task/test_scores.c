/* Our scores against rouge-score, scikit-learn and numpy (README.md). */
#include <math.h>
#include <string.h>

#include "sys/file.h"
#include "task/metric.h"
#include "test.h"
#include "text/json.h"

#define GOLDEN EW_TEST_SOURCE_DIR "/tests/golden/task/"

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) {
        fail_msg("%.12f is not %.12f", a, b);
    }
}

static void check_prf(const json_t *j, const char *key, const ew_prf *p)
{
    const json_t *v = json_object_get(j, key);
    assert_near(p->precision, json_number_value(json_array_get(v, 0)), 1e-12);
    assert_near(p->recall, json_number_value(json_array_get(v, 1)), 1e-12);
    assert_near(p->f, json_number_value(json_array_get(v, 2)), 1e-12);
}

static void rouge_agrees_with_googles_implementation(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) r = NULL;
    assert_ok(ew_jsonl_open(GOLDEN "rouge.jsonl", &r, &err), &err);
    size_t n = 0;
    for (;; n++) {
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_jsonl_next(r, &j, &err), &err);
        if (j == NULL) {
            break;
        }
        ew_rouge x;
        assert_ok(ew_metric_rouge(json_string_value(json_object_get(j, "target")),
                                  json_string_value(json_object_get(j, "prediction")), &x, &err),
                  &err);
        check_prf(j, "rouge1", &x.rouge1);
        check_prf(j, "rougeL", &x.rougeL);
    }
    assert_true(n > 150);
}

static size_t strings(const json_t *j, const char *key, const char *dst[static 64])
{
    const json_t *a = json_object_get(j, key);
    size_t n = json_array_size(a);
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++) {
        dst[i] = json_string_value(json_array_get(a, i));
    }
    return n;
}

static void labels_and_numbers_agree_with_scikit_learn(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON j = NULL;
    assert_ok(ew_json_load_file(GOLDEN "scores.json", 0, &j, &err), &err);
    const char *gold[64], *pred[64];
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(j, "labels"), i, c)
    {
        size_t n = strings(c, "gold", gold);
        strings(c, "pred", pred);
        assert_near(ew_metric_accuracy(gold, pred, n), json_number_value(json_object_get(c, "accuracy")), 1e-12);
        assert_near(ew_metric_macro_f1(gold, pred, n), json_number_value(json_object_get(c, "macro_f1")), 1e-12);
    }
    json_array_foreach(json_object_get(j, "numbers"), i, c)
    {
        size_t n = strings(c, "gold", gold);
        strings(c, "pred", pred);
        assert_near(ew_metric_mae(gold, pred, n, 1, 5), json_number_value(json_object_get(c, "mae")), 1e-12);
        assert_near(ew_metric_rmse(gold, pred, n, 1, 5), json_number_value(json_object_get(c, "rmse")), 1e-12);
    }
}

static void bootstrap_interval_agrees_with_numpy(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON j = NULL;
    assert_ok(ew_json_load_file(GOLDEN "bootstrap.json", 0, &j, &err), &err);
    double x[64], zero[64] = {0};
    size_t n = json_array_size(json_object_get(j, "x"));
    for (size_t i = 0; i < n; i++) {
        x[i] = json_number_value(json_array_get(json_object_get(j, "x"), i));
    }
    ew_interval a = ew_bootstrap_mean(x, n, 0, 0.95, 1);
    assert_near(a.mean, json_number_value(json_object_get(j, "mean")), 1e-12);
    assert_near(a.low, json_number_value(json_object_get(j, "low")), 3e-3);
    assert_near(a.high, json_number_value(json_object_get(j, "high")), 3e-3);
    ew_interval b = ew_bootstrap_mean(x, n, 0, 0.95, 1);
    assert_memory_equal(&a, &b, sizeof(a));
    ew_interval d = ew_bootstrap_diff(x, zero, n, 0, 0.95, 1);
    assert_memory_equal(&a, &d, sizeof(a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rouge_agrees_with_googles_implementation),
        cmocka_unit_test(labels_and_numbers_agree_with_scikit_learn),
        cmocka_unit_test(bootstrap_interval_agrees_with_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Adapters that peft made (README.md), over the random models of every family: loaded, their logits are those of transformers with peft;
 * saved again as PEFT directory and as GGUF, they are the same adapter. With EW_PEFT_OUT in the environment what was saved stays there,
 * for make.py --check. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "model/model.h"
#include "model/save.h"
#include "model/session.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "test.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/peft/"
#define FAMILIES EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define N 20
#define V 96
#define BOUND 2e-5

static int32_t ids[N];

static void read_ids(void)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF text = {0};
    assert_ok(ew_file_read(FAMILIES "ids.txt", 4096, &text, &err), &err);
    const char *p = text.data;
    for (int i = 0; i < N; i++) {
        int used = 0;
        assert_int_equal(sscanf(p, "%d%n", &ids[i], &used), 1);
        p += used;
    }
}

static void logits_of(const ew_model *m, const ew_adapter *a, const char *kern, float *ret)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_session) s = NULL;
    const ew_session_opt so = {.n_ctx = 40,
                               .n_batch = 5,
                               .exec.kern = ew_kern_get(kern),
                               .hooks = a != NULL ? ew_adapter_hooks(a) : NULL,
                               .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &so, &s, &err), &err);
    assert_ok(ew_session_eval_all(s, ids, N, ret, &err), &err);
}

static double difference(const float *a, const float *b, size_t n)
{
    double most = 0, large = 0;
    for (size_t i = 0; i < n; i++) {
        most = EW_MAX(most, fabs((double)a[i] - (double)b[i]));
        large = EW_MAX(large, fabs((double)b[i]));
    }
    return most / large;
}

static void assert_same(const char *name, ew_adapter *a, ew_adapter *b)
{
    size_t na, nb;
    const float *pa = ew_adapter_params(a, &na), *pb = ew_adapter_params(b, &nb);
    if (na != nb || ew_adapter_opt_of(a)->targets != ew_adapter_opt_of(b)->targets) {
        fail_msg("%s: %zu and %zu parameters, targets %x and %x", name, na, nb, ew_adapter_opt_of(a)->targets,
                 ew_adapter_opt_of(b)->targets);
    }
    for (size_t i = 0; i < na; i++) {
        if (!(fabsf(pa[i] - pb[i]) <= 1e-6F * fabsf(pa[i]))) {
            fail_msg("%s: parameter %zu is %g and %g", name, i, (double)pa[i], (double)pb[i]);
        }
    }
}

/* Saves in both forms and reads again. */
static void save_and_load(const char *name, ew_adapter *a, const ew_model *m, const float *logits)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_adapter) peft = NULL;
    EW_AUTO(ew_adapter) gguf = NULL;
    char dir[EW_PATH_MAX], file[EW_PATH_MAX];
    const char *keep = getenv("EW_PEFT_OUT");
    (void)snprintf(dir, sizeof(dir), "%s/%s", keep != NULL ? keep : ew_test_path(""), name);
    (void)snprintf(file, sizeof(file), "%s.gguf", dir);
    assert_ok(ew_adapter_save_peft(a, m, dir, &err), &err);
    assert_ok(ew_adapter_load(dir, m, &peft, &err), &err);
    assert_same(name, a, peft);
    assert_ok(ew_adapter_save_gguf(a, m, file, &err), &err);
    assert_ok(ew_adapter_load(file, m, &gguf, &err), &err);
    assert_same(name, a, gguf);
    if (keep != NULL) {
        (void)snprintf(file, sizeof(file), "%s/logits.f32", dir);
        assert_ok(ew_file_replace(file, logits, N * V * sizeof(float), 0644, &err), &err);
    }
}

/* For make.py --llama: the model as a GGUF of F32, and the adapter for it. The adapter has the rows of Q and K in that file's order. */
static void export_for_llama(const char *out, const char *name, const char *peft, const ew_model *dir)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) a = NULL;
    char base[EW_PATH_MAX], path[EW_PATH_MAX];
    static float got[N * V];
    const ew_save_opt so = {.convert = true, .dtype = EW_DTYPE_F32};
    (void)snprintf(base, sizeof(base), "%s/%s.base.gguf", out, name);
    (void)snprintf(path, sizeof(path), "%s/%s.lora.gguf", out, name);
    if (ew_model_save_gguf(dir, base, &so, &err) != EW_OK) {
        return; /* no such architecture there */
    }
    assert_ok(ew_model_open(base, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    assert_ok(ew_adapter_load(peft, m, &a, &err), &err);
    assert_ok(ew_adapter_save_gguf(a, m, path, &err), &err);
    logits_of(m, a, "ref", got);
    (void)snprintf(path, sizeof(path), "%s/%s.lora.f32", out, name);
    assert_ok(ew_file_replace(path, got, sizeof(got), 0644, &err), &err);
}

/* The same directory over the GGUF that llama.cpp's converter made of the model: other order of rows, the same logits. */
static void check_gguf(const char *family, const char *name, const char *peft, const float *want)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) a = NULL;
    static float got[N * V];
    char path[EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), FAMILIES "%s/model.gguf", family);
    if (!ew_file_exists(path) || ew_str_eq(family, "mistral")) { /* whose window the converter loses */
        return;
    }
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    assert_ok(ew_adapter_load(peft, m, &a, &err), &err);
    logits_of(m, a, "ref", got);
    const double d = difference(got, want, N * V);
    if (!(d < BOUND)) {
        fail_msg("%s over the GGUF: the logits differ by %g of the largest", name, d);
    }
}

static double one(const char *family, const char *name, ew_model *m)
{
    static float want[N * V], got[N * V];
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_adapter) a = NULL;
    EW_AUTO_BUF logits = {0};
    char path[EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), DIR "%s/logits.f32", name);
    assert_ok(ew_file_read(path, sizeof(want) + 1, &logits, &err), &err);
    assert_int_equal(logits.size, sizeof(want));
    memcpy(want, logits.data, sizeof(want));
    (void)snprintf(path, sizeof(path), DIR "%s", name);
    if (ew_adapter_load(path, m, &a, &err) != EW_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    double most = 0;
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        logits_of(m, a, ew_kern_name(ew_kern_at(i)), got);
        most = EW_MAX(most, difference(got, want, N * V));
    }
    if (!(most < BOUND)) {
        fail_msg("%s: the logits differ by %g of the largest", name, most);
    }
    check_gguf(family, name, path, want);
    save_and_load(name, a, m, want);
    if (getenv("EW_PEFT_OUT") != NULL && ew_str_ends(name, "lora")) {
        export_for_llama(getenv("EW_PEFT_OUT"), name, path, m);
    }
    return most;
}

/* Directories of one kind, "llama3-lora" and so on. */
static void every_family_of(const char *kind)
{
    ew_error err = EW_ERROR_INIT;
    ew_dir_list list = {0};
    size_t n = 0;
    double most = 0;
    char end[32];
    (void)snprintf(end, sizeof(end), "-%s", kind);
    read_ids();
    assert_ok(ew_dir_read(DIR, &list, &err), &err);
    for (size_t i = 0; i < list.n; i++) {
        const char *name = list.entry[i].name;
        if (!ew_str_ends(name, end)) {
            continue;
        }
        char path[EW_PATH_MAX], family[64];
        EW_AUTO(ew_model) m = NULL;
        (void)snprintf(family, sizeof(family), "%.*s", (int)(strlen(name) - strlen(end)), name);
        (void)snprintf(path, sizeof(path), FAMILIES "%s/hf", family);
        assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
        most = EW_MAX(most, one(family, name, m));
        n++;
    }
    ew_dir_list_release(&list);
    assert_true(n >= 2);
    print_message("%s: %zu families, largest relative difference %.2g\n", kind, n, most);
}

#define KIND_CASE(kind)                                                                                                \
    static void logits_with_##kind##_are_those_of_peft(void **state)                                                   \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        every_family_of(#kind);                                                                                        \
    }
KIND_CASE(lora)
KIND_CASE(rslora)
KIND_CASE(patterns)
KIND_CASE(layers)
KIND_CASE(dora)
KIND_CASE(ia3)
KIND_CASE(prompt)
KIND_CASE(prefix)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_with_lora_are_those_of_peft),
        cmocka_unit_test(logits_with_rslora_are_those_of_peft),
        cmocka_unit_test(logits_with_patterns_are_those_of_peft),
        cmocka_unit_test(logits_with_layers_are_those_of_peft),
        cmocka_unit_test(logits_with_dora_are_those_of_peft),
        cmocka_unit_test(logits_with_ia3_are_those_of_peft),
        cmocka_unit_test(logits_with_prompt_are_those_of_peft),
        cmocka_unit_test(logits_with_prefix_are_those_of_peft),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

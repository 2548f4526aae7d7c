/* The type of every tensor against llama-quantize (README.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "base/str.h"
#include "format/mix.h"
#include "sys/file.h"

enum {
    TENSORS = 1024
};

static ew_buf golden;
static char names[TENSORS][64], arch[32], label[32];
static ew_tensor_view tensor[TENSORS];
static const ew_tensor_view *list[TENSORS];
static size_t n_tensors, n_mixes;
static ew_mix_model model;

static int load(void **state)
{
    ew_error err = EW_ERROR_INIT;
    (void)state;
    return ew_file_read(EW_TEST_SOURCE_DIR "/tests/golden/format/mix.txt", 1 << 20, &golden, &err) == EW_OK ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    ew_buf_release(&golden);
    return 0;
}

static void add_tensor(const char *line)
{
    ew_tensor_view *t = &tensor[n_tensors];
    unsigned long long cols = 0, rows = 0, experts = 0;
    assert_true(n_tensors < TENSORS);
    assert_int_equal(sscanf(line, "tensor %63s %llu %llu %llu", names[n_tensors], &cols, &rows, &experts), 4);
    *t = (ew_tensor_view){.name = names[n_tensors], .dtype = EW_DTYPE_F32, .dims = {cols, rows, experts, 1}};
    t->n_dims = experts > 1 ? 3 : rows > 1 ? 2 : 1;
    list[n_tensors++] = t;
}

static void check_mix(char *line)
{
    ew_error err = EW_ERROR_INIT;
    ew_dtype got[TENSORS];
    ew_mix mix = EW_MIX_F32;
    char *save = NULL;
    (void)strtok_r(line, " ", &save);
    const char *name = strtok_r(NULL, " ", &save);
    assert_true(ew_mix_parse(name, &mix));
    assert_string_equal(ew_mix_name(mix), name);
    assert_int_equal((int)mix, strtol(strtok_r(NULL, " ", &save), NULL, 10));
    assert_ok(ew_mix_assign(mix, false, &model, list, n_tensors, got, &err), &err);
    for (size_t i = 0; i < n_tensors; i++) {
        const char *want = strtok_r(NULL, " ", &save);
        assert_non_null(want);
        if (strcmp(want, ew_dtype_name(got[i])) != 0) {
            fail_msg("%s, %s: %s is %s, llama-quantize has %s", label, name, names[i], ew_dtype_name(got[i]), want);
        }
    }
    assert_null(strtok_r(NULL, " ", &save));
    n_mixes++;
}

static void every_tensor_gets_the_type_of_llama_quantize(void **state)
{
    (void)state;
    char *save = NULL;
    for (char *line = strtok_r(golden.data, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        if (strncmp(line, "model ", 6) == 0) {
            n_tensors = 0;
            model = (ew_mix_model){.arch = arch};
            assert_int_equal(sscanf(line, "model %31s %31s %u %u %u %u", label, arch, &model.n_layers, &model.n_heads,
                                    &model.n_kv_heads, &model.n_experts),
                             6);
        } else if (strncmp(line, "tensor ", 7) == 0) {
            add_tensor(line);
        } else {
            check_mix(line);
        }
    }
    assert_true(n_mixes > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_tensor_gets_the_type_of_llama_quantize)};
    return cmocka_run_group_tests(tests, load, unload);
}

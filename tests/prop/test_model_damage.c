/* Damaged model files: every truncation and many flipped bits of a golden GGUF give a clean error or a model that computes. */
#include "../unit/model/tiny.h"

#include <unistd.h>

#include "model/sampler.h"
#include "model/session.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/"

static char tmp[EW_PATH_MAX];
static ew_buf file;

static int setup(void **state)
{
    (void)state;
    return ew_file_read(DIR "llama64-q4_0.gguf", 1 << 20, &file, NULL) == EW_OK &&
                   ew_dir_make_temp("/tmp/ew-damage-", tmp, sizeof(tmp), NULL) == EW_OK
               ? 0
               : -1;
}

static int teardown(void **state)
{
    (void)state;
    ew_buf_release(&file);
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *write_file(const void *data, size_t size)
{
    static char path[2 * EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/m.gguf", tmp);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void every_truncation_is_a_clean_error(void **state)
{
    (void)state;
    const char *path = write_file(file.data, file.size);
    for (size_t size = file.size; size-- > 0;) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        ew_model *m = NULL;
        ew_error why = EW_ERROR_INIT;
        ew_status st = ew_model_open(path, NULL, &m, &why);
        if (st == EW_OK || m != NULL || why.msg[0] == '\0') {
            fail_msg("%zu of %zu bytes opened", size, file.size);
        }
    }
}

/* What opens must also compute, whatever its numbers are now. */
static void use(ew_model *m)
{
    ew_session *s = NULL;
    const int32_t ids[] = {1, 5, 9};
    uint32_t V = ew_model_config_of(m)->V;
    float *logits = ew_calloc(V, sizeof(float));
    assert_non_null(logits);
    ew_session_opt opt = {.n_ctx = 8, .exec.kern = ew_kern_get("ref"), .memory_limit_bytes = 64 * EW_MIB};
    if (ew_session_new(m, &opt, &s, NULL) == EW_OK) {
        assert_int_equal(ew_session_eval(s, ids, 3, logits, NULL), EW_OK);
        (void)ew_argmax(logits, V);
        ew_session_free(&s);
    }
    ew_free(logits);
}

static void flipped_bits_are_errors_or_other_numbers(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 2024, 0);
    int opened = 0;
    for (int i = 0; i < 4000; i++) {
        size_t at = (size_t)ew_rng_below(&rng, i % 4 != 0 ? 4096 : file.size); /* mostly in the metadata */
        char old = file.data[at];
        file.data[at] = (char)(old ^ (char)(1u << ew_rng_below(&rng, 8)));
        ew_model *m = NULL;
        ew_error why = EW_ERROR_INIT;
        if (ew_model_open(write_file(file.data, file.size), NULL, &m, &why) == EW_OK) {
            use(m);
            opened++;
        } else if (why.msg[0] == '\0') {
            fail_msg("bit in byte %zu: an error without a message", at);
        }
        ew_model_unref(&m);
        file.data[at] = old;
    }
    assert_true(opened > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_a_clean_error),
        cmocka_unit_test(flipped_bits_are_errors_or_other_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

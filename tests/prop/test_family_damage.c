/* Damaged models of every family: flipped bits in a GGUF's metadata and broken config.json files give a clean error or a model that
 * computes. */
#include "../unit/model/tiny.h"

#include "model/session.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define TRIES 150

static const char *const families[] = {"llama-bias", "mistral", "qwen2-yarn", "qwen3",  "phi2",
                                       "phi3-long",  "gemma",   "gemma2",     "gemma3", "stablelm-12b",
                                       "gptneox",    "gpt2",    "gptneo",     "opt",    "minilm"};

static char tmp[EW_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    return ew_dir_make_temp("/tmp/ew-damage-", tmp, sizeof(tmp), NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *write_file(const char *name, const void *data, size_t size)
{
    static char path[2 * EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", tmp, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* What opens must also compute, whatever its numbers are now. */
static int use(const char *path, const char *family)
{
    const int32_t ids[] = {1, 5, 9};
    ew_model *m = NULL;
    ew_error why = EW_ERROR_INIT;
    if (ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &why) != EW_OK) {
        if (why.msg[0] == '\0') {
            fail_msg("%s: an error without a message", family);
        }
        return 0;
    }
    const ew_model_config *c = ew_model_config_of(m);
    float *out = ew_calloc((size_t)3 * EW_MAX(c->V, c->C), sizeof(float));
    assert_non_null(out);
    ew_session_opt opt = {
        .n_ctx = EW_MIN(8, c->n_ctx_train), .exec.kern = ew_kern_get("ref"), .memory_limit_bytes = 64 * EW_MIB};
    ew_session *s = NULL;
    if (opt.n_ctx >= 3 && ew_session_new(m, &opt, &s, NULL) == EW_OK) {
        ew_status st = c->encoder ? ew_session_encode(s, ids, 3, EW_POOLING_NONE, out, &why)
                                  : ew_session_eval(s, ids, 3, out, &why);
        assert_true(st == EW_OK || c->V <= 9);
        ew_session_free(&s);
    }
    ew_free(out);
    ew_model_unref(&m);
    return 1;
}

static void flipped_bits_of_a_gguf_are_errors_or_other_numbers(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 77, 0);
    int opened = 0;
    for (size_t f = 0; f < EW_COUNT(families); f++) {
        char path[512];
        EW_AUTO_BUF file = {0};
        (void)snprintf(path, sizeof(path), DIR "%s/model.gguf", families[f]);
        if (!ew_file_exists(path)) {
            continue; /* there is no such GGUF */
        }
        assert_ok(ew_file_read(path, 1 << 22, &file, err));
        for (int i = 0; i < TRIES; i++) {
            size_t at = (size_t)ew_rng_below(&rng, EW_MIN(file.size, 4096));
            char old = file.data[at];
            file.data[at] = (char)(old ^ (char)(1u << ew_rng_below(&rng, 8)));
            opened += use(write_file("m.gguf", file.data, file.size), families[f]);
            file.data[at] = old;
        }
    }
    assert_true(opened > 50);
}

/* One edit of a text: another digit, a digit more, or a byte less. */
static void edit(ew_rng *rng, ew_buf *text)
{
    size_t at = (size_t)ew_rng_below(rng, text->size);
    for (int i = 0; i < 64 && !(text->data[at] >= '0' && text->data[at] <= '9'); i++) {
        at = (size_t)ew_rng_below(rng, text->size);
    }
    switch (ew_rng_below(rng, 4)) {
    case 0:
        memmove(text->data + at, text->data + at + 1, text->size - at - 1);
        text->size--;
        break;
    case 1:
        text->data[at] = '0';
        break;
    default:
        text->data[at] = (char)('0' + ew_rng_below(rng, 10));
    }
}

static void edited_configurations_are_errors_or_other_numbers(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 78, 0);
    int opened = 0;
    for (size_t f = 0; f < EW_COUNT(families); f++) {
        char path[512];
        EW_AUTO_BUF weights = {0};
        EW_AUTO_BUF config = {0};
        (void)snprintf(path, sizeof(path), DIR "%s/hf/model.safetensors", families[f]);
        assert_ok(ew_file_read(path, 1 << 22, &weights, err));
        (void)snprintf(path, sizeof(path), DIR "%s/hf/config.json", families[f]);
        assert_ok(ew_file_read(path, 1 << 20, &config, err));
        (void)write_file("model.safetensors", weights.data, weights.size);
        for (int i = 0; i < TRIES; i++) {
            EW_AUTO_BUF text = {0};
            ew_buf_add(&text, config.data, config.size);
            for (uint64_t k = 1 + ew_rng_below(&rng, 2); k > 0; k--) {
                edit(&rng, &text);
            }
            (void)write_file("config.json", text.data, text.size);
            opened += use(tmp, families[f]);
        }
    }
    assert_true(opened > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipped_bits_of_a_gguf_are_errors_or_other_numbers),
        cmocka_unit_test(edited_configurations_are_errors_or_other_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

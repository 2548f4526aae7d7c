/* Published small models, when EW_SHARED names the directory that holds them: greedy text is the known story. Skipped otherwise. */
#include "../../unit/model/tiny.h"

#include <stdlib.h>

#include "model/generate.h"
#include "model/session.h"
#include "sys/file.h"

static void tells(const char *model, const char *story)
{
    const char *shared = getenv("EW_SHARED");
    char path[1024];
    if (shared == NULL) {
        skip();
    }
    (void)snprintf(path, sizeof(path), "%s/data/models/%s", shared, model);
    if (!ew_file_exists(path)) {
        skip();
    }
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        EW_AUTO(ew_model) m = NULL;
        EW_AUTO(ew_session) s = NULL;
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_BUF text = {0};
        assert_ok(ew_model_open(path, NULL, &m, err));
        assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = 256, .exec.kern = ew_kern_at(i)}, &s, err));
        assert_ok(ew_tokenizer_encode(ew_model_tokenizer(m), "Once upon a time", 16, EW_ENCODE_BOS, &ids, err));
        assert_ok(ew_generate(s, ids.id, ids.n, &(ew_generate_opt){.max_tok = 60}, NULL, &text, NULL, err));
        if (strncmp(ew_buf_str(&text), story, strlen(story)) != 0) {
            fail_msg("%s: '%s'", ew_kern_name(ew_kern_at(i)), ew_buf_str(&text));
        }
    }
}

static void stories260k_tells_its_story(void **state)
{
    (void)state;
    tells("stories260K/stories260K.gguf", ", there was a little girl named Lily. She loved to play outside in the "
                                          "park. One day, she saw a big, red ball.");
}

static void tinystories_656k_tells_its_story(void **state)
{
    (void)state;
    tells("TinyStories-656K", ", a little girl named Lily lived in a small house with her mom, dad, and her dog, Spot");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_tells_its_story),
        cmocka_unit_test(tinystories_656k_tells_its_story),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

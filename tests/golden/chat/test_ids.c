/* With every golden vocabulary: a rendered conversation has the ids of its whole text, and content that spells special pieces has the ids
 * of plain text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/str.h"
#include "chat/chat.h"
#include "format/gguf.h"
#include "model/vocab.h"
#include "sys/file.h"
#include "token/tokenizer.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/token/"

static const char template_text[] = "{{ bos_token }}{% for m in messages %}{{ m.role + ':\n' + m.content + eos_token + "
                                    "'\n' }}{% endfor %}{{ 'assistant:' }}";

static void open_vocab(const char *name, ew_vocab **v)
{
    char path[512];
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf) g = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/vocab.gguf", name);
    if (ew_file_exists(path)) {
        assert_int_equal(ew_gguf_open(path, &g, &err), EW_OK);
        assert_int_equal(ew_vocab_from_gguf(g, v, &err), EW_OK);
        return;
    }
    (void)snprintf(path, sizeof(path), DIR "%s", name);
    if (ew_vocab_from_hf(path, v, &err) != EW_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
}

/* A control piece to stand at turns' ends; the golden vocabularies name them differently. */
static const char *some_special(const ew_vocab *v, ew_buf *store)
{
    for (size_t i = 0; i < v->n; i++) {
        ew_span s = ew_vocab_text(v, (int32_t)i);
        if (v->type[i] == EW_PIECE_CONTROL && s.size > 2) {
            ew_buf_add(store, s.data, s.size);
            return ew_buf_str(store);
        }
    }
    return NULL;
}

static void one_vocabulary(const char *name)
{
    static const char *const contents[] = {
        "Hello there", "", " x  y ", "日本 🚀 é", "\n\na\n", "e\xCC\x81 caf\xC3\xA9 12345", "\xCC\x81x"};
    EW_AUTO(ew_vocab) v = NULL;
    EW_AUTO(ew_tokenizer) tok = NULL;
    EW_AUTO_BUF store = {0};
    ew_error err = EW_ERROR_INIT;
    open_vocab(name, &v);
    assert_int_equal(ew_tokenizer_new(v, &tok, &err), EW_OK);
    const char *special = some_special(v, &store);
    assert_non_null(special);
    const ew_chat_render_opt opt = {.bos_token = special, .eos_token = special};
    for (size_t i = 0; i < EW_COUNT(contents); i++) {
        EW_AUTO_BUF whole = {0};
        EW_AUTO_TOKENS want = {0};
        EW_AUTO_TOKENS got = {0};
        const ew_chat_message m[] = {{.role = "user", .content = contents[i]}, {.role = "user", .content = "b"}};
        ew_buf_addf(&whole, "%suser:\n%s%s\nuser:\nb%s\nassistant:", special, contents[i], special, special);
        assert_int_equal(ew_tokenizer_encode(tok, ew_buf_str(&whole), whole.size, EW_ENCODE_SPECIAL, &want, &err),
                         EW_OK);
        assert_int_equal(ew_chat_prompt(tok, template_text, m, 2, &opt, &got, &err), EW_OK);
        if (got.n != want.n || memcmp(got.id, want.id, got.n * sizeof(*got.id)) != 0) {
            fail_msg("%s: ids differ for '%s'", name, contents[i]);
        }
    }
    EW_AUTO_TOKENS got = {0};
    const ew_chat_message attack[] = {{.role = "user", .content = special}};
    size_t n = 0;
    assert_int_equal(ew_chat_prompt(tok, template_text, attack, 1, &opt, &got, &err), EW_OK);
    for (size_t i = 0; i < got.n; i++) {
        n += got.id[i] == ew_tokenizer_find(tok, special, strlen(special));
    }
    assert_int_equal(n, 2);
}

static void ids_are_those_of_the_whole_text(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe-gpt2",   "bpe-llama3",    "bpe-qwen2",         "bpe-smollm",
                                        "bpe-custom", "char-llama2",   "char-metaspace",    "char-unk",
                                        "spm",        "bpe-deepseek3", "bpe-falcon",        "bpe-gpt4o",
                                        "spm-bpe",    "spm-unigram",   "spm-unigram-bytes", "unigram-t5"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        one_vocabulary(names[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_are_those_of_the_whole_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

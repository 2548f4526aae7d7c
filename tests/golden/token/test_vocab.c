/* Tokenizers made by make.py (tokenizers, sentencepiece) against ours: read, saved as GGUF and read again, every case.
 * With EW_SHARED in the environment also llama.cpp's vocabularies and their expected ids, and two public small models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tmpdir.h"

#include "base/mem.h"
#include "base/str.h"
#include "format/gguf.h"
#include "model/vocab.h"
#include "sys/file.h"
#include "text/json.h"
#include "token/tokenizer.h"

#define CHECK(expr)                                                                                                    \
    do {                                                                                                               \
        if ((expr) != EW_OK) {                                                                                         \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #expr, err.msg);                                             \
        }                                                                                                              \
    } while (0)

static ew_tokenizer *make(const ew_vocab *v)
{
    ew_error err = EW_ERROR_INIT;
    ew_tokenizer *tok = NULL;
    CHECK(ew_tokenizer_new(v, &tok, &err));
    return tok;
}

static ew_vocab *load_gguf(const char *path)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf) g = NULL;
    ew_vocab *v = NULL;
    CHECK(ew_gguf_open(path, &g, &err));
    CHECK(ew_vocab_from_gguf(g, &v, &err));
    return v;
}

/* Through a file and back. */
static ew_vocab *resaved(const ew_vocab *v)
{
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("resaved.gguf");
    EW_AUTO(ew_gguf_writer) w = NULL;
    CHECK(ew_gguf_writer_new(path, &w, &err));
    ew_gguf_add_str(w, "general.architecture", "llama");
    CHECK(ew_vocab_write_gguf(w, v, &err));
    CHECK(ew_gguf_writer_begin(w, &err));
    CHECK(ew_gguf_writer_commit(w, &err));
    ew_vocab *back = load_gguf(path);
    return back;
}

static void assert_ids(const char *where, const json_t *want, const ew_tokens *got)
{
    bool same = json_array_size(want) == got->n;
    for (size_t i = 0; same && i < got->n; i++) {
        same = json_integer_value(json_array_get(want, i)) == got->id[i];
    }
    if (!same) {
        char *text = json_dumps(want, JSON_COMPACT);
        print_error("%s: want %s\n  got ", where, text);
        for (size_t i = 0; i < got->n; i++) {
            print_error("%d,", (int)got->id[i]);
        }
        print_error("\n");
        free(text);
        fail_msg("%s: other ids than the reference", where);
    }
}

static void check_row(const ew_tokenizer *tok, const char *where, const json_t *row)
{
    ew_error err = EW_ERROR_INIT;
    const char *hex = json_string_value(json_object_get(row, "text_hex"));
    const json_t *text = json_object_get(row, "text");
    const json_t *decoded = json_object_get(row, "decoded");
    unsigned flags = json_is_true(json_object_get(row, "special")) ? EW_ENCODE_SPECIAL : 0;
    size_t size = hex != NULL ? strlen(hex) / 2 : json_string_length(text);
    char *bytes = ew_malloc(size, 1);
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF out = {0};
    if (hex != NULL) {
        assert_true(ew_hex_decode(hex, bytes, size));
    } else {
        memcpy(bytes, json_string_value(text), size);
    }
    CHECK(ew_tokenizer_encode(tok, bytes, size, flags, &ids, &err));
    ew_free(bytes);
    assert_ids(where, json_object_get(row, "ids"), &ids);
    if (decoded != NULL) {
        CHECK(ew_tokenizer_decode(tok, ids.id, ids.n, EW_DECODE_SPECIAL, &out, &err));
        if (out.size != json_string_length(decoded) || strcmp(ew_buf_str(&out), json_string_value(decoded)) != 0) {
            fail_msg("%s: decoded '%s', the reference gives '%s'", where, ew_buf_str(&out), json_string_value(decoded));
        }
    }
}

static void check_cases(const ew_tokenizer *tok, const char *dir)
{
    ew_error err = EW_ERROR_INIT;
    char path[1024];
    ew_jsonl *rows = NULL;
    size_t n = 0;
    CHECK(ew_path_join(path, sizeof(path), dir, "cases.jsonl", &err));
    CHECK(ew_jsonl_open(path, &rows, &err));
    for (;;) {
        EW_AUTO_JSON row = NULL;
        CHECK(ew_jsonl_next(rows, &row, &err));
        if (row == NULL) {
            break;
        }
        check_row(tok, ew_jsonl_where(rows), row);
        n++;
    }
    ew_jsonl_free(&rows);
    assert_true(n > 150);
}

static void golden_dir(char *dst, size_t size, const char *name)
{
    snprintf(dst, size, "%s/tests/golden/token/%s", EW_TEST_SOURCE_DIR, name);
}

static void hf_dir(const char *name, const char *pre)
{
    ew_error err = EW_ERROR_INIT;
    char dir[900];
    EW_AUTO(ew_vocab) v = NULL;
    golden_dir(dir, sizeof(dir), name);
    CHECK(ew_vocab_from_hf(dir, &v, &err));
    if (pre == NULL) {
        assert_null(v->pre);
    } else {
        assert_string_equal(v->pre, pre);
    }
    EW_AUTO(ew_tokenizer) tok = make(v);
    check_cases(tok, dir);
    EW_AUTO(ew_vocab) again = resaved(v);
    EW_AUTO(ew_tokenizer) tok2 = make(again);
    check_cases(tok2, dir);
    assert_int_equal(again->n, v->n);
    assert_int_equal(again->bos, v->bos);
    assert_int_equal(again->eos, v->eos);
    assert_int_equal(again->add_bos, v->add_bos);
    assert_int_equal(again->unk, v->unk);
}

static void byte_level_gpt2_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-gpt2", "gpt-2");
}

static void byte_level_llama3_with_whole_words_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-llama3", "llama-bpe");
    ew_error err = EW_ERROR_INIT;
    char dir[900];
    EW_AUTO(ew_vocab) v = NULL;
    golden_dir(dir, sizeof(dir), "bpe-llama3");
    CHECK(ew_vocab_from_hf(dir, &v, &err));
    assert_true(v->ignore_merges);
    assert_true(v->add_bos);
    assert_int_equal(v->bos, 0);
    assert_int_equal(v->eos, ew_vocab_find(v, "<|b|>"));
    assert_string_equal(v->chat_template, "{{ messages }}");
}

static void byte_level_qwen2_with_nfc_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-qwen2", "qwen2");
}

static void byte_level_smollm_with_digits_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-smollm", "smollm");
}

static void byte_level_with_patterns_of_its_own_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-custom", NULL);
}

static void characters_with_prepend_and_byte_fallback_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("char-llama2", NULL);
}

static void characters_with_metaspace_first_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("char-metaspace", NULL);
}

static void characters_without_bytes_fuse_the_unknown_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("char-unk", NULL);
}

static void scores_as_sentencepiece(void **state)
{
    (void)state;
    char dir[900];
    char path[1000];
    golden_dir(dir, sizeof(dir), "spm");
    snprintf(path, sizeof(path), "%s/vocab.gguf", dir);
    EW_AUTO(ew_vocab) v = load_gguf(path);
    EW_AUTO(ew_tokenizer) tok = make(v);
    check_cases(tok, dir);
    EW_AUTO(ew_vocab) again = resaved(v);
    EW_AUTO(ew_tokenizer) tok2 = make(again);
    check_cases(tok2, dir);
}

static void sentencepiece_unigram_model_as_sentencepiece(void **state)
{
    (void)state;
    hf_dir("spm-unigram", NULL);
}

static void sentencepiece_unigram_model_with_bytes_as_sentencepiece(void **state)
{
    (void)state;
    hf_dir("spm-unigram-bytes", NULL);
}

static void sentencepiece_bpe_model_as_sentencepiece(void **state)
{
    (void)state;
    hf_dir("spm-bpe", NULL);
}

static void unigram_of_t5_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("unigram-t5", NULL);
}

static void unigram_of_normalised_text_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("unigram-lower", NULL);
}

static void wordpiece_lower_cased_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("wordpiece", NULL);
}

static void wordpiece_from_vocab_txt_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("wordpiece-txt", NULL);
}

static void byte_level_gpt4o_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-gpt4o", "gpt-4o");
}

static void byte_level_deepseek3_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-deepseek3", "deepseek-v3");
}

static void byte_level_with_steps_after_it_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-falcon", NULL);
}

static void byte_level_from_merges_txt_as_tokenizers(void **state)
{
    (void)state;
    hf_dir("bpe-merges", "gpt-2");
}

/* What a text begins and ends with by the files' own word. */
static void assert_ends(const char *name, const char *first, const char *last)
{
    ew_error err = EW_ERROR_INIT;
    char dir[900];
    EW_AUTO(ew_vocab) v = NULL;
    EW_AUTO_TOKENS ids = {0};
    golden_dir(dir, sizeof(dir), name);
    CHECK(ew_vocab_from_hf(dir, &v, &err));
    EW_AUTO(ew_tokenizer) tok = make(v);
    CHECK(ew_tokenizer_encode(tok, "the", 3, EW_ENCODE_BOS | EW_ENCODE_EOS_ASKED, &ids, &err));
    assert_true(ids.n >= 1);
    ew_span begin = ew_tokenizer_raw(tok, ids.id[0]);
    ew_span end = ew_tokenizer_raw(tok, ids.id[ids.n - 1]);
    assert_int_equal(first != NULL, begin.size == strlen(first != NULL ? first : "") &&
                                        memcmp(begin.data, first != NULL ? first : "", begin.size) == 0);
    assert_int_equal(last != NULL, end.size == strlen(last != NULL ? last : "") &&
                                       memcmp(end.data, last != NULL ? last : "", end.size) == 0);
}

static void ends_of_a_text_are_what_the_files_say(void **state)
{
    (void)state;
    assert_ends("wordpiece", "[CLS]", "[SEP]");
    assert_ends("wordpiece-txt", "[CLS]", "[SEP]");
    assert_ends("unigram-t5", NULL, "<e>");
    assert_ends("spm-bpe", "<s>", NULL);
    assert_ends("bpe-merges", "<|endoftext|>", NULL);
    assert_ends("bpe-gpt4o", NULL, NULL);
}

/* Every allocation from making the tokenizer to the decoded text fails once. */
static void check_no_memory(const char *name)
{
    static const char text[] = "MiXed <keep> caf\xC3\xA9 12 \xF0\x9F\x9A\x80 \xE6\xA8\xA1\xFF words the model";
    ew_error err = EW_ERROR_INIT;
    char dir[900];
    bool done = false;
    EW_AUTO(ew_vocab) v = NULL;
    golden_dir(dir, sizeof(dir), name);
    CHECK(ew_vocab_from_hf(dir, &v, &err));
    for (uint64_t n = 1; !done; n++) {
        EW_AUTO(ew_tokenizer) tok = NULL;
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_BUF out = {0};
        assert_true(n < 10000);
        ew_mem_fail_at(n);
        ew_status st = ew_tokenizer_new(v, &tok, &err);
        if (st == EW_OK) {
            st = ew_tokenizer_encode(tok, text, sizeof(text) - 1, EW_ENCODE_BOS, &ids, &err);
        }
        if (st == EW_OK) {
            st = ew_tokenizer_decode(tok, ids.id, ids.n, 0, &out, &err);
        }
        ew_mem_fail_at(0);
        assert_true(st == EW_OK || st == EW_ENOMEM);
        done = st == EW_OK;
    }
}

static void failed_allocations_are_clean_errors_in_every_kind(void **state)
{
    (void)state;
    check_no_memory("unigram-t5");
    check_no_memory("unigram-lower");
    check_no_memory("wordpiece");
    check_no_memory("spm-unigram-bytes");
    check_no_memory("spm-bpe");
    check_no_memory("bpe-falcon");
}

/* With EW_SHARED ------------------------------------------------------------------------------------------------ */

static const char *shared_or_skip(void)
{
    const char *shared = getenv("EW_SHARED");
    if (shared == NULL || !ew_dir_exists(shared)) {
        print_message("skipped: EW_SHARED does not name the reference data\n");
        skip();
    }
    return shared;
}

static void check_llama_cpp(const char *name)
{
    ew_error err = EW_ERROR_INIT;
    char path[900];
    char file[960];
    EW_AUTO_BUF inp = {0};
    EW_AUTO_BUF out = {0};
    static const char mark[] = "\n__ggml_vocab_test__\n";
    snprintf(path, sizeof(path), "%s/data/tokenizers/ggml-vocab-%s.gguf", shared_or_skip(), name);
    EW_AUTO(ew_vocab) v = load_gguf(path);
    EW_AUTO(ew_tokenizer) tok = make(v);
    snprintf(file, sizeof(file), "%s.inp", path);
    CHECK(ew_file_read(file, 1 << 20, &inp, &err));
    snprintf(file, sizeof(file), "%s.out", path);
    CHECK(ew_file_read(file, 1 << 20, &out, &err));
    const char *text = ew_buf_str(&inp);
    const char *want = ew_buf_str(&out);
    size_t n = 0;
    for (const char *end = strstr(text, mark); end != NULL; end = strstr(text, mark)) {
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_BUF got = {0};
        EW_AUTO_BUF back = {0};
        CHECK(ew_tokenizer_encode(tok, text, (size_t)(end - text), 0, &ids, &err));
        for (size_t i = 0; i < ids.n; i++) {
            ew_buf_addf(&got, " %d", (int)ids.id[i]);
        }
        ew_buf_addc(&got, '\n');
        size_t line = (size_t)(strchr(want, '\n') + 1 - want);
        if (got.size != line || memcmp(want, got.data, line) != 0) {
            fail_msg("%s case %zu: want %.*s got %s", name, n, (int)line, want, ew_buf_str(&got));
        }
        CHECK(ew_tokenizer_decode(tok, ids.id, ids.n, 0, &back, &err));
        assert_int_equal(back.size, end - text);
        assert_memory_equal(ew_buf_str(&back), text, back.size);
        text = end + sizeof(mark) - 1;
        want += line;
        n++;
    }
    assert_true(n >= 46);
    print_message("%s: %zu lines\n", name, n);
}

static void llama_cpp_gpt2_lines_are_reproduced(void **state)
{
    (void)state;
    check_llama_cpp("gpt-2");
}

static void llama_cpp_llama_spm_lines_are_reproduced(void **state)
{
    (void)state;
    check_llama_cpp("llama-spm");
}

static void llama_cpp_phi3_lines_are_reproduced(void **state)
{
    (void)state;
    check_llama_cpp("phi-3");
}

static void round_trip(const ew_tokenizer *tok, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF back = {0};
    CHECK(ew_tokenizer_encode(tok, text, strlen(text), EW_ENCODE_BOS, &ids, &err));
    CHECK(ew_tokenizer_decode(tok, ids.id, ids.n, 0, &back, &err));
    assert_string_equal(ew_buf_str(&back), text);
}

static void small_public_models_round_trip(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *shared = shared_or_skip();
    static const char *const texts[] = {"Once upon a time, there was a little girl named Lily.", " two  spaces ",
                                        "Ünï \xF0\x9F\x9A\x80\n\tx"};
    char path[900];
    EW_AUTO(ew_vocab) hf = NULL;
    snprintf(path, sizeof(path), "%s/data/models/TinyStories-656K", shared);
    CHECK(ew_vocab_from_hf(path, &hf, &err));
    EW_AUTO(ew_tokenizer) stories = make(hf);
    assert_true(hf->add_bos);
    assert_int_equal(ew_tokenizer_bos(stories), 1);
    assert_int_equal(ew_tokenizer_eos(stories), 2);
    assert_int_equal(ew_tokenizer_n_vocab(stories), 2048);
    EW_AUTO(ew_vocab) again = resaved(hf);
    EW_AUTO(ew_tokenizer) saved = make(again);
    snprintf(path, sizeof(path), "%s/data/models/stories260K/stories260K.gguf", shared);
    EW_AUTO(ew_vocab) v = load_gguf(path);
    EW_AUTO(ew_tokenizer) tok = make(v);
    for (size_t i = 0; i < EW_COUNT(texts); i++) {
        round_trip(tok, texts[i]);
        if (i < 2) { /* TinyStories-656K has no byte pieces: what it does not know becomes <unk> */
            round_trip(stories, texts[i]);
            round_trip(saved, texts[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_gpt2_as_tokenizers),
        cmocka_unit_test(byte_level_llama3_with_whole_words_as_tokenizers),
        cmocka_unit_test(byte_level_qwen2_with_nfc_as_tokenizers),
        cmocka_unit_test(byte_level_smollm_with_digits_as_tokenizers),
        cmocka_unit_test(byte_level_with_patterns_of_its_own_as_tokenizers),
        cmocka_unit_test(characters_with_prepend_and_byte_fallback_as_tokenizers),
        cmocka_unit_test(characters_with_metaspace_first_as_tokenizers),
        cmocka_unit_test(characters_without_bytes_fuse_the_unknown_as_tokenizers),
        cmocka_unit_test(scores_as_sentencepiece),
        cmocka_unit_test(sentencepiece_unigram_model_as_sentencepiece),
        cmocka_unit_test(sentencepiece_unigram_model_with_bytes_as_sentencepiece),
        cmocka_unit_test(sentencepiece_bpe_model_as_sentencepiece),
        cmocka_unit_test(unigram_of_t5_as_tokenizers),
        cmocka_unit_test(unigram_of_normalised_text_as_tokenizers),
        cmocka_unit_test(wordpiece_lower_cased_as_tokenizers),
        cmocka_unit_test(wordpiece_from_vocab_txt_as_tokenizers),
        cmocka_unit_test(byte_level_gpt4o_as_tokenizers),
        cmocka_unit_test(byte_level_deepseek3_as_tokenizers),
        cmocka_unit_test(byte_level_with_steps_after_it_as_tokenizers),
        cmocka_unit_test(byte_level_from_merges_txt_as_tokenizers),
        cmocka_unit_test(ends_of_a_text_are_what_the_files_say),
        cmocka_unit_test(failed_allocations_are_clean_errors_in_every_kind),
        cmocka_unit_test(llama_cpp_gpt2_lines_are_reproduced),
        cmocka_unit_test(llama_cpp_llama_spm_lines_are_reproduced),
        cmocka_unit_test(llama_cpp_phi3_lines_are_reproduced),
        cmocka_unit_test(small_public_models_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

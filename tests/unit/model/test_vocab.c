#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "format/gguf.h"
#include "model/vocab.h"
#include "token/tokenizer.h"

static const char start[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},";

/* start and the rest of a tokenizer.json */
static ew_status load(const char *rest, const char *config, ew_vocab **ret, ew_error *err)
{
    EW_AUTO_BUF text = {0};
    ew_buf_adds(&text, start);
    ew_buf_adds(&text, rest);
    return ew_vocab_from_hf_text("t.json", ew_buf_str(&text), text.size, config, config == NULL ? 0 : strlen(config),
                                 ret, err);
}

static void unknown_parts_of_tokenizer_json_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *rest, *name;
    } cases[] = {
        {"\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts"},
        {"\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Sideways\"}}",
         "Sideways"},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"normalizer\":{\"type\":\"Runes\"}}", "Runes"},
        {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}}", "Metaspace"},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"CTC\"}}", "CTC"},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"post_processor\":{\"type\":\"Stamp\"}}", "Stamp"},
    };
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        ew_vocab *v = NULL;
        ew_error err = EW_ERROR_INIT;
        assert_fails(EW_EUNSUPPORTED, load(cases[i].rest, NULL, &v, &err), &err, cases[i].name);
        assert_null(v);
    }
    static const char words[] =
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Metaspace\"}}";
    ew_vocab *v = NULL;
    ew_error err = EW_ERROR_INIT;
    assert_fails(EW_EUNSUPPORTED, ew_vocab_from_hf_text("u.json", words, sizeof(words) - 1, NULL, 0, &v, &err), &err,
                 "WordLevel");
}

static void damaged_tokenizer_json_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{",
        "[]",
        "{}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":1e3},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":1048576},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":1048575},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0},\"merges\":[7]}}",
        "{\"pre_tokenizer\":[],\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}",
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"id\":1}],\"model\":{\"vocab\":{\"a\":0},"
        "\"merges\":[]}}",
    };
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_vocab *v = NULL;
        ew_error err = EW_ERROR_INIT;
        ew_status st = ew_vocab_from_hf_text("t.json", bad[i], strlen(bad[i]), NULL, 0, &v, &err);
        if (st != EW_ECORRUPT && st != EW_EUNSUPPORTED) {
            fail_msg("%s: %s", bad[i], ew_status_name(st));
        }
        assert_non_null(strstr(err.msg, "t.json"));
        assert_null(v);
    }
}

static void config_names_the_special_pieces(void **state)
{
    (void)state;
    static const char rest[] =
        "\"pre_tokenizer\":{\"type\":\"Metaspace\"},\"added_tokens\":["
        "{\"id\":3,\"content\":\"<s>\",\"special\":true},{\"id\":6,\"content\":\"</s>\",\"special\":true}]}";
    static const char config[] =
        "{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
        "\"model_max_length\":1000000000000000019884624838656,\"unknown\":[1.5e3],"
        "\"chat_template\":[{\"name\":\"tools\",\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}";
    EW_AUTO(ew_vocab) v = NULL;
    ew_error err = EW_ERROR_INIT;
    assert_ok(load(rest, config, &v, &err), &err);
    assert_int_equal(v->n, 7);
    assert_int_equal(v->bos, 3);
    assert_int_equal(v->eos, 6);
    assert_true(v->add_bos);
    assert_false(v->add_eos);
    assert_int_equal(v->type[4], EW_PIECE_UNUSED);
    assert_int_equal(ew_vocab_find(v, "[PAD4]"), 4);
    assert_string_equal(v->chat_template, "D");
}

static void directory_without_tokenizer_json_gets_a_hint(void **state)
{
    (void)state;
    ew_vocab *v = NULL;
    ew_error err = EW_ERROR_INIT;
    assert_fails(EW_ENOENT, ew_vocab_from_hf(ew_test_tmpdir(), &v, &err), &err, "HINT");
}

static const char *write_gguf(const char *model, const char *pre, const char *merge)
{
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("bad.gguf");
    static const ew_span tokens[] = {{"a", 1}, {"b", 1}, {"ab", 2}};
    const ew_span merges[] = {{merge, strlen(merge)}};
    EW_AUTO(ew_gguf_writer) w = NULL;
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_str(w, "general.architecture", "llama");
    if (model != NULL) {
        ew_gguf_add_str(w, "tokenizer.ggml.model", model);
        ew_gguf_add_str(w, "tokenizer.ggml.pre", pre);
        ew_gguf_add_array_str(w, "tokenizer.ggml.tokens", tokens, 3);
        ew_gguf_add_array_str(w, "tokenizer.ggml.merges", merges, 1);
    }
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
    return path;
}

static void assert_gguf_fails(ew_status want, const char *path, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf) g = NULL;
    ew_vocab *v = NULL;
    assert_ok(ew_gguf_open(path, &g, &err), &err);
    assert_fails(want, ew_vocab_from_gguf(g, &v, &err), &err, text);
    assert_null(v);
}

static void vocabularies_of_other_kinds_in_gguf_are_refused_by_name(void **state)
{
    (void)state;
    assert_gguf_fails(EW_ENOENT, write_gguf(NULL, NULL, "a b"), "no vocabulary");
    assert_gguf_fails(EW_EUNSUPPORTED, write_gguf("rwkv", "default", "a b"), "rwkv");
    assert_gguf_fails(EW_EUNSUPPORTED, write_gguf("gpt2", "klingon", "a b"), "klingon");
    assert_gguf_fails(EW_ECORRUPT, write_gguf("gpt2", "default", "a z"), "merge 0");
    assert_gguf_fails(EW_ECORRUPT, write_gguf("gpt2", "default", "ab"), "merge 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_parts_of_tokenizer_json_are_refused_by_name),
        cmocka_unit_test(damaged_tokenizer_json_is_refused),
        cmocka_unit_test(config_names_the_special_pieces),
        cmocka_unit_test(directory_without_tokenizer_json_gets_a_hint),
        cmocka_unit_test(vocabularies_of_other_kinds_in_gguf_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The house models' corpus, on the fixture of the debian benchmark: documents are the pool's alone, the same for the same pass and
 * index, framed and weighted as the recipe says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "task/debian.h"
#include "test.h"
#include "token/tokenizer.h"
#include "train/corpus.h"
#include "train/pretrain.h"

#define FIXTURE EW_TEST_SOURCE_DIR "/tests/fixtures/debian/x_dists_fixture_"

typedef struct fixture {
    ew_debian *debian;
    ew_pretrain_recipe *recipe;
    ew_vocab *vocab;
    ew_corpus *corpus;
    ew_tokenizer *tok;
} fixture;

static int open_fixture(void **state)
{
    static fixture f;
    ew_error err = EW_ERROR_INIT;
    ew_debian_info info;
    const char *dir = ew_test_path("debian");
    const ew_debian_build_opt opt = {.packages = FIXTURE "main_binary-amd64_Packages",
                                     .translation = FIXTURE "main_i18n_Translation-en",
                                     .release = FIXTURE "InRelease",
                                     .out_dir = dir};
    assert_ok(ew_debian_build(&opt, &info, &err), &err);
    assert_ok(ew_debian_open(dir, &f.debian, &err), &err);
    assert_ok(ew_pretrain_recipe_load(EW_TEST_SOURCE_DIR "/models/deb-tiny.yaml", &f.recipe, &err), &err);
    f.recipe->vocab_size = 600;
    f.recipe->n_ctx = 256;
    assert_ok(ew_corpus_vocab(f.debian, f.recipe, NULL, &f.vocab, &err), &err);
    assert_ok(ew_corpus_new(f.debian, f.recipe, f.vocab, 10, NULL, &f.corpus, &err), &err);
    assert_ok(ew_tokenizer_new(f.vocab, &f.tok, &err), &err);
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    fixture *f = *state;
    ew_tokenizer_free(&f->tok);
    ew_corpus_free(&f->corpus);
    ew_vocab_free(&f->vocab);
    ew_pretrain_recipe_free(&f->recipe);
    ew_debian_free(&f->debian);
    return 0;
}

static void text_of(const fixture *f, const ew_pretrain_doc *doc, ew_buf *out)
{
    ew_error err = EW_ERROR_INIT;
    ew_buf_clear(out);
    assert_ok(ew_tokenizer_decode(f->tok, doc->id, doc->n, 0, out, &err), &err);
}

static void documents_are_framed_and_weighted(void **state)
{
    const fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    const ew_pretrain_source s = ew_corpus_train(f->corpus);
    size_t plain = 0, zero = 0, few = 0;
    EW_AUTO_BUF text = {0};
    for (size_t i = 0; i < s.n_docs; i++) {
        ew_pretrain_doc doc = {0};
        assert_ok(s.doc(s.ctx, 0, i, &doc, &err), &err);
        assert_true(doc.n > 2 && doc.id[0] == 0 && doc.id[doc.n - 1] == 1);
        text_of(f, &doc, &text);
        if (doc.weight[0] == 1.0F) {
            plain++;
            continue;
        }
        assert_true(doc.weight[0] == f->recipe->prompt_weight);
        assert_true(doc.weight[doc.n - 1] == f->recipe->answer_weight);
        assert_true(doc.weight[doc.n - 2] == f->recipe->answer_weight);
        assert_true(strncmp(text.data, "text: ", 6) == 0);
        const bool with = strstr(text.data, "\n\n") != NULL;
        few += with;
        zero += !with;
    }
    assert_true(plain > 0 && zero > 0 && few > 0);
}

static void the_same_pass_and_index_give_the_same_document(void **state)
{
    const fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    const ew_pretrain_source s = ew_corpus_train(f->corpus);
    EW_AUTO_BUF first = {0};
    EW_AUTO_BUF again = {0};
    size_t moved = 0;
    for (size_t i = 0; i < s.n_docs; i += 3) {
        ew_pretrain_doc doc = {0};
        assert_ok(s.doc(s.ctx, 1, i, &doc, &err), &err);
        text_of(f, &doc, &first);
        assert_ok(s.doc(s.ctx, 2, i, &doc, &err), &err);
        text_of(f, &doc, &again);
        moved += strcmp(ew_buf_str(&first), ew_buf_str(&again)) != 0;
        assert_ok(s.doc(s.ctx, 1, i, &doc, &err), &err);
        text_of(f, &doc, &again);
        assert_string_equal(ew_buf_str(&first), ew_buf_str(&again));
    }
    assert_true(moved > 0); /* passes differ */
}

static void held_out_texts_are_not_in_it(void **state)
{
    const fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    const ew_pretrain_source s = ew_corpus_train(f->corpus);
    EW_AUTO_BUF all = {0};
    EW_AUTO_BUF one = {0};
    for (size_t i = 0; i < s.n_docs; i++) {
        ew_pretrain_doc doc = {0};
        assert_ok(s.doc(s.ctx, 0, i, &doc, &err), &err);
        text_of(f, &doc, &one);
        ew_buf_add(&all, one.data, one.size);
    }
    size_t held = 0;
    for (size_t i = 0; i < ew_debian_n_records(f->debian); i++) {
        const ew_debian_record *r = ew_debian_record_at(f->debian, i);
        if (ew_debian_user_at(f->debian, r->user)->role == EW_DEBIAN_POOL) {
            continue;
        }
        held++;
        EW_AUTO_BUF head = {0};
        ew_buf_addf(&head, "%s: %s\n", r->id, r->synopsis);
        assert_null(strstr(all.data, ew_buf_str(&head)));
    }
    assert_true(held > 0);
}

static void validation_counts_answers_of_dev_users(void **state)
{
    const fixture *f = *state;
    ew_error err = EW_ERROR_INIT;
    const ew_pretrain_source s = ew_corpus_val(f->corpus);
    assert_true(s.n_docs > 0 && s.n_docs <= 20);
    for (size_t i = 0; i < s.n_docs; i++) {
        ew_pretrain_doc doc = {0};
        assert_ok(s.doc(s.ctx, 0, i, &doc, &err), &err);
        assert_true(doc.weight[0] == 0.0F && doc.weight[doc.n - 1] == 1.0F);
        assert_true(doc.n <= f->recipe->n_ctx + 64);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_framed_and_weighted),
        cmocka_unit_test(the_same_pass_and_index_give_the_same_document),
        cmocka_unit_test(held_out_texts_are_not_in_it),
        cmocka_unit_test(validation_counts_answers_of_dev_users),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}

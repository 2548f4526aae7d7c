#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "token/bpe_train.h"
#include "token/pretok.h"
#include "token/tokenizer.h"

typedef struct feed {
    const char *const *texts;
    size_t n, i;
    size_t size; /* of a single text; 0 = strlen */
} feed;

static ew_status feed_next(void *ctx, ew_span *ret_text, ew_error *reterr)
{
    (void)reterr;
    feed *f = ctx;
    if (f->i < f->n) {
        const char *s = f->texts[f->i++];
        *ret_text = (ew_span){s, f->size != 0 ? f->size : strlen(s)};
    }
    return EW_OK;
}

static ew_vocab *train(const ew_bpe_train_opt *opt, const char *const *texts, size_t n)
{
    feed f = {texts, n, 0, 0};
    ew_vocab *v = NULL;
    ew_error err = EW_ERROR_INIT;
    if (ew_bpe_train(opt, feed_next, &f, &v, &err) != EW_OK) {
        fail_msg("%s", err.msg);
    }
    return v;
}

static void assert_text(const ew_vocab *v, int32_t id, const char *want)
{
    ew_span s = ew_vocab_text(v, id);
    assert_int_equal(s.size, strlen(want));
    assert_memory_equal(s.data, want, s.size);
}

static void most_frequent_pair_is_merged_first_and_ties_go_to_the_greater_bytes(void **state)
{
    (void)state;
    /* Sennrich's example: lower and newest. (s,t) and (e,s) both occur 9 times; the greater one is (s,t). */
    const char *texts[] = {
        "low low low low low lower lower widest widest widest newest newest newest newest newest newest"};
    ew_bpe_train_opt opt = {.vocab_size = 256 + 6};
    EW_AUTO(ew_vocab) v = train(&opt, texts, 1);
    assert_int_equal(v->n, 262);
    assert_int_equal(v->n_merges, 6);
    assert_text(v, 256, "st");
    assert_text(v, 257, "est");
    /* then (o,w) 7, (l,o) 7, ... with "ow" the greater */
    assert_text(v, 258, "ow");
    assert_text(v, 259, "low");
    assert_text(v, 260, "west");
    assert_text(v, 261, "ne");
    assert_text(v, 0, "!");
    assert_string_equal(v->pre, "gpt-2");
}

static void overlapping_runs_are_merged_from_the_left(void **state)
{
    (void)state;
    const char *texts[] = {"aaaaa aaaaa"};
    ew_bpe_train_opt opt = {.vocab_size = 256 + 3};
    EW_AUTO(ew_vocab) v = train(&opt, texts, 1);
    assert_text(v, 256, "aa");
    assert_text(v, 257, "aaaa");
    assert_text(v, 258, "aaaaa");
}

static void special_pieces_come_first_and_cut_the_text(void **state)
{
    (void)state;
    const char *specials[] = {"<|endoftext|>", "<pad>"};
    const char *texts[] = {"ab<|endoftext|>ab<|endoftext|><|endoftext|>ab", "ab"};
    ew_bpe_train_opt opt = {.vocab_size = 300,
                            .pre = "llama-bpe",
                            .specials = specials,
                            .n_specials = 2,
                            .bos = "<|endoftext|>",
                            .eos = "<|endoftext|>",
                            .pad = "<pad>"};
    EW_AUTO(ew_vocab) v = train(&opt, texts, 2);
    assert_int_equal(v->n, 259); /* nothing but "ab" can be merged */
    assert_text(v, 0, "<|endoftext|>");
    assert_text(v, 258, "ab");
    assert_int_equal(v->type[0], EW_PIECE_CONTROL);
    assert_int_equal(v->bos, 0);
    assert_int_equal(v->eos, 0);
    assert_int_equal(v->pad, 1);
    assert_true(v->add_bos);
    EW_AUTO(ew_tokenizer) tok = NULL;
    assert_int_equal(ew_tokenizer_new(v, &tok, NULL), EW_OK);
}

static void bounds_on_count_and_length_are_kept(void **state)
{
    (void)state;
    const char *texts[] = {"abcd abcd abcd abcd xy xy"};
    ew_bpe_train_opt opt = {.vocab_size = 300, .max_bytes_per_token = 2, .min_count = 3};
    EW_AUTO(ew_vocab) v = train(&opt, texts, 1);
    for (size_t i = 256; i < v->n; i++) {
        assert_in_range(ew_vocab_text(v, (int32_t)i).size, 2, 3); /* a space is spelled in two bytes */
        ew_span s = ew_vocab_text(v, (int32_t)i);
        assert_null(memchr(s.data, 'x', s.size));
    }
}

static void wrong_options_are_refused_by_name(void **state)
{
    (void)state;
    const char *texts[] = {"a"};
    const char *twice[] = {"<a>", "<a>"};
    feed f = {texts, 1, 0, 0};
    ew_vocab *v = NULL;
    ew_error err = EW_ERROR_INIT;
    ew_bpe_train_opt opt = {.vocab_size = 255};
    assert_int_equal(ew_bpe_train(&opt, feed_next, &f, &v, &err), EW_EINVAL);
    opt = (ew_bpe_train_opt){.vocab_size = 300, .pre = "gpt-17"};
    assert_int_equal(ew_bpe_train(&opt, feed_next, &f, &v, &err), EW_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "gpt-17"));
    opt = (ew_bpe_train_opt){.vocab_size = 300, .specials = twice, .n_specials = 2};
    assert_int_equal(ew_bpe_train(&opt, feed_next, &f, &v, &err), EW_EINVAL);
    opt = (ew_bpe_train_opt){.vocab_size = 300, .eos = "</s>"};
    assert_int_equal(ew_bpe_train(&opt, feed_next, &f, &v, &err), EW_EINVAL);
    assert_non_null(strstr(err.msg, "</s>"));
    assert_null(v);
}

static void empty_text_gives_the_bytes_alone(void **state)
{
    (void)state;
    ew_bpe_train_opt opt = {.vocab_size = 300};
    EW_AUTO(ew_vocab) v = train(&opt, NULL, 0);
    assert_int_equal(v->n, 256);
    assert_int_equal(v->n_merges, 0);
}

static void failed_allocation_anywhere_is_a_clean_error(void **state)
{
    (void)state;
    const char *texts[] = {"low lower lowest <s> newer wider", "the quick brown fox"};
    const char *specials[] = {"<s>"};
    ew_bpe_train_opt opt = {.vocab_size = 280, .specials = specials, .n_specials = 1};
    for (uint64_t at = 1; at < 10000; at++) {
        feed f = {texts, 2, 0, 0};
        ew_vocab *v = NULL;
        ew_error err = EW_ERROR_INIT;
        ew_mem_fail_at(at);
        ew_status st = ew_bpe_train(&opt, feed_next, &f, &v, &err);
        ew_mem_fail_at(0);
        if (st == EW_OK) {
            assert_true(at > 20);
            ew_vocab_free(&v);
            return;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_null(v);
        assert_true(err.msg[0] != '\0');
    }
    fail_msg("training never got through");
}

static char *read_file(const char *dir, const char *name, size_t *ret_size)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return NULL;
    }
    EW_AUTO_BUF b = {0};
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof(part), f)) > 0) {
        ew_buf_add(&b, part, n);
    }
    fclose(f);
    *ret_size = b.size;
    return ew_buf_take(&b);
}

/* The value of "key": N in the flat reference file; keys are spelled there as in our vocabulary, " and \ escaped. */
static long reference_id(const char *json, ew_span text)
{
    EW_AUTO_BUF key = {0};
    ew_buf_adds(&key, "    \"");
    for (size_t i = 0; i < text.size; i++) {
        char c = ((const char *)text.data)[i];
        if (c == '"' || c == '\\') {
            ew_buf_addc(&key, '\\');
        }
        ew_buf_addc(&key, c);
    }
    ew_buf_adds(&key, "\": ");
    const char *at = strstr(json, ew_buf_str(&key));
    return at == NULL ? -1 : strtol(at + key.size, NULL, 10);
}

static void reference_trainer_is_reproduced(void **state)
{
    (void)state;
    const char *shared = getenv("EW_SHARED");
    size_t size = 0;
    size_t ignore;
    char dir[900];
    snprintf(dir, sizeof(dir), "%s/data/text", shared == NULL ? "" : shared);
    char *text = shared == NULL ? NULL : read_file(dir, "corpus.en", &size);
    char *merges = text == NULL ? NULL : read_file(dir, "train-bpe-reference-merges.txt", &ignore);
    char *vocab = text == NULL ? NULL : read_file(dir, "train-bpe-reference-vocab.json", &ignore);
    if (text == NULL || merges == NULL || vocab == NULL) {
        print_message("skipped: EW_SHARED does not name the reference data\n");
        ew_free(text);
        ew_free(merges);
        ew_free(vocab);
        skip();
    }
    const char *specials[] = {"<|endoftext|>"};
    const char *const texts[] = {text};
    ew_bpe_train_opt opt = {.vocab_size = 500, .specials = specials, .n_specials = 1};
    EW_AUTO(ew_vocab) v = train(&opt, texts, 1);
    assert_int_equal(v->n, 500);
    const char *line = merges;
    for (size_t i = 0; i < v->n_merges; i++) {
        ew_span a = ew_vocab_text(v, v->merges[i].left);
        ew_span b = ew_vocab_text(v, v->merges[i].right);
        assert_memory_equal(line, a.data, a.size);
        assert_int_equal(line[a.size], ' ');
        assert_memory_equal(line + a.size + 1, b.data, b.size);
        line += a.size + 1 + b.size;
        assert_int_equal(*line, '\n');
        line++;
    }
    assert_int_equal(*line, '\0');
    for (size_t i = 0; i < v->n; i++) {
        assert_int_equal(reference_id(vocab, ew_vocab_text(v, (int32_t)i)), i);
    }
    ew_free(text);
    ew_free(merges);
    ew_free(vocab);
}

/* Words of a skewed made-up language: about 10 MB, 60,000 distinct. */
static char *made_up_text(size_t bytes, size_t *ret_size)
{
    static const char syllables[][4] = {"ka",  "to", "mi",  "ren", "sol", "va",  "dis", "pu",
                                        "ing", "er", "the", "an",  "lo",  "qui", "zet", "bra"};
    ew_rng rng;
    ew_rng_init(&rng, 7, 0);
    char *text = ew_malloc(bytes + 64, 1);
    assert_non_null(text);
    size_t n = 0;
    while (n < bytes) {
        double u = ew_rng_f64(&rng);
        uint64_t word = (uint64_t)(u * u * u * u * 60000.0);
        for (uint64_t x = word * 2654435761u % 65536 + 1; x > 0; x /= 16) {
            size_t len = strlen(syllables[x % 16]);
            memcpy(text + n, syllables[x % 16], len);
            n += len;
        }
        text[n++] = ew_rng_below(&rng, 12) == 0 ? '\n' : ' ';
    }
    *ret_size = n;
    return text;
}

static void ten_megabytes_to_4096_pieces_in_well_under_a_minute(void **state)
{
    (void)state;
    size_t size;
    char *text = made_up_text(10 * 1000 * 1000, &size);
    const char *texts[] = {text};
    feed f = {texts, 1, 0, size};
    ew_bpe_train_opt opt = {.vocab_size = 4096};
    EW_AUTO(ew_vocab) v = NULL;
    uint64_t start = ew_mono_ms();
    assert_int_equal(ew_bpe_train(&opt, feed_next, &f, &v, NULL), EW_OK);
    uint64_t took = ew_mono_ms() - start;
    ew_free(text);
    print_message("10 MB to %zu pieces: %.2f s\n", v->n, (double)took / 1000.0);
    assert_int_equal(v->n, 4096);
    assert_true(took < 30000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(most_frequent_pair_is_merged_first_and_ties_go_to_the_greater_bytes),
        cmocka_unit_test(overlapping_runs_are_merged_from_the_left),
        cmocka_unit_test(special_pieces_come_first_and_cut_the_text),
        cmocka_unit_test(bounds_on_count_and_length_are_kept),
        cmocka_unit_test(wrong_options_are_refused_by_name),
        cmocka_unit_test(empty_text_gives_the_bytes_alone),
        cmocka_unit_test(failed_allocation_anywhere_is_a_clean_error),
        cmocka_unit_test(reference_trainer_is_reproduced),
        cmocka_unit_test(ten_megabytes_to_4096_pieces_in_well_under_a_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

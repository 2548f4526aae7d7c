#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "prop.h"
#include "text/utf8.h"
#include "token/bpe_train.h"
#include "token/tokenizer.h"

static ew_status one_text(void *ctx, ew_span *ret_text, ew_error *reterr)
{
    static const char text[] =
        "every device keeps the words of its owner and learns from them at night when the battery is full\n"
        "größere Modelle brauchen mehr Speicher, it's we'll they've 2026 1,048,576 \xF0\x9F\x9A\x80\xF0\x9F\x9A\x80 "
        "def f(x):\n    return x\n";
    (void)reterr;
    bool *done = ctx;
    if (!*done) {
        *ret_text = (ew_span){text, sizeof(text) - 1};
        *done = true;
    }
    return EW_OK;
}

static ew_vocab *byte_vocab(const char *pre)
{
    bool done = false;
    ew_vocab *v = NULL;
    static const char *const specials[] = {"<|end|>"};
    ew_bpe_train_opt opt = {.vocab_size = 420, .pre = pre, .specials = specials, .n_specials = 1, .bos = "<|end|>"};
    assert_int_equal(ew_bpe_train(&opt, one_text, &done, &v, NULL), EW_OK);
    return v;
}

/* The pieces of a byte vocabulary as characters: bytes for whatever is left over. Merges by score or by list. */
static ew_vocab *char_vocab(ew_tokenizer_kind kind)
{
    static const char *const chars = "etaoinshrdlu\xE2\x96\x81";
    ew_vocab *v = NULL;
    assert_int_equal(ew_vocab_new(kind, &v, NULL), EW_OK);
    for (unsigned c = 0; c < 256; c++) {
        char text[8];
        snprintf(text, sizeof(text), "<0x%02X>", c);
        assert_int_equal(ew_vocab_add(v, text, 6, 0, EW_PIECE_BYTE, NULL, NULL), EW_OK);
    }
    size_t first = v->n;
    for (size_t i = 0; i < strlen(chars);) {
        size_t len = ew_utf8_next(chars + i, strlen(chars) - i, NULL);
        assert_int_equal(ew_vocab_add(v, chars + i, len, -1000, EW_PIECE_NORMAL, NULL, NULL), EW_OK);
        i += len;
    }
    ew_rng rng;
    ew_rng_init(&rng, 3, 1);
    for (int i = 0; i < 200; i++) {
        char text[64];
        int32_t a = (int32_t)(first + ew_rng_below(&rng, v->n - first));
        int32_t b = (int32_t)(first + ew_rng_below(&rng, v->n - first));
        ew_span x = ew_vocab_text(v, a);
        ew_span y = ew_vocab_text(v, b);
        if (x.size + y.size < sizeof(text)) {
            memcpy(text, x.data, x.size);
            memcpy(text + x.size, y.data, y.size);
            assert_int_equal(ew_vocab_add(v, text, x.size + y.size, (float)-i, EW_PIECE_NORMAL, NULL, NULL), EW_OK);
            assert_int_equal(ew_vocab_add_merge(v, a, b, NULL), EW_OK);
        }
    }
    v->byte_fallback = true;
    v->prefix = EW_PREFIX_ALWAYS;
    return v;
}

static bool same_back(ew_prop *p, const ew_tokenizer *tok, const char *text, size_t size)
{
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF back = {0};
    EW_AUTO_BUF streamed = {0};
    EW_AUTO_BUF clean = {0};
    ew_tok_stream s = {0};
    if (!ew_prop_that(p, ew_tokenizer_encode(tok, text, size, 0, &ids, NULL) == EW_OK, "encode fails") ||
        !ew_prop_that(p, ew_tokenizer_decode(tok, ids.id, ids.n, 0, &back, NULL) == EW_OK, "decode fails")) {
        return false;
    }
    for (size_t i = 0; i < ids.n; i++) {
        ew_tok_stream_push(&s, tok, ids.id[i], &streamed);
    }
    ew_tok_stream_finish(&s, &streamed);
    bool good = ew_prop_that(p, back.size == size && (size == 0 || memcmp(back.data, text, size) == 0),
                             "decode(encode(s)) differs, size %zu", size);
    if (good && ew_utf8_valid(text, size)) {
        good = ew_prop_that(p, streamed.size == size && (size == 0 || memcmp(streamed.data, text, size) == 0),
                            "the stream differs, size %zu", size);
    }
    return good && ew_prop_that(p, ew_utf8_valid(streamed.data, streamed.size), "the stream is malformed");
}

static bool bytes_come_back(ew_prop *p, void *ctx)
{
    size_t n = ew_prop_size(p);
    return same_back(p, ctx, (const char *)ew_prop_bytes(p, n), n);
}

static bool text_comes_back(ew_prop *p, void *ctx)
{
    char *text = ew_prop_utf8(p, ew_prop_size(p));
    /* U+2581 is a space to these vocabularies. */
    for (char *at = strstr(text, "\xE2\x96\x81"); at != NULL; at = strstr(at, "\xE2\x96\x81")) {
        memcpy(at, "eta", 3);
    }
    return same_back(p, ctx, text, strlen(text));
}

static void check_all(const ew_vocab *v, const char *name)
{
    ew_tokenizer *tok = NULL;
    assert_int_equal(ew_tokenizer_new(v, &tok, NULL), EW_OK);
    bool a = ew_prop_check(name, 300, 3000, text_comes_back, tok);
    bool b = ew_prop_check(name, 300, 3000, bytes_come_back, tok);
    ew_tokenizer_free(&tok);
    assert_true(a && b);
}

static void decode_of_encode_is_the_text_for_every_byte_level_pattern(void **state)
{
    (void)state;
    static const char *const pres[] = {"gpt-2", "llama-bpe", "qwen2", "smollm", "default", "falcon", "gpt-4o"};
    for (size_t i = 0; i < EW_COUNT(pres); i++) {
        EW_AUTO(ew_vocab) v = byte_vocab(pres[i]);
        check_all(v, pres[i]);
    }
}

static void decode_of_encode_is_the_text_for_character_vocabularies(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) spm = char_vocab(EW_TOKENIZER_SPM);
    check_all(spm, "spm");
    EW_AUTO(ew_vocab) list = char_vocab(EW_TOKENIZER_CHAR_BPE);
    check_all(list, "char-bpe");
}

/* What the linked list and the heap do, done the slow way: merge the best neighbours until none is left. */
static bool same_as_the_slow_way(ew_prop *p, void *ctx)
{
    const ew_tokenizer *tok = ctx;
    const ew_vocab *v = ew_tokenizer_vocab(tok);
    size_t size = ew_prop_size(p);
    char *text = ew_prop_alloc(p, size + 1, 1);
    int32_t *slow = ew_prop_alloc(p, size + 1, sizeof(*slow));
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        text[i] = "etaoinshrdlu"[ew_rng_below(&p->rng, 4)];
        slow[n++] = ew_tokenizer_find(tok, text + i, 1);
    }
    for (;;) {
        size_t best = v->n_merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t m = 0; m < best; m++) {
                if (v->merges[m].left == slow[i] && v->merges[m].right == slow[i + 1]) {
                    best = m;
                    at = i;
                }
            }
        }
        if (best == v->n_merges) {
            break;
        }
        char joined[64];
        ew_span a = ew_vocab_text(v, slow[at]);
        ew_span b = ew_vocab_text(v, slow[at + 1]);
        memcpy(joined, a.data, a.size);
        memcpy(joined + a.size, b.data, b.size);
        slow[at] = ew_tokenizer_find(tok, joined, a.size + b.size);
        memmove(slow + at + 1, slow + at + 2, (n - at - 2) * sizeof(*slow));
        n--;
    }
    EW_AUTO_TOKENS ids = {0};
    return ew_prop_that(p, ew_tokenizer_encode(tok, text, size, 0, &ids, NULL) == EW_OK, "encode fails") &&
           ew_prop_that(p, ids.n == n && (n == 0 || memcmp(ids.id, slow, n * sizeof(*slow)) == 0), "other ids");
}

static void merging_gives_what_the_slow_way_gives(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = char_vocab(EW_TOKENIZER_CHAR_BPE);
    v->prefix = EW_PREFIX_NONE;
    EW_AUTO(ew_tokenizer) tok = NULL;
    assert_int_equal(ew_tokenizer_new(v, &tok, NULL), EW_OK);
    assert_true(ew_prop_check("merging", 200, 120, same_as_the_slow_way, tok));
}

/* Time per byte of one long text against that of its tenth: far from quadratic, whatever the machine. */
static void assert_linear(const ew_tokenizer *tok, const char *text, size_t size, const char *what)
{
    uint64_t took[2];
    for (int i = 0; i < 2; i++) {
        EW_AUTO_TOKENS ids = {0};
        uint64_t start = ew_mono_ns();
        assert_int_equal(ew_tokenizer_encode(tok, text, i == 0 ? size / 10 : size, 0, &ids, NULL), EW_OK);
        took[i] = ew_mono_ns() - start;
    }
    print_message("%s: %zu bytes in %.3f s\n", what, size, (double)took[1] / 1e9);
    assert_true(took[1] < 60 * (took[0] + 5000000));
}

static void ten_megabytes_take_time_in_proportion(void **state)
{
    (void)state;
    size_t size = 10 * 1000 * 1000;
    char *prose = ew_malloc(size, 1);
    char *run = ew_malloc(size, 1);
    assert_true(prose != NULL && run != NULL);
    ew_rng rng;
    ew_rng_init(&rng, 11, 0);
    for (size_t i = 0; i < size; i++) {
        prose[i] = "etaoinshrdlu    \n,.0"[ew_rng_below(&rng, 20)];
        run[i] = 'e';
    }
    EW_AUTO(ew_vocab) bytes = byte_vocab("llama-bpe");
    EW_AUTO(ew_vocab) spm = char_vocab(EW_TOKENIZER_SPM);
    EW_AUTO(ew_tokenizer) a = NULL;
    EW_AUTO(ew_tokenizer) b = NULL;
    assert_int_equal(ew_tokenizer_new(bytes, &a, NULL), EW_OK);
    assert_int_equal(ew_tokenizer_new(spm, &b, NULL), EW_OK);
    assert_linear(a, prose, size, "byte-level, prose");
    assert_linear(a, run, size / 10, "byte-level, one run");
    assert_linear(b, prose, size, "SentencePiece, prose");
    assert_linear(b, run, size / 10, "SentencePiece, one run");
    ew_free(prose);
    ew_free(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_of_encode_is_the_text_for_every_byte_level_pattern),
        cmocka_unit_test(decode_of_encode_is_the_text_for_character_vocabularies),
        cmocka_unit_test(merging_gives_what_the_slow_way_gives),
        cmocka_unit_test(ten_megabytes_take_time_in_proportion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

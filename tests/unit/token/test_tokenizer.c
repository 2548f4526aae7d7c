#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "token/bpe_train.h"
#include "token/pretok.h"
#include "token/tokenizer.h"

#define CHECK(expr) assert_int_equal((expr), EW_OK)

static ew_status two_texts(void *ctx, ew_span *ret_text, ew_error *reterr)
{
    static const char *const texts[] = {"the quick brown fox jumps over the lazy dog; the dog sleeps, the fox thinks",
                                        "the thing that the others think is nothing but the other thing 123 456"};
    (void)reterr;
    size_t *i = ctx;
    if (*i < 2) {
        *ret_text = (ew_span){texts[*i], strlen(texts[*i])};
        (*i)++;
    }
    return EW_OK;
}

static ew_vocab *byte_vocab(void)
{
    static const char *const specials[] = {"<s>", "</s>", "<s><s>"};
    size_t i = 0;
    ew_vocab *v = NULL;
    ew_bpe_train_opt opt = {.vocab_size = 320, .specials = specials, .n_specials = 3, .bos = "<s>", .eos = "</s>"};
    CHECK(ew_bpe_train(&opt, two_texts, &i, &v, NULL));
    return v;
}

/* A hand-made SentencePiece vocabulary: unk, bos, eos, 256 bytes, a few pieces with scores. */
static ew_vocab *spm_vocab(void)
{
    static const struct {
        const char *text;
        float score;
    } pieces[] = {{"\xE2\x96\x81", -10},
                  {"a", -11},
                  {"b", -12},
                  {"c", -13},
                  {"ab", -1},
                  {"bc", -2},
                  {"abc", -3},
                  {"ca", -4},
                  {"aa", -5},
                  {"\xE2\x96\x81"
                   "a",
                   -6},
                  {"\xE2\x96\x81\xE2\x96\x81", -7}};
    ew_vocab *v = NULL;
    CHECK(ew_vocab_new(EW_TOKENIZER_SPM, &v, NULL));
    CHECK(ew_vocab_add(v, "<unk>", 5, 0, EW_PIECE_UNKNOWN, &v->unk, NULL));
    CHECK(ew_vocab_add(v, "<s>", 3, 0, EW_PIECE_CONTROL, &v->bos, NULL));
    CHECK(ew_vocab_add(v, "</s>", 4, 0, EW_PIECE_CONTROL, &v->eos, NULL));
    for (unsigned c = 0; c < 256; c++) {
        char text[8];
        snprintf(text, sizeof(text), "<0x%02X>", c);
        CHECK(ew_vocab_add(v, text, 6, 0, EW_PIECE_BYTE, NULL, NULL));
    }
    for (size_t i = 0; i < EW_COUNT(pieces); i++) {
        CHECK(ew_vocab_add(v, pieces[i].text, strlen(pieces[i].text), pieces[i].score, EW_PIECE_NORMAL, NULL, NULL));
    }
    v->byte_fallback = true;
    v->add_bos = true;
    v->prefix = EW_PREFIX_ALWAYS;
    return v;
}

static ew_tokenizer *make(const ew_vocab *v)
{
    ew_tokenizer *tok = NULL;
    CHECK(ew_tokenizer_new(v, &tok, NULL));
    return tok;
}

/* The pieces of text as spelled, with '|' between. */
static void assert_pieces(const ew_tokenizer *tok, const char *text, unsigned flags, const char *want)
{
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF got = {0};
    CHECK(ew_tokenizer_encode(tok, text, strlen(text), flags, &ids, NULL));
    for (size_t i = 0; i < ids.n; i++) {
        ew_span s = ew_tokenizer_raw(tok, ids.id[i]);
        ew_buf_adds(&got, i == 0 ? "" : "|");
        ew_buf_add(&got, s.data, s.size);
    }
    assert_string_equal(ew_buf_str(&got), want);
}

static void assert_round_trip(const ew_tokenizer *tok, const void *text, size_t size)
{
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF back = {0};
    CHECK(ew_tokenizer_encode(tok, text, size, EW_ENCODE_BOS | EW_ENCODE_EOS, &ids, NULL));
    CHECK(ew_tokenizer_decode(tok, ids.id, ids.n, 0, &back, NULL));
    assert_int_equal(back.size, size);
    assert_memory_equal(ew_buf_str(&back), text, size);
}

static void best_score_merges_first_and_equal_ones_from_the_left(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = spm_vocab();
    v->prefix = EW_PREFIX_NONE;
    EW_AUTO(ew_tokenizer) tok = make(v);
    assert_pieces(tok, "abc", 0, "abc"); /* ab, then abc */
    assert_pieces(tok, "aaa", 0, "aa|a");
    assert_pieces(tok, "bca", 0, "bc|a"); /* bc -2 before ca -4 */
    assert_pieces(tok, "   ", 0, "\xE2\x96\x81\xE2\x96\x81|\xE2\x96\x81");
    assert_pieces(tok, "a\xC3\xA9", 0, "a|<0xC3>|<0xA9>");
}

static void space_in_front_is_added_and_removed_again(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = spm_vocab();
    EW_AUTO(ew_tokenizer) tok = make(v);
    assert_pieces(tok, "a", EW_ENCODE_BOS,
                  "<s>|\xE2\x96\x81"
                  "a");
    assert_pieces(tok, "", EW_ENCODE_BOS, "<s>");
    assert_round_trip(tok, " a  b ", 6);
    int32_t id = ew_tokenizer_find(tok,
                                   "\xE2\x96\x81"
                                   "a",
                                   4);
    EW_AUTO_BUF out = {0};
    CHECK(ew_tokenizer_decode(tok, &id, 1, EW_DECODE_MIDDLE, &out, NULL));
    assert_string_equal(ew_buf_str(&out), " a");
}

static void control_pieces_in_text_count_only_when_asked_for(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    CHECK(ew_vocab_add(v, "<keep>", 6, 0, EW_PIECE_USER_DEFINED, NULL, NULL));
    EW_AUTO(ew_tokenizer) tok = make(v);
    assert_pieces(tok, "<s>a", EW_ENCODE_SPECIAL, "<s>|a");
    assert_pieces(tok, "<s><s>a</s>", EW_ENCODE_SPECIAL, "<s><s>|a|</s>"); /* the longest */
    assert_pieces(tok, "<s>a", 0, "<|s|>|a");
    assert_pieces(tok, "x<keep>y", 0, "x|<keep>|y");
    assert_round_trip(tok, "<s>x<keep></s>", 14);
    EW_AUTO(ew_vocab) s = spm_vocab();
    EW_AUTO(ew_tokenizer) chars = make(s);
    assert_pieces(chars, "<s>", EW_ENCODE_SPECIAL, "<s>");
    EW_AUTO_TOKENS ids = {0};
    CHECK(ew_tokenizer_encode(chars, "<s></s><0x41><unk>", 18, 0, &ids, NULL));
    for (size_t i = 0; i < ids.n; i++) {
        assert_false(ew_tokenizer_is_control(chars, ids.id[i]));
    }
    assert_round_trip(chars, "<s></s><0x41><unk>", 18);
}

static void control_pieces_decode_to_text_only_when_asked_for(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = spm_vocab();
    EW_AUTO(ew_tokenizer) tok = make(v);
    EW_AUTO_BUF out = {0};
    int32_t ids[] = {v->bos, ew_tokenizer_find(tok, "abc", 3), v->eos};
    CHECK(ew_tokenizer_decode(tok, ids, 3, 0, &out, NULL));
    assert_string_equal(ew_buf_str(&out), "abc");
    ew_buf_clear(&out);
    CHECK(ew_tokenizer_decode(tok, ids, 3, EW_DECODE_SPECIAL, &out, NULL));
    assert_string_equal(ew_buf_str(&out), "<s>abc</s>");
    assert_int_equal(ew_tokenizer_piece(tok, v->bos).size, 0);
}

static void strip_attributes_swallow_spaces(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    v->attr[0] = EW_PIECE_LSTRIP;
    v->attr[1] = EW_PIECE_RSTRIP;
    EW_AUTO(ew_tokenizer) tok = make(v);
    assert_pieces(tok, "a  <s> b</s> \n c", EW_ENCODE_SPECIAL,
                  "a|<s>|\xC4\xA0"
                  "b|</s>|c");
}

static void malformed_utf8_comes_back_byte_for_byte(void **state)
{
    (void)state;
    static const char bad[] = "ok\xFF\xFEthe \xE2\x82 fox\xC0\x80\xED\xA0\x80\x00z\xF0\x9F";
    EW_AUTO(ew_vocab) v = byte_vocab();
    EW_AUTO(ew_tokenizer) bytes = make(v);
    assert_round_trip(bytes, bad, sizeof(bad) - 1);
    EW_AUTO(ew_vocab) s = spm_vocab();
    EW_AUTO(ew_tokenizer) chars = make(s);
    assert_round_trip(chars, bad, sizeof(bad) - 1);
}

static void begin_and_end_follow_the_vocabulary(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    EW_AUTO(ew_tokenizer) with = make(v);
    assert_pieces(with, "a", EW_ENCODE_BOS | EW_ENCODE_EOS, "<s>|a|</s>");
    v->add_bos = false;
    EW_AUTO(ew_tokenizer) without = make(v);
    assert_pieces(without, "a", EW_ENCODE_BOS, "a");
    assert_true(ew_tokenizer_is_eog(with, ew_tokenizer_eos(with)));
    assert_false(ew_tokenizer_is_eog(with, ew_tokenizer_bos(with)));
    assert_false(ew_tokenizer_is_eog(with, -1));
    assert_false(ew_tokenizer_is_eog(with, 1000000));
}

static void stream_gives_whole_characters_only(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = spm_vocab();
    EW_AUTO(ew_tokenizer) tok = make(v);
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF out = {0};
    static const char rocket[] = "\xF0\x9F\x9A\x80";
    ew_tok_stream s = {0};
    CHECK(ew_tokenizer_encode(tok, rocket, 4, 0, &ids, NULL));
    assert_int_equal(ids.n, 5); /* space and four bytes */
    for (size_t i = 0; i < ids.n; i++) {
        ew_tok_stream_push(&s, tok, ids.id[i], &out);
        assert_int_equal(out.size, i == 4 ? 4 : 0);
    }
    assert_string_equal(ew_buf_str(&out), rocket);
    ew_buf_clear(&out);
    /* F0 9F, then 'a': the unfinished one is replaced, 'a' is not lost; then an unfinished end. */
    ew_tok_stream_push(&s, tok, ids.id[1], &out);
    ew_tok_stream_push(&s, tok, ids.id[2], &out);
    ew_tok_stream_push(&s, tok, ew_tokenizer_find(tok, "a", 1), &out);
    assert_string_equal(ew_buf_str(&out), "\xEF\xBF\xBD"
                                          "a");
    ew_tok_stream_push(&s, tok, ids.id[1], &out);
    ew_tok_stream_finish(&s, &out);
    assert_string_equal(ew_buf_str(&out), "\xEF\xBF\xBD"
                                          "a\xEF\xBF\xBD");
    ew_tok_stream_push(&s, tok, v->eos, &out);
    ew_tok_stream_push(&s, tok, 12345678, &out);
    assert_string_equal(ew_buf_str(&out), "\xEF\xBF\xBD"
                                          "a\xEF\xBF\xBD");
}

static void stream_of_broken_bytes_does_not_pile_up(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = spm_vocab();
    EW_AUTO(ew_tokenizer) tok = make(v);
    EW_AUTO_BUF out = {0};
    ew_tok_stream s = {.started = true};
    for (int i = 0; i < 64; i++) {
        ew_tok_stream_push(&s, tok, ew_tokenizer_find(tok, i % 2 == 0 ? "<0xC3>" : "<0xE2>", 6), &out);
        assert_in_range(s.n_pending, 0, 3);
    }
    ew_tok_stream_finish(&s, &out);
    assert_int_equal(out.size, 64 * 3);
}

static void unknown_pre_tokenizer_is_refused_by_name(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    ew_tokenizer *tok = NULL;
    ew_error err = EW_ERROR_INIT;
    CHECK(ew_vocab_set_pre(v, "klingon-bpe", NULL));
    assert_int_equal(ew_tokenizer_new(v, &tok, &err), EW_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "klingon-bpe"));
    assert_non_null(strstr(err.msg, "llama-bpe"));
    assert_null(tok);
}

static void broken_vocabularies_are_refused(void **state)
{
    (void)state;
    ew_tokenizer *tok = NULL;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vocab) empty = NULL;
    CHECK(ew_vocab_new(EW_TOKENIZER_SPM, &empty, NULL));
    assert_int_equal(ew_tokenizer_new(empty, &tok, &err), EW_ECORRUPT);
    EW_AUTO(ew_vocab) v = byte_vocab();
    v->eos = (int32_t)v->n;
    assert_int_equal(ew_tokenizer_new(v, &tok, &err), EW_ECORRUPT);
    assert_non_null(strstr(err.msg, "eos"));
    v->eos = 1;
    v->merges[0].left = -7;
    assert_int_equal(ew_tokenizer_new(v, &tok, &err), EW_ECORRUPT);
    v->merges[0] = (ew_merge){4, 4}; /* no piece is spelled so */
    assert_int_equal(ew_tokenizer_new(v, &tok, &err), EW_ECORRUPT);
    assert_non_null(strstr(err.msg, "not a piece"));
    EW_AUTO(ew_vocab) s = spm_vocab();
    s->score[5] = NAN;
    assert_int_equal(ew_tokenizer_new(s, &tok, &err), EW_ECORRUPT);
    EW_AUTO(ew_vocab) p = byte_vocab();
    CHECK(ew_vocab_set_pre(p, NULL, NULL));
    CHECK(ew_vocab_add_split(p, "a(b", EW_SPLIT_ISOLATED, false, NULL));
    assert_int_equal(ew_tokenizer_new(p, &tok, &err), EW_EINVAL);
    assert_null(tok);
}

static void ids_out_of_range_are_an_error(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    EW_AUTO(ew_tokenizer) tok = make(v);
    EW_AUTO_BUF out = {0};
    int32_t ids[] = {5, (int32_t)v->n};
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_tokenizer_decode(tok, ids, 2, 0, &out, &err), EW_EINVAL);
    ids[1] = -1;
    assert_int_equal(ew_tokenizer_decode(tok, ids, 2, 0, &out, &err), EW_EINVAL);
    assert_int_equal(ew_tokenizer_piece(tok, -1).size, 0);
}

static void failed_allocation_anywhere_leaves_a_clean_error(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    bool made = false;
    for (uint64_t at = 1; at < 10000 && !made; at++) {
        ew_tokenizer *tok = NULL;
        EW_AUTO_TOKENS ids = {0};
        ew_mem_fail_at(at);
        ew_status st = ew_tokenizer_new(v, &tok, NULL);
        if (st == EW_OK) {
            st = ew_tokenizer_encode(tok, "the fox thinks", 14, EW_ENCODE_BOS, &ids, NULL);
        }
        ew_mem_fail_at(0);
        made = st == EW_OK;
        assert_true(made || st == EW_ENOMEM);
        assert_true(made || ids.n == 0);
        ew_tokenizer_free(&tok);
    }
    assert_true(made);
}

static void copy_is_equal_and_independent(void **state)
{
    (void)state;
    EW_AUTO(ew_vocab) v = byte_vocab();
    CHECK(ew_vocab_set_chat_template(v, "hello", 5, NULL));
    EW_AUTO(ew_vocab) c = NULL;
    CHECK(ew_vocab_copy(v, &c, NULL));
    assert_int_equal(c->n, v->n);
    assert_int_equal(c->n_merges, v->n_merges);
    assert_string_equal(c->pre, "gpt-2");
    assert_string_equal(c->chat_template, "hello");
    CHECK(ew_vocab_pad(c, 400, NULL));
    assert_int_equal(c->n, 400);
    assert_int_equal(v->n, ew_vocab_find(c, "[PAD320]") < 0 ? 0 : 320);
    assert_int_equal(c->type[399], EW_PIECE_UNUSED);
    ew_vocab_free(&v);
    EW_AUTO(ew_tokenizer) tok = make(c);
    assert_round_trip(tok, "the fox [PAD320]", 16);
}

typedef struct joined {
    ew_buf buf;
} joined;

static ew_status join_piece(const char *piece, size_t size, void *ctx, ew_error *reterr)
{
    (void)reterr;
    joined *j = ctx;
    ew_buf_addc(&j->buf, '[');
    ew_buf_add(&j->buf, piece, size);
    ew_buf_addc(&j->buf, ']');
    return EW_OK;
}

static void assert_cut(const char *name, const char *text, const char *want)
{
    const ew_split *splits;
    size_t n;
    EW_AUTO(ew_pretok) p = NULL;
    EW_AUTO(ew_pretok_match) m = NULL;
    joined j = {{0}};
    CHECK(ew_pretok_lookup(name, &splits, &n, NULL));
    CHECK(ew_pretok_new(splits, n, &p, NULL));
    CHECK(ew_pretok_match_new(p, &m, NULL));
    CHECK(ew_pretok_run(m, text, strlen(text), true, join_piece, &j, NULL));
    assert_string_equal(ew_buf_str(&j.buf), want);
    ew_buf_release(&j.buf);
}

static void known_pre_tokenizers_cut_as_their_models_do(void **state)
{
    (void)state;
    assert_cut("gpt-2", "It's 12345  ok!\n\n", "[It]['s][ 12345][ ][ ok][!][\n\n]");
    assert_cut("gpt-2",
               "a\xFF\xFE"
               "b",
               "[a][\xFF\xFE][b]");
    assert_cut("llama-bpe", "IT'S 12345  ok!\n\n", "[IT]['S][ ][123][45][ ][ ok][!\n\n]");
    assert_cut("qwen2", "x 123", "[x][ ][1][2][3]");
    assert_cut("smollm", "x 123", "[x][ ][1][2][3]");
    assert_cut("default", "x=12345", "[x][=][123][45]");
    assert_cut("falcon", "x=12345`", "[x][=][123][45][`]");
    assert_cut("gpt-4o", "camelCase don't", "[camel][Case][ don't]");
    assert_cut("tekken", "camelCase 123", "[camel][Case][ ][1][2][3]");
    assert_cut("deepseek-v3", "a1234 (x\xE6\xA8\xA1", "[a][123][4][ (][x][\xE6\xA8\xA1]");
    assert_cut("deepseek-coder", "ab 12\n", "[ab][ ][1][2][\n]");
    assert_cut("qwen35", "e\xCC\x81x", "[e\xCC\x81x]");
    assert_cut("bloom", "a, b", "[a][,][ b]");
    /* U+180E is no white space any more */
    assert_cut("gpt-2", "a \xE1\xA0\x8E", "[a][ \xE1\xA0\x8E]");
}

static void steps_may_change_the_text_for_those_after_them(void **state)
{
    (void)state;
    ew_split splits[] = {{(char *)(uintptr_t) "\\s+", EW_SPLIT_REMOVED, false},
                         {(char *)(uintptr_t) "first", EW_SPLIT_METASPACE, false},
                         {(char *)(uintptr_t) "", EW_SPLIT_SPELLED, false},
                         {(char *)(uintptr_t) "\xC2\xBC", EW_SPLIT_ISOLATED, false}}; /* how the byte BC is spelled */
    EW_AUTO(ew_pretok) p = NULL;
    EW_AUTO(ew_pretok_match) m = NULL;
    joined j = {{0}};
    CHECK(ew_pretok_new(splits, 2, &p, NULL));
    CHECK(ew_pretok_match_new(p, &m, NULL));
    CHECK(ew_pretok_run(m, "ab cd", 5, true, join_piece, &j, NULL));
    CHECK(ew_pretok_run(m, "ef", 2, false, join_piece, &j, NULL));
    assert_string_equal(ew_buf_str(&j.buf), "[\xE2\x96\x81"
                                            "ab][cd][ef]");
    ew_pretok_match_free(&m);
    ew_pretok_free(&p);
    ew_buf_clear(&j.buf);
    CHECK(ew_pretok_new(splits + 2, 2, &p, NULL));
    CHECK(ew_pretok_match_new(p, &m, NULL));
    CHECK(ew_pretok_run(m, "a\xEF\xBC\x93", 4, true, join_piece, &j, NULL));
    assert_string_equal(ew_buf_str(&j.buf), "[a\xEF][\xBC][\x93]");
    ew_buf_release(&j.buf);
}

static ew_status count_piece(const char *piece, size_t size, void *ctx, ew_error *reterr)
{
    (void)piece;
    (void)size;
    (void)reterr;
    (*(size_t *)ctx)++;
    return EW_OK;
}

static void one_match_may_be_as_long_as_the_text(void **state)
{
    (void)state;
    static const char runs[] = " A1!\n";
    const ew_split *splits;
    size_t n;
    size_t size = (size_t)12 << 20;
    EW_AUTO(ew_pretok) p = NULL;
    EW_AUTO(ew_pretok_match) m = NULL;
    char *text = ew_malloc(size, 1);
    assert_non_null(text);
    CHECK(ew_pretok_lookup("gpt-4o", &splits, &n, NULL));
    CHECK(ew_pretok_new(splits, n, &p, NULL));
    CHECK(ew_pretok_match_new(p, &m, NULL));
    for (size_t i = 0; i < sizeof(runs) - 1; i++) {
        size_t pieces = 0;
        memset(text, runs[i], size);
        CHECK(ew_pretok_run(m, text, size, true, count_piece, &pieces, NULL));
        assert_int_equal(pieces, runs[i] == '1' ? size / 3 : 1);
    }
    ew_free(text);
}

static void rules_that_make_everything_of_a_text_are_refused(void **state)
{
    (void)state;
    ew_vocab *v = NULL;
    ew_tokenizer *tok = NULL;
    ew_tokens ids = {0};
    char *much = ew_calloc(1, 50001);
    assert_non_null(much);
    memset(much, 'b', 50000);
    CHECK(ew_vocab_new(EW_TOKENIZER_UNIGRAM, &v, NULL));
    CHECK(ew_vocab_add(v, "b", 1, 0, EW_PIECE_NORMAL, NULL, NULL));
    CHECK(ew_vocab_add_norm(v, EW_TNORM_REPLACE, 0, "a", much, NULL));
    CHECK(ew_tokenizer_new(v, &tok, NULL));
    CHECK(ew_tokenizer_encode(tok, "aa", 2, 0, &ids, NULL));
    assert_int_equal(ids.n, 100000);
    memset(much, 'a', 100);
    assert_int_equal(ew_tokenizer_encode(tok, much, 100, 0, &ids, NULL), EW_ELIMIT);
    assert_int_equal(ids.n, 100000);
    ew_tokens_release(&ids);
    ew_tokenizer_free(&tok);
    ew_vocab_free(&v);
    ew_free(much);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(best_score_merges_first_and_equal_ones_from_the_left),
        cmocka_unit_test(space_in_front_is_added_and_removed_again),
        cmocka_unit_test(control_pieces_in_text_count_only_when_asked_for),
        cmocka_unit_test(control_pieces_decode_to_text_only_when_asked_for),
        cmocka_unit_test(strip_attributes_swallow_spaces),
        cmocka_unit_test(malformed_utf8_comes_back_byte_for_byte),
        cmocka_unit_test(begin_and_end_follow_the_vocabulary),
        cmocka_unit_test(stream_gives_whole_characters_only),
        cmocka_unit_test(stream_of_broken_bytes_does_not_pile_up),
        cmocka_unit_test(unknown_pre_tokenizer_is_refused_by_name),
        cmocka_unit_test(broken_vocabularies_are_refused),
        cmocka_unit_test(ids_out_of_range_are_an_error),
        cmocka_unit_test(failed_allocation_anywhere_leaves_a_clean_error),
        cmocka_unit_test(copy_is_equal_and_independent),
        cmocka_unit_test(known_pre_tokenizers_cut_as_their_models_do),
        cmocka_unit_test(steps_may_change_the_text_for_those_after_them),
        cmocka_unit_test(one_match_may_be_as_long_as_the_text),
        cmocka_unit_test(rules_that_make_everything_of_a_text_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

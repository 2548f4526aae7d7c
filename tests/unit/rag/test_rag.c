#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "rag/rag.h"
#include "test.h"

static void add(ew_rag *r, uint64_t key, const char *text, uint64_t order)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_rag_add(r, key, text, strlen(text), order, &err), &err);
}

static size_t search(ew_rag *r, const char *text, size_t k, uint64_t before, double recency, ew_rag_hit *hit)
{
    ew_error err = EW_ERROR_INIT;
    size_t n = 99;
    const ew_rag_query q = {.text = text, .size = strlen(text), .k = k, .before_order = before, .recency = recency};
    assert_ok(ew_rag_search(r, &q, hit, &n, &err), &err);
    return n;
}

static ew_rag *sample(void)
{
    ew_error err = EW_ERROR_INIT;
    ew_rag *r = NULL;
    assert_ok(ew_rag_new(&r, &err), &err);
    add(r, 10, "the quick brown fox", 0);
    add(r, 11, "a lazy dog sleeps", 1);
    add(r, 12, "the fox and the dog", 2);
    add(r, 13, "nothing of interest here", 3);
    add(r, 14, "Foxes are quick; caf\xC3\xA9 owners are not", 4);
    return r;
}

static void search_ranks_by_bm25_and_is_causal(void **state)
{
    (void)state;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    assert_int_equal(search(r, "Brown FOX", 8, UINT64_MAX, 0.0, hit), 2);
    assert_int_equal(hit[0].key, 10);
    assert_true(hit[0].bm25 > hit[1].bm25 && hit[1].bm25 > 0);
    assert_int_equal(search(r, "brown fox", 8, 2, 0.0, hit), 1);
    assert_int_equal(search(r, "brown fox", 8, 0, 0.0, hit), 0);
    assert_int_equal(search(r, "dog", 1, UINT64_MAX, 0.0, hit), 1);
    assert_int_equal(search(r, "cafe", 4, UINT64_MAX, 0.0, hit), 1);
    assert_int_equal(hit[0].key, 14);
    assert_int_equal(search(r, "zebra", 4, UINT64_MAX, 0.0, hit), 0);
}

/* The formula of the header, by hand: idf ln((N - n + .5) / (n + .5)), k1 1.2, b .75. */
static void score_is_the_documented_bm25(void **state)
{
    (void)state;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    assert_int_equal(search(r, "brown", 1, UINT64_MAX, 0.0, hit), 1);
    double average = (4 + 4 + 5 + 4 + 7) / 5.0;
    double idf = log((5 - 1 + 0.5) / (1 + 0.5));
    double expected = idf * (1 * 2.2) / (1 + 1.2 * (1 - 0.75 + 0.75 * 4 / average));
    assert_true(fabs(hit[0].bm25 - expected) < 1e-9);
}

static void recency_brings_the_newest_forward(void **state)
{
    (void)state;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    assert_int_equal(search(r, "brown", 2, UINT64_MAX, 1.0, hit), 2);
    assert_int_equal(hit[0].key, 14);
    assert_int_equal(hit[1].key, 13);
    assert_int_equal(search(r, "brown", 2, 3, 1.0, hit), 2);
    assert_int_equal(hit[0].key, 12);
    assert_int_equal(search(r, "brown", 3, UINT64_MAX, 0.1, hit), 3);
    assert_int_equal(hit[0].key, 10);
    assert_int_equal(search(r, "", 2, UINT64_MAX, 0.5, hit), 2);
}

static void removed_items_are_gone(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    assert_ok(ew_rag_remove(r, 10, &err), &err);
    assert_int_equal(ew_rag_count(r), 4);
    assert_int_equal(search(r, "brown", 8, UINT64_MAX, 0.0, hit), 0);
    assert_fails(EW_ENOENT, ew_rag_remove(r, 10, &err), &err, "10");
    assert_fails(EW_EEXIST, ew_rag_add(r, 11, "x", 1, 9, &err), &err, "11");
    add(r, 10, "brown again", 9);
    assert_int_equal(search(r, "brown", 8, UINT64_MAX, 0.0, hit), 1);
    assert_int_equal(hit[0].order, 9);
}

static void no_query_is_a_syntax_error(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    const char *queries[] = {
        "\"",   "\"\"", "fox AND",  "NEAR(", "fox NEAR(dog", "text:fox",     "-fox",
        "fox*", "(((",  "^fox",     "a OR",  "{a b}: c",     "' OR 1=1 --",  "fox\"dog",
        "+",    "\\",   "\xFF\xFE", "\xC3",  "NOT fox",      "\xE2\x80\x94", "\xE2\x80\x94\xE2\x80\x94"};
    for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
        search(r, queries[i], 8, UINT64_MAX, 0.0, hit);
    }
    ew_rng rng;
    ew_rng_init(&rng, 3, 1);
    char bytes[400];
    for (int i = 0; i < 2000; i++) {
        size_t n = ew_rng_below(&rng, sizeof(bytes)), got;
        for (size_t k = 0; k < n; k++) {
            bytes[k] =
                (char)(ew_rng_below(&rng, 3) != 0 ? ew_rng_below(&rng, 256) : (uint64_t) "\"*()^:-+ AND"[k % 12]);
        }
        const ew_rag_query q = {.text = bytes, .size = n, .k = 8, .before_order = UINT64_MAX};
        assert_ok(ew_rag_search(r, &q, hit, &got, &err), &err);
    }
    /* … and any bytes may be indexed. */
    assert_ok(ew_rag_add(r, 99, "nul\0inside \xFF\xFE fox", 18, 9, &err), &err);
    assert_true(search(r, "inside", 8, UINT64_MAX, 0.0, hit) <= 1);
}

static void long_queries_keep_their_longest_terms(void **state)
{
    (void)state;
    EW_AUTO(ew_rag) r = sample();
    ew_rag_hit hit[8];
    char text[4000] = "";
    size_t n = 0;
    for (int i = 0; i < 500; i++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "w%d ", i);
    }
    snprintf(text + n, sizeof(text) - n, "interest");
    assert_int_equal(search(r, text, 8, UINT64_MAX, 0.0, hit), 1);
    assert_int_equal(hit[0].key, 13);
}

static void a_hundred_thousand_items_are_searched(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = NULL;
    assert_ok(ew_rag_new(&r, &err), &err);
    ew_rng rng;
    ew_rng_init(&rng, 5, 5);
    for (uint64_t i = 0; i < 100000; i++) {
        char text[128];
        snprintf(text, sizeof(text), "item%llu word%u word%u common", (unsigned long long)i,
                 (unsigned)ew_rng_below(&rng, 5000), (unsigned)ew_rng_below(&rng, 5000));
        add(r, i, text, i);
    }
    ew_rag_hit hit[8];
    assert_int_equal(search(r, "item77777 common", 4, UINT64_MAX, 0.0, hit), 4);
    assert_int_equal(hit[0].key, 77777);
    assert_true(search(r, "word12 word13", 8, 50000, 0.2, hit) == 8);
    assert_true(hit[0].order < 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search_ranks_by_bm25_and_is_causal),
        cmocka_unit_test(score_is_the_documented_bm25),
        cmocka_unit_test(recency_brings_the_newest_forward),
        cmocka_unit_test(removed_items_are_gone),
        cmocka_unit_test(no_query_is_a_syntax_error),
        cmocka_unit_test(long_queries_keep_their_longest_terms),
        cmocka_unit_test(a_hundred_thousand_items_are_searched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Vectors, fusion, and the index against plain sums over the items. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "rag/rag.h"
#include "rag/rag_int.h"
#include "test.h"

#define DIM 37

static void random_vector(ew_rng *r, float *v, size_t dim)
{
    for (size_t i = 0; i < dim; i++) {
        v[i] = (float)ew_rng_normal(r);
    }
}

static void every_dot_product_is_exact(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 3, 3);
    ew__rag_dot_fn best = ew__rag_dot();
    static int8_t a[EW_RAG_DIM_MAX + 1], b[EW_RAG_DIM_MAX + 1];
    for (size_t n = 32; n <= EW_RAG_DIM_MAX; n = n * 2 + (n % 3) * 32) {
        for (size_t i = 0; i < n; i++) {
            a[i + 1] = (int8_t)((int)ew_rng_below(&r, 255) - 127);
            b[i] = (int8_t)((int)ew_rng_below(&r, 255) - 127);
        }
        assert_int_equal(best(a + 1, b, n), ew__rag_dot_ref(a + 1, b, n));
    }
    memset(a, 127, sizeof(a));
    memset(b, -127, sizeof(b));
    assert_int_equal(best(a, b, EW_RAG_DIM_MAX), -127 * 127 * (int)EW_RAG_DIM_MAX);
    assert_int_equal(best(b, b, EW_RAG_DIM_MAX), 127 * 127 * (int)EW_RAG_DIM_MAX);
}

static size_t search(ew_rag *r, const ew_rag_query *q, ew_rag_hit *hit)
{
    ew_error err = EW_ERROR_INIT;
    size_t n = 0;
    assert_ok(ew_rag_search(r, q, hit, &n, &err), &err);
    return n;
}

static double cosine_of(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static void vectors_rank_by_cosine_whatever_their_length(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = NULL;
    ew_rng rng;
    ew_rng_init(&rng, 5, 5);
    assert_ok(ew_rag_new(&r, &err), &err);
    static float v[3000][DIM], q[DIM];
    for (size_t i = 0; i < EW_COUNT(v); i++) {
        random_vector(&rng, v[i], DIM);
        for (size_t k = 0; k < DIM; k++) {
            v[i][k] *= i % 2 == 0 ? 1e6f : 1e-6f;
        }
        assert_ok(ew_rag_add(r, i, "", 0, i, &err), &err);
        assert_ok(ew_rag_vector_add(r, i, v[i], DIM, &err), &err);
    }
    random_vector(&rng, q, DIM);
    ew_rag_hit hit[20];
    const ew_rag_query query = {.k = 20, .before_order = 2000, .fuse = EW_RAG_VECTOR, .vector = q, .dim = DIM};
    assert_int_equal(search(r, &query, hit), 20);
    for (size_t i = 0; i < 20; i++) {
        assert_true(hit[i].order < 2000);
        assert_true(fabs(hit[i].cosine - cosine_of(q, v[hit[i].key], DIM)) < 0.01);
        assert_true(i == 0 || hit[i - 1].cosine >= hit[i].cosine);
    }
    double best = -1;
    for (size_t i = 0; i < 2000; i++) {
        best = fmax(best, cosine_of(q, v[i], DIM));
    }
    assert_true(best - hit[0].cosine < 0.01);
    assert_int_equal(ew_rag_dim(r), DIM);
}

static void fusion_adds_reciprocal_ranks(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = NULL;
    assert_ok(ew_rag_new(&r, &err), &err);
    static const char *const text[] = {"fox fox", "fox and dog", "dog", "cat"};
    static const float v[][2] = {{0, 1}, {1, 0.5f}, {1, 0.1f}, {1, 0}};
    for (size_t i = 0; i < 4; i++) {
        assert_ok(ew_rag_add(r, i, text[i], strlen(text[i]), i, &err), &err);
        assert_ok(ew_rag_vector_add(r, i, v[i], 2, &err), &err);
    }
    const float q[] = {1, 0};
    ew_rag_hit hit[4];
    ew_rag_query query = {.text = "fox",
                          .size = 3,
                          .k = 4,
                          .before_order = UINT64_MAX,
                          .fuse = EW_RAG_BM25 | EW_RAG_VECTOR | EW_RAG_RECENCY,
                          .vector = q,
                          .dim = 2};
    /* Ranks by words: 0, 1. By recency: 3, 2, 1, 0. By vectors: 3, 2, 1, 0. */
    assert_int_equal(search(r, &query, hit), 4);
    const double want[] = {1.0 / 61 + 2.0 / 64, 1.0 / 62 + 2.0 / 63, 2.0 / 62, 2.0 / 61};
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabs(hit[i].score - want[hit[i].key]) < 1e-15);
    }
    assert_int_equal(hit[0].key, 1);
    query.weight[0] = 100;
    assert_int_equal(search(r, &query, hit), 4);
    assert_int_equal(hit[0].key, 0);
    query.before_order = 2; /* nothing later takes a rank */
    query.weight[0] = 0;
    assert_int_equal(search(r, &query, hit), 2);
    assert_true(fabs(hit[0].score - (1.0 / 62 + 2.0 / 61)) < 1e-15 && hit[0].key == 1);
}

static void wrong_vectors_are_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = NULL;
    float v[] = {1, 2, 3}, zero[] = {0, 0, 0}, bad[] = {1, NAN, 3};
    assert_ok(ew_rag_new(&r, &err), &err);
    assert_fails(EW_ENOENT, ew_rag_vector_add(r, 7, v, 3, &err), &err, "7");
    assert_ok(ew_rag_add(r, 7, "x", 1, 0, &err), &err);
    assert_fails(EW_EINVAL, ew_rag_vector_add(r, 7, v, 0, &err), &err, "0");
    assert_fails(EW_EINVAL, ew_rag_vector_add(r, 7, bad, 3, &err), &err, "finite");
    assert_fails(EW_EINVAL, ew_rag_vector_add(r, 7, zero, 3, &err), &err, "zeros");
    assert_int_equal(ew_rag_vector_count(r), 0);
    assert_ok(ew_rag_vector_add(r, 7, v, 3, &err), &err);
    assert_fails(EW_EINVAL, ew_rag_vector_add(r, 7, v, 2, &err), &err, "another model");
    ew_rag_hit hit[1];
    size_t n = 0;
    ew_rag_query q = {.k = 1, .before_order = UINT64_MAX, .fuse = EW_RAG_VECTOR, .vector = v, .dim = 2};
    assert_fails(EW_EINVAL, ew_rag_search(r, &q, hit, &n, &err), &err, "one model");
    q.dim = 3;
    q.vector = zero;
    assert_fails(EW_EINVAL, ew_rag_search(r, &q, hit, &n, &err), &err, "direction");
    q.fuse = 64;
    assert_fails(EW_EINVAL, ew_rag_search(r, &q, hit, &n, &err), &err, "ranking");
    q.fuse = EW_RAG_VECTOR;
    q.weight[2] = NAN;
    assert_fails(EW_EINVAL, ew_rag_search(r, &q, hit, &n, &err), &err, "weight");
}

/* --- the index against an index of what is left --- */
#define WORDS 60
#define ITEMS 4000

static size_t random_text(ew_rng *rng, char *dst)
{
    size_t n = 0;
    for (size_t k = ew_rng_below(rng, 12); k > 0; k--) {
        size_t w = ew_rng_below(rng, ew_rng_below(rng, WORDS) + 1);
        n += (size_t)sprintf(dst + n, "w%zu ", w);
    }
    return n;
}

typedef struct model_item {
    char text[128];
    size_t size;
    float v[DIM];
    bool there;
} model_item;

static void same_hits(ew_rag *a, ew_rag *b, const ew_rag_query *q)
{
    ew_rag_hit x[50], y[50];
    size_t n = search(a, q, x);
    assert_int_equal(search(b, q, y), n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(x[i].key, y[i].key);
        assert_true(x[i].score == y[i].score && x[i].bm25 == y[i].bm25);
    }
}

static ew_rag *index_of(const model_item *item, size_t n, bool lamp)
{
    ew_error err = EW_ERROR_INIT;
    ew_rag *r = NULL;
    assert_ok(lamp ? ew_rag_new_lamp(&r, &err) : ew_rag_new(&r, &err), &err);
    for (size_t i = 0; i < n; i++) {
        if (item[i].there) {
            assert_ok(ew_rag_add(r, i, item[i].text, item[i].size, i, &err), &err);
            if (i % 3 == 0) {
                assert_ok(ew_rag_vector_add(r, i, item[i].v, DIM, &err), &err);
            }
        }
    }
    return r;
}

static void compare_searches(ew_rag *a, ew_rag *b, ew_rng *rng, uint64_t before_a, uint64_t before_b)
{
    for (int i = 0; i < 12; i++) {
        char text[128];
        float v[DIM];
        size_t size = random_text(rng, text);
        random_vector(rng, v, DIM);
        ew_rag_query q = {.text = text,
                          .size = size,
                          .k = 50,
                          .recency = i % 2 * 0.4,
                          .fuse = (unsigned)(i % 4 < 2 ? 0 : i % 8),
                          .vector = v,
                          .dim = DIM};
        ew_rag_hit x[50], y[50];
        q.before_order = before_a;
        size_t n = search(a, &q, x);
        q.before_order = before_b;
        assert_int_equal(search(b, &q, y), n);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(x[k].key, y[k].key);
            assert_true(fabs(x[k].score - y[k].score) <= 1e-12 * fabs(y[k].score));
        }
    }
}

static void after_removals_it_is_the_index_of_what_is_left(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    ew_rng_init(&rng, 9, 1);
    model_item *item = ew_xcalloc(ITEMS, sizeof(*item));
    for (size_t i = 0; i < ITEMS; i++) {
        item[i].size = random_text(&rng, item[i].text);
        random_vector(&rng, item[i].v, DIM);
        item[i].there = true;
    }
    for (int lamp = 0; lamp < 2; lamp++) {
        EW_AUTO(ew_rag) r = index_of(item, ITEMS, lamp != 0);
        size_t left = ITEMS;
        for (size_t step = 0; step < 3; step++) { /* past the point where numbers are given anew */
            size_t keep = step == 0 ? 3500 : step == 1 ? 1500 : 40;
            while (left > keep) {
                size_t i = (size_t)ew_rng_below(&rng, ITEMS);
                if (item[i].there) {
                    assert_ok(ew_rag_remove(r, i, &err), &err);
                    item[i].there = false;
                    left--;
                }
            }
            EW_AUTO(ew_rag) fresh = index_of(item, ITEMS, lamp != 0);
            assert_int_equal(ew_rag_count(r), ew_rag_count(fresh));
            assert_int_equal(ew_rag_vector_count(r), ew_rag_vector_count(fresh));
            compare_searches(r, fresh, &rng, UINT64_MAX, UINT64_MAX);
        }
        for (size_t i = 0; i < ITEMS; i++) { /* and it grows again, in any order of positions */
            if (!item[i].there) {
                item[i].there = true;
                assert_ok(ew_rag_add(r, i, item[i].text, item[i].size, i, &err), &err);
                if (i % 3 == 0) {
                    assert_ok(ew_rag_vector_add(r, i, item[i].v, DIM, &err), &err);
                }
            }
        }
        EW_AUTO(ew_rag) fresh = index_of(item, ITEMS, lamp != 0);
        compare_searches(r, fresh, &rng, UINT64_MAX, UINT64_MAX);
    }
    ew_free(item);
}

static void a_causal_search_is_a_search_of_the_past_alone(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 9, 2);
    model_item *item = ew_xcalloc(600, sizeof(*item));
    for (size_t i = 0; i < 600; i++) {
        item[i].size = random_text(&rng, item[i].text);
        random_vector(&rng, item[i].v, DIM);
        item[i].there = true;
    }
    for (int lamp = 0; lamp < 2; lamp++) {
        EW_AUTO(ew_rag) all = index_of(item, 600, lamp != 0);
        for (size_t before = 1; before < 600; before += 97) {
            EW_AUTO(ew_rag) past = index_of(item, before, lamp != 0);
            compare_searches(all, past, &rng, before, UINT64_MAX);
        }
    }
    ew_free(item);
}

static bool holds(const void *memory, size_t size, const char *text)
{
    const char *p = memory;
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= size; i++) {
        if (memcmp(p + i, text, n) == 0) {
            return true;
        }
    }
    return false;
}

static void a_removed_item_leaves_no_word_and_no_vector(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_rag) r = NULL;
    assert_ok(ew_rag_new(&r, &err), &err);
    assert_ok(ew_rag_add(r, 1, "common confidential", 19, 0, &err), &err);
    assert_ok(ew_rag_add(r, 2, "common", 6, 1, &err), &err);
    float v[64], w[64];
    for (size_t i = 0; i < 64; i++) {
        v[i] = 1;
        w[i] = i % 2 == 0 ? 1 : -1;
    }
    assert_ok(ew_rag_vector_add(r, 2, w, 64, &err), &err);
    assert_ok(ew_rag_vector_add(r, 1, v, 64, &err), &err);
    char ones[17];
    memset(ones, 127, 16);
    ones[16] = '\0';
    assert_true(holds(r->chunk[0], ew__rag_chunk_bytes(r) / 64, ones));
    uint32_t word = ew__rag_lists_find(r->lists, "confidential", 12);
    assert_true(word != EW__RAG_NONE);
    assert_ok(ew_rag_remove(r, 1, &err), &err);
    assert_false(holds(r->chunk[0], ew__rag_chunk_bytes(r) / 64, ones));
    assert_int_equal(ew__rag_lists_find(r->lists, "confidential", 12), EW__RAG_NONE);
    assert_int_equal(ew__rag_lists_df(r->lists, ew__rag_lists_find(r->lists, "common", 6)), 1);
    assert_int_equal(ew_rag_vector_count(r), 1);
    ew_rag_hit hit[2];
    const ew_rag_query q = {.k = 2, .before_order = UINT64_MAX, .fuse = EW_RAG_VECTOR, .vector = v, .dim = 64};
    assert_int_equal(search(r, &q, hit), 1);
    assert_int_equal(hit[0].key, 2);
}

static void without_memory_nothing_is_half_added(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    for (uint64_t at = 1; at < 60; at++) {
        EW_AUTO(ew_rag) r = NULL;
        EW_AUTO(ew_rag) same = NULL;
        assert_ok(ew_rag_new(&r, &err), &err);
        assert_ok(ew_rag_new(&same, &err), &err);
        char text[4096];
        size_t n = 0;
        for (size_t i = 0; i < 400; i++) {
            n += (size_t)sprintf(text + n, "n%zu ", i * 7 % 311);
        }
        assert_ok(ew_rag_add(r, 1, "n3 n4 n5", 8, 0, &err), &err);
        assert_ok(ew_rag_add(same, 1, "n3 n4 n5", 8, 0, &err), &err);
        ew_mem_fail_at(at);
        ew_status st = ew_rag_add(r, 2, text, n, 1, &err);
        ew_mem_fail_at(0);
        if (st == EW_OK) {
            assert_true(at > 5);
            return;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_int_equal(ew_rag_count(r), 1);
        const ew_rag_query q = {.text = "n3 n7", .size = 5, .k = 50, .before_order = UINT64_MAX};
        same_hits(r, same, &q);
        assert_ok(ew_rag_add(r, 2, text, n, 1, &err), &err);
        assert_ok(ew_rag_add(same, 2, text, n, 1, &err), &err);
        same_hits(r, same, &q);
    }
    fail_msg("the addition never got its memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dot_product_is_exact),
        cmocka_unit_test(vectors_rank_by_cosine_whatever_their_length),
        cmocka_unit_test(fusion_adds_reciprocal_ranks),
        cmocka_unit_test(wrong_vectors_are_refused),
        cmocka_unit_test(after_removals_it_is_the_index_of_what_is_left),
        cmocka_unit_test(a_causal_search_is_a_search_of_the_past_alone),
        cmocka_unit_test(a_removed_item_leaves_no_word_and_no_vector),
        cmocka_unit_test(without_memory_nothing_is_half_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

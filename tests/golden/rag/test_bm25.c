/* Our scores against rank_bm25 and FTS5 (README.md). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "rag/rag.h"
#include "test.h"
#include "text/json.h"

#define GOLDEN EW_TEST_SOURCE_DIR "/tests/golden/rag/"

static ew_rag *build(const json_t *docs, bool lamp)
{
    ew_error err = EW_ERROR_INIT;
    ew_rag *r = NULL;
    assert_ok(lamp ? ew_rag_new_lamp(&r, &err) : ew_rag_new(&r, &err), &err);
    for (size_t i = 0; i < json_array_size(docs); i++) {
        const json_t *d = json_array_get(docs, i);
        assert_ok(ew_rag_add(r, i, json_string_value(d), json_string_length(d), i, &err), &err);
    }
    return r;
}

/* Scores by item; what was not found has 0. */
static void scores_of(ew_rag *r, const json_t *query, double *ret)
{
    ew_error err = EW_ERROR_INIT;
    size_t n = 0, k = ew_rag_count(r);
    ew_rag_hit *hit = ew_xcalloc(k, sizeof(*hit));
    const ew_rag_query q = {
        .text = json_string_value(query), .size = json_string_length(query), .k = k, .before_order = UINT64_MAX};
    assert_ok(ew_rag_search(r, &q, hit, &n, &err), &err);
    memset(ret, 0, k * sizeof(*ret));
    for (size_t i = 0; i < n; i++) {
        ret[hit[i].key] = hit[i].bm25;
        assert_true(i == 0 || hit[i - 1].score >= hit[i].score);
    }
    ew_free(hit);
}

/* The worst relative difference of a file. */
static double compare(const char *path, bool lamp, size_t *ret_n)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_jsonl) lines = NULL;
    assert_ok(ew_jsonl_open(path, &lines, &err), &err);
    double worst = 0;
    for (*ret_n = 0;;) {
        EW_AUTO_JSON j = NULL;
        assert_ok(ew_jsonl_next(lines, &j, &err), &err);
        if (j == NULL) {
            return worst;
        }
        const json_t *docs = json_object_get(j, "docs"), *queries = json_object_get(j, "queries");
        EW_AUTO(ew_rag) r = build(docs, lamp);
        double *got = ew_xcalloc(json_array_size(docs), sizeof(*got));
        for (size_t q = 0; q < json_array_size(queries); q++) {
            const json_t *want = json_array_get(json_object_get(j, "scores"), q);
            scores_of(r, json_array_get(queries, q), got);
            for (size_t i = 0; i < json_array_size(want); i++, (*ret_n)++) {
                double w = json_number_value(json_array_get(want, i));
                double scale = fabs(w) > 0 ? fabs(w) : 1;
                worst = fmax(worst, fabs(got[i] - w) / scale);
            }
        }
        ew_free(got);
    }
}

static void a_lamp_index_scores_as_rank_bm25(void **state)
{
    (void)state;
    size_t n = 0;
    double worst = compare(GOLDEN "okapi.jsonl", true, &n);
    print_message("%zu scores, worst relative difference %.2g\n", n, worst);
    assert_true(n > 2000 && worst < 1e-9);
}

static void an_index_scores_as_fts5(void **state)
{
    (void)state;
    size_t n = 0;
    double worst = compare(GOLDEN "fts5.jsonl", false, &n);
    print_message("%zu scores, worst relative difference %.2g\n", n, worst);
    assert_true(n > 1000 && worst < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lamp_index_scores_as_rank_bm25),
        cmocka_unit_test(an_index_scores_as_fts5),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

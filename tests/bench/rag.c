/* Retrieval over many items: how long a search takes and what the index keeps.
 *
 *   bench_rag [ITEMS [WORDS [DIM]]]     (100000, 40, 384)
 *
 * Items are of words drawn by a Zipf law (exponent 1, 200,000 different ones, a new word of an item's own in each tenth item), queries of 12 words of an
 * item, among them the commonest. Prints the resident memory that the index added, its own count, and the milliseconds of searches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "rag/rag.h"
#include "sys/proc.h"

#define VOCAB 200000u
#define QUERIES 200

static double cumulative[VOCAB];

static void zipf_init(void)
{
    double sum = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        sum += 1.0 / (double)(i + 1);
        cumulative[i] = sum;
    }
}

static size_t zipf(ew_rng *r)
{
    double x = ew_rng_f64(r) * cumulative[VOCAB - 1];
    size_t lo = 0, hi = VOCAB - 1;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cumulative[mid] < x) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* Short words are the common ones, as in language. */
static size_t put_word(size_t w, char *dst)
{
    static const char letters[] = "etaoinshrdlucmfw";
    size_t n = 0;
    uint64_t mix = (w + 1) * UINT64_C(0x9E3779B97F4A7C15);
    size_t size = 2 + (size_t)(log2((double)(w + 1)) * 0.55) + (size_t)(mix >> 60) % 3;
    for (size_t v = w; v > 0 || n < size; v >>= 4, n++) {
        dst[n] = letters[v > 0 ? v & 15 : mix >> (n * 4 % 64) & 15];
    }
    return n;
}

static size_t put_text(ew_rng *r, size_t n_words, char *dst)
{
    size_t n = 0;
    for (size_t i = 0; i < n_words; i++) {
        n += put_word(zipf(r), dst + n);
        dst[n++] = ' ';
    }
    return n;
}

static uint64_t rss(void)
{
    ew_proc_mem m = {0};
    return ew_proc_mem_read(&m, NULL) == EW_OK ? m.rss_bytes : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill_vector(ew_rng *r, float *v, size_t dim)
{
    for (size_t i = 0; i < dim; i++) {
        v[i] = (float)ew_rng_normal(r);
    }
}

static void time_searches(ew_rag *rag, const char *name, unsigned fuse, double recency, uint64_t before, size_t n_words,
                          size_t dim)
{
    char text[4096];
    static double ms[QUERIES];
    float *v = calloc(dim + 1, sizeof(*v));
    ew_rag_hit hit[10];
    ew_rng r;
    ew_rng_init(&r, 7, 7);
    for (size_t q = 0; q < QUERIES; q++) {
        size_t n = put_text(&r, n_words, text), got = 0;
        fill_vector(&r, v, dim);
        const ew_rag_query query = {.text = text,
                                    .size = n,
                                    .k = 10,
                                    .before_order = before,
                                    .recency = recency,
                                    .fuse = fuse,
                                    .vector = dim != 0 ? v : NULL,
                                    .dim = dim};
        uint64_t begin = ew_mono_ns();
        ew_status st = ew_rag_search(rag, &query, hit, &got, NULL);
        ms[q] = (double)(ew_mono_ns() - begin) * 1e-6;
        if (st != EW_OK) {
            fprintf(stderr, "search failed: %s\n", ew_status_name(st));
            exit(1);
        }
    }
    qsort(ms, QUERIES, sizeof(*ms), by_value);
    printf("%-28s %3zu words  median %7.3f ms  p99 %7.3f ms  worst %7.3f ms\n", name, n_words, ms[QUERIES / 2],
           ms[QUERIES * 99 / 100], ms[QUERIES - 1]);
    free(v);
}

int main(int argc, char **argv)
{
    size_t n_items = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    size_t n_words = argc > 2 ? strtoul(argv[2], NULL, 10) : 40;
    size_t dim = argc > 3 ? strtoul(argv[3], NULL, 10) : 384;
    char *text = malloc(n_words * 24 + 1);
    float *v = calloc(dim + 1, sizeof(*v));
    ew_rag *rag = NULL;
    ew_rng r;
    zipf_init();
    ew_rng_init(&r, 1, 2);
    uint64_t before = rss(), bytes = 0, begin = ew_mono_ns();
    if (text == NULL || v == NULL || ew_rag_new(&rag, NULL) != EW_OK) {
        return 1;
    }
    for (size_t i = 0; i < n_items; i++) {
        size_t n = put_text(&r, n_words, text);
        bytes += n;
        fill_vector(&r, v, dim);
        if (ew_rag_add(rag, i, text, n, i, NULL) != EW_OK ||
            (dim != 0 && ew_rag_vector_add(rag, i, v, dim, NULL) != EW_OK)) {
            return 1;
        }
    }
    double seconds = (double)(ew_mono_ns() - begin) * 1e-9;
    ew_rag_size size;
    ew_rag_memory(rag, &size);
    printf("%zu items of %zu words (%.1f MB of text), vectors of %zu, built in %.2f s\n", n_items, n_words,
           (double)bytes * 1e-6, dim, seconds);
    printf("memory: resident +%.1f MB; items %.1f, words %.1f, lists %.1f, vectors %.1f MB, together %.1f\n",
           (double)(rss() - before) * 1e-6, (double)size.items_bytes * 1e-6, (double)size.words_bytes * 1e-6,
           (double)size.lists_bytes * 1e-6, (double)size.vectors_bytes * 1e-6,
           (double)(size.items_bytes + size.words_bytes + size.lists_bytes + size.vectors_bytes) * 1e-6);
    const unsigned all = EW_RAG_BM25 | EW_RAG_RECENCY | EW_RAG_VECTOR;
    static const size_t sizes[] = {12, 64, 256};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        time_searches(rag, "bm25", 0, 0, UINT64_MAX, sizes[i], 0);
        time_searches(rag, "bm25 and recency", 0, 0.3, UINT64_MAX, sizes[i], 0);
        time_searches(rag, "bm25 before the middle", 0, 0, n_items / 2, sizes[i], 0);
        time_searches(rag, "vectors", EW_RAG_VECTOR, 0, UINT64_MAX, sizes[i], dim);
        time_searches(rag, "all three fused", all, 0, UINT64_MAX, sizes[i], dim);
    }
    begin = ew_mono_ns();
    if (ew_rag_remove(rag, n_items / 2, NULL) != EW_OK) {
        return 1;
    }
    printf("removal of one item          %.3f ms\n", (double)(ew_mono_ns() - begin) * 1e-6);
    printf("memory after the searches: resident +%.1f MB\n", (double)(rss() - before) * 1e-6);
    ew_rag_free(&rag);
    free(text);
    free(v);
    return 0;
}

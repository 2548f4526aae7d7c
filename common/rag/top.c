/* The k best of many, in a binary heap with the worst of them at the root. */
#include <stdlib.h>

#include "rag/rag_int.h"

void ew__rag_top_init(ew__rag_top *t, ew__rag_best *heap, size_t k)
{
    *t = (ew__rag_top){.heap = heap, .k = k};
}

/* Ties: the later order, then the later item, is better. */
static bool better(const ew__rag_best *a, const ew__rag_best *b)
{
    if (a->score != b->score) {
        return a->score > b->score;
    }
    return a->order != b->order ? a->order > b->order : a->item > b->item;
}

static void sift_down(ew__rag_top *t, ew__rag_best x)
{
    size_t i = 0;
    for (size_t child = 1; child < t->n; child = 2 * i + 1) {
        if (child + 1 < t->n && better(&t->heap[child], &t->heap[child + 1])) {
            child++;
        }
        if (!better(&x, &t->heap[child])) {
            break;
        }
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = x;
}

void ew__rag_top_add(ew__rag_top *t, double score, uint64_t order, uint32_t item)
{
    ew__rag_best x = {score, order, item};
    if (t->n == t->k) {
        if (t->k != 0 && better(&x, &t->heap[0])) {
            sift_down(t, x);
        }
        return;
    }
    size_t i = t->n++;
    while (i > 0 && better(&t->heap[(i - 1) / 2], &x)) {
        t->heap[i] = t->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    t->heap[i] = x;
}

static int by_rank(const void *a, const void *b)
{
    return better(a, b) ? -1 : better(b, a) ? 1 : 0;
}

void ew__rag_top_sort(ew__rag_top *t)
{
    if (t->n > 1) {
        qsort(t->heap, t->n, sizeof(*t->heap), by_rank);
    }
}

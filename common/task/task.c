#include "task/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "task/lamp_int.h"
#include "text/utf8.h"

/* The 15 commonest sections of Debian 12's sources, commonest first. Fixed: models were trained on these. */
static const char *const section_labels[] = {"perl",    "python", "libs",    "golang", "javascript",
                                             "utils",   "rust",   "ruby",    "gnu-r",  "java",
                                             "science", "net",    "haskell", "devel",  "admin"};

static const char *const digits[] = {"1", "2", "3", "4", "5"};

static const ew_task built_in[] = {
    {"debian-section", EW_TASK_CLASSIFY, "text", "section", section_labels, EW_COUNT(section_labels), 8},
    {"debian-synopsis", EW_TASK_GENERATE, "text", "synopsis", NULL, 0, 32},
    {"debian-depends", EW_TASK_CLASSIFY, "which", "depends", digits, 2, 4},
    {"debian-size", EW_TASK_ORDINAL, "text", "size", digits, 5, 4},
    {"custom", EW_TASK_GENERATE, "input", "output", NULL, 0, 96},
    /* LaMP: the input is the benchmark's whole question. Examples from a profile of lamp-1 are texts: custom. */
    {"lamp-1", EW_TASK_CLASSIFY, "input", "output", ew__lamp_citations, EW_COUNT(ew__lamp_citations), 8},
    {"lamp-2", EW_TASK_CLASSIFY, "input", "output", ew__lamp_tags, EW_COUNT(ew__lamp_tags), 16},
    {"lamp-2n", EW_TASK_CLASSIFY, "input", "output", ew__lamp_categories, EW_COUNT(ew__lamp_categories), 16},
    {"lamp-3", EW_TASK_ORDINAL, "input", "output", ew__lamp_ratings, EW_COUNT(ew__lamp_ratings), 8},
    {"lamp-4", EW_TASK_GENERATE, "input", "output", NULL, 0, 48},
    {"lamp-5", EW_TASK_GENERATE, "input", "output", NULL, 0, 64},
    {"lamp-6", EW_TASK_GENERATE, "input", "output", NULL, 0, 48},
    {"lamp-7", EW_TASK_GENERATE, "input", "output", NULL, 0, 96},
};

/* Owned twin: the public struct first, then what it points to. */
typedef struct own_task {
    ew_task task;
    char **label; /* [task.n_labels], owned; NULL for copies of built-in tasks */
} own_task;

const ew_task *ew_task_find(const char *name)
{
    for (size_t i = 0; i < EW_COUNT(built_in); i++) {
        if (ew_str_eq(built_in[i].name, name)) {
            return &built_in[i];
        }
    }
    return NULL;
}

void ew_task_free(ew_task **t)
{
    if (*t != NULL) {
        own_task *o = (own_task *)(void *)*t;
        for (size_t i = 0; o->label != NULL && i < o->task.n_labels; i++) {
            ew_free(o->label[i]);
        }
        ew_free((void *)o->label);
        ew_free(o);
        *t = NULL;
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted distinct outputs, borrowed from the items: *ret_sorted is [*ret_n], freed by ew_free. */
static ew_status distinct_outputs(const ew_item *items, size_t n, const char ***ret_sorted, size_t *ret_n,
                                  ew_error *reterr)
{
    const char **s = ew_calloc(n + 1, sizeof(*s));
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the labels of %zu items", n);
    }
    for (size_t i = 0; i < n; i++) {
        s[i] = items[i].output;
    }
    qsort((void *)s, n, sizeof(*s), by_text);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || strcmp(s[kept - 1], s[i]) != 0) {
            s[kept++] = s[i];
        }
    }
    *ret_sorted = s;
    *ret_n = kept;
    return EW_OK;
}

static bool all_small_numbers(char *const *label, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t v;
        if (!ew_str_to_i64(label[i], 1, 10, &v)) {
            return false;
        }
    }
    return true;
}

static ew_status labels_check(const char *const *label, size_t n, ew_error *reterr)
{
    if (n < 2) {
        return ew_fail(reterr, EW_EINVAL,
                       "custom-classify needs at least two different outputs in the history, there %s %zu. "
                       "HINT: use task `custom` for free text",
                       n == 1 ? "is" : "are", n);
    }
    if (n > EW_TASK_LABELS_MAX) {
        return ew_fail(reterr, EW_EINVAL,
                       "custom-classify: %zu different outputs, at most %d are labels. HINT: use task `custom` for "
                       "free text",
                       n, EW_TASK_LABELS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        if (strlen(label[i]) > EW_TASK_LABEL_BYTES_MAX || strchr(label[i], '\n') != NULL) {
            return ew_fail(reterr, EW_EINVAL,
                           "custom-classify: an output is longer than %d bytes or has several lines, so it is no "
                           "label. HINT: use task `custom` for free text",
                           EW_TASK_LABEL_BYTES_MAX);
        }
    }
    return EW_OK;
}

static ew_status new_classify(const ew_item *history, size_t n_history, own_task *o, ew_error *reterr)
{
    const char **sorted;
    size_t n;
    EW_TRY(distinct_outputs(history, n_history, &sorted, &n, reterr));
    ew_status st = labels_check(sorted, n, reterr);
    o->task = (ew_task){"custom-classify", EW_TASK_CLASSIFY, "input", "output", NULL, 0, 32};
    o->label = st == EW_OK ? ew_calloc(n, sizeof(*o->label)) : NULL;
    for (size_t i = 0; o->label != NULL && i < n; i++) {
        o->label[i] = ew_str_dup(sorted[i]);
        if (o->label[i] == NULL) {
            break;
        }
        o->task.n_labels = i + 1;
    }
    ew_free((void *)sorted);
    EW_TRY(st);
    if (o->task.n_labels != n) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu labels", n);
    }
    o->task.labels = (const char *const *)o->label;
    if (all_small_numbers(o->label, n)) {
        o->task.kind = EW_TASK_ORDINAL;
    }
    return EW_OK;
}

ew_status ew_task_new(const char *name, const ew_item *history, size_t n_history, ew_task **ret_task, ew_error *reterr)
{
    const ew_task *fixed = ew_task_find(name);
    if (fixed == NULL && !ew_str_eq(name, "custom-classify")) {
        return ew_fail(reterr, EW_ENOENT,
                       "no task '%s'. Known: debian-section, debian-synopsis, debian-depends, debian-size, lamp-1 to "
                       "lamp-7, lamp-2n, custom, custom-classify",
                       name);
    }
    own_task *o = ew_calloc(1, sizeof(*o));
    if (o == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a task");
    }
    ew_status st = EW_OK;
    if (fixed != NULL) {
        o->task = *fixed;
    } else {
        st = new_classify(history, n_history, o, reterr);
    }
    ew_task *t = &o->task;
    if (st != EW_OK) {
        ew_task_free(&t);
        return st;
    }
    *ret_task = t;
    return EW_OK;
}

int ew_task_label(const ew_task *t, const char *output)
{
    for (size_t i = 0; i < t->n_labels; i++) {
        if (strcmp(t->labels[i], output) == 0) {
            return (int)i;
        }
    }
    return -1;
}

void ew_task_answer(const char *output, ew_buf *out)
{
    ew_buf_addc(out, ' ');
    ew_buf_adds(out, output);
}

void ew_task_corpus(const ew_task *t, const ew_item *item, ew_buf *out)
{
    if (t->kind == EW_TASK_GENERATE) {
        ew_buf_adds(out, item->output);
        ew_buf_addc(out, '\n');
    }
    ew_buf_adds(out, item->input);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool same_fold(const char *a, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char x = a[i], y = s[i];
        x = x >= 'A' && x <= 'Z' ? (char)(x + 32) : x;
        y = y >= 'A' && y <= 'Z' ? (char)(y + 32) : y;
        if (x == '\0' || x != y) {
            return false;
        }
    }
    return a[n] == '\0';
}

void ew_task_clean(const ew_task *t, const char *generated, size_t size, ew_buf *out)
{
    const char *p = generated, *end = generated + size;
    while (p < end && is_blank(*p)) {
        p++;
    }
    const char *nl = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
    end = nl != NULL ? nl : end;
    while (end > p && is_blank(end[-1])) {
        end--;
    }
    if (t->labels == NULL) {
        ew_utf8_sanitize(p, (size_t)(end - p), out);
        return;
    }
    for (size_t i = 0; i < t->n_labels; i++) {
        if (same_fold(t->labels[i], p, (size_t)(end - p))) {
            ew_buf_adds(out, t->labels[i]);
            return;
        }
    }
}

double ew_items_entropy(const ew_item *items, size_t n)
{
    const char **s;
    size_t kept;
    if (n == 0 || distinct_outputs(items, n, &s, &kept, NULL) != EW_OK) {
        return n == 0 ? 0.0 : (double)NAN;
    }
    double h = 0.0;
    for (size_t k = 0; k < kept; k++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++) {
            count += strcmp(items[i].output, s[k]) == 0;
        }
        double p = (double)count / (double)n;
        h -= p * log2(p);
    }
    ew_free((void *)s);
    return h;
}

/* --- splits --- */
typedef struct split_key {
    ew_item item;
    uint8_t hash[EW_SHA256_SIZE];
} split_key;

static int by_hash(const void *a, const void *b)
{
    const split_key *x = a, *y = b;
    int c = memcmp(x->hash, y->hash, sizeof(x->hash));
    return c != 0 ? c : strcmp(x->item.id, y->item.id);
}

static int by_order(const void *a, const void *b)
{
    const split_key *x = a, *y = b;
    int c = (x->item.order > y->item.order) - (x->item.order < y->item.order);
    return c != 0 ? c : strcmp(x->item.id, y->item.id);
}

static void split_hash(split_key *k)
{
    ew_sha256_stream *h = ew_sha256_stream_new();
    ew_sha256_stream_add(h, k->item.user, strlen(k->item.user));
    ew_sha256_stream_add(h, "/", 1);
    ew_sha256_stream_add(h, k->item.id, strlen(k->item.id));
    ew_sha256_stream_end(h, k->hash);
    ew_sha256_stream_free(&h);
}

ew_user_split ew_split_sizes(size_t n)
{
    if (n < 5) {
        return (ew_user_split){n, 0, 0};
    }
    size_t history = (n * 6 + 5) / 10;
    size_t val = (n * 2 + 5) / 10;
    val = EW_MAX(val, (size_t)1);
    return (ew_user_split){history, val, n - history - val};
}

ew_user_split ew_split_user(ew_item *items, size_t n, ew_split_by by)
{
    if (n != 0) {
        split_key *k = ew_xcalloc(n, sizeof(*k));
        for (size_t i = 0; i < n; i++) {
            k[i].item = items[i];
            split_hash(&k[i]);
        }
        qsort(k, n, sizeof(*k), by == EW_SPLIT_HASH ? by_hash : by_order);
        for (size_t i = 0; i < n; i++) {
            items[i] = k[i].item;
            items[i].order = i;
        }
        ew_free(k);
    }
    return ew_split_sizes(n);
}

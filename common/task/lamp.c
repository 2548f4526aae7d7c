/* LaMP's tasks, what is searched for and in what, and the order of records. */
#include "task/lamp.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "rag/rag.h"
#include "task/lamp_int.h"
#include "text/utf8.h"

const char *const ew__lamp_citations[] = {"[1]", "[2]"};
const char *const ew__lamp_tags[] = {
    "sci-fi",    "based on a book", "comedy",  "action",  "twist ending",      "dystopia",          "dark comedy",
    "classic",   "psychology",      "fantasy", "romance", "thought-provoking", "social commentary", "violence",
    "true story"};
const char *const ew__lamp_categories[] = {"food & drink",   "sports",         "education",
                                           "parents",        "religion",       "travel",
                                           "business",       "crime",          "science & technology",
                                           "culture & arts", "entertainment",  "politics",
                                           "women",          "style & beauty", "healthy living"};
const char *const ew__lamp_ratings[] = {"1", "2", "3", "4", "5"};

static const ew_lamp_info infos[EW_LAMP_COUNT] = {
    [EW_LAMP_1] = {"lamp-1", "LaMP_1", "citation", EW_LAMP_LABELS, "abstract", "title", ew__lamp_citations,
                   EW_COUNT(ew__lamp_citations)},
    [EW_LAMP_2] = {"lamp-2", "LaMP_2", "movie tagging", EW_LAMP_LABELS, "description", "tag", ew__lamp_tags,
                   EW_COUNT(ew__lamp_tags)},
    [EW_LAMP_2N] = {"lamp-2n", "LaMP_2N", "news categories", EW_LAMP_LABELS, "text", "category", ew__lamp_categories,
                    EW_COUNT(ew__lamp_categories)},
    [EW_LAMP_3] = {"lamp-3", "LaMP_3", "product rating", EW_LAMP_RATING, "text", "score", ew__lamp_ratings,
                   EW_COUNT(ew__lamp_ratings)},
    [EW_LAMP_4] = {"lamp-4", "LaMP_4", "news headline", EW_LAMP_TEXT, "text", "title", NULL, 0},
    [EW_LAMP_5] = {"lamp-5", "LaMP_5", "scholarly title", EW_LAMP_TEXT, "abstract", "title", NULL, 0},
    [EW_LAMP_6] = {"lamp-6", "LaMP_6", "email subject", EW_LAMP_TEXT, "text", "title", NULL, 0},
    [EW_LAMP_7] = {"lamp-7", "LaMP_7", "tweet paraphrase", EW_LAMP_TEXT, "text", NULL, NULL, 0},
};

const ew_lamp_info *ew_lamp_info_of(ew_lamp_task t)
{
    EW_ASSERT((unsigned)t < EW_LAMP_COUNT);
    return &infos[t];
}

bool ew_lamp_parse(const char *name, ew_lamp_task *ret_task)
{
    char lower[16];
    size_t n = strlen(name);
    if (n >= sizeof(lower)) {
        return false;
    }
    for (size_t i = 0; i <= n; i++) {
        lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i] == '_' ? '-' : name[i]);
    }
    for (size_t i = 0; i < EW_LAMP_COUNT; i++) {
        if (ew_str_eq(lower, infos[i].name) || ew_str_eq(lower, infos[i].name + strlen("lamp-"))) {
            *ret_task = (ew_lamp_task)i;
            return true;
        }
    }
    if (ew_str_eq(lower, "lamp-2-old")) {
        *ret_task = EW_LAMP_2N;
        return true;
    }
    return false;
}

/* --- words, as Python has them --- */
static bool is_space(uint32_t cp)
{
    return (cp >= 0x1C && cp <= 0x1F) || ew_utf8_is_space(cp);
}

ew_span ew__lamp_strip(const char *s, size_t n)
{
    size_t begin = n, end = n;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t size = ew_utf8_next(s + i, n - i, &cp);
        if (!is_space(cp)) {
            begin = EW_MIN(begin, i);
            end = i + size;
        }
        i += size;
    }
    return (ew_span){s + begin, begin < n ? end - begin : 0};
}

bool ew__lamp_split(const char **at, const char *end, ew_span *ret_word)
{
    const char *begin = NULL;
    while (*at < end) {
        uint32_t cp;
        const char *here = *at;
        *at += ew_utf8_next(here, (size_t)(end - here), &cp);
        if (!is_space(cp)) {
            begin = begin != NULL ? begin : here;
        } else if (begin != NULL) {
            *ret_word = (ew_span){begin, (size_t)(here - begin)};
            return true;
        }
    }
    if (begin != NULL) {
        *ret_word = (ew_span){begin, (size_t)(end - begin)};
    }
    return begin != NULL;
}

/* --- retrieval --- */
/* The n-th (from 0) text between double quotes. */
static bool quoted(const char *s, size_t n, ew_span *ret)
{
    for (;; n--) {
        const char *open = strchr(s, '"');
        const char *close = open != NULL ? strchr(open + 1, '"') : NULL;
        if (close == NULL) {
            return false;
        }
        if (n == 0) {
            *ret = (ew_span){open + 1, (size_t)(close - open - 1)};
            return true;
        }
        s = close + 1;
    }
}

ew_status ew_lamp_query(ew_lamp_task t, const char *input, ew_buf *out, ew_error *reterr)
{
    static const char *const marks[EW_LAMP_COUNT] = {
        [EW_LAMP_2] = "description:", [EW_LAMP_2N] = "article:", [EW_LAMP_3] = "review:", [EW_LAMP_4] = "article:",
        [EW_LAMP_5] = "paper:",       [EW_LAMP_6] = ":",         [EW_LAMP_7] = ":"};
    if (t == EW_LAMP_1) {
        ew_span a, b;
        if (!quoted(input, 1, &a) || !quoted(input, 2, &b)) {
            return ew_fail(reterr, EW_EINVAL,
                           "an input of LaMP-1 should hold three texts in double quotes: a title and "
                           "two references");
        }
        ew_buf_add(out, a.data, a.size);
        ew_buf_addc(out, ' ');
        ew_buf_add(out, b.data, b.size);
        return ew_buf_check(out, reterr);
    }
    const char *at = strstr(input, marks[t]);
    if (at == NULL) {
        return ew_fail(reterr, EW_EINVAL, "an input of %s should hold '%s'", infos[t].name, marks[t]);
    }
    at += strlen(marks[t]);
    ew_span text = ew__lamp_strip(at, strlen(at));
    ew_buf_add(out, text.data, text.size);
    return ew_buf_check(out, reterr);
}

void ew_lamp_corpus(ew_lamp_task t, const ew_lamp_record *r, bool use_date, ew_buf *out)
{
    const char *title = t == EW_LAMP_2N                                      ? r->title
                        : t == EW_LAMP_1 || t == EW_LAMP_4 || t == EW_LAMP_5 ? r->answer
                                                                             : NULL;
    if (title != NULL) {
        ew_buf_adds(out, title);
        ew_buf_addc(out, ' ');
    }
    ew_buf_adds(out, r->text);
    if (use_date && r->date != NULL) {
        ew_buf_adds(out, " date: ");
        ew_buf_adds(out, r->date);
    }
}

#define DATE_PARTS 8

typedef struct dated {
    int64_t part[DATE_PARTS];
    size_t n_parts, place;
} dated;

static bool read_date(const char *date, dated *d)
{
    d->n_parts = 0;
    for (;;) {
        char number[24];
        const char *end = strchr(date, '-');
        size_t n = end != NULL ? (size_t)(end - date) : strlen(date);
        ew_span s = ew__lamp_strip(date, n);
        if (s.size == 0 || s.size >= sizeof(number) || d->n_parts == DATE_PARTS) {
            return false;
        }
        memcpy(number, s.data, s.size);
        number[s.size] = '\0';
        if (!ew_str_to_i64(number, 0, INT64_MAX, &d->part[d->n_parts++])) {
            return false;
        }
        if (end == NULL) {
            return true;
        }
        date = end + 1;
    }
}

/* Tuples of numbers, then the place. */
static int by_date(const void *a, const void *b)
{
    const dated *x = a, *y = b;
    for (size_t i = 0; i < EW_MIN(x->n_parts, y->n_parts); i++) {
        if (x->part[i] != y->part[i]) {
            return x->part[i] < y->part[i] ? -1 : 1;
        }
    }
    if (x->n_parts != y->n_parts) {
        return x->n_parts < y->n_parts ? -1 : 1;
    }
    return x->place < y->place ? -1 : x->place > y->place;
}

ew_status ew__lamp_by_date(const ew_lamp_question *q, size_t **ret_index, ew_error *reterr)
{
    dated *d = ew_calloc(q->n_profile + 1, sizeof(*d));
    size_t *index = ew_calloc(q->n_profile + 1, sizeof(*index));
    ew_status st = d != NULL && index != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory for a profile's dates");
    for (size_t i = 0; st == EW_OK && i < q->n_profile; i++) {
        const char *date = q->profile[i].date;
        d[i].place = i;
        if (date == NULL || !read_date(date, &d[i])) {
            st = ew_fail(reterr, EW_EINVAL,
                         "question %s: record %s has %s%.40s, recency needs numbers with '-' between. HINT: "
                         "user-based data may have no dates, use bm25",
                         q->id, q->profile[i].id, date != NULL ? "the date " : "no date", date != NULL ? date : "");
        }
    }
    if (st == EW_OK && q->n_profile > 1) {
        qsort(d, q->n_profile, sizeof(*d), by_date);
    }
    for (size_t i = 0; st == EW_OK && i < q->n_profile; i++) {
        index[i] = d[i].place;
    }
    ew_free(d);
    if (st != EW_OK) {
        ew_free(index);
        return st;
    }
    *ret_index = index;
    return EW_OK;
}

static ew_status rank_words(ew_lamp_task t, const ew_lamp_question *q, const size_t *by_age, bool use_date, size_t n,
                            size_t *ret_index, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO(ew_rag) rag = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_rag_new_lamp(&rag, reterr));
    for (size_t i = 0; i < q->n_profile; i++) {
        size_t place = by_age != NULL ? by_age[i] : i;
        ew_buf_clear(&text);
        ew_lamp_corpus(t, &q->profile[place], use_date, &text);
        EW_TRY(ew_buf_check(&text, reterr));
        EW_TRY(ew_rag_add(rag, place, ew_buf_str(&text), text.size, i, reterr));
    }
    ew_buf_clear(&text);
    EW_TRY(ew_lamp_query(t, q->input, &text, reterr));
    ew_rag_hit *hit = ew_calloc(n + 1, sizeof(*hit));
    if (hit == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to rank a profile");
    }
    const ew_rag_query query = {.text = ew_buf_str(&text),
                                .size = text.size,
                                .k = n,
                                .before_order = UINT64_MAX,
                                .fuse = by_age != NULL ? EW_RAG_BM25 | EW_RAG_RECENCY : 0};
    ew_status st = ew_rag_search(rag, &query, hit, ret_n, reterr);
    for (size_t i = 0; st == EW_OK && i < *ret_n; i++) {
        ret_index[i] = (size_t)hit[i].key;
    }
    ew_free(hit);
    return st;
}

static bool all_dated(const ew_lamp_question *q)
{
    for (size_t i = 0; i < q->n_profile; i++) {
        if (q->profile[i].date == NULL) {
            return false;
        }
    }
    return true;
}

ew_status ew_lamp_rank(ew_lamp_task t, const ew_lamp_question *q, ew_lamp_ranker ranker, bool use_date, size_t n,
                       size_t *ret_index, size_t *ret_n, ew_error *reterr)
{
    size_t *by_age = NULL;
    n = EW_MIN(n, q->n_profile);
    if (n == 0) {
        *ret_n = 0;
        return EW_OK;
    }
    if (ranker == EW_LAMP_BM25) {
        return rank_words(t, q, NULL, use_date, n, ret_index, ret_n, reterr);
    }
    if (ranker == EW_LAMP_RECENCY || all_dated(q)) {
        EW_TRY(ew__lamp_by_date(q, &by_age, reterr));
    } else {
        by_age = ew_calloc(q->n_profile, sizeof(*by_age));
        for (size_t i = 0; by_age != NULL && i < q->n_profile; i++) {
            by_age[i] = i;
        }
    }
    ew_status st = by_age != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to rank a profile");
    if (st == EW_OK && ranker == EW_LAMP_FUSED) {
        st = rank_words(t, q, by_age, use_date, n, ret_index, ret_n, reterr);
    } else if (st == EW_OK) {
        for (size_t i = 0; i < n; i++) {
            ret_index[i] = by_age[q->n_profile - 1 - i];
        }
        *ret_n = n;
    }
    ew_free(by_age);
    return st;
}

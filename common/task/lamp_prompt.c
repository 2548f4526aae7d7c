/* Personalised prompts and their length budget (LaMP/prompts/prompts.py), and the examples that a profile gives (PEFT/data/datasets.py). */
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "task/lamp_int.h"

/* --- the tokenizer --- */
static size_t count_plain(const char *text, size_t size, void *ctx)
{
    (void)text;
    (void)ctx;
    return (size + 2) / 3;
}

static bool cut_plain(const char *text, size_t size, size_t max_tok, ew_buf *out, void *ctx)
{
    (void)ctx;
    size_t n = max_tok < size / 3 + 1 ? max_tok * 3 : size;
    n = EW_MIN(n, size);
    while (n > 0 && n < size && ((unsigned char)text[n] & 0xC0) == 0x80) {
        n--;
    }
    ew_buf_add(out, text, n);
    return true;
}

static const ew_lamp_tokens plain_tokens = {count_plain, cut_plain, NULL};

/* --- one record --- */
/* What stands around a record's text. The trailing blanks are LaMP's. */
typedef struct frame {
    const char *before, *between, *after; /* before text, between text and answer, after answer; or the answer first */
    bool answer_first;
    const char *measured_between; /* as the budget measures it, when that differs */
    const char *measured_text;
    const char *joint;   /* between the records and the input */
    const char *reserve; /* words whose tokens are kept free */
} frame;

static const frame frames[EW_LAMP_COUNT] = {
    [EW_LAMP_2] = {"the tag for the movie: \"", "\" is \"", "\" ", false, NULL, " ", ". ", NULL},
    [EW_LAMP_2N] = {"the category for the article: \"", "\" is \"", "\" ", false, NULL, " ", ". ", NULL},
    [EW_LAMP_3] = {"", " is the score for \"", "\" ", true, NULL, " ", ". ", NULL},
    [EW_LAMP_4] = {"\"", "\" is the title for \"", "\" ", true, NULL, " ", ". ", NULL},
    [EW_LAMP_5] = {"\"", "\" is a title for \"", "\" ", true, "\" is a title \"", " ",
                   ". Following the given patterns ", "Following the given patterns"},
    [EW_LAMP_6] = {"\"", "\" is the title for \"", "\" ", true, NULL, " ", ". ", NULL},
    [EW_LAMP_7] = {"\"", NULL, "\" ", false, NULL, "", " are written by a person. Following the given patterns ",
                   "are written by user. Following the given patterns"},
};

static void add_record(const frame *f, const char *answer, const char *text, bool measured, ew_buf *out)
{
    const char *between = measured && f->measured_between != NULL ? f->measured_between : f->between;
    ew_buf_adds(out, f->before);
    ew_buf_adds(out, f->answer_first ? answer : text);
    if (between != NULL) {
        ew_buf_adds(out, between);
        ew_buf_adds(out, f->answer_first ? text : answer);
    }
    ew_buf_adds(out, f->after);
}

/* --- the budget --- */
static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* One record's share is (total - what joins and frames them) / n; what it does not use goes on to the next. */
typedef struct budget {
    const ew_lamp_tokens *tok;
    int64_t share, saved;
} budget;

/* Appends the beginning of text that fits beside `frame` tokens. */
static bool fit(budget *b, const char *text, int64_t frame_tok, ew_buf *out)
{
    int64_t max = b->share + b->saved - frame_tok;
    EW_AUTO_BUF kept = {0};
    if (max < 0 || !b->tok->cut(text, strlen(text), (size_t)max, &kept, b->tok->ctx)) {
        return false;
    }
    /* Counted as the tokenizer returned it: no more than all, no more than allowed. */
    int64_t used = (int64_t)EW_MIN(b->tok->count(text, strlen(text), b->tok->ctx), (size_t)max);
    b->saved += b->share - used - frame_tok;
    ew_buf_add(out, ew_buf_str(&kept), kept.size);
    return kept.status == EW_OK;
}

static bool add_titles(const ew_lamp_record *const *record, size_t n, int64_t total, const ew_lamp_tokens *tok,
                       ew_buf *out)
{
    budget b = {tok, floor_div(total - 2 * ((int64_t)n - 1), (int64_t)n), 0};
    for (size_t i = 0; i < n; i++) {
        ew_buf_adds(out, i != 0 ? ", and \"" : "\"");
        if (!fit(&b, record[i]->answer, 2, out)) {
            return false;
        }
        ew_buf_addc(out, '"');
    }
    return true;
}

static bool add_records(ew_lamp_task t, const ew_lamp_record *const *record, size_t n, int64_t total,
                        const ew_lamp_tokens *tok, ew_buf *out)
{
    const frame *f = &frames[t];
    int64_t kept = 1 + 2 * ((int64_t)n - 1);
    kept += f->reserve != NULL ? (int64_t)tok->count(f->reserve, strlen(f->reserve), tok->ctx) : 0;
    budget b = {tok, floor_div(total - kept, (int64_t)n), 0};
    for (size_t i = 0; i < n; i++) {
        EW_AUTO_BUF text = {0};
        const char *answer = record[i]->answer != NULL ? record[i]->answer : "";
        add_record(f, answer, f->measured_text, true, &text);
        int64_t frame_tok = (int64_t)tok->count(ew_buf_str(&text), text.size, tok->ctx);
        ew_buf_clear(&text);
        if (!fit(&b, record[i]->text, frame_tok, &text)) {
            return false;
        }
        ew_buf_adds(out, i != 0 ? ", and " : "");
        add_record(f, answer, ew_buf_str(&text), false, out);
    }
    return true;
}

/* Behind the first "title" of the input; the input alone when there is none. */
static void insert_titles(const char *input, const ew_buf *titles, ew_buf *out)
{
    const char *at = strstr(input, "title");
    if (at == NULL) {
        ew_buf_adds(out, input);
        return;
    }
    at += strlen("title");
    ew_buf_add(out, input, (size_t)(at - input));
    ew_buf_adds(out, ", and ");
    ew_buf_add(out, ew_buf_str(titles), titles->size);
    ew_buf_adds(out, at);
}

ew_status ew_lamp_prompt(ew_lamp_task t, const char *input, const ew_lamp_record *const *record, size_t n_records,
                         size_t max_tok, const ew_lamp_tokens *tokens, ew_buf *out, bool *ret_personal,
                         ew_error *reterr)
{
    const ew_lamp_tokens *tok = tokens != NULL ? tokens : &plain_tokens;
    EW_AUTO_BUF past = {0};
    bool done = false;
    int64_t own = (int64_t)tok->count(input, strlen(input), tok->ctx);
    max_tok = EW_MIN(max_tok, (size_t)INT32_MAX);
    /* The steps of the factor are those of the sums in double: 0.6, 0.5, … 2.8e-17. */
    for (double factor = 0.6; !done && n_records != 0 && factor >= 0; factor -= 0.1) {
        int64_t total = (int64_t)max_tok - EW_MIN(own, (int64_t)(factor * (double)max_tok));
        ew_buf_clear(&past);
        done = t == EW_LAMP_1 ? add_titles(record, n_records, total, tok, &past)
                              : add_records(t, record, n_records, total, tok, &past);
        EW_TRY(ew_buf_check(&past, reterr));
    }
    if (!done) {
        ew_buf_adds(out, input);
    } else if (t == EW_LAMP_1) {
        insert_titles(input, &past, out);
    } else {
        ew_buf_add(out, ew_buf_str(&past), past.size);
        ew_buf_adds(out, frames[t].joint);
        ew_buf_adds(out, input);
    }
    EW_TRY(ew_buf_check(out, reterr));
    if (ret_personal != NULL) {
        *ret_personal = done;
    }
    return EW_OK;
}

/* --- examples --- */
static void list_labels(const ew_lamp_info *info, ew_buf *out)
{
    for (size_t i = 0; i < info->n_labels; i++) {
        ew_buf_addf(out, "%s%s", i != 0 ? ", " : "[", info->labels[i]);
    }
    ew_buf_adds(out, "]");
}

static uint64_t hash_text(const char *s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *s != '\0'; s++) {
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    }
    return h;
}

/* The first 10 to 25 % of the words ask for the rest. */
static void tweet_example(const ew_lamp_record *r, uint64_t seed, ew_buf *input, ew_buf *output)
{
    const char *end = r->text + strlen(r->text);
    const char *at = r->text;
    ew_span word;
    size_t n = 0, i = 0;
    while (ew__lamp_split(&at, end, &word)) {
        n++;
    }
    ew_rng rng;
    ew_rng_init(&rng, seed, hash_text(r->id));
    size_t first = (size_t)((double)n * (0.1 + 0.15 * ew_rng_f64(&rng)));
    ew_buf_adds(input, "Complete the following tweet:");
    for (at = r->text; ew__lamp_split(&at, end, &word); i++) {
        ew_buf *b = i < first ? input : output;
        if (i < first || i > first) {
            ew_buf_addc(b, ' ');
        }
        ew_buf_add(b, word.data, word.size);
    }
}

static void example(ew_lamp_task t, const ew_lamp_record *r, uint64_t seed, ew_buf *input, ew_buf *output)
{
    static const char *const questions[EW_LAMP_COUNT] = {
        [EW_LAMP_1] = "Write an abstract for this title: ",
        [EW_LAMP_2] = "Which tag does this movie relate to among the following tags? Just answer with the tag name "
                      "without further explanation. tags: ",
        [EW_LAMP_2N] =
            "Which category does this article relate to among the following categories? Just answer with the "
            "category name without further explanation. categories: ",
        [EW_LAMP_3] = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or "
                      "5 without further explanation. review: ",
        [EW_LAMP_4] = "Generate a headline for the following article: ",
        [EW_LAMP_5] = "Generate a title for the following abstract of a paper: ",
        [EW_LAMP_6] = "Generate a subject for the following email: ",
    };
    if (t == EW_LAMP_7) {
        tweet_example(r, seed, input, output);
        return;
    }
    ew_buf_adds(input, questions[t]);
    if (t == EW_LAMP_2 || t == EW_LAMP_2N) {
        list_labels(ew_lamp_info_of(t), input);
        ew_buf_adds(input, t == EW_LAMP_2 ? " description: " : " article: ");
    }
    ew_buf_adds(input, t == EW_LAMP_1 ? r->answer : r->text);
    ew_buf_adds(output, t == EW_LAMP_1 ? r->text : r->answer);
}

static bool is_blank(const char *s)
{
    return s == NULL || ew__lamp_strip(s, strlen(s)).size == 0;
}

static ew_status add_example(ew_lamp_task t, const ew_lamp_question *q, const ew_lamp_record *r, const char *user,
                             uint64_t order, uint64_t seed, ew_items *items, ew_error *reterr)
{
    EW_AUTO_BUF id = {0};
    EW_AUTO_BUF input = {0};
    EW_AUTO_BUF output = {0};
    example(t, r, seed, &input, &output);
    ew_buf_addf(&id, "%s-%s", q->id, r->id);
    EW_TRY(ew_buf_check(&id, reterr));
    EW_TRY(ew_buf_check(&input, reterr));
    EW_TRY(ew_buf_check(&output, reterr));
    if (is_blank(ew_buf_str(&output))) {
        return EW_OK;
    }
    const ew_item item = {(char *)(uintptr_t)ew_buf_str(&id), (char *)(uintptr_t)user,
                          (char *)(uintptr_t)ew_buf_str(&input), (char *)(uintptr_t)ew_buf_str(&output), order};
    return ew_items_add(items, &item, reterr);
}

static bool has_dates(const ew_lamp_question *q)
{
    for (size_t i = 0; i < q->n_profile; i++) {
        if (q->profile[i].date == NULL) {
            return false;
        }
    }
    return q->n_profile != 0;
}

ew_status ew_lamp_examples(ew_lamp_task t, const ew_lamp_question *q, const char *user, uint64_t first_order,
                           uint64_t seed, ew_items *items, ew_error *reterr)
{
    size_t *by_age = NULL;
    if (has_dates(q)) {
        EW_TRY(ew__lamp_by_date(q, &by_age, reterr));
    }
    ew_status st = EW_OK;
    for (size_t i = 0; st == EW_OK && i < q->n_profile; i++) {
        const ew_lamp_record *r = &q->profile[by_age != NULL ? by_age[i] : i];
        if (!is_blank(r->text) && (t == EW_LAMP_7 || !is_blank(r->answer))) {
            st = add_example(t, q, r, user, first_order + i, seed, items, reterr);
        }
    }
    ew_free(by_age);
    return st;
}

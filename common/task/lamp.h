/* LaMP (Salemi et al. 2304.11406): its published files, its retrieval inputs, its prompts, its scores.
 *
 * Where LaMP leaves a choice to chance this leaves none: records of equal BM25 score come later first (numpy's argsort is not stable), and ROUGE is the
 * mean over the answers (HF's `rouge` gives the median of 1000 resampled means, which scatters around it by about 4 % of the standard error).
 *
 * Files. Questions: a JSON array of {"id","input","profile":[…]}, with "user_id" in time-based data; outputs and predictions:
 * {"task":"LaMP_2","golds":[{"id","output"}]}. Questions are read one at a time: memory is that of the largest question, whatever the file's size.
 * Numbers for strings ("score": 5, "id": 31) are taken in decimal.
 * Source of every rule: github.com/LaMP-Benchmark/LaMP, commit 38c9d4d (prompts, rank_profiles, eval, PEFT data), written anew here.
 * None of LaMP's data (CC BY-NC-SA 4.0) is part of this project.
 * Locking: plain values and readers with one owning thread. */
#ifndef EW_TASK_LAMP_H
#define EW_TASK_LAMP_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "task/item.h"

typedef enum ew_lamp_task {
    EW_LAMP_1,  /* citation: [1] or [2] */
    EW_LAMP_2,  /* movie tagging, 15 tags */
    EW_LAMP_2N, /* news categories, 15: the deprecated first LaMP-2 */
    EW_LAMP_3,  /* product rating, 1 to 5 */
    EW_LAMP_4,  /* news headline */
    EW_LAMP_5,  /* scholarly title */
    EW_LAMP_6,  /* email subject */
    EW_LAMP_7,  /* tweet paraphrase */
    EW_LAMP_COUNT
} ew_lamp_task;

typedef enum ew_lamp_kind {
    EW_LAMP_LABELS, /* accuracy, macro-F1 */
    EW_LAMP_RATING, /* MAE, RMSE */
    EW_LAMP_TEXT    /* ROUGE-1, ROUGE-L */
} ew_lamp_kind;

typedef struct ew_lamp_info {
    const char *name;      /* "lamp-2": as --task and as the name of the ew_task */
    const char *file_name; /* "LaMP_2": "task" of output files. 2N: "LaMP_2N" (the first release wrote LaMP_2) */
    const char *about;     /* "movie tagging" */
    ew_lamp_kind kind;
    const char *text,
        *answer; /* fields of profile items: what is read and what belongs to it; LaMP-7 has no answer: NULL */
    const char *const *labels; /* [n_labels], in the scorer's order; NULL for texts */
    size_t n_labels;
} ew_lamp_info;

const ew_lamp_info *ew_lamp_info_of(ew_lamp_task t);
/* "lamp-2", "LaMP-2", "LaMP_2", "2"; any case. False when it is none. */
bool ew_lamp_parse(const char *name, ew_lamp_task *ret_task) EW_MUST_CHECK;

/* --- questions --- */
/* One thing of the user's past. Fields that the task has not are NULL. */
typedef struct ew_lamp_record {
    char *id;
    char *text;   /* text, abstract or description: what info.text names. Task 1: the abstract */
    char *answer; /* title, tag, category or score: what info.answer names. Task 1: the title */
    char *title;  /* task 2N alone */
    char *date;   /* as written, or NULL */
} ew_lamp_record;

typedef struct ew_lamp_question {
    char *id;
    char *user; /* user_id; NULL in user-based data */
    char *input;
    ew_lamp_record *profile; /* [n_profile] in the file's order */
    size_t n_profile;
} ew_lamp_question;
void ew_lamp_question_release(ew_lamp_question *q);

typedef struct ew_lamp_reader ew_lamp_reader;
ew_status ew_lamp_open(const char *path, ew_lamp_task task, ew_lamp_reader **ret_reader,
                       ew_error *reterr) EW_MUST_CHECK;
/* Over memory that outlives the reader. name is for messages. */
ew_status ew_lamp_open_mem(const char *name, const void *text, size_t size, ew_lamp_task task,
                           ew_lamp_reader **ret_reader, ew_error *reterr) EW_MUST_CHECK;
void ew_lamp_reader_free(ew_lamp_reader **r);
/* The next question, the caller's (release); *ret_more false at the end. EW_ECORRUPT names the question and what is wrong with it; EW_ELIMIT: one is larger
 * than EW_LIMIT_JSON_BYTES. After an error the reader gives no more. */
ew_status ew_lamp_next(ew_lamp_reader *r, ew_lamp_question *ret_question, bool *ret_more,
                       ew_error *reterr) EW_MUST_CHECK;
/* What the first question of a file looks like: the tasks differ in the words of the input. EW_EINVAL when it is none of them. */
ew_status ew_lamp_guess(const char *path, ew_lamp_task *ret_task, ew_error *reterr) EW_MUST_CHECK;

/* --- outputs, predictions --- */
typedef struct ew_lamp_answer {
    char *id, *output;
} ew_lamp_answer;
typedef struct ew_lamp_answers {
    ew_lamp_task task;
    ew_lamp_answer *answer; /* owned */
    size_t n, cap;
} ew_lamp_answers;
void ew_lamp_answers_release(ew_lamp_answers *a);
/* EW_ECORRUPT: an id twice, a missing key, an unknown task. Files of the deprecated LaMP-2 say "LaMP_2" too: only the labels tell them apart, so
 * an unknown output under "LaMP_2" that is a category makes it 2N. */
ew_status ew_lamp_answers_read(const char *path, ew_lamp_answers *ret_answers, ew_error *reterr) EW_MUST_CHECK;
/* Copies both. */
ew_status ew_lamp_answers_add(ew_lamp_answers *a, const char *id, const char *output, ew_error *reterr) EW_MUST_CHECK;
/* NULL when absent. Linear. */
const char *ew_lamp_answer_of(const ew_lamp_answers *a, const char *id);
/* Appends the file's text. */
void ew_lamp_answers_write(const ew_lamp_answers *a, ew_buf *out);

/* --- retrieval (FACTS B.3) --- */
/* Appends the query of a question. EW_EINVAL when the input lacks the mark that the rule looks for ("review:", two quoted references, …). */
ew_status ew_lamp_query(ew_lamp_task t, const char *input, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Appends what is indexed for a record; use_date adds " date: …". */
void ew_lamp_corpus(ew_lamp_task t, const ew_lamp_record *r, bool use_date, ew_buf *out);

typedef enum ew_lamp_ranker {
    EW_LAMP_BM25,    /* BM25Okapi; ties: the later record */
    EW_LAMP_RECENCY, /* date descending, its parts as numbers; ties: the later record. EW_EINVAL: a record has none */
    EW_LAMP_FUSED    /* both by reciprocal ranks, the place in the profile for dates when there is none: not LaMP's */
} ew_lamp_ranker;
/* The n best places in q->profile, best first; n is cut to n_profile. ret_index has room for n. */
ew_status ew_lamp_rank(ew_lamp_task t, const ew_lamp_question *q, ew_lamp_ranker ranker, bool use_date, size_t n,
                       size_t *ret_index, size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

/* --- prompts (FACTS B.4) --- */
/* The model's tokenizer, as LaMP uses its own. */
typedef struct ew_lamp_tokens {
    /* Tokens of a text, special ones included, as the tokenizer adds them. */
    size_t (*count)(const char *text, size_t size, void *ctx);
    /* Appends the text of the longest beginning of at most max_tok tokens (special ones count, their text does not). False: not possible. */
    bool (*cut)(const char *text, size_t size, size_t max_tok, ew_buf *out, void *ctx);
    void *ctx;
} ew_lamp_tokens;
/* Appends the personalised prompt of max_tok tokens from records in this order. tokens NULL: one per 3 bytes. With none, or when no share of the
 * length leaves the records room, it is the input alone; *ret_personal (may be NULL) says which. */
ew_status ew_lamp_prompt(ew_lamp_task t, const char *input, const ew_lamp_record *const *record, size_t n_records,
                         size_t max_tok, const ew_lamp_tokens *tokens, ew_buf *out, bool *ret_personal,
                         ew_error *reterr) EW_MUST_CHECK;

/* --- scores (FACTS B.5) --- */
typedef struct ew_lamp_scores {
    size_t n;
    double accuracy, macro_f1; /* LABELS, else NAN */
    double mae, rmse;          /* RATING */
    double rouge1, rougeL;     /* TEXT */
} ew_lamp_scores;
/* As eval/evaluation.py with scikit-learn's f1_score over all labels and rouge_score: outputs are stripped; one that is no label counts as one more class, which
 * has no F1; a rating that is no finite number becomes the farther of 1 and 5. EW_EINVAL: the tasks differ, ids are missing or too many (the message names
 * one), a gold rating is no number. */
ew_status ew_lamp_score(const ew_lamp_answers *golds, const ew_lamp_answers *predictions, ew_lamp_scores *ret_scores,
                        ew_error *reterr) EW_MUST_CHECK;

/* --- examples from a profile (FACTS B.5, last paragraph) --- */
/* Appends the records as items that a model can be tuned on, in the order of their dates (of the file without): the task's own question about the record; task 1: title to
 * abstract; task 7: the tweet from its first 10 to 25 % of words (the share is drawn from seed and the record's id). Records whose text or answer is
 * empty are left out. order = place, from first_order. user: of the items. */
ew_status ew_lamp_examples(ew_lamp_task t, const ew_lamp_question *q, const char *user, uint64_t first_order,
                           uint64_t seed, ew_items *items, ew_error *reterr) EW_MUST_CHECK;

#endif

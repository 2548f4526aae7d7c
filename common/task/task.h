/* Tasks: what is asked of the model, in which words, and how the answer is judged.
 *
 * One prompt format for pre-training, tuning, evaluation and serving (few words: the house models read 512 tokens):
 *
 *     <input name>: <input of a retrieved item>\n
 *     <output name>: <its output>\n
 *     \n                                            … repeated, the best match last
 *     <input name>: <input>\n
 *     <output name>:
 *
 * and the answer is " " + output + the end-of-text token. debian-section: "text" and "section"; debian-synopsis: "text" and
 * "synopsis"; debian-depends: "which" and "depends"; debian-size: "text" and "size"; custom and custom-classify: "input" and "output".
 *
 * Length budget (after LaMP, FACTS B.4): with retrieved items the input gets min(its length, f * max), the items share the rest equally and hand
 * on what they do not use, f = 0.6, 0.5 … 0; when no f leaves every item at least 8 tokens of text, the item with the worst rank is dropped and f
 * starts again; with none left the input has the whole budget. Texts are cut at the end, on a word.
 * Locking: a task is immutable once made and may be shared. */
#ifndef EW_TASK_TASK_H
#define EW_TASK_TASK_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "task/item.h"

typedef enum ew_task_kind {
    EW_TASK_CLASSIFY, /* one of labels; accuracy, macro-F1 */
    EW_TASK_GENERATE, /* free text; ROUGE-1, ROUGE-L */
    EW_TASK_ORDINAL   /* one of labels, which are numbers; MAE, RMSE, accuracy */
} ew_task_kind;

typedef struct ew_task {
    const char *name;
    ew_task_kind kind;
    const char *input_name, *output_name; /* fields of the prompt */
    const char *const *labels;            /* [n_labels]; NULL for EW_TASK_GENERATE */
    size_t n_labels;
    size_t max_answer_tok; /* generation stops here */
} ew_task;

#define EW_TASK_LABELS_MAX 256
#define EW_TASK_LABEL_BYTES_MAX 64

/* The four debian tasks, custom (generation) and LaMP's (lamp-1 … lamp-7, lamp-2n: task/lamp.h); static. NULL = not one of these. custom-classify needs ew_task_new. */
const ew_task *ew_task_find(const char *name);
/* Any task by name, owned by the caller. For custom-classify (numbers as labels make it ordinal when all are integers in 1…10) the labels are the distinct outputs of
 * history, sorted: EW_EINVAL when there are fewer than 2, more than EW_TASK_LABELS_MAX or longer than EW_TASK_LABEL_BYTES_MAX; the
 * message says so and names `custom`. Others ignore history. EW_ENOENT lists the known names. */
ew_status ew_task_new(const char *name, const ew_item *history, size_t n_history, ew_task **ret_task,
                      ew_error *reterr) EW_MUST_CHECK;
void ew_task_free(ew_task **t);

/* Tokens of a text, for the budget. */
typedef struct ew_task_budget {
    size_t max_tok; /* of the whole prompt; 0 = no limit */
    /* NULL = one token per 3 bytes, rounded up. */
    size_t (*count)(const char *text, size_t size, void *ctx);
    void *ctx;
} ew_task_budget;

/* Appends the prompt (ends with "<output name>:"). retrieved[0] is the best match; they are items of the same user with lower order. budget NULL = no
 * limit. *ret_used (may be NULL) = how many retrieved items found room. */
ew_status ew_task_prompt(const ew_task *t, const char *input, const ew_item *const *retrieved, size_t n_retrieved,
                         const ew_task_budget *budget, ew_buf *out, size_t *ret_used, ew_error *reterr) EW_MUST_CHECK;
/* Appends " " + output; the caller adds the end-of-text token. */
void ew_task_answer(const char *output, ew_buf *out);
/* Appends what retrieval indexes for an item (classification: the input; generation: output and input, LaMP's rule for titles). The query is the input. */
void ew_task_corpus(const ew_task *t, const ew_item *item, ew_buf *out);
/* What the model wrote, made an answer: cut at the first newline, blanks at both ends removed; for label tasks the label that equals it, ignoring case, or
 * "" when none does. Appends to out. */
void ew_task_clean(const ew_task *t, const char *generated, size_t size, ew_buf *out);
/* -1 = not a label. Exact bytes. */
int ew_task_label(const ew_task *t, const char *output);

/* --- splits --- */
typedef enum ew_split_by {
    EW_SPLIT_HASH,    /* fixed order by SHA-256 of user and id: no dates needed */
    EW_SPLIT_POSITION /* by order: history is the past, test the latest */
} ew_split_by;

/* (ew_split is the pre-token pattern of token/vocab.h.) */
typedef struct ew_user_split {
    size_t n_history, n_val, n_test; /* in this order in the sorted array */
} ew_user_split;

/* The split of n items. */
ew_user_split ew_split_sizes(size_t n);
/* Sorts the items of one user and sets their order to their new position; 60 % (rounded) history, 20 % val, the rest test. Below 5 items: all
 * history. */
ew_user_split ew_split_user(ew_item *items, size_t n, ew_split_by by);
/* Shannon entropy of the outputs in bits. */
double ew_items_entropy(const ew_item *items, size_t n);

#endif

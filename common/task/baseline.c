#include "task/baseline.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "rag/rag.h"

#define FIRST_WORDS 8

const char *ew_baseline_name(ew_baseline b)
{
    static const char *const name[] = {"majority", "nearest", "first8"};
    return (size_t)b < EW_COUNT(name) ? name[b] : "?";
}

bool ew_baseline_applies(const ew_task *t, ew_baseline b)
{
    bool text = t->kind == EW_TASK_GENERATE;
    return b == EW_BASELINE_MAJORITY ? !text : b == EW_BASELINE_FIRST8 ? text : b == EW_BASELINE_NEAREST;
}

static const char *majority(const ew_item *history, size_t n)
{
    const char *best = "";
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count = 0;
        for (size_t k = 0; k < n; k++) {
            count += strcmp(history[k].output, history[i].output) == 0;
        }
        if (count > most || (count == most && strcmp(history[i].output, best) < 0)) {
            most = count;
            best = history[i].output;
        }
    }
    return best;
}

static void first_words(const char *input, ew_buf *out)
{
    const char *p = input;
    for (int w = 0; w < FIRST_WORDS; w++) {
        p += strspn(p, " \t\r\n");
        size_t n = strcspn(p, " \t\r\n");
        if (n == 0) {
            return;
        }
        if (w != 0) {
            ew_buf_addc(out, ' ');
        }
        ew_buf_add(out, p, n);
        p += n;
    }
}

static ew_status index_history(const ew_task *t, const ew_item *history, size_t n, ew_rag **ret_rag, ew_error *reterr)
{
    EW_AUTO(ew_rag) rag = NULL;
    EW_TRY(ew_rag_new(&rag, reterr));
    EW_AUTO_BUF text = {0};
    for (size_t i = 0; i < n; i++) {
        ew_buf_clear(&text);
        ew_task_corpus(t, &history[i], &text);
        EW_TRY(ew_buf_check(&text, reterr));
        EW_TRY(ew_rag_add(rag, i, text.data, text.size, i, reterr));
    }
    *ret_rag = rag;
    rag = NULL;
    return EW_OK;
}

typedef struct answers {
    const char **text; /* [n] */
    char **owned;      /* [n], those to free */
    size_t n;
} answers;

static void answers_release(answers *a)
{
    for (size_t i = 0; a->owned != NULL && i < a->n; i++) {
        ew_free(a->owned[i]);
    }
    ew_free((void *)a->text);
    ew_free((void *)a->owned);
}

static ew_status answer(const ew_task *t, ew_baseline b, const ew_item *history, size_t n_history, const ew_item *test,
                        answers *a, ew_error *reterr)
{
    const char *usual = b == EW_BASELINE_FIRST8       ? ""
                        : t->kind == EW_TASK_GENERATE ? (n_history != 0 ? history[n_history - 1].output : "")
                                                      : majority(history, n_history);
    EW_AUTO(ew_rag) rag = NULL;
    if (b == EW_BASELINE_NEAREST) {
        EW_TRY(index_history(t, history, n_history, &rag, reterr));
    }
    for (size_t i = 0; i < a->n; i++) {
        a->text[i] = usual;
        if (b == EW_BASELINE_NEAREST) {
            ew_rag_hit hit;
            size_t n;
            const ew_rag_query q = {
                .text = test[i].input, .size = strlen(test[i].input), .k = 1, .before_order = UINT64_MAX};
            EW_TRY(ew_rag_search(rag, &q, &hit, &n, reterr));
            a->text[i] = n != 0 ? history[hit.key].output : usual;
        } else if (b == EW_BASELINE_FIRST8) {
            EW_AUTO_BUF words = {0};
            first_words(test[i].input, &words);
            EW_TRY(ew_buf_check(&words, reterr));
            a->owned[i] = words.size != 0 ? ew_buf_take(&words) : NULL;
            a->text[i] = a->owned[i] != NULL ? a->owned[i] : "";
        }
    }
    return EW_OK;
}

ew_status ew_baseline_scores(const ew_task *t, const ew_item *history, size_t n_history, const ew_item *test,
                             size_t n_test, ew_scores ret_scores[EW_BASELINE_COUNT], ew_error *reterr)
{
    const char **gold = ew_calloc(n_test + 1, sizeof(*gold));
    ew_status st = gold != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory for the baselines");
    for (size_t i = 0; st == EW_OK && i < n_test; i++) {
        gold[i] = test[i].output;
    }
    ew_scores s[EW_BASELINE_COUNT];
    for (int b = 0; st == EW_OK && b < EW_BASELINE_COUNT; b++) {
        s[b] = (ew_scores)EW_SCORES_NONE;
        if (!ew_baseline_applies(t, (ew_baseline)b)) {
            continue;
        }
        EW_CLEANUP(answers_release)
        answers a = {ew_calloc(n_test + 1, sizeof(char *)), ew_calloc(n_test + 1, sizeof(char *)), n_test};
        if (a.text == NULL || a.owned == NULL) {
            st = ew_fail(reterr, EW_ENOMEM, "no memory for the baselines");
            break;
        }
        st = answer(t, (ew_baseline)b, history, n_history, test, &a, reterr);
        if (st == EW_OK) {
            st = ew_metric_scores(t, gold, a.text, n_test, &s[b], reterr);
        }
    }
    ew_free((void *)gold);
    EW_TRY(st);
    memcpy(ret_scores, s, sizeof(s));
    return EW_OK;
}

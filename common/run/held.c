#include "run/held.h"

#include <stdlib.h>

#include "base/mem.h"
#include "model/session.h"
#include "run/prompter.h"

#define SEQ_MAX_DEFAULT 512u /* as run.c */

struct ew_held {
    ew_exec exec;
    const char *model_path;
    ew_model *model; /* NULL = not yet */
    ew_task *task;
    ew_items items; /* in the split's order */
    uint64_t *rows; /* [items.n] */
    ew_user_split split;
    size_t n_history, n_val;
    uint32_t seq_max_asked, seq_max;
    double rag_recency;
    ew_embedder *embedder; /* NULL = not yet */
};

void ew_held_free(ew_held **ph)
{
    if (ph == NULL || *ph == NULL) {
        return;
    }
    ew_held *h = *ph;
    ew_embedder_free(&h->embedder);
    ew_model_unref(&h->model);
    ew_task_free(&h->task);
    ew_items_release(&h->items);
    ew_free(h->rows);
    ew_free(h);
    *ph = NULL;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static ew_status load_items(ew_held *h, const ew_trial_spec *spec, const ew_items *items, ew_error *reterr)
{
    const ew_settings *s = &spec->settings;
    h->rows = ew_calloc(EW_MAX(items->n, (size_t)1), sizeof(*h->rows));
    if (h->rows == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for %zu items", items->n);
    }
    for (size_t i = 0; i < items->n; i++) {
        h->rows[i] = items->item[i].order;
        EW_TRY(ew_items_add(&h->items, &items->item[i], reterr));
    }
    /* The split puts the items into the order of their rows. */
    qsort(h->rows, items->n, sizeof(*h->rows), by_value);
    h->split = ew_split_user(h->items.item, h->items.n, EW_SPLIT_POSITION);
    if (h->split.n_test == 0 || h->split.n_val == 0) {
        return ew_fail(reterr, EW_ELIMIT,
                       "%zu items are too few to learn from and to be scored on: at least 5 are needed", h->items.n);
    }
    h->n_history = h->split.n_history;
    h->n_val = h->split.n_val;
    EW_TRY(ew_task_new(spec->task, h->items.item, h->n_history, &h->task, reterr));
    h->n_val = s->max_val_items != 0 ? EW_MIN(h->n_val, (size_t)s->max_val_items) : h->n_val;
    h->n_history = spec->n_history != 0 ? EW_MIN(h->n_history, (size_t)spec->n_history) : h->n_history;
    h->rag_recency = s->rag_recency;
    return EW_OK;
}

ew_status ew_held_new(const ew_trial_spec *spec, const char *model_path, const ew_items *items, ew_exec exec,
                      ew_held **ret_held, ew_error *reterr)
{
    EW_AUTO(ew_held) h = ew_calloc(1, sizeof(*h));
    if (h == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for held-out items");
    }
    h->exec = exec;
    h->model_path = model_path;
    h->seq_max_asked = spec->settings.seq_max_tok != 0 ? spec->settings.seq_max_tok : SEQ_MAX_DEFAULT;
    EW_TRY(load_items(h, spec, items, reterr));
    *ret_held = h;
    h = NULL;
    return EW_OK;
}

ew_status ew_held_model(ew_held *h, ew_model **ret_model, ew_error *reterr)
{
    if (h->model == NULL) {
        EW_AUTO(ew_model) m = NULL;
        EW_TRY(ew_model_open(h->model_path, NULL, &m, reterr));
        if (ew_model_tokenizer(m) == NULL) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", h->model_path);
        }
        h->seq_max = EW_MIN(h->seq_max_asked, ew_model_config_of(m)->n_ctx_train);
        h->model = m;
        m = NULL;
    }
    *ret_model = h->model;
    return EW_OK;
}

const ew_item *ew_held_history(const ew_held *h, size_t *ret_n)
{
    *ret_n = h->n_history;
    return h->items.item;
}

const ew_item *ew_held_val(const ew_held *h, size_t *ret_n)
{
    *ret_n = h->n_val;
    return h->items.item + h->split.n_history;
}

const uint64_t *ew_held_rows(const ew_held *h)
{
    return h->rows;
}

const ew_task *ew_held_task(const ew_held *h)
{
    return h->task;
}

/* Room for the longest prompt and what is tried or written after it. */
static ew_status context_of(const ew_held *h, ew_prompter *p, const ew_item *items, size_t n, uint32_t *ret_n_ctx,
                            ew_error *reterr)
{
    EW_AUTO_TOKENS ids = {0};
    size_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        ids.n = 0;
        EW_TRY(ew_prompter_prompt(p, items[i].input, items[i].order, &ids, reterr));
        longest = EW_MAX(longest, ids.n);
    }
    *ret_n_ctx = EW_MIN((uint32_t)longest + (uint32_t)h->task->max_answer_tok + 2, h->seq_max);
    return EW_OK;
}

static ew_status score(ew_held *h, ew_model *model, const ew_hooks *hooks, ew_prompter *p, const ew_item *items,
                       size_t n, const ew_progress *progress, ew_score *ret_score, ew_error *reterr)
{
    EW_AUTO(ew_session) s = NULL;
    ew_session_opt opt = {.exec = h->exec, .hooks = hooks};
    EW_TRY(context_of(h, p, items, n, &opt.n_ctx, reterr));
    EW_TRY(ew_session_new(model, &opt, &s, reterr));
    return ew_score_items(s, h->task, p, items, n, progress, ret_score, reterr);
}

ew_status ew_held_score(ew_held *h, ew_adapter *adapter, uint32_t rag_k, uint32_t rag_rank, const ew_item *items,
                        size_t n, const ew_progress *progress, ew_score *ret_score, ew_error *reterr)
{
    EW_AUTO(ew_prompter) p = NULL;
    ew_model *base = NULL;
    ew_model *model = NULL;
    EW_TRY(ew_held_model(h, &base, reterr));
    bool embeds = rag_k != 0 && ew_prompter_embeds(rag_rank);
    if (embeds && h->embedder == NULL) {
        EW_TRY(ew_embedder_new(base, &(ew_embed_opt){.exec = h->exec}, &h->embedder, reterr));
    }
    const ew_prompter_opt opt = {.task = h->task,
                                 .tokenizer = ew_model_tokenizer(base),
                                 .seq_max_tok = h->seq_max,
                                 .rag_k = rag_k,
                                 .rag_recency = h->rag_recency,
                                 .rag_fuse = ew_prompter_fuse(rag_rank),
                                 .embedder = embeds ? h->embedder : NULL};
    EW_TRY(ew_prompter_new(&opt, rag_k != 0 ? h->items.item : NULL, rag_k != 0 ? h->n_history : 0, &p, reterr));
    if (adapter == NULL) {
        return score(h, base, NULL, p, items, n, progress, ret_score, reterr);
    }
    EW_TRY(ew_adapter_model(adapter, base, &model, reterr));
    ew_status st = score(h, model, ew_adapter_hooks(adapter), p, items, n, progress, ret_score, reterr);
    ew_model_unref(&model);
    return st;
}

/* Vectors of a profile's items for retrieval: kept in the vault, made by the served model where they are missing. */
#include <math.h>
#include <stdio.h>

#include "agentd/agent_int.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/pool.h"
#include "sys/proc.h"

ew__vectors ew__agent_vectors(ew_agent *a, const ew_items *items, ew_embedder *embedder, const char *model_hex,
                              const ew_task *task, uint64_t until_mono_ms)
{
    ew__vectors v = {.a = a, .items = items, .embedder = embedder, .until_mono_ms = until_mono_ms};
    /* What is indexed of an item: task/task.h, ew_task_corpus. */
    (void)snprintf(v.space, sizeof(v.space), "%s/%s", model_hex, task->kind == EW_TASK_GENERATE ? "whole" : "input");
    return v;
}

static ew_status kept(ew__vectors *v, uint64_t row, float *ret, bool *ret_has, ew_error *reterr)
{
    (void)pthread_mutex_lock(&v->a->vault_lock);
    ew_status st = ew_vault_vector_get(v->a->vault, v->space, row, ew_embedder_dim(v->embedder), ret, ret_has, reterr);
    (void)pthread_mutex_unlock(&v->a->vault_lock);
    return st;
}

/* An item that was forgotten meanwhile keeps none. */
static ew_status keep(ew__vectors *v, uint64_t row, const float *vector, ew_error *reterr)
{
    ew_error err = EW_ERROR_INIT;
    (void)pthread_mutex_lock(&v->a->vault_lock);
    ew_status st = ew_vault_vector_put(v->a->vault, v->space, row, vector, ew_embedder_dim(v->embedder), &err);
    (void)pthread_mutex_unlock(&v->a->vault_lock);
    return st == EW_OK || st == EW_ENOENT ? EW_OK : ew_fail(reterr, st, "%s", err.msg);
}

ew_status ew__agent_vector_of(void *ctx, size_t i, ew_span text, float *ret, bool *ret_has, ew_error *reterr)
{
    ew__vectors *v = ctx;
    uint64_t row = v->items->item[i].order;
    EW_TRY(kept(v, row, ret, ret_has, reterr));
    if (*ret_has) {
        return EW_OK;
    }
    if (v->until_mono_ms != UINT64_MAX && ew_mono_ms() >= v->until_mono_ms) {
        v->n_missing++;
        return EW_OK;
    }
    EW_TRY(ew_embed_text(v->embedder, text.data, text.size, ret, reterr));
    EW_TRY(keep(v, row, ret, reterr));
    v->n_made++;
    *ret_has = true;
    return EW_OK;
}

/* Under the agent's limit, beside the weights? The embedder's own pages are hardly touched yet. */
static bool fits(const ew_agent *a, const ew_model *m, const ew_embedder *e)
{
    ew_proc_mem mem = {0};
    return a->opt.memory_limit_bytes == 0 ||
           (ew_proc_mem_read(&mem, NULL) == EW_OK &&
            mem.rss_bytes + ew_model_weights_bytes(m) + ew_embedder_bytes(e) + EW_AGENT_RAM_MARGIN_BYTES <=
                a->opt.memory_limit_bytes);
}

static ew_status fill(ew__vectors *v, const ew_task *task, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    float *vector = ew_calloc(ew_embedder_dim(v->embedder), sizeof(*vector));
    ew_status st = vector != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a vector");
    for (size_t i = 0; st == EW_OK && i < v->items->n; i++) {
        const ew_progress_info info = {.phase = "embed",
                                       .unit = "items",
                                       .done = i,
                                       .total = v->items->n,
                                       .loss = (double)NAN,
                                       .left_s = (double)NAN};
        bool has = false;
        ew_buf_clear(&text);
        ew_task_corpus(task, &v->items->item[i], &text);
        st = ew_buf_check(&text, reterr);
        if (st == EW_OK && !ew_progress_tell(progress, &info)) {
            st = ew_fail(reterr, EW_ECANCELLED, "stopped at %zu of %zu items", i, v->items->n);
        }
        if (st == EW_OK && text.size > 0) {
            st = ew__agent_vector_of(v, i, (ew_span){ew_buf_str(&text), text.size}, vector, &has, reterr);
        }
    }
    ew_free(vector);
    return st;
}

static ew_status open_and_fill(ew_agent *a, const char *model_path, const char *model_hex, const char *task_name,
                               const ew_items *items, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO(ew_task) task = NULL;
    EW_AUTO(ew_pool) pool = NULL;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_embedder) e = NULL;
    EW_TRY(ew_task_new(task_name, items->item, items->n, &task, reterr));
    EW_TRY(ew_pool_new(a->opt.n_threads, &pool, reterr));
    EW_TRY(ew_model_open(model_path, NULL, &m, reterr));
    const ew_embed_opt opt = {.exec = {.kern = ew_kern_get(a->opt.kern), .pool = pool}};
    EW_TRY(ew_embedder_new(m, &opt, &e, reterr));
    if (!fits(a, m, e)) {
        return ew_fail(reterr, EW_ELIMIT, "no room under the memory limit");
    }
    ew__vectors v = ew__agent_vectors(a, items, e, model_hex, task, UINT64_MAX);
    return fill(&v, task, progress, reterr);
}

void ew__agent_vectors_fill(ew_agent *a, const char *model_path, const char *model_hex, const char *task,
                            const ew_items *items, const ew_progress *progress)
{
    ew_error err = EW_ERROR_INIT;
    if (open_and_fill(a, model_path, model_hex, task, items, progress, &err) != EW_OK) {
        ew__agent_event(a, "vectors-later", "%s", err.msg);
    }
}

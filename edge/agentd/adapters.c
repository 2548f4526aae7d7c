/* What is done with adapters once they are there: served, gone back from, removed, merged. */
#include <string.h>

#include "agentd/agent_int.h"
#include "base/str.h"
#include "peft/adapter.h"
#include "sys/file.h"
#include "text/json.h"

static ew_status served_json(const ew_served *s, json_t **ret, ew_error *reterr)
{
    *ret = json_pack("{s:s,s:s,s:s,s:s,s:I}", "model", s->model, "variant", s->variant, "task", s->task, "method",
                     s->method, "adapter", (json_int_t)(s->adapter == EW_SERVED_UNSAID ? 0 : s->adapter));
    return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for an answer");
}

/* The vault's mark follows what is served. The lock is held. */
static ew_status mark(ew_agent *a, const ew_served *s, ew_error *reterr)
{
    return s->adapter == EW_SERVED_UNSAID ? EW_OK
                                          : ew_vault_adapter_activate(a->vault, s->task, s->model, s->adapter, reterr);
}

/* Name and variant of the base, where something else over it is or was served. */
static void name_base(ew_agent *a, ew_served *s)
{
    ew_served other;
    if ((ew_served_get(&a->home, s->task, &other, NULL) == EW_OK && ew_str_eq(other.model, s->model)) ||
        (ew_served_get(&a->home, NULL, &other, NULL) == EW_OK && ew_str_eq(other.model, s->model))) {
        (void)ew_str_copy(s->name, sizeof(s->name), other.name);
        (void)ew_str_copy(s->variant, sizeof(s->variant), other.variant);
    }
}

static ew_status use_locked(ew_agent *a, uint64_t id, ew_served *ret_served, ew_error *reterr)
{
    ew_vault_adapter meta;
    char path[EW_HOME_PATH_MAX];
    uint8_t hash[EW_SHA256_BYTES];
    EW_TRY(ew_vault_adapter_get(a->vault, id, &meta, reterr));
    ew_served s = {.rag_k = meta.rag_k, .rag_rank = meta.rag_rank, .adapter = id};
    (void)ew_str_copy(s.model, sizeof(s.model), meta.base_sha256);
    (void)ew_str_copy(s.task, sizeof(s.task), meta.task);
    (void)ew_str_copy(s.method, sizeof(s.method), meta.method);
    if (!ew_hex_decode(s.model, hash, sizeof(hash)) || !ew_file_exists(ew_home_model_path(&a->home, hash, path))) {
        return ew_fail(reterr, EW_ENOENT,
                       "the model %.12s… that adapter %llu belongs to is not on this device any more", s.model,
                       (unsigned long long)id);
    }
    name_base(a, &s);
    EW_TRY(mark(a, &s, reterr));
    *ret_served = s;
    return ew_served_put(&a->home, &s, reterr);
}

ew_status ew_agent_adapter_use(ew_agent *a, uint64_t id, json_t **ret, ew_error *reterr)
{
    ew_served s;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = use_locked(a, id, &s, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    return served_json(&s, ret, reterr);
}

/* It is there, nothing that it learned from was forgotten, and its model is here. */
static bool usable(const ew_served *s, void *ctx)
{
    ew_agent *a = ctx;
    ew_vault_adapter meta;
    char path[EW_HOME_PATH_MAX];
    uint8_t hash[EW_SHA256_BYTES];
    bool there =
        ew_hex_decode(s->model, hash, sizeof(hash)) && ew_file_exists(ew_home_model_path(&a->home, hash, path));
    return there && (s->adapter == 0 || s->adapter == EW_SERVED_UNSAID ||
                     (ew_vault_adapter_get(a->vault, s->adapter, &meta, NULL) == EW_OK && !meta.flagged &&
                      ew_str_eq(meta.base_sha256, s->model)));
}

ew_status ew_agent_adapter_rollback(ew_agent *a, const char *task, json_t **ret, ew_error *reterr)
{
    ew_served s;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_served_back(&a->home, task, usable, a, &s, reterr);
    if (st == EW_OK) {
        st = mark(a, &s, reterr);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    EW_TRY(st);
    return served_json(&s, ret, reterr);
}

static ew_status remove_locked(ew_agent *a, uint64_t id, ew_error *reterr)
{
    ew_vault_adapter meta;
    ew_served s;
    EW_TRY(ew_vault_adapter_get(a->vault, id, &meta, reterr));
    if (ew_served_get(&a->home, meta.task, &s, NULL) == EW_OK &&
        (s.adapter == id || (s.adapter == EW_SERVED_UNSAID && meta.active))) {
        return ew_fail(reterr, EW_ECONFLICT,
                       "adapter %llu is served for %s. HINT: edgewise-agent adapter rollback --task %s",
                       (unsigned long long)id, meta.task, meta.task);
    }
    return ew_vault_adapter_remove(a->vault, id, reterr);
}

ew_status ew_agent_adapter_remove(ew_agent *a, uint64_t id, ew_error *reterr)
{
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = remove_locked(a, id, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    return st;
}

/* The adapter that is meant, with its base. */
static ew_status find(ew_agent *a, uint64_t id, ew_vault_adapter *ret_meta, ew_error *reterr)
{
    ew_served s = {0};
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = id == 0 ? ew_served_get(&a->home, NULL, &s, reterr) : EW_OK;
    if (st == EW_OK && id == 0 && s.adapter == EW_SERVED_UNSAID) {
        st = ew_vault_adapter_active(a->vault, s.task, s.model, ret_meta, reterr);
    } else if (st == EW_OK && id == 0 && s.adapter == 0) {
        st = ew_fail(reterr, EW_ENOENT, "the plain model is served: there is no adapter to merge");
    } else if (st == EW_OK) {
        st = ew_vault_adapter_get(a->vault, id != 0 ? id : s.adapter, ret_meta, reterr);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    if (st == EW_OK && ret_meta->flagged) {
        st = ew_fail(reterr, EW_ECONFLICT, "adapter %llu learned from items that were forgotten since",
                     (unsigned long long)ret_meta->id);
    }
    return st;
}

static ew_status merge(ew_agent *a, const ew_vault_adapter *meta, const char *out_path, bool keep_types,
                       const ew_progress *progress, ew_error *reterr)
{
    char model_path[EW_HOME_PATH_MAX];
    char file[EW_HOME_PATH_MAX];
    uint8_t hash[EW_SHA256_BYTES];
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) adapter = NULL;
    if (!ew_hex_decode(meta->base_sha256, hash, sizeof(hash))) {
        return ew_fail(reterr, EW_ECORRUPT, "adapter %llu has no base", (unsigned long long)meta->id);
    }
    EW_TRY(ew__agent_model(a, hash, progress, model_path, reterr));
    EW_TRY(ew_model_open(model_path, NULL, &m, reterr));
    EW_TRY(ew__agent_adapter_file(a, meta->id, "merge.gguf", file, reterr));
    ew_status st = ew_adapter_load_gguf(file, m, &adapter, reterr);
    ew_status removed = ew_file_remove(file, st == EW_OK ? reterr : NULL);
    EW_TRY(st);
    EW_TRY(removed);
    const ew_adapter_merge_opt opt = {.keep_type = keep_types,
                                      .progress = progress != NULL ? *progress : (ew_progress){0}};
    return ew_adapter_merge_gguf(adapter, m, out_path, &opt, reterr);
}

ew_status ew_agent_adapter_merge(ew_agent *a, uint64_t id, const char *out_path, bool keep_types,
                                 const ew_progress *progress, ew_error *reterr)
{
    ew_vault_adapter meta;
    EW_TRY(find(a, id, &meta, reterr));
    (void)pthread_mutex_lock(&a->heavy); /* memory for one at a time */
    ew_status st = merge(a, &meta, out_path, keep_types, progress, reterr);
    (void)pthread_mutex_unlock(&a->heavy);
    return st;
}

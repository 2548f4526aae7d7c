#include "agentd/served.h"

#include <string.h>

#include "base/str.h"
#include "text/json.h"

#define FILE_NAME "active.json"

static bool copy(char *dst, size_t size, const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return ew_str_copy(dst, size, s != NULL ? s : "");
}

static ew_status read_one(const json_t *j, ew_served *ret_served, ew_error *reterr)
{
    ew_served s = {0};
    uint8_t hash[EW_SHA256_BYTES];
    const json_t *adapter = json_object_get(j, "adapter");
    json_int_t k = json_integer_value(json_object_get(j, "rag_k"));
    json_int_t rank = json_integer_value(json_object_get(j, "rag_rank"));
    bool whole = copy(s.model, sizeof(s.model), j, "model") && copy(s.name, sizeof(s.name), j, "name") &&
                 copy(s.variant, sizeof(s.variant), j, "variant") && copy(s.task, sizeof(s.task), j, "task") &&
                 copy(s.method, sizeof(s.method), j, "method") && ew_hex_decode(s.model, hash, sizeof(hash)) &&
                 s.task[0] != '\0' && k >= 0 && k <= 64 && rank >= 0 && rank < EW_RAG_RANK_COUNT &&
                 json_integer_value(adapter) >= 0;
    if (!whole) {
        return ew_fail(reterr, EW_ECORRUPT, FILE_NAME " is damaged. HINT: edgewise-agent learn");
    }
    s.rag_k = (uint32_t)k;
    s.rag_rank = (uint32_t)rank;
    s.adapter = json_is_integer(adapter) ? (uint64_t)json_integer_value(adapter) : EW_SERVED_UNSAID;
    *ret_served = s;
    return EW_OK;
}

static json_t *json_of(const ew_served *s)
{
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I}", "model", s->model, "name", s->name, "variant", s->variant,
                          "task", s->task, "method", s->method, "rag_k", (json_int_t)s->rag_k);
    if (j != NULL && s->rag_rank != EW_RAG_RANK_BM25) {
        (void)json_object_set_new(j, "rag_rank", json_integer((json_int_t)s->rag_rank));
    }
    if (j != NULL && s->adapter != EW_SERVED_UNSAID) {
        (void)json_object_set_new(j, "adapter", json_integer((json_int_t)s->adapter));
    }
    return j;
}

static bool same(const ew_served *a, const ew_served *b)
{
    return ew_str_eq(a->model, b->model) && ew_str_eq(a->method, b->method) && a->rag_k == b->rag_k &&
           a->rag_rank == b->rag_rank && a->adapter == b->adapter;
}

/* The file; {} when there is none. */
static ew_status load(const ew_home *h, json_t **ret, ew_error *reterr)
{
    ew_status st = ew_home_read_json(h, FILE_NAME, ret, reterr);
    if (st == EW_ENOENT) {
        *ret = json_object();
        return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for " FILE_NAME);
    }
    EW_TRY(st);
    return json_is_object(*ret) ? EW_OK
                                : ew_fail(reterr, EW_ECORRUPT, FILE_NAME " is damaged. HINT: edgewise-agent learn");
}

/* The task's own entry; the default's when it is for the task (a file of an older version has no other). */
static const json_t *entry_of(const json_t *file, const char *task)
{
    const json_t *now = json_object_get(json_object_get(json_object_get(file, "tasks"), task), "now");
    if (now == NULL && ew_str_eq(json_string_value(json_object_get(file, "task")), task)) {
        now = file;
    }
    return now;
}

ew_status ew_served_get(const ew_home *h, const char *task, ew_served *ret_served, ew_error *reterr)
{
    EW_AUTO_JSON file = NULL;
    EW_TRY(load(h, &file, reterr));
    if (task == NULL) {
        return json_object_get(file, "model") != NULL ? read_one(file, ret_served, reterr)
                                                      : ew_fail(reterr, EW_ENOENT, "nothing was chosen yet");
    }
    const json_t *now = entry_of(file, task);
    return now != NULL
               ? read_one(now, ret_served, reterr)
               : ew_fail(reterr, EW_ENOENT,
                         "nothing was learned for the task %s yet. HINT: edgewise-agent learn --task %s", task, task);
}

/* The file with s as default and as the task's own, and before for the task. */
static ew_status save(const ew_home *h, const json_t *old, const ew_served *s, json_t *before, ew_error *reterr)
{
    json_t *file = json_of(s);
    json_t *tasks =
        json_object_get(old, "tasks") != NULL ? json_deep_copy(json_object_get(old, "tasks")) : json_object();
    json_t *task = json_object();
    EW_AUTO_JSON whole = file;
    if (file == NULL || tasks == NULL || task == NULL) {
        json_decref(tasks);
        json_decref(task);
        json_decref(before);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for " FILE_NAME);
    }
    (void)json_object_set_new(task, "now", json_of(s));
    (void)json_object_set_new(task, "before", before);
    (void)json_object_set_new(tasks, s->task, task);
    (void)json_object_set_new(file, "tasks", tasks);
    return ew_home_write_json(h, FILE_NAME, whole, reterr);
}

static const json_t *before_of(const json_t *file, const char *task)
{
    return json_object_get(json_object_get(json_object_get(file, "tasks"), task), "before");
}

ew_status ew_served_put(const ew_home *h, const ew_served *s, ew_error *reterr)
{
    EW_AUTO_JSON file = NULL;
    ew_served last;
    /* One that cannot be read is replaced. */
    if (load(h, &file, NULL) != EW_OK) {
        json_decref(file);
        file = json_object();
    }
    json_t *before = json_deep_copy(before_of(file, s->task));
    before = before != NULL ? before : json_array();
    const json_t *now = entry_of(file, s->task);
    if (now != NULL && read_one(now, &last, NULL) == EW_OK && !same(&last, s)) {
        (void)json_array_append_new(before, json_of(&last));
    }
    while (json_array_size(before) > EW_SERVED_BEFORE) {
        (void)json_array_remove(before, 0);
    }
    return save(h, file, s, before, reterr);
}

ew_status ew_served_back(const ew_home *h, const char *task, bool (*usable)(const ew_served *s, void *ctx), void *ctx,
                         ew_served *ret_served, ew_error *reterr)
{
    EW_AUTO_JSON file = NULL;
    ew_served now;
    EW_TRY(ew_served_get(h, task, &now, reterr));
    EW_TRY(load(h, &file, reterr));
    json_t *before = json_deep_copy(before_of(file, now.task));
    before = before != NULL ? before : json_array();
    bool found = false;
    ew_served s = {0};
    while (!found && json_array_size(before) > 0) {
        size_t last = json_array_size(before) - 1;
        found = read_one(json_array_get(before, last), &s, NULL) == EW_OK && usable(&s, ctx);
        (void)json_array_remove(before, last);
    }
    if (!found) {
        if (now.adapter == 0 && now.rag_k == 0) {
            json_decref(before);
            return ew_fail(reterr, EW_ENOENT, "there is nothing to go back to: the plain model is served");
        }
        s = now;
        s.adapter = 0;
        s.rag_k = 0;
        s.rag_rank = EW_RAG_RANK_BM25;
        (void)ew_str_copy(s.method, sizeof(s.method), "none");
    }
    EW_TRY(save(h, file, &s, before, reterr));
    *ret_served = s;
    return EW_OK;
}

static void add_id(const json_t *entry, uint64_t *ids, size_t *n)
{
    json_int_t id = json_integer_value(json_object_get(entry, "adapter"));
    if (id > 0 && *n < EW_SERVED_BEFORE + 1) {
        ids[(*n)++] = (uint64_t)id;
    }
}

ew_status ew_served_adapters(const ew_home *h, const char *task, uint64_t ret_ids[static EW_SERVED_BEFORE + 1],
                             size_t *ret_n, ew_error *reterr)
{
    EW_AUTO_JSON file = NULL;
    size_t i;
    json_t *one;
    size_t n = 0;
    EW_TRY(load(h, &file, reterr));
    add_id(entry_of(file, task), ret_ids, &n);
    json_array_foreach((json_t *)(uintptr_t)before_of(file, task), i, one)
    {
        add_id(one, ret_ids, &n);
    }
    *ret_n = n;
    return EW_OK;
}

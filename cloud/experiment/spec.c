#include "experiment/spec.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "domain/method.h"
#include "sys/yaml.h"

#define WORD_MAX 128
#define LIST_MAX 256

static const cyaml_schema_value_t word = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, WORD_MAX),
};
static const cyaml_schema_value_t seed_value = {
    CYAML_VALUE_UINT(CYAML_FLAG_DEFAULT, uint64_t),
};

static const cyaml_schema_field_t data_fields[] = {
    CYAML_FIELD_STRING_PTR("benchmark", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_data, benchmark, 1,
                           WORD_MAX),
    CYAML_FIELD_STRING_PTR("group", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_data, group, 1, WORD_MAX),
    CYAML_FIELD_UINT("users", CYAML_FLAG_OPTIONAL, ew_experiment_data, users),
    CYAML_FIELD_STRING_PTR("file", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_data, file, 1, 4096),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t settings_fields[] = {
    CYAML_FIELD_UINT("rank", CYAML_FLAG_OPTIONAL, ew_experiment_settings, rank),
    CYAML_FIELD_FLOAT("alpha", CYAML_FLAG_OPTIONAL, ew_experiment_settings, alpha),
    CYAML_FIELD_FLOAT("lr", CYAML_FLAG_OPTIONAL, ew_experiment_settings, lr),
    CYAML_FIELD_UINT("epochs", CYAML_FLAG_OPTIONAL, ew_experiment_settings, epochs),
    CYAML_FIELD_UINT("rag_k", CYAML_FLAG_OPTIONAL, ew_experiment_settings, rag_k),
    CYAML_FIELD_FLOAT("rag_recency", CYAML_FLAG_OPTIONAL, ew_experiment_settings, rag_recency),
    CYAML_FIELD_STRING_PTR("rag_rank", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_settings, rag_rank, 1,
                           WORD_MAX),
    CYAML_FIELD_FLOAT("dropout", CYAML_FLAG_OPTIONAL, ew_experiment_settings, dropout),
    CYAML_FIELD_FLOAT("weight_decay", CYAML_FLAG_OPTIONAL, ew_experiment_settings, weight_decay),
    CYAML_FIELD_STRING_PTR("targets", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_settings, targets, 1,
                           WORD_MAX),
    CYAML_FIELD_BOOL("rslora", CYAML_FLAG_OPTIONAL, ew_experiment_settings, rslora),
    CYAML_FIELD_BOOL("dora", CYAML_FLAG_OPTIONAL, ew_experiment_settings, dora),
    CYAML_FIELD_BOOL("mezo_prefix", CYAML_FLAG_OPTIONAL, ew_experiment_settings, mezo_prefix),
    CYAML_FIELD_UINT("virtual", CYAML_FLAG_OPTIONAL, ew_experiment_settings, n_virtual),
    CYAML_FIELD_UINT("width", CYAML_FLAG_OPTIONAL, ew_experiment_settings, width),
    CYAML_FIELD_UINT("exits", CYAML_FLAG_OPTIONAL, ew_experiment_settings, exits),
    CYAML_FIELD_UINT("max_steps", CYAML_FLAG_OPTIONAL, ew_experiment_settings, max_steps),
    CYAML_FIELD_UINT("batch_tokens", CYAML_FLAG_OPTIONAL, ew_experiment_settings, batch_tokens),
    CYAML_FIELD_UINT("patience", CYAML_FLAG_OPTIONAL, ew_experiment_settings, patience),
    CYAML_FIELD_UINT("optimizer_bits", CYAML_FLAG_OPTIONAL, ew_experiment_settings, optimizer_bits),
    CYAML_FIELD_UINT("rung", CYAML_FLAG_OPTIONAL, ew_experiment_settings, rung),
    CYAML_FIELD_UINT("max_val_items", CYAML_FLAG_OPTIONAL, ew_experiment_settings, max_val_items),
    CYAML_FIELD_UINT("max_test_items", CYAML_FLAG_OPTIONAL, ew_experiment_settings, max_test_items),
    CYAML_FIELD_UINT("threads", CYAML_FLAG_OPTIONAL, ew_experiment_settings, threads),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t budget_fields[] = {
    CYAML_FIELD_UINT("seconds", CYAML_FLAG_OPTIONAL, ew_experiment_budget, seconds),
    CYAML_FIELD_STRING_PTR("ram", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment_budget, ram, 1, WORD_MAX),
    CYAML_FIELD_END,
};
#define WORDS(key, member) CYAML_FIELD_SEQUENCE(key, CYAML_FLAG_POINTER, ew_experiment, member, &word, 1, LIST_MAX)
#define OPTIONAL_WORDS(key, member)                                                                                    \
    CYAML_FIELD_SEQUENCE(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment, member, &word, 1, LIST_MAX)
static const cyaml_schema_field_t experiment_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, ew_experiment, name, 1, 64),
    CYAML_FIELD_MAPPING("data", CYAML_FLAG_DEFAULT, ew_experiment, data, data_fields),
    WORDS("tasks", tasks),
    WORDS("models", models),
    WORDS("variants", variants),
    WORDS("methods", methods),
    OPTIONAL_WORDS("history", history),
    OPTIONAL_WORDS("devices", devices),
    CYAML_FIELD_SEQUENCE("seeds", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, ew_experiment, seeds, &seed_value, 1,
                         LIST_MAX),
    CYAML_FIELD_MAPPING("settings", CYAML_FLAG_OPTIONAL, ew_experiment, settings, settings_fields),
    CYAML_FIELD_MAPPING("budget", CYAML_FLAG_OPTIONAL, ew_experiment, budget, budget_fields),
    CYAML_FIELD_BOOL("force", CYAML_FLAG_OPTIONAL, ew_experiment, force),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t experiment_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, ew_experiment, experiment_fields),
};

bool ew_history_parse(const char *text, int64_t *ret_items)
{
    uint64_t n;
    if (strcmp(text, "all") == 0) {
        *ret_items = EW_HISTORY_ALL;
        return true;
    }
    if (!ew_str_to_u64(text, 1000000, &n) || n == 0) {
        return false;
    }
    *ret_items = (int64_t)n;
    return true;
}

static bool is_name(const char *s)
{
    return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(s);
}

static ew_status check_data(const ew_experiment_data *d, const char *path, ew_error *reterr)
{
    if ((d->benchmark != NULL) == (d->file != NULL)) {
        return ew_fail(reterr, EW_EINVAL, "%s: data needs either 'benchmark: debian' or 'file: PATH'", path);
    }
    if (d->benchmark != NULL && strcmp(d->benchmark, "debian") != 0) {
        return ew_fail(reterr, EW_EINVAL, "%s: unknown benchmark '%s'; known: debian", path, d->benchmark);
    }
    if (d->group != NULL && strcmp(d->group, "dev") != 0 && strcmp(d->group, "test") != 0) {
        return ew_fail(reterr, EW_EINVAL, "%s: data.group is 'dev' or 'test', not '%s'", path, d->group);
    }
    return EW_OK;
}

static ew_status check_no_twice(char *const *list, unsigned n, const char *path, const char *key, ew_error *reterr)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(list[i], list[j]) == 0) {
                return ew_fail(reterr, EW_EINVAL, "%s: %s lists '%s' twice", path, key, list[i]);
            }
        }
    }
    return EW_OK;
}

static ew_status parse_targets(const char *list, uint32_t *ret, const char *path, ew_error *reterr)
{
    static const char *const names[] = {"q", "k", "v", "o", "gate", "up", "down"}; /* in the order of the mask's bits */
    *ret = 0;
    while (list != NULL && *list != '\0') {
        const size_t n = strcspn(list, ",");
        uint32_t bit = 0;
        for (size_t i = 0; i < EW_COUNT(names); i++) {
            bit = strlen(names[i]) == n && memcmp(names[i], list, n) == 0 ? 1u << i : bit;
        }
        if (bit == 0) {
            return ew_fail(reterr, EW_EINVAL, "%s: unknown target '%.*s'; known: q, k, v, o, gate, up, down", path,
                           (int)n, list);
        }
        *ret |= bit;
        list += n + (list[n] == ',');
    }
    return EW_OK;
}

ew_status ew_experiment_settings_of(const ew_experiment *e, ew_settings *ret_settings, const char *path,
                                    ew_error *reterr)
{
    const ew_experiment_settings *s = &e->settings;
    ew_settings out = {0};
    uint32_t targets = 0;
    uint32_t rag_rank = EW_RAG_RANK_BM25;
    EW_TRY(parse_targets(s->targets, &targets, path, reterr));
    if (s->rag_rank != NULL && !ew_rag_rank_from_name(s->rag_rank, &rag_rank)) {
        return ew_fail(reterr, EW_EINVAL, "%s: settings: rag_rank is bm25, recency, vectors or fused, not '%s'", path,
                       s->rag_rank);
    }
    const struct {
        const char *name;
        double value;
    } values[] = {
        {"rank", s->rank},
        {"alpha", s->alpha},
        {"learning-rate", s->lr},
        {"epochs", s->epochs},
        {"rag-k", s->rag_k},
        {"rag-recency", s->rag_recency},
        {"rag-rank", rag_rank},
        {"dropout", s->dropout},
        {"weight-decay", s->weight_decay},
        {"targets", targets},
        {"rslora", s->rslora},
        {"dora", s->dora},
        {"mezo-prefix", s->mezo_prefix},
        {"virtual", s->n_virtual},
        {"width", s->width},
        {"exits", s->exits},
        {"max-steps", s->max_steps},
        {"batch-tokens", s->batch_tokens},
        {"patience", s->patience},
        {"optimizer-bits", s->optimizer_bits},
        {"rung", s->rung},
        {"max-val-items", s->max_val_items},
        {"max-test-items", s->max_test_items},
        {"threads", s->threads},
    };
    for (size_t i = 0; i < EW_COUNT(values); i++) {
        ew_error err = EW_ERROR_INIT;
        ew_status st = ew_settings_set(&out, values[i].name, values[i].value, &err);
        if (st != EW_OK) {
            return ew_fail(reterr, st, "%s: settings: %s", path, err.msg);
        }
    }
    if (ret_settings != NULL) {
        *ret_settings = out;
    }
    return EW_OK;
}

static ew_status check(const ew_experiment *e, const char *path, ew_error *reterr)
{
    int64_t items;
    uint64_t bytes;
    if (!is_name(e->name)) {
        return ew_fail(reterr, EW_EINVAL, "%s: name '%s' may hold lower-case letters, digits and '-' only", path,
                       e->name);
    }
    EW_TRY(check_data(&e->data, path, reterr));
    for (unsigned i = 0; i < e->methods_count; i++) {
        if (ew_method_from_name(e->methods[i]) == EW_METHOD_UNSPECIFIED) {
            return ew_fail(reterr, EW_EINVAL,
                           "%s: unknown method '%s'; known: none, lora, rag, lora+rag, prompt, prefix, ia3, "
                           "bottleneck, full, mezo, blockwise",
                           path, e->methods[i]);
        }
    }
    for (unsigned i = 0; i < e->history_count; i++) {
        if (!ew_history_parse(e->history[i], &items)) {
            return ew_fail(reterr, EW_EINVAL, "%s: history '%s' is neither a number above 0 nor 'all'", path,
                           e->history[i]);
        }
    }
    EW_TRY(ew_experiment_settings_of(e, NULL, path, reterr));
    if (e->budget.ram != NULL && !ew_str_to_bytes(e->budget.ram, &bytes)) {
        return ew_fail(reterr, EW_EINVAL, "%s: budget.ram '%s' is not a size such as 200M or 1.5G", path,
                       e->budget.ram);
    }
    for (unsigned i = 0; i < e->seeds_count; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (e->seeds[i] == e->seeds[j]) {
                return ew_fail(reterr, EW_EINVAL, "%s: seeds lists %llu twice", path, (unsigned long long)e->seeds[i]);
            }
        }
    }
    EW_TRY(check_no_twice(e->tasks, e->tasks_count, path, "tasks", reterr));
    EW_TRY(check_no_twice(e->models, e->models_count, path, "models", reterr));
    EW_TRY(check_no_twice(e->variants, e->variants_count, path, "variants", reterr));
    EW_TRY(check_no_twice(e->methods, e->methods_count, path, "methods", reterr));
    EW_TRY(check_no_twice(e->history, e->history_count, path, "history", reterr));
    return check_no_twice(e->devices, e->devices_count, path, "devices", reterr);
}

ew_status ew_experiment_load(const char *path, ew_experiment **ret_experiment, ew_error *reterr)
{
    void *data = NULL;
    EW_TRY(ew_yaml_load_file(path, &experiment_schema, &data, reterr));
    ew_experiment *e = data;
    ew_status st = check(e, path, reterr);
    if (st != EW_OK) {
        ew_experiment_free(&e);
        return st;
    }
    *ret_experiment = e;
    return EW_OK;
}

void ew_experiment_free(ew_experiment **e)
{
    if (e != NULL && *e != NULL) {
        void *data = *e;
        ew_yaml_free(&experiment_schema, &data);
        *e = NULL;
    }
}

typedef struct grid {
    ew_grid_point *points; /* NULL while counting */
    size_t n;
} grid;

static void grid_add(grid *g, const ew_grid_point *point)
{
    if (g->points != NULL) {
        g->points[g->n] = *point;
    }
    g->n++;
}

/* All data amounts and seeds of one (device, task, user, model, variant, method). */
static void grid_add_amounts(const ew_experiment *e, ew_grid_point point, grid *g)
{
    static char all_text[] = "all";
    static char *all[] = {all_text};
    bool none = strcmp(point.method, "none") == 0;
    char **history = e->history_count > 0 ? e->history : all;
    unsigned n_history = none ? 1 : EW_MAX(e->history_count, 1u);
    for (unsigned h = 0; h < n_history; h++) {
        point.n_history = 0;
        if (!none) {
            EW_ASSERT(ew_history_parse(history[h], &point.n_history));
        }
        for (unsigned s = 0; s < EW_MAX(e->seeds_count, 1u); s++) {
            point.seed = e->seeds_count > 0 ? e->seeds[s] : 1;
            grid_add(g, &point);
        }
    }
}

static void grid_walk(const ew_experiment *e, const char *const *devices, size_t n_devices, const char *const *users,
                      size_t n_users, grid *g)
{
    size_t per_device = (size_t)e->tasks_count * n_users * e->models_count * e->variants_count * e->methods_count;
    for (size_t d = 0; d < n_devices; d++) {
        for (size_t i = 0; i < per_device && g->n <= EW_EXPERIMENT_TRIALS_MAX; i++) {
            size_t at = i;
            ew_grid_point p = {.device = devices[d]};
            p.method = e->methods[at % e->methods_count];
            at /= e->methods_count;
            p.variant = e->variants[at % e->variants_count];
            at /= e->variants_count;
            p.model = e->models[at % e->models_count];
            at /= e->models_count;
            p.user = users[at % n_users];
            at /= n_users;
            p.task = e->tasks[at];
            grid_add_amounts(e, p, g);
        }
    }
}

ew_status ew_experiment_grid(const ew_experiment *e, const char *const *devices, size_t n_devices,
                             const char *const *users, size_t n_users, ew_grid_point **ret_points, size_t *ret_n,
                             ew_error *reterr)
{
    grid g = {0};
    if (n_devices == 0 || n_users == 0) {
        return ew_fail(reterr, EW_EINVAL, "experiment '%s' has no %s to run on", e->name,
                       n_devices == 0 ? "device" : "user");
    }
    grid_walk(e, devices, n_devices, users, n_users, &g);
    if (g.n > EW_EXPERIMENT_TRIALS_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "experiment '%s' means more than %u trials; shorten one of its lists",
                       e->name, EW_EXPERIMENT_TRIALS_MAX);
    }
    g.points = ew_calloc(g.n, sizeof(*g.points));
    if (g.points == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for %zu trials", g.n);
    }
    g.n = 0;
    grid_walk(e, devices, n_devices, users, n_users, &g);
    *ret_points = g.points;
    *ret_n = g.n;
    return EW_OK;
}

#include "domain/trial.h"

#include <math.h>
#include <string.h>

#include "base/str.h"

static ew_measure *find(ew_trial_result *r, const char *name)
{
    for (uint32_t i = 0; i < r->n_measures; i++) {
        if (strcmp(r->measures[i].name, name) == 0) {
            return &r->measures[i];
        }
    }
    return NULL;
}

bool ew_trial_result_add(ew_trial_result *r, const char *name, const char *unit, double v)
{
    if (!isfinite(v)) {
        return false;
    }
    ew_measure *m = find(r, name);
    if (m == NULL) {
        if (r->n_measures == EW_MEASURES_MAX) {
            return false;
        }
        ew_measure fresh = {.n = 0};
        if (!ew_str_copy(fresh.name, sizeof(fresh.name), name) || !ew_str_copy(fresh.unit, sizeof(fresh.unit), unit)) {
            return false;
        }
        m = &r->measures[r->n_measures++];
        *m = fresh;
    }
    if (m->n == EW_MEASURE_VALUES_MAX) {
        return false;
    }
    m->values[m->n++] = v;
    return true;
}

const ew_measure *ew_trial_result_find(const ew_trial_result *r, const char *name)
{
    for (uint32_t i = 0; i < r->n_measures; i++) {
        if (strcmp(r->measures[i].name, name) == 0) {
            return &r->measures[i];
        }
    }
    return NULL;
}

double ew_trial_result_mean(const ew_trial_result *r, const char *name)
{
    const ew_measure *m = ew_trial_result_find(r, name);
    if (m == NULL || m->n == 0) {
        return (double)NAN;
    }
    double sum = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        sum += m->values[i];
    }
    return sum / m->n;
}

static const char *const rag_ranks[EW_RAG_RANK_COUNT] = {"bm25", "recency", "vectors", "fused"};

const char *ew_rag_rank_name(uint32_t rank)
{
    return rank < EW_RAG_RANK_COUNT ? rag_ranks[rank] : "unknown";
}

bool ew_rag_rank_from_name(const char *name, uint32_t *ret_rank)
{
    for (uint32_t i = 0; i < EW_RAG_RANK_COUNT; i++) {
        if (strcmp(rag_ranks[i], name) == 0) {
            *ret_rank = i;
            return true;
        }
    }
    return false;
}

static bool word(const char *s, size_t n)
{
    if (n == 0 || n >= 72) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
                  c == '-';
        if (!ok) {
            return false;
        }
    }
    return true;
}

ew_status ew_source_parse(const char *source, bool *ret_profile, char ret_digest[72], char ret_user[72],
                          ew_error *reterr)
{
    static const char prefix[] = "benchmark:";
    bool profile = strcmp(source, "profile") == 0;
    const char *digest = "";
    const char *user = "";
    size_t n_digest = 0;
    if (!profile) {
        const char *colon = ew_str_starts(source, prefix) ? strchr(source + sizeof(prefix) - 1, ':') : NULL;
        if (colon != NULL) {
            digest = source + sizeof(prefix) - 1;
            n_digest = (size_t)(colon - digest);
            user = colon + 1;
        }
        if (colon == NULL || !word(digest, n_digest) || !word(user, strlen(user))) {
            return ew_fail(reterr, EW_EINVAL,
                           "trial source \"%.80s\" is neither \"profile\" nor \"benchmark:<digest>:<user>\"", source);
        }
    }
    if (ret_profile != NULL) {
        *ret_profile = profile;
    }
    if (ret_digest != NULL) {
        memcpy(ret_digest, digest, n_digest);
        ret_digest[n_digest] = '\0';
    }
    if (ret_user != NULL) {
        memcpy(ret_user, user, strlen(user) + 1);
    }
    return EW_OK;
}

#define D(name, field, lo, hi, help)                                                                                   \
    {                                                                                                                  \
        name, true, offsetof(ew_settings, field), lo, hi, help                                                         \
    }
#define U(name, field, lo, hi, help)                                                                                   \
    {                                                                                                                  \
        name, false, offsetof(ew_settings, field), lo, hi, help                                                        \
    }
const ew_setting_desc ew_setting_table[] = {
    U("rank", rank, 0, 1024, "LoRA rank"),
    D("alpha", alpha, 0, 4096, "LoRA alpha"),
    D("dropout", dropout, 0, 0.9, "LoRA dropout"),
    U("targets", targets, 0, 4294967295.0, "bit mask of the adapted linear layers"),
    D("learning-rate", learning_rate, 0, 1, "peak learning rate"),
    D("weight-decay", weight_decay, 0, 1, "AdamW weight decay"),
    D("epochs", epochs, 0, 1000, "passes over the history"),
    U("max-steps", max_steps, 0, 100000000, "optimiser steps at most"),
    U("batch-tokens", batch_tok, 0, 1048576, "tokens per optimiser step"),
    U("seq-max", seq_max_tok, 0, 1048576, "tokens of the longest example"),
    U("patience", patience, 0, 1000, "evaluations without progress before it stops"),
    U("rag-k", rag_k, 0, 64, "retrieved items per prompt"),
    D("rag-recency", rag_recency, 0, 1, "weight of recency beside BM25"),
    U("max-val-items", max_val_items, 0, 100000, "validation items at most"),
    U("max-test-items", max_test_items, 0, 100000, "test items at most"),
    U("threads", n_threads, 0, 256, "compute threads"),
    U("rslora", rslora, 0, 1, "1: LoRA's scale is alpha / sqrt(rank)"),
    U("dora", dora, 0, 1, "1: LoRA with magnitudes of its own"),
    U("virtual", n_virtual, 0, 1024, "virtual positions of prompt and prefix"),
    U("width", width, 0, 4096, "hidden units of a bottleneck"),
    U("optimizer-bits", optimizer_bits, 0, 32, "of the optimiser's moments: 8 or 32"),
    U("rung", rung, 0, 5, "step of the memory ladder; 0 = chosen"),
    U("exits", exits, 0, 8, "blocks of blockwise tuning"),
    U("mezo-prefix", mezo_prefix, 0, 1, "1: MeZO of a prefix instead of LoRA"),
    U("rag-rank", rag_rank, 0, EW_RAG_RANK_COUNT - 1, "retrieval by 0: BM25, 1: recency, 2: vectors, 3: all of them"),
};
const size_t ew_setting_count = EW_COUNT(ew_setting_table);
#undef D
#undef U

static const ew_setting_desc *setting(const char *name)
{
    for (size_t i = 0; i < ew_setting_count; i++) {
        if (strcmp(ew_setting_table[i].name, name) == 0) {
            return &ew_setting_table[i];
        }
    }
    return NULL;
}

ew_status ew_settings_set(ew_settings *s, const char *name, double value, ew_error *reterr)
{
    const ew_setting_desc *d = setting(name);
    if (d == NULL) {
        return ew_fail(reterr, EW_ENOENT, "there is no setting \"%.60s\"", name);
    }
    if (!(value >= d->min && value <= d->max) || (!d->is_double && value != floor(value))) {
        return ew_fail(reterr, EW_EINVAL, "setting %s = %g is not %s in [%g, %g]", name, value,
                       d->is_double ? "a number" : "a whole number", d->min, d->max);
    }
    void *at = (char *)s + d->offset;
    if (d->is_double) {
        memcpy(at, &value, sizeof(value));
    } else {
        uint32_t u = (uint32_t)value;
        memcpy(at, &u, sizeof(u));
    }
    return EW_OK;
}

double ew_settings_get(const ew_settings *s, const char *name)
{
    const ew_setting_desc *d = setting(name);
    if (d == NULL) {
        return 0;
    }
    const void *at = (const char *)s + d->offset;
    double v = 0;
    if (d->is_double) {
        memcpy(&v, at, sizeof(v));
    } else {
        uint32_t u;
        memcpy(&u, at, sizeof(u));
        v = u;
    }
    return v;
}

ew_status ew_trial_spec_check(const ew_trial_spec *spec, ew_error *reterr)
{
    size_t n_task = strlen(spec->task);
    if (!word(spec->task, n_task)) {
        return ew_fail(reterr, EW_EINVAL, "trial: task \"%.60s\" is not a name of letters, digits, '.', '_', '-'",
                       spec->task);
    }
    EW_TRY(ew_source_parse(spec->source, NULL, NULL, NULL, reterr));
    if (spec->variant[0] != '\0' && !word(spec->variant, strlen(spec->variant))) {
        return ew_fail(reterr, EW_EINVAL, "trial: variant \"%.30s\" is not a name", spec->variant);
    }
    if (spec->method <= EW_METHOD_UNSPECIFIED || spec->method >= EW_METHOD_COUNT) {
        return ew_fail(reterr, EW_EINVAL, "trial: no method is given");
    }
    ew_settings scratch;
    for (size_t i = 0; i < ew_setting_count; i++) {
        const char *name = ew_setting_table[i].name;
        EW_TRY(ew_settings_set(&scratch, name, ew_settings_get(&spec->settings, name), reterr));
    }
    if (!(spec->budget.seconds >= 0 && spec->budget.seconds < 1e9) ||
        !(spec->budget.joules >= 0 && spec->budget.joules < 1e15)) {
        return ew_fail(reterr, EW_EINVAL, "trial: budget of %g s, %g J is out of range", spec->budget.seconds,
                       spec->budget.joules);
    }
    if (spec->repeats > EW_MEASURE_VALUES_MAX || spec->warmup > 1000) {
        return ew_fail(reterr, EW_EINVAL, "trial: at most %d repeats and 1000 warm-up runs", EW_MEASURE_VALUES_MAX);
    }
    return EW_OK;
}

uint32_t ew_trial_rag_k(const ew_trial_spec *spec)
{
    uint32_t k = spec->settings.rag_k != 0 ? spec->settings.rag_k : 2;
    return ew_method_retrieves(spec->method) ? k : 0;
}

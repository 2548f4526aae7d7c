#include "sys/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/cli.h"
#include "sys/file.h"
#include "sys/yaml_int.h"

#define NAME_MAX_BYTES 64
#define NEAREST_MAX 48 /* longer words are not compared */

struct ew_config {
    const ew_config_key *keys; /* the caller's table */
    size_t n_keys;
    unsigned char *target;    /* the caller's struct */
    ew_config_origin *origin; /* per key */
    bool *given;              /* per key: has a value */
};

/* --- nearest name --- */

static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t row[NEAREST_MAX + 1];
    for (size_t j = 0; j <= n_b; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t up = row[j];
            size_t cost = diagonal + (a[i - 1] != b[j - 1]);
            row[j] = EW_MIN(EW_MIN(up, row[j - 1]) + 1, cost);
            diagonal = up;
        }
    }
    return row[n_b];
}

const char *ew_nearest(const char *word, const char *const *candidates, size_t n)
{
    size_t size = strlen(word);
    const char *best = NULL;
    size_t best_distance = 2 + size / 3;
    for (size_t i = 0; i < n && size <= NEAREST_MAX; i++) {
        size_t candidate_size = strlen(candidates[i]);
        if (candidate_size > NEAREST_MAX) {
            continue;
        }
        size_t distance = edit_distance(word, size, candidates[i], candidate_size);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidates[i];
        }
    }
    return best;
}

/* --- values --- */

static void *field(const ew_config *c, size_t i)
{
    return c->target + c->keys[i].offset;
}

static bool to_bool(const char *text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < EW_COUNT(words); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool in_range(const ew_config_key *k, double v)
{
    return (k->min == 0 && k->max == 0) || (v >= k->min && v <= k->max);
}

static ew_status bad_value(const char *where, const ew_config_key *k, const char *text, ew_error *reterr)
{
    static const char *const wants[] = {"text",
                                        "true or false",
                                        "a whole number",
                                        "a number",
                                        "a size such as 512M or 1.5G",
                                        "a time such as 30s or 5m"};
    char range[80] = "";
    if (k->min != 0 || k->max != 0) {
        (void)snprintf(range, sizeof(range), " from %g to %g", k->min, k->max);
    }
    return ew_fail(reterr, EW_EINVAL, "%s'%s' is '%.64s', should be %s%s", where, k->name, text, wants[k->type], range);
}

/* Sets field i from text. */
static ew_status assign(ew_config *c, size_t i, const char *text, const char *where, ew_error *reterr)
{
    const ew_config_key *k = &c->keys[i];
    void *dst = field(c, i);
    int64_t i64 = 0;
    uint64_t u64 = 0;
    double f64 = 0;
    bool b = false;
    switch (k->type) {
    case EW_CONFIG_STRING: {
        char *copy = ew_str_dup(text);
        if (copy == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "no memory for the configuration");
        }
        ew_free(*(char **)dst);
        *(char **)dst = copy;
        return EW_OK;
    }
    case EW_CONFIG_BOOL:
        if (!to_bool(text, &b)) {
            break;
        }
        *(bool *)dst = b;
        return EW_OK;
    case EW_CONFIG_I64:
        if (!ew_str_to_i64(text, INT64_MIN, INT64_MAX, &i64) || !in_range(k, (double)i64)) {
            break;
        }
        *(int64_t *)dst = i64;
        return EW_OK;
    case EW_CONFIG_F64:
    case EW_CONFIG_SECONDS:
        if (!(k->type == EW_CONFIG_F64 ? ew_str_to_f64(text, &f64) : ew_str_to_seconds(text, &f64)) ||
            !in_range(k, f64)) {
            break;
        }
        *(double *)dst = f64;
        return EW_OK;
    case EW_CONFIG_BYTES:
        if (!ew_str_to_bytes(text, &u64) || !in_range(k, (double)u64)) {
            break;
        }
        *(uint64_t *)dst = u64;
        return EW_OK;
    }
    return bad_value(where, k, text, reterr);
}

static ew_status set_at(ew_config *c, size_t i, const char *text, ew_config_origin origin, const char *where,
                        ew_error *reterr)
{
    if (c->given[i] && c->origin[i] > origin) {
        return EW_OK;
    }
    EW_TRY(assign(c, i, text, where, reterr));
    c->given[i] = true;
    c->origin[i] = origin;
    return EW_OK;
}

/* "memory_limit" names "memory-limit". SIZE_MAX when there is none. */
static size_t find_key(const ew_config *c, const char *name)
{
    for (size_t i = 0; i < c->n_keys; i++) {
        const char *a = c->keys[i].name;
        const char *b = name;
        while (*a != '\0' && (*a == *b || (*a == '-' && *b == '_'))) {
            a++;
            b++;
        }
        if (*a == '\0' && *b == '\0') {
            return i;
        }
    }
    return SIZE_MAX;
}

static ew_status unknown(const ew_config *c, const char *where, const char *name, ew_error *reterr)
{
    const char *best = NULL;
    size_t best_size = SIZE_MAX;
    for (size_t i = 0; i < c->n_keys; i++) { /* one by one: no limit on the table's size */
        const char *one = c->keys[i].name;
        const char *near = ew_nearest(name, &one, 1);
        size_t distance = near != NULL ? edit_distance(name, strlen(name), near, strlen(near)) : SIZE_MAX;
        if (distance < best_size) {
            best_size = distance;
            best = near;
        }
    }
    if (best != NULL) {
        return ew_fail(reterr, EW_EINVAL, "%sunknown key '%.64s'; did you mean '%s'?", where, name, best);
    }
    return ew_fail(reterr, EW_EINVAL, "%sunknown key '%.64s'; HINT: --print-config lists all keys", where, name);
}

/* --- life --- */

ew_status ew_config_new(const ew_config_key *keys, size_t n_keys, void *target, ew_config **ret_config,
                        ew_error *reterr)
{
    EW_AUTO(ew_config) c = ew_calloc(1, sizeof(*c));
    if (c == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the configuration");
    }
    c->keys = keys;
    c->target = target;
    c->origin = ew_calloc(n_keys, sizeof(*c->origin));
    c->given = ew_calloc(n_keys, sizeof(*c->given));
    if (c->origin == NULL || c->given == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the configuration");
    }
    c->n_keys = n_keys;
    for (size_t i = 0; i < n_keys; i++) {
        if (keys[i].type == EW_CONFIG_STRING) {
            *(char **)field(c, i) = NULL;
        }
    }
    for (size_t i = 0; i < n_keys; i++) {
        if (keys[i].def != NULL) {
            EW_TRY(set_at(c, i, keys[i].def, EW_CONFIG_DEFAULT, "default: ", reterr));
        }
    }
    *ret_config = c;
    c = NULL;
    return EW_OK;
}

void ew_config_free(ew_config **config)
{
    ew_config *c = *config;
    if (c == NULL) {
        return;
    }
    for (size_t i = 0; i < c->n_keys; i++) {
        if (c->keys[i].type == EW_CONFIG_STRING) {
            ew_free(*(char **)field(c, i));
            *(char **)field(c, i) = NULL;
        }
    }
    ew_free(c->origin);
    ew_free(c->given);
    ew_free(c);
    *config = NULL;
}

/* --- sources --- */

static ew_status load_pairs(ew_config *c, const char *name, yaml_document_t *doc, const yaml_node_t *root,
                            ew_error *reterr)
{
    if (root->type != YAML_MAPPING_NODE) {
        return ew_fail(reterr, EW_EINVAL, "%s:%u: a configuration is lines of 'key: value'", name, ew__yaml_line(root));
    }
    EW_AUTO_BUF seen = {0}; /* line per key, 0 = not yet */
    unsigned *line = ew_buf_extend(&seen, c->n_keys * sizeof(*line));
    if (line == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the configuration");
    }
    memset(line, 0, c->n_keys * sizeof(*line));
    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = yaml_document_get_node(doc, p->key);
        const yaml_node_t *v = yaml_document_get_node(doc, p->value);
        char where[256];
        (void)snprintf(where, sizeof(where), "%.200s:%u: ", name, ew__yaml_line(k));
        const char *key = ew__yaml_scalar(k);
        const char *value = ew__yaml_scalar(v);
        if (key == NULL || value == NULL) {
            return ew_fail(reterr, EW_EINVAL, "%s'%.64s' should be one plain value", where, key != NULL ? key : "?");
        }
        size_t i = find_key(c, key);
        if (i == SIZE_MAX) {
            return unknown(c, where, key, reterr);
        }
        if (line[i] != 0) {
            return ew_fail(reterr, EW_EINVAL, "%skey '%s' is given twice (first in line %u)", where, key, line[i]);
        }
        line[i] = ew__yaml_line(k);
        EW_TRY(set_at(c, i, value, EW_CONFIG_FILE, where, reterr));
    }
    return EW_OK;
}

ew_status ew_config_load_yaml(ew_config *c, const char *name, const void *text, size_t size, ew_error *reterr)
{
    yaml_document_t doc;
    yaml_node_t *root = NULL;
    EW_TRY(ew__yaml_compose(name, text, size, &doc, &root, reterr));
    ew_status st = root != NULL ? load_pairs(c, name, &doc, root, reterr) : EW_OK;
    yaml_document_delete(&doc);
    return st;
}

ew_status ew_config_load_file(ew_config *c, const char *path, ew_error *reterr)
{
    EW_AUTO_BUF buf = {0};
    EW_TRY(ew_file_read(path, EW_LIMIT_YAML_BYTES, &buf, reterr));
    return ew_config_load_yaml(c, path, ew_buf_str(&buf), buf.size, reterr);
}

ew_status ew_config_load_env(ew_config *c, char *const *envp, ew_error *reterr)
{
    for (; envp != NULL && *envp != NULL; envp++) {
        const char *eq = strchr(*envp, '=');
        if (!ew_str_starts(*envp, "EW_") || eq == NULL || (size_t)(eq - *envp) - 3 >= NAME_MAX_BYTES) {
            continue;
        }
        char name[NAME_MAX_BYTES];
        size_t n = 0;
        for (const char *p = *envp + 3; p < eq; p++) {
            name[n++] = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
        }
        name[n] = '\0';
        size_t i = find_key(c, name);
        if (i != SIZE_MAX) {
            EW_TRY(set_at(c, i, eq + 1, EW_CONFIG_ENVIRONMENT, "environment: ", reterr));
        }
    }
    return EW_OK;
}

ew_status ew_config_set(ew_config *c, const char *name, const char *value, ew_error *reterr)
{
    size_t i = find_key(c, name);
    return i != SIZE_MAX ? set_at(c, i, value, EW_CONFIG_COMMAND_LINE, "", reterr) : unknown(c, "", name, reterr);
}

ew_status ew_config_check(const ew_config *c, ew_error *reterr)
{
    for (size_t i = 0; i < c->n_keys; i++) {
        if (!c->given[i]) {
            return ew_fail(reterr, EW_EINVAL, "'%s' must be set (%s)", c->keys[i].name, c->keys[i].help);
        }
    }
    return EW_OK;
}

ew_config_origin ew_config_origin_of(const ew_config *c, const char *name)
{
    size_t i = find_key(c, name);
    return i != SIZE_MAX ? c->origin[i] : EW_CONFIG_DEFAULT;
}

/* --- printing --- */

static void print_quoted(const char *s, ew_buf *out)
{
    ew_buf_addc(out, '"');
    for (; *s != '\0'; s++) {
        if (*s == '"' || *s == '\\') {
            ew_buf_addc(out, '\\');
            ew_buf_addc(out, *s);
        } else if ((unsigned char)*s < 0x20) {
            ew_buf_addf(out, "\\x%02x", (unsigned)(unsigned char)*s);
        } else {
            ew_buf_addc(out, *s);
        }
    }
    ew_buf_addc(out, '"');
}

static void print_value(const ew_config *c, size_t i, ew_buf *out)
{
    const void *src = field(c, i);
    switch (c->keys[i].type) {
    case EW_CONFIG_STRING: {
        const char *s = *(char *const *)src;
        print_quoted(s != NULL ? s : "", out);
        break;
    }
    case EW_CONFIG_BOOL:
        ew_buf_adds(out, *(const bool *)src ? "true" : "false");
        break;
    case EW_CONFIG_I64:
        ew_buf_addf(out, "%" PRId64, *(const int64_t *)src);
        break;
    case EW_CONFIG_F64:
    case EW_CONFIG_SECONDS:
        ew_buf_addf(out, "%.15g", *(const double *)src);
        break;
    case EW_CONFIG_BYTES:
        ew_buf_addf(out, "%" PRIu64, *(const uint64_t *)src);
        break;
    }
}

void ew_config_print(const ew_config *c, ew_buf *out)
{
    static const char *const origins[] = {"default", "file", "environment", "command line"};
    for (size_t i = 0; i < c->n_keys; i++) {
        if (!c->given[i]) {
            ew_buf_addf(out, "# %s: must be set\n", c->keys[i].name);
            continue;
        }
        size_t start = out->size;
        ew_buf_addf(out, "%s: ", c->keys[i].name);
        print_value(c, i, out);
        size_t width = out->size - start;
        ew_buf_addf(out, "%*s # %s\n", width < 40 ? (int)(40 - width) : 1, "", origins[c->origin[i]]);
    }
}

void ew_config_print_example(const ew_config_key *keys, size_t n_keys, ew_buf *out)
{
    for (size_t i = 0; i < n_keys; i++) {
        ew_buf_addf(out, "# %s\n", keys[i].help != NULL ? keys[i].help : keys[i].name);
        if (keys[i].def == NULL) {
            ew_buf_addf(out, "%s:\n\n", keys[i].name);
        } else {
            ew_buf_addf(out, "#%s: ", keys[i].name);
            if (keys[i].type == EW_CONFIG_STRING) {
                print_quoted(keys[i].def, out);
            } else {
                ew_buf_adds(out, keys[i].def);
            }
            ew_buf_adds(out, "\n\n");
        }
    }
}

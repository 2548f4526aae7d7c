/* Two passes: a walk over the composed document by the schema, which finds what libcyaml lets pass or reports without its
 * line (unknown keys, duplicates, doubtful booleans, aliases), then libcyaml's own load, which checks the rest. */
#include "sys/yaml.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/config.h"
#include "sys/file.h"
#include "sys/yaml_int.h"

#define SUGGEST_MAX 64

unsigned ew__yaml_line(const yaml_node_t *node)
{
    return (unsigned)node->start_mark.line + 1;
}

const char *ew__yaml_scalar(const yaml_node_t *node)
{
    if (node->type != YAML_SCALAR_NODE) {
        return NULL;
    }
    const char *s = (const char *)node->data.scalar.value;
    return strlen(s) == node->data.scalar.length ? s : NULL;
}

ew_status ew__yaml_compose(const char *name, const void *text, size_t size, yaml_document_t *ret_doc,
                           yaml_node_t **ret_root, ew_error *reterr)
{
    if (size > EW_LIMIT_YAML_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "%s: %zu bytes, the limit is %u", name, size, EW_LIMIT_YAML_BYTES);
    }
    yaml_parser_t parser;
    yaml_document_t next;
    if (yaml_parser_initialize(&parser) == 0) {
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory to read YAML", name);
    }
    yaml_parser_set_input_string(&parser, size > 0 ? text : (const unsigned char *)"", size);
    if (yaml_parser_load(&parser, ret_doc) == 0) {
        ew_status st =
            ew_fail(reterr, parser.error == YAML_MEMORY_ERROR ? EW_ENOMEM : EW_EINVAL, "%s:%zu: not valid YAML: %s",
                    name, parser.problem_mark.line + 1, parser.problem != NULL ? parser.problem : "unreadable");
        yaml_parser_delete(&parser);
        return st;
    }
    ew_status st = EW_OK;
    *ret_root = yaml_document_get_root_node(ret_doc);
    if (*ret_root != NULL) {
        if (yaml_parser_load(&parser, &next) == 0) {
            st = ew_fail(reterr, EW_EINVAL, "%s:%zu: not valid YAML: %s", name, parser.problem_mark.line + 1,
                         parser.problem != NULL ? parser.problem : "unreadable");
        } else {
            if (yaml_document_get_root_node(&next) != NULL) {
                st = ew_fail(reterr, EW_EINVAL, "%s: more than one YAML document; keep one per file", name);
            }
            yaml_document_delete(&next);
        }
    }
    if (st != EW_OK) {
        yaml_document_delete(ret_doc);
    }
    yaml_parser_delete(&parser);
    return st;
}

/* --- the walk --- */

struct walk {
    const char *name;
    yaml_document_t *doc;
    bool *seen; /* per node: reached already, so a second time means an alias */
    ew_error *reterr;
};

static ew_status walk_value(struct walk *w, const yaml_node_t *node, const cyaml_schema_value_t *schema,
                            const char *key);

static const cyaml_schema_field_t *find_field(const cyaml_schema_field_t *fields, const char *key)
{
    for (const cyaml_schema_field_t *f = fields; f->key != NULL; f++) {
        if (strcmp(f->key, key) == 0) {
            return f;
        }
    }
    return NULL;
}

static ew_status unknown_key(const struct walk *w, const yaml_node_t *node, const char *key,
                             const cyaml_schema_field_t *fields)
{
    const char *known[SUGGEST_MAX];
    char list[200] = "";
    size_t n = 0, used = 0;
    for (const cyaml_schema_field_t *f = fields; f->key != NULL && n < SUGGEST_MAX; f++) {
        known[n++] = f->key;
        if (used + strlen(f->key) + 6 < sizeof(list)) {
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used == 0 ? "" : ", ", f->key);
        }
    }
    const char *near = ew_nearest(key, known, n);
    if (near != NULL) {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: unknown key '%.64s'; did you mean '%s'?", w->name,
                       ew__yaml_line(node), key, near);
    }
    return ew_fail(w->reterr, EW_EINVAL, "%s:%u: unknown key '%.64s'; known here: %s", w->name, ew__yaml_line(node),
                   key, list);
}

static ew_status check_duplicates(const struct walk *w, const yaml_node_t *node)
{
    const yaml_node_pair_t *begin = node->data.mapping.pairs.start;
    const yaml_node_pair_t *end = node->data.mapping.pairs.top;
    for (const yaml_node_pair_t *a = begin; a < end; a++) {
        const char *key = ew__yaml_scalar(yaml_document_get_node(w->doc, a->key));
        for (const yaml_node_pair_t *b = begin; b < a; b++) {
            const yaml_node_t *first = yaml_document_get_node(w->doc, b->key);
            if (strcmp(key, ew__yaml_scalar(first)) == 0) {
                return ew_fail(w->reterr, EW_EINVAL, "%s:%u: key '%s' is given twice (first in line %u)", w->name,
                               ew__yaml_line(yaml_document_get_node(w->doc, a->key)), key, ew__yaml_line(first));
            }
        }
    }
    return EW_OK;
}

static ew_status walk_mapping(struct walk *w, const yaml_node_t *node, const cyaml_schema_field_t *fields,
                              const char *key)
{
    if (node->type != YAML_MAPPING_NODE) {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: %s%s%s should be a mapping (key: value)", w->name,
                       ew__yaml_line(node), key != NULL ? "'" : "the document", key != NULL ? key : "",
                       key != NULL ? "'" : "");
    }
    size_t n_known = 0;
    for (const cyaml_schema_field_t *f = fields; f->key != NULL; f++) {
        n_known++;
    }
    size_t n = 0;
    for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = yaml_document_get_node(w->doc, p->key);
        const char *name = ew__yaml_scalar(k);
        if (name == NULL) {
            return ew_fail(w->reterr, EW_EINVAL, "%s:%u: a key must be plain text", w->name, ew__yaml_line(k));
        }
        const cyaml_schema_field_t *f = find_field(fields, name);
        if (f == NULL) {
            return unknown_key(w, k, name, fields);
        }
        if (++n > n_known) {
            break; /* some key stands twice; bounds the search for it */
        }
    }
    if (n <= n_known) {
        EW_TRY(check_duplicates(w, node));
    } else {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: a key of this mapping is given twice", w->name,
                       ew__yaml_line(node));
    }
    for (const cyaml_schema_field_t *f = fields; f->key != NULL; f++) {
        const yaml_node_pair_t *p = node->data.mapping.pairs.start;
        while (p < node->data.mapping.pairs.top &&
               strcmp(ew__yaml_scalar(yaml_document_get_node(w->doc, p->key)), f->key) != 0) {
            p++;
        }
        if (p < node->data.mapping.pairs.top) {
            EW_TRY(walk_value(w, yaml_document_get_node(w->doc, p->value), &f->value, f->key));
        } else if ((f->value.flags & CYAML_FLAG_OPTIONAL) == 0) {
            return ew_fail(w->reterr, EW_EINVAL, "%s:%u: key '%s' is missing%s%s%s", w->name, ew__yaml_line(node),
                           f->key, key != NULL ? " in '" : "", key != NULL ? key : "", key != NULL ? "'" : "");
        }
    }
    return EW_OK;
}

static ew_status walk_enum(const struct walk *w, const char *text, unsigned line, const cyaml_schema_value_t *schema,
                           const char *key)
{
    char list[200] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < schema->enumeration.count; i++) {
        const char *name = schema->enumeration.strings[i].str;
        if (strcmp(name, text) == 0) {
            return EW_OK;
        }
        if (used + strlen(name) + 6 < sizeof(list)) {
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used == 0 ? "" : ", ", name);
        }
    }
    return ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' is '%.64s', which is none of: %s", w->name, line, key, text,
                   list);
}

static ew_status walk_scalar(const struct walk *w, const yaml_node_t *node, const cyaml_schema_value_t *schema,
                             const char *key)
{
    static const char *const bools[] = {"true", "yes", "on", "1", "false", "no", "off", "0"};
    const char *text = ew__yaml_scalar(node);
    unsigned line = ew__yaml_line(node);
    if (text == NULL) {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' should be one value, not a list or a mapping", w->name, line,
                       key);
    }
    double number;
    int64_t i;
    uint64_t u;
    bool ok = true;
    const char *want = "";
    switch (schema->type) {
    case CYAML_BOOL:
        ok = false;
        for (size_t b = 0; b < EW_COUNT(bools) && !ok; b++) {
            ok = strcasecmp(text, bools[b]) == 0;
        }
        want = "true or false";
        break;
    case CYAML_FLOAT:
        ok = ew_str_to_f64(text, &number);
        want = "a number";
        break;
    case CYAML_INT:
        ok = ew_str_to_i64(text, INT64_MIN, INT64_MAX, &i);
        want = "a whole number";
        break;
    case CYAML_UINT:
        ok = ew_str_to_u64(text, UINT64_MAX, &u);
        want = "a whole number, 0 or more";
        break;
    case CYAML_STRING:
        if (strlen(text) < schema->string.min || strlen(text) > schema->string.max) {
            return ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' has %zu bytes, should have %u to %u", w->name, line, key,
                           strlen(text), schema->string.min, schema->string.max);
        }
        break;
    case CYAML_ENUM:
        return walk_enum(w, text, line, schema, key);
    default:
        break;
    }
    return ok ? EW_OK
              : ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' is '%.64s', should be %s", w->name, line, key, text, want);
}

static ew_status check_count(const struct walk *w, const yaml_node_t *node, const cyaml_schema_value_t *schema,
                             const char *key)
{
    size_t n = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (n < schema->sequence.min || n > schema->sequence.max) {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' has %zu entries, should have %u to %u", w->name,
                       ew__yaml_line(node), key, n, schema->sequence.min, schema->sequence.max);
    }
    return EW_OK;
}

static ew_status walk_value(struct walk *w, const yaml_node_t *node, const cyaml_schema_value_t *schema,
                            const char *key)
{
    size_t index = (size_t)(node - w->doc->nodes.start);
    if (w->seen[index]) {
        return ew_fail(w->reterr, EW_EINVAL, "%s:%u: aliases (&x, *x) are not supported; write the value out", w->name,
                       ew__yaml_line(node));
    }
    w->seen[index] = true;
    if (((unsigned)schema->flags & (unsigned)CYAML_FLAG_POINTER_NULL & ~(unsigned)CYAML_FLAG_POINTER) != 0 &&
        node->type == YAML_SCALAR_NODE) {
        return EW_OK; /* may be null: libcyaml decides */
    }
    switch (schema->type) {
    case CYAML_MAPPING:
        return walk_mapping(w, node, schema->mapping.fields, key);
    case CYAML_SEQUENCE:
    case CYAML_SEQUENCE_FIXED:
        if (node->type != YAML_SEQUENCE_NODE) {
            return ew_fail(w->reterr, EW_EINVAL, "%s:%u: '%s' should be a list", w->name, ew__yaml_line(node),
                           key != NULL ? key : "the document");
        }
        EW_TRY(check_count(w, node, schema, key != NULL ? key : "the document"));
        for (const yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
            EW_TRY(walk_value(w, yaml_document_get_node(w->doc, *i), schema->sequence.entry, key));
        }
        return EW_OK;
    case CYAML_FLAGS:
    case CYAML_BITFIELD:
    case CYAML_IGNORE:
        return EW_OK;
    default:
        return walk_scalar(w, node, schema, key != NULL ? key : "the document");
    }
}

/* --- libcyaml --- */

struct capture {
    char first[200]; /* the first error */
    char place[120]; /* the innermost "in … (line: 3, column: 4)" */
};

static EW_PRINTF(3, 0) void capture_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    struct capture *c = ctx;
    char line[256];
    (void)level;
    (void)vsnprintf(line, sizeof(line), fmt, args);
    line[strcspn(line, "\n")] = '\0';
    if (ew_str_starts(line, "Load: Backtrace")) {
        return;
    }
    if (ew_str_starts(line, "  in ")) {
        if (c->place[0] == '\0') {
            (void)ew_str_copy(c->place, sizeof(c->place), line + 2);
        }
    } else if (c->first[0] == '\0') {
        (void)ew_str_copy(c->first, sizeof(c->first), ew_str_starts(line, "Load: ") ? line + 6 : line);
    }
}

static void *config_mem(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size == 0) {
        ew_free(ptr);
        return NULL;
    }
    return ew_realloc(ptr, 1, size);
}

static cyaml_config_t config_of(struct capture *c)
{
    return (cyaml_config_t){.log_fn = capture_log,
                            .log_ctx = c,
                            .mem_fn = config_mem,
                            .log_level = CYAML_LOG_WARNING,
                            .flags = CYAML_CFG_NO_ALIAS};
}

static ew_status check_document(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                                ew_error *reterr)
{
    yaml_document_t doc;
    yaml_node_t *root = NULL;
    EW_TRY(ew__yaml_compose(name, text, size, &doc, &root, reterr));
    ew_status st;
    if (root == NULL) {
        st = ew_fail(reterr, EW_EINVAL, "%s: the file is empty", name);
    } else {
        struct walk w = {name, &doc, ew_calloc((size_t)(doc.nodes.top - doc.nodes.start), sizeof(bool)), reterr};
        st = w.seen != NULL ? walk_value(&w, root, schema, NULL) : ew_fail(reterr, EW_ENOMEM, "%s: no memory", name);
        ew_free(w.seen);
    }
    yaml_document_delete(&doc);
    return st;
}

static ew_status load(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                      void **ret_data, unsigned *ret_n, ew_error *reterr)
{
    EW_TRY(check_document(name, text, size, schema, reterr));
    struct capture capture = {"", ""};
    cyaml_config_t config = config_of(&capture);
    cyaml_data_t *data = NULL;
    unsigned n = 0;
    cyaml_err_t err = cyaml_load_data(text, size, &config, schema, &data, ret_n != NULL ? &n : NULL);
    if (err == CYAML_ERR_OOM) {
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory to read YAML", name);
    }
    if (err != CYAML_OK) {
        return ew_fail(reterr, EW_EINVAL, "%s: %s%s%s", name,
                       capture.first[0] != '\0' ? capture.first : cyaml_strerror(err),
                       capture.place[0] != '\0' ? " " : "", capture.place);
    }
    if (data == NULL) {
        return ew_fail(reterr, EW_EINVAL, "%s: the file sets nothing", name);
    }
    *ret_data = data;
    if (ret_n != NULL) {
        *ret_n = n;
    }
    return EW_OK;
}

ew_status ew_yaml_load(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                       void **ret_data, ew_error *reterr)
{
    return load(name, text, size, schema, ret_data, NULL, reterr);
}

ew_status ew_yaml_load_seq(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                           void **ret_data, unsigned *ret_n, ew_error *reterr)
{
    return load(name, text, size, schema, ret_data, ret_n, reterr);
}

ew_status ew_yaml_load_file(const char *path, const cyaml_schema_value_t *schema, void **ret_data, ew_error *reterr)
{
    EW_AUTO_BUF buf = {0};
    EW_TRY(ew_file_read(path, EW_LIMIT_YAML_BYTES, &buf, reterr));
    return load(path, ew_buf_str(&buf), buf.size, schema, ret_data, NULL, reterr);
}

void ew_yaml_free(const cyaml_schema_value_t *schema, void **data)
{
    if (*data != NULL) {
        struct capture capture = {"", ""};
        cyaml_config_t config = config_of(&capture);
        (void)cyaml_free(&config, schema, *data, 0);
        *data = NULL;
    }
}

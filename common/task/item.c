/* JSON forms of a history record (task/item.h says which). Parsing by jansson; the readers below only look for known keys. */
#include "task/item_int.h"

#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "text/json.h"

void ew_item_release(ew_item *item)
{
    ew_free(item->id);
    ew_free(item->user);
    ew_free(item->input);
    ew_free(item->output);
    *item = (ew_item){0};
}

void ew_items_release(ew_items *items)
{
    for (size_t i = 0; i < items->n; i++) {
        ew_item_release(&items->item[i]);
    }
    ew_free(items->item);
    *items = (ew_items){0};
}

ew_status ew_items_take(ew_items *items, ew_item *item, ew_error *reterr)
{
    ew_status st =
        ew_grow((void **)&items->item, &items->cap, items->n + 1, sizeof(*items->item), EW_LIMIT_PROFILE_ITEMS);
    if (st == EW_ELIMIT) {
        return ew_fail(reterr, st, "more than %u items", EW_LIMIT_PROFILE_ITEMS);
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory for %zu items", items->n + 1);
    }
    items->item[items->n++] = *item;
    *item = (ew_item){0};
    return EW_OK;
}

ew_status ew_items_add(ew_items *items, const ew_item *item, ew_error *reterr)
{
    ew_item copy = {ew_str_dup(item->id), ew_str_dup(item->user), ew_str_dup(item->input), ew_str_dup(item->output),
                    item->order};
    if (copy.id == NULL || copy.user == NULL || copy.input == NULL || copy.output == NULL) {
        ew_item_release(&copy);
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu items", items->n + 1);
    }
    ew_status st = ew_items_take(items, &copy, reterr);
    if (st != EW_OK) {
        ew_item_release(&copy);
    }
    return st;
}

void ew_item_content_hash(const ew_item *item, char hex[static 65])
{
    uint8_t digest[EW_SHA256_SIZE];
    char sizes[64];
    int n = snprintf(sizes, sizeof(sizes), "%zu/%zu/", strlen(item->input), strlen(item->output));
    ew_sha256_stream *h = ew_sha256_stream_new();
    ew_sha256_stream_add(h, sizes, (size_t)n);
    ew_sha256_stream_add(h, item->input, strlen(item->input));
    ew_sha256_stream_add(h, item->output, strlen(item->output));
    ew_sha256_stream_end(h, digest);
    ew_sha256_stream_free(&h);
    ew_hex_encode(digest, sizeof(digest), hex);
}

void ew_item_write(const ew_item *item, ew_buf *out)
{
    ew_buf_adds(out, "{\"id\":");
    ew_json_quote(item->id, strlen(item->id), out);
    if (item->user[0] != '\0') {
        ew_buf_adds(out, ",\"user\":");
        ew_json_quote(item->user, strlen(item->user), out);
    }
    ew_buf_addf(out, ",\"order\":%llu,\"input\":", (unsigned long long)item->order);
    ew_json_quote(item->input, strlen(item->input), out);
    ew_buf_adds(out, ",\"output\":");
    ew_json_quote(item->output, strlen(item->output), out);
    ew_buf_adds(out, "}\n");
}

/* --- reading the forms --- */

/* Text of a string, number or boolean; false for anything else. */
static bool scalar(const json_t *j, ew_buf *out)
{
    if (json_is_string(j)) {
        ew_buf_add(out, json_string_value(j), json_string_length(j));
    } else if (json_is_integer(j)) {
        ew_buf_addf(out, "%lld", (long long)json_integer_value(j));
    } else if (json_is_real(j)) {
        ew_buf_addf(out, "%.15g", json_real_value(j));
    } else if (json_is_boolean(j)) {
        ew_buf_adds(out, json_is_true(j) ? "true" : "false");
    } else {
        return false;
    }
    return true;
}

/* The first of the keys that is there and a scalar (or an array that starts with a string). */
static bool first_of(const json_t *obj, const char *const *keys, size_t n, ew_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *j = json_object_get(obj, keys[i]);
        if (json_is_array(j)) {
            j = json_array_get(j, 0);
        }
        if (j != NULL && scalar(j, out)) {
            return true;
        }
    }
    return false;
}

static const char *const output_keys[] = {"output", "answer", "target", "response", "completion", "answers"};

/* The pairs of keys that make a record, first fit first. before (may be NULL) is put in front of the input. */
typedef struct form {
    const char *before, *input, *output; /* output NULL = any of output_keys */
} form;

static const form forms[] = {
    {"instruction", "input", NULL}, {NULL, "input", NULL},      {NULL, "instruction", NULL},
    {NULL, "prompt", NULL},         {NULL, "prompt", "chosen"}, {"context", "question", NULL},
    {NULL, "question", NULL},       {NULL, "text", "label"},    {NULL, "sentence", "label"},
    {NULL, "text", "score"},        {NULL, "text", "title"},    {NULL, "abstract", "title"},
    {NULL, "description", "tag"},   {NULL, "text", "category"}, {NULL, "input", "label"},
    {NULL, "text", NULL},
};

static bool form_read(const json_t *obj, const form *f, ew_buf *input, ew_buf *output)
{
    ew_buf_clear(input);
    ew_buf_clear(output);
    if (f->before != NULL && (!first_of(obj, &f->before, 1, input) || input->size == 0)) {
        return false;
    }
    size_t before = input->size;
    if (!first_of(obj, &f->input, 1, input)) {
        return false;
    }
    if (before != 0 && input->size > before) { /* instruction, newline, input */
        EW_AUTO_BUF joined = {0};
        ew_buf_add(&joined, input->data, before);
        ew_buf_addc(&joined, '\n');
        ew_buf_add(&joined, input->data + before, input->size - before);
        ew_buf_clear(input);
        ew_buf_add(input, ew_buf_str(&joined), joined.size);
    }
    return f->output != NULL ? first_of(obj, &f->output, 1, output)
                             : first_of(obj, output_keys, EW_COUNT(output_keys), output);
}

static const char *turn_text(const json_t *turn, const char *a, const char *b)
{
    const char *s = json_string_value(json_object_get(turn, a));
    return s != NULL ? s : json_string_value(json_object_get(turn, b));
}

static bool is_assistant(const json_t *turn)
{
    const char *role = turn_text(turn, "role", "from");
    return role != NULL && (ew_str_eq(role, "assistant") || ew_str_eq(role, "gpt") || ew_str_eq(role, "model"));
}

/* The last assistant turn and all before it. */
static bool messages_read(const json_t *obj, ew_buf *input, ew_buf *output)
{
    const json_t *list = json_object_get(obj, "messages");
    list = list != NULL ? list : json_object_get(obj, "conversations");
    size_t last = json_array_size(list);
    while (last > 0 && !is_assistant(json_array_get(list, last - 1))) {
        last--;
    }
    if (last < 2) {
        return false;
    }
    ew_buf_clear(input);
    ew_buf_clear(output);
    const char *answer = turn_text(json_array_get(list, last - 1), "content", "value");
    if (answer == NULL) {
        return false;
    }
    ew_buf_adds(output, answer);
    for (size_t i = 0; i + 1 < last; i++) {
        const json_t *turn = json_array_get(list, i);
        const char *text = turn_text(turn, "content", "value");
        const char *role = turn_text(turn, "role", "from");
        if (text == NULL || role == NULL) {
            return false;
        }
        if (last > 2) {
            ew_buf_addf(input, "%s%s: ", i != 0 ? "\n" : "", role);
        }
        ew_buf_adds(input, text);
    }
    return true;
}

/* Removes blanks at both ends, in place. */
static void trim(ew_buf *b)
{
    size_t n = 0;
    while (b->size > 0 && strchr(" \t\r\n", b->data[b->size - 1]) != NULL) {
        b->data[--b->size] = '\0';
    }
    while (n < b->size && strchr(" \t\r\n", b->data[n]) != NULL) {
        n++;
    }
    ew_buf_consume(b, n);
}

static void keys_of(const json_t *obj, ew_buf *out)
{
    const char *key;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)obj, key, value)
    {
        if (n < 8) {
            ew_buf_addf(out, "%s%.32s", n != 0 ? ", " : "", key);
        }
        n++;
    }
    if (n > 8) {
        ew_buf_adds(out, ", …");
    } else if (n == 0) {
        ew_buf_adds(out, "none");
    }
}

static ew_status content_read(const json_t *obj, const char *where, ew_buf *input, ew_buf *output, ew_error *reterr)
{
    bool found = messages_read(obj, input, output);
    for (size_t i = 0; !found && i < EW_COUNT(forms); i++) {
        found = form_read(obj, &forms[i], input, output);
    }
    EW_TRY(ew_buf_check(input, reterr));
    EW_TRY(ew_buf_check(output, reterr));
    if (!found) {
        EW_AUTO_BUF keys = {0};
        keys_of(obj, &keys);
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s: no known pair of keys (found: %s). HINT: give each line \"input\" and \"output\", "
                       "\"prompt\" and \"completion\", \"text\" and \"label\", or \"messages\"",
                       where, ew_buf_str(&keys));
    }
    return EW_OK;
}

static ew_status check_texts(ew_buf *input, ew_buf *output, const char *where, ew_error *reterr)
{
    trim(input);
    trim(output);
    if (input->size == 0 || output->size == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the %s is empty", where, input->size == 0 ? "input" : "output");
    }
    if (strlen(input->data) != input->size || strlen(output->data) != output->size) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the text holds a NUL character", where);
    }
    return EW_OK;
}

ew_status ew__item_make(const json_t *obj, const char *where, ew_buf *input, ew_buf *output, ew_item *ret_item,
                        ew_error *reterr)
{
    static const char *const id_keys[] = {"id", "_id", "uuid", "key"};
    static const char *const user_keys[] = {"user", "user_id"};
    EW_AUTO_BUF id = {0};
    EW_AUTO_BUF user = {0};
    EW_TRY(check_texts(input, output, where, reterr));
    bool has_id = first_of(obj, id_keys, EW_COUNT(id_keys), &id) && id.size != 0;
    (void)first_of(obj, user_keys, EW_COUNT(user_keys), &user);
    int64_t order = 0;
    EW_TRY(ew_json_opt_i64(obj, where, "order", 0, INT64_MAX, &order, reterr));
    if (id.size > EW__ITEM_ID_MAX || user.size > EW__ITEM_ID_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%s: the %s is longer than %u bytes", where,
                       id.size > EW__ITEM_ID_MAX ? "id" : "user", EW__ITEM_ID_MAX);
    }
    ew_item item = {NULL, ew_str_dup(ew_buf_str(&user)), ew_str_dup(input->data), ew_str_dup(output->data),
                    (uint64_t)order};
    if (item.user != NULL && item.input != NULL && item.output != NULL) {
        char hex[65];
        if (!has_id) {
            ew_item_content_hash(&item, hex);
            hex[16] = '\0';
        }
        item.id = ew_str_dup(has_id ? ew_buf_str(&id) : hex);
    }
    if (item.id == NULL) {
        ew_item_release(&item);
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory for the item", where);
    }
    *ret_item = item;
    return EW_OK;
}

ew_status ew__item_from(const json_t *obj, const char *where, ew_item *ret_item, ew_error *reterr)
{
    if (!json_is_object(obj)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object, is %s", where, ew_json_kind(obj));
    }
    EW_AUTO_BUF input = {.max = EW_LIMIT_JSONL_LINE_BYTES * 2};
    EW_AUTO_BUF output = {.max = EW_LIMIT_JSONL_LINE_BYTES * 2};
    EW_TRY(content_read(obj, where, &input, &output, reterr));
    return ew__item_make(obj, where, &input, &output, ret_item, reterr);
}

ew_status ew_item_parse(const char *where, const void *line, size_t size, ew_item *ret_item, ew_error *reterr)
{
    if (size > EW_LIMIT_JSONL_LINE_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "%s: the line is longer than %u bytes", where, EW_LIMIT_JSONL_LINE_BYTES);
    }
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_json_load(where, line, size, &j, reterr));
    return ew__item_from(j, where, ret_item, reterr);
}

static ew_status id_key(const ew_item *item, ew_buf *key, ew_error *reterr)
{
    ew_buf_clear(key);
    ew_buf_addf(key, "%zu/%s/%s", strlen(item->user), item->user, item->id);
    return ew_buf_check(key, reterr);
}

static bool same_content(const ew_item *a, const ew_item *b)
{
    return strcmp(a->input, b->input) == 0 && strcmp(a->output, b->output) == 0;
}

/* A record may hold more than one line does: it is one of a profile's, or its line had fewer escapes. */
static ew_status check_line(const ew_item *item, const char *where, ew_error *reterr)
{
    EW_AUTO_BUF line = {.max = (size_t)EW_LIMIT_JSONL_LINE_BYTES * 32};
    if (strlen(item->input) + strlen(item->output) < EW_LIMIT_JSONL_LINE_BYTES / 8) {
        return EW_OK; /* however it is escaped */
    }
    ew_item_write(item, &line);
    EW_TRY(ew_buf_check(&line, reterr));
    return line.size <= EW_LIMIT_JSONL_LINE_BYTES
               ? EW_OK
               : ew_fail(reterr, EW_ELIMIT, "%s: the item takes more than %u bytes", where, EW_LIMIT_JSONL_LINE_BYTES);
}

ew_status ew__items_add_unique(ew_items *items, ew_map *ids, const char *where, ew_item *item, ew_error *reterr)
{
    EW_AUTO_BUF key = {0};
    EW_TRY(check_line(item, where, reterr));
    EW_TRY(id_key(item, &key, reterr));
    uintptr_t at = (uintptr_t)ew_map_get(ids, key.data, key.size);
    if (at != 0 && !same_content(&items->item[at - 1], item)) {
        EW_AUTO_BUF id = {0};
        char hex[65];
        ew_item_content_hash(item, hex);
        if (strlen(item->id) + 9 <= EW__ITEM_ID_MAX) {
            ew_buf_addf(&id, "%s~", item->id);
            hex[8] = '\0';
        }
        ew_buf_adds(&id, hex);
        EW_TRY(ew_buf_check(&id, reterr));
        ew_free(item->id);
        item->id = ew_buf_take(&id);
        EW_TRY(id_key(item, &key, reterr));
        at = (uintptr_t)ew_map_get(ids, key.data, key.size);
    }
    if (at != 0) {
        return EW_OK; /* exact repetition; the caller releases it */
    }
    EW_TRY(ew_items_take(items, item, reterr));
    ew_status st = ew_map_add(ids, key.data, key.size, (void *)(uintptr_t)items->n);
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "%s: no memory for the item", where);
}

static ew_status read_all(ew_jsonl *r, ew_items *items, ew_error *reterr)
{
    EW_AUTO(ew_map) ids = NULL;
    if (ew_map_new(&ids) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the items");
    }
    for (size_t position = 0;; position++) {
        EW_AUTO_JSON j = NULL;
        EW_TRY(ew_jsonl_next(r, &j, reterr));
        if (j == NULL) {
            return EW_OK;
        }
        EW_CLEANUP(ew_item_release) ew_item item = {0};
        EW_TRY(ew__item_from(j, ew_jsonl_where(r), &item, reterr));
        if (json_object_get(j, "order") == NULL) {
            item.order = position;
        }
        EW_TRY(ew__items_add_unique(items, ids, ew_jsonl_where(r), &item, reterr));
    }
}

static ew_status finish(ew_jsonl *r, ew_items *ret_items, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    EW_TRY(read_all(r, &items, reterr));
    *ret_items = items;
    items = (ew_items){0};
    return EW_OK;
}

ew_status ew_items_read(const char *path, ew_items *ret_items, ew_error *reterr)
{
    EW_AUTO(ew_jsonl) r = NULL;
    EW_TRY(ew_jsonl_open(path, &r, reterr));
    return finish(r, ret_items, reterr);
}

ew_status ew_items_read_mem(const char *name, const void *text, size_t size, ew_items *ret_items, ew_error *reterr)
{
    EW_AUTO(ew_jsonl) r = NULL;
    EW_TRY(ew_jsonl_open_mem(name, text, size, &r, reterr));
    return finish(r, ret_items, reterr);
}

#include "task/import.h"

#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "task/import_int.h"
#include "task/item_int.h"
#include "text/json.h"

static const char *const format_names[EW_IMPORT_COUNT] = {"auto", "records", "chat", "alpaca", "sharegpt", "lamp"};

const char *ew_import_format_name(ew_import_format f)
{
    return (unsigned)f < EW_IMPORT_COUNT ? format_names[f] : "unknown";
}

ew_status ew_import_format_parse(const char *name, ew_import_format *ret_format, ew_error *reterr)
{
    for (int f = 0; f < EW_IMPORT_COUNT; f++) {
        if (ew_str_eq(name, format_names[f])) {
            *ret_format = (ew_import_format)f;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EINVAL, "unknown format '%.32s': auto, records, chat, alpaca, sharegpt or lamp", name);
}

typedef struct importer {
    const ew_import_opt *opt;
    ew__import_reader *reader;
    ew_items items;
    ew_map *ids;
    ew_import_report report;
    size_t position;
} importer;

static ew_import_format format_of(const json_t *obj)
{
    if (json_is_array(json_object_get(obj, "messages"))) {
        return EW_IMPORT_CHAT;
    }
    if (json_is_array(json_object_get(obj, "conversations"))) {
        return EW_IMPORT_SHAREGPT;
    }
    if (json_is_array(json_object_get(obj, "profile"))) {
        return EW_IMPORT_LAMP;
    }
    if (json_is_string(json_object_get(obj, "instruction")) && json_is_string(json_object_get(obj, "output"))) {
        return EW_IMPORT_ALPACA;
    }
    return EW_IMPORT_RECORDS;
}

/* Takes the item; one that is there already is dropped. */
static ew_status keep(importer *im, const json_t *obj, ew_item *item, ew_error *reterr)
{
    size_t before = im->items.n;
    if (json_object_get(obj, "order") == NULL) {
        item->order = im->position;
    }
    ew_status st = ew__items_add_unique(&im->items, im->ids, im->reader->where, item, reterr);
    if (st == EW_OK) {
        im->position++;
        im->report.n_repeated += im->items.n == before;
    }
    ew_item_release(item);
    return st;
}

/* ---- conversations ---- */

typedef enum role {
    ROLE_SYSTEM,
    ROLE_USER,
    ROLE_ASSISTANT,
    ROLE_TOOL,
    ROLE_UNKNOWN
} role;

static role role_of(const char *name)
{
    static const struct {
        const char *name;
        role role;
    } table[] = {{"system", ROLE_SYSTEM},   {"developer", ROLE_SYSTEM},    {"user", ROLE_USER},
                 {"human", ROLE_USER},      {"assistant", ROLE_ASSISTANT}, {"gpt", ROLE_ASSISTANT},
                 {"model", ROLE_ASSISTANT}, {"chatgpt", ROLE_ASSISTANT},   {"bing", ROLE_ASSISTANT},
                 {"bard", ROLE_ASSISTANT},  {"tool", ROLE_TOOL},           {"function", ROLE_TOOL},
                 {"observation", ROLE_TOOL}};
    for (size_t i = 0; i < EW_COUNT(table); i++) {
        if (ew_str_eq(name, table[i].name)) {
            return table[i].role;
        }
    }
    return ROLE_UNKNOWN;
}

typedef struct turn {
    role role;
    ew_buf text;
} turn;

typedef struct conversation {
    turn *turns;
    size_t n;
} conversation;

static void conversation_release(conversation *c)
{
    for (size_t i = 0; i < c->n; i++) {
        ew_buf_release(&c->turns[i].text);
    }
    ew_free(c->turns);
    *c = (conversation){0};
}

/* A string, or an array of {"type": "text", "text"}. */
static ew_status text_of(const json_t *j, const char *where, size_t number, ew_buf *out, ew_error *reterr)
{
    size_t i;
    json_t *part;
    out->max = EW_LIMIT_JSONL_LINE_BYTES * 2;
    if (json_is_string(j)) {
        ew_buf_add(out, json_string_value(j), json_string_length(j));
        return ew_buf_check(out, reterr);
    }
    if (!json_is_array(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: turn %zu has no text", where, number);
    }
    json_array_foreach((json_t *)(uintptr_t)j, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!json_is_string(text) || (type != NULL && !ew_str_eq(type, "text"))) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: turn %zu has a part that is no text", where, number);
        }
        ew_buf_add(out, json_string_value(text), json_string_length(text));
    }
    return ew_buf_check(out, reterr);
}

static ew_status read_turn(const json_t *j, const char *where, size_t number, turn *ret_turn, ew_error *reterr)
{
    const char *name = json_string_value(json_object_get(j, "role"));
    name = name != NULL ? name : json_string_value(json_object_get(j, "from"));
    const json_t *text = json_object_get(j, "content");
    text = text != NULL ? text : json_object_get(j, "value");
    if (name == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: turn %zu has neither \"role\" nor \"from\"", where, number);
    }
    ret_turn->role = role_of(name);
    if (ret_turn->role == ROLE_UNKNOWN) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: turn %zu has the unknown role '%.32s'", where, number, name);
    }
    return text_of(text, where, number, &ret_turn->text, reterr);
}

static ew_status read_conversation(const json_t *list, const char *where, conversation *c, ew_error *reterr)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > EW_LIMIT_IMPORT_TURNS) {
        return ew_fail(reterr, n == 0 ? EW_ECORRUPT : EW_ELIMIT, "%s: a conversation of %zu turns (1 to %u are read)",
                       where, n, EW_LIMIT_IMPORT_TURNS);
    }
    c->turns = ew_calloc(n, sizeof(*c->turns));
    if (c->turns == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory for %zu turns", where, n);
    }
    c->n = n;
    for (size_t i = 0; i < n; i++) {
        EW_TRY(read_turn(json_array_get(list, i), where, i + 1, &c->turns[i], reterr));
    }
    return EW_OK;
}

/* turns[0, n): one as it is, several as lines with their roles; the oldest are left out of what would be too long. */
static void render(const conversation *c, size_t n, ew_buf *out, bool *ret_shortened)
{
    static const char *const names[] = {"system", "user", "assistant", "tool"};
    size_t first = n - 1;
    size_t bytes = c->turns[first].text.size;
    while (first > 0 && bytes + c->turns[first - 1].text.size + 16 <= EW_LIMIT_IMPORT_CONTEXT_BYTES) {
        first--;
        bytes += c->turns[first].text.size + 16;
    }
    *ret_shortened = first > 0;
    out->max = EW_LIMIT_JSONL_LINE_BYTES * 2;
    for (size_t i = first; i < n; i++) {
        const turn *t = &c->turns[i];
        if (n > 1) {
            ew_buf_addf(out, "%s%s: ", i > first ? "\n" : "", names[t->role]);
        }
        ew_buf_add(out, ew_buf_str(&t->text), t->text.size);
    }
}

/* The item whose answer is turns[at]. */
static ew_status add_turn(importer *im, const json_t *obj, conversation *c, size_t at, size_t number, ew_error *reterr)
{
    EW_AUTO_BUF input = {0};
    EW_AUTO_BUF output = {.max = EW_LIMIT_JSONL_LINE_BYTES * 2};
    ew_item item = {0};
    bool shortened = false;
    render(c, at, &input, &shortened);
    EW_TRY(ew_buf_check(&input, reterr));
    ew_buf_add(&output, ew_buf_str(&c->turns[at].text), c->turns[at].text.size);
    EW_TRY(ew_buf_check(&output, reterr));
    EW_TRY(ew__item_make(obj, im->reader->where, &input, &output, &item, reterr));
    if (number > 1) {
        EW_AUTO_BUF id = {0};
        ew_buf_addf(&id, "%s#%zu", item.id, number);
        if (id.size > EW__ITEM_ID_MAX) {
            char hex[65];
            ew_item_content_hash(&item, hex);
            ew_buf_clear(&id);
            ew_buf_adds(&id, hex);
        }
        char *named = ew_buf_take(&id);
        if (named == NULL) {
            ew_item_release(&item);
            return ew_fail(reterr, EW_ENOMEM, "%s: no memory for the item", im->reader->where);
        }
        ew_free(item.id);
        item.id = named;
    }
    im->report.n_shortened += shortened;
    return keep(im, obj, &item, reterr);
}

static ew_status add_conversation(importer *im, const json_t *obj, const json_t *list, ew_error *reterr)
{
    EW_CLEANUP(conversation_release) conversation c = {0};
    EW_TRY(read_conversation(list, im->reader->where, &c, reterr));
    size_t last = 0;
    for (size_t i = 1; i < c.n; i++) {
        last = c.turns[i].role == ROLE_ASSISTANT ? i : last;
    }
    if (last == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: no turn of the assistant answers another turn", im->reader->where);
    }
    if (!im->opt->each_turn) {
        return add_turn(im, obj, &c, last, 1, reterr);
    }
    size_t number = 0;
    for (size_t i = 1; i <= last; i++) {
        if (c.turns[i].role == ROLE_ASSISTANT) {
            EW_TRY(add_turn(im, obj, &c, i, ++number, reterr));
        }
    }
    return EW_OK;
}

/* ---- the other forms ---- */

static ew_status add_alpaca(importer *im, const json_t *obj, ew_error *reterr)
{
    const char *where = im->reader->where;
    const char *instruction = NULL;
    const char *input = "";
    const char *output = NULL;
    EW_AUTO_BUF in = {.max = EW_LIMIT_JSONL_LINE_BYTES * 2};
    EW_AUTO_BUF out = {.max = EW_LIMIT_JSONL_LINE_BYTES * 2};
    ew_item item = {0};
    EW_TRY(ew_json_get_str(obj, where, "instruction", &instruction, reterr));
    EW_TRY(ew_json_opt_str(obj, where, "input", &input, reterr));
    EW_TRY(ew_json_get_str(obj, where, "output", &output, reterr));
    ew_buf_add(&in, instruction, json_string_length(json_object_get(obj, "instruction")));
    if (input[0] != '\0') {
        ew_buf_addc(&in, '\n');
        ew_buf_add(&in, input, json_string_length(json_object_get(obj, "input")));
    }
    ew_buf_add(&out, output, json_string_length(json_object_get(obj, "output")));
    EW_TRY(ew_buf_check(&in, reterr));
    EW_TRY(ew_buf_check(&out, reterr));
    EW_TRY(ew__item_make(obj, where, &in, &out, &item, reterr));
    return keep(im, obj, &item, reterr);
}

static ew_status add_record(importer *im, const json_t *obj, ew_error *reterr)
{
    ew_item item = {0};
    EW_TRY(ew__item_from(obj, im->reader->where, &item, reterr));
    return keep(im, obj, &item, reterr);
}

static bool is_user(const json_t *obj, const char *user)
{
    const json_t *id = json_object_get(obj, "id");
    char number[32];
    (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(id));
    return ew_str_eq(json_is_integer(id) ? number : json_string_value(id), user);
}

static ew_status add_profile(importer *im, const json_t *obj, ew_error *reterr)
{
    const char *where = im->reader->where;
    const json_t *list = json_object_get(obj, "profile");
    size_t i;
    json_t *entry;
    if (!json_is_array(list)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: has no \"profile\"", where);
    }
    if (im->opt->user != NULL && !is_user(obj, im->opt->user)) {
        return EW_OK;
    }
    if (im->opt->user == NULL && im->report.n_records > 1) {
        return ew_fail(reterr, EW_EINVAL,
                       "%s: the file holds the profiles of several users. HINT: say which one: --user ID", where);
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, entry)
    {
        EW_TRY(add_record(im, entry, reterr));
    }
    return EW_OK;
}

static ew_status add(importer *im, const json_t *obj, ew_error *reterr)
{
    const char *where = im->reader->where;
    json_t *list = NULL;
    if (!json_is_object(obj)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object, is %s", where, ew_json_kind(obj));
    }
    ew_import_format f = im->opt->format != EW_IMPORT_AUTO ? im->opt->format : format_of(obj);
    if (im->report.n_records == 1) {
        im->report.format = f;
    }
    if (f != EW_IMPORT_LAMP && im->reader->record.size > EW_LIMIT_JSONL_LINE_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "%s: the record is longer than %u bytes", where, EW_LIMIT_JSONL_LINE_BYTES);
    }
    switch (f) {
    case EW_IMPORT_CHAT:
    case EW_IMPORT_SHAREGPT:
        EW_TRY(ew_json_get_arr(obj, where, f == EW_IMPORT_CHAT ? "messages" : "conversations", &list, reterr));
        return add_conversation(im, obj, list, reterr);
    case EW_IMPORT_ALPACA:
        return add_alpaca(im, obj, reterr);
    case EW_IMPORT_LAMP:
        return add_profile(im, obj, reterr);
    default:
        return add_record(im, obj, reterr);
    }
}

/* ---- the file ---- */

/* One record; *ret_found false at the end. */
static ew_status step(importer *im, bool *ret_found, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    bool whole = im->opt->format == EW_IMPORT_AUTO || im->opt->format == EW_IMPORT_LAMP;
    size_t max = whole ? EW_LIMIT_IMPORT_RECORD_BYTES : EW_LIMIT_JSONL_LINE_BYTES;
    ew_status st = ew__import_reader_next(im->reader, max, ret_found, reterr);
    im->report.n_records += *ret_found;
    EW_TRY(st);
    if (!*ret_found) {
        return EW_OK;
    }
    EW_TRY(ew_json_load(im->reader->where, ew_buf_str(&im->reader->record), im->reader->record.size, &j, reterr));
    return add(im, j, reterr);
}

static bool may_skip(const importer *im, ew_status st)
{
    return im->opt->skip_bad && !im->reader->broken && im->reader->n_records > 0 &&
           (st == EW_ECORRUPT || (st == EW_ELIMIT && im->items.n < EW_LIMIT_PROFILE_ITEMS));
}

static ew_status read_all(importer *im, ew_error *reterr)
{
    for (bool found = true; found;) {
        ew_error err = EW_ERROR_INIT;
        size_t before = im->items.n;
        ew_status st = step(im, &found, &err);
        if (st != EW_OK && !may_skip(im, st)) {
            return ew_fail(reterr, st, "%s", err.msg);
        }
        if (st != EW_OK) {
            im->report.n_bad += im->items.n == before; /* a conversation may give items before its bad turn */
            if (im->opt->on_bad != NULL) {
                im->opt->on_bad(err.msg, im->opt->ctx);
            }
        }
    }
    im->report.is_array = im->reader->is_array;
    if (im->items.n > 0) {
        return EW_OK;
    }
    if (im->report.n_records > im->report.n_bad && im->opt->user != NULL) {
        return ew_fail(reterr, EW_EINVAL, "%s: no profile of '%.64s'", im->reader->name, im->opt->user);
    }
    return im->report.n_records == 0
               ? ew_fail(
                     reterr, EW_EINVAL,
                     "%s holds no record. HINT: one JSON object per line, e.g. {\"input\": \"…\", \"output\": \"…\"}",
                     im->reader->name)
               : ew_fail(reterr, EW_EINVAL, "%s: none of its %zu records can be used", im->reader->name,
                         im->report.n_records);
}

static ew_status import(ew__import_reader *reader, const ew_import_opt *opt, ew_items *ret_items,
                        ew_import_report *ret_report, ew_error *reterr)
{
    static const ew_import_opt defaults = {0};
    importer im = {.opt = opt != NULL ? opt : &defaults, .reader = reader};
    ew_status st =
        ew_map_new(&im.ids) == EW_OK ? read_all(&im, reterr) : ew_fail(reterr, EW_ENOMEM, "no memory for the items");
    ew_map_free(&im.ids);
    if (st != EW_OK) {
        ew_items_release(&im.items);
        return st;
    }
    *ret_items = im.items;
    if (ret_report != NULL) {
        *ret_report = im.report;
    }
    return EW_OK;
}

ew_status ew_import(const char *path, const ew_import_opt *opt, ew_items *ret_items, ew_import_report *ret_report,
                    ew_error *reterr)
{
    EW_CLEANUP(ew__import_reader_release) ew__import_reader reader = {0};
    EW_TRY(ew__import_reader_open(path, &reader, reterr));
    return import(&reader, opt, ret_items, ret_report, reterr);
}

ew_status ew_import_mem(const char *name, const void *text, size_t size, const ew_import_opt *opt, ew_items *ret_items,
                        ew_import_report *ret_report, ew_error *reterr)
{
    EW_CLEANUP(ew__import_reader_release) ew__import_reader reader = {.name = name, .text = text, .n = size, .line = 1};
    return import(&reader, opt, ret_items, ret_report, reterr);
}

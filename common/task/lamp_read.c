/* LaMP's files: questions one at a time, outputs whole. */
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "task/lamp.h"
#include "task/lamp_int.h"
#include "text/json.h"

#define DROP_BYTES ((size_t)8 * 1024 * 1024) /* of the map are given back at a time */
#define PROFILE_MAX EW_LIMIT_PROFILE_ITEMS

void ew_lamp_question_release(ew_lamp_question *q)
{
    for (size_t i = 0; i < q->n_profile; i++) {
        ew_lamp_record *r = &q->profile[i];
        ew_free(r->id);
        ew_free(r->text);
        ew_free(r->answer);
        ew_free(r->title);
        ew_free(r->date);
    }
    ew_free(q->profile);
    ew_free(q->id);
    ew_free(q->user);
    ew_free(q->input);
    *q = (ew_lamp_question){0};
}

/* --- values --- */
/* A copy of a string, or of an integer or real in decimal. NULL in *ret when it is absent or null and may be. */
static ew_status take_text(const json_t *obj, const char *where, const char *key, bool optional, char **ret,
                           ew_error *reterr)
{
    const json_t *v = json_object_get(obj, key);
    char number[40];
    const char *text = NULL;
    if (optional && (v == NULL || json_is_null(v))) {
        return EW_OK;
    }
    if (json_is_integer(v)) {
        (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
        text = number;
    } else if (json_is_real(v)) { /* Python writes 5.0 with its ".0" */
        (void)snprintf(number, sizeof(number), "%.15g", json_real_value(v));
        if (strcspn(number, ".e") == strlen(number)) {
            (void)strncat(number, ".0", sizeof(number) - strlen(number) - 1);
        }
        text = number;
    } else {
        EW_TRY(ew_json_get_str(obj, where, key, &text, reterr));
    }
    *ret = ew_str_dup(text);
    return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "%s: no memory for '%s'", where, key);
}

static ew_status read_record(ew_lamp_task t, const json_t *j, const char *where, ew_lamp_record *r, ew_error *reterr)
{
    const ew_lamp_info *info = ew_lamp_info_of(t);
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object, is %s", where, ew_json_kind(j));
    }
    EW_TRY(take_text(j, where, "id", false, &r->id, reterr));
    EW_TRY(take_text(j, where, info->text, false, &r->text, reterr));
    if (info->answer != NULL) {
        EW_TRY(take_text(j, where, info->answer, false, &r->answer, reterr));
    }
    if (t == EW_LAMP_2N) {
        EW_TRY(take_text(j, where, "title", false, &r->title, reterr));
    }
    return take_text(j, where, "date", true, &r->date, reterr);
}

static ew_status read_question(ew_lamp_task t, const json_t *j, const char *where, ew_lamp_question *q,
                               ew_error *reterr)
{
    json_t *profile = NULL;
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object with id, input and profile, is %s", where,
                       ew_json_kind(j));
    }
    EW_TRY(take_text(j, where, "id", false, &q->id, reterr));
    EW_TRY(take_text(j, where, "user_id", true, &q->user, reterr));
    EW_TRY(take_text(j, where, "input", false, &q->input, reterr));
    EW_TRY(ew_json_get_arr(j, where, "profile", &profile, reterr));
    size_t n = json_array_size(profile);
    if (n > PROFILE_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%s: a profile of %zu records, the limit is %u", where, n, PROFILE_MAX);
    }
    q->profile = ew_calloc(n + 1, sizeof(*q->profile));
    if (q->profile == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory for %zu records", where, n);
    }
    for (size_t i = 0; i < n; i++) {
        char place[EW_ERROR_MSG_MAX];
        (void)snprintf(place, sizeof(place), "%.300s, record %zu", where, i + 1);
        q->n_profile = i + 1;
        EW_TRY(read_record(t, json_array_get(profile, i), place, &q->profile[i], reterr));
    }
    return EW_OK;
}

/* --- the array --- */
struct ew_lamp_reader {
    ew_lamp_task task;
    char *name;
    ew_file_map *map; /* NULL over memory */
    const char *data;
    size_t size, at;
    size_t dropped; /* bytes of the map that were given back */
    size_t n;       /* questions so far */
    bool done;
};

void ew_lamp_reader_free(ew_lamp_reader **r)
{
    if (*r != NULL) {
        ew_file_map_free(&(*r)->map);
        ew_free((*r)->name);
        ew_free(*r);
        *r = NULL;
    }
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_blanks(ew_lamp_reader *r)
{
    while (r->at < r->size && is_blank(r->data[r->at])) {
        r->at++;
    }
}

static ew_status begin(ew_lamp_reader *r, ew_error *reterr)
{
    if (r->size >= 3 && memcmp(r->data, "\xEF\xBB\xBF", 3) == 0) {
        r->at = 3;
    }
    skip_blanks(r);
    if (r->at == r->size || r->data[r->at] != '[') {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s is no list of questions: it should begin with '['. HINT: the questions file of LaMP, e.g. "
                       "dev_questions.json, not the outputs",
                       r->name);
    }
    r->at++;
    return EW_OK;
}

/* Takes the map, on failure too. */
static ew_status reader_new(const char *name, ew_file_map *map, const void *text, size_t size, ew_lamp_task task,
                            ew_lamp_reader **ret_reader, ew_error *reterr)
{
    EW_AUTO(ew_lamp_reader) r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        ew_file_map_free(&map);
        return ew_fail(reterr, EW_ENOMEM, "no memory to read %s", name);
    }
    r->map = map;
    r->name = ew_str_dup(name);
    r->task = task;
    r->data = size != 0 ? text : "";
    r->size = size;
    if (r->name == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to read %s", name);
    }
    EW_TRY(begin(r, reterr));
    *ret_reader = r;
    r = NULL;
    return EW_OK;
}

ew_status ew_lamp_open_mem(const char *name, const void *text, size_t size, ew_lamp_task task,
                           ew_lamp_reader **ret_reader, ew_error *reterr)
{
    return reader_new(name, NULL, text, size, task, ret_reader, reterr);
}

ew_status ew_lamp_open(const char *path, ew_lamp_task task, ew_lamp_reader **ret_reader, ew_error *reterr)
{
    ew_file_map *map = NULL;
    EW_TRY(ew_file_map_open(path, &map, reterr));
    ew_file_map_advise(map, 0, ew_file_map_size(map), EW_FILE_SEQUENTIAL);
    return reader_new(path, map, ew_file_map_data(map), ew_file_map_size(map), task, ret_reader, reterr);
}

/* End of the value that begins at r->at: nesting and strings are followed, the rest is left to the parser. 0 = the file ends first. */
static size_t value_end(const ew_lamp_reader *r)
{
    size_t depth = 0;
    bool text = false;
    for (size_t i = r->at; i < r->size; i++) {
        char c = r->data[i];
        if (text) {
            i += c == '\\';
            text = c != '"';
        } else if (c == '"') {
            text = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) {
                return i; /* of the array around it */
            }
            if (--depth == 0) {
                return i + 1;
            }
        } else if (c == ',' && depth == 0) {
            return i;
        }
    }
    return 0;
}

static void drop_behind(ew_lamp_reader *r)
{
    if (r->map != NULL && r->at - r->dropped >= DROP_BYTES) {
        ew_file_map_advise(r->map, r->dropped, r->at - r->dropped, EW_FILE_DONTNEED);
        r->dropped = r->at;
    }
}

/* After the last question: nothing but blanks. */
static ew_status finish(ew_lamp_reader *r, ew_error *reterr)
{
    r->at++;
    skip_blanks(r);
    r->done = true;
    return r->at == r->size ? EW_OK
                            : ew_fail(reterr, EW_ECORRUPT, "%s: there is more behind the list of questions", r->name);
}

static ew_status next_json(ew_lamp_reader *r, char where[static EW_ERROR_MSG_MAX], json_t **ret_json, ew_error *reterr)
{
    *ret_json = NULL;
    skip_blanks(r);
    if (r->at < r->size && r->data[r->at] == ']') {
        return finish(r, reterr);
    }
    if (r->n != 0) {
        if (r->at == r->size || r->data[r->at] != ',') {
            return ew_fail(reterr, EW_ECORRUPT, "%s: after question %zu there should be ',' or ']'%s", r->name, r->n,
                           r->at == r->size ? ", but the file ends: it is cut off" : "");
        }
        r->at++;
        skip_blanks(r);
    }
    r->n++;
    (void)snprintf(where, EW_ERROR_MSG_MAX, "%.200s: question %zu", r->name, r->n);
    size_t end = value_end(r);
    if (end == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not complete: the file is cut off. HINT: load it again", where);
    }
    if (end - r->at > EW_LIMIT_JSON_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "%s has %zu bytes, the limit is %u", where, end - r->at, EW_LIMIT_JSON_BYTES);
    }
    EW_TRY(ew_json_load(where, r->data + r->at, end - r->at, ret_json, reterr));
    r->at = end;
    drop_behind(r);
    return EW_OK;
}

ew_status ew_lamp_next(ew_lamp_reader *r, ew_lamp_question *ret_question, bool *ret_more, ew_error *reterr)
{
    char where[EW_ERROR_MSG_MAX];
    EW_AUTO_JSON j = NULL;
    EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
    ew_status st = r->done ? EW_OK : next_json(r, where, &j, reterr);
    if (st == EW_OK && j != NULL) {
        st = read_question(r->task, j, where, &q, reterr);
    }
    if (st != EW_OK) {
        r->done = true;
        return st;
    }
    *ret_more = j != NULL;
    if (j != NULL) {
        *ret_question = q;
        q = (ew_lamp_question){0};
    }
    return EW_OK;
}

ew_status ew_lamp_guess(const char *path, ew_lamp_task *ret_task, ew_error *reterr)
{
    static const char *const begins[EW_LAMP_COUNT] = {[EW_LAMP_1] = "For an author who has written the paper",
                                                      [EW_LAMP_2] = "Which tag does this movie",
                                                      [EW_LAMP_2N] = "Which category does this article",
                                                      [EW_LAMP_3] = "What is the score of the following review",
                                                      [EW_LAMP_4] = "Generate a headline for the following article",
                                                      [EW_LAMP_5] = "Generate a title for the following abstract",
                                                      [EW_LAMP_6] = "Generate a subject for the following email",
                                                      [EW_LAMP_7] = "Paraphrase the following tweet"};
    EW_AUTO(ew_lamp_reader) r = NULL;
    EW_AUTO_JSON j = NULL;
    char where[EW_ERROR_MSG_MAX];
    const char *input = NULL;
    EW_TRY(ew_lamp_open(path, EW_LAMP_1, &r, reterr));
    EW_ASSERT(r != NULL); /* said for gcc's analyzer */
    EW_TRY(next_json(r, where, &j, reterr));
    if (j == NULL) {
        return ew_fail(reterr, EW_EINVAL, "%s holds no question", path);
    }
    EW_TRY(ew_json_get_str(j, where, "input", &input, reterr));
    for (size_t i = 0; i < EW_LAMP_COUNT; i++) {
        if (ew_str_starts(input, begins[i])) {
            *ret_task = (ew_lamp_task)i;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EINVAL, "%s: the first input ('%.60s…') is of none of LaMP's tasks. HINT: say --task",
                   path, input);
}

/* --- outputs --- */
void ew_lamp_answers_release(ew_lamp_answers *a)
{
    for (size_t i = 0; i < a->n; i++) {
        ew_free(a->answer[i].id);
        ew_free(a->answer[i].output);
    }
    ew_free(a->answer);
    *a = (ew_lamp_answers){.task = a->task};
}

static ew_status answers_take(ew_lamp_answers *a, ew_lamp_answer *x, ew_error *reterr)
{
    ew_status st = x->id != NULL && x->output != NULL
                       ? ew_grow((void **)&a->answer, &a->cap, a->n + 1, sizeof(*a->answer), UINT32_MAX)
                       : EW_ENOMEM;
    if (st != EW_OK) {
        ew_free(x->id);
        ew_free(x->output);
        return ew_fail(reterr, st, "no memory for %zu answers", a->n + 1);
    }
    a->answer[a->n++] = *x;
    return EW_OK;
}

ew_status ew_lamp_answers_add(ew_lamp_answers *a, const char *id, const char *output, ew_error *reterr)
{
    ew_lamp_answer x = {ew_str_dup(id), ew_str_dup(output)};
    return answers_take(a, &x, reterr);
}

const char *ew_lamp_answer_of(const ew_lamp_answers *a, const char *id)
{
    for (size_t i = 0; i < a->n; i++) {
        if (ew_str_eq(a->answer[i].id, id)) {
            return a->answer[i].output;
        }
    }
    return NULL;
}

static bool is_label(const ew_lamp_info *info, const char *output)
{
    ew_span s = ew__lamp_strip(output, strlen(output));
    for (size_t i = 0; i < info->n_labels; i++) {
        if (strlen(info->labels[i]) == s.size && memcmp(info->labels[i], s.data, s.size) == 0) {
            return true;
        }
    }
    return false;
}

/* The deprecated LaMP-2 goes under the name of the present one. */
static void tell_news_from_movies(ew_lamp_answers *a)
{
    for (size_t i = 0; a->task == EW_LAMP_2 && i < a->n; i++) {
        const char *output = a->answer[i].output;
        if (!is_label(ew_lamp_info_of(EW_LAMP_2), output) && is_label(ew_lamp_info_of(EW_LAMP_2N), output)) {
            a->task = EW_LAMP_2N;
        }
    }
}

static ew_status read_answer(const json_t *j, const char *where, ew_lamp_answers *a, ew_map *ids, ew_error *reterr)
{
    ew_lamp_answer x = {NULL, NULL};
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object with id and output, is %s", where,
                       ew_json_kind(j));
    }
    ew_status st = take_text(j, where, "id", false, &x.id, reterr);
    st = st == EW_OK ? take_text(j, where, "output", false, &x.output, reterr) : st;
    st = st == EW_OK ? ew_map_add(ids, x.id, strlen(x.id), a) : st;
    if (st == EW_EEXIST) {
        st = ew_fail(reterr, EW_ECORRUPT, "%s: the id '%.60s' stands above already", where, x.id);
    } else if (st == EW_ENOMEM) {
        st = ew_fail(reterr, st, "%s: no memory", where);
    }
    if (st != EW_OK) {
        ew_free(x.id);
        ew_free(x.output);
        return st;
    }
    return answers_take(a, &x, reterr);
}

ew_status ew_lamp_answers_read(const char *path, ew_lamp_answers *ret_answers, ew_error *reterr)
{
    EW_AUTO_JSON j = NULL;
    EW_AUTO(ew_map) ids = NULL;
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers a = {0};
    const char *task = NULL;
    json_t *golds = NULL;
    EW_TRY(ew_json_load_file(path, 0, &j, reterr));
    if (json_is_array(j)) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s is a list: outputs and predictions are {\"task\": …, \"golds\": […]}. HINT: this may be a "
                       "questions file",
                       path);
    }
    EW_TRY(ew_json_get_str(j, path, "task", &task, reterr));
    EW_TRY(ew_json_get_arr(j, path, "golds", &golds, reterr));
    if (!ew_lamp_parse(task, &a.task)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the task '%.40s' is none of LaMP_1 to LaMP_7", path, task);
    }
    if (ew_map_new(&ids) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to read %s", path);
    }
    for (size_t i = 0; i < json_array_size(golds); i++) {
        char where[EW_ERROR_MSG_MAX];
        (void)snprintf(where, sizeof(where), "%.300s: golds, place %zu", path, i + 1);
        EW_TRY(read_answer(json_array_get(golds, i), where, &a, ids, reterr));
    }
    tell_news_from_movies(&a);
    *ret_answers = a;
    a = (ew_lamp_answers){0};
    return EW_OK;
}

void ew_lamp_answers_write(const ew_lamp_answers *a, ew_buf *out)
{
    ew_buf_addf(out, "{\"task\": \"%s\", \"golds\": [", ew_lamp_info_of(a->task)->file_name);
    for (size_t i = 0; i < a->n; i++) {
        ew_buf_adds(out, i != 0 ? ",\n{\"id\": " : "\n{\"id\": ");
        ew_json_quote(a->answer[i].id, strlen(a->answer[i].id), out);
        ew_buf_adds(out, ", \"output\": ");
        ew_json_quote(a->answer[i].output, strlen(a->answer[i].output), out);
        ew_buf_addc(out, '}');
    }
    ew_buf_adds(out, "\n]}\n");
}

#include "text/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/utf8.h"

#define PIECE (256 * 1024)

/* --- loading --- */

static ew_status load_error(const char *name, const json_error_t *e, ew_error *reterr)
{
    ew_status code = json_error_code(e) == json_error_out_of_memory ? EW_ENOMEM : EW_ECORRUPT;
    return ew_fail(reterr, code, "%s:%d:%d: not valid JSON: %s", name, e->line, e->column, e->text);
}

ew_status ew_json_load(const char *name, const void *text, size_t size, json_t **ret_json, ew_error *reterr)
{
    json_error_t e;
    const char *s = text;
    if (size > EW_LIMIT_JSON_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "%s: %zu bytes of JSON, the limit is %u", name, size, EW_LIMIT_JSON_BYTES);
    }
    if (size >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0) {
        s += 3;
        size -= 3;
    }
    json_t *j = json_loadb(size > 0 ? s : "", size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (j == NULL) {
        return load_error(name, &e, reterr);
    }
    *ret_json = j;
    return EW_OK;
}

static ew_status open_regular(const char *path, int *ret_fd, uint64_t *ret_size, ew_error *reterr)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open '%s'", path);
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return ew_fail(reterr, EW_EINVAL, "'%s' is not a regular file", path);
    }
    *ret_fd = fd;
    *ret_size = (uint64_t)st.st_size;
    return EW_OK;
}

static ssize_t read_retry(int fd, void *dst, size_t size)
{
    ssize_t n;
    do {
        n = read(fd, dst, size);
    } while (n < 0 && errno == EINTR);
    return n;
}

ew_status ew_json_load_file(const char *path, size_t max, json_t **ret_json, ew_error *reterr)
{
    int fd = -1;
    uint64_t size = 0;
    max = max != 0 ? EW_MIN(max, (size_t)EW_LIMIT_JSON_BYTES) : EW_LIMIT_JSON_BYTES;
    EW_TRY(open_regular(path, &fd, &size, reterr));
    if (size > max) {
        (void)close(fd);
        return ew_fail(reterr, EW_ELIMIT, "'%s' has %" PRIu64 " bytes, the limit is %zu", path, size, max);
    }
    char *text = ew_malloc(1, (size_t)size);
    ew_status st = text != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to read '%s'", path);
    size_t used = 0;
    while (st == EW_OK && used < size) {
        ssize_t n = read_retry(fd, text + used, (size_t)size - used);
        if (n < 0) {
            st = ew_fail_errno(reterr, errno, "cannot read '%s'", path);
        } else if (n == 0) {
            break;
        } else {
            used += (size_t)n;
        }
    }
    (void)close(fd);
    if (st == EW_OK) {
        st = ew_json_load(path, text, used, ret_json, reterr);
    }
    ew_free(text);
    return st;
}

/* --- getters --- */

const char *ew_json_kind(const json_t *j)
{
    if (j == NULL) {
        return "missing";
    }
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

static ew_status wrong(const char *where, const char *key, const char *want, const json_t *v, ew_error *reterr)
{
    const char *colon = where != NULL ? ": " : "";
    where = where != NULL ? where : "";
    if (v == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "%s%s'%s' is missing", where, colon, key);
    }
    return ew_fail(reterr, EW_ECORRUPT, "%s%s'%s' should be %s, is %s", where, colon, key, want, ew_json_kind(v));
}

/* The member, NULL when absent; fails when obj is no object. */
static ew_status member(const json_t *obj, const char *where, const char *key, json_t **ret, ew_error *reterr)
{
    if (!json_is_object(obj)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s%s should be an object with '%s', is %s",
                       where != NULL ? where : "value", where != NULL ? ":" : "", key, ew_json_kind(obj));
    }
    *ret = json_object_get(obj, key);
    return EW_OK;
}

static ew_status to_str(const json_t *v, const char *where, const char *key, const char **ret, ew_error *reterr)
{
    if (!json_is_string(v)) {
        return wrong(where, key, "a string", v, reterr);
    }
    if (strlen(json_string_value(v)) != json_string_length(v)) {
        return wrong(where, key, "a string without NUL characters", v, reterr);
    }
    *ret = json_string_value(v);
    return EW_OK;
}

static ew_status to_i64(const json_t *v, const char *where, const char *key, int64_t min, int64_t max, int64_t *ret,
                        ew_error *reterr)
{
    if (!json_is_integer(v)) {
        return wrong(where, key, "an integer", v, reterr);
    }
    int64_t i = json_integer_value(v);
    if (i < min || i > max) {
        return ew_fail(reterr, EW_ECORRUPT, "%s%s'%s' is %" PRId64 ", should be from %" PRId64 " to %" PRId64,
                       where != NULL ? where : "", where != NULL ? ": " : "", key, i, min, max);
    }
    *ret = i;
    return EW_OK;
}

static ew_status to_f64(const json_t *v, const char *where, const char *key, double *ret, ew_error *reterr)
{
    if (!json_is_number(v) || !isfinite(json_number_value(v))) {
        return wrong(where, key, "a number", v, reterr);
    }
    *ret = json_number_value(v);
    return EW_OK;
}

static ew_status to_bool(const json_t *v, const char *where, const char *key, bool *ret, ew_error *reterr)
{
    if (!json_is_boolean(v)) {
        return wrong(where, key, "true or false", v, reterr);
    }
    *ret = json_is_true(v);
    return EW_OK;
}

ew_status ew_json_get_str(const json_t *obj, const char *where, const char *key, const char **ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return to_str(v, where, key, ret, reterr);
}

ew_status ew_json_get_i64(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *ret,
                          ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return to_i64(v, where, key, min, max, ret, reterr);
}

ew_status ew_json_get_f64(const json_t *obj, const char *where, const char *key, double *ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return to_f64(v, where, key, ret, reterr);
}

ew_status ew_json_get_bool(const json_t *obj, const char *where, const char *key, bool *ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return to_bool(v, where, key, ret, reterr);
}

ew_status ew_json_get_obj(const json_t *obj, const char *where, const char *key, json_t **ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    if (!json_is_object(v)) {
        return wrong(where, key, "an object", v, reterr);
    }
    *ret = v;
    return EW_OK;
}

ew_status ew_json_get_arr(const json_t *obj, const char *where, const char *key, json_t **ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    if (!json_is_array(v)) {
        return wrong(where, key, "a list", v, reterr);
    }
    *ret = v;
    return EW_OK;
}

ew_status ew_json_opt_str(const json_t *obj, const char *where, const char *key, const char **ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return v == NULL || json_is_null(v) ? EW_OK : to_str(v, where, key, ret, reterr);
}

ew_status ew_json_opt_i64(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *ret,
                          ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return v == NULL || json_is_null(v) ? EW_OK : to_i64(v, where, key, min, max, ret, reterr);
}

ew_status ew_json_opt_f64(const json_t *obj, const char *where, const char *key, double *ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return v == NULL || json_is_null(v) ? EW_OK : to_f64(v, where, key, ret, reterr);
}

ew_status ew_json_opt_bool(const json_t *obj, const char *where, const char *key, bool *ret, ew_error *reterr)
{
    json_t *v = NULL;
    EW_TRY(member(obj, where, key, &v, reterr));
    return v == NULL || json_is_null(v) ? EW_OK : to_bool(v, where, key, ret, reterr);
}

/* --- dumping --- */

static int dump_piece(const char *data, size_t size, void *ctx)
{
    ew_buf *out = ctx;
    ew_buf_add(out, data, size);
    return out->status == EW_OK ? 0 : -1;
}

ew_status ew_json_dump(const json_t *j, unsigned flags, ew_buf *out, ew_error *reterr)
{
    size_t f = JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    f |= (flags & EW_JSON_SORTED) != 0 ? (size_t)JSON_SORT_KEYS : 0;
    f |= (flags & EW_JSON_ASCII) != 0 ? (size_t)JSON_ENSURE_ASCII : 0;
    f |= (flags & EW_JSON_PRETTY) != 0 ? (size_t)JSON_INDENT(2) : (size_t)JSON_COMPACT;
    int rc = json_dump_callback(j, dump_piece, out, f);
    EW_TRY(ew_buf_check(out, reterr));
    if (rc != 0) {
        return ew_fail(reterr, EW_EINTERNAL, "a value cannot be written as JSON");
    }
    if ((flags & EW_JSON_PRETTY) != 0) {
        ew_buf_addc(out, '\n');
    }
    return ew_buf_check(out, reterr);
}

void ew_json_quote(const char *s, size_t size, ew_buf *out)
{
    ew_buf_addc(out, '"');
    size_t plain = 0; /* start of what needs no escape */
    for (size_t i = 0; i < size;) {
        unsigned char c = (unsigned char)s[i];
        size_t n = c < 0x80 ? 1 : ew_utf8_decode(s + i, size - i, NULL);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
            i += n;
            continue;
        }
        ew_buf_add(out, s + plain, i - plain);
        if (n == 0) {
            ew_buf_adds(out, "\xEF\xBF\xBD");
        } else if (c == '"' || c == '\\') {
            ew_buf_addc(out, '\\');
            ew_buf_addc(out, (char)c);
        } else if (c == '\n') {
            ew_buf_adds(out, "\\n");
        } else if (c == '\t') {
            ew_buf_adds(out, "\\t");
        } else {
            ew_buf_addf(out, "\\u%04x", (unsigned)c);
        }
        plain = ++i;
    }
    ew_buf_add(out, s + plain, size - plain);
    ew_buf_addc(out, '"');
}

/* --- JSON Lines --- */

struct ew_jsonl {
    char *name;
    int fd;            /* -1 over memory */
    const char *data;  /* memory, or buf */
    char *buf;         /* of a file: the limit of a line and one piece */
    size_t begin, end; /* what is read and not yet consumed, in data */
    bool eof;
    bool started; /* the byte order mark was looked for */
    size_t line;  /* of the last value */
    char where[EW_ERROR_MSG_MAX];
};

static ew_status jsonl_new(const char *name, ew_jsonl **ret_reader, ew_error *reterr)
{
    ew_jsonl *r = ew_calloc(1, sizeof(*r));
    if (r != NULL) {
        r->fd = -1;
        r->name = ew_str_dup(name);
    }
    if (r == NULL || r->name == NULL) {
        ew_jsonl_free(&r);
        return ew_fail(reterr, EW_ENOMEM, "no memory to read '%s'", name);
    }
    *ret_reader = r;
    return EW_OK;
}

ew_status ew_jsonl_open(const char *path, ew_jsonl **ret_reader, ew_error *reterr)
{
    EW_AUTO(ew_jsonl) r = NULL;
    uint64_t size;
    EW_TRY(jsonl_new(path, &r, reterr));
    EW_TRY(open_regular(path, &r->fd, &size, reterr));
    r->buf = ew_malloc(1, (size_t)EW_LIMIT_JSONL_LINE_BYTES + PIECE);
    if (r->buf == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to read '%s'", path);
    }
    r->data = r->buf;
    *ret_reader = r;
    r = NULL;
    return EW_OK;
}

ew_status ew_jsonl_open_mem(const char *name, const void *text, size_t size, ew_jsonl **ret_reader, ew_error *reterr)
{
    ew_jsonl *r = NULL;
    EW_TRY(jsonl_new(name, &r, reterr));
    r->data = size > 0 ? text : "";
    r->end = size;
    r->eof = true;
    *ret_reader = r;
    return EW_OK;
}

void ew_jsonl_free(ew_jsonl **reader)
{
    ew_jsonl *r = *reader;
    if (r == NULL) {
        return;
    }
    if (r->fd >= 0) {
        (void)close(r->fd);
    }
    ew_free(r->name);
    ew_free(r->buf);
    ew_free(r);
    *reader = NULL;
}

/* Reads more after end; the unconsumed part moves to the front. */
static ew_status jsonl_fill(ew_jsonl *r, ew_error *reterr)
{
    if (r->begin > 0) {
        memmove(r->buf, r->buf + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
    }
    size_t room = (size_t)EW_LIMIT_JSONL_LINE_BYTES + PIECE - r->end;
    ssize_t n = read_retry(r->fd, r->buf + r->end, EW_MIN(room, (size_t)PIECE));
    if (n < 0) {
        return ew_fail_errno(reterr, errno, "cannot read '%s'", r->name);
    }
    r->eof = n == 0;
    r->end += (size_t)n;
    return EW_OK;
}

/* The next line without its end; *ret_line NULL at the end of the file. too_long: the line was skipped. */
static ew_status jsonl_line(ew_jsonl *r, const char **ret_line, size_t *ret_size, bool *too_long, ew_error *reterr)
{
    size_t scanned = 0;
    *too_long = false;
    for (;;) {
        const char *start = r->data + r->begin;
        const char *nl = memchr(start + scanned, '\n', r->end - r->begin - scanned);
        scanned = r->end - r->begin;
        if (nl != NULL || (r->eof && scanned > 0)) {
            size_t size = nl != NULL ? (size_t)(nl - start) : scanned;
            r->begin += size + (nl != NULL);
            r->line++;
            *too_long = *too_long || size > EW_LIMIT_JSONL_LINE_BYTES;
            *ret_line = start;
            *ret_size = size;
            return EW_OK;
        }
        if (r->eof) {
            r->line += *too_long; /* a long last line */
            *ret_line = *too_long ? start : NULL;
            *ret_size = 0;
            return EW_OK;
        }
        if (scanned > EW_LIMIT_JSONL_LINE_BYTES) {
            *too_long = true;
            r->begin = r->end;
            scanned = 0;
        }
        EW_TRY(jsonl_fill(r, reterr));
    }
}

static bool blank(const char *s, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') {
            return false;
        }
    }
    return true;
}

ew_status ew_jsonl_next(ew_jsonl *r, json_t **ret_json, ew_error *reterr)
{
    for (;;) {
        const char *line = NULL;
        size_t size = 0;
        bool too_long = false;
        EW_TRY(jsonl_line(r, &line, &size, &too_long, reterr));
        if (line == NULL) {
            *ret_json = NULL;
            return EW_OK;
        }
        (void)snprintf(r->where, sizeof(r->where), "%.300s:%zu", r->name, r->line);
        if (too_long) {
            return ew_fail(reterr, EW_ELIMIT, "%s: the line has more than %u bytes", r->where,
                           EW_LIMIT_JSONL_LINE_BYTES);
        }
        if (!r->started && size >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
            line += 3;
            size -= 3;
        }
        r->started = true;
        if (blank(line, size)) {
            continue;
        }
        json_error_t e;
        json_t *j = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        if (j == NULL) {
            return ew_fail(reterr, json_error_code(&e) == json_error_out_of_memory ? EW_ENOMEM : EW_ECORRUPT,
                           "%s:%d: not valid JSON: %s", r->where, e.column, e.text);
        }
        *ret_json = j;
        return EW_OK;
    }
}

size_t ew_jsonl_line(const ew_jsonl *r)
{
    return r->line;
}

const char *ew_jsonl_where(const ew_jsonl *r)
{
    return r->where;
}

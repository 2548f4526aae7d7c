/* Records of a file one after the other, whether it is JSON Lines or one JSON array. Only finds where a record begins and ends; what it says is
 * parsed by text/json. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "task/import_int.h"

#define CHUNK_BYTES 65536u

void ew__import_reader_release(ew__import_reader *r)
{
    if (r->file != NULL) {
        (void)fclose(r->file);
    }
    ew_free(r->chunk);
    ew_buf_release(&r->record);
    *r = (ew__import_reader){0};
}

ew_status ew__import_reader_open(const char *path, ew__import_reader *ret_reader, ew_error *reterr)
{
    ew__import_reader r = {.name = path, .line = 1, .file = fopen(path, "rbe")};
    if (r.file == NULL) {
        return ew_fail_errno(reterr, errno, "%s", path);
    }
    r.chunk = ew_calloc(1, CHUNK_BYTES);
    if (r.chunk == NULL) {
        ew__import_reader_release(&r);
        return ew_fail(reterr, EW_ENOMEM, "%s: no memory to read it", path);
    }
    *ret_reader = r;
    return EW_OK;
}

/* The next byte stays; -1 at the end. */
static ew_status peek(ew__import_reader *r, int *ret_byte, ew_error *reterr)
{
    if (r->at == r->n && r->file != NULL && !r->ended) {
        r->n = fread(r->chunk, 1, CHUNK_BYTES, r->file);
        r->at = 0;
        r->text = r->chunk;
        r->ended = r->n == 0;
        if (r->n == 0 && ferror(r->file)) {
            return ew_fail_errno(reterr, errno, "%s: cannot be read", r->name);
        }
    }
    *ret_byte = r->at < r->n ? (unsigned char)r->text[r->at] : -1;
    return EW_OK;
}

static void advance(ew__import_reader *r)
{
    r->line += r->text[r->at] == '\n';
    r->at++;
}

static ew_status skip_blanks(ew__import_reader *r, int *ret_byte, ew_error *reterr)
{
    EW_TRY(peek(r, ret_byte, reterr));
    while (*ret_byte == ' ' || *ret_byte == '\t' || *ret_byte == '\r' || *ret_byte == '\n') {
        advance(r);
        EW_TRY(peek(r, ret_byte, reterr));
    }
    return EW_OK;
}

/* Byte order mark, then what the file is. */
static ew_status start(ew__import_reader *r, ew_error *reterr)
{
    static const unsigned char mark[] = {0xEF, 0xBB, 0xBF};
    int c;
    r->started = true;
    EW_TRY(peek(r, &c, reterr));
    for (size_t i = 0; i < sizeof(mark) && c == mark[i]; i++) {
        advance(r);
        EW_TRY(peek(r, &c, reterr));
    }
    EW_TRY(skip_blanks(r, &c, reterr));
    if (c == '[') {
        r->is_array = true;
        advance(r);
    } else if (c != '{' && c != -1) {
        r->record_line = r->line;
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s:%zu: begins neither with { (JSON Lines: one object per line) nor with [ (a JSON array of "
                       "objects)",
                       r->name, r->line);
    }
    return EW_OK;
}

static bool take(ew__import_reader *r, size_t max)
{
    if (r->record.size >= max) {
        return false;
    }
    ew_buf_addc(&r->record, r->text[r->at]);
    advance(r);
    return true;
}

static ew_status too_long(const ew__import_reader *r, size_t max, ew_error *reterr)
{
    return ew_fail(reterr, EW_ELIMIT, "%s:%zu: the record is longer than %zu bytes", r->name, r->record_line, max);
}

static ew_status next_line(ew__import_reader *r, size_t max, bool *ret_found, ew_error *reterr)
{
    int c;
    EW_TRY(skip_blanks(r, &c, reterr));
    *ret_found = c != -1;
    r->record_line = r->line;
    bool whole = true;
    while (c != -1 && c != '\n') {
        if (whole) {
            whole = take(r, max);
        }
        if (!whole) {
            advance(r); /* the next call goes on with the next line */
        }
        EW_TRY(peek(r, &c, reterr));
    }
    return whole ? ew_buf_check(&r->record, reterr) : too_long(r, max, reterr);
}

/* In front of a value: blanks and, after the first one, a comma. *ret_found false behind the last one. */
static ew_status between(ew__import_reader *r, bool *ret_found, ew_error *reterr)
{
    int c;
    EW_TRY(skip_blanks(r, &c, reterr));
    if (c == ',' && r->n_records > 0) {
        advance(r);
        EW_TRY(skip_blanks(r, &c, reterr));
    } else if (c != ']' && c != -1 && r->n_records > 0) {
        r->broken = true;
        return ew_fail(reterr, EW_ECORRUPT, "%s:%zu: a comma is missing between two records of the array", r->name,
                       r->line);
    }
    *ret_found = c != ']' && c != -1;
    if (c == -1) {
        r->broken = true;
        return ew_fail(reterr, EW_ECORRUPT, "%s:%zu: the file ends within the array: it is not complete", r->name,
                       r->line);
    }
    if (c == ']') {
        r->closed = true;
        advance(r);
        EW_TRY(skip_blanks(r, &c, reterr));
        if (c != -1) {
            r->broken = true;
            return ew_fail(reterr, EW_ECORRUPT, "%s:%zu: there is something behind the array", r->name, r->line);
        }
    }
    return EW_OK;
}

/* A value of the array ends where the comma or bracket of its own level stands. */
static ew_status next_element(ew__import_reader *r, size_t max, bool *ret_found, ew_error *reterr)
{
    size_t depth = 0;
    bool quoted = false;
    bool escaped = false;
    if (r->closed || r->broken) {
        *ret_found = false;
        return EW_OK;
    }
    EW_TRY(between(r, ret_found, reterr));
    r->record_line = r->line;
    while (*ret_found) {
        int c;
        EW_TRY(peek(r, &c, reterr));
        if (c == -1) {
            r->broken = true;
            return ew_fail(reterr, EW_ECORRUPT, "%s:%zu: the record does not end before the file does", r->name,
                           r->record_line);
        }
        if (!quoted && depth == 0 && (c == ',' || c == ']')) {
            break;
        }
        bool opens = !quoted && (c == '{' || c == '[');
        bool closes = !quoted && depth > 0 && (c == '}' || c == ']');
        depth += opens;
        depth -= closes;
        quoted = c == '"' && !escaped ? !quoted : quoted;
        escaped = quoted && c == '\\' && !escaped;
        if (!take(r, max)) {
            r->broken = true; /* where the next one begins cannot be known */
            return too_long(r, max, reterr);
        }
        if (closes && depth == 0) {
            break;
        }
    }
    return ew_buf_check(&r->record, reterr);
}

ew_status ew__import_reader_next(ew__import_reader *r, size_t max, bool *ret_found, ew_error *reterr)
{
    if (!r->started) {
        EW_TRY(start(r, reterr));
    }
    ew_buf_clear(&r->record);
    r->record.max = max + 1;
    *ret_found = true; /* also of a record that cannot be read */
    ew_status st = r->is_array ? next_element(r, max, ret_found, reterr) : next_line(r, max, ret_found, reterr);
    r->n_records += *ret_found;
    (void)snprintf(r->where, sizeof(r->where), "%.200s:%zu", r->name, r->record_line);
    return st;
}

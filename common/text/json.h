/* JSON by jansson: bounded loading with errors that name file, line and column, typed getters whose errors name the path,
 * canonical dumping, and JSON Lines. 64-bit integers are exact, duplicate keys are errors.
 * Locking: json_t values have one owning thread (their reference counts are not shared). */
#ifndef EW_TEXT_JSON_H
#define EW_TEXT_JSON_H

#include <jansson.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

/* EW_AUTO_JSON j = NULL; drops the reference at the end of the scope. */
static inline void ew_json_unref(json_t **j)
{
    json_decref(*j);
    *j = NULL;
}
#define EW_AUTO_JSON EW_CLEANUP(ew_json_unref) json_t *

/* max 0 = EW_LIMIT_JSON_BYTES. The result is the caller's (json_decref). EW_ECORRUPT with line and column; EW_ELIMIT. */
ew_status ew_json_load_file(const char *path, size_t max, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
/* name stands for the path in messages. Any value is accepted at top level. */
ew_status ew_json_load(const char *name, const void *text, size_t size, json_t **ret_json,
                       ew_error *reterr) EW_MUST_CHECK;

/* Getters. obj must be an object: "EW_ECORRUPT <where>: 'key' is missing / should be a string, is a number". where is put in front of
 * messages (file name or path); may be NULL. Strings and values are borrowed from obj. */
ew_status ew_json_get_str(const json_t *obj, const char *where, const char *key, const char **ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_get_i64(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *ret,
                          ew_error *reterr) EW_MUST_CHECK;
/* Integers are accepted; the value is finite. */
ew_status ew_json_get_f64(const json_t *obj, const char *where, const char *key, double *ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_get_bool(const json_t *obj, const char *where, const char *key, bool *ret,
                           ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_get_obj(const json_t *obj, const char *where, const char *key, json_t **ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_get_arr(const json_t *obj, const char *where, const char *key, json_t **ret,
                          ew_error *reterr) EW_MUST_CHECK;
/* Optional twins: a key that is absent or null leaves *ret as it is; a wrong type is still an error. */
ew_status ew_json_opt_str(const json_t *obj, const char *where, const char *key, const char **ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_opt_i64(const json_t *obj, const char *where, const char *key, int64_t min, int64_t max, int64_t *ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_opt_f64(const json_t *obj, const char *where, const char *key, double *ret,
                          ew_error *reterr) EW_MUST_CHECK;
ew_status ew_json_opt_bool(const json_t *obj, const char *where, const char *key, bool *ret,
                           ew_error *reterr) EW_MUST_CHECK;
/* "an object", "a string", "an integer", … */
const char *ew_json_kind(const json_t *j);

#define EW_JSON_SORTED (1u << 0) /* keys in byte order: the same value always gives the same bytes */
#define EW_JSON_PRETTY (1u << 1) /* indented by 2, newline at the end */
#define EW_JSON_ASCII (1u << 2)  /* escapes everything above U+007F */
/* Appends the text; compact unless PRETTY. Reals with 17 digits: they read back exactly. */
ew_status ew_json_dump(const json_t *j, unsigned flags, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Appends s as a JSON string with quotes (for writers that stream). Malformed UTF-8 becomes U+FFFD. */
void ew_json_quote(const char *s, size_t size, ew_buf *out);

/* JSON Lines: one value per line, blank lines skipped, a byte order mark at the start skipped, lines of at most EW_LIMIT_JSONL_LINE_BYTES. */
typedef struct ew_jsonl ew_jsonl;
ew_status ew_jsonl_open(const char *path, ew_jsonl **ret_reader, ew_error *reterr) EW_MUST_CHECK;
/* Over memory that stays valid and unchanged while the reader lives. */
ew_status ew_jsonl_open_mem(const char *name, const void *text, size_t size, ew_jsonl **ret_reader,
                            ew_error *reterr) EW_MUST_CHECK;
void ew_jsonl_free(ew_jsonl **r);
/* The next value, the caller's; NULL at the end. After an error the next call goes on with the following line. */
ew_status ew_jsonl_next(ew_jsonl *r, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
/* Number (from 1) of the line last returned. */
size_t ew_jsonl_line(const ew_jsonl *r);
/* "FILE:LINE" of the line last returned, for messages; borrowed until the next call. */
const char *ew_jsonl_where(const ew_jsonl *r);

#endif

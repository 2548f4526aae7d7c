/* One record of a person's history or of a benchmark: what was given, what was answered. Reading and writing as JSON Lines.
 *
 * Written form: {"id":"…","input":"…","output":"…"} with "user" and "order" when they are set. Accepted forms, one object per line
 * (the first that fits wins):
 *   input + output                       our own; "answer", "target", "response" stand for output
 *   instruction [+ input] + output       Alpaca; instruction and input are joined by a newline
 *   prompt + completion | response | chosen
 *   messages | conversations             the last assistant turn is the output, what precedes it the input (one message: as it is;
 *                                        several: "role: text" lines); {"role","content"} or {"from","value"}
 *   question + answer [+ context]        answer may be a string or an array whose first string counts
 *   text | sentence + label | score      the label may be a string, an integer or a boolean
 *   LaMP profile items                   text | abstract + title, description + tag, text + score
 * The identifier is "id", "_id", "uuid" or "key" (string or integer); without one it is the first 16 hex digits of the hash of the content.
 * A score or label that is a number is written in decimal. A line in no known form is EW_ECORRUPT and says which keys were found.
 * Locking: plain values; one owning thread. */
#ifndef EW_TASK_ITEM_H
#define EW_TASK_ITEM_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

typedef struct ew_item {
    char *id;       /* unique within a user; never NULL */
    char *user;     /* "" = the device's own */
    char *input;    /* UTF-8, not empty */
    char *output;   /* UTF-8, not empty */
    uint64_t order; /* position in the history: an item may only see items of lower order */
} ew_item;

typedef struct ew_items {
    ew_item *item; /* owned, with their strings */
    size_t n, cap;
} ew_items;

void ew_item_release(ew_item *item);
void ew_items_release(ew_items *items);
#define EW_AUTO_ITEMS EW_CLEANUP(ew_items_release) ew_items

/* A copy of it at the end. At most EW_LIMIT_PROFILE_ITEMS: EW_ELIMIT. */
ew_status ew_items_add(ew_items *items, const ew_item *item, ew_error *reterr) EW_MUST_CHECK;
/* Takes the strings; *item is zeroed. */
ew_status ew_items_take(ew_items *items, ew_item *item, ew_error *reterr) EW_MUST_CHECK;

/* One line. where stands in front of messages ("history.jsonl:12"). *ret_item is the caller's (ew_item_release); its order is 0 unless
 * the line has one. */
ew_status ew_item_parse(const char *where, const void *line, size_t size, ew_item *ret_item,
                        ew_error *reterr) EW_MUST_CHECK;
/* A whole file, blank lines skipped. order = position in the file when the line has none. All or nothing: the first bad line fails with
 * its number. Exact repetitions are dropped; an id that stands above with another content gets "~" and 8 hex digits of the content's hash. *ret_items is released by the caller. */
ew_status ew_items_read(const char *path, ew_items *ret_items, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_items_read_mem(const char *name, const void *text, size_t size, ew_items *ret_items,
                            ew_error *reterr) EW_MUST_CHECK;
/* Appends the item as one line with newline. */
void ew_item_write(const ew_item *item, ew_buf *out);

/* SHA-256 over the sizes and bytes of input and output, lower-case hex: what "the same content" means. hex has room for 65. */
void ew_item_content_hash(const ew_item *item, char hex[static 65]);

#endif

/* A history from a file in one of the usual forms of training data, made items.
 *
 *   records    one object per line in any of the forms of task/item.h
 *   chat       {"messages": [{"role", "content"}, …]}           content: text, or the text parts of an array
 *   alpaca     {"instruction", "input" (may be empty or absent), "output"}
 *   sharegpt   {"conversations": [{"from", "value"}, …]}         human, user; gpt, assistant, chatgpt, bing, bard, model; system; tool
 *   lamp       a LaMP file of questions, {"id", "input", "profile": […]}: the profile of one of them, its entries as records. (LaMP-7's
 *              have no answers: they make no history. All tasks with their rules: task/lamp.h.)
 *
 * Every form as JSON Lines or as one JSON array of objects; which of both, and the form of each record, is seen from the
 * content. Read as a stream: besides the items, one record is in memory. A record is at most EW_LIMIT_JSONL_LINE_BYTES, one of LaMP
 * EW_LIMIT_IMPORT_RECORD_BYTES.
 *
 * Conversations: the item's output is an assistant's turn, its input what was said before it: the text itself when that is one turn, else
 * lines "role: text" (roles are written system, user, assistant, tool). Of an input longer than EW_LIMIT_IMPORT_CONTEXT_BYTES the
 * oldest turns are left out. A turn of an assistant that answers nothing (the first one) makes no item.
 *
 * Locking: plain functions; one thread per call. */
#ifndef EW_TASK_IMPORT_H
#define EW_TASK_IMPORT_H

#include "base/status.h"
#include "task/item.h"

typedef enum ew_import_format {
    EW_IMPORT_AUTO, /* by each record's keys */
    EW_IMPORT_RECORDS,
    EW_IMPORT_CHAT,
    EW_IMPORT_ALPACA,
    EW_IMPORT_SHAREGPT,
    EW_IMPORT_LAMP,
    EW_IMPORT_COUNT
} ew_import_format;

/* "auto", "records", "chat", "alpaca", "sharegpt", "lamp" */
const char *ew_import_format_name(ew_import_format f);
/* EW_EINVAL lists the names. */
ew_status ew_import_format_parse(const char *name, ew_import_format *ret_format, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_import_opt { /* zero = every format, last turns, the first bad record fails */
    ew_import_format format;
    bool
        each_turn; /* an item for each turn of the assistant ("#2", "#3", … behind the id); else for the last one alone */
    const char *user; /* lamp: the question whose profile is taken; NULL = the only one */
    bool skip_bad;    /* leave out what cannot be read; else it fails the whole file */
    /* Told each record that is left out; may be NULL. The message has file and line. */
    void (*on_bad)(const char *message, void *ctx);
    void *ctx;
} ew_import_opt;

typedef struct ew_import_report {
    ew_import_format format; /* of the first record */
    bool is_array;           /* one JSON array, not JSON Lines */
    size_t n_records;        /* read, bad ones included */
    size_t n_bad;            /* left out */
    size_t n_repeated;       /* exact repetitions, dropped */
    size_t n_shortened;      /* items whose oldest turns were left out */
} ew_import_report;

/* opt and ret_report may be NULL. *ret_items is the caller's (ew_items_release); order = position unless a record has one. All or nothing.
 * EW_ENOENT; EW_ECORRUPT "FILE:LINE: …" with the line on which the record starts; EW_EINVAL when nothing is left (an empty file, or every
 * record bad); EW_ELIMIT: a record or the number of items (EW_LIMIT_PROFILE_ITEMS). */
ew_status ew_import(const char *path, const ew_import_opt *opt, ew_items *ret_items, ew_import_report *ret_report,
                    ew_error *reterr) EW_MUST_CHECK;
/* name stands for the path in messages. */
ew_status ew_import_mem(const char *name, const void *text, size_t size, const ew_import_opt *opt, ew_items *ret_items,
                        ew_import_report *ret_report, ew_error *reterr) EW_MUST_CHECK;

#endif

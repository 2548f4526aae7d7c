/* The reader under task/import.h. */
#ifndef EW_TASK_IMPORT_INT_H
#define EW_TASK_IMPORT_INT_H

#include <stdio.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct ew__import_reader {
    const char *name; /* borrowed */
    FILE *file;       /* NULL: text is all there is */
    char *chunk;
    const char *text; /* text[at, n) is not read yet */
    size_t at, n;
    size_t line; /* of text[at], from 1 */
    bool started, ended, is_array;
    bool closed; /* behind the array */
    bool broken; /* the array's records cannot be told apart any more */
    size_t n_records;
    ew_buf record;
    size_t record_line;
    char where[256]; /* "FILE:LINE" of the record */
} ew__import_reader;

ew_status ew__import_reader_open(const char *path, ew__import_reader *ret_reader, ew_error *reterr) EW_MUST_CHECK;
void ew__import_reader_release(ew__import_reader *r);
/* record and where. *ret_found false at the end. After EW_ECORRUPT or EW_ELIMIT the next call goes on behind the bad record unless broken is set. */
ew_status ew__import_reader_next(ew__import_reader *r, size_t max, bool *ret_found, ew_error *reterr) EW_MUST_CHECK;

#endif

/* A byte buffer that grows up to a stated maximum. Zeroed is valid and empty (max 0 = EW_BUF_MAX_DEFAULT).
 *
 * After the first failure the buffer is in error and further appends do nothing, so that a long sequence of appends needs
 * one check at its end. data is always NUL-terminated one past size once something was appended.
 * Locking: one owning thread. */
#ifndef EW_BASE_BUF_H
#define EW_BASE_BUF_H

#include "base/base.h"
#include "base/status.h"

#define EW_BUF_MAX_DEFAULT (64 * 1024 * 1024)

typedef struct ew_buf {
    char *data;       /* size bytes and a NUL, or NULL when nothing was ever appended */
    size_t size;      /* bytes */
    size_t cap;       /* bytes */
    size_t max;       /* bytes; 0 = EW_BUF_MAX_DEFAULT */
    ew_status status; /* EW_OK, EW_ELIMIT or EW_ENOMEM */
} ew_buf;

void ew_buf_release(ew_buf *b);
/* Empties it and clears the error; keeps the memory. */
void ew_buf_clear(ew_buf *b);
void ew_buf_add(ew_buf *b, const void *data, size_t size);
void ew_buf_adds(ew_buf *b, const char *s);
void ew_buf_addc(ew_buf *b, char c);
void ew_buf_addf(ew_buf *b, const char *fmt, ...) EW_PRINTF(2, 3);
/* Room for n more bytes at the end, to be written by the caller; NULL in error. size already includes them. */
void *ew_buf_extend(ew_buf *b, size_t n);
/* Removes n bytes from the front. */
void ew_buf_consume(ew_buf *b, size_t n);
/* The collected status, with a message. */
ew_status ew_buf_check(const ew_buf *b, ew_error *reterr) EW_MUST_CHECK;
/* The text; "" when empty. Borrowed until the next call on b. */
const char *ew_buf_str(const ew_buf *b);
/* Hands the memory to the caller (ew_free) and empties the buffer; never NULL unless in error. */
char *ew_buf_take(ew_buf *b);

#define EW_AUTO_BUF EW_CLEANUP(ew_buf_release) ew_buf

#endif

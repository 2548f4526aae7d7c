#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void ew_buf_release(ew_buf *b)
{
    ew_free(b->data);
    *b = (ew_buf){.max = b->max};
}

void ew_buf_clear(ew_buf *b)
{
    b->size = 0;
    b->status = EW_OK;
    if (b->data != NULL) {
        b->data[0] = '\0';
    }
}

void *ew_buf_extend(ew_buf *b, size_t n)
{
    size_t max = b->max != 0 ? b->max : EW_BUF_MAX_DEFAULT;
    if (b->status != EW_OK) {
        return NULL;
    }
    if (n > max - b->size) {
        b->status = EW_ELIMIT;
        return NULL;
    }
    void *p = b->data;
    ew_status st = ew_grow(&p, &b->cap, b->size + n + 1, 1, max + 1);
    b->data = p;
    if (st != EW_OK) {
        b->status = st;
        return NULL;
    }
    char *at = b->data + b->size;
    b->size += n;
    b->data[b->size] = '\0';
    return at;
}

void ew_buf_add(ew_buf *b, const void *data, size_t size)
{
    void *at = ew_buf_extend(b, size);
    if (at != NULL && size != 0) {
        memcpy(at, data, size);
    }
}

void ew_buf_adds(ew_buf *b, const char *s)
{
    ew_buf_add(b, s, strlen(s));
}

void ew_buf_addc(ew_buf *b, char c)
{
    ew_buf_add(b, &c, 1);
}

void ew_buf_addf(ew_buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        b->status = EW_EINVAL;
        return;
    }
    char *at = ew_buf_extend(b, (size_t)n);
    if (at != NULL) {
        va_start(args, fmt);
        (void)vsnprintf(at, (size_t)n + 1, fmt, args);
        va_end(args);
    }
}

void ew_buf_consume(ew_buf *b, size_t n)
{
    EW_ASSERT(n <= b->size);
    if (n != 0) {
        memmove(b->data, b->data + n, b->size - n + 1);
        b->size -= n;
    }
}

ew_status ew_buf_check(const ew_buf *b, ew_error *reterr)
{
    switch (b->status) {
    case EW_OK:
        return EW_OK;
    case EW_ELIMIT:
        return ew_fail(reterr, EW_ELIMIT, "text longer than its limit of %zu bytes",
                       b->max != 0 ? b->max : (size_t)EW_BUF_MAX_DEFAULT);
    default:
        return ew_fail(reterr, b->status, "out of memory while building a text of %zu bytes", b->size);
    }
}

const char *ew_buf_str(const ew_buf *b)
{
    return b->data != NULL ? b->data : "";
}

char *ew_buf_take(ew_buf *b)
{
    if (b->status != EW_OK || ew_buf_extend(b, 0) == NULL) {
        return NULL;
    }
    char *p = b->data;
    *b = (ew_buf){.max = b->max};
    return p;
}

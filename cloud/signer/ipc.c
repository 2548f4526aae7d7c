/* See ipc.h. */
#include "signer/ipc.h"

#include <string.h>

#include "sys/socket.h"

static void put_u32(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static size_t get_u32(const uint8_t *p)
{
    return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

ew_status ew_signer_frame_add(const ew_signer_frame *f, ew_buf *out, ew_error *reterr)
{
    size_t size = 1;
    for (size_t i = 0; i < f->n; i++) {
        if (f->field[i].size > EW_SIGNER_FRAME_MAX || (size += 4 + f->field[i].size) > EW_SIGNER_FRAME_MAX) {
            return ew_fail(reterr, EW_ELIMIT, "a request to the signer is larger than %u bytes", EW_SIGNER_FRAME_MAX);
        }
    }
    uint8_t u32[4];
    put_u32(u32, size);
    ew_buf_add(out, u32, 4);
    ew_buf_add(out, &f->code, 1);
    for (size_t i = 0; i < f->n; i++) {
        put_u32(u32, f->field[i].size);
        ew_buf_add(out, u32, 4);
        if (f->field[i].size > 0) {
            ew_buf_add(out, f->field[i].data, f->field[i].size);
        }
    }
    return ew_buf_check(out, reterr);
}

ew_status ew_signer_frame_parse(ew_span body, ew_signer_frame *ret_frame, ew_error *reterr)
{
    ew_signer_frame f = {0};
    const uint8_t *p = body.data;
    size_t left = body.size;
    if (left < 1) {
        return ew_fail(reterr, EW_ECORRUPT, "empty signer frame");
    }
    f.code = *p++;
    left--;
    while (left > 0) {
        if (left < 4 || f.n == EW_SIGNER_FIELDS_MAX || get_u32(p) > left - 4) {
            return ew_fail(reterr, EW_ECORRUPT, "malformed signer frame");
        }
        size_t n = get_u32(p);
        f.field[f.n++] = (ew_span){p + 4, n};
        p += 4 + n;
        left -= 4 + n;
    }
    *ret_frame = f;
    return EW_OK;
}

ew_status ew_signer_frame_recv(int fd, int timeout_ms, ew_buf *buf, ew_error *reterr)
{
    uint8_t u32[4];
    EW_TRY(ew_socket_recv_all(fd, u32, 4, timeout_ms, reterr));
    size_t n = get_u32(u32);
    if (n < 1 || n > EW_SIGNER_FRAME_MAX) {
        return ew_fail(reterr, EW_ECORRUPT, "signer frame of %zu bytes", n);
    }
    ew_buf_clear(buf);
    void *p = ew_buf_extend(buf, n);
    if (p == NULL) {
        return ew_buf_check(buf, reterr);
    }
    return ew_socket_recv_all(fd, p, n, timeout_ms, reterr);
}

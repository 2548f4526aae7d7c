#include "net/frame.h"

#include <string.h>

#include "base/limits.h"
#include "base/mem.h"

#define FIRST_BYTES 4096u

void ew_frame_decoder_init(ew_frame_decoder *d, size_t max_bytes)
{
    memset(d, 0, sizeof(*d));
    d->max_bytes = max_bytes;
}

void ew_frame_decoder_release(ew_frame_decoder *d)
{
    ew_free(d->mem);
    d->mem = NULL;
}

size_t ew_frame_decoder_memory(const ew_frame_decoder *d)
{
    return d->mem != NULL ? d->cap : 0;
}

void ew_frame_header(unsigned char dst[EW_FRAME_HEADER_BYTES], size_t env_len, size_t body_len)
{
    size_t len = env_len + body_len;
    dst[0] = (unsigned char)(len >> 24);
    dst[1] = (unsigned char)(len >> 16);
    dst[2] = (unsigned char)(len >> 8);
    dst[3] = (unsigned char)len;
    dst[4] = EW_FRAME_VERSION;
    dst[5] = (unsigned char)(env_len >> 16);
    dst[6] = (unsigned char)(env_len >> 8);
    dst[7] = (unsigned char)env_len;
}

static ew_status header_done(ew_frame_decoder *d, ew_error *reterr)
{
    const unsigned char *h = d->header;
    size_t len = (size_t)h[0] << 24 | (size_t)h[1] << 16 | (size_t)h[2] << 8 | h[3];
    size_t env_len = (size_t)h[5] << 16 | (size_t)h[6] << 8 | h[7];
    if (len > d->max_bytes) {
        return ew_fail(reterr, EW_ELIMIT, "frame of %zu bytes, at most %zu are allowed here", len, d->max_bytes);
    }
    if (h[4] != EW_FRAME_VERSION) {
        return ew_fail(reterr, EW_ECORRUPT, "frame of version %u, %u is spoken here", h[4], EW_FRAME_VERSION);
    }
    if (env_len == 0 || env_len > EW_LIMIT_ENVELOPE_BYTES || env_len > len) {
        return ew_fail(reterr, EW_ECORRUPT, "frame of %zu bytes with an envelope of %zu", len, env_len);
    }
    d->env_len = env_len;
    d->body_len = len - env_len;
    d->got = 0;
    return EW_OK;
}

/* The body starts at a 16-byte boundary after the envelope. */
static size_t body_at(const ew_frame_decoder *d)
{
    return EW_ALIGN_UP(sizeof(ew_frame) + d->env_len, 16);
}

static ew_status make_room(ew_frame_decoder *d, size_t want, ew_error *reterr)
{
    size_t payload = d->env_len + d->body_len;
    size_t whole = body_at(d) + d->body_len;
    size_t overhead = whole - payload;
    size_t cap = EW_MIN(payload, EW_MAX((size_t)FIRST_BYTES, 2 * (d->got + want))) + overhead;
    if (d->cap >= cap && d->mem != NULL) {
        return EW_OK;
    }
    unsigned char *mem = ew_realloc(d->mem, 1, cap);
    if (mem == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "frame of %zu bytes: out of memory", payload);
    }
    d->mem = mem;
    d->cap = cap;
    return EW_OK;
}

static void take(ew_frame_decoder *d, ew_span *data)
{
    size_t total = d->env_len + d->body_len;
    while (data->size > 0 && d->got < total) {
        bool env = d->got < d->env_len;
        size_t n = EW_MIN(data->size, (env ? d->env_len : total) - d->got);
        size_t at = env ? sizeof(ew_frame) + d->got : body_at(d) + d->got - d->env_len;
        memcpy(d->mem + at, data->data, n);
        d->got += n;
        *data = (ew_span){(const char *)data->data + n, data->size - n};
    }
}

static ew_frame *finish(ew_frame_decoder *d)
{
    ew_frame *f = (ew_frame *)(void *)d->mem;
    f->wire_bytes = EW_FRAME_HEADER_BYTES + d->env_len + d->body_len;
    f->envelope = (ew_span){f->mem, d->env_len};
    f->body = (ew_span){d->mem + body_at(d), d->body_len};
    d->mem = NULL;
    d->cap = 0;
    d->n_header = 0;
    return f;
}

ew_status ew_frame_decode(ew_frame_decoder *d, ew_span *data, ew_frame **ret_frame, ew_error *reterr)
{
    *ret_frame = NULL;
    if (d->failed) {
        return ew_fail(reterr, EW_ECORRUPT, "the stream of frames is broken");
    }
    if (d->n_header < EW_FRAME_HEADER_BYTES) {
        size_t n = EW_MIN(data->size, EW_FRAME_HEADER_BYTES - d->n_header);
        if (n > 0) {
            memcpy(d->header + d->n_header, data->data, n);
            *data = (ew_span){(const char *)data->data + n, data->size - n};
        }
        d->n_header += n;
        if (d->n_header < EW_FRAME_HEADER_BYTES) {
            return EW_OK;
        }
        ew_status st = header_done(d, reterr);
        if (st != EW_OK) {
            d->failed = true;
            return st;
        }
    }
    size_t total = d->env_len + d->body_len;
    if (data->size == 0) {
        return EW_OK;
    }
    ew_status st = make_room(d, EW_MIN(data->size, total - d->got), reterr);
    if (st != EW_OK) {
        d->failed = true;
        return st;
    }
    take(d, data);
    *ret_frame = d->got == total ? finish(d) : NULL;
    return EW_OK;
}

void ew_frame_free(ew_frame **f)
{
    if (f != NULL && *f != NULL) {
        ew_free(*f);
        *f = NULL;
    }
}

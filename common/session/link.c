#include "session/link.h"

#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

#define BATCH_BYTES 16384u
#define SOCKET_MSG_BYTES (128u * 1024)
#define UNSENT_SLACK_BYTES (512u * 1024) /* a message that libzmq releases late, and frames outside of the window */

/* ---- frames to send */

static ew_status out_start(const ew_msg *msg, const ew_wire_header *h, size_t body_len, ew__out **ret, ew_error *reterr)
{
    if (body_len > EW_LIMIT_BODY_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "message %s with a body of %zu bytes, at most %u are allowed",
                       ew_msg_type_name(msg->type), body_len, EW_LIMIT_BODY_BYTES);
    }
    ew_wire_header none = {0};
    if (h != NULL) {
        none = *h;
        none.msg_id = none.reply_to = 0;
    }
    ew__out *o = ew_calloc(1, sizeof(*o));
    if (o == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "message %s: out of memory", ew_msg_type_name(msg->type));
    }
    o->buf.max = EW_LIMIT_FRAME_BYTES + 4096;
    void *reserve = ew_buf_extend(&o->buf, EW__OUT_RESERVE);
    ew_status st = reserve != NULL ? ew_wire_pack_as(msg, &none, &o->buf, reterr) : ew_buf_check(&o->buf, reterr);
    o->env_len = o->buf.size - EW__OUT_RESERVE;
    o->body_len = body_len;
    o->counted = ew__link_counts((uint32_t)msg->type);
    o->urgent = !o->counted && msg->type != EW_MSG_GO_AWAY;
    if (st == EW_OK && o->env_len > EW_LIMIT_ENVELOPE_BYTES - EW__OUT_RESERVE) {
        st = ew_fail(reterr, EW_ELIMIT, "message %s is too long", ew_msg_type_name(msg->type));
    }
    if (st != EW_OK) {
        ew__out_free(&o);
        return st;
    }
    *ret = o;
    return EW_OK;
}

ew_status ew__out_new_body(const ew_msg *msg, const ew_wire_header *h, size_t body_len, ew__out **ret, char **ret_body,
                           ew_error *reterr)
{
    ew__out *o = NULL;
    EW_TRY(out_start(msg, h, body_len, &o, reterr));
    char *body = ew_buf_extend(&o->buf, body_len);
    if (body == NULL) {
        ew_status st = ew_buf_check(&o->buf, reterr);
        ew__out_free(&o);
        return st;
    }
    *ret = o;
    *ret_body = body;
    return EW_OK;
}

ew_status ew__out_new(const ew_msg *msg, const ew_wire_header *h, ew_span body, ew__out **ret, ew_error *reterr)
{
    char *to = NULL;
    EW_TRY(ew__out_new_body(msg, h, body.size, ret, &to, reterr));
    if (body.size > 0) {
        memcpy(to, body.data, body.size);
    }
    return EW_OK;
}

ew_status ew__out_clone(const ew__out *o, ew__out **ret)
{
    ew__out *c = ew_calloc(1, sizeof(*c));
    if (c == NULL) {
        return EW_ENOMEM;
    }
    c->buf.max = o->buf.max;
    c->env_len = o->env_len;
    c->body_len = o->body_len;
    c->bulk = o->bulk;
    c->counted = o->counted;
    c->urgent = o->urgent;
    ew_buf_add(&c->buf, o->buf.data, o->buf.size);
    if (c->buf.status != EW_OK) {
        ew__out_free(&c);
        return EW_ENOMEM;
    }
    *ret = c;
    return EW_OK;
}

void ew__out_free(ew__out **o)
{
    if (o != NULL && *o != NULL) {
        if ((*o)->written != NULL) {
            (*o)->written(*o, (*o)->ctx, 0);
        }
        ew_buf_release(&(*o)->buf);
        ew_free(*o);
        *o = NULL;
    }
}

size_t ew__out_bytes(const ew__out *o)
{
    return o->env_len + o->body_len + EW__OUT_RESERVE; /* an upper bound until it is sealed */
}

static size_t put_varint(unsigned char *dst, uint64_t v)
{
    size_t n = 0;
    while (v >= 0x80) {
        dst[n++] = (unsigned char)(v | 0x80);
        v >>= 7;
    }
    dst[n++] = (unsigned char)v;
    return n;
}

/* Writes the header and the two ids in front of the envelope; the frame is the span. */
static ew_span seal(ew__out *o, uint64_t msg_id)
{
    unsigned char ids[24];
    size_t n = 0;
    ids[n++] = 1 << 3;
    n += put_varint(ids + n, msg_id);
    if (o->reply_to != 0) {
        ids[n++] = 2 << 3;
        n += put_varint(ids + n, o->reply_to);
    }
    unsigned char *at = (unsigned char *)o->buf.data + EW__OUT_RESERVE - n;
    memcpy(at, ids, n);
    at -= EW_FRAME_HEADER_BYTES;
    ew_frame_header(at, o->env_len + n, o->body_len);
    return (ew_span){at, EW_FRAME_HEADER_BYTES + n + o->env_len + o->body_len};
}

/* ---- link */

void ew__link_init(ew__link *l, ew_io *io, ew_io_peer *peer, size_t max_frame)
{
    memset(l, 0, sizeof(*l));
    l->io = io;
    l->peer = peer;
    l->next_id = 1;
    l->window_in = EW_LIMIT_SESSION_WINDOW_BYTES;
    l->window_out = EW_LIMIT_SESSION_WINDOW_BYTES;
    l->last_sent_ms = l->last_recv_ms = ew_mono_ms();
    ew_frame_decoder_init(&l->dec, max_frame);
}

static void unsent_unref(ew__unsent *u)
{
    if (u != NULL && atomic_fetch_sub_explicit(&u->refs, 1, memory_order_acq_rel) == 1) {
        ew_free(u);
    }
}

static void drop_queue(ew__out *o)
{
    while (o != NULL) {
        ew__out *next = o->next;
        ew__out_free(&o);
        o = next;
    }
}

void ew__link_release(ew__link *l)
{
    for (size_t i = 0; i < EW__QUEUES; i++) {
        ew__out *o = l->head[i];
        l->head[i] = l->tail[i] = NULL;
        drop_queue(o);
    }
    l->queued_bytes = l->waiting_bytes = 0;
    unsent_unref(l->unsent);
    l->unsent = NULL;
    ew_frame_decoder_release(&l->dec);
    ew_tls_free(&l->tls);
}

void ew__link_drop_bulk(ew__link *l)
{
    ew__out *bulk = l->head[2];
    l->head[2] = l->tail[2] = NULL;
    for (const ew__out *o = bulk; o != NULL; o = o->next) {
        l->queued_bytes -= ew__out_bytes(o);
    }
    drop_queue(bulk);
}

bool ew__link_idle(const ew__link *l)
{
    return l->head[0] == NULL && l->head[1] == NULL && l->head[2] == NULL;
}

static ew_status one_frame(ew__link *l, ew_frame *f, ew__frame_fn fn, void *ctx, bool *go_on, ew_error *reterr)
{
    ew_wire_header h;
    uint64_t before = l->recv_bytes - l->told;
    if (l->count_in != NULL) {
        *l->count_in += f->wire_bytes;
    }
    ew_status st = l->tap != NULL ? l->tap(l->tap_ctx, false, f->envelope, f->body, reterr) : EW_OK;
    if (st != EW_OK) {
        ew_frame_free(&f);
        return st;
    }
    st = ew_wire_walk(f->envelope, &h, reterr);
    if (st == EW_OK && ew__link_counts(h.payload)) {
        l->recv_bytes += f->wire_bytes;
        if (before > l->window_in / 2 && l->recv_bytes - l->told > l->window_in) {
            st = ew_fail(reterr, EW_ELIMIT, "the peer sent more than the session window");
        }
    }
    if (st == EW_OK && h.msg_id <= l->last_peer_id) {
        st = ew_fail(reterr, EW_ECORRUPT, "message id %llu after %llu", (unsigned long long)h.msg_id,
                     (unsigned long long)l->last_peer_id);
    }
    if (st != EW_OK) {
        ew_frame_free(&f);
        return st;
    }
    l->last_peer_id = h.msg_id;
    *go_on = fn(ctx, f, &h);
    return EW_OK;
}

ew_status ew__link_input(ew__link *l, const void *data, size_t size, ew__frame_fn fn, void *ctx, ew_error *reterr)
{
    unsigned char plain[16384];
    bool go_on = true;
    l->raw_in += size;
    EW_TRY(ew_tls_input(l->tls, data, size, reterr));
    while (go_on && l->tls != NULL && ew_tls_get_state(l->tls) == EW_TLS_UP) {
        size_t n;
        EW_TRY(ew_tls_read(l->tls, plain, sizeof(plain), &n, reterr));
        if (n == 0) {
            break;
        }
        ew_span rest = {plain, n};
        while (go_on && rest.size > 0) {
            ew_frame *f = NULL;
            EW_TRY(ew_frame_decode(&l->dec, &rest, &f, reterr));
            if (f != NULL) {
                l->last_recv_ms = ew_mono_ms();
                EW_TRY(one_frame(l, f, fn, ctx, &go_on, reterr));
            }
        }
    }
    return EW_OK;
}

static size_t memory_of(const ew__out *o)
{
    return sizeof(*o) + ew__out_bytes(o);
}

void ew__link_send(ew__link *l, ew__out **out)
{
    ew__out *o = *out;
    *out = NULL;
    o->next = NULL;
    if (l->peer == NULL) {
        ew__out_free(&o);
        return;
    }
    size_t q = o->urgent ? 0 : o->bulk ? 2 : 1;
    *(l->tail[q] != NULL ? &l->tail[q]->next : &l->head[q]) = o;
    l->tail[q] = o;
    l->queued_bytes += ew__out_bytes(o);
    l->waiting_bytes += q == 1 ? memory_of(o) : 0;
}

ew_status ew__link_send_msg(ew__link *l, const ew_msg *msg, uint64_t reply_to, bool last, ew_error *reterr)
{
    ew__out *o = NULL;
    ew_wire_header h = {.last = last};
    EW_TRY(ew__out_new(msg, &h, (ew_span){NULL, 0}, &o, reterr));
    o->reply_to = reply_to;
    ew__link_send(l, &o);
    return EW_OK;
}

typedef struct buffer {
    ew__unsent *unsent;
    size_t size;
    char data[];
} buffer;

/* Any thread of libzmq. */
static void buffer_free(void *data, void *hint)
{
    (void)data;
    buffer *b = hint;
    atomic_fetch_sub_explicit(&b->unsent->bytes, b->size, memory_order_relaxed);
    unsent_unref(b->unsent);
    ew_free(b);
}

static buffer *buffer_new(ew__link *l, size_t size)
{
    if (l->unsent == NULL) {
        l->unsent = ew_calloc(1, sizeof(*l->unsent));
        if (l->unsent == NULL) {
            return NULL;
        }
        atomic_init(&l->unsent->refs, 1);
        atomic_init(&l->unsent->bytes, 0);
    }
    buffer *b = ew_malloc(1, sizeof(*b) + size);
    if (b != NULL) {
        b->unsent = l->unsent;
        b->size = size;
        atomic_fetch_add_explicit(&l->unsent->refs, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&l->unsent->bytes, size, memory_order_relaxed);
    }
    return b;
}

ew_status ew__link_flush_tls(ew__link *l, ew_error *reterr)
{
    while (l->tls != NULL && l->peer != NULL) {
        size_t n = ew_tls_output_pending(l->tls);
        if (n == 0) {
            return EW_OK;
        }
        n = EW_MIN(n, SOCKET_MSG_BYTES);
        buffer *b = buffer_new(l, n);
        if (b == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "connection: out of memory");
        }
        n = ew_tls_output(l->tls, b->data, n);
        EW_TRY(ew_io_send(l->io, l->peer, b->data, n, buffer_free, b, reterr));
        l->last_sent_ms = ew_mono_ms();
    }
    return EW_OK;
}

static bool may_send(const ew__link *l, const ew__out *o)
{
    uint64_t open = l->sent_bytes - l->peer_consumed;
    size_t size = ew__out_bytes(o);
    return !o->counted || open + size <= l->window_out || open <= l->window_out / 2;
}

/* The next frame that may go now, taken off its queue. */
static ew__out *next_out(ew__link *l)
{
    size_t q = 0;
    while (q < EW__QUEUES && l->head[q] == NULL) {
        q++;
    }
    ew__out *o = q < EW__QUEUES ? l->head[q] : NULL;
    if (o == NULL || !may_send(l, o)) {
        return NULL;
    }
    l->head[q] = o->next;
    if (o->next == NULL) {
        l->tail[q] = NULL;
    }
    l->queued_bytes -= ew__out_bytes(o);
    l->waiting_bytes -= q == 1 ? memory_of(o) : 0;
    return o;
}

ew_status ew__link_flush(ew__link *l, ew_error *reterr)
{
    unsigned char batch[BATCH_BYTES];
    size_t n = 0;
    ew_status st = EW_OK;
    ew__out *o;
    if (l->peer == NULL || l->tls == NULL || ew_tls_get_state(l->tls) != EW_TLS_UP) {
        return l->tls != NULL ? ew__link_flush_tls(l, reterr) : EW_OK;
    }
    while (st == EW_OK && (o = next_out(l)) != NULL) {
        uint64_t id = l->next_id++;
        ew_span f = seal(o, id);
        l->sent_bytes += o->counted ? f.size : 0;
        if (l->count_out != NULL) {
            *l->count_out += f.size;
        }
        if (l->tap != NULL) {
            size_t env = f.size - EW_FRAME_HEADER_BYTES - o->body_len;
            const char *at = (const char *)f.data + EW_FRAME_HEADER_BYTES;
            st = l->tap(l->tap_ctx, true, (ew_span){at, env}, (ew_span){at + env, o->body_len}, reterr);
        }
        if (st == EW_OK && f.size > sizeof(batch) - n && n > 0) {
            st = ew_tls_write(l->tls, batch, n, reterr);
            n = 0;
        }
        if (st == EW_OK && f.size > sizeof(batch)) {
            st = ew_tls_write(l->tls, f.data, f.size, reterr);
        } else if (st == EW_OK) {
            memcpy(batch + n, f.data, f.size);
            n += f.size;
        }
        if (o->written != NULL) {
            o->written(o, o->ctx, id);
            o->written = NULL;
        }
        ew__out_free(&o);
    }
    if (st == EW_OK && n > 0) {
        st = ew_tls_write(l->tls, batch, n, reterr);
    }
    if (ew__link_idle(l)) {
        l->blocked_since_ms = 0;
    } else if (l->blocked_since_ms == 0) {
        l->blocked_since_ms = EW_MAX(ew_mono_ms(), 1);
    }
    return st == EW_OK ? ew__link_flush_tls(l, reterr) : st;
}

bool ew__link_counts(uint32_t payload)
{
    return payload < EW_MSG_HELLO || payload > EW_MSG_CANCEL || payload == EW_MSG_ERROR;
}

void ew__link_consume(ew__link *l, size_t bytes)
{
    l->consumed += bytes;
    if (l->peer != NULL && l->consumed - l->told >= l->window_in / 4) {
        ew_msg m = {.type = EW_MSG_CREDIT};
        m.credit.bytes_consumed = l->consumed;
        if (ew__link_send_msg(l, &m, 0, false, NULL) == EW_OK) {
            l->told = l->consumed;
        }
    }
}

bool ew__link_peer_consumed(ew__link *l, uint64_t bytes)
{
    size_t unsent = l->unsent != NULL ? atomic_load_explicit(&l->unsent->bytes, memory_order_relaxed) : 0;
    if (bytes > l->sent_bytes || unsent > 2 * (l->sent_bytes - bytes) + UNSENT_SLACK_BYTES) {
        return false;
    }
    if (bytes > l->peer_consumed) {
        l->peer_consumed = bytes;
        l->blocked_since_ms = 0;
    }
    return true;
}

void ew__link_close(ew__link *l)
{
    if (l->peer != NULL) {
        if (l->tls != NULL) {
            ew_error ignored;
            ew_tls_shutdown(l->tls);
            (void)!ew__link_flush_tls(l, &ignored);
        }
        ew_io_close(l->io, l->peer);
        l->peer = NULL;
    }
}

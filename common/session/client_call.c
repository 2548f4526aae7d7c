/* The client's requests and the coordinator's requests to it. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "session/client_int.h"
#include "session/reply_int.h"

#define ATTEMPTS_MAX 5
#define RTT_MS 250 /* a reply may be on its way when the deadline passes */
#define CONTROL_PER_S 180.0
#define CONTROL_BURST 300.0
#define RETRY_WAIT_MS 200

/* ---- a request */

static void request_unref(ew__request *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    while (r->replies != NULL) {
        ew__reply_frame *f = r->replies;
        r->replies = f->next;
        ew_frame_free(&f->frame);
        ew_free(f);
    }
    ew__out_free(&r->out);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    ew_free(r);
}

/* I/O thread: takes it off the list and drops its hold. */
static void unlist(ew_client *c, ew__request *r)
{
    ew__request **at = &c->requests;
    ew__request *before = NULL;
    while (*at != NULL && *at != r) {
        before = *at;
        at = &(*at)->next;
    }
    if (*at == r) {
        *at = r->next;
        if (c->requests_tail == r) {
            c->requests_tail = before;
        }
        r->listed = false;
        if (r->out == NULL && r->gen == c->connects && c->n_sent > 0) {
            c->n_sent--;
        }
        request_unref(r);
    }
}

static void finish(ew_client *c, ew__request *r, ew_status st, bool lost, const char *why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->over) {
        r->over = true;
        r->lost = lost;
        if (st != EW_OK) {
            (void)ew_fail(&r->err, st, "%s", why);
        }
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    unlist(c, r);
}

static void request_written(ew__out *out, void *ctx, uint64_t msg_id)
{
    (void)out;
    ew__request *r = ctx;
    r->msg_id = msg_id;
    request_unref(r);
}

/* ---- I/O thread */

static bool token(ew_client *c, const ew__request *r, uint64_t now)
{
    if (r->stream_id != 0) {
        return true;
    }
    c->control_tokens = EW_MIN(CONTROL_BURST, c->control_tokens + CONTROL_PER_S * (double)(now - c->control_ms) / 1e3);
    c->control_ms = now;
    if (c->control_tokens < 1) {
        return false;
    }
    c->control_tokens -= 1;
    return true;
}

void ew__client_send_waiting(ew_client *c)
{
    uint64_t now = ew_mono_ms();
    for (ew__request *r = c->requests; r != NULL && c->state == EW_CLIENT_ACTIVE; r = r->next) {
        if (r->out == NULL) {
            continue;
        }
        if (c->n_sent >= EW_LIMIT_INFLIGHT - 1 || !token(c, r, now)) {
            break;
        }
        c->n_sent++;
        r->gen = c->connects;
        r->msg_id = 0;
        r->out->written = request_written;
        r->out->ctx = r;
        atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
        ew__link_send(&c->link, &r->out);
    }
    ew__client_flush(c);
}

static void submit_done(ew__item *item, void *owner)
{
    ew__request *r = (ew__request *)item;
    ew_client *c = owner;
    r->next = NULL;
    *(c->requests_tail != NULL ? &c->requests_tail->next : &c->requests) = r;
    c->requests_tail = r;
    r->listed = true;
    pthread_mutex_lock(&c->lock);
    bool stopping = c->stopping;
    bool final = c->final;
    ew_error last = c->last_err;
    pthread_mutex_unlock(&c->lock);
    if (stopping) {
        finish(c, r, EW_ECANCELLED, false, "the client is stopping");
    } else if (final) {
        finish(c, r, last.code, false, last.msg);
    } else {
        ew__client_send_waiting(c);
    }
}

void ew__client_on_reply(ew_client *c, ew_frame *frame, const ew_wire_header *h)
{
    ew__request *r = c->requests;
    while (r != NULL && (r->msg_id != h->reply_to || r->gen != c->connects)) {
        r = r->next;
    }
    bool last = h->last || h->payload == (uint32_t)EW_MSG_ERROR;
    ew__reply_frame *f = r != NULL && !r->cancelled ? ew_calloc(1, sizeof(*f)) : NULL;
    if (f == NULL || !r->parts) {
        ew__link_consume(&c->link, frame->wire_bytes);
    }
    if (f == NULL) { /* late, or out of memory */
        ew_frame_free(&frame);
        if (r != NULL && last) {
            finish(c, r, EW_ENOMEM, false, "out of memory");
        }
        return;
    }
    *f = (ew__reply_frame){NULL, frame, last};
    pthread_mutex_lock(&r->lock);
    *(r->replies_tail != NULL ? &r->replies_tail->next : &r->replies) = f;
    r->replies_tail = f;
    r->over = last;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (last) {
        unlist(c, r);
        ew__client_send_waiting(c);
    } else {
        r->deadline_ms = ew_mono_ms() + r->timeout_ms;
    }
}

void ew__client_lost(ew_client *c)
{
    ew__request *r = c->requests;
    while (r != NULL) {
        ew__request *next = r->next;
        if (r->out == NULL) {
            finish(c, r, EW_EREMOTE, true, "the connection to the coordinator was lost");
        }
        r = next;
    }
}

void ew__client_fail_all(ew_client *c, ew_status st, const char *why)
{
    while (c->requests != NULL) {
        finish(c, c->requests, st, false, why);
    }
}

static void send_cancel(ew_client *c, const ew__request *r)
{
    if (r->msg_id != 0 && r->gen == c->connects && c->link_up) {
        ew_msg *m = ew_msg_new(EW_MSG_CANCEL);
        ew_error ignored;
        if (m != NULL) {
            m->cancel_msg_id = r->msg_id;
            (void)!ew__link_send_msg(&c->link, m, 0, false, &ignored);
        }
        ew_msg_free(&m);
    }
}

uint64_t ew__client_expire(ew_client *c, uint64_t now)
{
    uint64_t at = UINT64_MAX;
    bool waiting = false;
    ew__request *r = c->requests;
    while (r != NULL) {
        ew__request *next = r->next;
        uint64_t end = r->deadline_ms + (r->out == NULL ? RTT_MS : 0);
        if (now >= end) {
            send_cancel(c, r);
            finish(c, r, EW_ETIMEOUT, false,
                   r->out == NULL ? "the coordinator did not answer in time"
                                  : "there was no session with the coordinator in time");
        } else {
            at = EW_MIN(at, end);
            waiting = waiting || r->out != NULL;
        }
        r = next;
    }
    if (waiting && c->state == EW_CLIENT_ACTIVE && c->n_sent < EW_LIMIT_INFLIGHT - 1) { /* for a token */
        ew__client_send_waiting(c);
        at = EW_MIN(at, now + 20);
    }
    return at;
}

/* ---- any thread */

ew_status ew__client_open(ew_client *c, const ew_msg *msg, ew_span body, uint32_t attempt, uint32_t timeout_ms,
                          bool parts, ew__request **ret, ew_error *reterr)
{
    ew__request *r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "call: out of memory");
    }
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, &mono);
    pthread_condattr_destroy(&mono);
    atomic_init(&r->refs, 1);
    r->c = c;
    r->item.done = submit_done;
    r->timeout_ms = timeout_ms;
    r->deadline_ms = ew_mono_ms() + timeout_ms;
    r->stream_id = msg->stream_id;
    r->parts = parts;
    ew_wire_header h = {.deadline_ms = parts ? 0 : timeout_ms,
                        .attempt = attempt,
                        .stream_id = msg->stream_id,
                        .has_idem_key = msg->has_idem_key};
    memcpy(h.idem_key, msg->idem_key, sizeof(h.idem_key));
    ew_status st = ew__out_new(msg, &h, body, &r->out, reterr);
    if (st == EW_OK) {
        atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
        if (!ew__hub_post(c->hub, &r->item)) {
            request_unref(r);
            st = ew_fail(reterr, EW_ECANCELLED, "the client is stopping");
        }
    }
    if (st != EW_OK) {
        request_unref(r);
        return st;
    }
    *ret = r;
    return EW_OK;
}

ew_status ew__client_next(ew__request *r, uint32_t wait_ms, ew_frame **ret, bool *ret_last, ew_error *reterr)
{
    uint64_t until_ms = ew_mono_ms() + wait_ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_mutex_lock(&r->lock);
    int rc = 0;
    while (rc == 0 && r->replies == NULL && !r->over) {
        rc = pthread_cond_timedwait(&r->changed, &r->lock, &until);
    }
    ew__reply_frame *f = r->replies;
    if (f != NULL) {
        r->replies = f->next;
        if (r->replies == NULL) {
            r->replies_tail = NULL;
        }
    }
    bool over = r->over;
    ew_error err = r->err;
    pthread_mutex_unlock(&r->lock);
    if (f != NULL) {
        *ret = f->frame;
        *ret_last = f->last;
        ew_free(f);
        return EW_OK;
    }
    if (over) {
        return ew_fail(reterr, err.code != EW_OK ? err.code : EW_EREMOTE, "%s", err.msg);
    }
    return ew_fail(reterr, EW_ETIMEOUT, "the coordinator did not answer in time");
}

typedef struct consumed {
    ew__item item;
    ew__request *r; /* holds a reference */
    size_t bytes;
    uint64_t limit;
    bool close;
} consumed;

static void consumed_done(ew__item *item, void *owner)
{
    consumed *m = (consumed *)item;
    ew_client *c = owner;
    ew__request *r = m->r;
    if (c->link_up && r->gen == c->connects && r->msg_id != 0) {
        if (m->limit != 0) {
            ew_msg *credit = ew_msg_new(EW_MSG_CREDIT);
            ew_error ignored;
            if (credit != NULL) {
                c->link.consumed += m->bytes;
                credit->credit.stream_id = r->stream_id;
                credit->credit.limit = m->limit;
                credit->credit.bytes_consumed = c->link.told = c->link.consumed;
                (void)!ew__link_send_msg(&c->link, credit, 0, false, &ignored);
            }
            ew_msg_free(&credit);
        } else {
            ew__link_consume(&c->link, m->bytes);
        }
    }
    if (m->close && r->listed) {
        send_cancel(c, r);
        r->cancelled = true;
        finish(c, r, EW_ECANCELLED, false, "cancelled");
    }
    ew__client_flush(c);
    request_unref(r);
    ew_free(m);
}

static void post_consumed(ew__request *r, size_t bytes, uint64_t limit, bool close)
{
    consumed *m = ew_calloc(1, sizeof(*m));
    if (m == NULL) {
        return; /* the window shrinks by that much; the session ends as slow in the end */
    }
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    *m = (consumed){.item.done = consumed_done, .r = r, .bytes = bytes, .limit = limit, .close = close};
    if (!ew__hub_post(r->c->hub, &m->item)) {
        request_unref(r);
        ew_free(m);
    }
}

void ew__client_consumed(ew__request *r, size_t bytes, uint64_t limit)
{
    post_consumed(r, bytes, limit, false);
}

void ew__client_close(ew__request **req)
{
    ew__request *r = *req;
    *req = NULL;
    if (r == NULL) {
        return;
    }
    pthread_mutex_lock(&r->lock);
    size_t bytes = 0;
    while (r->replies != NULL) {
        ew__reply_frame *f = r->replies;
        r->replies = f->next;
        bytes += f->frame->wire_bytes;
        ew_frame_free(&f->frame);
        ew_free(f);
    }
    r->replies_tail = NULL;
    bool over = r->over;
    pthread_mutex_unlock(&r->lock);
    if (!over || (bytes > 0 && r->parts)) {
        post_consumed(r, r->parts ? bytes : 0, 0, !over);
    }
    request_unref(r);
}

uint32_t ew_client_stream_new(ew_client *c)
{
    return atomic_fetch_add(&c->next_stream, 2);
}

/* ---- calls */

/* Sleeps unless the client stops. */
static bool pause_ms(ew_client *c, uint64_t ms)
{
    uint64_t until_ms = ew_mono_ms() + ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_mutex_lock(&c->lock);
    int rc = 0;
    while (rc == 0 && !c->stopping) {
        rc = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    }
    bool stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return !stopping;
}

/* At most a tenth of all calls may be retries, after the first few. */
static bool retry_allowed(ew_client *c)
{
    pthread_mutex_lock(&c->lock);
    bool ok = c->retry_tokens >= 1;
    if (ok) {
        c->retry_tokens -= 1;
        c->stats.retries++;
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

static ew_status take_reply(ew_frame **frame, ew_msg **ret, bool *ret_retry, uint32_t *ret_after_ms, ew_error *reterr)
{
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_status st = m != NULL ? ew_wire_unpack((*frame)->envelope, (*frame)->body, m, reterr)
                             : ew_fail(reterr, EW_ENOMEM, "reply: out of memory");
    if (st == EW_OK && m->type == EW_MSG_ERROR) {
        st = ew_code_to_status(m->error.code);
        st = ew_fail(reterr, st != EW_OK ? st : EW_EREMOTE, "%s", m->error.detail);
        *ret_retry = m->error.retryable;
        *ret_after_ms = m->error.retry_after_ms;
    }
    if (st != EW_OK) {
        ew_msg_free(&m);
        return st;
    }
    *ret = m;
    return EW_OK;
}

static ew_status one_attempt(ew_client *c, const ew_msg *msg, ew_span body, uint32_t attempt, uint64_t until_ms,
                             ew_msg **ret_msg, ew_buf *ret_body, bool *ret_retry, uint32_t *ret_after_ms,
                             ew_error *reterr)
{
    uint64_t now = ew_mono_ms();
    uint32_t left = until_ms > now ? (uint32_t)(until_ms - now) : 1;
    ew__request *r = NULL;
    ew_frame *frame = NULL;
    ew_msg *m = NULL;
    bool last = false;
    EW_TRY(ew__client_open(c, msg, body, attempt, left, false, &r, reterr));
    ew_status st = ew__client_next(r, left + 2 * RTT_MS, &frame, &last, reterr);
    if (st != EW_OK) {
        *ret_retry = r->lost;
    } else {
        st = take_reply(&frame, &m, ret_retry, ret_after_ms, reterr);
    }
    if (st == EW_OK && ret_body != NULL) {
        ew_buf_clear(ret_body);
        ew_buf_add(ret_body, frame->body.data, frame->body.size);
        st = ew_buf_check(ret_body, reterr);
    }
    if (st == EW_OK && ret_msg != NULL) {
        *ret_msg = m;
        m = NULL;
    }
    ew_msg_free(&m);
    ew_frame_free(&frame);
    ew__client_close(&r);
    return st;
}

static void count_call(ew_client *c)
{
    pthread_mutex_lock(&c->lock);
    c->stats.calls++;
    c->retry_tokens = EW_MIN(10.0, c->retry_tokens + 0.1);
    pthread_mutex_unlock(&c->lock);
}

ew_status ew_client_call(ew_client *c, const ew_msg *msg, ew_span body, uint32_t timeout_ms, ew_msg **ret_msg,
                         ew_buf *ret_body, ew_error *reterr)
{
    timeout_ms = timeout_ms != 0 ? timeout_ms : 30000;
    uint64_t until_ms = ew_mono_ms() + timeout_ms;
    ew_msg *keyed = NULL;
    if (!msg->has_idem_key) {
        keyed = ew_malloc(1, sizeof(*keyed));
        if (keyed == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "call: out of memory");
        }
        *keyed = *msg;
        keyed->has_idem_key = true;
        ew_random_bytes(keyed->idem_key, sizeof(keyed->idem_key));
        msg = keyed;
    }
    count_call(c);
    ew_status st;
    ew_error err = EW_ERROR_INIT;
    for (uint32_t attempt = 0;; attempt++) {
        bool retry = false;
        uint32_t after_ms = 0;
        st = one_attempt(c, msg, body, attempt, until_ms, ret_msg, ret_body, &retry, &after_ms, &err);
        if (st == EW_OK || !retry || attempt + 1 >= ATTEMPTS_MAX || !retry_allowed(c)) {
            break;
        }
        uint64_t base = EW_MAX(after_ms, (uint32_t)RETRY_WAIT_MS << attempt);
        uint8_t dice;
        ew_random_bytes(&dice, 1);
        uint64_t wait = base / 2 + base * dice / 255;
        if (ew_mono_ms() + wait >= until_ms || !pause_ms(c, wait)) {
            break;
        }
    }
    ew_free(keyed);
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "%s", err.msg);
}

ew_status ew_client_call_parts(ew_client *c, const ew_msg *msg, ew_span body, uint32_t timeout_ms,
                               ew_client_part_fn on_part, void *part_ctx, ew_error *reterr)
{
    timeout_ms = timeout_ms != 0 ? timeout_ms : 30000;
    ew__request *r = NULL;
    bool last = false;
    count_call(c);
    EW_TRY(ew__client_open(c, msg, body, 0, timeout_ms, true, &r, reterr));
    ew_status st = EW_OK;
    while (st == EW_OK && !last) {
        ew_frame *frame = NULL;
        ew_msg *m = NULL;
        bool retry;
        uint32_t after_ms;
        st = ew__client_next(r, timeout_ms + 2 * RTT_MS, &frame, &last, reterr);
        if (st == EW_OK) {
            st = take_reply(&frame, &m, &retry, &after_ms, reterr);
            if (st == EW_OK && !on_part(part_ctx, m, frame->body)) {
                st = ew_fail(reterr, EW_ECANCELLED, "cancelled");
            }
            ew__client_consumed(r, frame->wire_bytes, 0);
        }
        ew_msg_free(&m);
        ew_frame_free(&frame);
    }
    ew__client_close(&r);
    return st;
}

typedef struct notify {
    ew__item item;
    ew__out *out;
} notify;

static void notify_done(ew__item *item, void *owner)
{
    notify *n = (notify *)item;
    ew_client *c = owner;
    if (c->state == EW_CLIENT_ACTIVE) {
        ew__link_send(&c->link, &n->out);
        ew__client_flush(c);
    }
    ew__out_free(&n->out);
    ew_free(n);
}

ew_status ew_client_notify(ew_client *c, const ew_msg *msg, ew_span body, ew_error *reterr)
{
    if (ew_client_get_state(c) != EW_CLIENT_ACTIVE) {
        return ew_fail(reterr, EW_EREMOTE, "there is no session with the coordinator");
    }
    notify *n = ew_calloc(1, sizeof(*n));
    if (n == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "message: out of memory");
    }
    ew_wire_header h = {.stream_id = msg->stream_id};
    n->item.done = notify_done;
    ew_status st = ew__out_new(msg, &h, body, &n->out, reterr);
    if (st == EW_OK && !ew__hub_post(c->hub, &n->item)) {
        st = ew_fail(reterr, EW_ECANCELLED, "the client is stopping");
    }
    if (st != EW_OK) {
        ew__out_free(&n->out);
        ew_free(n);
    }
    return st;
}

/* ---- requests of the coordinator */

typedef struct served {
    ew__item item;
    ew_client *c;
    ew_frame *frame;
    ew_wire_header h;
    uint64_t gen;
    uint64_t deadline_ms;
    ew__out *final;
} served;

typedef struct served_part {
    ew__item item;
    uint64_t gen, request_id;
    ew__out *out;
} served_part;

static void send_reply(ew_client *c, uint64_t gen, uint64_t request_id, ew__out **out)
{
    bool live = c->state == EW_CLIENT_ACTIVE || c->state == EW_CLIENT_DRAINING;
    if (live && gen == c->connects && *out != NULL) {
        (*out)->reply_to = request_id;
        ew__link_send(&c->link, out);
        ew__client_flush(c);
    }
    ew__out_free(out);
}

static void served_part_done(ew__item *item, void *owner)
{
    served_part *p = (served_part *)item;
    send_reply(owner, p->gen, p->request_id, &p->out);
    ew_free(p);
}

static ew_status client_reply(ew_reply *r, const ew_msg *msg, ew_span body, bool last, ew_error *reterr)
{
    served *j = r->job;
    EW_ASSERT(j->final == NULL);
    ew_wire_header h = {.last = last, .stream_id = j->h.stream_id};
    ew__out *out = NULL;
    EW_TRY(ew__out_new(msg, &h, body, &out, reterr));
    if (last) {
        j->final = out;
        return EW_OK;
    }
    served_part *p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        ew__out_free(&out);
        return ew_fail(reterr, EW_ENOMEM, "reply: out of memory");
    }
    *p = (served_part){.item.done = served_part_done, .gen = j->gen, .request_id = j->h.msg_id, .out = out};
    ew__hub_post_from(r->worker, &p->item);
    return EW_OK;
}

static bool client_cancelled(const ew_reply *r)
{
    const served *j = r->job;
    return j->deadline_ms != 0 && ew_mono_ms() >= j->deadline_ms;
}

static void served_work(ew__item *item, void *owner, ew__worker *w)
{
    served *j = (served *)item;
    ew_client *c = owner;
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_msg *answer = ew_msg_new(EW_MSG_ACK);
    ew_error err = EW_ERROR_INIT;
    ew_status st =
        m != NULL && answer != NULL ? ew_wire_unpack(j->frame->envelope, j->frame->body, m, &err) : EW_ENOMEM;
    if (st == EW_OK && c->h.on_request == NULL) {
        st = ew_fail(&err, EW_EUNSUPPORTED, "this side takes no requests");
    } else if (st == EW_OK) {
        ew_reply r = {.job = j, .worker = w, .send = client_reply, .cancelled = client_cancelled};
        st = c->h.on_request(c->ctx, m, j->frame->body, &r, &err);
    }
    if (j->final == NULL && answer != NULL) {
        if (st != EW_OK) {
            ew_msg_set_error(answer, st == EW_ECORRUPT || st == EW_ELIMIT ? EW_EINVAL : st, err.msg);
        }
        ew_wire_header h = {.last = true, .stream_id = j->h.stream_id};
        ew_error ignored;
        (void)!ew__out_new(answer, &h, (ew_span){NULL, 0}, &j->final, &ignored);
    }
    ew_msg_free(&answer);
    ew_msg_free(&m);
}

static void served_done(ew__item *item, void *owner)
{
    served *j = (served *)item;
    ew_client *c = owner;
    if (c->link_up && j->gen == c->connects) {
        ew__link_consume(&c->link, j->frame->wire_bytes);
    }
    send_reply(c, j->gen, j->h.msg_id, &j->final);
    ew_frame_free(&j->frame);
    ew_free(j);
}

void ew__client_on_request(ew_client *c, ew_frame *frame, const ew_wire_header *h)
{
    served *j = ew__hub_backlog(c->hub) < EW_LIMIT_INFLIGHT ? ew_calloc(1, sizeof(*j)) : NULL;
    if (j == NULL) {
        ew_msg *m = ew_msg_new(EW_MSG_ERROR);
        ew_error ignored;
        if (m != NULL) {
            ew_msg_set_error(m, EW_ELIMIT, "too many requests in flight");
            m->error.retryable = true;
            m->error.retry_after_ms = 1000;
            (void)!ew__link_send_msg(&c->link, m, h->msg_id, true, &ignored);
        }
        ew_msg_free(&m);
        ew__link_consume(&c->link, frame->wire_bytes);
        ew_frame_free(&frame);
        return;
    }
    j->item = (ew__item){.work = served_work, .done = served_done};
    j->c = c;
    j->frame = frame;
    j->h = *h;
    j->gen = c->connects;
    j->deadline_ms = h->deadline_ms != 0 ? ew_mono_ms() + h->deadline_ms : 0;
    ew__hub_submit(c->hub, EW__LANE_POOL, &j->item);
}

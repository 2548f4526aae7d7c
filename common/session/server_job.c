/* The server's work: requests to handlers, replies back, the cache of replies, artifacts, calls to devices. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "session/reply_int.h"
#include "session/server_int.h"

/* ---- what connections and workers share */

ew__flow *ew__flow_new(void)
{
    ew__flow *f = ew_calloc(1, sizeof(*f));
    if (f != NULL) {
        atomic_init(&f->refs, 1);
        pthread_mutex_init(&f->lock, NULL);
        pthread_cond_init(&f->room, NULL);
    }
    return f;
}

ew__flow *ew__flow_ref(ew__flow *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void ew__flow_unref(ew__flow **f)
{
    if (*f != NULL && atomic_fetch_sub_explicit(&(*f)->refs, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_destroy(&(*f)->lock);
        pthread_cond_destroy(&(*f)->room);
        ew_free(*f);
    }
    *f = NULL;
}

void ew__flow_add(ew__flow *f, size_t bytes, bool wait)
{
    pthread_mutex_lock(&f->lock);
    while (wait && !f->dead && f->queued_bytes > EW__REPLY_QUEUE_BYTES) {
        pthread_cond_wait(&f->room, &f->lock);
    }
    f->queued_bytes += bytes;
    pthread_mutex_unlock(&f->lock);
}

void ew__flow_sub(ew__flow *f, size_t bytes)
{
    pthread_mutex_lock(&f->lock);
    f->queued_bytes -= EW_MIN(bytes, f->queued_bytes);
    pthread_cond_broadcast(&f->room);
    pthread_mutex_unlock(&f->lock);
}

void ew__flow_kill(ew__flow *f)
{
    pthread_mutex_lock(&f->lock);
    f->dead = true;
    pthread_cond_broadcast(&f->room);
    pthread_mutex_unlock(&f->lock);
}

void ew__ticket_unref(ew__ticket **t)
{
    if (*t != NULL && atomic_fetch_sub_explicit(&(*t)->refs, 1, memory_order_acq_rel) == 1) {
        ew_free(*t);
    }
    *t = NULL;
}

/* ---- jobs */

typedef struct job {
    ew__item item; /* first */
    ew_server *s;
    uint64_t conn_key;
    ew_peer_info peer;
    ew_frame *frame;
    ew_wire_header h;
    ew__ticket *ticket;
    ew__flow *flow;
    ew__known *who; /* for the cache of replies; only touched by the shard */
    bool cached;    /* an entry of the cache waits for the reply */
    ew_status st;   /* what the handler said */
    ew__out *final;
    bool malformed;
    int fd; /* an opened artifact, or -1 */
    uint64_t file_size;
    ew_msg_artifact_open open;
} job;

static void job_free(job *j)
{
    ew_frame_free(&j->frame);
    ew__ticket_unref(&j->ticket);
    ew__flow_unref(&j->flow);
    ew__out_free(&j->final);
    if (j->fd >= 0) {
        close(j->fd);
    }
    ew_free(j);
}

/* A partial reply on its way from the worker to the shard. */
typedef struct part {
    ew__item item;
    uint64_t conn_key, request_id;
    ew__out *out;
} part;

typedef struct flow_bytes {
    ew__flow *flow;
    size_t bytes;
} flow_bytes;

static void part_written(ew__out *out, void *ctx, uint64_t msg_id)
{
    (void)out, (void)msg_id;
    flow_bytes *b = ctx;
    ew__flow_sub(b->flow, b->bytes);
    ew__flow_unref(&b->flow);
    ew_free(b);
}

static void part_done(ew__item *item, void *owner)
{
    part *p = (part *)item;
    ew__conn *c = ew__conn_by_key(owner, p->conn_key);
    p->out->reply_to = p->request_id;
    if (c != NULL) {
        ew__conn_send(c, &p->out);
    }
    ew__out_free(&p->out);
    ew_free(p);
}

static ew_status reply_make(job *j, const ew_msg *msg, ew_span body, bool last, ew__out **ret, ew_error *reterr)
{
    ew_wire_header h = {.last = last, .stream_id = j->h.stream_id};
    return ew__out_new(msg, &h, body, ret, reterr);
}

static ew_status server_reply(ew_reply *r, const ew_msg *msg, ew_span body, bool last, ew_error *reterr)
{
    job *j = r->job;
    EW_ASSERT(j->final == NULL); /* nothing may follow the last reply */
    ew__out *out = NULL;
    EW_TRY(reply_make(j, msg, body, last, &out, reterr));
    if (last) {
        j->final = out;
    } else {
        part *p = ew_calloc(1, sizeof(*p));
        flow_bytes *b = ew_calloc(1, sizeof(*b));
        if (p == NULL || b == NULL) {
            ew_free(p);
            ew_free(b);
            ew__out_free(&out);
            return ew_fail(reterr, EW_ENOMEM, "reply: out of memory");
        }
        *b = (flow_bytes){ew__flow_ref(j->flow), ew__out_bytes(out)};
        ew__flow_add(j->flow, b->bytes, true);
        out->written = part_written;
        out->ctx = b;
        *p = (part){.item.done = part_done, .conn_key = j->conn_key, .request_id = j->h.msg_id, .out = out};
        ew__hub_post_from(r->worker, &p->item);
    }
    pthread_mutex_lock(&j->flow->lock);
    bool dead = j->flow->dead;
    pthread_mutex_unlock(&j->flow->lock);
    return dead ? ew_fail(reterr, EW_EREMOTE, "the session is gone") : EW_OK;
}

static bool ticket_over(const ew__ticket *t)
{
    return atomic_load_explicit(&t->cancelled, memory_order_relaxed) ||
           (t->deadline_ms != 0 && ew_mono_ms() >= t->deadline_ms);
}

static bool server_cancelled(const ew_reply *r)
{
    const job *j = r->job;
    return ticket_over(j->ticket);
}

static void job_error(job *j, ew_status st, const char *detail)
{
    ew_msg *m = ew_msg_new(EW_MSG_ERROR);
    if (m != NULL) {
        ew_msg_set_error(m, st, detail);
        ew_error ignored;
        (void)!reply_make(j, m, (ew_span){NULL, 0}, true, &j->final, &ignored);
        ew_msg_free(&m);
    }
}

static ew_status open_artifact(job *j, const ew_msg *m, ew_error *reterr)
{
    char path[4096] = "";
    struct stat info;
    if (j->s->h.on_artifact == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "no artifacts are kept here");
    }
    if (m->stream_id == 0 || m->stream_id % 2 == 0) {
        return ew_fail(reterr, EW_EINVAL, "artifact: a stream of the side that connects has an odd number");
    }
    EW_TRY(j->s->h.on_artifact(j->s->ctx, &j->peer, m->artifact_open.sha256, path, reterr));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        int e = errno;
        if (fd >= 0) {
            close(fd);
        }
        return ew_fail(reterr, EW_EIO, "artifact: the coordinator cannot read it: %s", strerror(e));
    }
    j->fd = fd;
    j->file_size = (uint64_t)info.st_size;
    j->open = m->artifact_open;
    if (j->open.offset > j->file_size || j->open.length > j->file_size - j->open.offset) {
        return ew_fail(reterr, EW_EINVAL, "artifact: %llu bytes from %llu on lie outside of %llu",
                       (unsigned long long)j->open.length, (unsigned long long)j->open.offset,
                       (unsigned long long)j->file_size);
    }
    return EW_OK;
}

static void request_work(ew__item *item, void *owner, ew__worker *w)
{
    job *j = (job *)item;
    ew_server *s = owner;
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_error err = EW_ERROR_INIT;
    j->st = m != NULL ? ew_wire_unpack(j->frame->envelope, j->frame->body, m, &err) : EW_ENOMEM;
    if (j->st == EW_ECORRUPT || j->st == EW_EINVAL || j->st == EW_ELIMIT) {
        j->malformed = true;
        j->st = EW_EINVAL;
    } else if (j->st == EW_OK && (uint32_t)m->type != j->h.payload) { /* the shard judged by what it saw */
        j->malformed = true;
        j->st = ew_fail(&err, EW_EINVAL, "envelope with more than one payload");
    } else if (j->st == EW_OK && ticket_over(j->ticket)) {
        j->st = ew_fail(&err, EW_ETIMEOUT, "the deadline passed before the work began");
    } else if (j->st == EW_OK && m->type == EW_MSG_ARTIFACT_OPEN) {
        j->st = open_artifact(j, m, &err);
    } else if (j->st == EW_OK) {
        ew_reply r = {.job = j, .worker = w, .send = server_reply, .cancelled = server_cancelled};
        j->st = s->h.on_request(s->ctx, &j->peer, m, j->frame->body, &r, &err);
    }
    bool opened = j->st == EW_OK && j->fd >= 0;
    if (j->final == NULL && j->st != EW_OK) {
        job_error(j, j->st, err.msg);
    } else if (j->final == NULL && !opened && m->type != EW_MSG_TRIAL_PROGRESS) {
        ew_msg *ack = ew_msg_new(EW_MSG_ACK);
        ew_error ignored;
        (void)!(ack != NULL && reply_make(j, ack, (ew_span){NULL, 0}, true, &j->final, &ignored) == EW_OK);
        ew_msg_free(&ack);
    }
    ew_msg_free(&m);
}

/* ---- the cache of replies */

static void idem_drop(ew__known *k, ew__idem *e)
{
    ew__idem **at = &k->oldest;
    ew__idem *before = NULL;
    while (*at != NULL && *at != e) {
        before = *at;
        at = &(*at)->next;
    }
    if (*at == NULL) {
        return;
    }
    *at = e->next;
    if (k->newest == e) {
        k->newest = before;
    }
    ew_map_remove(k->idem, e->key, EW_IDEM_BYTES);
    k->n_idem--;
    if (e->reply != NULL) {
        k->idem_bytes -= ew__out_bytes(e->reply);
    }
    ew__out_free(&e->reply);
    ew_free(e);
}

/* Drops finished entries that are too old, too many or too big together. */
static void idem_trim(ew__known *k)
{
    uint64_t now = ew_mono_ms();
    ew__idem *e = k->oldest;
    while (e != NULL) {
        ew__idem *next = e->next;
        bool over = k->n_idem > EW__IDEM_PER_PEER || k->idem_bytes > EW__IDEM_TOTAL_BYTES;
        if (!over && now - e->at_ms < EW__IDEM_MS) {
            return;
        }
        if (e->reply != NULL) {
            idem_drop(k, e);
        }
        e = next;
    }
}

void ew__known_free(ew__known *k)
{
    while (k->oldest != NULL) {
        idem_drop(k, k->oldest);
    }
    ew_map_free(&k->idem);
    ew_free(k);
}

/* True when the request is answered from the cache or will be by the one in work. */
static bool idem_answered(ew__conn *c, const ew_wire_header *h, bool *ret_new)
{
    ew__known *k = c->who;
    *ret_new = false;
    if (k == NULL || !h->has_idem_key || (k->idem == NULL && ew_map_new(&k->idem) != EW_OK)) {
        return false;
    }
    idem_trim(k);
    ew__idem *e = ew_map_get(k->idem, h->idem_key, EW_IDEM_BYTES);
    if (e == NULL) {
        e = ew_calloc(1, sizeof(*e));
        if (e == NULL || ew_map_add(k->idem, h->idem_key, EW_IDEM_BYTES, e) != EW_OK) {
            ew_free(e);
            return false;
        }
        memcpy(e->key, h->idem_key, EW_IDEM_BYTES);
        e->at_ms = ew_mono_ms();
        *(k->newest != NULL ? &k->newest->next : &k->oldest) = e;
        k->newest = e;
        k->n_idem++;
        *ret_new = true;
        return false;
    }
    c->s->n.replayed++;
    ew__out *again = NULL;
    if (e->reply == NULL) {
        if (e->n_waiters < EW_COUNT(e->waiters)) {
            e->waiters[e->n_waiters++] = (ew__waiter){c->key, h->msg_id};
        }
    } else if (ew__out_clone(e->reply, &again) == EW_OK) {
        again->reply_to = h->msg_id;
        ew__conn_send(c, &again);
    }
    return true;
}

static void idem_finish(ew_server *s, job *j)
{
    ew__idem *e = j->cached ? ew_map_get(j->who->idem, j->h.idem_key, EW_IDEM_BYTES) : NULL;
    if (e == NULL) {
        return;
    }
    for (unsigned i = 0; i < e->n_waiters; i++) {
        ew__conn *c = ew__conn_by_key(s, e->waiters[i].conn_key);
        ew__out *out = NULL;
        if (c != NULL && j->final != NULL && ew__out_clone(j->final, &out) == EW_OK) {
            out->reply_to = e->waiters[i].msg_id;
            ew__conn_send(c, &out);
        }
    }
    e->n_waiters = 0;
    if (j->st != EW_OK || j->final == NULL || ew__out_bytes(j->final) > EW__IDEM_REPLY_BYTES ||
        ew__out_clone(j->final, &e->reply) != EW_OK) {
        idem_drop(j->who, e);
        return;
    }
    j->who->idem_bytes += ew__out_bytes(e->reply);
    idem_trim(j->who);
}

/* ---- in flight */

static int inflight_of(const ew__conn *c, uint64_t msg_id)
{
    for (unsigned i = 0; i < EW_COUNT(c->inflight); i++) {
        if (c->inflight[i].msg_id == msg_id) {
            return (int)i;
        }
    }
    return -1;
}

static void inflight_end(ew__conn *c, uint64_t msg_id)
{
    int i = inflight_of(c, msg_id);
    if (i >= 0) {
        c->n_running -= c->inflight[i].running;
        c->n_inflight--;
        ew__ticket_unref(&c->inflight[i].ticket);
        c->inflight[i].msg_id = 0;
        c->inflight[i].running = false;
        c->inflight[i].stream_id = 0;
    }
}

/* A peer may use half of the workers, and one stream runs one request at a time, in order. */
static bool request_may_start(ew__item *item, void *owner)
{
    job *j = (job *)item;
    ew__conn *c = ew__conn_by_key(owner, j->conn_key);
    int at = c != NULL ? inflight_of(c, j->h.msg_id) : -1;
    if (at < 0) {
        return true; /* the session is gone; the work may still matter */
    }
    if (c->n_running >= c->s->n_half_workers || c->link.waiting_bytes > EW__REPLY_QUEUE_BYTES) {
        return false;
    }
    for (unsigned i = 0; j->h.stream_id != 0 && i < EW_COUNT(c->inflight); i++) {
        if (c->inflight[i].running && c->inflight[i].stream_id == j->h.stream_id) {
            return false;
        }
    }
    c->inflight[at].running = true;
    c->n_running++;
    return true;
}

static void strike(ew__conn *c, const job *j)
{
    uint64_t now = ew_mono_ms();
    if (j->malformed) {
        if (c->bad_ms[0] != 0 && now - c->bad_ms[0] < 60000 && c->bad_ms[1] != 0) {
            ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "three malformed messages within a minute");
            return;
        }
        c->bad_ms[0] = c->bad_ms[1];
        c->bad_ms[1] = EW_MAX(now, 1);
    } else if (j->st == EW_EDENIED) {
        ew__server_audit(c->s, "denied", c->peer.id, c->peer.addr, "request %s",
                         ew_msg_type_name((ew_msg_type)j->h.payload));
        if (++c->denied >= 3) {
            ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "three requests that were not allowed");
        }
    }
}

static void stream_start(ew__conn *c, job *j);

static void request_done(ew__item *item, void *owner)
{
    job *j = (job *)item;
    ew_server *s = owner;
    ew__conn *c = ew__conn_by_key(s, j->conn_key);
    idem_finish(s, j);
    if (c != NULL) {
        inflight_end(c, j->h.msg_id);
        ew__link_consume(&c->link, j->frame->wire_bytes);
        if (j->fd >= 0 && j->st == EW_OK && ew__conn_active(c)) {
            stream_start(c, j);
        }
        if (j->final != NULL) {
            j->final->reply_to = j->h.msg_id;
            ew__conn_send(c, &j->final);
        }
        if (!c->dead && !c->closing_tls) {
            strike(c, j);
        }
        if (!c->dead && c->peer.role == EW_ROLE_ENROL && c->state == EW_SERVER_ACTIVE) {
            (void)ew__conn_event(c, EW_EV_CLOSE);
        }
        ew__conn_flush(c);
    }
    job_free(j);
}

static void refuse(ew__conn *c, const ew_wire_header *h, ew_status st, uint32_t retry_ms, const char *detail)
{
    ew_msg m = {.type = EW_MSG_NONE};
    ew_msg_set_error(&m, st, detail);
    m.error.retryable = true;
    m.error.retry_after_ms = retry_ms;
    ew_error ignored;
    (void)!ew__link_send_msg(&c->link, &m, h->msg_id, true, &ignored);
}

static job *job_new(ew__conn *c, ew_frame *frame, const ew_wire_header *h)
{
    job *j = ew_calloc(1, sizeof(*j));
    ew__ticket *t = ew_calloc(1, sizeof(*t));
    if (j == NULL || t == NULL) {
        ew_free(j);
        ew_free(t);
        return NULL;
    }
    atomic_init(&t->refs, 2);
    atomic_init(&t->cancelled, false);
    t->deadline_ms = h->deadline_ms != 0 ? ew_mono_ms() + h->deadline_ms : 0;
    j->item = (ew__item){.work = request_work, .done = request_done, .may_start = request_may_start};
    j->s = c->s;
    j->conn_key = c->key;
    j->peer = c->peer;
    j->frame = frame;
    j->h = *h;
    j->ticket = t;
    j->flow = ew__flow_ref(c->flow);
    j->who = c->who;
    j->fd = -1;
    return j;
}

void ew__job_request(ew__conn *c, ew_frame *frame, const ew_wire_header *h)
{
    c->s->n.requests++;
    bool fresh = false;
    int slot = inflight_of(c, 0);
    job *j = NULL;
    const char *why = NULL;
    if (c->link.waiting_bytes > EW__WAITING_MAX_BYTES) {
        c->s->n.slow_peers++;
        ew__conn_fail(c, EW_GO_AWAY_OVERLOAD, "requests come and their replies are not taken");
    } else if (c->state == EW_SERVER_DRAINING) {
        why = "the session is ending";
    } else if (slot < 0) {
        why = "too many requests in flight";
    } else if (!idem_answered(c, h, &fresh)) {
        j = job_new(c, frame, h);
        why = j == NULL ? "out of memory" : NULL;
    }
    if (j == NULL) {
        if (why != NULL) {
            refuse(c, h, c->state == EW_SERVER_DRAINING ? EW_EAGAIN : EW_ELIMIT, 1000, why);
        }
        ew__link_consume(&c->link, frame->wire_bytes);
        ew_frame_free(&frame);
        return;
    }
    j->cached = fresh;
    c->inflight[slot].msg_id = h->msg_id;
    c->inflight[slot].stream_id = h->stream_id;
    c->inflight[slot].ticket = j->ticket;
    c->n_inflight++;
    ew__hub_submit(c->s->hub, EW__LANE_POOL, &j->item);
}

void ew__job_cancel(ew__conn *c, uint64_t msg_id)
{
    int i = msg_id != 0 ? inflight_of(c, msg_id) : -1;
    if (i >= 0) {
        atomic_store(&c->inflight[i].ticket->cancelled, true);
    }
    for (size_t k = 0; k < EW_COUNT(c->streams); k++) {
        if (c->streams[k].id != 0 && c->streams[k].request_id == msg_id) {
            c->streams[k].failed = true;
            ew__stream_credit(c, c->streams[k].id, 0);
        }
    }
}

/* ---- on_up, on_down (and on_audit): one thread, in order */

typedef struct event {
    ew__item item;
    uint64_t conn_key;
    ew_peer_info peer;
    ew_msg *hello;
    uint64_t hello_id;
    ew_status st;
    ew_error err;
    char text[256];
} event;

static void event_free(event *e)
{
    ew_msg_free(&e->hello);
    ew_free(e);
}

static void submit_down(ew_server *s, event *e);

static void up_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)w;
    event *e = (event *)item;
    ew_server *s = owner;
    e->st = s->h.on_up != NULL ? s->h.on_up(s->ctx, &e->peer, e->hello, &e->err) : EW_OK;
}

static void up_done(ew__item *item, void *owner)
{
    event *e = (event *)item;
    ew_server *s = owner;
    ew__conn *c = ew__conn_by_key(s, e->conn_key);
    if (c != NULL && !c->dead) {
        ew__conn_up_result(c, e->st, e->err.msg, e->hello_id);
    } else if (e->st == EW_OK && s->h.on_down != NULL) {
        event *down = ew_calloc(1, sizeof(*down));
        if (down != NULL) {
            down->peer = e->peer;
            ew_str_copy(down->text, sizeof(down->text), "the session ended while it was opened");
            submit_down(s, down);
        }
    }
    event_free(e);
}

static void event_done(ew__item *item, void *owner)
{
    (void)owner;
    event_free((event *)item);
}

static void down_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)w;
    event *e = (event *)item;
    ew_server *s = owner;
    if (s->h.on_down != NULL) {
        s->h.on_down(s->ctx, &e->peer, e->text);
    }
}

static void submit_down(ew_server *s, event *e)
{
    e->item = (ew__item){.work = down_work, .done = event_done};
    ew__hub_submit(s->hub, EW__LANE_EVENTS, &e->item);
}

void ew__job_up(ew__conn *c, ew_msg *hello)
{
    event *e = ew_calloc(1, sizeof(*e));
    if (e == NULL) {
        ew_msg_free(&hello);
        ew__conn_gone(c, "out of memory");
        return;
    }
    e->item = (ew__item){.work = up_work, .done = up_done};
    e->conn_key = c->key;
    e->peer = c->peer;
    e->hello = hello;
    e->hello_id = hello->msg_id;
    ew__hub_submit(c->s->hub, EW__LANE_EVENTS, &e->item);
}

void ew__job_down(ew__conn *c)
{
    event *e = ew_calloc(1, sizeof(*e));
    if (e != NULL) {
        e->peer = c->peer;
        ew_str_copy(e->text, sizeof(e->text), c->why[0] != '\0' ? c->why : "closed");
        submit_down(c->s, e);
    }
}

/* ---- artifacts */

typedef struct chunk {
    ew__item item;
    uint64_t conn_key;
    uint32_t stream_id;
    uint64_t request_id;
    int fd; /* a duplicate: the stream may end while it is read */
    uint64_t offset;
    size_t size;
    bool eof;
    ew_status st;
    ew__out *out;
} chunk;

static void chunk_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)owner, (void)w;
    chunk *k = (chunk *)item;
    ew_msg *m = ew_msg_new(EW_MSG_ARTIFACT_CHUNK);
    char *to = NULL;
    ew_error err = EW_ERROR_INIT;
    k->st = EW_ENOMEM;
    if (m != NULL) {
        m->artifact_chunk.offset = k->offset;
        m->artifact_chunk.eof = k->eof;
        ew_wire_header h = {.stream_id = k->stream_id};
        k->st = ew__out_new_body(m, &h, k->size, &k->out, &to, &err);
    }
    size_t done = 0;
    while (k->st == EW_OK && done < k->size) {
        ssize_t n = pread(k->fd, to + done, k->size - done, (off_t)(k->offset + done));
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            k->st = EW_EIO;
        }
    }
    ew_msg_free(&m);
}

static ew__stream *stream_of(ew__conn *c, uint32_t id)
{
    for (size_t i = 0; i < EW_COUNT(c->streams); i++) {
        if (c->streams[i].id == id) {
            return &c->streams[i];
        }
    }
    return NULL;
}

static void stream_end(ew__conn *c, ew__stream *t, ew_code code, const char *detail)
{
    ew_msg m = {.type = EW_MSG_ARTIFACT_DONE};
    memcpy(m.artifact_done.sha256, t->sha256, sizeof(t->sha256));
    m.artifact_done.code = code;
    ew_str_copy(m.artifact_done.detail, sizeof(m.artifact_done.detail), detail);
    ew__out *out = NULL;
    ew_wire_header h = {.last = true, .stream_id = t->id};
    close(t->fd);
    uint64_t request_id = t->request_id;
    memset(t, 0, sizeof(*t));
    ew_error ignored;
    if (ew__out_new(&m, &h, (ew_span){NULL, 0}, &out, &ignored) == EW_OK) {
        out->reply_to = request_id;
        out->bulk = true;              /* behind its chunks */
        ew__link_send(&c->link, &out); /* flushed by the caller: this may run inside a flush */
    }
}

static void chunk_done(ew__item *item, void *owner);

static void stream_pump(ew__conn *c, ew__stream *t)
{
    while (!t->failed && t->offset < t->end && t->reading < 2 && t->reading + t->queued < 4) {
        uint64_t left = EW_MIN(t->end - t->offset, (uint64_t)EW__CHUNK_BYTES);
        uint64_t allowed = t->credit - EW_MIN(t->credit, t->offset - t->first);
        if (allowed < left) {
            return;
        }
        chunk *k = ew_calloc(1, sizeof(*k));
        int fd = k != NULL ? fcntl(t->fd, F_DUPFD_CLOEXEC, 0) : -1;
        if (fd < 0) {
            ew_free(k);
            t->failed = true;
            break;
        }
        k->item = (ew__item){.work = chunk_work, .done = chunk_done};
        k->conn_key = c->key;
        k->stream_id = t->id;
        k->request_id = t->request_id;
        k->fd = fd;
        k->offset = t->offset;
        k->size = (size_t)left;
        t->offset += left;
        k->eof = t->offset == t->end;
        t->reading++;
        ew__hub_submit(c->s->hub, EW__LANE_READER, &k->item);
    }
    if (t->reading == 0 && t->failed) {
        stream_end(c, t, EW_CODE_INTERNAL, "the coordinator cannot read the artifact, or it was cancelled");
    } else if (t->reading == 0 && t->offset == t->end) {
        stream_end(c, t, EW_CODE_OK, "");
    }
}

typedef struct chunk_ref {
    ew_server *s;
    uint64_t conn_key, request_id;
    uint32_t stream_id;
} chunk_ref;

static void chunk_written(ew__out *out, void *ctx, uint64_t msg_id)
{
    (void)out;
    chunk_ref *r = ctx;
    ew__conn *c = msg_id != 0 ? ew__conn_by_key(r->s, r->conn_key) : NULL;
    ew__stream *t = c != NULL ? stream_of(c, r->stream_id) : NULL;
    if (t != NULL && t->request_id == r->request_id) {
        t->queued--;
        stream_pump(c, t);
    }
    ew_free(r);
}

static void chunk_done(ew__item *item, void *owner)
{
    chunk *k = (chunk *)item;
    ew_server *s = owner;
    ew__conn *c = ew__conn_by_key(s, k->conn_key);
    ew__stream *t = c != NULL && !c->dead ? stream_of(c, k->stream_id) : NULL;
    close(k->fd);
    if (t != NULL && t->request_id == k->request_id) {
        chunk_ref *r = k->st == EW_OK ? ew_calloc(1, sizeof(*r)) : NULL;
        t->reading--;
        t->failed = t->failed || r == NULL;
        if (r != NULL) {
            *r = (chunk_ref){s, c->key, t->request_id, t->id};
            t->queued++;
            k->out->reply_to = t->request_id;
            k->out->bulk = true;
            k->out->written = chunk_written;
            k->out->ctx = r;
            ew__link_send(&c->link, &k->out);
        }
        stream_pump(c, t);
        ew__conn_flush(c);
    }
    ew__out_free(&k->out);
    ew_free(k);
}

static void stream_start(ew__conn *c, job *j)
{
    ew__stream *t = stream_of(c, 0);
    if (j->h.stream_id <= c->last_stream_id) {
        ew__conn_fail(c, EW_GO_AWAY_PROTOCOL, "stream %u was in use before", j->h.stream_id);
        return;
    }
    if (t == NULL || c->s->short_of_memory) {
        refuse(c, &j->h, EW_ELIMIT, 1000, t == NULL ? "too many streams" : "the coordinator is short of memory");
        return;
    }
    c->last_stream_id = j->h.stream_id;
    *t = (ew__stream){.id = j->h.stream_id,
                      .request_id = j->h.msg_id,
                      .fd = j->fd,
                      .first = j->open.offset,
                      .offset = j->open.offset,
                      .end = j->open.length != 0 ? j->open.offset + j->open.length : j->file_size,
                      .credit = j->open.initial_credit};
    memcpy(t->sha256, j->open.sha256, sizeof(t->sha256));
    j->fd = -1;
    stream_pump(c, t);
}

void ew__stream_credit(ew__conn *c, uint32_t stream_id, uint64_t limit)
{
    ew__stream *t = stream_id != 0 ? stream_of(c, stream_id) : NULL;
    if (t != NULL) {
        t->credit = EW_MAX(t->credit, limit);
        stream_pump(c, t);
        ew__conn_flush(c);
    }
}

/* ---- calls to the peer */

typedef struct call_end {
    ew__item item;
    ew__call *call;
    ew_status st;
    char detail[256];
    ew_frame *frame;
} call_end;

static void call_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)owner, (void)w;
    call_end *e = (call_end *)item;
    ew_error err = EW_ERROR_INIT;
    ew_msg *m = NULL;
    ew_status st = e->st;
    if (st == EW_OK) {
        m = ew_msg_new(EW_MSG_NONE);
        st = m != NULL ? ew_wire_unpack(e->frame->envelope, e->frame->body, m, &err) : EW_ENOMEM;
    } else {
        st = ew_fail(&err, st, "%s", e->detail);
    }
    if (st == EW_OK && m->type == EW_MSG_ERROR) {
        st = ew_code_to_status(m->error.code);
        st = ew_fail(&err, st != EW_OK ? st : EW_EREMOTE, "%s", m->error.detail);
    }
    if (e->call->fn != NULL) {
        e->call->fn(e->call->ctx, st, st == EW_OK ? m : NULL, st == EW_OK ? e->frame->body : (ew_span){NULL, 0},
                    st == EW_OK ? NULL : &err);
    }
    ew_msg_free(&m);
}

static void call_done(ew__item *item, void *owner)
{
    (void)owner;
    call_end *e = (call_end *)item;
    ew_frame_free(&e->frame);
    ew_free(e->call);
    ew_free(e);
}

/* The hub ended before the callback could run on a worker: run it here, so that it runs exactly once. */
static void call_work_once(ew__item *item, void *owner, ew__worker *w)
{
    call_end *e = (call_end *)item;
    call_work(item, owner, w);
    e->call->fn = NULL;
}

static void call_done_once(ew__item *item, void *owner)
{
    call_end *e = (call_end *)item;
    if (e->call->fn != NULL) {
        e->st = EW_EREMOTE;
        ew_str_copy(e->detail, sizeof(e->detail), "the server is stopping");
        call_work(item, owner, NULL);
    }
    call_done(item, owner);
}

void ew__call_finish(ew__call *call, ew_status st, const char *detail, ew_frame *frame)
{
    call_end *e = ew_calloc(1, sizeof(*e));
    EW_ASSERT(e != NULL); /* small; losing the callback would hang its owner */
    e->item = (ew__item){.work = call_work_once, .done = call_done_once};
    e->call = call;
    e->st = st;
    e->frame = frame;
    ew_str_copy(e->detail, sizeof(e->detail), detail);
    ew__hub_submit(call->server->hub, EW__LANE_POOL, &e->item);
}

bool ew__job_reply(ew__conn *c, ew_frame *frame, const ew_wire_header *h)
{
    ew__link_consume(&c->link, frame->wire_bytes);
    for (ew__call **at = &c->calls; *at != NULL; at = &(*at)->next) {
        if ((*at)->msg_id == h->reply_to) {
            ew__call *call = *at;
            *at = call->next;
            ew__call_finish(call, EW_OK, "", frame);
            return true;
        }
    }
    ew_frame_free(&frame); /* a late reply */
    return false;
}

void ew__call_expire(ew__conn *c, uint64_t now)
{
    ew__call **at = &c->calls;
    while (*at != NULL) {
        ew__call *call = *at;
        if (now < call->deadline_ms) {
            at = &call->next;
            continue;
        }
        *at = call->next;
        if (call->msg_id != 0) {
            ew_msg m = {.type = EW_MSG_CANCEL};
            m.cancel_msg_id = call->msg_id;
            ew_error ignored;
            (void)!ew__link_send_msg(&c->link, &m, 0, false, &ignored);
        }
        ew__call_finish(call, EW_ETIMEOUT, "the device did not answer in time", NULL);
    }
}

void ew__job_conn_closed(ew__conn *c)
{
    for (unsigned i = 0; i < EW_COUNT(c->inflight); i++) {
        if (c->inflight[i].msg_id != 0) {
            atomic_store(&c->inflight[i].ticket->cancelled, true);
            inflight_end(c, c->inflight[i].msg_id);
        }
    }
    for (size_t i = 0; i < EW_COUNT(c->streams); i++) {
        if (c->streams[i].id != 0) {
            close(c->streams[i].fd);
            memset(&c->streams[i], 0, sizeof(c->streams[i]));
        }
    }
    while (c->calls != NULL) {
        ew__call *call = c->calls;
        c->calls = call->next;
        ew__call_finish(call, EW_EREMOTE, "the session with the device ended", NULL);
    }
}

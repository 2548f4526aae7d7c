#include "session/hub.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define THREADS_MAX 64

struct ew__worker {
    ew__hub *hub;
    void *sock; /* DEALER; made and closed by the hub's thread when the worker does not run, used by the worker */
    uint32_t index;
    pthread_t thread;
    bool running;
    bool idle;
};

struct ew__hub {
    void *router;
    void *poster; /* DEALER of all other threads, under lock */
    pthread_mutex_t lock;
    bool ending; /* under lock */
    void *owner;
    unsigned n_pool, n_threads;
    ew__worker workers[THREADS_MAX];
    ew__item *head, *tail; /* of the pool, not started */
    size_t backlog;
    size_t in_hand; /* items with workers */
};

static void send_ptr(void *sock, ew__item *ptr)
{
    if (ptr != NULL) {
        __atomic_store_n(&ptr->handed, 1u, __ATOMIC_RELEASE);
    }
    while (zmq_send(sock, &ptr, sizeof(ptr), 0) < 0 && errno == EINTR) {
    }
}

static ew__item *recv_ptr(void *sock, int flags, bool *got)
{
    ew__item *p = NULL;
    int n;
    do {
        n = zmq_recv(sock, &p, sizeof(p), flags);
    } while (n < 0 && errno == EINTR);
    *got = n == (int)sizeof(p);
    if (*got && p != NULL) {
        (void)__atomic_load_n(&p->handed, __ATOMIC_ACQUIRE);
    }
    return p;
}

static void *worker_main(void *arg)
{
    ew__worker *w = arg;
    for (;;) {
        bool got;
        ew__item *item = recv_ptr(w->sock, 0, &got);
        if (!got || item == NULL) {
            return NULL;
        }
        item->work(item, w->hub->owner, w);
        send_ptr(w->sock, item);
    }
}

static void *dealer(void *zmq, const char *endpoint, uint32_t index)
{
    void *s = zmq_socket(zmq, ZMQ_DEALER);
    int zero = 0;
    uint32_t id = index + 1; /* a routing id may not start with a zero byte */
    unsigned char name[5] = {'w', (unsigned char)(id >> 24), (unsigned char)(id >> 16), (unsigned char)(id >> 8),
                             (unsigned char)id};
    if (s == NULL) {
        return NULL;
    }
    int rc = zmq_setsockopt(s, ZMQ_SNDHWM, &zero, sizeof(zero));
    rc |= zmq_setsockopt(s, ZMQ_RCVHWM, &zero, sizeof(zero));
    rc |= zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof(zero));
    rc |= zmq_setsockopt(s, ZMQ_ROUTING_ID, name, sizeof(name));
    if (rc != 0 || zmq_connect(s, endpoint) != 0) {
        zmq_close(s);
        return NULL;
    }
    return s;
}

static bool hub_sockets(ew__hub *h, void *zmq)
{
    char ep[64];
    int zero = 0;
    int one = 1;
    snprintf(ep, sizeof(ep), "inproc://ew-hub-%p", (void *)h);
    h->router = zmq_socket(zmq, ZMQ_ROUTER);
    if (h->router == NULL || zmq_setsockopt(h->router, ZMQ_SNDHWM, &zero, sizeof(zero)) != 0 ||
        zmq_setsockopt(h->router, ZMQ_RCVHWM, &zero, sizeof(zero)) != 0 ||
        zmq_setsockopt(h->router, ZMQ_LINGER, &zero, sizeof(zero)) != 0 ||
        zmq_setsockopt(h->router, ZMQ_ROUTER_MANDATORY, &one, sizeof(one)) != 0 || zmq_bind(h->router, ep) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < h->n_threads; i++) {
        h->workers[i] = (ew__worker){.hub = h, .index = i, .idle = true};
        h->workers[i].sock = dealer(zmq, ep, i);
        if (h->workers[i].sock == NULL) {
            return false;
        }
    }
    h->poster = dealer(zmq, ep, THREADS_MAX);
    return h->poster != NULL;
}

ew_status ew__hub_new(void *zmq, unsigned n_pool, unsigned n_lanes, void *owner, ew__hub **ret, ew_error *reterr)
{
    if (n_pool == 0 || n_pool + n_lanes > THREADS_MAX) {
        return ew_fail(reterr, EW_EINVAL, "%u workers, 1..%d are possible", n_pool, THREADS_MAX - (int)n_lanes);
    }
    ew__hub *h = ew_calloc(1, sizeof(*h));
    if (h == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "workers: out of memory");
    }
    pthread_mutex_init(&h->lock, NULL);
    h->owner = owner;
    h->n_pool = n_pool;
    h->n_threads = n_pool + n_lanes;
    bool ok = hub_sockets(h, zmq);
    for (uint32_t i = 0; ok && i < h->n_threads; i++) {
        ok = pthread_create(&h->workers[i].thread, NULL, worker_main, &h->workers[i]) == 0;
        h->workers[i].running = ok;
    }
    if (!ok) {
        ew__hub_free(&h);
        return ew_fail(reterr, EW_EIO, "cannot start the worker threads");
    }
    *ret = h;
    return EW_OK;
}

static void give(ew__hub *h, ew__worker *w, ew__item *item)
{
    uint32_t id = w->index + 1;
    unsigned char name[5] = {'w', (unsigned char)(id >> 24), (unsigned char)(id >> 16), (unsigned char)(id >> 8),
                             (unsigned char)id};
    while (zmq_send(h->router, name, sizeof(name), ZMQ_SNDMORE) < 0) {
        EW_ASSERT(errno == EINTR);
    }
    send_ptr(h->router, item);
    h->in_hand += item != NULL;
}

static void start_some(ew__hub *h)
{
    if (h->ending) {
        return;
    }
    ew__item **at = &h->head;
    ew__item *before = NULL;
    unsigned i = 0;
    while (*at != NULL) {
        while (i < h->n_pool && !h->workers[i].idle) {
            i++;
        }
        if (i == h->n_pool) {
            return;
        }
        ew__item *item = *at;
        if (item->may_start != NULL && !item->may_start(item, h->owner)) {
            before = item;
            at = &item->next;
            continue;
        }
        *at = item->next;
        if (h->tail == item) {
            h->tail = before;
        }
        h->backlog--;
        item->next = NULL;
        h->workers[i].idle = false;
        give(h, &h->workers[i], item);
    }
}

void ew__hub_submit(ew__hub *h, unsigned lane, ew__item *item)
{
    item->next = NULL;
    if (h->ending) {
        item->done(item, h->owner);
        return;
    }
    if (lane != EW__LANE_POOL) {
        EW_ASSERT(h->n_pool + lane - 1 < h->n_threads);
        give(h, &h->workers[h->n_pool + lane - 1], item);
        return;
    }
    *(h->tail != NULL ? &h->tail->next : &h->head) = item;
    h->tail = item;
    h->backlog++;
    start_some(h);
}

bool ew__hub_post(ew__hub *h, ew__item *item)
{
    pthread_mutex_lock(&h->lock);
    bool ok = !h->ending;
    if (ok) {
        send_ptr(h->poster, item);
    }
    pthread_mutex_unlock(&h->lock);
    return ok;
}

void ew__hub_post_from(ew__worker *w, ew__item *item)
{
    send_ptr(w->sock, item);
}

zmq_pollitem_t ew__hub_poll_item(ew__hub *h)
{
    return (zmq_pollitem_t){.socket = h->router, .events = ZMQ_POLLIN};
}

size_t ew__hub_backlog(const ew__hub *h)
{
    return h->backlog;
}

size_t ew__hub_run(ew__hub *h, size_t max)
{
    size_t n = 0;
    for (; n < max; n++) {
        unsigned char name[5];
        int got_name = zmq_recv(h->router, name, sizeof(name), ZMQ_DONTWAIT);
        if (got_name < 0) {
            break;
        }
        bool got;
        ew__item *item = recv_ptr(h->router, 0, &got);
        uint32_t id = (uint32_t)name[1] << 24 | (uint32_t)name[2] << 16 | (uint32_t)name[3] << 8 | name[4];
        if (!got || item == NULL) {
            continue;
        }
        if (item->work != NULL && id <= h->n_threads) { /* a worker gives it back; posts have no work */
            h->in_hand--;
            if (id - 1 < h->n_pool) {
                h->workers[id - 1].idle = true;
            }
        }
        item->done(item, h->owner);
    }
    start_some(h);
    return n;
}

void ew__hub_close(ew__hub *h)
{
    pthread_mutex_lock(&h->lock);
    h->ending = true;
    pthread_mutex_unlock(&h->lock);
    while (ew__hub_run(h, SIZE_MAX) > 0) {
    }
}

void ew__hub_free(ew__hub **hub)
{
    if (hub == NULL || *hub == NULL) {
        return;
    }
    ew__hub *h = *hub;
    pthread_mutex_lock(&h->lock);
    h->ending = true;
    pthread_mutex_unlock(&h->lock);
    /* What was not started is only finished. */
    while (h->head != NULL) {
        ew__item *item = h->head;
        h->head = item->next;
        item->done(item, h->owner);
    }
    h->tail = NULL;
    h->backlog = 0;
    for (uint32_t i = 0; i < h->n_threads; i++) {
        if (h->workers[i].running) {
            give(h, &h->workers[i], NULL);
        }
    }
    for (uint32_t i = 0; i < h->n_threads; i++) {
        if (h->workers[i].running) {
            pthread_join(h->workers[i].thread, NULL);
        }
    }
    if (h->router != NULL) {
        while (ew__hub_run(h, SIZE_MAX) > 0) {
        }
        zmq_close(h->router);
    }
    for (uint32_t i = 0; i < h->n_threads; i++) {
        if (h->workers[i].sock != NULL) {
            zmq_close(h->workers[i].sock);
        }
    }
    if (h->poster != NULL) {
        zmq_close(h->poster);
    }
    pthread_mutex_destroy(&h->lock);
    ew_free(h);
    *hub = NULL;
}

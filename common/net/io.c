/* Byte streams on ZMQ_STREAM. See the header for what libzmq leaves to us. */
#include "net/io.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"

#define ID_BYTES 5
#define CLOSED_MEMORY_MS 30000

struct ew_io_peer {
    unsigned char id[ID_BYTES];
    void *user;
    uint64_t closed_ms; /* 0 = alive; else closed by us: what still comes from it is dropped */
};

struct ew_io {
    void *sock;
    void *monitor; /* clients: a PAIR that tells of a refused connect; else NULL */
    ew_io_handlers h;
    void *ctx;
    ew_map *peers; /* id -> ew_io_peer, closed ones included for a while */
    size_t n_alive;
    ew_io_opt opt;
    int listen_fd; /* ours, a duplicate of the one that libzmq accepts on; -1 for clients */
    uint16_t port;
    bool client, paused, full, gone;
};

static int set_int(void *sock, int option, int value)
{
    return zmq_setsockopt(sock, option, &value, sizeof(value));
}

static bool set_options(void *s, const ew_io_opt *o, bool client)
{
    int rc = set_int(s, ZMQ_SNDHWM, 0);
    rc |= set_int(s, ZMQ_RCVHWM, o->rcv_hwm != 0 ? (int)o->rcv_hwm : 64);
    rc |= set_int(s, ZMQ_TCP_MAXRT, o->max_rt_ms != 0 ? (int)o->max_rt_ms : 20000);
    rc |= set_int(s, ZMQ_TCP_KEEPALIVE, 1);
    rc |= set_int(s, ZMQ_TCP_KEEPALIVE_IDLE, o->keepalive_idle_s != 0 ? (int)o->keepalive_idle_s : 60);
    rc |= set_int(s, ZMQ_TCP_KEEPALIVE_INTVL, o->keepalive_intvl_s != 0 ? (int)o->keepalive_intvl_s : 10);
    rc |= set_int(s, ZMQ_TCP_KEEPALIVE_CNT, o->keepalive_count != 0 ? (int)o->keepalive_count : 3);
    rc |= set_int(s, ZMQ_LINGER, 0);
    rc |= set_int(s, ZMQ_STREAM_NOTIFY, 1);
    rc |= set_int(s, ZMQ_IPV6, 1);
    if (client) {
        rc |= set_int(s, ZMQ_RECONNECT_IVL, -1);
    } else {
        rc |= set_int(s, ZMQ_BACKLOG, o->backlog != 0 ? (int)o->backlog : 4096);
    }
    return rc == 0;
}

static ew_status io_new(void *zmq, bool client, const ew_io_opt *opt, const ew_io_handlers *handlers, void *ctx,
                        ew_io **ret, ew_error *reterr)
{
    ew_io *io = ew_calloc(1, sizeof(*io));
    if (io == NULL || ew_map_new(&io->peers) != EW_OK) {
        ew_free(io);
        return ew_fail(reterr, EW_ENOMEM, "socket: out of memory");
    }
    io->h = *handlers;
    io->ctx = ctx;
    io->client = client;
    io->opt = *opt;
    io->listen_fd = -1;
    io->sock = zmq_socket(zmq, ZMQ_STREAM);
    if (io->sock == NULL || !set_options(io->sock, opt, client)) {
        int e = errno;
        ew_io_free(&io);
        return ew_fail(reterr, EW_EIO, "socket: %s", zmq_strerror(e));
    }
    *ret = io;
    return EW_OK;
}

static void free_peer(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size, (void)ctx;
    ew_free(value);
}

void ew_io_free(ew_io **io)
{
    if (io == NULL || *io == NULL) {
        return;
    }
    ew_io *o = *io;
    if (o->monitor != NULL) {
        zmq_socket_monitor(o->sock, NULL, 0);
        zmq_close(o->monitor);
    }
    if (o->sock != NULL) {
        zmq_close(o->sock);
    }
    if (o->listen_fd >= 0) {
        close(o->listen_fd);
    }
    ew_map_each(o->peers, free_peer, NULL);
    ew_map_free(&o->peers);
    ew_free(o);
    *io = NULL;
}

static bool endpoint_of(char *dst, size_t size, const char *addr, uint16_t port)
{
    bool v6 = strchr(addr, ':') != NULL;
    int n = snprintf(dst, size, "tcp://%s%s%s:%u", v6 ? "[" : "", addr, v6 ? "]" : "", port);
    return n > 0 && (size_t)n < size;
}

/* A listening socket of our own: libzmq only accepts on it (ZMQ_USE_FD). Its own would be unbound only together with every
 * connection that came through it, and then there were no way to stop accepting for a while. */
static int listen_on(const char *addr, uint16_t port, int backlog, char *text, size_t text_size)
{
    struct sockaddr_storage a;
    memset(&a, 0, sizeof(a));
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)&a;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)&a;
    bool any = strcmp(addr, "*") == 0;
    bool six = inet_pton(AF_INET6, any ? "::" : addr, &v6->sin6_addr) == 1;
    for (int attempt = 0; attempt < 2; attempt++, six = false) { /* "*" without IPv6 in the kernel: IPv4 */
        if (six) {
            v6->sin6_family = AF_INET6;
            v6->sin6_port = htons(port);
        } else {
            memset(&a, 0, sizeof(a));
            v4->sin_family = AF_INET;
            v4->sin_port = htons(port);
            if (!any && inet_pton(AF_INET, addr, &v4->sin_addr) != 1) {
                errno = EINVAL;
                return -1;
            }
        }
        socklen_t n = six ? sizeof(*v6) : sizeof(*v4);
        int one = 1;
        int zero = 0;
        int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
            (!any || !six || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0) &&
            bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, backlog) == 0 &&
            getsockname(fd, (struct sockaddr *)&a, &n) == 0) {
            snprintf(text, text_size, six ? "tcp://[::]:%u" : "tcp://0.0.0.0:%u",
                     ntohs(six ? v6->sin6_port : v4->sin_port));
            return fd;
        }
        int e = errno;
        if (fd >= 0) {
            close(fd);
        }
        errno = e;
        if (!any || !six) {
            break;
        }
    }
    return -1;
}

ew_status ew_io_listen(void *zmq, const char *addr, uint16_t port, const ew_io_opt *opt, const ew_io_handlers *handlers,
                       void *ctx, ew_io **ret, ew_error *reterr)
{
    ew_io *io = NULL;
    char text[64];
    EW_TRY(io_new(zmq, false, opt, handlers, ctx, &io, reterr));
    int fd = listen_on(addr, port, opt->backlog != 0 ? (int)opt->backlog : 4096, text, sizeof(text));
    if (fd < 0) {
        int e = errno;
        ew_io_free(&io);
        return ew_fail_errno(reterr, e, "cannot listen on %s port %u", addr, port);
    }
    io->listen_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    const char *colon = strrchr(text, ':');
    uint64_t got = 0;
    /* The address in the name has no effect with ZMQ_USE_FD. From the bind on the descriptor is libzmq's. */
    if (io->listen_fd < 0 || colon == NULL || !ew_str_to_u64(colon + 1, UINT16_MAX, &got) ||
        set_int(io->sock, ZMQ_USE_FD, fd) != 0 || zmq_bind(io->sock, text) != 0) {
        int e = errno;
        ew_io_free(&io);
        return ew_fail(reterr, EW_EIO, "cannot listen on %s port %u: %s", addr, port, zmq_strerror(e));
    }
    io->port = (uint16_t)got;
    *ret = io;
    return EW_OK;
}

static bool monitor(ew_io *io, void *zmq)
{
    static atomic_ulong next; /* libzmq frees a name late: never the same one twice */
    char ep[64];
    snprintf(ep, sizeof(ep), "inproc://ew-monitor-%lu", atomic_fetch_add(&next, 1));
    if (zmq_socket_monitor(io->sock, ep, ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED) != 0) {
        return false;
    }
    io->monitor = zmq_socket(zmq, ZMQ_PAIR);
    return io->monitor != NULL && set_int(io->monitor, ZMQ_LINGER, 0) == 0 && zmq_connect(io->monitor, ep) == 0;
}

ew_status ew_io_connect(void *zmq, const char *addr, uint16_t port, const ew_io_opt *opt,
                        const ew_io_handlers *handlers, void *ctx, ew_io **ret, ew_error *reterr)
{
    ew_io *io = NULL;
    EW_TRY(io_new(zmq, true, opt, handlers, ctx, &io, reterr));
    char ep[128];
    if (!endpoint_of(ep, sizeof(ep), addr, port) || !monitor(io, zmq) || zmq_connect(io->sock, ep) != 0) {
        int e = errno;
        ew_io_free(&io);
        return ew_fail(reterr, EW_EREMOTE, "cannot connect to %s port %u: %s", addr, port, zmq_strerror(e));
    }
    *ret = io;
    return EW_OK;
}

uint16_t ew_io_port(const ew_io *io)
{
    return io->port;
}

size_t ew_io_n_peers(const ew_io *io)
{
    return io->n_alive;
}

size_t ew_io_poll_items(const ew_io *io, zmq_pollitem_t items[static 2])
{
    items[0] = (zmq_pollitem_t){.socket = io->sock, .events = ZMQ_POLLIN};
    if (io->monitor == NULL) {
        return 1;
    }
    items[1] = (zmq_pollitem_t){.socket = io->monitor, .events = ZMQ_POLLIN};
    return 2;
}

/* ---- incoming */

static void forget(ew_io *io, ew_io_peer *p)
{
    if (p->closed_ms == 0) {
        io->n_alive--;
    }
    ew_map_remove(io->peers, p->id, ID_BYTES);
    ew_free(p);
}

static void raw_close(ew_io *io, const unsigned char id[ID_BYTES])
{
    if (zmq_send(io->sock, id, ID_BYTES, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0) {
        zmq_send(io->sock, "", 0, ZMQ_DONTWAIT);
    }
}

static void peer_up(ew_io *io, const unsigned char *id, const char *addr)
{
    ew_io_peer *p = ew_calloc(1, sizeof(*p));
    if (p == NULL || ew_map_add(io->peers, id, ID_BYTES, p) != EW_OK) {
        ew_free(p);
        raw_close(io, id);
        return;
    }
    memcpy(p->id, id, ID_BYTES);
    io->n_alive++;
    if (!io->h.on_up(io->ctx, p, addr != NULL ? addr : "", &p->user)) {
        ew_io_close(io, p);
    }
}

static void peer_gone(ew_io *io, ew_io_peer *p)
{
    bool told = p->closed_ms != 0;
    if (!told) {
        io->gone = io->client;
        io->h.on_gone(io->ctx, p, p->user);
    }
    forget(io, p);
}

static void one_message(ew_io *io, zmq_msg_t *id, zmq_msg_t *data)
{
    if (zmq_msg_size(id) != ID_BYTES) {
        return;
    }
    const unsigned char *key = zmq_msg_data(id);
    ew_io_peer *p = ew_map_get(io->peers, key, ID_BYTES);
    size_t n = zmq_msg_size(data);
    if (p == NULL) {
        if (n == 0) {
            peer_up(io, key, zmq_msg_gets(data, "Peer-Address"));
        }
    } else if (n == 0) {
        peer_gone(io, p);
    } else if (p->closed_ms == 0) {
        io->h.on_data(io->ctx, p, p->user, zmq_msg_data(data), n);
    }
}

/* A client whose connect was refused hears nothing on the socket itself. */
static void read_monitor(ew_io *io)
{
    for (;;) {
        zmq_msg_t m;
        zmq_msg_init(&m);
        if (zmq_msg_recv(&m, io->monitor, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&m);
            return;
        }
        bool event = zmq_msg_more(&m) != 0 && zmq_msg_size(&m) >= 2;
        uint16_t code = 0;
        if (event) {
            memcpy(&code, zmq_msg_data(&m), sizeof(code));
        }
        zmq_msg_close(&m);
        if ((code & (ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED)) != 0 && !io->gone && io->n_alive == 0) {
            io->gone = true;
            io->h.on_gone(io->ctx, NULL, NULL);
        }
    }
}

size_t ew_io_run(ew_io *io, size_t max)
{
    size_t done = 0;
    while (done < max) {
        zmq_msg_t id;
        zmq_msg_t data;
        zmq_msg_init(&id);
        zmq_msg_init(&data);
        bool got = zmq_msg_recv(&id, io->sock, ZMQ_DONTWAIT) >= 0 && zmq_msg_recv(&data, io->sock, 0) >= 0;
        if (got) {
            one_message(io, &id, &data);
            done++;
        }
        zmq_msg_close(&id);
        zmq_msg_close(&data);
        if (!got) {
            break;
        }
    }
    if (io->monitor != NULL && done < max) {
        read_monitor(io);
    }
    return done;
}

/* ---- outgoing */

ew_status ew_io_send(ew_io *io, ew_io_peer *peer, void *data, size_t size, void (*data_free)(void *data, void *hint),
                     void *hint, ew_error *reterr)
{
    zmq_msg_t m;
    int rc = data_free != NULL ? zmq_msg_init_data(&m, data, size, data_free, hint) : zmq_msg_init_size(&m, size);
    if (rc != 0) {
        if (data_free != NULL) {
            data_free(data, hint);
        }
        return ew_fail(reterr, EW_ENOMEM, "socket: out of memory");
    }
    if (data_free == NULL && size > 0) {
        memcpy(zmq_msg_data(&m), data, size);
    }
    if (size == 0) { /* would be a close */
        zmq_msg_close(&m);
        return EW_OK;
    }
    if (zmq_send(io->sock, peer->id, ID_BYTES, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_msg_send(&m, io->sock, ZMQ_DONTWAIT) < 0) {
        int e = errno;
        zmq_msg_close(&m);
        return ew_fail(reterr, EW_EREMOTE, "the connection is gone: %s", zmq_strerror(e));
    }
    return EW_OK;
}

void ew_io_close(ew_io *io, ew_io_peer *peer)
{
    if (peer->closed_ms == 0) {
        raw_close(io, peer->id);
        peer->closed_ms = EW_MAX(ew_mono_ms(), 1);
        io->n_alive--;
    }
}

/* A packet filter on the listening socket that takes nothing: no connection is made, none that is there is touched, and who
 * knocks tries again by itself. (zmq_unbind would end every connection.) */
static void set_filter(ew_io *io)
{
    struct sock_filter nothing = {BPF_RET | BPF_K, 0, 0, 0};
    struct sock_fprog prog = {1, &nothing};
    int none = 0;
    if (io->listen_fd < 0) {
        return;
    }
    if (io->paused || io->full) {
        (void)setsockopt(io->listen_fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
    } else {
        (void)setsockopt(io->listen_fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
    }
}

void ew_io_pause(ew_io *io)
{
    io->paused = true;
    set_filter(io);
}

void ew_io_resume(ew_io *io)
{
    io->paused = false;
    set_filter(io);
}

/* ---- housekeeping */

typedef struct sweep {
    uint64_t before_ms;
    ew_io_peer *old[64];
    size_t n;
} sweep;

static void find_old(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)key, (void)key_size;
    ew_io_peer *p = value;
    sweep *s = ctx;
    if (p->closed_ms != 0 && p->closed_ms < s->before_ms && s->n < EW_COUNT(s->old)) {
        s->old[s->n++] = p;
    }
}

/* Descriptors in use, counted cheaply enough for once a second. */
static size_t fds_in_use(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    while (d != NULL && readdir(d) != NULL) { /* NOLINT(concurrency-mt-unsafe): own stream */
        n++;
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}

static void watch_fds(ew_io *io)
{
    struct rlimit lim;
    /* opendir itself fails at the limit: that counts as full. */
    size_t used = fds_in_use();
    if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_cur == RLIM_INFINITY) {
        return;
    }
    size_t high = lim.rlim_cur * (io->opt.fd_high_percent != 0 ? io->opt.fd_high_percent : 95) / 100;
    size_t low = lim.rlim_cur * (io->opt.fd_low_percent != 0 ? io->opt.fd_low_percent : 90) / 100;
    if (!io->full && (used == 0 || used >= high)) {
        io->full = true;
        set_filter(io);
    } else if (io->full && used != 0 && used <= low) {
        io->full = false;
        set_filter(io);
    }
}

void ew_io_tick(ew_io *io)
{
    sweep s = {.n = 0};
    uint64_t now = ew_mono_ms();
    s.before_ms = now > CLOSED_MEMORY_MS ? now - CLOSED_MEMORY_MS : 0;
    ew_map_each(io->peers, find_old, &s);
    for (size_t i = 0; i < s.n; i++) {
        ew_map_remove(io->peers, s.old[i]->id, ID_BYTES);
        ew_free(s.old[i]);
    }
    if (!io->client) {
        watch_fds(io);
    }
}

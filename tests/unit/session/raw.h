/* A client made by hand: a blocking socket, TLS, and frames as the test wants them. */
#ifndef EW_TEST_SESSION_RAW_H
#define EW_TEST_SESSION_RAW_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "fixture.h"

#include "base/limits.h"
#include "net/frame.h"
#include "net/tls.h"

typedef struct raw {
    int fd;
    ew_tls *tls;
    ew_frame_decoder dec;
    uint64_t next_id;
    bool eof;
    ew_error err; /* of TLS: holds the alert's name */
    char pending[65536];
    size_t n_pending, at_pending;
} raw;

static EW_UNUSED int raw_tcp(const site *t)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(ew_server_port(t->s))};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* True when the server closed the connection within 10 s; bytes that come before are dropped. */
static EW_UNUSED bool raw_closed(int fd)
{
    char buf[4096];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10000) <= 0) {
            return false;
        }
        ssize_t n = recv(fd, buf, sizeof(buf), 0);
        if (n <= 0) {
            return true;
        }
    }
}

typedef struct raw_opt {
    const char *identity_path; /* NULL = no certificate */
    const char *alpn;          /* NULL = device */
    const char *server_name;   /* NULL = default */
} raw_opt;

static EW_UNUSED void raw_flush(raw *r)
{
    char buf[16384];
    size_t n;
    while ((n = ew_tls_output(r->tls, buf, sizeof(buf))) > 0) {
        size_t at = 0;
        while (at < n) {
            ssize_t k = send(r->fd, buf + at, n - at, MSG_NOSIGNAL);
            if (k <= 0) {
                r->eof = true;
                return;
            }
            at += (size_t)k;
        }
    }
}

/* Takes what has come within wait_ms; false at the end of the connection or of time. */
static EW_UNUSED bool raw_pump(raw *r, int wait_ms)
{
    char buf[16384];
    struct pollfd p = {.fd = r->fd, .events = POLLIN};
    raw_flush(r);
    if (r->eof || poll(&p, 1, wait_ms) <= 0) {
        return false;
    }
    ssize_t n = recv(r->fd, buf, sizeof(buf), 0);
    if (n <= 0) {
        r->eof = true;
        return false;
    }
    if (ew_tls_input(r->tls, buf, (size_t)n, &r->err) != EW_OK) {
        raw_flush(r);
        return false;
    }
    raw_flush(r);
    return true;
}

/* Connects and shakes hands (as far as the client can tell). */
static EW_UNUSED void raw_open(raw *r, const site *t, raw_opt o)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF id = {0};
    EW_AUTO_BUF roots = {0};
    memset(r, 0, sizeof(*r));
    ok(ew_file_read(t->p.ca_path, 100000, &roots, &err));
    if (o.identity_path != NULL) {
        ok(ew_file_read(o.identity_path, 100000, &id, &err));
    }
    ew_tls_client_opt opt = {.chain_pem = {id.data, id.size},
                             .key_pem = {id.data, id.size},
                             .roots_pem = {roots.data, roots.size},
                             .alpn = o.alpn != NULL ? o.alpn : EW_ALPN_DEVICE,
                             .server_name = o.server_name != NULL ? o.server_name : EW_DEFAULT_SERVER_NAME};
    ew_tls_ctx *ctx = NULL;
    ok(ew_tls_ctx_client(&opt, &ctx, &err));
    ok(ew_tls_new(ctx, &r->tls, &err));
    ew_tls_ctx_unref(&ctx);
    r->fd = raw_tcp(t);
    r->next_id = 1;
    ew_frame_decoder_init(&r->dec, EW_LIMIT_FRAME_BYTES);
    ok(ew_tls_input(r->tls, NULL, 0, &err));
    while (ew_tls_get_state(r->tls) == EW_TLS_HANDSHAKE && raw_pump(r, 10000)) {
    }
}

static EW_UNUSED void raw_close(raw *r)
{
    close(r->fd);
    ew_tls_free(&r->tls);
    ew_frame_decoder_release(&r->dec);
}

static EW_UNUSED void raw_bytes(raw *r, const void *data, size_t n)
{
    ew_error err = EW_ERROR_INIT;
    ok(ew_tls_write(r->tls, data, n, &err));
    raw_flush(r);
}

/* One frame with this envelope and body. */
static EW_UNUSED void raw_frame(raw *r, ew_span env, ew_span body)
{
    EW_AUTO_BUF b = {0};
    unsigned char h[EW_FRAME_HEADER_BYTES];
    ew_frame_header(h, env.size, body.size);
    ew_buf_add(&b, h, sizeof(h));
    ew_buf_add(&b, env.data, env.size);
    ew_buf_add(&b, body.data, body.size);
    raw_bytes(r, b.data, b.size);
}

/* Sends a message; msg_id is counted up unless it is set. */
static EW_UNUSED void raw_send(raw *r, ew_msg *m, ew_span body)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF env = {0};
    if (m->msg_id == 0) {
        m->msg_id = r->next_id++;
    }
    ok(ew_wire_pack(m, &env, &err));
    raw_frame(r, (ew_span){env.data, env.size}, body);
}

/* The next message within 10 s, or NULL at the end of the connection (r->err then has the alert). */
static EW_UNUSED ew_msg *raw_recv(raw *r)
{
    ew_error err = EW_ERROR_INIT;
    for (;;) {
        ew_span s = {r->pending + r->at_pending, r->n_pending - r->at_pending};
        ew_frame *f = NULL;
        while (s.size > 0 && f == NULL) {
            ok(ew_frame_decode(&r->dec, &s, &f, &err));
        }
        r->at_pending = r->n_pending - s.size;
        if (f != NULL) {
            ew_msg *m = ew_msg_new(EW_MSG_NONE);
            ok(ew_wire_unpack(f->envelope, f->body, m, &err));
            ew_frame_free(&f);
            return m;
        }
        r->n_pending = r->at_pending = 0;
        if (ew_tls_read(r->tls, r->pending, sizeof(r->pending), &r->n_pending, &r->err) != EW_OK) {
            return NULL;
        }
        if (r->n_pending == 0 && !raw_pump(r, 10000)) {
            return NULL;
        }
    }
}

/* Hello, and the answer to it. */
static EW_UNUSED ew_msg *raw_hello(raw *r, uint64_t epoch)
{
    ew_msg *m = ew_msg_new(EW_MSG_HELLO);
    m->hello.n_versions = 1;
    m->hello.versions[0].major = 1;
    m->hello.session_epoch = epoch;
    raw_send(r, m, NO_BODY);
    ew_msg_free(&m);
    return raw_recv(r);
}

/* Reads to the end; returns the reason of the GoAway that came, or -1. */
static EW_UNUSED int raw_go_away(raw *r)
{
    int reason = -1;
    ew_msg *m;
    while ((m = raw_recv(r)) != NULL) {
        if (m->type == EW_MSG_GO_AWAY) {
            reason = (int)m->go_away.reason;
        }
        ew_msg_free(&m);
    }
    return reason;
}

#endif

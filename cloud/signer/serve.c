/* The signer's loop: accepts on a UNIX socket, checks who asks (SO_PEERCRED), answers one request at a time. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "signer/ipc.h"
#include "signer/signer.h"
#include "sys/signal.h"
#include "sys/socket.h"

#define CLIENTS_MAX 16
#define STALL_MS 5000

typedef struct server {
    const ew_signer *signer;
    const ew_signer_serve_opt *opt;
    int fd[2 + CLIENTS_MAX]; /* signal, listener, clients */
    nfds_t n;
} server;

static void tell(const server *sv, const char *event, const char *detail)
{
    if (sv->opt->on_event != NULL) {
        sv->opt->on_event(sv->opt->ctx, event, detail);
    }
}

static bool field_text(const ew_signer_frame *f, size_t i, char *dst, size_t size)
{
    if (i >= f->n || f->field[i].size >= size || memchr(f->field[i].data, '\0', f->field[i].size) != NULL) {
        return false;
    }
    memcpy(dst, f->field[i].data, f->field[i].size);
    dst[f->field[i].size] = '\0';
    return true;
}

static ew_status do_device(const server *sv, const ew_signer_frame *req, ew_buf *der, ew_error *reterr)
{
    char id[80], seconds[16];
    uint64_t life = 0;
    if (req->n != 3 || !field_text(req, 1, id, sizeof id) || !field_text(req, 2, seconds, sizeof seconds) ||
        (seconds[0] != '\0' && !ew_str_to_u64(seconds, EW_SIGNER_DEVICE_MAX_S, &life))) {
        return ew_fail(reterr, EW_EINVAL, "malformed request for a device certificate");
    }
    ew_status st = ew_signer_issue(sv->signer, EW_SPIFFE_DEVICE, id, req->field[0], (uint32_t)life, der, reterr);
    if (st == EW_OK) {
        tell(sv, "device-certificate", id);
    }
    return st;
}

static ew_status do_sign(const server *sv, const ew_signer_frame *req, ew_buf *sig, ew_error *reterr)
{
    uint8_t bytes[64];
    if (req->n != 1) {
        return ew_fail(reterr, EW_EINVAL, "malformed request for a signature");
    }
    EW_TRY(req->code == EW_SIGNER_MANIFEST ? ew_signer_sign_manifest(sv->signer, req->field[0], bytes, reterr)
                                           : ew_signer_sign_plan(sv->signer, req->field[0], bytes, reterr));
    ew_buf_add(sig, bytes, sizeof bytes);
    return ew_buf_check(sig, reterr);
}

/* One answer into out. data holds what its fields point to. */
static ew_status answer(const server *sv, const ew_signer_frame *req, ew_buf *data, ew_signer_frame *ret,
                        ew_error *reterr)
{
    switch (req->code) {
    case EW_SIGNER_INFO: {
        uint8_t key[32];
        ew_signer_artifact_key(sv->signer, key);
        ew_buf_add(data, key, sizeof key);
        EW_TRY(ew_buf_check(data, reterr));
        const char *domain = ew_signer_domain(sv->signer);
        const char *id = ew_signer_coordinator_id(sv->signer);
        *ret = (ew_signer_frame){
            .n = 4,
            .field = {
                ew_signer_ca_der(sv->signer), {data->data, data->size}, {domain, strlen(domain)}, {id, strlen(id)}}};
        return EW_OK;
    }
    case EW_SIGNER_DEVICE:
        EW_TRY(do_device(sv, req, data, reterr));
        break;
    case EW_SIGNER_SERVER:
        if (req->n != 1) {
            return ew_fail(reterr, EW_EINVAL, "malformed request for a server certificate");
        }
        EW_TRY(ew_signer_issue(sv->signer, EW_SPIFFE_COORDINATOR, "", req->field[0], 0, data, reterr));
        tell(sv, "server-certificate", ew_signer_coordinator_id(sv->signer));
        break;
    case EW_SIGNER_MANIFEST:
    case EW_SIGNER_PLAN:
        EW_TRY(do_sign(sv, req, data, reterr));
        break;
    default:
        return ew_fail(reterr, EW_EUNSUPPORTED, "the signer does not know request %u", req->code);
    }
    *ret = (ew_signer_frame){.n = 1, .field = {{data->data, data->size}}};
    return EW_OK;
}

static ew_status serve_one(const server *sv, int fd, ew_error *reterr)
{
    EW_AUTO_BUF in = {0};
    EW_AUTO_BUF data = {0};
    EW_AUTO_BUF out = {0};
    EW_TRY(ew_signer_frame_recv(fd, STALL_MS, &in, reterr));
    ew_signer_frame req = {0}, rep = {0};
    EW_TRY(ew_signer_frame_parse((ew_span){in.data, in.size}, &req, reterr));
    ew_error err = EW_ERROR_INIT;
    ew_status st = answer(sv, &req, &data, &rep, &err);
    if (st != EW_OK) {
        tell(sv, "refused", err.msg);
        rep = (ew_signer_frame){.code = (uint8_t)-st, .n = 1, .field = {{err.msg, strlen(err.msg)}}};
    }
    EW_TRY(ew_signer_frame_add(&rep, &out, reterr));
    return ew_socket_send_all(fd, out.data, out.size, STALL_MS, reterr);
}

static bool allowed(const server *sv, uint32_t uid)
{
    if (uid == 0 || uid == (uint32_t)geteuid()) {
        return true;
    }
    for (size_t i = 0; i < sv->opt->n_allow_uid; i++) {
        if (sv->opt->allow_uid[i] == uid) {
            return true;
        }
    }
    return false;
}

static void accept_one(server *sv)
{
    int fd = -1;
    uint32_t uid = 0;
    int64_t pid = 0;
    if (ew_unix_accept(sv->fd[1], &fd, NULL) != EW_OK) {
        return;
    }
    char detail[64];
    if (ew_unix_peer(fd, &uid, &pid, NULL) != EW_OK || !allowed(sv, uid)) {
        (void)snprintf(detail, sizeof detail, "uid=%u pid=%lld", (unsigned)uid, (long long)pid);
        tell(sv, "peer-refused", detail);
        (void)close(fd);
        return;
    }
    if (sv->n == 2 + CLIENTS_MAX) {
        tell(sv, "too-many-clients", "");
        (void)close(fd);
        return;
    }
    sv->fd[sv->n++] = fd;
}

static ew_status poll_once(server *sv, ew_error *reterr)
{
    struct pollfd pfd[2 + CLIENTS_MAX];
    nfds_t n = sv->n;
    for (nfds_t i = 0; i < n; i++) {
        pfd[i] = (struct pollfd){.fd = sv->fd[i], .events = POLLIN};
    }
    if (poll(pfd, n, -1) < 0) {
        return errno == EINTR ? EW_OK : ew_fail_errno(reterr, errno, "signer: poll");
    }
    if (pfd[0].revents != 0) {
        ew_signal_drain();
    }
    for (nfds_t i = n; i-- > 2;) { /* backwards: removal moves the last one, which was served already */
        ew_error err = EW_ERROR_INIT;
        if (pfd[i].revents != 0 && serve_one(sv, sv->fd[i], &err) != EW_OK) {
            if (err.code != EW_EREMOTE) {
                tell(sv, "client-dropped", err.msg);
            }
            (void)close(sv->fd[i]);
            sv->fd[i] = sv->fd[--sv->n];
        }
    }
    if (pfd[1].revents != 0) {
        accept_one(sv);
    }
    return EW_OK;
}

ew_status ew_signer_serve(const ew_signer *s, const ew_signer_serve_opt *opt, ew_error *reterr)
{
    server sv = {.signer = s, .opt = opt, .n = 2};
    sv.fd[0] = ew_signal_fd();
    EW_TRY(ew_unix_listen(opt->socket_path, 0666, &sv.fd[1], reterr)); /* who may ask is checked at accept */
    if (opt->on_ready != NULL) {
        opt->on_ready(opt->ctx);
    }
    ew_status st = EW_OK;
    while (st == EW_OK && !ew_signal_stop()) {
        st = poll_once(&sv, reterr);
    }
    for (nfds_t i = 1; i < sv.n; i++) {
        (void)close(sv.fd[i]);
    }
    (void)unlink(opt->socket_path);
    return st;
}

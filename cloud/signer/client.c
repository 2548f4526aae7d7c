/* See client.h. All requests are idempotent, so one that was cut by a restart of the signer is simply sent again. */
#include "signer/client.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "signer/ipc.h"
#include "sys/socket.h"

#define ANSWER_MS 10000

struct ew_signer_client {
    pthread_mutex_t lock;
    char *path;
    uint32_t retry_ms;
    int fd; /* -1 = not connected */
};

void ew_signer_info_release(ew_signer_info *i)
{
    ew_buf_release(&i->ca_der);
}

ew_status ew_signer_client_new(const char *socket_path, uint32_t retry_ms, ew_signer_client **ret_client,
                               ew_error *reterr)
{
    ew_signer_client *c = ew_calloc(1, sizeof *c);
    if (c == NULL || (c->path = ew_str_dup(socket_path)) == NULL) {
        ew_free(c);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the signer's client");
    }
    (void)pthread_mutex_init(&c->lock, NULL);
    c->retry_ms = retry_ms;
    c->fd = -1;
    *ret_client = c;
    return EW_OK;
}

void ew_signer_client_free(ew_signer_client **cp)
{
    ew_signer_client *c = *cp;
    if (c == NULL) {
        return;
    }
    if (c->fd >= 0) {
        (void)close(c->fd);
    }
    (void)pthread_mutex_destroy(&c->lock);
    ew_free(c->path);
    ew_free(c);
    *cp = NULL;
}

static ew_status try_once(ew_signer_client *c, const ew_buf *out, ew_buf *in, ew_error *reterr)
{
    if (c->fd < 0) {
        EW_TRY(ew_unix_connect(c->path, &c->fd, reterr));
    }
    ew_status st = ew_socket_send_all(c->fd, out->data, out->size, ANSWER_MS, reterr);
    if (st == EW_OK) {
        st = ew_signer_frame_recv(c->fd, ANSWER_MS, in, reterr);
    }
    if (st != EW_OK) {
        (void)close(c->fd);
        c->fd = -1;
    }
    return st;
}

static ew_status exchange(ew_signer_client *c, uint64_t until, const ew_buf *out, ew_buf *in, ew_error *reterr)
{
    for (;;) {
        ew_error err = EW_ERROR_INIT;
        if (try_once(c, out, in, &err) == EW_OK) {
            return EW_OK;
        }
        if (ew_mono_ms() >= until) {
            return ew_fail(reterr, EW_EREMOTE, "the signer does not answer on %s: %s. HINT: start edgewise-signer",
                           c->path, err.msg);
        }
        struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
    }
}

/* in holds what the answer's fields point to. */
static ew_status ask(ew_signer_client *c, const ew_signer_frame *req, ew_buf *in, ew_signer_frame *ret, size_t n_fields,
                     ew_error *reterr)
{
    EW_AUTO_BUF out = {0};
    EW_TRY(ew_signer_frame_add(req, &out, reterr));
    uint64_t until =
        ew_mono_ms() + c->retry_ms; /* waiting for our turn counts: many callers do not wait one after another */
    (void)pthread_mutex_lock(&c->lock);
    ew_status st = exchange(c, until, &out, in, reterr);
    (void)pthread_mutex_unlock(&c->lock);
    EW_TRY(st);
    ew_signer_frame f;
    EW_TRY(ew_signer_frame_parse((ew_span){in->data, in->size}, &f, reterr));
    if (f.code != 0) {
        ew_status code = f.code <= -EW_EINTERNAL ? (ew_status) - (int)f.code : EW_EINTERNAL;
        return ew_fail(reterr, code, "signer: %.*s", f.n > 0 ? (int)f.field[0].size : 0,
                       f.n > 0 ? (const char *)f.field[0].data : "");
    }
    if (f.n != n_fields) {
        return ew_fail(reterr, EW_ECORRUPT, "the signer's answer has %zu fields, %zu were expected", f.n, n_fields);
    }
    *ret = f;
    return EW_OK;
}

static bool field_text(ew_span f, char *dst, size_t size)
{
    if (f.size >= size) {
        return false;
    }
    memcpy(dst, f.data, f.size);
    dst[f.size] = '\0';
    return true;
}

ew_status ew_signer_client_info(ew_signer_client *c, ew_signer_info *ret_info, ew_error *reterr)
{
    EW_AUTO_BUF in = {0};
    ew_signer_frame f;
    EW_TRY(ask(c, &(ew_signer_frame){.code = EW_SIGNER_INFO}, &in, &f, 4, reterr));
    ew_signer_info info = {0};
    if (f.field[1].size != 32 || !field_text(f.field[2], info.domain, sizeof info.domain) ||
        !field_text(f.field[3], info.coordinator_id, sizeof info.coordinator_id)) {
        return ew_fail(reterr, EW_ECORRUPT, "the signer's answer is malformed");
    }
    memcpy(info.artifact_key, f.field[1].data, 32);
    ew_buf_add(&info.ca_der, f.field[0].data, f.field[0].size);
    EW_TRY(ew_buf_check(&info.ca_der, reterr));
    *ret_info = info;
    return EW_OK;
}

ew_status ew_signer_client_device(ew_signer_client *c, ew_span csr, const char *device_id, uint32_t seconds,
                                  ew_buf *out_der, ew_error *reterr)
{
    char life[16] = "";
    if (seconds != 0) {
        (void)snprintf(life, sizeof life, "%u", (unsigned)seconds);
    }
    EW_AUTO_BUF in = {0};
    ew_signer_frame f;
    ew_signer_frame req = {
        .code = EW_SIGNER_DEVICE, .n = 3, .field = {csr, {device_id, strlen(device_id)}, {life, strlen(life)}}};
    EW_TRY(ask(c, &req, &in, &f, 1, reterr));
    ew_buf_add(out_der, f.field[0].data, f.field[0].size);
    return ew_buf_check(out_der, reterr);
}

ew_status ew_signer_client_server(ew_signer_client *c, ew_span csr, ew_buf *out_der, ew_error *reterr)
{
    EW_AUTO_BUF in = {0};
    ew_signer_frame f;
    EW_TRY(ask(c, &(ew_signer_frame){.code = EW_SIGNER_SERVER, .n = 1, .field = {csr}}, &in, &f, 1, reterr));
    ew_buf_add(out_der, f.field[0].data, f.field[0].size);
    return ew_buf_check(out_der, reterr);
}

static ew_status sign(ew_signer_client *c, ew_signer_op op, ew_span packed, uint8_t *ret_sig, ew_error *reterr)
{
    EW_AUTO_BUF in = {0};
    ew_signer_frame f;
    EW_TRY(ask(c, &(ew_signer_frame){.code = (uint8_t)op, .n = 1, .field = {packed}}, &in, &f, 1, reterr));
    if (f.field[0].size != 64) {
        return ew_fail(reterr, EW_ECORRUPT, "the signer's signature has %zu bytes", f.field[0].size);
    }
    memcpy(ret_sig, f.field[0].data, 64);
    return EW_OK;
}

ew_status ew_signer_client_manifest(ew_signer_client *c, ew_span packed, uint8_t ret_sig[static 64], ew_error *reterr)
{
    return sign(c, EW_SIGNER_MANIFEST, packed, ret_sig, reterr);
}

ew_status ew_signer_client_plan(ew_signer_client *c, ew_span packed, uint8_t ret_sig[static 64], ew_error *reterr)
{
    return sign(c, EW_SIGNER_PLAN, packed, ret_sig, reterr);
}

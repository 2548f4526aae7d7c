/* Enrolment, the agent's side: one connection, one request, done in the caller's thread. */
#include "session/enrol.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "session/client_int.h"
#include "sys/file.h"

#define PREFIX "ew1."
#define CHECK_BYTES 4
#define PENDING_MAX_BYTES (32u * 1024)

/* ---- token */

ew_status ew_token_format(const ew_token *t, char ret_text[EW_TOKEN_TEXT_SIZE], ew_error *reterr)
{
    uint8_t raw[EW_ENDPOINT_SIZE + 64 + 80];
    size_t n = 0;
    size_t n_ep = strlen(t->endpoint);
    size_t n_id = strlen(t->id);
    if (n_ep == 0 || n_ep >= EW_ENDPOINT_SIZE || n_id == 0 || n_id >= sizeof(t->id) || !ew_device_id_valid(t->id)) {
        return ew_fail(reterr, EW_EINVAL, "token: endpoint or id is empty or too long");
    }
    raw[n++] = (uint8_t)n_ep;
    memcpy(raw + n, t->endpoint, n_ep);
    n += n_ep;
    memcpy(raw + n, t->ca_sha256, 32);
    n += 32;
    raw[n++] = (uint8_t)n_id;
    memcpy(raw + n, t->id, n_id);
    n += n_id;
    memcpy(raw + n, t->secret, 32);
    n += 32;
    uint8_t digest[32];
    ew_sha256(raw, n, digest);
    memcpy(raw + n, digest, CHECK_BYTES);
    n += CHECK_BYTES;
    memcpy(ret_text, PREFIX, sizeof(PREFIX));
    ew_b64url_encode(raw, n, ret_text + sizeof(PREFIX) - 1);
    ew_wipe(raw, sizeof(raw));
    return EW_OK;
}

static bool token_fields(const uint8_t *raw, size_t n, ew_token *t)
{
    size_t at = 0;
    size_t n_ep = n > 0 ? raw[at++] : 0;
    if (n_ep == 0 || n_ep >= EW_ENDPOINT_SIZE || n < at + n_ep + 33) {
        return false;
    }
    memcpy(t->endpoint, raw + at, n_ep);
    at += n_ep;
    memcpy(t->ca_sha256, raw + at, 32);
    at += 32;
    size_t n_id = raw[at++];
    if (n_id == 0 || n_id >= sizeof(t->id) || n != at + n_id + 32) {
        return false;
    }
    memcpy(t->id, raw + at, n_id);
    memcpy(t->secret, raw + at + n_id, 32);
    for (size_t i = 0; i < n_ep; i++) {
        if (t->endpoint[i] <= ' ' || t->endpoint[i] > '~') {
            return false;
        }
    }
    return ew_device_id_valid(t->id);
}

ew_status ew_token_parse(const char *text, ew_token *ret, ew_error *reterr)
{
    uint8_t raw[EW_TOKEN_TEXT_SIZE];
    size_t n = 0;
    ew_token t = {.endpoint = ""};
    size_t len = strlen(text);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' ' || text[len - 1] == '\r')) {
        len--;
    }
    const size_t n_prefix = sizeof(PREFIX) - 1;
    if (len < n_prefix || strncmp(text, PREFIX, n_prefix) != 0) {
        return ew_fail(reterr, EW_EINVAL,
                       "this is not an enrolment token: it begins with \"" PREFIX
                       "\". HINT: edgewise-coordinator token create prints one");
    }
    uint8_t digest[32];
    bool ok = ew_b64url_decode(text + n_prefix, len - n_prefix, raw, sizeof(raw), &n) && n > CHECK_BYTES;
    if (ok) {
        ew_sha256(raw, n - CHECK_BYTES, digest);
        ok = memcmp(digest, raw + n - CHECK_BYTES, CHECK_BYTES) == 0 && token_fields(raw, n - CHECK_BYTES, &t);
    }
    ew_wipe(raw, sizeof(raw));
    if (!ok) {
        return ew_fail(reterr, EW_EINVAL, "the enrolment token is damaged: copy the whole string again");
    }
    *ret = t;
    return EW_OK;
}

void ew_enrol_proof(const uint8_t secret[32], const uint8_t channel_binding[32], ew_span csr_der, uint8_t ret_proof[32])
{
    uint8_t text[64];
    memcpy(text, channel_binding, 32);
    ew_sha256(csr_der.data, csr_der.size, text + 32);
    ew_hmac_sha256(secret, 32, text, sizeof(text), ret_proof);
}

bool ew_enrol_proof_matches(const uint8_t a[32], const uint8_t b[32])
{
    return ew_equal_secret(a, b, 32);
}

/* ---- the key and request, kept until the answer came, so that a retry sends the very same request */

static ew_status pending_make(const char *path, ew_buf *key_pem, ew_buf *csr, ew_error *reterr)
{
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF file = {0};
    EW_TRY(ew_pkey_new(&key, reterr));
    EW_TRY(ew_pkey_to_pem(key, key_pem, reterr));
    EW_TRY(ew_csr_make(key, csr, reterr));
    char hex[2 * EW_CSR_MAX_BYTES + 1];
    ew_hex_encode(csr->data, csr->size, hex);
    ew_buf_add(&file, key_pem->data, key_pem->size);
    ew_buf_addf(&file, "#csr %s\n", hex);
    ew_status st = ew_buf_check(&file, reterr);
    if (st == EW_OK) {
        st = ew_file_replace(path, file.data, file.size, 0600, reterr);
    }
    ew_wipe(file.data, file.size);
    return st;
}

static ew_status pending_load(const char *path, ew_buf *key_pem, ew_buf *csr, ew_error *reterr)
{
    EW_AUTO_BUF file = {0};
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_file_read(path, PENDING_MAX_BYTES, &file, &err);
    char *mark = st == EW_OK && file.data != NULL ? strstr(file.data, "#csr ") : NULL;
    if (mark != NULL) {
        char *hex = mark + 5;
        size_t n = strspn(hex, "0123456789abcdef") / 2;
        hex[2 * n] = '\0';
        uint8_t *to = n > 0 && n <= EW_CSR_MAX_BYTES ? ew_buf_extend(csr, n) : NULL;
        ew_buf_add(key_pem, file.data, (size_t)(mark - file.data));
        if (to != NULL && ew_hex_decode(hex, to, n) &&
            ew_csr_check((ew_span){csr->data, csr->size}, NULL, &err) == EW_OK) {
            ew_wipe(file.data, file.size);
            return ew_buf_check(key_pem, reterr);
        }
        ew_buf_clear(csr);
        ew_buf_clear(key_pem);
    } else if (st != EW_OK && st != EW_ENOENT) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    return pending_make(path, key_pem, csr, reterr);
}

/* ---- the exchange */

typedef struct exchange {
    const ew_enrol_opt *opt;
    ew_span csr;
    ew_tls_ctx *tls;
    ew_io *io;
    ew__link link;
    bool link_up, sent, over;
    ew_msg *answer;
    char domain[EW_SPIFFE_DOMAIN_SIZE];
    ew_status st;
    ew_error err;
} exchange;

static void over(exchange *x, ew_status st, const char *text)
{
    if (!x->over) {
        x->over = true;
        x->st = st == EW_OK ? EW_OK : ew_fail(&x->err, st, "%s", text);
    }
}

static bool on_frame(void *ctx, ew_frame *frame, const ew_wire_header *h)
{
    exchange *x = ctx;
    (void)h;
    ew_msg *m = ew_msg_new(EW_MSG_NONE);
    ew_error err = EW_ERROR_INIT;
    ew_status st = m != NULL ? ew_wire_unpack(frame->envelope, frame->body, m, &err) : EW_ENOMEM;
    ew_frame_free(&frame);
    if (st != EW_OK) {
        over(x, EW_EREMOTE, err.msg);
    } else if (m->type == EW_MSG_ERROR) {
        ew_status code = ew_code_to_status(m->error.code);
        over(x, code != EW_OK ? code : EW_EREMOTE, m->error.detail);
    } else if (m->type == EW_MSG_GO_AWAY) {
        over(x, EW_EREMOTE, m->go_away.detail);
    } else if (m->type == EW_MSG_ENROL_RESPONSE) {
        x->answer = m;
        m = NULL;
        over(x, EW_OK, "");
    }
    ew_msg_free(&m);
    return !x->over;
}

static void send_request(exchange *x)
{
    ew_msg *m = ew_msg_new(EW_MSG_ENROL_REQUEST);
    if (m == NULL) {
        over(x, EW_ENOMEM, "enrolment: out of memory");
        return;
    }
    const ew_enrol_opt *o = x->opt;
    const ew_tls_peer *peer = ew_tls_get_peer(x->link.tls);
    ew_str_copy(x->domain, sizeof(x->domain), peer->spiffe.domain);
    ew_str_copy(m->enrol_request.token_id, sizeof(m->enrol_request.token_id), o->token->id);
    ew_enrol_proof(o->token->secret, peer->channel_binding, x->csr, m->enrol_request.proof);
    m->enrol_request.csr_der = x->csr;
    if (o->hardware_id != NULL) {
        ew_str_copy(m->enrol_request.hardware_id, sizeof(m->enrol_request.hardware_id), o->hardware_id);
    }
    if (o->caps != NULL) {
        m->enrol_request.has_caps = true;
        m->enrol_request.caps = *o->caps;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew__link_send_msg(&x->link, m, 0, false, &err);
    ew_msg_free(&m);
    if (st != EW_OK) {
        over(x, st, err.msg);
    }
    x->sent = true;
}

static bool io_up(void *ctx, ew_io_peer *peer, const char *addr, void **ret_user)
{
    (void)addr;
    exchange *x = ctx;
    ew_error err = EW_ERROR_INIT;
    *ret_user = x;
    ew__link_init(&x->link, x->io, peer, EW_LIMIT_FRAME_BYTES);
    x->link_up = true;
    ew_status st = ew_tls_new(x->tls, &x->link.tls, &err);
    if (st == EW_OK) {
        st = ew_tls_input(x->link.tls, NULL, 0, &err);
    }
    if (st == EW_OK) {
        st = ew__link_flush(&x->link, &err);
    }
    if (st != EW_OK) {
        over(x, st, err.msg);
    }
    return true;
}

static void io_data(void *ctx, ew_io_peer *peer, void *user, const void *data, size_t size)
{
    (void)peer, (void)user;
    exchange *x = ctx;
    ew_error err = EW_ERROR_INIT;
    if (x->over) {
        return;
    }
    ew_status st = EW_OK;
    if (ew_tls_get_state(x->link.tls) == EW_TLS_HANDSHAKE) {
        st = ew_tls_input(x->link.tls, data, size, &err);
        size = 0;
        if (st == EW_OK && ew_tls_get_state(x->link.tls) == EW_TLS_UP) {
            send_request(x);
        }
    }
    if (st == EW_OK && ew_tls_get_state(x->link.tls) == EW_TLS_UP) {
        st = ew__link_input(&x->link, data, size, on_frame, x, &err);
    }
    if (st == EW_OK) {
        st = ew__link_flush(&x->link, &err);
    } else {
        ew_error ignored;
        (void)!ew__link_flush_tls(&x->link, &ignored);
    }
    if (st != EW_OK) {
        over(x, st == EW_EDENIED ? EW_EDENIED : EW_EREMOTE, err.msg);
    }
}

static void io_gone(void *ctx, ew_io_peer *peer, void *user)
{
    (void)user;
    exchange *x = ctx;
    if (x->link_up) {
        x->link.peer = NULL;
    }
    over(x, EW_EREMOTE,
         peer == NULL ? "connection refused. HINT: is the coordinator running?"
         : x->sent    ? "the coordinator closed the connection before it answered"
                      : "the coordinator closed the connection during the handshake");
}

/* One attempt at one address. */
static ew_status attempt(exchange *x, void *zmq, const char *addr, uint16_t port, uint64_t until_ms, ew_error *reterr)
{
    static const ew_io_handlers handlers = {io_up, io_data, io_gone};
    ew_io_opt opt = {.max_rt_ms = 0};
    EW_TRY(ew_io_connect(zmq, addr, port, &opt, &handlers, x, &x->io, reterr));
    while (!x->over) {
        uint64_t now = ew_mono_ms();
        if (now >= until_ms) {
            over(x, EW_EREMOTE, "the coordinator did not answer in time");
            break;
        }
        zmq_pollitem_t items[2];
        size_t n = ew_io_poll_items(x->io, items);
        zmq_poll(items, (int)n, (long)EW_MIN(until_ms - now, 1000));
        ew_io_run(x->io, 64);
    }
    if (x->link_up) {
        ew__link_close(&x->link);
        ew__link_release(&x->link);
    }
    ew_io_free(&x->io);
    return x->st == EW_OK ? EW_OK : ew_fail(reterr, x->st, "%s", x->err.msg);
}

static ew_status store(exchange *x, ew_span key_pem, ew_enrol_result *ret, ew_error *reterr)
{
    const ew_msg_enrol_response *a = &x->answer->enrol_response;
    bool pinned = false;
    for (uint32_t i = 0; i < a->trust_bundle.n; i++) {
        uint8_t digest[32];
        ew_sha256(a->trust_bundle.item[i].data, a->trust_bundle.item[i].size, digest);
        pinned = pinned || memcmp(digest, x->opt->token->ca_sha256, 32) == 0;
    }
    ew_cert_info info;
    if (!pinned || a->chain.n == 0) {
        return ew_fail(reterr, EW_EDENIED, "the coordinator's trust roots do not hold the CA that the token names");
    }
    EW_TRY(ew_cert_info_of(a->chain.item[0], &info, reterr));
    if (!info.has_spiffe || info.spiffe.kind != EW_SPIFFE_DEVICE || strcmp(info.spiffe.domain, x->domain) != 0 ||
        strcmp(info.spiffe.id, a->device_id) != 0) {
        return ew_fail(reterr, EW_EREMOTE, "the coordinator sent a certificate that does not name this device");
    }
    EW_TRY(ew__identity_write(x->opt->identity_path, x->opt->ca_path, key_pem, &a->chain, &a->trust_bundle, reterr));
    *ret = (ew_enrol_result){.endpoints = a->endpoints, .renew_after_unix_ms = a->renew_after_unix_ms};
    ew_str_copy(ret->device_id, sizeof(ret->device_id), a->device_id);
    ew_str_copy(ret->trust_domain, sizeof(ret->trust_domain), x->domain);
    memcpy(ret->artifact_key, a->artifact_key, sizeof(ret->artifact_key));
    if (ret->endpoints.n == 0) {
        ret->endpoints.n = 1;
        ew_str_copy(ret->endpoints.item[0], EW_ENDPOINT_SIZE, x->opt->token->endpoint);
    }
    return ew_file_remove(x->opt->pending_path, reterr);
}

static ew_status tls_for(const ew_enrol_opt *opt, const char *host, ew_tls_ctx **ret, ew_error *reterr)
{
    bool number = strspn(host, "0123456789.") == strlen(host) || strchr(host, ':') != NULL;
    ew_tls_client_opt tls = {.pin_sha256 = opt->token->ca_sha256,
                             .alpn = EW_ALPN_ENROL,
                             .server_name = number ? EW_DEFAULT_SERVER_NAME : host};
    return ew_tls_ctx_client(&tls, ret, reterr);
}

ew_status ew_enrol(const ew_enrol_opt *opt, ew_enrol_result *ret, ew_error *reterr)
{
    EW_AUTO_BUF key_pem = {0};
    EW_AUTO_BUF csr = {0};
    char host[256];
    uint16_t port;
    ew_addr_list addrs;
    ew_tls_ctx *tls = NULL;
    uint64_t until_ms = ew_mono_ms() + (opt->timeout_ms != 0 ? opt->timeout_ms : 30000);
    EW_TRY(ew_endpoint_parse(opt->token->endpoint, 7443, host, sizeof(host), &port, reterr));
    EW_TRY(ew_resolve(host, &addrs, reterr));
    EW_TRY(pending_load(opt->pending_path, &key_pem, &csr, reterr));
    EW_TRY(tls_for(opt, host, &tls, reterr));
    void *zmq = zmq_ctx_new();
    ew_status st = zmq != NULL ? EW_EREMOTE : ew_fail(reterr, EW_EIO, "cannot make a messaging context");
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; zmq != NULL && i < addrs.n; i++) {
        exchange *x = ew_calloc(1, sizeof(*x));
        if (x == NULL) {
            st = ew_fail(&err, EW_ENOMEM, "enrolment: out of memory");
            break;
        }
        x->opt = opt;
        x->csr = (ew_span){csr.data, csr.size};
        x->tls = tls;
        st = attempt(x, zmq, addrs.text[i], port, until_ms, &err);
        bool sent = x->sent;
        if (st == EW_OK) {
            st = store(x, (ew_span){key_pem.data, key_pem.size}, ret, &err);
        }
        ew_msg_free(&x->answer);
        ew_free(x);
        if (st == EW_OK || st != EW_EREMOTE || sent) {
            break;
        }
    }
    if (zmq != NULL) {
        zmq_ctx_term(zmq);
    }
    ew_tls_ctx_unref(&tls);
    ew_wipe(key_pem.data, key_pem.size);
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "enrolment at %s: %s", opt->token->endpoint, err.msg);
}

/* ---- again, with the key that is here */

bool ew_enrol_lapsed(const char *identity_path)
{
    ew_cert_info info;
    return ew__identity_leaf(identity_path, &info, NULL) == EW_OK && info.not_after_unix_ms < ew_wall_ms();
}

static ew_status first_root(void *ctx, ew_span der, ew_error *reterr)
{
    ew_token *t = ctx;
    (void)reterr;
    if (t->id[0] == '\0') {
        ew_sha256(der.data, der.size, t->ca_sha256);
        t->id[0] = '-'; /* taken */
    }
    return EW_OK;
}

/* The request is made of the old key and kept like that of a first enrolment. */
static ew_status pending_again(const ew_enrol_again_opt *opt, ew_error *reterr)
{
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF pem = {0};
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF file = {0};
    char hex[2 * EW_CSR_MAX_BYTES + 1];
    EW_TRY(ew_file_read(opt->identity_path, PENDING_MAX_BYTES, &pem, reterr));
    ew_status st = ew_pkey_from_pem((ew_span){pem.data, pem.size}, &key, reterr);
    ew_wipe(pem.data, pem.size);
    ew_buf_clear(&pem);
    EW_TRY(st);
    EW_TRY(ew_csr_make(key, &csr, reterr));
    EW_TRY(ew_pkey_to_pem(key, &file, reterr));
    ew_hex_encode(csr.data, csr.size, hex);
    ew_buf_addf(&file, "#csr %s\n", hex);
    st = ew_buf_check(&file, reterr);
    if (st == EW_OK) {
        st = ew_file_replace(opt->pending_path, file.data, file.size, 0600, reterr);
    }
    ew_wipe(file.data, file.size);
    return st;
}

ew_status ew_enrol_again(const ew_enrol_again_opt *opt, ew_enrol_result *ret, ew_error *reterr)
{
    ew_token t = {.endpoint = ""};
    EW_AUTO_BUF roots = {0};
    EW_TRY(ew_file_read(opt->ca_path, PENDING_MAX_BYTES, &roots, reterr));
    EW_TRY(ew_cert_each_pem((ew_span){roots.data, roots.size}, first_root, &t, reterr));
    if (t.id[0] == '\0') {
        return ew_fail(reterr, EW_ECORRUPT, "%s holds no certificate. HINT: enrol with a new token", opt->ca_path);
    }
    t.id[0] = '\0'; /* no token: the key is the proof */
    ew_str_copy(t.endpoint, sizeof(t.endpoint), opt->endpoint);
    EW_TRY(pending_again(opt, reterr));
    const ew_enrol_opt enrol = {.token = &t,
                                .identity_path = opt->identity_path,
                                .pending_path = opt->pending_path,
                                .ca_path = opt->ca_path,
                                .timeout_ms = opt->timeout_ms};
    return ew_enrol(&enrol, ret, reterr);
}

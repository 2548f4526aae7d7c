/* The certificate's renewal at half of its life, and how an identity is stored. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "session/client_int.h"
#include "sys/file.h"

#define PEM_MAX_BYTES (256u * 1024)
#define RETRY_MAX_MS (3600u * 1000)

/* ---- identity files */

static ew_status add_certs(const ew_der_list *list, ew_buf *out, ew_error *reterr)
{
    for (uint32_t i = 0; i < list->n; i++) {
        EW_TRY(ew_cert_to_pem(list->item[i], out, reterr));
    }
    return EW_OK;
}

static ew_status check_chain(ew_span key_pem, const ew_der_list *chain, const ew_der_list *bundle, ew_error *reterr)
{
    if (chain->n == 0 || bundle->n == 0) {
        return ew_fail(reterr, EW_EREMOTE, "the coordinator sent no certificate or no trust roots");
    }
    EW_AUTO(ew_pkey) key = NULL;
    uint8_t own[32];
    ew_cert_info info;
    EW_TRY(ew_pkey_from_pem(key_pem, &key, reterr));
    EW_TRY(ew_pkey_sha256(key, own, reterr));
    EW_TRY(ew_cert_info_of(chain->item[0], &info, reterr));
    if (memcmp(own, info.key_sha256, sizeof(own)) != 0 || !info.has_spiffe) {
        return ew_fail(reterr, EW_EREMOTE, "the coordinator sent a certificate for another key or without a name");
    }
    return ew_cert_verify(chain->item[0], chain->item + 1, chain->n - 1, bundle->item, bundle->n, false, reterr);
}

ew_status ew__identity_write(const char *identity_path, const char *ca_path, ew_span key_pem, const ew_der_list *chain,
                             const ew_der_list *bundle, ew_error *reterr)
{
    EW_AUTO_BUF id = {0};
    EW_AUTO_BUF roots = {0};
    EW_AUTO_BUF old = {0};
    EW_TRY(check_chain(key_pem, chain, bundle, reterr));
    EW_TRY(add_certs(bundle, &roots, reterr));
    ew_buf_add(&id, key_pem.data, key_pem.size);
    ew_status st = add_certs(chain, &id, reterr);
    if (st == EW_OK) {
        st = ew_buf_check(&id, reterr);
    }
    ew_error ignored;
    bool same = ew_file_read(ca_path, PEM_MAX_BYTES, &old, &ignored) == EW_OK && old.size == roots.size &&
                memcmp(old.data, roots.data, old.size) == 0;
    if (st == EW_OK && !same) {
        st = ew_file_replace(ca_path, roots.data, roots.size, 0644, reterr);
    }
    if (st == EW_OK) {
        st = ew_file_replace(identity_path, id.data, id.size, 0600, reterr);
    }
    if (id.data != NULL) {
        ew_wipe(id.data, id.size);
    }
    return st;
}

/* ---- when */

static ew_status first_leaf(void *ctx, ew_span der, ew_error *reterr)
{
    ew_cert_info *info = ctx;
    return info->not_after_unix_ms != 0 ? EW_OK : ew_cert_info_of(der, info, reterr);
}

ew_status ew__identity_leaf(const char *path, ew_cert_info *ret, ew_error *reterr)
{
    EW_AUTO_BUF pem = {0};
    EW_TRY(ew_file_read(path, PEM_MAX_BYTES, &pem, reterr));
    memset(ret, 0, sizeof(*ret));
    ew_status st = ew_cert_each_pem((ew_span){pem.data, pem.size}, first_leaf, ret, reterr);
    ew_wipe(pem.data, pem.size);
    return st;
}

static void on_renew_timer(ew_timer *t, void *ctx);

void ew__client_renew_plan(ew_client *c)
{
    ew_cert_info info;
    ew_error err = EW_ERROR_INIT;
    if (!c->renew || c->renewing || ew__identity_leaf(c->identity_path, &info, &err) != EW_OK) {
        return;
    }
    uint64_t start = info.not_before_unix_ms;
    if (info.not_after_unix_ms > start + EW_CERT_BACKDATE_S * 1000) {
        start += EW_CERT_BACKDATE_S * 1000;
    }
    start = EW_MAX(start, c->renewed_wall_ms); /* however far it is backdated */
    uint64_t life = info.not_after_unix_ms - EW_MIN(start, info.not_after_unix_ms);
    uint64_t at = start + life * 4 / 10 + ew_rng_below(&c->rng, life / 5 + 1);
    uint64_t wall = ew_wall_ms();
    uint64_t wait = at > wall ? at - wall : 0;
    c->renew_timer.fn = on_renew_timer;
    c->renew_timer.ctx = c;
    (void)!ew_timer_set(&c->timers, &c->renew_timer, ew_mono_ms() + wait);
}

/* ---- the renewal itself, on its own thread */

typedef struct renewal {
    ew__item item;
    ew_status st;
    ew_error err;
    uint64_t not_after_unix_ms;
    uint64_t left_ms; /* of the old certificate */
} renewal;

static ew_status renew(ew_client *c, renewal *r)
{
    ew_cert_info old;
    EW_TRY(ew__identity_leaf(c->identity_path, &old, &r->err));
    uint64_t wall = ew_wall_ms();
    r->left_ms = old.not_after_unix_ms > wall ? old.not_after_unix_ms - wall : 0;
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF pem = {0};
    EW_TRY(ew_pkey_new(&key, &r->err));
    EW_TRY(ew_csr_make(key, &csr, &r->err));
    EW_TRY(ew_pkey_to_pem(key, &pem, &r->err));
    ew_msg *m = ew_msg_new(EW_MSG_RENEW_REQUEST);
    ew_msg *answer = NULL;
    if (m == NULL) {
        return ew_fail(&r->err, EW_ENOMEM, "renewal: out of memory");
    }
    m->renew_request.csr_der = (ew_span){csr.data, csr.size};
    ew_status st = ew_client_call(c, m, (ew_span){NULL, 0}, 30000, &answer, NULL, &r->err);
    ew_msg_free(&m);
    if (st == EW_OK && answer->type != EW_MSG_RENEW_RESPONSE) {
        st = ew_fail(&r->err, EW_EREMOTE, "renewal: the coordinator answered with %s", ew_msg_type_name(answer->type));
    }
    ew_cert_info fresh;
    if (st == EW_OK) {
        st = answer->renew_response.chain.n == 0
                 ? ew_fail(&r->err, EW_EREMOTE, "renewal: the coordinator sent no certificate")
                 : ew_cert_info_of(answer->renew_response.chain.item[0], &fresh, &r->err);
    }
    if (st == EW_OK &&
        (!fresh.has_spiffe || fresh.spiffe.kind != old.spiffe.kind || strcmp(fresh.spiffe.id, old.spiffe.id) != 0 ||
         strcmp(fresh.spiffe.domain, old.spiffe.domain) != 0)) {
        st = ew_fail(&r->err, EW_EREMOTE, "renewal: the certificate names somebody else");
    }
    if (st == EW_OK) {
        st = ew__identity_write(c->identity_path, c->ca_path, (ew_span){pem.data, pem.size},
                                &answer->renew_response.chain, &answer->renew_response.trust_bundle, &r->err);
        r->not_after_unix_ms = fresh.not_after_unix_ms;
    }
    ew_wipe(pem.data, pem.size);
    ew_msg_free(&answer);
    return st;
}

static void renew_work(ew__item *item, void *owner, ew__worker *w)
{
    (void)w;
    renewal *r = (renewal *)item;
    ew_client *c = owner;
    r->st = renew(c, r);
    if (r->st == EW_OK && c->h.on_renewed != NULL) {
        c->h.on_renewed(c->ctx, r->not_after_unix_ms);
    }
}

static void renew_done(ew__item *item, void *owner)
{
    renewal *r = (renewal *)item;
    ew_client *c = owner;
    c->renewing = false;
    if (c->state != EW_CLIENT_STOPPED && r->st == EW_OK) {
        c->renewed_wall_ms = ew_wall_ms();
        ew__client_renew_plan(c);
    } else if (c->state != EW_CLIENT_STOPPED) {
        EW_LOG(EW_LOG_DEBUG, "session", "renewal-failed", "error=\"%s\"", r->err.msg);
        uint64_t wait = EW_MIN(EW_MAX(r->left_ms / 10, 500), RETRY_MAX_MS);
        (void)!ew_timer_set(&c->timers, &c->renew_timer, ew_mono_ms() + wait);
    }
    ew_free(r);
}

static void on_renew_timer(ew_timer *t, void *ctx)
{
    (void)t;
    ew_client *c = ctx;
    renewal *r = c->renewing ? NULL : ew_calloc(1, sizeof(*r));
    if (r != NULL) {
        c->renewing = true;
        r->item = (ew__item){.work = renew_work, .done = renew_done};
        ew__hub_submit(c->hub, EW__CLIENT_LANE_RENEW, &r->item);
    }
}

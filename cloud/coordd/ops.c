/* Operator requests: dispatch, replies kept for retries, audit. The verbs are in ops_device.c, ops_model.c, ops_experiment.c. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "text/json.h"

static const ew__op_verb *find_verb(const char *name)
{
    struct {
        const ew__op_verb *verb;
        size_t n;
    } const tables[] = {{ew__verbs_device, ew__n_verbs_device},
                        {ew__verbs_model, ew__n_verbs_model},
                        {ew__verbs_experiment, ew__n_verbs_experiment}};
    for (size_t t = 0; t < EW_COUNT(tables); t++) {
        for (size_t i = 0; i < tables[t].n; i++) {
            if (strcmp(tables[t].verb[i].name, name) == 0) {
                return &tables[t].verb[i];
            }
        }
    }
    return NULL;
}

/* The body is one line of JSON, and after its newline raw bytes where a verb takes some. */
static ew_status parse_body(ew_span body, json_t **ret, ew_span *ret_tail, ew_error *reterr)
{
    const char *nl = body.size > 0 ? memchr(body.data, '\n', body.size) : NULL;
    size_t n = nl != NULL ? (size_t)(nl - (const char *)body.data) : body.size;
    *ret_tail = (ew_span){0};
    if (n == 0) {
        *ret = json_object();
        return *ret != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory");
    }
    ew_status st = ew_json_load("request", body.data, n, ret, reterr);
    if (st != EW_OK) {
        return ew_fail(reterr, EW_EINVAL, "the request's first line must be a JSON object");
    }
    if (!json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        return ew_fail(reterr, EW_EINVAL, "the request's first line must be a JSON object");
    }
    if (nl != NULL) {
        *ret_tail = (ew_span){nl + 1, body.size - n - 1};
    }
    return EW_OK;
}

static ew_status call_plain(const ew__op_verb *v, ew__op_call *o, ew_buf *out, ew_error *reterr)
{
    EW_TRY(v->fn(o, reterr));
    return ew_json_dump(o->out, 0, out, reterr);
}

/* What the request was about. Never the whole of it: experiments are long. */
static void audit_detail(const json_t *in, char ret[static 256])
{
    static const char *const keys[] = {"id", "name", "device", "hardware_id"};
    size_t n = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < EW_COUNT(keys); i++) {
        const char *v = json_string_value(json_object_get(in, keys[i]));
        if (v != NULL && v[0] != '\0' && strlen(v) <= 48) {
            n += (size_t)snprintf(ret + n, 256 - n, "%s%s=%s", n > 0 ? " " : "", keys[i], v);
        }
    }
}

/* The role of an operator: an observer may only read. */
static ew_status check_role(ew__request *r, const ew__op_verb *v, ew_error *reterr)
{
    const char *list = r->c->conf->observers;
    size_t n = strlen(r->peer->id);
    while (v->mutates && list != NULL && *list != '\0') {
        size_t len = strcspn(list, ", ");
        if (len == n && strncmp(list, r->peer->id, n) == 0) {
            ew__audit(r->c, r->peer->id, "denied", "%s by an observer", v->name);
            return ew_fail(reterr, EW_EDENIED,
                           "operator %s is an observer and may not use '%s'. HINT: take the name off 'observers' in "
                           "the coordinator's configuration",
                           r->peer->id, v->name);
        }
        list += len + strspn(list + len, ", ");
    }
    return EW_OK;
}

/* Effect and reply in one transaction; a retry with the same key gets the reply that was kept. */
static ew_status call_mutating(ew__request *r, const ew__op_verb *v, ew__op_call *o, ew_buf *out, ew_error *reterr)
{
    char peer[EW_DEVICE_ID_SIZE + 16];
    bool found = false;
    (void)snprintf(peer, sizeof peer, "operator:%s", r->peer->id);
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, r->c->store);
    if (r->msg->has_idem_key) {
        EW_TRY(ew_store_idem_get(r->c->store, peer, r->msg->idem_key, out, &found, reterr));
        if (found) {
            return EW_OK;
        }
    }
    EW_AUTO_TX tx = {0};
    EW_TRY(ew_tx_begin(&tx, db, reterr));
    EW_TRY(call_plain(v, o, out, reterr));
    if (r->msg->has_idem_key) {
        EW_TRY(ew_store_idem_put(r->c->store, peer, r->msg->idem_key, (ew_span){out->data, out->size}, ew_wall_ms(),
                                 reterr));
    }
    char detail[256];
    audit_detail(o->in, detail);
    EW_TRY(ew_store_audit(r->c->store, ew_wall_ms(), peer, v->name, detail, reterr));
    return ew_tx_commit(&tx, reterr);
}

static ew_status after_commit(ew__op_call *o, ew_error *reterr)
{
    if (o->revoke[0] != '\0') {
        char who[EW_DEVICE_ID_SIZE + 8];
        (void)snprintf(who, sizeof who, "device:%s", o->revoke);
        ew_offload_drop_device(o->c->offload, o->revoke);
        EW_TRY(ew_server_revoke(o->c->server, who, reterr));
        EW_LOG(EW_LOG_NOTICE, "coord", "revoked", "device=%s by=%s", o->revoke, o->who);
    }
    if (o->assign) {
        ew__assign_all(o->c);
    }
    return EW_OK;
}

ew_status ew__op(ew__request *r, ew_error *reterr)
{
    const ew__op_verb *v = find_verb(r->msg->op_request.verb);
    if (v == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "this coordinator does not know the verb '%s'",
                       r->msg->op_request.verb);
    }
    EW_TRY(check_role(r, v, reterr));
    if (!v->mutates) { /* what changes something is in the audit table */
        EW_LOG(EW_LOG_INFO, "coord", "op", "who=%s verb=%s", r->peer->id, v->name);
    }
    ew__op_call o = {.c = r->c, .who = r->peer->id};
    EW_AUTO_JSON in = NULL;
    EW_AUTO_JSON result = json_object();
    EW_AUTO_BUF out = {0};
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_OP_RESPONSE);
    if (m == NULL || result == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
    }
    EW_TRY(parse_body(r->body, &in, &o.tail, reterr));
    o.in = in;
    o.out = result;
    EW_TRY(v->mutates && !v->own_tx ? call_mutating(r, v, &o, &out, reterr) : call_plain(v, &o, &out, reterr));
    EW_TRY(after_commit(&o, reterr));
    if (out.size > EW_LIMIT_BODY_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "the answer to '%s' has %zu bytes. HINT: ask for less (limit, offset)",
                       v->name, out.size);
    }
    return ew_reply_send(r->reply, m, (ew_span){out.data, out.size}, reterr);
}

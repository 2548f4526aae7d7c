/* Verbs on tokens, devices, plans and the audit log. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "crypt/hash.h"
#include "record/record.h"
#include "session/enrol.h"
#include "text/json.h"
#include "wire/wire.h"

#define TTL_DEFAULT_S (24 * 3600)

static ew_status set(json_t *obj, const char *key, json_t *value, ew_error *reterr)
{
    return json_object_set_new(obj, key, value) == 0 ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
}

/* {"ttl_s"?, "hardware_id"?, "device"?} -> {"token", "id", "expires_unix_ms"} */
static ew_status token_create(ew__op_call *o, ew_error *reterr)
{
    int64_t ttl = TTL_DEFAULT_S;
    const char *hardware = "", *device = "";
    EW_TRY(ew_json_opt_i64(o->in, "token.create", "ttl_s", 1, EW_TOKEN_TTL_MAX_S, &ttl, reterr));
    EW_TRY(ew_json_opt_str(o->in, "token.create", "hardware_id", &hardware, reterr));
    EW_TRY(ew_json_opt_str(o->in, "token.create", "device", &device, reterr));
    if (device[0] != '\0' && !ew_device_id_valid(device)) {
        return ew_fail(reterr, EW_EINVAL, "'%.70s' is no device name: 1 to 64 of a-z, 0-9 and '-'", device);
    }
    uint64_t now = ew_wall_ms();
    ew_token_row row = {.created_ms = now, .expires_ms = now + (uint64_t)ttl * 1000};
    ew_token t = {0};
    uint8_t id[8];
    char text[EW_TOKEN_TEXT_SIZE];
    ew_random_bytes(id, sizeof id);
    ew_random_bytes(row.secret, sizeof row.secret);
    ew_hex_encode(id, sizeof id, row.id);
    (void)ew_str_copy(row.device_name, sizeof row.device_name, device);
    if (!ew_str_copy(row.hardware_id, sizeof row.hardware_id, hardware)) {
        return ew_fail(reterr, EW_EINVAL, "the hardware id is longer than %zu bytes", sizeof row.hardware_id - 1);
    }
    (void)ew_str_copy(t.endpoint, sizeof t.endpoint, o->c->endpoint);
    (void)ew_str_copy(t.id, sizeof t.id, row.id);
    memcpy(t.ca_sha256, o->c->ca_sha256, sizeof t.ca_sha256);
    memcpy(t.secret, row.secret, sizeof t.secret);
    EW_TRY(ew_token_format(&t, text, reterr));
    EW_TRY(ew_store_token_add(o->c->store, &row, reterr));
    EW_TRY(set(o->out, "token", json_string(text), reterr));
    EW_TRY(set(o->out, "id", json_string(row.id), reterr));
    return set(o->out, "expires_unix_ms", json_integer((json_int_t)row.expires_ms), reterr);
}

typedef struct listing {
    ew__coord *c;
    json_t *list;
    bool full; /* capabilities too */
} listing;

static ew_status add_caps(const ew_device_row *d, json_t *j, ew_error *reterr)
{
    ew_device_caps *caps = ew_calloc(1, sizeof *caps);
    json_t *out = NULL;
    if (caps == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a device");
    }
    ew_status st = ew_wire_unpack_caps((ew_span){d->caps.data, d->caps.size}, caps, reterr);
    if (st == EW_OK) {
        st = ew_record_from_caps(caps, &out, reterr);
    }
    ew_free(caps);
    return st == EW_OK ? set(j, "caps", out, reterr) : st;
}

static ew_status device_json(const ew_device_row *d, listing *l, json_t **ret, ew_error *reterr)
{
    bool up = ew_server_is_up(l->c->server, d->id);
    json_t *state = NULL;
    EW_TRY(ew_record_from_state(&d->state, &state, reterr));
    EW_AUTO_JSON j =
        json_pack("{s:s, s:s, s:b, s:s, s:I, s:I, s:I, s:o}", "id", d->id, "status", d->revoked ? "revoked" : "active",
                  "connected", up && !d->revoked, "hardware_id", d->hardware_id, "enrolled_unix_ms",
                  (json_int_t)d->created_ms, "last_seen_unix_ms", (json_int_t)d->last_seen_ms, "cert_not_after_unix_ms",
                  (json_int_t)d->not_after_ms, "state", state);
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a device");
    }
    if (l->full && d->caps.size > 0) {
        EW_TRY(add_caps(d, j, reterr));
    }
    *ret = j;
    j = NULL;
    return EW_OK;
}

static ew_status list_one(const ew_device_row *d, void *ctx, ew_error *reterr)
{
    listing *l = ctx;
    json_t *j = NULL;
    EW_TRY(device_json(d, l, &j, reterr));
    return json_array_append_new(l->list, j) == 0 ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
}

static ew_status device_list(ew__op_call *o, ew_error *reterr)
{
    listing l = {.c = o->c, .list = json_array()};
    EW_TRY(set(o->out, "devices", l.list, reterr));
    return ew_store_device_each(o->c->store, list_one, &l, reterr);
}

static ew_status device_show(ew__op_call *o, ew_error *reterr)
{
    const char *id = NULL;
    json_t *j = NULL;
    listing l = {.c = o->c, .full = true};
    ew_device_row d = {0};
    EW_TRY(ew_json_get_str(o->in, "device.show", "id", &id, reterr));
    EW_TRY(ew_store_device_get(o->c->store, id, &d, reterr));
    ew_status st = device_json(&d, &l, &j, reterr);
    ew_device_row_release(&d);
    return st == EW_OK ? set(o->out, "device", j, reterr) : st;
}

static ew_status device_revoke(ew__op_call *o, ew_error *reterr)
{
    const char *id = NULL;
    EW_TRY(ew_json_get_str(o->in, "device.revoke", "id", &id, reterr));
    EW_TRY(ew_store_device_revoke(o->c->store, id, ew_wall_ms(), reterr));
    (void)ew_str_copy(o->revoke, sizeof o->revoke, id);
    return set(o->out, "revoked", json_string(id), reterr);
}

/* {"limit"?} -> newest first */
static ew_status audit_list(ew__op_call *o, ew_error *reterr)
{
    int64_t limit = 100;
    json_t *list = json_array();
    EW_TRY(set(o->out, "audit", list, reterr));
    EW_TRY(ew_json_opt_i64(o->in, "audit.list", "limit", 1, 1000, &limit, reterr));
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, o->c->store);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT seq,unix_ms,who,event,detail FROM audit ORDER BY seq DESC LIMIT ?1", &st, reterr));
    ew_bind_i64(st, 1, limit);
    for (;;) {
        bool row = false;
        EW_TRY(ew_stmt_step(st, &row, reterr));
        if (!row) {
            return EW_OK;
        }
        (void)json_array_append_new(list, json_pack("{s:I, s:I, s:s, s:s, s:s}", "seq", (json_int_t)ew_col_i64(st, 0),
                                                    "unix_ms", (json_int_t)ew_col_i64(st, 1), "who", ew_col_text(st, 2),
                                                    "event", ew_col_text(st, 3), "detail", ew_col_text(st, 4)));
    }
}

/* What the device asked when it was last given a plan for the task. */
static ew_status last_request(ew__coord *c, const char *device, const char *task, ew_plan_request *ret, bool *ret_found,
                              ew_error *reterr)
{
    EW_AUTO_STORE held = {0};
    ew_db *db = ew_store_hold(&held, c->store);
    EW_AUTO(ew_stmt) st = NULL;
    EW_TRY(ew_stmt_open(db, "SELECT request FROM plan WHERE device=?1 AND task=?2 ORDER BY made_ms DESC LIMIT 1", &st,
                        reterr));
    ew_bind_text(st, 1, device);
    ew_bind_text(st, 2, task);
    EW_TRY(ew_stmt_step(st, ret_found, reterr));
    if (!*ret_found) {
        return EW_OK;
    }
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_json_load("plan", ew_col_text(st, 0), strlen(ew_col_text(st, 0)), &j, reterr));
    return ew__plan_request_from_json(j, ret, reterr);
}

/* {"device", "task", facts and budget as in the last request unless given} -> {"plan"}: planned now, with the newest evidence. */
static ew_status plan_show(ew__op_call *o, ew_error *reterr)
{
    const char *device = NULL, *task = NULL;
    bool found = false;
    EW_TRY(ew_json_get_str(o->in, "plan.show", "device", &device, reterr));
    EW_TRY(ew_json_get_str(o->in, "plan.show", "task", &task, reterr));
    ew_plan_request *req = ew_calloc(1, sizeof *req);
    if (req == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a plan");
    }
    ew_status st = last_request(o->c, device, task, req, &found, reterr);
    if (st == EW_OK) {
        uint32_t measures = req->facts.n_measures;
        if (json_object_get(o->in, "measures") != NULL) {
            req->facts.n_measures = 0;
        }
        ew_budget old = req->budget;
        st = ew__plan_request_from_json(o->in, req, reterr);
        req->facts.n_measures = EW_MAX(req->facts.n_measures, json_object_get(o->in, "measures") ? 0 : measures);
        req->budget.ram_bytes = req->budget.ram_bytes != 0 ? req->budget.ram_bytes : old.ram_bytes;
        req->budget.disk_bytes = req->budget.disk_bytes != 0 ? req->budget.disk_bytes : old.disk_bytes;
    }
    ew_plan *plan = NULL;
    json_t *j = NULL;
    if (st == EW_OK) {
        st = ew__plan_make(o->c, device, req, &plan, reterr);
    }
    if (st == EW_OK) {
        st = ew_record_from_plan(plan, &j, reterr);
    }
    ew_free(plan);
    ew_free(req);
    EW_TRY(st);
    EW_TRY(set(o->out, "plan", j, reterr));
    return set(o->out, "facts_from_device", json_boolean(found), reterr);
}

static ew_status server_stats(ew__op_call *o, ew_error *reterr)
{
    ew_server_stats s;
    ew_server_get_stats(o->c->server, &s);
    EW_TRY(set(o->out, "active", json_integer((json_int_t)s.active), reterr));
    EW_TRY(set(o->out, "bytes_in", json_integer((json_int_t)s.bytes_in), reterr));
    EW_TRY(set(o->out, "bytes_out", json_integer((json_int_t)s.bytes_out), reterr));
    EW_TRY(set(o->out, "requests", json_integer((json_int_t)s.requests), reterr));
    EW_TRY(set(o->out, "replayed", json_integer((json_int_t)s.replayed), reterr));
    EW_TRY(set(o->out, "tls_failed", json_integer((json_int_t)s.tls_failed), reterr));
    EW_TRY(set(o->out, "protocol_errors", json_integer((json_int_t)s.protocol_errors), reterr));
    return set(o->out, "endpoint", json_string(o->c->endpoint), reterr);
}

const ew__op_verb ew__verbs_device[] = {{.name = "token.create", .fn = token_create, .mutates = true},
                                        {.name = "device.list", .fn = device_list},
                                        {.name = "device.show", .fn = device_show},
                                        {.name = "device.revoke", .fn = device_revoke, .mutates = true},
                                        {.name = "audit.list", .fn = audit_list},
                                        {.name = "plan.show", .fn = plan_show},
                                        {.name = "server.stats", .fn = server_stats}};
const size_t ew__n_verbs_device = EW_COUNT(ew__verbs_device);

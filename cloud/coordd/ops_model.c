/* Verbs on models: the resumable upload and the catalogue. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "coordd/coord_int.h"
#include "text/json.h"

static ew_status get_hash(const json_t *j, const char *where, const char *key, uint8_t *ret, ew_error *reterr)
{
    const char *hex = NULL;
    EW_TRY(ew_json_get_str(j, where, key, &hex, reterr));
    return ew_hex_decode(hex, ret, EW_SHA256_BYTES)
               ? EW_OK
               : ew_fail(reterr, EW_EINVAL, "%s: '%s' must be 64 hex digits", where, key);
}

static ew_status get_text(const json_t *j, const char *where, const char *key, char *dst, size_t size, ew_error *reterr)
{
    const char *text = NULL;
    EW_TRY(ew_json_get_str(j, where, key, &text, reterr));
    return ew_str_copy(dst, size, text)
               ? EW_OK
               : ew_fail(reterr, EW_EINVAL, "%s: '%s' is longer than %zu bytes", where, key, size - 1);
}

static ew_status get_upload(const json_t *j, const char *where, ew_upload *u, ew_error *reterr)
{
    int64_t size = 0;
    *u = (ew_upload){.score = NAN};
    EW_TRY(get_text(j, where, "name", u->name, sizeof u->name, reterr));
    EW_TRY(get_text(j, where, "version", u->version, sizeof u->version, reterr));
    EW_TRY(get_text(j, where, "variant", u->variant, sizeof u->variant, reterr));
    EW_TRY(get_hash(j, where, "sha256", u->sha256, reterr));
    EW_TRY(ew_json_get_i64(j, where, "size", 1, INT64_MAX, &size, reterr));
    u->size = (uint64_t)size;
    EW_TRY(ew_json_opt_f64(j, where, "score", &u->score, reterr));
    if (json_object_get(j, "base_sha256") != NULL) {
        u->has_base = true;
        EW_TRY(get_hash(j, where, "base_sha256", u->base_sha256, reterr));
    }
    return ew_upload_check(u, reterr);
}

static ew_status put_offset(ew__op_call *o, uint64_t offset, ew_error *reterr)
{
    return json_object_set_new(o->out, "offset", json_integer((json_int_t)offset)) == 0
               ? EW_OK
               : ew_fail(reterr, EW_ENOMEM, "out of memory for a reply");
}

/* {"name","version","variant","sha256","size","score"?,"base_sha256"?} -> {"offset"}: go on from there. */
static ew_status import_begin(ew__op_call *o, ew_error *reterr)
{
    ew_upload u;
    uint64_t offset = 0;
    EW_TRY(get_upload(o->in, "model.import.begin", &u, reterr));
    EW_TRY(ew_registry_upload_begin(o->c->artifacts, &u, &offset, reterr));
    return put_offset(o, offset, reterr);
}

/* {"sha256","offset"} and the bytes after the line -> {"offset"} */
static ew_status import_chunk(ew__op_call *o, ew_error *reterr)
{
    uint8_t sha256[EW_SHA256_BYTES];
    int64_t offset = 0;
    uint64_t have = 0;
    EW_TRY(get_hash(o->in, "model.import.chunk", "sha256", sha256, reterr));
    EW_TRY(ew_json_get_i64(o->in, "model.import.chunk", "offset", 0, INT64_MAX, &offset, reterr));
    EW_TRY(ew_registry_upload_chunk(o->c->artifacts, sha256, (uint64_t)offset, o->tail, &have, reterr));
    return put_offset(o, have, reterr);
}

/* As begin -> {"sha256","n_params"}. Repeating it is harmless. */
static ew_status import_commit(ew__op_call *o, ew_error *reterr)
{
    ew_upload u;
    ew_prepared p = {0};
    EW_TRY(get_upload(o->in, "model.import.commit", &u, reterr));
    EW_TRY(ew_registry_prepare(o->c->artifacts, &u, ew__sign, o->c, &p, reterr));
    ew_status st = EW_OK;
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, o->c->store);
        st = ew_registry_commit(db, o->c->artifacts, &p, ew_wall_ms(), reterr);
    }
    if (st == EW_OK) {
        ew__audit(o->c, o->who, "model.import", "%s %s %s", u.name, u.version, u.variant);
        EW_LOG(EW_LOG_NOTICE, "coord", "model-imported", "name=%s version=%s variant=%s", u.name, u.version, u.variant);
        (void)json_object_set_new(o->out, "n_params", json_integer((json_int_t)p.entry.n_params));
        (void)json_object_set_new(o->out, "dtype", json_string(p.entry.dtype));
    }
    ew_prepared_release(&p);
    return st;
}

static json_t *entry_json(const ew_catalog_entry *e)
{
    char hex[2 * EW_SHA256_BYTES + 1];
    ew_hex_encode(e->sha256, EW_SHA256_BYTES, hex);
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "sha256", hex, "name", e->name,
                          "version", e->version, "variant", e->variant, "dtype", e->dtype, "arch", e->arch, "bytes",
                          (json_int_t)e->size, "n_params", (json_int_t)e->n_params, "n_layers", (json_int_t)e->L,
                          "d_model", (json_int_t)e->C, "created_unix_ms", (json_int_t)e->created_ms);
    if (j != NULL && !isnan(e->score)) {
        (void)json_object_set_new(j, "score", json_real(e->score));
    }
    return j;
}

static ew_status model_list(ew__op_call *o, ew_error *reterr)
{
    ew_catalog cat = {0};
    json_t *list = json_array();
    (void)json_object_set_new(o->out, "models", list);
    {
        EW_AUTO_STORE held = {0};
        ew_db *db = ew_store_hold(&held, o->c->store);
        EW_TRY(ew_registry_catalog(db, &cat, reterr));
    }
    for (size_t i = 0; i < cat.n; i++) {
        (void)json_array_append_new(list, entry_json(&cat.entry[i]));
    }
    ew_catalog_release(&cat);
    return EW_OK;
}

const ew__op_verb ew__verbs_model[] = {
    {.name = "model.import.begin", .fn = import_begin, .mutates = true, .own_tx = true},
    {.name = "model.import.chunk", .fn = import_chunk, .mutates = true, .own_tx = true},
    {.name = "model.import.commit", .fn = import_commit, .mutates = true, .own_tx = true},
    {.name = "model.list", .fn = model_list}};
const size_t ew__n_verbs_model = EW_COUNT(ew__verbs_model);

/* See opclient.h. */
#include "opclient/opclient.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "sys/file.h"
#include "text/json.h"

#define CHUNK_BYTES (512u * 1024)
#define COMMIT_MS (10u * 60 * 1000)

struct ew_opclient {
    ew_client *client;
};

static ew_status read_endpoint(const char *dir, const char *name, char *dst, size_t size, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_path_join(path, sizeof path, dir, name, reterr));
    EW_TRY(ew_file_read(path, 1024, &text, reterr));
    const char *s = ew_buf_str(&text);
    size_t n = strcspn(s, "\r\n");
    if (n == 0 || n >= size) {
        return ew_fail(reterr, EW_ECORRUPT, "%s holds no endpoint", path);
    }
    memcpy(dst, s, n);
    dst[n] = '\0';
    return EW_OK;
}

static ew_status find_endpoint(const char *dir, const char *given, ew_endpoint_list *ret, ew_error *reterr)
{
    ret->n = 1;
    char *dst = ret->item[0];
    if (given != NULL) {
        return ew_str_copy(dst, EW_ENDPOINT_SIZE, given) ? EW_OK
                                                         : ew_fail(reterr, EW_EINVAL, "the endpoint is too long");
    }
    ew_error err = EW_ERROR_INIT;
    if (read_endpoint(dir, "endpoint", dst, EW_ENDPOINT_SIZE, &err) == EW_OK ||
        read_endpoint(dir, "../run/endpoint", dst, EW_ENDPOINT_SIZE, &err) == EW_OK) {
        return EW_OK;
    }
    return ew_fail(reterr, EW_EREMOTE,
                   "where the coordinator listens is not known (neither %s/endpoint nor ../run/endpoint). "
                   "HINT: start it, or give --endpoint HOST:PORT",
                   dir);
}

ew_status ew_opclient_open(const char *bundle_dir, const char *endpoint, ew_opclient **ret_client, ew_error *reterr)
{
    char identity[EW_PATH_MAX], ca[EW_PATH_MAX];
    ew_endpoint_list endpoints = {0};
    EW_TRY(ew_path_join(identity, sizeof identity, bundle_dir, "identity.pem", reterr));
    EW_TRY(ew_path_join(ca, sizeof ca, bundle_dir, "ca.pem", reterr));
    if (!ew_file_exists(identity)) {
        return ew_fail(reterr, EW_ENOENT,
                       "%s is not there: --operator wants the directory that `edgewise-coordinator init` made",
                       identity);
    }
    EW_TRY(find_endpoint(bundle_dir, endpoint, &endpoints, reterr));
    EW_AUTO(ew_opclient) c = ew_calloc(1, sizeof *c);
    if (c == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a client");
    }
    ew_client_opt opt = {.role = EW_ROLE_OPERATOR,
                         .endpoints = &endpoints,
                         .identity_path = identity,
                         .ca_path = ca,
                         .software = "edgewise 0.1.0",
                         .no_reconnect = true};
    EW_TRY(ew_client_new(&opt, &(ew_client_handlers){0}, NULL, &c->client, reterr));
    EW_TRY(ew_client_wait_up(c->client, 15000, reterr));
    *ret_client = c;
    c = NULL;
    return EW_OK;
}

void ew_opclient_free(ew_opclient **cp)
{
    ew_opclient *c = *cp;
    if (c == NULL) {
        return;
    }
    if (c->client != NULL) {
        ew_client_stop(c->client);
    }
    ew_client_free(&c->client);
    ew_free(c);
    *cp = NULL;
}

ew_status ew_opclient_call_raw(ew_opclient *c, const char *verb, const json_t *in, ew_span raw, uint32_t timeout_ms,
                               json_t **ret_out, ew_error *reterr)
{
    EW_AUTO_BUF body = {0};
    EW_AUTO_BUF reply = {0};
    EW_AUTO(ew_msg) m = ew_msg_new(EW_MSG_OP_REQUEST);
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a request");
    }
    (void)ew_str_copy(m->op_request.verb, sizeof m->op_request.verb, verb);
    m->has_idem_key = true;
    ew_random_bytes(m->idem_key, sizeof m->idem_key);
    if (in != NULL) {
        EW_TRY(ew_json_dump(in, 0, &body, reterr));
    } else {
        ew_buf_adds(&body, "{}");
    }
    if (raw.size > 0) {
        ew_buf_addc(&body, '\n');
        ew_buf_add(&body, raw.data, raw.size);
    }
    EW_TRY(ew_buf_check(&body, reterr));
    EW_TRY(ew_client_call(c->client, m, (ew_span){body.data, body.size}, timeout_ms, NULL, &reply, reterr));
    if (ret_out == NULL) {
        return EW_OK;
    }
    return ew_json_load(verb, reply.data, reply.size, ret_out, reterr);
}

ew_status ew_opclient_call(ew_opclient *c, const char *verb, const json_t *in, json_t **ret_out, ew_error *reterr)
{
    return ew_opclient_call_raw(c, verb, in, (ew_span){0}, 0, ret_out, reterr);
}

static ew_status offset_of(json_t *reply, uint64_t *ret, ew_error *reterr)
{
    int64_t offset = 0;
    ew_status st = ew_json_get_i64(reply, "upload", "offset", 0, INT64_MAX, &offset, reterr);
    json_decref(reply);
    *ret = (uint64_t)offset;
    return st;
}

static ew_status send_bytes(ew_opclient *c, const ew_publish_opt *opt, const char *hex, const ew_file_map *map,
                            uint64_t offset, ew_error *reterr)
{
    uint64_t size = ew_file_map_size(map);
    while (offset < size) {
        size_t n = (size_t)EW_MIN((uint64_t)CHUNK_BYTES, size - offset);
        EW_AUTO_JSON in = json_pack("{s:s, s:I}", "sha256", hex, "offset", (json_int_t)offset);
        json_t *out = NULL;
        EW_TRY(ew_opclient_call_raw(c, "model.import.chunk", in, (ew_span){ew_file_map_data(map) + offset, n}, 0, &out,
                                    reterr));
        uint64_t have = 0;
        EW_TRY(offset_of(out, &have, reterr));
        if (have <= offset || have > size) {
            return ew_fail(reterr, EW_EREMOTE, "the coordinator took no bytes after %" PRIu64, offset);
        }
        offset = have;
        ew_progress_info info = {
            .phase = "upload", .unit = "B", .done = offset, .total = size, .loss = NAN, .left_s = NAN};
        if (!ew_progress_tell(&opt->progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped; a later import goes on from here");
        }
    }
    return EW_OK;
}

ew_status ew_opclient_publish(ew_opclient *c, const ew_publish_opt *opt, uint8_t *ret_sha256, ew_error *reterr)
{
    uint8_t digest[EW_SHA256_SIZE];
    char hex[EW_SHA256_HEX_SIZE];
    uint64_t offset = 0;
    EW_AUTO(ew_file_map) map = NULL;
    EW_TRY(ew_file_map_open(opt->path, &map, reterr));
    ew_sha256(ew_file_map_data(map), ew_file_map_size(map), digest);
    ew_hex_encode(digest, sizeof digest, hex);
    EW_AUTO_JSON in = json_pack("{s:s, s:s, s:s, s:s, s:I}", "name", opt->name, "version", opt->version, "variant",
                                opt->variant, "sha256", hex, "size", (json_int_t)ew_file_map_size(map));
    if (in == NULL) {
        return ew_fail(reterr, EW_EINVAL, "the name is not UTF-8");
    }
    if (!isnan(opt->score)) {
        (void)json_object_set_new(in, "score", json_real(opt->score));
    }
    json_t *out = NULL;
    EW_TRY(ew_opclient_call(c, "model.import.begin", in, &out, reterr));
    EW_TRY(offset_of(out, &offset, reterr));
    EW_TRY(send_bytes(c, opt, hex, map, offset, reterr));
    EW_TRY(ew_opclient_call_raw(c, "model.import.commit", in, (ew_span){0}, COMMIT_MS, NULL, reterr));
    if (ret_sha256 != NULL) {
        memcpy(ret_sha256, digest, sizeof digest);
    }
    return EW_OK;
}

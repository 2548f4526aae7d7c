/* The signer's keys and policy; the serving loop is in serve.c. */
#include "signer/signer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "crypt/sign.h"
#include "sys/file.h"
#include "text/json.h"

#define CA_VALID_S (10ll * 365 * 24 * 3600)
#define BACKDATE_S 300

struct ew_signer {
    ew_pkey *ca_key;
    ew_buf ca_der;
    ew_sign_key *artifact_key;
    json_t *names; /* signer.json, keeps the strings below */
    const char *domain;
    const char *coordinator_id;
    const char *dns[EW_SIGNER_NAMES_MAX];
    size_t n_dns;
};

static ew_status write_ca(const char *dir, const char *domain, ew_error *reterr)
{
    char path[EW_PATH_MAX], cn[64];
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF pem = {0};
    EW_TRY(ew_pkey_new(&key, reterr));
    EW_TRY(ew_pkey_to_pem(key, &pem, reterr));
    EW_TRY(ew_path_join(path, sizeof path, dir, "ca.key", reterr));
    ew_status st = ew_file_replace(path, pem.data, pem.size, 0600, reterr);
    ew_wipe(pem.data, pem.size);
    EW_TRY(st);
    (void)snprintf(cn, sizeof cn, "Edgewise CA %.40s", domain);
    ew_cert_opt opt = {.common_name = cn, .ca = true, .valid_s = CA_VALID_S, .backdate_s = BACKDATE_S};
    EW_AUTO_BUF der = {0};
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_cert_self_sign(key, &opt, &der, reterr));
    EW_TRY(ew_cert_to_pem((ew_span){der.data, der.size}, &text, reterr));
    EW_TRY(ew_path_join(path, sizeof path, dir, "ca.crt", reterr));
    return ew_file_replace(path, text.data, text.size, 0644, reterr);
}

static ew_status write_names(const char *dir, const ew_signer_names *names, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_JSON dns = json_array();
    for (size_t i = 0; i < names->n_names; i++) {
        (void)json_array_append_new(dns, json_string(names->names[i]));
    }
    EW_AUTO_JSON j =
        json_pack("{s:s, s:s, s:O}", "domain", names->domain, "coordinator", names->coordinator_id, "names", dns);
    EW_AUTO_BUF text = {0};
    if (j == NULL) {
        return ew_fail(reterr, EW_EINVAL, "the names of the coordinator are not UTF-8");
    }
    EW_TRY(ew_json_dump(j, EW_JSON_PRETTY, &text, reterr));
    EW_TRY(ew_path_join(path, sizeof path, dir, "signer.json", reterr));
    return ew_file_replace(path, text.data, text.size, 0644, reterr);
}

ew_status ew_signer_create(const char *dir, const ew_signer_names *names, ew_error *reterr)
{
    char path[EW_PATH_MAX], uri[256];
    ew_spiffe spiffe = {.kind = EW_SPIFFE_COORDINATOR};
    if (!ew_str_copy(spiffe.domain, sizeof spiffe.domain, names->domain) ||
        !ew_str_copy(spiffe.id, sizeof spiffe.id, names->coordinator_id)) {
        return ew_fail(reterr, EW_EINVAL, "trust domain or coordinator id is too long");
    }
    EW_TRY(ew_spiffe_format(&spiffe, uri, sizeof uri, reterr));
    EW_TRY(ew_spiffe_parse(uri, strlen(uri), &spiffe, reterr));
    if (names->n_names > EW_SIGNER_NAMES_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "at most %u names of the coordinator are possible", EW_SIGNER_NAMES_MAX);
    }
    EW_TRY(ew_path_join(path, sizeof path, dir, "ca.key", reterr));
    if (ew_file_exists(path)) {
        return ew_fail(reterr, EW_EEXIST, "%s is there already: keys are never overwritten", path);
    }
    EW_AUTO(ew_sign_key) key = NULL;
    EW_TRY(ew_sign_key_new(&key, reterr));
    EW_TRY(write_names(dir, names, reterr));
    EW_TRY(ew_path_join(path, sizeof path, dir, "artifact.key", reterr));
    EW_TRY(ew_sign_key_write(key, path, reterr));
    return write_ca(dir, names->domain, reterr);
}

static ew_status check_mode(const char *path, ew_error *reterr)
{
    struct stat sb;
    if (stat(path, &sb) == 0 && (sb.st_mode & 077) != 0) {
        return ew_fail(reterr, EW_EDENIED, "%s can be read by others (mode %04o). HINT: chmod 600 %s", path,
                       (unsigned)(sb.st_mode & 07777), path);
    }
    return EW_OK;
}

static ew_status take_der(void *ctx, ew_span der, ew_error *reterr)
{
    ew_buf *out = ctx;
    ew_buf_clear(out); /* the file holds one */
    ew_buf_add(out, der.data, der.size);
    return ew_buf_check(out, reterr);
}

static ew_status read_ca(ew_signer *s, const char *dir, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_BUF pem = {0};
    EW_TRY(ew_path_join(path, sizeof path, dir, "ca.key", reterr));
    EW_TRY(check_mode(path, reterr));
    EW_TRY(ew_file_read(path, 16384, &pem, reterr));
    ew_status st = ew_pkey_from_pem((ew_span){pem.data, pem.size}, &s->ca_key, reterr);
    ew_wipe(pem.data, pem.size);
    if (st != EW_OK) {
        return ew_wrap(reterr, st, "%s", path);
    }
    EW_TRY(ew_path_join(path, sizeof path, dir, "ca.crt", reterr));
    ew_buf_clear(&pem);
    EW_TRY(ew_file_read(path, 16384, &pem, reterr));
    EW_TRY(ew_cert_each_pem((ew_span){pem.data, pem.size}, take_der, &s->ca_der, reterr));
    ew_cert_info info;
    uint8_t key[32];
    EW_TRY(ew_cert_info_of(ew_signer_ca_der(s), &info, reterr));
    EW_TRY(ew_pkey_sha256(s->ca_key, key, reterr));
    if (!info.is_ca || memcmp(info.key_sha256, key, 32) != 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not the CA certificate of ca.key beside it", path);
    }
    return EW_OK;
}

static ew_status read_names(ew_signer *s, const char *dir, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    json_t *dns = NULL;
    EW_TRY(ew_path_join(path, sizeof path, dir, "signer.json", reterr));
    EW_TRY(ew_json_load_file(path, 65536, &s->names, reterr));
    EW_TRY(ew_json_get_str(s->names, path, "domain", &s->domain, reterr));
    EW_TRY(ew_json_get_str(s->names, path, "coordinator", &s->coordinator_id, reterr));
    EW_TRY(ew_json_get_arr(s->names, path, "names", &dns, reterr));
    for (size_t i = 0; i < json_array_size(dns); i++) {
        const char *name = json_string_value(json_array_get(dns, i));
        if (name == NULL || s->n_dns == EW_SIGNER_NAMES_MAX) {
            return ew_fail(reterr, EW_ECORRUPT, "%s: names must be at most %u strings", path, EW_SIGNER_NAMES_MAX);
        }
        s->dns[s->n_dns++] = name;
    }
    return EW_OK;
}

ew_status ew_signer_open(const char *dir, ew_signer **ret_signer, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_signer) s = ew_calloc(1, sizeof *s);
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the signer");
    }
    EW_TRY(read_ca(s, dir, reterr));
    EW_TRY(ew_path_join(path, sizeof path, dir, "artifact.key", reterr));
    EW_TRY(ew_sign_key_read(path, &s->artifact_key, reterr));
    EW_TRY(read_names(s, dir, reterr));
    *ret_signer = s;
    s = NULL;
    return EW_OK;
}

void ew_signer_free(ew_signer **sp)
{
    ew_signer *s = *sp;
    if (s == NULL) {
        return;
    }
    ew_pkey_free(&s->ca_key);
    ew_sign_key_free(&s->artifact_key);
    ew_buf_release(&s->ca_der);
    json_decref(s->names);
    ew_free(s);
    *sp = NULL;
}

const char *ew_signer_domain(const ew_signer *s)
{
    return s->domain;
}

const char *ew_signer_coordinator_id(const ew_signer *s)
{
    return s->coordinator_id;
}

ew_span ew_signer_ca_der(const ew_signer *s)
{
    return (ew_span){s->ca_der.data, s->ca_der.size};
}

void ew_signer_artifact_key(const ew_signer *s, uint8_t ret_key[static 32])
{
    ew_sign_key_public(s->artifact_key, ret_key);
}

ew_status ew_signer_issue(const ew_signer *s, ew_spiffe_kind kind, const char *id, ew_span csr, uint32_t seconds,
                          ew_buf *out_der, ew_error *reterr)
{
    bool server = kind == EW_SPIFFE_COORDINATOR;
    uint32_t max = kind == EW_SPIFFE_DEVICE     ? EW_SIGNER_DEVICE_MAX_S
                   : kind == EW_SPIFFE_OPERATOR ? EW_SIGNER_OPERATOR_S
                                                : EW_SIGNER_SERVER_S;
    if (seconds == 0) {
        seconds = kind == EW_SPIFFE_DEVICE ? EW_SIGNER_DEVICE_S : max;
    }
    if (seconds > max || seconds < EW_SIGNER_DEVICE_MIN_S) {
        return ew_fail(reterr, EW_EDENIED, "a %s certificate of %" PRIu32 " s is not allowed: %u to %" PRIu32 " s",
                       ew_spiffe_kind_name(kind), seconds, EW_SIGNER_DEVICE_MIN_S, max);
    }
    ew_spiffe spiffe = {.kind = kind};
    char uri[256];
    if (!ew_str_copy(spiffe.domain, sizeof spiffe.domain, s->domain) ||
        !ew_str_copy(spiffe.id, sizeof spiffe.id, server ? s->coordinator_id : id)) {
        return ew_fail(reterr, EW_EINVAL, "the id is longer than 64 characters");
    }
    EW_TRY(ew_spiffe_format(&spiffe, uri, sizeof uri, reterr));
    EW_TRY(ew_spiffe_parse(uri, strlen(uri), &spiffe, reterr)); /* the id has only characters that are allowed */
    ew_cert_opt opt = {.spiffe = &spiffe,
                       .dns = server ? s->dns : NULL,
                       .n_dns = server ? s->n_dns : 0,
                       .common_name = spiffe.id,
                       .server_auth = server,
                       .client_auth = !server,
                       .valid_s = seconds}; /* backdated as renewal expects it (net/x509.h) */
    return ew_cert_issue(s->ca_key, ew_signer_ca_der(s), csr, &opt, out_der, reterr);
}

/* --- what may be signed: a walk over the top level of the packed message --- */

typedef struct walk {
    const uint8_t *p;
    size_t left;
} walk;

static bool walk_varint(walk *w, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && w->left > 0; shift += 7) {
        uint8_t b = *w->p++;
        w->left--;
        v |= (uint64_t)(b & 0x7f) << shift;
        if ((b & 0x80) == 0) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* One field: number, wire type, length of its bytes (type 2) or its value (type 0). */
static bool walk_field(walk *w, uint64_t *field, unsigned *type, uint64_t *value)
{
    uint64_t tag = 0;
    if (!walk_varint(w, &tag) || tag >> 3 == 0) {
        return false;
    }
    *field = tag >> 3;
    *type = (unsigned)(tag & 7);
    size_t skip = 0;
    switch (*type) {
    case 0:
        return walk_varint(w, value);
    case 1:
        skip = 8;
        break;
    case 5:
        skip = 4;
        break;
    case 2:
        if (!walk_varint(w, value) || *value > w->left) {
            return false;
        }
        skip = (size_t)*value;
        break;
    default:
        return false;
    }
    if (skip > w->left) {
        return false;
    }
    w->p += skip;
    w->left -= skip;
    return true;
}

/* Manifest: 1 = size (varint), 2 = sha256 (32 bytes). Plan: 1 = id (16 bytes), 2 = the choice (message). */
static bool has_form(ew_span packed, bool manifest)
{
    walk w = {packed.data, packed.size};
    bool one = false, two = false;
    while (w.left > 0) {
        uint64_t field = 0, value = 0;
        unsigned type = 0;
        if (!walk_field(&w, &field, &type, &value)) {
            return false;
        }
        if (field == 1) {
            if (one || type != (manifest ? 0u : 2u) || (!manifest && value != 16)) {
                return false;
            }
            one = true;
        }
        if (field == 2) {
            if (two || type != 2 || (manifest && value != 32)) {
                return false;
            }
            two = true;
        }
    }
    return one && two;
}

static ew_status sign_form(const ew_signer *s, ew_span packed, bool manifest, uint8_t *ret_sig, ew_error *reterr)
{
    if (packed.size > EW_SIGNER_MANIFEST_MAX || !has_form(packed, manifest)) {
        return ew_fail(reterr, EW_EDENIED, "refused to sign: these %zu bytes are not a packed %s", packed.size,
                       manifest ? "manifest" : "plan");
    }
    return ew_sign(s->artifact_key, packed.data, packed.size, ret_sig, reterr);
}

ew_status ew_signer_sign_manifest(const ew_signer *s, ew_span packed, uint8_t ret_sig[static 64], ew_error *reterr)
{
    return sign_form(s, packed, true, ret_sig, reterr);
}

ew_status ew_signer_sign_plan(const ew_signer *s, ew_span packed, uint8_t ret_sig[static 64], ew_error *reterr)
{
    return sign_form(s, packed, false, ret_sig, reterr);
}

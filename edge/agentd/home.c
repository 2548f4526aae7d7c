#include "agentd/home.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "crypt/hash.h"
#include "sys/file.h"
#include "text/json.h"

#define TMPFS "/dev/shm"

char *ew_home_path(const ew_home *h, const char *name, char dst[static EW_HOME_PATH_MAX])
{
    (void)snprintf(dst, EW_HOME_PATH_MAX, "%s/%.400s", h->root, name);
    return dst;
}

char *ew_home_runtime_path(const ew_home *h, const char *name, char dst[static EW_HOME_PATH_MAX])
{
    (void)snprintf(dst, EW_HOME_PATH_MAX, "%s/%.400s", h->runtime, name);
    return dst;
}

char *ew_home_model_path(const ew_home *h, const uint8_t sha256[static EW_SHA256_BYTES],
                         char dst[static EW_HOME_PATH_MAX])
{
    char hex[2 * EW_SHA256_BYTES + 1];
    ew_hex_encode(sha256, EW_SHA256_BYTES, hex);
    (void)snprintf(dst, EW_HOME_PATH_MAX, "%s/artifacts/%s.gguf", h->root, hex);
    return dst;
}

/* In a place where everyone may write, somebody else may have made it before. */
static bool own_dir(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0 && S_ISDIR(s.st_mode) && s.st_uid == geteuid() && (s.st_mode & 077) == 0;
}

/* On tmpfs, named after user and directory, so that a killed agent finds it again; beside the rest where there is no tmpfs, or where the name
 * is taken. */
static ew_status make_runtime(ew_home *h, ew_error *reterr)
{
    char hex[EW_SHA256_HEX_SIZE];
    char full[4096];
    /* A relative name means another directory elsewhere. */
    (void)ew_path_real(h->root, full, sizeof(full));
    (void)ew_sha256_hex(full, strlen(full), hex);
    if (ew_dir_exists(TMPFS) && access(TMPFS, W_OK) == 0) {
        (void)snprintf(h->runtime, sizeof(h->runtime), TMPFS "/edgewise-%u-%.16s", (unsigned)geteuid(), hex);
        if (ew_dir_make(h->runtime, 0700, NULL) == EW_OK && own_dir(h->runtime)) {
            return EW_OK;
        }
    }
    (void)snprintf(h->runtime, sizeof(h->runtime), "%.490s/runtime", h->root);
    return ew_dir_make(h->runtime, 0700, reterr);
}

ew_status ew_home_init(const char *dir, ew_home *ret_home, ew_error *reterr)
{
    static const char *const subs[] = {"artifacts", "datasets", "trials"};
    ew_home h = {0};
    char path[EW_HOME_PATH_MAX];
    if (dir[0] == '\0' || !ew_str_copy(h.root, sizeof(h.root), dir)) {
        return ew_fail(reterr, EW_EINVAL, "the agent's directory needs a name of 1 to %zu bytes", sizeof(h.root) - 1);
    }
    EW_TRY(ew_dir_make(dir, 0700, reterr));
    for (size_t i = 0; i < EW_COUNT(subs); i++) {
        EW_TRY(ew_dir_make(ew_home_path(&h, subs[i], path), 0700, reterr));
    }
    EW_TRY(make_runtime(&h, reterr));
    *ret_home = h;
    return EW_OK;
}

static ew_status read_device(ew_home *h, const json_t *j, ew_error *reterr)
{
    const char *id = NULL;
    const char *domain = NULL;
    const char *key = NULL;
    json_t *endpoints = NULL;
    json_t *v;
    size_t i;
    EW_TRY(ew_json_get_str(j, "device.json", "device_id", &id, reterr));
    EW_TRY(ew_json_get_str(j, "device.json", "trust_domain", &domain, reterr));
    EW_TRY(ew_json_get_str(j, "device.json", "artifact_key", &key, reterr));
    EW_TRY(ew_json_get_arr(j, "device.json", "endpoints", &endpoints, reterr));
    EW_TRY(ew_json_opt_bool(j, "device.json", "consent_offload", &h->consent_offload, reterr));
    if (!ew_str_copy(h->device_id, sizeof(h->device_id), id) || !ew_device_id_valid(id) ||
        !ew_str_copy(h->trust_domain, sizeof(h->trust_domain), domain) ||
        !ew_hex_decode(key, h->artifact_key, sizeof(h->artifact_key))) {
        return ew_fail(reterr, EW_ECORRUPT, "device.json is damaged. HINT: enrol again with a new token");
    }
    json_array_foreach(endpoints, i, v)
    {
        const char *s = json_string_value(v);
        if (i >= EW_ENDPOINTS_MAX || s == NULL || !ew_str_copy(h->endpoints.item[i], sizeof(h->endpoints.item[0]), s)) {
            return ew_fail(reterr, EW_ECORRUPT,
                           "device.json has a bad list of endpoints. HINT: enrol again with a new token");
        }
        h->endpoints.n = (uint32_t)i + 1;
    }
    return EW_OK;
}

ew_status ew_home_open(const char *dir, ew_home *ret_home, ew_error *reterr)
{
    ew_home h;
    EW_AUTO_JSON j = NULL;
    if (!ew_dir_exists(dir)) {
        return ew_fail(reterr, EW_ENOENT, "%s is not an agent's directory. HINT: edgewise-agent enrol --dir %s TOKEN",
                       dir, dir);
    }
    EW_TRY(ew_home_init(dir, &h, reterr));
    ew_status st = ew_home_read_json(&h, "device.json", &j, reterr);
    if (st == EW_ENOENT) {
        return ew_fail(reterr, EW_ENOENT, "this device is not enrolled. HINT: edgewise-agent enrol --dir %s TOKEN",
                       dir);
    }
    EW_TRY(st);
    EW_TRY(read_device(&h, j, reterr));
    *ret_home = h;
    return EW_OK;
}

ew_status ew_home_save(const ew_home *h, ew_error *reterr)
{
    char key[2 * sizeof(h->artifact_key) + 1];
    ew_hex_encode(h->artifact_key, sizeof(h->artifact_key), key);
    json_t *endpoints = json_array();
    for (uint32_t i = 0; i < h->endpoints.n; i++) {
        (void)json_array_append_new(endpoints, json_string(h->endpoints.item[i]));
    }
    EW_AUTO_JSON j = json_pack("{s:s,s:s,s:s,s:o,s:b}", "device_id", h->device_id, "trust_domain", h->trust_domain,
                               "artifact_key", key, "endpoints", endpoints, "consent_offload", h->consent_offload);
    return ew_home_write_json(h, "device.json", j, reterr);
}

ew_status ew_home_sweep(const ew_home *h, const char *ending, ew_error *reterr)
{
    ew_dir_list list = {0};
    char path[EW_HOME_PATH_MAX];
    EW_TRY(ew_dir_read(h->runtime, &list, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; i < list.n && st == EW_OK; i++) {
        if (ew_str_ends(list.entry[i].name, ending)) {
            st = ew_file_remove(ew_home_runtime_path(h, list.entry[i].name, path), reterr);
        }
    }
    ew_dir_list_release(&list);
    return st;
}

ew_status ew_home_vault(const ew_home *h, const char *credentials, ew_vault **ret_vault, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    uint8_t key[EW_AEAD_KEY_SIZE];
    EW_TRY(ew_vault_key(credentials, ew_home_path(h, "profile.key", path), key, reterr));
    ew_status st = ew_vault_open(ew_home_path(h, "profile.db", path), key, ret_vault, reterr);
    ew_wipe(key, sizeof(key));
    return st;
}

ew_status ew_home_read_json(const ew_home *h, const char *name, json_t **ret_json, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    if (!ew_file_exists(ew_home_path(h, name, path))) {
        return ew_fail(reterr, EW_ENOENT, "%s is not there", path);
    }
    return ew_json_load_file(path, 0, ret_json, reterr);
}

ew_status ew_home_write_json(const ew_home *h, const char *name, const json_t *json, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    EW_AUTO_BUF text = {0};
    if (json == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for %s", name);
    }
    EW_TRY(ew_json_dump(json, EW_JSON_PRETTY, &text, reterr));
    return ew_file_replace(ew_home_path(h, name, path), ew_buf_str(&text), text.size, 0600, reterr);
}

#include "agentd/spool.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "wire/wire.h"

#define RECORD_MAX (1024 * 1024)

static char *record_path(const ew_home *h, const uint8_t id[static EW_UID_BYTES], const char *kind,
                         char dst[static EW_HOME_PATH_MAX])
{
    char hex[2 * EW_UID_BYTES + 1];
    char name[64];
    ew_hex_encode(id, EW_UID_BYTES, hex);
    (void)snprintf(name, sizeof(name), "trials/%s.%s", hex, kind);
    return ew_home_path(h, name, dst);
}

ew_status ew_spool_count(const ew_home *h, size_t *ret_specs, size_t *ret_results, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    ew_dir_list list = {0};
    EW_TRY(ew_dir_read(ew_home_path(h, "trials", path), &list, reterr));
    *ret_specs = 0;
    *ret_results = 0;
    for (size_t i = 0; i < list.n; i++) {
        *ret_specs += ew_str_ends(list.entry[i].name, ".spec");
        *ret_results += ew_str_ends(list.entry[i].name, ".result");
    }
    ew_dir_list_release(&list);
    return EW_OK;
}

static ew_status read_result_any(const char *path, void *dst, ew_error *reterr)
{
    EW_AUTO_BUF bytes = {0};
    EW_TRY(ew_file_read(path, RECORD_MAX, &bytes, reterr));
    return ew_wire_unpack_trial_result((ew_span){bytes.data, bytes.size}, dst, reterr);
}

/* The trial is done here already, only its result has not been acknowledged: the result takes over the fence. */
static ew_status renew_result(const ew_home *h, const ew_trial_spec *spec, bool *ret_done, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    EW_AUTO_BUF bytes = {0};
    *ret_done = false;
    if (!ew_file_exists(record_path(h, spec->id, "result", path))) {
        return EW_OK;
    }
    ew_trial_result *r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a trial");
    }
    /* One that cannot be read is run again. */
    if (read_result_any(path, r, NULL) == EW_OK) {
        *ret_done = true;
        r->fence = spec->fence;
    }
    ew_status st = *ret_done ? ew_wire_pack_trial_result(r, &bytes, reterr) : ew_file_remove(path, reterr);
    ew_free(r);
    EW_TRY(st);
    return *ret_done ? ew_file_replace(path, bytes.data, bytes.size, 0600, reterr) : EW_OK;
}

ew_status ew_spool_put(const ew_home *h, const ew_trial_spec *spec, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    EW_AUTO_BUF bytes = {0};
    size_t specs = 0;
    size_t results = 0;
    bool done = false;
    EW_TRY(renew_result(h, spec, &done, reterr));
    if (done) {
        return EW_OK;
    }
    EW_TRY(ew_spool_count(h, &specs, &results, reterr));
    (void)record_path(h, spec->id, "spec", path);
    if (specs >= EW_SPOOL_MAX && !ew_file_exists(path)) {
        return ew_fail(reterr, EW_ELIMIT, "this device has %zu trials waiting already", specs);
    }
    EW_TRY(ew_wire_pack_trial_spec(spec, &bytes, reterr));
    return ew_file_replace(path, bytes.data, bytes.size, 0600, reterr);
}

static ew_status read_spec(const char *path, ew_trial_spec *ret_spec, ew_error *reterr)
{
    EW_AUTO_BUF bytes = {0};
    EW_TRY(ew_file_read(path, RECORD_MAX, &bytes, reterr));
    return ew_wire_unpack_trial_spec((ew_span){bytes.data, bytes.size}, ret_spec, reterr);
}

ew_status ew_spool_get(const ew_home *h, const uint8_t id[static EW_UID_BYTES], ew_trial_spec *ret_spec,
                       ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    return read_spec(record_path(h, id, "spec", path), ret_spec, reterr);
}

/* The first file of a kind whose content reads well; damaged ones are removed. */
static ew_status first_of(const ew_home *h, const char *ending,
                          ew_status (*read)(const char *path, void *dst, ew_error *reterr), void *dst, bool *ret_found,
                          ew_error *reterr)
{
    char dir[EW_HOME_PATH_MAX];
    char name[EW_HOME_PATH_MAX];
    char path[EW_HOME_PATH_MAX];
    ew_dir_list list = {0};
    *ret_found = false;
    EW_TRY(ew_dir_read(ew_home_path(h, "trials", dir), &list, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; i < list.n && !*ret_found && st == EW_OK; i++) {
        if (!ew_str_ends(list.entry[i].name, ending)) {
            continue;
        }
        (void)snprintf(name, sizeof(name), "trials/%.200s", list.entry[i].name);
        (void)ew_home_path(h, name, path);
        ew_status one = read(path, dst, reterr);
        if (one == EW_OK) {
            *ret_found = true;
        } else if (one == EW_ECORRUPT || one == EW_EINVAL) {
            st = ew_file_remove(path, reterr);
        } else {
            st = one;
        }
    }
    ew_dir_list_release(&list);
    return st;
}

static ew_status read_spec_any(const char *path, void *dst, ew_error *reterr)
{
    return read_spec(path, dst, reterr);
}

ew_status ew_spool_next(const ew_home *h, ew_trial_spec *ret_spec, bool *ret_found, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    for (;;) {
        EW_TRY(first_of(h, ".spec", read_spec_any, ret_spec, ret_found, reterr));
        if (!*ret_found || !ew_file_exists(record_path(h, ret_spec->id, "result", path))) {
            return EW_OK;
        }
        /* Killed between writing the result and removing the spec. */
        EW_TRY(ew_file_remove(record_path(h, ret_spec->id, "spec", path), reterr));
    }
}

ew_status ew_spool_finish(const ew_home *h, const ew_trial_result *result, ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    EW_AUTO_BUF bytes = {0};
    EW_TRY(ew_wire_pack_trial_result(result, &bytes, reterr));
    EW_TRY(ew_file_replace(record_path(h, result->id, "result", path), bytes.data, bytes.size, 0600, reterr));
    return ew_file_remove(record_path(h, result->id, "spec", path), reterr);
}

ew_status ew_spool_result(const ew_home *h, ew_trial_result *ret_result, bool *ret_found, ew_error *reterr)
{
    return first_of(h, ".result", read_result_any, ret_result, ret_found, reterr);
}

ew_status ew_spool_drop_result(const ew_home *h, const uint8_t id[static EW_UID_BYTES], ew_error *reterr)
{
    char path[EW_HOME_PATH_MAX];
    return ew_file_remove(record_path(h, id, "result", path), reterr);
}

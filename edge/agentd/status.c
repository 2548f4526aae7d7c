/* What the agent tells about itself, and the user's consent. */
#include <string.h>

#include "agentd/agent_int.h"
#include "base/mem.h"
#include "probe/probe.h"
#include "record/record.h"
#include "sys/proc.h"
#include "text/json.h"

static json_t *session_json(ew_agent *a)
{
    ew_client_stats stats = {0};
    if (a->client == NULL) {
        return json_pack("{s:s}", "state", "not started");
    }
    ew_client_get_stats(a->client, &stats);
    return json_pack("{s:s,s:I,s:I,s:I}", "state", ew_client_state_name(ew_client_get_state(a->client)), "bytes_in",
                     (json_int_t)stats.bytes_in, "bytes_out", (json_int_t)stats.bytes_out, "connects",
                     (json_int_t)stats.connects);
}

static json_t *now_json(ew_agent *a)
{
    json_t *j = json_null();
    (void)pthread_mutex_lock(&a->now.lock);
    if (a->now.busy) {
        j = json_pack("{s:s,s:s,s:I,s:I}", "what", a->now.what, "phase", a->now.phase, "done", (json_int_t)a->now.done,
                      "total", (json_int_t)a->now.total);
    }
    (void)pthread_mutex_unlock(&a->now.lock);
    return j;
}

static json_t *file_or_null(ew_agent *a, const char *name)
{
    json_t *j = NULL;
    return ew_home_read_json(&a->home, name, &j, NULL) == EW_OK ? j : json_null();
}

static ew_status adapters_json(ew_agent *a, json_t *list, size_t *ret_items, ew_error *reterr)
{
    ew_vault_adapter *adapters = NULL;
    size_t n = 0;
    (void)pthread_mutex_lock(&a->vault_lock);
    ew_status st = ew_vault_count(a->vault, ret_items, reterr);
    if (st == EW_OK) {
        st = ew_vault_adapter_list(a->vault, &adapters, &n, reterr);
    }
    (void)pthread_mutex_unlock(&a->vault_lock);
    for (size_t i = 0; i < n && st == EW_OK; i++) {
        const ew_vault_adapter *m = &adapters[i];
        (void)json_array_append_new(
            list, json_pack("{s:I,s:s,s:s,s:s,s:I,s:b,s:b,s:f,s:f,s:I,s:I}", "id", (json_int_t)m->id, "task", m->task,
                            "method", m->method, "base", m->base_sha256, "bytes", (json_int_t)m->bytes, "active",
                            m->active, "flagged", m->flagged, "nll_base", m->nll_base, "nll", m->nll_adapter, "items",
                            (json_int_t)m->n_items, "parent", (json_int_t)m->parent));
    }
    ew_free(adapters);
    return st;
}

ew_status ew_agent_adapters(ew_agent *a, json_t **ret, ew_error *reterr)
{
    size_t n_items = 0;
    json_t *adapters = json_array();
    json_t *j = json_pack("{s:o,s:o}", "adapters", adapters, "active", file_or_null(a, "active.json"));
    ew_status st = j != NULL ? adapters_json(a, adapters, &n_items, reterr)
                             : ew_fail(reterr, EW_ENOMEM, "out of memory for a list");
    if (st != EW_OK) {
        json_decref(j);
        return st;
    }
    *ret = j;
    return EW_OK;
}

ew_status ew_agent_status(ew_agent *a, json_t **ret_status, ew_error *reterr)
{
    ew_device_state state;
    ew_proc_mem mem = {0};
    size_t n_items = 0;
    size_t specs = 0;
    size_t results = 0;
    EW_AUTO_JSON adapters = json_array();
    EW_AUTO_JSON state_json = NULL;
    ew_probe_state(a->home.root, a->opt.memory_limit_bytes, &state);
    EW_TRY(ew_record_from_state(&state, &state_json, reterr));
    EW_TRY(ew_proc_mem_read(&mem, reterr));
    EW_TRY(adapters_json(a, adapters, &n_items, reterr));
    EW_TRY(ew_spool_count(&a->home, &specs, &results, reterr));
    json_t *j =
        json_pack("{s:s,s:s,s:o,s:o,s:O,s:I,s:I,s:I,s:I,s:o,s:o,s:O,s:b,s:o}", "device", a->home.device_id, "software",
                  a->opt.software, "session", session_json(a), "now", now_json(a), "state", state_json, "profile_items",
                  (json_int_t)n_items, "trials_waiting", (json_int_t)specs, "results_waiting", (json_int_t)results,
                  "ram_peak_bytes", (json_int_t)mem.rss_peak_bytes, "plan", file_or_null(a, "plan.json"), "active",
                  file_or_null(a, "active.json"), "adapters", adapters, "consent_offload", a->home.consent_offload,
                  "ledger", file_or_null(a, "ledger.json"));
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the status");
    }
    (void)json_object_set_new(j, "learning", ew__learner_status(a));
    *ret_status = j;
    return EW_OK;
}

ew_status ew_agent_consent(ew_agent *a, bool offload, ew_error *reterr)
{
    (void)pthread_mutex_lock(&a->vault_lock);
    a->home.consent_offload = offload;
    ew_status st = ew_home_save(&a->home, reterr);
    (void)pthread_mutex_unlock(&a->vault_lock);
    if (st == EW_OK && a->client != NULL) {
        ew_client_reconnect(a->client); /* Hello carries it */
    }
    return st;
}

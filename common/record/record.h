/* Domain values as JSON: what operators' verbs, the worker's pipe, stored evidence and reports carry. One form each, both ways.
 *
 *   spec    {"trial": hex32, "experiment": hex32, "task", "source", "model": hex64, "variant", "method": "lora+rag", "n_history": 0 (all),
 *            "seed", "settings": {"rank": 8, …}, "budget": {"ram_bytes", "disk_bytes", "seconds", "joules", "mains_only"},
 *            "force", "repeats", "warmup", "lease_ms", "fence"}
 *   result  {"trial": hex32, "fence", "code": "EW_OK", "detail", "measures": {"name": {"unit", "values": […]}}, "env": hex64, "spec"?}
 *   caps    {"arch", "class", "cores", "ram_bytes", "disk_bytes", "isa": […], "dtypes": […], "features": […],
 *            "rates": [{"name", "unit", "value", "spread", "measured_unix_ms"}]}
 *   state   {"ram_available_bytes", "disk_free_bytes", "memory_limit_bytes", "battery", "on_mains", "metered", "consents", …}
 *   plan    {"plan": hex32, "task", "device", "chosen": choice, "runners_up": [choice…], "budget", …}
 *   choice  {"model": hex64, "model_name", "variant", "method", "feasible", "settings", "estimates": {"ram": {"unit", "mean", "low", "high"}},
 *            "reasons": [{"rule", "text", "class", "trials": [hex32…]}], "placements"}
 * Reading is strict in types and ranges; fields that are absent keep their zero. Unknown fields are ignored (newer writers).
 * *ret_json is the caller's. Locking: any thread. */
#ifndef EW_RECORD_RECORD_H
#define EW_RECORD_RECORD_H

#include <jansson.h>

#include "base/status.h"
#include "domain/device.h"
#include "domain/plan.h"
#include "domain/trial.h"

ew_status ew_record_from_spec(const ew_trial_spec *spec, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
/* Runs ew_trial_spec_check too. */
ew_status ew_record_to_spec(const json_t *json, ew_trial_spec *ret_spec, ew_error *reterr) EW_MUST_CHECK;

ew_status ew_record_from_result(const ew_trial_result *result, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_record_to_result(const json_t *json, ew_trial_result *ret_result, ew_error *reterr) EW_MUST_CHECK;

ew_status ew_record_from_caps(const ew_device_caps *caps, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_record_to_caps(const json_t *json, ew_device_caps *ret_caps, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_record_from_state(const ew_device_state *state, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;

ew_status ew_record_from_plan(const ew_plan *plan, json_t **ret_json, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_record_to_plan(const json_t *json, ew_plan *ret_plan, ew_error *reterr) EW_MUST_CHECK;

/* "EW_OK" … of base/status.h into the code; EW_EINTERNAL for a name not known. */
ew_status ew_record_status(const char *name);

#endif

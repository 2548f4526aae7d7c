/* Accepted trials and their results, on disk until the coordinator has acknowledged them: a killed agent forgets nothing.
 *
 * DIR/trials/<id>.spec (packed TrialAssign) is written before a trial is accepted; <id>.result (packed TrialResult) before the spec goes. Both appear whole or not
 * at all. At most EW_SPOOL_MAX trials wait.
 * Locking: any thread; files are replaced atomically, one thread executes. */
#ifndef EW_AGENTD_SPOOL_H
#define EW_AGENTD_SPOOL_H

#include "agentd/home.h"
#include "base/status.h"
#include "domain/trial.h"

#define EW_SPOOL_MAX 256

/* A trial that is there already only gets the new fence and lease; of one whose result waits, the result gets the fence. EW_ELIMIT when full. */
ew_status ew_spool_put(const ew_home *h, const ew_trial_spec *spec, ew_error *reterr) EW_MUST_CHECK;
/* The next trial without a result, in order of id; *ret_found false when there is none. A file that is damaged is removed. */
ew_status ew_spool_next(const ew_home *h, ew_trial_spec *ret_spec, bool *ret_found, ew_error *reterr) EW_MUST_CHECK;
/* The spec as it is now (its fence may have moved while the trial ran). EW_ENOENT. */
ew_status ew_spool_get(const ew_home *h, const uint8_t id[static EW_UID_BYTES], ew_trial_spec *ret_spec,
                       ew_error *reterr) EW_MUST_CHECK;
/* Writes the result, then removes the spec. */
ew_status ew_spool_finish(const ew_home *h, const ew_trial_result *result, ew_error *reterr) EW_MUST_CHECK;
/* Any result that waits for its acknowledgement. */
ew_status ew_spool_result(const ew_home *h, ew_trial_result *ret_result, bool *ret_found,
                          ew_error *reterr) EW_MUST_CHECK;
/* Acknowledged, or refused for good. */
ew_status ew_spool_drop_result(const ew_home *h, const uint8_t id[static EW_UID_BYTES], ew_error *reterr) EW_MUST_CHECK;
/* How many trials and results wait. */
ew_status ew_spool_count(const ew_home *h, size_t *ret_specs, size_t *ret_results, ew_error *reterr) EW_MUST_CHECK;

#endif

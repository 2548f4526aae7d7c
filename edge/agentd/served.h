/* What the device answers with, and what it answered with before: DIR/active.json, replaced as a whole, so that a kill leaves the one or the other.
 *
 *   {"model", "name", "variant", "task", "method", "rag_k", "rag_rank" (not 0), "adapter",            the one that is served unless a request says otherwise
 *    "tasks": {TASK: {"now": {…the same…}, "before": [{…}, …]}}}                   one for each task; before: the last one last, at most EW_SERVED_BEFORE
 *
 * Locking: the caller's (the agent's vault_lock). */
#ifndef EW_AGENTD_SERVED_H
#define EW_AGENTD_SERVED_H

#include "agentd/home.h"
#include "base/status.h"
#include "domain/trial.h"

#define EW_SERVED_BEFORE 4u
#define EW_SERVED_UNSAID UINT64_MAX /* a file of an older version: the vault's active adapter */

typedef struct ew_served {
    char model[2 * EW_SHA256_BYTES + 1]; /* hash of the file, in hex */
    char name[64];
    char variant[EW_VARIANT_SIZE];
    char task[EW_TASK_NAME_SIZE];
    char method[32];   /* "none": the plain model */
    uint32_t rag_k;    /* 0 = no retrieval */
    uint32_t rag_rank; /* enum ew_rag_rank */
    uint64_t adapter;  /* of the vault; 0 = none, EW_SERVED_UNSAID */
} ew_served;

/* task NULL = the default. EW_ENOENT when nothing was chosen (for the task); EW_ECORRUPT. */
ew_status ew_served_get(const ew_home *h, const char *task, ew_served *ret_served, ew_error *reterr) EW_MUST_CHECK;
/* Is served from now on, for its task and by default. What it takes the place of goes into `before` unless it is the same. */
ew_status ew_served_put(const ew_home *h, const ew_served *s, ew_error *reterr) EW_MUST_CHECK;
/* Goes back to the last one of before that usable says yes to; those after it are dropped. Without one: the plain model (nothing to
 * go back to is EW_ENOENT only when that is served already). task NULL = the default's. *ret_served: what is served now. */
ew_status ew_served_back(const ew_home *h, const char *task, bool (*usable)(const ew_served *s, void *ctx), void *ctx,
                         ew_served *ret_served, ew_error *reterr) EW_MUST_CHECK;
/* The adapters that now and before name. */
ew_status ew_served_adapters(const ew_home *h, const char *task, uint64_t ret_ids[static EW_SERVED_BEFORE + 1],
                             size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

#endif

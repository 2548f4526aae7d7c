/* One conversation with a model: KV cache, position, workspace. Mutable, one owning thread; the model is shared.
 *
 * All memory is sized by a dry run and taken in ew_session_new; evaluation allocates nothing. The unit of work is the segment
 * [a, b) of layers on hidden states x[n,C]: eval is embed -> run [0,L) -> head, split inference runs the segments in two places.
 * With the reference kernels run [0,L) equals run [0,k) then run [k,L) bit for bit.
 * With early exits in the hooks, the logits of eval, eval_all and nll are a vote of the exits and the last head (vote.c has the formula);
 * ew_session_head sees one stream and gives the last head's alone.
 * Positions are token indices from 0; the cache of the session's layers is valid for [0, pos). Virtual positions of hooks are not
 * counted: they stand in rows of their own before the first token, computed at the first evaluation after new, reset or set_hooks. */
#ifndef EW_MODEL_SESSION_H
#define EW_MODEL_SESSION_H

#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/hooks.h"
#include "model/model.h"

typedef struct ew_session ew_session;

#define EW_SESSION_BATCH_DEFAULT 128u

/* How keys and values are kept. */
typedef enum ew_kv_type {
    EW_KV_F16 = 0,
    EW_KV_F32,
    EW_KV_Q8_0 /* blocks of 32 within a head: D % 32 == 0 */
} ew_kv_type;

/* Zero = default for every member; exec.kern NULL = the best for this CPU, exec.pool NULL = serial. */
typedef struct ew_session_opt {
    uint32_t n_ctx;        /* capacity, tok; 0 = the model's training context, at most 4096 */
    uint32_t n_batch;      /* largest chunk computed at once, tok; 0 = EW_SESSION_BATCH_DEFAULT; encoders: n_ctx */
    ew_exec exec;          /* kernels and threads; the pool must outlive the session */
    const ew_hooks *hooks; /* borrowed; NULL = none */
    uint32_t max_rank;     /* workspace for later ew_session_set_hooks; at least the rank (or width) of hooks */
    uint32_t max_virtual;  /* room beside n_ctx for later hooks' virtual positions; at least that of hooks */
    uint32_t max_exits;    /* room for the early exits of later hooks; at least those of hooks */
    ew_kv_type kv_type;    /* of the cache */
    uint64_t memory_limit_bytes; /* kv + workspace (not the weights) may not exceed this; 0 = no limit */
    uint32_t first_layer;        /* layers [first_layer, last_layer) have a cache here; both 0 = all */
    uint32_t last_layer;
} ew_session_opt;

typedef struct ew_memory_plan {
    uint64_t weights_bytes;   /* tensors of the whole model, as stored (mapped, shared by sessions) */
    uint64_t copied_bytes;    /* memory of its own that the model took at opening (shared by sessions) */
    uint64_t kv_bytes;        /* cache of the session */
    uint64_t workspace_bytes; /* scratch of the session */
} ew_memory_plan;

/* What ew_session_new would take: the same code in a dry run. EW_EINVAL when opt does not fit the model. */
ew_status ew_session_memory(const ew_model *m, const ew_session_opt *opt, ew_memory_plan *ret_plan,
                            ew_error *reterr) EW_MUST_CHECK;
/* The same for a default session of n_ctx and n_batch tokens (0 = default). */
ew_status ew_model_memory(const ew_model *m, uint32_t n_ctx, uint32_t n_batch, ew_memory_plan *ret_plan,
                          ew_error *reterr) EW_MUST_CHECK;

/* Capacity of a session whose opt.n_ctx is 0: the training context, at most 4096 tok. */
uint32_t ew_session_default_ctx(const ew_model *m);
/* The largest capacity up to that of opt whose cache and workspace take at most limit_bytes; 0 = not even one token. EW_EINVAL as
 * ew_session_new. */
ew_status ew_session_largest_ctx(const ew_model *m, const ew_session_opt *opt, uint64_t limit_bytes,
                                 uint32_t *ret_n_ctx, ew_error *reterr) EW_MUST_CHECK;

/* Takes a reference to m. EW_EINVAL (bad range, context beyond EW_LIMIT_CONTEXT_TOK or beyond the model's learned positions, a cache type
 * that the head size does not allow). With longrope positions the context decides which divisors hold for the whole session. EW_ELIMIT past memory_limit_bytes: the message
 * has the largest context that would fit; EW_ENOMEM. */
ew_status ew_session_new(const ew_model *m, const ew_session_opt *opt, ew_session **ret_session,
                         ew_error *reterr) EW_MUST_CHECK;
void ew_session_free(ew_session **s);

const ew_model *ew_session_model(const ew_session *s);
uint32_t ew_session_n_ctx(const ew_session *s);
uint32_t ew_session_n_batch(const ew_session *s);
uint64_t ew_session_bytes(const ew_session *s); /* kv + workspace taken */

/* Replaces the hooks (NULL = none). The cache is dropped (position 0): it was computed under the old ones. EW_EINVAL when their rank,
 * virtual positions or exits are not within max_rank, max_virtual and max_exits; EW_EUNSUPPORTED for virtual positions of an encoder or
 * of a session whose layers are in several places (a segment; for a prompt also one of some layers). */
ew_status ew_session_set_hooks(ew_session *s, const ew_hooks *hooks, ew_error *reterr) EW_MUST_CHECK;

/* Runs layers [a, b) of a chunk somewhere else: x[n,C] in place, positions pos … pos + n - 1, n <= n_batch. Called in the session's
 * thread; a failure ends the evaluation with its status. */
typedef ew_status (*ew_segment_fn)(void *ctx, float *x, size_t n, uint32_t pos, ew_error *reterr);
/* From now on evaluation gives layers [a, b) to fn (split/ does); a == b takes them back. fn may call ew_session_run for layers that this
 * session holds. EW_EINVAL for a bad range. */
ew_status ew_session_set_segment(ew_session *s, uint32_t a, uint32_t b, ew_segment_fn fn, void *ctx,
                                 ew_error *reterr) EW_MUST_CHECK;

/* Encoders have no next token: eval, nll and head are EW_EINVAL for them.
 * Appends n tokens (any n > 0; computed in chunks of n_batch). ret_logits[V] of the last one, or NULL. A session of all layers only.
 * EW_EINVAL for an id outside the vocabulary, EW_ELIMIT when the context is full (nothing was appended). */
ew_status ew_session_eval(ew_session *s, const int32_t *ids, size_t n, float *ret_logits,
                          ew_error *reterr) EW_MUST_CHECK;
/* Logits of every token: ret_logits[n,V]. */
ew_status ew_session_eval_all(ew_session *s, const int32_t *ids, size_t n, float *ret_logits,
                              ew_error *reterr) EW_MUST_CHECK;
/* Teacher-forced negative log-likelihood (nats) of ids[n_prompt..n) given what precedes; starts from position 0 (the session is
 * reset) and leaves it after ids[n-2]. 1 <= n_prompt < n. *ret_nll is the sum, *ret_n the number of scored tokens. */
ew_status ew_session_nll(ew_session *s, const int32_t *ids, size_t n, size_t n_prompt, double *ret_nll, size_t *ret_n,
                         ew_error *reterr) EW_MUST_CHECK;

/* Hidden states that the first layer reads, of n tokens at positions pos .. pos+n-1: ret_x[n,C]. The embedding with its scale, learned
 * positions, token type 0 and norm, where the model has them. No state changes. EW_ELIMIT when pos + n exceeds n_ctx. */
ew_status ew_session_embed(ew_session *s, const int32_t *ids, size_t n, uint32_t pos, float *ret_x,
                           ew_error *reterr) EW_MUST_CHECK;
/* An encoder's answer to n <= n_ctx tokens, which all see each other: pooling NONE gives ret[n,C], the last hidden states; the others one
 * vector ret[C], not normalised (ew_model_config.pooling says what the model was trained for). The session keeps nothing.
 * EW_EINVAL for a model that is no encoder, n == 0 or an id outside the vocabulary. */
ew_status ew_session_encode(ew_session *s, const int32_t *ids, size_t n, ew_pooling pooling, float *ret,
                            ew_error *reterr) EW_MUST_CHECK;
/* Layers [a,b) over x[n,C] in place at positions pos .. pos+n-1; their cache is written at those positions and must be valid
 * before them (for these layers: run earlier or pos == 0). Chunked by n_batch. Does not move ew_session_pos: the caller of segments owns the
 * position. EW_EINVAL when [a,b) is not within the session's layers; EW_ELIMIT when pos + n exceeds n_ctx. */
ew_status ew_session_run(ew_session *s, uint32_t a, uint32_t b, float *x, size_t n, uint32_t pos,
                         ew_error *reterr) EW_MUST_CHECK;
/* Final norm and output matrix: ret_logits[V] of one row x[C]. */
ew_status ew_session_head(ew_session *s, const float *x, float *ret_logits, ew_error *reterr) EW_MUST_CHECK;
/* The same for n rows: ret_logits[n,V]. */
ew_status ew_session_head_all(ew_session *s, const float *x, size_t n, float *ret_logits,
                              ew_error *reterr) EW_MUST_CHECK;

/* Tokens appended so far by eval. */
uint32_t ew_session_pos(const ew_session *s);
/* Forgets everything at and after pos (<= the present position: programmer's error otherwise). */
void ew_session_rewind(ew_session *s, uint32_t pos);
void ew_session_reset(ew_session *s);

#endif

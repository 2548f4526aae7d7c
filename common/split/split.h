/* Split inference, the device's side: layers [a, b) of a session run at the coordinator, everything else at home.
 *
 * The device keeps the embedding, the layers outside [a, b) and the head, so tokens and logits never leave it; hidden states do. A split installs
 * itself in an ordinary session: evaluation, generation and scoring go through it unchanged. It keeps the hidden states that it sent. When the link
 * fails, in the middle of an answer or not, it computes the KV cache of [a, b) from them on the device's own copy of those layers and goes on: no
 * token is lost and none repeated. After that the split stays local until a new one is made.
 *
 * With f32 activations and the reference kernels at both ends the logits equal the local ones bit for bit; f16 activations and fast kernels agree
 * only nearly (ew_split_stats tells what was used, `edgewise-agent chat` what was measured).
 * Hidden states are not private: inversion recovers most tokens (arXiv 2503.09022). The caller asks for consent before making a split.
 * Locking: the session's owner. */
#ifndef EW_SPLIT_SPLIT_H
#define EW_SPLIT_SPLIT_H

#include "base/status.h"
#include "model/session.h"
#include "split/activation.h"

/* Runs [a, b) on act (n rows of C elements of the activation type, little-endian) at positions position … position + n - 1 and writes as many bytes to
 * ret_act. step counts from 0 and is the same on a retry. Blocks; any failure is final for the split. */
typedef ew_status (*ew_split_forward_fn)(void *ctx, uint64_t step, uint32_t position, uint32_t n, const void *act,
                                         size_t bytes, void *ret_act, ew_error *reterr);

typedef struct ew_split_opt {
    uint32_t first_layer, last_layer; /* [first, last), not empty */
    ew_activation act;
    ew_split_forward_fn forward;
    /* Told once, when the link is given up: from then on the layers run here. May be NULL. */
    void (*on_local)(void *ctx, uint32_t position, const ew_error *why);
    void *ctx;
} ew_split_opt;

typedef struct ew_split_session ew_split_session;

/* s must hold all layers and outlive the split. EW_EINVAL: not a range of its layers. EW_ENOMEM. */
ew_status ew_split_session_new(ew_session *s, const ew_split_opt *opt, ew_split_session **ret_split,
                               ew_error *reterr) EW_MUST_CHECK;
/* Gives the layers back to the session; what was evaluated so far must not be continued unless the split was local. */
void ew_split_session_free(ew_split_session **p);

typedef struct ew_split_stats {
    uint64_t bytes_out, bytes_in; /* activations, without framing */
    uint64_t trips;
    double wait_s;           /* spent waiting for the other side */
    bool local;              /* the link was given up */
    uint32_t local_position; /* first position computed here */
    double rebuild_s;        /* spent rebuilding the cache */
} ew_split_stats;
void ew_split_session_get_stats(const ew_split_session *p, ew_split_stats *ret_stats);

#endif

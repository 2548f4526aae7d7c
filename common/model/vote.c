/* Early exits: the streams behind some layers, kept while a chunk passes, and their vote with the last head.
 *
 * Voters are the exits and the model's own head, each with logits of the shared output matrix on its own norm of its own stream. A row's
 * answer is their pool in logarithms, weighted by how sure a voter is of itself and how far the last head's belief agrees:
 *
 *   log p = sum_e w_e log p_e + constant,   w_e ~ exp(-SHARPNESS max(H(p_e), H(p_last, p_e)))
 *
 * H(p): entropy; H(p, q) = -sum p log q, so that the last head's own figure is its entropy. Why this and not the largest probability,
 * as Edge-LLM votes: docs/internals/early-exits.md has the figures. All voters' rows go through the output matrix together, which is read once.
 * Nothing here allocates. */
#include <math.h>
#include <string.h>

#include "model/session_int.h"

#define SHARPNESS 4.0

void ew__vote_take(ew_session *s, ew_arena *a)
{
    const ew_model_config *c = &s->m->cfg;
    const size_t n = s->opt.max_exits, C = c->C;
    if (n == 0) {
        return;
    }
    const size_t rows = EW_MAX((size_t)HEAD_ROWS, n + 1);
    s->vote.stream = ew_arena_take(a, n * s->opt.n_batch, C * sizeof(float));
    s->vote.xn = ew_arena_take(a, rows, C * sizeof(float));
    s->vote.logits = ew_arena_take(a, rows + 2, c->V * sizeof(float)); /* and two of room */
    s->vote.scratch = ew_arena_take(a, ew_matmul_scratch(&s->m->output, rows), 1);
}

ew_status ew__vote_check(const ew_session *s, const ew_hooks *hooks, ew_error *reterr)
{
    const uint32_t n = hooks != NULL ? hooks->n_exits : 0;
    if (s->opt.max_exits > EW_VOTE_EXITS_MAX || n > s->opt.max_exits) {
        return ew_fail(reterr, EW_EINVAL,
                       "an adapter with %u early exits does not fit a session made for %u (at most %u)", n,
                       s->opt.max_exits, EW_VOTE_EXITS_MAX);
    }
    if (s->m->cfg.encoder && s->opt.max_exits > 0) {
        return ew_fail(reterr, EW_EINVAL, "%s is an encoder: it has no head for early exits", s->m->cfg.name);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (hooks->exits[i].layer == 0 || hooks->exits[i].layer > s->m->cfg.L) {
            return ew_fail(reterr, EW_EINVAL, "an early exit behind layer %u: the model has %u layers",
                           hooks->exits[i].layer, s->m->cfg.L);
        }
    }
    return EW_OK;
}

bool ew__vote_here(const ew_session *s, uint32_t layer)
{
    bool here = false;
    for (uint32_t i = 0; i < s->hooks.n_exits; i++) {
        here = here || s->hooks.exits[i].layer == layer;
    }
    return here;
}

void ew__vote_keep(ew_session *s, uint32_t layer, const float *x, size_t T)
{
    const size_t C = s->m->cfg.C;
    for (uint32_t i = 0; i < s->hooks.n_exits; i++) {
        if (s->hooks.exits[i].layer == layer) {
            memcpy(s->vote.stream + i * s->opt.n_batch * C, x, T * C * sizeof(float));
        }
    }
}

/* A voter's figure: max(H(p), H(last, p)), and its logits become logarithms of probabilities. room:[V]. last: probabilities. */
static double doubt(const ew_exec *e, float *logits, const float *last, size_t V, float *room)
{
    const double lse = ew_logsumexp(e, logits, V);
    memcpy(room, logits, V * sizeof(float));
    ew_softmax(e, room, 1, V);
    const double entropy = lse - ew_vec_dot(e, room, logits, V);
    const double cross = lse - ew_vec_dot(e, last, logits, V);
    for (size_t v = 0; v < V; v++) {
        logits[v] = (float)((double)logits[v] - lse);
    }
    return EW_MAX(entropy, cross);
}

/* Voters' logits at rows of V, `apart` rows from one to the next, the last head's behind the exits'. */
static void pool_row(const ew_session *s, float *logits, size_t apart, float *ret)
{
    const size_t V = s->m->cfg.V, n = s->hooks.n_exits;
    const ew_exec *e = &s->opt.exec;
    float *last = s->vote.logits + EW_MAX((size_t)HEAD_ROWS, (size_t)s->opt.max_exits + 1) * V, *room = last + V;
    double w[EW_VOTE_EXITS_MAX + 1], least = INFINITY, sum = 0;
    memcpy(last, logits + n * apart * V, V * sizeof(float));
    ew_softmax(e, last, 1, V);
    for (size_t i = 0; i <= n; i++) {
        w[i] = doubt(e, logits + i * apart * V, last, V, room);
        least = EW_MIN(least, w[i]);
    }
    for (size_t i = 0; i <= n; i++) {
        w[i] = exp(-SHARPNESS * (w[i] - least));
        sum += w[i];
    }
    memset(ret, 0, V * sizeof(float));
    for (size_t i = 0; i <= n; i++) {
        ew_vec_axpy(e, (float)(w[i] / sum), logits + i * apart * V, V, ret);
    }
}

void ew__vote_chunk(ew_session *s, size_t first, size_t n, float *logits)
{
    const size_t C = s->m->cfg.C, V = s->m->cfg.V, voters = (size_t)s->hooks.n_exits + 1;
    if (voters == 1) {
        ew__head_chunk(s, s->w.x + first * C, n, logits);
        return;
    }
    const size_t at_once = EW_MAX((size_t)1, HEAD_ROWS / voters);
    for (size_t done = 0; done < n;) {
        const size_t rows = EW_MIN(at_once, n - done);
        for (size_t i = 0; i + 1 < voters; i++) {
            const ew_exit_hook *x = &s->hooks.exits[i];
            ew__norm_rows(s, s->vote.stream + (i * s->opt.n_batch + first + done) * C, x->norm, x->norm_b, rows,
                          s->vote.xn + i * rows * C);
        }
        ew__norm_rows(s, s->w.x + (first + done) * C, s->m->output_norm, s->m->output_norm_b, rows,
                      s->vote.xn + (voters - 1) * rows * C);
        ew__output_rows(s, s->vote.xn, rows * voters, s->vote.logits, s->vote.scratch);
        for (size_t r = 0; r < rows; r++) {
            pool_row(s, s->vote.logits + r * V, rows, logits + (done + r) * V);
        }
        done += rows;
    }
}

/* Sessions: sizing by dry run, chunked evaluation. The block itself is in layer.c.
 * Memory: one arena per session, taken whole in new; evaluation only writes into it. */
#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/sampler.h"
#include "model/session_int.h"
#include "sys/pool.h"

#define N_CTX_DEFAULT_MAX 4096u

/* ---- hooks ---- */

uint32_t ew_hooks_max_rank(const ew_hooks *hooks, uint32_t n_layers)
{
    uint32_t max = 0;
    if (hooks != NULL && hooks->linear != NULL) {
        for (size_t i = 0; i < (size_t)n_layers * EW_LINEAR_COUNT; i++) {
            max = EW_MAX(max, hooks->linear[i].rank);
        }
    }
    if (hooks != NULL && hooks->bottleneck != NULL) {
        for (size_t i = 0; i < (size_t)n_layers * 2; i++) {
            max = EW_MAX(max, hooks->bottleneck[i].width);
        }
    }
    return max;
}

/* What s cannot do with such hooks. */
static ew_status check_hooks(const ew_session *s, const ew_hooks *h, ew_error *reterr)
{
    const ew_model_config *c = &s->m->cfg;
    const bool prefix = h->prefix_k != NULL && h->prefix_v != NULL;
    if (h->n_virtual == 0) {
        return EW_OK;
    }
    if (prefix == (h->prompt != NULL)) {
        return ew_fail(reterr, EW_EINVAL, "%u virtual positions need either a prompt or keys and values", h->n_virtual);
    }
    if (c->encoder) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s is an encoder: it has no virtual positions", c->name);
    }
    if (s->segment.a < s->segment.b || (!prefix && (s->opt.first_layer != 0 || s->opt.last_layer != c->L))) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "virtual positions go through all layers in one place, this session has them in several. HINT: "
                       "split inference runs without prompt and prefix adapters");
    }
    return EW_OK;
}

/* ---- sizing ---- */

uint32_t ew_session_default_ctx(const ew_model *m)
{
    return EW_MIN(m->cfg.n_ctx_train, N_CTX_DEFAULT_MAX);
}

static size_t scratch_bytes(const ew_model *m, size_t T)
{
    size_t max = m->output.rows > 0 ? ew_matmul_scratch(&m->output, T) : 0;
    for (uint32_t i = 0; i < m->cfg.L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            const ew_mat *w = &m->layer[i].linear[l];
            size_t n = w->rows > 0 ? ew_matmul_scratch(w, T) : 0;
            max = EW_MAX(max, n);
        }
    }
    return max;
}

static void take_kv(ew_session *s, ew_arena *a)
{
    const ew_model_config *c = &s->m->cfg;
    EW_ASSERT(ew_dtype_row_bytes(s->kv_dtype, (size_t)c->K * c->D, &s->kv_row_bytes));
    size_t rows = (size_t)(s->opt.last_layer - s->opt.first_layer) * 2 * ew__session_rows(s); /* < 2^9 * 2 * 2^21 */
    s->kv = ew_arena_take(a, rows, s->kv_row_bytes);
}

static void take_work(ew_session *s, ew_arena *a)
{
    const ew_model_config *c = &s->m->cfg;
    layer_work *w = &s->w;
    size_t T = s->opt.n_batch;
    size_t q = (size_t)c->H * c->D * sizeof(float);
    size_t kv = (size_t)c->K * c->D * sizeof(float);
    w->x = ew_arena_take(a, T, c->C * sizeof(float));
    w->xn = ew_arena_take(a, T, c->C * sizeof(float));
    w->o = ew_arena_take(a, T, c->C * sizeof(float));
    w->q = ew_arena_take(a, T, q);
    w->att = ew_arena_take(a, T, q);
    w->k = ew_arena_take(a, T, kv);
    w->v = ew_arena_take(a, T, kv);
    w->gate = ew_arena_take(a, T, c->ungated ? 0 : c->F * sizeof(float));
    w->up = ew_arena_take(a, T, c->F * sizeof(float));
    w->lowrank = ew_arena_take(a, T, s->max_rank * sizeof(float));
    w->logits = ew_arena_take(a, EW_MIN(HEAD_ROWS, T), c->V * sizeof(float));
    w->scratch = ew_arena_take(a, scratch_bytes(s->m, T), 1);
    for (size_t i = 0; i < EW_COUNT(s->rope); i++) {
        size_t half = s->rope[i].n_rot / 2;
        s->rope[i].table = ew_arena_take(a, ew__session_rows(s) * half, 2 * sizeof(float));
    }
    ew__vote_take(s, a);
}

static void prepare_rope(ew_session *s)
{
    const ew_model *m = s->m;
    const ew_model_config *c = &m->cfg;
    const size_t rows = ew__session_rows(s);
    bool beyond = m->rope_long != NULL && rows > c->rope_orig_ctx;
    s->rope[0] = (ew_rope_opt){.kind = c->rope_kind,
                               .n_rot = c->n_rot,
                               .theta_base = c->rope_theta,
                               .mscale = c->rope_mscale,
                               .freq_factors = beyond ? m->rope_long : m->rope_factors,
                               .n_table = rows};
    if (c->rope_theta_local != 0) {
        s->rope[1] =
            (ew_rope_opt){.kind = c->rope_kind, .n_rot = c->n_rot, .theta_base = c->rope_theta_local, .n_table = rows};
    }
}

/* The type of the cache, and whether the model allows it. */
static ew_status prepare_kv(ew_session *s, ew_error *reterr)
{
    static const ew_dtype types[] = {
        [EW_KV_F16] = EW_DTYPE_F16, [EW_KV_F32] = EW_DTYPE_F32, [EW_KV_Q8_0] = EW_DTYPE_Q8_0};
    if ((unsigned)s->opt.kv_type >= EW_COUNT(types)) {
        return ew_fail(reterr, EW_EINVAL, "there is no cache type %d", (int)s->opt.kv_type);
    }
    s->kv_dtype = types[s->opt.kv_type];
    if (s->kv_dtype == EW_DTYPE_Q8_0 && s->m->cfg.D % 32 != 0) {
        return ew_fail(reterr, EW_EINVAL,
                       "a cache in Q8_0 needs heads of a multiple of 32, this model's have %u. HINT: use f16",
                       s->m->cfg.D);
    }
    return EW_OK;
}

/* Room for tokens and virtual positions. */
static ew_status prepare_ctx(ew_session *s, ew_error *reterr)
{
    const ew_model_config *c = &s->m->cfg;
    ew_session_opt *o = &s->opt;
    if (s->max_virtual > EW_LIMIT_CONTEXT_TOK) {
        return ew_fail(reterr, EW_EINVAL, "%u virtual positions are over the limit of %u", s->max_virtual,
                       EW_LIMIT_CONTEXT_TOK);
    }
    if (o->n_ctx == 0) {
        o->n_ctx = ew_session_default_ctx(s->m);
        o->n_ctx = c->n_pos > s->max_virtual ? EW_MIN(o->n_ctx, c->n_pos - s->max_virtual) : o->n_ctx;
    }
    if (o->n_ctx > EW_LIMIT_CONTEXT_TOK) {
        return ew_fail(reterr, EW_EINVAL, "a context of %u tokens is over the limit of %u", o->n_ctx,
                       EW_LIMIT_CONTEXT_TOK);
    }
    if (c->n_pos != 0 && ew__session_rows(s) > c->n_pos) {
        return ew_fail(reterr, EW_EINVAL, "a context of %zu tokens is over the %u positions that the model has learned",
                       ew__session_rows(s), c->n_pos);
    }
    return EW_OK;
}

/* Fills the defaults of opt and checks it against the model. */
static ew_status session_prepare(ew_session *s, const ew_model *m, const ew_session_opt *opt, ew_error *reterr)
{
    static const ew_session_opt none = {0};
    const ew_model_config *c = &m->cfg;
    s->m = (ew_model *)(uintptr_t)m;
    s->opt = opt != NULL ? *opt : none;
    ew_session_opt *o = &s->opt;
    s->max_virtual = EW_MAX(o->max_virtual, o->hooks != NULL ? o->hooks->n_virtual : 0);
    EW_TRY(prepare_ctx(s, reterr));
    o->n_batch = EW_MIN(o->n_batch != 0 && !c->encoder ? o->n_batch : EW_SESSION_BATCH_DEFAULT, o->n_ctx);
    if (c->encoder) {
        o->n_batch = o->n_ctx; /* every token sees all others */
    }
    if (o->first_layer == 0 && o->last_layer == 0) {
        o->last_layer = c->L;
    }
    if (o->first_layer >= o->last_layer || o->last_layer > c->L) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not in a model of %u layers", o->first_layer,
                       o->last_layer, c->L);
    }
    if (o->exec.kern == NULL) {
        o->exec.kern = ew_kern_get(NULL);
    }
    if (o->hooks != NULL) {
        EW_TRY(check_hooks(s, o->hooks, reterr));
        s->hooks = *o->hooks;
    }
    s->max_rank = EW_MAX(o->max_rank, ew_hooks_max_rank(o->hooks, c->L));
    o->max_exits = EW_MAX(o->max_exits, s->hooks.n_exits);
    EW_TRY(ew__vote_check(s, o->hooks, reterr));
    prepare_rope(s);
    return prepare_kv(s, reterr);
}

/* Bytes of kv and of everything else under s->opt. */
static void session_size(ew_session *s, uint64_t *ret_kv, uint64_t *ret_work)
{
    ew_arena a;
    ew_arena_init_dry(&a);
    take_kv(s, &a);
    *ret_kv = a.used;
    take_work(s, &a);
    *ret_work = a.used - *ret_kv + sizeof(*s);
}

ew_status ew_session_memory(const ew_model *m, const ew_session_opt *opt, ew_memory_plan *ret_plan, ew_error *reterr)
{
    ew_session s = {0};
    EW_TRY(session_prepare(&s, m, opt, reterr));
    ret_plan->weights_bytes = m->weights_bytes;
    ret_plan->copied_bytes = m->copied_bytes;
    session_size(&s, &ret_plan->kv_bytes, &ret_plan->workspace_bytes);
    return EW_OK;
}

ew_status ew_model_memory(const ew_model *m, uint32_t n_ctx, uint32_t n_batch, ew_memory_plan *ret_plan,
                          ew_error *reterr)
{
    ew_session_opt opt = {.n_ctx = n_ctx, .n_batch = n_batch};
    return ew_session_memory(m, &opt, ret_plan, reterr);
}

/* The largest context whose session needs at most `limit` bytes; 0 = none. */
static uint32_t largest_ctx(const ew_session *s, uint64_t limit)
{
    uint32_t lo = 0;
    uint32_t hi = s->opt.n_ctx;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        ew_session t = *s;
        uint64_t kv;
        uint64_t work;
        t.opt.n_ctx = mid;
        t.opt.n_batch = EW_MIN(t.opt.n_batch, mid);
        session_size(&t, &kv, &work);
        if (kv + work <= limit) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    return lo;
}

ew_status ew_session_largest_ctx(const ew_model *m, const ew_session_opt *opt, uint64_t limit_bytes,
                                 uint32_t *ret_n_ctx, ew_error *reterr)
{
    ew_session s = {0};
    EW_TRY(session_prepare(&s, m, opt, reterr));
    *ret_n_ctx = largest_ctx(&s, limit_bytes);
    return EW_OK;
}

static ew_status check_limit(const ew_session *s, uint64_t need, ew_error *reterr)
{
    uint64_t limit = s->opt.memory_limit_bytes;
    if (limit == 0 || need <= limit) {
        return EW_OK;
    }
    char a[32];
    char b[32];
    uint32_t fits = largest_ctx(s, limit);
    if (fits == 0) {
        return ew_fail(reterr, EW_ELIMIT,
                       "the model's working memory does not fit into %s, not even with a context of one token",
                       ew_str_bytes(a, sizeof(a), limit));
    }
    return ew_fail(reterr, EW_ELIMIT,
                   "a context of %u tokens needs %s of memory, %s are allowed. HINT: a context of %u tokens fits",
                   s->opt.n_ctx, ew_str_bytes(a, sizeof(a), need), ew_str_bytes(b, sizeof(b), limit), fits);
}

ew_status ew_session_new(const ew_model *m, const ew_session_opt *opt, ew_session **ret_session, ew_error *reterr)
{
    ew_session plan = {0};
    EW_TRY(session_prepare(&plan, m, opt, reterr));
    uint64_t kv;
    uint64_t work;
    session_size(&plan, &kv, &work);
    EW_TRY(check_limit(&plan, kv + work, reterr));
    ew_session *s = ew_kern_reserve(ew_pool_threads(plan.opt.exec.pool)) ? ew_calloc(1, sizeof(*s)) : NULL;
    if (s == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "not enough memory for a session");
    }
    *s = plan;
    s->m = ew_model_ref(m);
    ew_status st = ew_arena_init(&s->arena, (size_t)(kv + work), reterr);
    if (st != EW_OK) {
        ew_session_free(&s);
        return ew_wrap(reterr, st, "a context of %u tokens", plan.opt.n_ctx);
    }
    take_kv(s, &s->arena);
    take_work(s, &s->arena);
    EW_ASSERT(!s->arena.overflow);
    for (size_t i = 0; i < EW_COUNT(s->rope) && s->rope[i].n_rot > 0; i++) {
        ew_rope_opt fill = s->rope[i];
        fill.table = NULL;
        ew_rope_table(&fill, ew__session_rows(s), (float *)(uintptr_t)s->rope[i].table);
    }
    *ret_session = s;
    return EW_OK;
}

void ew_session_free(ew_session **ps)
{
    ew_session *s = *ps;
    *ps = NULL;
    if (s != NULL) {
        ew_arena_release(&s->arena);
        ew_model_unref(&s->m);
        ew_free(s);
    }
}

/* ---- accessors ---- */

const ew_model *ew_session_model(const ew_session *s)
{
    return s->m;
}

uint32_t ew_session_n_ctx(const ew_session *s)
{
    return s->opt.n_ctx;
}

uint32_t ew_session_n_batch(const ew_session *s)
{
    return s->opt.n_batch;
}

uint64_t ew_session_bytes(const ew_session *s)
{
    return s->arena.used + sizeof(*s);
}

uint32_t ew_session_pos(const ew_session *s)
{
    return s->pos;
}

void ew_session_rewind(ew_session *s, uint32_t pos)
{
    EW_ASSERT(pos <= s->pos);
    s->pos = pos;
}

void ew_session_reset(ew_session *s)
{
    s->pos = 0;
    s->virtual_ready = false; /* their values may have changed */
}

/* The stream inside a part that runs elsewhere is not seen here. */
static ew_status check_exits_here(const ew_hooks *hooks, uint32_t a, uint32_t b, ew_error *reterr)
{
    for (uint32_t i = 0; hooks != NULL && i < hooks->n_exits; i++) {
        const uint32_t layer = hooks->exits[i].layer;
        if (a < b && layer > a && layer <= b) {
            return ew_fail(reterr, EW_EINVAL,
                           "the early exit behind layer %u lies within layers [%u, %u), which run elsewhere", layer, a,
                           b);
        }
    }
    return EW_OK;
}

ew_status ew_session_set_hooks(ew_session *s, const ew_hooks *hooks, ew_error *reterr)
{
    uint32_t rank = ew_hooks_max_rank(hooks, s->m->cfg.L);
    if (rank > s->max_rank) {
        return ew_fail(reterr, EW_EINVAL, "an adapter of rank %u does not fit a session made for rank %u", rank,
                       s->max_rank);
    }
    EW_TRY(ew__vote_check(s, hooks, reterr));
    EW_TRY(check_exits_here(hooks, s->segment.a, s->segment.b, reterr));
    if (hooks != NULL && hooks->n_virtual > s->max_virtual) {
        return ew_fail(reterr, EW_EINVAL, "an adapter of %u virtual positions does not fit a session made for %u",
                       hooks->n_virtual, s->max_virtual);
    }
    if (hooks != NULL) {
        EW_TRY(check_hooks(s, hooks, reterr));
    }
    s->hooks = hooks != NULL ? *hooks : (ew_hooks){0};
    ew_session_reset(s);
    return EW_OK;
}

ew_status ew_session_set_segment(ew_session *s, uint32_t a, uint32_t b, ew_segment_fn fn, void *ctx, ew_error *reterr)
{
    if (a > b || b > s->m->cfg.L || (a < b && fn == NULL)) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not a part of a model with %u layers", a, b,
                       s->m->cfg.L);
    }
    EW_TRY(check_exits_here(&s->hooks, a, b, reterr));
    if (a < b && s->hooks.n_virtual > 0) {
        return ew_fail(
            reterr, EW_EUNSUPPORTED,
            "virtual positions go through all layers in one place. HINT: split inference runs without prompt "
            "and prefix adapters");
    }
    s->segment.a = a;
    s->segment.b = b;
    s->segment.fn = fn;
    s->segment.ctx = ctx;
    return EW_OK;
}

/* ---- segments ---- */

/* Where a token's position stands in the cache and for the model. */
static uint32_t place(const ew_session *s, size_t pos)
{
    return (uint32_t)pos + s->hooks.n_virtual;
}

/* Virtual positions into the cache, once until the next reset. */
static void prepare_virtual(ew_session *s)
{
    if (s->virtual_ready) {
        return;
    }
    s->virtual_ready = true;
    if (s->hooks.n_virtual > 0 && s->hooks.prompt == NULL) {
        ew__store_prefix(s);
        return;
    }
    for (uint32_t done = 0; done < s->hooks.n_virtual;) {
        const uint32_t T = EW_MIN(s->hooks.n_virtual - done, s->opt.n_batch);
        ew__prompt_chunk(s, T, done, s->w.x);
        ew__run_chunk(s, 0, s->m->cfg.L, s->w.x, T, T, done);
        done += T;
    }
}

static ew_status check_ids(const ew_session *s, const int32_t *ids, size_t n, ew_error *reterr)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->m->cfg.V) {
            return ew_fail(reterr, EW_EINVAL, "token id %d is outside the vocabulary of %u", ids[i], s->m->cfg.V);
        }
    }
    return EW_OK;
}

static ew_status check_room(const ew_session *s, size_t pos, size_t n, ew_error *reterr)
{
    if (n > s->opt.n_ctx || pos > s->opt.n_ctx - n) {
        return ew_fail(reterr, EW_ELIMIT, "%zu tokens at position %zu do not fit the context of %u", n, pos,
                       s->opt.n_ctx);
    }
    return EW_OK;
}

ew_status ew_session_embed(ew_session *s, const int32_t *ids, size_t n, uint32_t pos, float *ret_x, ew_error *reterr)
{
    EW_TRY(check_ids(s, ids, n, reterr));
    EW_TRY(check_room(s, pos, n, reterr));
    for (size_t done = 0; done < n;) {
        size_t T = EW_MIN(n - done, s->opt.n_batch);
        ew__embed_chunk(s, ids + done, T, place(s, pos + done), ret_x + done * s->m->cfg.C);
        done += T;
    }
    return EW_OK;
}

ew_status ew_session_run(ew_session *s, uint32_t a, uint32_t b, float *x, size_t n, uint32_t pos, ew_error *reterr)
{
    if (a > b || a < s->opt.first_layer || b > s->opt.last_layer) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not among [%u, %u), which this session has", a, b,
                       s->opt.first_layer, s->opt.last_layer);
    }
    EW_TRY(check_room(s, pos, n, reterr));
    prepare_virtual(s);
    for (size_t done = 0; done < n;) {
        size_t T = EW_MIN(n - done, s->opt.n_batch);
        ew__run_chunk(s, a, b, x + done * s->m->cfg.C, T, 0, place(s, pos + done));
        done += T;
    }
    return EW_OK;
}

static ew_status refuse_encoder(const ew_session *s, ew_error *reterr)
{
    return s->m->cfg.encoder
               ? ew_fail(reterr, EW_EINVAL, "%s is an encoder: it has hidden states and embeddings, no next token",
                         s->m->cfg.name)
               : EW_OK;
}

ew_status ew_session_head_all(ew_session *s, const float *x, size_t n, float *ret_logits, ew_error *reterr)
{
    EW_TRY(refuse_encoder(s, reterr));
    const ew_model_config *c = &s->m->cfg;
    for (size_t done = 0; done < n;) {
        size_t T = EW_MIN(n - done, s->opt.n_batch);
        ew__head_chunk(s, x + done * c->C, T, ret_logits + done * c->V);
        done += T;
    }
    return EW_OK;
}

ew_status ew_session_head(ew_session *s, const float *x, float *ret_logits, ew_error *reterr)
{
    return ew_session_head_all(s, x, 1, ret_logits, reterr);
}

/* ---- the whole model ---- */

static ew_status check_all_layers(const ew_session *s, ew_error *reterr)
{
    if (s->opt.first_layer != 0 || s->opt.last_layer != s->m->cfg.L) {
        return ew_fail(reterr, EW_EINVAL, "this session has layers [%u, %u) only; use ew_session_run",
                       s->opt.first_layer, s->opt.last_layer);
    }
    return EW_OK;
}

static ew_status check_eval(const ew_session *s, const int32_t *ids, size_t n, ew_error *reterr)
{
    EW_TRY(refuse_encoder(s, reterr));
    EW_TRY(check_all_layers(s, reterr));
    if (n == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is no token to evaluate");
    }
    EW_TRY(check_ids(s, ids, n, reterr));
    return check_room(s, s->pos, n, reterr);
}

/* The next chunk of at most `rest` tokens: their hidden states are in s->w.x, those of the first `skip` (of rest) need not be. The
 * position moves on by *ret_T. */
static ew_status eval_chunk(ew_session *s, const int32_t *ids, size_t rest, size_t skip, size_t *ret_T,
                            ew_error *reterr)
{
    size_t T = EW_MIN(rest, s->opt.n_batch);
    size_t keep = EW_MIN(skip, T);
    uint32_t L = s->m->cfg.L;
    prepare_virtual(s);
    ew__embed_chunk(s, ids, T, place(s, s->pos), s->w.x);
    if (s->segment.a == s->segment.b) {
        ew__run_chunk(s, 0, L, s->w.x, T, keep, place(s, s->pos));
    } else { /* no virtual positions */
        ew__run_chunk(s, 0, s->segment.a, s->w.x, T, keep, s->pos);
        EW_TRY(s->segment.fn(s->segment.ctx, s->w.x, T, s->pos, reterr));
        ew__run_chunk(s, s->segment.b, L, s->w.x, T, keep, s->pos);
    }
    s->pos += (uint32_t)T;
    *ret_T = T;
    return EW_OK;
}

ew_status ew_session_eval(ew_session *s, const int32_t *ids, size_t n, float *ret_logits, ew_error *reterr)
{
    EW_TRY(check_eval(s, ids, n, reterr));
    size_t T = 0;
    for (size_t done = 0; done < n; done += T) {
        size_t skip = n - done - (ret_logits != NULL ? 1 : 0);
        EW_TRY(eval_chunk(s, ids + done, n - done, skip, &T, reterr));
    }
    if (ret_logits != NULL) {
        ew__vote_chunk(s, T - 1, 1, ret_logits);
    }
    return EW_OK;
}

ew_status ew_session_eval_all(ew_session *s, const int32_t *ids, size_t n, float *ret_logits, ew_error *reterr)
{
    EW_TRY(check_eval(s, ids, n, reterr));
    size_t T;
    for (size_t done = 0; done < n; done += T) {
        EW_TRY(eval_chunk(s, ids + done, n - done, 0, &T, reterr));
        ew__vote_chunk(s, 0, T, ret_logits + done * s->m->cfg.V);
    }
    return EW_OK;
}

ew_status ew_session_nll(ew_session *s, const int32_t *ids, size_t n, size_t n_prompt, double *ret_nll, size_t *ret_n,
                         ew_error *reterr)
{
    if (n_prompt == 0 || n_prompt >= n) {
        return ew_fail(reterr, EW_EINVAL, "an answer needs at least one token after at least one token of prompt");
    }
    ew_session_reset(s);
    EW_TRY(check_ids(s, ids + n - 1, 1, reterr));
    EW_TRY(check_eval(s, ids, n - 1, reterr));
    const ew_model_config *c = &s->m->cfg;
    size_t rows_max = EW_MIN(HEAD_ROWS, s->opt.n_batch);
    double sum = 0;
    size_t T;
    for (size_t done = 0; done < n - 1; done += T) {
        size_t first = n_prompt - 1 > done ? n_prompt - 1 - done : 0; /* row t predicts token done + t + 1 */
        EW_TRY(eval_chunk(s, ids + done, n - 1 - done, first, &T, reterr));
        for (size_t t = first; t < T;) {
            size_t rows = EW_MIN(T - t, rows_max);
            ew__vote_chunk(s, t, rows, s->w.logits);
            for (size_t r = 0; r < rows; r++, t++) {
                sum -= ew_log_prob(s->w.logits + r * c->V, c->V, ids[done + t + 1]);
            }
        }
    }
    *ret_nll = sum;
    *ret_n = n - n_prompt;
    return EW_OK;
}

/* ---- encoders ---- */

static void pool(const float *x, size_t n, size_t C, ew_pooling pooling, float *ret)
{
    if (pooling != EW_POOLING_MEAN) {
        memcpy(ret, x + (pooling == EW_POOLING_LAST ? (n - 1) * C : 0), C * sizeof(float));
        return;
    }
    for (size_t i = 0; i < C; i++) {
        double sum = 0;
        for (size_t t = 0; t < n; t++) {
            sum += (double)x[t * C + i];
        }
        ret[i] = (float)(sum / (double)n);
    }
}

ew_status ew_session_encode(ew_session *s, const int32_t *ids, size_t n, ew_pooling pooling, float *ret,
                            ew_error *reterr)
{
    const ew_model_config *c = &s->m->cfg;
    if (!c->encoder) {
        return ew_fail(reterr, EW_EINVAL, "%s is no encoder", c->name);
    }
    EW_TRY(check_all_layers(s, reterr));
    if (n == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is no token to encode");
    }
    EW_TRY(check_ids(s, ids, n, reterr));
    EW_TRY(check_room(s, 0, n, reterr));
    ew__embed_chunk(s, ids, n, 0, s->w.x);
    ew__run_chunk(s, 0, c->L, s->w.x, n, 0, 0);
    if (pooling == EW_POOLING_NONE) {
        memcpy(ret, s->w.x, n * c->C * sizeof(float));
    } else {
        pool(s->w.x, n, c->C, pooling, ret);
    }
    return EW_OK;
}

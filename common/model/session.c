/* Sessions: sizing by dry run, the decoder block, chunked evaluation.
 * Memory: one arena per session, taken whole in new; evaluation only writes into it. */
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/model_int.h"
#include "model/sampler.h"
#include "model/session.h"

#define N_CTX_DEFAULT_MAX 4096u
#define HEAD_ROWS 8u /* rows of logits that nll keeps at once */

/* Workspace of layer evaluation; arrays of n_batch rows. */
typedef struct layer_work {
    float *x;       /* [T,C] hidden states of eval */
    float *xn;      /* [T,C] normalised input */
    float *q;       /* [T,H*D] */
    float *k, *v;   /* [T,K*D] */
    float *att;     /* [T,H*D] */
    float *o;       /* [T,C] output of O and of Down */
    float *gate;    /* [T,F] */
    float *up;      /* [T,F] */
    float *lowrank; /* [T,max_rank] */
    float *logits;  /* [HEAD_ROWS,V] */
    void *scratch;  /* for products */
} layer_work;

struct ew_session {
    ew_model *m;        /* a reference */
    ew_session_opt opt; /* defaults filled in */
    ew_hooks hooks;     /* copy of what was given */
    struct {
        uint32_t a, b;    /* layers [a, b) run by fn; a == b: none do */
        ew_segment_fn fn; /* */
        void *ctx;        /* */
    } segment;
    ew_rope_opt rope;    /* with table and factors */
    uint32_t pos;        /* tokens appended by eval */
    uint32_t max_rank;   /* of low-rank workspace */
    size_t kv_row_bytes; /* of one position of one layer's K or V */
    unsigned char *kv;   /* [last-first][K, V][n_ctx] rows */
    layer_work w;        /* */
    ew_arena arena;      /* owns kv and workspace */
};

uint32_t ew_hooks_max_rank(const ew_hooks *hooks, uint32_t n_layers)
{
    uint32_t max = 0;
    if (hooks != NULL && hooks->lora != NULL) {
        for (size_t i = 0; i < (size_t)n_layers * EW_LINEAR_COUNT; i++) {
            max = EW_MAX(max, hooks->lora[i].rank);
        }
    }
    return max;
}

/* ---- sizing ---- */

static size_t scratch_bytes(const ew_model *m, size_t T)
{
    size_t max = ew_matmul_scratch(&m->output, T);
    for (uint32_t i = 0; i < m->cfg.L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            size_t n = ew_matmul_scratch(&m->layer[i].linear[l], T);
            max = EW_MAX(max, n);
        }
    }
    return max;
}

static void take_kv(ew_session *s, ew_arena *a)
{
    const ew_model_config *c = &s->m->cfg;
    s->kv_row_bytes = (size_t)c->K * c->D * (s->opt.kv_f32 ? sizeof(float) : sizeof(uint16_t));
    size_t rows = (size_t)(s->opt.last_layer - s->opt.first_layer) * 2 * s->opt.n_ctx; /* < 2^9 * 2 * 2^20 */
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
    w->gate = ew_arena_take(a, T, c->F * sizeof(float));
    w->up = ew_arena_take(a, T, c->F * sizeof(float));
    w->lowrank = ew_arena_take(a, T, s->max_rank * sizeof(float));
    w->logits = ew_arena_take(a, EW_MIN(HEAD_ROWS, T), c->V * sizeof(float));
    w->scratch = ew_arena_take(a, scratch_bytes(s->m, T), 1);
    s->rope.table = ew_arena_take(a, (size_t)s->opt.n_ctx * (c->n_rot / 2), 2 * sizeof(float));
}

/* Fills the defaults of opt and checks it against the model. */
static ew_status session_prepare(ew_session *s, const ew_model *m, const ew_session_opt *opt, ew_error *reterr)
{
    static const ew_session_opt none = {0};
    const ew_model_config *c = &m->cfg;
    s->m = (ew_model *)(uintptr_t)m;
    s->opt = opt != NULL ? *opt : none;
    ew_session_opt *o = &s->opt;
    o->n_ctx = o->n_ctx != 0 ? o->n_ctx : EW_MIN(c->n_ctx_train, N_CTX_DEFAULT_MAX);
    if (o->n_ctx > EW_LIMIT_CONTEXT_TOK) {
        return ew_fail(reterr, EW_EINVAL, "a context of %u tokens is over the limit of %u", o->n_ctx,
                       EW_LIMIT_CONTEXT_TOK);
    }
    o->n_batch = EW_MIN(o->n_batch != 0 ? o->n_batch : EW_SESSION_BATCH_DEFAULT, o->n_ctx);
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
        s->hooks = *o->hooks;
    }
    s->max_rank = EW_MAX(o->max_rank, ew_hooks_max_rank(o->hooks, c->L));
    s->rope = (ew_rope_opt){.kind = c->rope_kind,
                            .n_rot = c->n_rot,
                            .theta_base = c->rope_theta,
                            .freq_factors = m->rope_factors,
                            .n_table = o->n_ctx};
    return EW_OK;
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
    ew_session *s = ew_calloc(1, sizeof(*s));
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
    ew_rope_opt fill = s->rope;
    fill.table = NULL;
    ew_rope_table(&fill, s->opt.n_ctx, (float *)(uintptr_t)s->rope.table);
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
}

ew_status ew_session_set_hooks(ew_session *s, const ew_hooks *hooks, ew_error *reterr)
{
    uint32_t rank = ew_hooks_max_rank(hooks, s->m->cfg.L);
    if (rank > s->max_rank) {
        return ew_fail(reterr, EW_EINVAL, "an adapter of rank %u does not fit a session made for rank %u", rank,
                       s->max_rank);
    }
    s->hooks = hooks != NULL ? *hooks : (ew_hooks){0};
    s->pos = 0;
    return EW_OK;
}

ew_status ew_session_set_segment(ew_session *s, uint32_t a, uint32_t b, ew_segment_fn fn, void *ctx, ew_error *reterr)
{
    if (a > b || b > s->m->cfg.L || (a < b && fn == NULL)) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not a part of a model with %u layers", a, b,
                       s->m->cfg.L);
    }
    s->segment.a = a;
    s->segment.b = b;
    s->segment.fn = fn;
    s->segment.ctx = ctx;
    return EW_OK;
}

/* ---- the block ---- */

/* y += scale * (x A^T) B^T for the pair on this linear, if there is one. x:[T,C_in], y:[T,F_out]. */
static void add_lora(ew_session *s, uint32_t layer, ew_linear l, const float *x, size_t T, float *y)
{
    if (s->hooks.lora == NULL) {
        return;
    }
    const ew_lora_pair *p = &s->hooks.lora[(size_t)layer * EW_LINEAR_COUNT + (size_t)l];
    if (p->rank == 0) {
        return;
    }
    const ew_mat *w = &s->m->layer[layer].linear[l];
    size_t R = p->rank;
    ew_gemm(&s->opt.exec, &(ew_gemm_args){.M = T,
                                          .N = R,
                                          .K = w->cols,
                                          .alpha = 1,
                                          .a = x,
                                          .a_row = w->cols,
                                          .a_col = 1,
                                          .b = p->a,
                                          .b_row = 1,
                                          .b_col = w->cols,
                                          .c = s->w.lowrank,
                                          .c_row = R});
    ew_gemm(&s->opt.exec, &(ew_gemm_args){.M = T,
                                          .N = w->rows,
                                          .K = R,
                                          .alpha = p->scale,
                                          .a = s->w.lowrank,
                                          .a_row = R,
                                          .a_col = 1,
                                          .b = p->b,
                                          .b_row = 1,
                                          .b_col = R,
                                          .c = y,
                                          .c_row = w->rows,
                                          .accumulate = true});
}

/* Several linears of a layer on the same input. */
static void linears(ew_session *s, uint32_t layer, const ew_linear *l, size_t n, const float *x, size_t T,
                    float *const *y)
{
    const ew_mat *w[3];
    for (size_t i = 0; i < n; i++) {
        w[i] = &s->m->layer[layer].linear[l[i]];
    }
    ew_matmul_multi(&s->opt.exec, w, n, x, T, y, s->w.scratch);
    for (size_t i = 0; i < n; i++) {
        add_lora(s, layer, l[i], x, T, y[i]);
    }
}

/* Start of the cache of a layer: which 0 = K, 1 = V. */
static unsigned char *kv_of(const ew_session *s, uint32_t layer, unsigned which)
{
    size_t i = (size_t)(layer - s->opt.first_layer) * 2 + which;
    return s->kv + i * s->opt.n_ctx * s->kv_row_bytes;
}

/* w->o = O attention(rope(Q xn), rope(K xn), V xn); writes the cache at pos. */
static void attention(ew_session *s, uint32_t layer, size_t T, uint32_t pos)
{
    static const ew_linear qkv[] = {EW_LINEAR_Q, EW_LINEAR_K, EW_LINEAR_V};
    static const ew_linear o[] = {EW_LINEAR_O};
    const ew_model_config *c = &s->m->cfg;
    const ew_exec *e = &s->opt.exec;
    layer_work *w = &s->w;
    ew_dtype kv_dtype = s->opt.kv_f32 ? EW_DTYPE_F32 : EW_DTYPE_F16;
    unsigned char *k = kv_of(s, layer, 0);
    unsigned char *v = kv_of(s, layer, 1);
    size_t kv_cols = (size_t)c->K * c->D;

    linears(s, layer, qkv, 3, w->xn, T, (float *const[]){w->q, w->k, w->v});
    ew_rope(e, &s->rope, w->q, T, c->H, c->D, NULL, pos, false);
    ew_rope(e, &s->rope, w->k, T, c->K, c->D, NULL, pos, false);
    ew_store_rows(e, kv_dtype, w->k, T, kv_cols, k + pos * s->kv_row_bytes, s->kv_row_bytes);
    ew_store_rows(e, kv_dtype, w->v, T, kv_cols, v + pos * s->kv_row_bytes, s->kv_row_bytes);
    ew_attention(e, &(ew_attention_args){.q = w->q,
                                         .k = k,
                                         .v = v,
                                         .kv_dtype = kv_dtype,
                                         .kv_row = kv_cols,
                                         .T = T,
                                         .pos0 = pos,
                                         .H = c->H,
                                         .K = c->K,
                                         .D = c->D,
                                         .scale = 1.0F / sqrtf((float)c->D),
                                         .out = w->att});
    linears(s, layer, o, 1, w->att, T, &w->o);
}

/* w->o = Down(silu(Gate xn) * Up xn). */
static void feed_forward(ew_session *s, uint32_t layer, size_t T)
{
    static const ew_linear gate_up[] = {EW_LINEAR_GATE, EW_LINEAR_UP};
    static const ew_linear down[] = {EW_LINEAR_DOWN};
    layer_work *w = &s->w;
    linears(s, layer, gate_up, 2, w->xn, T, (float *const[]){w->gate, w->up});
    ew_swiglu(&s->opt.exec, w->gate, w->up, T * s->m->cfg.F, w->gate);
    linears(s, layer, down, 1, w->gate, T, &w->o);
}

/* Layers [a,b) on x[T,C] in place, T <= n_batch. */
static void run_chunk(ew_session *s, uint32_t a, uint32_t b, float *x, size_t T, uint32_t pos)
{
    const ew_exec *e = &s->opt.exec;
    size_t C = s->m->cfg.C;
    float eps = s->m->cfg.norm_eps;
    for (uint32_t i = a; i < b; i++) {
        ew_rmsnorm(e, x, s->m->layer[i].attn_norm, T, C, eps, s->w.xn, NULL);
        attention(s, i, T, pos);
        ew_vec_add(e, x, s->w.o, T * C);
        ew_rmsnorm(e, x, s->m->layer[i].ffn_norm, T, C, eps, s->w.xn, NULL);
        feed_forward(s, i, T);
        ew_vec_add(e, x, s->w.o, T * C);
    }
}

/* Logits of n <= n_batch rows. */
static void head_chunk(ew_session *s, const float *x, size_t n, float *logits)
{
    const ew_model *m = s->m;
    ew_rmsnorm(&s->opt.exec, x, m->output_norm, n, m->cfg.C, m->cfg.norm_eps, s->w.xn, NULL);
    ew_matmul(&s->opt.exec, &m->output, s->w.xn, n, logits, s->w.scratch);
}

/* ---- segments ---- */

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

ew_status ew_session_embed(ew_session *s, const int32_t *ids, size_t n, float *ret_x, ew_error *reterr)
{
    EW_TRY(check_ids(s, ids, n, reterr));
    ew_embed(&s->opt.exec, &s->m->token_embd, ids, n, ret_x);
    return EW_OK;
}

ew_status ew_session_run(ew_session *s, uint32_t a, uint32_t b, float *x, size_t n, uint32_t pos, ew_error *reterr)
{
    if (a > b || a < s->opt.first_layer || b > s->opt.last_layer) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not among [%u, %u), which this session has", a, b,
                       s->opt.first_layer, s->opt.last_layer);
    }
    EW_TRY(check_room(s, pos, n, reterr));
    for (size_t done = 0; done < n;) {
        size_t T = EW_MIN(n - done, s->opt.n_batch);
        run_chunk(s, a, b, x + done * s->m->cfg.C, T, pos + (uint32_t)done);
        done += T;
    }
    return EW_OK;
}

ew_status ew_session_head_all(ew_session *s, const float *x, size_t n, float *ret_logits, ew_error *reterr)
{
    (void)reterr;
    const ew_model_config *c = &s->m->cfg;
    for (size_t done = 0; done < n;) {
        size_t T = EW_MIN(n - done, s->opt.n_batch);
        head_chunk(s, x + done * c->C, T, ret_logits + done * c->V);
        done += T;
    }
    return EW_OK;
}

ew_status ew_session_head(ew_session *s, const float *x, float *ret_logits, ew_error *reterr)
{
    return ew_session_head_all(s, x, 1, ret_logits, reterr);
}

/* ---- the whole model ---- */

static ew_status check_eval(const ew_session *s, const int32_t *ids, size_t n, ew_error *reterr)
{
    if (s->opt.first_layer != 0 || s->opt.last_layer != s->m->cfg.L) {
        return ew_fail(reterr, EW_EINVAL, "this session has layers [%u, %u) only; use ew_session_run",
                       s->opt.first_layer, s->opt.last_layer);
    }
    if (n == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is no token to evaluate");
    }
    EW_TRY(check_ids(s, ids, n, reterr));
    return check_room(s, s->pos, n, reterr);
}

/* The next chunk of at most `rest` tokens: their hidden states are in s->w.x, the position moves on by *ret_T. */
static ew_status eval_chunk(ew_session *s, const int32_t *ids, size_t rest, size_t *ret_T, ew_error *reterr)
{
    size_t T = EW_MIN(rest, s->opt.n_batch);
    uint32_t L = s->m->cfg.L;
    ew_embed(&s->opt.exec, &s->m->token_embd, ids, T, s->w.x);
    if (s->segment.a == s->segment.b) {
        run_chunk(s, 0, L, s->w.x, T, s->pos);
    } else {
        run_chunk(s, 0, s->segment.a, s->w.x, T, s->pos);
        EW_TRY(s->segment.fn(s->segment.ctx, s->w.x, T, s->pos, reterr));
        run_chunk(s, s->segment.b, L, s->w.x, T, s->pos);
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
        EW_TRY(eval_chunk(s, ids + done, n - done, &T, reterr));
    }
    if (ret_logits != NULL) {
        head_chunk(s, s->w.x + (T - 1) * s->m->cfg.C, 1, ret_logits);
    }
    return EW_OK;
}

ew_status ew_session_eval_all(ew_session *s, const int32_t *ids, size_t n, float *ret_logits, ew_error *reterr)
{
    EW_TRY(check_eval(s, ids, n, reterr));
    size_t T;
    for (size_t done = 0; done < n; done += T) {
        EW_TRY(eval_chunk(s, ids + done, n - done, &T, reterr));
        head_chunk(s, s->w.x, T, ret_logits + done * s->m->cfg.V);
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
        EW_TRY(eval_chunk(s, ids + done, n - 1 - done, &T, reterr));
        size_t first = n_prompt - 1 > done ? n_prompt - 1 - done : 0; /* row t predicts token done + t + 1 */
        for (size_t t = first; t < T;) {
            size_t rows = EW_MIN(T - t, rows_max);
            head_chunk(s, s->w.x + t * c->C, rows, s->w.logits);
            for (size_t r = 0; r < rows; r++, t++) {
                sum -= ew_log_prob(s->w.logits + r * c->V, c->V, ids[done + t + 1]);
            }
        }
    }
    *ret_nll = sum;
    *ret_n = n - n_prompt;
    return EW_OK;
}

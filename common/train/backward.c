/* Buffers and the block: norms, attention and feed-forward in the forms of model.h, forward and backward. */
#include "train/backward.h"

#include <math.h>
#include <string.h>

#include "train/backward_int.h"

#define ATTENTION 0
#define FFN 1

ew_status ew_train_supported(const ew_model_config *cfg, ew_error *reterr)
{
    return ew_model_check_trainable(cfg, reterr);
}

ew_train_needs ew_train_needs_of(const ew_adapter_opt *opt, uint32_t n_ctx)
{
    return (ew_train_needs){.n_ctx = n_ctx,
                            .rank = opt->kind == EW_ADAPTER_LORA ? opt->rank : 0,
                            .width = opt->kind == EW_ADAPTER_BOTTLENECK ? opt->width : 0,
                            .scales = opt->kind == EW_ADAPTER_IA3 || opt->dora,
                            .dropout = opt->dropout > 0};
}

/* ---- buffers ---- */

static size_t q_width(const ew_model_config *cfg)
{
    return (size_t)cfg->H * cfg->D;
}

static size_t kv_width(const ew_model_config *cfg)
{
    return (size_t)cfg->K * cfg->D;
}

static float *take(ew_arena *a, size_t rows, size_t width)
{
    return rows > 0 && width > 0 ? ew_arena_take(a, rows, width * sizeof(float)) : NULL;
}

typedef struct part {
    float **dst;
    size_t width;
} part;

static void take_parts(ew_arena *a, size_t rows, const part *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        *parts[i].dst = take(a, rows, parts[i].width);
    }
}

/* The same inside a room that is there already (NULL: only counts). Returns its bytes. */
static size_t place_parts(unsigned char *room, size_t rows, const part *parts, size_t n)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        *parts[i].dst = room != NULL && parts[i].width > 0 ? (float *)(void *)(room + used) : NULL;
        used += EW_ALIGN_UP(rows * parts[i].width * sizeof(float), 64);
    }
    return used;
}

bool ew_train_acts_take(ew_arena *a, const ew_model_config *cfg, const ew_train_needs *needs, size_t t_max,
                        ew_train_acts *ret)
{
    const size_t c = cfg->C, hd = q_width(cfg), kd = kv_width(cfg), f = cfg->F;
    const size_t rms = cfg->norm == EW_NORM_RMS, o = cfg->post_norms || needs->width > 0 ? c : 0;
    const part outside[] = {
        {&ret->rstd1, rms}, {&ret->x1, cfg->parallel ? 0 : c}, {&ret->rstd2, rms}, {&ret->o[0], o}, {&ret->o[1], o}};
    const part attention[] = {{&ret->q, hd}, {&ret->k, kd}, {&ret->v, kd}, {&ret->att, hd}, {&ret->lse, cfg->H}};
    const part ffn[] = {{&ret->gate, cfg->ungated || needs->ffn_rows > 0 ? 0 : f},
                        {&ret->up, needs->ffn_rows > 0 ? 0 : f}};
    take_parts(a, t_max, outside, EW_COUNT(outside));
    if (!needs->forward_only) {
        take_parts(a, t_max, attention, EW_COUNT(attention));
        take_parts(a, t_max, ffn, EW_COUNT(ffn));
        return !a->overflow;
    }
    const size_t one = place_parts(NULL, t_max, attention, EW_COUNT(attention));
    const size_t other = place_parts(NULL, t_max, ffn, EW_COUNT(ffn));
    unsigned char *room = ew_arena_take(a, EW_MAX(one, other), 1);
    (void)place_parts(room, t_max, attention, EW_COUNT(attention));
    (void)place_parts(room, t_max, ffn, EW_COUNT(ffn));
    return !a->overflow;
}

/* The most that any product of the model's layers needs as scratch, forward and backward. */
static size_t product_scratch(const ew_model *m, size_t t_max)
{
    size_t most = 0;
    const ew_model_config *cfg = ew_model_config_of(m);
    for (uint32_t il = 0; il < cfg->L; il++) {
        const ew_layer_weights *w = ew_model_layer(m, il);
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            most = EW_MAX(most, ew_matmul_dx_scratch(&w->linear[i], t_max));
        }
    }
    return most;
}

static void take_rope(ew_arena *a, const ew_model *m, size_t n_ctx, ew_train_work *ret)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    ret->rope[0] = (ew_rope_opt){.kind = cfg->rope_kind,
                                 .n_rot = cfg->n_rot,
                                 .theta_base = cfg->rope_theta,
                                 .mscale = cfg->rope_mscale,
                                 .freq_factors = ew_model_rope_factors_for(m, (uint32_t)n_ctx),
                                 .n_table = n_ctx};
    ret->rope[1] = (ew_rope_opt){0};
    if (cfg->rope_theta_local != 0) {
        ret->rope[1] = (ew_rope_opt){
            .kind = cfg->rope_kind, .n_rot = cfg->n_rot, .theta_base = cfg->rope_theta_local, .n_table = n_ctx};
    }
    for (size_t i = 0; i < EW_COUNT(ret->rope); i++) {
        ret->rope[i].table = take(a, n_ctx, ret->rope[i].n_rot);
    }
}

bool ew_train_work_take(ew_arena *a, const ew_model *m, const ew_train_needs *needs, size_t t_max, ew_train_work *ret)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const size_t c = cfg->C, hd = q_width(cfg), kd = kv_width(cfg), f = cfg->F;
    const size_t turned = cfg->qk_norm ? hd + kd : 0;
    const size_t inner = needs->forward_only ? EW_MAX(hd, turned) : 2 * hd + 2 * kd + turned;
    const size_t ffn_rows = needs->ffn_rows > 0 ? EW_MIN((size_t)needs->ffn_rows, t_max) : 0;
    const size_t low = EW_MAX(needs->rank, needs->width), widest = EW_MAX(EW_MAX(f, c), EW_MAX(hd, kd));
    ret->t_max = t_max;
    ret->dx = take(a, t_max, needs->forward_only ? 0 : c);
    ret->dn = take(a, t_max, needs->forward_only ? 0 : c);
    ret->n = take(a, t_max, c);
    ret->wide = take(a, 1, EW_MAX(t_max * EW_MAX(c, inner), (ffn_rows > 0 ? ffn_rows : t_max) * f));
    ret->ffn_rows = ffn_rows;
    ret->gate = take(a, ffn_rows, cfg->ungated ? 0 : f);
    ret->up = take(a, ffn_rows, f);
    ret->lowrank[0] = take(a, t_max, low);
    ret->lowrank[1] = take(a, t_max, low);
    ret->stat = take(a, t_max, cfg->norm == EW_NORM_LAYER ? 2 : cfg->post_norms);
    ret->masked = take(a, EW_MIN(t_max, (size_t)EW__ROWS), needs->dropout ? widest : 0);
    ret->again = take(a, EW_MIN(t_max, (size_t)EW__ROWS), needs->scales ? widest : 0);
    ret->scratch = ew_arena_take(a, product_scratch(m, t_max), 1);
    take_rope(a, m, needs->n_ctx != 0 ? needs->n_ctx : t_max, ret);
    return !a->overflow;
}

void ew_train_work_start(ew_train_work *w)
{
    for (size_t i = 0; i < EW_COUNT(w->rope) && w->rope[i].n_rot > 0; i++) {
        ew_rope_opt fill = w->rope[i];
        fill.table = NULL;
        ew_rope_table(&fill, fill.n_table, (float *)(uintptr_t)w->rope[i].table); /* our arena's memory */
    }
}

static layer_pass pass_of(const ew_exec *e, const ew_model *m, uint32_t il, const ew_hooks *hooks,
                          const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, const ew_hook_grads *g)
{
    layer_pass p = {.e = e,
                    .cfg = ew_model_config_of(m),
                    .w = ew_model_layer(m, il),
                    .il = il,
                    .hooks = hooks,
                    .b = b,
                    .T = b->T,
                    .acts = acts,
                    .work = work,
                    .g = g};
    EW_DASSERT(b->T <= work->t_max);
    if (hooks != NULL) {
        p.linear = hooks->linear != NULL ? hooks->linear + (size_t)il * EW_LINEAR_COUNT : NULL;
        p.bottleneck = hooks->bottleneck != NULL ? hooks->bottleneck + (size_t)il * 2 : NULL;
    }
    if (g != NULL) {
        p.gw = g->weights != NULL ? &g->weights->layer[il] : NULL;
        p.gl = g->linear != NULL ? g->linear + (size_t)il * EW_LINEAR_COUNT : NULL;
        p.gb = g->bottleneck != NULL ? g->bottleneck + (size_t)il * 2 : NULL;
    }
    return p;
}

/* ---- norms ---- */

static void norm(const layer_pass *p, const float *x, const float *w, const float *b, float *y, float *rstd)
{
    if (p->cfg->norm == EW_NORM_LAYER) {
        ew_layernorm(p->e, x, w, b, p->T, p->cfg->C, p->cfg->norm_eps, y);
    } else {
        ew_rmsnorm(p->e, x, w, p->T, p->cfg->C, p->cfg->norm_eps, y, rstd);
    }
}

/* dx += …; dx, dw, db may be NULL. */
static void norm_backward(const layer_pass *p, const float *x, const float *w, const float *rstd, const float *dy,
                          float *dx, float *dw, float *db)
{
    if (p->cfg->norm == EW_NORM_LAYER) {
        ew_layernorm_bwd(p->e, x, w, dy, p->T, p->cfg->C, p->cfg->norm_eps, p->work->stat, dx, dw, db);
    } else {
        ew_rmsnorm_bwd(p->e, x, w, rstd, dy, p->T, p->cfg->C, dx, dw);
    }
}

/* The norm that the feed-forward of a parallel layer reads when it has none of its own is attention's. */
static bool shares_norm(const layer_pass *p)
{
    return p->cfg->parallel && p->w->ffn_norm == NULL;
}

static void attn_norm(const layer_pass *p)
{
    norm(p, p->acts->x, p->w->attn_norm, p->w->attn_norm_b, p->work->n, p->acts->rstd1);
}

static void ffn_norm(const layer_pass *p)
{
    if (shares_norm(p)) {
        attn_norm(p);
    } else {
        norm(p, p->cfg->parallel ? p->acts->x : p->acts->x1, p->w->ffn_norm, p->w->ffn_norm_b, p->work->n,
             p->acts->rstd2);
    }
}

/* ---- what attention and feed-forward give, on its way to the stream ---- */

static const float *post_norm(const layer_pass *p, int which)
{
    return which == ATTENTION ? p->w->attn_post_norm : p->w->ffn_post_norm;
}

/* Where the linear at the end of a branch writes: `to`, or what is kept of it. */
static float *branch_target(const layer_pass *p, int which, float *to)
{
    return p->acts->o[which] != NULL ? p->acts->o[which] : to;
}

/* to = norm after and bottleneck of what branch_target got. */
static void branch_end(const layer_pass *p, int which, float *to)
{
    const float *o = p->acts->o[which], *w = post_norm(p, which);
    if (w != NULL) {
        norm(p, o, w, NULL, to, NULL);
    } else if (o != NULL) {
        memcpy(to, o, p->T * p->cfg->C * sizeof(float));
    }
    if (ew__has_bottleneck(p, which)) {
        ew__bottleneck_forward(p, which, to);
    }
}

/* The gradient of what the branch's last linear gave: dx itself, or n or dn where it has to change. */
static float *branch_backward(const layer_pass *p, int which)
{
    ew_train_work *work = p->work;
    const size_t bytes = p->T * p->cfg->C * sizeof(float);
    const float *o = p->acts->o[which], *w = post_norm(p, which);
    const bool scales = ew__linear_scales(p, which == ATTENTION ? EW_LINEAR_O : EW_LINEAR_DOWN);
    float *dw = NULL;
    if (w == NULL && !ew__has_bottleneck(p, which) && !scales) {
        return work->dx;
    }
    memcpy(work->n, work->dx, bytes);
    if (ew__has_bottleneck(p, which)) {
        if (w != NULL) {
            norm(p, o, w, NULL, work->dn, NULL);
        }
        ew__bottleneck_backward(p, which, w != NULL ? work->dn : o, work->n);
    }
    if (w == NULL) {
        return work->n;
    }
    if (p->gw != NULL) {
        dw = which == ATTENTION ? p->gw->attn_post_norm : p->gw->ffn_post_norm;
    }
    EW_ASSERT(!p->cfg->parallel); /* dn would not be free */
    memset(work->dn, 0, bytes);
    if (p->cfg->norm == EW_NORM_RMS) {
        ew_rmsnorm(p->e, o, w, p->T, p->cfg->C, p->cfg->norm_eps, work->wide, work->stat);
    }
    norm_backward(p, o, w, work->stat, work->n, work->dn, dw, NULL);
    return work->dn;
}

/* ---- attention ---- */

/* Norms and positions of q or k, in place; inverse: the positions' backward alone. */
static void turn(const layer_pass *p, float *x, const float *w, size_t n_heads, bool inverse)
{
    const ew_model_config *c = p->cfg;
    const ew_rope_opt *rope = &p->work->rope[c->local[p->il] && p->work->rope[1].n_rot > 0 ? 1 : 0];
    if (w != NULL && !inverse) {
        ew_head_norm(p->e, c->norm, x, w, c->qk_norm_heads, p->T, n_heads, c->D, c->norm_eps);
    }
    if (rope->n_rot > 0) {
        ew_rope(p->e, rope, x, p->T, n_heads, c->D, p->b->pos, 0, inverse);
    }
}

/* q and k as attention sees them: in acts, or from `room` on where those are kept as they were before. */
static void turned(const layer_pass *p, bool fresh, float *room, float **q, float **k)
{
    const size_t T = p->T, hd = q_width(p->cfg), kd = kv_width(p->cfg);
    *q = p->acts->q;
    *k = p->acts->k;
    if (p->cfg->qk_norm) {
        *q = room;
        *k = room + T * hd;
        memcpy(*q, p->acts->q, T * hd * sizeof(float));
        memcpy(*k, p->acts->k, T * kd * sizeof(float));
    }
    if (p->cfg->qk_norm || fresh) {
        turn(p, *q, p->w->q_norm, p->cfg->H, false);
        turn(p, *k, p->w->k_norm, p->cfg->K, false);
    }
}

static ew_attention_train_args attention_args(const layer_pass *p, const float *q, const float *k)
{
    const ew_model_config *c = p->cfg;
    const ew_hooks *h = p->hooks;
    ew_attention_train_args a = {.q = q,
                                 .k = k,
                                 .v = p->acts->v,
                                 .seq = p->b->bound,
                                 .n_seq = p->b->n_seq,
                                 .H = c->H,
                                 .K = c->K,
                                 .D = c->D,
                                 .scale = c->attn_scale != 0 ? c->attn_scale : 1.0F / sqrtf((float)c->D),
                                 .window = c->local[p->il] ? c->window : 0,
                                 .softcap = c->attn_softcap,
                                 .out = p->acts->att,
                                 .lse = p->acts->lse};
    if (h != NULL && h->prefix_k != NULL) {
        const size_t at = (size_t)p->il * h->n_virtual * kv_width(c);
        a.n_prefix = h->n_virtual;
        a.prefix_k = h->prefix_k + at;
        a.prefix_v = h->prefix_v + at;
        if (p->g != NULL && p->g->prefix_k != NULL) {
            a.dprefix_k = p->g->prefix_k + at;
            a.dprefix_v = p->g->prefix_v + at;
        }
    }
    return a;
}

/* att of work->n. */
static void attention_forward(const layer_pass *p)
{
    float *q, *k;
    ew__linear_forward(p, EW_LINEAR_Q, p->work->n, p->acts->q);
    ew__linear_forward(p, EW_LINEAR_K, p->work->n, p->acts->k);
    ew__linear_forward(p, EW_LINEAR_V, p->work->n, p->acts->v);
    turned(p, true, p->work->wide, &q, &k);
    const ew_attention_train_args a = attention_args(p, q, k);
    ew_attention_train(p->e, &a);
}

/* Of the inner part, from datt to dq, dk, dv, all in work->wide: returns dq, the others follow. */
static float *heads_backward(const layer_pass *p)
{
    const ew_model_config *c = p->cfg;
    const size_t T = p->T, hd = q_width(c), kd = kv_width(c);
    float *datt = p->work->wide, *dq = datt + T * hd, *dk = dq + T * hd, *dv = dk + T * kd;
    float *q, *k;
    turned(p, false, dv + T * kd, &q, &k);
    ew_attention_train_args a = attention_args(p, q, k);
    a.dout = datt;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    ew_attention_train_bwd(p->e, &a);
    turn(p, dq, NULL, c->H, true);
    turn(p, dk, NULL, c->K, true);
    if (c->qk_norm) {
        ew_head_norm_bwd(p->e, c->norm, p->acts->q, p->w->q_norm, c->qk_norm_heads, T, c->H, c->D, c->norm_eps, dq,
                         p->gw != NULL ? p->gw->q_norm : NULL);
        ew_head_norm_bwd(p->e, c->norm, p->acts->k, p->w->k_norm, c->qk_norm_heads, T, c->K, c->D, c->norm_eps, dk,
                         p->gw != NULL ? p->gw->k_norm : NULL);
    }
    return dq;
}

/* From datt in work->wide to dx += …. dn_holds: work->dn has the feed-forward's part of the shared norm. */
static void attention_backward(const layer_pass *p, bool dn_holds, bool need_dx)
{
    const ew_layer_floats *gw = p->gw;
    ew_train_work *work = p->work;
    const size_t T = p->T, hd = q_width(p->cfg), kd = kv_width(p->cfg);
    float *dq = heads_backward(p), *dk = dq + T * hd, *dv = dk + T * kd;
    const bool need_dn = need_dx || (gw != NULL && gw->attn_norm != NULL);
    float *dn = need_dn ? work->dn : NULL;
    if (ew__linear_reads_input(p, EW_LINEAR_Q) || ew__linear_reads_input(p, EW_LINEAR_K) ||
        ew__linear_reads_input(p, EW_LINEAR_V)) {
        attn_norm(p);
    }
    ew__linear_backward(p, EW_LINEAR_Q, work->n, dq, dn, dn_holds);
    ew__linear_backward(p, EW_LINEAR_K, work->n, dk, dn, true);
    ew__linear_backward(p, EW_LINEAR_V, work->n, dv, dn, true);
    if (need_dn) {
        norm_backward(p, p->acts->x, p->w->attn_norm, p->acts->rstd1, dn, need_dx ? work->dx : NULL,
                      gw != NULL ? gw->attn_norm : NULL, gw != NULL ? gw->attn_norm_b : NULL);
    }
}

/* ---- feed-forward ---- */

void ew__hidden_rows(const layer_pass *p, size_t row, size_t n, float *y)
{
    const size_t F = p->cfg->F, at = row * F;
    const float *gate = p->cfg->ungated ? p->acts->up : p->acts->gate;
    ew_activate(p->e, p->cfg->act, gate + at, p->cfg->ungated ? NULL : p->acts->up + at, n * F, y);
}

/* gate and up of work->n. */
static void ffn_inner(const layer_pass *p)
{
    if (!p->cfg->ungated) {
        ew__linear_forward(p, EW_LINEAR_GATE, p->work->n, p->acts->gate);
    }
    ew__linear_forward(p, EW_LINEAR_UP, p->work->n, p->acts->up);
}

static void ffn_down(const layer_pass *p, float *to)
{
    ew__hidden_rows(p, 0, p->T, p->work->wide);
    ew__linear_forward(p, EW_LINEAR_DOWN, p->work->wide, branch_target(p, FFN, to));
}

/* Some rows of a pass, for what the feed-forward does with each row on its own. */
typedef struct rows_pass {
    layer_pass p;
    ew_train_acts acts;
    ew_train_work work;
} rows_pass;

static const layer_pass *rows_of(const layer_pass *p, size_t at, rows_pass *r)
{
    const size_t C = p->cfg->C;
    r->p = *p;
    r->acts = *p->acts;
    r->work = *p->work;
    r->p.row = p->row + at;
    r->p.T = EW_MIN(p->work->ffn_rows, p->T - at);
    r->p.acts = &r->acts;
    r->p.work = &r->work;
    float **const by_c[] = {&r->acts.x,  &r->acts.x1, &r->acts.o[ATTENTION], &r->acts.o[FFN], &r->work.dx,
                            &r->work.dn, &r->work.n};
    for (size_t i = 0; i < EW_COUNT(by_c); i++) {
        *by_c[i] = *by_c[i] != NULL ? *by_c[i] + at * C : NULL;
    }
    if (r->acts.rstd1 != NULL) {
        r->acts.rstd1 += at;
        r->acts.rstd2 += at;
    }
    r->acts.gate = r->work.gate;
    r->acts.up = r->work.up;
    return &r->p;
}

/* The feed-forward of all rows of a layer that is not parallel, added to x1 in y; y NULL: what the backward pass reads alone. */
static void ffn_forward(const layer_pass *p, float *y)
{
    ffn_norm(p);
    ffn_inner(p);
    if (y != NULL || p->acts->o[FFN] != NULL) {
        ffn_down(p, y);
    }
    if (y != NULL) {
        branch_end(p, FFN, y);
        ew_vec_add(p->e, y, p->acts->x1, p->T * p->cfg->C);
    }
}

/* The same of a parallel layer, added to y. */
static void ffn_forward_parallel(const layer_pass *p, float *y)
{
    float *to = p->work->n; /* used up by then */
    if (!shares_norm(p)) {
        ffn_norm(p);
    }
    ffn_inner(p);
    if (y != NULL || p->acts->o[FFN] != NULL) {
        ffn_down(p, to);
    }
    if (y != NULL) {
        branch_end(p, FFN, to);
        ew_vec_add(p->e, y, to, p->T * p->cfg->C);
    }
}

static void ffn_forward_any(const layer_pass *p, float *y)
{
    void (*const run)(const layer_pass *, float *) = p->cfg->parallel ? ffn_forward_parallel : ffn_forward;
    if (p->work->ffn_rows == 0) {
        run(p, y);
        return;
    }
    for (size_t at = 0; y != NULL && at < p->T; at += p->work->ffn_rows) { /* else the backward pass makes it */
        rows_pass r;
        run(rows_of(p, at, &r), y + at * p->cfg->C);
    }
}

/* From the gradient of the stream in work->dx to that of the norm's output in work->dn. */
static void ffn_backward(const layer_pass *p)
{
    ew_train_work *work = p->work;
    const ew_train_acts *a = p->acts;
    const size_t n = p->T * p->cfg->F;
    const bool gated = !p->cfg->ungated;
    float *dy = branch_backward(p, FFN), *dh = work->wide;
    if (ew__linear_reads_input(p, EW_LINEAR_DOWN)) {
        ew__hidden_rows(p, 0, p->T, work->wide);
    }
    ew__linear_backward(p, EW_LINEAR_DOWN, work->wide, dy, dh, false);
    if (gated) {
        ew_activate_bwd(p->e, p->cfg->act, a->gate, a->up, dh, n, a->gate, a->up);
    } else {
        ew_activate_bwd(p->e, p->cfg->act, a->up, NULL, dh, n, a->up, NULL);
    }
    if (ew__linear_reads_input(p, EW_LINEAR_UP) || (gated && ew__linear_reads_input(p, EW_LINEAR_GATE))) {
        ffn_norm(p);
    }
    if (gated) {
        ew__linear_backward(p, EW_LINEAR_GATE, work->n, a->gate, work->dn, false);
    }
    ew__linear_backward(p, EW_LINEAR_UP, work->n, a->up, work->dn, gated);
}

static void ffn_backward_any(const layer_pass *p)
{
    if (p->work->ffn_rows == 0) {
        ffn_backward(p);
        return;
    }
    for (size_t at = 0; at < p->T; at += p->work->ffn_rows) {
        rows_pass r;
        const layer_pass *some = rows_of(p, at, &r);
        ffn_norm(some);
        ffn_inner(some);
        if (some->acts->o[FFN] != NULL) {
            ffn_down(some, NULL);
        }
        ffn_backward(some);
    }
}

static void ffn_norm_backward(const layer_pass *p, bool need_dx)
{
    const ew_layer_floats *gw = p->gw;
    norm_backward(p, p->cfg->parallel ? p->acts->x : p->acts->x1, p->w->ffn_norm, p->acts->rstd2, p->work->dn,
                  need_dx ? p->work->dx : NULL, gw != NULL ? gw->ffn_norm : NULL, gw != NULL ? gw->ffn_norm_b : NULL);
}

/* ---- the block ---- */

/* y = x + attention(n1(x)) + ffn(n2(x)) */
static void parallel_forward(const layer_pass *p, float *y)
{
    attn_norm(p);
    attention_forward(p);
    if (y != NULL || p->acts->o[ATTENTION] != NULL) {
        ew__linear_forward(p, EW_LINEAR_O, p->acts->att, branch_target(p, ATTENTION, y));
    }
    if (y != NULL) {
        branch_end(p, ATTENTION, y);
        ew_vec_add(p->e, y, p->acts->x, p->T * p->cfg->C);
    }
    ffn_forward_any(p, y);
}

void ew_train_layer_forward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_hooks *hooks,
                            const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, float *y)
{
    const layer_pass pass = pass_of(e, m, i_layer, hooks, b, acts, work, NULL), *p = &pass;
    EW_ASSERT(!p->cfg->norm_after && !p->cfg->encoder);
    if (p->cfg->parallel) {
        parallel_forward(p, y);
        return;
    }
    attn_norm(p);
    attention_forward(p);
    ew__linear_forward(p, EW_LINEAR_O, acts->att, branch_target(p, ATTENTION, acts->x1));
    branch_end(p, ATTENTION, acts->x1);
    ew_vec_add(e, acts->x1, acts->x, p->T * p->cfg->C);
    ffn_forward_any(p, y);
}

void ew_train_layer_backward(const ew_exec *e, const ew_model *m, uint32_t i_layer, const ew_hooks *hooks,
                             const ew_train_batch *b, ew_train_acts *acts, ew_train_work *work, const ew_hook_grads *g,
                             bool need_dx)
{
    const layer_pass pass = pass_of(e, m, i_layer, hooks, b, acts, work, g), *p = &pass;
    const bool parallel = p->cfg->parallel, shared = shares_norm(p);
    ffn_backward_any(p);
    if (!parallel) {
        ffn_norm_backward(p, true);
    }
    /* Of a parallel layer attention has the gradient that the feed-forward had. */
    float *dy = branch_backward(p, ATTENTION);
    ew__linear_backward(p, EW_LINEAR_O, acts->att, dy, work->wide, false);
    if (parallel && !shared) {
        ffn_norm_backward(p, need_dx);
    }
    attention_backward(p, shared, need_dx);
}

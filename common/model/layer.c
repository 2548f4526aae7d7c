/* The one decoder block, driven by the configuration (model.h has the formulas), and the two ends of a model. Nothing here knows a
 * family by name. Nothing allocates. */
#include <math.h>
#include <string.h>

#include "model/session_int.h"

/* y = norm(x); y may be x. */
static void norm(const ew_session *s, const float *x, const float *w, const float *b, size_t T, float *y)
{
    const ew_model_config *c = &s->m->cfg;
    if (c->norm == EW_NORM_LAYER) {
        ew_layernorm(&s->opt.exec, x, w, b, T, c->C, c->norm_eps, y);
    } else {
        ew_rmsnorm(&s->opt.exec, x, w, T, c->C, c->norm_eps, y, NULL);
    }
}

/* What hangs on this linear, or NULL. */
static const ew_linear_hook *hook_of(const ew_session *s, uint32_t layer, ew_linear l)
{
    return s->hooks.linear != NULL ? &s->hooks.linear[(size_t)layer * EW_LINEAR_COUNT + (size_t)l] : NULL;
}

/* c[T,N] = alpha a[T,K] b[N,K]^T, or += it. */
static void small_product(const ew_session *s, size_t T, size_t N, size_t K, float alpha, const float *a,
                          const float *b, bool accumulate, float *c)
{
    ew_gemm(&s->opt.exec, &(ew_gemm_args){.M = T,
                                          .N = N,
                                          .K = K,
                                          .alpha = alpha,
                                          .a = a,
                                          .a_row = K,
                                          .a_col = 1,
                                          .b = b,
                                          .b_row = 1,
                                          .b_col = K,
                                          .c = c,
                                          .c_row = N,
                                          .accumulate = accumulate});
}

/* Every row of y[T,n] by element times v[n]. */
static void scale_rows(const ew_session *s, const float *v, size_t T, size_t n, float *y)
{
    for (size_t t = 0; t < T; t++) {
        ew_vec_mul(&s->opt.exec, y + t * n, v, n);
    }
}

/* What stands behind the product y[T,F_out] = W x in hooks.h. x:[T,C_in]. */
static void finish_linear(ew_session *s, uint32_t layer, ew_linear l, const float *x, size_t T, float *y)
{
    const ew_mat *w = &s->m->layer[layer].linear[l];
    const float *bias = s->m->layer[layer].bias[l];
    const ew_linear_hook *h = hook_of(s, layer, l);
    if (h != NULL && h->rank > 0) {
        small_product(s, T, h->rank, w->cols, 1, x, h->a, false, s->w.lowrank);
        small_product(s, T, w->rows, h->rank, h->scale, s->w.lowrank, h->b, true, y);
    }
    if (h != NULL && h->ratio != NULL) {
        scale_rows(s, h->ratio, T, w->rows, y);
    }
    if (bias != NULL) {
        ew_bias_add(&s->opt.exec, bias, T, w->rows, y);
    }
    if (h != NULL && h->out_scale != NULL) {
        scale_rows(s, h->out_scale, T, w->rows, y);
    }
}

/* o[T,C] += Up act(Down o + down_b) + up_b behind attention (0) or the feed-forward (1). */
static void add_bottleneck(ew_session *s, uint32_t layer, unsigned which, size_t T, float *o)
{
    const ew_bottleneck_hook *h = s->hooks.bottleneck != NULL ? &s->hooks.bottleneck[(size_t)layer * 2 + which] : NULL;
    const size_t C = s->m->cfg.C;
    float *inner = s->w.lowrank;
    if (h == NULL || h->width == 0) {
        return;
    }
    small_product(s, T, h->width, C, 1, o, h->down, false, inner);
    ew_bias_add(&s->opt.exec, h->down_b, T, h->width, inner);
    ew_activate(&s->opt.exec, h->act, inner, NULL, T * h->width, inner);
    small_product(s, T, C, h->width, 1, inner, h->up, true, o);
    ew_bias_add(&s->opt.exec, h->up_b, T, C, o);
}

static ew_input rows(const float *x)
{
    return (ew_input){.kind = EW_INPUT_ROWS, .x = (float *)(uintptr_t)x}; /* only read */
}

/* Several linears of a layer on the same input. Rows that in_scale is for are changed in place. */
static void linears(ew_session *s, uint32_t layer, const ew_linear *l, size_t n, const ew_input *in, size_t T,
                    float *const *y)
{
    const float *x = in->kind == EW_INPUT_ROWS ? in->x : in->out;
    ew_input made = *in;
    const ew_mat *w[3];
    for (size_t i = 0; i < n; i++) {
        const ew_linear_hook *h = hook_of(s, layer, l[i]);
        w[i] = &s->m->layer[layer].linear[l[i]];
        made.keep = made.keep || (h != NULL && h->rank > 0); /* low-rank products read it */
        if (h != NULL && h->in_scale != NULL) {
            scale_rows(s, h->in_scale, T, w[i]->cols, in->x);
        }
    }
    ew_matmul_input(&s->opt.exec, &made, w, n, T, y, s->w.scratch);
    for (size_t i = 0; i < n; i++) {
        finish_linear(s, layer, l[i], x, T, y[i]);
    }
}

/* Start of the cache of a layer: which 0 = K, 1 = V. */
static unsigned char *kv_of(const ew_session *s, uint32_t layer, unsigned which)
{
    size_t i = (size_t)(layer - s->opt.first_layer) * 2 + which;
    return s->kv + i * ew__session_rows(s) * s->kv_row_bytes;
}

/* Norms and positions of the heads of q or k, in place. */
static void turn(const ew_session *s, uint32_t layer, float *x, const float *w, size_t T, uint32_t n_heads,
                 uint32_t pos)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_rope_opt *rope = &s->rope[c->local[layer] && s->rope[1].n_rot > 0 ? 1 : 0];
    if (w != NULL) {
        ew_head_norm(&s->opt.exec, c->norm, x, w, c->qk_norm_heads, T, n_heads, c->D, c->norm_eps);
    }
    if (rope->n_rot > 0) {
        ew_rope(&s->opt.exec, rope, x, T, n_heads, c->D, NULL, pos, false);
    }
}

/* w->o = O attention(turn(Q in), turn(K in), V in), of the rows from `keep` on; writes the cache of all rows at pos. */
static void attention(ew_session *s, uint32_t layer, const ew_input *in, size_t T, size_t keep, uint32_t pos)
{
    static const ew_linear qkv[] = {EW_LINEAR_Q, EW_LINEAR_K, EW_LINEAR_V};
    static const ew_linear o[] = {EW_LINEAR_O};
    const ew_model_config *c = &s->m->cfg;
    const ew_exec *e = &s->opt.exec;
    layer_work *w = &s->w;
    unsigned char *k = kv_of(s, layer, 0);
    unsigned char *v = kv_of(s, layer, 1);
    size_t kv_cols = (size_t)c->K * c->D;

    if (keep == 0) {
        linears(s, layer, qkv, 3, in, T, (float *const[]){w->q, w->k, w->v});
    } else {
        linears(s, layer, qkv + 1, 2, in, T, (float *const[]){w->k, w->v});
    }
    turn(s, layer, w->k, s->m->layer[layer].k_norm, T, c->K, pos);
    ew_store_rows(e, s->kv_dtype, w->k, T, kv_cols, k + pos * s->kv_row_bytes, s->kv_row_bytes);
    ew_store_rows(e, s->kv_dtype, w->v, T, kv_cols, v + pos * s->kv_row_bytes, s->kv_row_bytes);
    if (keep == T) {
        return;
    }
    pos += (uint32_t)keep;
    if (keep > 0) {
        const ew_input last = rows((in->kind == EW_INPUT_ROWS ? in->x : in->out) + keep * c->C);
        linears(s, layer, qkv, 1, &last, T - keep, &w->q);
    }
    turn(s, layer, w->q, s->m->layer[layer].q_norm, T - keep, c->H, pos);
    ew_attention(e, &(ew_attention_args){.q = w->q,
                                         .k = k,
                                         .v = v,
                                         .kv_dtype = s->kv_dtype,
                                         .kv_row = kv_cols,
                                         .T = T - keep,
                                         .pos0 = pos,
                                         .H = c->H,
                                         .K = c->K,
                                         .D = c->D,
                                         .window = c->local[layer] ? c->window : 0,
                                         .scale = c->attn_scale != 0 ? c->attn_scale : 1.0F / sqrtf((float)c->D),
                                         .softcap = c->attn_softcap,
                                         .bidirectional = c->encoder,
                                         .out = w->att});
    const ew_input att = rows(w->att);
    linears(s, layer, o, 1, &att, T - keep, &w->o);
}

/* w->o = Down(act(Gate in) * Up in), or Down(act(Up in)). */
static void feed_forward(ew_session *s, uint32_t layer, const ew_input *in, size_t T)
{
    static const ew_linear gate_up[] = {EW_LINEAR_GATE, EW_LINEAR_UP};
    static const ew_linear up[] = {EW_LINEAR_UP};
    static const ew_linear down[] = {EW_LINEAR_DOWN};
    const ew_model_config *c = &s->m->cfg;
    layer_work *w = &s->w;
    float *h = c->ungated ? w->up : w->gate;
    if (c->ungated) {
        linears(s, layer, up, 1, in, T, &w->up);
        ew_activate(&s->opt.exec, c->act, w->up, NULL, T * c->F, h);
    } else {
        linears(s, layer, gate_up, 2, in, T, (float *const[]){w->gate, w->up});
        ew_activate(&s->opt.exec, c->act, w->gate, w->up, T * c->F, h);
    }
    const ew_input hidden = rows(h);
    linears(s, layer, down, 1, &hidden, T, &w->o);
}

/* One layer on x[T,C] in place: the three forms of model.h. Rows before `keep` are only read, for the cache. */
static void block(ew_session *s, uint32_t i, float *x, size_t T, size_t keep, uint32_t pos)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_layer_weights *l = &s->m->layer[i];
    const ew_exec *e = &s->opt.exec;
    float *o = s->w.o, *xn = s->w.xn;

    if (!c->norm_after) {
        norm(s, x, l->attn_norm, l->attn_norm_b, T, xn);
    }
    ew_input in = rows(c->norm_after ? x : xn);
    attention(s, i, &in, T, keep, pos);
    if (keep == T) {
        return;
    }
    x += keep * c->C;
    xn += keep * c->C;
    T -= keep;
    if (l->attn_post_norm != NULL) {
        norm(s, o, l->attn_post_norm, NULL, T, o);
    }
    add_bottleneck(s, i, 0, T, o);
    if (c->parallel && l->ffn_norm != NULL) {
        norm(s, x, l->ffn_norm, l->ffn_norm_b, T, xn); /* of x without attention's part */
    }
    ew_vec_add(e, x, o, T * c->C);
    if (c->norm_after) {
        norm(s, x, l->attn_norm, l->attn_norm_b, T, x);
    } else if (!c->parallel) {
        norm(s, x, l->ffn_norm, l->ffn_norm_b, T, xn);
    }
    in = rows(c->norm_after ? x : xn);
    feed_forward(s, i, &in, T);
    if (l->ffn_post_norm != NULL) {
        norm(s, o, l->ffn_post_norm, NULL, T, o);
    }
    add_bottleneck(s, i, 1, T, o);
    ew_vec_add(e, x, o, T * c->C);
    if (c->norm_after) {
        norm(s, x, l->ffn_norm, l->ffn_norm_b, T, x);
    }
}

/* Whether a layer is the plain pre-norm form, whose steps between two products can be made on the way into the second. Scales on what
 * Down takes and bottlenecks stand between. */
static bool is_plain(const ew_session *s, uint32_t i)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_layer_weights *l = &s->m->layer[i];
    const ew_linear_hook *down = hook_of(s, i, EW_LINEAR_DOWN);
    return c->norm == EW_NORM_RMS && c->act == EW_ACT_SILU && !c->ungated && !c->norm_after && !c->parallel &&
           l->attn_post_norm == NULL && l->ffn_post_norm == NULL && s->hooks.bottleneck == NULL &&
           (down == NULL || down->in_scale == NULL);
}

/* block() in that form, the same bits. Takes x without `sum` (NULL: nothing), which the layer before left to be added; leaves in s->w.o
 * what is to be added to the rows of x from `keep` on. */
static void plain_block(ew_session *s, uint32_t i, float *x, const float *sum, size_t T, size_t keep, uint32_t pos)
{
    static const ew_linear gate_up[] = {EW_LINEAR_GATE, EW_LINEAR_UP};
    static const ew_linear down[] = {EW_LINEAR_DOWN};
    const ew_layer_weights *l = &s->m->layer[i];
    const size_t C = s->m->cfg.C;
    layer_work *w = &s->w;
    ew_input in = {.kind = EW_INPUT_RMSNORM, .x = x, .add = sum, .w = l->attn_norm, .eps = s->m->cfg.norm_eps};
    in.out = w->xn;
    in.keep = keep > 0;
    attention(s, i, &in, T, keep, pos);
    if (keep == T) {
        return;
    }
    in.x = x + keep * C;
    in.add = w->o;
    in.w = l->ffn_norm;
    in.keep = false;
    linears(s, i, gate_up, 2, &in, T - keep, (float *const[]){w->gate, w->up});
    in = (ew_input){.kind = EW_INPUT_SWIGLU, .x = w->gate, .add = w->up, .out = w->gate};
    linears(s, i, down, 1, &in, T - keep, &w->o);
}

void ew__run_chunk(ew_session *s, uint32_t a, uint32_t b, float *x, size_t T, size_t keep, uint32_t pos)
{
    const size_t C = s->m->cfg.C;
    const float *sum = NULL; /* left over by the layer before */
    for (uint32_t i = a; i < b; i++) {
        size_t skip = i + 1 == s->m->cfg.L ? keep : 0;
        if (is_plain(s, i)) {
            plain_block(s, i, x, sum, T, skip, pos);
            sum = s->w.o;
        } else {
            if (sum != NULL) {
                ew_vec_add(&s->opt.exec, x, sum, T * C);
                sum = NULL;
            }
            block(s, i, x, T, skip, pos);
        }
        if (s->hooks.n_exits > 0 && ew__vote_here(s, i + 1)) {
            if (sum != NULL) {
                ew_vec_add(&s->opt.exec, x + skip * C, sum, (T - skip) * C);
                sum = NULL;
            }
            ew__vote_keep(s, i + 1, x, T);
        }
    }
    size_t left = b == s->m->cfg.L ? keep : 0;
    if (sum != NULL && left < T) {
        ew_vec_add(&s->opt.exec, x + left * C, sum, (T - left) * C);
    }
}

/* x[T,C] += rows first … first + T - 1 of m (step 1), or row first for all (step 0). s->w.o is free here. */
static void add_rows(ew_session *s, const ew_mat *m, size_t first, size_t step, size_t T, float *x)
{
    for (size_t t = 0; t < T; t++) {
        const unsigned char *row = (const unsigned char *)m->data + (first + t * step) * m->row_bytes;
        ew_dequant_row(m->dtype, row, s->w.o + t * m->cols, m->cols);
    }
    ew_vec_add(&s->opt.exec, x, s->w.o, T * m->cols);
}

/* What follows the rows of the embedding table (or a prompt's) at pos … */
static void finish_embed(ew_session *s, size_t T, uint32_t pos, float *x)
{
    const ew_model *m = s->m;
    if (m->cfg.embed_scale != 0) {
        ew_vec_scale(&s->opt.exec, m->cfg.embed_scale, T * m->cfg.C, x);
    }
    if (m->token_types.rows > 0) {
        add_rows(s, &m->token_types, 0, 0, T, x);
    }
    if (m->position_embd.rows > 0) {
        add_rows(s, &m->position_embd, pos, 1, T, x);
    }
    if (m->embd_norm != NULL) {
        norm(s, x, m->embd_norm, m->embd_norm_b, T, x);
    }
}

void ew__embed_chunk(ew_session *s, const int32_t *ids, size_t T, uint32_t pos, float *x)
{
    ew_embed(&s->opt.exec, &s->m->token_embd, ids, T, x);
    finish_embed(s, T, pos, x);
}

/* ---- virtual positions ---- */

void ew__prompt_chunk(ew_session *s, size_t T, uint32_t pos, float *x)
{
    const size_t C = s->m->cfg.C;
    memcpy(x, s->hooks.prompt + pos * C, T * C * sizeof(float));
    finish_embed(s, T, pos, x);
}

void ew__store_prefix(ew_session *s)
{
    const size_t P = s->hooks.n_virtual, cols = (size_t)s->m->cfg.K * s->m->cfg.D;
    for (uint32_t i = s->opt.first_layer; i < s->opt.last_layer; i++) {
        const size_t at = i * P * cols;
        ew_store_rows(&s->opt.exec, s->kv_dtype, s->hooks.prefix_k + at, P, cols, kv_of(s, i, 0), s->kv_row_bytes);
        ew_store_rows(&s->opt.exec, s->kv_dtype, s->hooks.prefix_v + at, P, cols, kv_of(s, i, 1), s->kv_row_bytes);
    }
}

/* ---- the other end ---- */

void ew__norm_rows(const ew_session *s, const float *x, const float *w, const float *b, size_t T, float *y)
{
    if (w != NULL) {
        norm(s, x, w, b, T, y);
    } else {
        memcpy(y, x, T * s->m->cfg.C * sizeof(float));
    }
}

void ew__output_rows(const ew_session *s, const float *xn, size_t n, float *logits, void *scratch)
{
    const ew_model *m = s->m;
    ew_matmul(&s->opt.exec, &m->output, xn, n, logits, scratch);
    if (m->output_b != NULL) {
        ew_bias_add(&s->opt.exec, m->output_b, n, m->output.rows, logits);
    }
    if (m->cfg.final_softcap != 0) {
        ew_softcap(&s->opt.exec, m->cfg.final_softcap, n * m->output.rows, logits);
    }
}

void ew__head_chunk(ew_session *s, const float *x, size_t n, float *logits)
{
    const ew_model *m = s->m;
    const float *in = x;
    if (m->output_norm != NULL) {
        norm(s, x, m->output_norm, m->output_norm_b, n, s->w.xn);
        in = s->w.xn;
    }
    ew__output_rows(s, in, n, logits, s->w.scratch);
}

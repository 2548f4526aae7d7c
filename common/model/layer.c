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

/* y += scale * (x A^T) B^T for the pair on this linear, if there is one. x:[T,C_in], y:[T,F_out]. */
static void add_lora(ew_session *s, uint32_t layer, ew_linear l, const float *x, size_t T, float *y)
{
    if (s->hooks.linear == NULL) {
        return;
    }
    const ew_linear_hook *p = &s->hooks.linear[(size_t)layer * EW_LINEAR_COUNT + (size_t)l];
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

static ew_input rows(const float *x)
{
    return (ew_input){.kind = EW_INPUT_ROWS, .x = (float *)(uintptr_t)x}; /* only read */
}

/* Several linears of a layer on the same input. */
static void linears(ew_session *s, uint32_t layer, const ew_linear *l, size_t n, const ew_input *in, size_t T,
                    float *const *y)
{
    const float *x = in->kind == EW_INPUT_ROWS ? in->x : in->out;
    const ew_mat *w[3];
    for (size_t i = 0; i < n; i++) {
        w[i] = &s->m->layer[layer].linear[l[i]];
    }
    ew_matmul_input(&s->opt.exec, in, w, n, T, y, s->w.scratch);
    for (size_t i = 0; i < n; i++) {
        const float *bias = s->m->layer[layer].bias[l[i]];
        if (bias != NULL) {
            ew_bias_add(&s->opt.exec, bias, T, w[i]->rows, y[i]);
        }
        add_lora(s, layer, l[i], x, T, y[i]);
    }
}

/* Start of the cache of a layer: which 0 = K, 1 = V. */
static unsigned char *kv_of(const ew_session *s, uint32_t layer, unsigned which)
{
    size_t i = (size_t)(layer - s->opt.first_layer) * 2 + which;
    return s->kv + i * s->opt.n_ctx * s->kv_row_bytes;
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
    ew_vec_add(e, x, o, T * c->C);
    if (c->norm_after) {
        norm(s, x, l->ffn_norm, l->ffn_norm_b, T, x);
    }
}

/* Whether a layer is the plain pre-norm form, whose steps between two products can be made on the way into the second. An adapter
 * needs the inputs themselves. */
static bool is_plain(const ew_session *s, uint32_t i)
{
    const ew_model_config *c = &s->m->cfg;
    const ew_layer_weights *l = &s->m->layer[i];
    return c->norm == EW_NORM_RMS && c->act == EW_ACT_SILU && !c->ungated && !c->norm_after && !c->parallel &&
           l->attn_post_norm == NULL && l->ffn_post_norm == NULL && s->hooks.linear == NULL;
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

void ew__embed_chunk(ew_session *s, const int32_t *ids, size_t T, uint32_t pos, float *x)
{
    const ew_model *m = s->m;
    ew_embed(&s->opt.exec, &m->token_embd, ids, T, x);
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

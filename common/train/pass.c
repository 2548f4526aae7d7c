/* Passes of packed rows: step.h. */
#include <string.h>

#include "base/mem.h"
#include "kern/ops.h"
#include "model/pages.h"
#include "sys/pool.h"
#include "train/exits.h"
#include "train/step.h"

/* Rows of the feed-forward at a time where memory is short: 256 rows of Qwen2.5-0.5B take 7 MiB less and 6 % more time than at once. */
#define FFN_ROWS 128u

struct ew_pass {
    ew_pass_opt opt;
    const ew_model_config *cfg;
    float dropout;
    bool embed_learns; /* something below the first layer: a prompt, the embedding */
    ew_train_needs needs;
    uint32_t depth; /* layers whose inputs are kept at once; 0 = none */
    size_t t_max, a_max, scratch_bytes;
    ew_train_work work;
    ew_train_acts *acts; /* [depth] with KEEP, else [1] */
    float **x;           /* [depth] kept inputs in f32 */
    uint16_t **x16;      /* [depth] or in bf16 */
    float *cur, *nxt;    /* [T,C] the stream where it is not kept */
    /* The head sees answer rows alone, gathered. */
    float *top, *hidden, *dhidden, *dtop, *rstd, *stat;
    void *ce_scratch;
};

static const char *const rung_names[] = {
    [EW_TUNE_RUNG_AUTO] = "auto",           [EW_TUNE_RUNG_KEEP] = "keep",
    [EW_TUNE_RUNG_RECOMPUTE] = "recompute", [EW_TUNE_RUNG_RECOMPUTE_BF16] = "recompute-bf16",
    [EW_TUNE_RUNG_BLOCKWISE] = "blockwise", [EW_TUNE_RUNG_MEZO] = "mezo"};

const char *ew_tune_rung_name(ew_tune_rung r)
{
    return (unsigned)r < EW_COUNT(rung_names) ? rung_names[r] : "?";
}

bool ew_tune_rung_parse(const char *s, ew_tune_rung *ret)
{
    for (size_t i = 0; i < EW_COUNT(rung_names); i++) {
        if (strcmp(s, rung_names[i]) == 0) {
            *ret = (ew_tune_rung)i;
            return true;
        }
    }
    return false;
}

/* --- memory --- */

ew_status ew_pass_new(const ew_pass_opt *opt, ew_pass **ret_pass, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(opt->base);
    EW_TRY(ew_train_supported(cfg, reterr));
    EW_AUTO(ew_pass) p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer's passes");
    }
    p->opt = *opt;
    p->opt.model = opt->model != NULL ? opt->model : opt->base;
    p->opt.adapter_opt = NULL;
    p->cfg = cfg;
    const ew_adapter_opt *a = opt->adapter_opt;
    p->dropout = a->dropout;
    p->embed_learns = a->kind == EW_ADAPTER_PROMPT || a->kind == EW_ADAPTER_FULL;
    p->needs = ew_train_needs_of(a, opt->n_ctx);
    p->needs.ffn_rows = opt->rung == EW_TUNE_RUNG_RECOMPUTE_BF16 ? FFN_ROWS : 0;
    p->needs.forward_only = opt->rung == EW_TUNE_RUNG_MEZO;
    p->depth = opt->rung == EW_TUNE_RUNG_MEZO                            ? 0
               : opt->rung == EW_TUNE_RUNG_BLOCKWISE && opt->window != 0 ? EW_MIN(opt->window, cfg->L)
                                                                         : cfg->L;
    p->acts = ew_calloc(cfg->L, sizeof(*p->acts));
    p->x = ew_calloc(cfg->L, sizeof(*p->x));
    p->x16 = ew_calloc(cfg->L, sizeof(*p->x16));
    if (p->acts == NULL || p->x == NULL || p->x16 == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer's tables");
    }
    *ret_pass = p;
    p = NULL;
    return EW_OK;
}

void ew_pass_free(ew_pass **p)
{
    if (*p != NULL) {
        ew_free((*p)->acts);
        ew_free((*p)->x);
        ew_free((*p)->x16);
        ew_free(*p);
        *p = NULL;
    }
}

bool ew_pass_take(ew_pass *p, ew_arena *a, size_t t_max, size_t a_max)
{
    const size_t C = p->cfg->C;
    const bool keep = p->opt.rung == EW_TUNE_RUNG_KEEP, bf16 = p->opt.rung == EW_TUNE_RUNG_RECOMPUTE_BF16;
    p->t_max = t_max;
    p->a_max = a_max;
    bool ok = ew_train_work_take(a, p->opt.model, &p->needs, t_max, &p->work);
    for (uint32_t i = 0; i < (keep ? p->depth : 1); i++) {
        ok = ew_train_acts_take(a, p->cfg, &p->needs, t_max, &p->acts[i]) && ok;
    }
    for (uint32_t i = 0; i < p->depth; i++) {
        p->x16[i] = bf16 ? ew_arena_take(a, t_max * C, sizeof(uint16_t)) : NULL;
        p->x[i] = bf16 ? NULL : ew_arena_take(a, t_max * C, sizeof(float));
    }
    p->cur = ew_arena_take(a, t_max * C, sizeof(float));
    p->nxt = ew_arena_take(a, t_max * C, sizeof(float));
    const bool forward_only = p->opt.rung == EW_TUNE_RUNG_MEZO;
    p->top = ew_arena_take(a, a_max * C, sizeof(float));
    p->hidden = ew_arena_take(a, a_max * C, sizeof(float));
    p->dhidden = forward_only ? NULL : ew_arena_take(a, a_max * C, sizeof(float));
    p->dtop = forward_only ? NULL : ew_arena_take(a, a_max * C, sizeof(float));
    p->rstd = ew_arena_take(a, a_max, sizeof(float));
    p->stat = forward_only ? NULL : ew_arena_take(a, 2 * a_max, sizeof(float));
    p->scratch_bytes = ew_cross_entropy_scratch(ew_model_output(p->opt.model), a_max);
    p->ce_scratch = ew_arena_take(a, p->scratch_bytes, 1);
    return ok && !a->overflow;
}

uint64_t ew_pass_scratch_bytes(const ew_pass *p)
{
    return p->scratch_bytes;
}

void ew_pass_start(ew_pass *p)
{
    ew_train_work_start(&p->work);
}

/* --- forward --- */

static const ew_hooks *hooks_of(const ew_pass *p)
{
    return p->opt.adapter != NULL ? ew_adapter_hooks(p->opt.adapter) : NULL;
}

static void done_with(const ew_pass *p, uint32_t i_layer)
{
    if (p->opt.drop_pages) {
        ew_model_pages_drop(p->opt.base, i_layer);
    }
}

static ew_pass_window window_of(const ew_pass *p, const ew_pass_window *w)
{
    return w != NULL ? *w : (ew_pass_window){0, p->cfg->L, -1};
}

static bool kept_f32(const ew_pass *p)
{
    return p->depth != 0 && p->opt.rung != EW_TUNE_RUNG_RECOMPUTE_BF16;
}

typedef struct bf16_job {
    const float *f;
    float *back;
    uint16_t *h;
} bf16_job;

static void to_bf16(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const bf16_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        j->h[i] = ew_f32_to_bf16(j->f[i]);
    }
}

static void from_bf16(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const bf16_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        j->back[i] = ew_bf16_to_f32(j->h[i]);
    }
}

#define BF16_PER_TASK 16384u

/* Layers [0, w->last); those from w->first on leave what the backward pass needs. Returns the stream behind them, in nxt. */
static const float *run_layers(ew_pass *p, const ew_train_batch *b, const ew_pass_window *w, bool keep)
{
    const ew_exec *e = &p->opt.exec;
    const ew_hooks *hooks = hooks_of(p);
    const size_t TC = b->T * p->cfg->C;
    float *x = keep && w->first == 0 && kept_f32(p) ? p->x[0] : p->cur;
    ew_train_embed(e, p->opt.model, hooks, b, x);
    done_with(p, p->cfg->L);
    for (uint32_t il = 0; il < w->last; il++) {
        const bool kept = keep && il >= w->first, next_kept = keep && il + 1 >= w->first && il + 1 < w->last;
        float *y = next_kept && kept_f32(p) ? p->x[il + 1 - w->first] : x == p->nxt ? p->cur : p->nxt;
        ew_train_acts *a = &p->acts[kept && p->opt.rung == EW_TUNE_RUNG_KEEP ? il - w->first : 0];
        a->x = x;
        ew_train_layer_forward(e, p->opt.model, il, hooks, b, a, &p->work, y);
        if (kept && !kept_f32(p) && il + 1 < w->last) {
            bf16_job j = {.f = x, .h = p->x16[il - w->first]};
            ew_par_for(e->pool, TC, BF16_PER_TASK, to_bf16, &j);
        }
        done_with(p, il);
        x = y;
    }
    return x;
}

/* Norm and loss of the answer rows; with scale > 0 also dhidden of scale * sum. */
static double head_loss(ew_pass *p, const ew_step_batch *b, int i_exit, const float *stream, float scale,
                        const ew_hook_grads *g)
{
    const ew_exec *e = &p->opt.exec;
    const size_t C = p->cfg->C;
    EW_DASSERT(b->n_rows <= p->a_max && b->b.T <= p->t_max);
    for (size_t i = 0; i < b->n_rows; i++) {
        memcpy(p->top + i * C, stream + b->row[i] * C, C * sizeof(float));
    }
    ew_train_head_norm(e, p->opt.model, hooks_of(p), i_exit, p->top, b->n_rows, p->hidden, p->rstd);
    ew_cross_entropy_args a = {.hidden = p->hidden,
                               .targets = b->target,
                               .T = b->n_rows,
                               .scale = scale,
                               .dhidden = scale > 0 ? p->dhidden : NULL,
                               .scratch = p->ce_scratch};
    static const ew_hook_grads none;
    ew_train_head(p->opt.model, g != NULL ? g : &none, &a);
    const double nll = ew_cross_entropy(e, &a);
    done_with(p, p->cfg->L);
    return nll;
}

double ew_pass_loss(ew_pass *p, const ew_step_batch *b, const ew_pass_window *window)
{
    const ew_pass_window w = window_of(p, window);
    const float *stream = run_layers(p, &b->b, &w, false);
    return head_loss(p, b, w.exit, stream, 0, NULL);
}

/* --- backward --- */

static void head_backward(ew_pass *p, const ew_step_batch *b, int i_exit, const ew_hook_grads *g)
{
    const size_t C = p->cfg->C;
    memset(p->dtop, 0, b->n_rows * C * sizeof(float));
    ew_train_head_norm_backward(&p->opt.exec, p->opt.model, hooks_of(p), i_exit, p->top, p->rstd, p->dhidden, b->n_rows,
                                p->stat, p->dtop, g);
    memset(p->work.dx, 0, b->b.T * C * sizeof(float));
    for (size_t i = 0; i < b->n_rows; i++) {
        memcpy(p->work.dx + b->row[i] * C, p->dtop + i * C, C * sizeof(float));
    }
}

/* The activations of a layer of the window, made again unless they are still there. */
static ew_train_acts *acts_again(ew_pass *p, const ew_train_batch *b, const ew_pass_window *w, uint32_t il)
{
    const ew_exec *e = &p->opt.exec;
    const uint32_t at = il - w->first;
    if (p->opt.rung == EW_TUNE_RUNG_KEEP) {
        return &p->acts[at];
    }
    ew_train_acts *a = &p->acts[0];
    if (il + 1 == w->last) {
        return a; /* as the forward pass left them */
    }
    a->x = p->x[at];
    if (!kept_f32(p)) {
        bf16_job j = {.h = p->x16[at], .back = p->cur};
        ew_par_for(e->pool, b->T * p->cfg->C, BF16_PER_TASK, from_bf16, &j);
        a->x = p->cur;
    }
    ew_train_layer_forward(e, p->opt.model, il, hooks_of(p), b, a, &p->work, NULL);
    return a;
}

static const ew_hook_grads *grads_of(const ew_pass *p, const ew_pass_window *w, float *grad)
{
    if (p->opt.rung != EW_TUNE_RUNG_BLOCKWISE) {
        return ew_adapter_grads(p->opt.adapter, grad);
    }
    size_t n;
    ew_adapter_span span[2];
    (void)ew_adapter_params(p->opt.adapter, &n);
    ew_exits_spans(p->cfg, ew_adapter_opt_of(p->opt.adapter), n, w, span);
    return ew_adapter_grads_of(p->opt.adapter, grad, span, 2);
}

double ew_pass_gradient(ew_pass *p, const ew_step_batch *batch, const ew_pass_window *window, float scale,
                        uint64_t mask, float *grad)
{
    const ew_exec *e = &p->opt.exec;
    const ew_pass_window w = window_of(p, window);
    EW_ASSERT(p->opt.adapter != NULL && w.first < w.last && w.last - w.first <= p->depth);
    ew_step_batch b = *batch;
    b.b.dropout = p->dropout;
    b.b.seed = p->opt.seed;
    b.b.pass = mask;
    const ew_hook_grads *g = grads_of(p, &w, grad);
    const float *stream = run_layers(p, &b.b, &w, true);
    const double nll = head_loss(p, &b, w.exit, stream, scale, g);
    head_backward(p, &b, w.exit, g);
    for (uint32_t il = w.last; il-- > w.first;) {
        ew_train_acts *a = acts_again(p, &b.b, &w, il);
        const bool need_dx = il > w.first || (w.first == 0 && p->embed_learns);
        ew_train_layer_backward(e, p->opt.model, il, hooks_of(p), &b.b, a, &p->work, g, need_dx);
        done_with(p, il);
    }
    if (w.first == 0 && p->embed_learns) {
        ew_train_embed_backward(e, p->opt.model, hooks_of(p), &b.b, p->work.dx, g);
    }
    return nll;
}

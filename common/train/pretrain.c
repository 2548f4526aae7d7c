#include "train/pretrain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "kern/ops.h"
#include "model/save.h"
#include "model/weights.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "train/backward.h"
#include "train/checkpoint.h"
#include "train/grow.h"

#define KIND "pretrain"
#define CURVE_MAX 512
#define CURVE_POINTS 400 /* of a whole run */
#define VAL_EVERY 20     /* points */
#define MEASURE_SECONDS 10.0
#define BAD_STEPS_MAX 20

typedef struct curve_point {
    uint64_t step, tokens;
    double seconds;
    float lr, loss, val_loss, grad_norm, tok_per_s;
    float reserved;
} curve_point;

/* Where the next piece comes from. */
typedef struct cursor {
    uint64_t epoch, index, offset;
} cursor;

/* What the checkpoint holds besides parameters and moments. */
typedef struct run_state {
    uint64_t step, tokens, tokens_total;
    cursor at;
    double seconds;
    double loss_sum, weight_sum; /* since the last point of the curve */
    uint64_t point_tokens;       /* at the last point */
    double point_seconds;
    uint64_t bad_steps; /* in a row */
    uint64_t n_curve;
    curve_point curve[CURVE_MAX];
} run_state;

typedef struct layout {
    size_t embd, out_norm; /* offsets in the parameter block, elements */
    size_t linear0;        /* of layer 0 */
    size_t linear[EW_LINEAR_COUNT];
    size_t layer_stride; /* matrices of a layer */
    size_t norm0;        /* of layer 0: attn_norm, then ffn_norm */
    size_t n_decay, n;
} layout;

typedef struct shard {
    ew_train_batch b;
    uint32_t *bound;
    int32_t *id, *pos, *target;
    float *weight;
    double weight_sum;
    double loss; /* sum of weight * nll */
} shard;

typedef struct worker {
    ew_train_work work;
    ew_train_acts *acts; /* [L] */
    ew_layer_floats *gl; /* [L] places of gradients */
    float *xl, *hidden, *rstd, *dhidden;
    void *ce_scratch;
} worker;

typedef struct trainer {
    const ew_pretrain_opt *opt;
    const ew_pretrain_recipe *r;
    ew_exec exec, serial;
    ew_model_config cfg;
    ew_layer_floats *layer_floats;
    ew_model *model;
    layout lay;
    float *p, *m, *v;
    float **grad; /* [shards] */
    shard *shard; /* [shards] */
    worker *worker;
    unsigned n_workers;
    ew_arena arena;
    uint32_t *perm;
    size_t n_perm;
    uint64_t perm_epoch; /* + 1; 0 = none yet */
    run_state st;
    uint8_t fingerprint[EW_SHA256_SIZE];
    double started; /* monotonic seconds minus st.seconds */
} trainer;

/* --- parameters --- */

static void make_layout(const ew_model_config *cfg, layout *lay)
{
    size_t at = 0;
    lay->embd = at;
    at += (size_t)cfg->V * cfg->C;
    lay->linear0 = at;
    size_t in_layer = 0;
    for (int i = 0; i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        lay->linear[i] = in_layer;
        in_layer += (size_t)rows * cols;
    }
    lay->layer_stride = in_layer;
    at += in_layer * cfg->L;
    lay->n_decay = at;
    lay->norm0 = at;
    at += 2 * (size_t)cfg->C * cfg->L;
    lay->out_norm = at;
    lay->n = at + cfg->C;
}

static float *linear_at(const trainer *t, float *base, uint32_t il, int which)
{
    return base + t->lay.linear0 + il * t->lay.layer_stride + t->lay.linear[which];
}

static float *norm_at(const trainer *t, float *base, uint32_t il, int which)
{
    return base + t->lay.norm0 + ((size_t)il * 2 + (size_t)which) * t->cfg.C;
}

/* Normal with deviation 0.02; the two projections that write to the residual stream get 0.02 / sqrt(2 L) (Radford 2019). */
static void init_params(trainer *t)
{
    ew_rng rng;
    ew_rng_init(&rng, t->r->seed, 1);
    const double small = 0.02 / sqrt(2.0 * t->cfg.L);
    for (size_t i = 0; i < t->lay.linear0; i++) {
        t->p[i] = (float)(0.02 * ew_rng_normal(&rng));
    }
    for (uint32_t il = 0; il < t->cfg.L; il++) {
        for (int w = 0; w < EW_LINEAR_COUNT; w++) {
            uint32_t rows, cols;
            ew_linear_shape(&t->cfg, (ew_linear)w, &rows, &cols);
            const double dev = w == EW_LINEAR_O || w == EW_LINEAR_DOWN ? small : 1.0 / sqrt((double)cols) / 2;
            float *p = linear_at(t, t->p, il, w);
            for (size_t i = 0; i < (size_t)rows * cols; i++) {
                p[i] = (float)(dev * ew_rng_normal(&rng));
            }
        }
    }
    for (size_t i = t->lay.n_decay; i < t->lay.n; i++) {
        t->p[i] = 1.0F;
    }
}

static bool same_vocab(const ew_vocab *a, const ew_vocab *b)
{
    return a->n == b->n && memcmp(a->text_end, b->text_end, a->n * sizeof(*a->text_end)) == 0 &&
           (a->n == 0 || memcmp(a->blob, b->blob, a->text_end[a->n - 1]) == 0);
}

static ew_status grow_params(trainer *t, ew_error *reterr)
{
    const ew_model *from = t->opt->init;
    const ew_tokenizer *tok = ew_model_tokenizer(from);
    if (tok == NULL || !same_vocab(ew_tokenizer_vocab(tok), t->opt->vocab)) {
        return ew_fail(reterr, EW_EINVAL,
                       "the model to grow has another vocabulary than this corpus and recipe give. HINT: use the data "
                       "it was made from");
    }
    EW_TRY(ew_grow_check(from, &t->cfg, reterr));
    ew_grow_layer *layer = ew_calloc(t->cfg.L, sizeof(*layer));
    if (layer == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %u layers", t->cfg.L);
    }
    for (uint32_t il = 0; il < t->cfg.L; il++) {
        for (int w = 0; w < EW_LINEAR_COUNT; w++) {
            layer[il].linear[w] = linear_at(t, t->p, il, w);
        }
        layer[il].attn_norm = norm_at(t, t->p, il, 0);
        layer[il].ffn_norm = norm_at(t, t->p, il, 1);
    }
    const ew_grow_target target = {t->p + t->lay.embd, t->p + t->lay.out_norm, layer};
    const ew_status st = ew_grow_fill(from, &t->cfg, t->r->seed, &target, reterr);
    ew_free(layer);
    return st;
}

static ew_status start_params(trainer *t, ew_error *reterr)
{
    if (t->opt->init != NULL) {
        return grow_params(t, reterr);
    }
    init_params(t);
    return EW_OK;
}

static ew_status make_model(trainer *t, ew_error *reterr)
{
    const ew_pretrain_recipe *r = t->r;
    ew_model_config *c = &t->cfg;
    ew_str_copy(c->arch, sizeof(c->arch), "llama");
    ew_str_copy(c->name, sizeof(c->name), r->name);
    c->C = r->dim;
    c->H = r->heads;
    c->K = r->kv_heads;
    c->D = r->dim / r->heads;
    c->F = r->ffn;
    c->V = (uint32_t)t->opt->vocab->n;
    c->L = r->layers;
    c->n_ctx_train = r->n_ctx;
    c->norm_eps = r->norm_eps;
    c->rope_kind = EW_ROPE_NORM;
    c->n_rot = c->D;
    c->rope_theta = r->rope_theta;
    c->tied_head = true;
    c->file_type = -1;
    make_layout(c, &t->lay);
    t->p = ew_aligned(t->lay.n * sizeof(float));
    t->m = ew_aligned(t->lay.n * sizeof(float));
    t->v = ew_aligned(t->lay.n * sizeof(float));
    t->layer_floats = ew_calloc(c->L, sizeof(*t->layer_floats));
    if (t->p == NULL || t->m == NULL || t->v == NULL || t->layer_floats == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu parameters and their moments", t->lay.n);
    }
    EW_TRY(start_params(t, reterr));
    memset(t->m, 0, t->lay.n * sizeof(float));
    memset(t->v, 0, t->lay.n * sizeof(float));
    for (uint32_t il = 0; il < c->L; il++) {
        for (int w = 0; w < EW_LINEAR_COUNT; w++) {
            t->layer_floats[il].linear[w] = linear_at(t, t->p, il, w);
        }
        t->layer_floats[il].attn_norm = norm_at(t, t->p, il, 0);
        t->layer_floats[il].ffn_norm = norm_at(t, t->p, il, 1);
    }
    const ew_model_floats floats = {
        .token_embd = t->p + t->lay.embd, .output_norm = t->p + t->lay.out_norm, .layer = t->layer_floats};
    EW_TRY(ew_model_from_floats(c, t->opt->vocab, &floats, &t->model, reterr));
    return ew_model_check_plain(ew_model_config_of(t->model), reterr);
}

/* --- memory --- */

static bool take_worker(trainer *t, ew_arena *a, worker *w)
{
    const size_t T = t->r->shard_tok, C = t->cfg.C;
    const ew_train_needs needs = {0};
    bool ok = ew_train_work_take(a, t->model, &needs, T, &w->work);
    for (uint32_t il = 0; il < t->cfg.L; il++) {
        ok = ew_train_acts_take(a, &t->cfg, &needs, T, &w->acts[il]) && ok;
        w->acts[il].x = ew_arena_take(a, T * t->cfg.C, sizeof(float));
    }
    w->xl = ew_arena_take(a, T * C, sizeof(float));
    w->hidden = ew_arena_take(a, T * C, sizeof(float));
    w->dhidden = ew_arena_take(a, T * C, sizeof(float));
    w->rstd = ew_arena_take(a, T, sizeof(float));
    w->ce_scratch = ew_arena_take(a, ew_cross_entropy_scratch(ew_model_output(t->model), T), 1);
    return ok && !a->overflow;
}

static bool take_all(trainer *t, ew_arena *a)
{
    for (unsigned i = 0; i < t->n_workers; i++) {
        if (!take_worker(t, a, &t->worker[i])) {
            return false;
        }
    }
    const size_t T = t->r->shard_tok;
    for (uint32_t i = 0; i < t->r->shards; i++) {
        shard *s = &t->shard[i];
        t->grad[i] = ew_arena_take(a, t->lay.n, sizeof(float));
        s->bound = ew_arena_take(a, T + 1, sizeof(uint32_t));
        s->id = ew_arena_take(a, T, sizeof(int32_t));
        s->pos = ew_arena_take(a, T, sizeof(int32_t));
        s->target = ew_arena_take(a, T, sizeof(int32_t));
        s->weight = ew_arena_take(a, T, sizeof(float));
    }
    t->perm = ew_arena_take(a, EW_MAX(t->opt->train.n_docs, t->opt->val.n_docs), sizeof(uint32_t));
    return !a->overflow;
}

static ew_status make_memory(trainer *t, ew_error *reterr)
{
    t->n_workers = EW_MIN(ew_pool_threads(t->exec.pool), t->r->shards);
    t->worker = ew_calloc(t->n_workers, sizeof(*t->worker));
    t->shard = ew_calloc(t->r->shards, sizeof(*t->shard));
    t->grad = ew_calloc(t->r->shards, sizeof(*t->grad));
    bool ok = t->worker != NULL && t->shard != NULL && t->grad != NULL;
    for (unsigned i = 0; ok && i < t->n_workers; i++) {
        t->worker[i].acts = ew_calloc(t->cfg.L, sizeof(ew_train_acts));
        t->worker[i].gl = ew_calloc(t->cfg.L, sizeof(ew_layer_floats));
        ok = t->worker[i].acts != NULL && t->worker[i].gl != NULL;
    }
    if (!ok) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer's tables");
    }
    ew_arena dry;
    ew_arena_init_dry(&dry);
    (void)take_all(t, &dry);
    EW_TRY(ew_arena_init(&t->arena, dry.peak, reterr));
    if (!take_all(t, &t->arena)) {
        return ew_fail(reterr, EW_EINTERNAL, "the trainer's memory plan of %zu bytes does not hold", dry.peak);
    }
    for (unsigned i = 0; i < t->n_workers; i++) {
        ew_train_work_start(&t->worker[i].work);
    }
    for (uint32_t i = 0; i < t->r->shards; i++) {
        shard *s = &t->shard[i];
        s->b =
            (ew_train_batch){.bound = s->bound, .id = s->id, .pos = s->pos, .target = s->target, .weight = s->weight};
    }
    return EW_OK;
}

static void trainer_release(trainer *t)
{
    ew_model_unref(&t->model);
    for (unsigned i = 0; t->worker != NULL && i < t->n_workers; i++) {
        ew_free(t->worker[i].acts);
        ew_free(t->worker[i].gl);
    }
    ew_free(t->worker);
    ew_free(t->shard);
    ew_free(t->grad);
    ew_free(t->layer_floats);
    ew_free(t->p);
    ew_free(t->m);
    ew_free(t->v);
    ew_arena_release(&t->arena);
    ew_free(t);
}

/* --- data --- */

/* The order of the documents in a pass: a permutation that depends on seed and pass alone. */
static uint32_t doc_at(trainer *t, size_t n_docs, uint64_t epoch, uint64_t index, bool shuffled)
{
    if (!shuffled) {
        return (uint32_t)index;
    }
    if (t->perm_epoch != epoch + 1) {
        for (size_t i = 0; i < n_docs; i++) {
            t->perm[i] = (uint32_t)i;
        }
        ew_rng rng;
        ew_rng_init(&rng, t->r->seed, 1000 + epoch);
        ew_rng_shuffle(&rng, t->perm, n_docs, sizeof(uint32_t));
        t->perm_epoch = epoch + 1;
    }
    return t->perm[index];
}

static void add_piece(shard *s, const ew_pretrain_doc *doc, size_t offset, size_t rows)
{
    const size_t at = s->b.T;
    for (size_t i = 0; i < rows; i++) {
        const float w = doc->weight != NULL ? doc->weight[offset + i + 1] : 1.0F;
        s->id[at + i] = doc->id[offset + i];
        s->target[at + i] = doc->id[offset + i + 1];
        s->pos[at + i] = (int32_t)i;
        s->weight[at + i] = w;
        s->weight_sum += (double)w;
    }
    s->b.T += rows;
    s->b.n_seq++;
    s->bound[s->b.n_seq] = (uint32_t)s->b.T;
}

/* Fills one shard from the cursor on. A validation pass (wrap false) ends with an empty or short shard. */
static ew_status fill_shard(trainer *t, const ew_pretrain_source *src, bool wrap, cursor *at, shard *s,
                            ew_error *reterr)
{
    s->b.T = 0;
    s->b.n_seq = 0;
    s->bound[0] = 0;
    s->weight_sum = 0;
    size_t empty = 0;
    while (s->b.T < t->r->shard_tok && empty <= src->n_docs) {
        if (at->index >= src->n_docs) {
            if (!wrap) {
                break;
            }
            *at = (cursor){at->epoch + 1, 0, 0};
        }
        ew_pretrain_doc doc = {0};
        const uint32_t i = doc_at(t, src->n_docs, at->epoch, at->index, wrap);
        EW_TRY(src->doc(src->ctx, at->epoch, i, &doc, reterr));
        const size_t left = doc.n > at->offset + 1 ? doc.n - at->offset - 1 : 0;
        const size_t rows = EW_MIN(left, (size_t)t->r->n_ctx);
        if (s->b.T + rows > t->r->shard_tok) {
            break;
        }
        empty = rows == 0 ? empty + 1 : 0;
        if (rows > 0) {
            add_piece(s, &doc, at->offset, rows);
        }
        at->offset += rows;
        if (rows == left) {
            at->index++;
            at->offset = 0;
        }
    }
    return EW_OK;
}

/* --- one step --- */

static void shard_forward(const trainer *t, worker *w, shard *s, float *grad, float scale)
{
    const ew_exec *e = &t->serial;
    const size_t T = s->b.T, C = t->cfg.C;
    const ew_mat *embd = ew_model_token_embd(t->model);
    ew_embed(e, embd, s->id, T, w->acts[0].x);
    for (uint32_t il = 0; il < t->cfg.L; il++) {
        float *y = il + 1 < t->cfg.L ? w->acts[il + 1].x : w->xl;
        ew_train_layer_forward(e, t->model, il, NULL, &s->b, &w->acts[il], &w->work, y);
    }
    ew_rmsnorm(e, w->xl, ew_model_output_norm(t->model), T, C, t->cfg.norm_eps, w->hidden, w->rstd);
    s->loss = ew_cross_entropy(e, &(ew_cross_entropy_args){.head = ew_model_output(t->model),
                                                           .hidden = w->hidden,
                                                           .targets = s->target,
                                                           .weight = s->weight,
                                                           .T = T,
                                                           .scale = scale,
                                                           .dhidden = grad != NULL ? w->dhidden : NULL,
                                                           .dhead = grad != NULL ? grad + t->lay.embd : NULL,
                                                           .scratch = w->ce_scratch});
}

static void shard_backward(const trainer *t, worker *w, shard *s, float *grad)
{
    const ew_exec *e = &t->serial;
    const size_t T = s->b.T, C = t->cfg.C;
    memset(w->work.dx, 0, T * C * sizeof(float));
    ew_rmsnorm_bwd(e, w->xl, ew_model_output_norm(t->model), w->rstd, w->dhidden, T, C, w->work.dx,
                   grad + t->lay.out_norm);
    const ew_model_floats places = {.layer = w->gl};
    const ew_hook_grads g = {.weights = &places};
    for (uint32_t il = t->cfg.L; il-- > 0;) {
        ew_layer_floats *l = &w->gl[il];
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            l->linear[i] = linear_at(t, grad, il, i);
        }
        l->attn_norm = norm_at(t, grad, il, 0);
        l->ffn_norm = norm_at(t, grad, il, 1);
        ew_train_layer_backward(e, t->model, il, NULL, &s->b, &w->acts[il], &w->work, &g, true);
    }
    ew_embed_bwd(e, w->work.dx, s->id, T, C, grad + t->lay.embd);
}

typedef struct step_job {
    trainer *t;
    float scale;
    bool backward;
} step_job;

static void run_shards(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const step_job *job = ctx;
    trainer *t = job->t;
    for (size_t i = begin; i < end; i++) {
        float *grad = job->backward ? t->grad[i] : NULL;
        if (grad != NULL) {
            memset(grad, 0, t->lay.n * sizeof(float));
        }
        t->shard[i].loss = 0;
        if (t->shard[i].b.T > 0) {
            shard_forward(t, &t->worker[thread], &t->shard[i], grad, job->scale);
            if (grad != NULL) {
                shard_backward(t, &t->worker[thread], &t->shard[i], grad);
            }
        }
    }
}

static void add_grads(size_t begin, size_t end, unsigned thread, void *ctx)
{
    (void)thread;
    trainer *t = ctx;
    for (uint32_t s = 1; s < t->r->shards; s++) {
        ew_vec_add(&t->serial, t->grad[0] + begin, t->grad[s] + begin, end - begin);
    }
}

static float lr_at(const trainer *t, uint64_t tokens)
{
    const double x = (double)tokens / (double)t->st.tokens_total;
    const double warm = (double)t->r->warmup, lr = (double)t->r->lr, low = (double)t->r->min_lr;
    if (x < warm) {
        return (float)(lr * x / warm);
    }
    const double c = EW_MIN((x - warm) / (1.0 - warm), 1.0);
    return (float)(lr * (low + (1.0 - low) * 0.5 * (1.0 + cos(3.14159265358979323846 * c))));
}

/* Forward and backward over the next shards; the summed gradient is in grad[0]. Moves *at. */
static ew_status gradients(trainer *t, cursor *at, uint64_t *ret_tokens, double *ret_loss, double *ret_weight,
                           ew_error *reterr)
{
    uint64_t tokens = 0;
    double weight = 0, loss = 0;
    for (uint32_t i = 0; i < t->r->shards; i++) {
        EW_TRY(fill_shard(t, &t->opt->train, true, at, &t->shard[i], reterr));
        tokens += t->shard[i].b.T;
        weight += t->shard[i].weight_sum;
    }
    if (tokens == 0 || !(weight > 0)) {
        return ew_fail(reterr, EW_EINVAL, "the corpus gives no tokens to learn from");
    }
    step_job job = {t, (float)(1.0 / weight), true};
    ew_par_for(t->exec.pool, t->r->shards, 1, run_shards, &job);
    ew_par_for(t->exec.pool, t->lay.n, 65536, add_grads, t);
    for (uint32_t i = 0; i < t->r->shards; i++) {
        loss += t->shard[i].loss;
    }
    *ret_tokens = tokens;
    *ret_loss = loss;
    *ret_weight = weight;
    return EW_OK;
}

static void update(trainer *t, float lr, double norm)
{
    const ew_pretrain_recipe *r = t->r;
    ew_adamw_opt o = {.lr = lr,
                      .beta1 = r->beta1,
                      .beta2 = r->beta2,
                      .eps = 1e-8F,
                      .weight_decay = r->weight_decay,
                      .grad_scale = norm > (double)r->clip ? (float)((double)r->clip / norm) : 1.0F};
    const size_t d = t->lay.n_decay;
    ew_adamw(&t->exec, &o, t->p, t->grad[0], t->m, t->v, d, t->st.step);
    o.weight_decay = 0;
    ew_adamw(&t->exec, &o, t->p + d, t->grad[0] + d, t->m + d, t->v + d, t->lay.n - d, t->st.step);
}

static ew_status validate(trainer *t, float *ret_loss, ew_error *reterr)
{
    *ret_loss = NAN;
    if (t->opt->val.n_docs == 0) {
        return EW_OK;
    }
    cursor at = {0, 0, 0};
    double loss = 0, weight = 0;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < t->r->shards; i++) {
            EW_TRY(fill_shard(t, &t->opt->val, false, &at, &t->shard[i], reterr));
            weight += t->shard[i].weight_sum;
            more = more || t->shard[i].b.T > 0;
        }
        step_job job = {t, 1.0F, false};
        ew_par_for(t->exec.pool, t->r->shards, 1, run_shards, &job);
        for (uint32_t i = 0; i < t->r->shards; i++) {
            loss += t->shard[i].loss;
        }
    }
    *ret_loss = weight > 0 ? (float)(loss / weight) : NAN;
    return EW_OK;
}

/* --- state on disk --- */

static void hash_str(ew_sha256_stream *sha, const char *s)
{
    ew_sha256_stream_add(sha, s, strlen(s) + 1);
}

/* Of everything that determines the bytes of the result, the token budget apart (it is in the state). */
static void make_fingerprint(trainer *t)
{
    EW_AUTO(ew_sha256_stream) sha = ew_sha256_stream_new();
    const ew_pretrain_recipe r = *t->r;
    char text[512];
    snprintf(text, sizeof(text),
             "%u %u %u %u %u %u %u %.9g %.9g %.9g %.9g %.9g %.9g %.9g %.9g %.9g %u %u %.9g %.9g %u %u %u %u %u %llu",
             r.vocab_size, r.n_ctx, r.dim, r.ffn, r.layers, r.heads, r.kv_heads, (double)r.rope_theta,
             (double)r.norm_eps, (double)r.lr, (double)r.min_lr, (double)r.warmup, (double)r.weight_decay,
             (double)r.clip, (double)r.beta1, (double)r.beta2, r.shards, r.shard_tok, (double)r.answer_weight,
             (double)r.prompt_weight, r.text_percent, r.section_percent, r.synopsis_percent, r.zero_shot_percent,
             r.retrieved_max, (unsigned long long)r.seed);
    hash_str(sha, text);
    hash_str(sha, t->r->name);
    if (r.depends_percent != 0 || r.size_percent != 0) {
        const uint32_t more[2] = {r.depends_percent, r.size_percent};
        ew_sha256_stream_add(sha, more, sizeof(more));
    }
    if (t->opt->init != NULL) {
        const char *hex = ew_model_sha256_hex(t->opt->init);
        hash_str(sha, hex != NULL ? hex : "");
    }
    const ew_vocab *v = t->opt->vocab;
    ew_sha256_stream_add(sha, v->text_end, v->n * sizeof(*v->text_end));
    if (v->n > 0) {
        ew_sha256_stream_add(sha, v->blob, v->text_end[v->n - 1]);
    }
    const uint64_t sizes[3] = {t->lay.n, t->opt->train.n_docs, t->opt->val.n_docs};
    ew_sha256_stream_add(sha, sizes, sizeof(sizes));
    ew_sha256_stream_end(sha, t->fingerprint);
}

#define N_BLOCKS 4
static void blocks_of(trainer *t, ew_checkpoint_block b[static N_BLOCKS])
{
    const size_t bytes = t->lay.n * sizeof(float);
    b[0] = (ew_checkpoint_block){"state", &t->st, sizeof(t->st)};
    b[1] = (ew_checkpoint_block){"params", t->p, bytes};
    b[2] = (ew_checkpoint_block){"m", t->m, bytes};
    b[3] = (ew_checkpoint_block){"v", t->v, bytes};
}

static ew_status write_curve(const trainer *t, ew_error *reterr)
{
    if (t->opt->curve_csv == NULL) {
        return EW_OK;
    }
    EW_AUTO_BUF b = {0};
    ew_buf_adds(&b, "step,tokens,seconds,lr,loss,val_loss,grad_norm,tok_per_s\n");
    for (uint64_t i = 0; i < t->st.n_curve; i++) {
        const curve_point *c = &t->st.curve[i];
        ew_buf_addf(&b, "%llu,%llu,%.1f,%.6g,%.4f,", (unsigned long long)c->step, (unsigned long long)c->tokens,
                    c->seconds, (double)c->lr, (double)c->loss);
        if (isfinite(c->val_loss)) {
            ew_buf_addf(&b, "%.4f", (double)c->val_loss);
        }
        ew_buf_addf(&b, ",%.4f,%.0f\n", (double)c->grad_norm, (double)c->tok_per_s);
    }
    EW_TRY(ew_buf_check(&b, reterr));
    return ew_file_replace(t->opt->curve_csv, b.data, b.size, 0644, reterr);
}

static ew_status save(trainer *t, ew_error *reterr)
{
    if (t->opt->checkpoint != NULL) {
        ew_checkpoint_block b[N_BLOCKS];
        blocks_of(t, b);
        EW_TRY(ew_checkpoint_save(t->opt->checkpoint, KIND, t->fingerprint, b, N_BLOCKS, reterr));
    }
    return write_curve(t, reterr);
}

/* --- the run --- */

/* The number of tokens that max_minutes buys: steps without an update until MEASURE_SECONDS have passed. */
static ew_status fix_budget(trainer *t, ew_error *reterr)
{
    t->st.tokens_total = t->opt->tokens != 0 ? t->opt->tokens : t->r->tokens;
    if (t->st.tokens_total != 0) {
        return EW_OK;
    }
    if (!(t->opt->max_minutes > 0)) {
        return ew_fail(reterr, EW_EINVAL, "no budget: give tokens in the recipe, --tokens or --max-minutes");
    }
    const double start = ew_mono_s();
    uint64_t tokens = 0;
    cursor at = {0, 0, 0};
    do {
        uint64_t n;
        double loss, weight;
        EW_TRY(gradients(t, &at, &n, &loss, &weight, reterr));
        tokens += n;
    } while (ew_mono_s() - start < EW_MIN(MEASURE_SECONDS, t->opt->max_minutes * 6));
    const double speed = (double)tokens / (ew_mono_s() - start);
    const double seconds = t->opt->max_minutes * 60 * 0.97 - (ew_mono_s() - start);
    t->st.tokens_total = (uint64_t)EW_MAX(speed * seconds, 1.0);
    return EW_OK;
}

static ew_status add_point(trainer *t, float lr, double norm, ew_error *reterr)
{
    run_state *st = &t->st;
    const bool last = st->tokens >= st->tokens_total;
    const uint64_t now = st->tokens * CURVE_POINTS / st->tokens_total;
    const uint64_t before = st->point_tokens * CURVE_POINTS / st->tokens_total;
    if ((now == before && !last && st->step != 1) || st->n_curve == CURVE_MAX) {
        return EW_OK;
    }
    st->seconds = ew_mono_s() - t->started;
    curve_point c = {.step = st->step, .tokens = st->tokens, .seconds = st->seconds, .lr = lr, .val_loss = NAN};
    c.loss = (float)(st->loss_sum / st->weight_sum);
    c.grad_norm = (float)norm;
    c.tok_per_s = (float)((double)(st->tokens - st->point_tokens) / EW_MAX(st->seconds - st->point_seconds, 1e-6));
    if (now / VAL_EVERY != before / VAL_EVERY || last || st->step == 1) {
        EW_TRY(validate(t, &c.val_loss, reterr));
    }
    st->curve[st->n_curve++] = c;
    st->point_tokens = st->tokens;
    st->point_seconds = ew_mono_s() - t->started;
    st->loss_sum = 0;
    st->weight_sum = 0;
    return EW_OK;
}

static ew_status one_step(trainer *t, double *ret_loss, ew_error *reterr)
{
    run_state *st = &t->st;
    uint64_t tokens;
    double loss, weight;
    EW_TRY(gradients(t, &st->at, &tokens, &loss, &weight, reterr));
    const double norm = sqrt(ew_vec_sumsq(&t->exec, t->grad[0], t->lay.n));
    st->tokens += tokens;
    st->step++;
    const float lr = lr_at(t, st->tokens);
    if (!isfinite(loss) || !isfinite(norm)) {
        if (++st->bad_steps >= BAD_STEPS_MAX) {
            return ew_fail(reterr, EW_EINVAL, "the loss is not finite for %d steps. HINT: lower lr in the recipe",
                           BAD_STEPS_MAX);
        }
        return EW_OK;
    }
    st->bad_steps = 0;
    update(t, lr, norm);
    st->loss_sum += loss;
    st->weight_sum += weight;
    *ret_loss = loss / weight;
    return add_point(t, lr, norm, reterr);
}

static ew_status run(trainer *t, ew_error *reterr)
{
    run_state *st = &t->st;
    const double every = t->opt->checkpoint_seconds > 0 ? t->opt->checkpoint_seconds : 120;
    const double begun = ew_mono_s();
    const uint64_t tokens0 = st->tokens;
    uint64_t steps = 0;
    double saved = begun;
    double loss = (double)NAN;
    t->started = begun - st->seconds;
    while (st->tokens < st->tokens_total) {
        EW_TRY(one_step(t, &loss, reterr));
        const double now = ew_mono_s();
        st->seconds = now - t->started;
        const double rate = (double)(st->tokens - tokens0) / EW_MAX(now - begun, 1e-9);
        const double left = (double)st->tokens_total - (double)st->tokens;
        const ew_progress_info info = {.phase = "pretrain",
                                       .unit = "tok",
                                       .done = st->tokens,
                                       .total = st->tokens_total,
                                       .loss = loss,
                                       .left_s = EW_MAX(left, 0) / rate};
        if (++steps == t->opt->stop_after_steps) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped after %llu steps", (unsigned long long)steps);
        }
        if (!ew_progress_tell(&t->opt->progress, &info)) {
            EW_TRY(save(t, reterr));
            return ew_fail(reterr, EW_ECANCELLED, "stopped at step %llu; start again to continue",
                           (unsigned long long)st->step);
        }
        if (now - saved >= every) {
            EW_TRY(save(t, reterr));
            saved = now;
        }
    }
    return save(t, reterr);
}

static ew_status start(trainer *t, bool *ret_resumed, ew_error *reterr)
{
    EW_TRY(make_model(t, reterr));
    EW_TRY(make_memory(t, reterr));
    make_fingerprint(t);
    *ret_resumed = false;
    if (t->opt->checkpoint != NULL && ew_file_exists(t->opt->checkpoint)) {
        ew_checkpoint_block b[N_BLOCKS];
        blocks_of(t, b);
        EW_TRY(ew_checkpoint_load(t->opt->checkpoint, KIND, t->fingerprint, b, N_BLOCKS, reterr));
        *ret_resumed = true;
        t->st.tokens_total = t->opt->tokens != 0 ? t->opt->tokens : t->st.tokens_total;
        return EW_OK;
    }
    EW_TRY(fix_budget(t, reterr));
    return save(t, reterr);
}

static ew_status finish(trainer *t, bool resumed, ew_pretrain_report *ret_report, ew_error *reterr)
{
    if (t->opt->out_gguf != NULL) {
        const ew_save_opt so = {.convert = true, .dtype = EW_DTYPE_F16, .name = t->r->name};
        EW_TRY(ew_model_save_gguf(t->model, t->opt->out_gguf, &so, reterr));
    }
    const run_state *st = &t->st;
    ew_pretrain_report r = {.steps = st->step, .tokens = st->tokens, .seconds = st->seconds, .resumed = resumed};
    r.tok_per_s = st->seconds > 0 ? (double)st->tokens / st->seconds : 0;
    r.loss = st->n_curve > 0 ? st->curve[st->n_curve - 1].loss : NAN;
    r.val_loss = st->n_curve > 0 ? st->curve[st->n_curve - 1].val_loss : NAN;
    r.n_params = t->lay.n;
    *ret_report = r;
    return EW_OK;
}

ew_status ew_pretrain(const ew_pretrain_opt *opt, ew_pretrain_report *ret_report, ew_error *reterr)
{
    if (opt->recipe == NULL || opt->vocab == NULL || opt->train.doc == NULL || opt->train.n_docs == 0 ||
        opt->train.n_docs > UINT32_MAX || opt->val.n_docs > UINT32_MAX) {
        return ew_fail(reterr, EW_EINVAL, "pre-training needs a recipe, a vocabulary and documents");
    }
    trainer *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer");
    }
    t->opt = opt;
    t->r = opt->recipe;
    t->exec = opt->exec;
    if (t->exec.kern == NULL) {
        t->exec.kern = ew_kern_get(NULL);
    }
    t->serial = (ew_exec){t->exec.kern, NULL};
    bool resumed = false;
    ew_status st = start(t, &resumed, reterr);
    if (st == EW_OK) {
        st = run(t, reterr);
    }
    if (st == EW_OK) {
        st = finish(t, resumed, ret_report, reterr);
    }
    trainer_release(t);
    return st;
}

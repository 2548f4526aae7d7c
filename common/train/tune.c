#include "train/tune.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "kern/ops.h"
#include "sys/file.h"
#include "train/backward.h"
#include "train/checkpoint.h"

#define KIND "tune-lora"
#define BAD_IN_ROW_MAX 6
#define PACK_TOK_DEFAULT 512u
/* What a process has beside model, arena and adapter (program, libraries, thread stacks and the kernels' own blocks): measured. */
#define PROCESS_BASE_BYTES (10u * 1024 * 1024)
#define PROCESS_VOCAB_BYTES 160u /* per piece of the vocabulary, as the tokenizer keeps it */

typedef struct run_state {
    uint64_t step, tokens, skipped;
    double seconds;  /* of all parts */
    double lr_scale; /* halved at each step that was not finite */
    uint64_t bad_in_row;
    double loss_sum, loss_n; /* since the last point */
    double val_before, val_best;
    uint64_t best_step, since_best;
    uint64_t stopped; /* ew_tune_stop + 1; 0 = still running */
    uint64_t n_curve;
    ew_tune_point curve[EW_TUNE_POINTS_MAX];
    uint32_t reserved;
} run_state;

typedef struct tuner {
    ew_tune_opt o; /* resolved */
    const ew_model_config *cfg;
    ew_adapter *lora;
    size_t n;     /* parameters */
    size_t t_max; /* rows of a pass */
    size_t longest;
    double answer_share; /* largest of any example: bounds the answer rows of a pass */
    uint32_t steps_per_epoch, steps;
    ew_arena arena;
    float *grad, *m, *v, *best; /* [n] */
    ew_train_work work;
    ew_train_acts *acts; /* [1], or [L] with keep_activations */
    float **xs;          /* [L + 1] inputs of the layers, and the last output */
    /* The head sees answer rows alone, gathered: a_max of them. */
    size_t a_max, n_rows;
    float *top, *hidden, *dhidden, *dtop, *rstd;
    uint32_t *row;
    int32_t *row_target;
    void *ce_scratch;
    ew_train_batch b;
    uint32_t *bound, *perm;
    int32_t *id, *pos;
    uint64_t perm_epoch; /* + 1 */
    run_state st;
    uint8_t fingerprint[EW_SHA256_SIZE];
    double part_started;   /* monotonic */
    double base_seconds;   /* st.seconds when this part began */
    double step_s, eval_s; /* the last of each */
} tuner;

static double now_s(void)
{
    return (double)ew_mono_ns() * 1e-9;
}

/* --- options --- */

static float or_default(float x, float d)
{
    return x > 0 ? x : x < 0 ? 0 : d;
}

static ew_status resolve(const ew_tune_opt *opt, ew_tune_opt *o, ew_error *reterr)
{
    *o = *opt;
    if (o->model == NULL) {
        return ew_fail(reterr, EW_EINVAL, "tuning needs a model");
    }
    const ew_model_config *cfg = ew_model_config_of(o->model);
    EW_TRY(ew_train_supported(cfg, reterr));
    if (o->init != NULL) {
        o->adapter = *ew_adapter_opt_of(o->init);
    }
    EW_TRY(ew_adapter_opt_resolve(&o->adapter, &o->adapter, reterr));
    o->exec.kern = o->exec.kern != NULL ? o->exec.kern : ew_kern_get(NULL);
    o->lr = or_default(o->lr, 1e-3F);
    o->clip = or_default(o->clip, 1.0F);
    o->warmup = or_default(o->warmup, 0.05F);
    o->min_lr = or_default(o->min_lr, 0.1F);
    o->beta1 = or_default(o->beta1, 0.9F);
    o->beta2 = or_default(o->beta2, 0.999F);
    o->eps = or_default(o->eps, 1e-8F);
    o->epochs = o->epochs != 0 ? o->epochs : 3;
    o->batch = o->batch != 0 ? o->batch : 8;
    o->seq_max = o->seq_max != 0 ? o->seq_max : EW_MIN(512u, cfg->n_ctx_train);
    o->patience = o->patience != 0 ? o->patience : 3;
    o->checkpoint_every = o->checkpoint_every != 0 ? o->checkpoint_every : 20;
    if (!(o->lr > 0) || !isfinite(o->lr) || o->lr > 1 || o->beta1 >= 1 || o->beta2 >= 1 || !(o->weight_decay >= 0)) {
        return ew_fail(reterr, EW_EINVAL, "learning rate, betas or weight decay are out of range");
    }
    if (o->seq_max < 8 || o->seq_max > cfg->n_ctx_train) {
        return ew_fail(reterr, EW_EINVAL, "sequence length %u: this model takes 8 to %u tokens", o->seq_max,
                       cfg->n_ctx_train);
    }
    return EW_OK;
}

/* Rows of an example: its tokens but the last, at most seq_max. */
static size_t rows_of(const tuner *t, const ew_tune_example *x)
{
    const size_t n = (size_t)x->n_prompt + x->n_answer - 1;
    return EW_MIN(n, (size_t)t->o.seq_max);
}

static ew_status check_examples(tuner *t, const ew_tune_example *x, size_t n, const char *what, ew_error *reterr)
{
    for (size_t i = 0; i < n; i++) {
        if (x[i].n_prompt == 0 || x[i].n_answer == 0 || x[i].id == NULL) {
            return ew_fail(reterr, EW_EINVAL, "%s example %zu has no prompt or no answer", what, i);
        }
        for (size_t j = 0; j < (size_t)x[i].n_prompt + x[i].n_answer; j++) {
            if (x[i].id[j] < 0 || (uint32_t)x[i].id[j] >= t->cfg->V) {
                return ew_fail(reterr, EW_EINVAL, "%s example %zu: token %d is not in the vocabulary of %u", what, i,
                               x[i].id[j], t->cfg->V);
            }
        }
        const size_t rows = rows_of(t, &x[i]);
        t->longest = EW_MAX(t->longest, rows);
        t->answer_share = EW_MAX(t->answer_share, (double)EW_MIN((size_t)x[i].n_answer, rows) / (double)rows);
    }
    return EW_OK;
}

/* --- memory --- */

static bool take_all(tuner *t, ew_arena *a)
{
    const size_t T = t->t_max, C = t->cfg->C, n_acts = t->o.keep_activations ? t->cfg->L : 1;
    float **state[] = {&t->grad, &t->m, &t->v, &t->best};
    for (size_t i = 0; i < EW_COUNT(state); i++) {
        *state[i] = ew_arena_take(a, t->n, sizeof(float));
    }
    const ew_train_needs needs = ew_train_needs_of(&t->o.adapter, t->o.seq_max);
    bool ok = ew_train_work_take(a, t->o.model, &needs, T, &t->work);
    for (size_t i = 0; i < n_acts; i++) {
        ok = ew_train_acts_take(a, t->cfg, &needs, T, &t->acts[i]) && ok;
    }
    for (uint32_t i = 0; i <= t->cfg->L; i++) {
        t->xs[i] = ew_arena_take(a, T * C, sizeof(float));
    }
    float **head[] = {&t->top, &t->hidden, &t->dhidden, &t->dtop};
    for (size_t i = 0; i < EW_COUNT(head); i++) {
        *head[i] = ew_arena_take(a, t->a_max * C, sizeof(float));
    }
    t->rstd = ew_arena_take(a, t->a_max, sizeof(float));
    t->row = ew_arena_take(a, t->a_max, sizeof(uint32_t));
    t->row_target = ew_arena_take(a, t->a_max, sizeof(int32_t));
    t->ce_scratch = ew_arena_take(a, ew_cross_entropy_scratch(ew_model_output(t->o.model), t->a_max), 1);
    t->bound = ew_arena_take(a, T + 1, sizeof(uint32_t));
    t->id = ew_arena_take(a, T, sizeof(int32_t));
    t->pos = ew_arena_take(a, T, sizeof(int32_t));
    t->perm = ew_arena_take(a, t->o.n_train, sizeof(uint32_t));
    return ok && !a->overflow;
}

static uint64_t example_bytes(const ew_tune_example *x, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += ((uint64_t)x[i].n_prompt + x[i].n_answer) * sizeof(int32_t) + sizeof(*x);
    }
    return bytes;
}

static void plan_memory(tuner *t, size_t t_max, ew_tune_memory_plan *p)
{
    ew_arena dry;
    t->t_max = t_max;
    const double share = t->longest > 0 ? t->answer_share : 1;
    t->a_max = EW_MIN(t_max, (size_t)(share * (double)t_max) + 1);
    ew_arena_init_dry(&dry);
    (void)take_all(t, &dry);
    *p = (ew_tune_memory_plan){.arena_bytes = dry.peak, .weights_bytes = ew_model_weights_bytes(t->o.model)};
    p->adapter_bytes = (uint64_t)t->n * sizeof(float) * 5;
    const uint64_t scratch = ew_cross_entropy_scratch(ew_model_output(t->o.model), t->a_max) + t_max * 12;
    p->scratch_bytes = scratch;
    p->activ_bytes = dry.peak - scratch - (uint64_t)t->n * sizeof(float) * 4;
    p->process_bytes = PROCESS_BASE_BYTES + (uint64_t)t->cfg->V * PROCESS_VOCAB_BYTES +
                       example_bytes(t->o.train, t->o.n_train) + example_bytes(t->o.val, t->o.n_val);
    p->total_bytes = p->weights_bytes + p->adapter_bytes + p->activ_bytes + p->scratch_bytes + p->process_bytes;
}

/* Chooses t_max: as asked, or the largest that the limit leaves room for when it was left open. */
static ew_status fit_memory(tuner *t, ew_tune_memory_plan *p, ew_error *reterr)
{
    const size_t least = t->longest > 0 ? t->longest : t->o.seq_max;
    const size_t want = EW_MAX((size_t)(t->o.pack_tok != 0 ? t->o.pack_tok : PACK_TOK_DEFAULT), least);
    plan_memory(t, want, p);
    const uint64_t limit = t->o.max_ram_bytes;
    if (limit == 0 || p->total_bytes <= limit) {
        return EW_OK;
    }
    const uint64_t asked = p->total_bytes;
    ew_tune_memory_plan low;
    plan_memory(t, least, &low);
    char have[32], need[32], smallest[32];
    if (low.total_bytes > limit || t->o.pack_tok != 0) {
        return ew_fail(reterr, EW_ENOMEM,
                       "tuning needs %s, the limit is %s. HINT: a limit of %s (%llu bytes) would do%s",
                       ew_str_bytes(need, sizeof(need), asked), ew_str_bytes(have, sizeof(have), limit),
                       ew_str_bytes(smallest, sizeof(smallest), low.total_bytes), (unsigned long long)low.total_bytes,
                       t->o.keep_activations ? ", less without keep_activations" : "");
    }
    size_t lo = least, hi = want; /* lo fits, hi does not */
    while (hi - lo > 8) {
        const size_t mid = lo + (hi - lo) / 2;
        plan_memory(t, mid, p);
        if (p->total_bytes <= limit) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    plan_memory(t, lo, p);
    return EW_OK;
}

/* order[n_train] of an epoch. */
static void shuffle_epoch(const ew_tune_opt *o, uint64_t epoch, uint32_t *order)
{
    ew_rng rng;
    for (size_t j = 0; j < o->n_train; j++) {
        order[j] = (uint32_t)j;
    }
    ew_rng_init(&rng, o->seed, 100 + epoch);
    ew_rng_shuffle(&rng, order, o->n_train, sizeof(uint32_t));
}

/* Rows of the fullest pass when passes of `cap` rows are filled with order[0, n) of x, `group` examples at a time (0 = all together). */
static size_t fullest_pass(const tuner *t, const ew_tune_example *x, const uint32_t *order, size_t n, size_t group,
                           size_t cap)
{
    size_t most = 0, rows = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t r = rows_of(t, &x[order != NULL ? order[i] : i]);
        rows = (group != 0 && i % group == 0) || rows + r > cap ? r : rows + r;
        most = EW_MAX(most, rows);
    }
    return most;
}

/* The orders of epochs are known, so is the fullest pass of all: no more rows than that are taken. Passes are the same as with t_max rows,
 * because what did not fit those does not fit these. Epochs beyond the first ones count as not known. */
static ew_status trim_memory(tuner *t, ew_tune_memory_plan *p, ew_error *reterr)
{
    enum {
        EPOCHS = 16
    };
    const ew_tune_opt *o = &t->o;
    const size_t per_epoch = (o->n_train + o->batch - 1) / o->batch;
    if (o->n_train == 0 || o->n_train > UINT32_MAX ||
        (o->max_steps != 0 ? (o->max_steps + per_epoch - 1) / per_epoch : o->epochs) > EPOCHS) {
        return EW_OK;
    }
    const size_t epochs = o->max_steps != 0 ? (o->max_steps + per_epoch - 1) / per_epoch : o->epochs;
    size_t most = fullest_pass(t, o->val, NULL, o->n_val, 0, t->t_max);
    uint32_t *order = ew_malloc(o->n_train, sizeof(*order));
    if (order == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the order of the examples");
    }
    for (size_t epoch = 0; epoch < epochs; epoch++) {
        shuffle_epoch(o, epoch, order);
        most = EW_MAX(most, fullest_pass(t, o->train, order, o->n_train, o->batch, t->t_max));
    }
    ew_free(order);
    plan_memory(t, most, p);
    return EW_OK;
}

static ew_status tuner_init(tuner *t, const ew_tune_opt *opt, ew_tune_memory_plan *plan, ew_error *reterr)
{
    EW_TRY(resolve(opt, &t->o, reterr));
    t->cfg = ew_model_config_of(t->o.model);
    EW_TRY(check_examples(t, t->o.train, t->o.n_train, "training", reterr));
    EW_TRY(check_examples(t, t->o.val, t->o.n_val, "validation", reterr));
    t->n = ew_adapter_count(t->o.model, &t->o.adapter);
    t->acts = ew_calloc(t->cfg->L, sizeof(*t->acts));
    t->xs = ew_calloc((size_t)t->cfg->L + 1, sizeof(*t->xs));
    if (t->acts == NULL || t->xs == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer's tables");
    }
    EW_TRY(fit_memory(t, plan, reterr));
    return trim_memory(t, plan, reterr);
}

static void tuner_release(tuner *t)
{
    ew_free(t->acts);
    ew_free(t->xs);
    ew_arena_release(&t->arena);
    ew_adapter_free(&t->lora);
    ew_free(t);
}

ew_status ew_tune_memory(const ew_tune_opt *opt, ew_tune_memory_plan *ret_plan, ew_error *reterr)
{
    tuner *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer");
    }
    ew_tune_opt o = *opt;
    o.max_ram_bytes = 0;
    ew_tune_memory_plan plan;
    const ew_status st = tuner_init(t, &o, &plan, reterr);
    tuner_release(t);
    if (st == EW_OK) {
        *ret_plan = plan;
    }
    return st;
}

/* --- one pass --- */

static void pack_reset(tuner *t)
{
    t->b = (ew_train_batch){.bound = t->bound, .id = t->id, .pos = t->pos};
    t->bound[0] = 0;
    t->n_rows = 0;
}

/* Adds an example to the packed rows; false when there is no room. The prompt loses its front when it is too long, but for the
 * first token (BOS); an answer alone longer than seq_max loses its end. */
static bool pack_add(tuner *t, const ew_tune_example *x)
{
    const size_t rows = rows_of(t, x), total = (size_t)x->n_prompt + x->n_answer - 1;
    if (t->b.T + rows > t->t_max) {
        return false;
    }
    size_t cut = total - rows; /* tokens to leave out after the first */
    if (cut > (size_t)x->n_prompt - 1) {
        cut = (size_t)x->n_prompt - 1;
    }
    for (size_t i = 0; i < rows; i++) {
        const size_t at = t->b.T + i, from = i == 0 ? 0 : i + cut, to = i + cut + 1;
        t->id[at] = x->id[from];
        t->pos[at] = (int32_t)i;
        if (to >= x->n_prompt) {
            t->row[t->n_rows] = (uint32_t)at;
            t->row_target[t->n_rows++] = x->id[to];
        }
    }
    t->b.T += rows;
    t->b.n_seq++;
    t->bound[t->b.n_seq] = (uint32_t)t->b.T;
    return true;
}

static size_t answer_rows(const tuner *t, const ew_tune_example *x)
{
    const size_t rows = rows_of(t, x);
    return EW_MIN((size_t)x->n_answer, rows);
}

static ew_train_acts *acts_of(tuner *t, uint32_t il)
{
    ew_train_acts *a = t->o.keep_activations ? &t->acts[il] : &t->acts[0];
    a->x = t->xs[il];
    return a;
}

/* Sum of the answer tokens' negative log-likelihood; with scale > 0 also dhidden of scale * sum. */
static double forward(tuner *t, float scale)
{
    const ew_exec *e = &t->o.exec;
    const ew_model *m = t->o.model;
    const ew_hooks *hooks = ew_adapter_hooks(t->lora);
    const size_t C = t->cfg->C;
    ew_train_embed(e, m, hooks, &t->b, t->xs[0]);
    for (uint32_t il = 0; il < t->cfg->L; il++) {
        ew_train_layer_forward(e, m, il, hooks, &t->b, acts_of(t, il), &t->work, t->xs[il + 1]);
    }
    for (size_t i = 0; i < t->n_rows; i++) {
        memcpy(t->top + i * C, t->xs[t->cfg->L] + t->row[i] * C, C * sizeof(float));
    }
    ew_train_head_norm(e, m, hooks, -1, t->top, t->n_rows, t->hidden, t->rstd);
    ew_cross_entropy_args a = {.hidden = t->hidden,
                               .targets = t->row_target,
                               .T = t->n_rows,
                               .scale = scale,
                               .dhidden = scale > 0 ? t->dhidden : NULL,
                               .scratch = t->ce_scratch};
    ew_train_head(m, NULL, &a);
    return ew_cross_entropy(e, &a);
}

static void backward(tuner *t)
{
    const ew_exec *e = &t->o.exec;
    const ew_model *m = t->o.model;
    const ew_hooks *hooks = ew_adapter_hooks(t->lora);
    const ew_hook_grads *g = ew_adapter_grads(t->lora, t->grad);
    const size_t T = t->b.T, C = t->cfg->C;
    memset(t->dtop, 0, t->n_rows * C * sizeof(float));
    ew_train_head_norm_backward(e, m, hooks, -1, t->top, t->rstd, t->dhidden, t->n_rows, NULL, t->dtop, g);
    memset(t->work.dx, 0, T * C * sizeof(float));
    for (size_t i = 0; i < t->n_rows; i++) {
        memcpy(t->work.dx + t->row[i] * C, t->dtop + i * C, C * sizeof(float));
    }
    for (uint32_t il = t->cfg->L; il-- > 0;) {
        ew_train_acts *a = acts_of(t, il);
        if (!t->o.keep_activations && il + 1 < t->cfg->L) {
            ew_train_layer_forward(e, m, il, hooks, &t->b, a, &t->work, NULL);
        }
        ew_train_layer_backward(e, m, il, hooks, &t->b, a, &t->work, g, il > 0);
    }
}

/* --- steps --- */

static uint32_t example_at(tuner *t, uint64_t epoch, size_t i)
{
    if (t->perm_epoch != epoch + 1) {
        shuffle_epoch(&t->o, epoch, t->perm);
        t->perm_epoch = epoch + 1;
    }
    return t->perm[i];
}

/* Accumulates the gradient of the step's mean answer NLL into grad. */
static double step_gradient(tuner *t, uint64_t *ret_tokens, size_t *ret_answers)
{
    const uint64_t epoch = t->st.step / t->steps_per_epoch;
    const size_t first = (size_t)(t->st.step % t->steps_per_epoch) * t->o.batch;
    const size_t last = EW_MIN(first + t->o.batch, t->o.n_train);
    size_t answers = 0;
    for (size_t i = first; i < last; i++) {
        answers += answer_rows(t, &t->o.train[example_at(t, epoch, i)]);
    }
    memset(t->grad, 0, t->n * sizeof(float));
    double nll = 0;
    uint64_t tokens = 0;
    for (size_t i = first; i < last;) {
        pack_reset(t);
        while (i < last && pack_add(t, &t->o.train[example_at(t, epoch, i)])) {
            i++;
        }
        nll += forward(t, (float)(1.0 / (double)answers));
        backward(t);
        tokens += t->b.T;
    }
    *ret_tokens = tokens;
    *ret_answers = answers;
    return nll;
}

static float lr_at(const tuner *t, uint64_t step)
{
    const double warm = (double)t->o.warmup * t->steps, low = (double)t->o.min_lr;
    const double s = (double)step + 1;
    double f = 1;
    if (s < warm) {
        f = s / warm;
    } else if (t->steps > warm) {
        f = low + (1.0 - low) * 0.5 * (1.0 + cos(3.14159265358979323846 * (s - warm) / ((double)t->steps - warm)));
    }
    return (float)((double)t->o.lr * t->st.lr_scale * f);
}

static void one_step(tuner *t)
{
    run_state *st = &t->st;
    uint64_t tokens;
    size_t answers;
    const double nll = step_gradient(t, &tokens, &answers);
    const double norm = sqrt(ew_vec_sumsq(&t->o.exec, t->grad, t->n));
    st->tokens += tokens;
    if (!isfinite(nll) || !isfinite(norm)) {
        st->skipped++;
        st->bad_in_row++;
        st->lr_scale *= 0.5;
    } else {
        st->bad_in_row = 0;
        st->loss_sum += nll;
        st->loss_n += (double)answers;
        const bool cut = t->o.clip > 0 && norm > (double)t->o.clip;
        const ew_adamw_opt ao = {.lr = lr_at(t, st->step),
                                 .beta1 = t->o.beta1,
                                 .beta2 = t->o.beta2,
                                 .eps = t->o.eps,
                                 .weight_decay = t->o.weight_decay,
                                 .grad_scale = cut ? (float)((double)t->o.clip / norm) : 1.0F};
        size_t n;
        float *p = ew_adapter_params(t->lora, &n);
        ew_adamw(&t->o.exec, &ao, p, t->grad, t->m, t->v, n, st->step + 1 - st->skipped);
    }
    st->step++;
}

/* Mean answer NLL over the validation items. */
static double validate(tuner *t)
{
    double nll = 0;
    size_t answers = 0;
    for (size_t i = 0; i < t->o.n_val;) {
        pack_reset(t);
        while (i < t->o.n_val && pack_add(t, &t->o.val[i])) {
            answers += answer_rows(t, &t->o.val[i]);
            i++;
        }
        nll += forward(t, 0);
    }
    return answers > 0 ? nll / (double)answers : (double)NAN;
}

/* A point of the curve; the best parameters are kept. When the curve is full every second point goes. */
static void evaluate(tuner *t)
{
    run_state *st = &t->st;
    const double began = now_s();
    const double val = t->o.n_val > 0 ? validate(t) : (double)NAN;
    size_t n;
    const float *p = ew_adapter_params(t->lora, &n);
    if (st->step == 0) {
        st->val_before = val;
    }
    if (t->o.n_val == 0 || st->step == 0 || val < st->val_best) {
        st->val_best = val;
        st->best_step = st->step;
        st->since_best = 0;
        memcpy(t->best, p, n * sizeof(float));
    } else {
        st->since_best++;
    }
    if (st->n_curve == EW_TUNE_POINTS_MAX) {
        for (uint64_t i = 0; i < EW_TUNE_POINTS_MAX / 2; i++) {
            st->curve[i] = st->curve[2 * i];
        }
        st->n_curve = EW_TUNE_POINTS_MAX / 2;
    }
    st->curve[st->n_curve++] =
        (ew_tune_point){(uint32_t)st->step, st->loss_n > 0 ? (float)(st->loss_sum / st->loss_n) : NAN, (float)val};
    st->loss_sum = 0;
    st->loss_n = 0;
    t->eval_s = now_s() - began;
}

/* --- state on disk --- */

static void hash_examples(ew_sha256_stream *sha, const ew_tune_example *x, size_t n)
{
    ew_sha256_stream_add(sha, &n, sizeof(n));
    for (size_t i = 0; i < n; i++) {
        ew_sha256_stream_add(sha, &x[i].n_prompt, sizeof(x[i].n_prompt));
        ew_sha256_stream_add(sha, &x[i].n_answer, sizeof(x[i].n_answer));
        ew_sha256_stream_add(sha, x[i].id, ((size_t)x[i].n_prompt + x[i].n_answer) * sizeof(int32_t));
    }
}

static void make_fingerprint(tuner *t)
{
    EW_AUTO(ew_sha256_stream) sha = ew_sha256_stream_new();
    const ew_tune_opt *o = &t->o;
    char text[512];
    const int n = snprintf(
        text, sizeof(text), "%s %u %.9g %u %d %llu %.9g %.9g %.9g %.9g %.9g %.9g %.9g %.9g %u %u %u %zu %u %u %u %llu",
        ew_adapter_base_sha256(t->lora), o->adapter.rank, (double)o->adapter.alpha, o->adapter.targets,
        o->adapter.rslora, (unsigned long long)o->adapter.seed, (double)o->lr, (double)o->weight_decay, (double)o->clip,
        (double)o->warmup, (double)o->min_lr, (double)o->beta1, (double)o->beta2, (double)o->eps, o->epochs,
        o->max_steps, o->batch, t->t_max, o->seq_max, o->eval_every, o->patience, (unsigned long long)o->seed);
    ew_sha256_stream_add(sha, text, (size_t)n);
    hash_examples(sha, o->train, o->n_train);
    hash_examples(sha, o->val, o->n_val);
    size_t np;
    const float *p = ew_adapter_params(t->lora, &np); /* still the start */
    ew_sha256_stream_add(sha, p, np * sizeof(float));
    ew_sha256_stream_end(sha, t->fingerprint);
}

#define N_BLOCKS 5
static void blocks_of(tuner *t, ew_checkpoint_block b[static N_BLOCKS])
{
    size_t n;
    float *p = ew_adapter_params(t->lora, &n);
    b[0] = (ew_checkpoint_block){"state", &t->st, sizeof(t->st)};
    b[1] = (ew_checkpoint_block){"params", p, n * sizeof(float)};
    b[2] = (ew_checkpoint_block){"m", t->m, n * sizeof(float)};
    b[3] = (ew_checkpoint_block){"v", t->v, n * sizeof(float)};
    b[4] = (ew_checkpoint_block){"best", t->best, n * sizeof(float)};
}

static ew_status save(tuner *t, ew_error *reterr)
{
    t->st.seconds = t->base_seconds + now_s() - t->part_started;
    if (t->o.checkpoint == NULL) {
        return EW_OK;
    }
    ew_checkpoint_block b[N_BLOCKS];
    blocks_of(t, b);
    return ew_checkpoint_save(t->o.checkpoint, KIND, t->fingerprint, b, N_BLOCKS, reterr);
}

static ew_status load_or_begin(tuner *t, bool *ret_resumed, ew_error *reterr)
{
    *ret_resumed = t->o.checkpoint != NULL && ew_file_exists(t->o.checkpoint);
    t->part_started = now_s();
    if (*ret_resumed) {
        ew_checkpoint_block b[N_BLOCKS];
        blocks_of(t, b);
        EW_TRY(ew_checkpoint_load(t->o.checkpoint, KIND, t->fingerprint, b, N_BLOCKS, reterr));
        t->base_seconds = t->st.seconds;
        if (t->st.stopped == EW_TUNE_STOP_TIME + 1) {
            t->st.stopped = 0; /* a new part has a new budget */
        }
        return EW_OK;
    }
    t->st.lr_scale = 1;
    memset(t->m, 0, t->n * sizeof(float));
    memset(t->v, 0, t->n * sizeof(float));
    evaluate(t);
    return save(t, reterr);
}

/* --- the run --- */

static ew_status prepare(tuner *t, ew_error *reterr)
{
    const ew_tune_opt *o = &t->o;
    if (o->n_train == 0) {
        return ew_fail(reterr, EW_EINVAL, "there are no examples to learn from");
    }
    if (o->n_train > UINT32_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%zu examples are too many", o->n_train);
    }
    t->steps_per_epoch = (uint32_t)((o->n_train + o->batch - 1) / o->batch);
    const uint64_t steps = o->max_steps != 0 ? o->max_steps : (uint64_t)o->epochs * t->steps_per_epoch;
    if (steps > UINT32_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%llu steps are too many", (unsigned long long)steps);
    }
    t->steps = (uint32_t)steps;
    t->o.eval_every = o->eval_every != 0 ? o->eval_every : t->steps_per_epoch;
    const size_t t_max = t->t_max;
    if (o->init != NULL) {
        EW_TRY(ew_adapter_dup(o->init, &t->lora, reterr));
        const char *sha = ew_model_sha256_hex(o->model);
        if (sha != NULL && ew_adapter_base_sha256(t->lora)[0] != '\0' &&
            strcmp(sha, ew_adapter_base_sha256(t->lora)) != 0) {
            return ew_fail(reterr, EW_ECONFLICT, "the adapter to start from was made for another base model");
        }
    } else {
        EW_TRY(ew_adapter_new(o->model, &o->adapter, &t->lora, reterr));
    }
    ew_arena dry;
    ew_arena_init_dry(&dry);
    (void)take_all(t, &dry);
    EW_TRY(ew_arena_init(&t->arena, dry.peak, reterr));
    if (!take_all(t, &t->arena) || t->t_max != t_max) {
        return ew_fail(reterr, EW_EINTERNAL, "the trainer's memory plan of %zu bytes does not hold", dry.peak);
    }
    ew_train_work_start(&t->work);
    make_fingerprint(t);
    return EW_OK;
}

/* Why to stop before the next step; 0 = go on, else ew_tune_stop + 1. */
static uint64_t stop_now(const tuner *t)
{
    const run_state *st = &t->st;
    if (st->step >= t->steps) {
        return EW_TUNE_STOP_DONE + 1;
    }
    if (st->bad_in_row >= BAD_IN_ROW_MAX) {
        return EW_TUNE_STOP_DIVERGED + 1;
    }
    if (t->o.n_val > 0 && t->o.patience != UINT32_MAX && st->since_best >= t->o.patience) {
        return EW_TUNE_STOP_PLATEAU + 1;
    }
    const double spent = now_s() - t->part_started;
    if (t->o.max_seconds > 0 && spent + t->step_s + t->eval_s > t->o.max_seconds) {
        return EW_TUNE_STOP_TIME + 1;
    }
    return 0;
}

static ew_status run(tuner *t, ew_error *reterr)
{
    run_state *st = &t->st;
    const uint64_t step0 = st->step;
    double loss = (double)NAN;
    while (st->stopped == 0) {
        st->stopped = stop_now(t);
        if (st->stopped != 0) {
            break;
        }
        const double began = now_s();
        const double sum0 = st->loss_sum, n0 = st->loss_n;
        one_step(t);
        t->step_s = now_s() - began;
        if (st->loss_n > n0) {
            loss = (st->loss_sum - sum0) / (st->loss_n - n0);
        }
        if (st->step % t->o.eval_every == 0) {
            evaluate(t);
        }
        const double rate = (double)(st->step - step0) / EW_MAX(now_s() - t->part_started, 1e-9);
        const ew_progress_info info = {.phase = "tune",
                                       .unit = "steps",
                                       .done = st->step,
                                       .total = t->steps,
                                       .loss = loss,
                                       .left_s = (double)(t->steps - st->step) / rate};
        if (!ew_progress_tell(&t->o.progress, &info)) {
            EW_TRY(save(t, reterr));
            return ew_fail(reterr, EW_ECANCELLED, "tuning was stopped at step %llu of %u%s",
                           (unsigned long long)st->step, t->steps,
                           t->o.checkpoint != NULL ? "; start again to continue" : "");
        }
        if (st->step % t->o.checkpoint_every == 0) {
            EW_TRY(save(t, reterr));
        }
    }
    if (st->n_curve == 0 || st->curve[st->n_curve - 1].step != st->step) {
        evaluate(t);
    }
    return save(t, reterr);
}

static void fill_report(const tuner *t, const ew_tune_memory_plan *plan, bool resumed, ew_tune_report *r)
{
    static const char *const reasons[] = {"all steps done", "validation stopped improving", "time budget used up",
                                          "the loss was not finite again and again"};
    const run_state *st = &t->st;
    memset(r, 0, sizeof(*r));
    r->stop = (ew_tune_stop)(st->stopped - 1);
    r->stop_reason = reasons[r->stop];
    r->steps = (uint32_t)st->step;
    r->steps_planned = t->steps;
    r->skipped = (uint32_t)st->skipped;
    r->tokens = st->tokens;
    for (size_t i = 0; i < t->o.n_train; i++) {
        const ew_tune_example *x = &t->o.train[i];
        r->truncated += (size_t)x->n_prompt + x->n_answer - 1 > t->o.seq_max;
    }
    r->seconds = st->seconds;
    r->tok_per_s = st->seconds > 0 ? (double)st->tokens / st->seconds : 0;
    r->train_loss = NAN;
    for (uint64_t i = 0; i < st->n_curve; i++) {
        r->curve[i] = st->curve[i];
        r->train_loss = isfinite(st->curve[i].train_loss) ? st->curve[i].train_loss : r->train_loss;
    }
    r->n_curve = (uint32_t)st->n_curve;
    r->val_nll_before = (float)st->val_before;
    r->val_nll_best = (float)st->val_best;
    r->best_step = (uint32_t)st->best_step;
    r->peak_ram_predicted_bytes = plan->total_bytes;
    r->arena_bytes = plan->arena_bytes;
    r->resumed = resumed;
}

ew_status ew_tune(const ew_tune_opt *opt, ew_adapter **ret_lora, ew_tune_report *ret_report, ew_error *reterr)
{
    tuner *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer");
    }
    ew_tune_memory_plan plan;
    bool resumed = false;
    ew_status st = tuner_init(t, opt, &plan, reterr);
    if (st == EW_OK) {
        st = prepare(t, reterr);
    }
    if (st == EW_OK) {
        st = load_or_begin(t, &resumed, reterr);
    }
    if (st == EW_OK) {
        st = run(t, reterr);
    }
    if (st == EW_OK) {
        size_t n;
        memcpy(ew_adapter_params(t->lora, &n), t->best, t->n * sizeof(float));
        if (ret_report != NULL) {
            fill_report(t, &plan, resumed, ret_report);
        }
        *ret_lora = t->lora;
        t->lora = NULL;
    }
    tuner_release(t);
    return st;
}

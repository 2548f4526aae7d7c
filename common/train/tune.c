#include "train/tune_int.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "kern/ops.h"
#include "model/pages.h"
#include "sys/pool.h"
#include "train/exits.h"

#define BAD_IN_ROW_MAX 6
#define BLOCKS_DEFAULT 4u /* of block-wise tuning, as in the paper */

const char *ew_tune_stop_text(ew_tune_stop s)
{
    static const char *const text[EW_TUNE_STOP_COUNT] = {"all steps done",
                                                         "validation stopped improving",
                                                         "time budget used up",
                                                         "energy budget used up",
                                                         "the machine is too hot",
                                                         "the machine runs on its battery",
                                                         "the loss was not finite again and again"};
    return (unsigned)s < EW_TUNE_STOP_COUNT ? text[s] : "?";
}

/* --- options --- */

static float or_default(float x, float d)
{
    return x > 0 ? x : x < 0 ? 0 : d;
}

static ew_mezo_kind mezo_kind(const ew_adapter_opt *a)
{
    return a->kind == EW_ADAPTER_FULL                                     ? EW_MEZO_FULL
           : a->kind == EW_ADAPTER_PREFIX || a->kind == EW_ADAPTER_PROMPT ? EW_MEZO_PREFIX
                                                                          : EW_MEZO_LORA;
}

float ew_tune_default_lr(const ew_adapter_opt *a, ew_tune_rung rung)
{
    if (rung == EW_TUNE_RUNG_MEZO) {
        return ew_mezo_default_lr(mezo_kind(a));
    }
    switch (a->kind) {
    case EW_ADAPTER_PROMPT:
    case EW_ADAPTER_PREFIX:
        return 1e-2F;
    case EW_ADAPTER_IA3:
        return 3e-3F;
    case EW_ADAPTER_FULL:
        return 2e-5F;
    default:
        return rung == EW_TUNE_RUNG_BLOCKWISE ? 3e-3F : 1e-3F;
    }
}

ew_status ew__tune_rung_check(const ew_tune_opt *o, ew_tune_rung rung, ew_error *reterr)
{
    const ew_adapter_opt *a = &o->adapter;
    if (rung == EW_TUNE_RUNG_BLOCKWISE) {
        if (a->kind != EW_ADAPTER_LORA || (o->init != NULL && a->n_exits == 0)) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "block-wise tuning needs a LoRA adapter with early exits");
        }
        return ew_model_config_of(o->model)->L >= 2
                   ? EW_OK
                   : ew_fail(reterr, EW_EUNSUPPORTED, "block-wise tuning needs two layers");
    }
    if (a->n_exits > 0 && rung != EW_TUNE_RUNG_AUTO) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "an adapter with early exits is tuned block-wise alone");
    }
    if (rung == EW_TUNE_RUNG_MEZO && a->dropout > 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "MeZO compares two losses of the same batch: no dropout");
    }
    return EW_OK;
}

/* Differences of two losses, as MeZO takes them, and sums of many small updates want f32. */
static bool wants_bf16(const ew_tune_opt *o)
{
    if (o->products != EW_TUNE_PRODUCTS_AUTO) {
        return o->products == EW_TUNE_PRODUCTS_BF16;
    }
    return o->rung != EW_TUNE_RUNG_MEZO && o->adapter.kind != EW_ADAPTER_FULL &&
           strcmp(ew_model_dtype_name(o->model), "F32") != 0;
}

ew_status ew__tune_rung_options(ew__tuner *t, ew_error *reterr)
{
    ew_tune_opt *o = &t->o;
    const ew_kern *kern = t->asked.exec.kern != NULL ? t->asked.exec.kern : ew_kern_get(NULL);
    o->products = t->asked.products;
    o->exec.kern = wants_bf16(o) ? ew_kern_bf16(kern) : kern;
    o->products = o->exec.kern != kern ? EW_TUNE_PRODUCTS_BF16 : EW_TUNE_PRODUCTS_F32;
    const bool mezo = o->rung == EW_TUNE_RUNG_MEZO;
    EW_TRY(ew__tune_rung_check(o, o->rung, reterr));
    if (o->rung == EW_TUNE_RUNG_BLOCKWISE && o->adapter.n_exits == 0) {
        EW_TRY(ew_exits_spread(t->cfg->L, EW_MIN(BLOCKS_DEFAULT, t->cfg->L), &o->adapter, reterr));
    }
    EW_TRY(ew_adapter_check(o->model, &o->adapter, reterr));
    o->lr = or_default(t->asked.lr, ew_tune_default_lr(&o->adapter, o->rung));
    o->warmup = or_default(t->asked.warmup, mezo ? 0 : 0.05F);
    o->min_lr = or_default(t->asked.min_lr, mezo ? 1.0F : 0.1F);
    if (mezo) {
        t->mezo = (ew_mezo_opt){.eps = or_default(o->mezo_eps, ew_mezo_default_eps(mezo_kind(&o->adapter))),
                                .n_spsa = o->mezo_spsa,
                                .weight_decay = o->weight_decay,
                                .seed = o->seed};
        EW_TRY(ew_mezo_check(&t->mezo, reterr));
    }
    if (!(o->lr > 0) || !isfinite(o->lr) || o->lr > 1) {
        return ew_fail(reterr, EW_EINVAL, "learning rate %g is not in (0, 1]", (double)o->lr);
    }
    return EW_OK;
}

/* Tokens of the longest sequence: virtual positions take of those that a model has learned. */
static uint32_t longest_sequence(const ew_model_config *cfg, const ew_adapter_opt *a)
{
    return cfg->n_pos > a->n_virtual ? EW_MIN(cfg->n_ctx_train, cfg->n_pos - a->n_virtual) : cfg->n_ctx_train;
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
    if (o->rung == EW_TUNE_RUNG_AUTO && o->adapter.n_exits > 0) {
        o->rung = EW_TUNE_RUNG_BLOCKWISE;
    }
    o->exec.kern = o->exec.kern != NULL ? o->exec.kern : ew_kern_get(NULL);
    o->clip = or_default(o->clip, 1.0F);
    o->beta1 = or_default(o->beta1, 0.9F);
    o->beta2 = or_default(o->beta2, 0.999F);
    o->eps = or_default(o->eps, 1e-8F);
    o->epochs = o->epochs != 0 ? o->epochs : 3;
    o->batch = o->batch != 0 ? o->batch : 8;
    o->accumulate = o->accumulate != 0 ? o->accumulate : 1;
    o->seq_max = o->seq_max != 0 ? o->seq_max : EW_MIN(512u, cfg->n_ctx_train);
    o->patience = o->patience != 0 ? o->patience : 3;
    o->checkpoint_every = o->checkpoint_every != 0 ? o->checkpoint_every : 20;
    if (o->beta1 >= 1 || o->beta2 >= 1 || !(o->eps > 0) || !isfinite(o->eps) || o->warmup > 1 || o->min_lr > 1 ||
        !(o->weight_decay >= 0) || !isfinite(o->weight_decay)) {
        return ew_fail(reterr, EW_EINVAL,
                       "betas, eps, warm-up, the last rate's share or weight decay are out of range");
    }
    if (o->seq_max < 8 || o->seq_max > cfg->n_ctx_train) {
        return ew_fail(reterr, EW_EINVAL, "sequence length %u: this model takes 8 to %u tokens", o->seq_max,
                       cfg->n_ctx_train);
    }
    o->seq_max = EW_MIN(o->seq_max, longest_sequence(cfg, &o->adapter));
    return EW_OK;
}

static ew_status tuner_init(ew__tuner *t, const ew_tune_opt *opt, ew_tune_memory_plan *plan, ew_error *reterr)
{
    EW_TRY(resolve(opt, &t->o, reterr));
    t->asked = *opt;
    t->cfg = ew_model_config_of(t->o.model);
    t->group = (size_t)t->o.batch * t->o.accumulate;
    t->n_virtual = t->o.adapter.n_virtual;
    t->prompt_rows = t->o.adapter.kind == EW_ADAPTER_PROMPT ? t->n_virtual : 0;
    EW_TRY(ew__tune_examples(t, reterr));
    return ew__tune_fit(t, plan, reterr);
}

static void tuner_release(ew__tuner *t)
{
    ew_pass_free(&t->pass);
    ew_arena_release(&t->arena);
    ew_model_free(&t->model);
    ew_adapter_free(&t->adapter);
    ew_budget_free(&t->budget);
    ew_free(t->table);
    ew_free(t);
}

ew_status ew_tune_memory(const ew_tune_opt *opt, ew_tune_memory_plan *ret_plan, ew_error *reterr)
{
    ew__tuner *t = ew_calloc(1, sizeof(*t));
    if (t == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the trainer");
    }
    ew_tune_memory_plan plan;
    const ew_status st = tuner_init(t, opt, &plan, reterr);
    tuner_release(t);
    if (st == EW_OK) {
        *ret_plan = plan;
    }
    return st;
}

/* --- steps --- */

/* The stretch of steps with a schedule of its own: the whole run, or block-wise one block's. */
typedef struct stretch {
    uint64_t first, n;
} stretch;

static stretch stretch_of(const ew__tuner *t)
{
    if (t->o.rung != EW_TUNE_RUNG_BLOCKWISE) {
        return (stretch){0, t->steps};
    }
    const uint32_t phase = ew_exits_phase(&t->o.adapter, t->st.step, t->steps);
    const uint64_t first = ew_exits_phase_start(&t->o.adapter, phase, t->steps);
    return (stretch){first, ew_exits_phase_start(&t->o.adapter, phase + 1, t->steps) - first};
}

/* Linear warm-up, then a cosine. */
static float lr_now(const ew__tuner *t)
{
    const stretch r = stretch_of(t);
    const double warm = (double)t->o.warmup * (double)r.n, low = (double)t->o.min_lr;
    const double s = (double)(t->st.step - r.first) + 1;
    double f = 1;
    if (s < warm) {
        f = s / warm;
    } else if ((double)r.n > warm) {
        f = low + (1.0 - low) * 0.5 * (1.0 + cos(3.14159265358979323846 * (s - warm) / ((double)r.n - warm)));
    }
    return (float)((double)t->o.lr * t->st.lr_scale * f);
}

/* What a step has done. */
typedef struct step_result {
    double nll; /* sum over the answer tokens */
    size_t answers;
    uint64_t tokens;
    bool finite; /* false: nothing has changed */
} step_result;

/* Sum of a walk's NLL, forward only. */
static double walk_loss(ew__tuner *t, ew__tune_walk w, const ew_pass_window *window, uint64_t *tokens)
{
    double nll = 0;
    while (ew__tune_next(t, &w)) {
        nll += ew_pass_loss(t->pass, &t->pack, window);
        *tokens += t->pack.b.T;
    }
    return nll;
}

/* The window of the present step; NULL = all layers. */
static const ew_pass_window *window_now(const ew__tuner *t, ew_pass_window *room)
{
    if (t->o.rung != EW_TUNE_RUNG_BLOCKWISE) {
        return NULL;
    }
    *room = ew_exits_window(&t->o.adapter, t->cfg->L, (uint32_t)t->st.phase);
    return room;
}

static void optimize(ew__tuner *t, const ew_pass_window *window, double norm)
{
    const ew_tune_opt *o = &t->o;
    const bool cut = o->clip > 0 && norm > (double)o->clip;
    const ew_adamw_opt ao = {.lr = lr_now(t),
                             .beta1 = o->beta1,
                             .beta2 = o->beta2,
                             .eps = o->eps,
                             .weight_decay = o->weight_decay,
                             .grad_scale = cut ? (float)((double)o->clip / norm) : 1.0F};
    size_t n;
    float *p = ew_adapter_params(t->adapter, &n);
    if (t->o.n_val == 0) { /* the last whose loss was a number */
        memcpy(t->best, p, n * sizeof(float));
    }
    ew_adapter_span span[2] = {{0, n}, {n, 0}};
    if (window != NULL) {
        ew_exits_spans(t->cfg, &o->adapter, n, window, span);
    }
    const uint64_t count = t->st.step - stretch_of(t).first + 1 - (t->st.skipped - t->st.phase_skipped);
    for (size_t i = 0, at = 0; i < EW_COUNT(span); at += span[i++].n) { /* gradient and moments have the spans alone */
        ew_optim_step(&o->exec, &t->optim, &ao, p + (span[i].at - at), t->grad, at, span[i].n, count);
    }
}

/* Mean loss of a step's batch, as the methods that look before they step want it. */
typedef struct batch_loss {
    ew__tuner *t;
    ew__tune_walk walk;
    const ew_pass_window *window;
    size_t answers;
    uint64_t tokens;
} batch_loss;

static double loss_of_batch(void *ctx)
{
    batch_loss *b = ctx;
    ew_adapter_refresh(b->t->adapter, b->t->o.model, &b->t->o.exec);
    return walk_loss(b->t, b->walk, b->window, &b->tokens) / (double)b->answers;
}

/* Block-wise: a block begins. */
static void calibrate(ew__tuner *t, const ew_pass_window *window, size_t answers)
{
    batch_loss b = {.t = t, .walk = ew__tune_walk_step(t), .window = window, .answers = answers};
    ew_adapter_span span[2];
    size_t n;
    float *p = ew_adapter_params(t->adapter, &n);
    ew_exits_spans(t->cfg, &t->o.adapter, n, window, span);
    if (span[1].n > 0) {
        ew_exits_calibrate(p + span[1].at, span[1].n, loss_of_batch, &b);
    }
}

static void gradient_step(ew__tuner *t, step_result *r)
{
    ew__tune_walk w = ew__tune_walk_step(t);
    ew_pass_window room;
    const ew_pass_window *window = window_now(t, &room);
    r->answers = ew__tune_walk_answers(t, &w);
    if (window != NULL && t->st.step == stretch_of(t).first) {
        ew_optim_start(&t->optim);
        calibrate(t, window, r->answers);
    }
    memset(t->grad, 0, t->n_learn * sizeof(float));
    for (uint64_t pass = 0; ew__tune_next(t, &w); pass++) {
        r->nll += ew_pass_gradient(t->pass, &t->pack, window, (float)(1.0 / (double)r->answers),
                                   t->st.step << 20 | pass, t->grad);
        r->tokens += t->pack.b.T;
    }
    const double norm = sqrt(ew_vec_sumsq(&t->o.exec, t->grad, t->n_learn));
    r->finite = isfinite(r->nll) && isfinite(norm);
    if (r->finite) {
        optimize(t, window, norm);
    }
}

static void mezo_step(ew__tuner *t, step_result *r)
{
    batch_loss m = {.t = t, .walk = ew__tune_walk_step(t)};
    m.answers = ew__tune_walk_answers(t, &m.walk);
    size_t n;
    float *p = ew_adapter_params(t->adapter, &n);
    ew_mezo_result res;
    ew_mezo_step(&t->o.exec, &t->mezo, t->st.step, lr_now(t), p, t->kept, n, loss_of_batch, &m, &res);
    r->nll = res.loss * (double)m.answers;
    r->answers = m.answers;
    r->tokens = m.tokens;
    if (t->o.n_val == 0 && res.finite) {
        memcpy(t->best, t->kept, n * sizeof(float));
    }
    r->finite = res.finite;
}

static void one_step(ew__tuner *t)
{
    ew__tune_run *st = &t->st;
    step_result r = {0};
    if (t->o.rung == EW_TUNE_RUNG_MEZO) {
        mezo_step(t, &r);
    } else {
        gradient_step(t, &r);
    }
    ew_adapter_refresh(t->adapter, t->o.model, &t->o.exec);
    st->tokens += r.tokens;
    if (r.finite) {
        st->bad_in_row = 0;
        st->loss_sum += r.nll;
        st->loss_n += (double)r.answers;
    } else {
        st->skipped++;
        st->bad_in_row++;
        st->lr_scale *= 0.5;
    }
    st->step++;
}

/* --- validation --- */

/* Mean answer NLL over the validation items. */
static double validate(ew__tuner *t, const ew_pass_window *window)
{
    ew__tune_walk w = ew__tune_walk_val(t);
    const size_t answers = ew__tune_walk_answers(t, &w);
    uint64_t tokens = 0;
    const double nll = answers > 0 ? walk_loss(t, w, window, &tokens) : 0;
    return answers > 0 ? nll / (double)answers : (double)NAN;
}

/* A point of the curve; the best parameters are kept. When the curve is full every second point goes. */
static void evaluate(ew__tuner *t)
{
    ew__tune_run *st = &t->st;
    ew_pass_window room;
    const double began = ew_mono_s();
    const double val = validate(t, window_now(t, &room));
    const bool first = st->n_curve == 0 || isinf(st->val_best);
    if (st->n_curve == 0) {
        st->val_before = t->o.rung == EW_TUNE_RUNG_BLOCKWISE ? validate(t, NULL) : val;
    }
    if (t->o.n_val == 0 ? st->bad_in_row == 0 : first || val < st->val_best) {
        size_t n;
        const float *p = ew_adapter_params(t->adapter, &n);
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
    t->eval_s = ew_mono_s() - began;
}

/* Block-wise: a block begins. Its losses are of another exit, so the best so far is what the block below has come to. */
static void enter_phase(ew__tuner *t)
{
    ew__tune_run *st = &t->st;
    if (t->o.rung != EW_TUNE_RUNG_BLOCKWISE || st->step >= t->steps) {
        return;
    }
    const uint32_t phase = ew_exits_phase(&t->o.adapter, st->step, t->steps);
    if (phase != st->phase) {
        st->phase = phase;
        st->phase_skipped = st->skipped;
        st->val_best = (double)INFINITY;
        evaluate(t);
    }
}

/* --- the run --- */

static ew_status prepare_adapter(ew__tuner *t, ew_error *reterr)
{
    const ew_tune_opt *o = &t->o;
    if (o->init == NULL) {
        EW_TRY(ew_adapter_new(o->model, &o->adapter, &t->adapter, reterr));
    } else {
        EW_TRY(ew_adapter_dup(o->init, &t->adapter, reterr));
        const char *sha = ew_model_sha256_hex(o->model), *own = ew_adapter_base_sha256(t->adapter);
        if (sha != NULL && own[0] != '\0' && strcmp(sha, own) != 0) {
            return ew_fail(reterr, EW_ECONFLICT, "the adapter to start from was made for another base model");
        }
    }
    size_t n;
    (void)ew_adapter_params(t->adapter, &n);
    if (n != t->n) {
        return ew_fail(reterr, EW_EINVAL, "the adapter to start from has %zu parameters, this model wants %zu", n,
                       t->n);
    }
    for (uint32_t il = 0; o->drop_pages && il <= t->cfg->L;
         il++) { /* what the start read: norms for DoRA, all for a full tuning */
        ew_model_pages_drop(o->model, il);
    }
    return ew_adapter_model(t->adapter, o->model, &t->model, reterr);
}

static ew_status prepare_steps(ew__tuner *t, ew_error *reterr)
{
    const ew_tune_opt *o = &t->o;
    if (o->n_train == 0) {
        return ew_fail(reterr, EW_EINVAL, "there are no examples to learn from");
    }
    t->steps_per_epoch = (uint32_t)((o->n_train + t->group - 1) / t->group);
    const uint64_t steps = o->max_steps != 0 ? o->max_steps : (uint64_t)o->epochs * t->steps_per_epoch;
    if (steps > UINT32_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%llu steps are too many", (unsigned long long)steps);
    }
    t->steps = (uint32_t)steps;
    t->o.eval_every = o->eval_every != 0 ? o->eval_every : t->steps_per_epoch;
    return EW_OK;
}

static ew_status start_budget(ew__tuner *t, ew_error *reterr)
{
    const ew_tune_opt *o = &t->o;
    const ew_budget_opt bo = {.max_seconds = o->max_seconds,
                              .max_joules = o->max_joules,
                              .max_temperature_c = o->max_temperature_c,
                              .only_on_mains = o->only_on_mains,
                              .watts = o->watts,
                              .threads = ew_pool_threads(o->exec.pool),
                              .sys_root = o->sys_root};
    return ew_budget_new(&bo, &t->budget, reterr);
}

static ew_status prepare(ew__tuner *t, ew_error *reterr)
{
    EW_TRY(prepare_steps(t, reterr));
    EW_TRY(prepare_adapter(t, reterr));
    EW_TRY(ew__tune_pass(t, reterr));
    ew_arena dry;
    ew_arena_init_dry(&dry);
    (void)ew__tune_take(t, &dry);
    EW_TRY(ew_arena_init(&t->arena, dry.peak, reterr));
    if (!ew__tune_take(t, &t->arena)) {
        return ew_fail(reterr, EW_EINTERNAL, "the trainer's memory plan of %zu bytes does not hold", dry.peak);
    }
    ew_pass_start(t->pass);
    if (t->optim.n != 0) {
        ew_optim_start(&t->optim);
    }
    ew__tune_fingerprint(t);
    return start_budget(t, reterr);
}

/* A checkpoint on the way: when the disk is full the run goes on, and the next one is tried again. */
static void save_or_note(ew__tuner *t)
{
    ew_error err = EW_ERROR_INIT;
    if (ew__tune_save(t, &err) != EW_OK) {
        t->checkpoints_failed++;
        t->checkpoint_err = err;
    }
}

static ew_status load_or_begin(ew__tuner *t, bool *ret_resumed, ew_error *reterr)
{
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew__tune_load(t, &err);
    if (st != EW_OK && st != EW_ENOENT) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    *ret_resumed = st == EW_OK;
    ew_adapter_refresh(t->adapter, t->o.model, &t->o.exec);
    if (*ret_resumed) {
        return EW_OK;
    }
    t->st.lr_scale = 1;
    evaluate(t);
    st = ew__tune_save(t, &err);
    if (st == EW_ENOSPC) { /* any other reason is the path's, and told before hours are spent */
        t->checkpoints_failed++;
        t->checkpoint_err = err;
        return EW_OK;
    }
    return st == EW_OK ? EW_OK : ew_fail(reterr, st, "%s", err.msg);
}

/* Why to stop before the next step; 0 = go on, else ew_tune_stop + 1. */
static uint64_t stop_now(ew__tuner *t)
{
    static const ew_tune_stop limits[] = {[EW_BUDGET_TIME] = EW_TUNE_STOP_TIME,
                                          [EW_BUDGET_ENERGY] = EW_TUNE_STOP_ENERGY,
                                          [EW_BUDGET_HEAT] = EW_TUNE_STOP_HEAT,
                                          [EW_BUDGET_MAINS] = EW_TUNE_STOP_MAINS};
    const ew__tune_run *st = &t->st;
    if (st->step >= t->steps) {
        return EW_TUNE_STOP_DONE + 1;
    }
    if (st->bad_in_row >= BAD_IN_ROW_MAX) {
        return EW_TUNE_STOP_DIVERGED + 1;
    }
    const bool last_block = t->o.rung != EW_TUNE_RUNG_BLOCKWISE || st->phase == t->o.adapter.n_exits;
    if (last_block && t->o.n_val > 0 && t->o.patience != UINT32_MAX && st->since_best >= t->o.patience) {
        return EW_TUNE_STOP_PLATEAU + 1;
    }
    const ew_budget_limit limit = ew_budget_check(t->budget, t->step_s + t->eval_s, &t->use);
    return limit != EW_BUDGET_FREE ? limits[limit] + 1 : 0;
}

static ew_status cancelled(ew__tuner *t, ew_error *reterr)
{
    ew_error err = EW_ERROR_INIT;
    const unsigned long long step = t->st.step;
    if (t->o.checkpoint != NULL && ew__tune_save(t, &err) != EW_OK) {
        return ew_fail(reterr, EW_ECANCELLED, "tuning was stopped at step %llu of %u; its state could not be kept (%s)",
                       step, t->steps, err.msg);
    }
    return ew_fail(reterr, EW_ECANCELLED, "tuning was stopped at step %llu of %u%s", step, t->steps,
                   t->o.checkpoint != NULL ? "; start again to continue" : "");
}

static bool tell(ew__tuner *t, double loss, uint64_t step0, uint64_t tokens0)
{
    const ew__tune_run *st = &t->st;
    const double seconds = EW_MAX(t->use.seconds, 1e-9);
    const ew_progress_info info = {.phase = "tune",
                                   .unit = "steps",
                                   .done = st->step,
                                   .total = t->steps,
                                   .loss = loss,
                                   .left_s = (double)(t->steps - st->step) * seconds / (double)(st->step - step0),
                                   .tok_per_s = (double)(st->tokens - tokens0) / seconds,
                                   .joules = t->base_joules + t->use.joules,
                                   .estimated = t->use.estimated || st->estimated != 0};
    return ew_progress_tell(&t->o.progress, &info);
}

static ew_status run(ew__tuner *t, ew_error *reterr)
{
    ew__tune_run *st = &t->st;
    const uint64_t step0 = st->step, tokens0 = st->tokens;
    double loss = (double)NAN;
    while (st->stopped == 0 && (st->stopped = stop_now(t)) == 0) {
        enter_phase(t);
        const double began = ew_mono_s(), sum0 = st->loss_sum, n0 = st->loss_n;
        one_step(t);
        t->step_s = ew_mono_s() - began;
        if (st->loss_n > n0) {
            loss = (st->loss_sum - sum0) / (st->loss_n - n0);
        }
        if (st->step % t->o.eval_every == 0) {
            evaluate(t);
        }
        ew_budget_sample(t->budget, &t->use);
        if (!tell(t, loss, step0, tokens0)) {
            return cancelled(t, reterr);
        }
        if (st->step % t->o.checkpoint_every == 0) {
            save_or_note(t);
        }
    }
    if (st->n_curve == 0 || st->curve[st->n_curve - 1].step != st->step) {
        evaluate(t);
    }
    save_or_note(t);
    return EW_OK;
}

static void fill_report(const ew__tuner *t, const ew_tune_memory_plan *plan, bool resumed, ew_tune_report *r)
{
    const ew__tune_run *st = &t->st;
    *r = (ew_tune_report){.stop = (ew_tune_stop)(st->stopped - 1),
                          .rung = t->o.rung,
                          .bf16 = t->o.products == EW_TUNE_PRODUCTS_BF16,
                          .drop_pages = t->o.drop_pages,
                          .steps = (uint32_t)st->step,
                          .steps_planned = t->steps,
                          .skipped = (uint32_t)st->skipped,
                          .tokens = st->tokens,
                          .truncated = t->truncated,
                          .empty = t->empty,
                          .seconds = st->seconds,
                          .joules = st->joules,
                          .joules_estimated = st->estimated != 0,
                          .tok_per_s = st->seconds > 0 ? (double)st->tokens / st->seconds : 0,
                          .train_loss = NAN,
                          .val_nll_before = (float)st->val_before,
                          .val_nll_best = (float)st->val_best,
                          .best_step = (uint32_t)st->best_step,
                          .peak_ram_predicted_bytes = plan->total_bytes,
                          .arena_bytes = plan->arena_bytes,
                          .resumed = resumed,
                          .checkpoints_failed = t->checkpoints_failed,
                          .n_curve = (uint32_t)st->n_curve};
    r->stop_reason = ew_tune_stop_text(r->stop);
    ew_str_copy(r->checkpoint_error, sizeof(r->checkpoint_error), t->checkpoint_err.msg);
    for (uint64_t i = 0; i < st->n_curve; i++) {
        r->curve[i] = st->curve[i];
        r->train_loss = isfinite(st->curve[i].train_loss) ? st->curve[i].train_loss : r->train_loss;
    }
}

ew_status ew_tune(const ew_tune_opt *opt, ew_adapter **ret_adapter, ew_tune_report *ret_report, ew_error *reterr)
{
    ew__tuner *t = ew_calloc(1, sizeof(*t));
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
        memcpy(ew_adapter_params(t->adapter, &n), t->best, t->n * sizeof(float));
        ew_adapter_refresh(t->adapter, t->o.model, &t->o.exec);
        if (ret_report != NULL) {
            fill_report(t, &plan, resumed, ret_report);
        }
        *ret_adapter = t->adapter;
        t->adapter = NULL;
    }
    tuner_release(t);
    return st;
}

/* Adapters in memory: options, the layout of the parameters, starting values, hooks and gradients, DoRA's norms. */
#include "peft/adapter.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"

/* ---- options ---- */

static const char *const kind_names[] = {
    [EW_ADAPTER_LORA] = "lora", [EW_ADAPTER_PROMPT] = "prompt",         [EW_ADAPTER_PREFIX] = "prefix",
    [EW_ADAPTER_IA3] = "ia3",   [EW_ADAPTER_BOTTLENECK] = "bottleneck", [EW_ADAPTER_FULL] = "full"};

const char *ew_adapter_kind_name(const ew_adapter_opt *opt)
{
    const unsigned kind = opt->kind == 0 ? EW_ADAPTER_LORA : (unsigned)opt->kind;
    if (kind == EW_ADAPTER_LORA && opt->dora) {
        return "dora";
    }
    return kind < EW_COUNT(kind_names) ? kind_names[kind] : "unknown";
}

bool ew_adapter_kind_parse(const char *name, ew_adapter_opt *opt)
{
    const bool dora = ew_str_eq(name, "dora");
    for (unsigned k = EW_ADAPTER_LORA; k < EW_COUNT(kind_names); k++) {
        if (ew_str_eq(name, kind_names[k]) || (dora && k == EW_ADAPTER_LORA)) {
            opt->kind = (ew_adapter_kind)k;
            opt->dora = dora;
            return true;
        }
    }
    return false;
}

/* A member that the kind does not have. */
static const char *foreign_member(const ew_adapter_opt *o)
{
    const bool lora = o->kind == EW_ADAPTER_LORA, prompt = o->kind == EW_ADAPTER_PROMPT;
    const struct {
        bool set, allowed;
        const char *name;
    } members[] = {{o->targets != 0, lora || o->kind == EW_ADAPTER_IA3, "targets"},
                   {o->rank != 0, lora, "a rank"},
                   {o->alpha != 0, lora, "an alpha"},
                   {o->rslora || o->dora, lora, "rank-stabilised scales or magnitudes"},
                   {o->dropout != 0, lora, "dropout"},
                   {o->n_exits != 0, lora, "exits"},
                   {o->n_virtual != 0, prompt || o->kind == EW_ADAPTER_PREFIX, "virtual positions"},
                   {o->n_init_ids != 0, prompt, "tokens to start from"},
                   {o->width != 0 || o->act != 0, o->kind == EW_ADAPTER_BOTTLENECK, "a width or an activation"}};
    for (size_t i = 0; i < EW_COUNT(members); i++) {
        if (members[i].set && !members[i].allowed) {
            return members[i].name;
        }
    }
    return NULL;
}

static ew_status check_lora(const ew_adapter_opt *o, ew_error *reterr)
{
    if (o->rank > EW_ADAPTER_RANK_MAX) {
        return ew_fail(reterr, EW_EINVAL, "LoRA rank %u is above the maximum of %u", o->rank, EW_ADAPTER_RANK_MAX);
    }
    if (!(o->alpha >= 0) || !isfinite(o->alpha)) {
        return ew_fail(reterr, EW_EINVAL, "LoRA alpha %g is not a positive number", (double)o->alpha);
    }
    if (!(o->dropout >= 0 && o->dropout < 1)) {
        return ew_fail(reterr, EW_EINVAL, "LoRA dropout %g is outside [0, 1)", (double)o->dropout);
    }
    if (o->n_exits > EW_ADAPTER_EXITS_MAX) {
        return ew_fail(reterr, EW_EINVAL, "%u exits are over the limit of %u", o->n_exits, EW_ADAPTER_EXITS_MAX);
    }
    for (uint32_t i = 0; i < o->n_exits; i++) {
        if (o->exit[i] == 0 || (i > 0 && o->exit[i] <= o->exit[i - 1])) {
            return ew_fail(reterr, EW_EINVAL, "exits should stand behind layers in rising order, from 1 on");
        }
    }
    return EW_OK;
}

ew_status ew_adapter_opt_resolve(const ew_adapter_opt *opt, ew_adapter_opt *ret_opt, ew_error *reterr)
{
    ew_adapter_opt o = opt != NULL ? *opt : (ew_adapter_opt){0};
    o.kind = o.kind == 0 ? EW_ADAPTER_LORA : o.kind;
    if ((unsigned)o.kind >= EW_COUNT(kind_names)) {
        return ew_fail(reterr, EW_EINVAL, "there is no adapter of kind %d", (int)o.kind);
    }
    const char *foreign = foreign_member(&o);
    if (foreign != NULL) {
        return ew_fail(reterr, EW_EINVAL, "an adapter of kind %s does not have %s", ew_adapter_kind_name(&o), foreign);
    }
    if ((o.targets & ~EW_ADAPTER_ALL) != 0) {
        return ew_fail(reterr, EW_EINVAL, "adapter targets 0x%x name linears that do not exist", o.targets);
    }
    if (o.n_virtual > EW_ADAPTER_VIRTUAL_MAX || o.width > EW_ADAPTER_RANK_MAX || (unsigned)o.act > EW_ACT_RELU) {
        return ew_fail(reterr, EW_EINVAL,
                       "%u virtual positions, width %u or activation %d: up to %u, %u and the known ones", o.n_virtual,
                       o.width, (int)o.act, EW_ADAPTER_VIRTUAL_MAX, EW_ADAPTER_RANK_MAX);
    }
    EW_TRY(check_lora(&o, reterr));
    if (o.kind == EW_ADAPTER_LORA) {
        o.rank = o.rank == 0 ? 8 : o.rank;
        o.targets = o.targets == 0 ? EW_ADAPTER_ALL : o.targets;
        o.alpha = o.alpha > 0 ? o.alpha : 2.0F * (float)o.rank;
    } else if (o.kind == EW_ADAPTER_IA3 && o.targets == 0) {
        o.targets = EW_ADAPTER_TARGET(EW_LINEAR_K) | EW_ADAPTER_TARGET(EW_LINEAR_V) | EW_ADAPTER_TARGET(EW_LINEAR_DOWN);
    } else if (o.kind == EW_ADAPTER_PROMPT || o.kind == EW_ADAPTER_PREFIX) {
        o.n_virtual = o.n_virtual == 0 ? 16 : o.n_virtual;
    } else if (o.kind == EW_ADAPTER_BOTTLENECK) {
        o.width = o.width == 0 ? 16 : o.width;
    }
    *ret_opt = o;
    return EW_OK;
}

/* ---- layout ---- */

typedef struct layout {
    ew_part *part; /* NULL: only counts */
    size_t n_parts, n;
} layout;

static void add_part(layout *l, ew_part_what what, uint32_t layer, uint32_t index, uint32_t rows, uint32_t cols)
{
    if (l->part != NULL) {
        l->part[l->n_parts] = (ew_part){what, layer, index, rows, cols, l->n};
    }
    l->n_parts++;
    l->n += (size_t)rows * cols;
}

static void lay_layer(const ew_model_config *cfg, const ew_adapter_opt *o, uint32_t il, layout *l)
{
    for (uint32_t i = 0; i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        if ((o->targets & EW_ADAPTER_TARGET(i)) == 0 || rows == 0) {
            continue;
        }
        if (o->kind == EW_ADAPTER_IA3) {
            add_part(l, EW_PART_SCALE, il, i, 1, i == EW_LINEAR_DOWN ? cols : rows);
            continue;
        }
        add_part(l, EW_PART_A, il, i, o->rank, cols);
        add_part(l, EW_PART_B, il, i, rows, o->rank);
        if (o->dora) {
            add_part(l, EW_PART_MAGNITUDE, il, i, 1, rows);
        }
    }
    for (uint32_t i = 0; o->kind == EW_ADAPTER_BOTTLENECK && i < 2; i++) {
        add_part(l, EW_PART_DOWN, il, i, o->width, cfg->C);
        add_part(l, EW_PART_DOWN_B, il, i, 1, o->width);
        add_part(l, EW_PART_UP, il, i, cfg->C, o->width);
        add_part(l, EW_PART_UP_B, il, i, 1, cfg->C);
    }
}

/* The parts of every kind but FULL. */
static layout lay_out(const ew_model_config *cfg, const ew_adapter_opt *o, ew_part *part)
{
    layout l = {.part = part};
    for (uint32_t il = 0; il < cfg->L; il++) {
        lay_layer(cfg, o, il, &l);
    }
    for (uint32_t i = 0; i < o->n_exits; i++) {
        add_part(&l, EW_PART_EXIT_NORM, i, 0, 1, cfg->C);
        if (cfg->norm == EW_NORM_LAYER) {
            add_part(&l, EW_PART_EXIT_NORM_B, i, 0, 1, cfg->C);
        }
    }
    if (o->kind == EW_ADAPTER_PROMPT) {
        add_part(&l, EW_PART_PROMPT, 0, 0, o->n_virtual, cfg->C);
    }
    for (uint32_t i = 0; o->kind == EW_ADAPTER_PREFIX && i < 2 * cfg->L; i++) {
        add_part(&l, i < cfg->L ? EW_PART_PREFIX_K : EW_PART_PREFIX_V, i % cfg->L, 0, o->n_virtual, cfg->K * cfg->D);
    }
    return l;
}

static size_t count_resolved(const ew_model *m, const ew_adapter_opt *o)
{
    return o->kind == EW_ADAPTER_FULL ? ew_model_floats_place(m, NULL, NULL)
                                      : lay_out(ew_model_config_of(m), o, NULL).n;
}

size_t ew_adapter_count(const ew_model *m, const ew_adapter_opt *opt)
{
    ew_adapter_opt o;
    return ew_adapter_opt_resolve(opt, &o, NULL) == EW_OK ? count_resolved(m, &o) : 0;
}

/* Rows of all targeted linears (of one layer, times L) and of the widest: DoRA's. */
static size_t dora_rows(const ew_model_config *cfg, const ew_adapter_opt *o, size_t *ret_most)
{
    size_t n = 0;
    *ret_most = 0;
    for (uint32_t i = 0; o->dora && i < EW_LINEAR_COUNT; i++) {
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        if ((o->targets & EW_ADAPTER_TARGET(i)) != 0) {
            n += rows;
            *ret_most = EW_MAX(*ret_most, (size_t)rows);
        }
    }
    return n * cfg->L;
}

/* Floats of dora_work. */
static size_t dora_work_elems(const ew_adapter_opt *o, size_t most)
{
    return most > 0 ? EW_MAX((2 * most + o->rank) * o->rank, (size_t)1024) : 0; /* at least a block of any type */
}

uint64_t ew_adapter_bytes(const ew_model *m, const ew_adapter_opt *opt)
{
    ew_adapter_opt o;
    const ew_model_config *cfg = ew_model_config_of(m);
    if (ew_adapter_opt_resolve(opt, &o, NULL) != EW_OK) {
        return 0;
    }
    size_t most;
    const size_t rows = dora_rows(cfg, &o, &most);
    const size_t places = (size_t)cfg->L * EW_LINEAR_COUNT * (sizeof(ew_linear_hook) + sizeof(ew_linear_grad)) +
                          (size_t)cfg->L * 2 * (sizeof(ew_bottleneck_hook) + sizeof(ew_bottleneck_grad)) +
                          (size_t)cfg->L * 2 * sizeof(ew_layer_floats);
    const size_t n_parts = o.kind == EW_ADAPTER_FULL ? 0 : lay_out(cfg, &o, NULL).n_parts;
    return sizeof(ew_adapter) + places + n_parts * sizeof(ew_part) +
           (count_resolved(m, &o) + 3 * rows + dora_work_elems(&o, most)) * sizeof(float);
}

ew_status ew_adapter_check(const ew_model *m, const ew_adapter_opt *opt, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(m);
    const char *kind = ew_adapter_kind_name(opt);
    if (opt->n_virtual > 0 && cfg->encoder) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "an encoder ('%s') has no virtual positions: no %s tuning", cfg->arch,
                       kind);
    }
    if (cfg->n_pos > 0 && opt->n_virtual >= cfg->n_pos) {
        return ew_fail(reterr, EW_EINVAL, "%u virtual positions leave none of the %u that the model has learned",
                       opt->n_virtual, cfg->n_pos);
    }
    if (opt->n_exits > 0 && (cfg->encoder || opt->exit[opt->n_exits - 1] >= cfg->L)) {
        return ew_fail(reterr, EW_EINVAL, "there is no early exit behind layer %u of a %s of %u layers",
                       opt->exit[opt->n_exits - 1], cfg->encoder ? "n encoder" : " model", cfg->L);
    }
    for (uint32_t i = 0; i < opt->n_init_ids; i++) {
        if (opt->init_ids == NULL || opt->init_ids[i] < 0 || (uint32_t)opt->init_ids[i] >= cfg->V) {
            return ew_fail(reterr, EW_EINVAL, "a prompt cannot start from token %d of a vocabulary of %u",
                           opt->init_ids != NULL ? opt->init_ids[i] : -1, cfg->V);
        }
    }
    if (count_resolved(m, opt) == 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "a model of architecture '%s' has none of the linears that this %s "
                       "adapter is for",
                       cfg->arch, kind);
    }
    return EW_OK;
}

/* ---- places ---- */

/* A pointer into `from` becomes the same place of `to`. */
static float *moved(float *p, const float *from, float *to)
{
    return p != NULL && to != NULL ? to + (p - from) : NULL;
}

static void move_floats(const ew_model_floats *src, uint32_t L, const float *from, float *to, ew_model_floats *dst)
{
    enum {
        N = sizeof(ew_layer_floats) / sizeof(float *)
    };
    _Static_assert(sizeof(ew_layer_floats) == N * sizeof(float *), "pointers alone");
    ew_layer_floats *layer = dst->layer;
    *dst = (ew_model_floats){.token_embd = moved(src->token_embd, from, to),
                             .output = moved(src->output, from, to),
                             .output_norm = moved(src->output_norm, from, to),
                             .layer = layer,
                             .output_norm_b = moved(src->output_norm_b, from, to),
                             .output_b = moved(src->output_b, from, to),
                             .position_embd = moved(src->position_embd, from, to),
                             .token_types = moved(src->token_types, from, to),
                             .embd_norm = moved(src->embd_norm, from, to),
                             .embd_norm_b = moved(src->embd_norm_b, from, to)};
    for (uint32_t i = 0; i < L; i++) {
        float *p[N];
        memcpy(p, &src->layer[i], sizeof(p));
        for (size_t j = 0; j < N; j++) {
            p[j] = moved(p[j], from, to);
        }
        memcpy(&layer[i], p, sizeof(p));
    }
}

static void bind_hook(ew_adapter *a, const ew_part *p)
{
    const float *at = a->params + p->at;
    ew_linear_hook *l = a->linear != NULL ? &a->linear[(size_t)p->layer * EW_LINEAR_COUNT + p->index] : NULL;
    ew_bottleneck_hook *n = a->bottleneck != NULL ? &a->bottleneck[(size_t)p->layer * 2 + p->index] : NULL;
    switch (p->what) {
    case EW_PART_A:
        l->a = at;
        l->rank = a->opt.rank;
        l->scale = a->scale;
        break;
    case EW_PART_B:
        l->b = at;
        break;
    case EW_PART_SCALE:
        *(p->index == EW_LINEAR_DOWN ? &l->in_scale : &l->out_scale) = at;
        break;
    case EW_PART_DOWN:
        *n = (ew_bottleneck_hook){.down = at, .width = a->opt.width, .act = a->opt.act};
        break;
    case EW_PART_DOWN_B:
        n->down_b = at;
        break;
    case EW_PART_UP:
        n->up = at;
        break;
    case EW_PART_UP_B:
        n->up_b = at;
        break;
    case EW_PART_PROMPT:
        a->hooks.prompt = at;
        break;
    case EW_PART_PREFIX_K:
        a->hooks.prefix_k = p->layer == 0 ? at : a->hooks.prefix_k;
        break;
    case EW_PART_PREFIX_V:
        a->hooks.prefix_v = p->layer == 0 ? at : a->hooks.prefix_v;
        break;
    case EW_PART_EXIT_NORM:
        a->exits[p->layer] = (ew_exit_hook){.layer = a->opt.exit[p->layer], .norm = at};
        break;
    case EW_PART_EXIT_NORM_B:
        a->exits[p->layer].norm_b = at;
        break;
    default: /* a magnitude hangs there as a ratio */
        break;
    }
}

static void bind_hooks(ew_adapter *a)
{
    size_t row = 0;
    for (size_t i = 0; i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        bind_hook(a, p);
        if (p->what == EW_PART_MAGNITUDE) {
            ew_linear_hook *l = &a->linear[(size_t)p->layer * EW_LINEAR_COUNT + p->index];
            l->ratio = a->dora + row;
            l->norm = a->dora + a->n_rows + row;
            row += p->cols;
        }
    }
    a->hooks.linear = a->linear;
    a->hooks.bottleneck = a->bottleneck;
    a->hooks.n_virtual = a->opt.n_virtual;
    a->hooks.exits = a->opt.n_exits > 0 ? a->exits : NULL;
    a->hooks.n_exits = a->opt.n_exits;
}

const ew_hooks *ew_adapter_hooks(const ew_adapter *a)
{
    return &a->hooks;
}

static void bind_grad(ew_adapter *a, const ew_part *p, float *at)
{
    ew_linear_grad *l = a->linear != NULL ? &a->linear_grad[(size_t)p->layer * EW_LINEAR_COUNT + p->index] : NULL;
    ew_bottleneck_grad *n = a->bottleneck != NULL ? &a->bottleneck_grad[(size_t)p->layer * 2 + p->index] : NULL;
    float **const place[EW_PART_WHAT_COUNT] = {
        [EW_PART_A] = l != NULL ? &l->a : NULL,
        [EW_PART_B] = l != NULL ? &l->b : NULL,
        [EW_PART_MAGNITUDE] = l != NULL ? &l->magnitude : NULL,
        [EW_PART_SCALE] = l == NULL                    ? NULL
                          : p->index == EW_LINEAR_DOWN ? &l->in_scale
                                                       : &l->out_scale,
        [EW_PART_DOWN] = n != NULL ? &n->down : NULL,
        [EW_PART_DOWN_B] = n != NULL ? &n->down_b : NULL,
        [EW_PART_UP] = n != NULL ? &n->up : NULL,
        [EW_PART_UP_B] = n != NULL ? &n->up_b : NULL,
        [EW_PART_PROMPT] = &a->grads.prompt,
        [EW_PART_PREFIX_K] = p->layer == 0 ? &a->grads.prefix_k : NULL,
        [EW_PART_PREFIX_V] = p->layer == 0 ? &a->grads.prefix_v : NULL,
        [EW_PART_EXIT_NORM] = p->layer < EW_ADAPTER_EXITS_MAX ? &a->exit_grad[p->layer].norm : NULL,
        [EW_PART_EXIT_NORM_B] = p->layer < EW_ADAPTER_EXITS_MAX ? &a->exit_grad[p->layer].norm_b : NULL,
    };
    if (place[p->what] != NULL) {
        *place[p->what] = at;
    }
}

const ew_hook_grads *ew_adapter_grads_of(ew_adapter *a, float *grad, const ew_adapter_span *span, size_t n_spans)
{
    for (size_t i = 0; i < a->n_parts; i++) {
        float *place = NULL, *first = grad;
        for (size_t k = 0; k < n_spans; k++) {
            if (a->part[i].at >= span[k].at && a->part[i].at - span[k].at < span[k].n) {
                place = first + (a->part[i].at - span[k].at);
            }
            first += span[k].n;
        }
        bind_grad(a, &a->part[i], place);
    }
    a->grads.linear = a->linear_grad;
    a->grads.bottleneck = a->bottleneck_grad;
    a->grads.exits = a->opt.n_exits > 0 ? a->exit_grad : NULL;
    return &a->grads;
}

const ew_hook_grads *ew_adapter_grads(ew_adapter *a, float *grad)
{
    (void)ew_adapter_grads_of(a, grad, &(ew_adapter_span){0, a->n}, 1);
    if (a->opt.kind == EW_ADAPTER_FULL) {
        move_floats(&a->floats, a->cfg.L, a->params, grad, &a->floats_grad);
        a->grads.weights = &a->floats_grad;
    }
    return &a->grads;
}

/* ---- life ---- */

/* What an adapter takes beside the parameters themselves. */
static bool take_places(ew_adapter *a)
{
    const size_t L = a->cfg.L;
    bool ok = true;
    if (a->opt.kind == EW_ADAPTER_LORA || a->opt.kind == EW_ADAPTER_IA3) {
        a->linear = ew_calloc(L * EW_LINEAR_COUNT, sizeof(*a->linear));
        a->linear_grad = ew_calloc(L * EW_LINEAR_COUNT, sizeof(*a->linear_grad));
        ok = a->linear != NULL && a->linear_grad != NULL;
    } else if (a->opt.kind == EW_ADAPTER_BOTTLENECK) {
        a->bottleneck = ew_calloc(L * 2, sizeof(*a->bottleneck));
        a->bottleneck_grad = ew_calloc(L * 2, sizeof(*a->bottleneck_grad));
        ok = a->bottleneck != NULL && a->bottleneck_grad != NULL;
    } else if (a->opt.kind == EW_ADAPTER_FULL) {
        a->floats.layer = ew_calloc(L, sizeof(*a->floats.layer));
        a->floats_grad.layer = ew_calloc(L, sizeof(*a->floats_grad.layer));
        ok = a->floats.layer != NULL && a->floats_grad.layer != NULL;
    }
    if (a->opt.dora) {
        a->n_rows = dora_rows(&a->cfg, &a->opt, &a->most_rows);
        a->dora = ew_calloc(EW_MAX(3 * a->n_rows, (size_t)1), sizeof(float));
        a->dora_work = ew_calloc(EW_MAX(dora_work_elems(&a->opt, a->most_rows), (size_t)1), sizeof(float));
        ok = ok && a->dora != NULL && a->dora_work != NULL;
    }
    return ok;
}

/* n: parameters. */
static ew_status alloc_shape(const ew_model_config *cfg, const ew_adapter_opt *opt, size_t n, ew_adapter **ret,
                             ew_error *reterr)
{
    EW_AUTO(ew_adapter) a = ew_calloc(1, sizeof(*a));
    if (a == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for an adapter");
    }
    a->opt = *opt;
    a->opt.init_ids = NULL;
    a->opt.n_init_ids = 0;
    for (uint32_t i = 0; i < EW_LINEAR_COUNT; i++) { /* an ungated model has no gate */
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        a->opt.targets &= rows > 0 ? ~0u : ~EW_ADAPTER_TARGET(i);
    }
    a->scale = opt->rank > 0 ? opt->alpha / (opt->rslora ? sqrtf((float)opt->rank) : (float)opt->rank) : 0;
    a->cfg = *cfg;
    a->n = n;
    a->n_parts = opt->kind == EW_ADAPTER_FULL ? 0 : lay_out(cfg, opt, NULL).n_parts;
    a->part = ew_calloc(EW_MAX(a->n_parts, (size_t)1), sizeof(*a->part));
    size_t bytes;
    if (__builtin_mul_overflow(EW_MAX(n, (size_t)1), sizeof(float), &bytes)) {
        return ew_fail(reterr, EW_ELIMIT, "an adapter of %zu parameters is too large", n);
    }
    a->params = ew_aligned(bytes);
    if (a->part == NULL || a->params == NULL || !take_places(a)) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for an adapter of %zu parameters", n);
    }
    memset(a->params, 0, n * sizeof(float));
    if (opt->kind != EW_ADAPTER_FULL) {
        (void)lay_out(cfg, opt, a->part);
        bind_hooks(a);
    }
    *ret = a;
    a = NULL;
    return EW_OK;
}

ew_status ew__adapter_alloc(const ew_model *m, const ew_adapter_opt *opt, ew_adapter **ret, ew_error *reterr)
{
    EW_AUTO(ew_adapter) a = NULL;
    EW_TRY(ew_adapter_check(m, opt, reterr));
    EW_TRY(alloc_shape(ew_model_config_of(m), opt, count_resolved(m, opt), &a, reterr));
    if (opt->kind == EW_ADAPTER_FULL) {
        (void)ew_model_floats_place(m, a->params, &a->floats);
    }
    const char *sha = ew_model_sha256_hex(m);
    ew_str_copy(a->base_sha256, sizeof(a->base_sha256), sha != NULL ? sha : "");
    *ret = a;
    a = NULL;
    return EW_OK;
}

ew_status ew_adapter_dup(const ew_adapter *a, ew_adapter **ret_adapter, ew_error *reterr)
{
    ew_adapter *c = NULL;
    EW_TRY(alloc_shape(&a->cfg, &a->opt, a->n, &c, reterr));
    memcpy(c->params, a->params, a->n * sizeof(float));
    memcpy(c->base_sha256, a->base_sha256, sizeof(c->base_sha256));
    if (a->opt.kind == EW_ADAPTER_FULL) {
        move_floats(&a->floats, a->cfg.L, a->params, c->params, &c->floats);
    }
    if (a->opt.dora) {
        memcpy(c->dora, a->dora, 3 * a->n_rows * sizeof(float));
    }
    *ret_adapter = c;
    return EW_OK;
}

void ew_adapter_free(ew_adapter **a)
{
    ew_adapter *p = *a;
    *a = NULL;
    if (p != NULL) {
        void *const parts[] = {p->params,          p->part, p->linear,    p->linear_grad,  p->bottleneck,
                               p->bottleneck_grad, p->dora, p->dora_work, p->floats.layer, p->floats_grad.layer};
        for (size_t i = 0; i < EW_COUNT(parts); i++) {
            ew_free(parts[i]);
        }
        ew_free(p);
    }
}

/* ---- starting values ---- */

static void fill_uniform(ew_rng *rng, double bound, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(bound * (2.0 * ew_rng_f64(rng) - 1.0));
    }
}

static void fill_prompt(ew_rng *rng, const ew_model *m, const ew_adapter_opt *o, const ew_part *p, float *x)
{
    const ew_mat *table = ew_model_token_embd(m);
    for (uint32_t i = 0; i < p->rows; i++) {
        const uint32_t id =
            o->n_init_ids > 0 ? (uint32_t)o->init_ids[i % o->n_init_ids] : (uint32_t)ew_rng_below(rng, table->rows);
        ew_dequant_row(table->dtype, (const char *)table->data + id * table->row_bytes, x + (size_t)i * p->cols,
                       p->cols);
    }
}

static void fill_value(float v, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = v;
    }
}

static void init_part(ew_rng *rng, const ew_model *m, const ew_adapter_opt *o, const ew_part *p, float *x)
{
    const size_t n = (size_t)p->rows * p->cols;
    switch (p->what) {
    case EW_PART_A:
    case EW_PART_DOWN:
        fill_uniform(rng, 1.0 / sqrt((double)p->cols), x, n);
        break;
    case EW_PART_SCALE:
        fill_value(1, x, n);
        break;
    case EW_PART_PROMPT:
        fill_prompt(rng, m, o, p, x);
        break;
    case EW_PART_PREFIX_K:
    case EW_PART_PREFIX_V:
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)ew_rng_normal(rng);
        }
        break;
    case EW_PART_EXIT_NORM:
        if (ew_model_output_norm(m) != NULL) {
            memcpy(x, ew_model_output_norm(m), n * sizeof(float));
        } else {
            fill_value(1, x, n);
        }
        break;
    case EW_PART_EXIT_NORM_B:
        if (ew_model_output_norm_b(m) != NULL) {
            memcpy(x, ew_model_output_norm_b(m), n * sizeof(float));
        }
        break;
    default: /* B, biases, up: zero; magnitudes come last */
        break;
    }
}

ew_status ew_adapter_new(const ew_model *m, const ew_adapter_opt *opt, ew_adapter **ret_adapter, ew_error *reterr)
{
    ew_adapter_opt o;
    ew_adapter *a = NULL;
    EW_TRY(ew_adapter_opt_resolve(opt, &o, reterr));
    EW_TRY(ew__adapter_alloc(m, &o, &a, reterr));
    ew_rng rng;
    ew_rng_init(&rng, o.seed, 0x6c6f7261);
    for (size_t i = 0; i < a->n_parts; i++) {
        init_part(&rng, m, &o, &a->part[i], a->params + a->part[i].at);
    }
    if (o.kind == EW_ADAPTER_FULL) {
        ew_model_floats_copy(m, &a->floats);
    }
    ew__adapter_start(a, m);
    *ret_adapter = a;
    return EW_OK;
}

/* ---- DoRA ---- */

/* Sums of squares of the rows of every targeted W. */
static void sum_rows(ew_adapter *a, const ew_model *m)
{
    float *sum = a->dora + 2 * a->n_rows;
    float *row = a->dora_work;
    const size_t room = dora_work_elems(&a->opt, a->most_rows);
    for (size_t i = 0; i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        if (p->what != EW_PART_MAGNITUDE) {
            continue;
        }
        const ew_mat *w = &ew_model_layer(m, p->layer)->linear[p->index];
        const ew_dtype_info *info = ew_dtype_get(w->dtype);
        const size_t step = EW_MIN((size_t)w->cols, room / info->block_elems * info->block_elems);
        for (size_t r = 0; r < w->rows; r++) {
            double s = 0;
            for (size_t c = 0; c < w->cols; c += step) {
                const size_t n = EW_MIN(step, w->cols - c);
                const char *at = (const char *)w->data + r * w->row_bytes + c / info->block_elems * info->block_bytes;
                ew_dequant_row(w->dtype, at, row, n);
                for (size_t j = 0; j < n; j++) {
                    s += (double)row[j] * (double)row[j];
                }
            }
            *sum++ = (float)s;
        }
    }
}

/* |W + s B A|^2 of row f = |W_f|^2 + 2 s B_f (A W_f^T) + s^2 B_f (A A^T) B_f^T: two small products instead of the sum of two large
 * matrices. */
static void refresh_linear(const ew_adapter *a, const ew_mat *w, const ew_linear_hook *h, const ew_exec *e,
                           const float *magnitude, const float *sum, float *ratio, float *norm)
{
    const size_t R = h->rank, F = w->rows, C = w->cols;
    float *aw = a->dora_work, *baa = aw + R * a->most_rows, *aa = baa + R * a->most_rows;
    ew_matmul_f32(e, w, h->a, R, aw, false);
    ew_gemm(e, &(ew_gemm_args){R, R, C, 1, h->a, C, 1, h->a, 1, C, aa, R, false});
    ew_gemm(e, &(ew_gemm_args){F, R, R, 1, h->b, R, 1, aa, R, 1, baa, R, false});
    const double s = (double)h->scale;
    for (size_t f = 0; f < F; f++) {
        double cross = 0, square = 0;
        for (size_t k = 0; k < R; k++) {
            cross += (double)h->b[f * R + k] * (double)aw[k * F + f];
            square += (double)h->b[f * R + k] * (double)baa[f * R + k];
        }
        const double n2 = (double)sum[f] + 2 * s * cross + s * s * square;
        norm[f] = (float)sqrt(n2 > 0 ? n2 : 0);
        ratio[f] = norm[f] > 0 ? magnitude[f] / norm[f] : 0;
    }
}

void ew_adapter_refresh(ew_adapter *a, const ew_model *m, const ew_exec *exec)
{
    const ew_exec serial = {.kern = ew_kern_get(NULL)};
    const ew_exec *e = exec != NULL ? exec : &serial;
    size_t row = 0;
    for (size_t i = 0; a->opt.dora && i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        if (p->what == EW_PART_MAGNITUDE) {
            float *ratio = a->dora + row;
            refresh_linear(a, &ew_model_layer(m, p->layer)->linear[p->index],
                           &a->linear[(size_t)p->layer * EW_LINEAR_COUNT + p->index], e, a->params + p->at,
                           ratio + 2 * a->n_rows, ratio, ratio + a->n_rows);
            row += p->cols;
        }
    }
}

void ew__adapter_loaded(ew_adapter *a, const ew_model *m)
{
    if (a->opt.dora) {
        sum_rows(a, m);
        ew_adapter_refresh(a, m, NULL);
    }
}

void ew__adapter_start(ew_adapter *a, const ew_model *m)
{
    if (!a->opt.dora) {
        return;
    }
    ew__adapter_loaded(a, m);
    for (size_t i = 0; i < a->n_parts; i++) { /* B is zero: the norms are those of W */
        const ew_part *p = &a->part[i];
        if (p->what == EW_PART_MAGNITUDE) {
            memcpy(a->params + p->at, a->linear[(size_t)p->layer * EW_LINEAR_COUNT + p->index].norm,
                   p->cols * sizeof(float));
        }
    }
    ew_adapter_refresh(a, m, NULL);
}

/* ---- what it is ---- */

const ew_adapter_opt *ew_adapter_opt_of(const ew_adapter *a)
{
    return &a->opt;
}

float ew_adapter_scale(const ew_adapter *a)
{
    return a->scale;
}

const char *ew_adapter_base_sha256(const ew_adapter *a)
{
    return a->base_sha256;
}

float *ew_adapter_params(ew_adapter *a, size_t *ret_n)
{
    *ret_n = a->n;
    return a->params;
}

bool ew_adapter_slot(const ew_adapter *a, uint32_t layer, ew_linear linear, size_t *ret_a, size_t *ret_b)
{
    const ew_linear_hook *h = a->linear != NULL && layer < a->cfg.L && linear < EW_LINEAR_COUNT
                                  ? &a->linear[(size_t)layer * EW_LINEAR_COUNT + linear]
                                  : NULL;
    if (h == NULL || h->rank == 0) {
        return false;
    }
    *ret_a = (size_t)(h->a - a->params);
    *ret_b = (size_t)(h->b - a->params);
    return true;
}

ew_status ew_adapter_model(const ew_adapter *a, const ew_model *base, ew_model **ret_model, ew_error *reterr)
{
    if (a->opt.kind == EW_ADAPTER_FULL) {
        return ew_model_overlay(base, &a->floats, ret_model, reterr);
    }
    *ret_model = ew_model_ref(base);
    return EW_OK;
}

float *ew__adapter_part(const ew_adapter *a, ew_part_what what, uint32_t layer, uint32_t index)
{
    for (size_t i = 0; i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        if (p->what == what && p->layer == layer && p->index == index) {
            return a->params + p->at;
        }
    }
    return NULL;
}

ew_status ew__adapter_check_base(const ew_adapter *a, const char *path, const char *sha256, ew_error *reterr)
{
    if (sha256 == NULL || sha256[0] == '\0' || a->base_sha256[0] == '\0' || strcmp(sha256, a->base_sha256) == 0) {
        return EW_OK;
    }
    return ew_fail(reterr, EW_ECONFLICT,
                   "adapter %s was made for the base model %.12s…, this one is %.12s…. HINT: an adapter works on the "
                   "very file it was trained on; train it again for this base",
                   path, sha256, a->base_sha256);
}

#include "probe/learning.h"

#include <math.h>

#include "train/exits.h"

#define BLOCKS 3u /* of block-wise tuning */

typedef struct habit {
    float label_lr, text_lr;
    uint32_t epochs;
    double work;
} habit;

/* Chosen on the benchmark's dev users. */
static const habit habits[EW_METHOD_COUNT] = {
    [EW_METHOD_LORA] = {1e-3F, 3e-3F, 3, 1},        [EW_METHOD_LORA_RAG] = {1e-3F, 3e-3F, 3, 1},
    [EW_METHOD_PROMPT] = {1e-2F, 1e-2F, 6, 0.9},    [EW_METHOD_PREFIX] = {3e-2F, 3e-2F, 6, 0.9},
    [EW_METHOD_IA3] = {1e-2F, 3e-2F, 6, 0.9},       [EW_METHOD_BOTTLENECK] = {1e-3F, 1e-2F, 3, 0.9},
    [EW_METHOD_FULL] = {1e-4F, 3e-4F, 3, 1.3},      [EW_METHOD_MEZO] = {1e-3F, 1e-3F, 20, 0.5},
    [EW_METHOD_BLOCKWISE] = {3e-3F, 3e-3F, 6, 0.5},
};

static habit habit_of(ew_method method)
{
    return (unsigned)method < EW_METHOD_COUNT && habits[method].epochs != 0 ? habits[method] : habits[EW_METHOD_LORA];
}

uint32_t ew_learning_epochs(ew_method method, const ew_settings *s)
{
    return s->epochs > 0 ? (uint32_t)ceil(s->epochs) : habit_of(method).epochs;
}

double ew_learning_work(ew_method method, const ew_settings *s)
{
    (void)s;
    return habit_of(method).work;
}

static void fill_lora(const ew_settings *s, ew_adapter_opt *a)
{
    a->kind = EW_ADAPTER_LORA;
    a->rank = s->rank;
    a->alpha = (float)s->alpha;
    a->targets = s->targets;
    a->rslora = s->rslora != 0;
    a->dora = s->dora != 0;
    a->dropout = (float)s->dropout;
}

static void fill_prefix(const ew_settings *s, ew_adapter_opt *a)
{
    a->kind = EW_ADAPTER_PREFIX;
    a->n_virtual = s->n_virtual;
}

ew_status ew_learning_of(ew_method method, const ew_settings *s, bool writes_text, uint32_t n_layers, uint64_t seed,
                         ew_learning *ret_learning, ew_error *reterr)
{
    const habit h = habit_of(method);
    ew_learning out = {.rung = (ew_tune_rung)s->rung, .epochs = ew_learning_epochs(method, s)};
    ew_adapter_opt *a = &out.adapter;
    a->seed = seed;
    if (s->optimizer_bits != 0 && s->optimizer_bits != 8 && s->optimizer_bits != 32) {
        return ew_fail(reterr, EW_EINVAL, "the optimiser's moments have 8 or 32 bits, not %u", s->optimizer_bits);
    }
    out.optimizer_8bit = s->optimizer_bits == 8;
    out.lr = s->learning_rate > 0 ? (float)s->learning_rate : writes_text ? h.text_lr : h.label_lr;
    switch (method) {
    case EW_METHOD_PROMPT:
        fill_prefix(s, a);
        a->kind = EW_ADAPTER_PROMPT;
        break;
    case EW_METHOD_PREFIX:
        fill_prefix(s, a);
        break;
    case EW_METHOD_IA3:
        a->kind = EW_ADAPTER_IA3;
        a->targets = s->targets;
        break;
    case EW_METHOD_BOTTLENECK:
        a->kind = EW_ADAPTER_BOTTLENECK;
        a->width = s->width;
        break;
    case EW_METHOD_FULL:
        a->kind = EW_ADAPTER_FULL;
        break;
    case EW_METHOD_MEZO:
        out.rung = EW_TUNE_RUNG_MEZO;
        if (s->mezo_prefix != 0) {
            fill_prefix(s, a);
        } else {
            fill_lora(s, a);
            a->dropout = 0; /* both of its evaluations have to see the same function */
        }
        break;
    case EW_METHOD_BLOCKWISE:
        out.rung = EW_TUNE_RUNG_BLOCKWISE;
        fill_lora(s, a);
        EW_TRY(ew_exits_spread(n_layers, s->exits != 0 ? s->exits : EW_MIN(BLOCKS, n_layers), a, reterr));
        break;
    default:
        fill_lora(s, a);
    }
    *ret_learning = out;
    return EW_OK;
}

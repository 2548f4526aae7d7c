/* What a run will take, by dry run, and the choice of a rung that fits. */
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "kern/ops.h"
#include "model/pages.h"
#include "train/exits.h"
#include "train/tune_int.h"

#define PACK_TOK_DEFAULT 512u
/* What a process has beside model, arena and adapter (program, libraries, thread stacks and the kernels' own blocks): measured. */
#define PROCESS_BASE_BYTES (10u * 1024 * 1024)
#define PROCESS_VOCAB_BYTES 160u /* per piece of the vocabulary, as the tokenizer keeps it */
/* The kernel maps this much around a page that is touched. */
#define FAULT_AROUND_BYTES (64u * 1024)

bool ew__tune_take(ew__tuner *t, ew_arena *a)
{
    const bool forward_only = t->o.rung == EW_TUNE_RUNG_MEZO;
    t->n_learn = t->o.rung == EW_TUNE_RUNG_BLOCKWISE ? ew_exits_most(t->cfg, &t->o.adapter, t->n) : t->n;
    t->grad = forward_only ? NULL : ew_arena_take(a, t->n_learn, sizeof(float));
    t->kept = forward_only ? ew_arena_take(a, t->n, sizeof(float)) : NULL;
    t->best = ew_arena_take(a, t->n, sizeof(float));
    t->optim = (ew_optim){0};
    bool ok = forward_only || ew_optim_take(&t->optim, a, t->n_learn, t->o.optimizer_8bit, t->o.seed);
    ok = ew_pass_take(t->pass, a, t->t_max, t->a_max) && ok;
    t->row = ew_arena_take(a, t->a_max, sizeof(uint32_t));
    t->target = ew_arena_take(a, t->a_max, sizeof(int32_t));
    t->bound = ew_arena_take(a, t->t_max + 1, sizeof(uint32_t));
    t->id = ew_arena_take(a, t->t_max, sizeof(int32_t));
    t->pos = ew_arena_take(a, t->t_max, sizeof(int32_t));
    t->perm = ew_arena_take(a, t->o.n_train, sizeof(uint32_t));
    return ok && !a->overflow;
}

static uint64_t example_bytes(const ew_tune_example *x, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += ((uint64_t)x[i].n_prompt + x[i].n_answer) * sizeof(int32_t) + 2 * sizeof(*x);
    }
    return bytes;
}

/* Pages of the model's file that are resident at once. Given back after use: those of one layer, or of the head, or of the rows
 * of the embedding that the pass reads. */
static uint64_t weights_bytes(const ew__tuner *t)
{
    const ew_model *m = t->o.model;
    if (!t->o.drop_pages || t->o.adapter.dora) { /* DoRA's norms go over all weights at once */
        return ew_model_weights_bytes(m);
    }
    uint64_t layers = 0, most = 0;
    for (uint32_t il = 0; il < t->cfg->L; il++) {
        const uint64_t b = ew_model_pages_bytes(m, il);
        layers += b;
        most = EW_MAX(most, b);
    }
    const uint64_t ends = ew_model_pages_bytes(m, t->cfg->L), rest = ew_model_weights_bytes(m) - layers - ends;
    const ew_mat *embd = ew_model_token_embd(m), *head = ew_model_output(m);
    most = EW_MAX(most, (uint64_t)head->rows * head->row_bytes);
    if (embd->data != head->data) {
        most = EW_MAX(most, EW_MIN((uint64_t)embd->rows * embd->row_bytes, (uint64_t)t->t_max * FAULT_AROUND_BYTES));
    }
    return rest + most;
}

ew_status ew__tune_pass(ew__tuner *t, ew_error *reterr)
{
    const ew_tune_opt *o = &t->o;
    const size_t longest = t->longest > 0 ? t->longest : o->seq_max + t->prompt_rows;
    const ew_pass_opt po = {.exec = o->exec,
                            .base = o->model,
                            .model = t->model,
                            .adapter_opt = &o->adapter,
                            .adapter = t->adapter,
                            .rung = o->rung,
                            .window = ew_exits_depth(&o->adapter, t->cfg->L),
                            .n_ctx = (uint32_t)longest + t->n_virtual - t->prompt_rows,
                            .seed = o->seed,
                            .drop_pages = o->drop_pages};
    ew_pass_free(&t->pass);
    return ew_pass_new(&po, &t->pass, reterr);
}

static ew_status plan_memory(ew__tuner *t, size_t t_max, ew_tune_memory_plan *p, ew_error *reterr)
{
    ew_arena dry;
    const uint64_t n = t->n * sizeof(float);
    t->t_max = t_max;
    const double share = t->longest > 0 ? t->answer_share : 1;
    t->a_max = EW_MIN(t_max, (size_t)(share * (double)t_max) + 1);
    EW_TRY(ew__tune_pass(t, reterr));
    ew_arena_init_dry(&dry);
    (void)ew__tune_take(t, &dry);
    *p = (ew_tune_memory_plan){.rung = t->o.rung,
                               .drop_pages = t->o.drop_pages,
                               .pass_tok = (uint32_t)t_max,
                               .arena_bytes = dry.peak,
                               .weights_bytes = weights_bytes(t)};
    ew_arena state;
    ew_arena_init_dry(&state);
    const bool forward_only = t->o.rung == EW_TUNE_RUNG_MEZO;
    if (!forward_only) {
        (void)ew_optim_take(&t->optim, &state, t->n_learn, t->o.optimizer_8bit, t->o.seed);
    }
    const uint64_t learns = forward_only ? n : t->n_learn * sizeof(float); /* the copy of MeZO, or a gradient */
    const uint64_t vectors = state.peak + learns + n;
    const uint64_t scratch = ew_pass_scratch_bytes(t->pass) + t_max * 12;
    p->adapter_bytes = ew_adapter_bytes(t->o.model, &t->o.adapter) + vectors;
    p->scratch_bytes = scratch;
    p->activ_bytes = dry.peak > scratch + vectors ? dry.peak - scratch - vectors : 0;
    p->process_bytes = PROCESS_BASE_BYTES + (uint64_t)t->cfg->V * PROCESS_VOCAB_BYTES +
                       example_bytes(t->o.train, t->o.n_train) + example_bytes(t->o.val, t->o.n_val) + t->o.ram_beside;
    p->total_bytes = p->weights_bytes + p->adapter_bytes + p->activ_bytes + p->scratch_bytes + p->process_bytes;
    return EW_OK;
}

/* --- the ladder --- */

typedef struct step_down {
    ew_tune_rung rung;
    bool drop_pages;
    bool shrink; /* smaller passes before the next rung */
} step_down;

static const step_down ladder[] = {
    {EW_TUNE_RUNG_KEEP, false, false},           {EW_TUNE_RUNG_RECOMPUTE, false, false},
    {EW_TUNE_RUNG_RECOMPUTE_BF16, false, false}, {EW_TUNE_RUNG_RECOMPUTE_BF16, true, true},
    {EW_TUNE_RUNG_BLOCKWISE, true, true},        {EW_TUNE_RUNG_MEZO, true, true}};

/* The rungs of a run: all that its method can take (AUTO), or the one that was asked for, then with pages given back. */
static size_t rungs_of(const ew__tuner *t, step_down dst[static EW_COUNT(ladder)])
{
    const ew_tune_opt *o = &t->o;
    size_t n = 0;
    if (o->rung != EW_TUNE_RUNG_AUTO || o->max_ram_bytes == 0) {
        const ew_tune_rung r = o->rung != EW_TUNE_RUNG_AUTO ? o->rung : EW_TUNE_RUNG_RECOMPUTE;
        dst[n++] = (step_down){r, o->drop_pages, o->drop_pages};
        if (!o->drop_pages) {
            dst[n++] = (step_down){r, true, true};
        }
        return n;
    }
    for (size_t i = 0; i < EW_COUNT(ladder); i++) {
        const step_down s = ladder[i];
        if (ew__tune_rung_check(o, s.rung, NULL) == EW_OK && (s.drop_pages || !o->drop_pages || !s.shrink)) {
            dst[n++] = (step_down){s.rung, s.drop_pages || o->drop_pages, s.shrink};
        }
    }
    return n;
}

static ew_status on_rung(ew__tuner *t, const step_down *s, ew_error *reterr)
{
    t->o.rung = s->rung;
    t->o.drop_pages = s->drop_pages;
    EW_TRY(ew__tune_rung_options(t, reterr));
    t->n = ew_adapter_count(t->o.model, &t->o.adapter);
    return EW_OK;
}

/* The largest passes that fit, at least `least` rows, which do. */
static ew_status shrink(ew__tuner *t, size_t least, size_t want, uint64_t limit, ew_tune_memory_plan *p,
                        ew_error *reterr)
{
    size_t lo = least, hi = want; /* lo fits, hi does not */
    while (hi - lo > 8) {
        const size_t mid = lo + (hi - lo) / 2;
        EW_TRY(plan_memory(t, mid, p, reterr));
        if (p->total_bytes <= limit) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    return plan_memory(t, lo, p, reterr);
}

static ew_status refuse(const ew__tuner *t, uint64_t need, uint64_t smallest, ew_error *reterr)
{
    char b[3][32];
    return ew_fail(reterr, EW_ENOMEM, "tuning needs %s, the limit is %s. HINT: a limit of %s (%llu bytes) would do",
                   ew_str_bytes(b[0], sizeof(b[0]), need), ew_str_bytes(b[1], sizeof(b[1]), t->o.max_ram_bytes),
                   ew_str_bytes(b[2], sizeof(b[2]), smallest), (unsigned long long)smallest);
}

/* Passes as asked on the first rung that fits, or the largest ones that a rung leaves room for when their size was left open. */
static ew_status descend(ew__tuner *t, ew_tune_memory_plan *p, ew_error *reterr)
{
    step_down rung[EW_COUNT(ladder)];
    const ew_tune_opt asked = t->o;
    const uint64_t limit = asked.max_ram_bytes;
    const size_t n = rungs_of(t, rung), least = t->longest > 0 ? t->longest : t->o.seq_max + t->prompt_rows;
    const size_t want = EW_MAX((size_t)(t->o.pack_tok != 0 ? t->o.pack_tok : PACK_TOK_DEFAULT), least);
    uint64_t first = 0, smallest = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        t->o.adapter = asked.adapter;
        EW_TRY(on_rung(t, &rung[i], reterr));
        EW_TRY(plan_memory(t, want, p, reterr));
        first = first == 0 ? p->total_bytes : first;
        if (limit == 0 || p->total_bytes <= limit) {
            return EW_OK;
        }
        smallest = EW_MIN(smallest, p->total_bytes);
        if (asked.pack_tok == 0 && rung[i].shrink) {
            EW_TRY(plan_memory(t, least, p, reterr));
            smallest = EW_MIN(smallest, p->total_bytes);
            if (p->total_bytes <= limit) {
                return shrink(t, least, want, limit, p, reterr);
            }
        }
    }
    return refuse(t, first, smallest, reterr);
}

ew_status ew__tune_fit(ew__tuner *t, ew_tune_memory_plan *p, ew_error *reterr)
{
    EW_TRY(descend(t, p, reterr));
    /* The orders of epochs are known, so is the fullest pass of all: no more rows than that are taken. Passes are the same as with t_max
     * rows, because what did not fit those does not fit these. */
    size_t most = 0;
    EW_TRY(ew__tune_fullest(t, &most, reterr));
    return most != 0 ? plan_memory(t, most, p, reterr) : EW_OK;
}

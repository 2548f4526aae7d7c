/* The trainer's state on disk. */
#include <stdio.h>
#include <string.h>

#include "sys/file.h"
#include "train/tune_int.h"

#define KIND "tune"

static void hash_examples(ew_sha256_stream *sha, const ew_tune_example *x, size_t n)
{
    ew_sha256_stream_add(sha, &n, sizeof(n));
    for (size_t i = 0; i < n; i++) {
        ew_sha256_stream_add(sha, &x[i].n_prompt, sizeof(x[i].n_prompt));
        ew_sha256_stream_add(sha, &x[i].n_answer, sizeof(x[i].n_answer));
        ew_sha256_stream_add(sha, x[i].id, ((size_t)x[i].n_prompt + x[i].n_answer) * sizeof(int32_t));
    }
}

void ew__tune_fingerprint(ew__tuner *t)
{
    EW_AUTO(ew_sha256_stream) sha = ew_sha256_stream_new();
    const ew_tune_opt *o = &t->o;
    const ew_adapter_opt *a = &o->adapter;
    char text[1024];
    int n = snprintf(text, sizeof(text), "%s %d %u %u %.9g %d %d %.9g %u %u %d %llu",
                     ew_adapter_base_sha256(t->adapter), (int)a->kind, a->targets, a->rank, (double)a->alpha, a->rslora,
                     a->dora, (double)a->dropout, a->n_virtual, a->width, (int)a->act, (unsigned long long)a->seed);
    ew_sha256_stream_add(sha, text, (size_t)n);
    ew_sha256_stream_add(sha, a->exit, a->n_exits * sizeof(a->exit[0]));
    n = snprintf(
        text, sizeof(text), "%.9g %.9g %.9g %.9g %.9g %.9g %.9g %.9g %d %d %.9g %u %u %u %u %u %zu %u %u %u %llu",
        (double)o->lr, (double)o->weight_decay, (double)o->clip, (double)o->warmup, (double)o->min_lr, (double)o->beta1,
        (double)o->beta2, (double)o->eps, o->optimizer_8bit, (int)EW_MAX(o->rung, EW_TUNE_RUNG_RECOMPUTE),
        /* keeping gives the same bytes */ (double)o->mezo_eps, o->mezo_spsa, o->epochs, o->max_steps, o->batch,
        o->accumulate, t->t_max, o->seq_max, o->eval_every, o->patience, (unsigned long long)o->seed);
    ew_sha256_stream_add(sha, text, (size_t)n);
    ew_sha256_stream_add(sha, &o->products, sizeof(o->products));
    hash_examples(sha, o->train, o->n_train);
    hash_examples(sha, o->val, o->n_val);
    size_t np;
    const float *p = ew_adapter_params(t->adapter, &np); /* still the start */
    ew_sha256_stream_add(sha, p, np * sizeof(float));
    ew_sha256_stream_end(sha, t->fingerprint);
}

#define BLOCKS_MAX (3 + EW_OPTIM_STATE_BLOCKS)

static size_t blocks_of(ew__tuner *t, ew_checkpoint_block b[static BLOCKS_MAX])
{
    size_t np, n = 0;
    float *p = ew_adapter_params(t->adapter, &np);
    b[n++] = (ew_checkpoint_block){"state", &t->st, sizeof(t->st)};
    b[n++] = (ew_checkpoint_block){"params", p, np * sizeof(float)};
    b[n++] = (ew_checkpoint_block){"best", t->best, np * sizeof(float)};
    return n + (t->optim.n != 0 ? ew_optim_blocks(&t->optim, b + n) : 0);
}

ew_status ew__tune_save(ew__tuner *t, ew_error *reterr)
{
    ew_budget_sample(t->budget, &t->use);
    t->st.seconds = t->base_seconds + t->use.seconds;
    t->st.joules = t->base_joules + t->use.joules;
    t->st.estimated |= t->use.estimated;
    if (t->o.checkpoint == NULL) {
        return EW_OK;
    }
    ew_checkpoint_block b[BLOCKS_MAX];
    const size_t n = blocks_of(t, b);
    return ew_checkpoint_save(t->o.checkpoint, KIND, t->fingerprint, b, n, reterr);
}

/* A checksum keeps off damage, not a file that was made: what is used as an index or a count has to be in range. */
static bool plausible(const ew__tuner *t)
{
    const ew__tune_run *st = &t->st;
    return st->step <= t->steps && st->skipped <= st->step && st->best_step <= st->step &&
           st->phase_skipped <= st->skipped && st->phase <= t->o.adapter.n_exits && st->n_curve <= EW_TUNE_POINTS_MAX &&
           st->stopped <= EW_TUNE_STOP_COUNT;
}

ew_status ew__tune_load(ew__tuner *t, ew_error *reterr)
{
    if (t->o.checkpoint == NULL || !ew_file_exists(t->o.checkpoint)) {
        return EW_ENOENT;
    }
    ew_checkpoint_block b[BLOCKS_MAX];
    const size_t n = blocks_of(t, b);
    EW_TRY(ew_checkpoint_load(t->o.checkpoint, KIND, t->fingerprint, b, n, reterr));
    if (!plausible(t)) {
        return ew_fail(reterr, EW_ECORRUPT, "checkpoint %s holds no state of a run. HINT: remove it to start anew",
                       t->o.checkpoint);
    }
    t->base_seconds = t->st.seconds;
    t->base_joules = t->st.joules;
    if (t->st.stopped > EW_TUNE_STOP_PLATEAU + 1 && t->st.stopped < EW_TUNE_STOP_DIVERGED + 1) {
        t->st.stopped = 0; /* a new part has a new budget */
    }
    return EW_OK;
}

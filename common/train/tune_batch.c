/* Examples, their order and their packing. */
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "train/tune_int.h"

/* Its tokens but the last, at most seq_max. */
static size_t token_rows(const ew__tuner *t, const ew_tune_example *x)
{
    const size_t n = (size_t)x->n_prompt + x->n_answer - 1;
    return EW_MIN(n, (size_t)t->o.seq_max);
}

size_t ew__tune_rows(const ew__tuner *t, const ew_tune_example *x)
{
    return token_rows(t, x) + t->prompt_rows;
}

size_t ew__tune_answers(const ew__tuner *t, const ew_tune_example *x)
{
    return EW_MIN((size_t)x->n_answer, token_rows(t, x));
}

/* Without a prompt the first token of the answer takes its place. false: nothing is left to learn. */
static bool normal(const ew_tune_example *x, ew_tune_example *ret)
{
    *ret = *x;
    if (ret->n_prompt == 0 && ret->n_answer > 0) {
        ret->n_prompt = 1;
        ret->n_answer--;
    }
    return ret->n_answer > 0 && ret->id != NULL;
}

static ew_status add_examples(ew__tuner *t, const ew_tune_example *x, size_t n, const char *what, size_t *ret_n,
                              ew_tune_example *dst, ew_error *reterr)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        ew_tune_example *to = &dst[kept];
        if (!normal(&x[i], to)) {
            t->empty++;
            continue;
        }
        const uint64_t tokens = (uint64_t)to->n_prompt + to->n_answer;
        for (uint64_t j = 0; j < tokens; j++) {
            if (to->id[j] < 0 || (uint32_t)to->id[j] >= t->cfg->V) {
                return ew_fail(reterr, EW_EINVAL, "%s example %zu: token %d is not in the vocabulary of %u", what, i,
                               to->id[j], t->cfg->V);
            }
        }
        const size_t rows = ew__tune_rows(t, to);
        t->truncated += tokens - 1 > token_rows(t, to);
        t->longest = EW_MAX(t->longest, rows);
        t->answer_share = EW_MAX(t->answer_share, (double)ew__tune_answers(t, to) / (double)rows);
        kept++;
    }
    *ret_n = kept;
    return EW_OK;
}

ew_status ew__tune_examples(ew__tuner *t, ew_error *reterr)
{
    ew_tune_opt *o = &t->o;
    size_t n = 0;
    if (!ew_size_add(o->n_train, o->n_val, &n) || n > UINT32_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "%zu examples are too many", o->n_train);
    }
    t->table = ew_calloc(EW_MAX(n, (size_t)1), sizeof(*t->table));
    if (t->table == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a table of %zu examples", n);
    }
    const size_t given = o->n_train;
    EW_TRY(add_examples(t, o->train, o->n_train, "training", &o->n_train, t->table, reterr));
    o->train = t->table;
    EW_TRY(add_examples(t, o->val, o->n_val, "validation", &o->n_val, t->table + o->n_train, reterr));
    o->val = t->table + o->n_train;
    if (given > 0 && o->n_train == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is nothing to learn: none of %zu examples has an answer", given);
    }
    return EW_OK;
}

void ew__tune_shuffle(const ew_tune_opt *o, uint64_t epoch, uint32_t *order)
{
    ew_rng rng;
    for (size_t j = 0; j < o->n_train; j++) {
        order[j] = (uint32_t)j;
    }
    ew_rng_init(&rng, o->seed, 100 + epoch);
    ew_rng_shuffle(&rng, order, o->n_train, sizeof(uint32_t));
}

/* Rows of the fullest pass when passes of `cap` rows are filled with order[0, n) of x, `group` examples at a time (0 = all together). */
static size_t fullest_pass(const ew__tuner *t, const ew_tune_example *x, const uint32_t *order, size_t n, size_t group,
                           size_t cap)
{
    size_t most = 0, rows = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t r = ew__tune_rows(t, &x[order != NULL ? order[i] : i]);
        rows = (group != 0 && i % group == 0) || rows + r > cap ? r : rows + r;
        most = EW_MAX(most, rows);
    }
    return most;
}

/* Epochs beyond the first ones count as not known. */
ew_status ew__tune_fullest(const ew__tuner *t, size_t *ret_rows, ew_error *reterr)
{
    enum {
        EPOCHS = 16
    };
    const ew_tune_opt *o = &t->o;
    *ret_rows = 0;
    if (o->n_train == 0) {
        return EW_OK;
    }
    const uint64_t per_epoch = (o->n_train + t->group - 1) / t->group;
    const uint64_t epochs = o->max_steps != 0 ? (o->max_steps + per_epoch - 1) / per_epoch : o->epochs;
    if (epochs > EPOCHS) {
        return EW_OK;
    }
    size_t most = fullest_pass(t, o->val, NULL, o->n_val, 0, t->t_max);
    uint32_t *order = ew_malloc(o->n_train, sizeof(*order));
    if (order == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the order of the examples");
    }
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        ew__tune_shuffle(o, epoch, order);
        most = EW_MAX(most, fullest_pass(t, o->train, order, o->n_train, t->group, t->t_max));
    }
    ew_free(order);
    *ret_rows = most;
    return EW_OK;
}

/* --- walks --- */

ew__tune_walk ew__tune_walk_step(ew__tuner *t)
{
    const uint64_t epoch = t->st.step / t->steps_per_epoch;
    const size_t first = (size_t)(t->st.step % t->steps_per_epoch) * t->group;
    if (t->perm_epoch != epoch + 1) {
        ew__tune_shuffle(&t->o, epoch, t->perm);
        t->perm_epoch = epoch + 1;
    }
    return (ew__tune_walk){false, first, EW_MIN(first + t->group, t->o.n_train)};
}

ew__tune_walk ew__tune_walk_val(const ew__tuner *t)
{
    return (ew__tune_walk){true, 0, t->o.n_val};
}

static const ew_tune_example *example_of(const ew__tuner *t, const ew__tune_walk *w, size_t i)
{
    return w->val ? &t->o.val[i] : &t->o.train[t->perm[i]];
}

size_t ew__tune_walk_answers(ew__tuner *t, const ew__tune_walk *w)
{
    size_t answers = 0;
    for (size_t i = w->at; i < w->end; i++) {
        answers += ew__tune_answers(t, example_of(t, w, i));
    }
    return answers;
}

/* Adds an example to the packed rows; false when there is no room. The prompt loses its front when it is too long, but for the
 * first token (BOS); an answer alone longer than seq_max loses its end. */
static bool pack_add(ew__tuner *t, const ew_tune_example *x)
{
    ew_train_batch *b = &t->pack.b;
    const size_t rows = token_rows(t, x), total = (size_t)x->n_prompt + x->n_answer - 1, first = b->T + t->prompt_rows;
    if (first + rows > t->t_max) {
        return false;
    }
    size_t cut = total - rows; /* tokens to leave out after the first */
    if (cut > (size_t)x->n_prompt - 1) {
        cut = (size_t)x->n_prompt - 1;
    }
    for (size_t i = b->T; i < first; i++) {
        t->id[i] = x->id[0]; /* not read */
        t->pos[i] = (int32_t)(i - b->T);
    }
    for (size_t i = 0; i < rows; i++) {
        const size_t at = first + i, from = i == 0 ? 0 : i + cut, to = i + cut + 1;
        t->id[at] = x->id[from];
        t->pos[at] = (int32_t)(t->n_virtual + i);
        if (to >= x->n_prompt) {
            t->row[t->pack.n_rows] = (uint32_t)at;
            t->target[t->pack.n_rows++] = x->id[to];
        }
    }
    b->T = first + rows;
    b->n_seq++;
    t->bound[b->n_seq] = (uint32_t)b->T;
    return true;
}

bool ew__tune_next(ew__tuner *t, ew__tune_walk *w)
{
    t->pack = (ew_step_batch){.b = {.bound = t->bound, .id = t->id, .pos = t->pos}, .row = t->row, .target = t->target};
    t->bound[0] = 0;
    while (w->at < w->end && pack_add(t, example_of(t, w, w->at))) {
        w->at++;
    }
    return t->pack.n_rows > 0;
}

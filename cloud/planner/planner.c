/* The planner: options, filter, prior and likelihood, choice, words. See planner.h. */
#include "planner/planner.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/weights.h"
#include "planner/planner_int.h"
#include "probe/cost.h"
#include "sys/pool.h"

#define ANSWER_MAX 96u /* tokens of free text at most, as task/ has it */
#define SEQ_MAX 512u   /* as run/ takes it */
#define WORKER_BYTES                                                                                                   \
    (2250u << 10)                 /* beside the probe's base: code that runs, items, task, labels; measured on x86-64 */
#define INDEX_BYTES (1200u << 10) /* of retrieval over some hundred items, likewise */
#define EXAMPLES_MAX 512u         /* that a dry run of training is given */
#define PROCESS_BASE (12u << 20)  /* a worker with nothing loaded, where the probe did not say */
#define ITEM_TOK_BYTES 16.0       /* an item's text and token ids, per token */
#define THREADS_MAX 64u
#define RAG_K 2u /* G10 */
#define EPOCHS 3.0
#define VALID_MS (24ull * 3600 * 1000)
#define GAIN_PSEUDO 3.0 /* the prior weighs as much as that many trials of the very same kind */
#define BASE_PSEUDO 2.0
#define GAIN_SD 0.06 /* spread of gains that the prior expects */
#define BASE_SD 0.15
#define NLL_WEIGHT 0.05 /* score that one nat per answer token is worth: the sensitive measure of small models */

typedef struct option {
    const ew_candidate *c;
    ew_method method;
    ew_settings settings;
    uint64_t ram_bytes;
    double seconds, seconds_low, seconds_high; /* NAN = the device told no rates */
    bool fits;
    char why_not[200];
    double prior_base, prior_gain; /* from the guidelines alone */
    double base, gain, gain_nll, score_sd;
    double prior_utility, utility;
    ew__pool pool; /* trials of the method */
    ew__pool base_pool;
    uint32_t strength; /* rank of the model among the distinct ones, 0 = weakest */
} option;

typedef struct planner {
    const ew_planner_input *in;
    option *opt;
    size_t n;
    int d, d_blind; /* difficulty, and as it would be without trials */
    double zero_shot, zero_shot_blind;
    double max_seconds; /* budget in force */
    bool hours_cut;
    uint64_t ram_limit; /* 0 = none known */
    const char *ram_limit_is;
    uint64_t disk_limit;
    double seconds_factor;
    uint32_t n_seconds;
    uint32_t n_models;   /* distinct ones */
    ew_pool *pool;       /* as many threads as the device has: the dry runs count their memory */
    uint64_t ram_offset; /* what this device's trials took beyond their prediction */
    uint32_t n_ram;
} planner;

static const ew_method methods[] = {EW_METHOD_NONE, EW_METHOD_LORA, EW_METHOD_RAG, EW_METHOD_LORA_RAG};

int ew_planner_difficulty(const ew_task_facts *facts, const ew_evidence *evidence, size_t n_evidence)
{
    double z = ew__zero_shot(facts, evidence, n_evidence);
    if (facts->n_labels > 0) {
        double chance = 1.0 / facts->n_labels;
        if (isfinite(z) && facts->n_labels > 1) {
            return (z - chance) / (1 - chance) >= 0.5 ? 0 : 1;
        }
        /* Without a score the form decides: labels that hardly occur do not make it hard. */
        double entropy = ew__fact(facts, "label.entropy");
        double labels = isfinite(entropy) ? exp2(entropy) : facts->n_labels;
        return labels <= 5 ? 0 : 1;
    }
    return isfinite(z) && z >= 0.3 ? 1 : 2;
}

/* ---- costs */

/* Longest sequence that the task will make: three times the mean covers the long items of a person's history. */
static uint32_t longest(const ew_planner_input *in, const ew_candidate *c, ew_method method, const ew_settings *s)
{
    double item = in->facts->mean_item_tok > 0 ? in->facts->mean_item_tok : 120;
    double tok = 3 * item * (ew_method_retrieves(method) ? 1.0 + s->rag_k : 1.0);
    return (uint32_t)fmin(fmin(tok + 32, SEQ_MAX), c->config->n_ctx_train);
}

/* Resident beside model, session and trainer: the worker with nothing loaded, its tokenizer, the items, and the full-text index. */
static uint64_t process_bytes(const ew_planner_input *in, const ew_candidate *c, ew_method method)
{
    const ew_rate *r = in->caps != NULL ? ew_caps_rate(in->caps, "process.base") : NULL;
    double base = r != NULL && r->value > 0 && r->value < 1e12 ? r->value : PROCESS_BASE;
    double items = (double)in->facts->n_items * in->facts->mean_item_tok * ITEM_TOK_BYTES;
    return (uint64_t)(base + items) + ew_cost_vocab_bytes(c->config) + WORKER_BYTES +
           (ew_method_retrieves(method) ? INDEX_BYTES : 0);
}

/* Training on examples of the lengths that the facts suggest (short ones beside long ones, as people write; the shortest bounds how many answer rows
 * a pass has, and shorter ones than these predicted up to 10 % too much on the benchmark's users): the trainer's own dry run then sizes its passes as
 * it will with the real ones. ids: zeros, as many as the longest. */
static void fill_tune(const planner *p, const ew_candidate *c, ew_method method, const ew_settings *s,
                      ew_tune_example *examples, const int32_t *ids, ew_tune_opt *ret)
{
    static const double spread[] = {1.0, 0.5, 1.8, 0.7, 0.3, 1.3, 0.9, 0.4, 2.3, 0.6, 0.35};
    const ew_task_facts *f = p->in->facts;
    double answer = fmin(f->mean_answer_tok > 0 ? f->mean_answer_tok : 4, UINT8_MAX);
    double item =
        (f->mean_item_tok > 0 ? f->mean_item_tok : 120) * (ew_method_retrieves(method) ? 1.0 + s->rag_k : 1.0);
    uint32_t seq = EW_MIN(SEQ_MAX, c->config->n_ctx_train);
    uint32_t n_val = EW_MIN(f->n_items / 5, EXAMPLES_MAX / 4),
             n = EW_MIN(f->n_items - 2 * (f->n_items / 5), EXAMPLES_MAX);
    for (uint32_t i = 0; i < n + n_val; i++) {
        double tok = fmax(fmin(item * spread[i % EW_COUNT(spread)], seq), answer + 2);
        examples[i] = (ew_tune_example){.id = ids, .n_answer = (uint32_t)answer, .n_prompt = (uint32_t)(tok - answer)};
    }
    *ret = (ew_tune_opt){.model = c->model,
                         .exec = {.pool = p->pool},
                         .adapter = {.rank = s->rank, .alpha = (float)s->alpha, .targets = s->targets},
                         .train = examples,
                         .n_train = n,
                         .val = examples + n,
                         .n_val = n_val,
                         .epochs = (uint32_t)ceil(s->epochs),
                         .seq_max = seq};
}

/* The sum that run/ makes before a trial, from the same dry runs. */
static ew_status dry_run(const planner *p, const ew_candidate *c, ew_method method, const ew_settings *s, uint64_t *ret,
                         ew_error *reterr)
{
    ew_cost_ram_opt opt = {.model = c->model,
                           .exec = {.pool = p->pool},
                           .method = method,
                           .settings = s,
                           .n_ctx = longest(p->in, c, method, s),
                           .process_bytes = process_bytes(p->in, c, method)};
    ew_tune_opt tune;
    ew_tune_example *examples = NULL;
    int32_t *ids = NULL;
    if (ew_method_trains(method) && p->in->facts->n_items > 0) {
        examples = ew_calloc(EXAMPLES_MAX + EXAMPLES_MAX / 4, sizeof *examples);
        ids = ew_calloc(SEQ_MAX + UINT8_MAX, sizeof *ids);
        if (examples == NULL || ids == NULL) {
            ew_free(examples);
            ew_free(ids);
            return ew_fail(reterr, EW_ENOMEM, "out of memory for a dry run");
        }
        fill_tune(p, c, method, s, examples, ids, &tune);
        opt.tune = &tune;
    }
    ew_status st = ew_cost_ram(&opt, ret, reterr);
    ew_free(examples);
    ew_free(ids);
    *ret += st == EW_OK ? p->ram_offset : 0;
    return st;
}

static ew_status predict_ram(const planner *p, option *o, ew_error *reterr)
{
    if (p->in->memory != NULL) {
        return p->in->memory(p->in->memory_ctx, o->c, o->method, &o->settings, &o->ram_bytes, reterr);
    }
    return dry_run(p, o->c, o->method, &o->settings, &o->ram_bytes, reterr);
}

static void predict_seconds(const planner *p, option *o)
{
    const ew_task_facts *f = p->in->facts;
    double answer = f->mean_answer_tok > 0 ? f->mean_answer_tok : 4;
    double item = f->mean_item_tok > 0 ? f->mean_item_tok : 120;
    double seq = EW_MIN(SEQ_MAX, o->c->config->n_ctx_train);
    double prompt = fmin(fmax(item - answer, 1), seq);
    ew_cost_item ci = {.prompt_tok = prompt,
                       .filled_tok =
                           ew_method_retrieves(o->method) ? fmin(prompt + o->settings.rag_k * item, seq) : prompt,
                       .answer_tok = answer,
                       /* labels that begin alike share what they share */
                       .decode_tok = f->n_labels > 0 ? 0.8 * f->n_labels * fmax(answer - 1, 1)
                                                     : ew_cost_generate_tok(answer, ANSWER_MAX)};
    size_t n_val = f->n_items / 5; /* the split of run/: 60 % history, 20 % val, 20 % test */
    ew_cost_work work;
    ew_cost_work_of(o->method, &o->settings, &ci, f->n_items - 2 * n_val, n_val, n_val, &work);
    o->seconds = o->seconds_low = o->seconds_high = NAN;
    if (p->in->caps != NULL) {
        o->seconds =
            ew_cost_seconds(p->in->caps, o->c->config, o->c->variant, &work, &o->seconds_low, &o->seconds_high);
    }
    o->seconds *= p->seconds_factor;
    o->seconds_low *= p->seconds_factor;
    o->seconds_high *= p->seconds_factor;
}

static void settings_for(ew_method method, const ew_task_facts *f, ew_settings *ret)
{
    *ret = (ew_settings){0};
    if (ew_method_trains(method)) {
        ret->rank = 8; /* G7: small, and not larger because RAM is free */
        ret->alpha = 16;
        ret->epochs = EPOCHS;
    }
    if (ew_method_retrieves(method)) {
        ret->rag_k = f->n_items < RAG_K ? EW_MAX(f->n_items, 1u) : RAG_K; /* G10 */
    }
}

static void reject(option *o, const char *fmt, ...) EW_PRINTF(2, 3);
static void reject(option *o, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    o->fits = false;
    (void)vsnprintf(o->why_not, sizeof o->why_not, fmt, ap);
    va_end(ap);
}

/* A model that cannot do what the method asks is an option that does not fit, not an error. */
static bool can_do(option *o)
{
    ew_error why = EW_ERROR_INIT;
    if (o->c->config->encoder) {
        reject(o, "is an encoder: it has no next token");
    } else if (ew_method_trains(o->method) && o->c->model != NULL &&
               ew_model_check_trainable(o->c->config, &why) != EW_OK) {
        reject(o, "%s", why.msg);
    } else {
        return true;
    }
    o->seconds = o->seconds_low = o->seconds_high = NAN;
    return false;
}

static ew_status cost_option(const planner *p, option *o, ew_error *reterr)
{
    char a[24], b[24];
    if (!can_do(o)) {
        return EW_OK;
    }
    EW_TRY(predict_ram(p, o, reterr));
    if (p->ram_limit != 0 && o->ram_bytes > p->ram_limit && o->settings.rank == 8) {
        o->settings.rank = 4; /* one step down the ladder before giving up */
        o->settings.alpha = 8;
        EW_TRY(predict_ram(p, o, reterr));
    }
    predict_seconds(p, o);
    while (p->max_seconds > 0 && o->seconds > p->max_seconds && o->settings.epochs > 1) {
        o->settings.epochs -= 1;
        predict_seconds(p, o);
    }
    o->fits = true;
    if (p->ram_limit != 0 && o->ram_bytes > p->ram_limit) {
        reject(o, "needs %s of memory, %s is %s", ew_str_bytes(a, sizeof a, o->ram_bytes), p->ram_limit_is,
               ew_str_bytes(b, sizeof b, p->ram_limit));
    } else if (p->disk_limit != 0 && o->c->file_bytes > p->disk_limit) {
        reject(o, "needs %s of disk, %s is free", ew_str_bytes(a, sizeof a, o->c->file_bytes),
               ew_str_bytes(b, sizeof b, p->disk_limit));
    } else if (p->max_seconds > 0 && o->seconds > p->max_seconds) {
        reject(o, "would take %.0f s even with one pass over the history, the budget is %.0f s", o->seconds,
               p->max_seconds);
    } else if (o->method != EW_METHOD_NONE && p->in->facts->n_items == 0) {
        reject(o, "there is no history to learn from yet");
    }
    return EW_OK;
}

/* ---- prior */

static double quant_bits(const char *variant)
{
    variant += variant[0] == 'i'; /* iq4_nl */
    if (strncmp(variant, "q", 1) == 0 && variant[1] >= '1' && variant[1] <= '8') {
        return variant[1] - '0';
    }
    return strcmp(variant, "f32") == 0 ? 32 : 16;
}

/* Score that a variant costs (G11), and what scarce data gives back to the compressed one (G11, G12). Falling in n, so that less data never
 * takes the first place from a compressed candidate (A7). */
static double prior_variant(const char *variant, uint32_t n)
{
    double bits = quant_bits(variant);
    double cost = bits <= 3 ? 0.08 : bits <= 5 ? 0.02 : bits <= 8 ? 0.004 : 0;
    double back = bits <= 5 ? 0.03 : bits <= 8 ? 0.008 : 0;
    return back * fmax(0, 1 - n / 64.0) - cost;
}

/* G1–G4 as in FACTS' encodable prior: LoRA for easy and for hard tasks, retrieval in between; the margin is small (G5). */
static double prior_gain(int d, ew_method method, uint32_t n)
{
    double lora = (d == 1 ? 0.03 : 0.06) * n / (n + 6.0);
    double rag = (d == 1 ? 0.06 : 0.03) * n / (n + 1.0);
    switch (method) {
    case EW_METHOD_LORA:
        return lora;
    case EW_METHOD_RAG:
        return rag;
    case EW_METHOD_LORA_RAG:
        return 0.5 * (lora + rag) - 0.002; /* not studied by the source: between the two, until trials say more */
    default:
        return 0;
    }
}

/* The untouched score that the guidelines expect of a model. G3: the strongest that fits once the task is not easy; G4: a stronger one, but how it
 * learns counts more; G2: no larger than needed for an easy one. */
static double prior_base(const planner *p, const option *o, int d, double zero_shot)
{
    static const double step[] = {-0.006, 0.05, 0.006};
    double rank = d == 0 ? o->strength : o->strength - (p->n_models - 1.0);
    return (isfinite(zero_shot) ? zero_shot : 0.4) + step[d] * rank +
           prior_variant(o->c->variant, p->in->facts->n_items);
}

/* ---- likelihood */

static void combine(const planner *p, option *o)
{
    ew__pool nll;
    ew__pool_trials(p->in, o->c, o->method, EW__GAIN_SCORE, &o->pool);
    ew__pool_trials(p->in, o->c, o->method, EW__GAIN_NLL, &nll);
    ew__pool_trials(p->in, o->c, o->method, EW__BASE_SCORE, &o->base_pool);
    const ew__pool *g = &o->pool, *b = &o->base_pool;
    o->gain = (GAIN_PSEUDO * o->prior_gain + g->weight * g->mean) / (GAIN_PSEUDO + g->weight);
    o->base = (BASE_PSEUDO * o->prior_base + b->weight * b->mean) / (BASE_PSEUDO + b->weight);
    o->gain_nll = nll.weight * nll.mean / (GAIN_PSEUDO + nll.weight);
    if (o->method == EW_METHOD_NONE) {
        o->gain = o->gain_nll = 0;
    }
    /* Spread between users: what was seen, as far as it was seen; the prior's otherwise. */
    double gain_var = (GAIN_PSEUDO * GAIN_SD * GAIN_SD + g->weight * g->sd * g->sd) / (GAIN_PSEUDO + g->weight);
    double base_var = (BASE_PSEUDO * BASE_SD * BASE_SD + b->weight * b->sd * b->sd) / (BASE_PSEUDO + b->weight);
    o->score_sd = sqrt(base_var + (o->method == EW_METHOD_NONE ? 0 : gain_var));
}

/* Objectives beside the score: seconds count, and seconds are energy. */
static double time_price(const planner *p, const option *o)
{
    const char *objective = p->in->objective != NULL ? p->in->objective : "";
    double weight = strcmp(objective, "latency") == 0 ? 0.05 : strcmp(objective, "energy") == 0 ? 0.03 : 0.0005;
    return isfinite(o->seconds) ? weight * log10(1 + o->seconds) : 0;
}

static void score_option(const planner *p, option *o)
{
    uint32_t n = p->in->facts->n_items;
    o->prior_base = prior_base(p, o, p->d, p->zero_shot);
    o->prior_gain = prior_gain(p->d, o->method, n);
    combine(p, o);
    /* What it would be worth if no trial were known, the measured difficulty included. */
    o->prior_utility =
        prior_base(p, o, p->d_blind, p->zero_shot_blind) + prior_gain(p->d_blind, o->method, n) - time_price(p, o);
    o->utility = o->base + o->gain + NLL_WEIGHT * o->gain_nll - time_price(p, o);
}

/* ---- options */

/* Rank of each distinct model by general score, or by size where a score is missing. */
static bool weaker(const ew_candidate *a, const ew_candidate *b)
{
    if (isfinite(a->score) && isfinite(b->score) && (a->score < b->score || a->score > b->score)) {
        return a->score < b->score;
    }
    return a->n_params != b->n_params ? a->n_params < b->n_params : strcmp(a->name, b->name) < 0;
}

static uint32_t strength_of(const ew_planner_input *in, const ew_candidate *c)
{
    uint32_t rank = 0;
    for (size_t i = 0; i < in->n_candidates; i++) {
        const ew_candidate *other = &in->candidates[i];
        bool first = true; /* of its name */
        for (size_t k = 0; k < i && first; k++) {
            first = strcmp(in->candidates[k].name, other->name) != 0;
        }
        rank += first && strcmp(other->name, c->name) != 0 && weaker(other, c);
    }
    return rank;
}

static ew_status make_options(planner *p, ew_error *reterr)
{
    const ew_planner_input *in = p->in;
    p->opt = ew_calloc(in->n_candidates * EW_COUNT(methods), sizeof *p->opt);
    if (p->opt == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for a plan");
    }
    for (size_t i = 0; i < in->n_candidates; i++) {
        p->n_models = EW_MAX(p->n_models, strength_of(in, &in->candidates[i]) + 1);
    }
    for (size_t i = 0; i < in->n_candidates; i++) {
        for (size_t m = 0; m < EW_COUNT(methods); m++) {
            option *o = &p->opt[p->n];
            *o = (option){.c = &in->candidates[i], .method = methods[m]};
            o->strength = strength_of(in, o->c);
            settings_for(o->method, in->facts, &o->settings);
            ew_status st = cost_option(p, o, reterr);
            if (st == EW_EUNSUPPORTED) {
                continue; /* this model cannot be trained by this build: no option */
            }
            EW_TRY(st);
            score_option(p, o);
            p->n++;
        }
    }
    return EW_OK;
}

static void smaller_limit(uint64_t v, const char *is, uint64_t *limit, const char **limit_is)
{
    if (v != 0 && (*limit == 0 || v < *limit)) {
        *limit = v;
        *limit_is = is;
    }
}

static void find_limits(planner *p)
{
    const ew_planner_input *in = p->in;
    const char *ignored = "";
    smaller_limit(in->budget.ram_bytes, "the budget", &p->ram_limit, &p->ram_limit_is);
    smaller_limit(in->budget.disk_bytes, "", &p->disk_limit, &ignored);
    if (in->state != NULL) {
        smaller_limit(in->state->memory_limit_bytes, "the device's limit", &p->ram_limit, &p->ram_limit_is);
        smaller_limit(in->state->ram_available_bytes, "the device's free memory", &p->ram_limit, &p->ram_limit_is);
        smaller_limit(in->state->disk_free_bytes, "", &p->disk_limit, &ignored);
    }
    p->max_seconds = EW_PLANNER_HOURS_MAX * 3600;
    p->hours_cut = in->budget.seconds > p->max_seconds;
    if (in->budget.seconds > 0) {
        p->max_seconds = fmin(in->budget.seconds, p->max_seconds);
    }
    p->seconds_factor = ew__seconds_factor(in, &p->n_seconds);
    p->ram_offset = ew__ram_offset(in, &p->n_ram);
    p->zero_shot = ew__zero_shot(in->facts, in->evidence, in->n_evidence);
    p->zero_shot_blind = ew__zero_shot(in->facts, NULL, 0);
    p->d = ew_planner_difficulty(in->facts, in->evidence, in->n_evidence);
    p->d_blind = ew_planner_difficulty(in->facts, NULL, 0);
}

/* ---- words */

static void add_trials(ew_choice *c, const ew__pool *pool)
{
    ew_reason *r = &c->reasons[c->n_reasons - 1];
    for (uint32_t i = 0; i < pool->n_ids && r->n_trials < EW_REASON_TRIALS_MAX; i++) {
        memcpy(r->trials[r->n_trials++], pool->id[i], EW_UID_BYTES);
    }
}

static void put_estimates(const planner *p, const option *o, ew_choice *c)
{
    double ram = (double)o->ram_bytes, half = 1.64 * o->score_sd, score = o->base + o->gain;
    (void)p;
    (void)ew_choice_add_estimate(c, "ram", "B", ram, 0.92 * ram, 1.05 * ram);
    if (isfinite(o->seconds)) {
        (void)ew_choice_add_estimate(c, "seconds", "s", o->seconds, o->seconds_low, o->seconds_high);
    }
    (void)ew_choice_add_estimate(c, "score", "1", score, score - half, score + half);
    (void)ew_choice_add_estimate(c, "gain", "1", o->gain, o->gain - 1.64 * GAIN_SD, o->gain + 1.64 * GAIN_SD);
}

static void put_choice(const planner *p, const option *o, ew_choice *c)
{
    memcpy(c->model_sha256, o->c->sha256, sizeof c->model_sha256);
    (void)ew_str_copy(c->model_name, sizeof c->model_name, o->c->name);
    (void)ew_str_copy(c->variant, sizeof c->variant, o->c->variant);
    c->method = o->method;
    c->feasible = o->fits;
    c->settings = o->settings;
    put_estimates(p, o, c);
}

static void explain_method(const planner *p, const option *o, ew_choice *c)
{
    static const char *const kinds[] = {"easy", "moderately hard", "hard"};
    uint32_t n = p->in->facts->n_items;
    if (n == 0) {
        (void)ew_choice_add_reason(c, "cold-start", "X", "no history yet: the model is used as it is");
        return;
    }
    if (isfinite(p->zero_shot)) {
        (void)ew_choice_add_reason(c, "G1", "P", "difficulty decides: %s is %s (untouched score %.2f%s)",
                                   p->in->facts->task, kinds[p->d], p->zero_shot,
                                   p->in->facts->n_labels > 0 ? ", normalised by chance" : "");
    } else {
        (void)ew_choice_add_reason(c, "G1", "P", "difficulty decides: %s is taken as %s from its form (%u labels)",
                                   p->in->facts->task, kinds[p->d], p->in->facts->n_labels);
    }
    const char *rule = p->d == 0 ? "G2" : p->d == 1 ? "G3" : "G4";
    (void)ew_choice_add_reason(c, rule, "P",
                               "prior gain for %u items: lora %+.3f, rag %+.3f, lora+rag %+.3f; a soft preference (G5)",
                               n, prior_gain(p->d, EW_METHOD_LORA, n), prior_gain(p->d, EW_METHOD_RAG, n),
                               prior_gain(p->d, EW_METHOD_LORA_RAG, n));
    if (ew_method_trains(o->method)) {
        (void)ew_choice_add_reason(c, "G7", "P", "LoRA rank %u, alpha %.0f: small on a constrained device",
                                   o->settings.rank, o->settings.alpha);
    }
    if (ew_method_retrieves(o->method)) {
        (void)ew_choice_add_reason(c, "G10", "P", "%u retrieved items per prompt: more history is not better",
                                   o->settings.rag_k);
    }
}

static void explain_model(const planner *p, const option *o, ew_choice *c)
{
    char need[24], limit[24];
    if (p->ram_limit != 0) {
        (void)ew_choice_add_reason(c, "ram-filter", "measured", "needs %s by dry run, %s is %s",
                                   ew_str_bytes(need, sizeof need, o->ram_bytes), p->ram_limit_is,
                                   ew_str_bytes(limit, sizeof limit, p->ram_limit));
    }
    if (p->n_models > 1) {
        (void)ew_choice_add_reason(c,
                                   p->d == 0   ? "G2"
                                   : p->d == 1 ? "G3"
                                               : "G4",
                                   "P",
                                   p->d == 0 ? "an easy task: no larger model than needed"
                                             : "the strongest model that fits, compressed or not");
    }
    if (quant_bits(o->c->variant) <= 8 && p->in->facts->n_items < 64) {
        (void)ew_choice_add_reason(
            c, "G11", "P", "%s: with little history (%u items) the compressed model loses little and may learn better",
            o->c->variant, p->in->facts->n_items);
    }
    if (p->hours_cut) {
        (void)ew_choice_add_reason(c, "G8", "P", "learning stops after %.0f hours: longer gives nothing or hurts",
                                   EW_PLANNER_HOURS_MAX);
    }
}

static void option_name(const option *o, char dst[static 128])
{
    (void)snprintf(dst, 128, "%.60s %.20s + %s", o->c->name, o->c->variant, ew_method_name(o->method));
}

static void explain_evidence(const planner *p, const option *o, const option *by_prior, ew_choice *c)
{
    char name[128];
    if (o->pool.n > 0 && o->method != EW_METHOD_NONE) {
        (void)ew_choice_add_reason(c, "evidence", "measured",
                                   "%u trials like this one (weight %.1f) gained %+.3f over the untouched model; the "
                                   "guidelines said %+.3f, together %+.3f",
                                   o->pool.n, o->pool.weight, o->pool.mean, o->prior_gain, o->gain);
        add_trials(c, &o->pool);
    }
    if (by_prior != NULL && by_prior != o) {
        option_name(by_prior, name);
        if (ew_choice_add_reason(c, "evidence", "measured",
                                 "without trials it would have been %s; trials put that at %.3f and this at %.3f", name,
                                 by_prior->utility, o->utility)) {
            add_trials(c, by_prior->pool.n > 0 ? &by_prior->pool : &by_prior->base_pool);
            if (by_prior->pool.n == 0 || by_prior->method == o->method) {
                add_trials(c, &o->base_pool);
            }
        }
    }
    if (p->n_ram > 0 && p->ram_offset > 0) {
        char more[24];
        (void)ew_choice_add_reason(c, "ram", "measured",
                                   "%u trials of this device took %s more memory than predicted: counted in", p->n_ram,
                                   ew_str_bytes(more, sizeof more, p->ram_offset));
    }
    if (p->n_seconds > 0) {
        (void)ew_choice_add_reason(c, "seconds", "measured",
                                   "%u trials of this device took %.2f of the seconds that its probe predicted",
                                   p->n_seconds, p->seconds_factor);
    }
}

static void explain_runner(const option *o, const option *best, ew_choice *c)
{
    if (!o->fits) {
        (void)ew_choice_add_reason(c, "filter", "measured", "%s", o->why_not);
        return;
    }
    (void)ew_choice_add_reason(c, "score", o->pool.n > 0 ? "measured" : "P", "expected score %.3f against %.3f",
                               o->base + o->gain, best->base + best->gain);
    if (o->pool.n > 0) {
        (void)ew_choice_add_reason(c, "evidence", "measured", "%u trials like this one gained %+.3f", o->pool.n,
                                   o->pool.mean);
        add_trials(c, &o->pool);
    }
}

/* ---- choice */

static int by_utility(const void *a, const void *b)
{
    const option *x = a, *y = b;
    if (x->fits != y->fits) {
        return x->fits ? -1 : 1;
    }
    if (x->utility < y->utility || x->utility > y->utility) {
        return x->utility > y->utility ? -1 : 1;
    }
    int order = strcmp(x->c->name, y->c->name);
    order = order != 0 ? order : strcmp(x->c->variant, y->c->variant);
    return order != 0 ? order : (int)x->method - (int)y->method;
}

static const option *best_by_prior(const planner *p)
{
    const option *best = NULL;
    for (size_t i = 0; i < p->n; i++) {
        if (p->opt[i].fits && (best == NULL || p->opt[i].prior_utility > best->prior_utility + 1e-12)) {
            best = &p->opt[i];
        }
    }
    return best;
}

static ew_status nothing_fits(const planner *p, ew_error *reterr)
{
    const option *least = NULL;
    char name[128];
    for (size_t i = 0; i < p->n; i++) {
        /* 0: a model that cannot do it at all */
        uint64_t need = p->opt[i].ram_bytes;
        if (least == NULL || (need != 0 && (least->ram_bytes == 0 || need < least->ram_bytes))) {
            least = &p->opt[i];
        }
    }
    if (least == NULL) {
        return ew_fail(reterr, EW_ENOENT, "no model of the catalogue can be used here");
    }
    option_name(least, name);
    return ew_fail(reterr, EW_ELIMIT,
                   "nothing in the catalogue fits: %s, the smallest, %s. HINT: import a smaller model or variant", name,
                   least->why_not);
}

/* Half of the places for what would also do, half for what was rejected and why. */
static void put_runners(const planner *p, ew_plan *plan)
{
    size_t n_fit = 0;
    while (n_fit < p->n && p->opt[n_fit].fits) {
        n_fit++;
    }
    size_t n_reject = p->n - n_fit, room = EW_PLAN_RUNNERS_UP_MAX;
    size_t show_reject = EW_MIN(n_reject, room / 2);
    size_t show_fit = EW_MIN(n_fit - 1, room - show_reject);
    for (size_t i = 1; i <= show_fit; i++) {
        put_choice(p, &p->opt[i], &plan->runners_up[plan->n_runners_up]);
        explain_runner(&p->opt[i], &p->opt[0], &plan->runners_up[plan->n_runners_up++]);
    }
    for (size_t i = n_fit; i < n_fit + show_reject; i++) {
        put_choice(p, &p->opt[i], &plan->runners_up[plan->n_runners_up]);
        explain_runner(&p->opt[i], &p->opt[0], &plan->runners_up[plan->n_runners_up++]);
    }
}

static ew_status choose(planner *p, ew_plan *plan, ew_error *reterr)
{
    const ew_planner_input *in = p->in;
    qsort(p->opt, p->n, sizeof *p->opt, by_utility);
    if (p->n == 0 || !p->opt[0].fits) {
        return nothing_fits(p, reterr);
    }
    const option *best = &p->opt[0];
    (void)ew_str_copy(plan->task, sizeof plan->task, in->facts->task);
    (void)ew_str_copy(plan->device_id, sizeof plan->device_id, in->device_id);
    put_choice(p, best, &plan->chosen);
    explain_evidence(p, best, best_by_prior(p), &plan->chosen);
    explain_method(p, best, &plan->chosen);
    explain_model(p, best, &plan->chosen);
    put_runners(p, plan);
    plan->budget = in->budget;
    plan->budget.seconds = p->max_seconds;
    plan->made_unix_ms = in->now_ms;
    plan->valid_until_unix_ms = in->now_ms + VALID_MS;
    plan->evidence_version = in->evidence_version;
    return EW_OK;
}

ew_status ew_planner_make(const ew_planner_input *in, ew_plan **ret_plan, ew_error *reterr)
{
    if (in->n_candidates == 0) {
        return ew_fail(reterr, EW_ENOENT, "the catalogue holds no model. HINT: edgewise model import");
    }
    if (in->n_candidates > EW_PLANNER_CANDIDATES_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "at most %u variants can be compared", EW_PLANNER_CANDIDATES_MAX);
    }
    planner p = {.in = in, .ram_limit_is = ""};
    ew_plan *plan = ew_calloc(1, sizeof *plan);
    find_limits(&p);
    ew_status st = plan == NULL ? ew_fail(reterr, EW_ENOMEM, "out of memory for a plan") : EW_OK;
    if (st == EW_OK && in->memory == NULL && in->caps != NULL && in->caps->cores > 1) {
        st = ew_pool_new(EW_MIN(in->caps->cores, THREADS_MAX), &p.pool, reterr);
    }
    if (st == EW_OK) {
        st = make_options(&p, reterr);
    }
    if (st == EW_OK) {
        st = choose(&p, plan, reterr);
    }
    ew_free(p.opt);
    ew_pool_free(&p.pool);
    if (st != EW_OK) {
        ew_free(plan);
        return st;
    }
    *ret_plan = plan;
    return EW_OK;
}

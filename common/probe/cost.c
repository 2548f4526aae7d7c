#include "probe/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/weights.h"
#include "probe/learning.h"
#include "sys/file.h"
#include "sys/pool.h"

/* Positions that a token attends to in the probe's passes: half of a prompt's tokens; prompt and half of what is decoded (probe/probe.c). */
#define NEAR_PREFILL_CTX (EW_COST_PROMPT_TOK / 2.0)
#define FAR_PREFILL_CTX (EW_COST_LONG_TOK / 2.0)
#define NEAR_DECODE_CTX (EW_COST_PROMPT_TOK + EW_COST_DECODE_TOK / 2.0)
#define FAR_DECODE_CTX (EW_COST_LONG_TOK + EW_COST_DECODE_TOK / 2.0)
#define BATCH 8.0 /* examples of a step, as train/tune.h takes it */
/* Training passes over val: before the first step and once per epoch (train/tune.h). */
#define VAL_PASSES(epochs) (1.0 + (epochs))

double ew_cost_flop_layers(const ew_model_config *cfg, double ctx)
{
    double sum = 0;
    for (int l = 0; l < EW_LINEAR_COUNT; l++) {
        uint32_t rows;
        uint32_t cols;
        ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
        sum += (double)rows * cols;
    }
    return (2 * sum + 4.0 * cfg->H * cfg->D * ctx) * cfg->L;
}

double ew_cost_flop_head(const ew_model_config *cfg)
{
    return 2.0 * cfg->V * cfg->C;
}

double ew_cost_generate_tok(double answer_tok, double max_answer_tok)
{
    return answer_tok + fmin(answer_tok, max_answer_tok);
}

void ew_cost_work_of(ew_method method, const ew_settings *settings, const ew_cost_item *item, size_t n_history,
                     size_t n_val, size_t n_test, ew_cost_work *ret_work)
{
    double epochs = ew_learning_epochs(method, settings);
    double n_eval = (double)(n_val + n_test);
    /* The untouched model is always scored; the method itself where it differs. */
    double passes = method == EW_METHOD_NONE ? 0 : 1;
    double filled = ew_method_retrieves(method) ? item->filled_tok : item->prompt_tok;
    double prompts = item->prompt_tok + passes * filled;
    *ret_work = (ew_cost_work){
        .prefill_tok = n_eval * prompts,
        .prefill_ctx = (item->prompt_tok * item->prompt_tok + passes * filled * filled) / 2 / prompts,
        .decode_tok = n_eval * (1 + passes) * item->decode_tok,
        .decode_ctx = prompts / (1 + passes),
    };
    if (ew_method_trains(method)) {
        double per_epoch = ceil((double)n_history / BATCH);
        if (settings->max_steps != 0 && per_epoch > 0) {
            epochs = fmin(epochs, settings->max_steps / per_epoch);
        }
        ret_work->train_ctx = (filled + item->answer_tok) / 2;
        ret_work->train_tok = ew_learning_work(method, settings) * epochs * (double)n_history * 2 * ret_work->train_ctx;
        ret_work->train_val_tok = VAL_PASSES(ceil(epochs)) * (double)n_val * 2 * ret_work->train_ctx;
    }
}

typedef struct rate {
    double value;  /* FLOP/s */
    double spread; /* relative */
} rate;

static bool read_rate(const ew_device_caps *caps, const char *kind, const char *dtype, int width, rate *ret)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%s.%s.%d", kind, dtype, width);
    const ew_rate *r = ew_caps_rate(caps, name);
    if (r == NULL || !(r->value > 0)) {
        return false;
    }
    *ret = (rate){.value = r->value * 1e9, .spread = r->spread > 0 ? r->spread / r->value : 0};
    return true;
}

#define SLOPE_MAX 2.0

/* Between the two measured widths linear in log C, constant outside. */
static bool find_rate(const ew_device_caps *caps, const char *kind, const char *dtype, uint32_t C, rate *ret)
{
    rate small;
    rate large;
    if (!read_rate(caps, kind, dtype, 128, &small) || !read_rate(caps, kind, dtype, 256, &large)) {
        return false;
    }
    double t = fmin(fmax(log2((double)C / 128), 0), 1);
    ret->value = exp((1 - t) * log(small.value) + t * log(large.value));
    ret->spread = fmax(small.spread, large.spread);
    return true;
}

/* Seconds of a token that attends to ctx positions, from a rate measured at ctx0 and, when there is one, another at ctx1. */
typedef struct line {
    double ctx0, ctx1;
    double s0, s1;
    double spread; /* relative */
} line;

static bool find_line(const ew_device_caps *caps, const ew_model_config *cfg, const char *kind, const char *dtype,
                      line *ret)
{
    rate near;
    rate far;
    char longer[32];
    bool decode = strcmp(kind, "decode") == 0;
    double head = decode ? ew_cost_flop_head(cfg) : 0;
    (void)snprintf(longer, sizeof(longer), "%s-long", kind);
    if (!find_rate(caps, kind, dtype, cfg->C, &near)) {
        return false;
    }
    *ret = (line){.ctx0 = decode ? NEAR_DECODE_CTX : NEAR_PREFILL_CTX,
                  .ctx1 = decode ? FAR_DECODE_CTX : FAR_PREFILL_CTX,
                  .spread = near.spread};
    if (!find_rate(caps, longer, dtype, cfg->C, &far)) {
        far = near;
    }
    /* Attention is slower for its FLOP, but not so much that more than noise could say so. */
    far.value = fmin(fmax(far.value, 0.5 * near.value), 1.2 * near.value);
    ret->s0 = (ew_cost_flop_layers(cfg, ret->ctx0) + head) / near.value;
    ret->s1 = (ew_cost_flop_layers(cfg, ret->ctx1) + head) / far.value;
    /* Attention costs more than its FLOP, but a neighbour's burst during the probe is no attention. */
    double by_flop = (ew_cost_flop_layers(cfg, ret->ctx1) + head) / (ew_cost_flop_layers(cfg, ret->ctx0) + head);
    ret->s1 = fmin(ret->s1, SLOPE_MAX * by_flop * ret->s0);
    return true;
}

/* A falling line is noise. */
static double at(const line *l, double ctx)
{
    double slope = fmax(l->s1 - l->s0, 0) / (l->ctx1 - l->ctx0);
    return fmax(l->s0 + slope * (ctx - l->ctx0), 0.3 * l->s0);
}

/* The type that the probe measures in place of another: by the bytes that a weight takes, which decide most of the pace. */
static const char *measured_kin(const char *dtype)
{
    static const struct {
        const char *begins, *kin;
    } kin[] = {{"f32", "f16"}, {"bf16", "f16"}, {"q8", "q8_0"}, {"q6", "q8_0"}, {"q5", "q8_0"},
               {"q4", "q4_0"}, {"iq4", "q4_0"}, {"q3", "q4_0"}, {"q2", "q4_0"}};
    for (size_t i = 0; i < EW_COUNT(kin); i++) {
        if (strncmp(dtype, kin[i].begins, strlen(kin[i].begins)) == 0) {
            return kin[i].kin;
        }
    }
    return dtype;
}

double ew_cost_seconds(const ew_device_caps *caps, const ew_model_config *cfg, const char *dtype,
                       const ew_cost_work *work, double *ret_low, double *ret_high)
{
    line prefill;
    line decode;
    rate train = {1, 0};
    dtype = measured_kin(dtype);
    if (!find_line(caps, cfg, "prefill", dtype, &prefill) || !find_line(caps, cfg, "decode", dtype, &decode) ||
        (work->train_tok > 0 && !find_rate(caps, "train", dtype, cfg->C, &train))) {
        return NAN;
    }
    double step = ew_cost_flop_layers(cfg, NEAR_PREFILL_CTX) / train.value * at(&prefill, work->train_ctx) / prefill.s0;
    double parts[] = {work->prefill_tok * at(&prefill, work->prefill_ctx),
                      work->decode_tok * at(&decode, work->decode_ctx), work->train_tok * step,
                      /* a validation pass in training is about the forward third of a step */
                      work->train_val_tok * step / 3};
    if (work->max_seconds > 0 && parts[2] + parts[3] > work->max_seconds) {
        double cut = work->max_seconds / (parts[2] + parts[3]);
        parts[2] *= cut;
        parts[3] *= cut;
    }
    double spreads[] = {prefill.spread, decode.spread, train.spread, train.spread};
    double sum = 0;
    double wide = 0;
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        sum += parts[i];
        wide += parts[i] * fmax(spreads[i], 0.1);
    }
    if (ret_low != NULL) {
        *ret_low = fmax(sum - 1.64 * wide, 0.3 * sum);
    }
    if (ret_high != NULL) {
        *ret_high = sum + 1.64 * wide;
    }
    return sum;
}

/* ---- memory ---- */

#define RANK_MIN 8u
/* Measured: the part of a compute thread's block (kern/work.c) and stack that passes touch. */
#define THREAD_BYTES (640u << 10)
/* Measured: pages of the program and its libraries that are first touched while it scores, tunes and writes the result. */
#define CODE_BYTES (768u << 10)
#define TRAIN_CODE_BYTES (384u << 10)
#define VOCAB_ENTRY_BYTES 160u
#define METADATA_MAX (64u << 20)

uint64_t ew_cost_vocab_bytes(const ew_model_config *cfg)
{
    return (uint64_t)cfg->V * VOCAB_ENTRY_BYTES;
}

ew_session_opt ew_cost_session(const ew_cost_ram_opt *opt)
{
    ew_session_opt so = {.n_ctx = opt->n_ctx, .exec = opt->exec};
    ew_learning l;
    ew_adapter_opt a;
    if (!ew_method_trains(opt->method) ||
        ew_learning_of(opt->method, opt->settings, false, ew_model_config_of(opt->model)->L, 0, &l, NULL) != EW_OK ||
        ew_adapter_opt_resolve(&l.adapter, &a, NULL) != EW_OK) {
        return so;
    }
    so.max_rank = EW_MAX(a.kind == EW_ADAPTER_BOTTLENECK ? a.width : a.rank, RANK_MIN);
    so.max_virtual = a.n_virtual;
    so.max_exits = a.n_exits;
    return so;
}

ew_status ew_cost_ram(const ew_cost_ram_opt *opt, uint64_t *ret_bytes, ew_error *reterr)
{
    ew_memory_plan session;
    ew_session_opt so = ew_cost_session(opt);
    EW_TRY(ew_session_memory(opt->model, &so, &session, reterr));
    uint64_t phase = session.kv_bytes + session.workspace_bytes;
    if (ew_method_trains(opt->method)) {
        const ew_settings *s = opt->settings;
        ew_tune_memory_plan plan;
        ew_learning l;
        EW_TRY(ew_learning_of(opt->method, s, false, ew_model_config_of(opt->model)->L, 0, &l, reterr));
        ew_tune_opt tune = {
            .model = (ew_model *)(uintptr_t)opt->model, .exec = opt->exec, .adapter = l.adapter, .seq_max = opt->n_ctx};
        const ew_tune_opt *to = opt->tune != NULL ? opt->tune : &tune;
        EW_TRY(ew_tune_memory(to, &plan, reterr));
        /* The adapter stays while the personalised model is scored. */
        phase = EW_MAX(phase + ew_adapter_bytes(opt->model, &to->adapter),
                       plan.adapter_bytes + plan.activ_bytes + plan.scratch_bytes) +
                TRAIN_CODE_BYTES;
    }
    /* Opening a GGUF reads its metadata through the same mapping. */
    uint64_t file = 0;
    if (ew_file_size(ew_model_path(opt->model), &file, NULL) != EW_OK || file < session.weights_bytes ||
        file - session.weights_bytes > METADATA_MAX) {
        file = session.weights_bytes;
    }
    uint64_t threads = opt->exec.pool != NULL ? ew_pool_threads(opt->exec.pool) : 1;
    *ret_bytes = opt->process_bytes + CODE_BYTES + file + session.copied_bytes + threads * THREAD_BYTES + phase;
    return EW_OK;
}

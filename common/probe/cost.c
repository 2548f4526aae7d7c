#include "probe/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/weights.h"

#define DEFAULT_EPOCHS 3.0
#define DEFAULT_RAG_K 2.0
/* Training passes over val: before the first step and once per epoch (train/tune.h). */
#define VAL_PASSES(epochs) (1.0 + (epochs))

double ew_cost_flop_layers(const ew_model_config *cfg)
{
    double sum = 0;
    for (int l = 0; l < EW_LINEAR_COUNT; l++) {
        uint32_t rows;
        uint32_t cols;
        ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
        sum += (double)rows * cols;
    }
    return 2 * sum * cfg->L;
}

double ew_cost_flop_head(const ew_model_config *cfg)
{
    return 2.0 * cfg->V * cfg->C;
}

void ew_cost_work_of(ew_method method, const ew_settings *settings, const ew_cost_item *item, size_t n_history,
                     size_t n_val, size_t n_test, ew_cost_work *ret_work)
{
    double epochs = settings->epochs > 0 ? settings->epochs : DEFAULT_EPOCHS;
    double k = settings->rag_k > 0 ? settings->rag_k : DEFAULT_RAG_K;
    double n_eval = (double)(n_val + n_test);
    double plain = fmin(item->prompt_tok, item->seq_max_tok);
    double filled = plain;
    if (ew_method_retrieves(method)) {
        filled = fmin(item->prompt_tok + k * item->retrieved_tok, item->seq_max_tok);
    }
    /* The untouched model is always scored; the method itself where it differs. */
    double passes = method == EW_METHOD_NONE ? 0 : 1;
    *ret_work = (ew_cost_work){
        .prefill_tok = n_eval * (plain + passes * filled),
        .decode_tok = n_eval * (1 + passes) * (item->candidates_tok + item->answer_tok),
    };
    if (ew_method_trains(method)) {
        ret_work->train_tok = epochs * (double)n_history * (filled + item->answer_tok);
        ret_work->train_val_tok = VAL_PASSES(epochs) * (double)n_val * (filled + item->answer_tok);
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

double ew_cost_seconds(const ew_device_caps *caps, const ew_model_config *cfg, const char *dtype,
                       const ew_cost_work *work, double *ret_low, double *ret_high)
{
    rate prefill;
    rate decode;
    rate train = {1, 0};
    double layers = ew_cost_flop_layers(cfg);
    double head = ew_cost_flop_head(cfg);
    if (!find_rate(caps, "prefill", dtype, cfg->C, &prefill) || !find_rate(caps, "decode", dtype, cfg->C, &decode) ||
        (work->train_tok > 0 && !find_rate(caps, "train", dtype, cfg->C, &train))) {
        return NAN;
    }
    double parts[] = {work->prefill_tok * layers / prefill.value, work->decode_tok * (layers + head) / decode.value,
                      work->train_tok * layers / train.value,
                      /* a validation pass in training is about the forward third of a step */
                      work->train_val_tok * layers / (3 * train.value)};
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

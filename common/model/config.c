/* What holds of every configuration, wherever it came from.
 * Sources: Llama 3.1's and YaRN's rotary scaling as in transformers modeling_rope_utils.py (formulas beside the code). */
#include <math.h>
#include <string.h>

#include "model/model_int.h"

#define PI 3.14159265358979323846

/* One field of the table that ew_model_config_check goes through. */
typedef struct field_range {
    const char *name;
    uint64_t value, max;
} field_range;

static ew_status check_rope(const ew_model_config *cfg, ew_error *reterr)
{
    if ((cfg->n_rot == 0 && cfg->n_pos == 0) || cfg->n_rot % 2 != 0 || cfg->n_rot > cfg->D) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%u rotated dimensions do not fit heads of %u (even, at most the head size)", cfg->n_rot,
                       cfg->D);
    }
    float local = cfg->rope_theta_local;
    if (!(cfg->rope_theta >= 1 && cfg->rope_theta <= 1e12F) || (local != 0 && !(local >= 1 && local <= 1e12F))) {
        return ew_fail(reterr, EW_ECORRUPT, "rotary base %g is outside [1, 1e12]",
                       (double)(local != 0 ? local : cfg->rope_theta));
    }
    ew_rope_scaling kind = cfg->rope_scaling;
    bool scaled = kind == EW_ROPE_SCALING_LINEAR || kind == EW_ROPE_SCALING_LLAMA3 || kind == EW_ROPE_SCALING_YARN;
    if (scaled && !(cfg->rope_factor > 0 && cfg->rope_factor <= 1e6F)) {
        return ew_fail(reterr, EW_ECORRUPT, "rotary scaling factor %g is outside (0, 1e6]", (double)cfg->rope_factor);
    }
    if (kind == EW_ROPE_SCALING_LLAMA3 &&
        !(cfg->rope_low_freq > 0 && cfg->rope_high_freq > cfg->rope_low_freq && cfg->rope_orig_ctx > 0)) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "llama3 rotary scaling needs 0 < low_freq_factor < high_freq_factor and the original context");
    }
    if ((kind == EW_ROPE_SCALING_YARN || kind == EW_ROPE_SCALING_LONGROPE) && cfg->rope_orig_ctx == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "yarn and longrope rotary scaling need the original context");
    }
    if (!(cfg->rope_mscale >= 0 && cfg->rope_mscale <= 100)) {
        return ew_fail(reterr, EW_ECORRUPT, "rotary attention factor %g is outside [0, 100]", (double)cfg->rope_mscale);
    }
    return EW_OK;
}

static ew_status check_scales(const ew_model_config *cfg, ew_error *reterr)
{
    const struct {
        const char *name;
        float value;
    } scales[] = {{"the embedding's scale", cfg->embed_scale},
                  {"the attention's scale", cfg->attn_scale},
                  {"the attention's soft cap", cfg->attn_softcap},
                  {"the logits' soft cap", cfg->final_softcap}};
    for (size_t i = 0; i < EW_COUNT(scales); i++) {
        if (!(scales[i].value >= 0 && scales[i].value <= 1e6F)) {
            return ew_fail(reterr, EW_ECORRUPT, "%s is %g, outside [0, 1e6]", scales[i].name, (double)scales[i].value);
        }
    }
    if (!(cfg->norm_eps >= 0 && cfg->norm_eps < 1)) {
        return ew_fail(reterr, EW_ECORRUPT, "norm epsilon %g is outside [0, 1)", (double)cfg->norm_eps);
    }
    return EW_OK;
}

ew_status ew_model_config_check(const ew_model_config *cfg, ew_error *reterr)
{
    const field_range fields[] = {
        {"the hidden size", cfg->C, 1u << 20},
        {"the number of heads", cfg->H, 4096},
        {"the number of key/value heads", cfg->K, 4096},
        {"the head size", cfg->D, EW_HEAD_MAX},
        {"the feed-forward size", cfg->F, 1u << 22},
        {"the vocabulary size", cfg->V, EW_LIMIT_VOCAB},
        {"the number of layers", cfg->L, EW_LIMIT_LAYERS},
        {"the training context", cfg->n_ctx_train, 1u << 30},
    };
    for (size_t i = 0; i < EW_COUNT(fields); i++) {
        if (fields[i].value == 0 || fields[i].value > fields[i].max) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s is %llu, outside 1 … %llu", fields[i].name,
                           (unsigned long long)fields[i].value, (unsigned long long)fields[i].max);
        }
    }
    if (cfg->H % cfg->K != 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%u heads are no multiple of %u key/value heads", cfg->H, cfg->K);
    }
    if (cfg->n_pos > EW_LIMIT_CONTEXT_TOK || (cfg->n_pos > 0 && cfg->n_ctx_train > cfg->n_pos)) {
        return ew_fail(reterr, EW_ECORRUPT, "a context of %u does not fit a table of %u positions", cfg->n_ctx_train,
                       cfg->n_pos);
    }
    if (cfg->norm_after && cfg->parallel) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "norms after the sums are not supported in a parallel block");
    }
    if (cfg->n_types > 1024) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%u token types are over the limit of 1024", cfg->n_types);
    }
    EW_TRY(check_scales(cfg, reterr));
    return check_rope(cfg, reterr);
}

ew_status ew_model_check_trainable(const ew_model_config *cfg, ew_error *reterr)
{
    EW_TRY(ew_model_config_check(cfg, reterr));
    if (cfg->encoder || cfg->norm_after || (cfg->parallel && cfg->post_norms)) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "training is available for models that predict the next token; this one, '%s', %s", cfg->arch,
                       cfg->encoder      ? "is an encoder"
                       : cfg->norm_after ? "has its norms after the sums"
                                         : "is parallel with norms after");
    }
    return EW_OK;
}

ew_status ew_model_check_plain(const ew_model_config *cfg, ew_error *reterr)
{
    EW_TRY(ew_model_config_check(cfg, reterr));
    const struct {
        bool has;
        const char *what;
    } features[] = {
        {cfg->encoder, "is an encoder"},
        {cfg->norm != EW_NORM_RMS, "has LayerNorm"},
        {cfg->parallel || cfg->norm_after || cfg->post_norms, "has its norms in other places"},
        {cfg->ungated, "has a feed-forward without a gate"},
        {cfg->act != EW_ACT_SILU, "has another activation than SiLU"},
        {cfg->qk_norm, "normalises queries and keys"},
        {cfg->biases, "has biases"},
        {cfg->n_pos > 0, "has learned positions"},
        {cfg->window > 0 && cfg->window < cfg->n_ctx_train, "has sliding windows"},
        {cfg->embed_scale != 0 || cfg->attn_scale != 0, "scales its embedding or its scores"},
        {cfg->attn_softcap != 0 || cfg->final_softcap != 0, "has soft caps"},
        {cfg->rope_mscale != 0 || cfg->rope_scaling == EW_ROPE_SCALING_LONGROPE, "has yarn or longrope positions"}};
    for (size_t i = 0; i < EW_COUNT(features); i++) {
        if (features[i].has) {
            return ew_fail(reterr, EW_EUNSUPPORTED,
                           "this is for models of the 'llama' architecture; this one, '%s', %s", cfg->arch,
                           features[i].what);
        }
    }
    return EW_OK;
}

void ew__config_local(ew_model_config *cfg, uint32_t period)
{
    for (uint32_t i = 0; i < cfg->L && i < EW_LIMIT_LAYERS && period > 0; i++) {
        cfg->local[i] = period == 1 || (i + 1) % period != 0;
    }
}

/* Llama 3.1: with wavelength w = 2 pi / freq, freq' = freq / factor where w > orig/low, freq where w < orig/high, and in the
 * band between (1 - s) freq / factor + s freq, s = (orig/w - low) / (high - low). A divisor is freq / freq'. */
static double llama3_factor(const ew_model_config *cfg, uint32_t i)
{
    double low = (double)cfg->rope_low_freq;
    double high = (double)cfg->rope_high_freq;
    double orig = (double)cfg->rope_orig_ctx;
    double factor = (double)cfg->rope_factor;
    double wavelen = 2 * PI / pow((double)cfg->rope_theta, -2.0 * i / cfg->n_rot);
    if (wavelen > orig / low) {
        return factor;
    }
    if (wavelen < orig / high) {
        return 1;
    }
    double s = (orig / wavelen - low) / (high - low);
    return 1 / ((1 - s) / factor + s);
}

/* The pair that makes `turns` turns within the original context. */
static double yarn_pair(const ew_model_config *cfg, double turns)
{
    return cfg->n_rot * log((double)cfg->rope_orig_ctx / (turns * 2 * PI)) / (2 * log((double)cfg->rope_theta));
}

/* Peng 2023 (2309.00071) section 3.2: freq' = freq / factor * r + freq * (1 - r) with a ramp r from 0 at the pair of beta_fast turns to 1 at
 * that of beta_slow. */
static double yarn_factor(const ew_model_config *cfg, uint32_t i)
{
    double fast = cfg->rope_beta_fast > 0 ? (double)cfg->rope_beta_fast : 32;
    double slow = cfg->rope_beta_slow > 0 ? (double)cfg->rope_beta_slow : 1;
    double low = fmax(floor(yarn_pair(cfg, fast)), 0);
    double high = fmin(ceil(yarn_pair(cfg, slow)), (double)cfg->n_rot - 1);
    double r = fmin(fmax((i - low) / (high > low ? high - low : 0.001), 0), 1);
    return 1 / (r / (double)cfg->rope_factor + (1 - r));
}

void ew__rope_factors(const ew_model_config *cfg, float *factors)
{
    for (uint32_t i = 0; i < cfg->n_rot / 2; i++) {
        switch (cfg->rope_scaling) {
        case EW_ROPE_SCALING_LINEAR:
            factors[i] = cfg->rope_factor;
            break;
        case EW_ROPE_SCALING_LLAMA3:
            factors[i] = (float)llama3_factor(cfg, i);
            break;
        case EW_ROPE_SCALING_YARN:
            factors[i] = (float)yarn_factor(cfg, i);
            break;
        default:
            factors[i] = 1;
        }
    }
}

/* The table of architectures, and configurations from GGUF metadata and config.json.
 * Sources: GGUF specification (llama.* keys), llama.cpp src/llama-arch.cpp for names, transformers' LlamaConfig for defaults,
 * Llama 3.1's rotary scaling as in transformers modeling_rope_utils.py (formula beside the code). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/str.h"
#include "model/model_int.h"
#include "sys/file.h"
#include "text/json.h"

static const ew_arch archs[] = {
    {"llama", "LlamaForCausalLM", "silu", EW_ROPE_NORM, EW_ROPE_NEOX},
    {"llama", "MistralForCausalLM", "silu", EW_ROPE_NORM, EW_ROPE_NEOX},
};

const ew_arch *ew__arch_by_gguf(const char *name, size_t size)
{
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        if (strlen(archs[i].gguf_name) == size && memcmp(archs[i].gguf_name, name, size) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

const ew_arch *ew__arch_by_hf(const char *hf_class)
{
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        if (archs[i].hf_class != NULL && strcmp(archs[i].hf_class, hf_class) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

char *ew__arch_names(bool hf, char *dst, size_t size)
{
    size_t used = 0;
    dst[0] = '\0';
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        const char *name = hf ? archs[i].hf_class : archs[i].gguf_name;
        if (name == NULL || (!hf && i > 0 && strcmp(name, archs[i - 1].gguf_name) == 0)) {
            continue;
        }
        int n = snprintf(dst + used, size - used, "%s%s", used > 0 ? ", " : "", name);
        if (n < 0 || (size_t)n >= size - used) {
            break;
        }
        used += (size_t)n;
    }
    return dst;
}

/* One field of the table that ew_model_config_check goes through. */
typedef struct field_range {
    const char *name;
    uint64_t value, max;
} field_range;

ew_status ew_model_config_check(const ew_model_config *cfg, ew_error *reterr)
{
    const field_range fields[] = {
        {"the hidden size", cfg->C, 1u << 20},
        {"the number of heads", cfg->H, 4096},
        {"the number of key/value heads", cfg->K, 4096},
        {"the head size", cfg->D, 256},
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
    if (cfg->n_rot == 0 || cfg->n_rot % 2 != 0 || cfg->n_rot > cfg->D) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%u rotated dimensions do not fit heads of %u (even, at most the head size)", cfg->n_rot,
                       cfg->D);
    }
    if (!(cfg->norm_eps >= 0 && cfg->norm_eps < 1)) {
        return ew_fail(reterr, EW_ECORRUPT, "norm epsilon %g is outside [0, 1)", (double)cfg->norm_eps);
    }
    if (!(cfg->rope_theta >= 1 && cfg->rope_theta <= 1e12F)) {
        return ew_fail(reterr, EW_ECORRUPT, "rotary base %g is outside [1, 1e12]", (double)cfg->rope_theta);
    }
    bool scaled = cfg->rope_scaling == EW_ROPE_SCALING_LINEAR || cfg->rope_scaling == EW_ROPE_SCALING_LLAMA3;
    if (scaled && !(cfg->rope_factor > 0 && cfg->rope_factor <= 1e6F)) {
        return ew_fail(reterr, EW_ECORRUPT, "rotary scaling factor %g is outside (0, 1e6]", (double)cfg->rope_factor);
    }
    if (cfg->rope_scaling == EW_ROPE_SCALING_LLAMA3 &&
        !(cfg->rope_low_freq > 0 && cfg->rope_high_freq > cfg->rope_low_freq && cfg->rope_orig_ctx > 0)) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "llama3 rotary scaling needs 0 < low_freq_factor < high_freq_factor and the original context");
    }
    return EW_OK;
}

/* Llama 3.1: with wavelength w = 2 pi / freq, freq' = freq / factor where w > orig/low, freq where w < orig/high, and in the
 * band between (1 - s) freq / factor + s freq, s = (orig/w - low) / (high - low). A divisor is freq / freq'. */
void ew__rope_factors(const ew_model_config *cfg, float *factors)
{
    double low = (double)cfg->rope_low_freq;
    double high = (double)cfg->rope_high_freq;
    double orig = (double)cfg->rope_orig_ctx;
    double factor = (double)cfg->rope_factor;
    for (uint32_t i = 0; i < cfg->n_rot / 2; i++) {
        if (cfg->rope_scaling == EW_ROPE_SCALING_LINEAR) {
            factors[i] = cfg->rope_factor;
            continue;
        }
        double freq = pow((double)cfg->rope_theta, -2.0 * i / cfg->n_rot);
        double wavelen = 2 * 3.14159265358979323846 / freq;
        if (wavelen > orig / low) {
            factors[i] = cfg->rope_factor;
        } else if (wavelen < orig / high) {
            factors[i] = 1;
        } else {
            double s = (orig / wavelen - low) / (high - low);
            factors[i] = (float)(1 / ((1 - s) / factor + s));
        }
    }
}

/* ---- GGUF ---- */

/* Key "<arch>.<suffix>". */
static char *arch_key(char dst[static 96], const ew_arch *arch, const char *suffix)
{
    (void)snprintf(dst, 96, "%s.%s", arch->gguf_name, suffix);
    return dst;
}

static ew_status need_u32(const ew_gguf *g, const ew_arch *arch, const char *suffix, uint32_t *ret, ew_error *reterr)
{
    char key[96];
    if (!ew_gguf_get_u32(g, arch_key(key, arch, suffix), ret)) {
        if (ew_gguf_has(g, key)) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "'%s' is not one whole number (values per layer are not supported)",
                           key);
        }
        return ew_fail(reterr, EW_ECORRUPT, "the key '%s' is missing", key);
    }
    return EW_OK;
}

static ew_status opt_u32(const ew_gguf *g, const ew_arch *arch, const char *suffix, uint32_t *io, ew_error *reterr)
{
    char key[96];
    return ew_gguf_has(g, arch_key(key, arch, suffix)) ? need_u32(g, arch, suffix, io, reterr) : EW_OK;
}

static ew_status opt_f32(const ew_gguf *g, const ew_arch *arch, const char *suffix, float *io, ew_error *reterr)
{
    char key[96];
    if (ew_gguf_has(g, arch_key(key, arch, suffix)) && !ew_gguf_get_f32(g, key, io)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' is not a number", key);
    }
    return EW_OK;
}

/* Keys that change what a block computes, and that this build does not have. */
static ew_status refuse_gguf_options(const ew_gguf *g, const ew_arch *arch, ew_error *reterr)
{
    static const char *const zero[] = {"expert_count", "attention.sliding_window", "attention.alibi_bias_max",
                                       "attention.clamp_kqv"};
    static const char *const one[] = {"logit_scale", "residual_scale", "embedding_scale", "attention.scale"};
    char key[96];
    double v;
    for (size_t i = 0; i < EW_COUNT(zero); i++) {
        if (ew_gguf_get_f64(g, arch_key(key, arch, zero[i]), &v) && v != 0) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "'%s' is %g: not supported by this build (only 0)", key, v);
        }
    }
    for (size_t i = 0; i < EW_COUNT(one); i++) {
        if (ew_gguf_get_f64(g, arch_key(key, arch, one[i]), &v) && v != 0 && v != 1) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "'%s' is %g: not supported by this build (only 1)", key, v);
        }
    }
    bool causal;
    if (ew_gguf_get_bool(g, arch_key(key, arch, "attention.causal"), &causal) && !causal) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "'%s' is false: encoders are not supported by this build", key);
    }
    return EW_OK;
}

static ew_status gguf_rope_scaling(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    char key[96];
    char type[32] = "none";
    if (ew_gguf_has(g, arch_key(key, arch, "rope.scaling.type")) && !ew_gguf_get_str_copy(g, key, type, sizeof(type))) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' is not a short text", key);
    }
    float factor = 0;
    EW_TRY(opt_f32(g, arch, "rope.scale_linear", &factor, reterr)); /* before 2023-12 */
    if (factor != 0 && !ew_gguf_has(g, key)) {
        (void)ew_str_copy(type, sizeof(type), "linear");
    }
    EW_TRY(opt_f32(g, arch, "rope.scaling.factor", &factor, reterr));
    if (ew_str_eq(type, "linear")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LINEAR;
        cfg->rope_factor = factor;
    } else if (!ew_str_eq(type, "none")) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "rotary scaling '%s' is not supported by this build (none, linear, llama3 factors)", type);
    }
    return EW_OK;
}

static ew_status gguf_numbers(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    EW_TRY(need_u32(g, arch, "embedding_length", &cfg->C, reterr));
    EW_TRY(need_u32(g, arch, "attention.head_count", &cfg->H, reterr));
    EW_TRY(need_u32(g, arch, "feed_forward_length", &cfg->F, reterr));
    EW_TRY(need_u32(g, arch, "block_count", &cfg->L, reterr));
    EW_TRY(need_u32(g, arch, "context_length", &cfg->n_ctx_train, reterr));
    cfg->K = cfg->H;
    EW_TRY(opt_u32(g, arch, "attention.head_count_kv", &cfg->K, reterr));
    EW_TRY(opt_u32(g, arch, "vocab_size", &cfg->V, reterr));
    if (cfg->H == 0 || cfg->K == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "the number of heads is 0");
    }
    cfg->D = cfg->C / cfg->H;
    EW_TRY(opt_u32(g, arch, "attention.key_length", &cfg->D, reterr));
    uint32_t v_len = cfg->D;
    EW_TRY(opt_u32(g, arch, "attention.value_length", &v_len, reterr));
    if (v_len != cfg->D) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "value heads of %u beside key heads of %u are not supported by this build", v_len, cfg->D);
    }
    cfg->n_rot = cfg->D;
    EW_TRY(opt_u32(g, arch, "rope.dimension_count", &cfg->n_rot, reterr));
    EW_TRY(opt_f32(g, arch, "rope.freq_base", &cfg->rope_theta, reterr));
    char key[96];
    if (!ew_gguf_has(g, arch_key(key, arch, "attention.layer_norm_rms_epsilon"))) {
        return ew_fail(reterr, EW_ECORRUPT, "the key '%s' is missing", key);
    }
    return opt_f32(g, arch, "attention.layer_norm_rms_epsilon", &cfg->norm_eps, reterr);
}

ew_status ew__config_from_gguf(const ew_gguf *g, const ew_arch **ret_arch, ew_model_config *cfg, ew_error *reterr)
{
    char names[128];
    ew_span name;
    if (!ew_gguf_get_str(g, "general.architecture", &name)) {
        return ew_fail(reterr, EW_ECORRUPT, "the key 'general.architecture' is missing: this GGUF holds no model");
    }
    int shown = (int)EW_MIN(name.size, 40);
    char type[32];
    if (ew_gguf_get_str_copy(g, "general.type", type, sizeof(type)) && !ew_str_eq(type, "model")) {
        return ew_fail(reterr, EW_EINVAL, "this GGUF holds a %s, not a model", type);
    }
    const ew_arch *arch = ew__arch_by_gguf(name.data, name.size);
    if (arch == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "the architecture '%.*s' is not supported; this build has: %s", shown,
                       (const char *)name.data, ew__arch_names(false, names, sizeof(names)));
    }
    *cfg = (ew_model_config){.rope_theta = 10000.0F, .norm_eps = 1e-5F, .rope_kind = arch->gguf_rope, .file_type = -1};
    (void)ew_str_copy(cfg->arch, sizeof(cfg->arch), arch->gguf_name);
    if (!ew_gguf_get_str_copy(g, "general.name", cfg->name, sizeof(cfg->name))) {
        (void)ew_str_copy(cfg->name, sizeof(cfg->name), ew_path_base(ew_gguf_path(g)));
    }
    uint32_t file_type;
    if (ew_gguf_get_u32(g, "general.file_type", &file_type) && file_type < 1024) {
        cfg->file_type = (int32_t)file_type;
    }
    EW_TRY(refuse_gguf_options(g, arch, reterr));
    EW_TRY(gguf_numbers(g, arch, cfg, reterr));
    EW_TRY(gguf_rope_scaling(g, arch, cfg, reterr));
    *ret_arch = arch;
    return EW_OK;
}

/* ---- config.json ---- */

static ew_status hf_u32(const json_t *j, const char *key, bool need, uint32_t *io, ew_error *reterr)
{
    int64_t v = *io;
    EW_TRY(need ? ew_json_get_i64(j, "config.json", key, 0, INT32_MAX, &v, reterr)
                : ew_json_opt_i64(j, "config.json", key, 0, INT32_MAX, &v, reterr));
    *io = (uint32_t)v;
    return EW_OK;
}

static ew_status hf_f32(const json_t *j, const char *key, float *io, ew_error *reterr)
{
    double v = (double)*io;
    EW_TRY(ew_json_opt_f64(j, "config.json", key, &v, reterr));
    *io = (float)v;
    return EW_OK;
}

/* rope_scaling (transformers 4) or rope_parameters (5). */
static ew_status hf_rope(const json_t *j, ew_model_config *cfg, ew_error *reterr)
{
    EW_TRY(hf_f32(j, "rope_theta", &cfg->rope_theta, reterr));
    const json_t *o = json_object_get(j, "rope_parameters");
    if (!json_is_object(o)) {
        o = json_object_get(j, "rope_scaling");
    }
    if (o == NULL || json_is_null(o)) {
        return EW_OK;
    }
    if (!json_is_object(o)) {
        return ew_fail(reterr, EW_ECORRUPT, "config.json: 'rope_scaling' should be an object, is %s", ew_json_kind(o));
    }
    const char *type = "default";
    EW_TRY(ew_json_opt_str(o, "config.json", "type", &type, reterr));
    EW_TRY(ew_json_opt_str(o, "config.json", "rope_type", &type, reterr));
    EW_TRY(hf_f32(o, "rope_theta", &cfg->rope_theta, reterr));
    if (ew_str_eq(type, "default")) {
        return EW_OK;
    }
    EW_TRY(hf_f32(o, "factor", &cfg->rope_factor, reterr));
    if (ew_str_eq(type, "linear")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LINEAR;
        return EW_OK;
    }
    if (ew_str_eq(type, "llama3")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LLAMA3;
        cfg->rope_orig_ctx = cfg->n_ctx_train;
        EW_TRY(hf_f32(o, "low_freq_factor", &cfg->rope_low_freq, reterr));
        EW_TRY(hf_f32(o, "high_freq_factor", &cfg->rope_high_freq, reterr));
        return hf_u32(o, "original_max_position_embeddings", false, &cfg->rope_orig_ctx, reterr);
    }
    return ew_fail(reterr, EW_EUNSUPPORTED,
                   "config.json: rotary scaling '%s' is not supported by this build (default, linear, llama3)", type);
}

/* Options that change what a block computes. */
static ew_status hf_refuse(const json_t *j, const ew_arch *arch, ew_error *reterr)
{
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < EW_COUNT(off); i++) {
        bool on = false;
        EW_TRY(ew_json_opt_bool(j, "config.json", off[i], &on, reterr));
        if (on) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "config.json: '%s' is true: not supported by this build", off[i]);
        }
    }
    const char *act = arch->hf_act;
    EW_TRY(ew_json_opt_str(j, "config.json", "hidden_act", &act, reterr));
    if (!ew_str_eq(act, arch->hf_act)) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "config.json: hidden_act '%s' is not supported by this build (%s)", act,
                       arch->hf_act);
    }
    const json_t *quant = json_object_get(j, "quantization_config");
    if (json_is_object(quant)) {
        const char *method = "unknown";
        EW_TRY(ew_json_opt_str(quant, "config.json", "quant_method", &method, reterr));
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "the directory is quantized by '%s', which this build does not read. HINT: start from the "
                       "unquantized model",
                       method);
    }
    return EW_OK;
}

static ew_status hf_numbers(const json_t *j, ew_model_config *cfg, ew_error *reterr)
{
    EW_TRY(hf_u32(j, "hidden_size", true, &cfg->C, reterr));
    EW_TRY(hf_u32(j, "num_attention_heads", true, &cfg->H, reterr));
    EW_TRY(hf_u32(j, "intermediate_size", true, &cfg->F, reterr));
    EW_TRY(hf_u32(j, "num_hidden_layers", true, &cfg->L, reterr));
    EW_TRY(hf_u32(j, "vocab_size", true, &cfg->V, reterr));
    cfg->n_ctx_train = 2048;
    EW_TRY(hf_u32(j, "max_position_embeddings", false, &cfg->n_ctx_train, reterr));
    uint32_t window = 0;
    EW_TRY(hf_u32(j, "sliding_window", false, &window, reterr));
    if (window > 0 && window < cfg->n_ctx_train) {
        cfg->n_ctx_train = window; /* within the window plain attention is the same function */
    }
    cfg->K = cfg->H;
    EW_TRY(hf_u32(j, "num_key_value_heads", false, &cfg->K, reterr));
    if (cfg->H == 0 || cfg->K == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "config.json: the number of heads is 0");
    }
    cfg->D = cfg->C / cfg->H;
    EW_TRY(hf_u32(j, "head_dim", false, &cfg->D, reterr));
    float part = 1;
    EW_TRY(hf_f32(j, "partial_rotary_factor", &part, reterr));
    if (!(part > 0 && part <= 1)) {
        return ew_fail(reterr, EW_ECORRUPT, "config.json: partial_rotary_factor %g is outside (0, 1]", (double)part);
    }
    cfg->n_rot = (uint32_t)((float)cfg->D * part);
    return hf_f32(j, "rms_norm_eps", &cfg->norm_eps, reterr);
}

static ew_status hf_class(const json_t *j, const ew_arch **ret_arch, ew_error *reterr)
{
    json_t *list;
    EW_TRY(ew_json_get_arr(j, "config.json", "architectures", &list, reterr));
    const char *name = json_string_value(json_array_get(list, 0));
    if (name == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "config.json: 'architectures' names no class");
    }
    char names[128];
    *ret_arch = ew__arch_by_hf(name);
    if (*ret_arch == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "the architecture '%.60s' is not supported; this build has: %s", name,
                       ew__arch_names(true, names, sizeof(names)));
    }
    return EW_OK;
}

/* The last part of the path, whatever slashes end it. */
static void dir_name(const char *dir, char *dst, size_t size)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        n--;
    }
    size_t start = n;
    while (start > 0 && dir[start - 1] != '/') {
        start--;
    }
    size_t len = EW_MIN(n - start, size - 1);
    memcpy(dst, dir + start, len);
    dst[len] = '\0';
}

ew_status ew__config_from_hf(const char *dir, const ew_arch **ret_arch, ew_model_config *cfg, int *ret_tied,
                             ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), dir, "config.json", reterr));
    EW_AUTO_JSON j = NULL;
    ew_status st = ew_json_load_file(path, EW_LIMIT_YAML_BYTES, &j, reterr);
    if (st == EW_ENOENT) {
        return ew_fail(reterr, st,
                       "%s is a directory without config.json: neither a GGUF file nor a Hugging Face model", dir);
    }
    EW_TRY(st);
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should hold an object, holds %s", path, ew_json_kind(j));
    }
    const ew_arch *arch;
    EW_TRY(hf_class(j, &arch, reterr));
    *cfg = (ew_model_config){.rope_theta = 10000.0F, .norm_eps = 1e-6F, .rope_kind = arch->hf_rope, .file_type = -1};
    (void)ew_str_copy(cfg->arch, sizeof(cfg->arch), arch->gguf_name);
    dir_name(dir, cfg->name, sizeof(cfg->name));
    EW_TRY(hf_refuse(j, arch, reterr));
    EW_TRY(hf_numbers(j, cfg, reterr));
    EW_TRY(hf_rope(j, cfg, reterr));
    int tied = -1;
    if (json_object_get(j, "tie_word_embeddings") != NULL) {
        bool on = false;
        EW_TRY(ew_json_opt_bool(j, "config.json", "tie_word_embeddings", &on, reterr));
        tied = on;
    }
    *ret_arch = arch;
    *ret_tied = tied;
    return EW_OK;
}

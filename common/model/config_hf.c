/* Configurations from a Hugging Face directory's config.json, as transformers 4 and 5 write it.
 * Sources: transformers' models/<family>/configuration_*.py for names and defaults, modeling_rope_utils.py for rotary scaling. */
#include <math.h>
#include <string.h>

#include "base/str.h"
#include "model/model_int.h"
#include "sys/file.h"
#include "text/json.h"

#define WHERE "config.json"

typedef struct reader {
    const json_t *j; /* the whole */
    const ew_arch *arch;
    ew_model_config *cfg;
    ew_hf_extra *extra;
    ew_error *err;
} reader;

/* ---- values under one of several names ---- */

/* The first name that has a value, or the first of all. */
static const char *known(const json_t *j, const char *const *names)
{
    for (size_t i = 0; names[i] != NULL; i++) {
        const json_t *v = json_object_get(j, names[i]);
        if (v != NULL && !json_is_null(v)) {
            return names[i];
        }
    }
    return names[0];
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static ew_status u32_of(const reader *r, const json_t *j, const char *const *names, bool need, uint32_t *io)
{
    const char *key = known(j, names);
    int64_t v = *io;
    EW_TRY(need ? ew_json_get_i64(j, WHERE, key, 0, INT32_MAX, &v, r->err)
                : ew_json_opt_i64(j, WHERE, key, 0, INT32_MAX, &v, r->err));
    *io = (uint32_t)v;
    return EW_OK;
}

static ew_status f32_of(const reader *r, const json_t *j, const char *const *names, float *io)
{
    double v = (double)*io;
    EW_TRY(ew_json_opt_f64(j, WHERE, known(j, names), &v, r->err));
    *io = (float)v;
    return EW_OK;
}

static ew_status bool_of(const reader *r, const char *key, bool *io)
{
    return ew_json_opt_bool(r->j, WHERE, key, io, r->err);
}

/* ---- what this build does not have ---- */

static ew_status refuse_quantized(const reader *r)
{
    const json_t *quant = json_object_get(r->j, "quantization_config");
    if (!json_is_object(quant)) {
        return EW_OK;
    }
    const char *method = "unknown";
    EW_TRY(ew_json_opt_str(quant, WHERE, "quant_method", &method, r->err));
    return ew_fail(r->err, EW_EUNSUPPORTED,
                   "the directory is quantized by '%s', which this build does not read. HINT: start from the "
                   "unquantized model",
                   method);
}

/* Options that change what a block computes: refused unless they have the one value that the block has. */
static ew_status refuse_options(const reader *r)
{
    static const struct {
        const char *key;
        bool only;
    } flags[] = {{"scale_attn_by_inverse_layer_idx", false},
                 {"scale_attn_weights", true},
                 {"add_cross_attention", false},
                 {"layer_norm_elementwise_affine", true},
                 {"use_bidirectional_attention", false},
                 {"_remove_final_layer_norm", false},
                 {"is_decoder", false},
                 {"alibi", false}};
    for (size_t i = 0; i < EW_COUNT(flags); i++) {
        bool on = flags[i].only;
        EW_TRY(bool_of(r, flags[i].key, &on));
        if (on != flags[i].only) {
            return ew_fail(r->err, EW_EUNSUPPORTED, WHERE ": %s %s is not supported by this build", flags[i].key,
                           on ? "true" : "false");
        }
    }
    uint32_t n = 0;
    EW_TRY(u32_of(r, r->j, NAMES("num_local_experts", "num_experts", "n_routed_experts"), false, &n));
    if (n > 1) {
        return ew_fail(r->err, EW_EUNSUPPORTED, WHERE ": a mixture of %u experts is not supported by this build", n);
    }
    uint32_t width = r->cfg->C;
    EW_TRY(u32_of(r, r->j, NAMES("word_embed_proj_dim"), false, &width));
    if (width != r->cfg->C) {
        return ew_fail(r->err, EW_EUNSUPPORTED,
                       WHERE ": word_embed_proj_dim %u unlike hidden_size %u is not supported by this build", width,
                       r->cfg->C);
    }
    const char *positions = "absolute";
    EW_TRY(ew_json_opt_str(r->j, WHERE, "position_embedding_type", &positions, r->err));
    if ((r->arch->flags & EW_ARCH_POSITIONS) && !ew_str_eq(positions, "absolute")) {
        return ew_fail(r->err, EW_EUNSUPPORTED, WHERE ": position_embedding_type '%s' is not supported by this build",
                       positions);
    }
    return refuse_quantized(r);
}

/* ---- the parts ---- */

static ew_status numbers(const reader *r)
{
    ew_model_config *cfg = r->cfg;
    EW_TRY(u32_of(r, r->j, NAMES("hidden_size", "n_embd"), true, &cfg->C));
    EW_TRY(u32_of(r, r->j, NAMES("num_attention_heads", "n_head", "num_heads"), true, &cfg->H));
    cfg->F = r->arch->flags & EW_ARCH_FFN_4C ? 4 * cfg->C : 0;
    EW_TRY(u32_of(r, r->j, NAMES("intermediate_size", "n_inner", "ffn_dim"), cfg->F == 0, &cfg->F));
    EW_TRY(u32_of(r, r->j, NAMES("num_hidden_layers", "n_layer", "num_layers"), true, &cfg->L));
    EW_TRY(u32_of(r, r->j, NAMES("vocab_size"), true, &cfg->V));
    cfg->n_ctx_train = 2048;
    EW_TRY(u32_of(r, r->j, NAMES("max_position_embeddings", "n_positions", "n_ctx"), false, &cfg->n_ctx_train));
    cfg->K = cfg->H;
    EW_TRY(u32_of(r, r->j, NAMES("num_key_value_heads"), false, &cfg->K));
    if (cfg->H == 0 || cfg->K == 0) {
        return ew_fail(r->err, EW_ECORRUPT, WHERE ": the number of heads is 0");
    }
    if (cfg->L > EW_LIMIT_LAYERS) {
        return ew_fail(r->err, EW_EUNSUPPORTED, "the number of layers is %u, outside 1 … %u", cfg->L, EW_LIMIT_LAYERS);
    }
    cfg->D = r->arch->head != 0 ? r->arch->head : cfg->C / cfg->H;
    EW_TRY(u32_of(r, r->j, NAMES("head_dim"), false, &cfg->D));
    cfg->norm_eps = r->arch->eps;
    return f32_of(r, r->j, NAMES("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), &cfg->norm_eps);
}

static ew_status activation(const reader *r)
{
    static const struct {
        const char *name;
        ew_act act;
    } acts[] = {
        {"silu", EW_ACT_SILU},          {"swish", EW_ACT_SILU},          {"gelu", EW_ACT_GELU},
        {"gelu_new", EW_ACT_GELU_TANH}, {"gelu_fast", EW_ACT_GELU_TANH}, {"gelu_pytorch_tanh", EW_ACT_GELU_TANH},
        {"relu", EW_ACT_RELU}};
    const char *name = NULL;
    EW_TRY(ew_json_opt_str(r->j, WHERE, known(r->j, NAMES("hidden_activation", "hidden_act", "activation_function")),
                           &name, r->err));
    r->cfg->act = r->arch->act;
    if (name == NULL) {
        return EW_OK;
    }
    for (size_t i = 0; i < EW_COUNT(acts); i++) {
        if (ew_str_eq(name, acts[i].name)) {
            bool tanh_form = acts[i].act == EW_ACT_GELU && (r->arch->flags & EW_ARCH_GELU_IS_TANH);
            r->cfg->act = tanh_form ? EW_ACT_GELU_TANH : acts[i].act;
            return EW_OK;
        }
    }
    return ew_fail(r->err, EW_EUNSUPPORTED,
                   WHERE ": hidden_act '%s' is not supported by this build (silu, gelu, gelu_new, relu)", name);
}

/* One of the lists of rotary divisors. */
static ew_status factor_list(const reader *r, const json_t *o, const char *key, float *dst)
{
    json_t *list;
    EW_TRY(ew_json_get_arr(o, WHERE, key, &list, r->err));
    uint32_t n = r->cfg->n_rot / 2;
    if (json_array_size(list) != n || n > EW_ROT_HALF_MAX) {
        return ew_fail(r->err, EW_ECORRUPT, WHERE ": '%s' has %zu values, not %u", key, json_array_size(list), n);
    }
    for (uint32_t i = 0; i < n; i++) {
        dst[i] = (float)json_number_value(json_array_get(list, i));
        if (!(dst[i] > 0 && isfinite(dst[i]))) {
            return ew_fail(r->err, EW_ECORRUPT, WHERE ": '%s' has a value that is not above 0", key);
        }
    }
    r->extra->n_factors = n;
    return EW_OK;
}

/* Ding 2024 (2402.13753): two tables, and cosine and sine times sqrt(1 + ln(s) / ln(original)) for a context s times the original. */
static ew_status longrope(const reader *r, const json_t *o)
{
    ew_model_config *cfg = r->cfg;
    cfg->rope_scaling = EW_ROPE_SCALING_LONGROPE;
    cfg->rope_orig_ctx = cfg->n_ctx_train;
    const json_t *at = json_object_get(r->j, "original_max_position_embeddings") != NULL ? r->j : o;
    EW_TRY(u32_of(r, at, NAMES("original_max_position_embeddings"), false, &cfg->rope_orig_ctx));
    double orig = (double)EW_MAX(cfg->rope_orig_ctx, 2);
    double s = (double)cfg->n_ctx_train / orig;
    cfg->rope_mscale = s > 1 ? (float)sqrt(1 + log(s) / log(orig)) : 1;
    EW_TRY(f32_of(r, o, NAMES("attention_factor"), &cfg->rope_mscale));
    EW_TRY(factor_list(r, o, "short_factor", r->extra->rope_short));
    return factor_list(r, o, "long_factor", r->extra->rope_long);
}

static ew_status yarn(const reader *r, const json_t *o)
{
    ew_model_config *cfg = r->cfg;
    cfg->rope_scaling = EW_ROPE_SCALING_YARN;
    EW_TRY(u32_of(r, o, NAMES("original_max_position_embeddings"), false, &cfg->rope_orig_ctx));
    EW_TRY(f32_of(r, o, NAMES("beta_fast"), &cfg->rope_beta_fast));
    EW_TRY(f32_of(r, o, NAMES("beta_slow"), &cfg->rope_beta_slow));
    if (json_object_get(o, "mscale") != NULL || json_is_false(json_object_get(o, "truncate"))) {
        return ew_fail(r->err, EW_EUNSUPPORTED,
                       WHERE ": yarn scaling with mscale or without truncate is not supported");
    }
    cfg->rope_mscale = 1 + 0.1F * logf(fmaxf(cfg->rope_factor, 1));
    return f32_of(r, o, NAMES("attention_factor"), &cfg->rope_mscale);
}

/* rope_scaling (transformers 4) or rope_parameters (5), of the layers that are not local. */
static ew_status rope_scaling(const reader *r, const json_t *o)
{
    ew_model_config *cfg = r->cfg;
    const char *type = "default";
    EW_TRY(ew_json_opt_str(o, WHERE, "type", &type, r->err));
    EW_TRY(ew_json_opt_str(o, WHERE, "rope_type", &type, r->err));
    EW_TRY(f32_of(r, o, NAMES("rope_theta"), &cfg->rope_theta));
    EW_TRY(f32_of(r, o, NAMES("factor"), &cfg->rope_factor));
    cfg->rope_orig_ctx = cfg->n_ctx_train;
    if (ew_str_eq(type, "default")) {
        return EW_OK;
    }
    if (ew_str_eq(type, "linear")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LINEAR;
        return EW_OK;
    }
    if (ew_str_eq(type, "llama3")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LLAMA3;
        EW_TRY(f32_of(r, o, NAMES("low_freq_factor"), &cfg->rope_low_freq));
        EW_TRY(f32_of(r, o, NAMES("high_freq_factor"), &cfg->rope_high_freq));
        return u32_of(r, o, NAMES("original_max_position_embeddings"), false, &cfg->rope_orig_ctx);
    }
    if (ew_str_eq(type, "yarn")) {
        return yarn(r, o);
    }
    if (ew_str_eq(type, "longrope") || ew_str_eq(type, "su")) {
        return longrope(r, o);
    }
    return ew_fail(
        r->err, EW_EUNSUPPORTED,
        WHERE ": rotary scaling '%s' is not supported by this build (default, linear, llama3, yarn, longrope)", type);
}

static ew_status rope(const reader *r)
{
    ew_model_config *cfg = r->cfg;
    cfg->rope_theta = 10000;
    if (r->arch->flags & EW_ARCH_POSITIONS) {
        cfg->n_pos = cfg->n_ctx_train;
        return EW_OK;
    }
    EW_TRY(f32_of(r, r->j, NAMES("rope_theta", "rotary_emb_base"), &cfg->rope_theta));
    const json_t *o = json_object_get(r->j, known(r->j, NAMES("rope_parameters", "rope_scaling")));
    if (o != NULL && !json_is_null(o) && !json_is_object(o)) {
        return ew_fail(r->err, EW_ECORRUPT, WHERE ": 'rope_scaling' should be an object, is %s", ew_json_kind(o));
    }
    cfg->rope_theta_local = r->arch->theta_local;
    EW_TRY(f32_of(r, r->j, NAMES("rope_local_base_freq"), &cfg->rope_theta_local));
    const json_t *local = json_object_get(o, "sliding_attention"); /* NULL of NULL */
    if (json_is_object(local)) {
        EW_TRY(f32_of(r, local, NAMES("rope_theta"), &cfg->rope_theta_local));
    }
    if (json_is_object(json_object_get(o, "full_attention"))) {
        o = json_object_get(o, "full_attention");
    }
    float part = r->arch->part != 0 ? r->arch->part : 1;
    EW_TRY(f32_of(r, r->j, NAMES("partial_rotary_factor", "rotary_pct"), &part));
    if (json_is_object(o)) {
        EW_TRY(f32_of(r, o, NAMES("partial_rotary_factor"), &part));
    }
    if (!(part > 0 && part <= 1)) {
        return ew_fail(r->err, EW_ECORRUPT, WHERE ": partial_rotary_factor %g is outside (0, 1]", (double)part);
    }
    cfg->n_rot = (uint32_t)((float)cfg->D * part);
    return json_is_object(o) ? rope_scaling(r, o) : EW_OK;
}

/* A list of one name per layer: layer_types, attention_layers. */
static ew_status local_list(const reader *r, const json_t *list)
{
    if (!json_is_array(list) || json_array_size(list) < r->cfg->L) {
        return ew_fail(r->err, EW_ECORRUPT, WHERE ": the kinds of attention are not one name for each of the %u layers",
                       r->cfg->L);
    }
    for (uint32_t i = 0; i < r->cfg->L; i++) {
        const char *kind = json_string_value(json_array_get(list, i));
        bool full = kind != NULL && (ew_str_eq(kind, "full_attention") || ew_str_eq(kind, "global"));
        bool local = kind != NULL && (ew_str_eq(kind, "sliding_attention") || ew_str_eq(kind, "local"));
        if (!full && !local) {
            return ew_fail(r->err, EW_EUNSUPPORTED, WHERE ": layers of '%s' attention are not supported by this build",
                           kind != NULL ? kind : "unnamed");
        }
        r->cfg->local[i] = local;
    }
    return EW_OK;
}

/* GPT-Neo: attention_types [[["global", "local"], 12]], where attention_layers does not spell it out. */
static ew_status local_types(const reader *r, const json_t *types)
{
    EW_AUTO_JSON list = json_array();
    for (size_t i = 0; i < json_array_size(types) && json_array_size(list) < r->cfg->L; i++) {
        const json_t *names = json_array_get(json_array_get(types, i), 0);
        json_int_t times = json_integer_value(json_array_get(json_array_get(types, i), 1));
        for (json_int_t k = 0; k < times && json_array_size(list) < r->cfg->L; k++) {
            for (size_t n = 0; n < json_array_size(names); n++) {
                json_array_append(list, json_array_get(names, n));
            }
        }
    }
    return local_list(r, list);
}

static ew_status windows(const reader *r)
{
    ew_model_config *cfg = r->cfg;
    bool use = (r->arch->flags & EW_ARCH_WINDOW_OPT) == 0;
    /* null means none, no key what the family's class has. */
    cfg->window = json_is_null(json_object_get(r->j, "sliding_window")) ? 0 : r->arch->window;
    EW_TRY(u32_of(r, r->j, NAMES("sliding_window", "window_size"), false, &cfg->window));
    EW_TRY(bool_of(r, "use_sliding_window", &use));
    if (!use || cfg->window == 0) {
        cfg->window = 0;
        cfg->rope_theta_local = 0;
        return EW_OK;
    }
    const json_t *list = json_object_get(r->j, known(r->j, NAMES("layer_types", "attention_layers")));
    const json_t *types = json_object_get(r->j, "attention_types");
    if (list != NULL && !json_is_null(list)) {
        return local_list(r, list);
    }
    if (json_is_array(types)) {
        return local_types(r, types);
    }
    if (r->arch->flags & EW_ARCH_WINDOW_OPT) {
        uint32_t first = 0;
        EW_TRY(u32_of(r, r->j, NAMES("max_window_layers"), false, &first));
        for (uint32_t i = first; i < cfg->L; i++) {
            cfg->local[i] = 1;
        }
        return EW_OK;
    }
    uint32_t period = EW_MAX(r->arch->local_period, 1);
    EW_TRY(u32_of(r, r->j, NAMES("sliding_window_pattern", "_sliding_window_pattern"), false, &period));
    ew__config_local(cfg, EW_MAX(period, 1));
    return EW_OK;
}

static ew_status scales(const reader *r)
{
    ew_model_config *cfg = r->cfg;
    cfg->embed_scale = r->arch->flags & EW_ARCH_EMBED_SCALE ? sqrtf((float)cfg->C) : 0;
    cfg->attn_scale = r->arch->flags & EW_ARCH_UNSCALED ? 1.0F : 0.0F;
    float pre = 0;
    EW_TRY(f32_of(r, r->j, NAMES("query_pre_attn_scalar"), &pre));
    if (pre > 0 && pre != (float)cfg->D) {
        cfg->attn_scale = 1 / sqrtf(pre);
    }
    /* a missing key is the class's default, null is none */
    cfg->attn_softcap = json_object_get(r->j, "attn_logit_softcapping") == NULL ? r->arch->attn_softcap : 0;
    cfg->final_softcap = json_object_get(r->j, "final_logit_softcapping") == NULL ? r->arch->final_softcap : 0;
    EW_TRY(f32_of(r, r->j, NAMES("attn_logit_softcapping"), &cfg->attn_softcap));
    return f32_of(r, r->j, NAMES("final_logit_softcapping"), &cfg->final_softcap);
}

static ew_status biases(const reader *r)
{
    bool on = false;
    r->extra->bias = r->arch->bias;
    if (r->arch->bias_key != NULL) {
        EW_TRY(bool_of(r, r->arch->bias_key, &on));
        r->extra->bias |= on ? r->arch->bias_opt & EW_BIAS_ATTN : 0;
    } else if (!(r->arch->flags & EW_ARCH_UNGATED)) {
        EW_TRY(bool_of(r, "attention_bias", &on));
        if (on) {
            return ew_fail(r->err, EW_EUNSUPPORTED,
                           WHERE ": attention_bias true is not supported by this build for '%s'", r->arch->name);
        }
    }
    on = false;
    EW_TRY(bool_of(r, "mlp_bias", &on));
    r->extra->bias |= on ? EW_BIAS_MLP : 0;
    on = true;
    EW_TRY(bool_of(r, "enable_bias", &on));
    if (!on) {
        r->extra->bias = 0;
    }
    if (r->arch->flags & EW_ARCH_QKV_BY_HEAD) { /* GPT-NeoX: of the two matrices of attention */
        on = true;
        EW_TRY(bool_of(r, "attention_bias", &on));
        r->extra->bias &= on ? EW_BIAS_ALL : EW_BIAS_MLP;
    }
    return EW_OK;
}

static ew_status block(const reader *r)
{
    ew_model_config *cfg = r->cfg;
    unsigned flags = r->arch->flags;
    bool on = (flags & EW_ARCH_PARALLEL) != 0;
    cfg->ungated = (flags & EW_ARCH_UNGATED) != 0;
    cfg->post_norms = (flags & EW_ARCH_POST_NORMS) != 0;
    cfg->qk_norm = (flags & EW_ARCH_QK_NORM) != 0;
    cfg->encoder = (flags & EW_ARCH_ENCODER) != 0;
    if (flags & EW_ARCH_PARALLEL_KEY) {
        EW_TRY(bool_of(r, "use_parallel_residual", &on));
    }
    cfg->parallel = on;
    on = true;
    if (flags & EW_ARCH_POSITIONS) { /* OPT's; the rotary families know no such key */
        EW_TRY(bool_of(r, "do_layer_norm_before", &on));
    }
    cfg->norm_after = cfg->encoder || !on;
    on = false;
    EW_TRY(bool_of(r, "qk_layernorm", &on));
    if (on && !(flags & EW_ARCH_QK_NORM_OPT)) {
        return ew_fail(r->err, EW_EUNSUPPORTED, WHERE ": qk_layernorm true is not supported by this build for '%s'",
                       r->arch->name);
    }
    cfg->qk_norm = cfg->qk_norm || on;
    cfg->qk_norm_heads = on;
    if (cfg->encoder) {
        EW_TRY(u32_of(r, r->j, NAMES("type_vocab_size"), false, &cfg->n_types));
    }
    return EW_OK;
}

/* sentence-transformers: 1_Pooling/config.json beside the model. */
static ew_status pooling(const char *dir, ew_model_config *cfg, ew_error *reterr)
{
    static const struct {
        const char *key, *mode;
        ew_pooling pooling;
    } modes[] = {{"pooling_mode_mean_tokens", "mean", EW_POOLING_MEAN},
                 {"pooling_mode_cls_token", "cls", EW_POOLING_CLS},
                 {"pooling_mode_lasttoken", "lasttoken", EW_POOLING_LAST}};
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), dir, "1_Pooling/config.json", reterr));
    EW_AUTO_JSON j = NULL;
    ew_status st = ew_json_load_file(path, EW_LIMIT_YAML_BYTES, &j, reterr);
    if (st == EW_ENOENT) {
        return EW_OK;
    }
    EW_TRY(st);
    const char *mode = json_string_value(json_object_get(j, "pooling_mode"));
    for (size_t i = 0; i < EW_COUNT(modes); i++) {
        if (json_is_true(json_object_get(j, modes[i].key)) || (mode != NULL && ew_str_eq(mode, modes[i].mode))) {
            cfg->pooling = modes[i].pooling;
            return EW_OK;
        }
    }
    return EW_OK;
}

/* ---- the file ---- */

static ew_status find_class(const json_t *j, const ew_arch **ret_arch, ew_error *reterr)
{
    json_t *list;
    EW_TRY(ew_json_get_arr(j, WHERE, "architectures", &list, reterr));
    const char *name = json_string_value(json_array_get(list, 0));
    if (name == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, WHERE ": 'architectures' names no class");
    }
    *ret_arch = ew__arch_by_hf(name);
    return *ret_arch != NULL ? EW_OK : ew__arch_refuse(name, strlen(name), reterr);
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

static ew_status read_all(const reader *r)
{
    EW_TRY(numbers(r));
    EW_TRY(refuse_options(r));
    EW_TRY(activation(r));
    EW_TRY(rope(r));
    EW_TRY(windows(r));
    EW_TRY(scales(r));
    EW_TRY(biases(r));
    EW_TRY(block(r));
    r->extra->tied = -1;
    if (json_object_get(r->j, "tie_word_embeddings") != NULL) {
        bool on = false;
        EW_TRY(bool_of(r, "tie_word_embeddings", &on));
        r->extra->tied = on;
    }
    return EW_OK;
}

ew_status ew__config_from_hf(const char *dir, const ew_arch **ret_arch, ew_model_config *cfg, ew_hf_extra *ret_extra,
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
    const ew_arch *arch = NULL;
    EW_TRY(find_class(j, &arch, reterr));
    *cfg = (ew_model_config){.norm = arch->norm, .rope_kind = EW_ROPE_NEOX, .file_type = -1};
    *ret_extra = (ew_hf_extra){0};
    (void)ew_str_copy(cfg->arch, sizeof(cfg->arch), arch->name);
    dir_name(dir, cfg->name, sizeof(cfg->name));
    EW_TRY(read_all(&(reader){j, arch, cfg, ret_extra, reterr}));
    if (cfg->encoder) {
        EW_TRY(pooling(dir, cfg, reterr));
    }
    *ret_arch = arch;
    return EW_OK;
}

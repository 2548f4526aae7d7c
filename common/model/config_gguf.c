/* Configurations from GGUF metadata. Sources: GGUF specification; llama.cpp src/models/<arch>.cpp for what is read and for defaults. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "model/model_int.h"
#include "sys/file.h"

/* Key "<arch>.<suffix>". */
static char *arch_key(char dst[static 96], const ew_arch *arch, const char *suffix)
{
    (void)snprintf(dst, 96, "%s.%s", arch->name, suffix);
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
static ew_status refuse_options(const ew_gguf *g, const ew_arch *arch, ew_error *reterr)
{
    static const char *const zero[] = {"expert_count", "attention.alibi_bias_max", "attention.clamp_kqv",
                                       "ssm.state_size", "rope.scaling.yarn_ext_factor"};
    static const char *const one[] = {"logit_scale", "residual_scale", "embedding_scale"};
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
    bool encoder = (arch->flags & EW_ARCH_ENCODER) != 0;
    if (ew_gguf_get_bool(g, arch_key(key, arch, "attention.causal"), &causal) && causal == encoder) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "'%s' is %s: not supported by this build for '%s'", key,
                       causal ? "true" : "false", arch->name);
    }
    return EW_OK;
}

static ew_status rope_scaling(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
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
    EW_TRY(opt_f32(g, arch, "rope.scaling.attn_factor", &cfg->rope_mscale, reterr));
    EW_TRY(opt_u32(g, arch, "rope.scaling.original_context_length", &cfg->rope_orig_ctx, reterr));
    bool longrope = ew_gguf_find(g, "rope_factors_long.weight") != NULL;
    if (longrope || ew_str_eq(type, "longrope")) {
        cfg->rope_scaling = longrope ? EW_ROPE_SCALING_LONGROPE : EW_ROPE_SCALING_NONE;
    } else if (ew_str_eq(type, "linear")) {
        cfg->rope_scaling = EW_ROPE_SCALING_LINEAR;
        cfg->rope_factor = factor;
    } else if (ew_str_eq(type, "yarn")) {
        cfg->rope_scaling = EW_ROPE_SCALING_YARN;
        cfg->rope_factor = factor;
        EW_TRY(opt_f32(g, arch, "rope.scaling.yarn_beta_fast", &cfg->rope_beta_fast, reterr));
        EW_TRY(opt_f32(g, arch, "rope.scaling.yarn_beta_slow", &cfg->rope_beta_slow, reterr));
        /* llama.cpp multiplies attn_factor by a factor of its own (llama-context.cpp); transformers' attention_factor is the whole. */
        cfg->rope_mscale = (cfg->rope_mscale != 0 ? cfg->rope_mscale : 1) * (1 + 0.1F * logf(fmaxf(factor, 1)));
        EW_TRY(opt_f32(g, arch, "rope.scaling.yarn_attn_factor", &cfg->rope_mscale, reterr));
    } else if (!ew_str_eq(type, "none")) {
        return ew_fail(
            reterr, EW_EUNSUPPORTED,
            "rotary scaling '%s' is not supported by this build (none, linear, llama3 factors, yarn, longrope)", type);
    }
    return EW_OK;
}

static ew_status rope(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    cfg->rope_theta = 10000;
    if (arch->flags & EW_ARCH_POSITIONS) {
        cfg->n_pos = cfg->n_ctx_train;
        return EW_OK;
    }
    cfg->n_rot = cfg->D;
    EW_TRY(opt_u32(g, arch, "rope.dimension_count", &cfg->n_rot, reterr));
    EW_TRY(opt_f32(g, arch, "rope.freq_base", &cfg->rope_theta, reterr));
    cfg->rope_theta_local = arch->theta_local;
    EW_TRY(opt_f32(g, arch, "rope.freq_base_swa", &cfg->rope_theta_local, reterr));
    cfg->rope_orig_ctx = cfg->n_ctx_train;
    return rope_scaling(g, arch, cfg, reterr);
}

static ew_status numbers(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
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
    if (cfg->L > EW_LIMIT_LAYERS) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "the number of layers is %u, outside 1 … %u", cfg->L, EW_LIMIT_LAYERS);
    }
    char key[96];
    const char *eps = cfg->norm == EW_NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    if (!ew_gguf_has(g, arch_key(key, arch, eps))) {
        return ew_fail(reterr, EW_ECORRUPT, "the key '%s' is missing", key);
    }
    return opt_f32(g, arch, eps, &cfg->norm_eps, reterr);
}

/* attention.sliding_window and its pattern: a period, or one value per layer. */
static ew_status windows(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    char key[96];
    uint32_t period = EW_MAX(arch->local_period, 1);
    cfg->window = arch->window;
    EW_TRY(opt_u32(g, arch, "attention.sliding_window", &cfg->window, reterr));
    if (cfg->window == 0) {
        cfg->rope_theta_local = 0;
        return EW_OK;
    }
    ew_gguf_array list;
    if (ew_gguf_get_array(g, arch_key(key, arch, "attention.sliding_window_pattern"), &list)) {
        if (list.type == EW_GGUF_STRING || list.n < cfg->L) {
            return ew_fail(reterr, EW_ECORRUPT, "'%s' has not one value for each of the %u layers", key, cfg->L);
        }
        for (uint32_t i = 0; i < cfg->L; i++) {
            cfg->local[i] = ew_gguf_array_f64(&list, i) != 0;
        }
        return EW_OK;
    }
    EW_TRY(opt_u32(g, arch, "attention.sliding_window_pattern", &period, reterr));
    ew__config_local(cfg, EW_MAX(period, 1));
    return EW_OK;
}

static ew_status scales(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    cfg->embed_scale = arch->flags & EW_ARCH_EMBED_SCALE ? sqrtf((float)cfg->C) : 0;
    cfg->attn_scale = arch->flags & EW_ARCH_UNSCALED ? 1.0F : 0.0F;
    if (arch->wide_scale_L != 0 && cfg->L == arch->wide_scale_L) {
        cfg->attn_scale = 1 / sqrtf((float)(cfg->C / cfg->H));
    }
    cfg->attn_softcap = arch->attn_softcap;
    cfg->final_softcap = arch->final_softcap;
    EW_TRY(opt_f32(g, arch, "attention.scale", &cfg->attn_scale, reterr));
    EW_TRY(opt_f32(g, arch, "attn_logit_softcapping", &cfg->attn_softcap, reterr));
    return opt_f32(g, arch, "final_logit_softcapping", &cfg->final_softcap, reterr);
}

/* The booleans of the block, and what an encoder has. */
static ew_status block(const ew_gguf *g, const ew_arch *arch, ew_model_config *cfg, ew_error *reterr)
{
    char key[96];
    cfg->act = arch->act;
    cfg->ungated = (arch->flags & EW_ARCH_UNGATED) != 0;
    cfg->post_norms = (arch->flags & EW_ARCH_POST_NORMS) != 0;
    cfg->qk_norm = (arch->flags & EW_ARCH_QK_NORM) != 0;
    cfg->encoder = (arch->flags & EW_ARCH_ENCODER) != 0;
    cfg->norm_after = cfg->encoder;
    cfg->parallel = (arch->flags & EW_ARCH_PARALLEL) != 0;
    if (arch->flags & EW_ARCH_PARALLEL_KEY && ew_gguf_has(g, arch_key(key, arch, "use_parallel_residual")) &&
        !ew_gguf_get_bool(g, key, &cfg->parallel)) {
        return ew_fail(reterr, EW_ECORRUPT, "'%s' is neither true nor false", key);
    }
    if (arch->flags & EW_ARCH_QK_NORM_OPT) {
        cfg->qk_norm = cfg->qk_norm_heads = ew_gguf_find(g, "blk.0.attn_q_norm.weight") != NULL;
        /* As llama.cpp decides: old files say "parallel" of all models. */
        cfg->parallel = ew_gguf_find(g, "blk.0.ffn_norm.weight") == NULL;
    }
    if (cfg->encoder) {
        uint32_t pooling = EW_POOLING_NONE;
        EW_TRY(opt_u32(g, arch, "pooling_type", &pooling, reterr));
        cfg->pooling = pooling <= EW_POOLING_LAST ? (ew_pooling)pooling : EW_POOLING_NONE;
        (void)ew_gguf_get_u32(g, "tokenizer.ggml.token_type_count", &cfg->n_types);
        cfg->n_types = ew_gguf_find(g, "token_types.weight") != NULL ? cfg->n_types : 0;
    }
    return EW_OK;
}

static ew_status find_arch(const ew_gguf *g, const ew_arch **ret, ew_error *reterr)
{
    ew_span name;
    if (!ew_gguf_get_str(g, "general.architecture", &name)) {
        return ew_fail(reterr, EW_ECORRUPT, "the key 'general.architecture' is missing: this GGUF holds no model");
    }
    char type[32];
    if (ew_gguf_get_str_copy(g, "general.type", type, sizeof(type)) && !ew_str_eq(type, "model")) {
        return ew_fail(reterr, EW_EINVAL, "this GGUF holds a %s, not a model", type);
    }
    *ret = ew__arch_by_name((const char *)name.data, name.size);
    if (*ret == NULL) {
        return ew__arch_refuse((const char *)name.data, name.size, reterr);
    }
    if ((*ret)->no_gguf) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "there is no GGUF form of the architecture '%s'. HINT: open the Hugging Face directory",
                       (*ret)->name);
    }
    return EW_OK;
}

ew_status ew__config_from_gguf(const ew_gguf *g, const ew_arch **ret_arch, ew_model_config *cfg, ew_error *reterr)
{
    const ew_arch *arch = NULL;
    EW_TRY(find_arch(g, &arch, reterr));
    *cfg = (ew_model_config){.norm = arch->norm, .norm_eps = 1e-5F, .rope_kind = arch->gguf_rope, .file_type = -1};
    (void)ew_str_copy(cfg->arch, sizeof(cfg->arch), arch->name);
    if (!ew_gguf_get_str_copy(g, "general.name", cfg->name, sizeof(cfg->name))) {
        (void)ew_str_copy(cfg->name, sizeof(cfg->name), ew_path_base(ew_gguf_path(g)));
    }
    uint32_t file_type;
    if (ew_gguf_get_u32(g, "general.file_type", &file_type) && file_type < 1024) {
        cfg->file_type = (int32_t)file_type;
    }
    EW_TRY(refuse_options(g, arch, reterr));
    EW_TRY(numbers(g, arch, cfg, reterr));
    EW_TRY(rope(g, arch, cfg, reterr));
    EW_TRY(windows(g, arch, cfg, reterr));
    EW_TRY(scales(g, arch, cfg, reterr));
    EW_TRY(block(g, arch, cfg, reterr));
    *ret_arch = arch;
    return EW_OK;
}

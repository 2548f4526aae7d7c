/* A configuration as GGUF keys, and whether it can be said in them. Sources: llama.cpp's conversion/<family>.py for what is written,
 * src/models/<arch>.cpp for what its reader takes. */
#include <math.h>
#include <stdio.h>

#include "model/model_int.h"

/* The period of the pattern of local layers (1 = all of them); 0 = no period gives it. */
static uint32_t local_period(const ew_model_config *c)
{
    for (uint32_t period = 1; period <= c->L + 1; period++) {
        ew_model_config t = {.L = c->L};
        bool same = true;
        ew__config_local(&t, period);
        for (uint32_t i = 0; i < c->L; i++) {
            same = same && t.local[i] == c->local[i];
        }
        if (same) {
            return period;
        }
    }
    return 0;
}

static bool near(float a, float b)
{
    return fabsf(a - b) <= 1e-6F * fabsf(b);
}

ew_status ew__save_check(const ew_model *m, ew_error *reterr)
{
    const ew_model_config *c = &m->cfg;
    const ew_arch *a = m->arch;
    unsigned f = a->flags;
    if (a->no_gguf) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "GGUF has no architecture for '%s' models: llama.cpp does not run them",
                       a->name);
    }
    bool wide = a->wide_scale_L != 0 && a->wide_scale_L == c->L;
    float scale = 1 / sqrtf((float)(wide ? c->C / c->H : c->D));
    const struct {
        bool other;
        const char *what;
    } checks[] = {
        {c->act != a->act, "its activation"},
        {c->attn_scale != 0 && !near(c->attn_scale, scale), "the scale of its attention (query_pre_attn_scalar)"},
        {(c->attn_softcap != 0) != (a->attn_softcap != 0), "its attention's soft cap"},
        {c->final_softcap != 0 && !(f & EW_ARCH_POST_NORMS), "its logits' soft cap"},
        {c->final_softcap == 0 && a->final_softcap != 0, "logits without a soft cap"},
        {(c->embed_scale != 0) != ((f & EW_ARCH_EMBED_SCALE) != 0), "the scale of its embedding"},
        {c->embed_scale != 0 && !near(c->embed_scale, sqrtf((float)c->C)), "the scale of its embedding"},
        {c->window > 0 && (f & EW_ARCH_POST_NORMS) && local_period(c) == 0, "its pattern of local layers"},
        {c->rope_theta_local != 0 && a->theta_local == 0, "a rotary base of local layers"},
        {c->parallel && !(f & (EW_ARCH_PARALLEL | EW_ARCH_ONE_NORM)), "a parallel block"},
        {c->ungated != ((f & EW_ARCH_UNGATED) != 0), "its feed-forward"},
        {!c->tied_head && (f & EW_ARCH_TIED_HEAD), "a head of its own"},
    };
    for (size_t i = 0; i < EW_COUNT(checks); i++) {
        if (checks[i].other) {
            return ew_fail(reterr, EW_EUNSUPPORTED,
                           "this model cannot be written as GGUF: the architecture '%s' has no place there for %s",
                           a->name, checks[i].what);
        }
    }
    return EW_OK;
}

static const char *key_of(char dst[static 96], const ew_model *m, const char *suffix)
{
    (void)snprintf(dst, 96, "%s.%s", m->arch->name, suffix);
    return dst;
}

#define KEY(suffix) key_of(key, m, suffix)

static void add_rope(ew_gguf_writer *w, const ew_model *m)
{
    const ew_model_config *c = &m->cfg;
    char key[96];
    if (c->n_rot == 0) {
        return;
    }
    ew_gguf_add_u32(w, KEY("rope.dimension_count"), c->n_rot);
    ew_gguf_add_f32(w, KEY("rope.freq_base"), c->rope_theta);
    if (c->rope_theta_local != 0) {
        ew_gguf_add_f32(w, KEY("rope.freq_base_swa"), c->rope_theta_local);
    }
    float mscale = c->rope_mscale != 0 ? c->rope_mscale : 1;
    switch (c->rope_scaling) {
    case EW_ROPE_SCALING_LINEAR:
        ew_gguf_add_str(w, KEY("rope.scaling.type"), "linear");
        ew_gguf_add_f32(w, KEY("rope.scaling.factor"), c->rope_factor);
        break;
    case EW_ROPE_SCALING_YARN:
        ew_gguf_add_str(w, KEY("rope.scaling.type"), "yarn");
        ew_gguf_add_f32(w, KEY("rope.scaling.factor"), c->rope_factor);
        ew_gguf_add_u32(w, KEY("rope.scaling.original_context_length"), c->rope_orig_ctx);
        ew_gguf_add_f32(w, KEY("rope.scaling.yarn_beta_fast"), c->rope_beta_fast > 0 ? c->rope_beta_fast : 32);
        ew_gguf_add_f32(w, KEY("rope.scaling.yarn_beta_slow"), c->rope_beta_slow > 0 ? c->rope_beta_slow : 1);
        ew_gguf_add_f32(w, KEY("rope.scaling.yarn_attn_factor"), mscale);
        /* llama.cpp multiplies this by its own factor. */
        ew_gguf_add_f32(w, KEY("rope.scaling.attn_factor"), mscale / (1 + 0.1F * logf(fmaxf(c->rope_factor, 1))));
        break;
    case EW_ROPE_SCALING_LONGROPE:
        ew_gguf_add_str(w, KEY("rope.scaling.type"), "longrope");
        ew_gguf_add_u32(w, KEY("rope.scaling.original_context_length"), c->rope_orig_ctx);
        ew_gguf_add_f32(w, KEY("rope.scaling.attn_factor"), mscale);
        break;
    default:
        break; /* none, or in the tensor rope_freqs */
    }
}

static void add_windows(ew_gguf_writer *w, const ew_model *m)
{
    const ew_model_config *c = &m->cfg;
    char key[96];
    if (c->window == 0) {
        return;
    }
    ew_gguf_add_u32(w, KEY("attention.sliding_window"), c->window);
    uint32_t period = local_period(c);
    if (period == 0) {
        ew_gguf_add_array(w, KEY("attention.sliding_window_pattern"), EW_GGUF_BOOL, c->local, c->L);
    } else if (period != EW_MAX(m->arch->local_period, 1)) {
        ew_gguf_add_u32(w, KEY("attention.sliding_window_pattern"), period);
    }
}

void ew__save_config(ew_gguf_writer *w, const ew_model *m)
{
    const ew_model_config *c = &m->cfg;
    char key[96];
    ew_gguf_add_u32(w, KEY("context_length"), c->n_ctx_train);
    ew_gguf_add_u32(w, KEY("embedding_length"), c->C);
    ew_gguf_add_u32(w, KEY("block_count"), c->L);
    ew_gguf_add_u32(w, KEY("feed_forward_length"), c->F);
    ew_gguf_add_u32(w, KEY("attention.head_count"), c->H);
    ew_gguf_add_u32(w, KEY("attention.head_count_kv"), c->K);
    ew_gguf_add_u32(w, KEY("attention.key_length"), c->D);
    ew_gguf_add_u32(w, KEY("attention.value_length"), c->D);
    bool layer = c->norm == EW_NORM_LAYER;
    ew_gguf_add_f32(w, KEY(layer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), c->norm_eps);
    add_rope(w, m);
    add_windows(w, m);
    if (c->attn_softcap != 0) {
        ew_gguf_add_f32(w, KEY("attn_logit_softcapping"), c->attn_softcap);
    }
    if (c->final_softcap != 0) {
        ew_gguf_add_f32(w, KEY("final_logit_softcapping"), c->final_softcap);
    }
    if (layer && !c->encoder && c->n_pos == 0) {
        ew_gguf_add_bool(w, KEY("use_parallel_residual"), c->parallel);
    }
    if (c->encoder) {
        ew_gguf_add_bool(w, KEY("attention.causal"), false);
        ew_gguf_add_u32(w, KEY("pooling_type"), (uint32_t)c->pooling);
        ew_gguf_add_u32(w, "tokenizer.ggml.token_type_count", c->n_types);
    }
    ew_gguf_add_u32(w, KEY("vocab_size"), c->V);
}

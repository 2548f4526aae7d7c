#include "format/mix.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/str.h"

static const struct {
    ew_mix mix;
    const char *name, *alias;
    ew_dtype dtype;
} mixes[] = {
    {EW_MIX_F32, "F32", NULL, EW_DTYPE_F32},
    {EW_MIX_F16, "F16", NULL, EW_DTYPE_F16},
    {EW_MIX_BF16, "BF16", NULL, EW_DTYPE_BF16},
    {EW_MIX_Q8_0, "Q8_0", NULL, EW_DTYPE_Q8_0},
    {EW_MIX_Q6_K, "Q6_K", NULL, EW_DTYPE_Q6_K},
    {EW_MIX_Q5_K_M, "Q5_K_M", "Q5_K", EW_DTYPE_Q5_K},
    {EW_MIX_Q5_K_S, "Q5_K_S", NULL, EW_DTYPE_Q5_K},
    {EW_MIX_Q5_1, "Q5_1", NULL, EW_DTYPE_Q5_1},
    {EW_MIX_Q5_0, "Q5_0", NULL, EW_DTYPE_Q5_0},
    {EW_MIX_Q4_K_M, "Q4_K_M", "Q4_K", EW_DTYPE_Q4_K},
    {EW_MIX_Q4_K_S, "Q4_K_S", NULL, EW_DTYPE_Q4_K},
    {EW_MIX_IQ4_NL, "IQ4_NL", NULL, EW_DTYPE_IQ4_NL},
    {EW_MIX_IQ4_XS, "IQ4_XS", NULL, EW_DTYPE_IQ4_XS},
    {EW_MIX_Q4_1, "Q4_1", NULL, EW_DTYPE_Q4_1},
    {EW_MIX_Q4_0, "Q4_0", NULL, EW_DTYPE_Q4_0},
    /* Before their neighbours: the first of a type is what ew_mix_of_dtype answers. */
    {EW_MIX_Q3_K_M, "Q3_K_M", "Q3_K", EW_DTYPE_Q3_K},
    {EW_MIX_Q3_K_L, "Q3_K_L", NULL, EW_DTYPE_Q3_K},
    {EW_MIX_Q3_K_S, "Q3_K_S", NULL, EW_DTYPE_Q3_K},
    {EW_MIX_Q2_K, "Q2_K", NULL, EW_DTYPE_Q2_K},
};

bool ew_mix_parse(const char *name, ew_mix *ret)
{
    for (size_t i = 0; i < EW_COUNT(mixes); i++) {
        if (strcasecmp(mixes[i].name, name) == 0 || (mixes[i].alias != NULL && strcasecmp(mixes[i].alias, name) == 0)) {
            *ret = mixes[i].mix;
            return true;
        }
    }
    return false;
}

const char *ew_mix_name(ew_mix mix)
{
    for (size_t i = 0; i < EW_COUNT(mixes); i++) {
        if (mixes[i].mix == mix) {
            return mixes[i].name;
        }
    }
    return "?";
}

ew_dtype ew_mix_dtype(ew_mix mix)
{
    for (size_t i = 0; i < EW_COUNT(mixes); i++) {
        if (mixes[i].mix == mix) {
            return mixes[i].dtype;
        }
    }
    return EW_DTYPE_F32;
}

bool ew_mix_of_dtype(ew_dtype t, ew_mix *ret)
{
    for (size_t i = 0; i < EW_COUNT(mixes); i++) {
        if (mixes[i].dtype == t) {
            *ret = mixes[i].mix;
            return true;
        }
    }
    return false;
}

const char *ew_mix_names(void)
{
    return "F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, IQ4_NL, IQ4_XS, Q4_1, Q4_0, "
           "Q3_K_L, "
           "Q3_K_M, Q3_K_S, Q2_K";
}

/* ---- the rules ---- */

typedef enum role {
    ROLE_OTHER,
    ROLE_EMBD,
    ROLE_OUTPUT,
    ROLE_ATTN_V, /* and fused Q, K, V */
    ROLE_ATTN_K,
    ROLE_ATTN_OUT,
    ROLE_FFN_DOWN
} role;

typedef struct mixer {
    ew_mix mix;
    ew_dtype main;
    const ew_mix_model *model;
    bool falcon, tied;
    uint32_t n_attn_v, i_attn_v, i_ffn_down;
} mixer;

static role role_of(const char *name)
{
    static const struct {
        const char *part;
        role role;
    } parts[] = {{"attn_qkv.weight", ROLE_ATTN_V},      {"attn_kv_b.weight", ROLE_ATTN_V},
                 {"attn_v.weight", ROLE_ATTN_V},        {"attn_k.weight", ROLE_ATTN_K},
                 {"attn_output.weight", ROLE_ATTN_OUT}, {"ffn_down", ROLE_FFN_DOWN}};
    if (ew_str_eq(name, "output.weight")) {
        return ROLE_OUTPUT;
    }
    if (ew_str_eq(name, "token_embd.weight") || ew_str_eq(name, "per_layer_token_embd.weight")) {
        return ROLE_EMBD;
    }
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        if (strstr(name, parts[i].part) != NULL) {
            return parts[i].role;
        }
    }
    return ROLE_OTHER;
}

/* Of "blk.7.…" 7, otherwise -1. */
static int64_t layer_of(const char *name)
{
    int64_t n = 0;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9') {
        return -1;
    }
    for (name += 4; *name >= '0' && *name <= '9' && n < 1000000; name++) {
        n = 10 * n + (*name - '0');
    }
    return *name == '.' ? n : -1;
}

/* Vectors and norms, which are read as floats. */
static bool is_vector(const ew_tensor_view *t)
{
    return (t->dims[1] == 1 && t->dims[2] == 1 && t->dims[3] == 1) || strstr(t->name, "_norm.weight") != NULL;
}

/* Matrices that are small or looked up by position: they keep their type. */
static bool stays(const char *name)
{
    static const char *const parts[] = {"ffn_gate_inp.weight",
                                        "ffn_gate_tid2eid.weight",
                                        "altup",
                                        "laurel",
                                        "per_layer_model_proj",
                                        "ssm_conv1d",
                                        "shortconv.conv.weight",
                                        "time_mix_first.weight",
                                        "time_mix_w0.weight",
                                        "time_mix_w1.weight",
                                        "time_mix_w2.weight",
                                        "time_mix_v0.weight",
                                        "time_mix_v1.weight",
                                        "time_mix_v2.weight",
                                        "time_mix_a0.weight",
                                        "time_mix_a1.weight",
                                        "time_mix_a2.weight",
                                        "time_mix_g1.weight",
                                        "time_mix_g2.weight",
                                        "time_mix_decay_w1.weight",
                                        "time_mix_decay_w2.weight",
                                        "time_mix_lerp_fused.weight",
                                        "attn_rel_b.weight",
                                        ".position_embd",
                                        ".rel_pos",
                                        ".patch_embd"};
    if (!ew_str_ends(name, "weight") || ew_str_eq(name, "position_embd.weight") ||
        ew_str_eq(name, "token_types.weight")) {
        return true;
    }
    for (size_t i = 0; i < EW_COUNT(parts); i++) {
        if (strstr(name, parts[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static bool more_bits(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= 7 * (uint64_t)n / 8 || (i - n / 8) % 3 == 2;
}

static ew_dtype attn_v_type(mixer *m)
{
    uint32_t i = m->i_attn_v++, K = m->model->n_kv_heads;
    bool shared = K > 0 && m->model->n_heads / K >= 4;
    ew_dtype t = m->main;
    if (m->mix == EW_MIX_Q2_K) {
        t = shared ? EW_DTYPE_Q4_K : EW_DTYPE_Q3_K;
    } else if (m->mix == EW_MIX_Q3_K_M) {
        t = i < 2 ? EW_DTYPE_Q5_K : EW_DTYPE_Q4_K;
    } else if (m->mix == EW_MIX_Q3_K_L || ((m->mix == EW_MIX_IQ4_NL || m->mix == EW_MIX_IQ4_XS) && shared) ||
               (m->mix == EW_MIX_Q4_K_S && i < 4)) {
        t = EW_DTYPE_Q5_K;
    } else if ((m->mix == EW_MIX_Q4_K_M || m->mix == EW_MIX_Q5_K_M) && more_bits(i, m->n_attn_v)) {
        t = EW_DTYPE_Q6_K;
    }
    bool llama70 = m->model->n_layers == 80 && ((ew_str_eq(m->model->arch, "llama") && m->model->n_heads != K) ||
                                                ew_str_eq(m->model->arch, "qwen2"));
    if (llama70 && (t == EW_DTYPE_Q3_K || t == EW_DTYPE_Q4_K)) {
        t = EW_DTYPE_Q5_K;
    }
    return m->model->n_experts == 8 ? EW_DTYPE_Q8_0 : t;
}

static ew_dtype ffn_down_type(mixer *m, const char *name)
{
    uint32_t i = m->i_ffn_down++, L = m->model->n_layers;
    if (m->model->n_experts > 1) { /* several in a layer */
        i = (uint32_t)EW_MAX(0, layer_of(name));
    }
    switch ((int)m->mix) {
    case EW_MIX_Q2_K:
        return EW_DTYPE_Q3_K;
    case EW_MIX_Q3_K_M:
        return i < L / 16 ? EW_DTYPE_Q5_K : !m->falcon || more_bits(i, L) ? EW_DTYPE_Q4_K : EW_DTYPE_Q3_K;
    case EW_MIX_Q3_K_L:
        return m->falcon ? EW_DTYPE_Q4_K : EW_DTYPE_Q5_K;
    case EW_MIX_Q4_K_M:
        if (m->falcon) {
            return i < L / 16 ? EW_DTYPE_Q6_K : more_bits(i, L) ? EW_DTYPE_Q5_K : EW_DTYPE_Q4_K;
        }
        return more_bits(i, L) ? EW_DTYPE_Q6_K : EW_DTYPE_Q4_K;
    case EW_MIX_Q5_K_M:
        return more_bits(i, L) ? EW_DTYPE_Q6_K : EW_DTYPE_Q5_K;
    case EW_MIX_IQ4_NL:
    case EW_MIX_IQ4_XS:
        return i < L / 8 ? EW_DTYPE_Q5_K : m->main;
    case EW_MIX_Q4_K_S:
        return !m->falcon && i < L / 8 ? EW_DTYPE_Q5_K : EW_DTYPE_Q4_K;
    default:
        return m->main;
    }
}

static ew_dtype attn_out_type(const mixer *m)
{
    if (m->falcon) {
        return m->mix == EW_MIX_Q3_K_L ? EW_DTYPE_Q4_K : m->main;
    }
    if (m->model->n_experts == 8) {
        bool up = m->mix == EW_MIX_Q2_K || m->mix == EW_MIX_Q3_K_S || m->mix == EW_MIX_Q3_K_M ||
                  m->mix == EW_MIX_Q4_K_S || m->mix == EW_MIX_Q4_K_M || m->mix == EW_MIX_IQ4_NL ||
                  m->mix == EW_MIX_IQ4_XS;
        return up ? EW_DTYPE_Q5_K : m->main;
    }
    return m->mix == EW_MIX_Q2_K     ? EW_DTYPE_Q3_K
           : m->mix == EW_MIX_Q3_K_M ? EW_DTYPE_Q4_K
           : m->mix == EW_MIX_Q3_K_L ? EW_DTYPE_Q5_K
                                     : m->main;
}

static ew_dtype type_by_role(mixer *m, const ew_tensor_view *t)
{
    role r = role_of(t->name);
    if (r == ROLE_OUTPUT || (r == ROLE_EMBD && m->tied)) {
        bool fits = t->dims[0] % ew_dtype_get(m->main)->block_elems == 0;
        return m->falcon || !fits || m->main == EW_DTYPE_Q8_0 ? EW_DTYPE_Q8_0 : EW_DTYPE_Q6_K;
    }
    switch (r) {
    case ROLE_ATTN_V:
        return attn_v_type(m);
    case ROLE_ATTN_K:
        return m->model->n_experts == 8 ? EW_DTYPE_Q8_0 : m->main;
    case ROLE_ATTN_OUT:
        return attn_out_type(m);
    case ROLE_FFN_DOWN:
        return ffn_down_type(m, t->name);
    default:
        return m->main;
    }
}

ew_dtype ew_mix_fitting(ew_dtype want, uint64_t cols)
{
    static const struct {
        ew_dtype type, smaller;
    } fallback[] = {{EW_DTYPE_Q2_K, EW_DTYPE_Q4_0}, {EW_DTYPE_Q3_K, EW_DTYPE_Q4_0}, {EW_DTYPE_Q4_K, EW_DTYPE_Q5_0},
                    {EW_DTYPE_Q5_K, EW_DTYPE_Q5_1}, {EW_DTYPE_Q6_K, EW_DTYPE_Q8_0}, {EW_DTYPE_IQ4_XS, EW_DTYPE_IQ4_NL}};
    if (cols % ew_dtype_get(want)->block_elems == 0) {
        return want;
    }
    for (size_t i = 0; i < EW_COUNT(fallback); i++) {
        if (fallback[i].type == want && cols % 32 == 0) {
            return fallback[i].smaller;
        }
    }
    return EW_DTYPE_F16;
}

static ew_dtype type_of(mixer *m, bool pure, const ew_tensor_view *t)
{
    if (is_vector(t)) {
        const ew_dtype_info *info = ew_dtype_get(t->dtype);
        return info != NULL && info->compute ? EW_DTYPE_F32 : t->dtype;
    }
    if (stays(t->name)) {
        return t->dtype;
    }
    bool plain = ew_dtype_get(m->main)->block_elems == 1;
    return ew_mix_fitting(plain || pure ? m->main : type_by_role(m, t), t->dims[0]);
}

/* The order in which layers are counted: by number, then by name; what is in no layer comes first. */
static int by_layer(const void *a, const void *b)
{
    const char *x = (**(const ew_tensor_view *const *const *)a)->name;
    const char *y = (**(const ew_tensor_view *const *const *)b)->name;
    int64_t i = layer_of(x), j = layer_of(y);
    return i != j ? (i > j) - (i < j) : strcmp(x, y);
}

ew_status ew_mix_assign(ew_mix mix, bool pure, const ew_mix_model *model, const ew_tensor_view *const *t, size_t n,
                        ew_dtype *ret, ew_error *reterr)
{
    mixer m = {.mix = mix,
               .main = ew_mix_dtype(mix),
               .model = model,
               .falcon = ew_str_eq(model->arch, "falcon"),
               .tied = true};
    const ew_tensor_view *const **order = ew_calloc(n > 0 ? n : 1, sizeof(*order));
    if (order == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++) {
        role r = role_of(t[i]->name);
        order[i] = &t[i];
        m.n_attn_v += r == ROLE_ATTN_V;
        m.tied = m.tied && r != ROLE_OUTPUT;
    }
    qsort(order, n, sizeof(*order), by_layer);
    for (size_t i = 0; i < n; i++) {
        ret[order[i] - t] = type_of(&m, pure, *order[i]);
    }
    ew_free(order);
    return EW_OK;
}

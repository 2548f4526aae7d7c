/* The table of families: a row is all that tells one from another. The block is layer.c, what a row becomes is in
 * config_gguf.c and config_hf.c, names become weights in bind.c.
 * Sources: llama.cpp src/llama-arch.cpp for the names in GGUF, transformers' models/<family>/modeling_*.py for the function and the
 * names in a directory. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "model/model_int.h"

const ew_names ew__gguf_names = {
    .prefix = "",
    .layer = "blk.%u.",
    .slot = {[EW_SLOT_TOKEN_EMBD] = "token_embd",
             [EW_SLOT_POSITION_EMBD] = "position_embd",
             [EW_SLOT_TOKEN_TYPES] = "token_types",
             [EW_SLOT_EMBD_NORM] = "token_embd_norm",
             [EW_SLOT_OUTPUT_NORM] = "output_norm",
             [EW_SLOT_OUTPUT] = "output",
             [EW_SLOT_ATTN_NORM] = "attn_norm",
             [EW_SLOT_Q] = "attn_q",
             [EW_SLOT_K] = "attn_k",
             [EW_SLOT_V] = "attn_v",
             [EW_SLOT_QKV] = "attn_qkv",
             [EW_SLOT_O] = "attn_output",
             [EW_SLOT_Q_NORM] = "attn_q_norm",
             [EW_SLOT_K_NORM] = "attn_k_norm",
             [EW_SLOT_ATTN_POST_NORM] = "post_attention_norm",
             [EW_SLOT_FFN_NORM] = "ffn_norm",
             [EW_SLOT_GATE] = "ffn_gate",
             [EW_SLOT_UP] = "ffn_up",
             [EW_SLOT_GATE_UP] = "ffn_up",
             [EW_SLOT_DOWN] = "ffn_down",
             [EW_SLOT_FFN_POST_NORM] = "post_ffw_norm"},
};

/* GGUF names of an encoder: the norms are those after the sums. */
const ew_names ew__gguf_encoder_names = {
    .prefix = "",
    .layer = "blk.%u.",
    .slot = {[EW_SLOT_TOKEN_EMBD] = "token_embd",
             [EW_SLOT_POSITION_EMBD] = "position_embd",
             [EW_SLOT_TOKEN_TYPES] = "token_types",
             [EW_SLOT_EMBD_NORM] = "token_embd_norm",
             [EW_SLOT_ATTN_NORM] = "attn_output_norm",
             [EW_SLOT_Q] = "attn_q",
             [EW_SLOT_K] = "attn_k",
             [EW_SLOT_V] = "attn_v",
             [EW_SLOT_QKV] = "attn_qkv",
             [EW_SLOT_O] = "attn_output",
             [EW_SLOT_FFN_NORM] = "layer_output_norm",
             [EW_SLOT_UP] = "ffn_up",
             [EW_SLOT_DOWN] = "ffn_down"},
};

/* What most directories of model.layers.N share. */
#define LLAMA_ENDS [EW_SLOT_TOKEN_EMBD] = "embed_tokens", [EW_SLOT_OUTPUT_NORM] = "norm", [EW_SLOT_OUTPUT] = "lm_head"
#define LLAMA_QKV [EW_SLOT_Q] = "self_attn.q_proj", [EW_SLOT_K] = "self_attn.k_proj", [EW_SLOT_V] = "self_attn.v_proj"
#define LLAMA_MLP [EW_SLOT_GATE] = "mlp.gate_proj", [EW_SLOT_UP] = "mlp.up_proj", [EW_SLOT_DOWN] = "mlp.down_proj"
#define LLAMA_NORMS [EW_SLOT_ATTN_NORM] = "input_layernorm", [EW_SLOT_FFN_NORM] = "post_attention_layernorm"
#define LLAMA_QK_NORM [EW_SLOT_Q_NORM] = "self_attn.q_norm", [EW_SLOT_K_NORM] = "self_attn.k_norm"

static const ew_names hf_llama = {
    .prefix = "model.",
    .layer = "layers.%u.",
    .slot = {LLAMA_ENDS, LLAMA_QKV, LLAMA_MLP, LLAMA_NORMS, LLAMA_QK_NORM, [EW_SLOT_O] = "self_attn.o_proj"},
};

static const ew_names hf_phi3 = {
    .prefix = "model.",
    .layer = "layers.%u.",
    .slot = {LLAMA_ENDS, LLAMA_NORMS, [EW_SLOT_QKV] = "self_attn.qkv_proj", [EW_SLOT_O] = "self_attn.o_proj",
             [EW_SLOT_GATE_UP] = "mlp.gate_up_proj", [EW_SLOT_DOWN] = "mlp.down_proj"},
};

static const ew_names hf_phi = {
    .prefix = "model.",
    .layer = "layers.%u.",
    .slot = {LLAMA_QKV, [EW_SLOT_TOKEN_EMBD] = "embed_tokens", [EW_SLOT_OUTPUT_NORM] = "final_layernorm",
             [EW_SLOT_OUTPUT] = "lm_head", [EW_SLOT_ATTN_NORM] = "input_layernorm", [EW_SLOT_O] = "self_attn.dense",
             [EW_SLOT_UP] = "mlp.fc1", [EW_SLOT_DOWN] = "mlp.fc2"},
};

/* Gemma 2 and 3: Llama's name of the norm before the feed-forward is that of the one after attention. */
static const ew_names hf_gemma2 = {
    .prefix = "model.",
    .layer = "layers.%u.",
    .slot = {LLAMA_ENDS, LLAMA_QKV, LLAMA_MLP, LLAMA_QK_NORM, [EW_SLOT_O] = "self_attn.o_proj",
             [EW_SLOT_ATTN_NORM] = "input_layernorm", [EW_SLOT_ATTN_POST_NORM] = "post_attention_layernorm",
             [EW_SLOT_FFN_NORM] = "pre_feedforward_layernorm", [EW_SLOT_FFN_POST_NORM] = "post_feedforward_layernorm"},
};

/* q_layernorm and k_layernorm are lists of a norm per head, see bind.c. */
static const ew_names hf_stablelm = {
    .prefix = "model.",
    .layer = "layers.%u.",
    .slot = {LLAMA_ENDS, LLAMA_QKV, LLAMA_MLP, LLAMA_NORMS, [EW_SLOT_O] = "self_attn.o_proj",
             [EW_SLOT_Q_NORM] = "self_attn.q_layernorm.norms", [EW_SLOT_K_NORM] = "self_attn.k_layernorm.norms"},
};

static const ew_names hf_gpt_neox = {
    .prefix = "gpt_neox.",
    .layer = "layers.%u.",
    .slot = {LLAMA_NORMS, [EW_SLOT_TOKEN_EMBD] = "embed_in", [EW_SLOT_OUTPUT_NORM] = "final_layer_norm",
             [EW_SLOT_OUTPUT] = "embed_out", [EW_SLOT_QKV] = "attention.query_key_value",
             [EW_SLOT_O] = "attention.dense", [EW_SLOT_UP] = "mlp.dense_h_to_4h", [EW_SLOT_DOWN] = "mlp.dense_4h_to_h"},
};

static const ew_names hf_gpt2 = {
    .prefix = "transformer.",
    .layer = "h.%u.",
    .slot = {[EW_SLOT_TOKEN_EMBD] = "wte",
             [EW_SLOT_POSITION_EMBD] = "wpe",
             [EW_SLOT_OUTPUT_NORM] = "ln_f",
             [EW_SLOT_OUTPUT] = "lm_head",
             [EW_SLOT_ATTN_NORM] = "ln_1",
             [EW_SLOT_QKV] = "attn.c_attn",
             [EW_SLOT_O] = "attn.c_proj",
             [EW_SLOT_FFN_NORM] = "ln_2",
             [EW_SLOT_UP] = "mlp.c_fc",
             [EW_SLOT_DOWN] = "mlp.c_proj"},
};

static const ew_names hf_gpt_neo = {
    .prefix = "transformer.",
    .layer = "h.%u.",
    .slot = {[EW_SLOT_TOKEN_EMBD] = "wte",
             [EW_SLOT_POSITION_EMBD] = "wpe",
             [EW_SLOT_OUTPUT_NORM] = "ln_f",
             [EW_SLOT_OUTPUT] = "lm_head",
             [EW_SLOT_ATTN_NORM] = "ln_1",
             [EW_SLOT_Q] = "attn.attention.q_proj",
             [EW_SLOT_K] = "attn.attention.k_proj",
             [EW_SLOT_V] = "attn.attention.v_proj",
             [EW_SLOT_O] = "attn.attention.out_proj",
             [EW_SLOT_FFN_NORM] = "ln_2",
             [EW_SLOT_UP] = "mlp.c_fc",
             [EW_SLOT_DOWN] = "mlp.c_proj"},
};

static const ew_names hf_opt = {
    .prefix = "model.decoder.",
    .layer = "layers.%u.",
    .slot = {LLAMA_QKV, [EW_SLOT_TOKEN_EMBD] = "embed_tokens", [EW_SLOT_POSITION_EMBD] = "embed_positions",
             [EW_SLOT_OUTPUT_NORM] = "final_layer_norm", [EW_SLOT_OUTPUT] = "lm_head",
             [EW_SLOT_ATTN_NORM] = "self_attn_layer_norm", [EW_SLOT_O] = "self_attn.out_proj",
             [EW_SLOT_FFN_NORM] = "final_layer_norm", [EW_SLOT_UP] = "fc1", [EW_SLOT_DOWN] = "fc2"},
};

static const ew_names hf_bert = {
    .prefix = "bert.",
    .layer = "encoder.layer.%u.",
    .slot = {[EW_SLOT_TOKEN_EMBD] = "embeddings.word_embeddings",
             [EW_SLOT_POSITION_EMBD] = "embeddings.position_embeddings",
             [EW_SLOT_TOKEN_TYPES] = "embeddings.token_type_embeddings",
             [EW_SLOT_EMBD_NORM] = "embeddings.LayerNorm",
             [EW_SLOT_ATTN_NORM] = "attention.output.LayerNorm",
             [EW_SLOT_Q] = "attention.self.query",
             [EW_SLOT_K] = "attention.self.key",
             [EW_SLOT_V] = "attention.self.value",
             [EW_SLOT_O] = "attention.output.dense",
             [EW_SLOT_FFN_NORM] = "output.LayerNorm",
             [EW_SLOT_UP] = "intermediate.dense",
             [EW_SLOT_DOWN] = "output.dense"},
};

/* Causal masks and tables of rotary frequencies, which old versions of transformers stored. */
static const char *const idle_rope[] = {"rotary_emb.inv_freq", NULL};
static const char *const idle_neox[] = {"rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", NULL};
static const char *const idle_gpt2[] = {".attn.bias", ".attn.masked_bias", NULL};
static const char *const idle_neo[] = {"attn.attention.bias", "attn.attention.masked_bias", NULL};
static const char *const idle_none[] = {NULL};
/* BERT's pooler and training heads are no part of the hidden states. */
static const char *const idle_bert[] = {"embeddings.position_ids",
                                        "pooler.dense.weight",
                                        "pooler.dense.bias",
                                        "cls.predictions.bias",
                                        "cls.predictions.decoder.weight",
                                        "cls.predictions.decoder.bias",
                                        "cls.predictions.transform.dense.weight",
                                        "cls.predictions.transform.dense.bias",
                                        "cls.predictions.transform.LayerNorm.weight",
                                        "cls.predictions.transform.LayerNorm.bias",
                                        "cls.predictions.transform.LayerNorm.gamma",
                                        "cls.predictions.transform.LayerNorm.beta",
                                        "cls.seq_relationship.weight",
                                        "cls.seq_relationship.bias",
                                        NULL};

/* A feed-forward without a gate, every norm and linear with a shift. */
#define GPT (EW_ARCH_UNGATED | EW_ARCH_NORM_BIAS)
#define UNGATED_BIAS (EW_BIAS_ATTN | 1u << EW_LINEAR_UP | 1u << EW_LINEAR_DOWN)
#define GEMMA (EW_ARCH_NORM_PLUS_1 | EW_ARCH_EMBED_SCALE | EW_ARCH_GELU_IS_TANH)

static const ew_arch archs[] = {
    {.name = "llama",
     .hf_class = "LlamaForCausalLM",
     .eps = 1e-6F,
     .hf = &hf_llama,
     .gguf_rope = EW_ROPE_NORM,
     .bias_opt = EW_BIAS_ALL,
     .bias_key = "attention_bias",
     .local_period = 1,
     .idle = idle_rope},
    {.name = "llama",
     .hf_class = "MistralForCausalLM",
     .eps = 1e-6F,
     .hf = &hf_llama,
     .gguf_rope = EW_ROPE_NORM,
     .bias_opt = EW_BIAS_ALL,
     .bias_key = "attention_bias",
     .local_period = 1,
     .window = 4096,
     .idle = idle_rope},
    {.name = "qwen2",
     .hf_class = "Qwen2ForCausalLM",
     .eps = 1e-6F,
     .hf = &hf_llama,
     .gguf_rope = EW_ROPE_NEOX,
     .flags = EW_ARCH_WINDOW_OPT,
     .bias = EW_BIAS_QKV,
     .idle = idle_rope},
    {.name = "qwen3",
     .hf_class = "Qwen3ForCausalLM",
     .eps = 1e-6F,
     .head = 128,
     .hf = &hf_llama,
     .gguf_rope = EW_ROPE_NEOX,
     .flags = EW_ARCH_QK_NORM | EW_ARCH_WINDOW_OPT,
     .bias_opt = EW_BIAS_ATTN,
     .bias_key = "attention_bias",
     .idle = idle_rope},
    {.name = "phi2",
     .hf_class = "PhiForCausalLM",
     .eps = 1e-5F,
     .part = 0.5F,
     .hf = &hf_phi,
     .gguf_rope = EW_ROPE_NEOX,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU_TANH,
     .flags = GPT | EW_ARCH_PARALLEL | EW_ARCH_ONE_NORM | EW_ARCH_HEAD_BIAS | EW_ARCH_OWN_HEAD,
     .bias = UNGATED_BIAS,
     .idle = idle_rope},
    {.name = "phi3",
     .hf_class = "Phi3ForCausalLM",
     .eps = 1e-5F,
     .hf = &hf_phi3,
     .gguf_rope = EW_ROPE_NEOX,
     .flags = EW_ARCH_FUSED_QKV | EW_ARCH_FUSED_GATE,
     .local_period = 1,
     .idle = idle_rope},
    {.name = "gemma",
     .hf_class = "GemmaForCausalLM",
     .eps = 1e-6F,
     .head = 256,
     .hf = &hf_llama,
     .gguf_rope = EW_ROPE_NEOX,
     .act = EW_ACT_GELU_TANH,
     .flags = GEMMA | EW_ARCH_TIED_HEAD,
     .idle = idle_rope},
    {.name = "gemma2",
     .hf_class = "Gemma2ForCausalLM",
     .eps = 1e-6F,
     .head = 256,
     .hf = &hf_gemma2,
     .gguf_rope = EW_ROPE_NEOX,
     .act = EW_ACT_GELU_TANH,
     .flags = GEMMA | EW_ARCH_POST_NORMS | EW_ARCH_TIED_HEAD,
     .local_period = 2,
     .window = 4096,
     .attn_softcap = 50,
     .final_softcap = 30,
     .wide_scale_L = 46,
     .idle = idle_rope},
    {.name = "gemma3",
     .hf_class = "Gemma3ForCausalLM",
     .eps = 1e-6F,
     .head = 256,
     .hf = &hf_gemma2,
     .gguf_rope = EW_ROPE_NEOX,
     .act = EW_ACT_GELU_TANH,
     .flags = GEMMA | EW_ARCH_POST_NORMS | EW_ARCH_QK_NORM,
     .local_period = 6,
     .theta_local = 10000,
     .wide_scale_L = 62,
     .idle = idle_rope},
    {.name = "stablelm",
     .hf_class = "StableLmForCausalLM",
     .eps = 1e-5F,
     .part = 0.25F,
     .hf = &hf_stablelm,
     .gguf_rope = EW_ROPE_NEOX,
     .norm = EW_NORM_LAYER,
     .flags = EW_ARCH_NORM_BIAS | EW_ARCH_PARALLEL_KEY | EW_ARCH_ONE_NORM | EW_ARCH_QK_NORM_OPT | EW_ARCH_OWN_HEAD,
     .bias_opt = EW_BIAS_QKV,
     .bias_key = "use_qkv_bias",
     .idle = idle_rope},
    {.name = "gptneox",
     .hf_class = "GPTNeoXForCausalLM",
     .eps = 1e-5F,
     .part = 0.25F,
     .hf = &hf_gpt_neox,
     .gguf_rope = EW_ROPE_NEOX,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU,
     .flags =
         GPT | EW_ARCH_PARALLEL | EW_ARCH_PARALLEL_KEY | EW_ARCH_FUSED_QKV | EW_ARCH_QKV_BY_HEAD | EW_ARCH_OWN_HEAD,
     .bias = UNGATED_BIAS,
     .idle = idle_neox},
    {.name = "gpt2",
     .hf_class = "GPT2LMHeadModel",
     .eps = 1e-5F,
     .hf = &hf_gpt2,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU_TANH,
     .flags = GPT | EW_ARCH_POSITIONS | EW_ARCH_FUSED_QKV | EW_ARCH_CONV1D | EW_ARCH_FFN_4C,
     .bias = UNGATED_BIAS,
     .idle = idle_gpt2},
    {.name = "gptneo",
     .hf_class = "GPTNeoForCausalLM",
     .eps = 1e-5F,
     .hf = &hf_gpt_neo,
     .no_gguf = true,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU_TANH,
     .flags = GPT | EW_ARCH_POSITIONS | EW_ARCH_FFN_4C | EW_ARCH_UNSCALED,
     .bias = UNGATED_BIAS & ~EW_BIAS_QKV,
     .idle = idle_neo},
    {.name = "opt",
     .hf_class = "OPTForCausalLM",
     .eps = 1e-5F,
     .hf = &hf_opt,
     .no_gguf = true,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_RELU,
     .flags = GPT | EW_ARCH_POSITIONS,
     .bias = UNGATED_BIAS,
     .pos_skip = 2,
     .idle = idle_none},
    {.name = "bert",
     .hf_class = "BertModel",
     .eps = 1e-12F,
     .hf = &hf_bert,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU,
     .flags = GPT | EW_ARCH_POSITIONS | EW_ARCH_ENCODER,
     .bias = UNGATED_BIAS,
     .idle = idle_bert},
    {.name = "bert",
     .hf_class = "BertForMaskedLM",
     .eps = 1e-12F,
     .hf = &hf_bert,
     .norm = EW_NORM_LAYER,
     .act = EW_ACT_GELU,
     .flags = GPT | EW_ARCH_POSITIONS | EW_ARCH_ENCODER,
     .bias = UNGATED_BIAS,
     .idle = idle_bert},
};

const char *ew__slot_name(const ew_names *names, ew_slot slot, uint32_t i_layer, char *dst, size_t size)
{
    const char *name = names->slot[slot];
    if (name == NULL) {
        dst[0] = '\0';
    } else if (slot < EW_SLOT_ATTN_NORM) {
        (void)snprintf(dst, size, "%s", name);
    } else { /* the one format of a table: "layers.%u." */
        const char *at = strchr(names->layer, '%');
        (void)snprintf(dst, size, "%.*s%u%s%s", (int)(at - names->layer), names->layer, i_layer, at + 2, name);
    }
    return dst;
}

ew_slot ew__linear_slot(ew_linear l)
{
    static const ew_slot slots[EW_LINEAR_COUNT] = {
        [EW_LINEAR_Q] = EW_SLOT_Q,       [EW_LINEAR_K] = EW_SLOT_K,       [EW_LINEAR_V] = EW_SLOT_V,
        [EW_LINEAR_O] = EW_SLOT_O,       [EW_LINEAR_GATE] = EW_SLOT_GATE, [EW_LINEAR_UP] = EW_SLOT_UP,
        [EW_LINEAR_DOWN] = EW_SLOT_DOWN,
    };
    return slots[l];
}

/* A configuration without a name is Llama's. */
static const ew_arch *arch_of(const ew_model_config *cfg)
{
    return cfg->arch[0] != '\0' ? ew__arch_by_name(cfg->arch, strlen(cfg->arch)) : &archs[0];
}

bool ew_linear_hf_module(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, char *dst, size_t size)
{
    const ew_arch *arch = arch_of(cfg);
    char name[96] = "";
    dst[0] = '\0';
    if (arch == NULL || ew__slot_name(arch->hf, ew__linear_slot(l), i_layer, name, sizeof(name))[0] == '\0') {
        return false;
    }
    int n = snprintf(dst, size, "%s%s", arch->hf->prefix, name);
    return n > 0 && (size_t)n < size;
}

static bool find_matrix(const ew_model_config *cfg, const ew_names *names, bool fused_qkv, bool fused_gate, ew_linear l,
                        uint32_t i_layer, ew_module *ret)
{
    char name[96];
    uint32_t rows, cols;
    *ret = (ew_module){.first = l, .n = 1};
    ew_slot slot = ew__linear_slot(l);
    ew_linear_shape(cfg, l, &rows, &cols);
    if (fused_qkv && l <= EW_LINEAR_V) {
        *ret = (ew_module){.first = EW_LINEAR_Q, .n = 3};
        slot = EW_SLOT_QKV;
    } else if (fused_gate && (l == EW_LINEAR_GATE || l == EW_LINEAR_UP)) {
        *ret = (ew_module){.first = EW_LINEAR_GATE, .n = 2};
        slot = EW_SLOT_GATE_UP;
    }
    if (rows == 0 || ew__slot_name(names, slot, i_layer, name, sizeof(name))[0] == '\0') {
        return false;
    }
    const int n = snprintf(ret->name, sizeof(ret->name), "%s%s", names->prefix, name);
    return n > 0 && (size_t)n < sizeof(ret->name);
}

bool ew_linear_hf_matrix(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, ew_module *ret)
{
    const ew_arch *arch = arch_of(cfg);
    if (arch == NULL || !find_matrix(cfg, arch->hf, arch->hf->slot[EW_SLOT_Q] == NULL,
                                     arch->hf->slot[EW_SLOT_GATE_UP] != NULL, l, i_layer, ret)) {
        return false;
    }
    ret->by_head = ret->n == 3 && (arch->flags & EW_ARCH_QKV_BY_HEAD) != 0;
    ret->conv1d = (arch->flags & EW_ARCH_CONV1D) != 0;
    return true;
}

bool ew_linear_gguf_matrix(const ew_model_config *cfg, ew_linear l, uint32_t i_layer, ew_module *ret)
{
    const ew_arch *arch = arch_of(cfg);
    return arch != NULL && find_matrix(cfg, cfg->encoder ? &ew__gguf_encoder_names : &ew__gguf_names,
                                       (arch->flags & EW_ARCH_FUSED_QKV) != 0, (arch->flags & EW_ARCH_FUSED_GATE) != 0,
                                       l, i_layer, ret);
}

uint32_t ew_module_rows(const ew_model_config *cfg, const ew_module *m)
{
    uint32_t n = 0, rows, cols;
    for (uint32_t k = 0; k < m->n; k++) {
        ew_linear_shape(cfg, (ew_linear)(m->first + k), &rows, &cols);
        n += rows;
    }
    return n;
}

size_t ew_module_row(const ew_model_config *cfg, const ew_module *m, ew_linear l, size_t r)
{
    if (m->by_head) {
        return (r / cfg->D * 3 + (size_t)(l - m->first)) * cfg->D + r % cfg->D;
    }
    for (uint32_t i = m->first; i < (uint32_t)l; i++) {
        uint32_t rows, cols;
        ew_linear_shape(cfg, (ew_linear)i, &rows, &cols);
        r += rows;
    }
    return r;
}

ew_rope_kind ew_model_gguf_rope(const ew_model_config *cfg)
{
    const ew_arch *arch = ew__arch_by_name(cfg->arch, strlen(cfg->arch));
    return arch != NULL ? arch->gguf_rope : EW_ROPE_NORM;
}

const ew_arch *ew__arch_by_name(const char *name, size_t size)
{
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        if (strlen(archs[i].name) == size && memcmp(archs[i].name, name, size) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

const ew_arch *ew__arch_by_hf(const char *hf_class)
{
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        if (strcmp(archs[i].hf_class, hf_class) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

/* Architectures that people try, by a part of their name (in small letters), and what this build lacks for them. */
static const struct {
    const char *part, *lacks;
} lacking[] = {
    {"moe", "a mixture of experts"},
    {"mixtral", "a mixture of experts"},
    {"dbrx", "a mixture of experts"},
    {"gpt_oss", "a mixture of experts"},
    {"gptoss", "a mixture of experts"},
    {"gpt-oss", "a mixture of experts"},
    {"deepseek", "multi-head latent attention"},
    {"minicpm3", "multi-head latent attention"},
    {"mamba", "a state-space block"},
    {"jamba", "a state-space block"},
    {"falconh1", "a state-space block"},
    {"rwkv", "a recurrent block"},
    {"lfm2", "a convolution block"},
    {"bloom", "ALiBi positions"},
    {"mpt", "ALiBi positions"},
    {"baichuan", "ALiBi positions"},
    {"t5", "an encoder with a decoder"},
    {"bart", "an encoder with a decoder"},
    {"whisper", "an encoder with a decoder"},
    {"llama4", "a mixture of experts"},
    {"gemma3n", "per-layer embeddings"},
    {"forconditionalgeneration", "inputs other than text"},
    {"vl", "inputs other than text"},
    {"llava", "inputs other than text"},
    {"falcon", "its block (one norm, multi-query attention) in the table"},
    {"roberta", "its positions (from the padding token on) in the table"},
};

ew_status ew__arch_refuse(const char *name, size_t size, ew_error *reterr)
{
    char low[64];
    size_t n = EW_MIN(size, sizeof(low) - 1);
    for (size_t i = 0; i < n; i++) {
        low[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
    }
    low[n] = '\0';
    int shown = (int)EW_MIN(size, 40);
    for (size_t i = 0; i < EW_COUNT(lacking); i++) {
        if (strstr(low, lacking[i].part) != NULL) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "the architecture '%.*s' is not supported: this build lacks %s",
                           shown, name, lacking[i].lacks);
        }
    }
    char names[160] = "";
    size_t used = 0;
    for (size_t i = 0; i < EW_COUNT(archs); i++) {
        if (i == 0 || strcmp(archs[i].name, archs[i - 1].name) != 0) {
            int k = snprintf(names + used, sizeof(names) - used, "%s%s", used > 0 ? ", " : "", archs[i].name);
            used += k > 0 ? EW_MIN((size_t)k, sizeof(names) - used - 1) : 0;
        }
    }
    return ew_fail(reterr, EW_EUNSUPPORTED, "the architecture '%.*s' is not supported; this build has: %s", shown, name,
                   names);
}

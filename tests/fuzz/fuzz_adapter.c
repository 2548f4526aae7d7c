/* Any bytes as an adapter of a small model: a GGUF, or adapter_config.json, a zero byte and adapter_model.safetensors. What is accepted
 * is run. */
#include <string.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/session.h"
#include "peft/adapter.h"
#include "peft/adapter_int.h"
#include "text/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Llama's block, with a gate and grouped heads. */
static ew_model *make_model(void)
{
    static float block[4096];
    static ew_layer_floats layer[2];
    const ew_model_config c = {.arch = "llama",
                               .name = "fuzz",
                               .C = 8,
                               .H = 2,
                               .K = 1,
                               .D = 4,
                               .F = 8,
                               .V = 16,
                               .L = 2,
                               .n_ctx_train = 32,
                               .norm_eps = 1e-5F,
                               .rope_kind = EW_ROPE_NEOX,
                               .n_rot = 4,
                               .rope_theta = 10000,
                               .file_type = -1};
    ew_model *m = NULL;
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_COUNT(block); i++) {
        block[i] = 0.01F * (float)(i % 23) - 0.1F;
    }
    for (size_t i = 0; i < 2; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            layer[i].linear[l] = block + 100 * (i * EW_LINEAR_COUNT + l);
        }
        layer[i].attn_norm = layer[i].ffn_norm = block + 2000;
    }
    const ew_model_floats f = {.token_embd = block + 3000, .output_norm = block + 2000, .layer = layer};
    return ew_model_from_floats(&c, NULL, &f, &m, &err) == EW_OK ? m : NULL;
}

static void use(const ew_model *base, ew_adapter *a)
{
    static const int32_t ids[] = {1, 5, 9};
    static volatile float sink;
    EW_AUTO(ew_session) s = NULL;
    EW_AUTO(ew_model) m = NULL;
    float logits[16];
    const ew_session_opt so = {.n_ctx = 8, .exec.kern = ew_kern_get("ref"), .hooks = ew_adapter_hooks(a)};
    if (ew_adapter_model(a, base, &m, NULL) == EW_OK && ew_session_new(m, &so, &s, NULL) == EW_OK &&
        ew_session_eval(s, ids, EW_COUNT(ids), logits, NULL) == EW_OK) {
        sink = logits[3];
    }
    (void)sink;
}

static ew_status load(const uint8_t *data, size_t size, const ew_model *m, ew_adapter **ret, ew_error *err)
{
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_safetensors) st = NULL;
    EW_AUTO_JSON config = NULL;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        EW_TRY(ew_gguf_open_memory(data, size, "fuzz", &g, err));
        return ew__adapter_from_gguf(g, "fuzz", m, ret, err);
    }
    const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
    if (end == NULL) {
        return EW_EINVAL;
    }
    const size_t n = (size_t)(end - data), rest = size - n - 1;
    uint8_t *copy = ew_aligned(EW_MAX(rest, (size_t)1));
    memcpy(copy, end + 1, rest);
    ew_status s = ew_json_load("fuzz", data, n, &config, err);
    s = s == EW_OK ? ew_safetensors_open_memory(copy, rest, "fuzz", &st, err) : s;
    s = s == EW_OK ? ew__adapter_from_peft(config, st, "fuzz", m, ret, err) : s;
    ew_safetensors_free(&st);
    ew_free(copy);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ew_model *m;
    EW_AUTO(ew_adapter) a = NULL;
    ew_error err = EW_ERROR_INIT;
    uint8_t *copy = ew_aligned(EW_MAX(size, (size_t)1));
    m = m != NULL ? m : make_model();
    if (m == NULL || copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    if (load(copy, size, m, &a, &err) == EW_OK) {
        use(m, a);
    }
    ew_adapter_free(&a);
    ew_free(copy);
    return 0;
}

/* Opening and saving: Hugging Face directories and GGUF files made on the spot from a tiny model, good and bad. */
#include "tiny.h"

#include "crypt/hash.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/save.h"
#include "model/session.h"
#include "sys/file.h"

static char tmp[EW_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    return ew_dir_make_temp("/tmp/ew-model-", tmp, sizeof(tmp), NULL) == EW_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *path_of(const char *name)
{
    static char path[2 * EW_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", tmp, name);
    return path;
}

/* ---- Hugging Face directories ---- */

typedef struct hf_opt {
    bool embed, head;    /* which matrices are stored */
    const char *tied;    /* "true", "false", NULL = key absent */
    const char *extra;   /* further keys of config.json, beginning with a comma */
    const char *replace; /* whole config.json */
    const char *skip;    /* a tensor that is left out */
    const char *add;     /* a tensor of one value that is added */
    bool bf16_norms;     /* vectors as BF16 */
    bool wrong_shape;    /* of the first K */
} hf_opt;

static void hf_tensor(ew_safetensors_writer *w, const hf_opt *o, const char *name, const float *data, uint64_t cols,
                      uint64_t rows, bool declare)
{
    if (o->skip != NULL && strcmp(o->skip, name) == 0) {
        return;
    }
    bool bf16 = o->bf16_norms && rows == 0;
    if (o->wrong_shape && strstr(name, "0.self_attn.k_proj") != NULL) {
        rows /= 2;
    }
    const uint64_t dims[2] = {cols, rows};
    size_t n = (size_t)(cols * EW_MAX(rows, 1));
    if (declare) {
        assert_ok(ew_safetensors_add_tensor(w, name, bf16 ? EW_DTYPE_BF16 : EW_DTYPE_F32, rows > 0 ? 2 : 1, dims, err));
    } else if (bf16) {
        uint16_t half[256];
        for (size_t i = 0; i < n; i++) {
            half[i] = ew_f32_to_bf16(data[i]);
        }
        assert_ok(ew_safetensors_write(w, half, n * 2, err));
    } else {
        assert_ok(ew_safetensors_write(w, data, n * sizeof(float), err));
    }
}

static void hf_tensors(const tiny *t, const hf_opt *o, ew_safetensors_writer *w, bool declare)
{
    const ew_model_config *c = &t->cfg;
    static const float one[1] = {1};
    char name[128];
    if (o->embed) {
        hf_tensor(w, o, "model.embed_tokens.weight", t->weights.token_embd, c->C, c->V, declare);
    }
    if (o->head) {
        hf_tensor(w, o, "lm_head.weight", t->weights.output != NULL ? t->weights.output : t->weights.token_embd, c->C,
                  c->V, declare);
    }
    hf_tensor(w, o, "model.norm.weight", t->weights.output_norm, c->C, 0, declare);
    if (o->add != NULL) {
        hf_tensor(w, o, o->add, one, 1, 0, declare);
    }
    for (uint32_t i = 0; i < c->L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(c, (ew_linear)l, &rows, &cols);
            (void)snprintf(name, sizeof(name), "model.layers.%u.%s.%s.weight", i,
                           l <= EW_LINEAR_O ? "self_attn" : "mlp", ew_linear_hf_name((ew_linear)l));
            hf_tensor(w, o, name, t->layer[i].linear[l], cols, rows, declare);
        }
        (void)snprintf(name, sizeof(name), "model.layers.%u.input_layernorm.weight", i);
        hf_tensor(w, o, name, t->layer[i].attn_norm, c->C, 0, declare);
        (void)snprintf(name, sizeof(name), "model.layers.%u.post_attention_layernorm.weight", i);
        hf_tensor(w, o, name, t->layer[i].ffn_norm, c->C, 0, declare);
    }
}

/* Writes the directory "hf" and returns its path. */
static const char *hf_write(const tiny *t, const hf_opt *o)
{
    const ew_model_config *c = &t->cfg;
    char json[2048];
    char tied[64] = "";
    if (o->tied != NULL) {
        (void)snprintf(tied, sizeof(tied), ", \"tie_word_embeddings\": %s", o->tied);
    }
    (void)snprintf(
        json, sizeof(json),
        "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %u, \"num_attention_heads\": %u, "
        "\"num_key_value_heads\": %u, \"head_dim\": %u, \"intermediate_size\": %u, \"num_hidden_layers\": %u, "
        "\"vocab_size\": %u, \"max_position_embeddings\": %u, \"rms_norm_eps\": 1e-5%s%s}",
        c->C, c->H, c->K, c->D, c->F, c->L, c->V, c->n_ctx_train, tied, o->extra != NULL ? o->extra : "");
    const char *text = o->replace != NULL ? o->replace : json;
    char file[2 * EW_PATH_MAX];
    assert_ok(ew_dir_make(path_of("hf"), 0700, err));
    (void)snprintf(file, sizeof(file), "%s/hf/config.json", tmp);
    assert_ok(ew_file_replace(file, text, strlen(text), 0600, err));
    ew_safetensors_writer *w = NULL;
    (void)snprintf(file, sizeof(file), "%s/hf/model.safetensors", tmp);
    assert_ok(ew_safetensors_writer_new(file, &w, err));
    hf_tensors(t, o, w, true);
    assert_ok(ew_safetensors_writer_begin(w, err));
    hf_tensors(t, o, w, false);
    assert_ok(ew_safetensors_writer_commit(w, err));
    ew_safetensors_writer_free(&w);
    return path_of("hf");
}

#define N 12

/* Logits of N ids under the reference kernels and an f32 cache. */
static void logits_of(const ew_model *m, float *ret)
{
    int32_t ids[N];
    ew_session *s = NULL;
    tiny_ids(ew_model_config_of(m)->V, 77, ids, N);
    ew_session_opt opt = {.n_ctx = N, .exec.kern = ew_kern_get("ref"), .kv_type = EW_KV_F32};
    assert_ok(ew_session_new(m, &opt, &s, err));
    assert_ok(ew_session_eval_all(s, ids, N, ret, err));
    ew_session_free(&s);
}

static double max_diff(const float *a, const float *b)
{
    double max = 0;
    for (size_t i = 0; i < N * 67; i++) {
        max = fmax(max, fabs((double)a[i] - (double)b[i]));
    }
    return max;
}

static void make_neox(tiny *t, bool tied, uint64_t seed)
{
    ew_model_config cfg = tiny_config();
    cfg.rope_kind = EW_ROPE_NEOX;
    tiny_make(t, &cfg, tied, seed);
}

static void a_directory_opens_with_the_head_tied_in_every_way(void **state)
{
    (void)state;
    tiny t;
    make_neox(&t, true, 30);
    float want[N * 67];
    float got[N * 67];
    logits_of(t.model, want);
    const hf_opt ways[] = {{.embed = true, .tied = "true"},
                           {.head = true, .tied = "true"},
                           {.embed = true, .head = true, .tied = "true"},
                           {.embed = true},
                           {.embed = true, .tied = "true", .add = "model.layers.0.self_attn.rotary_emb.inv_freq"},
                           {.embed = true, .head = true, .tied = "false"}};
    for (size_t i = 0; i < EW_COUNT(ways); i++) {
        EW_AUTO(ew_model) m = NULL;
        assert_ok(ew_model_open(hf_write(&t, &ways[i]), NULL, &m, err));
        logits_of(m, got);
        assert_memory_equal(want, got, sizeof(want));
        assert_int_equal(ew_model_config_of(m)->tied_head, i + 1 < EW_COUNT(ways));
        assert_null(ew_model_tokenizer(m));
        assert_string_equal(ew_model_config_of(m)->name, "hf");
    }
    tiny_release(&t);
}

static void an_untied_directory_and_16_bit_norms_open(void **state)
{
    (void)state;
    tiny t;
    make_neox(&t, false, 31);
    float want[N * 67];
    float got[N * 67];
    logits_of(t.model, want);
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(hf_write(&t, &(hf_opt){.embed = true, .head = true, .tied = "false"}), NULL, &m, err));
    logits_of(m, got);
    assert_memory_equal(want, got, sizeof(want));
    assert_int_equal(ew_model_n_params(m), ew_model_n_params(t.model));
    ew_model_unref(&m);
    hf_opt o = {.embed = true, .head = true, .tied = "false", .bf16_norms = true};
    assert_ok(ew_model_open(hf_write(&t, &o), &(ew_model_opt){.populate = true}, &m, err));
    logits_of(m, got);
    double diff = max_diff(want, got);
    assert_true(diff > 0 && diff < 0.3);
    tiny_release(&t);
}

typedef struct refusal {
    hf_opt opt;
    ew_status status;
    const char *says;
} refusal;

static void what_a_directory_cannot_be_is_named(void **state)
{
    (void)state;
    tiny t;
    make_neox(&t, true, 32);
    const refusal list[] = {
        {{.embed = true, .tied = "false"}, EW_ECORRUPT, "lm_head.weight"},
        {{.tied = "true"}, EW_ECORRUPT, "model.embed_tokens.weight"},
        {{.embed = true, .extra = ", \"attention_bias\": true"}, EW_ECORRUPT, "q_proj.bias"},
        {{.embed = true, .extra = ", \"hidden_act\": \"quick_gelu\""}, EW_EUNSUPPORTED, "quick_gelu"},
        {{.embed = true, .extra = ", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2.0}"},
         EW_EUNSUPPORTED,
         "dynamic"},
        {{.embed = true, .extra = ", \"num_local_experts\": 8"}, EW_EUNSUPPORTED, "mixture of 8 experts"},
        {{.embed = true, .extra = ", \"layer_types\": [\"linear_attention\"], \"sliding_window\": 8"},
         EW_ECORRUPT,
         "kinds of attention"},
        {{.embed = true,
          .extra = ", \"layer_types\": [\"full_attention\", \"full_attention\", \"linear_attention\"], "
                   "\"sliding_window\": 8"},
         EW_EUNSUPPORTED,
         "linear_attention"},
        {{.embed = true, .extra = ", \"quantization_config\": {\"quant_method\": \"gptq\"}"}, EW_EUNSUPPORTED, "gptq"},
        {{.embed = true, .skip = "model.layers.2.mlp.up_proj.weight"},
         EW_ECORRUPT,
         "model.layers.2.mlp.up_proj.weight"},
        {{.embed = true, .add = "model.layers.0.self_attn.q_proj.bias"}, EW_EUNSUPPORTED, "biases"},
        {{.embed = true, .add = "model.layers.3.mlp.up_proj.weight"}, EW_EUNSUPPORTED, "layers.3"},
        {{.embed = true, .wrong_shape = true}, EW_ECORRUPT, "k_proj"},
        {{.embed = true, .replace = "{\"architectures\": [\"MambaForCausalLM\"]}"},
         EW_EUNSUPPORTED,
         "'MambaForCausalLM' is not supported: this build lacks a state-space block"},
        {{.embed = true, .replace = "{\"architectures\": [\"MixtralForCausalLM\"]}"},
         EW_EUNSUPPORTED,
         "mixture of experts"},
        {{.embed = true, .replace = "{\"architectures\": [\"DeepseekV3ForCausalLM\"]}"}, EW_EUNSUPPORTED, "latent"},
        {{.embed = true, .replace = "{\"architectures\": [\"BloomForCausalLM\"]}"}, EW_EUNSUPPORTED, "ALiBi"},
        {{.embed = true, .replace = "{\"architectures\": [\"LlavaForConditionalGeneration\"]}"},
         EW_EUNSUPPORTED,
         "inputs other than text"},
        {{.embed = true, .replace = "{\"architectures\": [\"XyzForCausalLM\"]}"}, EW_EUNSUPPORTED, "gemma3"},
        {{.embed = true, .replace = "{\"architectures\": []}"}, EW_ECORRUPT, "architectures"},
        {{.embed = true, .replace = "{\"architectures\": [\"LlamaForCausalLM\"]}"}, EW_ECORRUPT, "hidden_size"},
        {{.embed = true, .replace = "[1]"}, EW_ECORRUPT, "object"},
        {{.embed = true, .replace = "{"}, EW_ECORRUPT, "config.json"},
    };
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_model *m = NULL;
        ew_error why = EW_ERROR_INIT;
        ew_status st = ew_model_open(hf_write(&t, &list[i].opt), NULL, &m, &why);
        if (st != list[i].status || strstr(why.msg, list[i].says) == NULL) {
            fail_msg("case %zu: %s: %s", i, ew_status_name(st), why.msg);
        }
        assert_non_null(strstr(why.msg, tmp));
        assert_null(m);
    }
    tiny_release(&t);
}

static void numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    ew_model_config c = tiny_config();
    ew_error why = EW_ERROR_INIT;
    assert_int_equal(ew_model_config_check(&c, &why), EW_OK);
#define BAD(field, value)                                                                                              \
    do {                                                                                                               \
        ew_model_config b = c;                                                                                         \
        b.field = (value);                                                                                             \
        assert_true(ew_model_config_check(&b, &why) != EW_OK);                                                         \
    } while (0)
    BAD(C, 0);
    BAD(V, 0);
    BAD(V, UINT32_MAX);
    BAD(L, 100000);
    BAD(K, 3);
    BAD(D, 257);
    BAD(n_rot, 15);
    BAD(n_rot, 18);
    BAD(norm_eps, NAN);
    BAD(rope_theta, 0);
    BAD(rope_theta, INFINITY);
    BAD(rope_scaling, EW_ROPE_SCALING_LINEAR);
    BAD(rope_scaling, EW_ROPE_SCALING_LLAMA3);
#undef BAD
}

/* ---- GGUF ---- */

static void a_saved_model_reads_back_the_same(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, false, 33);
    float want[N * 67];
    float got[N * 67];
    logits_of(t.model, want);
    const char *const kv[] = {"edgewise.note", "made for a test"};
    assert_ok(
        ew_model_save_gguf(t.model, path_of("m.gguf"), &(ew_save_opt){.name = "other", .kv = kv, .n_kv = 1}, err));
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(path_of("m.gguf"), NULL, &m, err));
    logits_of(m, got);
    assert_memory_equal(want, got, sizeof(want));
    assert_string_equal(ew_model_config_of(m)->name, "other");
    assert_string_equal(ew_model_dtype_name(m), "F32");
    assert_int_equal(ew_model_config_of(m)->file_type, 0);
    assert_int_equal(ew_model_config_of(m)->D, cfg.D);
    EW_AUTO(ew_gguf) g = NULL;
    ew_span note;
    assert_ok(ew_gguf_open(path_of("m.gguf"), &g, err));
    assert_true(ew_gguf_get_str(g, "edgewise.note", &note));
    assert_int_equal(note.size, strlen(kv[1]));
    tiny_release(&t);
}

static void half_split_and_interleaved_twins_agree(void **state)
{
    (void)state;
    tiny t;
    make_neox(&t, true, 34);
    float want[N * 67];
    float got[N * 67];
    logits_of(t.model, want);
    assert_ok(ew_model_save_gguf(t.model, path_of("twin.gguf"), NULL, err));
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(path_of("twin.gguf"), NULL, &m, err));
    assert_int_equal(ew_model_config_of(m)->rope_kind, EW_ROPE_NORM);
    assert_true(ew_model_config_of(m)->tied_head);
    logits_of(m, got);
    assert_true(max_diff(want, got) < 1e-4);
    tiny_release(&t);
}

static void rotary_scaling_survives_saving(void **state)
{
    (void)state;
    const ew_rope_scaling kinds[] = {EW_ROPE_SCALING_LINEAR, EW_ROPE_SCALING_LLAMA3};
    for (size_t i = 0; i < 2; i++) {
        ew_model_config cfg = tiny_config();
        float plain[N * 67];
        float want[N * 67];
        float got[N * 67];
        tiny t;
        tiny_make(&t, &cfg, true, 35);
        logits_of(t.model, plain);
        tiny_release(&t);
        cfg.rope_scaling = kinds[i];
        cfg.rope_factor = 8;
        cfg.rope_low_freq = 1;
        cfg.rope_high_freq = 4;
        cfg.rope_orig_ctx = 32;
        tiny_make(&t, &cfg, true, 35);
        logits_of(t.model, want);
        assert_true(max_diff(want, plain) > 1e-2);
        assert_ok(ew_model_save_gguf(t.model, path_of("scaled.gguf"), NULL, err));
        EW_AUTO(ew_model) m = NULL;
        assert_ok(ew_model_open(path_of("scaled.gguf"), NULL, &m, err));
        logits_of(m, got);
        assert_memory_equal(want, got, sizeof(want));
        tiny_release(&t);
    }
}

static void conversion_rounds_what_the_block_divides(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config(); /* C = 32 and H*D = 64 have blocks, F = 48 has not */
    tiny t;
    tiny_make(&t, &cfg, true, 36);
    float want[N * 67];
    float got[N * 67];
    logits_of(t.model, want);
    const ew_dtype types[] = {EW_DTYPE_F16, EW_DTYPE_Q8_0, EW_DTYPE_Q4_0};
    const double bound[] = {0.1, 2, 40};
    double last = 0;
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        ew_save_opt o = {.convert = true, .dtype = types[i]};
        assert_ok(ew_model_save_gguf(t.model, path_of("c.gguf"), &o, err));
        EW_AUTO(ew_model) m = NULL;
        assert_ok(ew_model_open(path_of("c.gguf"), NULL, &m, err));
        const ew_layer_weights *w = ew_model_layer(m, 1);
        assert_int_equal(w->linear[EW_LINEAR_Q].dtype, types[i]);
        assert_int_equal(w->linear[EW_LINEAR_DOWN].dtype, EW_DTYPE_F16);
        logits_of(m, got);
        double diff = max_diff(want, got);
        if (!(diff > last && diff < bound[i])) {
            fail_msg("%s: %g", ew_dtype_name(types[i]), diff);
        }
        last = diff;
    }
    assert_int_equal(
        ew_model_save_gguf(t.model, path_of("c.gguf"), &(ew_save_opt){.convert = true, .dtype = EW_DTYPE_I8}, NULL),
        EW_EUNSUPPORTED);
    tiny_release(&t);
}

static void the_hash_is_that_of_the_file(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 37);
    assert_null(ew_model_sha256_hex(t.model));
    assert_string_equal(ew_model_path(t.model), "");
    assert_ok(ew_model_save_gguf(t.model, path_of("h.gguf"), NULL, err));
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(path_of("h.gguf"), NULL, &m, err));
    uint8_t digest[EW_SHA256_SIZE];
    char hex[EW_SHA256_HEX_SIZE];
    assert_ok(ew_sha256_file(path_of("h.gguf"), NULL, digest, NULL, err));
    ew_hex_encode(digest, sizeof(digest), hex);
    assert_string_equal(ew_model_sha256_hex(m), hex);
    tiny_release(&t);
}

static void a_reference_keeps_the_model(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 38);
    assert_ok(ew_model_save_gguf(t.model, path_of("r.gguf"), NULL, err));
    tiny_release(&t);
    ew_model *m = NULL;
    assert_ok(ew_model_open(path_of("r.gguf"), NULL, &m, err));
    ew_model *again = ew_model_ref(m);
    ew_model_unref(&m);
    assert_null(m);
    assert_int_equal(ew_model_config_of(again)->V, 67);
    ew_model_unref(&again);
    ew_model_unref(&again);
}

static ew_status open_gguf_with(const tiny *t, const char *key, const char *value, const char *tensor, ew_error *reterr)
{
    const char *const kv[] = {key, value};
    assert_ok(ew_model_save_gguf(t->model, path_of("base.gguf"), NULL, err));
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    assert_ok(ew_gguf_open(path_of("base.gguf"), &g, err));
    assert_ok(ew_gguf_writer_new(path_of("bad.gguf"), &w, err));
    uint64_t n;
    if (key != NULL && ew_str_to_u64(value, UINT32_MAX, &n)) {
        ew_gguf_add_u32(w, kv[0], (uint32_t)n);
    } else if (key != NULL) {
        ew_gguf_add_str(w, kv[0], kv[1]);
    }
    ew_gguf_add_all_from(w, g, NULL);
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        const ew_tensor_view *v = ew_gguf_tensor(g, i);
        assert_ok(ew_gguf_add_tensor(w, v->name, v->dtype, v->n_dims, v->dims, err));
    }
    const uint64_t dims[1] = {1};
    if (tensor != NULL) {
        assert_ok(ew_gguf_add_tensor(w, tensor, EW_DTYPE_F32, 1, dims, err));
    }
    assert_ok(ew_gguf_writer_begin(w, err));
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        assert_ok(ew_gguf_write_tensor(w, i, ew_gguf_tensor(g, i)->data, err));
    }
    if (tensor != NULL) {
        assert_ok(ew_gguf_write(w, &(float){1}, sizeof(float), err));
    }
    assert_ok(ew_gguf_writer_commit(w, err));
    EW_AUTO(ew_model) m = NULL;
    return ew_model_open(path_of("bad.gguf"), NULL, &m, reterr);
}

static void what_a_file_cannot_be_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *tensor;
        ew_status status;
        const char *says;
    } list[] = {
        {NULL, NULL, NULL, EW_OK, ""},
        {"general.architecture", "mamba", NULL, EW_EUNSUPPORTED, "lacks a state-space block"},
        {"general.architecture", "deepseek2", NULL, EW_EUNSUPPORTED, "latent attention"},
        {"general.architecture", "rwkv7", NULL, EW_EUNSUPPORTED, "recurrent"},
        {"general.architecture", "gptneo", NULL, EW_EUNSUPPORTED, "no GGUF form"},
        {"general.architecture", "xyz", NULL, EW_EUNSUPPORTED, "llama, qwen2"},
        {"general.type", "adapter", NULL, EW_EINVAL, "adapter"},
        {"llama.expert_count", "8", NULL, EW_EUNSUPPORTED, "llama.expert_count"},
        {"llama.rope.scaling.type", "yarn", NULL, EW_ECORRUPT, "factor 0"},
        {"llama.rope.scaling.type", "dynamic", NULL, EW_EUNSUPPORTED, "dynamic"},
        {"llama.block_count", "4", NULL, EW_ECORRUPT, "blk.3."},
        {"llama.block_count", "2", NULL, EW_EUNSUPPORTED, "blk.2."},
        {"llama.block_count", "4000000000", NULL, EW_EUNSUPPORTED, "layers"},
        {"llama.embedding_length", "64", NULL, EW_ECORRUPT, "token_embd.weight"},
        {"llama.attention.head_count_kv", "3", NULL, EW_ECORRUPT, "multiple"},
        {"llama.attention.head_count", "0", NULL, EW_ECORRUPT, "heads"},
        {"llama.attention.head_count", "many", NULL, EW_EUNSUPPORTED, "llama.attention.head_count"},
        {"llama.attention.value_length", "8", NULL, EW_EUNSUPPORTED, "value heads"},
        {"llama.vocab_size", "66", NULL, EW_ECORRUPT, "token_embd.weight"},
        {NULL, NULL, "blk.0.attn_q.bias", EW_ECORRUPT, "blk.0.attn_q.bias"},
        {NULL, NULL, "blk.0.attn_norm.bias", EW_EUNSUPPORTED, "no biases"},
        {NULL, NULL, "blk.0.ffn_gate_inp.weight", EW_EUNSUPPORTED, "ffn_gate_inp"},
        {NULL, NULL, "rope_freqs.weight", EW_ECORRUPT, "rope_freqs.weight"},
    };
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 39);
    for (size_t i = 0; i < EW_COUNT(list); i++) {
        ew_error why = EW_ERROR_INIT;
        ew_status st = open_gguf_with(&t, list[i].key, list[i].value, list[i].tensor, &why);
        if (st != list[i].status || strstr(why.msg, list[i].says) == NULL) {
            fail_msg("case %zu: %s: %s", i, ew_status_name(st), why.msg);
        }
    }
    tiny_release(&t);
}

static void absent_paths_are_told_apart(void **state)
{
    (void)state;
    ew_model *m = NULL;
    ew_error why = EW_ERROR_INIT;
    assert_int_equal(ew_model_open(path_of("nothing.gguf"), NULL, &m, &why), EW_ENOENT);
    assert_ok(ew_dir_make(path_of("empty"), 0700, err));
    assert_int_equal(ew_model_open(path_of("empty"), NULL, &m, &why), EW_ENOENT);
    assert_non_null(strstr(why.msg, "config.json"));
    assert_ok(ew_file_replace(path_of("text.gguf"), "hello", 5, 0600, err));
    assert_int_equal(ew_model_open(path_of("text.gguf"), NULL, &m, &why), EW_ECORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_opens_with_the_head_tied_in_every_way),
        cmocka_unit_test(an_untied_directory_and_16_bit_norms_open),
        cmocka_unit_test(what_a_directory_cannot_be_is_named),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(a_saved_model_reads_back_the_same),
        cmocka_unit_test(half_split_and_interleaved_twins_agree),
        cmocka_unit_test(rotary_scaling_survives_saving),
        cmocka_unit_test(conversion_rounds_what_the_block_divides),
        cmocka_unit_test(the_hash_is_that_of_the_file),
        cmocka_unit_test(a_reference_keeps_the_model),
        cmocka_unit_test(what_a_file_cannot_be_is_named),
        cmocka_unit_test(absent_paths_are_told_apart),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* Adapter files: PEFT directories (safetensors with Hugging Face names) and GGUF adapters. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"
#include "sys/file.h"
#include "text/json.h"

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define META_BASE "edgewise.base_sha256"
#define NAME_MAX_BYTES 128

typedef struct tensor_id {
    uint32_t layer;
    ew_linear linear;
    bool is_b;
} tensor_id;

/* "" when the directory of such a model has no module of its own for the linear. */
static void peft_name(char dst[static NAME_MAX_BYTES], const ew_model_config *cfg, tensor_id id)
{
    char module[NAME_MAX_BYTES - 40];
    dst[0] = '\0';
    if (ew_linear_hf_module(cfg, id.linear, id.layer, module, sizeof(module))) {
        snprintf(dst, NAME_MAX_BYTES, "base_model.model.%s.lora_%c.weight", module, id.is_b ? 'B' : 'A');
    }
}

static void gguf_name(char dst[static NAME_MAX_BYTES], const ew_model_config *cfg, tensor_id id)
{
    (void)cfg;
    snprintf(dst, NAME_MAX_BYTES, "blk.%u.%s.weight.lora_%c", id.layer, ew_linear_gguf_name(id.linear),
             id.is_b ? 'b' : 'a');
}

/* --- walking over the tensors of an adapter --- */

typedef ew_status (*visitor)(tensor_id id, const uint64_t dims[static 2], float *data, void *ctx, ew_error *reterr);

static ew_status each(const ew_adapter *l, visitor fn, void *ctx, ew_error *reterr)
{
    for (uint32_t il = 0; il < l->cfg.L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            size_t a, b;
            if (!ew_adapter_slot(l, il, (ew_linear)i, &a, &b)) {
                continue;
            }
            uint32_t rows, cols;
            ew_linear_shape(&l->cfg, (ew_linear)i, &rows, &cols);
            const uint64_t dims_a[2] = {cols, l->opt.rank}, dims_b[2] = {l->opt.rank, rows};
            EW_TRY(fn((tensor_id){il, (ew_linear)i, false}, dims_a, l->params + a, ctx, reterr));
            EW_TRY(fn((tensor_id){il, (ew_linear)i, true}, dims_b, l->params + b, ctx, reterr));
        }
    }
    return EW_OK;
}

/* dst = the rows of src[F,R] put from the base's own order into the order that a file wants, or back (to_file false). */
static void reorder(const ew_adapter *l, ew_linear linear, bool to_file, const float *src, float *dst)
{
    uint32_t rows, cols;
    ew_linear_shape(&l->cfg, linear, &rows, &cols);
    const size_t r = l->opt.rank;
    const bool src_is_gguf = to_file == (l->cfg.rope_kind == EW_ROPE_NORM);
    for (size_t hf = 0; hf < rows; hf++) {
        const size_t g = ew__adapter_gguf_row(&l->cfg, hf);
        const size_t from = src_is_gguf ? g : hf, to = src_is_gguf ? hf : g;
        memcpy(dst + to * r, src + from * r, r * sizeof(float));
    }
}

/* A tensor in the order of the file; *ret is data itself or tmp. */
static const float *file_rows(const ew_adapter *l, tensor_id id, ew_rope_kind order, const float *data, float *tmp)
{
    const bool rotary = id.linear == EW_LINEAR_Q || id.linear == EW_LINEAR_K;
    if (!id.is_b || !rotary || order == l->cfg.rope_kind) {
        return data;
    }
    reorder(l, id.linear, true, data, tmp);
    return tmp;
}

typedef struct save_ctx {
    const ew_adapter *l;
    ew_safetensors_writer *st;
    ew_gguf_writer *gguf;
    bool declare;
    float *tmp;
} save_ctx;

static ew_status save_one(tensor_id id, const uint64_t dims[static 2], float *data, void *ctx, ew_error *reterr)
{
    save_ctx *s = ctx;
    char name[NAME_MAX_BYTES];
    const size_t bytes = (size_t)(dims[0] * dims[1]) * sizeof(float);
    if (s->st != NULL) {
        peft_name(name, &s->l->cfg, id);
        if (name[0] == '\0') {
            return ew_fail(
                reterr, EW_EUNSUPPORTED,
                "an adapter of %s cannot be a PEFT directory for '%s', which has it fused. HINT: write a GGUF "
                "adapter",
                ew_linear_gguf_name(id.linear), s->l->cfg.arch);
        }
        if (s->declare) {
            return ew_safetensors_add_tensor(s->st, name, EW_DTYPE_F32, 2, dims, reterr);
        }
        return ew_safetensors_write(s->st, file_rows(s->l, id, EW_ROPE_NEOX, data, s->tmp), bytes, reterr);
    }
    gguf_name(name, &s->l->cfg, id);
    if (s->declare) {
        return ew_gguf_add_tensor(s->gguf, name, EW_DTYPE_F32, 2, dims, reterr);
    }
    return ew_gguf_write(s->gguf, file_rows(s->l, id, ew_model_gguf_rope(&s->l->cfg), data, s->tmp), bytes, reterr);
}

/* Room for the largest B of Q and K. */
static float *new_tmp(const ew_adapter *l)
{
    return ew_malloc((size_t)l->cfg.H * l->cfg.D * l->opt.rank, sizeof(float));
}

static ew_status save_tensors(save_ctx *s, ew_error *reterr)
{
    s->declare = true;
    EW_TRY(each(s->l, save_one, s, reterr));
    s->declare = false;
    EW_TRY(s->st != NULL ? ew_safetensors_writer_begin(s->st, reterr) : ew_gguf_writer_begin(s->gguf, reterr));
    s->tmp = new_tmp(s->l);
    if (s->tmp == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to write an adapter");
    }
    const ew_status st = each(s->l, save_one, s, reterr);
    ew_free(s->tmp);
    return st;
}

/* --- PEFT --- */

static ew_status config_json(const ew_adapter *l, const ew_model *m, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_JSON targets = json_array();
    for (int i = 0; i < EW_LINEAR_COUNT; i++) {
        char module[NAME_MAX_BYTES];
        if ((l->opt.targets & EW_ADAPTER_TARGET(i)) != 0 &&
            ew_linear_hf_module(&l->cfg, (ew_linear)i, 0, module, sizeof(module))) {
            json_array_append_new(targets, json_string(strrchr(module, '.') + 1));
        }
    }
    EW_AUTO_JSON j =
        json_pack("{s:s, s:n, s:s, s:s, s:i, s:f, s:f, s:O, s:s, s:b, s:b, s:b, s:b, s:n}", "peft_type", "LORA",
                  "auto_mapping", "base_model_name_or_path", ew_path_base(ew_model_path(m)), "task_type", "CAUSAL_LM",
                  "r", (int)l->opt.rank, "lora_alpha", (double)l->opt.alpha, "lora_dropout", 0.0, "target_modules",
                  targets, "bias", "none", "fan_in_fan_out", 0, "use_rslora", l->opt.rslora ? 1 : 0, "inference_mode",
                  1, "init_lora_weights", 1, "modules_to_save");
    if (j == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for " CONFIG);
    }
    return ew_json_dump(j, EW_JSON_PRETTY, out, reterr);
}

ew_status ew_adapter_save_peft(const ew_adapter *l, const ew_model *m, const char *dir, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_safetensors_writer) w = NULL;
    EW_AUTO_BUF json = {0};
    EW_TRY(ew_dir_make(dir, 0755, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, WEIGHTS, reterr));
    EW_TRY(ew_safetensors_writer_new(path, &w, reterr));
    EW_TRY(ew_safetensors_add_metadata(w, "format", "pt", reterr));
    EW_TRY(ew_safetensors_add_metadata(w, META_BASE, l->base_sha256, reterr));
    save_ctx s = {.l = l, .st = w};
    EW_TRY(save_tensors(&s, reterr));
    EW_TRY(ew_safetensors_writer_commit(w, reterr));
    EW_TRY(config_json(l, m, &json, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, CONFIG, reterr));
    return ew_file_replace(path, json.data, json.size, 0644, reterr);
}

/* Options of PEFT that change the mathematics and that we do not have. */
static ew_status refuse_foreign(const json_t *j, const char *where, ew_error *reterr)
{
    static const char *const flags[] = {"use_dora", "fan_in_fan_out", "use_qalora", "lora_bias"};
    for (size_t i = 0; i < EW_COUNT(flags); i++) {
        if (json_is_true(json_object_get(j, flags[i]))) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s: '%s' is not supported", where, flags[i]);
        }
    }
    static const char *const maps[] = {"rank_pattern", "alpha_pattern"};
    for (size_t i = 0; i < EW_COUNT(maps); i++) {
        if (json_object_size(json_object_get(j, maps[i])) > 0) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s: '%s' is not supported", where, maps[i]);
        }
    }
    const char *bias = "none";
    EW_TRY(ew_json_opt_str(j, where, "bias", &bias, reterr));
    if (strcmp(bias, "none") != 0 || json_array_size(json_object_get(j, "modules_to_save")) > 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: trained biases or whole modules are not supported", where);
    }
    return EW_OK;
}

static ew_status read_config(const char *dir, ew_adapter_opt *ret, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_path_join(path, sizeof(path), dir, CONFIG, reterr));
    EW_TRY(ew_json_load_file(path, 0, &j, reterr));
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not a JSON object", path);
    }
    const char *type = NULL;
    int64_t rank = 0;
    double alpha = 0;
    bool rslora = false;
    EW_TRY(ew_json_get_str(j, path, "peft_type", &type, reterr));
    if (strcmp(type, "LORA") != 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: peft_type '%.40s' is not supported, LORA is", path, type);
    }
    EW_TRY(ew_json_get_i64(j, path, "r", 1, EW_ADAPTER_RANK_MAX, &rank, reterr));
    EW_TRY(ew_json_get_f64(j, path, "lora_alpha", &alpha, reterr));
    EW_TRY(ew_json_opt_bool(j, path, "use_rslora", &rslora, reterr));
    EW_TRY(refuse_foreign(j, path, reterr));
    if (!(alpha > 0)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: lora_alpha should be above 0", path);
    }
    *ret = (ew_adapter_opt){.rank = (uint32_t)rank, .alpha = (float)alpha, .rslora = rslora};
    return EW_OK;
}

/* --- reading tensors --- */

typedef struct load_ctx {
    ew_adapter *l;
    const char *path;
    const ew_safetensors *st;
    const ew_gguf *gguf;
    ew_rope_kind order;
    float *tmp;
    size_t found;
} load_ctx;

static const ew_tensor_view *find(const load_ctx *s, const char *name)
{
    return s->st != NULL ? ew_safetensors_find(s->st, name) : ew_gguf_find(s->gguf, name);
}

static ew_status load_one(tensor_id id, const uint64_t dims[static 2], float *data, void *ctx, ew_error *reterr)
{
    load_ctx *s = ctx;
    char name[NAME_MAX_BYTES];
    (s->st != NULL ? peft_name : gguf_name)(name, &s->l->cfg, id);
    const ew_tensor_view *t = name[0] != '\0' ? find(s, name) : NULL;
    if (t == NULL) {
        return EW_OK; /* not every layer needs to be adapted; counted below */
    }
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    if (t->n_dims != 2 || t->dims[0] != dims[0] || t->dims[1] != dims[1] || info == NULL || !info->compute) {
        char got[96];
        return ew_fail(reterr, EW_ECONFLICT, "%s: tensor %s is %s, this model and rank need [%llu, %llu]", s->path,
                       name, ew_tensor_describe(t, got, sizeof(got)), (unsigned long long)dims[0],
                       (unsigned long long)dims[1]);
    }
    s->found++;
    const bool swap = id.is_b && s->order != s->l->cfg.rope_kind;
    float *dst = swap && (id.linear == EW_LINEAR_Q || id.linear == EW_LINEAR_K) ? s->tmp : data;
    const size_t row_bytes = t->bytes / (size_t)dims[1];
    for (size_t i = 0; i < dims[1]; i++) {
        ew_dequant_row(t->dtype, (const char *)t->data + i * row_bytes, dst + i * dims[0], (size_t)dims[0]);
    }
    if (dst != data) {
        reorder(s->l, id.linear, false, s->tmp, data);
    }
    return EW_OK;
}

static size_t n_tensors(const load_ctx *s)
{
    return s->st != NULL ? ew_safetensors_n_tensors(s->st) : ew_gguf_n_tensors(s->gguf);
}

static const ew_tensor_view *tensor_at(const load_ctx *s, size_t i)
{
    return s->st != NULL ? ew_safetensors_tensor(s->st, i) : ew_gguf_tensor(s->gguf, i);
}

/* Which linears have a pair, and the rank of the first. */
static uint32_t targets_of(const load_ctx *s, const ew_model_config *cfg, uint32_t *ret_rank)
{
    uint32_t targets = 0;
    for (uint32_t il = 0; il < cfg->L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            char name[NAME_MAX_BYTES];
            (s->st != NULL ? peft_name : gguf_name)(name, cfg, (tensor_id){il, (ew_linear)i, false});
            const ew_tensor_view *t = name[0] != '\0' ? find(s, name) : NULL;
            if (t != NULL) {
                *ret_rank = t->dims[1] <= EW_ADAPTER_RANK_MAX ? (uint32_t)t->dims[1] : 0;
                targets |= EW_ADAPTER_TARGET(i);
            }
        }
    }
    return targets;
}

static ew_status load_tensors(load_ctx *s, const ew_model *m, ew_adapter_opt *opt, ew_error *reterr)
{
    uint32_t rank = 0;
    opt->targets = targets_of(s, ew_model_config_of(m), &rank);
    if (opt->targets == 0 || rank == 0) {
        return ew_fail(reterr, EW_ECONFLICT, "%s has no LoRA tensors for this model (the first is '%.80s')", s->path,
                       n_tensors(s) > 0 ? tensor_at(s, 0)->name : "none");
    }
    opt->rank = opt->rank == 0 ? rank : opt->rank;
    EW_TRY(ew_adapter_opt_resolve(opt, opt, reterr));
    EW_TRY(ew__adapter_alloc(m, opt, &s->l, reterr));
    s->tmp = new_tmp(s->l);
    if (s->tmp == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to read an adapter");
    }
    const ew_status st = each(s->l, load_one, s, reterr);
    ew_free(s->tmp);
    EW_TRY(st);
    if (s->found != n_tensors(s)) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s has %zu tensors of which %zu belong to linears of this model; the others are not supported",
                       s->path, n_tensors(s), s->found);
    }
    return EW_OK;
}

ew_status ew_adapter_load_peft(const char *dir, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_safetensors) st = NULL;
    ew_adapter_opt opt;
    EW_TRY(read_config(dir, &opt, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, WEIGHTS, reterr));
    EW_TRY(ew_safetensors_open(path, &st, reterr));
    load_ctx s = {.path = path, .st = st, .order = EW_ROPE_NEOX};
    ew_status status = load_tensors(&s, m, &opt, reterr);
    if (status == EW_OK) {
        status = ew__adapter_check_base(s.l, dir, ew_safetensors_metadata(st, META_BASE), reterr);
    }
    if (status != EW_OK) {
        ew_adapter_free(&s.l);
        return status;
    }
    *ret_adapter = s.l;
    return EW_OK;
}

/* --- GGUF --- */

ew_status ew_adapter_save_gguf(const ew_adapter *l, const ew_model *m, const char *path, ew_error *reterr)
{
    EW_AUTO(ew_gguf_writer) w = NULL;
    EW_TRY(ew_gguf_writer_new(path, &w, reterr));
    ew_gguf_add_str(w, "general.architecture", l->cfg.arch);
    ew_gguf_add_str(w, "general.type", "adapter");
    ew_gguf_add_str(w, "general.base_model.0.name", ew_model_config_of(m)->name);
    ew_gguf_add_str(w, "adapter.type", "lora");
    /* Readers compute alpha / rank. */
    ew_gguf_add_f32(w, "adapter.lora.alpha", l->scale * (float)l->opt.rank);
    ew_gguf_add_str(w, META_BASE, l->base_sha256);
    save_ctx s = {.l = l, .gguf = w};
    EW_TRY(save_tensors(&s, reterr));
    return ew_gguf_writer_commit(w, reterr);
}

static bool str_is(const ew_gguf *g, const char *key, const char *want)
{
    char got[64];
    return ew_gguf_get_str_copy(g, key, got, sizeof(got)) && strcmp(got, want) == 0;
}

ew_status ew_adapter_load_gguf(const char *path, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    EW_AUTO(ew_gguf) g = NULL;
    EW_TRY(ew_gguf_open(path, &g, reterr));
    if (!str_is(g, "general.type", "adapter") || !str_is(g, "adapter.type", "lora")) {
        return ew_fail(reterr, EW_EINVAL, "%s is not a LoRA adapter (general.type, adapter.type)", path);
    }
    if (!str_is(g, "general.architecture", ew_model_config_of(m)->arch)) {
        return ew_fail(reterr, EW_ECONFLICT, "%s was made for another architecture than '%s'", path,
                       ew_model_config_of(m)->arch);
    }
    ew_adapter_opt opt = {0};
    if (!ew_gguf_get_f32(g, "adapter.lora.alpha", &opt.alpha) || !(opt.alpha > 0) || !isfinite(opt.alpha)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: adapter.lora.alpha is missing or not above 0", path);
    }
    char sha[65] = "";
    (void)ew_gguf_get_str_copy(g, META_BASE, sha, sizeof(sha));
    load_ctx s = {.path = path, .gguf = g, .order = ew_model_gguf_rope(ew_model_config_of(m))};
    ew_status status = load_tensors(&s, m, &opt, reterr);
    if (status == EW_OK) {
        status = ew__adapter_check_base(s.l, path, sha, reterr);
    }
    if (status != EW_OK) {
        ew_adapter_free(&s.l);
        return status;
    }
    *ret_adapter = s.l;
    return EW_OK;
}

ew_status ew_adapter_load(const char *path, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    return ew_dir_exists(path) ? ew_adapter_load_peft(path, m, ret_adapter, reterr)
                               : ew_adapter_load_gguf(path, m, ret_adapter, reterr);
}

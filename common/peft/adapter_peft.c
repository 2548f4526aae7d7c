/* PEFT directories: adapter_config.json and adapter_model.safetensors with Hugging Face names, as peft 0.21 writes and reads them
 * (peft/utils/save_and_load.py, tuners/{lora,ia3,prompt_tuning,prefix_tuning}). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"
#include "sys/file.h"
#include "text/json.h"

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define PROMPT "prompt_embeddings"
#define NAME_MAX_BYTES 160

/* ---- target_modules ---- */

/* The shortest end of the module's name, at dots, that is no end of another module's of that layer. */
static const char *target_name(const ew_model_config *cfg, const ew_module *mod, uint32_t layer)
{
    const char *best = mod->name + strlen(mod->name);
    while (best > mod->name) {
        do {
            best--;
        } while (best > mod->name && best[-1] != '.');
        bool unique = true;
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module other;
            char end[NAME_MAX_BYTES];
            (void)snprintf(end, sizeof(end), ".%s", best);
            unique = unique && (l == mod->first || !ew_linear_hf_matrix(cfg, (ew_linear)l, layer, &other) ||
                                other.first != l || !ew_str_ends(other.name, end));
        }
        if (unique) {
            return best;
        }
    }
    return best;
}

static void add_once(json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (strcmp(json_string_value(json_array_get(list, i)), name) == 0) {
            return;
        }
    }
    (void)json_array_append_new(list, json_string(name));
}

/* ---- writing the configuration ---- */

static void put_lora(const ew_adapter *a, json_t *j, json_t *targets)
{
    EW_AUTO_JSON ranks = json_object();
    EW_AUTO_JSON alphas = json_object();
    bool conv1d = false;
    for (uint32_t il = 0; il < a->cfg.L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module mod;
            if (!ew_linear_hf_matrix(&a->cfg, (ew_linear)l, il, &mod) || mod.first != l ||
                !ew__module_targeted(a, &mod)) {
                continue;
            }
            const char *name = target_name(&a->cfg, &mod, il);
            conv1d = conv1d || mod.conv1d;
            add_once(targets, name);
            if (mod.n > 1) { /* pairs side by side, at the scale of one */
                const double more = a->opt.rslora ? sqrt((double)mod.n) : (double)mod.n;
                (void)json_object_set_new(ranks, name, json_integer(ew__lora_file_rank(a, &mod, false)));
                (void)json_object_set_new(alphas, name, json_real((double)a->opt.alpha * more));
            }
        }
    }
    (void)json_object_set_new(j, "r", json_integer(a->opt.rank));
    (void)json_object_set_new(j, "lora_alpha", json_real((double)a->opt.alpha));
    (void)json_object_set_new(j, "lora_dropout", json_real((double)a->opt.dropout));
    (void)json_object_set(j, "target_modules", targets);
    (void)json_object_set_new(j, "bias", json_string("none"));
    (void)json_object_set_new(j, "fan_in_fan_out", json_boolean(conv1d));
    (void)json_object_set_new(j, "use_rslora", json_boolean(a->opt.rslora));
    (void)json_object_set_new(j, "use_dora", json_boolean(a->opt.dora));
    (void)json_object_set_new(j, "init_lora_weights", json_true());
    (void)json_object_set_new(j, "modules_to_save", json_null());
    (void)json_object_set(j, "rank_pattern", ranks);
    (void)json_object_set(j, "alpha_pattern", alphas);
}

static void put_ia3(const ew_adapter *a, json_t *j, json_t *targets)
{
    EW_AUTO_JSON feed = json_array();
    bool conv1d = false;
    for (uint32_t il = 0; il < a->cfg.L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module mod;
            if (ew_linear_hf_matrix(&a->cfg, (ew_linear)l, il, &mod) && mod.first == l &&
                ew__module_targeted(a, &mod)) {
                add_once(targets, target_name(&a->cfg, &mod, il));
                conv1d = conv1d || mod.conv1d;
                if (l == EW_LINEAR_DOWN) {
                    add_once(feed, target_name(&a->cfg, &mod, il));
                }
            }
        }
    }
    (void)json_object_set(j, "target_modules", targets);
    (void)json_object_set(j, "feedforward_modules", feed);
    (void)json_object_set_new(j, "fan_in_fan_out", json_boolean(conv1d));
    (void)json_object_set_new(j, "init_ia3_weights", json_true());
    (void)json_object_set_new(j, "modules_to_save", json_null());
}

static void put_virtual(const ew_adapter *a, json_t *j)
{
    const bool prefix = a->opt.kind == EW_ADAPTER_PREFIX;
    const uint32_t heads = prefix ? a->cfg.K : a->cfg.H, dim = prefix ? a->cfg.K * a->cfg.D : a->cfg.C;
    (void)json_object_set_new(j, "num_virtual_tokens", json_integer(a->opt.n_virtual));
    (void)json_object_set_new(j, "token_dim", json_integer(dim));
    (void)json_object_set_new(j, "num_transformer_submodules", json_integer(1));
    (void)json_object_set_new(j, "num_attention_heads", json_integer(heads));
    (void)json_object_set_new(j, "num_layers", json_integer(a->cfg.L));
    if (prefix) {
        (void)json_object_set_new(j, "encoder_hidden_size", json_integer(dim));
        (void)json_object_set_new(j, "prefix_projection", json_false());
    } else {
        (void)json_object_set_new(j, "prompt_tuning_init", json_string("RANDOM"));
    }
}

static const char *const peft_types[] = {[EW_ADAPTER_LORA] = "LORA",
                                         [EW_ADAPTER_PROMPT] = "PROMPT_TUNING",
                                         [EW_ADAPTER_PREFIX] = "PREFIX_TUNING",
                                         [EW_ADAPTER_IA3] = "IA3"};

static ew_status config_json(const ew_adapter *a, const ew_model *m, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_JSON targets = json_array();
    EW_AUTO_JSON j = json_object();
    (void)json_object_set_new(j, "peft_type", json_string(peft_types[a->opt.kind]));
    (void)json_object_set_new(j, "auto_mapping", json_null());
    (void)json_object_set_new(j, "base_model_name_or_path", json_string(ew_path_base(ew_model_path(m))));
    (void)json_object_set_new(j, "task_type", a->cfg.encoder ? json_null() : json_string("CAUSAL_LM"));
    (void)json_object_set_new(j, "inference_mode", json_true());
    if (a->opt.kind == EW_ADAPTER_LORA) {
        put_lora(a, j, targets);
    } else if (a->opt.kind == EW_ADAPTER_IA3) {
        put_ia3(a, j, targets);
    } else {
        put_virtual(a, j);
    }
    if (j == NULL || targets == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for " CONFIG);
    }
    return ew_json_dump(j, EW_JSON_PRETTY, out, reterr);
}

/* ---- writing tensors ---- */

/* PEFT's rows come behind the embedding's scale, which transformers applies in the embedding itself. */
static float prompt_scale(const ew_model_config *cfg)
{
    return cfg->embed_scale != 0 ? cfg->embed_scale : 1;
}

/* prompt_embeddings of one virtual position: a prompt's row, or keys and values of layer 0, of layer 1, … */
static void virtual_row(const ew_adapter *a, uint32_t pos, float *row)
{
    const size_t C = a->cfg.C, cols = (size_t)a->cfg.K * a->cfg.D;
    if (a->opt.kind == EW_ADAPTER_PROMPT) {
        for (size_t i = 0; i < C; i++) {
            row[i] = a->hooks.prompt[pos * C + i] * prompt_scale(&a->cfg);
        }
        return;
    }
    for (uint32_t il = 0; il < a->cfg.L; il++) {
        const size_t at = ((size_t)il * a->opt.n_virtual + pos) * cols;
        ew__reorder_key(&a->cfg, EW_ROPE_NEOX, true, a->hooks.prefix_k + at, row + (size_t)2 * il * cols);
        memcpy(row + ((size_t)2 * il + 1) * cols, a->hooks.prefix_v + at, cols * sizeof(float));
    }
}

static ew_status save_virtual(const ew_adapter *a, ew_safetensors_writer *w, ew_error *reterr)
{
    const bool prefix = a->opt.kind == EW_ADAPTER_PREFIX;
    const uint64_t dims[2] = {prefix ? (uint64_t)a->cfg.L * 2 * a->cfg.K * a->cfg.D : a->cfg.C, a->opt.n_virtual};
    EW_TRY(ew_safetensors_add_tensor(w, PROMPT, EW_DTYPE_F32, 2, dims, reterr));
    EW_TRY(ew_safetensors_writer_begin(w, reterr));
    float *row = ew_malloc((size_t)dims[0], sizeof(float));
    ew_status st = row != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory to write an adapter");
    for (uint32_t p = 0; st == EW_OK && p < a->opt.n_virtual; p++) {
        virtual_row(a, p, row);
        st = ew_safetensors_write(w, row, (size_t)dims[0] * sizeof(float), reterr);
    }
    ew_free(row);
    return st;
}

/* row NULL: declares. */
static ew_status save_scales(const ew_adapter *a, ew_safetensors_writer *w, float *row, ew_error *reterr)
{
    for (uint32_t il = 0; il < a->cfg.L; il++) {
        for (uint32_t l = 0; l < EW_LINEAR_COUNT; l++) {
            ew_module mod;
            char name[NAME_MAX_BYTES];
            if (!ew_linear_hf_matrix(&a->cfg, (ew_linear)l, il, &mod) || mod.first != l ||
                !ew__module_targeted(a, &mod)) {
                continue;
            }
            const bool down = l == EW_LINEAR_DOWN;
            const uint64_t n = down ? a->cfg.F : ew_module_rows(&a->cfg, &mod);
            const uint64_t dims[2] = {down ? n : 1, down ? 1 : n}; /* torch: [1, C_in] or [F_out, 1] */
            (void)snprintf(name, sizeof(name), "base_model.model.%s.ia3_l", mod.name);
            if (row == NULL) {
                EW_TRY(ew_safetensors_add_tensor(w, name, EW_DTYPE_F32, 2, dims, reterr));
                continue;
            }
            if (down) {
                memcpy(row, ew__adapter_part(a, EW_PART_SCALE, il, l), (size_t)n * sizeof(float));
            } else {
                ew__pack_rows(a, EW_PART_SCALE, &mod, il, EW_ROPE_NEOX, 1, row);
            }
            EW_TRY(ew_safetensors_write(w, row, (size_t)n * sizeof(float), reterr));
        }
    }
    return EW_OK;
}

/* Room for the scales of any module. */
static float *new_row(const ew_model_config *cfg)
{
    return ew_malloc(((size_t)cfg->H + 2 * (size_t)cfg->K) * cfg->D + 2 * (size_t)cfg->F + cfg->C, sizeof(float));
}

static ew_status save_ia3(const ew_adapter *a, ew_safetensors_writer *w, ew_error *reterr)
{
    EW_TRY(save_scales(a, w, NULL, reterr));
    EW_TRY(ew_safetensors_writer_begin(w, reterr));
    float *row = new_row(&a->cfg);
    ew_status st =
        row != NULL ? save_scales(a, w, row, reterr) : ew_fail(reterr, EW_ENOMEM, "no memory to write an adapter");
    ew_free(row);
    return st;
}

static ew_status check_savable(const ew_adapter *a, ew_error *reterr)
{
    if (a->opt.kind == EW_ADAPTER_BOTTLENECK || a->opt.kind == EW_ADAPTER_FULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "PEFT has no adapter like '%s'. HINT: write a GGUF adapter%s",
                       ew_adapter_kind_name(&a->opt),
                       a->opt.kind == EW_ADAPTER_FULL ? ", or merge it into a model" : "");
    }
    if (a->opt.n_exits > 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "PEFT has no early exits. HINT: write a GGUF adapter");
    }
    return EW_OK;
}

ew_status ew_adapter_save_peft(const ew_adapter *a, const ew_model *m, const char *dir, ew_error *reterr)
{
    char path[EW_PATH_MAX], rank[16];
    EW_AUTO(ew_safetensors_writer) w = NULL;
    EW_AUTO_BUF json = {0};
    EW_TRY(check_savable(a, reterr));
    EW_TRY(ew_dir_make(dir, 0755, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, WEIGHTS, reterr));
    EW_TRY(ew_safetensors_writer_new(path, &w, reterr));
    EW_TRY(ew_safetensors_add_metadata(w, "format", "pt", reterr));
    EW_TRY(ew_safetensors_add_metadata(w, EW_ADAPTER_META_BASE, a->base_sha256, reterr));
    if (a->opt.kind == EW_ADAPTER_LORA) {
        (void)snprintf(rank, sizeof(rank), "%u", a->opt.rank);
        EW_TRY(ew_safetensors_add_metadata(w, EW_ADAPTER_META_RANK, rank, reterr));
        EW_TRY(ew__lora_save(a, w, NULL, reterr));
    } else {
        EW_TRY(a->opt.kind == EW_ADAPTER_IA3 ? save_ia3(a, w, reterr) : save_virtual(a, w, reterr));
    }
    EW_TRY(ew_safetensors_writer_commit(w, reterr));
    EW_TRY(config_json(a, m, &json, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, CONFIG, reterr));
    return ew_file_replace(path, json.data, json.size, 0644, reterr);
}

/* ---- reading the configuration ---- */

/* What the file may say beside what is read below without changing the function: where it came from, how it was started, which modules were
 * chosen (the tensors tell). */
static const char *const harmless[] = {"peft_type",
                                       "auto_mapping",
                                       "peft_version",
                                       "base_model_name_or_path",
                                       "revision",
                                       "task_type",
                                       "inference_mode",
                                       "target_modules",
                                       "exclude_modules",
                                       "layers_pattern",
                                       "layers_to_transform",
                                       "megatron_core",
                                       "loftq_config",
                                       "eva_config",
                                       "qalora_group_size",
                                       "ensure_weight_tying",
                                       "init_ia3_weights",
                                       "feedforward_modules",
                                       "prompt_tuning_init",
                                       "prompt_tuning_init_text",
                                       "tokenizer_name_or_path",
                                       "tokenizer_kwargs",
                                       "encoder_hidden_size",
                                       "init_weights",
                                       "prefix_projection", /* the file has what comes out of it */
                                       "runtime_config",
                                       "r",
                                       "lora_alpha",
                                       "lora_dropout",
                                       "use_rslora",
                                       "use_dora",
                                       "rank_pattern",
                                       "alpha_pattern",
                                       "bias",
                                       "modules_to_save",
                                       "fan_in_fan_out",
                                       "init_lora_weights",
                                       "num_virtual_tokens",
                                       "token_dim",
                                       "num_attention_heads",
                                       "num_layers",
                                       "num_transformer_submodules"};

static bool is_nothing(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) || (json_is_number(v) && !(json_number_value(v) != 0)) ||
           (json_is_string(v) && json_string_length(v) == 0) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

/* Everything that is set has to be known: it may change the function. */
static ew_status refuse_foreign(json_t *j, const char *where, const ew_model_config *cfg, ew_error *reterr)
{
    const char *key;
    json_t *value;
    json_object_foreach(j, key, value)
    {
        bool known = is_nothing(value);
        for (size_t i = 0; !known && i < EW_COUNT(harmless); i++) {
            known = strcmp(key, harmless[i]) == 0;
        }
        if (!known) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s: '%.60s' is not supported", where, key);
        }
    }
    const char *bias = "none";
    EW_TRY(ew_json_opt_str(j, where, "bias", &bias, reterr));
    if (strcmp(bias, "none") != 0 || json_array_size(json_object_get(j, "modules_to_save")) > 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: trained biases or whole modules ('bias', 'modules_to_save') are not supported", where);
    }
    ew_module mod;
    const bool conv1d = ew_linear_hf_matrix(cfg, EW_LINEAR_O, 0, &mod) && mod.conv1d;
    if (json_is_true(json_object_get(j, "fan_in_fan_out")) && !conv1d) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: 'fan_in_fan_out' is not supported for '%s'", where, cfg->arch);
    }
    static const char *const changed[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    const char *init = json_string_value(json_object_get(j, "init_lora_weights"));
    for (size_t i = 0; init != NULL && i < EW_COUNT(changed); i++) {
        if (strncmp(init, changed[i], strlen(changed[i])) == 0) {
            return ew_fail(reterr, EW_EUNSUPPORTED,
                           "%s: 'init_lora_weights' is '%.20s', which changes the base. HINT: save it with peft's "
                           "path_initial_model_for_weight_conversion",
                           where, init);
        }
    }
    return EW_OK;
}

static ew_status read_lora_opt(const json_t *j, const char *path, ew_adapter_opt *o, ew_error *reterr)
{
    int64_t rank = 0;
    double alpha = 0, dropout = 0;
    EW_TRY(ew_json_get_i64(j, path, "r", 1, EW_ADAPTER_FILE_RANK_MAX, &rank, reterr));
    EW_TRY(ew_json_get_f64(j, path, "lora_alpha", &alpha, reterr));
    EW_TRY(ew_json_opt_f64(j, path, "lora_dropout", &dropout, reterr));
    EW_TRY(ew_json_opt_bool(j, path, "use_rslora", &o->rslora, reterr));
    EW_TRY(ew_json_opt_bool(j, path, "use_dora", &o->dora, reterr));
    if (!(alpha > 0)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: lora_alpha should be above 0", path);
    }
    o->alpha = (float)alpha;
    o->dropout = dropout >= 0 && dropout < 1 ? (float)dropout : 0;
    return EW_OK;
}

static ew_status read_config(json_t *j, const char *path, const ew_model *m, ew_adapter_opt *o, ew_error *reterr)
{
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s is not a JSON object", path);
    }
    const char *type = NULL;
    EW_TRY(ew_json_get_str(j, path, "peft_type", &type, reterr));
    for (unsigned k = EW_ADAPTER_LORA; k < EW_COUNT(peft_types); k++) {
        o->kind = strcmp(type, peft_types[k]) == 0 ? (ew_adapter_kind)k : o->kind;
    }
    if (o->kind == 0) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: peft_type '%.40s' is not supported; LORA, IA3, PROMPT_TUNING and PREFIX_TUNING are", path,
                       type);
    }
    EW_TRY(refuse_foreign(j, path, ew_model_config_of(m), reterr));
    return o->kind == EW_ADAPTER_LORA ? read_lora_opt(j, path, o, reterr) : EW_OK;
}

/* ---- reading tensors ---- */

/* The value of a pattern for a module: the first key that is its name or an end of it. Keys are regular expressions in PEFT; names are
 * what people write, and all that is read here. */
static ew_status pattern_value(const json_t *config, const char *where, const char *pattern, const char *module,
                               double *io, ew_error *reterr)
{
    const char *key;
    json_t *value;
    json_t *map = json_object_get(config, pattern);
    if (map == NULL || !json_is_object(map)) {
        return EW_OK;
    }
    json_object_foreach(map, key, value)
    {
        const char *end = key + (key[0] == '^');
        char dotted[NAME_MAX_BYTES];
        if (strspn(end, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != strlen(end) ||
            !json_is_number(value) || !(json_number_value(value) > 0)) {
            return ew_fail(reterr, EW_EUNSUPPORTED, "%s: '%s' has '%.60s', names with numbers above 0 are supported",
                           where, pattern, key);
        }
        (void)snprintf(dotted, sizeof(dotted), ".%s", end);
        if (strcmp(module, end) == 0 || (end == key && ew_str_ends(module, dotted))) {
            *io = json_number_value(value);
            return EW_OK;
        }
    }
    return EW_OK;
}

typedef struct scale_ctx {
    const json_t *config;
    const ew_adapter_opt *opt;
    const char *where;
} scale_ctx;

static ew_status peft_scale(const ew_lora_source *s, const ew_module *mod, uint32_t rank, float *ret, ew_error *reterr)
{
    const scale_ctx *c = s->ctx;
    double alpha = (double)c->opt->alpha, r = json_number_value(json_object_get(c->config, "r"));
    EW_TRY(pattern_value(c->config, c->where, "rank_pattern", mod->name, &r, reterr));
    EW_TRY(pattern_value(c->config, c->where, "alpha_pattern", mod->name, &alpha, reterr));
    if (r != (double)rank) {
        return ew_fail(reterr, EW_ECONFLICT, "%s: %s should have rank %g and has %u", c->where, mod->name, r, rank);
    }
    *ret = (float)(alpha / (c->opt->rslora ? sqrt((double)rank) : (double)rank));
    return EW_OK;
}

static ew_status load_lora(const ew_safetensors *st, const char *path, const json_t *config, const ew_model *m,
                           ew_adapter_opt *opt, ew_adapter **ret, ew_error *reterr)
{
    const char *own = ew_safetensors_metadata(st, EW_ADAPTER_META_RANK);
    unsigned rank = 0;
    const ew_adapter_opt read = *opt;
    const scale_ctx ctx = {config, &read, path};
    if (own != NULL && (sscanf(own, "%u", &rank) != 1 || rank > EW_ADAPTER_RANK_MAX)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: the metadata '%s' is '%.20s'", path, EW_ADAPTER_META_RANK, own);
    }
    const ew_lora_source s = {
        .path = path, .st = st, .order = EW_ROPE_NEOX, .own_rank = rank, .scale = peft_scale, .ctx = &ctx};
    return ew__lora_load(&s, m, opt, ret, reterr);
}

static ew_status foreign_tensors(const char *path, const ew_safetensors *st, const char *kind, size_t used,
                                 ew_error *reterr)
{
    const size_t n = ew_safetensors_n_tensors(st);
    return ew_fail(reterr, EW_ECONFLICT,
                   "%s has %zu tensors of which %zu are a %s adapter of this model (the first is '%.80s')", path, n,
                   used, kind, n > 0 ? ew_safetensors_tensor(st, 0)->name : "none");
}

/* Rows of floats of a tensor [dim0, dim1]. */
static bool fits(const ew_tensor_view *t, uint64_t dim0, uint64_t dim1)
{
    const ew_dtype_info *info = ew_dtype_get(t->dtype);
    return t->n_dims == 2 && t->dims[0] == dim0 && t->dims[1] == dim1 && info != NULL && info->compute &&
           info->block_elems == 1;
}

static ew_status load_virtual(const ew_safetensors *st, const char *path, const json_t *config, const ew_model *m,
                              ew_adapter_opt *opt, ew_adapter **ret, ew_error *reterr)
{
    const ew_model_config *c = ew_model_config_of(m);
    const bool prefix = opt->kind == EW_ADAPTER_PREFIX;
    const uint64_t dim = prefix ? (uint64_t)c->L * 2 * c->K * c->D : c->C;
    const ew_tensor_view *t = ew_safetensors_find(st, PROMPT);
    int64_t P = 0;
    EW_TRY(ew_json_get_i64(config, path, "num_virtual_tokens", 1, EW_ADAPTER_VIRTUAL_MAX, &P, reterr));
    if (t == NULL || ew_safetensors_n_tensors(st) != 1 || !fits(t, dim, (uint64_t)P)) {
        char got[96] = "missing";
        return ew_fail(reterr, EW_ECONFLICT,
                       "%s: " PROMPT " is %s, this model and %lld virtual tokens need [%llu, %lld] alone", path,
                       t != NULL ? ew_tensor_describe(t, got, sizeof(got)) : got, (long long)P, (unsigned long long)dim,
                       (long long)P);
    }
    opt->n_virtual = (uint32_t)P;
    EW_TRY(ew_adapter_opt_resolve(opt, opt, reterr));
    EW_TRY(ew__adapter_alloc(m, opt, ret, reterr));
    float *row = ew_malloc((size_t)dim, sizeof(float));
    if (row == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to read an adapter");
    }
    ew_adapter *a = *ret;
    for (size_t p = 0; p < opt->n_virtual; p++) {
        const size_t cols = (size_t)c->K * c->D;
        ew_dequant_row(t->dtype, (const char *)t->data + p * (t->bytes / opt->n_virtual), row, (size_t)dim);
        for (size_t i = 0; !prefix && i < c->C; i++) {
            a->params[p * c->C + i] = row[i] / prompt_scale(c);
        }
        for (uint32_t il = 0; prefix && il < c->L; il++) {
            float *k = ew__adapter_part(a, EW_PART_PREFIX_K, il, 0), *v = ew__adapter_part(a, EW_PART_PREFIX_V, il, 0);
            ew__reorder_key(c, EW_ROPE_NEOX, false, row + (size_t)2 * il * cols, k + p * cols);
            memcpy(v + p * cols, row + ((size_t)2 * il + 1) * cols, cols * sizeof(float));
        }
    }
    ew_free(row);
    return EW_OK;
}

static const ew_tensor_view *find_scale(const ew_safetensors *st, const ew_model_config *c, uint32_t il, uint32_t l,
                                        ew_module *mod)
{
    char name[NAME_MAX_BYTES];
    if (!ew_linear_hf_matrix(c, (ew_linear)l, il, mod) || mod->first != l) {
        return NULL;
    }
    (void)snprintf(name, sizeof(name), "base_model.model.%s.ia3_l", mod->name);
    return ew_safetensors_find(st, name);
}

/* a NULL: targets; else values. */
static ew_status walk_scales(const ew_safetensors *st, const char *path, const ew_model_config *c, ew_adapter *a,
                             ew_adapter_opt *opt, float *row, size_t *ret_used, ew_error *reterr)
{
    *ret_used = 0;
    for (uint32_t i = 0; i < c->L * EW_LINEAR_COUNT; i++) {
        const uint32_t il = i / EW_LINEAR_COUNT, l = i % EW_LINEAR_COUNT;
        ew_module mod;
        const ew_tensor_view *t = find_scale(st, c, il, l, &mod);
        if (t == NULL) {
            continue;
        }
        const bool down = l == EW_LINEAR_DOWN;
        const uint32_t n = down ? c->F : ew_module_rows(c, &mod);
        if (!fits(t, down ? n : 1, down ? 1 : n)) {
            char got[96];
            return ew_fail(
                reterr, EW_EUNSUPPORTED,
                "%s: %s is %s; scales are supported on what the last matrix of the feed-forward takes and on "
                "what all others give ('feedforward_modules')",
                path, t->name, ew_tensor_describe(t, got, sizeof(got)));
        }
        ++*ret_used;
        if (a == NULL) {
            opt->targets |= ((1u << mod.n) - 1) << l;
            continue;
        }
        ew_dequant_row(t->dtype, t->data, row, n);
        if (down) {
            memcpy(ew__adapter_part(a, EW_PART_SCALE, il, l), row, n * sizeof(float));
        } else {
            ew__unpack_rows(a, EW_PART_SCALE, &mod, il, EW_ROPE_NEOX, row);
        }
    }
    return EW_OK;
}

static ew_status load_ia3(const ew_safetensors *st, const char *path, const ew_model *m, ew_adapter_opt *opt,
                          ew_adapter **ret, ew_error *reterr)
{
    const ew_model_config *c = ew_model_config_of(m);
    size_t used = 0;
    EW_TRY(walk_scales(st, path, c, NULL, opt, NULL, &used, reterr));
    if (used == 0 || used != ew_safetensors_n_tensors(st)) {
        return foreign_tensors(path, st, "IA3", used, reterr);
    }
    EW_TRY(ew_adapter_opt_resolve(opt, opt, reterr));
    EW_TRY(ew__adapter_alloc(m, opt, ret, reterr));
    for (size_t i = 0; i < (*ret)->n; i++) {
        (*ret)->params[i] = 1; /* layers that the file does not have */
    }
    float *row = new_row(c);
    ew_status status = row != NULL ? walk_scales(st, path, c, *ret, opt, row, &used, reterr)
                                   : ew_fail(reterr, EW_ENOMEM, "no memory to read an adapter");
    ew_free(row);
    return status;
}

ew_status ew__adapter_from_peft(json_t *config, const ew_safetensors *st, const char *path, const ew_model *m,
                                ew_adapter **ret, ew_error *reterr)
{
    EW_AUTO(ew_adapter) a = NULL;
    ew_adapter_opt opt = {0};
    EW_TRY(read_config(config, path, m, &opt, reterr));
    if (opt.kind == EW_ADAPTER_LORA) {
        EW_TRY(load_lora(st, path, config, m, &opt, &a, reterr));
    } else if (opt.kind == EW_ADAPTER_IA3) {
        EW_TRY(load_ia3(st, path, m, &opt, &a, reterr));
    } else {
        EW_TRY(load_virtual(st, path, config, m, &opt, &a, reterr));
    }
    EW_TRY(ew__adapter_check_base(a, path, ew_safetensors_metadata(st, EW_ADAPTER_META_BASE), reterr));
    *ret = a;
    a = NULL;
    return EW_OK;
}

ew_status ew_adapter_load_peft(const char *dir, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_safetensors) st = NULL;
    EW_AUTO_JSON config = NULL;
    EW_TRY(ew_path_join(path, sizeof(path), dir, CONFIG, reterr));
    EW_TRY(ew_json_load_file(path, 0, &config, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, WEIGHTS, reterr));
    EW_TRY(ew_safetensors_open(path, &st, reterr));
    return ew__adapter_from_peft(config, st, dir, m, ret_adapter, reterr);
}

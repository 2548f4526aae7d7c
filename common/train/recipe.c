/* The YAML of a pre-training recipe. */
#include "sys/yaml.h"
#include "train/pretrain.h"

typedef ew_pretrain_recipe R;
#define U32(key) CYAML_FIELD_UINT(#key, CYAML_FLAG_DEFAULT, R, key)
#define F32(key) CYAML_FIELD_FLOAT(#key, CYAML_FLAG_DEFAULT, R, key)

static const cyaml_schema_field_t fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, R, name, 1, 64),
    U32(vocab_size),
    U32(n_ctx),
    U32(dim),
    U32(ffn),
    U32(layers),
    U32(heads),
    U32(kv_heads),
    F32(rope_theta),
    F32(norm_eps),
    F32(lr),
    F32(min_lr),
    F32(warmup),
    F32(weight_decay),
    F32(clip),
    F32(beta1),
    F32(beta2),
    U32(shards),
    U32(shard_tok),
    F32(answer_weight),
    F32(prompt_weight),
    U32(text_percent),
    U32(section_percent),
    U32(synopsis_percent),
    CYAML_FIELD_UINT("depends_percent", CYAML_FLAG_OPTIONAL, R, depends_percent),
    CYAML_FIELD_UINT("size_percent", CYAML_FLAG_OPTIONAL, R, size_percent),
    U32(zero_shot_percent),
    U32(retrieved_max),
    U32(tokens),
    U32(seed),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, R, fields)};

#undef U32
#undef F32

static ew_status check(const char *path, const ew_pretrain_recipe *r, ew_error *reterr)
{
    const struct {
        const char *key;
        double value, min, max;
    } rules[] = {
        {"vocab_size", r->vocab_size, 258, 65536},
        {"n_ctx", r->n_ctx, 16, 8192},
        {"dim", r->dim, 8, 4096},
        {"ffn", r->ffn, 8, 16384},
        {"layers", r->layers, 1, 64},
        {"heads", r->heads, 1, 64},
        {"kv_heads", r->kv_heads, 1, r->heads},
        {"rope_theta", (double)r->rope_theta, 1, 1e9},
        {"norm_eps", (double)r->norm_eps, 1e-9, 1e-2},
        {"lr", (double)r->lr, 1e-9, 1},
        {"min_lr", (double)r->min_lr, 0, 1},
        {"warmup", (double)r->warmup, 0, 0.5},
        {"weight_decay", (double)r->weight_decay, 0, 1},
        {"clip", (double)r->clip, 1e-6, 1e6},
        {"beta1", (double)r->beta1, 0, 0.9999},
        {"beta2", (double)r->beta2, 0, 0.99999},
        {"shards", r->shards, 1, 64},
        {"shard_tok", r->shard_tok, r->n_ctx, 65536},
        {"answer_weight", (double)r->answer_weight, 0, 1000},
        {"prompt_weight", (double)r->prompt_weight, 0, 1000},
        {"text_percent", r->text_percent, 0, 1000},
        {"section_percent", r->section_percent, 0, 1000},
        {"synopsis_percent", r->synopsis_percent, 0, 1000},
        {"depends_percent", r->depends_percent, 0, 1000},
        {"size_percent", r->size_percent, 0, 1000},
        {"zero_shot_percent", r->zero_shot_percent, 0, 100},
        {"retrieved_max", r->retrieved_max, 0, 8},
    };
    for (size_t i = 0; i < EW_COUNT(rules); i++) {
        if (!(rules[i].value >= rules[i].min && rules[i].value <= rules[i].max)) {
            return ew_fail(reterr, EW_EINVAL, "%s: '%s' is %g, it should be between %g and %g", path, rules[i].key,
                           rules[i].value, rules[i].min, rules[i].max);
        }
    }
    if (r->dim % r->heads != 0 || (r->dim / r->heads) % 2 != 0 || r->heads % r->kv_heads != 0) {
        return ew_fail(reterr, EW_EINVAL,
                       "%s: dim %u must be an even multiple of heads %u, and heads a multiple of kv_heads %u", path,
                       r->dim, r->heads, r->kv_heads);
    }
    return EW_OK;
}

ew_status ew_pretrain_recipe_load(const char *path, ew_pretrain_recipe **ret_recipe, ew_error *reterr)
{
    EW_AUTO(ew_pretrain_recipe) r = NULL;
    EW_TRY(ew_yaml_load_file(path, &schema, (void **)&r, reterr));
    EW_TRY(check(path, r, reterr));
    *ret_recipe = r;
    r = NULL;
    return EW_OK;
}

void ew_pretrain_recipe_free(ew_pretrain_recipe **r)
{
    if (*r != NULL) {
        ew_yaml_free(&schema, (void **)r);
    }
    *r = NULL;
}

/* GGUF adapters: LoRA as llama.cpp reads it (src/llama-adapter.cpp), every kind in a form of our own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "kern/dtype.h"
#include "peft/adapter_int.h"
#include "sys/file.h"

#define NAME_MAX_BYTES 96
#define OWN "edgewise."

static bool is_stock(const ew_adapter_opt *o)
{
    return o->kind == EW_ADAPTER_LORA && !o->dora && o->n_exits == 0;
}

/* ---- options as keys ---- */

static void put_opt(const ew_adapter_opt *o, ew_gguf_writer *w)
{
    ew_gguf_add_u32(w, OWN "targets", o->targets);
    ew_gguf_add_u32(w, EW_ADAPTER_META_RANK, o->rank);
    ew_gguf_add_f32(w, OWN "alpha", o->alpha);
    ew_gguf_add_bool(w, OWN "rslora", o->rslora);
    ew_gguf_add_f32(w, OWN "dropout", o->dropout);
    ew_gguf_add_u32(w, OWN "n_virtual", o->n_virtual);
    ew_gguf_add_u32(w, OWN "width", o->width);
    ew_gguf_add_u32(w, OWN "act", (uint32_t)o->act);
    ew_gguf_add_u32(w, OWN "n_exits", o->n_exits);
    for (uint32_t i = 0; i < o->n_exits; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), OWN "exit.%u", i);
        ew_gguf_add_u32(w, key, o->exit[i]);
    }
}

/* o->kind and dora are set. */
static ew_status get_opt(const ew_gguf *g, const char *path, ew_adapter_opt *o, ew_error *reterr)
{
    uint32_t act = 0;
    const bool ok = ew_gguf_get_u32(g, OWN "targets", &o->targets) &&
                    ew_gguf_get_u32(g, EW_ADAPTER_META_RANK, &o->rank) && ew_gguf_get_f32(g, OWN "alpha", &o->alpha) &&
                    ew_gguf_get_bool(g, OWN "rslora", &o->rslora) && ew_gguf_get_f32(g, OWN "dropout", &o->dropout) &&
                    ew_gguf_get_u32(g, OWN "n_virtual", &o->n_virtual) && ew_gguf_get_u32(g, OWN "width", &o->width) &&
                    ew_gguf_get_u32(g, OWN "act", &act) && ew_gguf_get_u32(g, OWN "n_exits", &o->n_exits) &&
                    o->n_exits <= EW_ADAPTER_EXITS_MAX && act <= EW_ACT_RELU;
    o->act = (ew_act)act;
    for (uint32_t i = 0; ok && i < o->n_exits; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), OWN "exit.%u", i);
        (void)ew_gguf_get_u32(g, key, &o->exit[i]);
    }
    return ok ? EW_OK : ew_fail(reterr, EW_ECORRUPT, "%s lacks the options of its adapter (" OWN "…)", path);
}

/* ---- our own form: the parts by name, in the base's own order of rows ---- */

static const char *part_name(const ew_part *p, char dst[static NAME_MAX_BYTES])
{
    static const char *const of_linear[] = {
        [EW_PART_A] = "lora_a", [EW_PART_B] = "lora_b", [EW_PART_MAGNITUDE] = "magnitude", [EW_PART_SCALE] = "ia3"};
    static const char *const of_side[] = {[EW_PART_DOWN] = "down.weight",
                                          [EW_PART_DOWN_B] = "down.bias",
                                          [EW_PART_UP] = "up.weight",
                                          [EW_PART_UP_B] = "up.bias"};
    if (p->what <= EW_PART_SCALE) {
        (void)snprintf(dst, NAME_MAX_BYTES, "blk.%u.%s.weight.%s", p->layer, ew_linear_gguf_name((ew_linear)p->index),
                       of_linear[p->what]);
    } else if (p->what <= EW_PART_UP_B) {
        (void)snprintf(dst, NAME_MAX_BYTES, "blk.%u.%s_adapter.%s", p->layer, p->index == 0 ? "attn" : "ffn",
                       of_side[p->what]);
    } else if (p->what == EW_PART_PROMPT) {
        (void)snprintf(dst, NAME_MAX_BYTES, "prompt.weight");
    } else if (p->what <= EW_PART_PREFIX_V) {
        (void)snprintf(dst, NAME_MAX_BYTES, "blk.%u.prefix_%c.weight", p->layer,
                       p->what == EW_PART_PREFIX_K ? 'k' : 'v');
    } else {
        (void)snprintf(dst, NAME_MAX_BYTES, "exit.%u.norm.%s", p->layer,
                       p->what == EW_PART_EXIT_NORM ? "weight" : "bias");
    }
    return dst;
}

static uint32_t part_dims(const ew_part *p, uint64_t dims[static 2])
{
    dims[0] = p->cols;
    dims[1] = p->rows;
    return p->rows > 1 ? 2 : 1;
}

static ew_status save_own(const ew_adapter *a, ew_gguf_writer *w, ew_error *reterr)
{
    char name[NAME_MAX_BYTES];
    uint64_t dims[2];
    for (size_t i = 0; i < a->n_parts; i++) {
        const uint32_t n_dims = part_dims(&a->part[i], dims);
        EW_TRY(ew_gguf_add_tensor(w, part_name(&a->part[i], name), EW_DTYPE_F32, n_dims, dims, reterr));
    }
    if (a->opt.kind == EW_ADAPTER_FULL) {
        dims[0] = a->n;
        EW_TRY(ew_gguf_add_tensor(w, "full.weight", EW_DTYPE_F32, 1, dims, reterr));
    }
    EW_TRY(ew_gguf_writer_begin(w, reterr));
    for (size_t i = 0; i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        EW_TRY(ew_gguf_write(w, a->params + p->at, (size_t)p->rows * p->cols * sizeof(float), reterr));
    }
    return a->opt.kind == EW_ADAPTER_FULL ? ew_gguf_write(w, a->params, a->n * sizeof(float), reterr) : EW_OK;
}

static ew_status read_own(const ew_gguf *g, const char *path, const char *name, uint64_t dim0, uint64_t dim1,
                          float *dst, ew_error *reterr)
{
    const ew_tensor_view *t = ew_gguf_find(g, name);
    if (t == NULL || t->dtype != EW_DTYPE_F32 || t->dims[0] != dim0 || (t->n_dims > 1 ? t->dims[1] : 1) != dim1 ||
        t->n_dims > 2 || t->bytes != dim0 * dim1 * sizeof(float)) {
        char got[96] = "missing";
        return ew_fail(reterr, EW_ECONFLICT, "%s: tensor %s is %s, this model needs [%llu, %llu]", path, name,
                       t != NULL ? ew_tensor_describe(t, got, sizeof(got)) : got, (unsigned long long)dim0,
                       (unsigned long long)dim1);
    }
    ew_dequant_row(EW_DTYPE_F32, t->data, dst, (size_t)(dim0 * dim1));
    return EW_OK;
}

static ew_status load_own(const ew_gguf *g, const char *path, const ew_model *m, ew_adapter_opt *o, ew_adapter **ret,
                          ew_error *reterr)
{
    char name[NAME_MAX_BYTES];
    EW_TRY(get_opt(g, path, o, reterr));
    EW_TRY(ew_adapter_opt_resolve(o, o, reterr));
    EW_TRY(ew__adapter_alloc(m, o, ret, reterr));
    ew_adapter *a = *ret;
    const size_t want = o->kind == EW_ADAPTER_FULL ? 1 : a->n_parts;
    if (ew_gguf_n_tensors(g) != want) {
        return ew_fail(reterr, EW_ECONFLICT, "%s has %zu tensors, a %s adapter of this model has %zu", path,
                       ew_gguf_n_tensors(g), ew_adapter_kind_name(o), want);
    }
    for (size_t i = 0; i < a->n_parts; i++) {
        const ew_part *p = &a->part[i];
        EW_TRY(read_own(g, path, part_name(p, name), p->cols, p->rows, a->params + p->at, reterr));
    }
    if (o->kind == EW_ADAPTER_FULL) {
        EW_TRY(read_own(g, path, "full.weight", a->n, 1, a->params, reterr));
    }
    ew__adapter_loaded(a, m);
    return EW_OK;
}

/* ---- both ---- */

ew_status ew_adapter_save_gguf(const ew_adapter *a, const ew_model *m, const char *path, ew_error *reterr)
{
    EW_AUTO(ew_gguf_writer) w = NULL;
    char type[32];
    EW_TRY(ew_gguf_writer_new(path, &w, reterr));
    ew_gguf_add_str(w, "general.architecture", a->cfg.arch);
    ew_gguf_add_str(w, "general.type", "adapter");
    ew_gguf_add_str(w, "general.base_model.0.name", ew_model_config_of(m)->name);
    (void)snprintf(type, sizeof(type), OWN "%s", ew_adapter_kind_name(&a->opt));
    ew_gguf_add_str(w, "adapter.type", is_stock(&a->opt) ? "lora" : type);
    if (a->opt.kind == EW_ADAPTER_LORA) { /* readers compute alpha / rank */
        ew_gguf_add_f32(w, "adapter.lora.alpha", a->scale * (float)a->opt.rank);
    }
    put_opt(&a->opt, w);
    ew_gguf_add_str(w, EW_ADAPTER_META_BASE, a->base_sha256);
    EW_TRY(is_stock(&a->opt) ? ew__lora_save(a, NULL, w, reterr) : save_own(a, w, reterr));
    return ew_gguf_writer_commit(w, reterr);
}

static ew_status gguf_scale(const ew_lora_source *s, const ew_module *mod, uint32_t rank, float *ret, ew_error *reterr)
{
    (void)mod;
    (void)reterr;
    const float *alpha = s->ctx;
    *ret = *alpha / (float)rank;
    return EW_OK;
}

static ew_status load_stock(const ew_gguf *g, const char *path, const ew_model *m, ew_adapter **ret, ew_error *reterr)
{
    float alpha = 0;
    ew_adapter_opt o = {.kind = EW_ADAPTER_LORA}, ours = o;
    if (!ew_gguf_get_f32(g, "adapter.lora.alpha", &alpha) || !(alpha > 0) || !isfinite(alpha)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: adapter.lora.alpha is missing or not above 0", path);
    }
    const bool own = get_opt(g, path, &ours, NULL) == EW_OK && ew_adapter_opt_resolve(&ours, &ours, NULL) == EW_OK;
    o.alpha = own ? ours.alpha : alpha;
    o.rslora = own && ours.rslora;
    o.dropout = own ? ours.dropout : 0;
    const ew_lora_source s = {.path = path,
                              .gguf = g,
                              .order = ew_model_gguf_rope(ew_model_config_of(m)),
                              .own_rank = own ? ours.rank : 0,
                              .scale = gguf_scale,
                              .ctx = &alpha};
    return ew__lora_load(&s, m, &o, ret, reterr);
}

ew_status ew__adapter_from_gguf(const ew_gguf *g, const char *path, const ew_model *m, ew_adapter **ret,
                                ew_error *reterr)
{
    EW_AUTO(ew_adapter) a = NULL;
    char type[64] = "", general[16] = "", arch[32] = "", sha[65] = "";
    (void)ew_gguf_get_str_copy(g, "general.type", general, sizeof(general));
    (void)ew_gguf_get_str_copy(g, "adapter.type", type, sizeof(type));
    ew_adapter_opt opt = {0};
    const bool stock = strcmp(type, "lora") == 0;
    const bool own = strncmp(type, OWN, strlen(OWN)) == 0 && ew_adapter_kind_parse(type + strlen(OWN), &opt);
    if (strcmp(general, "adapter") != 0 || (!stock && !own)) {
        return ew_fail(reterr, EW_EINVAL,
                       "%s is not an adapter that is known here (general.type '%s', adapter.type '%s')", path, general,
                       type);
    }
    if (!ew_gguf_get_str_copy(g, "general.architecture", arch, sizeof(arch)) ||
        strcmp(arch, ew_model_config_of(m)->arch) != 0) {
        return ew_fail(reterr, EW_ECONFLICT, "%s was made for another architecture than '%s'", path,
                       ew_model_config_of(m)->arch);
    }
    EW_TRY(stock ? load_stock(g, path, m, &a, reterr) : load_own(g, path, m, &opt, &a, reterr));
    (void)ew_gguf_get_str_copy(g, EW_ADAPTER_META_BASE, sha, sizeof(sha));
    EW_TRY(ew__adapter_check_base(a, path, sha, reterr));
    *ret = a;
    a = NULL;
    return EW_OK;
}

ew_status ew_adapter_load_gguf(const char *path, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    EW_AUTO(ew_gguf) g = NULL;
    EW_TRY(ew_gguf_open(path, &g, reterr));
    return ew__adapter_from_gguf(g, path, m, ret_adapter, reterr);
}

ew_status ew_adapter_load(const char *path, const ew_model *m, ew_adapter **ret_adapter, ew_error *reterr)
{
    return ew_dir_exists(path) ? ew_adapter_load_peft(path, m, ret_adapter, reterr)
                               : ew_adapter_load_gguf(path, m, ret_adapter, reterr);
}

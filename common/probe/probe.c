#include "probe/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "model/generate.h"
#include "model/model.h"
#include "model/save.h"
#include "model/session.h"
#include "model/weights.h"
#include "peft/adapter.h"
#include "probe/cost.h"
#include "sys/cpu.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "train/tune.h"

#define REPEATS 3
#define MEASURE_NS 600000000u /* a slow machine repeats less: the first run takes as long as it takes */
#define PROMPT_TOK EW_COST_PROMPT_TOK
#define LONG_TOK EW_COST_LONG_TOK
#define DECODE_TOK EW_COST_DECODE_TOK
#define PROBE_VOCAB 2048
#define READ_BYTES (16u << 20)

static const struct {
    const char *name;
    ew_dtype dtype;
} dtypes[] = {{"f16", EW_DTYPE_F16}, {"q8_0", EW_DTYPE_Q8_0}, {"q4_0", EW_DTYPE_Q4_0}};

static const ew_model_config shapes[] = {
    {.arch = "llama",
     .name = "probe",
     .C = 128,
     .H = 4,
     .K = 2,
     .D = 32,
     .F = 384,
     .V = PROBE_VOCAB,
     .L = 4,
     .n_ctx_train = 512,
     .norm_eps = 1e-5f,
     .rope_kind = EW_ROPE_NORM,
     .n_rot = 32,
     .rope_theta = 10000,
     .tied_head = true,
     .file_type = -1},
    {.arch = "llama",
     .name = "probe",
     .C = 256,
     .H = 8,
     .K = 4,
     .D = 32,
     .F = 768,
     .V = PROBE_VOCAB,
     .L = 3,
     .n_ctx_train = 512,
     .norm_eps = 1e-5f,
     .rope_kind = EW_ROPE_NORM,
     .n_rot = 32,
     .rope_theta = 10000,
     .tied_head = true,
     .file_type = -1},
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* work / seconds of the fastest pass, the one that was least disturbed: what else runs at the moment of a trial is measured then (run/run.h).
 * The spread is how far the median lies below it. */
static void add_rate(ew_device_caps *caps, const char *name, const char *unit, double work, double *seconds, size_t n)
{
    if (caps->n_rates >= EW_CAPS_RATES_MAX || n == 0) {
        return;
    }
    ew_rate *r = &caps->rates[caps->n_rates++];
    (void)ew_str_copy(r->name, sizeof(r->name), name);
    (void)ew_str_copy(r->unit, sizeof(r->unit), unit);
    qsort(seconds, n, sizeof(*seconds), compare_doubles);
    r->value = work / fmax(seconds[0], 1e-9);
    r->spread = r->value - work / fmax(seconds[n / 2], 1e-9);
    r->measured_unix_ms = ew_wall_ms();
}

static void measure_read(ew_device_caps *caps)
{
    unsigned char *block = ew_aligned(READ_BYTES);
    double seconds[REPEATS];
    volatile uint64_t sink = 0;
    if (block == NULL) {
        return;
    }
    memset(block, 1, READ_BYTES);
    for (int r = 0; r < REPEATS; r++) {
        uint64_t begin = ew_mono_ns();
        uint64_t sum = 0;
        for (size_t i = 0; i < READ_BYTES; i += sizeof(uint64_t)) {
            uint64_t v;
            memcpy(&v, block + i, sizeof(v));
            sum += v;
        }
        sink += sum;
        seconds[r] = (double)(ew_mono_ns() - begin) * 1e-9;
    }
    ew_free(block);
    add_rate(caps, "read", "GB/s", READ_BYTES * 1e-9, seconds, REPEATS);
}

/* Floats of a random model in one block. */
typedef struct synth {
    float *block;
    ew_layer_floats *layer;
    ew_model_floats floats;
} synth;

static void synth_release(synth *s)
{
    ew_free(s->block);
    ew_free(s->layer);
    *s = (synth){0};
}

static ew_status synth_make(const ew_model_config *cfg, synth *s, ew_error *reterr)
{
    size_t per_layer = 2 * (size_t)cfg->C;
    for (int l = 0; l < EW_LINEAR_COUNT; l++) {
        uint32_t rows;
        uint32_t cols;
        ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
        per_layer += (size_t)rows * cols;
    }
    size_t total = per_layer * cfg->L + (size_t)cfg->V * cfg->C + cfg->C;
    s->block = ew_malloc(total, sizeof(float));
    s->layer = ew_calloc(cfg->L, sizeof(*s->layer));
    if (s->block == NULL || s->layer == NULL) {
        synth_release(s);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for the probe's synthetic model");
    }
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < total; i++) {
        s->block[i] = (float)(ew_rng_f64(&rng) - 0.5) * 0.08f;
    }
    float *p = s->block;
    for (uint32_t i = 0; i < cfg->L; i++) {
        for (int l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(cfg, (ew_linear)l, &rows, &cols);
            s->layer[i].linear[l] = p;
            p += (size_t)rows * cols;
        }
        s->layer[i].attn_norm = p;
        s->layer[i].ffn_norm = p + cfg->C;
        for (uint32_t k = 0; k < 2 * cfg->C; k++) {
            *p++ = 1;
        }
    }
    s->floats = (ew_model_floats){
        .token_embd = p, .output = NULL, .output_norm = p + (size_t)cfg->V * cfg->C, .layer = s->layer};
    return EW_OK;
}

static void fill_ids(int32_t *ids, size_t n, uint64_t stream)
{
    ew_rng rng;
    ew_rng_init(&rng, 2, stream);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(3 + ew_rng_below(&rng, PROBE_VOCAB - 3));
    }
}

typedef struct pass {
    ew_session *s;
    float *logits; /* [V] */
    size_t V;
    const char *dtype;
    ew_device_caps *caps;
} pass;

/* A prompt of n tokens, then DECODE_TOK tokens one by one, each judged as a label's token is. */
static ew_status measure_prompt(pass *p, size_t n, const char *suffix, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(ew_session_model(p->s));
    int32_t ids[LONG_TOK];
    double prefill[REPEATS];
    double decode[REPEATS];
    char name[64];
    volatile double sink = 0;
    size_t n_runs = 0;
    uint64_t start = ew_mono_ns();
    fill_ids(ids, n, 1);
    for (int r = -1; n_runs == 0 || (n_runs < REPEATS && ew_mono_ns() - start < MEASURE_NS); r++) {
        ew_session_reset(p->s);
        uint64_t begin = ew_mono_ns();
        EW_TRY(ew_session_eval(p->s, ids, n, p->logits, reterr));
        uint64_t middle = ew_mono_ns();
        for (int i = 0; i < DECODE_TOK; i++) {
            EW_TRY(ew_session_eval(p->s, &ids[i], 1, p->logits, reterr));
            sink += ew_log_sum_exp(p->logits, p->V);
        }
        if (r >= 0) {
            prefill[r] = (double)(middle - begin) * 1e-9;
            decode[r] = (double)(ew_mono_ns() - middle) * 1e-9;
            n_runs++;
        }
    }
    double ctx = (double)n;
    double prompt = ew_cost_flop_layers(cfg, ctx / 2) * 1e-9;
    double token = (ew_cost_flop_layers(cfg, ctx + DECODE_TOK / 2.0) + ew_cost_flop_head(cfg)) * 1e-9;
    (void)snprintf(name, sizeof(name), "prefill%s.%s.%u", suffix, p->dtype, cfg->C);
    add_rate(p->caps, name, "GFLOP/s", prompt * ctx, prefill, n_runs);
    (void)snprintf(name, sizeof(name), "decode%s.%s.%u", suffix, p->dtype, cfg->C);
    add_rate(p->caps, name, "GFLOP/s", token * DECODE_TOK, decode, n_runs);
    return EW_OK;
}

static ew_status measure_session(const ew_probe_opt *opt, ew_model *m, const char *dtype, ew_device_caps *caps,
                                 ew_error *reterr)
{
    EW_AUTO(ew_session) s = NULL;
    pass p = {.V = ew_model_config_of(m)->V, .dtype = dtype, .caps = caps};
    EW_TRY(ew_session_new(m, &(ew_session_opt){.n_ctx = 512, .exec = opt->exec}, &s, reterr));
    p.s = s;
    p.logits = ew_malloc(p.V, sizeof(float));
    if (p.logits == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory in the probe");
    }
    ew_status st = measure_prompt(&p, PROMPT_TOK, "", reterr);
    if (st == EW_OK) {
        st = measure_prompt(&p, LONG_TOK, "-long", reterr);
    }
    ew_free(p.logits);
    return st;
}

/* Steps of the real trainer on random examples; two runs of different length, so that what happens once is not counted. */
static ew_status measure_train(const ew_probe_opt *opt, ew_model *m, const char *dtype, ew_device_caps *caps,
                               ew_error *reterr)
{
    enum {
        EXAMPLES = 4,
        STEPS = 2
    };
    int32_t ids[EXAMPLES][PROMPT_TOK];
    ew_tune_example examples[EXAMPLES];
    double seconds[3];
    double tokens = 0;
    char name[64];
    for (int i = 0; i < EXAMPLES; i++) {
        fill_ids(ids[i], PROMPT_TOK, (uint64_t)(10 + i));
        examples[i] = (ew_tune_example){.id = ids[i], .n_prompt = PROMPT_TOK - 6, .n_answer = 6};
    }
    size_t n_runs = 0;
    uint64_t start = ew_mono_ns();
    while (n_runs == 0 || (n_runs < EW_COUNT(seconds) && ew_mono_ns() - start < 2 * (uint64_t)MEASURE_NS)) {
        EW_AUTO(ew_adapter) lora = NULL;
        ew_tune_report *report = ew_calloc(1, sizeof(*report));
        if (report == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "out of memory in the probe");
        }
        ew_tune_opt t = {.model = m,
                         .exec = opt->exec,
                         .train = examples,
                         .n_train = EXAMPLES,
                         .max_steps = STEPS,
                         .epochs = STEPS,
                         .seed = 1};
        ew_status st = ew_tune(&t, &lora, report, reterr);
        seconds[n_runs++] = report->seconds;
        tokens = (double)report->tokens;
        ew_free(report);
        EW_TRY(st);
    }
    (void)snprintf(name, sizeof(name), "train.%s.%u", dtype, ew_model_config_of(m)->C);
    add_rate(caps, name, "GFLOP/s", ew_cost_flop_layers(ew_model_config_of(m), PROMPT_TOK / 2.0) * 1e-9 * tokens,
             seconds, n_runs);
    return EW_OK;
}

static ew_status measure_variant(const ew_probe_opt *opt, const ew_model *floats, size_t i_dtype, ew_device_caps *caps,
                                 ew_error *reterr)
{
    char path[512];
    EW_AUTO(ew_model) m = NULL;
    if (snprintf(path, sizeof(path), "%s/probe-%s.gguf", opt->temp_dir, dtypes[i_dtype].name) >= (int)sizeof(path)) {
        return ew_fail(reterr, EW_EINVAL, "the directory's name '%s' is too long", opt->temp_dir);
    }
    EW_TRY(ew_model_save_gguf(floats, path, &(ew_save_opt){.convert = true, .dtype = dtypes[i_dtype].dtype}, reterr));
    ew_status st = ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, reterr);
    if (st == EW_OK) {
        st = measure_session(opt, m, dtypes[i_dtype].name, caps, reterr);
    }
    if (st == EW_OK) {
        st = measure_train(opt, m, dtypes[i_dtype].name, caps, reterr);
    }
    (void)remove(path);
    return st;
}

static ew_status measure_passes(const ew_probe_opt *opt, ew_device_caps *caps, ew_error *reterr)
{
    uint64_t done = 0;
    uint64_t total = EW_COUNT(shapes) * EW_COUNT(dtypes);
    for (size_t i = 0; i < EW_COUNT(shapes); i++) {
        synth s = {0};
        EW_AUTO(ew_model) floats = NULL;
        EW_TRY(synth_make(&shapes[i], &s, reterr));
        ew_status st = ew_model_from_floats(&shapes[i], NULL, &s.floats, &floats, reterr);
        for (size_t d = 0; d < EW_COUNT(dtypes) && st == EW_OK; d++) {
            st = measure_variant(opt, floats, d, caps, reterr);
            ew_progress_info info = {
                .phase = "probe", .unit = "passes", .done = ++done, .total = total, .loss = NAN, .left_s = NAN};
            if (st == EW_OK && !ew_progress_tell(&opt->progress, &info)) {
                st = ew_fail(reterr, EW_ECANCELLED, "the probe was stopped");
            }
        }
        ew_model_free(&floats);
        synth_release(&s);
        EW_TRY(st);
    }
    return EW_OK;
}

static void describe(const ew_probe_opt *opt, ew_device_caps *caps)
{
    char names[256];
    ew_machine machine = {0};
    uint64_t disk_free = 0;
    (void)ew_str_copy(caps->arch, sizeof(caps->arch), ew_cpu_arch());
    (void)ew_str_copy(caps->device_class, sizeof(caps->device_class),
                      opt->device_class != NULL ? opt->device_class : "");
    if (ew_machine_read(&machine, NULL) == EW_OK) {
        caps->ram_bytes = machine.ram_bytes;
    }
    caps->cores = opt->exec.pool != NULL ? ew_pool_threads(opt->exec.pool) : 1;
    if (opt->disk_path != NULL && ew_dir_free_bytes(opt->disk_path, &disk_free, NULL) == EW_OK) {
        caps->disk_bytes = disk_free;
    }
    (void)ew_cpu_names(ew_cpu_features(), names, sizeof(names));
    for (char *p = names; *p != '\0' && caps->n_isa < EW_CAPS_ISA_MAX;) {
        size_t n = strcspn(p, " ");
        bool last = p[n] == '\0';
        p[n] = '\0';
        (void)ew_str_copy(caps->isa[caps->n_isa++], sizeof(caps->isa[0]), p);
        p += n + (last ? 0 : 1);
    }
    for (size_t i = 0; i < EW_COUNT(dtypes); i++) {
        (void)ew_str_copy(caps->dtypes[caps->n_dtypes++], sizeof(caps->dtypes[0]), dtypes[i].name);
    }
    (void)ew_str_copy(caps->features[caps->n_features++], sizeof(caps->features[0]), "offload.fwd");
}

ew_status ew_probe_run(const ew_probe_opt *opt, ew_device_caps *ret_caps, ew_error *reterr)
{
    ew_proc_mem mem = {0};
    ew_device_caps *caps = ew_calloc(1, sizeof(*caps));
    ew_probe_opt o = *opt;
    if (caps == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory in the probe");
    }
    if (o.exec.kern == NULL) {
        o.exec.kern = ew_kern_get(NULL);
    }
    describe(&o, caps);
    if (ew_proc_mem_read(&mem, NULL) == EW_OK) {
        double one = 1;
        add_rate(caps, "process.base", "B", (double)mem.rss_bytes, &one, 1);
    }
    measure_read(caps);
    ew_status st = measure_passes(&o, caps, reterr);
    if (st == EW_OK) {
        *ret_caps = *caps;
    }
    ew_free(caps);
    return st;
}

void ew_probe_state(const char *disk_path, uint64_t memory_limit_bytes, ew_device_state *ret_state)
{
    ew_machine machine = {0};
    *ret_state = (ew_device_state){.memory_limit_bytes = memory_limit_bytes, .battery = -1};
    if (ew_machine_read(&machine, NULL) == EW_OK) {
        ret_state->ram_available_bytes = machine.ram_available_bytes;
    }
    if (memory_limit_bytes != 0 && memory_limit_bytes < ret_state->ram_available_bytes) {
        ret_state->ram_available_bytes = memory_limit_bytes;
    }
    if (ew_dir_free_bytes(disk_path, &ret_state->disk_free_bytes, NULL) != EW_OK) {
        ret_state->disk_free_bytes = 0;
    }
    ret_state->temperature_c = ew_machine_temperature_c();
    ret_state->on_mains = ew_machine_on_power();
}

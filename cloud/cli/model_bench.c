/* `edgewise model bench`: speed of a model, and how much of this machine that is. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/model.h"
#include "model/model.h"
#include "model/session.h"
#include "model/weights.h"
#include "probe/peak.h"
#include "sys/proc.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "text/json.h"

#define BENCH_REPEAT_MAX 100

typedef struct bench_args {
    char *path, *kernel, *kv;
    int64_t n_prompt, n_gen, repeat, threads, n_batch, depth;
    bool json, no_peaks;
} bench_args;

/* What a token costs, and what the machine has. Zero = not measured. */
typedef struct bench_limits {
    double token_bytes;            /* weights that a generated token reads */
    double token_ops;              /* 8-bit operations of a prompt's token; 0: the products are not integer ones */
    double read_per_s, int8_per_s; /* the machine's */
    uint64_t rss_peak_bytes;       /* of the whole run */
} bench_limits;

typedef struct bench_result {
    double mean, spread; /* tokens per second, standard deviation over repetitions */
} bench_result;

static bench_result summary(const double *x, int64_t n)
{
    double sum = 0;
    double sq = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        sq += (x[i] - mean) * (x[i] - mean);
    }
    return (bench_result){mean, n > 1 ? sqrt(sq / (double)(n - 1)) : 0};
}

/* Seconds for n_prompt tokens at once, then for n_gen single tokens; both after `depth` tokens of context. */
static ew_status bench_once(ew_session *s, const bench_args *a, const int32_t *ids, float *logits, double *ret_prompt_s,
                            double *ret_gen_s, ew_error *reterr)
{
    uint64_t t0;
    if (a->n_prompt > 0) {
        ew_session_reset(s);
        if (a->depth > 0) {
            EW_TRY(ew_session_eval(s, ids, (size_t)a->depth, NULL, reterr));
        }
        t0 = ew_mono_ns();
        EW_TRY(ew_session_eval(s, ids, (size_t)a->n_prompt, logits, reterr));
        *ret_prompt_s = (double)(ew_mono_ns() - t0) * 1e-9;
    }
    ew_session_reset(s);
    EW_TRY(ew_session_eval(s, ids, (size_t)EW_MAX(a->depth, 1), NULL, reterr));
    t0 = ew_mono_ns();
    for (int64_t i = 0; i < a->n_gen; i++) {
        EW_TRY(ew_session_eval(s, &ids[i], 1, logits, reterr));
    }
    *ret_gen_s = (double)(ew_mono_ns() - t0) * 1e-9;
    return EW_OK;
}

static bool is_float(ew_dtype t)
{
    return t == EW_DTYPE_F32 || t == EW_DTYPE_F16 || t == EW_DTYPE_BF16;
}

static void add_mat(const ew_mat *w, bool prompt, bench_limits *l, bool *io_integer)
{
    if (w->data == NULL) {
        return;
    }
    l->token_bytes += (double)w->rows * (double)w->row_bytes;
    if (prompt) {
        l->token_ops += 2.0 * w->rows * w->cols;
        *io_integer = *io_integer && !is_float(w->dtype);
    }
}

static bench_limits token_costs(const ew_model *m)
{
    bench_limits l = {0};
    bool integer = true;
    for (uint32_t i = 0; i < ew_model_config_of(m)->L; i++) {
        for (unsigned k = 0; k < EW_LINEAR_COUNT; k++) {
            add_mat(&ew_model_layer(m, i)->linear[k], true, &l, &integer);
        }
    }
    add_mat(ew_model_output(m), false, &l, &integer);
    l.token_ops = integer ? l.token_ops : 0;
    return l;
}

static double share(double x, double of)
{
    return of > 0 ? x / of : 0;
}

static json_t *result_json(int64_t n_tok, bench_result r, const char *unit, double rate, double peak)
{
    return json_pack("{s:I s:f s:f s:f s:f s:f}", "tokens", (json_int_t)n_tok, "per_second", r.mean, "spread", r.spread,
                     unit, rate, "peak", peak, "share_of_peak", share(rate, peak));
}

static ew_status print_json(const bench_args *a, const ew_model *m, const ew_cli_compute *c, const bench_limits *l,
                            bench_result p, bench_result g, ew_error *reterr)
{
    EW_AUTO_JSON j = json_pack(
        "{s:s s:s s:I s:I s:s s:i s:o s:o s:I}", "model", ew_model_config_of(m)->name, "type", ew_model_dtype_name(m),
        "parameters", (json_int_t)ew_model_n_params(m), "weights_bytes", (json_int_t)ew_model_weights_bytes(m),
        "kernel", ew_kern_name(c->exec.kern), "threads", (int)ew_pool_threads(c->pool), "prompt",
        result_json(a->n_prompt, p, "gops", p.mean * l->token_ops * 1e-9, l->int8_per_s * 1e-9), "generate",
        result_json(a->n_gen, g, "gbytes_per_second", g.mean * l->token_bytes * 1e-9, l->read_per_s * 1e-9),
        "rss_peak_bytes", (json_int_t)l->rss_peak_bytes);
    return ew_cli_put_json(j, reterr);
}

static void print_text(const bench_args *a, const ew_model *m, const ew_cli_compute *c, const bench_limits *l,
                       bench_result p, bench_result g)
{
    char b1[32];
    char b2[32];
    (void)printf("%s: %s parameters, %s, %s; kernels %s, %u threads\n", ew_model_config_of(m)->name,
                 ew_str_count(b1, sizeof(b1), (double)ew_model_n_params(m)), ew_model_dtype_name(m),
                 ew_str_bytes(b2, sizeof(b2), ew_model_weights_bytes(m)), ew_kern_name(c->exec.kern),
                 ew_pool_threads(c->pool));
    if (a->n_prompt > 0) {
        double gops = p.mean * l->token_ops * 1e-9;
        (void)printf("prompt   %5lld tokens  %9.2f ± %.2f tokens/s", (long long)a->n_prompt, p.mean, p.spread);
        if (gops > 0 && l->int8_per_s > 0) {
            (void)printf("  %6.0f GOP/s, %.0f %% of the integer peak", gops, 100 * gops * 1e9 / l->int8_per_s);
        }
        (void)printf("\n");
    }
    if (a->n_gen > 0) {
        double gbs = g.mean * l->token_bytes * 1e-9;
        (void)printf("generate %5lld tokens  %9.2f ± %.2f tokens/s  %6.1f GB/s", (long long)a->n_gen, g.mean, g.spread,
                     gbs);
        if (l->read_per_s > 0) {
            (void)printf(", %.0f %% of the read bandwidth", 100 * gbs * 1e9 / l->read_per_s);
        }
        (void)printf("\n");
    }
    if (l->read_per_s > 0) {
        (void)printf("this machine: %.1f GB/s read, %.0f GOP/s of 8-bit products; peak memory of the run %s\n",
                     l->read_per_s * 1e-9, l->int8_per_s * 1e-9, ew_str_bytes(b1, sizeof(b1), l->rss_peak_bytes));
    }
}

static ew_status bench_measure(const bench_args *a, ew_session *s, uint32_t V, bench_result *ret_p, bench_result *ret_g,
                               ew_error *reterr)
{
    double p[BENCH_REPEAT_MAX];
    double g[BENCH_REPEAT_MAX];
    size_t n = (size_t)EW_MAX(EW_MAX(a->n_prompt, a->n_gen), EW_MAX(a->depth, 1));
    int32_t *ids = ew_malloc(n, sizeof(*ids));
    float *logits = ew_malloc(V, sizeof(*logits));
    ew_status st = ids == NULL || logits == NULL ? ew_fail(reterr, EW_ENOMEM, "not enough memory") : EW_OK;
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    for (size_t i = 0; ids != NULL && i < n; i++) {
        ids[i] = (int32_t)ew_rng_below(&rng, V);
    }
    for (int64_t r = -1; r < a->repeat && st == EW_OK; r++) { /* -1: warm-up */
        double ps = 1;
        double gs = 1;
        bench_args once = *a;
        if (r < 0) {
            once.n_gen = EW_MIN(a->n_gen, 4);
            once.n_prompt = EW_MIN(a->n_prompt, 32);
        }
        st = bench_once(s, &once, ids, logits, &ps, &gs, reterr);
        if (r >= 0) {
            p[r] = (double)a->n_prompt / ps;
            g[r] = (double)a->n_gen / gs;
        }
        if (ew_signal_stop() && st == EW_OK) {
            st = ew_fail(reterr, EW_ECANCELLED, "stopped");
        }
    }
    if (st == EW_OK) {
        *ret_p = summary(p, a->repeat);
        *ret_g = summary(g, a->repeat);
    }
    ew_free(ids);
    ew_free(logits);
    return st;
}

static ew_status bench_run(const bench_args *a, const ew_cli_app *app, ew_error *reterr)
{
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_COMPUTE compute = {0};
    EW_AUTO(ew_session) s = NULL;
    bench_result p;
    bench_result g;
    EW_TRY(ew_model_open(a->path, &(ew_model_opt){.no_tokenizer = true, .populate = true}, &m, reterr));
    if (ew_model_config_of(m)->encoder) {
        return ew_fail(reterr, EW_EINVAL, "%s is an encoder: there is no generation to measure", a->path);
    }
    EW_TRY(ew_cli_compute_open(app, a->threads, a->kernel, &compute, reterr));
    ew_session_opt so = {.n_ctx = (uint32_t)(EW_MAX(a->n_prompt, a->n_gen) + EW_MAX(a->depth, 1)),
                         .n_batch = (uint32_t)a->n_batch,
                         .exec = compute.exec};
    EW_TRY(ew_cli_kv_parse(a->kv, &so.kv_type, reterr));
    EW_TRY(ew_session_new(m, &so, &s, reterr));
    EW_TRY(bench_measure(a, s, ew_model_config_of(m)->V, &p, &g, reterr));
    bench_limits l = token_costs(m);
    ew_proc_mem mem;
    l.rss_peak_bytes = ew_proc_mem_read(&mem, NULL) == EW_OK ? mem.rss_peak_bytes : 0;
    if (!a->no_peaks) {
        EW_TRY(ew_peak_read(compute.pool, &l.read_per_s, reterr));
        l.int8_per_s = ew_peak_int8(compute.pool);
    }
    if (a->json) {
        return print_json(a, m, &compute, &l, p, g, reterr);
    }
    print_text(a, m, &compute, &l, p, g);
    return EW_OK;
}

int ew_cli_model_bench(int argc, char **argv, void *ctx)
{
    bench_args a = {.n_prompt = 512, .n_gen = 128, .repeat = 3};
    const ew_cli_opt opts[] = {
        {"prompt", 'p', "N", EW_CLI_I64, &a.n_prompt, .help = "tokens evaluated at once (default 512)", .min = 0,
         .max = 1e6},
        {"generate", 'n', "N", EW_CLI_I64, &a.n_gen, .help = "tokens evaluated one by one (default 128)", .min = 0,
         .max = 1e6},
        {"depth", 'd', "N", EW_CLI_I64, &a.depth, .help = "tokens of context before them (default 0)", .min = 0,
         .max = 1e5},
        {"repeat", 'r', "N", EW_CLI_I64, &a.repeat, .help = "repetitions after a warm-up (default 3)", .min = 1,
         .max = BENCH_REPEAT_MAX},
        {"batch", 'b', "N", EW_CLI_I64, &a.n_batch, .help = "largest chunk of a prompt (default 128)", .min = 1,
         .max = 65536},
        {"kv", 0, "TYPE", EW_CLI_STRING, &a.kv, .help = EW_CLI_KV_HELP},
        {"kernel", 0, "NAME", EW_CLI_STRING, &a.kernel, .help = EW_CLI_KERNEL_HELP},
        {"threads", 't', "N", EW_CLI_I64, &a.threads, .help = "default: all cores", .min = 1, .max = 256},
        {"no-peaks", 0, NULL, EW_CLI_FLAG, &a.no_peaks, .help = "do not measure what the machine could do"},
        {"json", 0, NULL, EW_CLI_FLAG, &a.json, .help = "as JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a.path, .help = "GGUF file or Hugging Face directory"}};
    int status = ew_cli_parse(&(ew_cli_spec){"model bench",
                                             "Measures prompt evaluation and generation in tokens per second: mean and "
                                             "standard deviation over the repetitions, and the share of this machine's "
                                             "memory bandwidth and integer units that they use.",
                                             "  edgewise model bench m.gguf -p 512 -n 128 -t 2\n", opts, EW_COUNT(opts),
                                             pos, EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = bench_run(&a, ctx, &err);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

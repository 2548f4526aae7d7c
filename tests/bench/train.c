/* Speed and memory of tuning, by the trainer itself on made-up tokens; prints one line of name=value pairs.
 *   bench_train MODEL.gguf [--seq 256] [--examples 1] [--steps 6] [--rank 8] [--linears qv|all] [--rung keep]
 *               [--products f32|bf16] [--optimizer8] [--drop-pages] [--limit MIB] [--threads 2] [--isa NAME] [--answer SHARE] [--parts]
 * A step is `examples` sequences of `seq` tokens; the loss counts the last SHARE of them (1 = all but the first, as a peer's
 * next-token loss). tok_s is of the median step, rss_mib the process's highest, predicted_mib what the dry run says.
 * --parts times, after that, each kind of work alone on the shapes of the model, for one step without recompute. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kern/ops.h"
#include "model/model.h"
#include "model/weights.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "train/tune.h"

enum {
    STEPS_MAX = 256
};

typedef struct bench {
    const char *path;
    uint32_t seq, examples, steps, rank, threads;
    bool all, optimizer8, drop, parts;
    uint32_t limit;
    ew_tune_rung rung;
    ew_tune_products products;
    double answer;
    const char *isa;
    ew_model *model;
    ew_exec exec;
    double began, step[STEPS_MAX]; /* seconds of each */
    uint32_t n_steps;
    double loss;
} bench;

static bool on_step(const ew_progress_info *info, void *ctx)
{
    bench *b = ctx;
    const double now = ew_mono_s();
    if (b->n_steps < STEPS_MAX) {
        b->step[b->n_steps++] = now - b->began;
    }
    b->began = now;
    b->loss = info->loss;
    return true;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The first step touches pages, the second may still. */
static double median_step(bench *b)
{
    const uint32_t skip = b->n_steps > 4 ? 2 : b->n_steps > 1 ? 1 : 0;
    qsort(b->step + skip, b->n_steps - skip, sizeof(double), by_value);
    return b->step[skip + (b->n_steps - skip) / 2];
}

static ew_status tune(bench *b, ew_error *err)
{
    ew_rng rng;
    ew_rng_init(&rng, 7, 0);
    const uint32_t V = ew_model_config_of(b->model)->V, n_train = b->examples * b->steps;
    int32_t *id = ew_malloc((size_t)n_train * (b->seq + 1), sizeof(*id));
    ew_tune_example *x = ew_malloc(n_train, sizeof(*x));
    if (id == NULL || x == NULL) {
        return ew_fail(err, EW_ENOMEM, "no memory for the tokens");
    }
    for (size_t i = 0; i < (size_t)n_train * (b->seq + 1); i++) {
        id[i] = (int32_t)ew_rng_below(&rng, V);
    }
    const uint32_t answer = EW_MAX(1u, (uint32_t)(b->answer * b->seq));
    for (uint32_t i = 0; i < n_train; i++) {
        x[i] = (ew_tune_example){id + (size_t)i * (b->seq + 1), b->seq + 1 - answer, answer};
    }
    const ew_tune_opt o = {
        .model = b->model,
        .exec = b->exec,
        .adapter = {.rank = b->rank,
                    .targets = b->all ? 0 : EW_ADAPTER_TARGET(EW_LINEAR_Q) | EW_ADAPTER_TARGET(EW_LINEAR_V)},
        .train = x,
        .n_train = n_train,
        .epochs = 1,
        .batch = b->examples,
        .seq_max = b->seq,
        .pack_tok = b->seq,
        .eval_every = b->steps + 1,
        .rung = b->rung,
        .products = b->products,
        .optimizer_8bit = b->optimizer8,
        .drop_pages = b->drop,
        .max_ram_bytes = (uint64_t)b->limit * EW_MIB,
        .progress = {on_step, b}};
    ew_tune_memory_plan plan;
    ew_tune_report report;
    ew_adapter *lora = NULL;
    ew_status st = ew_tune_memory(&o, &plan, err);
    b->began = ew_mono_s();
    st = st == EW_OK ? ew_tune(&o, &lora, &report, err) : st;
    ew_proc_mem mem = {0};
    st = st == EW_OK ? ew_proc_mem_read(&mem, err) : st;
    if (st == EW_OK) {
        const double s = median_step(b);
        (void)printf("model=%s linears=%s rank=%u seq=%u examples=%u threads=%u kern=%s products=%s rung=%s tok_s=%.1f "
                     "step_ms=%.1f "
                     "rss_mib=%.1f predicted_mib=%.1f weights_mib=%.1f loss=%.6f\n",
                     b->path, b->all ? "all" : "qv", b->rank, b->seq, b->examples, b->threads,
                     ew_kern_name(b->exec.kern), report.bf16 ? "bf16" : "f32", ew_tune_rung_name(report.rung),
                     b->seq * b->examples / s, s * 1e3, (double)mem.rss_peak_bytes / EW_MIB,
                     (double)plan.total_bytes / EW_MIB, (double)plan.weights_bytes / EW_MIB, b->loss);
        (void)fflush(stdout);
    }
    ew_adapter_free(&lora);
    ew_free(id);
    ew_free(x);
    return st;
}

/* --- parts --- */

typedef struct parts {
    const ew_exec *e;
    const ew_model_config *cfg;
    const ew_model *m;
    size_t T;
    float *x, *y, *u, *a;    /* [T, widest], [T, widest], [T, rank], [widest, rank] */
    float *q, *k, *v, *dout; /* of the attention */
    float *dq, *dk, *dv, *lse;
} parts;

static float *randoms(ew_rng *rng, size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    EW_ASSERT(p != NULL);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)(ew_rng_f64(rng) - 0.5);
    }
    return p;
}

static void each_linear(const parts *p, int what, uint32_t rank, bool all)
{
    for (uint32_t il = 0; il < p->cfg->L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            const ew_mat *w = &ew_model_layer(p->m, il)->linear[i];
            const size_t T = p->T, C = w->cols, F = w->rows, r = rank;
            const bool hooked = all || i == EW_LINEAR_Q || i == EW_LINEAR_V;
            if (w->rows == 0) {
                continue;
            }
            if (what == 0) {
                ew_matmul_f32(p->e, w, p->x, T, p->y, false);
            } else if (what == 1 && (il > 0 || i > EW_LINEAR_V)) {
                ew_matmul_dx(p->e, w, p->y, T, p->x, false, NULL);
            } else if (what == 2 && hooked) {
                ew_gemm(p->e, &(ew_gemm_args){T, r, C, 1.0F, p->x, C, 1, p->a, 1, C, p->u, r, false});
                ew_gemm(p->e, &(ew_gemm_args){T, F, r, 2.0F, p->u, r, 1, p->a, 1, r, p->y, F, true});
            } else if (what == 3 && hooked) {
                ew_gemm(p->e, &(ew_gemm_args){T, r, F, 2.0F, p->y, F, 1, p->a, r, 1, p->u, r, false});
                ew_gemm(p->e, &(ew_gemm_args){T, r, C, 2.0F, p->x, C, 1, p->a, 1, C, p->u, r, false});
                ew_gemm(p->e, &(ew_gemm_args){F, r, T, 1.0F, p->y, 1, F, p->u, r, 1, p->a, r, true});
                ew_gemm(p->e, &(ew_gemm_args){r, C, T, 1.0F, p->u, 1, r, p->x, C, 1, p->a, C, true});
                ew_gemm(p->e, &(ew_gemm_args){T, C, r, 1.0F, p->u, r, 1, p->a, C, 1, p->x, C, true});
            }
        }
    }
}

static void attention(const parts *p, bool backward, bool twice)
{
    const uint32_t seq[2] = {0, (uint32_t)p->T};
    const ew_model_config *c = p->cfg;
    const ew_attention_train_args a = {.q = p->q,
                                       .k = p->k,
                                       .v = p->v,
                                       .seq = seq,
                                       .n_seq = 1,
                                       .H = c->H,
                                       .K = c->K,
                                       .D = c->D,
                                       .scale = 0.125F,
                                       .out = p->y,
                                       .lse = p->lse,
                                       .dout = p->dout,
                                       .dq = p->dq,
                                       .dk = p->dk,
                                       .dv = p->dv};
    for (uint32_t il = 0; il < c->L; il++) {
        if (!backward || twice) {
            ew_attention_train(p->e, &a);
        }
        if (backward) {
            ew_attention_train_bwd(p->e, &a);
        }
    }
}

static void row_work(const parts *p)
{
    const ew_model_config *c = p->cfg;
    const size_t T = p->T, C = c->C, F = c->F;
    const ew_rope_opt rope = {
        .kind = c->rope_kind, .n_rot = c->n_rot, .theta_base = c->rope_theta, .table = p->a, .n_table = T};
    for (uint32_t il = 0; il < c->L; il++) {
        const float *w = ew_model_layer(p->m, il)->attn_norm;
        for (int i = 0; i < 2; i++) {
            ew_rmsnorm(p->e, p->x, w, T, C, 1e-5F, p->y, p->lse);
            ew_vec_add(p->e, p->y, p->x, T * C);
            ew_rmsnorm_bwd(p->e, p->x, w, p->lse, p->y, T, C, p->dout, NULL);
            ew_rope(p->e, &rope, p->dq, T, c->H, c->D, NULL, 0, i == 1);
            ew_rope(p->e, &rope, p->dk, T, c->K, c->D, NULL, 0, i == 1);
        }
        ew_swiglu(p->e, p->x, p->x, T * F, p->y);
        ew_swiglu_bwd(p->e, p->x, p->x, p->y, T * F, p->y, p->x);
    }
}

static void head(const parts *p, const int32_t *target, void *scratch)
{
    (void)ew_cross_entropy(p->e, &(ew_cross_entropy_args){.head = ew_model_output(p->m),
                                                          .hidden = p->x,
                                                          .targets = target,
                                                          .T = p->T,
                                                          .scale = 0.01F,
                                                          .dhidden = p->y,
                                                          .scratch = scratch});
}

#define PART(name, body)                                                                                               \
    do {                                                                                                               \
        body;                                                                                                          \
        const double from = ew_mono_s();                                                                               \
        body;                                                                                                          \
        (void)printf("part=%s ms=%.2f\n", name, (ew_mono_s() - from) * 1e3);                                           \
    } while (0)

static void time_parts(const bench *b)
{
    ew_rng rng;
    ew_rng_init(&rng, 9, 0);
    const ew_model_config *c = ew_model_config_of(b->model);
    const size_t T = (size_t)b->seq * b->examples, hd = (size_t)c->H * c->D, kd = (size_t)c->K * c->D;
    const size_t widest = EW_MAX(EW_MAX((size_t)c->F, hd), (size_t)c->C);
    parts p = {.e = &b->exec, .cfg = c, .m = b->model, .T = T};
    float **buf[] = {&p.x, &p.y, &p.u, &p.a, &p.q, &p.k, &p.v, &p.dout, &p.dq, &p.dk, &p.dv, &p.lse};
    const size_t n[] = {T * widest, T * widest, T * b->rank, widest * EW_MAX(b->rank, 64u) + T * 256,
                        T * hd,     T * kd,     T * kd,      T * EW_MAX(hd, (size_t)c->C),
                        T * hd,     T * kd,     T * kd,      T * (c->H + 1)};
    for (size_t i = 0; i < EW_COUNT(buf); i++) {
        *buf[i] = randoms(&rng, n[i]);
    }
    int32_t *target = ew_calloc(T, sizeof(*target));
    void *scratch = ew_aligned(ew_cross_entropy_scratch(ew_model_output(b->model), T));
    EW_ASSERT(target != NULL && scratch != NULL);
    PART("products-forward", each_linear(&p, 0, b->rank, b->all));
    PART("products-backward", each_linear(&p, 1, b->rank, b->all));
    PART("adapter-forward", each_linear(&p, 2, b->rank, b->all));
    PART("adapter-backward", each_linear(&p, 3, b->rank, b->all));
    PART("attention-forward", attention(&p, false, false));
    PART("attention-backward", attention(&p, true, false));
    PART("head", head(&p, target, scratch));
    PART("rows", row_work(&p));
    for (size_t i = 0; i < EW_COUNT(buf); i++) {
        ew_free(*buf[i]);
    }
    ew_free(target);
    ew_free(scratch);
}

static bool parse(int n, char **arg, bench *b)
{
    for (int i = 1; i < n; i++) {
        const char *a = arg[i], *v = i + 1 < n ? arg[i + 1] : "";
        if (a[0] != '-') {
            b->path = a;
        } else if (strcmp(a, "--optimizer8") == 0) {
            b->optimizer8 = true;
        } else if (strcmp(a, "--drop-pages") == 0) {
            b->drop = true;
        } else if (strcmp(a, "--parts") == 0) {
            b->parts = true;
        } else if (i + 1 == n) {
            return false;
        } else {
            i++;
            if (strcmp(a, "--linears") == 0) {
                b->all = strcmp(v, "all") == 0;
            } else if (strcmp(a, "--products") == 0) {
                b->products = strcmp(v, "bf16") == 0 ? EW_TUNE_PRODUCTS_BF16 : EW_TUNE_PRODUCTS_F32;
            } else if (strcmp(a, "--rung") == 0) {
                if (!ew_tune_rung_parse(v, &b->rung)) {
                    return false;
                }
            } else if (strcmp(a, "--isa") == 0) {
                b->isa = v;
            } else if (strcmp(a, "--answer") == 0) {
                b->answer = strtod(v, NULL);
            } else {
                uint32_t *to = strcmp(a, "--seq") == 0        ? &b->seq
                               : strcmp(a, "--examples") == 0 ? &b->examples
                               : strcmp(a, "--steps") == 0    ? &b->steps
                               : strcmp(a, "--limit") == 0    ? &b->limit
                               : strcmp(a, "--rank") == 0     ? &b->rank
                               : strcmp(a, "--threads") == 0  ? &b->threads
                                                              : NULL;
                if (to == NULL) {
                    return false;
                }
                *to = (uint32_t)strtoul(v, NULL, 10);
            }
        }
    }
    return b->path != NULL && b->seq > 1 && b->examples > 0 && b->steps > 0 && b->steps <= STEPS_MAX && b->rank > 0;
}

int main(int argc, char **argv)
{
    ew_error err = EW_ERROR_INIT;
    bench b = {.seq = 256, .examples = 1, .steps = 6, .rank = 8, .threads = 2, .answer = 1};
    if (!parse(argc, argv, &b)) {
        (void)fprintf(
            stderr, "usage: bench_train MODEL.gguf [--seq N] [--examples N] [--steps N] [--rank R] [--linears qv|all] "
                    "[--rung NAME] [--products f32|bf16] [--optimizer8] [--drop-pages] [--limit MIB] "
                    "[--threads N] [--isa NAME] [--answer SHARE] [--parts]\n");
        return 2;
    }
    ew_pool *pool = NULL;
    b.exec.kern = ew_kern_get(b.isa);
    ew_status st = b.exec.kern != NULL ? ew_pool_new(b.threads, &pool, &err) : ew_fail(&err, EW_EINVAL, "no such ISA");
    b.exec.pool = pool;
    st = st == EW_OK ? ew_model_open(b.path, &(ew_model_opt){.no_tokenizer = true}, &b.model, &err) : st;
    st = st == EW_OK ? tune(&b, &err) : st;
    if (st == EW_OK && b.parts) {
        b.exec.kern = b.products == EW_TUNE_PRODUCTS_BF16 ? ew_kern_bf16(b.exec.kern) : b.exec.kern;
        time_parts(&b);
    }
    if (st != EW_OK) {
        (void)fprintf(stderr, "bench_train: %s\n", err.msg);
    }
    ew_model_unref(&b.model);
    ew_pool_free(&pool);
    return ew_status_exit(st);
}

/* `edgewise train tune`: a LoRA adapter from one person's records. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/train.h"
#include "run/prompter.h"
#include "sys/proc.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/item.h"
#include "task/task.h"
#include "train/tune.h"

typedef struct tune_args {
    char *method, *model, *data, *val, *task, *out, *gguf, *init, *checkpoint, *targets;
    int64_t rank, epochs, max_steps, batch, seq_max, patience, eval_every, rag_k, seed, threads;
    double alpha, lr, weight_decay, max_seconds;
    uint64_t memory_limit;
    bool keep_activations, rslora, dry_run;
} tune_args;

/* Everything between the files and the trainer. */
typedef struct tune_data {
    ew_items items, val_items;
    ew_task *task;
    ew_prompter *prompter;
    ew_tokens tokens;
    ew_tune_example *example; /* [n_train + n_val] */
    size_t n_train, n_val;
} tune_data;

static void tune_data_release(tune_data *d)
{
    ew_prompter_free(&d->prompter);
    ew_task_free(&d->task);
    ew_items_release(&d->items);
    ew_items_release(&d->val_items);
    ew_tokens_release(&d->tokens);
    ew_free(d->example);
}

static const char *const examples =
    "  edgewise train tune --model models/deb-tiny.gguf --data me.jsonl --out me-adapter --max-seconds 2m\n"
    "  edgewise train tune --model tinyllama-q4_0.gguf --data me.jsonl --dry-run\n";

static int parse(int argc, char **argv, tune_args *a)
{
    const ew_cli_opt opts[] = {
        {"method", 0, "NAME", EW_CLI_STRING, &a->method, .help = "lora (the only one so far)"},
        {"model", 'm', "PATH", EW_CLI_STRING, &a->model, .help = "base: GGUF or directory"},
        {"data", 'd', "FILE", EW_CLI_STRING, &a->data, .help = "records (JSON Lines)"},
        {"val", 0, "FILE", EW_CLI_STRING, &a->val, .help = "validation records (default: a fifth of --data)"},
        {"task", 't', "NAME", EW_CLI_STRING, &a->task,
         .help = "debian-section, debian-synopsis, custom (default), custom-classify"},
        {"out", 'o', "DIR", EW_CLI_STRING, &a->out, .help = "adapter as PEFT directory"},
        {"gguf", 0, "FILE", EW_CLI_STRING, &a->gguf, .help = "adapter as GGUF"},
        {"init", 0, "PATH", EW_CLI_STRING, &a->init, .help = "adapter to start from"},
        {"checkpoint", 'c', "FILE", EW_CLI_STRING, &a->checkpoint, .help = "state to continue from (default: none)"},
        {"rank", 'r', "N", EW_CLI_I64, &a->rank, .help = "LoRA rank (8)", .min = 1, .max = EW_ADAPTER_RANK_MAX},
        {"alpha", 0, "X", EW_CLI_F64, &a->alpha, .help = "LoRA alpha (twice the rank)", .min = 1e-6, .max = 1e6},
        {"rslora", 0, NULL, EW_CLI_FLAG, &a->rslora, .help = "scale by the root of the rank"},
        {"targets", 0, "LIST", EW_CLI_STRING, &a->targets, .help = "q,k,v,o,gate,up,down (all)"},
        {"lr", 0, "X", EW_CLI_F64, &a->lr, .help = "learning rate (1e-3)", .min = 1e-9, .max = 1},
        {"weight-decay", 0, "X", EW_CLI_F64, &a->weight_decay, .help = "decoupled (0)", .min = 0, .max = 1},
        {"epochs", 'e', "N", EW_CLI_I64, &a->epochs, .help = "passes over the records (3)", .min = 1, .max = 10000},
        {"max-steps", 0, "N", EW_CLI_I64, &a->max_steps, .help = "instead of epochs", .min = 1, .max = 1e9},
        {"batch", 'b', "N", EW_CLI_I64, &a->batch, .help = "records per step (8)", .min = 1, .max = 65536},
        {"seq-max", 0, "N", EW_CLI_I64, &a->seq_max, .help = "longest prompt and answer, tokens (512)", .min = 16,
         .max = 65536},
        {"eval-every", 0, "N", EW_CLI_I64, &a->eval_every, .help = "steps between validations (an epoch)", .min = 1,
         .max = 1e9},
        {"patience", 0, "N", EW_CLI_I64, &a->patience, .help = "validations without gain before it stops (3)", .min = 1,
         .max = 1e9},
        {"rag-k", 'k', "N", EW_CLI_I64, &a->rag_k, .help = "retrieved records in each prompt (0)", .min = 0, .max = 8},
        {"max-seconds", 0, "TIME", EW_CLI_SECONDS, &a->max_seconds, .help = "wall time (90, 5m, 1h)"},
        {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &a->memory_limit, .help = "of the whole process (64M, 1.5G)"},
        {"keep-activations", 0, NULL, EW_CLI_FLAG, &a->keep_activations, .help = "faster, more memory"},
        {"dry-run", 'n', NULL, EW_CLI_FLAG, &a->dry_run, .help = "say what it would take and stop"},
        {"seed", 's', "N", EW_CLI_I64, &a->seed, .help = "of A and of the order (0)", .min = 0, .max = 9e15},
        {"threads", 'j', "N", EW_CLI_I64, &a->threads, .help = "default: all cores", .min = 1, .max = 256}};
    const ew_cli_spec spec = {"train tune",
                              "Fits a LoRA adapter over the weights as they are served. The loss counts answers alone; "
                              "the parameters that were best on the validation records are kept.",
                              examples,
                              opts,
                              EW_COUNT(opts),
                              NULL,
                              0};
    const int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    if (a->model == NULL || a->data == NULL || (a->out == NULL && a->gguf == NULL && !a->dry_run)) {
        fprintf(stderr, EW_CLI_PROG ": --model, --data and --out or --gguf are needed; see --help\n");
        return EW_CLI_USAGE;
    }
    if (a->method != NULL && strcmp(a->method, "lora") != 0) {
        fprintf(stderr, EW_CLI_PROG ": method '%s' is not known; lora is\n", a->method);
        return EW_CLI_USAGE;
    }
    return EW_CLI_GO;
}

static ew_status parse_targets(const char *list, uint32_t *ret, ew_error *reterr)
{
    static const char *const names[EW_LINEAR_COUNT] = {"q", "k", "v", "o", "gate", "up", "down"};
    uint32_t targets = 0;
    while (list != NULL && *list != '\0') {
        const size_t n = strcspn(list, ",");
        uint32_t found = 0;
        for (size_t i = 0; i < EW_COUNT(names); i++) {
            if (strlen(names[i]) == n && memcmp(names[i], list, n) == 0) {
                found = EW_ADAPTER_TARGET(i);
            }
        }
        if (found == 0) {
            return ew_fail(reterr, EW_EINVAL, "unknown target '%.*s'; known: q, k, v, o, gate, up, down", (int)n, list);
        }
        targets |= found;
        list += n + (list[n] == ',');
    }
    *ret = targets;
    return EW_OK;
}

static ew_status add_example(tune_data *d, const ew_item *item, ew_error *reterr)
{
    ew_tune_example *x = &d->example[d->n_train + d->n_val];
    const size_t start = d->tokens.n;
    EW_TRY(ew_prompter_prompt(d->prompter, item->input, item->order, &d->tokens, reterr));
    x->n_prompt = (uint32_t)(d->tokens.n - start);
    EW_TRY(ew_prompter_answer(d->prompter, item->output, &d->tokens, reterr));
    x->n_answer = (uint32_t)(d->tokens.n - start) - x->n_prompt;
    return EW_OK;
}

static ew_status load_data(const tune_args *a, const ew_model *m, tune_data *d, ew_error *reterr)
{
    EW_TRY(ew_items_read(a->data, &d->items, reterr));
    if (d->items.n == 0) {
        return ew_fail(reterr, EW_EINVAL, "%s holds no records", a->data);
    }
    size_t n_train = d->items.n, n_val = 0;
    const ew_item *val = NULL;
    if (a->val != NULL) {
        EW_TRY(ew_items_read(a->val, &d->val_items, reterr));
        val = d->val_items.item;
        n_val = d->val_items.n;
        for (size_t i = 0; i < n_val; i++) {
            d->val_items.item[i].order += d->items.n;
        }
    } else {
        (void)ew_split_user(d->items.item, d->items.n, EW_SPLIT_HASH);
        n_val = d->items.n >= 5 ? d->items.n / 5 : 0;
        n_train = d->items.n - n_val;
        val = d->items.item + n_train;
    }
    EW_TRY(ew_task_new(a->task != NULL ? a->task : "custom", d->items.item, n_train, &d->task, reterr));
    const uint32_t n_ctx = ew_model_config_of(m)->n_ctx_train;
    const ew_prompter_opt po = {.task = d->task,
                                .tokenizer = ew_model_tokenizer(m),
                                .seq_max_tok = a->seq_max > 0 ? (uint32_t)a->seq_max : EW_MIN(512u, n_ctx),
                                .rag_k = (uint32_t)a->rag_k};
    EW_TRY(ew_prompter_new(&po, a->rag_k > 0 ? d->items.item : NULL, a->rag_k > 0 ? n_train : 0, &d->prompter, reterr));
    d->example = ew_calloc(n_train + n_val, sizeof(*d->example));
    if (d->example == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu records", n_train + n_val);
    }
    for (size_t i = 0; i < n_train; i++, d->n_train++) {
        EW_TRY(add_example(d, &d->items.item[i], reterr));
    }
    for (size_t i = 0; i < n_val; i++, d->n_val++) {
        EW_TRY(add_example(d, &val[i], reterr));
    }
    for (size_t i = 0, at = 0; i < d->n_train + d->n_val; i++) { /* now that the array has stopped moving */
        d->example[i].id = d->tokens.id + at;
        at += d->example[i].n_prompt + d->example[i].n_answer;
    }
    return EW_OK;
}

static void print_plan(const ew_tune_memory_plan *p)
{
    char b[6][32];
    printf("peak memory %s: weights %s, activations %s, adapter %s, scratch %s, process %s (%llu bytes)\n",
           ew_str_bytes(b[0], sizeof(b[0]), p->total_bytes), ew_str_bytes(b[1], sizeof(b[1]), p->weights_bytes),
           ew_str_bytes(b[2], sizeof(b[2]), p->activ_bytes), ew_str_bytes(b[3], sizeof(b[3]), p->adapter_bytes),
           ew_str_bytes(b[4], sizeof(b[4]), p->scratch_bytes), ew_str_bytes(b[5], sizeof(b[5]), p->process_bytes),
           (unsigned long long)p->total_bytes);
}

static void print_report(const ew_tune_report *r)
{
    char s[3][32];
    ew_proc_mem mem = {0};
    (void)!ew_proc_mem_read(&mem, NULL);
    printf("step   train  validation (nats per answer token)\n");
    for (uint32_t i = 0; i < r->n_curve; i++) {
        printf("%5u  %6.4f  %6.4f%s\n", r->curve[i].step, (double)r->curve[i].train_loss, (double)r->curve[i].val_nll,
               r->curve[i].step == r->best_step ? "  kept" : "");
    }
    printf("%s after %u of %u steps: %llu tokens in %s (%.0f tok/s)\n", r->stop_reason, r->steps, r->steps_planned,
           (unsigned long long)r->tokens, ew_str_seconds(s[0], sizeof(s[0]), r->seconds), r->tok_per_s);
    if (r->skipped != 0 || r->truncated != 0) {
        printf("%u steps skipped (loss not finite), %llu records lost the front of their prompt\n", r->skipped,
               (unsigned long long)r->truncated);
    }
    printf("peak memory %s, predicted %s\n", ew_str_bytes(s[1], sizeof(s[1]), mem.rss_peak_bytes),
           ew_str_bytes(s[2], sizeof(s[2]), r->peak_ram_predicted_bytes));
}

static ew_status tune_opt_of(const tune_args *a, ew_model *m, const ew_adapter *init, const tune_data *d,
                             const ew_cli_compute *c, ew_tune_opt *ret, ew_error *reterr)
{
    uint32_t targets = 0;
    EW_TRY(parse_targets(a->targets, &targets, reterr));
    *ret = (ew_tune_opt){.model = m,
                         .exec = c->exec,
                         .adapter = {.rank = (uint32_t)a->rank,
                                  .alpha = (float)a->alpha,
                                  .targets = targets,
                                  .rslora = a->rslora,
                                  .seed = (uint64_t)a->seed},
                         .init = init,
                         .train = d->example,
                         .n_train = d->n_train,
                         .val = d->example + d->n_train,
                         .n_val = d->n_val,
                         .lr = (float)a->lr,
                         .weight_decay = (float)a->weight_decay,
                         .epochs = (uint32_t)a->epochs,
                         .max_steps = (uint32_t)a->max_steps,
                         .batch = (uint32_t)a->batch,
                         .seq_max = (uint32_t)a->seq_max,
                         .eval_every = (uint32_t)a->eval_every,
                         .patience = (uint32_t)a->patience,
                         .rung = a->keep_activations ? EW_TUNE_RUNG_KEEP : EW_TUNE_RUNG_AUTO,
                         .max_seconds = a->max_seconds,
                         .max_ram_bytes = a->memory_limit,
                         .seed = (uint64_t)a->seed,
                         .checkpoint = a->checkpoint};
    return EW_OK;
}

static ew_status tune(const tune_args *a, tune_data *d, const ew_cli_compute *c, const ew_progress *progress,
                      ew_error *reterr)
{
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) init = NULL;
    EW_AUTO(ew_adapter) lora = NULL;
    ew_tune_opt opt;
    EW_TRY(ew_model_open(a->model, NULL, &m, reterr));
    if (ew_model_tokenizer(m) == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", a->model);
    }
    EW_TRY(load_data(a, m, d, reterr));
    if (a->init != NULL) {
        EW_TRY(ew_adapter_load(a->init, m, &init, reterr));
    }
    EW_TRY(tune_opt_of(a, m, init, d, c, &opt, reterr));
    if (a->dry_run) {
        ew_tune_memory_plan plan;
        EW_TRY(ew_tune_memory(&opt, &plan, reterr));
        print_plan(&plan);
        return EW_OK;
    }
    opt.progress = *progress;
    ew_tune_report *r = ew_xcalloc(1, sizeof(*r));
    ew_status st = ew_tune(&opt, &lora, r, reterr);
    if (st == EW_OK) {
        print_report(r);
    }
    ew_free(r);
    EW_TRY(st);
    if (a->out != NULL) {
        EW_TRY(ew_adapter_save_peft(lora, m, a->out, reterr));
        printf("%s: PEFT adapter\n", a->out);
    }
    if (a->gguf != NULL) {
        EW_TRY(ew_adapter_save_gguf(lora, m, a->gguf, reterr));
        printf("%s: GGUF adapter\n", a->gguf);
    }
    return EW_OK;
}

int ew_cli_train_tune(int argc, char **argv, void *ctx)
{
    tune_args a = {0};
    const int status = parse(argc, argv, &a);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_COMPUTE c = {0};
    ew_term_progress *term = NULL;
    tune_data d = {0};
    ew_status st = ew_cli_compute_open(ctx, a.threads, NULL, &c, &err);
    if (st == EW_OK) {
        st = ew_term_progress_new(stderr, "tune", ew_signal_stop, &term);
    }
    if (st == EW_OK) {
        st = tune(&a, &d, &c, ew_term_progress_get(term), &err);
    }
    ew_term_progress_free(&term);
    tune_data_release(&d);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

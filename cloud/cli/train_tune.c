/* `edgewise train tune`: an adapter of any kind from one person's records. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/train.h"
#include "probe/learning.h"
#include "run/prompter.h"
#include "sys/proc.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/item.h"
#include "task/task.h"
#include "train/tune.h"

typedef struct tune_args {
    char *method, *model, *data, *val, *task, *out, *gguf, *merged, *init, *checkpoint, *targets, *rung, *products,
        *prompt_text;
    int64_t rank, n_virtual, width, exits, epochs, max_steps, batch, accumulate, seq_max, patience, eval_every, rag_k,
        optimizer_bits, mezo_directions, seed, threads;
    double alpha, dropout, lr, weight_decay, mezo_eps, max_seconds, max_joules, max_temperature;
    uint64_t memory_limit;
    bool keep_activations, rslora, dora, mezo_prefix, only_on_mains, dry_run;
    ew_method how; /* method, parsed */
} tune_args;

/* Everything between the files and the trainer. */
typedef struct tune_data {
    ew_items items, val_items;
    ew_task *task;
    ew_prompter *prompter;
    ew_tokens tokens;
    ew_tokens prompt_ids;     /* of --prompt-text */
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
    ew_tokens_release(&d->prompt_ids);
    ew_free(d->example);
}

static const char *const examples =
    "  edgewise train tune --model models/deb-tiny.gguf --data me.jsonl --out me-adapter --max-seconds 2m\n"
    "  edgewise train tune --method prefix --virtual 8 --model models/deb-tiny.gguf --data me.jsonl --out me-prefix\n"
    "  edgewise train tune --model tinyllama-q4_0.gguf --data me.jsonl --memory-limit 1.2G --dry-run\n";

static int check_args(tune_args *a)
{
    if (a->model == NULL || a->data == NULL ||
        (a->out == NULL && a->gguf == NULL && a->merged == NULL && !a->dry_run)) {
        fprintf(stderr, EW_CLI_PROG ": --model, --data and --out, --gguf or --merged are needed; see --help\n");
        return EW_CLI_USAGE;
    }
    a->how = a->method != NULL ? ew_method_from_name(a->method) : EW_METHOD_LORA;
    if (!ew_method_trains(a->how)) {
        fprintf(stderr,
                EW_CLI_PROG ": method '%s' does not train; those that do: lora, lora+rag, prompt, prefix, ia3, "
                            "bottleneck, full, mezo, blockwise\n",
                a->method);
        return EW_CLI_USAGE;
    }
    if (a->out != NULL &&
        (a->how == EW_METHOD_BOTTLENECK || a->how == EW_METHOD_FULL || a->how == EW_METHOD_BLOCKWISE)) {
        fprintf(stderr, EW_CLI_PROG ": PEFT has no directories for '%s'. HINT: --gguf FILE%s\n", a->method,
                a->how == EW_METHOD_FULL ? ", or --merged FILE for a model" : "");
        return EW_CLI_USAGE;
    }
    ew_tune_rung rung;
    if (a->rung != NULL && !ew_tune_rung_parse(a->rung, &rung)) {
        fprintf(stderr,
                EW_CLI_PROG ": '%s' is no rung; known: auto, keep, recompute, recompute-bf16, blockwise, mezo\n",
                a->rung);
        return EW_CLI_USAGE;
    }
    if (a->products != NULL && strcmp(a->products, "auto") != 0 && strcmp(a->products, "f32") != 0 &&
        strcmp(a->products, "bf16") != 0) {
        fprintf(stderr, EW_CLI_PROG ": products in '%s' are not known: auto, f32 or bf16\n", a->products);
        return EW_CLI_USAGE;
    }
    if (a->how == EW_METHOD_LORA_RAG && a->rag_k == 0) {
        a->rag_k = 2;
    }
    return EW_CLI_GO;
}

#define N(name, letter, field, lo, hi, text)                                                                           \
    {                                                                                                                  \
        name, letter, "N", EW_CLI_I64, &a->field, .help = text, .min = lo, .max = hi                                   \
    }
#define X(name, field, lo, hi, text)                                                                                   \
    {                                                                                                                  \
        name, 0, "X", EW_CLI_F64, &a->field, .help = text, .min = lo, .max = hi                                        \
    }
#define FLAG(name, letter, field, text)                                                                                \
    {                                                                                                                  \
        name, letter, NULL, EW_CLI_FLAG, &a->field, .help = text                                                       \
    }
#define WORD(name, letter, arg, field, text)                                                                           \
    {                                                                                                                  \
        name, letter, arg, EW_CLI_STRING, &a->field, .help = text                                                      \
    }

static int parse(int argc, char **argv, tune_args *a)
{
    const ew_cli_opt opts[] = {
        WORD("method", 0, "NAME", method,
             "lora (default), lora+rag, prompt, prefix, ia3, bottleneck, full, mezo, blockwise"),
        WORD("model", 'm', "PATH", model, "base: GGUF or directory"),
        WORD("data", 'd', "FILE", data, "records (JSON Lines)"),
        WORD("val", 0, "FILE", val, "validation records (default: a fifth of --data)"),
        WORD("task", 't', "NAME", task, "debian-section, …, custom (default), custom-classify"),
        WORD("out", 'o', "DIR", out, "adapter as PEFT directory"),
        WORD("gguf", 0, "FILE", gguf, "adapter as GGUF"),
        WORD("merged", 0, "FILE", merged, "the base with the adapter in its weights, as GGUF"),
        WORD("init", 0, "PATH", init, "adapter to start from"),
        WORD("checkpoint", 'c', "FILE", checkpoint, "state to continue from (default: none)"),
        N("rank", 'r', rank, 1, EW_ADAPTER_RANK_MAX, "LoRA rank (8)"),
        X("alpha", alpha, 1e-6, 1e6, "LoRA alpha (twice the rank)"),
        X("dropout", dropout, 0, 0.9, "of LoRA's input (0)"),
        FLAG("rslora", 0, rslora, "scale by the root of the rank"),
        FLAG("dora", 0, dora, "LoRA with magnitudes of its own"),
        WORD("targets", 0, "LIST", targets, "q,k,v,o,gate,up,down (lora: all; ia3: k,v,down)"),
        N("virtual", 0, n_virtual, 1, EW_ADAPTER_VIRTUAL_MAX, "positions of prompt and prefix (16)"),
        WORD("prompt-text", 0, "TEXT", prompt_text, "prompt: starts as the embeddings of this text"),
        N("width", 0, width, 1, EW_ADAPTER_RANK_MAX, "hidden units of a bottleneck (16)"),
        N("exits", 0, exits, 2, EW_ADAPTER_EXITS_MAX, "blocks of blockwise tuning (3)"),
        FLAG("mezo-prefix", 0, mezo_prefix, "mezo: of a prefix instead of LoRA"),
        X("mezo-eps", mezo_eps, 1e-9, 10, "mezo: half the distance of its two evaluations"),
        N("mezo-directions", 0, mezo_directions, 1, 64, "mezo: directions of a step (1)"),
        X("lr", lr, 1e-9, 1, "learning rate (the method's own)"),
        X("weight-decay", weight_decay, 0, 1, "decoupled (0)"),
        N("epochs", 'e', epochs, 1, 10000, "passes over the records (the method's own)"),
        N("max-steps", 0, max_steps, 1, 1e9, "instead of epochs"),
        N("batch", 'b', batch, 1, 65536, "records per step (8)"),
        N("accumulate", 0, accumulate, 1, 65536, "batches per step (1)"),
        N("seq-max", 0, seq_max, 16, 65536, "longest prompt and answer, tokens (512)"),
        N("eval-every", 0, eval_every, 1, 1e9, "steps between validations (an epoch)"),
        N("patience", 0, patience, 1, 1e9, "validations without gain before it stops (3)"),
        N("rag-k", 'k', rag_k, 0, 8, "retrieved records in each prompt (0; lora+rag 2)"),
        {"max-seconds", 0, "TIME", EW_CLI_SECONDS, &a->max_seconds, .help = "wall time (90, 5m, 1h)"},
        X("max-joules", max_joules, 1e-3, 1e12, "energy of the whole machine while it trains"),
        X("max-temperature", max_temperature, 1, 200, "°C of the hottest sensor"),
        FLAG("only-on-mains", 0, only_on_mains, "stop when the machine runs on its battery"),
        {"memory-limit", 0, "BYTES", EW_CLI_BYTES, &a->memory_limit, .help = "of the whole process (64M, 1.5G)"},
        WORD("rung", 0, "NAME", rung, "of the memory ladder: keep, recompute, recompute-bf16, blockwise, mezo (auto)"),
        WORD("products", 0, "NAME", products,
             "with the base's weights: f32 or bf16 (auto: bf16 over bases that are not F32)"),
        FLAG("keep-activations", 0, keep_activations, "the same as --rung keep"),
        N("optimizer-bits", 0, optimizer_bits, 8, 32, "of the moments: 8 or 32 (32)"),
        FLAG("dry-run", 'n', dry_run, "say what it would take and stop"),
        N("seed", 's', seed, 0, 9e15, "of what starts at random and of the order (0)"),
        N("threads", 'j', threads, 1, 256, "default: all cores")};
    const ew_cli_spec spec = {"train tune",
                              "Fits an adapter over the weights as they are served. The loss counts answers alone; "
                              "the parameters that were best on the validation records are kept.",
                              examples,
                              opts,
                              EW_COUNT(opts),
                              NULL,
                              0};
    const int status = ew_cli_parse(&spec, argc, argv);
    return status == EW_CLI_GO ? check_args(a) : status;
}

#undef N
#undef X
#undef FLAG
#undef WORD

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
    printf("peak memory %s with %s%s: weights %s, activations %s, adapter %s, scratch %s, process %s (%llu bytes)\n",
           ew_str_bytes(b[0], sizeof(b[0]), p->total_bytes), ew_tune_rung_name(p->rung),
           p->drop_pages ? ", pages given back" : "", ew_str_bytes(b[1], sizeof(b[1]), p->weights_bytes),
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
    if (r->checkpoints_failed != 0) {
        printf("%u checkpoints could not be written: %s\n", r->checkpoints_failed, r->checkpoint_error);
    }
    if (r->joules > 0) {
        printf("%.0f J%s\n", r->joules, r->joules_estimated ? " (estimated)" : "");
    }
    printf("peak memory %s, predicted %s with %s\n", ew_str_bytes(s[1], sizeof(s[1]), mem.rss_peak_bytes),
           ew_str_bytes(s[2], sizeof(s[2]), r->peak_ram_predicted_bytes), ew_tune_rung_name(r->rung));
}

static ew_status learning_of(const tune_args *a, const ew_model *m, tune_data *d, ew_learning *ret, ew_error *reterr)
{
    ew_settings s = {.rank = (uint32_t)a->rank,
                     .alpha = a->alpha,
                     .dropout = a->dropout,
                     .learning_rate = a->lr,
                     .epochs = (double)a->epochs,
                     .rslora = a->rslora,
                     .dora = a->dora,
                     .n_virtual = (uint32_t)a->n_virtual,
                     .width = (uint32_t)a->width,
                     .exits = (uint32_t)a->exits,
                     .mezo_prefix = a->mezo_prefix,
                     .optimizer_bits = (uint32_t)a->optimizer_bits};
    EW_TRY(parse_targets(a->targets, &s.targets, reterr));
    EW_TRY(ew_learning_of(a->how, &s, d->task->kind == EW_TASK_GENERATE, ew_model_config_of(m)->L, (uint64_t)a->seed,
                          ret, reterr));
    if (a->keep_activations && ret->rung == EW_TUNE_RUNG_AUTO) {
        ret->rung = EW_TUNE_RUNG_KEEP;
    }
    if (a->rung != NULL && !ew_tune_rung_parse(a->rung, &ret->rung)) {
        return ew_fail(reterr, EW_EINVAL, "'%s' is no rung", a->rung);
    }
    if (a->prompt_text != NULL && ret->adapter.kind == EW_ADAPTER_PROMPT) {
        EW_TRY(ew_tokenizer_encode(ew_model_tokenizer(m), a->prompt_text, strlen(a->prompt_text), 0, &d->prompt_ids,
                                   reterr));
        ret->adapter.init_ids = d->prompt_ids.id;
        ret->adapter.n_init_ids = (uint32_t)d->prompt_ids.n;
    }
    return EW_OK;
}

static ew_status tune_opt_of(const tune_args *a, ew_model *m, const ew_adapter *init, tune_data *d,
                             const ew_cli_compute *c, ew_tune_opt *ret, ew_error *reterr)
{
    ew_learning l;
    EW_TRY(learning_of(a, m, d, &l, reterr));
    *ret = (ew_tune_opt){.model = m,
                         .exec = c->exec,
                         .adapter = l.adapter,
                         .init = init,
                         .train = d->example,
                         .n_train = d->n_train,
                         .val = d->example + d->n_train,
                         .n_val = d->n_val,
                         .lr = l.lr,
                         .weight_decay = (float)a->weight_decay,
                         .optimizer_8bit = l.optimizer_8bit,
                         .mezo_eps = (float)a->mezo_eps,
                         .mezo_spsa = (uint32_t)a->mezo_directions,
                         .epochs = l.epochs,
                         .max_steps = (uint32_t)a->max_steps,
                         .batch = (uint32_t)a->batch,
                         .accumulate = (uint32_t)a->accumulate,
                         .seq_max = (uint32_t)a->seq_max,
                         .eval_every = (uint32_t)a->eval_every,
                         .patience = (uint32_t)a->patience,
                         .rung = l.rung,
                         .products = a->products == NULL || strcmp(a->products, "auto") == 0 ? EW_TUNE_PRODUCTS_AUTO
                                     : strcmp(a->products, "bf16") == 0                      ? EW_TUNE_PRODUCTS_BF16
                                                                                             : EW_TUNE_PRODUCTS_F32,
                         .max_seconds = a->max_seconds,
                         .max_joules = a->max_joules,
                         .max_temperature_c = a->max_temperature,
                         .only_on_mains = a->only_on_mains,
                         .max_ram_bytes = a->memory_limit,
                         .seed = (uint64_t)a->seed,
                         .checkpoint = a->checkpoint};
    return EW_OK;
}

static ew_status save(const tune_args *a, const ew_model *m, const ew_adapter *adapter, const ew_progress *progress,
                      ew_error *reterr)
{
    if (a->out != NULL) {
        EW_TRY(ew_adapter_save_peft(adapter, m, a->out, reterr));
        printf("%s: PEFT adapter\n", a->out);
    }
    if (a->gguf != NULL) {
        EW_TRY(ew_adapter_save_gguf(adapter, m, a->gguf, reterr));
        printf("%s: GGUF adapter\n", a->gguf);
    }
    if (a->merged != NULL) {
        const ew_adapter_merge_opt mo = {.progress = *progress};
        EW_TRY(ew_adapter_merge_gguf(adapter, m, a->merged, &mo, reterr));
        printf("%s: the base with the adapter in its weights\n", a->merged);
    }
    return EW_OK;
}

static ew_status tune(const tune_args *a, tune_data *d, const ew_cli_compute *c, const ew_progress *progress,
                      ew_error *reterr)
{
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_adapter) init = NULL;
    EW_AUTO(ew_adapter) adapter = NULL;
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
    ew_status st = ew_tune(&opt, &adapter, r, reterr);
    if (st == EW_OK) {
        print_report(r);
    }
    ew_free(r);
    EW_TRY(st);
    return save(a, m, adapter, progress, reterr);
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

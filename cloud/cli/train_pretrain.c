/* `edgewise train pretrain`: a house model from its recipe and a corpus. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/app.h"
#include "cli/train.h"
#include "model/model.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/debian.h"
#include "train/corpus.h"
#include "train/pretrain.h"

#define VAL_PER_TASK 200

const ew_cli_command ew_cli_train_commands[] = {
    {"pretrain", "--recipe FILE --data DIR --out FILE.gguf",
     "train a small model by its recipe, from scratch or grown from a smaller one", .run = ew_cli_train_pretrain},
    {"tune", "--model FILE --data FILE.jsonl --out DIR", "fit an adapter of any kind to one person's records",
     .run = ew_cli_train_tune},
    {"curve", "CSV [--out FILE.svg]", "draw the loss curve of a pre-training run", .run = ew_cli_train_curve},
};
const size_t ew_cli_n_train_commands = EW_COUNT(ew_cli_train_commands);

typedef struct pretrain_args {
    char *recipe, *data, *init, *out, *checkpoint, *curve;
    double max_minutes;
    int64_t tokens, threads;
} pretrain_args;

static const char *const examples =
    "  edgewise data debian --dir data\n"
    "  edgewise train pretrain --recipe models/deb-tiny.yaml --data data --out deb-tiny.gguf --max-minutes 30\n";

static int parse(int argc, char **argv, pretrain_args *a)
{
    const ew_cli_opt opts[] = {
        {"recipe", 'r', "FILE", EW_CLI_STRING, &a->recipe, .help = "what to train and how (YAML)"},
        {"data", 'd', "PATH", EW_CLI_STRING, &a->data,
         .help = "directory of `edgewise data debian`, or a text file or directory of *.txt"},
        {"init", 0, "FILE", EW_CLI_STRING, &a->init,
         .help = "start from this smaller model of the same vocabulary and depth, grown to the recipe's sizes"},
        {"out", 'o', "FILE", EW_CLI_STRING, &a->out, .help = "the model (GGUF F16)"},
        {"checkpoint", 0, "FILE", EW_CLI_STRING, &a->checkpoint, .help = "state to continue from (default: OUT.ckpt)"},
        {"curve", 0, "FILE", EW_CLI_STRING, &a->curve, .help = "loss curve as CSV (default: OUT.csv)"},
        {"max-minutes", 'm', "N", EW_CLI_F64, &a->max_minutes,
         .help = "wall time; the measured speed turns it into a number of tokens once", .min = 0.01, .max = 1e6},
        {"tokens", 0, "N", EW_CLI_I64, &a->tokens,
         .help = "number of tokens, of a run that goes on too (default: the recipe's)", .min = 1, .max = 1e15},
        {"threads", 't', "N", EW_CLI_I64, &a->threads, .help = "default: all cores", .min = 1, .max = 256}};
    const ew_cli_spec spec = {
        "train pretrain",
        "Trains vocabulary and weights from scratch. Killed at any moment and started again with the "
        "same options, it goes on where the last checkpoint is and ends with the same bytes.",
        examples,
        opts,
        EW_COUNT(opts),
        NULL,
        0};
    const int status = ew_cli_parse(&spec, argc, argv);
    if (status == EW_CLI_GO && (a->recipe == NULL || a->data == NULL || a->out == NULL)) {
        fprintf(stderr, EW_CLI_PROG ": --recipe, --data and --out are needed; see --help\n");
        return EW_CLI_USAGE;
    }
    return status;
}

static ew_status open_corpus(const char *path, const ew_pretrain_recipe *r, const ew_progress *progress,
                             ew_debian **debian, ew_vocab **vocab, ew_corpus **corpus, ew_error *reterr)
{
    char info[EW_PATH_MAX];
    EW_TRY(ew_path_join(info, sizeof(info), path, "info.json", reterr));
    if (ew_file_exists(info)) {
        EW_TRY(ew_debian_open(path, debian, reterr));
        EW_TRY(ew_corpus_vocab(*debian, r, progress, vocab, reterr));
        return ew_corpus_new(*debian, r, *vocab, VAL_PER_TASK, progress, corpus, reterr);
    }
    EW_TRY(ew_corpus_vocab_files(path, r, progress, vocab, reterr));
    return ew_corpus_new_files(path, r, *vocab, corpus, reterr);
}

static ew_status pretrain(const pretrain_args *a, const ew_cli_compute *c, const ew_progress *progress,
                          ew_error *reterr)
{
    EW_AUTO(ew_pretrain_recipe) recipe = NULL;
    EW_AUTO(ew_debian) debian = NULL;
    EW_AUTO(ew_vocab) vocab = NULL;
    EW_AUTO(ew_corpus) corpus = NULL;
    EW_AUTO(ew_model) init = NULL;
    EW_AUTO_BUF checkpoint = {0};
    EW_AUTO_BUF curve = {0};
    ew_buf_addf(&checkpoint, a->checkpoint != NULL ? "%s" : "%s.ckpt", a->checkpoint != NULL ? a->checkpoint : a->out);
    ew_buf_addf(&curve, a->curve != NULL ? "%s" : "%s.csv", a->curve != NULL ? a->curve : a->out);
    EW_TRY(ew_buf_check(&checkpoint, reterr));
    EW_TRY(ew_buf_check(&curve, reterr));
    EW_TRY(ew_pretrain_recipe_load(a->recipe, &recipe, reterr));
    if (a->init != NULL) {
        EW_TRY(ew_model_open(a->init, NULL, &init, reterr));
    }
    EW_TRY(open_corpus(a->data, recipe, progress, &debian, &vocab, &corpus, reterr));
    const ew_pretrain_opt opt = {.recipe = recipe,
                                 .exec = c->exec,
                                 .vocab = vocab,
                                 .init = init,
                                 .train = ew_corpus_train(corpus),
                                 .val = ew_corpus_val(corpus),
                                 .checkpoint = ew_buf_str(&checkpoint),
                                 .curve_csv = ew_buf_str(&curve),
                                 .out_gguf = a->out,
                                 .max_minutes = a->max_minutes,
                                 .tokens = (uint64_t)a->tokens,
                                 .progress = *progress};
    ew_pretrain_report r = {0};
    EW_TRY(ew_pretrain(&opt, &r, reterr));
    char seconds[32];
    printf("%s: %llu parameters, %llu steps, %llu tokens in %s (%.0f tok/s), loss %.4f, held-out answers %.4f "
           "nats/token\n",
           a->out, (unsigned long long)r.n_params, (unsigned long long)r.steps, (unsigned long long)r.tokens,
           ew_str_seconds(seconds, sizeof(seconds), r.seconds), r.tok_per_s, (double)r.loss, (double)r.val_loss);
    return EW_OK;
}

int ew_cli_train_pretrain(int argc, char **argv, void *ctx)
{
    pretrain_args a = {0};
    const int status = parse(argc, argv, &a);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_COMPUTE c = {0};
    ew_status st = ew_cli_compute_open(ctx, a.threads, NULL, &c, &err);
    ew_term_progress *term = NULL;
    if (st == EW_OK) {
        st = ew_term_progress_new(stderr, "pretrain", ew_signal_stop, &term);
    }
    if (st == EW_OK) {
        st = pretrain(&a, &c, ew_term_progress_get(term), &err);
    }
    ew_term_progress_free(&term);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}
